//! A node terminated by SIGTERM: it first reports that in its health, keeps serving for a grace period, lets running
//! responses finish, and ends successfully. And its access log is reopened after SIGHUP.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Size of a response in progress when the node is terminated: more than socket buffers hold.
const BIG: usize = 24 << 20;

fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    ensure!(Command::new("kill").args([name, &pid.to_string()]).status()?.success(), "kill {name} {pid}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_is_told_to_end_hurts_nobody() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let big = vec![b'x'; BIG];
    origin.write_bytes("/big.bin", &big)?;
    let log = stage.folder("logs")?.join("access.log");
    let node = stage.node("cn-1-l1");
    node.kill9();
    node.configure(&format!("drain_grace_secs = 2\naccess_log = \"{}\"\n", log.display()))?;
    node.start()?;
    node.ready().await;
    let (port, admin_port) = (node.port, node.admin_port);
    ensure!(http::get(port, DOMAIN, "/big.bin", &[]).await?.body.len() == BIG, "a whole answer");

    // The log is moved away and reopened.
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
    eventually("the first line", || async {
        ensure!(lines(&log) == 1, "{}", lines(&log));
        Ok(())
    })
    .await;
    let moved = log.with_extension("1");
    std::fs::rename(&log, &moved)?;
    let pid = stage.node("cn-1-l1").process().context("it runs")?.id();
    signal("-HUP", pid)?;
    eventually("a new log", || async {
        ensure!(log.exists(), "{} is missing", log.display());
        Ok(())
    })
    .await;

    // A response that is not read yet.
    let mut slow = TcpStream::connect(("127.0.0.1", port)).await?;
    slow.write_all(format!("GET /big.bin HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n").as_bytes()).await?;
    let mut got = vec![0; 1024];
    slow.read_exact(&mut got).await?;

    signal("-TERM", pid)?;
    eventually("it says that it goes", || async {
        let answer = http::get(admin_port, "localhost", "/readyz", &[]).await?;
        ensure!(answer.status.as_u16() == 503 && answer.text().contains("on its way out"), "{}", answer.text());
        Ok(())
    })
    .await;
    // Clients that have not noticed yet are served, and asked to close.
    let late = http::get(port, DOMAIN, "/big.bin", &[]).await?;
    ensure!(late.body.len() == BIG && late.header("connection") == "close", "{:?}", late.headers);
    eventually("it takes no more connections", || async {
        ensure!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it does");
        Ok(())
    })
    .await;

    // The running response is read to its end, and then the process is gone.
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut rest)).await??;
    got.extend_from_slice(&rest);
    let body = got.windows(4).position(|four| four == b"\r\n\r\n").context("a head")? + 4;
    ensure!(got.len() - body == BIG, "{} bytes of {BIG}", got.len() - body);
    // A second SIGTERM would cut it short; it ends by itself, successfully.
    let process = stage.node("cn-1-l1").process().context("it was started")?;
    process.ended_well()?;
    ensure!(lines(&moved) == 1 && lines(&log) == 2, "{} and {} lines", lines(&moved), lines(&log));
    Ok(())
}
