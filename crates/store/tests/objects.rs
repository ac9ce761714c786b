//! What a user of the store sees while nothing fails: objects, ranges, followers, heads, removals, sweeps.

mod common;

use bytes::Bytes;
use common::{body, collect, config, get, key, open, put, small_config, whole};
use futures_util::FutureExt;
use store::disk::FaultyDisk;
use store::{Config, ReadError, Store, Sweep, SweptObject, Which, WriteError};

async fn both() -> [(&'static str, Store); 2] {
    let memory = Store::open(Config::memory_only(8 << 20)).await.expect("open");
    [("disk", open(&FaultyDisk::new(1), small_config()).await), ("memory", memory)]
}

#[tokio::test]
async fn object_comes_back_as_it_was_put() {
    for (kind, store) in both().await {
        // Slices are 16 KiB: none, part of one, one, one and a byte, many.
        for length in [0, 1, 5000, 16_384, 16_385, 32_768, 100_000] {
            let name = format!("/{length}");
            let expected = body(length as u64, length);
            let stored = put(&store, &name, &expected, 7).await;
            let found = get(&store, &name).await.unwrap_or_else(|| panic!("{kind}: {name} is not there"));
            assert_eq!(whole(&found).await, expected, "{kind}: {name}");
            assert_eq!(found.full_key(), name.as_bytes());
            assert_eq!(found.head(), format!("head of {name}").as_bytes());
            assert_eq!((found.stamp(), found.length()), (7, length as u64), "{kind}: {name}");
            assert_eq!(found.checksum(), crc32fast::hash(&expected), "{kind}: {name}");
            assert_eq!(found.generation(), stored.generation());

            let proof = store.verify(key(&name), name.as_bytes()).await.expect("resident");
            assert_eq!((proof.length, proof.checksum, proof.stamp), (found.length(), found.checksum(), 7));
            assert_eq!((&proof.head, proof.generation), (found.head(), found.generation()));
        }
        assert!(get(&store, "/absent").await.is_none());
        assert_eq!(store.stats().objects, 7, "{kind}");
    }
}

#[tokio::test]
async fn range_is_cut_out_of_the_body() {
    for (kind, store) in both().await {
        let expected = body(9, 100_000);
        let object = put(&store, "/a", &expected, 0).await;
        let cases = [
            (0, 0),
            (0, 1),
            (16_383, 16_385), // over the border of a slice
            (16_384, 32_768), // just a slice
            (99_999, 100_000),
            (20_000, 90_000),
            (0, 100_000),
        ];
        for (from, to) in cases {
            let read = collect(object.read(from as u64..to as u64)).await.expect("read");
            assert_eq!(read, expected.slice(from..to), "{kind}: {from}..{to}");
        }
        // What lies past the end is left out, and an empty range is empty, whichever way it is written.
        #[allow(clippy::reversed_empty_ranges)]
        let edges = [(99_000..200_000, 1000), (100_000..100_001, 0), (300_000..400_000, 0), (50..40, 0)];
        for (range, length) in edges {
            let read = collect(object.read(range.clone())).await.expect("read");
            assert_eq!(read.len(), length, "{kind}: {range:?}");
        }
    }
}

#[tokio::test]
async fn followers_read_a_fill_while_it_grows() {
    for (kind, store) in both().await {
        let expected = body(3, 90_000);
        let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, None).expect("begin");
        let follower = fill.follow();
        let early = tokio::spawn(collect(follower.read(0, None)));
        let ranged = tokio::spawn(collect(follower.read(70_000, Some(80_000))));
        let mut stepwise = follower.read(0, None);
        let mut seen = Vec::new();
        for chunk in expected.chunks(7001) {
            assert!(stepwise.next().now_or_never().is_none(), "{kind}: nothing new is there yet");
            fill.append(Bytes::copy_from_slice(chunk)).await.expect("append");
            while seen.len() < fill.length() as usize {
                seen.extend_from_slice(&stepwise.next().await.expect("more").expect("read"));
            }
        }
        assert!(get(&store, "/a").await.is_none(), "{kind}: not visible before it is finished");
        fill.finish().await.expect("finish");
        assert!(stepwise.next().await.is_none());
        assert_eq!(seen, expected, "{kind}");
        assert_eq!(early.await.expect("task").expect("read"), expected, "{kind}");
        assert_eq!(ranged.await.expect("task").expect("read"), expected.slice(70_000..80_000), "{kind}");
        let late = collect(follower.read(10, None)).await.expect("read");
        assert_eq!(late, expected.slice(10..), "{kind}: a follower outlives the fill");
    }
}

