//! The load generators, wrk and h2load, and their results.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use e2e::stage::DOMAIN;

use crate::peers::{Target, path};

/// How long each run takes, in seconds.
const SECONDS: u64 = 3;

/// The share of requests that may fail with a peer.
const FAILED_MAX: f64 = 0.01;

/// The result of one run.
pub(crate) struct Run {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Microseconds of the server's CPU time per request.
    pub(crate) cost: f64,
    /// Latencies in microseconds, as seen by the client with all its connections busy.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The share of its processor that the client used.
    pub(crate) client: f64,
}

/// Runs `command` on processor 1 while measuring the server's CPU time.
async fn run(target: &Target, mut command: Command) -> anyhow::Result<(Output, f64, f64)> {
    let before = target.processor_time()?;
    let (output, used) = tokio::task::spawn_blocking(move || {
        let children = || bench::processor_time(std::process::id());
        let before = children()?;
        let output = command.output()?;
        anyhow::Ok((output, children()?.saturating_sub(before)))
    })
    .await??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = target.processor_time()?.saturating_sub(before).as_secs_f64();
    Ok((output, server, used.as_secs_f64() / SECONDS as f64))
}

/// HTTP/1.1 with keep-alive.
pub(crate) async fn wrk(
    target: &Target,
    bytes: usize,
    objects: usize,
    connections: usize,
    script: &Path,
) -> anyhow::Result<Run> {
    let mut command = Command::new("taskset");
    command
        .args(["-c", "1", "wrk", "-t1", &format!("-c{connections}"), &format!("-d{SECONDS}s"), "--timeout", "30s"])
        .args(["--latency", "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{}{}0", target.port, path(bytes)))
        .env("HIT_OBJECTS", objects.to_string())
        .env("HIT_HOST", DOMAIN)
        .env("HIT_PATH", path(bytes));
    let (output, server, client) = run(target, command).await.context("wrk is needed (apt-get install wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("HIT ")).with_context(|| text.to_string())?;
    let figure = |name: &str| -> anyhow::Result<f64> {
        let value = line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        Ok(value.with_context(|| format!("{name} in {line}"))?.parse()?)
    };
    let (requests, failed) = (figure("requests")?, figure("failed")?);
    // A peer may lose a few requests; ours may not.
    let most = if target.is_ours() { 0.0 } else { requests * FAILED_MAX };
    ensure!(failed <= most, "{line}");
    Ok(Run {
        rate: requests / figure("micros")? * 1e6,
        cost: server * 1e6 / requests,
        p50: figure("p50")?,
        p99: figure("p99")?,
        client,
    })
}

/// HTTP/2 with prior knowledge, ten streams per connection.
pub(crate) async fn h2load(target: &Target, bytes: usize, connections: usize) -> anyhow::Result<Run> {
    let mut command = Command::new("taskset");
    command
        .args(["-c", "1", "h2load", "-t1", "-m10", &format!("-c{connections}"), "-D", &SECONDS.to_string()])
        .args(["-H", &format!(":authority: {DOMAIN}")])
        .arg(format!("http://127.0.0.1:{}{}0", target.port, path(bytes)));
    let (output, server, client) =
        run(target, command).await.context("h2load is needed (apt-get install nghttp2-client)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        |name: &str| text.lines().find(|line| line.starts_with(name)).with_context(|| format!("{name} in {text}"));
    // requests: 81 total, 81 started, 81 done, 81 succeeded, 0 failed, 0 errored, 0 timeout
    let requests = line("requests:")?;
    let counted = |word: &str| -> anyhow::Result<f64> {
        let at = requests.find(word).with_context(|| requests.to_owned())?;
        Ok(requests[..at].split_whitespace().last().with_context(|| requests.to_owned())?.parse()?)
    };
    ensure!(counted("failed")? == 0.0 && counted("errored")? == 0.0, "{requests}");
    let done = counted("succeeded")?;
    ensure!(done > 0.0, "{text}");
    // time for request:      132us     12.50ms      1.21ms ...: min, max, mean.
    let times: Vec<&str> = line("time for request:")?.split_whitespace().skip(3).collect();
    Ok(Run {
        rate: done / SECONDS as f64,
        cost: server * 1e6 / done,
        p50: micros(times.get(2).context("the mean")?)?,
        p99: micros(times.get(1).context("the most")?)?,
        client,
    })
}

/// Parses h2load's times.
fn micros(text: &str) -> anyhow::Result<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).with_context(|| text.to_owned())?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => anyhow::bail!("a time like 1.2ms is expected: {text}"),
    };
    Ok(number.parse::<f64>()? * factor)
}
