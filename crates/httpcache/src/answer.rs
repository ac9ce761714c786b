//! How a stored response goes out: whole, one part of it, or only word of it (RFC 9110 §13 and §14).
//!
//! # What always holds
//!
//! - Conditions are looked at in the order of RFC 9110 §13.2.2, and only for a stored 2xx (§13.2.1).
//! - What cannot be read is as if it were not there (§13.1, §14.2), so the worst case is a whole body.
//!
//! # Not here
//!
//! `multipart/byteranges`: a request for several satisfiable parts gets the whole, as §14.2 allows. It saves a
//! format that few clients read well and that is an amplifier in the hands of the others.

use std::time::{Duration, SystemTime};

use http::header::{
    DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::freshness::date;

/// What to send of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stored status with the whole body.
    Whole,
    /// 206 with these bytes and [`ByteRange::content_range`].
    Part(ByteRange),
    /// 304 without a body, with the fields of [`crate::not_modified`].
    NotModified,
    /// 412 without a body.
    PreconditionFailed,
    /// 416 without a body, with [`unsatisfied`] as `Content-Range`.
    Unsatisfiable,
}

/// Bytes of a body; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset behind the last byte.
    pub end: u64,
}

impl ByteRange {
    /// How many bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// `Content-Range` of a 206 for a body of `length` bytes (RFC 9110 §14.4).
    pub fn content_range(&self, length: u64) -> HeaderValue {
        ascii(format!("bytes {}-{}/{length}", self.start, self.end - 1))
    }
}

/// `Content-Range` of a 416 for a body of `length` bytes (RFC 9110 §15.5.17).
pub fn unsatisfied(length: u64) -> HeaderValue {
    ascii(format!("bytes */{length}"))
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and punctuation make a header value")
}

/// What to send of a stored response to a GET or HEAD.
///
/// `length` is that of the whole body, `None` while a fill does not know it; then `Range` is ignored.
/// `If-Match` and `If-Unmodified-Since` are judged by what is stored. A cache may ignore them (RFC 9110 §13.1.1), but
/// clients use them to resume a download, and mixing two versions is what they want to be kept from.
pub fn answer(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    length: Option<u64>,
) -> Answer {
    if !status.is_success() {
        return Answer::Whole;
    }
    let etag = stored.get(ETAG).map(HeaderValue::as_bytes);
    let modified = date(stored, LAST_MODIFIED);

    if request.contains_key(IF_MATCH) {
        if !matches(request, IF_MATCH, etag, strong) {
            return Answer::PreconditionFailed;
        }
    } else if let (Some(since), Some(modified)) = (date(request, IF_UNMODIFIED_SINCE), modified)
        && modified > since
    {
        return Answer::PreconditionFailed;
    }

    if request.contains_key(IF_NONE_MATCH) {
        if matches(request, IF_NONE_MATCH, etag, weak) {
            return Answer::NotModified;
        }
    } else if let Some(since) = date(request, IF_MODIFIED_SINCE) {
        // RFC 9111 §4.3.2: where there is no Last-Modified, Date stands in.
        if modified.or_else(|| date(stored, DATE)).is_some_and(|modified| modified <= since) {
            return Answer::NotModified;
        }
    }

    match length {
        Some(length)
            if *method == Method::GET && status == StatusCode::OK && if_range(request, etag, modified, stored) =>
        {
            range(request, length)
        }
        _ => Answer::Whole,
    }
}

/// `If-Range` (RFC 9110 §13.1.5): whether `Range` counts. Only strong validators do: an equal strong tag, or the very
/// Last-Modified of a response that was at least a second old when it was sent (§8.8.2.2).
fn if_range(request: &HeaderMap, etag: Option<&[u8]>, modified: Option<SystemTime>, stored: &HeaderMap) -> bool {
    let Some(condition) = request.get(IF_RANGE) else { return true };
    let condition = condition.as_bytes().trim_ascii();
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return etag.is_some_and(|etag| strong(condition, etag));
    }
    let (Some(asked), Some(modified), Some(sent)) = (date(request, IF_RANGE), modified, date(stored, DATE)) else {
        return false;
    };
    asked == modified && sent.duration_since(modified).is_ok_and(|apart| apart >= Duration::from_secs(1))
}

