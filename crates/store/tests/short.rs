//! Readers that do not get on, many of them: what they hold in memory is bounded, and what they read is right.

mod common;

use bytes::Bytes;
use common::{body, collect, get, open, put, whole};
use store::disk::FaultyDisk;
use store::{Config, DiskConfig, Object, ReadError, Reader, Store};

const MIB: u64 = 1 << 20;

/// Slices of 1 MiB, and hardly a memory tier.
fn config() -> Config {
    let disks = vec![DiskConfig { path: "disk".into(), capacity_bytes: 1024 * MIB }];
    Config { memory_bytes: 64 << 10, disks, segment_bytes: 64 * MIB }
}

const BODIES: u64 = 100;

async fn filled(disk: &FaultyDisk) -> Store {
    let store = open(disk, config()).await;
    for number in 0..BODIES {
        put(&store, &format!("/{number}"), &body(number, length(number)), 0).await;
    }
    store
}

/// Bodies of three slices and a bit, and of less than one, in turns.
fn length(number: u64) -> usize {
    if number.is_multiple_of(2) { 3 * MIB as usize + 17 } else { 900_000 }
}

/// A reader that was given a chunk and does not come back, with that chunk.
struct Stalled {
    reader: Reader,
    number: u64,
    from: usize,
    chunk: Bytes,
}

async fn stalled(object: &Object, number: u64, from: u64) -> Stalled {
    let mut reader = object.read(from..u64::MAX);
    let chunk = reader.next().await.expect("not at its end").expect("read");
    Stalled { reader, number, from: from as usize, chunk }
}

/// Readers all over the bodies, as many as it takes to ask for more than there may be.
async fn crowd(store: &Store) -> Vec<Stalled> {
    let mut crowd = Vec::new();
    for round in 0..9 {
        for number in 0..BODIES {
            let object = get(store, &format!("/{number}")).await.expect("stored");
            let from = round * 600_000 % length(number) as u64;
            crowd.push(stalled(&object, number, from).await);
        }
    }
    crowd
}

#[tokio::test]
async fn readers_that_do_not_get_on_hold_little_and_read_what_was_stored() {
    let store = filled(&FaultyDisk::new(1)).await;
    let crowd = crowd(&store).await;
    let stats = store.stats();
    assert!(crowd.len() as u64 * 900_000 > 2 * stats.buffered_bytes_max, "it asks for more than there may be");
    assert!(stats.buffered_bytes <= stats.buffered_bytes_max && !store.is_exhausted(), "{stats:?}");
    let hot = get(&store, "/1").await.expect("stored");
    assert!(store.is_short() && hot.is_in_memory() && hot.body().is_some());
    drop(hot);

    let mut given = 0;
    for Stalled { reader, number, from, chunk } in crowd {
        given = given.max(chunk.len());
        let rest = collect(reader).await.expect("read");
        assert!([chunk, rest].concat() == body(number, length(number)).slice(from..), "body {number} from {from}");
    }
    assert!(given > 900_000, "as long as there was room they were given all there is");
    let stats = store.stats();
    assert!(stats.buffered_bytes <= 2 * MIB, "nobody holds anything any more: {stats:?}");
    assert!(!store.is_short());
}

#[tokio::test]
async fn who_follows_a_fill_holds_little_too() {
    let store = filled(&FaultyDisk::new(2)).await;
    let crowd = crowd(&store).await;
    let before = store.stats().buffered_bytes;
    let expected = body(999, 8 * MIB as usize);
    let mut fill = store.begin_fill(common::key("/new"), b"/new", Bytes::new(), 0, None).expect("begin");
    let follower = fill.follow();
    let mut slow = Vec::new();
    for chunk in expected.chunks(MIB as usize / 2) {
        let position = fill.length();
        fill.append(Bytes::copy_from_slice(chunk)).await.expect("append");
        let mut reader = follower.read(position, None);
        let first = reader.next().await.expect("there is more").expect("read");
        slow.push((position as usize, first, reader));
    }
    fill.finish().await.expect("finish");
    drop(follower);
    for (position, first, reader) in slow {
        let rest = collect(reader).await.expect("read");
        assert!([first, rest].concat() == expected.slice(position..), "from {position}");
    }
    assert!(store.stats().buffered_bytes < before + 2 * MIB);
    drop(crowd);
}

#[tokio::test]
async fn piece_that_rots_while_its_reader_waits_is_not_served() {
    let disk = FaultyDisk::new(3);
    let store = filled(&disk).await;
    let _crowd = crowd(&store).await;
    let object = get(&store, "/0").await.expect("stored");
    let Stalled { mut reader, chunk, .. } = stalled(&object, 0, 0).await;
    let expected = body(0, length(0));
    assert!(chunk.len() <= 32 << 10 && chunk == expected.slice(..chunk.len()));
    // The first object lies at the beginning of the first segment.
    assert!(disk.corrupt("00000001.seg", 300_000));
    let mut read = chunk.len();
    let error = loop {
        match reader.next().await.expect("does not get to its end") {
            Ok(chunk) => {
                assert!(chunk == expected.slice(read..read + chunk.len()), "wrong bytes from {read}");
                read += chunk.len();
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Corrupt { .. }), "{error}");
    assert!((200_000..300_000).contains(&read), "{read}");
    assert!(get(&store, "/0").await.is_none(), "a miss from then on");
    assert!(whole(&get(&store, "/2").await.expect("stored")).await == body(2, length(2)));
}
