//! Refuses messages that two readers might parse differently (request smuggling), as far as hyper's parser has not
//! refused them.
//!
//! hyper already ends the connection over a head with obs-fold, a space before a colon, control bytes, lengths that
//! contradict each other or overflow, and a `Transfer-Encoding` in HTTP/1.0 or one that does not end in `chunked`; and
//! over malformed chunks. A request with both `Transfer-Encoding` and `Content-Length` it reads by the first, drops the
//! second and closes the connection after it (RFC 9112 §6.1). It accepts a lone LF as the end of a line in a head
//! (§2.2), and nowhere else.
//!
//! # What always holds
//!
//! - A message that passed has at most one `Content-Length`, of digits alone, and no transfer coding but `chunked`.
//! - A request has exactly one host, and it is a name, in whichever of the two places it is given.
//! - A message that fails closes its connection: it is not known where the next message begins.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, StatusCode, Uri, Version, request, response};

use crate::metrics::Refusal;

/// Longest path and query of a request, in bytes.
pub(crate) const URL_BYTES_MAX: usize = model::PATH_BYTES_MAX;

/// Largest head of a request, in bytes, and most fields in it. For more than 100 fields hyper allocates memory for each
/// request.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
pub(crate) const HEADERS_MAX: usize = 100;

/// Largest head of an answer, in bytes, and most fields in it.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 << 10;
pub(crate) const ANSWER_FIELDS_MAX: usize = 256;

/// The share of those that is reserved for fields between nodes, so that parents accept every request that a node
/// accepted from a user, and children every answer that it accepted from an origin.
const FIELDS_OF_NODES: usize = 16;
const BYTES_OF_NODES: usize = 4 << 10;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) status: StatusCode,
    pub(crate) words: &'static str,
    pub(crate) why: Refusal,
}

fn malformed(words: &'static str) -> Bad {
    Bad { status: StatusCode::BAD_REQUEST, words, why: Refusal::Malformed }
}

/// Checks a request, and normalizes the field that gives its length. Returns the authority that it is addressed to.
pub(crate) fn request(request: &mut request::Parts) -> Result<Authority, Bad> {
    let too_large = |status, words| Bad { status, words, why: Refusal::TooLarge };
    if request.uri.path_and_query().is_some_and(|path| path.as_str().len() > URL_BYTES_MAX) {
        return Err(too_large(StatusCode::URI_TOO_LONG, "the URL is too long"));
    }
    if request.version == Version::HTTP_2 {
        one_cookie(&mut request.headers);
    }
    // The head of an HTTP/1.1 request was bounded while parsed; that of HTTP/2 only in bytes.
    if request.headers.len() > HEADERS_MAX {
        return Err(too_large(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "there are too many header fields"));
    }
    if !is_chunked_at_most(&request.headers) {
        let words = "expected no Transfer-Encoding but chunked";
        return Err(Bad { status: StatusCode::NOT_IMPLEMENTED, words, why: Refusal::Malformed });
    }
    one_length(&mut request.headers).map_err(malformed)?;
    one_host(request)
}

/// Path and query of a target; an empty path and `/` are the same (RFC 9110 §4.2.3).
pub(crate) fn path(target: &Uri) -> Cow<'_, str> {
    match target.path_and_query().map_or("/", PathAndQuery::as_str) {
        path if path.starts_with('?') => Cow::Owned(format!("/{path}")),
        path => Cow::Borrowed(path),
    }
}

/// Bytes of fields, as HTTP/1.1 writes them.
pub(crate) fn bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Checks that an origin's answer leaves room for the fields that nodes add.
pub(crate) fn answer_leaves_room(headers: &HeaderMap) -> Result<(), &'static str> {
    match headers.len() > ANSWER_FIELDS_MAX - FIELDS_OF_NODES || bytes(headers) > ANSWER_BYTES_MAX - BYTES_OF_NODES {
        true => Err("the head of the answer is too large"),
        false => Ok(()),
    }
}

/// Checks that a user's request leaves room for the fields that nodes add.
pub(crate) fn leaves_room(headers: &HeaderMap) -> Result<(), Bad> {
    let bytes = bytes(headers);
    match headers.len() > HEADERS_MAX - FIELDS_OF_NODES || bytes > HEAD_BYTES_MAX - URL_BYTES_MAX - BYTES_OF_NODES {
        true => Err(Bad {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            words: "there are too many header fields",
            why: Refusal::TooLarge,
        }),
        false => Ok(()),
    }
}

