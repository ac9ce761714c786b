//! TLS for users: which certificate a client is shown, and the bounds of a handshake.
//!
//! The name that a client asks for (SNI, RFC 6066 §3) selects the domain, and the domain's certificate is the one in
//! the log. A certificate is prepared at the first handshake that needs it, and kept until the log has another: so a
//! new one is shown as soon as its entry is applied, open connections go on, and a restarted node serves from its
//! journal.
//!
//! # What always holds
//!
//! - A client is never shown a certificate that is not for the name it asked for. Without such a name, and for one that
//!   has no certificate here, the handshake ends with the alert *unrecognized_name*.
//! - A handshake ends within [`HANDSHAKE_MAX`], and at most [`HANDSHAKES_MAX`] run at a time.
//! - HTTP is bounded by the listener, which takes the connection after the handshake like any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::functions::Https;
use model::{Certificate, CertificateSecret, DomainName};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{Acceptor, NoServerSessionStorage, ParsedCertificate, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::knowing::Knowing;
use crate::metrics::{Counter, Gauge, Metrics, Page};
use crate::network::Stream;

/// Longest handshake, from the first byte of the client.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Most handshakes at a time, all threads together: each holds some kilobytes, and a flood of them must leave room for
/// connections.
const HANDSHAKES_MAX: u64 = 5_000;

/// Certificates kept ready. With more domains than this some are prepared again, which takes less time than a
/// handshake.
const READY_MAX: usize = 10_000;

/// Protocols inside TLS, the best first (RFC 7301; RFC 9113 §3.2).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The alert *unrecognized_name*, fatal, as a record of its own (RFC 8446 §6, RFC 6066 §3): no key is agreed on yet.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Counters of handshakes.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    done: Counter,
    unknown: Counter,
    failed: Counter,
    late: Counter,
    refused: Counter,
    running: Arc<Gauge>,
    /// Requests that came by TLS.
    pub(crate) requests: Counter,
}

impl Handshakes {
    /// Shows the numbers.
    pub(crate) fn show(&self, page: &mut Page) {
        let results = [
            ("result=\"done\"", self.done.get()),
            ("result=\"unknown_name\"", self.unknown.get()),
            ("result=\"failed\"", self.failed.get()),
            ("result=\"late\"", self.late.get()),
            ("result=\"refused\"", self.refused.get()),
        ];
        page.counters("tls_handshakes_total", "TLS handshakes by result", &results);
        page.gauge("tls_handshakes_running", "TLS handshakes under way", self.running.get());
        page.gauge("tls_handshakes_max", "Maximum of TLS handshakes under way", HANDSHAKES_MAX);
        page.counter("tls_requests_total", "Requests received over TLS", self.requests.get());
    }
}

/// The certificates of a node's domains, ready to be shown. One per node.
pub(crate) struct Certificates {
    knowing: Arc<Knowing>,
    metrics: Arc<Metrics>,
    provider: Arc<CryptoProvider>,
    /// Session tickets: a client that returns within hours has less to prove, and its session is in its own ticket.
    tickets: Arc<dyn ProducesTickets>,
    secret: Mutex<Option<CertificateSecret>>,
    ready: Mutex<HashMap<DomainName, Ready>>,
}

/// A certificate that is ready, and its source.
struct Ready {
    from: Arc<Certificate>,
    leaf: CertificateDer<'static>,
    /// The TLS settings of its domain.
    https: Https,
    config: Arc<ServerConfig>,
}

