//! Replies: results as values, and the fields that the vendor's clients expect of them.
//!
//! # What always holds
//!
//! - The body of a success never has a field `Code`: clients would take it for a failure.
//! - Fields and their JSON types are those of the official SDK models; quota counters are strings.
//! - `Process` is `100%` exactly when the task is complete.

use std::time::SystemTime;

use model::Region;
use serde::Serialize;
use serde_json::{Value, json};

use crate::audit::{self, AuditEvent};
use crate::certificates::{self, CertificateShown};
use crate::credentials::{self, Bearer, Session};
use crate::explain::{self, Explained};
use crate::figures::{self, FiguresShown, UrlsShown};
use crate::labels::{self, Label, LabelRow};
use crate::owners;
use crate::places;
use crate::read::{Product, Request, timestamp};
use crate::service::{self, OpenedService, ServiceStatus};
use crate::steering::{self, PreloadTask, SteeredTask};
use crate::tasks::{Page, TaskStatus, TaskType};

mod domains;

pub use domains::{DomainDetail, DomainTls};

/// The number shown for an unlimited quota; clients do arithmetic with it, and fail on negative numbers and words.
pub const UNLIMITED: u64 = 10_000_000;

/// The reply to a call that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// What a prefetch would do, URL by URL.
    Explained(Vec<Explained>),
    /// Accepted as tasks with these ids.
    Submitted(Vec<u64>),
    /// One page of tasks, newest first.
    Tasks {
        /// The requested page.
        page: Page,
        /// Rows on all pages.
        total: u64,
        /// Rows on this page.
        rows: Vec<TaskRow>,
    },
    /// Tasks by id.
    TasksById {
        /// Their rows.
        rows: Vec<TaskRow>,
        /// The nodes that tasks in progress are waiting for.
        waiting: Vec<Waiting>,
    },
    /// A prefetch, URL by URL; `None` if there is no such task.
    PrefetchDetail(Option<PrefetchDetail>),
    /// A prefetch with all its details.
    PreloadTask(Box<PreloadTask>),
    /// Prefetches that have been steered.
    Steered(Vec<SteeredTask>),
    /// Quotas as numbers, and how many domains the account may have.
    UserQuota {
        /// Quotas of a day.
        quota: Quota,
        /// Domains the account may have.
        domains: u64,
    },
    /// An issued session.
    SessionCreated(Session),
    /// An issued bearer token.
    BearerCreated(Bearer),
    /// Events of the account's audit log, newest first.
    AuditLog {
        /// Some of the events.
        events: Vec<AuditEvent>,
        /// Where the next page begins; `None` if there are no more events.
        next: Option<(u64, u64)>,
    },
    /// The service, once opened.
    Service(OpenedService),
    /// The state of the account.
    ServiceStatus(ServiceStatus),
    /// A signed receipt, as the text of its file.
    Receipt(String),
    /// The public key that verifies receipts, in base64.
    ReceiptKey(String),
    /// Quotas and their remainders of today.
    Quota(Quota),
    /// Done, with nothing to report.
    Done,
    /// One page of domains.
    Domains {
        /// The requested page.
        page: Page,
        /// Rows on all pages.
        total: u64,
        /// Rows on this page.
        rows: Vec<DomainDetail>,
    },
    /// One domain.
    DomainDetail(DomainDetail),
    /// Labels of domains, domain by domain.
    Labels {
        /// One page of them.
        rows: Vec<LabelRow>,
        /// Whether there are more.
        more: bool,
    },
    /// Domains, each with all its labels.
    LabelsOf(Vec<(String, Vec<Label>)>),
    /// Every label key of an account, with its values.
    LabelsOfAccount(Vec<(String, Vec<String>)>),
    /// All regions with POPs.
    Places(Vec<Region>),
    /// The content that proves ownership of a name.
    ProofContent(String),
    /// The second-tier nodes that serve a domain.
    Addresses {
        /// The domain.
        domain: String,
        /// Addresses or host names.
        addresses: Vec<String>,
    },
    /// Domains whose CNAME was asked for.
    Cnames(Vec<String>),
    /// The certificate of a domain, if it has one.
    Certificate {
        /// The domain.
        domain: String,
        /// The certificate shown to users.
        certificate: Option<CertificateShown>,
    },
    /// Functions that have been set, each with its id: domain by domain, in the requested order.
    FunctionsSet(Vec<FunctionSet>),
    /// Functions of a domain.
    Functions {
        /// The functions.
        rows: Vec<FunctionRow>,
        /// Whether every node has them.
        configured: bool,
    },
    /// Figures of domains.
    Figures(Box<FiguresShown>),
    /// The most requested URLs.
    TopUrls(Box<UrlsShown>),
}

