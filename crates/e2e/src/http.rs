//! A small HTTP client for scenarios: one request, one whole answer, `Host` as the caller says.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, whole.
    pub body: Bytes,
}

impl Answer {
    /// A header as text; empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Asks the server at `127.0.0.1:port` for `path` of `host`.
pub async fn get(port: u16, host: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let mut request = Request::builder().method(Method::GET).uri(path).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(port, request.body(Full::new(Bytes::new()))?).await
}

/// Sends one request over a connection of its own.
pub async fn send(port: u16, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let exchange = async {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).await.with_context(|| format!("connect to port {port}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        anyhow::Ok(Answer { status: parts.status, headers: parts.headers, body })
    };
    tokio::time::timeout(EXCHANGE_TIMEOUT, exchange).await.context("no whole answer in time")?
}
