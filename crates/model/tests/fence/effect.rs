//! What a step does to a state, what follows from it without a choice, and what must never be seen.

use model::Isolation;
use model::fence::Verdict;

use crate::rules::Rules;
use crate::state::{Age, Beat, Body, Fill, Index, Life, Node, Phase, Rev, State};
use crate::world::World;
use model::Mistake;

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A header leaves for a user of this node with a body that is older than a complete refresh.
    Fresh(usize),
    /// An answer failed the very request it was begun for, though nothing was applied meanwhile.
    Progress(usize),
}

pub(crate) fn isolation(world: &World, n: usize) -> Isolation {
    if world.serve.contains(&n) { Isolation::Serve } else { Isolation::Revalidate }
}

/// Whether a node answers anybody.
pub(crate) fn serving(rules: &Rules, node: &Node) -> bool {
    node.life == Life::Up || (node.life == Life::Joining && rules.is_off(Mistake::ServesBeforeMember))
}

/// Whether a user of this node who is sent this version now is sent one that is older than a complete refresh.
pub(crate) fn stale(state: &State, n: usize, version: Rev) -> bool {
    !state.control.rows[n].removed && version < state.control.promised()
}

/// Whether a user of some node who asks at this very moment is sent a stored body that is too old.
pub(crate) fn stale_lookup(world: &World, rules: &Rules, state: &State) -> Option<Broken> {
    world.nodes().find_map(|n| {
        let node = &state.nodes[n];
        let body = node.body.filter(|body| stale(state, n, body.version))?;
        (serving(rules, node) && rules.serves_user(&body, node, isolation(world, n))).then_some(Broken::Fresh(n))
    })
}

/// What follows from a state without any choice, so that fewer of them differ.
pub(crate) fn settle(world: &World, rules: &Rules, state: &mut State) {
    let persists_late = state.left.crashes > 0;
    for n in world.nodes() {
        let node = &mut state.nodes[n];
        if node.life == Life::Up && !persists_late {
            node.disk = node.memory;
        }
        if world.asks.len() == 1 {
            node.fills.sort_unstable_by(|a, b| b.cmp(a));
        }
        if matches!(node.beat, Beat::Sent { age } | Beat::Answered { age, .. } if age == world.lease) {
            node.beat = Beat::Idle;
        }
        // Nothing but completion reads an acknowledgement: the earliest is the worst.
        let row = &mut state.control.rows[n];
        if node.life == Life::Up && row.member {
            row.acked = row.acked.max(rules.acknowledged(node));
        }
    }
    // So it is with completion: nothing but the promise reads it.
    let control = &mut state.control;
    for entry in control.complete + 1..=control.head {
        let known_for = control.known_for[usize::from(entry) - 1];
        let all_passed = world.nodes().all(|n| {
            let row = control.rows[n];
            !row.member || rules.passed(entry, row.acked, isolation(world, n), known_for)
        });
        if !all_passed {
            break;
        }
        control.complete = entry;
    }
    control.known_for[..usize::from(control.complete)].fill(rules.known_for_limit());
    for row in &mut control.rows[..world.asks.len()] {
        row.acked = row.acked.max(control.complete);
    }
    if let Some((a, b)) = world.twins
        && (&state.nodes[a], state.control.rows[a]) > (&state.nodes[b], state.control.rows[b])
    {
        state.nodes.swap(a, b);
        state.control.rows.swap(a, b);
        for via in
            state.nodes.iter_mut().flat_map(|node| &mut node.fills).flatten().filter_map(|fill| fill.via.as_mut())
        {
            let same = match usize::from(*via) {
                asked if asked == a => b,
                asked if asked == b => a,
                asked => asked,
            };
            *via = u8::try_from(same).expect("few nodes");
        }
    }
}

/// A fetch whose answer, of this age, is on its way.
pub(crate) fn answer(rules: &Rules, fill: &Fill, version: Rev, age: Age) -> Fill {
    let modified = fill.validator != Some(version);
    Fill {
        fence: 0,
        sent: rules.vouches(fill, age),
        validator: fill.validator.filter(|_| !modified),
        phase: Phase::Answered { version, modified },
        ..*fill
    }
}

/// The phase of a request that waits for its parent's fetch in this slot.
pub(crate) fn waits_for(slot: usize) -> Phase {
    Phase::Joined(u8::try_from(slot).expect("few slots"))
}

pub(crate) fn set_phase(state: &mut State, n: usize, slot: usize, phase: Phase) {
    if let Some(fill) = &mut state.nodes[n].fills[slot] {
        fill.phase = phase;
    }
}

