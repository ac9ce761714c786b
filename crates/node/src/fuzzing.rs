//! A node's internals for fuzz targets: every parser of bytes from a network or a disk, with the properties its result
//! must have.
//!
//! Each function accepts any input and panics only where the node is wrong. Only built in tests and with the feature
//! `fuzzing`, which the fuzz targets alone turn on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, request, response};
use model::fence::Asker;
use model::functions::sent_to;
use model::{
    DomainName, Entry, Functions, Isolation, Knowledge, LogId, ManualClock, NodeName, Revision, Scope, UrlKey,
};
use tokio::time::Instant;

use crate::flood::{BURST_MAX, Frames, PREFACE};
use crate::framing;
use crate::functions::access::{self, Client};
use crate::functions::reply::{Representation, Telling};
use crate::functions::{fetch, keep};
use crate::head::{self, Head, Stored};
use crate::hot::{self, Seen};
use crate::index::{About, Index};
use crate::join::JoinToken;
use crate::journal::{Identity, Remembered};
use crate::knowing::Knowing;
use crate::peer;
use crate::slices::{self, Part, SIZES};

/// The head stored beside a body: what can be read is encoded again to the same value.
pub fn stored_head(bytes: &[u8]) {
    let Some((log, stored)) = head::decode(&Bytes::copy_from_slice(bytes)) else { return };
    match &stored {
        Stored::Object(head) => {
            assert_eq!(head::decode(&head.encode()), Some((log, stored.clone())));
            head.validator();
            if let Some(series) = head.slices {
                assert!(series.range(u64::MAX).end <= series.length);
            }
        }
        Stored::Marker(names) => assert!(head::decode(&head::encode_marker(log, names)).is_some()),
        Stored::Slice => {}
    }
}

/// The parsed head of a request: one that passes has one host and at most one length.
pub fn request_head(mut head: request::Parts) {
    let (method, uri, named) = (head.method.clone(), head.uri.clone(), head.headers.clone());
    let Ok(authority) = framing::request(&mut head) else { return };
    assert!(!authority.as_str().contains('@') && !authority.host().is_empty());
    one_length(&head.headers);
    assert_eq!((head.method, head.uri), (method, uri));
    let changed = |headers: &HeaderMap| headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH).count();
    assert_eq!(changed(&head.headers), changed(&named));
}

/// The parsed head of an answer: one that passes has at most one length, and none beside a transfer coding.
pub fn answer_head(mut head: response::Parts) {
    if framing::answer(&mut head).is_ok() {
        one_length(&head.headers);
        assert!(!(head.headers.contains_key(TRANSFER_ENCODING) && head.headers.contains_key(CONTENT_LENGTH)));
    }
}

fn one_length(headers: &HeaderMap) {
    assert!(headers.get_all(TRANSFER_ENCODING).iter().count() <= 1);
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1);
    for length in lengths {
        assert!(length.as_bytes().iter().all(u8::is_ascii_digit));
        assert!(length.to_str().is_ok_and(|length| length.parse::<u64>().is_ok()));
    }
}

/// Bytes at the start of an HTTP/1 connection: what is answered below hyper, or counted there as one request, is
/// exactly one request to a simple parser too, to the last byte, and would pass the checks above hyper.
pub fn plain_request(bytes: &[u8]) {
    let seen = hot::look(bytes, |host, path, _| Some((host.to_owned(), path.to_owned())));
    let seen = match seen {
        Seen::Hit(plain) => Some(plain),
        Seen::Whole => None,
        Seen::Other => return,
    };
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    let text = text.trim_start_matches('\n');
    assert_eq!(text.find("\n\n").map(|end| end + 2), Some(text.len()), "one head, and nothing behind it");
    let mut lines = text.lines();
    let start: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields: Vec<(String, &str)> = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim())).collect();
    assert!(
        fields.iter().all(|(name, _)| !matches!(name.as_str(), "content-length" | "transfer-encoding" | "upgrade"))
    );
    let Some((host, path)) = seen else { return };
    assert_eq!(start, ["GET", path.as_str(), "HTTP/1.1"]);
    let mut head = request::Builder::new().uri(&path);
    for (name, value) in &fields {
        head = head.header(name, value.as_bytes());
    }
    let (mut head, ()) = head.body(()).expect("hyper takes it too").into_parts();
    let authority = framing::request(&mut head).expect("it is framed plainly");
    assert_eq!(authority.host(), host);
    assert_eq!(head.uri.path_and_query().map(|path| path.as_str()), Some(path.as_str()));
    match UrlKey::new(&host, &path) {
        Ok(key) => assert_eq!(key.host(), host),
        Err(_) => assert!(host.len() > model::key::HOST_BYTES_MAX),
    }
}

