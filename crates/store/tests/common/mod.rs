//! What the tests of the store share: stores over disks in memory, and bodies that can be told apart.

#![allow(dead_code)] // each test binary uses a part

use std::sync::Arc;

use bytes::Bytes;
use store::disk::{Disk, FaultyDisk};
use store::{Config, DiskConfig, Key, Object, ReadError, Reader, Store};

/// Eight segments of 64 KiB, slices of 16 KiB.
pub(crate) fn small_config() -> Config {
    config(512 << 10)
}

pub(crate) fn config(capacity_bytes: u64) -> Config {
    let disks = vec![DiskConfig { path: "disk".into(), capacity_bytes }];
    Config { memory_bytes: 64 << 10, disks, segment_bytes: 64 << 10 }
}

pub(crate) async fn open(disk: &FaultyDisk, config: Config) -> Store {
    let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(disk.clone())];
    Store::open_on(config, disks).await.expect("open")
}

/// A key that spreads like a hash.
pub(crate) fn key(name: &str) -> Key {
    let half = |seed| xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed);
    Key(u128::from(half(1)) << 64 | u128::from(half(2)))
}

/// Bytes that no other seed makes.
pub(crate) fn body(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub(crate) async fn put(store: &Store, name: &str, body: &Bytes, stamp: u64) -> Object {
    let head = Bytes::from(format!("head of {name}"));
    let mut fill = store.begin_fill(key(name), name.as_bytes(), head, stamp, Some(body.len() as u64)).expect("begin");
    for chunk in body.chunks(5000) {
        fill.append(Bytes::copy_from_slice(chunk)).await.expect("append");
    }
    fill.finish().await.expect("finish")
}

pub(crate) async fn get(store: &Store, name: &str) -> Option<Object> {
    store.lookup(key(name), name.as_bytes()).await.expect("lookup")
}

pub(crate) async fn collect(mut reader: Reader) -> Result<Bytes, ReadError> {
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all.into())
}

pub(crate) async fn whole(object: &Object) -> Bytes {
    collect(object.read(0..u64::MAX)).await.expect("read the body")
}

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
