//! The scheduler on a real database, with sessions played by the tests.

use std::time::Duration;

use model::Cause;
use model::{ManualClock, Outcome};
use tempfile::TempDir;

use super::*;
use crate::state::chunks::{Chunk, Filter, Progress};
use crate::state::steering::Steer;
use crate::testing::{clock, node, prefetch, run_sql, soon, state, until};

const DEADLINE: Duration = Duration::from_secs(60);

/// A scheduler on a database, as if in a process of its own.
struct Rig {
    state: State,
    clock: Arc<ManualClock>,
    accepting: Accepting,
    open: Open,
    scheduler: Scheduler,
    stopping: CancellationToken,
}

impl Rig {
    async fn start(state: State, clock: Arc<ManualClock>) -> Rig {
        let stopping = CancellationToken::new();
        let following = Following::start(state.clone(), clock.clone(), stopping.clone()).await.unwrap();
        let (accepting, open) = Accepting::start(state.clone()).await.unwrap();
        let scheduler = Scheduler::start(
            state.clone(),
            &accepting,
            open.clone(),
            following,
            clock.clone(),
            DEADLINE,
            stopping.clone(),
        );
        Rig { state, clock, accepting, open, scheduler, stopping }
    }

    async fn submit(&self, account: &str, nonce: &str, urls: usize) {
        self.accepting.submit(prefetch(account, nonce, urls, millis(self.clock.now()))).await.unwrap();
    }

    /// Waits until this many jobs are loaded: only then can they be given out in turns.
    async fn loaded(&self, jobs: u64) {
        let loaded = || async { (self.scheduler.counters().loaded.load(Ordering::Relaxed) == jobs).then_some(()) };
        until("chunks are loaded", loaded).await;
    }

    async fn connect(&self, name: &str, session: u64) -> Node {
        let (leases, orders) = self.scheduler.connected(&node(name), session, false, 0);
        Node { leases, orders }
    }

    async fn chunks(&self, account: &str) -> Vec<Chunk> {
        let filter = Filter { to_ms: u64::MAX >> 1, ..Filter::default() };
        let outlines = self.state.outlines(account, &filter, None, 100).await.unwrap();
        self.state.chunks(&outlines.iter().map(|outline| outline.id).collect::<Vec<_>>()).await.unwrap()
    }

    /// Waits until a chunk of `account` in the database satisfies `is`.
    async fn kept(&self, account: &str, what: &str, is: impl Fn(&Chunk) -> bool) -> Chunk {
        until(what, || async { self.chunks(account).await.into_iter().find(|chunk| is(chunk)) }).await
    }
}

struct Node {
    leases: Leases,
    orders: mpsc::Receiver<Order>,
}

impl Node {
    /// Receives jobs until there are `count`.
    async fn jobs(&mut self, count: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        while jobs.len() < count {
            match soon("jobs", self.orders.recv()).await {
                Some(Order::Jobs(more)) => jobs.extend(more),
                Some(Order::Withdraw(_)) => {}
                None => panic!("session ended after {} jobs", jobs.len()),
            }
        }
        jobs
    }

    async fn resident(&self, jobs: &[Job]) {
        let outcome = Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: true };
        self.leases.report(jobs.iter().map(|job| job.report(5, outcome.clone())).collect()).await;
    }
}

fn residents(progress: &Progress) -> usize {
    progress.resident.iter().filter(|holder| **holder > 0).count()
}

#[tokio::test]
async fn accounts_take_turns_and_nodes_hold_no_more_than_they_may() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::start(state(&dir, &["p-1"]).await, clock()).await;
    for n in 0..4 {
        rig.submit("large", &format!("n{n}"), 500).await;
    }
    rig.submit("small", "n", 100).await;
    rig.loaded(2_100).await;

    let mut p1 = rig.connect("p-1", 1).await;
    // The large one may have three times as many as there are free places then.
    let large = (JOBS_PER_NODE_MAX - 100) / 4 * 3;
    let jobs = p1.jobs(100 + large).await;
    let small = jobs.iter().filter(|job| job.url.starts_with("http://a.com/n/")).count();
    assert_eq!(small, 100, "all of the small account's, though the large one came first");
    let large: Vec<u64> =
        jobs.iter().filter(|job| !job.url.starts_with("http://a.com/n/")).map(|job| job.chunk).collect();
    assert!(large.is_sorted(), "oldest first within an account");
    assert!(p1.orders.try_recv().is_err());

    let ended: Vec<Job> = jobs.into_iter().filter(|job| large.contains(&job.chunk)).take(10).collect();
    p1.resident(&ended).await;
    assert_eq!(p1.jobs(10).await.len(), 10, "as many as have ended");
    rig.stopping.cancel();
}

