//! What to do with a request, given what is stored for it.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method};

use crate::cache_status::Forward;
use crate::directives::Wishes;
use crate::freshness::Freshness;

/// A response received or validated less than this ago satisfies any request. So users who reload cost the origin one
/// validation per object and second, however many they are.
const JUST_NOW: Duration = Duration::from_secs(1);

/// The fence's verdict on the stored body (`model::fence`), in this crate's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It may be sent as far as invalidations are concerned.
    Send,
    /// It must be validated first (an invalidation with mode expire, or an expired lease).
    Revalidate,
    /// It must not be sent, and cannot be validated (an invalidation with mode delete).
    Refetch,
}

/// What to do with a request. The caller's `match` on it is the whole policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send the stored body; `age` is the value of `Age`.
    Serve {
        /// Current age.
        age: Duration,
    },
    /// Send the stored body although it is stale, and revalidate it in the background (RFC 5861 §3).
    ServeStaleAndRevalidate {
        /// Current age.
        age: Duration,
    },
    /// Ask upstream with the stored validators; a 304 makes the stored body usable.
    Revalidate {
        /// Why, for `Cache-Status`: [`Forward::Stale`] or [`Forward::Request`].
        forward: Forward,
        /// Whether the stored body may be sent if upstream fails (RFC 5861 §4) and the fence still allows it then.
        stale_if_error: bool,
    },
    /// Fetch the whole object from upstream, and store it if that is allowed.
    Fetch {
        /// Why, for `Cache-Status`. [`Forward::UriMiss`] if nothing was stored; a caller that has other variants of the
        /// object changes it to [`Forward::VaryMiss`].
        forward: Forward,
        /// As in `Revalidate`.
        stale_if_error: bool,
        /// Whether the response may be stored and shared; not for a request with `no-store` (RFC 9111 §5.2.1.5).
        keep: bool,
    },
    /// Forward the request and store nothing.
    Bypass(Bypass),
    /// The request accepts stored responses only, and none can be sent: answer 504 (RFC 9111 §5.2.1.7).
    OnlyIfCached,
}

/// Why a request bypasses the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// Neither GET nor HEAD.
    Method,
    /// A GET or HEAD with content: the answer may depend on it, and it is not part of the key.
    Content,
}

impl Bypass {
    /// The `fwd` value of `Cache-Status`.
    pub fn forward(self) -> Forward {
        match self {
            Bypass::Method => Forward::Method,
            Bypass::Content => Forward::Bypass,
        }
    }
}

/// Decides what to do with a request at `now` (RFC 9111 §4 and §5.2.1, RFC 5861, RFC 8246).
///
/// `stored` is the response selected for the request (same key, same variant), with the fence's verdict on it. HEAD is
/// answered from a stored GET response (RFC 9111 §4).
///
/// A request that demands more than a fresh stored response (`no-cache`, `max-age`, `min-fresh`, `Pragma`) causes a
/// validation, unless one happened within the last second; `immutable` overrides `max-age` (RFC 8246 §2.1), but not
/// `no-cache`. If upstream fails then, the fresh response is sent all the same: a reload must not cause an outage. A
/// body that the fence refuses is not stale but unusable: neither `stale-*` permissions nor `max-stale` apply to it.
pub fn decide(
    method: &Method,
    request: &HeaderMap,
    stored: Option<(&Freshness, Allowed)>,
    now: SystemTime,
) -> Decision {
    if method != Method::GET && method != Method::HEAD {
        return Decision::Bypass(Bypass::Method);
    }
    if has_content(request) {
        return Decision::Bypass(Bypass::Content);
    }
    let wishes = Wishes::of(request);
    let keep = !wishes.no_store;
    let decision = match stored {
        None => Decision::Fetch { forward: Forward::UriMiss, stale_if_error: false, keep },
        Some((_, Allowed::Refetch)) => Decision::Fetch { forward: Forward::Stale, stale_if_error: false, keep },
        Some((freshness, Allowed::Revalidate)) => ask_again(freshness, Forward::Stale, false, keep),
        Some((freshness, Allowed::Send)) => {
            let age = freshness.age(now);
            if freshness.is_fresh(now) {
                if wishes.are_met(freshness, now) {
                    return Decision::Serve { age };
                }
                ask_again(freshness, Forward::Request, true, keep)
            } else {
                if wishes.accept_stale(freshness, now) {
                    return Decision::ServeStaleAndRevalidate { age };
                }
                let stale_if_error = freshness.may_serve_on_error(now) || wishes.accept_on_error(freshness, now);
                ask_again(freshness, Forward::Stale, stale_if_error, keep)
            }
        }
    };
    if wishes.only_if_cached { Decision::OnlyIfCached } else { decision }
}

/// What to do with a request instead of answering it from a stored response of which bytes that it needs are missing;
/// `None` if those may be fetched and stored. A request with `no-store` is forwarded as if nothing were stored.
pub fn lacking(request: &HeaderMap) -> Option<Decision> {
    let wishes = Wishes::of(request);
    if wishes.only_if_cached {
        Some(Decision::OnlyIfCached)
    } else {
        let fetch = Decision::Fetch { forward: Forward::Partial, stale_if_error: false, keep: false };
        wishes.no_store.then_some(fetch)
    }
}

fn ask_again(freshness: &Freshness, forward: Forward, stale_if_error: bool, keep: bool) -> Decision {
    // With `no-store`, a 304 would still update the stored response.
    if freshness.validator && keep {
        Decision::Revalidate { forward, stale_if_error }
    } else {
        Decision::Fetch { forward, stale_if_error, keep }
    }
}

impl Wishes {
    /// Whether a fresh response satisfies the request's directives.
    fn are_met(&self, freshness: &Freshness, now: SystemTime) -> bool {
        if freshness.resident(now) < JUST_NOW {
            return true;
        }
        let age = freshness.age(now);
        // Ages are sent in whole seconds, so they are compared in whole seconds.
        let young = self.max_age.is_none_or(|most| age.as_secs() <= most.as_secs()) || freshness.immutable;
        let lasting = self.min_fresh.is_none_or(|least| freshness.lifetime.saturating_sub(age) >= least);
        !self.no_cache && young && lasting
    }

    /// Whether a stale response may be sent at once: if the origin allows it and the request does not demand more, or
    /// if the request accepts it and the origin does not forbid it (RFC 9111 §4.2.4, §5.2.1.2).
    fn accept_stale(&self, freshness: &Freshness, now: SystemTime) -> bool {
        if self.no_cache || self.min_fresh.is_some() {
            return false;
        }
        let age = freshness.age(now);
        let accepted = self.max_stale.filter(|_| freshness.may_be_stale);
        if let Some(most) = self.max_age
            && (age.as_secs() > most.as_secs() || self.max_stale.is_none())
        {
            return false;
        }
        freshness.may_serve_while_revalidating(now)
            || accepted.is_some_and(|most| age < freshness.lifetime.saturating_add(most))
    }

    /// Whether the request accepts a stale response if upstream fails (RFC 5861 §4), and the origin does not forbid it.
    fn accept_on_error(&self, freshness: &Freshness, now: SystemTime) -> bool {
        let accepted = self.stale_if_error.filter(|_| freshness.may_be_stale);
        accepted.is_some_and(|most| freshness.age(now) < freshness.lifetime.saturating_add(most))
    }
}

/// Whether a request announces content (RFC 9110 §6.4).
fn has_content(request: &HeaderMap) -> bool {
    request.contains_key(TRANSFER_ENCODING)
        || request.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes().trim_ascii() != b"0")
}
