//! Simulated nodes that ask, receive answers late or never, die and return; checks what they may use together at every
//! moment.

use std::collections::VecDeque;

use super::*;

fn node(n: usize) -> NodeName {
    NodeName::parse(&format!("n{n}")).expect("a name")
}

#[test]
fn nobody_gets_more_than_he_claims_and_the_rest_is_divided_evenly() {
    let cases: [(u64, &[u64], u64, &[u64]); 10] = [
        // total, claims, turn, given
        (10, &[3, 3], 0, &[3, 3]),
        (10, &[8, 8], 0, &[5, 5]),
        (10, &[2, 20, 20], 0, &[2, 4, 4]),
        (10, &[20, 2, 5], 0, &[4, 2, 4]),
        (2, &[1, 1, 1], 0, &[1, 1, 0]),
        (2, &[1, 1, 1], 1, &[0, 1, 1]),
        (2, &[1, 1, 1], 2, &[1, 0, 1]),
        (1, &[0, 9, 9], 7, &[0, 1, 0]),
        (0, &[4, 4], 0, &[0, 0]),
        (5, &[], 3, &[]),
    ];
    for (total, claims, turn, given) in cases {
        assert_eq!(fair(total, claims, turn), given, "{total} over {claims:?} in turn {turn}");
    }
}

/// A node's view of a share.
#[derive(Clone, Debug, Default)]
struct Node {
    heard: u64,
    /// What it may use, or leaves to others, and whether it feels; `None` once its lease has expired.
    lease: Option<(u64, bool)>,
    /// Answers in flight; the lease of a node that is cut off expires without them.
    coming: VecDeque<Grant>,
    limit: f64,
    wanted: u64,
    users: u64,
}

impl Node {
    fn want(&self, total: Total) -> Want {
        let (granted, feels) = self.lease.unwrap_or_default();
        let limit = if let Total::Set(set) = total { set as f64 } else { self.limit };
        let used = self.users.min(self.wanted);
        Want { wanted: self.wanted, users: used, used, heard: self.heard, granted, feels, limit, ..Want::default() }
    }

    fn take(&mut self, grant: Grant) {
        if grant.feels && !self.lease.is_some_and(|(_, feels)| feels) {
            self.limit = grant.limit;
        }
        (self.heard, self.lease) = (grant.number, Some((grant.granted, grant.feels)));
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The grants in force add up at every moment, whatever is delayed, lost, restarted or changed.
#[test]
fn live_leases_never_add_up_to_more_than_there_is() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let set = random.below(2) == 0;
        let mut cap = 1 + random.below(40);
        let mut row = Row::default();
        let mut nodes: Vec<Node> = vec![Node { limit: 4.0, ..Node::default() }; 2 + random.below(3) as usize];
        let users = if set { 1 } else { 6 };
        for step in 0..400 {
            let total = if set { Total::Set(cap) } else { Total::Felt };
            let at = random.below(nodes.len() as u64) as usize;
            match random.below(12) {
                0..6 => {
                    let grant = row.step(&node(at), &nodes[at].want(total), total, step / 50, 0);
                    // Answers arrive in order; a lost one is lost with its connection, and so are those before it.
                    nodes[at].coming.push_back(grant);
                    // A node that returns its share ignores grants still in flight.
                    if nodes[at].wanted == 0 {
                        let coming = nodes[at].coming.len();
                        nodes[at].coming.drain(..coming);
                        nodes[at].lease = None;
                    }
                }
                6..9 => {
                    if let Some(grant) = nodes[at].coming.pop_front() {
                        nodes[at].take(grant);
                    }
                }
                9 => {
                    nodes[at].wanted = random.below(50);
                    nodes[at].users = random.below(users);
                }
                10 => {
                    if let Some((_, true)) = nodes[at].lease {
                        nodes[at].limit = 1.0 + random.below(60) as f64;
                    }
                }
                _ => match random.below(4) {
                    0 => nodes[at] = Node { limit: 4.0, ..Node::default() }, // killed and restarted
                    1 if !set => {
                        // Its lease expires: first at the node, then at the control plane.
                        nodes[at].lease = None;
                        nodes[at].coming.clear();
                        row.remove(&node(at));
                    }
                    2 => nodes[at].lease = None, // the lease expires at the node only
                    _ if set => cap = cap.max(1 + random.below(40)), // the owner raises the cap
                    _ => {}
                },
            }
            let others: u64 =
                nodes.iter().filter_map(|node| node.lease).filter(|lease| !lease.1).map(|lease| lease.0).sum();
            let mut feel = nodes.iter().filter_map(|node| node.lease).filter(|lease| lease.1);
            match feel.next() {
                Some((left, _)) => {
                    assert!(others <= left, "seed {seed}, step {step}: {others} of {left}: {nodes:?} {row:?}")
                }
                None if set => assert!(others <= cap, "seed {seed}, step {step}: {others} of {cap}: {nodes:?} {row:?}"),
                None => {}
            }
            assert!(feel.next().is_none(), "seed {seed}, step {step}: two feel: {nodes:?}");
        }
    }
}

/// All nodes report and receive answers in turns until nothing changes.
fn settle(row: &mut Row, nodes: &mut [Node], total: Total) -> Vec<u64> {
    for _ in 0..40 {
        for (at, there) in nodes.iter_mut().enumerate() {
            let grant = row.step(&node(at), &there.want(total), total, 0, 0);
            there.take(grant);
        }
    }
    let use_of = |node: &Node| match node.lease {
        Some((others, true)) => (node.limit as u64).saturating_sub(others),
        Some((granted, false)) => granted,
        None => 0,
    };
    nodes.iter().map(use_of).collect()
}

