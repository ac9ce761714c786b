//! Runs the scheduler through random task sets, turn by turn: time stands still until the simulation advances it, the
//! database is in memory, nodes are queues. A failure names its seed.
//!
//! # What is checked
//!
//! - Order: nothing is given out while a higher-ranked job of the same account could have been.
//! - Fairness: while an account waits for a node, no other account is given more than one job there, or twice what the
//!   waiting one has there.
//! - Bounds: no node holds more than it may, and paused, cancelled or not yet due tasks are not given out.
//! - Steering: no fetch begins a second after its task was cancelled or paused.
//! - Nothing is lost: every task ends with the outcome of its objects, however often nodes and schedulers are lost.
//! - All repeated work is counted as a retry.
//! - Complete means warm: when a task ends, every node has what it reported, although nodes evict objects, lose their
//!   disks and forget what is refreshed. Only what is lost after the task was last looked at is not noticed.
//! - Nothing fails for its deadline before it could have run for that long, and nothing that could have stays open long
//!   after it.

use std::collections::VecDeque;

use model::ManualClock;
use model::{Cause, Entry, Outcome, Pop};

use super::queue::Place;
use super::work::looks::LOOKS_MAX;
use super::*;
use crate::state::chunks::Filter;
use crate::state::steering::{PRIORITIES, Steer};
use crate::testing::{clock, node, prefetch, topology};

/// Task sets; each has a seed of its own.
const SETS: u64 = 10_000;

const DEADLINE: Duration = Duration::from_secs(14);

/// Small enough that every bound is reached all the time.
const SMALL: Bounds = Bounds { loaded: 24, chunk: 1, per_node: 5, turn: 2 };

/// The longest times between a steering by another control plane and the turn that reads it, and between that turn and
/// the moment at which a node learns of it.
const HEARD_MS: u64 = 250;
const DELIVERED_MS: u64 = 200;

/// After this long, no fetch of a cancelled or paused task begins.
const STEERED_MS: u64 = 1_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The origin's response for an object, whichever node asks.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Good,
    Gone,
    /// Fails transiently this many times.
    Late(u64),
}

fn fate(url: &str) -> Fate {
    let hash = url
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    match hash >> 60 {
        0 => Fate::Gone,
        1 | 2 => Fate::Late(1 + (hash >> 8) % 2),
        _ => Fate::Good,
    }
}

/// A chunk as its steerer sees it.
struct Meant {
    account: String,
    task: u64,
    urls: Vec<String>,
    priority: u8,
    from_ms: u64,
    paused: bool,
    cancelled: bool,
    /// Since when it may or may not run; some nodes may not have heard of that yet.
    steered_ms: u64,
    /// How long it could have run.
    could_run_ms: u64,
    ended: bool,
}

impl Meant {
    fn may_run(&self, now_ms: u64) -> bool {
        !self.paused && !self.cancelled && self.from_ms <= now_ms
    }
}

/// A node: messages on their way to it, the objects it holds, and its fetches with their ends.
struct Member {
    session: u64,
    orders: Option<mpsc::Receiver<Order>>,
    coming: VecDeque<(u64, Order)>,
    queue: VecDeque<Job>,
    fetching: Vec<(u64, Job)>,
}

