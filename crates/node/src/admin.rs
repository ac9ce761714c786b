//! Health and metrics, on a separate address: `/healthz`, `/readyz`, `/metrics`.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use model::fence;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::fill::{FILLS_MAX, PASSING_MAX};
use crate::knowing::Membership;
use crate::listener::Front;
use crate::metrics::Page;
use crate::network::Internet;
use crate::pins::PINS_MAX;
use crate::pipeline::Pipeline;
use crate::prefetch::Prefetch;
use crate::sweep::Sweeper;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;

/// Longest wait for the head of a request, also on an idle connection.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// The parts of the node that the pages show.
pub(crate) struct Admin {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) internet: Internet,
    pub(crate) prefetch: Arc<Prefetch>,
    pub(crate) sweeper: Arc<Sweeper>,
    pub(crate) connected: Arc<AtomicBool>,
    pub(crate) front: Arc<Front>,
}

/// Answers until `stopping`.
pub(crate) async fn serve(
    listener: TcpListener,
    admin: Arc<Admin>,
    stopping: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (stream, permit) = tokio::select! {
            accepted = async {
                let permit = room.clone().acquire_owned().await;
                (listener.accept().await, permit)
            } => match accepted {
                (Ok((stream, _)), Ok(permit)) => (stream, permit),
                _ => continue,
            },
            () = stopping.cancelled() => return Ok(()),
        };
        let (admin, stopping) = (admin.clone(), stopping.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request: Request<Incoming>| {
                let answer = admin.answer(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = stopping.cancelled() => {}
            }
        });
    }
}

