//! The writer of one disk: the only task that appends to its log.
//!
//! It takes all waiting commands, writes them in one piece, makes them visible in log order, and then, if anybody waits
//! for durability, syncs once for all of them. The next batch gathers during the sync: the slower the disk, the larger
//! the group. On a fast disk, while several commits arrive at a time, it waits a moment for more. As the only writer it
//! needs no lock to decide conditional changes.
//!
//! # What always holds
//!
//! - At most one segment is open; every older one is covered by a finished sync, or is broken.
//! - A segment whose write or sync failed is broken: nothing is appended to it, and whatever no finished sync covers
//!   leaves the index at once; the next segment records that durably before anything is acknowledged. After a failed
//!   sync a second one proves nothing, so none is tried.
//! - Late effects of calls to a hung disk (`disk`) do no harm. A write or sync that was abandoned belongs to a broken
//!   segment, to which nothing is appended, and its bytes are past the point up to which, as the next segment records,
//!   that segment counts. A summary is written behind records that are already durable, once nothing more is appended.
//!   File names are never reused: a file created late is empty and unused, and one removed late was next to be
//!   reclaimed anyway; its contents are found until its removal is known to be durable.
//! - Segments are reclaimed oldest first and one by one, and a sifted one keeps its place in the order, so a tombstone
//!   never goes before what it removed (`reclaim`, `sift`).

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::format::{
    self, HeadRecord, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SliceAt, SummaryEntry, Void,
};
use crate::growing::Growing;
use crate::index::{Place, name};
use crate::object::Entry;
use crate::volume::{Segment, Volume, place_of};
use crate::{Key, WriteError};
use queue::{COMMANDS_MAX, Reply};
use sift::Ghosts;

pub(crate) use queue::{Command, IN_FLIGHT_BYTES_MAX, Queue};

mod queue;
mod reclaim;
mod sift;

/// Size at which a batch is written even if more commands wait.
const BATCH_BYTES: u64 = 8 << 20;

/// While several commits arrive at a time: how long to wait for further ones, so that many share a sync, which costs
/// more than they do; and the number of commits, or bytes, that is enough.
const GATHER: Duration = Duration::from_millis(4);
const GATHERED_COMMITS: usize = 48;
const GATHERED_BYTES: u64 = 1 << 20;

/// Starts the writer of a disk; its next segment has the id `next_segment`.
pub(crate) fn spawn(volume: Arc<Volume>, next_segment: u32) -> Queue {
    let (queue, commands) = Queue::new(volume.clone());
    let writer = Writer {
        volume,
        next_segment,
        open: None,
        void: None,
        gone: BTreeSet::new(),
        batch: Batch::default(),
        waiting: Vec::new(),
        moved: Vec::new(),
        empty: Vec::new(),
        // It is unknown which older objects were requested, so they are not sifted.
        sifted_to: next_segment.saturating_sub(1),
        sifted_last: None,
        unfinished: None,
        running: HashMap::new(),
        ghosts: Ghosts::default(),
    };
    tokio::spawn(writer.run(commands));
    queue
}

struct Writer {
    volume: Arc<Volume>,
    next_segment: u32,
    open: Option<Open>,
    /// The position from which the log was abandoned, until a newer segment records it durably.
    void: Option<Void>,
    /// Abandoned segments in which no record is durable, at most two: see [`Writer::remove_empty`].
    empty: Vec<Arc<Segment>>,
    /// Keys that left the index with it, or by a removal that failed; the next segment begins with their tombstones.
    gone: BTreeSet<Key>,
    batch: Batch,
    /// Callers waiting for the next sync.
    waiting: Vec<Reply<bool>>,
    /// Objects that were copied, and their old places, valid until the next sync: a lost copy must not lose the object.
    moved: Vec<(Place, Box<Entry>)>,
    /// Segments up to this one are sifted, or need not be.
    sifted_to: u32,
    /// The segment that replaced the one sifted last.
    sifted_last: Option<u32>,
    /// A segment that was to replace sifted ones, but was not finished and could not be removed. What is in it is in
    /// theirs as well, and it must leave the disk before them: otherwise its copies could be back after a restart
    /// although the objects have left the index.
    unfinished: Option<Arc<Segment>>,
    /// Fills that have written slices and not ended.
    running: HashMap<u64, Weak<Growing>>,
    /// Objects recently sifted out.
    ghosts: Ghosts,
}

