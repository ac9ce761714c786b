//! HTTP caching as users see it: request directives, what is stored for others, what writes invalidate, several ranges.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tiers::{Tiers, tiers};
use super::*;

/// Advances the clock; the node stays in contact.
fn wait(node: &TestNode, seconds: u64) {
    node.clock.advance(Duration::from_secs(seconds));
    node.in_contact();
}

#[tokio::test]
async fn request_that_asks_for_better_has_it_validated() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a").with("etag", "\"v1\"").with("cache-control", "max-age=60"));
    origin.put("/still", Page::new("s").with("cache-control", "max-age=60, immutable"));
    for path in ["/a", "/still"] {
        node.get(path).await;
    }
    node.settled().await;
    let cases = [
        // wait, path, request directives                                       X-Cache, Cache-Status
        (5, "/a", "max-age=9", "HIT from edge", "edge; hit; ttl=55"),
        (0, "/a", "max-age=4", "REVALIDATED from edge", "edge; fwd=request; fwd-status=304; ttl=60"),
        (0, "/a", "no-cache", "HIT from edge", "edge; hit; ttl=60"), // it was validated in this second
        (1, "/a", "no-cache", "REVALIDATED from edge", "edge; fwd=request; fwd-status=304; ttl=60"),
        (1, "/a", "min-fresh=59", "HIT from edge", "edge; hit; ttl=59"),
        (0, "/a", "min-fresh=60", "REVALIDATED from edge", "edge; fwd=request; fwd-status=304; ttl=60"),
        (0, "/still", "max-age=0", "HIT from edge", "edge; hit; ttl=53"),
        (60, "/a", "max-stale=5", "STALE from edge", "edge; hit; ttl=0"),
    ];
    for (seconds, path, directives, x_cache, cache_status) in cases {
        wait(&node, seconds);
        let got = node.get_with(path, &[("cache-control", directives)]).await;
        assert_eq!((got.header("x-cache"), got.header("cache-status")), (x_cache, cache_status), "{path} {directives}");
        node.settled().await;
    }
    let asked: Vec<String> = origin
        .seen("/a")
        .iter()
        .map(|seen| seen.headers.get("cache-control").map_or("", |wish| wish.to_str().unwrap()).to_owned())
        .collect();
    assert_eq!(
        asked,
        ["", "max-age=4", "no-cache", "min-fresh=60", ""],
        "a cache between this node and the origin is to hear it"
    );
    assert_eq!(origin.seen("/still").len(), 1);

    origin.stop();
    wait(&node, 2);
    let got = node.get_with("/a", &[("pragma", "no-cache")]).await;
    assert_eq!((got.text(), got.header("x-cache")), ("a", "HIT from edge"), "a reload is no outage");
    assert_eq!(got.header("cache-status"), "edge; fwd=request; ttl=58");
}

#[tokio::test]
async fn reload_goes_through_every_tier() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    origin.put("/a", Page::new("old"));
    assert_eq!(child.get("/a").await.text(), "old");
    child.settled().await;
    parent.settled().await;
    origin.put("/a", Page::new("new"));
    clock.advance(Duration::from_secs(2));
    assert_eq!(child.get("/a").await.text(), "old", "it is fresh");
    assert_eq!(child.get_with("/a", &[("cache-control", "no-cache")]).await.text(), "new");
    assert_eq!(parent.get("/a").await.text(), "new");
}

