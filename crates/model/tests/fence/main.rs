//! Exhaustive model of the fence.

mod rules;
mod search;
mod state;
mod step;
mod switch;
mod world;

use search::{Outcome, search};

#[test]
fn probe() {
    use world::*;
    for w in [ALONE, SLOW, ISOLATED, FORGETTING, JOINING, TIERS, TIERS_TWICE, TIERS_CRASH, TIERS_WIPE, TIERS_JOIN, TIERS_RETIRE, TIERS_BUSY, FAN_IN, FAN_OUT, THREE_TIERS] {
        let t = std::time::UNIX_EPOCH.elapsed().unwrap();
        match std::panic::catch_unwind(|| search(&w, None)) {
            Ok(Outcome::Holds { states, depth }) => eprint!("{}: {states} states, depth {depth}", w.name),
            Ok(Outcome::Breaks { broken, trace, states }) => eprint!("{}: BROKEN {broken:?} {states}{}", w.name, search::print(&trace)),
            Err(_) => eprint!("{} too large", w.name),
        }
        eprintln!(" {:?}", std::time::UNIX_EPOCH.elapsed().unwrap() - t);
    }
}
