//! The configuration of a store.
//!
//! Plain values; the node's configuration file is parsed elsewhere.

use std::path::PathBuf;

/// Default segment size, in bytes; tests use smaller ones.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Sizes and directories of one store.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Bytes of heads and bodies held in memory.
    pub memory_bytes: u64,
    /// One entry per disk; none means memory only.
    pub disks: Vec<DiskConfig>,
    /// Size of a segment, in bytes; lowered if a disk would hold fewer than eight.
    pub segment_bytes: u64,
}

/// One directory of the disk tier.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskConfig {
    /// Directory of the segments; created if missing. The path also decides which keys this disk holds.
    pub path: PathBuf,
    /// Bytes the segments may take, including evicted ones that readers still hold.
    pub capacity_bytes: u64,
}

/// Running fills may hold as many bytes not yet on a disk as the memory tier's capacity, and at least this many.
const FILLS_BYTES_MIN: u64 = 64 << 20;

/// Readers may hold as many bytes outside the memory tier as its capacity, and at least this many: a piece for each of
/// some thousand stalled clients.
const READERS_BYTES_MIN: u64 = 256 << 20;

/// Bytes that fills may hold beside a memory tier of `memory_bytes`.
pub(crate) fn room_of_fills(memory_bytes: u64) -> u64 {
    memory_bytes.max(FILLS_BYTES_MIN)
}

/// The same for readers.
pub(crate) fn room_of_readers(memory_bytes: u64) -> u64 {
    memory_bytes.max(READERS_BYTES_MIN)
}

/// A disk has at least this many segments, so that eviction takes a small part of it at a time.
pub(crate) const SEGMENTS_MIN: u64 = 8;

/// Smallest segment, in bytes: smaller ones are mostly summary.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 16 << 10;

/// Smallest disk, in bytes.
pub const DISK_BYTES_MIN: u64 = SEGMENTS_MIN * SEGMENT_BYTES_MIN;

/// Largest segment, in bytes: offsets are 32 bits and need room for a record that overruns.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

impl Config {
    /// A store of `memory_bytes` without a disk.
    pub fn memory_only(memory_bytes: u64) -> Config {
        Config { memory_bytes, disks: Vec::new(), segment_bytes: SEGMENT_BYTES_DEFAULT }
    }
}
