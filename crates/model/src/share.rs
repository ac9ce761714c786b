//! Shared limits: how much of a limit that several nodes share each of them may use. One row per limit, and the answer
//! to each node that asks.
//!
//! A limit has a total. For a domain's caps, its owner set the total. For an origin nobody set it: one of the nodes
//! that fetch from it *feels* it for all of them, by how soon the origin answers. That node may use what it feels less
//! what the others may use. When the others are to get more, the node that feels hears of it first, and they get it
//! once it has confirmed that it leaves it to them.
//!
//! # What always holds
//!
//! - The amounts nodes may use, by any grant that may be in force at one of them, add up to at most the total; for an
//!   origin, the amounts of the others add up to at most what the node that feels leaves to them. A grant that was sent
//!   counts until its node has confirmed a later one or its lease has expired; requests the node has under way count as
//!   well.
//! - Users' requests come first; what remains is divided equally, and no node gets more than it wants.
//! - At most [`NODES_MAX`] nodes share one limit; a further one gets nothing.
//!
//! # Not here
//!
//! Clocks: the caller says whose lease has expired. Storing rows and talking to nodes: `control` and `node`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::topology::NodeName;

/// Maximum number of nodes that share one limit.
pub const NODES_MAX: usize = 256;

/// How long an origin is left alone at most, whatever the row says: the row holds a wall-clock time, and that clock may
/// have been set back since.
const CLOSED_MAX_MS: u64 = 600_000;

/// Number of consecutive reports in which the node that feels wants no more than it has, or has no users, while another
/// node does, before another node is to feel.
const EASY_MAX: u8 = 8;

/// One shared limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Number of the newest grant; rises by one with each.
    number: u64,
    /// For an origin: the limit felt last, in concurrent requests.
    limit: f64,
    /// The node that feels.
    feels: Option<NodeName>,
    /// The node that felt before and has not yet confirmed that it no longer does; until then no other node may feel.
    leaving: Option<NodeName>,
    /// Until when no prefetch may ask the origin, in milliseconds since 1970.
    closed_until_ms: u64,
    /// A request of a node other than the one that feels failed, and the latter was not told yet.
    failed: bool,
    nodes: BTreeMap<NodeName, Held>,
}

/// One node's part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Held {
    /// Rises with each report: shows other control planes that the node is alive.
    renewed: u64,
    /// The number of the newest grant.
    number: u64,
    /// The newest grant: what it may use, or, if it feels, what the others may.
    granted: u64,
    /// The most it may use by any grant that may be in force, or has under way.
    may: u64,
    /// The least it leaves to others by any grant to feel that may be in force.
    leaves: Option<u64>,
    users: u64,
    wanted: u64,
    /// Consecutive reports in which it felt, and wanted no more than it had or had no users.
    easy: u8,
}

impl Held {
    /// The most it may use.
    fn most(&self, total: u64) -> u64 {
        self.may.max(self.leaves.map_or(0, |leaves| total.saturating_sub(leaves)))
    }
}

/// A node's report on one limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// As much as it could use, users included; zero returns what it has.
    pub wanted: u64,
    /// The part of it that users take; users are not held back.
    pub users: u64,
    /// What it has under way.
    pub used: u64,
    /// The number of the newest grant it has received, expired or not.
    pub heard: u64,
    /// What it may use now, by an unexpired lease; if it feels, what it leaves to others.
    pub granted: u64,
    /// It feels, by an unexpired lease.
    pub feels: bool,
    /// What it feels or would begin with; for a cap, the value it knows to be set.
    pub limit: f64,
    /// A request of it failed since its last report.
    pub failed: bool,
    /// How long the origin is to be left alone, in milliseconds, as the origin told this node.
    pub closed_ms: u64,
}

/// What a node may use from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Its number, to be repeated in the next report.
    pub number: u64,
    /// What it may use, or, if it feels, what the others may.
    pub granted: u64,
    /// The node is to feel.
    pub feels: bool,
    /// If it feels: what the others have already; the rest they have yet to hear of.
    pub taken: u64,
    /// For an origin: the limit to begin feeling at.
    pub limit: f64,
    /// If it feels: a request of another node failed.
    pub failed: bool,
    /// How long no prefetch may ask the origin, in milliseconds.
    pub closed_ms: u64,
}

/// The kind of total, and its value if the row does not hold it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Total {
    /// It is felt by a node.
    Felt,
    /// It is set by the owner.
    Set(u64),
}

impl Row {
    /// The nodes in it, and how often each has reported.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, u64)> {
        self.nodes.iter().map(|(node, held)| (node, held.renewed))
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self, now_ms: u64) -> bool {
        self.nodes.is_empty() && self.closed_until_ms <= now_ms
    }

    /// Removes a node whose lease has expired.
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

    /// What all nodes but one may use.
    fn most_of_others(&self, node: &NodeName, total: u64) -> u64 {
        let others = self.nodes.iter().filter(|(other, _)| *other != node);
        others.map(|(_, held)| held.most(total)).sum()
    }

    /// Takes a node's report and answers it. `turn` rises now and then: it decides which nodes get what cannot be
    /// divided equally.
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
            // Counts what the others may use now as well as what they are to get.
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

    /// Records what a node says it has.
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
            // A grant that was sent and not confirmed may still come into force.
            held.may = held.may.max(may);
            held.leaves = [held.leaves, leaves].into_iter().flatten().min();
        }
        (held.users, held.wanted) = (want.users.min(want.wanted), want.wanted);
        held.renewed += 1;
    }

    /// A node that needs no more than it has never finds out how much there is, and one without users does not see what
    /// users see: another node is to feel.
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

    /// Whether this node is to feel when none does: preferably one that wants more than it has, and of those one with
    /// users.
    fn is_next(&self, node: &NodeName) -> bool {
        let fitness = |held: &Held| (held.wanted > held.may, held.users > 0);
        let best = self.nodes.values().map(fitness).max();
        self.nodes.get(node).map(fitness) >= best
    }

    /// What each node is to have in the end. The node that feels always gets something, or nobody would ever feel.
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

/// Divides `total` so that nobody gets more than its claim, and those who get less than their claim get equal parts;
/// the indivisible remainder goes one each to those whose turn it is.
fn fair(total: u64, claims: &[u64], turn: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|at| claims[*at]);
    let mut given = vec![0; claims.len()];
    let mut left = total;
    for (place, at) in order.iter().enumerate() {
        // A claim no larger than an equal part is met in full, and the rest is divided among the others; all later
        // claims are larger.
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
