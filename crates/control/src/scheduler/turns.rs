//! Single cases of the scheduler, turn by turn: time stands still until a test advances it, the database is in memory,
//! nodes are queues.

use std::collections::VecDeque;

use model::{Cause, Entry, ManualClock, Outcome, account_number};

use super::*;
use crate::state::memory::{Fault, Faults, Memory};
use crate::testing::{clock, domain, node, prefetch, topology};

mod elsewhere;
mod long;
mod looks;

const DEADLINE: Duration = Duration::from_secs(1_800);

const ALL: Look = Look { tick: true, committed: true };

struct Played {
    state: State,
    clock: Arc<ManualClock>,
    accepting: Accepting,
    task: Task,
    next: Next,
    faults: Faults,
    nodes: BTreeMap<&'static str, Here>,
}

/// A node that has connected.
struct Here {
    session: u64,
    lost: Arc<AtomicU64>,
    orders: mpsc::Receiver<Order>,
}

impl Played {
    async fn start(names: &[&str]) -> Played {
        let (faults, clock) = (Faults::default(), clock());
        let state = Memory::default().open(&faults);
        let model::Topology { pops, members, .. } = topology(names);
        let entries = pops.into_values().map(Entry::Pop).chain(members.into_values().map(Entry::Member));
        state.append(&entries.collect::<Vec<_>>()).await.unwrap();
        let following = Following::start(state.clone(), clock.clone(), CancellationToken::new()).await.unwrap();
        let (accepting, open) = Accepting::start(state.clone()).await.unwrap();
        let task = Task::new(state.clone(), open, following, clock.clone(), DEADLINE);
        Played { state, clock, accepting, task, next: Next::default(), faults, nodes: BTreeMap::new() }
    }

    fn connect(&mut self, name: &'static str) {
        let (orders, incoming) = mpsc::channel(MESSAGES_MAX);
        let session = self.nodes.get(name).map_or(1, |here| here.session + 1);
        let lost = Arc::new(AtomicU64::new(0));
        self.task.take(Event::Here { node: node(name), session, empty: false, lost: lost.clone(), orders });
        self.nodes.insert(name, Here { session, lost, orders: incoming });
    }

    /// Kills the process and starts it again, without its nodes.
    async fn forget(&mut self) {
        let (accepting, open) = Accepting::start(self.state.clone()).await.unwrap();
        let task = Task::new(self.state.clone(), open, self.task.following.clone(), self.clock.clone(), DEADLINE);
        (self.accepting, self.task, self.next) = (accepting, task, Next::default());
        self.nodes.clear();
    }

    async fn submit(&self, account: &str, nonce: &str, urls: usize) {
        self.accepting.submit(prefetch(account, nonce, urls, millis(self.clock.now()))).await.unwrap();
    }

    async fn turn(&mut self) {
        self.next = self.task.turn(ALL, self.next).await;
    }

    /// Takes turns until everything that there is room for is loaded and given out.
    async fn settle(&mut self) {
        self.turn().await;
        while self.next.more {
            self.turn().await;
        }
    }

    /// Jobs that have reached a node.
    fn jobs(&mut self, name: &str) -> Vec<Job> {
        let mut jobs = Vec::new();
        while let Ok(order) = self.nodes.get_mut(name).unwrap().orders.try_recv() {
            if let Order::Jobs(more) = order {
                jobs.extend(more);
            }
        }
        jobs
    }

    fn report(&mut self, name: &str, jobs: &[Job], outcome: &Outcome) {
        let reports = jobs.iter().map(|job| job.report(1, outcome.clone())).collect();
        let session = self.nodes[name].session;
        self.task.take(Event::Reports { node: node(name), session, reports });
    }
}

const RESIDENT: Outcome = Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: true };