#[tokio::test]
async fn followers_and_their_readers_are_counted_and_slices_on_their_way_to_disk_are_not() {
    for (kind, store) in both().await {
        let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, None).expect("begin");
        fill.append(body(3, 90_000)).await.expect("append");
        assert_eq!(fill.followers(), 0, "{kind}");
        let follower = fill.follow();
        let reader = follower.read(0, None);
        assert_eq!(fill.followers(), 2, "{kind}");
        drop(follower);
        assert_eq!(fill.followers(), 1, "{kind}");
        drop(reader);
        assert_eq!(fill.followers(), 0, "{kind}");
    }
}

#[tokio::test]
async fn slow_follower_reads_back_what_left_memory() {
    // Memory holds 64 KiB, the body has 200 KiB and others push it out.
    let store = open(&FaultyDisk::new(5), config(4 << 20)).await;
    let expected = body(3, 200_000);
    let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, None).expect("begin");
    let follower = fill.follow();
    fill.append(expected.clone()).await.expect("append");
    for other in 0..20 {
        put(&store, &format!("/other/{other}"), &body(other, 30_000), 0).await;
    }
    let reader = tokio::spawn(collect(follower.read(0, None)));
    fill.finish().await.expect("finish");
    assert_eq!(reader.await.expect("task").expect("read"), expected);
    assert!(store.stats().read_bytes > 0, "some of it came from the disk");
}

#[tokio::test]
async fn abandoned_fill_leaves_nothing() {
    for (kind, store) in both().await {
        let old = put(&store, "/a", &body(1, 40_000), 0).await;
        let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, None).expect("begin");
        fill.append(body(2, 40_000)).await.expect("append");
        let mut reader = fill.follow().read(0, None);
        assert!(reader.next().await.expect("a chunk").is_ok());
        assert_eq!(store.stats().fills, 1);
        drop(fill);
        let mut last = None;
        while let Some(next) = reader.next().await {
            last = Some(next);
        }
        assert!(matches!(last, Some(Err(ReadError::FillFailed))), "{kind}");
        let found = get(&store, "/a").await.expect("the old one");
        assert_eq!(found.generation(), old.generation(), "{kind}");
        let stats = store.stats();
        assert_eq!((stats.fills, stats.gathering_bytes, stats.objects), (0, 0, 1), "{kind}");
    }
}

#[tokio::test]
async fn body_of_another_length_than_announced_is_refused() {
    for (kind, store) in both().await {
        for appended in [4, 6] {
            let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, Some(5)).expect("begin");
            let pushed = fill.append(body(1, appended)).await;
            let outcome = match pushed {
                Ok(()) => fill.finish().await.map(drop),
                Err(error) => {
                    assert!(fill.append(Bytes::from_static(b"x")).await.is_err(), "{kind}: a dead fill stays dead");
                    Err(error)
                }
            };
            assert!(matches!(outcome, Err(WriteError::LengthMismatch { announced: 5, .. })), "{kind}: {outcome:?}");
        }
        let most = match store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, Some(1 << 40)) {
            Err(WriteError::TooLarge { most, .. }) => most,
            _ => panic!("{kind}: a terabyte was accepted"),
        };
        let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, None).expect("begin");
        let grown = fill.append(Bytes::from(vec![0; most as usize + 1])).await;
        assert!(matches!(grown, Err(WriteError::TooLarge { .. })), "{kind}: {grown:?}");
        let long = vec![0; 1 << 20];
        assert!(matches!(
            store.begin_fill(key("/a"), &long, Bytes::new(), 0, None),
            Err(WriteError::HeadTooLarge { .. })
        ));
        assert!(get(&store, "/a").await.is_none(), "{kind}");
    }
}

