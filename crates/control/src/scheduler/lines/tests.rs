//! What is shown of objects, and that progress never goes back.

use super::super::work::tests::chunk;
use super::*;
use crate::state::chunks::Progress;
use crate::testing::node;

const GONE: Cause = Cause::OriginStatus(404);

#[test]
fn line_is_what_all_its_jobs_came_to() {
    // Two paths, two targets: the jobs of path 0 are 0 and 2.
    type Jobs = &'static [u32];
    let cases: [(&str, Jobs, Jobs, u64, LineState); 7] = [
        ("nothing loaded yet", &[], &[], 0, LineState::Going(0)),
        ("nothing done", &[0, 1, 0, 1], &[], 0, LineState::Going(0)),
        ("half done", &[1, 0, 0, 0], &[], 0, LineState::Going(5_000)),
        ("done, but not the chunk", &[1, 0, 1, 0], &[], 0, LineState::Resident),
        ("done", &[1, 1, 1, 1], &[], 5, LineState::Resident),
        ("failed in one place, under way in the other", &[0, 0, 0, 0], &[2], 0, LineState::Going(5_000)),
        ("failed in one place", &[1, 0, 0, 0], &[2], 0, LineState::Failed(GONE)),
    ];
    for (why, resident, failed, finished_ms, expected) in cases {
        let progress = Progress {
            resident: resident.to_vec(),
            failed: failed.iter().map(|index| (*index, GONE)).collect(),
            ..Progress::default()
        };
        assert_eq!(line_state(&Chunk { progress, finished_ms, ..chunk(2, 1) }, 0), expected, "{why}");
    }
    let mut cancelled = Chunk { finished_ms: 5, ..chunk(2, 1) };
    cancelled.steering.cancelled_ms = 5;
    assert_eq!(line_state(&cancelled, 1), LineState::Failed(Cause::Cancelled), "nobody had loaded it");
    cancelled.progress.resident = vec![1, 0, 1, 1];
    assert_eq!(line_state(&cancelled, 0), LineState::Resident, "what was resident before that is");
    assert_eq!(line_state(&cancelled, 1), LineState::Failed(Cause::Cancelled));
}

#[test]
fn progress_is_by_bytes_where_all_lengths_are_known() {
    type Fetched = &'static [(u64, u32)];
    type UnderWay = &'static [(u32, (u64, u64))];
    // One path in two variants for two targets: jobs 0 and 1 for the first, 2 and 3 for the second.
    let cases: [(&str, &[u32], Fetched, UnderWay, u16); 8] = [
        ("nothing", &[0; 4], &[], &[], 0),
        ("one of four, the others unknown", &[1, 0, 0, 0], &[(100, 1), (0, 0), (0, 0), (0, 0)], &[], 2_500),
        ("half of one of four", &[0; 4], &[], &[(0, (50, 100))], 1_250),
        (
            "a long variant and a short one",
            &[1, 0, 1, 0],
            &[(100, 1), (0, 0), (100, 1), (0, 0)],
            &[(1, (0, 900))],
            1_000,
        ),
        ("the long one alone", &[0, 1, 0, 0], &[(0, 0), (900, 1), (0, 0), (0, 0)], &[(0, (0, 100))], 4_500),
        ("all but the proof", &[0; 4], &[], &[(0, (1, 1)), (1, (1, 1)), (2, (1, 1)), (3, (1, 1))], 9_900),
        ("more than was announced", &[0; 4], &[], &[(0, (99, 1)), (1, (1, 1))], 5_000),
        ("empty objects", &[1, 1, 0, 0], &[(0, 1); 4], &[], 5_000),
    ];
    for (why, resident, fetched, under_way, expected) in cases {
        let (resident, fetched) = (resident.to_vec(), fetched.to_vec());
        let under_way = under_way.iter().copied().collect();
        let progress = Progress { resident, fetched, under_way, ..Progress::default() };
        assert_eq!(hundredths(&progress, 1, 2, 0), expected, "{why}");
        let progress = Progress { shown: vec![7_000], ..progress };
        assert_eq!(hundredths(&progress, 1, 2, 0), expected.max(7_000), "{why}: it never goes back");
    }
}

#[test]
fn jobs_tell_who_has_what_and_who_said_why_not() {
    let progress = Progress {
        targets: vec!["p/L2".into(), "q/L2".into()],
        nodes: vec![node("p-1")],
        resident: vec![1, 0, 0, 0],
        failed: [(2, GONE)].into(),
        failed_at: [(2, (1, 77))].into(),
        told_by: vec![node("q-9")],
        fetched: vec![(500, 20), (0, 0), (0, 0), (0, 0)],
        under_way: [(3, (1, 9))].into(),
        shown: Vec::new(),
        shape: 0,
    };
    let chunk = Chunk { progress, ..chunk(2, 1) };
    let of = |path| jobs_of(&chunk, path).into_iter().map(|job| (job.target, job.is)).collect::<Vec<_>>();
    let resident = JobIs::Resident { node: Some(node("p-1")), bytes: Some(500), took_ms: Some(20) };
    let failed = JobIs::Failed { cause: GONE, node: Some(node("q-9")), at_ms: Some(77) };
    assert_eq!(of(0), [("p/L2".to_owned(), resident), ("q/L2".to_owned(), failed)]);
    assert_eq!(of(1), [("p/L2".to_owned(), JobIs::Open), ("q/L2".to_owned(), JobIs::UnderWay(1, 9))]);
    // As stored by an earlier version.
    let old: Progress =
        serde_json::from_str(r#"{"targets":["p/L2"],"nodes":["p-1"],"resident":[1,0],"failed":{"1":"evicted"}}"#)
            .unwrap();
    let chunk = Chunk { progress: old, ..super::super::work::tests::chunk(2, 1) };
    assert_eq!(jobs_of(&chunk, 0)[0].is, JobIs::Resident { node: Some(node("p-1")), bytes: None, took_ms: None });
    assert_eq!(jobs_of(&chunk, 1)[0].is, JobIs::Failed { cause: Cause::Evicted, node: None, at_ms: None });
}
