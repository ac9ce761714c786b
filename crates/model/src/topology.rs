//! Regions, POPs, tiers and nodes, and which nodes each node fetches from.
//!
//! Owners within a tier of a POP are chosen by rendezvous hashing over node names and key, so every node and the
//! control plane agree on the owner without communicating, and a node that leaves moves only its own share of the keys.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a POP or a node, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Where in the world a POP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// The Chinese mainland.
    Domestic,
    /// Everywhere else.
    Overseas,
}

/// The regions that a domain is served in, that a task targets, or that a POP serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coverage {
    /// The Chinese mainland only.
    Domestic,
    /// Everywhere else only.
    Overseas,
    /// Both.
    Global,
}

impl Coverage {
    /// Whether `region` is in it.
    pub fn includes(self, region: Region) -> bool {
        match self {
            Coverage::Global => true,
            Coverage::Domestic => region == Region::Domestic,
            Coverage::Overseas => region == Region::Overseas,
        }
    }

    /// Whether the two have a region in common.
    pub fn meets(self, other: Coverage) -> bool {
        [Region::Domestic, Region::Overseas].into_iter().any(|region| self.includes(region) && other.includes(region))
    }

    /// The regions in both, or `None` if there are none.
    pub fn narrowed_to(self, other: Coverage) -> Option<Coverage> {
        match (self, other) {
            (Coverage::Global, narrower) | (narrower, Coverage::Global) => Some(narrower),
            (left, right) => (left == right).then_some(left),
        }
    }
}

/// Distance from users: L1 faces them, L2 and L3 stand between L1 and the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Faces users.
    L1,
    /// Between L1 and L3 or the origin.
    L2,
    /// Before the origin, where there is an L3.
    L3,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::L1 => "L1",
            Tier::L2 => "L2",
            Tier::L3 => "L3",
        })
    }
}

impl std::str::FromStr for Tier {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_uppercase().as_str() {
            "L1" => Ok(Tier::L1),
            "L2" => Ok(Tier::L2),
            "L3" => Ok(Tier::L3),
            _ => Err(BadName { text: text.chars().take(100).collect(), expected: "L1, L2 or L3" }),
        }
    }
}

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not valid here: expected {expected}")]
pub struct BadName {
    text: String,
    expected: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Reads a name: lower-case letters, digits and `-`, at most [`NAME_BYTES_MAX`].
            pub fn parse(text: &str) -> Result<Self, BadName> {
                let good = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
                if !(1..=NAME_BYTES_MAX).contains(&text.len()) || !good {
                    let expected = "lower-case letters, digits and `-`, at most 63";
                    return Err(BadName { text: text.chars().take(100).collect(), expected });
                }
                Ok(Self(text.to_owned()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name!(
    /// Name of a POP.
    PopName
);
name!(
    /// Name of a node, unique over all POPs.
    NodeName
);

/// A place with nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pop {
    /// Its name.
    pub name: PopName,
    /// The regions it serves: one, or both if it serves all users.
    pub region: Coverage,
    /// The parent of each of its tiers; a tier without an entry fetches from the origin.
    pub parents: BTreeMap<Tier, Parent>,
}

/// A tier of a POP that another tier fetches from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Parent {
    /// The POP.
    pub pop: PopName,
    /// Its tier.
    pub tier: Tier,
}

/// What a node does with its store for users once its lease has expired (rule 3, guard (c)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Asks its parent or the origin again before it serves.
    #[default]
    Revalidate,
    /// Serves what it has stored; a refresh waits for such a node without limit.
    Serve,
}

/// A node that the fence's promises cover (rule 8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// The POP it belongs to.
    pub pop: PopName,
    /// Its tier.
    pub tier: Tier,
    /// Where children reach it: `http://HOST:PORT`.
    pub advertise_url: String,
    /// What it does once its lease has expired.
    #[serde(default)]
    pub isolation: Isolation,
}

/// Every POP and member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// By name.
    pub pops: BTreeMap<PopName, Pop>,
    /// By name.
    pub members: BTreeMap<NodeName, Member>,
}

/// Which tiers a prefetch warms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmTiers {
    /// The L2s as well as the roots (the vendor's `L2Preload`).
    pub l2: bool,
    /// The L1s as well, and with them the L2s they fetch from.
    pub edge: bool,
}

