//! Hits answered below hyper: they equal the pipeline's answers, and no answer goes to bytes that are not a request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::network::Stream;

/// A received answer: the status line, the fields sorted by name without the request id, and the body.
type Came = (String, Vec<String>, Vec<u8>);

/// Reads one answer; `None` at the end of the connection.
async fn answer<S: Stream>(stream: &mut S, unread: &mut Vec<u8>, has_body: bool) -> Option<Came> {
    let length = loop {
        if let Some(end) = unread.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(unread)).await.expect("an answer in time").ok()?;
        if read == 0 {
            assert!(unread.is_empty(), "{}", String::from_utf8_lossy(unread));
            return None;
        }
    };
    let head: Vec<u8> = unread.drain(..length).collect();
    let mut lines = std::str::from_utf8(&head).unwrap().trim_end().lines().map(str::to_owned);
    let status = lines.next().unwrap();
    let mut fields: Vec<String> = lines.filter(|line| !line.starts_with("x-request-id:")).collect();
    fields.sort();
    let length = fields.iter().find_map(|field| field.strip_prefix("content-length: ")?.parse().ok());
    let length: usize = length.filter(|_| has_body).unwrap_or(0);
    while unread.len() < length {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(unread)).await.expect("a body in time").unwrap();
        assert_ne!(read, 0, "the body is short");
    }
    Some((status, fields, unread.drain(..length).collect()))
}

async fn ask(address: SocketAddr, request: &str) -> Came {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let has_body = !request.starts_with("HEAD");
    answer(&mut stream, &mut Vec::new(), has_body).await.expect("an answer")
}

