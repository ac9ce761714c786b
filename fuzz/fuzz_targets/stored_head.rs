//! The metadata beside bodies in a node's store: heads of whole and of sliced objects, markers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| node::fuzzing::stored_head(bytes));
