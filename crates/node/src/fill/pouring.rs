//! A body on its way from above into the store: written as it arrives, resumed by range when its connection breaks.
//!
//! # What always holds
//!
//! - A stored body has the announced length and is of one version: only under a strong validator may two parts be
//!   combined (fence, assumption 5).
//! - The number of resumptions and the time spent on them are bounded.

use std::time::Duration;

use bytes::Bytes;
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use model::{Cause, Tags};
use store::WriteError;
use tokio::time::Instant;

use super::task::FillTask;
use super::{Arrived, Purpose};
use crate::figures::FromAbove;
use crate::head::{Head, ObjectKey};
use crate::metrics::Metrics;
use crate::slices;
use crate::upstream::{self, Answer, AskError, BODY_SILENCE_MAX, Question};

/// How often one fetch is resumed by range after its connection broke. The count begins anew when this many bytes came
/// since the last time.
const RESUMES_MAX: u32 = 3;
const RESUME_PROGRESS: u64 = 1 << 20;

/// How long after a break resuming is tried, and the pauses in between: a restarting origin is back by then, and need
/// not send again the bytes it already sent. A waiting user is cut off sooner, and may then ask for something that can
/// be had.
const RESUME_FOR: Duration = Duration::from_secs(60);
const RESUME_FOR_USERS: Duration = Duration::from_secs(10);
/// How long a prefetch goes on beyond that while its requests are only put off, to spare the origin.
const RESUME_PUT_OFF_MAX: Duration = Duration::from_secs(600);
const RESUME_PAUSE: Duration = Duration::from_millis(500);
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(8);

/// The pauses of a user's body while its next bytes cannot be had.
pub(crate) struct Pauses {
    since: Instant,
    next: Duration,
}

impl Pauses {
    /// The first attempt failed now.
    pub(crate) fn begin() -> Pauses {
        Pauses { since: Instant::now(), next: RESUME_PAUSE }
    }

    /// Waits until the next attempt; `false` at once if a user is not kept waiting for that long.
    pub(crate) async fn wait(&mut self, metrics: &Metrics) -> bool {
        if self.since.elapsed() + self.next > RESUME_FOR_USERS {
            return false;
        }
        metrics.resume_pauses.inc();
        tokio::time::sleep(self.next).await;
        self.next = RESUME_PAUSE_MAX.min(self.next * 2);
        true
    }
}

/// Chunks of at least this many bytes are kept as they came; shorter ones are copied.
const CHUNK_KEPT_MIN: usize = 128 << 10;

/// A body on its way into the store.
pub(super) struct Filling {
    pub(super) key: ObjectKey,
    pub(super) fill: store::Fill,
    pub(super) length: Option<u64>,
}

pub(super) enum Broken {
    Body(Cause),
    Store(WriteError),
}

