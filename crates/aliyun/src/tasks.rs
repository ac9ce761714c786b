//! Querying tasks: the filters of DescribeRefreshTasks and its VOD counterpart, and tasks by id (prefetch-refresh §7).
//!
//! # What always holds
//!
//! - An invalid filter is an error, never ignored: a list must not show more than was asked for.
//! - A well-formed unknown id is not an error; the list is empty.

use std::time::{Duration, SystemTime};

use crate::path::{ObjectPath, Shape};
use crate::profile::Profile;
use crate::read::{Params, Product, Request, TIMESTAMP, VERSION_2014};
use crate::refusal::{Fault, Refusal};
use crate::rules::Rules;

use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Maximum number of ids in one query. The answer to one submission may have as many, and clients send it back whole.
pub const TASK_IDS_MAX: usize = 1000;

/// Maximum number of ids of DescribeRefreshTaskById.
const IDS_BY_ID_MAX: usize = 10;

/// Tolerated difference between a client's clock and ours when it computes a time range.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// The older form of times, without seconds.
const MINUTES: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]Z");

/// A page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Page number, from 1.
    pub number: u32,
    /// Rows per page, at least 1.
    pub size: u32,
}

/// A query for tasks. All given filters must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskQuery {
    /// One of these ids.
    pub ids: Option<Vec<u64>>,
    /// Exactly this path, with any scheme.
    pub path: Option<ObjectPath>,
    /// Paths on this host, lower case.
    pub domain: Option<String>,
    /// In this state.
    pub status: Option<TaskStatus>,
    /// Of this type.
    pub kind: Option<TaskFilter>,
    /// Submitted at or after the first and before the second.
    pub between: Option<(SystemTime, SystemTime)>,
    /// The page of the list.
    pub page: Page,
}

/// The states of a task that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// In progress.
    Refreshing,
    /// Done.
    Complete,
    /// Given up.
    Failed,
}

impl TaskStatus {
    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            TaskStatus::Refreshing => "Refreshing",
            TaskStatus::Complete => "Complete",
            TaskStatus::Failed => "Failed",
        }
    }
}

/// The types of tasks that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    /// Refresh of an object, of a path with any query, or by tag: the vendor has no types of their own for the last
    /// two.
    File,
    /// Refresh of a directory.
    Directory,
    /// Refresh by regular expression.
    Regex,
    /// Prefetch of an object.
    Preload,
}

impl TaskType {
    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            TaskType::File => "file",
            TaskType::Directory => "directory",
            TaskType::Regex => "regex",
            TaskType::Preload => "preload",
        }
    }
}

/// The types that a query may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskFilter {
    /// Tasks of this type.
    Type(TaskType),
    /// A type that the vendor has and we do not: `block`, `unblock`.
    NoneOfOurs,
}

/// Reads the filters of a list of tasks.
pub(crate) fn query(request: &Request, profile: &Profile, rules: Rules, now: SystemTime) -> Result<TaskQuery, Refusal> {
    let wording = profile.wording(request);
    let worded = |fault| Refusal::of(fault, wording);
    let params = &request.params;

    let ids = params.get("TaskId").map(|text| ids(text, TASK_IDS_MAX)).transpose().map_err(worded)?;
    let path = params.get("ObjectPath").map(|text| ObjectPath::read(text.trim(), Shape::Any));
    let path = path.transpose().map_err(worded)?;
    let kind = match params.get("ObjectType").map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("file") => Some(TaskFilter::Type(TaskType::File)),
        Some("directory") => Some(TaskFilter::Type(TaskType::Directory)),
        Some("preload") => Some(TaskFilter::Type(TaskType::Preload)),
        Some("regex") => Some(TaskFilter::Type(TaskType::Regex)),
        Some("block" | "unblock") => Some(TaskFilter::NoneOfOurs),
        Some(_) => return Err(worded(Fault::FilterType)),
    };
    let status = match params.get("Status").map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("complete") => Some(TaskStatus::Complete),
        Some("refreshing") => Some(TaskStatus::Refreshing),
        Some("failed") => Some(TaskStatus::Failed),
        Some(_) => return Err(worded(Fault::FilterStatus)),
    };
    let domain = params.get("DomainName").map(str::to_ascii_lowercase);
    if kind.is_none() && (domain.is_some() || status.is_some()) {
        return Err(worded(Fault::FilterNeedsType));
    }
    // VOD has pages of 50, and so had CDN in this version.
    let largest = match (request.product, request.version.as_str()) {
        (Product::Cdn, VERSION_2014) => Profile::named("cdn-2019").map_or(profile.tasks_page, |old| old.tasks_page),
        _ => profile.per_call(request.product).tasks_page,
    };
    let between = between(params, rules, now).map_err(|fault| match (worded(fault), fault) {
        // The vendor's text states its own retention of three days.
        (refusal, Fault::TimeTooOld) => refusal.with_days(rules.task_history_days),
        (refusal, _) => refusal,
    })?;
    Ok(TaskQuery { ids, path, domain, status, kind, between, page: page(params, largest).map_err(worded)? })
}

