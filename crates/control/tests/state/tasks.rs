//! Tasks: submitted, asked for, completed, forgotten.

use std::collections::BTreeMap;
use std::time::Duration;

use control::state::State;
use control::state::chunks::{Filter, Kind, Outline, Progress};
use control::state::completions::Amounts;
use control::state::memory::{Fault, Faults, Memory};
use control::state::submit::{Accepted, Accepting, Group, OPEN_REFRESHES_MAX, QueueMax, Refused};
use model::{Coverage, Entry, NodeName, Revision};

use control::state::steering::Steering;

use super::{all, name, prefetch, refresh, step};

pub(crate) async fn submissions_are_whole_or_not_at_all(state: &State) {
    let (accepting, open) = Accepting::start(state.clone()).await.unwrap();

    // Many at once: one transaction or several, each submission whole.
    let answers =
        futures_util::future::join_all((0..9).map(|n| accepting.submit(prefetch(&format!("n{n}"), 100)))).await;
    let first = answers[0].as_ref().unwrap().tasks.clone();
    assert!(
        answers.iter().take(5).all(|answer| answer.as_ref().unwrap().tasks == first),
        "500 URLs of one second share an id"
    );
    assert_ne!(answers[5].as_ref().unwrap().tasks, first, "the next 500 have another");
    assert_eq!(accepting.submit(prefetch("n0", 1)).await, Err(Refused::NonceUsed));
    assert_eq!(accepting.submit(prefetch("over", 101)).await, Err(Refused::DayUsedUp));
    assert_eq!(state.spent("me", 7).await.unwrap(), [("preload".to_owned(), 900)].into());
    assert!(
        accepting.submit(prefetch("over", 100)).await.is_ok(),
        "a refused nonce was not spent, and the rest of the day is there"
    );

    let mut queue = prefetch("queue", 1);
    queue.charge.limit = None;
    queue.queue_max = QueueMax::Urls(1_000);
    assert_eq!(accepting.submit(queue.clone()).await, Err(Refused::QueueFull));
    let outlines = state.outlines("me", &all(), None, 100).await.unwrap();
    assert_eq!(
        outlines.iter().map(|outline| outline.lines).sum::<u64>(),
        1_000,
        "nothing of what was refused is there"
    );

    // What has ended makes room; what it came to is kept.
    let first = state.open_prefetches("me", 0, 1).await.unwrap()[0].id;
    let chunks = state.chunks(&[first]).await.unwrap();
    let done = Progress {
        targets: vec!["p/L2".into()],
        nodes: vec![NodeName::parse("n").unwrap()],
        resident: vec![1; 100],
        ..Progress::default()
    };
    state.keep_progress(&[(chunks[0].id, 1_000_500, &done)]).await.unwrap();
    open.ended("me", 100);
    assert!(accepting.submit(queue).await.is_ok());
    let kept = state.chunks(&[chunks[0].id]).await.unwrap();
    assert_eq!((kept[0].finished_ms, &kept[0].progress, &kept[0].paths), (1_000_500, &done, &chunks[0].paths));

    // What is steered has a task of its own, by which it is steered on.
    let mut tasks = Vec::new();
    for (nonce, priority, later_ms) in
        [("usual 1", 5, 0), ("urgent 9", 9, 0), ("in a minute", 5, 60_000), ("usual 2", 5, 0)]
    {
        let mut one = prefetch(nonce, 1);
        (one.account, one.charge.limit) = ("another".into(), None);
        let from_ms = one.now_ms + later_ms;
        one.groups[0].steering = Steering { priority, ..Steering::from(from_ms) };
        tasks.extend(accepting.submit(one).await.unwrap().tasks);
    }
    assert_eq!(tasks[0], tasks[3]);
    assert!(tasks[1] != tasks[0] && tasks[2] != tasks[0] && tasks[1] != tasks[2], "{tasks:?}");

    // Directories have an id each, files share one; both are in the log before they are answered.
    let head = state.head().await.unwrap();
    let Accepted { tasks } = accepting.submit(refresh("r1", Kind::RefreshDirectory, &["/a/", "/b/"])).await.unwrap();
    assert_eq!(tasks.len(), 2);
    let Accepted { tasks } = accepting.submit(refresh("r2", Kind::RefreshFile, &["/c", "/d"])).await.unwrap();
    assert_eq!(tasks.len(), 1);
    let entries = state.entries_after(head, 10).await.unwrap();
    assert_eq!(entries.len(), 3, "one entry a chunk");
    assert_eq!(state.open_refreshes(10).await.unwrap(), entries.iter().map(|entry| entry.revision).collect::<Vec<_>>());
    assert_eq!(state.complete_refreshes(&step(entries[0].revision, entries[1].revision, 5, &[])).await.unwrap(), 2);
    assert_eq!(state.open_refreshes(10).await.unwrap(), [entries[2].revision]);
    let by_task = Filter { tasks, ..all() };
    assert_eq!(state.outlines("me", &by_task, None, 10).await.unwrap().len(), 1);
    assert_eq!(state.outlines("you", &by_task, None, 10).await.unwrap(), [], "another account's");
    assert_eq!(state.outlines("me", &Filter { domain: Some("b.com".into()), ..all() }, None, 10).await.unwrap(), []);
    assert_eq!(
        state.outlines("me", &Filter { kinds: vec![Kind::RefreshFile], ..all() }, None, 10).await.unwrap().len(),
        1
    );
}

