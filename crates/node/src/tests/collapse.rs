//! One fetch for all requests that wait: whom it serves, whom it releases, and that nobody waits for a slow client.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Sends `count` requests at once and returns when all of them wait.
async fn crowd(
    node: &TestNode,
    count: u64,
    headers: &'static [&'static [(&'static str, &'static str)]],
) -> Vec<tokio::task::JoinHandle<Got>> {
    let askers = (0..count as usize)
        .map(|nth| {
            let (address, headers) = (node.address, headers[nth % headers.len()]);
            tokio::spawn(async move { ask(address, Method::GET, "/a", headers, false).await })
        })
        .collect();
    eventually("all are waiting", || node.pipeline.metrics().requests_running.get() == count).await;
    askers
}

/// The same without headers, when `already` requests wait.
async fn crowd_besides(node: &TestNode, already: u64, count: u64) -> Vec<tokio::task::JoinHandle<Got>> {
    let address = node.address;
    let ask = || tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    let askers = (0..count).map(|_| ask()).collect();
    eventually("all are waiting", || node.pipeline.metrics().requests_running.get() == already + count).await;
    askers
}

#[tokio::test]
async fn askers_of_two_variants_are_two_fetches_whether_they_are_known_or_not() {
    let Stage { origin, node, .. } = Stage::set().await;
    let both: &[&[(&str, &str)]] = &[&[("accept-encoding", "gzip")], &[("accept-encoding", "br")]];
    for (round, why) in ["nobody knows by what the answers differ", "it is known"].into_iter().enumerate() {
        let gate = Arc::new(Semaphore::new(0));
        let page = Page::new("a").with("vary", "accept-encoding");
        origin.put("/a", Page { head_gate: Some(gate.clone()), ..page });
        let askers = crowd(&node, 40, both).await;
        gate.add_permits(1_000);
        for asker in askers {
            assert_eq!(asker.await.unwrap().text(), "a", "{why}");
        }
        node.settled().await;
        assert_eq!(origin.seen("/a").len(), 2 * (round + 1), "{why}");
        node.refresh("/a", Mode::Delete);
    }
}

#[tokio::test]
async fn variant_on_its_way_since_nobody_knew_of_variants_is_joined_by_who_does() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    let page = Page::new("abcd").with("vary", "accept-encoding");
    origin.put("/a", Page { body_gate: Some(gate.clone()), ..page.clone() });
    let asks = |encoding: &'static [(&'static str, &'static str)]| {
        let address = node.address;
        tokio::spawn(async move { ask(address, Method::GET, "/a", encoding, false).await })
    };
    let first = asks(&[("accept-encoding", "gzip")]);
    // The marker is stored when the head has arrived; the body follows.
    eventually("it is known that there are variants", || node.pipeline.store().stats().objects == 1).await;
    let same = asks(&[("accept-encoding", "gzip")]);
    eventually("both wait", || node.pipeline.metrics().requests_running.get() == 2).await;
    let other = asks(&[("accept-encoding", "br")]);
    origin.asked("/a", 2).await;
    gate.add_permits(1_000);
    for asked in [first, same, other] {
        assert_eq!(asked.await.unwrap().text(), "abcd");
    }
    let seen = origin.seen("/a");
    let encodings: Vec<&HeaderValue> = seen.iter().map(|seen| &seen.headers["accept-encoding"]).collect();
    assert_eq!(encodings, ["gzip", "br"], "once for each variant");
}

#[tokio::test]
async fn failure_lets_everybody_go_at_once() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("a") });
    let askers = crowd(&node, 40, &[&[]]).await;
    origin.asked("/a", 1).await;
    origin.stop();
    for asker in askers {
        assert_eq!(asker.await.unwrap().status, 502);
    }
    assert_eq!(origin.seen("/a").len(), 1, "nobody asks a dead origin once more");
}