#[tokio::test]
async fn plain_hits_are_answered_as_the_pipeline_answers_them() {
    let stage = Stage::set().await;
    let node = &stage.node;
    let page = Page::new("the body").with("etag", "\"e\"").with("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    stage.origin.put("/a", page.clone().with("x-cache", "theirs").with("age", "5").with("set-cookie", "a=b"));
    stage.origin.put("/a?b=%2F&c", page.clone().with("cache-control", "public, max-age=600"));
    stage.origin.put("/empty", Page::new(""));
    stage.origin.put("/vary", page.with("vary", "accept-language"));
    stage.origin.put("/gone", Page { status: 410, ..Page::new("gone").with("cache-control", "max-age=60") });
    for path in ["/a", "/a?b=%2F&c", "/empty", "/vary", "/gone"] {
        node.get(path).await;
        node.settled().await;
        assert_eq!(node.get(path).await.header("x-cache"), "HIT from edge", "{path}");
    }
    stage.clock.advance(Duration::from_secs(3));
    node.in_contact();
    let host = format!("Host: {DOMAIN}\r\n");
    let upper = format!("Host: {}\r\n", DOMAIN.to_ascii_uppercase());
    let port = format!("Host: {DOMAIN}:8080\r\n");
    let browser =
        "User-Agent: x/1 (y)\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\nCookie: a=b\r\nSEC-Fetch-Mode: cors\r\n";
    let cases = [
        // what            method  path            version  fields                                    below hyper
        ("plain", "GET", "/a", "1.1", host.clone(), true),
        ("query", "GET", "/a?b=%2F&c", "1.1", host.clone(), true),
        ("empty", "GET", "/empty", "1.1", host.clone(), true),
        ("browser", "GET", "/a", "1.1", format!("{host}{browser}"), true),
        ("port", "GET", "/a", "1.1", port, true),
        ("keep-alive", "GET", "/a", "1.1", format!("{host}Connection: Keep-Alive\r\n"), true),
        ("close", "GET", "/a", "1.1", format!("{host}Connection: close\r\n"), false),
        ("other case", "GET", "/a", "1.1", upper, false),
        ("HEAD", "HEAD", "/a", "1.1", host.clone(), false),
        ("variant", "GET", "/vary", "1.1", host.clone(), false),
        ("status", "GET", "/gone", "1.1", host.clone(), false),
        ("older", "GET", "/a", "1.0", host.clone(), false),
        ("range", "GET", "/a", "1.1", format!("{host}Range: bytes=1-2\r\n"), false),
        ("condition", "GET", "/a", "1.1", format!("{host}If-None-Match: \"e\"\r\n"), false),
        ("wish", "GET", "/a", "1.1", format!("{host}Cache-Control: max-stale\r\n"), false),
        ("unknown field", "GET", "/a", "1.1", format!("{host}X-Other: 1\r\n"), false),
        ("ours", "GET", "/a", "1.1", format!("{host}Warmfront-Alive: 1\r\n"), false),
        ("escaped", "GET", "/%61", "1.1", host.clone(), false),
        ("two hosts", "GET", "/a", "1.1", format!("{host}{host}"), false),
        ("no host", "GET", "/a", "1.1", String::new(), false),
        ("another host", "GET", "/a", "1.1", "Host: other.test\r\n".to_owned(), false),
        ("absolute", "GET", &format!("http://{DOMAIN}/a"), "1.1", host.clone(), false),
        ("control", "GET", "/a", "1.1", format!("{host}Cookie: \u{1}\r\n"), false),
    ];
    let hot = || node.pipeline.metrics().hot.get();
    for (what, method, path, version, fields, below) in cases {
        let before = hot();
        let quick = ask(node.address, &format!("{method} {path} HTTP/{version}\r\n{fields}\r\n")).await;
        assert_eq!(hot() - before, u64::from(below), "{what}: {quick:?}");
        let slow = ask(node.address, &format!("{method} {path} HTTP/{version}\r\n{fields}X-Odd: 1\r\n\r\n")).await;
        assert_eq!(hot() - before, u64::from(below), "{what}");
        if what != "escaped" {
            assert_eq!(quick, slow, "{what}");
        }
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_of_their_own_are_not_answered() {
    let (stage, connect) = misbehaving::in_memory().await;
    let node = &stage.node;
    stage.origin.put("/a", Page::new("the body").with("etag", "\"e\""));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    stage.origin.put("/slow", Page { head_gate: Some(gate.clone()), ..Page::new("slow") });
    node.get("/a").await;
    node.settled().await;
    let get = format!("GET /a HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
    let slow = get.replace("/a", "/slow");
    let post = format!("POST /a HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {}\r\n\r\n", get.len());
    let opened = get.trim_end().to_owned() + "\r\nX-Half: ";
    let conditional = get.replace("\r\n\r\n", "\r\nIf-None-Match: \"e\"\r\n\r\n");
    let cases: [(&str, &[&str], &[&str], u64); 7] = [
        // what                               packets                          statuses                 below hyper
        ("one after the other", &[&get, &get], &["200", "200"], 2),
        ("between others", &[&get, &conditional, &get], &["200", "304", "200"], 2),
        ("two in one packet", &[&(get.clone() + &get), &get], &["200", "200", "200"], 0),
        ("content that looks like a request", &[&post, &get, &get], &["201", "200"], 0),
        ("a half and a whole", &[&opened, &get], &["400"], 0),
        ("cut", &[&get[..9], &get[9..], &get], &["200", "200"], 0),
        ("behind one that takes its time", &[&slow, &get], &["200", "200"], 0),
    ];
    for (what, packets, statuses, below) in cases {
        let before = node.pipeline.metrics().hot.get();
        let (mut stream, theirs) = tokio::io::duplex(64 << 10);
        connect.send(theirs).await.unwrap();
        let (mut unread, mut got) = (Vec::new(), Vec::new());
        let answers_each = packets.len() == statuses.len() && packets[0] != slow;
        for packet in packets {
            stream.write_all(packet.as_bytes()).await.unwrap();
            if answers_each {
                got.push(answer(&mut stream, &mut unread, *packet != conditional).await.expect(what).0);
            } else {
                // One thread runs everything: after some yields the node has read what was sent, so that packets stay
                // separate.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
        }
        if packets[0] == slow {
            gate.add_permits(1);
        }
        while got.len() < statuses.len() {
            got.push(answer(&mut stream, &mut unread, true).await.expect(what).0);
        }
        let got: Vec<&str> = got.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        assert_eq!(got, statuses, "{what}");
        assert_eq!(node.pipeline.metrics().hot.get() - before, below, "{what}");
        stream.shutdown().await.unwrap();
        assert_eq!(answer(&mut stream, &mut unread, true).await, None, "{what}: nothing more");
        if what.starts_with("content") {
            node.get("/a").await;
            node.settled().await;
        }
    }
}
