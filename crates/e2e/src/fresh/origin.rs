//! An origin with versioned objects: one register per path, read at the moment a request arrives.
//!
//! It answers at once, slowly, or in trickles, by chance, so that fills overlap refreshes; a slow answer has the
//! version that was current when its request arrived. The name of an object determines how it is served ([`Kind`]).
//!
//! # What always holds
//!
//! - A version set before a request arrived is the oldest that the request is answered with.
//! - Equal validators mean equal bytes; different versions differ in all bytes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_LENGTH, ETAG, HeaderName, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Dice;

/// The header with the version of a body.
pub const VERSION: HeaderName = HeaderName::from_static("x-version");

/// The directories.
pub const DIRECTORIES: [&str; 4] = ["/d0/", "/d1/", "/d1/deep/", "/d2/"];

/// Objects of each directory.
const OBJECTS: [(&str, Kind); 8] = [
    ("a", Kind::Plain),
    ("b", Kind::Plain),
    ("vary", Kind::Vary),
    ("bare", Kind::Bare),
    ("large", Kind::Large),
    ("swr", Kind::Swr),
    ("no-store", Kind::NoStore),
    ("chunked", Kind::Chunked),
];

/// The languages of objects that vary by language.
pub const LANGUAGES: [&str; 2] = ["de", "zh"];

/// Bytes of a body.
const BYTES: usize = 3_000;
const LARGE_BYTES: usize = 200_000;

/// How an object is served; all but two kinds have `max-age=3600` and an ETag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing special.
    Plain,
    /// In two languages.
    Vary,
    /// Without a validator.
    Bare,
    /// In many pieces.
    Large,
    /// Fresh for a second, then stale-while-revalidate and stale-if-error apply.
    Swr,
    /// Not to be stored.
    NoStore,
    /// Without a length.
    Chunked,
}

/// The kind of an object.
pub fn kind(path: &str) -> Kind {
    let name = path.rsplit('/').next().unwrap_or_default();
    OBJECTS.iter().find(|(known, _)| *known == name).map_or(Kind::Plain, |(_, kind)| *kind)
}

/// Every object there is.
pub fn paths() -> Vec<String> {
    DIRECTORIES.iter().flat_map(|folder| OBJECTS.iter().map(move |(name, _)| format!("{folder}{name}"))).collect()
}

/// The bytes of an object in a version.
pub fn body(path: &str, version: u64, language: &str) -> Bytes {
    let bytes = if kind(path) == Kind::Large { LARGE_BYTES } else { BYTES };
    Bytes::from(crate::nginx::pattern(&format!("{path} {version} {language}"), bytes))
}

/// How often the origin is slow, in percent of its answers.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Answers that begin up to 200 ms late.
    pub late: u64,
    /// Answers that begin up to 2 s late.
    pub very_late: u64,
    /// Large answers that trickle for up to a second.
    pub trickle: u64,
}

impl Pace {
    /// Everything at once.
    pub const QUICK: Pace = Pace { late: 0, very_late: 0, trickle: 0 };
    /// A realistic mix.
    pub const MIXED: Pace = Pace { late: 15, very_late: 5, trickle: 30 };
}

#[derive(Debug)]
struct Shared {
    versions: BTreeMap<String, AtomicU64>,
    pace: Mutex<(Pace, Dice)>,
    gets: AtomicU64,
    confirmed: AtomicU64,
}

