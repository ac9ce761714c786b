//! Large bodies in slices: a range request fetches the slices it needs, not the whole body.
//!
//! A request for part of an object that is not stored makes the node fetch one slice. When the answer shows a large
//! body with a strong validator, its head is stored under the bare URL, and the slice beside it; every later request
//! reads slice after slice, from the store or from a fetch of just that slice, which all requests that need it share.
//! Every other object is fetched whole.
//!
//! # What always holds
//!
//! - Only the head is judged, as every head is. A slice is read only under the head in whose series it was fetched, and
//!   stored only if its answer carried that head's strong validator: parts of two versions are never combined (fence,
//!   assumption 5).
//! - A head that is replaced rather than confirmed begins a new series, so no slice fetched for the old head is read
//!   again, whatever validator the new one has.
//! - A slice that cannot be had for a moment is asked for again, as the rest of a whole body is ([`Pauses`]). One that
//!   cannot be had in that time ends the body with an error, never with other bytes.
//! - Memory does not grow with the body: one slice is read at a time, and at most one fetched ahead.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::header::{CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode, response};
use model::fence::Asker;
use model::{Domain, NodeName, UrlKey};
use store::ReadError;
use xxhash_rust::xxh3::xxh3_128;

use crate::fill::{ArrivedBody, Fills, Order, Outcome, Pauses, Purpose, Waiting};
use crate::head::{Head, ObjectKey, Series};
use crate::lookup::stored;
use crate::respond::BodyError;
use crate::upstream::{AskError, Asked};

/// How bodies are cut into slices.
#[derive(Clone, Copy, Debug)]
pub struct SliceSizes {
    /// Bytes of a slice.
    pub slice: u64,
    /// Shorter bodies are fetched whole.
    pub least: u64,
}

/// The sizes that nodes use: a slice is one read of the store, and a body of fewer than eight slices is quicker to
/// fetch whole.
pub(crate) const SIZES: SliceSizes = SliceSizes { slice: 1 << 20, least: 8 << 20 };

/// A range that begins more than this many slices beyond what has come of a body is not waited for.
pub(crate) const AHEAD_MAX: u64 = 8;

/// How often a slice is looked up, because it may already be gone again when its fetch ends.
const LOOKS_MAX: u32 = 3;

/// How much of an object a fetch is to bring.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Whole,
    /// One slice of an object whose head is not known yet.
    Begin(u64),
    /// One slice of a body whose head is known.
    Slice(Arc<Head>, Series, u64),
}

impl Part {
    /// The `Range` field that asks for it.
    pub(crate) fn range(&self, sizes: SliceSizes) -> Option<HeaderValue> {
        let range = match self {
            Part::Whole => return None,
            Part::Begin(number) => {
                let start = number.checked_mul(sizes.slice)?;
                start..start.checked_add(sizes.slice)?
            }
            Part::Slice(_, series, number) => series.range(*number),
        };
        let text = format!("bytes={}-{}", range.start, range.end.checked_sub(1)?);
        Some(HeaderValue::try_from(text).expect("digits and punctuation make a header value"))
    }
}

/// The slice with which a range request for an unknown object begins; `None` if the whole is wanted. Where a suffix
/// range begins is not known, so the first slice is fetched to learn the body's length.
pub(crate) fn wanted(request: &HeaderMap, sizes: SliceSizes) -> Option<u64> {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    let (first, _) = line.to_str().ok()?.trim().strip_prefix("bytes=")?.split_once('-')?;
    match first.trim() {
        "" => Some(0),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse::<u64>().ok()? / sizes.slice),
        _ => None,
    }
}

/// The series that a 206 to a [`Part::Begin`] begins, and the bytes it brings; `None` if the body cannot be stored in
/// slices.
pub(crate) fn begun(answer: &response::Parts, number: u64, sizes: SliceSizes) -> Option<(Series, Range<u64>)> {
    let (range, length) = content_range(&answer.headers)?;
    let etag = strong_etag(&answer.headers)?;
    let name = xxh3_128(etag.as_bytes());
    let series = Series { length, slice: sizes.slice, name };
    (length >= sizes.least && range == series.range(number)).then_some((series, range))
}

