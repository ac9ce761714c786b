//! The access log: a line of JSON for each request, in a file.
//!
//! A request never waits for the file. Its line is rendered into a buffer that its thread shares with the writer alone,
//! and the writer's thread takes the buffers away several times a second and writes them. Lines that do not fit are
//! dropped and counted. The file is reopened when the operator says so (SIGHUP), after it was moved away: rotation is
//! left to the usual tools.
//!
//! # What always holds
//!
//! - A line is one line and valid JSON, whatever bytes the client sent; bytes that are not UTF-8 are shown as `\u00XX`.
//! - Values of query arguments that grant access ([`SECRETS`]) are not logged, nor is any header but those named.
//! - At most [`PENDING_BYTES_MAX`] for each shard wait to be written.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::HeaderValue;
use http::{Request, Version};
use rustix::fs::{Advice, fadvise};
use time::UtcDateTime;

use crate::metrics::{Counter, SHARDS, XCache, shard};

/// Bytes of lines that wait in one shard.
const PENDING_BYTES_MAX: usize = 4 << 20;

/// From this many bytes on, the writer is woken early. Few enough that they are still in a processor's cache, and that
/// requests on the writer's processor do not wait for it.
const WAKE_BYTES: usize = 128 << 10;

/// How often lines are written.
const WRITE_EVERY: Duration = Duration::from_millis(250);

/// After this many bytes the kernel is asked to write the file out and to drop its written pages. Nobody reads a log
/// soon, and its pages would push bodies out of the page cache; besides, memory that was used a moment ago is cheaper
/// than memory that was not.
const FORGET_EVERY_BYTES: usize = 1 << 20;

/// Bytes of one field that are shown.
const FIELD_BYTES_MAX: usize = 4096;

/// Query arguments whose values are left out, in whatever case. From `security-token` on they are signatures and tokens
/// of signed URLs of object stores; whose key signed such a URL, and when it expires, is no secret.
const SECRETS: [&[u8]; 21] = [
    b"auth_key",
    b"key1",
    b"access_token",
    b"token",
    b"sign",
    b"signature",
    b"password",
    b"security-token",
    b"sig",
    b"x-oss-signature",
    b"x-oss-security-token",
    b"x-amz-signature",
    b"x-amz-security-token",
    b"x-goog-signature",
    b"q-signature",
    b"x-cos-security-token",
    b"x-obs-signature",
    b"x-obs-security-token",
    b"x-tos-signature",
    b"x-tos-security-token",
    b"x-bce-security-token",
];

/// The access log of a node; its writer's thread runs while it lives.
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    path: PathBuf,
    pending: [Mutex<Pending>; SHARDS],
    reopen: AtomicBool,
    ending: AtomicBool,
    lines: Counter,
    dropped: Counter,
}

/// Lines that wait in one shard.
#[derive(Default)]
struct Pending {
    lines: Vec<u8>,
    /// The second of the last line, since 1970, and its text.
    second: Option<(u64, Vec<u8>)>,
}

/// The part of a line about the connection: rendered once for all its requests.
pub(crate) struct Client(Vec<u8>);

/// The part of a line about the request, rendered when the request comes, because its source may be gone at the end.
pub(crate) struct Record(Vec<u8>);

/// The part of a line about the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// When the request came.
    pub(crate) at: SystemTime,
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    /// `None` if the client left before.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) result: Option<XCache>,
    /// The connection took the whole of it.
    pub(crate) complete: bool,
    /// It counts for the figures of the domain that serves its host.
    pub(crate) counted: bool,
}

impl Client {
    /// A client with this address, which uses TLS or not.
    pub(crate) fn new(address: Option<SocketAddr>, secure: bool) -> Client {
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let mut line = Vec::new();
        text(&mut line, ",\"client\":\"", address.as_bytes());
        text(&mut line, ",\"scheme\":\"", if secure { b"https" } else { b"http" });
        Client(line)
    }
}

impl Record {
    pub(crate) fn of<B>(request: &Request<B>) -> Record {
        let uri = request.uri();
        let path = uri.path_and_query().map_or("", |path| path.as_str());
        let version = match request.version() {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_11 => "HTTP/1.1",
            _ => "HTTP/2.0",
        };
        Record::new(request.method().as_str(), path, version, |name| match uri.authority() {
            Some(authority) if name == "host" => authority.host().as_bytes(),
            _ => request.headers().get(name).map_or(b"", HeaderValue::as_bytes),
        })
    }

