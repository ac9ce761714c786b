//! The verb that shows a prefetch URL by URL, with exactly why and where one failed.

use super::{App, Denied, Permission, Principal};
use crate::scheduler::{LineState, first_failure, line_state};
use crate::state::chunks::{Chunk, Kind};

/// A prefetch, URL by URL.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Detail {
    /// The domain of its URLs: a task has one.
    pub(crate) domain: String,
    /// When it was submitted, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// When it ended; `None` while it has not.
    pub(crate) ended_ms: Option<u64>,
    /// Its URLs, in the order of submission, at least one.
    pub(crate) urls: Vec<UrlDetail>,
}

/// One URL of a prefetch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UrlDetail {
    /// With scheme.
    pub(crate) url: String,
    /// How far it is.
    pub(crate) state: LineState,
    /// In which tier of which POP it failed first; empty where it did not.
    pub(crate) failed_at: String,
}

impl App {
    /// A prefetch of the account; `None` when it has none of that id.
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
        let ended = chunks.iter().all(|chunk| chunk.finished_ms > 0);
        let last = chunks.iter().map(|chunk| chunk.finished_ms).max();
        Ok(Some(Detail {
            domain: first.domain.to_string(),
            created_ms,
            ended_ms: last.filter(|_| ended),
            urls: chunks.iter().flat_map(urls).collect(),
        }))
    }
}

fn urls(chunk: &Chunk) -> impl Iterator<Item = UrlDetail> {
    chunk.paths.iter().enumerate().map(move |(at, url)| {
        let state = line_state(chunk, at);
        let failed_at = match (&state, first_failure(chunk, at)) {
            // Aimed at nobody: there is no place to name.
            (LineState::Failed(_), Some((target, _))) if target != "-" => target.to_owned(),
            _ => String::new(),
        };
        UrlDetail { url: url.clone(), state, failed_at }
    })
}
