//! A directory of a million objects, out of ten million in one node's store: how long until an entry takes effect.
//!
//! The objects are on disk with a small memory tier, as in a node that stores far more than fits its memory. They are
//! written through the store itself, as filling them over HTTP would measure HTTP.

use std::time::Duration;

use anyhow::ensure;
use bench::Spread;
use bytes::Bytes;
use model::fence::Verdict;
use model::{Entry, Invalidation, Mode, Scope, UrlKey};
use store::{Config, DiskConfig, SEGMENT_BYTES_DEFAULT, Store};
use tokio::time::Instant;

use crate::inside::{self, HOST};

/// Directories, and objects in each, if there is time to store all.
const DIRECTORIES: usize = 10;
const OBJECTS: usize = 1_000_000;

/// How long storing them may take; the measurement uses what is stored by then, and states it.
const FILLING_MAX: Duration = Duration::from_secs(360);

/// Objects stored concurrently.
const FILLS: usize = 256;

/// Number of entries measured.
const ENTRIES: usize = 200;

/// Objects looked up after an entry, in its directory and beside it.
const SAMPLES: usize = 20;

pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = DiskConfig { path: folder.path().join("disk"), capacity_bytes: 64 << 30 };
    let config = Config { memory_bytes: 64 << 20, disks: vec![disk], segment_bytes: SEGMENT_BYTES_DEFAULT };
    let store = Store::open(config).await?;
    let inside = std::sync::Arc::new(inside::open(folder.path(), store.clone())?);

    let begun = Instant::now();
    let mut filling = tokio::task::JoinSet::new();
    for fill in 0..FILLS {
        let inside = inside.clone();
        filling.spawn(async move {
            // Round-robin over the directories, so that all grow alike.
            for number in (fill..DIRECTORIES * OBJECTS).step_by(FILLS) {
                if begun.elapsed() > FILLING_MAX {
                    break;
                }
                inside.store(&object(number % DIRECTORIES, number / DIRECTORIES), Bytes::from_static(b"x")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    let stored = store.stats();
    let share = stored.objects as f64 / DIRECTORIES as f64;
    println!(
        "{} objects in {DIRECTORIES} directories of about {share:.0}, stored in {:.0} s ({} MB on disk, memory tier of 64 MB){}",
        stored.objects,
        begun.elapsed().as_secs_f64(),
        stored.disk_bytes >> 20,
        if stored.objects as usize == DIRECTORIES * OBJECTS { "" } else { ": all there was time for" }
    );

    let (mut applying, mut whole) = (Vec::new(), Vec::new());
    for number in 0..ENTRIES {
        let directory = number % DIRECTORIES;
        let scope = Scope::Directory { host: HOST.to_owned(), path: format!("/d{directory}/") };
        let entry = Entry::Invalidate(vec![Invalidation { scope, mode: Mode::Expire }]);
        let began = Instant::now();
        let keeping = inside.clone();
        let kept = entry.clone();
        tokio::task::spawn_blocking(move || keeping.keep(&kept)).await??;
        let durable = Instant::now();
        inside.apply(&entry);
        applying.push(durable.elapsed());
        whole.push(began.elapsed());
        inside.beat();
        if number < DIRECTORIES {
            for sample in 0..SAMPLES {
                let at = sample * (share as usize / SAMPLES);
                let verdict = inside.lookup_and_judge(&object(directory, at)).await;
                ensure!(verdict == Some(Verdict::Covered), "{verdict:?} of an object in the directory");
                let beside = directory + 1;
                let verdict = inside.lookup_and_judge(&object(beside % DIRECTORIES, at)).await;
                let expected = if beside < DIRECTORIES { Verdict::Send } else { Verdict::Covered };
                ensure!(verdict == Some(expected), "{verdict:?} of an object beside the directory");
            }
        }
    }
    println!("entry applied              {}   aim < 1 ms", Spread::of(applying));
    println!("journal synced and applied {}", Spread::of(whole));
    println!(
        "  (after the first {DIRECTORIES} entries {SAMPLES} objects in and {SAMPLES} beside the directory were judged)"
    );
    store.close().await?;
    Ok(())
}

fn object(directory: usize, number: usize) -> UrlKey {
    UrlKey::new(HOST, &format!("/d{directory}/{}/{number}.bin", number / 1000)).expect("a path that is one")
}
