//! Ranges of a body: which bytes a `Range` selects, how several are sent, and whether a partial response continues a
//! stored one (RFC 9110 §14, §15.3.7).
//!
//! # What always holds
//!
//! - A [`ByteRange`] is never empty and lies within its body.
//! - A multipart answer is shorter than the whole body: ranges that overlap or nearly touch are merged, and a request
//!   for more than [`RANGES_MAX`] is answered with the whole body (§14.2).

use http::header::{CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::answer::is_strong;

/// Maximum number of ranges in a request; with more, `Range` is ignored.
pub const RANGES_MAX: usize = 32;

/// Approximate overhead of a part in bytes; a gap between two ranges that is no larger is sent rather than skipped.
const PART_OVERHEAD: u64 = 128;

/// A range of a body's bytes; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Number of bytes.
    pub fn length(&self) -> u64 {
        self.end - self.start
    }

    /// `Content-Range` of a 206 for a body of `length` bytes (RFC 9110 §14.4).
    pub fn content_range(&self, length: u64) -> HeaderValue {
        ascii(format!("bytes {}-{}/{length}", self.start, self.end - 1))
    }

    /// Both as one range, if they overlap or the gap between them is not worth a separate part.
    fn merged(self, other: ByteRange) -> Option<ByteRange> {
        let near = self.start <= other.end.saturating_add(PART_OVERHEAD)
            && other.start <= self.end.saturating_add(PART_OVERHEAD);
        near.then(|| ByteRange { start: self.start.min(other.start), end: self.end.max(other.end) })
    }
}

/// `Content-Range` of a 416 for a body of `length` bytes (RFC 9110 §15.5.17).
pub(crate) fn unsatisfied(length: u64) -> HeaderValue {
    ascii(format!("bytes */{length}"))
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and punctuation make a header value")
}

/// What a `Range` selects.
pub(crate) enum Selected {
    /// The whole body: there is no `Range` that applies.
    Whole,
    Part(ByteRange),
    Parts(Vec<ByteRange>),
    /// None of the ranges lies within the body.
    Nothing,
}

/// Evaluates `Range` against a body of `length` bytes (RFC 9110 §14.1.2, §14.2).
pub(crate) fn select(request: &HeaderMap, length: u64) -> Selected {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Selected::Whole };
    let Some((unit, set)) = line.to_str().ok().and_then(|line| line.split_once('=')) else { return Selected::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selected::Whole;
    }
    let mut parts: Vec<ByteRange> = Vec::new();
    let (mut any, mut any_suffix) = (0, false);
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        any += 1;
        any_suffix |= spec.starts_with('-');
        match resolve(spec, length) {
            _ if any > RANGES_MAX => return Selected::Whole,
            Err(Malformed) => return Selected::Whole,
            Ok(Some(part)) => add(&mut parts, part),
            Ok(None) => {}
        }
    }
    match parts.as_slice() {
        [] if any > 0 && (length > 0 || !any_suffix) => Selected::Nothing,
        [] => Selected::Whole, // the last n bytes of an empty body are all of it
        [part] => Selected::Part(*part),
        parts if cost(parts) >= length => Selected::Whole,
        _ => Selected::Parts(parts),
    }
}

/// Approximate size of a multipart answer, in bytes.
fn cost(parts: &[ByteRange]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.length()).saturating_add(PART_OVERHEAD))
}

/// Adds a range to the previous ones: in request order, or merged with those that it overlaps or nearly touches, at the
/// position of the first of them (RFC 9110 §15.3.7.2).
fn add(parts: &mut Vec<ByteRange>, part: ByteRange) {
    let (mut part, mut place) = (part, parts.len());
    while let Some((at, merged)) =
        parts.iter().enumerate().find_map(|(at, had)| had.merged(part).map(|merged| (at, merged)))
    {
        parts.remove(at);
        place = place.min(at);
        part = merged;
    }
    parts.insert(place.min(parts.len()), part);
}

/// A range that violates the grammar; the whole field is then ignored.
struct Malformed;

/// The bytes that one range specifier selects; `None` if there are none.
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

