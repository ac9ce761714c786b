//! Errors at each boundary of the store, in its own terms.
//!
//! Bytes from a disk never cause a panic: unreadable ones are a [`ReadError`], and those cut short by a crash are
//! simply absent. All errors are cheap to clone, as one failed write may answer many waiters.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::outage::is_of_disk;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another store of this one, holds the directory.
    #[error("disk `{path}` is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },

    /// The capacity is too small for the minimum number of segments that eviction needs.
    #[error("disk `{path}`: capacity_bytes is {capacity_bytes}, expected at least {least_bytes}")]
    CapacityTooSmall {
        /// The directory.
        path: PathBuf,
        /// The configured capacity.
        capacity_bytes: u64,
        /// The smallest capacity that works.
        least_bytes: u64,
    },

    /// The directory was written by a newer format than this program knows.
    #[error("disk `{path}`: segment {segment} has format version {found}, this program knows {known}")]
    UnknownFormat {
        /// The directory.
        path: PathBuf,
        /// The segment with that format.
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
        /// The operation that failed.
        doing: &'static str,
        /// The system's error.
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
        /// The system's error.
        #[source]
        source: Arc<io::Error>,
    },

    /// The fill being followed did not finish: it was dropped, or could not be written.
    #[error("the fill did not finish")]
    FillFailed,
}

impl ReadError {
    /// Whether the process or the system ran out of descriptors or memory. That says nothing about the stored bytes, so
    /// the object stays as it is.
    pub fn is_passing(&self) -> bool {
        matches!(self, ReadError::Io { source, .. } if !is_of_disk(source))
    }
}

/// How often an object that was changed or moved by somebody else is looked up again. Changes of one object are rare, and
/// a segment moves once in the time in which a disk is written full.
pub const RACES_MAX: usize = 16;

/// Why an object was not stored, changed or removed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The body can never be stored.
    #[error("a body of {length} bytes; this store holds bodies up to {most} bytes")]
    TooLarge {
        /// Bytes announced, or appended so far.
        length: u64,
        /// The largest body this store accepts.
        most: u64,
    },

    /// The full key or the head exceeds the bound of a record.
    #[error("{what} is {length} bytes, expected at most {most}")]
    HeadTooLarge {
        /// `full key` or `head`.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The bound.
        most: usize,
    },

    /// The appended body does not have the announced length.
    #[error("the body has {appended} bytes, {announced} were announced")]
    LengthMismatch {
        /// Bytes announced in `begin_fill`.
        announced: u64,
        /// Bytes appended.
        appended: u64,
    },

    /// The disk refused a write or a sync; the system's `NoSpace` is reported as this, too.
    #[error("write to disk")]
    Io(#[source] Arc<io::Error>),

    /// Parts of the body were evicted before the fill ended.
    #[error("parts of the body were evicted before the fill finished")]
    Evicted,

    /// The stored head could not be read and was therefore not replaced.
    #[error("read the stored head")]
    Read(#[source] ReadError),

    /// Other changes of the object came first, [`RACES_MAX`] times in a row. It is as they left it.
    #[error("other changes of the object came first, {RACES_MAX} times in a row")]
    Raced,

    /// Running fills hold as many bytes as allowed.
    #[error("running fills hold {most} bytes, which is their maximum")]
    Busy {
        /// The bound.
        most: u64,
    },

    /// The disk failed too often and is out of service until the store is opened again.
    #[error("disk `{path}` is out of service: {cause}")]
    OutOfService {
        /// The directory.
        path: PathBuf,
        /// The system's last error.
        cause: String,
    },

    /// The store was closed, or the runtime that opened it has ended.
    #[error("the store is closed")]
    Closed,
}

/// Why an object could not be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// No such object is stored.
    #[error("the object is not stored")]
    Absent,

    /// There is no disk: objects in memory cannot be pinned.
    #[error("there is no disk in service")]
    NoDisk,

    /// Pinned objects take as much of the disk as allowed.
    #[error("pinned objects take all {most} bytes of the disk that they may")]
    NoRoom {
        /// The bound, in bytes.
        most: u64,
    },
}

/// Why an object could not be proved resident.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No such object is stored.
    #[error("the object is not stored")]
    Absent,

    /// The disk that would hold it is out of service, and memory is not stable storage.
    #[error("disk `{path}` is out of service: {cause}")]
    OutOfService {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        cause: String,
    },

    /// Its bytes could not be read back, or are not those that were written.
    #[error("read back")]
    Read(#[source] ReadError),

    /// It was moved while it was read back, [`RACES_MAX`] times in a row.
    #[error("the object was moved while it was being read back, {RACES_MAX} times in a row")]
    Raced,

    /// It could not be made durable.
    #[error("make durable")]
    Write(#[source] WriteError),
}
