//! One loaded chunk: leases, reports, retries, the deadline, changes of the topology.

use std::collections::BTreeMap;

use model::topology::WarmTiers;
use model::{Coverage, DomainName, Revision};

use super::*;
use crate::state::chunks::{Kind, Params};
use crate::state::steering::Steering;
use crate::testing::{member, node, topology};

const GONE: Cause = Cause::OriginStatus(404);
const SAID: Said = Said { session: 1, lost: 0 };
const PASSING: Cause = Cause::OriginTimeout;

pub(in crate::scheduler) fn chunk(paths: usize, variants: usize) -> Chunk {
    Chunk {
        id: 7,
        task: 1,
        call: 1,
        account: "me".into(),
        bucket: "preload".into(),
        domain: DomainName::parse("a.com").unwrap(),
        kind: Kind::Prefetch,
        created_ms: 1,
        revision: Revision(3),
        paths: (0..paths).map(|n| format!("https://a.com:443/{n}")).collect(),
        params: Params {
            area: Coverage::Global,
            warm: WarmTiers::default(),
            variants: (0..variants).map(|n| vec![("Accept-Encoding".into(), n.to_string())]).collect(),
            verbatim: false,
            refetch: false,
            pin: None,
        },
        steering: Steering::from(1),
        finished_ms: 0,
        progress: Progress::default(),
        unreadable: false,
    }
}

fn aims(names: &[&str]) -> Aims {
    Aims::new(topology(names))
}

fn failed(work: &mut Work, index: u32, cause: Cause, now: Instant) -> bool {
    work.failed(index, cause, &node("p-1"), now, 5)
}

/// Gives out all jobs that these nodes take.
fn lease(work: &mut Work, aims: &Aims, room: &[(&str, usize)]) -> Vec<(String, u32)> {
    let room = room.iter().map(|(name, free)| (node(name), *free)).collect();
    let mut turn = Turn::new(aims, &room);
    work.line_up(aims, &room);
    work.lease(usize::MAX, &mut turn);
    let name = |number: u32| aims.names()[number as usize].to_string();
    turn.given().into_iter().map(|(number, job)| (name(number), job.index)).collect()
}

#[test]
fn jobs_go_to_their_owners_as_far_as_those_have_room() {
    let mut aims = aims(&["p-1", "p-2", "p-3"]);
    let mut work = Work::new(chunk(60, 1), &mut aims, &Knowledge::default());
    let group = aims.targets(Coverage::Global, WarmTiers::default())[0].clone();
    let owner = |path: usize, without: &str| {
        let key = key_of(&format!("http://a.com/{path}")).unwrap();
        let owners = aims.owners(&group, key.hash());
        owners.into_iter().find(|member| member.name.as_str() != without).unwrap().name.to_string()
    };
    let given = lease(&mut work, &aims, &[("p-1", 5), ("p-2", 1000)]);
    assert_eq!(given.iter().filter(|(node, _)| node == "p-1").count(), 5, "no more than it has room for");
    for (node, index) in &given {
        assert_eq!(*node, owner(*index as usize, "p-3"), "what a node that is away owns goes to the next in line");
    }
    let rest = lease(&mut work, &aims, &[("p-1", 1000)]);
    assert_eq!(given.len() + rest.len(), 60, "the others are still there, and each job is given out once");
    assert!(!work.is_waiting() && lease(&mut work, &aims, &[("p-1", 1000)]).is_empty());
}

#[test]
fn jobs_go_where_users_requests_for_the_key_of_a_url_go() {
    let args = vec![("disable".to_owned(), "on".to_owned())];
    let function = model::Function { id: 1, name: "set_hashkey_args".to_owned(), args, parent: None };
    let mut known = Knowledge::default();
    known.apply(&model::Entry::Domain(model::Domain {
        name: DomainName::parse("a.com").unwrap(),
        coverage: Coverage::Global,
        sources: Vec::new(),
        online: true,
        tag_header: None,
        functions: model::Functions::new(vec![function]),
    }));
    let mut aims = aims(&["p-1", "p-2", "p-3"]);
    let paths = (0..30).map(|n| format!("https://a.com/x?n={n}")).collect();
    let mut work = Work::new(Chunk { paths, ..chunk(30, 1) }, &mut aims, &known);
    let given = lease(&mut work, &aims, &[("p-1", 99), ("p-2", 99), ("p-3", 99)]);
    let nodes: std::collections::BTreeSet<&String> = given.iter().map(|(node, _)| node).collect();
    assert_eq!((given.len(), nodes.len()), (30, 1), "all of them are one body");
}