/// RFC 9113 §8.2.3: a client may split its cookies into several fields; outside HTTP/2 they have to be one.
fn one_cookie(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// RFC 9112 §3.2: exactly one `Host` in HTTP/1.1, with a valid name, even where the target names another host, which
/// then counts (§3.2.2). RFC 9113 §8.3.1: HTTP/2 may have none, and one that is there must agree with the target.
fn one_host(request: &request::Parts) -> Result<Authority, Bad> {
    let mut named = request.headers.get_all(HOST).iter();
    let header = match (named.next(), named.next()) {
        (Some(_), Some(_)) => return Err(malformed("expected one Host")),
        (header, _) => header,
    };
    let authority = header.map(|host| Authority::try_from(host.as_bytes()));
    let told = match authority {
        Some(Err(_)) => return Err(malformed("expected a host name in Host")),
        Some(Ok(authority)) => Some(authority),
        None => None,
    };
    let has_user = |authority: &Authority| authority.as_str().contains('@');
    if told.as_ref().is_some_and(has_user) || request.uri.authority().is_some_and(has_user) {
        return Err(malformed("expected a host name without a user"));
    }
    // RFC 9110 §4.2.1: a URL without a host is invalid.
    let has_no_name = |authority: &Authority| authority.host().is_empty();
    if told.as_ref().is_some_and(has_no_name) || request.uri.authority().is_some_and(has_no_name) {
        return Err(malformed("expected a host name in Host"));
    }
    match (request.version, told, request.uri.authority()) {
        (Version::HTTP_11, None, _) | (_, None, None) => Err(malformed("expected one Host")),
        (Version::HTTP_2, Some(told), Some(target)) if told != *target => {
            Err(malformed("expected :authority and Host to agree"))
        }
        (_, _, Some(target)) => Ok(target.clone()),
        (_, Some(told), None) => Ok(told),
    }
}

/// Checks an answer of a parent or an origin, and normalizes the field that gives its length. After an error the
/// connection it came on must not be used again.
pub(crate) fn answer(answer: &mut response::Parts) -> Result<(), &'static str> {
    if !is_chunked_at_most(&answer.headers) {
        return Err("it has a Transfer-Encoding other than chunked");
    }
    // A request with both may be read by its Transfer-Encoding. An origin that answers with both is broken or attacked,
    // and a stored answer is sent to everybody (RFC 9112 §6.3: "ought to be handled as an error").
    if answer.headers.contains_key(TRANSFER_ENCODING) && answer.headers.contains_key(CONTENT_LENGTH) {
        return Err("it has both Transfer-Encoding and Content-Length");
    }
    if answer.status == StatusCode::NO_CONTENT || answer.status.is_informational() {
        answer.headers.remove(CONTENT_LENGTH); // which these must not have (RFC 9110 §8.6)
    }
    one_length(&mut answer.headers)
}

/// Whether there is no transfer coding, or `chunked` alone. This node does not decode others, and must not skip
/// decoding them.
fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Merges several `Content-Length` of equal value into one (RFC 9110 §8.6).
fn one_length(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(first), next) = (lengths.next(), lengths.next()) else { return Ok(()) };
    if next.is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) && digits(first.as_bytes()).is_some() {
        return Ok(());
    }
    let lines = headers.get_all(CONTENT_LENGTH).iter();
    let mut all = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let length = all.next().and_then(digits).ok_or("expected digits as Content-Length")?;
    if !all.all(|other| digits(other) == Some(length)) {
        return Err("the Content-Length is told in several ways");
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(())
}

