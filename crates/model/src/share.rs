//! Who may use how much of what several nodes share: one row each, and what a node that asks is answered.
//!
//! What is shared has a total. Of a domain's caps it is what its owner set. Of an origin nobody set it: one of the nodes that ask it
//! *feels* it for all, by how soon it is answered. That node may use what it feels less what others may; it hears of more for the
//! others first, and they get it once it has confirmed that it leaves it to them.
//!
//! # What always holds
//!
//! - What nodes may use, by any grant that may be in force with one of them, adds up to the total at most; of an origin, what others
//!   may use adds up to what the one who feels leaves to them. A grant that was sent counts until the node has confirmed a later one,
//!   or its lease is over; what it has under way counts too.
//! - Users' requests come first, then everybody gets the same, and nobody more than he wants.
//! - At most [`NODES_MAX`] nodes share one thing; one more gets nothing.
//!
//! # Not here
//!
//! Clocks: whoever calls says whose lease is over. Where rows lie, and who speaks with whom: `control` and `node`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topology::NodeName;

/// Nodes that share one thing.
pub const NODES_MAX: usize = 256;

/// How long an origin is left alone at most, whatever the row says: it is a time of a wall clock, which may have been set back since.
const CLOSED_MAX_MS: u64 = 600_000;

/// Reports in a row in which the one who feels wants no more than it has or has no users, while another does, until another is to feel.
const EASY_MAX: u8 = 8;

/// One thing that is shared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Numbers grants: it rises.
    number: u64,
    /// Of an origin: what was felt last, requests at a time.
    limit: f64,
    /// Who feels.
    feels: Option<NodeName>,
    /// Who felt and does not know yet that it no longer does: until then nobody else is to.
    leaving: Option<NodeName>,
    /// Until when no prefetch asks it, in milliseconds since 1970.
    closed_until_ms: u64,
    /// Somebody else than the one who feels was failed, and that one was not told yet.
    failed: bool,
    nodes: BTreeMap<NodeName, Held>,
}

/// What one node may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Held {
    /// Rises with each report: by this, others see that it lives.
    renewed: u64,
    /// The number of the newest grant.
    number: u64,
    /// The newest grant: what it may use, or what others may where it feels.
    granted: u64,
    /// The most that it may use by any grant that may be in force, or has under way.
    may: u64,
    /// The least that it leaves to others by any grant to feel that may be in force.
    leaves: Option<u64>,
    users: u64,
    wanted: u64,
    /// Reports in a row in which it felt, and wanted no more than it had or had no users.
    easy: u8,
}

impl Held {
    /// The most that it may use.
    fn most(&self, total: u64) -> u64 {
        self.may.max(self.leaves.map_or(0, |leaves| total.saturating_sub(leaves)))
    }
}

/// What a node says of one thing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// As much as it could use, users included; zero gives back what it has.
    pub wanted: u64,
    /// What of it users take, who are not held back.
    pub users: u64,
    /// What it has under way.
    pub used: u64,
    /// The number of the newest grant it has heard, whether that is over or not.
    pub heard: u64,
    /// What it may use now, by a lease that is not over; where it feels, what it leaves to others.
    pub granted: u64,
    /// It feels, by a lease that is not over.
    pub feels: bool,
    /// What it feels or would begin with; of a cap what it knows to be set.
    pub limit: f64,
    /// It was failed since it last reported.
    pub failed: bool,
    /// How long the origin is to be left alone, in milliseconds; it said so to this node.
    pub closed_ms: u64,
}

/// What a node may use from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Its number, to be said again.
    pub number: u64,
    /// What it may use, or what others may where it feels.
    pub granted: u64,
    /// It is to feel.
    pub feels: bool,
    /// Of one who feels: what of it others have already; the rest they are yet to hear of.
    pub taken: u64,
    /// Of an origin: where to begin to feel.
    pub limit: f64,
    /// Of one who feels: another was failed.
    pub failed: bool,
    /// How long no prefetch is to ask, in milliseconds.
    pub closed_ms: u64,
}

/// What is shared, as far as it is not in the row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Total {
    /// It is felt.
    Felt,
    /// It is set.
    Set(u64),
}

