//! When a stale stored response may replace a failed one (stale-if-error, RFC 5861 §4, configured by the domain's
//! owner).

use std::time::Duration;

use super::args::{Args, BadArgument};
use super::ttl::{self, Codes, SECONDS_MAX};

/// Default time past the freshness lifetime.
const EXTENSION_DEFAULT: Duration = Duration::from_secs(3600);

/// When a stale stored response may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Statuses that count as failures; no answer at all always does.
    pub failures: Vec<Codes>,
    /// How long past the freshness lifetime.
    pub extension: Duration,
    /// The origin's `stale-if-error` takes precedence over `extension`.
    pub origin_first: bool,
}

impl Stale {
    /// Whether this status counts as a failure.
    pub fn is_failure(&self, status: u16) -> bool {
        self.failures
            .iter()
            .any(|code| matches!(code, Codes::One(one) if *one == status) || *code == Codes::Class(status / 100))
    }
}

/// Reads serving_stale_content.
pub(super) fn stale(args: &Args<'_>) -> Result<Stale, BadArgument> {
    args.only(&["origin_error_status_code", "extend_expiration_time", "origin_first"])?;
    let bad =
        BadArgument::Value { name: "origin_error_status_code", expected: "statuses from 400 to 599, or 4xx, 5xx" };
    let code = |word: &String| {
        let code = ttl::code_of(word)?;
        matches!(code, Codes::One(400..=599) | Codes::Class(4 | 5)).then_some(code)
    };
    let words = args.words("origin_error_status_code");
    let failures: Option<Vec<Codes>> = words.iter().map(code).collect();
    let failures = failures.filter(|failures| failures.len() <= ttl::CODES_MAX).ok_or(bad)?;
    let expected = "a number of seconds from 1 to 99999999";
    let extension = args.number("extend_expiration_time", 1..=SECONDS_MAX, expected)?;
    Ok(Stale {
        failures: if failures.is_empty() { vec![Codes::Class(5)] } else { failures },
        extension: extension.map_or(EXTENSION_DEFAULT, Duration::from_secs),
        origin_first: args.switch("origin_first")?,
    })
}
