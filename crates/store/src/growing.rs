//! A body while it grows: shared by the fill that appends to it, the writer that puts slices on disk, and any number of
//! followers.
//!
//! A slice is held in memory from the moment it is cut until it is written; from then on it is read from the memory
//! tier or from disk. So a slow follower delays nothing, and the memory held is bounded by the bytes in flight.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::sync::watch;

use crate::buffers::Buffers;
use crate::format::SliceAt;
use crate::volume::{Segment, Volume};
use crate::{Key, WriteError};

/// Smaller chunks are merged, in bytes: an origin that sends byte by byte must not cost a buffer per byte.
const CHUNK_BYTES_MIN: usize = 16 << 10;

pub(crate) struct Growing {
    pub(crate) key: Key,
    /// The id of the fill, which becomes the body's generation.
    pub(crate) id: u64,
    pub(crate) full_key: Bytes,
    pub(crate) stamp: u64,
    pub(crate) volume: Option<Arc<Volume>>,
    pub(crate) buffers: Arc<Buffers>,
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    head: Bytes,
    slices: Vec<Slice>,
    /// The bytes after the last slice, in chunks as they arrived.
    tail: Vec<Bytes>,
    tail_length: usize,
    length: u64,
    /// The whole body has been appended.
    complete: bool,
    failed: Option<WriteError>,
    /// The segments that slices were written to: followers may read there even after eviction.
    segments: Vec<Arc<Segment>>,
}

struct Slice {
    at: SliceAt,
    /// The bytes, until `at` names where they were written; kept if there is no other copy.
    held: Option<Bytes>,
}

/// What a reader finds at its position.
pub(crate) enum Step {
    /// Bytes that begin at this position of the body.
    Slice(u64, Bytes),
    /// The bytes are in this slice, on disk.
    Load(u32, SliceAt),
    /// The bytes have not arrived yet.
    Wait,
    End,
    Failed,
}

