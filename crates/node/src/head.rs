//! The record that the store keeps beside a body: the head of the response, and the log that its stamp belongs to.
//!
//! An *object* is stored whole or *sliced*. The head of a sliced one stands for it under the bare URL, and the parts of
//! its body that somebody asked for are stored beside it as *slices*, under the URL and the head's series. A *marker*
//! under the bare URL names the request headers by which its variants differ (RFC 9111 §4.1); the variants are stored
//! under the URL, the marker and those headers' values. When a body was vouched for is not here: that does not survive
//! a restart (rule 5).
//!
//! # What always holds
//!
//! - The first byte is the version of the format. Bytes that cannot be read are a miss, never a panic.
//! - A stamp belongs to the log whose tag is stored with it; a body of another log is a miss (rule 8, after a restore).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httpcache::Freshness;
use model::UrlKey;
use sha2::{Digest, Sha256};

use crate::functions::keep;
use crate::knowing::LogTag;
use crate::peer;

/// Version of the format.
const VERSION: u8 = 1;

const OBJECT: u8 = 0;
const MARKER: u8 = 1;
const SLICED: u8 = 2;
const SLICE: u8 = 3;

/// Between the URL and the variant in a full key; no URL contains it.
const SEPARATOR: u8 = b'\n';

/// Follows the separator in the key of a slice. In the key of a variant a marker's generation does, whose count is too
/// small ever to read like this.
const OF_SLICE: &[u8] = b"\0slice";

/// Headers that an answer adds to the stored ones: the node's own fields, the length, the age.
const ANSWER_ADDS: usize = 8;

/// Longest values of a variant that a key contains as they are, in bytes; longer ones (cookies) are replaced by their
/// digest.
const VARIANT_BYTES_MAX: usize = 512;

/// A response's head as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Head {
    /// The log the stamp belongs to.
    pub(crate) log: LogTag,
    /// Status of the response.
    pub(crate) status: StatusCode,
    /// End-to-end headers as they came.
    pub(crate) headers: HeaderMap,
    /// When the request was sent, by the wall clock.
    pub(crate) sent: SystemTime,
    /// When the response arrived, by the wall clock.
    pub(crate) received: SystemTime,
    /// The freshness that the headers give the response.
    pub(crate) freshness: Freshness,
    /// The series of its slices, if the body is sliced.
    pub(crate) slices: Option<Series>,
    /// The refetch it was fetched for; zero for none.
    pub(crate) refetch: u64,
    /// Identifies the origin's answer that the body is a copy of; zero if that is not known.
    pub(crate) copy: u64,
    /// The part of an answer's head that is the same for every plain hit (`hot`).
    pub(crate) ready: OnceLock<Bytes>,
}

/// The slices of one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Series {
    /// Bytes of the whole body.
    pub(crate) length: u64,
    /// Bytes of each slice but the last.
    pub(crate) slice: u64,
    /// Distinguishes these slices from those of every other head the URL ever had: a slice fetched for one head is
    /// never read for another, even if both carry the same validator.
    pub(crate) name: u128,
}

impl Series {
    /// Offsets of the first byte of slice `number` and of the one after its last.
    pub(crate) fn range(&self, number: u64) -> std::ops::Range<u64> {
        let start = number.saturating_mul(self.slice).min(self.length);
        start..start.saturating_add(self.slice).min(self.length)
    }
}

/// The kinds of record that a key can have in the store.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stored {
    /// A response.
    Object(Arc<Head>),
    /// The URL has variants, which differ by these request headers (lower case).
    Marker(Vec<HeaderName>),
    /// Part of a body, whose head is stored under the bare URL.
    Slice,
}

/// The key of an object in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectKey {
    bytes: Vec<u8>,
    hash: u128,
}

impl std::hash::Hash for ObjectKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl ObjectKey {
    fn new(bytes: Vec<u8>) -> ObjectKey {
        let hash = xxhash_rust::xxh3::xxh3_128(&bytes);
        ObjectKey { bytes, hash }
    }

