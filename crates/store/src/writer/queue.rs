//! What a disk's writer is asked to do, and the bounded way to it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::growing::Growing;
use crate::index::Place;
use crate::object::Entry;
use crate::tier::{Segment, Tier};
use crate::{Key, WriteError};

/// Bytes of bodies and heads that one disk's queue and writer hold; further fills wait.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// Commands that wait for a writer; most are small, and those that are not are bounded in bytes too.
pub(super) const COMMANDS_MAX: usize = 1024;

/// Where the answer to a command goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, WriteError>>;

/// What a writer is asked to do.
pub(crate) enum Command {
    /// Write a slice that was cut.
    Slice { growing: Arc<Growing>, number: u32, permit: OwnedSemaphorePermit },
    /// Write the last slice and the head. `visible` is answered once lookups find it, `durable` after the sync.
    Commit { growing: Arc<Growing>, visible: Reply<Arc<Entry>>, durable: Reply<bool>, permit: OwnedSemaphorePermit },
    /// Put `entry`'s head over its body if the head now lies at `expected`; else the answer is `None`.
    Head { entry: Box<Entry>, expected: Place, reply: Reply<Option<Arc<Entry>>> },
    /// Remove the object whose head lies at `expected`; `false` if it is another one now. If `durable`, the answer waits for a sync.
    Remove { key: Key, expected: Place, durable: bool, reply: Reply<bool> },
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
        // Who no longer waits for an answer does not get one.
        match self {
            Command::Slice { growing, .. } => growing.fail(error),
            Command::Commit { growing, visible, .. } => {
                growing.fail(error);
                let _ = visible.send(Err(error.clone()));
            }
            Command::Head { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Close { reply } => drop(reply.send(Ok(true))),
            Command::Remove { reply, .. }
            | Command::Reclaim { reply, .. }
            | Command::Sync { reply }
            | Command::Settle { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// The way to a writer. Once its disk is out of service every use fails with that.
#[derive(Clone)]
pub(crate) struct Queue {
    tier: Arc<Tier>,
    commands: mpsc::Sender<Command>,
    in_flight: Arc<Semaphore>,
}

impl Queue {
    /// A queue, and where its commands come out.
    pub(super) fn new(tier: Arc<Tier>) -> (Queue, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
        (Queue { tier, commands: sender, in_flight }, commands)
    }

    /// Waits until `bytes` more may be in flight. The permit goes with the command.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, WriteError> {
        let bytes = bytes.min(IN_FLIGHT_BYTES_MAX) as u32;
        self.in_flight.clone().acquire_many_owned(bytes).await.map_err(|_| self.ended())
    }

    /// Waits until those who waited for room before have got theirs and some is left: what gathers here for a slice must not outrun
    /// the disk. Nothing is taken, so slices that are not full hold nobody up. When the writer has ended, whoever commits is told.
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

    /// Why the writer does not answer.
    pub(crate) fn ended(&self) -> WriteError {
        if self.tier.outage.is_out() { self.tier.out_of_service() } else { WriteError::Closed }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    pub(crate) fn in_flight_bytes(&self) -> u64 {
        (IN_FLIGHT_BYTES_MAX - self.in_flight.available_permits()) as u64
    }
}
