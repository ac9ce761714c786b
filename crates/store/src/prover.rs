//! Proofs of residency, and the reads they take: heads, with the body's only slice if it is adjacent, from the medium
//! of one disk.
//!
//! Objects that became durable together are adjacent and are proved together: a separate read for each of many small
//! ones would cost more than fetching them did. While some are read, the next ones gather.
//!
//! # What always holds
//!
//! - At most [`WAITING_MAX`] proofs wait; further callers wait for room.
//! - Only what was asked for is examined: bytes in between are read and dropped.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};

use crate::format::HeadRecord;
use crate::index::{Place, name};
use crate::object::Entry;
use crate::store::{Inner, Mount};
use crate::volume::{Segment, Source, Volume};
use crate::writer::Command;
use crate::{Generation, Key, Object, RACES_MAX, ReadError, Store, VerifyError};

/// Maximum number of waiting proofs.
const WAITING_MAX: usize = 1024;

/// Maximum number of proofs per batch.
const BATCH_MAX: usize = 256;

/// The longest read, in bytes, except for a single head that is longer.
const READ_BYTES_MAX: u32 = 256 << 10;

/// Largest gap between two records that is read along, in bytes.
const GAP_MAX: u32 = 64 << 10;

/// Maximum number of concurrent reads.
const READS_MAX: usize = 8;

struct Wanted {
    name: u64,
    place: Place,
    reply: oneshot::Sender<Result<Entry, ReadError>>,
}

impl Wanted {
    /// Where it begins in its segment; `None` for an impossible place.
    fn start(&self) -> Option<u32> {
        self.place.offset.checked_sub(self.place.lead)
    }

    fn end(&self) -> u32 {
        self.place.offset.saturating_add(self.place.length)
    }
}

/// The handle to the prover of a disk, which ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Prover(mpsc::Sender<Wanted>);

impl Prover {
    /// Starts the prover of `volume`.
    pub(crate) fn spawn(volume: &Arc<Volume>) -> Prover {
        let (sender, wanted) = mpsc::channel(WAITING_MAX);
        // A weak reference, so that it does not keep an otherwise unused disk open.
        tokio::spawn(prove(Arc::downgrade(volume), wanted));
        Prover(sender)
    }

    /// As [`Volume::load`], from the medium.
    pub(crate) async fn load(&self, name: u64, place: Place) -> Result<Entry, ReadError> {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Wanted { name, place, reply }).await.is_err() {
            return Err(ReadError::Evicted);
        }
        answer.await.unwrap_or(Err(ReadError::Evicted))
    }
}

async fn prove(volume: Weak<Volume>, mut incoming: mpsc::Receiver<Wanted>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while incoming.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let Some(volume) = volume.upgrade() else { return };
        batch.sort_by_key(|wanted: &Wanted| (wanted.place.segment, wanted.start()));
        let runs = runs(batch.drain(..));
        futures_util::stream::iter(runs).for_each_concurrent(READS_MAX, |run| read(&volume, run)).await;
    }
}

/// Groups the sorted proofs into runs that one read covers.
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

async fn read(volume: &Volume, run: Vec<Wanted>) {
    let together = if run.len() > 1 { read_together(volume, &run).await } else { None };
    for wanted in run {
        let Wanted { name, place, reply } = wanted;
        let entry = match &together {
            Some((segment, from, bytes)) => {
                let at = (place.offset - place.lead - *from) as usize;
                let length = place.lead as usize + place.length as usize;
                volume.entry(segment, name, place, bytes.slice(at..at + length))
            }
            // A run of one, or a retry one by one to find out which bytes cannot be read.
            None => volume.load_from(Source::Medium, name, place).await,
        };
        let _ = reply.send(entry);
    }
}

/// Everything from the first to the last record of a run: segment, offset and bytes.
async fn read_together(volume: &Volume, run: &[Wanted]) -> Option<(Arc<Segment>, u32, Bytes)> {
    let first = run.first()?;
    let from = first.start()?;
    let end = run.iter().map(Wanted::end).max()?;
    let segment = volume.segment(first.place.segment)?;
    let bytes = volume.read(Source::Medium, &segment, from, (end - from) as usize).await.ok()?;
    Some((segment, from, bytes))
}

/// The proof that an object is resident: what was read back from stable storage, bypassing the memory tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Bytes of the whole body.
    pub length: u64,
    /// CRC-32 (IEEE) of the whole body.
    pub checksum: u32,
    /// The stamp stored with the head.
    pub stamp: u64,
    /// The opaque head.
    pub head: Bytes,
    /// Identifies the body.
    pub generation: Generation,
}

impl Store {
    /// Fails while no object can be proven to be resident, because every disk is missing or out of service.
    pub fn can_prove(&self) -> Result<(), VerifyError> {
        match self.outage().filter(|_| !self.has_disk_in_service()) {
            Some((path, cause)) => Err(VerifyError::OutOfService { path, cause }),
            None => Ok(()),
        }
    }

