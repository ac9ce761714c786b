//! Bodies as streams: of a stored object, or of a fill that is still growing.
//!
//! Bytes in memory are delivered without waiting; others are read a slice at a time, checked, and put into the memory
//! tier for the next reader.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};

use crate::buffers::Buffers;
use crate::fill::Follower;
use crate::format::SliceAt;
use crate::growing::Step;
use crate::index::name;
use crate::object::Needed;
use crate::{Object, ReadError};

/// Longest chunk that a reader delivers while the store is short of memory, in bytes: about what a connection accepts
/// at once.
const PIECE_BYTES: usize = 32 << 10;

/// A body, or a part of it, as a stream of chunks in order. Holds at most one slice in memory, and none while the store
/// is short of memory. Ends after the first error.
pub struct Reader {
    source: Source,
    /// Position of the next byte in the body.
    position: u64,
    end: u64,
    waiting: Option<BoxFuture<'static, Woken>>,
    pieces: Option<Pieces>,
}

/// Bytes of the body that are delivered in pieces: where they begin, how many there are, and a checksum for each piece,
/// so that each can be read alone.
struct Pieces {
    start: u64,
    length: usize,
    crcs: Box<[u32]>,
}

enum Source {
    Object { object: Object, segments: Vec<Needed> },
    Fill(Follower),
    Ended,
}

/// Why a waiting reader continues.
enum Woken {
    /// The slice or piece that begins at this position of the body has arrived.
    Loaded(u64, Result<Bytes, ReadError>),
    /// The fill has grown or ended.
    Changed,
}

impl Reader {
    pub(crate) fn of_object(object: Object, position: u64, end: u64) -> Reader {
        let segments = if object.entry.held.is_empty() { object.segments(position..end) } else { Vec::new() };
        Reader { source: Source::Object { object, segments }, position, end, waiting: None, pieces: None }
    }

    pub(crate) fn of_fill(follower: Follower, position: u64, end: Option<u64>) -> Reader {
        let end = end.unwrap_or(u64::MAX);
        Reader { source: Source::Fill(follower), position, end, waiting: None, pieces: None }
    }

    /// The next chunk; `None` at the end. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Returns what is available without waiting, or else begins to wait.
    fn step(&mut self) -> Step {
        if self.position >= self.end {
            return Step::End;
        }
        match &self.source {
            Source::Ended => Step::End,
            Source::Fill(Follower { growing, .. }) => {
                let step = growing.step(self.position);
                let Step::Wait = step else { return step };
                let mut changes = growing.changes();
                // Checked again, as it may have changed before the subscription.
                let step = growing.step(self.position);
                if let Step::Wait = step {
                    let changed = async move {
                        // Fails only if the fill is gone, and this reader holds it.
                        let _ = changes.changed().await;
                        Woken::Changed
                    };
                    self.waiting = Some(changed.boxed());
                }
                step
            }
            Source::Object { object, .. } => {
                let slices = &object.entry.record.slices;
                let number = slices.partition_point(|slice| slice.start <= self.position).saturating_sub(1);
                let Some(slice) = slices.get(number) else { return Step::End };
                match object.entry.held.get(number) {
                    Some(bytes) => Step::Slice(slice.start, bytes.clone()),
                    None => Step::Load(number as u32, *slice),
                }
            }
        }
    }

    /// Cuts the requested part out of a slice or piece. While the store is short of memory the result is a copy, so
    /// that a consumer that is slow to use it holds no more than that.
    fn deliver(&mut self, start: u64, slice: Bytes) -> Option<Bytes> {
        let from = usize::try_from(self.position.checked_sub(start)?).ok()?;
        let to = slice.len().min(usize::try_from(self.end - start).unwrap_or(usize::MAX));
        let buffers = self.buffers().filter(|buffers| slice.len() > PIECE_BYTES && buffers.is_short());
        let chunk = match buffers {
            None => (from < to).then(|| slice.slice(from..to))?,
            Some(buffers) => {
                let to = to.min((from / PIECE_BYTES + 1) * PIECE_BYTES);
                let piece = (from < to).then(|| buffers.count(Bytes::copy_from_slice(&slice[from..to])))?;
                self.let_go(start, &slice);
                piece
            }
        };
        self.position += chunk.len() as u64;
        if let Source::Object { segments, .. } = &mut self.source {
            // The part already read may be evicted, however long the rest takes.
            segments.retain(|needed| needed.until > self.position);
        }
        Some(chunk)
    }

