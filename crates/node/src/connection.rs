//! A client's connection, as hyper and h2 see it: it reports when everything written is handed over, and bounds every wait
//! for the client.
//!
//! hyper's own timeouts do not suffice: the one for the head of a request also ends idle connections, and HTTP/2 has
//! none for a stream whose client never reads its answer. Here the connection itself tracks whose turn it is.
//!
//! # What always holds
//!
//! - On HTTP/1.1 the head of every request, and on HTTP/2 the preface, is complete within [`HEAD_MAX`] of its first
//!   byte.
//! - A connection without requests ends after [`IDLE_MAX`], and one whose client reads nothing of an answer after
//!   [`WRITE_STALL_MAX`], or much sooner while the store has no room in memory. While the node owes an answer, only a
//!   socket that accepts nothing ends it.
//! - On HTTP/2, PING and its answer are no sign of life; bytes of bodies that the client takes are, in however small
//!   pieces.
//! - HTTP/2 output is gathered, and written when the connection is polled next: only then is a header with the kernel.
//! - An HTTP/1.1 connection has neither hyper's state nor a buffer until a request needs them ([`Connection::plain`]).

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::flood::{Frames, Heads, PREFACE};
use crate::hot::{self, Hit, Seen};
use crate::interim;
use crate::listener::{Handoff, RECHECK};
use crate::metrics::{Held, Metrics, Refusal};
use crate::network::Stream;

/// Longest wait for the head of a request from its first byte on, and for the first byte of a connection.
pub(crate) const HEAD_MAX: Duration = Duration::from_secs(15);

/// How long a connection without requests is kept.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

/// The same while more than three quarters of the connections a node may have are taken: idle ones make room for others.
/// And how often idle connections look at that.
const IDLE_CROWDED_MAX: Duration = Duration::from_secs(5);
const CROWDED_CHECK: Duration = Duration::from_secs(10);

/// Longest time a client may read nothing while there is something to read.
pub(crate) const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// The same while the store has no room in memory, because the memory that such a client holds is needed for others;
/// and how often this is checked where nothing is written.
pub(crate) const WRITE_STALL_EXHAUSTED_MAX: Duration = Duration::from_secs(2);
const EXHAUSTED_CHECK: Duration = Duration::from_secs(5);

/// Most bytes of HTTP/2 frames that are gathered into one write, and the longest piece that is copied for that. The
/// library would write and flush every frame by itself.
const GATHERED_MAX: usize = 128 << 10;
const GATHERED_PIECE_MAX: usize = 16 << 10;

thread_local! {
    /// The buffer in which the connections of a thread gather, one after the other: most write it out before the next
    /// one is polled.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes that are read at once before hyper takes over.
const READ_BYTES: usize = 8 << 10;

/// Bytes of bodies that show that an HTTP/2 client reads on: it may open its windows by less than that at a time, but
/// not by one byte a minute.
const PROGRESS_BYTES: usize = 8 << 10;

/// Whose turn it is on one connection.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Requests so far.
    begun: AtomicU64,
    /// Requests whose exchange is not over.
    running: AtomicU32,
    /// Those of them in which the node owes the next step.
    owed: AtomicU32,
    /// Rises with every step of a request.
    moves: AtomicU64,
}

