//! Asks for what a node does not have: the parents in rendezvous order, or the domain's sources where there is no parent.
//!
//! A parent is given up for the next one when it cannot be reached, falls silent, or says that it cannot serve; what it says of
//! the origin is taken as it is. A node with parents asks an origin itself only for a user, only when it could reach none of
//! them, and only [`PAST_PARENTS_MAX`] times at once: a prefetch asks for every object once per root, whatever fails in between.
//!
//! # What always holds
//!
//! - `Warmfront-*` headers go to parents alone, and never into what is handed on.
//! - An answer of a parent that carries no age did not see the fence: it is not an answer.
//! - Somebody else is asked for the same only if nothing was sent, or the method is safe and there is no body.
//! - Every wait has a bound, and so have all of them together ([`ASK_MAX`], [`ASK_THROUGH_MAX`]).
//!
//! # Not here
//!
//! What is said to a parent and how it is known to be alive: `parents`. Which source is asked, and how: `sources`. Connections:
//! `pool`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use model::fence::Fetch;
use model::{Cause, Domain, NodeName, UrlKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::figures::{Figures, FromAbove};
use crate::fill::Purpose;
use crate::interim::Interim;
use crate::knowing::{Knowing, Known, LogTag};
use crate::limiter::{Awaited, Limiter, until_awaited};
use crate::metrics::{Counter, Page};
use crate::network::Network;
use crate::parents::{NoAnswer, Parents};
use crate::pool::Pool;
use crate::sources::Sources;

/// Longest wait for an answer of an origin, all sources that are tried together.
pub(crate) const ASK_MAX: Duration = Duration::from_secs(45);

/// Longest wait for an answer from above where there are parents: a parent's own wait for the origin, and some more.
pub(crate) const ASK_THROUGH_MAX: Duration = Duration::from_secs(50);

/// Longest wait for an answer to a request that brings a body, from when all of it is sent.
const UPLOAD_MAX: Duration = Duration::from_secs(600);

/// Longest silence in the middle of a body.
pub(crate) const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Parents or sources that are tried for one request.
pub(crate) const TRIES_MAX: usize = 4;

/// Fetches at a time that go to an origin past parents that cannot be reached: enough to go on serving, too few to be the storm
/// that the parents kept from it.
pub(crate) const PAST_PARENTS_MAX: usize = 64;

/// After how long a prefetch is tried again whose parent has just gone.
const MISSED_AGAIN: Duration = Duration::from_secs(1);

/// A request body on its way up.
pub(crate) type UpBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// No body.
pub(crate) fn no_body() -> UpBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A URL as users ask for it, and as parents are asked: what each node makes its own key of.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Without a port.
    pub(crate) host: String,
    /// With its query; the key may have less of it.
    pub(crate) path: String,
    /// By TLS.
    pub(crate) secure: bool,
}

/// What is asked for.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// Under what it lies: by this, parents are chosen.
    pub(crate) key: UrlKey,
    pub(crate) asked: Asked,
    pub(crate) domain: Arc<Domain>,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    /// What was noted before, and the log it is of.
    pub(crate) fetch: Fetch,
    pub(crate) log: LogTag,
    /// The nodes the request has passed before this one.
    pub(crate) passed: Vec<NodeName>,
    /// For whom: only users are answered past parents that cannot be reached.
    pub(crate) purpose: Purpose,
    /// For which refetch; zero for none.
    pub(crate) refetch: u64,
    /// Where something is to be confirmed, of which answer that is a copy.
    pub(crate) copy: Option<u64>,
    /// Where interim answers go.
    pub(crate) interim: Option<Interim>,
    /// It was asked for before, and broke.
    pub(crate) again: bool,
    /// Of a prefetch: whether a user has begun to wait for it.
    pub(crate) awaited: Option<Awaited>,
    /// Of a prefetch: whether anybody waits for an answer.
    pub(crate) wanted: Option<watch::Receiver<bool>>,
}

impl Question {
    /// Whether asking twice is as good as asking once (RFC 9110 §9.2.1), as far as the method goes.
    pub(crate) fn is_safe(&self) -> bool {
        self.method.is_safe()
    }