    /// The bare URL: an object without variants, or the marker of one that has them.
    pub(crate) fn bare(url: &UrlKey) -> ObjectKey {
        ObjectKey::new([url.host().as_bytes(), url.path_and_query().as_bytes()].concat())
    }

    /// A variant that a marker leads to; `values` come from [`httpcache::vary_key`]. Variants of an earlier marker are
    /// found by nobody: removing a marker removes all of its variants.
    pub(crate) fn variant(url: &UrlKey, marker: store::Generation, values: &[u8]) -> ObjectKey {
        let mut key = ObjectKey::bare(url).bytes;
        key.push(SEPARATOR);
        key.extend_from_slice(&marker.0.to_be_bytes());
        if values.len() > VARIANT_BYTES_MAX {
            key.extend_from_slice(&Sha256::digest(values));
        } else {
            key.extend_from_slice(values);
        }
        ObjectKey::new(key)
    }

    /// Slice `number` of a body.
    pub(crate) fn slice(url: &UrlKey, series: &Series, number: u64) -> ObjectKey {
        let mut key = ObjectKey::bare(url).bytes;
        key.push(SEPARATOR);
        key.extend_from_slice(OF_SLICE);
        key.extend_from_slice(&series.name.to_be_bytes());
        key.extend_from_slice(&number.to_be_bytes());
        ObjectKey::new(key)
    }

    /// Whether it is a key of `url`: bare, of a variant or of a slice.
    pub(crate) fn is_of(&self, url: &ObjectKey) -> bool {
        self.bytes.strip_prefix(url.bytes()).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == SEPARATOR))
    }

    /// The full key.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key of the store's index.
    pub(crate) fn hash(&self) -> store::Key {
        store::Key(self.hash)
    }
}

/// The URL of a full key.
pub(crate) fn url_of(full_key: &[u8]) -> Option<UrlKey> {
    let url = full_key.split(|byte| *byte == SEPARATOR).next().unwrap_or_default();
    let url = std::str::from_utf8(url).ok()?;
    let (host, path) = url.split_at(url.find('/')?);
    UrlKey::new(host, path).ok()
}

impl Head {
    /// A head as it arrived.
    pub(crate) fn new(
        log: LogTag,
        status: StatusCode,
        headers: HeaderMap,
        sent: SystemTime,
        received: SystemTime,
    ) -> Head {
        let freshness = Freshness::of(status, &keep::effective(&headers), sent, received);
        let ready = OnceLock::new();
        Head { log, status, headers, sent, received, freshness, slices: None, refetch: 0, copy: 0, ready }
    }

    /// The same over a body in slices.
    pub(crate) fn sliced(self, series: Series) -> Head {
        Head { slices: Some(series), ..self }
    }

    /// The same with other headers, which leave its freshness as it is.
    pub(crate) fn with(&self, headers: HeaderMap) -> Head {
        Head { headers, ready: OnceLock::new(), ..self.clone() }
    }

    /// The same, noted as fetched for a refetch.
    pub(crate) fn fetched_for(self, refetch: u64) -> Head {
        Head { refetch, ..self }
    }

    /// The same over a body that is a copy of this answer.
    pub(crate) fn copy_of(self, copy: u64) -> Head {
        Head { copy, ..self }
    }

    /// Encodes it for the store.
    pub(crate) fn encode(&self) -> Bytes {
        let kind = if self.slices.is_some() { SLICED } else { OBJECT };
        let mut headers = std::borrow::Cow::Borrowed(&self.headers);
        if self.refetch > 0 {
            peer::tell_refetch(headers.to_mut(), self.refetch);
        }
        if self.copy > 0 {
            peer::tell_copy(headers.to_mut(), self.copy);
        }
        encode(kind, self.slices, self.log, self.status, &headers, self.sent, self.received)
    }

