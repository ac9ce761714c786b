//! Every line of the protocol that can be switched off, by what is then done instead.
//!
//! The lines are those of the design's table. Each breaks a promise; a checker that does not notice one of them
//! is worth nothing.

use crate::world::{self, World};

/// A line of the protocol, named after the mistake that is made without it. The digit in each comment is the part of
/// the protocol: 1 stamp, 2 fence, 3 guard, 4 the 304 part of rule 1, 5 contact, 6 vouching, 7 acknowledge,
/// 8 complete and members, 9 retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// 1: the stamp is taken when the answer arrives.
    StampOnArrival,
    /// 1: the stamp does not count the fence that was asked for.
    StampWithoutFence,
    /// 1: a joining child's fence raises the stamp of the running fetch.
    JoiningRaisesStamp,
    /// 2: a child's request carries no fence.
    NoFence,
    /// 2: the parent does as if it carried none.
    ParentIgnoresFence,
    /// 2: the parent does not judge for a child.
    ParentDoesNotJudge,
    /// 3: no judgement at lookup.
    NoJudgementAtLookup,
    /// 3: a fetch's answer goes unjudged to those who waited for it.
    OwnAnswerNotJudged,
    /// 3: a fetch's answer is exempt from the time check.
    OwnAnswerExemptFromTime,
    /// 3: vouched bodies are not judged.
    VouchedNotJudged,
    /// 4: a 304 lifts to what is applied when it arrives.
    LiftToApplied,
    /// 4: a 304 lifts whatever is stored by then.
    LiftAnyBody,
    /// 5: there is no lease.
    NoLease,
    /// 5: contact is when the answer to a heartbeat came.
    ContactOnReceipt,
    /// 5: contact counts before the head that was told is applied.
    ContactBeforeCaughtUp,
    /// 5: the head in the answer is older than the heartbeat.
    OldHead,
    /// 5: contact survives a restart.
    ContactSurvivesRestart,
    /// 5: the margin is below the drift of the clocks.
    MarginBelowDrift,
    /// 6: vouching counts from the child's own request whatever the answer's age.
    VouchedByOwnRequest,
    /// 6: vouching survives a restart as if it were new.
    VouchingSurvivesRestart,
    /// 6: the age of an answer counts from its arrival.
    AgeFromArrival,
    /// 7: acknowledged while answers that were judged are unsent.
    AckWhileUnsent,
    /// 7: the margin covers the drift and not the pause before sending.
    MarginWithoutPause,
    /// 7: acknowledged before it is durable.
    AckBeforePersisted,
    /// 8: a restarted control plane does not wait anew.
    ControlDoesNotWaitAnew,
    /// 8: nodes that serve when isolated are not waited for.
    ServeNotWaitedFor,
    /// 8: the head is read before the membership is committed.
    HeadBeforeMembership,
    /// 8: a node serves before it is a member.
    ServesBeforeMember,
    /// 8: a node that lost its disk starts without a floor.
    LostDiskWithoutFloor,
    /// 8: a joining node starts without a floor.
    JoinsWithoutFloor,
    /// 8: a node that lost its disk reads the log anew and its acknowledgement is reset, instead of a floor.
    AckResetInsteadOfFloor,
    /// 9: the floor is not used in judgement.
    FloorNotJudged,
    /// 9: a snapshot sets no floor.
    SnapshotWithoutFloor,
    /// 9: the floor is not part of the fence.
    FloorNotInFence,
}

/// What a search must find when a line is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaks {
    Fresh,
    Progress,
}

impl Switch {
    /// All of them, in the order above.
    pub(crate) const ALL: [Switch; 34] = [
        Switch::StampOnArrival,
        Switch::StampWithoutFence,
        Switch::JoiningRaisesStamp,
        Switch::NoFence,
        Switch::ParentIgnoresFence,
        Switch::ParentDoesNotJudge,
        Switch::NoJudgementAtLookup,
        Switch::OwnAnswerNotJudged,
        Switch::OwnAnswerExemptFromTime,
        Switch::VouchedNotJudged,
        Switch::LiftToApplied,
        Switch::LiftAnyBody,
        Switch::NoLease,
        Switch::ContactOnReceipt,
        Switch::ContactBeforeCaughtUp,
        Switch::OldHead,
        Switch::ContactSurvivesRestart,
        Switch::MarginBelowDrift,
        Switch::VouchedByOwnRequest,
        Switch::VouchingSurvivesRestart,
        Switch::AgeFromArrival,
        Switch::AckWhileUnsent,
        Switch::MarginWithoutPause,
        Switch::AckBeforePersisted,
        Switch::ControlDoesNotWaitAnew,
        Switch::ServeNotWaitedFor,
        Switch::HeadBeforeMembership,
        Switch::ServesBeforeMember,
        Switch::LostDiskWithoutFloor,
        Switch::JoinsWithoutFloor,
        Switch::AckResetInsteadOfFloor,
        Switch::FloorNotJudged,
        Switch::SnapshotWithoutFloor,
        Switch::FloorNotInFence,
    ];

