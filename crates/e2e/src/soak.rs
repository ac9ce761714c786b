//! Prefetches while processes are killed: rounds of tasks, with kill -9 of the control plane, of a node, or of both at
//! a random moment, and a check of every URL afterwards (promise P5).
//!
//! # What always holds
//!
//! - A URL whose submission was acknowledged exists exactly once, and ends.
//! - What was acknowledged is charged exactly once. A call without an answer is charged whole or not at all.
//! - While the control plane lives, requests to the origin beyond one per object and root are counted as retries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::fresh::Dice;
use crate::nginx::Nginx;
use crate::stage::{DOMAIN, Stage};
use crate::{eventually, http};

/// Calls per round, and URLs per call.
const CALLS: usize = 6;
const URLS_PER_CALL: usize = 25;

/// Size of an object, in bytes.
const BYTES: usize = 40_000;

/// Longest time from the beginning of a round to a kill, and from a kill to the restart.
const KILL_WITHIN_MS: u64 = 1_500;
const AWAY_MAX_MS: u64 = 1_000;

/// Roots of the topology: each fetches each object from the origin.
const ROOTS: usize = 2;

/// The result of a soak test.
#[derive(Debug, Default)]
pub struct Summary {
    rounds: usize,
    urls: usize,
    doubtful: usize,
    killed: BTreeMap<String, usize>,
    retries: u64,
    asked_again: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let killed: Vec<String> = self.killed.iter().map(|(who, times)| format!("{who} {times} times")).collect();
        write!(
            f,
            "soak: {} rounds, {} URLs acknowledged and complete, each once; {} calls without an answer; killed: {}; the origin was asked {} times more than once a root, {} retries were counted while the control plane lived",
            self.rounds,
            self.urls,
            self.doubtful,
            killed.join(", "),
            self.asked_again,
            self.retries
        )
    }
}

/// Runs `rounds` rounds. An error says which promise was broken, in which round of which seed.
pub async fn prefetch(rounds: usize, seed: u64) -> anyhow::Result<Summary> {
    let mut stage = Stage::set_with("cdn-2024", &["--quota", "preload=1000000,queue=1000000"]).await?;
    let origin = stage.origin().await?;
    let mut dice = Dice::new(seed);
    let mut summary = Summary::default();
    for round in 0..rounds {
        one(&mut stage, &origin, round, &mut dice, &mut summary)
            .await
            .with_context(|| format!("seed {seed}, round {round}"))?;
        summary.rounds += 1;
    }
    Ok(summary)
}

