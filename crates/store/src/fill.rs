//! face
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::{Object, Reader, WriteError};

/// A body on its way into the store. Dropped without [`Fill::finish`] it is aborted: nothing becomes visible, and followers
/// get [`crate::ReadError::FillFailed`].
pub struct Fill {}

impl Fill {
    /// Appends bytes to the body. Waits while the bytes in flight to the disk are at their bound, never for a follower.
    /// After an error the fill is dead: every later call fails too.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        let _ = bytes;
        todo!()
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        todo!()
    }

    /// A handle from which any number of readers can follow the fill, each at its own pace.
    pub fn follow(&self) -> Follower {
        todo!()
    }

    /// Makes the object visible and durable: returns only after its head and all its slices are covered by a finished sync.
    /// Fails if fewer or more bytes were appended than `begin_fill` was told.
    pub async fn finish(self) -> Result<Object, WriteError> {
        todo!()
    }

    /// Makes the object visible to `lookup` and returns it; the second value resolves when it is durable.
    pub async fn finish_visible(self) -> Result<(Object, Durable), WriteError> {
        todo!()
    }
}

/// Resolves when an object that is already visible is on stable storage. Dropping it changes nothing.
pub struct Durable {}

impl Future for Durable {
    type Output = Result<(), WriteError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}

/// Access to the body of a fill while it grows, and after it ended. Cheap to clone; outlives the fill.
#[derive(Clone)]
pub struct Follower {}

impl Follower {
    /// Reads from `start` up to `end` (exclusive), or to the end of the body if `None`, waiting for bytes that are not
    /// appended yet. A body that ends before `end` ends the stream. A slow reader reads back from disk what has left memory.
    pub fn read(&self, start: u64, end: Option<u64>) -> Reader {
        let _ = (start, end);
        todo!()
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        todo!()
    }
}
