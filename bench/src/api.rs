//! A client of the public API over one connection, signed like the vendor's SDKs, and a plain HTTP client.
//!
//! Times are taken when the last byte of a response has arrived.

use std::time::Duration;

use aliyun::{AccessKey, Ask, encode_pairs, sign_v3};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use e2e::stage::{Key, Stage};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest wait for a task, far above any aim.
const COMPLETE_MAX: Duration = Duration::from_secs(60);

/// One keep-alive connection.
pub struct Http {
    sender: SendRequest<Full<Bytes>>,
    port: u16,
}

impl Http {
    /// Connects to a port of this machine.
    pub async fn connect(port: u16) -> anyhow::Result<Http> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Http { sender, port })
    }

    /// Requests `path` of `host`.
    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
        self.send(Request::get(path).header("host", host).body(Full::default())?).await
    }

    /// A value from a metrics page.
    pub async fn metric(&mut self, name: &str) -> anyhow::Result<u64> {
        let (_, _, page) = self.get("localhost", "/metrics").await?;
        let page = std::str::from_utf8(&page)?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("{name} in the metrics"))?.trim().parse()?)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let (parts, body) = answer.into_parts();
        Ok((parts.status, parts.headers, body.collect().await?.to_bytes()))
    }
}

/// The API, used by one account.
pub struct Api {
    http: Http,
    key: Key,
    /// Makes nonces differ from those of other connections.
    tag: String,
    calls: u64,
}

impl Api {
    /// Connects to a stage's control plane; `tag` must be unique to this connection.
    pub async fn connect(stage: &Stage, tag: &str) -> anyhow::Result<Api> {
        Api::connect_to(stage.api_port, stage.key.clone(), tag).await
    }

    /// Connects to the server on `port` of this machine.
    pub async fn connect_to(port: u16, key: Key, tag: &str) -> anyhow::Result<Api> {
        Ok(Api { http: Http::connect(port).await?, key, tag: tag.to_owned(), calls: 0 })
    }

    /// Its connection, for requests without a signature.
    pub fn http(&mut self) -> &mut Http {
        &mut self.http
    }

    /// Makes a call of the CDN product.
    pub async fn call(&mut self, action: &str, pairs: &[(&str, String)]) -> anyhow::Result<Value> {
        self.calls += 1;
        let body = encode_pairs(pairs).into_bytes();
        let host = format!("127.0.0.1:{}", self.http.port);
        let nonce = format!("{}-{}", self.tag, self.calls);
        let access = AccessKey { id: &self.key.id, secret: &self.key.secret };
        #[allow(clippy::disallowed_methods, reason = "a client of the real program lives in real time")]
        let now = std::time::SystemTime::now();
        let ask = Ask { method: &Method::POST, action, version: "2018-05-10", now, nonce: &nonce };
        let mut request = Request::post("/");
        for (name, value) in sign_v3(access, ask, &host, &[], &body, &[]) {
            request = request.header(name, value);
        }
        let (status, _, body) = self.http.send(request.body(Full::new(Bytes::from(body)))?).await?;
        ensure!(status.is_success(), "{action}: {status} {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    /// Refreshes `urls` as `kind` (`File`, `Directory`); returns the task's ids and when the acknowledgement arrived.
    pub async fn refresh(&mut self, kind: &str, urls: &[String]) -> anyhow::Result<(String, Instant)> {
        let pairs = [("ObjectPath", urls.join("\n")), ("ObjectType", kind.to_owned())];
        let answer = self.call("RefreshObjectCaches", &pairs).await?;
        let acknowledged = Instant::now();
        let task = answer["RefreshTaskId"].as_str().with_context(|| format!("RefreshTaskId in {answer}"))?;
        Ok((task.to_owned(), acknowledged))
    }

    /// Polls `url` of a task every `step` until it is Complete; returns when it was.
    pub async fn complete(&mut self, task: &str, url: &str, step: Duration) -> anyhow::Result<Instant> {
        let pairs = [("TaskId", task.to_owned()), ("ObjectPath", url.to_owned()), ("PageSize", "1".to_owned())];
        let deadline = Instant::now() + COMPLETE_MAX;
        loop {
            let answer = self.call("DescribeRefreshTasks", &pairs).await?;
            let status = &answer["Tasks"]["CDNTask"][0]["Status"];
            match status.as_str() {
                Some("Complete") => return Ok(Instant::now()),
                Some("Refreshing") if Instant::now() < deadline => tokio::time::sleep(step).await,
                _ => bail!("task {task} of {url}: {answer}"),
            }
        }
    }
}
