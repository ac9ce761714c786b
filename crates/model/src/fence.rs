//! The fence: which body may be sent to whom, and when a refresh is complete.
//!
//! A refresh is a log entry with a revision. A body carries a *stamp*, the revision it is known to reflect, and
//! *vouched*, the moment it was last known good by a node that knew. These functions are the rules of section 3 of the
//! design, by number, taken literally. The node, the control plane, the model checker and the simulation call them, and
//! nothing else decides. Weaker wordings break in ways that no review finds.
//!
//! # What always holds
//!
//! - A stamp is taken when a fetch begins ([`Fetch::begin`]) and never rises while it runs, whoever joins it.
//! - Moments are of one node's own clock. Between hosts only ages travel, rounded up ([`ceil_millis`]).
//! - A body that fails [`judge`] is not *stale*: no permission to serve stale responses applies to it.
//!
//! # Not here
//!
//! What an entry covers ([`crate::invalidation`]), and how the newest covering entry is found fast (the node).

use std::time::Duration;

use crate::clock::Moment;
use crate::mistake::{Mistake, made};
use crate::revision::Revision;
use crate::topology::Isolation;

/// What a stored or arriving body carries (rules 1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// The body reflects every covering invalidation up to this revision. Stored durably with the body.
    pub stamp: Revision,
    /// When the body was last known good by a node or origin that knew. `None` if never: after a restart of the node,
    /// or if the answer that carried it had no age.
    pub at: Option<Moment>,
}

/// A fetch in flight: what was recorded before its request was sent (rule 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The stamp its answer will get.
    pub stamp: Revision,
    /// The moment before the first byte of the request was sent.
    pub sent: Moment,
    /// The fence sent to the parent (rule 2).
    pub fence: Revision,
}

impl Fetch {
    /// Records moment, stamp and fence of a fetch that begins now. `asked` is the fence of the request that this node
    /// received: zero from a user or a prefetch, the child's fence from a child. Rules 1 and 2.
    pub fn begin(now: Moment, applied: Revision, asked: Revision, need: Revision) -> Fetch {
        if made(Mistake::StampWithoutFence) {
            return Fetch { stamp: applied, sent: now, fence: asked.max(need) };
        }
        if made(Mistake::NoFence) {
            return Fetch { stamp: applied.max(asked), sent: now, fence: Revision::ZERO };
        }
        Fetch { stamp: applied.max(asked), sent: now, fence: asked.max(need) }
    }

    /// Whether a request with the fence `asked`, for a key that needs `need`, may wait for this fetch's answer instead
    /// of starting another fetch. Joining never raises the stamp.
    pub fn may_join(&self, applied: Revision, asked: Revision, need: Revision) -> bool {
        self.stamp >= need && self.stamp.max(applied) >= asked
    }

    /// What a new body brought by this fetch carries. `age` is the age its answer stated: `Some(0)` from the origin,
    /// the answer's age from a parent, `None` if a parent stated none (then nobody vouched). Rules 1 and 5.
    pub fn vouch(&self, age: Option<Duration>) -> Vouched {
        if made(Mistake::VouchedByOwnRequest) {
            return Vouched { stamp: self.stamp, at: Some(self.sent) };
        }
        Vouched { stamp: self.stamp, at: age.and_then(|age| self.sent.earlier(age)) }
    }

    /// What a stored body carries after a 304 to the validator that was sent for it. Only for that very body: a 304
    /// says nothing about a body stored in the meantime. Rule 1.
    pub fn confirm(&self, stored: Vouched, age: Option<Duration>) -> Vouched {
        let fresh = self.vouch(age);
        Vouched { stamp: stored.stamp.max(fresh.stamp), at: stored.at.max(fresh.at) }
    }
}

/// The recipient of a header that is about to be sent (rule 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A user, or a prefetch that warms for users.
    User,
    /// A node of a lower tier, with the fence of its request.
    Child {
        /// The revision the answer must reflect.
        fence: Revision,
    },
}

impl Asker {
    /// The fence of the request; zero for a user.
    pub fn fence(self) -> Revision {
        match self {
            Asker::User => Revision::ZERO,
            Asker::Child { fence } => fence,
        }
    }
}

/// What a node knows of itself at the moment a header is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Every entry up to here is in the node's index.
    pub applied: Revision,
    /// When the node last knew that it had applied the head of the log; `None` if not since its start.
    pub contact: Option<Moment>,
    /// How long after that the node may trust its store.
    pub lease: Duration,
    /// What it does once it may not.
    pub isolation: Isolation,
}

/// The guard's judgement of one body, for one recipient, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be sent.
    Send,
    /// An invalidation covers it, or may: it must be validated or replaced. It is not *stale*.
    Covered,
    /// Nobody who knew has vouched for it within the lease: it must be validated or replaced.
    Unvouched,
}

