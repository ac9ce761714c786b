//! Clients that are slow, greedy, many or rude: each is bounded, and hits are served to others meanwhile.

use super::*;
use crate::access::AccessLog;
use crate::connection::{HEAD_MAX, IDLE_MAX, WRITE_STALL_MAX};
use crate::flood::{BURST_MAX, PREFACE};
use crate::listener::CONNECTIONS_MAX;
use crate::metrics::Refusal;
use crate::streams::STREAMS_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Another listener of the same node.
async fn listen(node: &TestNode, log: Option<AccessLog>, connections_max: u64) -> (SocketAddr, Arc<Front>) {
    let listener = crate::listener::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let address = listener.local_addr().unwrap();
    let front = Front::new(node.pipeline.clone(), log, connections_max, &node.stopping);
    tokio::spawn(crate::listener::serve(listener, None, front.clone()));
    (address, front)
}

/// Connections in memory, for which time can be paused.
pub(super) async fn in_memory() -> (Stage, tokio::sync::mpsc::Sender<DuplexStream>) {
    in_memory_of(CONNECTIONS_MAX).await
}

/// The same, at most so many.
pub(super) async fn in_memory_of(connections_max: u64) -> (Stage, tokio::sync::mpsc::Sender<DuplexStream>) {
    let stage = Stage::set().await;
    let front = Front::new(stage.node.pipeline.clone(), None, connections_max, &stage.node.stopping);
    let (connect, incoming) = tokio::sync::mpsc::channel(16);
    tokio::spawn(crate::listener::serve_on(incoming, front));
    (stage, connect)
}

pub(super) async fn open(connect: &tokio::sync::mpsc::Sender<DuplexStream>, buffer: usize) -> DuplexStream {
    let (mine, theirs) = tokio::io::duplex(buffer);
    connect.send(theirs).await.unwrap();
    mine
}

/// Reads until the other side closes.
pub(super) async fn to_end(stream: &mut DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    all
}

pub(super) fn refusals(stage: &Stage, why: Refusal) -> u64 {
    stage.node.pipeline.metrics().refusals(why)
}

/// A request that the node answers by itself, whatever the origin does.
pub(super) const NOBODY: &str = "GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n";