impl Topology {
    /// The tiers a request passes through in `pop`, from the one that users reach to the root. Stops at a parent that
    /// does not exist or would close a loop, so that a mistake in the topology costs a tier, not a hang.
    fn chain(&self, pop: &PopName) -> Vec<Parent> {
        let mut chain: Vec<Parent> = Vec::new();
        // Users reach the lowest tier that has members in the POP.
        let lowest = self.members.values().filter(|member| &member.pop == pop).map(|member| member.tier).min();
        let mut next = lowest.map(|tier| Parent { pop: pop.clone(), tier });
        while let Some(group) = next.filter(|group| !chain.contains(group)) {
            next = self.pops.get(&group.pop).and_then(|pop| pop.parents.get(&group.tier)).cloned();
            if self.group(&group).next().is_some() {
                chain.push(group);
            }
        }
        chain
    }

    fn group<'a>(&'a self, group: &'a Parent) -> impl Iterator<Item = &'a Member> {
        self.members.values().filter(move |member| member.pop == group.pop && member.tier == group.tier)
    }

    /// The members of a tier of a POP in the order in which they own `key`: the first is the owner, the next takes over
    /// if it fails.
    pub fn owners<'a>(&'a self, group: &'a Parent, key: u128) -> Vec<&'a Member> {
        let mut owners: Vec<&Member> = self.group(group).collect();
        owners.sort_by_key(|member| std::cmp::Reverse(score(&member.name, key)));
        owners
    }

    /// The nodes that node `name` asks for `key`, in order; empty if it asks the origin.
    pub fn parents(&self, name: &NodeName, key: u128) -> Vec<&Member> {
        let Some(member) = self.members.get(name) else { return Vec::new() };
        let parent = self.pops.get(&member.pop).and_then(|pop| pop.parents.get(&member.tier));
        parent.map(|parent| self.owners(parent, key)).unwrap_or_default()
    }

    /// The tiers of POPs that a prefetch of something served in `area` warms, each with one owner per key: always the
    /// roots, L2s and L1s if requested. A root shared by two POPs is listed once.
    pub fn targets(&self, area: Coverage, warm: WarmTiers) -> Vec<Parent> {
        let mut targets: Vec<Parent> = Vec::new();
        for pop in self.pops.values().filter(|pop| pop.region.meets(area)) {
            let chain = self.chain(&pop.name);
            for (at, group) in chain.iter().enumerate() {
                let root = at + 1 == chain.len();
                let wanted = root || warm.edge || (warm.l2 && group.tier == Tier::L2);
                if wanted && !targets.contains(group) {
                    targets.push(group.clone());
                }
            }
        }
        targets.sort();
        targets
    }

    /// The roots of a domain served in `area`.
    pub fn roots(&self, area: Coverage) -> Vec<Parent> {
        self.targets(area, WarmTiers::default())
    }
}

