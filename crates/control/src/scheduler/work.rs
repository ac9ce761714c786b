//! One loaded chunk: its jobs, their owners, and their state.
//!
//! A job is one object in one variant for one tier of one POP. Its index is
//! `(target * variants + variant) * paths + path`, with targets in the order of [`Progress::targets`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Cause, DomainName, Job, Knowledge, NodeName, Parent, Revision, UrlKey};
use tokio::time::Instant;

use super::aims::{Aims, NOBODY};
use super::leasing::Turn;
use super::lines::hundredths;
use crate::state::chunks::{Chunk, Params, Progress};
use crate::state::steering::{Standing, Steering};
use looks::LOOKS_MAX;
pub(super) use looks::Said;

pub(super) mod looks;

/// How often a job is tried before a transient failure becomes final.
const TRIES_MAX: u8 = 8;

/// The first pause before a job is tried again; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// `https://`.
const SCHEME_BYTES_MAX: usize = 8;

/// A loaded chunk. There are many, so each makes as few allocations as possible.
pub(super) struct Work {
    id: u64,
    domain: DomainName,
    begin_after: Revision,
    params: Params,
    steering: Steering,
    progress: Progress,
    urls: Urls,
    /// The hash of each URL's key as nodes make it: it selects the node that others will ask for the object.
    placed: Vec<u128>,
    targets: Arc<[Parent]>,
    /// The number of the node that owns each job, as of [`Work::line_up`].
    owners: Vec<u32>,
    /// Jobs that are not leased, in the order in which they are given out.
    waiting: VecDeque<u32>,
    /// Whether jobs have come back for owners in whose lines the queue may not have this chunk.
    returned: bool,
    /// Jobs that pause after a transient failure.
    pausing: Vec<(Instant, u32)>,
    leased: HashSet<u32>,
    tries: HashMap<u32, Tried>,
    /// Jobs that are neither resident nor failed.
    left: usize,
    changed: bool,
    /// Whether it was given up: jobs not resident by then never will be.
    given_up: bool,
    /// Whether the database does not have its targets yet.
    unaimed: bool,
    /// Whether it is not known since when its objects are resident: they became so before it was loaded, or before its
    /// targets changed.
    unsure: bool,
    /// What the nodes of its progress had said when they were given the first job that made an object resident, or at
    /// the last look.
    said: Vec<Option<Said>>,
    /// How often it was looked at once more since its jobs last moved to other nodes, and which of the nodes of its
    /// progress were looked at since something was last fetched for it.
    looks: u8,
    looked: Vec<bool>,
}

/// A job that has failed, perhaps not for good.
struct Tried {
    times: u8,
    /// Why it failed last, and which node reported it and when, as in [`Progress::failed_at`].
    cause: Cause,
    told: (u32, u64),
}

/// URLs as they are sent to nodes, in one string.
struct Urls {
    text: String,
    ends: Vec<u32>,
}

impl Urls {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn at(&self, path: usize) -> &str {
        let end = |path: usize| self.ends.get(path).map_or(0, |end| *end as usize);
        let begin = path.checked_sub(1).map_or(0, end);
        self.text.get(begin..end(path)).unwrap_or_default()
    }

    fn host(&self, path: usize) -> &str {
        self.at(path).split('/').nth(2).unwrap_or_default()
    }
}

/// The key of a path as submitted and stored, with scheme.
pub(crate) fn key_of(path: &str) -> Option<UrlKey> {
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    UrlKey::new(host, path).ok()
}

/// The scheme as submitted.
fn scheme_of(path: &str) -> &'static str {
    let scheme = path.split_once("://").map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) { "https" } else { "http" }
}

