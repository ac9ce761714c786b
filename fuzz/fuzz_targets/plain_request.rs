//! The head of an HTTP/1 request, as parsed below hyper.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| node::fuzzing::plain_request(bytes));
