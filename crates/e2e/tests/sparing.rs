//! A task of thousands of URLs, two regions, and one origin that bears so much and no more.

use std::time::Duration;

use anyhow::ensure;
use e2e::eventually;
use e2e::knee::{Knee, SERVICE, Users, WORKERS, inside};
use e2e::stage::{DOMAIN, Stage};
use tokio::time::Instant;

/// URLs of the task; each is asked for by both roots.
const URLS: usize = 5_000;

/// A user so often.
const USER_EVERY: Duration = Duration::from_millis(50);

/// How long the origin says that it is to be left alone.
const WINDOW: Duration = Duration::from_secs(5);

/// How soon every root has heard what one was told: within tens of milliseconds, and more on a loaded machine.
const WORD: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origin_of_two_roots_is_asked_for_what_it_bears_and_left_alone_when_it_says_so() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let origin = Knee::start().await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.cli(&["domain", "add", DOMAIN, "--origin", &address, "--coverage", "global"]).await?;
    stage.online().await;
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
    // What prefetches ask at a time adds up over the roots to what is felt, which is a little more than it bears when it is tried.
    let most = asked.iter().map(|asked| asked.prefetches).max().unwrap_or_default();
    assert!(most <= WORKERS * 2, "{most} prefetches at a time");
    assert!(most >= WORKERS / 4, "{most} prefetches at a time");
    let times: Vec<_> = users.waited(begun, window.0).into_iter().map(|waited| waited.time).collect();
    let slow = times.iter().filter(|time| **time > SERVICE * 20).count();
    assert!(slow * 20 <= times.len(), "{slow} of {} users waited for a second", times.len());
    assert!(ended - begun < Duration::from_secs(120), "{:?}", ended - begun);
    Ok(())
}
