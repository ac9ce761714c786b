//! The origin: one register per path, whose version rises at each write.
//!
//! A version is in the header, in the ETag and in every line of the body, so that a mix of two versions is detected.
//! The name of a path states its properties, so that the checker need not guess: `weak` has no strong validator, `bare`
//! has none at all, `vary` differs by Accept-Encoding, `slow` takes a while, `open` does not state its length, `long`
//! is long.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::http1;
use crate::net::End;
use crate::random::Random;

/// The paths of the origin.
pub const PATHS: [&str; 8] =
    ["/a/1", "/a/vary-2", "/a/b/slow-3", "/a/b/weak-4", "/c/bare-5", "/c/long-6", "/c/open-7", "/c/8.png?q=1"];

/// Number of lines of a normal and of a long body.
const LINES: usize = 4;
const LINES_LONG: usize = 3_000;

/// The tag of a path; some paths share one.
pub fn tag(path: &str) -> String {
    format!("t{}", path.len() % 3)
}

/// First and last byte of a range, if it is within the body.
fn part(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().unwrap_or(length).min(length - 1));
    (first <= last).then_some((first, last))
}

/// The origin. Clones are the same one.
#[derive(Clone)]
pub struct Origin(Arc<Mutex<Inner>>);

struct Inner {
    versions: BTreeMap<String, u64>,
    random: Random,
    /// Whether it responds at once and does not break connections.
    well: bool,
}

impl Origin {
    /// An origin with every path at version one.
    pub fn new(random: Random) -> Origin {
        let versions = PATHS.iter().map(|path| ((*path).to_owned(), 1)).collect();
        Origin(Arc::new(Mutex::new(Inner { versions, random, well: false })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// Changes a path; returns its new version.
    pub fn change(&self, path: &str) -> u64 {
        let mut inner = self.lock();
        let version = inner.versions.entry(path.to_owned()).or_insert(0);
        *version += 1;
        *version
    }

    /// From now on it responds at once.
    pub fn get_well(&self) {
        self.lock().well = true;
    }

    /// The version of a path.
    pub fn version(&self, path: &str) -> u64 {
        self.lock().versions.get(path).copied().unwrap_or(0)
    }

    /// Serves all connections.
    pub async fn serve(self, mut incoming: mpsc::Receiver<End>) {
        while let Some(stream) = incoming.recv().await {
            let origin = self.clone();
            tokio::spawn(async move { origin.connection(stream).await });
        }
    }

    async fn connection(&self, mut stream: End) -> io::Result<()> {
        let mut buffer = Vec::new();
        while let Some((line, headers)) = http1::read_head(&mut stream, &mut buffer).await? {
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let (before, after, breaks) = if self.lock().well {
                (Duration::ZERO, Duration::ZERO, false)
            } else {
                let random = &mut self.lock().random;
                let slow = path.contains("slow");
                let pause = |random: &mut Random| match random.draw() % 8 {
                    0 if slow => random.millis(500..4_000),
                    0 | 1 => random.millis(1..400),
                    _ => random.millis(0..5),
                };
                (pause(random), pause(random), random.one_in(40))
            };
            // The version is read at some moment between request and response.
            tokio::time::sleep(before).await;
            let version = self.version(&path);
            tokio::time::sleep(after).await;
            if version == 0 {
                stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?;
                continue;
            }
            let etag = if path.contains("weak") { format!("W/\"{version}\"") } else { format!("\"{version}\"") };
            let mut head =
                format!("x-version: {version}\r\ncache-control: max-age=3600\r\ncache-tag: all, {}\r\n", tag(&path));
            if !path.contains("bare") {
                head.push_str(&format!("etag: {etag}\r\n"));
            }
            if path.contains("vary") {
                head.push_str("vary: accept-encoding\r\n");
            }
            let confirms = !path.contains("bare") && headers.get("if-none-match").is_some_and(|sent| *sent == etag);
            if confirms {
                stream.write_all(format!("HTTP/1.1 304 Not Modified\r\n{head}\r\n").as_bytes()).await?;
                continue;
            }
            let lines = if path.contains("long") { LINES_LONG } else { LINES };
            let body = format!("{path} {version}\n").repeat(lines);
            let open = path.contains("open");
            let part = headers.get("range").filter(|_| !open).and_then(|range| part(range, body.len()));
            let (status, range, body) = match part {
                Some((first, last)) => {
                    let range = format!("content-range: bytes {first}-{last}/{}\r\n", body.len());
                    ("206 Partial Content", range, &body[first..=last])
                }
                None => ("200 OK", String::new(), &body[..]),
            };
            let length =
                if open { "connection: close\r\n".to_owned() } else { format!("content-length: {}\r\n", body.len()) };
            stream.write_all(format!("HTTP/1.1 {status}\r\n{head}{range}{length}\r\n").as_bytes()).await?;
            let (first, second) = body.as_bytes().split_at(body.len() / 2);
            stream.write_all(first).await?;
            tokio::time::sleep(after / 2).await;
            if breaks && !open {
                return Ok(());
            }
            stream.write_all(second).await?;
            if open {
                return Ok(());
            }
        }
        Ok(())
    }
}
