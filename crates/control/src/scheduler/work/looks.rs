//! The last look at a chunk before it ends: `Complete` means that its objects are there at that moment.
//!
//! An object that a node reported resident may be gone by the time that the last one is: refreshed, evicted by what came
//! after it, or lost with a disk. A chunk for which that is possible asks its nodes once more. Their answer takes a lookup
//! per object; what is gone goes back in line. A job that waits or is leased although its object is resident only looks.

use model::{NodeName, Revision};

use super::{Aims, Work};

/// How often a chunk that would end is looked at once more. At the last look, an object that is gone has failed: a store
/// that is too small, or a domain that is refreshed again and again, would otherwise keep the chunk open until its
/// deadline.
pub(in crate::scheduler) const LOOKS_MAX: u8 = 3;

/// What a node has said of its store: its session, and the number that changes when the store loses something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scheduler) struct Said {
    pub(in crate::scheduler) session: u64,
    pub(in crate::scheduler) lost: u64,
}

impl Work {
    /// Finds the jobs that only look their owners: an object whose owner changed is to be made resident there, and one of
    /// a target without nodes stays as it was reported.
    pub(super) fn line_up_looks(&mut self, aims: &Aims) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|index| {
            let Some(holder) = self.holder(*index) else { return true };
            let Some(owner) = aims.names().get(self.owner_of(*index) as usize) else {
                self.left -= 1;
                return false;
            };
            if holder != owner {
                self.progress.resident[*index as usize] = 0;
                (self.changed, self.looks) = (true, 0);
            }
            true
        });
        self.waiting = waiting;
    }

    /// The node where a job's object is resident.
    pub(super) fn holder(&self, index: u32) -> Option<&NodeName> {
        let at = (*self.progress.resident.get(index as usize)? as usize).checked_sub(1)?;
        self.progress.nodes.get(at)
    }

    /// Notes what the node at `at` had said when it was given a job that made an object resident, or only looked.
    pub(super) fn note_said(&mut self, at: usize, said: Said, was_fetched: bool) {
        // What is fetched may have evicted what was looked at.
        if was_fetched {
            self.looked.clear();
        }
        self.said.resize(self.progress.nodes.len(), None);
        match self.said.get_mut(at) {
            Some(Some(before)) if before.session == said.session => before.lost = before.lost.min(said.lost),
            Some(Some(_)) | None => {}
            Some(nothing) => *nothing = Some(said),
        }
    }

    /// The object of a job is not resident any more. Returns whether it was.
    pub(super) fn is_gone(&mut self, index: u32) -> bool {
        let was_there = self.holder(index).is_some();
        if was_there {
            self.progress.resident[index as usize] = 0;
            self.changed = true;
        }
        was_there
    }

    /// Begins a last look if, since objects became resident, their domain was refreshed (last at `refreshed`) or their
    /// nodes may have lost them: their nodes say whether they still have them. `says` is what a connected node has said by
    /// now. Returns whether there is anything to look at.
    pub(in crate::scheduler) fn look(
        &mut self,
        aims: &Aims,
        refreshed: Revision,
        head: Revision,
        says: impl Fn(&NodeName) -> Option<Said>,
    ) -> bool {
        if self.given_up || self.looks >= LOOKS_MAX {
            return false;
        }
        let now: Vec<Option<Said>> = self.progress.nodes.iter().map(says).collect();
        let of_all = self.unsure || refreshed > self.begin_after;
        let said = |at: usize| (self.said.get(at).copied().flatten(), now.get(at).copied().flatten());
        // A node that is away may come back without its store.
        let is_another_session = |at| match said(at) {
            (Some(before), Some(now)) => before.session != now.session,
            _ => true,
        };
        let may_have_lost = |at| is_another_session(at) || said(at).0 != said(at).1;
        let looked_at = |index: &u32| {
            let at = (*self.progress.resident.get(*index as usize)? as usize).checked_sub(1)?;
            let owner = aims.names().get(self.owner_of(*index) as usize)?;
            ((of_all || may_have_lost(at)) && self.holder(*index) == Some(owner)).then_some(at)
        };
        let jobs = 0..self.progress.resident.len() as u32;
        let doubtful: Vec<(u32, usize)> = jobs.filter_map(|index| Some((index, looked_at(&index)?))).collect();
        // A store that is full loses something all the time: that alone is no reason to look at a node twice, unless
        // something was fetched in between.
        let was_looked_at = |at: usize| self.looked.get(at).copied().unwrap_or_default();
        let is_reason = |(_, at): &(u32, usize)| of_all || !was_looked_at(*at) || is_another_session(*at);
        if !doubtful.iter().any(is_reason) {
            return false;
        }
        self.left += doubtful.len();
        self.looked.resize(now.len(), false);
        for (index, at) in doubtful {
            self.waiting.push_back(index);
            self.looked[at] = true;
        }
        self.said = now;
        self.begin_after(head.max(refreshed));
        self.unsure = false;
        self.looks += 1;
        self.returned = true;
        true
    }

    /// How often it was looked at once more.
    #[cfg(test)]
    pub(in crate::scheduler) fn looks(&self) -> u8 {
        self.looks
    }
}