/// Bytes of an HTTP/2 connection after its preface, whole and in pieces of `piece`: they are a flood exactly when a
/// second parser of the frames finds one.
pub fn http2(bytes: &[u8], piece: usize) {
    let now = Instant::now();
    let (mut whole, mut pieces) = (Frames::new(now), Frames::new(now));
    for frames in [&mut whole, &mut pieces] {
        assert!(frames.see(PREFACE, now).is_ok());
    }
    let one = whole.see(bytes, now);
    assert_eq!(one, bytes.chunks(piece.max(1)).try_for_each(|piece| pieces.see(piece, now)));
    let (mut rest, mut idle) = (bytes, 0);
    while let [high, middle, low, kind, flags, _, _, _, _, behind @ ..] = rest {
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        let asks = matches!((kind, length, flags & 1), (1 | 8, ..) | (0, 1.., _) | (0, 0, 1));
        idle += u32::from(!asks);
        rest = behind.get(length..).unwrap_or_default();
    }
    assert_eq!(one.is_err(), f64::from(idle) > BURST_MAX);
}

/// An invitation.
pub fn join_token(text: &str) {
    if let Ok(token) = JoinToken::parse(text) {
        assert_eq!(token.shown().split(':').next(), token.id.split(':').next());
        let _ = format!("{token:?}");
    }
}

/// The headers of a request: what they tell of the sender is believed only with the credential, and is stripped.
pub struct Peers(Knowing);

/// The credential that [`Peers`] believe.
pub const CREDENTIAL: &str = "the-peers-secret";

impl Default for Peers {
    /// A node of the log `log`.
    fn default() -> Peers {
        let name = NodeName::parse("n").expect("a letter is a name");
        let identity = Identity {
            log: LogId("log".to_owned()),
            credential: String::new(),
            peer_credential: CREDENTIAL.to_owned(),
            certificate_secret: String::new(),
            token_id: String::new(),
            ca: String::new(),
        };
        let remembered = Remembered {
            identity,
            applied: Revision::ZERO,
            floor: Revision::ZERO,
            swept: Revision::ZERO,
            knowledge: Knowledge::default(),
            entries: Vec::new(),
        };
        let clock = Arc::new(ManualClock::at(SystemTime::UNIX_EPOCH));
        Peers(Knowing::new(name, Isolation::Revalidate, clock, Some(remembered)))
    }
}

impl Peers {
    /// Reads the headers that describe the sender of a request.
    pub fn caller(&self, mut headers: HeaderMap) {
        let shown = headers.get(peer::CREDENTIAL).is_some_and(|shown| shown == CREDENTIAL);
        let _ = peer::told_age(&headers);
        let caller = peer::caller(&mut headers, &self.0.known());
        assert!(headers.keys().all(|name| !name.as_str().starts_with("warmfront-")));
        match caller {
            Ok(caller) if !shown => assert!(caller.asker == Asker::User && caller.passed.is_empty() && !caller.greets),
            Ok(caller) => assert!(matches!(caller.asker, Asker::Child { .. })),
            Err(_) => assert!(shown),
        }
    }
}

/// A log entry that is applied and then looked up: the index finds what it covers.
pub fn entry(entry: &Entry, key: &UrlKey) {
    let (index, at) = (Index::new(Revision::ZERO), Revision(1));
    index.add(at, entry, None);
    let mut knowledge = Knowledge::default();
    knowledge.apply(entry);
    let domain = knowledge.domain_for(key.host());
    let need = index.need(domain, key, About::Body { stamp: Revision::ZERO, headers: None }).revision;
    let fetch = index.need(domain, key, About::Fetch).revision;
    assert!(need <= at && fetch <= at);
    if let (Entry::Invalidate(all), Some(domain)) = (entry, domain) {
        let covers = all.iter().any(|one| one.scope.covers(&domain.name, key, &model::Tags::Any));
        assert_eq!(need == at, covers);
    }
    index.forget(at);
    assert_eq!(index.need(domain, key, About::Fetch).revision, at);
}

