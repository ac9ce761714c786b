//! The only real clock.

use std::time::{Duration, SystemTime};

use model::{Clock, Moment};

/// Wall time, and the machine's monotonic time including suspension (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        #[allow(clippy::disallowed_methods, reason = "this is where everybody else's time comes from")]
        SystemTime::now()
    }

    fn moment(&self) -> Moment {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Moment::at(Duration::new(seconds, nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_go_back() {
        let first = SystemClock.moment();
        let second = SystemClock.moment();
        assert!(second >= first);
        assert!(second.since(first) < Duration::from_secs(60), "they are of one clock");
    }
}
