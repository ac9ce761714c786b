//! Recovery: rebuilds the index of a disk from its segments.
//!
//! The summary of a sealed segment lists its heads and tombstones. Any other segment is synced, read from the medium
//! record by record up to the first incomplete one, and sealed there. The sync is not for speed alone: what a killed
//! process had written but not synced is still readable, and must not be acknowledged before it is durable.
//!
//! Heads are not examined here; they are checked when they are first read.

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::sync::atomic;

use bytes::Bytes;

use crate::OpenError;
use crate::disk::DiskFile;
use crate::format::{self, Kind, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, SummaryEntry, Void};
use crate::index::name;
use crate::store::fill_count;
use crate::volume::{self, Segment, Volume, place_of};

/// Bytes read at a time while scanning for records.
const WINDOW_BYTES: usize = 4 << 20;

/// What failed if the disk has to be left out at once: after a failed sync a second one proves nothing.
pub(crate) const SYNC_A_SEGMENT: &str = "sync a segment";

/// Fills the index of `volume` from its disk and returns the id of the segment to write next.
pub(crate) async fn recover(volume: &Volume) -> Result<u32, OpenError> {
    let failed = |doing| move |source| OpenError::Io { path: volume.path.clone(), doing, source };
    let names = volume.disk.list().await.map_err(failed("list segments"))?;
    let mut ids: Vec<u32> = names.iter().filter_map(|name| format::segment_id(name)).collect();
    ids.sort_unstable();

    let void = names.iter().any(|name| name == format::VOID_NAME);
    let mut segments = Vec::with_capacity(ids.len());
    let mut voids = Vec::new();
    let mut next_fill = 1;
    for &id in &ids {
        let file = volume.disk.open(&format::segment_name(id)).await.map_err(failed("open a segment"))?;
        let length = file.length().await.map_err(failed("ask for the length of a segment"))?;
        let header = file.read(0, SEGMENT_HEADER_BYTES).await.map_err(failed("read the header of a segment"))?;
        let void = match format::decode_segment_header(id, &header) {
            SegmentHeader::Other { version } => {
                let (path, known) = (volume.path.clone(), format::VERSION);
                return Err(OpenError::UnknownFormat { path, segment: id, found: version, known });
            }
            SegmentHeader::Known { next_fill: then, void } => {
                next_fill = next_fill.max(fill_count(then));
                void
            }
            SegmentHeader::Broken => None,
        };
        voids.extend(void.map(|void| (void, id)));
        segments.push((Segment::new(id, file, length, void), length));
    }
    if void {
        tracing::warn!(disk = %volume.path.display(), segments = ids.len(), "the disk was out of service; its contents are discarded");
        for &id in &ids {
            volume.disk.remove(&format::segment_name(id)).await.map_err(failed("remove a void segment"))?;
        }
        volume.disk.remove(format::VOID_NAME).await.map_err(failed("remove the mark of a void disk"))?;
        // The last segment may hold later fills than its header says, but fewer than that.
        next_fill = next_fill.saturating_add(u64::from(u32::MAX));
        segments.clear();
    }

    // The segments before the current one that the next start will scan again.
    let mut unsealed: Vec<u32> = Vec::new();
    for (segment, length) in segments {
        let id = segment.id;
        let summary = volume::read_summary(id, &*segment.file, length).await.map_err(failed("read a summary"))?;
        let entries = if let Some((trailer, entries)) = summary {
            next_fill = next_fill.max(fill_count(trailer.next_fill));
            segment.sealed(length);
            entries
        } else {
            // What a failed sync left behind may still be readable although no later sync makes it durable. So the
            // segment is synced first, and then read from the medium.
            segment.file.sync().await.map_err(failed(SYNC_A_SEGMENT))?;
            let limit = limit(&voids, id);
            let found = scan(id, &segment.file, limit).await.map_err(failed("read the records of a segment"))?;
            next_fill = next_fill.max(found.next_fill);
            tracing::info!(disk = %volume.path.display(), segment = id, records = found.records, end = found.end, "segment scanned");
            let limits = |void: &Void| unsealed.iter().any(|unsealed| *unsealed >= void.segment);
            if found.records == 0 && !segment.void.as_ref().is_some_and(limits) {
                // Created just before a crash, or abandoned at once.
                volume.disk.remove(&format::segment_name(id)).await.map_err(failed("remove an empty segment"))?;
                continue;
            }
            segment.synced(found.end);
            *segment.entries() = Some(found.entries.clone());
            if let Err(error) = segment.seal(found.end, next_fill).await {
                tracing::warn!(disk = %volume.path.display(), segment = id, %error, "segment left without a summary");
                unsealed.push(id);
            }
            found.entries
        };
        replay(volume, id, &entries);
        volume.add_segment(Arc::new(segment));
    }
    volume.next_fill.store(next_fill, atomic::Ordering::Relaxed);
    Ok(ids.last().map_or(1, |last| last.saturating_add(1)))
}