#[tokio::test]
async fn slow_heads_end_after_their_bound_and_idle_connections_after_theirs() {
    let (stage, connect) = in_memory().await;
    tokio::time::pause();
    let byte_a_second = |text: &'static str| {
        let connect = connect.clone();
        async move {
            let mut stream = open(&connect, 64 << 10).await;
            let begun = Instant::now();
            for byte in text.as_bytes().iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            begun.elapsed()
        }
    };
    // A head that never ends; an HTTP/2 preface that takes too long.
    for text in ["GET / HTTP/1.1", "PRI * HTTP/2.0\r\n\r\n"] {
        let took = byte_a_second(text).await;
        assert!(took >= HEAD_MAX && took < HEAD_MAX + Duration::from_secs(3), "{text}: {took:?}");
    }
    assert_eq!(refusals(&stage, Refusal::SlowHead), 2);

    // A connection without any bytes.
    let about = |took: Duration, bound: Duration| took >= bound && took < bound + Duration::from_secs(1);
    let begun = Instant::now();
    to_end(&mut open(&connect, 1024).await).await;
    assert!(about(begun.elapsed(), HEAD_MAX), "{:?}", begun.elapsed());

    // A connection idle after an answer, and one whose second head does not end.
    let mut idle = open(&connect, 64 << 10).await;
    idle.write_all(NOBODY.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let answer = to_end(&mut idle).await;
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
    assert!(about(begun.elapsed(), IDLE_MAX), "{:?}", begun.elapsed());
    let mut second = open(&connect, 64 << 10).await;
    second.write_all(NOBODY.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    second.write_all(b"GET / HT").await.unwrap();
    let begun = Instant::now();
    to_end(&mut second).await;
    assert!(about(begun.elapsed(), HEAD_MAX), "{:?}", begun.elapsed());
    assert_eq!(refusals(&stage, Refusal::SlowHead), 3, "an idle connection is no slow head");
}

#[tokio::test]
async fn client_that_takes_nothing_is_cut_off() {
    let (stage, connect) = in_memory().await;
    stage.origin.put("/big", Page::new(vec![b'x'; 1 << 20]));
    assert_eq!(stage.node.get("/big").await.status, 200);
    stage.node.settled().await;
    let mut slow = open(&connect, 4096).await;
    slow.write_all(format!("GET /big HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n").as_bytes()).await.unwrap();
    slow.read_exact(&mut [0; 16]).await.unwrap();
    // Only now: the store has threads of its own, for which paused time does not wait.
    tokio::time::pause();
    let begun = Instant::now();
    while refusals(&stage, Refusal::SlowRead) == 0 {
        stage.node.in_contact();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(begun.elapsed() < WRITE_STALL_MAX + Duration::from_secs(5), "is not cut off");
    }
    assert!(begun.elapsed() >= WRITE_STALL_MAX);
}

/// With a memory tier of 64 MiB, 64 MiB for fetches, and 256 MiB more for clients that make no progress: their bodies
/// stay within that.
/// Once it is used up they are turned away, and requests for objects in memory are not.
async fn exhausted(stage: &Stage, mut one_more: impl AsyncFnMut(usize, &str) -> bool) {
    const BODY: usize = 1 << 20;
    stage.origin.put("/hot", Page::new("hot"));
    assert_eq!(stage.node.get("/hot").await.status, 200);
    let mut clients = 0;
    loop {
        let path = format!("/{clients}");
        stage.origin.put(&path, Page::new(vec![b'x'; BODY]));
        let answered = one_more(clients, &path).await;
        let stats = stage.node.pipeline.store().stats();
        assert!(stats.buffered_bytes <= stats.buffered_bytes_max + BODY as u64, "{stats:?}");
        if !answered {
            break;
        }
        clients += 1;
        assert!(clients < 500, "somebody was to be turned away: {stats:?}");
    }
    assert!(clients > 300, "as long as there is room everybody is served: {clients}");
    assert_eq!(stage.node.get("/hot").await.header("x-cache"), "HIT from edge", "what is in memory is served");
    eventually("who takes nothing is cut off", || !stage.node.pipeline.store().is_exhausted()).await;
    assert_eq!(stage.node.get("/0").await.status, 200, "there is room again");
    assert!(refusals(stage, Refusal::Memory) > 0);
    assert_eq!(refusals(stage, Refusal::SlowRead), 0, "none of them took that long");
}

#[tokio::test]
async fn clients_that_take_nothing_do_not_take_all_memory() {
    let (stage, connect) = in_memory().await;
    let mut connections = Vec::new();
    exhausted(&stage, async |_, path| {
        let mut slow = open(&connect, 4096).await;
        slow.write_all(format!("GET {path} HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n").as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        slow.read_exact(&mut begin).await.unwrap();
        connections.push(slow);
        begin.ends_with(b"200")
    })
    .await;
}

#[tokio::test]
async fn nor_do_http2_streams_that_may_not_send_a_byte() {
    let (stage, connect) = in_memory().await;
    let mut connections = Vec::new();
    exhausted(&stage, async |clients, path| {
        let stream = clients as u32 % 50;
        if stream == 0 {
            let mut more = open(&connect, 1 << 20).await;
            more.write_all(&preface(&[0, 4, 0, 0, 0, 0])).await.unwrap();
            connections.push(more);
        }
        let get = frame(HEADERS, END_STREAM | END_HEADERS, 2 * stream + 1, &get_block(path));
        connections.last_mut().unwrap().write_all(&get).await.unwrap();
        stage.origin.asked(path, 1).await;
        stage.node.settled().await;
        !stage.node.pipeline.store().is_exhausted()
    })
    .await;
}

/// A frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut frame = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The header block of `GET path` for the domain, without compression.
pub(super) fn get_block(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86]; // :method GET, :scheme http
    for (index, value) in [(1_u8, DOMAIN), (4, path)] {
        block.push(index); // literal without indexing, name from the static table
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

pub(super) fn preface(settings: &[u8]) -> Vec<u8> {
    [&PREFACE[..], &frame(SETTINGS, 0, 0, settings)].concat()
}

#[tokio::test]
async fn http2_clients_that_flood_are_cut_off() {
    let stage = Stage::set().await;
    stage.origin.put("/a", Page::new("a"));
    assert_eq!(stage.node.get("/a").await.text(), "a");
    stage.node.settled().await;
    let asked = stage.origin.seen("/a").len();
    let many = 4 * BURST_MAX as u32;
    let rapid_reset = (0..many).flat_map(|at| {
        let stream = 2 * at + 1;
        let get = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get_block("/a"));
        [get, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    let pings = (0..many).flat_map(|_| frame(PING, 0, 0, &[0; 8]));
    let settings = (0..many).flat_map(|_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]));
    let first = frame(HEADERS, END_STREAM, 1, &get_block("/a"));
    let continuations = (0..many).flat_map(|_| frame(CONTINUATION, 0, 1, &[]));
    let padded = [0, 3, b'x', b'-', b'a', 100].into_iter().chain([b'v'; 100]).collect::<Vec<u8>>();
    // Well-formed fields without an end: more than a head may hold.
    let fields = (0..1000).flat_map(|_| frame(CONTINUATION, 0, 1, &padded));
    let floods: [(&str, Vec<u8>); 5] = [
        ("rapid reset", rapid_reset.collect()),
        ("PING", pings.collect()),
        ("SETTINGS", settings.collect()),
        ("empty CONTINUATION", first.iter().copied().chain(continuations).collect()),
        ("CONTINUATION", first.iter().copied().chain(fields).collect()),
    ];
    for (what, bytes) in floods {
        let mut stream = TcpStream::connect(stage.node.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let flood = async {
            let _ = write.write_all(&preface(&[])).await;
            let _ = write.write_all(&bytes).await;
        };
        let mut answers = Vec::new();
        let ended = async { tokio::join!(flood, read.read_to_end(&mut answers)) };
        assert!(tokio::time::timeout(PATIENCE, ended).await.is_ok(), "{what}: the connection goes on");
        assert_eq!(stage.node.get("/a").await.header("x-cache"), "HIT from edge", "{what}");
    }
    assert!(refusals(&stage, Refusal::Flood) >= 3, "{}", refusals(&stage, Refusal::Flood));
    assert_eq!(stage.origin.seen("/a").len(), asked);
    eventually("nothing is left of them", || stage.node.pipeline.metrics().connections_h2.get() == 0).await;
    eventually("nor of their requests", || stage.node.pipeline.metrics().requests_running.get() == 0).await;
}

#[tokio::test]
async fn hit_that_is_half_written_comes_whole_though_memory_runs_short_meanwhile() {
    const BODY: u64 = 1 << 20;
    let disks = vec![store::DiskConfig { path: "disk".into(), capacity_bytes: 512 << 20 }];
    let config = store::Config { memory_bytes: 256 << 10, disks, segment_bytes: 32 << 20 };
    let disk: Arc<dyn store::disk::Disk> = Arc::new(store::disk::FaultyDisk::new(1));
    let store = store::Store::open_on(config, vec![disk]).await.unwrap();
    let origin = Origin::start().await;
    let node = TestNode::start("edge", &knowledge(&origin), clock(), store.clone()).await;
    let front = Front::new(node.pipeline.clone(), None, CONNECTIONS_MAX, &node.stopping);
    let (connect, incoming) = tokio::sync::mpsc::channel(16);
    tokio::spawn(crate::listener::serve_on(incoming, front));
    origin.put("/hot", Page::new("h".repeat(5_000)));
    assert_eq!(node.get("/hot").await.status, 200);
    node.settled().await;
    let mut slow = open(&connect, 64).await;
    let get = format!("GET /hot HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
    slow.write_all(get.as_bytes()).await.unwrap();
    slow.read_exact(&mut [0; 12]).await.unwrap();
    assert_eq!(node.pipeline.metrics().hot.get(), 1, "it is answered below hyper");

    // Others hold so many buffers that memory is short.
    let mut held = Vec::new();
    for number in 0.. {
        let key = store::Key(number << 64 | number);
        let mut fill = store.begin_fill(key, b"other", Bytes::new(), 0, Some(BODY)).unwrap();
        fill.append(vec![number as u8; BODY as usize].into()).await.unwrap();
        held.push(fill.finish().await.unwrap().read(0..BODY).next().await.unwrap().unwrap());
        if store.is_short() {
            break;
        }
    }
    let mut rest = vec![0; 5_000];
    while !rest.ends_with(b"\r\n\r\n") {
        rest.push(slow.read_u8().await.unwrap());
    }
    let mut body = vec![0; 5_000];
    slow.read_exact(&mut body).await.unwrap();
    assert!(body.iter().all(|byte| *byte == b'h'));
    // The next request is left to hyper, and its answer arrives whole too.
    slow.write_all(get.as_bytes()).await.unwrap();
    slow.read_exact(&mut [0; 12]).await.unwrap();
    assert_eq!(node.pipeline.metrics().hot.get(), 1);
    assert_eq!(node.get("/hot").await.text(), "h".repeat(5_000));
}

/// A connection that counts its polls.
struct Counted(DuplexStream, Arc<std::sync::atomic::AtomicU64>);

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Counted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn http2_client_that_reads_nothing_costs_nothing() {
    let stage = Stage::set().await;
    let front = Front::new(stage.node.pipeline.clone(), None, CONNECTIONS_MAX, &stage.node.stopping);
    let (connect, incoming) = tokio::sync::mpsc::channel(16);
    tokio::spawn(crate::listener::serve_on(incoming, front));
    stage.origin.put("/a", Page::new(vec![b'x'; 40_000]));
    assert_eq!(stage.node.get("/a").await.status, 200);
    stage.node.settled().await;
    let polls = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (mut mine, theirs) = tokio::io::duplex(4096);
    connect.send(Counted(theirs, polls.clone())).await.unwrap();
    mine.write_all(&preface(&[])).await.unwrap();
    mine.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block("/a"))).await.unwrap();
    eventually("it is answered", || stage.node.pipeline.metrics().bytes_sent.get() >= 80_000).await;
    let before = polls.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = polls.load(std::sync::atomic::Ordering::Relaxed);
    assert!(after - before < 20, "it was looked at {} times while nothing happened", after - before);
    // It goes on when the client does.
    let mut read = Vec::new();
    while read.len() < 40_000 {
        assert!(mine.read_buf(&mut read).await.unwrap() > 0, "it ended after {} bytes", read.len());
    }
}

#[tokio::test]
async fn http2_windows_that_never_open_hold_nothing_for_ever() {
    let (stage, connect) = in_memory().await;
    stage.origin.put("/big", Page::new(vec![b'x'; 1 << 20]));
    assert_eq!(stage.node.get("/big").await.status, 200);
    stage.node.settled().await;
    let mut stream = open(&connect, 1 << 20).await;
    // A window of zero: no stream may send any bytes.
    stream.write_all(&preface(&[0, 4, 0, 0, 0, 0])).await.unwrap();
    for at in 0..2 * STREAMS_MAX {
        let block = get_block("/big");
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 1, &block)).await.unwrap();
    }
    // All streams that may run are answered before time is paused: the store has threads of its own, for which paused
    // time does not wait.
    let mut heads = 0;
    while heads < STREAMS_MAX {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        heads += u32::from(head[3] == HEADERS);
    }
    tokio::time::pause();
    let begun = Instant::now();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut heads = Vec::new();
    // The client goes on to send PINGs.
    let pinging = async {
        while write.write_all(&frame(PING, 0, 0, &[1; 8])).await.is_ok() {
            stage.node.in_contact();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let running = || stage.node.pipeline.metrics().requests_running.get();
    tokio::join!(pinging, read.read_to_end(&mut heads)).1.ok();
    let bound = WRITE_STALL_MAX.max(IDLE_MAX);
    assert!(begun.elapsed() <= bound + Duration::from_secs(5), "{:?}", begun.elapsed());
    let left = || (running(), stage.node.pipeline.metrics().connections_h2.get());
    eventually("nothing of it is held", || left() == (0, 0)).await;
}

#[tokio::test]
async fn http2_client_that_reads_in_small_windows_is_served_until_it_stops() {
    const WINDOW_UPDATE: u8 = 8;
    const WINDOW: u32 = 2 << 10;
    let (stage, connect) = in_memory().await;
    stage.origin.put("/big", Page::new(vec![b'x'; 1 << 20]));
    assert_eq!(stage.node.get("/big").await.status, 200);
    stage.node.settled().await;
    let mut stream = open(&connect, 1 << 20).await;
    stream.write_all(&preface(&[])).await.unwrap();
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get_block("/big"))).await.unwrap();
    let mut came = 0;
    while came < 65_535 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        came += if head[3] == 0 { payload.len() } else { 0 };
    }
    tokio::time::pause();
    let (mut read, write) = tokio::io::split(stream);
    let write = tokio::sync::Mutex::new(write);
    let send = async |frame: Vec<u8>| write.lock().await.write_all(&frame).await;
    // Less than a chunk of the body a minute, in pieces too small for any write to count as progress.
    let (steps, pause) = (40, Duration::from_secs(10));
    let asking = async {
        for _ in 0..steps {
            for stream in [0, 1] {
                send(frame(WINDOW_UPDATE, 0, stream, &WINDOW.to_be_bytes())).await.unwrap();
            }
            stage.node.in_contact();
            tokio::time::sleep(pause).await;
        }
        let stopped = Instant::now();
        while send(frame(PING, 0, 0, &[1; 8])).await.is_ok() {
            stage.node.in_contact();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        stopped.elapsed()
    };
    // The client stays connected, and answers PINGs.
    let reading = async {
        let (mut data, mut head) = (0, [0; 9]);
        while read.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            if read.read_exact(&mut payload).await.is_err() {
                break;
            }
            match head[3] {
                0 => data += payload.len(),
                PING if head[4] == 0 => _ = send(frame(PING, 1, 0, &payload)).await,
                _ => {}
            }
        }
        data
    };
    let (lasted, data) = tokio::join!(asking, reading);
    assert!(data >= (steps * WINDOW) as usize, "{data} bytes after the first window");
    assert!(lasted <= WRITE_STALL_MAX + Duration::from_secs(5), "{lasted:?}");
}

