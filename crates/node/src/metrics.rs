//! The counters of a node, and the page that shows them.
//!
//! Counters are atomics, added to where the work is done; values that can be queried (queue lengths, the store, the
//! link) are read when the page is.
//!
//! A request adds to some twenty numbers, on whichever core it is. Each number is therefore kept in [`SHARDS`] pieces
//! on cache lines of their own; a thread adds to its piece, and the page sums them. Two cores that count hits do not
//! wait for each other.

use std::cell::Cell;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;

use crate::functions::reply::GZIPS_MAX;
use crate::streams::WAITING_BYTES_MAX;

/// Pieces of a number. More threads than that share pieces, which costs time but loses no counts.
pub(crate) const SHARDS: usize = 8;

/// The piece of the calling thread.
pub(crate) fn shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        mine.get()
    })
}

/// A piece of a number, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Piece(AtomicU64);

/// The result of an answer, as `X-Cache` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XCache {
    /// A node's store answered.
    Hit,
    /// The origin was asked.
    Miss,
    /// A stored body that is no longer fresh, sent by permission of its origin.
    Stale,
    /// The origin confirmed the stored body.
    Revalidated,
    /// The request went past the stores.
    Bypass,
}

impl XCache {
    /// All of them, in their order.
    pub(crate) const ALL: [XCache; 5] = [XCache::Hit, XCache::Miss, XCache::Stale, XCache::Revalidated, XCache::Bypass];

    /// The word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            XCache::Hit => "HIT",
            XCache::Miss => "MISS",
            XCache::Stale => "STALE",
            XCache::Revalidated => "REVALIDATED",
            XCache::Bypass => "BYPASS",
        }
    }

    /// Reads the word at the front of a parent's header.
    pub(crate) fn of(header: &str) -> Option<XCache> {
        let word = header.split(' ').next().unwrap_or_default();
        XCache::ALL.into_iter().find(|result| result.word() == word)
    }
}

/// One number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter([Piece; SHARDS]);

impl Counter {
    /// Adds one.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Adds.
    pub(crate) fn add(&self, by: u64) {
        self.0[shard()].0.fetch_add(by, Ordering::Relaxed);
    }

    /// The sum so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|piece| piece.0.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// A number that rises and falls with its holders.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more while the returned value lives.
    pub(crate) fn hold(self: &std::sync::Arc<Self>) -> Held {
        self.0.fetch_add(1, Ordering::SeqCst);
        Held(self.clone(), 1)
    }

    /// The same, unless there are `max` already.
    pub(crate) fn hold_below(self: &std::sync::Arc<Self>, max: u64) -> Option<Held> {
        self.hold_some_below(1, max)
    }

    /// Counts `some` more while the returned value lives, unless there would be more than `max`.
    pub(crate) fn hold_some_below(self: &std::sync::Arc<Self>, some: u64, max: u64) -> Option<Held> {
        let room = |held: u64| held.checked_add(some).filter(|held| *held <= max);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, room).ok().map(|_| Held(self.clone(), some))
    }

    /// How many there are.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Those a [`Gauge`] counts for one holder, and how many they are.
#[derive(Debug)]
pub(crate) struct Held(std::sync::Arc<Gauge>, u64);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}

/// Upper bounds of the buckets of a [`Histogram`], in microseconds: from a hit in memory to an origin that gives up.
const BUCKETS_MICROS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000, 60_000_000,
];