/// `Range` against a body of `length` bytes (RFC 9110 §14.1.2, §14.2).
fn range(request: &HeaderMap, length: u64) -> Answer {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Answer::Whole };
    let Some((unit, set)) = line.to_str().ok().and_then(|line| line.split_once('=')) else { return Answer::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Answer::Whole;
    }
    let mut satisfiable = None;
    let mut any = false;
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        any = true;
        match resolve(spec, length) {
            Err(Malformed) => return Answer::Whole,
            Ok(Some(part)) if satisfiable.is_none() => satisfiable = Some(part),
            Ok(Some(_)) => return Answer::Whole,
            Ok(None) => {}
        }
    }
    match satisfiable {
        Some(part) => Answer::Part(part),
        None if any && (length > 0 || !set.trim_start().starts_with('-')) => Answer::Unsatisfiable,
        None => Answer::Whole, // the last n bytes of nothing are all of it
    }
}

/// A range that is not of the grammar; the whole field is then ignored.
struct Malformed;

/// The bytes one range specifier selects, `None` when there are none.
fn resolve(spec: &str, length: u64) -> Result<Option<ByteRange>, Malformed> {
    let (first, last) = spec.split_once('-').ok_or(Malformed)?;
    let (first, last) = (number(first)?, number(last)?);
    let (start, end) = match (first, last) {
        (None, None) => return Err(Malformed),
        (None, Some(suffix)) => (length.saturating_sub(suffix), length),
        (Some(first), None) => (first, length),
        (Some(first), Some(last)) if first > last => return Err(Malformed),
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(length)),
    };
    Ok((start < end).then_some(ByteRange { start, end }))
}

/// Digits as a number, the largest when too large, `None` for no text.
fn number(text: &str) -> Result<Option<u64>, Malformed> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    Ok((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

/// Whether a list of entity tags, or `*`, holds the stored one. `*` matches whatever is stored (RFC 9110 §13.1.1).
fn matches(request: &HeaderMap, field: HeaderName, etag: Option<&[u8]>, same: fn(&[u8], &[u8]) -> bool) -> bool {
    request.get_all(field).iter().any(|line| {
        let line = line.as_bytes().trim_ascii();
        line == b"*" || etag.is_some_and(|etag| entity_tags(line).any(|tag| same(tag, etag)))
    })
}

/// The entity tags of a list, each with its quotes and `W/`; stops where the grammar is broken. Backslashes do not
/// escape in entity tags (RFC 9110 §8.8.3), commas may stand in them.
fn entity_tags(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let begin = rest.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != b',')?;
        rest = &rest[begin..];
        let open = if rest.starts_with(b"W/") { 2 } else { 0 };
        if rest.get(open) != Some(&b'"') {
            return None;
        }
        let length = rest[open + 1..].iter().position(|byte| *byte == b'"')? + open + 2;
        let (tag, tail) = rest.split_at(length);
        rest = tail;
        Some(tag)
    })
}

/// Strong comparison (RFC 9110 §8.8.3.2).
pub(crate) fn strong(one: &[u8], other: &[u8]) -> bool {
    one == other && is_strong(one)
}

/// Whether an entity tag is strong, and an entity tag at all.
pub(crate) fn is_strong(tag: &[u8]) -> bool {
    tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

/// Weak comparison (RFC 9110 §8.8.3.2).
pub(crate) fn weak<'a>(one: &'a [u8], other: &'a [u8]) -> bool {
    let opaque = |tag: &'a [u8]| tag.strip_prefix(b"W/").unwrap_or(tag);
    opaque(one) == opaque(other)
}
