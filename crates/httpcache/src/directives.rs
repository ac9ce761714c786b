//! The directives of a response: `Cache-Control`, or a field targeted at us that takes its place.
//!
//! `Cache-Control` is read leniently, because a directive that is missed keeps what should not be kept; a targeted
//! field (RFC 9213) is a structured dictionary (RFC 9651) that is read to the letter, because one that does not
//! parse is to be treated as absent.
//!
//! # What always holds
//!
//! - Of conflicting values the most restrictive counts (RFC 9111 §4.2.1); a number that cannot be read counts as 0.
//! - The qualified forms `no-cache="field"` and `private="field"` count as the unqualified ones, as RFC 9111
//!   §5.2.2.4 and §5.2.2.7 allow.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

use crate::freshness::LIFETIME_MAX;

/// Fields targeted at caches like this one, the narrowest target first (RFC 9213 §2.2).
const TARGETED: [&str; 1] = ["cdn-cache-control"];

/// What a response says of being cached. Durations are `None` when the directive is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Whether a targeted field was read, so that `Expires` does not count either (RFC 9213 §2.2).
    pub(crate) targeted: bool,
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) s_maxage: Option<Duration>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
}

impl Directives {
    /// Reads what counts for a CDN: the first targeted field that is valid and not empty, else `Cache-Control`.
    pub(crate) fn of(response: &HeaderMap) -> Directives {
        TARGETED
            .iter()
            .find_map(|field| Directives::targeted(response, field))
            .unwrap_or_else(|| Directives::cache_control(response))
    }

    /// Reads every `Cache-Control` line (RFC 9111 §5.2).
    fn cache_control(response: &HeaderMap) -> Directives {
        let mut directives = Directives::default();
        for line in response.get_all(CACHE_CONTROL) {
            for (name, value) in list(line.as_bytes()) {
                directives.add(name, seconds(value));
            }
        }
        directives
    }

    /// Reads one targeted field; `None` when it is absent, empty or not a dictionary.
    fn targeted(response: &HeaderMap, field: &str) -> Option<Directives> {
        let lines: Vec<&[u8]> = response.get_all(field).iter().map(|line| line.as_bytes()).collect();
        let members = dictionary(&lines.join(&b", "[..]))?;
        if members.is_empty() {
            return None;
        }
        let mut directives = Directives { targeted: true, ..Directives::default() };
        for (name, value) in &members {
            match value {
                Item::True => directives.add(name, Duration::ZERO),
                Item::Integer(number) => directives.add(name, capped(u64::try_from(*number).unwrap_or(0))),
                Item::Text => directives.add(name, Duration::ZERO),
                Item::False => {}
            }
        }
        Some(directives)
    }

    fn add(&mut self, name: &[u8], seconds: Duration) {
        let least = |slot: &mut Option<Duration>| *slot = Some(slot.map_or(seconds, |had| had.min(seconds)));
        match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"max-age" => least(&mut self.max_age),
            b"s-maxage" => least(&mut self.s_maxage),
            b"stale-while-revalidate" => least(&mut self.stale_while_revalidate),
            b"stale-if-error" => least(&mut self.stale_if_error),
            _ => {} // `immutable` (RFC 8246) among them: users' reloads do not reach the origin anyway
        }
    }
}

/// Whether a user's request has `only-if-cached`, the one request directive that is honoured (RFC 9111 §5.2.1.7).
pub(crate) fn only_if_cached(request: &HeaderMap) -> bool {
    request
        .get_all(CACHE_CONTROL)
        .iter()
        .any(|line| list(line.as_bytes()).any(|(name, _)| name.eq_ignore_ascii_case(b"only-if-cached")))
}

/// Splits a field of `name[=value]` elements at commas outside quotes; names and values are trimmed, quotes kept.
pub(crate) fn list(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = unquoted(rest, b',').unwrap_or(rest.len());
            let (element, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            let element = element.trim_ascii();
            if element.is_empty() {
                continue; // RFC 9110 §5.6.1.2: empty elements are ignored
            }
            return Some(match element.iter().position(|byte| *byte == b'=') {
                Some(at) => (element[..at].trim_ascii_end(), element[at + 1..].trim_ascii_start()),
                None => (element, &[][..]),
            });
        }
        None
    })
}

/// Where `wanted` first stands outside a quoted string.
pub(crate) fn unquoted(text: &[u8], wanted: u8) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.iter().position(|byte| {
        if escaped {
            escaped = false;
        } else if quoted && *byte == b'\\' {
            escaped = true;
        } else if *byte == b'"' {
            quoted = !quoted;
        } else if !quoted && *byte == wanted {
            return true;
        }
        false
    })
}

/// Delta-seconds (RFC 9111 §1.2.2), also in quotes; what is no number is 0, what is too large the largest.
fn seconds(value: &[u8]) -> Duration {
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    delta_seconds(value).unwrap_or_default()
}

/// Delta-seconds; `None` when the text is not all digits.
pub(crate) fn delta_seconds(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(capped(number))
}

fn capped(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(LIFETIME_MAX)
}

/// A value of a structured dictionary, as far as cache directives need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    True,
    False,
    Integer(i64),
    /// A string, token, decimal, byte sequence or inner list: valid, but no number.
    Text,
}

