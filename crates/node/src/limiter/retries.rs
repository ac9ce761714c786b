//! How often an origin gets retries of prefetches, and how long it is left alone when it fails.
//!
//! # What always holds
//!
//! - Retries are at most [`SHARE`] of first tries, plus [`SPARE_FIRST`] and one every [`EVERY`].
//! - The pauses of a failing origin grow up to [`PAUSE_MAX`] and end once it answers; those of two nodes do not end
//!   together. They come from a hash, not a random number, so that a simulated node behaves the same each time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Retries for each first try.
const SHARE: f64 = 0.1;

/// Retries available at the beginning, and the most that are saved up.
const SPARE_FIRST: f64 = 10.0;
const SPARE_MAX: f64 = 100.0;

/// One more retry becomes available after this time, so that the last objects of a task are retried too.
const EVERY: Duration = Duration::from_secs(5);

/// The first pause of an origin that is overloaded and names no time to come back; each following pause is twice as
/// long.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Other failures in a row before the first pause.
const FAILURES_MIN: u32 = 3;

/// Keys of failed prefetches, and how long they are remembered.
const REMEMBERED_MAX: usize = 16_384;
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// The budget of retries.
#[derive(Debug)]
pub(super) struct Budget {
    spare: f64,
    since: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Budget {
        Budget { spare: SPARE_FIRST, since: now }
    }

    /// Adds the share that a first try brings.
    pub(super) fn first(&mut self) {
        self.spare = (self.spare + SHARE).min(SPARE_MAX);
    }

    /// Takes one retry, if there is one.
    pub(super) fn again(&mut self, now: Instant) -> bool {
        let more = (now - self.since).div_duration_f64(EVERY);
        (self.spare, self.since) = ((self.spare + more).min(SPARE_MAX), now);
        let enough = self.spare >= 1.0;
        if enough {
            self.spare -= 1.0;
        }
        enough
    }
}

/// The failures of an origin in a row.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    failures: u32,
    last: Option<Instant>,
}

impl Trouble {
    /// The origin gave a good answer.
    pub(super) fn is_over(&mut self) {
        self.failures = 0;
    }

    /// Records a failure of a request sent at `began`; returns how long the origin is left alone for it.
    pub(super) fn failed(&mut self, too_much: bool, began: Instant, now: Instant, seed: u64) -> Option<Duration> {
        if self.last.is_some_and(|last| began < last) {
            return None; // requests that fail together count as one failure
        }
        self.last = Some(now);
        self.failures = self.failures.saturating_add(1);
        let pauses = if too_much { self.failures } else { self.failures.saturating_sub(FAILURES_MIN - 1) };
        let pause = PAUSE_FIRST.saturating_mul(1 << pauses.checked_sub(1)?.min(16)).min(PAUSE_MAX);
        Some(jittered(pause, seed.wrapping_add(u64::from(self.failures))))
    }
}

/// `pause`, plus up to half of it.
pub(super) fn jittered(pause: Duration, seed: u64) -> Duration {
    let spread = xxhash_rust::xxh3::xxh3_64(&seed.to_le_bytes());
    pause + pause.mul_f64(spread as f64 / u64::MAX as f64 / 2.0)
}

/// Keys whose prefetches failed recently: the next request for one of them is a retry.
#[derive(Debug, Default)]
pub(super) struct Failed(HashMap<u128, Instant>);

impl Failed {
    pub(super) fn note(&mut self, key: u128, now: Instant) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, at| now - *at < REMEMBERED_FOR);
        }
        if self.0.len() < REMEMBERED_MAX {
            self.0.insert(key, now);
        }
    }

    pub(super) fn is_here(&self, key: u128, now: Instant) -> bool {
        self.0.get(&key).is_some_and(|at| now - *at < REMEMBERED_FOR)
    }

    pub(super) fn forget(&mut self, key: u128) {
        self.0.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn second_tries_are_a_tenth_of_the_first_ones() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let mut again = 0;
        for _ in 0..10_000 {
            budget.first();
            again += usize::from(budget.again(now));
        }
        assert_eq!(again, 1_009, "ten to begin with, and a tenth");
        assert!(!budget.again(now));
        assert!(budget.again(now + EVERY), "and one now and then");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_a_bound_and_end_with_an_answer() {
        let start = Instant::now();
        for (too_much, before_first) in [(true, 0), (false, FAILURES_MIN - 1)] {
            let mut trouble = Trouble::default();
            let mut now = start;
            let mut fail = || {
                now += Duration::from_secs(60);
                let pause = trouble.failed(too_much, now, now, 7);
                assert_eq!(trouble.failed(too_much, now - Duration::from_secs(1), now, 7), None, "it was asked before");
                pause
            };
            for _ in 0..before_first {
                assert_eq!(fail(), None);
            }
            for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0] {
                let pause = fail().unwrap().as_secs_f64();
                assert!((seconds..=seconds * 1.5).contains(&pause), "{pause} for {seconds}");
            }
            trouble.is_over();
            let now = now + Duration::from_secs(60);
            assert_eq!(trouble.failed(true, now, now, 7).map(|pause| pause < Duration::from_secs(1)), Some(true));
        }
    }
}
