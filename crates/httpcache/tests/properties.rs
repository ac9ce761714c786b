//! What holds for all headers: nothing panics, and freshness agrees with `http-cache-semantics` wherever the
//! specification leaves no choice to either.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
use httpcache::{
    Allowed, Answer, Decision, Multipart, answer, decide, end_to_end, freshen, invalidated_too, kept, not_modified,
    storable, upstream, vary_fields, vary_key,
};
use proptest::prelude::*;

/// Fields this crate reads, and one it does not.
const FIELDS: [&str; 20] = [
    "cache-control",
    "cdn-cache-control",
    "expires",
    "date",
    "age",
    "last-modified",
    "etag",
    "vary",
    "connection",
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "accept-encoding",
    "authorization",
    "content-length",
    "set-cookie",
    "x-other",
];

/// Pieces that bring a random text near to what parsers look for.
const PIECES: [&str; 26] = [
    "max-age=",
    "s-maxage",
    "no-cache",
    "\"",
    "\\",
    "W/",
    ",",
    ";",
    "=",
    "-",
    "*",
    "bytes=",
    "0",
    "99999999999999999999",
    "stale-if-error=",
    "?1",
    "(",
    ")",
    ":",
    " ",
    "q=",
    "gzip",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "NaN",
    "identity",
    "a",
];

fn value() -> impl Strategy<Value = HeaderValue> {
    let byte = prop_oneof![Just(b'\t'), b' '..=b'~', 0x80..=0xff_u8];
    let noise = proptest::collection::vec(byte, 0..40);
    let near =
        proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..8).prop_map(|p| p.concat().into_bytes());
    prop_oneof![noise, near].prop_map(|bytes| HeaderValue::from_bytes(&bytes).expect("no control bytes"))
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let line = (proptest::sample::select(&FIELDS[..]), value());
    proptest::collection::vec(line, 0..8).prop_map(|lines| {
        lines.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    })
}