/// The results of functions for a request and its answer; `path` begins with `/`.
pub fn functions(functions: &Functions, asked: &Uri, request: &HeaderMap, status: StatusCode, answer: &HeaderMap) {
    let path = asked.path_and_query().map_or("/", |path| path.as_str());
    if let Ok(url) = UrlKey::new("a.com", path) {
        keys(functions, &url);
    }
    let mut sent = request.clone();
    fetch::headers(functions, &mut sent);
    let source = fetch::Redirecting { url: asked.clone(), host: "a.com", site: "a.com", is_source: true };
    if let Some(target) = fetch::follow(functions, &Method::GET, &source, status, answer) {
        let fetch::Target { url: to, host, same } = target;
        assert!(matches!(to.scheme_str(), Some("http" | "https")) && to.host().is_some() && !host.is_empty());
        assert!(to.authority().is_some_and(|authority| !authority.as_str().contains('@')));
        assert!(same || to.host().is_some_and(|to| !to.eq_ignore_ascii_case("a.com")));
    }
    let mut kept = answer.clone();
    keep::answered(functions, status, &mut kept);
    keep::mark(functions, path, status, &mut kept);
    assert!(keep::is_keyed_by(functions, &kept));
    let mut again = kept.clone();
    keep::confirmed(functions, answer, answer, &mut again);
    keep::mark(functions, path, status, &mut again);
    assert!(keep::is_keyed_by(functions, &again));
    keep::effective(&kept);
    if let Some(telling) = Telling::of(functions, request) {
        let of = Representation::of(status, &kept);
        telling.tell(status, &mut kept, of, true);
    }
    for client in [None, Some(Client(IpAddr::from([10, 0, 0, 1])))] {
        // Nobody has a signature that is valid in the year 30000.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(900_000_000_000);
        let may = access::may(&functions.rules().access, request, client, path, SystemTime::UNIX_EPOCH);
        if functions.rules().access.auth.is_some() {
            assert!(may.is_err(), "nobody guesses a signature");
        }
        let _ = access::may(&functions.rules().access, request, client, path, now);
    }
}

/// A refresh of a scope that covers a URL, translated to keys, covers the URL's key.
fn keys(functions: &Functions, url: &UrlKey) {
    let (rule, key) = (&functions.rules().key, functions.key(url));
    let _ = sent_to(&functions.rules().urls, &rule.unsigned(url.path_and_query()));
    let host = || url.host().to_owned();
    let directories = url.directories().map(|path| Scope::Directory { host: host(), path: path.to_owned() });
    let path = Scope::IgnoreParams { host: host(), path: url.path().to_owned() };
    for scope in directories.chain([path, Scope::File(url.clone())]) {
        // A signature inside a path is no part of the directories that scopes name.
        if rule.signed.is_some() && !matches!(scope, Scope::File(_)) {
            continue;
        }
        let said = rule.in_keys(&scope).unwrap_or_else(|| vec![scope]);
        let nobody = DomainName::parse("nobody.invalid").expect("a name");
        assert!(said.iter().any(|said| said.covers(&nobody, &key, &model::Tags::Any)), "{url} {key} {said:?}");
    }
}

/// A request for a part of a sliced body, and the answer to the slice request made for it.
pub fn slice(request: &HeaderMap, answer: response::Parts) {
    let Some(number) = slices::wanted(request, SIZES) else { return };
    let Some(asked) = Part::Begin(number).range(SIZES) else { return };
    assert!(asked.to_str().is_ok_and(|range| range.starts_with("bytes=")));
    let Some((series, range)) = slices::begun(&answer, number, SIZES) else { return };
    assert!(range.start < range.end && range.end <= series.length && range.end - range.start <= series.slice);
    assert_eq!(range, series.range(number));
    let now = SystemTime::UNIX_EPOCH;
    let tag = crate::knowing::LogTag(1);
    let head = Head::new(tag, answer.status, answer.headers.clone(), now, now).sliced(series);
    let next = Part::Slice(Arc::new(head.clone()), series, number).range(SIZES);
    if range.end - range.start == series.slice {
        assert_eq!(next, Some(asked), "asked for again as at first");
    }
    assert_eq!(slices::continues(&answer, &head, &series, number), answer.status == StatusCode::PARTIAL_CONTENT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_slice_that_a_number_can_name_is_not_asked_for() {
        let mut request = HeaderMap::new();
        request.insert(http::header::RANGE, format!("bytes={}-", u64::MAX).parse().unwrap());
        assert_eq!(slices::wanted(&request, SIZES).and_then(|number| Part::Begin(number).range(SIZES)), None);
        let (answer, ()) = http::Response::new(()).into_parts();
        slice(&request, answer);
    }
}
