//! Interim answers of origins: who gets them, through how many tiers, and who does not.

use super::tiers::{Tiers, tiers_before};
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(super) const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\nWarmfront-Age: 0\r\n\r\n";

/// An origin that sends `hints` for each request, waits for a permit, and answers with the path it was asked for.
pub(super) async fn hinting(hints: &'static str, gate: Arc<Semaphore>) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(hint(stream, hints, gate.clone()));
        }
    });
    Origin { address, pages: Arc::default(), seen: Arc::default(), stopped: CancellationToken::new() }
}

async fn hint(mut stream: TcpStream, hints: &'static str, gate: Arc<Semaphore>) {
    let mut buffer = Vec::new();
    loop {
        while !buffer.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        let path = String::from_utf8_lossy(&buffer).split(' ').nth(1).unwrap_or_default().to_owned();
        buffer.clear();
        stream.write_all(hints.as_bytes()).await.unwrap();
        gate.acquire().await.unwrap().forget();
        let answer =
            format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads from a connection until `end` arrives.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut came = Vec::new();
    let reading = async {
        while !came.ends_with(end.as_bytes()) {
            assert!(stream.read_buf(&mut came).await.unwrap() > 0, "{end:?} in {:?}", String::from_utf8_lossy(&came));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time");
    String::from_utf8(came).unwrap()
}

async fn asked(stream: &mut TcpStream, path: &str, version: &str) {
    let request = format!("GET {path} HTTP/{version}\r\nHost: {DOMAIN}\r\nConnection: keep-alive\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn early_hints_come_through_two_tiers_before_the_answer_is_there() {
    let gate = Arc::new(Semaphore::new(0));
    let Tiers { child, .. } = tiers_before(hinting(HINTS, gate.clone()).await).await;
    let mut stream = TcpStream::connect(child.address).await.unwrap();
    asked(&mut stream, "/a", "1.1").await;
    let hints = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
    gate.add_permits(1);
    let answer = read_until(&mut stream, "\r\n\r\n/a").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    // Interim answers are not stored.
    child.settled().await;
    asked(&mut stream, "/a", "1.1").await;
    let answer = read_until(&mut stream, "\r\n\r\n/a").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-cache: HIT"), "{answer}");
}

#[tokio::test]
async fn hints_that_come_with_the_answer_are_before_it() {
    let origin = hinting(HINTS, Arc::new(Semaphore::new(1000))).await;
    let Tiers { child, .. } = tiers_before(origin).await;
    let mut stream = TcpStream::connect(child.address).await.unwrap();
    for number in 0..100 {
        let path = format!("/{number}");
        asked(&mut stream, &path, "1.1").await;
        let answer = read_until(&mut stream, &format!("\r\n\r\n{path}")).await;
        assert!(answer.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a.css>"), "{answer}");
        assert_eq!((answer.matches("HTTP/1.1 ").count(), answer.matches("HTTP/1.1 200").count()), (2, 1), "{answer}");
    }
}

#[tokio::test]
async fn who_cannot_read_them_or_is_asked_for_by_another_gets_none() {
    let gate = Arc::new(Semaphore::new(0));
    let Tiers { child, .. } = tiers_before(hinting(HINTS, gate.clone()).await).await;
    let [mut first, mut second] =
        [TcpStream::connect(child.address).await.unwrap(), TcpStream::connect(child.address).await.unwrap()];
    asked(&mut first, "/a", "1.0").await;
    eventually("the fetch", || child.pipeline.fills().counts().0 == 1).await;
    asked(&mut second, "/a", "1.1").await;
    eventually("both wait", || child.pipeline.metrics().requests_running.get() == 2).await;
    gate.add_permits(1);
    for stream in [&mut first, &mut second] {
        let answer = read_until(stream, "\r\n\r\n/a").await;
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 OK\r\n"), "{answer}");
        assert!(!answer.contains("103"), "{answer}");
    }
}

#[tokio::test]
async fn more_hints_than_may_wait_are_dropped_and_the_answer_comes() {
    let long: &'static str = Box::leak(
        format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(6_000)).repeat(40).into_boxed_str(),
    );
    let Tiers { child, .. } = tiers_before(hinting(long, Arc::new(Semaphore::new(1000))).await).await;
    let mut stream = TcpStream::connect(child.address).await.unwrap();
    asked(&mut stream, "/a", "1.1").await;
    let answer = read_until(&mut stream, "\r\n\r\n/a").await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 1);
    let passed = child.pipeline.metrics().interims.get();
    assert_eq!(answer.matches("HTTP/1.1 103").count() as u64, passed);
}
