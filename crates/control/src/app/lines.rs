//! The verb that shows tasks line by line.

use std::collections::BTreeMap;

use model::{Revision, UrlKey};

use super::{App, CHUNKS_BATCH_MAX, Denied, OUTLINES_BATCH_MAX, Permission, Principal};
use crate::completion::Waiting;
use crate::known::Known;
use crate::scheduler::{LineState, key_of, line_state};
use crate::state::chunks::{Chunk, Filter, Kind, Outline};

/// The most chunks that one query searches for lines of a certain path or state.
pub(super) const CHUNKS_SEARCHED_MAX: usize = 20_000;

/// The state of one line, as users see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    /// The task's id.
    pub(crate) task: u64,
    /// As submitted, with scheme.
    pub(crate) path: String,
    /// What is done.
    pub(crate) kind: Kind,
    /// When it was submitted, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// Its progress.
    pub(crate) progress: Progress,
}

/// The progress of a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    /// In progress: hundredths of a percent done, below 10,000.
    Refreshing(u32),
    /// Done.
    Complete,
    /// It will not be done, for this reason.
    Failed(model::Cause),
}

/// Which lines to return.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LineFilter {
    /// Which chunks.
    pub(crate) chunks: Filter,
    /// Only lines of objects on this host.
    pub(crate) host: Option<String>,
    /// Only lines of this object.
    pub(crate) key: Option<UrlKey>,
    /// Only lines in this state.
    pub(crate) status: Option<Status>,
}

/// States without their details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// See [`Progress::Refreshing`].
    Refreshing,
    /// See [`Progress::Complete`].
    Complete,
    /// See [`Progress::Failed`].
    Failed,
}

/// A page of lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    /// The lines, the newest task first.
    pub(crate) lines: Vec<Line>,
    /// The number of lines on all pages. When a search hits its bound, those found so far.
    pub(crate) total: u64,
    /// Incomplete refreshes on this page, by task, each with the highest revision it waits for.
    pub(crate) open: BTreeMap<u64, Revision>,
}

