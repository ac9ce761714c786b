//! Prefetch: chunks become jobs, jobs are leased to the nodes that own their objects, reports come back.
//!
//! One task holds what is under way; everything it knows it can read again from the database, so nothing is lost with the
//! process. Jobs go out oldest first within an account and in turns between accounts.
//!
//! # What always holds
//!
//! - A node holds at most [`JOBS_PER_NODE_MAX`] jobs; what is loaded is bounded by [`LOADED_URLS_MAX`], the rest waits in
//!   the database.
//! - A report counts only from the node that the job is leased to. A lost lease hands the job on; the work may then be done
//!   again, and is found done by whoever has done it.
//! - A chunk ends when every job is resident or has failed, and that is in the database before anybody is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::prefetch::JOBS_PER_NODE_MAX;
use model::{Cause, Clock, Job, NodeName, Outcome, Report, Topology};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::known::Following;
use crate::state::submit::{Accepting, Open};
use crate::state::{State, StateError, millis};
use work::Work;

pub(crate) use work::{LineState, key_of, line_state};

mod work;

/// URLs of chunks that are loaded at a time, over all accounts.
pub(crate) const LOADED_URLS_MAX: usize = 200_000;

/// Chunks read from the database at a time.
const CHUNKS_AT_ONCE: u32 = 16;

/// Jobs an account is given before it is the next one's turn.
const TURN: usize = 64;

/// Events waiting for the scheduler; who reports waits when it is full.
const EVENTS_MAX: usize = 256;

/// Messages on their way to one session.
const MESSAGES_MAX: usize = 64;

/// How often deadlines and retries are looked at, and what has changed is kept.
const TICK: Duration = Duration::from_millis(250);

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
    /// URLs loaded now.
    pub(crate) loaded_urls: AtomicU64,
    /// Jobs leased now.
    pub(crate) leased: AtomicU64,
}

enum Event {
    Here { node: NodeName, session: u64, orders: mpsc::Sender<Order> },
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
        let task = Task {
            state,
            open,
            following,
            clock,
            deadline,
            counters: counters.clone(),
            sessions: HashMap::new(),
            accounts: BTreeMap::new(),
            account_of: HashMap::new(),
            last_turn: String::new(),
        };
        let committed = accepting.committed();
        tokio::spawn(async move { stopping.run_until_cancelled(task.run(incoming, committed)).await });
        Scheduler { events, counters }
    }

    /// A node is connected and can be given jobs. A later session of the same node takes over from an earlier one.
    pub(crate) async fn connected(&self, node: &NodeName, session: u64) -> (Leases, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MESSAGES_MAX);
        let _ = self.events.send(Event::Here { node: node.clone(), session, orders }).await;
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
    /// One for each connected member.
    sessions: HashMap<NodeName, Session>,
    accounts: BTreeMap<String, Queue>,
    account_of: HashMap<u64, String>,
    /// The account whose turn was last.
    last_turn: String,
}

