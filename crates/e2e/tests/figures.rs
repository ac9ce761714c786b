//! Figures compared to the byte with the access logs of the nodes and the log of the origin: a mixed load on both
//! regions, while the control plane is killed and restarted, and at the end nodes terminated with unreported figures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;
use e2e::authority::Authority;
use e2e::nginx::Nginx;
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, free_port, http, sdk};
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NODES: [&str; 4] = ["cn-1-l1", "cn-1-l2", "eu-1-l1", "eu-1-l2"];

/// The counts of one five-minute bucket.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Sums {
    requests: u64,
    bytes: u64,
    secure: (u64, u64),
    /// Requests and bytes of the overseas region.
    overseas: (u64, u64),
    hits: u64,
    hit_bytes: u64,
    codes: BTreeMap<String, u64>,
}

/// The start of the bucket that contains a time such as `2026-01-02T03:04:05.678Z`.
fn bucket(time: &str) -> anyhow::Result<String> {
    let minute: u64 = time.get(14..16).context("minutes")?.parse()?;
    Ok(format!("{}{:02}:00Z", time.get(..14).context("an hour")?, minute / 5 * 5))
}

/// The counts in the access logs, by bucket.
fn logged(logs: &Path) -> anyhow::Result<BTreeMap<String, Sums>> {
    let mut buckets: BTreeMap<String, Sums> = BTreeMap::new();
    for node in NODES {
        for line in std::fs::read_to_string(logs.join(node))?.lines() {
            let line: Value = serde_json::from_str(line)?;
            let text = |name: &str| line[name].as_str().with_context(|| format!("{name} in {line}"));
            if line["counted"] != true {
                // Requests from other nodes; there are no others in this test.
                ensure!(node.ends_with("l2"), "{line}");
                continue;
            }
            ensure!(node.ends_with("l1"), "{line}");
            let sums = buckets.entry(bucket(text("time")?)?).or_default();
            let bytes = line["bytes"].as_u64().context("bytes")?;
            sums.requests += 1;
            sums.bytes += bytes;
            if text("scheme")? == "https" {
                sums.secure = (sums.secure.0 + 1, sums.secure.1 + bytes);
            }
            if node.starts_with("eu") {
                sums.overseas = (sums.overseas.0 + 1, sums.overseas.1 + bytes);
            }
            if text("cache")? == "HIT" {
                sums.hits += 1;
                sums.hit_bytes += bytes;
            }
            *sums.codes.entry(line["status"].to_string()).or_default() += 1;
        }
    }
    Ok(buckets)
}

/// A percentage as the API writes it.
fn percent(part: u64, whole: u64) -> String {
    let hundredths = part * 10_000 / whole.max(1);
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

async fn ask(stage: &Stage, calls: &[(&'static str, &'static str)]) -> anyhow::Result<Vec<Value>> {
    let calls: Vec<sdk::Call> =
        calls.iter().map(|(product, action)| (*product, *action, json!({ "DomainName": DOMAIN }))).collect();
    let answers = sdk::calls(stage, &calls).await?;
    answers.into_iter().map(|answer| answer.get("ok").cloned().with_context(|| format!("success: {answer}"))).collect()
}

/// The rows of a list by time, without those where `value` is zero.
fn rows<'a>(answer: &'a Value, list: &str, element: &str, value: &str) -> anyhow::Result<BTreeMap<&'a str, &'a Value>> {
    let rows = answer[list][element].as_array().with_context(|| format!("{list} in {answer}"))?;
    let filled = rows.iter().filter(|row| row[value] != "0");
    filled.map(|row| Ok((row["TimeStamp"].as_str().context("a time")?, row))).collect()
}

fn number(row: &Value, name: &str) -> anyhow::Result<u64> {
    Ok(row[name].as_str().with_context(|| format!("{name} in {row}"))?.parse()?)
}

fn codes(row: &Value) -> anyhow::Result<BTreeMap<String, u64>> {
    let codes = row["Value"]["CodeProportionData"].as_array().context("codes")?;
    codes.iter().map(|code| Ok((code["Code"].as_str().context("a code")?.to_owned(), number(code, "Count")?))).collect()
}

