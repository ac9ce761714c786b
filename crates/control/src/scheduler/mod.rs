//! Prefetch: chunks become jobs, jobs are leased to the nodes that own their objects, reports come back.
//!
//! One task holds all work in progress. Everything it knows can be read again from the database, so nothing is lost
//! with the process. Within an account, jobs go out by priority, then oldest first; accounts take turns, and at each
//! node the account with the fewest jobs there goes first. Steering is read from the database too: at every tick and
//! after every commit here.
//!
//! # What always holds
//!
//! - A node holds at most [`JOBS_PER_NODE_MAX`] jobs. The loaded jobs are bounded by [`LOADED_JOBS_MAX`] (see
//!   [`Bounds`]); the rest wait in the database.
//! - A report counts only if it comes from the node that holds the lease, and is about that lease. When a lease is
//!   lost, the job goes to another node once its node has been gone for [`MISSED_MAX`]. The work may then be done
//!   twice; a node that already has the object finds it resident.
//! - A chunk that is paused, cancelled or not due yet is neither leased nor loaded. Nodes that hold jobs of it are told
//!   to drop them.
//! - The cost of an event does not grow with the number of loaded chunks. Only a tick, a change of the topology or of
//!   what a domain keeps, and a node that lost its store look at all of them.
//! - A chunk ends when every job has failed or is resident (at its current owner, if that is connected). If its domain
//!   was refreshed meanwhile, or a node may have lost what it reported, the node is asked once more before the chunk
//!   ends, [`work::looks::LOOKS_MAX`] times at most. The end is in the database before anybody is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::prefetch::JOBS_PER_NODE_MAX;
use model::{Clock, Job, Knowledge, NodeName, Report, Revision, UnderWay};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::known::Following;
use crate::state::submit::{Accepting, Open};
use crate::state::{State, StateError, millis};
use aims::Aims;
use jumps::Jumps;
use leasing::Leased;
use queue::Queue;
use work::{Said, Work};

pub(crate) use lines::{JobIs, JobState, LineState, first_failure, jobs_of, line_state};
pub(crate) use work::key_of;

mod aims;
mod deadlines;
mod elsewhere;
mod jumps;
mod leasing;
mod lines;
mod loading;
mod outside;
mod queue;
mod reports;
mod work;

/// Bounds of what is held in memory and given out.
#[derive(Clone, Copy)]
struct Bounds {
    /// Jobs of all loaded chunks, over all accounts. Each account may load one chunk whatever its size, and may exceed
    /// its share by a quarter for chunks that outrank the loaded ones or are past their deadline and only have to be
    /// failed.
    loaded: usize,
    /// The least number of jobs that a chunk counts for: a smaller one takes as much memory.
    chunk: usize,
    /// Jobs that a node holds.
    per_node: usize,
    /// Jobs that an account is given before the next account's turn.
    turn: usize,
}

const BOUNDS: Bounds = Bounds { loaded: LOADED_JOBS_MAX, chunk: 16, per_node: JOBS_PER_NODE_MAX, turn: 64 };

/// See [`Bounds`]. As many as two hundred nodes hold at a time; they take some tens of MiB.
pub(crate) const LOADED_JOBS_MAX: usize = 200_000;

/// Events waiting for the scheduler. When the queue is full, the reports of each session wait in a queue of its own.
const EVENTS_MAX: usize = 256;

/// Reports of one session that wait for the scheduler: a node has no more jobs than that, so a session waits only if its
/// node reports jobs that it was not given.
const REPORTS_MAX: usize = JOBS_PER_NODE_MAX;

/// Reports of one session that become one event.
const REPORTS_BATCH_MAX: usize = 256;

/// Messages on their way to one session.
const MESSAGES_MAX: usize = 64;

/// How often deadlines and retries are checked and changed progress is written.
const TICK: Duration = Duration::from_millis(250);

/// How long the jobs of a disconnected node wait for it. It will most likely be back soon with all that it has fetched,
/// while another node would fetch from the origin again (promise P3).
const MISSED_MAX: Duration = Duration::from_secs(10);

/// Chunks whose progress is written in one transaction.
const KEPT_BATCH_MAX: usize = 256;

/// What the scheduler tells the session of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Order {
    /// Do these.
    Jobs(Vec<Job>),
    /// Jobs of these chunks need not be started any more.
    Withdraw(Vec<u64>),
}

