//! Several parts of a body as one answer (`multipart/byteranges`, RFC 9110 §14.6), read from the store one after
//! another.
//!
//! # What always holds
//!
//! - One reader at a time: a request for many parts holds no more memory than a request for one.
//! - The boundary is new for every answer, and cannot be guessed by an author of bodies.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use httpcache::{ByteRange, Multipart};

use crate::fill::{ArrivedBody, Reading};
use crate::respond::BodyError;

/// The rest of a multipart answer that is being sent.
pub(crate) struct Parts {
    body: ArrivedBody,
    left: VecDeque<(Bytes, ByteRange)>,
    reading: Option<Reading>,
    end: Bytes,
    length: u64,
}

impl Parts {
    /// A multipart answer with `ranges` of a body of `length` bytes; sets its type and length in `headers`, those of
    /// the answer.
    pub(crate) fn new(ranges: &[ByteRange], headers: &mut HeaderMap, length: u64, body: ArrivedBody) -> Parts {
        // Each `RandomState` has random keys that no client and no origin knows.
        let boundary = format!("{:016x}{:016x}", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
        let multipart = Multipart::new(&boundary, ranges, headers.get(CONTENT_TYPE), length);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(multipart.length));
        headers.insert(CONTENT_TYPE, multipart.content_type);
        Parts {
            body,
            left: multipart.parts.into_iter().map(|(head, range)| (Bytes::from(head), range)).collect(),
            reading: None,
            end: Bytes::from(multipart.end),
            length: multipart.length,
        }
    }

    /// Bytes of the whole answer.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The next chunk: the head of a part, bytes of a part, or the closing boundary.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(reader) = &mut self.reading {
            if let Some(chunk) = ready!(reader.poll_next(context)) {
                return Poll::Ready(Some(chunk));
            }
            self.reading = None;
        }
        match self.left.pop_front() {
            Some((head, range)) => {
                self.reading = Some(self.body.read(range));
                Poll::Ready(Some(Ok(head)))
            }
            None if self.end.is_empty() => Poll::Ready(None),
            None => Poll::Ready(Some(Ok(std::mem::take(&mut self.end)))),
        }
    }
}
