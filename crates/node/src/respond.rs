//! Builds answers: the node's headers, the requested part of the body, and the body as the connection reads it.
//!
//! # What always holds
//!
//! - A judged answer carries its judgement until its header is written to the connection (rule 6).
//! - A body has the announced length or ends in an error, which closes the connection or resets the stream.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    AGE, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
    RETRY_AFTER, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use httpcache::{CacheStatus, Forward};
use hyper::body::{Body, Frame, SizeHint};
use model::NodeName;
use model::fence::Asker;
use model::functions::Forced;
use tokio::time::{Instant, Sleep};

use crate::exchange::Exchange;
use crate::figures::FromAbove;
use crate::fill::{ArrivedBody, Reading};
use crate::framing::Bad;
use crate::functions::access::Refused;
use crate::functions::reply::{GZIPS_MAX, Gzip, Representation, Telling};
use crate::head::Head;
use crate::interim::{Interim, Interims};
use crate::knowing::Judging;
use crate::listener::Handoff;
use crate::metrics::{self, XCache};
use crate::parts::Parts;
use crate::peer;
use crate::upstream::{AskError, BODY_SILENCE_MAX};

pub(crate) const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// `Retry-After` of a 503, in seconds.
const RETRY_AFTER_SECS: u64 = 2;

/// How one request is to be answered.
pub(crate) struct Reply {
    pub(crate) method: Method,
    /// For a child that validates its body: identifies the origin's answer that this body is a copy of.
    pub(crate) copy: Option<u64>,
    pub(crate) asker: Asker,
    /// The changes that the domain's functions make to a user's answer.
    pub(crate) telling: Option<Telling>,
    pub(crate) handoff: Arc<Handoff>,
    /// The client can be sent interim answers on its HTTP/1.1 connection.
    pub(crate) informed: bool,
    /// The interim answers of its stream.
    pub(crate) stream: Option<Arc<Interims>>,
}

/// The content of `X-Cache`, `Cache-Status` and the fields for children in an answer.
pub(crate) struct Said {
    pub(crate) result: metrics::XCache,
    /// The parent's `X-Cache`, where that is passed on.
    pub(crate) x_cache: Option<HeaderValue>,
    pub(crate) outcome: httpcache::Outcome,
    pub(crate) stored: bool,
    pub(crate) collapsed: bool,
    /// How long ago the body was known good, for a child.
    pub(crate) known_good: Option<Duration>,
    /// Seconds for which a stored body is still fresh.
    pub(crate) ttl: Option<i64>,
}

impl Said {
    /// An answer from this node's store.
    pub(crate) fn hit(known_good: Option<Duration>) -> Said {
        Said {
            result: metrics::XCache::Hit,
            x_cache: None,
            outcome: httpcache::Outcome::Hit,
            stored: false,
            collapsed: false,
            known_good,
            ttl: None,
        }
    }

    /// An answer for which a parent or the origin was asked.
    pub(crate) fn forwarded(
        result: metrics::XCache,
        why: Forward,
        status: Option<StatusCode>,
        known_good: Option<Duration>,
    ) -> Said {
        let outcome = httpcache::Outcome::Forwarded { why, status };
        Said { result, x_cache: None, outcome, stored: false, collapsed: false, known_good, ttl: None }
    }
}

impl Reply {
    /// Where interim answers to this request go, if the client can be sent any.
    pub(crate) fn interim(&self) -> Option<Interim> {
        let handoff = &self.handoff;
        match &self.stream {
            Some(stream) => Some(Interim::of_stream(stream, handoff)),
            None => self.informed.then(|| Interim::of_connection(handoff, handoff.turn.begun())),
        }
    }

