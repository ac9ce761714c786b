//! A whole node against a control plane played by the test: hello, entries, acknowledgements, jobs, restarts.

use std::path::Path;
use std::pin::Pin;

use base64::Engine;
use model::link::{
    Entries, FromControl, FromNode, Head, Hello, Jobs, Refused, Swept, Welcome, from_control, from_node,
};
use model::{Job, Snapshot};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Response as Answer, Status, Streaming};

use super::secure::{Authority, SEALING, shake};
use super::*;
use crate::{DiskTier, MemoryTier, Node, NodeConfig, StartError};

/// The generated server.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the proto file documents it")]
mod service {
    include!(concat!(env!("OUT_DIR"), "/server/warmfront.link.v1.rs"));
}

/// One connection from a node.
struct Session {
    hello: Hello,
    incoming: Streaming<FromNode>,
    out: mpsc::Sender<Result<FromControl, Status>>,
    /// Its reports of sweeps.
    swept: Vec<Swept>,
}

struct Doorman(mpsc::Sender<Session>);

#[tonic::async_trait]
impl service::link_server::Link for Doorman {
    type FollowStream = Pin<Box<dyn futures_util::Stream<Item = Result<FromControl, Status>> + Send>>;

    async fn follow(&self, request: tonic::Request<Streaming<FromNode>>) -> Result<Answer<Self::FollowStream>, Status> {
        let mut incoming = request.into_inner();
        let Some(FromNode { is: Some(from_node::Is::Hello(hello)) }) = incoming.message().await? else {
            panic!("Hello first")
        };
        let (out, outgoing) = mpsc::channel(16);
        self.0
            .send(Session { hello, incoming, out, swept: Vec::new() })
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Answer::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// The control plane's side of the link, and a node's files.
struct Control {
    address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    directory: tempfile::TempDir,
}

impl Control {
    /// Starts a control plane and a node that has joined it and knows a log up to `head`; returns their session too.
    async fn joined(origin: &Origin, head: u64) -> (Control, Node, Session) {
        let mut control = Control::start().await;
        let node = control.node().await.unwrap();
        let mut session = control.session().await;
        session.welcome("log", head, Some((&knowledge(origin), "own"))).await;
        session.acknowledged(head).await;
        (control, node, session)
    }

    async fn start() -> Control {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&authority_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["warmfront-link".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, sessions) = mpsc::channel(4);
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate.pem(), key.serialize_pem()));
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(service::link_server::LinkServer::new(Doorman(heard)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let directory = tempfile::tempdir().unwrap();
        write_token(directory.path(), "t1", &ca);
        Control { address, sessions, directory }
    }

    async fn node(&self) -> Result<Node, StartError> {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = NodeConfig {
            name: NodeName::parse("edge").unwrap(),
            pop: PopName::parse("pop-1").unwrap(),
            tier: Tier::L1,
            listen: any,
            listen_tls: Some(any),
            advertise_url: "http://127.0.0.1:1".into(),
            admin_listen: any,
            control_url: format!("https://{}", self.address),
            join_token_file: self.directory.path().join("token"),
            memory: MemoryTier { capacity_bytes: 16 << 20 },
            disk: vec![DiskTier { path: self.directory.path().join("disk"), capacity_bytes: 600 << 20 }],
            state_path: None,
            origin: Default::default(),
            isolation: Isolation::Revalidate,
            connections_max: 1000,
            access_log: None,
            drain_grace_secs: 0,
        };
        Node::start(config, clock()).await
    }

    async fn session(&mut self) -> Session {
        tokio::time::timeout(PATIENCE, self.sessions.recv()).await.expect("a node connects").unwrap()
    }
}

fn write_token(directory: &Path, id: &str, ca: &str) {
    let json = serde_json::json!({ "id": id, "secret": "hush", "ca": ca }).to_string();
    let text = format!("wfjoin1.{}\n", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json));
    std::fs::write(directory.join("token"), text).unwrap();
}

impl Session {
    /// Sends a message; it is lost if the node has hung up.
    async fn say(&self, is: from_control::Is) {
        let _ = self.out.send(Ok(FromControl { is: Some(is) })).await;
    }

