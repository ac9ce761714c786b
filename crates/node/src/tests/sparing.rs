//! Origins are spared: prefetches wait for their turn and for the time that an origin names, users do not.

use super::functions::with;
use super::prefetching::{job, report};
use super::tiers::{Tiers, tiers};
use super::*;
use model::{Cause, Job, Outcome};

/// Users who wait for an origin that does not answer yet: as many as its first limit allows.
async fn busy(origin: &Origin, node: &TestNode) -> (Arc<Semaphore>, Vec<tokio::task::JoinHandle<Got>>) {
    let gate = Arc::new(Semaphore::new(0));
    let mut users = Vec::new();
    for n in 0..4 {
        let path = format!("/busy-{n}");
        origin.put(&path, Page { head_gate: Some(gate.clone()), ..Page::new("busy") });
        let (address, asked) = (node.address, path.clone());
        users.push(tokio::spawn(async move { ask(address, Method::GET, &asked, &[], false).await }));
        origin.asked(&path, 1).await;
    }
    (gate, users)
}

#[tokio::test]
async fn no_prefetch_asks_an_origin_before_the_moment_it_named_and_users_do() {
    // A 429 in answer to a user may be about that user alone.
    for (status, by_user, heeded) in [(503, true, true), (503, false, true), (429, false, true), (429, true, false)] {
        let Stage { origin, node, .. } = Stage::set().await;
        origin.put("/a", Page { status, ..Page::new("not now").with("retry-after", "300") });
        origin.put("/b", Page::new("b"));
        origin.put("/c", Page::new("c"));
        if by_user {
            assert_eq!(node.get("/a").await.status, status, "its own word");
        } else {
            node.prefetch.accept([job(1, "/a", 0)].into_iter());
            assert_eq!(report(&node).await.outcome, Outcome::Failed(Cause::OriginStatus(status)));
        }
        node.prefetch.accept([job(2, "/b", 0)].into_iter());
        let outcome = report(&node).await.outcome;
        let put_off = matches!(outcome, Outcome::Failed(Cause::OriginBusy { seconds: 290..=300 }));
        assert_eq!((put_off, origin.seen("/b").len()), (heeded, usize::from(!heeded)), "{status}: {outcome:?}");
        assert_eq!(node.get("/c").await.text(), "c", "what one page or one user was told is not for all others");
    }
}

#[tokio::test]
async fn prefetches_that_are_redirected_hold_no_place_while_they_wait_for_another() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(with(&node, &[("follow_302", &[("enable", "on"), ("max_tries", "2")])]));
    for n in 0..20 {
        let to = format!("/to-{n}");
        origin.put(&format!("/from-{n}"), Page { status: 302, ..Page::new("").with("location", &to) });
        origin.put(&to, Page::new(to.clone()));
    }
    node.prefetch.accept((0..20).map(|n| job(n, &format!("/from-{n}"), 0)));
    for _ in 0..20 {
        let report = report(&node).await;
        assert!(matches!(report.outcome, Outcome::Resident { .. }), "{report:?}");
    }
}

#[tokio::test]
async fn prefetch_waits_for_its_turn_until_a_user_wants_the_same() {
    let Stage { origin, node, .. } = Stage::set().await;
    let (gate, users) = busy(&origin, &node).await;
    origin.put("/p", Page::new("p"));
    origin.put("/q", Page::new("q"));
    node.prefetch.accept([job(1, "/p", 0), job(2, "/q", 0)].into_iter());
    eventually("both wait", || node.pipeline.fills().counts().0 == 6).await;
    assert_eq!(node.get("/p").await.text(), "p", "a user does not wait behind others");
    assert_eq!((origin.seen("/p").len(), origin.seen("/q").len()), (1, 0));
    assert_eq!(report(&node).await.chunk, 1);
    gate.add_permits(100);
    assert_eq!(report(&node).await.chunk, 2, "its turn came");
    for user in users {
        assert_eq!(user.await.unwrap().text(), "busy");
    }
}

#[tokio::test]
async fn user_of_a_child_hurries_what_its_parent_waits_with() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let (gate, users) = busy(&origin, &parent).await;
    origin.put("/p", Page::new("p"));
    child.prefetch.accept([job(1, "/p", 0)].into_iter());
    eventually("the parent waits", || parent.pipeline.fills().counts().0 == 5).await;
    assert_eq!(child.get("/p").await.text(), "p");
    let outcome = report(&child).await.outcome;
    assert!(matches!(outcome, Outcome::Resident { .. }), "{outcome:?}");
    assert_eq!(origin.seen("/p").len(), 1, "once, for both");
    gate.add_permits(100);
    for user in users {
        assert_eq!(user.await.unwrap().text(), "busy");
    }
}

