//! An origin where every object is the current version: the body states which version was current when the origin read
//! it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The origin; it runs as long as the runtime lives.
pub(crate) struct Origin {
    /// Its port.
    pub(crate) port: u16,
    version: Arc<AtomicU64>,
}

impl Origin {
    /// Bodies are the version, padded to `bytes` bytes.
    pub(crate) async fn start(bytes: usize) -> anyhow::Result<Origin> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let version = Arc::new(AtomicU64::new(1));
        let current = version.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let current = current.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |_| {
                        let body = Bytes::from(format!("{:<bytes$}", current.load(Ordering::SeqCst)));
                        let answer = Response::builder().header("cache-control", "max-age=86400").body(Full::new(body));
                        async move { Ok::<_, Infallible>(answer.expect("a header that is one")) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Origin { port, version })
    }

    /// Gives every object a new version.
    pub(crate) fn change(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }
}