impl Growing {
    pub(crate) fn new(
        key: Key,
        id: u64,
        full_key: &[u8],
        head: &[u8],
        stamp: u64,
        volume: Option<Arc<Volume>>,
        buffers: Arc<Buffers>,
    ) -> Growing {
        Growing {
            key,
            id,
            // Copied, as they may be small parts of large buffers.
            full_key: Bytes::copy_from_slice(full_key),
            stamp,
            volume,
            buffers,
            state: Mutex::new(State { head: Bytes::copy_from_slice(head), ..State::default() }),
            changes: watch::Sender::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the state of a fill")
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(crate) fn head(&self) -> Bytes {
        self.state().head.clone()
    }

    pub(crate) fn set_head(&self, head: &[u8]) {
        self.state().head = Bytes::copy_from_slice(head);
    }

    pub(crate) fn length(&self) -> u64 {
        self.state().length
    }

    pub(crate) fn failure(&self) -> Option<WriteError> {
        self.state().failed.clone()
    }

    /// Appends bytes to the tail, which may hold at most `slice_bytes`: a full tail is cut into a slice before more is
    /// added.
    pub(crate) fn push(&self, mut bytes: Bytes, slice_bytes: usize) {
        let mut state = self.state();
        while !bytes.is_empty() && state.failed.is_none() {
            if state.tail_length == slice_bytes {
                state.cut(&self.buffers);
            }
            let chunk = bytes.split_to(bytes.len().min(slice_bytes - state.tail_length));
            state.tail_length += chunk.len();
            state.length += chunk.len() as u64;
            state.tail.push(chunk);
            state.merge_small();
        }
        drop(state);
        self.changes.send_replace(());
    }

    /// Cuts the last slice: no more is appended. Followers end there, whether or not the commit succeeds.
    pub(crate) fn complete(&self) {
        let mut state = self.state();
        if state.tail_length > 0 {
            state.cut(&self.buffers);
        }
        state.complete = true;
        drop(state);
        self.changes.send_replace(());
    }

    /// Ends the fill without storing it, and drops the bytes it holds. But a body that had arrived completely and is
    /// still held completely is delivered to its followers: a failed disk is no reason to cut them short.
    pub(crate) fn fail(&self, error: &WriteError) {
        let mut state = self.state();
        if state.failed.is_none() {
            state.failed = Some(error.clone());
        }
        if state.complete && state.slices.iter().all(|slice| slice.held.is_some()) {
            drop(state);
            self.changes.send_replace(());
            return;
        }
        state.slices.clear();
        state.tail.clear();
        state.tail_length = 0;
        drop(state);
        self.changes.send_replace(());
    }

    /// Number of slices cut.
    pub(crate) fn slices(&self) -> u32 {
        self.state().slices.len() as u32
    }

    /// A slice that is not written yet; `None` if the fill has failed.
    pub(crate) fn held(&self, number: u32) -> Option<(SliceAt, Bytes)> {
        let state = self.state();
        let slice = state.slices.get(number as usize)?;
        Some((slice.at, slice.held.clone()?))
    }

    /// All slices, and the bytes of those still in memory.
    pub(crate) fn all(&self) -> (SmallVec<[SliceAt; 1]>, SmallVec<[Bytes; 1]>) {
        let state = self.state();
        let held = state.slices.iter().filter_map(|slice| slice.held.clone()).collect();
        (state.slices.iter().map(|slice| slice.at).collect(), held)
    }

    /// Records that a slice was written to `segment`, and put into the memory tier or not worth a place there.
    pub(crate) fn written(&self, number: u32, at: SliceAt, segment: &Arc<Segment>) {
        let mut state = self.state();
        if let Some(slice) = state.slices.get_mut(number as usize) {
            *slice = Slice { at, held: None };
            if state.segments.last().is_none_or(|last| last.id != segment.id) {
                state.segments.push(segment.clone());
            }
        }
    }

    /// The segment that a slice was written to.
    pub(crate) fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.state().segments.iter().find(|segment| segment.id == id).cloned()
    }

    /// The oldest segment that slices were written to.
    pub(crate) fn oldest_segment(&self) -> Option<u32> {
        self.state().segments.first().map(|segment| segment.id)
    }

    pub(crate) fn step(&self, position: u64) -> Step {
        let state = self.state();
        if state.complete && position >= state.length {
            return Step::End;
        }
        if state.failed.is_some() && state.slices.is_empty() {
            return Step::Failed;
        }
        if position >= state.length {
            return Step::Wait;
        }
        let mut start = state.length - state.tail_length as u64;
        if position < start {
            let number = state.slices.partition_point(|slice| slice.at.start <= position).saturating_sub(1);
            return match state.slices.get(number) {
                Some(Slice { at, held: Some(bytes) }) => Step::Slice(at.start, bytes.clone()),
                Some(Slice { at, held: None }) => Step::Load(number as u32, *at),
                None => Step::Failed,
            };
        }
        for chunk in &state.tail {
            let next = start + chunk.len() as u64;
            if position < next {
                return Step::Slice(start, chunk.clone());
            }
            start = next;
        }
        Step::Wait
    }
}

impl State {
    /// Turns the tail into a slice, in a buffer of exactly its size, as the chunks may be parts of larger buffers.
    fn cut(&mut self, buffers: &Arc<Buffers>) {
        let mut bytes = BytesMut::with_capacity(self.tail_length);
        for chunk in self.tail.drain(..) {
            bytes.extend_from_slice(&chunk);
        }
        let start = self.length - self.tail_length as u64;
        let crc = crc32fast::hash(&bytes);
        let at = SliceAt { start, segment: 0, offset: 0, length: self.tail_length as u32, crc };
        self.slices.push(Slice { at, held: Some(buffers.count(bytes.freeze())) });
        self.tail_length = 0;
    }

    /// Merges small chunks as a binary counter carries: each byte is copied a logarithmic number of times.
    fn merge_small(&mut self) {
        while let [.., before, last] = &*self.tail
            && before.len() <= last.len()
            && last.len() < CHUNK_BYTES_MIN
        {
            let mut merged = BytesMut::with_capacity(before.len() + last.len());
            merged.extend_from_slice(before);
            merged.extend_from_slice(last);
            self.tail.truncate(self.tail.len() - 2);
            self.tail.push(merged.freeze());
        }
    }
}
