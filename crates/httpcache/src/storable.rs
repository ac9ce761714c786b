//! Whether a shared cache may keep a response (RFC 9111 §3).

use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};

use crate::directives::Directives;
use crate::freshness::{Freshness, is_heuristically_cacheable, lifetime};
use crate::vary::vary_fields;

/// Why a response is not kept, in words for the person who wonders why a prefetch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStorable {
    /// Only answers to GET are kept.
    #[error("the request was not a GET")]
    Method,
    /// Parts, informational answers and answers to conditions are not objects of their own.
    #[error("status {0} is not an object of its own")]
    Status(u16),
    /// `Cache-Control: no-store`.
    #[error("no-store")]
    NoStore,
    /// `Cache-Control: private`.
    #[error("private")]
    Private,
    /// `Vary: *`: no other request can be known to match.
    #[error("Vary: *")]
    VaryStar,
    /// The request had `Authorization` and the response did not allow sharing (RFC 9111 §3.5).
    #[error("the request had Authorization and the response is not marked public")]
    Authorization,
    /// `must-understand` with a status whose caching rules we do not know (RFC 9111 §5.2.2.3).
    #[error("must-understand with status {0}")]
    MustUnderstand(u16),
    /// Neither a lifetime nor anything to guess one from.
    #[error("no Cache-Control lifetime, Expires, Last-Modified or ETag")]
    NoLifetime,
    /// Never fresh, no validator to confirm it with, and no permission to serve it stale: of no use to anybody.
    #[error("never fresh and without a validator")]
    Useless,
}

/// Whether the response may be kept by a shared cache, and what it says of its use.
///
/// `request` is the head as it was sent upstream. `Ok` with a lifetime of zero (`no-cache`, `max-age=0`) is kept to be
/// revalidated before each use; [`Freshness::is_fresh`] tells a prefetch whether anything was warmed.
/// `Set-Cookie` does not keep a response out (RFC 9111 §7.3); what is kept of it, [`crate::kept`] says. `Pragma` in responses
/// means nothing (§5.4).
pub fn storable(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    sent: SystemTime,
    received: SystemTime,
) -> Result<Freshness, NotStorable> {
    let code = status.as_u16();
    if method != Method::GET {
        return Err(NotStorable::Method);
    }
    if status.is_informational() || matches!(code, 206 | 304 | 412 | 416) {
        return Err(NotStorable::Status(code));
    }
    let directives = Directives::of(response);
    if directives.must_understand && !is_understood(status) {
        return Err(NotStorable::MustUnderstand(code));
    }
    if directives.no_store && !directives.must_understand {
        return Err(NotStorable::NoStore);
    }
    if directives.private {
        return Err(NotStorable::Private);
    }
    if vary_fields(response).is_err() {
        return Err(NotStorable::VaryStar);
    }
    let shared = directives.is_shared() || directives.must_revalidate;
    if request.contains_key(AUTHORIZATION) && !shared {
        return Err(NotStorable::Authorization);
    }

    let may_guess = is_heuristically_cacheable(status) || directives.public;
    let revalidated_always = directives.no_cache && may_guess;
    if lifetime(status, response, &directives, received).is_none() && !revalidated_always {
        return Err(NotStorable::NoLifetime);
    }
    let freshness = Freshness::of(status, response, sent, received);
    let stale = freshness.stale_while_revalidate.max(freshness.stale_if_error);
    if freshness.lifetime == Duration::ZERO && !freshness.validator && stale == Duration::ZERO {
        return Err(NotStorable::Useless);
    }
    Ok(freshness)
}

/// Statuses whose caching rules this cache knows: every final one of RFC 9110 §15.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 500..=505)
}
