//! When a refresh is complete: by acknowledgement, by lease, and not before.

use model::{Entry, Invalidation, ManualClock, Mode, Scope, Settings, UrlKey};
use tempfile::TempDir;

use super::*;
use crate::state::chunks::Kind;
use crate::state::nodes::Proof;
use crate::state::submit::Accepting;
use crate::testing::{clock, member, node, pop, prefetch, state};

const LEASE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// A process that folds when it is told to.
struct Rig {
    state: State,
    clock: Arc<ManualClock>,
    accepting: Accepting,
    task: Task,
    stopping: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl Rig {
    async fn start(state: &State, clock: &Arc<ManualClock>) -> Rig {
        let stopping = CancellationToken::new();
        let following = Following::start(state.clone(), clock.clone(), stopping.clone()).await.unwrap();
        let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
        let task = Task::new(state.clone(), following, clock.clone()).await.unwrap();
        Rig { state: state.clone(), clock: clock.clone(), accepting, task, stopping }
    }

    async fn refresh(&self, nonce: &str) -> Revision {
        let mut submission = prefetch("me", nonce, 1, millis(self.clock.now()));
        let group = &mut submission.groups[0];
        group.kind = Kind::RefreshFile;
        let scope = Scope::File(UrlKey::new("a.com", "/x").unwrap());
        group.invalidations = vec![Invalidation { scope, mode: Mode::Delete }];
        self.accepting.submit(submission).await.unwrap();
        self.known().await
    }

    async fn append(&self, entry: Entry) -> Revision {
        self.state.append(&[entry]).await.unwrap();
        self.known().await
    }

    /// Waits until this process knows the head of the log.
    async fn known(&self) -> Revision {
        let head = self.state.head().await.unwrap();
        self.task.following.reach(head).await.unwrap().head
    }

    /// What is open after one look.
    async fn open(&mut self) -> Vec<Revision> {
        self.task.fold().await.unwrap();
        self.state.open_refreshes(100).await.unwrap()
    }

    fn acknowledge(&self, name: &str, revision: Revision) {
        self.task.acknowledged.take(&node(name), revision);
    }
}

#[tokio::test]
async fn acknowledgement_of_every_member_completes() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2"]).await, &clock()).await;
    let first = rig.refresh("1").await;
    let second = rig.refresh("2").await;
    let third = rig.refresh("3").await;
    rig.acknowledge("p-1", third);
    rig.acknowledge("stranger", third);
    assert_eq!(rig.open().await, [first, second, third]);
    assert_eq!(rig.task.acknowledged.share(&rig.task.following.now(), first), (1, 2));
    rig.acknowledge("p-2", second);
    rig.acknowledge("p-2", first);
    assert_eq!(rig.open().await, [third], "an acknowledgement says all below it, and never falls");
    rig.acknowledge("p-2", third);
    assert_eq!(rig.open().await, []);
}

#[tokio::test]
async fn without_members_it_completes_at_once() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &[]).await, &clock()).await;
    rig.refresh("1").await;
    assert_eq!(rig.open().await, []);
}

#[tokio::test]
async fn lease_and_margin_complete_for_who_is_silent() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2"]).await, &clock()).await;
    let first = rig.refresh("1").await;
    rig.acknowledge("p-1", first);
    assert_eq!(rig.open().await, [first]);
    rig.clock.advance(LEASE);
    let second = rig.refresh("2").await;
    rig.acknowledge("p-1", second);
    assert_eq!(rig.open().await, [first, second], "the margin is not over");
    rig.clock.advance(MARGIN);
    assert_eq!(rig.open().await, [second], "each counts from when it was first seen");
    rig.clock.advance(LEASE);
    assert_eq!(rig.open().await, []);
}

#[tokio::test]
async fn member_that_serves_in_isolation_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2"]).await, &clock()).await;
    rig.append(Entry::Member(model::Member { isolation: model::Isolation::Serve, ..member("p-2") })).await;
    let revision = rig.refresh("1").await;
    assert_eq!(rig.open().await, [revision]);
    rig.clock.advance(1_000 * LEASE);
    assert_eq!(rig.open().await, [revision]);
    rig.acknowledge("p-2", revision);
    assert_eq!(rig.open().await, [], "the other one's lease is long over");
}

