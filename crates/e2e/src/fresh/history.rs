//! The one history of a run: a checker under one lock, the clock beside it, and a witness for every read under way.

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

/// What happened, in the order of one lock. Cheap to clone.
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
    /// A history over nodes of these names, which begins now.
    pub fn new(names: Vec<String>) -> History {
        let inner = Inner { checker: Checker::new(names), witnesses: HashMap::new() };
        History { start: Instant::now(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock can panic")
    }

    /// A read begins over a connection; nothing of its request was sent yet.
    pub fn begun(&self, node: usize, path: &str, witness: &Arc<Witness>) -> Ticket {
        let mut inner = self.lock();
        witness.expect_another();
        let ticket = inner.checker.begun(self.now(), node, path);
        inner.witnesses.insert(ticket, witness.clone());
        ticket
    }

    /// The header of an answer is there.
    pub fn answered(&self, ticket: Ticket, answered: &Answered) -> Option<Broken> {
        let mut inner = self.lock();
        inner.witnesses.remove(&ticket);
        inner.checker.answered(self.now(), ticket, answered)
    }

    /// A read had another answer, or none.
    pub fn unanswered(&self, ticket: Ticket) {
        let mut inner = self.lock();
        inner.witnesses.remove(&ticket);
        inner.checker.unanswered(ticket);
    }

    /// The answer `Complete` came. Returns when, after what was sent before it was delivered, and those who still wait were found.
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

    /// Tells the checker what is done to the nodes.
    pub fn tell(&self, what: impl FnOnce(&mut Checker)) {
        what(&mut self.lock().checker);
    }

    /// Something happened that a report should mention.
    pub fn event(&self, what: impl Into<String>) {
        let now = self.now();
        self.lock().checker.event(now, what.into());
    }

    /// What was seen so far.
    pub fn counts(&self) -> Counts {
        self.lock().checker.counts()
    }

    /// The reports of all stale reads, joined; empty when there was none.
    pub fn violations(&self) -> String {
        let reports: Vec<String> =
            self.lock().checker.violations().iter().map(|violation| violation.report.clone()).collect();
        reports.join("\n\n")
    }
}

/// Returns when everything that was sent over loopback before has reached its socket.
///
/// What a process sends waits in the queue of its processor, and on a loaded machine may wait there while others run. The queue
/// keeps its order, so a datagram that was sent on every processor and has come back has everything before it delivered.
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

/// Sees whether anything of an answer has reached this machine's kernel: then its header may have left its node before now.
#[derive(Debug)]
pub struct Witness {
    /// The same socket.
    socket: std::net::TcpStream,
    /// Something was read since the last request began, or cannot be told.
    arrived: Mutex<bool>,
    /// The connection speaks HTTP/2, whose frames come whenever they like.
    chatters: bool,
}

impl Witness {
    fn arrived(&self) -> MutexGuard<'_, bool> {
        self.arrived.lock().expect("no holder of this lock can panic")
    }

    fn expect_another(&self) {
        *self.arrived() = false;
    }

    /// Whether nothing has arrived, neither with the reader nor in the kernel.
    fn waits(&self) -> bool {
        let arrived = self.arrived();
        let nothing = || matches!(self.socket.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !self.chatters && !*arrived && nothing()
    }
}

/// A connection that its witness watches.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    witness: Arc<Witness>,
}

impl Watched {
    /// Connects to a port of loopback; `chatters` when HTTP/2 will be spoken.
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
        // Held while bytes go from the kernel to here, so that a witness never sees them in neither place.
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