/// Whether an answer is a 206 with slice `number` of the body that `head` describes.
pub(crate) fn continues(answer: &response::Parts, head: &Head, series: &Series, number: u64) -> bool {
    answer.status == StatusCode::PARTIAL_CONTENT
        && content_range(&answer.headers) == Some((series.range(number), series.length))
        && strong_etag(&answer.headers).is_some_and(|etag| head.headers.get(ETAG) == Some(etag))
}

/// Whether an answer that does not continue a body shows that the body was replaced or is gone. A failure shows
/// neither.
pub(crate) fn is_another(status: StatusCode) -> bool {
    status.is_success()
        || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::RANGE_NOT_SATISFIABLE)
}

/// The one strong validator under which parts may be combined (RFC 9110 §15.3.7.3).
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut all = headers.get_all(ETAG).iter();
    let (Some(etag), None) = (all.next(), all.next()) else { return None };
    etag.as_bytes().starts_with(b"\"").then_some(etag)
}

/// `Content-Range` of one part: its bytes, and the complete length (RFC 9110 §14.4).
fn content_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let mut all = headers.get_all(CONTENT_RANGE).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (range, length) = value.to_str().ok()?.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let (first, last, length) = (number(first)?, number(last)?, number(length)?);
    (first <= last && last < length).then_some((first..last + 1, length))
}

/// The length of the body if the one part that a 206 brings is all of it.
pub(crate) fn whole(headers: &HeaderMap) -> Option<u64> {
    let (range, length) = content_range(headers)?;
    (range == (0..length)).then_some(length)
}

/// A sliced body, as one request reads it.
#[derive(Clone)]
pub(crate) struct Body {
    pub(crate) fills: Arc<Fills>,
    pub(crate) url: UrlKey,
    pub(crate) asked: Asked,
    pub(crate) domain: Arc<Domain>,
    /// Headers of the requests for slices, as sent upstream.
    pub(crate) headers: HeaderMap,
    pub(crate) asker: Asker,
    pub(crate) passed: Vec<NodeName>,
    pub(crate) head: Arc<Head>,
    pub(crate) series: Series,
    /// The slice that came with the head, which may still be arriving.
    pub(crate) coming: Option<(u64, store::Follower)>,
    /// The request forbids to fetch slices, or to store them: a slice that is not stored ends the body with an error.
    pub(crate) only_stored: bool,
}

/// The bytes of a sliced body, as a stream.
pub(crate) type Reader = BoxStream<'static, Result<Bytes, BodyError>>;

/// The state of reading a sliced body.
struct Reading {
    body: Body,
    /// The next byte, and the one after the last.
    at: u64,
    end: u64,
    slice: Option<store::Reader>,
    /// The fetch of the slice after the one being read.
    ahead: Option<(u64, Waiting)>,
    /// The pauses since the slice that is wanted now could not be had.
    pauses: Option<Pauses>,
}

impl Body {
    /// Reads these bytes of it; ends with an error if some cannot be fetched.
    pub(crate) fn read(&self, range: Range<u64>) -> Reader {
        let reading =
            Reading { body: self.clone(), at: range.start, end: range.end, slice: None, ahead: None, pauses: None };
        stream::try_unfold(reading, |mut reading| async move {
            let bytes = reading.next().await?;
            Ok(bytes.map(|bytes| (bytes, reading)))
        })
        .boxed()
    }

    /// Whether all slices of these bytes are stored, as far as is known without reading them.
    pub(crate) fn has(&self, range: &httpcache::ByteRange) -> bool {
        let mut numbers = range.start / self.series.slice..range.end.div_ceil(self.series.slice);
        let key = |number| ObjectKey::slice(&self.url, &self.series, number);
        // Ends at the first slice that is missing, so it takes no more steps than slices are stored.
        numbers.all(|number| self.fills.store().is_listed(key(number).hash()))
    }

