//! When a refresh is complete: by acknowledgement, by lease, and not before.

use model::{Entry, Invalidation, ManualClock, Mode, Scope, Settings, UrlKey};
use tempfile::TempDir;

use super::*;
use crate::state::chunks::Kind;
use crate::state::domains::{DomainDetail, NewDomain};
use crate::state::nodes::Proof;
use crate::state::submit::Accepting;
use crate::testing::{clock, member, node, pop, prefetch, state};

const LEASE: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);

/// A process that folds only on demand.
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
        let task = Task::new(state.clone(), following, clock.clone(), MARGIN).await.unwrap();
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

    /// The refreshes that are open after one fold.
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
async fn deletion_waits_for_every_member_to_have_swept_whatever_its_lease() {
    let dir = TempDir::new().unwrap();
    let state = state(&dir, &[]).await;
    // Members with rows, as after a hello.
    state.append(&[Entry::Pop(pop("p"))]).await.unwrap();
    for (name, id) in [("p-1", "1"), ("p-2", "2")] {
        state.create_join_token(id, "secret", u64::MAX >> 1).await.unwrap();
        let known = state.knowledge().await.unwrap().1;
        let proof = Proof::Token { id, secret: "secret" };
        state.admit(proof, &member(name), &known, "test", 0).await.map_err(|error| error.to_string()).unwrap();
    }
    let mut rig = Rig::start(&state, &clock()).await;
    let domain = crate::testing::domain("gone.com");
    let new = NewDomain { domain: domain.clone(), detail: DomainDetail::default(), labels: Vec::new() };
    let added = state.add_domains("me", vec![new], 1).await.unwrap();
    let at = state.remove_domain("me", domain, &DomainDetail::default(), added, 2).await.unwrap();
    rig.known().await;
    let is_there = async |rig: &mut Rig| {
        rig.task.fold().await.unwrap();
        rig.task.finish_deletions().await.unwrap();
        !state.domains().await.unwrap().is_empty()
    };
    assert!(is_there(&mut rig).await);
    ["p-1", "p-2"].iter().for_each(|name| rig.acknowledge(name, at));
    rig.task.acknowledged.swept(&node("p-1"), at, []);
    assert!(is_there(&mut rig).await, "the other one still has bytes");
    rig.clock.advance(1_000 * LEASE);
    assert!(is_there(&mut rig).await, "and that its lease is over does not take them");
    rig.task.acknowledged.swept(&node("p-2"), Revision(at.0 - 1), []);
    assert!(is_there(&mut rig).await);
    rig.task.acknowledged.swept(&node("p-2"), at, []);
    assert!(!is_there(&mut rig).await);
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

#[tokio::test]
async fn who_is_waited_for_is_named_with_what_is_known_of_him() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2", "p-3"]).await, &clock()).await;
    rig.append(Entry::Member(model::Member { isolation: model::Isolation::Serve, ..member("p-3") })).await;
    let now_ms = millis(rig.clock.now());
    rig.task.acknowledged.heard(&node("p-2"), now_ms);
    let before = rig.known().await;
    rig.acknowledge("p-3", before);
    rig.clock.advance(SECOND);
    let revision = rig.refresh("1").await;
    rig.acknowledge("p-1", revision);
    assert_eq!(rig.open().await, [revision]);
    let waiting =
        |rig: &Rig| rig.task.acknowledged.waiting(&rig.task.following.now(), revision, rig.clock.moment()).nodes;
    let cut_off =
        |left| WaitedFor { node: node("p-2"), heard_ms: Some(now_ms), acked: Revision::ZERO, at_most: Some(left) };
    let serving = WaitedFor { node: node("p-3"), heard_ms: None, acked: before, at_most: None };
    assert_eq!(waiting(&rig), [serving.clone(), cut_off(LEASE + MARGIN)]);
    rig.clock.advance(4 * SECOND);
    assert_eq!(waiting(&rig), [serving.clone(), cut_off(LEASE + MARGIN - 4 * SECOND)]);
    rig.clock.advance(1_000 * LEASE);
    assert_eq!(waiting(&rig), [serving], "it is waited for for ever, and named");
    rig.acknowledge("p-3", revision);
    assert_eq!(rig.open().await, []);
    assert_eq!(waiting(&rig), []);
}

