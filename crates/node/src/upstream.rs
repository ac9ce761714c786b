//! The node's client: asks the parents in rendezvous order, or the domain's sources where there is no parent.
//!
//! The next parent is asked when one cannot be reached, falls silent, or says that it cannot serve; a parent's word on
//! the origin is taken as final. A node with parents asks an origin itself only for a user, only when it could reach
//! none of them, and only [`PAST_PARENTS_MAX`] times at once. A prefetch therefore requests every object once per root,
//! whatever fails in between.
//!
//! # What always holds
//!
//! - `Warmfront-*` headers go to parents alone, and never into a response that is passed on.
//! - A parent's answer without an age did not see the fence, and does not count as an answer.
//! - A request is sent to somebody else only if nothing of it was sent, or its method is safe and it has no body.
//! - Every wait has a bound, and so does their sum ([`ASK_MAX`], [`ASK_THROUGH_MAX`]).
//!
//! # Not here
//!
//! Requests to a parent and whether it is alive: `parents`. Which source is asked, and how: `sources`. Connections:
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
use crate::health::Admission;
use crate::interim::Interim;
use crate::knowing::{Knowing, Known, LogTag};
use crate::limiter::{Awaited, Limiter, until_awaited};
use crate::metrics::{Counter, Page};
use crate::network::Network;
use crate::parents::{NoAnswer, Parents};
use crate::pool::Pool;
use crate::sources::Sources;

/// Longest wait for an answer of an origin, over all sources that are tried.
pub(crate) const ASK_MAX: Duration = Duration::from_secs(45);

/// Longest wait for an answer where there are parents: a parent's own wait for the origin, plus a reserve.
pub(crate) const ASK_THROUGH_MAX: Duration = Duration::from_secs(50);

/// Longest wait for an answer to a request with a body, counted from when all of the body is sent.
const UPLOAD_MAX: Duration = Duration::from_secs(600);

/// Longest silence in the middle of a response body.
pub(crate) const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Parents or sources tried for one request.
pub(crate) const TRIES_MAX: usize = 4;

/// Concurrent fetches from an origin past parents that cannot be reached: enough to go on serving, too few to be the
/// storm that the parents keep from the origin.
pub(crate) const PAST_PARENTS_MAX: usize = 64;

/// When a prefetch is retried whose parent has just gone.
const MISSED_AGAIN: Duration = Duration::from_secs(1);

/// A request body on its way up.
pub(crate) type UpBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// No body.
pub(crate) fn no_body() -> UpBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A URL as users request it, and as parents are asked for it: each node makes its own key of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Without a port.
    pub(crate) host: String,
    /// With its query, of which the key may have less.
    pub(crate) path: String,
    /// Whether the user came by TLS.
    pub(crate) secure: bool,
}

/// A request to a parent or an origin.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// The key it is stored under, which also chooses the parents.
    pub(crate) key: UrlKey,
    pub(crate) asked: Asked,
    pub(crate) domain: Arc<Domain>,
    /// End-to-end headers.
    pub(crate) headers: HeaderMap,
    /// The fetch as it was recorded before asking, and the log its revisions belong to.
    pub(crate) fetch: Fetch,
    pub(crate) log: LogTag,
    /// The nodes the request has passed before this one.
    pub(crate) passed: Vec<NodeName>,
    /// Who it is for. Past parents that cannot be reached, the origin is asked only for users.
    pub(crate) purpose: Purpose,
    /// The refetch it is part of; zero for none.
    pub(crate) refetch: u64,
    /// Of a validation: the number of the origin's answer that the stored body is a copy of.
    pub(crate) copy: Option<u64>,
    /// Where interim answers go.
    pub(crate) interim: Option<Interim>,
    /// An earlier request for the same failed or was interrupted.
    pub(crate) again: bool,
    /// Origins are asked for the body without a content coding: it is a slice, and an origin that compresses as it
    /// sends has no slices of what it compresses.
    pub(crate) uncoded: bool,
    /// Where no user waits yet: whether one has begun to.
    pub(crate) awaited: Option<Awaited>,
    /// Of a prefetch: whether anybody waits for an answer.
    pub(crate) wanted: Option<watch::Receiver<bool>>,
}

