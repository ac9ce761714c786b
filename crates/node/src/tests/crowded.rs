//! A node with nearly as many connections as it may have.

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::misbehaving::{NOBODY, in_memory_of, open, to_end};
use super::*;
use crate::connection::IDLE_MAX;

#[tokio::test]
async fn idle_connections_make_room_when_most_are_taken() {
    let (stage, connect) = in_memory_of(8).await;
    tokio::time::pause();
    let idle = async || {
        let mut stream = open(&connect, 64 << 10).await;
        stream.write_all(NOBODY.as_bytes()).await.unwrap();
        stream
    };
    let begun = Instant::now();
    let mut first = Vec::new();
    for _ in 0..6 {
        first.push(idle().await);
    }
    let connections = || stage.node.pipeline.metrics().connections.get();
    tokio::time::sleep(IDLE_MAX / 2).await;
    assert_eq!(connections(), 6, "there is room for others");
    let mut last = idle().await;
    for stream in &mut first {
        to_end(stream).await;
    }
    assert!(begun.elapsed() < IDLE_MAX * 3 / 4, "{:?}", begun.elapsed());
    let (begun, before) = (Instant::now(), connections());
    to_end(&mut last).await;
    assert!(before == 1 && begun.elapsed() > IDLE_MAX / 2, "the last has room again: {:?}", begun.elapsed());
}
