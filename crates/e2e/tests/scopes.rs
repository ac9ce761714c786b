//! Refreshes by expression, by path without parameters and by tag with real processes: what they cover is new on every
//! node once the task is complete, everything else is unaffected, and quotas and lists report them.

use anyhow::{Context, ensure};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http, sdk};
use serde_json::Value;

/// A refresh, and its expected effect.
struct Case {
    /// Arguments of the script.
    by: Vec<String>,
    covered: &'static str,
    other: &'static str,
    /// Type and path of its row in the list of tasks.
    listed: (&'static str, String),
    /// The counter of today's quota that it is charged to.
    quota: &'static str,
}

fn url(path: &str) -> String {
    format!("http://{DOMAIN}{path}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scope_brings_the_new_bytes_to_every_node_and_to_nothing_else() -> anyhow::Result<()> {
    let stage = Stage::set("cdn-2024").await?;
    let origin = stage.origin().await?;
    let refresh = |sdk: &str, kind: &str, path: &str| [sdk, "refresh", kind, &url(path)].map(str::to_owned).to_vec();
    let tags = |tags: &str| ["tea-cdn", "refresh-tag", DOMAIN, tags, "force"].map(str::to_owned).to_vec();
    let cases = [
        Case {
            by: refresh("tea-cdn", "Regex", "/r/[0-9]/[^/]*.bin"),
            covered: "/r/7/a.bin",
            other: "/r/7/b/a.bin",
            listed: ("regex", url("/r/[0-9]/[^/]*.bin")),
            quota: "Regex",
        },
        Case {
            by: refresh("legacy-cdn", "ExQuery", "/q/a.bin?any=1"),
            covered: "/q/a.bin?v=2",
            other: "/q/b.bin?v=2",
            listed: ("file", url("/q/a.bin?any=1")),
            quota: "IgnoreParams",
        },
        Case {
            by: tags("news"),
            covered: "/tagged/news/a.bin",
            other: "/tagged/sport/a.bin",
            listed: ("file", url("/?CacheTag=news")),
            quota: "Url",
        },
    ];
    for Case { by, covered, other, listed, quota } in &cases {
        let file = |path: &str| path.split('?').next().unwrap_or_default().to_owned();
        for path in [covered, other] {
            origin.write_bytes(&file(path), b"the old bytes")?;
            for node in &stage.nodes {
                assert_eq!(http::get(node.port, DOMAIN, path, &[]).await?.text(), "the old bytes");
                eventually("it is in the store", || async {
                    let answer = http::get(node.port, DOMAIN, path, &[]).await?;
                    ensure!(
                        answer.header("x-cache") == format!("HIT from {}", node.name),
                        "{}",
                        answer.header("x-cache")
                    );
                    Ok(())
                })
                .await;
            }
            origin.write_bytes(&file(path), b"the new bytes, which are longer")?;
        }
        let left = |quota_reply: &Value| {
            quota_reply[format!("{quota}Remain")].as_str().and_then(|left| left.parse::<i64>().ok()).context(*quota)
        };
        let before = left(&sdk::run(&stage, "main_job.py", &["tea-cdn", "quota"]).await?)?;
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        // Twice: repeating a refresh is another refresh.
        for round in 1..=2 {
            let reply = sdk::run(&stage, "main_job.py", &by).await?;
            let rows = reply["tasks"].as_array().with_context(|| format!("tasks in {reply}"))?;
            // Submissions within one second share an id.
            assert!((1..=round).contains(&rows.len()), "{reply}");
            for row in rows {
                let field = |name: &str| row[name].as_str().unwrap_or_default();
                assert_eq!((field("Status"), field("Process")), ("Complete", "100%"), "{reply}");
                assert_eq!((field("ObjectType"), field("ObjectPath")), (listed.0, listed.1.as_str()), "{reply}");
            }
            let bytes = if round == 1 { "the new bytes, which are longer" } else { "and new once more" };
            for node in &stage.nodes {
                assert_eq!(http::get(node.port, DOMAIN, covered, &[]).await?.text(), bytes, "{by:?} on {}", node.name);
                let untouched = http::get(node.port, DOMAIN, other, &[]).await?;
                assert_eq!(untouched.text(), "the old bytes", "{by:?} on {}", node.name);
            }
            origin.write_bytes(&file(covered), b"and new once more")?;
        }
        let after = left(&sdk::run(&stage, "main_job.py", &["tea-cdn", "quota"]).await?)?;
        assert_eq!(before - after, 2, "{quota}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domain_names_its_own_tag_header_and_can_be_stopped() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let path = "/tagged/news/a.bin";
    origin.write_bytes(path, b"old")?;
    for port in stage.edges() {
        assert_eq!(http::get(port, DOMAIN, path, &[]).await?.text(), "old");
    }
    origin.write_bytes(path, b"new and longer")?;
    let shown = stage.cli(&["domain", "set", DOMAIN, "--tag-header", "X-Tags"]).await?;
    assert_eq!(shown["tag_header"], "x-tags");
    stage.online().await;
    for port in stage.edges() {
        let text = http::get(port, DOMAIN, path, &[]).await?.text().to_owned();
        assert_eq!(text, "new and longer", "what older refreshes by tag covered is not told any more");
    }
    origin.write_bytes(path, b"newer, and longer still")?;
    let refresh = ["refresh", "--tag", "news", "--domain", DOMAIN, "--wait"];
    stage.cli(&refresh).await?;
    assert_eq!(
        http::get(stage.edges()[0], DOMAIN, path, &[]).await?.text(),
        "new and longer",
        "it has no such tag now"
    );
    stage.cli(&["domain", "set", DOMAIN, "--tag-header", ""]).await?;
    stage.online().await;
    stage.cli(&refresh).await?;
    assert_eq!(http::get(stage.edges()[0], DOMAIN, path, &[]).await?.text(), "newer, and longer still");

    stage.cli(&["domain", "stop", DOMAIN]).await?;
    eventually("the domain is offline", || async {
        let shown = stage.cli(&["domain", "show", DOMAIN]).await?;
        ensure!(shown["status"] == "offline", "{shown}");
        Ok(())
    })
    .await;
    for node in &stage.nodes {
        assert_eq!(http::get(node.port, DOMAIN, path, &[]).await?.status, 403, "{}", node.name);
    }
    let refused = stage.cli(&["refresh", &url(path)]).await.unwrap_err().to_string();
    assert!(refused.contains("InvalidDomain.Offline"), "{refused}");
    stage.cli(&["domain", "start", DOMAIN]).await?;
    stage.online().await;
    assert_eq!(http::get(stage.edges()[0], DOMAIN, path, &[]).await?.text(), "newer, and longer still");
    Ok(())
}