#[test]
fn job_says_what_to_fetch() {
    let mut aims = aims(&["p-1", "q-1"]);
    let mut work = Work::new(chunk(2, 2), &mut aims, &Knowledge::default());
    assert_eq!(work.jobs(), 8);
    let room = [(node("q-1"), 9)].into();
    let mut turn = Turn::new(&aims, &room);
    work.line_up(&aims, &room);
    work.lease(9, &mut turn);
    let still: Vec<u32> = (0..2).filter(|number| turn.is_free(*number)).collect();
    assert_eq!(still, [1], "p-1 is not here, and q-1 has room left");
    let jobs: Vec<(u32, String, String)> =
        turn.given().into_iter().map(|(_, job)| (job.index, job.url, job.headers[0].1.clone())).collect();
    let expected = [(4, "0", "0"), (5, "1", "0"), (6, "0", "1"), (7, "1", "1")];
    assert_eq!(
        jobs,
        expected.map(|(index, path, variant)| (index, format!("https://a.com/{path}"), variant.to_owned()))
    );
}

#[test]
fn report_ends_a_job_or_sends_it_back_in_line() {
    let mut aims = aims(&["p-1"]);
    let now = Instant::now();
    let room = [("p-1", 9)];
    let mut work = Work::new(chunk(3, 1), &mut aims, &Knowledge::default());
    assert!(!failed(&mut work, 0, GONE, now), "nobody has it");
    work.resident(0, &node("p-1"), 10, 2, SAID);
    assert_eq!(work.progress().resident, [0, 0, 0], "nobody has it");
    assert_eq!(lease(&mut work, &aims, &room).len(), 3);

    work.resident(0, &node("p-1"), 10, 2, SAID);
    assert!(failed(&mut work, 1, GONE, now));
    for tries in 1..TRIES_MAX {
        assert!(!failed(&mut work, 2, PASSING, now), "try {tries} is not the last");
        assert!(!failed(&mut work, 2, PASSING, now), "a second report of the same lease counts for nothing");
        let pause = PAUSE.saturating_mul(1 << (tries - 1)).min(PAUSE_MAX);
        assert!(!work.retry_due(now + pause - Duration::from_millis(1)) && lease(&mut work, &aims, &room).is_empty());
        assert!(work.retry_due(now + pause + pause / 2), "up to half of it more");
        assert_eq!(lease(&mut work, &aims, &room), [("p-1".to_owned(), 2)]);
        assert!(!work.is_done());
    }
    assert!(failed(&mut work, 2, PASSING, now));
    assert!(work.is_done() && work.is_changed());
    assert_eq!(work.progress().resident, [1, 0, 0]);
    assert_eq!(work.progress().failed, [(1, GONE), (2, PASSING)].into());
    assert_eq!(work.progress().failed_at, [(1, (1, 5)), (2, (1, 5))].into());
    assert_eq!(work.progress().fetched[0], (10, 2));
}

#[test]
fn job_that_failed_before_says_so_and_one_that_was_put_off_does_not() {
    let mut aims = aims(&["p-1"]);
    let mut work = Work::new(chunk(2, 1), &mut aims, &Knowledge::default());
    let room = [(node("p-1"), 9)].into();
    work.line_up(&aims, &room);
    let given = |work: &mut Work| {
        let mut turn = Turn::new(&aims, &room);
        work.lease(usize::MAX, &mut turn);
        let mut given: Vec<(u32, bool)> = turn.given().into_iter().map(|(_, job)| (job.index, job.again)).collect();
        given.sort_unstable();
        given
    };
    assert_eq!(given(&mut work), [(0, false), (1, false)]);
    let mut now = Instant::now();
    failed(&mut work, 0, PASSING, now);
    failed(&mut work, 1, Cause::OriginBusy { seconds: 1 }, now);
    now += PAUSE_MAX;
    work.retry_due(now);
    assert_eq!(given(&mut work), [(0, true), (1, false)]);
    failed(&mut work, 0, Cause::OriginBusy { seconds: 1 }, now);
    work.retry_due(now + PAUSE_MAX);
    assert_eq!(given(&mut work), [(0, true)], "its failure is not forgotten");
}

