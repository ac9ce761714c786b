//! What users see: hits, ranges, conditions, variants, and what cannot be stored or fetched.

use super::scopes::{invalidate, tag};
use super::*;

type Headers = &'static [(&'static str, &'static str)];

#[tokio::test]
async fn first_get_misses_and_the_second_hits() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/a", Page::new("the body"));
    let first = node.get("/a").await;
    assert_eq!((first.status, first.text(), first.header("x-cache")), (200, "the body", "MISS from edge"));
    assert_eq!(first.header("cache-status"), "edge; fwd=uri-miss; ttl=3600; stored");
    node.settled().await;
    clock.advance(Duration::from_secs(3));
    let second = node.get("/a").await;
    assert_eq!((second.status, second.text(), second.header("x-cache")), (200, "the body", "HIT from edge"));
    assert_eq!((second.header("age"), second.header("via"), second.header("content-length")), ("3", "1.1 edge", "8"));
    assert_eq!(second.header("cache-status"), "edge; hit; ttl=3597");
    assert!(second.headers.keys().all(|name| !name.as_str().starts_with("warmfront")), "{:?}", second.headers);

    let seen = origin.seen("/a");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].headers[HOST], DOMAIN, "the origin is asked for the accelerated domain");
    assert!(seen[0].headers.keys().all(|name| !name.as_str().starts_with("warmfront")), "{:?}", seen[0].headers);
}

#[tokio::test]
async fn stored_object_answers_head_ranges_and_conditions() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("0123456789").with("etag", "\"v1\""));
    node.get("/a").await;
    node.settled().await;
    let cases: &[(Method, Headers, u16, &str, &str, &str)] = &[
        // method     request headers                                 status body     content-length content-range
        (Method::HEAD, &[], 200, "", "10", ""),
        (Method::GET, &[("range", "bytes=2-4")], 206, "234", "3", "bytes 2-4/10"),
        (Method::GET, &[("range", "bytes=-2")], 206, "89", "2", "bytes 8-9/10"),
        (Method::GET, &[("range", "bytes=10-")], 416, "", "0", "bytes */10"),
        (Method::GET, &[("if-none-match", "\"v1\"")], 304, "", "", ""),
        (Method::GET, &[("if-none-match", "\"v0\"")], 200, "0123456789", "10", ""),
        (Method::GET, &[("if-match", "\"v0\"")], 412, "", "0", ""),
        (Method::GET, &[("range", "bytes=2-4"), ("if-range", "\"v0\"")], 200, "0123456789", "10", ""),
    ];
    for (method, headers, status, body, length, range) in cases {
        let got = ask(node.address, method.clone(), "/a", headers, false).await;
        assert_eq!(got.status, *status, "{headers:?}");
        assert_eq!(
            (got.text(), got.header("content-range"), got.header("x-cache")),
            (*body, *range, "HIT from edge"),
            "{headers:?}"
        );
        assert_eq!(got.header("content-length"), *length, "{headers:?}");
    }
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn range_of_what_cannot_be_cut_fetches_the_whole_and_answers_before_it_is_there() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let gate = Arc::new(Semaphore::new(0));
    let page = Page { body_gate: Some(gate.clone()), ignores_ranges: true, ..Page::new(body.clone()) };
    origin.put("/a", page);
    let got = node.get_with("/a", &[("range", "bytes=10-1009")]).await;
    assert_eq!((got.status, got.body.as_deref()), (206, Ok(&body[10..1010])));
    assert_eq!(origin.seen("/a").len(), 1, "the answer is taken as it comes");
    gate.add_permits(1_000);
    node.settled().await;
    let whole = node.get("/a").await;
    assert_eq!((whole.header("x-cache"), whole.body.as_deref()), ("HIT from edge", Ok(&body[..])));
}

#[tokio::test]
async fn fifty_askers_are_one_fetch() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    let body = Bytes::from(vec![7_u8; 300_000]);
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new(body.clone()) });
    let askers: Vec<_> = (0..50)
        .map(|_| {
            let address = node.address;
            tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await })
        })
        .collect();
    let running = || node.pipeline.metrics().requests_running.get();
    eventually("50 requests are waiting", || running() == 50).await;
    gate.add_permits(50);
    for asker in askers {
        let got = asker.await.unwrap();
        assert_eq!((got.status, got.body.as_ref()), (200, Ok(&body)));
    }
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn client_that_leaves_does_not_end_the_fetch() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { body_gate: Some(gate.clone()), ..Page::new(vec![1_u8; 200_000]) });
    let address = node.address;
    let client = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    origin.asked("/a", 1).await;
    eventually("the answer is on its way", || node.pipeline.metrics().bytes_sent.get() > 0).await;
    client.abort();
    let _ = client.await;
    gate.add_permits(1_000);
    node.settled().await;
    let got = node.get("/a").await;
    assert_eq!((got.header("x-cache"), got.body.as_ref().map(Bytes::len)), ("HIT from edge", Ok(200_000)));
}

