//! Origins are spared: prefetches wait for their turn and for the time that an origin names, users do not.

use super::functions::with;
use super::prefetching::{job, report};
use super::tiers::{Tiers, tiers};
use super::*;
use model::{Cause, Outcome};

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
