//! Jumps of the wall clock while the process runs. The times at which prefetches were accepted are stored as the wall
//! clock read then. When the clock is set, they are shifted with it here, so that no prefetch waits for a time that has
//! passed, and no deadline comes early.
//!
//! Start times that the submitter named and that have not come are not shifted: they refer to the wall clock.

use std::collections::VecDeque;

use model::{Clock, Moment};

use super::Task;
use crate::state::millis;
use crate::state::steering::Steering;

/// The least deviation of the wall clock from the monotonic one that counts as a jump.
const JUMP_MIN_MS: u64 = 5_000;

/// The most jumps that are remembered; the oldest are dropped.
const JUMPS_MAX: usize = 16;

/// A jump of the wall clock.
#[derive(Clone, Copy)]
struct Jump {
    /// What the clock would have read had it not been set, and what it did read.
    would_ms: u64,
    did_ms: u64,
    /// The newest chunk that was known before it.
    newest: u64,
}

impl Jump {
    fn moved(&self, id: u64, steering: Steering) -> Steering {
        let (forward, is_known) = (self.did_ms > self.would_ms, id <= self.newest);
        let from_ms = match steering.from_ms {
            // After a jump back, a newer chunk may have an earlier time; after one forward, its time is later than any
            // before the jump.
            from_ms if from_ms <= self.would_ms && (forward || is_known) => {
                from_ms.saturating_add(self.did_ms).saturating_sub(self.would_ms)
            }
            // A time that was skipped has come only now.
            from_ms if forward && is_known => from_ms.max(self.did_ms),
            from_ms => from_ms,
        };
        Steering { from_ms, ..steering }
    }
}

/// The jumps since the process started.
pub(super) struct Jumps {
    /// Both clocks as last read.
    last: (u64, Moment),
    jumps: VecDeque<Jump>,
}

impl Jumps {
    pub(super) fn new(clock: &dyn Clock) -> Jumps {
        Jumps { last: (millis(clock.now()), clock.moment()), jumps: VecDeque::new() }
    }

    /// Steering with its start time converted to the present wall clock.
    pub(super) fn moved(&self, id: u64, steering: Steering) -> Steering {
        self.jumps.iter().fold(steering, |steering, jump| jump.moved(id, steering))
    }

    fn look(&mut self, clock: &dyn Clock, newest: u64) -> Option<Jump> {
        let (wall_ms, moment) = (millis(clock.now()), clock.moment());
        let (last_ms, last) = std::mem::replace(&mut self.last, (wall_ms, moment));
        let passed = u64::try_from(moment.since(last).as_millis()).unwrap_or(u64::MAX);
        let jump = Jump { would_ms: last_ms.saturating_add(passed), did_ms: wall_ms, newest };
        if jump.did_ms.abs_diff(jump.would_ms) < JUMP_MIN_MS {
            return None;
        }
        if self.jumps.len() >= JUMPS_MAX {
            self.jumps.pop_front();
        }
        self.jumps.push_back(jump);
        Some(jump)
    }
}

impl Task {
    /// Checks whether the wall clock was set since the last turn.
    pub(super) fn look_at_clock(&mut self) {
        let newest = self.accounts.values().map(|queue| queue.known_to).max().unwrap_or_default();
        let Some(jump) = self.jumps.look(&*self.clock, newest) else { return };
        tracing::warn!(would_ms = jump.would_ms, did_ms = jump.did_ms, "the wall clock was set");
        for queue in self.accounts.values_mut() {
            queue.steer_all(jump.did_ms, |id, steering| jump.moved(id, steering));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_have_been_are_moved_and_others_are_not() {
        let forward = Jump { would_ms: 1_000, did_ms: 5_000, newest: 7 };
        let back = Jump { would_ms: 5_000, did_ms: 1_000, newest: 7 };
        let cases = [
            ("it has been", forward, 7, 900, 4_900),
            ("it was jumped over", forward, 7, 3_000, 5_000),
            ("it has not come", forward, 7, 6_000, 6_000),
            ("accepted before, and heard of after", forward, 8, 900, 4_900),
            ("accepted after a later jump back", forward, 8, 3_000, 3_000),
            ("it has been", back, 7, 4_900, 900),
            ("it has not come", back, 7, 6_000, 6_000),
            ("accepted after it", back, 8, 2_000, 2_000),
        ];
        for (why, jump, id, before, after) in cases {
            assert_eq!(jump.moved(id, Steering::from(before)), Steering::from(after), "{why}");
        }
    }
}
