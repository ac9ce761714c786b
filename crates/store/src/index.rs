//! The packed index of one disk: where each object's newest head lies.
//!
//! An entry is 24 bytes and a control byte in the table: the object's *name* (the upper 64 bits of its key), the place of
//! the head, and in bits that no length needs what is noted of it. Tables are between 7/16 and 7/8 full, at any time some
//! of them here and some there, which makes 41 bytes an object at every count; `bench --bin store` measures it. What else is known of an object lies in its head record, the full key too: objects that share a name
//! displace each other, and are told apart by it.
//!
//! **Invariant:** the memory tier holds a head only while the index names that very place, because both are changed under
//! the lock of the name's shard. So a lookup that finds a head in memory need not come here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard};

use crate::Key;

/// How many locks the index has, at most 256; also the step in which a sweep walks it.
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

/// How often an entry is known to have been asked for, at most; two bits hold it.
pub(crate) const ASKED_MAX: u32 = 3;

/// A place, and in the upper bits of its length, which is at most 32 MiB and a header, what is noted of the object.
#[derive(Clone, Copy)]
struct Slot {
    segment: u32,
    offset: u32,
    length_and_notes: u32,
    lead: u32,
}

const LENGTH_BITS: u32 = 26;
/// Another head of the name lies in the log before this one, or may.
const OLDER: u32 = 1 << 27;
/// It was sifted, or need not be.
const SETTLED: u32 = 1 << 28;
/// What lies there cannot be read.
const UNREADABLE: u32 = 1 << 29;
const ASKED_SHIFT: u32 = 30;

// A record's header and its longest payload.
const _: () = assert!(crate::format::RECORD_BYTES_MAX < 1 << LENGTH_BITS);

impl Slot {
    fn new(place: Place) -> Slot {
        let Place { segment, offset, length, lead } = place;
        Slot { segment, offset, length_and_notes: length & ((1 << LENGTH_BITS) - 1), lead }
    }

    fn place(self) -> Place {
        let length = self.length_and_notes & ((1 << LENGTH_BITS) - 1);
        Place { segment: self.segment, offset: self.offset, length, lead: self.lead }
    }
}

/// A part of the index: places by name, and what is noted of them. A note goes with the place it was made for.
#[derive(Default)]
pub(crate) struct Shard(HashMap<u64, Slot, BuildHasherDefault<Uniform>>);

impl Shard {
    pub(crate) fn get(&self, name: u64) -> Option<Place> {
        self.0.get(&name).map(|slot| slot.place())
    }

    /// Names a place. How often the object was asked for and whether it is settled stays known: that is the URL's, not the body's.
    pub(crate) fn insert(&mut self, name: u64, place: Place) {
        let mut slot = Slot::new(place);
        if let Some(before) = self.0.get(&name) {
            slot.length_and_notes |= before.length_and_notes & (ASKED_MAX << ASKED_SHIFT | SETTLED) | OLDER;
        }
        self.0.insert(name, slot);
    }

    /// Names the place to which what was kept has been moved: it is settled, and counts as asked for only if it was so since it was
    /// settled.
    pub(crate) fn insert_moved(&mut self, name: u64, place: Place) {
        let before = self.0.get(&name).map_or(0, |slot| slot.length_and_notes);
        let asked = if before & SETTLED != 0 { before & (ASKED_MAX << ASKED_SHIFT) } else { 0 };
        let mut slot = Slot::new(place);
        slot.length_and_notes |= before & OLDER | asked | SETTLED;
        self.0.insert(name, slot);
    }

    /// Notes that what is known under `name` must be asked for again to be kept once more.
    pub(crate) fn spend_asked(&mut self, name: u64) {
        if let Some(slot) = self.0.get_mut(&name) {
            slot.length_and_notes &= !(ASKED_MAX << ASKED_SHIFT);
        }
    }

    /// Names a place that was found at the start: nobody knows whether it was asked for, so it is settled.
    pub(crate) fn insert_found(&mut self, name: u64, place: Place) {
        self.insert(name, place);
        self.note_settled(name);
    }

    fn note(&mut self, name: u64, note: u32) {
        if let Some(slot) = self.0.get_mut(&name) {
            slot.length_and_notes |= note;
        }
    }

