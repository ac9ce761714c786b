//! The body of a request on its way up, as long as it comes: bounded in silence, without trailers.
//!
//! # What always holds
//!
//! - A client that stops sending is told so (408) and does not hold a connection to the origin for longer than [`SILENCE_MAX`].
//! - Trailers are dropped: nobody above was told that they would come (RFC 9110 §6.5.1).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::framing::Bad;
use crate::metrics::Refusal;

/// Longest silence of a client in the middle of a body.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A body as the connection to above reads it.
pub(crate) struct Upload {
    body: Incoming,
    /// Made when the client is first waited for, on the runtime that waits.
    silence: Option<Pin<Box<Sleep>>>,
    ended: Ended,
}

/// How a body ended, for who still has to answer its request.
#[derive(Clone, Default)]
pub(crate) struct Ended(Arc<AtomicU8>);

const BROKEN: u8 = 1;
const SILENT: u8 = 2;
const WHOLE: u8 = 3;

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client broke off its body")]
    Broken(#[source] hyper::Error),
    #[error("the client fell silent in the middle of its body")]
    Silent,
}

/// Whether it is the client whose body ended early that something failed for.
pub(crate) fn is_cause(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<UploadError>())
}

impl Upload {
    pub(crate) fn new(body: Incoming) -> (Upload, Ended) {
        let ended = Ended::default();
        if body.is_end_stream() {
            ended.0.store(WHOLE, Ordering::Relaxed);
        }
        (Upload { body, silence: None, ended: ended.clone() }, ended)
    }
}

impl Ended {
    /// Whether all of it was read: otherwise nobody knows where the next request begins.
    pub(crate) fn whole(&self) -> bool {
        self.0.load(Ordering::Relaxed) == WHOLE
    }

    /// What the client is told when it is at fault.
    pub(crate) fn badly(&self) -> Option<Bad> {
        match self.0.load(Ordering::Relaxed) {
            BROKEN => {
                let words = "the body of the request could not be read";
                Some(Bad { status: StatusCode::BAD_REQUEST, words, why: Refusal::Malformed })
            }
            SILENT => {
                let words = "the body of the request did not come in time";
                Some(Bad { status: StatusCode::REQUEST_TIMEOUT, words, why: Refusal::SlowBody })
            }
            _ => None,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.silence = None;
                    if this.body.is_end_stream() {
                        this.ended.0.store(WHOLE, Ordering::Relaxed);
                    }
                    if frame.is_data() {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.ended.0.store(BROKEN, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(UploadError::Broken(error))));
                }
                Poll::Ready(None) => {
                    this.ended.0.store(WHOLE, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let until = || Box::pin(tokio::time::sleep_until(Instant::now() + SILENCE_MAX));
                    ready!(this.silence.get_or_insert_with(until).as_mut().poll(cx));
                    this.ended.0.store(SILENT, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(UploadError::Silent)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
