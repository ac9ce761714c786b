//! The answers that users are sent: headers of the domain's owner, and texts compressed on the way out.
//!
//! A compressed answer is another representation of the same object (RFC 9110 §8.8.1): its ETag is weak, it has no
//! ranges, and `Vary` tells caches behind this one. A range request is answered with the body as it is stored.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::Functions;

use super::keep;
use crate::metrics::Held;

/// Shortest body that is compressed, in bytes.
const LENGTH_MIN: u64 = 1024;

/// Media types that are text though their name does not say so.
const TEXTS: [&str; 8] = [
    "application/javascript",
    "application/json",
    "application/manifest+json",
    "application/wasm",
    "application/x-javascript",
    "application/xml",
    "application/xhtml+xml",
    "image/svg+xml",
];

/// Fields that describe the bytes as they are stored, beside [`httpcache::OF_CONTENT`].
const OF_STORED: [HeaderName; 3] =
    [ACCEPT_RANGES, HeaderName::from_static("digest"), HeaderName::from_static("repr-digest")];

/// The changes that the functions of the domain make to a user's answer.
pub(crate) struct Telling {
    functions: Functions,
    /// The domain compresses, and the user accepts gzip.
    gzip: bool,
}

/// The whole body that an answer brings, brings a part of, or confirms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Representation {
    /// It has a content coding.
    coded: bool,
    /// Its length in bytes, where that is known.
    length: Option<u64>,
}

impl Representation {
    /// Of a body of `length` bytes that came with `headers`.
    pub(crate) fn new(headers: &HeaderMap, length: Option<u64>) -> Representation {
        Representation { coded: headers.contains_key(CONTENT_ENCODING), length }
    }

    /// As far as the head of an answer tells.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap) -> Representation {
        let length = headers.get(CONTENT_LENGTH).filter(|_| status == StatusCode::OK);
        Representation::new(headers, length.and_then(|length| length.to_str().ok()?.parse().ok()))
    }
}

impl Telling {
    /// For the user who sent `request`; `None` if there is nothing to do.
    pub(crate) fn of(functions: &Functions, request: &HeaderMap) -> Option<Telling> {
        if functions.is_empty() {
            return None;
        }
        let accepts = || httpcache::accept_encoding(request).split(", ").any(|coding| coding == "gzip");
        let wanted = request.contains_key(ACCEPT_ENCODING) && !forbids_transforming(request);
        let gzip = functions.rules().gzip && wanted && accepts();
        Some(Telling { functions: functions.clone(), gzip })
    }

    /// Whether some bodies are compressed on their way to this user.
    pub(crate) fn may_compress(&self) -> bool {
        self.gzip
    }

    /// Whether a body with these headers is compressed on its way to this user.
    pub(crate) fn compresses(&self, headers: &HeaderMap, of: Representation) -> bool {
        self.gzip && is_compressible(headers, of)
    }

    /// Changes the headers to those that a user gets. `of` is the representation they describe, so that a 304 and the
    /// answer to HEAD say the same of it as the answer that brings it (RFC 9110 §9.3.2, §15.4.5). Returns whether the
    /// body is to be compressed, which needs `room`.
    pub(crate) fn tell(&self, status: StatusCode, headers: &mut HeaderMap, of: Representation, room: bool) -> bool {
        let and = if forbids_transforming(headers) { ", no-transform" } else { "" };
        let told = keep::told(headers).map(|told| format!("max-age={told}{and}"));
        if let Some(told) = told.and_then(|told| HeaderValue::try_from(told).ok()) {
            headers.insert(CACHE_CONTROL, told);
            headers.remove(EXPIRES);
        }
        let compressed = self.functions.rules().gzip && self.compress(status, headers, of, room);
        self.functions.rules().response.iter().for_each(|rule| rule.apply(headers));
        compressed
    }

