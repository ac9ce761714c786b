//! One chunk under way: its jobs, who may have them, what has become of them.
//!
//! A job is one object in one variant for one tier of one POP. Its index is
//! `(target * variants + variant) * paths + path`, with targets in the order of [`Progress::targets`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::{Cause, DomainName, Job, Knowledge, NodeName, Parent, Revision, UrlKey};
use tokio::time::Instant;

use super::aims::{Aims, NOBODY};
use super::lines::hundredths;
use crate::state::chunks::{Chunk, Params, Progress};
use crate::state::steering::{Standing, Steering};

/// How often a job is tried before a passing failure is final.
const TRIES_MAX: u8 = 8;

/// The first pause before a job is tried again; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// `https://`.
const SCHEME_BYTES_MAX: usize = 8;

/// A chunk under way. There are many: what one holds is for as few allocations as will do.
pub(super) struct Work {
    id: u64,
    begin_after: Revision,
    params: Params,
    steering: Steering,
    progress: Progress,
    urls: Urls,
    /// What stands for the key that nodes make of each: by this, the node is chosen that others will ask for it.
    placed: Vec<u128>,
    targets: Arc<[Parent]>,
    /// The number of the node that owns each job, as of [`Work::line_up`].
    owners: Vec<u32>,
    /// Jobs that nobody has, in the order in which they go.
    waiting: VecDeque<u32>,
    /// Whether some came back to those that the queue may not have in line.
    returned: bool,
    /// Jobs that pause after a passing failure.
    pausing: Vec<(Instant, u32)>,
    leased: HashSet<u32>,
    tries: HashMap<u32, Tried>,
    /// Jobs that are neither resident nor failed.
    left: usize,
    changed: bool,
    /// Whether it was given up: what of it is not resident by then will not be.
    given_up: bool,
    /// Whether the database does not know yet where it goes.
    unaimed: bool,
}

/// A job that has failed, and may not have for good.
struct Tried {
    times: u8,
    /// Why it failed last, and who told so and when, as in [`Progress::failed_at`].
    cause: Cause,
    told: (u32, u64),
}

/// URLs as nodes are asked for them, one behind the other.
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

/// Who can take jobs in one turn, and what was given out in it.
pub(super) struct Turn {
    /// How many jobs each member can still take, by its number.
    free: Vec<usize>,
    /// How many of these may be jobs of the account whose turn it is.
    may: Vec<usize>,
    given: Vec<(u32, Job)>,
}

impl Turn {
    pub(super) fn new(aims: &Aims, room: &HashMap<NodeName, usize>) -> Turn {
        let free: Vec<usize> = aims.names().iter().map(|name| room.get(name).copied().unwrap_or_default()).collect();
        Turn { may: free.clone(), free, given: Vec::new() }
    }

    /// It is the turn of an account that each member may have so many jobs more of.
    pub(super) fn begin(&mut self, names: &[NodeName], may: impl Fn(&NodeName) -> usize) {
        for ((at, free), name) in self.may.iter_mut().zip(&self.free).zip(names) {
            *at = if *free > 0 { may(name).min(*free) } else { 0 };
        }
    }

    /// Whether a member can take another one.
    pub(super) fn is_free(&self, number: u32) -> bool {
        self.free.get(number as usize).is_some_and(|free| *free > 0)
    }

    /// Whether a member can take another one of the account whose turn it is.
    pub(super) fn has_room(&self, number: u32) -> bool {
        self.may.get(number as usize).is_some_and(|may| *may > 0)
    }

    /// What was given out after the first so many.
    pub(super) fn since(&self, count: usize) -> &[(u32, Job)] {
        self.given.get(count..).unwrap_or_default()
    }

    /// How many jobs were given out.
    pub(super) fn count(&self) -> usize {
        self.given.len()
    }

    /// What was given out, and to the member of which number.
    pub(super) fn given(self) -> Vec<(u32, Job)> {
        self.given
    }
}

/// The key of a path as it was submitted and kept, with scheme.
pub(crate) fn key_of(path: &str) -> Option<UrlKey> {
    let rest = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    UrlKey::new(host, path).ok()
}

/// As it was submitted.
fn scheme_of(path: &str) -> &'static str {
    let scheme = path.split_once("://").map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) { "https" } else { "http" }
}

