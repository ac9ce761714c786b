//! The main job with real processes: the vendor's own SDKs warm four nodes from nginx, users get hits with the origin
//! stopped, and a refresh brings the new bytes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, ensure};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http, sdk};
use serde_json::Value;

/// All rows of a reply to a push or a wait.
fn rows(reply: &Value) -> anyhow::Result<&Vec<Value>> {
    reply["tasks"].as_array().with_context(|| format!("tasks in {reply}"))
}

/// Asserts that every row is complete, and that each URL has one. Submissions within one second share an id, so there
/// may be rows of earlier ones.
fn assert_complete(reply: &Value, urls: &[String]) -> anyhow::Result<()> {
    let rows = rows(reply)?;
    for url in urls {
        let count = rows.iter().filter(|row| row["ObjectPath"] == url.as_str()).count();
        assert_eq!(count, 1, "{url} in {reply}");
    }
    for row in rows {
        assert_eq!((row["Status"].as_str(), row["Process"].as_str()), (Some("Complete"), Some("100%")), "{row}");
    }
    Ok(())
}

fn url(path: &str) -> String {
    format!("http://{DOMAIN}{path}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sdk_warms_both_regions_and_users_hit_with_the_origin_gone() -> anyhow::Result<()> {
    let stage = Stage::set("cdn-2024").await?;
    let origin = stage.origin().await?;
    let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();

    for name in ["tea-cdn", "legacy-cdn", "tea-vod", "legacy-vod"] {
        let mut paths: Vec<String> = (0..20).map(|n| format!("/{name}/{n}.bin")).collect();
        for (n, path) in paths.iter().enumerate() {
            bodies.insert(path.clone(), origin.write(path, 1 + n * 4_099)?);
        }
        if name.starts_with("tea") {
            let large = format!("/{name}/large.bin");
            bodies.insert(large.clone(), origin.write(&large, 110 << 20)?);
            paths.push(large);
        }

        let before = sdk::run(&stage, "main_job.py", &[name, "quota"]).await?;
        let urls: Vec<String> = paths.iter().map(|path| url(path)).collect();
        let mut args = vec![name, "push"];
        args.extend(urls.iter().map(String::as_str));
        let reply = sdk::run(&stage, "main_job.py", &args).await?;
        assert_complete(&reply, &urls).with_context(|| name.to_owned())?;
        assert!(reply["ids"].as_str().is_some_and(|ids| ids.parse::<u64>().is_ok()), "one decimal id: {reply}");

        let after = sdk::run(&stage, "main_job.py", &[name, "quota"]).await?;
        let left = |quota: &Value| quota["PreloadRemain"].as_str().and_then(|left| left.parse::<usize>().ok());
        assert_eq!(
            left(&before).zip(left(&after)).map(|(before, after)| before - after),
            Some(paths.len()),
            "{before} {after}"
        );
    }

    // Two regions without a shared L3 have two roots: the origin was asked for each object twice, and never again.
    let gets = origin.gets()?;
    for path in bodies.keys() {
        assert_eq!(gets.get(path), Some(&2), "{path}");
    }
    origin.stop()?;

    for (pop, edge) in ["cn-1", "eu-1"].into_iter().zip(stage.edges()) {
        for (path, body) in &bodies {
            let first = http::get(edge, DOMAIN, path, &[]).await?;
            assert_eq!(
                first.header("x-cache"),
                format!("HIT from {pop}-l2"),
                "{path}: {first:?}",
                first = first.status
            );
            ensure!(first.body == body.as_slice(), "{path} differs on {pop}");
            // The body of the first answer is in the edge's store a moment after its last byte was sent.
            eventually(&format!("{path} is in the store of {pop}-l1"), || async {
                let second = http::get(edge, DOMAIN, path, &[]).await?;
                ensure!(second.body == body.as_slice(), "{path} differs on {pop}");
                ensure!(second.header("x-cache") == format!("HIT from {pop}-l1"), "{}", second.header("x-cache"));
                Ok(())
            })
            .await;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refresh_brings_the_new_bytes_to_every_node() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    for (kind, sdk_name, scope) in
        [("File", "tea-cdn", "/a/file.bin"), ("Directory", "legacy-cdn", "/b/"), ("Directory", "tea-vod", "/c/")]
    {
        let path = if scope.ends_with('/') { format!("{scope}deep/file.bin") } else { scope.to_owned() };
        origin.write_bytes(&path, b"the old bytes")?;
        for node in &stage.nodes {
            for _ in 0..2 {
                assert_eq!(http::get(node.port, DOMAIN, &path, &[]).await?.text(), "the old bytes");
            }
        }
        origin.write_bytes(&path, b"the new bytes, which are longer")?;
        assert_eq!(
            http::get(stage.edges()[0], DOMAIN, &path, &[]).await?.text(),
            "the old bytes",
            "nobody refreshed yet"
        );

        let reply = sdk::run(&stage, "main_job.py", &[sdk_name, "refresh", kind, &url(scope)]).await?;
        assert_complete(&reply, &[url(scope)])?;
        for node in &stage.nodes {
            let answer = http::get(node.port, DOMAIN, &path, &[]).await?;
            assert_eq!(answer.text(), "the new bytes, which are longer", "{} after {kind}", node.name);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_task_survives_kill_9_of_the_control_plane() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let paths: Vec<String> = (0..60).map(|n| format!("/kept/{n}.bin")).collect();
    for path in &paths {
        origin.write(path, 200_000)?;
    }
    let urls: Vec<String> = paths.iter().map(|path| url(path)).collect();
    let mut args = vec!["tea-cdn", "submit"];
    args.extend(urls.iter().map(String::as_str));
    let submitted = sdk::run(&stage, "main_job.py", &args).await?;
    stage.kill_control();
    let ids = submitted["ids"].as_str().with_context(|| submitted.to_string())?.to_owned();

    stage.start_control().await?;
    let reply = sdk::run(&stage, "main_job.py", &["tea-cdn", "wait", &ids]).await?;
    assert_complete(&reply, &urls)?;
    let mut listed: Vec<&str> = rows(&reply)?.iter().filter_map(|row| row["ObjectPath"].as_str()).collect();
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), paths.len(), "each URL once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_of_a_node_is_there_after_kill_9() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let mut bodies = BTreeMap::new();
    for n in 0..30 {
        let path = format!("/stored/{n}.bin");
        bodies.insert(path.clone(), origin.write(&path, 50_000 + n)?);
    }
    let urls: Vec<String> = bodies.keys().map(|path| url(path)).collect();
    let mut args = vec!["legacy-cdn", "push"];
    args.extend(urls.iter().map(String::as_str));
    assert_complete(&sdk::run(&stage, "main_job.py", &args).await?, &urls)?;
    origin.stop()?;

    let node = stage.node("cn-1-l2");
    node.kill9();
    node.start()?;
    node.ready().await;
    let port = node.port;
    for (path, body) in &bodies {
        eventually(path, || async {
            let answer = http::get(port, DOMAIN, path, &[]).await?;
            ensure!(answer.header("x-cache") == "HIT from cn-1-l2", "{} {}", answer.status, answer.header("x-cache"));
            ensure!(answer.body == body.as_slice(), "{path} differs");
            Ok(())
        })
        .await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefetch_under_way_survives_kill_9_of_a_node_and_of_the_control_plane() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let mut bodies = BTreeMap::new();
    for n in 0..400 {
        let path = format!("/killed/{n}.bin");
        bodies.insert(path.clone(), origin.write(&path, 100_000 + n)?);
    }
    let urls: Vec<String> = bodies.keys().map(|path| url(path)).collect();
    let mut args = vec!["push"];
    args.extend(urls.iter().map(String::as_str));
    let submitted = stage.cli(&args).await?;
    let ids: Vec<&str> = submitted["task_ids"].as_array().into_iter().flatten().filter_map(|id| id.as_str()).collect();
    ensure!(!ids.is_empty(), "{submitted}");

    stage.node("cn-1-l2").kill9();
    stage.kill_control();
    stage.node("eu-1-l2").kill9();
    stage.start_control().await?;
    for name in ["cn-1-l2", "eu-1-l2"] {
        stage.node(name).start()?;
        stage.node(name).ready().await;
    }
    let reply = sdk::run(&stage, "main_job.py", &["tea-cdn", "wait", &ids.join(",")]).await?;
    assert_complete(&reply, &urls)?;
    // Jobs handed on may have been fetched again, but none was lost.
    let gets = origin.gets()?;
    ensure!(bodies.keys().all(|path| gets.get(path).is_some_and(|count| *count >= 2)), "{gets:?}");
    origin.stop()?;
    for (port, pop) in stage.edges().into_iter().zip(["cn-1", "eu-1"]) {
        for (path, body) in &bodies {
            let answer = http::get(port, DOMAIN, path, &[]).await?;
            ensure!(answer.header("x-cache") == format!("HIT from {pop}-l2"), "{path}: {}", answer.header("x-cache"));
            ensure!(answer.body == body.as_slice(), "{path} differs");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_forget_what_they_know_when_the_database_was_restored_from_a_backup() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let database = stage.folder("")?.join("control.db");
    let backup = stage.folder("backup")?;
    let copy = |from: &Path, to: &Path| -> anyhow::Result<()> {
        for end in ["", "-wal", "-shm"] {
            let name = format!("control.db{end}");
            match std::fs::copy(from.join(&name), to.join(&name)) {
                // Without this file there was nothing in it.
                Err(error) if error.kind() == ErrorKind::NotFound => _ = std::fs::remove_file(to.join(&name)),
                done => _ = done?,
            }
        }
        Ok(())
    };
    let folder = database.parent().context("a database lies in a folder")?;
    stage.kill_control();
    copy(folder, &backup)?;
    stage.start_control().await?;
    // These are in the nodes' memory and not in the backup.
    for n in 0..5 {
        let path = format!("/lost/{n}.bin");
        origin.write_bytes(&path, b"the old bytes")?;
        stage.cli(&["refresh", &url(&path), "--wait"]).await?;
        for node in &stage.nodes {
            assert_eq!(http::get(node.port, DOMAIN, &path, &[]).await?.text(), "the old bytes");
        }
    }

    stage.kill_control();
    copy(&backup, folder)?;
    e2e::warmfront(&["log", "renew", "--state", &stage.state], &[])?;
    stage.start_control().await?;
    // The same revisions are given out once more, for other things.
    for n in 0..5 {
        let path = format!("/lost/{n}.bin");
        origin.write_bytes(&path, b"the new bytes, which are longer")?;
        stage.cli(&["refresh", &url(&path), "--wait"]).await?;
        for node in &stage.nodes {
            let answer = http::get(node.port, DOMAIN, &path, &[]).await?;
            assert_eq!(answer.text(), "the new bytes, which are longer", "{} after the restore", node.name);
        }
    }
    eventually("nodes follow the log of the restored database", || async {
        let members = e2e::warmfront(&["node", "list", "--state", &stage.state], &[])?;
        let members = members.as_array().context("a list")?;
        ensure!(members.len() == stage.nodes.len(), "{members:?}");
        ensure!(members.iter().all(|member| member["acknowledged"] == member["head"]), "{members:?}");
        Ok(())
    })
    .await;
    Ok(())
}
