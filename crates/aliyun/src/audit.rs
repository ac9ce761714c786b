//! DescribeAuditLog, our own action: querying the audit log of an account, and the fields of its events.
//!
//! # Not here
//!
//! Which events are recorded and how long they are kept: see the control plane.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::read::{Params, Request, timestamp};
use crate::refusal::{Fault, Refusal};
use crate::tasks::read_time;

/// Maximum and default number of events in one answer.
const SIZE_MAX: u32 = 100;
const SIZE_USUAL: u32 = 20;

/// Longest value of a filter, in bytes: longer than anything recorded.
const FILTER_BYTES_MAX: usize = 256;

/// A query for events. All given filters must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditQuery {
    /// From this time on.
    pub from: Option<SystemTime>,
    /// Up to this time, inclusive.
    pub to: Option<SystemTime>,
    /// With this action.
    pub action: Option<String>,
    /// About this domain, lower case.
    pub domain: Option<String>,
    /// By this user.
    pub user: Option<String>,
    /// Maximum number of events.
    pub size: u32,
    /// Only events older than the one with this time in milliseconds and this number, which an earlier answer named.
    pub before: Option<(u64, u64)>,
}

/// An action that was performed or attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// When the request arrived.
    pub at: SystemTime,
    /// When it ended, if known.
    pub ended_at: Option<SystemTime>,
    /// The id of its request.
    pub request_id: String,
    /// The user; empty for an access key of the account itself and for the operator.
    pub user: String,
    /// The access key; empty for the operator, who has none.
    pub key: String,
    /// The id of the temporary credentials; empty if none were used.
    pub session: String,
    /// The product, or `operator`.
    pub product: String,
    /// The action, or the operator's verb.
    pub action: String,
    /// The domains it affects.
    pub domains: Vec<String>,
    /// Other details, by name.
    pub detail: BTreeMap<String, String>,
    /// The address it came from; empty if unknown.
    pub source: String,
    /// `OK`, a code, or `begun`.
    pub outcome: String,
}

pub(crate) fn query(request: &Request) -> Result<AuditQuery, Refusal> {
    let params = &request.params;
    let (from, to) = (time(params, "StartTime", Fault::StartTime)?, time(params, "EndTime", Fault::EndTime)?);
    if from.zip(to).is_some_and(|(from, to)| to < from) {
        return Err(Refusal::of(Fault::TimeOrder, crate::Wording::Current));
    }
    let size = match params.get("PageSize").map(str::parse) {
        None => SIZE_USUAL,
        Some(Ok(size)) if (1..=SIZE_MAX).contains(&size) => size,
        Some(_) => return Err(Refusal::of(Fault::PageSize, crate::Wording::Current)),
    };
    Ok(AuditQuery {
        from,
        to,
        action: filter(params, "EventAction")?,
        domain: filter(params, "DomainName")?.map(|name| name.to_ascii_lowercase()),
        user: filter(params, "UserName")?,
        size,
        before: params.get("NextToken").map(token).transpose()?,
    })
}

fn time(params: &Params, name: &str, fault: Fault) -> Result<Option<SystemTime>, Refusal> {
    let read = |text| read_time(text).ok_or_else(|| Refusal::of(fault, crate::Wording::Current));
    params.get(name).map(read).transpose()
}

fn filter(params: &Params, name: &str) -> Result<Option<String>, Refusal> {
    match params.get(name) {
        Some(text) if text.len() > FILTER_BYTES_MAX => {
            Err(Refusal::invalid(name, &format!("at most {FILTER_BYTES_MAX} bytes are expected")))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

fn token(text: &str) -> Result<(u64, u64), Refusal> {
    let parts = text.split_once('-').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    parts.ok_or_else(|| Refusal::invalid("NextToken", "the NextToken of the previous answer is expected"))
}

pub(crate) fn fields(request_id: &str, events: &[AuditEvent], next: Option<(u64, u64)>) -> Value {
    let event = |event: &AuditEvent| {
        json!({
            "EventTime": timestamp(event.at),
            // Empty if it is not known to have ended.
            "EndTime": event.ended_at.map(timestamp).unwrap_or_default(),
            "EventRequestId": event.request_id,
            "By": if event.key.is_empty() { "operator" } else { "key" },
            "UserName": event.user,
            "AccessKeyId": event.key,
            "SessionId": event.session,
            "Product": event.product,
            "EventAction": event.action,
            "DomainNames": { "DomainName": event.domains },
            "Parameters": event.detail,
            "SourceAddress": event.source,
            "Outcome": event.outcome,
        })
    };
    json!({
        "RequestId": request_id,
        // Empty if there are no older ones.
        "NextToken": next.map(|(at, id)| format!("{at}-{id}")).unwrap_or_default(),
        "Events": { "Event": events.iter().map(event).collect::<Vec<_>>() },
    })
}
