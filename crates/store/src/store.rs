//! The store: dispatches each operation to the part that answers it.
//!
//! A key belongs to one disk for good, so each disk is a log of its own; without a disk, objects are in the memory tier
//! alone, behind the same interface. Changes that depend on what is stored are decided by the disk's writer, one after
//! another; a caller that lost a race looks again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::absence::{Present, make_void_if_it_was_left_out, mark_left_out};
use crate::config::{DISK_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN, room_of_fills};
use crate::disk::{Disk, FileDisk};
use crate::fill::Fill;
use crate::format::{FULL_KEY_BYTES_MAX, HEAD_BYTES_MAX, SLICE_BYTES_MAX};
use crate::growing::Growing;
use crate::index::name;
use crate::memory::Memory;
use crate::object::Entry;
use crate::outage::is_of_disk;
use crate::prover::Prover;
use crate::recover::{SYNC_A_SEGMENT, recover};
use crate::stats::Counters;
use crate::volume::Volume;
use crate::writer::{self, Command, IN_FLIGHT_BYTES_MAX, Queue};
use crate::{Config, DiskConfig, Key, Object, OpenError, RACES_MAX, ReadError, Stats, WriteError};

mod sweep;

pub use sweep::{Sweep, Swept, SweptObject};

/// The store of one machine. Cheap to clone; can be used from several runtimes at once.
///
/// Its writers are tasks of the runtime that opened it; once that has ended, writes fail with [`WriteError::Closed`].
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) memory: Arc<Memory>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) disks: Vec<Mount>,
    /// Configured disks that could not be read when the store was opened.
    missing: Vec<Missing>,
    /// Number of the next fill that goes to memory alone.
    next_fill: AtomicU64,
}

struct Missing {
    path: PathBuf,
    cause: String,
    /// Whether its contents will be void when it is back.
    settled: bool,
}

/// A volume in service, with the queue to its writer.
pub(crate) struct Mount {
    pub(crate) volume: Arc<Volume>,
    pub(crate) queue: Queue,
    pub(crate) prover: Prover,
    /// Hash of the path: together with the key it decides which disk holds an object.
    seed: u64,
}

/// Identifies the body of an object: new with every fill, kept by `update_head`. Unique within a disk, across restarts,
/// except for bodies lost in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Which body `remove` may remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any body stored under the key.
    Any,
    /// Only this body.
    Only(Generation),
}

/// The upper byte of a fill's number is that of its disk, so that a body that moves from a failing disk to another, or
/// to memory, does not collide with old generations there; the other bytes are a counter.
const FILL_COUNT_BITS: u32 = 56;

/// The counter of a fill's number. The disk may have had another number when the fill was written.
pub(crate) fn fill_count(number: u64) -> u64 {
    number & ((1 << FILL_COUNT_BITS) - 1)
}

/// How often opening a failing disk is tried before it is left out of service.
const OPEN_TRIES: u32 = 3;