#[tokio::test(start_paused = true)]
async fn account_whose_origin_does_not_answer_leaves_the_places_of_a_node_to_another() {
    let mut played = Played::start(&["p-1"]).await;
    for n in 0..20 {
        played.submit("dead", &format!("d{n}"), 500).await;
    }
    played.connect("p-1");
    played.settle().await;
    let mut waits: VecDeque<Job> = played.jobs("p-1").into();
    assert_eq!(waits.len(), JOBS_PER_NODE_MAX / 4 * 3, "a quarter is for whoever comes");

    for n in 0..4 {
        played.submit("good", &format!("g{n}"), 500).await;
    }
    played.settle().await;
    let at_once = played.jobs("p-1");
    assert!(at_once.len() >= 100 && at_once.iter().all(|job| job.url.contains("/g")), "nothing had to end for them");
    assert!(at_once.iter().all(|job| job.account == account_number("good")));
    let mut good = at_once.len();
    played.report("p-1", &at_once, &RESIDENT);
    let mut put_off = 0;
    while good < 2_000 {
        // Eight of its requests at a time run into their waiting limit; the other account's jobs end at once.
        let busy: Vec<Job> = waits.drain(..8).collect();
        put_off += busy.len();
        played.report("p-1", &busy, &Outcome::Failed(Cause::OriginBusy { seconds: 60 }));
        played.settle().await;
        let (fetched, more) = played.jobs("p-1").into_iter().partition(|job| job.url.contains("/g"));
        waits.extend::<Vec<Job>>(more);
        good += Vec::len(&fetched);
        played.report("p-1", &fetched, &RESIDENT);
    }
    assert!(put_off < 250, "{put_off} of the dead origin's had to go before 2000 of the good one's");
}

#[tokio::test(start_paused = true)]
async fn what_is_resident_under_keys_of_before_is_fetched_again_under_those_of_now() {
    for is_loaded in [true, false] {
        let mut played = Played::start(&["p-1", "p-2", "p-3"]).await;
        played.state.append(&[Entry::Domain(domain("a.com"))]).await.unwrap();
        let mut submission = prefetch("me", "n", 30, millis(played.clock.now()));
        submission.groups[0].paths = (0..30).map(|n| format!("http://a.com/x?n={n}")).collect();
        played.accepting.submit(submission).await.unwrap();
        for name in ["p-1", "p-2", "p-3"] {
            played.connect(name);
        }
        played.settle().await;
        let jobs = ["p-1", "p-2", "p-3"].map(|name| (name, played.jobs(name)));
        assert!(jobs.iter().all(|(_, jobs)| jobs.len() > 1), "each of them owns some");
        for (name, jobs) in &jobs {
            played.report(name, &jobs[1..], &RESIDENT);
        }
        played.settle().await;

        if !is_loaded {
            played.forget().await;
        }
        let args = vec![("disable".to_owned(), "on".to_owned())];
        let function = model::Function { id: 1, name: "set_hashkey_args".to_owned(), args, parent: None };
        let functions = model::Functions::new(vec![function]);
        let head = played.state.append(&[Entry::Domain(model::Domain { functions, ..domain("a.com") })]).await.unwrap();
        played.task.following.reach(head).await.unwrap();
        played.settle().await;
        if is_loaded {
            // Reported too late: it was fetched under the earlier key.
            for (name, jobs) in &jobs {
                played.report(name, &jobs[..1], &RESIDENT);
            }
            assert_eq!(played.task.counters.retried.load(Ordering::Relaxed), 30, "they are done again");
            assert_eq!(
                played.task.counters.resident.load(Ordering::Relaxed),
                27,
                "and what was said too late is not so"
            );
        } else {
            for name in ["p-1", "p-2", "p-3"] {
                played.connect(name);
            }
        }
        played.settle().await;
        let (_, jobs) = ["p-1", "p-2", "p-3"]
            .map(|name| (name, played.jobs(name)))
            .into_iter()
            .find(|(_, jobs)| !jobs.is_empty())
            .unwrap();
        assert_eq!(jobs.len(), 30, "all of them are one body now, of one owner; loaded: {is_loaded}");
        assert!(jobs.iter().all(|job| job.begin_after >= head), "by who knows the functions of now");
        let before = played.task.counters.resident.load(Ordering::Relaxed);
        // A node of an earlier version does not say which lease its report is about.
        let jobs: Vec<Job> = jobs.into_iter().map(|job| Job { begin_after: Revision::ZERO, ..job }).collect();
        let name = ["p-1", "p-2", "p-3"].into_iter().find(|name| played.task.sessions[&node(name)].leased.len() > 0);
        played.report(name.unwrap(), &jobs, &RESIDENT);
        assert_eq!(played.task.counters.resident.load(Ordering::Relaxed), before + 30);
    }
}

