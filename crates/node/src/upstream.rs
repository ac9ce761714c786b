//! Asks for what a node does not have: the parents in rendezvous order, or the domain's sources where there is no parent.
//!
//! A parent is given up for the next one when it cannot be reached, does not answer in time, or says that it cannot serve; what
//! it says of the origin is taken as it is. Only a node without parents asks an origin, so that every object is asked for once
//! per root, whatever fails in between.
//!
//! # What always holds
//!
//! - `Warmfront-*` headers go to parents alone, and never into what is handed on.
//! - An answer of a parent that carries no age did not see the fence: it is not an answer.
//! - Every wait has a bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::fence::Fetch;
use model::{Cause, Domain, NodeName, Source, SourceKind, UrlKey};
use tokio::time::Instant;

use crate::framing;
use crate::knowing::{Knowing, Known, LogTag};
use crate::network::{Connector, Network};
use crate::peer;

/// Longest wait for the first byte of an origin's answer, its connection included.
const ORIGIN_ANSWER_MAX: Duration = Duration::from_secs(30);

/// Longest wait for the first byte of a parent's answer: its own wait for the origin, and some more.
const PARENT_ANSWER_MAX: Duration = Duration::from_secs(45);

/// Longest wait for an answer to a request that brings a body, which has to be sent first.
const UPLOAD_MAX: Duration = Duration::from_secs(600);

/// How long a parent that could not be reached is asked only after the others.
const REST: Duration = Duration::from_secs(5);

/// Longest silence in the middle of a body.
pub(crate) const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Idle connections kept to one host, and how long.
const IDLE_PER_HOST_MAX: usize = 128;
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Largest head of an answer, in bytes, and most headers in it.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 256;

/// Parents or sources that are tried for one request.
const TRIES_MAX: usize = 4;

/// A request body on its way up.
pub(crate) type UpBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// No body.
pub(crate) fn no_body() -> UpBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// What is asked for.
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) key: UrlKey,
    pub(crate) domain: Arc<Domain>,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    /// What was noted before, and the log it is of.
    pub(crate) fetch: Fetch,
    pub(crate) log: LogTag,
    /// The nodes the request has passed before this one.
    pub(crate) passed: Vec<NodeName>,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Parent(NodeName),
    Origin,
}

/// The beginning of an answer.
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    pub(crate) body: Incoming,
    /// How long ago its sender knew it to be good: zero from the origin.
    pub(crate) age: Option<Duration>,
    pub(crate) from: From,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    #[error("no answer in time")]
    Timeout,
    #[error("{0}")]
    Unreachable(String),
    /// Parents are there and none can serve now.
    #[error("no parent can serve: {0}")]
    NoParent(String),
    #[error("the URL cannot be asked for")]
    BadUrl,
}

impl std::convert::From<AskError> for Cause {
    fn from(error: AskError) -> Cause {
        match error {
            AskError::Timeout => Cause::OriginTimeout,
            AskError::BadUrl => Cause::NotStorable(error.to_string()),
            error => Cause::OriginUnreachable(error.to_string()),
        }
    }
}

/// The node's client.
#[derive(Clone)]
pub(crate) struct Upstream {
    client: Client<Connector, UpBody>,
    knowing: Arc<Knowing>,
    /// Parents that could not be reached, and since when; at most one entry for each member there was.
    resting: Arc<Mutex<HashMap<NodeName, Instant>>>,
}

impl Upstream {
    /// A client whose connections are tasks of whatever runtime asks.
    pub(crate) fn new(knowing: Arc<Knowing>, network: Arc<dyn Network>) -> Upstream {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .http1_max_headers(HEADERS_MAX)
            .set_host(false)
            .build(Connector::new(network));
        Upstream { client, knowing, resting: Arc::default() }
    }

