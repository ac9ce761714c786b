//! Reports of nodes about their jobs.

use std::sync::atomic::Ordering;

use model::{Cause, NodeName, Outcome, Report, Revision};
use tokio::time::Instant;

use super::Task;
use crate::state::millis;

/// The most characters of a cause in a node's own words.
const CAUSE_CHARS_MAX: usize = 300;

impl Task {
    /// A job has ended, with whatever outcome.
    pub(super) fn report(&mut self, node: &NodeName, session: u64, report: Report) {
        let now_ms = millis(self.clock.now());
        // A report of work under earlier keys, which was on its way while the job was given out anew: the new lease
        // goes on.
        let (said, of) = (report.begin_after, self.work(report.chunk).map(|work| work.begins_after()));
        if said > Revision::ZERO && of.is_some_and(|of| of != said) {
            return;
        }
        let Some(here) = self.sessions.get_mut(node).filter(|here| here.id == session) else { return };
        let Some(said) = here.leased.remove((report.chunk, report.index)) else { return };
        let counters = self.counters.clone();
        let Some(work) = self.work(report.chunk) else { return };
        match report.outcome {
            Outcome::Resident { bytes, fetched, .. } => {
                // A fetch that took less than a millisecond counts as one: zero means that nothing was fetched.
                let took_ms = if fetched { u32::try_from(report.took_ms.max(1)).unwrap_or(u32::MAX) } else { 0 };
                if work.resident(report.index, node, bytes, took_ms, said) {
                    counters.resident.fetch_add(1, Ordering::Relaxed);
                }
            }
            Outcome::Failed(cause) => {
                if work.failed(report.index, cause, node, Instant::now(), now_ms) {
                    counters.failed.fetch_add(1, Ordering::Relaxed);
                } else {
                    counters.retried.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.note(report.chunk);
    }
}

/// The parts of a report that are used: reports wait by the thousand, and their words are a node's own.
pub(super) fn trimmed(report: Report) -> Report {
    let outcome = match report.outcome {
        Outcome::Failed(cause) => Outcome::Failed(shortened(cause)),
        Outcome::Resident { bytes, checksum, fetched, validator: _ } => {
            Outcome::Resident { bytes, checksum, fetched, validator: None }
        }
    };
    Report { outcome, ..report }
}

/// A cause as it is stored: a node's own words are cut to [`CAUSE_CHARS_MAX`].
fn shortened(mut cause: Cause) -> Cause {
    if let Cause::OriginUnreachable(text) | Cause::NotStorable(text) | Cause::NotPinned(text) | Cause::Store(text) =
        &mut cause
        && let Some((at, _)) = text.char_indices().nth(CAUSE_CHARS_MAX)
    {
        text.truncate(at);
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_node_are_cut_short() {
        let long = Cause::Store("é".repeat(CAUSE_CHARS_MAX + 1));
        assert_eq!(shortened(long), Cause::Store("é".repeat(CAUSE_CHARS_MAX)));
        assert_eq!(shortened(Cause::OriginStatus(500)), Cause::OriginStatus(500));
    }
}