#[tokio::test]
async fn many_small_chunks_make_the_same_body() {
    for (kind, store) in both().await {
        let expected = body(4, 40_000);
        let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::new(), 0, None).expect("begin");
        for byte in 0..expected.len() {
            fill.append(expected.slice(byte..byte + 1)).await.expect("append");
        }
        let object = fill.finish().await.expect("finish");
        assert_eq!(whole(&object).await, expected, "{kind}");
    }
}

#[tokio::test]
async fn head_is_replaced_over_the_same_body_only() {
    for (kind, store) in both().await {
        for length in [100, 50_000] {
            let expected = body(1, length);
            let first = put(&store, "/a", &expected, 5).await;
            let second = store.update_head(&first, Bytes::from_static(b"new"), 3).await.expect("update");
            let second = second.expect("it is still stored");
            assert_eq!((&second.head()[..], second.stamp()), (&b"new"[..], 5), "{kind}: a stamp never sinks");
            // The older handle names the same body, so it still serves.
            let third = store.update_head(&first, Bytes::from_static(b"newer"), 9).await.expect("update");
            assert_eq!(third.expect("it is still stored").stamp(), 9, "{kind}");
            let found = get(&store, "/a").await.expect("stored");
            assert_eq!(&found.head()[..], b"newer", "{kind}");
            assert_eq!(whole(&found).await, expected, "{kind}");
            assert_eq!(store.verify(key("/a"), b"/a").await.expect("resident").stamp, 9, "{kind}");

            put(&store, "/a", &body(2, length), 1).await;
            let late = store.update_head(&first, Bytes::from_static(b"late"), 99).await.expect("update");
            assert!(late.is_none(), "{kind}: another body is stored by now");
            assert_eq!(get(&store, "/a").await.expect("stored").stamp(), 1, "{kind}");
        }
    }
}

#[tokio::test]
async fn change_that_others_overtake_again_and_again_is_given_up() {
    for (kind, store) in both().await {
        let first = put(&store, "/a", &body(1, 40_000), 5).await;
        let heads: Vec<Bytes> = (0..200).map(|n| Bytes::from(n.to_string())).collect();
        // All find the object as it is now; of those that find it alike only one changes it.
        let changes = heads.iter().map(|head| store.update_head(&first, head.clone(), 5));
        let changed = futures_util::future::join_all(changes).await;
        let raced = changed.iter().filter(|changed| matches!(changed, Err(WriteError::Raced))).count();
        let made = changed.iter().filter(|changed| matches!(changed, Ok(Some(_)))).count();
        assert_eq!(made + raced, heads.len(), "{kind}: {changed:?}");
        assert!(made > 0 && (kind == "memory" || raced > 0), "{kind}: {made} made, {raced} given up");
        let found = get(&store, "/a").await.expect("stored");
        let at = heads.iter().position(|head| head == found.head()).expect("one of the heads");
        assert!(changed[at].is_ok(), "{kind}: a change that was given up was not made");
    }
}

#[tokio::test]
async fn head_of_a_fill_may_change_until_it_is_finished() {
    for (kind, store) in both().await {
        let mut fill = store.begin_fill(key("/a"), b"/a", Bytes::from_static(b"first"), 3, None).expect("begin");
        fill.append(body(1, 40_000)).await.expect("append");
        fill.set_head(b"second").expect("it fits");
        let refused = fill.set_head(&vec![0; 1 << 20]);
        assert!(matches!(refused, Err(WriteError::HeadTooLarge { what: "head", .. })), "{kind}: {refused:?}");
        fill.finish().await.expect("finish");
        let found = get(&store, "/a").await.expect("stored");
        assert_eq!((found.head().as_ref(), found.stamp()), (&b"second"[..], 3), "{kind}");
        assert_eq!(store.verify(key("/a"), b"/a").await.expect("resident").head.as_ref(), b"second", "{kind}");
    }
}

