//! Tags: names that an origin gives a body in a response header, so that a refresh can cover it by name.
//!
//! Fastly calls the header `Surrogate-Key` and separates tags by spaces; others call it `Cache-Tag` and separate them
//! by commas. Both headers are read with either separator, unless a domain configures a header of its own. Tags are
//! case-sensitive.
//!
//! # What always holds
//!
//! - A body whose tags are unknown, too many or too long counts as having every tag: a refresh by tag may then
//!   revalidate it needlessly, but never misses it.

use std::fmt;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Maximum number of tags per body; a body with more counts as having every tag.
pub const TAGS_PER_OBJECT_MAX: usize = 128;

/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 256;

/// One tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// Why a text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag has 1 to {TAG_BYTES_MAX} bytes, without spaces, commas and control characters")]
pub struct BadTag;

impl Tag {
    /// Reads a tag.
    pub fn parse(text: &str) -> Result<Tag, BadTag> {
        let plain = |c: char| c != ',' && !c.is_whitespace() && !c.is_control();
        let fits = (1..=TAG_BYTES_MAX).contains(&text.len()) && text.chars().all(plain);
        if fits { Ok(Tag(text.to_owned())) } else { Err(BadTag) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Tag {
    type Error = BadTag;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Tag::parse(&text)
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.0
    }
}

/// What is known about a body's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags<'a> {
    /// These, in header order; at most [`TAGS_PER_OBJECT_MAX`]. A header may contain bytes that are not valid in a
    /// [`Tag`].
    Named(Vec<&'a [u8]>),
    /// Unknown, or beyond the bounds: the body counts as having every tag.
    Any,
}

impl<'a> Tags<'a> {
    /// The tags in a response's `headers`: from the header called `name` (lower case), or from the two usual ones if
    /// the domain configures none.
    pub fn of(headers: &'a HeaderMap, name: Option<&str>) -> Tags<'a> {
        let mut named = Vec::new();
        // Every hit on a body older than some refresh by tag runs this. Responses have few headers, and looking at each
        // costs less than hashing two names.
        for (_, value) in headers.iter().filter(|(header, _)| carries(header.as_str(), name)) {
            let pieces = value.as_bytes().split(|byte| matches!(byte, b',' | b' ' | b'\t'));
            for tag in pieces.filter(|tag| !tag.is_empty()) {
                if tag.len() > TAG_BYTES_MAX || named.len() == TAGS_PER_OBJECT_MAX {
                    return Tags::Any;
                }
                named.push(tag);
            }
        }
        Tags::Named(named)
    }

    /// Adds to `headers` the tags of another response that carried a part of the same body, and keeps those already
    /// there. Returns whether any of them were new.
    pub fn join(headers: &mut HeaderMap, other: &HeaderMap, name: Option<&str>) -> bool {
        let new = !Tags::of(headers, name).has_all(&Tags::of(other, name));
        for (header, value) in other.iter().filter(|(header, _)| new && carries(header.as_str(), name)) {
            headers.append(header, value.clone());
        }
        new
    }

    /// Whether every refresh that covers a body with the tags `others` also covers this one.
    pub fn has_all(&self, others: &Tags<'_>) -> bool {
        match (self, others) {
            (Tags::Any, _) => true,
            (Tags::Named(_), Tags::Any) => false,
            (Tags::Named(named), Tags::Named(others)) => others.iter().all(|tag| named.contains(tag)),
        }
    }

    /// Whether a refresh of `tag` covers the body.
    pub fn has(&self, tag: &Tag) -> bool {
        match self {
            Tags::Named(named) => named.contains(&tag.as_str().as_bytes()),
            Tags::Any => true,
        }
    }
}

/// Whether this header carries tags; `name` is the one the domain configured, if any.
fn carries(header: &str, name: Option<&str>) -> bool {
    match name {
        Some(name) => name == header,
        None => matches!(header.as_bytes(), b"cache-tag" | b"surrogate-key"),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let lines = lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn tags_of_parts_come_together() {
        let other = headers(&[("cache-tag", "b c"), ("x-tag", "d")]);
        let cases = [
            (headers(&[("cache-tag", "a b")]), None, true, "a b b c"),
            (headers(&[("surrogate-key", "c b")]), None, false, "c b"),
            (headers(&[]), None, true, "b c"),
            (headers(&[("cache-tag", "a")]), Some("x-tag"), true, "d"),
            (headers(&[("x-tag", "d e")]), Some("x-tag"), false, "d e"),
        ];
        for (had, name, new, all) in cases {
            let mut joined = had.clone();
            assert_eq!(Tags::join(&mut joined, &other, name), new, "{had:?} {name:?}");
            let all = all.split(' ').map(str::as_bytes).collect();
            assert_eq!(Tags::of(&joined, name), Tags::Named(all), "{had:?} {name:?}");
        }
        // Beyond the bounds a body counts as having every tag, and no more tags are kept.
        let many: Vec<String> = (0..=TAGS_PER_OBJECT_MAX).map(|number| number.to_string()).collect();
        let mut joined = headers(&[("cache-tag", "a")]);
        assert!(Tags::join(&mut joined, &headers(&[("cache-tag", &many.join(","))]), None));
        assert_eq!(Tags::of(&joined, None), Tags::Any);
        assert!(!Tags::join(&mut joined, &other, None));
    }

    #[test]
    fn tags_are_read_from_every_header_that_may_hold_them() {
        type Lines<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Lines<'_>, Option<&str>, &[&str]); 8] = [
            (&[("cache-tag", "a,b , c")], None, &["a", "b", "c"]),
            (&[("surrogate-key", "a b  c")], None, &["a", "b", "c"]),
            (&[("surrogate-key", "b"), ("cache-tag", "a"), ("cache-tag", "c")], None, &["b", "a", "c"]),
            (&[("x-tags", "a")], None, &[]),
            (&[("x-tags", "a"), ("cache-tag", "b")], Some("x-tags"), &["a"]), // its own name alone
            (&[("cache-tag", ",, ,")], None, &[]),
            (&[], None, &[]),
            (&[("cache-tag", "a")], Some("not a name"), &[]),
        ];
        for (lines, name, expected) in cases {
            let headers = headers(lines);
            let expected: Vec<&[u8]> = expected.iter().map(|tag| tag.as_bytes()).collect();
            assert_eq!(Tags::of(&headers, name), Tags::Named(expected), "{lines:?}");
        }
    }

    #[test]
    fn what_is_beyond_the_bounds_counts_as_every_tag() {
        let tag = Tag::parse("never-named").unwrap();
        let many = |count| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>().join(" ");
        let cases = [
            (many(TAGS_PER_OBJECT_MAX), false),
            (many(TAGS_PER_OBJECT_MAX + 1), true),
            ("x".repeat(TAG_BYTES_MAX), false),
            ("x".repeat(TAG_BYTES_MAX + 1), true),
        ];
        for (value, any) in cases {
            let headers = headers(&[("cache-tag", &value)]);
            assert_eq!(Tags::of(&headers, None).has(&tag), any, "{} bytes", value.len());
        }
    }

    #[test]
    fn tags_are_short_and_plain() {
        for good in ["a", "A-b_c.d:e/f", "中"] {
            assert_eq!(Tag::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a,b", "a\n", &"x".repeat(TAG_BYTES_MAX + 1)] {
            assert_eq!(Tag::parse(bad), Err(BadTag), "{bad:?}");
        }
    }
}