impl Task {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut committed: watch::Receiver<u64>) {
        let mut changes = self.following.changes();
        let mut topology = self.following.now().knowledge.topology.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_for_more();
        loop {
            let mut look = false;
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                changed = committed.changed() => match changed {
                    Ok(()) => self.look_for_more(),
                    Err(_) => return,
                },
                changed = changes.changed() => if changed.is_err() { return },
                _ = tick.tick() => look = true,
            }
            // Whatever else has come in meanwhile is one turn's work.
            while let Ok(event) = events.try_recv() {
                self.take(event);
            }
            let known = self.following.now();
            if known.knowledge.topology != topology {
                topology = known.knowledge.topology.clone();
                self.rebuild(&topology);
            }
            if let Err(error) = self.load(&topology).await {
                tracing::error!(error = &error as &dyn std::error::Error, "open prefetches could not be read");
            }
            if look {
                self.expire(&topology);
            }
            self.lease(&topology);
            if let Err(error) = self.keep(look).await {
                tracing::error!(error = &error as &dyn std::error::Error, "progress of prefetches could not be kept");
            }
        }
    }

    fn look_for_more(&mut self) {
        for account in self.open.accounts() {
            self.accounts.entry(account).or_default().more = true;
        }
    }

    async fn load(&mut self, topology: &Topology) -> Result<(), StateError> {
        let share = LOADED_URLS_MAX / self.accounts.len().max(1);
        for (account, queue) in &mut self.accounts {
            let mut loaded: usize = queue.chunks.values().map(Work::urls).sum();
            while queue.more && (loaded < share || queue.chunks.is_empty()) {
                let chunks = self.state.open_prefetches(account, queue.loaded_to, CHUNKS_AT_ONCE).await?;
                queue.more = chunks.len() == CHUNKS_AT_ONCE as usize;
                for chunk in chunks {
                    queue.loaded_to = chunk.id;
                    loaded += chunk.paths.len();
                    self.account_of.insert(chunk.id, account.clone());
                    queue.chunks.insert(chunk.id, Work::new(chunk, topology));
                }
            }
        }
        let loaded = self.accounts.values().flat_map(|queue| queue.chunks.values()).map(Work::urls).sum::<usize>();
        self.counters.loaded_urls.store(loaded as u64, Ordering::Relaxed);
        Ok(())
    }

    fn work(&mut self, chunk: u64) -> Option<&mut Work> {
        let account = self.account_of.get(&chunk)?;
        self.accounts.get_mut(account)?.chunks.get_mut(&chunk)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Here { node, session, orders } => {
                self.end_leases(&node);
                self.sessions.insert(node, Session { id: session, orders, leased: HashSet::new() });
            }
            Event::Gone { node, session } => {
                if self.sessions.get(&node).is_some_and(|here| here.id == session) {
                    self.end_leases(&node);
                    self.sessions.remove(&node);
                }
            }
            Event::Reports { node, session, reports } => {
                for report in reports {
                    self.report(&node, session, report);
                }
            }
        }
    }

    fn end_leases(&mut self, node: &NodeName) {
        let Some(session) = self.sessions.get_mut(node) else { return };
        let leased = std::mem::take(&mut session.leased);
        self.counters.retried.fetch_add(leased.len() as u64, Ordering::Relaxed);
        for (chunk, job) in leased {
            if let Some(work) = self.work(chunk) {
                work.hand_back(job);
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
                if work.failed(report.index, cause, Instant::now()) {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                } else {
                    counters.retried.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// The topology has changed: targets may be others, and nodes that had objects may be gone.
    fn rebuild(&mut self, topology: &Topology) {
        let mut moved: HashSet<u64> = HashSet::new();
        for (id, work) in self.accounts.values_mut().flat_map(|queue| &mut queue.chunks) {
            if work.rebuild(topology) {
                moved.insert(*id);
            }
        }
        self.withdraw(&moved);
    }

    /// Jobs of these chunks are leased to nobody any more; those who had some are told.
    fn withdraw(&mut self, chunks: &HashSet<u64>) {
        if chunks.is_empty() {
            return;
        }
        for session in self.sessions.values_mut() {
            let mut theirs: Vec<u64> = session.leased.iter().map(|(chunk, _)| *chunk).filter(|id| chunks.contains(id)).collect();
            theirs.sort_unstable();
            theirs.dedup();
            session.leased.retain(|(chunk, _)| !chunks.contains(chunk));
            if !theirs.is_empty() {
                // A node that does not hear of it only does work that nobody needs.
                let _ = session.orders.try_send(Order::Withdraw(theirs));
            }
        }
    }

    /// Retries that are due go back in line; what is past the deadline has failed.
    fn expire(&mut self, topology: &Topology) {
        let now = Instant::now();
        let wall_ms = millis(self.clock.now());
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        let sessions = &self.sessions;
        let live = |group: &model::Parent| topology.owners(group, 0).iter().any(|member| sessions.contains_key(&member.name));
        let mut over = HashSet::new();
        for (id, work) in self.accounts.values_mut().flat_map(|queue| &mut queue.chunks) {
            work.retry_due(now);
            if !work.is_done() && wall_ms > work.created_ms().saturating_add(deadline_ms) {
                let failed = work.give_up(|group| if live(group) { Cause::Deadline } else { Cause::NoTarget });
                self.counters.failed.fetch_add(failed, Ordering::Relaxed);
                over.insert(*id);
            }
        }
        self.withdraw(&over);
    }

    /// Gives out jobs in turns, as long as somebody can take one.
    fn lease(&mut self, topology: &Topology) {
        let mut room: HashMap<NodeName, usize> = self
            .sessions
            .iter()
            .map(|(node, session)| (node.clone(), JOBS_PER_NODE_MAX.saturating_sub(session.leased.len())))
            .collect();
        let mut given: Vec<(NodeName, Job)> = Vec::new();
        // Every account in turn, beginning behind the one whose turn was last.
        let mut names: Vec<String> = self.accounts.keys().cloned().collect();
        names.sort_by_key(|name| *name <= self.last_turn);
        loop {
            let before = given.len();
            for name in &names {
                let Some(queue) = self.accounts.get_mut(name) else { continue };
                let mut turn = TURN;
                for work in queue.chunks.values_mut() {
                    turn -= work.lease(turn, topology, &mut room, &mut given);
                    if turn == 0 {
                        break;
                    }
                }
                if turn < TURN {
                    self.last_turn.clone_from(name);
                }
            }
            if given.len() == before {
                break;
            }
        }
        self.send(given);
        let leased: usize = self.sessions.values().map(|session| session.leased.len()).sum();
        self.counters.leased.store(leased as u64, Ordering::Relaxed);
    }

    fn send(&mut self, given: Vec<(NodeName, Job)>) {
        let mut orders: HashMap<NodeName, Vec<Job>> = HashMap::new();
        for (node, job) in given {
            orders.entry(node).or_default().push(job);
        }
        let mut returned = Vec::new();
        for (node, jobs) in orders {
            let Some(session) = self.sessions.get_mut(&node) else { continue };
            let names: Vec<(u64, u32)> = jobs.iter().map(|job| (job.chunk, job.index)).collect();
            match session.orders.try_send(Order::Jobs(jobs)) {
                Ok(()) => session.leased.extend(names),
                // The session is slow or about to end: the jobs go back in line.
                Err(_) => returned.extend(names),
            }
        }
        for (chunk, index) in returned {
            if let Some(work) = self.work(chunk) {
                work.hand_back(index);
            }
        }
    }

    /// Keeps what chunks have come to: those that ended at once, the others at every tick.
    async fn keep(&mut self, all: bool) -> Result<(), StateError> {
        let now_ms = millis(self.clock.now()).max(1);
        loop {
            let works = self.accounts.values().flat_map(|queue| queue.chunks.values());
            let changed: Vec<(u64, u64, &crate::state::chunks::Progress)> = works
                .filter(|work| work.is_done() || (all && work.is_changed()))
                .take(KEPT_AT_ONCE)
                .map(|work| (work.id(), if work.is_done() { now_ms } else { 0 }, work.progress()))
                .collect();
            if changed.is_empty() {
                return Ok(());
            }
            self.state.keep_progress(&changed).await?;
            let kept: Vec<(u64, bool)> = changed.iter().map(|(id, finished_ms, _)| (*id, *finished_ms > 0)).collect();
            for (id, ended) in kept {
                if !ended {
                    if let Some(work) = self.work(id) {
                        work.kept();
                    }
                    continue;
                }
                let Some(account) = self.account_of.remove(&id) else { continue };
                let Some(queue) = self.accounts.get_mut(&account) else { continue };
                if let Some(work) = queue.chunks.remove(&id) {
                    self.open.ended(&account, work.urls() as u64);
                }
            }
            self.accounts.retain(|_, queue| queue.more || !queue.chunks.is_empty());
        }
    }
}
