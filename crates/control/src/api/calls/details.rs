//! A prefetch URL by URL, as the vendor's field names have it.

use aliyun::{PrefetchDetail, PrefetchedUrl, TaskStatus};
use model::Cause;

use super::time;
use crate::app::Detail;
use crate::scheduler::LineState;

/// What one URL counts towards the whole: hundredths of a percent.
const STEPS: u64 = 10_000;

pub(super) fn shown(task: u64, detail: Detail) -> PrefetchDetail {
    let running = detail.urls.iter().any(|url| matches!(url.state, LineState::Going { .. }));
    let failed = detail.urls.iter().any(|url| matches!(url.state, LineState::Failed(_)));
    let status = match (running, failed) {
        (true, _) => TaskStatus::Refreshing,
        (false, true) => TaskStatus::Failed,
        (false, false) => TaskStatus::Complete,
    };
    let done = |state: &LineState| match state {
        LineState::Going { ended, all } => (*ended as u64 * STEPS).checked_div(*all as u64).unwrap_or(0),
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
        urls: detail.urls.into_iter().map(|url| line(url.url, &url.state, &url.failed_at)).collect(),
    }
}

fn line(url: String, state: &LineState, failed_at: &str) -> PrefetchedUrl {
    let (success, origin_status, description) = match state {
        LineState::Going { .. } => (None, None, String::new()),
        LineState::Resident => (Some(true), None, String::new()),
        LineState::Failed(cause) => {
            let status = if let Cause::OriginStatus(status) = cause { Some(*status) } else { None };
            let place = if failed_at.is_empty() { String::new() } else { format!("{failed_at}: ") };
            (Some(false), status, format!("{place}{cause}"))
        }
    };
    PrefetchedUrl { url, success, origin_status, description }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::UrlDetail;

    #[test]
    fn task_has_failed_once_it_ended_and_one_url_did() {
        let cases: [(&[LineState], TaskStatus, u64); 4] = [
            (&[LineState::Resident, LineState::Resident], TaskStatus::Complete, 20_000),
            (&[LineState::Resident, LineState::Failed(Cause::OriginStatus(404))], TaskStatus::Failed, 10_000),
            (
                &[LineState::Going { ended: 1, all: 4 }, LineState::Failed(Cause::OriginTimeout)],
                TaskStatus::Refreshing,
                2_500,
            ),
            (&[LineState::Going { ended: 0, all: 0 }], TaskStatus::Refreshing, 0),
        ];
        for (states, status, done) in cases {
            let urls = states
                .iter()
                .map(|state| UrlDetail {
                    url: "http://a.com/1".into(),
                    state: state.clone(),
                    failed_at: "cn-1/L2".into(),
                })
                .collect();
            let shown = shown(7, Detail { domain: "a.com".into(), created_ms: 1_000, ended_ms: Some(2_000), urls });
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
