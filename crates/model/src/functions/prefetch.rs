//! How much of an origin the prefetches of a domain may take: a function of our own.

use super::args::{Args, BadArgument};

/// What a rate is counted and shared in, in bytes a second.
pub const RATE_UNIT: u64 = 16 << 10;

/// The least rate that may be set, in bytes a second: below it a body would stand still for longer than its readers wait.
pub const RATE_MIN: u64 = 4 * RATE_UNIT;

/// The most of either, so that sums stay numbers.
const CONCURRENCY_MAX: u64 = 10_000;
const RATE_MAX: u64 = 1 << 40;

/// What `share` is when nobody set it, in percent: all that users leave, of a limit that already stays below what slows an origin.
pub const SHARE_DEFAULT: u64 = 100;

/// How much of an origin the prefetches of a domain may take, over all nodes together. Users' requests are held back by none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchLimit {
    /// Requests at a time.
    pub concurrency: Option<u64>,
    /// Bytes of bodies a second.
    pub bytes_per_second: Option<u64>,
    /// Percent of what the origin is felt to bear.
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
