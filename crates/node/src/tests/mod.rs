//! A node before an origin, in one process, as users and children see it. The test moves the clock and writes the log.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HOST, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::{
    Clock, Coverage, Domain, DomainName, Entry, Invalidation, Isolation, Knowledge, LogId, ManualClock, Member, Mode,
    NodeName, Parent, Pop, PopName, Revision, Scope, Source, SourceKind, Tier, Topology, UrlKey,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::knowing::Knowing;
use crate::listener::Front;
use crate::pipeline::Pipeline;
use crate::prefetch::Prefetch;

mod asking;
mod caching;
mod collapse;
mod crowded;
mod desync;
mod fenced;
mod following;
mod functions;
mod hot;
mod interim;
mod misbehaving;
mod origins;
mod prefetching;
mod rewriting;
mod scopes;
mod secure;
mod seeking;
mod serving;
mod slicing;
mod sparing;
mod streams;
mod sweeping;
mod tiers;
mod warming;

/// The accelerated domain of every test.
pub(crate) const DOMAIN: &str = "www.example.test";

/// The peer credential of the nodes under test.
pub(crate) const PEERS: &str = "the-peers-secret";

/// The sizes of slices here.
pub(crate) const SLICES: crate::SliceSizes = crate::SliceSizes { slice: 1_000, least: 4_000 };

/// Longest wait for anything, on the real clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The origin's response for a path.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// The head waits for a permit.
    pub(crate) head_gate: Option<Arc<Semaphore>>,
    /// The second half of the body waits for a permit.
    pub(crate) body_gate: Option<Arc<Semaphore>>,
    /// The connection breaks after this many bytes of each answer.
    pub(crate) cut: Option<usize>,
    /// Without `Content-Length`.
    pub(crate) chunked: bool,
    /// A request for a part gets the whole.
    pub(crate) ignores_ranges: bool,
    /// A request that accepts gzip gets this instead, whole.
    pub(crate) gzipped: Option<Bytes>,
}

