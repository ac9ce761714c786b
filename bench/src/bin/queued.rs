//! Memory of a queue: usage of one `warmfront control` on SQLite and its nodes with a thousand queued URLs, and with a
//! million.
//!
//! In two variants: leased to nodes whose origin never answers, and postponed by `NotBefore`. All URLs are submitted
//! through the API, then left alone until memory is stable. Also measures queries on such a queue, and a start of the
//! control plane with it. `cargo run --release -p bench --bin queued [URLS] [URLS OF A CALL]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::time::Duration;

use anyhow::{Context, ensure};
use bench::api::{Api, Http};
use bench::{Memory, memory, processor_time};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, free_port};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Number of URLs of the baseline.
const FEW: usize = 1_000;

/// Allowed memory above the baseline.
const AIM_BYTES: u64 = 64 << 20;

/// Connections used to submit.
const CONNECTIONS: usize = 8;

/// How long memory must stay within a tolerance to count as stable.
const WATCHED: Duration = Duration::from_secs(10);
const WATCHED_MAX: Duration = Duration::from_secs(120);
const STILL: u64 = 200;

/// A start time that no run reaches.
const NOT_BEFORE: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (many, per_call) = (number(1_000_000)?, number(100)?);
    ensure!(many >= FEW, "at least {FEW} URLs");
    let mut kept = true;
    for put_off in [false, true] {
        let how = if put_off { "put off by NotBefore" } else { "leased, the origin never answers" };
        println!("{many} URLs in calls of {per_call}, {how}");
        kept &= measure(many, per_call, put_off).await?;
    }
    println!("aim: at most {} MiB above {FEW} URLs, while they are accepted too: {kept}", AIM_BYTES >> 20);
    Ok(())
}

/// Returns whether the aim is met.
async fn measure(many: usize, per_call: usize, put_off: bool) -> anyhow::Result<bool> {
    let mut stage = Stage::set("open").await?;
    let port = silent().await?;
    stage.add_domain(&format!("127.0.0.1:{port}")).await?;

    submit(&stage, 0..FEW, per_call, put_off).await?;
    let few = settled(&mut stage).await?;
    show("1,000 URLs", &few, None);
    for (_, pid) in processes(&mut stage)? {
        bench::forget_peak(pid)?;
    }
    let control = stage.control().context("it runs")?.id();
    let (begun, used) = (Instant::now(), processor_time(control)?);
    submit(&stage, FEW..many, per_call, put_off).await?;
    let (time, used) = (begun.elapsed(), processor_time(control)?.saturating_sub(used));
    println!("  accepted in {:.1} s, {:.1} s of processor of control", time.as_secs_f64(), used.as_secs_f64());
    let lots = settled(&mut stage).await?;
    let kept = show(&format!("{many} URLs"), &lots, Some(&few));
    let mut http = Http::connect(stage.api_port).await?;
    for name in ["urls_open", "jobs_loaded", "jobs_leased", "jobs_failed_total"] {
        println!("  {name:<18} {}", http.metric(&format!("warmfront_prefetch_{name}")).await?);
    }

    bench::forget_peak(control)?;
    look(&stage).await?;
    let looked = memory(control)?;
    println!("  control while it was looked at: {looked}");

    stage.kill_control();
    let begun = Instant::now();
    stage.start_control().await?;
    let ready = begun.elapsed();
    let settled = settled(&mut stage).await?;
    let control = stage.control().context("it runs")?.id();
    println!(
        "  control started again: ready after {:.2} s, {:.1} s of processor in all",
        ready.as_secs_f64(),
        processor_time(control)?.as_secs_f64()
    );
    Ok(show("after that start", &settled, Some(&few)) && kept)
}

/// An origin that accepts connections and never answers; returns its port.
async fn silent() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", free_port())).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Until the client gives up.
            tokio::spawn(async move {
                let mut stream = stream;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
            });
        }
    });
    Ok(port)
}

