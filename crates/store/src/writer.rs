//! The writer of one disk: the one task that adds to its log.
//!
//! It takes whatever waits, writes it in one piece, makes it visible in the order of the log, and then, if somebody
//! waits for durability, syncs once for all of them. While it syncs the next batch gathers: the slower the disk, the larger the
//! group. Being alone it needs no lock to decide what a conditional change meets.
//!
//! # What always holds
//!
//! - At most one segment is open; every older one is covered by a finished sync, or broken.
//! - A segment whose write or sync failed is broken: nothing is added to it, and what no finished sync covers leaves the
//!   index at once; the next segment says so durably, before anything is acknowledged. After a failed sync a second one proves nothing, so it is never tried.
//! - Segments are reclaimed oldest first and one by one, so a tombstone never goes before what it removed.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::format::{
    self, HeadRecord, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SliceAt, SummaryEntry, Void,
};
use crate::growing::Growing;
use crate::index::{Place, name};
use crate::object::Entry;
use crate::tier::{Segment, Tier, place_of};
use crate::{Key, WriteError};

/// Bytes of bodies and heads that one disk's queue and writer hold; further fills wait.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// Commands that wait for a writer; most are small, and those that are not are bounded in bytes too.
const COMMANDS_MAX: usize = 1024;

/// Bytes after which a batch is written though more commands wait.
const BATCH_BYTES: u64 = 8 << 20;

/// Where the answer to a command goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// What a writer is asked to do.
pub(crate) enum Command {
    /// Write a slice that was cut.
    Slice { growing: Arc<Growing>, number: u32, permit: OwnedSemaphorePermit },
    /// Write the last slice and the head. `visible` is answered once lookups find it, `durable` after the sync.
    Commit { growing: Arc<Growing>, visible: Reply<Arc<Entry>>, durable: Reply<bool>, permit: OwnedSemaphorePermit },
    /// Put `entry`'s head over its body if the head now lies at `expected`; else the answer is `None`.
    Head { entry: Box<Entry>, expected: Place, reply: Reply<Option<Arc<Entry>>> },
    /// Remove the object whose head lies at `expected`; `false` if it is another one now. If `durable`, the answer waits for a sync.
    Remove { entry: Arc<Entry>, durable: bool, reply: Reply<bool> },
    /// Remove the oldest segments, those below `before`: nothing in them is needed any more.
    Reclaim { before: u32, reply: Reply<bool> },
    /// Answer when everything sent before is durable.
    Sync { reply: Reply<bool> },
    /// Sync, seal and end.
    Close { reply: Reply<bool> },
}

/// The way to a writer.
#[derive(Clone)]
pub(crate) struct Queue {
    commands: mpsc::Sender<Command>,
    in_flight: Arc<Semaphore>,
}

impl Queue {
    /// Waits until `bytes` more may be in flight. The permit goes with the command.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, WriteError> {
        let bytes = bytes.min(IN_FLIGHT_BYTES_MAX) as u32;
        self.in_flight.clone().acquire_many_owned(bytes).await.map_err(|_| WriteError::Closed)
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), WriteError> {
        self.commands.send(command).await.map_err(|_| WriteError::Closed)
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| WriteError::Closed)?
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    pub(crate) fn in_flight_bytes(&self) -> u64 {
        (IN_FLIGHT_BYTES_MAX - self.in_flight.available_permits()) as u64
    }
}

/// Starts the writer of a disk whose next segment has the id `next_segment`.
pub(crate) fn spawn(tier: Arc<Tier>, next_segment: u32) -> Queue {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let writer = Writer {
        tier,
        next_segment,
        open: None,
        void: None,
        gone: BTreeSet::new(),
        batch: Batch::default(),
        waiting: Vec::new(),
    };
    tokio::spawn(writer.run(commands));
    Queue { commands: sender, in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)) }
}

