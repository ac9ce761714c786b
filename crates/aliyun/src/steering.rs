//! Steering of prefetches, by our own actions: PausePreloadTask, ResumePreloadTask, CancelPreloadTask,
//! SetPreloadTaskPriority; DescribePreloadTask with all details of one; and the parameters `Priority` and `NotBefore`
//! of submissions.
//!
//! # Not here
//!
//! What pausing or a priority does: see the control plane.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::actions::{CANCEL_TASK, PAUSE_TASK, RESUME_TASK};
use crate::profile::Profile;
use crate::read::{Params, Request, timestamp};
use crate::refusal::Refusal;
use crate::reply::{PrefetchDetail, process};
use crate::tasks::{self, Page, TaskStatus, read_time};

/// Valid priorities; higher ones go first.
const PRIORITIES: std::ops::RangeInclusive<u8> = 1..=9;

/// URLs per page of DescribePreloadTask, each of which may have dozens of jobs.
const URLS_PER_PAGE_MAX: u32 = 100;

/// How far ahead `NotBefore` may be: nobody remembers a postponed prefetch for longer.
const NOT_BEFORE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// A request to steer prefetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerTasks {
    /// One to ten tasks, none twice.
    pub tasks: Vec<u64>,
    /// The change to all of them.
    pub how: Steer,
}

/// A change to a prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// PausePreloadTask
    Pause,
    /// ResumePreloadTask
    Resume,
    /// CancelPreloadTask
    Cancel,
    /// SetPreloadTaskPriority: 1 to 9
    Priority(u8),
}

/// A prefetch that has been steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteeredTask {
    /// The task.
    pub id: u64,
    /// Number of its URLs that had not ended.
    pub urls: u64,
}

/// A prefetch with all its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreloadTask {
    /// The vendor's detail of it, without its URLs.
    pub summary: PrefetchDetail,
    /// The page that `urls` is.
    pub page: Page,
    /// Total number of its URLs.
    pub total: u64,
    /// 1 to 9.
    pub priority: u8,
    /// Its state.
    pub state: PreloadState,
    /// The moment before which it does not begin, if still to come.
    pub not_before: Option<SystemTime>,
    /// Since when it is paused.
    pub paused_since: Option<SystemTime>,
    /// Some of its URLs, in the order of submission.
    pub urls: Vec<PreloadUrl>,
}

/// The state of a prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreloadState {
    /// It proceeds as capacity allows.
    Running,
    /// Its start time has not come.
    Waiting,
    /// None of its jobs is started until it is resumed.
    Paused,
    /// It was cancelled.
    Cancelled,
    /// It has ended on its own.
    Ended,
}

impl PreloadState {
    fn name(self) -> &'static str {
        match self {
            PreloadState::Running => "running",
            PreloadState::Waiting => "waiting",
            PreloadState::Paused => "paused",
            PreloadState::Cancelled => "cancelled",
            PreloadState::Ended => "ended",
        }
    }
}

/// One URL of a prefetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreloadUrl {
    /// With its scheme.
    pub url: String,
    /// Its state.
    pub status: TaskStatus,
    /// Steps done, of `total`.
    pub done: u64,
    /// Number of steps.
    pub total: u64,
    /// Where and why it failed first; otherwise empty.
    pub description: String,
    /// Its jobs, one per target and variant.
    pub jobs: Vec<PreloadJob>,
}

/// One URL in one variant for one tier of one POP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreloadJob {
    /// `POP/TIER`.
    pub target: String,
    /// Index of the variant, from 0.
    pub variant: usize,
    /// Its state.
    pub status: Option<TaskStatus>,
    /// The node that stores it, or that reported why it failed.
    pub node: Option<String>,
    /// Bytes received.
    pub bytes: Option<u64>,
    /// Bytes announced.
    pub length: Option<u64>,
    /// How long the fetch took; `None` also if the object was there already.
    pub took: Option<Duration>,
    /// Exactly why it failed; otherwise empty.
    pub cause: String,
    /// The status of the origin's response, if that is why it failed.
    pub origin_status: Option<u16>,
    /// When it failed.
    pub at: Option<SystemTime>,
}

