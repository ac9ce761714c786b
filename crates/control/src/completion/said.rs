//! What members have reported: the revision they acknowledged, when they were last heard, what they swept. Also what
//! this process has observed itself: when it first saw each head of the log.
//!
//! Sessions write it; the folding task and queries about tasks read it.
//!
//! # What always holds
//!
//! - Every table has at most one value per member, except swept amounts, of which at most [`SWEPT_MAX`] wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::fence::{self, MemberView, Passed};
use model::mistake::{Mistake, made};
use model::{Isolation, Moment, NodeName, Revision};
use tokio::sync::Notify;

use super::thin;
use crate::known::Known;
use crate::state::completions::CompletionMember;
use crate::state::nodes::NodeRow;

/// The most nodes that are named when a task waits.
pub(crate) const NAMED_MAX: usize = 20;

/// Swept amounts, by revision and node, that wait to be written. If there are more, the oldest are dropped, so a
/// receipt states a lower bound of what was swept.
const SWEPT_MAX: usize = 200_000;

/// What members have reported. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Acknowledged {
    shared: Arc<Shared>,
}

struct Shared {
    margin: Duration,
    /// Acknowledgements in the database, and when they were recorded, in milliseconds since 1970.
    kept: Mutex<BTreeMap<NodeName, (Revision, u64)>>,
    /// Acknowledgements not yet in the database.
    fresh: Mutex<BTreeMap<NodeName, Revision>>,
    /// When each node was last heard here, in milliseconds since 1970.
    heard: Mutex<BTreeMap<NodeName, u64>>,
    sights: Mutex<Sights>,
    swept: Mutex<Swept>,
    wake: Notify,
}

#[derive(Default)]
struct Sights {
    /// Heads of the log and when this process first saw them, both rising.
    seen: VecDeque<(Revision, Moment)>,
    /// The longest lease as of the last query.
    lease: Option<Duration>,
}

/// Objects and bytes that nodes have swept for each revision.
type SweptAmounts = BTreeMap<Revision, BTreeMap<NodeName, (u64, u64)>>;

#[derive(Default)]
struct Swept {
    upto: BTreeMap<NodeName, Revision>,
    /// Nodes whose `upto` is not in the database as it is here.
    unkept: BTreeSet<NodeName>,
    /// Up to which revision the amounts that each node swept are in the database.
    written: BTreeMap<NodeName, Revision>,
    waiting: SweptAmounts,
    count: usize,
}

/// The members that a revision waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Members not past it, at most [`NAMED_MAX`]: those without a time limit first, then the longest silent.
    pub(crate) nodes: Vec<WaitedFor>,
    /// How many more there are.
    pub(crate) more: usize,
}

/// A member that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitedFor {
    /// Its name.
    pub(crate) node: NodeName,
    /// When it was last heard here, in milliseconds since 1970; `None`: not since this process started.
    pub(crate) heard_ms: Option<u64>,
    /// The highest revision it acknowledged.
    pub(crate) acked: Revision,
    /// The longest that it is still waited for; `None`: until it acknowledges.
    pub(crate) at_most: Option<Duration>,
}

impl Acknowledged {
    /// `kept` is what the database has for each node.
    pub(super) fn new(kept: BTreeMap<NodeName, (Revision, u64)>, margin: Duration) -> Acknowledged {
        let shared = Shared {
            margin,
            kept: Mutex::new(kept),
            fresh: Mutex::default(),
            heard: Mutex::default(),
            sights: Mutex::default(),
            swept: Mutex::default(),
            wake: Notify::new(),
        };
        Acknowledged { shared: Arc::new(shared) }
    }

    /// A node acknowledged everything up to `revision`.
    pub(crate) fn take(&self, node: &NodeName, revision: Revision) {
        let mut fresh = lock(&self.shared.fresh);
        let entry = fresh.entry(node.clone()).or_default();
        *entry = (*entry).max(revision);
        drop(fresh);
        self.shared.wake.notify_one();
    }

    /// A node's heartbeat arrived.
    pub(crate) fn heard(&self, node: &NodeName, now_ms: u64) {
        lock(&self.shared.heard).insert(node.clone(), now_ms);
    }

    /// A node has swept its store up to `upto`, removing these numbers of objects and bytes for these entries.
    pub(crate) fn swept(
        &self,
        node: &NodeName,
        upto: Revision,
        entries: impl IntoIterator<Item = (Revision, (u64, u64))>,
    ) {
        let mut swept = lock(&self.shared.swept);
        if swept.upto.insert(node.clone(), upto) != Some(upto) {
            swept.unkept.insert(node.clone());
        }
        for (revision, amount) in entries.into_iter().filter(|(revision, _)| *revision > Revision::ZERO) {
            swept.add(revision, node, amount);
        }
    }