/// Parses a structured dictionary (RFC 9651 §4.2.2); of a repeated key the last counts. `None` when it is not one.
fn dictionary(text: &[u8]) -> Option<Vec<(Vec<u8>, Item)>> {
    let mut members: Vec<(Vec<u8>, Item)> = Vec::new();
    let mut parser = Parser(text.trim_ascii());
    while !parser.0.is_empty() {
        let key = parser.key()?;
        let value = if parser.eat(b'=') { parser.member()? } else { Item::True };
        parser.parameters()?;
        members.retain(|(had, _)| *had != key);
        members.push((key, value));
        parser.0 = parser.0.trim_ascii_start();
        if parser.0.is_empty() {
            break;
        }
        if !parser.eat(b',') {
            return None;
        }
        parser.0 = parser.0.trim_ascii_start();
        if parser.0.is_empty() {
            return None; // a trailing comma
        }
    }
    Some(members)
}

/// What is left to parse.
struct Parser<'a>(&'a [u8]);

impl Parser<'_> {
    fn eat(&mut self, wanted: u8) -> bool {
        match self.0.split_first() {
            Some((byte, rest)) if *byte == wanted => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> Vec<u8> {
        let end = self.0.iter().position(|byte| !keep(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken.to_vec()
    }

    fn key(&mut self) -> Option<Vec<u8>> {
        let first = *self.0.first()?;
        if !first.is_ascii_lowercase() && first != b'*' {
            return None;
        }
        Some(self.take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(&b)))
    }

    fn member(&mut self) -> Option<Item> {
        if !self.eat(b'(') {
            return self.bare();
        }
        loop {
            self.0 = self.0.trim_ascii_start();
            if self.eat(b')') {
                return Some(Item::Text);
            }
            self.bare()?;
            self.parameters()?;
            if !matches!(self.0.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn bare(&mut self) -> Option<Item> {
        match *self.0.first()? {
            b'?' => {
                self.eat(b'?');
                if self.eat(b'1') {
                    Some(Item::True)
                } else if self.eat(b'0') {
                    Some(Item::False)
                } else {
                    None
                }
            }
            b'"' => self.string(),
            b':' => {
                self.eat(b':');
                self.take_while(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
                self.eat(b':').then_some(Item::Text)
            }
            b'-' | b'0'..=b'9' => self.number(),
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
                Some(Item::Text)
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Item> {
        self.eat(b'"');
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(Item::Text),
                b'\\' if !self.eat(b'"') && !self.eat(b'\\') => return None,
                b'\\' | 0x20..=0x7e => {}
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Item> {
        let negative = self.eat(b'-');
        let whole = self.take_while(|b| b.is_ascii_digit());
        if whole.is_empty() {
            return None;
        }
        if self.eat(b'.') {
            let fraction = self.take_while(|b| b.is_ascii_digit());
            return ((1..=3).contains(&fraction.len()) && whole.len() <= 12).then_some(Item::Text);
        }
        if whole.len() > 15 {
            return None;
        }
        let number: i64 = std::str::from_utf8(&whole).ok()?.parse().ok()?;
        Some(Item::Integer(if negative { -number } else { number }))
    }

    fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.0 = self.0.trim_ascii_start();
            self.key()?;
            if self.eat(b'=') {
                self.bare()?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: &'static str, value: &str) -> Directives {
        let mut headers = HeaderMap::new();
        headers.insert(field, value.parse().unwrap());
        Directives::of(&headers)
    }

    #[test]
    fn cache_control_is_read_leniently() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            ("§5.2", "max-age=60", s(60)),
            ("§5.2 names are case-insensitive", "Max-Age=60", s(60)),
            ("§5.2 quoted form", "max-age=\"60\"", s(60)),
            ("§4.2.1 the most restrictive of two", "max-age=60, max-age=5", s(5)),
            ("§4.2.1 not a number", "max-age=soon", s(0)),
            ("§4.2.1 negative", "max-age=-1", s(0)),
            ("§1.2.2 too large", "max-age=99999999999999999999999", Some(LIFETIME_MAX)),
            ("§5.6.1.2 empty elements", ",, ,max-age=7,", s(7)),
            ("a comma in quotes", "private=\"a, max-age=1\", max-age=9", s(9)),
            ("an open quote swallows the rest", "x=\"a, max-age=1", None),
            ("absent", "public", None),
        ];
        for (rule, value, max_age) in cases {
            assert_eq!(check("cache-control", value).max_age, max_age, "{rule}: {value}");
        }
        assert!(check("cache-control", "no-cache=\"set-cookie\"").no_cache);
        assert!(check("cache-control", "private=\"x\"").private);
    }

    #[test]
    fn targeted_field_is_read_to_the_letter() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            // value                     read    max-age
            ("max-age=60", true, s(60)),
            ("max-age=60;x=1, public", true, s(60)),
            ("max-age=1, max-age=2", true, s(2)), // §4.2.2: the last of a key counts
            ("max-age=-1", true, s(0)),
            ("max-age=\"60\"", true, s(0)), // a string is no number
            ("no-store=?0, max-age=5", true, s(5)),
            ("x=(a b), max-age=5", true, s(5)),
            ("Max-Age=60", false, None), // keys are lower case
            ("max-age=60,", false, None),
            ("max-age=", false, None),
            ("&", false, None),
            ("", false, None),
        ];
        for (value, targeted, max_age) in cases {
            let read = check("cdn-cache-control", value);
            assert_eq!((read.targeted, read.max_age), (targeted, max_age), "{value}");
        }
    }
}
