//! Origins are spared: prefetches wait for their turn, users do not, and nobody asks before the moment that an origin named.

use super::prefetching::{job, report};
use super::tiers::{Tiers, tiers};
use super::*;
use model::{Cause, Outcome};

/// Users who wait for an origin that does not answer yet: as many as it is asked at a time in the beginning.
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
async fn nobody_asks_an_origin_before_the_moment_it_named() {
    for status in [429, 503] {
        let Stage { origin, node, .. } = Stage::set().await;
        origin.put("/a", Page { status, ..Page::new("not now").with("retry-after", "3") });
        origin.put("/b", Page::new("b"));
        assert_eq!(node.get("/a").await.status, status, "its own word");
        let refused = node.get("/b").await;
        assert_eq!(refused.status, 503, "{refused:?}");
        let after: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=3).contains(&after), "{after}");
        node.prefetch.accept([job(1, "/b", 0)].into_iter());
        let outcome = report(&node).await.outcome;
        assert!(matches!(outcome, Outcome::Failed(Cause::OriginBusy { seconds: 1..=3 })), "{outcome:?}");
        assert_eq!(origin.seen("/b").len(), 0, "{status}");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while node.get("/b").await.status != 200 {
            assert!(tokio::time::Instant::now() < deadline, "it is asked again when its time is over");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
