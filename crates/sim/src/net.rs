//! The simulated network: named hosts, connections between them, and faults.
//!
//! A connection is two pipes. Each write arrives at the other end after its own delay, in order. Links between two
//! hosts can be *cut* (existing connections break, new ones are refused) or *stalled* (nothing arrives and nothing
//! breaks until the stall ends). A host that is killed loses all its connections at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use crate::random::Random;

/// Capacity of a pipe in bytes before its writer has to wait.
pub const WIDE: usize = 64 << 10;

/// Maximum number of connections waiting to be accepted.
const BACKLOG: usize = 1024;

/// How long connecting over a stalled link waits.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// The network of one run. Clones share it.
#[derive(Clone)]
pub struct Net(Arc<Mutex<Inner>>);

struct Inner {
    random: Random,
    /// Processes that listen under a name; replicas share a name.
    listening: BTreeMap<String, Vec<Listener>>,
    cut: BTreeSet<(String, String)>,
    stalled: BTreeSet<(String, String)>,
    /// Delay of a write in milliseconds, if not [`Inner::usual`].
    slow: BTreeMap<(String, String), Range<u64>>,
    usual: Range<u64>,
    connections: Vec<(String, String, Weak<Mutex<Wire>>)>,
}

/// A process as seen by the network: its connections die with it.
#[derive(Clone)]
pub struct Port {
    net: Net,
    host: String,
    alive: Arc<Mutex<Alive>>,
}

#[derive(Clone)]
struct Listener {
    to: mpsc::Sender<End>,
    process: Arc<Mutex<Alive>>,
}

struct Alive {
    dead: bool,
    connections: Vec<Weak<Mutex<Wire>>>,
}

/// Both directions of a connection.
struct Wire {
    pipes: [Pipe; 2],
    broken: bool,
    stalled: bool,
}

#[derive(Default)]
struct Pipe {
    chunks: VecDeque<Chunk>,
    waiting_bytes: usize,
    capacity: usize,
    /// The latest arrival, which no later write may precede.
    last: Option<Instant>,
    /// The writer has closed it.
    closed: bool,
    /// The reader is gone.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Chunk {
    written: Instant,
    arrives: Instant,
    bytes: Bytes,
}

/// One end of a connection.
pub struct End {
    net: Net,
    wire: Arc<Mutex<Wire>>,
    /// Index of the pipe it writes to.
    out: usize,
    pair: (String, String),
    waiting: Option<Pin<Box<Sleep>>>,
    /// When the bytes read last were written.
    written: Instant,
}

fn pair(a: &str, b: &str) -> (String, String) {
    if a <= b { (a.to_owned(), b.to_owned()) } else { (b.to_owned(), a.to_owned()) }
}

