//! Sifting: objects that were not requested again leave a segment while it is young.
//!
//! Most of what a cache stores is never requested again, and must not take up disk for a whole pass through the log. So
//! a segment that is no longer among the newest tenth of the disk is sifted once: objects requested since they were
//! written are copied to a smaller segment, and the rest is dropped. Together with the second chance at the log's end
//! (`reclaim`) this is S3-FIFO (Yang et al., SOSP 2023), with segments for queues.
//!
//! The smaller segment has the next id, which is reserved for it, and so takes the very place of the sifted one in the
//! order of the log: what lies between a head and the record that replaced or removed it stays the same.
//!
//! # What always holds
//!
//! - A segment is removed only after the objects kept from it, and all heads that name them, are durable: a crash in
//!   between loses nothing.
//! - A head that is dropped without being replaced leaves a tombstone in its place, if an older head of its key may be
//!   before it.
//! - A segment with slices of a running fill stays as it is, and so does one of which little would be dropped.
//! - Objects found at recovery are not sifted, as it is unknown which of them were requested. Nor are objects that
//!   return soon after they were sifted out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{BATCH_BYTES, Effect, Writer};
use crate::format::{self, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SliceAt, SummaryEntry, Void};
use crate::index::{Place, name};
use crate::object::Entry;
use crate::volume::{Segment, Source, Volume};
use crate::{Key, ReadError, WriteError};

/// One part in this many of a disk is for segments not yet sifted.
const YOUNG_PART: u64 = 10;

/// Minimum number of segments not yet sifted.
const YOUNG_SEGMENTS_MIN: u64 = 2;

/// A disk with fewer segments is not sifted: the granularity would be too coarse.
const SIFTED_SEGMENTS_MIN: u64 = 16;

/// A segment of which more than this many tenths would be kept is left as it is.
const KEPT_TENTHS_MAX: u64 = 9;

/// The remainders of consecutive segments are joined into one segment, as long as it takes at most one part in this
/// many of a whole one: this keeps files few, and copies little twice.
const JOINED_PART: u64 = 2;

/// What sifting does with a segment.
#[derive(Default)]
struct Plan {
    kept: Vec<Kept>,
    /// Objects to drop: keys and places of their heads.
    dropped: Vec<(Key, Place)>,
    /// Keys whose older heads must not come back.
    tombstones: Vec<Key>,
    /// Bytes of all kept records.
    bytes: u64,
    /// The part of the log before it that does not count.
    void: Option<Void>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.tombstones.is_empty() && self.void.is_none()
    }
}

/// An object with its head or slices in a segment being sifted.
struct Kept {
    key: Key,
    place: Place,
    /// Segment and offset of its first record.
    first: (u32, u32),
}

impl Writer {
    /// Bytes of the segments before the open one that may still be sifted, and the oldest of them.
    pub(super) fn young(&self, open: &Segment) -> (u64, Option<Arc<Segment>>) {
        if self.volume.capacity_bytes / self.volume.segment_bytes < SIFTED_SEGMENTS_MIN {
            return (0, None);
        }
        self.volume.segments_between(self.sifted_to, open.id)
    }

    /// Sifts segments, as long as there is no room for `spare` more and the young ones take more than their part.
    pub(super) async fn sift_young(&mut self, open: &mut Arc<Segment>, spare: u64) -> Result<(), WriteError> {
        let (segment_bytes, capacity) = (self.volume.segment_bytes, self.volume.capacity_bytes);
        let young_max = (capacity / YOUNG_PART).max(YOUNG_SEGMENTS_MIN * segment_bytes);
        self.running.retain(|_, fill| fill.upgrade().is_some_and(|fill| fill.failure().is_none()));
        while self.volume.usage().1 + spare * segment_bytes > capacity
            && let (young, Some(next)) = self.young(open)
            && young > young_max
        {
            self.sifted_to = next.id + 1;
            let mut fills = self.running.values().filter_map(std::sync::Weak::upgrade);
            let last = self.sifted_last.take().and_then(|last| self.volume.segment(last));
            if fills.any(|fill| fill.segment(next.id).is_some()) {
                continue;
            }
            self.sift(next, last, open).await?;
        }
        Ok(())
    }

