//! A task of thousands of URLs, two regions, and one origin of limited capacity.

use std::time::Duration;

use anyhow::ensure;
use e2e::knee::{Knee, SERVICE, Users, WORKERS, inside};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, sdk};
use serde_json::json;
use tokio::time::Instant;

/// URLs of the task; both roots request each.
const URLS: usize = 5_000;

/// Interval between users' requests.
const USER_EVERY: Duration = Duration::from_millis(50);

/// How long the origin asks to be left alone.
const WINDOW: Duration = Duration::from_secs(5);

/// How soon every root has learned what one was told: within tens of milliseconds, more on a loaded machine.
const WORD: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origin_of_two_roots_is_asked_for_what_it_bears_and_left_alone_when_it_says_so() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let origin = Knee::start().await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.add_domain(&address).await?;
    let users = Users::begin(stage.edges()[0], USER_EVERY);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(3)).await;

    let list = stage.folder("lists")?.join("urls");
    let urls: Vec<String> = (0..URLS).map(|number| format!("http://{DOMAIN}/o/{number}.bin")).collect();
    std::fs::write(&list, urls.join("\n"))?;
    let list = format!("@{}", list.display());
    let push = ["push", &list, "--wait"];
    let script = async {
        eventually("a thousand prefetches are served", || async {
            let served = origin.prefetches(began, Instant::now());
            ensure!(served >= 1_000, "{served}");
            Ok(())
        })
        .await;
        let from = Instant::now();
        origin.refuse(WINDOW);
        (from, from + WINDOW)
    };
    let begun = Instant::now();
    let (done, window) = tokio::join!(stage.cli(&push), script);
    let (done, ended) = (done?, Instant::now());

    let complete = done["urls"].as_array().into_iter().flatten().filter(|url| url["state"] == "Complete").count();
    assert_eq!(
        complete,
        URLS,
        "{:?}",
        done["urls"].as_array().map(|urls| urls.iter().find(|url| url["state"] != "Complete"))
    );
    let asked = origin.asked();
    assert!(asked.iter().any(|asked| asked.refused), "the window was met");
    let inside = inside(&asked, window, WORD);
    assert!(inside.is_empty(), "{} asked inside the window, first {:?}", inside.len(), inside.first());
    let by_user = asked.iter().filter(|asked| asked.by_user && asked.at > window.0 && asked.at < window.1).count();
    assert!(by_user > 0, "users go their way");
    // Concurrent prefetches of all roots together stay within the estimated limit, which slightly exceeds the capacity
    // while it is probed.
    let most = asked.iter().map(|asked| asked.prefetches).max().unwrap_or_default();
    assert!(most <= WORKERS * 2, "{most} prefetches at a time");
    assert!(most >= WORKERS / 4, "{most} prefetches at a time");
    let times: Vec<_> = users.waited(begun, window.0).into_iter().map(|waited| waited.time).collect();
    let slow = times.iter().filter(|time| **time > SERVICE * 20).count();
    assert!(slow * 20 <= times.len(), "{slow} of {} users waited for a second", times.len());
    assert!(ended - begun < Duration::from_secs(120), "{:?}", ended - begun);
    Ok(())
}

/// Concurrent prefetches that a domain allows, and URLs of the task that is limited by it.
const AT_A_TIME: usize = 6;
const LIMITED: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_of_a_domain_holds_over_two_roots_together_and_holds_back_no_user() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let origin = Knee::start().await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.add_domain(&address).await?;
    let limit = json!([{ "functionName": "prefetch_limit",
                         "functionArgs": [{ "argName": "concurrency", "argValue": AT_A_TIME.to_string() }] }]);
    let set = ("cdn", "BatchSetCdnDomainConfig", json!({ "DomainNames": DOMAIN, "Functions": limit.to_string() }));
    let answer = sdk::calls(&stage, &[set]).await?.remove(0);
    ensure!(answer.get("ok").is_some(), "{answer}");
    stage.online().await;

    let users = Users::begin(stage.edges()[0], USER_EVERY);
    let paths: Vec<String> = (0..LIMITED).map(|number| format!("/o/{number}.bin")).collect();
    let list = stage.listed(paths.iter().map(String::as_str))?;
    let begun = Instant::now();
    stage.cli(&["push", &list, "--wait"]).await?;
    let waited = users.waited(begun, Instant::now());
    let asked = origin.asked();
    let most = asked.iter().map(|asked| asked.prefetches).max().unwrap_or_default();
    ensure!(most <= AT_A_TIME, "{most} prefetches at a time");
    ensure!(most > AT_A_TIME / 2, "{most} at a time: what is allowed is used");
    for root in ["cn-1-l2", "eu-1-l2"] {
        let by_root = asked.iter().filter(|asked| !asked.by_user && asked.via.contains(root)).count();
        ensure!(by_root == LIMITED, "{root} asked {by_root} times");
    }
    let slow = waited.iter().filter(|waited| !waited.well || waited.time > SERVICE * 10).count();
    ensure!(waited.len() > 10 && slow * 20 <= waited.len(), "{slow} of {} users waited", waited.len());
    Ok(())
}