#[tokio::test]
async fn withdrawn_job_that_waits_for_its_turn_is_not_begun_and_one_a_user_joined_is() {
    let Stage { origin, node, .. } = Stage::set().await;
    let (gate, users) = busy(&origin, &node).await;
    for path in ["/left", "/kept", "/joined"] {
        origin.put(path, Page { head_gate: Some(gate.clone()), ..Page::new(path) });
    }
    let jobs = [job(1, "/left", 0), job(2, "/kept", 0), job(3, "/joined", 0), job(4, "/kept", 0)];
    node.prefetch.accept(jobs.into_iter());
    eventually("all wait", || node.pipeline.fills().counts().0 == 7).await;
    let address = node.address;
    let user = tokio::spawn(async move { ask(address, Method::GET, "/joined", &[], false).await });
    origin.asked("/joined", 1).await;
    node.prefetch.withdraw(&[1, 2, 3]);
    eventually("nobody waits for the first", || node.pipeline.fills().counts().0 == 6).await;
    assert_eq!(node.prefetch.counts(), (0, 1, 0), "one job is left, which wants what another did");
    gate.add_permits(100);
    assert_eq!(report(&node).await.chunk, 4);
    assert_eq!(user.await.unwrap().text(), "/joined");
    for user in users {
        user.await.unwrap();
    }
    assert_eq!((origin.seen("/left").len(), origin.seen("/kept").len()), (0, 1));
    assert_eq!(node.prefetch.counts(), (0, 0, 0), "nothing is reported of what was withdrawn");
    // The control plane may send it again.
    node.prefetch.accept([job(1, "/left", 0)].into_iter());
    assert_eq!(report(&node).await.chunk, 1);
}

#[tokio::test]
async fn what_was_withdrawn_before_its_turn_is_no_second_try_when_it_is_given_again() {
    let Stage { origin, node, .. } = Stage::set().await;
    let (gate, users) = busy(&origin, &node).await;
    // More retries than the ten that are saved up at the beginning.
    let jobs = || (0..30).map(|n| job(n, &format!("/again-{n}"), 0));
    for n in 0..30 {
        origin.put(&format!("/again-{n}"), Page::new("again"));
    }
    node.prefetch.accept(jobs());
    eventually("all wait", || node.pipeline.fills().counts().0 == 34).await;
    node.prefetch.withdraw_all();
    eventually("nobody waits any more", || node.pipeline.fills().counts().0 == 4).await;
    gate.add_permits(100);
    node.prefetch.accept(jobs());
    for _ in 0..30 {
        let report = report(&node).await;
        assert!(matches!(report.outcome, Outcome::Resident { .. }), "{report:?}");
    }
    for user in users {
        user.await.unwrap();
    }
}

#[tokio::test]
async fn fetch_that_was_asked_for_goes_on_though_its_job_is_withdrawn() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("a") });
    node.prefetch.accept([job(1, "/a", 0)].into_iter());
    origin.asked("/a", 1).await;
    node.prefetch.withdraw(&[1]);
    gate.add_permits(1);
    eventually("it is stored", || node.pipeline.metrics().stored.get() == 1).await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
}

#[tokio::test]
async fn fetch_that_all_have_left_is_joined_by_whoever_comes_next() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("a") });
    node.prefetch.accept([job(1, "/a", 0)].into_iter());
    origin.asked("/a", 1).await;
    node.prefetch.withdraw(&[1]);
    node.prefetch.accept([job(2, "/a", 0)].into_iter());
    let address = node.address;
    let user = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    eventually("the user waits", || node.pipeline.metrics().requests_running.get() == 1).await;
    gate.add_permits(1);
    assert_eq!((user.await.unwrap().text(), report(&node).await.chunk), ("a", 2));
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn parent_drops_what_a_child_had_withdrawn_while_it_waited() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let (gate, users) = busy(&origin, &parent).await;
    origin.put("/p", Page::new("p"));
    child.prefetch.accept([job(1, "/p", 0)].into_iter());
    eventually("the parent waits", || parent.pipeline.fills().counts().0 == 5).await;
    child.prefetch.withdraw_all();
    eventually("it does not any more", || parent.pipeline.fills().counts().0 == 4).await;
    gate.add_permits(100);
    for user in users {
        assert_eq!(user.await.unwrap().text(), "busy");
    }
    assert_eq!(origin.seen("/p").len(), 0);
}

