//! What to do with a request, given what is stored for it.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};

use crate::cache_status::Forward;
use crate::directives::only_if_cached;
use crate::freshness::Freshness;

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
        /// Whether the stored body may be sent if upstream fails (RFC 5861 §4) and the fence still allows it then.
        stale_if_error: bool,
    },
    /// Ask upstream for the whole object and store what comes, if it may be stored.
    Fetch {
        /// Why, for `Cache-Status`. [`Forward::UriMiss`] when nothing was stored; a caller that has other variants
        /// of the object says [`Forward::VaryMiss`].
        forward: Forward,
        /// As in `Revalidate`; only a stored body without a validator gets here with `true`.
        stale_if_error: bool,
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

/// Decides what to do with a request at `now` (RFC 9111 §4, RFC 5861).
///
/// `stored` is the response selected for the request (same key, same variant), with what the fence says of it.
/// HEAD is answered from what a GET stored (RFC 9111 §4).
///
/// Of a user's request directives only `only-if-cached` is honoured. `no-cache`, `max-age`, `Pragma` and the others
/// are not: as in every CDN the owner of the domain decides when the origin is asked, not each user.
/// A body that the fence refuses is not stale but unusable: no `stale-*` permission applies to it.
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
    let decision = match stored {
        None => Decision::Fetch { forward: Forward::UriMiss, stale_if_error: false },
        Some((_, Allowed::Refetch)) => Decision::Fetch { forward: Forward::Stale, stale_if_error: false },
        Some((freshness, Allowed::Revalidate)) => ask_again(freshness, false),
        Some((freshness, Allowed::Send)) => {
            let age = freshness.age(now);
            if freshness.is_fresh(now) {
                return Decision::Serve { age };
            }
            if freshness.may_serve_while_revalidating(now) {
                return Decision::ServeStaleAndRevalidate { age };
            }
            ask_again(freshness, freshness.may_serve_on_error(now))
        }
    };
    if only_if_cached(request) { Decision::OnlyIfCached } else { decision }
}

fn ask_again(freshness: &Freshness, stale_if_error: bool) -> Decision {
    if freshness.validator {
        Decision::Revalidate { stale_if_error }
    } else {
        Decision::Fetch { forward: Forward::Stale, stale_if_error }
    }
}

/// Whether a request announces content (RFC 9110 §6.4).
fn has_content(request: &HeaderMap) -> bool {
    request.contains_key(TRANSFER_ENCODING)
        || request.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes().trim_ascii() != b"0")
}

/// Whether an answer to a request that went past the cache makes what is stored under its URL invalid
/// (RFC 9111 §4.4: an unsafe method that did not fail).
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}