#[tokio::test]
async fn answer_that_is_nobody_elses_lets_everybody_ask_beside_each_other() {
    let Stage { origin, node, .. } = Stage::set().await;
    let (first, others) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let page = Page::new("mine").with("cache-control", "private");
    origin.put("/a", Page { head_gate: Some(first.clone()), ..page.clone() });
    let askers = crowd(&node, 20, &[&[]]).await;
    origin.asked("/a", 1).await;
    origin.put("/a", Page { head_gate: Some(others.clone()), ..page });
    first.add_permits(1);
    // None of the other nineteen is answered yet, and all of them ask the origin.
    origin.asked("/a", 20).await;
    others.add_permits(1_000);
    for asker in askers {
        assert_eq!(asker.await.unwrap().text(), "mine");
    }
    assert_eq!(origin.seen("/a").len(), 20);
}

#[tokio::test]
async fn confirmation_that_is_nobody_elses_is_sent_to_nobody_else() {
    for directives in ["private, max-age=60", "no-store"] {
        let Stage { origin, node, clock } = Stage::set().await;
        origin.put("/a", Page::new("a").with("cache-control", "max-age=1"));
        node.get("/a").await;
        node.settled().await;
        clock.advance(Duration::from_secs(5));
        node.in_contact();
        let (first, others) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let page = |whose: &str| Page::new("a").with("cache-control", directives).with("x-user", whose);
        origin.put("/a", Page { head_gate: Some(first.clone()), ..page("first") });
        let askers = crowd(&node, 20, &[&[]]).await;
        origin.asked("/a", 2).await;
        origin.put("/a", Page { head_gate: Some(others.clone()), ..page("another") });
        first.add_permits(1);
        origin.asked("/a", 1 + 20).await;
        others.add_permits(1_000);
        let mut firsts = 0;
        for asker in askers {
            let got = asker.await.unwrap();
            assert_eq!((got.status, got.text()), (200, "a"));
            firsts += usize::from(got.header("x-user") == "first");
        }
        assert_eq!(firsts, 1, "{directives}");
    }
}

#[tokio::test]
async fn body_that_takes_longer_to_come_than_it_is_fresh_is_not_joined_any_more() {
    let cases = [
        // directives of the answer, of the second request: whether it joins
        ("max-age=60", "", true),
        ("max-age=60", "max-age=3", false),
        ("max-age=60", "no-cache", false),
        ("max-age=3", "", false),
        ("no-cache", "", false),
    ];
    for (directives, wish, joins) in cases {
        let Stage { origin, node, clock } = Stage::set().await;
        let gate = Arc::new(Semaphore::new(0));
        let page = |text: &'static str| Page::new(text).with("cache-control", directives);
        origin.put("/a", Page { body_gate: Some(gate.clone()), ..page("before") });
        let mut first = tokio::net::TcpStream::connect(node.address).await.unwrap();
        first.write_all(format!("GET /a HTTP/1.1\r\nhost: {DOMAIN}\r\n\r\n").as_bytes()).await.unwrap();
        first.read_u8().await.unwrap();
        origin.put("/a", page("behind"));
        clock.advance(Duration::from_secs(5));
        node.in_contact();
        let address = node.address;
        let second =
            tokio::spawn(async move { ask(address, Method::GET, "/a", &[("cache-control", wish)], false).await });
        match joins {
            true => eventually("it waits", || node.pipeline.metrics().requests_running.get() == 2).await,
            false => origin.asked("/a", 2).await,
        }
        gate.add_permits(1_000);
        let expected = if joins { "before" } else { "behind" };
        assert_eq!(second.await.unwrap().text(), expected, "{directives} {wish}");
        assert_eq!(origin.seen("/a").len(), if joins { 1 } else { 2 }, "{directives} {wish}");
    }
}

#[tokio::test]
async fn slow_client_holds_back_nobody() {
    let Stage { origin, node, .. } = Stage::set().await;
    let body = Bytes::from((0..24_000_000_u32).map(|n| (n / 7) as u8).collect::<Vec<u8>>());
    origin.put("/a", Page::new(body.clone()));
    // A client that starts the fetch, reads the first bytes, and then nothing.
    let mut slow = tokio::net::TcpStream::connect(node.address).await.unwrap();
    slow.write_all(format!("GET /a HTTP/1.1\r\nhost: {DOMAIN}\r\n\r\n").as_bytes()).await.unwrap();
    slow.read_u8().await.unwrap();
    let got = node.get("/a").await;
    assert_eq!(got.body.as_ref().map(Bytes::len), Ok(body.len()));
    node.settled().await;
    let got = node.get("/a").await;
    assert_eq!((got.header("x-cache"), got.body.as_ref() == Ok(&body)), ("HIT from edge", true));
    assert_eq!(origin.seen("/a").len(), 1);
    drop(slow);
}

