//! Interim answers (RFC 9110 §15.2) of an origin, on the way to the user whose request made this node ask.
//!
//! hyper's client reports them, its server has no way to send them. So an HTTP/1.1 connection writes them itself,
//! between hyper's writes; until then they wait here.
//!
//! # What always holds
//!
//! - An interim answer is sent for the request that caused it, before the first byte of that request's answer, or not
//!   at all.
//! - It is not stored and says nothing of a body, so the fence does not apply to it.
//! - At most [`PENDING_BYTES_MAX`] wait for a connection; those that do not fit are dropped, and counted.
//!
//! # Not here
//!
//! HTTP/2, whose streams hyper's server does not expose; and requests that joined the fetch of another, which did not
//! cause the interim answer.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Waker;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

use crate::listener::Handoff;
use crate::peer;

/// Bytes of interim answers that wait for one connection.
const PENDING_BYTES_MAX: usize = 16 << 10;

/// Where interim answers to one request go.
#[derive(Clone)]
pub(crate) struct Interim {
    to: Weak<Handoff>,
    request: u64,
}

impl Interim {
    /// Takes an interim answer that came.
    pub(crate) fn came(&self, status: StatusCode, headers: &HeaderMap) {
        let Some(handoff) = self.to.upgrade() else { return };
        let passed = handoff.interims.take(self.request, &head(status, headers));
        let metrics = handoff.metrics();
        if passed { metrics.interims.inc() } else { metrics.interims_dropped.inc() }
    }
}

/// The interim answers of a connection that are not written yet.
#[derive(Default)]
pub(crate) struct Interims(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    /// The request that takes them, until its answer begins.
    open: Option<u64>,
    bytes: Vec<u8>,
    /// The connection.
    waker: Option<Waker>,
}

impl Interims {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    /// Request number `request` of a connection takes them from now on.
    pub(crate) fn open(&self, to: &Arc<Handoff>, request: u64) -> Interim {
        self.pending().open = Some(request);
        Interim { to: Arc::downgrade(to), request }
    }

    /// Notes that the answer begins: interim answers that came earlier are written before it, no more are taken.
    pub(crate) fn close(&self) {
        self.pending().open = None;
    }

    fn take(&self, request: u64, head: &[u8]) -> bool {
        let mut pending = self.pending();
        if pending.open != Some(request) || pending.bytes.len() + head.len() > PENDING_BYTES_MAX {
            return false;
        }
        pending.bytes.extend_from_slice(head);
        if let Some(waker) = pending.waker.take() {
            waker.wake();
        }
        true
    }

    /// The bytes to write now; `waker` is woken when there are more. `late` means that the beginning of the answer may
    /// have been written, after which interim answers to its request are dropped.
    pub(crate) fn next(&self, waker: &Waker, late: bool) -> Vec<u8> {
        let mut pending = self.pending();
        if late && pending.open.is_none() {
            pending.bytes.clear();
        }
        if pending.open.is_some() && !pending.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            pending.waker = Some(waker.clone());
        }
        std::mem::take(&mut pending.bytes)
    }
}

/// The head of an interim answer, as it is written (RFC 9112 §4).
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut headers = httpcache::end_to_end(headers);
    peer::strip(&mut headers);
    headers.remove(CONTENT_LENGTH); // RFC 9110 §8.6
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in &headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}