#[tokio::test]
async fn lost_lease_is_handed_on_and_what_is_done_makes_room() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::start(state(&dir, &["p-1", "p-2"]).await, clock()).await;
    rig.submit("me", "n", 50).await;
    let mut p1 = rig.connect("p-1", 1).await;
    let jobs = p1.jobs(50).await;
    p1.resident(&jobs[..20]).await;
    drop(p1);
    let mut p2 = rig.connect("p-2", 2).await;
    let rest = p2.jobs(30).await;
    assert_eq!(rest.len(), 30);
    assert!(jobs[20..].iter().all(|job| rest.contains(job)));
    assert!(rig.scheduler.counters().retried.load(Ordering::Relaxed) >= 30);
    let missing = rest[0].report(5, Outcome::Failed(Cause::OriginStatus(404)));
    p2.leases.report(vec![missing]).await;
    p2.resident(&rest[1..]).await;
    // Objects on the node that is gone are not where users' requests go.
    let mut again = p2.jobs(20).await;
    again.sort_by_key(|job| job.index);
    assert_eq!(again, jobs[..20]);
    p2.resident(&again).await;
    let chunk = rig.kept("me", "the chunk has ended", |chunk| chunk.finished_ms > 0).await;
    assert_eq!((residents(&chunk.progress), chunk.progress.failed.len()), (49, 1));
    until("its place in the queue is free", || async { rig.open.chunks().is_empty().then_some(()) }).await;
    rig.stopping.cancel();
}

#[tokio::test]
async fn report_counts_only_from_whom_the_job_is_leased_to() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::start(state(&dir, &["p-1", "q-1"]).await, clock()).await;
    rig.submit("me", "n", 4).await;
    let mut other = rig.connect("q-1", 1).await;
    other.jobs(4).await;
    let mut earlier = rig.connect("p-1", 2).await;
    let jobs = earlier.jobs(4).await;
    let mut later = rig.connect("p-1", 3).await;
    assert_eq!(later.jobs(4).await.len(), 4, "a later session has all anew");

    earlier.resident(&jobs).await;
    assert!(soon("the end of the earlier session", earlier.orders.recv()).await.is_none());
    other.resident(&jobs).await;
    let made_up = |chunk, index| Job { chunk, index, ..jobs[0].clone() };
    later.resident(&[made_up(u64::MAX, 0), made_up(jobs[0].chunk, u32::MAX), made_up(jobs[0].chunk, 8)]).await;
    let mut late = rig.connect("p-1", 2).await;
    assert!(soon("the end of a session that comes too late", late.orders.recv()).await.is_none());
    later.resident(&jobs[..1]).await;
    later.resident(&jobs[..1]).await;
    let chunk = rig.kept("me", "one report counted", |chunk| residents(&chunk.progress) > 0).await;
    assert_eq!(residents(&chunk.progress), 1);
    assert_eq!(rig.scheduler.counters().resident.load(Ordering::Relaxed), 1);
    rig.stopping.cancel();
}