    /// An answer from a stored or growing body, after it was judged: whole, a part, or without a body.
    pub(crate) fn stored(
        &self,
        request: &HeaderMap,
        head: &Head,
        body: &ArrivedBody,
        now: SystemTime,
        said: Said,
        judging: Judging,
    ) -> Response<AnswerBody> {
        let length = match body {
            ArrivedBody::Growing(_, length) => *length,
            ArrivedBody::Stored(object) => Some(object.length()),
            ArrivedBody::Sliced(body) => Some(body.series.length),
        };
        let (answer, of) = self.selected(request, head, length);
        let (status, mut headers) = answer.head(head.status, &head.headers, length);
        let refused = matches!(answer, httpcache::Answer::PreconditionFailed | httpcache::Answer::Unsatisfiable);
        if !refused {
            headers.insert(AGE, HeaderValue::from(head.freshness.age(now).as_secs()));
        }
        let source = match (answer, length) {
            (httpcache::Answer::Parts(parts), Some(length)) => {
                let parts = Parts::new(&parts, &mut headers, length, body.clone());
                if self.method == Method::HEAD { Source::Empty } else { Source::Parts(parts) }
            }
            _ if self.method == Method::HEAD || refused => Source::Empty,
            (httpcache::Answer::Part(range), _) => Source::Read(body.read(range), Some(range.length())),
            (httpcache::Answer::Whole, length) => match body {
                ArrivedBody::Growing(follower, _) => Source::Read(Reading::Store(follower.read(0, length)), length),
                ArrivedBody::Stored(object) => match object.body().filter(|_| !self.handoff.store().is_short()) {
                    Some(bytes) => Source::Full(bytes.clone()),
                    None => Source::Read(Reading::Store(object.read(0..object.length())), length),
                },
                ArrivedBody::Sliced(body) => Source::Read(Reading::Slices(body.read(0..body.series.length)), length),
            },
            _ => Source::Empty,
        };
        let said = Said { ttl: Some(head.freshness.ttl(now)), ..said };
        let mut answer = self.finish(status, headers, source, Some((&said, of)), Some(judging));
        if let Asker::Child { .. } = self.asker {
            peer::tell_refetch(answer.headers_mut(), head.refetch);
            peer::tell_copy(answer.headers_mut(), head.copy);
        }
        answer
    }

    /// What a request selects of a body of `length` bytes, and the representation that it selects from.
    pub(crate) fn selected(
        &self,
        request: &HeaderMap,
        head: &Head,
        length: Option<u64>,
    ) -> (httpcache::Answer, Representation) {
        let of = Representation::new(&head.headers, length);
        let compresses = self.telling.as_ref().is_some_and(|telling| telling.compresses(&head.headers, of));
        let request = match self.copy {
            // The child's body is not a copy of this one, whatever its validators say.
            Some(copy) if copy != head.copy || copy == 0 => Cow::Owned(unconditional(request)),
            _ if compresses => strongly(request),
            _ => Cow::Borrowed(request),
        };
        (httpcache::answer(&self.method, &request, head.status, &head.headers, length), of)
    }

    /// An answer that is passed on as it comes. `judging` is there for bodies that the fence covers.
    pub(crate) fn passed(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        body: FromAbove,
        said: &Said,
        judging: Option<Judging>,
    ) -> Response<AnswerBody> {
        let source = if self.method == Method::HEAD || body.is_end_stream() {
            Source::Empty
        } else {
            Source::Upstream(body, Box::pin(tokio::time::sleep(BODY_SILENCE_MAX)))
        };
        let of = Representation::of(status, &headers);
        self.finish(status, headers, source, Some((said, of)), judging)
    }

    /// Confirms the client's copy, by an answer for its request alone.
    pub(crate) fn confirmed(
        &self,
        status: StatusCode,
        headers: HeaderMap,
        said: &Said,
        judging: Judging,
    ) -> Response<AnswerBody> {
        let of = Representation::of(status, &headers);
        self.finish(status, headers, Source::Empty, Some((said, of)), Some(judging))
    }

    /// An answer that this node makes itself because it has no other.
    pub(crate) fn refusal(&self, status: StatusCode, words: &str) -> Response<AnswerBody> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        let body = Bytes::from(format!("{words}\n"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let head = self.method == Method::HEAD;
        let source = if head { Source::Empty } else { Source::Full(body) };
        self.finish(status, headers, source, None, None)
    }

    /// The answer to a user whom the domain's rules refuse.
    pub(crate) fn denied(&self, refused: Refused) -> Response<AnswerBody> {
        match refused {
            Refused::Forbidden(why) => self.refusal(StatusCode::FORBIDDEN, why),
            Refused::Elsewhere(url) => self.sent_to(StatusCode::FOUND, "this page may not link here", url),
        }
    }

    /// Redirects a user who came by the wrong scheme.
    pub(crate) fn by_the_other_scheme(&self, forced: Forced, host: &str, path: &str) -> Response<AnswerBody> {
        let status = if forced.status == 308 { StatusCode::PERMANENT_REDIRECT } else { StatusCode::MOVED_PERMANENTLY };
        let scheme = if forced.https { "https" } else { "http" };
        self.sent_to(status, "this site is served by the other scheme", format!("{scheme}://{host}{path}"))
    }

    /// Redirects a user to another URL; one that begins with `/` is a path of this site.
    pub(crate) fn elsewhere(&self, status: u16, authority: &str, to: &str) -> Response<AnswerBody> {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND);
        let scheme = if self.handoff.secure { "https" } else { "http" };
        // An absolute URL, because a path that begins with two slashes would name another site.
        let url = if to.starts_with('/') { format!("{scheme}://{authority}{to}") } else { to.to_owned() };
        self.sent_to(status, "it is somewhere else", url)
    }

