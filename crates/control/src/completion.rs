//! Refreshes: folds acknowledgements and leases into tasks (fence rule 7), and domains into configured and deleted
//! ones.
//!
//! A revision is passed when, for every member, either the member has acknowledged it, or this process itself has known
//! it to be committed for longer than any lease that could still be trusted without it. A restarted process counts that
//! time anew.
//!
//! # What always holds
//!
//! - The members are those known at a head of the log at or above the revision.
//! - An acknowledgement counts only once it is in the database.
//! - Completion is marked in the database before anybody is told, together with the evidence that justifies it.
//! - A domain is deleted once every member has acknowledged its removal and swept its bytes; no lease stands in for
//!   that.
//! - Steps are bounded: the next one comes no sooner than [`pace`] says, so the amount written grows neither with the
//!   number of refreshes nor with the number of members.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use model::fence::{self, MemberView, Passed};
use model::mistake::{Mistake, made};
use model::{Clock, DomainName, Moment, Revision};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::known::Following;
use crate::state::completions::{Amounts, Completion, CompletionMember};
use crate::state::domains::Doing;
use crate::state::{State, StateError, millis};

mod said;

pub(crate) use said::{Acknowledged, WaitedFor, Waiting};

/// How often leases are checked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Heads of the log whose first sight is remembered. When there are more, every other one is dropped; a revision
/// between two that remain counts from the later one.
const SIGHTS_MAX: usize = 4096;

/// Revisions handled in one transaction.
const REVISIONS_BATCH_MAX: u32 = 10_000;

/// The least pause between two steps that completed something, and what each member adds to it: however much is
/// refreshed, at most 100 steps and 10,000 members' values are written a second.
const STEP_PAUSE: Duration = Duration::from_millis(10);
const STEP_PAUSE_A_MEMBER: Duration = Duration::from_micros(100);

/// The longest such pause.
const STEP_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often swept amounts are added to the steps they belong to.
const SWEPT_EVERY: Duration = Duration::from_secs(1);

/// Starts folding. It goes on until `stopping` is cancelled.
pub(crate) async fn start(
    state: State,
    following: Following,
    clock: Arc<dyn Clock>,
    margin: Duration,
    stopping: CancellationToken,
) -> Result<Acknowledged, StateError> {
    let task = Task::new(state, following, clock, margin).await?;
    let acknowledged = task.acknowledged.clone();
    tokio::spawn(async move { stopping.run_until_cancelled(task.run()).await });
    Ok(acknowledged)
}

struct Task {
    state: State,
    following: Following,
    clock: Arc<dyn Clock>,
    /// Covers clock drift over one lease and the longest pause between judging and sending (fence, assumption 3).
    margin: Duration,
    acknowledged: Acknowledged,
    /// When the database was last asked what members acknowledged to other processes.
    asked: Instant,
    /// Every revision up to this one has been found passed.
    passed: Revision,
}

/// The evidence that a revision is passed: how long its head was known, and the longest lease.
#[derive(Clone, Copy)]
struct Right {
    known_for: Duration,
    lease: Duration,
}

impl Task {
    async fn new(
        state: State,
        following: Following,
        clock: Arc<dyn Clock>,
        margin: Duration,
    ) -> Result<Task, StateError> {
        let kept = state.nodes().await?.into_iter().map(|node| (node.name, (node.acked, node.acked_ms))).collect();
        let acknowledged = Acknowledged::new(kept, margin);
        let asked = Instant::now();
        Ok(Task { state, following, clock, margin, acknowledged, asked, passed: Revision::ZERO })
    }

