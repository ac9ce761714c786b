//! Making room: opening new segments, keeping objects of old ones, and the end of a disk.
//!
//! Segments are sifted while they are young (`sift`) and reclaimed oldest first. Objects requested since they were
//! written or sifted are copied to the open segment before their own is reclaimed, within a bound; the others are
//! evicted. This is a queue with a second chance (CLOCK), a segment at a time. `bench --bin eviction` compares it with
//! other policies.
//!
//! # What always holds
//!
//! - A segment is removed only after the objects kept from it are durable elsewhere, so a crash in between loses
//!   nothing.
//! - A kept object is the newest of its key: whatever replaced or removed it took effect before it was copied.
//! - At least two thirds of every segment are for new objects, so that the largest body does not push itself out.
//!   Pinned objects are an exception: they are moved whatever they take, large bodies in parts, and ahead of time if
//!   many of them are adjacent (`pins`).

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::queue::{Command, Reply};
use super::{BATCH_BYTES, Effect, Open, Writer};
use crate::WriteError;
use crate::disk::DiskFile;
use crate::format::{self, Kind, RECORD_HEADER_BYTES, SliceAt};
use crate::index::{Place, name};
use crate::volume::{Segment, Source};

/// At most one part in this many of a segment may be taken by objects kept from older ones.
const KEPT_PART: u64 = 3;

/// Maximum number of segments given up for one new one when other files fill the disk.
const GIVEN_UP_MAX: u32 = 4;

impl Writer {
    /// Opens a new segment; `room` bytes are needed in it at once.
    pub(super) async fn create(&mut self, room: usize) -> Result<Arc<Segment>, WriteError> {
        loop {
            let mut segment = self.begin_next().await?;
            self.make_room_for_next(&mut segment, room as u64).await?;
            // Pinned objects may have filled it. There are fewer of them than the disk holds, so this ends.
            if self.fits(room, 1) {
                return Ok(segment);
            }
            self.end_open(&segment).await?;
        }
    }

    /// Ends the open segment, which is full.
    async fn end_open(&mut self, open: &Segment) -> Result<(), WriteError> {
        self.flush_open(open).await?;
        self.sync_open().await?;
        self.seal_open().await;
        Ok(())
    }

    async fn begin_next(&mut self) -> Result<Arc<Segment>, WriteError> {
        self.create_empty().await.map_err(|error| {
            tracing::warn!(disk = %self.volume.path.display(), %error, "no new segment");
            self.failed(error)
        })
    }

