//! What is done with a request (`decide`) and how a stored body goes out (`answer`): one row per rule.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httpcache::{
    Allowed, Answer, Bypass, ByteRange, Decision, Forward, Freshness, answer, decide, invalidates, unsatisfied,
};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn head(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
    }
    headers
}

#[test]
fn stored_bodies_go_from_fresh_to_stale_to_asked_again() {
    let s = Duration::from_secs;
    let fetch = |stale_if_error| Decision::Fetch { forward: Forward::Stale, stale_if_error };
    let stale = |age| Decision::ServeStaleAndRevalidate { age: s(age) };
    let both = ["Cache-Control: max-age=60, stale-while-revalidate=30, stale-if-error=100", "ETag: \"a\""];
    let plain = ["Cache-Control: max-age=60", "ETag: \"a\""];
    let bare = ["Cache-Control: max-age=60, stale-if-error=100"];
    let always = ["Cache-Control: no-cache", "ETag: \"a\""];
    use Allowed::{Refetch, Revalidate, Send};
    let cases: [(&str, &[&str], Allowed, u64, Decision); 13] = [
        ("fresh", &both, Send, 59, Decision::Serve { age: s(59) }),
        ("a lifetime of 60 s is over at 60 s", &both, Send, 60, stale(60)),
        ("RFC 5861 §3 until 90 s", &both, Send, 89, stale(89)),
        ("then a validation, with leave to fail", &both, Send, 90, Decision::Revalidate { stale_if_error: true }),
        ("RFC 5861 §4 until 160 s", &both, Send, 159, Decision::Revalidate { stale_if_error: true }),
        ("and no longer", &both, Send, 160, Decision::Revalidate { stale_if_error: false }),
        ("§4.2.4 no leave, no stale", &plain, Send, 60, Decision::Revalidate { stale_if_error: false }),
        ("no validator: the whole again", &bare, Send, 60, fetch(true)),
        ("§5.2.2.4 no-cache", &always, Send, 0, Decision::Revalidate { stale_if_error: false }),
        ("the fence refuses what is fresh", &both, Revalidate, 0, Decision::Revalidate { stale_if_error: false }),
        ("the fence refuses what is stale", &both, Revalidate, 70, Decision::Revalidate { stale_if_error: false }),
        ("the fence refuses, no validator", &bare, Revalidate, 70, fetch(false)),
        ("the fence deletes", &both, Refetch, 0, fetch(false)),
    ];
    for (rule, lines, allowed, after, expected) in cases {
        let freshness = Freshness::of(StatusCode::OK, &head(lines), NOW, NOW);
        for method in [Method::GET, Method::HEAD] {
            let got = decide(&method, &HeaderMap::new(), Some((&freshness, allowed)), NOW + s(after));
            assert_eq!(got, expected, "{rule}");
        }
    }
}

#[test]
fn requests_reach_the_origin_only_where_the_owner_lets_them() {
    let freshness = Freshness::of(StatusCode::OK, &head(&["Cache-Control: max-age=60", "ETag: \"a\""]), NOW, NOW);
    let fresh = Some((&freshness, Allowed::Send));
    let refused = Some((&freshness, Allowed::Revalidate));
    let serve = Decision::Serve { age: Duration::ZERO };
    let miss = Decision::Fetch { forward: Forward::UriMiss, stale_if_error: false };
    let cases = [
        ("nothing stored", Method::GET, "X: y", None, miss),
        ("users' no-cache is not honoured", Method::GET, "Cache-Control: no-cache", fresh, serve),
        ("nor max-age=0", Method::GET, "Cache-Control: max-age=0", fresh, serve),
        ("nor no-store", Method::GET, "Cache-Control: no-store", fresh, serve),
        ("nor Pragma", Method::GET, "Pragma: no-cache", fresh, serve),
        ("§5.2.1.7 with something stored", Method::GET, "Cache-Control: only-if-cached", fresh, serve),
        ("§5.2.1.7 with nothing", Method::GET, "Cache-Control: only-if-cached", None, Decision::OnlyIfCached),
        ("§5.2.1.7 the fence refuses", Method::GET, "Cache-Control: Only-If-Cached", refused, Decision::OnlyIfCached),
        ("not from the store", Method::POST, "X: y", fresh, Decision::Bypass(Bypass::Method)),
        ("not from the store", Method::OPTIONS, "X: y", fresh, Decision::Bypass(Bypass::Method)),
        ("a GET with content", Method::GET, "Content-Length: 3", fresh, Decision::Bypass(Bypass::Content)),
        ("a GET with content", Method::GET, "Transfer-Encoding: chunked", fresh, Decision::Bypass(Bypass::Content)),
        ("no content is none", Method::GET, "Content-Length: 0", fresh, serve),
    ];
    for (rule, method, line, stored, expected) in cases {
        let got = decide(&method, &head(&[line]), stored, NOW);
        assert_eq!(got, expected, "{rule}: {line}");
    }
}