/// Submits these URLs, and waits until all are accepted.
async fn submit(stage: &Stage, urls: std::ops::Range<usize>, per_call: usize, put_off: bool) -> anyhow::Result<()> {
    #[allow(clippy::disallowed_methods, reason = "a client of the real program lives in real time")]
    let moment = OffsetDateTime::from(std::time::SystemTime::now() + NOT_BEFORE).replace_nanosecond(0)?;
    let moment = moment.format(&Rfc3339)?;
    let not_before = put_off.then_some(moment);
    let mut tasks = Vec::new();
    let share = urls.len().div_ceil(CONNECTIONS);
    for connection in 0..CONNECTIONS {
        let mut api = Api::connect(stage, &format!("{}-{connection}", urls.start)).await?;
        let not_before = not_before.clone();
        let first = (urls.start + connection * share).min(urls.end);
        let last = (first + share).min(urls.end);
        tasks.push(tokio::spawn(async move {
            for first in (first..last).step_by(per_call) {
                let numbers = first..(first + per_call).min(last);
                let paths: Vec<String> =
                    numbers.map(|n| format!("http://{DOMAIN}/queued/{}/{n}.bin", n / 1000)).collect();
                let mut pairs = vec![("ObjectPath", paths.join("\n"))];
                pairs.extend(not_before.clone().map(|moment| ("NotBefore", moment)));
                api.call("PushObjectCache", &pairs).await?;
            }
            Ok::<(), anyhow::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn processes(stage: &mut Stage) -> anyhow::Result<Vec<(String, u32)>> {
    let mut all = vec![("control".to_owned(), stage.control().context("it runs")?.id())];
    for node in &mut stage.nodes {
        let pid = node.process().context("it runs")?.id();
        all.push((node.name.clone(), pid));
    }
    Ok(all)
}

/// Waits until the memory of all processes is stable.
async fn settled(stage: &mut Stage) -> anyhow::Result<Vec<(String, Memory)>> {
    let api_port = stage.api_port;
    eventually("the nodes are connected", || async {
        let nodes = Http::connect(api_port).await?.metric("warmfront_nodes_connected").await?;
        ensure!(nodes == 4, "{nodes}");
        Ok(())
    })
    .await;
    let all = processes(stage)?;
    let look = || all.iter().map(|(name, pid)| Ok((name.clone(), memory(*pid)?))).collect::<anyhow::Result<Vec<_>>>();
    let begun = Instant::now();
    let mut before = look()?;
    loop {
        tokio::time::sleep(WATCHED).await;
        let now = look()?;
        let still = |((_, before), (_, now)): (&(String, Memory), &(String, Memory))| {
            now.resident.abs_diff(before.resident) <= before.resident / STILL
        };
        if before.iter().zip(&now).all(still) || begun.elapsed() > WATCHED_MAX {
            return Ok(now);
        }
        before = now;
    }
}

/// Returns whether the aim is met, if there is a baseline to compare with.
fn show(when: &str, all: &[(String, Memory)], few: Option<&[(String, Memory)]>) -> bool {
    println!("  {when}");
    let mut kept = true;
    for (at, (name, memory)) in all.iter().enumerate() {
        let Some((_, few)) = few.and_then(|few| few.get(at)) else {
            println!("    {name:<8} {memory}");
            continue;
        };
        let (above, peak) = (memory.resident.saturating_sub(few.resident), memory.peak.saturating_sub(few.resident));
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!("    {name:<8} {memory}; {:.1} MiB above {FEW} URLs, {:.1} at its peak", mib(above), mib(peak));
        kept &= above.max(peak) <= AIM_BYTES;
    }
    kept
}

/// Queries the queue as clients do.
async fn look(stage: &Stage) -> anyhow::Result<()> {
    let mut api = Api::connect(stage, "look").await?;
    let newest = api.call("DescribeRefreshTasks", &[("PageSize", "10".to_owned())]).await?;
    let task = newest["Tasks"]["CDNTask"][0]["TaskId"].as_str().context("a task")?.to_owned();
    let total = newest["TotalCount"].as_u64().context("TotalCount")?;
    let number: u64 = task.parse()?;
    let ids: Vec<String> = (0..10).map(|back| (number - back).to_string()).collect();
    let preload = || ("ObjectType", "preload".to_owned());
    let queries = [
        ("the newest 20", "DescribeRefreshTasks", vec![]),
        (
            "page 100 of 100",
            "DescribeRefreshTasks",
            vec![("PageSize", "100".to_owned()), ("PageNumber", "100".to_owned())],
        ),
        ("those that are Refreshing", "DescribeRefreshTasks", vec![preload(), ("Status", "Refreshing".to_owned())]),
        ("those of the domain", "DescribeRefreshTasks", vec![preload(), ("DomainName", DOMAIN.to_owned())]),
        ("ten tasks by their ids", "DescribeRefreshTaskById", vec![("TaskId", ids.join(","))]),
        ("all of one task", "DescribePreloadTask", vec![("TaskId", task)]),
    ];
    for (what, action, pairs) in queries {
        let begun = Instant::now();
        let answer = api.call(action, &pairs).await?;
        let (time, bytes) = (begun.elapsed(), answer.to_string().len());
        println!("  {what:<26} {:>8.1} ms {bytes:>9} bytes", time.as_secs_f64() * 1e3);
    }
    println!("  {total} URLs are listed");
    Ok(())
}
