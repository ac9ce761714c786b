//! Audit records that go through the accepting task: accepted submissions, refused calls, and the outcomes of other
//! calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::audit::{self, Record};
use super::super::{StateError, Writing};
use super::MINUTE_MS;

/// Refused calls of one account that are recorded within a minute, so that failing calls cannot displace the records of
/// others.
const REFUSED_PER_MINUTE_MAX: u64 = 600;

/// Accounts whose refused calls are counted; above this number, counts of past minutes are dropped.
const COUNTED_MAX: usize = 10_000;

/// A record or outcome for the audit log that no submission carries.
#[derive(Clone, Debug)]
pub enum Note {
    /// A call that was refused.
    Refused(Box<Record>),
    /// The outcome of a call whose record was begun with its nonce.
    Ended {
        /// The number of the record.
        id: u64,
        /// [`audit::OK`] or a code.
        outcome: String,
        /// When, in milliseconds since 1970.
        at_ms: u64,
    },
}

/// How many calls of each account were refused in its last minute. Clones share the counts.
#[derive(Clone, Default)]
pub(super) struct RefusedCounts(Arc<Mutex<BTreeMap<String, (u64, u64)>>>);

impl RefusedCounts {
    /// Counts a refused call; returns whether this minute still has room for its record.
    pub(super) fn take(&self, record: &Record) -> bool {
        let minute = record.at_ms / MINUTE_MS;
        let mut counts = self.0.lock().expect("no holder of this lock can panic");
        if counts.len() >= COUNTED_MAX {
            counts.retain(|_, (of, _)| *of == minute);
        }
        let (of, count) = counts.entry(record.account.clone()).or_insert((minute, 0));
        if *of != minute {
            (*of, *count) = (minute, 0);
        }
        *count += 1;
        *count <= REFUSED_PER_MINUTE_MAX
    }
}

/// Task ids that a record lists.
const TASKS_TOLD_MAX: usize = 100;

/// The record of an accepted submission, with the tasks that it became.
pub(super) fn accepted(record: &Record, tasks: &[u64]) -> Record {
    let mut record = Record { outcome: audit::OK.to_owned(), ..record.clone() };
    let told: Vec<String> = tasks.iter().take(TASKS_TOLD_MAX).map(u64::to_string).collect();
    record.detail.insert("TaskIds".to_owned(), told.join(","));
    if tasks.len() > TASKS_TOLD_MAX {
        record.detail.insert("MoreTaskIds".to_owned(), (tasks.len() - TASKS_TOLD_MAX).to_string());
    }
    record
}

/// Writes records of accepted and refused calls, and the outcomes of other calls.
pub(super) async fn write(writing: &mut Writing, accepted: &[Record], notes: &[Note]) -> Result<(), StateError> {
    let refused = notes.iter().filter_map(|note| if let Note::Refused(record) = note { Some(&**record) } else { None });
    let records: Vec<&Record> = accepted.iter().chain(refused).collect();
    if !records.is_empty() {
        audit::insert(writing, &records).await?;
    }
    for note in notes {
        if let Note::Ended { id, outcome, at_ms } = note {
            audit::end(writing, *id, outcome, *at_ms).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_calls_are_recorded_up_to_a_number_a_minute_and_account() {
        let counts = RefusedCounts::default();
        let of = |account: &str, at_ms| Record { account: account.into(), at_ms, ..Record::default() };
        let taken = (0..REFUSED_PER_MINUTE_MAX + 5).filter(|_| counts.take(&of("me", 120_000))).count() as u64;
        assert_eq!(taken, REFUSED_PER_MINUTE_MAX);
        assert!(counts.take(&of("you", 120_000)), "another account has its own");
        assert!(!counts.take(&of("me", 179_999)) && counts.take(&of("me", 180_000)), "until the minute is over");
    }

    #[test]
    fn record_of_what_was_accepted_tells_its_tasks_within_a_bound() {
        let record = accepted(&Record::default(), &[7, 8]);
        assert_eq!((record.outcome.as_str(), record.detail["TaskIds"].as_str()), ("OK", "7,8"));
        let many = accepted(&Record::default(), &(0..1_000).collect::<Vec<_>>());
        assert_eq!((many.detail["TaskIds"].split(',').count(), many.detail["MoreTaskIds"].as_str()), (100, "900"));
    }
}
