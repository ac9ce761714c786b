//! An in-memory disk that keeps the guarantees of [`Disk`] exactly, and nothing beyond them.
//!
//! Until a sync that began after a write has finished, a crash may keep the write, lose it, or keep some of its
//! sectors; a seed decides which, so runs are repeatable. Writes and syncs can be made to fail. After a failed sync some
//! of the writes are readable, but no later sync makes them durable. Every call yields to
//! the runtime a few times, also by the seed, so that each seed interleaves tasks differently.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{CALL_MAX, Disk, DiskFile, hangs};

/// The unit that a crash keeps or loses as a whole, in bytes.
const SECTOR: usize = 512;

/// A disk in memory, for tests and simulation. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyDisk {
    machine: Arc<Mutex<Machine>>,
    /// Handles from before a crash fail.
    boot: u64,
}

/// How writes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFault {
    /// The system reports an error, and nothing is written.
    Refused,
    /// The disk is full: some of the bytes are written before the error. Creating a file fails as well.
    NoSpace,
}

/// A permanent failure that starts with some change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The power fails in the middle of the change; see [`FaultyDisk::crash`] for what remains.
    Power,
    /// Every write, sync, creation and removal fails; reads still work.
    Writes,
    /// Everything that takes more room fails, as on a full disk.
    Room,
    /// Every call fails.
    Everything,
    /// Every read fails, because the process has no descriptors left; changes still work.
    NoDescriptors,
    /// No call is answered in time. Changes take effect late: see [`FaultyDisk::let_through`].
    Hangs,
}

struct Machine {
    random: u64,
    boot: u64,
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    write_faults: Vec<WriteFault>,
    sync_faults: u32,
    /// Number of reads that are still to fail.
    read_faults: u32,
    /// Changes since the disk was made: writes, syncs, cuts, creations and removals.
    changes: u64,
    /// The change at which a failure begins, and its kind.
    failure: Option<(u64, Failure)>,
    /// Changes that hang.
    late: Vec<Late>,
    /// Number of calls that hung.
    hung: u64,
}

/// A change whose caller has given up.
enum Late {
    Create(String),
    Remove(String),
    Of(Arc<Mutex<Content>>, Change),
    Sync(Arc<Mutex<Content>>),
}

/// Whether and how a change is made.
enum Turn {
    Goes,
    /// The power fails during it.
    LosesPower,
    Hangs,
}

/// A file: its visible contents, the contents a crash cannot lose, and the changes in between.
#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    length: u64,
    stable: Vec<u8>,
    stable_length: u64,
    /// Changes since the last finished sync, oldest first.
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(u64),
}

impl Machine {
    /// splitmix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Ends all handles, hanging changes and faults.
    fn restart(&mut self) {
        self.boot += 1;
        self.late.clear();
        self.write_faults.clear();
        self.sync_faults = 0;
        self.read_faults = 0;
        self.failure = None;
    }

    fn let_through(&mut self) {
        while !self.late.is_empty() {
            let next = self.draw() as usize % self.late.len();
            match self.late.swap_remove(next) {
                // Its caller has given up, so its room is freed.
                Late::Create(name) => _ = self.files.entry(name).or_default(),
                Late::Remove(name) => _ = self.files.remove(&name),
                Late::Of(content, change) => lock(&content).change(change),
                Late::Sync(content) => {
                    let mut content = lock(&content);
                    let all = content.unsynced.len();
                    content.sync(all);
                }
            }
        }
    }
}

