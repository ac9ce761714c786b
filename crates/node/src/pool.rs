//! Connections to parents and origins: opened, kept for the next request, and closed.
//!
//! HTTP/1.1, one request at a time on each. The other end may close a kept connection at the very moment it is reused,
//! which does not mean that the other end is unwell. Such a request is sent once more on a new connection, where that
//! is safe (RFC 9110 §9.2.2, RFC 9112 §9.3.1).
//!
//! # What always holds
//!
//! - A request is sent a second time only if nothing of it was sent, or if it is safe, has no body and no part of an
//!   answer came.
//! - A connection takes another request only after its last answer was read to the end, and for at most [`REUSED_FOR`]
//!   after it was opened, so that a name that moves is followed.
//! - Every wait has a bound: for a connection and for the first byte here, for each next piece of a body at its reader
//!   ([`crate::upstream::BODY_SILENCE_MAX`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::framing::{self, ANSWER_BYTES_MAX, ANSWER_FIELDS_MAX};
use crate::interim::Interim;
use crate::metrics::{Counter, Gauge, Page};
use crate::network::{Endpoint, Network};
use crate::upload::{self, Watched};
use crate::upstream::{UpBody, no_body, words};

/// Idle connections kept to one endpoint and to all of them, and for how long.
const IDLE_PER_ENDPOINT_MAX: usize = 128;
const IDLE_ALL_MAX: usize = 4096;
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long after it was opened a connection takes requests.
const REUSED_FOR: Duration = Duration::from_secs(60);

/// How often expired connections are closed.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// A request without its body.
pub(crate) struct Message<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a PathAndQuery,
    pub(crate) headers: &'a HeaderMap,
    /// Where interim answers go.
    pub(crate) interim: Option<&'a Interim>,
}

/// The longest waits of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For a connection, including DNS.
    pub(crate) connect: Duration,
    /// For the other end to read any part of the request's body that is ready.
    pub(crate) takes: Duration,
    /// For the first byte of an answer, from when all of the request is sent.
    pub(crate) first_byte: Duration,
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) problem: String,
    /// Nothing was sent: another endpoint may be asked, whatever the request is.
    pub(crate) unsent: bool,
    /// A bound was reached.
    pub(crate) late: bool,
    /// The client broke off the request's own body, which says nothing about the endpoint.
    pub(crate) by_client: bool,
    /// An answer came, but it is not usable.
    pub(crate) unusable: bool,
}

impl Failure {
    /// A failure of the other end, after something was sent.
    pub(crate) fn of(problem: String) -> Failure {
        Failure { problem, unsent: false, late: false, by_client: false, unusable: false }
    }

    /// An answer that is not usable.
    fn of_answer(problem: String) -> Failure {
        Failure { unusable: true, ..Failure::of(problem) }
    }
}

/// A kept connection without a request.
struct Idle {
    sender: SendRequest<UpBody>,
    made: Instant,
    since: Instant,
}

impl Idle {
    fn is_good(&self, now: Instant) -> bool {
        !self.sender.is_closed()
            && now.saturating_duration_since(self.since) < IDLE_MAX
            && now.saturating_duration_since(self.made) < REUSED_FOR
    }
}

#[derive(Default)]
struct Kept {
    /// For each endpoint, the most recently used at the back.
    by_endpoint: HashMap<Endpoint, VecDeque<Idle>>,
    /// Idle connections to all endpoints.
    count: usize,
}

/// The connections of a node to parents and origins. Clones share one pool.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    network: Arc<dyn Network>,
    kept: Mutex<Kept>,
    open: Arc<Gauge>,
    made: Counter,
    failed: Counter,
    reused: Counter,
    again: Counter,
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder of this lock can panic")
    }

    /// The most recently used connection that is still good, if there is one.
    fn take(&self, to: &Endpoint) -> Option<Idle> {
        let now = Instant::now();
        let mut kept = self.kept();
        let Kept { by_endpoint, count } = &mut *kept;
        let idle = by_endpoint.get_mut(to)?;
        let mut good = None;
        while let Some(last) = idle.pop_back() {
            *count -= 1;
            if last.is_good(now) {
                good = Some(last);
                break;
            }
        }
        if idle.is_empty() {
            by_endpoint.remove(to);
        }
        good
    }

    fn keep(&self, to: Endpoint, idle: Idle) {
        let mut kept = self.kept();
        if kept.count >= IDLE_ALL_MAX || !idle.is_good(Instant::now()) {
            return;
        }
        let there = kept.by_endpoint.entry(to).or_default();
        there.push_back(idle);
        match there.len() > IDLE_PER_ENDPOINT_MAX {
            true => _ = there.pop_front(),
            false => kept.count += 1,
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        let mut kept = self.kept();
        kept.by_endpoint.retain(|_, idle| {
            idle.retain(|one| one.is_good(now));
            !idle.is_empty()
        });
        kept.count = kept.by_endpoint.values().map(VecDeque::len).sum();
    }
}

/// Closes expired connections, for as long as the pool lives.
async fn sweep(pool: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}

impl Pool {
    /// A pool whose connections are tasks of the calling runtime; requests must be sent on that runtime too.
    pub(crate) fn new(network: Arc<dyn Network>) -> Pool {
        let inner = Arc::new(Inner {
            network,
            kept: Mutex::default(),
            open: Arc::default(),
            made: Counter::default(),
            failed: Counter::default(),
            reused: Counter::default(),
            again: Counter::default(),
        });
        tokio::spawn(sweep(Arc::downgrade(&inner)));
        Pool(inner)
    }