    async fn welcome(&self, log: &str, head: u64, joins: Option<(&Knowledge, &str)>) {
        let snapshot = joins.map(|(knowledge, _)| {
            let mut knowledge = knowledge.clone();
            knowledge.topology.members.insert(
                NodeName::parse("edge").unwrap(),
                member("edge", "pop-1", Tier::L1, "127.0.0.1:1".parse().unwrap()),
            );
            model::log::encode(&Snapshot { log: LogId(log.into()), revision: Revision(head), knowledge })
        });
        self.say(from_control::Is::Welcome(Welcome {
            log_id: log.into(),
            head,
            credential: joins.map(|(_, credential)| credential.to_owned()).unwrap_or_default(),
            peer_credential: PEERS.into(),
            certificate_secret: model::CertificateSecret::new(SEALING).expose().to_string(),
            joins: joins.is_some(),
            snapshot: snapshot.unwrap_or_default(),
            // Like a control plane of an earlier version, which closes the connection at messages it does not know.
            takes_figures: false,
            takes_under_way: false,
            gives_shares: false,
        }))
        .await;
    }

    async fn entries(&self, first: u64, entries: &[Entry]) {
        let entries = entries.iter().map(|entry| model::log::encode(entry).into()).collect();
        self.say(from_control::Is::Entries(Entries { first, entries })).await;
    }

    /// The next message other than a heartbeat; heartbeats are answered with `head`, reports of sweeps kept aside.
    /// `None` when the node hangs up.
    async fn heard(&mut self, head: u64) -> Option<from_node::Is> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("a message in time");
            match message.ok()??.is? {
                from_node::Is::Heartbeat(beat) => {
                    self.say(from_control::Is::Head(Head { sequence: beat.sequence, head })).await
                }
                from_node::Is::Swept(swept) => self.swept.push(swept),
                other => return Some(other),
            }
        }
    }

    /// The amounts swept, once everything up to `upto` is: revision, objects, bytes.
    async fn told(&mut self, upto: u64) -> Vec<(u64, u64, u64)> {
        while self.swept.last().is_none_or(|swept| swept.upto < upto) {
            let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("a message in time");
            match message.unwrap().and_then(|message| message.is) {
                Some(from_node::Is::Heartbeat(beat)) => {
                    self.say(from_control::Is::Head(Head { sequence: beat.sequence, head: upto })).await
                }
                Some(from_node::Is::Swept(swept)) => self.swept.push(swept),
                Some(_) => {}
                None => panic!("the node hung up"),
            }
        }
        let entries = self.swept.iter().flat_map(|swept| &swept.entries);
        entries.map(|entry| (entry.revision, entry.objects, entry.bytes)).collect()
    }

    async fn acknowledged(&mut self, applied: u64) {
        loop {
            match self.heard(applied).await {
                Some(from_node::Is::Acknowledge(acknowledge)) if acknowledge.applied == applied => return,
                Some(from_node::Is::Acknowledge(acknowledge)) => {
                    assert!(acknowledge.applied < applied, "{acknowledge:?}")
                }
                other => panic!("expected an acknowledgement of {applied}: {other:?}"),
            }
        }
    }
}

async fn readiness(node: &Node) -> Got {
    ask(node.admin_address(), Method::GET, "/readyz", &[], false).await
}

async fn becomes_ready(node: &Node) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while readiness(node).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "not ready: {:?}", readiness(node).await);
    }
}

