//! One chunk under way: its jobs, who may have them, what has become of them.
//!
//! A job is one object in one variant for one tier of one POP. Its index is
//! `(target * variants + variant) * paths + path`, with targets in the order of [`Progress::targets`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Cause, Job, Knowledge, NodeName, Parent, UrlKey};
use tokio::time::Instant;

use super::aims::Aims;
use crate::state::chunks::{Chunk, Progress};

/// How often a job is tried before a passing failure is final.
const TRIES_MAX: u8 = 8;

/// The first pause before a job is tried again; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Jobs passed over in one turn because their owner is busy.
const PASSED_OVER_MAX: usize = 64;

/// A chunk under way.
pub(super) struct Work {
    chunk: Chunk,
    keys: Vec<UrlKey>,
    /// What stands for the key that nodes make of each: by this, the node is chosen that others will ask for it.
    placed: Vec<u128>,
    targets: Arc<[Parent]>,
    /// Jobs that nobody has, by target.
    waiting: Vec<VecDeque<u32>>,
    /// Jobs that pause after a passing failure.
    pausing: Vec<(Instant, u32)>,
    leased: HashSet<u32>,
    tries: HashMap<u32, u8>,
    /// Jobs that are neither resident nor failed.
    left: usize,
    changed: bool,
}

/// Who can take jobs in one turn, and what was given out in it.
pub(super) struct Turn<'a> {
    aims: &'a Aims,
    /// How many jobs each connected node can still take.
    room: &'a mut HashMap<NodeName, usize>,
    /// Tiers of POPs in which nobody can: within a turn room only shrinks.
    full: HashSet<Parent>,
    given: Vec<(NodeName, Job)>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(aims: &'a Aims, room: &'a mut HashMap<NodeName, usize>) -> Turn<'a> {
        Turn { aims, room, full: HashSet::new(), given: Vec::new() }
    }

    /// How many jobs were given out.
    pub(super) fn count(&self) -> usize {
        self.given.len()
    }

    pub(super) fn given(self) -> Vec<(NodeName, Job)> {
        self.given
    }

    fn has_room(&mut self, group: &Parent) -> bool {
        if self.full.contains(group) {
            return false;
        }
        let room = self.aims.members(group).any(|member| self.room.get(member).is_some_and(|free| *free > 0));
        if !room {
            self.full.insert(group.clone());
        }
        room
    }
}

/// The key of a path as it was submitted and kept, with scheme.
pub(crate) fn key_of(path: &str) -> Option<UrlKey> {
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    UrlKey::new(host, path).ok()
}

impl Work {
    /// Takes up a chunk where its progress left it.
    pub(super) fn new(chunk: Chunk, aims: &mut Aims, known: &Knowledge) -> Work {
        // The door has refused what has no key; a row that has none all the same is an object no domain serves.
        let nowhere = UrlKey::new("invalid", "/").expect("a name and a path");
        let keys: Vec<UrlKey> =
            chunk.paths.iter().map(|path| key_of(path).unwrap_or_else(|| nowhere.clone())).collect();
        let place = |url: &UrlKey| match known.domain_for(url.host()) {
            Some(domain) => domain.functions.key(url).hash(),
            None => url.hash(),
        };
        let placed = keys.iter().map(place).collect();
        let mut work = Work {
            chunk,
            keys,
            placed,
            targets: Arc::default(),
            waiting: Vec::new(),
            pausing: Vec::new(),
            leased: HashSet::new(),
            tries: HashMap::new(),
            left: 0,
            changed: false,
        };
        work.aim(aims);
        work
    }

    pub(super) fn urls(&self) -> usize {
        self.keys.len()
    }

    /// How many jobs it has, ended ones too: what it costs to hold it. As if for one target when it has none.
    pub(super) fn jobs(&self) -> usize {
        self.per_target() * self.targets.len().max(1)
    }