#[tokio::test]
async fn restart_goes_on_where_it_was() {
    let dir = TempDir::new().unwrap();
    let (state, clock) = (state(&dir, &["p-1"]).await, clock());
    let rig = Rig::start(state.clone(), clock.clone()).await;
    rig.submit("me", "n", 40).await;
    let mut p1 = rig.connect("p-1", 1).await;
    let jobs = p1.jobs(40).await;
    p1.resident(&jobs[..15]).await;
    rig.kept("me", "progress is kept", |chunk| residents(&chunk.progress) == 15).await;
    rig.stopping.cancel();

    let rig = Rig::start(state, clock).await;
    assert_eq!(rig.open.chunks(), [("me".to_owned(), 1)]);
    let mut p1 = rig.connect("p-1", 1).await;
    let rest = p1.jobs(25).await;
    assert_eq!(rest.len(), 25);
    assert!(rest.iter().all(|job| jobs[15..].contains(job)), "what was resident is not asked for again");
    p1.resident(&rest).await;
    let looks = p1.jobs(40).await;
    assert!(looks.iter().all(|job| job.look), "what may have happened meanwhile is not known");
    p1.resident(&looks).await;
    let chunk = rig.kept("me", "the chunk has ended", |chunk| chunk.finished_ms > 0).await;
    assert_eq!(residents(&chunk.progress), 40);
    rig.stopping.cancel();
}

#[tokio::test]
async fn what_has_no_live_target_fails_at_the_deadline() {
    for (nodes, connected) in [(&[][..], false), (&["p-1"][..], false), (&["p-1"][..], true)] {
        let dir = TempDir::new().unwrap();
        let rig = Rig::start(state(&dir, nodes).await, clock()).await;
        rig.submit("me", "n", 3).await;
        rig.loaded(3).await;
        let mut p1 = rig.connect(if connected { "p-1" } else { "q-1" }, 1).await;
        if connected {
            p1.jobs(3).await;
        }
        rig.clock.advance(DEADLINE - Duration::from_secs(1));
        rig.submit("other", "n", 1).await;
        until("the later one is loaded", || async { (rig.open.chunks().len() == 2).then_some(()) }).await;
        assert_eq!(rig.chunks("me").await[0].finished_ms, 0);
        // The member that is not here may be connected to another control plane.
        let left = if nodes.is_empty() || connected { 0 } else { deadlines::LEFT_TO_OTHERS_MS };
        rig.clock.advance(Duration::from_secs(2) + Duration::from_millis(left));
        let chunk = rig.kept("me", "the chunk has failed", |chunk| chunk.finished_ms > 0).await;
        let cause = if connected { Cause::Deadline } else { Cause::NoTarget };
        for path in 0..3 {
            assert_eq!(line_state(&chunk, path), LineState::Failed(cause.clone()), "{nodes:?}");
        }
        if connected {
            let withdrawn = async { while p1.orders.recv().await != Some(Order::Withdraw(vec![chunk.id])) {} };
            soon("withdrawal", withdrawn).await;
        }
        assert_eq!(rig.chunks("other").await[0].finished_ms, 0, "its own deadline is later");
        rig.stopping.cancel();
    }
}

#[tokio::test]
async fn change_of_members_and_loss_of_a_store_are_made_good() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::start(state(&dir, &["p-1", "p-2"]).await, clock()).await;
    rig.submit("me", "n", 10).await;
    let mut p1 = rig.connect("p-1", 1).await;
    let jobs = p1.jobs(10).await;
    p1.resident(&jobs[..6]).await;
    rig.kept("me", "progress is kept", |chunk| residents(&chunk.progress) == 6).await;

    // It returns with an empty store, so everything has to be done again.
    let (leases, orders) = rig.scheduler.connected(&node("p-1"), 2, true, 0);
    let mut p1 = Node { leases, orders };
    let jobs = p1.jobs(10).await;
    p1.resident(&jobs[..6]).await;
    rig.kept("me", "progress is kept again", |chunk| residents(&chunk.progress) == 6).await;

    // It is removed, and another node takes over everything.
    let mut p2 = rig.connect("p-2", 3).await;
    rig.state.append(&[model::Entry::MemberRemoved(node("p-1"))]).await.unwrap();
    let jobs = p2.jobs(10).await;
    p2.resident(&jobs).await;
    let chunk = rig.kept("me", "the chunk has ended", |chunk| chunk.finished_ms > 0).await;
    assert_eq!((residents(&chunk.progress), chunk.progress.nodes), (10, vec![node("p-2")]));
    rig.stopping.cancel();
}

