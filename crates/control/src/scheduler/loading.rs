//! What the scheduler reads: new knowledge, steering, which chunks are open, and the objects of those that there is
//! room for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::{Cause, DomainName, Knowledge, NodeName};

use super::Task;
use super::aims::Aims;
use super::queue::Queue;
use super::work::Work;
use crate::state::chunks::{Chunk, Progress};
use crate::state::steering::{Standing, Steered};
use crate::state::{StateError, millis};

/// Chunks read from the database at a time, and reads in one turn: events that arrive meanwhile wait no longer than
/// that.
const CHUNKS_BATCH_MAX: usize = 32;
const LOADS_PER_TURN_MAX: usize = 16;

/// Open chunks listed at a time, without their objects, and about how many in one turn.
const STANDING_BATCH_MAX: u32 = 5_000;
const STANDING_PER_TURN_MAX: usize = 10_000;

/// Chunks that were steered, read at a time.
const STEERED_BATCH_MAX: u32 = 1_000;

impl Task {
    /// Takes over the latest knowledge: targets may have changed, nodes that held objects may be gone, keys may differ.
    pub(super) fn follow(&mut self) {
        let now = self.following.now();
        let known = now.knowledge.clone();
        if Arc::ptr_eq(&known, &self.known) {
            // Of invalidations nobody here needs to know more than how far they go.
            self.head = now.head;
            return;
        }
        let joined: Vec<NodeName> =
            now.joined.iter().filter(|(_, at)| **at > self.head).map(|(node, _)| node.clone()).collect();
        self.head = now.head;
        if known.topology != *self.aims.topology() {
            self.aims = Aims::new(known.topology.clone());
            self.reaim(|work, aims| work.rebuild(aims));
            // Its members are numbered differently, too.
            self.unlined = true;
        }
        if !joined.is_empty() {
            // It may have joined through another control plane, and lost what it held.
            self.reaim(|work, aims| {
                joined.iter().filter_map(|node| work.lost(node, aims)).reduce(|lost, more| lost + more)
            });
        }
        let names = kept_otherwise(&self.known, &known);
        if !names.is_empty() {
            self.reaim(|work, aims| work.kept_otherwise(&names, &known, now.head, aims));
        }
        self.known = known;
    }

    /// Marks accounts that have more open chunks than are known here.
    pub(super) fn look_for_more(&mut self) {
        for (account, chunks) in self.open.chunks() {
            let queue = self.accounts.entry(account).or_insert_with(|| Queue::new(self.bounds.chunk));
            queue.more |= chunks > queue.len() as u64;
        }
    }

    /// Reads how chunks were steered, by this or another control plane.
    pub(super) async fn hear(&mut self) -> Result<(), StateError> {
        let mut heard = match self.heard {
            Some(heard) => heard,
            // Read before any chunk is loaded, so no loaded steering is older than this.
            None => (self.state.last_steering().await?, u64::MAX >> 1),
        };
        self.heard = Some(heard);
        loop {
            let steered = self.state.steered_after(heard, STEERED_BATCH_MAX).await?;
            let Some(last) = steered.last() else { return Ok(()) };
            heard = last.at;
            self.heard = Some(heard);
            for one in steered {
                self.steer(&one);
            }
        }
    }

