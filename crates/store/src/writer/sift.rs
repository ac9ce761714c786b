//! Sifting: what nobody asked for again leaves a segment while it is young.
//!
//! Of what a cache stores, most is never asked for again. It must not have the disk for one pass through the log, so a segment that
//! is no longer among the newest tenth of the disk is sifted once: what was asked for since it was written is copied to a smaller
//! segment, the rest goes. With the second chance at the log's end (`reclaim`) that is S3-FIFO (Yang et al., SOSP 2023), with
//! segments for queues.
//!
//! The smaller segment has the next id, which nothing else gets, and so it takes the very place of the other in the order of the log:
//! what lies between a head and what replaced or removed it is the same as before.
//!
//! # What always holds
//!
//! - A segment goes only after what was kept of it is durable, and whatever names that: a crash in between loses nothing.
//! - A head that goes without being replaced leaves a tombstone in its place, if an older one of its key may lie before it.
//! - A segment with slices of a fill that has not ended stays as it is, and so does one of which little would go.
//! - What was found at the start is not sifted: nobody knows what of it was asked for. Nor is what comes back soon after it was sifted
//!   out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{BATCH_BYTES, Effect, Writer};
use crate::format::{self, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SliceAt, SummaryEntry, Void};
use crate::index::{Place, name};
use crate::object::Entry;
use crate::tier::{Segment, Source, Tier};
use crate::{Key, ReadError, WriteError};

/// One part in this many of a disk is for what was not sifted yet.
const YOUNG_PART: u64 = 10;

/// As many segments at least.
const YOUNG_SEGMENTS_MIN: u64 = 2;

/// A disk of fewer segments is not sifted: their own number would be too coarse.
const SEGMENTS_LEAST: u64 = 16;

/// A segment of which more than so many tenths would be kept is left as it is.
const KEPT_TENTHS_MAX: u64 = 9;

/// What is left of segments that lie one behind the other becomes one segment as long as it takes no more than one part in this many of
/// a whole one: files are few, and little is copied again.
const JOINED_PART: u64 = 2;

/// What becomes of a segment.
#[derive(Default)]
struct Plan {
    kept: Vec<Kept>,
    /// Objects that go, by their keys and where their heads lie.
    dropped: Vec<(Key, Place)>,
    /// Keys whose older heads must not come back.
    tombstones: Vec<Key>,
    /// Bytes of all records that are kept.
    bytes: u64,
    /// What is said not to count before it.
    void: Option<Void>,
}

impl Plan {
    fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.tombstones.is_empty() && self.void.is_none()
    }
}

/// An object that has its head or slices in a segment that is sifted.
struct Kept {
    key: Key,
    place: Place,
    /// Segment and offset where the first of it lies.
    first: (u32, u32),
}

impl Writer {
    /// Bytes of the segments before the open one that may still be sifted, and the oldest of them.
    pub(super) fn young(&self, open: &Segment) -> (u64, Option<Arc<Segment>>) {
        if self.tier.capacity_bytes / self.tier.segment_bytes < SEGMENTS_LEAST {
            return (0, None);
        }
        self.tier.segments_between(self.sifted_to, open.id)
    }

    /// Sifts segments, while there is no room for `spare` more and those that are young are more than their part.
    pub(super) async fn sift_young(&mut self, open: &mut Arc<Segment>, spare: u64) -> Result<(), WriteError> {
        let (segment_bytes, capacity) = (self.tier.segment_bytes, self.tier.capacity_bytes);
        let young_max = (capacity / YOUNG_PART).max(YOUNG_SEGMENTS_MIN * segment_bytes);
        self.running.retain(|_, fill| fill.upgrade().is_some_and(|fill| fill.failure().is_none()));
        while self.tier.usage().1 + spare * segment_bytes > capacity
            && let (young, Some(next)) = self.young(open)
            && young > young_max
        {
            self.sifted_to = next.id + 1;
            let mut fills = self.running.values().filter_map(std::sync::Weak::upgrade);
            let last = self.sifted_last.take().and_then(|last| self.tier.segment(last));
            if fills.any(|fill| fill.segment(next.id).is_some()) {
                continue;
            }
            self.sift(next, last, open).await?;
        }
        Ok(())
    }

