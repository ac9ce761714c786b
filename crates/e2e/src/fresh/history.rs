//! The history of a run: a checker under one lock, the clock, and a witness for every read in progress.

use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::checker::{Answered, Broken, Checker, Counts, Refresh, Ticket};

/// Everything that happened, ordered by one lock. Cheap to clone.
#[derive(Clone, Debug)]
pub struct History {
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    checker: Checker,
    witnesses: HashMap<Ticket, Arc<Witness>>,
}

impl History {
    /// A history of nodes with these names, which begins now.
    pub fn new(names: Vec<String>) -> History {
        let inner = Inner { checker: Checker::new(names), witnesses: HashMap::new() };
        History { start: Instant::now(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock can panic")
    }

    /// Records that a read begins over a connection, before any of its request is sent.
    pub fn begun(&self, node: usize, path: &str, witness: &Arc<Witness>) -> Ticket {
        let mut inner = self.lock();
        witness.expect_another();
        let ticket = inner.checker.begun(self.now(), node, path);
        inner.witnesses.insert(ticket, witness.clone());
        ticket
    }

    /// Records that the header of a response has arrived.
    pub fn answered(&self, ticket: Ticket, answered: &Answered) -> Option<Broken> {
        let mut inner = self.lock();
        inner.witnesses.remove(&ticket);
        inner.checker.answered(self.now(), ticket, answered)
    }

    /// Records that a read got another response, or none.
    pub fn unanswered(&self, ticket: Ticket) {
        let mut inner = self.lock();
        inner.witnesses.remove(&ticket);
        inner.checker.unanswered(ticket);
    }

    /// Records that the answer `Complete` arrived. Returns that moment, once everything sent before it was delivered
    /// and the reads that still wait were determined.
    pub async fn completed(&self, refresh: Refresh) -> anyhow::Result<Duration> {
        let (now, completed) = {
            let mut inner = self.lock();
            let now = self.now();
            (now, inner.checker.completed(now, refresh))
        };
        tokio::task::spawn_blocking(loopback_delivers).await?.context("wait until loopback has delivered")?;
        let mut inner = self.lock();
        let Inner { checker, witnesses } = &mut *inner;
        checker.delivered(&completed, |ticket| witnesses.get(&ticket).is_some_and(|witness| witness.waits()));
        Ok(now)
    }

    /// Informs the checker about faults of the nodes.
    pub fn tell(&self, what: impl FnOnce(&mut Checker)) {
        what(&mut self.lock().checker);
    }

    /// Records an event for reports.
    pub fn event(&self, what: impl Into<String>) {
        let now = self.now();
        self.lock().checker.event(now, what.into());
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.lock().checker.counts()
    }

    /// The reports of all stale reads, joined; empty if there were none.
    pub fn violations(&self) -> String {
        let reports: Vec<String> =
            self.lock().checker.violations().iter().map(|violation| violation.report.clone()).collect();
        reports.join("\n\n")
    }
}

/// Returns once everything sent over loopback before has reached its socket.
///
/// Packets are queued on the sending processor, and on a loaded machine may stay queued while other tasks run. The
/// queue is in order, so once a datagram sent on every processor has come back, everything before it is delivered.
fn loopback_delivers() -> anyhow::Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.connect(socket.local_addr()?)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let all = sched_getaffinity(None)?;
    for processor in (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)) {
        let mut one = CpuSet::new();
        one.set(processor);
        sched_setaffinity(None, &one)?;
        let passed = socket.send(&[0]).and_then(|_| socket.recv(&mut [0]));
        sched_setaffinity(None, &all)?;
        passed?;
    }
    Ok(())
}

/// Observes whether any of a response has reached this machine's kernel: then its header may have left its node by now.
#[derive(Debug)]
pub struct Witness {
    /// The same socket.
    socket: std::net::TcpStream,
    /// Something was read since the last request began, or that is unknown.
    arrived: Mutex<bool>,
    /// The connection uses HTTP/2, whose frames may arrive at any time.
    chatters: bool,
}

impl Witness {
    fn arrived(&self) -> MutexGuard<'_, bool> {
        self.arrived.lock().expect("no holder of this lock can panic")
    }

    fn expect_another(&self) {
        *self.arrived() = false;
    }

    /// Whether nothing has arrived, neither at the reader nor in the kernel.
    fn waits(&self) -> bool {
        let arrived = self.arrived();
        let nothing = || matches!(self.socket.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !self.chatters && !*arrived && nothing()
    }
}

/// A connection observed by its witness.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    witness: Arc<Witness>,
}

impl Watched {
    /// Connects to a loopback port; `chatters` if HTTP/2 will be used.
    pub async fn connect(port: u16, chatters: bool) -> io::Result<(Watched, Arc<Witness>)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let socket = stream.try_clone()?;
        let witness = Arc::new(Witness { socket, arrived: Mutex::new(false), chatters });
        Ok((Watched { stream: TcpStream::from_std(stream)?, witness: witness.clone() }, witness))
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Watched { stream, witness } = &mut *self;
        // Held while bytes move from the kernel to the reader, so that a witness always sees them in one of the two
        // places.
        let mut arrived = witness.arrived();
        let before = buffer.filled().len();
        let poll = Pin::new(stream).poll_read(cx, buffer);
        *arrived |= buffer.filled().len() > before;
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
