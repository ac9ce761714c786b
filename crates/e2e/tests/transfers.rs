//! Prefetches of a large body whose transfer breaks, with real processes: continued where it stopped, taken over when
//! its owner died, and never assembled from two versions. nginx's log shows what was requested.

use anyhow::{Context, ensure};
use e2e::fresh::relay::{Mode, Relay};
use e2e::nginx::{Nginx, pattern};
use e2e::stage::{DOMAIN, Node, Stage};
use e2e::{eventually, http};
use tokio::task::JoinHandle;

/// An object whose transfer takes six seconds.
const PATH: &str = "/steady/film.bin";
const LENGTH: usize = 24 << 20;

/// Minimum number of bytes after which a transfer is broken.
const BROKEN_AFTER: u64 = 6 << 20;

/// Bytes that may be in buffers when a connection breaks.
const ON_ITS_WAY_MAX: u64 = 4 << 20;

/// Prefetches it to every tier.
fn push(stage: &Stage) -> JoinHandle<anyhow::Result<serde_json::Value>> {
    let client = stage.client();
    let url = format!("http://{DOMAIN}{PATH}");
    tokio::spawn(async move { client.cli(&["push", &url, "--l2", "--edge", "--wait", "--timeout", "120"]).await })
}

/// Waits until a node has received a part of it, but not all.
async fn some_has_come(node: &Node) -> anyhow::Result<()> {
    let bytes = eventually("some of it has come", || async {
        let bytes = node.metric("fetched_bytes_total").await?;
        ensure!(bytes >= BROKEN_AFTER, "{bytes} bytes");
        Ok(bytes)
    })
    .await;
    ensure!(bytes < LENGTH as u64 * 3 / 4, "too late: {bytes} bytes");
    Ok(())
}

/// The index of the owner that is fetching it.
async fn owner(stage: &Stage) -> usize {
    eventually("an owner fetches it", || async {
        for (at, node) in stage.nodes.iter().enumerate().filter(|(_, node)| node.name.contains("-l2")) {
            if node.metric("fetched_bytes_total").await? > 0 {
                return Ok(at);
            }
        }
        anyhow::bail!("none does")
    })
    .await
}

/// Asserts that a node has this body in its own store.
async fn has(node: &Node, body: &[u8]) -> anyhow::Result<()> {
    let answer = http::get(node.port, DOMAIN, PATH, &[]).await?;
    let said = answer.header("x-cache");
    ensure!(
        answer.status == 200 && said == format!("HIT from {}", node.name),
        "{}: {} {said}",
        node.name,
        answer.status
    );
    ensure!(answer.body == body, "{}: other bytes", node.name);
    Ok(())
}

/// The origin's answers for it: status and bytes of each.
async fn sent(origin: &Nginx) -> anyhow::Result<Vec<(u16, u64)>> {
    // nginx is sequential: once this is answered, earlier answers are in its log.
    http::get(origin.port, "origin", "/", &[]).await?;
    Ok(origin.answers()?.into_iter().filter(|(status, _)| *status < 300).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_owner_takes_over_when_one_dies_in_the_middle_of_a_body() -> anyhow::Result<()> {
    let mut stage = Stage::with_two_owners("open").await?;
    let origin = stage.origin().await?;
    let body = origin.write(PATH, LENGTH)?;
    let pushing = push(&stage);
    let dies = owner(&stage).await;
    some_has_come(&stage.nodes[dies]).await?;
    stage.nodes[dies].kill9(); // and stays down
    pushing.await?.context("the task is Complete")?;

    let next = &stage.nodes[if dies == 1 { 2 } else { 1 }];
    let sent = sent(&origin).await?;
    ensure!(
        sent.len() == 2 && sent.iter().all(|(status, _)| *status == 200),
        "the next owner asks for all of it: {sent:?}"
    );
    ensure!(sent[0].1 < LENGTH as u64 && sent[1].1 == LENGTH as u64, "{sent:?}");
    origin.stop()?;
    for node in [&stage.nodes[0], next] {
        has(node, &body).await?;
    }
    Ok(())
}

/// A stage whose origin is behind a link that can be cut.
async fn behind_a_link() -> anyhow::Result<(Stage, Nginx, Relay)> {
    let stage = Stage::one_region("open", 64 << 20, 1 << 30).await?;
    let origin = Nginx::start(&stage.folder("origin")?)?;
    let link = Relay::start(origin.port).await?;
    let address = format!("127.0.0.1:{}", link.port);
    stage.add_domain(&address).await?;
    Ok((stage, origin, link))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_that_breaks_is_continued_where_it_stopped() -> anyhow::Result<()> {
    let (stage, origin, link) = behind_a_link().await?;
    let body = origin.write(PATH, LENGTH)?;
    let pushing = push(&stage);
    some_has_come(&stage.nodes[1]).await?;
    link.break_all();
    pushing.await?.context("the task is Complete")?;

    let sent = sent(&origin).await?;
    ensure!(sent.len() == 2 && (sent[0].0, sent[1].0) == (200, 206), "{sent:?}");
    let (all, length) = (sent[0].1 + sent[1].1, LENGTH as u64);
    ensure!(sent[1].1 < length && all < length + ON_ITS_WAY_MAX, "{sent:?}");
    ensure!(stage.nodes[1].metric("resumed_total").await? == 1, "it was continued once");
    origin.stop()?;
    for node in &stage.nodes[..2] {
        has(node, &body).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfer_whose_origin_is_gone_for_a_while_is_continued_when_it_is_back() -> anyhow::Result<()> {
    let (stage, origin, link) = behind_a_link().await?;
    let body = origin.write(PATH, LENGTH)?;
    let pushing = push(&stage);
    some_has_come(&stage.nodes[1]).await?;
    // A user's request that joined the fetch waits with it.
    let user = tokio::spawn(http::get(stage.nodes[0].port, DOMAIN, PATH, &[]));
    link.set(Mode::CUT);
    eventually("it was tried again in vain", || async {
        let pauses = stage.nodes[1].metric("resume_pauses_total").await?;
        ensure!(pauses >= 3, "{pauses} pauses");
        Ok(())
    })
    .await;
    link.set(Mode::WHOLE);
    pushing.await?.context("the task is Complete")?;
    ensure!(user.await??.body == body, "the user got all of it");

    let sent = sent(&origin).await?;
    ensure!(sent.len() == 2 && (sent[0].0, sent[1].0) == (200, 206), "{sent:?}");
    ensure!(sent[0].1 + sent[1].1 < LENGTH as u64 + ON_ITS_WAY_MAX, "{sent:?}");
    origin.stop()?;
    for node in &stage.nodes[..2] {
        has(node, &body).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_that_changes_between_a_break_and_its_continuation_is_fetched_anew() -> anyhow::Result<()> {
    let (stage, origin, link) = behind_a_link().await?;
    origin.write(PATH, LENGTH)?;
    let new = pattern("another version", LENGTH);
    let pushing = push(&stage);
    some_has_come(&stage.nodes[1]).await?;
    origin.replace(PATH, &new)?;
    link.break_all();
    pushing.await?.context("the task is Complete")?;

    // The request to continue was answered with the whole of another version, which is of no use.
    let sent = sent(&origin).await?;
    ensure!(sent.iter().all(|(status, _)| *status == 200), "no part of a version was taken: {sent:?}");
    let whole = sent.iter().filter(|(_, bytes)| *bytes == LENGTH as u64).count();
    ensure!(whole == 1, "{sent:?}");
    origin.stop()?;
    for node in &stage.nodes[..2] {
        has(node, &new).await?;
    }
    Ok(())
}
