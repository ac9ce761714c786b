//! Queues longer than what one turn looks at.

use super::*;

/// Submits chunks of one URL each, or of several, of one account.
async fn submit(played: &Played, chunks: usize, urls: usize, first: Option<usize>) {
    let mut submission = prefetch("me", &format!("n{chunks}"), urls, millis(played.clock.now()));
    let group = submission.groups[0].clone();
    submission.groups = (0..chunks)
        .map(|n| {
            let mut group = group.clone();
            group.paths.iter_mut().for_each(|path| path.push_str(&format!("/{n}")));
            group.steering.priority += u8::from(first == Some(n));
            group
        })
        .collect();
    played.accepting.submit(submission).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn reports_are_taken_while_a_long_queue_is_read_and_its_last_goes_first_if_it_outranks_the_rest() {
    let mut played = Played::start(&["p-1"]).await;
    played.connect("p-1");
    submit(&played, 25_000, 1, Some(24_999)).await;
    let mut turns = 0;
    loop {
        let before = played.task.accounts.get("me").map_or(0, |queue| queue.len());
        played.turn().await;
        turns += 1;
        assert!(played.task.accounts["me"].len() - before <= 10_000, "one turn looks at no more");
        let jobs = played.jobs("p-1");
        if let Some(first) = jobs.first() {
            assert!(first.url.ends_with("/24999"), "{first:?}");
            break;
        }
        assert!(played.next.more, "the next turn reads on");
    }
    assert!(turns > 2);
    assert_eq!(played.task.open.urls(), 25_000);
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_deadline_takes_no_more_room_than_there_is() {
    let mut played = Played::start(&["p-1"]).await;
    played.task.bounds = Bounds { loaded: 64, chunk: 1, ..BOUNDS };
    played.connect("p-1");
    submit(&played, 100, 10, None).await;
    played.clock.advance(DEADLINE + Duration::from_secs(1));
    played.task.look_for_more();
    while played.task.open.urls() > 0 {
        let before = played.task.open.urls();
        played.task.load().await.unwrap();
        let loaded = played.task.accounts["me"].loaded;
        assert!((1..=64 + 16).contains(&loaded), "{loaded}");
        played.turn().await;
        assert!(played.task.open.urls() < before, "it makes room for the next");
    }
    assert_eq!(played.task.counters.failed.load(Ordering::Relaxed), 1_000);
    assert!(played.jobs("p-1").is_empty());
}