    fn compress(&self, status: StatusCode, headers: &mut HeaderMap, of: Representation, room: bool) -> bool {
        if !matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
            || !is_compressible(headers, of)
        {
            return false;
        }
        if !headers.get_all(VARY).iter().any(|vary| {
            let vary = String::from_utf8_lossy(vary.as_bytes()).to_ascii_lowercase();
            vary.split(',').any(|name| matches!(name.trim(), "*" | "accept-encoding"))
        }) {
            headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        if !self.gzip || !room || status == StatusCode::PARTIAL_CONTENT {
            return false;
        }
        if let Some(etag) = headers.get(ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")).cloned()
            && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat())
        {
            headers.insert(ETAG, weak);
        }
        for name in OF_STORED.into_iter().chain(httpcache::OF_CONTENT) {
            headers.remove(name);
        }
        if status != StatusCode::OK {
            return false;
        }
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        true
    }
}

/// Whether a body is a text, long enough, that is not compressed yet and may be transformed.
fn is_compressible(headers: &HeaderMap, of: Representation) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase());
    let kind = kind.as_deref().map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
    let text = kind.is_some_and(|kind| kind.starts_with("text/") || TEXTS.contains(&kind.as_str()));
    text && !forbids_transforming(headers) && !of.coded && of.length.is_none_or(|length| length >= LENGTH_MIN)
}

/// RFC 9111 §5.2.1.6, §5.2.2.6.
fn forbids_transforming(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|line| {
        String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase().split(',').any(|d| d.trim() == "no-transform")
    })
}

/// Most bodies that are compressed at a time: each takes some 300 KiB, and further ones go out uncompressed.
pub(crate) const GZIPS_MAX: usize = 512;

/// Bytes that are compressed at once: the output is in memory until the client takes it.
const GZIP_PIECE_BYTES: usize = 32 << 10;

/// Compresses a body as it goes.
pub(crate) struct Gzip {
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Input that is not compressed yet.
    rest: Bytes,
    /// Input was taken since the last flush.
    owes: bool,
    /// One of [`GZIPS_MAX`].
    _held: Held,
}

impl Gzip {
    pub(crate) fn new(held: Held) -> Gzip {
        // Fast rather than small: it is done for every user.
        let encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
        Gzip { encoder, rest: Bytes::new(), owes: false, _held: held }
    }

    /// Takes more input, once [`Gzip::next`] has no more output.
    pub(crate) fn take(&mut self, bytes: Bytes) {
        self.owes |= !bytes.is_empty();
        self.rest = bytes;
    }

