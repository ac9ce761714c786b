//! What users notice of a large prefetch task at their origin, and what the origin is spared: an origin by a script works on 32 requests at
//! a time for 50 ms each; two regions ask it, so two roots share it.
//!
//! Users' p99 with the task and without it; what prefetches come to beside the best fixed limit, tried directly; requests inside a window in
//! which the origin said when to come back; how long after a stall of five seconds they are as fast as before. In numbers, and as a plot.
//! `cargo run --release -p bench --bin origin [URLS] [PLOT.svg]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use e2e::knee::{Asked, Knee, SERVICE, Users, WORKERS, Waited, inside};
use e2e::stage::{DOMAIN, Stage};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

/// A user so often: about a twelfth of what the origin bears.
const USER_EVERY: Duration = Duration::from_millis(20);

/// How long users are alone, and how long each fixed limit is tried.
const ALONE: Duration = Duration::from_secs(20);
const TRIED: Duration = Duration::from_secs(4);
const FIXED: [usize; 8] = [8, 16, 24, 28, 32, 40, 48, 64];

/// How long the origin says that it is to be left alone, and how long it stands still.
const REFUSES: Duration = Duration::from_secs(8);
const STANDS_STILL: Duration = Duration::from_secs(5);

/// How soon both roots have heard what one was told.
const WORD: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let urls: usize = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let plot = arguments.next().unwrap_or_else(|| "origin.svg".to_owned());
    println!(
        "an origin that works on {WORKERS} requests at a time for {} ms each; a user every {} ms; {urls} URLs to two roots",
        SERVICE.as_millis(),
        USER_EVERY.as_millis()
    );
    let mut best = 0.0_f64;
    for limit in FIXED {
        let (rate, p99) = fixed(limit).await?;
        println!("fixed limit {limit:>3}: {rate:>6.0} /s, users' p99 {:>6.1} ms", millis(p99));
        best = best.max(rate);
    }

    let stage = Stage::set("open").await?;
    let origin = Knee::start().await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.cli(&["domain", "add", DOMAIN, "--origin", &address, "--coverage", "global"]).await?;
    stage.online().await;
    let users = Users::begin(stage.edges()[0], USER_EVERY);
    let began = Instant::now();
    tokio::time::sleep(ALONE).await;
    let alone = users.p99(began + ALONE / 4, Instant::now());

    let first = push(&stage, "whole", urls).await?;
    let with = users.p99(first.0, first.1);
    let served = origin.prefetches(first.0, first.1);
    let rate = served as f64 / (first.1 - first.0).as_secs_f64();
    println!(
        "users alone: p99 {:.1} ms; with the task {:.1} ms: {:+.1} %",
        millis(alone),
        millis(with),
        change(with, alone)
    );
    println!(
        "prefetches: {rate:.0} /s over {:.0} s, {:.2} of the best fixed limit",
        (first.1 - first.0).as_secs_f64(),
        rate / best
    );

    // The same with troubles: enough URLs for what follows, at the rate of before.
    let more = (rate * 90.0 / 2.0) as usize;
    let troubles = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let from = Instant::now();
        origin.refuse(REFUSES);
        tokio::time::sleep(REFUSES + Duration::from_secs(20)).await;
        let stall = Instant::now();
        origin.stand_still(STANDS_STILL);
        ((from, from + REFUSES), stall)
    };
    let (second, (window, stall)) = tokio::join!(push(&stage, "troubles", more), troubles);
    let second = second?;
    let asked = origin.asked();
    println!("asked inside the window of Retry-After: {}", inside(&asked, window, WORD).len());
    let told = asked.iter().filter(|asked| asked.refused && !asked.by_user).count();
    println!("prefetches that were told so, those on their way among them: {told}");
    let before = origin.prefetches(stall - Duration::from_secs(5), stall) as f64 / 5.0;
    let over = stall + STANDS_STILL;
    let seconds = (0..60).map(Duration::from_secs);
    let again = seconds
        .map(|at| over + at)
        .find(|at| origin.prefetches(*at, *at + Duration::from_secs(1)) as f64 >= before * 0.9);
    let again = again.filter(|at| *at < second.1).map(|at| (at - over).as_secs());
    match again {
        Some(seconds) => {
            println!("after a stall of {} s: as fast as before within {} s", STANDS_STILL.as_secs(), seconds + 1)
        }
        None => println!("after a stall of {} s: not as fast as before while the task lasted", STANDS_STILL.as_secs()),
    }
    draw(Path::new(&plot), began, &asked, &users.waited(began, Instant::now()), &[window, (stall, over)])?;
    println!("plot: {plot}");
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn change(with: Duration, alone: Duration) -> f64 {
    (with.as_secs_f64() / alone.as_secs_f64().max(1e-9) - 1.0) * 100.0
}