async fn one(
    stage: &mut Stage,
    origin: &Nginx,
    round: usize,
    dice: &mut Dice,
    summary: &mut Summary,
) -> anyhow::Result<()> {
    let path = move |call: usize, n: usize| format!("/r{round}/{call}/{n}.bin");
    for call in 0..CALLS {
        for n in 0..URLS_PER_CALL {
            origin.write(&path(call, n), BYTES)?;
        }
    }
    let left_before = left(stage).await?;
    let retried_before = retried(stage).await?;
    let asked_before = origin.gets()?.values().sum::<usize>();

    // Submits call after call, whichever processes are alive.
    let submitting = {
        let stage = stage.client();
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for call in 0..CALLS {
                let urls: Vec<String> =
                    (0..URLS_PER_CALL).map(|n| format!("http://{DOMAIN}{}", path(call, n))).collect();
                let mut args = vec!["push"];
                args.extend(urls.iter().map(String::as_str));
                let answer = stage.cli(&args).await.ok();
                let ids = answer.and_then(|answer| {
                    let ids = answer["task_ids"].as_array()?.iter().map(|id| id.as_str().map(str::to_owned));
                    ids.collect::<Option<Vec<String>>>().filter(|ids| !ids.is_empty())
                });
                answers.push((urls, ids));
            }
            answers
        })
    };
    let node = dice.below(stage.nodes.len() as u64) as usize;
    let kills = match dice.below(3) {
        0 => (true, false),
        1 => (false, true),
        _ => (true, true),
    };
    tokio::time::sleep(Duration::from_millis(dice.below(KILL_WITHIN_MS))).await;
    if kills.0 {
        stage.kill_control();
        *summary.killed.entry("control".to_owned()).or_default() += 1;
    }
    if kills.1 {
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
        stage.nodes[node].kill9();
        *summary.killed.entry(stage.nodes[node].name.clone()).or_default() += 1;
    }
    tokio::time::sleep(Duration::from_millis(dice.below(AWAY_MAX_MS))).await;
    if kills.0 {
        stage.start_control().await?;
    }
    if kills.1 {
        stage.nodes[node].start()?;
        stage.nodes[node].ready().await;
    }
    let answers = submitting.await?;

    let (mut acknowledged, mut doubtful) = (BTreeMap::new(), BTreeSet::new());
    for (urls, ids) in answers {
        match ids {
            Some(ids) => acknowledged.extend(urls.into_iter().map(|url| (url, ids.clone()))),
            None => {
                summary.doubtful += 1;
                doubtful.extend(urls);
            }
        }
    }
    // Everything ends. Tasks within one second share an id, so rows of calls with unknown outcome may be among them.
    let ids: BTreeSet<&String> = acknowledged.values().flatten().collect();
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for id in ids {
        let shown = eventually(&format!("task {id} has ended"), || async {
            let shown = stage.cli(&["tasks", id, "--limit", "100000"]).await?;
            let all = shown.as_array().context("rows")?.clone();
            ensure!(all.iter().all(|row| row["state"] != "Refreshing"), "some of it goes on");
            Ok(all)
        })
        .await;
        for row in shown {
            let url = row["url"].as_str().context("a URL")?.to_owned();
            ensure!(row["state"] == "Complete", "{row}");
            *rows.entry(url).or_default() += 1;
        }
    }
    for url in acknowledged.keys() {
        ensure!(rows.get(url) == Some(&1), "{url} was acknowledged and has {:?} rows", rows.get(url));
    }
    let twice: Vec<&String> = rows.iter().filter(|(_, times)| **times > 1).map(|(url, _)| url).collect();
    ensure!(twice.is_empty(), "reported twice: {}", twice.len());

    // A call with unknown outcome was accepted whole or not at all.
    let spent = left_before - left(stage).await?;
    let doubtful_calls = doubtful.len() / URLS_PER_CALL;
    let possible: Vec<i64> =
        (0..=doubtful_calls).map(|calls| (acknowledged.len() + calls * URLS_PER_CALL) as i64).collect();
    ensure!(
        possible.contains(&spent),
        "{} URLs acknowledged, {doubtful_calls} calls doubtful, {spent} charged",
        acknowledged.len()
    );

    // Running jobs of calls with unknown outcome would be counted in the next round.
    let port = stage.api_port;
    eventually("nothing goes on", || async {
        ensure!(metric(port, "prefetch_jobs_loaded").await? == 0, "jobs are loaded");
        Ok(())
    })
    .await;
    let asked = origin.gets()?.values().sum::<usize>() - asked_before;
    let asked_again = asked.saturating_sub(spent as usize * ROOTS);
    summary.asked_again += asked_again;
    if !kills.0 {
        let counted = retried(stage).await?.saturating_sub(retried_before);
        summary.retries += counted;
        ensure!(asked_again as u64 <= counted, "asked {asked_again} times more than once a root, {counted} retries");
    }
    summary.urls += acknowledged.len();
    Ok(())
}

/// The remainder of today's prefetch quota.
async fn left(stage: &Stage) -> anyhow::Result<i64> {
    let quota = stage.cli(&["quota"]).await?;
    quota["preload"]["remaining"].as_i64().with_context(|| quota.to_string())
}

async fn retried(stage: &Stage) -> anyhow::Result<u64> {
    metric(stage.api_port, "prefetch_jobs_retried_total").await
}

/// A value from the control plane's metrics, by the name after `warmfront_`.
async fn metric(port: u16, name: &str) -> anyhow::Result<u64> {
    let page = http::get(port, "localhost", "/metrics", &[]).await?.text();
    let value = page.lines().find_map(|line| line.strip_prefix("warmfront_")?.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).with_context(|| format!("{name} in {page}"))
}