    /// Whether a slice is in memory, in which case its head has the tags that came with it.
    pub(crate) fn is_at_hand(&self, number: u64) -> bool {
        let key = ObjectKey::slice(&self.url, &self.series, number);
        self.fills.store().lookup_in_memory(key.hash(), key.bytes()).is_some()
    }

    /// Makes sure that a slice is stored or on its way, and that its head has the tags that came with it.
    pub(crate) async fn bring(&self, number: u64) {
        if !self.series.range(number).is_empty()
            && self.stored(number).await.is_none()
            && let Some(waiting) = self.fetch(number)
        {
            // Whatever the outcome, reading the slice will show it.
            let _ = waiting.outcome().await;
        }
    }

    /// A slice from the store. One that cannot be read is a miss, and fetched again.
    async fn stored(&self, number: u64) -> Option<store::Object> {
        let key = ObjectKey::slice(&self.url, &self.series, number);
        let object = stored(self.fills.store(), &key).await?;
        let whole = self.series.range(number);
        (object.length() == whole.end - whole.start).then_some(object)
    }

    /// Begins a fetch of a slice, or joins a running one; `None` if it may not be fetched or too many fetches run.
    fn fetch(&self, number: u64) -> Option<Waiting> {
        if self.only_stored {
            return None;
        }
        self.fills.begin(Order {
            url: self.url.clone(),
            asked: self.asked.clone(),
            domain: self.domain.clone(),
            key: ObjectKey::slice(&self.url, &self.series, number),
            seen: None,
            confirm: None,
            part: Part::Slice(self.head.clone(), self.series, number),
            headers: self.headers.clone(),
            asker: self.asker,
            passed: self.passed.clone(),
            purpose: Purpose::User,
            again: false,
            refetch: 0,
            interim: None,
            stands_in: false,
        })
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            if let Some(slice) = &mut self.slice {
                match slice.next().await {
                    Some(Ok(bytes)) => {
                        self.at += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                    // Its fetch broke off, so it is fetched again and read from here on.
                    Some(Err(error @ ReadError::FillFailed)) => {
                        (self.slice, self.body.coming) = (None, None);
                        if !self.may_try_again().await {
                            return Err(BodyError::Store(error));
                        }
                    }
                    Some(Err(error)) => return Err(BodyError::Store(error)),
                    None => (self.slice, self.pauses) = (None, None),
                }
            }
            if self.at >= self.end {
                return Ok(None);
            }
            let number = self.at / self.body.series.slice;
            let whole = self.body.series.range(number);
            let part = self.at - whole.start..whole.end.min(self.end) - whole.start;
            self.slice = Some(self.open(number, part).await?);
            if whole.end < self.end && self.body.stored(number + 1).await.is_none() {
                self.ahead = self.body.fetch(number + 1).map(|waiting| (number + 1, waiting));
            }
        }
    }

