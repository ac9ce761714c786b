//! What lies beside a body in a node's store: heads of objects whole and in slices, markers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| node::fuzzing::stored_head(bytes));