#[tokio::test]
async fn many_who_are_waited_for_are_counted() {
    let dir = TempDir::new().unwrap();
    let names: Vec<String> = (0..30).map(|n| format!("p-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rig = Rig::start(&state(&dir, &names).await, &clock()).await;
    let revision = rig.refresh("1").await;
    assert_eq!(rig.open().await, [revision]);
    let waiting = rig.task.acknowledged.waiting(&rig.task.following.now(), revision, rig.clock.moment());
    assert_eq!((waiting.nodes.len(), waiting.more), (20, 10));
}

#[tokio::test]
async fn step_is_kept_with_the_right_by_which_it_completed() {
    let dir = TempDir::new().unwrap();
    let mut rig = Rig::start(&state(&dir, &["p-1", "p-2"]).await, &clock()).await;
    let first = rig.refresh("1").await;
    rig.acknowledge("p-1", first);
    rig.acknowledge("p-2", first);
    let acknowledged_ms = millis(rig.clock.now());
    assert_eq!(rig.open().await, []);
    let of = |rig: &Rig, revision| {
        let state = rig.state.clone();
        async move { state.completion_of(revision).await.unwrap().unwrap() }
    };
    let step = of(&rig, first).await;
    assert_eq!((step.range, step.completed_ms), ((first, first), acknowledged_ms));
    let member = |name, acked: Revision, acked_ms| CompletionMember {
        node: node(name),
        isolation: model::Isolation::Revalidate,
        acked,
        acked_ms,
    };
    assert_eq!(step.members, [member("p-1", first, acknowledged_ms), member("p-2", first, acknowledged_ms)]);

    rig.clock.advance(SECOND);
    let second = rig.refresh("2").await;
    let third = rig.refresh("3").await;
    rig.acknowledge("p-1", third);
    assert_eq!(rig.open().await, [second, third]);
    rig.clock.advance(LEASE + MARGIN);
    assert_eq!(rig.open().await, []);
    let step = of(&rig, second).await;
    assert_eq!(step.range, (second, third), "one step, one row");
    let then = [member("p-1", third, acknowledged_ms + 1_000), member("p-2", first, acknowledged_ms)];
    assert_eq!((step.members.as_slice(), step.known_for_ms), (&then[..], 11_000));
    assert_eq!((step.lease_ms, step.margin_ms), (10_000, 1_000));

    // Amounts swept before the step was written are added to it, and so are later ones.
    let swept = |node: &str, revision, amount| {
        rig.task.acknowledged.swept(&crate::testing::node(node), third, [(revision, amount)]);
    };
    swept("p-1", second, (1, 10));
    swept("p-1", third.next(), (7, 70));
    rig.task.keep_swept().await.unwrap();
    swept("p-1", second, (1, 5));
    swept("p-2", third, (2, 2));
    assert_eq!(rig.task.acknowledged.swept_upto().get(&node("p-2")), None, "a receipt has nothing of it yet");
    rig.task.keep_swept().await.unwrap();
    let each = [((second, 0), (2, 15)), ((third, 1), (2, 2))];
    assert_eq!(of(&rig, third).await.swept, Amounts::Each(each.into()));
    let upto = rig.task.acknowledged.swept_upto();
    assert_eq!((upto.get(&node("p-2")), upto.get(&node("p-3"))), (Some(&third), None));
}

#[test]
fn what_is_written_down_does_not_grow_with_the_members() {
    for members in [0, 1, 100, 1_000, 10_000] {
        let steps_a_second = 1.0 / pace(members).as_secs_f64();
        assert!(steps_a_second <= 100.0 && steps_a_second * members as f64 <= 10_000.1, "{members}");
    }
    assert!(pace(usize::MAX) <= Duration::from_secs(1));
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
