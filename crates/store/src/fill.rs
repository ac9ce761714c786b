//! Fills: bodies on their way into the store, and handles to follow them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::config::room_of_fills;
use crate::format::HeadRecord;
use crate::growing::Growing;
use crate::index::Place;
use crate::memory::Memory;
use crate::object::Entry;
use crate::stats::Counters;
use crate::store::check_head;
use crate::writer::{Command, Queue};
use crate::{Object, Reader, WriteError};

/// A body on its way into the store. Dropping it without [`Fill::finish`] aborts it: nothing becomes visible, and
/// followers get [`crate::ReadError::FillFailed`].
pub struct Fill {
    pub(crate) growing: Arc<Growing>,
    /// Cloned by each follower, so its reference count is the number of followers.
    pub(crate) followed: Arc<()>,
    /// The disk's writer, if there is a disk.
    pub(crate) queue: Option<Queue>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slice_bytes: usize,
    /// The announced length in bytes, if any.
    pub(crate) announced: Option<u64>,
    /// The largest body that can be stored, in bytes.
    pub(crate) most: u64,
    /// Number of slices handed to the writer.
    pub(crate) sent: u32,
    /// Bytes not yet handed to the writer.
    pub(crate) gathered: u64,
    /// Bytes reserved for those.
    pub(crate) reserved: u64,
    /// Whether the writer has been told the outcome.
    pub(crate) committed: bool,
}

impl Fill {
    /// The number of followers, and of readers of them.
    pub fn followers(&self) -> usize {
        Arc::strong_count(&self.followed) - 1
    }

