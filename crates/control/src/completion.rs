//! Refreshes: acknowledgements and leases folded into tasks (fence rule 7), and domains into configured ones.
//!
//! A revision is passed when every member has acknowledged it, or when this process has itself known it to be committed for
//! longer than any lease that could still be trusted without it. A process that restarted starts counting anew.
//!
//! # What always holds
//!
//! - The members are those known at a head of the log at or above the revision.
//! - An acknowledgement counts once it is in the database.
//! - What has passed is marked in the database before anybody is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::fence::{self, MemberView, Passed};
use model::mistake::{Mistake, made};
use model::{Clock, Moment, NodeName, Revision};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::known::{Following, Known};
use crate::state::{State, StateError, millis};

/// Covers the drift of clocks over one lease and the longest pause between judging and sending (fence, assumption 3).
pub(crate) const MARGIN: Duration = Duration::from_secs(1);

/// How often leases are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Heads of the log whose first sight is remembered; when there are more, every other one goes, and what lies between
/// two that are kept counts from the later one.
const SIGHTS_MAX: usize = 4096;

/// Revisions looked at in one turn.
const REVISIONS_AT_ONCE: u32 = 10_000;

/// What nodes have acknowledged. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Acknowledged {
    shared: Arc<Shared>,
}

struct Shared {
    /// In the database.
    kept: Mutex<BTreeMap<NodeName, Revision>>,
    /// Not yet in the database; at most one for each member.
    fresh: Mutex<BTreeMap<NodeName, Revision>>,
    wake: Notify,
}

impl Acknowledged {
    /// A node acknowledged everything up to `revision`.
    pub(crate) fn take(&self, node: &NodeName, revision: Revision) {
        let mut fresh = self.shared.fresh.lock().expect("no holder of this lock can panic");
        let entry = fresh.entry(node.clone()).or_default();
        *entry = (*entry).max(revision);
        drop(fresh);
        self.shared.wake.notify_one();
    }

    /// How many of the members have acknowledged `revision`, and how many there are.
    pub(crate) fn share(&self, known: &Known, revision: Revision) -> (usize, usize) {
        let kept = self.shared.kept.lock().expect("no holder of this lock can panic");
        let members = &known.knowledge.topology.members;
        let past = members.keys().filter(|name| kept.get(*name).is_some_and(|acked| *acked >= revision)).count();
        (past, members.len())
    }
}

/// Starts folding. It goes on until `stopping` is cancelled.
pub(crate) async fn start(
    state: State,
    following: Following,
    clock: Arc<dyn Clock>,
    stopping: CancellationToken,
) -> Result<Acknowledged, StateError> {
    let task = Task::new(state, following, clock).await?;
    let acknowledged = task.acknowledged.clone();
    tokio::spawn(async move { stopping.run_until_cancelled(task.run()).await });
    Ok(acknowledged)
}

struct Task {
    state: State,
    following: Following,
    clock: Arc<dyn Clock>,
    acknowledged: Acknowledged,
    /// Heads of the log and when this process first saw them, both rising.
    sights: VecDeque<(Revision, Moment)>,
    /// Everything up to here was found passed.
    passed: Revision,
}

impl Task {
    async fn new(state: State, following: Following, clock: Arc<dyn Clock>) -> Result<Task, StateError> {
        let kept = state.nodes().await?.into_iter().map(|node| (node.name, node.acked)).collect();
        let shared = Shared { kept: Mutex::new(kept), fresh: Mutex::default(), wake: Notify::new() };
        let acknowledged = Acknowledged { shared: Arc::new(shared) };
        Ok(Task { state, following, clock, acknowledged, sights: VecDeque::new(), passed: Revision::ZERO })
    }