#[tokio::test]
async fn process_that_restarted_counts_anew_but_knows_acknowledgements() {
    let dir = TempDir::new().unwrap();
    let (state, clock) = (state(&dir, &[]).await, clock());
    state.append(&[Entry::Pop(pop("p"))]).await.unwrap();
    state.create_join_token("t", "s", u64::MAX >> 1).await.unwrap();
    let (_, known) = state.knowledge().await.unwrap();
    state.admit(Proof::Token { id: "t", secret: "s" }, &member("p-1"), &known, "1", 0).await.unwrap();

    let mut rig = Rig::start(&state, &clock).await;
    let first = rig.refresh("1").await;
    assert_eq!(rig.open().await, [first]);
    clock.advance(LEASE);
    drop(rig);
    let mut rig = Rig::start(&state, &clock).await;
    clock.advance(MARGIN);
    assert_eq!(rig.open().await, [first], "this process has known it for a second");
    clock.advance(LEASE);
    assert_eq!(rig.open().await, []);

    let second = rig.refresh("2").await;
    let third = rig.refresh("3").await;
    rig.acknowledge("p-1", second);
    assert_eq!(rig.open().await, [third]);
    drop(rig);
    let mut rig = Rig::start(&state, &clock).await;
    assert_eq!(rig.open().await, [third]);
    assert_eq!(rig.task.passed, second, "what was acknowledged before the restart");
}

#[tokio::test]
async fn removed_member_is_not_waited_for_and_a_new_one_is() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2"]).await, &clock()).await;
    let first = rig.refresh("1").await;
    rig.acknowledge("p-1", first);
    assert_eq!(rig.open().await, [first]);
    rig.append(Entry::MemberRemoved(node("p-2"))).await;
    assert_eq!(rig.open().await, []);
    let joined = rig.append(Entry::Member(member("p-3"))).await;
    let second = rig.refresh("2").await;
    rig.acknowledge("p-1", second);
    assert_eq!(rig.open().await, [second]);
    rig.acknowledge("p-3", joined);
    assert_eq!(rig.open().await, [second]);
    rig.acknowledge("p-3", second);
    assert_eq!(rig.open().await, []);
}

#[tokio::test]
async fn longer_lease_counts_until_the_shorter_one_is_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2"]).await, &clock()).await;
    rig.append(Entry::Settings(Settings { lease_secs: 60 })).await;
    let longer = rig.known().await;
    for name in ["p-1", "p-2"] {
        rig.acknowledge(name, longer);
    }
    let shorter = rig.append(Entry::Settings(Settings { lease_secs: 5 })).await;
    rig.acknowledge("p-1", shorter);
    let first = rig.refresh("1").await;
    assert_eq!(rig.open().await, [first]);
    rig.clock.advance(60 * SECOND);
    assert_eq!(rig.open().await, [first], "the node that has not heard may go by the minute");
    rig.clock.advance(SECOND);
    assert_eq!(rig.open().await, []);
    rig.acknowledge("p-2", shorter);
    let second = rig.refresh("2").await;
    assert_eq!(rig.open().await, [second]);
    rig.clock.advance(6 * SECOND);
    assert_eq!(rig.open().await, [], "now all go by the shorter one");

    let third = rig.refresh("3").await;
    rig.append(Entry::Settings(Settings { lease_secs: 30 })).await;
    assert_eq!(rig.open().await, [third]);
    rig.clock.advance(30 * SECOND);
    assert_eq!(rig.open().await, [third], "a longer one counts from when it is there");
    rig.clock.advance(SECOND);
    assert_eq!(rig.open().await, []);
}

#[test]
fn thinning_is_bounded_and_keeps_the_newest() {
    for count in [SIGHTS_MAX, SIGHTS_MAX + 1, SIGHTS_MAX + 2] {
        let mut sights: VecDeque<(Revision, Moment)> =
            (1..=count as u64).map(|at| (Revision(at), Moment::at(Duration::from_secs(at)))).collect();
        let newest = sights.back().copied();
        thin(&mut sights);
        assert!(sights.len() <= SIGHTS_MAX && sights.len() >= SIGHTS_MAX / 2);
        assert_eq!(sights.back().copied(), newest);
        assert!(sights.iter().is_sorted());
    }
}
