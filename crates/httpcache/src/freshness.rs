//! How old a stored response is, and how long it is fresh (RFC 9111 §4.2).
//!
//! # What always holds
//!
//! - A response is fresh while its age is *below* its lifetime: one with a lifetime of 60 s is stale at 60 s.
//! - Ages are never negative, even if clocks were set back.

use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE, ETAG, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};

use crate::date;
use crate::directives::{Directives, delta_seconds};

/// The longest lifetime or age that is represented: 2^31 s, as RFC 9111 §1.2.2 suggests.
pub const LIFETIME_MAX: Duration = Duration::from_secs(1 << 31);

/// Bounds of the heuristic lifetime from `Last-Modified`, as the vendor documents them.
const HEURISTIC_MIN: Duration = Duration::from_secs(10);
const HEURISTIC_MAX: Duration = Duration::from_secs(3600);
/// The heuristic lifetime of a response with an `ETag` and no `Last-Modified`, as the vendor documents it.
const HEURISTIC_ETAG: Duration = Duration::from_secs(10);

/// The caching properties of a stored response, computed once when it is received (or read back).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How long it is fresh, compared with its age; zero if it must be revalidated before every use.
    pub lifetime: Duration,
    /// Its age when received: `corrected_initial_age` of RFC 9111 §4.2.3.
    pub initial_age: Duration,
    /// When it was received.
    pub received: SystemTime,
    /// How long past its lifetime it may be sent while it is revalidated in the background (RFC 5861 §3); zero if
    /// forbidden.
    pub stale_while_revalidate: Duration,
    /// How long past its lifetime it may be sent if the origin fails (RFC 5861 §4); zero if forbidden.
    pub stale_if_error: Duration,
    /// Whether it may be sent stale to a client that accepts stale responses (RFC 9111 §4.2.4, §5.2.1.2).
    pub may_be_stale: bool,
    /// Whether it does not change while it is fresh (RFC 8246 §2).
    pub immutable: bool,
    /// Whether it has an `ETag` or a usable `Last-Modified`, so that a 304 can confirm it.
    pub validator: bool,
}

impl Freshness {
    /// Evaluates a response head whose request was sent at `sent`, received at `received`.
    ///
    /// Sources in order (RFC 9111 §4.2.1, RFC 9213 §2.2): the targeted field or `Cache-Control` with `s-maxage`, then
    /// `max-age`; `Expires`; for a status that allows it, a heuristic (§4.2.2). Without any the lifetime is zero, and
    /// so it is with `no-cache`.
    ///
    /// `stale-*` beside `s-maxage` are honoured although `s-maxage` alone forbids stale responses (§5.2.2.10): the
    /// origin allows them explicitly, and RFC 9111 §5.2.3 lets an extension modify a directive. Beside
    /// `must-revalidate` and `proxy-revalidate` they are ignored.
    pub fn of(status: StatusCode, headers: &HeaderMap, sent: SystemTime, received: SystemTime) -> Freshness {
        let directives = Directives::of(headers);
        let lifetime = if directives.no_cache {
            Duration::ZERO
        } else {
            lifetime(status, headers, &directives, received).unwrap_or_default()
        };
        let may_be_stale = !(directives.no_cache || directives.must_revalidate || directives.proxy_revalidate);
        let stale = |permission: Option<Duration>| permission.filter(|_| may_be_stale).unwrap_or_default();
        Freshness {
            lifetime,
            initial_age: initial_age(headers, sent, received),
            received,
            stale_while_revalidate: stale(directives.stale_while_revalidate),
            stale_if_error: stale(directives.stale_if_error),
            may_be_stale: may_be_stale && directives.s_maxage.is_none(),
            immutable: directives.immutable,
            validator: has_validator(headers),
        }
    }

