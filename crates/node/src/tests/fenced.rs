//! The fence at the headers of one node: a covered body is not sent, from the store or from a running fetch.

use super::*;
use crate::knowing::{LogTag, Named};

#[tokio::test]
async fn refresh_brings_the_new_bytes() {
    let Stage { origin, node, .. } = Stage::set().await;
    for (refreshed, path) in [("/d/a", "/d/a"), ("/d/", "/d/b/c")] {
        for mode in [Mode::Expire, Mode::Delete] {
            origin.put(path, Page::new("old"));
            node.refresh("/", Mode::Delete);
            assert_eq!(node.get(path).await.text(), "old");
            node.settled().await;
            origin.put(path, Page::new("new"));
            assert_eq!(node.get(path).await.text(), "old", "nobody refreshed yet");
            node.refresh(refreshed, mode);
            assert_eq!(node.get(path).await.text(), "new", "{refreshed} {mode:?}");
            node.settled().await;
            assert_eq!(node.get(path).await.header("x-cache"), "HIT from edge");
        }
    }
}

#[tokio::test]
async fn refresh_that_expires_lets_the_origin_confirm_and_one_that_deletes_does_not() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("same").with("etag", "\"v1\""));
    node.get("/a").await;
    node.settled().await;
    node.refresh("/a", Mode::Expire);
    assert_eq!(node.get("/a").await.header("x-cache"), "REVALIDATED from edge");
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge", "the 304 gave the body the new stamp");
    node.refresh("/a", Mode::Delete);
    assert_eq!(node.get("/a").await.header("x-cache"), "MISS from edge");
    let conditional: Vec<bool> =
        origin.seen("/a").iter().map(|seen| seen.headers.contains_key(IF_NONE_MATCH)).collect();
    assert_eq!(conditional, [false, true, false]);
}

#[tokio::test]
async fn fetch_that_is_overtaken_is_sent_to_nobody_who_asks_later_nor_to_who_began_it() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("old") });
    let address = node.address;
    let first = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    origin.asked("/a", 1).await;
    // The origin has read the old page. Now the page changes and is refreshed, and a second user asks.
    origin.put("/a", Page::new("new"));
    node.refresh("/a", Mode::Expire);
    let second = node.get("/a").await;
    assert_eq!(second.text(), "new", "who asks after the refresh does not join the old fetch");
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().text(), "new", "and who began it is judged at his own header");
    node.settled().await;
    let third = node.get("/a").await;
    assert_eq!((third.text(), third.header("x-cache")), ("new", "HIT from edge"), "nothing took its place");
}

#[tokio::test]
async fn fetch_that_is_overtaken_takes_the_place_of_nothing_when_it_ends() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = || Some(Arc::new(Semaphore::new(0)));
    let cases = [
        ("its head is late", Page { head_gate: gate(), ..Page::new("late") }),
        ("its body is late", Page { body_gate: gate(), ..Page::new("late") }),
        ("it is late and a variant", Page { head_gate: gate(), ..Page::new("late").with("vary", "accept-encoding") }),
    ];
    for (at, (why, late)) in cases.into_iter().enumerate() {
        let path = format!("/{at}");
        let gate = late.head_gate.clone().or(late.body_gate.clone()).unwrap();
        let stored = || node.pipeline.metrics().stored.get();
        let before = stored();
        origin.put(&path, late);
        let (address, asked) = (node.address, path.clone());
        let first = tokio::spawn(async move { ask(address, Method::GET, &asked, &[], false).await });
        origin.asked(&path, 1).await;
        origin.put(&path, Page::new("new"));
        node.refresh(&path, Mode::Expire);
        assert_eq!(node.get(&path).await.text(), "new");
        eventually("what came later is stored", || stored() == before + 1).await;
        gate.add_permits(1_000);
        first.await.unwrap().body.unwrap();
        node.settled().await;
        let then = node.get(&path).await;
        assert_eq!((then.text(), then.header("x-cache")), ("new", "HIT from edge"), "{why}");
        assert_eq!(origin.seen(&path).len(), 2, "{why}");
    }
}

#[tokio::test]
async fn overtaken_answer_that_is_not_stored_is_not_sent_either() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("old").with("cache-control", "no-store") });
    let address = node.address;
    let first = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    origin.asked("/a", 1).await;
    origin.put("/a", Page::new("new").with("cache-control", "no-store"));
    node.refresh("/a", Mode::Expire);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().text(), "new");
}

