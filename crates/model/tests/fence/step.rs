//! What may happen next in a world.

use model::Isolation;

use crate::effect::{Broken, answer, deliver, isolation, join, overtake, release, serving, set_phase, settle, stale};
use crate::effect::{stale_lookup, stop_process, tick, waits_for};
use crate::rules::Rules;
use crate::state::{Beat, Body, Fill, Header, Index, Life, Node, Phase, Rev, State, up_to};
use crate::world::World;
use model::Mistake;

/// One step. Numbers are nodes and slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Time passes everywhere, but for one node's clock that may miss it.
    Tick {
        missed_by: Option<usize>,
    },
    /// The origin changes and a refresh of it is accepted.
    Accept,
    /// A refresh is accepted though the origin has not changed.
    AcceptUnchanged,
    /// An entry that does not cover the key is accepted.
    AcceptOther,
    ControlRestarts,
    Compact {
        up_to: Rev,
    },
    Remove(usize),
    /// An entry is seen in the index; `applied` does not show it yet.
    Index(usize),
    Apply(usize),
    Snapshot(usize),
    Persist(usize),
    Retire(usize, Rev),
    Sweep(usize),
    /// A heartbeat, in one step.
    Heartbeat(usize),
    SendBeat(usize),
    LoseBeat(usize),
    /// The control plane commits the membership of the node whose hello arrived.
    Commit(usize),
    /// The control plane answers with this head.
    Answer(usize, Rev),
    HearAnswer(usize),
    /// A removed node hears that it was.
    Stop(usize),
    /// The process ends, at whatever moment, and starts with the disk it had.
    Restart(usize),
    LoseDisk(usize),
    /// A user's request begins a fetch.
    Fetch(usize, Option<u8>),
    /// The origin reads its register for a request.
    Read(usize, usize),
    /// The parent answers a request from its store.
    FromStore(usize, usize),
    /// The parent lets a request wait for a fetch that runs.
    Join(usize, usize, usize),
    /// The parent begins a fetch for a request.
    FetchFor(usize, usize, usize, Option<u8>),
    /// An answer arrives, is judged for all who wait, and stored.
    Deliver(usize, usize),
    LoseFetch(usize, usize),
    /// A stored body is judged for a user, whose header leaves later.
    Judge(usize),
    SendHeader(usize),
}

/// One state's successors, handed to `found` one by one.
pub(crate) struct Steps<'a, F> {
    pub(crate) world: &'a World,
    pub(crate) rules: &'a Rules,
    pub(crate) from: &'a State,
    pub(crate) found: F,
}