struct World {
    seed: u64,
    random: Random,
    clock: Arc<ManualClock>,
    state: State,
    following: Following,
    accepting: Accepting,
    open: Open,
    task: Task,
    next: Next,
    names: Vec<&'static str>,
    nodes: BTreeMap<&'static str, Member>,
    sessions: u64,
    chunks: BTreeMap<u64, Meant>,
    submitted: u64,
    last_tick_ms: u64,
    /// How often each job was given out in the lifetime of this scheduler, and how many were given out again.
    given: HashMap<(u64, u32), u64>,
    again: u64,
    /// Accounts with a chunk outside that outranks all loaded ones although there is room, and since when.
    outside: BTreeMap<String, u64>,
    /// The objects that each node has, and the number that says when it has lost some.
    held: BTreeMap<&'static str, BTreeSet<String>>,
    lost: BTreeMap<&'static str, Arc<AtomicU64>>,
    /// When objects were lost.
    gone_ms: HashMap<(&'static str, String), u64>,
    /// How often each chunk was looked at by now, and since when.
    looks: HashMap<u64, (u8, u64)>,
    tried: HashMap<(u64, u32), u64>,
}

fn scheduler(state: &State, open: &Open, following: &Following, clock: &Arc<ManualClock>) -> Task {
    let mut task = Task::new(state.clone(), open.clone(), following.clone(), clock.clone(), DEADLINE);
    task.bounds = SMALL;
    task.look_for_more();
    task
}

impl World {
    async fn new(seed: u64, stopping: &CancellationToken) -> World {
        let mut random = Random(seed);
        let all: [&[&str]; 4] = [&["p-1"], &["p-1", "p-2"], &["p-1", "p-2", "p-3"], &["p-1", "p-2", "q-1"]];
        let names = all[random.below(4) as usize];
        let (state, clock) = (State::in_memory(), clock());
        let model::Topology { pops, members, .. } = topology(names);
        let pops = pops.into_values().map(|pop: Pop| Entry::Pop(pop));
        state.append(&pops.chain(members.into_values().map(Entry::Member)).collect::<Vec<_>>()).await.unwrap();
        let following = Following::start(state.clone(), clock.clone(), stopping.clone()).await.unwrap();
        let (accepting, open) = Accepting::start(state.clone()).await.unwrap();
        let task = scheduler(&state, &open, &following, &clock);
        let mut world = World {
            seed,
            random,
            clock,
            state,
            following,
            accepting,
            open,
            task,
            next: Next::default(),
            names: names.to_vec(),
            nodes: BTreeMap::new(),
            sessions: 0,
            chunks: BTreeMap::new(),
            submitted: 0,
            last_tick_ms: 0,
            given: HashMap::new(),
            again: 0,
            outside: BTreeMap::new(),
            held: BTreeMap::new(),
            lost: BTreeMap::new(),
            gone_ms: HashMap::new(),
            looks: HashMap::new(),
            tried: HashMap::new(),
        };
        for name in names {
            world.connect(name, false);
        }
        world
    }

    fn now_ms(&self) -> u64 {
        millis(self.clock.now())
    }