#[test]
fn shares_follow_what_is_wanted_and_users_come_first() {
    type Wants = &'static [(u64, u64)];
    let cases: [(Total, Wants, &[u64]); 7] = [
        // total, what each wants and what of it is for users, what it gets
        (Total::Set(12), &[(50, 0), (50, 0), (50, 0)], &[4, 4, 4]),
        (Total::Set(12), &[(2, 0), (50, 0)], &[2, 10]),
        (Total::Set(12), &[(0, 0), (50, 0)], &[0, 12]),
        (Total::Felt, &[(50, 0), (50, 0)], &[16, 16]),
        (Total::Felt, &[(50, 20), (50, 0)], &[26, 6]),
        (Total::Felt, &[(50, 0), (3, 0), (50, 0)], &[15, 3, 14]), // the remainder goes to the one that feels
        (Total::Felt, &[(50, 0)], &[32]),
    ];
    for (total, wants, shares) in cases {
        let mut nodes: Vec<Node> = wants
            .iter()
            .map(|(wanted, users)| Node { wanted: *wanted, users: *users, limit: 32.0, ..Node::default() })
            .collect();
        assert_eq!(settle(&mut Row::default(), &mut nodes, total), shares, "{total:?} for {wants:?}");
    }
}

#[test]
fn who_wants_more_comes_to_feel_and_what_was_felt_is_not_lost() {
    let mut row = Row::default();
    let mut nodes =
        vec![Node { wanted: 50, limit: 32.0, ..Node::default() }, Node { wanted: 50, limit: 4.0, ..Node::default() }];
    settle(&mut row, &mut nodes, Total::Felt);
    assert_eq!((nodes[0].lease.unwrap().1, nodes[1].lease.unwrap().1), (true, false));
    // It has enough, so without a change nobody would find out that there is more.
    nodes[0].wanted = 5;
    assert_eq!(settle(&mut row, &mut nodes, Total::Felt), [5, 27]);
    assert_eq!((nodes[0].lease.unwrap().1, nodes[1].lease.unwrap().1), (false, true));
    // It leaves, and the other takes over the limit it felt.
    nodes[1].limit = 40.0;
    settle(&mut row, &mut nodes, Total::Felt);
    nodes[1].wanted = 0;
    row.step(&node(1), &nodes[1].want(Total::Felt), Total::Felt, 0, 0);
    nodes.truncate(1);
    nodes[0].wanted = 50;
    assert_eq!(settle(&mut row, &mut nodes, Total::Felt), [40]);
}

#[test]
fn who_has_users_comes_to_feel_what_they_notice() {
    let mut row = Row::default();
    let mut nodes =
        vec![Node { wanted: 50, limit: 32.0, ..Node::default() }, Node { wanted: 50, limit: 4.0, ..Node::default() }];
    settle(&mut row, &mut nodes, Total::Felt);
    assert_eq!((nodes[0].lease.unwrap().1, nodes[1].lease.unwrap().1), (true, false));
    nodes[1].users = 1;
    assert_eq!(settle(&mut row, &mut nodes, Total::Felt), [16, 16]);
    assert_eq!((nodes[0].lease.unwrap().1, nodes[1].lease.unwrap().1), (false, true));
    // A node with fewer users, but some, goes on feeling.
    nodes[0].users = 9;
    settle(&mut row, &mut nodes, Total::Felt);
    assert!(nodes[1].lease.unwrap().1);
}

#[test]
fn what_one_is_told_of_when_to_come_back_and_of_failures_the_others_hear() {
    let mut row = Row::default();
    let want = |want: Want| Want { wanted: 10, limit: 8.0, ..want };
    let first = row.step(&node(0), &want(Want::default()), Total::Felt, 0, 1_000);
    assert!(first.feels);
    let other =
        row.step(&node(1), &want(Want { closed_ms: 700, failed: true, ..Want::default() }), Total::Felt, 0, 1_000);
    assert_eq!((other.feels, other.failed, other.closed_ms), (false, false, 700));
    let feels = Want { heard: first.number, granted: first.granted, feels: true, ..Want::default() };
    let told = row.step(&node(0), &want(feels.clone()), Total::Felt, 0, 1_200);
    assert_eq!((told.failed, told.closed_ms), (true, 500));
    let again = row.step(&node(0), &want(feels), Total::Felt, 0, 1_700);
    assert_eq!((again.failed, again.closed_ms), (false, 0), "each once, and no longer than it was said");
}

#[test]
fn origin_is_not_left_alone_for_as_long_as_the_wall_clock_was_set_back() {
    let hour_ms = 3_600_000;
    let mut row = Row::default();
    let want = Want { wanted: 1, limit: 4.0, ..Want::default() };
    row.step(&node(0), &Want { closed_ms: 60_000, ..want.clone() }, Total::Felt, 0, hour_ms);
    let told = row.step(&node(1), &want, Total::Felt, 0, 1_000);
    assert_eq!(told.closed_ms, CLOSED_MAX_MS, "nothing tells the two apart");
    let told = row.step(&node(1), &want, Total::Felt, 0, 1_000 + CLOSED_MAX_MS);
    assert_eq!(told.closed_ms, 0);
}
