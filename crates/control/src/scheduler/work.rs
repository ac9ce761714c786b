//! One chunk under way: its jobs, who may have them, what has become of them.
//!
//! A job is one object in one variant for one tier of one POP. Its index is
//! `(target * variants + variant) * paths + path`, with targets in the order of [`Progress::targets`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use model::{Cause, Job, NodeName, Parent, Topology, UrlKey};
use tokio::time::Instant;

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
    targets: Vec<Parent>,
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

/// The key of a path as it was submitted and kept, with scheme.
pub(crate) fn key_of(path: &str) -> Option<UrlKey> {
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    UrlKey::new(host, path).ok()
}

impl Work {
    /// Takes up a chunk where its progress left it.
    pub(super) fn new(chunk: Chunk, topology: &Topology) -> Work {
        // The door has refused what has no key; a row that has none all the same is an object no domain serves.
        let nowhere = UrlKey::new("invalid", "/").expect("a name and a path");
        let keys = chunk.paths.iter().map(|path| key_of(path).unwrap_or_else(|| nowhere.clone())).collect();
        let mut work = Work {
            chunk,
            keys,
            targets: Vec::new(),
            waiting: Vec::new(),
            pausing: Vec::new(),
            leased: HashSet::new(),
            tries: HashMap::new(),
            left: 0,
            changed: false,
        };
        work.aim(topology);
        work
    }

    pub(super) fn id(&self) -> u64 {
        self.chunk.id
    }

    pub(super) fn urls(&self) -> usize {
        self.keys.len()
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
    pub(super) fn rebuild(&mut self, topology: &Topology) -> bool {
        let gone = self.chunk.progress.nodes.iter().any(|node| !topology.members.contains_key(node));
        let targets = topology.targets(self.chunk.params.area, self.chunk.params.warm);
        if self.is_done() || (targets == self.targets && !gone) {
            return false;
        }
        self.aim(topology);
        true
    }

    /// Sets targets and jobs, and keeps of the progress what still holds: failures, and what is resident on a member.
    fn aim(&mut self, topology: &Topology) {
        let old = std::mem::take(&mut self.chunk.progress);
        self.targets = topology.targets(self.chunk.params.area, self.chunk.params.warm);
        let per_target = self.per_target();
        let new = &mut self.chunk.progress;
        new.targets = self.targets.iter().map(target_name).collect();
        new.nodes = old.nodes.clone();
        new.resident = vec![0; per_target * self.targets.len()];
        for (at, name) in new.targets.iter().enumerate() {
            let Some(before) = old.targets.iter().position(|target| target == name) else { continue };
            for job in 0..per_target {
                let (to, from) = (at * per_target + job, before * per_target + job);
                let Some(holder) = old.resident.get(from).copied().filter(|holder| *holder > 0) else {
                    if let Some(cause) = u32::try_from(from).ok().and_then(|from| old.failed.get(&from)) {
                        new.failed.insert(to as u32, cause.clone());
                    }
                    continue;
                };
                let node = old.nodes.get(holder as usize - 1);
                if node.is_some_and(|node| topology.members.contains_key(node)) {
                    new.resident[to] = holder;
                }
            }
        }
        // Nodes that are gone must not make every later look begin anew.
        let kept: Vec<NodeName> = new.nodes.iter().filter(|node| topology.members.contains_key(*node)).cloned().collect();
        if kept.len() < new.nodes.len() {
            for holder in new.resident.iter_mut().filter(|holder| **holder > 0) {
                let node = &old.nodes[*holder as usize - 1];
                *holder = kept.iter().position(|name| name == node).map_or(0, |at| at as u32 + 1);
            }
            new.nodes = kept;
        }
        self.pausing.clear();
        self.leased.clear();
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
    pub(super) fn lease(
        &mut self,
        most: usize,
        topology: &Topology,
        room: &mut HashMap<NodeName, usize>,
        given: &mut Vec<(NodeName, Job)>,
    ) -> usize {
        let mut count = 0;
        for at in 0..self.targets.len() {
            if self.waiting[at].is_empty() {
                continue;
            }
            let members = topology.owners(&self.targets[at], 0);
            if !members.iter().any(|member| room.get(&member.name).is_some_and(|free| *free > 0)) {
                continue;
            }
            let mut passed_over = Vec::new();
            while count < most && passed_over.len() < PASSED_OVER_MAX {
                let Some(index) = self.waiting[at].pop_front() else { break };
                let key = &self.keys[self.path_of(index)];
                let owners = topology.owners(&self.targets[at], key.hash());
                let owner = owners.iter().find(|member| room.contains_key(&member.name));
                match owner.and_then(|member| room.get_mut(&member.name).map(|free| (&member.name, free))) {
                    Some((node, free)) if *free > 0 => {
                        *free -= 1;
                        given.push((node.clone(), self.job(index)));
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

    fn job(&self, index: u32) -> Job {
        let variant = index as usize / self.keys.len().max(1) % self.variants();
        Job {
            chunk: self.chunk.id,
            index,
            url: format!("http://{}", self.keys[self.path_of(index)]),
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
        self.chunk.progress.resident[index as usize] = at as u32 + 1;
        self.left -= 1;
        self.changed = true;
    }

    /// The job failed; whether that is final.
    pub(super) fn failed(&mut self, index: u32, cause: Cause, now: Instant) -> bool {
        if !self.leased.remove(&index) {
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

    /// Jobs whose pause is over go back in line.
    pub(super) fn retry_due(&mut self, now: Instant) {
        let (due, later): (Vec<_>, Vec<_>) = self.pausing.drain(..).partition(|(at, _)| *at <= now);
        self.pausing = later;
        for (_, index) in due {
            let target = self.target_of(index);
            self.waiting[target].push_back(index);
        }
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
    let ended = indexes().filter(|index| progress.resident[*index] > 0 || progress.failed.contains_key(&(*index as u32))).count();
    match failed {
        Some(cause) if ended == all || chunk.finished_ms > 0 => LineState::Failed(cause.clone()),
        _ if chunk.finished_ms > 0 => LineState::Resident,
        _ => LineState::Going { ended, all },
    }
}

