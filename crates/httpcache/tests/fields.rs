//! Which fields go where, variants, and what a node says of itself.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use httpcache::{
    CacheStatus, Forward, Outcome, WrongBody, accept_encoding, end_to_end, freshen, not_modified, upstream, validators,
    vary_fields, vary_key, via,
};

fn head(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
    }
    headers
}

/// A header map as sorted lines, to compare whole.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn fields_of_one_connection_stay_there() {
    let all = head(&[
        "Connection: close, X-Mine",
        "Connection: Keep-Alive, not a name",
        "Keep-Alive: timeout=5",
        "X-Mine: 1",
        "TE: trailers",
        "Trailer: X-T",
        "Transfer-Encoding: chunked",
        "Upgrade: h2c",
        "Proxy-Connection: close",
        "Proxy-Authenticate: Basic",
        "Proxy-Authorization: Basic eA==",
        "X-Theirs: 2",
        "Set-Cookie: a=1",
        "Set-Cookie: b=2",
    ]);
    assert_eq!(lines(&end_to_end(&all)), ["set-cookie: a=1", "set-cookie: b=2", "x-theirs: 2"], "RFC 9110 §7.6.1");
}

#[test]
fn connection_cannot_take_away_what_is_for_everybody() {
    let private = head(&["Connection: cache-control, vary, age", "Cache-Control: private", "Vary: a", "Age: 1"]);
    assert_eq!(lines(&end_to_end(&private)), ["age: 1", "cache-control: private", "vary: a"]);
}

#[test]
fn a_fill_asks_for_what_everybody_gets() {
    let user = head(&[
        "Host: a.test",
        "User-Agent: x",
        "Range: bytes=0-1",
        "If-Range: \"a\"",
        "If-None-Match: \"a\"",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        "If-Match: \"a\"",
        "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        "Cache-Control: no-cache",
        "Pragma: no-cache",
        "Accept-Encoding: gzip;q=0.5, BR, foo",
        "Content-Length: 0",
    ]);
    assert_eq!(
        lines(&upstream(&user)),
        ["accept-encoding: br, gzip", "cache-control: no-cache", "host: a.test", "user-agent: x"]
    );
    let cases: [(&[&str], &[&str]); 6] = [
        // RFC 9111 §5.2.1: caches on the way are to hear that a new, young or fresh answer is wanted, and kept nowhere
        (&["Cache-Control: max-age=0, max-stale, foo"], &["cache-control: max-age=0"]),
        (&["Cache-Control: max-age=5", "Cache-Control: no-cache"], &["cache-control: no-cache"]),
        (&["Pragma: no-cache"], &["cache-control: no-cache"]),
        (&["Pragma: no-cache", "Cache-Control: x"], &[]),
        (&["Cache-Control: no-store, only-if-cached, min-fresh=5"], &["cache-control: min-fresh=5, no-store"]),
        (&["Expect: 100-continue"], &[]),
    ];
    for (user, expected) in cases {
        assert_eq!(lines(&upstream(&head(user))), expected, "{user:?}");
    }
    assert_eq!(lines(&upstream(&HeaderMap::new())), Vec::<String>::new(), "nothing is made up");
}

#[test]
fn stored_validators_become_conditions() {
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let cases: [(&[&str], &[&str]); 4] = [
        (&["ETag: W/\"a\""], &["if-none-match: W/\"a\""]),
        (&[&format!("Last-Modified: {AT}")], &[&format!("if-modified-since: {AT}")]),
        (&["ETag: \"a\"", "Last-Modified: never"], &["if-none-match: \"a\""]),
        (&[], &[]),
    ];
    for (stored, expected) in cases {
        let mut request = HeaderMap::new();
        validators(&head(stored), &mut request);
        assert_eq!(lines(&request), expected, "RFC 9111 §4.3.1: {stored:?}");
    }
}

