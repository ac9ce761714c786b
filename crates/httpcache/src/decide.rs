//! What to do with a request, given what is stored for it.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method};

use crate::cache_status::Forward;
use crate::directives::Wishes;
use crate::freshness::Freshness;

/// A response that arrived or was confirmed less than this ago is as good as a new one, whatever a request asks. So users who
/// reload cost the origin one validation of an object a second, however many they are.
const JUST_NOW: Duration = Duration::from_secs(1);

/// What the fence says of the stored body (the verdict of `model::fence`, in this crate's words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It may be sent as far as invalidations are concerned.
    Send,
    /// It may not be sent, but a 304 can make it good again (an invalidation that expires, or a lease that ran out).
    Revalidate,
    /// It may not be sent and not be confirmed (an invalidation that deletes).
    Refetch,
}

/// What to do. The caller's `match` on it is the whole policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send the stored body; `age` is what `Age` says.
    Serve {
        /// Current age.
        age: Duration,
    },
    /// Send the stored body although stale, and revalidate it behind (RFC 5861 §3).
    ServeStaleAndRevalidate {
        /// Current age.
        age: Duration,
    },
    /// Ask upstream with the stored validators; a 304 makes the stored body good.
    Revalidate {
        /// Why, for `Cache-Status`: [`Forward::Stale`] or [`Forward::Request`].
        forward: Forward,
        /// Whether the stored body may be sent if upstream fails (RFC 5861 §4) and the fence still allows it then.
        stale_if_error: bool,
    },
    /// Ask upstream for the whole object and store what comes, if it may be stored.
    Fetch {
        /// Why, for `Cache-Status`. [`Forward::UriMiss`] when nothing was stored; a caller that has other variants
        /// of the object says [`Forward::VaryMiss`].
        forward: Forward,
        /// As in `Revalidate`.
        stale_if_error: bool,
        /// Whether what comes may be stored and given to others; not for a request with `no-store` (RFC 9111 §5.2.1.5).
        keep: bool,
    },
    /// Pass the request on and keep nothing.
    Bypass(Bypass),
    /// The user wants only what is stored, and nothing can be sent: answer 504 (RFC 9111 §5.2.1.7).
    OnlyIfCached,
}

/// Why a request goes past the cache.
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
/// `stored` is the response selected for the request (same key, same variant), with what the fence says of it.
/// HEAD is answered from what a GET stored (RFC 9111 §4).
///
/// A request that asks for better than what is stored and fresh (`no-cache`, `max-age`, `min-fresh`, `Pragma`) has it validated,
/// unless that was done in this very second; `immutable` makes up for `max-age` (RFC 8246 §2.1), not for `no-cache`. If
/// upstream fails then, what is fresh is sent all the same: a reload must not turn into an outage.
/// A body that the fence refuses is not stale but unusable: neither `stale-*` permissions nor `max-stale` apply to it.
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

fn ask_again(freshness: &Freshness, forward: Forward, stale_if_error: bool, keep: bool) -> Decision {
    // A 304 would be stored as news of the stored response.
    if freshness.validator && keep {
        Decision::Revalidate { forward, stale_if_error }
    } else {
        Decision::Fetch { forward, stale_if_error, keep }
    }
}

impl Wishes {
    /// Whether a fresh response is as good as the request asks.
    fn are_met(&self, freshness: &Freshness, now: SystemTime) -> bool {
        if freshness.resident(now) < JUST_NOW {
            return true;
        }
        let age = freshness.age(now);
        // Ages are told in whole seconds, so they are compared in them.
        let young = self.max_age.is_none_or(|most| age.as_secs() <= most.as_secs()) || freshness.immutable;
        let lasting = self.min_fresh.is_none_or(|least| freshness.lifetime.saturating_sub(age) >= least);
        !self.no_cache && young && lasting
    }

    /// Whether a stale response may be sent at once: the origin allows it and the request does not ask for better, or the
    /// request accepts it and the origin does not forbid it (RFC 9111 §4.2.4, §5.2.1.2).
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