#[tokio::test]
async fn what_a_node_lost_is_not_kept_again_before_it_is_here() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::start(state(&dir, &["p-1"]).await, clock()).await;
    let mut p1 = rig.connect("p-1", 1).await;
    rig.submit("loaded", "n", 2).await;
    let of_loaded = p1.jobs(2).await;
    rig.submit("paused", "n", 2).await;
    let of_paused = p1.jobs(2).await;
    for jobs in [&of_loaded, &of_paused] {
        p1.resident(&jobs[..1]).await;
    }
    let holds = |chunk: &Chunk| residents(&chunk.progress) == 1;
    rig.kept("loaded", "what is resident is kept", holds).await;
    let paused = rig.kept("paused", "what is resident is kept", holds).await;
    rig.state.steer("paused", &[paused.task], Steer::Pause, 1).await.unwrap().unwrap();
    rig.accepting.nudge();
    rig.loaded(2).await;

    rig.scheduler.emptied(&node("p-1")).await;
    assert!(
        soon("the end of its session", p1.orders.recv()).await.is_none_or(|order| matches!(order, Order::Withdraw(_)))
    );
    p1.resident(&of_loaded[1..]).await;
    rig.kept("loaded", "what it held is not resident", |chunk| residents(&chunk.progress) == 0).await;
    // Loaded again from rows that nobody has cleared yet, or that were written earlier.
    rig.state.steer("paused", &[paused.task], Steer::Resume, 2).await.unwrap().unwrap();
    rig.accepting.nudge();
    rig.kept("paused", "what it held is not resident", |chunk| residents(&chunk.progress) == 0).await;
    let mut again = rig.connect("p-1", 2).await;
    assert_eq!(again.jobs(4).await.len(), 4, "all of it is to be done again");
    rig.stopping.cancel();
}

#[tokio::test]
async fn chunk_that_cannot_be_read_stops_no_other_and_fails_at_its_deadline() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::start(state(&dir, &["p-1"]).await, clock()).await;
    for account in ["forgotten", "strange", "well"] {
        rig.submit(account, account, 2).await;
    }
    rig.stopping.cancel();
    // As if written by a later version, or damaged on disk.
    run_sql(
        &dir,
        "UPDATE chunk SET progress = '{\"failed\":{\"0\":\"of a later version\"}}' WHERE account = 'forgotten'",
    )
    .await;
    run_sql(&dir, "UPDATE chunk SET params = '{\"area\":\"moon\"}' WHERE account = 'strange'").await;

    let rig = Rig::start(rig.state, rig.clock).await;
    let mut p1 = rig.connect("p-1", 1).await;
    let jobs = p1.jobs(4).await;
    let (forgotten, well): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.url.contains("forgotten"));
    assert_eq!((forgotten.len(), well.len()), (2, 2), "what it had come to is found out anew");
    p1.resident(&well).await;
    rig.kept("well", "what is well ends", |chunk| chunk.finished_ms > 0).await;
    p1.resident(&forgotten).await;
    rig.kept("forgotten", "and so does what was begun anew", |chunk| chunk.finished_ms > 0).await;

    let shown = rig.chunks("strange").await;
    assert_eq!(line_state(&shown[0], 0), LineState::Going(0), "a later version may do it still");
    rig.clock.advance(DEADLINE + Duration::from_secs(1));
    let ended = rig.kept("strange", "it is over at its deadline", |chunk| chunk.finished_ms > 0).await;
    assert_eq!(line_state(&ended, 1), LineState::Failed(Cause::Deadline));
    until("nothing is open", || async { rig.open.chunks().is_empty().then_some(()) }).await;
    // A chunk that ended stays ended, even if its progress is lost.
    run_sql(&dir, "UPDATE chunk SET progress = '{' WHERE account = 'well'").await;
    let well = rig.chunks("well").await;
    assert_eq!(line_state(&well[0], 0), LineState::Failed(Cause::Unreadable), "nobody can say that it is complete");
    // A row that cannot even be shown is left out, and hides no other.
    run_sql(&dir, "UPDATE chunk SET domain = '' WHERE account = 'well'").await;
    let ids = [&well[0], &ended].map(|chunk| chunk.id);
    assert_eq!(rig.state.chunks(&ids).await.unwrap(), [ended]);
    rig.stopping.cancel();
}
