//! HTTP/2 as a client sees it: interim answers, contents, what waiting costs, and PINGs.

use std::future::poll_fn;

use h2::client::{ResponseFuture, SendRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::interim::{HINTS, hinting};
use super::misbehaving::{
    END_HEADERS, END_STREAM, HEADERS, PING, frame, get_block, in_memory, open, preface, refusals,
};
use super::tiers::{Tiers, tiers_before};
use super::*;
use crate::metrics::Refusal;
use crate::streams::{WAITING_BYTES_MAX, WAITING_STREAM_BYTES};

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://{DOMAIN}{path}"))
}

/// The next interim answer.
async fn interim(answer: &mut ResponseFuture) -> Response<()> {
    let next = poll_fn(|cx| answer.poll_informational(cx));
    tokio::time::timeout(PATIENCE, next).await.expect("one in time").expect("one before the answer").unwrap()
}

async fn whole(answer: ResponseFuture) -> Got {
    let (head, mut body) = tokio::time::timeout(PATIENCE, answer).await.expect("in time").unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    Got { status: head.status.as_u16(), headers: head.headers, body: Ok(bytes.into()) }
}

#[tokio::test]
async fn early_hints_come_through_two_tiers_before_the_answer_is_there() {
    let gate = Arc::new(Semaphore::new(0));
    let Tiers { child, .. } = tiers_before(hinting(HINTS, gate.clone()).await).await;
    let mut client = connect(child.address).await;
    let get = |path| request(Method::GET, path).body(()).unwrap();
    let (mut answer, _) = client.send_request(get("/a"), true).unwrap();
    let hints = interim(&mut answer).await;
    assert_eq!(hints.status(), StatusCode::EARLY_HINTS);
    assert_eq!(hints.headers().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["link"]);
    gate.add_permits(1);
    let answer = whole(answer).await;
    assert_eq!((answer.status, answer.text()), (200, "/a"));
    // Interim answers are not stored.
    child.settled().await;
    let (mut answer, _) = client.send_request(get("/a"), true).unwrap();
    assert!(poll_fn(|cx| answer.poll_informational(cx)).await.is_none());
    assert_eq!(whole(answer).await.header("x-cache"), "HIT from child");
}

#[tokio::test]
async fn more_hints_than_one_request_may_have_are_dropped_and_the_answer_comes() {
    let long: &'static str = Box::leak(
        format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(6_000)).repeat(40).into_boxed_str(),
    );
    let Tiers { child, .. } = tiers_before(hinting(long, Arc::new(Semaphore::new(1000))).await).await;
    let mut client = connect(child.address).await;
    let (answer, _) = client.send_request(request(Method::GET, "/a").body(()).unwrap(), true).unwrap();
    assert_eq!(whole(answer).await.text(), "/a");
    let metrics = child.pipeline.metrics();
    assert!(metrics.interims.get() <= 2 && metrics.interims_dropped.get() > 0, "{}", metrics.interims.get());
}

#[tokio::test]
async fn content_that_waits_for_permission_gets_it_and_comes_whole() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/form", Page::new(""));
    let mut client = connect(node.address).await;
    let post = request(Method::POST, "/form").header("expect", "100-continue").header("content-length", "6");
    let (mut answer, mut content) = client.send_request(post.body(()).unwrap(), false).unwrap();
    assert_eq!(interim(&mut answer).await.status(), StatusCode::CONTINUE);
    content.send_data("abc".into(), false).unwrap();
    content.send_data("def".into(), true).unwrap();
    let answer = whole(answer).await;
    assert_eq!((answer.status, answer.text()), (201, "abcdef"));
    assert!(!answer.header("date").is_empty());
    assert!(!origin.seen("/form")[0].headers.contains_key("expect"));
    // One whose length is not told in advance, and which ends with trailers.
    let (answer, mut content) = client.send_request(request(Method::POST, "/form").body(()).unwrap(), false).unwrap();
    content.send_data(vec![b'x'; 10_000].into(), false).unwrap();
    content.send_trailers(HeaderMap::from_iter([(ETAG, HeaderValue::from_static("\"a\""))])).unwrap();
    assert_eq!(whole(answer).await.text(), "x".repeat(10_000));
}

