//! Pinned objects stay, whatever else is pushed through, and nothing else suffers for it.

mod common;

use bytes::Bytes;
use common::{Random, body, config, get, key, open, put, small_config, whole};
use store::disk::FaultyDisk;
use store::{PinError, Sweep, Which};

/// Bodies of several sizes: less than a slice, several slices, several segments of 64 KiB.
const SIZES: [usize; 3] = [700, 40_000, 200_000];

/// A store of 64 segments of 64 KiB.
fn roomy() -> store::Config {
    config(4 << 20)
}

async fn push_through(store: &store::Store, bytes: u64, seed: u64) {
    let mut number = seed;
    let mut left = bytes as i64;
    while left > 0 {
        let body = body(number, 20_000);
        put(store, &format!("/flood/{number}"), &body, 1).await;
        left -= body.len() as i64;
        number += 1;
    }
}

#[tokio::test]
async fn pinned_objects_are_there_after_five_times_the_store_was_pushed_through() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk, roomy()).await;
    let mut expected = Vec::new();
    for (at, size) in SIZES.into_iter().cycle().take(9).enumerate() {
        let (name, body) = (format!("/pinned/{at}"), body(at as u64, size));
        put(&store, &name, &body, 7).await;
        assert_eq!(store.pin(key(&name), name.as_bytes(), None).await, Ok(size as u64));
        put(&store, &format!("/beside/{at}"), &body, 7).await;
        expected.push((name, body));
    }
    for round in 0..5 {
        push_through(&store, 4 << 20, 1_000 * (round + 1)).await;
        for (name, body) in &expected {
            let object = get(&store, name).await.unwrap_or_else(|| panic!("{name} in round {round}"));
            assert!(whole(&object).await == *body, "{name} in round {round}");
            assert_eq!((object.stamp(), store.is_pinned(key(name))), (7, true));
            let verified = store.verify(key(name), name.as_bytes()).await.expect("it is on the disk");
            assert_eq!(verified.length, body.len() as u64);
        }
    }
    let stats = store.stats();
    assert!(get(&store, "/beside/0").await.is_none(), "what is not pinned goes");
    assert_eq!((stats.pinned_objects, stats.pins_lost), (9, 0));
    assert!(stats.disk_bytes <= stats.disk_capacity_bytes && stats.pinned_bytes <= stats.pinned_bytes_max, "{stats:?}");

    // After a crash whoever pinned says so again, before anything is stored.
    let store = open(&disk.crash(), roomy()).await;
    for (name, body) in &expected {
        assert_eq!(store.pin(key(name), name.as_bytes(), None).await, Ok(body.len() as u64), "{name}");
    }
    push_through(&store, 10 << 20, 90_000).await;
    for (name, body) in &expected {
        assert!(whole(&get(&store, name).await.expect("pinned")).await == *body, "{name}");
    }
    for (name, _) in &expected {
        assert!(store.unpin(key(name)) && !store.is_pinned(key(name)));
    }
    for number in 0..600 {
        let name = format!("/asked/{number}");
        put(&store, &name, &body(number, 20_000), 1).await;
        assert!(get(&store, &name).await.is_some());
    }
    assert!(get(&store, &expected[2].0).await.is_none(), "unpinned it makes room for what is asked for");
}

