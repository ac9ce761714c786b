//! What an account is held to: the limits of its profile, with the operator's own put over them.

use std::collections::BTreeMap;

use aliyun::{DEFAULT_PROFILE, Profile, QueueUnit};

use crate::app::Limits;
use crate::state::accounts::Account;
use crate::state::chunks::Kind;
use crate::state::submit::QueueMax;

/// Limits an operator may set, by the name they have in `--quota`.
const NAMES: [&str; 6] = ["preload", "url", "dir", "regex", "ignore_params", "queue"];

/// Whether there is such a profile, and whether every limit has a name that is known. The error names the argument.
pub(crate) fn check(profile: &str, quota: &BTreeMap<String, u64>) -> Result<(), (&'static str, String)> {
    if Profile::named(profile).is_none() {
        let names: Vec<&str> = Profile::names().collect();
        return Err(("--profile", format!("no profile `{profile}`: expected one of {}", names.join(", "))));
    }
    match quota.keys().find(|name| !NAMES.contains(&name.as_str())) {
        Some(name) => Err(("--quota", format!("no limit `{name}`: expected {}", NAMES.join(", ")))),
        None => Ok(()),
    }
}

/// The profile of an account. One that a later version no longer has falls back to the default's limits.
pub(crate) fn profile(account: &Account) -> &'static Profile {
    let default = || Profile::named(DEFAULT_PROFILE).expect("the default is embedded");
    Profile::named(&account.profile).unwrap_or_else(default)
}

/// What a day has of a bucket; no end when `None`.
pub(crate) fn day(account: &Account, bucket: &str) -> Option<u64> {
    let profile = profile(account);
    let of_profile = match bucket {
        "preload" => profile.push_day,
        "url" => profile.url_day,
        "dir" => profile.dir_day,
        "regex" => profile.regex_day,
        _ => profile.ignore_day,
    };
    account.quota.get(bucket).copied().or(of_profile)
}

/// What a submission of this kind is held to.
pub(crate) fn of(account: &Account, kind: Kind) -> Limits {
    let profile = profile(account);
    let bucket = match kind {
        Kind::Prefetch if profile.shared_url_quota => "url",
        Kind::Prefetch => "preload",
        Kind::RefreshFile => "url",
        Kind::RefreshDirectory => "dir",
        Kind::RefreshRegex => "regex",
        Kind::RefreshIgnoreParams => "ignore_params",
        // One unit of URLs for each tag (spec, quota accounting).
        Kind::RefreshTag => "url",
    };
    let minute = match kind {
        Kind::Prefetch | Kind::RefreshFile | Kind::RefreshIgnoreParams | Kind::RefreshTag => profile.url_min_domain,
        Kind::RefreshDirectory | Kind::RefreshRegex => profile.dir_min_domain,
    };
    let queue = match (account.quota.get("queue"), profile.queue.max, profile.queue.unit) {
        (Some(most), _, _) => QueueMax::Urls(*most),
        (None, None, _) => QueueMax::Unlimited,
        (None, Some(most), QueueUnit::Url) => QueueMax::Urls(most),
        (None, Some(most), QueueUnit::Request) => QueueMax::Requests(most),
    };
    Limits { bucket, day: day(account, bucket), minute, queue }
}

/// Requests a second; no end when `None`.
pub(crate) fn qps(account: &Account) -> Option<u64> {
    match account.qps {
        0 => profile(account).qps.map(u64::from),
        set => Some(set),
    }
}