    /// The output for the input so far, piece by piece; `None` when more input is needed.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        while !self.rest.is_empty() {
            let piece = self.rest.split_to(self.rest.len().min(GZIP_PIECE_BYTES));
            encoder.write_all(&piece).expect("a vector takes everything");
            if !encoder.get_ref().is_empty() {
                return Some(Bytes::from(std::mem::take(encoder.get_mut())));
            }
        }
        None
    }

    /// Flushes the output for the input so far, while more input is yet to come: a stream of events must not wait for
    /// its end.
    pub(crate) fn so_far(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.as_mut().filter(|_| std::mem::take(&mut self.owes))?;
        encoder.flush().expect("a vector takes everything");
        Some(Bytes::from(std::mem::take(encoder.get_mut()))).filter(|bytes| !bytes.is_empty())
    }

    /// The end of the output; `None` if that was returned already.
    pub(crate) fn end(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.take()?;
        Some(Bytes::from(encoder.finish().expect("a vector takes everything")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Function;
    use std::io::Read;

    /// Headers.
    type Given = &'static [(&'static str, &'static str)];

    fn telling(list: &[(&str, &[(&str, &str)])], accepts: &str) -> Telling {
        let list = list.iter().zip(1..).map(|((name, args), id)| {
            let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Function { id, name: (*name).to_owned(), args, parent: None }
        });
        let list: Vec<Function> = list.collect();
        model::functions::check(&list).unwrap();
        let request: HeaderMap = [(ACCEPT_ENCODING, accepts.parse().unwrap())].into_iter().collect();
        Telling::of(&Functions::new(list), &request).unwrap()
    }

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn texts_go_compressed_to_who_can_read_them() {
        let text = &[("content-type", "text/html; charset=utf-8"), ("etag", "\"x\""), ("content-length", "5000")];
        let cases: &[(&str, u16, Given, u64, bool, bool)] = &[
            // accepts        status  head  length  compressed  varies
            ("gzip, br", 200, text, 5000, true, true),
            ("br", 200, text, 5000, false, true),
            ("gzip;q=0", 200, text, 5000, false, true),
            ("gzip", 200, text, 100, false, false),
            ("gzip", 206, text, 5000, false, true),
            (
                "gzip",
                304,
                &[("content-type", "text/css"), ("etag", "\"x\""), ("repr-digest", "sha-256=:YQ==:")],
                5000,
                false,
                true,
            ),
            ("gzip", 304, text, 100, false, false),
            ("gzip", 404, text, 5000, false, false),
            ("gzip", 200, &[("content-type", "image/png")], 5000, false, false),
            ("gzip", 200, &[("content-type", "text/css"), ("content-encoding", "br")], 5000, false, false),
            ("gzip", 200, &[("content-type", "text/css"), ("cache-control", "no-transform")], 5000, false, false),
            ("gzip", 200, &[("content-type", "application/json"), ("vary", "Accept-Encoding")], 5000, true, true),
            (
                "gzip",
                200,
                &[("content-type", "text/css"), ("cache-control", "no-transform"), ("warmfront-told", "60")],
                5000,
                false,
                false,
            ),
        ];
        for (accepts, status, fields, length, compressed, varies) in cases {
            let mut headers = head(fields);
            let telling = telling(&[("gzip", &[("enable", "on")])], accepts);
            let got = telling.tell(
                StatusCode::from_u16(*status).unwrap(),
                &mut headers,
                Representation::new(&head(fields), Some(*length)),
                true,
            );
            assert_eq!(
                (got, headers.get_all(VARY).iter().count() == 1),
                (*compressed, *varies),
                "{accepts} {fields:?}"
            );
            assert_eq!(headers.get(CONTENT_ENCODING).is_some_and(|coding| coding == "gzip"), *compressed);
            let confirmed = telling.gzip && *status == 304 && *varies;
            assert!(!confirmed || !headers.contains_key("repr-digest"), "of other bytes than he has");
            if *compressed {
                assert!(!headers.contains_key(CONTENT_LENGTH));
                assert!(headers.get(ETAG).is_none_or(|etag| etag == "W/\"x\""), "{headers:?}");
            }
        }
    }

    #[test]
    fn headers_of_the_owner_are_told() {
        let telling = telling(
            &[
                ("set_resp_header", &[("key", "X-Is"), ("value", "here")]),
                ("set_resp_header", &[("key", "Server"), ("value", "null")]),
            ],
            "",
        );
        let mut headers = head(&[("server", "o"), ("warmfront-told", "60"), ("cache-control", "max-age=1")]);
        assert!(!telling.tell(
            StatusCode::OK,
            &mut headers,
            Representation::of(StatusCode::OK, &HeaderMap::new()),
            true
        ));
        assert_eq!((headers["x-is"].as_bytes(), headers.contains_key("server")), (&b"here"[..], false));
        assert_eq!(headers[CACHE_CONTROL], "max-age=60");
        let mut headers = head(&[("warmfront-told", "60"), ("cache-control", "max-age=1, no-transform")]);
        telling.tell(StatusCode::OK, &mut headers, Representation::of(StatusCode::OK, &HeaderMap::new()), true);
        assert_eq!(headers[CACHE_CONTROL], "max-age=60, no-transform");
    }

    fn gzip() -> Gzip {
        Gzip::new(std::sync::Arc::<crate::metrics::Gauge>::default().hold())
    }

    #[test]
    fn what_came_so_far_can_be_read_before_the_end() {
        let mut gzip = gzip();
        let mut sent = Vec::new();
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            gzip.take(Bytes::from_static(event.as_bytes()));
            while let Some(bytes) = gzip.next() {
                sent.extend_from_slice(&bytes);
            }
            sent.extend_from_slice(&gzip.so_far().expect("there is something to tell"));
            assert!(gzip.so_far().is_none(), "it was told");
            let mut read = vec![0; event.len()];
            let mut decoder = flate2::read::GzDecoder::new(sent.as_slice());
            decoder.read_exact(&mut read).expect("the first event is there");
            assert_eq!(read, b"data: 1\n\n");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_compressed_reads_as_it_was(chunks: Vec<Vec<u8>>) {
            let mut gzip = gzip();
            let mut sent = Vec::new();
            for chunk in &chunks {
                gzip.take(Bytes::from(chunk.clone()));
                while let Some(bytes) = gzip.next() {
                    sent.extend_from_slice(&bytes);
                }
            }
            sent.extend_from_slice(&gzip.end().unwrap());
            proptest::prop_assert_eq!(gzip.end(), None);
            let mut read = Vec::new();
            flate2::read::GzDecoder::new(sent.as_slice()).read_to_end(&mut read).unwrap();
            proptest::prop_assert_eq!(read, chunks.concat());
        }
    }
}