    /// Sifts a segment; what is left of it and what was left of the `last` one become one segment where both are small.
    async fn sift(
        &mut self,
        young: Arc<Segment>,
        last: Option<Arc<Segment>>,
        open: &mut Arc<Segment>,
    ) -> Result<(), WriteError> {
        let tier = self.tier.clone();
        // Their room is needed.
        tier.leave_segments(Vec::new());
        self.take_back().await?;
        let id = young.id + 1;
        let most = young.allocated.load(Ordering::Relaxed) / 10 * KEPT_TENTHS_MAX;
        let mut from = vec![young];
        let Some(mut plan) = self.plan(&from).await.filter(|plan| plan.bytes <= most) else { return Ok(()) };
        let joined = |last: &Arc<Segment>| last.allocated.load(Ordering::Relaxed) + plan.bytes;
        if let Some(last) = last.filter(|last| joined(last) <= tier.segment_bytes / JOINED_PART) {
            from.insert(0, last);
            let Some(both) = self.plan(&from).await else { return Ok(()) };
            plan = both;
        }
        // What one of them says of a segment that is still there has to be said as long as that is.
        let there = |void: &Void| holder(&from, void.segment).is_none() && tier.segment(void.segment).is_some();
        plan.void =
            from.iter().filter_map(|segment| segment.void).filter(there).min_by_key(|void| (void.segment, void.offset));
        let moved = if plan.is_empty() {
            Vec::new()
        } else {
            let Some(moved) = self.write_kept(id, &from, &mut plan).await else { return Ok(()) };
            self.sifted_last = Some(id);
            moved
        };

        // What has its head in a newer segment gets a newer one, or a tombstone.
        let mut here = Vec::new();
        let kept = moved.len() as u64;
        for (old, mut entry) in moved {
            if entry.place.segment == id {
                here.push((old, entry));
                continue;
            }
            let record = &entry.record;
            let length = format::head_length(&record.full_key, &record.head, record.slices.len());
            self.go_on(open, RECORD_HEADER_BYTES + length).await?;
            self.add_head(open, &mut entry, 0);
            self.batch.effects.push(Effect::Moved { old, entry: Box::new(entry) });
            if self.batch.bytes >= BATCH_BYTES {
                self.flush_open(open).await?;
            }
        }
        self.ghosts.grow_to(tier.index.len());
        let (with_segment, alone): (Vec<_>, Vec<_>) =
            plan.dropped.into_iter().partition(|(_, place)| holder(&from, place.segment).is_some());
        if !alone.is_empty() {
            tier.unsettled.store(true, Ordering::SeqCst);
        }
        for (key, place) in alone {
            if self.drop_sifted(key, place) {
                self.go_on(open, RECORD_HEADER_BYTES).await?;
                self.add_tombstone(open, key);
            }
        }
        self.flush_open(open).await?;
        self.sync_open().await?;

        for (old, entry) in here {
            tier.note_parts(&entry);
            tier.publish_moved(old, entry);
        }
        tier.counters.kept_objects.fetch_add(kept, Ordering::Relaxed);
        tier.counters.sifted_segments.fetch_add(1, Ordering::Relaxed);
        // Oldest first, or a crash in between could bring back what a newer one had removed.
        tier.leave_segments(from.clone());
        for segment in from {
            if let Err(error) = tier.disk.remove(&format::segment_name(segment.id)).await {
                // It goes when it is the oldest.
                tracing::warn!(disk = %tier.path.display(), segment = segment.id, %error, "sifted segment not removed");
                break;
            }
            // Not before: as long as it may be back after a crash, it is found, and who removes it leaves word of that.
            for (key, place) in with_segment.iter().filter(|(_, place)| place.segment == segment.id) {
                self.drop_sifted(*key, *place);
            }
            tier.forget_segment(segment.id);
            tier.forget_spanning(segment.id..=segment.id);
        }
        Ok(())
    }