    /// `header` gives the value of a field, empty where there is none.
    pub(crate) fn new<'a>(method: &str, path: &str, version: &str, header: impl Fn(&str) -> &'a [u8]) -> Record {
        let mut line = Vec::with_capacity(256 + path.len());
        text(&mut line, ",\"method\":\"", method.as_bytes());
        text(&mut line, ",\"host\":\"", header("host"));
        url(&mut line, ",\"path\":\"", path.as_bytes());
        text(&mut line, ",\"protocol\":\"", version.as_bytes());
        url(&mut line, ",\"referer\":\"", header("referer"));
        text(&mut line, ",\"user_agent\":\"", header("user-agent"));
        text(&mut line, ",\"range\":\"", header("range"));
        Record(line)
    }

    /// Overwrites this text with dots wherever it stands.
    pub(crate) fn hide(&mut self, secret: &str) {
        let Self(line) = self;
        for at in 0..line.len() {
            if !secret.is_empty() && line[at..].starts_with(secret.as_bytes()) {
                line[at..at + secret.len()].fill(b'.');
            }
        }
    }
}

impl Pending {
    /// Adds a line.
    fn render(&mut self, record: &Record, client: &Client, node: &str, id: &str, ending: &Ending) {
        let Pending { lines: line, second } = self;
        let since = ending.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        line.extend_from_slice(b"{\"time\":\"");
        match second {
            Some((written, text)) if *written == since.as_secs() => line.extend_from_slice(text),
            _ => {
                let mut text = Vec::new();
                time(&mut text, since.as_secs());
                line.extend_from_slice(&text);
                *second = Some((since.as_secs(), text));
            }
        }
        thousandths(line, since.subsec_millis());
        text(line, "Z\",\"request_id\":\"", id.as_bytes());
        line.extend_from_slice(&client.0);
        line.extend_from_slice(&record.0);
        number(line, ",\"status\":", u64::from(ending.status));
        number(line, ",\"bytes\":", ending.bytes);
        millis(line, ",\"duration_ms\":", Some(ending.duration));
        millis(line, ",\"first_byte_ms\":", ending.first_byte);
        text(line, ",\"cache\":\"", ending.result.map_or("", XCache::word).as_bytes());
        let complete: &str = if ending.complete { ",\"complete\":true" } else { ",\"complete\":false" };
        line.extend_from_slice(complete.as_bytes());
        let counted: &str = if ending.counted { ",\"counted\":true" } else { ",\"counted\":false" };
        line.extend_from_slice(counted.as_bytes());
        text(line, ",\"node\":\"", node.as_bytes());
        line.extend_from_slice(b"}\n");
    }
}

impl AccessLog {
    /// Opens the file for appending, and starts the writer.
    pub(crate) fn open(path: &Path) -> std::io::Result<AccessLog> {
        let file = append(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            pending: std::array::from_fn(|_| Mutex::default()),
            reopen: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            lines: Counter::default(),
            dropped: Counter::default(),
        });
        let writing = shared.clone();
        let writer = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writing.run(file))?;
        Ok(AccessLog { shared, writer: Some(writer) })
    }

    /// Takes a line, or drops it when too much waits already.
    pub(crate) fn line(&self, record: &Record, client: &Client, node: &str, id: &str, ending: &Ending) {
        let wake = {
            let mut pending = self.shared.pending(shard());
            let before = pending.lines.len();
            if before >= PENDING_BYTES_MAX {
                self.shared.dropped.inc();
                return;
            }
            pending.render(record, client, node, id, ending);
            before < WAKE_BYTES && pending.lines.len() >= WAKE_BYTES
        };
        self.shared.lines.inc();
        if wake {
            self.wake();
        }
    }

    /// Goes on in a new file of the same name, after the old one was moved away.
    pub(crate) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Lines taken.
    pub(crate) fn lines(&self) -> u64 {
        self.shared.lines.get()
    }

    /// Lines dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.get()
    }

    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

