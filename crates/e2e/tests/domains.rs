//! Deleted domains: their bodies are removed from every node, and the next owner of the name never gets them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use e2e::nginx::Nginx;
use e2e::stage::{DOMAIN, Key, Stage};
use e2e::{eventually, http, warmfront};
use serde_json::Value;

const PATHS: [&str; 3] = ["/a.bin", "/dir/b.bin", "/tagged/news/c.bin"];

/// Writes a file with a fixed modification time, so that two of equal length have the same validators.
fn write(origin: &Nginx, path: &str, body: &[u8]) -> anyhow::Result<()> {
    origin.write_bytes(path, body)?;
    let file = std::fs::File::options().write(true).open(origin.files.join(path.trim_start_matches('/')))?;
    Ok(file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))?)
}

/// Waits until every node answers from its own store.
async fn warm(stage: &Stage, path: &str) {
    for node in &stage.nodes {
        eventually("it is in the store", || async {
            let answer = http::get(node.port, DOMAIN, path, &[]).await?;
            let cache = answer.header("x-cache").to_owned();
            ensure!(cache == format!("HIT from {}", node.name), "{}: {path}: {cache}", node.name);
            Ok(())
        })
        .await;
    }
}

/// The domain's status in the list; `None` if it is not listed.
async fn listed(stage: &Stage) -> anyhow::Result<Option<String>> {
    let list = stage.cli(&["domain", "list"]).await?;
    let rows = list.as_array().with_context(|| list.to_string())?;
    let row = rows.iter().find(|row| row["domain"] == DOMAIN);
    Ok(row.and_then(|row| row["status"].as_str()).map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_domain_takes_its_bytes_along_and_a_new_owner_never_gets_them() -> anyhow::Result<()> {
    let mut stage = Stage::with_lease("open", 2).await?;
    let origin = stage.origin().await?;
    for path in PATHS {
        write(&origin, path, format!("the first owner's {path}").as_bytes())?;
        warm(&stage, path).await;
    }
    for node in &stage.nodes {
        assert_eq!(node.metric("store_objects").await?, 3, "{}", node.name);
    }
    let text = |key: &Value, field: &str| key[field].as_str().map(str::to_owned).context("a field of a key");
    warmfront(&["account", "create", "other", "--profile", "open", "--state", &stage.state], &[])?;
    let key = warmfront(&["key", "create", "other", "--state", &stage.state], &[])?;
    let other = Key { id: text(&key, "access_key_id")?, secret: text(&key, "access_key_secret")? };
    let others = Nginx::start(&stage.folder("other-origin")?)?;
    let at = format!("127.0.0.1:{}", others.port);
    let add = ["domain", "add", DOMAIN, "--origin", &at, "--coverage", "global"];

    // One node is down: its disk still has the bytes, so the deletion waits for it and the name stays taken.
    stage.node("eu-1-l1").kill9();
    stage.cli(&["domain", "delete", DOMAIN]).await?;
    for node in stage.nodes.iter().filter(|node| node.name != "eu-1-l1") {
        eventually("the bytes are gone", || async {
            let left = node.metric("store_objects").await?;
            ensure!(left == 0, "{left} objects on {}", node.name);
            Ok(())
        })
        .await;
    }
    // Its lease and the margin have expired, so a refresh would be complete; the deletion must not be.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(listed(&stage).await?.as_deref(), Some("deleting"));
    let first = std::mem::replace(&mut stage.key, other);
    let refused = stage.cli(&add).await.expect_err("the name is taken");
    ensure!(format!("{refused:#}").contains("DomainAlreadyExist"), "{refused:#}");

    stage.node("eu-1-l1").start()?;
    let second = std::mem::replace(&mut stage.key, first);
    eventually("the domain is gone", || async {
        let status = listed(&stage).await?;
        ensure!(status.is_none(), "{status:?}");
        Ok(())
    })
    .await;
    assert_eq!(stage.node("eu-1-l1").metric("store_objects").await?, 0, "gone means gone");

    // The new owner's files have the same lengths and dates, and so the same validators as the old ones.
    stage.key = second;
    for path in PATHS {
        write(&others, path, format!("the other owner's {path}").as_bytes())?;
    }
    stage.cli(&add).await?;
    stage.online().await;
    for node in &stage.nodes {
        for path in PATHS {
            let answer = http::get(node.port, DOMAIN, path, &[]).await?;
            assert_eq!(answer.text(), format!("the other owner's {path}"), "{}", node.name);
        }
    }
    Ok(())
}
