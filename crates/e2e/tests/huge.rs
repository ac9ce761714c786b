//! A file of 10 GB behind two tiers, with real processes: clients that seek get the right bytes for a few slices from
//! the origin, stored slices are not requested again, memory stays flat, and two versions are never mixed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::film::{Film, SLICE};
use e2e::nginx::Nginx;
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Length of the huge file; its last slice is shorter than the others.
const HUGE: u64 = 10_000_000_000;

/// How much a node's memory may grow while it streams: its memory tier (64 MiB), bytes on their way to the disk (32
/// MiB), and what the allocator retains.
const GROWTH_MAX: u64 = 200 << 20;

/// An L1 over an L2 over an nginx.
struct House {
    stage: Stage,
    origin: Nginx,
}

impl House {
    /// Nodes with a disk of `disk_bytes` each.
    async fn open(disk_bytes: u64) -> anyhow::Result<House> {
        let mut stage = Stage::without_nodes("open", &[]).await?;
        for name in ["cn-1-l2", "cn-1-l1"] {
            let node = stage.node(name);
            node.reconfigure(|text| {
                let (rest, _) = text.rsplit_once("capacity_bytes").expect("the disk comes last");
                format!("{rest}capacity_bytes = {disk_bytes}\n")
            })?;
            node.start()?;
            node.ready().await;
        }
        let origin = stage.origin().await?;
        Ok(House { stage, origin })
    }

    fn l1(&self) -> u16 {
        self.stage.nodes[0].port
    }

    fn l2(&self) -> u16 {
        self.stage.nodes[1].port
    }

    /// Bytes and number of answers that the origin sent for a file, once requests have ceased.
    async fn sent(&self, film: Film) -> anyhow::Result<(u64, usize)> {
        for node in &self.stage.nodes[..2] {
            node.settled().await;
        }
        // nginx is sequential: once this is answered, earlier answers are in its log.
        http::get(self.origin.port, "origin", "/", &[]).await?;
        let log = self.origin.log()?;
        let sent = log.iter().filter(|got| got.path == film.path);
        Ok(sent.fold((0, 0), |(bytes, answers), got| (bytes + got.bytes, answers + 1)))
    }
}

