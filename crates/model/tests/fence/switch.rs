//! What each mistake breaks, and where the search shows it.
//!
//! Each line of the design's table that is switched off breaks a promise; a checker that does not notice one of them is worth
//! nothing.

use model::Mistake;

use crate::world::{self, World};

/// What a search must find when a line is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaks {
    Fresh,
    Progress,
}

/// The world that shows the mistake, what it breaks there, and in how many steps it did when the design's
/// own search, which counts steps in another way, was made.
pub(crate) fn expected(mistake: Mistake) -> (&'static World, Breaks, usize) {
    match mistake {
        Mistake::StampOnArrival => (&world::ALONE, Breaks::Fresh, 6),
        Mistake::StampWithoutFence => (&world::TIERS, Breaks::Progress, 5),
        Mistake::JoiningRaisesStamp => (&world::TIERS, Breaks::Fresh, 10),
        Mistake::NoFence => (&world::TIERS, Breaks::Fresh, 8),
        Mistake::ParentIgnoresFence => (&world::TIERS, Breaks::Fresh, 8),
        Mistake::ParentDoesNotJudge => (&world::TIERS, Breaks::Fresh, 7),
        Mistake::NoJudgementAtLookup => (&world::ALONE, Breaks::Fresh, 4),
        Mistake::OwnAnswerNotJudged => (&world::ALONE, Breaks::Fresh, 5),
        Mistake::OwnAnswerExemptFromTime => (&world::ALONE, Breaks::Fresh, 5),
        Mistake::VouchedNotJudged => (&world::ALONE, Breaks::Fresh, 7),
        Mistake::LiftToApplied => (&world::ALONE, Breaks::Fresh, 6),
        Mistake::LiftAnyBody => (&world::ALONE, Breaks::Fresh, 14),
        Mistake::NoLease => (&world::ALONE, Breaks::Fresh, 3),
        Mistake::ContactOnReceipt => (&world::ALONE, Breaks::Fresh, 6),
        Mistake::ContactBeforeCaughtUp => (&world::ALONE, Breaks::Fresh, 5),
        Mistake::OldHead => (&world::ALONE, Breaks::Fresh, 4),
        Mistake::ContactSurvivesRestart => (&world::ALONE, Breaks::Fresh, 6),
        Mistake::MarginBelowDrift => (&world::DRIFTING, Breaks::Fresh, 4),
        Mistake::VouchedByOwnRequest => (&world::TIERS, Breaks::Fresh, 6),
        Mistake::VouchingSurvivesRestart => (&world::ALONE, Breaks::Fresh, 4),
        Mistake::AgeFromArrival => (&world::TIERS, Breaks::Fresh, 9),
        Mistake::AckWhileUnsent => (&world::PAUSING, Breaks::Fresh, 5),
        Mistake::MarginWithoutPause => (&world::PAUSING, Breaks::Fresh, 6),
        Mistake::AckBeforePersisted => (&world::TIERS_CRASH, Breaks::Fresh, 9),
        Mistake::ControlDoesNotWaitAnew => (&world::ALONE, Breaks::Fresh, 3),
        Mistake::ServeNotWaitedFor => (&world::ISOLATED, Breaks::Fresh, 3),
        Mistake::HeadBeforeMembership => (&world::JOINING, Breaks::Fresh, 7),
        Mistake::ServesBeforeMember => (&world::JOINING, Breaks::Fresh, 6),
        Mistake::LostDiskWithoutFloor => (&world::TIERS_WIPE, Breaks::Fresh, 11),
        Mistake::JoinsWithoutFloor => (&world::TIERS_JOIN, Breaks::Fresh, 8),
        Mistake::AckResetInsteadOfFloor => (&world::TIERS_WIPE, Breaks::Fresh, 10),
        Mistake::FloorNotJudged => (&world::FORGETTING, Breaks::Fresh, 6),
        Mistake::SnapshotWithoutFloor => (&world::FORGETTING, Breaks::Fresh, 5),
        Mistake::FloorNotInFence => (&world::TIERS_RETIRE, Breaks::Fresh, 9),
    }
}
