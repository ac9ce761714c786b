//! The cost of a hit: one of our nodes compared with nginx, Varnish, HAProxy and Traffic Server, alternating in one
//! run.
//!
//! Sections; `--section NAME` runs one, by default all run in this order:
//!
//! - `sizes`: one hot object of 1 KiB to 10 MiB, 64 connections.
//! - `objects`: 10,000 objects of 1 to 100 KiB, 64 connections.
//! - `connections`: one hot object, 1,000 connections.
//! - `disk`: 10,000 objects of 100 KiB with 64 MB of memory for them, beside nginx.
//! - `http2`: one hot object over HTTP/2, by h2load (needs nghttp2-client), compared with the peers that support it
//!   without TLS.
//! - `memory`: resident bytes per small object, and per idle connection.
//!
//! The measured server has processor 0, the client processor 1. The decisive figure is the server's CPU time per
//! request, as requests per second are often limited by the client. Over HTTP/1.1, each server's response is first
//! checked to be a hit of the right length. Ours is the program as released, with judgement, metrics and access log;
//! the peers write no log. Needs wrk, nginx, varnish, haproxy and trafficserver, and an otherwise idle machine.

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::path::Path;

use anyhow::{Context, bail, ensure};
use bench::median;
use e2e::stage::Stage;

use crate::client::Run;
use crate::peers::{Origin, Speaks, Target};

mod client;
mod footprint;
mod peers;

/// In the order in which they run.
const SECTIONS: [&str; 6] = ["sizes", "objects", "connections", "disk", "http2", "memory"];

/// Rounds per case, each with every target in turn.
const ROUNDS: usize = 3;

/// Objects of the cases with many.
const MANY: usize = 10_000;

/// Memory tier of our node, in bytes, for hits from memory and for hits from disk.
const MEMORY: u64 = 4 << 30;
const MEMORY_SMALL: u64 = 64 << 20;

/// One comparison of servers under the same load.
struct Case {
    bytes: usize,
    objects: usize,
    connections: usize,
    /// The highest allowed ratio of our CPU time to a peer's; the peer `best` is whichever is best.
    aims: &'static [(&'static str, f64)],
}

const SMALL: &[(&str, f64)] = &[("nginx", 0.75), ("varnish", 0.5), ("haproxy", 1.1)];
const MIDDLE: &[(&str, f64)] = &[("best", 0.8)];
const LARGE: &[(&str, f64)] = &[("varnish", 1.0)];

const fn case(bytes: usize, objects: usize, connections: usize, aims: &'static [(&'static str, f64)]) -> Case {
    Case { bytes, objects, connections, aims }
}

const SIZES: &[Case] = &[
    case(1 << 10, 1, 64, SMALL),
    case(10 << 10, 1, 64, SMALL),
    case(100 << 10, 1, 64, MIDDLE),
    case(1 << 20, 1, 64, LARGE),
    case(10 << 20, 1, 64, LARGE),
];
const OBJECTS: &[Case] =
    &[case(1 << 10, MANY, 64, SMALL), case(10 << 10, MANY, 64, SMALL), case(100 << 10, MANY, 64, MIDDLE)];
const CONNECTIONS: &[Case] = &[case(1 << 10, 1, 1000, SMALL), case(10 << 10, 1, 1000, SMALL)];
const DISK: &[Case] = &[case(100 << 10, MANY, 64, &[])];
const HTTP2: &[Case] = &[case(1 << 10, 1, 64, SMALL), case(10 << 10, 1, 64, SMALL)];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chosen = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--section", name] => Some(name.to_owned()),
        _ => bail!("expected nothing or --section NAME"),
    };
    ensure!(chosen.as_deref().is_none_or(|name| SECTIONS.contains(&name)), "sections are {}", SECTIONS.join(", "));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for name in SECTIONS.into_iter().filter(|name| chosen.as_deref().is_none_or(|chosen| chosen == *name)) {
        println!("== {name}");
        runtime.block_on(async {
            match name {
                "sizes" => compare(SIZES, MEMORY, Speaks::Http1, &peers::ALL).await,
                "objects" => compare(OBJECTS, MEMORY, Speaks::Http1, &peers::ALL).await,
                "connections" => compare(CONNECTIONS, MEMORY, Speaks::Http1, &peers::ALL).await,
                "disk" => compare(DISK, MEMORY_SMALL, Speaks::Http1, &["nginx"]).await,
                "http2" => compare(HTTP2, MEMORY, Speaks::Http2, &peers::HTTP2).await,
                _ => footprint::run(MEMORY).await,
            }
        })?;
        println!();
    }
    Ok(())
}

