//! How the scheduler gives out jobs: accounts take turns, and each job goes to the node that owns its object, if it has
//! room.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::{Job, NodeName, account_number};

use super::aims::Aims;
use super::work::Said;
use super::{Order, Session, Task};

/// How many times as many jobs an account may have at a node as the node has free places: three quarters of all where it
/// is alone, and a little less for each with every account more. Choudhury and Hahne call this a dynamic threshold
/// (*Dynamic Queue Length Thresholds for Shared-Memory Packet Switches*, 1998).
const JOBS_PER_FREE_PLACE: usize = 3;

/// How many more jobs an account that has `has` may get of a node with `free` free places.
pub(super) fn may_still_have(has: usize, free: usize) -> usize {
    // Each of them takes a free place as well, hence the divisor. It is rounded up: the last place may be taken.
    (JOBS_PER_FREE_PLACE * free).saturating_sub(has).div_ceil(JOBS_PER_FREE_PLACE + 1)
}

/// The jobs leased to a node.
#[derive(Default)]
pub(super) struct Leased {
    /// Each with the account it belongs to, and what the node had said of its store when it was given the job.
    jobs: HashMap<(u64, u32), (Arc<str>, Said)>,
    /// How many each account has; accounts without any are absent.
    of: HashMap<Arc<str>, usize>,
}

impl Leased {
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// How many of them are jobs of `account`.
    pub(super) fn of(&self, account: &str) -> usize {
        self.of.get(account).copied().unwrap_or_default()
    }

    pub(super) fn contains(&self, job: (u64, u32)) -> bool {
        self.jobs.contains_key(&job)
    }

    fn insert(&mut self, account: &Arc<str>, job: (u64, u32), said: Said) {
        if self.jobs.insert(job, (account.clone(), said)).is_none() {
            *self.of.entry(account.clone()).or_default() += 1;
        }
    }

    /// Removes a job; returns what the node had said of its store when it was given the job, or `None` if it was not
    /// there.
    pub(super) fn remove(&mut self, job: (u64, u32)) -> Option<Said> {
        let (account, said) = self.jobs.remove(&job)?;
        if let Some(count) = self.of.get_mut(&account) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&account);
            }
        }
        Some(said)
    }

    /// The jobs of these chunks.
    pub(super) fn of_chunks(&self, chunks: &HashSet<u64>) -> Vec<(u64, u32)> {
        self.jobs.keys().filter(|(chunk, _)| chunks.contains(chunk)).copied().collect()
    }

    /// Removes and returns all jobs.
    pub(super) fn take(&mut self) -> Vec<(u64, u32)> {
        std::mem::take(self).jobs.into_keys().collect()
    }
}

/// The nodes that can take jobs in one turn, and the jobs given out in it.
pub(super) struct Turn {
    /// The number of the account whose turn it is.
    account: u64,
    /// How many more jobs each member can take, by its number.
    free: Vec<usize>,
    /// How many of these may belong to the account whose turn it is.
    may: Vec<usize>,
    given: Vec<(u32, Job)>,
}

impl Turn {
    pub(super) fn new(aims: &Aims, room: &HashMap<NodeName, usize>) -> Turn {
        let free: Vec<usize> = aims.names().iter().map(|name| room.get(name).copied().unwrap_or_default()).collect();
        Turn { account: 0, may: free.clone(), free, given: Vec::new() }
    }

    /// Begins the turn of an account; `may` says how many more of its jobs a member with so many free places may have.
    pub(super) fn begin(&mut self, account: &str, names: &[NodeName], may: impl Fn(&NodeName, usize) -> usize) {
        self.account = account_number(account);
        for ((at, free), name) in self.may.iter_mut().zip(&self.free).zip(names) {
            *at = if *free > 0 { may(name, *free).min(*free) } else { 0 };
        }
    }

    /// Whether a member can take another job.
    pub(super) fn is_free(&self, number: u32) -> bool {
        self.free.get(number as usize).is_some_and(|free| *free > 0)
    }

    /// Whether a member can take another job of the account whose turn it is.
    pub(super) fn has_room(&self, number: u32) -> bool {
        self.may.get(number as usize).is_some_and(|may| *may > 0)
    }

    /// The number of the account whose turn it is.
    pub(super) fn account(&self) -> u64 {
        self.account
    }

    /// Gives a job to a member; it must have room.
    pub(super) fn give(&mut self, number: u32, job: Job) {
        for room in [&mut self.free, &mut self.may] {
            if let Some(room) = room.get_mut(number as usize) {
                *room -= 1;
            }
        }
        self.given.push((number, job));
    }

    /// The jobs given out after the first `count`.
    pub(super) fn since(&self, count: usize) -> &[(u32, Job)] {
        self.given.get(count..).unwrap_or_default()
    }

    /// How many jobs were given out.
    pub(super) fn count(&self) -> usize {
        self.given.len()
    }

    /// The jobs given out, each with the number of its member.
    pub(super) fn given(self) -> Vec<(u32, Job)> {
        self.given
    }
}

