//! A [`Disk`] on a directory of the machine.
//!
//! Calls that may block run on tokio's blocking threads, a bounded number at a time, because the runtime's own queue is
//! unbounded. A read that the page cache can answer does not block. The directory is locked by a file `lock` for as
//! long as the disk or one of its files is in use.
//!
//! # What always holds
//!
//! - A thread that hangs in a call owns everything it works on (its buffers, its file, the lock of the directory) and
//!   keeps its slot among [`CALLS_MAX`] until it returns, whether or not anybody still waits for it. So hanging threads
//!   and their memory are bounded, and no other process opens the directory before the last of them has returned.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{CALL_MAX, Disk, DiskFile, hangs};

/// Maximum number of concurrent blocking calls to one disk; further ones wait.
const CALLS_MAX: usize = 64;

/// Pieces of a write are gathered into buffers of this size, in bytes; larger pieces are written without copying.
const GATHER_BYTES: usize = 256 << 10;

/// The longest read, in bytes, tried without a thread of its own: copying from the page cache is faster than waking a
/// thread. A longer one would delay other tasks.
const AT_ONCE_BYTES_MAX: usize = 256 << 10;

/// Page size of the page cache, in bytes.
const PAGE_BYTES: u64 = 4096;

/// Alignment of direct reads, in bytes: no disk under today's file systems has larger blocks.
const DIRECT_BLOCK: usize = 4096;

/// A directory of the machine, locked.
pub struct FileDisk {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    calls: Arc<Semaphore>,
    /// Number of calls that have returned.
    back: AtomicU64,
    /// Keeps the directory locked.
    _lock: File,
}

impl Shared {
    /// Runs a call that may block on a thread, and waits for it up to the time limit.
    async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.permit().await?;
        let shared = self.clone();
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            shared.back.fetch_add(1, Ordering::Relaxed);
            drop(permit);
            done
        });
        timeout(CALL_MAX, working).await.map_err(|_| hangs())?.map_err(io::Error::other)?
    }

    /// Waits for a free call slot. If no call returns for as long as one may take, all of them hang.
    async fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        let mut permit = pin!(self.calls.clone().acquire_owned());
        loop {
            let before = self.back.load(Ordering::Relaxed);
            match timeout(CALL_MAX, &mut permit).await {
                Ok(permit) => return permit.map_err(io::Error::other),
                Err(_) if self.back.load(Ordering::Relaxed) == before => return Err(hangs()),
                Err(_) => {} // the disk works, but is overloaded
            }
        }
    }
}

impl FileDisk {
    /// Locks the directory `path`, creating it if missing. Fails with [`io::ErrorKind::WouldBlock`] if another process
    /// holds it.
    pub async fn open(path: &Path) -> io::Result<FileDisk> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&path)?;
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let calls = Arc::new(Semaphore::new(CALLS_MAX));
            Ok(FileDisk { shared: Arc::new(Shared { path, calls, back: AtomicU64::new(0), _lock: lock }) })
        });
        timeout(CALL_MAX, opened).await.map_err(|_| hangs())?.map_err(io::Error::other)?
    }

    fn file(&self, file: File) -> Arc<dyn DiskFile> {
        let handles = Handles { file, direct: OnceLock::new(), unsynced: AtomicU64::new(u64::MAX) };
        Arc::new(Open { handles: Arc::new(handles), shared: self.shared.clone() })
    }
}

impl Disk for FileDisk {
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        let path = self.shared.path.clone();
        let list = move || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(path)? {
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
            Ok(names)
        };
        self.shared.call(list).boxed()
    }

    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        let directory = self.shared.path.clone();
        let path = directory.join(name);
        let create = move || {
            let file = OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
            let prepared = preallocate(&file, length).and_then(|()| file.sync_all());
            if let Err(error) = prepared {
                // A file without reserved room is useless, and the directory must not fill up with them.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
            let created = Created(Some(file));
            File::open(&directory)?.sync_all()?;
            Ok(created)
        };
        async move { Ok(self.file(self.shared.call(create).await?.take())) }.boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        let path = self.shared.path.join(name);
        let open = move || OpenOptions::new().read(true).write(true).open(path);
        async move { Ok(self.file(self.shared.call(open).await?)) }.boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let directory = self.shared.path.clone();
        let path = directory.join(name);
        let remove = move || {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            File::open(directory)?.sync_all()
        };
        self.shared.call(remove).boxed()
    }
}

