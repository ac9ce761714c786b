//! What is done with a request (`decide`) and how a stored body goes out (`answer`): one row per rule.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httpcache::{
    Allowed, Answer, Bypass, ByteRange, Decision, Forward, Freshness, RANGES_MAX, answer, decide, invalidated_too,
    invalidates, lacking,
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
    let fetch = |stale_if_error| Decision::Fetch { forward: Forward::Stale, stale_if_error, keep: true };
    let validate = |stale_if_error| Decision::Revalidate { forward: Forward::Stale, stale_if_error };
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
        ("then a validation, with leave to fail", &both, Send, 90, validate(true)),
        ("RFC 5861 §4 until 160 s", &both, Send, 159, validate(true)),
        ("and no longer", &both, Send, 160, validate(false)),
        ("§4.2.4 no leave, no stale", &plain, Send, 60, validate(false)),
        ("no validator: the whole again", &bare, Send, 60, fetch(true)),
        ("§5.2.2.4 no-cache", &always, Send, 0, validate(false)),
        ("the fence refuses what is fresh", &both, Revalidate, 0, validate(false)),
        ("the fence refuses what is stale", &both, Revalidate, 70, validate(false)),
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
fn requests_say_how_good_an_answer_must_be() {
    let s = Duration::from_secs;
    let serve = |age| Decision::Serve { age: s(age) };
    let stale = |age| Decision::ServeStaleAndRevalidate { age: s(age) };
    let reload = Decision::Revalidate { forward: Forward::Request, stale_if_error: true };
    let validate = |stale_if_error| Decision::Revalidate { forward: Forward::Stale, stale_if_error };
    let refetch = |forward, stale_if_error| Decision::Fetch { forward, stale_if_error, keep: false };
    let (plain, immutable, strict) = ("max-age=60", "max-age=60, immutable", "max-age=60, must-revalidate");
    let (shared, behind) = ("s-maxage=60", "max-age=60, stale-while-revalidate=60");
    let cases = [
        // rule                               stored     request                            after  done
        ("§5.2.1.1 young enough", plain, "Cache-Control: max-age=10", 10, serve(10)),
        ("§5.2.1.1 too old", plain, "Cache-Control: max-age=10", 11, reload),
        ("§5.2.1.1 a number that cannot be read", plain, "Cache-Control: max-age=ten", 11, reload),
        ("RFC 8246 §2.1", immutable, "Cache-Control: max-age=0", 11, serve(11)),
        ("RFC 8246 §2.1 it does not last longer", immutable, "Cache-Control: max-age=0", 60, validate(false)),
        ("RFC 8246 §2.1 a reload by force", immutable, "Cache-Control: no-cache", 11, reload),
        ("§5.2.1.3 lasting enough", plain, "Cache-Control: min-fresh=20", 40, serve(40)),
        ("§5.2.1.3 not lasting", plain, "Cache-Control: min-fresh=20", 41, reload),
        ("§5.2.1.3 nor stale", behind, "Cache-Control: min-fresh=20", 61, validate(false)),
        ("§5.2.1.4", plain, "Cache-Control: no-cache", 1, reload),
        ("§5.2.1.4 it came in this second", plain, "Cache-Control: no-cache", 0, serve(0)),
        ("§5.2.1.4 nor stale", behind, "Cache-Control: no-cache", 61, validate(false)),
        ("§5.4", plain, "Pragma: no-cache", 1, reload),
        ("§5.2.1.2 not too stale", plain, "Cache-Control: max-stale=10", 69, stale(69)),
        ("§5.2.1.2 too stale", plain, "Cache-Control: max-stale=10", 70, validate(false)),
        ("§5.2.1.2 however stale", plain, "Cache-Control: max-stale", 5000, stale(5000)),
        ("§5.2.2.2 the origin forbids it", strict, "Cache-Control: max-stale", 70, validate(false)),
        ("§5.2.2.10 the origin forbids it", shared, "Cache-Control: max-stale", 70, validate(false)),
        ("§5.2.1.1 without max-stale nothing stale", behind, "Cache-Control: max-age=100", 70, validate(false)),
        ("§5.2.1.1 with it", behind, "Cache-Control: max-age=100, max-stale=30", 70, stale(70)),
        ("§5.2.1.1 with it, too old", behind, "Cache-Control: max-age=65, max-stale=30", 70, validate(false)),
        ("RFC 5861 §4", plain, "Cache-Control: stale-if-error=20", 79, validate(true)),
        ("RFC 5861 §4 no longer", plain, "Cache-Control: stale-if-error=20", 80, validate(false)),
        ("RFC 5861 §4 the origin forbids it", strict, "Cache-Control: stale-if-error=20", 79, validate(false)),
        ("§5.2.1.5 what is stored may be sent", plain, "Cache-Control: no-store", 10, serve(10)),
        ("§5.2.1.5 nothing new is kept", plain, "Cache-Control: no-store", 60, refetch(Forward::Stale, false)),
        (
            "§5.2.1.5 nothing new is kept",
            plain,
            "Cache-Control: no-store, no-cache",
            10,
            refetch(Forward::Request, true),
        ),
        ("§5.2.1.7 stale", behind, "Cache-Control: only-if-cached", 61, stale(61)),
        ("§5.2.1.7 too stale", plain, "Cache-Control: only-if-cached", 61, Decision::OnlyIfCached),
        ("§5.2.1.7 not good enough", plain, "Cache-Control: only-if-cached, no-cache", 1, Decision::OnlyIfCached),
        ("§5.2.1.6 nothing is transformed", plain, "Cache-Control: no-transform", 10, serve(10)),
        ("§5.2.3 unknown", plain, "Cache-Control: foo=bar", 10, serve(10)),
    ];
    for (rule, stored, request, after, expected) in cases {
        let stored = head(&[&format!("Cache-Control: {stored}"), "ETag: \"a\""]);
        let freshness = Freshness::of(StatusCode::OK, &stored, NOW, NOW);
        let stored = Some((&freshness, Allowed::Send));
        assert_eq!(decide(&Method::GET, &head(&[request]), stored, NOW + s(after)), expected, "{rule}: {request}");
        // What the fence refuses is no better for what a request accepts.
        let refused = decide(&Method::GET, &head(&[request]), Some((&freshness, Allowed::Revalidate)), NOW + s(after));
        assert!(
            !matches!(refused, Decision::Serve { .. } | Decision::ServeStaleAndRevalidate { .. }),
            "{rule}: {request}: {refused:?}"
        );
    }
}