impl Task {
    /// Puts jobs in line for their present owners if these may have changed, and rechecks chunks that have ended: an
    /// object that became resident while its owner was away is not where users' requests look first once the owner is
    /// back, and one that was refreshed or evicted since is not there any more.
    pub(super) fn line_up(&mut self) {
        if std::mem::take(&mut self.unlined) {
            for queue in self.accounts.values_mut() {
                queue.line_up_all(&self.aims, &self.room, &self.leaving);
                // Where no node is left, nobody can be asked once more.
                self.done.extend(queue.chunks.iter().filter(|(_, work)| work.is_done()).map(|(id, _)| *id));
            }
        }
        for id in self.done.clone() {
            let queue = self.account_of.get(&id).and_then(|account| self.accounts.get_mut(account));
            let work = queue.and_then(|queue| queue.chunks.get_mut(&id));
            // A cancelled chunk that had ended before that was read stays as it ended.
            let Some(work) = work.filter(|work| work.steering().cancelled_ms == 0) else { continue };
            let again = work.put_back(&self.aims);
            let refreshed = self.following.refreshed(work.domain());
            let says = |node: &NodeName| self.sessions.get(node).map(Session::said);
            if again > 0 || work.look(&self.aims, refreshed, self.head, says) {
                self.counters.retried.fetch_add(again as u64, Ordering::Relaxed);
                self.done.remove(&id);
                self.note(id);
            }
        }
    }

    /// Gives out jobs in turns, as long as a node has room. At each node the account with the fewest jobs goes first, and
    /// none has more than [`JOBS_PER_FREE_PLACE`] times as many as there are free places: where all jobs of an account
    /// wait for an unresponsive origin, a place is left for those of accounts with other origins.
    pub(super) fn lease(&mut self) {
        let mut turn = Turn::new(&self.aims, &self.room);
        // Every account in turn, beginning behind the one that had the last turn.
        let waiting = self.accounts.iter().filter(|(_, queue)| queue.can_lease(&turn));
        let mut names: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        // A turn that was cut short is resumed: otherwise the accounts that come last at full nodes would always get
        // less.
        let (last, mut rest) = self.last_turn.clone();
        names.sort_by_key(|name| if rest > 0 { *name < last } else { *name <= last });
        // The most jobs that an account may have at a node; doubled below.
        let mut most = if names.len() > 1 { 1 } else { self.bounds.per_node };
        while !names.is_empty() {
            let before = turn.count();
            for name in &names {
                let Some(queue) = self.accounts.get_mut(name) else { continue };
                let sessions = &self.sessions;
                let has = |node: &NodeName| sessions.get(node).map_or(0, |session| session.leased.of(name));
                turn.begin(name, self.aims.names(), |node, free| {
                    let has = has(node);
                    most.saturating_sub(has).min(may_still_have(has, free))
                });
                let begun = turn.count();
                let turn_max = match std::mem::take(&mut rest) {
                    rest if rest > 0 && *name == last => rest,
                    _ => self.bounds.turn,
                };
                let count = queue.lease(turn_max, &mut turn);
                if count > 0 {
                    self.last_turn = (name.clone(), if queue.waits() { turn_max - count } else { 0 });
                }
                let whose: Arc<str> = name.as_str().into();
                for (number, job) in turn.since(begun) {
                    let session = self.aims.names().get(*number as usize).and_then(|node| self.sessions.get_mut(node));
                    if let Some(session) = session {
                        let said = session.said();
                        session.leased.insert(&whose, (job.chunk, job.index), said);
                    }
                }
            }
            if turn.count() == before {
                if most >= self.bounds.per_node {
                    break;
                }
                most *= 2;
                names.retain(|name| self.accounts.get(name).is_some_and(|queue| queue.can_lease(&turn)));
            }
        }
        let given = turn.given();
        self.send(given);
    }

    fn send(&mut self, given: Vec<(u32, Job)>) {
        let mut orders: BTreeMap<NodeName, Vec<Job>> = BTreeMap::new();
        let mut by_number: BTreeMap<u32, Vec<Job>> = BTreeMap::new();
        for (number, job) in given {
            by_number.entry(number).or_default().push(job);
        }
        for (number, jobs) in by_number {
            let Some(node) = self.aims.names().get(number as usize) else { continue };
            if let Some(room) = self.room.get_mut(node) {
                *room = room.saturating_sub(jobs.len());
            }
            orders.insert(node.clone(), jobs);
        }
        let mut returned = Vec::new();
        let mut chunks = BTreeSet::new();
        for (node, jobs) in orders {
            let Some(session) = self.sessions.get_mut(&node) else { continue };
            let names: Vec<(u64, u32)> = jobs.iter().map(|job| (job.chunk, job.index)).collect();
            chunks.extend(names.iter().map(|(chunk, _)| *chunk));
            let sent = session.untold.is_empty() && session.orders.try_send(Order::Jobs(jobs)).is_ok();
            if !sent {
                // The session is slow or about to end: the jobs go back in line, and the node gets none until the next
                // tick.
                for job in &names {
                    session.leased.remove(*job);
                }
                returned.extend(names);
                self.room.insert(node, 0);
            }
        }
        self.hand_back(returned);
        for chunk in chunks {
            self.note(chunk);
        }
    }
}
