//! Recent failures: a parent or an origin that fails several times in a row rests, longer each time, and returns
//! through one trial.
//!
//! A resting parent or origin is asked only after the others. Nobody is refused because of it, so a mistake here costs
//! time, never an answer.
//!
//! # What always holds
//!
//! - While one rests or is on trial, only the trial request is admitted.
//! - The rests of many nodes do not end together: each is up to a quarter longer or shorter, differently on each node.
//!   The difference comes from a hash, not a random number, so that a simulated node behaves the same each time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Parents or origins remembered at a time.
pub(crate) const REMEMBERED_MAX: usize = 4096;

/// How long a failure is remembered when nothing more is heard.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// How long a trial may take before another may begin.
const TRIAL_MAX: Duration = Duration::from_secs(30);

/// When one rests, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Failures in a row before it rests.
    pub(crate) failures: u32,
    /// The first rest; each that follows is twice as long.
    pub(crate) first: Duration,
    /// The longest.
    pub(crate) most: Duration,
}

struct State {
    /// The first of the failures in a row.
    since: Instant,
    failures: u32,
    /// Rests in a row.
    rests: u32,
    until: Option<Instant>,
    trial: Option<Instant>,
    last: Instant,
}

impl State {
    fn new(now: Instant) -> State {
        State { since: now, failures: 0, rests: 0, until: None, trial: None, last: now }
    }

    fn rests(&self, now: Instant) -> bool {
        let on_trial = self.trial.is_some_and(|since| now.saturating_duration_since(since) < TRIAL_MAX);
        self.until.is_some_and(|until| now < until || on_trial)
    }
}

/// Admission of a request, held while the request is under way. If the request ends and neither an answer nor a failure
/// was reported, for example because nobody waits for it any more, the next request gets the trial.
pub(crate) struct Admission<'a, K: Eq + Hash> {
    health: &'a Health<K>,
    /// Of a trial: who is tried, and since when.
    trial: Option<(K, Instant)>,
}

impl<K: Eq + Hash> Drop for Admission<'_, K> {
    fn drop(&mut self) {
        if let Some((who, since)) = &self.trial
            && let Some(state) = self.health.failed.lock().expect("no holder of this lock can panic").get_mut(who)
            && state.trial == Some(*since)
        {
            state.trial = None;
        }
    }
}

/// Parents or origins that failed recently.
pub(crate) struct Health<K> {
    rules: Rules,
    /// Makes this node's rests differ from another's.
    seed: u64,
    failed: Mutex<HashMap<K, State>>,
}

impl<K: Eq + Hash + Clone> Health<K> {
    pub(crate) fn new(rules: Rules, seed: u64) -> Health<K> {
        Health { rules, seed, failed: Mutex::default() }
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<K, State>> {
        self.failed.lock().expect("no holder of this lock can panic")
    }

    /// Admission to ask `who`; `None` while it rests or is on trial. After a rest, the request is the trial.
    pub(crate) fn admits(&self, who: &K, now: Instant) -> Option<Admission<'_, K>> {
        let mut failed = self.failed();
        let Some(state) = failed.get_mut(who) else { return Some(Admission { health: self, trial: None }) };
        if state.rests(now) {
            return None;
        }
        if state.until.is_some() {
            state.trial = Some(now);
        }
        Some(Admission { health: self, trial: state.trial.map(|since| (who.clone(), since)) })
    }

    /// Since when it has failed, and whether it rests or is on trial; `None` for one that is well.
    pub(crate) fn failing(&self, who: &K, now: Instant) -> Option<(Instant, bool)> {
        self.failed().get(who).map(|state| (state.since, state.rests(now)))
    }

    /// Reports a good answer.
    pub(crate) fn answered(&self, who: &K) {
        let mut failed = self.failed();
        if !failed.is_empty() {
            failed.remove(who);
        }
    }

