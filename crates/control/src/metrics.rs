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
        ("warmfront_api_requests_refused_total", "Requests answered with a client error.", load(&requests.refused)),
        ("warmfront_api_requests_failed_total", "Requests answered with a server error.", load(&requests.failed)),
        ("warmfront_api_requests_open", "Requests under way.", requests_open as u64),
        ("warmfront_api_requests_open_max", "Most requests that may be under way.", OPEN_MAX as u64),
        ("warmfront_api_bodies_reading", "Bodies of requests that are on their way in.", bodies_reading as u64),
        ("warmfront_api_bodies_reading_max", "Most request bodies that may be on their way in.", READING_MAX as u64),
        ("warmfront_api_connections", "Connections of clients.", connections.count() as u64),
        ("warmfront_api_connections_max", "Most client connections that may be open.", connections.most() as u64),
        (
            "warmfront_api_connections_refused_total",
            "Client connections closed at once because there were too many in all or from one address.",
            connections.refused(),
        ),
        ("warmfront_submissions_total", "Submissions committed.", load(&accepted.accepted)),
        ("warmfront_submission_commits_total", "Transactions that committed submissions.", load(&accepted.commits)),
        ("warmfront_submissions_waiting", "Submissions waiting to be written.", accepting.waiting() as u64),
        ("warmfront_submissions_waiting_max", "Most submissions that may wait.", WAITING_MAX as u64),
        (
            "warmfront_audit_records",
            "Records of the audit log when old ones were last deleted.",
            load(&accepted.records),
        ),
        ("warmfront_audit_records_max", "Most records that are kept.", ROWS_MAX),
        (
            "warmfront_audit_records_forgotten_total",
            "Records deleted because of their age or number.",
            load(&accepted.records_forgotten),
        ),
        (
            "warmfront_audit_left_out_total",
            "Refused or ended calls without a record of their outcome in the audit log.",
            load(&accepted.left_out),
        ),
        ("warmfront_prefetch_urls_open", "URLs of prefetches that have not ended.", load(&accepted.open_urls)),
        ("warmfront_prefetch_urls_open_max", "Most URLs that may be open.", OPEN_URLS_MAX),
        ("warmfront_prefetch_jobs_loaded", "Jobs of prefetches held in memory.", load(&jobs.loaded)),
        ("warmfront_prefetch_jobs_loaded_max", "Approximate maximum of jobs held in memory.", LOADED_JOBS_MAX as u64),
        ("warmfront_prefetch_jobs_leased", "Jobs leased to nodes.", load(&jobs.leased)),
        ("warmfront_prefetch_jobs_leased_max", "Most jobs that may be leased.", (JOBS_PER_NODE_MAX * connected) as u64),
        ("warmfront_prefetch_jobs_resident_total", "Jobs that ended resident.", load(&jobs.resident)),
        ("warmfront_prefetch_jobs_failed_total", "Jobs that failed for good.", load(&jobs.failed)),
        ("warmfront_prefetch_jobs_retried_total", "Jobs given out again.", load(&jobs.retried)),
        ("warmfront_log_head", "Head of the log.", known.head.0),
        ("warmfront_nodes_connected", "Nodes connected.", connected as u64),
        ("warmfront_link_strangers", "Link streams whose node is not admitted yet.", link.strangers() as u64),
        (
            "warmfront_link_strangers_max",
            "Most link streams that may be open without an admitted node.",
            STRANGERS_MAX as u64,
        ),
        (
            "warmfront_link_connections_unadmitted",
            "Connections to the link on which no node is admitted yet.",
            link_connections.count() as u64,
        ),
        (
            "warmfront_link_connections_unadmitted_max",
            "Most link connections that may be open without an admitted node.",
            link_connections.most() as u64,
        ),
        (
            "warmfront_link_connections_refused_total",
            "Link connections closed at once because there were too many in all or from one address.",
            link_connections.refused(),
        ),
        ("warmfront_swept_amounts_waiting", "Swept amounts waiting to be stored.", swept_waiting as u64),
        (
            "warmfront_swept_amounts_waiting_max",
            "Most swept amounts that may wait; the oldest are dropped.",
            swept_max as u64,
        ),
        ("warmfront_figures_reports_total", "Reports of nodes' figures stored.", load(&counted.taken)),
        (
            "warmfront_figures_reports_repeated_total",
            "Reports that were already stored and were ignored.",
            load(&counted.again),
        ),
        (
            "warmfront_figures_reports_put_off_total",
            "Reports rejected for lack of room; nodes send them again.",
            load(&counted.put_off),
        ),
        (
            "warmfront_figures_left_out_total",
            "Minutes and URL lists in reports that were dropped because their domain is gone or their time is not kept.",
            load(&counted.left_out),
        ),
        ("warmfront_shares_lent_total", "Shares of origins lent to nodes or renewed.", load(&shares.lent)),
        ("warmfront_shares_over_total", "Shares that expired because a node went silent.", load(&shares.over)),
        (
            "warmfront_shares_closings_total",
            "Times that a node was told at once not to ask an origin.",
            load(&shares.closings),
        ),
        (
            "warmfront_shares_unanswered_total",
            "Messages about shares left unanswered for lack of room or database; nodes send new ones.",
            load(&shares.unanswered),
        ),
        ("warmfront_figures_reports_waiting", "Reports waiting to be stored.", figures.waiting() as u64),
        ("warmfront_figures_reports_waiting_max", "Most reports that may wait.", crate::figures::WAITING_MAX as u64),
    ];
    let mut text = String::new();
    for (name, help, value) in rows {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    text
}
