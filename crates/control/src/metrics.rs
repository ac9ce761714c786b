//! The control plane's metrics, in the Prometheus text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use model::prefetch::JOBS_PER_NODE_MAX;

use crate::api::OPEN_MAX;
use crate::api::bodies::READING_MAX;
use crate::known::Following;
use crate::link::{Link, STRANGERS_MAX};
use crate::scheduler::{LOADED_JOBS_MAX, Scheduler};
use crate::state::audit::ROWS_MAX;
use crate::state::submit::{Accepting, OPEN_URLS_MAX, WAITING_MAX};
use crate::strangers::Strangers;

/// API requests, counted by outcome.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) ok: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// The API as it is now.
pub(crate) struct Door<'a> {
    pub(crate) requests: &'a Requests,
    /// How many requests are processed.
    pub(crate) open: usize,
    /// How many bodies are read.
    pub(crate) reading: usize,
    pub(crate) connections: &'a Strangers,
}

/// All metrics as text.
pub(crate) fn render(
    door: Door<'_>,
    accepting: &Accepting,
    scheduler: &Scheduler,
    following: &Following,
    link: &Link,
) -> String {
    let Door { requests, open: requests_open, reading: bodies_reading, connections } = door;
    let link_connections = link.connections();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let known = following.now();
    let connected = link.connected();
    let accepted = accepting.counters();
    let jobs = scheduler.counters();
    let (swept_waiting, swept_max) = link.acknowledged().swept_waiting();
    let figures = link.collector();
    let shares = link.shares().counters();
    let counted = figures.counters();
    let rows: [(&str, &str, u64); 46] = [
        ("warmfront_api_requests_ok_total", "Requests answered with success.", load(&requests.ok)),
        (
            "warmfront_api_requests_refused_total",
            "Requests answered with an error of the caller's.",
            load(&requests.refused),
        ),
        ("warmfront_api_requests_failed_total", "Requests answered with an error of ours.", load(&requests.failed)),
        ("warmfront_api_requests_open", "Requests under way.", requests_open as u64),
        ("warmfront_api_requests_open_max", "Most requests that may be under way.", OPEN_MAX as u64),
        ("warmfront_api_bodies_reading", "Bodies of requests that are on their way in.", bodies_reading as u64),
        ("warmfront_api_bodies_reading_max", "Most that may be.", READING_MAX as u64),
        ("warmfront_api_connections", "Connections of clients.", connections.count() as u64),
        ("warmfront_api_connections_max", "Most that may be open.", connections.most() as u64),
        (
            "warmfront_api_connections_refused_total",
            "Connections closed at once, because all or those of one address were too many.",
            connections.refused(),
        ),
        ("warmfront_submissions_total", "Submissions committed.", load(&accepted.accepted)),
        ("warmfront_submission_commits_total", "Transactions they took.", load(&accepted.commits)),
        ("warmfront_submissions_waiting", "Submissions waiting to be written.", accepting.waiting() as u64),
        ("warmfront_submissions_waiting_max", "Most submissions that may wait.", WAITING_MAX as u64),
        (
            "warmfront_audit_records",
            "Records of the audit log, as of the last time that old ones were forgotten.",
            load(&accepted.records),
        ),
        ("warmfront_audit_records_max", "Most records that are kept.", ROWS_MAX),
        (
            "warmfront_audit_records_forgotten_total",
            "Records forgotten for their age or their number.",
            load(&accepted.records_forgotten),
        ),
        (
            "warmfront_audit_left_out_total",
            "Calls that were refused or ended and are not in the audit log as such.",
            load(&accepted.left_out),
        ),
        ("warmfront_prefetch_urls_open", "URLs of prefetches that have not ended.", load(&accepted.open_urls)),
        ("warmfront_prefetch_urls_open_max", "Most URLs that may be open.", OPEN_URLS_MAX),
        ("warmfront_prefetch_jobs_loaded", "Jobs of prefetches held in memory.", load(&jobs.loaded)),
        ("warmfront_prefetch_jobs_loaded_max", "About how many may be held in memory.", LOADED_JOBS_MAX as u64),
        ("warmfront_prefetch_jobs_leased", "Jobs leased to nodes.", load(&jobs.leased)),
        ("warmfront_prefetch_jobs_leased_max", "Most jobs that may be leased.", (JOBS_PER_NODE_MAX * connected) as u64),
        ("warmfront_prefetch_jobs_resident_total", "Jobs that ended resident.", load(&jobs.resident)),
        ("warmfront_prefetch_jobs_failed_total", "Jobs that failed for good.", load(&jobs.failed)),
        ("warmfront_prefetch_jobs_retried_total", "Jobs given out again.", load(&jobs.retried)),
        ("warmfront_log_head", "Head of the log.", known.head.0),
        ("warmfront_nodes_connected", "Nodes connected.", connected as u64),
        ("warmfront_link_strangers", "Streams of those who are not admitted yet.", link.strangers() as u64),
        ("warmfront_link_strangers_max", "Most that may be open.", STRANGERS_MAX as u64),
        (
            "warmfront_link_connections_unadmitted",
            "Connections to the link on which no node is admitted yet.",
            link_connections.count() as u64,
        ),
        ("warmfront_link_connections_unadmitted_max", "Most that may be open.", link_connections.most() as u64),
        (
            "warmfront_link_connections_refused_total",
            "Connections to the link closed at once, because all or those of one address were too many.",
            link_connections.refused(),
        ),
        ("warmfront_swept_amounts_waiting", "Amounts swept that wait to be written down.", swept_waiting as u64),
        ("warmfront_swept_amounts_waiting_max", "Most that may wait; the oldest are left out.", swept_max as u64),
        ("warmfront_figures_reports_total", "Reports of nodes' figures written down.", load(&counted.taken)),
        (
            "warmfront_figures_reports_repeated_total",
            "Reports that had been written down before, and were left out.",
            load(&counted.again),
        ),
        (
            "warmfront_figures_reports_put_off_total",
            "Reports for which there was no room; nodes send them again.",
            load(&counted.put_off),
        ),
        (
            "warmfront_figures_left_out_total",
            "Minutes and lists of URLs in reports that were nobody's any more, or of no time that is kept.",
            load(&counted.left_out),
        ),
        ("warmfront_shares_lent_total", "Shares of origins lent to nodes, or renewed.", load(&shares.lent)),
        ("warmfront_shares_over_total", "Shares that ended because a node fell silent.", load(&shares.over)),
        (
            "warmfront_shares_closings_total",
            "Times that a node was told at once that an origin is to be left alone.",
            load(&shares.closings),
        ),
        (
            "warmfront_shares_unanswered_total",
            "Messages about shares for which there was no room, or no database; nodes send others.",
            load(&shares.unanswered),
        ),
        ("warmfront_figures_reports_waiting", "Reports waiting to be written down.", figures.waiting() as u64),
        ("warmfront_figures_reports_waiting_max", "Most reports that may wait.", crate::figures::WAITING_MAX as u64),
    ];
    let mut text = String::new();
    for (name, help, value) in rows {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    text
}
