//! A refresh while one node is stopped: the task names the node, completes when its lease expires, and has a receipt
//! that says so and that anybody who kept the key can verify.

use std::process::Command;

use anyhow::{Context, ensure};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http, warmfront};
use serde_json::Value;

/// The member `name` in the only step of a verified receipt.
fn member<'a>(checked: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let members = checked["steps"][0]["members"].as_array().with_context(|| checked.to_string())?;
    members.iter().find(|member| member["node"] == name).with_context(|| format!("{name} in {checked}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_node_is_named_while_it_is_waited_for_and_in_the_receipt() -> anyhow::Result<()> {
    let mut stage = Stage::with_lease("open", 4).await?;
    let origin = stage.origin().await?;
    origin.write_bytes("/a.bin", b"the old bytes")?;
    for node in &stage.nodes {
        for _ in 0..2 {
            ensure!(http::get(node.port, DOMAIN, "/a.bin", &[]).await?.text() == "the old bytes", "{}", node.name);
        }
    }
    origin.write_bytes("/a.bin", b"the new bytes, which are longer")?;
    let key = stage.cli(&["receipt", "key"]).await?["key"].as_str().context("a key")?.to_owned();

    let stopped = stage.node("eu-1-l1").process().context("it runs")?.id().to_string();
    ensure!(Command::new("kill").args(["-STOP", &stopped]).status()?.success(), "kill -STOP {stopped}");
    let url = format!("http://{DOMAIN}/a.bin");
    let submitted = stage.cli(&["refresh", &url]).await?;
    let task = submitted["task_ids"][0].as_str().with_context(|| submitted.to_string())?.to_owned();

    let waiting = eventually("the stopped node alone is waited for", || async {
        let shown = stage.cli(&["tasks", "show", &task]).await?;
        let nodes = shown["waiting_for"].as_array().with_context(|| shown.to_string())?;
        ensure!(nodes.len() == 1 && nodes[0]["node"] == "eu-1-l1", "{shown}");
        ensure!(shown["urls"][0]["process"] == "75%" && shown["urls"][0]["state"] == "Refreshing", "{shown}");
        Ok(nodes[0].clone())
    })
    .await;
    assert!(waiting["last_heard"].as_str().is_some_and(|time| time.ends_with('Z')), "{waiting}");
    assert_eq!(waiting["until"], "LeaseOver", "{waiting}");
    assert!(waiting["at_most_until"].as_str() > waiting["last_heard"].as_str(), "{waiting}");
    let refused = stage.cli(&["tasks", "receipt", &task]).await.unwrap_err().to_string();
    assert!(refused.contains("TaskNotComplete"), "{refused}");

    eventually("it is complete when the lease is over", || async {
        let shown = stage.cli(&["tasks", "show", &task]).await?;
        ensure!(shown["urls"][0]["state"] == "Complete" && shown["urls"][0]["process"] == "100%", "{shown}");
        ensure!(shown["waiting_for"] == Value::Array(Vec::new()), "{shown}");
        Ok(())
    })
    .await;

    let folder = stage.folder("receipts")?;
    let (file, kept) = (folder.join("receipt.json"), folder.join("key"));
    std::fs::write(&kept, &key)?;
    let (file, kept) = (file.display().to_string(), kept.display().to_string());
    let checked = eventually("the receipt says what was swept", || async {
        stage.cli(&["tasks", "receipt", &task, "--file", &file]).await?;
        let checked = warmfront(&["receipt", "verify", &file, "--key", &kept], &[])?;
        for name in ["cn-1-l1", "cn-1-l2", "eu-1-l2"] {
            let swept = member(&checked, name)?;
            ensure!(swept["swept_objects"] == 1 && swept["swept_bytes"] == "the old bytes".len(), "{name}: {swept}");
        }
        Ok(checked)
    })
    .await;
    assert_eq!((&checked["good"], &checked["objects"]["listed"][0]), (&Value::Bool(true), &Value::String(url)));
    assert_eq!(member(&checked, "eu-1-l1")?["past_by"], "lease over", "{checked}");
    for name in ["cn-1-l1", "cn-1-l2", "eu-1-l2"] {
        assert_eq!(member(&checked, name)?["past_by"], "acknowledgement", "{checked}");
    }
    assert_eq!((&checked["steps"][0]["lease_ms"], &checked["steps"][0]["margin_ms"]), (&4_000.into(), &1_000.into()));

    let good = std::fs::read_to_string(&file)?;
    std::fs::write(&file, good.replacen('M', "N", 1))?;
    assert!(warmfront(&["receipt", "verify", &file, "--key", &kept], &[]).is_err(), "one letter was changed");
    std::fs::write(&file, good)?;
    assert!(warmfront(&["receipt", "verify", &file], &[]).is_err(), "no key, no proof");

    // The node continues with a store that it does not trust.
    ensure!(Command::new("kill").args(["-CONT", &stopped]).status()?.success(), "kill -CONT {stopped}");
    let answer = http::get(stage.node("eu-1-l1").port, DOMAIN, "/a.bin", &[]).await?;
    assert_eq!(answer.text(), "the new bytes, which are longer");
    Ok(())
}