/// Parses a number without a sign; `None` if it does not fit.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, Request, Response};

    fn fields(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append::<HeaderName>(name, value);
        }
        headers
    }

    #[test]
    fn requests_that_may_be_read_in_two_ways_are_refused() {
        let h1 = Version::HTTP_11;
        let h2 = Version::HTTP_2;
        type Row = (&'static str, Version, &'static str, &'static [(&'static str, &'static str)], Option<u16>);
        let cases: &[Row] = &[
            // RFC                version target         fields                                             refused with
            ("9112 §3.2 plain", h1, "/", &[("host", "a.com")], None),
            ("9112 §3.2 no Host", h1, "/", &[], Some(400)),
            ("9112 §3.2 no Host beside a target", h1, "http://a.com/", &[], Some(400)),
            ("9112 §3.2 two", h1, "/", &[("host", "a.com"), ("host", "a.com")], Some(400)),
            ("9112 §3.2 no name", h1, "/", &[("host", "a.com/x")], Some(400)),
            ("9112 §3.2 a list", h1, "/", &[("host", "a.com, b.com")], Some(400)),
            ("9110 §4.2.1 a port alone", h1, "/", &[("host", ":80")], Some(400)),
            ("9110 §4.2.4 a user", h1, "/", &[("host", "u@a.com")], Some(400)),
            ("9110 §4.2.4 a user", h1, "http://u@a.com/", &[("host", "a.com")], Some(400)),
            ("9112 §3.2.2 the target counts", h1, "http://a.com/", &[("host", "b.com")], None),
            ("9112 §3.2.2 no name beside a target", h1, "http://a.com/", &[("host", "[")], Some(400)),
            ("9113 §8.3.1 one is enough", h2, "http://a.com/", &[], None),
            ("9113 §8.3.1 both agree", h2, "http://a.com/", &[("host", "A.com")], None),
            ("9113 §8.3.1 they do not", h2, "http://a.com/", &[("host", "b.com")], Some(400)),
            ("9113 §8.3.1 none", h2, "/", &[], Some(400)),
            ("HTTP/1.0 without", Version::HTTP_10, "/", &[], Some(400)),
            ("9112 §6.1 chunked", h1, "/", &[("host", "a"), ("transfer-encoding", " Chunked")], None),
            ("9112 §6.1 twice", h1, "/", &[("host", "a"), ("transfer-encoding", "chunked, chunked")], Some(501)),
            ("9112 §6.1 gzip", h1, "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Some(501)),
            (
                "9112 §6.1 two lines",
                h1,
                "/",
                &[("host", "a"), ("transfer-encoding", "identity"), ("transfer-encoding", "chunked")],
                Some(501),
            ),
            ("9110 §8.6 one", h1, "/", &[("host", "a"), ("content-length", "05")], None),
            ("9110 §8.6 the same twice", h1, "/", &[("host", "a"), ("content-length", "5, 5")], None),
            ("9110 §8.6 two", h1, "/", &[("host", "a"), ("content-length", "5, 6")], Some(400)),
            ("9110 §8.6 a sign", h1, "/", &[("host", "a"), ("content-length", "+5")], Some(400)),
            ("9110 §8.6 none", h1, "/", &[("host", "a"), ("content-length", "")], Some(400)),
            ("9110 §8.6 too large", h1, "/", &[("host", "a"), ("content-length", "18446744073709551616")], Some(400)),
        ];
        for (why, version, target, headers, refused) in cases {
            let (mut parts, ()) = Request::builder().version(*version).uri(*target).body(()).unwrap().into_parts();
            parts.headers = fields(headers);
            let got = request(&mut parts).err().map(|bad| bad.status.as_u16());
            assert_eq!(got, *refused, "{why}: {target} {headers:?}");
            if got.is_none() {
                assert!(parts.headers.get_all(CONTENT_LENGTH).iter().count() <= 1, "{why}");
            }
        }
    }

    #[test]
    fn bounds_of_a_request_hold_to_the_byte() {
        for (bytes, refused) in [(URL_BYTES_MAX, None), (URL_BYTES_MAX + 1, Some(414))] {
            let uri = format!("/{}", "x".repeat(bytes - 1));
            let (mut parts, ()) = Request::builder().uri(uri).header("host", "a").body(()).unwrap().into_parts();
            assert_eq!(request(&mut parts).err().map(|bad| bad.status.as_u16()), refused, "{bytes}");
        }
        for (count, refused) in [(HEADERS_MAX, None), (HEADERS_MAX + 1, Some(431))] {
            let (mut parts, ()) = Request::builder().uri("/").header("host", "a").body(()).unwrap().into_parts();
            (1..count).for_each(|_| _ = parts.headers.append("x-many", HeaderValue::from_static("1")));
            assert_eq!(request(&mut parts).err().map(|bad| bad.status.as_u16()), refused, "{count}");
        }
    }

    #[test]
    fn cookies_that_come_apart_by_http2_are_one_field() {
        for (version, expected) in [(Version::HTTP_2, vec!["a=1; b=2"]), (Version::HTTP_11, vec!["a=1", "b=2"])] {
            let asked = Request::builder().version(version).uri("/").header("host", "a.com");
            let asked = asked.header("cookie", "a=1").header("cookie", "b=2");
            let (mut parts, ()) = asked.body(()).unwrap().into_parts();
            request(&mut parts).unwrap();
            assert_eq!(parts.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), expected, "{version:?}");
        }
    }

    #[test]
    fn answers_that_may_be_read_in_two_ways_are_refused() {
        type Row = (u16, &'static [(&'static str, &'static str)], Result<Option<&'static str>, ()>);
        let cases: &[Row] = &[
            // status fields                                                      its length, or refused
            (200, &[], Ok(None)),
            (200, &[("content-length", "5")], Ok(Some("5"))),
            (200, &[("content-length", "5"), ("content-length", "5")], Ok(Some("5"))),
            (200, &[("content-length", "5, 05")], Ok(Some("5"))),
            (200, &[("content-length", "5"), ("content-length", "6")], Err(())),
            (200, &[("content-length", "-1")], Err(())),
            (200, &[("transfer-encoding", "chunked")], Ok(None)),
            (200, &[("transfer-encoding", "xchunked")], Err(())),
            (200, &[("transfer-encoding", "gzip")], Err(())), // would be read to the connection's end, still compressed
            (200, &[("transfer-encoding", "chunked"), ("content-length", "5")], Err(())),
            (204, &[("content-length", "5")], Ok(None)),
        ];
        for (status, headers, expected) in cases {
            let (mut parts, ()) = Response::builder().status(*status).body(()).unwrap().into_parts();
            parts.headers = fields(headers);
            let got = answer(&mut parts).map_err(|_| ());
            let length = |()| parts.headers.get(CONTENT_LENGTH).map(|length| length.to_str().unwrap());
            assert_eq!(got.map(length), *expected, "{status} {headers:?}");
            assert!(parts.headers.get_all(CONTENT_LENGTH).iter().count() <= 1 || got.is_err());
        }
    }
}
