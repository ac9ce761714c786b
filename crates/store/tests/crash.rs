//! The promise about crashes, tried under many seeds: what was acknowledged is there, what was not is there whole or not at all,
//! and nothing that was replaced or removed comes back.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use common::{Random, body, config, get, key, open};
use store::disk::{FaultyDisk, WriteFault};
use store::{Config, Object, ReadError, Store, Which, WriteError};

const TASKS: usize = 4;
const KEYS_A_TASK: u64 = 3;

/// Body and head of an object, by the numbers they were made from.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Version {
    body: u64,
    stamp: u64,
}

/// What a lookup may find under each name. One entry: the last change was acknowledged.
type Allowed = RefCell<BTreeMap<String, Vec<Option<Version>>>>;

fn length_of(body: u64) -> usize {
    // Slices are 16 KiB: most bodies are one, some are several.
    Random(body).below(if body.is_multiple_of(4) { 60_000 } else { 9_000 }) as usize
}

/// Changes its own keys until it is dropped.
async fn work(store: &Store, task: usize, mut random: Random, allowed: &Allowed, faults: bool) {
    loop {
        let name = format!("/{task}/{}", random.below(KEYS_A_TASK));
        let full_key = name.as_bytes();
        // What begins may take effect from now on; what was acknowledged is all there is.
        let may = |version| allowed.borrow_mut().entry(name.clone()).or_insert_with(|| vec![None]).push(version);
        let is = |version| allowed.borrow_mut().insert(name.clone(), vec![version]);
        let version = Version { body: random.below(1 << 40), stamp: random.below(100) };
        match random.below(10) {
            choice @ 0..=6 => {
                let mut fill =
                    store.begin_fill(key(&name), full_key, version.head(), version.stamp, None).expect("begin");
                let bytes = body_of(version.body);
                let mut appended = Ok(());
                for chunk in bytes.chunks(7000) {
                    appended = appended.and(fill.append(Bytes::copy_from_slice(chunk)).await);
                }
                match choice {
                    0 => drop(fill),
                    1 => {
                        may(Some(version));
                        if fill.finish_visible().await.is_err() || faults {
                            may(None);
                        }
                    }
                    _ => {
                        may(Some(version));
                        match fill.finish().await {
                            Ok(_) => drop(is(Some(version))),
                            Err(_) => may(None),
                        }
                    }
                }
            }
            7 => {
                may(None);
                if let Ok(_removed) = store.remove(key(&name), full_key, Which::Any).await {
                    is(None);
                }
            }
            8 => {
                let Some(object) = store.lookup(key(&name), full_key).await.expect("lookup") else { continue };
                let found = read(&object).await;
                let version = Version { stamp: found.stamp + 1, ..found };
                may(Some(version));
                match store.update_head(&object, version.head(), version.stamp).await {
                    Ok(_) if !faults => {}
                    Err(WriteError::Read(error)) => panic!("{name}: {error}"),
                    // Visible but not durable yet: if the next sync fails it goes, and what it replaced with it.
                    _ => may(None),
                }
            }
            _ => {
                if let Some(object) = store.lookup(key(&name), full_key).await.expect("lookup") {
                    read(&object).await;
                }
            }
        }
    }
}

/// Reads an object and says which version it is; its head tells, and its body must be that one.
async fn read(object: &Object) -> Version {
    let head = std::str::from_utf8(object.head()).expect("a head of these tests");
    let (number, stamp) = head.split_once(' ').expect("a head of these tests");
    let version = Version { body: number.parse().expect("a number"), stamp: stamp.parse().expect("a number") };
    assert_eq!(object.stamp(), version.stamp);
    match common::collect(object.read(0..u64::MAX)).await {
        Ok(bytes) => assert!(bytes == body_of(version.body), "wrong bytes in {object:?}"),
        Err(ReadError::Evicted) => {} // since it was looked up
        Err(error) => panic!("{object:?}: {error}"),
    }
    version
}

impl Version {
    fn head(self) -> Bytes {
        format!("{} {}", self.body, self.stamp).into()
    }
}

/// Runs some rounds of work on one disk, each ended by a crash, or by a kill of the process.
async fn run(seed: u64, config: Config, evicts: bool, faults: bool) {
    let mut disk = FaultyDisk::new(seed);
    let mut random = Random(seed);
    let allowed = Allowed::default();
    for round in 0..6 {
        let store = open(&disk, config.clone()).await;
        let names: Vec<String> = allowed.borrow().keys().cloned().collect();
        for name in names {
            let found = get(&store, &name).await;
            let candidates = allowed.borrow()[&name].clone();
            let context = || format!("seed {seed}, round {round}, {name}: {candidates:?}");
            let now = match found {
                None => {
                    assert!(evicts || candidates.contains(&None), "lost: {}", context());
                    None
                }
                Some(object) => {
                    let version = read(&object).await;
                    assert!(candidates.contains(&Some(version)), "found {version:?}: {}", context());
                    let proof = store.verify(key(&name), name.as_bytes()).await.expect("resident");
                    assert_eq!(proof.checksum, crc32fast::hash(&body_of(version.body)), "{}", context());
                    Some(version)
                }
            };
            allowed.borrow_mut().insert(name, vec![now]);
        }
        if faults {
            let kinds = [WriteFault::Refused, WriteFault::NoSpace];
            let writes: Vec<WriteFault> = (0..random.below(3)).map(|_| kinds[random.below(2) as usize]).collect();
            disk.fail_writes(&writes);
            disk.fail_syncs(random.below(3) as u32);
        }
        // None after some restarts: what they found must be durable without any further sync.
        let turns = random.below(1500).saturating_sub(300);
        let tasks = (0..TASKS).map(|task| work(&store, task, Random(random.below(u64::MAX)), &allowed, faults));
        let tasks: Vec<_> = tasks.collect();
        tokio::select! {
            biased;
            () = yields(turns) => {}
            _ = futures_util::future::join_all(tasks) => {}
        }
        if store.stats().evicted_segments > 0 {
            // A disk that is said to be full makes room for a new segment by an old one, whatever its capacity.
            allowed.borrow_mut().values_mut().for_each(|candidates| candidates.push(None));
        }
        // A killed process leaves all it wrote to the next one; only a crash shows what of it is durable.
        disk = if random.below(3) == 0 { disk.kill() } else { disk.crash() };
    }
}

fn body_of(number: u64) -> Bytes {
    body(number, length_of(number))
}

async fn yields(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn acknowledged_objects_survive_crashes_whole() {
    for seed in 0..30 {
        run(seed, config(64 << 20), false, false).await;
    }
}

#[tokio::test]
async fn eviction_brings_nothing_back() {
    for seed in 1000..1030 {
        run(seed, config(256 << 10), true, false).await;
    }
}

#[tokio::test]
async fn failed_writes_and_syncs_lose_nothing_acknowledged() {
    for seed in 2000..2200 {
        run(seed, config(64 << 20), false, true).await;
    }
}

#[tokio::test]
async fn full_store_on_a_failing_disk_serves_no_wrong_bytes() {
    for seed in 3000..3030 {
        run(seed, config(256 << 10), true, true).await;
    }
}
