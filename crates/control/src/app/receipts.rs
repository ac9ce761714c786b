//! The verbs about receipts: the steps that completed a task, as one signed value, and the key to check them with.

use std::collections::BTreeMap;

use model::receipt::{MemberThen, Objects, Receipt, Step};
use model::{NodeName, Revision};

use super::{App, CHUNKS_BATCH_MAX, Denied, OUTLINES_BATCH_MAX, Permission, Principal};
use crate::receipt::digest;
use crate::state::chunks::{Chunk, Filter, Kind};
use crate::state::completions::{Amounts, Completion};
use crate::state::millis;

/// The most objects that a receipt lists; for more it has only the count and the digest.
const LISTED_MAX: usize = 100;

impl App {
    /// The receipt of a complete refresh, as a file.
    pub(crate) async fn receipt(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        task: u64,
    ) -> Result<String, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        let chunks = self.chunks_of(principal.account(), task).await?;
        let (Some(first), Some(accepted_ms)) = (chunks.first(), chunks.iter().map(|chunk| chunk.created_ms).min())
        else {
            return Err(Denied::NoTask);
        };
        if first.kind == Kind::Prefetch {
            return Err(Denied::NoReceipt("The task is a prefetch; receipts are made of refreshes."));
        }
        if chunks.iter().any(|chunk| chunk.finished_ms == 0) {
            return Err(Denied::NotComplete);
        }
        // Read before the amounts, so that the amounts include everything reported as swept.
        let swept = self.acknowledged.swept_upto();
        let mut steps: Vec<(Completion, Vec<Revision>)> = Vec::new();
        for chunk in &chunks {
            match steps.last_mut().filter(|(step, _)| chunk.revision <= step.range.1) {
                Some((_, revisions)) => revisions.push(chunk.revision),
                None => {
                    let step = self.state.completion_of(chunk.revision).await?;
                    let step = step.ok_or(Denied::NoReceipt(
                        "The receipt data of the task is not kept: an earlier version completed it, or newer data has replaced it.",
                    ))?;
                    steps.push((step, vec![chunk.revision]));
                }
            }
        }
        let paths = || chunks.iter().flat_map(|chunk| &chunk.paths);
        let count = paths().count();
        let receipt = Receipt {
            task: task.to_string(),
            account: principal.account().to_owned(),
            kind: first.kind.as_str().to_owned(),
            log: self.log.clone(),
            accepted_ms,
            completed_ms: steps.iter().map(|(step, _)| step.completed_ms).max().unwrap_or_default(),
            issued_ms: millis(self.clock.now()),
            objects: Objects {
                count: count as u64,
                sha256: digest(paths().map(String::as_str)),
                listed: if count <= LISTED_MAX { paths().cloned().collect() } else { Vec::new() },
            },
            steps: steps.into_iter().map(|(step, revisions)| told(&step, revisions, &swept)).collect(),
        };
        Ok(self.signer.sign(&receipt))
    }

    /// The public key that receipts are checked with.
    pub(crate) fn receipt_key(&self, principal: &Principal, permission: Permission<'_>) -> Result<String, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on("*")])?;
        Ok(self.signer.public().to_string())
    }

    /// The chunks of a task, in the order they were submitted.
    pub(super) async fn chunks_of(&self, account: &str, task: u64) -> Result<Vec<Chunk>, Denied> {
        let filter = Filter { tasks: vec![task], to_ms: u64::MAX >> 1, ..Filter::default() };
        // A task has at most one chunk for each of its objects, and no more objects than outlines are read at once.
        let outlines = self.state.outlines(account, &filter, None, OUTLINES_BATCH_MAX).await?;
        let mut chunks = Vec::new();
        for some in outlines.chunks(CHUNKS_BATCH_MAX) {
            chunks.extend(self.state.chunks(&some.iter().map(|outline| outline.id).collect::<Vec<_>>()).await?);
        }
        chunks.reverse();
        Ok(chunks)
    }
}

/// A step in the form of a receipt.
fn told(step: &Completion, revisions: Vec<Revision>, swept: &BTreeMap<NodeName, Revision>) -> Step {
    let members = step.members.iter().enumerate().map(|(at, member)| {
        let (swept_objects, swept_bytes) = match &step.swept {
            Amounts::Together(together) => together.get(&at).copied().unwrap_or_default(),
            Amounts::Each(each) => revisions
                .iter()
                .filter_map(|revision| each.get(&(*revision, at)))
                .fold((0, 0), |sum, amount| (sum.0 + amount.0, sum.1 + amount.1)),
        };
        MemberThen {
            node: member.node.clone(),
            isolation: member.isolation,
            acknowledged: member.acked,
            acknowledged_ms: member.acked_ms,
            swept_objects,
            swept_bytes,
            swept_upto: swept.get(&member.node).copied(),
        }
    });
    Step {
        completed_ms: step.completed_ms,
        known_for_ms: step.known_for_ms,
        lease_ms: step.lease_ms,
        margin_ms: step.margin_ms,
        members: members.collect(),
        swept_together: matches!(step.swept, Amounts::Together(_)).then_some(step.range),
        revisions,
    }
}
