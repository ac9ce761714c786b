//! Accepts connections of users and children: HTTP/1.1 and HTTP/2 on one port, one single-threaded runtime per core.
//!
//! The kernel spreads connections over the threads (SO_REUSEPORT), so a request never changes its core.
//!
//! # What always holds
//!
//! - A judged header counts as waiting until the connection has handed everything up to it to the kernel (rule 6). One
//!   that is held up because its client does not read is checked again every [`RECHECK`]: if an entry was applied or
//!   the lease ran out since it was judged, the connection is dropped with it. So no header leaves that would be judged
//!   differently then.
//! - Every wait for a client has a bound.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::DerefMut;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Context;
use std::time::{Duration, UNIX_EPOCH};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{self, AccessLog, Record};
use crate::connection::{Connection, HEAD_MAX, Turn, greet};
use crate::exchange::{Exchange, RequestId};
use crate::framing::{HEAD_BYTES_MAX, HEADERS_MAX};
use crate::interim::Interims;
use crate::knowing::Judging;
use crate::metrics::{Held, Metrics, Refusal};
use crate::network::Stream;
use crate::pipeline::Pipeline;
use crate::respond::{AnswerBody, Signs};
use crate::streams::{self, Content};
use crate::tls::Certificates;
use model::Knowledge;

/// Connections at a time, all threads together, unless the node's configuration says otherwise.
pub(crate) const CONNECTIONS_MAX: u64 = 20_000;

/// Connections that the kernel holds before they are accepted.
const BACKLOG: i32 = 4096;

/// How soon a judged header that could not be sent is checked again; with what the control plane allows between judging
/// and sending (a margin of 1 s) this leaves room for a busy machine.
pub(crate) const RECHECK: Duration = Duration::from_millis(250);

/// Requests on one connection before the client is asked to open another, so that none stays on one core for ever.
pub(crate) const REQUESTS_MAX: u64 = 10_000;

/// How long a stopping node lets running answers go on.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(5);

/// The same for one that is drained.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(30);

/// The answer to a client for which there is no room; its connection is closed after it.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// The state that all threads share.
pub(crate) struct Front {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) log: Option<AccessLog>,
    pub(crate) connections_max: u64,
    /// The node is draining: every client that is answered is asked to connect elsewhere next time.
    pub(crate) draining: CancellationToken,
    /// No more connections are accepted, and open ones end with their running answers. The node is draining then, too.
    pub(crate) stopping: CancellationToken,
    /// How long running answers may take after that, in milliseconds.
    stop_millis: AtomicU64,
}

impl Front {
    pub(crate) fn new(
        pipeline: Arc<Pipeline>,
        log: Option<AccessLog>,
        connections_max: u64,
        stopping: &CancellationToken,
    ) -> Arc<Front> {
        let (draining, stopping) = (stopping.child_token(), stopping.clone());
        let stop_millis = AtomicU64::new(STOP_MAX.as_millis() as u64);
        Arc::new(Front { pipeline, log, connections_max, draining, stopping, stop_millis })
    }

    /// Whether most connections that the node may have are taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.pipeline.metrics().connections.get() > self.connections_max / 4 * 3
    }

    /// Stops serving; running answers get `running_max` to end.
    pub(crate) fn stop(&self, running_max: Duration) {
        self.stop_millis.store(running_max.as_millis() as u64, Ordering::SeqCst);
        self.stopping.cancel();
    }
}

/// Sockets for `threads` threads on one address. An address that another process listens on is an error, whatever
/// socket options that process set.
pub(crate) fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    // With SO_REUSEPORT set, two processes of one user would share a port unnoticed.
    let probe = socket(address, false)?;
    let address = probe.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    drop(probe);
    (0..threads).map(|_| socket(address, true).map(TcpListener::from)).collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Accepts connections on one thread, with TLS where there are certificates, until the node stops; then running answers