impl Work {
    /// Takes up a chunk where its progress left it.
    pub(super) fn new(chunk: Chunk, aims: &mut Aims, known: &Knowledge) -> Work {
        // The door has refused what has no key; a row that has none all the same is an object no domain serves.
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
            // What is resident is so under keys that users' requests have no more.
            progress.resident.fill(0);
        }
        let mut work = Work {
            id: chunk.id,
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
        };
        work.aim(aims);
        work
    }

    pub(super) fn urls(&self) -> usize {
        self.urls.len()
    }

    /// How many jobs it has, ended ones too: what it costs to hold it. As if for one target when it has none.
    pub(super) fn jobs(&self) -> usize {
        self.per_target() * self.targets.len().max(1)
    }

    /// Whether there is a job that somebody could be given.
    #[cfg(test)]
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether jobs came back since this was asked last.
    pub(super) fn has_returned(&mut self) -> bool {
        std::mem::take(&mut self.returned)
    }

    /// Who owns jobs that nobody has: their numbers, each once, lowest first.
    pub(super) fn waited_for(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.waiting.iter().map(|index| self.owner_of(*index)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn owner_of(&self, index: u32) -> u32 {
        self.owners.get(index as usize).copied().unwrap_or(NOBODY)
    }

    /// Finds the owner of each job anew: the first one in line of those that are `here`.
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
    }

    pub(super) fn steering(&self) -> Steering {
        self.steering
    }

    pub(super) fn steer(&mut self, steering: Steering) {
        self.steering = steering;
    }

    /// The tiers of POPs that it is aimed at.
    pub(super) fn targets(&self) -> &[Parent] {
        &self.targets
    }

    /// As it stands when it is not loaded.
    pub(super) fn standing(&self) -> Standing {
        Standing { id: self.id, urls: self.urls.len() as u64, steering: self.steering }
    }

    /// The tier of a POP and the key of every job that nobody has.
    #[cfg(test)]
    pub(super) fn unleased(&self) -> impl Iterator<Item = (&Parent, u128)> {
        let job = |index: &u32| {
            (&self.targets[*index as usize / self.per_target().max(1)], self.placed[self.path_of(*index)])
        };
        self.waiting.iter().map(job)
    }

    /// Whether nobody works on it.
    pub(super) fn is_idle(&self) -> bool {
        self.leased.is_empty()
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether every job has ended. A chunk that is aimed at nobody has not.
    pub(super) fn is_done(&self) -> bool {
        !self.progress.targets.is_empty() && self.left == 0
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Its progress is in the database.
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

    /// Aims it anew at the topology, if anything has to change; how many objects are lost with that. All leases are over then.
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

    /// No job begins at a node that does not know as much as is known here up to `head`.
    pub(super) fn begin_after(&mut self, head: Revision) {
        self.begin_after = self.begin_after.max(head);
    }

    pub(super) fn begins_after(&self) -> Revision {
        self.begin_after
    }

    /// The domains of these names keep what they keep otherwise since `head`: nothing of theirs is resident as users' requests look for
    /// it. How many objects those were; `None`: it is not concerned.
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

    /// The node has lost its store: what was resident there is not. How many objects those were; `None`: it is not concerned.
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

    /// Sets targets and jobs, and keeps of the progress what still holds: failures, and what is resident on a member of the
    /// target; how many objects nobody has any more. What was kept may be of any age, and is believed in nothing that would lead out
    /// of bounds.
    fn aim(&mut self, aims: &mut Aims) -> usize {
        let mut lost = 0;
        let old = std::mem::take(&mut self.progress);
        self.targets = aims.targets(self.params.area, self.params.warm);
        let per_target = self.per_target();
        let new = &mut self.progress;
        new.targets = self.targets.iter().map(target_name).collect();
        // Nodes that are gone must not make every later look begin anew.
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
        // Indexes mean other jobs now.
        self.tries.clear();
        // Room for them is made at once: growing, they would get up to twice of what they need.
        self.waiting = VecDeque::with_capacity(new.resident.len());
        let jobs = 0..new.resident.len() as u32;
        self.waiting.extend(jobs.filter(|job| new.resident[*job as usize] == 0 && !new.failed.contains_key(job)));
        self.left = self.waiting.len();
        self.owners.clear();
        // What is queued is not written only to say where it goes: that is kept once somebody is given some of it.
        self.unaimed = old.targets.is_empty();
        let new = &self.progress;
        self.changed |= !self.unaimed && (old.targets != new.targets || old.nodes != new.nodes || lost > 0);
        lost
    }

    /// Gives out up to `most` jobs to owners that have room; how many.
    pub(super) fn lease(&mut self, most: usize, turn: &mut Turn) -> usize {
        let before = turn.count();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|index| {
            let owner = self.owner_of(*index);
            match (turn.free.get_mut(owner as usize), turn.may.get_mut(owner as usize)) {
                (Some(free), Some(may)) if *may > 0 && turn.given.len() - before < most => {
                    *free -= 1;
                    *may -= 1;
                    turn.given.push((owner, self.job(*index)));
                    false
                }
                _ => true,
            }
        });
        self.waiting = waiting;
        self.leased.extend(turn.given.iter().skip(before).map(|(_, job)| job.index));
        let count = turn.count() - before;
        self.changed |= count > 0 && std::mem::take(&mut self.unaimed);
        count
    }

    fn job(&self, index: u32) -> Job {
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
        }
    }

    /// A lease is over without a report.
    pub(super) fn hand_back(&mut self, index: u32) {
        if self.leased.remove(&index) {
            self.progress.under_way.remove(&index);
            self.waiting.push_front(index);
            self.returned = true;
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
        let progress = &mut self.progress;
        let at = place_in(&mut progress.nodes, node);
        if let Some(holder) = progress.resident.get_mut(index as usize) {
            *holder = at;
        }
        progress.fetched.resize(progress.resident.len(), (0, 0));
        if let Some(fetched) = progress.fetched.get_mut(index as usize) {
            *fetched = (bytes, took_ms);
        }
        progress.under_way.remove(&index);
        self.tries.remove(&index);
        self.left -= 1;
        self.changed = true;
    }

    /// Jobs that are resident elsewhere than users' requests look first by now go back in line; how many.
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
        self.returned |= self.left > before;
        self.changed |= self.left > before;
        self.left - before
    }

    /// So many bytes of so many have come of a job that a node has.
    pub(super) fn under_way(&mut self, index: u32, bytes: u64, length: u64) {
        if self.leased.contains(&index)
            && self.progress.under_way.insert(index, (bytes, length)) != Some((bytes, length))
        {
            self.changed = true;
        }
    }

    /// Remembers how far each path is before that is kept: what was shown once is not taken back.
    pub(super) fn show(&mut self) {
        let (paths, variants) = (self.urls.len(), self.variants());
        let shown: Vec<u16> = (0..paths).map(|path| hundredths(&self.progress, paths, variants, path)).collect();
        self.progress.shown = if shown.iter().any(|shown| *shown > 0) { shown } else { Vec::new() };
    }

    /// The job failed on `node`; whether that is final.
    pub(super) fn failed(&mut self, index: u32, cause: Cause, node: &NodeName, now: Instant, now_ms: u64) -> bool {
        if !self.leased.remove(&index) {
            return false;
        }
        self.progress.under_way.remove(&index);
        if let Cause::OriginBusy { seconds } = cause {
            // Nothing was tried: an origin that is spared is not one that fails, and nodes see to it that not all ask at once.
            self.pausing.push((now + Duration::from_secs(seconds).clamp(PAUSE, PAUSE_MAX), index));
            return false;
        }
        let told = (place_in(&mut self.progress.told_by, node), now_ms);
        let times = self.tries.get(&index).map_or(0, |tried| tried.times) + 1;
        if cause.is_transient() && times < TRIES_MAX {
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

    /// Jobs whose pause is over go back in line; whether there were any.
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

    /// It ends: whatever is not resident has failed, of each target for this cause; of none where it is aimed at nobody. What was tried
    /// by the deadline has failed for what came of that. How many jobs that were.
    pub(super) fn give_up(&mut self, now_ms: u64, cause: impl Fn(Option<&Parent>) -> Cause) -> u64 {
        if self.targets.is_empty() {
            // Aimed at nobody: every URL has failed for want of a target.
            self.progress.targets = vec!["-".to_owned()];
            self.progress.resident = vec![0; self.per_target()];
        }
        let pausing = self.pausing.drain(..).map(|(_, index)| index);
        let mut left: Vec<u32> = pausing.chain(self.waiting.drain(..)).chain(self.leased.drain()).collect();
        if self.targets.is_empty() {
            left = (0..self.per_target() as u32).collect();
        }
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

/// What stands for the key that nodes make of `url`, and the number of how they make it.
fn place(url: &UrlKey, verbatim: bool, known: &Knowledge) -> (u128, u64) {
    match known.domain_for(url.host()) {
        Some(domain) if !verbatim => (domain.functions.key(url).hash(), domain.functions.shape()),
        _ => (url.hash(), 0),
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