/// A task of so many URLs to both roots; when it began and when it was complete.
async fn push(stage: &Stage, name: &str, urls: usize) -> anyhow::Result<(Instant, Instant)> {
    let list = stage.folder("lists")?.join(name);
    let lines: Vec<String> = (0..urls).map(|number| format!("http://{DOMAIN}/{name}/{number}.bin")).collect();
    std::fs::write(&list, lines.join("\n"))?;
    let begun = Instant::now();
    let done = stage.cli(&["push", &format!("@{}", list.display()), "--wait"]).await?;
    let complete = done["urls"].as_array().into_iter().flatten().filter(|url| url["state"] == "Complete").count();
    ensure!(complete == urls, "{complete} of {urls} are Complete");
    Ok((begun, Instant::now()))
}

/// What a fixed number of askers get out of the origin while users ask it too, and how long these wait.
async fn fixed(limit: usize) -> anyhow::Result<(f64, Duration)> {
    let origin = Knee::start().await?;
    let users = Users::begin(origin.port, USER_EVERY);
    let over = Arc::new(AtomicBool::new(false));
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(128).build_http::<Full<Bytes>>();
    let begun = Instant::now();
    let askers: Vec<_> = (0..limit)
        .map(|asker| {
            let (over, client, port) = (over.clone(), client.clone(), origin.port);
            tokio::spawn(async move {
                for n in 0_u64.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let url = format!("http://127.0.0.1:{port}/o/{asker}/{n}");
                    let request = Request::get(url).body(Full::default())?;
                    client.request(request).await?.into_body().collect().await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    tokio::time::sleep(TRIED).await;
    over.store(true, Ordering::SeqCst);
    let ended = Instant::now();
    for asker in askers {
        asker.await??;
    }
    Ok((origin.prefetches(begun, ended) as f64 / (ended - begun).as_secs_f64(), users.p99(begun, ended)))
}

/// Draws what was under way at the origin and how long users waited, over time; spans of trouble are grey.
fn draw(
    path: &Path,
    began: Instant,
    asked: &[Asked],
    waited: &[Waited],
    troubles: &[(Instant, Instant)],
) -> anyhow::Result<()> {
    const WIDTH: f64 = 1200.0;
    const HEIGHT: f64 = 220.0;
    const LEFT: f64 = 60.0;
    const TOP: [f64; 2] = [30.0, 300.0];
    let end = asked.iter().map(|asked| asked.at).chain(waited.iter().map(|waited| waited.at)).max();
    let length = (end.context("something was asked")? - began).as_secs_f64().max(1.0);
    let x = |at: Instant| LEFT + WIDTH * at.saturating_duration_since(began).as_secs_f64() / length;
    let y = |top: f64, value: f64, most: f64| top + HEIGHT * (1.0 - (value / most).min(1.0));
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"560\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
        LEFT + WIDTH + 20.0
    )?;
    for (from, to) in troubles {
        for top in TOP {
            let width = x(*to) - x(*from);
            writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"#ddd\"/>",
                x(*from)
            )?;
        }
    }
    let titles = [
        "requests under way at the origin (line: what it works on)",
        "users wait, in ms (line: what the origin takes)",
    ];
    let (most, line) = ([WORKERS as f64 * 2.0, millis(SERVICE) * 6.0], [WORKERS as f64, millis(SERVICE)]);
    for panel in 0..2 {
        let (top, at) = (TOP[panel], y(TOP[panel], line[panel], most[panel]));
        writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 8.0, titles[panel])?;
        writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>"
        )?;
        writeln!(svg, "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#c00\"/>", LEFT + WIDTH)?;
        for part in 0..=4 {
            let value = most[panel] * f64::from(part) / 4.0;
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
                LEFT - 6.0,
                y(top, value, most[panel]) + 4.0
            )?;
        }
    }
    // The most of each quarter of a second, or the plot would be one black area.
    let mut most_of = vec![0_usize; (length * 4.0) as usize + 1];
    for one in asked {
        let slot = &mut most_of[((one.at.saturating_duration_since(began)).as_secs_f64() * 4.0) as usize];
        *slot = (*slot).max(one.under_way);
    }
    let points: Vec<String> = most_of
        .iter()
        .enumerate()
        .map(|(slot, count)| {
            format!("{:.1},{:.1}", LEFT + WIDTH * slot as f64 / 4.0 / length, y(TOP[0], *count as f64, most[0]))
        })
        .collect();
    writeln!(svg, "<polyline fill=\"none\" stroke=\"#06c\" points=\"{}\"/>", points.join(" "))?;
    for one in waited {
        let colour = if one.well { "#06c" } else { "#c00" };
        writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"0.8\" fill=\"{colour}\"/>",
            x(one.at),
            y(TOP[1], millis(one.time), most[1])
        )?;
    }
    for second in (0..=length as u64).step_by((length as usize / 20).max(1)) {
        let at = x(began + Duration::from_secs(second));
        writeln!(svg, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>", TOP[1] + HEIGHT + 18.0)?;
    }
    svg.push_str("</svg>\n");
    Ok(std::fs::write(path, svg)?)
}
