//! Prefetch jobs: their reports, and whether they are true.

use super::slicing::{long, part};
use super::tiers::{Tiers, tiers};
use super::*;
use model::{Cause, Job, Outcome, Report};

pub(super) fn job(chunk: u64, path: &str, begin_after: u64) -> Job {
    Job {
        chunk,
        index: 0,
        url: format!("http://{DOMAIN}{path}"),
        headers: Vec::new(),
        begin_after: Revision(begin_after),
        ..Job::default()
    }
}

pub(super) async fn report(node: &TestNode) -> Report {
    let mut reports = tokio::time::timeout(PATIENCE, node.prefetch.reports(1)).await.expect("a report in time");
    reports.remove(0)
}

#[tokio::test]
async fn object_is_resident_and_users_hit_with_the_origin_gone() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body = Bytes::from(vec![2_u8; 2_500_000]);
    origin.put("/a", Page::new(body.clone()).with("etag", "\"v1\""));
    for fetched in [true, false] {
        node.prefetch.accept([job(1, "/a", 0)].into_iter());
        let expected = Outcome::Resident {
            bytes: 2_500_000,
            checksum: crc32fast::hash(&body),
            validator: Some("\"v1\"".into()),
            fetched,
        };
        let Report { chunk: 1, index: 0, outcome, .. } = report(&node).await else { panic!("another job") };
        assert_eq!(outcome, expected);
    }
    origin.stop();
    let got = node.get("/a").await;
    assert_eq!((got.header("x-cache"), got.body.as_ref()), ("HIT from edge", Ok(&body)));
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn what_does_not_become_resident_is_reported_with_its_cause() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/gone", Page { status: 404, ..Page::new("no") });
    origin.put("/broken", Page { status: 500, ..Page::new("no") });
    origin.put("/no-store", Page::new("x").with("cache-control", "no-store"));
    origin.put("/never-fresh", Page::new("x").with("cache-control", "max-age=0"));
    origin.put("/short", Page { cut: Some(70_000), ..Page::new(vec![0_u8; 200_000]).with("etag", "") });
    let cases: &[(&str, Cause)] = &[
        ("/gone", Cause::OriginStatus(404)),
        ("/broken", Cause::OriginStatus(500)),
        ("/no-store", Cause::NotStorable("no-store".into())),
        ("/never-fresh", Cause::NotStorable("not fresh on arrival: users would not be answered from the store".into())),
        ("/short", Cause::Truncated { got: 70_000, expected: 200_000 }),
    ];
    for (path, cause) in cases {
        node.prefetch.accept([job(1, path, 0)].into_iter());
        assert_eq!(report(&node).await.outcome, Outcome::Failed(cause.clone()), "{path}");
    }
    node.prefetch.accept([Job { url: "http://other.example.test/".into(), ..job(1, "/", 0) }].into_iter());
    assert_eq!(report(&node).await.outcome, Outcome::Failed(Cause::UnknownDomain));
    origin.stop();
    eventually("the origin is gone", || std::net::TcpStream::connect(origin.address).is_err()).await;
    node.prefetch.accept([job(1, "/unreachable", 0)].into_iter());
    let outcome = report(&node).await.outcome;
    assert!(matches!(outcome, Outcome::Failed(Cause::OriginUnreachable(_))), "{outcome:?}");
}

#[tokio::test]
async fn job_waits_for_the_log_and_warms_what_is_new_then() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("old"));
    node.get("/a").await;
    node.settled().await;
    origin.put("/a", Page::new("the new body"));
    let head = node.knowing.applied().next();
    node.prefetch.accept([job(1, "/a", head.0)].into_iter());
    node.prefetch.accept([job(2, "/b", 0)].into_iter());
    assert_eq!(report(&node).await.chunk, 2, "later jobs do not wait for it");
    assert_eq!(node.prefetch.counts().0, 1, "it is not begun before its refresh is applied");
    node.refresh("/a", Mode::Expire);
    let Report { chunk: 1, outcome: Outcome::Resident { bytes: 12, fetched: true, .. }, .. } = report(&node).await
    else {
        panic!("resident")
    };
}

#[tokio::test]
async fn refresh_during_a_prefetch_is_not_undone_by_it() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("old") });
    node.prefetch.accept([job(1, "/a", 0)].into_iter());
    origin.asked("/a", 1).await;
    origin.put("/a", Page::new("the new body"));
    node.refresh("/a", Mode::Expire);
    gate.add_permits(1);
    let outcome = report(&node).await.outcome;
    assert!(matches!(outcome, Outcome::Resident { bytes: 12, .. }), "the old body is not proof: {outcome:?}");
    assert_eq!(node.get("/a").await.text(), "the new body");
}

