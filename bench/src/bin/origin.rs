//! How a large prefetch task affects users of the origin, and how well the origin is protected: a scripted origin
//! handles 32 concurrent requests for 50 ms each; it is shared by two regions, and so by two roots.
//!
//! Measures the users' p99 with and without the task; the rate of prefetches compared with the best fixed limit, tried
//! directly; requests within a window in which the origin said when to come back; how long after a stall of five
//! seconds the rate recovers, and how long it is zero when the control plane is killed and restarted. Printed beside
//! the aims, and plotted. `cargo run --release -p bench --bin origin [URLS] [PLOT.svg]`; with 100,000 URLs it takes
//! about ten minutes.

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use e2e::eventually;
use e2e::knee::{Asked, Knee, SERVICE, Users, WORKERS, Waited, inside};
use e2e::stage::{DOMAIN, Stage};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

/// Interval between users' requests: about a twelfth of the origin's capacity.
const USER_EVERY: Duration = Duration::from_millis(20);

/// How long users run alone, and how long each fixed limit is tried.
const ALONE: Duration = Duration::from_secs(30);
const TRIED: Duration = Duration::from_secs(4);
const FIXED: [usize; 8] = [8, 16, 24, 28, 32, 40, 48, 64];

/// How long the origin asks to be left alone, and how long it stalls.
const REFUSES: Duration = Duration::from_secs(8);
const STANDS_STILL: Duration = Duration::from_secs(5);

/// How soon both roots must have learned what one was told: later requests count as inside the window, earlier ones as
/// already on their way.
const WORD: Duration = Duration::from_millis(100);

/// The aims.
const P99_MORE_MAX: f64 = 10.0;
const OF_BEST_MIN: f64 = 0.85;
const RECOVERY_MAX: Duration = Duration::from_secs(30);
const STANDSTILL_MAX: Duration = Duration::from_secs(1);

