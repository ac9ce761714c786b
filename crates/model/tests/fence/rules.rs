//! The rules as the real node and control plane ask them, through `model::fence`, and what is left of each when
//! one line of the protocol is switched off.
//!
//! Nothing here decides on its own: a call is translated from ticks to moments, and a weakening changes what goes
//! into the function or what is made of its answer, where the design's table says so.

use std::time::Duration;

use model::fence::{self, Asker, Fetch, MemberView, Passed, Standing, Verdict, Vouched};
use model::{Isolation, Moment, Revision};

use crate::state::{Age, Body, Fill, Header, Index, Node, Rev};
use crate::world::World;
use model::Mistake;

const TICK: Duration = Duration::from_secs(1);
/// Some way from the clock's zero, so that every moment of a world exists.
const NOW: Moment = Moment::at(Duration::from_secs(1000));

#[derive(Clone, Copy)]
pub(crate) struct Rules {
    off: Option<Mistake>,
    lease: Age,
    drift: Age,
    pause: Age,
}

/// What the index is asked for: the floor has a part in both, and each part can be lost alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Judgement,
    Fence,
}

impl Rules {
    pub(crate) fn of(world: &World, off: Option<Mistake>) -> Rules {
        Rules { off, lease: world.lease, drift: world.left.slips, pause: world.pause.unwrap_or(0) }
    }

    pub(crate) fn is_off(&self, switch: Mistake) -> bool {
        self.off == Some(switch)
    }

    /// The longest age of an entry that a rule can tell from a longer one.
    pub(crate) fn known_for_limit(&self) -> Age {
        self.lease + self.margin()
    }

    fn margin(&self) -> Age {
        match self.off {
            Some(Mistake::MarginBelowDrift) => self.pause,
            Some(Mistake::MarginWithoutPause) => self.drift,
            _ => self.drift + self.pause,
        }
    }

    fn moment(&self, age: Age) -> Option<Moment> {
        if age < self.lease { NOW.earlier(ticks(age)) } else { None }
    }

    fn age(&self, moment: Option<Moment>) -> Age {
        moment.map_or(self.lease, |moment| self.saturate(NOW.since(moment)))
    }

    fn saturate(&self, age: Duration) -> Age {
        Age::try_from(fence::ceil_millis(age).div_ceil(1000)).unwrap_or(self.lease).min(self.lease)
    }

    fn vouched(&self, body: &Body) -> Vouched {
        Vouched { stamp: revision(body.stamp), at: self.moment(body.vouched) }
    }

    fn body(&self, version: Rev, vouched: Vouched) -> Body {
        Body { version, stamp: rev(vouched.stamp), vouched: self.age(vouched.at) }
    }

    pub(crate) fn need(&self, index: &Index, purpose: Use) -> Revision {
        let forgets_floor = match purpose {
            Use::Judgement => self.is_off(Mistake::FloorNotJudged),
            Use::Fence => self.is_off(Mistake::FloorNotInFence),
        };
        fence::need(revision(if forgets_floor { 0 } else { index.floor }), index.newest().map(revision))
    }

    /// The stamp and the fence of a fetch that begins now.
    pub(crate) fn begin(&self, index: &Index, asked: Option<Rev>) -> (Rev, Rev) {
        let applied = revision(index.applied);
        let need = self.need(index, Use::Fence);
        let asked = self.heard(asked);
        let mut fetch = Fetch::begin(NOW, applied, asked, need);
        if self.is_off(Mistake::StampWithoutFence) {
            fetch.stamp = Fetch::begin(NOW, applied, Revision::ZERO, need).stamp;
        }
        if self.is_off(Mistake::NoFence) {
            fetch.fence = Revision::ZERO;
        }
        (rev(fetch.stamp), rev(fetch.fence))
    }

    /// The fence as the node takes it from the request.
    fn heard(&self, asked: Option<Rev>) -> Revision {
        self.asker(asked).fence()
    }

    fn asker(&self, asked: Option<Rev>) -> Asker {
        let ignored = self.is_off(Mistake::ParentIgnoresFence);
        asked.map_or(Asker::User, |fence| Asker::Child { fence: revision(if ignored { 0 } else { fence }) })
    }

    fn fetch(&self, fill: &Fill) -> Fetch {
        let sent = NOW.earlier(ticks(fill.sent)).expect("worlds are shorter than the clock is old");
        Fetch { stamp: revision(fill.stamp), sent, fence: revision(fill.fence) }
    }

    /// The stamp of a running fetch after a child with this fence has joined it; `None` when it may not.
    pub(crate) fn join(&self, fill: &Fill, index: &Index, asked: Rev) -> Option<Rev> {
        let need = self.need(index, Use::Judgement);
        let raises = self.is_off(Mistake::JoiningRaisesStamp);
        let fence = if raises { Revision::ZERO } else { self.heard(Some(asked)) };
        let joins = self.fetch(fill).may_join(revision(index.applied), fence, need);
        joins.then_some(if raises { fill.stamp.max(asked) } else { fill.stamp })
    }

    /// When an answer of this age vouches for what it brings; an age of a lease is none.
    pub(crate) fn vouches(&self, fill: &Fill, age: Age) -> Age {
        let mut fetch = self.fetch(fill);
        let mut told = (age < self.lease).then(|| ticks(age));
        if self.is_off(Mistake::VouchedByOwnRequest) {
            told = Some(Duration::ZERO);
        }
        if self.stops_on_the_way(fill) {
            fetch.sent = NOW;
        }
        self.age(fetch.vouch(told).at)
    }

