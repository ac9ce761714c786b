//! Entry points of fuzz targets to the on-disk format: every decoder, with checks of what it decoded, and repair of
//! checksums so that arbitrary bytes pass the first check.
//!
//! Only compiled in tests and with the feature `fuzzing`, which only the fuzz targets enable.

use bytes::Bytes;

use crate::format::{
    self, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SUMMARY_ENTRY_BYTES, SegmentHeader, TRAILER_BYTES,
};

/// Decodes arbitrary bytes as each kind of structure in a segment; whatever decodes must encode to the same bytes.
pub fn decode(segment: u32, bytes: &[u8]) {
    if let SegmentHeader::Known { next_fill, void } = format::decode_segment_header(segment, bytes) {
        let again = format::encode_segment_header(segment, next_fill, void);
        assert_eq!(format::decode_segment_header(segment, &again), SegmentHeader::Known { next_fill, void });
    }
    if let Some(header) = format::decode_record_header(segment, bytes) {
        assert_eq!(format::encode_record_header(segment, &header), bytes[..RECORD_HEADER_BYTES]);
    }
    if let Some(record) = format::decode_head(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(format::encode_head(&record), bytes);
        let sum: u64 = record.slices.iter().map(|slice| u64::from(slice.length)).sum();
        assert_eq!(sum, record.length);
        for slice in &record.slices {
            assert!(slice.record_end() > u64::from(slice.offset));
        }
    }
    let (lines, end) = bytes.split_at(bytes.len().saturating_sub(TRAILER_BYTES));
    if let Some(trailer) = format::decode_trailer(segment, end)
        && let Some(entries) = format::decode_summary(segment, &trailer, lines)
    {
        let again = format::encode_summary(segment, trailer.summary_offset, &entries, trailer.next_fill);
        assert_eq!(format::decode_trailer(segment, &again[lines.len()..]), Some(trailer));
        assert_eq!(format::decode_summary(segment, &trailer, &again[..lines.len()]), Some(entries));
    }
}

/// Repairs every checksum of a segment, as an attacker with write access to the disk would.
pub fn mend(segment: u32, image: &mut [u8]) {
    mend_header(segment, image);
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(record) = image.get_mut(at..) {
        let Some(length) = mend_record(segment, record) else { break };
        at += length;
    }
    mend_summary(segment, image);
}

/// Repairs the checksum of a segment's header.
pub fn mend_header(segment: u32, image: &mut [u8]) {
    if let Some(header) = image.get_mut(..SEGMENT_HEADER_BYTES) {
        seal(segment, header);
    }
}

/// Repairs the checksums of a record, and returns its length; `None` if it is incomplete.
pub fn mend_record(segment: u32, bytes: &mut [u8]) -> Option<usize> {
    let (header, rest) = bytes.split_at_mut_checked(RECORD_HEADER_BYTES)?;
    let length = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let payload = rest.get(..length).map(crc32fast::hash);
    header[12..16].copy_from_slice(&payload.unwrap_or_default().to_le_bytes());
    seal(segment, header);
    payload.map(|_| RECORD_HEADER_BYTES + length)
}

/// Repairs the checksums of the summary at the end.
pub fn mend_summary(segment: u32, image: &mut [u8]) {
    let Some(at) = image.len().checked_sub(TRAILER_BYTES) else { return };
    let (before, trailer) = image.split_at_mut(at);
    let entries = u32::from_le_bytes([trailer[16], trailer[17], trailer[18], trailer[19]]) as usize;
    if let Some(begin) = entries.checked_mul(SUMMARY_ENTRY_BYTES).and_then(|bytes| before.len().checked_sub(bytes)) {
        trailer[20..24].copy_from_slice(&format::crc(segment, &before[begin..]).to_le_bytes());
    }
    seal(segment, trailer);
}

/// Writes the checksum of all but the last four bytes into the last four bytes.
fn seal(segment: u32, bytes: &mut [u8]) {
    if let Some((fixed, sum)) = bytes.split_last_chunk_mut::<4>() {
        *sum = format::crc(segment, fixed).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mended_is_read() {
        let mut image = format::encode_segment_header(3, 7, None).to_vec();
        let summary = format::encode_summary(3, image.len() as u64, &[], 9);
        image.extend_from_slice(&summary);
        image[60] ^= 1;
        let last = image.len() - 1;
        image[last] ^= 1;
        assert_eq!(format::decode_segment_header(3, &image), SegmentHeader::Broken);
        mend_header(3, &mut image);
        mend_summary(3, &mut image);
        assert_eq!(format::decode_segment_header(3, &image), SegmentHeader::Known { next_fill: 7, void: None });
        assert!(
            format::decode_trailer(3, &image[SEGMENT_HEADER_BYTES..]).is_some_and(|trailer| trailer.next_fill == 9)
        );
        decode(3, &image);
    }
}