struct Open {
    segment: Arc<Segment>,
    /// Bytes written.
    end: u64,
    /// Heads and tombstones in it, including those of the batch.
    entries: usize,
}

/// Records that have been assigned their places but are not yet written.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: u64,
    entries: Vec<SummaryEntry>,
    effects: Vec<Effect>,
}

/// The effect of a record once it is written.
enum Effect {
    Slice {
        growing: Arc<Growing>,
        number: u32,
        at: SliceAt,
        payload: Bytes,
        _permit: OwnedSemaphorePermit,
    },
    Commit {
        growing: Arc<Growing>,
        entry: Arc<Entry>,
        visible: Reply<Arc<Entry>>,
        durable: Reply<bool>,
        _permit: OwnedSemaphorePermit,
    },
    Head {
        entry: Arc<Entry>,
        reply: Reply<Option<Arc<Entry>>>,
    },
    Removed {
        durable: bool,
        reply: Reply<bool>,
    },
    /// An object was copied away from a segment about to be reclaimed; `old` is the former place of its head.
    Moved {
        old: Place,
        entry: Box<Entry>,
    },
}

impl Effect {
    fn fail(self, error: &WriteError) {
        // Here and below: a caller that no longer waits gets no answer.
        match self {
            Effect::Slice { growing, .. } => growing.fail(error),
            Effect::Commit { growing, visible, .. } => {
                growing.fail(error);
                let _ = visible.send(Err(error.clone()));
            }
            Effect::Head { reply, .. } => drop(reply.send(Err(error.clone()))),
            Effect::Removed { reply, .. } => drop(reply.send(Err(error.clone()))),
            Effect::Moved { .. } => {}
        }
    }
}

