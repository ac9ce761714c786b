//! The memory and disk tiers of one machine: bytes at rest.
//!
//! A disk is a log of append-only *segments*. A body is stored as *slices* of at most 1 MiB, its metadata as a *head*
//! record that lists them, a removal as a *tombstone*. An object exists once its head is written, and is durable once a
//! sync that began after that has finished; many commits share one sync. Whatever a crash cuts short was never
//! acknowledged, and is absent afterwards.
//!
//! The crate knows nothing of HTTP: a [`Key`] is a hash, the full key and the head are bytes, a stamp is a number.
//!
//! # Invariants
//!
//! - Bytes are handed out only under the full key they were stored with; a collision of hashes is a miss.
//! - Every slice and head that is read from disk passes its checksum first.
//! - A segment id is never reused, so a location that outlived its segment reads as a miss, never as other bytes.
//! - The order of records in the log is the order in which changes take effect; recovery replays it and stops reading a
//!   segment at the first incomplete record.
//! - Every queue and buffer is bounded, and [`Stats`] shows both its fill level and its bound.
//!
//! # Not here
//!
//! What may be served is judged by the node (`model::fence`); the store keeps the stamp without interpreting it.

pub use config::{Config, DISK_BYTES_MIN, DiskConfig, SEGMENT_BYTES_DEFAULT};
pub use error::{OpenError, PinError, RACES_MAX, ReadError, VerifyError, WriteError};
pub use fill::{Durable, Fill, Follower};
pub use object::Object;
pub use prover::Verified;
pub use reader::Reader;
pub use stats::Stats;
pub use store::{Generation, Store, Sweep, Swept, SweptObject, Which};

mod absence;
mod buffers;
mod config;
pub mod disk;
mod error;
mod fill;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod growing;
mod held;
mod index;
mod memory;
mod object;
mod outage;
mod pins;
mod prover;
mod reader;
mod recover;
mod stats;
mod store;
mod volume;
mod writer;

/// Hash of a full key: the key of the index. Must be uniformly distributed (e.g. xxh3-128 of the full key).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u128);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:032x})", self.0)
    }
}