/// A running origin; it ends when dropped.
#[derive(Debug)]
pub struct Origin {
    /// Its loopback port.
    pub port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// An origin with every object in version 1.
    pub async fn start(pace: Pace, dice: Dice) -> io::Result<Origin> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            versions: paths().into_iter().map(|path| (path, AtomicU64::new(1))).collect(),
            pace: Mutex::new((pace, dice)),
            gets: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Origin { port, shared, accepting })
    }

    /// Changes an object; returns its new version, or a later one.
    pub fn change(&self, path: &str) -> u64 {
        self.shared.versions.get(path).map_or(0, |version| version.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// The version an object has.
    pub fn version(&self, path: &str) -> u64 {
        self.shared.versions.get(path).map_or(0, |version| version.load(Ordering::SeqCst))
    }

    /// Sets the pace from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.shared.pace.lock().expect("no holder of this lock can panic").0 = pace;
    }

    /// Answers so far: with a body, and with 304.
    pub fn answers(&self) -> (u64, u64) {
        (self.shared.gets.load(Ordering::Relaxed), self.shared.confirmed.load(Ordering::Relaxed))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut dated = false;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        // With and without a Date: a node whose wall clock is ahead considers dated answers old, and asks again all the
        // time.
        dated = !dated;
        let shared = shared.clone();
        let service = service_fn(move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(shared.answer(&request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).auto_date_header(dated);
        tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
    }
}

impl Shared {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Channel<Bytes>> {
        let path = request.uri().path();
        // The register is read here; everything after may be slow.
        let Some(version) = self.versions.get(path).map(|version| version.load(Ordering::SeqCst)) else {
            return respond(StatusCode::NOT_FOUND, HeaderMap::new(), Channel::new(1).1);
        };
        let (late, trickle) = self.falls();
        tokio::time::sleep(late).await;

        let kind = kind(path);
        let language = match request.headers().get(ACCEPT_LANGUAGE).map(|value| value.as_bytes()) {
            Some(b"zh") if kind == Kind::Vary => "zh",
            _ if kind == Kind::Vary => "de",
            _ => "",
        };
        let tag = format!("\"{version}{language}\"");
        let directives = match kind {
            Kind::NoStore => "no-store",
            Kind::Swr => "max-age=1, stale-while-revalidate=60, stale-if-error=60",
            _ => "max-age=3600",
        };
        let mut headers = HeaderMap::new();
        headers.insert(VERSION, version.into());
        headers.insert(CACHE_CONTROL, http::HeaderValue::from_static(directives));
        if kind == Kind::Vary {
            headers.insert(VARY, http::HeaderValue::from_static("accept-language"));
        }
        if kind != Kind::Bare {
            headers.insert(ETAG, tag.parse().expect("digits and letters are a header value"));
            if request.headers().get(IF_NONE_MATCH).is_some_and(|shown| shown.as_bytes() == tag.as_bytes()) {
                self.confirmed.fetch_add(1, Ordering::Relaxed);
                return respond(StatusCode::NOT_MODIFIED, headers, Channel::new(1).1);
            }
        }
        self.gets.fetch_add(1, Ordering::Relaxed);
        let whole = body(path, version, language);
        if kind != Kind::Chunked {
            headers.insert(CONTENT_LENGTH, whole.len().into());
        }
        let pieces = if kind == Kind::Large { 10 } else { 1 };
        let pause = if kind == Kind::Large { trickle / pieces } else { Duration::ZERO };
        let (mut sender, body) = Channel::new(2);
        tokio::spawn(async move {
            let size = whole.len().div_ceil(pieces as usize);
            let mut rest = whole;
            while !rest.is_empty() {
                let piece = rest.split_to(size.min(rest.len()));
                if sender.send_data(piece).await.is_err() {
                    return; // the node has gone
                }
                tokio::time::sleep(pause).await;
            }
        });
        respond(StatusCode::OK, headers, body)
    }

    /// The delay of an answer, and the duration of its body.
    fn falls(&self) -> (Duration, Duration) {
        let mut pace = self.pace.lock().expect("no holder of this lock can panic");
        let (pace, dice) = &mut *pace;
        let fallen = dice.below(100);
        let late = if fallen < pace.very_late {
            dice.millis(200..2_000)
        } else if fallen < pace.very_late + pace.late {
            dice.millis(10..200)
        } else {
            Duration::ZERO
        };
        let trickle = if dice.chance(pace.trickle) { dice.millis(100..1_000) } else { Duration::ZERO };
        (late, trickle)
    }
}

fn respond(status: StatusCode, headers: HeaderMap, body: Channel<Bytes>) -> Response<Channel<Bytes>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
