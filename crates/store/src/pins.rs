//! Pinned objects of one disk: what is kept when its segment is reclaimed, whoever asked for it or not.
//!
//! An object is pinned by the name that the index knows it by. A body that takes its place is pinned in its stead, while there is
//! room; what removes the object removes the pin. Nothing of this is on the disk: whoever pins writes it down, and pins again after a
//! restart, before anything is stored.
//!
//! # What always holds
//!
//! - Pinned objects take a quarter of the disk at most ([`PINNED_PART`]), so that reclaiming always comes to something that goes.
//! - Each pinned object is listed under the oldest segment that holds a part of it.
//!
//! # Not here
//!
//! Copying pinned objects out of segments that go: `writer/reclaim`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::index::{Uniform, name};
use crate::{Generation, Key, PinError, Store};

/// Of a disk, one part in this many may be pinned.
pub(crate) const PINNED_PART: u64 = 4;

/// The pinned objects of a disk. Locked behind a shard of the index, never before one.
pub(crate) struct Pins {
    all: Mutex<All>,
    /// How many there are; read without the lock, for most disks have none.
    count: AtomicU64,
    /// Pins that went though nobody took the object away.
    pub(crate) lost: AtomicU64,
}

/// What an object takes, and where.
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
    /// By the oldest segment: bytes and names.
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

    /// How many there are, the bytes they take, and the bound of those.
    pub(crate) fn usage(&self) -> (u64, u64, u64) {
        let all = self.all();
        (all.by_name.len() as u64, all.bytes, all.most)
    }

    pub(crate) fn holds(&self, name: u64) -> bool {
        !self.is_empty() && self.all().by_name.contains_key(&name)
    }

    /// Pins; `false` if there is no room for it.
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

    /// What is pinned lies elsewhere now, or is another body.
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
                    "what took the place of a pinned object is too large to be pinned"
                );
            }
            self.counted(&all);
        }
    }

    /// Pinned no more; whether it was.
    pub(crate) fn unpin(&self, name: u64) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut all = self.all();
        let was = all.take(name).is_some();
        self.counted(&all);
        was
    }

    /// The same for an object that goes although nobody took it away.
    pub(crate) fn lose(&self, name: u64) {
        if self.unpin(name) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("a pinned object could not be kept");
        }
    }

    /// Everything goes, with the disk.
    pub(crate) fn clear(&self) {
        let mut all = self.all();
        *all = All { most: all.most, ..All::default() };
        self.counted(&all);
    }

    /// Names of what has its oldest part in a segment.
    pub(crate) fn of_segment(&self, segment: u32) -> Vec<u64> {
        if self.is_empty() {
            return Vec::new();
        }
        self.all().by_segment.get(&segment).map(|(_, names)| names.iter().copied().collect()).unwrap_or_default()
    }

    /// What is to be copied ahead of its time, each with its oldest segment, so that no segment that is reclaimed later brings more
    /// than `each` bytes at once; `turns` says how many new segments there are at least until one is reclaimed. Of a long run of pinned
    /// objects some are moved with every new segment: as late as will do.
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
    /// Keeps an object in the store until it is unpinned, removed, or the store is opened anew: segments that hold it are reclaimed, it
    /// is not. What takes its place is kept in its stead. `generation`: only if it is this body. Says how long the body is, in bytes.
    pub async fn pin(&self, key: Key, full_key: &[u8], generation: Option<Generation>) -> Result<u64, PinError> {
        let volume = self.volume(key).ok_or(PinError::NoDisk)?;
        // Once more only if it was moved or its head was changed meanwhile.
        loop {
            let found = self.find(Some(volume), key, full_key).await.ok().flatten();
            let found = found.filter(|found| generation.is_none_or(|generation| found.generation() == generation));
            let Some(object) = found else { return Err(PinError::Absent) };
            match volume.tier.pin(&object.entry) {
                Some(true) => return Ok(object.length()),
                Some(false) => return Err(PinError::NoRoom { most: volume.tier.pins.usage().2 }),
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Keeps an object no longer than any other. Says whether it was pinned.
    pub fn unpin(&self, key: Key) -> bool {
        self.volume(key).is_some_and(|volume| volume.tier.pins.unpin(name(key)))
    }

    /// Whether what is stored under a key is pinned.
    pub fn is_pinned(&self, key: Key) -> bool {
        self.volume(key).is_some_and(|volume| volume.tier.pins.holds(name(key)))
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
        // Thirty with each new segment: all of the run takes thirty turns.
        let turns = |tail: u32| move |segment: u32| u64::from(segment - tail) + 1;
        let moved = |tail| pins.due(turns(tail), 30).len();
        assert_eq!(moved(0), 1, "20 turns to go for 900 bytes, of which 600 can be moved in them");
        let late = Pins::new(10_000);
        assert!(late.pin(1, at(10, 90)));
        assert_eq!((late.due(turns(0), 30), late.due(turns(9), 30)), (vec![], vec![(10, 1)]));
    }
}
