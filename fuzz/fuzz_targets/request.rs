//! Calls of the public API: either a raw request (sections: method and query, then header fields; body), signed by V1,
//! by V3 or not at all; or, after `!`, an action, its version and its parameters in lines, signed as a client does. The
//! whole processing of the API layer runs, for every profile; the reply is valid JSON or XML.
#![no_main]

use std::time::{Duration, SystemTime};

use aliyun::{
    AccessKey, Ask, Call, Description, Envelope, Format, FunctionRow, Incoming, LINE_CHARACTERS_MAX, Page, Product,
    Profile, Refusal, Rendered, Reply, Request, Rules, TaskRow, TaskStatus, TaskType, call, encode_pairs, read, refuse,
    render, sign_v1, sign_v3,
};
use fuzz::{cut, headers, line, sections, text};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "secret";

fuzz_target!(|bytes: &[u8]| {
    match bytes.strip_prefix(b"!") {
        Some(asked) => _ = text(asked).map(signed),
        None => raw(bytes),
    }
});

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045) // 2026-01-02T03:04:05Z
}

fn raw(bytes: &[u8]) {
    let (head, body) = match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &b""[..]),
    };
    debug_assert!(sections(bytes).next() == Some(head));
    let (start, fields) = line(head);
    let (method, query) = cut(start, b' ').unwrap_or((start, b""));
    let Ok(method) = Method::from_bytes(method) else { return };
    // The HTTP parser lets no other bytes through.
    let Some(query) = text(query).filter(|query| query.bytes().all(|byte| byte.is_ascii_graphic())) else { return };
    let headers = headers(fields);
    drive(&Incoming { method: &method, path: "/", query, headers: &headers, body });
}

/// A request signed by our client is read and verified, and refused after any change.
fn signed(asked: &str) {
    let mut lines = asked.lines();
    let (action, version) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or(("DescribeRefreshQuota", ""));
    let (version, rest) = version.split_once(' ').unwrap_or((version, ""));
    let pair = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name.to_owned(), value.replace("\\n", "\n"))
    };
    let params: Vec<(String, String)> = lines.map(pair).collect();
    let ask = Ask { method: &Method::POST, action, version, now: now(), nonce: "n" };
    let key = AccessKey { id: "key", secret: SECRET };
    let (mut headers, mut query, mut body) = (HeaderMap::new(), String::new(), encode_pairs(&params));
    if rest == "v3" {
        for (name, value) in sign_v3(key, ask, "a.com:9680", &[], body.as_bytes(), &[]) {
            let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) else { return };
            headers.insert(name, value);
        }
    } else {
        let pairs = sign_v1(key, ask, &params);
        let (one, other) = pairs.split_at(pairs.len() / 2);
        (query, body) = (encode_pairs(one), encode_pairs(other));
    }
    let incoming =
        Incoming { method: &Method::POST, path: "/", query: &query, headers: &headers, body: body.as_bytes() };
    if let Some(request) = drive(&incoming) {
        assert!(request.verify(SECRET).is_ok(), "what we sign we take");
        assert!(request.verify("another").is_err());
    }
}

/// The whole processing of a request.
fn drive(incoming: &Incoming<'_>) -> Option<Request> {
    let format = Format::of(incoming);
    let told = |refusal: &Refusal| {
        let host = incoming.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        check(
            &refuse(refusal, Envelope { request_id: "R", host, https: false, product: Product::Cdn, format }),
            format,
        );
    };
    let request = match read(incoming) {
        Ok(request) => request,
        Err(refusal) => {
            told(&refusal);
            return None;
        }
    };
    let _ = (request.check_window(now()), format!("{request:?}"));
    if let Err(refusal) = request.verify(SECRET) {
        told(&refusal);
    }
    // Either way of reading paths, chosen by something that a fuzzer can change.
    let rules = Rules { unescape_paths: request.nonce.len() % 2 == 0, ..Rules::default() };
    for profile in Profile::names() {
        match call(&request, Profile::named(profile).expect("it is a name"), rules, now()) {
            Ok(call) => check(&render(&request, "R", &reply(&call)), request.format),
            Err(refusal) => told(&refusal),
        }
    }
    Some(request)
}

/// A reply that contains the parameters of the call.
fn reply(call: &Call) -> Reply {
    let row = |path: &str| TaskRow {
        id: 1,
        path: path.to_owned(),
        kind: TaskType::File,
        status: TaskStatus::Failed,
        done: 0,
        total: 1,
        created_at: now(),
        description: Description::Text(path.to_owned()),
    };
    let page = Page { number: 1, size: 20 };
    let paths = match call {
        Call::Prefetch(prefetch) => &prefetch.paths,
        Call::Refresh(refresh) => &refresh.paths,
        Call::SetFunctions(set) => {
            let row = |function: &aliyun::SetFunction| FunctionRow {
                id: 1,
                name: function.name.clone(),
                args: function.args.clone(),
                parent: function.parent,
            };
            return Reply::Functions { rows: set.functions.iter().map(row).collect(), configured: true };
        }
        _ => return Reply::Done,
    };
    for path in paths {
        assert!(path.text.starts_with("http") && path.key.path_and_query().starts_with('/'));
        // Escaping turns one byte into three, and a character has up to four bytes.
        assert!(path.text.len() <= 12 * LINE_CHARACTERS_MAX + "https://".len());
    }
    Reply::Tasks { page, total: 1, rows: paths.iter().map(|path| row(&path.text)).collect() }
}

fn check(rendered: &Rendered, format: Format) {
    let body = std::str::from_utf8(&rendered.body).expect("answers are text");
    match format {
        Format::Json => _ = serde_json::from_str::<serde_json::Value>(body).expect("JSON"),
        Format::Xml => assert!(is_xml(body), "{body}"),
    }
}

/// Whether every element is closed and the text has no forbidden characters (XML 1.0 §2.2, §2.4).
fn is_xml(body: &str) -> bool {
    let Some(mut rest) = body.strip_prefix("<?xml version='1.0' encoding='UTF-8'?>\n") else { return false };
    let mut open: Vec<&str> = Vec::new();
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        if text.contains("]]>") || text.chars().any(|c| c < ' ' && !matches!(c, '\t' | '\n')) {
            return false;
        }
        if let Some(data) = tag.strip_prefix("<![CDATA[") {
            let Some((_, behind)) = data.split_once("]]>") else { return false };
            rest = behind;
            continue;
        }
        let Some((tag, behind)) = tag[1..].split_once('>') else { return false };
        rest = behind;
        match tag.strip_prefix('/') {
            Some(name) if open.pop() != Some(name) => return false,
            Some(_) => {}
            None if tag.is_empty() || tag.contains(['<', ' ', '&', '"']) => return false,
            None => open.push(tag),
        }
    }
    open.is_empty() && rest.is_empty()
}