#[tokio::test]
async fn confirmation_to_a_request_with_credentials_leaves_the_stored_response_as_it_is() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    let after = |seconds| {
        clock.advance(Duration::from_secs(seconds));
        child.in_contact();
        parent.in_contact();
    };
    let settled = async || {
        child.settled().await;
        parent.settled().await;
    };
    let page = |x: &str| Page::new("a").with("cache-control", "max-age=60").with("x-from", x);
    let credentials = [("authorization", "Basic eDp5"), ("cache-control", "no-cache")];
    origin.put("/a", page("first"));
    child.get("/a").await;
    settled().await;
    after(30);
    origin.put("/a", page("second"));
    let got = child.get_with("/a", &credentials).await;
    assert_eq!((got.status, got.text(), got.header("x-from")), (200, "a", "second"));
    assert!(origin.seen("/a")[1].headers.contains_key(IF_NONE_MATCH));
    settled().await;
    for node in [&child, &parent] {
        let hit = node.get_with("/a", &[("cache-control", "only-if-cached")]).await;
        assert_eq!((hit.status, hit.header("x-from"), hit.header("age")), (200, "first", "30"));
    }
    after(30);
    assert_eq!(child.get("/a").await.header("x-cache"), "REVALIDATED from parent", "its time was not lengthened");
    settled().await;

    // A prefetch with credentials has warmed nothing for others, and took nothing away either.
    after(61);
    let headers = vec![("authorization".to_owned(), "Basic eDp5".to_owned())];
    let job = model::Job { headers, ..super::prefetching::job(1, "/a", 0) };
    let outcome = warmed(&parent.pipeline, &job).await;
    assert!(matches!(outcome, model::Outcome::Failed(model::Cause::NotStorable(_))), "{outcome:?}");
    assert_eq!(parent.get("/a").await.header("x-cache"), "REVALIDATED from parent");
    settled().await;

    // What the origin itself forbids is not kept.
    after(2);
    origin.put("/a", page("third").with("cache-control", "private"));
    assert_eq!(parent.get_with("/a", &credentials).await.text(), "a");
    settled().await;
    assert_eq!(parent.get_with("/a", &[("cache-control", "only-if-cached")]).await.status, 504);
}

#[tokio::test]
async fn answer_to_a_request_with_no_store_is_not_stored() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a"));
    for _ in 0..2 {
        let got = node.get_with("/a", &[("cache-control", "no-store")]).await;
        assert_eq!((got.text(), got.header("x-cache")), ("a", "MISS from edge"));
        node.settled().await;
        assert_eq!(node.get_with("/a", &[("cache-control", "only-if-cached")]).await.status, 504);
    }
    node.get("/a").await;
    node.settled().await;
    let got = node.get_with("/a", &[("cache-control", "no-store")]).await;
    assert_eq!(got.header("x-cache"), "HIT from edge", "what is stored already may be sent");
    assert_eq!(origin.seen("/a").len(), 3);
}

#[tokio::test]
async fn what_is_for_one_user_goes_to_the_one_who_fetched() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    let page = || Page::new("body").with("set-cookie", "session=1").with("x-user", "me").with("x-all", "us");
    origin.put("/mine", Page { head_gate: Some(gate.clone()), ..page() });
    origin.put("/ours", page().with("cache-control", "public, max-age=60"));
    origin.put(
        "/listed",
        page().with("cache-control", "public, max-age=60, private=\"x-user\", no-cache=\"set-cookie\""),
    );
    let askers: Vec<_> = (0..5)
        .map(|_| {
            let address = node.address;
            tokio::spawn(async move { ask(address, Method::GET, "/mine", &[], false).await })
        })
        .collect();
    eventually("5 requests are waiting", || node.pipeline.metrics().requests_running.get() == 5).await;
    gate.add_permits(5);
    let mut cookies = 0;
    for asker in askers {
        let got = asker.await.unwrap();
        assert_eq!((got.text(), got.header("x-all")), ("body", "us"));
        cookies += usize::from(got.header("set-cookie") == "session=1");
    }
    assert_eq!((cookies, origin.seen("/mine").len()), (1, 1), "one fetch, one session");

    let cases = [
        // path      the first user gets     and later users
        ("/mine", None, ("", "me", "us")),
        ("/ours", Some(("session=1", "me", "us")), ("session=1", "me", "us")), // the origin allows it
        ("/listed", Some(("session=1", "me", "us")), ("", "", "us")),
    ];
    for (path, first, later) in cases {
        let fields = |got: &Got| ["set-cookie", "x-user", "x-all"].map(|name| got.header(name).to_owned());
        if let Some((cookie, user, all)) = first {
            assert_eq!(fields(&node.get(path).await), [cookie, user, all], "{path}");
        }
        node.settled().await;
        let got = node.get(path).await;
        assert_eq!(got.header("x-cache"), "HIT from edge", "{path}");
        assert_eq!(fields(&got), [later.0, later.1, later.2], "{path}");
    }
}

