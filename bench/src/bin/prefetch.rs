//! Prefetching into two caches: ours through the API to two L2s, compared with common practice: `curl --parallel`,
//! `wget -i` and a load generator (wrk) through nginx `proxy_cache` and through Varnish; alternating in one run, with
//! the same nginx origin on the same disk.
//!
//! A placement is one URL in one cache. The result is placements per second of CPU time of caches and driver (for ours
//! this includes control plane and command line), excluding the origin. Ours ends when every task reads `Complete`:
//! synced, read back from the medium, verified. The peers end when their client has read the last byte, which
//! guarantees none of that: nginx does not sync, and Varnish stores in memory only. `cargo run --release -p bench --bin
//! prefetch [OBJECTS OF 10 KIB] [OBJECTS OF 50 MIB]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::{family, idle_time, processor_time};
use e2e::nginx::pattern;
use e2e::stage::{DOMAIN, Stage};
use e2e::{Process, eventually, free_port};
use tokio::time::Instant;

/// Objects per folder of the origin.
const FOLDER: usize = 1000;

/// Number of caches that each object is brought into.
const COPIES: usize = 2;

/// wget, which fetches one object at a time, gets only one object in this many: its rate is the same, and the run ends
/// sooner.
const WGET_SHARE: usize = 5;

/// The objects to prefetch.
struct Objects {
    count: usize,
    bytes: usize,
}

/// The cost of a run.
struct Cost {
    placements: usize,
    time: Duration,
    /// CPU time of caches and driver.
    processor: Duration,
}

impl Cost {
    fn for_each_second(&self) -> f64 {
        self.placements as f64 / self.processor.as_secs_f64()
    }

