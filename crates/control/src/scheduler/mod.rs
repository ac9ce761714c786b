//! Prefetch: chunks become jobs, jobs are leased to the nodes that own their objects, reports come back.
//!
//! One task holds what is under way; everything it knows it can read again from the database, so nothing is lost with the
//! process. Jobs go out oldest first within an account and in turns between accounts.
//!
//! # What always holds
//!
//! - A node holds at most [`JOBS_PER_NODE_MAX`] jobs; what is loaded is bounded by [`LOADED_JOBS_MAX`], the rest waits in
//!   the database.
//! - A report counts only from the node that the job is leased to. A lost lease hands the job on; the work may then be done
//!   again, and is found done by whoever has done it.
//! - What one event costs does not grow with what is loaded: only a tick, and a change of the topology, look at all of it.
//! - A chunk ends when every job is resident or has failed, and that is in the database before anybody is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::prefetch::JOBS_PER_NODE_MAX;
use model::{Cause, Clock, Job, Knowledge, NodeName, Outcome, Report};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::known::Following;
use crate::state::submit::{Accepting, CHUNK_LINES_MAX, Open};
use crate::state::{State, StateError, millis};
use aims::Aims;
use work::{Turn, Work};

pub(crate) use work::{LineState, first_failure, key_of, line_state};

mod aims;
mod work;

/// Jobs of chunks that are loaded at a time, over all accounts; one chunk of each account is loaded whatever its size.
pub(crate) const LOADED_JOBS_MAX: usize = 400_000;

/// Chunks read from the database at a time, and how often in one turn: what has come in meanwhile waits no longer.
const CHUNKS_AT_ONCE: usize = 32;
const LOADS_AT_ONCE: usize = 16;

/// Jobs an account is given before it is the next one's turn.
const TURN: usize = 64;

/// Events waiting for the scheduler; who reports waits when it is full.
const EVENTS_MAX: usize = 256;

/// Messages on their way to one session.
const MESSAGES_MAX: usize = 64;

/// How often deadlines and retries are looked at, and what has changed is kept.
const TICK: Duration = Duration::from_millis(250);

/// Characters of a node's own words in a cause.
const CAUSE_CHARS_MAX: usize = 300;

/// Chunks whose progress is kept in one transaction.
const KEPT_AT_ONCE: usize = 256;

/// What the scheduler tells the session of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Do these.
    Jobs(Vec<Job>),
    /// Jobs of these chunks need not be begun any more.
    Withdraw(Vec<u64>),
}

/// A session as the scheduler sees it; dropping it ends the session's leases.
pub(crate) struct Leases {
    events: mpsc::Sender<Event>,
    node: NodeName,
    session: u64,
}

impl Leases {
    /// Jobs have ended one way or another. Waits while the scheduler is behind.
    pub(crate) async fn report(&self, reports: Vec<Report>) {
        let event = Event::Reports { node: self.node.clone(), session: self.session, reports };
        let _ = self.events.send(event).await;
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        let (events, node, session) = (self.events.clone(), self.node.clone(), self.session);
        // The scheduler must hear of it even when its queue is full just now.
        tokio::spawn(async move { events.send(Event::Gone { node, session }).await });
    }
}

/// The face of the scheduler. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scheduler {
    events: mpsc::Sender<Event>,
    counters: Arc<Counters>,
}

/// What the scheduler has done, and holds.
#[derive(Default)]
pub(crate) struct Counters {
    /// Jobs that ended resident.
    pub(crate) resident: AtomicU64,
    /// Jobs that failed for good.
    pub(crate) failed: AtomicU64,
    /// Jobs given out again, after a passing failure or a lost lease.
    pub(crate) retried: AtomicU64,
    /// Jobs of chunks that are loaded now.
    pub(crate) loaded: AtomicU64,
    /// Jobs leased now.
    pub(crate) leased: AtomicU64,
}

enum Event {
    Here { node: NodeName, session: u64, empty: bool, orders: mpsc::Sender<Order> },
    Gone { node: NodeName, session: u64 },
    Reports { node: NodeName, session: u64, reports: Vec<Report> },
}

