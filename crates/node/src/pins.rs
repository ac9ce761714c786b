//! Pinned objects: what the store keeps until a given time, and at whose wish.
//!
//! The store keeps objects that it is told to pin, but forgets pins in a restart. The journal remembers them, and the
//! store is told again before anything is written into it.
//!
//! # What always holds
//!
//! - A pin is in the journal before its job is reported. Pins that arrive during a write wait and are written together:
//!   a sync for each would hold up the log, whose entries go to the same journal.
//! - An account has no more bytes pinned than its jobs allow, and the node no more objects than [`PINS_MAX`]. The store
//!   decides how much of a disk may be pinned.
//! - A pin does not hold off a refresh. A body that replaces a pinned one is pinned in its place, while there is room;
//!   removing an object removes its pin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Cause, Clock, Pin};
use store::{PinError, Store};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::head::ObjectKey;
use crate::journal::{Journal, JournalError};
use crate::upstream;

/// The most pinned objects of a node.
pub(crate) const PINS_MAX: usize = 200_000;

/// How often expired pins are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// A pin as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pinned {
    /// The full key of the object.
    pub(crate) full_key: Vec<u8>,
    /// When it expires, in seconds since 1970.
    pub(crate) until: u64,
    /// A number that stands for the account.
    pub(crate) owner: u64,
    /// Length of the body.
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<u128, Pinned>,
    /// Bytes pinned by each account.
    by_owner: HashMap<u64, u64>,
}

impl Kept {
    fn take(&mut self, key: u128) -> Option<Pinned> {
        let pinned = self.by_key.remove(&key)?;
        if let Some(bytes) = self.by_owner.get_mut(&pinned.owner) {
            *bytes = bytes.saturating_sub(pinned.bytes);
            if *bytes == 0 {
                self.by_owner.remove(&pinned.owner);
            }
        }
        Some(pinned)
    }

    fn put(&mut self, key: u128, pinned: Pinned) {
        self.take(key);
        if pinned.bytes > 0 {
            *self.by_owner.entry(pinned.owner).or_default() += pinned.bytes;
        }
        self.by_key.insert(key, pinned);
    }

    fn bytes_of(&self, owner: u64) -> u64 {
        self.by_owner.get(&owner).copied().unwrap_or(0)
    }
}

/// The pins of a node.
pub(crate) struct Pins {
    store: Store,
    journal: Journal,
    /// At most the pins of the jobs that run ([`crate::prefetch`]).
    to_write: Mutex<Vec<ToWrite>>,
    /// Held while writing.
    writing: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
    /// Held shared while pinning, and exclusively while tidying: a half-made pin must not look expired.
    pinning: tokio::sync::RwLock<()>,
}

/// The pins of a job, and the channel that reports when they are in the journal, or why they are not.
struct ToWrite {
    rows: Vec<(u128, Pinned)>,
    written: oneshot::Sender<Result<(), String>>,
}

/// Writes pins to the journal.
async fn write_together(journal: Journal, wanted: Vec<ToWrite>) {
    let (rows, waiting): (Vec<_>, Vec<_>) = wanted.into_iter().map(|one| (one.rows, one.written)).unzip();
    let rows = rows.concat();
    let result = journal.on(move |journal| journal.pin(&rows)).await.map_err(|error| upstream::words(&error));
    for written in waiting {
        _ = written.send(result.clone()); // its job may have been withdrawn
    }
}

/// Why an object was not pinned.
pub(crate) enum NotPinned {
    /// It is not in the store any more: look again.
    Absent,
    /// It cannot be pinned.
    For(Cause),
}

impl Pins {
    pub(crate) fn new(store: Store, journal: Journal) -> Pins {
        let (to_write, kept) = (Mutex::default(), Mutex::default());
        let (writing, pinning) = (tokio::sync::Mutex::default(), tokio::sync::RwLock::default());
        Pins { store, journal, to_write, writing, kept, pinning }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder of this lock can panic")
    }

