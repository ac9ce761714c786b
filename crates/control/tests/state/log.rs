//! The log.

use std::collections::BTreeMap;

use control::state::State;
use control::state::log::COMPACTED_BATCH_MAX;
use control::state::memory::{Fault, Faults, Memory};
use control::state::nodes::{AdmitError, Proof};
use model::{
    Coverage, Entry, Invalidation, Isolation, Member, Mode, NodeName, Pop, PopName, Revision, Scope, Settings, Tier,
    UrlKey,
};

pub(crate) async fn log_is_read_in_order_and_compacted(state: &State) {
    let pop = Pop { name: PopName::parse("p").unwrap(), region: Coverage::Global, parents: BTreeMap::new() };
    let at = state.append(&[Entry::Pop(pop.clone())]).await.unwrap();
    assert_eq!(at, state.head().await.unwrap());
    let entries = state.entries_after(Revision::ZERO, 1_000).await.unwrap();
    assert!(entries.iter().zip(1..).all(|(entry, at)| entry.revision == Revision(at)), "no gap");
    assert_eq!(
        state.entries_after(Revision(1), 2).await.unwrap(),
        entries[1..3],
        "after is exclusive, and there is an end"
    );
    assert_eq!(state.entries_after(at, 1_000).await.unwrap(), []);
    assert_eq!(state.append(&[]).await.unwrap(), at, "nothing is no entry");
    state.compact(at.0).await.unwrap();
    state.compact(at.0 + 1).await.unwrap();
    assert_eq!(state.compacted().await.unwrap(), Revision::ZERO, "all of it is kept");
    assert_eq!(state.entries_after(Revision::ZERO, 1_000).await.unwrap(), entries);
    state.compact(1).await.unwrap();
    assert_eq!(state.compacted().await.unwrap(), Revision(at.0 - 1));
    assert_eq!(
        state.entries_after(Revision::ZERO, 1_000).await.unwrap().len(),
        1,
        "invalidations are gone, configuration is not"
    );
    let (head, known) = state.knowledge().await.unwrap();
    assert_eq!((head, known.topology.pops.get(&pop.name)), (at, Some(&pop)));
}

/// Every commit but the last is kept, and the caller told that it failed: what is seen is what each left.
#[tokio::test]
async fn who_is_behind_is_told_so_before_entries_go_and_they_go_some_at_a_time() {
    let (faults, scope) = (Faults::default(), Scope::File(UrlKey::new("a.com", "/1").unwrap()));
    let one = Invalidation { scope, mode: Mode::Delete };
    let state = Memory::default().open(&faults);
    let count = 2 * COMPACTED_BATCH_MAX + 5;
    let entries: Vec<Entry> = (0..count).map(|_| Entry::Invalidate(vec![one.clone()])).collect();
    state.append(&entries).await.unwrap();
    let left = async || state.entries_after(Revision::ZERO, u32::MAX).await.unwrap().len() as u64;

    for expected in [count, count - COMPACTED_BATCH_MAX, 5] {
        faults.push(Fault::AfterCommit);
        state.compact(0).await.unwrap_err();
        assert_eq!((state.compacted().await.unwrap(), left().await), (Revision(count), expected));
    }
    state.compact(0).await.unwrap();
    assert_eq!((state.compacted().await.unwrap(), left().await), (Revision(count), 0));
}

pub(crate) async fn leases_count_while_somebody_may_go_by_them(state: &State) {
    let set = async |lease_secs| state.append(&[Entry::Settings(Settings { lease_secs })]).await.unwrap();
    let lease = async |acked| state.longest_lease(acked).await.unwrap().as_secs();
    assert_eq!(lease(Revision::ZERO).await, Settings::default().lease_secs);
    let (long, short) = (set(60).await, set(5).await);
    let cases = [(Revision::ZERO, 60), (Revision(long.0 - 1), 60), (long, 60), (short, 5)];
    for (acked, expected) in cases {
        assert_eq!(lease(acked).await, expected, "{acked:?}");
    }
    state.compact(0).await.unwrap();
    assert_eq!(lease(long).await, 60, "settings are not compacted");
    let compacted = state.compacted().await.unwrap();
    state.compact(1).await.unwrap();
    assert_eq!(state.compacted().await.unwrap(), compacted, "it never falls");
    set(Settings::default().lease_secs).await;
}

/// What is read is what was committed: a transaction that was given up, before or after its first change, is not there.
pub(crate) async fn what_is_not_committed_never_was(state: &State) {
    let (head, known) = state.knowledge().await.unwrap();
    let nodes = state.nodes().await.unwrap();
    assert!(!state.remove_node(&NodeName::parse("nobody").unwrap()).await.unwrap());
    state.create_join_token("once", "first", 9_000_000).await.unwrap();
    assert!(state.create_join_token("once", "second", 9_000_000).await.is_err(), "an invitation is made once");
    let member = Member {
        name: NodeName::parse("late").unwrap(),
        pop: PopName::parse("p").unwrap(),
        tier: Tier::L2,
        advertise_url: "http://127.0.0.1:2".into(),
        isolation: Isolation::default(),
    };
    let second = Proof::Token { id: "once", secret: "second" };
    assert!(matches!(state.admit(second, &member, &known, "1", 5).await, Err(AdmitError::NotInvited)));
    state.acknowledge(&[(member.name.clone(), Revision(1))], 60).await.unwrap();
    assert_eq!((state.head().await.unwrap(), state.nodes().await.unwrap()), (head, nodes));

    // Callers that go away while they write take nothing with them: neither a part of what they wrote, nor the turn.
    let entries = [Entry::Settings(Settings::default())];
    for polls in 0..3 {
        let mut writing = std::pin::pin!(state.append(&entries));
        for _ in 0..polls {
            if futures_util::poll!(&mut writing).is_ready() {
                break;
            }
        }
    }
    let first = Proof::Token { id: "once", secret: "first" };
    assert!(state.admit(first, &member, &known, "1", 5).await.is_ok(), "the turn is free");
    let head = state.head().await.unwrap();
    let last = state.entries_after(Revision(head.0 - 1), 10).await.unwrap();
    assert_eq!(last.len(), 1, "the head is an entry, and there is none after it");
}