/// A function that has been set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSet {
    /// Its domain.
    pub domain: String,
    /// What it is called.
    pub name: String,
    /// Its number.
    pub id: u64,
}

/// A function as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct FunctionRow {
    /// Its number.
    pub id: u64,
    /// What it is called.
    pub name: String,
    /// Its arguments.
    pub args: Vec<(String, String)>,
    /// The id of the condition it is bound to.
    pub parent: Option<u64>,
}

/// Omits arguments, whose values may be secrets.
impl std::fmt::Debug for FunctionRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.name, self.id)
    }
}

/// One path of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// The task.
    pub id: u64,
    /// The URL with its scheme.
    pub path: String,
    /// Its type.
    pub kind: TaskType,
    /// Its state.
    pub status: TaskStatus,
    /// Steps done, of `total`.
    pub done: u64,
    /// Number of steps.
    pub total: u64,
    /// When it was submitted.
    pub created_at: SystemTime,
    /// Why it failed.
    pub description: Description,
}

/// The details of a prefetch, URL by URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchDetail {
    /// The task.
    pub task: u64,
    /// The domain of its URLs.
    pub domain: String,
    /// When it was submitted.
    pub created_at: SystemTime,
    /// When it ended; `None` if it is in progress.
    pub ended_at: Option<SystemTime>,
    /// Its state: failed if it has ended and any URL failed.
    pub status: TaskStatus,
    /// Steps done, of `total`.
    pub done: u64,
    /// Number of steps.
    pub total: u64,
    /// Its URLs, in the order of submission.
    pub urls: Vec<PrefetchedUrl>,
}

/// One URL of a prefetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchedUrl {
    /// The URL with its scheme.
    pub url: String,
    /// Whether it is resident on all its targets; `None` if not yet known.
    pub success: Option<bool>,
    /// The status of the origin's response, if that is why it failed.
    pub origin_status: Option<u16>,
    /// Exactly why and where it failed; otherwise empty.
    pub description: String,
}

/// The nodes that a refresh is waiting for: our own field, which the vendor does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The task.
    pub task: u64,
    /// The highest of its revisions that is not yet complete.
    pub revision: u64,
    /// Some of the nodes.
    pub nodes: Vec<WaitedFor>,
    /// Number of further nodes.
    pub more: usize,
}

/// A node that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitedFor {
    /// Its name.
    pub name: String,
    /// When it was last heard from; `None` if not since the control plane started.
    pub last_heard: Option<SystemTime>,
    /// The highest revision that it has acknowledged.
    pub acknowledged: u64,
    /// When waiting for it ends in any case; `None` if only its acknowledgement ends it.
    pub at_most_until: Option<SystemTime>,
}

/// Why a task failed, in the vendor's words where they fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// It did not fail.
    None,
    /// An internal error.
    Internal,
    /// The origin did not answer in time.
    OriginTimeout,
    /// The origin answered with this status.
    OriginStatus(u16),
    /// Our own text.
    Text(String),
}

impl Description {
    /// The text; lists of CDN tasks omit a space that all others have (prefetch-refresh §7).
    fn words(&self, in_cdn_list: bool) -> String {
        match (self, in_cdn_list) {
            (Description::None, _) => String::new(),
            (Description::Internal, true) => "InternalError".to_owned(),
            (Description::Internal, false) => "Internal Error".to_owned(),
            (Description::OriginTimeout, true) => "OriginTimeout".to_owned(),
            (Description::OriginTimeout, false) => "Origin Timeout".to_owned(),
            (Description::OriginStatus(status), true) => format!("OriginReturn StatusCode {status}"),
            (Description::OriginStatus(status), false) => format!("Origin Return StatusCode {status}"),
            (Description::Text(text), _) => text.clone(),
        }
    }
}

/// One daily quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The quota per day; `None` is unlimited.
    pub limit: Option<u64>,
    /// How much of it is spent.
    pub used: u64,
}

