//! What a topology means to the scheduler, computed once per topology: which tiers of POPs a prefetch warms, and the
//! members of each. The topology itself would scan every member for every job.

use std::collections::HashMap;
use std::sync::Arc;

use model::topology::WarmTiers;
use model::{Coverage, Member, NodeName, Parent, Topology};

/// The number that stands for no member.
pub(super) const NOBODY: u32 = u32::MAX;

/// A topology, indexed.
pub(super) struct Aims {
    topology: Topology,
    /// Its members, in order: a member's number is its index here.
    names: Vec<NodeName>,
    /// Each tier of a POP that has members, as a topology of those alone.
    groups: HashMap<Parent, Topology>,
    /// Targets computed so far: at most one entry per area and choice of tiers.
    targets: HashMap<(Coverage, bool, bool), Arc<[Parent]>>,
}

impl Aims {
    pub(super) fn new(topology: Topology) -> Aims {
        let mut groups: HashMap<Parent, Topology> = HashMap::new();
        for member in topology.members.values() {
            let group = groups.entry(group_of(member)).or_default();
            group.members.insert(member.name.clone(), member.clone());
        }
        let names = topology.members.keys().cloned().collect();
        Aims { topology, names, groups, targets: HashMap::new() }
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// How many tiers of POPs have members: an upper bound of a prefetch's targets.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Whether each tier of a POP has a member that is `here`.
    pub(super) fn are_here(&self, here: &HashMap<NodeName, usize>) -> bool {
        self.groups.values().all(|group| group.members.keys().any(|member| here.contains_key(member)))
    }

    /// The tiers of POPs that a prefetch of `area` warms.
    pub(super) fn targets(&mut self, area: Coverage, warm: WarmTiers) -> Arc<[Parent]> {
        let topology = &self.topology;
        self.targets.entry((area, warm.l2, warm.edge)).or_insert_with(|| topology.targets(area, warm).into()).clone()
    }

    /// The members of a tier of a POP, in arbitrary order.
    pub(super) fn members(&self, group: &Parent) -> impl Iterator<Item = &NodeName> {
        self.groups.get(group).into_iter().flat_map(|group| group.members.keys())
    }

    /// Every member, by its number.
    pub(super) fn names(&self) -> &[NodeName] {
        &self.names
    }

    /// The owner of `key` in a tier of a POP: the number of the first member in rendezvous order that is `here`, or
    /// [`NOBODY`].
    pub(super) fn owner(&self, group: &Parent, key: u128, here: &HashMap<NodeName, usize>) -> u32 {
        let owners = self.owners(group, key);
        let owner = owners.iter().find(|member| here.contains_key(&member.name));
        let number = owner.and_then(|member| self.names.binary_search(&member.name).ok());
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(NOBODY)
    }

    /// The members of a tier of a POP in rendezvous order for `key`.
    pub(super) fn owners<'a>(&'a self, group: &'a Parent, key: u128) -> Vec<&'a Member> {
        self.groups.get(group).map(|members| members.owners(group, key)).unwrap_or_default()
    }

    /// Whether a node is a member of this tier of a POP.
    pub(super) fn stands_in(&self, node: &NodeName, group: &Parent) -> bool {
        self.topology.members.get(node).is_some_and(|member| member.pop == group.pop && member.tier == group.tier)
    }
}

fn group_of(member: &Member) -> Parent {
    Parent { pop: member.pop.clone(), tier: member.tier }
}