    /// Whether there is a job that somebody could be given.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.is_empty())
    }

    pub(super) fn created_ms(&self) -> u64 {
        self.chunk.created_ms
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.chunk.progress
    }

    /// Whether every job has ended. A chunk that is aimed at nobody has not.
    pub(super) fn is_done(&self) -> bool {
        !self.chunk.progress.targets.is_empty() && self.left == 0
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Its progress is in the database.
    pub(super) fn kept(&mut self) {
        self.changed = false;
    }

    fn variants(&self) -> usize {
        self.chunk.params.variants.len().max(1)
    }

    fn per_target(&self) -> usize {
        self.variants() * self.keys.len()
    }

    fn target_of(&self, index: u32) -> usize {
        index as usize / self.per_target().max(1)
    }

    fn path_of(&self, index: u32) -> usize {
        index as usize % self.keys.len().max(1)
    }

    /// Aims it anew at the topology; says whether anything had to change. All leases are over then.
    pub(super) fn rebuild(&mut self, aims: &mut Aims) -> bool {
        if self.is_done() {
            return false;
        }
        let targets = aims.targets(self.chunk.params.area, self.chunk.params.warm);
        let stands = |node: &NodeName| targets.iter().any(|target| aims.stands_in(node, target));
        if targets == self.targets && self.chunk.progress.nodes.iter().all(stands) {
            return false;
        }
        self.aim(aims);
        true
    }

    /// The node has lost its store: what was resident there is not.
    pub(super) fn lost(&mut self, node: &NodeName, aims: &mut Aims) -> bool {
        let Some(at) = self.chunk.progress.nodes.iter().position(|name| name == node) else { return false };
        if self.is_done() {
            return false;
        }
        for holder in self.chunk.progress.resident.iter_mut().filter(|holder| **holder as usize == at + 1) {
            *holder = 0;
        }
        self.aim(aims);
        true
    }

    /// Sets targets and jobs, and keeps of the progress what still holds: failures, and what is resident on a member of the
    /// target. What was kept may be of any age, and is believed in nothing that would lead out of bounds.
    fn aim(&mut self, aims: &mut Aims) {
        let old = std::mem::take(&mut self.chunk.progress);
        self.targets = aims.targets(self.chunk.params.area, self.chunk.params.warm);
        let per_target = self.per_target();
        let new = &mut self.chunk.progress;
        new.targets = self.targets.iter().map(target_name).collect();
        // Nodes that are gone must not make every later look begin anew.
        let stands = |node: &&NodeName| self.targets.iter().any(|target| aims.stands_in(node, target));
        new.nodes = old.nodes.iter().filter(stands).cloned().collect();
        let places: Vec<u32> = old.nodes.iter().map(|node| place_of(&new.nodes, node)).collect();
        new.resident = vec![0; per_target * self.targets.len()];
        for (at, (name, target)) in new.targets.iter().zip(self.targets.iter()).enumerate() {
            let Some(before) = old.targets.iter().position(|target| target == name) else { continue };
            for job in 0..per_target {
                let (to, from) = (at * per_target + job, before * per_target + job);
                let holder = old.resident.get(from).and_then(|holder| (*holder as usize).checked_sub(1));
                let Some(holder) = holder else {
                    if let Some(cause) = u32::try_from(from).ok().and_then(|from| old.failed.get(&from)) {
                        new.failed.insert(to as u32, cause.clone());
                    }
                    continue;
                };
                if old.nodes.get(holder).is_some_and(|node| aims.stands_in(node, target)) {
                    new.resident[to] = places[holder];
                }
            }
        }
        self.pausing.clear();
        self.leased.clear();
        // Indexes mean other jobs now.
        self.tries.clear();
        self.waiting = (0..self.targets.len())
            .map(|target| {
                let jobs = (target * per_target) as u32..((target + 1) * per_target) as u32;
                jobs.filter(|job| new.resident[*job as usize] == 0 && !new.failed.contains_key(job)).collect()
            })
            .collect();
        self.left = self.waiting.iter().map(VecDeque::len).sum();
        self.changed = true;
    }

    /// Gives out up to `most` jobs to nodes that have room; how many. The owner is the first connected one in line.
    pub(super) fn lease(&mut self, most: usize, turn: &mut Turn<'_>) -> usize {
        let mut count = 0;
        let (aims, targets) = (turn.aims, self.targets.clone());
        for (at, target) in targets.iter().enumerate() {
            if self.waiting[at].is_empty() || !turn.has_room(target) {
                continue;
            }
            let mut passed_over = Vec::new();
            while count < most && passed_over.len() < PASSED_OVER_MAX {
                let Some(index) = self.waiting[at].pop_front() else { break };
                let owners = aims.owners(target, self.placed[self.path_of(index)]);
                let owner = owners.iter().find(|member| turn.room.contains_key(&member.name));
                match owner.and_then(|member| turn.room.get_mut(&member.name).map(|free| (&member.name, free))) {
                    Some((node, free)) if *free > 0 => {
                        *free -= 1;
                        turn.given.push((node.clone(), self.job(index)));
                        self.leased.insert(index);
                        count += 1;
                    }
                    _ => passed_over.push(index),
                }
            }
            for index in passed_over.into_iter().rev() {
                self.waiting[at].push_front(index);
            }
        }
        count
    }

    /// As it was submitted.
    fn scheme(&self, index: u32) -> &'static str {
        let path = self.chunk.paths.get(self.path_of(index)).and_then(|path| path.split_once("://"));
        if path.is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https")) { "https" } else { "http" }
    }

    fn job(&self, index: u32) -> Job {
        let variant = index as usize / self.keys.len().max(1) % self.variants();
        Job {
            chunk: self.chunk.id,
            index,
            url: format!("{}://{}", self.scheme(index), self.keys[self.path_of(index)]),
            headers: self.chunk.params.variants.get(variant).cloned().unwrap_or_default(),
            begin_after: self.chunk.revision,
        }
    }

    /// A lease is over without a report.
    pub(super) fn hand_back(&mut self, index: u32) {
        if self.leased.remove(&index) {
            let target = self.target_of(index);
            if let Some(waiting) = self.waiting.get_mut(target) {
                waiting.push_front(index);
            }
        }
    }

    /// The job's object is resident on `node`.
    pub(super) fn resident(&mut self, index: u32, node: &NodeName) {
        if !self.leased.remove(&index) {
            return;
        }
        let nodes = &mut self.chunk.progress.nodes;
        let at = nodes.iter().position(|name| name == node).unwrap_or_else(|| {
            nodes.push(node.clone());
            nodes.len() - 1
        });
        if let Some(holder) = self.chunk.progress.resident.get_mut(index as usize) {
            *holder = at as u32 + 1;
        }
        self.left -= 1;
        self.changed = true;
    }

    /// The job failed; whether that is final.
    pub(super) fn failed(&mut self, index: u32, cause: Cause, now: Instant) -> bool {
        if !self.leased.remove(&index) {
            return false;
        }
        if let Cause::OriginBusy { seconds } = cause {
            // Nothing was tried: an origin that is spared is not one that fails.
            self.pausing.push((now + Duration::from_secs(seconds).clamp(PAUSE, PAUSE_MAX), index));
            return false;
        }
        let tries = self.tries.entry(index).or_default();
        *tries += 1;
        if cause.is_transient() && *tries < TRIES_MAX {
            let pause = PAUSE.saturating_mul(1 << (*tries - 1)).min(PAUSE_MAX);
            self.pausing.push((now + pause, index));
            return false;
        }
        self.tries.remove(&index);
        self.chunk.progress.failed.insert(index, cause);
        self.left -= 1;
        self.changed = true;
        true
    }

    /// Jobs whose pause is over go back in line; whether there were any.
    pub(super) fn retry_due(&mut self, now: Instant) -> bool {
        let (due, later): (Vec<_>, Vec<_>) = self.pausing.drain(..).partition(|(at, _)| *at <= now);
        self.pausing = later;
        for (_, index) in &due {
            let target = self.target_of(*index);
            self.waiting[target].push_back(*index);
        }
        !due.is_empty()
    }

    /// The deadline has passed: whatever is not resident has failed. How many jobs that were.
    pub(super) fn give_up(&mut self, cause: impl Fn(&Parent) -> Cause) -> u64 {
        if self.targets.is_empty() {
            // Aimed at nobody: every URL has failed for want of a target.
            self.chunk.progress.targets = vec!["-".to_owned()];
            self.chunk.progress.resident = vec![0; self.per_target()];
            self.chunk.progress.failed = (0..self.per_target() as u32).map(|index| (index, Cause::NoTarget)).collect();
            self.changed = true;
            return self.per_target() as u64;
        }
        let pausing = self.pausing.drain(..).map(|(_, index)| index);
        let waiting = self.waiting.iter_mut().flat_map(|waiting| waiting.drain(..));
        let left: Vec<u32> = pausing.chain(waiting).chain(self.leased.drain()).collect();
        for index in &left {
            let target = &self.targets[*index as usize / self.per_target().max(1)];
            self.chunk.progress.failed.insert(*index, cause(target));
        }
        self.left = 0;
        self.changed = true;
        left.len() as u64
    }
}

