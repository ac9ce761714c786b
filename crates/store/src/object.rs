//! A stored object as its readers hold it.
//!
//! Immutable: an update of the head makes another object over the same body. What may still happen to the body is that a
//! disk rots or a segment is reclaimed; readers then end with an error, never with other bytes.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::format::{HeadRecord, Kind, RECORD_HEADER_BYTES, SliceAt, SummaryEntry};
use crate::index::Place;
use crate::pins::Extent;
use crate::tier::{Segment, Tier};
use crate::{Generation, Key, Reader};

/// What a head and what readers make of it take in memory together, as a multiple of the head's bytes.
const HEAD_MADE_FACTOR: usize = 5;

/// What is known of an object: its head record, where that lies, and what of the body is at hand.
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) generation: u64,
    /// Where the head lies; nowhere without a disk.
    pub(crate) place: Place,
    pub(crate) record: HeadRecord,
    /// The slices, if the body is one slice that is in memory, or if there is no disk; else empty.
    pub(crate) held: SmallVec<[Bytes; 1]>,
    /// Whether the index knows that it was asked for while it was in memory.
    pub(crate) asked: AtomicBool,
    /// What a reader made of the head, once one did.
    pub(crate) made: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Entry {
    pub(crate) fn new(
        key: Key,
        generation: u64,
        place: Place,
        record: HeadRecord,
        held: SmallVec<[Bytes; 1]>,
    ) -> Entry {
        let (asked, made) = (AtomicBool::new(false), OnceLock::new());
        Entry { key, generation, place, record, held, asked, made }
    }

    /// The same object, to be put somewhere else.
    pub(crate) fn copied(&self) -> Entry {
        let Entry { key, generation, place, ref record, ref held, .. } = *self;
        Entry::new(key, generation, place, record.clone(), held.clone())
    }

    /// Holds the body no more, nor the buffer that it was read into with the head.
    pub(crate) fn let_body_go(&mut self) {
        self.held.clear();
        self.record.head = Bytes::copy_from_slice(&self.record.head);
        self.record.full_key = Bytes::copy_from_slice(&self.record.full_key);
    }

    /// The same without head and body: what it takes to read the body from its disk.
    fn without_bytes(&self) -> Entry {
        let HeadRecord { stamp, length, checksum, ref slices, .. } = self.record;
        let (full_key, head) = (Bytes::new(), Bytes::new());
        let record = HeadRecord { stamp, length, checksum, full_key, head, slices: slices.clone() };
        Entry::new(self.key, self.generation, self.place, record, SmallVec::new())
    }

    /// The oldest segment that holds a part of the body, if there is a body: without it the object is gone.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        // They are written in order, but parts of a pinned body are moved.
        self.record.slices.iter().map(|slice| slice.segment).min()
    }

    /// The line of its head in the summary of the segment where that lies.
    pub(crate) fn summary(&self) -> SummaryEntry {
        let Place { segment, offset, length, lead } = self.place;
        let first_segment = self.oldest_segment().unwrap_or(segment);
        SummaryEntry { key: self.key, kind: Kind::Head, offset, length, lead, first_segment }
    }

    /// What it takes of its disk, and where that begins.
    pub(crate) fn extent(&self) -> Extent {
        let headers = self.record.slices.len() * RECORD_HEADER_BYTES;
        let oldest = self.oldest_segment().map_or(self.place.segment, |slice| slice.min(self.place.segment));
        Extent { oldest, bytes: self.record.length + headers as u64 + u64::from(self.place.length) }
    }

    /// Bytes that it keeps in memory.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        let held: usize = self.held.iter().map(Bytes::len).sum();
        let slices = self.record.slices.len() * size_of::<SliceAt>();
        (self.record.full_key.len() + self.record.head.len() * HEAD_MADE_FACTOR + slices + held) as u64
    }
}

/// A stored object: its head, and access to its body. Cheap to clone. Keeps reading the bytes it was looked up with when
/// the object is replaced or removed meanwhile.
#[derive(Clone)]
pub struct Object {
    pub(crate) entry: Arc<Entry>,
    /// The disk it lies on, if it lies on one.
    pub(crate) tier: Option<Arc<Tier>>,
}