impl Writer {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut closing = None;
        let volume = self.volume.clone();
        // A lone commit is not delayed.
        let mut several = false;
        while closing.is_none() && !volume.outage.is_out() {
            let mut next = tokio::select! {
                biased;
                () = volume.outage.begun.notified() => break,
                first = commands.recv() => first,
            };
            if next.is_none() {
                break;
            }
            let (mut commits, mut gathers) = (0, several);
            let until = Instant::now() + GATHER;
            // Bounded in number as well: changes that are written at once must not delay a sync.
            for taken in 1.. {
                match next {
                    None => break,
                    Some(Command::Close { reply }) => {
                        closing = Some(reply);
                        break;
                    }
                    Some(command) => {
                        commits += usize::from(matches!(command, Command::Commit { .. }));
                        // A caller that waits for a sync of everything should not wait any longer than that takes.
                        gathers &= !matches!(command, Command::Sync { .. } | Command::Remove { durable: true, .. });
                        self.take(command).await;
                    }
                }
                let full = self.batch.bytes >= BATCH_BYTES || taken >= COMMANDS_MAX;
                next = if full { None } else { commands.try_recv().ok() };
                let enough = commits >= GATHERED_COMMITS || self.batch.bytes >= GATHERED_BYTES;
                if next.is_none() && gathers && !full && !enough {
                    next = tokio::time::timeout_at(until, commands.recv()).await.unwrap_or(None);
                }
            }
            if commits > 0 {
                several = commits > 1;
            }
            self.flush().await;
            if !self.waiting.is_empty() {
                // On failure, the waiting callers have been told.
                let _ = self.sync().await;
            }
        }
        if volume.outage.is_out() {
            self.end_out_of_service(&mut commands, closing).await;
            return;
        }
        commands.close();
        let sealed = self.seal().await;
        drop((self, commands));
        if let Some(reply) = closing {
            let _ = reply.send(sealed.map(|()| true));
        }
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Slice { growing, number, permit } => self.take_slice(growing, number, permit).await,
            Command::Commit { growing, visible, durable, permit } => {
                // If the fill was dropped meanwhile, nothing must become visible.
                let taken =
                    if visible.is_closed() { Err(WriteError::Closed) } else { self.take_commit(&growing).await };
                match taken {
                    Ok(entry) => {
                        let effect = Effect::Commit { growing, entry, visible, durable, _permit: permit };
                        self.batch.effects.push(effect);
                    }
                    Err(error) => {
                        growing.fail(&error);
                        let _ = visible.send(Err(error));
                    }
                }
            }
            Command::Head { entry, expected, reply } => {
                // Make room first, as that may move this very object. The batch comes first in the log, so it must take
                // effect before the check below.
                let record = &entry.record;
                let length = format::head_length(&record.full_key, &record.head, record.slices.len());
                if let Err(error) = self.make_room(RECORD_HEADER_BYTES + length, 1).await {
                    let _ = reply.send(Err(error));
                    return;
                }
                self.flush().await;
                if self.volume.index.get(name(entry.key)) != Some(expected) {
                    let _ = reply.send(Ok(None));
                    return;
                }
                match self.take_head(*entry, None).await {
                    Ok(entry) => self.batch.effects.push(Effect::Head { entry, reply }),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Remove { key, expected, durable, reply } => {
                // Make room first: that may take a sync, after which everything counts as settled.
                let room = self.make_room(RECORD_HEADER_BYTES, 1).await;
                self.flush().await;
                self.volume.unsettled.store(true, Ordering::SeqCst);
                let expected = expected.or_else(|| self.volume.index.get(name(key)));
                if !expected.is_some_and(|expected| self.volume.drop_if(name(key), expected)) {
                    let _ = reply.send(Ok(false));
                    return;
                }
                let room = match room {
                    // There still is, unless that segment broke.
                    Ok(_) => self.make_room(RECORD_HEADER_BYTES, 1).await,
                    Err(error) => Err(error),
                };
                match room {
                    Ok(segment) => {
                        self.add_tombstone(&segment, key);
                        self.batch.effects.push(Effect::Removed { durable, reply });
                    }
                    Err(error) => {
                        // A segment may be open nevertheless, and its next sync settles what is gone.
                        match self.open.as_ref().map(|open| open.segment.clone()) {
                            Some(segment) => self.add_tombstone(&segment, key),
                            None => drop(self.gone.insert(key)),
                        }
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Command::OldestOfNew { reply } => {
                self.flush().await;
                let open = self.open.as_ref().map_or(self.next_segment, |open| open.segment.id);
                let _ = reply.send(Ok(open.min(self.oldest_of_fills())));
            }
            Command::Reclaim { before, reply } => {
                self.flush().await;
                let _ = reply.send(Ok(self.reclaim_before(before).await));
            }
            Command::Sync { reply } => self.waiting.push(reply),
            Command::Settle { segment, end, reply } => {
                // Most callers ask while the sync that covers them runs.
                if segment.is_durable(end) || segment.is_lost(end) {
                    let _ = reply.send(Ok(true));
                } else {
                    self.waiting.push(reply);
                }
            }
            Command::Close { reply } => drop(reply.send(Err(WriteError::Closed))),
        }
    }

    async fn take_slice(&mut self, growing: Arc<Growing>, number: u32, permit: OwnedSemaphorePermit) {
        // The fill may have been dropped meanwhile.
        let Some((mut at, payload)) = growing.held(number) else { return };
        let length = RECORD_HEADER_BYTES + payload.len();
        match self.make_room(length, 0).await {
            Ok(segment) => {
                (at.segment, at.offset) = self.add_slice(&segment, (growing.key, growing.id), number, &at, &payload);
                self.running.entry(growing.id).or_insert_with(|| Arc::downgrade(&growing));
                self.batch.effects.push(Effect::Slice { growing, number, at, payload, _permit: permit });
            }
            Err(error) => growing.fail(&error),
        }
    }

    async fn take_commit(&mut self, growing: &Growing) -> Result<Arc<Entry>, WriteError> {
        // Slices of this fill in the batch get their places when it is written.
        if growing.slices() > 1 {
            self.flush().await;
        }
        if let Some(error) = growing.failure() {
            return Err(error);
        }
        let (slices, mut held) = growing.all();
        let record = HeadRecord {
            stamp: growing.stamp,
            length: growing.length(),
            checksum: HeadRecord::checksum_of(&slices),
            full_key: growing.full_key.clone(),
            head: growing.head(),
            slices,
        };
        let tail = held.pop();
        let held = tail.iter().filter(|_| record.slices.len() == 1).cloned().collect();
        self.take_head(Entry::new(growing.key, growing.id, Place::default(), record, held), tail).await
    }

    /// Adds a head to the batch, directly behind the last slice of its body if that is given.
    async fn take_head(&mut self, mut entry: Entry, tail: Option<Bytes>) -> Result<Arc<Entry>, WriteError> {
        let payload_length = format::head_length(&entry.record.full_key, &entry.record.head, entry.record.slices.len());
        let lead = tail.as_ref().map_or(0, |bytes| RECORD_HEADER_BYTES + bytes.len());
        let segment = self.make_room(lead + RECORD_HEADER_BYTES + payload_length, 1).await?;

        if let (Some(bytes), Some(last)) = (&tail, entry.record.slices.len().checked_sub(1)) {
            let at = entry.record.slices[last];
            let (id, offset) = self.add_slice(&segment, (entry.key, entry.generation), last as u32, &at, bytes);
            entry.record.slices[last] = SliceAt { segment: id, offset, ..at };
        }
        self.check_slices(&entry.record.slices)?;
        self.add_head(&segment, &mut entry, lead);
        Ok(Arc::new(entry))
    }

    /// Adds the head of `entry`; the `lead` bytes before it are the record of the last slice of its body.
    fn add_head(&mut self, segment: &Segment, entry: &mut Entry, lead: usize) {
        let payload = format::encode_head(&entry.record);
        let length = (RECORD_HEADER_BYTES + payload.len()) as u32;
        let offset = self.add_record(segment, Kind::Head, entry.key, entry.generation, payload);
        let lead = if entry.record.slices.len() == 1 { lead as u32 } else { 0 };
        entry.place = Place { segment: segment.id, offset, length, lead };
        self.note(entry.summary());
    }

    fn add_tombstone(&mut self, segment: &Segment, key: Key) {
        let offset = self.add_record(segment, Kind::Tombstone, key, 0, Bytes::new());
        self.note(SummaryEntry::tombstone(key, segment.id, offset));
    }

    /// Checks that every slice still is where it was put: a head must not name slices that were reclaimed or may be
    /// lost.
    fn check_slices(&self, slices: &[SliceAt]) -> Result<(), WriteError> {
        let mut known: Option<Arc<Segment>> = None;
        for slice in slices {
            let segment = match known.filter(|segment| segment.id == slice.segment) {
                Some(segment) => segment,
                None => self.volume.segment_of_log(slice.segment).ok_or(WriteError::Evicted)?,
            };
            if segment.is_lost(slice.record_end()) {
                let error = io::Error::other("an earlier write to the segment of a slice failed");
                return Err(WriteError::Io(Arc::new(error)));
            }
            known = Some(segment);
        }
        Ok(())
    }

    /// Adds a slice of the body with this key and fill; returns its segment and offset.
    fn add_slice(
        &mut self,
        segment: &Segment,
        body: (Key, u64),
        number: u32,
        at: &SliceAt,
        payload: &Bytes,
    ) -> (u32, u32) {
        let header = RecordHeader::of_slice(body.0, body.1, number, at);
        (segment.id, self.add(format::encode_record_header(segment.id, &header), payload.clone()))
    }

    fn add_record(&mut self, segment: &Segment, kind: Kind, key: Key, fill: u64, payload: Bytes) -> u32 {
        let header = RecordHeader::of(kind, key, fill, &payload);
        self.add(format::encode_record_header(segment.id, &header), payload)
    }

    /// Appends a record to the batch and returns its offset.
    fn add(&mut self, header: Bytes, payload: Bytes) -> u32 {
        let offset = self.open.as_ref().map_or(0, |open| open.end) + self.batch.bytes;
        self.batch.bytes += (header.len() + payload.len()) as u64;
        self.batch.pieces.push(header);
        if !payload.is_empty() {
            self.batch.pieces.push(payload);
        }
        u32::try_from(offset).expect("segments are at most 1 GiB, and one record of at most 32 MiB overruns")
    }

    fn note(&mut self, entry: SummaryEntry) {
        self.batch.entries.push(entry);
        if let Some(open) = &mut self.open {
            open.entries += 1;
        }
    }

    // Segments

    /// Ensures that a segment is open with room for records of `bytes` and for `entries` more entries in its summary. A
    /// record larger than a segment gets a segment to itself and overruns it.
    async fn make_room(&mut self, bytes: usize, entries: usize) -> Result<Arc<Segment>, WriteError> {
        if let Some(open) = &self.open {
            if self.fits(bytes, entries) {
                return Ok(open.segment.clone());
            }
            self.flush().await;
            // A segment that could not be sealed is broken; whoever depends on it has been told.
            let _ = self.seal().await;
        }
        self.create(bytes).await
    }

    /// Whether the open segment has room for that.
    fn fits(&self, bytes: usize, entries: usize) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let used = open.end + self.batch.bytes;
            let summary = format::summary_length(open.entries + entries);
            used + (bytes + summary) as u64 <= self.volume.segment_bytes || used <= SEGMENT_HEADER_BYTES as u64
        })
    }

