//! The packed index of one disk: where each object's newest head lies.
//!
//! An entry is 24 bytes and a control byte in the table: the object's *name* (the upper 64 bits of its key), and the place of
//! the head. With the table's load between 7/16 and 7/8 that makes 29 to 58 bytes an object. What else is known of an object
//! lies in its head record, the full key too: objects that share a name displace each other, and are told apart by it.
//!
//! **Invariant:** the memory tier holds a head only while the index names that very place, because both are changed under
//! the lock of the name's shard. So a lookup that finds a head in memory need not come here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard};

use crate::Key;

/// How many locks the index has; also the step in which a sweep walks it.
pub(crate) const SHARDS: usize = 256;

/// Where a head lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Of the whole record.
    pub(crate) length: u32,
    /// Bytes directly before the head that are the record of the body's only slice; else 0.
    pub(crate) lead: u32,
}

impl Place {
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}

/// One shard, by name.
pub(crate) type Shard = HashMap<u64, Place, BuildHasherDefault<Uniform>>;

pub(crate) struct Index {
    shards: Box<[Mutex<Shard>]>,
}

/// Keys are hashes already.
#[derive(Default)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 ^= value;
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Locks the shard of a name.
    pub(crate) fn lock(&self, name: u64) -> MutexGuard<'_, Shard> {
        // Neither the lowest bits nor the highest: the table makes its own use of those.
        self.shard((name >> 40) as usize % SHARDS)
    }

    pub(crate) fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock().expect("no code panics while it holds a shard")
    }

    pub(crate) fn get(&self, name: u64) -> Option<Place> {
        self.lock(name).get(&name).copied()
    }

    pub(crate) fn len(&self) -> u64 {
        (0..SHARDS).map(|number| self.shard(number).len() as u64).sum()
    }
}

/// The part of a key that the index and the memory tier know an object by.
pub(crate) fn name(key: Key) -> u64 {
    (key.0 >> 64) as u64
}