#[tokio::test]
async fn stale_body_is_confirmed_by_a_304_and_fresh_again() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/a", Page::new("same").with("etag", "\"v1\"").with("cache-control", "max-age=60"));
    node.get("/a").await;
    node.settled().await;
    clock.advance(Duration::from_secs(61));
    node.in_contact();
    let confirmed = node.get("/a").await;
    assert_eq!(
        (confirmed.text(), confirmed.header("x-cache"), confirmed.header("age")),
        ("same", "REVALIDATED from edge", "0")
    );
    node.settled().await;
    let hit = node.get("/a").await;
    assert_eq!(hit.header("x-cache"), "HIT from edge");
    let seen = origin.seen("/a");
    assert_eq!((seen.len(), seen[1].headers[IF_NONE_MATCH].to_str().unwrap()), (2, "\"v1\""));
}

#[tokio::test]
async fn stale_answers_need_the_origins_permission() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/while", Page::new("w").with("cache-control", "max-age=10, stale-while-revalidate=60"));
    origin.put("/error", Page::new("e").with("cache-control", "max-age=10, stale-if-error=60"));
    origin.put("/never", Page::new("n").with("cache-control", "max-age=10"));
    for path in ["/while", "/error", "/never"] {
        node.get(path).await;
    }
    node.settled().await;
    clock.advance(Duration::from_secs(11));
    node.in_contact();
    let got = node.get("/while").await;
    assert_eq!((got.text(), got.header("x-cache")), ("w", "STALE from edge"));
    origin.asked("/while", 2).await;
    for path in ["/error", "/never"] {
        origin
            .put(path, Page { status: 503, ..Page::new("broken").with("etag", "").with("cache-control", "no-store") });
    }
    let got = node.get("/error").await;
    assert_eq!((got.status, got.text(), got.header("x-cache")), (200, "e", "STALE from edge"));
    let got = node.get("/never").await;
    assert_eq!((got.status, got.text()), (503, "broken"));
}

#[tokio::test]
async fn truncated_body_is_never_taken_for_the_whole() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/length", Page { cut: Some(70_000), ..Page::new(vec![1_u8; 200_000]).with("etag", "") });
    origin.put("/chunked", Page { cut: Some(70_000), chunked: true, ..Page::new(vec![1_u8; 200_000]) });
    for path in ["/length", "/chunked"] {
        let got = node.get(path).await;
        assert!(got.body.is_err(), "{path}: the client sees that the body is short");
        node.settled().await;
        assert_eq!(node.pipeline.metrics().stored.get(), 0, "{path}: nothing is stored");
    }
}

#[tokio::test]
async fn broken_fetch_goes_on_by_range_under_a_strong_validator() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
    origin.put("/a", Page { cut: Some(100_000), ..Page::new(body.clone()).with("etag", "\"v1\"") });
    let got = node.get("/a").await;
    assert!(got.body.is_ok_and(|got| got == body), "two breaks are mended");
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
    let ranges: Vec<_> = origin
        .seen("/a")
        .iter()
        .map(|seen| seen.headers.get(RANGE).map(|range| range.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]);
    assert_eq!(origin.seen("/a")[1].headers[IF_RANGE], "\"v1\"");
}

#[tokio::test]
async fn broken_fetch_under_a_weak_validator_is_not_asked_for_by_it() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page { cut: Some(100_000), ..Page::new(vec![1_u8; 300_000]).with("etag", "W/\"v1\"") });
    assert!(node.get("/a").await.body.is_err());
    node.settled().await;
    assert_eq!(origin.seen("/a").len(), 1, "If-Range takes strong validators only");
}