    fn connect(&mut self, name: &'static str, empty: bool) {
        self.sessions += 1;
        let (orders, receiver) = mpsc::channel(MESSAGES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        self.lost.insert(name, lost.clone());
        self.task.take(Event::Here { node: node(name), session: self.sessions, empty, lost, orders });
        let (coming, queue, fetching) = (VecDeque::new(), VecDeque::new(), Vec::new());
        self.nodes.insert(name, Member { session: self.sessions, orders: Some(receiver), coming, queue, fetching });
    }

    /// A node loses objects: all, or about one in `some`.
    fn lose(&mut self, name: &'static str, some: u64) {
        let now_ms = self.now_ms();
        for url in self.held.get(name).cloned().unwrap_or_default() {
            if self.random.one_in(some) {
                self.held.entry(name).or_default().remove(&url);
                self.gone_ms.insert((name, url), now_ms);
            }
        }
    }

    /// Everything is refreshed: no node may send what it has.
    async fn refresh(&mut self) {
        for name in self.names.clone() {
            self.lose(name, 1);
        }
        let scope = model::Scope::Domain(model::DomainName::parse("a.com").unwrap());
        let refreshed = vec![model::Invalidation { scope, mode: model::Mode::Expire }];
        let head = self.state.append(&[Entry::Invalidate(refreshed)]).await.unwrap();
        self.following.reach(head).await.unwrap();
    }

    fn disconnect(&mut self, name: &'static str) {
        if let Some(gone) = self.nodes.remove(name) {
            self.task.take(Event::Gone { node: node(name), session: gone.session });
        }
    }

    /// Kills the scheduler's process and starts it again.
    async fn restart(&mut self) {
        self.open = {
            let (accepting, open) = Accepting::start(self.state.clone()).await.unwrap();
            self.accepting = accepting;
            open
        };
        self.task = scheduler(&self.state, &self.open, &self.following, &self.clock);
        self.next = Next::default();
        self.given.clear();
        self.again = 0;
        let connected: Vec<&'static str> = self.nodes.keys().copied().collect();
        for name in connected {
            self.connect(name, false);
        }
    }

    async fn submit(&mut self) {
        self.submitted += 1;
        let account = ["a", "b", "c"][self.random.below(3) as usize];
        let urls = 1 + self.random.below(5) as usize;
        let now_ms = self.now_ms();
        let mut submission = prefetch(account, &self.submitted.to_string(), urls, now_ms);
        let steering = &mut submission.groups[0].steering;
        if self.random.one_in(2) {
            steering.priority = 4 + self.random.below(3) as u8;
        }
        if self.random.one_in(5) {
            steering.from_ms = now_ms + self.random.below(6_000);
        }
        let (priority, from_ms) = (steering.priority, steering.from_ms);
        let urls = submission.groups[0].paths.clone();
        let task = self.accepting.submit(submission).await.unwrap().tasks[0];
        let filter = Filter { tasks: vec![task], to_ms: u64::MAX >> 1, ..Filter::default() };
        let outlines = self.state.outlines(account, &filter, None, 100).await.unwrap();
        let chunk = outlines.iter().map(|outline| outline.id).max().unwrap();
        let account = account.to_owned();
        let (paused, cancelled, ended, steered_ms, could_run_ms) = (false, false, false, now_ms, 0);
        let meant =
            Meant { account, task, urls, priority, from_ms, paused, cancelled, steered_ms, could_run_ms, ended };
        self.chunks.insert(chunk, meant);
    }

    async fn steer(&mut self, steer: Steer) {
        let at = self.random.below(self.chunks.len() as u64) as usize;
        let Some((account, task)) = self.chunks.values().nth(at).map(|meant| (meant.account.clone(), meant.task))
        else {
            return;
        };
        let now_ms = self.now_ms();
        if self.state.steer(&account, &[task], steer, now_ms).await.unwrap().is_err() {
            return; // it has ended
        }
        for meant in self.chunks.values_mut().filter(|meant| meant.task == task && !meant.ended) {
            let before = meant.may_run(now_ms);
            match steer {
                Steer::Pause => meant.paused = true,
                Steer::Resume => meant.paused = false,
                Steer::Cancel => meant.cancelled = true,
                Steer::Priority(priority) => meant.priority = priority,
            }
            if before != meant.may_run(now_ms) {
                meant.steered_ms = now_ms;
            }
        }
    }

    /// Performs a random action, or none; returns whether this process knows of it at once.
    async fn act(&mut self) -> bool {
        match self.random.below(20) {
            0..4 if self.submitted < 8 => self.submit().await,
            4 | 5 => self.steer(Steer::Pause).await,
            6..9 => self.steer(Steer::Resume).await,
            9 if self.random.one_in(2) => self.steer(Steer::Cancel).await,
            10 => {
                let priority = *PRIORITIES.start() + self.random.below(9) as u8;
                self.steer(Steer::Priority(priority)).await;
            }
            11 => {
                let name = self.names[self.random.below(self.names.len() as u64) as usize];
                match self.nodes.contains_key(name) {
                    true => self.disconnect(name),
                    false => {
                        let empty = self.random.one_in(4);
                        if empty || self.random.one_in(4) {
                            // It does not always know that it has lost its disk.
                            self.lose(name, 1);
                        }
                        self.connect(name, empty);
                    }
                }
            }
            12 if self.random.one_in(4) => self.restart().await,
            13 => {
                let name = self.names[self.random.below(self.names.len() as u64) as usize];
                self.lose(name, 3);
                self.lost[name].fetch_add(1, Ordering::Relaxed);
            }
            14 if self.random.one_in(4) => self.refresh().await,
            _ => return false,
        }
        self.random.one_in(2)
    }

    async fn pass(&mut self, time: Duration) {
        let before_ms = self.now_ms();
        tokio::time::advance(time).await;
        self.clock.advance(time);
        let now_ms = self.now_ms();
        for meant in self.chunks.values_mut().filter(|meant| !meant.ended && !meant.paused && !meant.cancelled) {
            meant.could_run_ms += now_ms.saturating_sub(before_ms.max(meant.from_ms));
        }
    }

    /// Nodes take their messages, and begin and end fetches.
    fn work(&mut self) {
        let now_ms = self.now_ms();
        let mut reports = Vec::new();
        for (name, member) in &mut self.nodes {
            while let Some((_, order)) = member.coming.pop_front_if(|(at, _)| *at <= now_ms) {
                match order {
                    Order::Jobs(jobs) => {
                        let (looks, jobs): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.look);
                        member.queue.extend(jobs);
                        for job in looks {
                            let has = self.held.get(name).is_some_and(|held| held.contains(&job.url));
                            let outcome = match has {
                                true => Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: false },
                                false => Outcome::Failed(Cause::Evicted),
                            };
                            reports.push((*name, member.session, job.report(1, outcome)));
                        }
                    }
                    Order::Withdraw(chunks) => member.queue.retain(|job| !chunks.contains(&job.chunk)),
                }
            }
            let (done, going) = member.fetching.drain(..).partition(|(until, _)| *until <= now_ms);
            member.fetching = going;
            let done: Vec<(u64, Job)> = done;
            for (_, job) in done {
                let tried = self.tried.entry((job.chunk, job.index)).or_default();
                *tried += 1;
                let outcome = match fate(&job.url) {
                    Fate::Gone => Outcome::Failed(Cause::OriginStatus(404)),
                    Fate::Late(times) if *tried <= times => Outcome::Failed(Cause::OriginTimeout),
                    _ => {
                        self.held.entry(*name).or_default().insert(job.url.clone());
                        Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: true }
                    }
                };
                reports.push((*name, member.session, job.report(1, outcome)));
            }
            while member.fetching.len() < 3
                && let Some(job) = member.queue.pop_front()
            {
                let meant = &self.chunks[&job.chunk];
                assert!(
                    meant.may_run(now_ms) || now_ms <= meant.steered_ms + STEERED_MS,
                    "seed {}: a fetch of chunk {} begins {} ms after it was cancelled or paused",
                    self.seed,
                    job.chunk,
                    now_ms - meant.steered_ms
                );
                let most = if self.random.one_in(8) { 3_000 } else { 400 };
                let takes = 50 + self.random.below(most);
                member.fetching.push((now_ms + takes, job));
            }
        }
        for (name, session, report) in reports {
            self.task.take(Event::Reports { node: node(name), session, reports: vec![report] });
        }
    }

    async fn turn(&mut self, knows: bool) {
        let tick = self.now_ms() >= self.last_tick_ms + HEARD_MS;
        if tick {
            self.last_tick_ms = self.now_ms();
        }
        self.next = self.task.turn(Look { tick, committed: tick || knows }, self.next).await;
        self.check_turn();
        if tick {
            self.check_ends().await;
        }
    }

    /// Checks what was given out in the turn that has just ended.
    fn check_turn(&mut self) {
        let (seed, now_ms) = (self.seed, self.now_ms());
        let mut given: BTreeMap<String, Option<Place>> = BTreeMap::new();
        let mut took: BTreeSet<(String, &str)> = BTreeSet::new();
        for (name, member) in &mut self.nodes {
            let Some(orders) = &mut member.orders else { continue };
            while let Ok(order) = orders.try_recv() {
                if let Order::Jobs(jobs) = &order {
                    for job in jobs {
                        let meant = &self.chunks[&job.chunk];
                        let unheard = now_ms <= meant.steered_ms + HEARD_MS;
                        assert!(meant.may_run(now_ms) || unheard, "seed {seed}: {} is given to {name}", job.chunk);
                        if !job.look {
                            let times = self.given.entry((job.chunk, job.index)).or_default();
                            self.again += u64::from(*times > 0);
                            *times += 1;
                        }
                        let steering = self.task.work(job.chunk).map(|work| work.steering());
                        let place = steering.map(|steering| Place::of(job.chunk, steering));
                        let last = given.entry(meant.account.clone()).or_default();
                        *last = (*last).max(place);
                        took.insert((meant.account.clone(), *name));
                    }
                }
                member.coming.push_back((now_ms + self.random.below(DELIVERED_MS), order));
            }
            let held = self.task.sessions[&node(name)].leased.len();
            assert!(held <= SMALL.per_node, "seed {seed}: {name} holds {held}");
        }
        let retried = self.task.counters.retried.load(Ordering::Relaxed);
        assert!(self.again <= retried, "seed {seed}: {} given out again, {retried} counted", self.again);

        for (id, work) in self.task.accounts.values().flat_map(|queue| &queue.chunks) {
            let last = self.looks.entry(*id).or_default();
            if last.0 != work.looks() {
                *last = (work.looks(), now_ms);
            }
        }

        let (room, aims) = (&self.task.room, &self.task.aims);
        let could_be_given = |account: &str, work: &Work| {
            work.unleased().any(|(target, key)| {
                let owners = aims.owners(target, key);
                let owner = owners.iter().find_map(|member| room.get_key_value(&member.name));
                owner.is_some_and(|(name, free)| {
                    let has = self.task.sessions.get(name).map_or(0, |session| session.leased.of(account));
                    leasing::may_still_have(has, *free) > 0
                })
            })
        };
        for (account, queue) in &self.task.accounts {
            for (id, work) in queue.chunks.iter().filter(|(id, _)| !self.task.leaving.contains(id)) {
                let place = Place::of(*id, work.steering());
                let last = given.get(account).copied().unwrap_or_default();
                let before = last.is_some_and(|last| place < last);
                assert!(!before || !could_be_given(account, work), "seed {seed}: {id} goes before what was given out");
            }
            let share = SMALL.loaded / self.task.accounts.len().max(1);
            if queue.is_outranked() && queue.loaded < share {
                let since = *self.outside.entry(account.clone()).or_insert(now_ms);
                assert!(now_ms <= since + 2 * HEARD_MS, "seed {seed}: {account} has something outside that goes first");
            } else {
                self.outside.remove(account);
            }
        }
        for (account, name) in took {
            let of = |account: &str| self.task.sessions[&node(name)].leased.of(account);
            assert!(of(&account) < SMALL.per_node, "seed {seed}: {account} has every place at {name}");
            for (other, queue) in self.task.accounts.iter().filter(|(other, _)| **other != account) {
                let mut works = queue.chunks.iter().filter(|(id, _)| !self.task.leaving.contains(id));
                let waits = works.any(|(_, work)| {
                    work.unleased().any(|(target, key)| {
                        let owners = aims.owners(target, key);
                        owners
                            .iter()
                            .find(|member| room.contains_key(&member.name))
                            .is_some_and(|m| m.name.as_str() == name)
                    })
                });
                let (has, others) = (of(&account), of(other));
                let fair = !waits || has <= (2 * others).max(1);
                assert!(fair, "seed {seed}: {account} has {has} at {name}, where {other} waits with {others}");
            }
        }
    }

    /// Checks the outcome of ended chunks in the database, and that no chunk is open that should have ended.
    async fn check_ends(&mut self) {
        let ids: Vec<u64> = self.chunks.iter().filter(|(_, meant)| !meant.ended).map(|(id, _)| *id).collect();
        let deadline_ms = DEADLINE.as_millis() as u64;
        // A missing node may be connected to another control plane.
        let left = if self.nodes.len() < self.names.len() { deadlines::LEFT_TO_OTHERS_MS } else { 0 };
        for chunk in self.state.chunks(&ids).await.unwrap() {
            let (seed, id) = (self.seed, chunk.id);
            let meant = self.chunks.get_mut(&id).expect("asked for by its id");
            if chunk.finished_ms == 0 {
                assert!(!meant.cancelled, "seed {seed}: {id} was cancelled and is open");
                let over = meant.could_run_ms > deadline_ms + left + 4 * HEARD_MS;
                assert!(!over, "seed {seed}: {id} is open, and could have run for {} ms", meant.could_run_ms);
                continue;
            }
            meant.ended = true;
            let (looks, looked_ms) = self.looks.get(&id).copied().unwrap_or_default();
            let was_given_up = meant.cancelled || meant.could_run_ms + HEARD_MS >= deadline_ms;
            for (index, holder) in chunk.progress.resident.iter().enumerate() {
                let Some(at) = (*holder as usize).checked_sub(1) else { continue };
                let name = self.names.iter().find(|name| **name == chunk.progress.nodes[at].as_str()).unwrap();
                let url = &meant.urls[index % meant.urls.len()];
                let has = self.held.get(name).is_some_and(|held| held.contains(url));
                let gone_ms = self.gone_ms.get(&(*name, url.clone())).copied().unwrap_or_default();
                let is_late = gone_ms >= chunk.finished_ms || looks > 0 && gone_ms >= looked_ms;
                let excused = was_given_up || is_late || looks >= LOOKS_MAX;
                assert!(has || excused, "seed {seed}: {id} is Complete, and {name} has no {url} since {gone_ms}");
            }
            for (at, url) in meant.urls.iter().enumerate() {
                match (line_state(&chunk, at), fate(url)) {
                    (LineState::Resident, Fate::Good | Fate::Late(_)) => {}
                    (LineState::Failed(Cause::OriginStatus(404)), Fate::Gone) => {}
                    // It was lost again and again.
                    (LineState::Failed(Cause::Evicted), _) => assert!(looks >= LOOKS_MAX, "seed {seed}: {id}"),
                    (LineState::Failed(Cause::Cancelled), _) => assert!(meant.cancelled, "seed {seed}: {id}"),
                    (LineState::Failed(Cause::Deadline | Cause::NoTarget | Cause::OriginTimeout), _) => {
                        let ran = meant.could_run_ms;
                        assert!(ran + HEARD_MS >= deadline_ms, "seed {seed}: {id} failed after {ran} ms");
                    }
                    (state, _) => panic!("seed {seed}: {url} of {id} is {state:?}"),
                }
            }
        }
    }

    async fn step(&mut self, actions: bool) {
        let time = Duration::from_millis(50 + self.random.below(200));
        self.pass(time).await;
        let knows = if actions { self.act().await } else { false };
        self.work();
        self.turn(knows).await;
    }
}

