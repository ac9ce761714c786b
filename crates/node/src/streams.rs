//! Requests over HTTP/2, each a stream of the `h2` library.
//!
//! hyper's server is not used here: it can send no interim answers (RFC 9110 §15.2), which browsers take by HTTP/2
//! alone, and does not tell how much memory its streams hold.
//!
//! # What always holds
//!
//! - A stream is answered where its request arrived, and becomes a task only if it has to wait, because most are hits
//!   that wait for nothing.
//! - Streams that wait hold at most [`WAITING_BYTES_MAX`] together. One for which there is no room is answered 503, or
//!   reset if its answer has begun; hits that need not wait go on.
//! - A client that says nothing for [`PING_EVERY`] is sent a PING, and its connection ends if it then says nothing for
//!   [`PONG_MAX`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::access::Record;
use crate::connection::Connection;
use crate::exchange::Exchange;
use crate::framing::{self, HEAD_BYTES_MAX};
use crate::interim::Interims;
use crate::listener::{Handoff, REQUESTS_MAX};
use crate::metrics::{Held, Metrics, Refusal};
use crate::network::Stream;
use crate::respond::AnswerBody;

/// Requests at a time on one connection.
pub(crate) const STREAMS_MAX: u32 = 128;

/// Most streams of one connection that were reset by the client before they were accepted, and by this node for the
/// client's errors in them; beyond that the connection ends.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_FOR_ERRORS_MAX: usize = 128;

/// Bytes of answers that one stream may hold ready to be sent.
const STREAM_BUFFER_BYTES: usize = 64 << 10;

/// Bytes of request bodies that one stream, and a whole connection, may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// How long a client may be silent before it is sent a PING, and after it.
const PING_EVERY: Duration = Duration::from_secs(45);
const PONG_MAX: Duration = Duration::from_secs(20);

/// Most memory of all streams that wait, in bytes, and what one takes beside the header of its request. The bounds of
/// connections, streams and headers do not suffice: together they allow 160 GiB.
pub(crate) const WAITING_BYTES_MAX: u64 = 512 << 20;
pub(crate) const WAITING_STREAM_BYTES: u64 = 8 << 10;

/// The body of a request, from either version of HTTP.
pub(crate) enum Content {
    Http1(Incoming),
    /// With the bytes to come, if that is known.
    Http2(RecvStream, Option<u64>),
}

impl Content {
    fn of_stream(request: Request<RecvStream>) -> Request<Content> {
        let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        request.map(|stream| Content::Http2(stream, length))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Content::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Content::Http2(stream, left) => Poll::Ready(match ready!(stream.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // An error here means that the stream has ended, which the next poll tells.
                    let _ = stream.flow_control().release_capacity(bytes.len());
                    *left = left.map(|left| left.saturating_sub(bytes.len() as u64));
                    Some(Ok(Frame::data(bytes)))
                }
                // RFC 9113 §8.1: a client that wants no more of its request to be read is not at fault.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => None,
                Some(Err(error)) => Some(Err(error.into())),
                None => None, // trailers are not passed on
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Content::Http1(body) => body.is_end_stream(),
            Content::Http2(stream, _) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Content::Http1(body) => body.size_hint(),
            Content::Http2(_, left) => left.map(SizeHint::with_exact).unwrap_or_default(),
        }
    }
}

/// The settings of every connection.
pub(crate) fn settings() -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(Some(RESETS_FOR_ERRORS_MAX))
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(STREAM_BUFFER_BYTES);
    settings
}

/// Serves a connection to its end; once the node is draining, its client is asked to open another.
pub(crate) async fn serve<S: Stream>(
    io: Connection<S>,
    settings: &Builder,
    handoff: Arc<Handoff>,
) -> Result<(), h2::Error> {
    let mut connection = settings.handshake::<_, Bytes>(io).await?;
    let mut alive = connection.ping_pong().map(|pings| Alive::new(pings, handoff.clone()));
    let mut left = pin!(handoff.front.draining.cancelled());
    let mut leaves = false;
    loop {
        let accepted = std::future::poll_fn(|cx| {
            loop {
                if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                    return Poll::Ready(accepted);
                }
                if alive.as_mut().is_some_and(|alive| alive.poll(cx).is_ready()) {
                    return Poll::Ready(None);
                }
                if leaves || left.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                leaves = true;
                connection.graceful_shutdown();
            }
        });
        let Some(accepted) = accepted.await else { return Ok(()) };
        let (request, respond) = accepted?;
        let mut stream = Box::pin(answer(handoff.clone(), request, respond));
        // One that has to wait is polled once more as a task, because that is what must be woken.
        if stream.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(stream);
        }
        if handoff.turn.begun() >= REQUESTS_MAX && !leaves {
            leaves = true;
            connection.graceful_shutdown();
        }
    }
}

/// Whether a client is still there.
struct Alive {
    pings: PingPong,
    handoff: Arc<Handoff>,
    /// When the client had last sent something as it was sent a PING.
    asked: Option<Instant>,
    look: Pin<Box<Sleep>>,
}

impl Alive {
    fn new(pings: PingPong, handoff: Arc<Handoff>) -> Alive {
        Alive { pings, handoff, asked: None, look: Box::pin(tokio::time::sleep(PING_EVERY)) }
    }

