//! Prefetch of many small objects: ours through the API to two L2s, beside what people do today, `curl --parallel` through an
//! nginx `proxy_cache`, in turns in one run, before the same nginx origin on the same disk.
//!
//! Ours ends when every task reads `Complete`, which means re-read from stable storage; the peer ends when curl has read
//! the last byte, which proves nothing of the sort (nginx does not sync). `cargo run --release -p bench --bin prefetch [OBJECTS]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::{idle_time, processor_time};
use e2e::nginx::pattern;
use e2e::stage::{DOMAIN, Stage};
use e2e::{Process, free_port};
use tokio::time::Instant;

/// Bytes of an object.
const BYTES: usize = 10 << 10;

/// Objects in one folder of the origin.
const FOLDER: usize = 1000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let objects: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    for folder in 0..objects.div_ceil(FOLDER) {
        for number in folder * FOLDER..((folder + 1) * FOLDER).min(objects) {
            origin.write_bytes(&path(number), &pattern(&path(number), BYTES))?;
        }
    }
    let list = stage.folder("lists")?.join("urls");
    let urls: Vec<String> = (0..objects).map(|number| format!("http://{DOMAIN}{}", path(number))).collect();
    std::fs::write(&list, urls.join("\n"))?;

    let peer = Peer::start(&stage.folder("peer")?, origin.port)?;
    let (their_time, their_processor) = peer.warm(objects)?;

    let mut pids = vec![stage.control().context("it runs")?.id()];
    for node in &mut stage.nodes {
        pids.push(node.process().context("it runs")?.id());
    }
    let used = || pids.iter().map(|pid| processor_time(*pid)).sum::<anyhow::Result<Duration>>();
    let (before, idle) = (used()?, idle_time()?);
    let begun = Instant::now();
    let done = stage.cli(&["push", &format!("@{}", list.display()), "--area", "domestic", "--wait"]).await?;
    let our_time = begun.elapsed();
    let our_processor = used()?.saturating_sub(before);
    let idle = idle_time()?.saturating_sub(idle);
    let complete = done["urls"].as_array().into_iter().flatten().filter(|url| url["state"] == "Complete").count();
    ensure!(complete == objects, "{complete} of {objects} are Complete");

    // The same again for the other region alone, to see what two roots at once cost over one.
    let begun = Instant::now();
    stage.cli(&["push", &format!("@{}", list.display()), "--area", "overseas", "--wait"]).await?;
    let second = begun.elapsed();
    let hit = e2e::http::get(stage.edges()[0], DOMAIN, &path(objects - 1), &[]).await?;
    ensure!(hit.header("x-cache").starts_with("HIT"), "{}", hit.header("x-cache"));

    let rate = |time: Duration| objects as f64 / time.as_secs_f64();
    println!("{objects} objects of {BYTES} bytes, one nginx origin, everything on this machine");
    println!(
        "peer: curl --parallel --parallel-max 64 through nginx proxy_cache   {:>7.1} s  {:>7.0} /s  {:>5.1} s of processor",
        their_time.as_secs_f64(),
        rate(their_time),
        their_processor.as_secs_f64()
    );
    println!(
        "ours: push --wait to one L2, all Complete (re-read, checked)         {:>7.1} s  {:>7.0} /s  {:>5.1} s of processor",
        our_time.as_secs_f64(),
        rate(our_time),
        our_processor.as_secs_f64()
    );
    println!(
        "ours: the same to the other region's L2                              {:>7.1} s  {:>7.0} /s",
        second.as_secs_f64(),
        rate(second)
    );
    println!(
        "ratio {:.2} (peer's time over ours; above 1 we are faster)",
        their_time.as_secs_f64() / our_time.as_secs_f64()
    );
    let per_second = |time: Duration| time.as_secs_f64() / our_time.as_secs_f64();
    println!(
        "limited by: {} (processors: {:.1} ours, {:.1} idle, the rest nginx, this client and the system)",
        if per_second(idle) < 0.3 { "the processors" } else { "waiting: disk syncs and round trips" },
        per_second(our_processor),
        per_second(idle)
    );
    Ok(())
}

fn path(number: usize) -> String {
    format!("/o/{}/{number}.bin", number / FOLDER)
}

/// nginx with `proxy_cache` before the origin.
struct Peer {
    process: Process,
    port: u16,
    folder: std::path::PathBuf,
}

impl Peer {
    fn start(folder: &Path, origin: u16) -> anyhow::Result<Peer> {
        let port = free_port();
        let dir = folder.display();
        let configuration = folder.join("nginx.conf");
        std::fs::create_dir_all(folder.join("cache"))?;
        let _ = Command::new("chown").arg("-R").arg("www-data").arg(folder).status();
        std::fs::write(
            &configuration,
            format!(
                "worker_processes 2;\ndaemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 4096; }}\n\
                 http {{\n access_log off; sendfile on; keepalive_requests 1000000;\n\
                 client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
                 proxy_cache_path {dir}/cache levels=1:2 keys_zone=c:64m max_size=4g inactive=1h use_temp_path=off;\n\
                 upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
                 proxy_set_header Host {DOMAIN}; proxy_cache c; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status; }} }}\n}}\n"
            ),
        )?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&configuration).arg("-e").arg(folder.join("error.log"));
        let process = Process::start(&mut command, &folder.join("nginx.out"))?;
        Ok(Peer { process, port, folder: folder.to_owned() })
    }

    /// Warms all objects; the time it took, and the processor time of nginx's master with its children that have ended, plus curl's.
    fn warm(&self, objects: usize) -> anyhow::Result<(Duration, Duration)> {
        let list = self.folder.join("curl.cfg");
        let lines: Vec<String> = (0..objects)
            .map(|number| format!("url = \"http://127.0.0.1:{}{}\"\noutput = \"/dev/null\"", self.port, path(number)))
            .collect();
        std::fs::write(&list, lines.join("\n"))?;
        let workers = || -> anyhow::Result<Duration> {
            let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.process.id()))?;
            children.split_whitespace().map(|pid| processor_time(pid.parse()?)).sum()
        };
        let before = workers()?;
        let begun = Instant::now();
        let status = Command::new("curl")
            .args(["-s", "--no-progress-meter", "--parallel", "--parallel-max", "64", "-K"])
            .arg(&list)
            .status()?;
        let time = begun.elapsed();
        ensure!(status.success(), "curl ended with {status}");
        Ok((time, workers()?.saturating_sub(before)))
    }
}
