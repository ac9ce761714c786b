//! Calls a second: of an action, and of an account over all actions.

use super::*;

/// Calls until one is refused, at most `most`; how many were answered, and the refusal.
async fn until_refused(rig: &Rig, action: &str, most: usize) -> (usize, Answer) {
    for n in 0..most {
        let answer = rig.ask(CDN, action, &[]).await;
        if answer.status != 200 {
            return (n, answer);
        }
    }
    panic!("{most} calls of {action} were answered");
}

/// How long a refusal says to wait, in both its ways of saying it, in milliseconds.
fn wait_ms(answer: &Answer) -> (u64, u64) {
    let number = |name: &str| answer.header(name).and_then(|value| value.parse::<u64>().ok());
    (number("retry-after").unwrap() * 1000, number("x-acs-retry-after").unwrap())
}

#[tokio::test]
async fn action_that_is_called_too_often_is_throttled_and_others_are_not() {
    // So seldom that no call of the test comes late enough to be let in.
    let rig = Rig::with("cdn-2024", &[("action_qps", 2)], 0, |_| ()).await;
    let (answered, refused) = until_refused(&rig, "DescribeCdnUserQuota", 50).await;
    assert!(answered >= 2, "a second's worth at once");
    assert_refused(&refused, 503, "Throttling", "Request was denied due to request throttling.");
    let (seconds, millis) = wait_ms(&refused);
    assert!((1..=500).contains(&millis) && seconds == 1_000, "{refused:?}");
    assert_eq!(rig.ask(CDN, "DescribeRefreshQuota", &[]).await.status, 200, "another action has its own rate");
    tokio::time::sleep(Duration::from_millis(millis)).await;
    assert_eq!(rig.ask(CDN, "DescribeCdnUserQuota", &[]).await.status, 200, "whoever waited so long is let in");
}

#[tokio::test]
async fn account_that_calls_too_often_is_throttled_over_all_actions() {
    let rig = Rig::with("open", &[], 20, |_| ()).await;
    let mut refused = None;
    for n in 0..400 {
        let action = if n % 2 == 0 { "DescribeRefreshQuota" } else { "DescribeCdnUserQuota" };
        let answer = rig.ask(CDN, action, &[]).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("twenty a second are fewer than the test sends");
    assert_refused(&refused, 400, "Throttling.User", "Request was denied due to user flow control.");
    assert!((1..=50).contains(&wait_ms(&refused).1), "{refused:?}");
}

#[tokio::test]
async fn bodies_that_never_come_close_the_door_to_their_own_address_alone() {
    let rig = Rig::start("cdn-2024").await;
    let mut half = Vec::new();
    for _ in 0..128 {
        let mut stream = TcpStream::connect(rig.control.api_address()).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nA").await.unwrap();
        half.push(stream);
    }
    let metric = async |line: &str| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let metrics = rig.send("GET", "/metrics", &[], "").await.body;
            if metrics.lines().any(|shown| shown == line) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "waited in vain for {line}: {metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    metric("warmfront_api_bodies_reading 128").await;
    metric("warmfront_api_requests_open 0").await;
    let quota = async || rig.ask(CDN, "DescribeRefreshQuota", &[]).await;
    // In XML: which format it wants is in the body.
    let refused = quota().await;
    assert!(refused.status == 429 && refused.body.contains("<Code>TooManyRequests</Code>"), "{refused:?}");
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut elsewhere = elsewhere.connect(rig.control.api_address()).await.unwrap();
    elsewhere
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\n\r\nA")
        .await
        .unwrap();
    let mut answer = String::new();
    elsewhere.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "it was read, and was no call: {answer}");
    drop(half);
    metric("warmfront_api_bodies_reading 0").await;
    assert_eq!(quota().await.status, 200);
}
