//! A regular expression over URLs, limited to the four forms the vendor's users know: `[0-9]`, `[a-z]`, `[^/]*` and
//! `.*`.
//!
//! The host is literal, so a pattern covers a single host. It is matched against the whole path with its query, from
//! the first byte to the last, whether or not it was written with anchors: `/img/.*.png` does not cover
//! `/img/a.png?v=2`, and `/img/.*.png.*` does.
//!
//! Every byte outside the four forms stands for itself, including `.` and `?`, which are common in URLs. Any other
//! regular expression syntax (`\`, `|`, `{`, `(?`, a repeated class) is refused rather than taken literally: it would
//! match nothing, and the task would still be reported complete.
//!
//! # What always holds
//!
//! - Matching takes time linear in the path: there is no backtracking, and the size of the compiled form is bounded.
//! - A pattern is normalised as keys are ([`UrlKey`]), so that both compare the same bytes.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::key::UrlKey;

/// Longest path of a pattern, in bytes after escaping: a line of a task has as many characters.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// Maximum number of forms in one pattern.
pub const FORMS_MAX: usize = 64;

/// Largest compiled form, in bytes; patterns within the other bounds stay far below.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// The four forms.
const FORMS: [&str; 4] = ["[0-9]", "[a-z]", "[^/]*", ".*"];

/// A regular expression over the paths of one host.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "UrlKey", into = "UrlKey")]
pub struct Pattern {
    /// As written, normalised: a literal host, and a path that may hold the four forms.
    text: UrlKey,
    compiled: Regex,
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// It is longer than a line of a task may be.
    #[error("a regex may have {PATTERN_BYTES_MAX} bytes, percent-escapes included")]
    TooLong,
    /// It has more than [`FORMS_MAX`] forms.
    #[error("a regex may have {FORMS_MAX} of [0-9], [a-z], [^/]* and .* together")]
    TooManyForms,
    /// It uses regular expression syntax beyond the four forms.
    #[error("`{0}` is not understood in a regex: only [0-9], [a-z], [^/]* and .* are, everything else is literal")]
    Form(String),
}