/// A labelled time span in the plot.
type Span = (Instant, Instant, &'static str);

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

    let mut stage = Stage::set("open").await?;
    let origin = Knee::start().await?;
    let address = format!("127.0.0.1:{}", origin.port);
    stage.add_domain(&address).await?;
    let users = Users::begin(stage.edges()[0], USER_EVERY);
    let began = Instant::now();
    tokio::time::sleep(ALONE).await;
    let alone = users.p99(began + ALONE / 6, Instant::now());

    let first = push(&stage, "whole", urls).await?;
    let with = users.p99(first.0, first.1);
    let served = origin.prefetches(first.0, first.1);
    let rate = served as f64 / (first.1 - first.0).as_secs_f64();
    let more = change(with, alone);
    println!(
        "users alone: p99 {:.1} ms; with the task {:.1} ms: {more:+.1} % (aim: {P99_MORE_MAX} at most: {})",
        millis(alone),
        millis(with),
        verdict(more <= P99_MORE_MAX)
    );
    println!(
        "prefetches: {served} in {:.0} s, {rate:.0} /s: {:.2} of the best fixed limit (aim: {OF_BEST_MIN} at least: {})",
        (first.1 - first.0).as_secs_f64(),
        rate / best,
        verdict(rate / best >= OF_BEST_MIN)
    );

    // The same with faults: enough URLs for the following phases, at the rate measured before.
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
    tell_refusals(&asked, window);
    let over = stall + STANDS_STILL;
    for (name, from, over) in [("Retry-After", window.0, window.1), ("a stall", stall, over)] {
        let after = recovery(&origin, from, over, second.1);
        let is_fast = after.is_some_and(|after| after <= RECOVERY_MAX);
        let after =
            after.map_or("not while the task lasted".to_owned(), |after| format!("within {} s", after.as_secs()));
        let aim = RECOVERY_MAX.as_secs();
        println!("as fast as before after {name}: {after} (aim: {aim} s at most: {})", verdict(is_fast));
    }
    let away = restart(&mut stage, &origin, (rate * 30.0 / 2.0) as usize).await?;

    let spans = [(window.0, window.1, "Retry-After"), (stall, over, "stall"), (away.0, away.1, "no control plane")];
    let phases =
        [(began, first.0, "users alone"), (first.0, first.1, "task"), (second.0, second.1, "task with troubles")];
    let drawing = Drawing { began, best, asked: origin.asked(), waited: users.waited(began, Instant::now()) };
    std::fs::write(Path::new(&plot), drawing.svg(&spans, &phases))?;
    println!("plot: {plot}");
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn change(with: Duration, alone: Duration) -> f64 {
    (with.as_secs_f64() / alone.as_secs_f64().max(1e-9) - 1.0) * 100.0
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Submits a task with `urls` URLs to both roots; returns when it began and when it was complete.
async fn push(stage: &Stage, name: &str, urls: usize) -> anyhow::Result<(Instant, Instant)> {
    let list = list(stage, name, urls)?;
    let begun = Instant::now();
    let done = stage.cli(&["push", &list, "--wait"]).await?;
    let complete = done["urls"].as_array().into_iter().flatten().filter(|url| url["state"] == "Complete").count();
    ensure!(complete == urls, "{complete} of {urls} are Complete");
    Ok((begun, Instant::now()))
}

/// Writes a file with `urls` URLs for the command line.
fn list(stage: &Stage, name: &str, urls: usize) -> anyhow::Result<String> {
    let list = stage.folder("lists")?.join(name);
    let lines: Vec<String> = (0..urls).map(|number| format!("http://{DOMAIN}/{name}/{number}.bin")).collect();
    std::fs::write(&list, lines.join("\n"))?;
    Ok(format!("@{}", list.display()))
}

/// Prints which prefetches arrived although the origin had said when to come back.
fn tell_refusals(asked: &[Asked], window: (Instant, Instant)) {
    let refused: Vec<&Asked> = asked.iter().filter(|asked| asked.refused && !asked.by_user).collect();
    let inside = inside(asked, window, WORD).len();
    println!(
        "asked inside the window of Retry-After: {inside}, and {} that were on their way (aim: 0 inside: {})",
        refused.len() - inside,
        verdict(inside == 0)
    );
    let Some(first) = asked.iter().filter(|asked| asked.refused).map(|asked| asked.at).min() else { return };
    let mut last: std::collections::BTreeMap<&str, Duration> = std::collections::BTreeMap::new();
    for one in refused {
        last.insert(&one.via, one.at - first);
    }
    for (via, last) in last {
        println!("  the last of them by {via} came {:.1} ms after the origin's first word", millis(last));
    }
}

/// How long it takes, after a fault from `from` to `over`, until prefetches reach nine tenths of their former rate.
fn recovery(origin: &Knee, from: Instant, over: Instant, end: Instant) -> Option<Duration> {
    const SECOND: Duration = Duration::from_secs(1);
    let before = origin.prefetches(from - 5 * SECOND, from) as f64 / 5.0;
    let is_fast = |at: &Duration| origin.prefetches(over + *at - SECOND, over + *at) as f64 >= before * 0.9;
    (1..60).map(Duration::from_secs).take_while(|at| over + *at < end).find(is_fast)
}

/// Kills the control plane during a task and restarts it; returns when it was away.
async fn restart(stage: &mut Stage, origin: &Knee, urls: usize) -> anyhow::Result<(Instant, Instant)> {
    let (begun, list) = (Instant::now(), list(stage, "restart", urls)?);
    stage.cli(&["push", &list]).await?;
    eventually("a tenth of it is served", || async {
        let served = origin.prefetches(begun, Instant::now());
        ensure!(served >= urls / 10, "{served}");
        Ok(())
    })
    .await;
    let killed = Instant::now();
    stage.kill_control();
    stage.start_control().await?;
    let ready = Instant::now();
    eventually("the rest is served", || async {
        let served = origin.prefetches(begun, Instant::now());
        ensure!(served >= urls, "{served}");
        Ok(())
    })
    .await;
    let asked = origin.asked();
    let mut times: Vec<Instant> =
        asked.iter().filter(|asked| !asked.by_user && asked.at >= killed).map(|asked| asked.at).collect();
    times.insert(0, killed);
    let (from, to) =
        times.windows(2).map(|pair| (pair[0], pair[1])).max_by_key(|(from, to)| *to - *from).unwrap_or((killed, ready));
    let beyond = to.saturating_duration_since(ready);
    println!(
        "control plane killed and started, ready after {:.2} s: prefetches stood still for {:.2} s, until {:.2} s after it was ready (aim: {} s at most: {})",
        (ready - killed).as_secs_f64(),
        (to - from).as_secs_f64(),
        beyond.as_secs_f64(),
        STANDSTILL_MAX.as_secs(),
        verdict(beyond <= STANDSTILL_MAX)
    );
    Ok((killed, ready))
}

/// The prefetch rate with a fixed number of concurrent requests while users send theirs, and the users' latency.
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

/// The data of the plot.
struct Drawing {
    began: Instant,
    /// Prefetches per second with the best fixed limit.
    best: f64,
    asked: Vec<Asked>,
    waited: Vec<Waited>,
}

const LEFT: f64 = 70.0;
const WIDTH: f64 = 1280.0;
const HEIGHT: f64 = 190.0;
const TOPS: [f64; 3] = [60.0, 300.0, 540.0];
const BOTTOM: f64 = 780.0;

/// A panel: its title, the label of its line, and the values at its top and at the line.
struct Panel {
    top: f64,
    title: &'static str,
    line: String,
    most: f64,
    at_line: f64,
}

impl Panel {
    fn y(&self, value: f64) -> f64 {
        self.top + HEIGHT * (1.0 - (value / self.most).min(1.0))
    }
}

impl Drawing {
    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    fn length(&self) -> f64 {
        let asked = self.asked.iter().map(|asked| asked.at);
        let last = asked.chain(self.waited.iter().map(|waited| waited.at)).max();
        last.map_or(1.0, |last| self.seconds(last).max(1.0))
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + WIDTH * seconds / self.length()
    }

    /// Prefetches per second, requests in progress at the origin, and users' latency, over time.
    fn svg(&self, spans: &[Span], phases: &[Span]) -> String {
        let [rate, under_way, waits] = [
            Panel {
                top: TOPS[0],
                title: "prefetches served, each second",
                line: format!("best fixed limit: {:.0} /s", self.best),
                most: self.best * 1.25,
                at_line: self.best,
            },
            Panel {
                top: TOPS[1],
                title: "requests under way at the origin, users' among them: the most in each half second",
                line: format!("knee: {WORKERS}"),
                most: WORKERS as f64 * 2.0,
                at_line: WORKERS as f64,
            },
            Panel {
                top: TOPS[2],
                title: "how long users waited, in ms: each of them, and the 99th percentile of every five seconds",
                line: format!("what the origin takes: {} ms", SERVICE.as_millis()),
                most: millis(SERVICE) * 3.0,
                at_line: millis(SERVICE),
            },
        ];
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {BOTTOM}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            LEFT + WIDTH + 30.0
        );
        for (from, to, name) in phases {
            let (from, to) = (self.x(self.seconds(*from)), self.x(self.seconds(*to)));
            svg += &text((from + to) / 2.0, 20.0, "middle", "#333", name);
            svg += &line((from, 28.0), (to, 28.0), "#999");
        }
        for panel in [&rate, &under_way, &waits] {
            for (from, to, name) in spans {
                let (from, to) = (self.x(self.seconds(*from)), self.x(self.seconds(*to)));
                let (top, width) = (panel.top, (to - from).max(2.0));
                svg += &format!(
                    "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"#e4e4e4\"/>\n"
                );
                if panel.top == TOPS[1] {
                    svg += &text((from + to) / 2.0, top + 14.0, "middle", "#333", name);
                }
            }
        }
        svg += &polyline(self.rates().map(|(at, value)| (self.x(at), rate.y(value))), "#06c");
        svg += &polyline(self.most_under_way().map(|(at, value)| (self.x(at), under_way.y(value))), "#06c");
        for one in &self.waited {
            let colour = if one.well { "#69c" } else { "#c00" };
            let (x, y) = (self.x(self.seconds(one.at)), waits.y(millis(one.time)));
            svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"0.8\" fill=\"{colour}\"/>\n");
        }
        svg += &polyline(self.p99s().map(|(at, value)| (self.x(at), waits.y(value))), "#024");
        for panel in [&rate, &under_way, &waits] {
            svg += &self.frame(panel);
        }
        svg + "</svg>\n"
    }

    /// Title, scales and line of a panel.
    fn frame(&self, panel: &Panel) -> String {
        let (top, end) = (panel.top, LEFT + WIDTH);
        let mut svg = text(LEFT, top - 8.0, "start", "#000", panel.title);
        svg += &format!(
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>\n"
        );
        svg += &line((LEFT, panel.y(panel.at_line)), (end, panel.y(panel.at_line)), "#c00");
        svg += &text(end, top - 8.0, "end", "#c00", &panel.line);
        for part in 0..=4 {
            let value = panel.most * f64::from(part) / 4.0;
            svg += &text(LEFT - 6.0, panel.y(value) + 4.0, "end", "#333", &format!("{value:.0}"));
        }
        let step = [5, 10, 20, 30, 60].into_iter().find(|step| self.length() / f64::from(*step) <= 20.0).unwrap_or(120);
        for second in (0..=self.length() as u64).step_by(step as usize) {
            svg += &text(self.x(second as f64), top + HEIGHT + 16.0, "middle", "#333", &format!("{second} s"));
        }
        svg
    }

    fn rates(&self) -> impl Iterator<Item = (f64, f64)> {
        let mut served = vec![0.0; self.length() as usize + 1];
        for one in self.asked.iter().filter(|asked| !asked.by_user && !asked.refused) {
            served[self.seconds(one.at) as usize] += 1.0;
        }
        served.into_iter().enumerate().map(|(second, served)| (second as f64 + 0.5, served))
    }

    fn most_under_way(&self) -> impl Iterator<Item = (f64, f64)> {
        let mut most = vec![0.0_f64; (self.length() * 2.0) as usize + 1];
        for one in &self.asked {
            let slot = &mut most[(self.seconds(one.at) * 2.0) as usize];
            *slot = slot.max(one.under_way as f64);
        }
        most.into_iter().enumerate().map(|(slot, most)| (slot as f64 / 2.0 + 0.25, most))
    }

    fn p99s(&self) -> impl Iterator<Item = (f64, f64)> {
        let mut waits: Vec<Vec<f64>> = vec![Vec::new(); (self.length() / 5.0) as usize + 1];
        for one in &self.waited {
            waits[(self.seconds(one.at) / 5.0) as usize].push(millis(one.time));
        }
        waits.into_iter().enumerate().filter_map(|(slot, mut waits)| {
            waits.sort_by(f64::total_cmp);
            Some((slot as f64 * 5.0 + 2.5, *waits.get(waits.len() * 99 / 100)?))
        })
    }
}

fn text(x: f64, y: f64, anchor: &str, colour: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>\n")
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str) -> String {
    let ((x1, y1), (x2, y2)) = (from, to);
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>\n")
}

fn polyline(points: impl Iterator<Item = (f64, f64)>, colour: &str) -> String {
    let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    format!("<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>\n", points.join(" "))
}
