//! Whether a shared cache may store a response (RFC 9111 §3).

use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};

use crate::directives::Directives;
use crate::freshness::{Freshness, is_heuristically_cacheable, lifetime};
use crate::vary::vary_fields;

/// Why a response is not stored, worded for users who wonder why a prefetch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStorable {
    /// Only responses to GET are stored.
    #[error("the request was not a GET")]
    Method,
    /// Partial, interim and 304 responses are not objects of their own.
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
    /// It has no explicit lifetime and allows no heuristic one.
    #[error("no Cache-Control lifetime, Expires, Last-Modified or ETag")]
    NoLifetime,
    /// It is never fresh, has no validator, and may not be served stale: it could never be used.
    #[error("never fresh and without a validator")]
    Useless,
}

/// Whether a shared cache may store the response, and if so its caching properties.
///
/// `request` is the head as it was sent upstream. `Ok` with a lifetime of zero (`no-cache`, `max-age=0`) is stored and
/// revalidated before each use; [`Freshness::is_fresh`] tells a prefetch whether anything was warmed. `Set-Cookie` does
/// not prevent storing (RFC 9111 §7.3); [`crate::kept`] decides whether it is stored. `Pragma` in responses has no
/// meaning (§5.4).
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