    fn sent_to(&self, status: StatusCode, words: &str, url: String) -> Response<AnswerBody> {
        let mut answer = self.refusal(status, words);
        if let Ok(url) = HeaderValue::try_from(url) {
            answer.headers_mut().insert(LOCATION, url);
        }
        answer
    }

    /// The answer to a node that asks whether this one is alive.
    pub(crate) fn alive(&self) -> Response<AnswerBody> {
        self.finish(StatusCode::NO_CONTENT, HeaderMap::new(), Source::Empty, None, None)
    }

    /// The answer to a request that is refused, or whose body did not come; the connection is closed after it, because
    /// it is not known where the next request begins.
    pub(crate) fn bad(&self, bad: Bad) -> Response<AnswerBody> {
        self.handoff.metrics().refused(bad.why);
        let mut answer = self.refusal(bad.status, bad.words);
        if !self.handoff.is_http2() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// The answer to a client when there is none from above.
    pub(crate) fn unanswered(&self, error: &AskError) -> Response<AnswerBody> {
        let (status, words, origin) = match error {
            AskError::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the origin did not answer in time", Some("timeout")),
            AskError::Unreachable(_) => {
                (StatusCode::BAD_GATEWAY, "the origin could not be reached", Some("unreachable"))
            }
            AskError::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "the origin has enough to do", Some("busy")),
            AskError::NotTaken => (StatusCode::SERVICE_UNAVAILABLE, "this node has no room for the object now", None),
            AskError::Changed => (StatusCode::BAD_GATEWAY, "the object changed meanwhile", None),
            // Nobody is there to read it.
            AskError::Left => (StatusCode::SERVICE_UNAVAILABLE, "no request waits for it any more", None),
            AskError::NoParent(_) | AskError::NotPastParents(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "no parent node can serve now", None)
            }
            AskError::BadUrl => (StatusCode::BAD_REQUEST, "the URL cannot be requested", None),
        };
        let child = matches!(self.asker, Asker::Child { .. });
        let mut answer = self.refusal(status, words);
        if let AskError::Busy(after) = error {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(origin) = origin.filter(|_| child) {
            answer.headers_mut().insert(peer::ORIGIN, HeaderValue::from_static(origin));
        }
        answer
    }

    /// `said` comes with the representation that the answer is about.
    fn finish(
        &self,
        status: StatusCode,
        mut headers: HeaderMap,
        source: Source,
        said: Option<(&Said, Representation)>,
        judging: Option<Judging>,
    ) -> Response<AnswerBody> {
        let telling = self.telling.as_ref().zip(said);
        // HEAD describes the answer that GET would get.
        let compresses =
            telling.filter(|(telling, (_, of))| status == StatusCode::OK && telling.compresses(&headers, *of));
        let compresses = compresses.filter(|_| self.method != Method::HEAD);
        let gzip = compresses.and_then(|_| self.handoff.metrics().gzips.hold_below(GZIPS_MAX as u64));
        let room = compresses.is_none() || gzip.is_some();
        let compressed = telling.is_some_and(|(telling, (_, of))| telling.tell(status, &mut headers, of, room));
        let said = said.map(|(said, _)| said);
        peer::strip(&mut headers);
        let signs = self.handoff.signs();
        headers.append(VIA, signs.via.clone());
        if let Some(said) = said {
            let own = CacheStatus {
                cache: &signs.node,
                outcome: said.outcome,
                ttl: said.ttl,
                stored: said.stored,
                collapsed: said.collapsed,
            };
            headers.append(CACHE_STATUS, own.value());
            headers.insert(X_CACHE, said.x_cache.clone().unwrap_or_else(|| signs.x_cache(said.result).clone()));
            if let (Asker::Child { .. }, Some(age), true) = (self.asker, said.known_good, judging.is_some()) {
                peer::tell_age(&mut headers, age);
            }
        }
        let body = AnswerBody {
            begun: false,
            left: source.length(),
            gzip: gzip.filter(|_| compressed).map(Gzip::new),
            source,
            judged: judging.map(|judging| self.handoff.judged(judging)),
            handoff: self.handoff.clone(),
            result: said.map(|said| said.result),
            exchange: None,
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }
}

/// A conditional request without its conditions.
fn unconditional(request: &HeaderMap) -> HeaderMap {
    let mut plain = request.clone();
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
        plain.remove(name);
    }
    plain
}

