//! A node's outgoing connections: to parents, origins and the control plane.
//!
//! [`Network`] has two implementations: [`Internet`], and the simulation's network of hosts in one process, which
//! delays, stalls and cuts connections. The protocols above are the same over both.
//!
//! # What always holds
//!
//! - A certificate is verified for the intended name, against the public authorities, this machine's and the operator's
//!   own (`[origin] ca_file`); nothing switches that off.
//! - The addresses of a name take turns to be tried first, and a dead one costs a quarter of a second (RFC 8305).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codegen::Service;

use crate::StartError;
use crate::config::OriginConfig;
use crate::metrics::Page;
use crate::resolve::Names;

/// How long an address is tried alone before the next one is tried in parallel (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);

/// Most addresses of one name tried for one connection.
const ADDRESSES_MAX: usize = 8;

/// Longest wait for a connection to the control plane; parents and origins have their own bounds (`pool`).
const LINK_CONNECT_MAX: Duration = Duration::from_secs(10);

/// A byte stream to another host, over any transport.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// For TLS: the name sent as SNI, for which the certificate must be valid.
    pub tls: Option<String>,
}

impl Endpoint {
    /// The endpoint of an `http` or `https` URL; for `https`, TLS under the URL's host.
    pub(crate) fn of(url: &Uri) -> Option<Endpoint> {
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Some(Endpoint { tls: secure.then(|| host.clone()), host, port })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A source of connections. The caller bounds how long it waits for one.
pub trait Network: Send + Sync + 'static {
    /// Connects.
    fn connect(&self, to: Endpoint) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// TCP to names resolved here, and TLS.
#[derive(Clone)]
pub(crate) struct Internet {
    names: Arc<Names>,
    tls: tokio_rustls::TlsConnector,
}

impl Internet {
    pub(crate) fn new(config: &OriginConfig) -> Result<Internet, StartError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        // A machine without certificates of its own still trusts the public authorities.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &config.ca_file {
            let bad = |problem: String| StartError::Authorities { path: path.clone(), problem };
            let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let certificates = certificates.map_err(|error| bad(error.to_string()))?;
            if certificates.is_empty() {
                return Err(bad("has no certificate, expected one or more in PEM".to_owned()));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let names = Arc::new(Names::new(&config.resolvers));
        Ok(Internet { names, tls: tokio_rustls::TlsConnector::from(Arc::new(tls)) })
    }

    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        self.names.show(page);
    }
}

impl Network for Internet {
    fn connect(&self, to: Endpoint) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let Internet { names, tls } = self.clone();
        async move {
            let addresses = match to.host.parse::<IpAddr>() {
                Ok(address) => vec![address],
                Err(_) => names.resolve(&to.host).await.map_err(io::Error::other)?,
            };
            let asked = addresses.into_iter().filter(|address| !is_link_local(*address));
            let addresses: Vec<_> = asked.map(|address| SocketAddr::new(address, to.port)).collect();
            let stream = dial(&addresses).await?;
            stream.set_nodelay(true)?;
            let Some(name) = to.tls else { return Ok(Box::new(stream) as Box<dyn Stream>) };
            let name = ServerName::try_from(name).map_err(io::Error::other)?;
            Ok(Box::new(tls.connect(name, stream).await?) as Box<dyn Stream>)
        }
        .boxed()
    }
}

/// Whether an address is valid on one link only (RFC 3927, RFC 4291 §2.5.6). Clouds answer there for the credentials of
/// the machine that asks, which no account is to read by making it an origin, or by a name or redirect that leads there.
fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Tries addresses in order: the next one as soon as one fails, or in parallel when it takes long. The first that
/// connects wins.
async fn dial(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().take(ADDRESSES_MAX);
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address that may be contacted");
    loop {
        match waiting.next() {
            Some(address) => running.push(TcpStream::connect(*address)),
            None if running.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(tried) = running.next() => match tried {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

/// A [`Network`] for tonic's client; without TLS, which tonic adds.
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
        let endpoint = Endpoint::of(&to).map(|endpoint| Endpoint { tls: None, ..endpoint });
        let connecting = endpoint.map(|endpoint| self.0.connect(endpoint));
        async move {
            let connecting = connecting.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            let stream = tokio::time::timeout(LINK_CONNECT_MAX, connecting).await??;
            Ok(Wire(TokioIo::new(stream)))
        }
        .boxed()
    }
}

/// A connection for hyper.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_link_are_not_asked() {
        let cases = [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fe80::1", true),
            ("169.253.0.1", false),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("fd00:ec2::254", false),
        ];
        for (address, expected) in cases {
            assert_eq!(is_link_local(address.parse().unwrap()), expected, "{address}");
        }
    }
}
