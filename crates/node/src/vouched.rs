//! When stored bodies were last vouched for (rule 5). Kept in memory only, so that nothing survives a restart.
//!
//! Only moments within a lease are worth keeping. A body whose moment is forgotten counts as never vouched for, and
//! contact with the control plane stands in.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Mutex;
use std::time::Duration;

use model::Moment;
use store::{Generation, Key};

use crate::index::Uniform;

const SHARDS: usize = 16;

/// Bodies remembered per shard.
const BODIES_MAX: usize = 16_384;

type Shard = HashMap<Key, (Generation, Moment), BuildHasherDefault<Uniform>>;

/// The moments, by body.
pub(crate) struct VouchedMoments {
    shards: Vec<Mutex<Shard>>,
}

impl VouchedMoments {
    pub(crate) fn new() -> VouchedMoments {
        VouchedMoments { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: Key) -> std::sync::MutexGuard<'_, Shard> {
        self.shards[key.0 as usize % SHARDS].lock().expect("no holder of this lock can panic")
    }

    /// The moment of exactly this body.
    pub(crate) fn get(&self, key: Key, body: Generation) -> Option<Moment> {
        self.shard(key).get(&key).filter(|(of, _)| *of == body).map(|(_, at)| *at)
    }

    /// Records a moment. A full shard first forgets moments older than `lease`, and takes nothing new when that is not
    /// enough.
    pub(crate) fn set(&self, key: Key, body: Generation, at: Option<Moment>, now: Moment, lease: Duration) {
        let mut shard = self.shard(key);
        let Some(at) = at else {
            shard.remove(&key);
            return;
        };
        if shard.len() >= BODIES_MAX && !shard.contains_key(&key) {
            shard.retain(|_, (_, at)| now.since(*at) < lease);
        }
        if shard.len() < BODIES_MAX || shard.contains_key(&key) {
            let kept = shard.entry(key).or_insert((body, at));
            *kept = if kept.0 == body { (body, kept.1.max(at)) } else { (body, at) };
        }
    }

    /// Bodies remembered now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no holder of this lock can panic").len()).sum()
    }
}
