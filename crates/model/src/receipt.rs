//! The receipt of a refresh: on what grounds it was called complete.
//!
//! It is self-contained: checking that every member was past every revision takes no database, only the rule
//! ([`fence::passed`]) that completed the task.
//!
//! # What always holds
//!
//! - The encoded form begins with a line that names the format and its version. These very bytes are signed, so no
//!   canonical JSON is needed.
//! - Times are wall-clock times of the control plane, in milliseconds since 1970; durations are of its monotonic clock.
//!
//! # Not here
//!
//! Signing (the control plane), and what the promise excludes (`docs/guide/complete.md`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fence::{self, MemberView, Passed};
use crate::revision::{LogId, Revision};
use crate::topology::{Isolation, NodeName};

/// The first line of the signed bytes.
const FIRST_LINE: &[u8] = b"warmfront receipt 1\n";

/// The record of a completed refresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The task's id, as users know it.
    pub task: String,
    /// The account it belongs to.
    pub account: String,
    /// Its kind: `file`, `directory`, ...
    pub kind: String,
    /// The log that its revisions belong to.
    pub log: LogId,
    /// When it was accepted.
    pub accepted_ms: u64,
    /// When its last part was complete.
    pub completed_ms: u64,
    /// When this receipt was signed; figures of the sweep are as of then.
    pub issued_ms: u64,
    /// The objects that were refreshed.
    pub objects: Objects,
    /// Its steps: revisions that were found complete together, in log order.
    pub steps: Vec<Step>,
}

/// The objects of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// How many there are.
    pub count: u64,
    /// SHA-256, in hex, of all objects as submitted: one per line in the order of submission, each line ending in `
    /// `.
    pub sha256: String,
    /// The objects themselves if they are few; otherwise empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listed: Vec<String>,
}

/// Revisions that were found complete together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The task's revisions in this step, in rising order.
    pub revisions: Vec<Revision>,
    /// When they were marked complete.
    pub completed_ms: u64,
    /// How long the process that marked them complete had known all of them to be committed.
    pub known_for_ms: u64,
    /// The longest lease that a member could still be using.
    pub lease_ms: u64,
    /// The margin added to the lease.
    pub margin_ms: u64,
    /// The members at that time.
    pub members: Vec<MemberThen>,
    /// Set if so much was swept at once that the amounts are totals for all revisions from the first to the second,
    /// including those of other tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swept_together: Option<(Revision, Revision)>,
}

/// A member at the time a step was complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberThen {
    /// Its name.
    pub node: NodeName,
    /// What it does once its lease has expired.
    pub isolation: Isolation,
    /// The highest revision it had acknowledged; zero if none.
    pub acknowledged: Revision,
    /// When that acknowledgement was in the database; zero if there is none.
    pub acknowledged_ms: u64,
    /// A lower bound of the objects its background sweep has removed from its store since.
    pub swept_objects: u64,
    /// Bytes of their bodies.
    pub swept_bytes: u64,
    /// The revision its sweep has reached; absent if it has not reported one since the control plane started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swept_upto: Option<Revision>,
}

impl Step {
    /// On what grounds `member` was past every revision of this step.
    pub fn passed(&self, member: &MemberThen) -> Passed {
        let last = self.revisions.iter().copied().max().unwrap_or(Revision::ZERO);
        let view = MemberView { acked: member.acknowledged, isolation: member.isolation };
        let millis = Duration::from_millis;
        fence::passed(last, view, millis(self.known_for_ms), millis(self.lease_ms), millis(self.margin_ms))
    }
}

/// Why a receipt does not show that its task was complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inconsistent {
    /// It names no revision.
    #[error("it names no revision")]
    Empty,
    /// A member was not past a revision.
    #[error("node {node} had neither acknowledged revision {revision} nor outlived its lease")]
    Waiting {
        /// The member.
        node: NodeName,
        /// The highest revision of the step.
        revision: Revision,
    },
    /// A member occurs twice in one step.
    #[error("node {0} is named twice")]
    Twice(NodeName),
    /// Two of its own numbers contradict each other.
    #[error("`{0}` contradicts the rest")]
    Contradiction(&'static str),
}