#[test]
fn writes_that_succeed_invalidate() {
    let cases = [
        (Method::POST, 200, true),
        (Method::DELETE, 204, true),
        (Method::PUT, 303, true),
        (Method::POST, 404, false),
        (Method::OPTIONS, 200, false), // safe
        (Method::GET, 200, false),
    ];
    for (method, status, expected) in cases {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(invalidates(&method, status), expected, "RFC 9111 §4.4: {method} {status}");
    }
}

/// A body of 1000 bytes.
const STORED: [&str; 3] =
    ["ETag: \"a\"", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "Date: Sun, 06 Nov 1994 09:00:00 GMT"];

fn check(stored: &[&str], cases: &[(&str, &[&str], Answer)]) {
    for (rule, request, expected) in cases {
        let got = answer(&Method::GET, &head(request), StatusCode::OK, &head(stored), Some(1000));
        assert_eq!(got, *expected, "{rule}: {request:?}");
    }
}

#[test]
fn conditions_are_judged_in_order() {
    use Answer::{NotModified, PreconditionFailed, Whole};
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    let (since, unless) = (format!("If-Modified-Since: {AT}"), format!("If-Unmodified-Since: {AT}"));
    let earlier = "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT";
    let unless_earlier = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT";
    check(
        &STORED,
        &[
            ("none", &[], Whole),
            ("§13.1.2 the tag", &["If-None-Match: \"a\""], NotModified),
            ("§13.1.2 weakly", &["If-None-Match: W/\"a\""], NotModified),
            ("§13.1.2 in a list", &["If-None-Match: \"b\", \"a\""], NotModified),
            ("§13.1.2 in two lines", &["If-None-Match: \"b\"", "If-None-Match: \"a\""], NotModified),
            ("§13.1.2 any", &["If-None-Match: *"], NotModified),
            ("§13.1.2 another", &["If-None-Match: \"b\""], Whole),
            ("§8.8.3 commas stand in tags", &["If-None-Match: \"b,\"a\"\""], Whole),
            ("§8.8.3 tags have quotes", &["If-None-Match: a"], Whole),
            ("§13.1.3 not since", &[&since], NotModified),
            ("§13.1.3 since", &[earlier], Whole),
            ("§13.1.3 not a date", &["If-Modified-Since: yesterday"], Whole),
            ("§13.2.2 tags before dates", &["If-None-Match: \"b\"", &since], Whole),
            ("§13.2.2 tags before dates", &["If-None-Match: \"a\"", earlier], NotModified),
            ("§13.1.1 the tag", &["If-Match: \"a\""], Whole),
            ("§13.1.1 never weakly", &["If-Match: W/\"a\""], PreconditionFailed),
            ("§13.1.1 another", &["If-Match: \"b\""], PreconditionFailed),
            ("§13.1.1 any", &["If-Match: *"], Whole),
            ("§13.1.4 not since", &[&unless], Whole),
            ("§13.1.4 since", &[unless_earlier], PreconditionFailed),
            ("§13.2.2 If-Match before its date", &["If-Match: \"a\"", unless_earlier], Whole),
            ("§13.2.2 412 before 304", &["If-Match: \"b\"", "If-None-Match: \"a\""], PreconditionFailed),
            ("§13.2.2 If-Match holds, then If-None-Match", &["If-Match: \"a\"", "If-None-Match: \"a\""], NotModified),
            ("§13.2.2 304 before the range", &["If-None-Match: \"a\"", "Range: bytes=0-1"], NotModified),
        ],
    );
    check(
        &["Date: Sun, 06 Nov 1994 08:49:37 GMT"],
        &[
            ("RFC 9111 §4.3.2 Date stands in", &[&since], NotModified),
            ("no tag stored", &["If-None-Match: \"a\""], Whole),
            ("no tag stored, any", &["If-None-Match: *"], NotModified),
            ("no tag stored", &["If-Match: \"a\""], PreconditionFailed),
            ("§13.1.4 nothing to compare with", &[unless_earlier], Whole),
        ],
    );
    let missing = answer(&Method::GET, &head(&["If-None-Match: *"]), StatusCode::NOT_FOUND, &HeaderMap::new(), Some(9));
    assert_eq!(missing, Whole, "§13.2.1: only for what would be a 2xx");
}