impl Content {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write { offset, bytes } => {
                put(&mut self.now, *offset, bytes);
                self.length = self.length.max((offset + bytes.len()) as u64);
            }
            Change::Length(length) => {
                self.now.truncate(*length as usize);
                self.length = *length;
            }
        }
        self.unsynced.push(change);
    }

    /// Forgets some of the first `covered` changes, as the system does after a failed sync: reads still show them, but
    /// no later sync makes them durable.
    fn forget(&mut self, covered: usize, machine: &mut Machine) {
        let mut number = 0;
        self.unsynced.retain(|_| {
            number += 1;
            number > covered || machine.draw().is_multiple_of(2)
        });
    }

    /// Makes the first `covered` changes durable.
    fn sync(&mut self, covered: usize) {
        let covered = covered.min(self.unsynced.len());
        let changes: Vec<Change> = self.unsynced.drain(..covered).collect();
        for change in changes {
            match change {
                Change::Length(length) => {
                    self.stable.truncate(length as usize);
                    self.stable_length = length;
                }
                Change::Write { offset, bytes } => {
                    put(&mut self.stable, offset, &bytes);
                    self.stable_length = self.stable_length.max((offset + bytes.len()) as u64);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

/// Writes into a file whose trailing zeros are not stored.
fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset + new.len() {
        bytes.resize(offset + new.len(), 0);
    }
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl FaultyDisk {
    /// An empty disk; `seed` decides what crashes lose and how calls interleave.
    pub fn new(seed: u64) -> FaultyDisk {
        let machine = Machine {
            random: seed,
            boot: 0,
            files: BTreeMap::new(),
            write_faults: Vec::new(),
            sync_faults: 0,
            read_faults: 0,
            changes: 0,
            failure: None,
            late: Vec::new(),
            hung: 0,
        };
        FaultyDisk { machine: Arc::new(Mutex::new(machine)), boot: 0 }
    }

    /// Cuts the power: whatever no finished sync covers is kept, lost or torn. This handle and all files opened through
    /// it fail from now on; the returned handle is the disk after the restart. Hanging changes are lost.
    pub fn crash(&self) -> FaultyDisk {
        let mut machine = lock(&self.machine);
        machine.restart();
        let files: Vec<_> = machine.files.values().cloned().collect();
        for file in files {
            let mut file = lock(&file);
            for change in std::mem::take(&mut file.unsynced) {
                match change {
                    Change::Length(length) => {
                        if machine.draw().is_multiple_of(2) {
                            file.stable_length = length;
                            let length = usize::try_from(length).unwrap_or(usize::MAX);
                            file.stable.truncate(length);
                        }
                    }
                    Change::Write { offset, bytes } => match machine.draw() % 3 {
                        0 => {}
                        1 => put(&mut file.stable, offset, &bytes),
                        _ => {
                            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                                if machine.draw().is_multiple_of(2) {
                                    put(&mut file.stable, offset + number * SECTOR, sector);
                                }
                            }
                        }
                    },
                }
            }
            file.stable_length = file.stable_length.max(file.stable.len() as u64);
            file.now = file.stable.clone();
            file.length = file.stable_length;
        }
        FaultyDisk { machine: self.machine.clone(), boot: machine.boot }
    }

    /// Kills the process that uses the disk: this handle and all files opened through it fail from now on; the returned
    /// handle is the next process's. It reads everything that was written, durable or not.
    pub fn kill(&self) -> FaultyDisk {
        let mut machine = lock(&self.machine);
        machine.restart();
        FaultyDisk { machine: self.machine.clone(), boot: machine.boot }
    }

    /// Makes the next writes fail, one for each entry, in this order.
    pub fn fail_writes(&self, faults: &[WriteFault]) {
        lock(&self.machine).write_faults = faults.iter().rev().copied().collect();
    }

    /// Makes the next `count` syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        lock(&self.machine).sync_faults = count;
    }

    /// Makes the next `count` reads fail.
    pub fn fail_reads(&self, count: u32) {
        lock(&self.machine).read_faults = count;
    }

    /// Number of writes, syncs, cuts, creations and removals so far, including failed ones.
    pub fn changes(&self) -> u64 {
        lock(&self.machine).changes
    }

    /// Makes `failure` begin at the change after `after` further ones; `None` repairs the disk.
    pub fn fail_after(&self, after: u64, failure: Option<Failure>) {
        let mut machine = lock(&self.machine);
        machine.failure = failure.map(|failure| (machine.changes + after, failure));
    }

    /// Number of calls that hung so far.
    pub fn hung(&self) -> u64 {
        lock(&self.machine).hung
    }

    /// Applies the hanging changes now, in any order, long after their callers gave up.
    pub fn let_through(&self) {
        lock(&self.machine).let_through();
    }

    /// Puts a file with these bytes on the disk, as its writer may have left it.
    pub fn place(&self, name: &str, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let (now, stable) = (bytes.to_vec(), bytes.to_vec());
        let content = Content { now, length, stable, stable_length: length, unsynced: Vec::new() };
        lock(&self.machine).files.insert(name.to_owned(), Arc::new(Mutex::new(content)));
    }

    /// The current contents of a file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let file = lock(&self.machine).files.get(name).cloned()?;
        let content = lock(&file);
        let mut bytes = content.now.clone();
        bytes.resize(content.length as usize, 0);
        Some(bytes)
    }

    /// Changes the byte at `offset` of a file, as a failing disk would; returns whether there is such a byte.
    pub fn corrupt(&self, name: &str, offset: usize) -> bool {
        self.corrupt_medium(name, offset);
        let machine = lock(&self.machine);
        let Some(file) = machine.files.get(name) else { return false };
        let mut file = lock(file);
        match file.now.get_mut(offset) {
            Some(byte) => *byte ^= 0x40,
            None => return false,
        }
        true
    }

    /// As [`FaultyDisk::corrupt`], but the byte in the operating system's cache stays as written.
    pub fn corrupt_medium(&self, name: &str, offset: usize) -> bool {
        let machine = lock(&self.machine);
        let Some(file) = machine.files.get(name) else { return false };
        let mut file = lock(file);
        match file.stable.get_mut(offset) {
            Some(byte) => *byte ^= 0x40,
            None => return false,
        }
        true
    }

    /// Yields a few times, then fails if the machine has crashed since this handle was made.
    async fn woken(&self) -> io::Result<()> {
        let yields = lock(&self.machine).draw() % 3;
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        self.alive()
    }

    /// Begins a call that changes nothing.
    async fn turn(&self) -> io::Result<()> {
        self.woken().await?;
        if self.hangs() { self.hang().await } else { Ok(()) }
    }

    fn hangs(&self) -> bool {
        let machine = lock(&self.machine);
        matches!(machine.failure, Some((at, Failure::Hangs)) if machine.changes >= at)
    }

    async fn hang<T>(&self) -> io::Result<T> {
        lock(&self.machine).hung += 1;
        tokio::time::sleep(CALL_MAX).await;
        Err(hangs())
    }

    /// Ends a call whose change hangs.
    async fn late<T>(&self, change: Late) -> io::Result<T> {
        lock(&self.machine).late.push(change);
        self.hang().await
    }

    fn alive(&self) -> io::Result<()> {
        let machine = lock(&self.machine);
        if machine.boot != self.boot {
            return Err(io::Error::other("the machine has crashed"));
        }
        match machine.failure {
            Some((at, Failure::Everything)) if machine.changes > at => Err(io::Error::other("the disk is dead")),
            _ => Ok(()),
        }
    }

    /// Begins a call that changes the disk; `grows` if it takes room.
    async fn change(&self, grows: bool) -> io::Result<Turn> {
        self.woken().await?;
        let mut machine = lock(&self.machine);
        machine.changes += 1;
        let Some((at, failure)) = machine.failure else { return Ok(Turn::Goes) };
        if machine.changes <= at {
            return Ok(Turn::Goes);
        }
        match failure {
            Failure::Power => {
                machine.boot += 1;
                Ok(Turn::LosesPower)
            }
            Failure::Room if grows => Err(io::ErrorKind::StorageFull.into()),
            Failure::Room | Failure::NoDescriptors => Ok(Turn::Goes),
            Failure::Hangs => Ok(Turn::Hangs),
            Failure::Writes | Failure::Everything => Err(io::Error::other("the disk fails")),
        }
    }

    /// The error of the change during which the power failed.
    fn after(&self, turn: &Turn) -> io::Result<()> {
        match turn {
            Turn::Goes | Turn::Hangs => Ok(()),
            Turn::LosesPower => Err(io::Error::other("the machine has crashed")),
        }
    }

    /// Whether an atomic change took effect before the power failed.
    fn made(&self, turn: &Turn) -> bool {
        match turn {
            Turn::Goes => true,
            Turn::Hangs => false,
            Turn::LosesPower => lock(&self.machine).draw().is_multiple_of(2),
        }
    }

    fn handle(&self, content: Arc<Mutex<Content>>) -> Arc<dyn DiskFile> {
        Arc::new(Open { disk: self.clone(), content })
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        async move {
            self.turn().await?;
            Ok(lock(&self.machine).files.keys().cloned().collect())
        }
        .boxed()
    }

    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        async move {
            let turn = self.change(true).await?;
            if let Turn::Hangs = turn {
                return self.late(Late::Create(name.to_owned())).await;
            }
            if !self.made(&turn) {
                self.after(&turn)?;
            }
            let mut machine = lock(&self.machine);
            if machine.files.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if machine.write_faults.last() == Some(&WriteFault::NoSpace) {
                machine.write_faults.pop();
                return Err(io::ErrorKind::StorageFull.into());
            }
            let content = Content { length, stable_length: length, ..Content::default() };
            let content = Arc::new(Mutex::new(content));
            machine.files.insert(name.to_owned(), content.clone());
            drop(machine);
            self.after(&turn)?;
            Ok(self.handle(content))
        }
        .boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        async move {
            self.turn().await?;
            let content = lock(&self.machine).files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
            Ok(self.handle(content))
        }
        .boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        async move {
            let turn = self.change(false).await?;
            if let Turn::Hangs = turn {
                return self.late(Late::Remove(name.to_owned())).await;
            }
            if self.made(&turn) {
                lock(&self.machine).files.remove(name);
            }
            self.after(&turn)
        }
        .boxed()
    }
}

