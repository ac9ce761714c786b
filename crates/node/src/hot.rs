//! The fast path of plain hits, answered below hyper: a plain GET over HTTP/1.1 for a small, fresh object in memory.
//!
//! Apart from the kernel's part, most of the cost of such a hit is work that hyper and the pipeline do for more
//! demanding requests. So a connection inspects the bytes it read before it hands them up: a request whose answer only
//! the judgement can change is answered at once, from a head that is kept ready beside the object; everything else goes
//! to hyper as it came.
//!
//! # What always holds
//!
//! - The answer is the one that the pipeline would give, except for the order of its fields. Anything that might change
//!   it (a field not known to be harmless, a function of the domain, a condition, an odd byte) leaves the request to
//!   the pipeline.
//! - Like every other answer, it is judged right before its header is written, by [`crate::knowing::Knowing::judge`]
//!   (rule 3), and its judgement is held until the kernel has the header (rule 6).
//! - It is counted and logged like every other.
//!
//! # Not here
//!
//! Whether hyper holds unanswered bytes of the client: `connection` does not ask here then.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, DATE};
use http::{HeaderMap, Method, StatusCode};
use httpcache::{Allowed, Decision};
use model::fence::{Asker, Verdict, Vouched};
use model::{Revision, UrlKey};

use crate::access::Record;
use crate::exchange::{Counted, Exchange, REQUEST_ID};
use crate::framing::URL_BYTES_MAX;
use crate::functions::keep;
use crate::head::{self, Head, ObjectKey, Stored};
use crate::knowing::Named;
use crate::listener::{Handoff, REQUESTS_MAX};
use crate::metrics::XCache;
use crate::respond::{Signs, X_CACHE};

/// Most fields of a request that is considered here.
const FIELDS_MAX: usize = 32;

/// Request fields that never change a hit, whatever their value. Where an answer of the pipeline depends on a request
/// field, it is one that is not listed here.
const HARMLESS: [&str; 19] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cookie",
    "dnt",
    "origin",
    "priority",
    "referer",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "upgrade-insecure-requests",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-real-ip",
];

/// The kind of request that a client's bytes are.
pub(crate) enum Seen<T = Box<Hit>> {
    /// A hit.
    Hit(T),
    /// One whole request without content, and no byte after it.
    Whole,
    /// Anything else.
    Other,
}

/// A hit while it is written.
pub(crate) struct Hit {
    head: Vec<u8>,
    /// Its whole body is in memory, and stays there for as long as this is held.
    object: store::Object,
    /// Bytes of head and body written so far.
    written: usize,
    /// The judged header, until it is written.
    judged: Option<u64>,
    exchange: Exchange,
}

impl Hit {
    fn body(&self) -> &[u8] {
        self.object.body().map_or(&[], |body| body)
    }

    /// The bytes left to write; both slices are empty at the end.
    pub(crate) fn rest(&self) -> [IoSlice<'_>; 2] {
        let head = self.head.get(self.written..).unwrap_or_default();
        let body = self.body().get(self.written.saturating_sub(self.head.len())..).unwrap_or_default();
        [IoSlice::new(head), IoSlice::new(body)]
    }

    /// Whether all of it was written.
    pub(crate) fn is_written(&self) -> bool {
        self.written >= self.head.len() + self.body().len()
    }

    /// Notes that so many bytes of it were written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        let before = self.written.max(self.head.len());
        self.written += bytes;
        if self.written >= self.head.len()
            && let Some(judged) = self.judged.take()
        {
            self.exchange.handoff().written(judged);
            self.exchange.handoff().head_sent();
        }
        let of_body = self.written.saturating_sub(before);
        let metrics = self.exchange.handoff().metrics();
        metrics.bytes_sent.add(of_body as u64);
        metrics.bytes_stored.add(of_body as u64);
        self.exchange.gave(of_body);
        if self.is_written() {
            self.exchange.ends();
        }
    }
}

/// Inspects the bytes a client sent, while hyper holds no unanswered bytes of it.
pub(crate) fn see(handoff: &Arc<Handoff>, bytes: &[u8]) -> Seen {
    look(bytes, |host, path, fields| {
        let record = || {
            let value = |name: &str| fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            Record::new("GET", path, "HTTP/1.1", |name| value(name).map_or(b"", |field| field.value))
        };
        hit(handoff, host, path, record).map(Box::new)
    })
}