#[tokio::test(start_paused = true)]
async fn chunk_ends_once_its_objects_are_where_users_requests_look_first() {
    let mut played = Played::start(&["p-1", "p-2"]).await;
    played.submit("me", "n", 30).await;
    played.connect("p-2");
    played.settle().await;
    let own = played.jobs("p-2");
    // The other node is away for so long that it is no longer waited for.
    tokio::time::advance(MISSED_MAX).await;
    played.settle().await;
    let others = played.jobs("p-2");
    assert!(own.len() + others.len() == 30 && !others.is_empty());
    played.report("p-2", &own, &RESIDENT);
    played.report("p-2", &others[1..], &RESIDENT);
    played.settle().await;
    played.connect("p-1");
    played.report("p-2", &others[..1], &RESIDENT);
    played.settle().await;

    let chunk = |played: &Played| {
        let state = played.state.clone();
        let id = own[0].chunk;
        async move { state.chunks(&[id]).await.unwrap().remove(0) }
    };
    assert_eq!(chunk(&played).await.finished_ms, 0, "users' requests for some go to who has none of them");
    let mut again = played.jobs("p-1");
    again.sort_by_key(|job| job.index);
    let mut expected = others;
    expected.sort_by_key(|job| job.index);
    assert_eq!(again, expected, "what it owns, and nothing else");
    assert!(played.task.counters.retried.load(Ordering::Relaxed) >= again.len() as u64);
    played.report("p-1", &again, &RESIDENT);
    played.settle().await;
    assert!(chunk(&played).await.finished_ms > 0);
}