impl Net {
    /// A network where writes usually take `usual` milliseconds to arrive.
    pub fn new(random: Random, usual: Range<u64>) -> Net {
        Net(Arc::new(Mutex::new(Inner {
            random,
            listening: BTreeMap::new(),
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            slow: BTreeMap::new(),
            usual,
            connections: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// A new process on `host`.
    pub fn port(&self, host: &str) -> Port {
        let alive = Arc::new(Mutex::new(Alive { dead: false, connections: Vec::new() }));
        Port { net: self.clone(), host: host.to_owned(), alive }
    }

    /// Cuts the link between two hosts.
    pub fn cut(&self, a: &str, b: &str) {
        let mut inner = self.lock();
        inner.cut.insert(pair(a, b));
        for wire in inner.between(a, b) {
            lock(&wire).break_off();
        }
    }

    /// Stalls the link between two hosts.
    pub fn stall(&self, a: &str, b: &str) {
        let mut inner = self.lock();
        inner.stalled.insert(pair(a, b));
        for wire in inner.between(a, b) {
            lock(&wire).stalled = true;
        }
    }

    /// Makes writes between two hosts take `takes` milliseconds.
    pub fn slow(&self, a: &str, b: &str, takes: Range<u64>) {
        self.lock().slow.insert(pair(a, b), takes);
    }

    /// Removes all faults from the link between two hosts.
    pub fn heal(&self, a: &str, b: &str) {
        let mut inner = self.lock();
        let link = pair(a, b);
        inner.cut.remove(&link);
        inner.slow.remove(&link);
        if inner.stalled.remove(&link) {
            for wire in inner.between(a, b) {
                let mut wire = lock(&wire);
                wire.stalled = false;
                wire.wake();
            }
        }
    }

    /// Removes all faults from all links.
    pub fn heal_all(&self) {
        let inner = self.lock();
        let links: BTreeSet<(String, String)> =
            inner.cut.iter().chain(&inner.stalled).chain(inner.slow.keys()).cloned().collect();
        drop(inner);
        for (a, b) in links {
            self.heal(&a, &b);
        }
    }
}

impl Inner {
    fn between(&mut self, a: &str, b: &str) -> Vec<Arc<Mutex<Wire>>> {
        self.connections.retain(|(_, _, wire)| wire.strong_count() > 0);
        let link = pair(a, b);
        let there = self.connections.iter().filter(|(a, b, _)| *a == link.0 && *b == link.1);
        there.filter_map(|(_, _, wire)| wire.upgrade()).collect()
    }
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    wire.lock().expect("no holder of this lock can panic")
}

impl Wire {
    fn break_off(&mut self) {
        self.broken = true;
        self.wake();
    }

    fn wake(&mut self) {
        for pipe in &mut self.pipes {
            pipe.reader.take().into_iter().chain(pipe.writer.take()).for_each(Waker::wake);
        }
    }
}

impl Port {
    /// Accepts connections to `name` from any host.
    pub fn listen(&self, name: &str) -> mpsc::Receiver<End> {
        let (to, from) = mpsc::channel(BACKLOG);
        let listener = Listener { to, process: self.alive.clone() };
        self.net.lock().listening.entry(name.to_owned()).or_default().push(listener);
        from
    }

    /// Kills the process for the network.
    pub fn kill(&self) {
        let mut alive = self.alive.lock().expect("no holder of this lock can panic");
        alive.dead = true;
        for wire in alive.connections.drain(..).filter_map(|wire| wire.upgrade()) {
            lock(&wire).break_off();
        }
        drop(alive);
        // New connections find nobody.
        for listeners in self.net.lock().listening.values_mut() {
            listeners.retain(|listener| !Arc::ptr_eq(&listener.process, &self.alive));
        }
    }

    /// Connects to `name`, with pipes of `capacity` bytes.
    pub async fn dial(&self, name: &str, capacity: usize) -> io::Result<End> {
        let host = name.split(':').next().unwrap_or(name);
        let link = pair(&self.host, host);
        let patience = Instant::now() + CONNECT_MAX;
        loop {
            let (cut, stalled, delay) = {
                let mut inner = self.net.lock();
                let delay = inner.delay(&link);
                (inner.cut.contains(&link), inner.stalled.contains(&link), delay)
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if cut {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            if !stalled {
                break;
            }
            if Instant::now() >= patience {
                return Err(io::ErrorKind::TimedOut.into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let listener = self.net.lock().listener(name);
        let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let pipe = || Pipe { capacity, ..Pipe::default() };
        let wire = Arc::new(Mutex::new(Wire { pipes: [pipe(), pipe()], broken: false, stalled: false }));
        for process in [&self.alive, &listener.process] {
            let mut alive = process.lock().expect("no holder of this lock can panic");
            if alive.dead {
                return Err(io::ErrorKind::NotConnected.into());
            }
            alive.connections.retain(|wire| wire.strong_count() > 0);
            alive.connections.push(Arc::downgrade(&wire));
        }
        self.net.lock().connections.push((link.0.clone(), link.1.clone(), Arc::downgrade(&wire)));
        let end = |out| End {
            net: self.net.clone(),
            wire: wire.clone(),
            out,
            pair: link.clone(),
            waiting: None,
            written: Instant::now(),
        };
        listener.to.try_send(end(1)).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(end(0))
    }
}

impl Inner {
    fn listener(&mut self, name: &str) -> Option<Listener> {
        let listeners = self.listening.get(name).filter(|listeners| !listeners.is_empty())?;
        Some(self.random.pick(listeners).clone())
    }

    fn delay(&mut self, link: &(String, String)) -> Duration {
        // Users are next to their node, so what they receive is what it sent.
        if link.0 == "user" || link.1 == "user" {
            return Duration::ZERO;
        }
        let takes = self.slow.get(link).unwrap_or(&self.usual).clone();
        self.random.millis(takes)
    }
}

impl node::Network for Port {
    fn connect(&self, to: node::Endpoint) -> BoxFuture<'static, io::Result<Box<dyn node::Stream>>> {
        let port = self.clone();
        async move {
            let name = to.to_string();
            Ok(Box::new(port.dial(&name, WIDE).await?) as Box<dyn node::Stream>)
        }
        .boxed()
    }
}

impl End {
    /// When the bytes read last were written.
    pub fn written(&self) -> Instant {
        self.written
    }
}

impl Connected for End {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let wire = self.wire.clone();
        let mut wire = lock(&wire);
        if wire.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let stalled = wire.stalled;
        let pipe = &mut wire.pipes[1 - self.out];
        pipe.reader = Some(cx.waker().clone());
        let arrives = match pipe.chunks.front_mut() {
            _ if stalled => return Poll::Pending,
            None if pipe.closed => return Poll::Ready(Ok(())),
            None => return Poll::Pending,
            Some(chunk) if chunk.arrives <= now => {
                let length = chunk.bytes.len().min(buffer.remaining());
                buffer.put_slice(&chunk.bytes[..length]);
                chunk.bytes.advance(length);
                let written = chunk.written;
                if chunk.bytes.is_empty() {
                    pipe.chunks.pop_front();
                }
                pipe.waiting_bytes -= length;
                if let Some(writer) = pipe.writer.take() {
                    writer.wake();
                }
                drop(wire);
                self.written = written;
                return Poll::Ready(Ok(()));
            }
            Some(chunk) => chunk.arrives,
        };
        drop(wire);
        let mut sleep = Box::pin(tokio::time::sleep_until(arrives));
        // Paused time stands still while any task runs, so this is never ready at once.
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.waiting = Some(sleep);
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let delay = self.net.lock().delay(&self.pair);
        let now = Instant::now();
        let mut wire = lock(&self.wire);
        let broken = wire.broken;
        let pipe = &mut wire.pipes[self.out];
        if broken || pipe.abandoned {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = pipe.capacity.saturating_sub(pipe.waiting_bytes).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let arrives = pipe.last.map_or(now + delay, |last| last.max(now + delay));
        pipe.last = Some(arrives);
        pipe.waiting_bytes += room;
        pipe.chunks.push_back(Chunk { written: now, arrives, bytes: Bytes::copy_from_slice(&bytes[..room]) });
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.wire);
        let pipe = &mut wire.pipes[self.out];
        pipe.closed = true;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut wire = lock(&self.wire);
        wire.pipes[self.out].closed = true;
        // The reader is gone, and the writer is told.
        wire.pipes[1 - self.out].abandoned = true;
        wire.wake();
    }
}