/// Reserves room where the file system supports it, so that a full disk shows when a segment is created and not in the
/// middle of a body. Elsewhere it only sets the length.
fn preallocate(file: &File, length: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(length),
        Err(error) => Err(error.into()),
    }
}

/// A newly created file until the caller takes it. If the caller is gone, dropping it frees its room. Its name stays,
/// as somebody else may have found it meanwhile.
struct Created(Option<File>);

impl Created {
    fn take(mut self) -> File {
        self.0.take().expect("it is taken once")
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(file) = self.0.take() {
            let _ = file.set_len(0);
        }
    }
}

struct Open {
    handles: Arc<Handles>,
    shared: Arc<Shared>,
}

struct Handles {
    file: File,
    /// The descriptor for direct reads, opened at the first of them; `None` if the file system does not support them.
    direct: OnceLock<Option<File>>,
    /// Offset of the first byte written since the last sync.
    unsynced: AtomicU64,
}

impl Open {
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Handles) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, io::Result<T>> {
        let handles = self.handles.clone();
        self.shared.call(move || work(&handles)).boxed()
    }
}

impl Handles {
    /// The same file opened for direct reads. It is opened through its descriptor, as it may have been removed from its
    /// directory.
    fn direct(&self) -> Option<&File> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::DIRECT.bits() as i32;
        let open = || OpenOptions::new().read(true).custom_flags(flags).open(path).ok();
        self.direct.get_or_init(open).as_ref()
    }
}

/// Fills `buffer` from `offset` on; returns the number of bytes read, fewer only at the end of the file.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads `length` bytes, fewer only at the end of the file, into `buffer`, whose contents are discarded.
fn read(file: &File, mut buffer: BytesMut, offset: u64, length: usize) -> io::Result<Bytes> {
    buffer.resize(length, 0);
    let filled = fill(file, &mut buffer, offset)?;
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

/// Fills `buffer` from the page cache without waiting for the disk; returns whether it could be filled completely.
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> bool {
    let length = buffer.len();
    preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == length)
}

/// Reads through a descriptor that requires aligned offsets, lengths and memory.
fn read_direct(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let lead = (offset % DIRECT_BLOCK as u64) as usize;
    let aligned = (lead + length).next_multiple_of(DIRECT_BLOCK);
    let mut buffer = BytesMut::zeroed(aligned + DIRECT_BLOCK);
    let begin = buffer.as_ptr().align_offset(DIRECT_BLOCK);
    let filled = fill(file, &mut buffer[begin..begin + aligned], offset - lead as u64)?;
    let end = filled.min(lead + length);
    Ok(buffer.freeze().slice(begin + lead.min(end)..begin + end))
}