struct Open {
    disk: FaultyDisk,
    content: Arc<Mutex<Content>>,
}

impl Open {
    /// Reads from the contents that `of` selects: the bytes without trailing zeros, and the full length.
    async fn read_of(
        &self,
        offset: u64,
        length: usize,
        of: impl Fn(&Content) -> (&Vec<u8>, u64) + Send,
    ) -> io::Result<Bytes> {
        self.disk.turn().await?;
        {
            let mut machine = lock(&self.disk.machine);
            if machine.read_faults > 0 {
                machine.read_faults -= 1;
                return Err(io::Error::other("read failed"));
            }
            if matches!(machine.failure, Some((at, Failure::NoDescriptors)) if machine.changes >= at) {
                return Err(rustix::io::Errno::MFILE.into());
            }
        }
        let content = lock(&self.content);
        let (kept, file_length) = of(&content);
        let end = (offset + length as u64).min(file_length).max(offset);
        let (offset, end) = (offset as usize, end as usize);
        let mut bytes = vec![0; end - offset];
        let held = end.min(kept.len());
        if offset < held {
            bytes[..held - offset].copy_from_slice(&kept[offset..held]);
        }
        Ok(bytes.into())
    }
}

impl DiskFile for Open {
    fn length(&self) -> BoxFuture<'_, io::Result<u64>> {
        async move {
            self.disk.turn().await?;
            Ok(lock(&self.content).length)
        }
        .boxed()
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.read_of(offset, length, |content| (&content.now, content.length)).boxed()
    }

    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.read_of(offset, length, |content| (&content.stable, content.stable_length)).boxed()
    }

    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let turn = self.disk.change(true).await?;
            let mut bytes = pieces.concat();
            if let Turn::Hangs = turn {
                let change = Change::Write { offset: offset as usize, bytes };
                return self.disk.late(Late::Of(self.content.clone(), change)).await;
            }
            let fault = {
                let mut machine = lock(&self.disk.machine);
                let fault = machine.write_faults.pop();
                if fault == Some(WriteFault::NoSpace) {
                    let kept = machine.draw() as usize % (bytes.len() + 1);
                    bytes.truncate(kept);
                }
                fault
            };
            if fault != Some(WriteFault::Refused) {
                lock(&self.content).change(Change::Write { offset: offset as usize, bytes });
            }
            match fault {
                None => self.disk.after(&turn),
                Some(WriteFault::Refused) => Err(io::Error::other("write refused")),
                Some(WriteFault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            }
        }
        .boxed()
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let turn = self.disk.change(false).await?;
            if let Turn::Hangs = turn {
                return self.disk.late(Late::Of(self.content.clone(), Change::Length(length))).await;
            }
            lock(&self.content).change(Change::Length(length));
            self.disk.after(&turn)
        }
        .boxed()
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        async move {
            let covered = lock(&self.content).unsynced.len();
            let turn = self.disk.change(false).await?;
            if let Turn::Hangs = turn {
                return self.disk.late(Late::Sync(self.content.clone())).await;
            }
            self.disk.after(&turn)?;
            {
                let mut machine = lock(&self.disk.machine);
                if machine.sync_faults > 0 {
                    machine.sync_faults -= 1;
                    lock(&self.content).forget(covered, &mut machine);
                    return Err(io::Error::other("sync failed"));
                }
            }
            lock(&self.content).sync(covered);
            Ok(())
        }
        .boxed()
    }
}
