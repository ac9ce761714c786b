//! Messages that two parsers may read differently, as raw bytes through two tiers: what reaches the origin, what comes
//! back, whether the connection is closed, and whether the next user still gets the right object.

use super::tiers::{Tiers, tiers_before};
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An origin that answers each path with the bytes it was given, and records every byte it receives.
struct Raw {
    origin: Origin,
    answers: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Raw {
    async fn start() -> Raw {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stopped) = (listener.local_addr().unwrap(), CancellationToken::new());
        let raw = Raw {
            origin: Origin { address, pages: Arc::default(), seen: Arc::default(), stopped },
            answers: Arc::default(),
            heard: Arc::default(),
        };
        let (answers, heard) = (raw.answers.clone(), raw.heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, answers.clone(), heard.clone()));
            }
        });
        raw
    }

    fn answer(&self, path: &str, bytes: &[u8]) {
        self.answers.lock().unwrap().insert(path.to_owned(), bytes.to_vec());
    }

    /// Every request so far, head and body as received.
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().map(|request| String::from_utf8_lossy(request).into_owned()).collect()
    }
}

/// One connection of the origin: whole requests by the RFC, each recorded as received.
async fn talk(mut stream: TcpStream, answers: Arc<Mutex<HashMap<String, Vec<u8>>>>, heard: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut buffer = Vec::new();
    loop {
        let whole = loop {
            if let Some(length) = length_of_message(&buffer) {
                break length;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let request: Vec<u8> = buffer.drain(..whole).collect();
        let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
        heard.lock().unwrap().push(request);
        let good =
            format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        let answer = answers.lock().unwrap().get(&path).cloned().unwrap_or(good.into_bytes());
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        if !answer.windows(4).any(|four| four == b"\r\n\r\n") || answer.starts_with(b"HTTP/1.0") {
            return; // the answer ends with the connection
        }
    }
}

/// The length of the first message in `bytes`, once it is complete.
fn length_of_message(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    if field("transfer-encoding:").is_some() {
        let end = bytes[head..].windows(5).position(|five| five == b"0\r\n\r\n")?;
        return Some(head + end + 5);
    }
    let length: usize = field("content-length:").map_or(0, |length| length.parse().unwrap_or(0));
    (bytes.len() >= head + length).then_some(head + length)
}

/// Sends bytes over a new connection. Returns what came until it was closed, or one answer where it stays open, and
/// whether it was closed.
async fn send(address: SocketAddr, bytes: &[u8], closes: bool) -> (String, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A node that has refused the request may have closed the connection already.
    let _ = stream.write_all(bytes).await;
    let mut came = Vec::new();
    let reading = async {
        loop {
            match stream.read_buf(&mut came).await {
                Ok(1..) if !closes && length_of_message(&came).is_some() => return false,
                Ok(1..) => {}
                _ => return true,
            }
        }
    };
    let closed = tokio::time::timeout(PATIENCE, reading).await;
    let came = String::from_utf8_lossy(&came).into_owned();
    (came, closed.unwrap_or(false))
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Every request that reached the origin must be readable in one way only.
fn assert_unambiguous(request: &str, why: &str) {
    let (head, _) = request.split_once("\r\n\r\n").unwrap();
    let count = |name: &str| head.lines().filter(|line| line.to_ascii_lowercase().starts_with(name)).count();
    assert_eq!(head.matches('\n').count(), head.matches("\r\n").count(), "{why}: a lone LF in {head:?}");
    assert!(!head.contains('\0') && !head.contains("\r\n ") && !head.contains("\r\n\t"), "{why}: {head:?}");
    assert!(count("content-length:") + count("transfer-encoding:") <= 1, "{why}: {head:?}");
    assert_eq!(count("host:"), 1, "{why}: {head:?}");
    assert!(head.to_ascii_lowercase().contains(&format!("host: {DOMAIN}")), "{why}: {head:?}");
    for line in head.lines().skip(1) {
        let name = line.split(':').next().unwrap();
        assert!(!name.ends_with(' ') && !name.is_empty(), "{why}: {line:?}");
    }
    if let Some(line) = head.lines().find(|line| line.to_ascii_lowercase().starts_with("transfer-encoding:")) {
        assert!(line.to_ascii_lowercase().ends_with(": chunked"), "{why}: {line:?}");
    }
}

/// A request that would be smuggled in if the one before it ended where its sender claims.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: www.example.test\r\n\r\n";

#[tokio::test]
async fn requests_that_invite_desynchronisation_go_no_further_than_they_may() {
    let raw = Raw::start().await;
    let Tiers { child, parent: _parent, .. } = tiers_before(raw.origin.clone()).await;
    let host = "Host: www.example.test\r\n";
    // RFC 9112 section, bytes, status (0: closed without an answer), closed, and the path and body that may reach the
    // origin.
    type Row = (&'static str, String, u16, bool, Option<(&'static str, &'static str)>);
    let closed = true;
    let open = false;
    let rows: Vec<Row> = vec![
        ("plain", format!("GET /plain HTTP/1.1\r\n{host}\r\n"), 200, open, Some(("GET /plain ", ""))),
        ("§2.2 lone LF ends a line", format!("GET /lf HTTP/1.1\n{host}X-A: 1\n\n"), 200, open, Some(("GET /lf ", ""))),
        ("§2.2 lone CR", format!("GET /cr HTTP/1.1\r\n{host}X-A: 1\rX-B: 2\r\n\r\n{SMUGGLED}"), 400, closed, None),
        (
            "§2.2 space before the first field",
            format!("GET /s HTTP/1.1\r\n X-A: 1\r\n{host}\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        ("§2.3 no such version", format!("GET /v HTTP/1.2\r\n{host}\r\n{SMUGGLED}"), 400, closed, None),
        ("§3 two spaces", format!("GET  /two HTTP/1.1\r\n{host}\r\n{SMUGGLED}"), 400, closed, None),
        ("§3.2 no Host", format!("GET /no HTTP/1.1\r\n\r\n{SMUGGLED}"), 400, closed, None),
        ("§3.2 two Hosts", format!("GET /two HTTP/1.1\r\n{host}Host: evil.test\r\n\r\n{SMUGGLED}"), 400, closed, None),
        ("§3.2 no name", format!("GET /n HTTP/1.1\r\nHost: www.example.test/x\r\n\r\n{SMUGGLED}"), 400, closed, None),
        (
            "§3.2.2 absolute form counts",
            "GET http://www.example.test/abs HTTP/1.1\r\nHost: evil.test\r\n\r\n".into(),
            200,
            open,
            Some(("GET /abs ", "")),
        ),
        (
            "9110 §4.2.3 an empty path in the target",
            format!("GET http://www.example.test?abs HTTP/1.1\r\n{host}\r\n"),
            200,
            open,
            Some(("GET /?abs ", "")),
        ),
        ("9110 §9.3.7 the node as a whole", format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), 204, open, None),
        (
            "§3.2.2 absolute form of a host not served",
            format!("GET http://evil.test/abs2 HTTP/1.1\r\n{host}\r\n"),
            404,
            open,
            None,
        ),
        (
            "9110 §4.2.4 a user in the target",
            format!("GET http://www.example.test@evil.test/ HTTP/1.1\r\n{host}\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§5.1 space before the colon",
            format!("GET /sp HTTP/1.1\r\n{host}X-A : 1\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§5.1 the same in what tells the length",
            format!("POST /sp2 HTTP/1.1\r\n{host}Content-Length : 5\r\n\r\nhello{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        ("§5.2 obs-fold", format!("GET /fold HTTP/1.1\r\n{host}X-A: 1\r\n  2\r\n\r\n{SMUGGLED}"), 400, closed, None),
        (
            "§5.2 obs-fold of a coding",
            format!("POST /fold2 HTTP/1.1\r\n{host}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        ("9110 §5.5 NUL", format!("GET /nul HTTP/1.1\r\n{host}X-A: 1\x002\r\n\r\n{SMUGGLED}"), 400, closed, None),
        (
            "9110 §5.5 a control byte",
            format!("GET /ctl HTTP/1.1\r\n{host}X-A: 1\x0b2\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.1 both lengths: read by the coding, closed behind it",
            format!(
                "POST /both HTTP/1.1\r\n{host}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            200,
            closed,
            Some(("POST /both ", "0\r\n\r\n")),
        ),
        (
            "§6.1 the same the other way round",
            format!(
                "POST /both2 HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 50\r\n\r\n2\r\nhi\r\n0\r\n\r\n{SMUGGLED}"
            ),
            200,
            closed,
            Some(("POST /both2 ", "2\r\nhi\r\n0\r\n\r\n")),
        ),
        (
            "§6.1 xchunked",
            format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.1 not last",
            format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.1 not known",
            format!("POST /g HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            501,
            closed,
            None,
        ),
        (
            "§6.1 in two lines",
            format!(
                "POST /g HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
            ),
            501,
            closed,
            None,
        ),
        (
            "§6.1 in HTTP/1.0",
            format!("POST /ten HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.3 the same length twice",
            format!("POST /twice HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
            200,
            open,
            Some(("POST /twice ", "hi")),
        ),
        (
            "§6.3 two lengths",
            format!("POST /cl HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 7\r\n\r\nhi{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.3 a list",
            format!("POST /cl HTTP/1.1\r\n{host}Content-Length: 2, 7\r\n\r\nhi{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.3 a sign",
            format!("POST /cl HTTP/1.1\r\n{host}Content-Length: +2\r\n\r\nhi{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.3 too large",
            format!("POST /cl HTTP/1.1\r\n{host}Content-Length: 18446744073709551618\r\n\r\nhi{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§6.3 a body of a GET stays its body",
            format!("GET /body HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            200,
            open,
            Some(("GET /body ", SMUGGLED)),
        ),
        (
            "§6.3 and one in chunks",
            format!("GET /chunks HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
            200,
            open,
            Some(("GET /chunks ", "2\r\nhi\r\n0\r\n\r\n")),
        ),
        (
            "§7.1 one that breaks is not left out, on a connection that was kept",
            format!("GET /broken HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§7.1 a size that overflows",
            format!(
                "POST /of HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nhi\r\n0\r\n\r\n{SMUGGLED}"
            ),
            400,
            closed,
            None,
        ),
        (
            "§7.1 a size that is none",
            format!("POST /no HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§7.1 a lone LF behind a size",
            format!("POST /lf2 HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§7.1 more than was said",
            format!("POST /more HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§7.1.1 extensions are dropped",
            format!("POST /ext HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2;a=\"b\";c\r\nhi\r\n0;d\r\n\r\n"),
            200,
            open,
            Some(("POST /ext ", "2\r\nhi\r\n0\r\n\r\n")),
        ),
        (
            "§7.1.1 a lone LF in one",
            format!("POST /ext2 HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2;a\nhi\r\n0\r\n\r\n{SMUGGLED}"),
            400,
            closed,
            None,
        ),
        (
            "§7.1.2 trailers are dropped",
            format!(
                "POST /tr HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\nContent-Length: 9\r\n\r\n"
            ),
            200,
            open,
            Some(("POST /tr ", "2\r\nhi\r\n0\r\n\r\n")),
        ),
    ];
    for (why, bytes, status, closes, above) in rows {
        let before = raw.heard().len();
        let (answer, closed) = send(child.address, bytes.as_bytes(), closes).await;
        assert_eq!((status_of(&answer), closed), (status, closes), "{why}: {answer}");
        assert!(!answer.contains("/smuggled"), "{why}: {answer}");
        let heard = raw.heard().split_off(before);
        for request in &heard {
            assert!(!request.starts_with("GET /smuggled"), "{why}: {request}");
        }
        let whole: Vec<&String> =
            heard.iter().filter(|request| length_of_message(request.as_bytes()).is_some()).collect();
        whole.iter().for_each(|request| assert_unambiguous(request, why));
        match above {
            None => assert!(whole.is_empty(), "{why}: {whole:?}"),
            Some((start, body)) => {
                assert_eq!(whole.len(), 1, "{why}: {whole:?}");
                assert!(whole[0].starts_with(start), "{why}: {whole:?}");
                assert_eq!(whole[0].split_once("\r\n\r\n").unwrap().1, body, "{why}");
            }
        }
        // The next user, and one more who requests the attacker's path.
        assert_eq!(child.get("/good").await.text(), "/good", "{why}");
    }
    assert_eq!(child.get("/smuggled").await.text(), "/smuggled");
    // Clients that broke off have not made the child avoid its parent.
    assert_eq!(raw.heard().last().unwrap().to_ascii_lowercase().matches("via: ").count(), 2);
}

/// An answer that would be smuggled in if the one before it ended where its sender claims.
const EVIL: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nEVIL";

#[tokio::test]
async fn answers_that_invite_desynchronisation_are_not_stored_and_poison_nobody() {
    let raw = Raw::start().await;
    let Tiers { child, parent, .. } = tiers_before(raw.origin.clone()).await;
    let fresh = "Cache-Control: max-age=60\r\n";
    // RFC 9112 section, the origin's bytes, and what a user gets: a status and, with a 200, the body.
    let rows: Vec<(&str, String, u16, &str)> = vec![
        ("plain", format!("HTTP/1.1 200 OK\r\n{fresh}Content-Length: 2\r\n\r\nhi"), 200, "hi"),
        ("§6.3 more than was said", format!("HTTP/1.1 200 OK\r\n{fresh}Content-Length: 2\r\n\r\nhi{EVIL}"), 200, "hi"),
        (
            "§6.3 the same length twice",
            format!("HTTP/1.1 200 OK\r\n{fresh}Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi"),
            200,
            "hi",
        ),
        (
            "§6.3 two lengths",
            format!("HTTP/1.1 200 OK\r\n{fresh}Content-Length: 2\r\nContent-Length: 80\r\n\r\nhi{EVIL}"),
            502,
            "",
        ),
        (
            "§6.3 both lengths",
            format!(
                "HTTP/1.1 200 OK\r\n{fresh}Content-Length: 80\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{EVIL}"
            ),
            502,
            "",
        ),
        (
            "§6.1 xchunked",
            format!("HTTP/1.1 200 OK\r\n{fresh}Transfer-Encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{EVIL}"),
            502,
            "",
        ),
        (
            "§6.1 gzip",
            format!("HTTP/1.1 200 OK\r\n{fresh}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{EVIL}"),
            502,
            "",
        ),
        (
            "§6.1 in HTTP/1.0",
            format!("HTTP/1.0 200 OK\r\n{fresh}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n{EVIL}"),
            502,
            "",
        ),
        (
            "§5.1 space before the colon",
            format!("HTTP/1.1 200 OK\r\n{fresh}Content-Length : 2\r\n\r\nhi{EVIL}"),
            502,
            "",
        ),
        (
            "§5.2 obs-fold",
            format!("HTTP/1.1 200 OK\r\n{fresh}X-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nhi{EVIL}"),
            502,
            "",
        ),
        ("9110 §5.5 NUL", format!("HTTP/1.1 200 OK\r\n{fresh}X-A: \x00\r\nContent-Length: 2\r\n\r\nhi{EVIL}"), 502, ""),
        (
            "§2.2 lone CR",
            format!("HTTP/1.1 200 OK\r\n{fresh}X-A: a\rX-B: b\r\nContent-Length: 2\r\n\r\nhi{EVIL}"),
            502,
            "",
        ),
        (
            "§7.1.1 extensions are dropped",
            format!("HTTP/1.1 200 OK\r\n{fresh}Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\n\r\n"),
            200,
            "hi",
        ),
        (
            "§7.1.2 trailers are dropped",
            format!(
                "HTTP/1.1 200 OK\r\n{fresh}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\nSet-Cookie: a=b\r\n\r\n"
            ),
            200,
            "hi",
        ),
        (
            "9110 §15.3.5 a length of nothing",
            format!("HTTP/1.1 204 No Content\r\n{fresh}Content-Length: 4\r\n\r\n{EVIL}"),
            204,
            "",
        ),
    ];
    for (at, (why, bytes, status, body)) in rows.into_iter().enumerate() {
        let path = format!("/{at}");
        raw.answer(&path, bytes.as_bytes());
        // Twice: a stored part of it would show.
        for _ in 0..2 {
            let got = child.get(&path).await;
            assert_eq!(got.status, status, "{why}: {got:?}");
            let text = got.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            assert!(!text.contains("EVIL"), "{why}: {text}");
            if status == 200 {
                assert_eq!(text, body, "{why}");
                assert!(got.headers.get_all("content-length").iter().count() <= 1, "{why}: {got:?}");
                assert!(!got.headers.contains_key("set-cookie") && !got.headers.contains_key("x-t"), "{why}: {got:?}");
            }
            // The next users, whose answers might be made of bytes left on a connection.
            let next = format!("/next/{at}/{}", raw.heard().len());
            assert_eq!(child.get(&next).await.text(), next, "{why}");
            assert_eq!(parent.get(&next).await.text(), next, "{why}");
        }
    }
}

#[tokio::test]
async fn chunks_of_an_answer_that_are_none_break_it_and_are_not_stored() {
    let raw = Raw::start().await;
    let Tiers { child, parent, .. } = tiers_before(raw.origin.clone()).await;
    let chunked = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rows = [
        ("a size that overflows", "2\r\nhi\r\n10000000000000002\r\nEVIL"),
        ("a size that is none", "2\r\nhi\r\n-1\r\nEVIL"),
        ("more than was said", "2\r\nhi!!!\r\n0\r\n\r\n"),
        ("a lone LF", "2\nhi\r\n0\r\n\r\n"),
    ];
    for (at, (why, body)) in rows.into_iter().enumerate() {
        let path = format!("/broken/{at}");
        raw.answer(&path, format!("{chunked}{body}").as_bytes());
        let got = child.get(&path).await;
        assert!(got.status != 200 || got.body.is_err(), "{why}: {got:?}");
        child.settled().await;
        parent.settled().await;
        // The origin is repaired: nothing of the broken answer is left.
        raw.answer(&path, b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\ngood");
        assert_eq!(child.get(&path).await.text(), "good", "{why}");
    }
}
