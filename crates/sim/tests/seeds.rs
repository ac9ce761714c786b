//! Runs seeds against the real code.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Outcome, Plan, run};

/// Seeds that every change must pass; `cargo xtask sim --seeds N` runs any number.
const SEEDS: u64 = 3_000;

/// Runs seeds on every core.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let outcome = run(Plan { seed, mistake: None, trace: false });
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}

#[test]
fn no_seed_breaks_a_promise() {
    let outcomes = run_all(1..SEEDS + 1);
    let broken: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.violations.is_empty())
        .map(|outcome| format!("seed {}: {}", outcome.seed, outcome.violations.join("; ")))
        .collect();
    assert!(broken.is_empty(), "replay with `cargo xtask sim --replay SEED`:\n{}", broken.join("\n"));
    // Runs without any reads would prove nothing.
    let reads: u64 = outcomes.iter().map(|outcome| outcome.reads).sum();
    let refreshes: u64 = outcomes.iter().map(|outcome| outcome.refreshes).sum();
    let faults: u64 = outcomes.iter().map(|outcome| outcome.faults).sum();
    assert!(reads > 50 * SEEDS && refreshes > 4 * SEEDS && faults > 4 * SEEDS, "{reads} {refreshes} {faults}");
}

#[test]
fn a_seed_is_a_history() {
    let digests = || run_all(1..51).iter().map(|outcome| outcome.digest).collect::<Vec<_>>();
    let first = digests();
    assert_eq!(first, digests());
    let different: std::collections::BTreeSet<u64> = first.iter().copied().collect();
    assert_eq!(different.len(), 50, "seeds have histories of their own");
}
