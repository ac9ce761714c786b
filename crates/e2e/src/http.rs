//! A small HTTP client for scenarios: one request, one complete response, with a `Host` of the caller's choice.

use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// How long one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The complete body.
    pub body: Bytes,
}

impl Answer {
    /// A header as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The parts of a multipart answer: `Content-Range` and bytes of each.
    pub fn parts(&self) -> anyhow::Result<Vec<(String, Bytes)>> {
        let boundary = self.header("content-type").strip_prefix("multipart/byteranges; boundary=");
        let boundary = boundary.with_context(|| format!("not in parts: {:?}", self.headers))?.trim_matches('"');
        let (open, end) = (format!("--{boundary}\r\n"), format!("--{boundary}--"));
        let find = |from: usize, what: &str| {
            let at = self.body[from..].windows(what.len()).position(|window| window == what.as_bytes());
            at.map(|at| from + at)
        };
        let (mut parts, mut at) = (Vec::new(), find(0, &open).context("a first part")?);
        while !self.body[at..].starts_with(end.as_bytes()) {
            let begins = find(at, "\r\n\r\n").context("the end of a part's head")? + 4;
            let head = String::from_utf8_lossy(&self.body[at..begins]).to_lowercase();
            let range = head.lines().find_map(|line| line.strip_prefix("content-range:")).context("Content-Range")?;
            at = find(begins, &format!("\r\n--{boundary}")).context("the end of a part")?;
            parts.push((range.trim().to_owned(), self.body.slice(begins..at)));
            at += 2;
        }
        Ok(parts)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A GET of `path` of `host`.
pub fn request(host: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(Method::GET).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.body(Full::new(Bytes::new()))?)
}

/// Requests `path` of `host` from the server at `127.0.0.1:port`.
pub async fn get(port: u16, host: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    send(port, request(host, path, headers)?).await
}

/// Sends one request over a connection of its own.
pub async fn send(port: u16, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let mut whole = BytesMut::new();
    let exchange = take(port, request, |bytes| {
        whole.extend_from_slice(&bytes);
        Ok(())
    });
    let answer = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.context("no whole answer in time")??;
    Ok(Answer { body: whole.freeze(), ..answer })
}

/// Sends one request over its own connection, and passes the body on as it arrives; there is no time limit while it
/// keeps arriving. The returned answer has no body.
pub async fn take(
    port: u16,
    request: Request<Full<Bytes>>,
    mut taken: impl FnMut(Bytes) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    let answered = async {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("connect to port {port}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        anyhow::Ok((sender.send_request(request).await?, driver))
    };
    let (response, _driver) = tokio::time::timeout(EXCHANGE_TIMEOUT, answered).await.context("no answer in time")??;
    let (parts, mut body) = response.into_parts();
    while let Some(frame) = tokio::time::timeout(EXCHANGE_TIMEOUT, body.frame()).await.context("no bytes in time")? {
        if let Ok(bytes) = frame?.into_data() {
            taken(bytes)?;
        }
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body: Bytes::new() })
}