pub(crate) async fn queries_are_filtered_ordered_and_limited(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let mut tasks = Vec::new();
    for (n, at) in [(1, 2_000_000), (2, 2_001_000), (3, 2_002_000)] {
        let mut submission = prefetch(&format!("call {n}"), n);
        (submission.account, submission.now_ms) = ("asks".into(), at);
        tasks.extend(accepting.submit(submission).await.unwrap().tasks);
        let mut submission = refresh(&format!("s{n}"), Kind::RefreshFile, &["/a", "/b", "/c", "/d"]);
        (submission.account, submission.now_ms) = ("asks".into(), at);
        submission.groups[0].domain = name(&format!("d{n}.com"));
        tasks.extend(accepting.submit(submission).await.unwrap().tasks);
    }
    let lines = async |filter: Filter, before: Option<Outline>, most: u32| -> Vec<u64> {
        let outlines = state.outlines("asks", &filter, before, most).await.unwrap();
        assert!(outlines.is_sorted_by(|a, b| a.id > b.id), "the newest first");
        outlines.iter().map(|outline| outline.lines).collect()
    };
    let newest = state.outlines("asks", &all(), None, 1).await.unwrap()[0];
    let between = |from_ms, to_ms| Filter { from_ms, to_ms, ..Filter::default() };
    type Case<'a> = (&'a str, Filter, Option<Outline>, u32, &'a [u64]);
    let cases: [Case<'_>; 12] = [
        ("all", all(), None, 100, &[4, 3, 4, 2, 4, 1]),
        ("the first", all(), None, 2, &[4, 3]),
        ("none", all(), None, 0, &[]),
        ("before is exclusive", all(), Some(newest), 2, &[3, 4]),
        ("the ends of a span are in it", between(2_000_000, 2_001_000), None, 100, &[4, 2, 4, 1]),
        ("and nothing else is", between(2_000_001, 2_000_999), None, 100, &[]),
        ("a span that ends before it begins", between(2_002_000, 2_000_000), None, 100, &[]),
        ("tasks", Filter { tasks: vec![tasks[0], tasks[3], u64::MAX >> 1], ..all() }, None, 100, &[4, 1]),
        ("a kind", Filter { kinds: vec![Kind::Prefetch], ..all() }, None, 100, &[3, 2, 1]),
        ("two kinds", Filter { kinds: vec![Kind::Prefetch, Kind::RefreshTag], ..all() }, None, 100, &[3, 2, 1]),
        ("a domain", Filter { domain: Some("d2.com".into()), ..all() }, None, 100, &[4]),
        (
            "a domain and a kind",
            Filter { domain: Some("d2.com".into()), kinds: vec![Kind::Prefetch], ..all() },
            None,
            100,
            &[],
        ),
    ];
    for (what, filter, before, most, expected) in cases {
        if (before, most) == (None, 100) {
            let counted = state.count_lines("asks", &filter).await.unwrap();
            assert_eq!(counted, expected.iter().sum::<u64>(), "{what}, counted");
        }
        assert_eq!(lines(filter, before, most).await, expected, "{what}");
    }

    let ids: Vec<u64> = state.outlines("asks", &all(), None, 100).await.unwrap().iter().map(|o| o.id).collect();
    let chunks = state.chunks(&[ids[4], ids[0], ids[4], u64::MAX >> 1, ids[2]]).await.unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>(), [ids[0], ids[2], ids[4]], "each once");
    assert_eq!(state.chunks(&[]).await.unwrap(), []);
    let chunk = &chunks[0];
    assert_eq!((chunk.account.as_str(), chunk.domain.as_str(), chunk.created_ms), ("asks", "d3.com", 2_002_000));
    assert_eq!(
        (chunk.kind, chunk.paths.len(), chunk.params.area, chunk.task),
        (Kind::RefreshFile, 4, Coverage::Global, tasks[5])
    );

    let open: Vec<u64> = state.open_prefetches("asks", 0, 100).await.unwrap().iter().map(|chunk| chunk.id).collect();
    assert_eq!(open, [ids[5], ids[3], ids[1]], "the oldest first");
    let some = state.open_prefetches("asks", ids[5], 1).await.unwrap();
    assert_eq!(some.iter().map(|chunk| chunk.id).collect::<Vec<_>>(), [ids[3]], "after is exclusive");
    assert!(state.open_prefetches("nobody", 0, 100).await.unwrap().is_empty());
    let mut accounts = state.open_accounts().await.unwrap();
    accounts.retain(|(account, _, _)| account == "asks");
    assert_eq!(accounts, [("asks".to_owned(), 3, 6)]);

    // What has ended stays as it ended.
    let progress = |target: &str| Progress { targets: vec![target.into()], ..Progress::default() };
    let (going, ended, late) = (progress("going/L1"), progress("ended/L1"), progress("late/L1"));
    state.keep_progress(&[(ids[5], 0, &going), (ids[5], 7, &ended), (ids[5], 9, &late)]).await.unwrap();
    let kept = &state.chunks(&[ids[5]]).await.unwrap()[0];
    assert_eq!((kept.finished_ms, &kept.progress), (7, &ended));
    let refreshes = state.open_refreshes(1_000).await.unwrap();
    assert!(refreshes.is_sorted_by(|a, b| a < b));
    assert_eq!(state.open_refreshes(2).await.unwrap(), refreshes[..2]);
    let (first, last) = (chunks[1].revision, chunks[0].revision);
    assert_eq!(
        state.complete_refreshes(&step(last, first, 5, &[])).await.unwrap(),
        0,
        "a span that ends before it begins"
    );
    assert_eq!(
        state.complete_refreshes(&step(first, last, 0, &[])).await.unwrap(),
        2,
        "both ends are in it, prefetches are not"
    );
    assert_eq!(
        state.complete_refreshes(&step(first, last, 5, &[])).await.unwrap(),
        0,
        "what is complete stays as it is"
    );
    assert!(state.chunks(&[ids[0]]).await.unwrap()[0].finished_ms > 0, "whatever the clock says");
    assert_eq!(
        state.complete_refreshes(&step(Revision::ZERO, first, 5, &[])).await.unwrap() as usize,
        refreshes.len() - 2
    );
}