    /// Sifts a segment; what remains of it is joined with what remained of `last`, if both are small.
    async fn sift(
        &mut self,
        young: Arc<Segment>,
        last: Option<Arc<Segment>>,
        open: &mut Arc<Segment>,
    ) -> Result<(), WriteError> {
        let volume = self.volume.clone();
        // Their room is needed.
        volume.leave_segments(Vec::new());
        self.take_back().await?;
        // There is at most one, so that they do not add up on a disk that removes nothing.
        if self.remove_unfinished().await.is_err() {
            return Ok(());
        }
        let id = young.id + 1;
        let most = young.allocated.load(Ordering::Relaxed) / 10 * KEPT_TENTHS_MAX;
        let mut from = vec![young];
        let Some(mut plan) = self.plan(&from).await.filter(|plan| plan.bytes <= most) else { return Ok(()) };
        let joined = |last: &Arc<Segment>| last.allocated.load(Ordering::Relaxed) + plan.bytes;
        if let Some(last) = last.filter(|last| joined(last) <= volume.segment_bytes / JOINED_PART) {
            from.insert(0, last);
            let Some(both) = self.plan(&from).await else { return Ok(()) };
            plan = both;
        }
        // A void that one of them records must be recorded for as long as the segment it names exists.
        let there = |void: &Void| holder(&from, void.segment).is_none() && volume.segment(void.segment).is_some();
        plan.void =
            from.iter().filter_map(|segment| segment.void).filter(there).min_by_key(|void| (void.segment, void.offset));
        let moved = if plan.is_empty() {
            Vec::new()
        } else {
            let Some(moved) = self.write_kept(id, &from, &mut plan).await else { return Ok(()) };
            self.sifted_last = Some(id);
            moved
        };

        let kept = moved.len() as u64;
        let (here, elsewhere): (Vec<_>, Vec<_>) = moved.into_iter().partition(|(_, entry)| entry.place.segment == id);
        // They are durable. If anything below fails, the originals leave the disk before the copies, and until then the
        // index must name the copies: an object that left it with its original could be back after a restart.
        for (old, entry) in here {
            volume.note_parts(&entry);
            volume.publish_moved(old, entry);
        }

        // An object with its head in a newer segment gets a newer head, or a tombstone.
        for (old, mut entry) in elsewhere {
            let record = &entry.record;
            let length = format::head_length(&record.full_key, &record.head, record.slices.len());
            self.go_on(open, RECORD_HEADER_BYTES + length).await?;
            self.add_head(open, &mut entry, 0);
            self.batch.effects.push(Effect::Moved { old, entry: Box::new(entry) });
            if self.batch.bytes >= BATCH_BYTES {
                self.flush_open(open).await?;
            }
        }
        self.ghosts.grow_to(volume.index.len());
        let (with_segment, alone): (Vec<_>, Vec<_>) =
            plan.dropped.into_iter().partition(|(_, place)| holder(&from, place.segment).is_some());
        if !alone.is_empty() {
            volume.unsettled.store(true, Ordering::SeqCst);
        }
        for (key, place) in alone {
            // Room first: an object must not leave the index without a tombstone.
            self.go_on(open, RECORD_HEADER_BYTES).await?;
            if self.drop_sifted(key, place) {
                self.add_tombstone(open, key);
            }
        }
        self.flush_open(open).await?;
        self.sync_open().await?;

        volume.counters.kept_objects.fetch_add(kept, Ordering::Relaxed);
        volume.counters.sifted_segments.fetch_add(1, Ordering::Relaxed);
        // Oldest first, or a crash in between could bring back objects that a newer segment had removed.
        volume.leave_segments(from.clone());
        for segment in from {
            if let Err(error) = volume.disk.remove(&format::segment_name(segment.id)).await {
                // It is removed when it is the oldest.
                tracing::warn!(disk = %volume.path.display(), segment = segment.id, %error, "sifted segment not removed");
                break;
            }
            // Not before: as long as the object may be back after a crash, it must be found, so that its removal is
            // logged.
            for (key, place) in with_segment.iter().filter(|(_, place)| place.segment == segment.id) {
                self.drop_sifted(*key, *place);
            }
            volume.forget_segment(segment.id);
            volume.forget_spanning(segment.id..=segment.id);
        }
        Ok(())
    }

