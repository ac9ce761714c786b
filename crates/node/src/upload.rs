//! The body of a request on its way upstream, for as long as it keeps coming: silence is bounded, trailers are dropped.
//!
//! # What always holds
//!
//! - A client that stops sending is told so (408) and does not hold a connection to the origin for longer than
//!   [`SILENCE_MAX`], nor does one that sends less than [`PROGRESS_BYTES_MIN`] in [`PROGRESS_EVERY`] of waiting for it.
//!   However large the body is, nothing else bounds how long it takes.
//! - A parent or an origin is not blamed for the time that the client takes, only for reading nothing of a body that is
//!   there ([`TAKES_MAX`]).
//! - Trailers are dropped: they were not announced upstream (RFC 9110 §6.5.1).

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::framing::Bad;
use crate::metrics::Refusal;
use crate::upstream::UpBody;

/// Longest silence of a client in the middle of a body.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// At least this many bytes must come in each such span of time that is spent waiting for the client.
const PROGRESS_BYTES_MIN: u64 = 1 << 20;
const PROGRESS_EVERY: Duration = Duration::from_secs(600);

/// Longest time that an origin may read nothing of a body that is there.
pub(crate) const TAKES_MAX: Duration = Duration::from_secs(60);

/// How often that is checked.
const LOOK: Duration = Duration::from_secs(1);

/// A body as the connection to a parent or an origin reads it.
pub(crate) struct Upload<B> {
    body: B,
    /// Since when the client is waited for, and the timer; made at the first wait, on the runtime that waits.
    silence: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Bytes that came, and the time spent waiting for them, since the last check.
    came: u64,
    waited: Duration,
    ended: Ended,
}

/// How a body ended, for the code that still has to answer its request.
#[derive(Clone, Default)]
pub(crate) struct Ended(Arc<AtomicU8>);

const BROKEN: u8 = 1;
const SILENT: u8 = 2;
const WHOLE: u8 = 3;

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client aborted its body")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the client fell silent in the middle of its body")]
    Silent,
    #[error("the client sends its body too slowly")]
    Slow,
}

/// Whether an error was caused by the client, whose body ended early.
pub(crate) fn is_cause(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<UploadError>())
}

impl<B: Body> Upload<B> {
    pub(crate) fn new(body: B) -> (Upload<B>, Ended) {
        let ended = Ended::default();
        if body.is_end_stream() {
            ended.0.store(WHOLE, Ordering::Relaxed);
        }
        (Upload { body, silence: None, came: 0, waited: Duration::ZERO, ended: ended.clone() }, ended)
    }
}

impl Ended {
    /// Whether all of it was read: otherwise it is not known where the next request begins.
    pub(crate) fn whole(&self) -> bool {
        self.0.load(Ordering::Relaxed) == WHOLE
    }

