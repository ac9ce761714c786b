//! How long responses are stored: rules by file type and by path, rules by status, and defaults.

use std::time::Duration;

use super::args::{Args, BadArgument};
use crate::key::UrlKey;

/// Longest time, in seconds.
pub(super) const SECONDS_MAX: u64 = 99_999_999;

/// Maximum number of types in one rule, and of codes in one list.
const TYPES_MAX: usize = 128;
pub(super) const CODES_MAX: usize = 64;

/// All rules about freshness lifetimes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ttls {
    /// By file type and path, oldest first.
    pub rules: Vec<TtlRule>,
    /// By status, oldest first.
    pub codes: Vec<CodeTtl>,
    /// By status, if neither a rule nor the origin decides.
    pub default: Vec<(Codes, Duration)>,
}

/// The URLs that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// File names with one of these extensions, lower case, without the dot.
    Types(Vec<String>),
    /// A path and everything below it.
    Path(String),
}

/// Precedence of a rule among other rules and against the origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applies {
    /// The rule with the larger weight wins; of equal ones, the older.
    pub weight: u64,
    /// The id of the rule's function; older functions have lower ids.
    pub id: u64,
    /// Freshness information from the origin takes precedence over the rule.
    pub origin_first: bool,
    /// `no-store`, `no-cache` and `max-age=0` from the origin are ignored.
    pub no_cache_too: bool,
    /// Users are sent the same lifetime.
    pub told: bool,
    /// The origin is asked before every use.
    pub revalidate: bool,
}

/// How long responses to some URLs are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtlRule {
    /// The URLs it applies to.
    pub reach: Reach,
    /// The freshness lifetime.
    pub ttl: Duration,
    /// Its precedence.
    pub applies: Applies,
}

/// How long responses with some statuses to some URLs are stored. Zero means not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeTtl {
    /// The URLs it applies to.
    pub reach: Reach,
    /// Lifetime by status, in the configured order.
    pub codes: Vec<(Codes, Duration)>,
    /// Its precedence.
    pub applies: Applies,
}

/// One status, or a class of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// This one.
    One(u16),
    /// `4xx`: 400 to 499.
    Class(u16),
}

impl Reach {
    /// Whether the rule applies to `path`, which has no query.
    pub fn covers(&self, path: &str) -> bool {
        match self {
            Reach::Types(types) => {
                let name = path.rsplit('/').next().unwrap_or_default();
                let Some((_, extension)) = name.rsplit_once('.') else { return false };
                types.iter().any(|kind| kind.eq_ignore_ascii_case(extension))
            }
            Reach::Path(below) => path
                .strip_prefix(below.as_str())
                .is_some_and(|rest| rest.is_empty() || below.ends_with('/') || rest.starts_with('/')),
        }
    }
}

/// The lifetime for `status`: an entry for the status itself wins over one for its class.
pub(super) fn of_status(codes: &[(Codes, Duration)], status: u16) -> Option<Duration> {
    let found = |wanted: Codes| codes.iter().find(|(code, _)| *code == wanted).map(|(_, ttl)| *ttl);
    found(Codes::One(status)).or_else(|| found(Codes::Class(status / 100)))
}

impl Ttls {
    /// The rule for responses to `path`, whatever their status: the one with the largest weight, of equal ones the
    /// oldest.
    pub fn rule(&self, path: &str) -> Option<&TtlRule> {
        first(self.rules.iter().filter(|rule| rule.reach.covers(path)), |rule| &rule.applies)
    }

    /// The rule and lifetime for responses to `path` with `status`.
    pub fn code(&self, path: &str, status: u16) -> Option<(&CodeTtl, Duration)> {
        let rules = self.codes.iter().filter(|rule| rule.reach.covers(path));
        let speaking = rules.filter_map(|rule| Some((rule, of_status(&rule.codes, status)?)));
        first(speaking, |(rule, _)| &rule.applies)
    }

    /// The default lifetime for `status`.
    pub fn otherwise(&self, status: u16) -> Option<Duration> {
        of_status(&self.default, status)
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.codes.is_empty() && self.default.is_empty()
    }
}

fn first<T>(rules: impl Iterator<Item = T>, applies: impl Fn(&T) -> &Applies) -> Option<T> {
    rules.min_by_key(|rule| (std::cmp::Reverse(applies(rule).weight), applies(rule).id))
}