/// Why a certificate cannot be shown. It was checked when its owner set it, so this is a mistake of ours.
#[derive(Debug, thiserror::Error)]
enum Unready {
    #[error("the secret that seals private keys is not known")]
    NoSecret,
    #[error(transparent)]
    Sealed(#[from] model::certificate::Unopened),
    #[error("the chain or the key is not PEM")]
    Pem,
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Certificates {
    pub(crate) fn new(knowing: Arc<Knowing>, metrics: Arc<Metrics>) -> Result<Certificates, rustls::Error> {
        Ok(Certificates {
            knowing,
            metrics,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            tickets: rustls::crypto::aws_lc_rs::Ticketer::new()?,
            secret: Mutex::default(),
            ready: Mutex::default(),
        })
    }

    /// Takes the secret that private keys in the log are sealed with, in base64; empty from a control plane that does
    /// not know of certificates.
    pub(crate) fn open_with(&self, secret: &str) {
        let secret = CertificateSecret::parse(secret);
        *self.secret.lock().expect("no holder of this lock can panic") = secret;
        self.ready().clear();
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<DomainName, Ready>> {
        self.ready.lock().expect("no holder of this lock can panic")
    }

    /// The configuration for a client that asks for `name` (lower case); `None` if there is no certificate for that
    /// name.
    fn config(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let known = self.knowing.known();
        let domain = known.knowledge.domain_for(name)?;
        let (domain, https) = (&domain.name, domain.functions.rules().https);
        let certificate = known.knowledge.certificates.get(domain)?;
        let mut all = self.ready();
        if all.get(domain).is_none_or(|ready| !Arc::ptr_eq(&ready.from, certificate) || ready.https != https) {
            let ready = self.make_ready(certificate, https).inspect_err(|error| {
                tracing::error!(%domain, error = error as &dyn std::error::Error, "certificate cannot be used");
            });
            if all.len() >= READY_MAX {
                all.clear();
            }
            all.insert(domain.clone(), ready.ok()?);
        }
        let ready = all.get(domain)?;
        // A wildcard domain covers more hosts than its certificate, in which `*` is one label.
        let wanted = ServerName::try_from(name).ok()?;
        let leaf = ParsedCertificate::try_from(&ready.leaf).ok()?;
        verify_server_name(&leaf, &wanted).ok()?;
        Some(ready.config.clone())
    }

    fn make_ready(&self, certificate: &Arc<Certificate>, https: Https) -> Result<Ready, Unready> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| Unready::Pem)?;
        let leaf = chain.first().cloned().ok_or(Unready::Pem)?;
        let key = {
            let secret = self.secret.lock().expect("no holder of this lock can panic");
            certificate.key.open(secret.as_ref().ok_or(Unready::NoSecret)?, &certificate.domain)?
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Unready::Pem)?;
        let pair = CertifiedKey::from_der(chain, key, &self.provider)?;
        let versions = [(https.tls13, &rustls::version::TLS13), (https.tls12, &rustls::version::TLS12)];
        let versions: Vec<_> = versions.into_iter().filter_map(|(on, version)| on.then_some(version)).collect();
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = ALPN[usize::from(!https.http2)..].iter().map(|name| name.to_vec()).collect();
        config.ticketer = self.tickets.clone();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Ready { from: certificate.clone(), leaf, https, config: Arc::new(config) })
    }

    /// Does the handshake with a client that has sent its first byte; `None` if there is no room for it or it fails.
    pub(crate) async fn accept<S: Stream>(&self, stream: S) -> Option<TlsStream<S>> {
        let counted = &self.metrics.handshakes;
        if counted.running.get() >= HANDSHAKES_MAX {
            counted.refused.inc();
            return None;
        }
        let _running = counted.running.hold();
        match tokio::time::timeout_at(Instant::now() + HANDSHAKE_MAX, self.shake(stream)).await {
            Ok(Ok(Some(stream))) => {
                counted.done.inc();
                return Some(stream);
            }
            Ok(Ok(None)) => counted.unknown.inc(),
            // The client's affair, like every end of a connection.
            Ok(Err(error)) => {
                counted.failed.inc();
                tracing::debug!(error = &error as &dyn std::error::Error, "handshake ended");
            }
            Err(_) => counted.late.inc(),
        }
        None
    }

    /// `None` if the client asks for no name or an unknown one; the alert was sent.
    async fn shake<S: Stream>(&self, stream: S) -> std::io::Result<Option<TlsStream<S>>> {
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = hello.client_hello().server_name().and_then(|name| self.config(&name.to_ascii_lowercase()));
        match config {
            Some(config) => hello.into_stream(config).await.map(Some),
            None => {
                hello.io.write_all(&UNRECOGNIZED_NAME).await?;
                hello.io.shutdown().await?;
                Ok(None)
            }
        }
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}