#[tokio::test]
async fn field_that_names_tags_is_kept_or_the_body_is_not() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a").with("cache-tag", "x").with("cache-control", "max-age=60, private=\"cache-tag\""));
    for _ in 0..2 {
        assert_eq!(node.get("/a").await.header("x-cache"), "MISS from edge", "a refresh by tag would miss it");
        node.settled().await;
    }
}

#[tokio::test]
async fn response_without_a_date_gets_that_of_its_arrival() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a"));
    let arrived = "Fri, 15 Jan 2027 08:00:00 GMT"; // the initial time of every test's clock
    assert_eq!(node.get("/a").await.header("date"), arrived);
    node.settled().await;
    wait(&node, 30);
    let got = node.get("/a").await;
    assert_eq!((got.header("date"), got.header("age")), (arrived, "30"));
}

#[tokio::test]
async fn validation_that_brings_another_vary_or_body_leaves_nothing_behind() {
    let Stage { origin, node, .. } = Stage::set().await;
    let page = |body: &'static str| Page::new(body).with("etag", "\"v1\"").with("cache-control", "max-age=10");
    origin.put("/vary", page("v"));
    origin.put("/dated", page("d").with("etag", "").with("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"));
    for path in ["/vary", "/dated"] {
        node.get(path).await;
    }
    node.settled().await;
    wait(&node, 11);
    origin.put("/vary", page("v").with("vary", "accept-language"));
    assert_eq!(node.get("/vary").await.header("x-cache"), "REVALIDATED from edge");
    node.settled().await;
    let got = node.get_with("/vary", &[("accept-language", "de")]).await;
    assert_eq!(got.header("x-cache"), "MISS from edge", "it lay where everybody finds it");

    // A 304 with a strong tag that no stored response has: it may belong to other bytes.
    origin.put("/dated", Page { status: 304, ..Page::new("").with("etag", "\"v2\"") });
    let asking = node.get("/dated");
    let mending = async {
        origin.asked("/dated", 2).await;
        origin.put("/dated", page("new").with("etag", "\"v2\""));
    };
    let (got, ()) = tokio::join!(asking, mending);
    assert!(matches!(got.status, 200 | 304 | 503), "{got:?}");
    assert_eq!(node.get("/dated").await.text(), "new");
}

#[tokio::test]
async fn write_makes_every_variant_and_what_it_names_invalid() {
    let Stage { origin, node, .. } = Stage::set().await;
    let paths = ["/a", "/b/made", "/b/seen", "/other"];
    let put = |version: &str| {
        for path in paths {
            origin.put(path, Page::new(format!("{version}{path}")).with("vary", "accept-language"));
        }
    };
    let get = async |path: &'static str, language: &'static str| {
        let got = node.get_with(path, &[("accept-language", language)]).await;
        node.settled().await;
        got.text().to_owned()
    };
    for (count, method) in ["POST", "PUT", "DELETE", "PATCH", "FROBNICATE"].into_iter().enumerate() {
        put(&format!("{count} old "));
        ask(node.address, Method::from_bytes(method.as_bytes()).unwrap(), "/other", &[], false).await;
        for path in paths {
            for language in ["de", "fr"] {
                get(path, language).await;
            }
        }
        let stored = get("/other", "de").await;
        assert_eq!(stored, format!("{count} old /other"), "{method}");
        put(&format!("{count} new "));
        origin.put(
            "/a",
            Page::new(format!("{count} new /a"))
                .with("vary", "accept-language")
                .with("location", "/b/made")
                .with("content-location", &format!("http://{DOMAIN}/b/seen")),
        );
        let written = ask(node.address, Method::from_bytes(method.as_bytes()).unwrap(), "/a", &[], false).await;
        assert_eq!(written.status, 201, "{method}");
        for path in ["/a", "/b/made", "/b/seen"] {
            // The second variant is requested once the first has left its marker.
            for language in ["fr", "de"] {
                assert_eq!(get(path, language).await, format!("{count} new {path}"), "{method} {language}");
            }
        }
        assert_eq!(get("/other", "de").await, stored, "{method}: what was not named stays");
    }
}

