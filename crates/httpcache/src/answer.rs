//! How a stored response is sent: whole, in parts, or as a bare status (RFC 9110 §13, §14 and §15).
//!
//! # What always holds
//!
//! - Preconditions are evaluated in the order of RFC 9110 §13.2.2, and only for a stored 2xx (§13.2.1).
//! - Unreadable fields are ignored (§13.1, §14.2), so the worst case is a whole body.
//! - The responses generated here, 412 and 416, are not cacheable downstream.
//!
//! # Not here
//!
//! Which bytes a `Range` selects (`range`).

use std::time::Duration;

use http::header::{
    AGE, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, EXPIRES, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, SET_COOKIE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::date;
use crate::headers::{OF_CONTENT, not_modified};
use crate::range::{ByteRange, Selected, select, unsatisfied};

/// What to send of a stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stored status with the whole body.
    Whole,
    /// 206 with these bytes.
    Part(ByteRange),
    /// 206 with several parts, as [`crate::Multipart`]; at least two, and together shorter than the whole.
    Parts(Vec<ByteRange>),
    /// 304 without a body.
    NotModified,
    /// 412 without a body.
    PreconditionFailed,
    /// 416 without a body.
    Unsatisfiable,
}

impl Answer {
    /// Status and headers of the answer; `status`, `stored` and `length` are the arguments of [`answer()`]. The caller
    /// adds headers about itself, `Age`, and for several parts `Content-Type` and `Content-Length` of the
    /// [`crate::Multipart`].
    pub fn head(&self, status: StatusCode, stored: &HeaderMap, length: Option<u64>) -> (StatusCode, HeaderMap) {
        let part = || {
            let mut headers = stored.clone();
            OF_CONTENT.into_iter().for_each(|name| _ = headers.remove(name));
            headers
        };
        match self {
            Answer::Whole => {
                let mut headers = stored.clone();
                headers.remove(CONTENT_LENGTH);
                if let Some(length) = length.filter(|_| status != StatusCode::NO_CONTENT) {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                }
                (status, headers)
            }
            Answer::Part(range) => {
                let mut headers = part();
                headers.insert(CONTENT_LENGTH, HeaderValue::from(range.length()));
                headers.insert(CONTENT_RANGE, range.content_range(length.unwrap_or(range.end)));
                (StatusCode::PARTIAL_CONTENT, headers)
            }
            Answer::Parts(_) => (StatusCode::PARTIAL_CONTENT, part()),
            Answer::NotModified => (StatusCode::NOT_MODIFIED, not_modified(stored)),
            Answer::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, refused(stored)),
            Answer::Unsatisfiable => {
                let mut headers = refused(stored);
                headers.insert(CONTENT_RANGE, unsatisfied(length.unwrap_or_default()));
                (StatusCode::RANGE_NOT_SATISFIABLE, headers)
            }
        }
    }
}

/// The head of a 412 or 416: without the stored fields about the body and its caching, which do not apply to it.
fn refused(stored: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    let of_body = [
        AGE,
        HeaderName::from_static("cdn-cache-control"),
        HeaderName::from_static("digest"),
        HeaderName::from_static("repr-digest"),
        CONTENT_DISPOSITION,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LOCATION,
        CONTENT_TYPE,
        EXPIRES,
        LAST_MODIFIED,
        SET_COOKIE,
    ];
    of_body.into_iter().chain(OF_CONTENT).for_each(|name| _ = headers.remove(name));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    headers
}

/// Decides what to send of a stored response to a GET or HEAD.
///
/// `length` is that of the whole body, `None` while a fill does not know it; then `Range` is ignored. `If-Match` and
/// `If-Unmodified-Since` are evaluated against the stored response. A cache may ignore them (RFC 9110 §13.1.1), but
/// clients use them to resume a download without mixing two versions.
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
    let modified = || date::first(stored, LAST_MODIFIED);

    if request.contains_key(IF_MATCH) {
        if !matches(request, IF_MATCH, etag, strong) {
            return Answer::PreconditionFailed;
        }
    } else if let Some(since) = date::only(request, IF_UNMODIFIED_SINCE)
        && modified().is_some_and(|modified| modified > since)
    {
        return Answer::PreconditionFailed;
    }

    if request.contains_key(IF_NONE_MATCH) {
        if matches(request, IF_NONE_MATCH, etag, weak) {
            return Answer::NotModified;
        }
    } else if let Some(since) = date::only(request, IF_MODIFIED_SINCE) {
        // RFC 9111 §4.3.2: without Last-Modified, Date is used.
        if modified().or_else(|| date::first(stored, DATE)).is_some_and(|modified| modified <= since) {
            return Answer::NotModified;
        }
    }

    match length {
        Some(length) if *method == Method::GET && status == StatusCode::OK && if_range(request, etag, stored) => {
            match select(request, length) {
                Selected::Whole => Answer::Whole,
                Selected::Part(part) => Answer::Part(part),
                Selected::Parts(parts) => Answer::Parts(parts),
                Selected::Nothing => Answer::Unsatisfiable,
            }
        }
        _ => Answer::Whole,
    }
}

/// `If-Range` (RFC 9110 §13.1.5): whether `Range` applies. Only strong validators count: an equal strong tag, or
/// exactly the Last-Modified of a response that was at least a second old when it was sent (§8.8.2.2).
fn if_range(request: &HeaderMap, etag: Option<&[u8]>, stored: &HeaderMap) -> bool {
    let mut lines = request.get_all(IF_RANGE).iter();
    let condition = match (lines.next(), lines.next()) {
        (None, _) => return true,
        (Some(condition), None) => condition,
        (Some(_), Some(_)) => return false,
    };
    let condition = condition.as_bytes().trim_ascii();
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return etag.is_some_and(|etag| strong(condition, etag));
    }
    let (Some(asked), Some(modified), Some(sent)) =
        (date::only(request, IF_RANGE), date::first(stored, LAST_MODIFIED), date::first(stored, DATE))
    else {
        return false;
    };
    asked == modified && sent.duration_since(modified).is_ok_and(|apart| apart >= Duration::from_secs(1))
}

/// Whether a list of entity tags, or `*`, matches the stored one. `*` matches any stored response (RFC 9110 §13.1.1).
fn matches(request: &HeaderMap, field: HeaderName, etag: Option<&[u8]>, same: fn(&[u8], &[u8]) -> bool) -> bool {
    request.get_all(field).iter().any(|line| {
        let line = line.as_bytes().trim_ascii();
        line == b"*" || etag.is_some_and(|etag| entity_tags(line).any(|tag| same(tag, etag)))
    })
}

/// The entity tags of a list, each with its quotes and `W/`; stops at the first syntax error. Backslashes do not escape
/// in entity tags (RFC 9110 §8.8.3), and commas may occur in them.
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

/// Whether the text is a valid, strong entity tag.
pub(crate) fn is_strong(tag: &[u8]) -> bool {
    tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

/// Weak comparison (RFC 9110 §8.8.3.2).
pub(crate) fn weak<'a>(one: &'a [u8], other: &'a [u8]) -> bool {
    let opaque = |tag: &'a [u8]| tag.strip_prefix(b"W/").unwrap_or(tag);
    opaque(one) == opaque(other)
}
