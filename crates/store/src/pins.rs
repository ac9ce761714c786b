//! Pinned objects of one disk: kept when their segment is reclaimed, whether or not anybody requested them.
//!
//! An object is pinned by the name under which the index knows it. A body that replaces it is pinned in its place, if
//! there is room; removing the object removes the pin. Pins are not stored on disk: the caller persists them, and pins
//! again after a restart, before anything is stored.
//!
//! # What always holds
//!
//! - Pinned objects take at most a quarter of the disk ([`PINNED_PART`]), so that reclaiming always finds something to
//!   evict.
//! - Each pinned object is listed under the oldest segment that holds a part of it.
//!
//! # Not here
//!
//! Copying pinned objects out of segments about to be reclaimed: `writer/reclaim`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::index::{Uniform, name};
use crate::{Generation, Key, PinError, Store};

/// At most one part in this many of a disk may be pinned.
pub(crate) const PINNED_PART: u64 = 4;

/// The pinned objects of a disk. Its lock is taken after that of an index shard, never before.
pub(crate) struct Pins {
    all: Mutex<All>,
    /// Their number; read without the lock, as most disks have none.
    count: AtomicU64,
    /// Pins lost although nobody removed the object.
    pub(crate) lost: AtomicU64,
}

/// The space that an object takes, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The oldest segment that holds a part of it.
    pub(crate) oldest: u32,
    /// Bytes of all its records.
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct All {
    by_name: HashMap<u64, Extent, BuildHasherDefault<Uniform>>,
    /// By oldest segment: bytes and names.
    by_segment: BTreeMap<u32, (u64, HashSet<u64, BuildHasherDefault<Uniform>>)>,
    bytes: u64,
    most: u64,
}

impl All {
    fn take(&mut self, name: u64) -> Option<Extent> {
        let extent = self.by_name.remove(&name)?;
        self.bytes -= extent.bytes;
        if let Some((bytes, names)) = self.by_segment.get_mut(&extent.oldest) {
            *bytes -= extent.bytes;
            names.remove(&name);
            if names.is_empty() {
                self.by_segment.remove(&extent.oldest);
            }
        }
        Some(extent)
    }

    fn put(&mut self, name: u64, extent: Extent) {
        self.bytes += extent.bytes;
        self.by_name.insert(name, extent);
        let (bytes, names) = self.by_segment.entry(extent.oldest).or_default();
        *bytes += extent.bytes;
        names.insert(name);
    }
}

impl Pins {
    pub(crate) fn new(capacity_bytes: u64) -> Pins {
        let all = All { most: capacity_bytes / PINNED_PART, ..All::default() };
        Pins { all: Mutex::new(all), count: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().expect("no holder of this lock can panic")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn counted(&self, all: &All) {
        self.count.store(all.by_name.len() as u64, Ordering::SeqCst);
    }

    /// Their number, the bytes they take, and the bound of those.
    pub(crate) fn usage(&self) -> (u64, u64, u64) {
        let all = self.all();
        (all.by_name.len() as u64, all.bytes, all.most)
    }

    pub(crate) fn holds(&self, name: u64) -> bool {
        !self.is_empty() && self.all().by_name.contains_key(&name)
    }

    /// Pins an object; `false` if there is no room for it.
    pub(crate) fn pin(&self, name: u64, extent: Extent) -> bool {
        let mut all = self.all();
        let before = all.take(name);
        let fits = all.bytes.saturating_add(extent.bytes) <= all.most;
        match (fits, before) {
            (true, _) => all.put(name, extent),
            (false, Some(before)) => all.put(name, before),
            (false, None) => {}
        }
        self.counted(&all);
        fits
    }

    /// Records that a pinned object has moved, or has a new body.
    pub(crate) fn placed(&self, name: u64, extent: impl FnOnce() -> Extent) {
        if self.is_empty() {
            return;
        }
        let mut all = self.all();
        if all.take(name).is_some() {
            let extent = extent();
            if all.bytes.saturating_add(extent.bytes) <= all.most {
                all.put(name, extent);
            } else {
                self.lost.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    bytes = extent.bytes,
                    most = all.most,
                    "the replacement of a pinned object is too large to be pinned"
                );
            }
            self.counted(&all);
        }
    }

    /// Unpins an object; returns whether it was pinned.
    pub(crate) fn unpin(&self, name: u64) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut all = self.all();
        let was = all.take(name).is_some();
        self.counted(&all);
        was
    }