    /// Until nobody waits for an answer any more.
    pub(crate) async fn all_left(&self) {
        let left = match self.wanted.clone() {
            Some(mut wanted) => wanted.wait_for(|wanted| !*wanted).await.is_ok(),
            None => false,
        };
        if !left {
            std::future::pending::<()>().await;
        }
    }
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
    pub(crate) body: FromAbove,
    /// How long ago its sender knew it to be good: zero from the origin.
    pub(crate) age: Option<Duration>,
    pub(crate) from: From,
    /// For which refetch its sender had it fetched; zero for none, and from the origin.
    pub(crate) refetch: u64,
    /// Of which answer of an origin its body is a copy; zero when its sender does not know, and from the origin.
    pub(crate) copy: u64,
    /// One of the few that went past the parents, for as long as it is fetched.
    _past: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(crate) fn new(head: response::Parts, body: FromAbove, age: Option<Duration>, from: From) -> Answer {
        Answer { head, body, age, from, refetch: 0, copy: 0, _past: None }
    }
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
    /// No parent can be reached, and a prefetch does not go past them; a user may.
    #[error("no parent can be reached: {0}")]
    NotPastParents(String),
    /// The origin has enough to do, or said when to come back: in this time. Or the parent that most likely has it has just gone.
    #[error("the origin is to be asked again in {} seconds", .0.as_secs().max(1))]
    Busy(Duration),
    /// A part was to be stored, and the store takes nothing now: it is out of room, or out of service.
    #[error("the store takes nothing")]
    NotTaken,
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    Left,
    #[error("the URL cannot be asked for")]
    BadUrl,
    /// A part was asked for, and what came is no part of the body it belongs to.
    #[error("the object changed while parts of it were fetched")]
    Changed,
}

impl std::convert::From<AskError> for Cause {
    fn from(error: AskError) -> Cause {
        match error {
            AskError::Timeout => Cause::OriginTimeout,
            // Who came a moment too soon would be put off once more.
            AskError::Busy(after) => Cause::OriginBusy { seconds: after.as_millis().div_ceil(1_000).max(1) as u64 },
            AskError::BadUrl => Cause::NotStorable(error.to_string()),
            AskError::NotTaken => Cause::Store(error.to_string()),
            error => Cause::OriginUnreachable(error.to_string()),
        }
    }
}

/// The node's client.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<Inner>);

struct Inner {
    knowing: Arc<Knowing>,
    pool: Pool,
    parents: Parents,
    sources: Sources,
    past_parents: Arc<Semaphore>,
    went_past: Counter,
}

impl Upstream {
    /// A client whose connections are tasks of the runtime that calls; those that ask must run on it too.
    pub(crate) fn new(knowing: Arc<Knowing>, network: Arc<dyn Network>, figures: Arc<Figures>) -> Upstream {
        let pool = Pool::new(network);
        let seed = xxhash_rust::xxh3::xxh3_64(knowing.name().as_str().as_bytes());
        Upstream(Arc::new(Inner {
            parents: Parents::new(pool.clone(), knowing.name().clone(), seed),
            sources: Sources::new(pool.clone(), seed, knowing.clone(), figures),
            knowing,
            pool,
            past_parents: Arc::new(Semaphore::new(PAST_PARENTS_MAX)),
            went_past: Counter::default(),
        }))
    }

    /// Asks, and returns when the head of an answer is there. A `body` that was sent, be it in part, is sent to nobody else.
    pub(crate) async fn ask(&self, question: &Question, body: Option<UpBody>) -> Result<Answer, AskError> {
        let inner = &*self.0;
        let known = inner.knowing.known().clone();
        if known.tag != question.log {
            return Err(AskError::NoParent("the log was changed for another".to_owned())); // and the fence means nothing in it
        }
        let parents = inner.parents_for(&known, question);
        let mut body = body.filter(|body| !body.is_end_stream());
        let most = match (&body, parents.is_empty()) {
            (Some(_), _) => UPLOAD_MAX,
            (None, true) => ASK_MAX,
            (None, false) => ASK_THROUGH_MAX,
        };
        let until = Instant::now() + most + patience(&question.domain);
        match parents.is_empty() {
            true => inner.sources.ask(question, &mut body, until).await,
            false => inner.ask_parents_for_whom(question, &known, parents, body, until).await,
        }
    }

    /// How much origins are asked at a time.
    pub(crate) fn limiter(&self) -> &Arc<Limiter> {
        self.0.sources.limiter()
    }

    /// Shows what is counted.
    pub(crate) fn show(&self, page: &mut Page) {
        let inner = &*self.0;
        inner.pool.show(page);
        inner.sources.show(page);
        inner.parents.show(page);
        let running = PAST_PARENTS_MAX - inner.past_parents.available_permits();
        page.counter("past_parents_total", "Fetches from an origin past parents out of reach", inner.went_past.get());
        page.gauge("past_parents_running", "Those running", running);
        page.gauge("past_parents_max", "Bound of those", PAST_PARENTS_MAX);
    }
}

impl Inner {
    /// Name and address of the parents in rendezvous order, but for those the request has passed.
    fn parents_for(&self, known: &Known, question: &Question) -> Vec<(NodeName, String)> {
        let own = self.knowing.name();
        let parents = known.knowledge.topology.parents(own, question.key.hash());
        let fresh = parents.into_iter().filter(|parent| &parent.name != own && !question.passed.contains(&parent.name));
        fresh.map(|parent| (parent.name.clone(), parent.advertise_url.clone())).collect()
    }

