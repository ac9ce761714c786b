//! What newcomers run first: `demo` on its fixed ports, `serve` on a folder that is kept, and both terminated.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::nginx::Nginx;
use e2e::{Process, binary, eventually, http, warmfront};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// The demo and `serve` use fixed ports: one at a time.
static PORTS: Mutex<()> = Mutex::const_new(());

fn demo(arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(binary()).arg("demo").args(arguments).stdin(Stdio::null()).output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

#[tokio::test]
async fn demo_shows_that_every_check_holds() -> anyhow::Result<()> {
    let _ports = PORTS.lock().await;
    let (good, text) = demo(&["--once"])?;
    ensure!(good, "{text}");
    for part in [
        "HIT from cn-1-l2",
        "HIT from eu-1-l1",
        "asked 204 times for 102 objects",
        "New bytes proved: 408 answers",
        "Every check held",
    ] {
        ensure!(text.contains(part), "{part} in:\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn demo_serves_a_folder_and_never_writes_to_it() -> anyhow::Result<()> {
    let _ports = PORTS.lock().await;
    let folder = TempDir::new()?;
    std::fs::create_dir(folder.path().join("sub"))?;
    std::fs::write(folder.path().join("a b.txt"), "hello")?;
    std::fs::write(folder.path().join("sub/c.bin"), vec![7; 200_000])?;
    let (good, text) = demo(&["--once", "--files", &folder.path().display().to_string()])?;
    ensure!(good && text.contains("/a%20b.txt"), "{text}");
    ensure!(std::fs::read(folder.path().join("a b.txt"))? == b"hello", "a file of the user's was changed");
    ensure!(std::fs::read_dir(folder.path())?.count() == 2, "something was left in the user's folder");
    Ok(())
}

#[tokio::test]
async fn demo_stands_before_a_real_origin_and_says_what_it_skips() -> anyhow::Result<()> {
    let _ports = PORTS.lock().await;
    let folder = TempDir::new()?;
    let dir = folder.path().join("origin");
    std::fs::create_dir(&dir)?;
    // nginx's worker user must be able to enter it.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let origin = Nginx::start(&dir)?;
    origin.write("/x.bin", 50_000)?;
    let paths = folder.path().join("paths");
    std::fs::write(&paths, "/x.bin\n")?;
    let address = format!("http://127.0.0.1:{}", origin.port);
    let arguments =
        ["--once", "--origin", &address, "--domain", "real.example.com", "--paths", &paths.display().to_string()];
    let (good, text) = demo(&arguments)?;
    ensure!(good && text.contains("change check is skipped"), "{text}");
    ensure!(origin.gets()?.get("/x.bin") == Some(&2), "once for each root: {:?}", origin.gets()?);
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named() -> anyhow::Result<()> {
    let _ports = PORTS.lock().await;
    let _taken = std::net::TcpListener::bind("127.0.0.1:9702")?;
    let (good, text) = demo(&["--once"])?;
    ensure!(!good && text.contains("9702") && text.contains("cn-1-l2"), "{text}");
    Ok(())
}

#[tokio::test]
async fn demo_that_is_told_to_stop_stops_cleanly() -> anyhow::Result<()> {
    let _ports = PORTS.lock().await;
    let folder = TempDir::new()?;
    let mut process = Process::start(Command::new(binary()).arg("demo"), &folder.path().join("log"))?;
    eventually("the demo is at its end", || async {
        let text = std::fs::read_to_string(folder.path().join("log"))?;
        ensure!(text.contains("Try next"), "{text}");
        Ok(())
    })
    .await;
    process.terminate()
}

#[tokio::test]
async fn serve_keeps_its_data_over_a_restart() -> anyhow::Result<()> {
    let _ports = PORTS.lock().await;
    let folder = TempDir::new()?;
    let data = folder.path().join("data");
    let log = folder.path().join("log");
    let start = || Process::start(Command::new(binary()).arg("serve").arg("--data").arg(&data), &log);
    let ready = || async {
        for port in [9680, 9721, 9722] {
            let answer = http::get(port, "localhost", "/readyz", &[]).await?;
            ensure!(answer.status.is_success(), "{port}: {}", answer.text());
        }
        Ok(())
    };
    let mut first = start()?;
    eventually("it is ready", ready).await;
    let text = std::fs::read_to_string(&log)?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        line.map(str::to_owned).with_context(|| format!("{name} in {text}"))
    };
    let (id, secret) = (value("ALIBABA_CLOUD_ACCESS_KEY_ID")?, value("ALIBABA_CLOUD_ACCESS_KEY_SECRET")?);
    let environment = [
        ("WARMFRONT_ENDPOINT", "http://127.0.0.1:9680"),
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", id.as_str()),
        ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", secret.as_str()),
    ];
    let run = |arguments: Vec<String>| async move {
        tokio::task::spawn_blocking({
            let environment: Vec<(String, String)> =
                environment.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            move || {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let environment: Vec<(&str, &str)> =
                    environment.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                warmfront(&arguments, &environment)
            }
        })
        .await?
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let site = folder.path().join("site");
    std::fs::create_dir_all(&site)?;
    // nginx's worker user must be able to enter it.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let origin = Nginx::start(&site)?;
    origin.write_bytes("a.bin", b"warm")?;
    run(words(&format!("domain add kept.example.com --origin 127.0.0.1:{} --coverage global", origin.port))).await?;
    run(words("push http://kept.example.com/a.bin --wait")).await?;
    drop(origin);
    first.terminate()?;
    std::fs::write(&log, "")?;
    let mut second = start()?;
    eventually("it is ready again", ready).await;
    let shown = run(words("domain show kept.example.com")).await?;
    ensure!(shown["domain"] == "kept.example.com", "{shown}");
    let answer = http::get(9701, "kept.example.com", "/a.bin", &[]).await?;
    ensure!(answer.text() == "warm", "what was prefetched is served without its origin: {}", answer.text());
    ensure!(!std::fs::read_to_string(&log)?.contains("SECRET"), "a key is shown once");
    second.terminate()
}
