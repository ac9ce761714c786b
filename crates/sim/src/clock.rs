//! The clock of a simulated host: the run's paused time, seen through a clock that drifts and a wall that is wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Clock, Moment};
use tokio::time::Instant;

/// What the wall of a host that is right reads when a run begins.
const BEGAN_SECS: u64 = 1_900_000_000;

/// Where monotonic clocks stand when a run begins: machines have been up for a while.
const UP_SECS: u64 = 1_000_000;

/// The clock of one host.
#[derive(Clone, Copy, Debug)]
pub struct HostClock {
    began: Instant,
    /// Parts in ten thousand by which it runs too fast.
    drift: i64,
    /// Seconds by which its wall is ahead.
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