    /// As [`Inner::ask_parents`]. What a prefetch asked for is asked for once more as soon as a user waits for it, for parents let
    /// users in first; the one that is asked already joins both.
    async fn ask_parents_for_whom(
        &self,
        question: &Question,
        known: &Known,
        parents: Vec<(NodeName, String)>,
        body: Option<UpBody>,
        until: Instant,
    ) -> Result<Answer, AskError> {
        let mut awaited = question.awaited.clone();
        if awaited.is_none() {
            return self.ask_parents(question, known, parents, body, until).await;
        }
        tokio::select! {
            biased;
            // The one that is asked hears that its child has left.
            () = question.all_left() => Err(AskError::Left),
            // Before the answer: what puts a prefetch off must not be told to a user who waits already.
            () = until_awaited(&mut awaited) => {
                let question = Question { purpose: Purpose::User, awaited: None, wanted: None, ..question.clone() };
                self.ask_parents(&question, known, parents, None, until).await
            }
            answer = self.ask_parents(question, known, parents.clone(), body, until) => answer,
        }
    }

    /// The parents that were well lately, then the origin where that is allowed, else the parents that were not.
    async fn ask_parents(
        &self,
        question: &Question,
        known: &Known,
        parents: Vec<(NodeName, String)>,
        mut body: Option<UpBody>,
        until: Instant,
    ) -> Result<Answer, AskError> {
        let is_prefetch = question.purpose == Purpose::Prefetch;
        if is_prefetch && parents.first().is_some_and(|(name, _)| self.parents.is_missed_and_rests(name)) {
            return Err(AskError::Busy(MISSED_AGAIN));
        }
        let mut resting = Vec::new();
        let mut so_far = SoFar { left: TRIES_MAX, problem: "none is known".to_owned(), reached: false };
        // Lazily, for to be admitted after a rest is to be on trial.
        let well = parents.into_iter().filter_map(|parent| match self.parents.admits(&parent.0) {
            true => Some(parent),
            false => {
                resting.push(parent);
                None
            }
        });
        if let Some(ended) = self.ask_some(question, known, well, &mut so_far, &mut body, until).await {
            return ended;
        }
        if !so_far.reached
            && !is_prefetch
            && let Ok(permit) = self.past_parents.clone().try_acquire_owned()
        {
            self.went_past.inc();
            tracing::debug!(url = %question.key, so_far.problem, "no parent can be reached; the origin is asked");
            let answer = self.sources.ask(question, &mut body, until).await?;
            return Ok(Answer { _past: Some(permit), ..answer });
        }
        if let Some(ended) = self.ask_some(question, known, resting.into_iter(), &mut so_far, &mut body, until).await {
            return ended;
        }
        match is_prefetch && !so_far.reached {
            true => Err(AskError::NotPastParents(so_far.problem)),
            false => Err(AskError::NoParent(so_far.problem)),
        }
    }

    /// Asks parents one after the other; `None` when none of them had an answer, and others may be asked.
    async fn ask_some(
        &self,
        question: &Question,
        known: &Known,
        mut parents: impl Iterator<Item = (NodeName, String)>,
        so_far: &mut SoFar,
        body: &mut Option<UpBody>,
        until: Instant,
    ) -> Option<Result<Answer, AskError>> {
        let with_body = body.is_some();
        let repeatable = !with_body && question.is_safe();
        while so_far.left > 0
            && let Some((name, url)) = parents.next()
        {
            so_far.left -= 1;
            match self.parents.ask(question, known, &name, &url, body, until).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(NoAnswer::Told(error)) => return Some(Err(error)),
                Err(NoAnswer::Refused(problem)) if with_body && body.is_none() => {
                    return Some(Err(AskError::NoParent(problem))); // and its body is gone
                }
                Err(NoAnswer::Refused(problem)) => (so_far.problem, so_far.reached) = (problem, true),
                Err(NoAnswer::Unreachable { problem, unsent }) => {
                    if !unsent && !repeatable {
                        return Some(Err(AskError::NoParent(problem)));
                    }
                    if question.purpose == Purpose::Prefetch && self.parents.is_missed(&name) {
                        return Some(Err(AskError::Busy(MISSED_AGAIN)));
                    }
                    so_far.problem = problem;
                }
            }
        }
        None
    }
}

/// What asking parents came to so far.
struct SoFar {
    /// How many may still be asked.
    left: usize,
    problem: String,
    /// One of them answered, though it could not serve.
    reached: bool,
}

/// How much longer than else answers for a domain are waited for: some origins are known to take their time.
pub(crate) fn patience(domain: &Domain) -> Duration {
    domain.functions.rules().fetch.timeout.unwrap_or_default()
}

/// Whether answers to `method` are bodies the fence speaks of (fence, assumption 6).
pub(crate) fn is_fenced(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// What a request line says.
pub(crate) fn target(path: &str) -> Result<PathAndQuery, AskError> {
    PathAndQuery::try_from(path).map_err(|_| AskError::BadUrl)
}

/// A `Host`.
pub(crate) fn host(name: &str) -> Result<HeaderValue, AskError> {
    HeaderValue::from_str(name).map_err(|_| AskError::BadUrl)
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