/// get a while to end.
pub(crate) async fn serve(listener: TcpListener, tls: Option<Arc<Certificates>>, front: Arc<Front>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let server = Server::new(front, listener.local_addr().ok());
    loop {
        let (stream, client) = tokio::select! {
            biased;
            () = server.front.stopping.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: without a pause this would spin.
                    tracing::warn!(error = &error as &dyn std::error::Error, "accept");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        match (server.take(), &tls) {
            (Some(held), None) => server.begin(stream, Some(client), held),
            (Some(held), Some(tls)) => server.begin_tls(stream, client, held, tls.clone()),
            (None, None) => refuse(stream),
            // Before the handshake nothing can be said.
            (None, Some(_)) => {}
        }
    }
    drop(listener);
    server.stop().await;
    Ok(())
}

/// The same for connections that do not come from a socket.
pub(crate) async fn serve_on<S: Stream>(mut incoming: mpsc::Receiver<S>, front: Arc<Front>) {
    let server = Server::new(front.clone(), None);
    while let Some(Some(stream)) = front.stopping.run_until_cancelled(incoming.recv()).await {
        if let Some(held) = server.take() {
            server.begin(stream, None, held);
        }
    }
    server.stop().await;
}

/// Tells a client that there is no room for it, as far as that can be done without waiting.
fn refuse(stream: tokio::net::TcpStream) {
    let Ok(mut stream) = stream.into_std() else { return };
    // The bytes that the client already sent are read: left unread they would make the kernel reset the connection, and
    // the answer be lost.
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write(NO_ROOM);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// The state of one serving thread.
struct Server {
    front: Arc<Front>,
    http: Arc<Http>,
    tasks: TaskTracker,
}

/// The state that every connection of a thread shares.
struct Http {
    h1: http1::Builder,
    h2: h2::server::Builder,
    names: Arc<Names>,
}

/// Makes the IDs of a thread's requests, from node, thread and start and from a count of requests.
pub(crate) struct Names {
    of: u64,
    requests: AtomicU64,
}

impl Server {
    fn new(front: Arc<Front>, address: Option<SocketAddr>) -> Server {
        let mut h1 = http1::Builder::new();
        // The connection itself bounds how long a head may take, since it can tell that from idleness.
        h1.timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        let knowing = front.pipeline.knowing();
        let started = knowing.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        static THREADS: AtomicU64 = AtomicU64::new(0);
        let thread = THREADS.fetch_add(1, Ordering::Relaxed);
        let text = format!("{} {address:?} {started} {} {thread}", knowing.name(), std::process::id());
        let names = Names { of: xxhash_rust::xxh3::xxh3_64(text.as_bytes()), requests: AtomicU64::new(0) };
        let http = Arc::new(Http { h1, h2: streams::settings(), names: Arc::new(names) });
        Server { front, http, tasks: TaskTracker::new() }
    }

    /// Room for one more connection, if there is any.
    fn take(&self) -> Option<Held> {
        let metrics = self.front.pipeline.metrics();
        metrics.accepted.inc();
        let held = metrics.connections.hold_below(self.front.connections_max);
        if held.is_none() {
            metrics.refused(Refusal::Connections);
        }
        held
    }

    fn begin<S: Stream>(&self, stream: S, client: Option<SocketAddr>, held: Held) {
        self.tasks.spawn(serve_one(stream, client, Transport::Plain, self.front.clone(), self.http.clone(), held));
    }

    /// The same with TLS.
    fn begin_tls(&self, stream: tokio::net::TcpStream, client: SocketAddr, held: Held, tls: Arc<Certificates>) {
        let (front, http) = (self.front.clone(), self.http.clone());
        let stopping = front.stopping.clone();
        let shaken = async move {
            // A client that sends nothing does not count among the running handshakes.
            let readable = tokio::time::timeout(HEAD_MAX, stream.readable()).await;
            readable.is_ok_and(|readable| readable.is_ok()).then_some(())?;
            tls.accept(stream).await
        };
        self.tasks.spawn(async move {
            if let Some(Some(stream)) = stopping.run_until_cancelled(shaken).await {
                let named = stream.get_ref().1.server_name().map(Box::from);
                serve_one(stream, Some(client), Transport::Tls(named), front, http, held).await;
            }
        });
    }

    /// Lets running answers go on for a while.
    async fn stop(self) {
        self.tasks.close();
        let running_max = Duration::from_millis(self.front.stop_millis.load(Ordering::SeqCst));
        let _ = tokio::time::timeout(running_max, self.tasks.wait()).await;
    }
}

/// The transport that carries HTTP for a client.
pub(crate) enum Transport {
    Plain,
    /// TLS, asked for under this name (SNI).
    Tls(Option<Box<str>>),
}

async fn serve_one<S: Stream>(
    mut stream: S,
    client: Option<SocketAddr>,
    transport: Transport,
    front: Arc<Front>,
    http: Arc<Http>,
    _held: Held,
) {
    let metrics = front.pipeline.metrics().clone();
    let greeting = front.stopping.run_until_cancelled(greet(&mut stream, &metrics)).await;
    let Some(Some(greeting)) = greeting else { return };
    let http2 = greeting.http2;
    let handoff = Arc::new(Handoff::new(front.clone(), http.names.clone(), http2, transport, client));
    let mut connection = Connection::new(stream, greeting, handoff.clone());
    if !http2 {
        match front.stopping.run_until_cancelled(connection.plain()).await {
            Some(Ok(true)) => {}
            Some(_) => return,
            // A half-written hit is still written to its end; an error there is the client's affair.
            None => return drop(connection.last().await),
        }
    }
    let ended = match http2 {
        true => {
            let _held = metrics.connections_h2.hold();
            let served = Box::pin(streams::serve(connection, &http.h2, handoff.clone()));
            let ended = polled(served, &handoff).await;
            ended.map_err(|error| tracing::debug!(error = &error as &dyn std::error::Error, "connection ended"))
        }
        false => serve_http1(connection, &http.h1, &handoff).await.map_err(|error| {
            if error.is_parse_too_large() {
                metrics.refused(Refusal::TooLarge);
            } else if error.is_parse() {
                metrics.refused(Refusal::Malformed);
            }
            tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
        }),
    };
    // Ends of connections are the clients' affair: a reset in the middle is no error of ours.
    let (Ok(()) | Err(())) = ended;
}

/// Serves an HTTP/1.1 connection to its end. An idle one is closed only when the node stops, because a request may be on
/// its way.
async fn serve_http1<S: Stream>(
    connection: Connection<S>,
    settings: &http1::Builder,
    handoff: &Arc<Handoff>,
) -> Result<(), hyper::Error> {
    let service = service_fn(|request: Request<Incoming>| {
        let handoff = handoff.clone();
        let exchange =
            Exchange::begin(handoff.clone(), handoff.front.pipeline.knowing().clock().now(), || Record::of(&request));
        let last = handoff.turn.begun() >= REQUESTS_MAX;
        async move {
            let front = handoff.front.clone();
            let request = request.map(Content::Http1);
            // Boxed, or every connection would reserve room for it.
            let answer = Box::pin(front.pipeline.handle(request, handoff.clone(), None, exchange.counted())).await;
            handoff.interims.close();
            let mut answer: Response<AnswerBody> = exchange.answer(answer);
            if last || front.draining.is_cancelled() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    // Boxed, because a future reserves room both for its argument and for the variable that it moves it to.
    let mut served = Box::pin(settings.serve_connection(TokioIo::new(connection), service));
    tokio::select! {
        biased;
        ended = polled(served.as_mut(), handoff) => return ended,
        () = handoff.front.stopping.cancelled() => {}
    }
    served.as_mut().graceful_shutdown();
    polled(served, handoff).await
}

/// Runs what serves a connection, and counts how often it is polled.
async fn polled<F: Future>(mut served: Pin<impl DerefMut<Target = F>>, handoff: &Handoff) -> F::Output {
    std::future::poll_fn(|cx: &mut Context<'_>| {
        handoff.polls.fetch_add(1, Ordering::Relaxed);
        served.as_mut().poll(cx)
    })
    .await
}

/// The state that the requests of one connection share; above all, its judged headers that are not with the kernel yet.
pub(crate) struct Handoff {
    pub(crate) front: Arc<Front>,
    names: Arc<Names>,
    headers: Mutex<Headers>,
    /// The client's address, where that is known.
    pub(crate) client: Option<SocketAddr>,
    /// The user's connection is TLS.
    pub(crate) secure: bool,
    /// The name that the user asked for with TLS (SNI), whose domain decides the TLS versions and the certificate.
    named: Option<Box<str>>,
    /// How often the connection's task was polled.
    pub(crate) polls: AtomicU64,
    /// When the connection was made, and how many milliseconds later it last sent something; HTTP/2
    /// alone.
    opened: Instant,
    heard: AtomicU64,
    /// The last write found no room.
    blocked: AtomicBool,
    /// The connection is HTTP/2: written bytes may wait in its queues while those of other streams are flushed.
    queues: bool,
    /// Whose turn it is.
    pub(crate) turn: Turn,
    /// The client's part of its lines in the access log.
    pub(crate) logged: OnceLock<access::Client>,
    /// Interim answers of origins.
    pub(crate) interims: Interims,
}

#[derive(Default)]
struct Headers {
    /// The number of the last header; rises by one.
    last: u64,
    /// Judged and not written to the connection yet.
    judged: Vec<(u64, Judging)>,
    /// Written to the connection, and handed to the kernel by the next flush that completes.
    written: Vec<(u64, Judging)>,
    /// On HTTP/2, how many of those were written when the connection last accepted a flush; nonzero while it has yet to
    /// be checked whether it took them all.
    accepted: usize,
    /// How many of them it took.
    taken: usize,
    /// Some of what it took is not with the kernel yet.
    gathered: bool,
}

impl Headers {
    /// Releases the headers that were taken: they are with the kernel.
    fn release(&mut self) {
        self.written.drain(..self.taken);
        self.accepted = self.accepted.saturating_sub(self.taken);
        self.taken = 0;
    }
}

impl Handoff {
    pub(crate) fn new(
        front: Arc<Front>,
        names: Arc<Names>,
        queues: bool,
        transport: Transport,
        client: Option<SocketAddr>,
    ) -> Handoff {
        let blocked = AtomicBool::new(false);
        let (secure, named) = match transport {
            Transport::Plain => (false, None),
            Transport::Tls(named) => (true, named.map(|named| named.to_ascii_lowercase().into())),
        };
        Handoff {
            front,
            names,
            headers: Mutex::default(),
            client,
            secure,
            named,
            polls: AtomicU64::new(0),
            opened: Instant::now(),
            heard: AtomicU64::new(0),
            blocked,
            queues,
            turn: Turn::default(),
            logged: OnceLock::new(),
            interims: Interims::default(),
        }
    }

    /// Whether a domain may be served on this connection: one with TLS is for one domain.
    pub(crate) fn is_for(&self, domain: &model::Domain, knowledge: &Knowledge) -> bool {
        let came_for = |named: &str| knowledge.domain_for(named).is_some_and(|came_for| came_for.name == domain.name);
        self.named.as_deref().is_none_or(came_for)
    }

    /// The ID of the next request.
    pub(crate) fn request_id(&self) -> RequestId {
        RequestId::new(self.names.of, self.names.requests.fetch_add(1, Ordering::Relaxed))
    }

    fn headers(&self) -> MutexGuard<'_, Headers> {
        self.headers.lock().expect("no holder of this lock can panic")
    }

    /// The node's counters.
    pub(crate) fn metrics(&self) -> &Metrics {
        self.front.pipeline.metrics()
    }

    /// The fields by which the node identifies itself.
    pub(crate) fn signs(&self) -> &Signs {
        self.front.pipeline.signs()
    }

    /// Takes a header that was judged and is about to be written; returns the number that the answer keeps for it.
    pub(crate) fn judged(&self, judging: Judging) -> u64 {
        let mut headers = self.headers();
        headers.last += 1;
        let name = headers.last;
        headers.judged.push((name, judging));
        name
    }

    /// The header was written to the connection, or dropped with it.
    pub(crate) fn written(&self, name: u64) {
        let mut headers = self.headers();
        if let Some(at) = headers.judged.iter().position(|(judged, _)| *judged == name) {
            let header = headers.judged.swap_remove(at);
            headers.written.push(header);
        }
    }

    /// A write took the whole of the header written last, and without TLS its socket has no buffer of its own: the
    /// kernel has it.
    pub(crate) fn head_sent(&self) {
        if !self.queues && !self.secure {
            self.headers().written.clear();
        }
    }

    /// The store that the bodies are in.
    pub(crate) fn store(&self) -> &store::Store {
        self.front.pipeline.store()
    }

    /// Whether requests on the connection are streams.
    pub(crate) fn is_http2(&self) -> bool {
        self.queues
    }

    /// Notes that the client sent something.
    pub(crate) fn hears(&self, now: Instant) {
        self.heard.store((now - self.opened).as_millis() as u64, Ordering::Relaxed);
    }

    /// When the client last sent something.
    pub(crate) fn heard(&self) -> Instant {
        self.opened + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    /// Notes that a write found no room.
    pub(crate) fn blocked(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Everything the connection, of HTTP/1.1, had in its buffer is with the kernel.
    pub(crate) fn flushed(&self) {
        self.blocked.store(false, Ordering::Relaxed);
        self.headers().written.clear();
    }

    /// All HTTP/2 output was taken; the part of it that was gathered is not written yet.
    pub(crate) fn accepted(self: &Arc<Self>) {
        self.blocked.store(false, Ordering::Relaxed);
        let mut headers = self.headers();
        let somebody_looks = headers.accepted > 0;
        headers.accepted = headers.written.len();
        if somebody_looks || headers.accepted == 0 {
            return;
        }
        drop(headers);
        // HTTP/2 also flushes midway. When another task of this one thread runs, it has done all it could, and unless a
        // full socket stopped it, its queues hold no header any more.
        let handoff = self.clone();
        tokio::spawn(async move {
            let mut headers = handoff.headers();
            let accepted = std::mem::take(&mut headers.accepted);
            if !handoff.blocked.load(Ordering::Relaxed) {
                headers.taken = headers.taken.max(accepted);
            }
            if !headers.gathered {
                headers.release();
            }
        });
    }

    /// Notes that some of the output taken is not written yet.
    pub(crate) fn gathers(&self) {
        self.headers().gathered = true;
    }

    /// Notes that all output taken is with the kernel.
    pub(crate) fn poured(self: &Arc<Self>) {
        let mut headers = self.headers();
        headers.gathered = false;
        headers.release();
        drop(headers);
        // A socket that was full until now may be why some headers were not released.
        self.accepted();
    }

    /// Whether some waiting header might be judged differently now.
    pub(crate) fn is_overtaken(&self) -> bool {
        let headers = self.headers();
        headers
            .judged
            .iter()
            .chain(&headers.written)
            .any(|(_, judging)| self.front.pipeline.knowing().is_overtaken(judging))
    }
}