    /// Reports a failure.
    pub(crate) fn failed_at(&self, who: &K, now: Instant) {
        let mut failed = self.failed();
        if failed.len() >= REMEMBERED_MAX && !failed.contains_key(who) {
            failed.retain(|_, state| now.saturating_duration_since(state.last) < FORGOTTEN_AFTER);
            if failed.len() >= REMEMBERED_MAX {
                return; // asked in its turn, as if it were well
            }
        }
        let state = failed.entry(who.clone()).or_insert_with(|| State::new(now));
        if now.saturating_duration_since(state.last) >= FORGOTTEN_AFTER {
            *state = State::new(now);
        }
        state.last = now;
        // A request from before the rest began, or not admitted, says nothing new.
        if state.until.is_some_and(|until| now < until) {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.rules.failures {
            let rest = self.rules.first.saturating_mul(1 << state.rests.min(16)).min(self.rules.most);
            state.until = Some(now + jittered(rest, self.seed, who, state.rests));
            state.rests = state.rests.saturating_add(1);
            state.trial = None;
        }
    }

    /// How many rest, and how many are remembered.
    pub(crate) fn counts(&self, now: Instant) -> (usize, usize) {
        let failed = self.failed();
        (failed.values().filter(|state| state.until.is_some_and(|until| now < until)).count(), failed.len())
    }
}

/// `time`, up to a quarter longer or shorter.
fn jittered(time: Duration, seed: u64, who: &impl Hash, nth: u32) -> Duration {
    use std::hash::Hasher;
    let mut hasher = Xxh3::with_seed(seed);
    who.hash(&mut hasher);
    nth.hash(&mut hasher);
    let thousandths = 750 + (hasher.finish() % 501) as u32;
    time * thousandths / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { failures: 3, first: Duration::from_secs(4), most: Duration::from_secs(10) };

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn failures_in_a_row_make_it_rest_longer_each_time_and_one_trial_brings_it_back() {
        let health = Health::new(RULES, 7);
        let start = Instant::now();
        for _ in 0..2 {
            health.failed_at(&"a", start);
        }
        let admits = |at| health.admits(&"a", at);
        assert!(admits(start).is_some(), "twice is not yet in a row");
        health.answered(&"a");
        for _ in 0..3 {
            assert!(admits(start).is_some());
            health.failed_at(&"a", start);
        }
        assert!(admits(start + secs(2.9)).is_none(), "a quarter off four seconds");
        assert_eq!(health.counts(start + secs(2.9)), (1, 1));
        health.failed_at(&"a", start + secs(1.0)); // an answer to what was asked before, or not admitted
        let over = start + secs(5.1);
        let trial = admits(over);
        assert!(trial.is_some() && admits(over).is_none(), "one trial at a time");
        drop(trial);
        let trial = admits(over);
        assert!(trial.is_some(), "a trial that was called off is the next one's");
        health.failed_at(&"a", over);
        drop(trial);
        assert!(admits(over + secs(5.9)).is_none(), "twice as long");
        let again = over + secs(10.1);
        let trial = admits(again);
        assert!(trial.is_some());
        health.failed_at(&"a", again);
        drop(trial);
        assert!(admits(again + secs(7.4)).is_none(), "no longer than ten");
        let trial = admits(again + secs(12.6));
        assert!(trial.is_some());
        health.answered(&"a");
        assert!(admits(again).is_some() && admits(again).is_some());
        assert_eq!(health.counts(again), (0, 0));
    }

    #[test]
    fn trial_whose_end_was_not_told_is_given_to_another() {
        let health = Health::new(Rules { failures: 1, ..RULES }, 7);
        let start = Instant::now();
        health.failed_at(&"a", start);
        let late = health.admits(&"a", start + secs(6.0));
        assert!(late.is_some() && health.admits(&"a", start + secs(35.9)).is_none());
        let second = health.admits(&"a", start + secs(36.0));
        assert!(second.is_some());
        drop(late);
        assert!(health.admits(&"a", start + secs(36.0)).is_none(), "the late one ends no trial but its own");
    }

    #[test]
    fn table_is_bounded_and_rests_differ_between_nodes() {
        let start = Instant::now();
        let (one, other) = (Health::new(Rules { failures: 1, ..RULES }, 1), Health::new(RULES, 2));
        for who in 0..REMEMBERED_MAX as u32 + 5 {
            one.failed_at(&who, start);
        }
        assert_eq!(one.counts(start), (REMEMBERED_MAX, REMEMBERED_MAX));
        let rest = |health: &Health<u32>, who| jittered(RULES.first, health.seed, &who, 0);
        let differ = (0..20).filter(|who| rest(&one, *who) != rest(&other, *who)).count();
        assert!(differ > 15, "{differ}");
        assert!((0..200).all(|who| (secs(3.0)..=secs(5.0)).contains(&rest(&one, who))));
    }
}