impl Bucket {
    /// Quota and remainder, as shown to clients.
    fn numbers(self) -> (u64, u64) {
        let limit = self.limit.unwrap_or(UNLIMITED);
        let used = if self.limit.is_some() { self.used } else { 0 };
        (limit, limit.saturating_sub(used))
    }
}

/// All quotas of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Refreshes of files.
    pub url: Bucket,
    /// Refreshes of directories.
    pub directory: Bucket,
    /// Refreshes by regular expression.
    pub regex: Bucket,
    /// Refreshes that ignore parameters.
    pub ignore_params: Bucket,
    /// Prefetches.
    pub prefetch: Bucket,
    /// Prefetches to nodes that face users.
    pub prefetch_edge: Bucket,
    /// Blocked URLs.
    pub block: Bucket,
}

/// Encodes `reply` as JSON, in answer to `request`. Replies by ids may have thousands of rows, and waiting clients
/// request them repeatedly, so these are serialised directly.
pub(crate) fn json(request: &Request, request_id: &str, reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::TasksById { rows, waiting } => {
            serde_json::to_vec(&TasksById::of(request_id, rows, waiting)).expect("texts and numbers have no bad case")
        }
        _ => fields(request, request_id, reply).to_string().into_bytes(),
    }
}

/// The fields of `reply`, in answer to `request`.
pub(crate) fn fields(request: &Request, request_id: &str, reply: &Reply) -> Value {
    let product = request.product;
    match reply {
        Reply::Explained(urls) => explain::fields(request_id, urls),
        Reply::Submitted(ids) => {
            let ids = ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let name = match request.action.as_str() {
                "PushObjectCache" => "PushTaskId",
                "PreloadVodObjectCaches" => "PreloadTaskId",
                _ => "RefreshTaskId",
            };
            json!({ "RequestId": request_id, name: ids })
        }
        Reply::Tasks { page, total, rows } => {
            let rows = task_fields(rows, product == Product::Cdn);
            let element = if product == Product::Cdn { "CDNTask" } else { "Task" };
            json!({
                "RequestId": request_id,
                "PageNumber": page.number,
                "PageSize": page.size,
                "TotalCount": total,
                "Tasks": { element: rows },
            })
        }
        Reply::TasksById { rows, waiting } => {
            serde_json::to_value(TasksById::of(request_id, rows, waiting)).expect("texts and numbers have no bad case")
        }
        Reply::PrefetchDetail(detail) => {
            let details: Vec<Value> = detail.iter().map(prefetch_detail).collect();
            json!({ "RequestId": request_id, "TotalCount": details.len(), "UrlDetails": details })
        }
        Reply::PreloadTask(task) => steering::task_fields(request_id, task),
        Reply::Steered(steered) => steering::fields(request_id, steered),
        Reply::UserQuota { quota, domains } => user_quota(request_id, quota, *domains),
        Reply::SessionCreated(session) => credentials::session_fields(request_id, session),
        Reply::BearerCreated(bearer) => credentials::bearer_fields(request_id, bearer),
        Reply::AuditLog { events, next } => audit::fields(request_id, events, *next),
        Reply::Service(opened) => service::service_fields(request_id, opened),
        Reply::ServiceStatus(status) => service::status_fields(request_id, *status),
        Reply::Receipt(file) => json!({ "RequestId": request_id, "Receipt": file }),
        Reply::ReceiptKey(key) => json!({ "RequestId": request_id, "Algorithm": "Ed25519", "PublicKey": key }),
        Reply::Quota(quota) => quotas(product, request_id, quota),
        Reply::Done => json!({ "RequestId": request_id }),
        Reply::Domains { page, total, rows } => {
            let rows: Vec<Value> = rows.iter().map(|row| domains::row(product, row)).collect();
            json!({
                "RequestId": request_id,
                "PageNumber": page.number,
                "PageSize": page.size,
                "TotalCount": total,
                "Domains": { "PageData": rows },
            })
        }
        Reply::DomainDetail(domain) => domains::detail(product, request_id, domain),
        Reply::Labels { rows, more } => labels::list_fields(request_id, rows, *more),
        Reply::LabelsOf(domains) => labels::of_domains_fields(request_id, domains),
        Reply::LabelsOfAccount(keys) => labels::of_account_fields(request_id, keys),
        Reply::Places(places) => places::places_fields(request_id, places),
        Reply::ProofContent(content) => owners::fields(request_id, content),
        Reply::Addresses { domain, addresses } => places::addresses_fields(request_id, domain, addresses),
        Reply::Cnames(domains) => places::names_fields(request_id, domains),
        Reply::Certificate { domain, certificate } => certificates::fields(request_id, domain, certificate.as_ref()),
        Reply::FunctionsSet(set) => {
            let one =
                |set: &FunctionSet| json!({ "ConfigId": set.id, "DomainName": set.domain, "FunctionName": set.name });
            let set: Vec<Value> = set.iter().map(one).collect();
            match product {
                Product::Cdn => {
                    json!({ "RequestId": request_id, "DomainConfigList": { "DomainConfigModel": set } })
                }
                Product::Vod => json!({ "RequestId": request_id }),
            }
        }
        Reply::Functions { rows, configured } => {
            let status = if *configured { "success" } else { "configuring" };
            let rows: Vec<Value> = rows.iter().map(|row| function(product, row, status)).collect();
            json!({ "RequestId": request_id, "DomainConfigs": { "DomainConfig": rows } })
        }
        Reply::Figures(shown) => figures::fields(product, request_id, shown),
        Reply::TopUrls(shown) => figures::urls_fields(request_id, shown),
    }
}

