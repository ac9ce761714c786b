//! Clients that the test plays on connections of its own, in simulated time.

use http_body_util::{BodyExt, Empty};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// How much later than announced something may happen: timers count whole milliseconds.
const TOLERANCE: Duration = Duration::from_secs(1);

/// How long the answer to `/slow` takes, and how large it is.
const SLOW: Duration = Duration::from_secs(300);
const LARGE_BYTES: usize = 4 << 20;

/// The preface of HTTP/2 with empty SETTINGS.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

struct Server {
    connect: mpsc::Sender<io::Result<(DuplexStream, Option<IpAddr>)>>,
    room: Arc<Strangers>,
}

impl Server {
    fn start(connections_max: usize) -> Server {
        let room = Strangers::shared(connections_max);
        let (connect, incoming) = mpsc::channel(64);
        let answer = |request: Request<Incoming>, _| async move {
            let slow = request.uri().path() == "/slow";
            sleep(if slow { SLOW } else { Duration::ZERO }).await;
            Response::new(Full::new(if slow { vec![b'x'; LARGE_BYTES].into() } else { Bytes::from_static(b"alive") }))
        };
        tokio::spawn(serve(ReceiverStream::new(incoming), room.clone(), answer, CancellationToken::new()));
        Server { connect, room }
    }

    /// A connection from one of several addresses, which has sent `bytes`.
    async fn connect(&self, from: u8, bytes: &[u8]) -> DuplexStream {
        let (mut here, there) = duplex(1024);
        self.connect.send(Ok((there, Some(IpAddr::from([10, 0, 0, from]))))).await.unwrap();
        here.write_all(bytes).await.unwrap();
        here
    }
}

/// Reads until the server ends the connection.
async fn read(stream: &mut DuplexStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    read
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_request_is_ended() {
    let server = Server::start(8);
    for begun in [b"", b"PRI * HTTP/2.0\r\n".as_slice(), b"GET / HTTP/1.1\r\nhost: x\r\n", HTTP2] {
        let began = Instant::now();
        let mut stream = server.connect(1, begun).await;
        let ended = timeout(2 * READ_MAX, read(&mut stream)).await;
        let name = String::from_utf8_lossy(begun);
        assert!(ended.is_ok() && began.elapsed() <= READ_MAX + TOLERANCE, "{name:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_only_answers_pings_is_idle() {
    let server = Server::start(8);
    let stream = TokioIo::new(server.connect(1, b"").await);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        sleep(READ_MAX - TOLERANCE).await;
        let response = client.send_request(Request::new(Empty::new())).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "alive");
    }
    let began = Instant::now();
    let _ = timeout(3 * IDLE_MAX, connection).await.expect("the server ends it");
    let lasted = began.elapsed();
    assert!((IDLE_MAX - TOLERANCE..=IDLE_MAX + TOLERANCE).contains(&lasted), "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_read_its_answers_is_ended() {
    let server = Server::start(8);
    let mut stream = server.connect(1, b"").await;
    let requests = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    let _ = timeout(TOLERANCE, stream.write_all(&requests)).await;
    assert_eq!(server.room.count(), 1);
    sleep(IDLE_MAX + TOLERANCE).await;
    assert_eq!(server.room.count(), 0);
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn slow_answer_reaches_a_slow_client() {
    let server = Server::start(8);
    let mut stream = server.connect(1, b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let (mut taken, mut some) = (0, [0; 1024]);
    loop {
        let bytes = stream.read(&mut some).await.unwrap();
        if bytes == 0 {
            break;
        }
        taken += bytes;
        // About 20 KiB a second.
        sleep(Duration::from_millis(50)).await;
    }
    assert!(taken > LARGE_BYTES, "{taken}");
}

#[tokio::test(start_paused = true)]
async fn one_address_leaves_room_for_others() {
    let server = Server::start(8);
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(server.connect(1, b"").await);
    }
    for refused in &mut silent[6..] {
        assert!(timeout(TOLERANCE, read(refused)).await.is_ok_and(|read| read.is_empty()), "it is closed at once");
    }
    assert_eq!((server.room.count(), server.room.refused()), (6, 2));
    let mut other = server.connect(2, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let answer = timeout(TOLERANCE, read(&mut other)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    // Those that are full of silence are free again soon.
    sleep(READ_MAX + TOLERANCE).await;
    assert_eq!(server.room.count(), 0);
}