/// How many bytes of a segment count, according to newer ones.
fn limit(voids: &[(Void, u32)], id: u32) -> u64 {
    let said = voids.iter().filter_map(|&(void, newer)| match id.cmp(&void.segment) {
        Ordering::Equal => Some(u64::from(void.offset)),
        Ordering::Greater if id < newer => Some(0),
        _ => None,
    });
    said.min().unwrap_or(u64::MAX)
}

/// Applies the changes of a segment, as when they were written.
fn replay(volume: &Volume, id: u32, entries: &[SummaryEntry]) {
    // Segments are replayed oldest first, so the oldest segment is known, or is this one.
    let oldest = volume.oldest_segment().map_or(id, |segment| segment.id);
    for entry in entries {
        let name = name(entry.key);
        let mut shard = volume.index.lock(name);
        if entry.kind == Kind::Head && entry.first_segment >= oldest {
            // A head in an older segment than the first of the body is of another body.
            let new = shard.get(name).is_none_or(|older| older.segment < entry.first_segment);
            shard.insert_found(name, place_of(id, entry));
            drop(shard);
            // A head over a body that is already known adds no second body; but sifting moves parts of bodies, to
            // segments with even ids.
            if entry.first_segment != id && (new || entry.first_segment % 2 == 0) {
                volume.note_spanning(entry.first_segment, name);
            }
        } else {
            shard.remove(name);
        }
    }
}

/// The result of a scan up to the first record that is incomplete or does not count.
struct Scanned {
    entries: Vec<SummaryEntry>,
    records: u64,
    /// Where the last whole record ends.
    end: u64,
    /// Greater than the counters of all fills found.
    next_fill: u64,
}

async fn scan(id: u32, file: &Arc<dyn DiskFile>, limit: u64) -> io::Result<Scanned> {
    let mut found = Scanned { entries: Vec::new(), records: 0, end: SEGMENT_HEADER_BYTES as u64, next_fill: 0 };
    let mut window = Window { file, start: 0, bytes: Bytes::new() };
    loop {
        let at = found.end;
        let bytes = window.get(at, RECORD_HEADER_BYTES).await?;
        let Some(header) = format::decode_record_header(id, &bytes) else { break };
        let payload = window.get(at + RECORD_HEADER_BYTES as u64, header.payload_length as usize).await?;
        if payload.len() != header.payload_length as usize || crc32fast::hash(&payload) != header.payload_crc {
            break;
        }
        let length = RECORD_HEADER_BYTES as u32 + header.payload_length;
        if at + u64::from(length) > limit {
            break;
        }
        let Ok(offset) = u32::try_from(at) else { break };
        let (lead, first_segment) = match header.kind {
            Kind::Slice | Kind::Tombstone => (0, id),
            Kind::Head => {
                let Some(record) = format::decode_head(&payload) else { break };
                let lead = match &*record.slices {
                    [only] if only.segment == id && only.record_end() == at => offset - only.offset,
                    _ => 0,
                };
                (lead, record.slices.iter().map(|slice| slice.segment).min().unwrap_or(id))
            }
        };
        if header.kind != Kind::Slice {
            found.entries.push(SummaryEntry {
                key: header.key,
                kind: header.kind,
                offset,
                length,
                lead,
                first_segment,
            });
        }
        found.next_fill = found.next_fill.max(fill_count(header.fill) + 1);
        found.records += 1;
        found.end += u64::from(length);
    }
    Ok(found)
}

/// A read-ahead window of a file, read from the medium.
struct Window<'a> {
    file: &'a Arc<dyn DiskFile>,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// Reads `length` bytes at `offset`; fewer only at the end of the file. Offsets must not decrease.
    async fn get(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut from = (offset - self.start) as usize;
        if from + length > self.bytes.len() {
            self.bytes = self.file.read_medium(offset, length.max(WINDOW_BYTES)).await?;
            self.start = offset;
            from = 0;
        }
        let (from, to) = (from.min(self.bytes.len()), (from + length).min(self.bytes.len()));
        Ok(self.bytes.slice(from..to))
    }
}
