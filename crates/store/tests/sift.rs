//! What nobody asks for again leaves the disk early, what somebody asked for stays, and sifting one from the other loses, tears and
//! brings back nothing.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::{Random, body, collect, config, get, key, open, put, whole};
use store::disk::FaultyDisk;
use store::{Key, Store, Sweep, Which};

/// Less than a slice of 16 KiB, several of them, several segments of 64 KiB.
const SIZES: [usize; 3] = [700, 40_000, 200_000];

/// 64 segments.
const CAPACITY: u64 = 4 << 20;

async fn flood(store: &Store, bytes: u64, seed: u64) {
    for number in 0..bytes / 20_000 {
        put(store, &format!("/flood/{seed}/{number}"), &body(number, 20_000), 1).await;
    }
}

/// Leaves a quarter of the store to what is young.
async fn fill_with_asked(store: &Store) {
    for number in 0..CAPACITY * 3 / 4 / 20_000 {
        let name = format!("/asked/{number}");
        put(store, &name, &body(number, 20_000), 1).await;
        assert!(get(store, &name).await.is_some());
    }
    flood(store, 2 * CAPACITY, 1).await;
}

#[tokio::test]
async fn what_was_asked_for_outlives_a_flood_that_nobody_asks_for() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk, config(CAPACITY)).await;
    let bodies: Vec<Bytes> = (0..).zip(SIZES).map(|(seed, size)| body(seed, size)).collect();
    for (at, body) in bodies.iter().enumerate() {
        for what in ["asked", "proved", "pinned", "ignored"] {
            put(&store, &format!("/{what}/{at}"), body, 7).await;
        }
        flood(&store, 100_000, 1_000 + at as u64).await;
        assert!(get(&store, &format!("/asked/{at}")).await.is_some());
        let name = format!("/proved/{at}");
        store.verify(key(&name), name.as_bytes()).await.expect("resident");
        let name = format!("/pinned/{at}");
        store.pin(key(&name), name.as_bytes(), None).await.expect("there is room");
    }
    flood(&store, 10 * CAPACITY, 1).await;
    for (at, body) in bodies.iter().enumerate() {
        for what in ["asked", "proved", "pinned"] {
            let name = format!("/{what}/{at}");
            let object = get(&store, &name).await.unwrap_or_else(|| panic!("{name} is gone"));
            assert!(whole(&object).await == *body, "{name}");
            store.verify(key(&name), name.as_bytes()).await.expect("resident");
        }
        assert!(get(&store, &format!("/ignored/{at}")).await.is_none());
    }
    let stats = store.stats();
    assert_eq!(stats.pins_lost, 0);
    assert!(stats.sifted_segments > 0 && stats.disk_bytes <= stats.disk_capacity_bytes, "{stats:?}");

    // It is where the log says, after a crash too.
    let store = open(&disk.crash(), config(CAPACITY)).await;
    for (at, body) in bodies.iter().enumerate() {
        assert!(whole(&get(&store, &format!("/asked/{at}")).await.expect("kept")).await == *body);
        assert!(get(&store, &format!("/ignored/{at}")).await.is_none());
    }
}

#[tokio::test]
async fn what_comes_back_soon_after_it_was_sifted_out_stays() {
    let store = open(&FaultyDisk::new(2), config(CAPACITY)).await;
    fill_with_asked(&store).await;
    for round in 0..2 {
        put(&store, "/a", &body(5, 9_000), 1).await;
        flood(&store, CAPACITY / 2, 2 + round).await;
        let name = key("/a");
        let found = store.lookup_in_memory(name, b"/a").is_some() || store.verify(name, b"/a").await.is_ok();
        assert_eq!(found, round == 1, "round {round}");
    }
}

#[tokio::test]
async fn nobody_who_reads_or_fills_is_held_up_or_cut_short() {
    let store = open(&FaultyDisk::new(3), config(CAPACITY)).await;
    fill_with_asked(&store).await;
    let expected = body(9, 300_000);

    // One follows slowly what nobody else asks for.
    let mut fill = store.begin_fill(key("/followed"), b"/followed", Bytes::new(), 1, None).expect("begin");
    let mut slow = fill.follow().read(0, None);
    fill.append(expected.slice(..200_000)).await.expect("append");
    let first = slow.next().await.expect("a chunk").expect("read");
    // Another fill goes on while all that is young is sifted several times.
    flood(&store, CAPACITY / 2, 2).await;
    fill.append(expected.slice(200_000..)).await.expect("append");
    let stored = fill.finish().await.expect("its slices are where they were");
    assert!(whole(&stored).await == expected);

    let unasked = store.begin_fill(key("/unasked"), b"/unasked", Bytes::new(), 1, None);
    let mut unasked = unasked.expect("begin");
    let mut reader = unasked.follow().read(0, None);
    unasked.append(expected.clone()).await.expect("append");
    unasked.finish().await.expect("finish");
    flood(&store, CAPACITY / 2, 3).await;
    assert!(get(&store, "/unasked").await.is_none(), "it was sifted out");

    let mut rest = first.to_vec();
    while let Some(chunk) = slow.next().await {
        rest.extend_from_slice(&chunk.expect("read"));
    }
    assert!(rest == expected, "of the slow follower");
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await {
        all.extend_from_slice(&chunk.expect("read"));
    }
    assert!(all == expected, "of one whose object has gone");
}

