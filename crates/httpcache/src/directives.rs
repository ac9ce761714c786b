//! Cache directives of responses (`Cache-Control`, or a targeted field that takes its place) and of requests.
//!
//! `Cache-Control` is parsed leniently, because a missed directive could store what must not be stored; a targeted
//! field (RFC 9213) is a structured dictionary (RFC 9651) and parsed strictly, because one that does not parse must be
//! treated as absent.
//!
//! # What always holds
//!
//! - Of a repeated directive the first value counts, of conflicting directives the most restrictive (RFC 9111 §4.2.1);
//!   an unreadable number counts as 0.
//! - The qualified forms `no-cache="field"` and `private="field"` withhold these fields from everybody but the client
//!   that caused the fetch (§5.2.2.4, §5.2.2.7). If the list is unreadable, or names a field that caching needs, they
//!   count as the unqualified ones.

use std::time::Duration;

use http::header::{
    AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, EXPIRES,
    LAST_MODIFIED, LOCATION, PRAGMA, VARY,
};
use http::{HeaderMap, HeaderName};

use crate::freshness::LIFETIME_MAX;

/// Fields targeted at caches like this one, the narrowest target first (RFC 9213 §2.2).
const TARGETED: [&str; 1] = ["cdn-cache-control"];

/// Fields that a cache or its clients depend on; a response cannot be stored without them.
const NEEDED: [HeaderName; 13] = [
    AGE,
    CACHE_CONTROL,
    HeaderName::from_static("cdn-cache-control"),
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    DATE,
    ETAG,
    EXPIRES,
    LAST_MODIFIED,
    LOCATION,
    VARY,
];

/// The cache directives of a response. Durations are `None` if the directive is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Whether a targeted field applies, so that `Expires` is ignored as well (RFC 9213 §2.2).
    pub(crate) targeted: bool,
    pub(crate) no_store: bool,
    pub(crate) no_cache: bool,
    pub(crate) private: bool,
    pub(crate) public: bool,
    pub(crate) must_revalidate: bool,
    pub(crate) proxy_revalidate: bool,
    pub(crate) must_understand: bool,
    pub(crate) immutable: bool,
    /// Fields of the qualified forms of `no-cache` and `private`.
    pub(crate) withheld: Vec<HeaderName>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) s_maxage: Option<Duration>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
}

impl Directives {
    /// Parses the field that applies to a CDN: the first targeted field that is valid and not empty, else
    /// `Cache-Control`.
    pub(crate) fn of(response: &HeaderMap) -> Directives {
        TARGETED
            .iter()
            .find_map(|field| Directives::targeted(response, field))
            .unwrap_or_else(|| Directives::cache_control(response))
    }

    /// Parses every `Cache-Control` line (RFC 9111 §5.2).
    fn cache_control(response: &HeaderMap) -> Directives {
        let mut directives = Directives::default();
        for line in response.get_all(CACHE_CONTROL) {
            for (name, value) in list(line.as_bytes()) {
                directives.add(name, unquote(value), seconds(value));
            }
        }
        directives
    }

    /// Parses one targeted field; `None` if it is absent, empty or not a dictionary.
    fn targeted(response: &HeaderMap, field: &str) -> Option<Directives> {
        let lines: Vec<&[u8]> = response.get_all(field).iter().map(|line| line.as_bytes()).collect();
        let members = dictionary(&lines.join(&b", "[..]))?;
        if members.is_empty() {
            return None;
        }
        let mut directives = Directives { targeted: true, ..Directives::default() };
        for (name, value) in &members {
            match value {
                Item::True | Item::Text => directives.add(name, b"", Duration::ZERO),
                Item::String(text) => directives.add(name, text, Duration::ZERO),
                Item::Integer(number) => directives.add(name, b"", capped(u64::try_from(*number).unwrap_or(0))),
                Item::False => {}
            }
        }
        Some(directives)
    }

    fn add(&mut self, name: &[u8], text: &[u8], seconds: Duration) {
        match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            b"no-cache" if self.withholds(text) => {}
            b"no-cache" => self.no_cache = true,
            b"private" if self.withholds(text) => {}
            b"private" => self.private = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"immutable" => self.immutable = true,
            b"max-age" => _ = self.max_age.get_or_insert(seconds),
            b"s-maxage" => _ = self.s_maxage.get_or_insert(seconds),
            b"stale-while-revalidate" => _ = self.stale_while_revalidate.get_or_insert(seconds),
            b"stale-if-error" => _ = self.stale_if_error.get_or_insert(seconds),
            _ => {}
        }
    }

    /// Adds the fields of a qualified form; `false` if there are none, or the response is unusable without them.
    fn withholds(&mut self, fields: &[u8]) -> bool {
        let names = fields.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
        let names: Result<Vec<HeaderName>, _> = names.map(HeaderName::from_bytes).collect();
        match names {
            Ok(names) if !names.is_empty() && !names.iter().any(|name| NEEDED.contains(name)) => {
                self.withheld.extend(names);
                true
            }
            _ => false,
        }
    }

    /// Whether the origin states that the response may be shared (RFC 9111 §5.2.2.9, §5.2.2.10).
    pub(crate) fn is_shared(&self) -> bool {
        self.public || self.s_maxage.is_some()
    }
}

