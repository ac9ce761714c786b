//! Disks that fail or fill up under a node, with real processes: it keeps serving, from memory or from what is left,
//! and recovers.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::nginx::Nginx;
use e2e::stage::{DOMAIN, Node, Stage};
use e2e::{eventually, http};

/// Size of an object, in bytes.
const LENGTH: usize = 900_000;

/// A stage where only the domestic POP runs; its L1 is started by `launcher`.
async fn two_tiers(
    launcher: &[&str],
    change: impl FnOnce(&Node) -> anyhow::Result<()>,
) -> anyhow::Result<(Stage, Nginx)> {
    let mut stage = Stage::without_nodes("open", &[]).await?;
    stage.node("cn-1-l2").start()?;
    let node = stage.node("cn-1-l1");
    change(node)?;
    node.start_by(launcher)?;
    for node in &stage.nodes[..2] {
        node.ready().await;
    }
    let origin = stage.origin().await?;
    Ok((stage, origin))
}

/// Requests the objects with these numbers, checks them, and returns the number of hits.
async fn ask(stage: &Stage, origin: &Nginx, numbers: impl Iterator<Item = usize>) -> anyhow::Result<usize> {
    let mut hits = 0;
    for number in numbers {
        let path = format!("/{number}.bin");
        let body = origin.write_once(&path, LENGTH)?;
        let answer = http::get(stage.edges()[0], DOMAIN, &path, &[]).await.with_context(|| path.clone())?;
        ensure!(
            answer.status == 200 && answer.body == body,
            "{path}: {} of {} bytes",
            answer.status,
            answer.body.len()
        );
        hits += usize::from(answer.header("x-cache") == "HIT from cn-1-l1");
    }
    Ok(hits)
}

/// Changes an object at the origin and refreshes it; users must then get the new bytes.
async fn refreshed(stage: &Stage, origin: &Nginx, version: &str) -> anyhow::Result<()> {
    origin.write_bytes("/news", version.as_bytes())?;
    stage.cli(&["refresh", &format!("http://{DOMAIN}/news"), "--force", "--wait"]).await?;
    let answer = http::get(stage.edges()[0], DOMAIN, "/news", &[]).await?;
    ensure!(answer.text() == version, "{version}, not {}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_whose_disk_fails_serves_on_from_memory_and_comes_back() -> anyhow::Result<()> {
    // Beyond a limit on file sizes every write fails, if the accompanying signal is ignored.
    let launcher = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let (mut stage, origin) = two_tiers(&launcher, |_| Ok(())).await?;
    ask(&stage, &origin, 0..10).await?;
    refreshed(&stage, &origin, "one").await?;
    stage.nodes[0].settled().await;
    let hits = ask(&stage, &origin, 0..10).await?;
    ensure!(hits == 10, "{hits} hits");

    let pid = stage.node("cn-1-l1").process().context("it runs")?.id().to_string();
    // More than the journal needs, and less than the open segment has by now.
    let limited = Command::new("prlimit").args(["--pid", &pid, "--fsize=8388608:"]).status()?;
    ensure!(limited.success(), "prlimit: {limited}");
    ask(&stage, &origin, 10..60).await?;
    eventually("the disk is out of service", || async {
        let out = stage.nodes[0].metric("store_disks_out").await?;
        ensure!(out == 1, "{out}");
        Ok(())
    })
    .await;
    ask(&stage, &origin, 60..80).await?;
    stage.nodes[0].settled().await;
    let hits = ask(&stage, &origin, 60..80).await?;
    ensure!(hits == 20, "{hits} hits from memory");
    refreshed(&stage, &origin, "two").await?;

    let node = stage.node("cn-1-l1");
    node.process().context("it runs")?.terminate()?;
    node.start()?;
    node.ready().await;
    ensure!(node.metric("store_disks_out").await? == 0, "a disk is in service again at the next start");
    let hits = ask(&stage, &origin, 0..10).await?;
    ensure!(hits == 0, "{hits} hits of what was there before the disk went out");
    refreshed(&stage, &origin, "three").await?;
    let node = stage.node("cn-1-l1");
    node.settled().await;
    node.process().context("it runs")?.terminate()?;
    node.start()?;
    node.ready().await;
    let hits = ask(&stage, &origin, 0..10).await?;
    ensure!(hits == 10, "{hits} hits from the disk");
    Ok(())
}

/// Fills the file system of `folder` completely; returns the number of bytes.
fn fill(folder: &Path) -> anyhow::Result<u64> {
    let mut file = File::options().create(true).append(true).open(folder.join("others"))?;
    let (zeros, mut filled) = (vec![0; 1 << 20], 0);
    for size in [1 << 20, 4096] {
        while let Ok(written) = file.write(&zeros[..size]) {
            filled += written as u64;
        }
    }
    Ok(filled)
}

/// Needs permission to mount: `./test` runs it where that is possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "mounts a file system of 300 MB, in a namespace of its own"]
async fn node_whose_disk_is_full_keeps_to_what_is_left() -> anyhow::Result<()> {
    let mut place = PathBuf::new();
    // The disk is smaller than the configuration says (2 GiB).
    let script = "mount -t tmpfs -o size=300m none \"$0\" && exec \"$@\"";
    let folder = tempfile::TempDir::new()?;
    let mounted = folder.path().display().to_string();
    let launcher = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, &mounted];
    let (mut stage, origin) = two_tiers(&launcher, |node| {
        node.reconfigure(|text| {
            let (rest, _) = text.rsplit_once("path = ").expect("the disk comes last");
            format!("{rest}path = \"{mounted}\"\ncapacity_bytes = 2147483648\n")
        })
    })
    .await?;
    let pid = stage.node("cn-1-l1").process().context("it runs")?.id();
    place.push(format!("/proc/{pid}/root"));
    place.push(mounted.trim_start_matches('/'));

    // More than there is room for: the oldest are evicted.
    ask(&stage, &origin, 0..450).await?;
    stage.nodes[0].settled().await;
    let hits = ask(&stage, &origin, (300..450).rev()).await?;
    ensure!(hits > 100, "{hits} hits");
    refreshed(&stage, &origin, "one").await?;

    // Other files take the remaining room, repeatedly.
    for round in 0..4 {
        let filled = fill(&place)?;
        ask(&stage, &origin, 500 + round * 100..600 + round * 100)
            .await
            .with_context(|| format!("after {filled} bytes"))?;
        refreshed(&stage, &origin, &format!("full {round}")).await?;
    }
    std::fs::remove_file(place.join("others"))?;
    refreshed(&stage, &origin, "room again").await?;
    let out = stage.nodes[0].metric("store_disks_out").await?;
    ask(&stage, &origin, 1000..1100).await?;
    stage.nodes[0].settled().await;
    let hits = ask(&stage, &origin, 1050..1100).await?;
    ensure!(hits == 50, "{hits} hits, {out} disks out");

    // Starts again with another disk.
    let node = stage.node("cn-1-l1");
    node.process().context("it runs")?.terminate()?;
    node.start_by(&launcher)?;
    node.ready().await;
    ensure!(node.metric("store_disks_out").await? == 0, "a disk is in service again at the next start");
    ask(&stage, &origin, 0..20).await?;
    stage.nodes[0].settled().await;
    let hits = ask(&stage, &origin, 0..20).await?;
    ensure!(hits == 20, "{hits} hits");
    Ok(())
}