#[test]
fn a_304_renews_the_head_and_not_the_body() {
    let stored = head(&[
        "ETag: \"a\"",
        "Cache-Control: max-age=5",
        "Date: Sun, 06 Nov 1994 08:49:37 GMT",
        "Age: 100",
        "Content-Length: 9",
        "Content-Encoding: gzip",
        "X-Kept: 1",
        "X-Two: 1",
    ]);
    let news = head(&[
        "ETag: W/\"a\"",
        "Cache-Control: max-age=60",
        "Content-Length: 0",
        "Content-Encoding: br",
        "X-Two: 2",
        "X-Two: 3",
        "Connection: close",
    ]);
    assert_eq!(
        lines(&freshen(&stored, &news).unwrap()),
        [
            "cache-control: max-age=60",
            "content-encoding: gzip",
            "content-length: 9",
            "etag: \"a\"",
            "x-kept: 1",
            "x-two: 2",
            "x-two: 3",
        ],
        "RFC 9111 §3.2"
    );
    let cases = [
        ("ETag: \"a\"", Ok(())),
        ("ETag: \"b\"", Err(WrongBody)),
        ("ETag: W/\"b\"", Err(WrongBody)),
        ("X-No-Tag: 1", Ok(())), // one body was asked about, so it is the one
        ("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", Ok(())), // nothing to compare with
    ];
    for (line, expected) in cases {
        assert_eq!(freshen(&stored, &head(&[line])).map(|_| ()), expected, "RFC 9111 §4.3.4: {line}");
    }
    let dated = head(&["Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"]);
    let cases = [
        ("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", Ok(())),
        ("Last-Modified: Sunday, 06-Nov-94 08:49:37 GMT", Ok(())),
        ("Last-Modified: Sun, 06 Nov 1994 08:49:38 GMT", Err(WrongBody)),
        ("ETag: \"a\"", Err(WrongBody)), // it could be the tag of other bytes, which it would confirm next time
        ("ETag: W/\"a\"", Ok(())),
        ("X-No-Tag: 1", Ok(())),
    ];
    for (line, expected) in cases {
        assert_eq!(freshen(&dated, &head(&[line])).map(|_| ()), expected, "RFC 9111 §4.3.4: {line}");
    }
}

#[test]
fn a_304_says_all_that_a_cache_farther_down_may_have_to_update() {
    let stored = head(&[
        "ETag: \"a\"",
        "Content-Type: text/css",
        "Content-Length: 9",
        "Content-Encoding: gzip",
        "Vary: accept",
        "X: 1",
        "X: 2",
    ]);
    let said = ["content-type: text/css", "etag: \"a\"", "vary: accept", "x: 1", "x: 2"];
    assert_eq!(lines(&not_modified(&stored)), said, "RFC 9110 §15.4.5, RFC 9111 §3.2");
}

#[test]
fn codings_are_told_apart_and_weights_are_not() {
    let cases = [
        // sent                         told apart as
        ("gzip", "gzip"),
        ("gzip, deflate, br", "br, deflate, gzip"),
        ("br,deflate , GZIP", "br, deflate, gzip"),
        ("gzip;q=1.0, br;q=0.1", "br, gzip"),
        ("gzip;q=0", ""),
        ("gzip; q=0.000, br", "br"),
        ("x-gzip", "gzip"),
        ("identity", ""),
        ("", ""),
        ("snappy", ""), // nobody encodes so; the plain body serves
        ("*", "br, deflate, gzip, zstd"),
        ("*, gzip;q=0", "br, deflate, zstd"),
        ("gzip, *;q=0", "gzip, identity;q=0"),
        ("identity;q=0", "identity;q=0"),
        ("gzip, identity;q=0", "gzip, identity;q=0"),
        ("identity, *;q=0", ""),
    ];
    for (sent, expected) in cases {
        let request = head(&[&format!("Accept-Encoding: {sent}")]);
        assert_eq!(accept_encoding(&request), expected, "{sent}");
        let again = head(&[&format!("Accept-Encoding: {expected}")]);
        assert_eq!(accept_encoding(&again), expected, "what goes upstream reads as what came: {sent}");
    }
    assert_eq!(accept_encoding(&HeaderMap::new()), "");
}

