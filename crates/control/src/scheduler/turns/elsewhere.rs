//! Two control planes on one database.

use super::*;
use crate::scheduler::deadlines::LEFT_TO_OTHERS_MS;

impl Played {
    /// Another control plane on the same database, without connected or missed nodes.
    async fn beside(&self) -> Played {
        let (accepting, open) = Accepting::start(self.state.clone()).await.unwrap();
        let following = self.task.following.clone();
        let task = Task::new(self.state.clone(), open, following, self.clock.clone(), DEADLINE);
        let (state, clock, faults) = (self.state.clone(), self.clock.clone(), self.faults.clone());
        let mut other = Played { state, clock, accepting, task, next: Next::default(), faults, nodes: BTreeMap::new() };
        other.settle().await;
        tokio::time::advance(MISSED_MAX).await;
        other.settle().await;
        other
    }

    /// The open URLs it knows of, and how many chunks it has loaded.
    fn holds(&self) -> (u64, usize) {
        (self.task.open.urls(), self.task.account_of.len())
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_control_plane_without_nodes_accepted_is_done_by_the_one_that_has_them() {
    accepted_without_nodes(false).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_control_plane_accepted_that_has_other_nodes_is_done_by_the_one_that_has_its() {
    accepted_without_nodes(true).await;
}

async fn accepted_without_nodes(has_others: bool) {
    let mut with = Played::start(&["p-1"]).await;
    with.connect("p-1");
    with.submit("own", "n", 2).await;
    let mut without = with.beside().await;
    if has_others {
        without.connect("q-1");
    }
    with.settle().await;
    assert_eq!(with.jobs("p-1").len(), 2);
    for (nonce, urls) in [("first", 3), ("second", 4)] {
        without.submit("me", nonce, urls).await;
    }
    without.settle().await;
    assert_eq!(without.holds(), (2 + 7, 3));
    without.settle().await;
    with.settle().await;
    let jobs = with.jobs("p-1");
    assert_eq!(jobs.len(), 7, "what it did not accept itself, too");

    // The control plane without nodes does not report that there are none.
    with.clock.advance(DEADLINE + Duration::from_secs(1));
    let id = jobs[0].chunk;
    without.settle().await;
    assert_eq!(without.state.chunks(&[id]).await.unwrap()[0].finished_ms, 0);
    with.report("p-1", &jobs[..5], &RESIDENT);
    with.settle().await;
    let ended = without.state.chunks(&[id]).await.unwrap().remove(0);
    assert!(ended.finished_ms > 0);
    assert_eq!(line_state(&ended, 0), LineState::Resident);

    tokio::time::advance(Duration::from_secs(10)).await;
    without.settle().await;
    assert_eq!(without.holds(), (0, 0), "what ended elsewhere is open here no more");
    without.clock.advance(Duration::from_millis(LEFT_TO_OTHERS_MS));
    without.settle().await;
    assert_eq!(without.state.chunks(&[id]).await.unwrap().remove(0), ended);
}

#[tokio::test(start_paused = true)]
async fn control_planes_that_have_nodes_leave_each_other_what_they_accepted() {
    let mut one = Played::start(&["p-1", "q-1"]).await;
    one.connect("p-1");
    one.settle().await;
    let mut other = one.beside().await;
    other.connect("q-1");
    other.settle().await;
    other.submit("me", "n", 3).await;
    other.settle().await;
    one.settle().await;
    assert_eq!((other.jobs("q-1").len(), one.jobs("p-1").len()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_no_control_plane_has_nodes_for_ends_a_while_after_its_deadline() {
    let mut played = Played::start(&["p-1"]).await.beside().await;
    played.submit("me", "n", 2).await;
    played.settle().await;
    let id = played.task.account_of.keys().next().copied().unwrap();
    played.clock.advance(DEADLINE + Duration::from_millis(LEFT_TO_OTHERS_MS));
    played.settle().await;
    assert_eq!(played.state.chunks(&[id]).await.unwrap()[0].finished_ms, 0);
    played.clock.advance(Duration::from_millis(1));
    played.settle().await;
    let ended = played.state.chunks(&[id]).await.unwrap().remove(0);
    assert!((0..2).all(|path| line_state(&ended, path) == LineState::Failed(Cause::NoTarget)), "{ended:?}");
    assert_eq!(played.holds(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_node_held_that_joined_anew_through_another_control_plane_is_not_resident() {
    let mut played = Played::start(&["p-1", "q-1"]).await;
    played.connect("p-1");
    played.connect("q-1");
    played.submit("me", "n", 3).await;
    played.settle().await;
    let (of_p, of_q) = (played.jobs("p-1"), played.jobs("q-1"));
    played.report("p-1", &of_p, &RESIDENT);
    played.settle().await;

    played.task.take(Event::Gone { node: node("p-1"), session: 1 });
    tokio::time::advance(MISSED_MAX).await;
    played.settle().await;
    let head = played.state.append(&[Entry::Member(crate::testing::member("p-1"))]).await.unwrap();
    played.task.following.reach(head).await.unwrap();
    played.settle().await;
    played.report("q-1", &of_q, &RESIDENT);
    played.settle().await;
    let chunk = played.state.chunks(&[of_p[0].chunk]).await.unwrap().remove(0);
    assert_eq!(chunk.finished_ms, 0, "who joined anew holds nothing: {chunk:?}");
    assert_eq!(chunk.progress.resident.iter().filter(|holder| **holder > 0).count(), 3, "{chunk:?}");

    played.connect("p-1");
    played.settle().await;
    assert_eq!(played.jobs("p-1").len(), 3);
}