/// The API's figures of users' requests, by bucket; percentages are compared and then copied from `logged`.
async fn shown(stage: &Stage, logged: &BTreeMap<String, Sums>) -> anyhow::Result<BTreeMap<String, Sums>> {
    let answers = ask(
        stage,
        &[
            ("cdn", "DescribeDomainTrafficData"),
            ("cdn", "DescribeDomainQpsData"),
            ("cdn", "DescribeDomainHttpCodeData"),
            ("cdn", "DescribeDomainReqHitRateData"),
            ("cdn", "DescribeDomainHitRateData"),
        ],
    )
    .await?;
    let [traffic, qps, http_codes, request_rates, rates] = &answers[..] else { unreachable!("one answer a call") };
    let mut buckets: BTreeMap<String, Sums> = BTreeMap::new();
    for (time, row) in rows(qps, "QpsDataInterval", "DataModule", "AccValue")? {
        let sums = buckets.entry(time.to_owned()).or_default();
        sums.requests = number(row, "AccValue")?;
        sums.secure.0 = number(row, "HttpsAccValue")?;
        sums.overseas.0 = number(row, "AccOverseasValue")?;
        ensure!(number(row, "AccDomesticValue")? + sums.overseas.0 == sums.requests, "{row}");
    }
    for (time, row) in rows(traffic, "TrafficDataPerInterval", "DataModule", "Value")? {
        let sums = buckets.entry(time.to_owned()).or_default();
        sums.bytes = number(row, "Value")?;
        sums.secure.1 = number(row, "HttpsValue")?;
        sums.overseas.1 = number(row, "OverseasValue")?;
        ensure!(number(row, "DomesticValue")? + sums.overseas.1 == sums.bytes, "{row}");
    }
    for (time, row) in rows(http_codes, "HttpCodeData", "UsageData", "")? {
        let codes = codes(row)?;
        if !codes.is_empty() {
            buckets.entry(time.to_owned()).or_default().codes = codes;
        }
    }
    let request_rates = rows(request_rates, "ReqHitRateInterval", "DataModule", "Value")?;
    let rates = rows(rates, "HitRateInterval", "DataModule", "Value")?;
    for (time, sums) in &mut buckets {
        let rate = |rows: &BTreeMap<&str, &Value>| {
            rows.get(time.as_str()).and_then(|row| row["Value"].as_str()).unwrap_or("0").to_owned()
        };
        let Some(logged) = logged.get(time) else { continue };
        if rate(&request_rates) == percent(logged.hits, logged.requests) {
            sums.hits = logged.hits;
        }
        if rate(&rates) == percent(logged.hit_bytes, logged.bytes) {
            sums.hit_bytes = logged.hit_bytes;
        }
    }
    Ok(buckets)
}

/// The API's figures of requests to origins: requests, bytes and statuses.
async fn shown_of_origins(stage: &Stage) -> anyhow::Result<(u64, BTreeMap<String, u64>)> {
    let answers =
        ask(stage, &[("cdn", "DescribeDomainSrcTrafficData"), ("cdn", "DescribeDomainSrcHttpCodeData")]).await?;
    let [traffic, http_codes] = &answers[..] else { unreachable!("one answer a call") };
    let traffic = rows(traffic, "SrcTrafficDataPerInterval", "DataModule", "Value")?;
    let bytes = traffic.values().map(|row| number(row, "Value")).sum::<anyhow::Result<u64>>()?;
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (_, row) in rows(http_codes, "HttpCodeData", "UsageData", "")? {
        codes(row)?.into_iter().for_each(|(code, count)| *sums.entry(code).or_default() += count);
    }
    Ok((bytes, sums))
}

fn witnessed(origin: &Nginx) -> anyhow::Result<(u64, BTreeMap<String, u64>)> {
    let (mut bytes, mut codes) = (0, BTreeMap::new());
    for (status, of_one) in origin.answers()? {
        bytes += of_one;
        *codes.entry(status.to_string()).or_default() += 1;
    }
    Ok((bytes, codes))
}

/// Waits until the figures agree with the logs.
async fn agree(stage: &Stage, logs: &Path, origin: &Nginx) {
    eventually("the figures are what the logs say", || async {
        let logged = logged(logs)?;
        let shown = shown(stage, &logged).await?;
        ensure!(shown == logged, "shown {shown:#?}\nlogged {logged:#?}");
        let (shown, witnessed) = (shown_of_origins(stage).await?, witnessed(origin)?);
        ensure!(shown == witnessed, "of origins: shown {shown:?}, witnessed {witnessed:?}");
        Ok(())
    })
    .await;
}