impl Turn {
    /// A request came; the node owes an answer.
    pub(crate) fn begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.running.fetch_add(1, Ordering::Relaxed);
        self.owed.fetch_add(1, Ordering::Relaxed);
        self.moves();
    }

    /// The node now owes the next step of a request, or no longer does.
    pub(crate) fn owes(&self, owes: bool) {
        match owes {
            true => self.owed.fetch_add(1, Ordering::Relaxed),
            false => self.owed.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// A request made a step.
    pub(crate) fn moves(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// A request, in which the node owes nothing, is over.
    pub(crate) fn ends(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.moves();
    }

    /// Requests so far.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }
}

/// The protocol that a client speaks, by the first bytes it sent.
pub(crate) struct Greeting {
    pub(crate) http2: bool,
    /// Those bytes; hyper reads them first.
    ahead: Vec<u8>,
    since: Instant,
}

/// Reads until the client's protocol is clear; `None` if the client does not send enough in time.
pub(crate) async fn greet<S: Stream>(stream: &mut S, metrics: &Metrics) -> Option<Greeting> {
    let mut ahead = Vec::with_capacity(PREFACE.len());
    let first = tokio::time::timeout(HEAD_MAX, stream.take(PREFACE.len() as u64).read_buf(&mut ahead)).await;
    if !matches!(first, Ok(Ok(1..))) {
        return None;
    }
    let since = Instant::now();
    while ahead.len() < PREFACE.len() && PREFACE.starts_with(&ahead) {
        let room = (PREFACE.len() - ahead.len()) as u64;
        match tokio::time::timeout_at(since + HEAD_MAX, stream.take(room).read_buf(&mut ahead)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return None,
            Err(_) => {
                metrics.refused(Refusal::SlowHead);
                return None;
            }
        }
    }
    Some(Greeting { http2: ahead == PREFACE, ahead, since })
}

/// A client's socket.
pub(crate) struct Connection<S> {
    stream: S,
    handoff: Arc<Handoff>,
    /// Bytes read before hyper took over, which it reads first.
    ahead: Vec<u8>,
    /// The client's frames; HTTP/2 alone.
    frames: Option<Frames>,
    /// The frames written on HTTP/2, and bytes of bodies among them since the client last made progress.
    written: Heads,
    taken: usize,
    /// How many requests came before the head that is coming in, and since when it has been, once the clock was read
    /// for it. HTTP/1.1 alone.
    head: Option<(u64, Option<Instant>)>,
    /// When there was progress last, and the count of steps then.
    moved: Instant,
    moves: u64,
    look: Option<Pin<Box<Sleep>>>,
    /// The task that is woken when `look` is due.
    looks: Option<Waker>,
    /// Since when the client's socket accepts nothing, and when to check again.
    stalled: Option<(Instant, Pin<Box<Sleep>>, Held)>,
    above: Above,
    /// A hit that is answered here, below hyper.
    hit: Option<Box<Hit>>,
    /// HTTP/2 output that is gathered; `poured` is how much of it is written.
    gathered: Vec<u8>,
    /// The poll of the connection's task in which the last of it was gathered.
    gathered_in: u64,
    poured: usize,
    /// Interim answers that are being written.
    interim: Vec<u8>,
    /// hyper is in the middle of a message, and there may be more of it in its buffer.
    midway: bool,
}

/// Which bytes of the client hyper has.
enum Above {
    /// None that is not answered in full: the next request may be answered here.
    Nothing,
    /// One whole request; so many came before it.
    One(u64),
    /// Unknown, from now on.
    More,
}

/// What a connection is waiting for, when it is the client's turn.
enum Waits {
    /// For the rest of a head.
    Head,
    /// For a next request.
    Request,
    /// For the client to read its answer.
    Reader,
}

/// How long a client may read nothing at present.
fn stall_max(handoff: &Handoff) -> Duration {
    match handoff.store().is_exhausted() {
        true => WRITE_STALL_EXHAUSTED_MAX,
        false => WRITE_STALL_MAX,
    }
}

/// How long a connection may be idle, as things stand.
fn idle_max(handoff: &Handoff) -> Duration {
    match handoff.front.is_crowded() {
        true => IDLE_CROWDED_MAX,
        false => IDLE_MAX,
    }
}

/// Counts a client that read nothing for so long and is cut off.
fn refuse_reader(handoff: &Handoff, stalled: Duration) {
    let why = if stalled < WRITE_STALL_MAX { Refusal::Memory } else { Refusal::SlowRead };
    handoff.metrics().refused(why);
}

impl<S> Connection<S> {
    pub(crate) fn new(stream: S, greeting: Greeting, handoff: Arc<Handoff>) -> Connection<S> {
        let Greeting { http2, ahead, since } = greeting;
        Connection {
            stream,
            handoff,
            ahead,
            frames: http2.then(|| Frames::new(since)),
            written: Heads::default(),
            taken: 0,
            head: (!http2).then_some((0, Some(since))),
            moved: since,
            moves: 0,
            look: None,
            looks: None,
            stalled: None,
            above: if http2 { Above::More } else { Above::Nothing },
            hit: None,
            gathered: Vec::new(),
            gathered_in: 0,
            poured: 0,
            interim: Vec::new(),
            midway: false,
        }
    }

    /// Looks at bytes that came.
    fn saw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let turn = &self.handoff.turn;
        match &mut self.frames {
            Some(frames) => {
                let now = Instant::now();
                self.handoff.hears(now);
                frames.see(bytes, now).map_err(|flood| {
                    self.handoff.metrics().refused(Refusal::Flood);
                    io::Error::other(format!("{flood:?}"))
                })
            }
            None => {
                let begun = turn.begun();
                if turn.running.load(Ordering::Relaxed) == 0 && self.head.is_none_or(|(before, _)| before != begun) {
                    self.head = Some((begun, None)); // the clock is read if there is more to wait for
                }
                Ok(())
            }
        }
    }

    /// Notes when there was progress.
    fn note(&mut self, wrote: bool, now: impl FnOnce() -> Instant) {
        let moves = self.handoff.turn.moves.load(Ordering::Relaxed);
        if wrote || moves != self.moves {
            (self.moves, self.moved) = (moves, now());
        }
    }

    /// Until when the client may go on like this, and what the connection waits for; `None` while it is the node's
    /// turn.
    fn bound(&mut self, now: Instant) -> (Instant, Option<Waits>) {
        self.note(false, || now);
        let turn = &self.handoff.turn;
        if turn.owed.load(Ordering::Relaxed) > 0 {
            return (now + IDLE_MAX, None);
        }
        let running = turn.running.load(Ordering::Relaxed) > 0;
        // For hyper a short body is over once hyper has taken it, even if the client has not.
        if let Some((since, ..)) = &self.stalled {
            return (*since + stall_max(&self.handoff), Some(Waits::Reader));
        }
        match &mut self.head {
            Some((before, since)) if *before == turn.begun() && !running => {
                (*since.get_or_insert(now) + HEAD_MAX, Some(Waits::Head))
            }
            _ if running => (self.moved + stall_max(&self.handoff), Some(Waits::Reader)),
            _ => (self.moved + idle_max(&self.handoff), Some(Waits::Request)),
        }
    }

    /// Nothing came: ends the wait once the client's time is up.
    fn patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let now = Instant::now();
            let (until, waits) = self.bound(now);
            let next = match waits {
                Some(Waits::Reader) => until.min(now + EXHAUSTED_CHECK),
                // An answer may end without another call of this: it is the time for idle connections that counts then.
                Some(Waits::Request) | None => until.min(now + CROWDED_CHECK),
                Some(Waits::Head) => until,
            };
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            // A timer that fires too early is left as it is: one check too many is cheaper than moving it with every
            // request.
            if look.deadline() > next {
                look.as_mut().reset(next);
                self.looks = None;
            }
            if now < look.deadline() && self.looks.as_ref().is_some_and(|looks| looks.will_wake(cx.waker())) {
                return Poll::Pending; // it was asked to wake this very task
            }
            self.looks = Some(cx.waker().clone());
            ready!(look.as_mut().poll(cx));
            self.looks = None;
            if Instant::now() < until {
                look.as_mut().reset(next);
                continue;
            }
            match waits {
                None => look.as_mut().reset(Instant::now() + IDLE_MAX),
                Some(Waits::Request) => return Poll::Ready(Ok(())), // as if it had closed the connection
                Some(Waits::Head) => self.handoff.metrics().refused(Refusal::SlowHead),
                Some(Waits::Reader) => refuse_reader(&self.handoff, self.moved.elapsed()),
            }
            if waits.is_some() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }

    /// Passes a finished write on and notes its progress; bounds one that is pending.
    fn noted(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let written = ready!(self.bounded(cx, poll));
        let moved = match &self.frames {
            Some(_) => self.taken >= PROGRESS_BYTES,
            None => written.as_ref().is_ok_and(|bytes| *bytes > 0),
        };
        if moved && written.is_ok() {
            self.taken = 0;
            self.note(true, Instant::now);
        }
        Poll::Ready(written)
    }

    /// Counts the bytes of bodies in the first `length` bytes of HTTP/2 output.
    fn count_taken(&mut self, pieces: &[io::IoSlice<'_>], mut length: usize) {
        for piece in pieces {
            let mut bytes = &piece[..piece.len().min(length)];
            length -= bytes.len();
            while let Some(head) = self.written.next(&mut bytes) {
                self.taken += if head.is_data() { head.length } else { 0 };
            }
        }
    }

    /// Passes a finished write on; bounds one that is pending.
    fn bounded(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        self.handoff.blocked();
        let (since, look, _) = self.stalled.get_or_insert_with(|| {
            let held = self.handoff.metrics().connections_stalled.hold();
            (Instant::now(), Box::pin(tokio::time::sleep(RECHECK)), held)
        });
        loop {
            ready!(look.as_mut().poll(cx));
            let waited = since.elapsed();
            let stalled = waited >= stall_max(&self.handoff);
            if stalled || self.handoff.is_overtaken() {
                if stalled {
                    refuse_reader(&self.handoff, waited);
                }
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            look.as_mut().reset(Instant::now() + RECHECK);
        }
    }
}

impl<S: Stream> Connection<S> {
    /// Answers plain hits here until there is a request for hyper, which then reads it; false if the client is gone. A
    /// connection that waits here has no buffer.
    pub(crate) async fn plain(&mut self) -> io::Result<bool> {
        let mut came = Vec::new();
        std::future::poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut buffer = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut *self).poll_read(cx, &mut buffer));
            came.extend_from_slice(buffer.filled());
            Poll::Ready(read)
        })
        .await?;
        let more = !came.is_empty();
        came.append(&mut self.ahead);
        self.ahead = came;
        if let Above::One(_) | Above::More = self.above {
            self.above = Above::Nothing; // hyper has nothing yet
        }
        Ok(more)
    }

    /// Writes the hit that is being answered here to its end, and takes no other request.
    pub(crate) async fn last(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.answer(cx)).await
    }

    /// Writes the hit that is answered here, if there is one, to its end.
    fn answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(mut hit) = self.hit.take() else { return Poll::Ready(Ok(())) };
        while !hit.is_written() {
            let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, &hit.rest());
            match self.bounded(cx, poll) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => hit.wrote(bytes),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.hit = Some(hit);
                    return Poll::Pending;
                }
            }
        }
        let flushed = self.poll_flushed(cx);
        if flushed.is_pending() {
            self.hit = Some(hit);
        }
        flushed
    }

    /// Writes interim answers of origins, unless hyper is in the middle of a message.
    fn inform(&mut self, cx: &mut Context<'_>, late: bool) -> Poll<io::Result<()>> {
        if self.midway {
            return Poll::Ready(Ok(()));
        }
        if self.interim.is_empty() {
            self.interim = self.handoff.interims.next(cx.waker(), late).iter().flat_map(interim::written).collect();
        }
        while !self.interim.is_empty() {
            let poll = Pin::new(&mut self.stream).poll_write(cx, &self.interim);
            match ready!(self.noted(cx, poll))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => _ = self.interim.drain(..bytes),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a piece of HTTP/2 output, to be written together with others.
    fn gather(&mut self, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let small = length <= GATHERED_PIECE_MAX;
        if !self.gathered.is_empty() && (!small || self.gathered.len() + length > GATHERED_MAX) {
            ready!(self.pour(cx))?;
        }
        if !small {
            let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
            if let Poll::Ready(Ok(written)) = &poll {
                self.count_taken(pieces, *written);
            }
            return self.noted(cx, poll);
        }
        self.count_taken(pieces, length);
        if self.gathered.capacity() == 0 {
            self.gathered = SPARE.take();
            self.gathered.reserve_exact(GATHERED_MAX);
        }
        pieces.iter().for_each(|piece| self.gathered.extend_from_slice(piece));
        self.gathered_in = self.handoff.polls.load(Ordering::Relaxed);
        self.handoff.gathers();
        Poll::Ready(Ok(length))
    }

    /// Hands the gathered bytes to the kernel.
    fn pour(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.poured < self.gathered.len() {
            let poll = Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.poured..]);
            match ready!(self.noted(cx, poll))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.poured += bytes,
            }
        }
        let poll = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        ready!(self.noted(cx, poll))?;
        self.poured = 0;
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        SPARE.set(gathered);
        self.handoff.poured();
        Poll::Ready(Ok(()))
    }

    /// Hands everything to the kernel.
    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        // With TLS a flush waits for the client, as a write does.
        let flushed = ready!(self.noted(cx, poll)).map(drop);
        self.handoff.flushed();
        Poll::Ready(flushed)
    }
}

