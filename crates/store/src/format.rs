//! The format of a segment on disk, version 1: bytes to values and back.
//!
//! A segment is a header, consecutive records, and, once sealed, a summary at its very end. All numbers are little
//! endian. The input of a decoder may be garbage: each checks a CRC-32 and every length before it trusts a value.
//!
//! ```text
//! header   magic "WARMSEGM" | version u32 | segment u32 | next fill u64 | void segment u32 | void offset u32 | zeros to 60
//!          | crc u32 over the segment id and the 60 bytes
//! record   magic u32 | kind u8, 3 zeros | payload length u32 | payload crc u32 | key u128 | fill u64 | slice number u32
//!          | crc u32 over the segment id and the 44 bytes | payload
//!   slice      payload: bytes of the body
//!   head       payload: stamp u64 | length u64 | body crc u32 | full key length u32 | head length u32 | slices u32
//!              | slices x (segment u32, record offset u32, length u32, payload crc u32) | full key | head
//!   tombstone  no payload: everything before it under the key is gone
//! summary  entries x (key u128 | kind u8, 3 zeros | offset u32 | length u32 | lead u32 | first segment u32)
//! trailer  magic "WARMSUMM" | summary offset u64 | entries u32 | crc of the entries u32 | next fill u64 | segment u32
//!          | crc u32 over the segment id and the 36 bytes; the last 40 bytes of the file
//! ```
//!
//! Beside the segments there may be a file `void`, whose content does not matter: the disk was taken out of service,
//! and none of its segments counts any more. There may also be empty files named `without-` and the hash of a path: the
//! disk with that path was left out ([`crate::absence`]).
//!
//! The segment's id is part of the checksums, so that bytes of one segment are never taken for those of another.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::Key;

/// The version written, and the newest that can be read.
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
pub(crate) const RECORD_HEADER_BYTES: usize = 48;
pub(crate) const SUMMARY_ENTRY_BYTES: usize = 36;
pub(crate) const TRAILER_BYTES: usize = 40;

/// Longest slice, in bytes.
pub(crate) const SLICE_BYTES_MAX: usize = 1 << 20;
/// Longest opaque head, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 256 << 10;
/// Longest full key, in bytes.
pub(crate) const FULL_KEY_BYTES_MAX: usize = 64 << 10;
/// Maximum number of slices of a body: a terabyte, with slices of full length.
pub(crate) const SLICES_MAX: u64 = 1 << 20;
/// Longest payload accepted, in bytes: twice the size of a head with the maximum number of slices.
const PAYLOAD_BYTES_MAX: usize = 32 << 20;
/// Longest record, in bytes.
pub(crate) const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + PAYLOAD_BYTES_MAX;

const SEGMENT_MAGIC: &[u8; 8] = b"WARMSEGM";
const TRAILER_MAGIC: &[u8; 8] = b"WARMSUMM";
const RECORD_MAGIC: u32 = 0x5752_4d31;
const HEAD_FIXED_BYTES: usize = 32;
const SLICE_ENTRY_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Slice = 1,
    Head = 2,
    Tombstone = 3,
}

impl Kind {
    fn decode(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Slice),
            2 => Some(Kind::Head),
            3 => Some(Kind::Tombstone),
            _ => None,
        }
    }
}

/// The header of a record, before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: Kind,
    pub(crate) payload_length: u32,
    pub(crate) payload_crc: u32,
    pub(crate) key: Key,
    pub(crate) fill: u64,
    /// Number of the slice in its body; 0 for other kinds.
    pub(crate) number: u32,
}

impl RecordHeader {
    /// The header of a head or a tombstone record.
    pub(crate) fn of(kind: Kind, key: Key, fill: u64, payload: &[u8]) -> RecordHeader {
        let (payload_length, payload_crc) = (payload.len() as u32, crc32fast::hash(payload));
        RecordHeader { kind, payload_length, payload_crc, key, fill, number: 0 }
    }