/// A session as the scheduler sees it; dropping it ends the session's leases, once all its reports were taken.
pub(crate) struct Leases {
    events: mpsc::Sender<Event>,
    reports: mpsc::Sender<Report>,
    node: NodeName,
    session: u64,
    /// What the node said last of the losses of its store; read when a chunk would end.
    lost: Arc<AtomicU64>,
}

impl Leases {
    /// Notes what the node says of the losses of its store: a number that changes when there may have been one.
    pub(crate) fn lost(&self, lost: u64) {
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// Reports jobs that ended, whatever their outcome. Does not wait for the scheduler, which waits for the database:
    /// heartbeats come in over the same stream.
    pub(crate) async fn report(&self, reports: Vec<Report>) {
        for report in reports {
            if self.reports.send(reports::trimmed(report)).await.is_err() {
                return;
            }
        }
    }

    /// Reports how far jobs are. Dropped when the queue is full: there will be news in a second.
    pub(crate) fn under_way(&self, jobs: Vec<UnderWay>) {
        let _ = self.events.try_send(Event::UnderWay { node: self.node.clone(), session: self.session, jobs });
    }
}

/// Announces a session to the scheduler, then its reports, and at last its end: the scheduler must hear of each, however
/// long its queue is full. Ends with the scheduler, too.
async fn announce(here: Event, mut reports: mpsc::Receiver<Report>, events: mpsc::Sender<Event>) {
    let Event::Here { node, session, .. } = &here else { return };
    let (node, session) = (node.clone(), *session);
    let mut next = here;
    while events.send(next).await.is_ok() {
        let mut some = Vec::new();
        if reports.recv_many(&mut some, REPORTS_BATCH_MAX).await == 0 {
            let _ = events.send(Event::Gone { node, session }).await;
            return;
        }
        next = Event::Reports { node: node.clone(), session, reports: some };
    }
}

/// The handle of the scheduler. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Scheduler {
    events: mpsc::Sender<Event>,
    counters: Arc<Counters>,
}

/// What the scheduler has done, and what it holds.
#[derive(Default)]
pub(crate) struct Counters {
    /// Jobs that ended resident; those that only looked again do not count.
    pub(crate) resident: AtomicU64,
    /// Jobs that failed for good.
    pub(crate) failed: AtomicU64,
    /// Jobs given out again: after a transient failure, a lost or withdrawn lease, or the loss of an object.
    pub(crate) retried: AtomicU64,
    /// Jobs of chunks that are loaded now.
    pub(crate) loaded: AtomicU64,
    /// Jobs leased now.
    pub(crate) leased: AtomicU64,
    /// Nodes with a session.
    connected: Mutex<BTreeSet<NodeName>>,
}

impl Counters {
    /// Nodes that can be given jobs.
    pub(crate) fn connected(&self) -> BTreeSet<NodeName> {
        self.here().clone()
    }

    fn here(&self) -> MutexGuard<'_, BTreeSet<NodeName>> {
        self.connected.lock().expect("no holder of this lock can panic")
    }
}

/// What a turn has to check.
#[derive(Clone, Copy, Default)]
struct Look {
    /// Deadlines, retries and everything else that depends on time.
    tick: bool,
    /// Chunks that may have been accepted or steered.
    committed: bool,
}

/// What a turn passes on to the next one.
#[derive(Clone, Copy, Default)]
struct Next {
    /// The database failed.
    troubled: bool,
    /// There is more to be loaded now.
    more: bool,
}

enum Event {
    Here { node: NodeName, session: u64, empty: bool, lost: Arc<AtomicU64>, orders: mpsc::Sender<Order> },
    Gone { node: NodeName, session: u64 },
    Emptied { node: NodeName, heard: oneshot::Sender<()> },
    Reports { node: NodeName, session: u64, reports: Vec<Report> },
    UnderWay { node: NodeName, session: u64, jobs: Vec<UnderWay> },
}