impl<S: Stream> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.answer(cx))?;
        // Bytes gathered in this very poll are written at the next one: requests that came together are answered
        // together. A client that reads nothing may still send something, so a pending write does not end the read.
        if !this.gathered.is_empty()
            && this.gathered_in != this.handoff.polls.load(Ordering::Relaxed)
            && let Poll::Ready(Err(error)) = this.pour(cx)
        {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        loop {
            if !this.ahead.is_empty() {
                let taken = this.ahead.len().min(buffer.remaining());
                buffer.put_slice(&this.ahead[..taken]);
                this.ahead.drain(..taken);
            }
            let more = match buffer.remaining() {
                0 => Poll::Pending,
                _ => Pin::new(&mut this.stream).poll_read(cx, buffer),
            };
            let came = &buffer.filled()[before..];
            match more {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if came.is_empty() => return this.patience(cx),
                _ => this.saw(came)?,
            }
            this.above = match this.above {
                Above::Nothing if came.is_empty() => Above::Nothing,
                Above::Nothing => match hot::see(&this.handoff, came) {
                    Seen::Hit(hit) => {
                        this.hit = Some(hit);
                        buffer.set_filled(before);
                        ready!(this.answer(cx))?;
                        continue;
                    }
                    Seen::Whole => Above::One(this.handoff.turn.begun()),
                    Seen::Other => Above::More,
                },
                Above::One(_) | Above::More => Above::More,
            };
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: Stream> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.frames.is_some() {
            return self.gather(cx, &[io::IoSlice::new(bytes)]);
        }
        ready!(self.answer(cx))?;
        ready!(self.inform(cx, false))?;
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.midway |= poll.is_ready();
        self.noted(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.frames.is_some() {
            return self.gather(cx, bytes);
        }
        ready!(self.answer(cx))?;
        ready!(self.inform(cx, false))?;
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        // The first piece that hyper writes of an answer contains its head.
        let first = bytes.first().map_or(0, |piece| piece.len());
        if !self.midway && matches!(poll, Poll::Ready(Ok(written)) if written >= first) {
            self.handoff.head_sent();
        }
        self.midway |= poll.is_ready();
        self.noted(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frames.is_some() {
            match self.gathered.is_empty() {
                true => {
                    let poll = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
                    ready!(self.noted(cx, poll))?;
                }
                // More output may follow; the first thing that this task does when polled again is to write it out.
                // Bytes gathered in an earlier poll were tried in this one, and the socket wakes the task when it
                // accepts more.
                false if self.gathered_in == self.handoff.polls.load(Ordering::Relaxed) => cx.waker().wake_by_ref(),
                false => {}
            }
            self.handoff.accepted();
            return Poll::Ready(Ok(()));
        }
        ready!(self.answer(cx))?;
        // Called when everything before it is written: hyper flushes its own buffer first.
        let late = std::mem::take(&mut self.midway);
        ready!(self.inform(cx, late))?;
        let flushed = ready!(self.poll_flushed(cx));
        let turn = &self.handoff.turn;
        if let Above::One(before) = self.above
            && turn.begun() == before + 1
            && turn.running.load(Ordering::Relaxed) == 0
        {
            self.above = Above::Nothing;
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.answer(cx))?;
        if !self.gathered.is_empty() {
            ready!(self.pour(cx))?;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
