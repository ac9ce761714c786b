//! Thousands of URLs per second, sustained: how many are accepted, how far nodes lag, what the control plane uses.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Context;
use bench::api::{Api, Http};
use bench::{Spread, processor_time};
use e2e::stage::{DOMAIN, Stage};
use tokio::time::Instant;

/// URLs per call, calls per second, and the duration.
const URLS: usize = 1000;
const CALLS_PER_SECOND: u32 = 3;
const SECONDS: u32 = 30;

/// Connections that make the calls in turn.
const CONNECTIONS: usize = 3;

/// Pause between two polls of what nodes have applied, and of a task.
const LOOK_STEP: Duration = Duration::from_millis(5);
const TASK_STEP: Duration = Duration::from_millis(20);

pub(crate) async fn run() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    stage.add_domain("127.0.0.1:9").await?;
    let control = stage.control().context("it runs")?.id();
    let ports: Vec<u16> = stage.nodes.iter().map(|node| node.admin_port).collect();
    let done = tokio_util::sync::CancellationToken::new();
    let watching = tokio::spawn(watch(stage.api_port, ports, done.clone()));

    let used = processor_time(control)?;
    let begun = Instant::now();
    let mut running = Vec::new();
    for connection in 0..CONNECTIONS {
        let api = Api::connect(&stage, &format!("flood-{connection}")).await?;
        running.push(tokio::spawn(call(api, connection, begun)));
    }
    let (mut calls, mut completes) = (Vec::new(), Vec::new());
    for caller in running {
        let (took, complete) = caller.await??;
        calls.extend(took);
        completes.extend(complete);
    }
    let elapsed = begun.elapsed();
    let used = processor_time(control)? - used;
    done.cancel();
    let (lags, looks) = watching.await??;

    let urls = (calls.len() * URLS) as f64;
    println!(
        "calls of {URLS} URLs, {CALLS_PER_SECOND} a second over {CONNECTIONS} connections for {SECONDS} s; 4 node processes"
    );
    println!(
        "accepted                   {:>7.0} URLs/s   aim 3000 /s (all {urls} complete at the end)",
        urls / elapsed.as_secs_f64()
    );
    println!("call                       {}", Spread::of(calls));
    println!("head of the log to applied {}", Spread::of(lags));
    println!("  (each node, by its metrics, {looks} looks at least {} ms apart)", LOOK_STEP.as_millis());
    println!("acknowledged to Complete   {}", Spread::of(completes));
    println!("  (the task is asked for every {} ms)", TASK_STEP.as_millis());
    println!(
        "processor                  {:>7.1} % of one, the control plane alone",
        used.as_secs_f64() / elapsed.as_secs_f64() * 100.0
    );
    Ok(())
}

/// Makes every third call, on schedule, and waits until each is Complete; returns the durations of both.
async fn call(mut api: Api, connection: usize, begun: Instant) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut calls, mut completes) = (Vec::new(), Vec::new());
    for number in (connection as u32..CALLS_PER_SECOND * SECONDS).step_by(CONNECTIONS) {
        let at = begun + Duration::from_secs(1) * number / CALLS_PER_SECOND;
        tokio::time::sleep_until(at).await;
        let urls: Vec<String> =
            (0..URLS).map(|n| format!("http://{DOMAIN}/images/2026/{number}/product-{n}.jpg")).collect();
        let began = Instant::now();
        let (task, acknowledged) = api.refresh("File", &urls).await?;
        calls.push(acknowledged - began);
        let last = urls.last().context("some URLs")?;
        completes
            .push(api.complete(task.split(',').next_back().unwrap_or_default(), last, TASK_STEP).await? - acknowledged);
    }
    Ok((calls, completes))
}

/// Measures how long each node took from the first sight of a log head until it had applied it, and how often this was
/// polled.
async fn watch(
    api_port: u16,
    ports: Vec<u16>,
    done: tokio_util::sync::CancellationToken,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let mut control = Http::connect(api_port).await?;
    let mut nodes = Vec::new();
    for port in ports {
        nodes.push((Http::connect(port).await?, VecDeque::new()));
    }
    let (mut lags, mut looks, mut highest) = (Vec::new(), 0, 0);
    while !done.is_cancelled() {
        let head = control.metric("warmfront_log_head").await?;
        let seen = Instant::now();
        for (node, waiting) in &mut nodes {
            if head > highest {
                waiting.push_back((head, seen));
            }
            let applied = node.metric("warmfront_node_applied_revision").await?;
            while waiting.front().is_some_and(|(head, _)| *head <= applied) {
                let (_, seen) = waiting.pop_front().unwrap_or((0, seen));
                lags.push(seen.elapsed());
            }
        }
        highest = highest.max(head);
        looks += 1;
        tokio::time::sleep(LOOK_STEP).await;
    }
    Ok((lags, looks))
}
