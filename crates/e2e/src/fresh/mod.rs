//! The promise of a refresh over real processes under faults: `Complete` means fresh.
//!
//! A [`field::Field`] is a control plane and five nodes in three tiers on loopback, each process on a wall clock of its own, with a
//! [`relay::Relay`] before the link of every node and before every parent, so that any of these links can be cut, stalled or
//! slowed. [`reader`]s ask every node all the time, [`writer`]s change objects at the [`origin`] and refresh them, [`storm`]
//! breaks things, and the one [`checker::Checker`] says whether anybody read what a refresh had made an end of.
//!
//! # What always holds
//!
//! - Every moment is of one monotonic clock, this process's; what was first and what later is decided under one lock.
//! - A reader records what it was sent, not what it believes: version, bytes and key are checked against the origin's.
//!
//! # Not here
//!
//! nginx: the version of an object must change in one moment, and its reads must be slow where a test wants them slow.

pub mod checker;
pub mod field;
pub mod history;
pub mod liar;
pub mod member;
pub mod origin;
pub mod reader;
pub mod relay;
pub mod storm;
pub mod wall;
pub mod writer;

/// Random choices that a seed repeats. How the processes are scheduled around them it does not.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Other dice, as good as independent of these.
    pub fn split(&mut self) -> Dice {
        Dice(self.roll())
    }

    fn roll(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// A number of `range`.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Milliseconds of `range`.
    pub fn millis(&mut self, range: std::ops::Range<u64>) -> std::time::Duration {
        std::time::Duration::from_millis(self.within(range))
    }

    /// True in `percent` of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of some.
    pub fn pick<'a, T>(&mut self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len() as u64) as usize]
    }
}