/// Minutes are counted as they come: whatever span is asked for, its count is that of what is listed.
pub(crate) async fn lines_are_counted_as_they_are_listed(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    for (n, at) in [59_999, 60_000, 60_001, 119_999, 120_000, 300_000, 300_500].into_iter().enumerate() {
        let mut submission = prefetch(&format!("counted {n}"), n + 1);
        (submission.account, submission.now_ms) = ("counts".into(), at);
        accepting.submit(submission).await.unwrap();
        let mut submission = refresh(&format!("counted r{n}"), Kind::RefreshDirectory, &["/a/", "/b/"]);
        (submission.account, submission.now_ms) = ("counts".into(), at);
        submission.groups[0].domain = name("counted.com");
        accepting.submit(submission).await.unwrap();
    }
    let edges =
        [0, 59_999, 60_000, 60_001, 119_999, 120_000, 120_001, 180_000, 300_000, 300_500, 360_000, u64::MAX >> 1];
    let mut asked = Vec::new();
    for (at, from_ms) in edges.into_iter().enumerate() {
        asked.extend(edges[at..].iter().map(|to_ms| Filter { from_ms, to_ms: *to_ms, ..Filter::default() }));
    }
    let same = async |account: &str| -> u64 {
        let mut whole = 0;
        for span in &asked {
            for filter in [
                span.clone(),
                Filter { kinds: vec![Kind::RefreshDirectory, Kind::RefreshTag], ..span.clone() },
                Filter { domain: Some("counted.com".into()), ..span.clone() },
                Filter { open: true, ..span.clone() },
                Filter { domain: Some("counted.com".into()), kinds: vec![Kind::Prefetch], ..span.clone() },
            ] {
                let listed = state.outlines(account, &filter, None, 1_000).await.unwrap();
                let listed: u64 = listed.iter().map(|outline| outline.lines).sum();
                assert_eq!(state.count_lines(account, &filter).await.unwrap(), listed, "{account} {filter:?}");
                whole = whole.max(listed);
            }
        }
        whole
    };
    assert_eq!(same("counts").await, 28 + 14);
    assert_eq!(same("nobody").await, 0);
    // Some of it ends and is forgotten, long before the rest.
    let open = state.open_prefetches("counts", 0, 4).await.unwrap();
    let nothing = Progress::default();
    let ended: Vec<_> = open.iter().map(|chunk| (chunk.id, 200_000, &nothing)).collect();
    state.keep_progress(&ended).await.unwrap();
    state.forget(200_001, 0, 0).await.unwrap();
    assert_eq!(same("counts").await, 28 + 14 - (1 + 2 + 3 + 4));
}