    async fn create_empty(&mut self) -> io::Result<Arc<Segment>> {
        self.volume.leave_segments(Vec::new());
        self.remove_empty().await?;
        self.volume.take_back().await?;
        // Only if the capacity was lowered, a segment could not be removed, or readers hold segments that are gone.
        while self.volume.usage().1 + self.volume.segment_bytes > self.volume.capacity_bytes {
            if !self.evict_oldest().await? {
                break;
            }
        }
        let mut given_up = 0;
        let (id, file) = loop {
            match self.create_file().await {
                // Other files fill the disk: the cache gets less room than configured.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && given_up < GIVEN_UP_MAX => {
                    if !self.evict_oldest().await? {
                        return Err(error);
                    }
                    given_up += 1;
                }
                created => break created?,
            }
        };
        let segment = Arc::new(Segment::new(id, file, self.volume.segment_bytes, self.void));
        self.volume.add_segment(segment.clone());
        let header = format::encode_segment_header(id, self.volume.next_fill.load(Ordering::Relaxed), segment.void);
        self.open = Some(Open { segment: segment.clone(), end: 0, entries: 0 });
        self.add(header, Bytes::new());
        for key in self.gone.clone() {
            self.add_tombstone(&segment, key);
        }
        Ok(segment)
    }

    /// Removes abandoned segments in which no record is durable: they would take room from objects worth keeping. But
    /// the header of one may be the only durable record of a void; it stays until a newer segment has that record.
    async fn remove_empty(&mut self) -> io::Result<()> {
        let records = |segment: &Arc<Segment>| segment.void.is_some() && segment.synced_to() > 0;
        let kept = self.empty.iter().rposition(records).filter(|_| self.void.is_some());
        let kept = kept.map(|at| self.empty.remove(at));
        for empty in std::mem::replace(&mut self.empty, kept.into_iter().collect()) {
            self.volume.disk.remove(&format::segment_name(empty.id)).await?;
            self.volume.forget_segment(empty.id);
        }
        Ok(())
    }

    /// Takes back the room of gone segments that readers hold beyond the bound.
    pub(super) async fn take_back(&self) -> Result<(), WriteError> {
        self.volume.take_back().await.map_err(|error| self.failed(error))
    }

    async fn create_file(&mut self) -> io::Result<(u32, Arc<dyn DiskFile>)> {
        // Odd ids; the even one after it is for the segment that replaces it when it is sifted.
        let id = self.next_segment | 1;
        self.next_segment = id.checked_add(2).ok_or_else(|| io::Error::other("segment ids are used up"))?;
        let file = self.volume.disk.create(&format::segment_name(id), self.volume.segment_bytes).await?;
        Ok((id, file))
    }

    /// Reclaims segments until there is room for one more, and copies the objects worth keeping to `open`.
    async fn make_room_for_next(&mut self, open: &mut Arc<Segment>, room: u64) -> Result<(), WriteError> {
        let segment_bytes = self.volume.segment_bytes;
        let (first, mut budget) = (open.id, (segment_bytes / KEPT_PART).min(segment_bytes.saturating_sub(room)));
        // Moving the pinned objects of a segment may take a little more than one segment, and so may sifting one.
        let spare = if self.volume.pins.is_empty() && self.young(open).1.is_none() { 1 } else { 2 };
        self.sift_young(open, spare).await?;
        while self.volume.usage().1 + spare * segment_bytes > self.volume.capacity_bytes {
            let Some(oldest) = self.volume.oldest_segment().filter(|oldest| oldest.id < first) else { break };
            let moved = self.move_pinned(oldest.id, self.volume.pins.of_segment(oldest.id), open).await?;
            budget = budget.saturating_sub(moved);
            if open.id == first {
                self.keep_of(&oldest, open, &mut budget).await?;
            }
            if let Err(error) = self.evict_oldest().await {
                // Tried again with the next segment.
                tracing::warn!(disk = %self.volume.path.display(), segment = oldest.id, %error, "segment not removed");
                break;
            }
            drop(oldest);
            self.take_back().await?;
        }
        self.move_ahead(open, budget).await
    }

    /// Copies pinned objects ahead of time out of segments that will be reclaimed later, as far as that is due.
    async fn move_ahead(&mut self, open: &mut Arc<Segment>, budget: u64) -> Result<(), WriteError> {
        if self.volume.pins.is_empty() {
            return Ok(());
        }
        let each = self.volume.segment_bytes / KEPT_PART;
        let before = self.volume.bytes_before();
        let turns = |segment| before.get(&segment).map_or(0, |bytes| bytes / self.volume.segment_bytes) + 1;
        let mut left = budget;
        for (segment, name) in self.volume.pins.due(turns, each) {
            if left == 0 || segment >= open.id {
                break;
            }
            left = left.saturating_sub(self.move_pinned(segment, vec![name], open).await?);
        }
        Ok(())
    }

    /// Copies the parts of these pinned objects in `segment` or before it, and makes the copies durable; returns the
    /// bytes copied. Continues in the next segment when the open one is full; there is room for that.
    async fn move_pinned(&mut self, segment: u32, names: Vec<u64>, open: &mut Arc<Segment>) -> Result<u64, WriteError> {
        let volume = self.volume.clone();
        let mut bytes = 0;
        for name in names {
            let Some(place) = volume.index.get(name) else { continue };
            let Ok(mut entry) = volume.load(name, place).await else { continue }; // counted when its segment is removed
            let head = RECORD_HEADER_BYTES
                + format::head_length(&entry.record.full_key, &entry.record.head, entry.record.slices.len());
            let (only, mut lead, mut whole) = (entry.record.slices.len() == 1, 0, true);
            for number in 0..entry.record.slices.len() {
                let at = entry.record.slices[number];
                if at.segment > segment {
                    continue;
                }
                let read = match volume.segment(at.segment) {
                    Some(from) => {
                        volume.read_slice(Source::Anywhere, &from, &at, entry.generation, number as u32).await.ok()
                    }
                    None => None,
                };
                let Some(payload) = read else {
                    whole = false;
                    break;
                };
                // The head of a body of one slice is directly behind the slice.
                let length = RECORD_HEADER_BYTES + payload.len();
                self.go_on(open, length + if only { head } else { 0 }).await?;
                let (to, offset) = self.add_slice(open, (entry.key, entry.generation), number as u32, &at, &payload);
                entry.record.slices[number] = SliceAt { segment: to, offset, ..at };
                bytes += length as u64;
                lead = length;
                if self.batch.bytes >= BATCH_BYTES {
                    self.flush_open(open).await?;
                }
            }
            if !whole {
                continue;
            }
            self.go_on(open, head).await?;
            entry.let_body_go();
            self.add_head(open, &mut entry, lead);
            bytes += head as u64;
            self.batch.effects.push(Effect::Moved { old: place, entry: Box::new(entry) });
        }
        if bytes > 0 {
            self.flush_open(open).await?;
            self.sync_open().await?;
        }
        Ok(bytes)
    }

    /// Ensures that the open segment has room for a moved record, or opens the next one.
    pub(super) async fn go_on(&mut self, open: &mut Arc<Segment>, bytes: usize) -> Result<(), WriteError> {
        if self.fits(bytes, 1) {
            return Ok(());
        }
        self.end_open(open).await?;
        *open = self.begin_next().await?;
        Ok(())
    }

    /// Copies requested objects out of a segment, as far as the budget of bytes allows, and makes the copies durable.
    async fn keep_of(&mut self, oldest: &Segment, open: &Arc<Segment>, budget: &mut u64) -> Result<(), WriteError> {
        let Ok(entries) = self.volume.entries(oldest).await else { return Ok(()) };
        let volume = self.volume.clone();
        // Every body here has its first head here as well, though the newest may be elsewhere; except for those that
        // only begin here, which `spanning` lists.
        let heads = entries.iter().filter(|entry| entry.kind == Kind::Head).map(|entry| name(entry.key));
        let mut names: Vec<u64> = heads.chain(volume.spanning(oldest.id)).collect();
        names.sort_unstable();
        names.dedup();
        let mut candidates: Vec<(u32, u64, Place)> = Vec::new();
        for name in names {
            let shard = volume.index.lock(name);
            if let Some(place) = shard.get(name)
                && shard.asked(name, place) > 0
                && !volume.pins.holds(name)
            {
                candidates.push((shard.asked(name, place), name, place));
            }
        }
        candidates.sort_by_key(|(asked, _, place)| (std::cmp::Reverse(*asked), place.segment, place.offset));

        let mut kept = 0;
        for (_, name, place) in candidates {
            kept += u64::from(self.keep(oldest.id, open, name, place, budget).await?);
        }
        if kept > 0 {
            self.flush_open(open).await?;
            self.sync_open().await?;
            volume.counters.kept_objects.fetch_add(kept, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Copies one object to the open segment, if its oldest part is in the oldest segment and it fits the budget;
    /// returns whether it was copied.
    async fn keep(
        &mut self,
        oldest: u32,
        open: &Arc<Segment>,
        name: u64,
        place: Place,
        budget: &mut u64,
    ) -> Result<bool, WriteError> {
        if u64::from(place.lead) + u64::from(place.length) > *budget {
            return Ok(false);
        }
        let volume = self.volume.clone();
        let at_hand = volume.memory.peek_head(name).filter(|entry| entry.place == place && !entry.held.is_empty());
        let mut entry = match at_hand {
            Some(entry) => entry.copied(),
            // An unreadable object is not kept.
            None => match volume.load(name, place).await {
                Ok(entry) => entry,
                Err(_) => return Ok(false),
            },
        };
        let slices = entry.record.slices.len() as u64;
        let bytes = entry.record.length + slices * RECORD_HEADER_BYTES as u64 + u64::from(place.length);
        let goes = place.segment == oldest || entry.oldest_segment() == Some(oldest);
        if !goes || bytes > *budget {
            return Ok(false);
        }
        *budget -= bytes;
        volume.index.lock(name).spend_asked(name);
        let body = (entry.key, entry.generation);
        let mut lead = 0;
        for number in 0..entry.record.slices.len() {
            let at = entry.record.slices[number];
            let payload = match entry.held.get(number) {
                Some(bytes) => bytes.clone(),
                None => {
                    let Some(segment) = volume.segment(at.segment) else { return Ok(false) };
                    match volume.read_slice(Source::Anywhere, &segment, &at, entry.generation, number as u32).await {
                        Ok(bytes) => bytes,
                        Err(_) => return Ok(false),
                    }
                }
            };
            let (segment, offset) = self.add_slice(open, body, number as u32, &at, &payload);
            entry.record.slices[number] = SliceAt { segment, offset, ..at };
            lead = RECORD_HEADER_BYTES + payload.len();
            if self.batch.bytes >= BATCH_BYTES {
                self.flush_open(open).await?;
            }
        }
        // Bytes read only for the copy need not stay in memory.
        entry.let_body_go();
        self.add_head(open, &mut entry, lead);
        self.batch.effects.push(Effect::Moved { old: place, entry: Box::new(entry) });
        Ok(true)
    }

    /// Writes the batch; fails if that broke the segment.
    pub(super) async fn flush_open(&mut self, open: &Segment) -> Result<(), WriteError> {
        self.flush().await;
        match self.open {
            Some(_) => Ok(()),
            None => {
                let error = format!("segment {} was abandoned", open.id);
                Err(WriteError::Io(Arc::new(io::Error::other(error))))
            }
        }
    }

    /// Removes the oldest segment; `false` if there is none. Its file is removed before a newer one is touched, or a
    /// restart could bring back objects that a newer segment had removed.
    async fn evict_oldest(&mut self) -> io::Result<bool> {
        self.remove_unfinished().await?;
        let Some(segment) = self.volume.oldest_segment() else { return Ok(false) };
        let heads = self.volume.heads_of(&segment).await;
        self.volume.disk.remove(&format::segment_name(segment.id)).await?;
        // Not before: as long as the object may be back after a crash, it must be found, so that its removal is logged.
        let dropped = self.volume.drop_heads(segment.id, heads);
        self.volume.counters.evicted_objects.fetch_add(dropped, Ordering::Relaxed);
        self.volume.forget_segment(segment.id);
        self.volume.forget_spanning(0..=segment.id);
        self.volume.counters.evicted_segments.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Removes the segment left by a sift that failed.
    pub(super) async fn remove_unfinished(&mut self) -> io::Result<()> {
        if let Some(unfinished) = &self.unfinished {
            self.volume.disk.remove(&format::segment_name(unfinished.id)).await?;
            self.volume.forget_segment(unfinished.id);
            self.unfinished = None;
        }
        Ok(())
    }

    /// Removes the oldest segments below `before`, but never an open one or one with slices of a running fill; returns
    /// whether all were removed.
    pub(super) async fn reclaim_before(&mut self, before: u32) -> bool {
        let open = self.open.as_ref().map_or(u32::MAX, |open| open.segment.id);
        // The caller knows of no fill that has not ended.
        let before = before.min(open).min(self.oldest_of_fills());
        while let Some(oldest) = self.volume.oldest_segment().filter(|oldest| oldest.id < before) {
            if let Err(error) = self.evict_oldest().await {
                tracing::warn!(disk = %self.volume.path.display(), segment = oldest.id, %error, "segment not removed");
                return false;
            }
        }
        true
    }

    /// The oldest segment with slices of a running fill.
    pub(super) fn oldest_of_fills(&self) -> u32 {
        let fills = self.running.values().filter_map(Weak::upgrade).filter(|fill| fill.failure().is_none());
        fills.filter_map(|fill| fill.oldest_segment()).min().unwrap_or(u32::MAX)
    }

    /// Ends a disk that is out of service: answers all who wait, and voids its contents for the next start, if it can
    /// still be written to at all.
    pub(super) async fn end_out_of_service(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        closing: Option<Reply<bool>>,
    ) {
        commands.close();
        let error = self.volume.out_of_service();
        for effect in std::mem::take(&mut self.batch).effects {
            effect.fail(&error);
        }
        self.tell_waiting(error.clone());
        while let Ok(command) = commands.try_recv() {
            command.fail(&error);
        }
        if let Some(reply) = closing {
            // Closing it can lose nothing.
            let _ = reply.send(Ok(true));
        }
        match self.make_void().await {
            Ok(()) => self.volume.outage.settle(),
            Err(error) => {
                tracing::error!(disk = %self.volume.path.display(), %error, "removed contents of the disk may reappear after a restart");
            }
        }
    }

    /// Records that nothing on the disk counts any more; on a full disk the oldest segments make room for that.
    async fn make_void(&mut self) -> io::Result<()> {
        loop {
            match self.volume.disk.create(format::VOID_NAME, 1).await {
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    let Some(oldest) = self.volume.oldest_segment() else { return Err(error) };
                    self.volume.disk.remove(&format::segment_name(oldest.id)).await?;
                    self.volume.forget_segment(oldest.id);
                }
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }
}