impl Page {
    /// A page that is fresh for an hour and has a strong ETag.
    pub(crate) fn new(body: impl Into<Bytes>) -> Page {
        let body = body.into();
        let etag = format!("\"{:x}\"", crc32fast::hash(&body));
        let headers = vec![("cache-control", "max-age=3600".to_owned()), ("etag", etag)];
        Page {
            status: 200,
            headers,
            body,
            head_gate: None,
            body_gate: None,
            cut: None,
            chunked: false,
            ignores_ranges: false,
            gzipped: None,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Page {
        self.headers.retain(|(kept, _)| *kept != name);
        if !value.is_empty() {
            self.headers.push((name, value.to_owned()));
        }
        self
    }
}

/// A request as the origin saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

/// An origin that answers as the test tells it to.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: CancellationToken,
}

type OriginBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

impl Origin {
    pub(crate) async fn start() -> Origin {
        Origin::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Origin {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = Origin { address, pages: Arc::default(), seen: Arc::default(), stopped: CancellationToken::new() };
        let serving = origin.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = serving.stopped.cancelled() => return,
                };
                let origin = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let origin = origin.clone();
                        async move { Ok::<_, Infallible>(origin.answer(request).await) }
                    });
                    let mut http = hyper::server::conn::http1::Builder::new();
                    let connection = http.auto_date_header(false).serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = origin.stopped.cancelled() => {}
                    }
                });
            }
        });
        origin
    }

    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(crate) fn put(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Waits until the origin has received `count` requests for `path`.
    pub(crate) async fn asked(&self, path: &str, count: usize) {
        eventually(&format!("{count} requests for {path}"), || self.seen(path).len() >= count).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<OriginBody> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
        self.seen.lock().unwrap().push(Seen {
            method: parts.method.clone(),
            path: path.clone(),
            headers: parts.headers.clone(),
        });
        let sent = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let page = self.pages.lock().unwrap().get(&path).cloned();
        let Some(mut page) = page else { return plain(404, "") };
        let accepted = parts.headers.get(ACCEPT_ENCODING).is_some_and(|codings| codings == "gzip");
        if let Some(gzipped) = page.gzipped.take_if(|_| accepted) {
            page = Page { body: gzipped, ignores_ranges: true, ..page }.with("content-encoding", "gzip");
        }
        if let Some(gate) = &page.head_gate {
            gate.acquire().await.unwrap().forget();
        }
        if !parts.method.is_safe() {
            let mut answer = plain(201, std::str::from_utf8(&sent).unwrap());
            for (name, value) in page.headers.iter().filter(|(name, _)| name.ends_with("location")) {
                answer.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
            }
            return answer;
        }
        let mut answer = plain(page.status, "");
        for (name, value) in &page.headers {
            answer.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let etag = answer.headers().get(ETAG).cloned();
        if etag.is_some() && parts.headers.get(IF_NONE_MATCH) == etag.as_ref() {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            return answer;
        }
        let mut bytes = page.body.clone();
        let range = parts.headers.get(RANGE).and_then(|range| {
            let (from, to) = range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
            let last = if to.is_empty() { bytes.len() - 1 } else { to.parse().ok()? };
            Some((from.parse::<usize>().ok()?, last.min(bytes.len() - 1)))
        });
        if let Some((from, last)) = range
            .filter(|(from, last)| from <= last && !page.ignores_ranges)
            .filter(|_| parts.headers.get(IF_RANGE).is_none_or(|condition| Some(condition) == etag.as_ref()))
        {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{last}/{}", bytes.len());
            answer.headers_mut().insert(CONTENT_RANGE, range.parse().unwrap());
            bytes = bytes.slice(from..=last);
        }
        if !page.chunked {
            answer.headers_mut().insert(CONTENT_LENGTH, bytes.len().into());
        }
        if parts.method == Method::HEAD {
            return answer;
        }
        let (sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(4);
        tokio::spawn(pour(bytes, page, sender));
        *answer.body_mut() = body.boxed_unsync();
        answer
    }
}

async fn pour(bytes: Bytes, page: Page, mut sender: http_body_util::channel::Sender<Bytes, std::io::Error>) {
    let half = bytes.len() / 2;
    let cut = page.cut.unwrap_or(usize::MAX);
    let mut at = 0;
    while at < bytes.len() {
        if at >= half
            && let Some(gate) = &page.body_gate
        {
            gate.acquire().await.unwrap().forget();
        }
        if at >= cut {
            // The bytes sent so far must reach the socket before the connection breaks.
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
            sender.abort(std::io::ErrorKind::BrokenPipe.into());
            return;
        }
        let end = (at + 64_000).min(bytes.len()).min(if at < half { half } else { usize::MAX }).min(cut.max(at + 1));
        if sender.send(Frame::data(bytes.slice(at..end))).await.is_err() {
            return;
        }
        at = end;
    }
}

fn plain(status: u16, body: &str) -> Response<OriginBody> {
    let mut answer = Response::new(Full::from(body.to_owned()).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

/// An answer as a client received it; `body` tells how it ended. Status 0 stands for a connection that ended without an
/// answer.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Result<Bytes, String>,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.body.as_ref().expect("a whole body")
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap()
    }
}

/// Sends a request to a server, over HTTP/1.1 unless `h2c`.
pub(crate) async fn ask(address: SocketAddr, method: Method, path: &str, headers: &[(&str, &str)], h2c: bool) -> Got {
    let mut client = Client::builder(TokioExecutor::new());
    let client: Client<HttpConnector, Full<Bytes>> = client.http2_only(h2c).http1_max_headers(300).build_http();
    let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header(HOST, DOMAIN);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = tokio::time::timeout(PATIENCE, client.request(request.body(Full::default()).unwrap()));
    let (head, body) = match answer.await.expect("an answer in time") {
        Ok(answer) => answer.into_parts(),
        Err(error) => return Got { status: 0, headers: HeaderMap::new(), body: Err(format!("{error:?}")) },
    };
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time");
    Got {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.map(|body| body.to_bytes()).map_err(|error| error.to_string()),
    }
}

/// A node whose log the test writes.
pub(crate) struct TestNode {
    pub(crate) address: SocketAddr,
    pub(crate) knowing: Arc<Knowing>,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) prefetch: Arc<Prefetch>,
    pub(crate) clock: Arc<ManualClock>,
    stopping: CancellationToken,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl TestNode {
    /// A member named `name` that is in contact; its store is `store`.
    pub(crate) async fn start(
        name: &str,
        knowledge: &Knowledge,
        clock: Arc<ManualClock>,
        store: store::Store,
    ) -> TestNode {
        let node = TestNode::isolated(name, knowledge, clock, store, Isolation::Revalidate).await;
        node.in_contact();
        node
    }

    /// The same, but never in contact.
    pub(crate) async fn isolated(
        name: &str,
        knowledge: &Knowledge,
        clock: Arc<ManualClock>,
        store: store::Store,
        isolation: Isolation,
    ) -> TestNode {
        let internet = Arc::new(crate::Internet::new(&Default::default()).unwrap());
        TestNode::over(internet, name, knowledge, clock, store, isolation).await
    }

    /// The same over another network.
    pub(crate) async fn over(
        network: Arc<dyn crate::Network>,
        name: &str,
        knowledge: &Knowledge,
        clock: Arc<ManualClock>,
        store: store::Store,
        isolation: Isolation,
    ) -> TestNode {
        let knowing = Arc::new(Knowing::new(NodeName::parse(name).unwrap(), isolation, clock.clone(), None));
        let listener = crate::listener::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let mut knowledge = knowledge.clone();
        knowledge
            .topology
            .members
            .entry(knowing.name().clone())
            .or_insert_with(|| member(name, "pop-1", Tier::L1, address));
        knowing.join(LogId("log".into()), PEERS.into(), Revision(1), knowledge).await;
        let journal = crate::journal::Journal::open_on(redb::backends::InMemoryBackend::new()).unwrap();
        let (pipeline, prefetch) = crate::assemble(knowing.clone(), network, store, journal, SLICES);
        let stopping = CancellationToken::new();
        let front = Front::new(pipeline.clone(), None, crate::listener::CONNECTIONS_MAX, &stopping);
        tokio::spawn(crate::listener::serve(listener, None, front));
        tokio::spawn(prefetch.clone().run(pipeline.clone(), stopping.clone()));
        TestNode { address, knowing, pipeline, prefetch, clock, stopping }
    }

    /// Answers a heartbeat now.
    pub(crate) fn in_contact(&self) {
        self.knowing.heard(self.clock.moment(), self.knowing.applied());
    }

    /// Applies the next entry of the log.
    pub(crate) fn apply(&self, entry: Entry) -> Revision {
        let revision = self.knowing.applied().next();
        self.knowing.apply(revision, &[entry]);
        revision
    }

    pub(crate) fn refresh(&self, path: &str, mode: Mode) -> Revision {
        self.apply(refresh(path, mode))
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Got {
        ask(self.address, Method::GET, path, headers, false).await
    }

    /// Waits until no fetch runs, so that everything fetched is stored.
    pub(crate) async fn settled(&self) {
        eventually("no fetch is running", || self.pipeline.fills().counts().0 == 0).await;
    }
}

/// An entry that refreshes a file, or a directory.
pub(crate) fn refresh(path: &str, mode: Mode) -> Entry {
    let scope = if path.ends_with('/') {
        Scope::Directory { host: DOMAIN.into(), path: path.into() }
    } else {
        Scope::File(UrlKey::new(DOMAIN, path).unwrap())
    };
    Entry::Invalidate(vec![Invalidation { scope, mode }])
}

pub(crate) fn member(name: &str, pop: &str, tier: Tier, address: SocketAddr) -> Member {
    Member {
        name: NodeName::parse(name).unwrap(),
        pop: PopName::parse(pop).unwrap(),
        tier,
        advertise_url: format!("http://{address}"),
        isolation: Isolation::Revalidate,
    }
}

/// The knowledge of one domain with `origin`, and one POP whose L1 asks its L2.
pub(crate) fn knowledge(origin: &Origin) -> Knowledge {
    knowledge_of(vec![source(&origin.address.ip().to_string(), origin.address.port(), 20)])
}

/// A source of a domain, asked without TLS.
pub(crate) fn source(content: &str, port: u16, priority: u16) -> Source {
    let kind = if content.parse::<std::net::IpAddr>().is_ok() { SourceKind::Address } else { SourceKind::Domain };
    Source { kind, content: content.to_owned(), port, scheme: None, priority, weight: 10 }
}

/// The same, with these sources.
pub(crate) fn knowledge_of(sources: Vec<Source>) -> Knowledge {
    let name = DomainName::parse(DOMAIN).unwrap();
    let domain = Domain {
        name: name.clone(),
        coverage: Coverage::Global,
        sources,
        online: true,
        tag_header: None,
        functions: model::Functions::default(),
    };
    let pop = PopName::parse("pop-1").unwrap();
    let parents = [(Tier::L1, Parent { pop: pop.clone(), tier: Tier::L2 })].into();
    let pop = Pop { name: pop, region: Coverage::Global, parents };
    let topology = Topology { pops: [(pop.name.clone(), pop)].into(), members: Default::default() };
    Knowledge {
        domains: [(name, domain.into())].into(),
        topology,
        settings: model::Settings { lease_secs: 10 },
        ..Knowledge::default()
    }
}

/// An origin, and a node without parents before it.
pub(crate) struct Stage {
    pub(crate) origin: Origin,
    pub(crate) node: TestNode,
    pub(crate) clock: Arc<ManualClock>,
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_800_000_000)))
}