    /// Asks, and returns when the head of an answer is there. A `body` can be sent once, so only the first choice is asked then.
    pub(crate) async fn ask(&self, question: &Question, body: Option<UpBody>) -> Result<Answer, AskError> {
        let known = self.knowing.known().clone();
        if known.tag != question.log {
            return Err(AskError::NoParent("the log was changed for another".to_owned())); // and the fence means nothing in it
        }
        let parents = self.parents(&known, question);
        let tries = if body.is_some() { 1 } else { TRIES_MAX };
        let mut body = body;
        if parents.is_empty() {
            let mut last = AskError::Unreachable("the domain has no source".to_owned());
            for source in in_order(&question.domain.sources, question.key.hash()).into_iter().take(tries) {
                match self.ask_origin(question, source, body.take()).await {
                    Err(error) => last = error,
                    answered => return answered,
                }
            }
            return Err(last);
        }
        let mut last = AskError::NoParent("none is known".to_owned());
        for (name, url) in parents.into_iter().take(tries) {
            match self.ask_parent(question, &known, name, &url, body.take()).await {
                Err(error @ AskError::NoParent(_)) => last = error,
                answered => return answered,
            }
        }
        Err(last)
    }

    /// Name and address of the parents, but for those the request has passed; first those that could be reached lately.
    fn parents(&self, known: &Known, question: &Question) -> Vec<(NodeName, String)> {
        let own = self.knowing.name();
        let parents = known.knowledge.topology.parents(own, question.key.hash());
        let fresh = parents.into_iter().filter(|parent| &parent.name != own && !question.passed.contains(&parent.name));
        let mut parents: Vec<_> = fresh.map(|parent| (parent.name.clone(), parent.advertise_url.clone())).collect();
        let resting = self.resting();
        if !resting.is_empty() {
            parents.sort_by_key(|(name, _)| resting.get(name).is_some_and(|since| since.elapsed() < REST));
        }
        parents
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<NodeName, Instant>> {
        self.resting.lock().expect("no holder of this lock can panic")
    }

    fn rests(&self, name: &NodeName) {
        let mut resting = self.resting();
        resting.retain(|_, since| since.elapsed() < REST);
        resting.insert(name.clone(), Instant::now());
    }

    async fn ask_parent(
        &self,
        question: &Question,
        known: &Known,
        name: NodeName,
        url: &str,
        body: Option<UpBody>,
    ) -> Result<Answer, AskError> {
        let failed = |problem: String| AskError::NoParent(format!("{name}: {problem}"));
        let base: Uri = url.parse().map_err(|_| failed("its address is not a URL".to_owned()))?;
        let uri = uri(base.scheme().cloned(), base.authority().map(|authority| authority.as_str()), &question.key)?;
        let mut headers = question.headers.clone();
        headers.insert(HOST, host(question.key.host())?);
        peer::introduce(&mut headers, known, question.fetch.fence, &question.passed, self.knowing.name());
        let bound = if body.is_some() { UPLOAD_MAX } else { PARENT_ANSWER_MAX };
        let answer = tokio::time::timeout(bound, self.send(&question.method, uri, headers, body)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|problem| {
            self.rests(&name);
            failed(problem)
        })?;
        let (mut head, body) = answer.into_parts();
        let age = peer::told_age(&head.headers);
        let origin = head.headers.get(peer::ORIGIN).map(|origin| origin.as_bytes().to_vec());
        peer::strip(&mut head.headers);
        match (age, origin.as_deref()) {
            (None, Some(b"timeout")) => Err(AskError::Timeout),
            (None, Some(_)) => Err(AskError::Unreachable(format!("{name} could not reach the origin"))),
            (None, None) if is_fenced(&question.method) => {
                Err(failed(format!("answered {} without an age", head.status)))
            }
            (age, _) => Ok(Answer { head, body, age, from: From::Parent(name) }),
        }
    }

    async fn ask_origin(&self, question: &Question, source: &Source, body: Option<UpBody>) -> Result<Answer, AskError> {
        let content =
            if source.content.contains(':') { format!("[{}]", source.content) } else { source.content.clone() };
        let scheme = if source.port == 443 { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = uri(Some(scheme), Some(&format!("{content}:{}", source.port)), &question.key)?;
        let mut headers = question.headers.clone();
        let asked_as = match source.kind {
            SourceKind::Address | SourceKind::Domain => question.key.host(),
            SourceKind::Bucket => &source.content,
        };
        headers.insert(HOST, host(asked_as)?);
        let bound = if body.is_some() { UPLOAD_MAX } else { ORIGIN_ANSWER_MAX };
        let answer = tokio::time::timeout(bound, self.send(&question.method, uri, headers, body)).await;
        let answer = answer.map_err(|_| AskError::Timeout)?.map_err(AskError::Unreachable)?;
        let (mut head, body) = answer.into_parts();
        peer::strip(&mut head.headers);
        Ok(Answer { head, body, age: Some(Duration::ZERO), from: From::Origin })
    }

    async fn send(
        &self,
        method: &Method,
        uri: Uri,
        headers: HeaderMap,
        body: Option<UpBody>,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::new(body.unwrap_or_else(no_body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let connection = capture_connection(&mut request);
        let answer = self.client.request(request).await.map_err(|error| words(&error))?;
        let (mut head, body) = answer.into_parts();
        if let Err(problem) = framing::answer(&mut head) {
            // Nobody knows what the rest of this connection belongs to.
            if let Some(connection) = connection.connection_metadata().as_ref() {
                connection.poison();
            }
            return Err(format!("the answer cannot be trusted: {problem}"));
        }
        let mut answer = Response::from_parts(head, body);
        // The client's own bound is of its buffer, which a fast sender overshoots.
        let bytes: usize = answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if bytes > HEAD_BYTES_MAX {
            return Err(format!("the head of the answer is larger than {HEAD_BYTES_MAX} bytes"));
        }
        // Interim answers are hyper's; what is left of the family cannot be an answer.
        if answer.status().is_informational() {
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
        }
        Ok(answer)
    }
}

/// Whether answers to `method` are bodies the fence speaks of (fence, assumption 6).
pub(crate) fn is_fenced(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn uri(scheme: Option<Scheme>, authority: Option<&str>, key: &UrlKey) -> Result<Uri, AskError> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = scheme;
    parts.authority =
        Some(authority.and_then(|authority| authority.parse::<Authority>().ok()).ok_or(AskError::BadUrl)?);
    parts.path_and_query = Some(PathAndQuery::try_from(key.path_and_query()).map_err(|_| AskError::BadUrl)?);
    Uri::from_parts(parts).map_err(|_| AskError::BadUrl)
}

fn host(name: &str) -> Result<HeaderValue, AskError> {
    HeaderValue::from_str(name).map_err(|_| AskError::BadUrl)
}

/// The sources of the lowest priority number first; inside a priority the key chooses, by weight, who is asked first.
fn in_order(sources: &[Source], key: u128) -> Vec<&Source> {
    let mut ordered: Vec<&Source> = sources.iter().collect();
    ordered.sort_by_key(|source| source.priority);
    let mut rest = ordered.as_mut_slice();
    while let Some(first) = rest.first() {
        let priority = first.priority;
        let (group, others) = rest.split_at_mut(rest.iter().take_while(|source| source.priority == priority).count());
        let total: u128 = group.iter().map(|source| u128::from(source.weight.max(1))).sum();
        let mut ticket = key % total;
        let chosen = group.iter().position(|source| {
            let weight = u128::from(source.weight.max(1));
            let here = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            here
        });
        group.rotate_left(chosen.unwrap_or(0));
        rest = others;
    }
    ordered
}

/// An error and what caused it, in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_asked_by_priority_then_weight() {
        let source = |content: &str, priority, weight| Source {
            kind: SourceKind::Domain,
            content: content.into(),
            port: 80,
            priority,
            weight,
        };
        let sources = [source("backup", 30, 10), source("a", 20, 30), source("b", 20, 10)];
        let mut first = [0_u32; 2];
        for key in 0..400_u128 {
            let ordered: Vec<&str> = in_order(&sources, key).iter().map(|source| source.content.as_str()).collect();
            assert_eq!(ordered[2], "backup");
            first[usize::from(ordered[0] == "b")] += 1;
        }
        assert_eq!(first, [300, 100]);
    }
}