impl Admin {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            _ if method != Method::GET && method != Method::HEAD => {
                (StatusCode::METHOD_NOT_ALLOWED, "expected GET\n".to_owned())
            }
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.ready(),
            "/metrics" => (StatusCode::OK, self.metrics()),
            _ => (StatusCode::NOT_FOUND, "expected /healthz, /readyz or /metrics\n".to_owned()),
        };
        let mut answer = Response::new(Full::from(text));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
        answer
    }

    fn ready(&self) -> (StatusCode, String) {
        if self.front.draining.is_cancelled() {
            return (StatusCode::SERVICE_UNAVAILABLE, "on its way out\n".to_owned());
        }
        let knowing = self.pipeline.knowing();
        if knowing.is_ready() {
            return (StatusCode::OK, "ready\n".to_owned());
        }
        let why = match &knowing.known().membership {
            Membership::Joining => "not joined yet".to_owned(),
            Membership::Refused { reason } => format!("refused: {reason}"),
            Membership::Member => "no contact with the control plane within the lease".to_owned(),
        };
        (StatusCode::SERVICE_UNAVAILABLE, why + "\n")
    }

    fn metrics(&self) -> String {
        let knowing = self.pipeline.knowing();
        let metrics = self.pipeline.metrics();
        let store = self.pipeline.store().stats();
        let mut page = Page::default();

        metrics.show(&mut page);
        page.gauge("connections_max", "Maximum of connections", self.front.connections_max);
        page.gauge("draining", "1 while the node drains", u8::from(self.front.draining.is_cancelled()));
        if let Some(log) = &self.front.log {
            page.counter("access_log_lines_total", "Lines accepted for the access log", log.lines());
            page.counter(
                "access_log_dropped_total",
                "Lines of the access log that were dropped because the file was too slow or failed",
                log.dropped(),
            );
        }
        let (fills, for_users) = self.pipeline.fills().counts();
        page.gauge("fills_running", "Fetches running", fills);
        page.gauge("fills_running_for_users", "Fetches running that a user started", for_users);
        page.gauge("fills_max", "Maximum of fetches running", FILLS_MAX);
        page.gauge("passing", "Requests that bypass the store", self.pipeline.fills().passing());
        page.gauge("passing_max", "Maximum of requests that bypass the store", PASSING_MAX);
        self.pipeline.fills().upstream().show(&mut page);
        self.pipeline.figures().show(&mut page);
        self.internet.show(&mut page);
        page.gauge("vouched_bodies", "Bodies whose last vouching is remembered", self.pipeline.fills().vouched.len());

        page.gauge(
            "link_connected",
            "1 while the node follows the control plane",
            u8::from(self.connected.load(Ordering::SeqCst)),
        );
        page.gauge("ready", "1 while the node is a member within its lease", u8::from(knowing.is_ready()));
        page.gauge("applied_revision", "Last log revision that the node applied", knowing.applied());
        page.gauge("floor_revision", "Last log revision whose entries may be forgotten", knowing.index().floor());
        let kinds = knowing.index().kinds();
        page.gauge("index_scopes", "Scopes in the index of invalidations", knowing.index().len());
        page.gauges(
            "index_scopes_live",
            "Scopes in the index of invalidations, by kind",
            &kinds.map(|(kind, live)| (kind, live as u64)),
        );
        page.gauge(
            "index_oldest_revision",
            "Oldest revision that the index can contain",
            knowing.index().floor().next(),
        );
        let (answers, answers_max) = knowing.index().answers();
        page.gauge("index_regex_answers", "Keys whose regex matches are cached", answers);
        page.gauge("index_regex_answers_max", "Maximum of keys whose regex matches are cached", answers_max);
        page.gauge("index_scopes_max", "Number of scopes from which the oldest are retired", crate::link::RETIRE_ABOVE);
        if let Some(contact) = knowing.contact() {
            let age = fence::ceil_millis(knowing.clock().moment().since(contact));
            page.gauge(
                "contact_age_milliseconds",
                "Time since the node last knew that it had applied the head of the log",
                age,
            );
        }
        let (waiting, running, unsent) = self.prefetch.counts();
        page.gauge("jobs_waiting", "Prefetch jobs that have not begun", waiting);
        page.gauge("jobs_running", "Prefetch jobs under way", running);
        page.gauge("jobs_unreported", "Prefetch reports that were not sent yet", unsent);
        page.gauge(
            "jobs_max",
            "Maximum of waiting and running jobs and unsent reports together",
            model::prefetch::JOBS_PER_NODE_MAX,
        );
        page.counter("jobs_done_total", "Prefetch jobs done", metrics.jobs_done.get());
        page.counter("jobs_failed_total", "Prefetch jobs failed", metrics.jobs_failed.get());
        page.counter(
            "jobs_put_off_total",
            "Prefetch jobs handed back because their origin must not be asked for now",
            metrics.jobs_put_off.get(),
        );

        let sweeper = &self.sweeper;
        page.gauge(
            "swept_revision",
            "Last revision of which everything that it deletes was swept from the store",
            sweeper.upto(),
        );
        page.gauge("sweeps_running", "Sweeps under way", u8::from(sweeper.is_running()));
        page.gauge("sweep_files_waiting", "Files that wait to be swept", sweeper.waiting());
        page.gauge(
            "sweep_files_waiting_max",
            "Number of waiting files from which one pass sweeps all of them",
            crate::sweep::FILES_MAX,
        );
        page.counter("sweep_passes_total", "Passes over the whole store", sweeper.passes.get());
        page.counter("swept_objects_total", "Objects that sweeps removed from the store", sweeper.objects.get());
        page.counter("swept_bytes_total", "Bytes of bodies that sweeps removed from the store", sweeper.bytes.get());

        page.gauge("store_objects", "Objects stored", store.objects);
        page.gauge("store_disk_bytes", "Bytes that segments take on disk", store.disk_bytes);
        page.gauge("store_disk_capacity_bytes", "Bytes that segments may take on disk", store.disk_capacity_bytes);
        let held = "Bytes of evicted segments that are still being read";
        page.gauge("store_held_bytes", held, store.held_bytes);
        page.gauge(
            "store_held_bytes_max",
            "Maximum of bytes in evicted segments that are still being read",
            store.held_bytes_max,
        );
        let taken_back = "Segments taken back from readers that held too much of the disk";
        page.counter("store_taken_back_segments_total", taken_back, store.taken_back_segments);
        page.gauge("store_memory_bytes", "Bytes in the memory tier", store.memory_bytes);
        page.gauge("store_memory_capacity_bytes", "Capacity of the memory tier in bytes", store.memory_capacity_bytes);
        page.gauge(
            "store_buffered_bytes",
            "Bytes of bodies in memory, including those in use by readers and writers",
            store.buffered_bytes,
        );
        page.gauge("store_buffered_bytes_max", "Bound of the bytes of bodies in memory", store.buffered_bytes_max);
        page.gauge("store_in_flight_bytes", "Bytes waiting to be written to disk", store.in_flight_bytes);
        page.gauge(
            "store_in_flight_bytes_max",
            "Maximum of bytes waiting to be written to disk",
            store.in_flight_bytes_max,
        );
        page.gauge("store_reserved_bytes", "Bytes of memory reserved for running fetches", store.reserved_bytes);
        page.gauge(
            "store_reserved_bytes_max",
            "Maximum of bytes of memory reserved for running fetches",
            store.reserved_bytes_max,
        );
        page.counter("store_memory_hits_total", "Lookups answered from memory", store.memory_hits);
        page.counter("store_disk_hits_total", "Lookups answered from disk", store.disk_hits);
        page.counter("store_misses_total", "Lookups that found nothing", store.misses);
        page.counter("store_commits_total", "Objects committed", store.commits);
        page.counter("store_syncs_total", "Syncs of the disks", store.syncs);
        page.counter("store_evicted_objects_total", "Objects evicted", store.evicted_objects);
        let sifted = "Segments rewritten with only the requested objects";
        page.counter("store_sifted_segments_total", sifted, store.sifted_segments);
        let kept = "Objects kept at eviction because they were requested";
        page.counter("store_kept_objects_total", kept, store.kept_objects);
        page.gauge("store_pinned_objects", "Pinned objects", store.pinned_objects);
        page.gauge("store_pinned_bytes", "Bytes that pinned objects take of the disks", store.pinned_bytes);
        page.gauge("store_pinned_bytes_max", "Maximum of bytes that pinned objects may take", store.pinned_bytes_max);
        let lost = "Pinned objects that could not be kept";
        page.counter("store_pins_lost_total", lost, store.pins_lost);
        page.gauge("pins", "Pins that are remembered", self.pipeline.pins().count());
        page.gauge("pins_max", "Maximum of pins that are remembered", PINS_MAX);
        page.gauge("store_disks_out", "Disks out of service until the next start", store.disks_out);
        page.counter("store_read_errors_total", "Reads that failed", store.read_errors);
        page.counter("store_write_errors_total", "Writes that failed", store.write_errors);
        page.finish()
    }
}
