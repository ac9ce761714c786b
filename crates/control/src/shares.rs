//! Shares of origins that several nodes use: each node says what it wants of an origin and is lent a share, so that the
//! sum of all shares holds.
//!
//! Rows lie in the database, so control planes share them as nodes do. Messages that arrive within a moment are
//! answered in one transaction. A silent node keeps its share until its lease is over, which takes only the node's
//! clock and ours to judge: if this process has not seen a share renewed for longer than a lease, it is over on the
//! node, whose lease began before we heard of it.
//!
//! # What always holds
//!
//! - A node is answered only once its share is in the database.
//! - A share is passed on only after the node confirmed a smaller one, or its lease is over (`model::share`).
//! - News that an origin is to be left alone is told before anything is written, to every node that asked for any share
//!   over a connection to this process. Nodes of another process hear it with their next answer.
//!
//! # Not here
//!
//! The arithmetic (`model::share`); what an origin can bear, which one of the nodes measures.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::link::{self, BadMessage, Closed, SHARE_LEASE, SHARE_NAME_BYTES_MAX, SHARES_MAX, Shared, from_control};
use model::share::{Row, Total};
use model::{Clock, Knowledge, NodeName};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::known::{Following, Known};
use crate::state::{State, millis};

/// Messages waiting to be answered; a node whose message finds no room sends another one later.
const WAITING_MAX: usize = 1024;

/// How long the first message of a transaction waits for others.
const GATHER: Duration = Duration::from_millis(10);

/// Messages in one transaction.
const BATCH_MAX: usize = 16;

/// When a silent node's share is over: a tenth of the lease is added because clocks run at different speeds.
const OVER_AFTER: Duration = SHARE_LEASE.saturating_add(Duration::from_secs(1));

/// How long observations of a row that nobody asks for are kept: longer than any lease that was observed.
const SEEN_KEPT: Duration = Duration::from_secs(60);

/// If there is not enough for all nodes, others come first after this time.
const TURN_MS: u64 = 10_000;

/// Lends shares. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shares {
    waiting: mpsc::Sender<Waiting>,
    asking: Arc<Mutex<BTreeMap<NodeName, Tell>>>,
    counters: Arc<Counters>,
}

/// Sends a message to a node if its queue has room; returns false once its session is over.
type Tell = Arc<dyn Fn(from_control::Is) -> bool + Send + Sync>;

/// What is counted about shares.
#[derive(Default)]
pub(crate) struct Counters {
    /// Shares that were lent or renewed.
    pub(crate) lent: AtomicU64,
    /// Shares that ended because a node fell silent.
    pub(crate) over: AtomicU64,
    /// Messages for which there was no room, or no database.
    pub(crate) unanswered: AtomicU64,
    /// Nodes told at once that an origin is to be left alone.
    pub(crate) closings: AtomicU64,
}

struct Waiting {
    node: NodeName,
    wants: link::Wants,
    tell: Tell,
}

impl Shares {
    /// Starts lending, until `stopping` is cancelled.
    pub(crate) fn start(
        state: State,
        following: Following,
        clock: Arc<dyn Clock>,
        stopping: CancellationToken,
    ) -> Shares {
        let (waiting, come) = mpsc::channel(WAITING_MAX);
        let counters = Arc::new(Counters::default());
        let lender = Lender { state, following, clock, counters: counters.clone(), seen: HashMap::new() };
        tokio::spawn(async move {
            stopping.run_until_cancelled(lender.run(come)).await;
        });
        Shares { waiting, asking: Arc::default(), counters }
    }

