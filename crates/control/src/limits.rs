//! An account's limits: those of its profile, overridden by the operator's.

use std::collections::BTreeMap;

use aliyun::{DEFAULT_PROFILE, Product, Profile, QueueUnit};

use crate::app::Limits;
use crate::state::accounts::Account;
use crate::state::chunks::Kind;
use crate::state::submit::QueueMax;

/// Limits that an operator may set, by their name in `--quota`; `action_qps` applies to each action, `pin_bytes` to
/// each node.
const NAMES: [&str; 8] = ["preload", "url", "dir", "regex", "ignore_params", "queue", "action_qps", "pin_bytes"];

/// Bytes of bodies that an account may have pinned on one node, unless an operator set another limit.
const PIN_BYTES: u64 = 1 << 30;

/// Checks that the profile exists and every limit has a known name. The error names the argument.
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

/// The profile of an account. A profile that this version no longer has is replaced by the default.
pub(crate) fn profile(account: &Account) -> &'static Profile {
    let default = || Profile::named(DEFAULT_PROFILE).expect("the default is embedded");
    Profile::named(&account.profile).unwrap_or_else(default)
}

/// The daily quota that a submission is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bucket {
    /// Prefetches, unless they are charged to [`Bucket::Urls`].
    Prefetches,
    /// Refreshes of files and tags.
    Urls,
    /// Refreshes of directories.
    Directories,
    /// Refreshes by regular expression.
    Regexes,
    /// Refreshes of paths whatever their query.
    IgnoreParams,
}

impl Bucket {
    /// The name under which it is counted. Each product is a separate service with quotas of its own.
    pub(crate) fn name(self, product: Product) -> &'static str {
        match (product, self) {
            (Product::Cdn, Bucket::Prefetches) => "preload",
            (Product::Cdn, Bucket::Urls) => "url",
            (Product::Cdn, Bucket::Directories) => "dir",
            (Product::Cdn, Bucket::Regexes) => "regex",
            (Product::Cdn, Bucket::IgnoreParams) => "ignore_params",
            (Product::Vod, Bucket::Prefetches) => "vod_preload",
            (Product::Vod, Bucket::Urls) => "vod_url",
            (Product::Vod, Bucket::Directories) => "vod_dir",
            (Product::Vod, Bucket::Regexes) => "vod_regex",
            (Product::Vod, Bucket::IgnoreParams) => "vod_ignore_params",
        }
    }

    /// The bucket that a prefetch is charged to.
    pub(crate) fn of_prefetches(account: &Account, product: Product) -> Bucket {
        if profile(account).quotas(product).shared_url_quota { Bucket::Urls } else { Bucket::Prefetches }
    }
}

/// The daily quota of a bucket; unlimited when `None`. An operator's value applies to each product.
pub(crate) fn day(account: &Account, product: Product, bucket: Bucket) -> Option<u64> {
    let profile = profile(account).quotas(product);
    let of_profile = match bucket {
        Bucket::Prefetches => profile.push_day,
        Bucket::Urls => profile.url_day,
        Bucket::Directories => profile.dir_day,
        Bucket::Regexes => profile.regex_day,
        Bucket::IgnoreParams => profile.ignore_day,
    };
    account.quota.get(bucket.name(Product::Cdn)).copied().or(of_profile)
}

/// The limits for a submission of this kind.
pub(crate) fn of(account: &Account, product: Product, kind: Kind) -> Limits {
    let profile = profile(account).quotas(product);
    let bucket = match kind {
        Kind::Prefetch => Bucket::of_prefetches(account, product),
        Kind::RefreshFile => Bucket::Urls,
        Kind::RefreshDirectory => Bucket::Directories,
        Kind::RefreshRegex => Bucket::Regexes,
        Kind::RefreshIgnoreParams => Bucket::IgnoreParams,
        // One unit of URLs for each tag (spec, quota accounting).
        Kind::RefreshTag => Bucket::Urls,
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
    Limits { bucket: bucket.name(product), day: day(account, product, bucket), minute, queue }
}

/// Bytes of bodies that an account may have pinned on one node.
pub(crate) fn pin_bytes(account: &Account) -> u64 {
    account.quota.get("pin_bytes").copied().unwrap_or(PIN_BYTES)
}

/// Calls of one action per second; unlimited when `None`.
pub(crate) fn action_rate(account: &Account, action: &str) -> Option<u64> {
    account.quota.get("action_qps").copied().or_else(|| profile(account).rate(action).map(u64::from))
}

/// Calls per second over all actions, if an operator set a limit; unlimited when `None`.
pub(crate) fn account_rate(account: &Account) -> Option<u64> {
    Some(account.qps).filter(|most| *most > 0)
}