impl Drop for AccessLog {
    /// Writes the lines that were taken.
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        self.wake();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn pending(&self, shard: usize) -> MutexGuard<'_, Pending> {
        self.pending[shard].lock().expect("no holder of this lock can panic")
    }

    fn run(&self, mut file: File) {
        let mut failing = false;
        let mut taken = Vec::new();
        let mut remembered = 0;
        loop {
            let ending = self.ending.load(Ordering::Acquire);
            if self.reopen.swap(false, Ordering::AcqRel) {
                match append(&self.path) {
                    Ok(opened) => file = opened,
                    Err(error) => tracing::error!(path = %self.path.display(), %error, "access log is not reopened"),
                }
            }
            for shard in 0..SHARDS {
                std::mem::swap(&mut taken, &mut self.pending(shard).lines);
                if taken.is_empty() {
                    continue;
                }
                match file.write_all(&taken) {
                    Ok(()) => {
                        failing = false;
                        remembered += taken.len();
                    }
                    Err(error) => {
                        let lines = taken.iter().filter(|byte| **byte == b'\n').count();
                        self.dropped.add(lines as u64);
                        if !failing {
                            tracing::error!(path = %self.path.display(), %error, "access log is not written");
                        }
                        failing = true;
                    }
                }
                taken.clear();
            }
            if remembered >= FORGET_EVERY_BYTES {
                // A file that does not support this (a pipe) is not in the page cache.
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
                remembered = 0;
            }
            if ending {
                return;
            }
            std::thread::park_timeout(WRITE_EVERY);
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// A member whose value is a number; `lead` is the text before the value.
fn number(line: &mut Vec<u8>, lead: &str, value: u64) {
    line.extend_from_slice(lead.as_bytes());
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A member whose value is in milliseconds, with microseconds as three decimals.
fn millis(line: &mut Vec<u8>, lead: &str, duration: Option<Duration>) {
    let Some(duration) = duration else {
        line.extend_from_slice(lead.as_bytes());
        return line.extend_from_slice(b"null");
    };
    number(line, lead, duration.as_millis() as u64);
    line.push(b'.');
    thousandths(line, duration.subsec_micros() % 1000);
}

/// Three digits.
fn thousandths(line: &mut Vec<u8>, number: u32) {
    line.extend_from_slice(&[100, 10, 1].map(|place| b'0' + (number / place % 10) as u8));
}

/// A member whose value is text; `lead` is the text before the value, its quote included.
fn text(line: &mut Vec<u8>, lead: &str, value: &[u8]) {
    line.extend_from_slice(lead.as_bytes());
    escape(line, &value[..value.len().min(FIELD_BYTES_MAX)]);
    line.push(b'"');
}

/// The same for a URL or a part of one, whose query may carry secrets.
fn url(line: &mut Vec<u8>, lead: &str, value: &[u8]) {
    let value = &value[..value.len().min(FIELD_BYTES_MAX)];
    let Some(query) = value.iter().position(|byte| *byte == b'?') else { return text(line, lead, value) };
    let (path, query) = value.split_at(query + 1);
    line.extend_from_slice(lead.as_bytes());
    escape(line, path);
    for (at, argument) in query.split(|byte| *byte == b'&').enumerate() {
        if at > 0 {
            line.push(b'&');
        }
        let key = argument.split(|byte| *byte == b'=').next().unwrap_or_default();
        let secret = SECRETS.iter().any(|secret| secret.eq_ignore_ascii_case(&unescaped(key)));
        escape(line, if secret { key } else { argument });
        if secret {
            line.extend_from_slice(b"=***");
        }
    }
    line.push(b'"');
}

/// A query's key without percent escapes, which might disguise it.
fn unescaped(key: &[u8]) -> Vec<u8> {
    let hex = |at: usize| key.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut plain = Vec::with_capacity(key.len());
    let mut at = 0;
    while let Some(byte) = key.get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    plain
}

/// RFC 8259 §7; control characters, DEL and line separators by their number, and bytes that are not UTF-8 as if they
/// were Latin-1.
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    // Nearly every value is printable ASCII without quotes. The loop does not stop early, because that way many bytes
    // are compared at once.
    let plain = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    if value.iter().fold(true, |good, byte| good & plain(*byte)) {
        line.extend_from_slice(value);
        return;
    }
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => line.extend_from_slice(&[b'\\', character as u8]),
                '\0'..='\x1f' | '\x7f' | '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                    _ = write!(line, "\\u{:04x}", u32::from(character));
                }
                _ => line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\u{byte:04x}");
        }
    }
}

