//! Hits per second while invalidations arrive: one of our nodes compared with Varnish and its bans, alternating in one
//! run.
//!
//! The measured server has processor 0 to itself; wrk, the origin, the control plane, the other nodes and the sender of
//! invalidations share the rest. The invalidations cover none of the requested objects, and are as cheap as the peer
//! allows: bans on object properties, which its lurker tests in the background.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::api::{Api, Http};
use bench::{median, processor_time};
use e2e::stage::{DOMAIN, Stage};
use e2e::{Process, eventually, free_port};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::origin::Origin;

/// Requested objects, and their size in bytes.
const OBJECTS: usize = 1000;
const BYTES: usize = 1024;

/// Invalidations per second.
const RATES: [usize; 3] = [0, 100, 1000];

/// How often per second invalidations are sent: ours in one call each time, bans one by one, as Varnish accepts them.
const TURNS: usize = 10;

/// Rounds, and the duration of each measurement.
const ROUNDS: usize = 3;
const SECONDS: u64 = 5;

pub(crate) async fn run() -> anyhow::Result<()> {
    let origin = Origin::start(BYTES).await?;
    let mut stage = Stage::set("open").await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.add_domain(&address).await?;
    let folder = stage.folder("varnish")?;
    let peer = Varnish::start(&folder, origin.port).await?;
    let port = stage.nodes[0].port;
    let node = stage.nodes[0].process().context("it runs")?.id();
    let mut others: Vec<u32> = vec![std::process::id(), stage.control().context("it runs")?.id()];
    for other in &mut stage.nodes[1..] {
        others.push(other.process().context("it runs")?.id());
    }
    for pid in others {
        pin(pid, "1")?;
    }
    pin(node, "0")?;
    pin(peer.process.id(), "0")?;
    pin(peer.child()?, "0")?;
    for port in [port, peer.port] {
        let mut http = Http::connect(port).await?;
        for number in 0..OBJECTS {
            http.get(DOMAIN, &format!("/h/{number}")).await?;
        }
        let (_, headers, _) = http.get(DOMAIN, "/h/0").await?;
        let said = headers.get("x-cache").and_then(|said| said.to_str().ok()).unwrap_or_default();
        ensure!(said.starts_with("HIT"), "x-cache: {said}");
    }

    println!("{OBJECTS} objects of {BYTES} bytes; wrk -t1 -c64, {SECONDS} s each, {ROUNDS} rounds in turns; median");
    println!("invalidations /s           ours req/s  us/req   Varnish req/s  us/req   ratio of req/s");
    let mut prefix = 0;
    for rate in RATES {
        let (mut ours, mut theirs) = (Figures::default(), Figures::default());
        for _ in 0..ROUNDS {
            prefix += 1;
            let refreshing = (rate > 0).then(|| refresh(&stage, prefix, rate));
            let refreshing = match refreshing {
                Some(refreshing) => Some(refreshing.await?),
                None => None,
            };
            ours.add(hits(port, &[node]).await?);
            drop(refreshing);
            let banning = if rate > 0 { Some(peer.ban(&folder, prefix, rate)?) } else { None };
            theirs.add(hits(peer.port, &[peer.process.id(), peer.child()?]).await?);
            drop(banning);
        }
        let (our_rate, our_cost) = ours.middle();
        let (their_rate, their_cost) = theirs.middle();
        println!(
            "{rate:>7}                    {our_rate:>10.0}  {our_cost:>6.1}   {their_rate:>13.0}  {their_cost:>6.1}   {:>6.2}",
            our_rate / their_rate
        );
    }
    println!(
        "  (us/req: processor time of the server; ours are applied by the node through the control plane, and durable;"
    );
    println!("   bans are in Varnish's memory. Whoever asks and invalidates shares processor 1)");
    Ok(())
}

/// Requests per second, and microseconds of the server's CPU time per request.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Figures {
    fn add(&mut self, (rate, cost): (f64, f64)) {
        self.rates.push(rate);
        self.costs.push(cost);
    }

    fn middle(self) -> (f64, f64) {
        (median(self.rates), median(self.costs))
    }
}

fn pin(pid: u32, processor: &str) -> anyhow::Result<()> {
    let done = Command::new("taskset").args(["-acp", processor, &pid.to_string()]).stdout(Stdio::null()).status()?;
    ensure!(done.success(), "taskset of {pid}");
    Ok(())
}

