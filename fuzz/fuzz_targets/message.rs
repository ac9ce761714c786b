//! Heads of HTTP messages after the parser (sections: method, target and version with the fields of a request; status
//! with the fields of a response): messages that two readers might delimit differently are refused, and what a request
//! says about its sender is believed only with the credential.
#![no_main]

use std::sync::LazyLock;

use fuzz::{headers, line, sections, text};
use http::{Request, Response, StatusCode, Version};
use libfuzzer_sys::fuzz_target;
use node::fuzzing::{CREDENTIAL, Peers};

static PEERS: LazyLock<Peers> = LazyLock::new(Peers::default);

fuzz_target!(|bytes: &[u8]| {
    let mut sections = sections(bytes);
    let mut next = || sections.next().unwrap_or_default();
    let (start, fields) = line(next());
    let mut words = text(start).unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default();
    let mut fields = headers(fields);
    let request = Request::builder().method(word()).uri(word()).version(match word() {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    });
    if let Ok(request) = request.body(()) {
        let (mut head, ()) = request.into_parts();
        head.headers = fields.clone();
        node::fuzzing::request_head(head);
    }
    PEERS.caller(fields.clone());
    fields.insert("warmfront-credential", http::HeaderValue::from_static(CREDENTIAL));
    PEERS.caller(fields);

    let (status, fields) = line(next());
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_bytes(status).unwrap_or(StatusCode::OK);
    head.headers = headers(fields);
    node::fuzzing::answer_head(head);
});