/// RFC 3339 in UTC, up to the point after the seconds, which are counted from 1970.
fn time(line: &mut Vec<u8>, secs: u64) {
    let at = i64::try_from(secs).ok().and_then(|secs| UtcDateTime::from_unix_timestamp(secs).ok());
    let at = at.unwrap_or(UtcDateTime::MAX);
    let ((year, month, day), (hour, minute, second)) = (at.date().to_calendar_date(), at.as_hms());
    let _ = write!(line, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.", u8::from(month));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending() -> Ending {
        Ending {
            at: UNIX_EPOCH + Duration::from_millis(1_709_210_096_789),
            status: 200,
            bytes: 5,
            duration: Duration::from_micros(1500),
            first_byte: Some(Duration::from_micros(250)),
            result: Some(XCache::Hit),
            complete: true,
            counted: true,
        }
    }

    fn client() -> Client {
        Client::new(Some("192.0.2.1:5000".parse().unwrap()), true)
    }

    fn record(uri: &str, headers: &[(&str, &[u8])]) -> Record {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        Record::of(&request.body(()).unwrap())
    }

    fn rendered(record: &Record) -> serde_json::Value {
        let mut pending = Pending::default();
        pending.render(record, &client(), "edge", "id-0", &ending());
        pending.lines.clear(); // the second is known now
        pending.render(record, &client(), "edge", "id-1", &ending());
        let line = pending.lines;
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(&line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
    }

    #[test]
    fn line_says_what_was_asked_and_answered() {
        let line = rendered(&record("/a?b=c", &[("host", b"a.com"), ("range", b"bytes=0-4"), ("user-agent", b"curl")]));
        assert_eq!(
            line,
            serde_json::json!({
                "time": "2024-02-29T12:34:56.789Z", "request_id": "id-1", "client": "192.0.2.1:5000", "scheme": "https",
                "method": "GET",
                "host": "a.com", "path": "/a?b=c", "protocol": "HTTP/1.1", "status": 200, "bytes": 5, "duration_ms": 1.5,
                "first_byte_ms": 0.25, "cache": "HIT", "complete": true, "counted": true, "node": "edge", "referer": "",
                "user_agent": "curl", "range": "bytes=0-4",
            })
        );
    }

    #[test]
    fn signature_in_a_path_can_be_hidden() {
        let hash = "0123456789abcdef0123456789abcdef";
        let path = format!("/{hash}/65a0b1c2/a?KEY1={hash}");
        let mut record = record(&path, &[("referer", format!("http://a.com/{hash}").as_bytes())]);
        record.hide(hash);
        let line = rendered(&record);
        assert!(!line.to_string().contains(hash), "{line}");
        assert!(line["path"].as_str().is_some_and(|path| path.ends_with("/65a0b1c2/a?KEY1=***")), "{line}");
    }

    #[test]
    fn bytes_of_clients_cannot_leave_their_field() {
        let cases: &[(&[u8], &str)] = &[
            (b"\"},{\"status\":500", "\"},{\"status\":500"),
            (b"back\\slash", "back\\slash"),
            (b"tab\tinside", "tab\tinside"),
            ("gr\u{fc}\u{df}e".as_bytes(), "gr\u{fc}\u{df}e"),
            (b"latin \xfc", "latin \u{fc}"),
            ("line\u{2028}end".as_bytes(), "line\u{2028}end"),
        ];
        for (sent, shown) in cases {
            assert_eq!(rendered(&record("/", &[("user-agent", sent)]))["user_agent"], *shown);
        }
        let long = vec![b'x'; FIELD_BYTES_MAX + 1];
        let shown = rendered(&record("/", &[("user-agent", &long)]));
        assert_eq!(shown["user_agent"].as_str().map(str::len), Some(FIELD_BYTES_MAX));
    }

    #[test]
    fn secrets_are_not_shown() {
        let cases = [
            // sent                                           shown
            ("/a?auth_key=170-0-0-abc&b=1", "/a?auth_key=***&b=1"),
            ("/a?b=1&AUTH_KEY=x", "/a?b=1&AUTH_KEY=***"),
            ("/a?%61uth_key=x", "/a?%61uth_key=***"),
            ("/a?my_auth_key=x", "/a?my_auth_key=x"),
            ("/a?auth_key", "/a?auth_key=***"),
            // Signed URLs of object stores: whose key it was is shown.
            ("/a?X-Goog-Credential=me&X-Goog-Signature=x", "/a?X-Goog-Credential=me&X-Goog-Signature=***"),
            ("/a?X-Amz-Security-Token=x&X-Amz-Expires=9", "/a?X-Amz-Security-Token=***&X-Amz-Expires=9"),
            ("/a?q-ak=me&q-signature=x", "/a?q-ak=me&q-signature=***"),
            ("/a?sv=2024&sp=r&sig=x", "/a?sv=2024&sp=r&sig=***"),
            ("/a", "/a"),
        ];
        for (sent, shown) in cases {
            let referer = format!("http://b.com{sent}");
            let line = rendered(&record(
                sent,
                &[("referer", referer.as_bytes()), ("cookie", b"sid=1"), ("authorization", b"Basic x")],
            ));
            assert_eq!(
                (line["path"].as_str(), line["referer"].as_str()),
                (Some(shown), Some(&*format!("http://b.com{shown}")))
            );
            let text = line.to_string();
            assert!(!text.contains("sid=1") && !text.contains("Basic"), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_make_one_line_of_json(bytes: Vec<u8>) {
            let mut line = b"{\"first\":1".to_vec();
            text(&mut line, ",\"text\":\"", &bytes);
            url(&mut line, ",\"url\":\"", &bytes);
            line.push(b'}');
            assert!(!line.contains(&b'\n'));
            serde_json::from_slice::<serde_json::Value>(&line).unwrap();
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00."),
            (59 * 86_400, "1970-03-01T00:00:00."),
            (11_016 * 86_400, "2000-02-29T00:00:00."),
            (19_782 * 86_400 + 86_399, "2024-02-29T23:59:59."),
            (47_540 * 86_400, "2100-02-28T00:00:00."),
            (47_541 * 86_400, "2100-03-01T00:00:00."),
            (u64::MAX, "9999-12-31T23:59:59."),
        ];
        for (secs, expected) in cases {
            let mut line = Vec::new();
            time(&mut line, secs);
            assert_eq!(String::from_utf8(line).unwrap(), expected, "{secs}");
        }
    }

    #[test]
    fn file_that_was_moved_away_is_left_and_another_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let log = AccessLog::open(&path).unwrap();
        let lines = |path: &Path| std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
        let wait = |path: &Path, count| {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            while lines(path) < count {
                assert!(tokio::time::Instant::now() < deadline, "{} lines in {}", lines(path), path.display());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        log.line(&record("/1", &[]), &client(), "edge", "1", &ending());
        wait(&path, 1);
        std::fs::rename(&path, &moved).unwrap();
        log.reopen();
        wait(&path, 0);
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        log.line(&record("/2", &[]), &client(), "edge", "2", &ending());
        drop(log); // writes what it has
        assert_eq!((lines(&moved), lines(&path)), (1, 1));
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        // A pipe whose reader never reads stands for a disk that hangs.
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let reader = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let log = AccessLog::open(&path).unwrap();
        let record = record("/", &[("user-agent", &[b'x'; 4000])]);
        let begun = tokio::time::Instant::now();
        for _ in 0..3 * PENDING_BYTES_MAX / 4000 {
            log.line(&record, &client(), "edge", "id", &ending());
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits for the file");
        assert!(log.dropped() > 0);
        // The writer hangs in the pipe; it ends when its bytes are taken.
        let drain = std::thread::spawn(move || {
            let mut reader = reader;
            let mut buffer = vec![0; 1 << 20];
            let mut read = 0;
            while read < PENDING_BYTES_MAX {
                read += std::io::Read::read(&mut reader, &mut buffer).unwrap();
            }
            std::mem::forget(reader);
        });
        drain.join().unwrap();
        std::mem::forget(log);
    }
}
