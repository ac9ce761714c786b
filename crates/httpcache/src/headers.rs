//! Which header fields go where: stored, sent on, asked upstream, merged from a 304.

use std::collections::HashSet;

use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, EXPECT, EXPIRES, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName};

use crate::answer::{is_strong, weak};
use crate::freshness::date;
use crate::vary::accept_encoding;

/// Fields that concern one connection only (RFC 9110 §7.6.1), and those a cache must not store (RFC 9111 §3.1).
const HOP_BY_HOP: [HeaderName; 11] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that `Connection` cannot take away. A sender must not list what is meant for every recipient (RFC 9110
/// §7.6.1); one that does could make a private response look public, or an answer look like another's.
const KEPT: [HeaderName; 17] = [
    AGE,
    AUTHORIZATION,
    CACHE_CONTROL,
    HeaderName::from_static("cdn-cache-control"),
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    DATE,
    ETAG,
    EXPIRES,
    HOST,
    LAST_MODIFIED,
    LOCATION,
    SET_COOKIE,
    VARY,
    HeaderName::from_static("forwarded"),
];

/// The fields that are for every recipient: without those of one connection and those `Connection` lists.
pub fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let listed: HashSet<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !KEPT.contains(name))
        .collect();
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if !HOP_BY_HOP.contains(name) && !listed.contains(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

/// What of a user's request goes upstream when the answer is to be stored: end-to-end fields without conditions,
/// ranges and cache directives, for the answer is everybody's; `Accept-Encoding` in the form of [`accept_encoding`],
/// so that what upstream chooses by it agrees with [`crate::vary_key`].
///
/// A request that goes past the cache takes [`end_to_end`] instead.
pub fn upstream(request: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(request);
    for name in [
        IF_MATCH,
        IF_NONE_MATCH,
        IF_MODIFIED_SINCE,
        IF_UNMODIFIED_SINCE,
        IF_RANGE,
        RANGE,
        CACHE_CONTROL,
        PRAGMA,
        EXPECT,
        CONTENT_LENGTH,
    ] {
        headers.remove(name);
    }
    match accept_encoding(request).parse() {
        Ok(encodings) if request.contains_key(ACCEPT_ENCODING) => headers.insert(ACCEPT_ENCODING, encodings),
        _ => headers.remove(ACCEPT_ENCODING),
    };
    headers
}

/// Adds the conditions that revalidate a stored response (RFC 9111 §4.3.1). Nothing is added when it has no validator.
pub fn validators(stored: &HeaderMap, request: &mut HeaderMap) {
    if let Some(etag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, etag.clone());
    }
    if let (Some(_), Some(modified)) = (date(stored, LAST_MODIFIED), stored.get(LAST_MODIFIED)) {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
}

/// A 304 that speaks of another body than the one that is stored (RFC 9111 §4.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the 304 has another validator than the stored response")]
pub struct WrongBody;

/// The stored head after a 304 confirmed it (RFC 9111 §3.2, §4.3.4): its fields replace those of the same name, except
/// what describes the stored bytes. `Age` and `Date` are the 304's or nobody's.
///
/// The result is to be judged anew ([`crate::storable()`]): a 304 may bring `no-store`.
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap) -> Result<HeaderMap, WrongBody> {
    if let (Some(had), Some(has)) = (stored.get(ETAG), not_modified.get(ETAG)) {
        let same = if is_strong(has.as_bytes()) && is_strong(had.as_bytes()) {
            had == has
        } else {
            weak(had.as_bytes(), has.as_bytes())
        };
        if !same {
            return Err(WrongBody);
        }
    }
    let news = end_to_end(not_modified);
    let mut merged = stored.clone();
    merged.remove(AGE);
    merged.remove(DATE);
    for name in news.keys() {
        if [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE].contains(name) {
            continue;
        }
        merged.remove(name);
        for value in news.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    if let Some(etag) = stored.get(ETAG) {
        merged.insert(ETAG, etag.clone()); // a weak form of it must not replace a strong one
    }
    Ok(merged)
}

/// The fields of a 304 to a user (RFC 9110 §15.4.5): what would have come with the 200 and concerns caches.
pub fn not_modified(stored: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let targeted = HeaderName::from_static("cdn-cache-control");
    for name in [CACHE_CONTROL, targeted, CONTENT_LOCATION, DATE, ETAG, EXPIRES, LAST_MODIFIED, VARY] {
        for value in stored.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    headers
}