    /// The header of the record of slice `number` of a fill's body.
    pub(crate) fn of_slice(key: Key, fill: u64, number: u32, at: &SliceAt) -> RecordHeader {
        RecordHeader { kind: Kind::Slice, payload_length: at.length, payload_crc: at.crc, key, fill, number }
    }
}

/// Where a slice of a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SliceAt {
    /// Position of its first byte in the body.
    pub(crate) start: u64,
    pub(crate) segment: u32,
    /// Offset of the record, header included.
    pub(crate) offset: u32,
    /// Length of the payload.
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl SliceAt {
    /// Offset in the segment at which the record ends.
    pub(crate) fn record_end(&self) -> u64 {
        u64::from(self.offset) + RECORD_HEADER_BYTES as u64 + u64::from(self.length)
    }
}

/// The payload of a head record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadRecord {
    pub(crate) stamp: u64,
    pub(crate) length: u64,
    pub(crate) checksum: u32,
    pub(crate) full_key: Bytes,
    pub(crate) head: Bytes,
    pub(crate) slices: SmallVec<[SliceAt; 1]>,
}

/// An entry of a segment's summary: a head or a tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SummaryEntry {
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) offset: u32,
    /// Length of the whole record.
    pub(crate) length: u32,
    /// Bytes directly before the head that are the record of the body's only slice; otherwise 0.
    pub(crate) lead: u32,
    /// The oldest segment that holds a slice of the body; the entry's own if there is none.
    pub(crate) first_segment: u32,
}

impl SummaryEntry {
    /// The entry of a tombstone.
    pub(crate) fn tombstone(key: Key, segment: u32, offset: u32) -> SummaryEntry {
        let length = RECORD_HEADER_BYTES as u32;
        SummaryEntry { key, kind: Kind::Tombstone, offset, length, lead: 0, first_segment: segment }
    }
}

/// The contents of a valid trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) summary_offset: u64,
    pub(crate) entries: u32,
    pub(crate) entries_crc: u32,
    /// Greater than the ids of all fills with a slice in this segment.
    pub(crate) next_fill: u64,
}

/// A position in the log. Everything between it and the segment whose header names it was abandoned after a failed
/// write, and does not count, whether or not it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Void {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

/// The result of decoding a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentHeader {
    /// Written by a version that this program can read.
    Known { next_fill: u64, void: Option<Void> },
    /// Complete, but of another version.
    Other { version: u32 },
    /// Incomplete: the segment was created just before a crash, or its disk fails.
    Broken,
}

impl HeadRecord {
    /// The checksum of a body, from those of its slices.
    pub(crate) fn checksum_of(slices: &[SliceAt]) -> u32 {
        let mut whole = crc32fast::Hasher::new();
        for slice in slices {
            whole.combine(&crc32fast::Hasher::new_with_initial_len(slice.crc, u64::from(slice.length)));
        }
        whole.finalize()
    }
}