impl App {
    /// Lines of tasks, newest task first: the page of `size` lines after the first `skip`.
    pub(crate) async fn lines(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        filter: &LineFilter,
        skip: u64,
        size: usize,
    ) -> Result<Page, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on(filter.host.as_deref().unwrap_or("*"))])?;
        let known = self.following.now();
        let mut chunks_filter = filter.chunks.clone();
        // A wildcard domain is named by its own name, which is not a host.
        chunks_filter.domain = filter.host.as_deref().and_then(|host| match host.starts_with('.') {
            true => Some(host.to_owned()),
            false => known.knowledge.domain_for(host).map(|domain| domain.name.to_string()),
        });
        // All lines of a domain that is not a wildcard have one host.
        let by_host = filter.host.as_deref() != chunks_filter.domain.as_deref();
        let within = by_host || filter.key.is_some() || filter.status.is_some();
        let mut page = Page { lines: Vec::new(), total: 0, open: BTreeMap::new() };
        match filter.status {
            Some(Status::Refreshing) => chunks_filter.open = true,
            // Refreshes do not fail.
            Some(Status::Failed) => {
                let kinds = std::mem::replace(&mut chunks_filter.kinds, vec![Kind::Prefetch]);
                if !kinds.is_empty() && !kinds.contains(&Kind::Prefetch) {
                    return Ok(page);
                }
            }
            Some(Status::Complete) | None => {}
        }
        let mut searched = 0;
        let mut before = None;
        loop {
            // Each chunk has at least one line.
            let lacking = skip.saturating_add(size as u64).saturating_sub(page.total);
            let most = if within {
                OUTLINES_BATCH_MAX
            } else {
                OUTLINES_BATCH_MAX.min(u32::try_from(lacking).unwrap_or(u32::MAX))
            };
            let outlines = self.state.outlines(principal.account(), &chunks_filter, before, most).await?;
            let Some(last) = outlines.last() else { break };
            before = Some(*last);
            for some in outlines.chunks(CHUNKS_BATCH_MAX) {
                // A chunk wholly before or behind the page is not read, unless lines within chunks are filtered.
                let wanted =
                    |outline: &&Outline, at: u64| within || (at + outline.lines > skip && at < skip + size as u64);
                let mut at = page.total;
                let mut ids = Vec::new();
                for outline in some {
                    if wanted(&outline, at) {
                        ids.push(outline.id);
                    }
                    at += outline.lines;
                }
                if let Some(key) = &filter.key {
                    ids = self.with_object(&ids, key).await?;
                }
                let chunks = self.state.chunks(&ids).await?;
                for outline in some {
                    match chunks.iter().find(|chunk| chunk.id == outline.id) {
                        Some(chunk) => self.pick(&known, chunk, filter, skip, size, &mut page),
                        None if within => {}
                        None => page.total += outline.lines,
                    }
                }
            }
            searched += outlines.len();
            let is_filled = page.total >= skip + size as u64;
            if outlines.len() < most as usize || (within && searched >= CHUNKS_SEARCHED_MAX) {
                break;
            }
            if !within && is_filled {
                page.total = self.state.count_lines(principal.account(), &chunks_filter).await?;
                break;
            }
        }
        Ok(page)
    }

    /// Those of these chunks that contain an object. Reads only paths: progress takes much more room.
    async fn with_object(&self, ids: &[u64], key: &UrlKey) -> Result<Vec<u64>, Denied> {
        let paths = self.state.paths(ids).await?;
        let has = |paths: &[String]| paths.iter().any(|path| key_of(path).as_ref() == Some(key));
        Ok(paths.into_iter().filter(|(_, paths)| has(paths)).map(|(id, _)| id).collect())
    }

    fn pick(&self, known: &Known, chunk: &Chunk, filter: &LineFilter, skip: u64, size: usize, page: &mut Page) {
        // All lines of a refresh have the same progress. It is computed once, since that looks at every member.
        let of_refresh = (chunk.kind != Kind::Prefetch).then(|| self.progress_of_refresh(known, chunk));
        for (at, path) in chunk.paths.iter().enumerate() {
            let key = if filter.host.is_some() || filter.key.is_some() { key_of(path) } else { None };
            let host = key.as_ref().map(UrlKey::host);
            // A wildcard domain was already selected by chunk.
            let wanted = filter.host.as_deref().filter(|host| !host.starts_with('.'));
            if (wanted.is_some() && wanted != host) || (filter.key.is_some() && filter.key != key) {
                continue;
            }
            let progress = of_refresh.clone().unwrap_or_else(|| progress_of_prefetch(chunk, at));
            let status = match progress {
                Progress::Refreshing(_) => Status::Refreshing,
                Progress::Complete => Status::Complete,
                Progress::Failed(_) => Status::Failed,
            };
            if filter.status.is_some_and(|wanted| wanted != status) {
                continue;
            }
            if page.total >= skip && page.lines.len() < size {
                let (task, kind, created_ms) = (chunk.task, chunk.kind, chunk.created_ms);
                if of_refresh.is_some() && status == Status::Refreshing {
                    let highest = page.open.entry(task).or_default();
                    *highest = (*highest).max(chunk.revision);
                }
                page.lines.push(Line { task, path: path.clone(), kind, created_ms, progress });
            }
            page.total += 1;
        }
    }

    fn progress_of_refresh(&self, known: &Known, chunk: &Chunk) -> Progress {
        if chunk.finished_ms > 0 {
            return Progress::Complete;
        }
        let (past, all) = self.acknowledged.share(known, chunk.revision);
        Progress::Refreshing(hundredths(past, all))
    }

    /// The members that a revision waits for now.
    pub(crate) fn waiting(&self, revision: Revision) -> Waiting {
        self.acknowledged.waiting(&self.following.now(), revision, self.clock.moment())
    }
}

fn progress_of_prefetch(chunk: &Chunk, at: usize) -> Progress {
    match line_state(chunk, at) {
        LineState::Going(hundredths) => Progress::Refreshing(u32::from(hundredths)),
        LineState::Resident => Progress::Complete,
        LineState::Failed(cause) => Progress::Failed(cause),
    }
}

/// `part` of `whole` in hundredths of a percent, at most 9,900: only the task itself says when all is done.
pub(super) fn hundredths(part: usize, whole: usize) -> u32 {
    let share = (part as u64 * 10_000).checked_div(whole as u64).unwrap_or(0);
    share.min(9_900) as u32
}