/// Hits, misses, ranges, missing files and a client that disconnects, on both edges.
async fn load(stage: &Stage, round: usize, secure: u16, authority: &Path) -> anyhow::Result<()> {
    for (region, port) in stage.edges().into_iter().enumerate() {
        for n in 0..5 {
            for again in 0..=n {
                let path = format!("/{round}/{n}.bin?again={}", again % 2);
                let answer = http::get(port, DOMAIN, &path, &[]).await?;
                ensure!(answer.status == 200, "{path}: {}", answer.status);
            }
        }
        // A range of a stored body: a range of an unstored body that is too small for slices causes two requests to the
        // origin, and the node reads only one of the answers, though the origin has sent both.
        let part = http::get(port, DOMAIN, &format!("/{round}/4.bin?again=0"), &[("range", "bytes=10-1009")]).await?;
        ensure!((part.status.as_u16(), part.body.len()) == (206, 1000), "{}", part.status);
        let missing = http::get(port, DOMAIN, &format!("/{round}/missing-{region}"), &[]).await?;
        ensure!(missing.status == 404, "{}", missing.status);
        let head = Request::head(format!("/{round}/0.bin")).header("host", DOMAIN).body(Full::new(Bytes::new()))?;
        ensure!(http::send(port, head).await?.status == 200, "HEAD");
        let post = Request::post(format!("/{round}/0.bin")).header("host", DOMAIN).body(Full::new(Bytes::from("x")))?;
        ensure!(http::send(port, post).await?.status == 405, "POST");

        let mut leaving = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!("GET /slow/{round}-{region}.bin HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
        leaving.write_all(request.as_bytes()).await?;
        leaving.read_exact(&mut [0; 4096]).await?;
    }
    let url = format!("https://{DOMAIN}:{secure}/{round}/[0-4].bin");
    let resolve = format!("{DOMAIN}:{secure}:127.0.0.1");
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "30", "--output", "/dev/null"]);
    curl.args(["--resolve", &resolve, "--cacert"]).arg(authority).arg(&url).stdout(std::process::Stdio::null());
    ensure!(curl.status().await?.success(), "curl {url}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_what_the_logs_say_to_the_byte() -> anyhow::Result<()> {
    let mut stage = Stage::without_nodes("open", &[]).await?;
    let logs: PathBuf = stage.folder("logs")?;
    let secure = free_port();
    for name in NODES {
        let node = stage.node(name);
        let tls = if name == "cn-1-l1" { format!("listen_tls = \"127.0.0.1:{secure}\"\n") } else { String::new() };
        node.configure(&format!("access_log = \"{}\"\n{tls}", logs.join(name).display()))?;
        node.start()?;
        node.ready().await;
    }
    let origin = stage.origin().await?;
    let authority = Authority::new(stage.folder("certificates")?)?;
    let pair = authority.make("own", DOMAIN)?;
    stage.cli(&["domain", "certificate", "set", DOMAIN, "--cert", &pair.cert, "--key", &pair.key]).await?;
    stage.online().await;
    for round in 0..3 {
        (0..5).try_for_each(|n| origin.write(&format!("/{round}/{n}.bin"), 3_000 + 20_000 * n).map(|_| ()))?;
        (0..2).try_for_each(|region| origin.write(&format!("/slow/{round}-{region}.bin"), 700_000).map(|_| ()))?;
    }

    load(&stage, 0, secure, &authority.file()).await?;
    agree(&stage, &logs, &origin).await;

    // Without the control plane the nodes keep counting; reports already sent are counted once.
    load(&stage, 1, secure, &authority.file()).await?;
    stage.kill_control();
    http::get(stage.edges()[0], DOMAIN, "/0/0.bin", &[]).await?;
    stage.start_control().await?;
    agree(&stage, &logs, &origin).await;

    // Terminated nodes report first.
    load(&stage, 2, secure, &authority.file()).await?;
    for node in &stage.nodes {
        node.settled().await;
    }
    for name in NODES {
        stage.node(name).process().context("it runs")?.terminate()?;
    }
    agree(&stage, &logs, &origin).await;
    Ok(())
}
