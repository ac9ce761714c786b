//! face
use bytes::Bytes;

use crate::{Config, Fill, Key, Object, OpenError, ReadError, Stats, VerifyError, WriteError};

/// The store of one machine. Cheap to clone; may be used from several runtimes at once.
///
/// Its writers are tasks of the runtime that opened it; when that ends, writes fail with [`WriteError::Closed`].
#[derive(Clone)]
pub struct Store {}

/// Which body an object has: new with every fill, kept by `update_head`. Unique within a disk, restarts included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// What `remove` may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Whatever is stored under the key.
    Any,
    /// Only this body.
    Only(Generation),
}

/// What becomes of an object in a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Stays as it is.
    Keep,
    /// Stays, with this stamp if it is higher than its own.
    Restamp(u64),
    /// Leaves the store.
    Drop,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Objects left as they were.
    pub kept: u64,
    /// Objects whose stamp was raised.
    pub restamped: u64,
    /// Objects removed.
    pub dropped: u64,
    /// Objects whose head could not be read, or which changed under the sweep; left as they were.
    pub skipped: u64,
}

/// The proof that an object is resident: what was read back from stable storage, past the memory tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Bytes of the whole body.
    pub length: u64,
    /// CRC-32 (IEEE) of the whole body.
    pub checksum: u32,
    /// The stamp stored with the head.
    pub stamp: u64,
    /// The opaque head.
    pub head: Bytes,
    /// Which body it is.
    pub generation: Generation,
}

impl Store {
    /// Opens the directories of `config`, locks them, and recovers what they hold. Must be called on a tokio runtime, which
    /// must live as long as the store is written to.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        let _ = config;
        todo!()
    }

    /// Finds an object by its hash and full key. An object in memory is found without waiting.
    pub async fn lookup(&self, key: Key, full_key: &[u8]) -> Result<Option<Object>, ReadError> {
        let _ = (key, full_key);
        todo!()
    }

    /// Begins to store a body. `head` and `stamp` are kept with it; `length` is its length if known, so that a body that cannot
    /// be stored is refused at once with [`WriteError::TooLarge`]. Nothing is visible until the fill finishes.
    pub fn begin_fill(
        &self,
        key: Key,
        full_key: &[u8],
        head: Bytes,
        stamp: u64,
        length: Option<u64>,
    ) -> Result<Fill, WriteError> {
        let _ = (key, full_key, head, stamp, length);
        todo!()
    }

    /// Puts another head over the body of `object`, if that very body is still the one stored under its key; `None` if not.
    /// The stored stamp becomes the larger of its own and `stamp`. Visible on return, durable with the next sync.
    pub async fn update_head(
        &self,
        object: &Object,
        head: Bytes,
        stamp: u64,
    ) -> Result<Option<Object>, WriteError> {
        let _ = (object, head, stamp);
        todo!()
    }

    /// Removes what is stored under `key`, durably: on return it stays away after a crash. Says whether something was there.
    /// On an error it is gone from this process, and may be back after a restart.
    pub async fn remove(
        &self,
        key: Key,
        full_key: &[u8],
        which: Which,
    ) -> Result<bool, WriteError> {
        let _ = (key, full_key, which);
        todo!()
    }

    /// Reads the head and every slice back from disk, past the memory tier, after making sure that they are covered by a finished
    /// sync, and checks every checksum.
    pub async fn verify(&self, key: Key, full_key: &[u8]) -> Result<Verified, VerifyError> {
        let _ = (key, full_key);
        todo!()
    }

    /// Shows every object's full key, stamp and head to `judge`, one after another, and does as it says. Objects stored while it
    /// runs may be left out.
    pub async fn sweep(
        &self,
        judge: impl FnMut(&[u8], u64, &Bytes) -> Sweep + Send,
    ) -> Result<Swept, WriteError> {
        let _ = judge;
        todo!()
    }

    /// Counters, as of now.
    pub fn stats(&self) -> Stats {
        todo!()
    }

    /// Makes everything durable, seals the open segments so that the next start is quick, and refuses writes from then on.
    pub async fn close(&self) -> Result<(), WriteError> {
        todo!()
    }
}