#[tokio::test]
async fn node_joins_follows_restarts_and_reads_on() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("the body"));
    let mut control = Control::start().await;
    let node = control.node().await.unwrap();
    assert_eq!(readiness(&node).await.status, 503);
    assert_eq!(
        ask(node.address(), Method::GET, "/a", &[], false).await.status,
        503,
        "nobody is served before the welcome"
    );

    let mut session = control.session().await;
    assert_eq!(
        (session.hello.join_token.as_str(), session.hello.credential.as_str(), session.hello.applied),
        ("t1:hush", "", 0)
    );
    session.welcome("log", 5, Some((&knowledge(&origin), "own"))).await;
    session.acknowledged(5).await;
    becomes_ready(&node).await;
    assert_eq!(ask(node.address(), Method::GET, "/a", &[], false).await.text(), "the body");
    session.entries(6, &[refresh("/a", Mode::Expire), refresh("/b", Mode::Delete)]).await;
    session.acknowledged(7).await;
    let metrics = ask(node.admin_address(), Method::GET, "/metrics", &[], false).await;
    assert!(metrics.text().contains("\nwarmfront_node_applied_revision 7\n"), "{}", metrics.text());
    node.stop().await;

    // The invitation is needed only once.
    std::fs::remove_file(control.directory.path().join("token")).unwrap();
    let node = control.node().await.unwrap();
    let mut session = control.session().await;
    let hello = &session.hello;
    assert_eq!(
        (hello.join_token.as_str(), hello.credential.as_str(), hello.log_id.as_str(), hello.applied),
        ("", "own", "log", 7)
    );
    assert_eq!(readiness(&node).await.status, 503, "contact does not survive a restart");
    session.welcome("log", 8, None).await;
    session.acknowledged(7).await;
    assert_eq!(readiness(&node).await.status, 503, "the head it was told is not applied");
    session.entries(8, &[refresh("/c", Mode::Expire)]).await;
    session.acknowledged(8).await;
    becomes_ready(&node).await;
    assert_eq!(
        ask(node.address(), Method::GET, "/a", &[], false).await.header("x-cache"),
        "REVALIDATED from edge",
        "6 covers it still"
    );
    node.stop().await;
}

#[tokio::test]
async fn restarted_node_serves_by_tls_with_the_control_plane_down() {
    let origin = Origin::start().await;
    let authority = Authority::new();
    let (entry, leaf) = authority.certificate(DOMAIN, &[DOMAIN]);
    let (mut control, node, mut session) = Control::joined(&origin, 5).await;
    let tls = node.tls_address().unwrap();
    assert_eq!(shake(tls, Some(DOMAIN), &authority).await.unwrap_err(), "UnrecognisedName");
    session.entries(6, &[entry]).await;
    session.acknowledged(6).await;
    assert_eq!(shake(tls, Some(DOMAIN), &authority).await.unwrap(), leaf, "as soon as it is applied");
    node.stop().await;

    // No control plane answers the link any more.
    control.sessions.close();
    let node = control.node().await.unwrap();
    assert_eq!(shake(node.tls_address().unwrap(), Some(DOMAIN), &authority).await.unwrap(), leaf);
    node.stop().await;
}

