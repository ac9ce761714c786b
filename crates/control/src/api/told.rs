//! Which facts of a call the audit log records.
//!
//! # What always holds
//!
//! - Parameters are recorded by an explicit list of names that hold no secrets; all others are left out.
//! - The size of a record is bounded, whatever the size of the call.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aliyun::{Call, Request};

use crate::app::Principal;
use crate::state::audit::{BEGUN, Record};

/// The most domains in a record.
const DOMAINS_MAX: usize = 100;

/// The most characters of a value in a record.
const VALUE_CHARS_MAX: usize = 200;

/// Parameters that are recorded besides domains, if a call has them.
const TOLD: [&str; 33] = [
    "Area",
    "CacheTag",
    "CdnType",
    "CertName",
    "ConfigId",
    "Coverage",
    "DurationSeconds",
    "Force",
    "FunctionName",
    "FunctionNames",
    "InternetChargeType",
    "L2Preload",
    "NotBefore",
    "ObjectType",
    "Pin",
    "Priority",
    "Property",
    "QueryHashkey",
    "Refetch",
    "ResourceGroupId",
    "ResourceType",
    "SSLProtocol",
    "Scope",
    "Sources",
    "TagHeader",
    "TaskId",
    "Tier",
    "TopLevelDomain",
    "VerifyType",
    "All",
    "TagKey.1",
    "Tag.1.Key",
    "Tag.1.Value",
];

/// Parameters that name one domain or several, separated by commas.
const DOMAINS: [&str; 2] = ["DomainName", "DomainNames"];

/// Elements of `ResourceId.N`, which names domains too; the vendor accepts fifty.
const RESOURCES_MAX: usize = 50;

/// Facts that are derived from a call instead of copied from its parameters.
#[derive(Default)]
pub(super) struct OfCall {
    /// The hosts of the submitted objects.
    hosts: BTreeSet<String>,
    detail: BTreeMap<String, String>,
}

/// The derived facts of `call`: hosts and number of lines of a submission, and names of functions, whose arguments may
/// be secrets.
pub(super) fn of_call(call: &Call) -> OfCall {
    let paths = match call {
        Call::Prefetch(prefetch) => &prefetch.paths,
        Call::Refresh(refresh) => &refresh.paths,
        Call::SetFunctions(set) => {
            let names: BTreeSet<&str> = set.functions.iter().map(|function| function.name.as_str()).collect();
            let names = told(&names.into_iter().collect::<Vec<_>>().join(","));
            return OfCall { detail: [("FunctionNames".to_owned(), names)].into(), ..OfCall::default() };
        }
        _ => return OfCall::default(),
    };
    let hosts: BTreeSet<&str> = paths.iter().map(|path| path.key.host()).collect();
    OfCall {
        hosts: hosts.into_iter().map(str::to_owned).collect(),
        detail: [("Lines".to_owned(), paths.len().to_string())].into(),
    }
}

/// The record of a call that is about to be executed.
pub(super) fn record(
    principal: &Principal,
    request: &Request,
    of_call: OfCall,
    id: &str,
    from: Option<IpAddr>,
    now_ms: u64,
) -> Record {
    let params = &request.params;
    let mut detail: BTreeMap<String, String> =
        TOLD.iter().filter_map(|name| params.get(name).map(|value| ((*name).to_owned(), told(value)))).collect();
    let mut domains: BTreeSet<String> = DOMAINS
        .iter()
        .filter_map(|name| params.get(name))
        .flat_map(|names| names.split(','))
        .chain((1..=RESOURCES_MAX).map_while(|at| params.get(&format!("ResourceId.{at}"))))
        .map(|name| told(name.trim()).to_ascii_lowercase().replace(char::is_whitespace, ""))
        .filter(|name| !name.is_empty())
        .collect();
    domains.extend(of_call.hosts);
    detail.extend(of_call.detail);
    if domains.len() > DOMAINS_MAX {
        detail.insert("MoreDomains".to_owned(), (domains.len() - DOMAINS_MAX).to_string());
    }
    Record {
        at_ms: now_ms,
        request: id.to_owned(),
        account: principal.account().to_owned(),
        user: principal.user().unwrap_or_default().to_owned(),
        key: principal.key.id.clone(),
        session: principal.pass.as_ref().map(|pass| pass.id.clone()).unwrap_or_default(),
        product: request.product.name().to_owned(),
        action: request.action.clone(),
        domains: domains.into_iter().take(DOMAINS_MAX).collect(),
        detail,
        source: from.map(|address| address.to_string()).unwrap_or_default(),
        outcome: BEGUN.to_owned(),
    }
}

/// A client's text, shortened and without control characters.
fn told(text: &str) -> String {
    text.chars().take(VALUE_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
