//! Interim answers (RFC 9110 §15.2) of an origin, on the way to the user whose request made this node ask.
//!
//! hyper's client reports them, its server has no way to send them. So an HTTP/1.1 connection writes them itself,
//! between hyper's writes, and a stream of HTTP/2 sends them while it waits; until then they wait here.
//!
//! # What always holds
//!
//! - An interim answer is sent for the request that caused it, before the first byte of that request's answer, or not
//!   at all.
//! - It is not stored and says nothing of a body, so the fence does not apply to it.
//! - At most [`REQUEST_BYTES_MAX`] are sent for one request; those that do not fit are dropped, and counted.
//!
//! # Not here
//!
//! Requests that joined the fetch of another, which did not cause the interim answer.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Waker;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};

use crate::framing;
use crate::listener::Handoff;
use crate::peer;

/// Bytes of the interim answers to one request. An origin that sends more sends them to a client that may read nothing.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Bytes that an interim answer counts beside its fields.
const HEAD_BYTES: usize = 64;

/// Where interim answers to one request go.
#[derive(Clone)]
pub(crate) struct Interim {
    to: To,
    request: u64,
}

#[derive(Clone)]
enum To {
    /// An HTTP/1.1 connection.
    Connection(Weak<Handoff>),
    /// A stream of HTTP/2, on this connection.
    Stream(Weak<Interims>, Weak<Handoff>),
}

impl Interim {
    /// For the request of a stream.
    pub(crate) fn of_stream(stream: &Arc<Interims>, handoff: &Arc<Handoff>) -> Interim {
        stream.pending().begin(0);
        Interim { to: To::Stream(Arc::downgrade(stream), Arc::downgrade(handoff)), request: 0 }
    }

    /// For request number `request` of an HTTP/1.1 connection, which gets them from now on.
    pub(crate) fn of_connection(handoff: &Arc<Handoff>, request: u64) -> Interim {
        handoff.interims.pending().begin(request);
        Interim { to: To::Connection(Arc::downgrade(handoff)), request }
    }

    /// Takes an interim answer that came.
    pub(crate) fn came(&self, status: StatusCode, headers: &HeaderMap) {
        let head = head(status, headers);
        let (passed, handoff) = match &self.to {
            To::Connection(handoff) => {
                let Some(handoff) = handoff.upgrade() else { return };
                (handoff.interims.take(self.request, head), handoff)
            }
            To::Stream(stream, handoff) => {
                let (Some(stream), Some(handoff)) = (stream.upgrade(), handoff.upgrade()) else { return };
                (stream.take(self.request, head), handoff)
            }
        };
        let metrics = handoff.metrics();
        if passed { metrics.interims.inc() } else { metrics.interims_dropped.inc() }
    }
}

/// The interim answers of an HTTP/1.1 connection, or of a stream of HTTP/2, that are not written yet.
#[derive(Default)]
pub(crate) struct Interims(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    /// The request that takes them, until its answer begins.
    open: Option<u64>,
    heads: Vec<Response<()>>,
    /// Bytes of all that were taken for the request.
    bytes: usize,
    /// The connection or the stream.
    waker: Option<Waker>,
}

impl Pending {
    fn begin(&mut self, request: u64) {
        self.bytes = if self.open == Some(request) { self.bytes } else { 0 };
        self.open = Some(request);
    }
}

impl Interims {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// Notes that the answer begins: interim answers that came earlier are written before it, no more are taken.
    pub(crate) fn close(&self) {
        self.pending().open = None;
    }

    fn take(&self, request: u64, head: Response<()>) -> bool {
        let mut pending = self.pending();
        let bytes = pending.bytes + HEAD_BYTES + framing::bytes(head.headers());
        if pending.open != Some(request) || bytes > REQUEST_BYTES_MAX {
            return false;
        }
        pending.bytes = bytes;
        pending.heads.push(head);
        if let Some(waker) = pending.waker.take() {
            waker.wake();
        }
        true
    }

    /// Those to write now; `waker` is woken when there are more. `late` means that the beginning of the answer may
    /// have been written, after which interim answers to its request are dropped.
    pub(crate) fn next(&self, waker: &Waker, late: bool) -> Vec<Response<()>> {
        let mut pending = self.pending();
        if late && pending.open.is_none() {
            pending.heads.clear();
        }
        if pending.open.is_some() && !pending.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            pending.waker = Some(waker.clone());
        }
        std::mem::take(&mut pending.heads)
    }
}

/// An interim answer as it is passed on.
fn head(status: StatusCode, headers: &HeaderMap) -> Response<()> {
    let mut headers = httpcache::end_to_end(headers);
    peer::strip(&mut headers);
    headers.remove(CONTENT_LENGTH); // RFC 9110 §8.6
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    head
}

/// An interim answer as HTTP/1.1 writes it (RFC 9112 §4).
pub(crate) fn written(interim: &Response<()>) -> Vec<u8> {
    let status = interim.status();
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in interim.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}
