//! The state of single objects, derived from a chunk's stored progress for task queries. No live work is read here.

use model::{Cause, NodeName};

use crate::state::chunks::{Chunk, Progress};

/// Complete, in hundredths of a percent; an object that is not complete is never shown above [`ALMOST`].
const WHOLE: u64 = 10_000;
const ALMOST: u64 = 9_900;

/// The state of one object of a chunk, over all its jobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LineState {
    /// Some jobs have not ended; progress in hundredths of a percent, at most [`ALMOST`].
    Going(u16),
    /// Resident on every target.
    Resident,
    /// Failed on some target, for this reason.
    Failed(Cause),
}

/// The state of the object at `path` by the chunk's progress.
pub(crate) fn line_state(chunk: &Chunk, path: usize) -> LineState {
    let paths = chunk.paths.len();
    let progress = &chunk.progress;
    let indexes = || (path..progress.resident.len()).step_by(paths.max(1));
    let all = indexes().count();
    let failed = indexes().find_map(|index| progress.failed.get(&(index as u32)));
    let ended = indexes()
        .filter(|index| progress.resident[*index] > 0 || progress.failed.contains_key(&(*index as u32)))
        .count();
    match failed {
        Some(cause) if ended == all || chunk.finished_ms > 0 => LineState::Failed(cause.clone()),
        // Jobs that had not ended when it was cancelled never will.
        _ if chunk.steering.cancelled_ms > 0 && (all == 0 || ended < all) => LineState::Failed(Cause::Cancelled),
        // What is read here is in the database: a complete line need not wait for the rest of its chunk.
        _ if chunk.finished_ms > 0 || (all > 0 && ended == all) => LineState::Resident,
        _ => LineState::Going(hundredths(progress, paths, chunk.params.variants.len(), path)),
    }
}

/// How far the object at `path` of `paths` is, in hundredths of a percent: by bytes if the lengths for all its jobs are
/// known, else by jobs, of which one under way counts in part. Never less than was shown before. A length is known if
/// the same variant is resident or under way for any target.
pub(super) fn hundredths(progress: &Progress, paths: usize, variants: usize, path: usize) -> u16 {
    let (paths, variants) = (paths.max(1), variants.max(1));
    let indexes = || (path..progress.resident.len()).step_by(paths).zip((0..variants).cycle());
    let job_of = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    let mut lengths: Vec<Option<u64>> = vec![None; variants];
    for (index, variant) in indexes() {
        let length = match progress.resident[index] {
            0 => progress.under_way.get(&job_of(index)).map(|(_, length)| *length),
            _ => progress.fetched.get(index).map(|(bytes, _)| *bytes),
        };
        lengths[variant] = lengths[variant].or(length);
    }
    let (mut all, mut steps, mut came, mut whole, mut known) = (0_u64, 0_u64, 0_u64, 0_u64, true);
    for (index, variant) in indexes() {
        let length = lengths[variant];
        let ended = progress.resident[index] > 0 || progress.failed.contains_key(&job_of(index));
        let got = match progress.under_way.get(&job_of(index)) {
            _ if ended => length,
            Some((got, of)) => Some(*got.min(of)),
            None => Some(0),
        };
        all += 1;
        steps += match (ended, got, length) {
            (true, ..) => WHOLE,
            (false, Some(got), Some(length @ 1..)) => got.min(length).saturating_mul(WHOLE) / length,
            (false, ..) => 0,
        };
        known &= length.is_some();
        came = came.saturating_add(got.unwrap_or_default());
        whole = whole.saturating_add(length.unwrap_or_default());
    }
    let now = match (known, whole) {
        (true, 1..) => u128::from(came) * u128::from(WHOLE) / u128::from(whole),
        _ => u128::from(steps / all.max(1)),
    };
    let before = progress.shown.get(path).copied().unwrap_or_default();
    before.max(now.min(u128::from(ALMOST)) as u16)
}

/// One job of an object, for display.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobState {
    /// The tier of a POP, as `POP/TIER`.
    pub(crate) target: String,
    /// Which of the variants.
    pub(crate) variant: usize,
    /// Its state.
    pub(crate) is: JobIs,
}

/// The state of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JobIs {
    /// No report has come.
    Open,
    /// Bytes received, and bytes announced.
    UnderWay(u64, u64),
    /// The node that has it; the bytes, if recorded, and the milliseconds that its fetch took, if it was fetched.
    Resident {
        /// The node that has it.
        node: Option<NodeName>,
        /// How many bytes.
        bytes: Option<u64>,
        /// How long the fetch took.
        took_ms: Option<u32>,
    },
    /// Why it failed; which node reported it, and when, in milliseconds since 1970, if recorded.
    Failed {
        /// Why.
        cause: Cause,
        /// The node that reported it.
        node: Option<NodeName>,
        /// When.
        at_ms: Option<u64>,
    },
}

/// The jobs of the object at `path`, target by target.
pub(crate) fn jobs_of(chunk: &Chunk, path: usize) -> Vec<JobState> {
    let (progress, paths) = (&chunk.progress, chunk.paths.len().max(1));
    let variants = chunk.params.variants.len().max(1);
    let named = |names: &[NodeName], at: u32| names.get((at as usize).checked_sub(1)?).cloned();
    let job = |index: usize| {
        let job = u32::try_from(index).unwrap_or(u32::MAX);
        let is = match (progress.failed.get(&job), progress.resident[index], progress.under_way.get(&job)) {
            (Some(cause), ..) => {
                let at = progress.failed_at.get(&job);
                let node = at.and_then(|(by, _)| named(&progress.told_by, *by));
                JobIs::Failed { cause: cause.clone(), node, at_ms: at.map(|(_, at_ms)| *at_ms) }
            }
            (None, 0, Some((got, of))) => JobIs::UnderWay(*got, *of),
            (None, 0, None) if chunk.steering.cancelled_ms > 0 => {
                JobIs::Failed { cause: Cause::Cancelled, node: None, at_ms: Some(chunk.steering.cancelled_ms) }
            }
            (None, 0, None) => JobIs::Open,
            (None, holder, _) => {
                let fetched = progress.fetched.get(index);
                JobIs::Resident {
                    node: named(&progress.nodes, holder),
                    bytes: fetched.map(|(bytes, _)| *bytes),
                    took_ms: fetched.map(|(_, took_ms)| *took_ms).filter(|took_ms| *took_ms > 0),
                }
            }
        };
        let target = progress.targets.get(index / (paths * variants)).cloned().unwrap_or_default();
        JobState { target, variant: index / paths % variants, is }
    };
    (path..progress.resident.len()).step_by(paths).map(job).collect()
}

/// Where and why the object at `path` failed first: the tier of a POP, as `POP/TIER`, and the cause.
pub(crate) fn first_failure(chunk: &Chunk, path: usize) -> Option<(&str, &Cause)> {
    let progress = &chunk.progress;
    let per_target = chunk.paths.len().max(1) * chunk.params.variants.len().max(1);
    let indexes = (path..progress.resident.len()).step_by(chunk.paths.len().max(1));
    indexes.filter_map(|index| Some((index, progress.failed.get(&(index as u32))?))).next().map(|(index, cause)| {
        let target = progress.targets.get(index / per_target).map(String::as_str).unwrap_or_default();
        (target, cause)
    })
}

#[cfg(test)]
mod tests;