    /// Applies steering of a chunk, or another control plane's offer of a chunk that it has no nodes for. A chunk that
    /// is not known here is ignored.
    fn steer(&mut self, steered: &Steered) {
        let (_, id) = steered.at;
        if self.takes_up(&steered.account, id) {
            return;
        }
        let steering = self.jumps.moved(id, steered.steering);
        let now_ms = millis(self.clock.now());
        let Some(queue) = self.accounts.get_mut(&steered.account) else { return };
        if steering.cancelled_ms > 0
            && let Some(chunk) = queue.leave(id)
        {
            self.open.ended(&steered.account, chunk.urls);
            return;
        }
        if queue.steer(id, steering, now_ms) || !queue.steer_loaded(id, steering) {
            return;
        }
        if steering.cancelled_ms > 0 {
            self.recall(id, false);
            let Some(work) = self.work(id) else { return };
            // One that ended before the cancellation was read keeps its outcome.
            if !work.is_done() {
                work.give_up(now_ms, |_| Cause::Cancelled);
            }
            self.note(id);
        } else if !steering.may_run(now_ms) {
            self.leaving.insert(id);
            self.recall(id, true);
            // At once: a turn gives out jobs even if it could not read on.
            if let Some(queue) = self.accounts.get_mut(&steered.account) {
                queue.rest(id);
            }
        }
    }

    /// Takes back all leased jobs of a chunk; `again` says that they will be given out once more.
    fn recall(&mut self, chunk: u64, again: bool) {
        if let Some(work) = self.work(chunk) {
            work.recall();
        }
        let recalled = self.withdraw([chunk].into());
        if again {
            self.counters.retried.fetch_add(recalled as u64, Ordering::Relaxed);
        }
    }

    /// Loads as many chunks as there is room for; returns whether there may be more. Each account has its share of the
    /// room, see [`Queue::next_to_load`].
    pub(super) async fn load(&mut self) -> Result<bool, StateError> {
        let share = self.bounds.loaded / self.accounts.len().max(1);
        let mut left = Left { reads: LOADS_PER_TURN_MAX, listed: STANDING_PER_TURN_MAX };
        let mut loaded = Ok(false);
        // Every account in turn, beginning behind the one at which the last call stopped.
        let mut accounts: Vec<String> = self.accounts.keys().cloned().collect();
        let first = accounts.partition_point(|account| *account <= self.loaded_to);
        accounts.rotate_left(first);
        for account in accounts {
            match self.load_of(&account, share, &mut left).await {
                Ok(true) => {}
                Ok(false) => {
                    loaded = Ok(true);
                    self.loaded_to = account;
                    break;
                }
                Err(error) => {
                    loaded = Err(error);
                    break;
                }
            }
        }
        for id in &self.leaving {
            let queue = self.account_of.get(id).and_then(|account| self.accounts.get_mut(account));
            if let Some(queue) = queue {
                queue.rest(*id);
            }
        }
        loaded
    }

    /// Loads as many chunks of an account as its share has room for; returns whether this turn could do that.
    async fn load_of(&mut self, account: &str, share: usize, left: &mut Left) -> Result<bool, StateError> {
        if !self.list(account, left).await? {
            // The chunk that goes first may not be known yet.
            return Ok(false);
        }
        let now_ms = millis(self.clock.now());
        let (late_ms, targets) = (self.late_ms(now_ms), self.aims.groups().max(1));
        loop {
            let Some(queue) = self.accounts.get_mut(account) else { return Ok(true) };
            let ids = queue.next_to_load(share, CHUNKS_BATCH_MAX, late_ms, targets);
            if ids.is_empty() {
                self.leaving.extend(queue.outranked(share));
                return Ok(true);
            }
            if left.reads == 0 {
                return Ok(false);
            }
            left.reads -= 1;
            let chunks = self.state.chunks(&ids).await?;
            let mut chunks: BTreeMap<u64, Chunk> = chunks.into_iter().map(|chunk| (chunk.id, chunk)).collect();
            for id in ids {
                self.take_in(account, id, chunks.remove(&id), now_ms).await?;
            }
        }
    }