/// One more than the place of `node` in `nodes`; zero when it is not there.
fn place_of(nodes: &[NodeName], node: &NodeName) -> u32 {
    nodes.iter().position(|name| name == node).map_or(0, |at| at as u32 + 1)
}

fn target_name(group: &Parent) -> String {
    format!("{}/{}", group.pop, group.tier)
}

/// The state of one object of a chunk, over all its jobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LineState {
    /// Some jobs have not ended; how many of how many have.
    Going {
        /// Jobs that ended.
        ended: usize,
        /// All jobs of the object.
        all: usize,
    },
    /// Resident wherever it was to be.
    Resident,
    /// Failed somewhere, for this reason.
    Failed(Cause),
}

/// What a chunk's progress says of the object at `path`.
pub(crate) fn line_state(chunk: &Chunk, path: usize) -> LineState {
    let paths = chunk.paths.len();
    let progress = &chunk.progress;
    let indexes = || (path..progress.resident.len()).step_by(paths.max(1));
    let all = indexes().count();
    let failed = indexes().find_map(|index| progress.failed.get(&(index as u32)));
    let ended = indexes()
        .filter(|index| progress.resident[*index] > 0 || progress.failed.contains_key(&(*index as u32)))
        .count();
    match failed {
        Some(cause) if ended == all || chunk.finished_ms > 0 => LineState::Failed(cause.clone()),
        // What is read here is in the database: a line need not wait for the slowest of its chunk.
        _ if chunk.finished_ms > 0 || (all > 0 && ended == all) => LineState::Resident,
        _ => LineState::Going { ended, all },
    }
}

/// Where and why the object at `path` failed first: the tier of a POP, as `POP/TIER`, and the cause.
pub(crate) fn first_failure(chunk: &Chunk, path: usize) -> Option<(&str, &Cause)> {
    let progress = &chunk.progress;
    let per_target = chunk.paths.len().max(1) * chunk.params.variants.len().max(1);
    let indexes = (path..progress.resident.len()).step_by(chunk.paths.len().max(1));
    indexes.filter_map(|index| Some((index, progress.failed.get(&(index as u32))?))).next().map(|(index, cause)| {
        let target = progress.targets.get(index / per_target).map(String::as_str).unwrap_or_default();
        (target, cause)
    })
}

#[cfg(test)]
mod tests;
