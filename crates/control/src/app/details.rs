//! The verb that shows a prefetch URL by URL, with where and why each failed.

use model::UrlKey;

use super::{App, Denied, Permission, Principal};
use crate::known::Known;
use crate::scheduler::{JobState, LineState, first_failure, jobs_of, key_of, line_state};
use crate::state::chunks::{Chunk, Kind};
use crate::state::steering::Steering;

/// A prefetch, URL by URL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Detail {
    /// The domain of its URLs; a task has one.
    pub(crate) domain: String,
    /// When it was submitted, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// When it ended; `None` while it has not.
    pub(crate) ended_ms: Option<u64>,
    /// The steering of its open part, or of its first chunk if nothing is open.
    pub(crate) steering: Steering,
    /// Its URLs, in the order of submission, at least one.
    pub(crate) urls: Vec<UrlDetail>,
}

/// One URL of a prefetch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UrlDetail {
    /// With scheme.
    pub(crate) url: String,
    /// Its progress.
    pub(crate) state: LineState,
    /// The tier of a POP where it failed first; empty if it did not fail.
    pub(crate) failed_at: String,
    /// Its jobs, one per target and variant; none before its targets are known.
    pub(crate) jobs: Vec<JobState>,
    /// The key of users' requests for it, if the object is stored under another.
    pub(crate) users_key: Option<UrlKey>,
}

impl App {
    /// A prefetch of the account; `None` if it has none with this id.
    pub(crate) async fn detail(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        task: u64,
    ) -> Result<Option<Detail>, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        let mut chunks = self.chunks_of(principal.account(), task).await?;
        chunks.retain(|chunk| chunk.kind == Kind::Prefetch);
        chunks.sort_unstable_by_key(|chunk| chunk.id);
        let (Some(first), Some(created_ms)) = (chunks.first(), chunks.iter().map(|chunk| chunk.created_ms).min())
        else {
            return Ok(None);
        };
        let known = self.following.now();
        let ended = chunks.iter().all(|chunk| chunk.finished_ms > 0);
        let last = chunks.iter().map(|chunk| chunk.finished_ms).max();
        Ok(Some(Detail {
            domain: first.domain.to_string(),
            created_ms,
            ended_ms: last.filter(|_| ended),
            steering: chunks.iter().find(|chunk| chunk.finished_ms == 0).unwrap_or(first).steering,
            urls: chunks.iter().flat_map(|chunk| urls(chunk, &known)).collect(),
        }))
    }
}

/// The key of users' requests for a URL, by the present functions, if a prefetch stores it under another.
fn users_key(chunk: &Chunk, url: &str, known: &Known) -> Option<UrlKey> {
    let url = key_of(url).filter(|_| chunk.params.verbatim)?;
    let key = known.knowledge.domain_for(url.host())?.functions.key(&url);
    (key != url).then_some(key)
}

fn urls(chunk: &Chunk, known: &Known) -> impl Iterator<Item = UrlDetail> {
    chunk.paths.iter().enumerate().map(move |(at, url)| {
        let state = line_state(chunk, at);
        let failed_at = match (&state, first_failure(chunk, at)) {
            // Without targets there is no place to name.
            (LineState::Failed(_), Some((target, _))) if target != "-" => target.to_owned(),
            _ => String::new(),
        };
        let users_key = users_key(chunk, url, known);
        UrlDetail { url: url.clone(), state, failed_at, jobs: jobs_of(chunk, at), users_key }
    })
}