    /// Lists the open chunks of an account that are not known yet; returns whether all are known now.
    async fn list(&mut self, account: &str, left: &mut Left) -> Result<bool, StateError> {
        let now_ms = millis(self.clock.now());
        let Some(queue) = self.accounts.get_mut(account) else { return Ok(true) };
        // Read first: every chunk counted here was in the database before it was counted.
        let counted = self.open.of(account);
        let looked = queue.more;
        while queue.more && left.listed > 0 {
            let standing = self.state.open_prefetches(account, queue.known_to, STANDING_BATCH_MAX).await?;
            queue.more = standing.len() == STANDING_BATCH_MAX as usize;
            left.listed = left.listed.saturating_sub(standing.len());
            for chunk in standing {
                let steering = self.jumps.moved(chunk.id, chunk.steering);
                queue.stand(Standing { steering, ..chunk }, now_ms);
            }
        }
        if queue.more {
            return Ok(false);
        }
        if looked && counted.0 < queue.len() as u64 {
            // Some chunks were accepted by another control plane.
            self.open.raise(account.to_owned(), queue.len() as u64, queue.urls());
        }
        if looked && counted.0 > queue.len() as u64 {
            // Some chunks were cancelled before this process had read of them.
            let urls = counted.1.saturating_sub(queue.urls());
            self.open.take(account, counted.0 - queue.len() as u64, urls);
        }
        queue.due(now_ms);
        Ok(true)
    }

    /// Takes in a chunk that stood outside, as the database has it now; `None` if it has none.
    async fn take_in(&mut self, account: &str, id: u64, chunk: Option<Chunk>, now_ms: u64) -> Result<(), StateError> {
        let deadline_ms = self.deadline_ms();
        let Some(queue) = self.accounts.get_mut(account) else { return Ok(()) };
        let Some(standing) = queue.leave(id) else { return Ok(()) };
        let Some(mut chunk) = chunk.filter(|chunk| chunk.finished_ms == 0) else {
            // Another control plane has ended it.
            self.open.ended(account, standing.urls);
            return Ok(());
        };
        chunk.steering = self.jumps.moved(id, chunk.steering);
        if !chunk.steering.may_run(now_ms) {
            queue.stand(Standing { steering: chunk.steering, ..standing }, now_ms);
            return Ok(());
        }
        if chunk.unreadable {
            // A later version of the program may be able to read it, and complete it in time.
            let until_ms = chunk.steering.from_ms.saturating_add(deadline_ms);
            if now_ms <= until_ms {
                tracing::error!(chunk = id, "a prefetch cannot be read and fails at its deadline");
                queue.put_off(standing, until_ms + 1, now_ms);
                return Ok(());
            }
            let progress = Progress::failed(chunk.paths.len(), &Cause::Deadline);
            if let Err(error) = self.state.keep_progress(&[(id, now_ms.max(1), &progress)]).await {
                queue.stand(standing, now_ms);
                return Err(error);
            }
            self.counters.failed.fetch_add(standing.urls, Ordering::Relaxed);
            self.open.ended(account, standing.urls);
            return Ok(());
        }
        let mut work = Work::new(chunk, &mut self.aims, &self.known);
        // The domain's functions may have changed since it was submitted.
        work.begin_after(self.head);
        for node in &self.emptied {
            work.lost(node, &mut self.aims);
        }
        work.line_up(&self.aims, &self.room);
        queue.load(id, work);
        self.account_of.insert(id, account.to_owned());
        self.give_up_if_late(id);
        self.note(id);
        Ok(())
    }
}

/// What may still be read in a turn.
struct Left {
    /// How many times chunks may be read.
    reads: usize,
    /// How many chunks may be listed.
    listed: usize,
}

/// Domains that store objects differently than before, including new and removed ones.
fn kept_otherwise(before: &Knowledge, now: &Knowledge) -> HashSet<DomainName> {
    let gone = before.domains.keys().filter(|name| !now.domains.contains_key(*name));
    let otherwise = now.domains.iter().filter(|(name, now)| match before.domains.get(*name) {
        Some(before) if Arc::ptr_eq(before, now) => false,
        Some(before) => before.tag_header != now.tag_header || now.functions.keep_otherwise(&before.functions),
        None => true,
    });
    gone.chain(otherwise.map(|(name, _)| name)).cloned().collect()
}
