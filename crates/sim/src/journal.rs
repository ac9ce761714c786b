//! The file of a simulated node's journal, in memory; a crash may lose whatever no finished sync covers.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::random::Random;

/// The unit that a crash keeps or loses as a whole, in bytes.
const SECTOR: usize = 512;

/// A file that redb writes to. Clones are the same file; a handle from before a crash fails.
#[derive(Clone)]
pub struct JournalFile {
    file: Arc<Mutex<File>>,
    boot: u64,
}

struct File {
    random: Random,
    boot: u64,
    now: Vec<u8>,
    stable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// The contents as of the sync before the last, if that is what a crash leaves.
    lies: Option<Vec<u8>>,
    /// Whether writes fail.
    fails: bool,
}

impl JournalFile {
    /// An empty file. With `lies`, a sync makes durable only the contents as of the sync before it.
    pub fn new(random: Random, lies: bool) -> JournalFile {
        let lies = lies.then(Vec::new);
        let file =
            File { random, boot: 0, now: Vec::new(), stable: Vec::new(), unsynced: Vec::new(), lies, fails: false };
        JournalFile { file: Arc::new(Mutex::new(file)), boot: 0 }
    }

    /// Cuts the power: whatever no sync covers is kept, lost or torn. Returns the handle for the time after.
    pub fn crash(&self) -> JournalFile {
        let mut file = self.lock();
        file.boot += 1;
        file.fails = false;
        if let Some(behind) = file.lies.clone() {
            file.stable = behind;
            file.unsynced.clear();
        }
        for (offset, bytes) in std::mem::take(&mut file.unsynced) {
            match file.random.draw() % 3 {
                0 => {}
                1 => put(&mut file.stable, offset, &bytes),
                _ => {
                    for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                        if file.random.one_in(2) {
                            put(&mut file.stable, offset + number * SECTOR, sector);
                        }
                    }
                }
            }
        }
        file.now = file.stable.clone();
        JournalFile { file: self.file.clone(), boot: file.boot }
    }

    /// An empty file in place of this one.
    pub fn anew(&self) -> JournalFile {
        let file = self.lock();
        JournalFile::new(file.random.clone(), file.lies.is_some())
    }

    /// Whether writes fail.
    pub fn fails(&self) -> bool {
        self.lock().fails
    }

    /// Makes every write fail until the next crash.
    pub fn fail(&self) {
        self.lock().fails = true;
    }

    fn lock(&self) -> MutexGuard<'_, File> {
        self.file.lock().expect("no holder of this lock can panic")
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, File>> {
        let file = self.lock();
        if file.boot == self.boot { Ok(file) } else { Err(io::Error::other("the machine has crashed")) }
    }
}

fn put(bytes: &mut [u8], offset: usize, new: &[u8]) {
    // Bytes past the end were truncated later.
    if let Some(rest) = bytes.get_mut(offset..) {
        let length = rest.len().min(new.len());
        rest[..length].copy_from_slice(&new[..length]);
    }
}

impl fmt::Debug for JournalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalFile").field("boot", &self.boot).finish_non_exhaustive()
    }
}

impl redb::StorageBackend for JournalFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.alive()?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = file.now.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut file = self.alive()?;
        file.now.resize(length, 0);
        // Like file systems that keep the length in their own journal.
        file.stable.resize(length, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut file = self.alive()?;
        if file.lies.is_some() {
            file.lies = Some(file.stable.clone());
        }
        for (offset, bytes) in std::mem::take(&mut file.unsynced) {
            put(&mut file.stable, offset, &bytes);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let mut file = self.alive()?;
        if file.fails {
            return Err(io::Error::other("write failed"));
        }
        put(&mut file.now, offset, data);
        file.unsynced.push((offset, data.to_vec()));
        Ok(())
    }
}
