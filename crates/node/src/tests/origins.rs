//! Origins in the real world: behind names that move, behind TLS, and killed in the middle of a body.

use std::net::{IpAddr, Ipv4Addr};

use model::Scheme;
use rcgen::{BasicConstraints, CertificateParams, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::config::OriginConfig;

/// A node over the real network, set up as `node.toml` would.
async fn node(knowledge: &Knowledge, origin: OriginConfig) -> TestNode {
    let internet = Arc::new(crate::Internet::new(&origin).unwrap());
    let node = TestNode::over(internet, "edge", knowledge, clock(), memory().await, Isolation::Revalidate).await;
    node.in_contact();
    node
}

/// A source that sends `sent` of the `length` bytes of one answer, and then disappears.
async fn dying_source(sent: &[u8], length: usize) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let head =
        format!("HTTP/1.1 200 OK\r\ncache-control: max-age=60\r\netag: \"v1\"\r\ncontent-length: {length}\r\n\r\n");
    let answer = [head.as_bytes(), sent].concat();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(&answer).await.unwrap();
        drop(listener); // before the connection ends, so that no further connection is accepted
    });
    address
}

#[tokio::test]
async fn body_of_a_source_that_dies_is_continued_from_the_next() {
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n / 3) as u8).collect();
    let first = dying_source(&body[..100_000], body.len()).await;
    let second = Origin::start().await;
    second.put("/a", Page::new(body.clone()).with("etag", "\"v1\""));
    let sources =
        [(first, 20), (second.address, 30)].map(|(address, priority)| source("127.0.0.1", address.port(), priority));
    let node = node(&knowledge_of(sources.into()), OriginConfig::default()).await;
    let got = node.get("/a").await;
    assert_eq!((got.status, got.body.as_deref()), (200, Ok(&body[..])));
    let ranges: Vec<_> = second.seen("/a").iter().map(|seen| seen.headers.get(RANGE).cloned()).collect();
    assert_eq!(ranges, [Some(HeaderValue::from_static("bytes=100000-"))]);
}

#[tokio::test]
async fn source_behind_many_that_are_dead_is_asked() {
    let alive = Origin::start().await;
    alive.put("/a", Page::new("a"));
    let dead = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut sources: Vec<_> = (0..7).map(|_| source("127.0.0.1", dead(), 20)).collect();
    sources.push(source("127.0.0.1", alive.address.port(), 30));
    let node = node(&knowledge_of(sources), OriginConfig::default()).await;
    assert_eq!(node.get("/a").await.status, 200);
}

/// A name server that has one address for every name, or none for any.
struct NameServer {
    address: SocketAddr,
    says: Arc<Mutex<Option<Ipv4Addr>>>,
    stopped: CancellationToken,
}

