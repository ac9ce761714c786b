//! An ideal disk in memory, as the cost of a disk is not measured here.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use store::disk::{Disk, DiskFile};

/// Files by name.
#[derive(Default)]
pub(crate) struct RamDisk {
    files: Mutex<BTreeMap<String, Arc<RamFile>>>,
}

/// Bytes of a file.
#[derive(Default)]
struct RamFile(Mutex<Vec<u8>>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

impl Disk for RamDisk {
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        ready(Ok(lock(&self.files).keys().cloned().collect())).boxed()
    }

    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        let file = Arc::new(RamFile(Mutex::new(vec![0; length as usize])));
        lock(&self.files).insert(name.to_owned(), file.clone());
        ready(Ok(file as Arc<dyn DiskFile>)).boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        let file = lock(&self.files).get(name).cloned();
        ready(file.map(|file| file as _).ok_or_else(|| io::ErrorKind::NotFound.into())).boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        lock(&self.files).remove(name);
        ready(Ok(())).boxed()
    }
}

impl DiskFile for RamFile {
    fn length(&self) -> BoxFuture<'_, io::Result<u64>> {
        ready(Ok(lock(&self.0).len() as u64)).boxed()
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let bytes = lock(&self.0);
        let from = (offset as usize).min(bytes.len());
        let to = (from + length).min(bytes.len());
        ready(Ok(Bytes::copy_from_slice(&bytes[from..to]))).boxed()
    }

    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.read(offset, length)
    }

    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        let mut bytes = lock(&self.0);
        let mut at = offset as usize;
        for piece in pieces {
            if bytes.len() < at + piece.len() {
                bytes.resize(at + piece.len(), 0);
            }
            bytes[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
        ready(Ok(())).boxed()
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        lock(&self.0).resize(length as usize, 0);
        ready(Ok(())).boxed()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        ready(Ok(())).boxed()
    }
}