impl Work {
    /// Resumes a chunk from its stored progress.
    pub(super) fn new(chunk: Chunk, aims: &mut Aims, known: &Knowledge) -> Work {
        // The API refuses URLs without a key. A row that has one all the same stands for an object that no domain
        // serves.
        let nowhere = UrlKey::new("invalid", "/").expect("a name and a path");
        let bytes = chunk.paths.iter().map(|path| path.len() + SCHEME_BYTES_MAX).sum();
        let mut urls = Urls { text: String::with_capacity(bytes), ends: Vec::with_capacity(chunk.paths.len()) };
        let mut placed = Vec::with_capacity(chunk.paths.len());
        let mut shape = 0;
        for path in &chunk.paths {
            let url = key_of(path).unwrap_or_else(|| nowhere.clone());
            let (key, of_domain) = place(&url, chunk.params.verbatim, known);
            placed.push(key);
            shape = of_domain;
            urls.text.extend([scheme_of(path), "://", url.host(), url.path_and_query()]);
            urls.ends.push(urls.text.len() as u32);
        }
        urls.text.shrink_to_fit();
        let mut progress = chunk.progress;
        if std::mem::replace(&mut progress.shape, shape) != shape {
            // Objects are resident under keys that users' requests no longer have.
            progress.resident.fill(0);
        }
        let mut work = Work {
            id: chunk.id,
            domain: chunk.domain,
            begin_after: chunk.revision,
            params: chunk.params,
            steering: chunk.steering,
            progress,
            urls,
            placed,
            targets: Arc::default(),
            owners: Vec::new(),
            waiting: VecDeque::new(),
            returned: false,
            pausing: Vec::new(),
            leased: HashSet::new(),
            tries: HashMap::new(),
            left: 0,
            changed: false,
            given_up: false,
            unaimed: false,
            unsure: false,
            said: Vec::new(),
            looks: 0,
            looked: Vec::new(),
        };
        work.aim(aims);
        work
    }

    pub(super) fn urls(&self) -> usize {
        self.urls.len()
    }

    /// How many jobs it has, ended ones included: the cost of holding it. Without targets, as many as for one.
    pub(super) fn jobs(&self) -> usize {
        self.per_target() * self.targets.len().max(1)
    }

