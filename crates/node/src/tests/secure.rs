//! Users by TLS: which certificate they are shown, which protocol is spoken, and the bounds for slow ones.

use model::certificate::SECRET_BYTES;
use model::{Certificate, CertificateSecret, SealedKey};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::Certificates;

/// The secret that private keys in the log of these tests are sealed with.
pub(super) const SEALING: [u8; SECRET_BYTES] = [9; SECRET_BYTES];

/// The authority that signs the certificates of a test and that its clients trust.
pub(super) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new() -> Authority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Authority { issuer: rcgen::Issuer::new(params, key), root }
    }

    /// A log entry with a new certificate of `domain` for `names`, and the certificate.
    pub(super) fn certificate(&self, domain: &str, names: &[&str]) -> (Entry, CertificateDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let domain = DomainName::parse(domain).unwrap();
        let sealed = SealedKey::seal(&CertificateSecret::new(SEALING), [1; 12], &domain, &key.serialize_pem());
        let certificate = Certificate { domain, name: String::new(), chain: leaf.pem(), key: sealed, set_ms: 0 };
        (Entry::Certificate(certificate), leaf.der().clone())
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

async fn connect(config: ClientConfig, address: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(PATIENCE, shaking).await.expect("a handshake in time")
}

/// The certificate shown to a client that asks for `name`, or for none; or the alert it gets.
pub(super) async fn shake(
    address: SocketAddr,
    name: Option<&str>,
    authority: &Authority,
) -> Result<CertificateDer<'static>, String> {
    let mut config = authority.client(rustls::ALL_VERSIONS, &[]);
    config.enable_sni = name.is_some();
    match connect(config, address, name.unwrap_or(DOMAIN)).await {
        Ok(stream) => Ok(shown(&stream)),
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => Err(format!("{alert:?}")),
            _ => Err(error.to_string()),
        },
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap().first().unwrap().clone().into_owned()
}

/// Another listener of the node, by TLS.
fn open_door(node: &TestNode) -> SocketAddr {
    let certificates = Certificates::new(node.knowing.clone(), node.pipeline.metrics().clone()).unwrap();
    certificates.open_with(&CertificateSecret::new(SEALING).expose());
    let listener = crate::listener::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let address = listener.local_addr().unwrap();
    let front = Front::new(node.pipeline.clone(), None, crate::listener::CONNECTIONS_MAX, &node.stopping);
    tokio::spawn(crate::listener::serve(listener, Some(Arc::new(certificates)), front));
    address
}

fn another_domain(origin: &Origin, name: &str) -> Entry {
    let name = DomainName::parse(name).unwrap();
    let domain = Domain::clone(knowledge(origin).domains.values().next().unwrap());
    Entry::Domain(Domain { name, ..domain })
}

/// One request and its answer over an HTTP/1.1 connection, which stays open.
async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"the body") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("an answer in time");
        assert_ne!(read.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn name_that_a_client_asks_for_chooses_the_certificate() {
    let stage = Stage::set().await;
    let (door, authority) = (open_door(&stage.node), Authority::new());
    for name in [".wild.test", "exact.wild.test", "bare.test", "other.test"] {
        stage.node.apply(another_domain(&stage.origin, name));
    }
    let set = |domain: &str, names: &[&str]| {
        let (entry, leaf) = authority.certificate(domain, names);
        stage.node.apply(entry);
        leaf
    };
    let own = set(DOMAIN, &[DOMAIN]);
    let wild = set(".wild.test", &["*.wild.test", "*.bare.test", "bare.test"]);
    let other = set("other.test", &["other.test", "alias.test"]);
    let unknown = || Err("UnrecognisedName".to_owned());
    let cases = [
        (Some(DOMAIN), Ok(&own)),
        (Some("other.test"), Ok(&other)),
        (Some("a.wild.test"), Ok(&wild)),
        (Some("a.b.wild.test"), unknown()), // the domain serves it, its certificate does not cover it
        (Some("wild.test"), unknown()),     // no such domain
        (Some("exact.wild.test"), unknown()), // its own domain without a certificate: the wildcard's is not used
        (Some("bare.test"), unknown()),     // the same, though some certificate would cover it
        (Some("alias.test"), unknown()),    // covered, but of no domain
        (Some("unknown.test"), unknown()),
        (None, unknown()),
    ];
    for (name, expected) in cases {
        assert_eq!(shake(door, name, &authority).await.as_ref(), expected.as_ref().map(|leaf| *leaf), "{name:?}");
    }
    let page = crate::metrics::Page::default();
    let shown = {
        let mut page = page;
        stage.node.pipeline.metrics().handshakes.show(&mut page);
        page.finish()
    };
    for line in ["{result=\"done\"} 3", "{result=\"unknown_name\"} 7"] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[tokio::test]
async fn both_versions_carry_both_protocols_and_the_object_is_the_same_as_without() {
    let stage = Stage::set().await;
    let (door, authority) = (open_door(&stage.node), Authority::new());
    stage.node.apply(authority.certificate(DOMAIN, &[DOMAIN]).0);
    stage.origin.put("/a", Page::new("the body"));
    assert_eq!(stage.node.get("/a").await.header("x-cache"), "MISS from edge");
    stage.node.settled().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (offered, spoken) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1"), (&[], "")] {
            let mut stream = connect(authority.client(&[version], offered), door, DOMAIN).await.unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol().unwrap_or_default(), spoken.as_bytes(), "{version:?}");
            if spoken != "h2" {
                let answer = get(&mut stream, "/a").await;
                assert!(answer.contains("HIT from edge"), "{answer}");
                continue;
            }
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let request = Request::get(format!("https://{DOMAIN}/a")).body(Full::<Bytes>::default()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.headers()["x-cache"], "HIT from edge");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "the body");
            connection.abort();
        }
    }
    assert_eq!(stage.node.pipeline.metrics().handshakes.requests.get(), 6);
    assert_eq!(stage.origin.seen("/a").len(), 1);
    // A client whose protocols are all unknown ends the handshake (RFC 7301 §3.2).
    let refused = connect(authority.client(rustls::ALL_VERSIONS, &["spdy/1"]), door, DOMAIN).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test]
