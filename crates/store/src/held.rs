//! Segments that are gone but for those who still read there.
//!
//! A reader keeps the segments that it needs when they are evicted or sifted: their files have no names any more, but take their room until
//! the last reader is done. Readers are as slow as clients like.
//!
//! # What always holds
//!
//! - What is held so counts as taken, so that a disk's segments never take more than its capacity: less of it is for what can be found.
//! - It is one part in [`HELD_PART`] of the disk at most. Beyond that the room is taken back, from those who read what has been gone for
//!   longest; they end with [`crate::ReadError::Evicted`].

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::tier::{Segment, Tier};

/// Of a disk, one part in this many may be taken by what only readers still have.
const HELD_PART: u64 = 8;

/// Such segments of one disk.
pub(crate) struct Held {
    /// The one that has been gone for longest first; some may be let go by now.
    gone: Mutex<Vec<Weak<Segment>>>,
    /// Bytes they may take.
    pub(crate) most: u64,
}

impl Held {
    /// Those of a disk of this capacity.
    pub(crate) fn new(capacity_bytes: u64) -> Held {
        Held { gone: Mutex::default(), most: capacity_bytes / HELD_PART }
    }

    fn gone(&self) -> MutexGuard<'_, Vec<Weak<Segment>>> {
        self.gone.lock().expect("no code panics while it holds these segments")
    }

    /// Notes a segment whose file has lost its name.
    pub(crate) fn note(&self, segment: &Arc<Segment>) {
        let mut gone = self.gone();
        gone.retain(|segment| segment.strong_count() > 0);
        gone.push(Arc::downgrade(segment));
    }

    /// Those that take room, but for some that only wait to be let go.
    fn all(&self, left: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
        let held = |segment: &Arc<Segment>| !left.iter().any(|left| left.id == segment.id);
        self.gone().iter().filter_map(Weak::upgrade).filter(held).collect()
    }
}

impl Tier {
    /// Takes the room back of what readers hold beyond what they may.
    pub(crate) async fn take_back(&self) -> io::Result<()> {
        let held = self.held_segments();
        let mut bytes = bytes(&held);
        for segment in held {
            if bytes <= self.held.most {
                break;
            }
            // First, so that whoever finds it empty knows why.
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

    /// Bytes that only readers still have.
    pub(crate) fn held_bytes(&self) -> u64 {
        bytes(&self.held_segments())
    }
}

fn bytes(segments: &[Arc<Segment>]) -> u64 {
    segments.iter().map(|segment| segment.allocated.load(Ordering::Relaxed)).sum()
}
