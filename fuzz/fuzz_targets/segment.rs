//! Every structure in a segment of the store, each on its own: with the checksums as they are, and repaired.
#![no_main]

use libfuzzer_sys::fuzz_target;
use store::fuzzing::{decode, mend_header, mend_record, mend_summary};

fuzz_target!(|bytes: &[u8]| {
    decode(1, bytes);
    let mended = |mend: fn(u32, &mut [u8])| {
        let mut bytes = bytes.to_vec();
        mend(1, &mut bytes);
        decode(1, &bytes);
    };
    mended(mend_header);
    mended(|segment, bytes| _ = mend_record(segment, bytes));
    mended(mend_summary);
});