#[tokio::test]
async fn object_that_is_refreshed_faster_than_it_is_fetched_is_a_503() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("never") });
    let address = node.address;
    let asker = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    for round in 1..=crate::pipeline::ATTEMPTS_MAX as usize {
        origin.asked("/a", round).await;
        node.refresh("/a", Mode::Expire);
        gate.add_permits(1);
    }
    let got = asker.await.unwrap();
    assert_eq!(got.status, 503);
    assert!(!got.header("retry-after").is_empty());
}

#[tokio::test]
async fn covered_body_is_not_sent_when_the_origin_fails_whatever_it_permits() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put(
        "/a",
        Page::new("old").with("cache-control", "max-age=10, stale-if-error=600, stale-while-revalidate=600"),
    );
    node.get("/a").await;
    node.settled().await;
    clock.advance(Duration::from_secs(20));
    node.in_contact();
    node.refresh("/a", Mode::Expire);
    origin.stop();
    eventually("the origin is gone", || std::net::TcpStream::connect(origin.address).is_err()).await;
    let got = node.get("/a").await;
    assert_eq!(got.status, 502, "{got:?}");
}

#[tokio::test]
async fn out_of_contact_for_a_lease_the_origin_is_asked_before_the_store_is_trusted() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/a", Page::new("a").with("etag", "\"v1\""));
    node.get("/a").await;
    node.settled().await;
    clock.advance(Duration::from_millis(9_999));
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
    clock.advance(Duration::from_millis(1)); // a lease of 10 s is over at 10 s
    assert_eq!(node.get("/a").await.header("x-cache"), "REVALIDATED from edge");
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge", "the origin vouched for it");
    clock.advance(Duration::from_secs(10));
    assert_eq!(node.get("/a").await.header("x-cache"), "REVALIDATED from edge", "for a lease");
    node.in_contact();
    clock.advance(Duration::from_secs(9));
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
}

#[tokio::test]
async fn isolated_node_serves_its_store_only_once_the_log_says_that_it_does() {
    let origin = Origin::start().await;
    origin.put("/a", Page::new("a").with("etag", "\"v1\""));
    let clock = clock();
    let node = TestNode::isolated("edge", &knowledge(&origin), clock.clone(), memory().await, Isolation::Serve).await;
    assert_eq!(node.get("/a").await.header("x-cache"), "MISS from edge");
    node.settled().await;
    clock.advance(Duration::from_secs(60));
    assert_eq!(
        node.get("/a").await.header("x-cache"),
        "REVALIDATED from edge",
        "nobody waits for it without limit yet"
    );
    node.settled().await;
    let mut own = member("edge", "pop-1", Tier::L1, node.address);
    own.isolation = Isolation::Serve;
    node.apply(Entry::Member(own));
    clock.advance(Duration::from_secs(60));
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
    node.refresh("/a", Mode::Expire);
    assert_eq!(node.get("/a").await.header("x-cache"), "REVALIDATED from edge", "what it knows of it never serves");
}

#[tokio::test]
async fn contact_counts_once_the_head_it_was_told_is_applied() {
    let Stage { node, clock, .. } = Stage::set().await;
    let before = node.knowing.contact();
    clock.advance(Duration::from_secs(5));
    let sent = clock.moment();
    let head = node.knowing.applied().next();
    node.knowing.heard(sent, head);
    assert_eq!(node.knowing.contact(), before);
    clock.advance(Duration::from_secs(1));
    node.refresh("/x", Mode::Expire);
    assert_eq!(node.knowing.contact(), Some(sent), "the moment of sending, not of applying");
}

#[tokio::test]
async fn new_log_makes_every_stored_body_a_miss_though_its_stamp_is_higher() {
    let Stage { origin, node, .. } = Stage::set().await;
    for _ in 0..100 {
        node.refresh("/other", Mode::Expire);
    }
    origin.put("/a", Page::new("old").with("etag", "\"v1\""));
    node.get("/a").await;
    node.settled().await;
    origin.put("/a", Page::new("new").with("etag", "\"v2\""));
    let knowledge = node.knowing.known().knowledge.clone();
    node.knowing.join(LogId("restored".into()), PEERS.into(), Revision(2), knowledge).await;
    node.in_contact();
    let got = node.get("/a").await;
    assert_eq!((got.text(), got.header("x-cache")), ("new", "MISS from edge"));
    assert!(!origin.seen("/a")[1].headers.contains_key(IF_NONE_MATCH), "its stamp means nothing, so it is not lifted");
}