/// Digits as a number, saturating; `None` for empty text.
fn number(text: &str) -> Result<Option<u64>, Malformed> {
    let text = text.trim();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    Ok((!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

/// Several parts as one `multipart/byteranges` body (RFC 9110 §14.6): each part's head and bytes, then the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    /// `Content-Type` of the whole.
    pub content_type: HeaderValue,
    /// The text before the bytes of each part, in order.
    pub parts: Vec<(Vec<u8>, ByteRange)>,
    /// The text after the last part.
    pub end: Vec<u8>,
    /// Length of the whole multipart body, in bytes.
    pub length: u64,
}

impl Multipart {
    /// Parts of a body of `length` bytes and of type `content_type`. `boundary` is up to 70 letters and digits that the
    /// authors of bodies cannot guess.
    pub fn new(boundary: &str, parts: &[ByteRange], content_type: Option<&HeaderValue>, length: u64) -> Multipart {
        let heads = parts.iter().map(|part| {
            let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
            if let Some(content_type) = content_type {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(content_type.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"Content-Range: ");
            head.extend_from_slice(part.content_range(length).as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
            (head, *part)
        });
        let parts: Vec<(Vec<u8>, ByteRange)> = heads.collect();
        let end = format!("\r\n--{boundary}--\r\n").into_bytes();
        let bytes: u64 = parts.iter().map(|(head, part)| head.len() as u64 + part.length()).sum();
        let content_type = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"));
        Multipart {
            content_type: content_type.expect("the boundary is letters and digits"),
            length: bytes + end.len() as u64,
            parts,
            end,
        }
    }
}

/// Whether a 206 has the bytes from `from` to the end of a stored response of `length` bytes that has all bytes before
/// (RFC 9110 §15.3.7.3, RFC 9111 §3.4): parts may be combined only under the same strong entity tag.
pub fn continues(stored: &HeaderMap, from: u64, length: u64, status: StatusCode, partial: &HeaderMap) -> bool {
    let rest = ByteRange { start: from, end: length };
    status == StatusCode::PARTIAL_CONTENT
        && from < length
        && stored.get(ETAG).is_some_and(|etag| is_strong(etag.as_bytes()) && partial.get(ETAG) == Some(etag))
        && partial.get(CONTENT_RANGE) == Some(&rest.content_range(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_framed_as_the_type_says() {
        let ranges = [ByteRange { start: 0, end: 2 }, ByteRange { start: 500, end: 600 }];
        let text = HeaderValue::from_static("text/plain");
        let multipart = Multipart::new("cut", &ranges, Some(&text), 1000);
        assert_eq!(multipart.content_type, "multipart/byteranges; boundary=cut");
        let mut body = Vec::new();
        for (head, part) in &multipart.parts {
            body.extend_from_slice(head);
            body.extend((part.start..part.end).map(|_| b'.'));
        }
        body.extend_from_slice(&multipart.end);
        assert_eq!(body.len() as u64, multipart.length);
        let body = String::from_utf8(body).unwrap();
        let first = "\r\n--cut\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/1000\r\n\r\n..\r\n--cut\r\n";
        assert!(body.starts_with(first), "{body}");
        assert!(body.ends_with(".\r\n--cut--\r\n"), "{body}");
        let bare = Multipart::new("cut", &ranges, None, 1000);
        assert!(bare.parts[0].0.starts_with(b"\r\n--cut\r\nContent-Range:"), "no type is made up");
    }

    #[test]
    fn parts_belong_together_under_a_strong_tag_only() {
        let head = |etag: &'static str, range: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, HeaderValue::from_static(etag));
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(range));
            headers
        };
        let part = StatusCode::PARTIAL_CONTENT;
        let cases = [
            // stored  status         the part's tag and range              continues from 10 of 100
            ("\"a\"", part, "\"a\"", "bytes 10-99/100", true),
            ("\"a\"", part, "\"b\"", "bytes 10-99/100", false),
            ("W/\"a\"", part, "W/\"a\"", "bytes 10-99/100", false),
            ("\"a\"", StatusCode::OK, "\"a\"", "bytes 10-99/100", false),
            ("\"a\"", part, "\"a\"", "bytes 11-99/100", false),
            ("\"a\"", part, "\"a\"", "bytes 10-98/100", false),
            ("\"a\"", part, "\"a\"", "bytes 10-99/101", false),
            ("\"a\"", part, "\"a\"", "bytes 10-99/*", false),
        ];
        for (stored, status, etag, range, expected) in cases {
            let stored = head(stored, "");
            assert_eq!(continues(&stored, 10, 100, status, &head(etag, range)), expected, "§15.3.7.3: {etag} {range}");
        }
        assert!(!continues(&head("\"a\"", ""), 100, 100, part, &head("\"a\"", "bytes 100-99/100")), "nothing is left");
    }
}