/// Reads filetype_based_ttl_set and path_based_ttl_set.
pub(super) fn rule(id: u64, args: &Args<'_>) -> Result<TtlRule, BadArgument> {
    args.only(&[
        "file_type",
        "path",
        "ttl",
        "weight",
        "swift_origin_cache_high",
        "swift_no_cache_low",
        "swift_follow_cachetime",
        "force_revalidate",
    ])?;
    let expected = "a number of seconds from 1 to 99999999";
    let ttl = args.number("ttl", 1..=SECONDS_MAX, expected)?;
    Ok(TtlRule {
        reach: reach(args)?,
        ttl: Duration::from_secs(ttl.ok_or(BadArgument::Value { name: "ttl", expected })?),
        applies: Applies {
            weight: weight(args)?,
            id,
            origin_first: args.switch("swift_origin_cache_high")?,
            no_cache_too: args.switch("swift_no_cache_low")?,
            told: args.switch("swift_follow_cachetime")?,
            revalidate: args.switch("force_revalidate")?,
        },
    })
}

/// Reads filetype_force_ttl_code and path_force_ttl_code.
pub(super) fn code(id: u64, args: &Args<'_>) -> Result<CodeTtl, BadArgument> {
    args.only(&[
        "file_type",
        "path",
        "code_string",
        "weight",
        "swift_code_origin_cache_high",
        "swift_code_no_cache_low",
        "swift_code_follow_cachetime",
        "force_revalidate",
    ])?;
    Ok(CodeTtl {
        reach: reach(args)?,
        codes: codes(args, "code_string")?,
        applies: Applies {
            weight: weight(args)?,
            id,
            origin_first: args.switch("swift_code_origin_cache_high")?,
            no_cache_too: args.switch("swift_code_no_cache_low")?,
            told: args.switch("swift_code_follow_cachetime")?,
            revalidate: args.switch("force_revalidate")?,
        },
    })
}

/// Reads default_ttl_code.
pub(super) fn default(args: &Args<'_>) -> Result<Vec<(Codes, Duration)>, BadArgument> {
    codes(args.only(&["default_ttl_code"])?, "default_ttl_code")
}

fn weight(args: &Args<'_>) -> Result<u64, BadArgument> {
    Ok(args.number("weight", 1..=99, "a number from 1 to 99")?.unwrap_or(1))
}

fn reach(args: &Args<'_>) -> Result<Reach, BadArgument> {
    if let Some(path) = args.get("path") {
        let good = path.starts_with('/') && !path.contains(['?', '#', '*']);
        let expected = "a path that begins with / and has no query";
        return if good {
            // Normalised as in keys, which it is compared with.
            Ok(Reach::Path(UrlKey::new("a", path).map_or_else(|_| path.to_owned(), |key| key.path().to_owned())))
        } else {
            Err(BadArgument::Value { name: "path", expected })
        };
    }
    let types = args.words("file_type");
    let good = |kind: &String| kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if types.is_empty() || types.len() > TYPES_MAX || !types.iter().all(good) {
        let expected = "a list of extensions without dots, or an argument path";
        return Err(BadArgument::Value { name: "file_type", expected });
    }
    Ok(Reach::Types(types.iter().map(|kind| kind.to_ascii_lowercase()).collect()))
}

/// `302` or `4xx`.
pub(super) fn code_of(text: &str) -> Option<Codes> {
    match text.strip_suffix("xx") {
        Some(class) => class.parse().ok().filter(|class| (2..=5).contains(class)).map(Codes::Class),
        None => text.parse().ok().filter(|code| (200..=599).contains(code)).map(Codes::One),
    }
}

/// `302=0,4xx=2`.
fn codes(args: &Args<'_>, name: &'static str) -> Result<Vec<(Codes, Duration)>, BadArgument> {
    let bad = BadArgument::Value { name, expected: "statuses and seconds, as in 302=0,4xx=2" };
    let one = |text: &String| {
        let (code, seconds) = text.split_once('=')?;
        let code = code_of(code)?;
        let seconds = seconds.parse().ok().filter(|seconds| *seconds <= SECONDS_MAX)?;
        Some((code, Duration::from_secs(seconds)))
    };
    let words = args.words(name);
    let codes: Option<Vec<_>> = words.iter().map(one).collect();
    codes.filter(|codes| (1..=CODES_MAX).contains(&codes.len())).ok_or(bad)
}
