//! Connections that are accepted: how many there may be, and how long each may do nothing.
//!
//! A TCP connection costs its peer next to nothing, and costs this process a file descriptor and buffers. Bytes are no
//! sign of use, since a peer may answer PINGs for ever. So a connection lives by what is under way on it: a request, or
//! the session of a node.
//!
//! # What always holds
//!
//! - A connection on which nothing is under way ends by itself: after [`Bounds::first`] if nothing ever was, else after
//!   [`Bounds::idle`]. Reads and writes then fail, so whatever serves the connection drops it.
//! - A connection for which there is no room is closed at once, so it cannot keep others waiting.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;

use crate::strangers::{Stranger, Strangers};

/// The pause after a connection could not be accepted. Most likely the process is out of file descriptors, and other
/// connections must end first; without a pause the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The slowest that a peer may take what it asked for, in bytes per second.
const TAKEN_PER_SECOND_MIN: u64 = 16 << 10;

/// The bounds of one listener.
pub(crate) struct Bounds {
    /// The room for its connections.
    pub(crate) room: Arc<Strangers>,
    /// How long a connection may last until something is under way for the first time.
    pub(crate) first: Duration,
    /// How long a connection may last after the last thing that was under way.
    pub(crate) idle: Duration,
}

/// The connections among `incoming` for which there is room. What fails to be accepted is left out, after a pause.
pub(crate) fn within<S>(
    incoming: impl tokio_stream::Stream<Item = io::Result<(S, Option<IpAddr>)>>,
    bounds: Bounds,
) -> impl tokio_stream::Stream<Item = Connection<S>> {
    let accepted = incoming.then(|accepted| async move {
        if let Err(error) = &accepted {
            tracing::warn!(%error, "connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        accepted
    });
    accepted.filter_map(move |accepted| {
        let (stream, from) = accepted.ok()?;
        let place = bounds.room.let_in(from)?;
        Some(Connection::new(stream, from, place, &bounds))
    })
}

/// The peer of one connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Peer(Arc<Shared>);

struct Shared {
    from: Option<IpAddr>,
    idle: Duration,
    pace: Mutex<Pace>,
}

struct Pace {
    under_way: usize,
    /// When the connection ends, unless something is under way.
    until: Instant,
    place: Option<Stranger>,
}

impl Peer {
    /// The peer's address, if it is known.
    pub(crate) fn from(&self) -> Option<IpAddr> {
        self.0.from
    }

    /// Keeps the connection open until the result is dropped.
    pub(crate) fn begin(&self) -> UnderWay {
        self.pace().under_way += 1;
        UnderWay { peer: self.clone(), answer_bytes: 0 }
    }

    /// Frees the connection's place: the peer has proven who it is, and is counted as such.
    pub(crate) fn admitted(&self) {
        self.pace().place = None;
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.pace.lock().expect("no holder of this lock can panic")
    }

    /// When the connection ends if nothing happens from now on.
    fn until(&self) -> Instant {
        let pace = self.pace();
        if pace.under_way > 0 { Instant::now() + self.0.idle } else { pace.until }
    }
}

/// Something that is under way on a connection.
pub(crate) struct UnderWay {
    peer: Peer,
    answer_bytes: u64,
}

impl UnderWay {
    /// Ends it. The peer gets time to take an answer of this size.
    pub(crate) fn answered(mut self, bytes: u64) {
        self.answer_bytes = bytes;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let taking = Duration::from_secs(self.answer_bytes / TAKEN_PER_SECOND_MIN);
        let until = Instant::now() + self.peer.0.idle + taking;
        let mut pace = self.peer.pace();
        pace.under_way -= 1;
        pace.until = pace.until.max(until);
    }
}

/// A connection that ends by itself when nothing is under way on it for too long.
pub(crate) struct Connection<S> {
    stream: S,
    peer: Peer,
    timer: Pin<Box<Sleep>>,
}

impl<S> Connection<S> {
    fn new(stream: S, from: Option<IpAddr>, place: Stranger, bounds: &Bounds) -> Connection<S> {
        let until = Instant::now() + bounds.first;
        let pace = Mutex::new(Pace { under_way: 0, until, place: Some(place) });
        let peer = Peer(Arc::new(Shared { from, idle: bounds.idle, pace }));
        Connection { stream, peer, timer: Box::pin(tokio::time::sleep_until(until)) }
    }

    /// The peer of the connection.
    pub(crate) fn peer(&self) -> Peer {
        self.peer.clone()
    }

    /// Fails when the connection's time is over; wakes the task at that moment otherwise. The timer may be behind the
    /// time that the connection has, so it is set anew only when it fires.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let until = self.peer.until();
            if until <= Instant::now() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was under way for too long"));
            }
            self.timer.as_mut().reset(until);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Requests on the link carry the peer of their connection.
impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_that_cannot_be_accepted_costs_a_pause() {
        const EMFILE: i32 = 24;
        let failed = || Err(io::Error::from_raw_os_error(EMFILE));
        let incoming = tokio_stream::iter([failed(), failed(), Ok((tokio::io::empty(), None))]);
        let second = Duration::from_secs(1);
        let bounds = Bounds { room: Strangers::new(1, 1), first: second, idle: second };
        let began = Instant::now();
        let mut connections = Box::pin(within(incoming, bounds));
        assert!(connections.next().await.is_some());
        assert!(began.elapsed() >= 2 * ACCEPT_PAUSE, "{:?}", began.elapsed());
    }
}