pub(crate) async fn what_is_past_its_time_is_forgotten(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let ended = state.outlines("me", &all(), None, 100).await.unwrap().len() as u64;
    let mut later = prefetch("later", 1);
    (later.now_ms, later.charge.day) = (3_000_000, 8);
    accepting.submit(later.clone()).await.unwrap();
    assert!(crate::spend(state, "key", "alone", 2_000_000).await);
    assert!(!crate::spend(state, "key", "alone", 2_000_000).await);
    assert!(!crate::spend(state, "key", "later", 3_000_000).await, "a submission spent it");
    assert!(crate::spend(state, "other key", "later", 3_000_000).await);

    assert!(crate::spend(state, "key", "last", 2_500_000).await);
    state.create_join_token("over", "secret", 1_999_999).await.unwrap();
    state.create_join_token("last", "secret", 2_000_000).await.unwrap();

    state.forget(2_000_000, 8, 2_500_000).await.unwrap();
    assert!(!crate::spend(state, "key", "last", 3_000_000).await, "what is of that very moment stays");
    assert!(state.create_join_token("last", "secret", 2_000_000).await.is_err());
    assert!(state.create_join_token("over", "secret", 2_000_000).await.is_ok(), "it was forgotten");
    assert!(crate::spend(state, "key", "alone", 3_000_000).await, "its window is over");
    assert!(!crate::spend(state, "key", "later", 3_000_000).await);
    let left = state.outlines("me", &all(), None, 100).await.unwrap().len() as u64;
    assert!(
        left < ended + 1 && left > 1,
        "{left} of {ended}: what has ended is gone, what is open stays however old it is"
    );
    assert!(state.spent("me", 7).await.unwrap().is_empty());
    assert_eq!(state.spent("me", 8).await.unwrap(), [("preload".to_owned(), 1)].into());
}

/// A task ends with the last of its chunks, and is there whole for as long as any of them has to be.
pub(crate) async fn task_is_forgotten_whole(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    for (nonce, now_ms) in [("one", 1_000_000), ("another", 1_000_001), ("of the next second", 1_002_000)] {
        let mut submission = prefetch(nonce, 2);
        (submission.account, submission.now_ms, submission.charge.limit) = ("whole".into(), now_ms, None);
        accepting.submit(submission).await.unwrap();
    }
    let ids: Vec<u64> = state.open_prefetches("whole", 0, 9).await.unwrap().iter().map(|chunk| chunk.id).collect();
    let chunks = state.chunks(&ids).await.unwrap();
    assert!(chunks[2].task == chunks[1].task && chunks[1].task != chunks[0].task);
    let left = async || {
        let left = state.outlines("whole", &all(), None, 9).await.unwrap();
        left.iter().map(|outline| outline.id).rev().collect::<Vec<_>>()
    };
    let nothing = Progress::default();
    state.keep_progress(&[(ids[0], 1_100_000, &nothing), (ids[2], 1_100_000, &nothing)]).await.unwrap();
    state.forget(1_500_000, 0, 0).await.unwrap();
    assert_eq!(left().await, ids[..2], "what is alone in its task goes, what belongs to one that goes on stays");
    state.keep_progress(&[(ids[1], 1_500_000, &nothing)]).await.unwrap();
    state.forget(1_500_000, 0, 0).await.unwrap();
    assert_eq!(left().await, ids[..2], "it has only just ended");
    state.forget(1_500_001, 0, 0).await.unwrap();
    assert!(left().await.is_empty());
}

