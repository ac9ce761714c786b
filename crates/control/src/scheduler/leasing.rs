//! What the scheduler gives out: jobs in turns between accounts, to whoever owns their objects and can take some.

use std::collections::{BTreeMap, BTreeSet};

use model::{Job, NodeName};

use super::work::Turn;
use super::{Order, Task};

impl Task {
    /// Gives out jobs in turns, as long as somebody can take one.
    pub(super) fn lease(&mut self) {
        if std::mem::take(&mut self.unlined) {
            for queue in self.accounts.values_mut() {
                queue.line_up_all(&self.aims, &self.room, &self.leaving);
            }
        }
        let mut turn = Turn::new(&self.aims, &self.room);
        // Every account in turn, beginning behind the one whose turn was last.
        let waiting = self.accounts.iter().filter(|(_, queue)| queue.can_lease(&turn));
        let mut names: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        // A turn that was cut short goes on: else whoever comes last in a full node's day would get less every time.
        let (last, mut rest) = self.last_turn.clone();
        names.sort_by_key(|name| if rest > 0 { *name < last } else { *name <= last });
        loop {
            let before = turn.count();
            for name in &names {
                let Some(queue) = self.accounts.get_mut(name) else { continue };
                let turn_max = match std::mem::take(&mut rest) {
                    rest if rest > 0 && *name == last => rest,
                    _ => self.bounds.turn,
                };
                let count = queue.lease(turn_max, &mut turn);
                if count > 0 {
                    self.last_turn = (name.clone(), if queue.waits() { turn_max - count } else { 0 });
                }
            }
            if turn.count() == before {
                break;
            }
        }
        let given = turn.given();
        self.send(given);
    }

    fn send(&mut self, given: Vec<(u32, Job)>) {
        let mut orders: BTreeMap<NodeName, Vec<Job>> = BTreeMap::new();
        let mut by_number: BTreeMap<u32, Vec<Job>> = BTreeMap::new();
        for (number, job) in given {
            by_number.entry(number).or_default().push(job);
        }
        for (number, jobs) in by_number {
            let Some(node) = self.aims.names().get(number as usize) else { continue };
            if let Some(room) = self.room.get_mut(node) {
                *room = room.saturating_sub(jobs.len());
            }
            orders.insert(node.clone(), jobs);
        }
        let mut returned = Vec::new();
        let mut chunks = BTreeSet::new();
        for (node, jobs) in orders {
            let Some(session) = self.sessions.get_mut(&node) else { continue };
            let names: Vec<(u64, u32)> = jobs.iter().map(|job| (job.chunk, job.index)).collect();
            chunks.extend(names.iter().map(|(chunk, _)| *chunk));
            let sent = session.untold.is_empty() && session.orders.try_send(Order::Jobs(jobs)).is_ok();
            match sent {
                true => session.leased.extend(names),
                // The session is slow or about to end: the jobs go back in line, and it is left alone until the next tick.
                false => {
                    returned.extend(names);
                    self.room.insert(node, 0);
                }
            }
        }
        self.hand_back(returned);
        for chunk in chunks {
            self.note(chunk);
        }
    }
}