/// Whether a targeted field applies instead of `Cache-Control`: one that is present, not empty, and a dictionary (RFC
/// 9213 §2.1).
pub fn is_targeted(response: &HeaderMap) -> bool {
    Directives::of(response).targeted
}

/// The cache directives of a request (RFC 9111 §5.2.1). Durations are `None` if the directive is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) no_cache: bool,
    pub(crate) no_store: bool,
    pub(crate) only_if_cached: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) min_fresh: Option<Duration>,
    /// [`LIFETIME_MAX`] if given without a number.
    pub(crate) max_stale: Option<Duration>,
    /// RFC 5861 §4.
    pub(crate) stale_if_error: Option<Duration>,
}

impl Wishes {
    /// Parses every `Cache-Control` line; `Pragma: no-cache` counts if there is none (RFC 9111 §5.4).
    pub(crate) fn of(request: &HeaderMap) -> Wishes {
        let mut wishes = Wishes::default();
        for line in request.get_all(CACHE_CONTROL) {
            for (name, value) in list(line.as_bytes()) {
                wishes.add(name, value);
            }
        }
        if !request.contains_key(CACHE_CONTROL) {
            wishes.no_cache = request.get_all(PRAGMA).iter().any(|line| {
                list(line.as_bytes()).any(|(name, value)| name.eq_ignore_ascii_case(b"no-cache") && value.is_empty())
            });
        }
        wishes
    }

    fn add(&mut self, name: &[u8], value: &[u8]) {
        let number = seconds(value);
        match name.to_ascii_lowercase().as_slice() {
            b"no-cache" => self.no_cache = true,
            b"no-store" => self.no_store = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"max-age" => _ = self.max_age.get_or_insert(number),
            b"min-fresh" => _ = self.min_fresh.get_or_insert(number),
            b"max-stale" if value.is_empty() => _ = self.max_stale.get_or_insert(LIFETIME_MAX),
            b"max-stale" => _ = self.max_stale.get_or_insert(number),
            b"stale-if-error" => _ = self.stale_if_error.get_or_insert(number),
            _ => {} // `no-transform`: nothing is transformed
        }
    }
}

/// Splits a field of `name[=value]` elements; names and values are trimmed, quotes kept.
fn list(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    elements(line).map(|element| match element.iter().position(|byte| *byte == b'=') {
        Some(at) => (element[..at].trim_ascii_end(), element[at + 1..].trim_ascii_start()),
        None => (element, &[][..]),
    })
}

/// Splits a list at commas outside quotes; elements are trimmed, empty ones left out (RFC 9110 §5.6.1.2).
pub(crate) fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (element, tail) = rest.split_at(unquoted(rest, b',').unwrap_or(rest.len()));
            rest = tail.get(1..).unwrap_or_default();
            let element = element.trim_ascii();
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    })
}

