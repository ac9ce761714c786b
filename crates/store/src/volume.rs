//! A volume is one disk as its readers see it: segments, the index over them, and checked reads.
//!
//! Only the writer (`writer`) adds to it; readers only remove entries that turn out to be dead or corrupt.

use std::collections::BTreeMap;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::disk::{Disk, DiskFile};
use crate::format::{self, Kind, RECORD_HEADER_BYTES, SliceAt, SummaryEntry, TRAILER_BYTES, Void};
use crate::held::Held;
use crate::index::{Index, Place, name};
use crate::memory::Memory;
use crate::object::Entry;
use crate::outage::Outage;
use crate::pins::Pins;
use crate::stats::Counters;
use crate::{ReadError, WriteError};

/// Where to read bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Wherever the operating system has them, cached or not.
    Anywhere,
    /// The medium itself, to prove that they are there.
    Medium,
}

/// A segment's file and its state. Readers keep it open: after eviction only the file's name is gone.
pub(crate) struct Segment {
    pub(crate) id: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The part of the log before it that does not count, according to its header.
    pub(crate) void: Option<Void>,
    /// Bytes it takes of the disk's capacity.
    pub(crate) allocated: AtomicU64,
    /// Bytes from its start that a finished sync covers; `u64::MAX` once sealed.
    synced_to: AtomicU64,
    /// A write or sync failed: nothing is appended any more, and bytes past `synced_to` may be lost.
    broken: AtomicBool,
    /// Its room was taken back from the readers that held it: it is empty.
    pub(crate) taken_back: AtomicBool,
    /// Its heads and tombstones, until a summary on disk lists them.
    unsealed: Mutex<Option<Vec<SummaryEntry>>>,
}

impl Segment {
    pub(crate) fn new(id: u32, file: Arc<dyn DiskFile>, allocated: u64, void: Option<Void>) -> Segment {
        Segment {
            id,
            file,
            void,
            allocated: AtomicU64::new(allocated),
            synced_to: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            taken_back: AtomicBool::new(false),
            unsealed: Mutex::new(Some(Vec::new())),
        }
    }

    pub(crate) fn is_durable(&self, end: u64) -> bool {
        end <= self.synced_to.load(Ordering::Acquire)
    }

    /// Whether bytes up to `end` may be lost although their write succeeded.
    pub(crate) fn is_lost(&self, end: u64) -> bool {
        self.broken.load(Ordering::Acquire) && !self.is_durable(end)
    }

    pub(crate) fn synced_to(&self) -> u64 {
        self.synced_to.load(Ordering::Acquire)
    }

    /// Makes everything before `end` durable.
    pub(crate) async fn sync(&self, end: u64) -> io::Result<()> {
        self.file.sync().await?;
        self.synced(end);
        Ok(())
    }

    /// Records that a finished sync covers everything before `end`.
    pub(crate) fn synced(&self, end: u64) {
        self.synced_to.fetch_max(end, Ordering::AcqRel);
    }

    /// Writes the summary after the `end` of the records. They must be durable by then: a summary that survives a crash
    /// is trusted.
    pub(crate) async fn seal(&self, end: u64, next_fill: u64) -> io::Result<()> {
        assert!(self.is_durable(end), "segment {} sealed at {end}, synced to {}", self.id, self.synced_to());
        let entries = self.entries().clone().unwrap_or_default();
        let summary = format::encode_summary(self.id, end, &entries, next_fill);
        let length = end + summary.len() as u64;
        self.file.set_length(length).await?;
        self.file.write(end, vec![summary]).await?;
        self.file.sync().await?;
        self.sealed(length);
        Ok(())
    }

    /// Records that its summary, at the end of its `length` bytes, is durable, and so is everything before it.
    pub(crate) fn sealed(&self, length: u64) {
        self.allocated.store(length, Ordering::Relaxed);
        *self.entries() = None;
        self.synced_to.store(u64::MAX, Ordering::Release);
    }

    pub(crate) fn broke(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub(crate) fn entries(&self) -> MutexGuard<'_, Option<Vec<SummaryEntry>>> {
        self.unsealed.lock().expect("no code panics while it holds the entries")
    }
}

