//! When a disk is taken out of service, and what is known about it from then on.
//!
//! A failing disk must not fail requests for ever: after a few failures in a row, with nothing that worked between them, it is
//! *out* until the store is opened again. From that moment its objects are misses, what would have gone to it goes to the next
//! disk or to memory, and readers that run end with an error.
//!
//! # What always holds
//!
//! - It is out once and for all; a disk that works now and then does not flap.
//! - A single object that cannot be read takes no disk out: one read that works between failures forgives them.
//! - A disk that hangs is out after [`HANGS_MAX`] changes in a row that took too long. Reads do not say that as soon: what the page cache
//!   has can be read from a disk that is gone.
//! - That this process, or the system, is out of descriptors or memory is no failure of a disk.
//! - While it is not *settled*, what the disk holds may be back after a restart, so removals of it are not acknowledged.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use tokio::sync::Notify;

/// Reads that fail in a row before a disk is out.
const READ_FAILURES_MAX: u32 = 16;

/// Writes, syncs and creations of segments that fail in a row before a disk is out.
const WRITE_FAILURES_MAX: u32 = 8;

/// The same for those that took too long ([`crate::disk::CALL_MAX`]): everybody who stores something has waited for each.
const HANGS_MAX: u32 = 2;

/// The failures of one disk.
#[derive(Default)]
pub(crate) struct Outage {
    read_failures: AtomicU32,
    write_failures: AtomicU32,
    cause: OnceLock<String>,
    settled: AtomicBool,
    /// Wakes the writer, which has to settle it.
    pub(crate) begun: Notify,
}

impl Outage {
    pub(crate) fn is_out(&self) -> bool {
        self.cause.get().is_some()
    }

    /// Why it is out, in the words of the system.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.get().map(String::as_str)
    }

    /// Whether what the disk holds stays away after a restart too.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    pub(crate) fn read_went_well(&self) {
        // Almost always true, and then nothing is written to memory that all cores share.
        if self.read_failures.load(Ordering::Relaxed) != 0 {
            self.read_failures.store(0, Ordering::Relaxed);
        }
    }

    /// Says whether that was the one too many.
    pub(crate) fn read_failed(&self, error: &io::Error) -> bool {
        is_of_disk(error)
            && self.read_failures.fetch_add(1, Ordering::Relaxed) + 1 >= READ_FAILURES_MAX
            && self.begin(error)
    }

    /// Something written was synced.
    pub(crate) fn write_went_well(&self) {
        self.write_failures.store(0, Ordering::Relaxed);
    }

    /// Says whether that was the one too many.
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

/// Whether it is the disk that failed, and not the process that has no descriptors or no memory left.
fn is_of_disk(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    !matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}