async fn owner_says_by_which_scheme_version_and_protocol_users_come() {
    let stage = Stage::set().await;
    let (door, authority) = (open_door(&stage.node), Authority::new());
    stage.origin.put("/a?b=c", Page::new("the body"));
    let location = async || {
        let got = stage.node.get("/a?b=c").await;
        (got.status, got.header("location").to_owned())
    };
    let force = |name, status| functions::with(&stage.node, &[(name, &[("enable", "on"), ("https_rewrite", status)])]);
    stage.node.apply(force("https_force", "308"));
    assert_eq!(location().await.0, 200, "without a certificate nobody would answer there");
    stage.node.apply(authority.certificate(DOMAIN, &[DOMAIN]).0);
    assert_eq!(location().await, (308, format!("https://{DOMAIN}/a?b=c")));
    let mut secure = connect(authority.client(rustls::ALL_VERSIONS, &[]), door, DOMAIN).await.unwrap();
    get(&mut secure, "/a?b=c").await;
    stage.node.apply(force("http_force", "301"));
    assert_eq!(location().await.0, 200);
    let request = format!("GET /a HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n");
    secure.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    secure.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    assert!(answer.contains(&format!("location: http://{DOMAIN}/a\r\n")), "{answer}");

    let only = [("https_option", &[("http2", "off")][..]), ("https_tls_version", &[("tls12", "off"), ("tls13", "on")])];
    stage.node.apply(functions::with(&stage.node, &only));
    let client = |versions: &[&'static SupportedProtocolVersion]| authority.client(versions, &["h2", "http/1.1"]);
    let stream = connect(client(rustls::ALL_VERSIONS), door, DOMAIN).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let refused = connect(client(&[&rustls::version::TLS12]), door, DOMAIN).await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");
}

#[tokio::test]
async fn connection_for_one_site_serves_no_other() {
    let stage = Stage::set().await;
    let (door, authority) = (open_door(&stage.node), Authority::new());
    stage.node.apply(another_domain(&stage.origin, "other.test"));
    stage.node.apply(authority.certificate(DOMAIN, &[DOMAIN, "other.test"]).0);
    stage.origin.put("/a", Page::new("the body"));
    for host in ["other.test", DOMAIN] {
        ask(stage.node.address, Method::GET, "/a", &[("host", host)], false).await;
    }
    stage.node.settled().await;
    let mut stream = connect(authority.client(rustls::ALL_VERSIONS, &[]), door, DOMAIN).await.unwrap();
    // The last one is not answered below hyper.
    for (host, more, status) in [(DOMAIN, "", "200"), ("other.test", "", "421"), ("other.test", "X-Odd: 1\r\n", "421")]
    {
        stream.write_all(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n{more}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"the body") && !answer.ends_with(b"another site\n") {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("an answer in time");
            assert_ne!(read.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn user_of_a_wildcard_is_sent_to_the_other_scheme_where_its_certificate_reaches() {
    let stage = Stage::set().await;
    let authority = Authority::new();
    let wildcard = functions::with(&stage.node, &[("https_force", &[("enable", "on"), ("https_rewrite", "301")])]);
    let Entry::Domain(domain) = wildcard else { unreachable!("it is a domain") };
    stage.node.apply(Entry::Domain(Domain { name: DomainName::parse(".w.test").unwrap(), ..domain }));
    stage.node.apply(authority.certificate(".w.test", &["*.w.test"]).0);
    for (host, status) in [("a.w.test", 301), ("a.b.w.test", 404)] {
        assert_eq!(ask(stage.node.address, Method::GET, "/x", &[("host", host)], false).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn new_certificate_is_shown_at_once_and_connections_go_on() {
    let stage = Stage::set().await;
    let (door, authority) = (open_door(&stage.node), Authority::new());
    stage.origin.put("/a", Page::new("the body"));
    let (first, first_leaf) = authority.certificate(DOMAIN, &[DOMAIN]);
    stage.node.apply(first);
    let mut running = connect(authority.client(rustls::ALL_VERSIONS, &[]), door, DOMAIN).await.unwrap();
    assert_eq!(shown(&running), first_leaf);
    get(&mut running, "/a").await;

    let (second, second_leaf) = authority.certificate(DOMAIN, &[DOMAIN]);
    stage.node.apply(second);
    assert_eq!(shake(door, Some(DOMAIN), &authority).await.unwrap(), second_leaf);
    get(&mut running, "/a").await;

    stage.node.apply(Entry::CertificateRemoved(DomainName::parse(DOMAIN).unwrap()));
    assert_eq!(shake(door, Some(DOMAIN), &authority).await.unwrap_err(), "UnrecognisedName");
    get(&mut running, "/a").await;
    assert_eq!(stage.node.get("/a").await.status, 200, "without TLS as ever");
}

#[tokio::test]
async fn certificate_whose_key_cannot_be_opened_is_shown_to_nobody() {
    let stage = Stage::set().await;
    let (door, authority) = (open_door(&stage.node), Authority::new());
    let (Entry::Certificate(certificate), _) = authority.certificate(DOMAIN, &[DOMAIN]) else { unreachable!() };
    let other = DomainName::parse("other.test").unwrap();
    stage.node.apply(another_domain(&stage.origin, "other.test"));
    stage.node.apply(Entry::Certificate(Certificate { domain: other, ..certificate }));
    assert_eq!(shake(door, Some("other.test"), &authority).await.unwrap_err(), "UnrecognisedName");
}

#[tokio::test(start_paused = true)]
async fn handshake_that_does_not_go_on_ends() {
    let stage = Stage::set().await;
    let certificates = Certificates::new(stage.node.knowing.clone(), stage.node.pipeline.metrics().clone()).unwrap();
    let (_client, server) = tokio::io::duplex(1024);
    let began = tokio::time::Instant::now();
    assert!(certificates.accept(server).await.is_none());
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    let (client, server) = tokio::io::duplex(1024);
    drop(client);
    assert!(certificates.accept(server).await.is_none());
    let mut page = crate::metrics::Page::default();
    stage.node.pipeline.metrics().handshakes.show(&mut page);
    let shown = page.finish();
    for line in ["{result=\"late\"} 1", "{result=\"failed\"} 1", "tls_handshakes_running 0"] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[tokio::test]
async fn plain_http_at_the_door_of_tls_is_no_request() {
    let stage = Stage::set().await;
    let door = open_door(&stage.node);
    let got = ask(door, Method::GET, "/a", &[], false).await;
    assert_eq!(got.status, 0, "{got:?}");
}

/// As the test without TLS in `fenced`; here a header may also wait as ciphertext, after the write of it succeeded.
#[tokio::test]
async fn header_of_a_client_that_does_not_read_is_dropped_once_it_is_overtaken() {
    let stage = Stage::set().await;
    let (node, door, authority) = (&stage.node, open_door(&stage.node), Authority::new());
    node.apply(authority.certificate(DOMAIN, &[DOMAIN]).0);
    for (bytes, requests) in [(100_000, 1_000), (1_000, 20_000)] {
        stage.origin.put("/a", Page::new(vec![5_u8; bytes]));
        node.refresh("/a", Mode::Delete);
        node.get("/a").await;
        node.settled().await;
        let stream = connect(authority.client(rustls::ALL_VERSIONS, &[]), door, DOMAIN).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(stream);
        // The requests may be more than the sockets hold: writing goes on until the connection ends.
        let asking = tokio::spawn(async move {
            let request = format!("GET /a HTTP/1.1\r\nhost: {DOMAIN}\r\n\r\n");
            let _ = writing.write_all(request.repeat(requests).as_bytes()).await;
            let _ = writing.flush().await;
            writing
        });
        takes_no_more(node).await;
        node.refresh("/a", Mode::Expire);
        let drained = tokio::time::timeout(PATIENCE, node.knowing.drained()).await;
        assert!(drained.is_ok(), "acknowledging does not wait for a client that does not read");
        let mut all = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut all)).await.expect("the connection ended");
        assert!(all.len() < requests * bytes, "{}", all.len());
        asking.abort();
    }
}
