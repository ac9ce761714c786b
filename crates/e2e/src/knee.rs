//! A scripted origin: it handles a fixed number of requests at a time, each for a fixed time; others wait in line. It
//! records every request, and stalls or asks to come back later on command. Also users who request objects that no node
//! has stored.
//!
//! # Not here
//!
//! CPU time: bodies are small, and the delays of this origin are artificial.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, RETRY_AFTER, VIA};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::http as client;
use crate::stage::DOMAIN;

/// Number of requests handled concurrently.
pub const WORKERS: usize = 32;

/// Time to handle each.
pub const SERVICE: Duration = Duration::from_millis(50);

/// Bytes of a body.
const BODY: usize = 1024;

/// Maximum number of requests recorded.
const REMEMBERED_MAX: usize = 1_000_000;

/// A request received by the origin.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it arrived.
    pub at: Instant,
    /// Whether it is a user's, judging by its path.
    pub by_user: bool,
    /// `Via`: identifies the root.
    pub via: String,
    /// Requests in progress when it arrived, including this one.
    pub under_way: usize,
    /// Prefetches among those.
    pub prefetches: usize,
    /// Whether it was asked to come back later.
    pub refused: bool,
}

/// The origin.
#[derive(Debug)]
pub struct Knee {
    /// Where it listens on loopback.
    pub port: u16,
    work: Arc<Work>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Work {
    workers: Semaphore,
    users: AtomicUsize,
    prefetches: AtomicUsize,
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Clone, Copy, Debug)]
struct Script {
    stands_still_until: Instant,
    refuses_until: Instant,
}

impl Work {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no holder of this lock can panic")
    }

    fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().expect("no holder of this lock can panic")
    }

    fn note(&self, one: Asked) {
        let mut asked = self.asked();
        if asked.len() < REMEMBERED_MAX {
            asked.push(one);
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let (at, by_user) = (Instant::now(), path.starts_with("/user/"));
        let count = if by_user { &self.users } else { &self.prefetches };
        count.fetch_add(1, Ordering::SeqCst);
        let prefetches = self.prefetches.load(Ordering::SeqCst);
        let refuses_until = self.script().refuses_until;
        let refused = at < refuses_until;
        let via = request.headers().get(VIA).and_then(|via| via.to_str().ok()).unwrap_or_default().to_owned();
        let under_way = self.users.load(Ordering::SeqCst) + prefetches;
        self.note(Asked { at, by_user, via, under_way, prefetches, refused });
        let builder = Response::builder();
        let answer = if refused {
            let after = (refuses_until - at).as_secs() + 1;
            builder.status(StatusCode::SERVICE_UNAVAILABLE).header(RETRY_AFTER, after).body(Full::default())
        } else {
            let _worker = self.workers.acquire().await;
            loop {
                let until = self.script().stands_still_until;
                if until <= Instant::now() {
                    break;
                }
                tokio::time::sleep_until(until).await;
            }
            tokio::time::sleep(SERVICE).await;
            builder
                .header(CACHE_CONTROL, "max-age=3600")
                .header(ETAG, format!("\"{path}\""))
                .body(Full::new(Bytes::from(vec![b'k'; BODY])))
        };
        count.fetch_sub(1, Ordering::SeqCst);
        answer.expect("its parts are in order")
    }
}

impl Knee {
    /// Starts the origin.
    pub async fn start() -> anyhow::Result<Knee> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (port, now) = (listener.local_addr()?.port(), Instant::now());
        let work = Arc::new(Work {
            workers: Semaphore::new(WORKERS),
            users: AtomicUsize::new(0),
            prefetches: AtomicUsize::new(0),
            script: Mutex::new(Script { stands_still_until: now, refuses_until: now }),
            asked: Mutex::default(),
        });
        let works = work.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let work = works.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let work = work.clone();
                    async move { Ok::<_, std::convert::Infallible>(work.answer(&request).await) }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Ok(Knee { port, work, accepting })
    }

    /// Serves nobody for this time.
    pub fn stand_still(&self, time: Duration) {
        self.work.script().stands_still_until = Instant::now() + time;
    }

    /// Refuses all requests for this time, asking to come back after it.
    pub fn refuse(&self, time: Duration) {
        self.work.script().refuses_until = Instant::now() + time;
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.work.asked().clone()
    }

    /// Number of prefetches served in a period.
    pub fn prefetches(&self, from: Instant, to: Instant) -> usize {
        let asked = self.work.asked();
        asked.iter().filter(|asked| !asked.by_user && !asked.refused && (from..to).contains(&asked.at)).count()
    }
}

impl Drop for Knee {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A user's request, with its waiting time.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// When it was sent.
    pub at: Instant,
    /// How long the answer took.
    pub time: Duration,
    /// Whether the answer was right.
    pub well: bool,
}

/// Users who request objects that no node has, at a steady rate, until dropped.
#[derive(Debug)]
pub struct Users {
    over: Arc<AtomicBool>,
    waited: Arc<Mutex<Vec<Waited>>>,
}

impl Users {
    /// Starts one user's request per interval `every`, at the edge on this port.
    pub fn begin(edge: u16, every: Duration) -> Users {
        let users = Users { over: Arc::default(), waited: Arc::default() };
        let (over, waited) = (users.over.clone(), users.waited.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for n in 0_u64.. {
                ticks.tick().await;
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let waited = waited.clone();
                tokio::spawn(async move {
                    let at = Instant::now();
                    let answer = client::get(edge, DOMAIN, &format!("/user/{n}"), &[]).await;
                    let well = answer.is_ok_and(|answer| answer.status == 200);
                    let one = Waited { at, time: at.elapsed(), well };
                    waited.lock().expect("no holder of this lock can panic").push(one);
                });
            }
        });
        users
    }

    /// Requests sent in a period.
    pub fn waited(&self, from: Instant, to: Instant) -> Vec<Waited> {
        let waited = self.waited.lock().expect("no holder of this lock can panic");
        waited.iter().filter(|waited| (from..to).contains(&waited.at)).copied().collect()
    }

    /// The 99th percentile of their waiting times.
    pub fn p99(&self, from: Instant, to: Instant) -> Duration {
        let mut times: Vec<Duration> = self.waited(from, to).iter().map(|waited| waited.time).collect();
        times.sort();
        times.get(times.len() * 99 / 100).copied().unwrap_or_default()
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// Prefetches, by root, that were served inside the windows in which the origin asked to be left alone: a root may have
/// some in flight when it is told first, and learns what another was told within `word`.
pub fn inside(asked: &[Asked], window: (Instant, Instant), word: Duration) -> Vec<Asked> {
    let told = asked.iter().filter(|asked| asked.refused && asked.at >= window.0).map(|asked| asked.at).min();
    let Some(told) = told else { return Vec::new() };
    let is_inside = |asked: &&Asked| !asked.by_user && asked.at > told + word && asked.at < window.1;
    asked.iter().filter(is_inside).cloned().collect()
}
