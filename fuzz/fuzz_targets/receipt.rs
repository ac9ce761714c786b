//! Receipts: as files, and as the payload that would be signed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| control::fuzzing::receipt(bytes));
