//! Turns a fuzzer's bytes into the inputs of fuzz targets.
//!
//! Everything is text in lines, so that inputs can be read, seeds written by hand, and parts of one input moved into
//! another.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Parses lines of `name: value` as header fields; invalid ones are skipped.
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

/// Sections, separated by empty lines.
pub fn sections(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(2).position(|pair| pair == b"\n\n");
        rest = end.map(|end| &bytes[end + 2..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

/// The parts before and after the first `at`.
pub fn cut(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

/// The first line, and the rest.
pub fn line(bytes: &[u8]) -> (&[u8], &[u8]) {
    cut(bytes, b'\n').unwrap_or((bytes, b""))
}

/// The bytes as text, if they are valid.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}