#[tokio::test]
async fn pins_are_bounded_and_the_store_goes_on_storing() {
    let disk = FaultyDisk::new(2);
    let store = open(&disk, small_config()).await;
    let most = store.stats().pinned_bytes_max;
    assert_eq!(most, (512 << 10) / 4);
    let mut pinned = Vec::new();
    let refused = loop {
        let name = format!("/{}", pinned.len());
        put(&store, &name, &body(pinned.len() as u64, 9_000), 1).await;
        match store.pin(key(&name), name.as_bytes(), None).await {
            Ok(_) => pinned.push(name),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, PinError::NoRoom { most });
    push_through(&store, 5 << 20, 1_000).await;
    for (at, name) in pinned.iter().enumerate() {
        assert!(whole(&get(&store, name).await.expect("pinned")).await == body(at as u64, 9_000), "{name}");
    }
    let last = body(9_999, 20_000);
    put(&store, "/last", &last, 1).await;
    assert!(whole(&get(&store, "/last").await.expect("new")).await == last);
    assert_eq!(store.stats().pins_lost, 0);
}

#[tokio::test]
async fn what_takes_the_place_of_a_pinned_object_is_pinned_and_what_removes_it_takes_the_pin() {
    let store = open(&FaultyDisk::new(3), small_config()).await;
    put(&store, "/a", &body(1, 5_000), 1).await;
    assert_eq!(store.pin(key("/a"), b"/a", None).await, Ok(5_000));
    let object = get(&store, "/a").await.expect("stored");
    assert_eq!(store.pin(key("/a"), b"/a", Some(object.generation())).await, Ok(5_000));
    store.update_head(&object, Bytes::from_static(b"another head"), 2).await.expect("update").expect("the same body");
    put(&store, "/a", &body(2, 6_000), 3).await;
    assert_eq!(store.pin(key("/a"), b"/a", Some(object.generation())).await, Err(PinError::Absent), "another body");
    push_through(&store, 2 << 20, 1_000).await;
    assert!(whole(&get(&store, "/a").await.expect("pinned")).await == body(2, 6_000));
    store.remove(key("/a"), b"/a", Which::Any).await.expect("remove");
    assert!(!store.is_pinned(key("/a")));
    assert_eq!(store.pin(key("/a"), b"/a", None).await, Err(PinError::Absent));

    put(&store, "/b", &body(3, 5_000), 1).await;
    store.pin(key("/b"), b"/b", None).await.expect("room");
    store
        .sweep(|object| if object.full_key == b"/b" { Sweep::Drop } else { Sweep::Keep }, |_| {})
        .await
        .expect("sweep");
    assert_eq!((store.is_pinned(key("/b")), store.stats().pinned_objects), (false, 0));
    let memory = store::Store::open(store::Config::memory_only(1 << 20)).await.expect("open");
    put(&memory, "/a", &body(1, 500), 1).await;
    assert_eq!(memory.pin(key("/a"), b"/a", None).await, Err(PinError::NoDisk));
}

/// Power is lost at every change while pinned bodies are moved, in parts and whole: afterwards they are there.
#[tokio::test]
async fn crash_while_pinned_bodies_are_moved_loses_none() {
    let story = async |disk: &FaultyDisk| {
        let store = open(disk, small_config()).await;
        for (at, size) in [90_000, 700, 12_000].into_iter().enumerate() {
            let name = format!("/pinned/{at}");
            let head = Bytes::from_static(b"head");
            let Ok(mut fill) = store.begin_fill(key(&name), name.as_bytes(), head, 1, None) else { return at };
            if fill.append(body(at as u64, size)).await.is_err() || fill.finish().await.is_err() {
                return at;
            }
            let _ = store.pin(key(&name), name.as_bytes(), None).await;
        }
        for number in 0..60 {
            let name = format!("/flood/{number}");
            let Ok(mut fill) = store.begin_fill(key(&name), name.as_bytes(), Bytes::new(), 1, None) else { return 3 };
            if fill.append(body(number, 20_000)).await.is_err() || fill.finish().await.is_err() {
                return 3;
            }
        }
        let _ = store.close().await;
        3
    };
    let whole_story = FaultyDisk::new(4);
    assert_eq!(story(&whole_story).await, 3);
    for cut in 0..whole_story.changes() {
        let disk = FaultyDisk::new(4);
        disk.fail_after(cut, Some(store::disk::Failure::Power));
        let acknowledged = story(&disk).await;
        let store = open(&disk.crash(), small_config()).await;
        for (at, size) in [90_000, 700, 12_000].into_iter().enumerate().take(acknowledged) {
            let name = format!("/pinned/{at}");
            let object = get(&store, &name).await.unwrap_or_else(|| panic!("{name}, power lost at change {cut}"));
            assert!(whole(&object).await == body(at as u64, size), "{name}, power lost at change {cut}");
        }
    }
}

#[tokio::test]
async fn what_is_pinned_or_asked_for_outlives_syncs_that_fail_while_it_is_moved() {
    for seed in 0..24 {
        // Large enough to be sifted, or not.
        let config = || if seed % 2 == 0 { small_config() } else { config(1 << 20) };
        let disk = FaultyDisk::new(seed);
        let store = open(&disk, config()).await;
        put(&store, "/pinned", &body(seed, 9_000), 0).await;
        store.pin(key("/pinned"), b"/pinned", None).await.expect("pin");
        let (mut failed, mut random) = (0, Random(seed));
        for number in 0..400 {
            // Never so many in a row that the disk is taken out of service.
            disk.fail_syncs(u32::from(random.below(10) == 0));
            let name = format!("/{number}");
            let mut fill = store.begin_fill(key(&name), name.as_bytes(), Bytes::new(), 0, None).expect("begin");
            let stored = async { fill.append(body(number, 9_000)).await.map(|()| fill)?.finish().await };
            failed += u64::from(stored.await.is_err());
        }
        disk.fail_syncs(0);
        let stats = store.stats();
        assert!(failed > 10 && stats.evicted_segments + stats.sifted_segments > 10, "seed {seed}: {stats:?}");
        assert_eq!((stats.pins_lost, stats.pinned_objects), (0, 1), "seed {seed}");
        assert!(whole(&get(&store, "/pinned").await.expect("pinned")).await == body(seed, 9_000), "seed {seed}");
        store.close().await.expect("close");
        let store = open(&disk.crash(), config()).await;
        assert!(whole(&get(&store, "/pinned").await.expect("stored")).await == body(seed, 9_000), "seed {seed}");
    }
}
