//! Bodies as streams: of a stored object, or of a fill that still grows.
//!
//! What is in memory is handed out without waiting; what is not is read a slice at a time, checked, and left in the memory tier
//! for the next reader.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};

use crate::fill::Follower;
use crate::growing::Step;
use crate::index::name;
use crate::tier::Segment;
use crate::{Object, ReadError};

/// A body, or a part of it, as a stream of chunks in order. Holds one slice in memory at most. Ends after the first error.
pub struct Reader {
    source: Source,
    /// Of the next byte in the body.
    position: u64,
    end: u64,
    waiting: Option<BoxFuture<'static, Woken>>,
}

enum Source {
    Object { object: Object, segments: Vec<Arc<Segment>> },
    Fill(Follower),
    Ended,
}

/// Why a reader that waited goes on.
enum Woken {
    /// The slice that begins at this position of the body is here.
    Loaded(u64, Result<Bytes, ReadError>),
    /// The fill has grown or ended.
    Changed,
}

impl Reader {
    pub(crate) fn of_object(object: Object, position: u64, end: u64) -> Reader {
        let mut segments: Vec<Arc<Segment>> = Vec::new();
        if let (Some(tier), true) = (&object.tier, object.entry.held.is_empty()) {
            for slice in &object.entry.record.slices {
                let outside = slice.start >= end || slice.start + u64::from(slice.length) <= position;
                if !outside && segments.last().is_none_or(|last| last.id != slice.segment) {
                    segments.extend(tier.segment(slice.segment));
                }
            }
        }
        Reader { source: Source::Object { object, segments }, position, end, waiting: None }
    }

    pub(crate) fn of_fill(follower: Follower, position: u64, end: Option<u64>) -> Reader {
        Reader { source: Source::Fill(follower), position, end: end.unwrap_or(u64::MAX), waiting: None }
    }

    /// The next chunk; `None` at the end. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// What can be said without waiting, or else begins to wait.
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
                // Asked again, for it may have changed before the changes were listened to.
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

    /// Cuts what is asked for out of a slice.
    fn deliver(&mut self, start: u64, slice: Bytes) -> Option<Bytes> {
        let from = usize::try_from(self.position.checked_sub(start)?).ok()?;
        let to = slice.len().min(usize::try_from(self.end - start).unwrap_or(usize::MAX));
        let chunk = (from < to).then(|| slice.slice(from..to))?;
        self.position += chunk.len() as u64;
        Some(chunk)
    }

    fn fail(&mut self, error: ReadError) -> Poll<Option<Result<Bytes, ReadError>>> {
        if let Source::Object { object, .. } = &self.source
            && let Some(tier) = &object.tier
        {
            // The next one who asks is to find nothing, and to fetch it.
            tier.drop_unreadable(name(object.key()), object.entry.place, &error);
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
                    Woken::Loaded(start, Ok(slice)) => return Poll::Ready(reader.deliver(start, slice).map(Ok)),
                    Woken::Loaded(_, Err(error)) => return reader.fail(error),
                    Woken::Changed => {}
                }
            }
            match reader.step() {
                Step::End => return Poll::Ready(None),
                Step::Failed => return reader.fail(ReadError::FillFailed),
                Step::Slice(start, slice) => return Poll::Ready(reader.deliver(start, slice).map(Ok)),
                Step::Wait => {}
                Step::Load(number, slice) => {
                    let (tier, segment, fill) = match &reader.source {
                        Source::Object { object, segments } => {
                            let segment = segments.iter().find(|segment| segment.id == slice.segment).cloned();
                            (object.tier.clone(), segment, object.entry.generation)
                        }
                        Source::Fill(Follower { growing, .. }) => {
                            (growing.tier.clone(), growing.segment(slice.segment), growing.id)
                        }
                        Source::Ended => return Poll::Ready(None),
                    };
                    let Some(tier) = tier else { return reader.fail(ReadError::Evicted) };
                    if let Some(bytes) = tier.memory.slice(tier.number, fill, number) {
                        return Poll::Ready(reader.deliver(slice.start, bytes).map(Ok));
                    }
                    let load =
                        async move { Woken::Loaded(slice.start, tier.slice(segment, &slice, fill, number).await) };
                    reader.waiting = Some(load.boxed());
                }
            }
        }
    }
}
