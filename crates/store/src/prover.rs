//! Reads for proofs of residency: heads, with the body's only slice where it lies beside them, from the medium of one disk.
//!
//! Objects that became durable together lie together and are proved together: a read of its own for each of many small ones
//! would cost more than fetching it did. While some are read, the next gather.
//!
//! # What always holds
//!
//! - At most [`WAITING_MAX`] wait; further ones wait for room.
//! - Only what was asked for is looked at: what lies between is read along and dropped.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};

use crate::ReadError;
use crate::index::Place;
use crate::object::Entry;
use crate::tier::{Segment, Source, Tier};

/// Proofs that wait.
const WAITING_MAX: usize = 1024;

/// Proofs read at a time.
const BATCH_MAX: usize = 256;

/// The longest read, in bytes, but for a head that is longer by itself.
const READ_BYTES_MAX: u32 = 256 << 10;

/// What is read along between two of them at most, in bytes.
const GAP_MAX: u32 = 64 << 10;

/// Reads under way at a time.
const READS_MAX: usize = 8;

struct Wanted {
    name: u64,
    place: Place,
    reply: oneshot::Sender<Result<Entry, ReadError>>,
}

impl Wanted {
    /// Where it begins in its segment; `None` for a place that cannot be.
    fn start(&self) -> Option<u32> {
        self.place.offset.checked_sub(self.place.lead)
    }

    fn end(&self) -> u32 {
        self.place.offset.saturating_add(self.place.length)
    }
}

/// The way to the prover of a disk; it ends with the last of them.
#[derive(Clone)]
pub(crate) struct Prover(mpsc::Sender<Wanted>);

impl Prover {
    /// Starts the prover of `tier`.
    pub(crate) fn spawn(tier: &Arc<Tier>) -> Prover {
        let (sender, wanted) = mpsc::channel(WAITING_MAX);
        // It must not keep the disk in use that nobody else uses.
        tokio::spawn(prove(Arc::downgrade(tier), wanted));
        Prover(sender)
    }

    /// As [`Tier::load`], from the medium.
    pub(crate) async fn load(&self, name: u64, place: Place) -> Result<Entry, ReadError> {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Wanted { name, place, reply }).await.is_err() {
            return Err(ReadError::Evicted);
        }
        answer.await.unwrap_or(Err(ReadError::Evicted))
    }
}

async fn prove(tier: Weak<Tier>, mut incoming: mpsc::Receiver<Wanted>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while incoming.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let Some(tier) = tier.upgrade() else { return };
        batch.sort_by_key(|wanted: &Wanted| (wanted.place.segment, wanted.start()));
        let runs = runs(batch.drain(..));
        futures_util::stream::iter(runs).for_each_concurrent(READS_MAX, |run| read(&tier, run)).await;
    }
}

/// Those that one read brings, in the order in which they lie.
fn runs(sorted: impl Iterator<Item = Wanted>) -> Vec<Vec<Wanted>> {
    let mut runs: Vec<Vec<Wanted>> = Vec::new();
    let mut reach = 0_u32;
    for wanted in sorted {
        let joins = runs.last().and_then(|run| run.first()).is_some_and(|first| {
            let (Some(from), Some(start)) = (first.start(), wanted.start()) else { return false };
            first.place.segment == wanted.place.segment
                && start <= reach.saturating_add(GAP_MAX)
                && wanted.end().saturating_sub(from) <= READ_BYTES_MAX
        });
        match runs.last_mut().filter(|_| joins) {
            Some(run) => {
                reach = reach.max(wanted.end());
                run.push(wanted);
            }
            None => {
                reach = wanted.end();
                runs.push(vec![wanted]);
            }
        }
    }
    runs
}

async fn read(tier: &Tier, run: Vec<Wanted>) {
    let together = if run.len() > 1 { read_together(tier, &run).await } else { None };
    for wanted in run {
        let Wanted { name, place, reply } = wanted;
        let entry = match &together {
            Some((segment, from, bytes)) => {
                let at = (place.offset - place.lead - *from) as usize;
                let length = place.lead as usize + place.length as usize;
                tier.entry(segment, name, place, bytes.slice(at..at + length))
            }
            // Alone, or to find out whose bytes cannot be read.
            None => tier.load_from(Source::Medium, name, place).await,
        };
        let _ = reply.send(entry);
    }
}

/// All that lies between the first and the last of a run, and where it begins.
async fn read_together(tier: &Tier, run: &[Wanted]) -> Option<(Arc<Segment>, u32, Bytes)> {
    let first = run.first()?;
    let from = first.start()?;
    let end = run.iter().map(Wanted::end).max()?;
    let segment = tier.segment(first.place.segment)?;
    let bytes = tier.read(Source::Medium, &segment, from, (end - from) as usize).await.ok()?;
    Some((segment, from, bytes))
}