/// Enough to reach every parser many times within a second or two; failing cases are printed, not kept in files.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_headers_panic(
        request in headers(), response in headers(), news in headers(), status in 100_u16..1000,
        sent in 0_u64..1 << 33, received in 0_u64..1 << 33, now in 0_u64..1 << 33, length in any::<u64>(),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        if let Ok(freshness) = storable(&Method::GET, &request, status, &response, at(sent), at(received)) {
            let age = freshness.age(at(now));
            prop_assert!(age >= freshness.initial_age);
            prop_assert_eq!(freshness.is_fresh(at(now)), age < freshness.lifetime);
            freshness.ttl(at(now));
            for allowed in [Allowed::Send, Allowed::Revalidate, Allowed::Refetch] {
                decide(&Method::GET, &request, Some((&freshness, allowed)), at(now));
            }
        }
        let answered = answer(&Method::GET, &request, StatusCode::OK, &response, Some(length));
        answered.head(StatusCode::OK, &response, Some(length));
        match answered {
            Answer::Part(part) => {
                prop_assert!(part.start < part.end && part.end <= length);
                part.content_range(length);
            }
            Answer::Parts(parts) => {
                prop_assert!(parts.len() > 1);
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                prop_assert!(parts.iter().map(httpcache::ByteRange::length).sum::<u64>() < length);
                Multipart::new("x", &parts, None, length);
            }
            _ => {}
        }
        if let Ok(fields) = vary_fields(&response) {
            vary_key(&fields, &request);
        }
        let stripped = end_to_end(&response);
        prop_assert_eq!(end_to_end(&stripped), stripped);
        let asked = upstream(&request);
        prop_assert_eq!(upstream(&asked), asked);
        not_modified(&response);
        let stays = kept(&response, at(received % (1 << 37)));
        prop_assert_eq!(kept(&stays, at(received)), stays);
        for path in invalidated_too("a.test", "/x?y", &response) {
            prop_assert!(path.starts_with('/'));
        }
        if let Ok(merged) = freshen(&response, &news) {
            prop_assert!(freshen(&merged, &HeaderMap::new()).is_ok());
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Against the plainest reading there is: a set of wanted bytes.
    #[test]
    fn parts_hold_every_byte_that_is_asked_for_once(
        specs in proptest::collection::vec((0_u64..3000, 0_u64..600, 0_u8..4), 1..10), length in 1_u64..2500,
    ) {
        let mut wanted = vec![false; length as usize];
        let mut texts = Vec::new();
        for (at, some, kind) in specs {
            let (text, start, end) = match kind {
                0 => (format!("{at}-"), at, length),
                1 => (format!("-{some}"), length.saturating_sub(some), length),
                _ => (format!("{at}-{}", at + some), at, at + some + 1),
            };
            texts.push(text);
            (start..end.min(length)).for_each(|byte| wanted[byte as usize] = true);
        }
        let mut request = HeaderMap::new();
        request.insert("range", HeaderValue::try_from(format!("bytes={}", texts.join(", "))).unwrap());
        let parts = match answer(&Method::GET, &request, StatusCode::OK, &HeaderMap::new(), Some(length)) {
            Answer::Part(part) => vec![part],
            Answer::Parts(parts) => parts,
            Answer::Unsatisfiable => {
                prop_assert!(!wanted.contains(&true));
                return Ok(());
            }
            other => {
                prop_assert_eq!(other, Answer::Whole);
                return Ok(());
            }
        };
        prop_assert!(wanted.contains(&true));
        let mut sent = vec![false; length as usize];
        for byte in parts.iter().flat_map(|part| part.start..part.end) {
            prop_assert!(!std::mem::replace(&mut sent[byte as usize], true), "byte {} twice: {:?}", byte, parts);
        }
        prop_assert!(wanted.iter().zip(&sent).all(|(wanted, sent)| *sent || !wanted), "{:?}", parts);
        let ends = |parts: &[httpcache::ByteRange]| parts.iter().all(|part| {
            wanted[part.start as usize] && wanted[part.end as usize - 1]
        });
        prop_assert!(ends(&parts), "no part is longer than asked: {:?}", parts);
    }
}

/// Whole directives, of which each is drawn at most once.
#[derive(Clone, Debug)]
struct Drawn {
    status: u16,
    directives: Vec<String>,
    expires_in: Option<i64>,
    modified_ago: Option<u64>,
    age: Option<u64>,
    authorization: bool,
    elapsed: u64,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    const WORDS: [&str; 7] =
        ["no-store", "private", "no-cache", "must-revalidate", "public", "no-transform", "x=\"y\""];
    let words = proptest::sample::subsequence(&WORDS[..], 0..3);
    let seconds = || proptest::option::of(0_u64..200);
    (
        proptest::sample::select(&[200_u16, 203, 204, 300, 301, 302, 307, 308, 404, 405, 410, 414, 501][..]),
        words,
        seconds(),
        seconds(),
        proptest::option::of(-100_i64..200),
        proptest::option::of(10_u64..3600),
        seconds(),
        proptest::bool::weighted(0.2),
        0_u64..300,
    )
        .prop_map(|(status, words, max_age, s_maxage, expires_in, modified, age, authorization, elapsed)| {
            let mut directives: Vec<String> = words.into_iter().map(str::to_owned).collect();
            directives.extend(max_age.map(|seconds| format!("max-age={seconds}")));
            directives.extend(s_maxage.map(|seconds| format!("S-MaxAge={seconds}").to_lowercase()));
            Drawn {
                status,
                directives,
                expires_in,
                modified_ago: modified.map(|tenth| tenth * 10),
                age,
                authorization,
                elapsed,
            }
        })
}

/// Request directives, each at most once.
fn wishes() -> impl Strategy<Value = Vec<String>> {
    let numbered = |name: &'static str| proptest::option::of((1_u64..300).prop_map(move |n| format!("{name}={n}")));
    let bare = |word: &'static str| proptest::option::weighted(0.1, Just(word.to_owned()));
    let drawn =
        (numbered("max-age"), numbered("min-fresh"), numbered("max-stale"), bare("max-stale"), bare("no-cache"));
    drawn.prop_map(|(age, fresh, stale, any, none)| {
        let stale = stale.or(any);
        [age, fresh, stale, none].into_iter().flatten().collect()
    })
}

