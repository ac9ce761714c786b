//! The worlds that are searched: who asks whom, what may happen, and how often.

use crate::state::{Age, Beat, Control, ENTRIES, Index, Left, Life, NODES, Node, Rev, Row, SLOTS, State};

/// A world. Node 0 is always one that users ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    pub(crate) name: &'static str,
    /// By node, whom it may ask: a node, or `None` for the origin. The length is the number of nodes.
    pub(crate) asks: &'static [&'static [Option<u8>]],
    /// Nodes that begin fetches for users of their own; all judge for users.
    pub(crate) users: &'static [usize],
    /// Nodes that are not members when the world begins.
    pub(crate) joiners: &'static [usize],
    /// Nodes with `isolation = "serve"`.
    pub(crate) serve: &'static [usize],
    pub(crate) entries: Rev,
    pub(crate) lease: Age,
    /// The longest pause between judging and sending; `None`: the two are one step.
    pub(crate) pause: Option<Age>,
    /// Fetches that a node may have in flight.
    pub(crate) slots: usize,
    /// Whether a heartbeat is sent, answered and heard in steps. Otherwise it is one step, which is the best it can
    /// do for its node: an earlier head is sooner applied, and an earlier answer sooner believed.
    pub(crate) beats: bool,
    /// Whether an entry is seen in the index before `applied` shows it. Otherwise the two are one step.
    pub(crate) two_step_apply: bool,
    /// Whether a node may fetch though its stored body could be sent, as HTTP's freshness demands at times.
    pub(crate) renews: bool,
    /// Whether the origin reads its register the moment it is asked, which finds the oldest version it may find.
    pub(crate) reads_at_once: bool,
    /// Two nodes that are alike: states that differ only by which is which are one. A trace may then change their names.
    pub(crate) twins: Option<(usize, usize)>,
    pub(crate) left: Left,
}

const NONE_LEFT: Left = Left {
    crashes: 0,
    wipes: 0,
    removals: 0,
    control_restarts: 0,
    retires: 0,
    sweeps: 0,
    compactions: 0,
    slips: 0,
    unchanged: 0,
    others: 0,
};

const SMALLEST: World = World {
    name: "",
    asks: &[&[None]],
    users: &[0],
    joiners: &[],
    serve: &[],
    entries: 1,
    lease: 2,
    pause: None,
    slots: 1,
    beats: false,
    two_step_apply: false,
    renews: true,
    reads_at_once: false,
    twins: None,
    left: NONE_LEFT,
};

const CHAIN: &[&[Option<u8>]] = &[&[Some(1)], &[None]];

