//! How much of an origin's capacity the prefetches of a domain may use: a function of our own.

use super::args::{Args, BadArgument};

/// Granularity in which a rate is counted and shared, in bytes per second.
pub const RATE_UNIT: u64 = 16 << 10;

/// Smallest configurable rate, in bytes per second: below it, a body would stall for longer than its readers wait.
pub const RATE_MIN: u64 = 4 * RATE_UNIT;

/// Upper bounds, so that sums do not overflow.
const CONCURRENCY_MAX: u64 = 10_000;
const RATE_MAX: u64 = 1 << 40;

/// Default `share`, in percent: everything that users leave of the limit, which itself stays below what slows an origin
/// down.
pub const SHARE_DEFAULT: u64 = 100;

/// How much of an origin's capacity the prefetches of a domain may use, over all nodes together. It never delays users'
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchLimit {
    /// Concurrent requests.
    pub concurrency: Option<u64>,
    /// Body bytes per second.
    pub bytes_per_second: Option<u64>,
    /// Percent of the estimated limit of the origin.
    pub share: u64,
}

impl Default for PrefetchLimit {
    fn default() -> Self {
        PrefetchLimit { concurrency: None, bytes_per_second: None, share: SHARE_DEFAULT }
    }
}

/// Reads prefetch_limit.
pub(super) fn limit(args: &Args<'_>) -> Result<PrefetchLimit, BadArgument> {
    args.only(&["concurrency", "bytes_per_second", "share"])?;
    let limit = PrefetchLimit {
        concurrency: args.number("concurrency", 1..=CONCURRENCY_MAX, "a number from 1 to 10000")?,
        bytes_per_second: args.number(
            "bytes_per_second",
            RATE_MIN..=RATE_MAX,
            "a number of bytes from 65536 to 1099511627776",
        )?,
        share: args.number("share", 1..=100, "a number of percent from 1 to 100")?.unwrap_or(SHARE_DEFAULT),
    };
    if limit == PrefetchLimit::default() && args.get("share").is_none() {
        return Err(BadArgument::Value {
            name: "concurrency",
            expected: "one of concurrency, bytes_per_second and share",
        });
    }
    Ok(limit)
}
