//! What fuzz targets reach of the format on disk: every decoder, with what must hold of what it read, and the checksums that let
//! arbitrary bytes get past the first look.
//!
//! Only there in tests and with the feature `fuzzing`, which the fuzz targets alone turn on.

use bytes::Bytes;

use crate::format::{
    self, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SUMMARY_ENTRY_BYTES, SegmentHeader, TRAILER_BYTES,
};

/// Any bytes, taken for each thing that lies in a segment: what can be read is written again as the same.
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

/// Sets every checksum of a segment right, as an enemy would who can write the disk.
pub fn mend(segment: u32, image: &mut [u8]) {
    mend_header(segment, image);
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some(record) = image.get_mut(at..) {
        let Some(length) = mend_record(segment, record) else { break };
        at += length;
    }
    mend_summary(segment, image);
}

/// Sets the checksum of a segment's header right.
pub fn mend_header(segment: u32, image: &mut [u8]) {
    if let Some(header) = image.get_mut(..SEGMENT_HEADER_BYTES) {
        seal(segment, header);
    }
}

/// Sets the checksums of a record right, and says how long it is; `None` where it does not end.
pub fn mend_record(segment: u32, bytes: &mut [u8]) -> Option<usize> {
    let (header, rest) = bytes.split_at_mut_checked(RECORD_HEADER_BYTES)?;
    let length = u32::from_le_bytes(header[8..12].try_into().ok()?) as usize;
    let payload = rest.get(..length).map(crc32fast::hash);
    header[12..16].copy_from_slice(&payload.unwrap_or_default().to_le_bytes());
    seal(segment, header);
    payload.map(|_| RECORD_HEADER_BYTES + length)
}

/// Sets the checksums of the summary at the end right.
pub fn mend_summary(segment: u32, image: &mut [u8]) {
    let Some(at) = image.len().checked_sub(TRAILER_BYTES) else { return };
    let (before, trailer) = image.split_at_mut(at);
    let entries = u32::from_le_bytes([trailer[16], trailer[17], trailer[18], trailer[19]]) as usize;
    if let Some(begin) = entries.checked_mul(SUMMARY_ENTRY_BYTES).and_then(|bytes| before.len().checked_sub(bytes)) {
        trailer[20..24].copy_from_slice(&format::crc(segment, &before[begin..]).to_le_bytes());
    }
    seal(segment, trailer);
}

/// Writes the checksum of all but the last four bytes into these.
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