#[tokio::test]
async fn beyond_the_bound_clients_are_told_and_others_go_on() {
    let stage = Stage::set().await;
    stage.origin.put("/a", Page::new("a"));
    stage.node.get("/a").await;
    stage.node.settled().await;
    let (address, _front) = listen(&stage.node, None, 3).await;
    let get = format!("GET /a HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
    let open = || stage.node.pipeline.metrics().connections.get();
    // The bound is the node's: connections to the other listener count too.
    eventually("clients of the other listener are gone", || open() == 0).await;
    let mut inside = Vec::new();
    while open() < 3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(get.as_bytes()).await.unwrap();
        let mut some = [0; 16];
        stream.read_exact(&mut some).await.unwrap();
        assert_eq!(&some[..12], b"HTTP/1.1 200");
        inside.push(stream);
    }
    let mut outside = TcpStream::connect(address).await.unwrap();
    let mut told = String::new();
    tokio::time::timeout(PATIENCE, outside.read_to_string(&mut told)).await.expect("it is closed").unwrap();
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("Retry-After: 2"), "{told}");
    assert_eq!(refusals(&stage, Refusal::Connections), 1);
    for stream in &mut inside {
        stream.write_all(get.as_bytes()).await.unwrap();
        let mut some = [0; 64];
        assert!(stream.read(&mut some).await.unwrap() > 0, "who is inside goes on");
    }
}