    /// Unpins an object that was lost without having been removed.
    pub(crate) fn lose(&self, name: u64) {
        if self.unpin(name) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a pinned object could not be kept");
        }
    }

    /// Unpins everything, when the disk goes out of service.
    pub(crate) fn clear(&self) {
        let mut all = self.all();
        *all = All { most: all.most, ..All::default() };
        self.counted(&all);
    }

    /// Names of the pinned objects whose oldest part is in a segment.
    pub(crate) fn of_segment(&self, segment: u32) -> Vec<u64> {
        if self.is_empty() {
            return Vec::new();
        }
        self.all().by_segment.get(&segment).map(|(_, names)| names.iter().copied().collect()).unwrap_or_default()
    }

    /// Objects to copy ahead of time, each with its oldest segment, so that no segment reclaimed later brings more than
    /// `each` bytes of pinned objects at once. `turns` returns the least number of new segments until a given one is
    /// reclaimed. Of a long run of pinned objects, some are moved with every new segment, as late as possible.
    pub(crate) fn due(&self, turns: impl Fn(u32) -> u64, each: u64) -> Vec<(u32, u64)> {
        if self.is_empty() {
            return Vec::new();
        }
        let all = self.all();
        let (mut sum, mut need) = (0_u64, 0_u64);
        for (segment, (bytes, _)) in &all.by_segment {
            sum += bytes;
            need = need.max(sum.saturating_sub(each.saturating_mul(turns(*segment))));
        }
        let mut due = Vec::new();
        let mut left = need.min(each);
        for (segment, (_, names)) in &all.by_segment {
            for name in names {
                if left == 0 {
                    return due;
                }
                left = left.saturating_sub(all.by_name.get(name).map_or(0, |extent| extent.bytes));
                due.push((*segment, *name));
            }
        }
        due
    }
}

impl Store {
    /// Keeps an object in the store until it is unpinned, removed, or the store is reopened: when segments that hold it
    /// are reclaimed, it is moved. A body that replaces it is kept in its place. With `generation`, pins only that very
    /// body. Returns the length of the body in bytes.
    pub async fn pin(&self, key: Key, full_key: &[u8], generation: Option<Generation>) -> Result<u64, PinError> {
        let mount = self.mount(key).ok_or(PinError::NoDisk)?;
        // Retries only if the object was moved or its head changed meanwhile.
        loop {
            let found = self.find(Some(mount), key, full_key).await.ok().flatten();
            let found = found.filter(|found| generation.is_none_or(|generation| found.generation() == generation));
            let Some(object) = found else { return Err(PinError::Absent) };
            match mount.volume.pin(&object.entry) {
                Some(true) => return Ok(object.length()),
                Some(false) => return Err(PinError::NoRoom { most: mount.volume.pins.usage().2 }),
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Ends the pin of an object. Returns whether it was pinned.
    pub fn unpin(&self, key: Key) -> bool {
        self.mount(key).is_some_and(|mount| mount.volume.pins.unpin(name(key)))
    }

    /// Whether the object stored under a key is pinned.
    pub fn is_pinned(&self, key: Key) -> bool {
        self.mount(key).is_some_and(|mount| mount.volume.pins.holds(name(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(oldest: u32, bytes: u64) -> Extent {
        Extent { oldest, bytes }
    }

    #[test]
    fn pins_are_bounded_and_follow_what_they_hold() {
        let pins = Pins::new(400);
        assert!(pins.pin(1, at(5, 60)) && !pins.pin(2, at(5, 60)) && pins.pin(2, at(6, 40)));
        assert_eq!(pins.usage(), (2, 100, 100));
        pins.placed(1, || at(9, 30));
        assert_eq!((pins.of_segment(5), pins.of_segment(9)), (vec![], vec![1]));
        pins.placed(7, || panic!("it is not pinned"));
        assert!(!pins.pin(1, at(9, 61)), "no room for more of it");
        assert_eq!(pins.usage(), (2, 70, 100), "it stays as it was");
        pins.placed(1, || at(9, 61));
        assert_eq!((pins.usage(), pins.lost.load(Ordering::Relaxed)), ((1, 40, 100), 1));
        assert!(pins.unpin(2) && !pins.unpin(2) && pins.is_empty());
    }

    #[test]
    fn long_runs_of_pinned_objects_are_moved_in_good_time_and_no_earlier() {
        let pins = Pins::new(10_000);
        for segment in 10..20 {
            assert!(pins.pin(u64::from(segment), at(segment, 90)));
        }
        // Thirty with each new segment, so the whole run takes thirty turns.
        let turns = |tail: u32| move |segment: u32| u64::from(segment - tail) + 1;
        let moved = |tail| pins.due(turns(tail), 30).len();
        assert_eq!(moved(0), 1, "20 turns to go for 900 bytes, of which 600 can be moved in them");
        let late = Pins::new(10_000);
        assert!(late.pin(1, at(10, 90)));
        assert_eq!((late.due(turns(0), 30), late.due(turns(9), 30)), (vec![], vec![(10, 1)]));
    }
}