/// The request and the response that arrived at once.
fn exchange(drawn: &Drawn, now: SystemTime) -> (Request<()>, Response<()>) {
    let mut request = Request::get("https://a.test/x");
    if drawn.authorization {
        request = request.header("authorization", "Basic eA==");
    }
    let request = request.body(()).unwrap();
    let mut response = Response::builder().status(drawn.status).header("date", httpdate::fmt_http_date(now));
    if !drawn.directives.is_empty() {
        response = response.header("cache-control", drawn.directives.join(", "));
    }
    if let Some(expires) = drawn.expires_in {
        let expires = at(1_700_000_000_u64.checked_add_signed(expires).unwrap());
        response = response.header("expires", httpdate::fmt_http_date(expires));
    }
    if let Some(ago) = drawn.modified_ago {
        response = response.header("last-modified", httpdate::fmt_http_date(now - Duration::from_secs(ago)));
    }
    if let Some(age) = drawn.age {
        response = response.header("age", age);
    }
    let response = response.body(()).unwrap();
    (request, response)
}

proptest! {
    #![proptest_config(cases())]

    /// Left out because the other crate chooses otherwise by design: `Set-Cookie` and `proxy-revalidate` (it never
    /// reuses those), `Pragma` beside `Cache-Control` and the request's `no-store` (it honours the one and stores in spite of
    /// the other), apparent age by `Date`, repeated directives (it takes the last), and guesses outside the vendor's bounds.
    #[test]
    fn freshness_agrees_with_another_reading_of_the_specification(drawn in drawn()) {
        let now = at(1_700_000_000);
        let (request, response) = exchange(&drawn, now);
        let theirs = CachePolicy::new_options(&request, &response, now, CacheOptions::default());
        let ours = storable(&Method::GET, request.headers(), response.status(), response.headers(), now, now);
        let later = now + Duration::from_secs(drawn.elapsed);

        if !theirs.is_storable() {
            prop_assert!(ours.is_err(), "they do not store, we do: {:?}", drawn);
        }
        prop_assert_eq!(ours.is_ok_and(|ours| ours.is_fresh(later)), theirs.is_storable() && !theirs.is_stale(later));
        if let Ok(ours) = ours {
            prop_assert_eq!(ours.age(later), theirs.age(later));
        }
    }
    /// Left out: a request in the second of the arrival, which we take for validated; `max-stale` where `s-maxage` or
    /// `no-cache` forbid it, which the other crate does not look at; `immutable`, which it takes for a lifetime.
    #[test]
    fn requests_are_satisfied_as_by_another_reading_of_the_specification(drawn in drawn(), wishes in wishes()) {
        let now = at(1_700_000_000);
        let (request, response) = exchange(&drawn, now);
        let forbids = |directive: &String| directive.starts_with("s-maxage") || directive == "no-cache";
        let mut wishes = wishes;
        if drawn.directives.iter().any(forbids) {
            wishes.retain(|wish| !wish.starts_with("max-stale"));
        }
        let theirs = CachePolicy::new_options(&request, &response, now, CacheOptions::default());
        let ours = storable(&Method::GET, request.headers(), response.status(), response.headers(), now, now);
        let later = now + Duration::from_secs(drawn.elapsed + 1);
        let (mut parts, ()) = request.into_parts();
        if !wishes.is_empty() {
            parts.headers.insert("cache-control", HeaderValue::try_from(wishes.join(", ")).unwrap());
        }

        let they_send = theirs.is_storable() && matches!(theirs.before_request(&parts, later), BeforeRequest::Fresh(_));
        // What is kept at all the other test compares; they keep what has no lifetime, for those who take anything stale.
        let Ok(ours) = ours else { return Ok(()) };
        let decision = decide(&Method::GET, &parts.headers, Some((&ours, Allowed::Send)), later);
        let we_send = matches!(decision, Decision::Serve { .. } | Decision::ServeStaleAndRevalidate { .. });
        prop_assert_eq!(we_send, they_send, "{:?} {:?}", drawn, wishes);
    }
}