    /// Drops an object that was sifted out; false if it has been replaced by now.
    fn drop_sifted(&mut self, key: Key, place: Place) -> bool {
        let dropped = self.volume.drop_if(name(key), place);
        if dropped {
            self.ghosts.note(name(key));
            self.volume.counters.evicted_objects.fetch_add(1, Ordering::Relaxed);
        }
        dropped
    }

    /// Decides which objects of consecutive segments are kept; `None` if that cannot be determined.
    async fn plan(&self, from: &[Arc<Segment>]) -> Option<Plan> {
        let volume = &*self.volume;
        let here = |id| holder(from, id).is_some();
        let mut names = BTreeSet::new();
        let (mut keys, mut removed) = (BTreeMap::new(), BTreeSet::new());
        for segment in from {
            for entry in volume.entries(segment).await.ok()? {
                names.insert(name(entry.key));
                keys.insert(name(entry.key), entry.key);
                removed.extend((entry.kind == Kind::Tombstone).then(|| name(entry.key)));
            }
            names.extend(volume.spanning(segment.id));
        }
        let mut plan = Plan::default();
        for name in names {
            let key = keys.get(&name).copied();
            let (place, wanted, older) = {
                let mut shard = volume.index.lock(name);
                let Some(place) = shard.get(name) else {
                    plan.tombstones.extend(key);
                    continue;
                };
                // The newest record must stand in for those dropped here: once it goes, it leaves a tombstone.
                if removed.contains(&name) || key.is_some() && !here(place.segment) {
                    shard.note_older(name);
                }
                let asked = shard.asked(name, place) > 0 || shard.is_settled(name) || volume.pins.holds(name);
                (place, asked && !shard.is_unreadable(name), shard.has_older(name))
            };
            if here(place.segment) && !wanted {
                let key = key?;
                plan.dropped.push((key, place));
                plan.tombstones.extend(older.then_some(key));
                continue;
            }
            if place.lead > 0 {
                // Body and head are adjacent, both here or both elsewhere.
                if here(place.segment) {
                    plan.bytes += u64::from(place.lead) + u64::from(place.length);
                    let first = (place.segment, place.offset.checked_sub(place.lead)?);
                    plan.kept.push(Kept { key: key?, place, first });
                }
                continue;
            }
            let entry = volume.load(name, place).await.ok()?;
            let slices = || entry.record.slices.iter().filter(|slice| here(slice.segment));
            let bytes: u64 = slices().map(|slice| RECORD_HEADER_BYTES as u64 + u64::from(slice.length)).sum();
            let first = slices().map(|slice| (slice.segment, slice.offset)).min();
            if here(place.segment) {
                plan.bytes += bytes + u64::from(place.length);
                let first = first.unwrap_or((place.segment, place.offset));
                plan.kept.push(Kept { key: entry.key, place, first });
            } else if let Some(first) = first {
                plan.bytes += bytes;
                match wanted {
                    true => plan.kept.push(Kept { key: entry.key, place, first }),
                    false => plan.dropped.push((entry.key, place)),
                }
            }
        }
        plan.kept.sort_by_key(|kept| kept.first);
        Some(plan)
    }

    /// Writes the kept objects to the segment that replaces the sifted ones, and makes it durable. Returns the former
    /// places of the heads and the new entries; heads that are elsewhere are still to be written. Objects that could
    /// not be read are moved to the dropped ones in the plan. `None` if the disk failed: then nothing has changed.
    async fn write_kept(&mut self, id: u32, from: &[Arc<Segment>], plan: &mut Plan) -> Option<Vec<(Place, Entry)>> {
        let volume = self.volume.clone();
        let failed = |this: &Writer, error: io::Error| {
            tracing::warn!(disk = %this.volume.path.display(), segment = id, %error, "segment not sifted");
            // A disk filled by other files has not failed.
            if error.kind() != io::ErrorKind::StorageFull {
                this.failed(error);
            }
        };
        let lines = plan.kept.len() + plan.tombstones.len();
        let tombstones = (lines * RECORD_HEADER_BYTES) as u64;
        let length = SEGMENT_HEADER_BYTES as u64 + plan.bytes + tombstones + format::summary_length(lines) as u64;
        let created = volume.disk.create(&format::segment_name(id), length).await;
        let file = created.map_err(|error| failed(self, error)).ok()?;
        let segment = Arc::new(Segment::new(id, file, length, plan.void));
        match Sifted::new(segment.clone()).fill(&volume, from, plan).await {
            Ok(moved) => {
                volume.add_segment(segment);
                Some(moved)
            }
            Err(error) => {
                failed(self, error);
                volume.add_segment(segment.clone());
                self.unfinished = Some(segment);
                if let Err(error) = self.remove_unfinished().await {
                    tracing::warn!(disk = %volume.path.display(), segment = id, %error, "unfinished segment not removed");
                }
                None
            }
        }
    }
}

