//! The open prefetches of one account: those that are loaded, and those that wait outside for room, for their start
//! time or to be resumed.
//!
//! # What always holds
//!
//! - The order is that of [`Place`]: highest priority first, then oldest.
//! - A chunk that may not run is not loaded: it takes no room, holds no lease and meets no deadline.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use model::NodeName;

use super::aims::Aims;
use super::leasing::Turn;
use super::outside::Outside;
use super::work::Work;
use crate::state::steering::{Standing, Steering};

/// The rank of a chunk among those of its account.
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
    /// The loaded chunks, by id.
    pub(super) chunks: BTreeMap<u64, Work>,
    /// Loaded chunks with unleased jobs, by the number of the node that owns the jobs. A node with room finds its first
    /// chunk at once, however long the lines of other nodes are.
    lines: BTreeMap<u32, BTreeSet<Place>>,
    /// The place of each loaded chunk.
    places: BTreeSet<Place>,
    /// The cost of all loaded chunks, in jobs.
    pub(super) loaded: usize,
    /// The least number of jobs that a chunk counts for.
    chunk: usize,
    /// The chunks that are not loaded.
    outside: Outside,
    /// The newest chunk that is known.
    pub(super) known_to: u64,
    /// The newest chunk when other control planes were last offered this account's work.
    pub(super) offered_to: u64,
    /// Whether the database may have more open chunks.
    pub(super) more: bool,
}

impl Queue {
    /// An empty queue in which a chunk counts for at least `chunk` jobs.
    pub(super) fn new(chunk: usize) -> Queue {
        Queue { chunk, ..Queue::default() }
    }

    fn cost(&self, work: &Work) -> usize {
        work.jobs().max(self.chunk)
    }

    /// Recomputes the cost of the loaded chunks, after their targets changed.
    pub(super) fn weigh(&mut self) {
        self.loaded = self.chunks.values().map(|work| self.cost(work)).sum();
    }

