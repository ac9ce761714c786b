//! The frames of an HTTP/2 connection, as counted against floods. The first byte decides how they are split; each
//! following byte stands for a frame or for itself, so that floods are easy to reach.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// A PING, an empty DATA, a reset: frames that cost a fuzzer one byte.
const FRAMES: [&[u8]; 3] =
    [b"\0\0\x08\x06\0\0\0\0\0ping4you", b"\0\0\0\0\0\0\0\0\x01", b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08"];

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let mut stream = Vec::new();
    for byte in bytes {
        match FRAMES.get(usize::from(*byte) % 128).filter(|_| *byte >= 128) {
            Some(frame) => (0..32).for_each(|_| stream.extend_from_slice(frame)),
            None => stream.push(*byte),
        }
    }
    node::fuzzing::http2(&stream, usize::from(*piece));
    node::fuzzing::http2(bytes, usize::from(*piece));
});
