//! The vendor's own script for refreshes and prefetches, in both its versions, with a file of URLs as its users have.

use anyhow::ensure;
use e2e::stage::{DOMAIN, Stage};
use e2e::{http, sdk};

/// URLs in the file: two batches of the older script, seven of the newer.
const URLS: usize = 130;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vendors_script_pushes_and_clears_in_both_versions() -> anyhow::Result<()> {
    let stage = Stage::set("cdn-2024").await?;
    let origin = stage.origin().await?;
    let folder = tempfile::TempDir::new()?;
    for version in ["2021", "2025"] {
        let path = |n: usize| format!("/{version}/dir-{}/file_{n}.bin", n % 7);
        for n in 0..URLS {
            origin.write_bytes(&path(n), format!("old {n}").as_bytes())?;
        }
        let file = folder.path().join("urls.txt");
        let urls: String = (0..URLS).map(|n| format!("http://{DOMAIN}{}\n", path(n))).collect();
        std::fs::write(&file, urls)?;
        let file = file.to_string_lossy().into_owned();

        let pushed =
            sdk::run(&stage, "refresh_script.py", &[version, "-r", &file, "-t", "push", "-a", "domestic"]).await?;
        let complete = |reply: &serde_json::Value| {
            reply["log"].as_array().is_some_and(Vec::is_empty)
                && reply["done"].as_array().is_some_and(|done| done.iter().all(|done| done == true))
        };
        ensure!(complete(&pushed), "{version}: {pushed}");
        assert_eq!(pushed["batches"], if version == "2021" { 2 } else { 7 }, "{pushed}");
        let edge = stage.edges()[0];
        let answer = http::get(edge, DOMAIN, &path(3), &[]).await?;
        ensure!(answer.header("x-cache").starts_with("HIT"), "{version}: {}", answer.header("x-cache"));

        for n in 0..URLS {
            origin.write_bytes(&path(n), format!("new and longer {n}").as_bytes())?;
        }
        let cleared =
            sdk::run(&stage, "refresh_script.py", &[version, "-r", &file, "-t", "clear", "-o", "File"]).await?;
        ensure!(complete(&cleared), "{version}: {cleared}");
        assert_eq!(http::get(edge, DOMAIN, &path(3), &[]).await?.text(), "new and longer 3", "{version}");

        let directories: String = (0..7).map(|n| format!("http://{DOMAIN}/{version}/dir-{n}/\n")).collect();
        std::fs::write(&file, directories)?;
        let cleared =
            sdk::run(&stage, "refresh_script.py", &[version, "-r", &file, "-t", "clear", "-o", "Directory"]).await?;
        // Each directory has its own id, and the older script cannot query a list of ids: it reports that and
        // continues.
        let log = cleared["log"].as_array().map(Vec::len);
        ensure!(if version == "2021" { log == Some(1) } else { complete(&cleared) }, "{version}: {cleared}");
    }
    // And it gives up by itself if today's quota is too low.
    let many: String = (0..1_000).map(|n| format!("http://{DOMAIN}/{n}\n")).collect();
    let file = folder.path().join("many.txt");
    std::fs::write(&file, many)?;
    let file = file.to_string_lossy().into_owned();
    let reply = sdk::run(&stage, "refresh_script.py", &["2021", "-r", &file, "-t", "push"]).await?;
    assert_eq!((&reply["batches"], &reply["quota"]), (&0.into(), &(1_000 - 2 * URLS).into()), "{reply}");
    Ok(())
}
