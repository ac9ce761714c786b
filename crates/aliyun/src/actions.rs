//! The vendor's actions: their names in each version, the resources that policies refer to, and their rate limits per
//! account.
//!
//! `data/actions.txt` has a line for each: version, name, resource, and the rate if a page of the vendor states one.
//! The resource is `domain` (each domain that a call names), `domains` (all of the account's), `domain?` (the named
//! domains, or all if none is named), `account`, or `any`.

use crate::read::VERSION_2014;

/// Our own action, for settings that no function of the vendor covers (see the reference of our own actions).
pub(crate) const SET_DOMAIN: &str = "SetWarmfrontDomain";

/// Our own action: temporary credentials.
pub(crate) const CREATE_SESSION: &str = "CreateSessionCredentials";

/// Our own action: a bearer token.
pub(crate) const CREATE_BEARER: &str = "CreateBearerToken";

/// Our own action: the audit log.
pub(crate) const AUDIT_LOG: &str = "DescribeAuditLog";

/// Our own actions: steering prefetches, and all details of one.
pub(crate) const PAUSE_TASK: &str = "PausePreloadTask";
pub(crate) const RESUME_TASK: &str = "ResumePreloadTask";
pub(crate) const CANCEL_TASK: &str = "CancelPreloadTask";
pub(crate) const SET_PRIORITY: &str = "SetPreloadTaskPriority";
pub(crate) const PRELOAD_TASK: &str = "DescribePreloadTask";

/// Our own action: explaining what a prefetch would do.
pub(crate) const EXPLAIN: &str = "ExplainPreload";

/// Our own actions, which both products have; the vendor's list contains none of these names.
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

/// Our own actions on domains: on the named ones, or those of the named tasks.
const OWN_OF_DOMAINS: [&str; 6] = [SET_DOMAIN, PAUSE_TASK, RESUME_TASK, CANCEL_TASK, SET_PRIORITY, EXPLAIN];

/// The resource of an action, as policies name it (prefetch-refresh §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `acs:cdn:*:ACCOUNT:domain/NAME` for each domain that a call names, or `domain/*` if it names none and need not.
    Domain,
    /// `acs:cdn:*:ACCOUNT:domain/*`, whatever a call names.
    AllDomains,
    /// `acs:cdn:*:ACCOUNT:*`
    Account,
    /// `*`
    Anything,
}

/// Calls per second and account that issue sessions or tokens, each of which is sealed under one key that is good for
/// 2^32 seals, or query the audit log, where each may read far back.
const OWN_RATE: u32 = 10;

/// Whether the vendor has this action in this version, or it is our own.
pub(crate) fn is_known(version: &str, action: &str) -> bool {
    let own = (version == "2018-05-10" && action == SET_DOMAIN) || (version != VERSION_2014 && OWN.contains(&action));
    own || listed().any(|(known, name, ..)| (known, name) == (version, action))
}

/// Calls of `action` that an account may make per second, whatever its profile.
pub(crate) fn own_rate(action: &str) -> Option<u32> {
    [CREATE_SESSION, CREATE_BEARER, AUDIT_LOG].contains(&action).then_some(OWN_RATE)
}

/// Calls of `action` that an account may make per second, if a page states it.
pub(crate) fn rate(action: &str) -> Option<u32> {
    listed().find(|(_, name, ..)| *name == action).and_then(|(.., rate)| rate)
}

/// The resource of `action`, as policies name it.
pub fn resource(action: &str) -> Resource {
    if OWN_OF_DOMAINS.contains(&action) {
        return Resource::Domain;
    }
    match listed().find(|(_, name, ..)| *name == action).map(|(_, _, resource, _)| resource) {
        Some("domain" | "domain?") => Resource::Domain,
        Some("domains") => Resource::AllDomains,
        Some("account") => Resource::Account,
        // Our own other actions, and VOD's.
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

    /// Actions for which two generations of pages differ, with the value we use.
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