    /// Notes that a head of this name lies in the log before the one that is known.
    pub(crate) fn note_older(&mut self, name: u64) {
        self.note(name, OLDER);
    }

    /// Whether one may lie there.
    pub(crate) fn has_older(&self, name: u64) -> bool {
        self.0.get(&name).is_some_and(|slot| slot.length_and_notes & OLDER != 0)
    }

    /// Notes that what is known under `name` need not be sifted.
    pub(crate) fn note_settled(&mut self, name: u64) {
        self.note(name, SETTLED);
    }

    /// Whether what the index knows under `name` was sifted, or need not be.
    pub(crate) fn is_settled(&self, name: u64) -> bool {
        self.0.get(&name).is_some_and(|slot| slot.length_and_notes & SETTLED != 0)
    }

    pub(crate) fn remove(&mut self, name: u64) {
        self.0.remove(&name);
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn names(&self) -> Vec<u64> {
        self.0.keys().copied().collect()
    }

    /// The heads in a segment.
    pub(crate) fn places_in(&self, segment: u32) -> Vec<(u64, Place)> {
        let places = self.0.iter().map(|(name, slot)| (*name, slot.place()));
        places.filter(|(_, place)| place.segment == segment).collect()
    }

    /// Forgets everything, and gives the room back.
    pub(crate) fn clear(&mut self) {
        self.0 = HashMap::default();
    }

    /// Notes that the head at `place` was asked for.
    pub(crate) fn note_asked(&mut self, name: u64, place: Place) {
        if let Some(slot) = self.0.get_mut(&name).filter(|slot| slot.place() == place)
            && slot.length_and_notes >> ASKED_SHIFT < ASKED_MAX
        {
            slot.length_and_notes += 1 << ASKED_SHIFT;
        }
    }

    /// How often the head at `place` was asked for, as far as that is counted.
    pub(crate) fn asked(&self, name: u64, place: Place) -> u32 {
        self.0.get(&name).filter(|slot| slot.place() == place).map_or(0, |slot| slot.length_and_notes >> ASKED_SHIFT)
    }

    /// Notes that what lies at `place` cannot be read.
    pub(crate) fn note_unreadable(&mut self, name: u64, place: Place) {
        if let Some(slot) = self.0.get_mut(&name).filter(|slot| slot.place() == place) {
            slot.length_and_notes |= UNREADABLE;
        }
    }

    /// Whether what the index knows under `name` is known to be unreadable.
    pub(crate) fn is_unreadable(&self, name: u64) -> bool {
        self.0.get(&name).is_some_and(|slot| slot.length_and_notes & UNREADABLE != 0)
    }
}

pub(crate) struct Index {
    shards: Box<[Mutex<Shard>]>,
    /// By some bits of a name, its shard. A table doubles when it is full, so shards of one size would all be half empty at
    /// once; these get from one to two parts of the names each, evenly spread over the powers, and so double one after another.
    shard_of: Box<[u8]>,
}

/// Values of the bits of a name that choose its shard.
const CHOICES: usize = 1 << 14;

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
        let shard_of = |choice: usize| {
            let number = (1.0 + choice as f64 / CHOICES as f64).log2() * SHARDS as f64;
            number as u8
        };
        Index {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_of: (0..CHOICES).map(shard_of).collect(),
        }
    }

    /// Locks the shard of a name.
    pub(crate) fn lock(&self, name: u64) -> MutexGuard<'_, Shard> {
        // Neither the lowest bits nor the highest: the table makes its own use of those.
        self.shard(usize::from(self.shard_of[(name >> 40) as usize % CHOICES]))
    }

    pub(crate) fn shard(&self, number: usize) -> MutexGuard<'_, Shard> {
        self.shards[number].lock().expect("no code panics while it holds a shard")
    }

    pub(crate) fn get(&self, name: u64) -> Option<Place> {
        self.lock(name).get(name)
    }

    pub(crate) fn len(&self) -> u64 {
        (0..SHARDS).map(|number| self.shard(number).len()).sum()
    }
}

/// The part of a key that the index and the memory tier know an object by.
pub(crate) fn name(key: Key) -> u64 {
    (key.0 >> 64) as u64
}
