//! The way out of a node: connections to parents, origins and the control plane.
//!
//! A seam with two implementations: [`Internet`], and the simulation's network of hosts in one process, which delays,
//! stalls and cuts. What is said over a connection is the same over either.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::codegen::Service;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A connection, whatever it runs over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Where connections come from.
pub trait Network: Send + Sync + 'static {
    /// Connects to the host and port of `to`, by TLS where its scheme is https.
    fn connect(&self, to: Uri) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// TCP, and TLS by the public authorities.
pub(crate) struct Internet(HttpsConnector<HttpConnector>);

impl Internet {
    pub(crate) fn new() -> Result<Internet, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            || rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        // A machine without certificates of its own still knows the public authorities.
        let tls = match builder()?.with_native_roots() {
            Ok(builder) => builder.with_no_client_auth(),
            Err(_) => builder()?.with_webpki_roots().with_no_client_auth(),
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_MAX));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Internet(connector))
    }
}

impl Network for Internet {
    fn connect(&self, to: Uri) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let mut connector = self.0.clone();
        async move {
            let stream = connector.call(to).await.map_err(io::Error::other)?;
            Ok(Box::new(TokioIo::new(stream)) as Box<dyn Stream>)
        }
        .boxed()
    }
}

/// A [`Network`] as hyper's and tonic's clients take it.
#[derive(Clone)]
pub(crate) struct Connector(Arc<dyn Network>);

impl Connector {
    pub(crate) fn new(network: Arc<dyn Network>) -> Connector {
        Connector(network)
    }
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Wire>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.connect(to);
        async move { Ok(Wire(TokioIo::new(connecting.await?))) }.boxed()
    }
}

/// A connection as hyper takes it.
pub(crate) struct Wire(TokioIo<Box<dyn Stream>>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