    /// The world that shows the mistake, what it breaks there, and in how many steps it did when the design's
    /// own search, which counts steps in another way, was made.
    pub(crate) fn expected(self) -> (&'static World, Breaks, usize) {
        match self {
            Switch::StampOnArrival => (&world::ALONE, Breaks::Fresh, 6),
            Switch::StampWithoutFence => (&world::TIERS, Breaks::Progress, 5),
            Switch::JoiningRaisesStamp => (&world::TIERS, Breaks::Fresh, 10),
            Switch::NoFence => (&world::TIERS, Breaks::Fresh, 8),
            Switch::ParentIgnoresFence => (&world::TIERS, Breaks::Fresh, 8),
            Switch::ParentDoesNotJudge => (&world::TIERS, Breaks::Fresh, 7),
            Switch::NoJudgementAtLookup => (&world::ALONE, Breaks::Fresh, 4),
            Switch::OwnAnswerNotJudged => (&world::ALONE, Breaks::Fresh, 5),
            Switch::OwnAnswerExemptFromTime => (&world::ALONE, Breaks::Fresh, 5),
            Switch::VouchedNotJudged => (&world::ALONE, Breaks::Fresh, 7),
            Switch::LiftToApplied => (&world::ALONE, Breaks::Fresh, 6),
            Switch::LiftAnyBody => (&world::ALONE, Breaks::Fresh, 14),
            Switch::NoLease => (&world::ALONE, Breaks::Fresh, 3),
            Switch::ContactOnReceipt => (&world::ALONE, Breaks::Fresh, 6),
            Switch::ContactBeforeCaughtUp => (&world::ALONE, Breaks::Fresh, 5),
            Switch::OldHead => (&world::ALONE, Breaks::Fresh, 4),
            Switch::ContactSurvivesRestart => (&world::ALONE, Breaks::Fresh, 6),
            Switch::MarginBelowDrift => (&world::DRIFTING, Breaks::Fresh, 4),
            Switch::VouchedByOwnRequest => (&world::TIERS, Breaks::Fresh, 6),
            Switch::VouchingSurvivesRestart => (&world::ALONE, Breaks::Fresh, 4),
            Switch::AgeFromArrival => (&world::TIERS, Breaks::Fresh, 9),
            Switch::AckWhileUnsent => (&world::PAUSING, Breaks::Fresh, 5),
            Switch::MarginWithoutPause => (&world::PAUSING, Breaks::Fresh, 6),
            Switch::AckBeforePersisted => (&world::TIERS_CRASH, Breaks::Fresh, 9),
            Switch::ControlDoesNotWaitAnew => (&world::ALONE, Breaks::Fresh, 3),
            Switch::ServeNotWaitedFor => (&world::ISOLATED, Breaks::Fresh, 3),
            Switch::HeadBeforeMembership => (&world::JOINING, Breaks::Fresh, 7),
            Switch::ServesBeforeMember => (&world::JOINING, Breaks::Fresh, 6),
            Switch::LostDiskWithoutFloor => (&world::TIERS_WIPE, Breaks::Fresh, 11),
            Switch::JoinsWithoutFloor => (&world::TIERS_JOIN, Breaks::Fresh, 8),
            Switch::AckResetInsteadOfFloor => (&world::TIERS_WIPE, Breaks::Fresh, 10),
            Switch::FloorNotJudged => (&world::FORGETTING, Breaks::Fresh, 6),
            Switch::SnapshotWithoutFloor => (&world::FORGETTING, Breaks::Fresh, 5),
            Switch::FloorNotInFence => (&world::TIERS_RETIRE, Breaks::Fresh, 9),
        }
    }
}
