//! The commands to a disk's writer, and the bounded queue that carries them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::growing::Growing;
use crate::index::Place;
use crate::object::Entry;
use crate::volume::{Segment, Volume};
use crate::{Key, WriteError};

/// Bytes of bodies and heads that one disk's queue and writer may hold; further fills wait.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// Maximum number of queued commands; most are small, and the others are also bounded in bytes.
pub(super) const COMMANDS_MAX: usize = 1024;

/// Receives the answer to a command.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// A command to the writer.
pub(crate) enum Command {
    /// Write a slice that was cut.
    Slice { growing: Arc<Growing>, number: u32, permit: OwnedSemaphorePermit },
    /// Write the last slice and the head. `visible` is answered once lookups find it, `durable` after the sync.
    Commit { growing: Arc<Growing>, visible: Reply<Arc<Entry>>, durable: Reply<bool>, permit: OwnedSemaphorePermit },
    /// Put `entry`'s head over its body if the head now lies at `expected`; else the answer is `None`.
    Head { entry: Box<Entry>, expected: Place, reply: Reply<Option<Arc<Entry>>> },
    /// Remove the object whose head is at `expected`, or wherever it is; the answer is `false` if it is not there. If
    /// `durable`, the answer waits for a sync.
    Remove { key: Key, expected: Option<Place>, durable: bool, reply: Reply<bool> },
    /// Answer which is the oldest segment that objects made visible from now on may need.
    OldestOfNew { reply: Reply<u32> },
    /// Remove the oldest segments, those below `before`: nothing in them is needed any more.
    Reclaim { before: u32, reply: Reply<bool> },
    /// Answer when everything sent before is durable.
    Sync { reply: Reply<bool> },
    /// Answer when `segment` is durable up to `end`, or never will be.
    Settle { segment: Arc<Segment>, end: u64, reply: Reply<bool> },
    /// Sync, seal and end.
    Close { reply: Reply<bool> },
}

impl Command {
    pub(super) fn fail(self, error: &WriteError) {
        // A caller that no longer waits gets no answer.
        match self {
            Command::Slice { growing, .. } => growing.fail(error),
            Command::Commit { growing, visible, .. } => {
                growing.fail(error);
                let _ = visible.send(Err(error.clone()));
            }
            Command::Head { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Close { reply } => drop(reply.send(Ok(true))),
            Command::OldestOfNew { reply } => drop(reply.send(Err(error.clone()))),
            Command::Remove { reply, .. }
            | Command::Reclaim { reply, .. }
            | Command::Sync { reply }
            | Command::Settle { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// The handle to a writer. Once its disk is out of service, every use fails with that error.
#[derive(Clone)]
pub(crate) struct Queue {
    volume: Arc<Volume>,
    commands: mpsc::Sender<Command>,
    in_flight: Arc<Semaphore>,
}

impl Queue {
    /// A queue, and the receiver of its commands.
    pub(super) fn new(volume: Arc<Volume>) -> (Queue, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
        (Queue { volume, commands: sender, in_flight }, commands)
    }

    /// Waits until `bytes` more may be in flight. The permit travels with the command.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, WriteError> {
        let bytes = bytes.min(IN_FLIGHT_BYTES_MAX) as u32;
        self.in_flight.clone().acquire_many_owned(bytes).await.map_err(|_| self.ended())
    }

    /// Waits for its turn among those waiting for room, until some is left: bytes gathered for a slice must not outrun
    /// the disk. It takes none of the room, so partial slices delay nobody. If the writer has ended, the commit reports
    /// it.
    pub(crate) async fn turn(&self) {
        let _ = self.in_flight.acquire().await;
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), WriteError> {
        self.commands.send(command).await.map_err(|_| self.ended())
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| self.ended())?
    }

    /// The error if the writer does not answer.
    pub(crate) fn ended(&self) -> WriteError {
        if self.volume.outage.is_out() { self.volume.out_of_service() } else { WriteError::Closed }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    pub(crate) fn in_flight_bytes(&self) -> u64 {
        (IN_FLIGHT_BYTES_MAX - self.in_flight.available_permits()) as u64
    }
}
