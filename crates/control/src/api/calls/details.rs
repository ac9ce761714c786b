//! A prefetch URL by URL, in the vendor's fields.

use std::time::Duration;

use aliyun::{Page, PrefetchDetail, PrefetchedUrl, PreloadJob, PreloadState, PreloadTask, PreloadUrl, TaskStatus};
use model::{Cause, UrlKey};

use super::{skip, time};
use crate::app::{Detail, other_key};
use crate::scheduler::{JobIs, JobState, LineState};

/// The share of one URL in the total: hundredths of a percent.
const STEPS: u64 = 10_000;

pub(super) fn shown(task: u64, detail: Detail) -> PrefetchDetail {
    let running = detail.urls.iter().any(|url| matches!(url.state, LineState::Going(_)));
    let failed = detail.urls.iter().any(|url| matches!(url.state, LineState::Failed(_)));
    let status = match (running, failed) {
        (true, _) => TaskStatus::Refreshing,
        (false, true) => TaskStatus::Failed,
        (false, false) => TaskStatus::Complete,
    };
    let done = |state: &LineState| match state {
        LineState::Going(hundredths) => u64::from(*hundredths),
        LineState::Resident => STEPS,
        LineState::Failed(_) => 0,
    };
    PrefetchDetail {
        task,
        domain: detail.domain,
        created_at: time(detail.created_ms),
        ended_at: detail.ended_ms.filter(|_| !running).map(time),
        status,
        done: detail.urls.iter().map(|url| done(&url.state)).sum(),
        total: detail.urls.len() as u64 * STEPS,
        urls: detail
            .urls
            .into_iter()
            .map(|url| line(url.url, &url.state, &url.failed_at, url.users_key.as_ref()))
            .collect(),
    }
}

fn line(url: String, state: &LineState, failed_at: &str, users_key: Option<&UrlKey>) -> PrefetchedUrl {
    let warning = users_key.map(other_key).unwrap_or_default();
    let (success, origin_status, description) = match state {
        LineState::Going(_) => (None, None, warning),
        LineState::Resident => (Some(true), None, warning),
        LineState::Failed(cause) => {
            let status = if let Cause::OriginStatus(status) = cause { Some(*status) } else { None };
            let place = if failed_at.is_empty() { String::new() } else { format!("{failed_at}: ") };
            (Some(false), status, format!("{place}{cause}"))
        }
    };
    PrefetchedUrl { url, success, origin_status, description }
}

/// A page of a prefetch, with everything known about it.
pub(super) fn whole(task: u64, page: Page, detail: Detail, now_ms: u64) -> PreloadTask {
    let steering = detail.steering;
    let state = match detail.ended_ms {
        _ if steering.cancelled_ms > 0 => PreloadState::Cancelled,
        Some(_) => PreloadState::Ended,
        None if steering.paused_ms > 0 => PreloadState::Paused,
        None if steering.from_ms > now_ms => PreloadState::Waiting,
        None => PreloadState::Running,
    };
    let (skip, size) = (skip(page) as usize, page.size as usize);
    let jobs: Vec<Vec<JobState>> = detail.urls.iter().skip(skip).take(size).map(|url| url.jobs.clone()).collect();
    let steps: Vec<(TaskStatus, u64)> = detail.urls.iter().skip(skip).take(size).map(|url| steps(&url.state)).collect();
    let mut summary = shown(task, detail);
    let total = summary.urls.len() as u64;
    let urls = std::mem::take(&mut summary.urls).into_iter().skip(skip).zip(steps).zip(jobs);
    let url = |((url, (status, done)), jobs): ((PrefetchedUrl, (TaskStatus, u64)), Vec<JobState>)| PreloadUrl {
        url: url.url,
        status,
        done,
        total: STEPS,
        description: url.description,
        jobs: jobs.into_iter().map(job).collect(),
    };
    PreloadTask {
        urls: urls.map(url).collect(),
        summary,
        page,
        total,
        priority: steering.priority,
        state,
        not_before: (steering.from_ms > now_ms).then(|| time(steering.from_ms)),
        paused_since: (steering.paused_ms > 0).then(|| time(steering.paused_ms)),
    }
}

fn steps(state: &LineState) -> (TaskStatus, u64) {
    match state {
        LineState::Going(hundredths) => (TaskStatus::Refreshing, u64::from(*hundredths)),
        LineState::Resident => (TaskStatus::Complete, STEPS),
        LineState::Failed(_) => (TaskStatus::Failed, 0),
    }
}

fn job(job: JobState) -> PreloadJob {
    let bare = PreloadJob { target: job.target, variant: job.variant, ..PreloadJob::default() };
    match job.is {
        JobIs::Open => PreloadJob { status: Some(TaskStatus::Refreshing), ..bare },
        JobIs::UnderWay(bytes, length) => {
            let status = Some(TaskStatus::Refreshing);
            PreloadJob { status, bytes: Some(bytes), length: Some(length), ..bare }
        }
        JobIs::Resident { node, bytes, took_ms } => PreloadJob {
            status: Some(TaskStatus::Complete),
            node: node.map(|node| node.to_string()),
            bytes,
            length: bytes,
            took: took_ms.map(|took_ms| Duration::from_millis(took_ms.into())),
            ..bare
        },
        JobIs::Failed { cause, node, at_ms } => PreloadJob {
            status: Some(TaskStatus::Failed),
            node: node.map(|node| node.to_string()),
            cause: cause.to_string(),
            origin_status: if let Cause::OriginStatus(status) = cause { Some(status) } else { None },
            at: at_ms.map(time),
            ..bare
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::UrlDetail;
    use crate::state::steering::Steering;

    #[test]
    fn task_has_failed_once_it_ended_and_one_url_did() {
        let cases: [(&[LineState], TaskStatus, u64); 4] = [
            (&[LineState::Resident, LineState::Resident], TaskStatus::Complete, 20_000),
            (&[LineState::Resident, LineState::Failed(Cause::OriginStatus(404))], TaskStatus::Failed, 10_000),
            (&[LineState::Going(2_500), LineState::Failed(Cause::OriginTimeout)], TaskStatus::Refreshing, 2_500),
            (&[LineState::Going(0)], TaskStatus::Refreshing, 0),
        ];
        for (states, status, done) in cases {
            let urls = states
                .iter()
                .map(|state| UrlDetail {
                    url: "http://a.com/1".into(),
                    state: state.clone(),
                    failed_at: "cn-1/L2".into(),
                    jobs: Vec::new(),
                    users_key: None,
                })
                .collect();
            let steering = Steering::from(1_000);
            let (domain, created_ms) = ("a.com".to_owned(), 1_000);
            let shown = shown(7, Detail { domain, created_ms, ended_ms: Some(2_000), steering, urls });
            assert_eq!((shown.status, shown.done, shown.urls.len()), (status, done, states.len()), "{states:?}");
            assert_eq!(shown.ended_at.is_some(), status != TaskStatus::Refreshing);
            for (url, state) in shown.urls.iter().zip(states) {
                let failed = matches!(state, LineState::Failed(_));
                assert_eq!(
                    (url.success == Some(false), url.description.starts_with("cn-1/L2: origin")),
                    (failed, failed)
                );
            }
        }
    }
}
