//! Other control planes on the same database. Each works on the chunks that it accepted, with the nodes connected to
//! it. This module finds chunks that another one offers, and chunks that another one has ended.
//!
//! # What always holds
//!
//! - If no connected or missed node can do a loaded chunk, its control plane offers the open chunks of the account to
//!   all others; one that has nodes takes them up within a tick.
//! - A chunk that another control plane has ended is unloaded within [`LOOK_EVERY`].

use std::collections::HashSet;
use std::time::Duration;

use model::Parent;
use tokio::time::Instant;

use super::Task;
use super::queue::Queue;
use super::work::Work;
use crate::state::StateError;

/// The least interval between counts of open chunks in the database, which scan all of them, and between comparisons of
/// loaded ones.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The most chunks that one statement names.
const NAMED_BATCH_MAX: usize = 500;

impl Task {
    /// Finds chunks that others offered or ended, and offers those that no node here can take.
    pub(super) async fn look_elsewhere(&mut self) -> Result<(), StateError> {
        let is_over = |last: &Option<Instant>| last.is_none_or(|last| last.elapsed() >= LOOK_EVERY);
        if self.unsure && is_over(&self.counted) {
            self.count_open().await?;
        }
        if !self.aims.are_here(&self.room) {
            self.offer().await?;
        }
        if is_over(&self.compared) {
            self.let_go_of_ended().await?;
            self.compared = Some(Instant::now());
        }
        Ok(())
    }

    /// Recounts open chunks: those that another control plane accepted are orphaned once it is gone and its nodes have
    /// come here.
    async fn count_open(&mut self) -> Result<(), StateError> {
        for (account, chunks, urls) in self.state.open_accounts().await? {
            self.open.raise(account, chunks, urls);
        }
        (self.unsure, self.counted) = (false, Some(Instant::now()));
        self.look_for_more();
        Ok(())
    }

    /// Offers the newest chunk of each account that has work for no node here. A control plane that has nodes takes up
    /// with it everything older.
    async fn offer(&mut self) -> Result<(), StateError> {
        let (aims, room) = (&self.aims, &self.room);
        let is_here = |group: &Parent| aims.members(group).any(|member| room.contains_key(member));
        let is_for_others = |work: &Work| !work.targets().is_empty() && !work.targets().iter().any(is_here);
        let fresh = self.accounts.values_mut().filter(|queue| queue.known_to > queue.offered_to);
        let mut offered: Vec<&mut Queue> = fresh.filter(|queue| queue.chunks.values().any(is_for_others)).collect();
        for queues in offered.chunks_mut(NAMED_BATCH_MAX) {
            let ids: Vec<u64> = queues.iter().map(|queue| queue.known_to).collect();
            self.state.offer(&ids).await?;
            queues.iter_mut().for_each(|queue| queue.offered_to = queue.known_to);
        }
        Ok(())
    }

    /// Whether an offered chunk that is not known here is to be taken up: there are nodes for it. It is read together
    /// with older ones.
    pub(super) fn takes_up(&mut self, account: &str, id: u64) -> bool {
        let known_to = self.accounts.get(account).map_or(0, |queue| queue.known_to);
        if self.sessions.is_empty() || id <= known_to {
            return false;
        }
        let queue = self.accounts.entry(account.to_owned()).or_insert_with(|| Queue::new(self.bounds.chunk));
        queue.more = true;
        true
    }

    /// Unloads chunks that another control plane has ended: they are no longer open, and no node here may work on them.
    async fn let_go_of_ended(&mut self) -> Result<(), StateError> {
        let ids: Vec<u64> = self.account_of.keys().filter(|id| !self.done.contains(id)).copied().collect();
        let mut ended = HashSet::new();
        for ids in ids.chunks(NAMED_BATCH_MAX) {
            ended.extend(self.state.ended(ids).await?);
        }
        self.withdraw(ended.clone());
        for id in ended {
            self.changed.remove(&id);
            self.done.remove(&id);
            self.leaving.remove(&id);
            let Some(account) = self.account_of.remove(&id) else { continue };
            let Some(work) = self.accounts.get_mut(&account).and_then(|queue| queue.unload(id)) else { continue };
            self.open.ended(&account, work.urls() as u64);
        }
        Ok(())
    }
}