impl Scheduler {
    /// Starts scheduling, until `stopping` is cancelled. Open chunks are read from the database.
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
        let task = Task::new(state, open, following, clock, deadline);
        let counters = task.counters.clone();
        let committed = accepting.committed();
        tokio::spawn(async move { stopping.run_until_cancelled(task.run(incoming, committed)).await });
        Scheduler { events, counters }
    }

    /// Announces a node that is connected and can be given jobs; `empty` says that its store is new, and `lost` is what
    /// it says of losses of its store. A later session of the same node has a higher number and replaces the earlier one.
    pub(crate) fn connected(
        &self,
        node: &NodeName,
        session: u64,
        empty: bool,
        lost: u64,
    ) -> (Leases, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MESSAGES_MAX);
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let lost = Arc::new(AtomicU64::new(lost));
        let here = Event::Here { node: node.clone(), session, empty, lost: lost.clone(), orders };
        tokio::spawn(announce(here, reported, self.events.clone()));
        (Leases { events: self.events.clone(), reports, node: node.clone(), session, lost }, receiver)
    }

    /// Announces that a node about to be admitted has lost all that it held; its session ends. After this returns, no
    /// progress that is written says that the node has an object, so the database's record of it may be deleted.
    pub(crate) async fn emptied(&self, node: &NodeName) {
        let (heard, was_heard) = oneshot::channel();
        let _ = self.events.send(Event::Emptied { node: node.clone(), heard }).await;
        let _ = was_heard.await;
    }

    /// The counters, to be kept by the caller.
    pub(crate) fn jobs(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// What the scheduler has done, and what it holds.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

struct Session {
    id: u64,
    /// See [`Leases`].
    lost: Arc<AtomicU64>,
    orders: mpsc::Sender<Order>,
    leased: Leased,
    /// Chunks that the node must drop but could not be told of yet. It is given no jobs until it has been told.
    untold: BTreeSet<u64>,
}

impl Session {
    /// What the node has said of its store by now.
    fn said(&self) -> Said {
        Said { session: self.id, lost: self.lost.load(Ordering::Relaxed) }
    }
}

struct Task {
    state: State,
    open: Open,
    following: Following,
    clock: Arc<dyn Clock>,
    jumps: Jumps,
    deadline: Duration,
    bounds: Bounds,
    counters: Arc<Counters>,
    /// Whether the owners of jobs may differ from those whose lines they wait in.
    unlined: bool,
    /// What [`Task::aims`] was made from, and the head of the log at which that was known.
    known: Arc<Knowledge>,
    head: Revision,
    aims: Aims,
    /// One for each connected member.
    sessions: BTreeMap<NodeName, Session>,
    /// How many more jobs each session can take; zero for missed nodes, whose jobs wait for them.
    room: HashMap<NodeName, usize>,
    /// Nodes that disconnected less than [`MISSED_MAX`] ago, and when.
    missed: HashMap<NodeName, Instant>,
    /// Nodes that hold nothing and are not connected yet. Until they are, the database may still say that they hold
    /// objects.
    emptied: BTreeSet<NodeName>,
    /// Nodes have connected, so there may be open chunks that were not accepted here; and when these were last counted.
    unsure: bool,
    counted: Option<Instant>,
    /// When loaded chunks were last compared with those that other control planes have ended.
    compared: Option<Instant>,
    accounts: BTreeMap<String, Queue>,
    account_of: HashMap<u64, String>,
    /// Chunks that have ended, but whose end is not in the database yet.
    done: BTreeSet<u64>,
    /// Chunks whose progress is ahead of the database.
    changed: BTreeSet<u64>,
    /// Chunks to be unloaded once their progress is in the database. No jobs of them are given out.
    leaving: BTreeSet<u64>,
    /// The last steering that was read; `None` until the starting point is known.
    heard: Option<(u64, u64)>,
    /// The account at which loading last stopped.
    loaded_to: String,
    /// The account that had the last turn, and what was left of that turn when no node had room any more.
    last_turn: (String, usize),
}

impl Task {
    fn new(state: State, open: Open, following: Following, clock: Arc<dyn Clock>, deadline: Duration) -> Task {
        let now = following.now();
        let known = now.knowledge.clone();
        // Nodes that were connected before this process started will most likely connect again.
        let missed: HashMap<NodeName, Instant> =
            known.topology.members.keys().map(|name| (name.clone(), Instant::now())).collect();
        Task {
            state,
            open,
            aims: Aims::new(known.topology.clone()),
            known,
            head: now.head,
            following,
            jumps: Jumps::new(&*clock),
            clock,
            deadline,
            bounds: BOUNDS,
            counters: Arc::default(),
            sessions: BTreeMap::new(),
            room: missed.keys().map(|name| (name.clone(), 0)).collect(),
            unlined: false,
            missed,
            emptied: BTreeSet::new(),
            unsure: false,
            counted: None,
            compared: None,
            done: BTreeSet::new(),
            changed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            heard: None,
            loaded_to: String::new(),
            accounts: BTreeMap::new(),
            account_of: HashMap::new(),
            last_turn: (String::new(), 0),
        }
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>, mut committed: watch::Receiver<u64>) {
        let mut changes = self.following.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.look_for_more();
        let mut next = Next::default();
        loop {
            let mut look = Look::default();
            // Whichever event it is, the whole turn's work is done below.
            tokio::select! {
                biased;
                _ = tick.tick() => look = Look { tick: true, committed: true },
                event = events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                changed = committed.changed() => match changed {
                    Ok(()) => look.committed = true,
                    Err(_) => return,
                },
                changed = changes.changed() => if changed.is_err() { return },
                () = std::future::ready(()), if next.more => {}
            }
            // Events that have arrived meanwhile are handled in the same turn.
            for _ in 0..EVENTS_MAX {
                let Ok(event) = events.try_recv() else { break };
                self.take(event);
            }
            next = self.turn(look, next).await;
        }
    }

    /// One turn: takes over new knowledge, loads chunks, gives out jobs and writes progress.
    async fn turn(&mut self, look: Look, before: Next) -> Next {
        self.look_at_clock();
        self.follow();
        if look.committed {
            self.look_for_more();
        }
        let mut next = Next { more: false, ..before };
        // A failing database is asked again at ticks, not at every event.
        if !before.troubled || look.tick {
            let read = self.read(look).await;
            next.troubled = read.is_err();
            next.more = read.unwrap_or_else(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "open prefetches could not be read");
                false
            });
        }
        if look.tick {
            self.expire();
        }
        self.tell_untold();
        self.line_up();
        self.lease();
        if (!next.troubled || look.tick)
            && let Err(error) = self.keep(look.tick).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "progress of prefetches could not be kept");
            next.troubled = true;
        }
        next
    }

    /// Reads new steering if there may be any, and as many chunks as there is room for; returns whether there may be
    /// more.
    async fn read(&mut self, look: Look) -> Result<bool, StateError> {
        if look.committed || self.heard.is_none() {
            self.hear().await?;
        }
        if look.tick {
            self.look_elsewhere().await?;
        }
        self.load().await
    }

    fn work(&mut self, chunk: u64) -> Option<&mut Work> {
        let account = self.account_of.get(&chunk)?;
        self.accounts.get_mut(account)?.chunks.get_mut(&chunk)
    }

    /// Records what has to be done about a chunk after an event.
    fn note(&mut self, chunk: u64) {
        let Some(queue) = self.account_of.get(&chunk).and_then(|account| self.accounts.get_mut(account)) else {
            return;
        };
        let Some(work) = queue.chunks.get_mut(&chunk) else { return };
        if work.is_done() {
            self.done.insert(chunk);
        }
        if work.is_changed() {
            self.changed.insert(chunk);
        }
        if work.has_returned() && !self.leaving.contains(&chunk) {
            queue.line_up(chunk);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Here { node, session, empty, lost, orders } => {
                // Two sessions of a node that start at once may be announced in either order.
                if self.sessions.get(&node).is_some_and(|here| here.id > session) {
                    return;
                }
                self.end_leases(&node);
                self.counters.here().insert(node.clone());
                let (leased, untold) = (Leased::default(), BTreeSet::new());
                let session = Session { id: session, lost, orders, leased, untold };
                self.sessions.insert(node.clone(), session);
                self.unsure = true;
                self.missed.remove(&node);
                self.emptied.remove(&node);
                self.measure(&node);
                if empty {
                    self.reaim(|work, aims| work.lost(&node, aims));
                }
            }
            Event::Gone { node, session } => {
                if self.sessions.get(&node).is_some_and(|here| here.id == session) {
                    self.end_leases(&node);
                    self.sessions.remove(&node);
                    self.counters.here().remove(&node);
                    self.room.insert(node.clone(), 0);
                    self.missed.insert(node, Instant::now());
                }
            }
            Event::Emptied { node, heard } => {
                if let Some(session) = self.sessions.get(&node).map(|here| here.id) {
                    self.take(Event::Gone { node: node.clone(), session });
                }
                self.reaim(|work, aims| work.lost(&node, aims));
                self.emptied.insert(node);
                let _ = heard.send(());
            }
            Event::Reports { node, session, reports } => {
                for report in reports {
                    self.report(&node, session, report);
                }
                self.measure(&node);
            }
            Event::UnderWay { node, session, jobs } => {
                let Some(here) = self.sessions.get(&node).filter(|here| here.id == session) else { return };
                let jobs: Vec<UnderWay> =
                    jobs.into_iter().filter(|job| here.leased.contains((job.chunk, job.index))).collect();
                for job in jobs {
                    if let Some(work) = self.work(job.chunk) {
                        work.under_way(job.index, job.bytes, job.length);
                        self.note(job.chunk);
                    }
                }
            }
        }
    }

    /// Updates how many jobs a connected node can take.
    fn measure(&mut self, node: &NodeName) {
        if let Some(session) = self.sessions.get(node) {
            let free = self.bounds.per_node.saturating_sub(session.leased.len());
            match self.room.get_mut(node) {
                Some(room) => *room = free,
                None => {
                    self.room.insert(node.clone(), free);
                    self.unlined = true;
                }
            }
        }
    }

    fn end_leases(&mut self, node: &NodeName) {
        let Some(session) = self.sessions.get_mut(node) else { return };
        let leased = session.leased.take();
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

    /// Retargets chunks with `aim`, which returns how many objects were lost, or `None` if nothing changed. Ends their
    /// leases.
    fn reaim(&mut self, aim: impl Fn(&mut Work, &mut Aims) -> Option<usize>) {
        let (mut moved, mut lost): (HashSet<u64>, usize) = Default::default();
        for queue in self.accounts.values_mut() {
            for (id, work) in &mut queue.chunks {
                if let Some(objects) = aim(work, &mut self.aims) {
                    lost += objects;
                    moved.insert(*id);
                }
            }
            queue.weigh();
        }
        self.unlined |= !moved.is_empty();
        let again = self.withdraw(moved) + lost;
        self.counters.retried.fetch_add(again as u64, Ordering::Relaxed);
    }

    /// Ends all leases of jobs of these chunks and tells their holders; returns how many jobs those were.
    fn withdraw(&mut self, chunks: HashSet<u64>) -> usize {
        let mut ended = 0;
        if chunks.is_empty() {
            return ended;
        }
        for (node, session) in &mut self.sessions {
            for job in session.leased.of_chunks(&chunks) {
                session.untold.insert(job.0);
                session.leased.remove(job);
                ended += 1;
            }
            self.room.insert(node.clone(), self.bounds.per_node.saturating_sub(session.leased.len()));
        }
        self.tell_untold();
        for chunk in chunks {
            self.note(chunk);
        }
        ended
    }

    /// Tells nodes which chunks to drop. A node that cannot be told now is told in the next turn, before anything else.
    fn tell_untold(&mut self) {
        for session in self.sessions.values_mut().filter(|session| !session.untold.is_empty()) {
            let theirs = session.untold.iter().copied().collect();
            if session.orders.try_send(Order::Withdraw(theirs)).is_ok() {
                session.untold.clear();
            }
        }
    }

    /// Writes the progress of chunks: of those that ended or are to be unloaded at once, of the others at every tick.
    async fn keep(&mut self, all: bool) -> Result<(), StateError> {
        let now_ms = millis(self.clock.now()).max(1);
        loop {
            let going = all.then_some(&self.changed).into_iter().flatten().filter(|id| !self.leaving.contains(id));
            let going = going.chain(&self.leaving).filter(|id| !self.done.contains(id));
            let ids: Vec<u64> = self.done.iter().chain(going).take(KEPT_BATCH_MAX).copied().collect();
            if ids.is_empty() {
                return Ok(());
            }
            for id in &ids {
                if let Some(work) = self.work(*id).filter(|work| work.is_changed()) {
                    work.show();
                }
            }
            let mut changed: Vec<(u64, u64, &crate::state::chunks::Progress)> = Vec::new();
            for id in &ids {
                let work = self.account_of.get(id).and_then(|account| self.accounts.get(account)?.chunks.get(id));
                if let Some(work) = work.filter(|work| work.is_changed() || work.is_done()) {
                    changed.push((*id, if work.is_done() { now_ms } else { 0 }, work.progress()));
                }
            }
            if !changed.is_empty() {
                self.state.keep_progress(&changed).await?;
            }
            for id in ids {
                self.changed.remove(&id);
                let (is_done, leaves) = (self.done.remove(&id), self.leaving.remove(&id));
                if !is_done && !leaves {
                    if let Some(work) = self.work(id) {
                        work.kept();
                    }
                    continue;
                }
                let Some(account) = self.account_of.remove(&id) else { continue };
                let Some(queue) = self.accounts.get_mut(&account) else { continue };
                let Some(work) = queue.unload(id) else { continue };
                if is_done {
                    self.open.ended(&account, work.urls() as u64);
                } else {
                    queue.stand(work.standing(), now_ms);
                }
            }
            self.accounts.retain(|_, queue| !queue.is_over());
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod turns;