/// Reads the ids of DescribeRefreshTaskById.
pub(crate) fn by_id(request: &Request, profile: &Profile) -> Result<Vec<u64>, Refusal> {
    ids(request.params.required("TaskId")?, IDS_BY_ID_MAX).map_err(|fault| Refusal::of(fault, profile.wording(request)))
}

/// Reads the id of an action about one task.
pub(crate) fn one(request: &Request, profile: &Profile) -> Result<u64, Refusal> {
    let ids =
        ids(request.params.required("TaskId")?, 1).map_err(|fault| Refusal::of(fault, profile.wording(request)))?;
    ids.first().copied().ok_or_else(|| Refusal::missing("TaskId"))
}

/// A comma-separated list of decimal ids, without duplicates.
fn ids(text: &str, most: usize) -> Result<Vec<u64>, Fault> {
    let mut ids: Vec<u64> = Vec::new();
    for (count, piece) in text.split(',').map(str::trim).enumerate() {
        if count == most || piece.is_empty() || !piece.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Fault::TaskId);
        }
        let id = piece.parse().map_err(|_| Fault::TaskId)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Parses `StartTime` and `EndTime`: both or neither, in order, not before the stored history.
fn between(params: &Params, rules: Rules, now: SystemTime) -> Result<Option<(SystemTime, SystemTime)>, Fault> {
    let (start, end) = match (params.get("StartTime"), params.get("EndTime")) {
        (None, None) => return Ok(None),
        (Some(start), Some(end)) => (start, end),
        _ => return Err(Fault::TimeAlone),
    };
    let start = read_time(start).ok_or(Fault::StartTime)?;
    let end = read_time(end).ok_or(Fault::EndTime)?;
    if end <= start {
        return Err(Fault::TimeOrder);
    }
    if start > now + SKEW {
        return Err(Fault::StartTimeRange);
    }
    let oldest = now.checked_sub(rules.task_history() + SKEW).unwrap_or(SystemTime::UNIX_EPOCH);
    if start < oldest {
        return Err(Fault::TimeTooOld);
    }
    Ok(Some((start, end)))
}

/// Parses a time in either of the vendor's forms, in UTC.
pub(crate) fn read_time(text: &str) -> Option<SystemTime> {
    let time = PrimitiveDateTime::parse(text, TIMESTAMP).or_else(|_| PrimitiveDateTime::parse(text, MINUTES)).ok()?;
    Some(time.assume_utc().into())
}

/// Parses `PageNumber`, 1 to 100000, and `PageSize`, 1 to `largest`; by default the first 20 rows.
pub(crate) fn page(params: &Params, largest: u32) -> Result<Page, Fault> {
    let number = |name: &str, default: u32, most: u32, fault: Fault| {
        let value = params.get(name).map_or(Ok(default), |text| text.parse().map_err(|_| fault))?;
        if (1..=most).contains(&value) { Ok(value) } else { Err(fault) }
    };
    Ok(Page {
        number: number("PageNumber", 1, 100_000, Fault::PageNumber)?,
        size: number("PageSize", 20, largest, Fault::PageSize)?,
    })
}