#[test]
fn variants_are_selected_by_what_the_response_named() {
    let fields = |vary: &str| vary_fields(&head(&[&format!("Vary: {vary}")])).unwrap();
    assert_eq!(fields("Accept-Language, accept-encoding,, Accept-Language"), ["accept-encoding", "accept-language"]);
    assert_eq!(vary_fields(&HeaderMap::new()), Ok(vec![]));
    let cases = [
        // vary             one request                 another                     same variant
        ("accept", vec!["Accept: a"], vec!["Accept: a"], true),
        ("accept", vec!["Accept: a"], vec!["Accept: b"], false),
        ("accept", vec!["Accept: a,b"], vec!["Accept: a", "Accept: b"], true),
        ("accept", vec!["Accept: a, b"], vec!["Accept: a,b "], true),
        ("accept", vec!["Accept:"], vec![], false), // absent matches absent only
        ("accept", vec!["Accept: a, , b"], vec!["Accept: a,b"], true),
        ("x", vec!["X: \"a, b\""], vec!["X: \"a,b\""], false), // in quotes every byte counts
        ("x", vec!["X: A"], vec!["X: a"], false),              // no field is known to have no case
        ("cookie", vec!["Cookie: a=1; b=2"], vec!["Cookie: b=2; a=1"], false),
        ("user-agent", vec!["User-Agent: a"], vec![], false),
        ("authorization", vec!["Authorization: Basic eA=="], vec!["Authorization: Basic eQ=="], false),
        ("accept", vec!["Accept: a", "X: 1"], vec!["Accept: a", "X: 2"], true),
        ("accept, x", vec!["Accept: a"], vec!["X: a"], false),
        ("accept-encoding", vec!["Accept-Encoding: gzip, br"], vec!["Accept-Encoding: br;q=0.5, gzip"], true),
        ("accept-encoding", vec!["Accept-Encoding: identity"], vec![], true),
        ("accept-encoding", vec!["Accept-Encoding: gzip"], vec![], false),
    ];
    for (vary, one, another, same) in cases {
        let fields = fields(vary);
        let equal = vary_key(&fields, &head(&one)) == vary_key(&fields, &head(&another));
        assert_eq!(equal, same, "RFC 9111 §4.1: {vary}: {one:?} and {another:?}");
    }
    assert!(vary_key(&[], &head(&["Accept: a"])).is_empty());
}

#[test]
fn cache_status_is_a_structured_member() {
    let reload = Outcome::Forwarded { why: Forward::Request, status: None };
    let miss = Outcome::Forwarded { why: Forward::UriMiss, status: None };
    let validated = Outcome::Forwarded { why: Forward::Stale, status: Some(StatusCode::NOT_MODIFIED) };
    let cases = [
        ("cn-1-l1", Outcome::Hit, Some(376), false, false, "cn-1-l1; hit; ttl=376"),
        ("cn-1-l1", Outcome::Hit, Some(-4), false, false, "cn-1-l1; hit; ttl=-4"),
        ("cn-1-l1", miss, None, true, false, "cn-1-l1; fwd=uri-miss; stored"),
        ("cn-1-l1", miss, None, true, true, "cn-1-l1; fwd=uri-miss; stored; collapsed"),
        ("n", validated, Some(60), false, false, "n; fwd=stale; fwd-status=304; ttl=60"),
        ("n", reload, Some(60), false, true, "n; fwd=request; ttl=60; collapsed"),
        ("1st \"node\"", Outcome::Hit, None, false, false, "\"1st \\\"node\\\"\"; hit"),
        ("knotén", Outcome::Hit, None, false, false, "\"knot?n\"; hit"),
    ];
    for (cache, outcome, ttl, stored, collapsed, expected) in cases {
        let member = CacheStatus { cache, outcome, ttl, stored, collapsed };
        assert_eq!(member.value(), expected, "RFC 9211 §2");
    }
}

#[test]
fn via_names_version_and_node() {
    assert_eq!(via(Version::HTTP_11, "cn-1-l1"), "1.1 cn-1-l1");
    assert_eq!(via(Version::HTTP_2, "a b"), "2 a_b");
}