/// Something is applied while fetches run.
pub(crate) fn overtake(node: &mut Node) {
    for fill in node.fills.iter_mut().flatten() {
        fill.overtaken = true;
        fill.asked = fill.asked.map(|_| 0);
    }
}

/// An answer arrives: it is judged for the one its fetch was begun for and for those who joined, and stored.
pub(crate) fn deliver(
    world: &World,
    rules: &Rules,
    state: &mut State,
    n: usize,
    slot: usize,
    fill: &Fill,
    (version, modified): (Rev, bool),
) -> Option<Broken> {
    let node = &mut state.nodes[n];
    node.fills[slot] = None;
    let Some(body) = rules.arrived(node, fill, version, modified) else {
        // The body that the 304 speaks of is gone: whoever still wants one asks again.
        release(state, world, n, Some(slot));
        return None;
    };
    node.body = Some(body);
    let node = *node;
    let isolation = isolation(world, n);
    for fill in state.nodes.iter_mut().flat_map(|child| &mut child.fills).flatten() {
        if waits_at(fill, n, Some(slot)) {
            let sends = rules.hands_on(&body, &node, isolation, Some(fill.fence)) == Verdict::Send;
            let again = Fill { phase: Phase::Asked, ..*fill };
            *fill = if sends { answer(rules, fill, body.version, rules.answer_age(&body, &node)) } else { again };
        }
    }
    let verdict = rules.hands_on(&body, &node, isolation, fill.asked);
    if verdict == Verdict::Covered && !fill.overtaken {
        return Some(Broken::Progress(n));
    }
    let to_user = fill.asked.is_none() && verdict == Verdict::Send;
    (to_user && stale(state, n, body.version)).then_some(Broken::Fresh(n))
}

/// Whether a request waits at this node, for the fetch in this slot or for any.
pub(crate) fn waits_at(fill: &Fill, n: usize, slot: Option<usize>) -> bool {
    let Phase::Joined(joined) = fill.phase else { return false };
    fill.via.map(usize::from) == Some(n) && slot.is_none_or(|slot| slot == usize::from(joined))
}

/// Requests that waited for a fetch that is no more are asked again.
pub(crate) fn release(state: &mut State, world: &World, n: usize, slot: Option<usize>) {
    for child in &mut state.nodes[world.nodes()] {
        for fill in child.fills.iter_mut().flatten().filter(|fill| waits_at(fill, n, slot)) {
            fill.phase = Phase::Asked;
        }
    }
}

/// All that is volatile is lost.
pub(crate) fn stop_process(state: &mut State, world: &World, n: usize) {
    release(state, world, n, None);
    let node = &mut state.nodes[n];
    node.contact = world.lease;
    node.beat = Beat::Idle;
    node.fills = Default::default();
    node.header = None;
    node.body = node.body.map(|body| Body { vouched: world.lease, ..body });
}

/// A hello was answered with `head`.
pub(crate) fn join(rules: &Rules, node: &mut Node, head: Rev) {
    let lost = node.life == Life::Lost;
    let reads_anew = lost && rules.is_off(Mistake::AckResetInsteadOfFloor);
    let floorless = rules.is_off(if lost { Mistake::LostDiskWithoutFloor } else { Mistake::JoinsWithoutFloor });
    let applied = if reads_anew { 0 } else { head };
    node.memory = Index { applied, floor: if floorless { 0 } else { applied }, covers: 0 };
    node.disk = node.memory;
    node.life = Life::Up;
}

/// Time passes, though one node's clock may not show it.
pub(crate) fn tick(world: &World, rules: &Rules, state: &mut State, missed_by: Option<usize>) {
    let older = |age: &mut Age| *age = (*age + 1).min(world.lease);
    for n in world.nodes() {
        let node = &mut state.nodes[n];
        if let Some(header) = &mut node.header {
            header.age += 1;
        }
        if missed_by == Some(n) {
            continue;
        }
        older(&mut node.contact);
        node.body.iter_mut().for_each(|body| older(&mut body.vouched));
        for fill in node.fills.iter_mut().flatten() {
            let stops = matches!(fill.phase, Phase::Answered { .. }) && rules.stops_on_the_way(fill);
            if !stops {
                older(&mut fill.sent);
            }
        }
        if let Beat::Sent { age } | Beat::Answered { age, .. } = &mut node.beat {
            older(age);
        }
    }
    for known_for in &mut state.control.known_for[..usize::from(state.control.head)] {
        *known_for = (*known_for + 1).min(rules.known_for_limit());
    }
}
