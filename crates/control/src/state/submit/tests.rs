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