#[tokio::test]
async fn user_who_joined_a_prefetch_is_served_past_parents_that_are_gone() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("a"));
    let clock = clock();
    let mut knowledge = knowledge(&origin);
    let parent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = NodeName::parse("parent").unwrap();
    let address = parent.local_addr().unwrap();
    knowledge.topology.members.insert(name, member("parent", "pop-1", Tier::L2, address));
    let child = TestNode::start("child", &knowledge, clock, memory().await).await;
    let url = format!("http://{DOMAIN}/a");
    let job =
        model::Job { chunk: 1, index: 0, url, begin_after: Revision(1), headers: Vec::new(), ..model::Job::default() };
    child.prefetch.accept([job].into_iter());
    let (held, _) = parent.accept().await.unwrap();
    let node = child.address;
    let user = tokio::spawn(async move { ask(node, Method::GET, "/a", &[], false).await });
    eventually("the user waits", || child.pipeline.metrics().requests_running.get() == 1).await;
    drop((held, parent));
    let got = user.await.unwrap();
    assert_eq!((got.status, got.text(), got.header("x-cache")), (200, "a", "MISS from child"));
    let report = tokio::time::timeout(PATIENCE, child.prefetch.reports(1)).await.unwrap().remove(0);
    // What was fetched for the user serves the job.
    assert!(matches!(report.outcome, model::Outcome::Failed(_) | model::Outcome::Resident { .. }), "{report:?}");
    assert_eq!(origin.seen("/a").len(), 1, "and only for the user");
}

#[tokio::test]
async fn who_asks_with_credentials_holds_up_nobody_who_asks_without() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("a") });
    let address = node.address;
    let own = tokio::spawn(async move { ask(address, Method::GET, "/a", &[("authorization", "x")], false).await });
    origin.asked("/a", 1).await;
    let askers = crowd_besides(&node, 1, 20).await;
    origin.asked("/a", 2).await;
    gate.add_permits(1_000);
    assert_eq!(own.await.unwrap().text(), "a");
    for asker in askers {
        assert_eq!(asker.await.unwrap().text(), "a");
    }
    node.settled().await;
    assert_eq!(origin.seen("/a").len(), 2, "once for who has credentials, and once for all others");
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge", "what they asked for is stored");
}

#[tokio::test]
async fn failure_says_nothing_of_the_next_answer() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page { status: 500, ..Page::new("oh").with("cache-control", "no-store") });
    assert_eq!(node.get("/a").await.status, 500);
    origin.put("/a", Page::new("a"));
    assert_eq!(node.get("/a").await.text(), "a");
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
}

#[tokio::test]
async fn failure_of_one_fetch_is_answered_from_the_store_for_all_who_wait() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/a", Page::new("a").with("cache-control", "max-age=1, stale-if-error=600"));
    node.get("/a").await;
    node.settled().await;
    clock.advance(Duration::from_secs(5));
    node.in_contact();
    let gate = Arc::new(Semaphore::new(0));
    let oh = Page::new("oh").with("cache-control", "no-store");
    origin.put("/a", Page { status: 500, head_gate: Some(gate.clone()), ..oh });
    let askers = crowd(&node, 20, &[&[]]).await;
    origin.asked("/a", 2).await;
    gate.add_permits(1);
    for asker in askers {
        assert_eq!(asker.await.unwrap().text(), "a");
    }
    assert_eq!(origin.seen("/a").len(), 2, "one asked for all of them");
}

#[tokio::test]
async fn answer_to_a_bad_request_does_not_end_sharing_for_others() {
    let Stage { origin, node, .. } = Stage::set().await;
    let mut bad = Page::new("the header is too large").with("cache-control", "");
    bad.status = 431;
    origin.put("/a", bad);
    assert_eq!(node.get("/a").await.status, 431);
    origin.put("/a", Page::new("a"));
    assert_eq!(node.get("/a").await.header("x-cache"), "MISS from edge");
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
}
