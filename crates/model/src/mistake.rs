//! The clauses of the fence, each as the mistake made without it, for checkers that must prove that they notice.
//!
//! The model checker (`tests/fence`) makes each of them in its own small worlds. The real code can make most of them,
//! wherever it asks [`made`]; the simulation says which ones it cannot make, and why. Without the feature `mistakes`,
//! which no released build enables, [`made`] is the constant `false` and the code that depends on it is not compiled.

/// A clause of the protocol, named after the mistake made without it. The digit in each comment is the part of the
/// protocol: 1 stamp, 2 fence, 3 guard, 4 the 304 part of rule 1, 5 contact, 6 vouching, 7 acknowledge, 8 complete and
/// members, 9 retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// 1: the stamp is taken when the answer arrives.
    StampOnArrival,
    /// 1: the stamp ignores the fence of the request.
    StampWithoutFence,
    /// 1: a joining child's fence raises the stamp of the running fetch.
    JoiningRaisesStamp,
    /// 2: a child's request carries no fence.
    NoFence,
    /// 2: the parent ignores the fence it was sent.
    ParentIgnoresFence,
    /// 2: the parent does not judge for a child.
    ParentDoesNotJudge,
    /// 3: no judgement at lookup.
    NoJudgementAtLookup,
    /// 3: a fetch's answer is sent unjudged to the requests that waited for it.
    OwnAnswerNotJudged,
    /// 3: a fetch's answer is exempt from the time check.
    OwnAnswerExemptFromTime,
    /// 3: vouched bodies are not judged.
    VouchedNotJudged,
    /// 4: a 304 lifts the stamp to what is applied when it arrives.
    LiftToApplied,
    /// 4: a 304 lifts the stamp of whatever body is stored by then.
    LiftAnyBody,
    /// 5: there is no lease.
    NoLease,
    /// 5: contact is when the answer to a heartbeat arrived.
    ContactOnReceipt,
    /// 5: contact counts before the head in the answer is applied.
    ContactBeforeCaughtUp,
    /// 5: the head in the answer is older than the heartbeat.
    OldHead,
    /// 5: contact survives a restart.
    ContactSurvivesRestart,
    /// 5: the margin is below the drift of the clocks.
    MarginBelowDrift,
    /// 6: vouching counts from the child's own request, whatever the answer's age.
    VouchedByOwnRequest,
    /// 6: vouching survives a restart as if it were new.
    VouchingSurvivesRestart,
    /// 6: the age of an answer counts from its arrival.
    AgeFromArrival,
    /// 7: acknowledged while judged answers are still unsent.
    AckWhileUnsent,
    /// 7: the margin covers the drift, but not the pause before sending.
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

impl Mistake {
    /// All of them, in the order above.
    pub const ALL: [Mistake; 34] = [
        Mistake::StampOnArrival,
        Mistake::StampWithoutFence,
        Mistake::JoiningRaisesStamp,
        Mistake::NoFence,
        Mistake::ParentIgnoresFence,
        Mistake::ParentDoesNotJudge,
        Mistake::NoJudgementAtLookup,
        Mistake::OwnAnswerNotJudged,
        Mistake::OwnAnswerExemptFromTime,
        Mistake::VouchedNotJudged,
        Mistake::LiftToApplied,
        Mistake::LiftAnyBody,
        Mistake::NoLease,
        Mistake::ContactOnReceipt,
        Mistake::ContactBeforeCaughtUp,
        Mistake::OldHead,
        Mistake::ContactSurvivesRestart,
        Mistake::MarginBelowDrift,
        Mistake::VouchedByOwnRequest,
        Mistake::VouchingSurvivesRestart,
        Mistake::AgeFromArrival,
        Mistake::AckWhileUnsent,
        Mistake::MarginWithoutPause,
        Mistake::AckBeforePersisted,
        Mistake::ControlDoesNotWaitAnew,
        Mistake::ServeNotWaitedFor,
        Mistake::HeadBeforeMembership,
        Mistake::ServesBeforeMember,
        Mistake::LostDiskWithoutFloor,
        Mistake::JoinsWithoutFloor,
        Mistake::AckResetInsteadOfFloor,
        Mistake::FloorNotJudged,
        Mistake::SnapshotWithoutFloor,
        Mistake::FloorNotInFence,
    ];

    /// The mistake of this name.
    pub fn named(name: &str) -> Option<Mistake> {
        Mistake::ALL.into_iter().find(|mistake| format!("{mistake:?}") == name)
    }
}

#[cfg(feature = "mistakes")]
thread_local! {
    static MADE: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}

/// Makes this mistake on this thread from now on, or none.
#[cfg(feature = "mistakes")]
pub fn make(mistake: Option<Mistake>) {
    MADE.set(mistake);
}

/// Whether this mistake is to be made.
#[cfg(feature = "mistakes")]
pub fn made(mistake: Mistake) -> bool {
    MADE.get() == Some(mistake)
}

/// Whether this mistake is to be made: never.
#[cfg(not(feature = "mistakes"))]
pub const fn made(_: Mistake) -> bool {
    false
}
