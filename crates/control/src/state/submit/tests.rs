//! Accepting submissions while the wall clock is set.

use super::*;
use crate::testing::prefetch;

#[tokio::test]
async fn minute_of_a_domain_is_not_used_up_for_as_long_as_the_wall_clock_was_set_back() {
    let (accepting, _) = Accepting::start(State::in_memory()).await.unwrap();
    let submit = async |nonce: &str, now_ms: u64| {
        let submission = Submission { minute_max: Some(10), ..prefetch("me", nonce, 6, now_ms) };
        accepting.submit(submission).await.map(|_| ())
    };
    let now_ms = 100 * MINUTE_MS;
    assert_eq!(submit("first", now_ms).await, Ok(()));
    assert_eq!(submit("second", now_ms + 59_999).await, Err(Refused::MinuteUsedUp));
    assert_eq!(submit("a moment before the first", now_ms - 10).await, Err(Refused::MinuteUsedUp));

    let back_ms = now_ms - 60 * MINUTE_MS;
    assert_eq!(submit("set back", back_ms).await, Ok(()));
    assert_eq!(submit("set back, and once more", back_ms).await, Err(Refused::MinuteUsedUp));
    assert_eq!(submit("a minute later", back_ms + MINUTE_MS).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn each_product_has_a_queue_of_its_own() {
    let (accepting, open) = Accepting::start(State::in_memory()).await.unwrap();
    let submit = async |bucket: &'static str, nonce: &str, urls: usize| {
        let mut submission = prefetch("me", nonce, urls, 1_000);
        (submission.charge.bucket, submission.queue_max) = (bucket, QueueMax::Urls(1_000));
        accepting.submit(submission).await.map(|_| ())
    };
    assert_eq!(submit("preload", "fills its queue", 1_000).await, Ok(()));
    assert_eq!(submit("preload", "one too many", 1).await, Err(Refused::QueueFull));
    assert_eq!(submit("vod_preload", "into another queue", 999).await, Ok(()));
    assert_eq!(submit("vod_preload", "fills that", 1).await, Ok(()));
    assert_eq!(submit("vod_preload", "one too many there", 1).await, Err(Refused::QueueFull));
    open.ended("me", 500);
    assert_eq!(submit("preload", "counted anew", 1).await, Err(Refused::QueueFull), "of which product that was");
    assert_eq!(open.of("me"), (4, 1_500));
}

#[test]
fn chunk_has_fewer_objects_the_more_variants_they_have() {
    let paths: Vec<String> = (0..500).map(|n| format!("http://a.com/{n}")).collect();
    for (variants, chunks, largest) in
        [(0, 1, 500), (1, 1, 500), (4, 1, 500), (5, 2, 400), (16, 4, 125), (9_999, 500, 1)]
    {
        let mut params = prefetch("me", "n", 1, 1).groups.remove(0).params;
        params.variants = vec![Vec::new(); variants];
        let cut: Vec<usize> = cut_paths(&paths, chunk_lines_max(&params)).map(<[String]>::len).collect();
        assert_eq!((cut.len(), cut[0], cut.iter().sum()), (chunks, largest, 500), "{variants} variants");
    }
}