    /// Opens a part of a slice for reading; a slice that cannot be had is asked for again, for a while.
    async fn open(&mut self, number: u64, part: Range<u64>) -> Result<store::Reader, BodyError> {
        let mut ahead = self.ahead.take().filter(|(fetched, _)| *fetched == number).map(|(_, waiting)| waiting);
        let mut looks = 0;
        while looks < LOOKS_MAX {
            if let Some((_, follower)) = self.body.coming.as_ref().filter(|(coming, _)| *coming == number) {
                return Ok(follower.read(part.start, Some(part.end)));
            }
            if ahead.is_none()
                && let Some(object) = self.body.stored(number).await
            {
                return Ok(object.read(part));
            }
            if self.body.only_stored {
                return Err(BodyError::Slice("it is not stored any more, and the request allows no other"));
            }
            let problem = match ahead.take().or_else(|| self.body.fetch(number)) {
                None => "too many fetches",
                Some(waiting) => match waiting.outcome().await {
                    Outcome::Body(arrived) => match &arrived.body {
                        ArrivedBody::Growing(follower, _) => return Ok(follower.read(part.start, Some(part.end))),
                        ArrivedBody::Stored(_) | ArrivedBody::Sliced(_) => {
                            looks += 1;
                            continue;
                        }
                    },
                    Outcome::Again => {
                        looks += 1;
                        continue;
                    }
                    Outcome::Mine(_) | Outcome::NotMine { .. } | Outcome::Failed(AskError::Changed) => {
                        return Err(BodyError::Slice("it changed meanwhile"));
                    }
                    Outcome::Failed(error) => {
                        tracing::debug!(url = %self.body.url, number, %error, "slice");
                        "it cannot be had"
                    }
                },
            };
            if !self.may_try_again().await {
                return Err(BodyError::Slice(problem));
            }
        }
        Err(BodyError::Slice("it goes as fast as it comes"))
    }

    /// Waits until the wanted slice may be asked for again; `false` if it may not. A child asks again itself: only the
    /// head of a new answer can bring it the tags of a slice that is fetched later.
    async fn may_try_again(&mut self) -> bool {
        let metrics = self.body.fills.metrics();
        self.body.asker == Asker::User && self.pauses.get_or_insert_with(Pauses::begin).wait(metrics).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: SliceSizes = SliceSizes { slice: 100, least: 300 };

    fn request(range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, range.parse().unwrap());
        headers
    }

    fn answer(range: &str, etag: Option<&str>) -> response::Parts {
        let mut answer = http::Response::builder().status(206).header(CONTENT_RANGE, range);
        if let Some(etag) = etag {
            answer = answer.header(ETAG, etag);
        }
        answer.body(()).unwrap().into_parts().0
    }

    #[test]
    fn request_for_a_part_begins_with_a_slice() {
        let cases = [
            ("bytes=0-", Some(0)),
            ("bytes=99-200", Some(0)),
            ("bytes=100-", Some(1)),
            ("bytes=-5", Some(0)),
            ("bytes=18446744073709551615-", Some(u64::MAX / 100)),
            ("bytes=18446744073709551616-", None),
            ("bytes=x-", None),
            ("bytes=+1-", None),
            ("lines=0-", None),
            ("bytes=5", None),
        ];
        for (range, expected) in cases {
            assert_eq!(wanted(&request(range), SMALL), expected, "{range}");
        }
        assert_eq!(wanted(&HeaderMap::new(), SMALL), None);
        let mut two = request("bytes=0-");
        two.append(RANGE, "bytes=5-".parse().unwrap());
        assert_eq!(wanted(&two, SMALL), None);
    }

    #[test]
    fn only_the_slice_that_was_asked_for_of_a_large_body_under_a_strong_validator_is_kept() {
        let good = Some("\"a\"");
        let cases = [
            ("bytes 0-99/300", good, 0, true),
            ("bytes 200-299/300", good, 2, true),
            ("bytes 300-349/350", good, 3, true),
            ("bytes 0-99/299", good, 0, false),
            ("bytes 0-98/300", good, 0, false),
            ("bytes 100-199/300", good, 0, false),
            ("bytes 0-99/*", good, 0, false),
            ("bytes 0-99", good, 0, false),
            ("bytes 0-400/300", good, 0, false),
            ("bytes 99-0/300", good, 0, false),
            ("bytes 0-99/300", Some("W/\"a\""), 0, false),
            ("bytes 0-99/300", None, 0, false),
        ];
        for (range, etag, number, expected) in cases {
            assert_eq!(begun(&answer(range, etag), number, SMALL).is_some(), expected, "{range} {etag:?}");
        }
        assert!(Part::Begin(u64::MAX / 50).range(SMALL).is_none(), "beyond what can be counted");
    }
}
