//! Durable submissions per second: signed `PushObjectCache` calls of 100 URLs each to one `warmfront control` on
//! SQLite, compared with the raw rate of SQLite commits on the same disk, alternating in one run.
//!
//! "Durable" means `journal_mode=WAL, synchronous=FULL`: every acknowledged call was synced. The number of URLs is read
//! back through the API at the end. `cargo run --release -p bench --bin submissions [SECONDS] [CONNECTIONS]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aliyun::{AccessKey, Ask, encode_pairs, sign_v3};
use anyhow::{Context, ensure};
use bench::{median, processor_time, raw_commits};
use bytes::Bytes;
use e2e::stage::{DOMAIN, Key, Stage};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// URLs per call.
const URLS: usize = 100;

/// Rounds, in each of which both measurements take turns.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let seconds = Duration::from_secs(number(5)?);
    let connections = number(64)?;
    let mut stage = Stage::without_nodes("open", &[]).await?;
    stage.add_domain("127.0.0.1:9").await?;
    let control = stage.control().context("it runs")?.id();

    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    let (mut accepted, mut used, mut commits) = (0, Duration::ZERO, Vec::new());
    for round in 0..ROUNDS {
        raw.push(raw_commits(&stage.folder("raw")?, seconds)?);
        let before = (processor_time(control)?, counter(&stage, "warmfront_submission_commits_total").await?);
        let (done, elapsed) = submit(&stage, round, seconds, connections).await?;
        used += processor_time(control)?.saturating_sub(before.0);
        let turned = counter(&stage, "warmfront_submission_commits_total").await? - before.1;
        commits.push(turned as f64 / elapsed.as_secs_f64());
        ours.push(done as f64 / elapsed.as_secs_f64());
        accepted += done;
    }
    let total = total(&stage).await?;
    ensure!(
        total >= accepted * URLS as u64,
        "{accepted} calls of {URLS} URLs were acknowledged, {total} URLs are kept"
    );

    let (ours, raw, commits) = (median(ours), median(raw), median(commits));
    let each = used.as_secs_f64() / accepted as f64 * 1e6;
    println!(
        "durable = SQLite WAL, synchronous=FULL; {URLS} URLs a call, V3 signed, {connections} connections; median of {ROUNDS} rounds"
    );
    println!("submissions      {ours:>9.0} /s   ({:.0} URLs/s; aim 2000 /s)", ours * URLS as f64);
    println!("raw commits      {raw:>9.0} /s   (one row each, one connection, same disk, same run)");
    println!("ratio            {:>9.2}      submissions for each raw commit", ours / raw);
    println!("our commits      {commits:>9.0} /s   ({:.1} submissions in each)", ours / commits);
    println!("processor        {each:>9.0} us  of the control plane for each submission");
    println!("read back        {total:>9} URLs kept, {} acknowledged", accepted * URLS as u64);
    // If the disk is the limit, it syncs about as often for us as for the raw writer.
    let limit = if commits * 2.0 > raw {
        "the disk's syncs".to_owned()
    } else {
        format!(
            "the one writer's statements, and the processor it shares with this client: the disk could sync {:.0} times as often",
            raw / commits
        )
    };
    println!("limited by       {limit}");
    Ok(())
}

/// Submits over `connections` connections for a while; returns the number of acknowledged calls, and the time taken.
async fn submit(stage: &Stage, round: usize, seconds: Duration, connections: u64) -> anyhow::Result<(u64, Duration)> {
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for connection in 0..connections {
        let (key, port, done) = (stage.key.clone(), stage.api_port, done.clone());
        tasks.push(tokio::spawn(async move { client(&key, port, round, connection, begun + seconds, &done).await }));
    }
    for task in tasks {
        task.await??;
    }
    Ok((done.load(Ordering::Relaxed), begun.elapsed()))
}

async fn client(
    key: &Key,
    port: u16,
    round: usize,
    connection: u64,
    until: Instant,
    done: &AtomicU64,
) -> anyhow::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let host = format!("127.0.0.1:{port}");
    let mut call = 0;
    while Instant::now() < until {
        call += 1;
        let urls: Vec<String> =
            (0..URLS).map(|n| format!("http://{DOMAIN}/{round}/{connection}/{call}/{n}.bin")).collect();
        let body = encode_pairs(&[("ObjectPath", urls.join("\n"))]).into_bytes();
        let nonce = format!("{round}-{connection}-{call}");
        let access = AccessKey { id: &key.id, secret: &key.secret };
        #[allow(clippy::disallowed_methods, reason = "a client of the real program lives in real time")]
        let now = std::time::SystemTime::now();
        let ask = Ask { method: &Method::POST, action: "PushObjectCache", version: "2018-05-10", now, nonce: &nonce };
        let mut request = Request::post("/");
        for (name, value) in sign_v3(access, ask, &host, &[], &body, &[]) {
            request = request.header(name, value);
        }
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status} {}", String::from_utf8_lossy(&body));
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A counter of the control plane.
async fn counter(stage: &Stage, name: &str) -> anyhow::Result<u64> {
    let text = e2e::http::get(stage.api_port, "localhost", "/metrics", &[]).await?.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("{name} in the metrics"))?.trim().parse()?)
}

/// The number of URLs according to the API.
async fn total(stage: &Stage) -> anyhow::Result<u64> {
    let answers = e2e::sdk::calls(stage, &[("cdn", "DescribeRefreshTasks", Value::Object(Default::default()))]).await?;
    answers[0]["ok"]["TotalCount"].as_u64().with_context(|| answers[0].to_string())
}