    fn to_write(&self) -> MutexGuard<'_, Vec<ToWrite>> {
        self.to_write.lock().expect("no holder of this lock can panic")
    }

    /// How many objects are pinned.
    pub(crate) fn count(&self) -> usize {
        self.kept().by_key.len()
    }

    /// Restores the pins of the journal in the store, before anything is written into it.
    pub(crate) async fn load(&self, now: SystemTime) -> Result<(), JournalError> {
        let remembered = self.journal.on(|journal| journal.pins()).await?;
        let mut over = Vec::new();
        for (key, pinned) in remembered {
            let mut pinned = pinned;
            let again = pinned.until > secs(now)
                && match self.store.pin(store::Key(key), &pinned.full_key, None).await {
                    // Another body may have replaced it since. The marker that leads to a body has no bytes of its own.
                    Ok(bytes) => {
                        pinned.bytes = if pinned.bytes > 0 { bytes } else { 0 };
                        true
                    }
                    Err(PinError::Absent) => false,
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a pinned object is no longer pinned");
                        false
                    }
                };
            if again {
                self.kept().put(key, pinned);
            } else {
                over.push(key);
            }
        }
        self.forget(over).await
    }

    async fn forget(&self, over: Vec<u128>) -> Result<(), JournalError> {
        if over.is_empty() {
            return Ok(());
        }
        self.journal.on(move |journal| journal.unpin(&over)).await
    }

    /// Pins an object of `bytes` and the marker that leads to it: `keys`, of which the first holds this body.
    pub(crate) async fn pin(
        &self,
        keys: &[ObjectKey],
        body: store::Generation,
        bytes: u64,
        pin: &Pin,
    ) -> Result<(), NotPinned> {
        let _pinning = self.pinning.read().await;
        let refused = |words: String| Err(NotPinned::For(Cause::NotPinned(words)));
        let (mut written, mut earlier) = (Vec::new(), Vec::new());
        {
            let mut kept = self.kept();
            let before: u64 = keys
                .iter()
                .filter_map(|key| kept.by_key.get(&key.hash().0))
                .filter(|pinned| pinned.owner == pin.owner)
                .map(|pinned| pinned.bytes)
                .sum();
            let others = kept.bytes_of(pin.owner).saturating_sub(before);
            if others.saturating_add(bytes) > pin.bytes_max {
                let most = pin.bytes_max;
                return refused(format!("the account may have {most} bytes pinned on a node, and has {others}"));
            }
            if kept.by_key.len() + keys.len() > PINS_MAX {
                return refused(format!("a node keeps {PINS_MAX} pinned objects at most"));
            }
            for (at, key) in keys.iter().enumerate() {
                let key_hash = key.hash().0;
                let until = kept.by_key.get(&key_hash).map_or(pin.until, |before| before.until.max(pin.until));
                let bytes = if at == 0 { bytes } else { 0 };
                let pinned = Pinned { full_key: key.bytes().to_vec(), until, owner: pin.owner, bytes };
                earlier.push(kept.by_key.get(&key_hash).cloned());
                kept.put(key_hash, pinned.clone());
                written.push((key_hash, pinned));
            }
        }
        // What was pinned before stays as it was. A marker stays pinned too: it takes no room, and other variants that
        // it leads to may be pinned by now.
        let undo = || {
            for (key, before) in keys.iter().zip(&earlier).take(1) {
                self.kept().take(key.hash().0);
                match before {
                    Some(before) => self.kept().put(key.hash().0, before.clone()),
                    None => _ = self.store.unpin(key.hash()),
                }
            }
        };
        for (at, key) in keys.iter().enumerate() {
            match self.store.pin(key.hash(), key.bytes(), (at == 0).then_some(body)).await {
                Ok(_) => {}
                Err(error) => {
                    undo();
                    return match error {
                        PinError::Absent => Err(NotPinned::Absent),
                        error => refused(error.to_string()),
                    };
                }
            }
        }
        if let Err(words) = self.write(written).await {
            undo();
            return Err(NotPinned::For(Cause::Store(words)));
        }
        Ok(())
    }

    /// Writes pins to the journal, together with those that arrived while others were being written.
    async fn write(&self, rows: Vec<(u128, Pinned)>) -> Result<(), String> {
        let (written, result) = oneshot::channel();
        self.to_write().push(ToWrite { rows, written });
        let writing = self.writing.lock().await;
        let wanted = std::mem::take(&mut *self.to_write());
        if !wanted.is_empty() {
            // A separate task: the other jobs' pins are written even if this job is withdrawn.
            _ = tokio::spawn(write_together(self.journal.clone(), wanted)).await;
        }
        drop(writing);
        result.await.unwrap_or_else(|_| Err("the pin was not written".to_owned()))
    }

    /// Removes expired pins, and those whose object is gone.
    pub(crate) async fn tidy(&self, now: SystemTime) -> Result<(), JournalError> {
        let _alone = self.pinning.write().await;
        let over: Vec<u128> = {
            let mut kept = self.kept();
            let is_over =
                |key: u128, pinned: &Pinned| pinned.until <= secs(now) || !self.store.is_pinned(store::Key(key));
            let over: Vec<u128> =
                kept.by_key.iter().filter(|(key, pinned)| is_over(**key, pinned)).map(|(key, _)| *key).collect();
            for key in &over {
                kept.take(*key);
                self.store.unpin(store::Key(*key));
            }
            over
        };
        self.forget(over).await
    }

    /// Tidies pins until `stopping`.
    pub(crate) async fn run(self: Arc<Self>, clock: Arc<dyn Clock>, stopping: CancellationToken) {
        while stopping.run_until_cancelled(tokio::time::sleep(TIDY_EVERY)).await.is_some() {
            if let Err(error) = self.tidy(clock.now()).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "expired pins could not be removed from the journal"
                );
            }
        }
    }
}