#[tokio::test]
async fn users_join_the_fetch_of_a_prefetch() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("a") });
    node.prefetch.accept([job(1, "/a", 0)].into_iter());
    origin.asked("/a", 1).await;
    assert_eq!(node.pipeline.fills().counts(), (1, 0));
    let address = node.address;
    let user = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    eventually("it is one that a user waits for", || node.pipeline.fills().counts() == (1, 1)).await;
    gate.add_permits(1);
    assert_eq!(user.await.unwrap().text(), "a");
    report(&node).await;
    eventually("it is over", || node.pipeline.fills().counts() == (0, 0)).await;
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn jobs_are_taken_once_withdrawn_and_bounded() {
    let Stage { node, .. } = Stage::set().await;
    let far = 1_000_000; // never begun
    node.prefetch.accept((0..10).map(|chunk| job(chunk, "/a", far)));
    node.prefetch.accept((0..10).map(|chunk| job(chunk, "/a", far)));
    assert_eq!(node.prefetch.counts(), (10, 0, 0));
    node.prefetch.withdraw(&[3, 4]);
    assert_eq!(node.prefetch.counts(), (8, 0, 0));
    node.prefetch.accept((100..5_000).map(|chunk| job(chunk, "/a", far)));
    assert_eq!(node.prefetch.counts().0, model::prefetch::JOBS_PER_NODE_MAX);
}

#[tokio::test]
async fn jobs_that_take_their_time_say_how_far_they_are() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/slow", Page { body_gate: Some(gate.clone()), ..Page::new(vec![1_u8; 200_000]) });
    node.prefetch.accept([job(7, "/slow", 0)].into_iter());
    let half = model::UnderWay { chunk: 7, index: 0, bytes: 100_000, length: 200_000 };
    eventually("half of it is there", || node.prefetch.under_way() == [half]).await;
    gate.add_permits(100);
    let Report { took_ms: 1.., outcome: Outcome::Resident { bytes: 200_000, .. }, .. } = report(&node).await else {
        panic!("resident")
    };
    assert!(node.prefetch.under_way().is_empty());
}

#[tokio::test]
async fn broken_body_is_continued_only_for_a_job_that_is_still_there() {
    for withdrawn in [false, true] {
        let Stage { origin, node, .. } = Stage::set().await;
        let gate = Arc::new(Semaphore::new(0));
        let page = Page::new(vec![1_u8; 200_000]);
        origin.put("/slow", Page { body_gate: Some(gate.clone()), cut: Some(150_000), ..page.clone() });
        node.prefetch.accept([job(7, "/slow", 0)].into_iter());
        let half = model::UnderWay { chunk: 7, index: 0, bytes: 100_000, length: 200_000 };
        eventually("half of it is there", || node.prefetch.under_way() == [half]).await;
        if withdrawn {
            node.prefetch.withdraw(&[7]);
            eventually("it is over", || node.prefetch.counts() == (0, 0, 0)).await;
        }
        origin.put("/slow", page);
        gate.add_permits(100); // the connection breaks after some more bytes
        eventually("it is stored or given up", || node.pipeline.fills().counts().0 == 0).await;
        assert_eq!(origin.seen("/slow").len(), if withdrawn { 1 } else { 2 });
        let got = node.get("/slow").await;
        assert_eq!(got.header("x-cache"), if withdrawn { "MISS from edge" } else { "HIT from edge" });
    }
}

#[tokio::test]
async fn job_does_not_wait_for_those_of_another_host_whose_origin_does_not_answer() {
    let Stage { origin, node, .. } = Stage::set().await;
    let other = "other.example.test";
    let domain = Domain::clone(node.knowing.known().knowledge.domains.values().next().unwrap());
    let well = Origin::start().await;
    let sources = vec![source(&well.address.ip().to_string(), well.address.port(), 20)];
    node.apply(Entry::Domain(Domain { name: DomainName::parse(other).unwrap(), sources, ..domain }));
    let never = Page { head_gate: Some(Arc::new(Semaphore::new(0))), ..Page::new("never") };
    (0..900).for_each(|index| origin.put(&format!("/{index}"), never.clone()));
    well.put("/a", Page::new("there"));
    let stuck = |index| Job { index, ..job(1, &format!("/{index}"), 0) };
    node.prefetch.accept((0..900).map(stuck));
    eventually("they stand in each other's way", || node.prefetch.counts().1 >= 100).await;
    node.prefetch.accept([Job { url: format!("http://{other}/a"), ..job(2, "/", 0) }].into_iter());
    let Report { chunk: 2, outcome: Outcome::Resident { bytes: 5, .. }, .. } = report(&node).await else {
        panic!("it is resident, and nothing else is over")
    };
}

