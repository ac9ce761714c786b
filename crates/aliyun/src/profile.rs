//! Profiles: limits and error wording for each generation of the vendor's documentation, as data.
//!
//! The numbers are in `data/profiles.json`, in the notation of the specification of the refresh and prefetch family
//! (§2), so that a new generation is one more entry. An entry may extend another. `null` and an absent limit mean no
//! limit.
//!
//! # Not here
//!
//! Counting: the control plane knows what an account has used today.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::actions;
use crate::read::{Product, Request, VERSION_2014};

/// The default profile of an account.
pub const DEFAULT: &str = "cdn-2024";

/// Lines of one call above which every profile refuses (the vendor's "maximum of 1000 URLs").
pub const LINES_PER_CALL_MAX: usize = 1000;

/// Calls per second and account that the vendor's pages state for the refresh family.
const QPS: u32 = 50;

/// Limits and wording for one generation of the vendor's pages. `None` always means unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name, such as `cdn-2024`.
    pub name: String,
    /// URLs an account may prefetch per day.
    pub push_day: Option<u64>,
    /// Whether prefetches draw on the quota of URL refreshes (2019 and before).
    #[serde(default)]
    pub shared_url_quota: bool,
    /// Maximum number of lines of one prefetch call.
    pub push_call: usize,
    /// How much may be queued for prefetch per account.
    pub queue: Queue,
    /// URLs an account may refresh per day.
    pub url_day: Option<u64>,
    /// Directories an account may refresh per day.
    pub dir_day: Option<u64>,
    /// Regular expressions an account may refresh per day.
    pub regex_day: Option<u64>,
    /// URLs with ignored parameters that an account may refresh per day.
    pub ignore_day: Option<u64>,
    /// Maximum number of lines of one refresh call.
    pub call: PerCall,
    /// URLs per minute and domain.
    pub url_min_domain: Option<u64>,
    /// Directories per minute and domain.
    pub dir_min_domain: Option<u64>,
    /// Calls per second and account for an action whose page states no rate; if `None`, no action has a rate.
    #[serde(default = "qps")]
    pub qps: Option<u32>,
    /// Calls per second and account for actions for which this generation states another rate than their page does.
    #[serde(default)]
    pub action_qps: BTreeMap<String, u32>,
    /// Maximum number of rows on a page of CDN tasks.
    #[serde(default = "tasks_page")]
    pub tasks_page: u32,
    /// Whether its quotas apply to VOD as well, which otherwise has a profile of its own.
    #[serde(default)]
    pub every_product: bool,
    /// The area of a prefetch that names none.
    pub area_default: AreaDefault,
    /// How errors of CDN actions are worded.
    pub errors: Wording,
}

/// The unit and the bound of the prefetch queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// What is counted.
    pub unit: QueueUnit,
    /// The maximum in that unit.
    pub max: Option<u64>,
}

/// The unit in which the prefetch queue is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueUnit {
    /// Calls.
    Request,
    /// URLs.
    Url,
}

/// Maximum number of lines of one refresh call, by type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerCall {
    /// URLs.
    pub url: usize,
    /// Directories.
    pub dir: usize,
    /// Regular expressions.
    pub regex: Option<usize>,
    /// Distinct domains.
    pub domains: Option<usize>,
    /// Lines of one domain.
    pub per_domain: Option<usize>,
}

/// The area of a prefetch without `Area`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AreaDefault {
    /// Wherever the domain is served.
    Domain,
    /// Outside the Chinese mainland only.
    Overseas,
}

/// The generations of error texts and, in some cases, codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wording {
    /// CDN since 2024.
    Current,
    /// CDN before.
    Legacy,
    /// VOD.
    LegacyVod,
}

impl Profile {
    /// The profile of this name.
    pub fn named(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|profile| profile.name == name)
    }

    /// The names of all profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|profile| profile.name.as_str())
    }

    /// The wording of errors in answer to `request`, from an account with this profile.
    ///
    /// VOD has its own texts whatever the account's profile is, and a client of version 2014-11-11 expects the old ones.
    pub fn wording(&self, request: &Request) -> Wording {
        match (request.product, self.errors) {
            (Product::Vod, _) => Wording::LegacyVod,
            (Product::Cdn, _) if request.version == VERSION_2014 => Wording::Legacy,
            (Product::Cdn, Wording::Current) => Wording::Current,
            (Product::Cdn, Wording::Legacy | Wording::LegacyVod) => Wording::Legacy,
        }
    }

    /// The profile whose quotas apply to `product`: VOD is a service of its own, with quotas of its own.
    pub fn quotas(&self, product: Product) -> &Profile {
        match product {
            Product::Vod if !self.every_product => self.per_call(product),
            _ => self,
        }
    }

    /// Calls of `action` that an account may make per second; `None` is unlimited.
    pub fn rate(&self, action: &str) -> Option<u32> {
        if let Some(own) = actions::own_rate(action) {
            return Some(own);
        }
        let usual = self.qps?;
        Some(self.action_qps.get(action).copied().or_else(|| actions::rate(action)).unwrap_or(usual))
    }

    /// The profile whose per-call limits apply to `product`: VOD's pages allow other sizes than CDN's.
    pub(crate) fn per_call(&self, product: Product) -> &Profile {
        match product {
            Product::Vod => Profile::named("vod-2021").expect("embedded, and a test loads it"),
            Product::Cdn => self,
        }
    }
}

