//! The seam between the store and a disk: a directory of files that are written at given offsets.
//!
//! Two implementations: [`FileDisk`] for real directories, and [`FaultyDisk`], in memory, which loses or tears whatever a
//! finished sync does not cover. The store relies on what is written here and on nothing else.
//!
//! # What always holds
//!
//! - Nobody waits for ever: what a disk holds on to for [`CALL_MAX`] ends with [`io::ErrorKind::TimedOut`]. A disk that only has too
//!   much to do keeps its callers waiting for longer; those that must not wait give up by themselves.
//! - What was given up, by a bound or because its future was dropped, may still be done at any later time, as one that failed may
//!   have been done in part. So a file is given up with the first change of it that fails.
//!
//! Futures are boxed so that a [`crate::Store`] has no type parameter: a disk operation costs far more than a box, and what
//! is in memory never comes here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use faulty::{Failure, FaultyDisk, WriteFault};
pub use file::FileDisk;

mod faulty;
mod file;

/// Longest time that a disk may take for one call: as long as the system itself waits for a command before it sets the device back.
pub const CALL_MAX: Duration = Duration::from_secs(30);

/// The error of a call that took longer.
fn hangs() -> io::Error {
    let words = format!("the disk did not answer within {} seconds", CALL_MAX.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// A directory that one store has to itself.
pub trait Disk: Send + Sync + 'static {
    /// Names of all files in it.
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>>;

    /// Creates a file of `length` zero bytes with room reserved for them. On return the file, but nothing written to it
    /// later, survives a crash.
    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>>;

    /// Opens a file that exists.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>>;

    /// Removes a file; on return it stays away after a crash. Who has it open may go on reading it.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn length(&self) -> BoxFuture<'_, io::Result<u64>>;

    /// Reads `length` bytes at `offset`, fewer only where the file ends.
    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>>;

    /// As [`DiskFile::read`], but from the medium itself, past what the operating system keeps in memory: a proof. Where a file system
    /// can't do that (one that lies in memory), it is a plain read.
    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>>;

    /// Writes `pieces` one behind the other from `offset` on. After an error any part of them may have been written.
    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>>;

    /// Cuts or extends the file.
    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>>;

    /// On return everything whose write had returned before this call began survives a crash.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
}
