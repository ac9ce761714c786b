//! Eviction quality: request and byte hit ratios of the store's tiers on synthetic CDN-like traces, compared with LRU,
//! FIFO, S3-FIFO and SIEVE.
//!
//! The memory tier and the disk tier are the store itself, without a disk and on one in memory; the others use the same
//! sizes. Seeded: two runs print the same. `cargo run --release -p bench --bin eviction [SEED]`

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

mod policies;
mod ramdisk;
mod traces;

use std::sync::Arc;

use bytes::Bytes;
use policies::{Cache, Fifo, Lru, S3Fifo, Sieve};
use ramdisk::RamDisk;
use store::{Config, DiskConfig, Key, Store};
use traces::{Request, Trace};

/// Cache sizes, in thousandths of the total size of the objects in a trace.
const SIZES: [u64; 3] = [10, 50, 200];

/// One part in this many of a trace fills the cache first and is not counted.
const WARM_PART: usize = 5;

/// The bytes of all bodies; each is a prefix of these.
static ZEROS: [u8; traces::BYTES_MAX] = [0; traces::BYTES_MAX];

/// Hits and totals, in requests and bytes.
#[derive(Default)]
struct Tally {
    requests: u64,
    hits: u64,
    bytes: u64,
    hit_bytes: u64,
}

impl Tally {
    fn count(&mut self, request: &Request, hit: bool) {
        self.requests += 1;
        self.bytes += request.bytes;
        if hit {
            self.hits += 1;
            self.hit_bytes += request.bytes;
        }
    }

    fn ratios(&self) -> String {
        let part = |of: u64, all: u64| 100.0 * of as f64 / all.max(1) as f64;
        format!("{:5.1} {:5.1}", part(self.hits, self.requests), part(self.hit_bytes, self.bytes))
    }
}

fn main() -> anyhow::Result<()> {
    let seed = std::env::args().nth(1).map_or(Ok(1), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("hit ratio in percent: requests, bytes (seed {seed})\n");
    println!(
        "{:<22} {:>9} | {:^11} | {:^11} | {:^11} | {:^11} | {:^11} | {:^11}",
        "trace", "cache MiB", "our memory", "our disk", "LRU", "FIFO", "S3-FIFO", "SIEVE"
    );
    for trace in traces::all(seed) {
        let warm = trace.requests.len() / WARM_PART;
        for size in SIZES {
            let capacity = trace.bytes * size / 1000;
            let simulated = |cache: &mut dyn Cache| {
                let mut tally = Tally::default();
                for (at, request) in trace.requests.iter().enumerate() {
                    let hit = cache.ask(request.object, request.bytes);
                    if at >= warm {
                        tally.count(request, hit);
                    }
                }
                tally.ratios()
            };
            println!(
                "{:<22} {:>9} | {} | {} | {} | {} | {} | {}",
                trace.name,
                capacity >> 20,
                runtime.block_on(ours(&trace, warm, memory_tier(capacity)))?,
                runtime.block_on(ours(&trace, warm, disk_tier(capacity)))?,
                simulated(&mut Lru::new(capacity)),
                simulated(&mut Fifo::new(capacity)),
                simulated(&mut S3Fifo::new(capacity)),
                simulated(&mut Sieve::new(capacity)),
            );
        }
    }
    Ok(())
}

fn memory_tier(capacity: u64) -> Config {
    Config::memory_only(capacity)
}

/// Little memory beside the disk, so that the disk tier decides; segments in the same proportion as on a disk of some
/// gigabytes.
fn disk_tier(capacity: u64) -> Config {
    let disks = vec![DiskConfig { path: "disk".into(), capacity_bytes: capacity }];
    Config { memory_bytes: capacity / 50, disks, segment_bytes: capacity / 64 }
}

/// Sends the same requests to the store itself.
async fn ours(trace: &Trace, warm: usize, config: Config) -> anyhow::Result<String> {
    let disks = config.disks.iter().map(|_| Arc::new(RamDisk::default()) as _).collect();
    let store = Store::open_on(config, disks).await?;
    let mut tally = Tally::default();
    for (at, request) in trace.requests.iter().enumerate() {
        let full_key = request.object.to_le_bytes();
        let key = Key(u128::from(policies::mix(request.object)) << 64 | u128::from(request.object));
        let hit = store.lookup(key, &full_key).await?.is_some();
        if at >= warm {
            tally.count(request, hit);
        }
        if !hit {
            let body = Bytes::from_static(&ZEROS[..request.bytes as usize]);
            if let Ok(mut fill) = store.begin_fill(key, &full_key, Bytes::new(), 0, Some(request.bytes)) {
                fill.append(body).await?;
                fill.finish_visible().await?;
            }
        }
    }
    store.close().await?;
    Ok(tally.ratios())
}