impl Object {
    /// The hash it is stored under.
    pub fn key(&self) -> Key {
        self.entry.key
    }

    /// The full key it is stored under.
    pub fn full_key(&self) -> &Bytes {
        &self.entry.record.full_key
    }

    /// The opaque head.
    pub fn head(&self) -> &Bytes {
        &self.entry.record.head
    }

    /// What `make` makes of the head: made once as long as the head stays in memory, for everybody. All callers make the same of it.
    pub fn made<T: Send + Sync + 'static>(&self, make: impl Fn(&Bytes) -> T) -> &T {
        let made = self.entry.made.get_or_init(|| Box::new(make(self.head())));
        made.downcast_ref().expect("all callers make the same of it")
    }

    /// The stamp stored with the head.
    pub fn stamp(&self) -> u64 {
        self.entry.record.stamp
    }

    /// Bytes of the whole body.
    pub fn length(&self) -> u64 {
        self.entry.record.length
    }

    /// CRC-32 (IEEE) of the whole body.
    pub fn checksum(&self) -> u32 {
        self.entry.record.checksum
    }

    /// Which body this is: new with every fill, kept by `update_head`.
    pub fn generation(&self) -> Generation {
        Generation(self.entry.generation)
    }

    /// The whole body if it is small and in memory: the path of a hot hit, without waiting or copying. While the store is short of memory
    /// ([`crate::Store::is_short`]) a reader holds less of it.
    pub fn body(&self) -> Option<&Bytes> {
        static EMPTY: Bytes = Bytes::new();
        match (&*self.entry.held, self.length()) {
            ([only], length) if only.len() as u64 == length => Some(only),
            (_, 0) => Some(&EMPTY),
            _ => None,
        }
    }

    /// Whether the whole body is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.entry.held.len() == self.entry.record.slices.len()
    }

    /// The same object for a reader of `part` that is to hold nothing of it in memory, and the segments it needs. Nothing when it
    /// lies nowhere else.
    pub(crate) fn on_disk(&self, part: Range<u64>) -> Option<(Object, Vec<Needed>)> {
        let tier = self.tier.clone()?;
        let segments = self.segments(part.clone());
        let there = |slice: &SliceAt| segments.iter().any(|needed| needed.segment.id == slice.segment);
        let all = self.slices(part).all(there);
        all.then(|| (Object { entry: Arc::new(self.entry.without_bytes()), tier: Some(tier) }, segments))
    }

    /// The slices in which a part of the body lies.
    fn slices(&self, part: Range<u64>) -> impl Iterator<Item = &SliceAt> {
        let end = |slice: &SliceAt| slice.start + u64::from(slice.length);
        self.entry.record.slices.iter().filter(move |slice| slice.start < part.end && end(slice) > part.start)
    }

    /// The segments that a reader of a part of the body needs, without those that are gone.
    pub(crate) fn segments(&self, part: Range<u64>) -> Vec<Needed> {
        let mut all: Vec<Needed> = Vec::new();
        let Some(tier) = &self.tier else { return all };
        for slice in self.slices(part) {
            let until = slice.start + u64::from(slice.length);
            match all.last_mut().filter(|last| last.segment.id == slice.segment) {
                Some(last) => last.until = until,
                None => all.extend(tier.segment(slice.segment).map(|segment| Needed { segment, until })),
            }
        }
        all
    }

    /// Reads a range of the body, a slice at a time; what lies past the end of the body is left out.
    /// Slices in memory are ready at once. A reader keeps the segments that it still needs: eviction does not end it, unless readers
    /// hold too much of the disk ([`crate::Stats::held_bytes_max`]).
    pub fn read(&self, range: Range<u64>) -> Reader {
        Reader::of_object(self.clone(), range.start, range.end.min(self.length()))
    }
}

/// A segment that a reader needs, until it is past a position in the body.
pub(crate) struct Needed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) until: u64,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Object");
        out.field("key", &self.key()).field("length", &self.length()).field("stamp", &self.stamp());
        out.field("generation", &self.generation()).finish_non_exhaustive()
    }
}