/// Names of objects recently sifted out. One that returns soon would have been a hit on a larger disk, and need not be
/// sifted again. A table with at least half as many and at most as many slots as the disk has objects, where new names
/// overwrite old ones: one half of a name selects the slot, the other half is stored in it.
#[derive(Default)]
pub(super) struct Ghosts(Vec<u32>);

/// Minimum number of slots.
const GHOSTS_MIN: u64 = 1024;

impl Ghosts {
    /// Makes room for a disk with this many objects; forgets all names if the table has to grow.
    fn grow_to(&mut self, objects: u64) {
        let wanted = 1 << objects.max(GHOSTS_MIN).ilog2();
        if self.0.len() < wanted {
            self.0 = vec![0; wanted];
        }
    }

    fn note(&mut self, name: u64) {
        if let Some(slot) = self.slot(name) {
            *slot = name as u32;
        }
    }

    /// Removes a name; returns whether it was present.
    pub(super) fn take(&mut self, name: u64) -> bool {
        self.slot(name).is_some_and(|slot| {
            let found = *slot == name as u32 && *slot != 0;
            *slot = if found { 0 } else { *slot };
            found
        })
    }

    fn slot(&mut self, name: u64) -> Option<&mut u32> {
        let mask = self.0.len().checked_sub(1)?;
        self.0.get_mut((name >> 32) as usize & mask)
    }
}

/// The segment with this id.
fn holder(from: &[Arc<Segment>], id: u32) -> Option<&Arc<Segment>> {
    from.iter().find(|segment| segment.id == id)
}

/// The segment that replaces others.
struct Sifted {
    segment: Arc<Segment>,
    /// Bytes assigned, including those not yet written.
    end: u64,
    pieces: Vec<Bytes>,
    /// Bytes of the pieces waiting to be written.
    waiting: u64,
    window: Window,
}

/// Bytes read from a segment at a time: the kept objects may be thousands of small ones.
const WINDOW_BYTES: u64 = 1 << 20;

/// A part of a segment, read into memory.
#[derive(Default)]
struct Window {
    segment: u32,
    start: u64,
    bytes: Bytes,
}

impl Window {
    /// Bytes of a segment, copied so that they do not keep the window in memory; `None` if they cannot be read.
    async fn get(&mut self, volume: &Volume, from: &Segment, start: u64, length: usize) -> Option<Bytes> {
        let end = start + length as u64;
        if self.segment != from.id || self.start > start || self.start + (self.bytes.len() as u64) < end {
            let most = from.allocated.load(Ordering::Relaxed).checked_sub(start)?;
            let wanted = WINDOW_BYTES.max(length as u64).min(most) as usize;
            let bytes = volume.read(Source::Anywhere, from, u32::try_from(start).ok()?, wanted).await.ok()?;
            *self = Window { segment: from.id, start, bytes };
        }
        let at = (start - self.start) as usize;
        self.bytes.get(at..at + length).map(Bytes::copy_from_slice)
    }
}

impl Sifted {
    fn new(segment: Arc<Segment>) -> Sifted {
        Sifted { segment, end: 0, pieces: Vec::new(), waiting: 0, window: Window::default() }
    }

    /// Writes all kept objects.
    async fn fill(
        &mut self,
        volume: &Volume,
        from: &[Arc<Segment>],
        plan: &mut Plan,
    ) -> io::Result<Vec<(Place, Entry)>> {
        let next_fill = volume.next_fill.load(Ordering::Relaxed);
        self.push(format::encode_segment_header(self.segment.id, next_fill, self.segment.void));
        let mut moved = Vec::with_capacity(plan.kept.len());
        for Kept { key, place, .. } in std::mem::take(&mut plan.kept) {
            match self.keep(volume, from, key, place).await? {
                Some(entry) => moved.push((place, entry)),
                None => {
                    plan.dropped.push((key, place));
                    plan.tombstones.extend(holder(from, place.segment).map(|_| key));
                }
            }
        }
        for key in &plan.tombstones {
            self.add_tombstone(*key);
        }
        self.write().await?;
        volume.counters.written_bytes.fetch_add(self.end, Ordering::Relaxed);
        self.segment.sync(self.end).await?;
        self.segment.seal(self.end, next_fill).await?;
        Ok(moved)
    }

