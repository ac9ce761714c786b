//! The open prefetches of an account that are not loaded: they wait for room, for their start time or to be resumed.
//!
//! There may be a million of them, since a chunk may have a single URL. Each is stored packed, and no query scans them
//! all: start times are indexed by their minimum per block of [`BLOCK`] ids only.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::queue::Place;
use crate::state::steering::{Standing, Steering};

/// Consecutive chunk ids that share one minimum.
const BLOCK: u64 = 1 << 10;

/// What is stored of one chunk.
#[derive(Clone, Copy)]
#[repr(Rust, packed)]
struct One {
    from_ms: u64,
    urls: u32,
    priority: u8,
    is_paused: bool,
}

impl One {
    fn standing(self, id: u64) -> Standing {
        let steering = Steering {
            priority: self.priority,
            from_ms: self.from_ms,
            paused_ms: u64::from(self.is_paused),
            cancelled_ms: 0,
        };
        Standing { id, urls: u64::from(self.urls), steering }
    }
}

/// The waiting chunks of an account.
#[derive(Default)]
pub(super) struct Outside {
    /// Chunks that may run, by priority and then by id.
    ready: BTreeMap<Reverse<u8>, BTreeMap<u64, One>>,
    /// Chunks that may not run, or not yet, by id.
    held: BTreeMap<u64, One>,
    /// Lower bounds of the start times of chunks that may run, and of those that wait for theirs.
    begun: Moments,
    later: Moments,
    urls: u64,
}

impl Outside {
    pub(super) fn len(&self) -> usize {
        self.ready.values().map(BTreeMap::len).sum::<usize>() + self.held.len()
    }

    /// How many objects these chunks have.
    pub(super) fn urls(&self) -> u64 {
        self.urls
    }

    /// Adds a chunk, or replaces its entry.
    pub(super) fn stand(&mut self, chunk: Standing, now_ms: u64) {
        self.leave(chunk.id);
        let Standing { id, urls, steering } = chunk;
        let Steering { priority, from_ms, .. } = steering;
        let urls = u32::try_from(urls).unwrap_or(u32::MAX);
        let one = One { from_ms, urls, priority, is_paused: steering.paused_ms > 0 };
        self.urls += u64::from(urls);
        if steering.may_run(now_ms) {
            self.begin(id, one);
        } else {
            self.held.insert(id, one);
            if !one.is_paused {
                self.later.note(id, from_ms);
            }
        }
    }

    fn begin(&mut self, id: u64, one: One) {
        self.ready.entry(Reverse(one.priority)).or_default().insert(id, one);
        self.begun.note(id, one.from_ms);
    }

    /// Removes a chunk; returns its entry.
    pub(super) fn leave(&mut self, id: u64) -> Option<Standing> {
        let ready =
            self.ready.iter_mut().find_map(|(priority, line)| Some((*priority, line.remove(&id)?, line.is_empty())));
        if let Some((priority, _, true)) = ready {
            self.ready.remove(&priority);
        }
        let one = ready.map(|(_, one, _)| one).or_else(|| self.held.remove(&id))?;
        self.urls -= u64::from(one.urls);
        // A block without chunks has no start time.
        let block = id / BLOCK;
        if self.ready.values().all(|line| line.range(ids(block)).next().is_none()) {
            self.begun.set(block, None);
        }
        if self.held.range(ids(block)).next().is_none() {
            self.later.set(block, None);
        }
        Some(one.standing(id))
    }

    /// All chunks.
    pub(super) fn all(&self) -> Vec<Standing> {
        let ready = self.ready.values().flatten();
        ready.chain(&self.held).map(|(id, one)| one.standing(*id)).collect()
    }

    /// Makes chunks ready whose start time has come.
    pub(super) fn due(&mut self, now_ms: u64) {
        for block in self.later.before(now_ms.saturating_add(1)) {
            let waits = self.held.range(ids(block)).filter(|(_, one)| !one.is_paused).map(|(id, one)| (*id, *one));
            let (due, later): (Vec<_>, Vec<_>) = waits.partition(|(_, one)| one.from_ms <= now_ms);
            self.later.set(block, later.iter().map(|(_, one)| one.from_ms).min());
            for (id, one) in due {
                self.held.remove(&id);
                self.begin(id, one);
            }
        }
    }

    /// The chunks that may run, in order, each with its number of objects.
    pub(super) fn next(&self) -> impl Iterator<Item = (u64, usize)> {
        self.ready.values().flatten().map(|(id, one)| (*id, one.urls as usize))
    }

    /// The place of the first of them.
    pub(super) fn first(&self) -> Option<Place> {
        let (id, one) = self.ready.values().flatten().next()?;
        Some(Place::of(*id, one.standing(*id).steering))
    }