    /// Reads the head and every slice back from the disk's medium, bypassing the memory tier and the operating system's
    /// cache, after making sure that a finished sync covers them, and checks every checksum.
    pub async fn verify(&self, key: Key, full_key: &[u8]) -> Result<Verified, VerifyError> {
        let Some(mount) = self.mount(key) else {
            self.can_prove()?;
            return verify_in_memory(self.in_memory(None, key, full_key).ok_or(VerifyError::Absent)?);
        };
        let volume = &mount.volume;
        // Retries only if the object was moved meanwhile.
        for _ in 0..RACES_MAX {
            let place = volume.readable(name(key)).ok_or(VerifyError::Absent)?;
            match mount.verify_at(key, full_key, place).await {
                Err(VerifyError::Read(ReadError::Evicted))
                    if volume.index.get(name(key)).is_some_and(|now| now != place) => {}
                verified => return verified,
            }
        }
        Err(VerifyError::Raced)
    }
}

impl Store {
    /// Whether an object that a lookup found is whole and covered by a finished sync, as far as is known without reading its body.
    pub fn holds(&self, object: &Object) -> bool {
        let Some(volume) = &object.volume else { return self.outage().is_none() };
        let (name, place) = (name(object.key()), object.entry.place);
        volume.index.get(name) == Some(place)
            && volume.is_alive(&object.entry)
            && volume.segment(place.segment).is_some_and(|segment| segment.is_durable(place.end()))
    }

    /// A number that changes whenever objects, or parts of them, may have left the store although nobody removed or replaced them: by
    /// eviction, because they could not be read or written, with a disk, or from their pins. It may change when nothing was lost, too.
    pub fn losses(&self) -> u64 {
        let Inner { memory, counters, disks, .. } = &*self.inner;
        let counted = [
            &counters.evicted_objects,
            &counters.evicted_segments,
            &counters.taken_back_segments,
            &counters.read_errors,
            &counters.write_errors,
        ];
        let counted: u64 = counted.iter().map(|counter| counter.load(Ordering::Relaxed)).sum();
        let of_disks: u64 = disks
            .iter()
            .map(|mount| u64::from(mount.volume.outage.is_out()) + mount.volume.pins.lost.load(Ordering::Relaxed))
            .sum();
        let of_memory = if disks.is_empty() { memory.evicted_heads() } else { 0 };
        counted + of_disks + of_memory
    }
}

impl Mount {
    async fn verify_at(&self, key: Key, full_key: &[u8], place: Place) -> Result<Verified, VerifyError> {
        let (mount, volume) = (self, &self.volume);
        let failed = |error: ReadError| {
            volume.drop_unreadable(name(key), place, &error);
            VerifyError::Read(error)
        };
        let segment = volume.segment(place.segment).ok_or(VerifyError::Absent)?;
        if !segment.is_durable(place.end()) {
            // Slices come before their head in the log, so a sync that covers the head covers them.
            let end = place.end();
            let settle = |reply| Command::Settle { segment: segment.clone(), end, reply };
            mount.queue.ask(settle).await.map_err(VerifyError::Write)?;
            if !segment.is_durable(place.end()) {
                return Err(VerifyError::Absent);
            }
        }
        let entry = mount.prover.load(name(key), place).await.map_err(failed)?;
        if entry.record.full_key != full_key {
            return Err(VerifyError::Absent);
        }
        let mut whole = crc32fast::Hasher::new();
        for (number, slice) in entry.record.slices.iter().enumerate() {
            if let Some(beside) = entry.held.get(number) {
                whole.update(beside);
                continue;
            }
            let segment = volume.segment(slice.segment).ok_or(ReadError::Evicted).map_err(failed)?;
            let read = volume.read_slice(Source::Medium, &segment, slice, entry.generation, number as u32).await;
            whole.update(&read.map_err(failed)?);
        }
        if whole.finalize() != entry.record.checksum {
            return Err(failed(volume.corrupt(place.segment, place.offset)));
        }
        // Whoever proves an object wants it, so it counts as requested.
        volume.index.lock(name(key)).note_asked(name(key), place);
        Ok(verified(&entry))
    }
}

fn verified(entry: &Entry) -> Verified {
    let HeadRecord { length, checksum, stamp, ref head, .. } = entry.record;
    Verified { length, checksum, stamp, head: head.clone(), generation: Generation(entry.generation) }
}

/// Without a disk the object is resident in memory, and the checksum shows that it is complete.
fn verify_in_memory(object: Object) -> Result<Verified, VerifyError> {
    let mut whole = crc32fast::Hasher::new();
    object.entry.held.iter().for_each(|slice| whole.update(slice));
    match whole.finalize() == object.checksum() {
        true => Ok(verified(&object.entry)),
        false => Err(VerifyError::Read(ReadError::Corrupt { segment: 0, offset: 0 })),
    }
}
