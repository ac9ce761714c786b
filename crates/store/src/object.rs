//! face
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

use crate::{Generation, Key, ReadError};

/// A stored object: its head, and access to its body. Cheap to clone. Keeps reading the bytes it was looked up with when
/// the object is replaced or removed meanwhile.
#[derive(Clone)]
pub struct Object {}

impl Object {
    /// The hash it is stored under.
    pub fn key(&self) -> Key {
        todo!()
    }

    /// The full key it is stored under.
    pub fn full_key(&self) -> &Bytes {
        todo!()
    }

    /// The opaque head.
    pub fn head(&self) -> &Bytes {
        todo!()
    }

    /// The stamp stored with the head.
    pub fn stamp(&self) -> u64 {
        todo!()
    }

    /// Bytes of the whole body.
    pub fn length(&self) -> u64 {
        todo!()
    }

    /// CRC-32 (IEEE) of the whole body.
    pub fn checksum(&self) -> u32 {
        todo!()
    }

    /// Which body this is: new with every fill, kept by `update_head`.
    pub fn generation(&self) -> Generation {
        todo!()
    }

    /// The whole body if it is small and in memory: the path of a hot hit, without waiting or copying.
    pub fn body(&self) -> Option<Bytes> {
        todo!()
    }

    /// Reads a range of the body, a slice at a time; what lies past the end of the body is left out.
    /// Slices in memory are ready at once.
    pub fn read(&self, range: Range<u64>) -> Reader {
        let _ = range;
        todo!()
    }
}

/// A body, or a part of it, as a stream of chunks in order. Holds one slice in memory at most. Ends after the first error.
pub struct Reader {}

impl Reader {
    /// The next chunk; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, ReadError>> {
        todo!()
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, ReadError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        todo!()
    }
}
