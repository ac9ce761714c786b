//! A large file of which every byte is known, without being held anywhere.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};

use crate::http::{self, Answer};
use crate::nginx::Nginx;
use crate::stage::DOMAIN;

/// Bytes that nodes fetch at a time of what is large, when a part of it is asked for.
pub const SLICE: u64 = 1 << 20;

/// Bytes of a mark.
const MARK: u64 = 16;

/// A file of zeros with a mark over every border of two slices, and at its end, that names version and place: bytes of another
/// place or version are noticed wherever a slice begins or ends.
#[derive(Clone, Copy, Debug)]
pub struct Film {
    /// Where it lies.
    pub path: &'static str,
    /// Bytes of it.
    pub length: u64,
    /// Which of those that have this path and length.
    pub version: u16,
}

impl Film {
    fn marks(self, within: &Range<u64>) -> impl Iterator<Item = (u64, String)> {
        let borders =
            (within.start / SLICE..=within.end / SLICE + 1).map(|border| (border * SLICE).saturating_sub(MARK / 2));
        let last = self.length - MARK;
        let marks = borders.filter(move |at| at + MARK <= last).chain([last]);
        marks.map(move |at| (at, format!("{:04x}{at:012x}", self.version)))
    }

    /// These bytes of it.
    pub fn bytes(self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (at, mark) in self.marks(&range) {
            for (at, byte) in (at..).zip(mark.bytes()).filter(|(at, _)| range.contains(at)) {
                bytes[(at - range.start) as usize] = byte;
            }
        }
        bytes
    }

    /// Puts it in the place of what was at the origin under its path, with a time of its own.
    pub fn put(self, origin: &Nginx) -> anyhow::Result<()> {
        let path = origin.files.join(self.path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        let new = path.with_extension("new");
        let file = File::create(&new)?;
        file.set_len(self.length)?;
        for (at, mark) in self.marks(&(0..self.length)) {
            file.write_all_at(mark.as_bytes(), at)?;
        }
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + u64::from(self.version)))?;
        Ok(std::fs::rename(new, path)?)
    }

    /// Bytes of the slices in which these bytes lie.
    pub fn slices_of(self, range: &Range<u64>) -> u64 {
        ((range.end - 1) / SLICE + 1).saturating_mul(SLICE).min(self.length) - range.start / SLICE * SLICE
    }

    /// Asks the node at `port` for these bytes, and returns `X-Cache` when they are right.
    pub async fn read(self, port: u16, range: Range<u64>) -> anyhow::Result<String> {
        self.read_as(port, &format!("bytes={}-{}", range.start, range.end - 1), range).await
    }

    /// The same, asked for in these words.
    pub async fn read_as(self, port: u16, asked: &str, range: Range<u64>) -> anyhow::Result<String> {
        let answer = http::get(port, DOMAIN, self.path, &[("range", asked)]).await?;
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, self.length);
        ensure!(
            answer.status == 206 && answer.header("content-range") == content_range,
            "{asked}: {:?}",
            answer.headers
        );
        ensure!(answer.body == self.bytes(range), "{asked}: other bytes");
        Ok(answer.header("x-cache").to_owned())
    }

    /// Asks the node at `port` for it, and compares what comes with these bytes of it, however many there are. The answer has no
    /// body then.
    pub async fn watch(self, port: u16, headers: &[(&str, &str)], range: Range<u64>) -> anyhow::Result<Answer> {
        let request = http::request(DOMAIN, self.path, headers)?;
        let mut at = range.start;
        let answer = http::take(port, request, |bytes| {
            let next = at + bytes.len() as u64;
            ensure!(next <= range.end && bytes == self.bytes(at..next), "other bytes between {at} and {next}");
            at = next;
            Ok(())
        });
        let answer = answer.await?;
        ensure!(at == range.end, "{} of {range:?}, {at} bytes: {:?}", answer.status, answer.headers);
        Ok(answer)
    }
}