/// Measures hits for a while.
async fn hits(port: u16, pids: &[u32]) -> anyhow::Result<(f64, f64)> {
    let script = e2e::workspace().join("bench/peers/hits.lua");
    let used = || pids.iter().map(|pid| processor_time(*pid)).sum::<anyhow::Result<Duration>>();
    let before = used()?;
    let mut wrk = Command::new("taskset");
    wrk.args(["-c", "1", "wrk", "-t1", "-c64", &format!("-d{SECONDS}s"), "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}/"))
        .env("HITS_OBJECTS", OBJECTS.to_string())
        .env("HITS_HOST", DOMAIN);
    let output =
        tokio::task::spawn_blocking(move || wrk.output()).await?.context("wrk is needed (apt-get install wrk)")?;
    let used = used()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && !text.contains("Non-2xx"), "{text}");
    let figure = |name: &str| -> anyhow::Result<f64> {
        let line = text.lines().find(|line| line.contains(name)).with_context(|| format!("{name} in {text}"))?;
        let number = line.split_whitespace().find_map(|word| word.parse().ok());
        number.with_context(|| line.to_owned())
    };
    let requests = figure("requests in")?;
    Ok((figure("Requests/sec")?, used.as_secs_f64() * 1e6 / requests))
}

/// Refreshes other URLs through the API until dropped.
async fn refresh(stage: &Stage, prefix: usize, rate: usize) -> anyhow::Result<AbortOnDropHandle<anyhow::Result<()>>> {
    let mut api = Api::connect(stage, &format!("peer-{prefix}")).await?;
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let begun = Instant::now();
        for turn in 0_u32.. {
            tokio::time::sleep_until(begun + Duration::from_secs(1) * turn / TURNS as u32).await;
            let urls: Vec<String> =
                (0..rate / TURNS).map(|n| format!("http://{DOMAIN}/other/{prefix}/{turn}/{n}")).collect();
            api.refresh("File", &urls).await?;
        }
        Ok(())
    })))
}

/// Varnish in front of the origin.
struct Varnish {
    process: Process,
    port: u16,
}

impl Varnish {
    async fn start(folder: &Path, origin: u16) -> anyhow::Result<Varnish> {
        let port = free_port();
        let template = std::fs::read_to_string(e2e::workspace().join("bench/peers/varnish.vcl"))?;
        let vcl = folder.join("varnish.vcl");
        std::fs::write(&vcl, template.replace("@ORIGIN@", &origin.to_string()))?;
        let mut command = Command::new("varnishd");
        command
            .args(["-F", "-j", "none", "-n"])
            .arg(folder.join("run"))
            .arg("-a")
            .arg(format!("127.0.0.1:{port},HTTP"));
        command.arg("-f").arg(&vcl).args(["-s", "malloc,1G", "-p", "thread_pools=1", "-p", "thread_pool_min=100"]);
        let process = Process::start(&mut command, &folder.join("varnish.log"))
            .context("Varnish is needed (apt-get install varnish)")?;
        eventually("Varnish answers", || async { Http::connect(port).await?.get(DOMAIN, "/h/0").await }).await;
        Ok(Varnish { process, port })
    }

    /// The process that serves; the other one supervises it.
    fn child(&self) -> anyhow::Result<u32> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.process.id()))?;
        Ok(children.split_whitespace().next().context("Varnish has a child")?.parse()?)
    }

    /// Bans other URLs until dropped.
    fn ban(&self, folder: &Path, prefix: usize, rate: usize) -> anyhow::Result<Banning> {
        let mut command = Command::new("taskset");
        command.args(["-c", "1", "varnishadm", "-n"]).arg(folder.join("run"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take().context("a piped input")?;
        let writing = tokio::spawn(async move {
            let begun = Instant::now();
            for turn in 0_u32.. {
                tokio::time::sleep_until(begun + Duration::from_secs(1) * turn / TURNS as u32).await;
                for n in 0..rate / TURNS {
                    writeln!(stdin, "ban obj.http.x-url ~ ^/other/{prefix}/{turn}/{n}$")?;
                }
                stdin.flush()?;
            }
            anyhow::Ok(())
        });
        Ok(Banning { child, _writing: AbortOnDropHandle::new(writing) })
    }
}

/// A running stream of bans.
struct Banning {
    child: Child,
    _writing: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Drop for Banning {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