impl Store {
    /// Opens the directories of `config`, locks them, and recovers their contents. Must be called on a tokio runtime
    /// that lives for as long as the store is written to. A failing disk is left out of service, and [`Stats`] reports
    /// it; a wrong directory is an error.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        let mut disks: Vec<io::Result<Arc<dyn Disk>>> = Vec::new();
        for disk in &config.disks {
            let path = || disk.path.clone();
            disks.push(match FileDisk::open(&disk.path).await {
                Ok(opened) => Ok(Arc::new(opened)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(OpenError::InUse { path: path() });
                }
                Err(error) if is_failing(&error) => Err(error),
                Err(source) => return Err(OpenError::Io { path: path(), doing: "open and lock", source }),
            });
        }
        Store::open_those(config, disks).await
    }

    /// Opens a store on the given disks, one for each entry of `config.disks`, whose paths then serve as names only.
    pub async fn open_on(config: Config, disks: Vec<Arc<dyn Disk>>) -> Result<Store, OpenError> {
        assert_eq!(config.disks.len(), disks.len(), "one disk for each entry of the configuration");
        Store::open_those(config, disks.into_iter().map(Ok).collect()).await
    }

    async fn open_those(config: Config, disks: Vec<io::Result<Arc<dyn Disk>>>) -> Result<Store, OpenError> {
        let began = Instant::now();
        let memory = Arc::new(Memory::new(config.memory_bytes, (config.disks.len() * IN_FLIGHT_BYTES_MAX) as u64));
        let counters = Arc::new(Counters::default());
        let seeded = config.disks.iter().map(|disk| path_seed(&disk.path)).zip(&disks);
        let present: Vec<Present> =
            seeded.filter_map(|(seed, disk)| Some((seed, disk.as_ref().ok()?.clone()))).collect();
        let present = &present;
        let mounts = config.disks.iter().zip(disks).enumerate().map(|(number, (disk_config, disk))| {
            let (memory, counters) = (memory.clone(), counters.clone());
            let path = disk_config.path.clone();
            async move {
                let mut tries = 0;
                let opened = loop {
                    tries += 1;
                    let opened = match &disk {
                        Ok(disk) => {
                            let (disk, memory, counters) = (disk.clone(), memory.clone(), counters.clone());
                            match make_void_if_it_was_left_out(path_seed(&path), &path, present).await {
                                Ok(()) => {
                                    let (number, segment_bytes) = (number as u16, config.segment_bytes);
                                    open_mount(number, disk_config, segment_bytes, disk, memory, counters).await
                                }
                                Err(source) => {
                                    let (path, doing) =
                                        (path.clone(), "discard the contents of a disk that was missing");
                                    Err(OpenError::Io { path, doing, source })
                                }
                            }
                        }
                        Err(error) => {
                            let source = io::Error::new(error.kind(), error.to_string());
                            Err(OpenError::Io { path: path.clone(), doing: "open and lock", source })
                        }
                    };
                    match opened {
                        Err(OpenError::Io { doing, source, .. })
                            if is_failing(&source) && doing != SYNC_A_SEGMENT && tries < OPEN_TRIES => {}
                        opened => break opened,
                    }
                };
                match opened {
                    Ok(mount) => Ok(Ok(mount)),
                    Err(OpenError::Io { doing, source, .. }) if is_failing(&source) => {
                        tracing::error!(disk = %path.display(), doing, error = %source, "disk not put into service");
                        Ok(Err((path, format!("{doing}: {source}"))))
                    }
                    Err(error) => Err(error),
                }
            }
        });
        let opened = try_join_all(mounts).await?;
        counters.recovery_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        let (mut disks, mut left_out) = (Vec::new(), Vec::new());
        for mount in opened {
            match mount {
                Ok(mount) => disks.push(mount),
                Err(path_and_cause) => left_out.push(path_and_cause),
            }
        }
        let in_service: Vec<Present> = disks.iter().map(|mount| (mount.seed, mount.volume.disk.clone())).collect();
        let mut missing = Vec::with_capacity(left_out.len());
        for (path, cause) in left_out {
            let settled = mark_left_out(path_seed(&path), &path, &in_service).await;
            missing.push(Missing { path, cause, settled });
        }
        let count = |mount: &Mount| fill_count(mount.volume.next_fill.load(Ordering::Relaxed));
        let most = disks.iter().map(count).max().unwrap_or(1);
        let first_of = |number: u64| most | number.min(u64::from(u8::MAX)) << FILL_COUNT_BITS;
        for mount in &disks {
            mount.volume.next_fill.store(first_of(u64::from(mount.volume.number)), Ordering::Relaxed);
        }
        let next_fill = AtomicU64::new(first_of(u64::from(u8::MAX)));
        Ok(Store { inner: Arc::new(Inner { memory, counters, disks, missing, next_fill }) })
    }

    /// The disk that holds a key, if any: the one with the highest hash of path and name (rendezvous hashing), so
    /// adding or losing a disk moves no key between the others.
    pub(crate) fn mount(&self, key: Key) -> Option<&Mount> {
        self.owner(name(key))
    }

    fn owner(&self, name: u64) -> Option<&Mount> {
        let in_service = self.inner.disks.iter().filter(|mount| !mount.volume.outage.is_out());
        in_service.max_by_key(|mount| xxh3_64_with_seed(&name.to_le_bytes(), mount.seed))
    }

    /// The other disks in service. One of them may have an object of this key from a time when the owner was out of
    /// service, or not yet configured: an *orphan*. Lookups do not find it, but would if the owner were out again.
    fn others<'a>(&'a self, owner: &'a Mount) -> impl Iterator<Item = &'a Mount> {
        let in_service = self.inner.disks.iter().filter(|mount| !mount.volume.outage.is_out());
        in_service.filter(|mount| !std::ptr::eq(*mount, owner))
    }

    /// The error for a disk out of service whose objects may be back after a restart.
    fn unsettled_outage(&self) -> Option<WriteError> {
        let mut out = self.inner.disks.iter().filter(|mount| mount.volume.outage.is_out());
        if let Some(mount) = out.find(|mount| !mount.volume.outage.is_settled()) {
            return Some(mount.volume.out_of_service());
        }
        let Missing { path, cause, .. } = self.inner.missing.iter().find(|missing| !missing.settled)?;
        Some(WriteError::OutOfService { path: path.clone(), cause: cause.clone() })
    }

    /// Finds an object by its hash and full key. An object in memory is found without waiting. Treat an error as a
    /// miss: the fill that follows replaces the unreadable object.
    pub async fn lookup(&self, key: Key, full_key: &[u8]) -> Result<Option<Object>, ReadError> {
        let mount = self.mount(key);
        let counters = &self.inner.counters;
        if let Some(object) = self.in_memory(mount, key, full_key) {
            self.note_hit(&object);
            return Ok(Some(object));
        }
        let found = self.find(mount, key, full_key).await?;
        let counter = if found.is_some() { &counters.disk_hits } else { &counters.misses };
        found.iter().for_each(|object| self.note_asked(object));
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(found)
    }

    /// Looks in memory only, without waiting. It is not counted until [`Store::note_hit`] is called.
    pub fn lookup_in_memory(&self, key: Key, full_key: &[u8]) -> Option<Object> {
        self.in_memory(self.mount(key), key, full_key)
    }

    /// Whether an object is stored under this hash, as far as is known without reading it.
    pub fn is_listed(&self, key: Key) -> bool {
        match self.mount(key) {
            Some(mount) => mount.volume.readable(name(key)).is_some(),
            None => self.inner.memory.peek_head(name(key)).is_some(),
        }
    }

    /// Counts an object found by [`Store::lookup_in_memory`] as a hit.
    pub fn note_hit(&self, object: &Object) {
        self.inner.counters.memory_hits.fetch_add(1, Ordering::Relaxed);
        self.note_asked(object);
    }

    pub(crate) fn in_memory(&self, mount: Option<&Mount>, key: Key, full_key: &[u8]) -> Option<Object> {
        let entry = self.inner.memory.head(name(key))?;
        let volume = mount.map(|mount| mount.volume.clone());
        let alive = volume.as_ref().is_none_or(|volume| volume.is_alive(&entry));
        (alive && entry.record.full_key == full_key).then_some(Object { entry, volume })
    }

    fn note_asked(&self, object: &Object) {
        if let Some(volume) = &object.volume {
            volume.note_asked(&object.entry);
        }
    }

    /// A lookup that is not counted.
    pub(crate) async fn find(
        &self,
        mount: Option<&Mount>,
        key: Key,
        full_key: &[u8],
    ) -> Result<Option<Object>, ReadError> {
        if let Some(object) = self.in_memory(mount, key, full_key) {
            return Ok(Some(object));
        }
        let Some(mount) = mount else { return Ok(None) };
        let entry = mount.volume.find(name(key)).await?.filter(|entry| entry.record.full_key == full_key);
        Ok(entry.map(|entry| Object { entry, volume: Some(mount.volume.clone()) }))
    }

    /// Begins to store a body. `head` and `stamp` are stored with it; `length` is its length if known, so that a body
    /// that is too large is refused at once with [`WriteError::TooLarge`]. Nothing is visible until the fill finishes.
    /// If running fills could then need more memory than allowed, the fill is refused with [`WriteError::Busy`].
    pub fn begin_fill(
        &self,
        key: Key,
        full_key: &[u8],
        head: Bytes,
        stamp: u64,
        length: Option<u64>,
    ) -> Result<Fill, WriteError> {
        check_head(full_key, &head)?;
        let mount = self.mount(key);
        let most = mount.map_or_else(|| self.inner.memory.body_bytes_max(), |mount| mount.volume.body_bytes_max());
        if let Some(length) = length.filter(|length| *length > most) {
            return Err(WriteError::TooLarge { length, most });
        }
        if mount.is_some_and(|mount| mount.queue.is_closed()) {
            return Err(mount.map_or(WriteError::Closed, |mount| mount.queue.ended()));
        }
        let next_fill = mount.map_or(&self.inner.next_fill, |mount| &mount.volume.next_fill);
        let id = next_fill.fetch_add(1, Ordering::Relaxed);
        let volume = mount.map(|mount| mount.volume.clone());
        let slice_bytes = volume.as_ref().map_or(SLICE_BYTES_MAX, |volume| volume.slice_bytes);
        // A complete slice goes to the disk; without a disk everything stays in memory.
        let held = if volume.is_some() { slice_bytes as u64 } else { most };
        let reserved = length.map_or(slice_bytes as u64, |length| length.min(held));
        let allowed = room_of_fills(self.inner.memory.capacity());
        if !self.inner.counters.reserve(reserved, allowed) {
            return Err(WriteError::Busy { most: allowed });
        }
        self.inner.counters.fills.fetch_add(1, Ordering::Relaxed);
        Ok(Fill {
            slice_bytes,
            growing: Arc::new(Growing::new(key, id, full_key, &head, stamp, volume, self.inner.memory.buffers.clone())),
            followed: Arc::default(),
            queue: mount.map(|mount| mount.queue.clone()),
            memory: self.inner.memory.clone(),
            counters: self.inner.counters.clone(),
            announced: length,
            most,
            sent: 0,
            gathered: 0,
            reserved,
            committed: false,
        })
    }

    /// Replaces the head of `object`, if its body is still the one stored under its key; `None` if not. The stored
    /// stamp becomes the larger of its own and `stamp`. Visible on return, durable with the next sync.
    pub async fn update_head(&self, object: &Object, head: Bytes, stamp: u64) -> Result<Option<Object>, WriteError> {
        check_head(object.full_key(), &head)?;
        let mount = self.mount(object.key());
        // Retries only if another change of this object came first.
        for _ in 0..RACES_MAX {
            let found = self.find(mount, object.key(), object.full_key()).await.map_err(WriteError::Read)?;
            let Some(now) = found.filter(|found| found.generation() == object.generation()) else { return Ok(None) };
            let mut record = now.entry.record.clone();
            record.stamp = record.stamp.max(stamp);
            record.head = Bytes::copy_from_slice(&head);
            let place = now.entry.place;
            let entry = Entry { record, ..now.entry.copied() };
            let changed = match mount {
                Some(mount) => {
                    let _permit = mount.queue.admit(head.len() + object.full_key().len()).await?;
                    let entry = Box::new(entry);
                    mount.queue.ask(|reply| Command::Head { entry, expected: place, reply }).await?
                }
                None => self.change_in_memory(&now.entry, Some(Arc::new(entry))),
            };
            if let Some(entry) = changed {
                return Ok(Some(Object { entry, volume: now.volume }));
            }
        }
        Err(WriteError::Raced)
    }

    /// Replaces or removes a head in a store without a disk, if it is still `expected`; returns the head that is
    /// current afterwards.
    fn change_in_memory(&self, expected: &Arc<Entry>, new: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        let memory = &self.inner.memory;
        let name = name(expected.key);
        let _changes = memory.changes.lock().expect("no code panics while it holds this lock");
        memory.head(name).filter(|now| Arc::ptr_eq(now, expected))?;
        match new {
            Some(new) => {
                memory.insert_head(new.clone());
                Some(new)
            }
            None => {
                memory.remove_head(name);
                Some(expected.clone())
            }
        }
    }

    /// Removes the object stored under `key`, durably: on return it stays removed after a crash. Returns whether there
    /// was one. On an error it is gone from this process, but may be back after a restart;
    /// on [`WriteError::Raced`] it is as it was.
    pub async fn remove(&self, key: Key, full_key: &[u8], which: Which) -> Result<bool, WriteError> {
        let mount = self.mount(key);
        let removed = self.remove_from(mount, key, full_key, which).await?;
        if let Some(owner) = mount {
            self.remove_orphans(owner, key).await?;
            for other in self.others(owner).filter(|other| other.volume.unsettled.load(Ordering::SeqCst)) {
                // An orphan may have been removed a moment ago, and must not be back after a crash.
                other.queue.ask(|reply| Command::Sync { reply }).await?;
            }
        }
        self.unsettled_outage().map_or(Ok(removed), Err)
    }

    /// Removes the orphans of a key, durably. Nobody can want to keep one, whatever body it is.
    async fn remove_orphans(&self, owner: &Mount, key: Key) -> Result<(), WriteError> {
        for other in self.others(owner).filter(|other| other.volume.index.get(name(key)).is_some()) {
            other.queue.ask(|reply| Command::Remove { key, expected: None, durable: true, reply }).await?;
        }
        Ok(())
    }

    /// Removes the object from the disk that owns its key, or from memory.
    async fn remove_from(
        &self,
        mount: Option<&Mount>,
        key: Key,
        full_key: &[u8],
        which: Which,
    ) -> Result<bool, WriteError> {
        // Retries only if another change of this object came first.
        for _ in 0..RACES_MAX {
            let (found, unread) = match self.find(mount, key, full_key).await {
                Ok(found) => (found, false),
                // Its place is still known, and it is removed below without being read.
                Err(ReadError::Io { .. } | ReadError::Corrupt { .. }) => (None, true),
                Err(error) => return Err(WriteError::Read(error)),
            };
            let place = |volume: &Volume| match unread {
                true => volume.index.get(name(key)),
                false => volume.unreadable(name(key)),
            };
            if let Some((mount, expected)) = mount.and_then(|mount| Some((mount, place(&mount.volume)?))) {
                let ask = |reply| Command::Remove { key, expected: Some(expected), durable: true, reply };
                if mount.queue.ask(ask).await? {
                    return Ok(true);
                }
                continue;
            }
            let wanted = |found: &Object| match which {
                Which::Any => true,
                Which::Only(generation) => found.generation() == generation,
            };
            let Some(Object { entry, .. }) = found.filter(wanted) else {
                if let Some(mount) = mount.filter(|mount| mount.volume.unsettled.load(Ordering::SeqCst)) {
                    // It may have been removed a moment ago, and must not be back after a crash.
                    mount.queue.ask(|reply| Command::Sync { reply }).await?;
                }
                return Ok(false);
            };
            let removed = match mount {
                Some(mount) => {
                    let expected = Some(entry.place);
                    mount.queue.ask(|reply| Command::Remove { key, expected, durable: true, reply }).await?
                }
                None => self.change_in_memory(&entry, None).is_some(),
            };
            if removed {
                return Ok(true);
            }
        }
        Err(WriteError::Raced)
    }

    /// A disk that is out of service, and the reason.
    pub(crate) fn outage(&self) -> Option<(PathBuf, String)> {
        let cause = |mount: &Mount| Some((mount.volume.path.clone(), mount.volume.outage.cause()?.to_owned()));
        self.inner.disks.iter().find_map(cause).or_else(|| {
            let Missing { path, cause, .. } = self.inner.missing.first()?;
            Some((path.clone(), cause.clone()))
        })
    }

    pub(crate) fn has_disk_in_service(&self) -> bool {
        self.inner.disks.iter().any(|mount| !mount.volume.outage.is_out())
    }

    /// Whether so many body bytes are in memory that slow readers should hold as few as they can.
    pub fn is_short(&self) -> bool {
        self.inner.memory.buffers.is_short()
    }

    /// Whether so many body bytes are in memory that no more should be loaded: more than [`Stats::buffered_bytes_max`].
    pub fn is_exhausted(&self) -> bool {
        self.inner.memory.buffers.is_exhausted()
    }

    /// Counters, as of now.
    pub fn stats(&self) -> Stats {
        let Inner { memory, counters, disks, missing, .. } = &*self.inner;
        let mut stats = counters.snapshot();
        stats.memory_bytes = memory.bytes();
        stats.memory_capacity_bytes = memory.capacity();
        stats.reserved_bytes_max = room_of_fills(memory.capacity());
        stats.buffered_bytes = memory.buffers.bytes();
        stats.buffered_bytes_max = memory.buffers.most();
        stats.in_flight_bytes_max = (disks.len() * IN_FLIGHT_BYTES_MAX) as u64;
        stats.disks_out = missing.len() as u64;
        if !self.has_disk_in_service() {
            stats.objects = memory.items();
        }
        for mount in disks {
            if mount.volume.outage.is_out() {
                stats.disks_out += 1;
                continue;
            }
            let (segments, bytes) = mount.volume.usage();
            stats.objects += mount.volume.index.len();
            stats.segments += segments;
            stats.disk_bytes += bytes;
            stats.held_bytes += mount.volume.held_bytes();
            stats.held_bytes_max += mount.volume.held.most;
            stats.disk_capacity_bytes += mount.volume.capacity_bytes;
            stats.in_flight_bytes += mount.queue.in_flight_bytes();
            let (pinned, bytes, most) = mount.volume.pins.usage();
            stats.pinned_objects += pinned;
            stats.pinned_bytes += bytes;
            stats.pinned_bytes_max += most;
            stats.pins_lost += mount.volume.pins.lost.load(Ordering::Relaxed);
        }
        stats
    }

    /// Makes everything durable, seals the open segments so that the next start is fast, and refuses writes from then
    /// on.
    pub async fn close(&self) -> Result<(), WriteError> {
        for mount in &self.inner.disks {
            match mount.queue.ask(|reply| Command::Close { reply }).await {
                Ok(_) | Err(WriteError::Closed | WriteError::OutOfService { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

async fn open_mount(
    number: u16,
    config: &DiskConfig,
    segment_bytes: u64,
    disk: Arc<dyn Disk>,
    memory: Arc<Memory>,
    counters: Arc<Counters>,
) -> Result<Mount, OpenError> {
    let DiskConfig { path, capacity_bytes } = config.clone();
    let least_bytes = DISK_BYTES_MIN;
    if capacity_bytes < least_bytes {
        return Err(OpenError::CapacityTooSmall { path, capacity_bytes, least_bytes });
    }
    let segment_bytes = segment_bytes.min(capacity_bytes / SEGMENTS_MIN).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    let seed = path_seed(&path);
    let volume = Arc::new(Volume::new(number, path, disk, capacity_bytes, segment_bytes, memory, counters));
    let next_segment = recover(&volume).await?;
    let queue = writer::spawn(volume.clone(), next_segment);
    Ok(Mount { prover: Prover::spawn(&volume), volume, queue, seed })
}

/// Whether an error means that a disk fails or is full, rather than that the configuration names the wrong place, or
/// that the process has too few descriptors or too little memory: a disk left out for that would be void afterwards.
fn is_failing(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    is_of_disk(error)
        && !matches!(
            error.kind(),
            AlreadyExists | InvalidFilename | InvalidInput | NotADirectory | NotFound | PermissionDenied
        )
}

fn path_seed(path: &Path) -> u64 {
    xxh3_64_with_seed(path.as_os_str().as_encoded_bytes(), 0)
}

pub(crate) fn check_head(full_key: &[u8], head: &[u8]) -> Result<(), WriteError> {
    for (what, length, most) in [("full key", full_key.len(), FULL_KEY_BYTES_MAX), ("head", head.len(), HEAD_BYTES_MAX)]
    {
        if length > most {
            return Err(WriteError::HeadTooLarge { what, length, most });
        }
    }
    Ok(())
}
