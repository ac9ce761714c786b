//! The open prefetches of one account: those that are loaded, and those that wait outside for room, for their moment or for being
//! resumed.
//!
//! # What always holds
//!
//! - Whose turn it is goes by [`Place`]: the highest priority first, then the oldest.
//! - What may not run is not loaded: it takes no room, holds no lease and runs into no deadline.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::work::Work;
use crate::state::steering::{Standing, Steering};

/// Where a chunk stands among those of its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<u8>,
    id: u64,
}

impl Place {
    pub(super) fn of(id: u64, steering: Steering) -> Place {
        Place { priority: Reverse(steering.priority), id }
    }

    pub(super) fn id(self) -> u64 {
        self.id
    }

    /// Whether its priority is higher than that of `other`.
    pub(super) fn outranks(self, other: Place) -> bool {
        self.priority < other.priority
    }
}

/// The open prefetches of an account.
#[derive(Default)]
pub(super) struct Queue {
    /// Those that are loaded, by id.
    pub(super) chunks: BTreeMap<u64, Work>,
    /// Those of them that may have a job for somebody.
    pub(super) waiting: BTreeSet<Place>,
    /// Where each of them stands.
    places: BTreeSet<Place>,
    /// Jobs of all of them.
    pub(super) loaded: usize,
    /// Those that are not loaded, by id.
    standing: BTreeMap<u64, Standing>,
    /// Those of them that may run.
    ready: BTreeSet<Place>,
    /// Those of them that may run from a moment on, by that.
    later: BTreeSet<(u64, u64)>,
    /// The newest chunk that is known.
    pub(super) known_to: u64,
    /// Whether the database may have more.
    pub(super) more: bool,
}

impl Queue {
    /// How many chunks are known to be open.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() + self.standing.len()
    }

    /// How many objects those have.
    pub(super) fn urls(&self) -> u64 {
        let loaded: usize = self.chunks.values().map(Work::urls).sum();
        loaded as u64 + self.standing.values().map(|chunk| chunk.urls).sum::<u64>()
    }

    /// Whether it can be forgotten.
    pub(super) fn is_over(&self) -> bool {
        !self.more && self.len() == 0
    }

    /// Takes up a chunk that is not loaded, or no longer.
    pub(super) fn stand(&mut self, chunk: Standing, now_ms: u64) {
        self.known_to = self.known_to.max(chunk.id);
        self.leave(chunk.id);
        self.standing.insert(chunk.id, chunk);
        if chunk.steering.may_run(now_ms) {
            self.ready.insert(Place::of(chunk.id, chunk.steering));
        } else if chunk.steering.paused_ms == 0 {
            self.later.insert((chunk.steering.from_ms, chunk.id));
        }
    }

    /// A chunk does not stand outside any more; as it stood there.
    pub(super) fn leave(&mut self, id: u64) -> Option<Standing> {
        let chunk = self.standing.remove(&id)?;
        self.ready.remove(&Place::of(id, chunk.steering));
        self.later.remove(&(chunk.steering.from_ms, id));
        Some(chunk)
    }

    /// A chunk that stands outside is steered; whether there is one.
    pub(super) fn steer(&mut self, id: u64, steering: Steering, now_ms: u64) -> bool {
        let Some(chunk) = self.leave(id) else { return false };
        self.stand(Standing { steering, ..chunk }, now_ms);
        true
    }

    /// Those whose moment has come may run.
    pub(super) fn due(&mut self, now_ms: u64) {
        while let Some((from_ms, id)) = self.later.first().copied().filter(|(from_ms, _)| *from_ms <= now_ms) {
            self.later.remove(&(from_ms, id));
            if let Some(chunk) = self.standing.get(&id) {
                self.ready.insert(Place::of(id, chunk.steering));
            }
        }
    }

    /// Those outside that may run and whose deadline has passed: they only have to be told.
    pub(super) fn overdue(&self, now_ms: u64, deadline_ms: u64) -> Vec<u64> {
        let is_over = |chunk: &&Standing| now_ms > chunk.steering.from_ms.saturating_add(deadline_ms);
        self.ready.iter().filter_map(|place| self.standing.get(&place.id)).filter(is_over).map(|c| c.id).collect()
    }

    /// The next ones to be loaded, at most so many.
    pub(super) fn next(&self, most: usize) -> Vec<u64> {
        self.ready.iter().take(most).map(|place| place.id).collect()
    }

    /// Whether what is to be loaded next outranks something that is loaded.
    pub(super) fn is_outranked(&self) -> bool {
        matches!((self.ready.first(), self.places.last()), (Some(next), Some(last)) if next.outranks(*last))
    }

    /// Takes a chunk in.
    pub(super) fn load(&mut self, id: u64, work: Work) {
        self.loaded += work.jobs();
        self.places.insert(Place::of(id, work.steering()));
        self.chunks.insert(id, work);
    }

    /// Takes a chunk out.
    pub(super) fn unload(&mut self, id: u64) -> Option<Work> {
        let work = self.chunks.remove(&id)?;
        let place = Place::of(id, work.steering());
        self.places.remove(&place);
        self.waiting.remove(&place);
        self.loaded -= work.jobs();
        Some(work)
    }

    /// A loaded chunk is steered; whether there is one.
    pub(super) fn steer_loaded(&mut self, id: u64, steering: Steering) -> bool {
        let Some(work) = self.chunks.get_mut(&id) else { return false };
        let (before, after) = (Place::of(id, work.steering()), Place::of(id, steering));
        work.steer(steering);
        self.places.remove(&before);
        self.places.insert(after);
        if self.waiting.remove(&before) {
            self.waiting.insert(after);
        }
        true
    }

    /// A loaded chunk has no jobs for anybody any more.
    pub(super) fn rest(&mut self, id: u64) {
        if let Some(work) = self.chunks.get(&id) {
            self.waiting.remove(&Place::of(id, work.steering()));
        }
    }

    /// Those that must make room, the last first: they are outranked, nobody works on them, and without them the share is full
    /// still.
    pub(super) fn outranked(&self, share: usize) -> Vec<u64> {
        let Some(first) = self.places.first() else { return Vec::new() };
        let mut left = self.loaded;
        let mut leaving = Vec::new();
        for place in self.places.iter().rev().take_while(|place| first.outranks(**place)) {
            let Some(work) = self.chunks.get(&place.id).filter(|work| work.is_idle()) else { continue };
            if left.saturating_sub(work.jobs()) < share {
                break;
            }
            left -= work.jobs();
            leaving.push(place.id);
        }
        leaving
    }
}