/// Reads the parameters of DescribePreloadTask: one task, and the page of its URLs.
pub(crate) fn task(request: &Request, profile: &Profile) -> Result<(u64, Page), Refusal> {
    let page = tasks::page(&request.params, URLS_PER_PAGE_MAX);
    Ok((tasks::one(request, profile)?, page.map_err(|fault| Refusal::of(fault, profile.wording(request)))?))
}

pub(crate) fn task_fields(request_id: &str, task: &PreloadTask) -> Value {
    let moment = |at: Option<SystemTime>| at.map(timestamp).unwrap_or_default();
    let job = |job: &PreloadJob| {
        let rate = job.bytes.zip(job.took).map(|(bytes, took)| {
            let millis = took.as_millis().max(1);
            u64::try_from(u128::from(bytes) * 1_000 / millis).unwrap_or(u64::MAX)
        });
        json!({
            "Target": job.target,
            "Variant": job.variant,
            "Status": job.status.map(TaskStatus::name).unwrap_or_default(),
            "Node": job.node.as_deref().unwrap_or_default(),
            // Null if unknown, or if the object was there already.
            "Bytes": job.bytes,
            "Length": job.length,
            "Milliseconds": job.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            "BytesPerSecond": rate,
            "Cause": job.cause,
            "HttpStatus": job.origin_status,
            "FailedTime": moment(job.at),
        })
    };
    let url = |url: &PreloadUrl| {
        json!({
            "Url": url.url,
            "Status": url.status.name(),
            "Process": process(url.status, url.done, url.total),
            "Description": url.description,
            "Jobs": { "Job": url.jobs.iter().map(job).collect::<Vec<_>>() },
        })
    };
    let PrefetchDetail { task: id, domain, created_at, ended_at, status, done, total, .. } = &task.summary;
    json!({
        "RequestId": request_id,
        "TaskId": id.to_string(),
        "Domain": domain,
        "CreationTime": timestamp(*created_at),
        "EndTime": moment(*ended_at),
        "Status": status.name(),
        "Process": process(*status, *done, *total),
        "State": task.state.name(),
        "Priority": task.priority,
        "NotBefore": moment(task.not_before),
        "PausedTime": moment(task.paused_since),
        "PageNumber": task.page.number,
        "PageSize": task.page.size,
        "TotalCount": task.total,
        "Urls": { "Url": task.urls.iter().map(url).collect::<Vec<_>>() },
    })
}

pub(crate) fn steer(request: &Request, profile: &Profile) -> Result<SteerTasks, Refusal> {
    let how = match request.action.as_str() {
        PAUSE_TASK => Steer::Pause,
        RESUME_TASK => Steer::Resume,
        CANCEL_TASK => Steer::Cancel,
        _ => Steer::Priority(read_priority(request.params.required("Priority")?)?),
    };
    Ok(SteerTasks { tasks: tasks::by_id(request, profile)?, how })
}

/// `Priority` of a submission, where it has one.
pub(crate) fn priority(params: &Params) -> Result<Option<u8>, Refusal> {
    params.get("Priority").map(read_priority).transpose()
}

/// `NotBefore` of a submission, where it has one.
pub(crate) fn not_before(params: &Params, now: SystemTime) -> Result<Option<SystemTime>, Refusal> {
    let Some(text) = params.get("NotBefore") else { return Ok(None) };
    let expected = "a time at most 30 days ahead is expected, as 2026-01-31T00:00:00Z";
    let time = read_time(text).filter(|time| *time <= now + NOT_BEFORE_MAX);
    time.map(Some).ok_or_else(|| Refusal::invalid("NotBefore", expected))
}

fn read_priority(text: &str) -> Result<u8, Refusal> {
    let priority = text.parse().ok().filter(|priority| PRIORITIES.contains(priority));
    priority.ok_or_else(|| Refusal::invalid("Priority", "a number from 1 to 9 is expected"))
}

pub(crate) fn fields(request_id: &str, steered: &[SteeredTask]) -> Value {
    let task = |task: &SteeredTask| json!({ "TaskId": task.id.to_string(), "Urls": task.urls });
    json!({ "RequestId": request_id, "Tasks": { "Task": steered.iter().map(task).collect::<Vec<_>>() } })
}
