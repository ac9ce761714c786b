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
    /// room and may load at least one chunk, and a quarter more for chunks past their deadline, which only have to be
    /// failed.
    pub(super) async fn load(&mut self) -> Result<bool, StateError> {
        let share = self.bounds.loaded / self.accounts.len().max(1);
        let now_ms = millis(self.clock.now());
        let (late_ms, deadline_ms) = (self.late_ms(now_ms), self.deadline_ms());
        let targets = self.aims.groups().max(1);
        let mut fresh = Vec::new();
        let (mut turns, mut looks) = (LOADS_PER_TURN_MAX, STANDING_PER_TURN_MAX);
        let mut loaded = Ok(false);
        // Every account in turn, beginning behind the one at which the last call stopped.
        let mut queues: Vec<(&String, &mut Queue)> = self.accounts.iter_mut().collect();
        let first = queues.partition_point(|(account, _)| **account <= self.loaded_to);
        queues.rotate_left(first);
        'accounts: for (account, queue) in queues {
            // Read first: every chunk counted here was in the database before it was counted.
            let counted = self.open.of(account);
            let looked = queue.more;
            while queue.more && looks > 0 {
                let standing = match self.state.open_prefetches(account, queue.known_to, STANDING_BATCH_MAX).await {
                    Ok(standing) => standing,
                    Err(error) => {
                        loaded = Err(error);
                        break 'accounts;
                    }
                };
                queue.more = standing.len() == STANDING_BATCH_MAX as usize;
                looks = looks.saturating_sub(standing.len());
                for chunk in standing {
                    let steering = self.jumps.moved(chunk.id, chunk.steering);
                    queue.stand(Standing { steering, ..chunk }, now_ms);
                }
            }
            if queue.more {
                // The chunk that goes first may not be known yet.
                loaded = Ok(true);
                self.loaded_to.clone_from(account);
                break;
            }
            if looked && counted.0 < queue.len() as u64 {
                // Some chunks were accepted by another control plane.
                self.open.raise(account.clone(), queue.len() as u64, queue.urls());
            }
            if looked && counted.0 > queue.len() as u64 {
                // Some chunks were cancelled before this process had read of them.
                let urls = counted.1.saturating_sub(queue.urls());
                self.open.take(account, counted.0 - queue.len() as u64, urls);
            }
            queue.due(now_ms);
            loop {
                let (room, more) =
                    (share.saturating_sub(queue.loaded), (share + share / 4).saturating_sub(queue.loaded));
                let late = if more > 0 || queue.chunks.is_empty() {
                    queue.begun_before(late_ms, CHUNKS_BATCH_MAX, more, targets)
                } else {
                    Vec::new()
                };
                let ids = if !late.is_empty() {
                    late
                } else if room > 0 || queue.chunks.is_empty() {
                    queue.next(CHUNKS_BATCH_MAX, room, targets)
                } else if queue.is_outranked() && more > 0 {
                    queue.next(1, more, targets)
                } else {
                    break;
                };
                if ids.is_empty() {
                    break;
                }
                if turns == 0 {
                    loaded = Ok(true);
                    self.loaded_to.clone_from(account);
                    break 'accounts;
                }
                turns -= 1;
                let mut chunks: BTreeMap<u64, Chunk> = match self.state.chunks(&ids).await {
                    Ok(chunks) => chunks.into_iter().map(|chunk| (chunk.id, chunk)).collect(),
                    Err(error) => {
                        loaded = Err(error);
                        break 'accounts;
                    }
                };
                for id in ids {
                    let Some(standing) = queue.leave(id) else { continue };
                    let mut chunk = chunks.remove(&id).filter(|chunk| chunk.finished_ms == 0);
                    if let Some(chunk) = &mut chunk {
                        chunk.steering = self.jumps.moved(id, chunk.steering);
                    }
                    match chunk {
                        // A later version of the program may be able to read it, and complete it in time.
                        Some(chunk) if chunk.unreadable && chunk.steering.may_run(now_ms) => {
                            let until_ms = chunk.steering.from_ms.saturating_add(deadline_ms);
                            if now_ms <= until_ms {
                                tracing::error!(chunk = id, "a prefetch cannot be read and fails at its deadline");
                                queue.put_off(standing, until_ms + 1, now_ms);
                                continue;
                            }
                            let progress = Progress::failed(chunk.paths.len(), &Cause::Deadline);
                            if let Err(error) = self.state.keep_progress(&[(id, now_ms.max(1), &progress)]).await {
                                queue.stand(standing, now_ms);
                                loaded = Err(error);
                                break 'accounts;
                            }
                            self.counters.failed.fetch_add(standing.urls, Ordering::Relaxed);
                            self.open.ended(account, standing.urls);
                        }
                        Some(chunk) if chunk.steering.may_run(now_ms) => {
                            let mut work = Work::new(chunk, &mut self.aims, &self.known);
                            // The domain's functions may have changed since it was submitted.
                            work.begin_after(self.head);
                            for node in &self.emptied {
                                work.lost(node, &mut self.aims);
                            }
                            work.line_up(&self.aims, &self.room);
                            queue.load(id, work);
                            self.account_of.insert(id, account.clone());
                            fresh.push(id);
                        }
                        Some(chunk) => queue.stand(Standing { steering: chunk.steering, ..standing }, now_ms),
                        // Another control plane has ended it.
                        None => self.open.ended(account, standing.urls),
                    }
                }
            }
            self.leaving.extend(queue.outranked(share));
        }
        for id in fresh {
            self.give_up_if_late(id);
            self.note(id);
        }
        for id in &self.leaving {
            let queue = self.account_of.get(id).and_then(|account| self.accounts.get_mut(account));
            if let Some(queue) = queue {
                queue.rest(*id);
            }
        }
        loaded
    }
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