    /// Appends bytes to the body. Waits while the bytes in flight to the disk are at their bound, never for a follower.
    /// After an error the fill is dead: every later call fails too. Dropping the future does not undo it: the bytes are
    /// appended all the same.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        if let Some(error) = self.growing.failure() {
            return Err(error);
        }
        let length = self.growing.length() + bytes.len() as u64;
        let announced = self.announced.unwrap_or(u64::MAX);
        if length > announced {
            return Err(self.fail(WriteError::LengthMismatch { announced, appended: length }));
        }
        if length > self.most {
            return Err(self.fail(WriteError::TooLarge { length, most: self.most }));
        }
        if self.queue.is_none() {
            self.reserve(length)?;
        }
        self.gather(bytes.len() as u64);
        self.growing.push(bytes, self.slice_bytes);
        let cut = self.growing.slices();
        self.send_slices(cut).await?;
        if let Some(queue) = &self.queue {
            queue.turn().await;
        }
        Ok(())
    }

    /// Reserves memory for a body of unannounced length that stays in memory as a whole.
    fn reserve(&mut self, length: u64) -> Result<(), WriteError> {
        let Some(more) = length.checked_sub(self.reserved).filter(|more| *more > 0) else { return Ok(()) };
        let (more, most) = (more.max(self.slice_bytes as u64), room_of_fills(self.memory.capacity()));
        if !self.counters.reserve(more, most) {
            return Err(self.fail(WriteError::Busy { most }));
        }
        self.reserved += more;
        Ok(())
    }

    /// Replaces the head given to `begin_fill`: the object has the new one from the moment it becomes visible. Fails
    /// with [`WriteError::HeadTooLarge`], and then changes nothing.
    pub fn set_head(&mut self, head: &[u8]) -> Result<(), WriteError> {
        check_head(&self.growing.full_key, head)?;
        self.growing.set_head(head);
        Ok(())
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        self.growing.length()
    }

    /// A handle from which any number of readers can follow the fill, each at its own pace.
    pub fn follow(&self) -> Follower {
        Follower { growing: self.growing.clone(), _followed: self.followed.clone() }
    }

    /// Makes the object visible and durable: returns only after its head and all its slices are covered by a finished sync.
    /// Fails if fewer or more bytes were appended than `begin_fill` was told.
    pub async fn finish(self) -> Result<Object, WriteError> {
        let (object, durable) = self.finish_visible().await?;
        durable.await?;
        Ok(object)
    }

    /// Makes the object visible to `lookup` and returns it; the second value resolves when it is durable.
    pub async fn finish_visible(mut self) -> Result<(Object, Durable), WriteError> {
        if let Some(error) = self.growing.failure() {
            return Err(error);
        }
        let appended = self.growing.length();
        if let Some(announced) = self.announced.filter(|announced| *announced != appended) {
            return Err(self.fail(WriteError::LengthMismatch { announced, appended }));
        }
        self.growing.complete();
        let slices = self.growing.slices();
        let Some(queue) = self.queue.clone() else { return Ok(self.commit_to_memory()) };

        // The last slice goes with the head, so that a small body and its head take one write and one read.
        self.send_slices(slices.saturating_sub(1)).await?;
        let tail = slices.checked_sub(1).and_then(|last| self.growing.held(last));
        let bytes = tail.map_or(0, |(_, bytes)| bytes.len()) + self.growing.head().len() + self.growing.full_key.len();
        let permit = queue.admit(bytes).await?;
        let (visible, became_visible) = oneshot::channel();
        let (durable, became_durable) = oneshot::channel();
        let growing = self.growing.clone();
        queue.send(Command::Commit { growing, visible, durable, permit }).await?;
        self.committed = true;
        let entry = became_visible.await.map_err(|_| queue.ended())??;
        let durable = async move { became_durable.await.map_err(|_| queue.ended())?.map(drop) };
        Ok((Object { entry, volume: self.growing.volume.clone() }, Durable(durable.boxed())))
    }

    /// Ends the body without making it visible: followers read to its end, and no lookup finds it. Fails as
    /// [`Fill::finish_visible`] does.
    pub fn finish_unseen(mut self) -> Result<(), WriteError> {
        if let Some(error) = self.growing.failure() {
            return Err(error);
        }
        let appended = self.growing.length();
        if let Some(announced) = self.announced.filter(|announced| *announced != appended) {
            return Err(self.fail(WriteError::LengthMismatch { announced, appended }));
        }
        self.growing.complete();
        self.committed = true; // nothing is to be committed
        Ok(())
    }

    /// Hands slices to the writer until it has the first `until` of them.
    async fn send_slices(&mut self, until: u32) -> Result<(), WriteError> {
        let Some(queue) = self.queue.clone() else { return Ok(()) };
        while self.sent < until {
            let number = self.sent;
            let Some((at, _)) = self.growing.held(number) else {
                return Err(self.growing.failure().unwrap_or(WriteError::Closed));
            };
            let length = u64::from(at.length);
            let sent = async {
                let permit = queue.admit(length as usize).await?;
                queue.send(Command::Slice { growing: self.growing.clone(), number, permit }).await
            };
            if let Err(error) = sent.await {
                return Err(self.fail(error));
            }
            self.sent += 1;
            self.release(length);
        }
        Ok(())
    }

    fn commit_to_memory(&mut self) -> (Object, Durable) {
        let (slices, held) = self.growing.all();
        let growing = &*self.growing;
        let record = HeadRecord {
            stamp: growing.stamp,
            length: growing.length(),
            checksum: HeadRecord::checksum_of(&slices),
            full_key: growing.full_key.clone(),
            head: growing.head(),
            slices,
        };
        let (key, generation, place) = (growing.key, growing.id, Place::default());
        let entry = Arc::new(Entry::new(key, generation, place, record, held));
        let changes = self.memory.changes.lock().expect("no code panics while it holds this lock");
        self.memory.insert_head(entry.clone());
        drop(changes);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.committed = true;
        (Object { entry, volume: None }, Durable(std::future::ready(Ok(())).boxed()))
    }

    fn fail(&self, error: WriteError) -> WriteError {
        self.growing.fail(&error);
        error
    }

    fn gather(&mut self, bytes: u64) {
        self.gathered += bytes;
        self.counters.gathering_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.gathered);
        self.gathered -= bytes;
        self.counters.gathering_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.release(u64::MAX);
        self.counters.reserved_bytes.fetch_sub(self.reserved, Ordering::Relaxed);
        self.counters.fills.fetch_sub(1, Ordering::Relaxed);
        if !self.committed {
            // The fill's own error is no longer asked for; followers only learn that it failed.
            self.growing.fail(&WriteError::Closed);
        }
    }
}

/// Resolves when an object that is already visible is on stable storage. Dropping it changes nothing.
pub struct Durable(BoxFuture<'static, Result<(), WriteError>>);

impl Future for Durable {
    type Output = Result<(), WriteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

/// Access to the body of a fill while it grows and after it has ended. Cheap to clone; outlives the fill.
#[derive(Clone)]
pub struct Follower {
    pub(crate) growing: Arc<Growing>,
    _followed: Arc<()>,
}

impl Follower {
    /// Reads from `start` up to `end` (exclusive), or to the end of the body if `None`, and waits for bytes not yet
    /// appended. A body that ends before `end` ends the stream. A slow reader reads bytes that have left memory back
    /// from disk.
    pub fn read(&self, start: u64, end: Option<u64>) -> Reader {
        Reader::of_fill(self.clone(), start, end)
    }

    /// Bytes appended so far.
    pub fn length(&self) -> u64 {
        self.growing.length()
    }
}
