//! The packed index of one disk: where each object's newest head is.
//!
//! An entry is 24 bytes and a control byte in the table: the object's *name* (the upper 64 bits of its key), the place
//! of the head, and, in unused bits of its length, notes about the object. Tables are between 7/16 and 7/8 full, at any
//! time some less and some more, which makes 41 bytes per object at every count; `bench --bin store` measures it.
//! Everything else is in the head record, including the full key: objects that share a name displace each other, and
//! the full key tells them apart.
//!
//! **Invariant:** the memory tier holds a head only while the index names that very place, because both are changed
//! under the lock of the name's shard. So a lookup that finds a head in memory need not consult the index.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard};

use crate::Key;

/// Number of shards, each with a lock, at most 256; also the number of steps in which a sweep walks the index.
pub(crate) const SHARDS: usize = 256;

/// Where a head is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Length of the whole record.
    pub(crate) length: u32,
    /// Bytes directly before the head that are the record of the body's only slice; otherwise 0.
    pub(crate) lead: u32,
}

impl Place {
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }
}

/// Highest number of requests counted per entry; two bits hold it.
pub(crate) const ASKED_MAX: u32 = 3;

/// A place. The upper bits of its length, which is at most 32 MiB and a header, hold notes about the object.
#[derive(Clone, Copy)]
struct Slot {
    segment: u32,
    offset: u32,
    length_and_notes: u32,
    lead: u32,
}

const LENGTH_BITS: u32 = 26;
/// An older head of the name is, or may be, in the log before this one.
const OLDER: u32 = 1 << 27;
/// It was sifted, or need not be.
const SETTLED: u32 = 1 << 28;
/// The record there cannot be read.
const UNREADABLE: u32 = 1 << 29;
const ASKED_SHIFT: u32 = 30;

// A record's header and its longest payload must fit.
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

/// A part of the index: places by name, with notes. A note belongs to the place it was made for.
#[derive(Default)]
pub(crate) struct Shard(HashMap<u64, Slot, BuildHasherDefault<Uniform>>);

impl Shard {
    pub(crate) fn get(&self, name: u64) -> Option<Place> {
        self.0.get(&name).map(|slot| slot.place())
    }

    /// Sets the place of a name. The request count and the settled note are kept, as they belong to the URL rather than
    /// the body.
    pub(crate) fn insert(&mut self, name: u64, place: Place) {
        let mut slot = Slot::new(place);
        if let Some(before) = self.0.get(&name) {
            slot.length_and_notes |= before.length_and_notes & (ASKED_MAX << ASKED_SHIFT | SETTLED) | OLDER;
        }
        self.0.insert(name, slot);
    }

    /// Sets the new place of a kept object that was moved: it is settled, and counts as requested only if it was
    /// requested since it was settled.
    pub(crate) fn insert_moved(&mut self, name: u64, place: Place) {
        let before = self.0.get(&name).map_or(0, |slot| slot.length_and_notes);
        let asked = if before & SETTLED != 0 { before & (ASKED_MAX << ASKED_SHIFT) } else { 0 };
        let mut slot = Slot::new(place);
        slot.length_and_notes |= before & OLDER | asked | SETTLED;
        self.0.insert(name, slot);
    }

    /// Notes that the object under `name` must be requested again to be kept once more.
    pub(crate) fn spend_asked(&mut self, name: u64) {
        if let Some(slot) = self.0.get_mut(&name) {
            slot.length_and_notes &= !(ASKED_MAX << ASKED_SHIFT);
        }
    }

    /// Sets a place found at recovery: it is unknown whether the object was requested, so it is settled.
    pub(crate) fn insert_found(&mut self, name: u64, place: Place) {
        self.insert(name, place);
        self.note_settled(name);
    }

    fn note(&mut self, name: u64, note: u32) {
        if let Some(slot) = self.0.get_mut(&name) {
            slot.length_and_notes |= note;
        }
    }

    /// Notes that an older head of this name is in the log before the known one.
    pub(crate) fn note_older(&mut self, name: u64) {
        self.note(name, OLDER);
    }

    /// Whether there may be an older head in the log.
    pub(crate) fn has_older(&self, name: u64) -> bool {
        self.0.get(&name).is_some_and(|slot| slot.length_and_notes & OLDER != 0)
    }

    /// Notes that the object under `name` need not be sifted.
    pub(crate) fn note_settled(&mut self, name: u64) {
        self.note(name, SETTLED);
    }

    /// Whether the object under `name` was sifted, or need not be.
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

    /// Forgets everything, and frees the memory.
    pub(crate) fn clear(&mut self) {
        self.0 = HashMap::default();
    }

    /// Notes that the object whose head is at `place` was requested.
    pub(crate) fn note_asked(&mut self, name: u64, place: Place) {
        if let Some(slot) = self.0.get_mut(&name).filter(|slot| slot.place() == place)
            && slot.length_and_notes >> ASKED_SHIFT < ASKED_MAX
        {
            slot.length_and_notes += 1 << ASKED_SHIFT;
        }
    }

    /// How often the object whose head is at `place` was requested, up to [`ASKED_MAX`].
    pub(crate) fn asked(&self, name: u64, place: Place) -> u32 {
        self.0.get(&name).filter(|slot| slot.place() == place).map_or(0, |slot| slot.length_and_notes >> ASKED_SHIFT)
    }

    /// Notes that the record at `place` cannot be read.
    pub(crate) fn note_unreadable(&mut self, name: u64, place: Place) {
        if let Some(slot) = self.0.get_mut(&name).filter(|slot| slot.place() == place) {
            slot.length_and_notes |= UNREADABLE;
        }
    }

    /// Whether the object under `name` is known to be unreadable.
    pub(crate) fn is_unreadable(&self, name: u64) -> bool {
        self.0.get(&name).is_some_and(|slot| slot.length_and_notes & UNREADABLE != 0)
    }
}

pub(crate) struct Index {
    shards: Box<[Mutex<Shard>]>,
    /// The shard for each value of some bits of a name. A table doubles when full, so shards of equal size would all be
    /// half empty at the same time. These get between one and two parts of the names each, evenly spread over the
    /// powers, and so double one after another.
    shard_of: Box<[u8]>,
}

/// Number of values of the bits that choose a name's shard.
const CHOICES: usize = 1 << 14;

/// The identity hash: keys are hashes already.
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
        // Neither the lowest bits nor the highest: the table uses those itself.
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

/// The part of a key under which the index and the memory tier know an object.
pub(crate) fn name(key: Key) -> u64 {
    (key.0 >> 64) as u64
}