    /// `current_age` of RFC 9111 §4.2.3, sent as `Age` rounded down to seconds. At most [`LIFETIME_MAX`], so that every
    /// recipient can represent it (§1.2.2).
    pub fn age(&self, now: SystemTime) -> Duration {
        self.initial_age.saturating_add(self.resident(now)).min(LIFETIME_MAX)
    }

    /// How long it has been stored; zero if the clock was set back.
    pub(crate) fn resident(&self, now: SystemTime) -> Duration {
        now.duration_since(self.received).unwrap_or_default()
    }

    /// Whether it may be sent without validation (RFC 9111 §4.2). A prefetch whose response is not fresh on arrival has
    /// warmed nothing.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        self.age(now) < self.lifetime
    }

    /// Whether it may be sent although stale, if it is revalidated in the background (RFC 5861 §3).
    pub fn may_serve_while_revalidating(&self, now: SystemTime) -> bool {
        self.age(now) < self.lifetime.saturating_add(self.stale_while_revalidate)
    }

    /// Whether it may be sent because the origin failed (RFC 5861 §4: cannot be reached, or 500, 502, 503, 504).
    pub fn may_serve_on_error(&self, now: SystemTime) -> bool {
        self.age(now) < self.lifetime.saturating_add(self.stale_if_error)
    }

    /// Seconds of freshness left, negative when stale: the `ttl` of `Cache-Status` (RFC 9211 §2.4).
    pub fn ttl(&self, now: SystemTime) -> i64 {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        seconds(self.lifetime).saturating_sub(seconds(self.age(now)))
    }
}

/// The explicit or heuristic lifetime; `None` if there is neither.
pub(crate) fn lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    directives: &Directives,
    received: SystemTime,
) -> Option<Duration> {
    if let Some(explicit) = explicit_lifetime(headers, directives, received) {
        return Some(explicit);
    }
    if !(is_heuristically_cacheable(status) || directives.public) {
        return None;
    }
    if let Some(modified) = date::first(headers, LAST_MODIFIED) {
        let date = date::first(headers, DATE).unwrap_or(received);
        let tenth = date.duration_since(modified).unwrap_or_default() / 10;
        return Some(tenth.clamp(HEURISTIC_MIN, HEURISTIC_MAX));
    }
    headers.contains_key(ETAG).then_some(HEURISTIC_ETAG)
}

/// The explicit lifetime (RFC 9111 §4.2.1).
fn explicit_lifetime(headers: &HeaderMap, directives: &Directives, received: SystemTime) -> Option<Duration> {
    if let Some(lifetime) = directives.s_maxage.or(directives.max_age) {
        return Some(lifetime);
    }
    if directives.targeted || !headers.contains_key(EXPIRES) {
        return None;
    }
    // §5.3: an invalid date, especially `0`, is in the past.
    let date_sent = date::first(headers, DATE).unwrap_or(received);
    let ahead = date::first(headers, EXPIRES).and_then(|expires| expires.duration_since(date_sent).ok());
    Some(ahead.unwrap_or_default().min(LIFETIME_MAX))
}

/// Whether RFC 9110 §15.1 allows a heuristic lifetime for the status. 206 is left out: parts are not stored.
pub(crate) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// `corrected_initial_age` (RFC 9111 §4.2.3). Of several `Age` values the first counts; one that is not a whole number
/// is ignored (§5.1).
fn initial_age(headers: &HeaderMap, sent: SystemTime, received: SystemTime) -> Duration {
    let apparent = date::first(headers, DATE).and_then(|date| received.duration_since(date).ok()).unwrap_or_default();
    let lines = headers.get_all(AGE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let stated = lines.map(<[u8]>::trim_ascii).find(|member| !member.is_empty());
    let age = stated.and_then(delta_seconds).unwrap_or_default();
    let delay = received.duration_since(sent).unwrap_or_default();
    apparent.max(age.saturating_add(delay)).min(LIFETIME_MAX)
}

/// Whether a 304 can confirm the response.
fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || date::first(headers, LAST_MODIFIED).is_some()
}