/// One node with two fetches at a time, every step in steps.
pub(crate) static ALONE: World = World {
    name: "one node",
    slots: 2,
    beats: true,
    two_step_apply: true,
    left: Left { crashes: 1, control_restarts: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// One node under three entries of every kind.
pub(crate) static LONG_LOG: World = World {
    name: "one node, three entries",
    entries: 3,
    two_step_apply: true,
    left: Left { crashes: 1, unchanged: 1, others: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// One node whose clock is slow.
pub(crate) static DRIFTING: World = World {
    name: "one node, slow clock",
    entries: 2,
    lease: 3,
    beats: true,
    left: Left { slips: 1, control_restarts: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// One node whose clock is slow and whose headers leave late.
pub(crate) static PAUSING: World = World {
    name: "one node, slow clock, late headers",
    entries: 2,
    pause: Some(1),
    beats: true,
    left: Left { slips: 1, control_restarts: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// One node that serves when isolated.
pub(crate) static ISOLATED: World = World {
    name: "one node that serves when isolated",
    entries: 2,
    serve: &[0],
    beats: true,
    left: Left { crashes: 1, control_restarts: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// One node that forgets entries, and a log that does.
pub(crate) static FORGETTING: World = World {
    name: "one node that forgets",
    entries: 3,
    left: Left { crashes: 1, retires: 1, sweeps: 1, compactions: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// One node that joins, is removed, joins again, loses its disk.
pub(crate) static JOINING: World = World {
    name: "one node that joins",
    entries: 2,
    joiners: &[0],
    beats: true,
    left: Left { wipes: 1, removals: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// A child and its parent, in every step of a heartbeat.
pub(crate) static TIERS: World = World { name: "two tiers", asks: CHAIN, beats: true, renews: false, ..SMALLEST };

/// A child and its parent under two entries.
pub(crate) static TIERS_TWICE: World = World { name: "two tiers, two entries", asks: CHAIN, entries: 2, ..SMALLEST };

/// A child and its parent, with users at both.
pub(crate) static TIERS_BUSY: World =
    World { name: "two tiers, users at both", asks: CHAIN, users: &[0, 1], ..SMALLEST };

/// A child, and a parent that serves its users when isolated.
pub(crate) static TIERS_SERVE: World =
    World { name: "two tiers, parent that serves when isolated", asks: CHAIN, serve: &[1], ..SMALLEST };

/// A child and its parent, one of which restarts with its old disk.
pub(crate) static TIERS_CRASH: World =
    World { name: "two tiers, restart", asks: CHAIN, left: Left { crashes: 1, ..NONE_LEFT }, ..SMALLEST };

/// A disk that is lost, and a node that is removed and does not know: the parent, or the child.
pub(crate) static TIERS_WIPE: World = World {
    name: "two tiers, lost disk, removed node",
    asks: CHAIN,
    left: Left { wipes: 1, removals: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// A child that joins, and a node that is removed and does not know.
pub(crate) static TIERS_JOIN: World = World {
    name: "two tiers, joining child, removed node",
    asks: CHAIN,
    joiners: &[0],
    left: Left { removals: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// A node that retires entries, and one that is removed and does not know.
pub(crate) static TIERS_RETIRE: World = World {
    name: "two tiers, retired entries, removed node",
    asks: CHAIN,
    renews: false,
    left: Left { retires: 1, removals: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// Nodes that return after compaction, and one that is removed and does not know.
pub(crate) static TIERS_COMPACT: World = World {
    name: "two tiers, compacted log, removed node",
    asks: CHAIN,
    renews: false,
    left: Left { compactions: 1, removals: 1, ..NONE_LEFT },
    ..SMALLEST
};

/// A child that may ask its parent or the origin, and a node that is removed and does not know.
pub(crate) static EITHER: World = World {
    name: "parent or origin, retired entries, removed node",
    asks: &[&[Some(1), None], &[None]],
    ..TIERS_RETIRE
};

/// Two children of one parent.
pub(crate) static FAN_IN: World = World {
    name: "fan-in",
    asks: &[&[Some(2)], &[Some(2)], &[None]],
    users: &[0, 1],
    renews: false,
    reads_at_once: true,
    twins: Some((0, 1)),
    ..SMALLEST
};

/// Two children of one parent, one of the three of which restarts with its old disk.
pub(crate) static FAN_IN_CRASH: World =
    World { name: "fan-in, restart", lease: 1, left: Left { crashes: 1, ..NONE_LEFT }, ..FAN_IN };

/// A child that may ask either of two parents.
pub(crate) static FAN_OUT: World = World {
    name: "fan-out",
    asks: &[&[Some(1), Some(2)], &[None], &[None]],
    renews: false,
    reads_at_once: true,
    twins: Some((1, 2)),
    ..SMALLEST
};

/// Three tiers.
pub(crate) static THREE_TIERS: World = World {
    name: "three tiers",
    asks: &[&[Some(1)], &[Some(2)], &[None]],
    renews: false,
    reads_at_once: true,
    ..SMALLEST
};

/// Three tiers, a node of which is removed and does not know.
pub(crate) static THREE_TIERS_REMOVED: World =
    World { name: "three tiers, removed node", lease: 1, left: Left { removals: 1, ..NONE_LEFT }, ..THREE_TIERS };

impl World {
    pub(crate) fn nodes(&self) -> std::ops::Range<usize> {
        0..self.asks.len()
    }

    /// Nothing stored, nothing known, nothing accepted.
    pub(crate) fn start(&self) -> State {
        assert!(self.asks.len() <= NODES && self.slots <= SLOTS && usize::from(self.entries) <= ENTRIES);
        let mut state = State {
            control: Control {
                head: 0,
                covers: 0,
                changes: 0,
                compacted: 0,
                complete: 0,
                known_for: [0; ENTRIES],
                rows: [Row { member: false, removed: false, acked: 0 }; NODES],
            },
            nodes: [Node {
                life: Life::Absent,
                memory: Index::EMPTY,
                disk: Index::EMPTY,
                body: None,
                contact: self.lease,
                beat: Beat::Idle,
                fills: [None; SLOTS],
                header: None,
            }; NODES],
            left: self.left,
        };
        for n in self.nodes() {
            let joins = self.joiners.contains(&n);
            state.nodes[n].life = if joins { Life::Joining } else { Life::Up };
            state.control.rows[n].member = !joins;
        }
        state
    }
}