#[test]
fn account_with_many_hosts_leaves_places_and_turns_to_another() {
    let prefetch = Prefetch::new();
    let of = |account, chunk: u64, host: &str| Job { account, url: format!("http://{host}/a"), ..job(chunk, "/", 0) };
    prefetch.accept((0..900).map(|n| of(1, n, &format!("{n}.many.test"))));
    let mut begun = Vec::new();
    while let Some(next) = prefetch.next(Revision(0), 256 - begun.len()) {
        begun.push(next);
    }
    assert_eq!(begun.len(), 192, "while none of its jobs ends, a quarter of the places is free");
    prefetch.accept((1_000..1_010).map(|n| of(2, n, "few.test")));
    let other: Vec<_> = (0..10).filter_map(|n| prefetch.next(Revision(0), 64 - n)).collect();
    assert!(other.iter().all(|begun| begun.job.account == 2) && other.len() == 10);

    prefetch.accept((2_000..2_003).map(|n| of(2, n, "few.test")));
    drop((begun, other));
    let turns: Vec<_> = (0..6).filter_map(|_| prefetch.next(Revision(0), 256)).map(|begun| begun.job.account).collect();
    assert_eq!(turns, [1, 2, 1, 2, 1, 2], "hundreds of chunks of the one are not before three of the other");
}

#[test]
fn chunks_take_turns_and_wait_for_nobody_elses_submission() {
    let prefetch = Prefetch::new();
    let numbered = |chunk, index, after| Job { index, ..job(chunk, "/a", after) };
    prefetch.accept((0..4).map(|index| numbered(1, index, 0)));
    prefetch.accept((0..2).map(|index| numbered(2, index, 9)));
    prefetch.accept((0..2).map(|index| numbered(3, index, 0)));
    let next = |applied| prefetch.next(Revision(applied), 64).map(|begun| (begun.job.chunk, begun.job.index));
    let first: Vec<_> = (0..3).map_while(|_| next(0)).collect();
    assert_eq!(first, [(1, 0), (3, 0), (1, 1)], "the second is not caught up with");
    let rest: Vec<_> = std::iter::from_fn(|| next(9)).collect();
    assert_eq!(rest, [(2, 0), (3, 1), (1, 2), (2, 1), (1, 3)]);
}

#[test]
fn what_became_of_a_withdrawn_job_is_not_said_of_the_same_one_given_out_anew() {
    let prefetch = Prefetch::new();
    prefetch.accept([job(1, "/a", 0)].into_iter());
    let begun = prefetch.next(Revision(0), 64).unwrap();
    prefetch.withdraw(&[1]);
    prefetch.accept([job(1, "/a", 5)].into_iter());
    prefetch.done(begun.job.report(1, Outcome::Failed(Cause::Evicted)), &begun.withdrawn);
    assert_eq!(prefetch.counts(), (1, 0, 0), "it waits, and nothing is to be told");
    let anew = prefetch.next(Revision(5), 64).unwrap();
    prefetch.done(anew.job.report(1, Outcome::Failed(Cause::Evicted)), &anew.withdrawn);
    assert_eq!(prefetch.counts(), (0, 0, 1));
}

#[tokio::test]
async fn failure_that_a_prefetch_brings_replaces_nothing_on_any_tier() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    origin.put("/a", Page::new("good").with("cache-control", "max-age=10, stale-if-error=60"));
    child.get("/a").await;
    for node in [&child, &parent] {
        node.settled().await;
    }
    clock.advance(Duration::from_secs(11));
    for node in [&child, &parent] {
        node.in_contact();
    }
    let broken = || Page { status: 500, ..Page::new("broken").with("etag", "") };
    origin.put("/a", broken());
    child.prefetch.accept([job(1, "/a", 0)].into_iter());
    assert_eq!(report(&child).await.outcome, Outcome::Failed(Cause::OriginStatus(500)));
    for node in [&child, &parent] {
        node.settled().await;
        let got = node.get("/a").await;
        assert_eq!((got.status, got.text()), (200, "good"));
    }

    // A prefetch fetches whole what is stored in slices.
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/v", Page::new(long(20, 1)));
    part(&node, "/v", "bytes=0-999").await;
    node.settled().await;
    origin.put("/v", broken());
    node.prefetch.accept([job(1, "/v", 0)].into_iter());
    assert_eq!(report(&node).await.outcome, Outcome::Failed(Cause::OriginStatus(500)));
    assert_eq!(part(&node, "/v", "bytes=0-999").await.header("x-cache"), "HIT from edge");
}
