//! Resident bytes: per small cached object, and per idle connection.

use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpStream;

use crate::field;
use crate::peers::{self, Speaks, Target};

/// Objects stored in each cache, and their size in bytes.
const OBJECTS: usize = 50_000;
const BYTES: usize = 1 << 10;

/// Number of connections, each of which has had one response.
const IDLE: usize = 2_000;

pub(crate) async fn run(memory: u64) -> anyhow::Result<()> {
    let field = field(memory, Speaks::Http1, &peers::ALL).await?;
    println!(
        "proportional set size of the server, all its processes; {OBJECTS} objects of {BYTES} bytes, {IDLE} idle connections"
    );
    println!("  server            start MB   bytes/object   bytes/idle connection");
    for target in &field.targets {
        let start = target.resident()?;
        target.warm(BYTES, OBJECTS).await?;
        let filled = settled(target).await?;
        let mut idle = Vec::with_capacity(IDLE);
        for _ in 0..IDLE {
            idle.push(ask(target.port).await?);
        }
        let connected = settled(target).await?;
        println!(
            "  {:<14}    {:>8.1}   {:>12.0}   {:>21.0}",
            target.name,
            start as f64 / 1e6,
            filled.saturating_sub(start) as f64 / OBJECTS as f64,
            connected.saturating_sub(filled) as f64 / IDLE as f64
        );
    }
    println!("  (a body is {BYTES} bytes of it; nginx keeps bodies in files, which count for nobody)");
    Ok(())
}

/// Resident bytes once they are stable, or after a while.
async fn settled(target: &Target) -> anyhow::Result<u64> {
    let mut last = target.resident()?;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = target.resident()?;
        if now.abs_diff(last) < 64 << 10 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// A connection that has been used once.
async fn ask(port: u16) -> anyhow::Result<TcpStream> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {}0 HTTP/1.1\r\nhost: {}\r\n\r\n", peers::path(BYTES), e2e::stage::DOMAIN);
    stream.write_all(request.as_bytes()).await?;
    let mut got = 0;
    let mut buffer = vec![0; 16 << 10];
    while got < BYTES {
        let read = stream.read(&mut buffer).await?;
        ensure!(read > 0, "closed before the answer was there");
        got += read;
    }
    Ok(stream)
}
