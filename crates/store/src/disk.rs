//! The seam between the store and a disk: a directory of files that are written at given offsets.
//!
//! Two implementations: [`FileDisk`] for real directories, and [`FaultyDisk`], in memory, which loses or tears whatever
//! no finished sync covers. The store relies only on the guarantees stated here.
//!
//! # What always holds
//!
//! - No call waits for ever: one that a disk does not answer for [`CALL_MAX`] ends with [`io::ErrorKind::TimedOut`]. A
//!   disk that is merely overloaded may keep its callers waiting for longer; callers that must not wait set their own
//!   limit.
//! - A call that was abandoned, because it timed out or its future was dropped, may still take effect at any later
//!   time, just as a failed one may have taken effect in part. So a file is abandoned at the first change of it that
//!   fails.
//!
//! Futures are boxed so that a [`crate::Store`] has no type parameter: a disk operation costs far more than a box, and
//! hits in memory never come here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use faulty::{Failure, FaultyDisk, WriteFault};
pub use file::FileDisk;

mod faulty;
mod file;

/// Longest time that a call to a disk may take: as long as the system itself waits for a command before it resets the
/// device.
pub const CALL_MAX: Duration = Duration::from_secs(30);

/// The error of a call that took longer.
fn hangs() -> io::Error {
    let words = format!("the disk did not answer within {} seconds", CALL_MAX.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// A directory used by one store exclusively.
pub trait Disk: Send + Sync + 'static {
    /// Names of all files in it.
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>>;

    /// Creates a file of `length` zero bytes and reserves their room. On return the file itself survives a crash, but
    /// nothing written to it later does.
    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>>;

    /// Opens a file that exists.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>>;

    /// Removes a file; on return it stays removed after a crash. Holders of an open handle may go on reading it.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn length(&self) -> BoxFuture<'_, io::Result<u64>>;

    /// Reads `length` bytes at `offset`; fewer only at the end of the file.
    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>>;

    /// As [`DiskFile::read`], but from the medium itself, bypassing the operating system's cache, to prove that the
    /// bytes are there. A plain read if the file system does not support that (such as one in memory).
    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>>;

    /// Writes `pieces` consecutively from `offset` on. After an error any part of them may have been written.
    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>>;

    /// Truncates or extends the file.
    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>>;

    /// On return, every write that returned before this call began survives a crash.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
}