#[test]
fn requests_go_past_the_store_only_where_they_must() {
    let freshness = Freshness::of(StatusCode::OK, &head(&["Cache-Control: max-age=60", "ETag: \"a\""]), NOW, NOW);
    let fresh = Some((&freshness, Allowed::Send));
    let refused = Some((&freshness, Allowed::Revalidate));
    let serve = Decision::Serve { age: Duration::ZERO };
    let miss = |keep| Decision::Fetch { forward: Forward::UriMiss, stale_if_error: false, keep };
    let cases = [
        ("nothing stored", Method::GET, "X: y", None, miss(true)),
        ("§5.2.1.5 nothing stored", Method::GET, "Cache-Control: no-store", None, miss(false)),
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
fn missing_bytes_are_fetched_and_stored_only_where_the_request_allows_it() {
    let past = Decision::Fetch { forward: Forward::Partial, stale_if_error: false, keep: false };
    let cases = [
        ("nothing forbids it", "Cache-Control: no-cache, max-age=0", None),
        ("§5.2.1.5", "Cache-Control: no-store", Some(past)),
        ("§5.2.1.7", "Cache-Control: only-if-cached", Some(Decision::OnlyIfCached)),
        ("§5.2.1.7 nobody is asked", "Cache-Control: no-store, only-if-cached", Some(Decision::OnlyIfCached)),
    ];
    for (rule, line, expected) in cases {
        assert_eq!(lacking(&head(&[line])), expected, "{rule}");
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
            ("§13.1.3 two dates", &[&since, &since], Whole),
            ("§13.1.3 the form of RFC 850", &["If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"], NotModified),
            ("§13.1.4 two dates", &[unless_earlier, unless_earlier], Whole),
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
fn ranges_select_parts() {
    use Answer::{Unsatisfiable, Whole};
    let part = |start, end| Answer::Part(ByteRange { start, end });
    let parts =
        |parts: &[(u64, u64)]| Answer::Parts(parts.iter().map(|&(start, end)| ByteRange { start, end }).collect());
    let many = |count: usize| {
        let ranges: Vec<String> = (0..count).map(|_| "0-0".to_owned()).collect();
        format!("Range: bytes={}", ranges.join(","))
    };
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
            ("§15.3.7.2 several", &["Range: bytes=0-1, 500-599"], parts(&[(0, 2), (500, 600)])),
            ("§15.3.7.2 in the order of the request", &["Range: bytes=500-599,0-1"], parts(&[(500, 600), (0, 2)])),
            ("§15.3.7.2 without those behind the body", &["Range: bytes=0-1,2000-,-2"], parts(&[(0, 2), (998, 1000)])),
            ("§15.3.7.2 near ones are one", &["Range: bytes=0-1, 5-6"], part(0, 7)),
            ("§15.3.7.2 overlapping ones are one", &["Range: bytes=0-99,50-199,150-299"], part(0, 300)),
            ("§15.3.7.2 at the place of the first", &["Range: bytes=0-9,400-499,5-19"], parts(&[(0, 20), (400, 500)])),
            ("one joins two others", &["Range: bytes=0-9,400-499,0-450"], part(0, 500)),
            ("§14.2 hardly shorter than the whole", &["Range: bytes=0-399,600-999"], Whole),
            ("§14.2 all of it, twice", &["Range: bytes=0-,0-"], part(0, 1000)),
            ("§14.2 one is broken", &["Range: bytes=0-1, 5-x"], Whole),
            ("§14.2 as many as are looked at", &[&many(RANGES_MAX)], part(0, 1)),
            ("§14.2 too many", &[&many(RANGES_MAX + 1)], Whole),
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
            ("§13.1.5 two", &["Range: bytes=0-9", "If-Range: \"a\"", "If-Range: \"a\""], Whole),
            ("§13.2.2 If-Match holds, then the range", &["Range: bytes=0-9", "If-Match: \"a\""], part(0, 10)),
            ("§13.2.2 412 before the range", &["Range: bytes=0-9", "If-Match: \"b\""], Answer::PreconditionFailed),
            ("§13.2.2 412 before 416", &["Range: bytes=5000-", "If-Match: \"b\""], Answer::PreconditionFailed),
            ("§13.1.5 no 416 when the condition fails", &["Range: bytes=5000-", "If-Range: \"b\""], Whole),
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
    assert_eq!(range(Method::GET, StatusCode::OK, Some(0), "bytes=0-, -5"), Whole, "one of the two is");
}

#[test]
fn heads_say_what_is_sent() {
    let stored = head(&[
        "Date: Sun, 06 Nov 1994 08:49:37 GMT",
        "ETag: \"a\"",
        "Cache-Control: max-age=60",
        "Content-Type: text/css",
        "Content-Length: 7",
        "Content-Encoding: gzip",
        "Content-Digest: sha-256=:YQ==:",
        "Repr-Digest: sha-256=:YQ==:",
        "Vary: accept",
        "Set-Cookie: a=b",
        "Access-Control-Allow-Origin: *",
    ]);
    let range = ByteRange { start: 1, end: 3 };
    /// Rule, answer, length of the body, status, and fields of the head; an empty one is not there.
    type Row<'a> = (&'a str, Answer, Option<u64>, u16, &'a [(&'a str, &'a str)]);
    let cases: [Row<'_>; 7] = [
        ("whole", Answer::Whole, Some(9), 200, &[("content-length", "9"), ("content-digest", "sha-256=:YQ==:")]),
        ("whole, of unknown length", Answer::Whole, None, 200, &[("content-length", "")]),
        (
            "§15.3.7.1, RFC 9530 §2",
            Answer::Part(range),
            Some(9),
            206,
            &[
                ("content-digest", ""),
                ("content-length", "2"),
                ("content-range", "bytes 1-2/9"),
                ("etag", "\"a\""),
                ("vary", "accept"),
            ],
        ),
        (
            "§15.3.7.2 Content-Range is of each part",
            Answer::Parts(vec![range, range]),
            Some(9),
            206,
            &[("content-length", ""), ("content-range", ""), ("content-digest", ""), ("etag", "\"a\"")],
        ),
        (
            "§15.4.5, what caches may have to update",
            Answer::NotModified,
            Some(9),
            304,
            &[
                ("content-length", ""),
                ("content-digest", ""),
                ("repr-digest", "sha-256=:YQ==:"),
                ("content-type", "text/css"),
            ],
        ),
        (
            "a 412 is not to be kept",
            Answer::PreconditionFailed,
            Some(9),
            412,
            &[("content-length", "0"), ("cache-control", "no-store"), ("content-encoding", ""), ("set-cookie", "")],
        ),
        (
            "§15.5.17, nor is a 416",
            Answer::Unsatisfiable,
            Some(9),
            416,
            &[
                ("content-range", "bytes */9"),
                ("cache-control", "no-store"),
                ("repr-digest", ""),
                ("access-control-allow-origin", "*"),
            ],
        ),
    ];
    for (rule, answer, length, status, fields) in cases {
        let (got, headers) = answer.head(StatusCode::OK, &stored, length);
        assert_eq!(got.as_u16(), status, "{rule}");
        for (name, expected) in fields {
            let value = headers.get(*name).map_or("", |value| value.to_str().unwrap());
            assert_eq!(value, *expected, "{rule}: {name}");
        }
    }
}

#[test]
fn writes_name_what_else_is_invalid() {
    let cases: [(&str, &[&str], &[&str]); 6] = [
        ("§4.4 Location", &["Location: /new"], &["/new"]),
        ("§4.4 Content-Location", &["Content-Location: http://a.test/x?y"], &["/x?y"]),
        ("§4.4 both", &["Location: sub", "Content-Location: /x"], &["/dir/sub", "/x"]),
        ("§4.4 of another origin never", &["Location: http://b.test/x", "Content-Location: //b.test/"], &[]),
        ("the same twice, and itself", &["Location: /x", "Content-Location: /x#y"], &["/x"]),
        ("itself", &["Location: page?q"], &[]),
    ];
    for (rule, response, expected) in cases {
        assert_eq!(invalidated_too("a.test", "/dir/page?q", &head(response)), expected, "{rule}: {response:?}");
    }
}
