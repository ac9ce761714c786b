//! A TCP relay on loopback: a link that a test can cut, stall or slow down, each direction on its own.
//!
//! A cut link closes existing connections, and new ones at once. A stalled direction neither accepts nor delivers any
//! bytes, as if packets were lost: connections stay open, and what was in flight arrives when the link is restored.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes relayed at once.
const CHUNK_BYTES: usize = 16 << 10;

/// The state of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// Bytes pass.
    #[default]
    Open,
    /// Bytes wait.
    Stalled,
    /// Bytes pass with this delay.
    Slow(Duration),
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// All connections are closed.
    pub cut: bool,
    /// From the connecting side to the listening side.
    pub up: Flow,
    /// The opposite direction.
    pub down: Flow,
}

impl Mode {
    /// Everything passes.
    pub const WHOLE: Mode = Mode { cut: false, up: Flow::Open, down: Flow::Open };
    /// All connections are closed.
    pub const CUT: Mode = Mode { cut: true, up: Flow::Open, down: Flow::Open };
    /// Nothing passes, and neither side notices.
    pub const STALLED: Mode = Mode { cut: false, up: Flow::Stalled, down: Flow::Stalled };
}

/// A running relay; it ends when dropped.
#[derive(Debug)]
pub struct Relay {
    /// Its loopback port.
    pub port: u16,
    mode: Arc<watch::Sender<Mode>>,
    /// How many times all connections were broken.
    breaks: Arc<watch::Sender<u64>>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A relay to another loopback port, without faults.
    pub async fn start(target: u16) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let mode = Arc::new(watch::Sender::new(Mode::WHOLE));
        let breaks = Arc::new(watch::Sender::new(0));
        let accepting = tokio::spawn(accept(listener, target, mode.clone(), breaks.clone()));
        Ok(Relay { port, mode, breaks, accepting })
    }

    /// Breaks all existing connections; later ones live.
    pub fn break_all(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Sets the state of the link.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Mode::CUT);
    }
}

async fn accept(listener: TcpListener, target: u16, mode: Arc<watch::Sender<Mode>>, breaks: Arc<watch::Sender<u64>>) {
    loop {
        let Ok((incoming, _)) = listener.accept().await else { continue };
        let mode = mode.subscribe();
        if !mode.borrow().cut {
            tokio::spawn(relay(incoming, target, mode, breaks.subscribe()));
        }
    }
}

async fn relay(incoming: TcpStream, target: u16, mode: watch::Receiver<Mode>, mut breaks: watch::Receiver<u64>) {
    let mut watched = mode.clone();
    let both = async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
        let Ok(outgoing) = TcpStream::connect(address).await else { return };
        let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
        let (from_in, to_in) = incoming.into_split();
        let (from_out, to_out) = outgoing.into_split();
        tokio::join!(
            copy(from_in, to_out, mode.clone(), |mode| mode.up),
            copy(from_out, to_in, mode, |mode| mode.down)
        );
    };
    tokio::select! {
        () = both => {}
        // Both sockets are dropped.
        _ = watched.wait_for(|mode| mode.cut) => {}
        _ = breaks.changed() => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    flow: fn(&Mode) -> Flow,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await.unwrap_or(0);
        let now = match mode.wait_for(|mode| flow(mode) != Flow::Stalled).await {
            Ok(mode) => flow(&mode),
            Err(_) => return,
        };
        if let Flow::Slow(by) = now {
            tokio::time::sleep(by).await;
        }
        if read == 0 || to.write_all(&chunk[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_is_whole_stalled_and_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start(listener.local_addr().unwrap().port()).await.unwrap();
        let mut near = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut byte = [0];

        near.write_all(b"a").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");

        relay.set(Mode { up: Flow::Stalled, ..Mode::WHOLE });
        near.write_all(b"b").await.unwrap();
        far.write_all(b"c").await.unwrap();
        near.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"c", "the other direction passes");
        assert!(far.try_read(&mut byte).is_err(), "nothing came");
        relay.set(Mode::WHOLE);
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b", "what was on its way arrives");

        relay.break_all();
        assert_eq!(near.read(&mut byte).await.unwrap_or(0), 0, "the connection is broken");
        let mut near = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.write_all(b"d").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"d", "the next one lives");

        relay.set(Mode::CUT);
        assert_eq!(near.read(&mut byte).await.unwrap_or(0), 0, "the connection is closed");
        let mut again = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
        assert_eq!(again.read(&mut byte).await.unwrap_or(0), 0, "and so is the next");
    }
}