impl DiskFile for Open {
    fn length(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.call(|handles| Ok(handles.file.metadata()?.len()))
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let mut buffer = BytesMut::new();
        if length <= AT_ONCE_BYTES_MAX {
            buffer.resize(length, 0);
            if read_cached(&self.handles.file, &mut buffer, offset) {
                return ready(Ok(buffer.freeze())).boxed();
            }
        }
        self.call(move |handles| read(&handles.file, buffer, offset, length))
    }

    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.call(move |handles| match handles.direct() {
            Some(direct) => read_direct(direct, offset, length),
            None => read(&handles.file, BytesMut::new(), offset, length),
        })
    }

    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        self.call(move |handles| {
            let file = &handles.file;
            handles.unsynced.fetch_min(offset, Ordering::Relaxed);
            let mut at = offset;
            let mut gathered: Vec<u8> = Vec::new();
            for piece in pieces {
                if !gathered.is_empty() && gathered.len() + piece.len() > GATHER_BYTES {
                    file.write_all_at(&gathered, at)?;
                    at += gathered.len() as u64;
                    gathered.clear();
                }
                if piece.len() >= GATHER_BYTES {
                    file.write_all_at(&piece, at)?;
                    at += piece.len() as u64;
                } else {
                    gathered.extend_from_slice(&piece);
                }
            }
            file.write_all_at(&gathered, at)
        })
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        self.call(move |handles| handles.file.set_len(length))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.call(|handles| {
            let unsynced = handles.unsynced.swap(u64::MAX, Ordering::Relaxed);
            handles.file.sync_data()?;
            // Bytes just written are in the store's own memory tier, if anywhere: the page cache is for reads. The call
            // is only advice.
            if unsynced < u64::MAX {
                let _ = fadvise(&handles.file, unsynced - unsynced % PAGE_BYTES, None, Advice::DontNeed);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A disk, and a task that hangs until it is released.
    async fn disk_and_work() -> (tempfile::TempDir, FileDisk, mpsc::Sender<()>, impl FnOnce() -> io::Result<()>) {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = FileDisk::open(directory.path()).await.expect("open");
        let (let_go, hangs) = mpsc::channel::<()>();
        (directory, disk, let_go, move || hangs.recv().map_err(io::Error::other))
    }

    /// Advances time; hanging threads would keep paused time from advancing by itself.
    async fn pass(time: std::time::Duration) {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_hangs_ends_in_time_and_keeps_its_place_until_it_is_back() {
        let (directory, disk, let_go, work) = disk_and_work().await;
        let shared = disk.shared.clone();
        let call = tokio::spawn({
            let shared = shared.clone();
            async move { shared.call(work).await }
        });
        pass(CALL_MAX + std::time::Duration::from_secs(1)).await;
        assert_eq!(call.await.expect("no panic").expect_err("it hangs").kind(), io::ErrorKind::TimedOut);
        assert_eq!(shared.calls.available_permits(), CALLS_MAX - 1);
        drop((disk, shared));
        let locked = FileDisk::open(directory.path()).await.err().expect("what hangs may write yet");
        assert_eq!(locked.kind(), io::ErrorKind::WouldBlock);

        let_go.send(()).expect("it waits for this");
        while FileDisk::open(directory.path()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn call_that_nobody_waits_for_any_more_keeps_its_place() {
        let (_directory, disk, let_go, work) = disk_and_work().await;
        let mut call = Box::pin(disk.shared.call(work));
        assert!(futures_util::poll!(&mut call).is_pending());
        drop(call);
        assert_eq!(disk.shared.calls.available_permits(), CALLS_MAX - 1);
        let_go.send(()).expect("it waits for this");
        while disk.shared.calls.available_permits() < CALLS_MAX {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_place_gives_up_only_if_no_call_comes_back() {
        let (_directory, disk, let_go, work) = disk_and_work().await;
        let _others = disk.shared.calls.clone().try_acquire_many_owned(CALLS_MAX as u32 - 1).expect("free");
        let hanging = Box::pin(disk.shared.call(work));
        let mut hanging = hanging;
        assert!(futures_util::poll!(&mut hanging).is_pending());
        let waits = |shared: Arc<Shared>| tokio::spawn(async move { shared.call(|| Ok(7)).await });

        let waiting = waits(disk.shared.clone());
        pass(CALL_MAX + std::time::Duration::from_secs(1)).await;
        assert_eq!(waiting.await.expect("no panic").expect_err("all hang").kind(), io::ErrorKind::TimedOut);

        let waiting = waits(disk.shared.clone());
        pass(CALL_MAX / 2).await;
        disk.shared.back.fetch_add(1, Ordering::Relaxed); // another call returned, and its slot went to another caller
        pass(CALL_MAX / 2 + std::time::Duration::from_secs(1)).await;
        pass(CALL_MAX / 2).await;
        assert!(!waiting.is_finished(), "the disk works");
        let_go.send(()).expect("it waits for this");
        assert_eq!(waiting.await.expect("no panic").expect("its turn came"), 7);
    }

    #[tokio::test]
    async fn file_that_nobody_takes_gives_its_room_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let disk = FileDisk::open(directory.path()).await.expect("open");
        let mut creating = disk.create("late", 1 << 20);
        assert!(futures_util::poll!(&mut creating).is_pending());
        drop(creating);
        while disk.shared.calls.available_permits() < CALLS_MAX {
            tokio::task::yield_now().await;
        }
        let taken = disk.create("taken", 1 << 20).await.expect("create");
        assert_eq!(taken.length().await.expect("length"), 1 << 20);
        let late = disk.open("late").await.expect("it was created");
        assert_eq!(late.length().await.expect("length"), 0);
    }
}