impl Row {
    /// Who is in it, and how often each has renewed.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, u64)> {
        self.nodes.iter().map(|(node, held)| (node, held.renewed))
    }

    /// Whether there is anything to remember.
    pub fn is_empty(&self, now_ms: u64) -> bool {
        self.nodes.is_empty() && self.closed_until_ms <= now_ms
    }

    /// Takes out a node whose lease is over.
    pub fn remove(&mut self, node: &NodeName) {
        self.nodes.remove(node);
        for one in [&mut self.feels, &mut self.leaving] {
            one.take_if(|one| one == node);
        }
    }

    fn total(&self, total: Total) -> u64 {
        match total {
            Total::Felt => self.limit.clamp(1.0, 1e9) as u64,
            Total::Set(total) => total,
        }
    }

    /// What all but one may use.
    fn most_of_others(&self, node: &NodeName, total: u64) -> u64 {
        let others = self.nodes.iter().filter(|(other, _)| *other != node);
        others.map(|(_, held)| held.most(total)).sum()
    }

    /// Takes what a node says, and answers it. `turn` rises now and then: who is first where there is not enough for all.
    pub fn step(&mut self, node: &NodeName, want: &Want, total: Total, turn: u64, now_ms: u64) -> Grant {
        let closed_until_ms = self.closed_until_ms.max(now_ms.saturating_add(want.closed_ms));
        self.closed_until_ms = closed_until_ms.min(now_ms.saturating_add(CLOSED_MAX_MS));
        if want.closed_ms == 0 && self.closed_until_ms <= now_ms {
            self.closed_until_ms = 0;
        }
        self.number += 1;
        if want.wanted == 0 || (self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(node)) {
            self.remove(node);
            return self.grant(0, false, now_ms);
        }
        let felt = self.feels.as_ref() == Some(node);
        if total == Total::Felt && (felt || self.limit < 1.0) {
            self.limit = want.limit.clamp(1.0, 1e9);
        }
        let all = self.total(total);
        self.hear(node, want);
        if felt && want.feels {
            self.pass_on_when_easy(node, all);
        } else if want.failed {
            self.failed = true;
        }
        if self.feels.is_none() && self.leaving.is_none() && total == Total::Felt && self.is_next(node) {
            self.feels = Some(node.clone());
        }

        let targets = self.targets(all, turn);
        let target = targets.get(node).copied().unwrap_or_default();
        let feels = self.feels.as_ref() == Some(node);
        let granted = if feels {
            // What they may have now counts as well as what they are to get.
            let others = self.nodes.iter().filter(|(other, _)| *other != node);
            others.map(|(other, held)| held.most(all).max(targets[other])).sum()
        } else {
            let free = all.saturating_sub(self.most_of_others(node, all));
            target.min(free)
        };
        let taken = if feels { self.most_of_others(node, all) } else { 0 };
        if let Some(held) = self.nodes.get_mut(node) {
            (held.number, held.granted) = (self.number, granted);
            match feels {
                true => held.leaves = Some(held.leaves.map_or(granted, |leaves| leaves.min(granted))),
                false => held.may = held.may.max(granted),
            }
        }
        let failed = feels && std::mem::take(&mut self.failed);
        Grant { failed, taken, ..self.grant(granted, feels, now_ms) }
    }

    fn grant(&self, granted: u64, feels: bool, now_ms: u64) -> Grant {
        let closed_ms = self.closed_until_ms.saturating_sub(now_ms);
        Grant { number: self.number, granted, feels, taken: 0, limit: self.limit, failed: false, closed_ms }
    }

    /// Writes down what a node says that it has.
    fn hear(&mut self, node: &NodeName, want: &Want) {
        let held = self.nodes.entry(node.clone()).or_default();
        let (may, leaves) = if want.feels { (0, Some(want.granted)) } else { (want.granted, None) };
        let may = may.max(want.used);
        if held.number == want.heard || held.renewed == 0 {
            (held.may, held.leaves) = (may, leaves);
            if !want.feels {
                self.leaving.take_if(|leaving| leaving == node);
            }
        } else {
            // What was granted and not confirmed may come into force yet.
            held.may = held.may.max(may);
            held.leaves = [held.leaves, leaves].into_iter().flatten().min();
        }
        (held.users, held.wanted) = (want.users.min(want.wanted), want.wanted);
        held.renewed += 1;
    }

    /// One who needs no more never finds out how much there is, and one without users not what they notice: somebody else is to feel.
    fn pass_on_when_easy(&mut self, node: &NodeName, total: u64) {
        let missing = || self.nodes.iter().filter(|(other, held)| *other != node && held.wanted > held.granted);
        let (missed, has_users) = (missing().next().is_some(), missing().any(|(_, held)| held.users > 0));
        let Some(held) = self.nodes.get_mut(node) else { return };
        let easy = (missed && held.wanted <= held.most(total)) || (has_users && held.users == 0);
        held.easy = if easy { held.easy + 1 } else { 0 };
        if held.easy > EASY_MAX {
            held.easy = 0;
            self.leaving = self.feels.take();
        }
    }

    /// Whether a node is to feel when nobody does: one who wants more than he has, if there is one, and of these one with users.
    fn is_next(&self, node: &NodeName) -> bool {
        let fitness = |held: &Held| (held.wanted > held.may, held.users > 0);
        let best = self.nodes.values().map(fitness).max();
        self.nodes.get(node).map(fitness) >= best
    }

    /// What each is to have in the end. Whoever feels has something, or nobody ever would.
    fn targets(&self, total: u64, turn: u64) -> BTreeMap<NodeName, u64> {
        let users: Vec<u64> = self.nodes.values().map(|held| held.users).collect();
        let first = fair(total, &users, turn);
        let rest: Vec<u64> = self.nodes.values().zip(&first).map(|(held, first)| held.wanted - first).collect();
        let second = fair(total - first.iter().sum::<u64>(), &rest, turn);
        let mut targets: BTreeMap<NodeName, u64> =
            self.nodes.keys().cloned().zip(first.iter().zip(second).map(|(first, second)| first + second)).collect();
        if let Some(feels) = &self.feels
            && targets.get(feels) == Some(&0)
            && let Some(most) = targets.values_mut().max()
        {
            *most = most.saturating_sub(1);
            targets.insert(feels.clone(), 1);
        }
        targets
    }
}

/// Divides so that nobody gets more than he claims, and whoever gets less than that gets as much as anybody, but for one: what
/// cannot be divided goes to those whose turn it is.
fn fair(total: u64, claims: &[u64], turn: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|at| claims[*at]);
    let mut given = vec![0; claims.len()];
    let mut left = total;
    for (place, at) in order.iter().enumerate() {
        // Who claims no more than his part gets it, and the rest is divided among the others; whoever follows claims more.
        let (rest, part) = (&order[place..], left / (claims.len() - place) as u64);
        if claims[*at] > part {
            rest.iter().for_each(|at| given[*at] = part);
            left -= part * rest.len() as u64;
            break;
        }
        given[*at] = claims[*at];
        left -= claims[*at];
    }
    let first = turn as usize % claims.len().max(1);
    for at in (first..claims.len()).chain(0..first) {
        if left > 0 && given[at] < claims[at] {
            given[at] += 1;
            left -= 1;
        }
    }
    given
}

#[cfg(test)]
mod tests;