    /// The answer to the client, if it is at fault.
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

impl<B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        loop {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some((since, _)) = this.silence.take() {
                        this.waited += since.elapsed();
                    }
                    this.came += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                    if this.body.is_end_stream() {
                        this.ended.0.store(WHOLE, Ordering::Relaxed);
                    } else if this.waited >= PROGRESS_EVERY {
                        if this.came < PROGRESS_BYTES_MIN {
                            this.ended.0.store(SILENT, Ordering::Relaxed);
                            return Poll::Ready(Some(Err(UploadError::Slow)));
                        }
                        (this.came, this.waited) = (0, Duration::ZERO);
                    }
                    if frame.is_data() {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.ended.0.store(BROKEN, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(UploadError::Broken(error.into()))));
                }
                Poll::Ready(None) => {
                    this.ended.0.store(WHOLE, Ordering::Relaxed);
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let until = || (Instant::now(), Box::pin(tokio::time::sleep(SILENCE_MAX)));
                    ready!(this.silence.get_or_insert_with(until).1.as_mut().poll(cx));
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

/// How far a body has been sent.
#[derive(Default)]
pub(crate) struct Sent {
    /// Pieces that were taken; one more at the end of the body.
    pieces: AtomicU64,
    /// The client has yet to send the next piece.
    waits: AtomicBool,
    whole: AtomicBool,
}

impl Sent {
    fn whole(&self) {
        if !self.whole.swap(true, Ordering::Relaxed) {
            self.pieces.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for the answer to the request that has this body: for as long as the body is taken, with pauses of at most
    /// `takes`, and for `bound` after all of it was. `None` if the answer is late.
    pub(crate) async fn answered<T>(
        &self,
        answer: impl Future<Output = T>,
        takes: Duration,
        bound: Duration,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        let (mut moved, mut before) = (Instant::now(), 0);
        loop {
            if let Ok(answer) = tokio::time::timeout(LOOK, &mut answer).await {
                return Some(answer);
            }
            let (now, pieces) = (Instant::now(), self.pieces.load(Ordering::Relaxed));
            let whole = self.whole.load(Ordering::Relaxed);
            if pieces != before || !whole && self.waits.load(Ordering::Relaxed) {
                (moved, before) = (now, pieces);
            }
            if now - moved >= if whole { bound } else { takes } {
                return None;
            }
        }
    }
}

/// A body whose sending is observed.
pub(crate) struct Watched {
    body: UpBody,
    sent: Arc<Sent>,
}

impl Watched {
    pub(crate) fn new(body: UpBody) -> (Watched, Arc<Sent>) {
        let sent = Arc::new(Sent::default());
        (Watched { body, sent: sent.clone() }, sent)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.sent.whole(); // the connection wants no more of it
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = <UpBody as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(cx);
        self.sent.waits.store(poll.is_pending(), Ordering::Relaxed);
        match &poll {
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => {
                _ = self.sent.pieces.fetch_add(1, Ordering::Relaxed)
            }
            Poll::Ready(_) => self.sent.whole(),
            Poll::Pending => {}
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// Sends pieces of `bytes` every `pause`, `pieces` times; returns how long that took, and how it ended.
    async fn send(bytes: usize, pause: Duration, pieces: u32) -> (Duration, Result<(), UploadError>) {
        let pieces = stream::unfold(0, move |sent| async move {
            tokio::time::sleep(pause).await;
            (sent < pieces).then(|| (Ok::<_, hyper::Error>(Frame::data(Bytes::from(vec![0; bytes]))), sent + 1))
        });
        let (mut upload, ended) = Upload::new(StreamBody::new(Box::pin(pieces)));
        let began = Instant::now();
        while let Some(frame) = upload.frame().await {
            if let Err(error) = frame {
                assert_eq!(ended.badly().expect("the client is at fault").status, StatusCode::REQUEST_TIMEOUT);
                return (began.elapsed(), Err(error));
            }
        }
        assert!(ended.whole());
        (began.elapsed(), Ok(()))
    }

    #[tokio::test(start_paused = true)]
    async fn body_may_take_as_long_as_it_gets_on() {
        // 600 MB in three hours; 64 KiB at a time with pauses; and a small one that is over soon enough.
        for (bytes, pause, pieces) in [(64 << 10, 1, 10_000), (64 << 10, 29, 400), (1, 29, 20)] {
            let (took, ended) = send(bytes, Duration::from_secs(pause), pieces).await;
            assert!(ended.is_ok(), "{bytes} every {pause} s, {pieces} times: {ended:?} after {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_sends_next_to_nothing_is_at_fault() {
        let (took, ended) = send(1, Duration::from_secs(29), 1_000).await;
        assert!(matches!(ended, Err(UploadError::Slow)), "{ended:?}");
        assert!(took >= PROGRESS_EVERY && took <= PROGRESS_EVERY + SILENCE_MAX, "{took:?}");
        let (took, ended) = send(1 << 20, SILENCE_MAX + Duration::from_secs(1), 10).await;
        assert!(matches!(ended, Err(UploadError::Silent)) && took == SILENCE_MAX, "{ended:?} {took:?}");
    }
}
