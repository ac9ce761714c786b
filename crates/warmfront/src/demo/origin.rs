//! The demo's origin: an ordinary HTTP server that counts its requests.
//!
//! Its files are generated, or those of a user's folder, which is never written to: a change is an overlay in memory,
//! so that new bytes can be shown without touching a file.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Size of the generated video, in bytes.
const VIDEO_BYTES: u64 = 64 << 20;

/// Number of generated images, and the size of each in bytes.
const IMAGES: u64 = 100;
const IMAGE_BYTES: u64 = 24 << 10;

/// Bytes generated or read at a time.
const PIECE_BYTES: u64 = 64 << 10;

/// Maximum number of files of a user's folder that are served.
const FILES_MAX: usize = 10_000;

/// The source of an object's bytes.
enum Source {
    /// Generated from this seed.
    Made(u64),
    /// A file, which is only read.
    File(PathBuf),
}

struct Object {
    source: Source,
    length: u64,
    content_type: &'static str,
    gets: AtomicU64,
    bytes: AtomicU64,
}

/// The origin's objects and request counts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Origin {
    objects: Arc<BTreeMap<String, Object>>,
    /// Rises with every change; all bytes depend on it.
    version: Arc<AtomicU64>,
}

impl Origin {
    /// The demo's own files.
    pub(crate) fn made_up() -> Origin {
        let mut objects = BTreeMap::new();
        let mut add = |path: String, length, content_type| {
            let seed = objects.len() as u64 + 1;
            objects.insert(path, Object::new(Source::Made(seed), length, content_type));
        };
        add("/index.html".into(), 2_048, "text/html");
        for image in 0..IMAGES {
            add(format!("/img/{image:03}.png"), IMAGE_BYTES + image * 37, "image/png");
        }
        add("/video/a.mp4".into(), VIDEO_BYTES, "video/mp4");
        Origin { objects: Arc::new(objects), version: Arc::default() }
    }

    /// The files below a folder.
    pub(crate) fn of_folder(folder: &Path) -> anyhow::Result<Origin> {
        let mut objects = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(current) = folders.pop() {
            let entries = std::fs::read_dir(&current).with_context(|| format!("read {}", current.display()))?;
            for entry in entries {
                let path = entry?.path();
                let metadata = std::fs::metadata(&path)?;
                if metadata.is_dir() {
                    folders.push(path);
                } else if metadata.is_file() {
                    let relative = path.strip_prefix(folder)?.to_string_lossy().into_owned();
                    let name = percent_encoding::utf8_percent_encode(&relative, PATH).to_string();
                    let object = Object::new(Source::File(path), metadata.len(), "application/octet-stream");
                    objects.insert(format!("/{name}"), object);
                    anyhow::ensure!(
                        objects.len() <= FILES_MAX,
                        "more than {FILES_MAX} files below {}",
                        folder.display()
                    );
                }
            }
        }
        anyhow::ensure!(!objects.is_empty(), "no files below {}", folder.display());
        Ok(Origin { objects: Arc::new(objects), version: Arc::default() })
    }

    /// Serves until `stopping` is cancelled.
    pub(crate) async fn serve(self, listener: TcpListener, stopping: CancellationToken) -> std::io::Result<()> {
        let router = Router::new()
            .route("/_paths", get(paths))
            .route("/_stats", get(stats))
            .route("/_change", post(change))
            .fallback(object)
            .with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).await
    }

    /// Every path.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.objects.keys().cloned().collect()
    }

    /// Number of requests for each path.
    pub(crate) fn gets(&self) -> BTreeMap<String, u64> {
        self.objects.iter().map(|(path, object)| (path.clone(), object.gets.load(Ordering::Relaxed))).collect()
    }

    /// Gives every object new bytes.
    pub(crate) fn change(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Length and SHA-256 of an object's current bytes.
    pub(crate) fn digest(&self, path: &str) -> anyhow::Result<(u64, String)> {
        let object = self.objects.get(path).with_context(|| format!("no object {path}"))?;
        let version = self.version.load(Ordering::Relaxed);
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < object.length {
            let piece = object.piece(version, at)?;
            at += piece.len() as u64;
            hash.update(&piece);
        }
        Ok((object.length, hex::encode(hash.finalize())))
    }
}

/// The characters to escape in a path made from a file's name.
const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'?').add(b'%');

