//! The memory tier: heads and slices recently read or written, within a bound of bytes.
//!
//! quick_cache decides what stays (S3-FIFO: a scan or a large prefetch does not displace frequently requested objects).
//! A body of one slice is cached together with its head, so a hot hit takes one lookup. Without a disk, whole bodies
//! are stored here and nowhere else.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync::Cache};

use crate::buffers::Buffers;
use crate::config::{room_of_fills, room_of_readers};
use crate::index::name;
use crate::object::Entry;

/// Larger shards keep large bodies admissible: an item must fit into its shard.
const SHARD_BYTES_MIN: u64 = 64 << 20;
const SHARDS_MAX: u64 = 64;

/// Estimated size of a cached item, in bytes; determines the size of the cache's table of recently evicted keys.
const ITEM_BYTES_GUESS: u64 = 16 << 10;

/// Overhead of an item beside its bytes, and the additional overhead of a requested head, which is kept decoded.
const ITEM_OVERHEAD_BYTES: u64 = 256;
const HEAD_OVERHEAD_BYTES: u64 = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    Head(u64),
    Slice { disk: u16, fill: u64, number: u32 },
}

#[derive(Clone)]
enum Item {
    Head(Arc<Entry>),
    Slice(Bytes),
}

#[derive(Clone)]
struct Bytewise;

impl Weighter<Slot, Item> for Bytewise {
    fn weight(&self, _: &Slot, item: &Item) -> u64 {
        ITEM_OVERHEAD_BYTES
            + match item {
                Item::Head(entry) => HEAD_OVERHEAD_BYTES + entry.bytes_in_memory(),
                Item::Slice(bytes) => bytes.len() as u64,
            }
    }
}

/// Counts the heads that are evicted: without a disk each of them is an object that is lost.
#[derive(Clone, Default)]
struct Counting {
    heads: Arc<AtomicU64>,
}

impl Lifecycle<Slot, Item> for Counting {
    /// The last of the evicted items, which is dropped once the shard is unlocked.
    type RequestState = Option<Item>;

    fn on_evict(&self, state: &mut Option<Item>, slot: Slot, item: Item) {
        if matches!(slot, Slot::Head(_)) {
            self.heads.fetch_add(1, Ordering::Relaxed);
        }
        *state = Some(item);
    }
}

/// A fixed multiply-and-fold hash: keys are uniform already, and a run must be repeatable.
#[derive(Clone, Default)]
struct Fold(u64);

impl BuildHasher for Fold {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold(0x51_7c_c1_b7_27_22_0a_95)
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let wide = u128::from(self.0 ^ value) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

pub(crate) struct Memory {
    /// Held while a head is compared and then changed, in a store without a disk; with a disk, the index has locks for
    /// that.
    pub(crate) changes: Mutex<()>,
    /// Accounting of all body bytes in memory, including those here.
    pub(crate) buffers: Arc<Buffers>,
    cache: Cache<Slot, Item, Bytewise, Fold, Counting>,
    counting: Counting,
}

impl Memory {
    /// A tier of `capacity_bytes`, in a store whose writers hold at most `in_flight_bytes`.
    pub(crate) fn new(capacity_bytes: u64, in_flight_bytes: u64) -> Memory {
        let shards = 1_u64 << (capacity_bytes / SHARD_BYTES_MIN).clamp(1, SHARDS_MAX).ilog2();
        let options = OptionsBuilder::new()
            .shards(shards as usize)
            .estimated_items_capacity((capacity_bytes / ITEM_BYTES_GUESS).max(16) as usize)
            .weight_capacity(capacity_bytes.max(1))
            .build()
            .expect("both required options are set");
        let counting = Counting::default();
        Memory {
            changes: Mutex::default(),
            buffers: Arc::new(Buffers::new(
                // Slices that wait for a writer are counted too; if there were no room for them, a slow disk would
                // turn away readers.
                capacity_bytes.saturating_add(in_flight_bytes).saturating_add(room_of_fills(capacity_bytes)),
                room_of_readers(capacity_bytes),
            )),
            cache: Cache::with_options(options, Bytewise, Fold::default(), counting.clone()),
            counting,
        }
    }

    pub(crate) fn head(&self, name: u64) -> Option<Arc<Entry>> {
        match self.cache.get(&Slot::Head(name)) {
            Some(Item::Head(entry)) => Some(entry),
            _ => None,
        }
    }

    /// The head, without recording a request for it.
    pub(crate) fn peek_head(&self, name: u64) -> Option<Arc<Entry>> {
        match self.cache.peek(&Slot::Head(name)) {
            Some(Item::Head(entry)) => Some(entry),
            _ => None,
        }
    }

    pub(crate) fn insert_head(&self, entry: Arc<Entry>) {
        self.cache.insert(Slot::Head(name(entry.key)), Item::Head(entry));
    }

    /// Replaces a head that is present, keeping its rank; does nothing if there is none.
    pub(crate) fn replace_head(&self, entry: Arc<Entry>) {
        // If it was evicted in between, nothing needs to be done.
        let _ = self.cache.replace(Slot::Head(name(entry.key)), Item::Head(entry), true);
    }

    /// Removes a head; returns whether there was one.
    pub(crate) fn remove_head(&self, name: u64) -> bool {
        self.cache.remove(&Slot::Head(name)).is_some()
    }

    pub(crate) fn slice(&self, disk: u16, fill: u64, number: u32) -> Option<Bytes> {
        match self.cache.get(&Slot::Slice { disk, fill, number }) {
            Some(Item::Slice(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn insert_slice(&self, disk: u16, fill: u64, number: u32, bytes: Bytes) {
        self.cache.insert(Slot::Slice { disk, fill, number }, Item::Slice(bytes));
    }

    /// Names of the heads held now.
    pub(crate) fn names(&self) -> Vec<u64> {
        let name = |slot: Slot| match slot {
            Slot::Head(name) => Some(name),
            Slot::Slice { .. } => None,
        };
        self.cache.iter().filter_map(|(slot, _)| name(slot)).collect()
    }

    /// Number of items; without a disk each is an object.
    pub(crate) fn items(&self) -> u64 {
        self.cache.len() as u64
    }

    /// Heads that were evicted so far.
    pub(crate) fn evicted_heads(&self) -> u64 {
        self.counting.heads.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.cache.weight()
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.cache.capacity()
    }

    /// The largest body that may be stored here whole, leaving room for others.
    pub(crate) fn body_bytes_max(&self) -> u64 {
        self.cache.shard_capacity() / 2
    }
}