fn qps() -> Option<u32> {
    Some(QPS)
}

fn tasks_page() -> u32 {
    100
}

static PROFILES: LazyLock<Vec<Profile>> =
    LazyLock::new(|| load(include_str!("../data/profiles.json")).expect("the embedded profiles are read by a test"));

/// Parses the table of profiles. An entry is its base overridden by its own keys; a base must not be an extension
/// itself.
fn load(text: &str) -> Result<Vec<Profile>, serde_json::Error> {
    let table: Map<String, Value> = serde_json::from_str(text)?;
    let mut profiles = Vec::with_capacity(table.len());
    for (name, entry) in &table {
        let mut own: Map<String, Value> = serde_json::from_value(entry.clone())?;
        let mut whole = match own.remove("extends") {
            Some(Value::String(base)) => serde_json::from_value(table.get(&base).cloned().unwrap_or_default())?,
            _ => Map::new(),
        };
        whole.extend(own);
        whole.insert("name".to_owned(), Value::String(name.clone()));
        profiles.push(serde_json::from_value(Value::Object(whole))?);
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_profiles_load() {
        let names: Vec<&str> = Profile::names().collect();
        assert_eq!(names, ["cdn-2019", "cdn-2020", "cdn-2024", "cdn-2026", "open", "vod-2021"]);
        assert!(Profile::named(DEFAULT).is_some());
        assert!(Profile::named("cdn-1999").is_none());
    }

    #[test]
    fn extension_overrides_its_base_and_null_is_unlimited() {
        let cases = [
            // profile     push/day     queue          calls/s   lines a push
            ("cdn-2019", Some(2000), Some(100), Some(50), 1000),
            ("cdn-2024", Some(1000), Some(50_000), Some(50), 100),
            ("cdn-2026", Some(1000), Some(100_000), Some(50), 100),
            ("vod-2021", Some(500), Some(50_000), Some(50), 1000),
            ("open", None, None, None, 100), // the product's own per-call limits remain
        ];
        for (name, push_day, queue, qps, push_call) in cases {
            let profile = Profile::named(name).unwrap();
            let got = (profile.push_day, profile.queue.max, profile.qps, profile.push_call);
            assert_eq!(got, (push_day, queue, qps, push_call), "{name}");
        }
    }

    #[test]
    fn actions_have_the_rate_of_their_page_unless_a_generation_says_otherwise() {
        let cases = [
            // profile    action                       calls/s
            ("cdn-2024", "PushObjectCache", Some(50)),
            ("cdn-2024", "DescribeRefreshTasks", Some(10)),
            ("cdn-2024", "DescribeRefreshTaskById", Some(30)),
            ("cdn-2024", "DescribeRefreshQuota", Some(20)),
            ("cdn-2024", "DescribePreloadDetailById", Some(50)), // no page states one
            ("cdn-2026", "DescribeRefreshTasks", Some(5)),
            ("cdn-2026", "DescribeRefreshTaskById", Some(30)),
            ("open", "DescribeRefreshTasks", None),
        ];
        for (profile, action, rate) in cases {
            assert_eq!(Profile::named(profile).unwrap().rate(action), rate, "{profile} {action}");
        }
    }

    #[test]
    fn vod_has_its_own_quotas() {
        let cases = [("cdn-2024", "vod-2021"), ("cdn-2019", "vod-2021"), ("vod-2021", "vod-2021"), ("open", "open")];
        for (profile, vod) in cases {
            let profile = Profile::named(profile).unwrap();
            assert_eq!(profile.quotas(Product::Vod).name, vod);
            assert_eq!(profile.quotas(Product::Cdn), profile);
        }
    }

    #[test]
    fn misspelt_limit_is_refused_by_name() {
        let error = load(r#"{"x":{"extends":"y","push_dya":1},"y":{}}"#).unwrap_err();
        assert!(error.to_string().contains("push_dya"), "{error}");
    }
}
