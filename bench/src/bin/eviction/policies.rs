//! Eviction policies for comparison, each within a bound of bytes: LRU, FIFO, S3-FIFO (Yang et al., SOSP 2023) and
//! SIEVE (Zhang et al., NSDI 2024).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A cache that only tells hits from misses.
pub(crate) trait Cache {
    /// Whether `object` is held; on a miss it is inserted, if the policy admits it.
    fn ask(&mut self, object: u64, bytes: u64) -> bool;
}

/// The finaliser of splitmix64, a hash of integers.
pub(crate) fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Evicts the object requested longest ago.
pub(crate) struct Lru {
    capacity: u64,
    held: u64,
    clock: u64,
    by_object: HashMap<u64, (u64, u64)>,
    by_time: BTreeMap<u64, u64>,
}

impl Lru {
    pub(crate) fn new(capacity: u64) -> Lru {
        Lru { capacity, held: 0, clock: 0, by_object: HashMap::new(), by_time: BTreeMap::new() }
    }
}

impl Cache for Lru {
    fn ask(&mut self, object: u64, bytes: u64) -> bool {
        self.clock += 1;
        if let Some((time, _)) = self.by_object.get_mut(&object) {
            self.by_time.remove(time);
            *time = self.clock;
            self.by_time.insert(self.clock, object);
            return true;
        }
        self.by_object.insert(object, (self.clock, bytes));
        self.by_time.insert(self.clock, object);
        self.held += bytes;
        while self.held > self.capacity
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.held -= self.by_object.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
        false
    }
}

/// Evicts the object inserted first.
pub(crate) struct Fifo {
    capacity: u64,
    held: u64,
    objects: HashSet<u64>,
    queue: VecDeque<(u64, u64)>,
}

impl Fifo {
    pub(crate) fn new(capacity: u64) -> Fifo {
        Fifo { capacity, held: 0, objects: HashSet::new(), queue: VecDeque::new() }
    }
}

impl Cache for Fifo {
    fn ask(&mut self, object: u64, bytes: u64) -> bool {
        if !self.objects.insert(object) {
            return true;
        }
        self.queue.push_back((object, bytes));
        self.held += bytes;
        while self.held > self.capacity
            && let Some((oldest, bytes)) = self.queue.pop_front()
        {
            self.objects.remove(&oldest);
            self.held -= bytes;
        }
        false
    }
}

/// A small probation queue, a main queue with second chances, and a ghost list of names evicted from probation.
pub(crate) struct S3Fifo {
    capacity: u64,
    small_bytes: u64,
    main_bytes: u64,
    small: VecDeque<(u64, u64)>,
    main: VecDeque<(u64, u64)>,
    asked: HashMap<u64, u8>,
    ghosts: VecDeque<u64>,
    ghost: HashSet<u64>,
}

impl S3Fifo {
    pub(crate) fn new(capacity: u64) -> S3Fifo {
        S3Fifo {
            capacity,
            small_bytes: 0,
            main_bytes: 0,
            small: VecDeque::new(),
            main: VecDeque::new(),
            asked: HashMap::new(),
            ghosts: VecDeque::new(),
            ghost: HashSet::new(),
        }
    }

    fn evict(&mut self) {
        if self.small_bytes > self.capacity / 10 || self.main.is_empty() {
            while let Some((object, bytes)) = self.small.pop_front() {
                self.small_bytes -= bytes;
                if self.asked.get(&object).copied().unwrap_or(0) > 1 {
                    self.asked.insert(object, 0);
                    self.main.push_back((object, bytes));
                    self.main_bytes += bytes;
                    continue;
                }
                self.asked.remove(&object);
                if self.ghost.insert(object) {
                    self.ghosts.push_back(object);
                }
                while self.ghosts.len() > self.main.len().max(16)
                    && let Some(oldest) = self.ghosts.pop_front()
                {
                    self.ghost.remove(&oldest);
                }
                return;
            }
        }
        while let Some((object, bytes)) = self.main.pop_front() {
            match self.asked.get_mut(&object) {
                Some(asked) if *asked > 0 => {
                    *asked -= 1;
                    self.main.push_back((object, bytes));
                }
                _ => {
                    self.asked.remove(&object);
                    self.main_bytes -= bytes;
                    return;
                }
            }
        }
    }
}

impl Cache for S3Fifo {
    fn ask(&mut self, object: u64, bytes: u64) -> bool {
        if let Some(asked) = self.asked.get_mut(&object) {
            *asked = (*asked + 1).min(3);
            return true;
        }
        while self.small_bytes + self.main_bytes + bytes > self.capacity
            && !(self.small.is_empty() && self.main.is_empty())
        {
            self.evict();
        }
        self.asked.insert(object, 0);
        if self.ghost.remove(&object) {
            self.main.push_back((object, bytes));
            self.main_bytes += bytes;
        } else {
            self.small.push_back((object, bytes));
            self.small_bytes += bytes;
        }
        false
    }
}

/// One queue; a hand moves from the oldest to the newest and evicts the first object not requested since the hand last
/// passed it.
pub(crate) struct Sieve {
    capacity: u64,
    held: u64,
    /// By age, oldest first: object, bytes, requested.
    queue: BTreeMap<u64, (u64, u64, bool)>,
    ages: HashMap<u64, u64>,
    next: u64,
    hand: u64,
}

impl Sieve {
    pub(crate) fn new(capacity: u64) -> Sieve {
        Sieve { capacity, held: 0, queue: BTreeMap::new(), ages: HashMap::new(), next: 0, hand: 0 }
    }

    fn evict(&mut self) {
        while !self.queue.is_empty() {
            let at = match self.queue.range_mut(self.hand..).next() {
                Some((at, (_, _, asked))) if *asked => {
                    *asked = false;
                    self.hand = at + 1;
                    continue;
                }
                Some((at, _)) => *at,
                None => {
                    self.hand = 0;
                    continue;
                }
            };
            if let Some((object, bytes, _)) = self.queue.remove(&at) {
                self.ages.remove(&object);
                self.held -= bytes;
                self.hand = at + 1;
            }
            return;
        }
    }
}

impl Cache for Sieve {
    fn ask(&mut self, object: u64, bytes: u64) -> bool {
        if let Some(entry) = self.ages.get(&object).and_then(|age| self.queue.get_mut(age)) {
            entry.2 = true;
            return true;
        }
        while self.held + bytes > self.capacity && !self.queue.is_empty() {
            self.evict();
        }
        self.queue.insert(self.next, (object, bytes, false));
        self.ages.insert(object, self.next);
        self.next += 1;
        self.held += bytes;
        false
    }
}