#[test]
fn one_range_is_a_part_and_several_are_the_whole() {
    use Answer::{Unsatisfiable, Whole};
    let part = |start, end| Answer::Part(ByteRange { start, end });
    let date = "If-Range: Sun, 06 Nov 1994 08:49:37 GMT";
    check(
        &STORED,
        &[
            ("§14.1.2 from to", &["Range: bytes=0-99"], part(0, 100)),
            ("§14.1.2 one byte", &["Range: bytes=999-999"], part(999, 1000)),
            ("§14.1.2 open", &["Range: bytes=500-"], part(500, 1000)),
            ("§14.1.2 suffix", &["Range: bytes=-100"], part(900, 1000)),
            ("§14.1.2 suffix longer than the body", &["Range: bytes=-5000"], part(0, 1000)),
            ("§14.1.2 end behind the body", &["Range: bytes=900-5000"], part(900, 1000)),
            ("numbers too large", &["Range: bytes=900-99999999999999999999999"], part(900, 1000)),
            ("§14.1 units have no case", &["Range: Bytes=0-0"], part(0, 1)),
            ("§15.5.17 behind the body", &["Range: bytes=1000-"], Unsatisfiable),
            ("§15.5.17 an empty suffix", &["Range: bytes=-0"], Unsatisfiable),
            ("§15.5.17 none of several", &["Range: bytes=1000-, 2000-3000"], Unsatisfiable),
            ("§14.2 one of several", &["Range: bytes=1000-, 0-9"], part(0, 10)),
            ("§14.2 several", &["Range: bytes=0-1, 5-6"], Whole),
            ("§14.2 another unit", &["Range: seconds=0-1"], Whole),
            ("§14.1.2 backwards", &["Range: bytes=9-1"], Whole),
            ("broken", &["Range: bytes=a-b"], Whole),
            ("broken", &["Range: bytes=-"], Whole),
            ("broken", &["Range: bytes="], Whole),
            ("broken", &["Range: 0-9"], Whole),
            ("broken", &["Range: bytes=+1-5"], Whole),
            ("two lines", &["Range: bytes=0-1", "Range: bytes=5-6"], Whole),
            ("§13.1.5 the tag", &["Range: bytes=0-9", "If-Range: \"a\""], part(0, 10)),
            ("§13.1.5 another", &["Range: bytes=0-9", "If-Range: \"b\""], Whole),
            ("§13.1.5 never weakly", &["Range: bytes=0-9", "If-Range: W/\"a\""], Whole),
            ("§13.1.5 the date", &["Range: bytes=0-9", date], part(0, 10)),
            ("§13.1.5 an exact match", &["Range: bytes=0-9", "If-Range: Sun, 06 Nov 1994 08:49:38 GMT"], Whole),
            ("§13.1.5 broken", &["Range: bytes=0-9", "If-Range: a"], Whole),
        ],
    );
    check(
        &[STORED[1], "Date: Sun, 06 Nov 1994 08:49:37 GMT"],
        &[("§8.8.2.2 changed in the second it was sent in", &["Range: bytes=0-9", date], Whole)],
    );

    let range = |method, status, length, range: &str| {
        answer(&method, &head(&[&format!("Range: {range}")]), status, &HeaderMap::new(), length)
    };
    assert_eq!(range(Method::HEAD, StatusCode::OK, Some(9), "bytes=0-1"), Whole, "§14.2: only GET");
    assert_eq!(range(Method::GET, StatusCode::NON_AUTHORITATIVE_INFORMATION, Some(9), "bytes=0-1"), Whole);
    assert_eq!(range(Method::GET, StatusCode::OK, None, "bytes=0-1"), Whole, "the length is not known yet");
    assert_eq!(range(Method::GET, StatusCode::OK, Some(0), "bytes=0-"), Unsatisfiable, "nothing is stored");
    assert_eq!(range(Method::GET, StatusCode::OK, Some(0), "bytes=-5"), Whole, "the end of nothing is all of it");

    assert_eq!(ByteRange { start: 5, end: 10 }.content_range(100), "bytes 5-9/100");
    assert_eq!(unsatisfied(100), "bytes */100");
}
