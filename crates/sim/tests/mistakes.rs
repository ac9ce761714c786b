//! Every line of the fence that can be switched off in the real code, switched off: the checker must notice.
//!
//! Six lines of the model checker's table cannot be, because there is nothing to switch:
//!
//! - *A joining child's fence raises the stamp of the running fetch*: who joins has no hand on the fetch, which is a value inside its
//!   task.
//! - *Vouching survives a restart*: the moments are in memory alone.
//! - *A node serves before it is a member*: one that joins knows no domain to serve.
//! - *A node that lost its disk starts without a floor*: to the code that is a node that joins, which is here.
//! - *The acknowledgement is reset instead of a floor*: no code resets one.
//! - *The margin covers the drift and not the pause before sending*: processes of a simulation do not pause. Real ones are stopped
//!   in `e2e`.
//!
//! One is noticed by less than a stale answer: where the head is read before the membership is committed, the snapshot does not have the
//! node in it, which then serves nobody. Stamps without the fence that was asked for break progress alone, as the model checker has it:
//! a child of a parent that lags is never answered.

#![cfg(feature = "mistakes")]

use model::Mistake;
use sim::{Plan, run};

/// Seeds that are tried before a mistake counts as unnoticed.
const SEEDS_MAX: u64 = 4_000;

#[test]
fn every_mistake_is_noticed() {
    let unnoticed = std::sync::Mutex::new(Vec::new());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&mistake) = Mistake::ALL.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let noticed = (1..=SEEDS_MAX).find(|seed| {
                        let plan = Plan { seed: *seed, mistake: Some(mistake), trace: false };
                        !run(plan).violations.is_empty()
                    });
                    match noticed {
                        Some(seed) => eprintln!("{mistake:?}: noticed by seed {seed}"),
                        None => unnoticed.lock().unwrap().push(mistake),
                    }
                }
            });
        }
    });
    let unnoticed = unnoticed.into_inner().unwrap();
    assert!(unnoticed.is_empty(), "{SEEDS_MAX} seeds do not notice {unnoticed:?}");
}