/// need(key): the larger of the floor and the newest entry in the index that covers the key.
pub fn need(floor: Revision, newest_covering: Option<Revision>) -> Revision {
    floor.max(newest_covering.unwrap_or(Revision::ZERO))
}

/// The one guard, for every header sent to a user or a child, from a store or from a running fetch (rule 3).
pub fn judge(body: Vouched, need: Revision, asker: Asker, node: &Standing, now: Moment) -> Verdict {
    let mut covered = body.stamp < need || body.stamp.max(node.applied) < asker.fence();
    covered = match asker {
        Asker::Child { .. } if made(Mistake::ParentDoesNotJudge) => return Verdict::Send,
        Asker::Child { .. } if made(Mistake::ParentIgnoresFence) => body.stamp < need,
        _ if made(Mistake::VouchedNotJudged) && body.at.is_some_and(|at| now.since(at) < node.lease) => false,
        _ => covered,
    };
    if covered {
        return Verdict::Covered;
    }
    // Isolation "serve" waives the lease for users, never for children: a child would serve it as vouched.
    let waived = matches!((asker, node.isolation), (Asker::User, Isolation::Serve));
    let young = age(body, node.contact, now).is_some_and(|age| age < node.lease) || made(Mistake::NoLease);
    if young || waived { Verdict::Send } else { Verdict::Unvouched }
}

/// How long ago the body was last known good: `now - max(contact, vouched)`; `None` if never. Answers to children carry
/// it, rounded by [`ceil_millis`] (rule 5).
pub fn age(body: Vouched, contact: Option<Moment>, now: Moment) -> Option<Duration> {
    body.at.max(contact).map(|at| now.since(at))
}

/// An age in whole milliseconds, rounded up, as sent between nodes (rule 5, assumption 4).
pub fn ceil_millis(age: Duration) -> u64 {
    u64::try_from(age.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The contact after a heartbeat, sent at `sent`, was answered with `head` (rule 4). Unchanged while the node has not
/// applied that head: call it again whenever `applied` rises.
pub fn contact(contact: Option<Moment>, sent: Moment, head: Revision, applied: Revision) -> Option<Moment> {
    if applied >= head || made(Mistake::ContactBeforeCaughtUp) { contact.max(Some(sent)) } else { contact }
}

/// A member as the control plane sees it, for rule 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// The highest revision it acknowledged.
    pub acked: Revision,
    /// Its mode of isolation.
    pub isolation: Isolation,
}

/// Whether a member still holds a revision up, and if not, why (rule 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It acknowledged the revision.
    Acknowledged,
    /// Its lease has expired since, whatever it has not yet applied.
    LeaseOver,
    /// It must be waited for.
    Waiting,
}