#[test]
fn lost_lease_is_given_out_again_first() {
    let mut aims = aims(&["p-1"]);
    let mut work = Work::new(chunk(5, 1), &mut aims, &Knowledge::default());
    assert_eq!(lease(&mut work, &aims, &[("p-1", 2)]), [("p-1".to_owned(), 0), ("p-1".to_owned(), 1)]);
    work.hand_back(1);
    work.hand_back(1);
    work.hand_back(99);
    assert_eq!(lease(&mut work, &aims, &[("p-1", 1)]), [("p-1".to_owned(), 1)]);
    assert_eq!(lease(&mut work, &aims, &[("p-1", 9)]).len(), 3);
}

#[test]
fn deadline_fails_what_is_left() {
    let mut aims = aims(&["p-1", "q-1"]);
    let mut work = Work::new(chunk(2, 1), &mut aims, &Knowledge::default());
    lease(&mut work, &aims, &[("p-1", 2)]);
    work.resident(0, &node("p-1"), 10, 2, SAID);
    assert!(!failed(&mut work, 1, PASSING, Instant::now()));
    let cause = |group: Option<&Parent>| match group {
        Some(group) if group.pop.as_str() == "p" => Cause::Deadline,
        _ => Cause::NoTarget,
    };
    assert_eq!(work.give_up(9, cause), 3);
    assert!(work.is_done());
    assert_eq!(work.progress().failed, [(1, PASSING), (2, Cause::NoTarget), (3, Cause::NoTarget)].into());
    assert_eq!(work.progress().failed_at, [(1, (1, 5)), (2, (0, 9)), (3, (0, 9))].into());
    assert_eq!(work.rebuild(&mut Aims::new(topology(&["r-1"]))), None, "what has ended stays as it ended");

    let mut work = Work::new(chunk(2, 1), &mut Aims::new(topology(&[])), &Knowledge::default());
    let held = work.jobs();
    assert!(!work.is_done(), "a chunk that is aimed at nobody waits for somebody");
    assert_eq!(work.give_up(9, cause), 2);
    assert_eq!(work.progress().failed, [(0, Cause::NoTarget), (1, Cause::NoTarget)].into());
    assert!(work.is_done() && work.jobs() == held);
}

#[test]
fn what_came_of_a_try_is_over_once_another_has_brought_the_object() {
    let mut aims = aims(&["p-1", "p-2"]);
    let mut work = Work::new(chunk(30, 1), &mut aims, &Knowledge::default());
    let only_there = [("p-2", 99)];
    assert_eq!(lease(&mut work, &aims, &only_there).len(), 30);
    let now = Instant::now();
    for index in 0..30 {
        assert!(!failed(&mut work, index, PASSING, now));
    }
    assert!(work.retry_due(now + 2 * PAUSE));
    assert_eq!(lease(&mut work, &aims, &only_there).len(), 30);
    for index in 0..30 {
        work.resident(index, &node("p-2"), 10, 2, SAID);
    }
    lease(&mut work, &aims, &[("p-1", 0), ("p-2", 0)]);
    let back = work.put_back(&aims);
    assert!(back > 0, "the other one owns some");
    assert_eq!(work.give_up(9, |_| Cause::Deadline), back as u64);
    assert!(work.progress().failed.values().all(|cause| *cause == Cause::Deadline));
}

#[test]
fn change_of_topology_keeps_what_still_holds() {
    const BEFORE: [&str; 3] = ["p-1", "q-1", "q-2"];
    type Names = &'static [&'static str];
    let cases: [(&str, Names, Option<usize>, Names, usize); 5] = [
        ("nothing changed", &BEFORE, None, &["p/L2", "q/L2"], 4),
        ("another node where there were some", &["p-1", "p-2", "q-1", "q-2"], None, &["p/L2", "q/L2"], 4),
        ("a node that had something is gone", &["p-1", "q-2"], Some(1), &["p/L2", "q/L2"], 3),
        ("a new target in front", &["a-1", "p-1", "q-1", "q-2"], Some(0), &["a/L2", "p/L2", "q/L2"], 4),
        ("a target less", &["q-1", "q-2"], Some(0), &["q/L2"], 2),
    ];
    for (why, after, changed, targets, ended) in cases {
        let mut aims = aims(&BEFORE);
        let mut work = Work::new(chunk(4, 1), &mut aims, &Knowledge::default());
        lease(&mut work, &aims, &[("p-1", 9), ("q-1", 9)]);
        // p/L2: 0 resident, 1 failed. q/L2: 4 resident on q-1, 5 failed. The others are leased.
        work.resident(0, &node("p-1"), 10, 2, SAID);
        failed(&mut work, 1, GONE, Instant::now());
        work.resident(4, &node("q-1"), 10, 2, SAID);
        failed(&mut work, 5, GONE, Instant::now());
        work.kept();
        let mut aims = Aims::new(topology(after));
        assert_eq!(work.rebuild(&mut aims), changed, "{why}");
        assert_eq!(work.is_changed(), changed.is_some(), "{why}");
        let progress = work.progress();
        assert_eq!(progress.targets, targets, "{why}");
        let resident = progress.resident.iter().filter(|holder| **holder > 0).count();
        assert_eq!(resident + progress.failed.len(), ended, "{why}");
        assert_eq!(work.left, targets.len() * 4 - ended, "{why}");
        for holder in progress.resident.iter().filter(|holder| **holder > 0) {
            let node = &progress.nodes[*holder as usize - 1];
            assert!(aims.topology().members.contains_key(node), "{why}");
        }
        if changed.is_some() {
            let room: Vec<(&str, usize)> = after.iter().map(|name| (*name, 99)).collect();
            assert_eq!(lease(&mut work, &aims, &room).len(), work.left, "{why}: leases are over");
            assert_eq!(work.rebuild(&mut aims), None, "{why}: once is enough");
        }
    }
}