pub(crate) fn secs(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use model::UrlKey;
    use store::disk::{Disk, FaultyDisk};

    use super::*;

    const OWNER: u64 = 7;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn key(path: &str) -> ObjectKey {
        ObjectKey::bare(&UrlKey::new("a.com", path).unwrap())
    }

    fn pin(until: u64, bytes_max: u64) -> Pin {
        Pin { until, owner: OWNER, bytes_max }
    }

    /// 4 MiB in segments of 64 KiB.
    async fn store_on(disk: &FaultyDisk) -> Store {
        let disks = vec![store::DiskConfig { path: "disk".into(), capacity_bytes: 4 << 20 }];
        let config = store::Config { memory_bytes: 64 << 10, disks, segment_bytes: 64 << 10 };
        let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(disk.clone())];
        Store::open_on(config, disks).await.unwrap()
    }

    async fn put(store: &Store, path: &str, length: usize) -> store::Generation {
        let key = key(path);
        let mut fill = store.begin_fill(key.hash(), key.bytes(), Bytes::new(), 1, None).unwrap();
        fill.append(vec![9; length].into()).await.unwrap();
        fill.finish().await.unwrap().generation()
    }

    async fn flood(store: &Store) {
        for number in 0..400 {
            put(store, &format!("/flood/{number}"), 20_000).await;
        }
    }

    async fn is_there(store: &Store, path: &str) -> bool {
        store.lookup(key(path).hash(), key(path).bytes()).await.unwrap().is_some()
    }

    fn words(refused: Result<(), NotPinned>) -> String {
        match refused {
            Err(NotPinned::For(cause)) => cause.to_string(),
            Err(NotPinned::Absent) => "absent".to_owned(),
            Ok(()) => String::new(),
        }
    }

    fn journal(directory: &Path) -> Journal {
        Journal::open(directory).unwrap()
    }

    #[tokio::test]
    async fn pinned_objects_stay_through_a_restart_until_their_time_is_over() {
        let (disk, directory) = (FaultyDisk::new(1), tempfile::tempdir().unwrap());
        {
            let store = store_on(&disk).await;
            let pins = Pins::new(store.clone(), journal(directory.path()));
            for (path, until) in [("/short", 100), ("/long", 200)] {
                let body = put(&store, path, 5_000).await;
                assert!(pins.pin(&[key(path)], body, 5_000, &pin(until, 1 << 20)).await.is_ok());
            }
            flood(&store).await;
            assert!(is_there(&store, "/short").await && is_there(&store, "/long").await);
        }
        let store = store_on(&disk.crash()).await;
        let pins = Pins::new(store.clone(), journal(directory.path()));
        pins.load(at(50)).await.unwrap();
        assert_eq!(pins.count(), 2);
        flood(&store).await;
        assert!(is_there(&store, "/short").await && is_there(&store, "/long").await);
        pins.tidy(at(100)).await.unwrap();
        flood(&store).await;
        assert_eq!((is_there(&store, "/short").await, is_there(&store, "/long").await), (false, true));
        drop(pins);
        let pins = Pins::new(store.clone(), journal(directory.path()));
        pins.load(at(200)).await.unwrap();
        assert_eq!((pins.count(), journal(tempfile::tempdir().unwrap().path()).pins().unwrap().len()), (0, 0));
    }

    #[tokio::test]
    async fn pins_wanted_together_are_all_in_the_journal_when_each_is_said_to_be() {
        const WANTED: usize = 300;
        let (disk, directory) = (FaultyDisk::new(3), tempfile::tempdir().unwrap());
        let store = store_on(&disk).await;
        let pins = Pins::new(store.clone(), journal(directory.path()));
        let wanted = (0..WANTED).map(|number| {
            let (store, pins) = (&store, &pins);
            async move {
                let path = format!("/{number}");
                let body = put(store, &path, 100).await;
                assert!(pins.pin(&[key(&path)], body, 100, &pin(100, 1 << 20)).await.is_ok());
                assert!(pins.journal.pins().unwrap().iter().any(|(at, _)| *at == key(&path).hash().0));
            }
        });
        futures_util::future::join_all(wanted).await;
        assert_eq!((pins.count(), pins.journal.pins().unwrap().len()), (WANTED, WANTED));
    }

    #[tokio::test]
    async fn account_has_no_more_pinned_than_it_may_and_is_told_so() {
        let (disk, directory) = (FaultyDisk::new(2), tempfile::tempdir().unwrap());
        let store = store_on(&disk).await;
        let pins = Pins::new(store.clone(), journal(directory.path()));
        let (one, other) = (put(&store, "/1", 6_000).await, put(&store, "/2", 5_000).await);
        let few = pin(100, 10_000);
        assert_eq!(words(pins.pin(&[key("/1")], one, 6_000, &few).await), "");
        assert_eq!(words(pins.pin(&[key("/1")], one, 6_000, &few).await), "", "once more is no more");
        let refused = words(pins.pin(&[key("/2")], other, 5_000, &few).await);
        assert!(refused.contains("may have 10000 bytes pinned on a node, and has 6000"), "{refused}");
        let another = Pin { owner: 8, ..few.clone() };
        assert_eq!(words(pins.pin(&[key("/2")], other, 5_000, &another).await), "");
        assert_eq!(words(pins.pin(&[key("/1")], other, 6_000, &few).await), "absent", "another body");

        let large = put(&store, "/large", 1 << 20).await;
        let refused = words(pins.pin(&[key("/large")], large, 1 << 20, &pin(100, 1 << 30)).await);
        assert!(refused.contains("pinned objects take all 1048576 bytes of the disk"), "{refused}");
        assert!(!store.is_pinned(key("/large").hash()));

        // Removing an object removes its pin, and its bytes no longer count.
        store.remove(key("/2").hash(), key("/2").bytes(), store::Which::Any).await.unwrap();
        pins.tidy(at(0)).await.unwrap();
        assert_eq!(pins.kept().bytes_of(8), 0);
        assert_eq!(pins.journal.pins().unwrap().len(), pins.count());
    }
}
