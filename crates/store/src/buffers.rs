//! The bytes of bodies that are in memory, whoever holds them: the memory tier, the writer, a reader, or a connection whose client
//! does not take what it was given.
//!
//! The last are the ones that nothing else bounds: each may hold a slice that left the memory tier long ago. So every buffer of
//! some size counts from when it is made until its last holder lets go of it. Beyond what the tier and the writers may hold there is
//! some room to be generous in. When half of that is gone the store is *short*: readers give pieces that they copy, and let go of the
//! slices. When all is gone it is *exhausted*, and whoever serves from it has to turn somebody away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// Smaller buffers do not count: there may be many of them, and counting takes memory, too.
const COUNTED_BYTES_MIN: usize = 16 << 10;

pub(crate) struct Buffers {
    bytes: AtomicU64,
    short_at: u64,
    most: u64,
}

impl Buffers {
    /// Of a store whose memory tier and writers may hold `owned` bytes together, with `room` for others.
    pub(crate) fn new(owned: u64, room: u64) -> Buffers {
        let short_at = owned.saturating_add(room / 2);
        Buffers { bytes: AtomicU64::new(0), short_at, most: owned.saturating_add(room) }
    }

    /// The same bytes, which count until nobody has them any more.
    pub(crate) fn count(self: &Arc<Buffers>, bytes: Bytes) -> Bytes {
        if bytes.len() < COUNTED_BYTES_MIN {
            return bytes;
        }
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, buffers: self.clone() })
    }

    /// Whether readers are to hold no more than they need.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes() >= self.short_at
    }

    /// Whether there is room for no more.
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

/// A buffer that counts.
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