impl Question {
    /// Whether the method is safe, so that repeating the request does no harm (RFC 9110 §9.2.1).
    pub(crate) fn is_safe(&self) -> bool {
        self.method.is_safe()
    }

    /// Resolves once nobody waits for an answer any more.
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
    /// How long ago its sender knew it to be good; zero from the origin.
    pub(crate) age: Option<Duration>,
    pub(crate) from: From,
    /// The refetch its sender fetched it for; zero for none, and from the origin.
    pub(crate) refetch: u64,
    /// The number of the origin's answer that its body is a copy of; zero when the sender does not know, and from the
    /// origin.
    pub(crate) copy: u64,
    /// One of the [`PAST_PARENTS_MAX`] permits, held while the fetch runs.
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
    /// There are parents, and none can serve now.
    #[error("no parent can serve: {0}")]
    NoParent(String),
    /// No parent can be reached, and only a user's request goes past them.
    #[error("no parent can be reached: {0}")]
    NotPastParents(String),
    /// The origin is at its limit or named a time to come back, or the parent that most likely has the object has just
    /// gone; try again after this time.
    #[error("the origin asks for a retry in {} seconds", .0.as_secs().max(1))]
    Busy(Duration),
    /// A part was to be stored, and the store takes nothing now: it is out of room, or out of service.
    #[error("the store accepts no bodies")]
    NotTaken,
    /// Nobody waits for it any more.
    #[error("no request waits for it any more")]
    Left,
    #[error("the URL cannot be requested")]
    BadUrl,
    /// A part was requested, and the response is no part of the body it belongs to.
    #[error("the object changed while parts of it were fetched")]
    Changed,
}

