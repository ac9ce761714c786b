//! Chunks that are looked at once more before they end: `Complete` means that the objects are there at that moment.

use model::{DomainName, Invalidation, Mode, Scope};

use super::*;
use crate::scheduler::work::looks::LOOKS_MAX;
use crate::state::chunks::Chunk;

const STILL_THERE: Outcome = Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: false };
const GONE: Outcome = Outcome::Failed(Cause::Evicted);

impl Played {
    async fn refresh(&mut self, domain: &str) {
        let scope = Scope::Domain(DomainName::parse(domain).unwrap());
        let entry = Entry::Invalidate(vec![Invalidation { scope, mode: Mode::Delete }]);
        let head = self.state.append(&[entry]).await.unwrap();
        self.task.following.reach(head).await.unwrap();
    }

    fn loses(&self, name: &str) {
        self.nodes[name].lost.fetch_add(1, Ordering::Relaxed);
    }

    fn disconnect(&mut self, name: &str) {
        let session = self.nodes[name].session;
        self.task.take(Event::Gone { node: node(name), session });
    }

    async fn chunk(&self, id: u64) -> Chunk {
        self.state.chunks(&[id]).await.unwrap().remove(0)
    }

    /// The jobs that have reached a node, of which all, or none, only look.
    fn only(&mut self, name: &str, look: bool) -> Vec<Job> {
        let jobs = self.jobs(name);
        assert!(jobs.iter().all(|job| job.look == look), "{jobs:?}");
        jobs
    }

