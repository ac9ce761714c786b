//! The two notions of time: wall time, and elapsed time.
//!
//! They are separate types because they fail differently: wall time jumps when it is corrected; a [`Moment`] never
//! does, but means nothing outside the process that read it.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// A point on one process's monotonic clock, which includes time the machine was suspended (`CLOCK_BOOTTIME`;
/// assumption 3 of the fence). Only differences are meaningful, and moments do not survive a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since` after the clock's arbitrary zero.
    pub const fn at(since: Duration) -> Self {
        Self(since)
    }

    /// How long `earlier` was before `self`; zero if it was not before.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `by` earlier; `None` if that is before the clock's zero.
    pub fn earlier(self, by: Duration) -> Option<Moment> {
        self.0.checked_sub(by).map(Moment)
    }

    /// The moment `by` later.
    pub fn later(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}

/// The source of time. The binary has the only real clock; tests and simulations use a [`ManualClock`].
pub trait Clock: Send + Sync + 'static {
    /// Wall time. May jump backwards; never used to measure durations.
    fn now(&self) -> SystemTime;

    /// This process's monotonic time, including time suspended.
    fn moment(&self) -> Moment;
}

/// A clock that moves only when a test moves it.
#[derive(Debug)]
pub struct ManualClock(Mutex<(SystemTime, Duration)>);

impl ManualClock {
    /// A clock whose wall time is `start` and whose moment is well after zero.
    pub fn at(start: SystemTime) -> Self {
        // Not zero, so that "a lease ago" exists from the start, as on a machine that has been up for a while.
        Self(Mutex::new((start, Duration::from_secs(1_000_000))))
    }

    /// Advances both times by `by`.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().expect("no holder of this lock can panic");
        time.0 += by;
        time.1 += by;
    }

    /// Sets wall time only, as an administrator does.
    pub fn set(&self, now: SystemTime) {
        self.0.lock().expect("no holder of this lock can panic").0 = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.0.lock().expect("no holder of this lock can panic").0
    }

    fn moment(&self) -> Moment {
        Moment(self.0.lock().expect("no holder of this lock can panic").1)
    }
}
