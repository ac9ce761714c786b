//! The limiter on the page of metrics.

use tokio::time::Instant;

use super::line::WAITING_MAX;
use super::{Limiter, ORIGINS_MAX};
use crate::metrics::Page;

impl Limiter {
    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        let now = Instant::now();
        let origins = self.origins();
        let (mut users, mut prefetches, mut waiting, mut closed, mut lent, mut felt) = (0, 0, 0, 0, 0, 0);
        for origin in origins.values() {
            let state = origin.state();
            users += state.users;
            prefetches += state.prefetches;
            waiting += origin.line.len();
            closed += usize::from(state.is_closed(now));
            let lease = state.allotment.lease(now);
            lent += usize::from(lease.is_some());
            felt += usize::from(lease.is_some_and(|lease| lease.feels));
        }
        let (capped, waiting_for_caps) = self.caps.counts();
        page.gauge("origin_users_running", "Requests to origins under way that users caused or wait for", users);
        page.gauge(
            "origin_prefetches_running",
            "Requests to origins under way that only prefetches wait for",
            prefetches,
        );
        page.gauge("origin_prefetches_waiting", "Prefetches that wait for their turn at an origin", waiting);
        page.gauge("origin_prefetches_waiting_max", "Maximum of waiting prefetches for each origin", WAITING_MAX);
        page.gauge(
            "origins_closed",
            "Origins that receive no prefetch requests because they fail or sent Retry-After",
            closed,
        );
        page.gauge("origins_known", "Origins whose pace is known", origins.len());
        page.gauge("origins_known_max", "Maximum of origins whose pace is known", ORIGINS_MAX);
        page.gauge("origins_lent", "Origins of which this node has a share", lent);
        page.gauge("origins_felt", "Origins whose pace this node measures for all nodes", felt);
        page.gauge("prefetch_limit_running", "Prefetches under way within limits of their domains", capped);
        page.gauge("prefetch_limit_waiting", "Prefetches that wait for their domain's limit", waiting_for_caps);
        page.counter("origin_waited_total", "Prefetches that had to wait for their turn", self.waited.get());
        page.counter(
            "origin_full_total",
            "Prefetches postponed because the queue for the origin was full or too slow",
            self.full.get(),
        );
        page.counter(
            "origin_closed_total",
            "Prefetches postponed because no request may be sent to the origin for now",
            self.closed.get(),
        );
        page.counter(
            "origin_revalidations_put_off_total",
            "Background validations not begun because the origin is closed or busy with users",
            self.not_confirmed.get(),
        );
        page.counter("origin_retries_total", "Requests of prefetches that repeat a failed request", self.again.get());
        page.counter(
            "origin_retries_put_off_total",
            "Retries of prefetches that were postponed because there were too many",
            self.not_again.get(),
        );
    }
}