#[tokio::test]
async fn tags_that_come_with_the_rest_of_a_broken_body_count() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body = vec![1_u8; 300_000];
    let page = |tags: &str| Page::new(body.clone()).with("etag", "\"v1\"").with("cache-tag", tags);
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { cut: Some(200_000), body_gate: Some(gate.clone()), ..page("before") });
    let (address, seen) = (node.address, origin.clone());
    let asker = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    eventually("the origin was asked", || seen.seen("/a").len() == 1).await;
    origin.put("/a", page("after"));
    gate.add_permits(100);
    assert!(asker.await.unwrap().body.is_ok_and(|got| got == body));
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
    origin.put("/a", Page::new("new"));
    node.apply(invalidate(tag("after"), Mode::Expire));
    assert_eq!(node.get("/a").await.text(), "new");
}

#[tokio::test]
async fn answer_that_may_not_be_stored_goes_to_each_asker_from_the_origin() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("mine").with("cache-control", "no-store") });
    let askers: Vec<_> = (0..10)
        .map(|_| {
            let address = node.address;
            tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await })
        })
        .collect();
    eventually("10 requests are waiting", || node.pipeline.metrics().requests_running.get() == 10).await;
    gate.add_permits(100);
    for asker in askers {
        let got = asker.await.unwrap();
        assert_eq!((got.status, got.text(), got.header("x-cache")), (200, "mine", "MISS from edge"));
    }
    assert_eq!(origin.seen("/a").len(), 10, "each has his own");
}

#[tokio::test]
async fn body_too_large_for_the_store_is_served_all_the_same() {
    let origin = Origin::start().await;
    let store = store::Store::open(store::Config::memory_only(4 << 20)).await.unwrap();
    let node = TestNode::start("edge", &knowledge(&origin), clock(), store).await;
    let body = Bytes::from((0..12_000_000_u32).map(|n| (n / 3) as u8).collect::<Vec<u8>>());
    origin.put("/announced", Page::new(body.clone()));
    origin.put("/chunked", Page { chunked: true, ..Page::new(body.clone()) });
    for _ in 0..2 {
        let got = node.get("/announced").await;
        assert_eq!((got.header("x-cache"), got.body.as_ref()), ("MISS from edge", Ok(&body)));
    }
    let first = node.get("/chunked").await;
    assert!(first.body.is_err(), "nobody knew before");
    node.settled().await;
    assert_eq!(node.get("/chunked").await.body.as_ref(), Ok(&body), "from then on it is streamed past the store");
}

#[tokio::test]
async fn variants_by_accept_encoding_lie_beside_each_other() {
    let Stage { origin, node, .. } = Stage::set().await;
    for (encoding, body) in [("gzip", "zipped"), ("", "plain"), ("br", "brown")] {
        let page = Page::new(body).with("vary", "accept-encoding");
        origin.put("/a", if encoding.is_empty() { page } else { page.with("content-encoding", encoding) });
        let got = node.get_with("/a", &[("accept-encoding", encoding)]).await;
        assert_eq!((got.text(), got.header("x-cache")), (body, "MISS from edge"), "{encoding}");
        node.settled().await;
    }
    for (accepts, body) in [("gzip", "zipped"), ("", "plain"), ("br", "brown"), ("br;q=0.5", "brown")] {
        let got = node.get_with("/a", &[("accept-encoding", accepts)]).await;
        assert_eq!((got.text(), got.header("x-cache")), (body, "HIT from edge"), "{accepts}");
    }
    assert_eq!(origin.seen("/a").len(), 3);
    node.refresh("/a", Mode::Delete);
    for accepts in ["gzip", "br"] {
        let got = node.get_with("/a", &[("accept-encoding", accepts)]).await;
        assert_eq!(got.header("x-cache"), "MISS from edge", "a refresh takes every variant: {accepts}");
    }
}

#[tokio::test]
async fn hosts_and_methods_are_answered_for_what_they_are() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a"));
    let cases: &[(Method, Headers, u16)] = &[
        (Method::GET, &[("host", "other.example.test")], 404),
        (Method::GET, &[("host", "WWW.example.test:80")], 200),
        (Method::from_bytes(b"PURGE").unwrap(), &[], 405),
        (Method::TRACE, &[], 405),
        (Method::POST, &[], 201),
    ];
    for (method, headers, status) in cases {
        let got = ask(node.address, method.clone(), "/a", headers, false).await;
        assert_eq!(got.status, *status, "{method} {headers:?}");
    }
    let post = ask(node.address, Method::POST, "/a", &[], false).await;
    assert_eq!(post.header("x-cache"), "BYPASS from edge");
    node.settled().await;
    assert_eq!(node.get_with("/a", &[("cache-control", "only-if-cached")]).await.status, 504, "the POST took it");
    node.get("/a").await;
    node.settled().await;
    assert_eq!(node.get_with("/a", &[("cache-control", "only-if-cached")]).await.status, 200);

    let offline = Domain { online: false, ..scopes::domain_of(&node) };
    node.apply(Entry::Domain(offline));
    assert_eq!(node.get("/a").await.status, 403);
}

