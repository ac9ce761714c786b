//! The cost of stored objects: memory per object on a node's disk, and the time to open a store with a million objects,
//! after a clean close and after a kill.
//!
//! Each figure is from a separate process that contains only the store; resident bytes are as counted by the kernel,
//! less those of an empty store. For the first figure the allocator returns freed memory at once, so that memory used
//! during recovery does not count; for the second it runs as in the product, after objects were looked up for a while.
//! Files are in the page cache when they are read. `cargo run --release -p bench --bin store [DIRECTORY]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use bytes::Bytes;
use store::{Config, DiskConfig, Key, SEGMENT_BYTES_DEFAULT, Store};
use tokio::time::Instant;

// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Numbers of objects; tables with power-of-two sizes would be fuller at one count than at the other.
const COUNTS: [u64; 2] = [925_000, 1_000_000];

/// Size of a body and of its head, in bytes.
const BODY_BYTES: usize = 1_000;
const HEAD_BYTES: usize = 300;

/// The aims: memory per object in bytes, and recovery time for a million.
const AIM_BYTES: u64 = 64;
const AIM_SECONDS: f64 = 5.0;

/// Lookups before the second figure is taken.
const LOOKUPS: u64 = 200_000;

/// Concurrent fills.
const FILLS: usize = 256;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", directory, count, end] => runtime.block_on(fill(Path::new(directory), count.parse()?, end == "close")),
        ["open", directory] => runtime.block_on(open(Path::new(directory))),
        _ => compare(arguments.first().map(PathBuf::from)),
    }
}

fn compare(below: Option<PathBuf>) -> anyhow::Result<()> {
    let scratch = match below {
        Some(below) => tempfile::tempdir_in(below)?,
        None => tempfile::tempdir()?,
    };
    let empty = measure(&scratch.path().join("empty"), 0, "close")?;
    println!("{:<12} {:<8} {:>14} {:>16} {:>10}", "objects", "end", "bytes/object", "after lookups", "open");
    for count in COUNTS {
        for end in ["close", "kill"] {
            let directory = scratch.path().join(format!("{count}-{end}"));
            let measured = measure(&directory, count, end)?;
            ensure!(measured.objects == count, "{} of {count} objects were recovered", measured.objects);
            let each = measured.resident.saturating_sub(empty.resident) / count;
            let later = measured.later.saturating_sub(empty.later) / count;
            println!("{count:<12} {end:<8} {each:>12} B {later:>14} B {:>8.2} s", measured.seconds);
            println!(
                "{:<21} aim: at most {AIM_BYTES} B: {}; at most {AIM_SECONDS} s: {}",
                "",
                if each <= AIM_BYTES { "met" } else { "MISSED" },
                if measured.seconds <= AIM_SECONDS { "met" } else { "MISSED" },
            );
            std::fs::remove_dir_all(&directory)?;
        }
    }
    Ok(())
}

struct Measured {
    objects: u64,
    seconds: f64,
    /// Bytes right after opening the store.
    resident: u64,
    /// Bytes after lookups, with the allocator as in the product.
    later: u64,
}

fn measure(directory: &Path, count: u64, end: &str) -> anyhow::Result<Measured> {
    let program = std::env::current_exe()?;
    let filled = Command::new(&program).arg("fill").arg(directory).args([&count.to_string(), end]).status()?;
    ensure!(filled.success() || end == "kill", "filling failed: {filled}");
    let opened = |command: &mut Command| -> anyhow::Result<[f64; 4]> {
        let text = String::from_utf8(command.arg("open").arg(directory).output()?.stdout)?;
        let figures: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        figures.try_into().map_err(|_| anyhow::anyhow!("expected four figures: {text}"))
    };
    let [objects, seconds, resident, _] = opened(Command::new(&program).env("MIMALLOC_PURGE_DELAY", "0"))?;
    let [_, _, _, later] = opened(&mut Command::new(&program))?;
    Ok(Measured { objects: objects as u64, seconds, resident: resident as u64, later: later as u64 })
}

fn config(directory: &Path) -> Config {
    let disks = vec![DiskConfig { path: directory.to_owned(), capacity_bytes: 16 << 30 }];
    Config { memory_bytes: 1 << 20, disks, segment_bytes: SEGMENT_BYTES_DEFAULT }
}

fn key(number: u64) -> Key {
    let mix = |number: u64| {
        let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    Key(u128::from(mix(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))) << 64 | u128::from(number))
}

fn name(number: u64) -> String {
    format!("https://example.test/image/{number:012}.jpg")
}

async fn fill(directory: &Path, count: u64, close: bool) -> anyhow::Result<()> {
    let store = Store::open(config(directory)).await?;
    let (head, body) = (Bytes::from(vec![1; HEAD_BYTES]), Bytes::from(vec![2; BODY_BYTES]));
    let mut running = tokio::task::JoinSet::new();
    for number in 0..count {
        let (store, head, body) = (store.clone(), head.clone(), body.clone());
        running.spawn(async move {
            let name = name(number);
            let mut fill = store.begin_fill(key(number), name.as_bytes(), head, 1, Some(BODY_BYTES as u64))?;
            fill.append(body).await?;
            fill.finish().await.map(drop)
        });
        if running.len() >= FILLS {
            running.join_next().await.context("one runs")???;
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    if close {
        store.close().await?;
        return Ok(());
    }
    // Like a kill: nothing is sealed or closed.
    std::process::abort();
}

async fn open(directory: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let store = Store::open(config(directory)).await?;
    let took = began.elapsed().as_secs_f64();
    let (objects, opened) = (store.stats().objects, resident()?);
    for number in 0..LOOKUPS.min(objects) {
        let name = name(number);
        ensure!(store.lookup(key(number), name.as_bytes()).await?.is_some(), "{name} is not there");
    }
    println!("{objects} {took} {opened} {}", resident()?);
    Ok(())
}

/// Resident bytes of this process.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("memory of this process")?;
    let pages: u64 = text.split_whitespace().nth(1).context("resident pages")?.parse()?;
    Ok(pages * 4096)
}
