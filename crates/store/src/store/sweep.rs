//! Sweeps: a pass over the objects of every disk, or over those under some keys, with a verdict on each.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Mount, Store};
use crate::index::Place;
use crate::object::Entry;
use crate::writer::Command;
use crate::{Key, Object, WriteError};

/// Objects that a sweep handles before it yields to other tasks.
const SWEEP_BATCH: u64 = 64;

/// What a sweep does with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Stays as it is.
    Keep,
    /// Stays, with this stamp if it is higher than its own.
    Restamp(u64),
    /// Leaves the store.
    Drop,
}

/// An object as shown by a sweep.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SweptObject<'a> {
    /// The full key it is stored under.
    pub full_key: &'a [u8],
    /// The stamp stored with the head.
    pub stamp: u64,
    /// The opaque head.
    pub head: &'a Bytes,
    /// Bytes of the whole body.
    pub length: u64,
}

/// The result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// Objects left as they were.
    pub kept: u64,
    /// Objects whose stamp was raised.
    pub restamped: u64,
    /// Objects removed.
    pub dropped: u64,
    /// Body bytes of those.
    pub dropped_bytes: u64,
    /// Objects whose head could not be read, or that changed during the sweep; left as they were.
    pub skipped: u64,
}

impl Store {
    /// Shows every object's full key, stamp and head to `judge`, one after another, and acts on its verdict; removed
    /// objects are passed to `dropped`. Objects stored during the sweep may be missed, and one that changes between
    /// verdict and action is left as it is. Reads only heads, and yields to other tasks after every few objects. On
    /// return everything is durable, and the oldest segments that hold nothing of the remaining objects are gone from
    /// the disk.
    pub async fn sweep(
        &self,
        mut judge: impl FnMut(&SweptObject<'_>) -> Sweep + Send,
        mut dropped: impl FnMut(&SweptObject<'_>) + Send,
    ) -> Result<Swept, WriteError> {
        let mut swept = Swept::default();
        if !self.has_disk_in_service() {
            for name in self.inner.memory.names() {
                let Some(entry) = self.inner.memory.head(name) else { continue };
                self.sweep_one(Object { entry, volume: None }, &mut judge, &mut dropped, &mut swept).await?;
            }
        }
        for mount in self.inner.disks.iter().filter(|mount| !mount.volume.outage.is_out()) {
            let volume = &mount.volume;
            // No remaining object needs a segment below this one, nor does one that becomes visible during the sweep.
            let mut needed = mount.queue.ask(|reply| Command::OldestOfNew { reply }).await?;
            let mut dropped_here = false;
            for shard in 0..crate::index::SHARDS {
                let names: Vec<u64> = volume.index.shard(shard).names();
                for name in names {
                    let Some(place) = volume.index.get(name) else { continue };
                    let orphan = self.owner(name).is_none_or(|owner| !std::ptr::eq(owner, mount));
                    // What is in memory is the owner's.
                    let at_hand = volume.memory.head(name).filter(|entry| !orphan && entry.place == place);
                    let entry = match at_hand {
                        Some(entry) => entry,
                        None => match volume.load(name, Place { lead: 0, ..place }).await {
                            Ok(entry) => Arc::new(Entry { place, ..entry }),
                            Err(_) => {
                                swept.skipped += 1;
                                needed = 0; // its body may be anywhere
                                continue;
                            }
                        },
                    };
                    // Slices are written before their head.
                    let first = entry.oldest_segment().unwrap_or(place.segment);
                    let gone = if orphan {
                        // Lookups do not find it, so nobody can want to keep it.
                        let (key, expected) = (entry.key, Some(place));
                        mount.queue.ask(|reply| Command::Remove { key, expected, durable: false, reply }).await?
                    } else {
                        let before = swept.dropped;
                        let object = Object { entry, volume: Some(volume.clone()) };
                        self.sweep_one(object, &mut judge, &mut dropped, &mut swept).await?;
                        swept.dropped > before
                    };
                    dropped_here |= gone;
                    if !gone {
                        needed = needed.min(first);
                    }
                }
            }
            // Whatever this sweep changed: what it found in place may be the work of one that was not finished.
            mount.queue.ask(|reply| Command::Sync { reply }).await?;
            if dropped_here {
                mount.queue.ask(|reply| Command::Reclaim { before: needed, reply }).await?;
            }
        }
        Ok(swept)
    }

    /// The same for the objects stored under these keys. Durable with the next sync, or [`Store::sync_removals`].
    pub async fn sweep_keys(
        &self,
        keys: &[(Key, Vec<u8>)],
        mut judge: impl FnMut(&SweptObject<'_>) -> Sweep + Send,
        mut dropped: impl FnMut(&SweptObject<'_>) + Send,
    ) -> Result<Swept, WriteError> {
        let mut swept = Swept::default();
        for (key, full_key) in keys {
            let mount = self.mount(*key);
            if let Some(owner) = mount {
                self.remove_orphans(owner, *key).await?;
            }
            match self.find(mount, *key, full_key).await {
                Ok(Some(object)) => self.sweep_one(object, &mut judge, &mut dropped, &mut swept).await?,
                Ok(None) => {}
                Err(_) => swept.skipped += 1,
            }
        }
        Ok(swept)
    }

    /// Makes the removals of a sweep durable.
    pub async fn sync_removals(&self) -> Result<(), WriteError> {
        let unsettled = |mount: &&Mount| !mount.volume.outage.is_out() && mount.volume.unsettled.load(Ordering::SeqCst);
        for mount in self.inner.disks.iter().filter(unsettled) {
            mount.queue.ask(|reply| Command::Sync { reply }).await?;
        }
        Ok(())
    }

    async fn sweep_one(
        &self,
        object: Object,
        judge: &mut (impl FnMut(&SweptObject<'_>) -> Sweep + Send),
        dropped: &mut (impl FnMut(&SweptObject<'_>) + Send),
        swept: &mut Swept,
    ) -> Result<(), WriteError> {
        let seen = swept.kept + swept.restamped + swept.dropped + swept.skipped;
        if seen % SWEEP_BATCH == SWEEP_BATCH - 1 {
            tokio::task::yield_now().await;
        }
        let record = &object.entry.record;
        let shown =
            SweptObject { full_key: &record.full_key, stamp: record.stamp, head: &record.head, length: record.length };
        let verdict = judge(&shown);
        let done = match verdict {
            Sweep::Restamp(stamp) if stamp > object.stamp() => {
                self.update_head(&object, object.head().clone(), stamp).await.map(|changed| changed.is_some())
            }
            Sweep::Keep | Sweep::Restamp(_) => {
                swept.kept += 1;
                return Ok(());
            }
            Sweep::Drop => self.remove_unchanged(&object).await,
        };
        match done {
            Ok(true) if verdict == Sweep::Drop => {
                swept.dropped += 1;
                swept.dropped_bytes += object.length();
                dropped(&shown);
            }
            Ok(true) => swept.restamped += 1,
            Ok(false) | Err(WriteError::Read(_) | WriteError::Raced) => swept.skipped += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes an object, unless its head or body has changed since: only what was judged is removed.
    async fn remove_unchanged(&self, object: &Object) -> Result<bool, WriteError> {
        let entry = object.entry.clone();
        match self.mount(object.key()) {
            Some(mount) => {
                let (key, expected) = (entry.key, Some(entry.place));
                mount.queue.ask(|reply| Command::Remove { key, expected, durable: false, reply }).await
            }
            None => Ok(self.change_in_memory(&entry, None).is_some()),
        }
    }
}