impl Pattern {
    /// Parses a pattern from its text, given as a URL key. Every trailing `$` is an anchor and is dropped, so a pattern
    /// that is encoded into the log and decoded again is the same pattern.
    pub fn parse(text: UrlKey) -> Result<Pattern, BadPattern> {
        let path = text.path_and_query().trim_end_matches('$').to_owned();
        let text = UrlKey::new(text.host(), &path).map_err(|_| BadPattern::Form(text.to_string()))?;
        if path.len() > PATTERN_BYTES_MAX {
            return Err(BadPattern::TooLong);
        }
        let mut regex = String::from("^");
        let (mut rest, mut forms) = (path.as_str(), 0);
        while let Some(first) = rest.chars().next() {
            if let Some(form) = FORMS.into_iter().find(|form| rest.starts_with(form)) {
                let after = &rest[form.len()..];
                // A repeated class is not one of the four forms, nor is a form that is repeated again.
                if after.starts_with(['*', '+', '{']) {
                    return Err(BadPattern::Form(rest.chars().take(form.len() + 1).collect()));
                }
                regex.push_str(form);
                forms += 1;
                rest = after;
                continue;
            }
            let unknown = matches!(first, '\\' | '|' | '{' | '}' | '[' | ']' | '^')
                || rest.starts_with("(?")
                || rest.starts_with(".+")
                || rest.starts_with(")*")
                || rest.starts_with(")+");
            if unknown {
                return Err(BadPattern::Form(rest.chars().take(2).collect()));
            }
            regex.push_str(&regex::escape(first.encode_utf8(&mut [0; 4])));
            rest = &rest[first.len_utf8()..];
        }
        if forms > FORMS_MAX {
            return Err(BadPattern::TooManyForms);
        }
        regex.push('$');
        let compiled = RegexBuilder::new(&regex)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|_| BadPattern::TooLong)?;
        Ok(Pattern { text, compiled })
    }

    /// The same pattern for another host, which must be a valid host of a key.
    pub fn at(&self, host: &str) -> Pattern {
        let text = UrlKey::new(host, self.text.path_and_query()).unwrap_or_else(|_| self.text.clone());
        Pattern { text, compiled: self.compiled.clone() }
    }

    /// The host it applies to.
    pub fn host(&self) -> &str {
        self.text.host()
    }

    /// The path as written, normalised, without anchors.
    pub fn path(&self) -> &str {
        self.text.path_and_query()
    }

    /// Whether it may match a URL of the host with the path of `key` and an unknown query. Every path that starts with
    /// the literal text before the first form counts, for a form may match a `?`.
    pub fn may_match(&self, key: &UrlKey) -> bool {
        let text = self.path();
        let form = FORMS.iter().filter_map(|form| text.find(form)).min().unwrap_or(text.len());
        let before = text[..form].split('?').next().unwrap_or_default();
        key.host() == self.host() && key.path().starts_with(before)
    }

    /// Whether it matches the whole of `key`.
    pub fn matches(&self, key: &UrlKey) -> bool {
        key.host() == self.host() && self.compiled.is_match(key.path_and_query().as_bytes())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl TryFrom<UrlKey> for Pattern {
    type Error = BadPattern;

    fn try_from(text: UrlKey) -> Result<Self, Self::Error> {
        Pattern::parse(text)
    }
}

impl From<Pattern> for UrlKey {
    fn from(pattern: Pattern) -> UrlKey {
        pattern.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &str) -> Result<Pattern, BadPattern> {
        Pattern::parse(UrlKey::new("a.com", path).unwrap())
    }

    #[test]
    fn patterns_match_whole_paths_with_their_queries() {
        let cases = [
            // pattern             path                 matches
            ("/img/.*", "/img/", true),
            ("/img/.*", "/img/a/b.png?v=1", true),
            ("/img/.*", "/img", false),
            ("/.*.png", "/a/b.png", true),
            ("/.*.png", "/a/b.png?v=1", false), // the query is part of what is matched
            ("/.*.png.*", "/a/b.png?v=1", true),
            ("/.*.png$", "/a/b.png", true), // with the anchor it is the same pattern
            ("/.*.png", "/abpng", false),   // a dot is a dot
            ("/img[0-9].png", "/img7.png", true),
            ("/img[0-9].png", "/img77.png", false),
            ("/img[0-9][0-9].png", "/img77.png", true),
            ("/img[0-9].png", "/imgx.png", false),
            ("/[a-z]/x", "/q/x", true),
            ("/[a-z]/x", "/Q/x", false),
            ("/[^/]*/x", "/a-b.c/x", true),
            ("/[^/]*/x", "/a/b/x", false),
            ("/[^/]*/x", "//x", true),
            ("/[^/]*", "/a?b=c/d", false), // a slash is one in the query too
            ("/a?b=[0-9]", "/a?b=1", true),
            ("/a?b=[0-9]", "/b=1", false),  // a question mark is one
            ("/a+b!c*d", "/a+b!c*d", true), // what URLs may hold stands for itself
            ("/a%2f.*", "/a%2Fb", true),
            ("/中/.*", "/%E4%B8%AD/x", true),
            ("/", "/", true),
            ("/", "/a", false),
        ];
        for (text, path, expected) in cases {
            let key = UrlKey::new("a.com", path).unwrap();
            match pattern(text) {
                Ok(pattern) => {
                    assert_eq!(pattern.matches(&key), expected, "{text} over {path}");
                    let elsewhere = UrlKey::new("b.com", path).unwrap();
                    assert!(!pattern.matches(&elsewhere), "another host is never matched");
                }
                Err(error) => assert!(!expected, "{text}: {error}"),
            }
        }
    }

    #[test]
    fn richer_expressions_are_refused_by_what_is_wrong_with_them() {
        let cases = [
            (r"/a\.png", r"\."),
            ("/(a|b)", "|b"),
            ("/a{2}", "{2"),
            ("/[0-9]*", "[0-9]*"),
            ("/[0-9]+", "[0-9]+"),
            ("/[A-Z]", "[A"),
            ("/[^/]", "[^"),
            ("/[^/]+", "[^"),
            ("/.**", ".**"),
            ("/.+", ".+"),
            ("/a^b", "^b"),
            ("/(?i)a", "(?"),
        ];
        for (text, named) in cases {
            assert_eq!(pattern(text), Err(BadPattern::Form(named.to_owned())), "{text}");
        }
    }

    #[test]
    fn size_is_bounded() {
        assert!(pattern(&format!("/{}", "x".repeat(PATTERN_BYTES_MAX - 1))).is_ok());
        assert_eq!(pattern(&format!("/{}", "x".repeat(PATTERN_BYTES_MAX))), Err(BadPattern::TooLong));
        assert_eq!(pattern(&format!("/{}", "中".repeat(200))), Err(BadPattern::TooLong), "as escaped");
        assert!(pattern(&format!("/{}", "[^/]*x".repeat(FORMS_MAX))).is_ok());
        assert_eq!(pattern(&format!("/{}", ".*x".repeat(FORMS_MAX + 1))), Err(BadPattern::TooManyForms));
    }

    #[test]
    fn pattern_and_its_anchored_form_are_one() {
        assert_eq!(pattern("/a.*$").unwrap(), pattern("/a.*").unwrap());
        assert_eq!(pattern("/a.*$").unwrap().to_string(), "a.com/a.*");
        assert_eq!(pattern("/a.*$$").unwrap(), pattern("/a.*").unwrap());
        assert_eq!(pattern("/$$").unwrap().to_string(), "a.com/");
    }

    /// A naive reference matcher, for comparison.
    fn naive(pattern: &[u8], path: &[u8]) -> bool {
        let any = |rest: &[u8], stop: fn(u8) -> bool| {
            let end = path.iter().position(|byte| stop(*byte)).unwrap_or(path.len());
            (0..=end).any(|at| naive(rest, &path[at..]))
        };
        if let Some(rest) = pattern.strip_prefix(b".*") {
            any(rest, |_| false)
        } else if let Some(rest) = pattern.strip_prefix(b"[^/]*") {
            any(rest, |byte| byte == b'/')
        } else if let Some(rest) = pattern.strip_prefix(b"[0-9]") {
            path.first().is_some_and(u8::is_ascii_digit) && naive(rest, &path[1..])
        } else if let Some(rest) = pattern.strip_prefix(b"[a-z]") {
            path.first().is_some_and(u8::is_ascii_lowercase) && naive(rest, &path[1..])
        } else {
            pattern.first() == path.first() && (pattern.is_empty() || naive(&pattern[1..], &path[1..]))
        }
    }

    proptest::proptest! {
        #[test]
        fn matching_agrees_with_the_slowest_way(
            pieces in proptest::collection::vec(proptest::sample::select(vec![".*", "[^/]*", "[0-9]", "[a-z]", "/", "a", "1", ".", "?"]), 0..7),
            path in "[a1./?]{0,7}",
        ) {
            let text = format!("/{}", pieces.concat());
            if let Ok(pattern) = pattern(&text) {
                let key = UrlKey::new("a.com", &format!("/{path}")).unwrap();
                proptest::prop_assert_eq!(pattern.matches(&key), naive(text.as_bytes(), key.path_and_query().as_bytes()), "{} over {}", text, key);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(path in "/[\\[\\]0-9a-z^/*.$?(){}|+\\\\]{0,40}") {
            let _ = pattern(&path);
        }

        #[test]
        fn what_was_written_down_is_read_as_the_same(path in "/([a-z0-9$^%#/ ]|[.][*]){0,8}[$]{0,3}") {
            if let Ok(pattern) = pattern(&path) {
                proptest::prop_assert_eq!(Pattern::parse(UrlKey::from(pattern.clone())), Ok(pattern));
            }
        }
    }
}