#[tokio::test]
async fn unsafe_request_forgets_what_is_stored_under_its_url() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("before"));
    node.get("/a").await;
    node.settled().await;
    origin.put("/a", Page::new("after"));
    assert_eq!(ask(node.address, Method::POST, "/a", &[], false).await.status, 201);
    assert_eq!(node.get("/a").await.text(), "after");
}

#[tokio::test]
async fn head_of_what_is_not_stored_asks_for_the_head_alone() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a body"));
    let got = ask(node.address, Method::HEAD, "/a", &[], false).await;
    assert_eq!((got.status, got.header("content-length"), got.header("x-cache")), (200, "6", "MISS from edge"));
    assert_eq!(origin.seen("/a")[0].method, Method::HEAD);
}

#[tokio::test]
async fn http2_without_tls_is_served_on_the_same_port() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body = Bytes::from(vec![3_u8; 500_000]);
    origin.put("/a", Page::new(body.clone()));
    for expected in ["MISS from edge", "HIT from edge"] {
        let url = [("host", DOMAIN)];
        let got = ask_h2(node.address, "/a", &url).await;
        assert_eq!((got.status, got.header("x-cache"), got.body.as_ref()), (200, expected, Ok(&body)));
        node.settled().await;
        let drained = tokio::time::timeout(PATIENCE, node.knowing.drained()).await;
        assert!(drained.is_ok(), "its header is known to be on its way");
    }
}

/// HTTP/2 names the host in its `:authority`, so the connection is made by hand.
async fn ask_h2(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Got {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let host = headers.iter().find(|(name, _)| *name == "host").unwrap().1;
    let request = Request::builder().uri(format!("http://{host}{path}")).body(Full::<Bytes>::default()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).map_err(|error| error.to_string());
    connection.abort();
    Got { status: head.status.as_u16(), headers: head.headers, body }
}

#[tokio::test]
async fn heads_beyond_the_bound_are_refused_and_the_node_goes_on() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a"));
    let huge = "x".repeat(100_000);
    assert_eq!(node.get_with("/a", &[("x-huge", &huge)]).await.status, 431);
    let long = format!("/{}", "y".repeat(65_000));
    assert!((400..500).contains(&node.get(&long).await.status));
    origin.put("/b", Page::new("b").with("x-huge", &huge));
    assert_eq!(node.get("/b").await.status, 502, "an origin's head has a bound too");
    assert_eq!(node.get("/a").await.status, 200);
}

#[tokio::test]
async fn unreachable_origin_is_a_502_and_names_no_internals() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.stop();
    eventually("the origin is gone", || std::net::TcpStream::connect(origin.address).is_err()).await;
    let got = node.get("/a").await;
    assert_eq!((got.status, got.text()), (502, "the origin could not be reached\n"));
}

#[tokio::test]
async fn objects_survive_a_restart_of_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let config = || store::Config {
        memory_bytes: 16 << 20,
        disks: vec![store::DiskConfig { path: directory.path().join("disk"), capacity_bytes: 512 << 20 }],
        segment_bytes: 16 << 20,
    };
    let origin = Origin::start().await;
    let body = Bytes::from(vec![9_u8; 3_000_000]);
    origin.put("/a", Page::new(body.clone()));
    let store = store::Store::open(config()).await.unwrap();
    let node = TestNode::start("edge", &knowledge(&origin), clock(), store.clone()).await;
    node.get("/a").await;
    node.settled().await;
    drop(node);
    store.close().await.unwrap();
    drop(store);
    origin.stop();

    let mut reopened = store::Store::open(config()).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while matches!(reopened, Err(store::OpenError::InUse { .. })) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await; // the last tasks of the old node are still ending
        reopened = store::Store::open(config()).await;
    }
    let node = TestNode::start("edge", &knowledge(&origin), clock(), reopened.unwrap()).await;
    let got = node.get("/a").await;
    assert_eq!((got.header("x-cache"), got.body.as_ref()), ("HIT from edge", Ok(&body)));
}