    /// ETag or Last-Modified, as a prefetch reports it.
    pub(crate) fn validator(&self) -> Option<String> {
        let value = self.headers.get(http::header::ETAG).or_else(|| self.headers.get(http::header::LAST_MODIFIED))?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

/// Encodes a marker for the store.
pub(crate) fn encode_marker(log: LogTag, vary: &[HeaderName]) -> Bytes {
    let headers = vary.iter().map(|name| (name.clone(), HeaderValue::from_static(""))).collect();
    encode(MARKER, None, log, StatusCode::OK, &headers, UNIX_EPOCH, UNIX_EPOCH)
}

/// Encodes the record that a slice has in place of a head.
pub(crate) fn encode_slice(log: LogTag) -> Bytes {
    encode(SLICE, None, log, StatusCode::OK, &HeaderMap::new(), UNIX_EPOCH, UNIX_EPOCH)
}

fn encode(
    kind: u8,
    slices: Option<Series>,
    log: LogTag,
    status: StatusCode,
    headers: &HeaderMap,
    sent: SystemTime,
    received: SystemTime,
) -> Bytes {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 6).sum();
    let mut out = BytesMut::with_capacity(size + 32);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u64(log.0);
    out.put_u16(status.as_u16());
    out.put_u64(millis(sent));
    out.put_u64(millis(received));
    if let Some(Series { length, slice, name }) = slices {
        out.put_u64(length);
        out.put_u64(slice);
        out.put_u128(name);
    }
    for (name, value) in headers {
        // Both are far shorter than that: the client and the server bound the heads they accept.
        out.put_u16(u16::try_from(name.as_str().len()).unwrap_or(u16::MAX));
        out.put_slice(name.as_str().as_bytes());
        out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        out.put_slice(value.as_bytes());
    }
    out.freeze()
}

/// The record of an object, decoded once for as long as it is in memory.
pub(crate) fn read(object: &store::Object) -> Option<&(LogTag, Stored)> {
    object.made(decode).as_ref()
}

/// Decodes a record; `None`, which is a miss, for bytes of another version or that make no sense.
pub(crate) fn decode(bytes: &Bytes) -> Option<(LogTag, Stored)> {
    let mut bytes = bytes.clone();
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let kind = bytes.try_get_u8().ok()?;
    let log = LogTag(bytes.try_get_u64().ok()?);
    let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
    let sent = UNIX_EPOCH.checked_add(Duration::from_millis(bytes.try_get_u64().ok()?))?;
    let received = UNIX_EPOCH.checked_add(Duration::from_millis(bytes.try_get_u64().ok()?))?;
    let slices = match kind {
        SLICED => {
            let length = bytes.try_get_u64().ok()?;
            let slice = bytes.try_get_u64().ok().filter(|slice| *slice > 0)?;
            Some(Series { length, slice, name: bytes.try_get_u128().ok()? })
        }
        _ => None,
    };
    // Room in the index for the fields that an answer adds to its copy.
    let mut headers = HeaderMap::with_capacity(ANSWER_ADDS + 8);
    while bytes.has_remaining() {
        let length = usize::from(bytes.try_get_u16().ok()?);
        let name = HeaderName::from_bytes(&take(&mut bytes, length)?).ok()?;
        let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        let value = HeaderValue::from_maybe_shared(take(&mut bytes, length)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    let (refetch, copy) = (peer::refetch(&headers), peer::copy(&headers).unwrap_or(0));
    headers.remove(peer::REFETCH);
    headers.remove(peer::COPY);
    // The clone has no spare room for entries, and may be kept for long.
    let headers = headers.clone();
    match kind {
        OBJECT | SLICED => {
            let head = Head::new(log, status, headers, sent, received);
            Some((log, Stored::Object(Arc::new(Head { slices, refetch, copy, ..head }))))
        }
        SLICE => Some((log, Stored::Slice)),
        MARKER => Some((log, Stored::Marker(headers.keys().cloned().collect()))),
        _ => None,
    }
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{ETAG, SET_COOKIE};

    fn head() -> Head {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, HeaderValue::from_static("\"x\""));
        headers.append(SET_COOKIE, HeaderValue::from_static("a=1"));
        headers.append(SET_COOKIE, HeaderValue::from_bytes(b"b=\xff").unwrap());
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        Head::new(LogTag(9), StatusCode::NOT_FOUND, headers, at, at + Duration::from_millis(20))
    }

    #[test]
    fn heads_survive_being_stored() {
        assert_eq!(decode(&head().encode()), Some((LogTag(9), Stored::Object(Arc::new(head())))));
        let vary = vec![http::header::ACCEPT_ENCODING, http::header::ACCEPT_LANGUAGE];
        let Some((LogTag(3), Stored::Marker(mut names))) = decode(&encode_marker(LogTag(3), &vary)) else {
            panic!("a marker")
        };
        names.sort_by_key(|name| name.to_string());
        assert_eq!(names, vary);
    }

    #[test]
    fn head_of_a_body_in_slices_survives_being_stored() {
        let series = Series { length: 10 << 30, slice: 1 << 20, name: 7 };
        let head = head().sliced(series);
        assert_eq!(decode(&head.encode()), Some((LogTag(9), Stored::Object(Arc::new(head.clone())))));
        assert_eq!(decode(&encode_slice(LogTag(3))), Some((LogTag(3), Stored::Slice)));
        assert_eq!(series.range(0), 0..1 << 20);
        let odd = Series { length: 2_500, slice: 1_000, name: 7 };
        assert_eq!((odd.range(2), odd.range(3)), (2_000..2_500, 2_500..2_500));
    }

    #[test]
    fn head_of_the_first_version_is_still_read() {
        // What version 1 wrote to disks; never edit these bytes, add to them.
        let sample = b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\xc8\x00\x00\x01\x8b\xcf\xe5\x68\x7b\x00\x00\x01\x8b\xcf\xe5\x68\x8f\x00\x04etag\x00\x00\x00\x03\"x\"";
        let Some((LogTag(9), Stored::Object(head))) = decode(&Bytes::from_static(sample)) else { panic!("an object") };
        assert_eq!((head.status, head.headers[ETAG].as_bytes()), (StatusCode::OK, &b"\"x\""[..]));
    }

    #[test]
    fn every_cut_of_a_head_is_read_without_a_panic() {
        let whole = head().encode();
        for end in 0..whole.len() {
            // A cut between two headers reads as a shorter head; the store's checksum is what tells them apart.
            let _ = decode(&whole.slice(..end));
        }
        assert_eq!(decode(&Bytes::from_static(b"\x02\x00")), None, "another version is a miss");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes: Vec<u8>) {
            let _ = decode(&Bytes::from(bytes.clone()));
            bytes.splice(0..0, [VERSION, OBJECT, 0, 0, 0, 0, 0, 0, 0, 9, 0, 200]);
            let _ = decode(&Bytes::from(bytes.clone()));
            let _ = url_of(&bytes);
        }
    }

    #[test]
    fn key_knows_its_url() {
        let url = UrlKey::new("a.com", "/x").unwrap();
        let bare = ObjectKey::bare(&url);
        assert!(bare.is_of(&bare) && ObjectKey::variant(&url, store::Generation(1), b"v").is_of(&bare));
        let longer = UrlKey::new("a.com", "/xy").unwrap();
        assert!(!ObjectKey::bare(&longer).is_of(&bare) && !bare.is_of(&ObjectKey::bare(&longer)));
    }

    #[test]
    fn url_is_found_in_a_full_key() {
        let url = UrlKey::new("a.com", "/x?y=/z").unwrap();
        assert_eq!(url_of(ObjectKey::bare(&url).bytes()), Some(url.clone()));
        assert_eq!(url_of(ObjectKey::variant(&url, store::Generation(0x0a0a), b"gzip\n/").bytes()), Some(url.clone()));
        let series = Series { length: 1, slice: 1, name: u128::from_be_bytes([b'\n'; 16]) };
        assert_eq!(url_of(ObjectKey::slice(&url, &series, 0x0a0a).bytes()), Some(url));
    }
}
