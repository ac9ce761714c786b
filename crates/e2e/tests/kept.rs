//! `Complete` means warm, with real processes: with the origin stopped, every target answers HIT with equal bytes from
//! its own store, whatever is requested and whatever happened to the process since.

use std::process::Command;

use anyhow::{Context, ensure};
use e2e::film::{Film, SLICE};
use e2e::nginx::pattern;
use e2e::stage::{DOMAIN, Node, Stage};
use e2e::{eventually, http, sdk};
use serde_json::json;

/// Length of the large object, in bytes.
const LARGE: u64 = 1_000_000_007;

/// A prefetched object: path, `Accept-Encoding` of the variant, and body.
type Warm = (String, Option<&'static str>, Vec<u8>);

/// Asserts that a node has all objects in its own store.
async fn has(node: &Node, warm: &[Warm]) -> anyhow::Result<()> {
    for (path, encoding, body) in warm {
        let headers: Vec<(&str, &str)> = encoding.iter().map(|encoding| ("accept-encoding", *encoding)).collect();
        let answer = http::get(node.port, DOMAIN, path, &headers).await?;
        hit(node, &answer).with_context(|| format!("{path} {encoding:?}"))?;
        ensure!(answer.status == 200 && answer.body == body.as_slice(), "{path} {encoding:?}: other bytes");
        let coding = answer.header("content-encoding");
        ensure!(coding == encoding.filter(|encoding| *encoding == "gzip").unwrap_or_default(), "{path}: {coding}");
    }
    Ok(())
}

fn hit(node: &Node, answer: &http::Answer) -> anyhow::Result<()> {
    let (status, said) = (answer.status, answer.header("x-cache"));
    ensure!(status.is_success() && said == format!("HIT from {}", node.name), "{}: {status}, {said}", node.name);
    Ok(())
}

/// Asserts that a node serves ranges of an object from its own store: the first bytes, some in the middle, the last
/// ones, and several in one answer.
async fn has_parts(node: &Node, path: &str, body: &[u8]) -> anyhow::Result<()> {
    let (length, half) = (body.len(), body.len() / 2);
    let ends = [0..100, half..half + 3_000, length - 500..length, length - 1..length];
    let words = [
        "bytes=0-99".into(),
        format!("bytes={half}-{}", half + 2_999),
        "bytes=-500".into(),
        format!("bytes={}-", length - 1),
    ];
    for (range, words) in ends.iter().zip(words) {
        let answer = http::get(node.port, DOMAIN, path, &[("range", &words)]).await?;
        hit(node, &answer).with_context(|| format!("{path} {words}"))?;
        let said = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        ensure!(answer.status == 206 && answer.header("content-range") == said, "{path} {words}: {:?}", answer.headers);
        ensure!(answer.body == body[range.clone()], "{path} {words}: other bytes");
    }
    let words = format!("bytes=0-99,{half}-{},-500", half + 2_999);
    let answer = http::get(node.port, DOMAIN, path, &[("range", &words)]).await?;
    hit(node, &answer).with_context(|| format!("{path} {words}"))?;
    let parts = answer.parts()?;
    let expected: Vec<_> = ends[..3].iter().map(|range| (range, &body[range.clone()])).collect();
    ensure!(parts.len() == expected.len(), "{path}: {} parts", parts.len());
    for ((said, bytes), (range, body)) in parts.iter().zip(expected) {
        let asked = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        ensure!(*said == asked && bytes == body, "{path}: {said} for {asked}");
    }
    Ok(())
}

/// Waits until every URL of a task is Complete. It has at least `urls` URLs, as submissions within one second share a
/// task.
async fn complete(stage: &Stage, task: &str, urls: usize) -> anyhow::Result<()> {
    let rows = eventually(&format!("task {task} has ended"), || async {
        let rows = stage.cli(&["tasks", task, "--limit", "1000"]).await?;
        let rows = rows.as_array().context("rows")?.clone();
        ensure!(rows.iter().all(|row| row["state"] != "Refreshing"), "it goes on");
        Ok(rows)
    })
    .await;
    let good = rows.iter().filter(|row| row["state"] == "Complete").count();
    ensure!(good == rows.len() && good >= urls, "{good} of {urls} are Complete: {rows:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_answers_alone_objects_parts_and_variants_and_after_restarts_too() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let mut warm: Vec<Warm> = Vec::new();
    // Empty, less than a slice, several slices, and larger than anything fetched in parts.
    let sizes = [0, 1, 255, 4_096, 32_000, 70_001, 1 << 20, 3_000_017, (9 << 20) + 1];
    for (number, size) in sizes.iter().cycle().take(30).enumerate() {
        let size = if number >= sizes.len() { size % 100_000 } else { *size };
        let path = format!("/small/{number}.bin");
        warm.push((path.clone(), None, origin.write(&path, size)?));
    }
    let list = stage.listed(warm.iter().map(|(path, ..)| path.as_str()))?;
    stage.cli(&["push", &list, "--l2", "--edge", "--wait"]).await?;

    // Variants, as the origin itself sends them.
    let mut varied = Vec::new();
    for number in 0..6 {
        let text = format!("{} {number}\n", "words that come again and again").repeat(3_000 * (number + 1));
        for folder in ["packed", "zipped"] {
            let path = format!("/{folder}/{number}.txt");
            origin.write_bytes(&path, text.as_bytes())?;
            varied.push(path);
        }
        let packed = origin.files.join(format!("packed/{number}.txt"));
        ensure!(Command::new("gzip").arg("-kn").arg(packed).status()?.success(), "gzip");
    }
    let mut variants: Vec<Warm> = Vec::new();
    for path in &varied {
        let mut lengths = Vec::new();
        for encoding in ["gzip", "identity"] {
            let answer = http::get(origin.port, DOMAIN, path, &[("accept-encoding", encoding)]).await?;
            ensure!(answer.header("vary") == "Accept-Encoding", "{path}: {:?}", answer.headers);
            lengths.push(answer.body.len());
            variants.push((path.clone(), Some(encoding), answer.body.to_vec()));
        }
        ensure!(lengths[0] < lengths[1], "{path}: {lengths:?}");
    }
    let urls: Vec<String> = varied.iter().map(|path| format!("http://{DOMAIN}{path}")).collect();
    let wish = json!({ "ObjectPath": urls.join("\n"), "L2Preload": "true", "Tier": "edge", "QueryHashkey": "true",
                       "WithHeader": r#"{"Accept-Encoding":["gzip","identity"]}"# });
    let pushed = sdk::calls(&stage, &[("cdn", "PushObjectCache", wish)]).await?.remove(0);
    let task = pushed["ok"]["PushTaskId"].as_str().with_context(|| pushed.to_string())?;
    complete(&stage, task, urls.len()).await?;
    // The origin logs an answer a moment after it was sent; two variants were requested here as well.
    let gets = eventually("the origin has written everything down", || async {
        let gets = origin.gets()?;
        ensure!(varied.iter().all(|path| gets.get(path) >= Some(&(2 + 4))), "{gets:?}");
        Ok(gets)
    })
    .await;
    for (path, ..) in &warm {
        ensure!(gets.get(path) == Some(&2), "{path} was asked for {:?} times by two roots", gets.get(path));
    }
    for path in &varied {
        let asked = gets[path] - 2;
        ensure!(asked == 4, "{path}: two variants were asked for {asked} times by two roots");
    }

    origin.stop()?;
    warm.append(&mut variants);
    for killed in [false, true] {
        for node in &stage.nodes {
            has(node, &warm).await?;
            for number in [5, 6, 7, 8] {
                let (path, _, body) = &warm[number];
                has_parts(node, path, body).await?;
            }
        }
        if killed {
            for node in &mut stage.nodes {
                node.kill9();
                node.start()?;
            }
        } else {
            for node in &mut stage.nodes {
                node.process().context("it runs")?.terminate()?;
                node.start()?;
            }
        }
        for node in &stage.nodes {
            node.ready().await;
        }
    }
    for node in &stage.nodes {
        has(node, &warm).await.context("after kill -9")?;
        let (path, _, body) = &warm[8];
        has_parts(node, path, body).await.context("after kill -9")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_answers_a_gigabyte_alone_whole_and_in_parts_and_after_restarts_too() -> anyhow::Result<()> {
    let mut stage = Stage::one_region("open", 64 << 20, 4 << 30).await?;
    let origin = stage.origin().await?;
    let film = Film { path: "/film.mp4", length: LARGE, version: 1 };
    film.put(&origin)?;
    stage.cli(&["push", &format!("http://{DOMAIN}{}", film.path), "--l2", "--edge", "--wait"]).await?;
    let log = origin.log()?;
    ensure!(log.len() == 1 && log[0].bytes == LARGE, "{log:?}");
    origin.stop()?;

    let parts = async |node: &Node| {
        let half = LARGE / 2;
        let borders = 499 * SLICE - 10..501 * SLICE + 10;
        for (words, range) in [
            ("bytes=0-499".to_owned(), 0..500),
            (format!("bytes={}-{}", borders.start, borders.end - 1), borders.clone()),
            ("bytes=-500".to_owned(), LARGE - 500..LARGE),
            (format!("bytes={}-", LARGE - 70_000), LARGE - 70_000..LARGE),
        ] {
            let said = film.read_as(node.port, &words, range).await?;
            ensure!(said == format!("HIT from {}", node.name), "{words}: {said}");
        }
        let words = format!("bytes=0-99,{half}-{},-500", half + 99_999);
        let answer = http::get(node.port, DOMAIN, film.path, &[("range", &words)]).await?;
        hit(node, &answer)?;
        let given: Vec<_> = answer.parts()?.into_iter().map(|(_, bytes)| bytes.to_vec()).collect();
        let expected = [0..100, half..half + 100_000, LARGE - 500..LARGE].map(|range| film.bytes(range));
        ensure!(given == expected, "{}: other parts", node.name);
        anyhow::Ok(())
    };
    let whole = async |node: &Node| hit(node, &film.watch(node.port, &[], 0..LARGE).await?);
    for node in &stage.nodes[..2] {
        parts(node).await?;
        whole(node).await?;
    }
    stage.node("cn-1-l1").kill9();
    stage.node("cn-1-l1").start()?;
    stage.node("cn-1-l2").restart().await?;
    stage.node("cn-1-l1").ready().await;
    for node in &stage.nodes[..2] {
        parts(node).await.context("after a restart")?;
        whole(node).await.context("after a restart")?;
    }
    Ok(())
}

/// Size of a small store, and of the objects pushed through it, in bytes.
const SMALL_STORE: u64 = 64 << 20;
const PIECE: usize = 800_000;
const PIECES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_objects_stay_though_five_times_the_store_was_pushed_through() -> anyhow::Result<()> {
    let mut stage = Stage::one_region("open", 8 << 20, SMALL_STORE).await?;
    let origin = stage.origin().await?;
    let write = |kind: &str, count: usize, bytes: usize| {
        let paths = (0..count).map(|number| format!("/{kind}/{number}.bin"));
        paths.map(|path| Ok((path.clone(), None, origin.write(&path, bytes)?))).collect::<anyhow::Result<Vec<Warm>>>()
    };
    let push = async |warm: &[Warm], wishes: &[&str]| {
        let list = stage.listed(warm.iter().map(|(path, ..)| path.as_str()))?;
        stage.cli(&[&["push", &list, "--l2", "--edge", "--wait"], wishes].concat()).await
    };
    // Many small ones, and one that is fetched and stored in several pieces.
    let mut pinned = write("pinned", 40, 50_000)?;
    pinned.extend(write("pinned-long", 1, 9_000_000)?);
    let unpinned = write("unpinned", 40, 50_000)?;
    push(&pinned, &["--pin", "2h"]).await?;
    push(&unpinned, &[]).await?;
    let mut through = 0;
    for round in 0.. {
        if through > 5 * SMALL_STORE {
            break;
        }
        push(&write(&format!("flood-{round}"), PIECES, PIECE)?, &[]).await?;
        through += (PIECES * PIECE) as u64;
    }
    origin.stop()?;
    for killed in [false, true] {
        for node in &stage.nodes[..2] {
            has(node, &pinned).await.with_context(|| format!("after kill -9: {killed}"))?;
        }
        let mut gone = 0;
        for (path, ..) in &unpinned {
            let answer = http::get(stage.nodes[1].port, DOMAIN, path, &[]).await?;
            gone += usize::from(!answer.status.is_success());
        }
        ensure!(gone == unpinned.len(), "{gone} of {} that nobody pinned have made room", unpinned.len());
        if !killed {
            for node in &mut stage.nodes[..2] {
                node.kill9();
                node.start()?;
            }
            for node in &stage.nodes[..2] {
                node.ready().await;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refetch_brings_new_bytes_to_every_target_for_one_get_a_root() -> anyhow::Result<()> {
    let stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let paths: Vec<String> = (0..20).map(|number| format!("/again/{number}.bin")).collect();
    let version = |path: &str, version: u32| pattern(&format!("{path} {version}"), 60_000);
    let warm =
        |number: u32| paths.iter().map(|path| (path.clone(), None, version(path, number))).collect::<Vec<Warm>>();
    for path in &paths {
        origin.write_bytes(path, &version(path, 1))?;
    }
    let list = stage.listed(paths.iter().map(String::as_str))?;
    let push = async |wishes: &[&str]| {
        stage.cli(&[&["push", &list, "--l2", "--edge", "--wait"], wishes].concat()).await?;
        anyhow::Ok(origin.answers()?.len())
    };
    let first = push(&[]).await?;
    ensure!(first == 2 * paths.len(), "{first} answers");
    for path in &paths {
        origin.replace(path, &version(path, 2))?;
    }
    ensure!(push(&[]).await? == first, "a fresh copy is good unless a refetch is asked for");
    for node in &stage.nodes {
        has(node, &warm(1)).await?;
    }
    let second = push(&["--refetch"]).await?;
    ensure!(second - first == 2 * paths.len(), "{} answers for {} objects and two roots", second - first, paths.len());
    let log = origin.log()?;
    ensure!(log[first..].iter().all(|got| got.bytes == 60_000), "each of them whole: {:?}", &log[first..]);
    // Both in one task: it is one refetch.
    for path in &paths {
        origin.replace(path, &version(path, 3))?;
    }
    let third = push(&["--refetch"]).await?;
    ensure!(third - second == 2 * paths.len(), "{} answers", third - second);
    origin.stop()?;
    for node in &stage.nodes {
        has(node, &warm(3)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_is_the_users_or_the_url_as_submitted_as_the_call_says() -> anyhow::Result<()> {
    let stage = Stage::set("cdn-2024").await?;
    let origin = stage.origin().await?;
    let set =
        json!([{ "functionName": "set_hashkey_args", "functionArgs": [{ "argName": "disable", "argValue": "on" }] }]);
    let call = ("cdn", "BatchSetCdnDomainConfig", json!({ "DomainNames": DOMAIN, "Functions": set.to_string() }));
    let answer = sdk::calls(&stage, &[call]).await?.remove(0);
    ensure!(answer.get("ok").is_some(), "{answer}");
    stage.online().await;
    for name in ["users", "given", "same"] {
        origin.write(&format!("/key/{name}.bin"), 20_000)?;
    }
    let url = |name: &str| format!("http://{DOMAIN}/key/{name}.bin");
    let push = async |url: String, hashkey: &str| {
        let mut wish = json!({ "ObjectPath": url, "L2Preload": "true", "Tier": "edge" });
        if !hashkey.is_empty() {
            wish["QueryHashkey"] = hashkey.into();
        }
        let pushed = sdk::calls(&stage, &[("cdn", "PushObjectCache", wish)]).await?.remove(0);
        let task = pushed["ok"]["PushTaskId"].as_str().with_context(|| pushed.to_string())?;
        complete(&stage, task, 1).await?;
        let detail = ("cdn", "DescribePreloadDetailById", json!({ "TaskId": task }));
        let detail = sdk::calls(&stage, &[detail]).await?.remove(0);
        let details = detail["ok"]["UrlDetails"].as_array().with_context(|| detail.to_string())?;
        let mut shown = details.iter().filter_map(|one| one["Urls"].as_array()).flatten();
        let own = shown.find(|shown| shown["Url"] == url.as_str()).with_context(|| detail.to_string())?;
        let warned = own["Description"].as_str().unwrap_or_default().to_owned();
        anyhow::Ok((warned, origin.answers()?.len()))
    };
    // The users' key, which does not include the query.
    let (warned, asked) = push(format!("{}?v=1", url("users")), "true").await?;
    ensure!(warned.is_empty() && asked == 2, "{warned}: {asked}");
    // Stored as submitted while users have another key: it is there, with a warning that users cannot get it, and is
    // not fetched again.
    let (warned, asked) = push(format!("{}?v=1", url("given")), "false").await?;
    ensure!(warned.contains("users' requests for it have the key") && asked == 4, "{warned}: {asked}");
    let (warned, asked) = push(format!("{}?v=1", url("given")), "").await?;
    ensure!(!warned.is_empty() && asked == 4, "the vendor's default is the URL as submitted: {warned}: {asked}");
    // Stored as submitted, which is also the users' key.
    let (warned, asked) = push(url("same"), "false").await?;
    ensure!(warned.is_empty() && asked == 6, "{warned}: {asked}");

    origin.stop()?;
    for node in &stage.nodes {
        for name in ["users", "same"] {
            for query in ["", "?v=1", "?v=2"] {
                let warm = (format!("/key/{name}.bin{query}"), None, pattern(&format!("/key/{name}.bin"), 20_000));
                has(node, &[warm]).await?;
            }
        }
        let answer = http::get(node.port, DOMAIN, "/key/given.bin?v=1", &[]).await?;
        ensure!(
            answer.status.is_server_error(),
            "{}: what is kept under another key was sent to a user",
            answer.status
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refreshed_while_a_prefetch_ran_is_warm_when_it_is_complete() -> anyhow::Result<()> {
    let mut stage = Stage::set("open").await?;
    let origin = stage.origin().await?;
    let path = "/a.bin";
    origin.write_bytes(path, b"the old bytes")?;
    // One target has it, the other is away.
    stage.node("eu-1-l2").kill9();
    let url = format!("http://{DOMAIN}{path}");
    let pushed = stage.cli(&["push", &url]).await?;
    let task = pushed["task_ids"][0].as_str().with_context(|| pushed.to_string())?.to_owned();
    eventually("one target of two has it", || async {
        let rows = stage.cli(&["tasks", &task]).await?;
        ensure!(rows[0]["process"] == "50%", "{rows}");
        Ok(())
    })
    .await;
    origin.write_bytes(path, b"the new bytes, which are longer")?;
    stage.cli(&["refresh", &url, "--wait"]).await?;
    stage.node("eu-1-l2").start()?;
    complete(&stage, &task, 1).await?;
    origin.stop()?;
    for name in ["cn-1-l2", "eu-1-l2"] {
        let node = stage.node(name);
        let answer = http::get(node.port, DOMAIN, path, &[]).await?;
        hit(node, &answer)?;
        ensure!(answer.text() == "the new bytes, which are longer", "{name}: {}", answer.text());
    }
    Ok(())
}
