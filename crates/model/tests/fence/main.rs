//! The fence, explored exhaustively in small worlds.
//!
//! A refresh that reads `Complete` is a promise about every node, whatever crashed, was cut off, joined or came back.
//! No example shows that it holds. Here every state that a world of a few nodes can reach is visited, the nodes and
//! the control plane of these worlds deciding through [`model::fence`], the functions that the real ones call; and
//! each line of the protocol is switched off in turn, which must be noticed, or the search is worth nothing.
//!
//! # The world
//!
//! One to three nodes, one key, one origin that is a register with versions. Nodes ask the origin or one another: a
//! chain of two or three, two children of one parent, one child of two parents. Entries are accepted, applied, made
//! durable and acknowledged; heartbeats are sent, answered, delayed and lost; fetches are begun, joined, read
//! upstream, answered (also by a 304) any time later, or lost; nodes restart with their old disk or lose it, join,
//! are removed while they run on, retire entries; the log is compacted; the control plane restarts; time passes in
//! ticks of which a lease has two or three (one in the two worlds where one of three nodes fails), and clocks may miss
//! one. [`world`] says which world has what.
//!
//! # What must hold
//!
//! - *Fresh*: no header leaves for a user, on a node that was not removed, with a body older than a refresh that is
//!   complete by then. That is more than the promise, which lets off requests begun before.
//! - *Progress*: an answer satisfies the request that its fetch was begun for, unless something was applied since, or
//!   it came too late for its lease.
//!
//! # What is bounded
//!
//! The numbers in each [`world`]: entries, fetches in flight, failures of each kind. Time is not: ages end at
//! the lease, beyond which no rule tells them apart. With three nodes there is one entry, each fetches only what it
//! may not send, and the origin reads at once. One heartbeat a node is under way at a time, and one fetch, but for
//! the world of one node that has two. Within these numbers every state is visited; [`search`](mod@search) says with
//! which certainty.
//!
//! Some steps are one here that are two in life, each time in the order that is worst or that changes nothing:
//!
//! - The origin changes just before the refresh of the change is accepted: whoever reads earlier reads the old.
//! - Nodes acknowledge, and refreshes complete, as soon as they may: only the promise reads either.
//! - A user asks a store in no step at all, for it can be asked in every state; a judged header that leaves later is
//!   a step where the world has a pause.
//! - A process stops and starts at once: one that is down does nothing that an idle one does not.
//! - In some worlds a heartbeat is one step, and an entry is applied in one.
//!
//! # Not here
//!
//! Four nodes; two keys, for they share nothing but what is here; eviction, which is to store nothing; which entries
//! cover what; requests that lose their fence, and answers without an age; a log with another identity; changes of
//! lease and isolation; replicas of the control plane, but for a head that is too old. More failures or entries among
//! three nodes are too many states for a test: the simulation of the real code goes there by chance.
//!
//! # To see it
//!
//! `cargo test -p model --test fence -- --nocapture` prints the states of each world, and the shortest way to each
//! broken promise.

mod effect;
mod rules;
mod search;
mod state;
mod step;
mod switch;
mod world;

use effect::Broken;
use model::Mistake;
use search::{Outcome, search};
use switch::{Breaks, expected};
use world::World;

/// Every world, with a number of states that it must not fall below: fewer would say that something can no longer
/// happen in it.
const WORLDS: &[(&World, usize)] = &[
    (&world::ALONE, 470_000),
    (&world::LONG_LOG, 950_000),
    (&world::DRIFTING, 290_000),
    (&world::PAUSING, 660_000),
    (&world::ISOLATED, 150_000),
    (&world::FORGETTING, 1_200_000),
    (&world::JOINING, 110_000),
    (&world::TIERS, 1_400_000),
    (&world::TIERS_TWICE, 1_100_000),
    (&world::TIERS_BUSY, 200_000),
    (&world::TIERS_SERVE, 99_000),
    (&world::TIERS_CRASH, 500_000),
    (&world::TIERS_WIPE, 1_100_000),
    (&world::TIERS_JOIN, 500_000),
    (&world::TIERS_RETIRE, 680_000),
    (&world::TIERS_COMPACT, 840_000),
    (&world::EITHER, 1_900_000),
    (&world::FAN_IN, 2_400_000),
    (&world::FAN_IN_CRASH, 2_000_000),
    (&world::FAN_OUT, 3_200_000),
    (&world::THREE_TIERS, 2_400_000),
    (&world::THREE_TIERS_REMOVED, 2_000_000),
];

#[test]
fn promises_hold_in_every_state_of_every_world() {
    let mut visited = 0;
    for &(world, at_least) in WORLDS {
        match search(world, None) {
            Outcome::Holds { states, depth } => {
                eprintln!("{}: {states} states, none further than {depth} steps", world.name);
                assert!(states >= at_least, "{}: {states} states, at least {at_least} expected", world.name);
                visited += states;
            }
            Outcome::Breaks { broken, trace, .. } => {
                panic!("{}: {broken:?} is broken by{}", world.name, search::print(&trace));
            }
        }
    }
    eprintln!("{} worlds, {visited} states, 0 violations", WORLDS.len());
}

#[test]
fn every_line_switched_off_is_noticed() {
    for switch in Mistake::ALL {
        let (world, breaks, steps) = expected(switch);
        assert!(WORLDS.iter().any(|(held, _)| std::ptr::eq(*held, world)), "{}: is not searched whole", world.name);
        match search(world, Some(switch)) {
            Outcome::Holds { states, .. } => panic!("{switch:?} is not noticed in {states} states of {}", world.name),
            Outcome::Breaks { broken, trace, states } => {
                let trace_length = trace.len();
                let found = match broken {
                    Broken::Fresh(_) => Breaks::Fresh,
                    Broken::Progress(_) => Breaks::Progress,
                };
                let trace = search::print(&trace);
                assert_eq!(found, breaks, "{switch:?} in {}:{trace}", world.name);
                eprintln!(
                    "{switch:?} breaks {broken:?} in {trace_length} steps ({steps} in the design), among {states} \
                     states of {}:{trace}",
                    world.name
                );
            }
        }
    }
}
