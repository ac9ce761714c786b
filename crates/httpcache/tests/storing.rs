//! What is kept and for how long: one row per rule of RFC 9111 §3 and §4.2, RFC 9213, RFC 5861 and the vendor's guesses.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httpcache::{Freshness, LIFETIME_MAX, NotStorable, storable};

/// Sun, 06 Nov 1994 08:49:37 GMT.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
}
const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT";

/// Lines `Name: value` as a header map.
fn head(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
    }
    headers
}

fn judge(request: &[&str], status: u16, response: &[&str]) -> Result<Freshness, NotStorable> {
    let status = StatusCode::from_u16(status).unwrap();
    storable(&Method::GET, &head(request), status, &head(response), now(), now())
}

/// Rule, status, response head, and the lifetime in seconds or why not.
type Row<'a> = (&'a str, u16, &'a [&'a str], Result<u64, NotStorable>);

fn check(cases: &[Row<'_>]) {
    for (rule, status, response, expected) in cases {
        let lifetime = judge(&[], *status, response).map(|freshness| freshness.lifetime.as_secs());
        assert_eq!(lifetime, *expected, "{rule}: {status} {response:?}");
    }
}

#[test]
fn stated_lifetimes_are_taken_in_order() {
    check(&[
        ("§5.2.2.1 max-age", 200, &["Cache-Control: max-age=60"], Ok(60)),
        ("§5.2.2.10 s-maxage wins", 200, &["Cache-Control: max-age=60, s-maxage=9"], Ok(9)),
        ("§5.2.2.10 also when longer", 200, &["Cache-Control: s-maxage=90, max-age=6"], Ok(90)),
        ("§5.3 Expires", 200, &[DATE, "Expires: Sun, 06 Nov 1994 08:50:07 GMT"], Ok(30)),
        ("§5.3 Expires without Date counts from arrival", 200, &["Expires: Sun, 06 Nov 1994 08:50:07 GMT"], Ok(30)),
        (
            "§5.3 max-age wins over Expires",
            200,
            &["Expires: Sun, 06 Nov 1994 08:50:07 GMT", "Cache-Control: max-age=5"],
            Ok(5),
        ),
        ("§5.3 `0` is in the past", 200, &["Expires: 0", "ETag: \"a\""], Ok(0)),
        (
            "§5.3 so is a broken date, before any guess",
            200,
            &["Expires: soon", "Last-Modified: Sun, 06 Nov 1994 07:49:37 GMT"],
            Ok(0),
        ),
        ("§4.2.1 two values: the first", 200, &["Cache-Control: max-age=60", "Cache-Control: max-age=5"], Ok(60)),
        (
            "§4.2.1 two dates: the first",
            200,
            &[DATE, "Expires: Sun, 06 Nov 1994 08:50:07 GMT", "Expires: Sun, 06 Nov 1994 09:50:07 GMT"],
            Ok(30),
        ),
        ("§5.3 the form of RFC 850", 200, &[DATE, "Expires: Sunday, 06-Nov-94 08:50:07 GMT"], Ok(30)),
        ("§5.3 the form of asctime", 200, &[DATE, "Expires: Sun Nov  6 08:50:07 1994"], Ok(30)),
        ("§4.2 in any case", 200, &[DATE, "Expires: SUN, 06 NOV 1994 08:50:07 gmt"], Ok(30)),
        ("§4.2 another zone is no date", 200, &[DATE, "Expires: Sun, 06 Nov 1994 08:50:07 CET", "ETag: \"a\""], Ok(0)),
        (
            "§5.3 two dates in one line are none",
            200,
            &["Expires: Sun, 06 Nov 1994 08:50:07 GMT, Sun, 06 Nov 1994 08:50:07 GMT", "ETag: \"a\""],
            Ok(0),
        ),
        ("§5.3 a far date", 200, &[DATE, "Expires: Fri, 31 Dec 9999 23:59:59 GMT"], Ok(LIFETIME_MAX.as_secs())),
        (
            "§5.3 a Date that cannot be read is none",
            200,
            &["Date: today", "Expires: Sun, 06 Nov 1994 08:50:07 GMT"],
            Ok(30),
        ),
        ("§1.2.2 too large", 200, &["Cache-Control: max-age=99999999999999999999"], Ok(LIFETIME_MAX.as_secs())),
        ("any final status with a lifetime", 503, &["Cache-Control: max-age=5"], Ok(5)),
        ("§3 also an unknown one", 299, &["Cache-Control: max-age=5"], Ok(5)),
        ("§3 also an unknown one", 499, &["Cache-Control: max-age=5"], Ok(5)),
        ("§3 also an unknown one", 599, &[DATE, "Expires: Sun, 06 Nov 1994 08:50:07 GMT"], Ok(30)),
        ("§3 also one without a class", 799, &["Cache-Control: s-maxage=5"], Ok(5)),
        ("302 is no default, with a lifetime it is kept", 302, &["Cache-Control: max-age=5"], Ok(5)),
        ("RFC 8246 immutable changes no lifetime", 200, &["Cache-Control: max-age=60, immutable"], Ok(60)),
        ("§5.4 Pragma in a response means nothing", 200, &["Cache-Control: max-age=60", "Pragma: no-cache"], Ok(60)),
        ("§7.3 Set-Cookie keeps nothing out", 200, &["Cache-Control: max-age=60", "Set-Cookie: a=b"], Ok(60)),
    ]);
}

#[test]
fn responses_not_meant_for_us_are_not_kept() {
    let lasting = "Cache-Control: max-age=60";
    check(&[
        ("§5.2.2.5", 200, &["Cache-Control: max-age=60, no-store"], Err(NotStorable::NoStore)),
        ("§5.2.2.5 any case", 200, &["Cache-Control: No-Store"], Err(NotStorable::NoStore)),
        ("§5.2.2.7", 200, &["Cache-Control: private, max-age=60"], Err(NotStorable::Private)),
        ("§5.2.2.7 with fields: the rest may be kept", 200, &["Cache-Control: private=\"x-a\", max-age=60"], Ok(60)),
        ("§5.2.2.7 with no fields", 200, &["Cache-Control: private=\"\", max-age=60"], Err(NotStorable::Private)),
        ("§4.1", 200, &[lasting, "Vary: *"], Err(NotStorable::VaryStar)),
        ("§4.1 among others", 200, &[lasting, "Vary: accept, *"], Err(NotStorable::VaryStar)),
        ("§4.1 in another line", 200, &[lasting, "Vary: accept", "Vary: *"], Err(NotStorable::VaryStar)),
        ("§4.1 before others", 200, &[lasting, "Vary: *, accept"], Err(NotStorable::VaryStar)),
        ("§4.1 among empty ones", 200, &[lasting, "Vary: , ,*,"], Err(NotStorable::VaryStar)),
        ("§3 an interim answer", 103, &[lasting], Err(NotStorable::Status(103))),
        ("§4.1 not a field name", 200, &[lasting, "Vary: a b"], Err(NotStorable::VaryStar)),
        ("§3.3 parts are not objects", 206, &[lasting], Err(NotStorable::Status(206))),
        ("a 304 belongs to what it confirms", 304, &[lasting], Err(NotStorable::Status(304))),
        ("an answer to a condition", 412, &[lasting], Err(NotStorable::Status(412))),
        (
            "§5.2.2.3 unknown status",
            299,
            &["Cache-Control: must-understand, max-age=60"],
            Err(NotStorable::MustUnderstand(299)),
        ),
        (
            "§5.2.2.3 a known status that is kept only when told to",
            503,
            &["Cache-Control: must-understand, no-store, max-age=60"],
            Ok(60),
        ),
        (
            "§5.2.2.3 known status: no-store does not count",
            200,
            &["Cache-Control: must-understand, no-store, max-age=60"],
            Ok(60),
        ),
        ("nothing to go by", 200, &[DATE], Err(NotStorable::NoLifetime)),
        ("nothing to go by", 404, &["Content-Type: text/html"], Err(NotStorable::NoLifetime)),
        ("never fresh, nothing to confirm", 200, &["Cache-Control: max-age=0"], Err(NotStorable::Useless)),
        ("never fresh, nothing to confirm", 200, &["Cache-Control: no-cache"], Err(NotStorable::Useless)),
    ]);
    let only_get = storable(&Method::HEAD, &HeaderMap::new(), StatusCode::OK, &head(&[lasting]), now(), now());
    assert_eq!(only_get, Err(NotStorable::Method));
}

#[test]
fn never_fresh_is_kept_for_its_validator_and_said_not_to_be_warm() {
    for response in [
        ["Cache-Control: no-cache, max-age=60", "ETag: \"a\""],
        ["Cache-Control: no-cache=\"\", max-age=60", "ETag: \"a\""], // §5.2.2.4: no fields are all
        ["Cache-Control: max-age=0", "Last-Modified: Sun, 06 Nov 1994 07:49:37 GMT"],
    ] {
        let freshness = judge(&[], 200, &response).unwrap();
        assert_eq!(freshness.lifetime, Duration::ZERO, "{response:?}");
        assert!(freshness.validator && !freshness.is_fresh(now()), "{response:?}");
    }
    let aged = judge(&[], 200, &["Cache-Control: max-age=60", "Age: 60"]).unwrap();
    assert!(!aged.is_fresh(now()), "it was used up on the way");
}

#[test]
fn unstated_lifetimes_are_guessed_as_the_vendor_does() {
    check(&[
        ("a tenth", 200, &[DATE, "Last-Modified: Sun, 06 Nov 1994 07:49:37 GMT"], Ok(360)),
        ("at least 10 s", 200, &[DATE, "Last-Modified: Sun, 06 Nov 1994 08:49:36 GMT"], Ok(10)),
        ("at most an hour", 200, &[DATE, "Last-Modified: Sat, 06 Nov 1993 08:49:37 GMT"], Ok(3600)),
        ("in the future", 200, &[DATE, "Last-Modified: Mon, 06 Nov 1995 08:49:37 GMT"], Ok(10)),
        ("without Date from arrival", 200, &["Last-Modified: Sun, 06 Nov 1994 07:49:37 GMT"], Ok(360)),
        ("ETag alone", 200, &["ETag: \"a\""], Ok(10)),
        ("Last-Modified before ETag", 200, &["ETag: \"a\"", "Last-Modified: Sun, 06 Nov 1994 07:49:37 GMT"], Ok(360)),
        ("a directive that is no lifetime", 200, &["Cache-Control: must-revalidate", "ETag: \"a\""], Ok(10)),
        ("§4.2.2 not for this status", 302, &["ETag: \"a\""], Err(NotStorable::NoLifetime)),
        ("§4.2.2 unless marked public", 302, &["Cache-Control: public", "ETag: \"a\""], Ok(10)),
        ("§4.2.2 errors of a server never", 500, &["ETag: \"a\""], Err(NotStorable::NoLifetime)),
        ("404 is one that may be guessed", 404, &["ETag: \"a\""], Ok(10)),
    ]);
}

#[test]
fn field_targeted_at_cdns_takes_the_place_of_the_others() {
    let other = "Cache-Control: max-age=5";
    check(&[
        ("§2.2 wins", 200, &[other, "CDN-Cache-Control: max-age=60"], Ok(60)),
        ("§2.2 over no-store", 200, &["Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], Ok(60)),
        ("§2.2 its own no-store", 200, &[other, "CDN-Cache-Control: no-store"], Err(NotStorable::NoStore)),
        (
            "§2.2 Expires does not count beside it",
            200,
            &["Expires: Sun, 06 Nov 1994 08:50:07 GMT", "CDN-Cache-Control: public"],
            Err(NotStorable::NoLifetime),
        ),
        ("§2.1 broken: as if absent", 200, &[other, "CDN-Cache-Control: max-age=60,,"], Ok(5)),
        ("§2.1 empty: as if absent", 200, &[other, "CDN-Cache-Control:"], Ok(5)),
        (
            "RFC 9651 two lines are one list",
            200,
            &[other, "CDN-Cache-Control: public", "CDN-Cache-Control: max-age=7"],
            Ok(7),
        ),
    ]);
}

#[test]
fn authorized_answers_are_kept_only_when_marked_for_sharing() {
    let cases = [
        ("max-age=60", Err(NotStorable::Authorization)),
        ("max-age=60, proxy-revalidate", Err(NotStorable::Authorization)),
        ("max-age=60, public", Ok(60)),
        ("max-age=60, must-revalidate", Ok(60)),
        ("s-maxage=60", Ok(60)),
    ];
    for (directives, expected) in cases {
        let response = format!("Cache-Control: {directives}");
        let kept =
            judge(&["Authorization: Basic eA=="], 200, &[&response]).map(|freshness| freshness.lifetime.as_secs());
        assert_eq!(kept, expected, "§3.5: {directives}");
    }
}

#[test]
fn stale_use_must_be_allowed_and_not_forbidden() {
    let cases = [
        // directives                                                          while revalidating, on error
        ("max-age=60", 0, 0),
        ("max-age=60, stale-while-revalidate=30", 30, 0),
        ("max-age=60, stale-if-error=40", 0, 40),
        ("max-age=60, stale-while-revalidate=30, stale-if-error=40", 30, 40),
        ("max-age=60, stale-while-revalidate=30, must-revalidate", 0, 0),
        ("max-age=60, stale-if-error=30, proxy-revalidate", 0, 0),
        ("s-maxage=60, stale-while-revalidate=30", 30, 0), // said in the same breath as s-maxage
        ("max-age=60, no-cache, stale-while-revalidate=30", 0, 0),
        ("max-age=60, stale-while-revalidate=x", 0, 0),
    ];
    for (directives, revalidating, error) in cases {
        let head = head(&[&format!("Cache-Control: {directives}"), "ETag: \"a\""]);
        let freshness = Freshness::of(StatusCode::OK, &head, now(), now());
        let got = (freshness.stale_while_revalidate.as_secs(), freshness.stale_if_error.as_secs());
        assert_eq!(got, (revalidating, error), "{directives}");
    }
}

#[test]
fn age_is_the_larger_of_what_clocks_and_caches_say() {
    let s = Duration::from_secs;
    let cases: [(&str, &[&str], u64, u64); 16] = [
        // §4.2.3                       headers                                      delay, age 10 s later
        ("from the origin", &[DATE], 0, 10),
        ("through a cache", &[DATE, "Age: 30"], 0, 40),
        ("the delay is added to Age", &["Age: 30"], 2, 42),
        ("an old Date", &["Date: Sun, 06 Nov 1994 08:48:37 GMT"], 0, 70),
        ("an old Date and a younger Age", &["Date: Sun, 06 Nov 1994 08:48:37 GMT", "Age: 5"], 0, 70),
        ("a Date in the future", &["Date: Sun, 06 Nov 1994 09:48:37 GMT"], 0, 10),
        ("§5.1 not a number", &["Age: -5"], 0, 10),
        ("§5.1 a fraction is no number", &["Age: 30.5"], 0, 10),
        ("§5.1 with words", &["Age: 30s"], 0, 10),
        ("§5.1 quoted", &["Age: \"30\""], 0, 10),
        ("§5.1 nothing", &["Age:"], 0, 10),
        ("§5.1 the first of several", &["Age: 30, 99"], 0, 40),
        ("§5.1 the first of several lines", &["Age: 30", "Age: 99"], 0, 40),
        ("§5.1 the first is no number: none counts", &["Age: x, 99"], 0, 10),
        ("§5.6.1.2 empty elements", &["Age: ,30"], 0, 40),
        ("§1.2.2 too large", &["Age: 99999999999999999999"], 0, 1 << 31),
    ];
    for (rule, lines, delay, expected) in cases {
        let freshness = Freshness::of(StatusCode::OK, &head(lines), now() - s(delay), now());
        assert_eq!(freshness.age(now() + s(10)), s(expected), "{rule}");
    }
    let freshness = Freshness::of(StatusCode::OK, &head(&["Cache-Control: max-age=60"]), now(), now());
    assert_eq!(freshness.age(now() - s(100)), s(0), "a clock that stepped back makes nothing younger than new");
    assert_eq!((freshness.ttl(now() + s(59)), freshness.ttl(now() + s(70))), (1, -10));
}

#[test]
fn what_is_kept_of_a_head_is_for_everybody() {
    let cases: [(&str, &[&str], &[&str]); 10] = [
        // rule                         arrived                                          kept, beside Cache-Control
        ("RFC 9110 §6.6.1 Date is recorded", &["X: 1"], &["x: 1", "date: Sun, 06 Nov 1994 08:49:37 GMT"]),
        ("RFC 9110 §6.6.1 one that cannot be read is none", &["Date: now"], &["date: Sun, 06 Nov 1994 08:49:37 GMT"]),
        ("RFC 9110 §7.6.1", &[DATE, "Connection: x", "X: 1", "Transfer-Encoding: chunked"], &[DATE]),
        ("§7.3 a cookie is one user's", &[DATE, "Set-Cookie: a=b", "Cache-Control: max-age=5"], &[DATE]),
        (
            "§5.2.2.9 unless it is said to be everybody's",
            &[DATE, "Set-Cookie: a=b", "Cache-Control: public, max-age=5"],
            &[DATE, "Set-Cookie: a=b"],
        ),
        ("§5.2.2.10 the same", &[DATE, "Set-Cookie: a=b", "Cache-Control: s-maxage=5"], &[DATE, "Set-Cookie: a=b"]),
        (
            "RFC 9213 the same",
            &[DATE, "Set-Cookie: a=b", "CDN-Cache-Control: max-age=5"],
            &[DATE, "Set-Cookie: a=b", "CDN-Cache-Control: max-age=5"],
        ),
        (
            "§5.2.2.4 qualified",
            &[DATE, "Set-Cookie: a=b", "X: 1", "Cache-Control: public, no-cache=\"set-cookie\""],
            &[DATE, "X: 1"],
        ),
        ("§5.2.2.7 qualified", &[DATE, "X-A: 1", "X-B: 2", "Cache-Control: private=\"X-A, x-c\""], &[DATE, "X-B: 2"]),
        ("§5.2.2.7 the first of two", &[DATE, "X-A: 1", "X-B: 2", "Cache-Control: private=x-b, private=x-a"], &[DATE]),
    ];
    for (rule, arrived, expected) in cases {
        let mut kept = httpcache::kept(&head(arrived), now());
        kept.remove("cache-control");
        assert_eq!(kept, head(expected), "{rule}");
        assert_eq!(httpcache::kept(&kept, now()).get("date"), kept.get("date"), "{rule}");
    }
}

#[test]
fn immutable_and_leave_to_be_stale_are_read() {
    let cases = [
        // directives                        immutable may be stale
        ("max-age=60", false, true),
        ("max-age=60, immutable", true, true),
        ("max-age=60, must-revalidate", false, false),  // §5.2.2.2
        ("max-age=60, proxy-revalidate", false, false), // §5.2.2.8
        ("s-maxage=60", false, false),                  // §5.2.2.10
        ("max-age=60, no-cache", false, false),
    ];
    for (directives, immutable, may_be_stale) in cases {
        let head = head(&[&format!("Cache-Control: {directives}")]);
        let freshness = Freshness::of(StatusCode::OK, &head, now(), now());
        assert_eq!((freshness.immutable, freshness.may_be_stale), (immutable, may_be_stale), "{directives}");
    }
}
