//! Breadth-first search of a world, from its start to every state that can be reached.
//!
//! States that were seen are kept as 64-bit hashes. Two that share one would hide what follows from one of them;
//! among three million states that happens in less than one search of a million.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::effect::Broken;
use crate::rules::Rules;
use crate::state::State;
use crate::step::{Action, Steps};
use crate::world::World;
use model::Mistake;

/// More states than any world here has. A search that comes so far was not exhaustive, and fails.
const STATES_MAX: usize = 8_000_000;

pub(crate) enum Outcome {
    /// Every state was seen, and no promise broken.
    Holds { states: usize, depth: usize },
    /// The shortest way to a broken promise.
    Breaks { broken: Broken, trace: Vec<Action>, states: usize },
}

/// Searches a world with all rules on, or with one line of the protocol switched off.
pub(crate) fn search(world: &World, off: Option<Mistake>) -> Outcome {
    let rules = Rules::of(world, off);
    let start = world.start();
    let mut seen = HashSet::<u64, BuildHasherDefault<Known>>::default();
    seen.insert(hash(&start));
    // By state, in the order in which they were found: from which it was reached, as its how manieth successor.
    let mut ways: Vec<(u32, u16)> = vec![(0, 0)];
    let (mut level, mut next) = (vec![(start, 0_u32)], Vec::new());
    let mut successors = Vec::new();
    let mut depth = 0;
    while !level.is_empty() {
        for (from, id) in level.drain(..) {
            // All successors first, and only then what is known of them: so the processor looks up several at once in
            // a table that no cache holds.
            let found = |_, state: State, broken| successors.push((hash(&state), state, broken));
            Steps { world, rules: &rules, from: &from, found }.all();
            for (choice, (hash, state, broken)) in (0..).zip(successors.drain(..)) {
                if let Some(broken) = broken {
                    let trace = trace(world, &rules, &ways, id, choice);
                    return Outcome::Breaks { broken, trace, states: ways.len() };
                }
                if seen.insert(hash) {
                    next.push((state, u32::try_from(ways.len()).expect("fewer than the most states")));
                    ways.push((id, choice));
                }
            }
            assert!(ways.len() < STATES_MAX, "{}: more than {STATES_MAX} states at depth {depth}", world.name);
        }
        std::mem::swap(&mut level, &mut next);
        depth += 1;
    }
    Outcome::Holds { states: ways.len(), depth }
}

/// The actions that lead from the start to a state and one step on.
fn trace(world: &World, rules: &Rules, ways: &[(u32, u16)], mut id: u32, last: u16) -> Vec<Action> {
    let mut choices = vec![last];
    while id != 0 {
        let (from, choice) = ways[id as usize];
        choices.push(choice);
        id = from;
    }
    let mut state = world.start();
    let mut actions = Vec::new();
    for &choice in choices.iter().rev() {
        let (mut number, mut taken) = (0, None);
        let found = |action, state, _| {
            if number == choice {
                taken = Some((action, state));
            }
            number += 1;
        };
        Steps { world, rules, from: &state, found }.all();
        let (action, to) = taken.expect("a way that was gone can be gone again");
        actions.push(action);
        state = to;
    }
    actions
}

/// A trace as a numbered list.
pub(crate) fn print(trace: &[Action]) -> String {
    trace.iter().enumerate().fold(String::new(), |mut text, (number, action)| {
        write!(text, "\n  {:2} {action:?}", number + 1).expect("a string takes all that is written");
        text
    })
}

fn hash(state: &State) -> u64 {
    let mut bytes = Bytes { bytes: [0; 256], length: 0 };
    state.hash(&mut bytes);
    bytes.finish()
}

/// Gathers what a state is made of, and hashes it at once.
struct Bytes {
    bytes: [u8; 256],
    length: usize,
}

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }

    fn finish(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.bytes[..self.length])
    }

    fn write_u8(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    // A discriminant is handed over as an `isize`; no enum here has more than a few variants.
    fn write_isize(&mut self, number: isize) {
        self.write_u8(number.to_le_bytes()[0]);
    }

    // So is the length of an array.
    fn write_usize(&mut self, number: usize) {
        self.write_u8(number.to_le_bytes()[0]);
    }
}

/// Takes a hash as it is.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are kept");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