pub(crate) async fn memory() -> store::Store {
    store::Store::open(store::Config::memory_only(64 << 20)).await.unwrap()
}

impl Stage {
    pub(crate) async fn set() -> Stage {
        let origin = Origin::start().await;
        let clock = clock();
        let node = TestNode::start("edge", &knowledge(&origin), clock.clone(), memory().await).await;
        Stage { origin, node, clock }
    }
}

/// The outcome of a single job.
pub(crate) async fn warmed(pipeline: &Pipeline, job: &model::Job) -> model::Outcome {
    pipeline.warm(job, &Prefetch::new(), &Semaphore::new(1)).await
}

/// Polls a condition until it holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "did not come: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the socket of a node's only connection takes no more, because the client does not read. The kernel may
/// make room in it for a moment after it refused a write.
pub(crate) async fn takes_no_more(node: &TestNode) {
    const STILL: Duration = Duration::from_secs(1);
    let metrics = node.pipeline.metrics();
    let deadline = tokio::time::Instant::now() + 6 * PATIENCE;
    let (mut sent, mut since) = (0, tokio::time::Instant::now());
    while since.elapsed() < STILL {
        let now = tokio::time::Instant::now();
        assert!(now < deadline, "it goes on to take bytes");
        if metrics.connections_stalled.get() != 1 || metrics.bytes_sent.get() != sent {
            (sent, since) = (metrics.bytes_sent.get(), now);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