/// Score of a node for a key in rendezvous hashing; the highest score owns the key.
fn score(name: &NodeName, key: u128) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name.as_str().as_bytes(), (key as u64) ^ (key >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop(name: &str, region: Coverage, parents: &[(Tier, &str, Tier)]) -> Pop {
        let parents = parents
            .iter()
            .map(|(of, pop, tier)| (*of, Parent { pop: PopName::parse(pop).unwrap(), tier: *tier }))
            .collect();
        Pop { name: PopName::parse(name).unwrap(), region, parents }
    }

    fn topology(pops: &[Pop], nodes: &[(&str, &str, Tier)]) -> Topology {
        let mut topology = Topology::default();
        for pop in pops {
            topology.pops.insert(pop.name.clone(), pop.clone());
        }
        for (name, pop, tier) in nodes {
            let member = Member {
                name: NodeName::parse(name).unwrap(),
                pop: PopName::parse(pop).unwrap(),
                tier: *tier,
                advertise_url: format!("http://{name}.test"),
                isolation: Isolation::default(),
            };
            topology.members.insert(member.name.clone(), member);
        }
        topology
    }

    fn two_regions() -> Topology {
        topology(
            &[
                pop("cn-1", Coverage::Domestic, &[(Tier::L1, "cn-1", Tier::L2)]),
                pop("eu-1", Coverage::Overseas, &[(Tier::L1, "eu-1", Tier::L2)]),
            ],
            &[
                ("cn-1-l1", "cn-1", Tier::L1),
                ("cn-1-l2", "cn-1", Tier::L2),
                ("eu-1-l1", "eu-1", Tier::L1),
                ("eu-1-l2", "eu-1", Tier::L2),
            ],
        )
    }

    fn words(groups: &[Parent]) -> Vec<String> {
        groups.iter().map(|group| format!("{}/{}", group.pop, group.tier)).collect()
    }

    #[test]
    fn prefetch_warms_roots_and_what_is_asked_for_besides() {
        let edge = WarmTiers { l2: false, edge: true };
        let l2 = WarmTiers { l2: true, edge: false };
        let shared_l3 = topology(
            &[
                pop("cn-1", Coverage::Domestic, &[(Tier::L1, "cn-1", Tier::L2), (Tier::L2, "core", Tier::L3)]),
                pop("eu-1", Coverage::Overseas, &[(Tier::L1, "eu-1", Tier::L2), (Tier::L2, "core", Tier::L3)]),
                pop("core", Coverage::Global, &[]),
            ],
            &[
                ("a", "cn-1", Tier::L1),
                ("b", "cn-1", Tier::L2),
                ("c", "eu-1", Tier::L1),
                ("d", "eu-1", Tier::L2),
                ("e", "core", Tier::L3),
            ],
        );
        let cases: &[(&str, &Topology, Coverage, WarmTiers, &[&str])] = &[
            ("two roots", &two_regions(), Coverage::Global, WarmTiers::default(), &["cn-1/L2", "eu-1/L2"]),
            ("one region", &two_regions(), Coverage::Domestic, WarmTiers::default(), &["cn-1/L2"]),
            ("edges too", &two_regions(), Coverage::Overseas, edge, &["eu-1/L1", "eu-1/L2"]),
            ("a shared root once", &shared_l3, Coverage::Global, WarmTiers::default(), &["core/L3"]),
            ("its L2s", &shared_l3, Coverage::Global, l2, &["cn-1/L2", "core/L3", "eu-1/L2"]),
        ];
        for (why, topology, area, warm, expected) in cases {
            assert_eq!(words(&topology.targets(*area, *warm)), *expected, "{why}");
        }
    }

    #[test]
    fn pop_without_l1_or_with_a_circle_still_has_a_root() {
        let l2_only = topology(&[pop("p", Coverage::Global, &[])], &[("n", "p", Tier::L2)]);
        assert_eq!(words(&l2_only.roots(Coverage::Global)), ["p/L2"]);
        let circle = topology(
            &[pop("p", Coverage::Global, &[(Tier::L1, "p", Tier::L2), (Tier::L2, "p", Tier::L1)])],
            &[("n", "p", Tier::L1), ("m", "p", Tier::L2)],
        );
        assert_eq!(words(&circle.roots(Coverage::Global)), ["p/L2"]);
    }

    #[test]
    fn losing_a_node_moves_only_its_own_keys() {
        let names: Vec<String> = (0..5).map(|n| format!("n{n}")).collect();
        let nodes: Vec<(&str, &str, Tier)> = names.iter().map(|name| (name.as_str(), "p", Tier::L2)).collect();
        let all = topology(&[pop("p", Coverage::Global, &[])], &nodes);
        let mut fewer = all.clone();
        fewer.members.remove(&NodeName::parse("n2").unwrap());
        let group = Parent { pop: PopName::parse("p").unwrap(), tier: Tier::L2 };
        let mut moved = 0;
        for key in 0..2_000_u128 {
            let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
            let before = all.owners(&group, key);
            let after = fewer.owners(&group, key);
            if before[0].name.as_str() == "n2" {
                moved += 1;
                assert_eq!(after[0].name, before[1].name, "the next in line takes over");
            } else {
                assert_eq!(after[0].name, before[0].name);
            }
        }
        assert!((250..=550).contains(&moved), "about a fifth of 2,000 keys were its own: {moved}");
    }

    #[test]
    fn names_are_refused_by_what_is_wrong() {
        assert!(PopName::parse("cn-1").is_ok());
        for bad in ["", "CN", "a/b", "a b", &"x".repeat(64)] {
            let error = NodeName::parse(bad).unwrap_err().to_string();
            assert!(error.contains("lower-case letters"), "{error}");
        }
    }
}