    /// How many swept amounts wait to be written, and how many may.
    pub(crate) fn swept_waiting(&self) -> (usize, usize) {
        (lock(&self.shared.swept).count, SWEPT_MAX)
    }

    /// Up to which revision nodes have swept their stores, as reported to this process and with the amounts in the
    /// database.
    pub(crate) fn swept_upto(&self) -> BTreeMap<NodeName, Revision> {
        lock(&self.shared.swept).written.clone()
    }

    /// Takes the swept revisions of nodes that are not in the database.
    pub(super) fn take_swept_upto(&self) -> Vec<(NodeName, Revision)> {
        let mut swept = lock(&self.shared.swept);
        let unkept = std::mem::take(&mut swept.unkept);
        unkept.into_iter().filter_map(|node| swept.upto.get(&node).map(|upto| (node.clone(), *upto))).collect()
    }

    /// Puts back what could not be written.
    pub(super) fn swept_upto_again(&self, nodes: Vec<(NodeName, Revision)>) {
        lock(&self.shared.swept).unkept.extend(nodes.into_iter().map(|(node, _)| node));
    }

    /// How many of the members have acknowledged `revision`, and how many there are.
    pub(crate) fn share(&self, known: &Known, revision: Revision) -> (usize, usize) {
        let kept = lock(&self.shared.kept);
        let members = &known.knowledge.topology.members;
        let past = members.keys().filter(|name| kept.get(*name).is_some_and(|(acked, _)| *acked >= revision)).count();
        (past, members.len())
    }

    /// The members that `revision` waits for at the moment `now`.
    pub(crate) fn waiting(&self, known: &Known, revision: Revision, now: Moment) -> Waiting {
        let (known_for, lease) = self.known_for(known, revision, now);
        let margin = self.shared.margin;
        let heard = lock(&self.shared.heard);
        let mut nodes: Vec<WaitedFor> = self
            .members(known)
            .into_iter()
            .filter(|member| {
                let view = MemberView { acked: member.acked, isolation: member.isolation };
                fence::passed(revision, view, known_for, lease, margin) == Passed::Waiting
            })
            .map(|member| WaitedFor {
                heard_ms: heard.get(&member.node).copied(),
                acked: member.acked,
                at_most: (member.isolation != Isolation::Serve).then(|| (lease + margin).saturating_sub(known_for)),
                node: member.node,
            })
            .collect();
        // First nodes waited for without a time limit, then those silent for longest.
        nodes.sort_by(|a, b| {
            (a.at_most.is_some(), a.heard_ms, &a.node).cmp(&(b.at_most.is_some(), b.heard_ms, &b.node))
        });
        let more = nodes.len().saturating_sub(NAMED_MAX);
        nodes.truncate(NAMED_MAX);
        Waiting { nodes, more }
    }

    /// How long this process has known `revision` to be committed, and the lease that applies.
    fn known_for(&self, known: &Known, revision: Revision, now: Moment) -> (Duration, Duration) {
        let sights = lock(&self.shared.sights);
        let seen = sights.seen.iter().find(|(head, _)| *head >= revision).map(|(_, seen)| *seen);
        let seen = seen.or((known.head >= revision).then_some(known.seen));
        let lease = sights.lease.unwrap_or_default().max(known.knowledge.settings.lease());
        (seen.map_or(Duration::ZERO, |seen| now.since(seen)), lease)
    }

    /// Waits until a node has acknowledged something.
    pub(super) async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// Every member, with its acknowledgement in the database.
    pub(super) fn members(&self, known: &Known) -> Vec<CompletionMember> {
        let kept = lock(&self.shared.kept);
        let of = |member: &model::Member| {
            let (acked, acked_ms) = kept.get(&member.name).copied().unwrap_or_default();
            CompletionMember { node: member.name.clone(), isolation: member.isolation, acked, acked_ms }
        };
        known.knowledge.topology.members.values().map(of).collect()
    }

    /// Takes the acknowledgements that are not in the database.
    pub(super) fn take_fresh(&self) -> Vec<(NodeName, Revision)> {
        std::mem::take(&mut *lock(&self.shared.fresh)).into_iter().collect()
    }

