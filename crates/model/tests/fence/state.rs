//! A state of a world: everything that decides what may happen next, and nothing else.
//!
//! Time is kept as ages in ticks, and an age that reaches the lease is the same as *never*: no rule can tell them
//! apart. That is what makes the states finite though time never ends.

/// How long ago, in ticks; the world's lease stands for "as long ago, or never".
pub(crate) type Age = u8;
/// A revision of the log; also the version of the origin's register, which is the revision that changed it last.
pub(crate) type Rev = u8;

/// The most nodes of a world.
pub(crate) const NODES: usize = 3;
/// The most log entries of a world.
pub(crate) const ENTRIES: usize = 3;
/// The most fetches that one node has in flight.
pub(crate) const SLOTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) control: Control,
    pub(crate) nodes: [Node; NODES],
    /// What may still go wrong.
    pub(crate) left: Left,
}

/// The control plane: its database, and what its process remembers (`known_for`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Control {
    pub(crate) head: Rev,
    /// Bit `r - 1`: entry `r` covers the key.
    pub(crate) covers: u8,
    /// Bit `r - 1`: the origin's register changed, to version `r`, just before entry `r` was accepted.
    pub(crate) changes: u8,
    /// The log has been compacted up to here.
    pub(crate) compacted: Rev,
    /// The highest revision that has ever been complete.
    pub(crate) complete: Rev,
    /// By entry, how long the process has known it; ends at lease and margin.
    pub(crate) known_for: [Age; ENTRIES],
    pub(crate) rows: [Row; NODES],
}

/// What the database says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Row {
    pub(crate) member: bool,
    /// It was a member and is none; its users are outside the promise, its children are not.
    pub(crate) removed: bool,
    pub(crate) acked: Rev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Life {
    /// Not a node of this world.
    Absent,
    /// New, or removed and aware of it: serves nobody until its hello is answered.
    Joining,
    /// As [`Life::Joining`], having been a member until its disk was lost.
    Lost,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    pub(crate) life: Life,
    pub(crate) memory: Index,
    /// What a restart finds.
    pub(crate) disk: Index,
    /// Durable with its stamp; `vouched` is not.
    pub(crate) body: Option<Body>,
    pub(crate) contact: Age,
    pub(crate) beat: Beat,
    pub(crate) fills: [Option<Fill>; SLOTS],
    /// A header that was judged and has not left yet.
    pub(crate) header: Option<Header>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Index {
    pub(crate) applied: Rev,
    pub(crate) floor: Rev,
    /// Bit `r - 1`: entry `r` is in the index and covers the key.
    pub(crate) covers: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Body {
    pub(crate) version: Rev,
    pub(crate) stamp: Rev,
    pub(crate) vouched: Age,
}

/// A heartbeat, or a hello while the node joins. One at a time: a new one gives up the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Beat {
    Idle,
    /// On its way; the head for its answer may be read from now on.
    Sent {
        age: Age,
    },
    /// The answer is on its way, or names a head that the node has not applied yet.
    Answered {
        age: Age,
        head: Rev,
    },
}

/// A fetch in flight. What no step can read any more is set to a fixed value, so that fewer states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fill {
    pub(crate) stamp: Rev,
    /// What the request to the parent carries; zero towards the origin, which reads none, and once answered.
    pub(crate) fence: Rev,
    /// When it was sent. Once answered, the moment for which its answer vouches: nothing that `Fetch::vouch` makes
    /// of sending and age depends on when the answer arrives.
    pub(crate) sent: Age,
    /// The fence of the child it was begun for, zero once overtaken; `None` for a user.
    pub(crate) asked: Option<Rev>,
    /// `None` once answered with a new body.
    pub(crate) validator: Option<Rev>,
    /// Whether anything was applied since it began: only then may its answer fail whom it was begun for.
    pub(crate) overtaken: bool,
    /// The node that is asked; `None` is the origin.
    pub(crate) via: Option<u8>,
    pub(crate) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// The request is on its way.
    Asked,
    /// The parent lets it wait for its own fetch in this slot.
    Joined(u8),
    /// The answer is on its way; `modified` is false for a 304.
    Answered { version: Rev, modified: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Header {
    pub(crate) version: Rev,
    /// The pause since the judgement, in true ticks.
    pub(crate) age: Age,
    /// What the node had applied when it judged.
    pub(crate) applied: Rev,
}

/// How often each of these may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Left {
    /// Processes that stop, to be restarted with the disk they had.
    pub(crate) crashes: u8,
    /// Disks that are lost.
    pub(crate) wipes: u8,
    /// Members that are removed while their process runs on.
    pub(crate) removals: u8,
    /// Restarts of the control plane.
    pub(crate) control_restarts: u8,
    /// Floors raised by a node of itself.
    pub(crate) retires: u8,
    /// Sweeps of a body up to what is applied.
    pub(crate) sweeps: u8,
    /// Compactions of the control plane's log.
    pub(crate) compactions: u8,
    /// Ticks that one node's clock misses.
    pub(crate) slips: u8,
    /// Entries after which the origin answers what it answered before.
    pub(crate) unchanged: u8,
    /// Entries that do not cover the key.
    pub(crate) others: u8,
}

impl Control {
    /// What the origin answers now.
    pub(crate) fn origin(&self) -> Rev {
        newest(self.changes).unwrap_or(0)
    }

    /// The oldest version that may still be sent.
    pub(crate) fn promised(&self) -> Rev {
        newest(self.changes & up_to(self.complete)).unwrap_or(0)
    }
}

impl Index {
    pub(crate) const EMPTY: Index = Index { applied: 0, floor: 0, covers: 0 };

    /// The newest covering entry.
    pub(crate) fn newest(&self) -> Option<Rev> {
        newest(self.covers)
    }
}

/// The highest revision in a set of them.
pub(crate) fn newest(set: u8) -> Option<Rev> {
    set.checked_ilog2().map(|bit| Rev::try_from(bit).expect("eight bits have a small logarithm") + 1)
}

/// The set of the revisions up to and with `rev`.
pub(crate) fn up_to(rev: Rev) -> u8 {
    (1 << rev) - 1
}