#[test]
fn store_that_was_lost_holds_nothing() {
    let mut aims = aims(&["p-1", "p-2"]);
    let mut work = Work::new(chunk(3, 1), &mut aims, &Knowledge::default());
    lease(&mut work, &aims, &[("p-1", 9)]);
    work.resident(0, &node("p-1"), 10, 2, SAID);
    work.resident(2, &node("p-1"), 10, 2, SAID);
    assert_eq!(work.lost(&node("p-2"), &mut aims), None, "it had nothing");
    assert_eq!(work.lost(&node("p-1"), &mut aims), Some(2));
    assert_eq!((work.left, &work.progress().resident[..]), (3, &[0, 0, 0][..]));
}

#[test]
fn kept_progress_is_taken_up_whatever_it_says() {
    let nodes = vec![node("p-1"), node("away")];
    let failed: BTreeMap<u32, Cause> = [(1, GONE), (9_999, GONE)].into();
    let kept = |targets: &[&str], resident: &[u32]| Progress {
        targets: targets.iter().map(|name| (*name).to_owned()).collect(),
        nodes: nodes.clone(),
        resident: resident.to_vec(),
        failed: failed.clone(),
        ..Progress::default()
    };
    let cases = [
        ("as it was left", kept(&["p/L2"], &[1, 0, 1, 0]), 1),
        ("on a node that is gone", kept(&["p/L2"], &[2, 0, 1, 0]), 2),
        ("on no node", kept(&["p/L2"], &[77, 0, u32::MAX, 0]), 3),
        ("too short", kept(&["p/L2"], &[1]), 2),
        ("too long", kept(&["p/L2", "p/L2"], &[1; 99]), 0),
        ("of another target", kept(&["x/L2"], &[1, 1, 1, 1]), 4),
        ("of none", kept(&[], &[]), 4),
    ];
    for (why, progress, left) in cases {
        let mut aims = aims(&["p-1"]);
        let work = Work::new(Chunk { progress, ..chunk(4, 1) }, &mut aims, &Knowledge::default());
        assert_eq!((work.left, work.is_done()), (left, left == 0), "{why}");
    }
}

#[test]
fn node_that_moved_holds_nothing_for_its_old_place() {
    let mut aims = aims(&["p-1", "p-2"]);
    let mut work = Work::new(chunk(1, 1), &mut aims, &Knowledge::default());
    lease(&mut work, &aims, &[("p-1", 9)]);
    work.resident(0, &node("p-1"), 10, 2, SAID);
    let mut moved = topology(&["p-2", "q-2"]);
    moved.members.insert(node("p-1"), model::Member { name: node("p-1"), ..member("q-1") });
    let work = Work::new(
        Chunk { progress: work.progress().clone(), ..chunk(1, 1) },
        &mut Aims::new(moved),
        &Knowledge::default(),
    );
    assert_eq!(work.left, 2, "neither of its old place nor of the new one");
}

#[test]
fn keys_are_read_from_what_was_kept() {
    let cases = [
        ("http://a.com/x?y", Some("a.com/x?y")),
        ("https://A.com:443/x", Some("a.com/x")),
        ("a.com/x", Some("a.com/x")),
        ("a.com", Some("a.com/")),
        ("http:///x", None),
    ];
    for (path, expected) in cases {
        assert_eq!(key_of(path).map(|key| key.to_string()).as_deref(), expected, "{path}");
    }
}