    /// The accounting for buffers of this body; `None` without a disk, where it is in memory whether or not it is read.
    fn buffers(&self) -> Option<Arc<Buffers>> {
        match &self.source {
            Source::Object { object, .. } => object.volume.as_ref().map(|volume| volume.memory.buffers.clone()),
            Source::Fill(Follower { growing, .. }) => growing.volume.is_some().then(|| growing.buffers.clone()),
            Source::Ended => None,
        }
    }

    /// Remembers what is needed to read on from this slice without holding it.
    fn let_go(&mut self, start: u64, slice: &Bytes) {
        let length = slice.len();
        if self.pieces.as_ref().is_none_or(|pieces| (pieces.start, pieces.length) != (start, length)) {
            let crcs = slice.chunks(PIECE_BYTES).map(crc32fast::hash).collect();
            self.pieces = Some(Pieces { start, length, crcs });
        }
        if let Source::Object { object, segments } = &mut self.source
            && !object.entry.held.is_empty()
            && let Some(on_disk) = object.on_disk(self.position..self.end)
        {
            (*object, *segments) = on_disk;
        }
    }

    /// The piece with the next byte, as a range of the slice, and its checksum, if the store is short of memory and
    /// this slice was delivered in pieces before.
    fn piece(&self, slice: &SliceAt) -> Option<(Range<usize>, u32)> {
        let of = (slice.start, slice.length as usize);
        let pieces = self.pieces.as_ref().filter(|pieces| (pieces.start, pieces.length) == of)?;
        self.buffers().filter(|buffers| buffers.is_short())?;
        let at = usize::try_from(self.position.checked_sub(slice.start)?).ok()? / PIECE_BYTES;
        let crc = *pieces.crcs.get(at)?;
        let start = at * PIECE_BYTES;
        Some((start..pieces.length.min(start + PIECE_BYTES), crc))
    }

    fn fail(&mut self, error: ReadError) -> Poll<Option<Result<Bytes, ReadError>>> {
        if let Source::Object { object, .. } = &self.source
            && let Some(volume) = &object.volume
        {
            // The next lookup must miss, so that the object is fetched again.
            volume.drop_unreadable(name(object.key()), object.entry.place, &error);
        }
        self.source = Source::Ended;
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let reader = &mut *self;
        loop {
            if let Some(waiting) = &mut reader.waiting {
                let woken = ready!(waiting.as_mut().poll(context));
                reader.waiting = None;
                match woken {
                    Woken::Loaded(start, Ok(bytes)) => return Poll::Ready(reader.deliver(start, bytes).map(Ok)),
                    Woken::Loaded(_, Err(error)) => return reader.fail(error),
                    Woken::Changed => {}
                }
            }
            match reader.step() {
                Step::End => return Poll::Ready(None),
                Step::Failed => return reader.fail(ReadError::FillFailed),
                Step::Slice(start, bytes) => return Poll::Ready(reader.deliver(start, bytes).map(Ok)),
                Step::Wait => {}
                Step::Load(number, slice) => {
                    let (volume, segment, fill) = match &reader.source {
                        Source::Object { object, segments } => {
                            let of_slice = |needed: &&Needed| needed.segment.id == slice.segment;
                            let segment = segments.iter().find(of_slice).map(|needed| needed.segment.clone());
                            (object.volume.clone(), segment, object.entry.generation)
                        }
                        Source::Fill(Follower { growing, .. }) => {
                            (growing.volume.clone(), growing.segment(slice.segment), growing.id)
                        }
                        Source::Ended => return Poll::Ready(None),
                    };
                    let Some(volume) = volume else { return reader.fail(ReadError::Evicted) };
                    if let Some(bytes) = volume.memory.slice(volume.number, fill, number) {
                        return Poll::Ready(reader.deliver(slice.start, bytes).map(Ok));
                    }
                    reader.waiting = Some(match reader.piece(&slice) {
                        Some((part, crc)) => async move {
                            let start = slice.start + part.start as u64;
                            Woken::Loaded(start, volume.piece(segment, &slice, part, crc).await)
                        }
                        .boxed(),
                        None => {
                            async move { Woken::Loaded(slice.start, volume.slice(segment, &slice, fill, number).await) }
                                .boxed()
                        }
                    });
                }
            }
        }
    }
}
