//! The vendor's actions: their names in each version, what policies name that they are done to, and how often a second an
//! account may call them.
//!
//! `data/actions.txt` has a line for each: version, name, resource, and the rate where a page of the vendor's names one.
//! The resource is `domain` (each domain that a call names), `domains` (all of the account's), `domain?` (the domains that are named,
//! all where none is), `account`, or `any`.

use crate::read::VERSION_2014;

/// Our own action: what the vendor has no function for (reference of the API's own parts).
pub(crate) const SET_DOMAIN: &str = "SetWarmfrontDomain";

/// Our own action: temporary credentials.
pub(crate) const CREATE_SESSION: &str = "CreateSessionCredentials";

/// Our own action: a bearer token.
pub(crate) const CREATE_BEARER: &str = "CreateBearerToken";

/// Our own action: the audit log.
pub(crate) const AUDIT_LOG: &str = "DescribeAuditLog";

/// Our own actions: steering of prefetches, and one of them whole.
pub(crate) const PAUSE_TASK: &str = "PausePreloadTask";
pub(crate) const RESUME_TASK: &str = "ResumePreloadTask";
pub(crate) const CANCEL_TASK: &str = "CancelPreloadTask";
pub(crate) const SET_PRIORITY: &str = "SetPreloadTaskPriority";
pub(crate) const PRELOAD_TASK: &str = "DescribePreloadTask";

/// Our own action: what a prefetch would do.
pub(crate) const EXPLAIN: &str = "ExplainPreload";

/// Actions of our own, which both products have; the vendor's list holds none of these names.
const OWN: [&str; 11] = [
    "DescribeRefreshTaskReceipt",
    "DescribeReceiptKey",
    CREATE_SESSION,
    CREATE_BEARER,
    AUDIT_LOG,
    PAUSE_TASK,
    RESUME_TASK,
    CANCEL_TASK,
    SET_PRIORITY,
    PRELOAD_TASK,
    EXPLAIN,
];

/// Those of our own that are done to domains: to those that are named, or of the tasks that are.
const OWN_OF_DOMAINS: [&str; 6] = [SET_DOMAIN, PAUSE_TASK, RESUME_TASK, CANCEL_TASK, SET_PRIORITY, EXPLAIN];

/// What policies name that an action is done to (prefetch-refresh §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `acs:cdn:*:ACCOUNT:domain/NAME`, of each domain that a call names, or `domain/*` where it may name none and does not.
    Domain,
    /// `acs:cdn:*:ACCOUNT:domain/*`, whatever a call names.
    AllDomains,
    /// `acs:cdn:*:ACCOUNT:*`
    Account,
    /// `*`
    Anything,
}

/// Sessions and tokens a second and account: each is sealed under one key, which is good for 2^32 of them. Looks at the audit
/// log, each of which may read far.
const OWN_RATE: u32 = 10;

/// Whether the vendor has this action in this version, or we do.
pub(crate) fn is_known(version: &str, action: &str) -> bool {
    let own = (version == "2018-05-10" && action == SET_DOMAIN) || (version != VERSION_2014 && OWN.contains(&action));
    own || listed().any(|(known, name, ..)| (known, name) == (version, action))
}

/// Calls of `action` an account may make a second whatever its profile is.
pub(crate) fn own_rate(action: &str) -> Option<u32> {
    [CREATE_SESSION, CREATE_BEARER, AUDIT_LOG].contains(&action).then_some(OWN_RATE)
}

/// Calls of `action` an account may make a second, where a page says so.
pub(crate) fn rate(action: &str) -> Option<u32> {
    listed().find(|(_, name, ..)| *name == action).and_then(|(.., rate)| rate)
}

/// What policies name that `action` is done to.
pub fn resource(action: &str) -> Resource {
    if OWN_OF_DOMAINS.contains(&action) {
        return Resource::Domain;
    }
    match listed().find(|(_, name, ..)| *name == action).map(|(_, _, resource, _)| resource) {
        Some("domain" | "domain?") => Resource::Domain,
        Some("domains") => Resource::AllDomains,
        Some("account") => Resource::Account,
        // Of our own actions, and of VOD's.
        _ => Resource::Anything,
    }
}

/// Version, name, resource and rate of every action.
fn listed() -> impl Iterator<Item = (&'static str, &'static str, &'static str, Option<u32>)> {
    include_str!("../data/actions.txt").lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?, words.next().and_then(|rate| rate.parse().ok())))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Actions of which two generations of pages differ, with the reason for ours.
    const OTHERWISE: [(&str, &str); 1] =
        [("DescribeRefreshTasks", "`domain/*` in 2021, the domain that is named in 2025: so is it where one is named")];

    #[test]
    fn every_action_is_done_to_what_the_facts_say() {
        let facts: Value = serde_json::from_str(include_str!("../tests/data/actions.json")).unwrap();
        let all = facts["actions"].as_array().unwrap();
        for action in all {
            let name = action["action"].as_str().unwrap();
            let product = if action["product"] == "Cdn" { "cdn" } else { "vod" };
            assert_eq!(action["ram"]["action"], format!("{product}:{name}"), "policies name it so");
            let of_domains = "acs:cdn:*:{account}:domain/*";
            let of_domain = "acs:cdn:*:{account}:domain/{DomainName}";
            let expected = match &action["ram"]["resource"] {
                Value::String(one) if one == of_domain => Resource::Domain,
                Value::String(one) if one == of_domains => Resource::AllDomains,
                Value::String(one) if one == "acs:cdn:*:{account}:*" => Resource::Account,
                Value::String(one) if one == "*" => Resource::Anything,
                Value::Array(either) if *either == [of_domains, of_domain] => Resource::Domain,
                other => panic!("{name}: {other}"),
            };
            let excused = OTHERWISE.iter().any(|(known, _)| *known == name);
            assert!(resource(name) == expected || excused, "{name}: add what the facts say to data/actions.txt");
        }
        for (_, name, word, _) in listed() {
            assert!(["domain", "domains", "domain?", "account", "any"].contains(&word), "{name}: {word}");
        }
        assert_eq!(all.len(), 78);
    }
}