pub(crate) async fn refreshes_of_a_domain_are_bounded(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let paths: Vec<String> = (0..2_000).map(|n| format!("/{n}")).collect();
    let of = |nonce: &str, domain: &str, lines: usize| {
        let paths: Vec<&str> = paths.iter().take(lines).map(String::as_str).collect();
        let mut submission = refresh(nonce, Kind::RefreshFile, &paths);
        submission.groups[0].domain = name(domain);
        submission
    };
    let head = state.head().await.unwrap();
    let count = OPEN_REFRESHES_MAX / 2_000;
    for n in 0..count {
        assert!(accepting.submit(of(&format!("f{n}"), "full.com", 2_000)).await.is_ok());
    }
    for _ in 0..2 {
        assert_eq!(accepting.submit(of("one more", "full.com", 1)).await, Err(Refused::RefreshesFull));
    }
    assert!(accepting.submit(of("elsewhere", "room.com", 1)).await.is_ok());
    let (again, _) = Accepting::start(state.clone()).await.unwrap();
    let refused = again.submit(of("one more", "full.com", 1)).await;
    assert_eq!(refused, Err(Refused::RefreshesFull), "a process that restarted counts what is there");

    state.complete_refreshes(&step(Revision(head.0 + 1), Revision(head.0 + 4), 5, &[])).await.unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while accepting.submit(of("one more", "full.com", 2_000)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "what is complete makes room");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

pub(crate) async fn what_completed_a_refresh_is_kept_with_it(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let head = state.head().await.unwrap().0;
    let directories: Vec<String> = (0..8).map(|n| format!("/completed/{n}/")).collect();
    let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
    let mut submission = refresh("completed", Kind::RefreshDirectory, &directories);
    submission.groups[0].domain = name("completed.com");
    accepting.submit(submission).await.unwrap();
    let at = |n: u64| Revision(head + n);
    let of = |revision| async move { state.completion_of(revision).await.unwrap() };
    let members: [(&str, u64, u64); 3] = [("n1", head + 9, 1_999_990), ("n2", 0, 0), ("serving", head + 4, 2_000_010)];

    let nothing = step(at(100), at(200), 2_000_000, &members);
    assert_eq!(state.complete_refreshes(&nothing).await.unwrap(), 0);
    assert_eq!(of(at(150)).await, None, "a step that completes nothing leaves nothing");
    let (first, second) = (step(at(1), at(3), 2_000_000, &members), step(at(6), at(8), 3_000_000, &members[..2]));
    assert_eq!(state.complete_refreshes(&first).await.unwrap(), 3);
    assert_eq!(state.complete_refreshes(&second).await.unwrap(), 3);
    for (revision, expected) in [(1, Some(&first)), (3, Some(&first)), (4, None), (6, Some(&second)), (9, None)] {
        assert_eq!(of(at(revision)).await.as_ref(), expected, "revision {revision}");
    }

    let node = |name: &str| NodeName::parse(name).unwrap();
    let swept = |revision: u64, name: &str, amount: (u64, u64)| (at(revision), [(node(name), amount)].into());
    let told = [swept(1, "n1", (1, 10)), swept(3, "n2", (2, 20)), swept(4, "n1", (9, 90)), swept(7, "gone", (9, 90))];
    state.add_swept(&told.into()).await.unwrap();
    state.add_swept(&[swept(1, "n1", (4, 40))].into()).await.unwrap();
    let each = [((at(1), 0), (5, 50)), ((at(3), 1), (2, 20))];
    assert_eq!(of(at(2)).await.unwrap().swept, Amounts::Each(each.into()));
    assert_eq!(of(at(7)).await.unwrap().swept, Amounts::default(), "who was no member is left out");

    // So many amounts that they are told together.
    let wide = step(Revision(head + 5_000), Revision(head + 9_000), 3_000_000, &members);
    let mut many = refresh("many", Kind::RefreshDirectory, &["/wide/"]);
    many.groups[0].domain = name("completed.com");
    let before = state.head().await.unwrap();
    state.append(&vec![Entry::Settings(model::Settings::default()); (head + 5_000 - before.0) as usize]).await.unwrap();
    accepting.submit(many).await.unwrap();
    assert_eq!(state.complete_refreshes(&wide).await.unwrap(), 1);
    let amounts = |from: u64, to: u64| (from..to).map(|n| swept(5_000 + n, "n2", (1, 2))).collect();
    state.add_swept(&amounts(0, 1_024)).await.unwrap();
    assert!(matches!(of(at(5_001)).await.unwrap().swept, Amounts::Each(each) if each.len() == 1_024));
    state.add_swept(&amounts(1_000, 1_030)).await.unwrap();
    assert_eq!(of(at(5_001)).await.unwrap().swept, Amounts::Together([(1, (1_054, 2_108))].into()));

    assert_eq!(state.forget_completions(2_500_000, u64::MAX >> 1).await.unwrap(), 0);
    assert_eq!((of(at(1)).await, of(at(6)).await.as_ref()), (None, Some(&second)), "as old as the tasks");
    assert!(state.forget_completions(0, 1).await.unwrap() > 0, "too much is kept");
    assert_eq!(of(at(6)).await, None);
}

pub(crate) async fn a_queue_may_count_calls(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let call = |nonce: &str, urls| {
        let mut call = prefetch(nonce, urls);
        call.account = "caller".into();
        call.charge.limit = None;
        call.queue_max = QueueMax::Requests(3);
        // A call may be of several domains, and of more than fits in a chunk.
        let other = call.groups[0].clone();
        call.groups.push(Group { domain: name("b.com"), ..other });
        call
    };
    // At once, so that some are decided together.
    let answers =
        futures_util::future::join_all((0..4).map(|n| accepting.submit(call(&format!("call {n}"), 600)))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3, "{answers:?}");
    assert_eq!(accepting.submit(call("a call too many", 1)).await, Err(Refused::QueueFull));

    let ids: Vec<u64> = state.open_prefetches("caller", 0, 100).await.unwrap().iter().map(|chunk| chunk.id).collect();
    let mut chunks = state.chunks(&ids).await.unwrap();
    chunks.reverse();
    let calls: BTreeMap<u64, Vec<u64>> = chunks.iter().fold(BTreeMap::new(), |mut calls, chunk| {
        calls.entry(chunk.call).or_default().push(chunk.id);
        calls
    });
    assert_eq!(calls.len(), 3);
    let (call_of, of_one) = calls.first_key_value().unwrap();
    assert_eq!(*call_of, of_one[0], "a call is known by its first chunk");
    let done = Progress::default();
    let all_but_one: Vec<_> = of_one.iter().skip(1).map(|id| (*id, 1_000_500, &done)).collect();
    state.keep_progress(&all_but_one).await.unwrap();
    assert_eq!(
        accepting.submit(call("a call too early", 1)).await,
        Err(Refused::QueueFull),
        "one of its chunks is open"
    );
    state.keep_progress(&[(of_one[0], 1_000_500, &done)]).await.unwrap();
    assert!(accepting.submit(call("a call in time", 1)).await.is_ok());

    // What another product has open counts for a queue of its own.
    let mut other = call("of another product", 1);
    assert_eq!(accepting.submit(call("of the same product", 1)).await, Err(Refused::QueueFull));
    other.charge.bucket = "vod_preload";
    assert!(accepting.submit(other.clone()).await.is_ok());
    (other.nonce.1, other.queue_max) = ("by URLs".into(), QueueMax::Urls(4));
    assert!(accepting.submit(other.clone()).await.is_ok(), "two calls of two URLs");
    other.nonce.1 = "too many".into();
    assert_eq!(accepting.submit(other).await, Err(Refused::QueueFull));
}

#[tokio::test(start_paused = true)]
async fn submission_whose_answer_was_lost_is_found_though_nobody_submits_anything_after_it() {
    let faults = Faults::default();
    let state = Memory::default().open(&faults);
    let (accepting, open) = Accepting::start(state).await.unwrap();
    let mut committed = accepting.committed();
    // It is committed, and the database is away for a moment.
    faults.push(Fault::AfterCommit);
    faults.push(Fault::Unavailable);
    assert_eq!(accepting.submit(prefetch("n", 3)).await, Err(Refused::Unavailable));
    assert_eq!((faults.waiting(), open.of("me")), (0, (0, 0)));
    tokio::time::timeout(Duration::from_secs(60), committed.changed()).await.expect("it is found").unwrap();
    assert_eq!(open.of("me"), (1, 3));
}