#[tokio::test]
async fn broken_link_is_made_again_and_nothing_is_skipped() {
    let origin = Origin::start().await;
    let (mut control, node, mut session) = Control::joined(&origin, 1).await;
    let bad: [(&str, Entries); 3] = [
        ("a gap", Entries { first: 3, entries: vec![model::log::encode(&refresh("/a", Mode::Expire)).into()] }),
        ("an entry of a later version", Entries { first: 2, entries: vec![Bytes::from_static(br#"{"v":2,"is":{}}"#)] }),
        ("not an entry", Entries { first: 2, entries: vec![Bytes::from_static(b"\xff")] }),
    ];
    for (why, entries) in bad {
        session.say(from_control::Is::Entries(entries)).await;
        while let Some(said) = session.heard(1).await {
            assert_eq!(said, from_node::Is::Acknowledge(model::link::Acknowledge { applied: 1 }), "{why}");
        }
        session = control.session().await;
        assert_eq!(session.hello.applied, 1, "{why}");
        session.welcome("log", 1, None).await;
    }
    session.entries(2, &[refresh("/a", Mode::Expire)]).await;
    session.acknowledged(2).await;
    node.stop().await;
}

#[tokio::test]
async fn removed_node_stops_serving_and_another_invitation_brings_it_back() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("a"));
    let (mut control, node, session) = Control::joined(&origin, 1).await;
    assert_eq!(ask(node.address(), Method::GET, "/a", &[], false).await.status, 200);
    session.say(from_control::Is::Refused(Refused { reason: "node was removed".into(), again: false })).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ask(node.address(), Method::GET, "/a", &[], false).await.status != 503 {
        assert!(tokio::time::Instant::now() < deadline, "it goes on serving");
    }
    assert!(readiness(&node).await.text().contains("node was removed"));
    node.stop().await;

    let token = std::fs::read_to_string(control.directory.path().join("token")).unwrap();
    let ca = crate::join::JoinToken::parse(&token).unwrap().ca;
    write_token(control.directory.path(), "t2", &ca);
    let node = control.node().await.unwrap();
    let mut session = control.session().await;
    assert_eq!((session.hello.join_token.as_str(), session.hello.credential.as_str()), ("t2:hush", ""));
    session.welcome("log", 9, Some((&knowledge(&origin), "own-2"))).await;
    session.acknowledged(9).await;
    becomes_ready(&node).await;
    node.stop().await;
}

#[tokio::test]
async fn another_log_is_joined_anew_with_the_old_credential() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("a"));
    let (mut control, node, session) = Control::joined(&origin, 100).await;
    assert_eq!(ask(node.address(), Method::GET, "/a", &[], false).await.header("x-cache"), "MISS from edge");
    drop(session);
    let mut session = control.session().await;
    assert_eq!((session.hello.log_id.as_str(), session.hello.credential.as_str()), ("log", "own"));
    session.welcome("restored", 3, Some((&knowledge(&origin), ""))).await;
    session.acknowledged(3).await;
    assert_eq!(
        ask(node.address(), Method::GET, "/a", &[], false).await.header("x-cache"),
        "MISS from edge",
        "old stamps mean nothing"
    );
    node.stop().await;
    let node = control.node().await.unwrap();
    let session = control.session().await;
    assert_eq!(
        (session.hello.log_id.as_str(), session.hello.applied, session.hello.credential.as_str()),
        ("restored", 3, "own")
    );
    node.stop().await;
}

#[tokio::test]
async fn job_comes_and_its_report_goes_over_the_link() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("a body"));
    let (_control, node, mut session) = Control::joined(&origin, 1).await;
    let job = Job { chunk: 7, index: 3, url: format!("http://{DOMAIN}/a"), begin_after: Revision(1), ..Job::default() };
    session.say(from_control::Is::Jobs(Jobs { jobs: vec![job.clone().into()], withdrawn: Vec::new() })).await;
    let Some(from_node::Is::Reports(reports)) = session.heard(1).await else { panic!("a report") };
    let report = model::Report::try_from(reports.reports[0].clone()).unwrap();
    assert_eq!((report.chunk, report.index), (7, 3));
    assert!(matches!(report.outcome, model::Outcome::Resident { bytes: 6, fetched: true, .. }), "{report:?}");
    // The same job, to see whether the object is still there; and one of an object that is not.
    origin.put("/b", Page::new("another"));
    let here = Job { look: true, ..job };
    let away = Job { index: 4, url: format!("http://{DOMAIN}/b"), ..here.clone() };
    for (job, is_there) in [(here, true), (away, false)] {
        session.say(from_control::Is::Jobs(Jobs { jobs: vec![job.into()], withdrawn: Vec::new() })).await;
        let Some(from_node::Is::Reports(reports)) = session.heard(1).await else { panic!("a report") };
        let report = model::Report::try_from(reports.reports[0].clone()).unwrap();
        assert_eq!(matches!(report.outcome, model::Outcome::Resident { fetched: false, .. }), is_there, "{report:?}");
    }
    assert!(origin.seen("/b").is_empty());
    node.stop().await;
}

