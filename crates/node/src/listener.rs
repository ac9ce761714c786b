//! Takes connections of users and children: HTTP/1.1 and HTTP/2 on one port, one single-threaded runtime per core.
//!
//! The kernel spreads connections over the threads (SO_REUSEPORT), so a request never changes its core.
//!
//! # What always holds
//!
//! - A judged header counts as waiting until the connection has handed everything before it to the kernel (rule 6). One that has
//!   to wait because its client does not read is looked at again every [`RECHECK`]: once an entry was applied or the lease has run
//!   out since it was judged, the connection is dropped with it. So no header leaves that would not be judged the same then.
//! - Every wait for a client has a bound.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::functions::access::Client;
use crate::knowing::{Judging, Knowing};
use crate::network::Stream;
use crate::pipeline::Pipeline;

/// Connections at a time, all threads together.
pub(crate) const CONNECTIONS_MAX: u64 = 20_000;

/// Connections the kernel holds before they are taken.
const BACKLOG: i32 = 4096;

/// Longest wait for the first byte of a connection, and for the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(30);

/// Longest time a client may read nothing while there is something to read.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// How soon a judged header that could not be sent is looked at again; with what the control plane allows between judging
/// and sending (a margin of 1 s) this leaves room for a busy machine.
const RECHECK: Duration = Duration::from_millis(250);

/// Largest head of a request, in bytes, and most headers in it.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 128;

/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// Bytes of answers that one HTTP/2 stream may hold ready to be sent.
const STREAM_BUFFER_BYTES: usize = 64 << 10;

/// How long a stopping node lets running answers go on.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Sockets for `threads` threads on one address. Names no port twice: an address that another process listens on is an error,
/// whatever options that one set.
pub(crate) fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    // With SO_REUSEPORT set two processes of one user would share a port unnoticed.
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

/// One thread's accepting, until `stopping`; then running answers get [`STOP_MAX`].
pub(crate) async fn serve(
    listener: TcpListener,
    pipeline: Arc<Pipeline>,
    stopping: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let server = Server::new(pipeline);
    loop {
        let (stream, client) = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
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
        let Some(taken) = server.take() else { continue };
        let stopping = stopping.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                readable = tokio::time::timeout(HEAD_MAX, stream.readable()) => if !matches!(readable, Ok(Ok(()))) { return },
            }
            taken.serve(stream, Some(Client(client.ip()))).await;
        });
    }
    drop(listener);
    server.stop().await;
    Ok(())
}

/// The same for connections that come from elsewhere than a socket.
pub(crate) async fn serve_on<S: Stream>(
    mut incoming: mpsc::Receiver<S>,
    pipeline: Arc<Pipeline>,
    stopping: CancellationToken,
) {
    let server = Server::new(pipeline);
    while let Some(Some(stream)) = stopping.run_until_cancelled(incoming.recv()).await {
        if let Some(taken) = server.take() {
            tokio::spawn(taken.serve(stream, None));
        }
    }
    server.stop().await;
}

/// What one thread serves its connections with.
struct Server {
    http: Arc<auto::Builder<TokioExecutor>>,
    graceful: GracefulShutdown,
    pipeline: Arc<Pipeline>,
}

/// A connection that there is room for.
struct Taken {
    http: Arc<auto::Builder<TokioExecutor>>,
    watcher: Watcher,
    pipeline: Arc<Pipeline>,
    _held: crate::metrics::Held,
}

impl Server {
    fn new(pipeline: Arc<Pipeline>) -> Server {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(45))
            .keep_alive_timeout(Duration::from_secs(20))
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .max_send_buf_size(STREAM_BUFFER_BYTES);
        Server { http: Arc::new(http), graceful: GracefulShutdown::new(), pipeline }
    }

    /// Room for one more connection, if there is any.
    fn take(&self) -> Option<Taken> {
        let metrics = self.pipeline.metrics();
        if metrics.connections.get() >= CONNECTIONS_MAX {
            metrics.refused.inc();
            return None;
        }
        let held = metrics.connections.hold();
        let (http, watcher, pipeline) = (self.http.clone(), self.graceful.watcher(), self.pipeline.clone());
        Some(Taken { http, watcher, pipeline, _held: held })
    }

    /// Lets running answers go on for a while.
    async fn stop(self) {
        let _ = tokio::time::timeout(STOP_MAX, self.graceful.shutdown()).await;
    }
}