impl Object {
    fn new(source: Source, length: u64, content_type: &'static str) -> Object {
        Object { source, length, content_type, gets: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// The bytes from `at` up to the next piece boundary.
    fn piece(&self, version: u64, at: u64) -> std::io::Result<Bytes> {
        let number = at / PIECE_BYTES;
        let skip = (at % PIECE_BYTES) as usize;
        let length = (self.length - number * PIECE_BYTES).min(PIECE_BYTES) as usize;
        let mut piece = vec![0; length];
        match &self.source {
            Source::Made(seed) => {
                // xorshift: fast, and pieces and versions all differ.
                let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (number << 20) ^ (version << 52) ^ 1;
                for eight in piece.chunks_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    eight.copy_from_slice(&state.to_le_bytes()[..eight.len()]);
                }
            }
            Source::File(path) => {
                let mut file = std::fs::File::open(path)?;
                file.seek(SeekFrom::Start(number * PIECE_BYTES))?;
                file.read_exact(&mut piece)?;
                // The changed bytes exist nowhere but here.
                let mask = version.wrapping_mul(0x5B) as u8;
                piece.iter_mut().for_each(|byte| *byte ^= mask);
            }
        }
        Ok(Bytes::from(piece).slice(skip..))
    }
}

async fn object(State(origin): State<Origin>, method: Method, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let status = |status| Response::builder().status(status).body(Body::empty()).unwrap_or_default();
    let Some(object) = origin.objects.get(uri.path()) else { return status(StatusCode::NOT_FOUND) };
    if method != Method::GET && method != Method::HEAD {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let version = origin.version.load(Ordering::Relaxed);
    let etag = format!("\"{version}-{:x}\"", object.length);
    let response = Response::builder()
        .header(header::CACHE_CONTROL, "max-age=3600")
        .header(header::ETAG, &etag)
        .header(header::CONTENT_TYPE, object.content_type)
        .header(header::ACCEPT_RANGES, "bytes");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|wanted| wanted.as_bytes() == etag.as_bytes()) {
        return response.status(StatusCode::NOT_MODIFIED).body(Body::empty()).unwrap_or_default();
    }
    // A broken fetch continues where it ended; other ranges are answered with the whole body.
    let from = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok())
        .filter(|from| *from < object.length);
    let response = match from {
        Some(from) => response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{}", object.length - 1, object.length)),
        None => response,
    };
    let from = from.unwrap_or(0);
    let response = response.header(header::CONTENT_LENGTH, object.length - from);
    if method == Method::HEAD {
        return response.body(Body::empty()).unwrap_or_default();
    }
    object.gets.fetch_add(1, Ordering::Relaxed);
    let path = uri.path().to_owned();
    let origin = origin.clone();
    let pieces = futures_util::stream::try_unfold(from, move |at| {
        let piece = origin.objects.get(&path).filter(|object| at < object.length).map(|object| {
            let piece = object.piece(version, at)?;
            object.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok::<_, std::io::Error>((piece.clone(), at + piece.len() as u64))
        });
        std::future::ready(piece.transpose())
    });
    response.body(Body::from_stream(pieces)).unwrap_or_default()
}

async fn paths(State(origin): State<Origin>) -> Result<String, StatusCode> {
    let listing = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        for path in origin.paths() {
            let (length, digest) = origin.digest(&path)?;
            text.push_str(&format!("{path} {length} {digest}\n"));
        }
        anyhow::Ok(text)
    });
    listing.await.ok().and_then(Result::ok).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
}

async fn stats(State(origin): State<Origin>) -> axum::Json<serde_json::Value> {
    let stats = origin.objects.iter().map(|(path, object)| {
        let (gets, bytes) = (object.gets.load(Ordering::Relaxed), object.bytes.load(Ordering::Relaxed));
        (path.clone(), serde_json::json!({ "gets": gets, "bytes": bytes }))
    });
    axum::Json(serde_json::Value::Object(stats.collect()))
}

async fn change(State(origin): State<Origin>) -> StatusCode {
    origin.change();
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_from_anywhere_are_of_one_body() {
        let object = Object::new(Source::Made(7), 150_000, "x");
        let mut whole = Vec::new();
        while (whole.len() as u64) < object.length {
            whole.extend_from_slice(&object.piece(0, whole.len() as u64).unwrap());
        }
        for at in [1_u64, 65_535, 65_536, 149_999] {
            let piece = object.piece(0, at).unwrap();
            assert_eq!(piece, whole[at as usize..at as usize + piece.len()], "from {at}");
        }
        assert_ne!(object.piece(0, 0).unwrap(), object.piece(1, 0).unwrap(), "a change gives new bytes");
    }
}
