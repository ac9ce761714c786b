//! A user: a plain GET from a node, timed and hashed.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) x_cache: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// From the request to the first byte of the body.
    pub(super) first_byte: Duration,
}

/// Requests `path` of `host` from `address`, on a connection of its own.
pub(super) async fn get(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<Answer> {
    tokio::time::timeout(ANSWER_MAX, ask(address, host, path)).await.context("no answer in time")?
}

async fn ask(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = http::Request::get(path).header(http::header::HOST, host).body(Empty::<Bytes>::new())?;
    let begun = Instant::now();
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let x_cache = answer.headers().get("x-cache").and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let mut body = answer.into_body();
    let mut hash = Sha256::new();
    let (mut bytes, mut first_byte) = (0, None);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            first_byte.get_or_insert_with(|| begun.elapsed());
            bytes += data.len() as u64;
            hash.update(data);
        }
    }
    let first_byte = first_byte.unwrap_or_else(|| begun.elapsed());
    Ok(Answer { status, x_cache, bytes, sha256: hex::encode(hash.finalize()), first_byte })
}