/// The request of a client that may have been sent the object compressed. A date in `If-Range`, unlike an entity tag,
/// does not tell which bytes the client has (RFC 9110 §8.8.2.2), so it gets the whole.
pub(crate) fn strongly(request: &HeaderMap) -> Cow<'_, HeaderMap> {
    let is_date = |line: &HeaderValue| !line.as_bytes().trim_ascii().ends_with(b"\"");
    if !request.get_all(IF_RANGE).iter().any(is_date) {
        return Cow::Borrowed(request);
    }
    let mut whole = request.clone();
    whole.remove(RANGE);
    Cow::Owned(whole)
}

/// The fields by which this node identifies itself in answers.
pub(crate) struct Signs {
    pub(crate) node: String,
    /// `Via` of answers, and of requests that came by HTTP/1.1.
    pub(crate) via: HeaderValue,
    /// `Cache-Status` of a hit, before its `ttl`.
    pub(crate) cache_status_hit: String,
    /// `X-Cache`, by result.
    x_cache: [HeaderValue; XCache::ALL.len()],
}

impl Signs {
    /// `X-Cache` in this node's name.
    pub(crate) fn x_cache(&self, result: XCache) -> &HeaderValue {
        &self.x_cache[result as usize]
    }

    /// `Via` of a request that came by this version (RFC 9110 §7.6.3).
    pub(crate) fn via_of(&self, version: Version) -> HeaderValue {
        if version == Version::HTTP_11 { self.via.clone() } else { httpcache::via(version, &self.node) }
    }

    pub(crate) fn new(node: &NodeName) -> Signs {
        let x_cache = |result: XCache| HeaderValue::try_from(format!("{} from {node}", result.word()));
        let hit = CacheStatus {
            cache: node.as_str(),
            outcome: httpcache::Outcome::Hit,
            ttl: None,
            stored: false,
            collapsed: false,
        };
        Signs {
            cache_status_hit: hit.to_string(),
            node: node.to_string(),
            via: httpcache::via(Version::HTTP_11, node.as_str()),
            x_cache: XCache::ALL.map(|result| x_cache(result).expect("names of nodes are letters, digits and dashes")),
        }
    }
}

enum Source {
    Empty,
    Full(Bytes),
    /// With its length, if that is known.
    Read(Reading, Option<u64>),
    /// Several parts of it.
    Parts(Parts),
    /// With the timer that bounds its silence.
    Upstream(FromAbove, Pin<Box<Sleep>>),
    /// It broke before any of it was given.
    Broken(Option<BodyError>),
}

impl Source {
    /// Bytes it gives, if that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Source::Empty => Some(0),
            Source::Full(bytes) => Some(bytes.len() as u64),
            Source::Read(_, length) => *length,
            Source::Parts(parts) => Some(parts.length()),
            Source::Upstream(body, _) => body.size_hint().exact(),
            Source::Broken(_) => None,
        }
    }
}

/// A body as the connection reads it.
pub(crate) struct AnswerBody {
    source: Source,
    /// Some of it was given, or waited for, so the head is written.
    begun: bool,
    /// The body is compressed on the way out.
    gzip: Option<Gzip>,
    /// Bytes to come, if that is known.
    left: Option<u64>,
    /// The header, until it is written.
    judged: Option<u64>,
    handoff: Arc<Handoff>,
    /// The result in `X-Cache`, if that is sent.
    pub(crate) result: Option<metrics::XCache>,
    /// The exchange that the answer belongs to; there once the answer is on its way.
    pub(crate) exchange: Option<Exchange>,
}

