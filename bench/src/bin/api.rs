//! The cost of API calls: signed calls per second, their latency, and what limits them; and how a history of a million
//! tasks affects memory and latency.
//!
//! Sections; `--section NAME` runs one, by default both run in this order:
//!
//! - `calls`: reads and writes against one `warmfront control` on SQLite, over many connections, each compared with a
//!   trivial server on the same library that answers as many bytes; writes also with the raw rate of SQLite's commits.
//! - `history`: the control plane's memory and latency with a thousand tasks and with a million, also after a restart.
//!
//! Clients and servers share this machine, so results include the client, whose CPU time is shown too. Without
//! `--release` they mean little. "Durable" means `journal_mode=WAL, synchronous=FULL`: every acknowledged write was
//! synced. `cargo run --release -p bench --bin api [--section NAME]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bench::api::{Api, Http};
use bench::{Spread, processor_time, raw_commits};
use bytes::Bytes;
use e2e::stage::{DOMAIN, Key, Stage};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Concurrent connections.
const CONNECTIONS: usize = 32;

/// How long each kind of call is measured.
const SECONDS: Duration = Duration::from_secs(5);

/// Tasks in the history, and tasks per call: each directory is a task.
const FEW: usize = 1_000;
const MANY: usize = 1_000_000;
const TASKS_PER_CALL: usize = 100;

/// Number of their domains: only so many tasks of one domain may be open at once.
const DOMAINS: usize = 20;

/// How often each query on the history is sent.
const ASKED: usize = 500;

/// How long the control plane may take to finish the submitted tasks.
const FINISH_MAX: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare", bytes] => bare(bytes.parse()?).await,
        ["--section", "calls"] => calls().await,
        ["--section", "history"] => history().await,
        [] => {
            calls().await?;
            history().await
        }
        _ => bail!("expected nothing or --section calls|history"),
    }
}