impl std::convert::From<AskError> for Cause {
    fn from(error: AskError) -> Cause {
        match error {
            AskError::Timeout => Cause::OriginTimeout,
            // Rounded up: a retry a moment too soon would be put off once more.
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
    /// A client whose connections are tasks of the calling runtime; requests must be made on that runtime too.
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

    /// Asks, and returns once the head of an answer has arrived. A `body` that was sent, even in part, is sent to
    /// nobody else.
    pub(crate) async fn ask(&self, question: &Question, body: Option<UpBody>) -> Result<Answer, AskError> {
        let inner = &*self.0;
        let known = inner.knowing.known().clone();
        if known.tag != question.log {
            return Err(AskError::NoParent("the log was changed for another".to_owned())); // fences are per log
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

    /// The limits on requests to origins.
    pub(crate) fn limiter(&self) -> &Arc<Limiter> {
        self.0.sources.limiter()
    }

    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        let inner = &*self.0;
        inner.pool.show(page);
        inner.sources.show(page);
        inner.parents.show(page);
        let running = PAST_PARENTS_MAX - inner.past_parents.available_permits();
        page.counter(
            "past_parents_total",
            "Fetches from an origin because no parent could be reached",
            inner.went_past.get(),
        );
        page.gauge("past_parents_running", "Fetches under way that bypass unreachable parents", running);
        page.gauge(
            "past_parents_max",
            "Maximum of concurrent fetches that bypass unreachable parents",
            PAST_PARENTS_MAX,
        );
    }
}

impl Inner {
    /// Names and addresses of the parents in rendezvous order, without those the request has passed.
    fn parents_for(&self, known: &Known, question: &Question) -> Vec<(NodeName, String)> {
        let own = self.knowing.name();
        let parents = known.knowledge.topology.parents(own, question.key.hash());
        let fresh = parents.into_iter().filter(|parent| &parent.name != own && !question.passed.contains(&parent.name));
        fresh.map(|parent| (parent.name.clone(), parent.advertise_url.clone())).collect()
    }

    /// As [`Inner::ask_parents`], but a request that no user waits for is sent again as a user's as soon as one does,
    /// because parents let users in first. A parent that was asked already joins the two.
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
            // First: dropping the request tells the parent that its child has left.
            () = question.all_left() => Err(AskError::Left),
            // Before the answer: a user who waits by now must not be told what puts a prefetch off. The first request
            // is dropped by then, and with it its admission: if that was the trial of a parent, this one is.
            () = until_awaited(&mut awaited) => {
                let question = Question { purpose: Purpose::User, awaited: None, wanted: None, ..question.clone() };
                self.ask_parents(&question, known, parents, None, until).await
            }
            answer = self.ask_parents(question, known, parents.clone(), body, until) => answer,
        }
    }

    /// Asks the parents that are well, then the origin where that is allowed, else the parents that rest.
    async fn ask_parents(
        &self,
        question: &Question,
        known: &Known,
        parents: Vec<(NodeName, String)>,
        mut body: Option<UpBody>,
        until: Instant,
    ) -> Result<Answer, AskError> {
        let for_user = question.purpose == Purpose::User;
        if !for_user && parents.first().is_some_and(|(name, _)| self.parents.is_missed_and_rests(name)) {
            return Err(AskError::Busy(MISSED_AGAIN));
        }
        let mut resting = Vec::new();
        let mut so_far = SoFar { left: TRIES_MAX, problem: "none is known".to_owned(), reached: false };
        // Lazily: admitting a parent after a rest puts it on trial.
        let well = parents.into_iter().filter_map(|parent| match self.parents.admits(&parent.0) {
            Some(admission) => Some((parent, Some(admission))),
            None => {
                resting.push((parent, None));
                None
            }
        });
        if let Some(ended) = self.ask_some(question, known, well, &mut so_far, &mut body, until).await {
            return ended;
        }
        if !so_far.reached
            && for_user
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
        match !for_user && !so_far.reached {
            true => Err(AskError::NotPastParents(so_far.problem)),
            false => Err(AskError::NoParent(so_far.problem)),
        }
    }

    /// Asks parents one after the other; `None` when none of them had an answer and others may be asked.
    async fn ask_some(
        &self,
        question: &Question,
        known: &Known,
        mut parents: impl Iterator<Item = ((NodeName, String), Option<Admission<'_, NodeName>>)>,
        so_far: &mut SoFar,
        body: &mut Option<UpBody>,
        until: Instant,
    ) -> Option<Result<Answer, AskError>> {
        let with_body = body.is_some();
        let repeatable = !with_body && question.is_safe();
        while so_far.left > 0
            && let Some(((name, url), _admission)) = parents.next()
        {
            so_far.left -= 1;
            match self.parents.ask(question, known, &name, &url, body, until).await {
                Ok(answer) => return Some(Ok(answer)),
                Err(NoAnswer::Told(error)) => return Some(Err(error)),
                Err(NoAnswer::Refused(problem)) if with_body && body.is_none() => {
                    return Some(Err(AskError::NoParent(problem))); // the body is gone
                }
                Err(NoAnswer::Refused(problem)) => (so_far.problem, so_far.reached) = (problem, true),
                Err(NoAnswer::Unreachable { problem, unsent }) => {
                    if !unsent && !repeatable {
                        return Some(Err(AskError::NoParent(problem)));
                    }
                    if question.purpose != Purpose::User && self.parents.is_missed(&name) {
                        return Some(Err(AskError::Busy(MISSED_AGAIN)));
                    }
                    so_far.problem = problem;
                }
            }
        }
        None
    }
}

/// The outcome of asking parents so far.
struct SoFar {
    /// How many may still be asked.
    left: usize,
    problem: String,
    /// Whether one of them answered, though it could not serve.
    reached: bool,
}

/// The extra time that answers for a domain are waited for: some origins are known to be slow.
pub(crate) fn patience(domain: &Domain) -> Duration {
    domain.functions.rules().fetch.timeout.unwrap_or_default()
}

/// Whether the fence applies to answers to `method` (fence, assumption 6).
pub(crate) fn is_fenced(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The target of a request line.
pub(crate) fn target(path: &str) -> Result<PathAndQuery, AskError> {
    PathAndQuery::try_from(path).map_err(|_| AskError::BadUrl)
}

/// The value of a `Host` header.
pub(crate) fn host(name: &str) -> Result<HeaderValue, AskError> {
    HeaderValue::from_str(name).map_err(|_| AskError::BadUrl)
}

/// An error and its causes, in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words = format!("{words}: {cause}");
        source = cause.source();
    }
    words
}