#[tokio::test]
async fn origin_that_fails_prefetches_in_a_row_is_left_alone_whatever_it_answers_users_in_between() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/limited", Page { status: 429, ..Page::new("you ask too much") });
    origin.put("/broken", Page { status: 500, ..Page::new("broken") });
    let mut put_off = 0;
    for n in 0..12 {
        let path = format!("/{n}");
        origin.put(&path, Page { status: 500, ..Page::new("broken") });
        node.prefetch.accept([job(n, &path, 0)].into_iter());
        match report(&node).await.outcome {
            Outcome::Failed(Cause::OriginStatus(500)) => {}
            Outcome::Failed(Cause::OriginBusy { .. }) => {
                assert_eq!(origin.seen(&path).len(), 0);
                put_off += 1;
            }
            other => panic!("{other:?}"),
        }
        for (path, status) in [("/limited", 429), ("/broken", 500)] {
            assert_eq!(node.get(path).await.status, status);
        }
    }
    assert!(put_off > 0, "it is never left alone");
}

#[tokio::test]
async fn job_that_failed_before_is_a_retry_at_whichever_node_that_was() {
    let far = tiers().await;
    let near = Stage::set().await;
    for (origin, node) in [(&near.origin, &near.node), (&far.origin, &far.child)] {
        for n in 0..40 {
            origin.put(&format!("/{n}"), Page::new("again"));
        }
        node.prefetch.accept((0..40).map(|n| Job { again: true, ..job(n, &format!("/{n}"), 0) }));
        let mut put_off = 0;
        for _ in 0..40 {
            put_off += usize::from(matches!(report(node).await.outcome, Outcome::Failed(Cause::OriginBusy { .. })));
        }
        // Ten are saved up at the beginning, and another comes every five seconds.
        assert!((20..=30).contains(&put_off), "{put_off} are put off");
        let asked: usize = (0..40).map(|n| origin.seen(&format!("/{n}")).len()).sum();
        assert_eq!(asked, 40 - put_off);
    }
}

const STALE_FOR_LONG: &str = "max-age=10, stale-while-revalidate=600";

#[tokio::test]
async fn what_is_validated_in_the_background_waits_for_the_moment_that_the_origin_named_and_users_do_not() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    origin.put("/a", Page::new("a").with("cache-control", STALE_FOR_LONG));
    origin.put("/b", Page { status: 503, ..Page::new("not now").with("retry-after", "300") });
    child.get("/a").await;
    child.settled().await;
    clock.advance(Duration::from_secs(11));
    // The parent has no copy of its own to answer with.
    parent.refresh("/a", Mode::Delete);
    for node in [&child, &parent] {
        node.settled().await;
        node.in_contact();
    }
    assert_eq!(child.get("/b").await.status, 503);
    assert_eq!(child.get("/a").await.header("x-cache"), "STALE from child");
    for node in [&child, &parent] {
        node.settled().await;
    }
    assert_eq!(origin.seen("/a").len(), 1, "it is left alone");
    let got = child.get_with("/a", &[("cache-control", "no-cache")]).await;
    assert_eq!((got.text(), origin.seen("/a").len()), ("a", 2), "a user who waits is not held back");
}

#[tokio::test]
async fn what_is_validated_in_the_background_yields_to_users_and_is_begun_by_a_later_request() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/a", Page::new("a").with("cache-control", STALE_FOR_LONG));
    node.get("/a").await;
    node.settled().await;
    clock.advance(Duration::from_secs(11));
    node.in_contact();
    let (gate, users) = busy(&origin, &node).await;
    let began = tokio::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(node.get("/a").await.header("x-cache"), "STALE from edge");
    }
    eventually("only users are left", || node.pipeline.fills().counts() == (4, 4)).await;
    assert_eq!(origin.seen("/a").len(), 1);
    let tried = node.pipeline.metrics().fetches.get() - 5;
    assert!(tried <= 1 + began.elapsed().as_secs(), "one of many requests tries in a second: {tried}");
    gate.add_permits(100);
    for user in users {
        user.await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while node.get("/a").await.header("x-cache") != "HIT from edge" {
        assert!(tokio::time::Instant::now() < deadline, "it was never validated");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(origin.seen("/a").len(), 2);
}
