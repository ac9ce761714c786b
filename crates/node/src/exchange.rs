//! One request and its answer, from the head that came to the last byte that left. Metrics and the access log are
//! written from it.
//!
//! It is made when the request's head is there, and travels with the answer's body. When it is dropped the exchange is
//! over, however it ended, and is counted and logged; the figures of a domain count the same values that are logged.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Response, StatusCode};
use model::UrlKey;
use tokio::time::Instant;

use crate::access::{self, Ending, Record};
use crate::figures::{Ended, Slot};
use crate::listener::Handoff;
use crate::metrics::{Held, XCache};
use crate::respond::AnswerBody;

/// Identifies a request to its user and in the access log.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The status that the access log gives for a client that left before it was answered.
const CLIENT_LEFT: u16 = 499;

/// The ID of a request: node, thread and start, and how many requests came before; 24 hexadecimal digits.
#[derive(Clone, Copy)]
pub(crate) struct RequestId([u8; 24]);

impl RequestId {
    /// `of` stands for node, thread and start; 48 bits of it are used, and 48 of the number of the request.
    pub(crate) fn new(of: u64, number: u64) -> RequestId {
        let mut text = [0; 24];
        for (part, digits) in [of, number].into_iter().zip(text.chunks_exact_mut(12)) {
            hex::encode_to_slice(&part.to_be_bytes()[2..], digits).expect("six bytes are twelve digits");
        }
        RequestId(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn value(&self) -> HeaderValue {
        let mut value = HeaderValue::from_bytes(&self.0).expect("digits make a header value");
        // It is no secret, but this keeps it out of HPACK's table (RFC 7541 §7.1.3): it never repeats, and would evict
        // fields that do.
        value.set_sensitive(true);
        value
    }
}

/// A request while it is answered.
pub(crate) struct Exchange {
    handoff: Arc<Handoff>,
    id: RequestId,
    begun: Instant,
    /// The same by the wall clock.
    at: SystemTime,
    record: Option<Record>,
    counted: OnceLock<Counted>,
    answered: Option<Answered>,
    bytes: u64,
    complete: bool,
    /// The node owes the next step; otherwise the client does, which has to read the bytes that are there.
    ours: bool,
    _running: Held,
}

/// The domain whose figures a user's request counts for.
pub(crate) struct Counted {
    pub(crate) slot: Slot,
    /// The URL without a signature.
    pub(crate) url: UrlKey,
    /// The hash in its signature: kept out of the log, because it would let others in.
    pub(crate) hash: Option<String>,
}

struct Answered {
    status: StatusCode,
    result: Option<XCache>,
    after: Duration,
}

impl Exchange {
    /// Begins an exchange at the moment `at`; `record` renders the request for the access log.
    pub(crate) fn begin(handoff: Arc<Handoff>, at: SystemTime, record: impl FnOnce() -> Record) -> Exchange {
        handoff.turn.begins();
        if handoff.secure {
            handoff.metrics().handshakes.requests.inc();
        }
        Exchange {
            id: handoff.request_id(),
            begun: Instant::now(),
            at,
            record: handoff.front.log.as_ref().map(|_| record()),
            counted: OnceLock::new(),
            answered: None,
            bytes: 0,
            complete: false,
            ours: true,
            _running: handoff.metrics().requests_running.hold(),
            handoff,
        }
    }

    /// The connection it came on.
    pub(crate) fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }

    /// The domain it counts for, once that is known.
    pub(crate) fn counted(&self) -> &OnceLock<Counted> {
        &self.counted
    }

    /// Counts the answer, whose head is ready.
    pub(crate) fn answers(&mut self, status: StatusCode, result: Option<XCache>) {
        let after = self.begun.elapsed();
        self.handoff.metrics().answered(result, status, after);
        self.answered = Some(Answered { status, result, after });
    }

    /// The same for an answer that hyper or h2 writes: it also gets the request's ID, and its body takes the exchange
    /// along.
    pub(crate) fn answer(mut self, mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
        self.answers(answer.status(), answer.body().result);
        answer.headers_mut().insert(REQUEST_ID, self.id.value());
        self.complete = hyper::body::Body::is_end_stream(answer.body());
        self.turns(self.complete);
        answer.body_mut().exchange = Some(self);
        answer
    }

    /// Bytes of the body were handed to the connection.
    pub(crate) fn gave(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.handoff.turn.moves();
        self.turns(true);
    }

    /// The body waits for the store, a parent or the origin.
    pub(crate) fn waits(&mut self) {
        self.turns(false);
    }

    /// The body came to its end.
    pub(crate) fn ends(&mut self) {
        self.complete = true;
    }

    fn turns(&mut self, to_client: bool) {
        if self.ours == to_client {
            self.ours = !to_client;
            self.handoff.turn.owes(self.ours);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.turns(true);
        self.handoff.turn.ends();
        let duration = self.begun.elapsed();
        let result = self.answered.as_ref().and_then(|answered| answered.result);
        if self.answered.is_some() {
            self.handoff.metrics().ended(result, duration);
        }
        let status = self.answered.as_ref().map_or(CLIENT_LEFT, |answered| answered.status.as_u16());
        if let (Some(record), Some(Counted { hash: Some(hash), .. })) = (&mut self.record, self.counted.get()) {
            record.hide(hash);
        }
        if let Some(Counted { slot, url, .. }) = self.counted.get() {
            self.handoff.front.pipeline.figures().count(&Ended {
                slot: *slot,
                url,
                at: self.at,
                origin: false,
                secure: self.handoff.secure,
                status,
                bytes: self.bytes,
                hit: result == Some(XCache::Hit),
            });
        }
        if let (Some(log), Some(record)) = (&self.handoff.front.log, &self.record) {
            let knowing = self.handoff.front.pipeline.knowing();
            let ending = Ending {
                at: self.at,
                status,
                bytes: self.bytes,
                duration,
                first_byte: self.answered.as_ref().map(|answered| answered.after),
                result,
                complete: self.complete,
                counted: self.counted.get().is_some(),
            };
            let client =
                self.handoff.logged.get_or_init(|| access::Client::new(self.handoff.client, self.handoff.secure));
            log.line(record, client, knowing.name().as_str(), self.id.as_str(), &ending);
        }
    }
}