/// Pseudo-random numbers, the same in each run.
fn chance(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeking_in_a_huge_file_costs_the_origin_a_few_slices_and_is_paid_once() -> anyhow::Result<()> {
    let mut house = House::open(512 << 20).await?;
    let film = Film { path: "/film.mp4", length: HUGE, version: 1 };
    film.put(&house.origin)?;
    let middle = HUGE / 2 + 4321;
    let border = 777 * SLICE;
    let mut places = vec![0..500, middle..middle + 100_000, border + 500_000..border + 2 * SLICE + 500_000];
    let mut state = 88_172_645_463_325_252;
    places.extend((0..20).map(|_| chance(&mut state) % (HUGE - SLICE)).map(|at| at..at + 65_536));
    let l1 = house.l1();

    // The start of a suffix range is unknown until the first slice tells the length.
    film.read_as(l1, "bytes=-500", HUGE - 500..HUGE).await?;
    let (mut sent, mut answers) = house.sent(film).await?;
    ensure!((sent, answers) == (SLICE + HUGE % SLICE, 2), "{sent} bytes in {answers} answers");
    film.read(l1, places[0].clone()).await?;
    ensure!(house.sent(film).await? == (sent, answers), "the first slice is there");
    for place in &places[1..] {
        film.read(l1, place.clone()).await.with_context(|| format!("{place:?}"))?;
        let (now, answers_now) = house.sent(film).await?;
        let cost = film.slices_of(place);
        ensure!(now - sent <= cost, "{place:?}: {} bytes of the origin's, not {cost}", now - sent);
        ensure!(answers_now - answers <= 3, "{place:?}: {} answers", answers_now - answers);
        (sent, answers) = (now, answers_now);
    }

    // Slices read once are read again with the other tier gone.
    house.stage.node("cn-1-l2").kill9();
    house.origin.kill9();
    places.push(HUGE - 500..HUGE);
    for place in &places {
        let cache = film.read(l1, place.clone()).await.with_context(|| format!("{place:?}, alone"))?;
        ensure!(cache == "HIT from cn-1-l1", "{place:?}: {cache}");
    }
    let beyond = http::get(l1, DOMAIN, film.path, &[("range", &format!("bytes={HUGE}-"))]).await?;
    ensure!(
        beyond.status == 416 && beyond.header("content-range") == format!("bytes */{HUGE}"),
        "{:?}",
        beyond.headers
    );

    // And again after a restart.
    house.origin.start_again()?;
    let node = house.stage.node("cn-1-l1");
    node.process().context("it runs")?.terminate()?;
    node.start()?;
    house.stage.node("cn-1-l2").start()?;
    for node in &house.stage.nodes[..2] {
        node.ready().await;
    }
    for place in &places {
        film.read(l1, place.clone()).await.with_context(|| format!("{place:?}, after a restart"))?;
    }
    ensure!(house.sent(film).await?.0 == sent, "a restart costs no slice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slice_is_fetched_to_its_end_and_once_whoever_comes_and_goes() -> anyhow::Result<()> {
    let house = House::open(512 << 20).await?;
    let film = Film { path: "/slow/film.mp4", length: 64 * SLICE + 77, version: 1 };
    film.put(&house.origin)?;
    let (l1, l2) = (house.l1(), house.l2());

    // A client that disconnects after the first bytes, when most of the slice is still to come.
    let left = 5 * SLICE..6 * SLICE;
    let mut client = TcpStream::connect(("127.0.0.1", l1)).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {DOMAIN}\r\nRange: bytes={}-{}\r\n\r\n",
        film.path,
        left.start,
        left.end + 999
    );
    client.write_all(request.as_bytes()).await?;
    let mut got = Vec::new();
    while !got.windows(5).any(|five| five.starts_with(b"\r\n\r\n")) {
        ensure!(client.read_buf(&mut got).await? > 0, "{}", String::from_utf8_lossy(&got));
    }
    ensure!(got.len() as u64 - 1000 < SLICE, "it leaves in the middle");
    drop(client);
    let (sent, answers) = house.sent(film).await?;
    ensure!(sent >= SLICE && sent % SLICE == 0, "{sent} bytes in {answers} answers");
    let cache = film.read(l1, left).await?;
    ensure!(cache == "HIT from cn-1-l1" && house.sent(film).await? == (sent, answers), "{cache}");

    // Many concurrent requests, on both tiers.
    let wanted = 20 * SLICE + 100..20 * SLICE + 900_000;
    let many: Vec<_> =
        (0..20).map(|n| tokio::spawn(film.read(if n % 2 == 0 { l1 } else { l2 }, wanted.clone()))).collect();
    for one in many {
        one.await??;
    }
    let (after, answers_after) = house.sent(film).await?;
    ensure!((after - sent, answers_after - answers) == (SLICE, 1), "{} bytes", after - sent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_flat_while_more_than_the_disk_holds_streams_through() -> anyhow::Result<()> {
    const EACH: u64 = 1 << 30;
    let house = House::open(512 << 20).await?;
    let film = Film { path: "/film.mp4", length: HUGE, version: 1 };
    film.put(&house.origin)?;
    film.read(house.l1(), 0..500).await?;
    let resident =
        || house.stage.nodes[..2].iter().map(e2e::stage::Node::resident_bytes).collect::<anyhow::Result<Vec<_>>>();
    let before = resident()?;

    let watch = async |start: u64| {
        let range = format!("bytes={start}-{}", start + EACH - 1);
        let answer = film.watch(house.l1(), &[("range", &range)], start..start + EACH).await?;
        ensure!(answer.status == 206, "{:?}", answer.headers);
        anyhow::Ok(())
    };
    let mut highest = before.clone();
    let mut watching = std::pin::pin!(async { tokio::try_join!(watch(0), watch(HUGE / 2)) });
    loop {
        tokio::select! {
            watched = &mut watching => { watched?; break }
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                for (highest, now) in highest.iter_mut().zip(resident()?) {
                    *highest = now.max(*highest);
                }
            }
        }
    }
    for ((before, highest), node) in before.iter().zip(&highest).zip(&house.stage.nodes) {
        ensure!(highest - before < GROWTH_MAX, "{}: from {before} to {highest} bytes", node.name);
    }
    let (sent, _) = house.sent(film).await?;
    ensure!(sent <= 2 * EACH + 2 * SLICE, "{sent} bytes of the origin's for {}", 2 * EACH);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_of_a_file_never_mixes_versions() -> anyhow::Result<()> {
    const LENGTH: u64 = 200 * SLICE + 12_345;
    let house = House::open(512 << 20).await?;
    let l1 = house.l1();
    let film = |version| Film { path: "/film.mp4", length: LENGTH, version };
    film(1).put(&house.origin)?;
    let url = format!("http://{DOMAIN}{}", film(1).path);

    // An answer may have any version between the newest confirmed before the request and the newest stored after the
    // answer.
    let (proved, put) = (AtomicU64::new(1), AtomicU64::new(1));
    let over = AtomicBool::new(false);
    let read = async |seed: u64| {
        let (mut state, mut whole, mut cut) = (seed, 0_u32, 0_u32);
        while !over.load(Ordering::SeqCst) {
            let start = chance(&mut state) % (LENGTH - 4 * SLICE);
            let range = start..start + 3 * SLICE;
            let least = proved.load(Ordering::SeqCst);
            let asked = format!("bytes={}-{}", range.start, range.end - 1);
            let answer = http::get(l1, DOMAIN, film(1).path, &[("range", &asked)]).await;
            let most = put.load(Ordering::SeqCst);
            let Ok(answer) = answer else {
                cut += 1;
                continue;
            };
            if answer.status.is_server_error() {
                cut += 1;
                continue;
            }
            ensure!(answer.status == 206, "{}: {:?}", answer.status, answer.headers);
            let version = (least..=most).find(|version| answer.body == film(*version as u16).bytes(range.clone()));
            ensure!(version.is_some(), "{asked}: not one of the versions {least} to {most}");
            whole += 1;
        }
        anyhow::Ok((whole, cut))
    };
    let change = async {
        for version in 2..=6 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            put.store(version, Ordering::SeqCst);
            film(version as u16).put(&house.origin)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            house.stage.cli(&["refresh", &url, "--wait"]).await?;
            proved.store(version, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
        anyhow::Ok(())
    };
    let (a, b, c, ()) = tokio::try_join!(read(1), read(2), read(3), change)?;
    let (whole, cut) = (a.0 + b.0 + c.0, a.1 + b.1 + c.1);
    ensure!(whole > 20, "{whole} whole answers, {cut} that ended early");

    // Changed without a refresh: a response that meets the change is cut short, and later requests get the new version.
    let quiet = |version| Film { path: "/quiet.mp4", ..film(version) };
    quiet(1).put(&house.origin)?;
    quiet(1).read(l1, 0..SLICE).await?;
    house.sent(quiet(1)).await?;
    quiet(2).put(&house.origin)?;
    let cut = quiet(1).read(l1, 0..3 * SLICE).await;
    ensure!(cut.is_err(), "two versions in one body");
    eventually("the new version", || async { quiet(2).read(l1, 0..3 * SLICE).await.map(drop) }).await;
    Ok(())
}
