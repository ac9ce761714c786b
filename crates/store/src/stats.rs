//! Counters of a store: kept as atomics, returned as values.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a store holds and has done since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Objects that lookups can find: on disk, or in memory if there is no disk. May include large objects that have
    /// lost a slice to eviction and were not requested since.
    pub objects: u64,
    /// Bytes of the segments on all disks, including unused room in open ones and what only readers hold.
    pub disk_bytes: u64,
    /// Bytes the segments may take.
    pub disk_capacity_bytes: u64,
    /// Segments on all disks.
    pub segments: u64,
    /// Bytes of evicted or sifted segments that readers still hold.
    pub held_bytes: u64,
    /// Bound of `held_bytes`: beyond it, the room is taken back and the readers end.
    pub held_bytes_max: u64,
    /// Segments taken back from readers.
    pub taken_back_segments: u64,
    /// Bytes of heads and bodies in memory.
    pub memory_bytes: u64,
    /// Bound of `memory_bytes`.
    pub memory_capacity_bytes: u64,
    /// Body bytes in memory, whoever holds them: the memory tier, the disk writers, readers and their callers. Buffers
    /// of a few KiB do not count.
    pub buffered_bytes: u64,
    /// Bound of `buffered_bytes`: readers start to save memory before it, and [`crate::Store::is_exhausted`] is true
    /// once it is reached.
    pub buffered_bytes_max: u64,
    /// Bytes handed to the disk writers and not yet written; at most `in_flight_bytes_max`.
    pub in_flight_bytes: u64,
    /// Bound of `in_flight_bytes`.
    pub in_flight_bytes_max: u64,
    /// Bytes of running fills that do not yet fill a slice.
    pub gathering_bytes: u64,
    /// Bytes that running fills may need for that, judged by their announced lengths.
    pub reserved_bytes: u64,
    /// Bound of `reserved_bytes`.
    pub reserved_bytes_max: u64,
    /// Fills running now.
    pub fills: u64,
    /// Lookups answered from memory.
    pub memory_hits: u64,
    /// Lookups answered from disk.
    pub disk_hits: u64,
    /// Lookups that found nothing.
    pub misses: u64,
    /// Objects committed.
    pub commits: u64,
    /// Syncs that finished; `commits / syncs` is the average group size.
    pub syncs: u64,
    /// Bytes of records written to segments.
    pub written_bytes: u64,
    /// Bytes read back from segments.
    pub read_bytes: u64,
    /// Segments reclaimed to make room.
    pub evicted_segments: u64,
    /// Heads that left the index with those segments, or by sifting.
    pub evicted_objects: u64,
    /// Segments that were sifted: objects not requested since they were written were removed.
    pub sifted_segments: u64,
    /// Objects that were kept when their segment was sifted or reclaimed, because they had been requested.
    pub kept_objects: u64,
    /// Pinned objects.
    pub pinned_objects: u64,
    /// Bytes they take on the disks.
    pub pinned_bytes: u64,
    /// Bound of `pinned_bytes`.
    pub pinned_bytes_max: u64,
    /// Pins lost although nobody removed the object: its replacement was too large, or its disk fails.
    pub pins_lost: u64,
    /// Configured disks that are out of service.
    pub disks_out: u64,
    /// Reads that failed or returned bytes with a wrong checksum.
    pub read_errors: u64,
    /// Writes and syncs that failed.
    pub write_errors: u64,
    /// Milliseconds that recovery took when the store was opened.
    pub recovery_ms: u64,
}

/// The counters, over all disks.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) gathering_bytes: AtomicU64,
    pub(crate) reserved_bytes: AtomicU64,
    pub(crate) fills: AtomicU64,
    pub(crate) memory_hits: AtomicU64,
    pub(crate) disk_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) evicted_segments: AtomicU64,
    pub(crate) evicted_objects: AtomicU64,
    pub(crate) sifted_segments: AtomicU64,
    pub(crate) taken_back_segments: AtomicU64,
    pub(crate) kept_objects: AtomicU64,
    pub(crate) read_errors: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    pub(crate) recovery_ms: AtomicU64,
}

impl Counters {
    /// Reserves bytes for a fill; `false` if that would bring the total above `most`.
    pub(crate) fn reserve(&self, bytes: u64, most: u64) -> bool {
        let fits = |reserved: u64| reserved.checked_add(bytes).filter(|sum| *sum <= most);
        self.reserved_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            gathering_bytes: now(&self.gathering_bytes),
            reserved_bytes: now(&self.reserved_bytes),
            fills: now(&self.fills),
            memory_hits: now(&self.memory_hits),
            disk_hits: now(&self.disk_hits),
            misses: now(&self.misses),
            commits: now(&self.commits),
            syncs: now(&self.syncs),
            written_bytes: now(&self.written_bytes),
            read_bytes: now(&self.read_bytes),
            evicted_segments: now(&self.evicted_segments),
            evicted_objects: now(&self.evicted_objects),
            sifted_segments: now(&self.sifted_segments),
            taken_back_segments: now(&self.taken_back_segments),
            kept_objects: now(&self.kept_objects),
            read_errors: now(&self.read_errors),
            write_errors: now(&self.write_errors),
            recovery_ms: now(&self.recovery_ms),
            ..Stats::default()
        }
    }
}
