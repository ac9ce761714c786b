//! The promise of a refresh, tested on real processes under faults: `Complete` means fresh.
//!
//! A [`field::Field`] is a control plane and five nodes in three tiers on loopback, each process with its own wall
//! clock, and with a [`relay::Relay`] in front of every node's link and every parent, so that each of these links can
//! be cut, stalled or slowed down. [`reader`]s request from every node continuously, [`writer`]s change objects at the
//! [`origin`] and refresh them, [`storm`] injects faults, and a single [`checker::Checker`] detects stale reads.
//!
//! # What always holds
//!
//! - All moments are of this process's monotonic clock; the order of events is decided under one lock.
//! - A reader records what it received: version, bytes and key are checked against the origin's.
//!
//! # Not here
//!
//! nginx: versions of an object must change at one moment, and reads must be slow where a test needs that.

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

/// Random choices, repeatable by seed. The scheduling of processes is not repeatable.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Equal seeds give equal choices.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Independent dice.
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

    /// A number below `end`, which must not be zero.
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

    /// True in `percent` out of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of some.
    pub fn pick<'a, T>(&mut self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len() as u64) as usize]
    }
}