    /// Chunks ready since before `before_ms`, each with its number of objects: at least `most` of them, if there are as
    /// many.
    pub(super) fn begun_before(&mut self, before_ms: u64, most: usize) -> Vec<(u64, usize)> {
        let mut begun = Vec::new();
        for block in self.begun.before(before_ms) {
            if begun.len() >= most {
                break;
            }
            let ones = self.ready.values().flat_map(|line| line.range(ids(block)));
            let mut earliest = None;
            for (id, one) in ones {
                let from_ms = one.from_ms;
                earliest = Some(earliest.unwrap_or(from_ms).min(from_ms));
                if from_ms < before_ms {
                    begun.push((*id, one.urls as usize));
                }
            }
            self.begun.set(block, earliest);
        }
        begun
    }
}

/// The ids of a block.
fn ids(block: u64) -> RangeInclusive<u64> {
    block * BLOCK..=block * BLOCK + (BLOCK - 1)
}

/// For each block, a lower bound of the start times of its chunks.
#[derive(Default)]
struct Moments(BTreeMap<u64, u64>);

impl Moments {
    fn note(&mut self, id: u64, moment_ms: u64) {
        let earliest = self.0.entry(id / BLOCK).or_insert(moment_ms);
        *earliest = (*earliest).min(moment_ms);
    }

    fn set(&mut self, block: u64, earliest: Option<u64>) {
        match earliest {
            Some(earliest) => self.0.insert(block, earliest),
            None => self.0.remove(&block),
        };
    }

    /// Blocks that may have a chunk with a start time before `moment_ms`.
    fn before(&self, moment_ms: u64) -> Vec<u64> {
        self.0.iter().filter(|(_, earliest)| **earliest < moment_ms).map(|(block, _)| *block).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Compared with a plain list that every query scans.
    #[test]
    fn what_is_said_of_many_is_what_looking_at_each_of_them_says() {
        let mut seed = 7_u64;
        let mut below = |end: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % end
        };
        let (mut outside, mut all) = (Outside::default(), BTreeMap::<u64, Standing>::new());
        for now_ms in 0..20_000_u64 {
            let id = below(12) * (BLOCK / 2 - 1) + below(3);
            if below(3) == 0 {
                assert_eq!(outside.leave(id), all.remove(&id));
            } else {
                let from_ms = now_ms.saturating_sub(300) + below(400);
                let (priority, paused_ms) = (4 + below(3) as u8, below(4) / 3);
                let steering = Steering { priority, paused_ms, ..Steering::from(from_ms) };
                let chunk = Standing { id, urls: 1 + below(9), steering };
                outside.stand(chunk, now_ms);
                all.insert(id, chunk);
            }
            outside.due(now_ms);
            let ready = || all.values().filter(|chunk| chunk.steering.may_run(now_ms));
            let mut places: Vec<Place> = ready().map(|chunk| Place::of(chunk.id, chunk.steering)).collect();
            places.sort_unstable();
            let next: Vec<u64> = outside.next().map(|(id, _)| id).collect();
            assert_eq!(next, places.iter().map(|place| place.id()).collect::<Vec<_>>(), "{now_ms}");
            assert_eq!(outside.first(), places.first().copied());
            let before_ms = now_ms.saturating_sub(below(300));
            let begun: BTreeSet<u64> =
                ready().filter(|chunk| chunk.steering.from_ms < before_ms).map(|chunk| chunk.id).collect();
            let found: BTreeSet<u64> =
                outside.begun_before(before_ms, usize::MAX).into_iter().map(|(id, _)| id).collect();
            assert_eq!(found, begun, "{now_ms}");
            let blocks: BTreeSet<u64> = all.keys().map(|id| id / BLOCK).collect();
            assert!(outside.begun.0.keys().chain(outside.later.0.keys()).all(|block| blocks.contains(block)));
            assert_eq!((outside.len(), outside.urls()), (all.len(), all.values().map(|chunk| chunk.urls).sum()));
        }
    }

    #[test]
    fn what_is_late_is_found_without_a_look_at_what_is_not() {
        let mut outside = Outside::default();
        for id in 0..100 * BLOCK {
            outside.stand(Standing { id, urls: 1, steering: Steering::from(1_000 + id) }, u64::MAX);
        }
        assert_eq!(outside.begun.before(1_000), [0_u64; 0]);
        assert_eq!(outside.begun.before(1_001 + BLOCK), [0, 1]);
        assert!(outside.begun_before(u64::MAX, 10).len() <= BLOCK as usize, "no more blocks than are asked for");
        assert!(size_of::<One>() <= 14, "of a million each byte is a MiB, and what a tree leaves free beside it");
    }
}