#[tokio::test]
async fn full_index_is_retired_behind_the_floor_and_good_bodies_stay() {
    let origin = Origin::start().await;
    let (mut control, node, mut session) = Control::joined(&origin, 1).await;
    for path in ["/good", "/covered"] {
        origin.put(path, Page::new(path));
        ask(node.address(), Method::GET, path, &[], false).await;
    }
    let stored = || async {
        ask(node.admin_address(), Method::GET, "/metrics", &[], false).await.text().contains("stored_total 2\n")
    };
    while !stored().await {}
    let expire =
        |path: String| Invalidation { scope: Scope::File(UrlKey::new(DOMAIN, &path).unwrap()), mode: Mode::Expire };
    session.entries(2, &[refresh("/covered", Mode::Expire)]).await;
    for part in 0..3 {
        let many = (0..crate::link::RETIRE_ABOVE / 2).map(|n| expire(format!("/{part}/{n}"))).collect();
        session.entries(3 + part, &[Entry::Invalidate(many)]).await;
    }
    session.acknowledged(5).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let metrics = loop {
        let metrics = ask(node.admin_address(), Method::GET, "/metrics", &[], false).await;
        if !metrics.text().contains("floor_revision 1\n") {
            break metrics;
        }
        assert!(tokio::time::Instant::now() < deadline, "the floor does not rise");
    };
    let scopes = metrics.text().lines().find_map(|line| line.strip_prefix("warmfront_node_index_scopes ")).unwrap();
    assert!(scopes.parse::<usize>().unwrap() <= crate::link::RETIRE_ABOVE, "{scopes} scopes are kept");
    assert_eq!(ask(node.address(), Method::GET, "/good", &[], false).await.header("x-cache"), "HIT from edge");
    assert_eq!(ask(node.address(), Method::GET, "/covered", &[], false).await.header("x-cache"), "MISS from edge");
    node.stop().await;

    let node = control.node().await.unwrap();
    let mut session = control.session().await;
    assert_eq!(session.hello.applied, 5);
    session.welcome("log", 5, None).await;
    session.acknowledged(5).await;
    becomes_ready(&node).await;
    assert_eq!(ask(node.address(), Method::GET, "/good", &[], false).await.header("x-cache"), "HIT from edge");
    node.stop().await;
}

#[tokio::test]
async fn sweep_is_told_and_goes_on_where_it_was_after_a_restart() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("four"));
    let (mut control, node, mut session) = Control::joined(&origin, 1).await;
    ask(node.address(), Method::GET, "/a", &[], false).await;
    let metrics = |node: &Node| ask(node.admin_address(), Method::GET, "/metrics", &[], false);
    while !metrics(&node).await.text().contains("stored_total 1\n") {}
    session.entries(2, &[refresh("/x", Mode::Expire), refresh("/a", Mode::Delete)]).await;
    let told = session.told(3).await;
    assert_eq!(told, [(3, 1, 4)]);
    let page = metrics(&node).await;
    for line in ["swept_revision 3\n", "swept_objects_total 1\n", "swept_bytes_total 4\n", "store_objects 0\n"] {
        assert!(page.text().contains(&format!("\nwarmfront_node_{line}")), "{line}{}", page.text());
    }
    node.stop().await;

    let node = control.node().await.unwrap();
    let mut session = control.session().await;
    session.welcome("log", 3, None).await;
    assert_eq!(session.told(3).await, [], "where it is is said anew, what was told is not");
    node.stop().await;
}

#[tokio::test]
async fn starting_says_what_is_wrong() {
    let control = Control::start().await;
    let node = control.node().await.unwrap();
    let taken = node.address();
    let error = crate::listener::bind(taken, 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "SO_REUSEPORT does not hide it");
    node.stop().await;
    for (token, named) in [(Some("nonsense"), "join_token_file"), (None, "join_token_file")] {
        let path = control.directory.path().join("token");
        let _ = std::fs::remove_file(&path);
        if let Some(token) = token {
            std::fs::write(&path, token).unwrap();
        }
        let error = control.node().await.unwrap_err().to_string();
        assert!(error.contains(named) && !error.contains("nonsense"), "{error}");
    }
}