fn function(product: Product, row: &FunctionRow, status: &str) -> Value {
    let arg = |(name, value): &(String, String)| json!({ "ArgName": name, "ArgValue": value });
    let mut fields = json!({
        "ConfigId": row.id.to_string(),
        "FunctionName": row.name,
        "FunctionArgs": { "FunctionArg": row.args.iter().map(arg).collect::<Vec<_>>() },
        "Status": status,
    });
    if product == Product::Cdn {
        // Empty if bound to no condition.
        fields["ParentId"] = json!(row.parent.map(|id| id.to_string()).unwrap_or_default());
    }
    fields
}

/// One row. Its fields, like those of [`TasksById`], are in the same order as in other replies.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskFields<'a> {
    creation_time: String,
    description: String,
    object_path: &'a str,
    object_type: &'static str,
    process: String,
    status: &'static str,
    task_id: String,
}

fn task_fields<'a>(rows: &'a [TaskRow], in_cdn_list: bool) -> Vec<TaskFields<'a>> {
    // Rows of a task have the same creation time, so it is formatted once.
    let mut created = (SystemTime::UNIX_EPOCH, timestamp(SystemTime::UNIX_EPOCH));
    let mut creation_time = |at: SystemTime| {
        if created.0 != at {
            created = (at, timestamp(at));
        }
        created.1.clone()
    };
    let one = |row: &'a TaskRow| {
        let TaskRow { id, path, kind, status, done, total, created_at, description } = row;
        TaskFields {
            creation_time: creation_time(*created_at),
            description: description.words(in_cdn_list),
            object_path: path,
            object_type: kind.name(),
            process: process(*status, *done, *total),
            status: status.name(),
            task_id: id.to_string(),
        }
    };
    rows.iter().map(one).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TasksById<'a> {
    request_id: &'a str,
    tasks: Vec<TaskFields<'a>>,
    total_count: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<Value>,
}

impl<'a> TasksById<'a> {
    fn of(request_id: &'a str, rows: &'a [TaskRow], waiting: &[Waiting]) -> TasksById<'a> {
        let tasks = task_fields(rows, false);
        TasksById { request_id, total_count: tasks.len(), tasks, waiting_for: waiting.iter().map(waited_for).collect() }
    }
}

fn waited_for(waiting: &Waiting) -> Value {
    let nodes = waiting.nodes.iter().map(|node| {
        json!({
            "Name": node.name,
            // Empty if not heard from since the control plane started.
            "LastHeardTime": node.last_heard.map(timestamp).unwrap_or_default(),
            "Acknowledged": node.acknowledged,
            "Until": if node.at_most_until.is_some() { "LeaseOver" } else { "Acknowledgement" },
            "AtMostUntilTime": node.at_most_until.map(timestamp).unwrap_or_default(),
        })
    });
    json!({
        "TaskId": waiting.task.to_string(),
        "Revision": waiting.revision,
        "Nodes": nodes.collect::<Vec<_>>(),
        "MoreNodes": waiting.more,
    })
}