#[tokio::test]
async fn write_overtakes_a_running_fetch() {
    for chunked in [false, true] {
        let Stage { origin, node, .. } = Stage::set().await;
        let gate = Arc::new(Semaphore::new(0));
        let old = Bytes::from(vec![1_u8; 200_000]);
        origin.put("/a", Page { body_gate: Some(gate.clone()), chunked, ..Page::new(old.clone()) });
        let address = node.address;
        let first = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
        origin.asked("/a", 1).await;
        eventually("the answer is on its way", || node.pipeline.metrics().bytes_sent.get() > 0).await;

        assert_eq!(ask(node.address, Method::POST, "/a", &[], false).await.status, 201);
        origin.put("/a", Page::new("new"));
        assert_eq!(node.get("/a").await.text(), "new", "nobody joins what was asked for before");
        gate.add_permits(1_000);
        assert_eq!(first.await.unwrap().body.as_ref(), Ok(&old), "who came before reads to the end");
        node.settled().await;
        let got = node.get("/a").await;
        assert_eq!((got.text(), got.header("x-cache")), ("new", "HIT from edge"));
    }
}

#[tokio::test]
async fn several_ranges_are_one_answer_in_parts() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body: Vec<u8> = (0..200_000_u32).map(|n| (n / 3) as u8).collect();
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { body_gate: Some(gate.clone()), ..Page::new(body.clone()).with("content-type", "a/b") });
    let ranges = [("range", "bytes=150000-150099, 0-9, 500000-")];
    let address = node.address;
    let growing = tokio::spawn(async move { ask(address, Method::GET, "/a", &ranges, false).await });
    origin.asked("/a", 1).await;
    gate.add_permits(1_000);
    let growing = growing.await.unwrap();
    node.settled().await;
    let stored = node.get_with("/a", &ranges).await;
    assert_eq!(stored.header("x-cache"), "HIT from edge");
    for got in [growing, stored] {
        let boundary = got.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
        let mut expected = Vec::new();
        for (range, bytes) in [("150000-150099", &body[150_000..150_100]), ("0-9", &body[..10])] {
            let head = format!("\r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes {range}/200000\r\n\r\n");
            expected.extend_from_slice(head.as_bytes());
            expected.extend_from_slice(bytes);
        }
        expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert_eq!((got.status, got.header("content-range")), (206, ""));
        assert_eq!(got.header("content-length"), expected.len().to_string());
        assert_eq!(got.body.as_deref(), Ok(&expected[..]));
    }
    let head = ask(node.address, Method::HEAD, "/a", &ranges, false).await;
    assert_eq!((head.status, head.header("content-length")), (200, "200000"), "ranges are for GET");
    for (condition, status) in [("\"other\"", 412), ("*", 416)] {
        let got = node.get_with("/a", &[("range", "bytes=200000-"), ("if-match", condition)]).await;
        assert_eq!((got.status, got.header("cache-control"), got.header("age")), (status, "no-store", ""));
    }
}

#[tokio::test]
async fn part_that_was_not_asked_for_is_not_handed_on_as_the_whole() {
    let Stage { origin, node, .. } = Stage::set().await;
    let mut page = Page::new("part").with("content-range", "bytes 0-3/10");
    page.status = 206;
    origin.put("/a", page);
    for range in [&[][..], &[("cache-control", "no-store")]] {
        assert_eq!(node.get_with("/a", range).await.status, 502);
    }
}

#[tokio::test]
async fn interim_answers_are_neither_stored_nor_taken_for_the_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let raw = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0_u8; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nCache-Control: max-age=9\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: max-age=60\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let origin = Origin { address, pages: Arc::default(), seen: Arc::default(), stopped: CancellationToken::new() };
    let node = TestNode::start("edge", &knowledge(&origin), clock(), memory().await).await;
    for x_cache in ["MISS from edge", "HIT from edge"] {
        let got = node.get("/a").await;
        assert_eq!((got.status, got.text(), got.header("x-cache")), (200, "ok", x_cache));
        assert_eq!((got.header("link"), got.header("x-hop"), got.header("cache-control")), ("", "", "max-age=60"));
        node.settled().await;
    }
    raw.await.unwrap();
}