    fn show(&self, name: &str) {
        println!(
            "  {name:<34} {:>7} placements {:>8.1} s {:>8.0} /s {:>8.1} s of processor {:>8.0} for each second of it",
            self.placements,
            self.time.as_secs_f64(),
            self.placements as f64 / self.time.as_secs_f64(),
            self.processor.as_secs_f64(),
            self.for_each_second()
        );
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let small = Objects { count: number(100_000)?, bytes: 10 << 10 };
    let large = Objects { count: number(200)?, bytes: 50 << 20 };
    println!("to {COPIES} caches, one nginx origin, everything on this machine");
    for objects in [small, large] {
        if objects.count > 0 {
            compare(&objects).await?;
        }
    }
    Ok(())
}

async fn compare(objects: &Objects) -> anyhow::Result<()> {
    println!("{} objects of {} KiB", objects.count, objects.bytes >> 10);
    let mut stage = Stage::set("open").await?;
    let need = (objects.count * objects.bytes) as u64;
    for node in stage.nodes.iter_mut().filter(|_| need > 1 << 30) {
        node.kill9();
        let capacity = need + need / 2;
        node.reconfigure(|text| text.replace("capacity_bytes = 2147483648", &format!("capacity_bytes = {capacity}")))?;
        node.start()?;
        node.ready().await;
    }
    let origin = stage.origin().await?;
    let large = pattern("large", objects.bytes);
    for number in 0..objects.count {
        let body = if objects.bytes > 1 << 20 { large.clone() } else { pattern(&path(number), objects.bytes) };
        origin.write_bytes(&path(number), &body)?;
    }

    let mut best: Option<(f64, String)> = None;
    for program in ["nginx", "varnish"] {
        for driver in ["curl", "wget", "wrk"] {
            let folder = stage.folder(&format!("{driver}-{program}"))?;
            let peer = Peer::start(program, &folder, origin.port, need).await?;
            let count = if driver == "wget" { objects.count.div_ceil(WGET_SHARE) } else { objects.count };
            let cost = peer.warm(driver, count, objects.bytes)?;
            let name = format!("{driver} through {program}");
            cost.show(&name);
            if best.as_ref().is_none_or(|(most, _)| *most < cost.for_each_second()) {
                best = Some((cost.for_each_second(), name));
            }
            drop(peer);
            // Some file systems create files slowly for minutes after many were removed, so the many small ones are
            // kept.
            if objects.bytes > 1 << 20 {
                std::fs::remove_dir_all(&folder)?;
            }
        }
    }
    let ours = ours(&mut stage, objects).await?;
    ours.show("push --wait, all Complete");
    let (most, name) = best.context("peers were measured")?;
    println!(
        "  ratio {:.2} to the best of them, {name} (aim 2; above 1 ours takes less)",
        ours.for_each_second() / most
    );
    Ok(())
}

async fn ours(stage: &mut Stage, objects: &Objects) -> anyhow::Result<Cost> {
    let list = stage.folder("lists")?.join("urls");
    let urls: Vec<String> = (0..objects.count).map(|number| format!("http://{DOMAIN}{}", path(number))).collect();
    std::fs::write(&list, urls.join("\n"))?;
    let mut pids = vec![("control", stage.control().context("it runs")?.id())];
    for node in &mut stage.nodes {
        let tier = if node.name.ends_with("l1") { "idle edges" } else { "L2s" };
        pids.push((tier, node.process().context("it runs")?.id()));
    }
    let used = || {
        let of = |(name, pid): &(&'static str, u32)| Ok((*name, processor_time(*pid)?));
        pids.iter()
            .map(of)
            .chain([Ok(("push", processor_time(std::process::id())?))])
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let (before, idle) = (used()?, idle_time()?);
    let begun = Instant::now();
    let done = stage.cli(&["push", &format!("@{}", list.display()), "--wait", "--timeout", "3600"]).await?;
    let time = begun.elapsed();
    let complete = done["urls"].as_array().into_iter().flatten().filter(|url| url["state"] == "Complete").count();
    ensure!(complete == objects.count, "{complete} of {} are Complete", objects.count);
    let mut parts: Vec<(&str, Duration)> = Vec::new();
    for ((name, after), (_, before)) in used()?.into_iter().zip(before) {
        match parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += after.saturating_sub(before),
            None => parts.push((name, after.saturating_sub(before))),
        }
    }
    let processor = parts.iter().map(|(_, time)| *time).sum();
    let of_all: Vec<String> = parts.iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
    let idle = idle_time()?.saturating_sub(idle).as_secs_f64() / time.as_secs_f64();
    println!("  of ours: {}; {idle:.1} processors were idle", of_all.join(", "));
    for edge in stage.edges() {
        let hit = e2e::http::get(edge, DOMAIN, &path(objects.count - 1), &[]).await?;
        ensure!(hit.header("x-cache").starts_with("HIT"), "{}", hit.header("x-cache"));
    }
    Ok(Cost { placements: objects.count * COPIES, time, processor })
}

fn path(number: usize) -> String {
    format!("/o/{}/{number}.bin", number / FOLDER)
}

/// Caches that a driver warms one after the other.
struct Peer {
    caches: Vec<(Process, u16)>,
    folder: PathBuf,
}

impl Peer {
    async fn start(program: &str, folder: &Path, origin: u16, bytes: u64) -> anyhow::Result<Peer> {
        let mut caches = Vec::new();
        for copy in 0..COPIES {
            let (port, folder) = (free_port(), folder.join(copy.to_string()));
            std::fs::create_dir_all(folder.join("cache"))?;
            let process = match program {
                "nginx" => nginx(&folder, port, origin, bytes * 2)?,
                _ => varnish(&folder, port, origin, bytes)?,
            };
            let listens = || async { Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?) };
            eventually(&format!("{program} listens"), listens).await;
            caches.push((process, port));
        }
        Ok(Peer { caches, folder: folder.to_owned() })
    }

    /// CPU time of the caches, and of this process with the drivers that have ended.
    fn used(&self) -> anyhow::Result<Duration> {
        let caches = self.caches.iter().flat_map(|(cache, _)| family(cache.id()));
        caches.chain([std::process::id()]).map(processor_time).sum()
    }

    fn warm(&self, driver: &str, count: usize, bytes: usize) -> anyhow::Result<Cost> {
        let before = self.used()?;
        let begun = Instant::now();
        for (_, port) in &self.caches {
            drive(driver, *port, count, &self.folder)?;
        }
        let (time, processor) = (begun.elapsed(), self.used()?.saturating_sub(before));
        for (_, port) in &self.caches {
            let url = format!("http://127.0.0.1:{port}{}", path(count - 1));
            let seen = Command::new("curl")
                .args(["-s", "-D", "-", "-o", "/dev/null", "-w", "%{size_download}", &url])
                .output()?;
            let seen = String::from_utf8_lossy(&seen.stdout).to_lowercase();
            let is_hit = seen.lines().any(|line| line.trim_end() == "x-cache: hit");
            ensure!(is_hit && seen.ends_with(&bytes.to_string()), "{driver} did not warm {url}: {seen}");
        }
        Ok(Cost { placements: count * COPIES, time, processor })
    }
}

/// Requests each object from a cache once.
fn drive(driver: &str, port: u16, count: usize, folder: &Path) -> anyhow::Result<()> {
    let list = folder.join("list");
    let url = |number| format!("http://127.0.0.1:{port}{}", path(number));
    let mut command = Command::new(driver);
    match driver {
        "curl" => {
            let lines = (0..count).map(|number| format!("url = \"{}\"\noutput = \"/dev/null\"\n", url(number)));
            std::fs::write(&list, lines.collect::<String>())?;
            command.args(["-s", "--no-progress-meter", "--parallel", "--parallel-max", "64", "-K"]).arg(&list);
        }
        "wget" => {
            let lines = (0..count).map(|number| format!("{}\n", url(number)));
            std::fs::write(&list, lines.collect::<String>())?;
            command.args(["-q", "-O", "/dev/null", "-i"]).arg(&list);
        }
        _ => {
            // wrk would run until its time is over, so the script ends it after the last response.
            let script = format!(
                "local n, got = 0, 0\n\
                 function request() local k = math.min(n, {last}); n = n + 1\n\
                 return wrk.format('GET', string.format('/o/%d/%d.bin', math.floor(k / {FOLDER}), k)) end\n\
                 function response() got = got + 1; if got >= {count} then os.exit(0) end end\n",
                last = count - 1
            );
            std::fs::write(&list, script)?;
            let connections = format!("-c{}", 64.min(count));
            command.args(["-t1", &connections, "-d3600s", "--timeout", "60s", "-s"]).arg(&list);
            command.arg(format!("http://127.0.0.1:{port}/")).stdout(Stdio::null());
        }
    }
    let status = command.status().with_context(|| format!("{driver} is needed (apt-get install {driver})"))?;
    ensure!(status.success(), "{driver}: {status}");
    Ok(())
}

/// nginx with `proxy_cache` in front of the origin.
fn nginx(folder: &Path, port: u16, origin: u16, bytes: u64) -> anyhow::Result<Process> {
    let dir = folder.display();
    let configuration = folder.join("nginx.conf");
    let _ = Command::new("chown").arg("-R").arg("www-data").arg(folder).status();
    std::fs::write(
        &configuration,
        format!(
            "worker_processes 2;\ndaemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 4096; }}\n\
             http {{\n access_log off; sendfile on; keepalive_requests 1000000;\n\
             client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
             proxy_cache_path {dir}/cache levels=1:2 keys_zone=c:128m max_size={bytes} inactive=1h use_temp_path=off;\n\
             upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host {DOMAIN}; proxy_cache c; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status; }} }}\n}}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&configuration).arg("-e").arg(folder.join("error.log"));
    Process::start(&mut command, &folder.join("nginx.out"))
}

/// Varnish with memory storage in front of the origin.
fn varnish(folder: &Path, port: u16, origin: u16, bytes: u64) -> anyhow::Result<Process> {
    let text = std::fs::read_to_string(e2e::workspace().join("bench/peers/varnish.vcl"))?;
    let vcl = folder.join("varnish.vcl");
    std::fs::write(&vcl, text.replace("@ORIGIN@", &origin.to_string()))?;
    let mut command = Command::new("varnishd");
    command
        .args(["-F", "-j", "none", "-n"])
        .arg(folder.join("run"))
        .args(["-a", &format!("127.0.0.1:{port},HTTP"), "-f"])
        .arg(&vcl);
    command.args(["-s", &format!("malloc,{}", bytes * 2 + (256 << 20))]);
    Process::start(&mut command, &folder.join("varnish.out")).context("varnishd is needed (apt-get install varnish)")
}
