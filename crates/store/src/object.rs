//! A stored object as its readers hold it.
//!
//! Immutable: an update of the head makes another object over the same body. The body may still be lost to a failing
//! disk or to eviction of its segments; readers then end with an error, never with other bytes.

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::format::{HeadRecord, Kind, RECORD_HEADER_BYTES, SliceAt, SummaryEntry};
use crate::index::Place;
use crate::pins::Extent;
use crate::volume::{Segment, Volume};
use crate::{Generation, Key, Reader};

/// Memory for a head together with what readers derive from it, as a multiple of the head's bytes.
const HEAD_MADE_FACTOR: usize = 5;

/// What is known of an object: its head record, its place on disk, and the part of its body in memory.
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) generation: u64,
    /// Where the head is on disk; unused without a disk.
    pub(crate) place: Place,
    pub(crate) record: HeadRecord,
    /// The slices, if the body is a single slice in memory, or if there is no disk; otherwise empty.
    pub(crate) held: SmallVec<[Bytes; 1]>,
    /// Whether the index has been told that it was requested since it came into memory.
    pub(crate) asked: AtomicBool,
    /// The value that a reader derived from the head, if any; see [`Object::made`].
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

    /// A copy of the object, to be placed elsewhere.
    pub(crate) fn copied(&self) -> Entry {
        let Entry { key, generation, place, ref record, ref held, .. } = *self;
        Entry::new(key, generation, place, record.clone(), held.clone())
    }

    /// Drops the body from memory, and the buffer that it was read into together with the head.
    pub(crate) fn let_body_go(&mut self) {
        self.held.clear();
        self.record.head = Bytes::copy_from_slice(&self.record.head);
        self.record.full_key = Bytes::copy_from_slice(&self.record.full_key);
    }

    /// A copy without head and body bytes: enough to read the body from its disk.
    fn without_bytes(&self) -> Entry {
        let HeadRecord { stamp, length, checksum, ref slices, .. } = self.record;
        let (full_key, head) = (Bytes::new(), Bytes::new());
        let record = HeadRecord { stamp, length, checksum, full_key, head, slices: slices.clone() };
        Entry::new(self.key, self.generation, self.place, record, SmallVec::new())
    }

    /// The oldest segment that holds a part of the body, if there is a body; without that segment the object is gone.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        // Slices are written in order, but parts of a pinned body are moved, so all have to be looked at.
        self.record.slices.iter().map(|slice| slice.segment).min()
    }

    /// The entry for its head in the summary of the head's segment.
    pub(crate) fn summary(&self) -> SummaryEntry {
        let Place { segment, offset, length, lead } = self.place;
        let first_segment = self.oldest_segment().unwrap_or(segment);
        SummaryEntry { key: self.key, kind: Kind::Head, offset, length, lead, first_segment }
    }

    /// The bytes it takes on its disk, and the oldest segment that holds a part of it.
    pub(crate) fn extent(&self) -> Extent {
        let headers = self.record.slices.len() * RECORD_HEADER_BYTES;
        let oldest = self.oldest_segment().map_or(self.place.segment, |slice| slice.min(self.place.segment));
        Extent { oldest, bytes: self.record.length + headers as u64 + u64::from(self.place.length) }
    }

    /// Bytes that it takes in memory.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        let held: usize = self.held.iter().map(Bytes::len).sum();
        let slices = self.record.slices.len() * size_of::<SliceAt>();
        (self.record.full_key.len() + self.record.head.len() * HEAD_MADE_FACTOR + slices + held) as u64
    }
}

/// A stored object: its head, and access to its body. Cheap to clone. Goes on reading the body it was looked up with,
/// even if the object is replaced or removed meanwhile.
#[derive(Clone)]
pub struct Object {
    pub(crate) entry: Arc<Entry>,
    /// The disk that holds it, if any.
    pub(crate) volume: Option<Arc<Volume>>,
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

    /// The value that `make` derives from the head: computed once and shared by all callers for as long as the head
    /// stays in memory. All callers must derive the same value.
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

    /// Identifies the body: new with every fill, kept by `update_head`.
    pub fn generation(&self) -> Generation {
        Generation(self.entry.generation)
    }

    /// The whole body if it is small and in memory: the path of a hot hit, without waiting or copying. While the store
    /// is short of memory ([`crate::Store::is_short`]), a [`Reader`] holds less of it.
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

    /// The same object for a reader of `part` that holds no bytes in memory, and the segments that reader needs. `None`
    /// if the object is not on disk.
    pub(crate) fn on_disk(&self, part: Range<u64>) -> Option<(Object, Vec<Needed>)> {
        let volume = self.volume.clone()?;
        let segments = self.segments(part.clone());
        let there = |slice: &SliceAt| segments.iter().any(|needed| needed.segment.id == slice.segment);
        let all = self.slices(part).all(there);
        all.then(|| (Object { entry: Arc::new(self.entry.without_bytes()), volume: Some(volume) }, segments))
    }

    /// The slices that contain a part of the body.
    fn slices(&self, part: Range<u64>) -> impl Iterator<Item = &SliceAt> {
        let end = |slice: &SliceAt| slice.start + u64::from(slice.length);
        self.entry.record.slices.iter().filter(move |slice| slice.start < part.end && end(slice) > part.start)
    }

    /// The segments that a reader of a part of the body needs and that still exist.
    pub(crate) fn segments(&self, part: Range<u64>) -> Vec<Needed> {
        let mut all: Vec<Needed> = Vec::new();
        let Some(volume) = &self.volume else { return all };
        for slice in self.slices(part) {
            let until = slice.start + u64::from(slice.length);
            match all.last_mut().filter(|last| last.segment.id == slice.segment) {
                Some(last) => last.until = until,
                None => all.extend(volume.segment(slice.segment).map(|segment| Needed { segment, until })),
            }
        }
        all
    }

    /// Reads a range of the body, slice by slice; the range is cut at the end of the body. Slices in memory are ready
    /// at once. A reader keeps the segments it still needs open, so eviction does not end it unless readers hold too
    /// much of the disk ([`crate::Stats::held_bytes_max`]).
    pub fn read(&self, range: Range<u64>) -> Reader {
        Reader::of_object(self.clone(), range.start, range.end.min(self.length()))
    }
}

/// A segment that a reader needs until it has passed a position in the body.
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
