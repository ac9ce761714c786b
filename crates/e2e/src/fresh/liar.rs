//! A dishonest cache, to show that the checker detects one: it is in front of a node, forwards everything, and from
//! some moment on answers with what it forwarded before.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use bytes::Bytes;
use http::header::{ACCEPT_LANGUAGE, IF_NONE_MATCH, RANGE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running liar; it ends when dropped.
#[derive(Debug)]
pub struct Liar {
    /// Its loopback port.
    pub port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// Path and language.
type Asked = (String, Vec<u8>);

#[derive(Debug)]
struct Shared {
    target: u16,
    lies: AtomicBool,
    told: AtomicU64,
    kept: Mutex<HashMap<Asked, Response<Full<Bytes>>>>,
}

impl Liar {
    /// Starts an honest one in front of a loopback port.
    pub async fn start(target: u16) -> io::Result<Liar> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared =
            Arc::new(Shared { target, lies: AtomicBool::new(false), told: AtomicU64::new(0), kept: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Liar { port, shared, accepting })
    }

    /// Lies from now on.
    pub fn lie(&self) {
        self.shared.lies.store(true, Ordering::SeqCst);
    }

    /// How often it has lied.
    pub fn told(&self) -> u64 {
        self.shared.told.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        let service = service_fn(move |request| {
            let shared = shared.clone();
            async move {
                let answer = shared.answer(request).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(|_| {
                    let mut failed = Response::default();
                    *failed.status_mut() = StatusCode::BAD_GATEWAY;
                    failed
                }))
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).auto_date_header(false);
        tokio::spawn(async move { http.serve_connection(TokioIo::new(stream), service).await });
    }
}

impl Shared {
    async fn answer(&self, mut request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let language = request.headers().get(ACCEPT_LANGUAGE).map(|value| value.as_bytes().to_vec());
        let key = (request.uri().path().to_owned(), language.unwrap_or_default());
        let whole = !request.headers().contains_key(RANGE);
        if whole && self.lies.load(Ordering::SeqCst) {
            let kept = self.kept.lock().ok().and_then(|kept| kept.get(&key).cloned());
            if let Some(old) = kept {
                self.told.fetch_add(1, Ordering::SeqCst);
                return Ok(old);
            }
        }
        // A 304 would give it nothing to store.
        request.headers_mut().remove(IF_NONE_MATCH);
        let stream = TcpStream::connect(("127.0.0.1", self.target)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await?.into_parts();
        let answer = Response::from_parts(head, Full::new(body.collect().await?.to_bytes()));
        if whole && answer.status() == StatusCode::OK {
            self.kept.lock().ok().context("no holder of this lock can panic")?.insert(key, answer.clone());
        }
        Ok(answer)
    }
}