impl FillTask<'_> {
    /// Moves the body from the connection to the store; resumes by range when the connection breaks and that is safe.
    pub(super) async fn pour(&self, body: FromAbove, filling: Filling, arrived: &Arrived) -> Result<(), Cause> {
        let Filling { key, mut fill, length } = filling;
        let mut body = body;
        let mut headers = None;
        let (mut resumes, mut resumed_at) = (0, 0);
        loop {
            let broke = match self.pour_some(&mut body, &mut fill, length).await {
                Ok(()) => break,
                Err(Broken::Store(error)) => return Err(cause(&error)),
                Err(Broken::Body(cause)) => cause,
            };
            if fill.length() >= resumed_at + RESUME_PROGRESS {
                resumes = 0;
            }
            if resumes == RESUMES_MAX {
                return Err(broke);
            }
            (resumes, resumed_at) = (resumes + 1, fill.length());
            body.leave();
            match self.resume(&arrived.head, &fill, length).await {
                Some((came, rest)) => {
                    // The rest may come with other tags, as slices may (`join_tags`).
                    let headers = headers.get_or_insert_with(|| arrived.head.headers.clone());
                    if Tags::join(headers, &came, self.order.domain.tag_header.as_deref()) {
                        let head = arrived.head.with(headers.clone());
                        fill.set_head(&head.encode()).map_err(|error| cause(&error))?;
                    }
                    body = rest;
                }
                None => return Err(broke),
            }
            self.fills.metrics.resumed.inc();
        }
        // The origin is done with it: the rest is the disk's time, and must not keep the next fetch from asking.
        drop(body);
        if self.fills.knowing.known().tag != self.log {
            return Err(Cause::Evicted);
        }
        let overtaken = self.turn_to_store(&key).await;
        if *overtaken {
            fill.finish_unseen().map_err(|error| cause(&error))?;
            return Err(Cause::Evicted);
        }
        let (object, _durable) = fill.finish_visible().await.map_err(|error| cause(&error))?;
        drop(overtaken);
        self.remember(&key, object.generation(), arrived.vouched);
        self.fills.metrics.stored.inc();
        Ok(())
    }

    pub(super) async fn pour_some(
        &self,
        body: &mut FromAbove,
        fill: &mut store::Fill,
        length: Option<u64>,
    ) -> Result<(), Broken> {
        let truncated = |got: u64| Broken::Body(Cause::Truncated { got, expected: length.unwrap_or(got) });
        loop {
            // The time that this node holds back is not silence of the origin.
            body.readable().await;
            let Ok(frame) = tokio::time::timeout(BODY_SILENCE_MAX, body.frame()).await else {
                return Err(Broken::Body(Cause::OriginTimeout));
            };
            match frame {
                None if length.is_none_or(|length| length == fill.length()) => return Ok(()),
                None => return Err(truncated(fill.length())),
                Some(Err(error)) if length.is_none() => {
                    return Err(Broken::Body(Cause::OriginUnreachable(upstream::words(&error))));
                }
                Some(Err(_)) => return Err(truncated(fill.length())),
                Some(Ok(frame)) => {
                    let Ok(bytes): Result<Bytes, _> = frame.into_data() else { continue };
                    if length.is_some_and(|length| fill.length() + bytes.len() as u64 > length) {
                        return Err(truncated(fill.length() + bytes.len() as u64));
                    }
                    self.fills.metrics.bytes_fetched.add(bytes.len() as u64);
                    // A chunk points into the connection's buffer and keeps all of it alive, which a short one in
                    // memory must not.
                    let bytes = if bytes.len() < CHUNK_KEPT_MIN { Bytes::copy_from_slice(&bytes) } else { bytes };
                    fill.append(bytes).await.map_err(Broken::Store)?;
                }
            }
        }
    }

    /// Asks for the rest of a body whose connection broke, for a while, and returns it with its headers; only under a
    /// strong validator may two parts be combined (fence, assumption 5).
    async fn resume(&self, head: &Head, fill: &store::Fill, length: Option<u64>) -> Option<(HeaderMap, FromAbove)> {
        let (from, length) = (fill.length(), length?);
        let etag = slices::strong_etag(&head.headers)?; // a weak one may not be sent (RFC 9110 §13.1.5)
        if head.status != StatusCode::OK {
            return None;
        }
        let mut headers = self.order.headers.clone();
        headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-")).ok()?);
        headers.insert(IF_RANGE, etag.clone());
        let mut since = Instant::now();
        let put_off_until = since + RESUME_PUT_OFF_MAX;
        let mut pause = RESUME_PAUSE;
        loop {
            let asked = Instant::now();
            let users = self.order.purpose == Purpose::User || *self.awaited.borrow();
            // One follower is part of the announced [`Arrived`]. Without another, no child reads on and the prefetch
            // was withdrawn.
            if !users && self.order.purpose == Purpose::Prefetch && fill.followers() <= 1 {
                return None;
            }
            // Nobody waits for an answer that was announced, so `wanted` does not count: they read the body.
            let question = Question { again: true, wanted: None, ..self.question(headers.clone()) };
            let answered = self.fills.upstream.ask(&question, None).await;
            // A request that was put off was not tried, and beginning anew costs the origin more than waiting.
            let put_off = !users && asked < put_off_until && matches!(answered, Err(AskError::Busy(_)));
            let cause = match answered {
                Ok(Answer { head: came, body, .. })
                    if httpcache::continues(&head.headers, from, length, came.status, &came.headers) =>
                {
                    return Some((came.headers, body));
                }
                Ok(answer) => Cause::OriginStatus(answer.head.status.as_u16()),
                Err(error) => error.into(),
            };
            if !cause.is_transient() {
                return None;
            }
            let patience = if users { RESUME_FOR_USERS } else { RESUME_FOR };
            if !put_off && since.elapsed() + pause > patience {
                return None;
            }
            self.fills.metrics.resume_pauses.inc();
            tokio::time::sleep(pause).await;
            if put_off {
                since += asked.elapsed();
            }
            pause = RESUME_PAUSE_MAX.min(pause * 2);
        }
    }
}

pub(super) fn cause(error: &WriteError) -> Cause {
    match error {
        WriteError::TooLarge { .. } | WriteError::HeadTooLarge { .. } => Cause::TooLarge,
        WriteError::Evicted => Cause::Evicted,
        error => Cause::Store(upstream::words(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn user_is_kept_waiting_for_a_bounded_time() {
        let (began, metrics) = (Instant::now(), Metrics::default());
        let mut pauses = Pauses::begin();
        while pauses.wait(&metrics).await {
            assert!(metrics.resume_pauses.get() < 100, "the attempts do not end");
        }
        // After 0.5, 1.5, 3.5 and 7.5 seconds; the next attempt would come too late.
        assert_eq!((metrics.resume_pauses.get(), began.elapsed()), (4, Duration::from_millis(7_500)));
        let (mut late, began) = (Pauses::begin(), Instant::now());
        tokio::time::advance(RESUME_FOR_USERS).await;
        assert!(!late.wait(&metrics).await, "an attempt may take all of the time");
        assert_eq!(began.elapsed(), RESUME_FOR_USERS);
    }
}