impl<F: FnMut(Action, State, Option<Broken>)> Steps<'_, F> {
    pub(crate) fn all(&mut self) {
        self.control();
        for n in self.world.nodes() {
            self.knowledge(n);
            self.beats(n);
            self.failures(n);
            self.headers(n);
            for slot in 0..self.world.slots {
                self.fetches(n, slot);
            }
        }
        self.ticks();
    }

    /// A step that breaks nothing by itself.
    fn step(&mut self, action: Action, change: impl FnOnce(&mut State)) {
        self.step_checked(action, |state| {
            change(state);
            None
        });
    }

    fn step_checked(&mut self, action: Action, change: impl FnOnce(&mut State) -> Option<Broken>) {
        let mut state = *self.from;
        let broken = change(&mut state);
        settle(self.world, self.rules, &mut state);
        // Who asks at this very moment is served from the store in no step at all.
        let broken = broken.or_else(|| stale_lookup(self.world, self.rules, &state));
        if broken.is_some() || state != *self.from {
            (self.found)(action, state, broken);
        }
    }

    fn control(&mut self) {
        let from = self.from;
        let accept = |state: &mut State, covers: bool, changes: bool| {
            let control = &mut state.control;
            control.head += 1;
            control.covers |= u8::from(covers) << (control.head - 1);
            control.changes |= u8::from(changes) << (control.head - 1);
        };
        if from.control.head < self.world.entries {
            self.step(Action::Accept, |state| accept(state, true, true));
            if from.left.unchanged > 0 {
                self.step(Action::AcceptUnchanged, |state| {
                    state.left.unchanged -= 1;
                    accept(state, true, false);
                });
            }
            if from.left.others > 0 {
                self.step(Action::AcceptOther, |state| {
                    state.left.others -= 1;
                    accept(state, false, false);
                });
            }
        }
        if from.left.control_restarts > 0 && from.control.complete < from.control.head {
            let rules = self.rules;
            let known = if rules.is_off(Mistake::ControlDoesNotWaitAnew) { rules.known_for_limit() } else { 0 };
            self.step(Action::ControlRestarts, |state| {
                state.left.control_restarts -= 1;
                state.control.known_for[..usize::from(state.control.head)].fill(known);
            });
        }
        if from.left.compactions > 0 {
            for revision in from.control.compacted + 1..=from.control.head {
                self.step(Action::Compact { up_to: revision }, |state| {
                    state.left.compactions -= 1;
                    state.control.compacted = revision;
                });
            }
        }
        for n in self.world.nodes() {
            if from.left.removals > 0 && from.control.rows[n].member {
                self.step(Action::Remove(n), |state| {
                    state.left.removals -= 1;
                    state.control.rows[n].member = false;
                    state.control.rows[n].removed = true;
                });
            }
        }
    }

    /// Entries, snapshots, floors.
    fn knowledge(&mut self, n: usize) {
        let (from, node) = (self.from, &self.from.nodes[n]);
        if node.life != Life::Up {
            return;
        }
        let applied = node.memory.applied;
        if from.control.rows[n].member && applied < from.control.head {
            if applied < from.control.compacted {
                self.step(Action::Snapshot(n), |state| {
                    let (node, to) = (&mut state.nodes[n], state.control.compacted);
                    let floor = if self.rules.is_off(Mistake::SnapshotWithoutFloor) { node.memory.floor } else { to };
                    node.memory = Index { applied: to, floor, covers: 0 };
                    overtake(node);
                });
            } else {
                let covers = from.control.covers & (1 << applied);
                if self.world.two_step_apply && node.memory.covers & covers != covers {
                    self.step(Action::Index(n), |state| {
                        state.nodes[n].memory.covers |= covers;
                        overtake(&mut state.nodes[n]);
                    });
                } else {
                    self.step(Action::Apply(n), |state| {
                        state.nodes[n].memory.covers |= covers;
                        state.nodes[n].memory.applied += 1;
                        overtake(&mut state.nodes[n]);
                    });
                }
            }
        }
        self.step(Action::Persist(n), |state| state.nodes[n].disk = node.memory);
        if from.left.retires > 0 {
            for floor in node.memory.floor + 1..=applied {
                self.step(Action::Retire(n, floor), |state| {
                    state.left.retires -= 1;
                    let node = &mut state.nodes[n];
                    node.memory.floor = floor;
                    node.memory.covers &= !up_to(floor);
                    node.disk = node.memory;
                    overtake(node);
                });
            }
        }
        if from.left.sweeps > 0
            && let Some(body) = node.body
        {
            let passes = self.rules.passes_sweep(&body, node, self.isolation(n));
            self.step(Action::Sweep(n), |state| {
                state.left.sweeps -= 1;
                let lifted = Body { stamp: body.stamp.max(applied), ..body };
                state.nodes[n].body = passes.then_some(lifted);
            });
        }
    }

    /// Heartbeats and hellos.
    fn beats(&mut self, n: usize) {
        let (node, row) = (&self.from.nodes[n], self.from.control.rows[n]);
        let (rules, head) = (self.rules, self.from.control.head);
        let joining = matches!(node.life, Life::Joining | Life::Lost);
        if node.life == Life::Up && row.removed {
            self.step(Action::Stop(n), |state| {
                stop_process(state, self.world, n);
                state.nodes[n].life = Life::Joining;
            });
        }
        if !joining && !self.world.beats {
            if row.member {
                self.step(Action::Heartbeat(n), |state| state.nodes[n].contact = rules.contact(node, 0, head).0);
            }
            return;
        }
        self.step(Action::SendBeat(n), |state| state.nodes[n].beat = Beat::Sent { age: 0 });
        self.step(Action::LoseBeat(n), |state| state.nodes[n].beat = Beat::Idle);
        let early = rules.is_off(Mistake::HeadBeforeMembership);
        let hello = joining && (matches!(node.beat, Beat::Sent { .. }) || (early && node.beat != Beat::Idle));
        let late = early && node.life == Life::Up && !row.removed;
        if !row.member && (hello || late) {
            self.step(Action::Commit(n), |state| {
                state.control.rows[n].member = true;
                state.control.rows[n].removed = false;
            });
        }
        if let Beat::Sent { age } = node.beat
            && (row.member || (joining && early))
        {
            let oldest = if rules.is_off(Mistake::OldHead) && !joining { 0 } else { head };
            for head in oldest..=head {
                self.step(Action::Answer(n, head), |state| {
                    state.nodes[n].beat = Beat::Answered { age, head };
                    if node.life == Life::Lost && rules.is_off(Mistake::AckResetInsteadOfFloor) {
                        state.control.rows[n].acked = 0;
                    }
                });
            }
        }
        if let Beat::Answered { age, head } = node.beat {
            self.step(Action::HearAnswer(n), |state| {
                let node = &mut state.nodes[n];
                if joining {
                    join(rules, node, head);
                }
                let (contact, done) = rules.contact(node, age, head);
                node.contact = contact;
                if done {
                    node.beat = Beat::Idle;
                }
            });
        }
    }

    fn failures(&mut self, n: usize) {
        let (from, node) = (self.from, &self.from.nodes[n]);
        let rules = self.rules;
        if from.left.crashes > 0 && node.life == Life::Up {
            self.step(Action::Restart(n), |state| {
                state.left.crashes -= 1;
                stop_process(state, self.world, n);
                let node = &mut state.nodes[n];
                node.memory = node.disk;
                if rules.is_off(Mistake::ContactSurvivesRestart) {
                    node.contact = from.nodes[n].contact;
                }
                if rules.is_off(Mistake::VouchingSurvivesRestart) {
                    node.body = node.body.map(|body| Body { vouched: 0, ..body });
                }
            });
        }
        if from.left.wipes > 0 && node.life == Life::Up {
            self.step(Action::LoseDisk(n), |state| {
                state.left.wipes -= 1;
                stop_process(state, self.world, n);
                let member = state.control.rows[n].member;
                let node = &mut state.nodes[n];
                (node.memory, node.disk, node.body) = (Index::EMPTY, Index::EMPTY, None);
                node.life = if member { Life::Lost } else { Life::Joining };
            });
        }
    }

    /// Headers that leave some time after they were judged.
    fn headers(&mut self, n: usize) {
        let node = &self.from.nodes[n];
        if self.world.pause.is_none() {
            return;
        }
        if let Some(header) = node.header {
            self.step_checked(Action::SendHeader(n), |state| {
                state.nodes[n].header = None;
                stale(state, n, header.version).then_some(Broken::Fresh(n))
            });
        } else if let Some(body) = node.body
            && serving(self.rules, node)
            && self.rules.serves_user(&body, node, self.isolation(n))
        {
            let header = Header { version: body.version, age: 0, applied: node.memory.applied };
            self.step(Action::Judge(n), |state| state.nodes[n].header = Some(header));
        }
    }

    fn fetches(&mut self, n: usize, slot: usize) {
        let node = &self.from.nodes[n];
        let Some(fill) = node.fills[slot] else {
            let first_free = node.fills.iter().position(Option::is_none) == Some(slot);
            let asked = self.world.users.contains(&n);
            let served = !self.world.renews
                && node.body.is_some_and(|body| self.rules.serves_user(&body, node, self.isolation(n)));
            if first_free && asked && !served && serving(self.rules, node) {
                for &via in self.world.asks[n] {
                    let fill = self.begin(node, None, via);
                    self.step(Action::Fetch(n, via), |state| state.nodes[n].fills[slot] = Some(fill));
                }
            }
            return;
        };
        self.step(Action::LoseFetch(n, slot), |state| {
            state.nodes[n].fills[slot] = None;
            release(state, self.world, n, Some(slot));
        });
        match (fill.phase, fill.via) {
            (Phase::Asked, None) => {
                let version = self.from.control.origin();
                let answered = answer(self.rules, &fill, version, 0);
                self.step(Action::Read(n, slot), |state| state.nodes[n].fills[slot] = Some(answered));
            }
            (Phase::Asked, Some(parent)) => self.asked(n, slot, &fill, usize::from(parent)),
            (Phase::Joined(_), _) => {}
            (Phase::Answered { version, modified }, _) => {
                self.step_checked(Action::Deliver(n, slot), |state| {
                    deliver(self.world, self.rules, state, n, slot, &fill, (version, modified))
                });
            }
        }
    }

    /// A child's request arrives at its parent.
    fn asked(&mut self, n: usize, slot: usize, fill: &Fill, parent: usize) {
        let node = &self.from.nodes[parent];
        let rules = self.rules;
        if !serving(rules, node) {
            return;
        }
        if let Some(body) = node.body
            && rules.serves_child(&body, node, self.isolation(parent), fill.fence)
        {
            let answered = answer(rules, fill, body.version, rules.answer_age(&body, node));
            self.step(Action::FromStore(n, slot), |state| state.nodes[n].fills[slot] = Some(answered));
            if !self.world.renews {
                return;
            }
        }
        for running in 0..self.world.slots {
            let Some(stamp) = node.fills[running].and_then(|run| rules.join(&run, &node.memory, fill.fence)) else {
                continue;
            };
            self.step(Action::Join(n, slot, running), |state| {
                if let Some(run) = &mut state.nodes[parent].fills[running] {
                    run.stamp = stamp;
                }
                set_phase(state, n, slot, waits_for(running));
            });
        }
        if let Some(free) = node.fills[..self.world.slots].iter().position(Option::is_none) {
            for &via in self.world.asks[parent] {
                let begun = self.begin(node, Some(fill.fence), via);
                self.step(Action::FetchFor(n, slot, parent, via), |state| {
                    state.nodes[parent].fills[free] = Some(begun);
                    set_phase(state, n, slot, waits_for(free));
                });
            }
        }
    }

    fn ticks(&mut self) {
        let pause = self.world.pause.unwrap_or(0);
        // The longest pause is an assumption of the protocol: a header that has used it up leaves now.
        if self.from.nodes.iter().any(|node| node.header.is_some_and(|header| header.age == pause)) {
            return;
        }
        self.step(Action::Tick { missed_by: None }, |state| tick(self.world, self.rules, state, None));
        if self.from.left.slips > 0 {
            for n in self.world.nodes() {
                self.step(Action::Tick { missed_by: Some(n) }, |state| {
                    state.left.slips -= 1;
                    tick(self.world, self.rules, state, Some(n));
                });
            }
        }
    }

    fn begin(&self, node: &Node, asked: Option<Rev>, via: Option<u8>) -> Fill {
        let (stamp, fence) = self.rules.begin(&node.memory, asked);
        let fill = Fill {
            stamp,
            fence: if via.is_some() { fence } else { 0 },
            sent: 0,
            asked,
            validator: node.body.map(|body| body.version),
            // An entry of which only the index knows is being applied.
            overtaken: node.memory.newest().is_some_and(|newest| newest > node.memory.applied),
            via,
            phase: Phase::Asked,
        };
        let read = via.is_none() && self.world.reads_at_once;
        if read { answer(self.rules, &fill, self.from.control.origin(), 0) } else { fill }
    }

    fn isolation(&self, n: usize) -> Isolation {
        isolation(self.world, n)
    }
}