    /// Two POPs of one node each, and a chunk whose objects are resident on the first.
    async fn half_done() -> (Played, Vec<Job>, Vec<Job>) {
        let mut played = Played::start(&["p-1", "q-1"]).await;
        played.connect("p-1");
        played.connect("q-1");
        played.submit("me", "n", 4).await;
        played.settle().await;
        let (of_p, of_q) = (played.only("p-1", false), played.only("q-1", false));
        played.report("p-1", &of_p, &RESIDENT);
        played.settle().await;
        (played, of_p, of_q)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refreshed_while_a_prefetch_ran_is_made_good_before_it_is_complete() {
    let (mut played, of_p, of_q) = Played::half_done().await;
    played.refresh("a.com").await;
    played.report("q-1", &of_q, &RESIDENT);
    played.settle().await;
    let chunk = played.chunk(of_p[0].chunk).await;
    assert_eq!(chunk.finished_ms, 0, "the first node may have dropped what it had");
    assert_eq!(line_state(&chunk, 0), LineState::Resident, "until it says so, what it reported stands");
    let (looks_p, looks_q) = (played.only("p-1", true), played.only("q-1", true));
    assert_eq!((looks_p.len(), looks_q.len()), (4, 4));
    assert!(looks_p.iter().all(|job| job.begin_after == played.task.head && job.begin_after > of_p[0].begin_after));

    played.report("p-1", &looks_p[..3], &STILL_THERE);
    played.report("p-1", &looks_p[3..], &GONE);
    played.report("q-1", &looks_q, &STILL_THERE);
    played.settle().await;
    let again = played.only("p-1", false);
    assert_eq!((again.len(), again[0].index), (1, looks_p[3].index), "what it has no more is fetched again");
    assert_eq!(played.chunk(chunk.id).await.finished_ms, 0);
    played.report("p-1", &again, &RESIDENT);
    played.settle().await;
    let chunk = played.chunk(chunk.id).await;
    assert!(chunk.finished_ms > 0 && (0..4).all(|path| line_state(&chunk, path) == LineState::Resident));
    let counters = &played.task.counters;
    let counted = [&counters.resident, &counters.retried].map(|counter| counter.load(Ordering::Relaxed));
    assert_eq!(counted, [4 + 4 + 1, 1], "looks are neither counted as work nor as retries");
}

#[tokio::test(start_paused = true)]
async fn chunk_of_which_nothing_can_be_gone_ends_at_once() {
    let (mut played, _, of_q) = Played::half_done().await;
    played.refresh("b.com").await;
    played.report("q-1", &of_q, &RESIDENT);
    played.settle().await;
    assert!(played.chunk(of_q[0].chunk).await.finished_ms > 0);
    assert!(played.jobs("p-1").is_empty() && played.jobs("q-1").is_empty());
}

#[tokio::test(start_paused = true)]
async fn domain_that_is_refreshed_all_the_time_does_not_keep_its_prefetches_open() {
    let (mut played, _, of_q) = Played::half_done().await;
    played.refresh("a.com").await;
    played.report("q-1", &of_q, &RESIDENT);
    for _ in 0..LOOKS_MAX {
        played.settle().await;
        assert_eq!(played.chunk(of_q[0].chunk).await.finished_ms, 0);
        played.refresh("a.com").await;
        for name in ["p-1", "q-1"] {
            let looks = played.only(name, true);
            assert_eq!(looks.len(), 4);
            played.report(name, &looks, &STILL_THERE);
        }
    }
    played.settle().await;
    assert!(played.chunk(of_q[0].chunk).await.finished_ms > 0);
}

#[tokio::test(start_paused = true)]
async fn push_that_is_larger_than_the_store_is_complete_only_as_far_as_the_store_has_it() {
    let mut played = Played::start(&["p-1"]).await;
    played.connect("p-1");
    played.submit("me", "n", 5).await;
    played.settle().await;
    // The store has room for three.
    let mut store: VecDeque<Job> = VecDeque::new();
    let (mut fetched, mut rounds) = (0, 0);
    loop {
        let jobs = played.jobs("p-1");
        if jobs.is_empty() {
            break;
        }
        rounds += u8::from(jobs[0].look);
        for job in jobs {
            let has = store.iter().any(|other| other.url == job.url);
            if !job.look && !has {
                fetched += 1;
                store.push_back(job.clone());
                if store.len() > 3 {
                    store.pop_front();
                    played.loses("p-1");
                }
            }
            let outcome = match (job.look, has) {
                (false, _) => RESIDENT,
                (true, true) => STILL_THERE,
                (true, false) => GONE,
            };
            played.report("p-1", &[job], &outcome);
        }
        played.settle().await;
    }
    let chunk = played.chunk(store[0].chunk).await;
    assert!(chunk.finished_ms > 0 && rounds == LOOKS_MAX && fetched < 12, "{rounds} looks, {fetched} fetches");
    for path in 0..5 {
        let has = store.iter().any(|job| job.url == chunk.paths[path]);
        let expected = if has { LineState::Resident } else { LineState::Failed(Cause::Evicted) };
        assert_eq!(line_state(&chunk, path), expected, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn full_store_that_evicts_all_the_time_is_looked_at_once() {
    let (mut played, _, of_q) = Played::half_done().await;
    played.loses("p-1");
    played.report("q-1", &of_q, &RESIDENT);
    played.settle().await;
    assert!(played.jobs("q-1").is_empty(), "only where something may be lost");
    let looks = played.only("p-1", true);
    played.loses("p-1");
    played.report("p-1", &looks, &STILL_THERE);
    played.settle().await;
    assert!(played.chunk(looks[0].chunk).await.finished_ms > 0);
}

#[tokio::test(start_paused = true)]
async fn node_that_comes_back_is_asked_whether_it_still_has_its_store() {
    let (mut played, _, of_q) = Played::half_done().await;
    played.disconnect("p-1");
    played.report("q-1", &of_q, &RESIDENT);
    played.settle().await;
    let id = of_q[0].chunk;
    assert_eq!(played.chunk(id).await.finished_ms, 0, "it is waited for");
    played.connect("p-1");
    played.settle().await;
    let looks = played.only("p-1", true);
    assert_eq!(looks.len(), 4);
    played.report("p-1", &looks, &GONE);
    played.settle().await;
    let again = played.only("p-1", false);
    assert_eq!(again.len(), 4, "it came back without its disk");
    played.report("p-1", &again, &RESIDENT);
    played.settle().await;
    assert!(played.chunk(id).await.finished_ms > 0);
}

#[tokio::test(start_paused = true)]
async fn node_that_does_not_come_back_is_not_waited_for_longer_than_usual() {
    let (mut played, _, of_q) = Played::half_done().await;
    played.disconnect("p-1");
    played.report("q-1", &of_q, &RESIDENT);
    played.settle().await;
    tokio::time::advance(MISSED_MAX).await;
    played.settle().await;
    let chunk = played.chunk(of_q[0].chunk).await;
    assert!(chunk.finished_ms > 0 && line_state(&chunk, 0) == LineState::Resident, "nobody else can be asked");
}

#[tokio::test(start_paused = true)]
async fn what_was_resident_before_the_process_began_is_looked_at() {
    let (mut played, _, of_q) = Played::half_done().await;
    played.forget().await;
    // Nobody here knows of this refresh, except that it may have been.
    played.connect("p-1");
    played.connect("q-1");
    played.settle().await;
    let rest = played.only("q-1", false);
    assert_eq!((rest.len(), played.jobs("p-1").len()), (4, 0));
    played.report("q-1", &rest, &RESIDENT);
    played.settle().await;
    let looks = played.only("p-1", true);
    assert_eq!(looks.len(), 4);
    // At the deadline there is no time to look: what was reported stands.
    played.clock.advance(DEADLINE + Duration::from_secs(1));
    played.settle().await;
    let chunk = played.chunk(of_q[0].chunk).await;
    assert!(chunk.finished_ms > 0 && (0..4).all(|path| line_state(&chunk, path) == LineState::Resident));
}