/// Finds out whether bytes are one plain request; if so, calls `hit` with its host, path and fields.
pub(crate) fn look<T>(bytes: &[u8], hit: impl FnOnce(&str, &str, &[httparse::Header<'_>]) -> Option<T>) -> Seen<T> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        _ => return Seen::Other,
    }
    let (Some(method), Some(path), Some(1)) = (request.method, request.path, request.version) else {
        return Seen::Other;
    };
    let mut is_plain = method == "GET";
    if !is_plain && method != "HEAD" {
        return Seen::Other;
    }
    let mut host = None;
    for field in request.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            is_plain &= host.replace(field.value).is_none();
        } else if is("content-length") || is("transfer-encoding") || is("upgrade") || is("expect") {
            return Seen::Other;
        } else if is("connection") {
            is_plain &= field.value.eq_ignore_ascii_case(b"keep-alive");
        } else {
            is_plain &= HARMLESS.into_iter().any(is);
        }
    }
    let Some(host) = host.and_then(plain_host).filter(|_| is_plain && is_plain_path(path)) else {
        return Seen::Whole;
    };
    match hit(host, path, request.headers) {
        Some(hit) => Seen::Hit(hit),
        None => Seen::Whole,
    }
}

/// The name in a `Host`, if it is lower case and plain.
fn plain_host(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let (name, port) = value.split_once(':').unwrap_or((value, "80"));
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let good = !name.is_empty() && name.bytes().all(plain) && !port.is_empty() && port.len() <= 5;
    (good && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

/// Whether a target is a path and query of plain characters alone (RFC 3986 §3.3, §3.4).
fn is_plain_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    path.starts_with('/') && path.len() <= URL_BYTES_MAX && path.bytes().all(plain)
}

fn hit(handoff: &Arc<Handoff>, host: &str, path: &str, record: impl FnOnce() -> Record) -> Option<Hit> {
    let front = &handoff.front;
    let (pipeline, knowing) = (&front.pipeline, front.pipeline.knowing());
    // These answers have to carry `Connection: close`, which the way through hyper adds.
    if front.draining.is_cancelled() || handoff.turn.begun() + 1 >= REQUESTS_MAX {
        return None;
    }
    let url = UrlKey::new(host, path).ok()?;
    let (tag, slot) = {
        let known = knowing.known();
        let domain = known.knowledge.domain_for(host)?;
        let plain =
            known.serves() && domain.online && domain.functions.is_empty() && handoff.is_for(domain, &known.knowledge);
        plain.then_some((known.tag, known.sites.slot(domain)?))?
    };
    let key = ObjectKey::bare(&url);
    let object = pipeline.store().lookup_in_memory(key.hash(), key.bytes())?;
    if object.body().is_none() || pipeline.store().is_short() {
        return None;
    }
    let Some((log, Stored::Object(head))) = head::read(&object) else { return None };
    if *log != tag || head.status != StatusCode::OK || head.slices.is_some() {
        return None;
    }
    let ready = head.ready.get_or_init(|| ready(head, object.length(), pipeline.signs()));
    if ready.is_empty() {
        return None;
    }
    let at = pipeline.fills().vouched.get(key.hash(), object.generation());
    let vouched = Vouched { stamp: Revision(object.stamp()), at };
    let mut judging = knowing.judging();
    let judged = knowing.judge(&mut judging, vouched, *log, Named::own(&url), Some(&head.headers), Asker::User)?;
    let now = knowing.clock().now();
    let serves = judged.verdict == Verdict::Send
        && matches!(
            httpcache::decide(&Method::GET, &HeaderMap::new(), Some((&head.freshness, Allowed::Send)), now),
            Decision::Serve { .. }
        );
    if !serves {
        return None;
    }
    pipeline.store().note_hit(&object);
    let mut exchange = Exchange::begin(handoff.clone(), now, record);
    let _ = exchange.counted().set(Counted { slot, url, hash: None });
    let (age, ttl) = (head.freshness.age(now).as_secs(), head.freshness.ttl(now));
    let (mut age_text, mut ttl_text) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (age, ttl) = (age_text.format(age), ttl_text.format(ttl));
    let hit = &pipeline.signs().cache_status_hit;
    let mut text = Vec::with_capacity(ready.len() + hit.len() + 160);
    text.extend_from_slice(ready);
    let id = exchange.id().as_str();
    for part in ["age: ", age, "\r\ncache-status: ", hit, "; ttl=", ttl, "\r\nx-request-id: ", id, "\r\n\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    exchange.answers(StatusCode::OK, Some(XCache::Hit));
    handoff.metrics().hot.inc();
    let judged = Some(handoff.judged(judging));
    Some(Hit { head: text, object, written: 0, judged, exchange })
}

/// The part of an answer's head that is the same for every plain hit; empty if hyper would add a field to it, or
/// functions left something in it.
fn ready(head: &Head, length: u64, signs: &Signs) -> Bytes {
    if !head.headers.contains_key(DATE) || keep::is_marked(&head.headers) {
        return Bytes::new();
    }
    let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
    let mut line = |name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    };
    // The node sends values of its own for these.
    for (name, value) in
        head.headers.iter().filter(|(name, _)| ![AGE, CONTENT_LENGTH, X_CACHE, REQUEST_ID].contains(name))
    {
        line(name.as_str().as_bytes(), value.as_bytes());
    }
    line(b"via", signs.via.as_bytes());
    line(b"x-cache", signs.x_cache(XCache::Hit).as_bytes());
    line(b"content-length", length.to_string().as_bytes());
    Bytes::from(text)
}