/// Position of the first `wanted` outside a quoted string.
fn unquoted(text: &[u8], wanted: u8) -> Option<usize> {
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

/// Delta-seconds (RFC 9111 §1.2.2), possibly quoted; 0 if not a number, saturating if too large.
fn seconds(value: &[u8]) -> Duration {
    delta_seconds(unquote(value)).unwrap_or_default()
}

fn unquote(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Delta-seconds; `None` if the text is not all digits.
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
#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    True,
    False,
    Integer(i64),
    String(Vec<u8>),
    /// A token, decimal, byte sequence, date or inner list: valid, but of no use to cache directives.
    Text,
}

/// Parses a structured dictionary (RFC 9651 §4.2.2); of a repeated key the last counts. `None` if it is not one.
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

/// The remaining input.
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
            b'@' => {
                self.eat(b'@');
                matches!(self.number()?, Item::Integer(_)).then_some(Item::Text)
            }
            b'%' => {
                self.eat(b'%');
                self.string().map(|_| Item::Text) // a display string; its percent escapes mean nothing here
            }
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b));
                Some(Item::Text)
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Item> {
        if !self.eat(b'"') {
            return None;
        }
        let mut text = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(Item::String(text)),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first().filter(|(byte, _)| matches!(byte, b'"' | b'\\'))?;
                    self.0 = rest;
                    text.push(*escaped);
                }
                0x20..=0x7e => text.push(*byte),
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
            ("§4.2.1 the first of two", "max-age=60, max-age=5", s(60)),
            ("§4.2.1 the first of two", "max-age=5, max-age=60", s(5)),
            ("§4.2.1 the first of two", "max-age=soon, max-age=60", s(0)),
            ("§4.2.1 a fraction is no number", "max-age=60.5", s(0)),
            ("§4.2.1 half a quote", "max-age=\"60", s(0)),
            ("§4.2.1 single quotes are none", "max-age='60'", s(0)),
            ("§4.2.1 nothing", "max-age", s(0)),
            ("§4.2.1 a sign", "max-age=+60", s(0)),
            ("§1.2.2 zeros in front", "max-age=0060", s(60)),
            ("another directive's end is not this one", "x-max-age=60", None),
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
    }

    #[test]
    fn qualified_forms_withhold_fields() {
        let cases: [(&str, &str, &[&str], bool, bool); 12] = [
            // field            value                                    withheld        no-cache private
            ("cache-control", "no-cache=\"set-cookie\"", &["set-cookie"], false, false),
            ("cache-control", "private=\"X-A, ,x-b\"", &["x-a", "x-b"], false, false),
            ("cache-control", "private=x-a", &["x-a"], false, false), // the token form must not be sent, but is read
            ("cache-control", "private=\"x-a\", no-cache=\"x-b\"", &["x-a", "x-b"], false, false),
            ("cache-control", "private=\"x-a\", private", &["x-a"], false, true),
            ("cache-control", "no-cache=\"\"", &[], true, false),
            ("cache-control", "private=\"not a name\"", &[], false, true),
            ("cache-control", "private=\"vary\"", &[], false, true), // nothing can be stored without it
            ("cache-control", "no-cache=\"ETag\"", &[], true, false),
            ("cdn-cache-control", "private=\"x-a\"", &["x-a"], false, false),
            ("cdn-cache-control", "no-cache=x-a", &[], true, false), // a token is not a string
            ("cdn-cache-control", "private=?0", &[], false, false),
        ];
        for (field, value, withheld, no_cache, private) in cases {
            let read = check(field, value);
            assert_eq!(read.withheld, withheld, "§5.2.2.4, §5.2.2.7: {field}: {value}");
            assert_eq!((read.no_cache, read.private), (no_cache, private), "{field}: {value}");
        }
    }

    #[test]
    fn wishes_of_requests_are_read_leniently() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        let none = Wishes::default();
        let cases = [
            ("§5.2.1.1", "cache-control", "max-age=5", Wishes { max_age: s(5), ..none }),
            ("§5.2.1.1 no number is the strictest", "cache-control", "max-age=x", Wishes { max_age: s(0), ..none }),
            ("§5.2.1.2", "cache-control", "max-stale=5", Wishes { max_stale: s(5), ..none }),
            ("§5.2.1.2 any", "cache-control", "max-stale", Wishes { max_stale: Some(LIFETIME_MAX), ..none }),
            ("§5.2.1.2 no number is none", "cache-control", "max-stale=x", Wishes { max_stale: s(0), ..none }),
            ("§5.2.1.3", "cache-control", "Min-Fresh=\"5\"", Wishes { min_fresh: s(5), ..none }),
            ("§5.2.1.4", "cache-control", "no-cache", Wishes { no_cache: true, ..none }),
            ("§5.2.1.5", "cache-control", "no-store", Wishes { no_store: true, ..none }),
            ("§5.2.1.7", "cache-control", "only-if-cached", Wishes { only_if_cached: true, ..none }),
            ("RFC 5861 §4", "cache-control", "stale-if-error=9", Wishes { stale_if_error: s(9), ..none }),
            ("§5.4", "pragma", "no-cache", Wishes { no_cache: true, ..none }),
            ("§5.4 among others", "pragma", "x=y, No-Cache", Wishes { no_cache: true, ..none }),
            ("§5.4 something else", "pragma", "no-store", none),
        ];
        for (rule, field, value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(field, value.parse().unwrap());
            assert_eq!(Wishes::of(&headers), expected, "{rule}: {value}");
            headers.insert("pragma", "no-cache".parse().unwrap());
            headers.insert("cache-control", "x".parse().unwrap());
            assert_eq!(Wishes::of(&headers), none, "§5.4: Pragma counts only without Cache-Control");
        }
    }

    #[test]
    fn targeted_field_is_read_to_the_letter() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        let cases = [
            // value                     read    max-age
            ("max-age=60", true, s(60)),
            ("max-age=60;x=1, public", true, s(60)),
            ("max-age=1, max-age=2", true, s(2)), // §4.2.2: the last value of a key counts
            ("max-age=-1", true, s(0)),
            ("max-age=\"60\"", true, s(0)), // a string is not a number
            ("x=@1659578233, y=%\"a%c3%bc\", max-age=5", true, s(5)), // RFC 9651's dates and display strings
            ("x=@1.5, max-age=5", false, None),
            ("x=\"a\\b\", max-age=5", false, None),
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
