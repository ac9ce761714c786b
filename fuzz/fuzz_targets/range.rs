//! The bytes of a body that a request selects (sections: length; request; stored head), compared with a naive model, a
//! set of wanted bytes. And the same request as one for a part of a sliced body, with the head as the response to it.
#![no_main]

use fuzz::{headers, sections, text};
use http::{Method, Response, StatusCode};
use httpcache::{Answer, ByteRange, Multipart, RANGES_MAX, answer, continues};
use libfuzzer_sys::fuzz_target;

/// Bodies up to this length are compared byte by byte.
const NAIVE_MAX: u64 = 4096;

fuzz_target!(|bytes: &[u8]| {
    let mut sections = sections(bytes);
    let mut next = || sections.next().unwrap_or_default();
    let length: u64 = text(next()).and_then(|text| text.parse().ok()).unwrap_or(1000);
    let (request, stored) = (headers(next()), headers(next()));

    let answered = answer(&Method::GET, &request, StatusCode::OK, &stored, Some(length));
    let (_, head) = answered.head(StatusCode::OK, &stored, Some(length));
    let parts = match &answered {
        Answer::Part(part) => vec![*part],
        Answer::Parts(parts) => parts.clone(),
        _ => Vec::new(),
    };
    let inside = |part: &ByteRange| part.start < part.end && part.end <= length;
    assert!(parts.iter().all(inside) && parts.len() <= RANGES_MAX);
    let sum = parts.iter().map(ByteRange::length).try_fold(0_u64, u64::checked_add);
    assert!(sum.is_some_and(|sum| sum <= length), "no byte twice: {parts:?}");
    if let [part] = parts.as_slice() {
        assert_eq!(head["content-length"], part.length().to_string().as_str());
        assert_eq!(head["content-range"], format!("bytes {}-{}/{length}", part.start, part.end - 1).as_str());
    }
    if parts.len() > 1 {
        let multipart = Multipart::new("x", &parts, None, length);
        let heads: u64 = multipart.parts.iter().map(|(head, part)| head.len() as u64 + part.length()).sum();
        assert_eq!(multipart.length, heads + multipart.end.len() as u64);
    }
    if length <= NAIVE_MAX
        && let Some(wanted) = request.get("range").and_then(|range| wanted(range.to_str().ok()?, length))
    {
        let sent: Vec<bool> =
            (0..length).map(|at| parts.iter().any(|part| (part.start..part.end).contains(&at))).collect();
        match answered {
            Answer::Part(_) | Answer::Parts(_) => {
                assert!(wanted.iter().zip(&sent).all(|(wanted, sent)| *sent || !wanted), "{parts:?}");
                assert!(parts.iter().all(|part| wanted[part.start as usize] && wanted[part.end as usize - 1]));
            }
            Answer::Unsatisfiable => assert!(!wanted.contains(&true)),
            _ => {}
        }
    }
    for from in [0, length / 2, length] {
        continues(&stored, from, length, StatusCode::PARTIAL_CONTENT, &request);
    }

    let (mut answer, ()) = Response::new(()).into_parts();
    (answer.status, answer.headers) = (StatusCode::PARTIAL_CONTENT, stored);
    node::fuzzing::slice(&request, answer);
});

/// The bytes that a `Range` of the plain grammar selects (RFC 9110 §14.1.2); `None` for any other.
fn wanted(range: &str, length: u64) -> Option<Vec<bool>> {
    let mut wanted = vec![false; length as usize];
    for spec in range.strip_prefix("bytes=")?.split(',') {
        let (first, last) = spec.trim().split_once('-')?;
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
        let (start, end) = match (first, last) {
            ("", last) => (length.saturating_sub(number(last)?), length),
            (first, "") => (number(first)?, length),
            (first, last) => (number(first)?, number(last)?.saturating_add(1).min(length)),
        };
        (start..end).for_each(|at| wanted[at as usize] = true);
    }
    Some(wanted)
}