/// Against a map: what is found is the newest, whatever was stored, replaced, removed, swept and given new heads, and crashes that come
/// after a sync change nothing but that what was found is settled.
#[tokio::test]
async fn found_is_the_newest_or_nothing() {
    let mut sifted = 0;
    for seed in 0..12 {
        let mut random = Random(seed);
        let mut disk = FaultyDisk::new(seed);
        let mut store = open(&disk, config(2 << 20)).await;
        // By name: number of the body, and stamp.
        let mut known: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for step in 0..3_000_u64 {
            let name = format!("/{}", random.below(60));
            let full_key = name.as_bytes();
            let length = |number: u64| [300, 5_000, 17_000, 90_000][number as usize % 4];
            let check = |object: &store::Object| {
                let (number, stamp) = known.get(&name).unwrap_or_else(|| panic!("{seed} {step}: {name} is back"));
                assert_eq!(
                    (object.length(), object.stamp()),
                    (length(*number) as u64, *stamp),
                    "{seed} {step}: {name}"
                );
                *number
            };
            match random.below(20) {
                0..=5 => {
                    put(&store, &name, &body(step, length(step)), step).await;
                    known.insert(name, (step, step));
                }
                6..=10 => {
                    if let Some(object) = get(&store, &name).await {
                        let number = check(&object);
                        assert!(whole(&object).await == body(number, length(number)), "{seed} {step}: {name}");
                    }
                }
                11 => {
                    store.remove(key(&name), full_key, Which::Any).await.expect("remove");
                    known.remove(&name);
                }
                12..=13 => {
                    let object = get(&store, &name).await;
                    if let Some(object) = object {
                        check(&object);
                        let head = object.head().clone();
                        if store.update_head(&object, head, step).await.expect("update").is_some() {
                            known.get_mut(&name).expect("known").1 = step;
                        }
                    }
                }
                14 if step % 10 == 0 => {
                    let judge = |object: &store::SweptObject<'_>| match object.full_key {
                        b"/7" | b"/8" => Sweep::Drop,
                        _ => Sweep::Keep,
                    };
                    store.sweep(judge, |_| {}).await.expect("sweep");
                    known.remove("/7");
                    known.remove("/8");
                }
                15 if step % 300 < 20 => {
                    put(&store, "/sync", &body(1, 10), 0).await; // with all that was written before
                    sifted += store.stats().sifted_segments;
                    disk = disk.crash();
                    store = open(&disk, config(2 << 20)).await;
                }
                _ => flood(&store, 40_000, step).await,
            }
        }
        for (name, (number, stamp)) in &known {
            let Some(object) = get(&store, name).await else { continue };
            assert_eq!(object.stamp(), *stamp, "{seed}: {name}");
            let bytes = collect(object.read(0..u64::MAX)).await.expect("read");
            assert!(bytes == body(*number, bytes.len()), "{seed}: {name}");
        }
        sifted += store.stats().sifted_segments;
    }
    assert!(sifted > 1_000, "{sifted}");
}

#[tokio::test]
async fn sweep_leaves_a_running_fill_what_it_has_written() {
    let store = open(&FaultyDisk::new(4), config(CAPACITY)).await;
    let expected = body(9, 300_000);
    let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 1, None).expect("begin");
    fill.append(expected.slice(..100_000)).await.expect("append");
    flood(&store, 200_000, 1).await;
    let swept = store.sweep(|_| Sweep::Drop, |_| {}).await.expect("sweep");
    assert_eq!(swept.dropped, 10);
    fill.append(expected.slice(100_000..)).await.expect("append");
    let stored = fill.finish().await.expect("its slices are where they were");
    assert!(whole(&stored).await == expected);
}

#[tokio::test]
async fn sweep_leaves_a_fill_that_ends_meanwhile_what_it_has_written() {
    let store = open(&FaultyDisk::new(5), config(CAPACITY)).await;
    // The index walks names in the order of some of their bits: nothing comes before this one.
    let (first, name) = (Key(1 << 64), b"/first");
    let expected = body(9, 300_000);
    let mut fill = store.begin_fill(first, name, Bytes::new(), 1, None).expect("begin");
    fill.append(expected.slice(..100_000)).await.expect("append");
    flood(&store, 3_000_000, 1).await;

    let (begun, begins) = tokio::sync::oneshot::channel();
    let (mut begun, ended, mut judged_later) = (Some(begun), AtomicBool::new(false), 0);
    let judge = |_: &store::SweptObject<'_>| {
        begun.take().into_iter().for_each(|begun| begun.send(()).expect("somebody waits"));
        judged_later += u32::from(ended.load(Ordering::SeqCst));
        Sweep::Drop
    };
    let finish = async {
        begins.await.expect("the sweep begins");
        fill.append(expected.slice(100_000..)).await.expect("append");
        fill.finish().await.expect("its slices are where they were");
        ended.store(true, Ordering::SeqCst);
    };
    let (swept, ()) = tokio::join!(store.sweep(judge, |_| {}), finish);
    assert_eq!(swept.expect("sweep").dropped, 150);
    assert!(judged_later > 0, "the fill was to end during the sweep");
    let stored = store.lookup(first, name).await.expect("lookup").expect("the sweep did not judge it");
    assert!(whole(&stored).await == expected);
}
