//! The caching fields of a request, a response, and a 304 (sections: request sent, response received, and now, in
//! seconds since 1970; request; status and response; 304): nothing panics, ages never shrink, what the fence refuses is
//! never served, and stripping, keeping or freshening headers is idempotent.
#![no_main]

use std::time::{Duration, SystemTime};

use fuzz::{headers, line, sections, text};
use http::{HeaderMap, Method, StatusCode};
use httpcache::{
    Allowed, Answer, Decision, Multipart, accept_encoding, accept_encodings, answer, decide, end_to_end, freshen,
    invalidated_too, kept, not_modified, storable, upstream, validators, vary_fields, vary_key,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut sections = sections(bytes);
    let mut next = || sections.next().unwrap_or_default();
    let (times, request, response, news) = (next(), headers(next()), next(), headers(next()));
    let mut times = text(times).unwrap_or_default().split(' ').map(|word| word.parse::<u64>().unwrap_or(1_700_000_000));
    let mut at = || SystemTime::UNIX_EPOCH + Duration::from_secs(times.next().unwrap_or(1_700_000_000) % (1 << 37));
    let (sent, received, now) = (at(), at(), at());
    let (status, response) = line(response);
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    let response = headers(response);

    if let Ok(freshness) = storable(&Method::GET, &request, status, &response, sent, received) {
        let age = freshness.age(now);
        assert!(age >= freshness.initial_age, "a body does not grow younger than it came");
        assert!(age <= freshness.age(now + Duration::from_secs(1)));
        assert_eq!(freshness.is_fresh(now), age < freshness.lifetime);
        freshness.ttl(now);
        for method in [Method::GET, Method::HEAD, Method::POST] {
            for allowed in [Allowed::Send, Allowed::Revalidate, Allowed::Refetch] {
                let decision = decide(&method, &request, Some((&freshness, allowed)), now);
                let serves = matches!(decision, Decision::Serve { .. } | Decision::ServeStaleAndRevalidate { .. });
                assert!(!serves || (allowed == Allowed::Send && method != Method::POST), "{decision:?}");
            }
        }
    }
    decide(&Method::GET, &request, None, now);

    let length = Some(1000);
    let answered = answer(&Method::GET, &request, status, &response, length);
    let (told, head) = answered.head(status, &response, length);
    match answered {
        Answer::Whole => assert_eq!(told, status),
        Answer::Part(_) => assert_eq!(told, StatusCode::PARTIAL_CONTENT),
        Answer::Parts(parts) => drop(Multipart::new("x", &parts, head.get("content-type"), 1000)),
        Answer::NotModified => assert_eq!(told, StatusCode::NOT_MODIFIED),
        Answer::PreconditionFailed | Answer::Unsatisfiable => assert!(told.is_client_error()),
    }

    if let Ok(fields) = vary_fields(&response) {
        assert!(fields.is_sorted_by(|one, other| one.as_str() < other.as_str()));
        let key = vary_key(&fields, &request);
        assert_eq!(key.is_empty(), fields.is_empty());
        assert_eq!(key, vary_key(&fields, &request.clone()));
    }
    assert!(accept_encodings().any(|one| one == accept_encoding(&request)));

    let stripped = end_to_end(&response);
    assert_eq!(end_to_end(&stripped), stripped);
    assert!(!stripped.contains_key("connection") && !stripped.contains_key("transfer-encoding"));
    let asked = upstream(&request);
    assert_eq!(upstream(&asked), asked);
    let mut asked = HeaderMap::new();
    validators(&response, &mut asked);
    not_modified(&response);
    let stays = kept(&response, received);
    assert_eq!(kept(&stays, received), stays);
    if let Ok(merged) = freshen(&response, &news) {
        assert!(freshen(&merged, &HeaderMap::new()).is_ok());
    }
    for path in invalidated_too("a.test", "/x?y", &response) {
        assert!(path.starts_with('/'));
    }
});