/// One disk of the store.
pub(crate) struct Volume {
    /// Its number among the disks of this store.
    pub(crate) number: u16,
    pub(crate) path: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) capacity_bytes: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) slice_bytes: usize,
    pub(crate) index: Index,
    pub(crate) memory: Arc<Memory>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) next_fill: AtomicU64,
    /// Something left the index, and the log does not durably record that yet: it may be back after a crash.
    pub(crate) unsettled: AtomicBool,
    /// Whether and why the disk was taken out of service, and whether that is settled.
    pub(crate) outage: Outage,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    /// No segment has a lower id.
    oldest: AtomicU32,
    /// The segments sifted last: a lookup that found a place there a moment ago may still read it.
    left: Mutex<Vec<Arc<Segment>>>,
    /// Segments that only readers still hold.
    pub(crate) held: Held,
    /// By segment, the names of objects that have a part of their body there and their head elsewhere. For objects
    /// found at recovery only the oldest part is listed. May include objects replaced since.
    spanning: Mutex<BTreeMap<u32, Vec<u64>>>,
    /// Objects that are kept whatever else is stored.
    pub(crate) pins: Pins,
}

impl Volume {
    pub(crate) fn new(
        number: u16,
        path: PathBuf,
        disk: Arc<dyn Disk>,
        capacity_bytes: u64,
        segment_bytes: u64,
        memory: Arc<Memory>,
        counters: Arc<Counters>,
    ) -> Volume {
        // At least four slices per segment, or the gap at its end would take much of it.
        let slice_bytes = format::SLICE_BYTES_MAX.min(segment_bytes as usize / 4);
        Volume {
            number,
            path,
            disk,
            capacity_bytes,
            segment_bytes,
            slice_bytes,
            index: Index::new(),
            memory,
            counters,
            next_fill: AtomicU64::new(1),
            unsettled: AtomicBool::new(false),
            outage: Outage::default(),
            segments: RwLock::default(),
            oldest: AtomicU32::new(0),
            left: Mutex::default(),
            held: Held::new(capacity_bytes),
            spanning: Mutex::default(),
            pins: Pins::new(capacity_bytes),
        }
    }

    /// The largest body this disk accepts: its slices must not push each other out, and its head must list them all.
    pub(crate) fn body_bytes_max(&self) -> u64 {
        (self.capacity_bytes / 2).min(self.slice_bytes as u64 * format::SLICES_MAX)
    }

    /// The error of every operation once the disk is out of service.
    pub(crate) fn out_of_service(&self) -> WriteError {
        let cause = self.outage.cause().unwrap_or_default().to_owned();
        WriteError::OutOfService { path: self.path.clone(), cause }
    }

    // Segments