impl Taken {
    async fn serve<S: Stream>(self, stream: S, client: Option<Client>) {
        let Taken { http, watcher, pipeline, _held } = self;
        let handoff = Arc::new(Handoff::new(pipeline.knowing().clone()));
        let io = TokioIo::new(Connection { stream, handoff: handoff.clone(), stalled: None });
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            if let Some(client) = client {
                request.extensions_mut().insert(client);
            }
            if request.version() == http::Version::HTTP_2 {
                handoff.queues.store(true, Ordering::Relaxed);
            }
            let (pipeline, handoff) = (pipeline.clone(), handoff.clone());
            async move { Ok::<_, std::convert::Infallible>(pipeline.handle(request, handoff).await) }
        });
        let connection = http.serve_connection_with_upgrades(io, service);
        // Ends of connections are the clients' affair: a reset in the middle is no error of ours.
        if let Err(error) = watcher.watch(connection.into_owned()).await {
            tracing::debug!(error = error.as_ref(), "connection ended");
        }
    }
}

/// The judged headers of one connection that are not on their way yet.
pub(crate) struct Handoff {
    knowing: Arc<Knowing>,
    headers: Mutex<Headers>,
    /// The last write found no room.
    blocked: AtomicBool,
    /// The connection is HTTP/2: what is written may wait in its queues while others' bytes are flushed.
    queues: AtomicBool,
}

#[derive(Default)]
struct Headers {
    /// Rises by one; names a header.
    last: u64,
    /// Judged and not written to the connection yet.
    judged: Vec<(u64, Judging)>,
    /// Written to the connection, and with the next flush that comes to its end handed to the kernel.
    written: Vec<(u64, Judging)>,
}

impl Handoff {
    pub(crate) fn new(knowing: Arc<Knowing>) -> Handoff {
        Handoff { knowing, headers: Mutex::default(), blocked: AtomicBool::new(false), queues: AtomicBool::new(false) }
    }

    fn headers(&self) -> MutexGuard<'_, Headers> {
        self.headers.lock().expect("no holder of this lock can panic")
    }

    /// A header was judged, and is about to be written. The answer names it.
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

    /// Everything the connection had in its buffer is with the kernel.
    fn flushed(self: &Arc<Self>) {
        self.blocked.store(false, Ordering::Relaxed);
        if !self.queues.load(Ordering::Relaxed) {
            self.headers().written.clear();
            return;
        }
        let names: Vec<u64> = self.headers().written.iter().map(|(name, _)| *name).collect();
        if names.is_empty() {
            return;
        }
        // HTTP/2 flushes in the middle, too. Looked at from another task of this one thread it has done all it could, and
        // when it was not stopped by a full socket its queues hold no header any more.
        let handoff = self.clone();
        tokio::spawn(async move {
            if !handoff.blocked.load(Ordering::Relaxed) {
                handoff.headers().written.retain(|(name, _)| !names.contains(name));
            }
        });
    }

    /// Whether some header that waits might be judged otherwise now.
    fn is_overtaken(&self) -> bool {
        let headers = self.headers();
        headers.judged.iter().chain(&headers.written).any(|(_, judging)| self.knowing.is_overtaken(judging))
    }
}

/// A client's socket that tells when everything written is handed over, and does not wait for ever.
struct Connection<S> {
    stream: S,
    handoff: Arc<Handoff>,
    /// Since when the client takes nothing, and when to look again.
    stalled: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<S> Connection<S> {
    /// Passes a finished write on; bounds one that waits.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        self.handoff.blocked.store(true, Ordering::Relaxed);
        let (since, look) = self.stalled.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(RECHECK))));
        loop {
            ready!(look.as_mut().poll(cx));
            if since.elapsed() >= WRITE_STALL_MAX || self.handoff.is_overtaken() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            look.as_mut().reset(Instant::now() + RECHECK);
        }
    }
}

impl<S: Stream> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Stream> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.bounded(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called when everything before it is written: hyper flushes its own buffer first.
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.handoff.flushed();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