/// Our node and its peers in front of one origin.
pub(crate) struct Field {
    pub(crate) targets: Vec<Target>,
    _origin: Origin,
    _stage: Stage,
}

/// Starts everything; ours is the first target.
pub(crate) async fn field(memory: u64, speaks: Speaks, names: &[&'static str]) -> anyhow::Result<Field> {
    let mut stage = Stage::set("open").await?;
    let folder = stage.folder("peers")?;
    let origin = Origin::start(&folder).await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.add_domain(&address).await?;
    stage.nodes[0].restart_on("0", |configuration| {
        let configuration = configuration.replace("capacity_bytes = 67108864", &format!("capacity_bytes = {memory}"));
        format!("access_log = \"{}\"\n{configuration}", folder.join("access.log").display())
    })?;
    stage.nodes[0].ready().await;
    let ours = stage.nodes[0].process().context("it runs")?.id();
    let mut others = vec![std::process::id(), stage.control().context("it runs")?.id()];
    for other in &mut stage.nodes[1..] {
        others.push(other.process().context("it runs")?.id());
    }
    for pid in others {
        peers::pin(pid, "1")?;
    }
    let mut targets = vec![Target::ours(stage.nodes[0].port, ours)];
    for name in names {
        targets.push(Target::start(name, &folder, origin.port, speaks).await?);
    }
    Ok(Field { targets, _origin: origin, _stage: stage })
}

/// Measures some cases and prints them.
async fn compare(cases: &[Case], memory: u64, speaks: Speaks, names: &[&'static str]) -> anyhow::Result<()> {
    let field = field(memory, speaks, names).await?;
    let script = e2e::workspace().join("bench/peers/hit.lua");
    for case in cases {
        for target in &field.targets {
            target.warm(case.bytes, case.objects).await.with_context(|| format!("warm {}", target.name))?;
        }
        let mut runs: Vec<Vec<Run>> = field.targets.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            let mut order: Vec<usize> = (0..field.targets.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                runs[at].push(measure(&field.targets[at], case, speaks, &script).await?);
            }
        }
        show(case, &field.targets, &runs);
        if speaks == Speaks::Http2 {
            println!("  (h2load tells neither p50 nor p99: the columns have the mean and the most)");
        }
    }
    Ok(())
}

async fn measure(target: &Target, case: &Case, speaks: Speaks, script: &Path) -> anyhow::Result<Run> {
    let run = match speaks {
        Speaks::Http1 => client::wrk(target, case.bytes, case.objects, case.connections, script).await,
        Speaks::Http2 => client::h2load(target, case.bytes, case.connections).await,
    };
    run.with_context(|| format!("{}: {} bytes", target.name, case.bytes))
}

fn show(case: &Case, targets: &[Target], runs: &[Vec<Run>]) {
    let of = |at: usize, figure: fn(&Run) -> f64| median(runs[at].iter().map(figure).collect());
    println!(
        "{} bytes, {} object(s), {} connections; median of {ROUNDS} rounds in turns",
        case.bytes, case.objects, case.connections
    );
    println!("  server           us/req   ours/it      req/s      MB/s    p50 us    p99 us   client busy");
    let ours = of(0, |run| run.cost);
    for (at, target) in targets.iter().enumerate() {
        let cost = of(at, |run| run.cost);
        println!(
            "  {:<14} {cost:>8.2}  {:>8.2}  {:>9.0}  {:>8.0}  {:>8.0}  {:>8.0}  {:>9.0} %",
            target.name,
            ours / cost,
            of(at, |run| run.rate),
            of(at, |run| run.rate) * case.bytes as f64 / 1e6,
            of(at, |run| run.p50),
            of(at, |run| run.p99),
            of(at, |run| run.client) * 100.0
        );
    }
    for (peer, most) in case.aims {
        let cost = match *peer {
            "best" => (1..targets.len()).map(|at| of(at, |run| run.cost)).min_by(f64::total_cmp),
            peer => (1..targets.len()).find(|at| targets[*at].name == peer).map(|at| of(at, |run| run.cost)),
        };
        if let Some(cost) = cost {
            let ratio = ours / cost;
            let met = if ratio <= *most { "met" } else { "missed" };
            println!("  aim: at most {most} of {peer}: {ratio:.2}, {met}");
        }
    }
}