    /// Records that these acknowledgements are in the database now.
    pub(super) fn keep(&self, acknowledged: Vec<(NodeName, Revision)>, now_ms: u64) {
        let mut kept = lock(&self.shared.kept);
        for (node, revision) in acknowledged {
            let entry = kept.entry(node).or_default();
            if revision > entry.0 {
                *entry = (revision, now_ms);
            }
        }
    }

    /// Takes over acknowledgements from the database, whichever process wrote them.
    pub(super) fn keep_all(&self, rows: Vec<NodeRow>) {
        let mut kept = lock(&self.shared.kept);
        for row in rows {
            let entry = kept.entry(row.name).or_default();
            if row.acked > entry.0 {
                *entry = (row.acked, row.acked_ms);
            }
        }
    }

    /// Records the head that this process knows, and drops what is kept of nodes that are no longer members.
    pub(super) fn sighted(&self, known: &Known) {
        let mut sights = lock(&self.shared.sights);
        if sights.seen.back().is_none_or(|(last, _)| *last < known.head) {
            let anew = sights.seen.is_empty() && made(Mistake::ControlDoesNotWaitAnew);
            sights.seen.push_back((known.head, if anew { Moment::at(Duration::ZERO) } else { known.seen }));
            thin(&mut sights.seen);
        }
        drop(sights);
        let members = &known.knowledge.topology.members;
        let mut heard = lock(&self.shared.heard);
        if heard.len() > members.len() {
            heard.retain(|node, _| members.contains_key(node));
        }
        let swept = &mut *lock(&self.shared.swept);
        if swept.upto.len() > members.len() {
            swept.upto.retain(|node, _| members.contains_key(node));
            swept.unkept.retain(|node| members.contains_key(node));
            swept.written.retain(|node, _| members.contains_key(node));
        }
    }

    /// Records the longest lease that a member may still rely on.
    pub(super) fn leased(&self, lease: Duration) {
        lock(&self.shared.sights).lease = Some(lease);
    }

    /// The last sight for which `passed` holds. It must hold for all earlier ones.
    pub(super) fn last_sight(&self, passed: impl Fn(Revision, Moment) -> bool) -> Option<(Revision, Moment)> {
        let sights = lock(&self.shared.sights);
        let past = sights.seen.partition_point(|(head, seen)| passed(*head, *seen));
        past.checked_sub(1).and_then(|at| sights.seen.get(at)).copied()
    }

    /// Drops sights up to `passed`: those revisions are no longer asked about.
    pub(super) fn forget_sights(&self, passed: Revision) {
        let mut sights = lock(&self.shared.sights);
        while sights.seen.len() > 1 && sights.seen.front().is_some_and(|(head, _)| *head <= passed) {
            sights.seen.pop_front();
        }
    }

    /// Takes the amounts swept for revisions up to `passed`, and up to which of these each node has swept.
    pub(super) fn take_swept(&self, passed: Revision) -> (SweptAmounts, BTreeMap<NodeName, Revision>) {
        let mut swept = lock(&self.shared.swept);
        let rest = swept.waiting.split_off(&passed.next());
        let taken = std::mem::replace(&mut swept.waiting, rest);
        swept.count -= taken.values().map(BTreeMap::len).sum::<usize>();
        let upto = swept.upto.iter().map(|(node, upto)| (node.clone(), (*upto).min(passed)));
        let upto = upto.collect();
        (taken, upto)
    }

    /// Records up to which revision swept amounts are in the database.
    pub(super) fn swept_written(&self, upto: BTreeMap<NodeName, Revision>) {
        lock(&self.shared.swept).written = upto;
    }

    /// Puts back amounts that could not be written.
    pub(super) fn swept_again(&self, taken: SweptAmounts) {
        let mut swept = lock(&self.shared.swept);
        for (revision, of) in taken {
            of.into_iter().for_each(|(node, amount)| swept.add(revision, &node, amount));
        }
    }
}

impl Swept {
    fn add(&mut self, revision: Revision, node: &NodeName, (objects, bytes): (u64, u64)) {
        let of = self.waiting.entry(revision).or_default();
        let before = of.len();
        let sum = of.entry(node.clone()).or_default();
        *sum = (sum.0.saturating_add(objects), sum.1.saturating_add(bytes));
        self.count += of.len() - before;
        while self.count > SWEPT_MAX {
            let Some((_, oldest)) = self.waiting.pop_first() else { break };
            self.count -= oldest.len();
        }
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().expect("no holder of this lock can panic")
}
