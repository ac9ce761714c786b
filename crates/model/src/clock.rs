//! The two times of the product: what the wall says, and how long ago something was.
//!
//! They are kept apart because they fail apart: wall time steps when it is corrected, a [`Moment`] never does
//! but means nothing outside the process that read it.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// A point on one process's own monotonic clock, which counts the time a machine was suspended
/// (`CLOCK_BOOTTIME`; assumption 3 of the fence). Only differences mean anything, and none survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since` after the clock's arbitrary zero.
    pub const fn at(since: Duration) -> Self {
        Self(since)
    }

    /// How long before `self` the moment `earlier` was; zero when it was not before.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `by` earlier. A moment before the clock's zero does not exist; `None` then.
    pub fn earlier(self, by: Duration) -> Option<Moment> {
        self.0.checked_sub(by).map(Moment)
    }

    /// The moment `by` later.
    pub fn later(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }
}

/// Where the product reads time. The binary has the one real clock; tests and simulations have a [`ManualClock`].
pub trait Clock: Send + Sync + 'static {
    /// Wall time. May step backwards; never used to tell how long something took.
    fn now(&self) -> SystemTime;

    /// This process's monotonic time, suspension included.
    fn moment(&self) -> Moment;
}

/// A clock that moves only when a test moves it.
#[derive(Debug)]
pub struct ManualClock(Mutex<(SystemTime, Duration)>);

impl ManualClock {
    /// A clock that reads `start` on the wall, and a moment some way after zero.
    pub fn at(start: SystemTime) -> Self {
        // Not zero, so that a moment "a lease ago" exists from the start, as on a machine that has been up for a while.
        Self(Mutex::new((start, Duration::from_secs(1_000_000))))
    }

    /// Moves both times on by `by`.
    pub fn advance(&self, by: Duration) {
        let mut time = self.0.lock().expect("no holder of this lock can panic");
        time.0 += by;
        time.1 += by;
    }

    /// Sets wall time alone, as an administrator does.
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