/// One kind of call: its label, its action, and the parameters of its n-th call.
struct Kind {
    name: &'static str,
    action: &'static str,
    params: fn(usize) -> Vec<(&'static str, String)>,
    writes: bool,
}

const KINDS: [Kind; 5] = [
    Kind { name: "quota", action: "DescribeRefreshQuota", params: |_| Vec::new(), writes: false },
    Kind { name: "a domain", action: "DescribeCdnDomainDetail", params: |_| named(), writes: false },
    Kind { name: "newest tasks", action: "DescribeRefreshTasks", params: |_| Vec::new(), writes: false },
    Kind { name: "refresh 1 URL", action: "RefreshObjectCaches", params: |n| paths(n, 1), writes: true },
    Kind { name: "prefetch 100 URLs", action: "PushObjectCache", params: |n| paths(n, 100), writes: true },
];

fn named() -> Vec<(&'static str, String)> {
    vec![("DomainName", DOMAIN.to_owned())]
}

fn paths(n: usize, count: usize) -> Vec<(&'static str, String)> {
    let paths: Vec<String> = (0..count).map(|path| format!("http://{DOMAIN}/{n}/{path}.bin")).collect();
    vec![("ObjectPath", paths.join("\n"))]
}

/// The result for one kind of call.
struct Measured {
    per_second: f64,
    took: Spread,
    /// CPU time of the server and of this client per call, in microseconds.
    server: f64,
    client: f64,
}

async fn calls() -> anyhow::Result<()> {
    println!(
        "== calls: V3 signed, {CONNECTIONS} connections, {} s each; durable = SQLite WAL, synchronous=FULL",
        SECONDS.as_secs()
    );
    let mut stage = Stage::without_nodes("open", &[]).await?;
    stage.add_domain("127.0.0.1:9").await?;
    let control = stage.control().context("it runs")?.id();
    let raw = raw_commits(&stage.folder("raw")?, SECONDS)?;
    println!("raw commits of SQLite        {raw:>8.0} /s  one row each, one connection, same disk, same run");
    for kind in &KINDS {
        let mut api = Api::connect(&stage, &format!("size-{}", kind.name)).await?;
        let bytes = api.call(kind.action, &(kind.params)(usize::MAX)).await?.to_string().len();
        let mut server = Bare::start(bytes)?;
        let bare = measure(kind, &stage.key, server.port, server.child.id()).await?;
        server.child.kill()?;
        server.child.wait()?;
        let commits = counter(&stage, "warmfront_submission_commits_total").await?;
        let begun = Instant::now();
        let ours = measure(kind, &stage.key, stage.api_port, control).await?;
        let commits = (counter(&stage, "warmfront_submission_commits_total").await? - commits) as f64;
        println!("{:<18} {:>8.0} calls/s   {}", kind.name, ours.per_second, ours.took);
        println!(
            "  processor a call {:>8.0} us of the server, {:.0} us of the client; {:.0} us and {:.0} us where nothing is done ({:.0} calls/s): {:.2} of its rate",
            ours.server,
            ours.client,
            bare.server,
            bare.client,
            bare.per_second,
            ours.per_second / bare.per_second
        );
        if kind.writes {
            let commits = commits / begun.elapsed().as_secs_f64();
            println!(
                "  commits          {commits:>8.0} /s, {:.1} calls in each: {:.2} of the raw rate",
                ours.per_second / commits,
                commits / raw
            );
        }
    }
    Ok(())
}

/// A counter of the control plane.
async fn counter(stage: &Stage, name: &str) -> anyhow::Result<u64> {
    Http::connect(stage.api_port).await?.metric(name).await
}

/// Makes calls of one kind for a while, to the server on `port`, which is the process `server`.
async fn measure(kind: &'static Kind, key: &Key, port: u16, server: u32) -> anyhow::Result<Measured> {
    let (server_used, client_used) = (processor_time(server)?, processor_time(std::process::id())?);
    let begun = Instant::now();
    let mut running = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut api = Api::connect_to(port, key.clone(), &format!("{}-{port}-{connection}", kind.name)).await?;
        running.push(tokio::spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < SECONDS {
                let sent = Instant::now();
                // Each connection uses its own numbers, so that no two calls name the same paths.
                api.call(kind.action, &(kind.params)(connection + CONNECTIONS * took.len())).await?;
                took.push(sent.elapsed());
            }
            anyhow::Ok(took)
        }));
    }
    let mut took = Vec::new();
    for one in running {
        took.extend(one.await??);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let calls = took.len() as f64;
    let each = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e6 / calls;
    Ok(Measured {
        per_second: calls / elapsed,
        took: Spread::of(took),
        server: each(server_used, processor_time(server)?),
        client: each(client_used, processor_time(std::process::id())?),
    })
}

/// A process that answers every request with as many bytes of JSON and does nothing else.
struct Bare {
    child: Child,
    port: u16,
}

impl Bare {
    fn start(bytes: usize) -> anyhow::Result<Bare> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program).args(["bare", &bytes.to_string()]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("a piped output")?).read_line(&mut line)?;
        Ok(Bare { child, port: line.trim().parse()? })
    }
}