impl NameServer {
    async fn start(says: Ipv4Addr) -> NameServer {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = NameServer {
            address: socket.local_addr().unwrap(),
            says: Arc::new(Mutex::new(Some(says))),
            stopped: CancellationToken::new(),
        };
        let (says, stopped) = (server.says.clone(), server.stopped.clone());
        tokio::spawn(async move {
            let mut query = [0_u8; 512];
            while let Some(Ok((length, from))) = stopped.run_until_cancelled(socket.recv_from(&mut query)).await {
                let answer = answer(&query[..length], *says.lock().unwrap());
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        server
    }

    fn says(&self, address: Option<Ipv4Addr>) {
        *self.says.lock().unwrap() = address;
    }
}

/// An answer (RFC 1035 §4.1) with a time to live of one second.
fn answer(query: &[u8], says: Option<Ipv4Addr>) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &query[12..name_end + 4];
    let is_a = query[name_end..name_end + 2] == [0, 1];
    let found = says.filter(|_| is_a);
    let code = if says.is_none() { 3 } else { 0 };
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = found {
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// Two origins on one port of different addresses, whose connections serve one request each.
async fn two_homes() -> (Origin, Origin) {
    let (one, two) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    let first = Origin::start().await;
    assert_eq!(first.address.ip(), IpAddr::V4(one));
    let second = Origin::start_at(SocketAddr::new(two.into(), first.address.port())).await;
    for (origin, says) in [(&first, "first"), (&second, "second")] {
        for path in ["/a", "/b", "/c", "/d"] {
            origin.put(path, Page::new(says).with("connection", "close").with("cache-control", "no-store"));
        }
    }
    (first, second)
}

#[tokio::test]
async fn name_that_moves_is_followed_and_a_dead_name_server_is_no_outage() {
    let (first, second) = two_homes().await;
    let names = NameServer::start(Ipv4Addr::new(127, 0, 0, 1)).await;
    let knowledge = knowledge_of(vec![source("origin.warmfront.test", first.address.port(), 20)]);
    let node = node(&knowledge, OriginConfig { ca_file: None, resolvers: vec![names.address] }).await;
    assert_eq!(node.get("/a").await.text(), "first");
    names.says(Some(Ipv4Addr::new(127, 0, 0, 2)));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while node.get("/b").await.text() != "second" {
        assert!(tokio::time::Instant::now() < deadline, "the new address is used once the old one's time is over");
    }
    assert_eq!(second.seen("/b")[0].headers[HOST], DOMAIN);
    names.stopped.cancel();
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(node.get("/c").await.text(), "second", "the address known is used");
    }
}

#[tokio::test]
async fn name_that_does_not_exist_is_an_origin_that_cannot_be_reached() {
    let names = NameServer::start(Ipv4Addr::LOCALHOST).await;
    names.says(None);
    let knowledge = knowledge_of(vec![source("nobody.warmfront.test", 80, 20)]);
    let node = node(&knowledge, OriginConfig { ca_file: None, resolvers: vec![names.address] }).await;
    assert_eq!(node.get("/a").await.status, 502);
}

/// A certificate authority, as PEM and as the issuer.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}

/// An origin by TLS with a certificate for `name`; it answers with the name that the client sent as SNI.
async fn secure_origin(name: &str, issuer: &Issuer<'static, KeyPair>) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let shown = stream.get_ref().1.server_name().unwrap_or("nothing").to_owned();
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{shown}", shown.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn certificate_must_be_for_the_name_that_was_meant_and_of_an_authority_that_is_believed() {
    let (pem, issuer) = authority();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, pem).unwrap();
    let names = NameServer::start(Ipv4Addr::LOCALHOST).await;
    let private = OriginConfig { ca_file: Some(ca_file), resolvers: vec![names.address] };
    let public = OriginConfig { ca_file: None, resolvers: vec![names.address] };
    let cases = [
        // certificate for        source                   config    status  shown name
        ("origin.warmfront.test", "origin.warmfront.test", &private, 200, "origin.warmfront.test"),
        (DOMAIN, "127.0.0.1", &private, 200, DOMAIN), // by address: the name of the domain itself
        ("other.warmfront.test", "origin.warmfront.test", &private, 502, ""),
        (DOMAIN, "origin.warmfront.test", &private, 502, ""),
        ("other.warmfront.test", "127.0.0.1", &private, 502, ""),
        ("origin.warmfront.test", "origin.warmfront.test", &public, 502, ""),
    ];
    for (certified, content, config, status, shown) in cases {
        let address = secure_origin(certified, &issuer).await;
        let source = Source { scheme: Some(Scheme::Https), ..source(content, address.port(), 20) };
        let node = node(&knowledge_of(vec![source]), config.clone()).await;
        let got = node.get("/a").await;
        assert_eq!(got.status, status, "certificate for {certified}, source {content}");
        if status == 200 {
            assert_eq!(got.text(), shown);
        }
    }
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_named_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for path in [empty, directory.path().join("missing.pem")] {
        let error = crate::Internet::new(&OriginConfig { ca_file: Some(path), resolvers: Vec::new() }).err().unwrap();
        assert!(error.to_string().contains("origin.ca_file"), "{error}");
    }
}
