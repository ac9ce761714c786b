//! A large file whose every byte is known without being stored.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};

use crate::http::{self, Answer};
use crate::nginx::Nginx;
use crate::stage::DOMAIN;

/// Size of a slice, which nodes fetch at a time of a large body when a part is requested.
pub const SLICE: u64 = 1 << 20;

/// Size of a mark, in bytes.
const MARK: u64 = 16;

/// A file of zeros with a mark across every slice boundary, and at its end, that identifies version and position: bytes
/// from another position or version are detected wherever a slice begins or ends.
#[derive(Clone, Copy, Debug)]
pub struct Film {
    /// Its path.
    pub path: &'static str,
    /// Its length in bytes.
    pub length: u64,
    /// Distinguishes files with the same path and length.
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

    /// The bytes of a range.
    pub fn bytes(self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (at, mark) in self.marks(&range) {
            for (at, byte) in (at..).zip(mark.bytes()).filter(|(at, _)| range.contains(at)) {
                bytes[(at - range.start) as usize] = byte;
            }
        }
        bytes
    }

    /// Replaces the origin's file under its path, with a new modification time.
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

    /// Total size of the slices that contain a range.
    pub fn slices_of(self, range: &Range<u64>) -> u64 {
        ((range.end - 1) / SLICE + 1).saturating_mul(SLICE).min(self.length) - range.start / SLICE * SLICE
    }

    /// Requests a range from the node at `port`, checks it, and returns `X-Cache`.
    pub async fn read(self, port: u16, range: Range<u64>) -> anyhow::Result<String> {
        self.read_as(port, &format!("bytes={}-{}", range.start, range.end - 1), range).await
    }

    /// The same, with this text as `Range`.
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

    /// Requests it from the node at `port`, and compares the body with this range, as far as it goes. The returned
    /// answer has no body.
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