impl Receipt {
    /// Whether every member was past every revision, and the parts are consistent.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let revisions: Vec<Revision> = self.steps.iter().flat_map(|step| step.revisions.iter().copied()).collect();
        if revisions.is_empty() || self.steps.iter().any(|step| step.revisions.is_empty()) {
            return Err(Inconsistent::Empty);
        }
        if !revisions.is_sorted_by(|before, after| before < after) {
            return Err(Inconsistent::Contradiction("revisions"));
        }
        if self.steps.iter().map(|step| step.completed_ms).max() != Some(self.completed_ms) {
            return Err(Inconsistent::Contradiction("completed_ms"));
        }
        if !self.objects.listed.is_empty() && self.objects.listed.len() as u64 != self.objects.count {
            return Err(Inconsistent::Contradiction("objects"));
        }
        for step in &self.steps {
            let mut names = std::collections::BTreeSet::new();
            for member in &step.members {
                if !names.insert(&member.node) {
                    return Err(Inconsistent::Twice(member.node.clone()));
                }
                if step.passed(member) == Passed::Waiting {
                    let revision = step.revisions.iter().copied().max().unwrap_or(Revision::ZERO);
                    return Err(Inconsistent::Waiting { node: member.node.clone(), revision });
                }
            }
        }
        Ok(())
    }

    /// The bytes that are signed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = FIRST_LINE.to_vec();
        serde_json::to_writer(&mut bytes, self).expect("our own types have string keys and no failing serialiser");
        bytes
    }

    /// Decodes what [`Receipt::encode`] wrote; `None` for anything else, including other versions.
    pub fn decode(bytes: &[u8]) -> Option<Receipt> {
        serde_json::from_slice(bytes.strip_prefix(FIRST_LINE)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, isolation: Isolation, acknowledged: u64) -> MemberThen {
        MemberThen {
            node: NodeName::parse(name).unwrap(),
            isolation,
            acknowledged: Revision(acknowledged),
            acknowledged_ms: 5_000,
            swept_objects: 0,
            swept_bytes: 0,
            swept_upto: None,
        }
    }

    fn receipt(known_for_ms: u64, members: Vec<MemberThen>) -> Receipt {
        let step = Step {
            revisions: vec![Revision(7), Revision(9)],
            completed_ms: 6_000,
            known_for_ms,
            lease_ms: 10_000,
            margin_ms: 1_000,
            members,
            swept_together: None,
        };
        Receipt {
            task: "12".into(),
            account: "me".into(),
            kind: "file".into(),
            log: LogId("log".into()),
            accepted_ms: 4_000,
            completed_ms: 6_000,
            issued_ms: 8_000,
            objects: Objects { count: 1, sha256: String::new(), listed: vec!["http://a.com/x".into()] },
            steps: vec![step],
        }
    }

    #[test]
    fn every_member_must_be_past_by_the_rule_that_completes() {
        use Isolation::{Revalidate, Serve};
        let cases = [
            // why, known for, members, good
            ("nobody to wait for", 0, vec![], true),
            ("both acknowledged", 0, vec![member("a", Revalidate, 9), member("b", Serve, 12)], true),
            ("one acknowledged only the first of two", 0, vec![member("a", Revalidate, 8)], false),
            ("its lease ran out", 11_000, vec![member("a", Revalidate, 0)], true),
            ("the margin was not over", 10_999, vec![member("a", Revalidate, 0)], false),
            ("no lease ends who serves in isolation", 99_000, vec![member("a", Serve, 8)], false),
        ];
        for (why, known_for, members, good) in cases {
            assert_eq!(receipt(known_for, members).check().is_ok(), good, "{why}");
        }
    }

    #[test]
    fn parts_that_contradict_each_other_are_noticed() {
        let good = receipt(0, vec![member("a", Isolation::Revalidate, 9)]);
        type Change = fn(&mut Receipt);
        let changes: [(&str, Change); 6] = [
            ("no steps", |receipt| receipt.steps.clear()),
            ("a step without revisions", |receipt| receipt.steps[0].revisions.clear()),
            ("revisions that fall", |receipt| receipt.steps[0].revisions.reverse()),
            ("another completion", |receipt| receipt.completed_ms += 1),
            ("another count", |receipt| receipt.objects.count += 1),
            ("a member twice", |receipt| {
                let again = receipt.steps[0].members[0].clone();
                receipt.steps[0].members.push(again);
            }),
        ];
        assert_eq!(good.check(), Ok(()));
        for (why, change) in changes {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(changed.check().is_err(), "{why}");
        }
    }

    #[test]
    fn encoding_is_read_back_and_other_versions_are_not() {
        let whole = receipt(0, vec![member("a", Isolation::Revalidate, 9)]);
        let bytes = whole.encode();
        assert_eq!(Receipt::decode(&bytes), Some(whole));
        assert_eq!(Receipt::decode(&[b"warmfront receipt 2\n", &bytes[FIRST_LINE.len()..]].concat()), None);
        assert_eq!(Receipt::decode(&bytes[FIRST_LINE.len()..]), None);
        assert_eq!(Receipt::decode(b""), None);
    }
}