/// A distribution of durations.
#[derive(Debug, Default)]
pub(crate) struct Histogram([Durations; SHARDS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Durations {
    /// Durations within each bound and above the bound before it; the last are above all bounds.
    buckets: [AtomicU64; BUCKETS_MICROS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let durations = &self.0[shard()];
        durations.buckets[BUCKETS_MICROS.partition_point(|bound| *bound < micros)].fetch_add(1, Ordering::Relaxed);
        durations.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The count of each bucket, not cumulative, and the sum of all durations in microseconds.
    fn read(&self) -> ([u64; BUCKETS_MICROS.len() + 1], u64) {
        let mut buckets = [0; BUCKETS_MICROS.len() + 1];
        let mut micros = 0_u64;
        for durations in &self.0 {
            for (sum, bucket) in buckets.iter_mut().zip(&durations.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            micros = micros.wrapping_add(durations.micros.load(Ordering::Relaxed));
        }
        (buckets, micros)
    }
}

/// The results that `X-Cache` names, and one more for answers that a node made because it had none.
const RESULTS: [(&str, Option<XCache>); 6] = [
    ("result=\"hit\"", Some(XCache::Hit)),
    ("result=\"miss\"", Some(XCache::Miss)),
    ("result=\"stale\"", Some(XCache::Stale)),
    ("result=\"revalidated\"", Some(XCache::Revalidated)),
    ("result=\"bypass\"", Some(XCache::Bypass)),
    ("result=\"error\"", None),
];

fn result_at(result: Option<XCache>) -> usize {
    result.map_or(5, |result| result as usize)
}

/// Why somebody was turned away, or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There were as many connections as there may be.
    Connections,
    /// There were as many fetches as there may be.
    Fetches,
    /// Not a valid HTTP request, or one that others might read differently.
    Malformed,
    /// A head or a URL of more bytes or fields than there may be.
    TooLarge,
    /// The head of a request did not come in time.
    SlowHead,
    /// The body of a request did not come in time.
    SlowBody,
    /// The client did not take its answer in time.
    SlowRead,
    /// Too many HTTP/2 frames that ask for nothing.
    Flood,
    /// The store has no room in memory: for a client that reads nothing, or for a body that is not in memory.
    Memory,
    /// The HTTP/2 streams that wait hold as much memory as they may.
    Streams,
}

const REFUSALS: [(&str, Refusal); 10] = [
    ("reason=\"connections\"", Refusal::Connections),
    ("reason=\"fetches\"", Refusal::Fetches),
    ("reason=\"malformed\"", Refusal::Malformed),
    ("reason=\"too_large\"", Refusal::TooLarge),
    ("reason=\"slow_head\"", Refusal::SlowHead),
    ("reason=\"slow_body\"", Refusal::SlowBody),
    ("reason=\"slow_read\"", Refusal::SlowRead),
    ("reason=\"flood\"", Refusal::Flood),
    ("reason=\"memory\"", Refusal::Memory),
    ("reason=\"streams\"", Refusal::Streams),
];

/// Everything a node counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answers to users and children, by the result in `X-Cache`.
    answers: [Counter; RESULTS.len()],
    /// The same by the first digit of the status.
    classes: [Counter; 5],
    /// From the request until the head of its answer was ready to send, by result.
    first_byte: [Histogram; RESULTS.len()],
    /// From the request until its answer was handed to the connection or given up, by result.
    whole: [Histogram; RESULTS.len()],
    refusals: [Counter; REFUSALS.len()],
    /// Connections taken.
    pub(crate) accepted: Counter,
    /// Bytes of bodies handed to connections.
    pub(crate) bytes_sent: Counter,
    /// Those of them that came from this node's store.
    pub(crate) bytes_stored: Counter,
    /// Bytes of bodies that came from parents and origins.
    pub(crate) bytes_fetched: Counter,
    /// Fetches of objects that asked a parent or an origin.
    pub(crate) fetches: Counter,
    /// Bodies that were stored.
    pub(crate) stored: Counter,
    /// Fetches that were continued by range after a break.
    pub(crate) resumed: Counter,
    /// Pauses before the rest of a body was asked for again, because it could not be had.
    pub(crate) resume_pauses: Counter,
    pub(crate) slices_stored: Counter,
    /// Fetches whose answer was overtaken by an invalidation before its header was sent.
    pub(crate) overtaken: Counter,
    /// Prefetch jobs done.
    pub(crate) jobs_done: Counter,
    /// Prefetch jobs that failed.
    pub(crate) jobs_failed: Counter,
    pub(crate) jobs_put_off: Counter,
    /// Requests being answered for users and children; on HTTP/2 each is a stream.
    pub(crate) requests_running: std::sync::Arc<Gauge>,
    /// Connections of users and children.
    pub(crate) connections: std::sync::Arc<Gauge>,
    /// Handshakes of users.
    pub(crate) handshakes: crate::tls::Handshakes,
    /// Interim answers passed on, and those that were dropped.
    pub(crate) interims: Counter,
    pub(crate) interims_dropped: Counter,
    /// Hits that were answered below hyper.
    pub(crate) hot: Counter,
    /// Connections that speak HTTP/2.
    pub(crate) connections_h2: std::sync::Arc<Gauge>,
    /// Bytes that the streams of HTTP/2 take that wait.
    pub(crate) streams_waiting_bytes: std::sync::Arc<Gauge>,
    /// Connections whose socket takes no more, because the client does not read.
    pub(crate) connections_stalled: std::sync::Arc<Gauge>,
    /// Bodies that are compressed on their way.
    pub(crate) gzips: std::sync::Arc<Gauge>,
}

impl Metrics {
    /// Counts an answer whose head is ready to send; no result when this node made it because it had none.
    pub(crate) fn answered(&self, result: Option<XCache>, status: StatusCode, took: Duration) {
        self.answers[result_at(result)].inc();
        if let Some(class) = self.classes.get(usize::from(status.as_u16() / 100).wrapping_sub(1)) {
            class.inc();
        }
        self.first_byte[result_at(result)].observe(took);
    }

    /// Counts an answer that is over.
    pub(crate) fn ended(&self, result: Option<XCache>, took: Duration) {
        self.whole[result_at(result)].observe(took);
    }

    /// Counts somebody who was turned away.
    pub(crate) fn refused(&self, why: Refusal) {
        self.refusals[why as usize].inc();
    }

    /// How often that happened.
    #[cfg(test)]
    pub(crate) fn refusals(&self, why: Refusal) -> u64 {
        self.refusals[why as usize].get()
    }

    /// Puts the numbers about answers on the page.
    pub(crate) fn show(&self, page: &mut Page) {
        self.handshakes.show(page);
        page.counter(
            "hot_hits_total",
            "Plain hits from memory, answered before the request was taken apart",
            self.hot.get(),
        );
        let answers = RESULTS.map(|(label, result)| (label, self.answers[result_at(result)].get()));
        page.counters("requests_total", "Answers by the result in X-Cache", &answers);
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| format!("class=\"{class}\""));
        let classes: Vec<_> =
            classes.iter().zip(&self.classes).map(|(label, count)| (label.as_str(), count.get())).collect();
        page.counters("responses_total", "Answers by status class", &classes);
        let histograms =
            |of: &[Histogram; RESULTS.len()]| RESULTS.map(|(label, result)| (label, of[result_at(result)].read()));
        page.histograms(
            "first_byte_seconds",
            "Time from a request until the head of its answer was ready to send",
            &histograms(&self.first_byte),
        );
        page.histograms(
            "request_seconds",
            "Time from a request until its answer was handed to the connection or aborted",
            &histograms(&self.whole),
        );
        page.gauge(
            "requests_running",
            "Requests being answered; on HTTP/2 each is a stream",
            self.requests_running.get(),
        );
        page.gauge("connections", "Connections of users and children", self.connections.get());
        page.gauge("connections_h2", "Connections that use HTTP/2", self.connections_h2.get());
        page.gauge(
            "streams_waiting_bytes",
            "Memory of the HTTP/2 streams that wait for an answer or for their client",
            self.streams_waiting_bytes.get(),
        );
        page.gauge("streams_waiting_bytes_max", "The most that they may take", WAITING_BYTES_MAX);
        page.gauge(
            "connections_stalled",
            "Connections whose client does not read data that is ready",
            self.connections_stalled.get(),
        );
        page.gauge("gzips", "Bodies being compressed", self.gzips.get());
        page.gauge("gzips_max", "Maximum of bodies being compressed; further bodies are sent uncompressed", GZIPS_MAX);
        page.counter("connections_total", "Connections accepted", self.accepted.get());
        let refusals = REFUSALS.map(|(label, why)| (label, self.refusals[why as usize].get()));
        page.counters("refused_total", "Requests and connections refused or aborted, by reason", &refusals);
        page.counter("sent_bytes_total", "Bytes of bodies handed to connections", self.bytes_sent.get());
        page.counter(
            "sent_stored_bytes_total",
            "Bytes of bodies handed to connections that came from the store",
            self.bytes_stored.get(),
        );
        page.counter("fetched_bytes_total", "Bytes of bodies from parents and origins", self.bytes_fetched.get());
        page.counter("fetches_total", "Objects requested from parents and origins", self.fetches.get());
        page.counter("interims_total", "Interim answers forwarded", self.interims.get());
        page.counter(
            "interims_dropped_total",
            "Interim answers that were too late, too many or too large",
            self.interims_dropped.get(),
        );
        page.counter("stored_total", "Bodies stored", self.stored.get());
        page.counter("slices_stored_total", "Slices of large objects that were stored", self.slices_stored.get());
        page.counter(
            "resumed_total",
            "Fetches continued with a range request after an interruption",
            self.resumed.get(),
        );
        page.counter(
            "resume_pauses_total",
            "Pauses before the rest of a body was requested again",
            self.resume_pauses.get(),
        );
        page.counter("overtaken_total", "Answers overtaken by an invalidation", self.overtaken.get());
    }
}

/// A page of metrics while it is written.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    /// A number that rises and falls.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, help, "gauge", &[("", value)]);
    }

    /// A number that only rises.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, help, "counter", &[("", value)]);
    }

    /// Several numbers of one name; each comes with its label, such as `result="hit"`.
    pub(crate) fn counters(&mut self, name: &str, help: &str, values: &[(&str, u64)]) {
        self.metric(name, help, "counter", values);
    }

    /// The same for numbers that rise and fall.
    pub(crate) fn gauges(&mut self, name: &str, help: &str, values: &[(&str, u64)]) {
        self.metric(name, help, "gauge", values);
    }

    /// Several histograms of one name.
    fn histograms(&mut self, name: &str, help: &str, of: &[(&str, ([u64; BUCKETS_MICROS.len() + 1], u64))]) {
        self.head(name, help, "histogram");
        for (label, (buckets, micros)) in of {
            let mut count = 0;
            for (at, bucket) in buckets.iter().enumerate() {
                count += bucket;
                let bound = BUCKETS_MICROS.get(at).map_or("+Inf".to_owned(), |bound| (*bound as f64 / 1e6).to_string());
                let _ = writeln!(self.0, "warmfront_node_{name}_bucket{{{label},le=\"{bound}\"}} {count}");
            }
            let sum = *micros as f64 / 1e6;
            let _ = writeln!(self.0, "warmfront_node_{name}_sum{{{label}}} {sum}");
            let _ = writeln!(self.0, "warmfront_node_{name}_count{{{label}}} {count}");
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP warmfront_node_{name} {help}\n# TYPE warmfront_node_{name} {kind}");
    }

    fn metric(&mut self, name: &str, help: &str, kind: &str, values: &[(&str, impl Display)]) {
        self.head(name, help, kind);
        for (label, value) in values {
            let _ = match *label {
                "" => writeln!(self.0, "warmfront_node_{name} {value}"),
                label => writeln!(self.0, "warmfront_node_{name}{{{label}}} {value}"),
            };
        }
    }

    /// The text.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_are_summed() {
        let counter = Counter::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| (0..1000).for_each(|_| counter.inc()));
            }
        });
        assert_eq!(counter.get(), 2000 * SHARDS as u64);
    }

    #[test]
    fn histogram_counts_up_to_and_including_each_bound() {
        let metrics = Metrics::default();
        for micros in [0, 100, 101, 250, 60_000_000, 60_000_001] {
            metrics.answered(Some(XCache::Hit), StatusCode::OK, Duration::from_micros(micros));
        }
        let mut page = Page::default();
        metrics.show(&mut page);
        let text = page.finish();
        for line in [
            "requests_total{result=\"hit\"} 6",
            "responses_total{class=\"2xx\"} 6",
            "first_byte_seconds_bucket{result=\"hit\",le=\"0.0001\"} 2",
            "first_byte_seconds_bucket{result=\"hit\",le=\"0.00025\"} 4",
            "first_byte_seconds_bucket{result=\"hit\",le=\"60\"} 5",
            "first_byte_seconds_bucket{result=\"hit\",le=\"+Inf\"} 6",
            "first_byte_seconds_sum{result=\"hit\"} 120.000452",
            "first_byte_seconds_count{result=\"hit\"} 6",
            "first_byte_seconds_count{result=\"error\"} 0",
        ] {
            assert!(text.contains(&format!("\nwarmfront_node_{line}\n")), "{line} in {text}");
        }
    }

    #[test]
    fn every_label_stands_where_its_number_is_counted() {
        for (at, (_, result)) in RESULTS.iter().enumerate() {
            assert_eq!(result_at(*result), at);
        }
        for (at, (_, why)) in REFUSALS.iter().enumerate() {
            assert_eq!(*why as usize, at);
        }
    }
}
