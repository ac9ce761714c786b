//! Bytes of a fuzzer as the values that targets hand to what they test.
//!
//! Everything is text in lines, so that inputs can be read, seeds written by hand, and pieces of one input moved into another.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Lines of `name: value` as header fields; what cannot be one is left out.
pub fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((name, value)) = cut(line, b':') else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii_start()))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Sections, split at lines that are empty.
pub fn sections(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(2).position(|pair| pair == b"\n\n");
        rest = end.map(|end| &bytes[end + 2..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

/// What stands before and behind the first `at`.
pub fn cut(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

/// A line of words: the first ones, and the rest.
pub fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    cut(bytes, b'\n').unwrap_or((bytes, b""))
}

/// The text of a line, if it is one.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
