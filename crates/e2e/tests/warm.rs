//! `Complete` means warm, with real processes that are killed meanwhile: the requests to the origin, and the stores
//! afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::fresh::Dice;
use e2e::stage::{DOMAIN, Stage};
use e2e::{http, soak};

/// Number of prefetched objects, and size of each in bytes.
const OBJECTS: usize = 6_000;
const BYTES: usize = 32 << 10;

/// Nodes killed meanwhile, one after the other; on a fast machine the task may end before the last kill.
const KILLS: usize = 6;
const KILLS_MIN: usize = 4;

/// Upper bound of the bytes sent by the origin, relative to the total size.
const SENT_MAX: f64 = 1.02;

/// Rounds of kill -9 that fit into a test.
const ROUNDS: usize = 5;

fn path(number: usize) -> String {
    format!("/warm/{}/{number}.bin", number % 50)
}

/// Below a shared L3 each object is fetched once, for any number of tiers and regions, and whichever nodes die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origin_sends_each_object_once_though_owners_are_killed() -> anyhow::Result<()> {
    let mut stage = Stage::with_one_root("open").await?;
    let origin = stage.origin().await?;
    let mut bodies = BTreeMap::new();
    for number in 0..OBJECTS {
        bodies.insert(path(number), origin.write(&path(number), BYTES)?);
    }
    let list = stage.folder("lists")?.join("urls");
    let urls: Vec<String> = bodies.keys().map(|path| format!("http://{DOMAIN}{path}")).collect();
    std::fs::write(&list, urls.join("\n"))?;
    let client = stage.client();
    let list = format!("@{}", list.display());
    let pushing = tokio::spawn(async move { client.cli(&["push", &list, "--l2", "--edge", "--wait"]).await });

    let mut dice = Dice::new(6);
    for kill in 0..KILLS {
        if pushing.is_finished() {
            ensure!(kill >= KILLS_MIN, "it was over after {kill} kills: the machine is too fast for {OBJECTS} objects");
            break;
        }
        // Every second one fetches from the origin: killing these costs most.
        let places = if kill % 2 == 0 { 0..3 } else { 3..stage.nodes.len() as u64 };
        let node = dice.within(places) as usize;
        tokio::time::sleep(dice.millis(800..2_000)).await;
        stage.nodes[node].kill9();
        tokio::time::sleep(dice.millis(0..1_500)).await;
        stage.nodes[node].start()?;
        stage.nodes[node].ready().await;
    }
    let done = tokio::time::timeout(Duration::from_secs(240), pushing).await.context("the push ends")???;
    let rows = done["urls"].as_array().context("rows")?;
    let complete = rows.iter().filter(|row| row["state"] == "Complete").count();
    ensure!(complete == OBJECTS, "{complete} of {OBJECTS} are Complete");

    let sent: u64 = origin.answers()?.iter().map(|(_, bytes)| bytes).sum();
    let share = sent as f64 / (OBJECTS * BYTES) as f64;
    ensure!(share <= SENT_MAX, "the origin sent {share:.4} times the bytes that there are");

    // Every target is warm: with the origin stopped, one edge of each region has each object in its own store, and all
    // edges answer it.
    origin.stop()?;
    for (at, (path, body)) in bodies.iter().enumerate() {
        if at % 10 != 0 {
            continue;
        }
        for pop in ["cn-1", "eu-1"] {
            let mut own = 0;
            for node in stage.nodes.iter().filter(|node| node.name.starts_with(&format!("{pop}-l1"))) {
                let answer = http::get(node.port, DOMAIN, path, &[]).await?;
                ensure!(answer.body == body.as_slice(), "{path} of {}: {}", node.name, answer.status);
                let from = answer.header("x-cache");
                ensure!(from.starts_with("HIT from"), "{path} of {}: {from}", node.name);
                own += usize::from(from == format!("HIT from {}", node.name));
            }
            ensure!(own >= 1, "no edge of {pop} has {path}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_url_is_lost_or_charged_twice_whoever_is_killed() -> anyhow::Result<()> {
    soak::prefetch(ROUNDS, 1).await?;
    Ok(())
}