    async fn run(mut self) {
        let mut changes = self.following.changes();
        let mut swept = Instant::now();
        let mut deleted = Instant::now();
        loop {
            tokio::select! {
                biased;
                changed = changes.changed() => if changed.is_err() { return },
                () = self.acknowledged.woken() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let mut folded = self.fold().await;
            if folded.is_ok() && swept.elapsed() >= SWEPT_EVERY {
                swept = Instant::now();
                folded = self.keep_swept().await.and(folded);
            }
            if folded.is_ok() && deleted.elapsed() >= LOOK_EVERY {
                deleted = Instant::now();
                folded = self.finish_deletions().await.and(folded);
            }
            match folded {
                Ok(false) => {}
                // Acknowledgements that arrive during the pause are folded together.
                Ok(true) => tokio::time::sleep(pace(self.following.now().knowledge.topology.members.len())).await,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "acknowledgements could not be folded");
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Folds once; returns whether anything was marked complete.
    async fn fold(&mut self) -> Result<bool, StateError> {
        let known = self.following.now();
        self.acknowledged.sighted(&known);
        self.keep_fresh().await?;
        if self.passed < known.head && self.asked.elapsed() >= LOOK_EVERY {
            // A node has a session with one control plane, but all of them wait for it.
            self.acknowledged.keep_all(self.state.nodes().await?);
            self.asked = Instant::now();
        }

        let members = self.acknowledged.members(&known);
        let views: Vec<MemberView> =
            members.iter().map(|member| MemberView { acked: member.acked, isolation: member.isolation }).collect();
        let lowest = views.iter().map(|member| member.acked).min().unwrap_or(known.head).min(known.head);
        if lowest <= self.passed && self.passed >= known.head {
            return Ok(false);
        }
        let mut passed = lowest.max(self.passed);
        let settled = known.knowledge.settings.lease();
        let lease = if passed < known.head { self.state.longest_lease(lowest).await? } else { settled };
        self.acknowledged.leased(lease);
        let now = self.clock.moment();
        let mut right = Right { known_for: Duration::ZERO, lease };
        let margin = if made(Mistake::MarginBelowDrift) { Duration::ZERO } else { self.margin };
        // A member past one head is past all earlier ones: they are lower, and have been known for longer.
        let sight = self.acknowledged.last_sight(|head, seen| {
            views.iter().all(|member| fence::passed(head, *member, now.since(seen), lease, margin) != Passed::Waiting)
        });
        if let Some((head, seen)) = sight.filter(|(head, _)| *head >= passed) {
            passed = head;
            right.known_for = now.since(seen);
        }
        let mut completed = false;
        if passed > self.passed {
            completed = self.complete(passed, right, &members).await?;
            self.passed = passed;
            self.acknowledged.forget_sights(passed);
        }
        Ok(completed)
    }

    /// Marks refreshes up to `passed` complete, in bounded transactions; returns whether there were any.
    async fn complete(&self, passed: Revision, right: Right, members: &[CompletionMember]) -> Result<bool, StateError> {
        let mut completed = false;
        loop {
            let open = self.state.open_refreshes(REVISIONS_BATCH_MAX).await?;
            let done: Vec<Revision> = open.iter().copied().take_while(|revision| *revision <= passed).collect();
            let (Some(first), Some(last)) = (done.first(), done.last()) else { break };
            let whole = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let step = Completion {
                range: (*first, *last),
                completed_ms: millis(self.clock.now()),
                known_for_ms: whole(right.known_for),
                lease_ms: whole(right.lease),
                margin_ms: whole(self.margin),
                members: members.to_vec(),
                swept: Amounts::default(),
            };
            completed |= self.state.complete_refreshes(&step).await? > 0;
            if done.len() < open.len() || open.len() < REVISIONS_BATCH_MAX as usize {
                break;
            }
        }
        let unconfigured = self.following.now().domains.values().any(|row| !row.configured);
        if unconfigured && self.state.configured(passed).await? > 0 {
            self.following.nudge();
        }
        Ok(completed)
    }

    /// Releases the names of deleted domains of which no member stores anything any more.
    async fn finish_deletions(&self) -> Result<(), StateError> {
        let known = self.following.now();
        let deleting = known.domains.values().filter(|row| row.doing == Doing::Deleting);
        let deleting: Vec<(DomainName, Revision)> = deleting.map(|row| (row.name.clone(), row.revision)).collect();
        if deleting.is_empty() {
            return Ok(());
        }
        let swept = self.acknowledged.take_swept_upto();
        if !swept.is_empty()
            && let Err(error) = self.state.keep_swept_upto(&swept).await
        {
            self.acknowledged.swept_upto_again(swept);
            return Err(error);
        }
        // A node has a session with one control plane; what it told another is in the database.
        let rows = self.state.nodes().await?;
        let gone_at =
            |name: &model::NodeName| rows.iter().find(|row| row.name == *name).map(|row| row.acked.min(row.swept));
        let members = known.knowledge.topology.members.keys();
        let upto = members.map(|name| gone_at(name).unwrap_or_default()).min().unwrap_or(known.head);
        let done: Vec<_> = deleting.into_iter().filter(|(_, at)| *at <= upto.min(known.head)).collect();
        if !done.is_empty() {
            self.state.forget_deleted(&done, millis(self.clock.now())).await?;
            self.following.nudge_domains();
        }
        Ok(())
    }

    async fn keep_fresh(&self) -> Result<(), StateError> {
        let fresh = self.acknowledged.take_fresh();
        if fresh.is_empty() {
            return Ok(());
        }
        let now_ms = millis(self.clock.now());
        let result = self.state.acknowledge(&fresh, now_ms).await;
        match result {
            Ok(()) => self.acknowledged.keep(fresh, now_ms),
            // Taken again at the next turn.
            Err(_) => fresh.iter().for_each(|(node, revision)| self.acknowledged.take(node, *revision)),
        }
        result
    }

    /// Adds swept amounts to the steps that are written; amounts of revisions that have not passed wait.
    async fn keep_swept(&self) -> Result<(), StateError> {
        let (swept, upto) = self.acknowledged.take_swept(self.passed);
        if !swept.is_empty()
            && let Err(error) = self.state.add_swept(&swept).await
        {
            self.acknowledged.swept_again(swept);
            return Err(error);
        }
        self.acknowledged.swept_written(upto);
        Ok(())
    }
}

/// How long the next step waits after one that completed something.
fn pace(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    STEP_PAUSE_A_MEMBER.saturating_mul(members).clamp(STEP_PAUSE, STEP_PAUSE_MAX)
}

/// Keeps the list bounded. Dropping a sight is safe: it only makes what it stood for count from a later one. The newest
/// stays, since nothing later could stand for it.
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
