//! Bounds the frames of an HTTP/2 connection that cost work and ask for nothing.
//!
//! h2 bounds everything it has to remember: header blocks and their CONTINUATIONs, streams, streams reset before they
//! were accepted, empty DATA. But it answers every PING and SETTINGS and drops every reset stream for as long as a
//! client sends them; a request that is reset right away costs this node a lookup, and maybe an origin a request
//! (CVE-2023-44487). So frames are counted here as they pass.
//!
//! # Not here
//!
//! WINDOW_UPDATE, of which a fast reader sends many and which cost next to nothing; HEADERS, which are requests.

use tokio::time::Instant;

/// Burst of frames that ask for nothing: twice what a browser sends when it gives up a page with as many streams as are
/// allowed.
pub(crate) const BURST_MAX: f64 = 256.0;

/// The sustained rate of them in a second.
pub(crate) const PER_SEC_MAX: f64 = 64.0;

/// Bytes a client sends before its first frame.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;

/// Too many frames that ask for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flood;

/// The head of a frame.
pub(crate) struct FrameHead {
    pub(crate) length: usize,
    kind: u8,
    flags: u8,
}

impl FrameHead {
    pub(crate) fn is_data(&self) -> bool {
        self.kind == DATA
    }
}

/// The position of one direction of a connection in its frames.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    /// Bytes to come before the next frame.
    skip: usize,
    head: [u8; FRAME_HEAD_BYTES],
    have: usize,
}

impl Heads {
    /// Consumes `bytes` up to the end of the next frame head; all of them if there is none.
    pub(crate) fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = bytes.get(skipped..).unwrap_or_default();
        let (had, taken) = (self.have, bytes.len().min(FRAME_HEAD_BYTES - self.have));
        self.head[had..had + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
        if self.have < FRAME_HEAD_BYTES {
            return None;
        }
        self.have = 0;
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        Some(FrameHead { length: self.skip, kind, flags })
    }
}

/// The position in a client's frames, and how many more that ask for nothing it may send.
#[derive(Debug)]
pub(crate) struct Frames {
    heads: Heads,
    left: f64,
    /// When `left` was last replenished.
    grown: Instant,
}

impl Frames {
    /// A connection that will begin with the preface.
    pub(crate) fn new(now: Instant) -> Frames {
        let heads = Heads { skip: PREFACE.len(), ..Heads::default() };
        Frames { heads, left: BURST_MAX, grown: now }
    }

    /// Counts the frames in bytes that came.
    pub(crate) fn see(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while let Some(FrameHead { length, kind, flags }) = self.heads.next(&mut bytes) {
            let asks = match kind {
                DATA => length > 0 || flags & END_STREAM != 0,
                HEADERS | WINDOW_UPDATE => true,
                _ => false,
            };
            if !asks {
                self.pay(now)?;
            }
        }
        Ok(())
    }

    fn pay(&mut self, now: Instant) -> Result<(), Flood> {
        let passed = now.saturating_duration_since(self.grown).as_secs_f64();
        self.left = (self.left + passed * PER_SEC_MAX).min(BURST_MAX);
        self.grown = now;
        if self.left < 1.0 {
            return Err(Flood);
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, (payload >> 8) as u8, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD_BYTES + payload, 0);
        frame
    }

    #[tokio::test]
    async fn frames_that_ask_for_nothing_run_out() {
        let cases = [
            // kind flags payload             counted
            (0, 0, 10, false),         // DATA
            (0, 0, 0, true),           // empty
            (0, END_STREAM, 0, false), // the end of one
            (1, 4, 20, false),         // HEADERS
            (2, 0, 5, true),           // PRIORITY
            (3, 0, 4, true),           // RST_STREAM
            (4, 0, 6, true),           // SETTINGS
            (6, 0, 8, true),           // PING
            (8, 0, 4, false),          // WINDOW_UPDATE
            (9, 0, 0, true),           // CONTINUATION
            (77, 0, 3, true),          // unknown
        ];
        for (kind, flags, payload, counted) in cases {
            let now = Instant::now();
            // Whole, and cut at every byte.
            for piece in [usize::MAX, 1] {
                let mut frames = Frames::new(now);
                assert_eq!(frames.see(PREFACE, now), Ok(()));
                let many = frame(kind, flags, payload).repeat(BURST_MAX as usize);
                let mut pieces = many.chunks(piece.min(many.len()));
                assert!(pieces.all(|piece| frames.see(piece, now) == Ok(())), "{kind} {flags}");
                let one_more = frames.see(&frame(kind, flags, payload), now);
                assert_eq!(one_more.is_err(), counted, "{kind} {flags}");
            }
        }
    }

    #[tokio::test]
    async fn they_come_back_with_time() {
        let begun = Instant::now();
        let mut frames = Frames::new(begun);
        frames.see(PREFACE, begun).unwrap();
        let ping = frame(6, 0, 0);
        assert!((0..BURST_MAX as u32).all(|_| frames.see(&ping, begun).is_ok()));
        assert_eq!(frames.see(&ping, begun), Err(Flood));
        let later = begun + Duration::from_secs(1);
        assert!((0..PER_SEC_MAX as u32).all(|_| frames.see(&ping, later).is_ok()));
        assert_eq!(frames.see(&ping, later), Err(Flood));
        // One a second may go on for ever.
        let slow = (60..2000).map(|secs| begun + Duration::from_secs(secs));
        for at in slow {
            assert_eq!(frames.see(&ping, at), Ok(()));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_count_the_same(bytes: Vec<u8>, cut in 1..64_usize) {
            let now = Instant::now();
            let (mut whole, mut pieces) = (Frames::new(now), Frames::new(now));
            let one = whole.see(&bytes, now);
            let many = bytes.chunks(cut).try_for_each(|piece| pieces.see(piece, now));
            assert_eq!(one, many);
        }
    }
}
