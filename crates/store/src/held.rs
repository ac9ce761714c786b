//! Segments that only readers still hold.
//!
//! A reader keeps the segments it needs open when they are evicted or sifted: their files have no name any more, but
//! take up room until the last reader is done. Readers are as slow as their clients.
//!
//! # What always holds
//!
//! - Held segments count as used, so a disk's segments never exceed its capacity; they reduce the room for live ones.
//! - They take at most one part in [`HELD_PART`] of the disk. Beyond that the room is taken back, starting with the
//!   segments gone for longest; their readers end with [`crate::ReadError::Evicted`].

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::volume::{Segment, Volume};

/// At most one part in this many of a disk may be taken by segments that only readers hold.
const HELD_PART: u64 = 8;

/// The held segments of one disk.
pub(crate) struct Held {
    /// The one gone for longest first; some may have been dropped by now.
    gone: Mutex<Vec<Weak<Segment>>>,
    /// Bytes they may take.
    pub(crate) most: u64,
}

impl Held {
    /// For a disk of this capacity.
    pub(crate) fn new(capacity_bytes: u64) -> Held {
        Held { gone: Mutex::default(), most: capacity_bytes / HELD_PART }
    }

    fn gone(&self) -> MutexGuard<'_, Vec<Weak<Segment>>> {
        self.gone.lock().expect("no code panics while it holds these segments")
    }

    /// Adds a segment whose file has lost its name.
    pub(crate) fn note(&self, segment: &Arc<Segment>) {
        let mut gone = self.gone();
        gone.retain(|segment| segment.strong_count() > 0);
        gone.push(Arc::downgrade(segment));
    }

    /// Those that still take room, except for `left`, which are about to be dropped.
    fn all(&self, left: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
        let held = |segment: &Arc<Segment>| !left.iter().any(|left| left.id == segment.id);
        self.gone().iter().filter_map(Weak::upgrade).filter(held).collect()
    }
}

impl Volume {
    /// Takes back the room that readers hold beyond the bound.
    pub(crate) async fn take_back(&self) -> io::Result<()> {
        let held = self.held_segments();
        let mut bytes = bytes(&held);
        for segment in held {
            if bytes <= self.held.most {
                break;
            }
            // Set first, so that a reader that finds the file empty knows why.
            segment.taken_back.store(true, Ordering::Release);
            segment.file.set_length(0).await?;
            bytes -= segment.allocated.swap(0, Ordering::Relaxed);
            self.counters.taken_back_segments.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn held_segments(&self) -> Vec<Arc<Segment>> {
        let left = self.left();
        self.held.all(&left)
    }

    /// Bytes of segments that only readers still hold.
    pub(crate) fn held_bytes(&self) -> u64 {
        bytes(&self.held_segments())
    }
}

fn bytes(segments: &[Arc<Segment>]) -> u64 {
    segments.iter().map(|segment| segment.allocated.load(Ordering::Relaxed)).sum()
}