    /// Whether it has a job that could be given out.
    #[cfg(test)]
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether jobs came back since the last call.
    pub(super) fn has_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    /// The owners of jobs that are not leased: their numbers, each once, lowest first.
    pub(super) fn waited_for(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.waiting.iter().map(|index| self.owner_of(*index)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn owner_of(&self, index: u32) -> u32 {
        self.owners.get(index as usize).copied().unwrap_or(NOBODY)
    }

    /// Finds each job's owner anew: the first member in rendezvous order that is `here`.
    pub(super) fn line_up(&mut self, aims: &Aims, here: &HashMap<NodeName, usize>) {
        let mut owners = Vec::with_capacity(self.progress.resident.len());
        for target in self.targets.iter() {
            let of_target = owners.len();
            owners.extend(self.placed.iter().map(|key| aims.owner(target, *key, here)));
            let of_variant = of_target..owners.len();
            for _ in 1..self.variants() {
                owners.extend_from_within(of_variant.clone());
            }
        }
        self.owners = owners;
        self.returned = true;
        self.line_up_looks(aims);
    }

    /// The domain that all objects belong to.
    pub(super) fn domain(&self) -> &DomainName {
        &self.domain
    }

    pub(super) fn steering(&self) -> Steering {
        self.steering
    }

    pub(super) fn steer(&mut self, steering: Steering) {
        self.steering = steering;
    }

    /// The tiers of POPs that it warms.
    pub(super) fn targets(&self) -> &[Parent] {
        &self.targets
    }

    /// Its entry for the time that it is not loaded.
    pub(super) fn standing(&self) -> Standing {
        Standing { id: self.id, urls: self.urls.len() as u64, steering: self.steering }
    }

    /// Tier of a POP and key of every job that is not leased.
    #[cfg(test)]
    pub(super) fn unleased(&self) -> impl Iterator<Item = (&Parent, u128)> {
        let job = |index: &u32| {
            (&self.targets[*index as usize / self.per_target().max(1)], self.placed[self.path_of(*index)])
        };
        self.waiting.iter().map(job)
    }

    /// Whether none of its jobs is leased.
    pub(super) fn is_idle(&self) -> bool {
        self.leased.is_empty()
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether every job has ended. A chunk without targets is not done.
    pub(super) fn is_done(&self) -> bool {
        !self.progress.targets.is_empty() && self.left == 0
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Notes that its progress is in the database.
    pub(super) fn kept(&mut self) {
        self.changed = false;
    }

    fn variants(&self) -> usize {
        self.params.variants.len().max(1)
    }

    fn per_target(&self) -> usize {
        self.variants() * self.urls.len()
    }

    fn path_of(&self, index: u32) -> usize {
        index as usize % self.urls.len().max(1)
    }

    /// Retargets it for the topology, if anything has to change; returns how many objects are lost. All leases end
    /// then.
    pub(super) fn rebuild(&mut self, aims: &mut Aims) -> Option<usize> {
        if self.is_done() {
            return None;
        }
        let targets = aims.targets(self.params.area, self.params.warm);
        let stands = |node: &NodeName| targets.iter().any(|target| aims.stands_in(node, target));
        if targets == self.targets && self.progress.nodes.iter().all(stands) {
            return None;
        }
        let lost = self.aim(aims);
        self.changed = true;
        Some(lost)
    }

    /// No job may begin at a node that has not applied the log up to `head`.
    pub(super) fn begin_after(&mut self, head: Revision) {
        self.begin_after = self.begin_after.max(head);
    }

    pub(super) fn begins_after(&self) -> Revision {
        self.begin_after
    }

    /// The domains `names` store objects differently since `head`, so none of their objects is resident where users'
    /// requests look for it. Returns how many objects were lost; `None` if the chunk is not affected.
    pub(super) fn kept_otherwise(
        &mut self,
        names: &HashSet<DomainName>,
        known: &Knowledge,
        head: Revision,
        aims: &mut Aims,
    ) -> Option<usize> {
        let mut last = "";
        let is_named = (0..self.urls.len()).map(|path| self.urls.host(path)).any(|host| {
            host != std::mem::replace(&mut last, host) && DomainName::candidates(host).any(|name| names.contains(name))
        });
        if self.is_done() || !is_named {
            return None;
        }
        for path in 0..self.urls.len() {
            let Some(url) = key_of(self.urls.at(path)) else { continue };
            (self.placed[path], self.progress.shape) = place(&url, self.params.verbatim, known);
        }
        self.begin_after(head);
        let mut lost = 0;
        for holder in self.progress.resident.iter_mut().filter(|holder| **holder > 0) {
            *holder = 0;
            lost += 1;
        }
        lost += self.aim(aims);
        self.changed = true;
        Some(lost)
    }

    /// The node lost its store, and with it what was resident there. Returns how many objects; `None` if it held none.
    pub(super) fn lost(&mut self, node: &NodeName, aims: &mut Aims) -> Option<usize> {
        let at = self.progress.nodes.iter().position(|name| name == node)?;
        if self.is_done() {
            return None;
        }
        let mut lost = 0;
        for holder in self.progress.resident.iter_mut().filter(|holder| **holder as usize == at + 1) {
            *holder = 0;
            lost += 1;
        }
        lost += self.aim(aims);
        self.changed = true;
        Some(lost)
    }

    /// Sets targets and jobs, and keeps what still holds of the progress: failures, and objects resident on a member of
    /// the target. Returns how many objects nobody holds any more. Stored progress may be of any age, so no index in it
    /// is trusted to be within bounds.
    fn aim(&mut self, aims: &mut Aims) -> usize {
        let mut lost = 0;
        let old = std::mem::take(&mut self.progress);
        self.targets = aims.targets(self.params.area, self.params.warm);
        let per_target = self.per_target();
        let new = &mut self.progress;
        new.targets = self.targets.iter().map(target_name).collect();
        // Without nodes that are gone: they would make every later `rebuild` start anew.
        let stands = |node: &&NodeName| self.targets.iter().any(|target| aims.stands_in(node, target));
        new.nodes = old.nodes.iter().filter(stands).cloned().collect();
        let places: Vec<u32> = old.nodes.iter().map(|node| place_of(&new.nodes, node)).collect();
        new.resident = vec![0; per_target * self.targets.len()];
        (new.told_by, new.shown, new.shape) = (old.told_by, old.shown, old.shape);
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
        // Indexes now mean other jobs.
        self.tries.clear();
        // Allocated at once: growing step by step could take up to twice the room.
        self.waiting = VecDeque::with_capacity(new.resident.len());
        let jobs = 0..new.resident.len() as u32;
        self.waiting.extend(jobs.filter(|job| new.resident[*job as usize] == 0 && !new.failed.contains_key(job)));
        self.left = self.waiting.len();
        self.owners.clear();
        // A waiting chunk is not written only to record its targets; they are written once a job of it is leased.
        self.unaimed = old.targets.is_empty();
        // Nodes are numbered differently now.
        self.said.clear();
        self.looked.clear();
        self.looks = 0;
        self.unsure = self.progress.resident.iter().any(|holder| *holder > 0);
        let new = &self.progress;
        self.changed |= !self.unaimed && (old.targets != new.targets || old.nodes != new.nodes || lost > 0);
        lost
    }

    /// Gives out up to `most` jobs to owners that have room; returns how many.
    pub(super) fn lease(&mut self, most: usize, turn: &mut Turn) -> usize {
        let before = turn.count();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|index| {
            let owner = self.owner_of(*index);
            let gives = turn.has_room(owner) && turn.count() - before < most;
            if gives {
                turn.give(owner, self.job(*index, turn.account()));
            }
            !gives
        });
        self.waiting = waiting;
        self.leased.extend(turn.since(before).iter().map(|(_, job)| job.index));
        let count = turn.count() - before;
        self.changed |= count > 0 && std::mem::take(&mut self.unaimed);
        count
    }

    fn job(&self, index: u32, account: u64) -> Job {
        let variant = index as usize / self.urls.len().max(1) % self.variants();
        Job {
            chunk: self.id,
            index,
            url: self.urls.at(self.path_of(index)).to_owned(),
            headers: self.params.variants.get(variant).cloned().unwrap_or_default(),
            begin_after: self.begin_after,
            verbatim: self.params.verbatim,
            refetch: self.params.refetch,
            pin: self.params.pin.clone(),
            again: self.tries.contains_key(&index),
            look: self.holder(index).is_some(),
            account,
        }
    }

    /// A lease has ended without a report.
    pub(super) fn hand_back(&mut self, index: u32) {
        if self.leased.remove(&index) {
            self.progress.under_way.remove(&index);
            self.waiting.push_front(index);
            self.returned = true;
        }
    }

    /// All leases have ended without a report.
    pub(super) fn recall(&mut self) {
        let leased: BTreeSet<u32> = self.leased.iter().copied().collect();
        for index in leased.iter().rev() {
            self.hand_back(*index);
        }
    }

    /// The job's object of `bytes` bytes is resident on `node`; its fetch took `took_ms`. `said` is what the node had said
    /// when it was given the job. Returns whether the object had not been resident before.
    pub(super) fn resident(&mut self, index: u32, node: &NodeName, bytes: u64, took_ms: u32, said: Said) -> bool {
        if !self.leased.remove(&index) {
            return false;
        }
        let is_new = self.holder(index).is_none();
        let progress = &mut self.progress;
        let at = place_in(&mut progress.nodes, node);
        if let Some(holder) = progress.resident.get_mut(index as usize) {
            *holder = at;
        }
        progress.fetched.resize(progress.resident.len(), (0, 0));
        if let Some(fetched) = progress.fetched.get_mut(index as usize).filter(|_| is_new || took_ms > 0) {
            *fetched = (bytes, took_ms);
        }
        progress.under_way.remove(&index);
        self.note_said(at as usize - 1, said, is_new || took_ms > 0);
        self.tries.remove(&index);
        self.left -= 1;
        self.changed = true;
        is_new
    }

    /// Puts jobs back in line whose object is resident elsewhere than at the present owner; returns how many.
    pub(super) fn put_back(&mut self, aims: &Aims) -> usize {
        let before = self.left;
        for index in 0..self.progress.resident.len() as u32 {
            let holder = (self.progress.resident[index as usize] as usize).checked_sub(1);
            let holder = holder.and_then(|holder| self.progress.nodes.get(holder));
            let owner = aims.names().get(self.owner_of(index) as usize);
            if !self.given_up && owner.is_some() && holder.is_some() && holder != owner {
                self.progress.resident[index as usize] = 0;
                self.waiting.push_back(index);
                self.left += 1;
            }
        }
        if self.left > before {
            (self.returned, self.changed, self.looks) = (true, true, 0);
        }
        self.left - before
    }

    /// The node has received `bytes` of `length` bytes of a leased job.
    pub(super) fn under_way(&mut self, index: u32, bytes: u64, length: u64) {
        if self.leased.contains(&index)
            && self.progress.under_way.insert(index, (bytes, length)) != Some((bytes, length))
        {
            self.changed = true;
        }
    }

    /// Records how far each path is before that is written: a percentage that was shown is never lowered.
    pub(super) fn show(&mut self) {
        let (paths, variants) = (self.urls.len(), self.variants());
        let shown: Vec<u16> = (0..paths).map(|path| hundredths(&self.progress, paths, variants, path)).collect();
        self.progress.shown = if shown.iter().any(|shown| *shown > 0) { shown } else { Vec::new() };
    }

    /// The job failed on `node`; returns whether that is final.
    pub(super) fn failed(&mut self, index: u32, cause: Cause, node: &NodeName, now: Instant, now_ms: u64) -> bool {
        if !self.leased.remove(&index) {
            return false;
        }
        self.progress.under_way.remove(&index);
        let was_there = self.is_gone(index);
        if was_there && cause == Cause::Evicted && self.looks < LOOKS_MAX {
            self.waiting.push_back(index);
            self.returned = true;
            return false;
        }
        if let Cause::OriginBusy { seconds } = cause {
            // Nothing was tried: the origin is being spared, it did not fail. Nodes keep jobs from all asking it at
            // once.
            self.pausing.push((now + Duration::from_secs(seconds).clamp(PAUSE, PAUSE_MAX), index));
            return false;
        }
        let told = (place_in(&mut self.progress.told_by, node), now_ms);
        let times = self.tries.get(&index).map_or(0, |tried| tried.times) + 1;
        let is_final = was_there && cause == Cause::Evicted;
        if cause.is_transient() && times < TRIES_MAX && !is_final {
            let pause = PAUSE.saturating_mul(1 << (times - 1)).min(PAUSE_MAX);
            self.pausing.push((now + jittered(pause, self.id, index + u32::from(times)), index));
            self.tries.insert(index, Tried { times, cause, told });
            return false;
        }
        self.tries.remove(&index);
        self.progress.failed.insert(index, cause);
        self.progress.failed_at.insert(index, told);
        self.left -= 1;
        self.changed = true;
        true
    }

    /// Puts jobs whose pause is over back in line; returns whether there were any.
    pub(super) fn retry_due(&mut self, now: Instant) -> bool {
        let waiting = &mut self.waiting;
        let before = waiting.len();
        self.pausing.retain(|(at, index)| {
            let is_due = *at <= now;
            if is_due {
                waiting.push_back(*index);
            }
            !is_due
        });
        self.returned |= waiting.len() > before;
        waiting.len() > before
    }

    /// Ends the chunk: every job that is not resident fails with the cause given for its target (`None` if there are no
    /// targets). At a deadline, a job that was tried keeps the cause of its last failure. An object that is being looked
    /// at once more stays as it was reported. Returns how many jobs failed.
    pub(super) fn give_up(&mut self, now_ms: u64, cause: impl Fn(Option<&Parent>) -> Cause) -> u64 {
        if self.targets.is_empty() {
            // Without targets every URL has failed.
            self.progress.targets = vec!["-".to_owned()];
            self.progress.resident = vec![0; self.per_target()];
        }
        let pausing = self.pausing.drain(..).map(|(_, index)| index);
        let mut left: Vec<u32> = pausing.chain(self.waiting.drain(..)).chain(self.leased.drain()).collect();
        if self.targets.is_empty() {
            left = (0..self.per_target() as u32).collect();
        }
        left.retain(|index| self.holder(*index).is_none());
        let per_target = self.per_target().max(1);
        for index in &left {
            let cause = cause(self.targets.get(*index as usize / per_target));
            let tried = self.tries.remove(index).filter(|_| cause == Cause::Deadline);
            let (cause, told) = tried.map_or((cause, (0, now_ms)), |tried| (tried.cause, tried.told));
            self.progress.failed.insert(*index, cause);
            self.progress.failed_at.insert(*index, told);
        }
        self.progress.under_way.clear();
        self.left = 0;
        self.given_up = true;
        self.changed = true;
        left.len() as u64
    }
}

/// The hash of the key that nodes make of `url`, and the shape of its domain's keys ([`model::Functions::shape`]).
fn place(url: &UrlKey, verbatim: bool, known: &Knowledge) -> (u128, u64) {
    match known.domain_for(url.host()) {
        Some(domain) if !verbatim => (domain.functions.key(url).hash(), domain.functions.shape()),
        _ => (url.hash(), 0),
    }
}

/// One more than the index of `node` in `nodes`; adds it if it is missing.
fn place_in(nodes: &mut Vec<NodeName>, node: &NodeName) -> u32 {
    let at = nodes.iter().position(|name| name == node).unwrap_or_else(|| {
        nodes.push(node.clone());
        nodes.len() - 1
    });
    at as u32 + 1
}

/// `pause`, plus up to half of it, so that jobs that failed together are not retried together. From a hash, so that
/// simulations repeat.
fn jittered(pause: Duration, chunk: u64, index: u32) -> Duration {
    let mixed = (chunk ^ (u64::from(index) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    pause + pause.mul_f64((mixed >> 40) as f64 / f64::from(1_u32 << 24) / 2.0)
}

/// One more than the index of `node` in `nodes`; zero if it is missing.
fn place_of(nodes: &[NodeName], node: &NodeName) -> u32 {
    nodes.iter().position(|name| name == node).map_or(0, |at| at as u32 + 1)
}

fn target_name(group: &Parent) -> String {
    format!("{}/{}", group.pop, group.tier)
}

#[cfg(test)]
pub(super) mod tests;