#[tokio::test]
async fn acknowledging_waits_for_headers_judged_before() {
    let Stage { node, .. } = Stage::set().await;
    let key = UrlKey::new(DOMAIN, "/a").unwrap();
    let body = model::fence::Vouched { stamp: Revision(1), at: None };
    let mut judging = node.knowing.judging();
    let judged = node.knowing.judge(
        &mut judging,
        body,
        LogTag::of(&LogId("log".into())),
        Named::own(&key),
        None,
        model::fence::Asker::User,
    );
    assert_eq!(judged.map(|judged| judged.verdict), Some(model::fence::Verdict::Send));
    node.refresh("/a", Mode::Expire);
    let mut drained = std::pin::pin!(node.knowing.drained());
    assert!(futures_util::poll!(drained.as_mut()).is_pending(), "a judged header is not on its way");
    assert!(node.knowing.is_overtaken(&judging));
    let _later = node.knowing.judging(); // judged by the new index: no drain waits for it
    drop(judging);
    assert!(futures_util::poll!(drained.as_mut()).is_ready());
}

#[tokio::test]
async fn drain_that_was_given_up_leaves_nothing_out_of_the_next() {
    let Stage { node, .. } = Stage::set().await;
    let judging = node.knowing.judging();
    {
        let mut given_up = std::pin::pin!(node.knowing.drained());
        assert!(futures_util::poll!(given_up.as_mut()).is_pending());
    }
    let mut drained = std::pin::pin!(node.knowing.drained());
    assert!(futures_util::poll!(drained.as_mut()).is_pending(), "the header of two epochs ago is still waiting");
    drop(judging);
    assert!(futures_util::poll!(drained.as_mut()).is_ready());
}

/// A connection on which one page is requested `requests` times and nothing is read, returned once its socket takes no
/// more.
async fn stuck(node: &TestNode, requests: usize) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt;
    let mut client = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let request = format!("GET /a HTTP/1.1\r\nhost: {DOMAIN}\r\n");
    let all = format!("{request}\r\n").repeat(requests - 1) + &request + "connection: close\r\n\r\n";
    client.write_all(all.as_bytes()).await.unwrap();
    takes_no_more(node).await;
    client
}

#[tokio::test]
async fn header_of_a_client_that_does_not_read_is_dropped_once_it_is_overtaken() {
    use tokio::io::AsyncReadExt;
    let Stage { origin, node, .. } = Stage::set().await;
    // Almost nothing but headers, so that what waits for the socket is a header or a part of one.
    origin.put("/a", Page::new("a").with("x-long", &"x".repeat(40_000)));
    node.get("/a").await;
    node.settled().await;
    let requests = 1_000;
    let mut client = stuck(&node, requests).await;
    node.refresh("/a", Mode::Expire);
    let drained = tokio::time::timeout(PATIENCE, node.knowing.drained()).await;
    assert!(drained.is_ok(), "acknowledging does not wait for a client that does not read");
    let mut all = Vec::new();
    let _ = client.read_to_end(&mut all).await;
    assert!(all.len() < requests * 40_000, "and the connection ended");
}

#[tokio::test]
async fn body_of_a_slow_client_goes_on_whatever_is_refreshed_after_its_header_was_sent() {
    use tokio::io::AsyncReadExt;
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new(vec![5_u8; 100_000]));
    node.get("/a").await;
    node.settled().await;
    let requests = 1_000;
    let mut client = stuck(&node, requests).await;
    node.refresh("/b", Mode::Expire);
    let drained = tokio::time::timeout(PATIENCE, node.knowing.drained()).await;
    assert!(drained.is_ok(), "nothing waits but bodies");
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    assert!(all.len() > requests * 100_000, "{} bytes", all.len());
}

#[tokio::test]
async fn removed_node_serves_nobody() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a"));
    assert_eq!(node.get("/a").await.status, 200);
    node.apply(Entry::MemberRemoved(NodeName::parse("edge").unwrap()));
    assert_eq!(node.get("/a").await.status, 503);
    assert!(!node.knowing.is_ready());
    assert!(!format!("{:?}", node.knowing.known()).contains(PEERS), "no secret is shown with it");
}