impl Scheduler {
    /// Starts scheduling, until `stopping` is cancelled. What is open is read from the database.
    pub(crate) fn start(
        state: State,
        accepting: &Accepting,
        open: Open,
        following: Following,
        clock: Arc<dyn Clock>,
        deadline: Duration,
        stopping: CancellationToken,
    ) -> Scheduler {
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        let counters = Arc::new(Counters::default());
        let known = following.now().knowledge.clone();
        let task = Task {
            state,
            open,
            aims: Aims::new(known.topology.clone()),
            known,
            following,
            clock,
            deadline,
            counters: counters.clone(),
            sessions: BTreeMap::new(),
            room: HashMap::new(),
            done: BTreeSet::new(),
            changed: BTreeSet::new(),
            accounts: BTreeMap::new(),
            account_of: HashMap::new(),
            last_turn: String::new(),
        };
        let committed = accepting.committed();
        tokio::spawn(async move { stopping.run_until_cancelled(task.run(incoming, committed)).await });
        Scheduler { events, counters }
    }

    /// A node is connected and can be given jobs; `empty` says that its store is new. A later session of the same node, which
    /// has a higher number, takes over from an earlier one.
    pub(crate) async fn connected(
        &self,
        node: &NodeName,
        session: u64,
        empty: bool,
    ) -> (Leases, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MESSAGES_MAX);
        let _ = self.events.send(Event::Here { node: node.clone(), session, empty, orders }).await;
        (Leases { events: self.events.clone(), node: node.clone(), session }, receiver)
    }

    /// What it has done, and holds.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

struct Session {
    id: u64,
    orders: mpsc::Sender<Order>,
    leased: HashSet<(u64, u32)>,
}

#[derive(Default)]
struct Queue {
    /// By id: oldest first.
    chunks: BTreeMap<u64, Work>,
    /// Those of them that may have a job for somebody.
    waiting: BTreeSet<u64>,
    /// Jobs of all of them.
    loaded: usize,
    /// The newest chunk that was loaded.
    loaded_to: u64,
    /// Whether the database may have more.
    more: bool,
}

