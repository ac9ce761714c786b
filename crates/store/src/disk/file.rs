//! A directory of the machine.
//!
//! Calls that may block run on tokio's blocking threads; how many at once is bounded, for the runtime's own queue is not.
//! The directory is locked by a file `lock` for as long as the disk or one of its files is in use.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{Disk, DiskFile};

/// Blocking calls that one disk has running at once; further ones wait.
const CALLS_MAX: usize = 64;

/// Pieces of a write are gathered into buffers of this size, in bytes; larger pieces are written from where they lie.
const GATHER_BYTES: usize = 256 << 10;

/// A directory of the machine, locked.
pub struct FileDisk {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    calls: Semaphore,
    /// Held for its lock.
    _lock: File,
}

impl Shared {
    async fn call<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let _permit = self.calls.acquire().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

impl FileDisk {
    /// Locks the directory `path`, creating it if missing. [`io::ErrorKind::WouldBlock`] if another process holds it.
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
            Ok(FileDisk { shared: Arc::new(Shared { path, calls: Semaphore::new(CALLS_MAX), _lock: lock }) })
        });
        opened.await.map_err(io::Error::other)?
    }

    fn file(&self, file: File) -> Arc<dyn DiskFile> {
        Arc::new(Open { file: Arc::new(file), shared: self.shared.clone() })
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
                // A file without its room is of no use; the directory must not fill with them.
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
            File::open(&directory)?.sync_all()?;
            Ok(file)
        };
        async move { Ok(self.file(self.shared.call(create).await?)) }.boxed()
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

/// Reserves the room where the file system can, so that a full disk shows when a segment is created and not in the middle
/// of a body; elsewhere the file is only made that long.
fn preallocate(file: &File, length: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(length),
        Err(error) => Err(error.into()),
    }
}

struct Open {
    file: Arc<File>,
    shared: Arc<Shared>,
}

impl Open {
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, io::Result<T>> {
        let file = self.file.clone();
        self.shared.call(move || work(&file)).boxed()
    }
}

impl DiskFile for Open {
    fn length(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.call(|file| Ok(file.metadata()?.len()))
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.call(move |file| {
            let mut buffer = BytesMut::zeroed(length);
            let mut filled = 0;
            while filled < length {
                match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(filled);
            Ok(buffer.freeze())
        })
    }

    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        self.call(move |file| {
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
        self.call(move |file| file.set_len(length))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.call(|file| file.sync_data())
    }
}