async fn bare(bytes: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    // A JSON string is two bytes longer than its content.
    let body = Bytes::from(format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let body = body.clone();
            async move {
                // Read to its end, as the control plane has to.
                drop(request.into_body().collect().await);
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            }
        });
        let server = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
        tokio::spawn(async move {
            let mut server = server;
            server.http1().timer(TokioTimer::new());
            // A client that disconnects ends its connection; nothing to report.
            drop(server.serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

async fn history() -> anyhow::Result<()> {
    println!(
        "== history: refreshes of {TASKS_PER_CALL} directories a call, each a task; all complete before anything is measured"
    );
    let mut stage = Stage::without_nodes("open", &[]).await?;
    for domain in 0..DOMAINS {
        stage.cli(&["domain", "add", &site(domain), "--origin", "127.0.0.1:9", "--coverage", "global"]).await?;
    }
    let (mut made, mut first) = (0, None);
    let mut resident = Vec::new();
    for tasks in [FEW, MANY] {
        let begun = Instant::now();
        first = Some(submit(&stage, made, tasks).await?).filter(|_| first.is_none()).or(first);
        finished(&stage, tasks).await?;
        made = tasks;
        println!("-- {tasks} tasks, submitted and complete within {:.0} s", begun.elapsed().as_secs_f64());
        ask(&stage, first.as_deref().context("a task was made")?).await?;
        let running = resident_bytes(stage.control().context("it runs")?.id())?;
        stage.kill_control();
        let begun = Instant::now();
        stage.start_control().await?;
        let started = begun.elapsed();
        ask(&stage, first.as_deref().context("a task was made")?).await?;
        let again = resident_bytes(stage.control().context("it runs")?.id())?;
        println!(
            "  resident         {:>8.1} MiB, {:.1} MiB after a kill and a start, which took {:.2} s",
            mebibytes(running),
            mebibytes(again),
            started.as_secs_f64()
        );
        resident.push((running, again));
    }
    if let [few, many] = resident[..] {
        let each = |few: u64, many: u64| many.saturating_sub(few) as f64 / (MANY - FEW) as f64;
        println!("bytes a task         {:>8.1}, {:.1} after a start", each(few.0, many.0), each(few.1, many.1));
    }
    Ok(())
}

fn site(n: usize) -> String {
    format!("{n}.{DOMAIN}")
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Resident bytes of the process `pid`.
fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("resident memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Refreshes directories number `from` to `to`; returns the first task.
async fn submit(stage: &Stage, from: usize, to: usize) -> anyhow::Result<String> {
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(from / TASKS_PER_CALL));
    let mut running = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut api = Api::connect(stage, &format!("submit-{to}-{connection}")).await?;
        let next = next.clone();
        running.push(tokio::spawn(async move {
            let mut first = None;
            loop {
                let call = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if call >= to / TASKS_PER_CALL {
                    return anyhow::Ok(first);
                }
                let site = site(call % DOMAINS);
                let urls: Vec<String> =
                    (0..TASKS_PER_CALL).map(|directory| format!("http://{site}/{call}/{directory}/")).collect();
                let (ids, _) = api.refresh("Directory", &urls).await?;
                ensure!(ids.split(',').count() == TASKS_PER_CALL, "{ids}");
                first = first.or(ids.split(',').next().map(str::to_owned));
            }
        }));
    }
    let mut first = None;
    for one in running {
        first = one.await??.or(first);
    }
    first.context("at least one call was made")
}

/// Waits until `tasks` tasks are complete.
async fn finished(stage: &Stage, tasks: usize) -> anyhow::Result<()> {
    let mut api = Api::connect(stage, &format!("finished-{tasks}")).await?;
    let deadline = Instant::now() + FINISH_MAX;
    let open = [("Status", "Refreshing".to_owned()), ("ObjectType", "directory".to_owned())];
    loop {
        let open = api.call("DescribeRefreshTasks", &open).await?;
        if open["TotalCount"] == 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "not complete: {}", open["TotalCount"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let all = api.call("DescribeRefreshTasks", &[]).await?;
    ensure!(all["TotalCount"] == tasks, "{} of {tasks} tasks in history", all["TotalCount"]);
    Ok(())
}

/// Queries the newest tasks, a later page, and one task in both ways.
async fn ask(stage: &Stage, task: &str) -> anyhow::Result<()> {
    let by_id = || vec![("TaskId", task.to_owned())];
    let page = vec![("PageNumber", "10".to_owned()), ("PageSize", "100".to_owned())];
    let questions = [
        ("newest 20", "DescribeRefreshTasks", Vec::new()),
        ("901st to 1,000th", "DescribeRefreshTasks", page),
        ("one, listed", "DescribeRefreshTasks", by_id()),
        ("one, by its id", "DescribeRefreshTaskById", by_id()),
    ];
    let mut api = Api::connect(stage, &format!("ask-{:?}", Instant::now())).await?;
    for (name, action, params) in questions {
        let mut took = Vec::new();
        for _ in 0..ASKED {
            let sent = Instant::now();
            api.call(action, &params).await?;
            took.push(sent.elapsed());
        }
        println!("  {name:<16} {}", Spread::of(took));
    }
    Ok(())
}