/// Progress in percent, with up to two decimals, rounded down.
pub(crate) fn process(status: TaskStatus, done: u64, total: u64) -> String {
    if status == TaskStatus::Complete {
        return "100%".to_owned();
    }
    let hundredths = u128::from(done) * 10_000 / u128::from(total.max(1));
    let hundredths = hundredths.min(9_999); // an incomplete task never shows 100%
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, part) => format!("{whole}.{part:02}%"),
    }
}

fn quotas(product: Product, request_id: &str, quota: &Quota) -> Value {
    let mut fields = json!({ "RequestId": request_id });
    let mut put = |name: &str, bucket: Bucket| {
        let (limit, remain) = bucket.numbers();
        fields[format!("{name}Quota")] = Value::String(limit.to_string());
        fields[format!("{name}Remain")] = Value::String(remain.to_string());
    };
    put("Url", quota.url);
    put("Dir", quota.directory);
    put("Preload", quota.prefetch);
    put("Block", quota.block);
    if product == Product::Cdn {
        put("Regex", quota.regex);
        put("IgnoreParams", quota.ignore_params);
        put("PreloadEdge", quota.prefetch_edge);
    }
    fields["blockRemain"] = fields["BlockRemain"].clone(); // spelt like this in old pages and in VOD's model
    fields
}

/// `RetCode` is not documented; we use 200 on success, the status of the origin's response if that caused the failure,
/// and otherwise a gateway's.
fn prefetch_detail(detail: &PrefetchDetail) -> Value {
    let ret_code = match detail.status {
        TaskStatus::Refreshing => String::new(),
        TaskStatus::Complete => "200".to_owned(),
        TaskStatus::Failed => {
            let status = detail.urls.iter().find_map(|url| url.origin_status);
            status.unwrap_or(502).to_string()
        }
    };
    let url = |url: &PrefetchedUrl| {
        json!({
            "Url": url.url,
            // Empty if not yet known.
            "Success": url.success.map(|success| success.to_string()).unwrap_or_default(),
            "Description": url.description,
        })
    };
    json!({
        "TaskId": detail.task.to_string(),
        "Domain": detail.domain,
        "CreationTime": timestamp(detail.created_at),
        "EndTime": detail.ended_at.map(timestamp).unwrap_or_default(),
        "Status": detail.status.name(),
        "Process": process(detail.status, detail.done, detail.total),
        "RetCode": ret_code,
        "Urls": detail.urls.iter().map(url).collect::<Vec<_>>(),
    })
}

fn user_quota(request_id: &str, quota: &Quota, domains: u64) -> Value {
    let mut fields = json!({ "RequestId": request_id, "DomainQuota": domains });
    let buckets = [
        ("RefreshUrl", quota.url),
        ("RefreshDir", quota.directory),
        ("IgnoreParams", quota.ignore_params),
        ("Preload", quota.prefetch),
        ("Block", quota.block),
    ];
    for (name, bucket) in buckets {
        let (limit, remain) = bucket.numbers();
        fields[format!("{name}Quota")] = json!(limit);
        fields[format!("{name}Remain")] = json!(remain);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_says_100_exactly_when_complete() {
        let cases = [
            (TaskStatus::Refreshing, 0, 3, "0%"),
            (TaskStatus::Refreshing, 1, 3, "33.33%"),
            (TaskStatus::Refreshing, 1, 2, "50%"),
            (TaskStatus::Refreshing, 3, 3, "99.99%"), // all steps done, not yet marked complete
            (TaskStatus::Refreshing, 0, 0, "0%"),
            (TaskStatus::Failed, 1, 20, "5%"),
            (TaskStatus::Failed, 101, 20_000, "0.50%"),
            (TaskStatus::Complete, 0, 0, "100%"),
        ];
        for (status, done, total, expected) in cases {
            assert_eq!(process(status, done, total), expected, "{status:?} {done}/{total}");
        }
    }

    #[test]
    fn unlimited_reads_as_a_large_number() {
        let cases = [
            (Some(1000), 0, 1000, 1000),
            (Some(1000), 1, 1000, 999),
            (Some(10), 11, 10, 0), // the quota was lowered
            (None, 123, 10_000_000, 10_000_000),
        ];
        for (limit, used, quota, remain) in cases {
            assert_eq!(Bucket { limit, used }.numbers(), (quota, remain));
        }
    }
}