async fn simulate(seed: u64) {
    let stopping = CancellationToken::new();
    let mut world = World::new(seed, &stopping).await;
    for _ in 0..4 {
        world.submit().await;
    }
    for _ in 0..30 {
        world.step(true).await;
    }
    // From here on nothing fails, and everything ends.
    for name in world.names.clone() {
        if !world.nodes.contains_key(name) {
            world.connect(name, false);
        }
    }
    let tasks: BTreeSet<(String, u64)> =
        world.chunks.values().map(|meant| (meant.account.clone(), meant.task)).collect();
    for (account, task) in tasks {
        let _ = world.state.steer(&account, &[task], Steer::Resume, world.now_ms()).await.unwrap();
    }
    let now_ms = world.now_ms();
    for meant in world.chunks.values_mut().filter(|meant| meant.paused) {
        (meant.paused, meant.steered_ms) = (false, now_ms);
    }
    for _ in 0..1_000 {
        if world.chunks.values().all(|meant| meant.ended) && world.open.chunks().is_empty() {
            stopping.cancel();
            return;
        }
        world.step(false).await;
    }
    let open: Vec<u64> = world.chunks.iter().filter(|(_, meant)| !meant.ended).map(|(id, _)| *id).collect();
    panic!("seed {seed}: {open:?} never ended, or {:?} is counted as open", world.open.chunks());
}