    /// Sends a request and returns once the head of its answer has arrived. A `body` that was not sent is put back.
    pub(crate) async fn send(
        &self,
        to: &Endpoint,
        message: &Message<'_>,
        body: &mut Option<UpBody>,
        bounds: Bounds,
    ) -> Result<Response<Incoming>, Failure> {
        let repeatable = body.is_none() && message.method.is_safe();
        let kept = self.0.take(to);
        if let Some(Idle { sender, made, .. }) = kept {
            self.0.reused.inc();
            match self.send_on(sender, made, to, message, body, bounds).await {
                // The other end had closed it; any other fault will show on a new connection.
                Err(Failure { unsent: true, .. }) => {}
                Err(Failure { late: false, .. }) if repeatable => self.0.again.inc(),
                answered => return answered,
            }
        }
        let sender = self.connect(to, bounds.connect).await.inspect_err(|_| self.0.failed.inc())?;
        self.send_on(sender, Instant::now(), to, message, body, bounds).await
    }

    async fn connect(&self, to: &Endpoint, bound: Duration) -> Result<SendRequest<UpBody>, Failure> {
        let unsent = |problem: String| Failure { unsent: true, ..Failure::of(problem) };
        let connecting = tokio::time::timeout(bound, self.0.network.connect(to.clone())).await;
        let late = |_| Failure { late: true, ..unsent("no connection in time".to_owned()) };
        let stream = connecting.map_err(late)?.map_err(|error| unsent(words(&error)))?;
        let mut http = http1::Builder::new();
        http.max_buf_size(ANSWER_BYTES_MAX).max_headers(ANSWER_FIELDS_MAX);
        let shaken = http.handshake::<_, UpBody>(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| unsent(words(&error)))?;
        self.0.made.inc();
        let open = self.0.open.hold();
        tokio::spawn(async move {
            let _open = open;
            // Its outcome is reported to the request that waits for an answer.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn send_on(
        &self,
        mut sender: SendRequest<UpBody>,
        made: Instant,
        to: &Endpoint,
        message: &Message<'_>,
        body: &mut Option<UpBody>,
        bounds: Bounds,
    ) -> Result<Response<Incoming>, Failure> {
        let with_body = body.is_some();
        let (watched, progress) = body.take().map(Watched::new).unzip();
        let mut request = Request::new(watched.map_or_else(no_body, Watched::boxed_unsync));
        *request.method_mut() = message.method.clone();
        *request.uri_mut() = Uri::from(message.target.clone());
        *request.headers_mut() = message.headers.clone();
        if let Some(interim) = message.interim.cloned() {
            hyper::ext::on_informational(&mut request, move |answer| interim.came(answer.status(), answer.headers()));
        }
        let sending = sender.try_send_request(request);
        let sent = match progress {
            Some(progress) => progress.answered(sending, bounds.takes, bounds.first_byte).await,
            None => tokio::time::timeout(bounds.first_byte, sending).await.ok(),
        };
        let answer = match sent {
            None => return Err(Failure { late: true, ..Failure::of("no answer in time".to_owned()) }),
            Some(Err(mut error)) => {
                let unsent = error.take_message();
                let by_client = upload::is_cause(error.error());
                let unusable = error.error().is_parse();
                let failure =
                    Failure { unsent: unsent.is_some(), by_client, unusable, ..Failure::of(words(error.error())) };
                *body = unsent.filter(|_| with_body).map(Request::into_body);
                return Err(failure);
            }
            Some(Ok(answer)) => answer,
        };
        // Refusing an answer drops its connection: what the remaining bytes belong to is unknown.
        let (mut head, rest) = answer.into_parts();
        framing::answer(&mut head)
            .map_err(|problem| Failure::of_answer(format!("the answer cannot be trusted: {problem}")))?;
        let mut answer = Response::from_parts(head, rest);
        // The connection only bounds its buffer, which a fast sender overshoots.
        if framing::bytes(answer.headers()) > ANSWER_BYTES_MAX {
            let problem = format!("the head of the answer is larger than {ANSWER_BYTES_MAX} bytes");
            return Err(Failure::of_answer(problem));
        }
        // Interim answers were passed on before; another 1xx status cannot be a final answer.
        if answer.status().is_informational() {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
        }
        let (pool, to) = (Arc::downgrade(&self.0), to.clone());
        tokio::spawn(async move {
            // Ready once the answer was read to its end; an error if it was dropped before.
            if sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.keep(to, Idle { sender, made, since: Instant::now() });
            }
        });
        Ok(answer)
    }

    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        let Inner { open, made, failed, reused, again, .. } = &*self.0;
        let idle = self.0.kept().count;
        page.gauge("upstream_connections", "Connections to parents and origins", open.get());
        page.gauge("upstream_connections_idle", "Connections to parents and origins that are idle", idle);
        page.gauge("upstream_connections_idle_max", "Maximum of idle connections to parents and origins", IDLE_ALL_MAX);
        page.gauge(
            "upstream_connections_idle_each_max",
            "Maximum of idle connections to one endpoint",
            IDLE_PER_ENDPOINT_MAX,
        );
        page.counter("upstream_connects_total", "Connections made", made.get());
        page.counter("upstream_connect_failures_total", "Connections that could not be made", failed.get());
        page.counter("upstream_reused_total", "Requests sent on a reused connection", reused.get());
        page.counter(
            "upstream_again_total",
            "Requests sent again because a reused connection had been closed",
            again.get(),
        );
    }
}