#[tokio::test]
async fn removal_takes_what_it_names() {
    for (kind, store) in both().await {
        let first = put(&store, "/a", &body(1, 100), 0).await;
        let second = put(&store, "/a", &body(2, 100), 0).await;
        let remove = |which| store.remove(key("/a"), b"/a", which);
        assert!(
            !remove(Which::Only(first.generation())).await.expect("remove"),
            "{kind}: that body is not stored any more"
        );
        assert!(!store.remove(key("/a"), b"/b", Which::Any).await.expect("remove"), "{kind}: another full key");
        assert!(remove(Which::Only(second.generation())).await.expect("remove"), "{kind}");
        assert!(get(&store, "/a").await.is_none(), "{kind}");
        assert!(!remove(Which::Any).await.expect("remove"), "{kind}: nothing is left");
        assert_eq!(whole(&second).await, body(2, 100), "{kind}: who holds it reads on");
    }
}

#[tokio::test]
async fn collision_of_hashes_is_a_miss() {
    for (kind, store) in both().await {
        put(&store, "/a", &body(1, 100), 0).await;
        let found = store.lookup(key("/a"), b"/b").await.expect("lookup");
        assert!(found.is_none(), "{kind}: found under another full key");
        assert!(store.verify(key("/a"), b"/b").await.is_err(), "{kind}");
        // The part of the key that the index does not keep differs.
        let near = store::Key(key("/a").0 ^ 1);
        assert!(store.lookup(near, b"/c").await.expect("lookup").is_none(), "{kind}");
        assert!(get(&store, "/a").await.is_some(), "{kind}");
    }
}

#[tokio::test]
async fn sweep_does_as_it_is_told() {
    for (kind, store) in both().await {
        for number in 0..30 {
            put(&store, &format!("/{number}"), &body(number, 500), number).await;
        }
        let mut shown = 0;
        let mut removed = 0;
        let judge = |object: &SweptObject<'_>| {
            shown += 1;
            assert_eq!(object.head, &[b"head of ", object.full_key].concat());
            assert_eq!(object.length, 500);
            match object.stamp % 3 {
                0 => Sweep::Keep,
                1 => Sweep::Restamp(100),
                _ => Sweep::Drop,
            }
        };
        let swept = store.sweep(judge, |object| removed += object.length).await.expect("sweep");
        assert_eq!(removed, 5_000, "{kind}");
        assert_eq!((swept.kept, swept.restamped, swept.dropped, swept.skipped), (10, 10, 10, 0), "{kind}");
        assert_eq!((shown, swept.dropped_bytes), (30, 5_000), "{kind}");
        for number in 0..30 {
            let stamp = get(&store, &format!("/{number}")).await.map(|object| object.stamp());
            let expected = [Some(number), Some(100), None][number as usize % 3];
            assert_eq!(stamp, expected, "{kind}: /{number}");
        }
        let again = store.sweep(|_| Sweep::Restamp(1), |_| {}).await.expect("sweep");
        assert_eq!((again.kept, again.restamped), (19, 1), "{kind}: only a stamp of 0 is lower than 1");
    }
}

#[tokio::test]
async fn sweep_gives_the_disk_back_what_nothing_needs_any_more() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk, small_config()).await;
    // Segments of 64 KiB: the first objects lie in the oldest ones, `/large` across several.
    for number in 0..8 {
        put(&store, &format!("/old/{number}"), &body(number, 20_000), number).await;
    }
    put(&store, "/large", &body(90, 100_000), 90).await;
    put(&store, "/new", &body(91, 20_000), 91).await;
    let before = store.stats();
    let old = |object: &SweptObject<'_>| if object.full_key.starts_with(b"/old/") { Sweep::Drop } else { Sweep::Keep };
    store.sweep(old, |_| {}).await.expect("sweep");
    let after = store.stats();
    assert_eq!(before.segments - after.segments, 2, "{before:?} {after:?}");
    assert!(before.disk_bytes - after.disk_bytes >= 5 * 20_000, "{before:?} {after:?}");
    for (name, seed, length) in [("/large", 90, 100_000), ("/new", 91, 20_000)] {
        assert_eq!(whole(&get(&store, name).await.expect("kept")).await, body(seed, length), "{name}");
    }
    store.close().await.expect("close");
    drop(store);

    let store = open(&disk, small_config()).await;
    assert_eq!(store.stats().objects, 2, "after a restart, too");
    assert_eq!(whole(&get(&store, "/large").await.expect("kept")).await, body(90, 100_000));
    let large = store.sweep(|_| Sweep::Keep, |_| {}).await.expect("sweep");
    assert_eq!((large.kept, store.stats().segments), (2, store.stats().segments), "nothing dropped, nothing reclaimed");
}