pub(crate) fn crc(segment: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(segment);
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn encode_segment_header(segment: u32, next_fill: u64, void: Option<Void>) -> Bytes {
    let mut out = BytesMut::with_capacity(SEGMENT_HEADER_BYTES);
    out.put_slice(SEGMENT_MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(segment);
    out.put_u64_le(next_fill);
    // Ids begin with 1, so 0 means that nothing is void.
    out.put_u32_le(void.map_or(0, |void| void.segment));
    out.put_u32_le(void.map_or(0, |void| void.offset));
    out.resize(SEGMENT_HEADER_BYTES - 4, 0);
    let sum = crc(segment, &out);
    out.put_u32_le(sum);
    out.freeze()
}

pub(crate) fn decode_segment_header(segment: u32, bytes: &[u8]) -> SegmentHeader {
    let Some((fixed, mut sum)) = bytes.get(..SEGMENT_HEADER_BYTES).map(|b| b.split_at(SEGMENT_HEADER_BYTES - 4)) else {
        return SegmentHeader::Broken;
    };
    let mut rest = fixed;
    if sum.get_u32_le() != crc(segment, fixed) || rest.copy_to_bytes(8) != SEGMENT_MAGIC[..] {
        return SegmentHeader::Broken;
    }
    let version = rest.get_u32_le();
    if version != VERSION {
        return SegmentHeader::Other { version };
    }
    let _id = rest.get_u32_le();
    let next_fill = rest.get_u64_le();
    let void = Void { segment: rest.get_u32_le(), offset: rest.get_u32_le() };
    SegmentHeader::Known { next_fill, void: (void.segment != 0).then_some(void) }
}

pub(crate) fn encode_record_header(segment: u32, header: &RecordHeader) -> Bytes {
    let mut out = BytesMut::with_capacity(RECORD_HEADER_BYTES);
    out.put_u32_le(RECORD_MAGIC);
    out.put_u32_le(header.kind as u32);
    out.put_u32_le(header.payload_length);
    out.put_u32_le(header.payload_crc);
    out.put_u128_le(header.key.0);
    out.put_u64_le(header.fill);
    out.put_u32_le(header.number);
    let sum = crc(segment, &out);
    out.put_u32_le(sum);
    out.freeze()
}

pub(crate) fn decode_record_header(segment: u32, bytes: &[u8]) -> Option<RecordHeader> {
    let (fixed, mut sum) = bytes.get(..RECORD_HEADER_BYTES)?.split_at(RECORD_HEADER_BYTES - 4);
    let mut rest = fixed;
    if sum.get_u32_le() != crc(segment, fixed) || rest.get_u32_le() != RECORD_MAGIC {
        return None;
    }
    let kind = Kind::decode(u8::try_from(rest.get_u32_le()).ok()?)?;
    let payload_length = rest.get_u32_le();
    if payload_length as usize > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload_crc = rest.get_u32_le();
    let key = Key(rest.get_u128_le());
    Some(RecordHeader { kind, payload_length, payload_crc, key, fill: rest.get_u64_le(), number: rest.get_u32_le() })
}

pub(crate) fn encode_head(record: &HeadRecord) -> Bytes {
    let length = HEAD_FIXED_BYTES + record.slices.len() * SLICE_ENTRY_BYTES + record.full_key.len() + record.head.len();
    let mut out = BytesMut::with_capacity(length);
    out.put_u64_le(record.stamp);
    out.put_u64_le(record.length);
    out.put_u32_le(record.checksum);
    out.put_u32_le(record.full_key.len() as u32);
    out.put_u32_le(record.head.len() as u32);
    out.put_u32_le(record.slices.len() as u32);
    for slice in &record.slices {
        out.put_u32_le(slice.segment);
        out.put_u32_le(slice.offset);
        out.put_u32_le(slice.length);
        out.put_u32_le(slice.crc);
    }
    out.put_slice(&record.full_key);
    out.put_slice(&record.head);
    out.freeze()
}

/// Length of a head's payload before it is encoded.
pub(crate) fn head_length(full_key: &[u8], head: &[u8], slices: usize) -> usize {
    HEAD_FIXED_BYTES + slices * SLICE_ENTRY_BYTES + full_key.len() + head.len()
}

/// Decodes a payload whose checksum has been verified. `None` if its lengths are inconsistent.
pub(crate) fn decode_head(payload: &Bytes) -> Option<HeadRecord> {
    let mut rest = payload.clone();
    if rest.len() < HEAD_FIXED_BYTES {
        return None;
    }
    let (stamp, length, checksum) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u32_le());
    let (key_length, head_length) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
    let count = rest.get_u32_le() as usize;
    let expected = count.checked_mul(SLICE_ENTRY_BYTES)?.checked_add(key_length)?.checked_add(head_length)?;
    if rest.len() != expected {
        return None;
    }
    let mut start = 0u64;
    let mut slices = SmallVec::with_capacity(count);
    for _ in 0..count {
        let (segment, offset, length) = (rest.get_u32_le(), rest.get_u32_le(), rest.get_u32_le());
        slices.push(SliceAt { start, segment, offset, length, crc: rest.get_u32_le() });
        start = start.checked_add(u64::from(length))?;
    }
    if start != length {
        return None;
    }
    let full_key = rest.split_to(key_length);
    Some(HeadRecord { stamp, length, checksum, full_key, head: rest, slices })
}

/// Length of a summary and its trailer.
pub(crate) fn summary_length(entries: usize) -> usize {
    entries * SUMMARY_ENTRY_BYTES + TRAILER_BYTES
}

/// Encodes a summary and its trailer, to be written at `offset` as the end of the file.
pub(crate) fn encode_summary(segment: u32, offset: u64, entries: &[SummaryEntry], next_fill: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(summary_length(entries.len()));
    for entry in entries {
        out.put_u128_le(entry.key.0);
        out.put_u32_le(entry.kind as u32);
        out.put_u32_le(entry.offset);
        out.put_u32_le(entry.length);
        out.put_u32_le(entry.lead);
        out.put_u32_le(entry.first_segment);
    }
    let entries_crc = crc(segment, &out);
    let trailer = out.len();
    out.put_slice(TRAILER_MAGIC);
    out.put_u64_le(offset);
    out.put_u32_le(entries.len() as u32);
    out.put_u32_le(entries_crc);
    out.put_u64_le(next_fill);
    out.put_u32_le(segment);
    let sum = crc(segment, &out[trailer..]);
    out.put_u32_le(sum);
    out.freeze()
}

pub(crate) fn decode_trailer(segment: u32, bytes: &[u8]) -> Option<Trailer> {
    let (fixed, mut sum) = bytes.get(..TRAILER_BYTES)?.split_at(TRAILER_BYTES - 4);
    let mut rest = fixed;
    if sum.get_u32_le() != crc(segment, fixed) || rest.copy_to_bytes(8) != TRAILER_MAGIC[..] {
        return None;
    }
    let (summary_offset, entries) = (rest.get_u64_le(), rest.get_u32_le());
    Some(Trailer { summary_offset, entries, entries_crc: rest.get_u32_le(), next_fill: rest.get_u64_le() })
}

pub(crate) fn decode_summary(segment: u32, trailer: &Trailer, bytes: &[u8]) -> Option<Vec<SummaryEntry>> {
    let expected = (trailer.entries as usize).checked_mul(SUMMARY_ENTRY_BYTES)?;
    if bytes.len() != expected || crc(segment, bytes) != trailer.entries_crc {
        return None;
    }
    let mut rest = bytes;
    let mut entries = Vec::with_capacity(trailer.entries as usize);
    for _ in 0..trailer.entries {
        let key = Key(rest.get_u128_le());
        let kind = Kind::decode(u8::try_from(rest.get_u32_le()).ok()?)?;
        let (offset, length, lead) = (rest.get_u32_le(), rest.get_u32_le(), rest.get_u32_le());
        entries.push(SummaryEntry { key, kind, offset, length, lead, first_segment: rest.get_u32_le() });
    }
    Some(entries)
}

/// Name of the file that voids all segments beside it: the disk was out of service when it was written.
pub(crate) const VOID_NAME: &str = "void";

/// Name of the file that records that a disk was left out when this one was opened; `seed` is the hash of the other's
/// path.
pub(crate) fn left_out_name(seed: u64) -> String {
    format!("without-{seed:016x}")
}

/// Name of a segment's file.
pub(crate) fn segment_name(id: u32) -> String {
    format!("{id:08}.seg")
}

/// The id in a file's name, if it is that of a segment.
pub(crate) fn segment_id(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let id = digits.parse().ok()?;
    (segment_name(id) == name).then_some(id)
}