/// A field of a request: absent, or lines of elements.
type Field = Option<Vec<Vec<&'static str>>>;

fn field() -> impl Strategy<Value = Field> {
    let element = proptest::sample::select(&["a", "b", "A", "a;q=1", "\"x, y\"", "\"x,y\"", "\"\\\",\""][..]);
    proptest::option::of(proptest::collection::vec(proptest::collection::vec(element, 0..3), 1..3))
}

/// What a request says of content codings: each is wanted or not, or not named.
type Codings = [Option<bool>; 6];

const CODINGS: [&str; 6] = ["br", "deflate", "gzip", "zstd", "identity", "*"];

fn codings() -> impl Strategy<Value = Codings> {
    proptest::array::uniform6(proptest::option::of(any::<bool>()))
}

/// The four codings and, behind them, no coding: which of them the request takes (RFC 9110 §12.5.3).
fn taken(codings: &Codings) -> [bool; 5] {
    std::array::from_fn(|at| codings[at].or(codings[5]).unwrap_or(at == 4))
}

/// Writes a field with spaces and in lines as `noise` has it, which mean nothing.
fn write(headers: &mut HeaderMap, name: &'static str, lines: &[Vec<&str>], noise: u8) {
    let comma = [",", ", ", " ,", " , , "][usize::from(noise % 4)];
    for line in lines {
        headers.append(name, HeaderValue::from_str(&line.join(comma)).unwrap());
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Two requests select one variant exactly if they say the same in every field that chose the response, as lists of elements
    /// however they are written (RFC 9111 §4.1), and take the same codings.
    #[test]
    fn variants_agree_with_comparing_field_by_field(
        vary in proptest::sample::subsequence(&["x-a", "x-b", "accept-encoding"][..], 0..=3),
        fields in proptest::array::uniform2((field(), field(), codings())),
        noise in any::<[u8; 2]>(),
        case in any::<bool>(),
    ) {
        let mut response = HeaderMap::new();
        for name in vary.iter().rev().chain(&vary) {
            let name = if case { name.to_uppercase() } else { (*name).to_owned() };
            response.append("vary", HeaderValue::try_from(format!(" {name} ,")).unwrap());
        }
        let request = |(one, other, codings): &(Field, Field, Codings), noise| {
            let mut headers = HeaderMap::new();
            for (name, field) in [("x-a", one), ("x-b", other)] {
                field.iter().for_each(|lines| write(&mut headers, name, lines, noise));
            }
            let named = CODINGS.iter().zip(codings).filter_map(|(name, wanted)| Some((name, (*wanted)?)));
            let texts: Vec<String> = named.map(|(name, wanted)| format!("{name}{}", if wanted { ";q=0.1" } else { "; q=0.0" })).collect();
            if !texts.is_empty() {
                write(&mut headers, "accept-encoding", &[texts.iter().map(String::as_str).collect()], noise);
            }
            headers
        };
        let chose = vary_fields(&response).unwrap();
        prop_assert_eq!(chose.len(), vary.len());
        let [first, second] = [0, 1].map(|at| vary_key(&chose, &request(&fields[at], noise[at])));
        let flat = |field: &Field| field.as_ref().map(|lines| lines.concat());
        let [(one, other, codings), (their_one, their_other, their_codings)] = &fields;
        let same = |name: &&str| match *name {
            "x-a" => flat(one) == flat(their_one),
            "x-b" => flat(other) == flat(their_other),
            _ => taken(codings) == taken(their_codings),
        };
        prop_assert_eq!(first == second, vary.iter().all(same), "{:?} {:?}", vary, fields);
    }
}