#[tokio::test(start_paused = true)]
async fn account_that_comes_later_by_name_is_loaded_while_an_earlier_one_has_much_to_load() {
    let mut played = Played::start(&["p-1"]).await;
    played.task.bounds = Bounds { loaded: 64, chunk: 1, ..BOUNDS };
    for n in 0..200 {
        played.submit("a", &format!("a{n}"), 1).await;
    }
    played.submit("b", "b", 1).await;
    played.connect("p-1");
    let mut before = 0;
    loop {
        played.turn().await;
        let jobs = played.jobs("p-1");
        if jobs.iter().any(|job| job.url.contains("/b/")) {
            break;
        }
        before += jobs.len();
        // Every job it is given ends at once, which makes room for more.
        played.report("p-1", &jobs, &RESIDENT);
    }
    assert!(before < 50, "{before} of 200 went before the only one of the other");
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_before_the_clock_was_set_back_goes_on() {
    let mut played = Played::start(&["p-1"]).await;
    played.task.bounds = Bounds { loaded: 1, chunk: 1, ..BOUNDS };
    played.submit("me", "first", 1).await;
    played.submit("me", "second", 1).await;
    played.connect("p-1");
    played.settle().await;
    let first = played.jobs("p-1");
    assert!(first.len() == 1 && first[0].url.contains("first"), "there is room for one");

    played.clock.set(played.clock.now() - Duration::from_secs(3_600));
    played.submit("me", "third", 1).await;
    let mut jobs = first;
    for name in ["second", "third"] {
        played.report("p-1", &jobs, &RESIDENT);
        played.settle().await;
        // Ended chunks make room only for the next turn.
        played.settle().await;
        jobs = played.jobs("p-1");
        assert!(jobs.len() == 1 && jobs[0].url.contains(name), "{name}: {jobs:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_is_up_when_so_much_time_has_passed_whatever_the_wall_clock_was_set_to() {
    let mut played = Played::start(&["p-1"]).await;
    played.connect("p-1");
    played.submit("me", "n", 1).await;
    played.settle().await;
    let id = played.task.account_of.keys().next().copied().unwrap();
    let finished_ms = async |played: &Played| played.state.chunks(&[id]).await.unwrap()[0].finished_ms;
    for hours in [3, 1, 2] {
        let day = clock().now() - Duration::from_secs(7_200);
        played.clock.set(day + Duration::from_secs(3_600 * hours));
        played.settle().await;
        played.clock.advance(DEADLINE / 4);
        played.settle().await;
        assert_eq!(finished_ms(&played).await, 0, "some of its time is left");
    }
    played.clock.advance(DEADLINE / 4 + Duration::from_secs(1));
    played.settle().await;
    assert!(finished_ms(&played).await > 0, "it is up");
}

#[tokio::test(start_paused = true)]
async fn what_another_control_plane_accepted_is_worked_on_once_nodes_come_from_there() {
    let mut played = Played::start(&["p-1"]).await;
    let (other, _) = Accepting::start(played.state.clone()).await.unwrap();
    let elsewhere = async |played: &Played, nonce: &str, urls| {
        other.submit(prefetch("me", nonce, urls, millis(played.clock.now()))).await.unwrap();
    };
    played.settle().await;
    elsewhere(&played, "left", 3).await;
    played.settle().await;
    played.connect("p-1");
    played.settle().await;
    let jobs = played.jobs("p-1");
    assert_eq!(jobs.len(), 3);
    played.report("p-1", &jobs, &RESIDENT);
    played.settle().await;

    // Chunks found from elsewhere do not hide later ones accepted here.
    elsewhere(&played, "beside", 2).await;
    played.submit("me", "own", 2).await;
    played.settle().await;
    played.submit("me", "behind", 2).await;
    played.settle().await;
    assert_eq!(played.jobs("p-1").len(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_an_origin_answered_is_told_of_what_was_not_done_before_the_deadline() {
    let mut played = Played::start(&["p-1"]).await;
    played.submit("me", "n", 4).await;
    played.connect("p-1");
    played.settle().await;
    let jobs = played.jobs("p-1");
    let asked_ms = millis(played.clock.now());
    let answer = Outcome::Failed(Cause::OriginStatus(503));
    played.report("p-1", &jobs[..3], &answer);
    played.settle().await;
    tokio::time::advance(Duration::from_secs(10)).await;
    played.settle().await;
    let again = played.jobs("p-1");
    assert_eq!(again.len(), 3, "each is tried once more");
    // One is put off, which does not count as a try; one becomes resident.
    let of = |at: usize| again.iter().find(|job| job.index == jobs[at].index).unwrap().clone();
    played.report("p-1", &[of(0)], &Outcome::Failed(Cause::OriginBusy { seconds: 60 }));
    played.report("p-1", &[of(1)], &RESIDENT);
    played.settle().await;

    played.clock.advance(DEADLINE + Duration::from_secs(1));
    played.settle().await;
    let chunk = played.state.chunks(&[jobs[0].chunk]).await.unwrap().remove(0);
    assert!(chunk.finished_ms > 0);
    assert_eq!(chunk.progress.told_by, [node("p-1")]);
    let of = |at: usize| {
        let progress = &chunk.progress;
        (progress.failed.get(&jobs[at].index).cloned(), progress.failed_at.get(&jobs[at].index).copied())
    };
    let answered = (Some(Cause::OriginStatus(503)), Some((1, asked_ms)));
    assert_eq!([of(0), of(2)], [answered.clone(), answered]);
    assert_eq!(of(1), (None, None));
    assert_eq!(of(3), (Some(Cause::Deadline), Some((0, millis(played.clock.now())))), "nobody said anything of it");
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_kept_though_nothing_can_be_read() {
    let mut played = Played::start(&["p-1"]).await;
    played.submit("me", "n", 2).await;
    played.connect("p-1");
    played.settle().await;
    let jobs = played.jobs("p-1");
    played.report("p-1", &jobs, &RESIDENT);
    played.faults.push(Fault::Unavailable);
    played.turn().await;
    assert!(played.next.troubled && played.faults.waiting() == 0, "the first read met it");
    assert!(played.state.chunks(&[jobs[0].chunk]).await.unwrap()[0].finished_ms > 0);
}

#[tokio::test(start_paused = true)]
async fn no_job_of_a_paused_prefetch_is_given_out_though_the_database_fails_after_it_was_heard_of() {
    let mut played = Played::start(&["p-1"]).await;
    played.submit("me", "n", 3).await;
    played.settle().await;
    let all = crate::state::chunks::Filter { to_ms: u64::MAX >> 1, ..Default::default() };
    let id = played.state.outlines("me", &all, None, 1).await.unwrap()[0].id;
    let task = played.state.chunks(&[id]).await.unwrap()[0].task;
    let pause = crate::state::steering::Steer::Pause;
    played.state.steer("me", &[task], pause, millis(played.clock.now())).await.unwrap().unwrap();
    // The turn in which the pause is read, and nothing after it.
    played.connect("p-1");
    played.task.hear().await.unwrap();
    played.task.line_up();
    played.task.lease();
    assert_eq!(played.jobs("p-1"), []);
    played.settle().await;
    assert_eq!(played.jobs("p-1"), []);
}