#[tokio::test]
async fn streams_for_which_there_is_no_room_to_wait_are_refused_and_hits_go_on() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/hit", Page::new("hit"));
    assert_eq!(node.get("/hit").await.status, 200);
    node.settled().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/slow", Page { head_gate: Some(gate.clone()), ..Page::new("slow") });
    let waiting = &node.pipeline.metrics().streams_waiting_bytes;
    let room = 2 * WAITING_STREAM_BYTES + 12_000;
    let others = waiting.hold_some_below(WAITING_BYTES_MAX - room, WAITING_BYTES_MAX).unwrap();
    let mut client = connect(node.address).await;
    let long = "x".repeat(4_000);
    let mut ask = |path, method, fields| {
        let request = (0..fields).fold(request(method, path), |request, at| request.header(format!("x-{at}"), &long));
        client.send_request(request.body(()).unwrap(), true).unwrap().0
    };
    let waits = ask("/slow", Method::GET, 2);
    eventually("it waits", || waiting.get() > WAITING_BYTES_MAX - room + WAITING_STREAM_BYTES + 8_000).await;
    let refused = whole(ask("/slow", Method::GET, 2)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "2"), "its head is too large");
    let refused = whole(ask("/slow", Method::HEAD, 2)).await;
    assert_eq!((refused.status, refused.bytes()), (503, &b""[..]));
    assert_eq!(node.pipeline.metrics().refusals(Refusal::Streams), 2);
    let hit = whole(ask("/hit", Method::GET, 2)).await;
    assert_eq!((hit.status, hit.text()), (200, "hit"));
    let also = ask("/slow", Method::GET, 0);
    gate.add_permits(1);
    for answer in [waits, also] {
        assert_eq!(whole(answer).await.text(), "slow");
    }
    drop(others);
    eventually("nothing is held", || waiting.get() == 0).await;
}

#[tokio::test]
async fn stream_that_its_client_resets_is_given_up() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/slow", Page { head_gate: Some(gate), ..Page::new("slow") });
    let mut client = connect(node.address).await;
    let (answer, mut stream) = client.send_request(request(Method::GET, "/slow").body(()).unwrap(), true).unwrap();
    origin.asked("/slow", 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    let metrics = node.pipeline.metrics();
    eventually("its request is over", || metrics.requests_running.get() == 0).await;
    assert_eq!(metrics.streams_waiting_bytes.get(), 0);
    drop(answer);
    origin.put("/a", Page::new("a"));
    let (answer, _) = client.send_request(request(Method::GET, "/a").body(()).unwrap(), true).unwrap();
    assert_eq!(whole(answer).await.text(), "a", "the connection goes on");
}

/// Reads frames until the connection ends, or `until`; answers PINGs if `answers`. Returns how many came, and when the
/// connection ended.
async fn pinged(mut stream: DuplexStream, answers: bool, until: Duration) -> (u32, Option<Duration>) {
    let (begun, mut pings) = (Instant::now(), 0);
    let reading = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == PING {
                pings += 1;
                if answers {
                    stream.write_all(&frame(PING, 1, 0, &payload)).await.unwrap();
                }
            }
        }
        begun.elapsed()
    };
    let ended = tokio::time::timeout(until, reading).await.ok();
    (pings, ended)
}

#[tokio::test]
async fn client_that_answers_no_ping_is_gone() {
    let (stage, connect) = in_memory().await;
    let gate = Arc::new(Semaphore::new(0));
    stage.origin.put("/slow", Page { head_gate: Some(gate), ..Page::new("slow") });
    let mut streams = Vec::new();
    for number in 1..=2 {
        let mut stream = open(&connect, 1 << 20).await;
        stream.write_all(&preface(&[])).await.unwrap();
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block("/slow"))).await.unwrap();
        eventually("it is served", || stage.node.pipeline.metrics().requests_running.get() == number).await;
        streams.push(stream);
    }
    stage.origin.asked("/slow", 1).await;
    tokio::time::pause();
    let [silent, there] = streams.try_into().unwrap();
    let until = Duration::from_secs(80);
    let ((pings, ended), (others, goes_on)) = tokio::join!(pinged(silent, false, until), pinged(there, true, until));
    let ended = ended.expect("the silent one is cut off");
    assert!(pings == 1 && (Duration::from_secs(64)..Duration::from_secs(67)).contains(&ended), "{pings} {ended:?}");
    assert!(others >= 1 && goes_on.is_none(), "{others} {goes_on:?}");
    assert_eq!(refusals(&stage, Refusal::SlowRead), 0);
}