struct Task {
    state: State,
    open: Open,
    following: Following,
    clock: Arc<dyn Clock>,
    deadline: Duration,
    counters: Arc<Counters>,
    /// What [`Task::aims`] was made of.
    known: Arc<Knowledge>,
    aims: Aims,
    /// One for each connected member.
    sessions: BTreeMap<NodeName, Session>,
    /// How many jobs each of them can still take.
    room: HashMap<NodeName, usize>,
    accounts: BTreeMap<String, Queue>,
    account_of: HashMap<u64, String>,
    /// Chunks that have ended, which is not in the database yet.
    done: BTreeSet<u64>,
    /// Chunks whose progress is ahead of the database.
    changed: BTreeSet<u64>,
    /// The account whose turn was last.
    last_turn: String,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut committed: watch::Receiver<u64>) {
        let mut changes = self.following.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_for_more();
        let (mut troubled, mut more) = (false, false);
        loop {
            let mut look = false;
            // Whichever it is, all of the turn's work is done below.
            tokio::select! {
                biased;
                _ = tick.tick() => look = true,
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                changed = committed.changed() => match changed {
                    Ok(()) => self.look_for_more(),
                    Err(_) => return,
                },
                changed = changes.changed() => if changed.is_err() { return },
                () = std::future::ready(()), if more => {}
            }
            // Whatever else has come in meanwhile is one turn's work.
            for _ in 0..EVENTS_MAX {
                let Ok(event) = events.try_recv() else { break };
                self.take(event);
            }
            self.follow();
            // A database in trouble is asked again at ticks, not at every event.
            if !troubled || look {
                let loaded = self.load().await;
                troubled = loaded.is_err();
                more = loaded.unwrap_or_else(|error| {
                    tracing::error!(error = &error as &dyn std::error::Error, "open prefetches could not be read");
                    false
                });
            }
            if look {
                self.expire();
            }
            self.lease();
            if !troubled && let Err(error) = self.keep(look).await {
                tracing::error!(error = &error as &dyn std::error::Error, "progress of prefetches could not be kept");
                troubled = true;
            }
        }
    }

    /// Takes a new topology over: targets may be others, and nodes that had objects may be gone.
    fn follow(&mut self) {
        let known = self.following.now().knowledge.clone();
        if Arc::ptr_eq(&known, &self.known) {
            return;
        }
        if known.topology != *self.aims.topology() {
            self.aims = Aims::new(known.topology.clone());
            self.reaim(|work, aims| work.rebuild(aims));
        }
        self.known = known;
    }

    fn look_for_more(&mut self) {
        for (account, chunks) in self.open.chunks() {
            let queue = self.accounts.entry(account).or_default();
            queue.more |= chunks > queue.chunks.len() as u64;
        }
    }

    /// Loads what there is room for; whether there may be more. Each account has its share of the room, and at least a chunk.
    async fn load(&mut self) -> Result<bool, StateError> {
        let share = LOADED_JOBS_MAX / self.accounts.len().max(1);
        let mut fresh = Vec::new();
        let mut turns = LOADS_AT_ONCE;
        let mut loaded = Ok(false);
        'accounts: for (account, queue) in &mut self.accounts {
            while queue.more && (queue.loaded < share || queue.chunks.is_empty()) {
                if turns == 0 {
                    loaded = Ok(true);
                    break 'accounts;
                }
                turns -= 1;
                // As many as fit even if they are as large as can be; one fits always.
                let fit = share.saturating_sub(queue.loaded) / (CHUNK_LINES_MAX * self.aims.groups().max(1));
                let most = fit.clamp(1, CHUNKS_AT_ONCE);
                let chunks = match self.state.open_prefetches(account, queue.loaded_to, most as u32).await {
                    Ok(chunks) => chunks,
                    Err(error) => {
                        loaded = Err(error);
                        break 'accounts;
                    }
                };
                queue.more = chunks.len() == most;
                for chunk in chunks {
                    let id = chunk.id;
                    let work = Work::new(chunk, &mut self.aims, &self.known);
                    queue.loaded_to = id;
                    queue.loaded += work.jobs();
                    queue.chunks.insert(id, work);
                    self.account_of.insert(id, account.clone());
                    fresh.push(id);
                }
            }
        }
        for id in fresh {
            self.note(id);
        }
        loaded
    }

    fn work(&mut self, chunk: u64) -> Option<&mut Work> {
        let account = self.account_of.get(&chunk)?;
        self.accounts.get_mut(account)?.chunks.get_mut(&chunk)
    }

    /// Remembers what is to be done about a chunk that something has happened to.
    fn note(&mut self, chunk: u64) {
        let Some(queue) = self.account_of.get(&chunk).and_then(|account| self.accounts.get_mut(account)) else {
            return;
        };
        let Some(work) = queue.chunks.get(&chunk) else { return };
        if work.is_waiting() {
            queue.waiting.insert(chunk);
        }
        if work.is_done() {
            self.done.insert(chunk);
        }
        if work.is_changed() {
            self.changed.insert(chunk);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Here { node, session, empty, orders } => {
                // Two sessions of a node that begin at once may be heard of in either order.
                if self.sessions.get(&node).is_some_and(|here| here.id > session) {
                    return;
                }
                self.end_leases(&node);
                self.sessions.insert(node.clone(), Session { id: session, orders, leased: HashSet::new() });
                self.measure(&node);
                if empty {
                    self.reaim(|work, aims| work.lost(&node, aims));
                }
            }
            Event::Gone { node, session } => {
                if self.sessions.get(&node).is_some_and(|here| here.id == session) {
                    self.end_leases(&node);
                    self.sessions.remove(&node);
                    self.room.remove(&node);
                }
            }
            Event::Reports { node, session, reports } => {
                for report in reports {
                    self.report(&node, session, report);
                }
                self.measure(&node);
            }
        }
    }

    /// Says how many jobs a connected node can take.
    fn measure(&mut self, node: &NodeName) {
        if let Some(session) = self.sessions.get(node) {
            self.room.insert(node.clone(), JOBS_PER_NODE_MAX.saturating_sub(session.leased.len()));
        }
    }

    fn end_leases(&mut self, node: &NodeName) {
        let Some(session) = self.sessions.get_mut(node) else { return };
        let leased = std::mem::take(&mut session.leased);
        self.counters.retried.fetch_add(leased.len() as u64, Ordering::Relaxed);
        self.hand_back(leased);
    }

    fn hand_back(&mut self, jobs: impl IntoIterator<Item = (u64, u32)>) {
        for (chunk, job) in jobs {
            if let Some(work) = self.work(chunk) {
                work.hand_back(job);
                self.note(chunk);
            }
        }
    }

    fn report(&mut self, node: &NodeName, session: u64, report: Report) {
        let Some(here) = self.sessions.get_mut(node).filter(|here| here.id == session) else { return };
        if !here.leased.remove(&(report.chunk, report.index)) {
            return;
        }
        let counters = self.counters.clone();
        let Some(work) = self.work(report.chunk) else { return };
        match report.outcome {
            Outcome::Resident { .. } => {
                counters.resident.fetch_add(1, Ordering::Relaxed);
                work.resident(report.index, node);
            }
            Outcome::Failed(cause) => {
                if work.failed(report.index, shortened(cause), Instant::now()) {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                } else {
                    counters.retried.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.note(report.chunk);
    }

    /// Aims chunks anew by `aim`, which says whether it had to; their leases are over then.
    fn reaim(&mut self, aim: impl Fn(&mut Work, &mut Aims) -> bool) {
        let mut moved: HashSet<u64> = HashSet::new();
        for queue in self.accounts.values_mut() {
            for (id, work) in &mut queue.chunks {
                let before = work.jobs();
                if aim(work, &mut self.aims) {
                    queue.loaded = queue.loaded - before + work.jobs();
                    moved.insert(*id);
                }
            }
        }
        self.withdraw(moved);
    }

    /// Jobs of these chunks are leased to nobody any more; those who had some are told.
    fn withdraw(&mut self, chunks: HashSet<u64>) {
        if chunks.is_empty() {
            return;
        }
        for (node, session) in &mut self.sessions {
            let mut theirs: Vec<u64> =
                session.leased.iter().map(|(chunk, _)| *chunk).filter(|id| chunks.contains(id)).collect();
            theirs.sort_unstable();
            theirs.dedup();
            if theirs.is_empty() {
                continue;
            }
            session.leased.retain(|(chunk, _)| !chunks.contains(chunk));
            self.room.insert(node.clone(), JOBS_PER_NODE_MAX.saturating_sub(session.leased.len()));
            // A node that does not hear of it only does work that nobody needs.
            let _ = session.orders.try_send(Order::Withdraw(theirs));
        }
        for chunk in chunks {
            self.note(chunk);
        }
    }

    /// Retries that are due go back in line; what is past the deadline has failed.
    fn expire(&mut self) {
        let nodes: Vec<NodeName> =
            self.room.iter().filter(|(_, free)| **free == 0).map(|(node, _)| node.clone()).collect();
        for node in &nodes {
            self.measure(node);
        }
        let now = Instant::now();
        let wall_ms = millis(self.clock.now());
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        let (sessions, aims) = (&self.sessions, &self.aims);
        let live = |group: &model::Parent| aims.members(group).any(|member| sessions.contains_key(member));
        let mut over = HashSet::new();
        for queue in self.accounts.values_mut() {
            for (id, work) in &mut queue.chunks {
                if work.retry_due(now) {
                    queue.waiting.insert(*id);
                }
                if !work.is_done() && wall_ms > work.created_ms().saturating_add(deadline_ms) {
                    let failed = work.give_up(|group| if live(group) { Cause::Deadline } else { Cause::NoTarget });
                    self.counters.failed.fetch_add(failed, Ordering::Relaxed);
                    over.insert(*id);
                }
            }
        }
        self.withdraw(over);
        let loaded: usize = self.accounts.values().map(|queue| queue.loaded).sum();
        self.counters.loaded.store(loaded as u64, Ordering::Relaxed);
        let leased: usize = self.sessions.values().map(|session| session.leased.len()).sum();
        self.counters.leased.store(leased as u64, Ordering::Relaxed);
    }

    /// Gives out jobs in turns, as long as somebody can take one.
    fn lease(&mut self) {
        // Every account in turn, beginning behind the one whose turn was last.
        let waiting = self.accounts.iter().filter(|(_, queue)| !queue.waiting.is_empty());
        let mut names: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        names.sort_by_key(|name| *name <= self.last_turn);
        let mut turn = Turn::new(&self.aims, &mut self.room);
        loop {
            let before = turn.count();
            for name in &names {
                let Some(Queue { chunks, waiting, .. }) = self.accounts.get_mut(name) else { continue };
                let mut most = TURN;
                let mut given_out = Vec::new();
                for id in waiting.iter() {
                    let work = chunks.get_mut(id);
                    most -= work.map_or(0, |work| work.lease(most, &mut turn));
                    if !chunks.get(id).is_some_and(Work::is_waiting) {
                        given_out.push(*id);
                    }
                    if most == 0 {
                        break;
                    }
                }
                for id in given_out {
                    waiting.remove(&id);
                }
                if most < TURN {
                    self.last_turn.clone_from(name);
                }
            }
            if turn.count() == before {
                break;
            }
        }
        let given = turn.given();
        self.send(given);
    }

    fn send(&mut self, given: Vec<(NodeName, Job)>) {
        let mut orders: BTreeMap<NodeName, Vec<Job>> = BTreeMap::new();
        for (node, job) in given {
            orders.entry(node).or_default().push(job);
        }
        let mut returned = Vec::new();
        for (node, jobs) in orders {
            let Some(session) = self.sessions.get_mut(&node) else { continue };
            let names: Vec<(u64, u32)> = jobs.iter().map(|job| (job.chunk, job.index)).collect();
            match session.orders.try_send(Order::Jobs(jobs)) {
                Ok(()) => session.leased.extend(names),
                // The session is slow or about to end: the jobs go back in line, and it is left alone until the next tick.
                Err(_) => {
                    returned.extend(names);
                    self.room.insert(node, 0);
                }
            }
        }
        self.hand_back(returned);
    }

    /// Keeps what chunks have come to: those that ended at once, the others at every tick.
    async fn keep(&mut self, all: bool) -> Result<(), StateError> {
        let now_ms = millis(self.clock.now()).max(1);
        loop {
            let going = all.then_some(&self.changed).into_iter().flatten().filter(|id| !self.done.contains(id));
            let ids: Vec<u64> = self.done.iter().chain(going).take(KEPT_AT_ONCE).copied().collect();
            if ids.is_empty() {
                return Ok(());
            }
            let mut changed: Vec<(u64, u64, &crate::state::chunks::Progress)> = Vec::new();
            for id in &ids {
                let work = self.account_of.get(id).and_then(|account| self.accounts.get(account)?.chunks.get(id));
                if let Some(work) = work {
                    changed.push((*id, if work.is_done() { now_ms } else { 0 }, work.progress()));
                }
            }
            self.state.keep_progress(&changed).await?;
            for id in ids {
                self.changed.remove(&id);
                if !self.done.remove(&id) {
                    if let Some(work) = self.work(id) {
                        work.kept();
                    }
                    continue;
                }
                let Some(account) = self.account_of.remove(&id) else { continue };
                let Some(queue) = self.accounts.get_mut(&account) else { continue };
                queue.waiting.remove(&id);
                if let Some(work) = queue.chunks.remove(&id) {
                    queue.loaded -= work.jobs();
                    self.open.ended(&account, work.urls() as u64);
                }
            }
            self.accounts.retain(|_, queue| queue.more || !queue.chunks.is_empty());
        }
    }
}

/// A cause as it is kept: what a node says in words is cut to [`CAUSE_CHARS_MAX`].
fn shortened(mut cause: Cause) -> Cause {
    if let Cause::OriginUnreachable(text) | Cause::NotStorable(text) | Cause::Store(text) = &mut cause
        && let Some((at, _)) = text.char_indices().nth(CAUSE_CHARS_MAX)
    {
        text.truncate(at);
    }
    cause
}

#[cfg(test)]
mod tests;