    fn push(&mut self, piece: Bytes) {
        self.end += piece.len() as u64;
        self.waiting += piece.len() as u64;
        self.pieces.push(piece);
    }

    async fn write(&mut self) -> io::Result<()> {
        let (pieces, at) = (std::mem::take(&mut self.pieces), self.end - self.waiting);
        self.waiting = 0;
        self.segment.file.write(at, pieces).await
    }

    /// Copies the part of an object that is in `from`: its slices, and its head if that is there as well. `None` if it
    /// cannot be read.
    async fn keep(
        &mut self,
        volume: &Volume,
        from: &[Arc<Segment>],
        key: Key,
        place: Place,
    ) -> io::Result<Option<Entry>> {
        let at_hand = volume.memory.peek_head(name(key)).filter(|entry| entry.place == place && !entry.held.is_empty());
        let mut entry = match at_hand {
            Some(entry) => entry.copied(),
            None => match self.load(volume, from, key, place).await {
                Ok(entry) => entry,
                Err(_) => return Ok(None),
            },
        };
        let mut lead = 0;
        for number in 0..entry.record.slices.len() {
            let at = entry.record.slices[number];
            let Some(from) = holder(from, at.segment) else { continue };
            let payload = match entry.held.get(number) {
                Some(bytes) => bytes.clone(),
                None => match volume.read_slice(Source::Anywhere, from, &at, entry.generation, number as u32).await {
                    Ok(bytes) => bytes,
                    Err(_) => return Ok(None),
                },
            };
            let header = RecordHeader::of_slice(key, entry.generation, number as u32, &at);
            let offset = self.add(&header, payload);
            entry.record.slices[number] = SliceAt { segment: self.segment.id, offset, ..at };
            lead = RECORD_HEADER_BYTES as u32 + at.length;
            if self.waiting >= BATCH_BYTES {
                self.write().await?;
            }
        }
        // Bytes read only for the copy need not stay in memory.
        entry.let_body_go();
        if holder(from, place.segment).is_some() {
            let lead = if entry.record.slices.len() == 1 { lead } else { 0 };
            self.add_head(&mut entry, lead);
        }
        Ok(Some(entry))
    }

    async fn load(
        &mut self,
        volume: &Volume,
        from: &[Arc<Segment>],
        key: Key,
        place: Place,
    ) -> Result<Entry, ReadError> {
        if let (Some(from), Some(start)) = (holder(from, place.segment), place.offset.checked_sub(place.lead)) {
            let length = (place.lead + place.length) as usize;
            if let Some(bytes) = self.window.get(volume, from, u64::from(start), length).await {
                return volume.entry(from, name(key), place, bytes);
            }
        }
        volume.load(name(key), place).await
    }

    fn add_head(&mut self, entry: &mut Entry, lead: u32) {
        let payload = format::encode_head(&entry.record);
        let length = (RECORD_HEADER_BYTES + payload.len()) as u32;
        let offset = self.add(&RecordHeader::of(Kind::Head, entry.key, entry.generation, &payload), payload);
        entry.place = Place { segment: self.segment.id, offset, length, lead };
        self.note(entry.summary());
    }

    fn add_tombstone(&mut self, key: Key) {
        let offset = self.add(&RecordHeader::of(Kind::Tombstone, key, 0, &[]), Bytes::new());
        self.note(SummaryEntry::tombstone(key, self.segment.id, offset));
    }

    fn add(&mut self, header: &RecordHeader, payload: Bytes) -> u32 {
        let offset = self.end;
        self.push(format::encode_record_header(self.segment.id, header));
        if !payload.is_empty() {
            self.push(payload);
        }
        u32::try_from(offset).expect("it holds a part of what another segment held")
    }

    fn note(&self, entry: SummaryEntry) {
        if let Some(entries) = &mut *self.segment.entries() {
            entries.push(entry);
        }
    }
}
