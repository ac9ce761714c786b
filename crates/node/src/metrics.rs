//! What a node counts, and the page that shows it.
//!
//! Counters are atomics that whoever does the work adds to; what can be asked for (queue lengths, the store, the link) is read when
//! the page is. The page is the Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// What `X-Cache` says of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XCache {
    /// A node's store answered.
    Hit,
    /// The origin was asked.
    Miss,
    /// A stored body that is no longer fresh, sent by permission of its origin.
    Stale,
    /// The origin confirmed what is stored.
    Revalidated,
    /// The request went past the stores.
    Bypass,
}

impl XCache {
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
        [XCache::Hit, XCache::Miss, XCache::Stale, XCache::Revalidated, XCache::Bypass]
            .into_iter()
            .find(|result| result.word() == word)
    }
}

/// One number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    /// Adds.
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The sum so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls with what holds it.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more while the returned value lives.
    pub(crate) fn hold(self: &std::sync::Arc<Self>) -> Held {
        self.0.fetch_add(1, Ordering::SeqCst);
        Held(self.clone())
    }

    /// How many there are.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// One of those a [`Gauge`] counts.
#[derive(Debug)]
pub(crate) struct Held(std::sync::Arc<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Everything a node counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answers to users and children, by what `X-Cache` says.
    pub(crate) hits: Counter,
    /// See `hits`.
    pub(crate) misses: Counter,
    /// See `hits`.
    pub(crate) stales: Counter,
    /// See `hits`.
    pub(crate) revalidated: Counter,
    /// See `hits`.
    pub(crate) bypassed: Counter,
    /// Answers that a node made because it had none.
    pub(crate) errors: Counter,
    /// Bytes of bodies handed to connections.
    pub(crate) bytes_sent: Counter,
    /// Bytes of bodies that came from parents and origins.
    pub(crate) bytes_fetched: Counter,
    /// Requests sent to parents and origins for objects.
    pub(crate) fetches: Counter,
    /// Bodies that were stored.
    pub(crate) stored: Counter,
    /// Fetches that were continued by range after a break.
    pub(crate) resumed: Counter,
    pub(crate) slices_stored: Counter,
    /// Fetches whose answer was overtaken by an invalidation before its header was sent.
    pub(crate) overtaken: Counter,
    /// Requests that were turned away because a bound was reached.
    pub(crate) refused: Counter,
    /// Prefetch jobs done.
    pub(crate) jobs_done: Counter,
    /// Prefetch jobs that failed.
    pub(crate) jobs_failed: Counter,
    /// Requests being answered for users and children.
    pub(crate) requests_running: std::sync::Arc<Gauge>,
    /// Connections of users and children.
    pub(crate) connections: std::sync::Arc<Gauge>,
}

impl Metrics {
    /// Counts one answer.
    pub(crate) fn answered(&self, result: XCache) {
        match result {
            XCache::Hit => self.hits.inc(),
            XCache::Miss => self.misses.inc(),
            XCache::Stale => self.stales.inc(),
            XCache::Revalidated => self.revalidated.inc(),
            XCache::Bypass => self.bypassed.inc(),
        }
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

    fn metric(&mut self, name: &str, help: &str, kind: &str, values: &[(&str, impl Display)]) {
        let _ = writeln!(self.0, "# HELP warmfront_node_{name} {help}\n# TYPE warmfront_node_{name} {kind}");
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
