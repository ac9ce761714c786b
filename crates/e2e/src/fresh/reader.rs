//! Readers: each requests one object after another from one node, continuously, and records the responses.
//!
//! A reader does not wait for ever: if its node stands still it gives up after a while, so that there are always reads
//! that begin now. Most use HTTP/1.1 over connections that they keep for a while, some HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::header::{ACCEPT_LANGUAGE, HOST, RANGE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::AbortHandle;

use super::Dice;
use super::checker::Answered;
use super::history::{History, Watched, Witness};
use super::origin::{self, LANGUAGES, VERSION};
use crate::stage::DOMAIN;

/// How long readers wait for a response: some shorter than a lease, some longer.
const PATIENCE: [Duration; 3] = [Duration::from_millis(700), Duration::from_secs(3), Duration::from_secs(12)];

/// Bytes that a range read requests.
const PART: usize = 100;

/// Counts of the readers of one node.
#[derive(Debug, Default)]
pub struct Seen {
    /// Objects received.
    pub objects: AtomicU64,
    /// Objects among them that some node's store answered.
    pub hits: AtomicU64,
}

/// The parameters of a reader.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The node's number in the history.
    pub node: usize,
    /// The loopback port of the node, or of a relay in front of it.
    pub port: u16,
    /// Where reads are recorded.
    pub history: History,
    /// The counts for its node.
    pub seen: Arc<Seen>,
    /// The longest pause between reads, in milliseconds.
    pub pause_ms: u64,
}

enum Sending {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

/// An open connection; it closes when dropped.
struct Connection {
    sending: Sending,
    witness: Arc<Witness>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    async fn open(port: u16, two: bool) -> anyhow::Result<Connection> {
        let (stream, witness) = Watched::connect(port, two).await?;
        if two {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            let driver = tokio::spawn(connection).abort_handle();
            return Ok(Connection { sending: Sending::Two(sender), witness, driver });
        }
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Connection { sending: Sending::One(sender), witness, driver })
    }

    async fn send(&mut self, path: &str, extra: &[(http::HeaderName, String)]) -> anyhow::Result<Response<Incoming>> {
        let mut request = match &self.sending {
            Sending::One(_) => Request::builder().uri(path).header(HOST, DOMAIN),
            Sending::Two(_) => Request::builder().uri(format!("http://{DOMAIN}{path}")),
        };
        for (name, value) in extra {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new())?;
        Ok(match &mut self.sending {
            Sending::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sending::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }
}

impl Reader {
    /// Reads until dropped. Fails only if a response is no version of the object at all.
    pub async fn run(self, mut dice: Dice) -> anyhow::Result<()> {
        let paths = origin::paths();
        loop {
            let patience = *dice.pick(&PATIENCE);
            let two = dice.chance(15);
            let connection = tokio::time::timeout(patience, Connection::open(self.port, two)).await;
            let Ok(Ok(mut connection)) = connection else {
                tokio::time::sleep(Duration::from_millis(50)).await; // the process is down
                continue;
            };
            for _ in 0..dice.within(1..12) {
                let path = dice.pick(&paths);
                let again = self.read(&mut connection, path, patience, &mut dice).await?;
                tokio::time::sleep(dice.millis(0..self.pause_ms.max(1))).await;
                if !again {
                    break;
                }
            }
        }
    }

    /// One read; returns whether the connection can be reused.
    async fn read(
        &self,
        connection: &mut Connection,
        path: &str,
        patience: Duration,
        dice: &mut Dice,
    ) -> anyhow::Result<bool> {
        let mut extra = Vec::new();
        let mut language = "";
        if origin::kind(path) == origin::Kind::Vary {
            language = *dice.pick(&LANGUAGES);
            extra.push((ACCEPT_LANGUAGE, language.to_owned()));
        }
        let part = dice.chance(10);
        if part {
            extra.push((RANGE, format!("bytes=0-{}", PART - 1)));
        }
        let ticket = self.history.begun(self.node, path, &connection.witness);
        let Ok(Ok(response)) = tokio::time::timeout(patience, connection.send(path, &extra)).await else {
            self.history.unanswered(ticket);
            return Ok(false);
        };
        let status = response.status();
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            self.history.unanswered(ticket);
            return Ok(false);
        }
        let text = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let version = text(VERSION.as_str()).parse().with_context(|| format!("{path}: an answer without a version"))?;
        let x_cache = text("x-cache");
        let said =
            format!("{status}, X-Cache: {x_cache}, Age: {}, Cache-Status: {}", text("age"), text("cache-status"));
        self.history.answered(ticket, &Answered { version, said });
        self.seen.objects.fetch_add(1, Ordering::Relaxed);
        self.seen.hits.fetch_add(u64::from(x_cache.starts_with("HIT")), Ordering::Relaxed);

        // A fault may cut a body off; a complete one must match its header.
        let Ok(Ok(body)) = tokio::time::timeout(patience, response.into_body().collect()).await else {
            return Ok(false);
        };
        let whole = origin::body(path, version, language);
        let expected = if status == StatusCode::PARTIAL_CONTENT { whole.slice(..PART.min(whole.len())) } else { whole };
        ensure!(body.to_bytes() == expected, "node {}: {path} is not what version {version} is", self.node);
        Ok(true)
    }
}