    async fn run(mut self) {
        let mut changes = self.following.changes();
        loop {
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = self.acknowledged.shared.wake.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.fold().await {
                tracing::error!(error = &error as &dyn std::error::Error, "acknowledgements could not be folded");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    async fn fold(&mut self) -> Result<(), StateError> {
        let known = self.following.now();
        if self.sights.back().is_none_or(|(head, _)| *head < known.head) {
            let anew = self.sights.is_empty() && self.passed == Revision::ZERO;
            let seen =
                if anew && made(Mistake::ControlDoesNotWaitAnew) { Moment::at(Duration::ZERO) } else { known.seen };
            self.sights.push_back((known.head, seen));
            thin(&mut self.sights);
        }
        self.keep_fresh().await?;

        let members = self.members(&known);
        let lowest = members.iter().map(|member| member.acked).min().unwrap_or(known.head).min(known.head);
        if lowest <= self.passed && self.passed >= known.head {
            return Ok(());
        }
        let mut passed = lowest.max(self.passed);
        let lease = if passed < known.head { self.state.longest_lease(lowest).await? } else { Duration::ZERO };
        let now = self.clock.moment();
        let margin = if made(Mistake::MarginBelowDrift) { Duration::ZERO } else { MARGIN };
        // Whoever is past one head is past those before it, which are lower and have been known for longer.
        let past = self.sights.partition_point(|(head, seen)| {
            members
                .iter()
                .all(|member| fence::passed(*head, *member, now.since(*seen), lease, margin) != Passed::Waiting)
        });
        if let Some((head, _)) = past.checked_sub(1).and_then(|at| self.sights.get(at)) {
            passed = passed.max(*head);
        }
        if passed > self.passed {
            self.complete(passed).await?;
            self.passed = passed;
            while self.sights.len() > 1 && self.sights.front().is_some_and(|(head, _)| *head <= passed) {
                self.sights.pop_front();
            }
        }
        Ok(())
    }

    /// Marks what has passed, in turns that are bounded.
    async fn complete(&self, passed: Revision) -> Result<(), StateError> {
        loop {
            let open = self.state.open_refreshes(REVISIONS_AT_ONCE).await?;
            let done: Vec<Revision> = open.iter().copied().take_while(|revision| *revision <= passed).collect();
            let (Some(first), Some(last)) = (done.first(), done.last()) else { break };
            self.state.complete_refreshes(*first, *last, millis(self.clock.now())).await?;
            if done.len() < open.len() || open.len() < REVISIONS_AT_ONCE as usize {
                break;
            }
        }
        let unconfigured = self.following.now().domains.values().any(|row| !row.configured);
        if unconfigured && self.state.configured(passed).await? > 0 {
            self.following.nudge();
        }
        Ok(())
    }

    async fn keep_fresh(&self) -> Result<(), StateError> {
        let fresh: Vec<(NodeName, Revision)> = {
            let mut fresh = self.acknowledged.shared.fresh.lock().expect("no holder of this lock can panic");
            std::mem::take(&mut *fresh).into_iter().collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let result = self.state.acknowledge(&fresh).await;
        if result.is_err() {
            // It is said again at the next turn.
            for (node, revision) in &fresh {
                self.acknowledged.take(node, *revision);
            }
            return result;
        }
        let mut kept = self.acknowledged.shared.kept.lock().expect("no holder of this lock can panic");
        for (node, revision) in fresh {
            let entry = kept.entry(node).or_default();
            *entry = (*entry).max(revision);
        }
        Ok(())
    }

    fn members(&self, known: &Known) -> Vec<MemberView> {
        let kept = self.acknowledged.shared.kept.lock().expect("no holder of this lock can panic");
        let members = known.knowledge.topology.members.values();
        members
            .map(|member| MemberView {
                acked: kept.get(&member.name).copied().unwrap_or_default(),
                isolation: member.isolation,
            })
            .collect()
    }
}

/// Keeps the list bounded. Dropping a sight only makes what it stood for count from a later one, which is safe; the newest
/// stays, or nothing would stand for it.
fn thin(sights: &mut VecDeque<(Revision, Moment)>) {
    if sights.len() > SIGHTS_MAX {
        let newest = sights.back().copied();
        let mut keep = false;
        sights.retain(|sight| {
            keep = !keep;
            !keep || Some(*sight) == newest
        });
    }
}

#[cfg(test)]
mod tests;
