//! The clock of a simulated host: the run's paused time, with drift, and with a wrong wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Clock, Moment};
use tokio::time::Instant;

/// The correct wall time at the begin of a run, in seconds since 1970.
const BEGAN_SECS: u64 = 1_900_000_000;

/// Monotonic clocks at the begin of a run: machines have been up for a while.
const UP_SECS: u64 = 1_000_000;

/// The clock of one host.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    began: Instant,
    /// By how much it runs too fast, in parts per ten thousand.
    drift: i64,
    /// Seconds by which its wall clock is ahead.
    ahead: i64,
}

impl HostClock {
    /// A clock of a run that began at `began`.
    pub fn new(began: Instant, drift: i64, ahead: i64) -> HostClock {
        HostClock { began, drift, ahead }
    }

    fn elapsed(&self) -> Duration {
        let real = self.began.elapsed();
        let off = real.as_nanos() as i128 * i128::from(self.drift) / 10_000;
        Duration::from_nanos(u64::try_from(real.as_nanos() as i128 + off).unwrap_or(0))
    }
}

impl Clock for HostClock {
    fn now(&self) -> SystemTime {
        let began = BEGAN_SECS.saturating_add_signed(self.ahead);
        UNIX_EPOCH + Duration::from_secs(began) + self.elapsed()
    }

    fn moment(&self) -> Moment {
        Moment::at(Duration::from_secs(UP_SECS) + self.elapsed())
    }
}