    /// Ready when the client is taken to be gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.look.as_mut().poll(cx));
            let (now, heard) = (Instant::now(), self.handoff.heard());
            if self.asked.take() == Some(heard) {
                return Poll::Ready(());
            }
            let mut next = heard + PING_EVERY;
            if next <= now {
                // The answer to an earlier one is taken first, or no other could be sent.
                let _ = self.pings.poll_pong(cx);
                let _ = self.pings.send_ping(Ping::opaque());
                self.asked = Some(heard);
                next = now + PONG_MAX;
            }
            self.look.as_mut().reset(next);
        }
    }
}

/// The room that a stream takes while it waits.
struct Room<'a> {
    metrics: &'a Metrics,
    bytes: u64,
    held: Option<Held>,
}

impl Room<'_> {
    /// Takes the room unless it is taken already; `false` if there is none.
    fn take(&mut self) -> bool {
        if self.held.is_none() {
            self.held = self.metrics.streams_waiting_bytes.hold_some_below(self.bytes, WAITING_BYTES_MAX);
            if self.held.is_none() {
                self.metrics.refused(Refusal::Streams);
            }
        }
        self.held.is_some()
    }
}

/// Answers one request.
async fn answer(handoff: Arc<Handoff>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let front = handoff.front.clone();
    let now = front.pipeline.knowing().clock().now();
    let exchange = Exchange::begin(handoff.clone(), now, || Record::of(&request));
    let mut room = Room {
        metrics: front.pipeline.metrics(),
        bytes: WAITING_STREAM_BYTES + framing::bytes(request.headers()) as u64,
        held: None,
    };
    let method = request.method().clone();
    let interims = Arc::new(Interims::default());
    let answered = {
        let request = Content::of_stream(request);
        let handled = front.pipeline.handle(request, handoff.clone(), Some(interims.clone()), exchange.counted());
        let mut handled = pin!(handled);
        let until = |cx: &mut Context<'_>| {
            if let Poll::Ready(answer) = handled.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if !room.take() {
                return Poll::Ready(Some(AnswerBody::overloaded(&handoff, method.clone())));
            }
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            for interim in interims.next(cx.waker(), false) {
                // An error means that the stream has ended, which the next poll tells.
                let _ = respond.send_informational(interim);
            }
            Poll::Pending
        };
        std::future::poll_fn(until).await
    };
    // A client that left is told nothing.
    let Some(answered) = answered else { return };
    let (head, body) = exchange.answer(answered).into_parts();
    let mut head = Response::from_parts(head, ());
    interims.close();
    for interim in interims.next(Waker::noop(), true) {
        let _ = respond.send_informational(interim);
    }
    let ended = body.is_end_stream();
    complete(&mut head, (!ended).then(|| body.size_hint().exact()).flatten(), now);
    match respond.send_response(head, ended) {
        Ok(_) if ended => {}
        Ok(mut stream) => pour(body, &mut stream, &mut room).await,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "answer a stream");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Adds the fields that an answer may lack: its date (RFC 9110 §6.6.1), and its length.
fn complete(head: &mut Response<()>, length: Option<u64>, now: SystemTime) {
    let headers = head.headers_mut();
    if !headers.contains_key(DATE) {
        let date = HeaderValue::try_from(httpdate::fmt_http_date(now));
        headers.insert(DATE, date.expect("a date is ASCII"));
    }
    if let Some(length) = length
        && !headers.contains_key(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// Sends a body, as the client's windows allow it.
async fn pour(mut body: AnswerBody, stream: &mut SendStream<Bytes>, room: &mut Room<'_>) {
    loop {
        let next = |cx: &mut Context<'_>| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending if !room.take() => Poll::Ready(None),
            Poll::Pending => stream.poll_reset(cx).map(|_| None),
        };
        let sent = match std::future::poll_fn(next).await {
            Some(Some(Ok(frame))) => {
                let last = body.is_end_stream();
                let bytes = frame.into_data().unwrap_or_default();
                if !bytes.is_empty() && !has_window(stream, room).await {
                    return stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                }
                match stream.send_data(bytes, last) {
                    Ok(()) if !last => continue,
                    sent => sent,
                }
            }
            Some(None) => stream.send_data(Bytes::new(), true),
            Some(Some(Err(error))) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "body of a stream");
                return stream.send_reset(Reason::INTERNAL_ERROR);
            }
            // The client left, or there is no room for it.
            None => return stream.send_reset(Reason::ENHANCE_YOUR_CALM),
        };
        if let Err(error) = sent {
            tracing::debug!(error = &error as &dyn std::error::Error, "send on a stream");
        }
        return;
    }
}

/// Waits until the client's windows let something be sent; `false` if it left, or there is no room for waiting.
async fn has_window(stream: &mut SendStream<Bytes>, room: &mut Room<'_>) -> bool {
    // One byte is asked for and not all of them: a stream that waits would keep that much of the connection's window
    // from others.
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        let more = |cx: &mut Context<'_>| match stream.poll_capacity(cx) {
            Poll::Ready(more) => Poll::Ready(matches!(more, Some(Ok(_)))),
            Poll::Pending if !room.take() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        };
        if !std::future::poll_fn(more).await {
            return false;
        }
    }
    true
}