    /// Lets go of an object that was sifted out; false if there is another one by now.
    fn drop_sifted(&mut self, key: Key, place: Place) -> bool {
        let dropped = self.tier.drop_if(name(key), place);
        if dropped {
            self.ghosts.note(name(key));
            self.tier.counters.evicted_objects.fetch_add(1, Ordering::Relaxed);
        }
        dropped
    }

    /// Decides what is kept of segments that lie one behind the other; `None` if that cannot be said.
    async fn plan(&self, from: &[Arc<Segment>]) -> Option<Plan> {
        let tier = &*self.tier;
        let here = |id| holder(from, id).is_some();
        let mut names = BTreeSet::new();
        let (mut keys, mut removed) = (BTreeMap::new(), BTreeSet::new());
        for segment in from {
            for entry in tier.entries(segment).await.ok()? {
                names.insert(name(entry.key));
                keys.insert(name(entry.key), entry.key);
                removed.extend((entry.kind == Kind::Tombstone).then(|| name(entry.key)));
            }
            names.extend(tier.spanning(segment.id));
        }
        let mut plan = Plan::default();
        for name in names {
            let key = keys.get(&name).copied();
            let (place, wanted, older) = {
                let mut shard = tier.index.lock(name);
                let Some(place) = shard.get(name) else {
                    plan.tombstones.extend(key);
                    continue;
                };
                // What is newer than a head or a tombstone that goes has to stand for it.
                if removed.contains(&name) || key.is_some() && !here(place.segment) {
                    shard.note_older(name);
                }
                let asked = shard.asked(name, place) > 0 || shard.is_settled(name) || tier.pins.holds(name);
                (place, asked && !shard.is_unreadable(name), shard.has_older(name))
            };
            if here(place.segment) && !wanted {
                let key = key?;
                plan.dropped.push((key, place));
                plan.tombstones.extend(older.then_some(key));
                continue;
            }
            if place.lead > 0 {
                // Body and head lie together, here or not.
                if here(place.segment) {
                    plan.bytes += u64::from(place.lead) + u64::from(place.length);
                    let first = (place.segment, place.offset.checked_sub(place.lead)?);
                    plan.kept.push(Kept { key: key?, place, first });
                }
                continue;
            }
            let entry = tier.load(name, place).await.ok()?;
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

    /// Writes what is kept of segments to the one that takes their place, and makes it durable. Says where the heads lay and what
    /// they are from now on; those that lie elsewhere are still to be written. What could not be read is dropped by the plan.
    /// `None` if the disk did not do it: then all is as it was.
    async fn write_kept(&self, id: u32, from: &[Arc<Segment>], plan: &mut Plan) -> Option<Vec<(Place, Entry)>> {
        let tier = &*self.tier;
        let failed = |error: io::Error| {
            tracing::warn!(disk = %tier.path.display(), segment = id, %error, "segment not sifted");
            // Others that fill the disk are no failure of it.
            if error.kind() != io::ErrorKind::StorageFull {
                self.failed(error);
            }
        };
        let lines = plan.kept.len() + plan.tombstones.len();
        let tombstones = (lines * RECORD_HEADER_BYTES) as u64;
        let length = SEGMENT_HEADER_BYTES as u64 + plan.bytes + tombstones + format::summary_length(lines) as u64;
        let file = tier.disk.create(&format::segment_name(id), length).await.map_err(failed).ok()?;
        let segment = Arc::new(Segment::new(id, file, length, plan.void));
        match Sifted::new(segment.clone()).fill(tier, from, plan).await {
            Ok(moved) => {
                tier.add_segment(segment);
                Some(moved)
            }
            Err(error) => {
                failed(error);
                // What it holds does no harm as long as it goes in the order of the log.
                if tier.disk.remove(&format::segment_name(segment.id)).await.is_err() {
                    tier.add_segment(segment);
                }
                None
            }
        }
    }
}

/// Names of objects that were sifted out: which of them come back soon was a matter of the disk's size, so they need not be sifted again.
/// A table of half as many as the disk has objects, or up to as many, in which a new one takes the place of an old one; half of a name
/// says where, the other half is written there.
#[derive(Default)]
pub(super) struct Ghosts(Vec<u32>);

/// Ghosts of a disk with fewer objects.
const GHOSTS_MIN: u64 = 1024;

impl Ghosts {
    /// Makes room for those of a disk of so many objects; forgets all where there is too little.
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

    /// Whether it is one; from now on it is not.
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

/// The one of these segments that has this id.
fn holder(from: &[Arc<Segment>], id: u32) -> Option<&Arc<Segment>> {
    from.iter().find(|segment| segment.id == id)
}

/// The segment that takes the place of others.
struct Sifted {
    segment: Arc<Segment>,
    /// Bytes that have their place, those that are not written yet included.
    end: u64,
    pieces: Vec<Bytes>,
    /// Bytes of the pieces.
    waiting: u64,
    window: Window,
}

/// How much of a segment is read at once, in bytes: what is kept may be thousands of small objects.
const WINDOW_BYTES: u64 = 1 << 20;

/// A part of a segment in memory.
#[derive(Default)]
struct Window {
    segment: u32,
    start: u64,
    bytes: Bytes,
}

impl Window {
    /// Bytes of a segment, copied, so that they do not keep the window in memory; `None` if they cannot be read like this.
    async fn get(&mut self, tier: &Tier, from: &Segment, start: u64, length: usize) -> Option<Bytes> {
        let end = start + length as u64;
        if self.segment != from.id || self.start > start || self.start + (self.bytes.len() as u64) < end {
            let most = from.allocated.load(Ordering::Relaxed).checked_sub(start)?;
            let wanted = WINDOW_BYTES.max(length as u64).min(most) as usize;
            let bytes = tier.read(Source::Anywhere, from, u32::try_from(start).ok()?, wanted).await.ok()?;
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

    /// Writes all that is to be in it.
    async fn fill(&mut self, tier: &Tier, from: &[Arc<Segment>], plan: &mut Plan) -> io::Result<Vec<(Place, Entry)>> {
        let next_fill = tier.next_fill.load(Ordering::Relaxed);
        self.push(format::encode_segment_header(self.segment.id, next_fill, self.segment.void));
        let mut moved = Vec::with_capacity(plan.kept.len());
        for Kept { key, place, .. } in std::mem::take(&mut plan.kept) {
            match self.keep(tier, from, key, place).await? {
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
        tier.counters.written_bytes.fetch_add(self.end, Ordering::Relaxed);
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

    /// Copies what an object has in `from`: its slices, and its head if that lies there, too. `None` if it cannot be read.
    async fn keep(&mut self, tier: &Tier, from: &[Arc<Segment>], key: Key, place: Place) -> io::Result<Option<Entry>> {
        let at_hand = tier.memory.peek_head(name(key)).filter(|entry| entry.place == place && !entry.held.is_empty());
        let mut entry = match at_hand {
            Some(entry) => entry.copied(),
            None => match self.load(tier, from, key, place).await {
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
                None => match tier.read_slice(Source::Anywhere, from, &at, entry.generation, number as u32).await {
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
        // Bytes that were read for this are not to stay in memory for it.
        entry.let_body_go();
        if holder(from, place.segment).is_some() {
            let lead = if entry.record.slices.len() == 1 { lead } else { 0 };
            self.add_head(&mut entry, lead);
        }
        Ok(Some(entry))
    }

    async fn load(&mut self, tier: &Tier, from: &[Arc<Segment>], key: Key, place: Place) -> Result<Entry, ReadError> {
        if let (Some(from), Some(start)) = (holder(from, place.segment), place.offset.checked_sub(place.lead)) {
            let length = (place.lead + place.length) as usize;
            if let Some(bytes) = self.window.get(tier, from, u64::from(start), length).await {
                return tier.entry(from, name(key), place, bytes);
            }
        }
        tier.load(name(key), place).await
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