#[tokio::test]
async fn sweep_of_keys_touches_nothing_else_and_lasts() {
    for (kind, store) in both().await {
        for number in 0..6 {
            put(&store, &format!("/{number}"), &body(number, 500), number).await;
        }
        let keys: Vec<_> = ["/1", "/2", "/9"].map(|name| (key(name), name.as_bytes().to_vec())).into();
        let judge = |object: &SweptObject<'_>| if object.stamp == 1 { Sweep::Keep } else { Sweep::Drop };
        let swept = store.sweep_keys(&keys, judge, |_| {}).await.unwrap();
        assert_eq!((swept.kept, swept.dropped, swept.dropped_bytes, swept.skipped), (1, 1, 500, 0), "{kind}");
        store.sync_removals().await.unwrap();
        for number in 0..6 {
            assert_eq!(get(&store, &format!("/{number}")).await.is_some(), number != 2, "{kind}: /{number}");
        }
    }
}

/// The body that a sweep judged is validated before it is removed: it is another one by then.
#[tokio::test]
async fn what_changes_under_a_sweep_is_left_alone() {
    for (kind, store) in both().await {
        put(&store, "/a", &body(1, 500), 1).await;
        let object = get(&store, "/a").await.expect("stored");
        let (changing, head) = (store.clone(), object.head().clone());
        let swept = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Handle::current();
            let judge = |_: &SweptObject<'_>| {
                // In the middle of the judgement, from another thread.
                let (changing, object, head) = (changing.clone(), object.clone(), head.clone());
                let (runtime, done) = (runtime.clone(), std::sync::mpsc::channel());
                let sender = done.0;
                std::thread::spawn(move || {
                    let lifted = runtime.block_on(changing.update_head(&object, head, 9));
                    sender.send(lifted.expect("lift").is_some()).expect("the sweep waits");
                });
                assert!(done.1.recv().expect("lifted"), "lifted");
                Sweep::Drop
            };
            runtime.clone().block_on(store.sweep(judge, |_| panic!("removed")))
        });
        let swept = swept.await.expect("no panic").expect("sweep");
        assert_eq!((swept.dropped, swept.skipped), (0, 1), "{kind}");
    }
}

#[tokio::test]
async fn memory_stays_within_its_bound() {
    for (kind, store) in both().await {
        for number in 0..200 {
            put(&store, &format!("/{number}"), &body(number, 60_000), 0).await;
            let stats = store.stats();
            assert!(stats.memory_bytes <= stats.memory_capacity_bytes, "{kind}: {stats:?}");
            assert!(stats.in_flight_bytes <= stats.in_flight_bytes_max, "{kind}: {stats:?}");
            assert_eq!((stats.gathering_bytes, stats.fills), (0, 0), "{kind}");
        }
    }
}

#[tokio::test]
async fn closed_store_reads_and_refuses_writes() {
    let store = open(&FaultyDisk::new(2), small_config()).await;
    put(&store, "/a", &body(1, 100), 0).await;
    let mut running = store.begin_fill(key("/b"), b"/b", Bytes::new(), 0, None).expect("begin");
    running.append(body(1, 100)).await.expect("append");
    store.close().await.expect("close");
    store.close().await.expect("closing twice is closing");
    assert!(matches!(running.finish().await, Err(WriteError::Closed)));
    assert!(matches!(store.begin_fill(key("/c"), b"/c", Bytes::new(), 0, None), Err(WriteError::Closed)));
    assert!(matches!(store.remove(key("/a"), b"/a", Which::Any).await, Err(WriteError::Closed)));
    assert_eq!(whole(&get(&store, "/a").await.expect("stored")).await, body(1, 100));
}
