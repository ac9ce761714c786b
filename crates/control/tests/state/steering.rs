//! Steering as every store keeps it.

use control::state::State;
use control::state::chunks::Progress;
use control::state::steering::{NotSteered, Steer, Steering};
use control::state::submit::Accepting;

use super::prefetch;

pub(crate) async fn prefetches_are_steered_whole_or_not_at_all(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let submit = async |nonce: &str, account: &str, now_ms: u64| {
        let mut submission = prefetch(nonce, 3);
        (submission.account, submission.now_ms) = (account.into(), now_ms);
        submission.charge.limit = None;
        submission.groups[0].steering = Steering { priority: 7, ..Steering::from(5_000_000) };
        accepting.submit(submission).await.unwrap().tasks[0]
    };
    let (one, two) = (submit("steer 1", "steers", 3_000_000).await, submit("steer 2", "steers", 6_000_000).await);
    let other = submit("steer 3", "steers not", 3_000_000).await;
    let standing = async || state.open_prefetches("steers", 0, 10).await.unwrap();
    let first = standing().await;
    assert_eq!(first.iter().map(|chunk| chunk.urls).collect::<Vec<_>>(), [3, 3]);
    let from = |from_ms| Steering { priority: 7, ..Steering::from(from_ms) };
    assert_eq!(first[0].steering, from(5_000_000));
    assert_eq!(first[1].steering, from(6_000_000), "never before it was submitted");

    let heard = (state.last_steering().await.unwrap(), u64::MAX >> 1);
    assert_eq!(state.steered_after(heard, 10).await.unwrap(), []);
    let refused =
        [(vec![one, u64::MAX >> 1], NotSteered::NoTask(u64::MAX >> 1)), (vec![one, other], NotSteered::NoTask(other))];
    for (tasks, why) in refused {
        assert_eq!(state.steer("steers", &tasks, Steer::Cancel, 1).await.unwrap(), Err(why));
    }
    assert_eq!(standing().await, first, "nothing of what was refused was done");
    assert_eq!(state.steered_after(heard, 10).await.unwrap(), []);

    assert_eq!(state.steer("steers", &[two, one], Steer::Pause, 7_000_000).await.unwrap(), Ok(vec![3, 3]));
    assert_eq!(state.steer("steers", &[one], Steer::Priority(2), 7_000_000).await.unwrap(), Ok(vec![3]));
    assert_eq!(state.steer("steers", &[one], Steer::Resume, 9_000_000).await.unwrap(), Ok(vec![3]));
    let now = standing().await;
    assert_eq!(now[0].steering, Steering { priority: 2, ..Steering::from(7_000_000) });
    assert_eq!(now[1].steering, Steering { paused_ms: 7_000_000, ..from(6_000_000) });
    let steered = state.steered_after(heard, 10).await.unwrap();
    let ids: Vec<u64> = steered.iter().map(|one| one.at.1).collect();
    assert_eq!(ids, [now[1].id, now[0].id], "each once, the last one last");
    assert_eq!((steered[1].account.as_str(), steered[1].steering), ("steers", now[0].steering));
    assert_eq!(state.steered_after(steered[0].at, 10).await.unwrap(), steered[1..]);
    assert_eq!(state.steered_after(heard, 1).await.unwrap(), steered[..1]);
    assert!(state.last_steering().await.unwrap() >= steered[1].at.0);

    // What is offered is found by whoever looks for steerings, and is steered as before.
    state.offer(&[now[1].id, u64::MAX >> 1]).await.unwrap();
    state.offer(&[]).await.unwrap();
    let offered = state.steered_after((state.last_steering().await.unwrap() - 1, u64::MAX >> 1), 10).await.unwrap();
    let offered: Vec<_> = offered.iter().map(|one| (one.at.1, one.steering)).collect();
    assert_eq!((offered, standing().await), (vec![(now[1].id, now[1].steering)], now.clone()));

    // What is cancelled has ended, and what it had come to may be told later.
    assert_eq!(state.steer("steers", &[one], Steer::Cancel, 9_500_000).await.unwrap(), Ok(vec![3]));
    assert_eq!(standing().await.len(), 1);
    let came_to = Progress { targets: vec!["p/L2".into()], resident: vec![0; 3], ..Progress::default() };
    state.keep_progress(&[(now[0].id, 9_600_000, &came_to)]).await.unwrap();
    let kept = &state.chunks(&[now[0].id]).await.unwrap()[0];
    assert_eq!((kept.finished_ms, kept.steering.cancelled_ms, &kept.progress), (9_500_000, 9_500_000, &came_to));
    assert_eq!(state.ended(&[now[0].id, now[1].id]).await.unwrap(), [0_u64; 0], "one was cancelled, one is open");
    for steer in [Steer::Cancel, Steer::Pause, Steer::Resume, Steer::Priority(3)] {
        assert_eq!(state.steer("steers", &[two, one], steer, 1).await.unwrap(), Err(NotSteered::Ended(one)));
    }
    let mut domains = state.domains_of_prefetches("steers", &[one, two, other, 99]).await.unwrap();
    domains.sort_unstable();
    assert_eq!(domains, [(one, "a.com".to_owned()), (two, "a.com".to_owned())]);
    assert_eq!(state.domains_of_prefetches("steers", &[]).await.unwrap(), []);
    state.steer("steers", &[two], Steer::Cancel, 9_500_000).await.unwrap().unwrap();
    state.steer("steers not", &[other], Steer::Cancel, 9_500_000).await.unwrap().unwrap();

    submit("steer 4", "steers to the end", 3_000_000).await;
    let id = state.open_prefetches("steers to the end", 0, 10).await.unwrap()[0].id;
    state.keep_progress(&[(id, 9_600_000, &came_to)]).await.unwrap();
    assert_eq!(state.ended(&[now[0].id, id, u64::MAX >> 1]).await.unwrap(), [id]);
    let before = state.last_steering().await.unwrap();
    state.offer(&[id]).await.unwrap();
    assert_eq!(state.steered_after((before, u64::MAX >> 1), 10).await.unwrap(), [], "what has ended is nobody's");
}
