//! Readers that take their time with what is evicted meanwhile: how much of the disk they may hold.

mod common;

use std::os::unix::fs::MetadataExt;

use common::{body, collect, config, open, put};
use store::disk::FaultyDisk;
use store::{ReadError, Reader, Store};

/// Three slices, of which a segment of 64 KiB holds no more than those of one body.
const LENGTH: usize = 45_000;

/// Stores bodies, each in a segment of its own, begins to read each, and stores others until all of the first are gone from the index.
async fn readers_of_what_is_gone(store: &Store, count: u64) -> Vec<Reader> {
    let mut readers = Vec::new();
    for number in 0..count {
        let name = format!("/held/{number}");
        // Not looked up: what is asked for is kept.
        let object = put(store, &name, &body(number, LENGTH), 0).await;
        let mut reader = object.read(0..u64::MAX);
        let first = reader.next().await.expect("a chunk").expect("read");
        assert_eq!(first, body(number, LENGTH)[..first.len()]);
        assert!(first.len() < LENGTH);
        readers.push(reader);
    }
    for number in 0..300 {
        put(store, &format!("/{number}"), &body(number, LENGTH), 0).await;
        let stats = store.stats();
        assert!(stats.disk_bytes <= stats.disk_capacity_bytes, "{stats:?}");
        assert!(stats.held_bytes <= stats.held_bytes_max, "{stats:?}");
    }
    readers
}

#[tokio::test]
async fn slow_readers_hold_no_more_of_the_disk_than_a_part_of_it() {
    let store = open(&FaultyDisk::new(1), config(4 << 20)).await;
    let readers = readers_of_what_is_gone(&store, 30).await;
    let stats = store.stats();
    assert!(stats.held_bytes > stats.held_bytes_max / 2 && stats.taken_back_segments > 10, "{stats:?}");
    assert_eq!(stats.read_errors, 0);
    let (mut whole, mut ended) = (Vec::new(), 0);
    for (number, reader) in readers.into_iter().enumerate() {
        match collect(reader).await {
            Ok(rest) => {
                assert!(body(number as u64, LENGTH).ends_with(&rest));
                whole.push(number);
            }
            Err(ReadError::Evicted) => ended += 1,
            Err(error) => panic!("{number}: {error}"),
        }
    }
    assert!(!whole.is_empty() && ended > 10, "{whole:?} {ended}");
    let stats = store.stats();
    assert_eq!((stats.held_bytes, stats.read_errors), (0, 0), "whoever is done holds nothing");
}

#[tokio::test]
async fn reader_lets_go_of_what_it_is_past() {
    let store = open(&FaultyDisk::new(1), config(4 << 20)).await;
    let mut reader = put(&store, "/long", &body(1, 400_000), 0).await.read(0..u64::MAX);
    let mut read = 0;
    while read < 350_000 {
        read += reader.next().await.expect("a chunk").expect("read").len();
    }
    for number in 0..300 {
        put(&store, &format!("/{number}"), &body(number, LENGTH), 0).await;
    }
    let stats = store.stats();
    assert!(0 < stats.held_bytes && stats.held_bytes <= 2 << 16, "{stats:?}");
    while let Some(chunk) = reader.next().await {
        read += chunk.expect("the rest is held").len();
    }
    assert_eq!(read, 400_000);
}

/// What the file system has of files that are removed but open.
fn removed_bytes(directory: &std::path::Path) -> u64 {
    let mut bytes = 0;
    for open in std::fs::read_dir("/proc/self/fd").expect("procfs").flatten() {
        let of = std::fs::read_link(open.path()).unwrap_or_default();
        if of.starts_with(directory) && of.to_string_lossy().ends_with(" (deleted)") {
            bytes += std::fs::metadata(open.path()).map_or(0, |file| file.blocks() * 512);
        }
    }
    bytes
}

#[tokio::test]
async fn room_that_is_taken_back_is_the_file_systems_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut config = config(4 << 20);
    config.disks[0].path = directory.path().to_owned();
    let store = Store::open(config).await.expect("open");
    let readers = readers_of_what_is_gone(&store, 30).await;
    let (stats, removed) = (store.stats(), removed_bytes(directory.path()));
    // The store itself keeps what was sifted last until it needs the room; and blocks of a file are whole ones.
    let left = 2 * (64 << 10) + 32 * 4096;
    assert!(stats.held_bytes > 0 && removed >= stats.held_bytes, "{removed} of {stats:?}");
    assert!(removed <= stats.held_bytes_max + left, "{removed} of {stats:?}");
    drop(readers);
    assert!(removed_bytes(directory.path()) <= left);
}
