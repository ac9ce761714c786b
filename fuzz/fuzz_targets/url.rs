//! Keys of URLs, and the scopes that cover them (lines: host; path; pattern; tags; a header of tags): keys,
//! directories, patterns, tags, lines of tasks. Patterns and tags are compared with naive matchers.
#![no_main]

use fuzz::text;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use model::{DomainName, NodeName, Pattern, PopName, Tag, Tags, UrlKey};

/// Longest path and pattern that are matched naively, in bytes.
const NAIVE_MAX: usize = 40;

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (host, path, pattern, tag, header) = (next(), next(), next(), next(), next());
    if let (Some(host), Some(path)) = (text(host), text(path)) {
        let _ = (DomainName::parse(host), NodeName::parse(host), PopName::parse(host));
        if let Ok(key) = UrlKey::new(host, path) {
            let pattern = text(pattern).and_then(|pattern| UrlKey::new(host, pattern).ok());
            known_by(&key, path, pattern);
        }
    }
    if let (Some(tag), Ok(value)) = (text(tag).and_then(|tag| Tag::parse(tag).ok()), HeaderValue::from_bytes(header)) {
        let named: Vec<&[u8]> =
            header.split(|byte| matches!(byte, b',' | b' ' | b'\t')).filter(|tag| !tag.is_empty()).collect();
        let beyond = named.len() > model::tags::TAGS_PER_OBJECT_MAX
            || named.iter().any(|tag| tag.len() > model::tags::TAG_BYTES_MAX);
        let headers: HeaderMap = [(http::HeaderName::from_static("cache-tag"), value)].into_iter().collect();
        assert_eq!(Tags::of(&headers, None).has(&tag), beyond || named.contains(&tag.as_str().as_bytes()));
    }
});

fn known_by(key: &UrlKey, path: &str, pattern: Option<UrlKey>) {
    let again = UrlKey::new(key.host(), key.path_and_query()).expect("a key is a URL");
    assert_eq!((&again, again.hash()), (key, key.hash()));
    assert!(key.path_and_query().bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(key.path_and_query().len() <= 3 * path.len());
    let directories: Vec<&str> = key.directories().collect();
    let naive: Vec<&str> =
        (1..=key.path().len()).rev().map(|end| &key.path()[..end]).filter(|path| path.ends_with('/')).collect();
    assert_eq!(directories, naive);

    let Some(Ok(pattern)) = pattern.map(Pattern::parse) else { return };
    assert_eq!(Pattern::parse(UrlKey::from(pattern.clone())).as_ref(), Ok(&pattern));
    let matches = pattern.matches(key);
    assert!(!matches || pattern.may_match(key), "{pattern} over {key}");
    if pattern.path().len() <= NAIVE_MAX
        && key.path_and_query().len() <= NAIVE_MAX
        && pattern.path().matches('*').count() <= 5
    {
        assert_eq!(
            matches,
            naive_match(pattern.path().as_bytes(), key.path_and_query().as_bytes()),
            "{pattern} over {key}"
        );
    }
}

/// A naive, correct matcher.
fn naive_match(pattern: &[u8], path: &[u8]) -> bool {
    let any = |rest: &[u8], stop: fn(u8) -> bool| {
        let end = path.iter().position(|byte| stop(*byte)).unwrap_or(path.len());
        (0..=end).any(|at| naive_match(rest, &path[at..]))
    };
    if let Some(rest) = pattern.strip_prefix(b".*") {
        any(rest, |_| false)
    } else if let Some(rest) = pattern.strip_prefix(b"[^/]*") {
        any(rest, |byte| byte == b'/')
    } else if let Some(rest) = pattern.strip_prefix(b"[0-9]") {
        path.first().is_some_and(u8::is_ascii_digit) && naive_match(rest, &path[1..])
    } else if let Some(rest) = pattern.strip_prefix(b"[a-z]") {
        path.first().is_some_and(u8::is_ascii_lowercase) && naive_match(rest, &path[1..])
    } else {
        pattern.first() == path.first() && (pattern.is_empty() || naive_match(&pattern[1..], &path[1..]))
    }
}
