//! Replies: what was done or found, as values, and the fields the vendor's clients expect of it.
//!
//! # What always holds
//!
//! - A successful body never has a field `Code`: clients take it for a failure.
//! - Fields and their JSON types are those of the official SDK models; counters of quotas are texts.
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

/// What an unlimited quota reads as; clients subtract, and fail on negative numbers and words.
pub const UNLIMITED: u64 = 10_000_000;

/// The answer to a call that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// What a prefetch would do, URL by URL.
    Explained(Vec<Explained>),
    /// Accepted as these tasks.
    Submitted(Vec<u64>),
    /// One page of tasks, newest first.
    Tasks {
        /// The page that was asked for.
        page: Page,
        /// Rows on all pages.
        total: u64,
        /// Rows on this page.
        rows: Vec<TaskRow>,
    },
    /// Tasks of the ids that were asked for.
    TasksById {
        /// Their rows.
        rows: Vec<TaskRow>,
        /// Whom those that are refreshing wait for.
        waiting: Vec<Waiting>,
    },
    /// A prefetch, URL by URL; `None` when there is none of that id.
    PrefetchDetail(Option<PrefetchDetail>),
    /// A prefetch with all there is to know of it.
    PreloadTask(Box<PreloadTask>),
    /// Prefetches that were steered.
    Steered(Vec<SteeredTask>),
    /// Quotas as numbers, and how many domains the account may have.
    UserQuota {
        /// Quotas of a day.
        quota: Quota,
        /// Domains the account may have.
        domains: u64,
    },
    /// A session that was issued.
    SessionCreated(Session),
    /// A bearer token that was issued.
    BearerCreated(Bearer),
    /// What was done in the account, the newest first.
    AuditLog {
        /// Some of it.
        events: Vec<AuditEvent>,
        /// Where it goes on; `None` when there is no more.
        next: Option<(u64, u64)>,
    },
    /// The service, opened.
    Service(OpenedService),
    /// How the account stands.
    ServiceStatus(ServiceStatus),
    /// A signed receipt, as its file is written.
    Receipt(String),
    /// The public key that receipts are checked with, in base64.
    ReceiptKey(String),
    /// Quotas and what is left of them today.
    Quota(Quota),
    /// Done, nothing to say.
    Done,
    /// One page of domains.
    Domains {
        /// The page that was asked for.
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
        /// Whether there are more behind it.
        more: bool,
    },
    /// Domains, each with all its labels.
    LabelsOf(Vec<(String, Vec<Label>)>),
    /// Every key of an account's labels with its values.
    LabelsOfAccount(Vec<(String, Vec<String>)>),
    /// Every place there is.
    Places(Vec<Region>),
    /// What shows that a name is the account's.
    ProofContent(String),
    /// Where nodes of the second tier are that serve a domain.
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
        /// What its users are shown.
        certificate: Option<CertificateShown>,
    },
    /// Functions that were set, each with its number: on each domain in turn, as they were asked for.
    FunctionsSet(Vec<FunctionSet>),
    /// Functions of a domain.
    Functions {
        /// Which.
        rows: Vec<FunctionRow>,
        /// Whether every node has them.
        configured: bool,
    },
    /// What was counted of domains.
    Figures(Box<FiguresShown>),
    /// The URLs that were asked for most.
    TopUrls(Box<UrlsShown>),
}

/// A function that was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSet {
    /// On which domain.
    pub domain: String,
    /// What it is called.
    pub name: String,
    /// Its number.
    pub id: u64,
}

/// A function as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct FunctionRow {
    /// Its number.
    pub id: u64,
    /// What it is called.
    pub name: String,
    /// Its arguments.
    pub args: Vec<(String, String)>,
    /// The condition it is bound to.
    pub parent: Option<u64>,
}

/// Without arguments, whose values may be secrets.
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
    /// What was asked for.
    pub kind: TaskType,
    /// How far it is.
    pub status: TaskStatus,
    /// Steps done, of `total`.
    pub done: u64,
    /// Steps there are.
    pub total: u64,
    /// When it was submitted.
    pub created_at: SystemTime,
    /// Why it failed.
    pub description: Description,
}

