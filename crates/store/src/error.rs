//! What can go wrong at each boundary of the store, in the store's words.
//!
//! Bytes from a disk never panic: what cannot be read is a [`ReadError`], what was cut short by a crash is simply
//! not there. All errors are cheap to clone, for one failed write may be the answer to many waiters.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process (or another store of this one) holds the directory.
    #[error("disk `{path}` is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },

    /// The capacity cannot hold the fewest segments that eviction needs.
    #[error("disk `{path}`: capacity_bytes is {capacity_bytes}, expected at least {least_bytes}")]
    CapacityTooSmall {
        /// The directory.
        path: PathBuf,
        /// What the configuration says.
        capacity_bytes: u64,
        /// The smallest capacity that works.
        least_bytes: u64,
    },

    /// The directory was written by a newer format than this program knows.
    #[error("disk `{path}`: segment {segment} has format version {found}, this program knows {known}")]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// The segment that says so.
        segment: u32,
        /// Its version.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },

    /// The directory could not be read or written.
    #[error("disk `{path}`: {doing}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why stored bytes could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The segment that held the bytes was reclaimed since the object was looked up.
    #[error("the object was evicted while it was being read")]
    Evicted,

    /// The bytes on disk are not the bytes that were written.
    #[error("checksum mismatch in segment {segment} at offset {offset}")]
    Corrupt {
        /// Segment id.
        segment: u32,
        /// Offset of the record in the segment, in bytes.
        offset: u32,
    },

    /// The disk failed.
    #[error("read segment {segment}")]
    Io {
        /// Segment id.
        segment: u32,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },

    /// The fill that was followed did not finish: it was dropped, or could not be written.
    #[error("the fill did not finish")]
    FillFailed,
}

/// Why an object was not stored, changed or removed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The body cannot be stored, now or later.
    #[error("a body of {length} bytes; this store holds bodies up to {most} bytes")]
    TooLarge {
        /// Bytes announced, or appended so far.
        length: u64,
        /// The largest body this store takes.
        most: u64,
    },

    /// The full key or the head is longer than a record may hold.
    #[error("{what} is {length} bytes, expected at most {most}")]
    HeadTooLarge {
        /// `full key` or `head`.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The bound.
        most: usize,
    },

    /// The body that was appended is not as long as was announced.
    #[error("the body has {appended} bytes, {announced} were announced")]
    LengthMismatch {
        /// Bytes announced in `begin_fill`.
        announced: u64,
        /// Bytes appended.
        appended: u64,
    },

    /// The disk refused a write or a sync; `NoSpace` of the system arrives here too.
    #[error("write to disk")]
    Io(#[source] Arc<io::Error>),

    /// Parts of the body were evicted before the fill ended.
    #[error("parts of the body were evicted before the fill finished")]
    Evicted,

    /// The stored head could not be read, so it was not replaced.
    #[error("read the stored head")]
    Read(#[source] ReadError),

    /// Running fills hold as many bytes as they may.
    #[error("running fills hold {most} bytes, as many as they may")]
    Busy {
        /// The bound.
        most: u64,
    },

    /// The disk failed too often and is out of service until the store is opened again.
    #[error("disk `{path}` is out of service: {cause}")]
    OutOfService {
        /// The directory.
        path: PathBuf,
        /// What the system said last.
        cause: String,
    },

    /// The store was closed, or the runtime that opened it has ended.
    #[error("the store is closed")]
    Closed,
}

/// Why an object is not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// No such object is stored.
    #[error("the object is not stored")]
    Absent,

    /// Memory alone keeps nothing.
    #[error("there is no disk in service")]
    NoDisk,

    /// Pinned objects take as much of the disk as they may.
    #[error("pinned objects may take {most} bytes of the disk, and do")]
    NoRoom {
        /// The bound, in bytes.
        most: u64,
    },
}

/// Why an object is not proved resident.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No such object is stored.
    #[error("the object is not stored")]
    Absent,

    /// The disk that it would be resident on is out of service, and memory is not stable storage.
    #[error("disk `{path}` is out of service: {cause}")]
    OutOfService {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },

    /// Its bytes could not be read back, or are not those that were written.
    #[error("read back")]
    Read(#[source] ReadError),

    /// It could not be brought to stable storage.
    #[error("make durable")]
    Write(#[source] WriteError),
}