    /// Whether what an answer vouches for does not grow older on its way.
    pub(crate) fn stops_on_the_way(&self, fill: &Fill) -> bool {
        self.is_off(Mistake::AgeFromArrival) && fill.via.is_some()
    }

    /// The body that an answer brings: a new one, or the stored one confirmed. `None` when a 304 speaks of a body
    /// that is no longer there.
    pub(crate) fn arrived(&self, node: &Node, fill: &Fill, version: Rev, modified: bool) -> Option<Body> {
        let mut fetch = self.fetch(fill);
        let age = (fill.sent < self.lease).then_some(Duration::ZERO);
        if self.is_off(Mistake::StampOnArrival) {
            fetch = Fetch::begin(fetch.sent, revision(node.memory.applied), self.heard(fill.asked), Revision::ZERO);
        }
        if modified {
            return Some(self.body(version, fetch.vouch(age)));
        }
        if self.is_off(Mistake::LiftToApplied) {
            fetch.stamp = fetch.stamp.max(revision(node.memory.applied));
        }
        let stored =
            node.body.filter(|body| Some(body.version) == fill.validator || self.is_off(Mistake::LiftAnyBody))?;
        Some(self.body(stored.version, fetch.confirm(self.vouched(&stored), age)))
    }

    fn judge(&self, body: &Body, node: &Node, isolation: Isolation, asked: Option<Rev>) -> Verdict {
        let body = self.vouched(body);
        let index = &node.memory;
        let contact = self.moment(node.contact);
        let standing = Standing { applied: revision(index.applied), contact, lease: ticks(self.lease), isolation };
        let verdict = fence::judge(body, self.need(index, Use::Judgement), self.asker(asked), &standing, NOW);
        match verdict {
            Verdict::Unvouched if self.is_off(Mistake::NoLease) => Verdict::Send,
            Verdict::Covered if self.is_off(Mistake::VouchedNotJudged) && body.at.is_some() => Verdict::Send,
            verdict => verdict,
        }
    }

    /// Whether a stored body passes part (a) of the guard, so that a sweep may lift it.
    pub(crate) fn passes_sweep(&self, body: &Body, node: &Node, isolation: Isolation) -> bool {
        self.judge(body, node, isolation, None) != Verdict::Covered
    }

    /// Whether a stored body may go to a user.
    pub(crate) fn serves_user(&self, body: &Body, node: &Node, isolation: Isolation) -> bool {
        self.is_off(Mistake::NoJudgementAtLookup) || self.judge(body, node, isolation, None) == Verdict::Send
    }

    /// Whether a stored body may go to a child.
    pub(crate) fn serves_child(&self, body: &Body, node: &Node, isolation: Isolation, asked: Rev) -> bool {
        self.is_off(Mistake::ParentDoesNotJudge) || self.judge(body, node, isolation, Some(asked)) == Verdict::Send
    }

    /// What the guard says of a body that has just arrived, to one who waited for it.
    pub(crate) fn hands_on(&self, body: &Body, node: &Node, isolation: Isolation, asked: Option<Rev>) -> Verdict {
        match self.judge(body, node, isolation, asked) {
            _ if self.is_off(Mistake::OwnAnswerNotJudged) => Verdict::Send,
            Verdict::Unvouched if self.is_off(Mistake::OwnAnswerExemptFromTime) => Verdict::Send,
            verdict => verdict,
        }
    }

    /// The age that an answer to a child carries; the lease is none.
    pub(crate) fn answer_age(&self, body: &Body, node: &Node) -> Age {
        fence::age(self.vouched(body), self.moment(node.contact), NOW).map_or(self.lease, |age| self.saturate(age))
    }

    /// Contact after a heartbeat of this age was answered with `head`, and whether the heartbeat has done its work.
    pub(crate) fn contact(&self, node: &Node, beat: Age, head: Rev) -> (Age, bool) {
        let sent = if self.is_off(Mistake::ContactOnReceipt) { Some(NOW) } else { self.moment(beat) };
        let caught_up = node.memory.applied >= head;
        let head = if self.is_off(Mistake::ContactBeforeCaughtUp) { Revision::ZERO } else { revision(head) };
        let contact = self.moment(node.contact);
        let after = sent.map_or(contact, |sent| fence::contact(contact, sent, head, revision(node.memory.applied)));
        (self.age(after), caught_up || self.is_off(Mistake::ContactBeforeCaughtUp))
    }

    /// What a node may acknowledge: what is durable, and no more than what was applied when it judged a header that
    /// has not left.
    pub(crate) fn acknowledged(&self, node: &Node) -> Rev {
        let durable = if self.is_off(Mistake::AckBeforePersisted) { node.memory.applied } else { node.disk.applied };
        let judged = node.header.filter(|_| !self.is_off(Mistake::AckWhileUnsent));
        durable.min(judged.map_or(Rev::MAX, |Header { applied, .. }| applied))
    }

    /// Whether a member no longer holds `entry` up.
    pub(crate) fn passed(&self, entry: Rev, acked: Rev, isolation: Isolation, known_for: Age) -> bool {
        let isolation = if self.is_off(Mistake::ServeNotWaitedFor) { Isolation::Revalidate } else { isolation };
        let member = MemberView { acked: revision(acked), isolation };
        let passed = fence::passed(revision(entry), member, ticks(known_for), ticks(self.lease), ticks(self.margin()));
        passed != Passed::Waiting
    }
}

fn ticks(age: Age) -> Duration {
    TICK * u32::from(age)
}

fn revision(rev: Rev) -> Revision {
    Revision(rev.into())
}

fn rev(revision: Revision) -> Rev {
    Rev::try_from(revision.0).expect("a world has few entries")
}