    /// Writes the batch and makes it visible.
    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let Some(open) = &mut self.open else { return };
        if batch.pieces.is_empty() {
            return;
        }
        if let Err(error) = open.segment.file.write(open.end, batch.pieces).await {
            // Its heads were never visible, but the objects of its tombstones have left the index.
            let removed = batch.entries.iter().filter(|entry| entry.kind == Kind::Tombstone);
            self.gone.extend(removed.map(|entry| entry.key));
            self.break_open(error, batch.effects);
            return;
        }
        open.end += batch.bytes;
        if open.end > self.volume.segment_bytes {
            open.segment.allocated.fetch_max(open.end, Ordering::Relaxed);
        }
        if let Some(entries) = &mut *open.segment.entries() {
            entries.extend(batch.entries);
        }
        let segment = open.segment.clone();
        self.volume.counters.written_bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        for effect in batch.effects {
            self.apply(effect, &segment);
        }
    }

    /// Applies the effect of a record written to `segment`.
    fn apply(&mut self, effect: Effect, segment: &Arc<Segment>) {
        let volume = &*self.volume;
        match effect {
            Effect::Slice { growing, number, at, payload, _permit } => {
                volume.memory.insert_slice(volume.number, growing.id, number, payload);
                growing.written(number, at, segment);
            }
            Effect::Commit { growing, entry, visible, durable, _permit } => {
                if !volume.publish(&entry) {
                    let error = volume.out_of_service();
                    growing.fail(&error);
                    let _ = visible.send(Err(error));
                    return;
                }
                self.running.remove(&growing.id);
                if self.ghosts.take(name(entry.key)) {
                    volume.index.lock(name(entry.key)).note_settled(name(entry.key));
                }
                volume.note_parts(&entry);
                volume.counters.commits.fetch_add(1, Ordering::Relaxed);
                // A body of one slice is already in memory with its head; lagging followers keep that slice.
                if let (Some(last), true) = (entry.record.slices.last(), entry.held.is_empty()) {
                    let number = entry.record.slices.len() as u32 - 1;
                    if let Some((_, payload)) = growing.held(number) {
                        volume.memory.insert_slice(volume.number, growing.id, number, payload);
                    }
                    growing.written(number, *last, segment);
                }
                let _ = visible.send(Ok(entry));
                self.waiting.push(durable);
            }
            Effect::Head { entry, reply } => {
                let published = volume.publish(&entry);
                let _ = reply.send(if published { Ok(Some(entry)) } else { Err(volume.out_of_service()) });
            }
            Effect::Removed { durable: true, reply } => self.waiting.push(reply),
            Effect::Removed { durable: false, reply } => drop(reply.send(Ok(true))),
            Effect::Moved { old, entry } => self.moved.push((old, entry)),
        }
    }

    /// Makes everything written durable and answers those who wait for it.
    async fn sync(&mut self) -> Result<(), WriteError> {
        if self.open.is_none() && (self.void.is_some() || !self.gone.is_empty()) {
            // An abandoned position is settled once a newer segment records it.
            if let Err(error) = self.create(0).await {
                return Err(self.tell_waiting(error));
            }
            self.flush().await;
        }
        self.sync_open().await?;
        if self.void.is_none() && self.gone.is_empty() {
            self.volume.unsettled.store(false, Ordering::SeqCst);
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(true));
        }
        Ok(())
    }

    /// Makes everything written to the open segment durable.
    async fn sync_open(&mut self) -> Result<(), WriteError> {
        let Some(open) = &self.open else { return Ok(()) };
        if let Err(error) = open.segment.sync(open.end).await {
            return Err(self.break_open(error, Vec::new()));
        }
        self.void = None;
        self.gone.clear();
        for (old, entry) in self.moved.drain(..) {
            self.volume.note_parts(&entry);
            self.volume.publish_moved(old, *entry);
        }
        self.volume.outage.write_went_well();
        self.volume.counters.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Seals the open segment with its summary. Without one it is just as valid, but the next start has to scan it.
    async fn seal(&mut self) -> Result<(), WriteError> {
        debug_assert!(self.batch.pieces.is_empty(), "a batch is written before its segment is sealed");
        self.sync().await?;
        self.seal_open().await;
        Ok(())
    }

    /// The same for a segment that is already synced.
    async fn seal_open(&mut self) {
        let Some(open) = self.open.take() else { return };
        if let Err(error) = open.segment.seal(open.end, self.volume.next_fill.load(Ordering::Relaxed)).await {
            self.volume.counters.write_errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(disk = %self.volume.path.display(), segment = open.segment.id, %error, "segment left without a summary");
        }
    }

    /// Abandons the open segment after a failed write or sync, and tells everybody whose bytes may be lost.
    fn break_open(&mut self, error: io::Error, effects: Vec<Effect>) -> WriteError {
        let error = self.failed(error);
        if let Some(open) = self.open.take() {
            let segment = &*open.segment;
            tracing::warn!(disk = %self.volume.path.display(), segment = segment.id, error = ?error, "segment abandoned");
            let offset = u32::try_from(segment.synced_to()).expect("an open segment has offsets of 32 bits");
            let empty = segment.synced_to() <= SEGMENT_HEADER_BYTES as u64;
            // An empty segment will be removed, so the next one has to record what its header may record.
            let recorded = segment.void.filter(|_| empty);
            self.void.get_or_insert(recorded.unwrap_or(Void { segment: segment.id, offset }));
            self.volume.unsettled.store(true, Ordering::SeqCst);
            segment.broke();
            self.moved.clear();
            if empty {
                self.empty.push(open.segment.clone());
            }
            if let Some(entries) = &mut *segment.entries() {
                entries.retain(|entry| {
                    let place = place_of(segment.id, entry);
                    let kept = segment.is_durable(place.end());
                    // A head that was never visible here is still at its former place, and must not get a tombstone.
                    if !kept && (self.volume.drop_if(name(entry.key), place) || entry.kind == Kind::Tombstone) {
                        self.gone.insert(entry.key);
                    }
                    kept
                });
            }
        }
        for effect in effects {
            effect.fail(&error);
        }
        self.tell_waiting(error)
    }

    fn tell_waiting(&mut self, error: WriteError) -> WriteError {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Err(error.clone()));
        }
        error
    }

    /// Counts a failure of the disk, which may take it out of service.
    fn failed(&self, error: io::Error) -> WriteError {
        let volume = &self.volume;
        volume.counters.write_errors.fetch_add(1, Ordering::Relaxed);
        if volume.outage.write_failed(&error) {
            volume.forget_all();
            tracing::error!(disk = %volume.path.display(), %error, "disk taken out of service");
        }
        WriteError::Io(Arc::new(error))
    }
}
