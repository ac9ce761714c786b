//! What depends on time: retries that are due, disconnected nodes that are given up, and prefetches past their
//! deadline.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use model::{Cause, NodeName, Parent};
use tokio::time::Instant;

use super::work::Work;
use super::{MISSED_MAX, Task};
use crate::state::millis;

/// How much longer a chunk may stay open when no node that could take it is connected here. The control plane that has
/// such nodes ends it at the deadline; one without nodes must not report that there are none.
pub(super) const LEFT_TO_OTHERS_MS: u64 = 30_000;

impl Task {
    pub(super) fn deadline_ms(&self) -> u64 {
        u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX)
    }

    /// Chunks that may run since before this time are to be ended.
    pub(super) fn late_ms(&self, now_ms: u64) -> u64 {
        let is_elsewhere = self.sessions.is_empty() && self.aims.groups() > 0;
        now_ms.saturating_sub(self.deadline_ms()).saturating_sub(if is_elsewhere { LEFT_TO_OTHERS_MS } else { 0 })
    }

    /// Ends a chunk that was past its deadline when it was loaded, so that it makes room at once.
    pub(super) fn give_up_if_late(&mut self, id: u64) {
        let (now_ms, deadline_ms) = (millis(self.clock.now()), self.deadline_ms());
        let (sessions, aims) = (&self.sessions, &self.aims);
        let live = |group: &Parent| aims.members(group).any(|member| sessions.contains_key(member));
        let queue = self.account_of.get(&id).and_then(|account| self.accounts.get_mut(account));
        let work = queue.and_then(|queue| queue.chunks.get_mut(&id));
        let failed = work.and_then(|work| give_up_late(work, now_ms, deadline_ms, live));
        self.counters.failed.fetch_add(failed.unwrap_or_default(), Ordering::Relaxed);
    }

    /// Puts retries that are due back in line, and fails chunks that are past their deadline.
    pub(super) fn expire(&mut self) {
        let nodes: Vec<NodeName> =
            self.room.iter().filter(|(_, free)| **free == 0).map(|(node, _)| node.clone()).collect();
        for node in &nodes {
            self.measure(node);
        }
        let now = Instant::now();
        let (room, unlined) = (&mut self.room, &mut self.unlined);
        self.missed.retain(|node, since| {
            let stays = now.saturating_duration_since(*since) < MISSED_MAX;
            if !stays {
                room.remove(node);
                *unlined = true;
            }
            stays
        });
        let wall_ms = millis(self.clock.now());
        let deadline_ms = self.deadline_ms();
        let (sessions, aims) = (&self.sessions, &self.aims);
        let live = |group: &Parent| aims.members(group).any(|member| sessions.contains_key(member));
        let mut gone = HashSet::new();
        for queue in self.accounts.values_mut() {
            let mut due = Vec::new();
            for (id, work) in &mut queue.chunks {
                if work.retry_due(now) && !self.leaving.contains(id) {
                    due.push(*id);
                }
                if let Some(failed) = give_up_late(work, wall_ms, deadline_ms, live) {
                    self.counters.failed.fetch_add(failed, Ordering::Relaxed);
                    gone.insert(*id);
                }
            }
            for id in due {
                queue.line_up(id);
            }
        }
        self.withdraw(gone);
        let loaded: usize = self.accounts.values().flat_map(|queue| queue.chunks.values()).map(Work::jobs).sum();
        self.counters.loaded.store(loaded as u64, Ordering::Relaxed);
        let leased: usize = self.sessions.values().map(|session| session.leased.len()).sum();
        self.counters.leased.store(leased as u64, Ordering::Relaxed);
    }
}

/// Ends a chunk that is past its deadline; returns how many jobs failed, or `None` if it goes on.
fn give_up_late(work: &mut Work, now_ms: u64, deadline_ms: u64, live: impl Fn(&Parent) -> bool) -> Option<u64> {
    let steering = work.steering();
    let is_elsewhere = !work.targets().is_empty() && !work.targets().iter().any(&live);
    let more_ms = if is_elsewhere { LEFT_TO_OTHERS_MS } else { 0 };
    let is_late = now_ms > steering.from_ms.saturating_add(deadline_ms).saturating_add(more_ms);
    if !is_late || !steering.may_run(now_ms) || work.is_done() {
        return None;
    }
    Some(work.give_up(now_ms, |group| match group {
        Some(group) if live(group) => Cause::Deadline,
        _ => Cause::NoTarget,
    }))
}