/// Connections of each kind of misbehaviour; with both ends in this process they take twice as many descriptors.
const MANY: usize = 1000;

/// The longest that a hit may take meanwhile, on a machine that does other work too.
const HIT_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_slow_clients_leave_hits_served() {
    let stage = Stage::set().await;
    stage.origin.put("/big", Page::new(vec![b'x'; 8 << 20]));
    stage.origin.put("/a", Page::new("a"));
    for path in ["/big", "/a"] {
        assert_eq!(stage.node.get(path).await.status, 200);
    }
    stage.node.settled().await;
    let kinds = [
        // It never reads.
        format!("GET /big HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n"),
        // The rest of its body never comes.
        format!("POST /slow HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: 1000\r\n\r\nslow"),
        // Nor of its head.
        format!("GET /slow HTTP/1.1\r\nHost: {DOMAIN}\r\nX-"),
    ];
    let mut slow = Vec::new();
    let metrics = stage.node.pipeline.metrics().clone();
    for at in 0..3 * MANY {
        let mut stream = TcpStream::connect(stage.node.address).await.unwrap();
        stream.write_all(kinds[at / MANY].as_bytes()).await.unwrap();
        slow.push(stream);
        if at % 250 == 0 {
            let begun = Instant::now();
            stage.node.in_contact();
            assert_eq!(stage.node.get("/a").await.header("x-cache"), "HIT from edge");
            assert!(begun.elapsed() < HIT_MAX, "{at}: {:?}", begun.elapsed());
        }
    }
    eventually("all were taken", || metrics.accepted.get() >= 3 * MANY as u64).await;
    // On a slow machine the first of them have reached their bounds by now.
    assert!(metrics.connections.get() > MANY as u64, "{}", metrics.connections.get());
    for _ in 0..50 {
        let begun = Instant::now();
        stage.node.in_contact();
        let hit = stage.node.get("/a").await;
        assert_eq!((hit.text(), hit.header("x-cache")), ("a", "HIT from edge"));
        assert!(begun.elapsed() < HIT_MAX, "{:?}", begun.elapsed());
    }
    drop(slow);
    eventually("they are gone", || metrics.connections.get() <= 1).await;
}