/// Whether one member is past `revision`. `known_for` is how long this very process has known the revision to be
/// committed, on its monotonic clock; a restarted process counts anew. `margin` covers clock drift over one lease and
/// the longest pause between judging and sending. A refresh is complete when no member is [`Passed::Waiting`].
pub fn passed(
    revision: Revision,
    member: MemberView,
    known_for: Duration,
    lease: Duration,
    margin: Duration,
) -> Passed {
    if member.acked >= revision {
        Passed::Acknowledged
    } else if (member.isolation != Isolation::Serve || made(Mistake::ServeNotWaitedFor)) && known_for >= lease + margin
    {
        Passed::LeaseOver
    } else {
        Passed::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn second(s: u64) -> Moment {
        Moment::at(Duration::from_secs(s))
    }

    fn node(applied: u64, contact: Option<u64>, isolation: Isolation) -> Standing {
        Standing { applied: Revision(applied), contact: contact.map(second), lease: LEASE, isolation }
    }

    #[test]
    fn guard_lets_pass_what_reflects_and_is_vouched() {
        use Isolation::{Revalidate, Serve};
        let child = |fence| Asker::Child { fence: Revision(fence) };
        let cases = [
            // why                                        stamp need  asker        applied contact vouched mode        at 100 s
            ("stamp reaches need, contact young", 5, 5, Asker::User, 5, Some(95), None, Revalidate, Verdict::Send),
            ("stamp below need", 4, 5, Asker::User, 5, Some(95), Some(99), Revalidate, Verdict::Covered),
            ("a lease of 10 s is over at 10 s", 5, 5, Asker::User, 5, Some(90), None, Revalidate, Verdict::Unvouched),
            ("vouched stands in for contact", 5, 5, Asker::User, 5, None, Some(95), Revalidate, Verdict::Send),
            ("never in contact, never vouched", 5, 5, Asker::User, 5, None, None, Revalidate, Verdict::Unvouched),
            ("serve waives the lease for users", 5, 5, Asker::User, 5, None, None, Serve, Verdict::Send),
            ("serve never waives it for children", 5, 5, child(0), 5, None, None, Serve, Verdict::Unvouched),
            ("serve never waives an invalidation", 4, 5, Asker::User, 5, None, None, Serve, Verdict::Covered),
            ("applied answers for a child's fence", 3, 3, child(5), 5, Some(95), None, Revalidate, Verdict::Send),
            ("the stamp answers for a child's fence", 6, 3, child(6), 5, Some(95), None, Revalidate, Verdict::Send),
            ("neither reaches the child's fence", 3, 3, child(6), 5, Some(95), Some(99), Revalidate, Verdict::Covered),
        ];
        for (why, stamp, need, asker, applied, contact, vouched, mode, verdict) in cases {
            let body = Vouched { stamp: Revision(stamp), at: vouched.map(second) };
            assert_eq!(
                judge(body, Revision(need), asker, &node(applied, contact, mode), second(100)),
                verdict,
                "{why}"
            );
        }
    }

    #[test]
    fn stamp_is_taken_at_the_start_and_covers_the_childs_fence() {
        let fetch = Fetch::begin(second(50), Revision(3), Revision(7), Revision(2));
        assert_eq!((fetch.stamp, fetch.fence), (Revision(7), Revision(7)));
        let fetch = Fetch::begin(second(50), Revision(3), Revision::ZERO, Revision(2));
        assert_eq!(
            (fetch.stamp, fetch.fence),
            (Revision(3), Revision(2)),
            "the floor and the index travel up as the fence"
        );
    }

    #[test]
    fn joining_needs_a_stamp_that_passes() {
        let fetch = Fetch::begin(second(50), Revision(3), Revision::ZERO, Revision(0));
        let cases = [
            // applied, asked, need, joins
            (3, 0, 3, true),
            (4, 0, 4, false), // an entry that covers the key was applied since
            (4, 0, 0, true),  // one that does not cover it
            (4, 4, 0, true),  // applied answers for the child
            (3, 4, 0, false),
        ];
        for (applied, asked, need, joins) in cases {
            assert_eq!(
                fetch.may_join(Revision(applied), Revision(asked), Revision(need)),
                joins,
                "{applied} {asked} {need}"
            );
        }
    }

    #[test]
    fn vouching_counts_from_the_sending_less_the_age_of_the_answer() {
        let fetch = Fetch::begin(second(50), Revision(3), Revision::ZERO, Revision(0));
        assert_eq!(fetch.vouch(Some(Duration::ZERO)).at, Some(second(50)));
        assert_eq!(fetch.vouch(Some(Duration::from_secs(8))).at, Some(second(42)));
        assert_eq!(fetch.vouch(None).at, None, "an answer without an age is not vouched");

        let stored = Vouched { stamp: Revision(9), at: Some(second(45)) };
        assert_eq!(
            fetch.confirm(stored, Some(Duration::from_secs(8))),
            Vouched { stamp: Revision(9), at: Some(second(45)) },
            "a 304 never lowers what is known"
        );
    }

    #[test]
    fn contact_is_the_sending_of_a_heartbeat_whose_head_is_applied() {
        assert_eq!(contact(None, second(5), Revision(3), Revision(2)), None);
        assert_eq!(contact(None, second(5), Revision(3), Revision(3)), Some(second(5)));
        assert_eq!(
            contact(Some(second(7)), second(5), Revision(3), Revision(3)),
            Some(second(7)),
            "an old answer does not set it back"
        );
    }

    #[test]
    fn ages_are_rounded_up() {
        assert_eq!(ceil_millis(Duration::from_micros(1)), 1);
        assert_eq!(ceil_millis(Duration::from_millis(1)), 1);
        assert_eq!(ceil_millis(Duration::ZERO), 0);
    }

    #[test]
    fn member_is_past_by_acknowledgement_or_by_its_lease_unless_it_serves_isolated() {
        let margin = Duration::from_secs(1);
        let cases = [
            // acked, mode, known for s, passed
            (5, Isolation::Revalidate, 0, Passed::Acknowledged),
            (4, Isolation::Revalidate, 10, Passed::Waiting), // the margin is not over
            (4, Isolation::Revalidate, 11, Passed::LeaseOver),
            (4, Isolation::Serve, 10_000, Passed::Waiting),
            (5, Isolation::Serve, 0, Passed::Acknowledged),
        ];
        for (acked, isolation, known_for, expected) in cases {
            let member = MemberView { acked: Revision(acked), isolation };
            assert_eq!(
                passed(Revision(5), member, Duration::from_secs(known_for), LEASE, margin),
                expected,
                "{member:?} {known_for}"
            );
        }
    }
}