    fn asking(&self) -> MutexGuard<'_, BTreeMap<NodeName, Tell>> {
        self.asking.lock().expect("no holder of this lock can panic")
    }

    /// Takes a node's wants. The node is sent its shares and, from now on, news from origins that other nodes report.
    pub(crate) fn take(&self, node: &NodeName, wants: link::Wants, tell: Tell) -> Result<(), BadMessage> {
        if wants.wants.len() > SHARES_MAX {
            return Err(BadMessage { field: "wants: too many" });
        }
        for want in &wants.wants {
            if Shared::try_from(want.shared).is_err() {
                return Err(BadMessage { field: "shared" });
            }
            if want.name.is_empty() || want.name.len() > SHARE_NAME_BYTES_MAX {
                return Err(BadMessage { field: "name" });
            }
            // A row that holds such a number could not be read again.
            if !want.limit.is_finite() || want.limit < 0.0 {
                return Err(BadMessage { field: "limit" });
            }
        }
        self.asking().insert(node.clone(), tell.clone());
        for want in wants.wants.iter().filter(|want| want.closed_ms > 0) {
            self.close(node, want);
        }
        let waiting = Waiting { node: node.clone(), wants, tell };
        if self.waiting.try_send(waiting).is_err() {
            self.counters.unanswered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tells every node except the one that the origin itself told.
    fn close(&self, node: &NodeName, want: &link::Want) {
        let closed = Closed { name: want.name.clone(), closed_ms: want.closed_ms };
        self.asking().retain(|other, tell| {
            if other == node {
                return true;
            }
            self.counters.closings.fetch_add(1, Ordering::Relaxed);
            tell(from_control::Is::Closed(closed.clone()))
        });
    }

    /// The counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

struct Lender {
    state: State,
    following: Following,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    /// By row and node: the node's count of renewals, and since when this process has seen that count.
    seen: HashMap<String, BTreeMap<NodeName, (u64, Instant)>>,
}

impl Lender {
    async fn run(mut self, mut come: mpsc::Receiver<Waiting>) {
        while let Some(first) = come.recv().await {
            tokio::time::sleep(GATHER).await;
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(next) = come.try_recv()
            {
                batch.push(next);
            }
            let (known, now_ms) = (self.following.now(), millis(self.clock.now()));
            let names: BTreeSet<String> =
                batch.iter().flat_map(|waiting| &waiting.wants.wants).filter_map(row_name).collect();
            let state = self.state.clone();
            let lending = |rows: &mut BTreeMap<String, Row>| self.lend(rows, &batch, &known, now_ms);
            match state.change_shares(names, now_ms, lending).await {
                Ok(answers) => {
                    for (waiting, shares) in batch.into_iter().zip(answers) {
                        self.counters.lent.fetch_add(shares.len() as u64, Ordering::Relaxed);
                        let sequence = waiting.wants.sequence;
                        (waiting.tell)(from_control::Is::Shares(link::Shares { sequence, shares }));
                    }
                }
                Err(error) => {
                    self.counters.unanswered.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    tracing::warn!(error = &error as &dyn std::error::Error, "shares of origins could not be lent");
                }
            }
        }
    }

    /// Answers messages in their order.
    fn lend(
        &mut self,
        rows: &mut BTreeMap<String, Row>,
        batch: &[Waiting],
        known: &Known,
        now_ms: u64,
    ) -> Vec<Vec<link::Share>> {
        let now = Instant::now();
        self.seen.retain(|_, nodes| nodes.values().any(|(_, since)| now.saturating_duration_since(*since) < SEEN_KEPT));
        for (name, row) in rows.iter_mut() {
            self.take_out_the_silent(name, row, now);
        }
        let mut answers = Vec::with_capacity(batch.len());
        for Waiting { node, wants, .. } in batch {
            let shares = wants.wants.iter().filter_map(|want| {
                let row = rows.get_mut(&row_name(want)?)?;
                let grant = row.step(node, &want.into(), total(want, &known.knowledge), now_ms / TURN_MS, now_ms);
                Some(grant.of(want))
            });
            answers.push(shares.collect());
        }
        answers
    }

    /// Removes nodes from a row that have not renewed for longer than a lease.
    fn take_out_the_silent(&mut self, name: &str, row: &mut Row, now: Instant) {
        let seen = self.seen.entry(name.to_owned()).or_default();
        seen.retain(|node, _| row.nodes().any(|(there, _)| there == node));
        let mut silent = Vec::new();
        for (node, renewed) in row.nodes() {
            let (last, since) = seen.entry(node.clone()).or_insert((renewed, now));
            if *last != renewed {
                (*last, *since) = (renewed, now);
            } else if now.saturating_duration_since(*since) >= OVER_AFTER {
                silent.push(node.clone());
            }
        }
        for node in silent {
            row.remove(&node);
            self.counters.over.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The name of the row for a want.
fn row_name(want: &link::Want) -> Option<String> {
    let kind = match Shared::try_from(want.shared).ok()? {
        Shared::Origin => "origin",
        Shared::Places => "places",
        Shared::Rate => "rate",
    };
    Some(format!("{kind} {}", want.name))
}

/// How much there is to share.
fn total(want: &link::Want, knowledge: &Knowledge) -> Total {
    let limit = knowledge.domain(&want.name).map(|domain| domain.functions.rules().prefetch);
    let set = match Shared::try_from(want.shared) {
        Ok(Shared::Places) => limit.and_then(|limit| limit.concurrency),
        Ok(Shared::Rate) => {
            limit.and_then(|limit| limit.bytes_per_second).map(|rate| rate / model::functions::RATE_UNIT)
        }
        Ok(Shared::Origin) | Err(_) => return Total::Felt,
    };
    // The node may have heard of a change before this process did.
    Total::Set(set.unwrap_or(want.limit.clamp(1.0, 1e15) as u64))
}

#[cfg(test)]
mod tests {
    use model::{Entry, Function, Functions};

    use super::*;
    use crate::testing::domain;

    #[test]
    fn total_of_a_domain_is_its_own_though_another_serves_names_like_it() {
        let mut knowledge = Knowledge::default();
        for (name, places) in [(".example.com", "9"), (".a.example.com", "4"), ("b.example.com", "2")] {
            let args = vec![("concurrency".to_owned(), places.to_owned())];
            let function = Function { id: 1, name: "prefetch_limit".to_owned(), args, parent: None };
            knowledge
                .apply(&Entry::Domain(model::Domain { functions: Functions::new(vec![function]), ..domain(name) }));
        }
        let cases = [(".example.com", 9), (".a.example.com", 4), ("b.example.com", 2), (".gone.example.com", 7)];
        for (name, expected) in cases {
            let shared = Shared::Places.into();
            let want = link::Want { shared, name: name.to_owned(), limit: 7.0, ..link::Want::default() };
            assert_eq!(total(&want, &knowledge), Total::Set(expected), "{name}");
        }
    }
}