    /// A segment that can be read: one of the log, or one that was sifted a moment ago.
    pub(crate) fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segment_of_log(id).or_else(|| self.left().iter().find(|left| left.id == id).cloned())
    }

    /// A segment that new records may refer to.
    pub(crate) fn segment_of_log(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.read().expect("no code panics while it holds the segments").get(&id).cloned()
    }

    pub(crate) fn left(&self) -> MutexGuard<'_, Vec<Arc<Segment>>> {
        self.left.lock().expect("no code panics while it holds these segments")
    }

    /// Sets the segments sifted last; the previous ones are released, and remain only while readers hold them.
    pub(crate) fn leave_segments(&self, sifted: Vec<Arc<Segment>>) {
        *self.left() = sifted;
    }

    /// The total bytes of the segments after `after` and before `open`, and the oldest of them.
    pub(crate) fn segments_between(&self, after: u32, open: u32) -> (u64, Option<Arc<Segment>>) {
        let segments = self.segments.read().expect("no code panics while it holds the segments");
        let mut between = segments.range(after.saturating_add(1)..open.max(after.saturating_add(1))).map(|(_, it)| it);
        let oldest = between.next();
        let bytes = oldest.into_iter().chain(between).map(|segment| segment.allocated.load(Ordering::Relaxed)).sum();
        (bytes, oldest.cloned())
    }

    /// For each segment, the total bytes of those before it.
    pub(crate) fn bytes_before(&self) -> BTreeMap<u32, u64> {
        let segments = self.segments.read().expect("no code panics while it holds the segments");
        let sum = |before: &mut u64, (id, segment): (&u32, &Arc<Segment>)| {
            let at = *before;
            *before += segment.allocated.load(Ordering::Relaxed);
            Some((*id, at))
        };
        segments.iter().scan(0, sum).collect()
    }

    pub(crate) fn oldest_segment(&self) -> Option<Arc<Segment>> {
        let segments = self.segments.read().expect("no code panics while it holds the segments");
        segments.first_key_value().map(|(_, segment)| segment.clone())
    }

    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write().expect("no code panics while it holds the segments");
        segments.insert(segment.id, segment);
        self.note_oldest(&segments);
    }

    /// Forgets a segment; readers that hold it may go on reading.
    pub(crate) fn forget_segment(&self, id: u32) {
        let mut segments = self.segments.write().expect("no code panics while it holds the segments");
        let forgotten = segments.remove(&id);
        self.note_oldest(&segments);
        forgotten.iter().for_each(|segment| self.held.note(segment));
    }

    fn note_oldest(&self, segments: &BTreeMap<u32, Arc<Segment>>) {
        if let Some((&id, _)) = segments.first_key_value() {
            self.oldest.store(id, Ordering::Release);
        }
    }

    /// Number of segments, and the bytes they take including segments that readers hold.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let held = self.held_bytes();
        let segments = self.segments.read().expect("no code panics while it holds the segments");
        let bytes: u64 = segments.values().map(|segment| segment.allocated.load(Ordering::Relaxed)).sum();
        (segments.len() as u64, held + bytes)
    }

    /// The heads and tombstones of a segment, from memory or from its summary.
    pub(crate) async fn entries(&self, segment: &Segment) -> Result<Vec<SummaryEntry>, ReadError> {
        let unsealed = segment.entries().clone();
        if let Some(entries) = unsealed {
            return Ok(entries);
        }
        let length = segment.file.length().await.map_err(|e| self.io_error(segment.id, e))?;
        match read_summary(segment.id, &*segment.file, length).await.map_err(|e| self.io_error(segment.id, e))? {
            Some((_, entries)) => Ok(entries),
            None => Err(self.corrupt(segment.id, 0)),
        }
    }

    /// Notes that an object has a part of its body, but not its head, in `segment`.
    pub(crate) fn note_spanning(&self, segment: u32, name: u64) {
        let mut spanning = self.spanning.lock().expect("no code panics while it holds the names");
        let names = spanning.entry(segment).or_default();
        if names.last() != Some(&name) {
            names.push(name);
        }
    }

    /// Notes every segment that holds a part of the body but not the head.
    pub(crate) fn note_parts(&self, entry: &Entry) {
        let mut last = entry.place.segment;
        for slice in &entry.record.slices {
            if slice.segment != last && slice.segment != entry.place.segment {
                self.note_spanning(slice.segment, name(entry.key));
            }
            last = slice.segment;
        }
    }

    /// The names noted for a segment by [`Volume::note_spanning`].
    pub(crate) fn spanning(&self, segment: u32) -> Vec<u64> {
        let spanning = self.spanning.lock().expect("no code panics while it holds the names");
        spanning.get(&segment).cloned().unwrap_or_default()
    }

    /// Forgets the names noted for segments that are gone.
    pub(crate) fn forget_spanning(&self, gone: RangeInclusive<u32>) {
        let mut spanning = self.spanning.lock().expect("no code panics while it holds the names");
        spanning.retain(|segment, _| !gone.contains(segment));
    }

    // Lookups

    /// Whether every slice of the body is in a segment that exists.
    pub(crate) fn is_alive(&self, entry: &Entry) -> bool {
        entry.oldest_segment().is_none_or(|first| first >= self.oldest.load(Ordering::Acquire))
    }

    /// Notes a request for an object, which decides whether the object is kept when its segment is reclaimed.
    pub(crate) fn note_asked(&self, entry: &Entry) {
        // The lock of the index is taken once for each time the object comes into memory, not at every hit.
        if !entry.asked.load(Ordering::Relaxed) && !entry.asked.swap(true, Ordering::Relaxed) {
            let name = name(entry.key);
            self.index.lock(name).note_asked(name, entry.place);
        }
    }

    /// Finds the head of an object on disk, and loads it into memory. The full key is not compared here.
    pub(crate) async fn find(&self, name: u64) -> Result<Option<Arc<Entry>>, ReadError> {
        let Some(place) = self.readable(name) else { return Ok(None) };
        let entry = match self.load(name, place).await {
            Ok(entry) => Arc::new(entry),
            Err(ReadError::Evicted) => return Ok(None),
            Err(error) => {
                self.drop_unreadable(name, place, &error);
                return Err(error);
            }
        };
        if !self.is_alive(&entry) {
            self.drop_if(name, place);
            return Ok(None);
        }
        let shard = self.index.lock(name);
        if shard.get(name) == Some(place) {
            self.memory.insert_head(entry.clone());
        }
        drop(shard);
        Ok(Some(entry))
    }

    /// Makes `entry` visible to lookups; `false` if the disk has been taken out of service.
    pub(crate) fn publish(&self, entry: &Arc<Entry>) -> bool {
        let name = name(entry.key);
        let mut shard = self.index.lock(name);
        if self.outage.is_out() {
            return false;
        }
        shard.insert(name, entry.place);
        self.pins.placed(name, || entry.extent());
        self.memory.insert_head(entry.clone());
        true
    }

    /// Pins the object `entry`, if it is still current; `None` if not, else whether there was room.
    pub(crate) fn pin(&self, entry: &Entry) -> Option<bool> {
        let name = name(entry.key);
        let shard = self.index.lock(name);
        (shard.get(name) == Some(entry.place)).then(|| self.pins.pin(name, entry.extent()))
    }

    /// Makes `entry`, the copy of an object, visible in place of the original at `old`.
    pub(crate) fn publish_moved(&self, old: Place, entry: Entry) {
        let name = name(entry.key);
        let mut shard = self.index.lock(name);
        if shard.get(name) != Some(old) {
            return;
        }
        shard.insert_moved(name, entry.place);
        self.pins.placed(name, || entry.extent());
        // An object in memory stays there with the bytes it has; moving an object does not load it.
        if let Some(before) = self.memory.peek_head(name) {
            self.memory.replace_head(Arc::new(Entry { held: before.held.clone(), ..entry }));
        }
    }

    /// Removes the head at `place` from the index and memory, if it is still current.
    pub(crate) fn drop_if(&self, name: u64, place: Place) -> bool {
        let mut shard = self.index.lock(name);
        let current = shard.get(name) == Some(place);
        if current {
            shard.remove(name);
            self.pins.unpin(name);
            self.memory.remove_head(name);
        }
        current
    }

    /// Drops an object whose bytes are gone. One whose bytes are corrupt or unreadable is no longer found, so that it
    /// is fetched again, but stays in the index: its head may be back after a restart, so its removal must be written
    /// to the log. One that could not be read for a [passing](ReadError::is_passing) reason stays as it is.
    pub(crate) fn drop_unreadable(&self, name: u64, place: Place, error: &ReadError) {
        match error {
            error if error.is_passing() => {}
            ReadError::Evicted => drop(self.drop_if(name, place)),
            ReadError::Io { .. } | ReadError::Corrupt { .. } => {
                let mut shard = self.index.lock(name);
                if shard.get(name) == Some(place) {
                    shard.note_unreadable(name, place);
                    self.pins.lose(name);
                    self.memory.remove_head(name);
                }
            }
            ReadError::FillFailed => {}
        }
    }

    /// The place of the object under `name`, unless it was found unreadable.
    pub(crate) fn readable(&self, name: u64) -> Option<Place> {
        let shard = self.index.lock(name);
        shard.get(name).filter(|_| !shard.is_unreadable(name))
    }

    /// The place of the object under `name`, if it was found unreadable.
    pub(crate) fn unreadable(&self, name: u64) -> Option<Place> {
        let shard = self.index.lock(name);
        shard.get(name).filter(|_| shard.is_unreadable(name))
    }

    /// Drops all objects, because the disk is out of service: from now on nothing is found on it.
    pub(crate) fn forget_all(&self) {
        for number in 0..crate::index::SHARDS {
            let mut shard = self.index.shard(number);
            for name in shard.names() {
                self.memory.remove_head(name);
            }
            shard.clear();
        }
        self.pins.clear();
    }

    /// The heads that a segment had when it was written; some may have been replaced since.
    pub(crate) async fn heads_of(&self, segment: &Segment) -> Vec<(u64, Place)> {
        match self.entries(segment).await {
            Ok(entries) => {
                let heads = entries.iter().filter(|entry| entry.kind == Kind::Head);
                heads.map(|entry| (name(entry.key), place_of(segment.id, entry))).collect()
            }
            Err(error) => {
                tracing::warn!(disk = %self.path.display(), segment = segment.id, %error, "summary unreadable, index searched");
                (0..crate::index::SHARDS).flat_map(|shard| self.index.shard(shard).places_in(segment.id)).collect()
            }
        }
    }

    /// Drops the heads of a segment that is gone; returns how many were still current.
    pub(crate) fn drop_heads(&self, segment: u32, heads: Vec<(u64, Place)>) -> u64 {
        // Pinned objects that could be moved have been moved before.
        for name in self.pins.of_segment(segment) {
            self.pins.lose(name);
        }
        heads.into_iter().map(|(name, place)| u64::from(self.drop_if(name, place))).sum()
    }

    // Reads

    /// Reads the head at `place`, and the body's only slice if it is adjacent.
    pub(crate) async fn load(&self, wanted: u64, place: Place) -> Result<Entry, ReadError> {
        self.load_from(Source::Anywhere, wanted, place).await
    }

    /// As [`Volume::load`].
    pub(crate) async fn load_from(&self, source: Source, wanted: u64, place: Place) -> Result<Entry, ReadError> {
        let segment = self.segment(place.segment).ok_or(ReadError::Evicted)?;
        let (offset, lead) = (place.offset, place.lead);
        let believed = lead as usize <= RECORD_HEADER_BYTES + format::SLICE_BYTES_MAX;
        let start = offset.checked_sub(lead).filter(|_| believed).ok_or_else(|| self.corrupt(segment.id, offset))?;
        let bytes = self.read(source, &segment, start, lead as usize + place.length as usize).await?;
        self.entry(&segment, wanted, place, bytes)
    }

    /// Decodes the bytes of `place`, from the start of the slice beside the head to the end of the head.
    pub(crate) fn entry(&self, segment: &Segment, wanted: u64, place: Place, bytes: Bytes) -> Result<Entry, ReadError> {
        let (offset, lead) = (place.offset, place.lead);
        let start = offset.saturating_sub(lead);
        let found = self.check(segment, offset, bytes.slice((lead as usize).min(bytes.len())..), Kind::Head)?;
        let record = format::decode_head(&found.payload).ok_or_else(|| self.corrupt(segment.id, offset))?;
        if name(found.header.key) != wanted {
            return Err(self.corrupt(segment.id, offset));
        }
        let mut held = SmallVec::new();
        if let ([slice], true) = (&*record.slices, lead > 0)
            && (slice.segment, slice.offset) == (segment.id, start)
        {
            let beside = self.check(segment, start, bytes.slice(..lead as usize), Kind::Slice)?;
            if beside.payload.len() != slice.length as usize {
                return Err(self.corrupt(segment.id, start));
            }
            held.push(beside.payload);
        }
        let (key, generation) = (found.header.key, found.header.fill);
        Ok(Entry::new(key, generation, place, record, held))
    }

    /// A slice, from memory or from disk; `segment` is the one that holds it, if the caller kept it.
    pub(crate) async fn slice(
        &self,
        segment: Option<Arc<Segment>>,
        slice: &SliceAt,
        fill: u64,
        number: u32,
    ) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.memory.slice(self.number, fill, number) {
            return Ok(bytes);
        }
        let segment = segment.or_else(|| self.segment(slice.segment)).ok_or(ReadError::Evicted)?;
        let bytes = self.read_slice(Source::Anywhere, &segment, slice, fill, number).await?;
        self.memory.insert_slice(self.number, fill, number, bytes.clone());
        Ok(bytes)
    }

    /// Reads `part` of a slice that was read whole before; `crc` is the checksum that part had then.
    pub(crate) async fn piece(
        &self,
        segment: Option<Arc<Segment>>,
        slice: &SliceAt,
        part: Range<usize>,
        crc: u32,
    ) -> Result<Bytes, ReadError> {
        let segment = segment.or_else(|| self.segment(slice.segment)).ok_or(ReadError::Evicted)?;
        let offset = slice.offset + (RECORD_HEADER_BYTES + part.start) as u32;
        let bytes = self.read(Source::Anywhere, &segment, offset, part.len()).await?;
        if crc32fast::hash(&bytes) == crc { Ok(bytes) } else { Err(self.corrupt(segment.id, slice.offset)) }
    }

    /// Reads a slice from disk and checks that it is the expected one.
    pub(crate) async fn read_slice(
        &self,
        source: Source,
        segment: &Segment,
        slice: &SliceAt,
        fill: u64,
        number: u32,
    ) -> Result<Bytes, ReadError> {
        if slice.length as usize > format::SLICE_BYTES_MAX {
            return Err(self.corrupt(segment.id, slice.offset));
        }
        let bytes = self.read(source, segment, slice.offset, RECORD_HEADER_BYTES + slice.length as usize).await?;
        let record = self.check(segment, slice.offset, bytes, Kind::Slice)?;
        let header = record.header;
        if (header.fill, header.number, header.payload_crc) != (fill, number, slice.crc) {
            return Err(self.corrupt(segment.id, slice.offset));
        }
        Ok(record.payload)
    }

    pub(crate) async fn read(
        &self,
        source: Source,
        segment: &Segment,
        offset: u32,
        length: usize,
    ) -> Result<Bytes, ReadError> {
        let read = match source {
            Source::Anywhere => segment.file.read(u64::from(offset), length),
            Source::Medium => segment.file.read_medium(u64::from(offset), length),
        };
        let bytes = read.await.map_err(|error| self.io_error(segment.id, error))?;
        self.outage.read_went_well();
        self.counters.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if bytes.len() != length {
            if segment.taken_back.load(Ordering::Acquire) {
                return Err(ReadError::Evicted);
            }
            return Err(self.corrupt(segment.id, offset));
        }
        Ok(self.memory.buffers.count(bytes))
    }

    fn check(&self, segment: &Segment, offset: u32, bytes: Bytes, kind: Kind) -> Result<Record, ReadError> {
        let header = format::decode_record_header(segment.id, &bytes);
        let payload = bytes.slice(RECORD_HEADER_BYTES.min(bytes.len())..);
        match header {
            Some(header)
                if header.kind == kind
                    && header.payload_length as usize == payload.len()
                    && crc32fast::hash(&payload) == header.payload_crc =>
            {
                Ok(Record { header, payload })
            }
            _ => Err(self.corrupt(segment.id, offset)),
        }
    }

    pub(crate) fn corrupt(&self, segment: u32, offset: u32) -> ReadError {
        self.counters.read_errors.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(disk = %self.path.display(), segment, offset, "checksum mismatch");
        ReadError::Corrupt { segment, offset }
    }

    fn io_error(&self, segment: u32, error: io::Error) -> ReadError {
        self.counters.read_errors.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(disk = %self.path.display(), segment, %error, "read failed");
        if self.outage.read_failed(&error) {
            self.forget_all();
            tracing::error!(disk = %self.path.display(), %error, "disk taken out of service");
        }
        ReadError::Io { segment, source: Arc::new(error) }
    }
}

struct Record {
    header: format::RecordHeader,
    payload: Bytes,
}

pub(crate) fn place_of(segment: u32, entry: &SummaryEntry) -> Place {
    Place { segment, offset: entry.offset, length: entry.length, lead: entry.lead }
}

/// The trailer and the entries of a sealed segment of `length` bytes; `None` if it has no complete summary.
pub(crate) async fn read_summary(
    id: u32,
    file: &dyn DiskFile,
    length: u64,
) -> io::Result<Option<(format::Trailer, Vec<SummaryEntry>)>> {
    let Some(trailer_at) = length.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let bytes = file.read(trailer_at, TRAILER_BYTES).await?;
    let Some(trailer) = format::decode_trailer(id, &bytes) else { return Ok(None) };
    let size = u64::from(trailer.entries) * format::SUMMARY_ENTRY_BYTES as u64;
    if trailer.summary_offset.checked_add(size) != Some(trailer_at) {
        return Ok(None);
    }
    let bytes = file.read(trailer.summary_offset, size as usize).await?;
    Ok(format::decode_summary(id, &trailer, &bytes).map(|entries| (trailer, entries)))
}
