//! When a disk is taken out of service, and the record of it.
//!
//! A failing disk must not fail requests for ever: after a few consecutive failures, with no success in between, it is
//! *out* until the store is opened again. From then on its objects are misses, new ones go to the next disk or to
//! memory, and running readers end with an error.
//!
//! # What always holds
//!
//! - A disk that is out stays out; one that works intermittently does not flap.
//! - A single unreadable object takes no disk out: a successful read between failures resets the count.
//! - A disk that hangs is out after [`HANGS_MAX`] consecutive changes that timed out. Reads detect that later: pages in
//!   the page cache can be read from a disk that is gone.
//! - Running out of descriptors or memory, in this process or the system, is not a failure of the disk.
//! - While an outage is not *settled*, the disk's contents may return after a restart, so removals of them are not
//!   acknowledged.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use tokio::sync::Notify;

/// Consecutive failed reads before a disk is out.
const READ_FAILURES_MAX: u32 = 16;

/// Consecutive failed writes, syncs and creations of segments before a disk is out.
const WRITE_FAILURES_MAX: u32 = 8;

/// The same for those that timed out ([`crate::disk::CALL_MAX`]): every caller that stores something has waited for
/// each.
const HANGS_MAX: u32 = 2;

/// The failures of one disk.
#[derive(Default)]
pub(crate) struct Outage {
    read_failures: AtomicU32,
    write_failures: AtomicU32,
    cause: OnceLock<String>,
    settled: AtomicBool,
    /// Wakes the writer, which has to settle the outage.
    pub(crate) begun: Notify,
}

impl Outage {
    pub(crate) fn is_out(&self) -> bool {
        self.cause.get().is_some()
    }

    /// Why it is out, as reported by the system.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.get().map(String::as_str)
    }

    /// Whether the disk's contents stay away after a restart, too.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    pub(crate) fn read_went_well(&self) {
        // Almost always zero, so that nothing is written to memory that all cores share.
        if self.read_failures.load(Ordering::Relaxed) != 0 {
            self.read_failures.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failed read; returns whether it was the one that takes the disk out.
    pub(crate) fn read_failed(&self, error: &io::Error) -> bool {
        is_of_disk(error)
            && self.read_failures.fetch_add(1, Ordering::Relaxed) + 1 >= READ_FAILURES_MAX
            && self.begin(error)
    }

    /// Records that a write was synced.
    pub(crate) fn write_went_well(&self) {
        self.write_failures.store(0, Ordering::Relaxed);
    }

    /// Counts a failed change; returns whether it was the one that takes the disk out.
    pub(crate) fn write_failed(&self, error: &io::Error) -> bool {
        let hangs = error.kind() == io::ErrorKind::TimedOut;
        let counts = if hangs { WRITE_FAILURES_MAX / HANGS_MAX } else { 1 };
        is_of_disk(error)
            && self.write_failures.fetch_add(counts, Ordering::Relaxed) + counts >= WRITE_FAILURES_MAX
            && self.begin(error)
    }

    fn begin(&self, error: &io::Error) -> bool {
        let begun = self.cause.set(error.to_string()).is_ok();
        if begun {
            self.begun.notify_one();
        }
        begun
    }
}

/// Whether the disk failed, rather than the process running out of descriptors or memory.
fn is_of_disk(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    !matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
