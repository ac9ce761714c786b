//! Tags: names that an origin gives a body in a response header, by which a refresh may cover it.
//!
//! Fastly calls the header `Surrogate-Key` and separates by spaces, others call it `Cache-Tag` and separate by commas; both
//! are read, in both ways, unless a domain names a header of its own. Tags differ by letter case.
//!
//! # What always holds
//!
//! - A body whose tags are not known, or are more or longer than the bounds, counts as having every tag: a refresh by tag may
//!   then ask for it again without need, and never passes it by.

use std::fmt;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Tags of one body that are told apart.
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

/// What is known of a body's tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags<'a> {
    /// These, in the order of the header; at most [`TAGS_PER_OBJECT_MAX`]. A header may hold bytes that no [`Tag`] has.
    Named(Vec<&'a [u8]>),
    /// Not known, or beyond the bounds: it counts as having every tag.
    Any,
}

impl<'a> Tags<'a> {
    /// The tags in a response's `headers`: of the header called `name` (lower case), or of the two that are usual where a domain
    /// names none.
    pub fn of(headers: &'a HeaderMap, name: Option<&str>) -> Tags<'a> {
        let mut named = Vec::new();
        // Every hit on a body that is older than some refresh by tag comes here. Responses have few headers, and looking at each
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

    /// Adds to a response's `headers` the tags of another that brought a part of the same body; those it has stay. Says whether there
    /// were any that it had not.
    pub fn join(headers: &mut HeaderMap, other: &HeaderMap, name: Option<&str>) -> bool {
        let new = !Tags::of(headers, name).has_all(&Tags::of(other, name));
        for (header, value) in other.iter().filter(|(header, _)| new && carries(header.as_str(), name)) {
            headers.append(header, value.clone());
        }
        new
    }

    /// Whether every refresh that covers a body with the `others` covers this one, too.
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

/// Whether tags are named in this header, where a domain names `name`.
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
        // Beyond the bounds a body has every tag, and nothing more is written down.
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