/// Runs the sets whose number modulo four is `rest`, so that four tests share them among the cores.
async fn simulate_quarter(rest: u64) {
    for seed in (0..SETS).filter(|seed| seed % 4 == rest) {
        simulate(seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn random_task_sets_of_the_first_quarter_end_as_promised() {
    simulate_quarter(0).await;
}

#[tokio::test(start_paused = true)]
async fn random_task_sets_of_the_second_quarter_end_as_promised() {
    simulate_quarter(1).await;
}

#[tokio::test(start_paused = true)]
async fn random_task_sets_of_the_third_quarter_end_as_promised() {
    simulate_quarter(2).await;
}

#[tokio::test(start_paused = true)]
async fn random_task_sets_of_the_last_quarter_end_as_promised() {
    simulate_quarter(3).await;
}

#[tokio::test(start_paused = true)]
async fn million_urls_of_one_account_do_not_delay_ten_of_another() {
    let stopping = CancellationToken::new();
    let (state, clock) = (State::in_memory(), clock());
    let model::Topology { pops, members, .. } = topology(&["p-1"]);
    let entries = pops.into_values().map(Entry::Pop).chain(members.into_values().map(Entry::Member));
    state.append(&entries.collect::<Vec<_>>()).await.unwrap();
    let following = Following::start(state.clone(), clock.clone(), stopping.clone()).await.unwrap();
    let (accepting, open) = Accepting::start(state.clone()).await.unwrap();
    for n in 0..100 {
        let large = prefetch("large", &format!("l{n}"), 10_000, millis(clock.now()));
        accepting.submit(large).await.unwrap();
    }
    let mut task = Task::new(state.clone(), open.clone(), following, clock.clone(), DEADLINE);
    task.look_for_more();
    let all = Look { tick: true, committed: true };
    let mut next = task.turn(all, Next::default()).await;
    let (orders, mut incoming) = mpsc::channel(MESSAGES_MAX);
    task.take(Event::Here { node: node("p-1"), session: 1, empty: false, lost: Arc::default(), orders });
    // The node has as many of the large account's jobs as it may when the ten arrive.
    loop {
        next = task.turn(all, next).await;
        if !next.more {
            break;
        }
    }
    assert_eq!(task.sessions[&node("p-1")].leased.len(), JOBS_PER_NODE_MAX / 4 * 3);
    accepting.submit(prefetch("small", "s", 10, millis(clock.now()))).await.unwrap();
    task.look_for_more();
    let (mut ended, mut small) = (0, 0);
    while small < 10 {
        let Ok(Order::Jobs(jobs)) = incoming.try_recv() else { panic!("{small} of ten, {ended} of the others") };
        for job in jobs {
            small += u64::from(job.url.contains("/s/"));
            ended += 1;
            let outcome = Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: true };
            let reports = vec![job.report(1, outcome)];
            task.take(Event::Reports { node: node("p-1"), session: 1, reports });
            if ended % 16 == 0 {
                next = task.turn(all, next).await;
            }
        }
        next = task.turn(all, next).await;
    }
    // As many as the node already held, and no more.
    assert!(ended <= JOBS_PER_NODE_MAX, "{ended} others came before the last of ten");
    stopping.cancel();
}