#[tokio::test]
async fn draining_node_asks_its_clients_to_leave() {
    let stage = Stage::set().await;
    stage.origin.put("/a", Page::new("a"));
    stage.node.get("/a").await;
    stage.node.settled().await;
    let (address, front) = listen(&stage.node, None, CONNECTIONS_MAX).await;
    let get = format!("GET /a HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n");
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(get.as_bytes()).await.unwrap();
    let mut some = vec![0; 4096];
    let length = kept.read(&mut some).await.unwrap();
    assert!(!String::from_utf8_lossy(&some[..length]).to_ascii_lowercase().contains("connection: close"));
    let mut h2 = TcpStream::connect(address).await.unwrap();
    h2.write_all(&preface(&[])).await.unwrap();
    eventually("HTTP/2 is spoken", || stage.node.pipeline.metrics().connections_h2.get() == 1).await;

    front.draining.cancel();
    kept.write_all(get.as_bytes()).await.unwrap();
    let mut last = String::new();
    tokio::time::timeout(PATIENCE, kept.read_to_string(&mut last)).await.expect("it is closed").unwrap();
    assert!(last.starts_with("HTTP/1.1 200") && last.to_ascii_lowercase().contains("connection: close"), "{last}");
    let mut frames = Vec::new();
    h2.write_all(&frame(PING, 1, 0, &[0; 8])).await.unwrap();
    let goaway = async {
        while !frames.windows(1).any(|kind| kind == [7]) {
            h2.read_buf(&mut frames).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, goaway).await.expect("GOAWAY");
    // A connection within the grace is still answered.
    let mut late = TcpStream::connect(address).await.unwrap();
    late.write_all(get.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, late.read_to_string(&mut answer)).await.expect("it is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn access_log_has_a_line_for_each_request() {
    let stage = Stage::set().await;
    stage.origin.put("/a", Page::new("hello"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (address, front) = listen(&stage.node, Some(AccessLog::open(&path).unwrap()), CONNECTIONS_MAX).await;
    let miss = ask(address, Method::GET, "/a?auth_key=secret", &[("user-agent", "a \"b\"")], false).await;
    assert_eq!(miss.status, 404);
    ask(address, Method::GET, "/a", &[], false).await;
    stage.node.settled().await;
    let hit = ask(address, Method::GET, "/a", &[("range", "bytes=1-2"), ("cookie", "sid=1")], false).await;
    assert_eq!(hit.text(), "el");
    let read = || std::fs::read_to_string(&path).unwrap();
    eventually("three lines", || read().lines().count() == 3).await;
    let text = read();
    assert!(!text.contains("secret") && !text.contains("sid=1"), "{text}");
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> =
        lines.iter().map(|line| (&line["status"], &line["cache"], &line["bytes"], &line["range"])).collect();
    let json = |value: &str| serde_json::json!(value);
    assert_eq!(shown[1], (&serde_json::json!(200), &json("MISS"), &serde_json::json!(5), &json("")));
    assert_eq!(shown[2], (&serde_json::json!(206), &json("HIT"), &serde_json::json!(2), &json("bytes=1-2")));
    assert_eq!(lines[2]["request_id"], hit.header("x-request-id"), "a user's complaint finds its line");
    assert_eq!(lines[2]["complete"], true);
    assert_eq!(front.log.as_ref().map(AccessLog::lines), Some(3));
}

#[tokio::test]
async fn hit_that_is_half_written_is_written_to_its_end_though_the_node_stops() {
    let (stage, connect) = in_memory().await;
    stage.origin.put("/big", Page::new(vec![b'x'; 1 << 20]));
    assert_eq!(stage.node.get("/big").await.status, 200);
    stage.node.settled().await;
    let hot = stage.node.pipeline.metrics().hot.get();
    let mut slow = open(&connect, 4096).await;
    slow.write_all(format!("GET /big HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n").as_bytes()).await.unwrap();
    let mut came = vec![0; 16];
    slow.read_exact(&mut came).await.unwrap();
    assert_eq!(stage.node.pipeline.metrics().hot.get(), hot + 1);
    stage.node.stopping.cancel();
    came.extend(to_end(&mut slow).await);
    let head = came.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(came.len() - head, 1 << 20);
}

/// An origin that answers as soon as it has the head of a request, as nginx does for one that is too large.
#[tokio::test]
async fn connection_of_a_request_that_was_answered_before_it_was_there_is_closed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
                    return;
                }
            }
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            tokio::spawn(async move { stream.read_to_end(&mut request).await });
        }
    });
    let node =
        TestNode::start("edge", &knowledge_of(vec![source("127.0.0.1", address.port(), 20)]), clock(), memory().await)
            .await;
    for (length, sent, closes) in [(1_000_000, 10, true), (10, 10, false)] {
        let mut client = TcpStream::connect(node.address).await.unwrap();
        let head = format!("POST /a HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(&[head.as_bytes(), &vec![b'x'; sent]].concat()).await.unwrap();
        let mut came = Vec::new();
        while !came.windows(4).any(|four| four == b"\r\n\r\n") {
            assert!(client.read_buf(&mut came).await.unwrap() > 0);
        }
        let came = String::from_utf8_lossy(&came).to_ascii_lowercase();
        assert!(came.starts_with("http/1.1 413"), "{came}");
        assert_eq!(came.contains("connection: close"), closes, "{came}");
    }
}

#[tokio::test]
async fn request_that_comes_back_is_refused() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("a"));
    assert_eq!(node.get("/a").await.text(), "a");
    let said = origin.seen("/a")[0].headers["cdn-loop"].to_str().unwrap().to_owned();
    for method in [Method::GET, Method::HEAD, Method::POST] {
        let back = ask(node.address, method.clone(), "/b", &[("cdn-loop", &said)], false).await;
        assert_eq!(back.status, 508, "{method}");
    }
    assert_eq!(node.get_with("/a", &[("cdn-loop", "another-cdn; x=1")]).await.status, 200);
    assert!(origin.seen("/b").is_empty());
}
