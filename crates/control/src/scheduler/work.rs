//! One chunk under way: its jobs, who may have them, what has become of them.
//!
//! A job is one object in one variant for one tier of one POP. Its index is
//! `(target * variants + variant) * paths + path`, with targets in the order of [`Progress::targets`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Cause, Job, Knowledge, NodeName, Parent, UrlKey};
use tokio::time::Instant;

use super::aims::Aims;
use super::lines::hundredths;
use crate::state::chunks::{Chunk, Progress};
use crate::state::steering::{Standing, Steering};

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
    /// How many jobs all of them together can still take.
    left: usize,
    given: Vec<(NodeName, Job)>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(aims: &'a Aims, room: &'a mut HashMap<NodeName, usize>) -> Turn<'a> {
        let left = room.values().sum();
        Turn { aims, room, full: HashSet::new(), left, given: Vec::new() }
    }

    /// Whether nobody can take any more.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
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
            Some(domain) if !chunk.params.verbatim => domain.functions.key(url).hash(),
            _ => url.hash(),
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

    pub(super) fn steering(&self) -> Steering {
        self.chunk.steering
    }

    pub(super) fn steer(&mut self, steering: Steering) {
        self.chunk.steering = steering;
    }

    /// As it stands when it is not loaded.
    pub(super) fn standing(&self) -> Standing {
        Standing { id: self.chunk.id, urls: self.keys.len() as u64, steering: self.chunk.steering }
    }

    /// The tier of a POP and the key of every job that nobody has.
    #[cfg(test)]
    pub(super) fn unleased(&self) -> impl Iterator<Item = (&Parent, u128)> {
        let job = |index: &u32| (&self.targets[self.target_of(*index)], self.placed[self.path_of(*index)]);
        self.waiting.iter().flatten().map(job)
    }

    /// Whether nobody works on it.
    pub(super) fn is_idle(&self) -> bool {
        self.leased.is_empty()
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

    /// Aims it anew at the topology, if anything has to change; how many objects are lost with that. All leases are over then.
    pub(super) fn rebuild(&mut self, aims: &mut Aims) -> Option<usize> {
        if self.is_done() {
            return None;
        }
        let targets = aims.targets(self.chunk.params.area, self.chunk.params.warm);
        let stands = |node: &NodeName| targets.iter().any(|target| aims.stands_in(node, target));
        if targets == self.targets && self.chunk.progress.nodes.iter().all(stands) {
            return None;
        }
        Some(self.aim(aims))
    }

    /// The node has lost its store: what was resident there is not. How many objects those were; `None`: it is not concerned.
    pub(super) fn lost(&mut self, node: &NodeName, aims: &mut Aims) -> Option<usize> {
        let at = self.chunk.progress.nodes.iter().position(|name| name == node)?;
        if self.is_done() {
            return None;
        }
        let mut lost = 0;
        for holder in self.chunk.progress.resident.iter_mut().filter(|holder| **holder as usize == at + 1) {
            *holder = 0;
            lost += 1;
        }
        Some(lost + self.aim(aims))
    }

    /// Sets targets and jobs, and keeps of the progress what still holds: failures, and what is resident on a member of the
    /// target; how many objects nobody has any more. What was kept may be of any age, and is believed in nothing that would lead out
    /// of bounds.
    fn aim(&mut self, aims: &mut Aims) -> usize {
        let mut lost = 0;
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
        (new.told_by, new.shown) = (old.told_by, old.shown);
        for (at, (name, target)) in new.targets.iter().zip(self.targets.iter()).enumerate() {
            let Some(before) = old.targets.iter().position(|target| target == name) else { continue };
            for job in 0..per_target {
                let (to, from) = (at * per_target + job, before * per_target + job);
                let holder = old.resident.get(from).and_then(|holder| (*holder as usize).checked_sub(1));
                let Some(holder) = holder else {
                    if let Some(cause) = u32::try_from(from).ok().and_then(|from| old.failed.get(&from)) {
                        new.failed.insert(to as u32, cause.clone());
                        let at = u32::try_from(from).ok().and_then(|from| old.failed_at.get(&from));
                        new.failed_at.extend(at.map(|at| (to as u32, *at)));
                    }
                    continue;
                };
                if old.nodes.get(holder).is_some_and(|node| aims.stands_in(node, target)) {
                    new.resident[to] = places[holder];
                    if let Some(fetched) = old.fetched.get(from) {
                        new.fetched.resize(new.resident.len(), (0, 0));
                        new.fetched[to] = *fetched;
                    }
                } else {
                    lost += 1;
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
        lost
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
                        turn.left -= 1;
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
            verbatim: self.chunk.params.verbatim,
            refetch: self.chunk.params.refetch,
            pin: self.chunk.params.pin.clone(),
        }
    }

    /// A lease is over without a report.
    pub(super) fn hand_back(&mut self, index: u32) {
        if self.leased.remove(&index) {
            self.chunk.progress.under_way.remove(&index);
            let target = self.target_of(index);
            if let Some(waiting) = self.waiting.get_mut(target) {
                waiting.push_front(index);
            }
        }
    }

    /// All leases are over without a report.
    pub(super) fn recall(&mut self) {
        let leased: BTreeSet<u32> = self.leased.iter().copied().collect();
        for index in leased.iter().rev() {
            self.hand_back(*index);
        }
    }

    /// The job's object of so many bytes is resident on `node`, after so many milliseconds.
    pub(super) fn resident(&mut self, index: u32, node: &NodeName, bytes: u64, took_ms: u32) {
        if !self.leased.remove(&index) {
            return;
        }
        let progress = &mut self.chunk.progress;
        let at = place_in(&mut progress.nodes, node);
        if let Some(holder) = progress.resident.get_mut(index as usize) {
            *holder = at;
        }
        progress.fetched.resize(progress.resident.len(), (0, 0));
        if let Some(fetched) = progress.fetched.get_mut(index as usize) {
            *fetched = (bytes, took_ms);
        }
        progress.under_way.remove(&index);
        self.left -= 1;
        self.changed = true;
    }

    /// So many bytes of so many have come of a job that a node has.
    pub(super) fn under_way(&mut self, index: u32, bytes: u64, length: u64) {
        if self.leased.contains(&index)
            && self.chunk.progress.under_way.insert(index, (bytes, length)) != Some((bytes, length))
        {
            self.changed = true;
        }
    }

    /// Remembers how far each path is before that is kept: what was shown once is not taken back.
    pub(super) fn show(&mut self) {
        let chunk = &mut self.chunk;
        let shown: Vec<u16> = (0..chunk.paths.len()).map(|path| hundredths(chunk, path)).collect();
        chunk.progress.shown = if shown.iter().any(|shown| *shown > 0) { shown } else { Vec::new() };
    }

    /// The job failed on `node`; whether that is final.
    pub(super) fn failed(&mut self, index: u32, cause: Cause, node: &NodeName, now: Instant, now_ms: u64) -> bool {
        if !self.leased.remove(&index) {
            return false;
        }
        self.chunk.progress.under_way.remove(&index);
        if let Cause::OriginBusy { seconds } = cause {
            // Nothing was tried: an origin that is spared is not one that fails.
            let pause = Duration::from_secs(seconds).clamp(PAUSE, PAUSE_MAX);
            self.pausing.push((now + jittered(pause, self.chunk.id, index), index));
            return false;
        }
        let tries = self.tries.entry(index).or_default();
        *tries += 1;
        if cause.is_transient() && *tries < TRIES_MAX {
            let pause = PAUSE.saturating_mul(1 << (*tries - 1)).min(PAUSE_MAX);
            self.pausing.push((now + jittered(pause, self.chunk.id, index + u32::from(*tries)), index));
            return false;
        }
        self.tries.remove(&index);
        let progress = &mut self.chunk.progress;
        progress.failed.insert(index, cause);
        let told_by = place_in(&mut progress.told_by, node);
        progress.failed_at.insert(index, (told_by, now_ms));
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

    /// It ends: whatever is not resident has failed, of each target for this cause; of none where it is aimed at nobody. How many jobs
    /// that were.
    pub(super) fn give_up(&mut self, now_ms: u64, cause: impl Fn(Option<&Parent>) -> Cause) -> u64 {
        if self.targets.is_empty() {
            // Aimed at nobody: every URL has failed for want of a target.
            self.chunk.progress.targets = vec!["-".to_owned()];
            self.chunk.progress.resident = vec![0; self.per_target()];
        }
        let pausing = self.pausing.drain(..).map(|(_, index)| index);
        let waiting = self.waiting.iter_mut().flat_map(|waiting| waiting.drain(..));
        let mut left: Vec<u32> = pausing.chain(waiting).chain(self.leased.drain()).collect();
        if self.targets.is_empty() {
            left = (0..self.per_target() as u32).collect();
        }
        let per_target = self.per_target().max(1);
        for index in &left {
            let cause = cause(self.targets.get(*index as usize / per_target));
            self.chunk.progress.failed.insert(*index, cause);
            self.chunk.progress.failed_at.insert(*index, (0, now_ms));
        }
        self.chunk.progress.under_way.clear();
        self.left = 0;
        self.changed = true;
        left.len() as u64
    }
}

/// One more than the place of `node` in `nodes`, to which it is added when it is not there.
fn place_in(nodes: &mut Vec<NodeName>, node: &NodeName) -> u32 {
    let at = nodes.iter().position(|name| name == node).unwrap_or_else(|| {
        nodes.push(node.clone());
        nodes.len() - 1
    });
    at as u32 + 1
}

/// `pause`, or up to half of it more: jobs that failed together are not tried together. By a hash, so that a simulation repeats.
fn jittered(pause: Duration, chunk: u64, index: u32) -> Duration {
    let mixed = (chunk ^ (u64::from(index) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    pause + pause.mul_f64((mixed >> 40) as f64 / f64::from(1_u32 << 24) / 2.0)
}

/// One more than the place of `node` in `nodes`; zero when it is not there.
fn place_of(nodes: &[NodeName], node: &NodeName) -> u32 {
    nodes.iter().position(|name| name == node).map_or(0, |at| at as u32 + 1)
}

fn target_name(group: &Parent) -> String {
    format!("{}/{}", group.pop, group.tier)
}

#[cfg(test)]
pub(super) mod tests;