struct Writer {
    tier: Arc<Tier>,
    next_segment: u32,
    open: Option<Open>,
    /// From where on the log was given up, until a newer segment says so durably.
    void: Option<Void>,
    /// What left the index with that, or by a removal that failed; the next segment begins with saying so.
    gone: BTreeSet<Key>,
    batch: Batch,
    /// Who waits for the next sync.
    waiting: Vec<Reply<bool>>,
}

struct Open {
    segment: Arc<Segment>,
    /// Bytes written.
    end: u64,
    /// Heads and tombstones in it, those of the batch included.
    entries: usize,
}

/// Records that have their place but are not written yet.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: u64,
    entries: Vec<SummaryEntry>,
    effects: Vec<Effect>,
}

/// What follows from a record once it is written.
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
}

impl Effect {
    fn fail(self, error: &WriteError) {
        // Who no longer waits for an answer does not get one, here and below.
        match self {
            Effect::Slice { growing, .. } => growing.fail(error),
            Effect::Commit { growing, visible, .. } => {
                growing.fail(error);
                let _ = visible.send(Err(error.clone()));
            }
            Effect::Head { reply, .. } => drop(reply.send(Err(error.clone()))),
            Effect::Removed { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }
}

impl Writer {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut closing = None;
        while closing.is_none()
            && let Some(first) = commands.recv().await
        {
            let mut next = Some(first);
            // Bounded in number too: changes that are written at once must not keep a sync waiting.
            for taken in 1.. {
                match next {
                    None => break,
                    Some(Command::Close { reply }) => {
                        closing = Some(reply);
                        break;
                    }
                    Some(command) => self.take(command).await,
                }
                let full = self.batch.bytes >= BATCH_BYTES || taken >= COMMANDS_MAX;
                next = if full { None } else { commands.try_recv().ok() };
            }
            self.flush().await;
            if !self.waiting.is_empty() {
                // Whoever waited has been told if it failed.
                let _ = self.sync().await;
            }
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
                // Who dropped the fill meanwhile wants nothing to become visible.
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
                // What the batch holds comes first in the log, so it must take effect before this looks.
                self.flush().await;
                if self.tier.index.get(name(entry.key)) != Some(expected) {
                    let _ = reply.send(Ok(None));
                    return;
                }
                match self.take_head(*entry, None).await {
                    Ok(entry) => self.batch.effects.push(Effect::Head { entry, reply }),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Remove { entry, durable, reply } => {
                self.flush().await;
                self.tier.unsettled.store(true, Ordering::SeqCst);
                if !self.tier.drop_if(name(entry.key), entry.place) {
                    let _ = reply.send(Ok(false));
                    return;
                }
                match self.make_room(RECORD_HEADER_BYTES, 1).await {
                    Ok(segment) => {
                        self.add_tombstone(&segment, entry.key);
                        self.batch.effects.push(Effect::Removed { durable, reply });
                    }
                    Err(error) => {
                        self.gone.insert(entry.key);
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Command::Reclaim { before, reply } => {
                self.flush().await;
                let _ = reply.send(Ok(self.reclaim_before(before).await));
            }
            Command::Sync { reply } => self.waiting.push(reply),
            Command::Close { reply } => drop(reply.send(Err(WriteError::Closed))),
        }
    }

    async fn take_slice(&mut self, growing: Arc<Growing>, number: u32, permit: OwnedSemaphorePermit) {
        // The fill may have been dropped since.
        let Some((mut at, payload)) = growing.held(number) else { return };
        let length = RECORD_HEADER_BYTES + payload.len();
        match self.make_room(length, 0).await {
            Ok(segment) => {
                (at.segment, at.offset) = self.add_slice(&segment, &growing, number, &at, &payload);
                self.batch.effects.push(Effect::Slice { growing, number, at, payload, _permit: permit });
            }
            Err(error) => growing.fail(&error),
        }
    }

    async fn take_commit(&mut self, growing: &Growing) -> Result<Arc<Entry>, WriteError> {
        // Slices of this fill that wait in the batch get their places when it is written.
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
            head: growing.head.clone(),
            slices: slices.into(),
        };
        let tail = held.pop();
        let held: Box<[Bytes]> = match (&tail, record.slices.len()) {
            (Some(only), 1) => [only.clone()].into(),
            _ => [].into(),
        };
        let (key, generation, place) = (growing.key, growing.id, Place::default());
        self.take_head(Entry { key, generation, place, record, held }, tail.map(|tail| (growing, tail))).await
    }

    /// Places a head, directly behind the last slice of its body if that is given.
    async fn take_head(&mut self, mut entry: Entry, tail: Option<(&Growing, Bytes)>) -> Result<Arc<Entry>, WriteError> {
        let payload_length = format::head_length(&entry.record.full_key, &entry.record.head, entry.record.slices.len());
        let lead = tail.as_ref().map_or(0, |(_, bytes)| RECORD_HEADER_BYTES + bytes.len());
        let segment = self.make_room(lead + RECORD_HEADER_BYTES + payload_length, 1).await?;

        if let (Some((growing, bytes)), Some(last)) = (&tail, entry.record.slices.len().checked_sub(1)) {
            let at = entry.record.slices[last];
            let (id, offset) = self.add_slice(&segment, growing, last as u32, &at, bytes);
            entry.record.slices[last] = SliceAt { segment: id, offset, ..at };
        }
        self.check_slices(&entry.record.slices)?;

        let payload = format::encode_head(&entry.record);
        let length = (RECORD_HEADER_BYTES + payload.len()) as u32;
        let offset = self.add_record(&segment, Kind::Head, entry.key, entry.generation, payload);
        let lead = if entry.record.slices.len() == 1 { lead as u32 } else { 0 };
        entry.place = Place { segment: segment.id, offset, length, lead };
        let first_segment = entry.record.slices.first().map_or(segment.id, |slice| slice.segment);
        self.note(SummaryEntry { key: entry.key, kind: Kind::Head, offset, length, lead, first_segment });
        Ok(Arc::new(entry))
    }

    fn add_tombstone(&mut self, segment: &Segment, key: Key) {
        let offset = self.add_record(segment, Kind::Tombstone, key, 0, Bytes::new());
        let (length, first_segment) = (RECORD_HEADER_BYTES as u32, segment.id);
        self.note(SummaryEntry { key, kind: Kind::Tombstone, offset, length, lead: 0, first_segment });
    }

    /// Whether every slice is where it was put: a head must not name what is reclaimed or may be lost.
    fn check_slices(&self, slices: &[SliceAt]) -> Result<(), WriteError> {
        let mut known: Option<Arc<Segment>> = None;
        for slice in slices {
            let segment = match known.filter(|segment| segment.id == slice.segment) {
                Some(segment) => segment,
                None => self.tier.segment(slice.segment).ok_or(WriteError::Evicted)?,
            };
            if segment.is_lost(slice.record_end()) {
                let error = io::Error::other("an earlier write to the segment of a slice failed");
                return Err(WriteError::Io(Arc::new(error)));
            }
            known = Some(segment);
        }
        Ok(())
    }

    fn add_slice(
        &mut self,
        segment: &Segment,
        growing: &Growing,
        number: u32,
        at: &SliceAt,
        payload: &Bytes,
    ) -> (u32, u32) {
        let header = RecordHeader {
            kind: Kind::Slice,
            payload_length: at.length,
            payload_crc: at.crc,
            key: growing.key,
            fill: growing.id,
            number,
        };
        (segment.id, self.add(format::encode_record_header(segment.id, &header), payload.clone()))
    }

    fn add_record(&mut self, segment: &Segment, kind: Kind, key: Key, fill: u64, payload: Bytes) -> u32 {
        let header = RecordHeader {
            kind,
            payload_length: payload.len() as u32,
            payload_crc: crc32fast::hash(&payload),
            key,
            fill,
            number: 0,
        };
        self.add(format::encode_record_header(segment.id, &header), payload)
    }

    /// Appends a record to the batch and says at which offset it will lie.
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

    /// Makes sure that a segment is open with room for records of `bytes` and for `entries` more lines in its summary. A
    /// record that is larger than a segment overruns one that it has to itself.
    async fn make_room(&mut self, bytes: usize, entries: usize) -> Result<Arc<Segment>, WriteError> {
        if let Some(open) = &self.open {
            let used = open.end + self.batch.bytes;
            let summary = format::summary_length(open.entries + entries);
            if used + (bytes + summary) as u64 <= self.tier.segment_bytes || used <= SEGMENT_HEADER_BYTES as u64 {
                return Ok(open.segment.clone());
            }
            self.flush().await;
            // A segment that could not be sealed is broken; what depends on it has been told.
            let _ = self.seal().await;
        }
        self.create().await.map_err(|error| {
            self.tier.counters.write_errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(disk = %self.tier.path.display(), %error, "no new segment");
            WriteError::Io(Arc::new(error))
        })
    }

    async fn create(&mut self) -> io::Result<Arc<Segment>> {
        while self.tier.usage().1 + self.tier.segment_bytes > self.tier.capacity_bytes {
            if !self.reclaim().await? {
                break;
            }
        }
        let (id, file) = match self.create_file().await {
            // Others fill the disk: what the cache may take is less than it was told.
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.reclaim().await? => {
                self.create_file().await?
            }
            created => created?,
        };
        let segment = Arc::new(Segment::new(id, file, self.tier.segment_bytes));
        self.tier.add_segment(segment.clone());
        let header = format::encode_segment_header(id, self.tier.next_fill.load(Ordering::Relaxed), self.void);
        self.open = Some(Open { segment: segment.clone(), end: 0, entries: 0 });
        self.add(header, Bytes::new());
        for key in self.gone.clone() {
            self.add_tombstone(&segment, key);
        }
        Ok(segment)
    }

    async fn create_file(&mut self) -> io::Result<(u32, Arc<dyn crate::disk::DiskFile>)> {
        let id = self.next_segment;
        self.next_segment = id.checked_add(1).ok_or_else(|| io::Error::other("segment ids are used up"))?;
        let file = self.tier.disk.create(&format::segment_name(id), self.tier.segment_bytes).await?;
        Ok((id, file))
    }

    /// Removes the oldest segment; `false` if there is none. Its file goes before a newer one is touched, or a restart could
    /// bring back what a newer one had removed.
    async fn reclaim(&mut self) -> io::Result<bool> {
        let Some(segment) = self.tier.oldest_segment() else { return Ok(false) };
        let dropped = self.tier.drop_heads_of(&segment).await;
        self.tier.counters.evicted_objects.fetch_add(dropped, Ordering::Relaxed);
        self.tier.disk.remove(&format::segment_name(segment.id)).await?;
        self.tier.forget_segment(segment.id);
        self.tier.counters.evicted_segments.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Removes the oldest segments below `before`, but never the one that is open; says whether all of them went.
    async fn reclaim_before(&mut self, before: u32) -> bool {
        let open = self.open.as_ref().map_or(u32::MAX, |open| open.segment.id);
        while let Some(oldest) = self.tier.oldest_segment().filter(|oldest| oldest.id < before.min(open)) {
            if let Err(error) = self.reclaim().await {
                tracing::warn!(disk = %self.tier.path.display(), segment = oldest.id, %error, "segment not removed");
                return false;
            }
        }
        true
    }

    /// Writes the batch and makes it visible.
    async fn flush(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let Some(open) = &mut self.open else { return };
        if batch.pieces.is_empty() {
            return;
        }
        if let Err(error) = open.segment.file.write(open.end, batch.pieces).await {
            // Its heads were never visible, but what its tombstones name has left the index.
            let removed = batch.entries.iter().filter(|entry| entry.kind == Kind::Tombstone);
            self.gone.extend(removed.map(|entry| entry.key));
            self.break_open(error, batch.effects);
            return;
        }
        open.end += batch.bytes;
        if open.end > self.tier.segment_bytes {
            open.segment.allocated.fetch_max(open.end, Ordering::Relaxed);
        }
        if let Some(entries) = &mut *open.segment.entries() {
            entries.extend(batch.entries);
        }
        self.tier.counters.written_bytes.fetch_add(batch.bytes, Ordering::Relaxed);
        for effect in batch.effects {
            self.apply(effect);
        }
    }

    fn apply(&mut self, effect: Effect) {
        let tier = &*self.tier;
        match effect {
            Effect::Slice { growing, number, at, payload, _permit } => {
                tier.memory.insert_slice(tier.number, growing.id, number, payload);
                growing.written(number, at);
            }
            Effect::Commit { growing, entry, visible, durable, _permit } => {
                tier.publish(&entry);
                tier.counters.commits.fetch_add(1, Ordering::Relaxed);
                // A body of one slice is in memory with its head. Followers that lag keep that slice.
                if let (Some(last), true) = (entry.record.slices.last(), entry.held.is_empty()) {
                    let number = entry.record.slices.len() as u32 - 1;
                    if let Some((_, payload)) = growing.held(number) {
                        tier.memory.insert_slice(tier.number, growing.id, number, payload);
                    }
                    growing.written(number, *last);
                }
                let _ = visible.send(Ok(entry));
                self.waiting.push(durable);
            }
            Effect::Head { entry, reply } => {
                tier.publish(&entry);
                let _ = reply.send(Ok(Some(entry)));
            }
            Effect::Removed { durable: true, reply } => self.waiting.push(reply),
            Effect::Removed { durable: false, reply } => drop(reply.send(Ok(true))),
        }
    }

    /// Makes everything written durable and tells who waits for it.
    async fn sync(&mut self) -> Result<(), WriteError> {
        if self.open.is_none() && (self.void.is_some() || !self.gone.is_empty()) {
            // What was given up is settled once a newer segment says so.
            self.create().await.map_err(|error| self.break_open(error, Vec::new()))?;
            self.flush().await;
        }
        if let Some(open) = &self.open {
            if let Err(error) = open.segment.sync(open.end).await {
                return Err(self.break_open(error, Vec::new()));
            }
            self.void = None;
            self.gone.clear();
            self.tier.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        if self.void.is_none() && self.gone.is_empty() {
            self.tier.unsettled.store(false, Ordering::SeqCst);
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Ok(true));
        }
        Ok(())
    }

    /// Ends the open segment with its summary. Without one it is as good, but the next start has to scan it.
    async fn seal(&mut self) -> Result<(), WriteError> {
        debug_assert!(self.batch.pieces.is_empty(), "a batch is written before its segment is sealed");
        self.sync().await?;
        let Some(open) = self.open.take() else { return Ok(()) };
        if let Err(error) = open.segment.seal(open.end, self.tier.next_fill.load(Ordering::Relaxed)).await {
            self.tier.counters.write_errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(disk = %self.tier.path.display(), segment = open.segment.id, %error, "segment left without a summary");
        }
        Ok(())
    }

    /// Gives the open segment up after a failed write or sync, and tells everybody whose bytes may be lost.
    fn break_open(&mut self, error: io::Error, effects: Vec<Effect>) -> WriteError {
        let error = WriteError::Io(Arc::new(error));
        if let Some(open) = self.open.take() {
            let segment = &*open.segment;
            tracing::warn!(disk = %self.tier.path.display(), segment = segment.id, error = ?error, "segment given up");
            self.tier.counters.write_errors.fetch_add(1, Ordering::Relaxed);
            let offset = u32::try_from(segment.synced_to()).expect("an open segment has offsets of 32 bits");
            self.void.get_or_insert(Void { segment: segment.id, offset });
            self.tier.unsettled.store(true, Ordering::SeqCst);
            segment.broke();
            if let Some(entries) = &mut *segment.entries() {
                entries.retain(|entry| {
                    let place = place_of(segment.id, entry);
                    let kept = segment.is_durable(place.end());
                    if !kept {
                        self.tier.drop_if(name(entry.key), place);
                        self.gone.insert(entry.key);
                    }
                    kept
                });
            }
        }
        for effect in effects {
            effect.fail(&error);
        }
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(Err(error.clone()));
        }
        error
    }
}