/// A prefetch, URL by URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchDetail {
    /// The task.
    pub task: u64,
    /// The domain of its URLs.
    pub domain: String,
    /// When it was submitted.
    pub created_at: SystemTime,
    /// When it ended; `None` while it has not.
    pub ended_at: Option<SystemTime>,
    /// How far it is: failed as soon as it ended and one URL did.
    pub status: TaskStatus,
    /// Steps done, of `total`.
    pub done: u64,
    /// Steps there are.
    pub total: u64,
    /// Its URLs, in the order of submission.
    pub urls: Vec<PrefetchedUrl>,
}

/// One URL of a prefetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchedUrl {
    /// The URL with its scheme.
    pub url: String,
    /// Whether it is resident wherever it was to be; `None` while that is not known.
    pub success: Option<bool>,
    /// The status that the origin answered with, where that is why it failed.
    pub origin_status: Option<u16>,
    /// Exactly why and where it failed; empty otherwise.
    pub description: String,
}

/// Whom a refresh waits for: a field of our own, which the vendor's clients leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The task.
    pub task: u64,
    /// The highest revision of it that is waited for.
    pub revision: u64,
    /// Some of the nodes.
    pub nodes: Vec<WaitedFor>,
    /// How many more there are.
    pub more: usize,
}

/// A node that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitedFor {
    /// Its name.
    pub name: String,
    /// When it was last heard; `None`: not since the control plane started.
    pub last_heard: Option<SystemTime>,
    /// The highest revision it acknowledged.
    pub acknowledged: u64,
    /// When it will be waited for no longer, whatever it does; `None`: it is waited for until it acknowledges.
    pub at_most_until: Option<SystemTime>,
}

/// Why a task failed: the vendor's words where one fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Description {
    /// It did not.
    None,
    /// Something of ours.
    Internal,
    /// The origin did not answer in time.
    OriginTimeout,
    /// The origin answered with this status.
    OriginStatus(u16),
    /// Our own words.
    Text(String),
}

impl Description {
    /// The words; lists of CDN tasks leave a space out that all others have (prefetch-refresh §7).
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

/// One quota of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// How much a day; `None` is unlimited.
    pub limit: Option<u64>,
    /// How much of it is spent.
    pub used: u64,
}

impl Bucket {
    /// Quota and remainder, as clients read them.
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

/// `reply` as JSON, in answer to `request`. Rows by ids may be thousands, and clients that wait ask for them again and again: they
/// are written as what they are.
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
        // Empty: bound to no condition.
        fields["ParentId"] = json!(row.parent.map(|id| id.to_string()).unwrap_or_default());
    }
    fields
}

/// One row. Its fields, like those of [`TasksById`], stand in the order in which others are written.
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
    // Rows of a task were created together.
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
            // Empty: not heard since the control plane started.
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

/// Progress in per cent, with up to two decimals, rounded down.
pub(crate) fn process(status: TaskStatus, done: u64, total: u64) -> String {
    if status == TaskStatus::Complete {
        return "100%".to_owned();
    }
    let hundredths = u128::from(done) * 10_000 / u128::from(total.max(1));
    let hundredths = hundredths.min(9_999); // what is not complete never says 100%
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
    fields["blockRemain"] = fields["BlockRemain"].clone(); // so spelt in old pages and in VOD's model
    fields
}

/// Status 200 where all is well, the origin's where one did harm, else that of a gateway; no page says what `RetCode` is.
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
            // Empty: not known yet.
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
            (TaskStatus::Refreshing, 3, 3, "99.99%"), // done, and not yet known to be
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
            (Some(10), 11, 10, 0), // lowered since
            (None, 123, 10_000_000, 10_000_000),
        ];
        for (limit, used, quota, remain) in cases {
            assert_eq!(Bucket { limit, used }.numbers(), (quota, remain));
        }
    }
}
