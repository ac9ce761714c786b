//! Requests for the tests of actions and replies, signed as a client would.

use std::time::{Duration, SystemTime};

use aliyun::{AccessKey, Ask, Incoming, Request, encode_pairs, read, sign_v1};
use http::{HeaderMap, Method};

/// 2026-01-02T03:04:05Z
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

/// A request that was read; `version` may be followed by ` XML`.
pub(crate) fn request(version: &str, action: &str, params: &[(&str, &str)]) -> Request {
    let (version, format) = version.split_once(' ').unwrap_or((version, "JSON"));
    let ask = Ask { method: &Method::POST, action, version, now: now(), nonce: "n" };
    let params: Vec<(String, String)> =
        params.iter().chain(&[("Format", format)]).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let body = encode_pairs(&sign_v1(AccessKey { id: "key", secret: "secret" }, ask, &params));
    let headers = HeaderMap::new();
    let incoming = Incoming { method: &Method::POST, path: "/", query: "", headers: &headers, body: body.as_bytes() };
    read(&incoming).expect("the request is in order")
}
