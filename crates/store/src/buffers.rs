//! Accounting of body bytes in memory, whoever holds them: the memory tier, the writer, a reader, or a connection whose
//! client does not read.
//!
//! Nothing else bounds the last: each such connection may hold a slice that left the memory tier long ago. So every
//! buffer above a minimum size is counted from its creation until its last holder drops it. Beyond what the tier and
//! the writers may hold there is some slack. When half of it is used, the store is *short*: readers copy out small
//! pieces and drop the slices. When all of it is used, the store is *exhausted*, and the node has to turn requests
//! away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Smaller buffers do not count: there may be many of them, and counting takes memory as well.
const COUNTED_BYTES_MIN: usize = 16 << 10;

pub(crate) struct Buffers {
    bytes: AtomicU64,
    short_at: u64,
    most: u64,
}

impl Buffers {
    /// For a store whose memory tier and writers may hold `owned` bytes together, with `room` bytes for other holders.
    pub(crate) fn new(owned: u64, room: u64) -> Buffers {
        let short_at = owned.saturating_add(room / 2);
        Buffers { bytes: AtomicU64::new(0), short_at, most: owned.saturating_add(room) }
    }

    /// The same bytes, counted until the last holder drops them.
    pub(crate) fn count(self: &Arc<Buffers>, bytes: Bytes) -> Bytes {
        if bytes.len() < COUNTED_BYTES_MIN {
            return bytes;
        }
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, buffers: self.clone() })
    }

    /// Whether readers should hold no more than they need.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes() >= self.short_at
    }

    /// Whether all room is used.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.bytes() >= self.most
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn most(&self) -> u64 {
        self.most
    }
}

/// A counted buffer.
struct Counted {
    bytes: Bytes,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.buffers.bytes.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}