    /// How many chunks are known to be open.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() + self.outside.len()
    }

    /// How many objects the open chunks have.
    pub(super) fn urls(&self) -> u64 {
        let loaded: usize = self.chunks.values().map(Work::urls).sum();
        loaded as u64 + self.outside.urls()
    }

    /// Whether it can be dropped.
    pub(super) fn is_over(&self) -> bool {
        !self.more && self.len() == 0
    }

    /// Takes in a chunk that is not, or no longer, loaded.
    pub(super) fn stand(&mut self, chunk: Standing, now_ms: u64) {
        self.known_to = self.known_to.max(chunk.id);
        self.outside.stand(chunk, now_ms);
    }

    /// Takes in a chunk that is not to be looked at before `until_ms`, unless it is steered.
    pub(super) fn put_off(&mut self, chunk: Standing, until_ms: u64, now_ms: u64) {
        let steering = Steering { from_ms: until_ms, ..chunk.steering };
        self.stand(Standing { steering, ..chunk }, now_ms);
    }

    /// Removes a chunk from those outside; returns its entry.
    pub(super) fn leave(&mut self, id: u64) -> Option<Standing> {
        self.outside.leave(id)
    }

    /// Steers a chunk that is outside; returns whether there is one.
    pub(super) fn steer(&mut self, id: u64, steering: Steering, now_ms: u64) -> bool {
        let Some(chunk) = self.leave(id) else { return false };
        self.stand(Standing { steering, ..chunk }, now_ms);
        true
    }

    /// Steers every chunk as `to` says.
    pub(super) fn steer_all(&mut self, now_ms: u64, to: impl Fn(u64, Steering) -> Steering) {
        for chunk in self.outside.all() {
            self.steer(chunk.id, to(chunk.id, chunk.steering), now_ms);
        }
        for (id, work) in &mut self.chunks {
            work.steer(to(*id, work.steering()));
        }
    }

    /// Makes chunks ready whose start time has come.
    pub(super) fn due(&mut self, now_ms: u64) {
        self.outside.due(now_ms);
    }

    /// The next chunks to load: as many as fit, at most `most`; empty if there is no room for any. An account may have
    /// `share` jobs loaded, and at least one chunk; and a quarter more for chunks that have been ready since before
    /// `late_ms`, which only have to be failed, and for one that outranks what is loaded. Each chunk has `targets`
    /// targets.
    pub(super) fn next_to_load(&mut self, share: usize, most: usize, late_ms: u64, targets: usize) -> Vec<u64> {
        let (room, more) = (share.saturating_sub(self.loaded), (share + share / 4).saturating_sub(self.loaded));
        let none = self.chunks.is_empty();
        if more > 0 || none {
            let late = self.begun_before(late_ms, most, more, targets);
            if !late.is_empty() {
                return late;
            }
        }
        if room > 0 || none {
            self.next_fitting(most, room, targets)
        } else if self.is_outranked() && more > 0 {
            self.next_fitting(1, more, targets)
        } else {
            Vec::new()
        }
    }

    /// Chunks outside that have been ready since before `before_ms`: as many as fit, at most `most`. Each has `targets`
    /// targets.
    fn begun_before(&mut self, before_ms: u64, most: usize, room: usize, targets: usize) -> Vec<u64> {
        let begun = self.outside.begun_before(before_ms, most);
        self.fitting(begun.into_iter().take(most), room, targets)
    }

    /// The next chunks to load: as many as fit, at most `most`. Each has `targets` targets.
    fn next_fitting(&self, most: usize, room: usize, targets: usize) -> Vec<u64> {
        self.fitting(self.outside.next().take(most), room, targets)
    }

    /// The leading chunks that fit into `room`, and always the first.
    fn fitting(&self, chunks: impl Iterator<Item = (u64, usize)>, room: usize, targets: usize) -> Vec<u64> {
        let mut cost = 0;
        let fits = |(at, (_, urls)): &(usize, (u64, usize))| {
            cost += (urls * targets).max(self.chunk);
            *at == 0 || cost <= room
        };
        chunks.enumerate().take_while(fits).map(|(_, (id, _))| id).collect()
    }

    /// Whether the next chunk to load outranks a loaded one.
    pub(super) fn is_outranked(&self) -> bool {
        matches!((self.outside.first(), self.places.last()), (Some(next), Some(last)) if next.outranks(*last))
    }

    /// Adds a loaded chunk.
    pub(super) fn load(&mut self, id: u64, work: Work) {
        self.loaded += self.cost(&work);
        self.places.insert(Place::of(id, work.steering()));
        self.chunks.insert(id, work);
    }

    /// Whether there are unleased jobs.
    pub(super) fn waits(&self) -> bool {
        !self.lines.is_empty()
    }

    /// Whether a node has room for one of them.
    pub(super) fn can_lease(&self, turn: &Turn) -> bool {
        self.lines.keys().any(|number| turn.is_free(*number))
    }

    /// Puts a loaded chunk in line for the owners of its unleased jobs.
    pub(super) fn line_up(&mut self, id: u64) {
        let Some(work) = self.chunks.get(&id) else { return };
        let place = Place::of(id, work.steering());
        for number in work.waited_for() {
            self.lines.entry(number).or_default().insert(place);
        }
    }

    /// Puts all loaded chunks except those `leaving` in line anew, for the present owners.
    pub(super) fn line_up_all(&mut self, aims: &Aims, here: &HashMap<NodeName, usize>, leaving: &BTreeSet<u64>) {
        self.lines.clear();
        let ids: Vec<u64> = self.chunks.keys().copied().collect();
        for id in ids {
            if let Some(work) = self.chunks.get_mut(&id) {
                work.line_up(aims, here);
            }
            if !leaving.contains(&id) {
                self.line_up(id);
            }
        }
    }

    /// Gives out up to `most` jobs to owners that have room; returns how many.
    pub(super) fn lease(&mut self, most: usize, turn: &mut Turn) -> usize {
        let (mut count, mut after) = (0, Bound::Unbounded);
        while count < most {
            let lines = self.lines.iter().filter(|(number, _)| turn.has_room(**number));
            let first = |line: &BTreeSet<Place>| line.range((after, Bound::Unbounded)).next().copied();
            let Some(place) = lines.filter_map(|(_, line)| first(line)).min() else { break };
            after = Bound::Excluded(place);
            let work = self.chunks.get_mut(&place.id());
            let still = work.map_or_else(Vec::new, |work| {
                count += work.lease(most - count, turn);
                work.waited_for()
            });
            self.leave_lines(place, |number| still.binary_search(&number).is_err());
        }
        count
    }

    /// Removes a chunk from the lines of these nodes.
    fn leave_lines(&mut self, place: Place, of: impl Fn(u32) -> bool) {
        self.lines.retain(|number, line| {
            if of(*number) {
                line.remove(&place);
            }
            !line.is_empty()
        });
    }

    /// Removes a loaded chunk.
    pub(super) fn unload(&mut self, id: u64) -> Option<Work> {
        let work = self.chunks.remove(&id)?;
        let place = Place::of(id, work.steering());
        self.places.remove(&place);
        self.leave_lines(place, |_| true);
        self.loaded -= self.cost(&work);
        Some(work)
    }

    /// Steers a loaded chunk; returns whether there is one.
    pub(super) fn steer_loaded(&mut self, id: u64, steering: Steering) -> bool {
        let Some(work) = self.chunks.get_mut(&id) else { return false };
        let (before, after) = (Place::of(id, work.steering()), Place::of(id, steering));
        work.steer(steering);
        self.places.remove(&before);
        self.places.insert(after);
        for line in self.lines.values_mut() {
            if line.remove(&before) {
                line.insert(after);
            }
        }
        true
    }

    /// Removes a loaded chunk from all lines: no more jobs of it are given out.
    pub(super) fn rest(&mut self, id: u64) {
        if let Some(work) = self.chunks.get(&id) {
            let place = Place::of(id, work.steering());
            self.leave_lines(place, |_| true);
        }
    }

    /// The loaded chunks that must make room, last first: outranked, with no job leased, and not needed to fill the
    /// account's share.
    pub(super) fn outranked(&self, share: usize) -> Vec<u64> {
        let Some(first) = self.places.first() else { return Vec::new() };
        let mut left = self.loaded;
        let mut leaving = Vec::new();
        for place in self.places.iter().rev().take_while(|place| first.outranks(**place)) {
            let Some(work) = self.chunks.get(&place.id).filter(|work| work.is_idle()) else { continue };
            if left.saturating_sub(self.cost(work)) < share {
                break;
            }
            left -= self.cost(work);
            leaving.push(place.id);
        }
        leaving
    }
}
