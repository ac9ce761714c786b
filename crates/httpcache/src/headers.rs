//! Which header fields are stored, forwarded, sent upstream, or merged from a 304.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, DATE, ETAG, EXPECT, EXPIRES, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RANGE, SET_COOKIE,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::answer::{is_strong, weak};
use crate::date;
use crate::directives::{Directives, Wishes};
use crate::vary::accept_encoding;

/// Hop-by-hop fields (RFC 9110 §7.6.1), and others that a cache must not store (RFC 9111 §3.1).
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

/// Fields that describe the content of the message they are in rather than the whole body (RFC 9110 §8.6 and §14.4, RFC
/// 9530 §2, RFC 1864): they do not apply to a message with less content, or none.
pub const OF_CONTENT: [HeaderName; 4] =
    [HeaderName::from_static("content-digest"), HeaderName::from_static("content-md5"), CONTENT_LENGTH, CONTENT_RANGE];

/// Fields that `Connection` cannot remove. A sender must not list fields meant for every recipient (RFC 9110 §7.6.1);
/// one that does could make a private response look public, or one response look like another.
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

/// The end-to-end fields: all but hop-by-hop ones and those that `Connection` lists.
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

/// The fields stored of a response received at `received`: [`end_to_end`] fields, with the `Date` that a recipient adds
/// if there is none (RFC 9110 §6.6.1), and without those meant only for the client that caused the fetch:
///
/// - the fields of `no-cache="..."` and `private="..."` (RFC 9111 §5.2.2.4, §5.2.2.7);
/// - `Set-Cookie`, unless the origin states by `public`, `s-maxage` or a targeted field with a lifetime that the
///   response is for everybody. RFC 9111 §7.3 leaves it to the origin to forbid its reuse; an origin that forgot to
///   would share sessions.
pub fn kept(response: &HeaderMap, received: SystemTime) -> HeaderMap {
    let mut headers = end_to_end(response);
    let directives = Directives::of(response);
    let for_everybody = directives.is_shared() || (directives.targeted && directives.max_age.is_some());
    if !for_everybody {
        headers.remove(SET_COOKIE);
    }
    for name in &directives.withheld {
        headers.remove(name);
    }
    if date::first(&headers, DATE).is_none() {
        let received = HeaderValue::try_from(httpdate::fmt_http_date(received));
        headers.insert(DATE, received.expect("a date is ASCII"));
    }
    headers
}

/// The fields of a user's request that are sent upstream if the response is to be stored: end-to-end fields without
/// conditions and ranges, as the response is for everybody; `Accept-Encoding` in the form of [`accept_encoding`], so
/// that the variant upstream chooses agrees with [`crate::vary_key`]; and of the cache directives only those asking
/// caches on the way for a new, young or fresh response, or not to store it.
///
/// A request that bypasses the cache uses [`end_to_end`] instead.
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
    let wishes = Wishes::of(request);
    let seconds = |name: &str, time: Option<Duration>| Some(format!("{name}={}", time?.as_secs()));
    let young = if wishes.no_cache { Some("no-cache".to_owned()) } else { seconds("max-age", wishes.max_age) };
    let wishes = [young, seconds("min-fresh", wishes.min_fresh), wishes.no_store.then(|| "no-store".to_owned())];
    let wishes: Vec<String> = wishes.into_iter().flatten().collect();
    if !wishes.is_empty() {
        let text = HeaderValue::try_from(wishes.join(", "));
        headers.insert(CACHE_CONTROL, text.expect("words and digits are a header value"));
    }
    match accept_encoding(request).parse() {
        Ok(encodings) if request.contains_key(ACCEPT_ENCODING) => headers.insert(ACCEPT_ENCODING, encodings),
        _ => headers.remove(ACCEPT_ENCODING),
    };
    headers
}

/// Adds the conditions to revalidate a stored response (RFC 9111 §4.3.1); none if it has no validator.
pub fn validators(stored: &HeaderMap, request: &mut HeaderMap) {
    if let Some(etag) = stored.get(ETAG) {
        request.insert(IF_NONE_MATCH, etag.clone());
    }
    if let (Some(_), Some(modified)) = (date::first(stored, LAST_MODIFIED), stored.get(LAST_MODIFIED)) {
        request.insert(IF_MODIFIED_SINCE, modified.clone());
    }
}

/// A 304 that refers to another body than the stored one (RFC 9111 §4.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the 304 has another validator than the stored response")]
pub struct WrongBody;

/// The stored head updated by a 304 that validated it (RFC 9111 §3.2, §4.3.4): fields of the 304 replace those of the
/// same name, except those that describe the stored bytes. `Age` and `Date` come from the 304 only.
///
/// Fails with `WrongBody` if the 304 has a strong entity tag that the stored response does not have, or a different
/// weak one, or, without a tag, a different `Last-Modified`. The result must be evaluated again ([`crate::storable()`],
/// [`kept`]): a 304 may add `no-store`.
pub fn freshen(stored: &HeaderMap, not_modified: &HeaderMap) -> Result<HeaderMap, WrongBody> {
    let same = match (stored.get(ETAG), not_modified.get(ETAG)) {
        (Some(had), Some(has)) if is_strong(has.as_bytes()) && is_strong(had.as_bytes()) => had == has,
        (Some(had), Some(has)) => weak(had.as_bytes(), has.as_bytes()),
        // It could be the tag of other bytes, and the next validation would then confirm those.
        (None, Some(has)) => !is_strong(has.as_bytes()),
        (_, None) => match (date::first(stored, LAST_MODIFIED), date::first(not_modified, LAST_MODIFIED)) {
            (Some(had), Some(has)) => had == has,
            _ => true, // the request named one body, so that one is meant
        },
    };
    if !same {
        return Err(WrongBody);
    }
    let news = end_to_end(not_modified);
    let mut merged = stored.clone();
    merged.remove(AGE);
    merged.remove(DATE);
    for name in news.keys() {
        if *name == CONTENT_ENCODING || OF_CONTENT.contains(name) {
            continue;
        }
        merged.remove(name);
        for value in news.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    if let Some(etag) = stored.get(ETAG) {
        merged.insert(ETAG, etag.clone()); // its weak form must not replace a strong tag
    }
    Ok(merged)
}

/// The fields of a 304: those of the 200 without the ones about its content. RFC 9110 §15.4.5 omits fields that the
/// recipient has, except those that guide a cache update (RFC 9111 §3.2): a child that does not learn a new tag, or a
/// browser a new policy, would keep using the old one for as long as the body stays the same.
pub fn not_modified(stored: &HeaderMap) -> HeaderMap {
    let mut headers = stored.clone();
    headers.remove(CONTENT_ENCODING);
    for name in OF_CONTENT {
        headers.remove(name);
    }
    headers
}