/// Why a body ends early; the connection ends with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The store could not give it.
    #[error("stored body")]
    Store(#[source] store::ReadError),
    /// The connection to parent or origin broke.
    #[error("read the body from the parent or origin")]
    Upstream(#[source] hyper::Error),
    /// Parent or origin fell silent.
    #[error("parent or origin fell silent")]
    Silent,
    /// It is shorter than was announced.
    #[error("body is {0} bytes short")]
    Short(u64),
    /// A slice of it could not be had.
    #[error("fetch a slice of the body: {0}")]
    Slice(&'static str),
}

impl AnswerBody {
    /// The answer to a request that would have to wait where there is no room for it.
    pub(crate) fn overloaded(handoff: &Arc<Handoff>, method: Method) -> Response<AnswerBody> {
        let (handoff, asker) = (handoff.clone(), Asker::User);
        let reply = Reply { method, copy: None, asker, telling: None, handoff, informed: false, stream: None };
        reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "this node has no room for more requests that wait")
    }

    /// The header is written by the time the connection asks for the body or drops it.
    fn header_is_written(&mut self) {
        if let Some(judged) = self.judged.take() {
            self.handoff.written(judged);
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Full(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Source::Read(reading, _) => reading.poll_next(cx),
            Source::Parts(parts) => parts.poll_next(cx),
            Source::Broken(error) => Poll::Ready(error.take().map(Err)),
            Source::Upstream(body, silence) => loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        silence.as_mut().reset(Instant::now() + BODY_SILENCE_MAX);
                        // Trailers are not passed on: they may not be meant for everybody (RFC 9110 §6.5.1).
                        if let Ok(bytes) = frame.into_data() {
                            return Poll::Ready(Some(Ok(bytes)));
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(BodyError::Upstream(error)))),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => {
                        ready!(std::future::Future::poll(silence.as_mut(), cx));
                        return Poll::Ready(Some(Err(BodyError::Silent)));
                    }
                }
            },
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        this.header_is_written();
        loop {
            let bytes = match this.gzip.as_mut().and_then(Gzip::next) {
                Some(compressed) => compressed,
                None => match this.poll_source(cx) {
                    Poll::Pending => match this.gzip.as_mut().and_then(Gzip::so_far) {
                        Some(compressed) => compressed,
                        None => {
                            this.begun = true;
                            this.exchange.iter_mut().for_each(Exchange::waits);
                            return Poll::Pending;
                        }
                    },
                    Poll::Ready(None) => match this.left.filter(|left| *left > 0) {
                        Some(short) => {
                            this.left = Some(0);
                            this.gzip = None;
                            return Poll::Ready(Some(Err(BodyError::Short(short))));
                        }
                        None => match this.gzip.as_mut().and_then(Gzip::end) {
                            Some(compressed) => compressed,
                            None => {
                                this.exchange.iter_mut().for_each(Exchange::ends);
                                return Poll::Ready(None);
                            }
                        },
                    },
                    Poll::Ready(Some(Err(error))) if !this.begun => {
                        // The error ends the connection, and with it a head that still waits to be written. A client
                        // that reads nothing at all would take this node for broken, not the body, so the head is let
                        // out first.
                        this.begun = true;
                        this.gzip = None;
                        this.source = Source::Broken(Some(error));
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Err(error))) => {
                        this.source = Source::Empty;
                        this.gzip = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                    Poll::Ready(Some(Ok(bytes))) => {
                        this.left = this.left.map(|left| left.saturating_sub(bytes.len() as u64));
                        match &mut this.gzip {
                            None => bytes,
                            Some(gzip) => {
                                gzip.take(bytes);
                                continue;
                            }
                        }
                    }
                },
            };
            this.begun = true;
            this.handoff.metrics().bytes_sent.add(bytes.len() as u64);
            if matches!(this.source, Source::Full(_) | Source::Read(..) | Source::Parts(_)) && this.result.is_some() {
                this.handoff.metrics().bytes_stored.add(bytes.len() as u64);
            }
            if let Some(exchange) = &mut this.exchange {
                exchange.gave(bytes.len());
                if this.left == Some(0) && this.gzip.is_none() {
                    exchange.ends();
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) && self.gzip.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.filter(|_| self.gzip.is_none()).map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.header_is_written();
    }
}
