//! The origin servers of a domain: which is asked first, how each is asked, and which is asked next.
//!
//! Sources have a priority and a weight. Within a priority the key chooses the first source, by weight, so that an
//! object is always requested from the same source while that one is well. A source that fails several times in a row
//! is asked only after the others for a while (`health`).
//!
//! # What always holds
//!
//! - The next source is asked when one cannot be reached, is late, closes the connection before its answer, or answers
//!   502, 503 or 504; but only if nothing was sent, or the method is safe and there is no body.
//! - When all fail, the result is the last answer that came, if any did.
//! - By https, a certificate must match the intended name: that of the source, or of the accelerated domain where the
//!   source is an address.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT_ENCODING, HOST, RANGE};
use http::{Response, StatusCode, Uri};
use hyper::body::Incoming;
use model::{Source, UrlKey};
use tokio::time::Instant;

use crate::circle;
use crate::figures::{Figures, FromAbove, Meter};
use crate::fill::Purpose;
use crate::framing;
use crate::functions::{fetch, keep};
use crate::health::{Admission, Health, REMEMBERED_MAX, Rules};
use crate::knowing::Knowing;
use crate::limiter::{self, Limiter, NotNow, Permit, Prefetching};
use crate::metrics::{Counter, Page};
use crate::network::Endpoint;
use crate::peer;
use crate::pool::{Bounds, Failure, Message, Pool};
use crate::upload::TAKES_MAX;
use crate::upstream::{Answer, AskError, From, Question, TRIES_MAX, UpBody, host, target};

/// Longest wait for a connection to an origin, including DNS and TLS.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Longest wait for the first byte of an origin's answer.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(30);

/// When a source rests, and for how long.
const RULES: Rules = Rules { failures: 3, first: Duration::from_secs(5), most: Duration::from_secs(120) };

/// A node's client for sources.
pub(crate) struct Sources {
    pool: Pool,
    knowing: Arc<Knowing>,
    figures: Arc<Figures>,
    health: Health<Endpoint>,
    asked: Counter,
    failed: Counter,
    failed_over: Counter,
    limiter: Arc<Limiter>,
}

impl Sources {
    pub(crate) fn new(pool: Pool, seed: u64, knowing: Arc<Knowing>, figures: Arc<Figures>) -> Sources {
        Sources {
            pool,
            limiter: Arc::new(Limiter::new(seed)),
            knowing,
            figures,
            health: Health::new(RULES, seed),
            asked: Counter::default(),
            failed: Counter::default(),
            failed_over: Counter::default(),
        }
    }

    /// The limits on requests to origins.
    pub(crate) fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Asks the sources of a domain until one answers, or `until`.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        body: &mut Option<UpBody>,
        until: Instant,
    ) -> Result<Answer, AskError> {
        let with_body = body.is_some();
        let repeatable = !with_body && question.is_safe();
        let sources = in_order(&question.domain.sources, question.key.hash());
        let mut first: VecDeque<Candidate> =
            sources.into_iter().map(|source| Candidate::new(source, question)).collect();
        let mut resting = VecDeque::new();
        let mut last = Err(AskError::Unreachable("the domain has no source".to_owned()));
        let mut tries: usize = 0;
        while let Some((source, admission)) = self.next(&mut first, &mut resting) {
            let answered = self.ask_one(question, &source, body, until).await;
            drop(admission);
            // A source that was sent nothing does not use up a try.
            tries += usize::from(!matches!(answered, Err(NotAsked { unsent: true, .. })));
            self.note(question, &answered);
            let more = tries < TRIES_MAX && Instant::now() < until && !(first.is_empty() && resting.is_empty());
            match answered {
                Ok(mut answer) if repeatable && more && is_failure(answer.head.status) => {
                    answer.body.leave();
                    last = Ok(answer);
                }
                Ok(answer) => return Ok(answer),
                Err(NotAsked { error: AskError::Left, .. }) => return Err(AskError::Left),
                Err(error) => {
                    let again = more && (repeatable || error.unsent);
                    if last.is_err() {
                        last = Err(error.error);
                    }
                    if !again {
                        return last;
                    }
                }
            }
            self.failed_over.inc();
        }
        last
    }

    /// Records whether a prefetch got its object: if not, asking the next source, or asking again later, counts as a
    /// retry.
    fn note(&self, question: &Question, answered: &Result<Answer, NotAsked>) {
        let came = match answered {
            _ if question.purpose != Purpose::Prefetch => return,
            Err(NotAsked { error: AskError::Busy(_) | AskError::Left, .. }) => return, // no request was sent
            Ok(answer) => !may_come_again(answer.head.status),
            Err(_) => false,
        };
        self.limiter.note(question.key.hash(), came);
    }

    /// The next source: the sources that are well in their order, each with its admission, then those that rest.
    fn next(
        &self,
        first: &mut VecDeque<Candidate>,
        resting: &mut VecDeque<Candidate>,
    ) -> Option<(Candidate, Option<Admission<'_, Endpoint>>)> {
        while let Some(source) = first.pop_front() {
            if let Some(admission) = self.health.admits(&source.endpoint, Instant::now()) {
                return Some((source, Some(admission)));
            }
            resting.push_back(source);
        }
        resting.pop_front().map(|source| (source, None))
    }

    async fn ask_one(
        &self,
        question: &Question,
        source: &Candidate,
        body: &mut Option<UpBody>,
        until: Instant,
    ) -> Result<Answer, NotAsked> {
        let functions = &question.domain.functions;
        let with_body = body.is_some();
        let mut headers = question.headers.clone();
        if question.uncoded {
            headers.remove(ACCEPT_ENCODING);
        }
        fetch::headers(functions, &mut headers);
        circle::tell(&mut headers, question.log, &question.asked.host);
        headers.insert(HOST, host(&source.host)?);
        let target = target(&source.path)?;
        let message = Message {
            method: &question.method,
            target: &target,
            headers: &headers,
            interim: question.interim.as_ref(),
        };
        let bounds = || {
            let left = until.saturating_duration_since(Instant::now());
            // An origin that was sent a body needs time to process it.
            let first_byte = if with_body { left } else { left.min(source.timeout.unwrap_or(FIRST_BYTE_MAX)) };
            Bounds { connect: left.min(CONNECT_MAX), takes: TAKES_MAX, first_byte }
        };
        let mut permit = self.enter(question, &source.endpoint, until).await?;
        self.asked.inc();
        let at = self.knowing.clock().now();
        let sent = self.pool.send(&source.endpoint, &message, body, bounds()).await;
        if let Err(Failure { by_client: true, .. }) = &sent {
            return Err(AskError::Left.into());
        }
        self.tell(&permit, &sent, !with_body);
        match &sent {
            Ok(answer) if !is_failure(answer.status()) => self.health.answered(&source.endpoint),
            Ok(_) | Err(_) => {
                self.failed.inc();
                self.health.failed_at(&source.endpoint, Instant::now());
            }
        }
        let mut answer = sent?;
        let mut meter = self.meter(question, &source.endpoint, at, answer.status());
        let mut hop = Redirected {
            endpoint: source.endpoint.clone(),
            host: source.host.clone(),
            path: source.path.clone(),
            elsewhere: false,
        };
        for _ in 0..if with_body { 0 } else { fetch::follows(functions) } {
            let Some(next) = hop.follow(question, &answer) else { break };
            hop = next;
            if hop.elsewhere {
                fetch::leave_behind(functions, &mut headers);
            }
            headers.insert(HOST, host(&hop.host)?);
            let target = self::target(&hop.path)?;
            let message = Message {
                method: &question.method,
                target: &target,
                headers: &headers,
                interim: question.interim.as_ref(),
            };
            // Whoever waits for a permit holds none; otherwise waiting requests could hold them all.
            drop(permit);
            permit = self.enter(question, &hop.endpoint, until).await?;
            self.asked.inc();
            let at = self.knowing.clock().now();
            let sent = self.pool.send(&hop.endpoint, &message, &mut None, bounds()).await;
            self.tell(&permit, &sent, true);
            answer = sent?;
            // The answer before the redirect is counted here, without its body.
            meter = self.meter(question, &hop.endpoint, at, answer.status());
        }
        let (mut head, body) = answer.into_parts();
        peer::strip(&mut head.headers);
        keep::answered(functions, head.status, &mut head.headers);
        // Otherwise every child would refuse the answer of its parent.
        framing::answer_leaves_room(&head.headers)
            .map_err(|problem| NotAsked { error: AskError::Unreachable(problem.to_owned()), unsent: false })?;
        // A part that nobody asked for would be taken for the whole (RFC 9110 §15.3.7).
        if head.status == StatusCode::PARTIAL_CONTENT && !headers.contains_key(RANGE) {
            let problem = "it answered a request for the whole body with a part".to_owned();
            return Err(NotAsked { error: AskError::Unreachable(problem), unsent: false });
        }
        Ok(Answer::new(head, FromAbove::origin(body, meter, permit), Some(Duration::ZERO), From::Origin))
    }

    /// A slot at an origin; a prefetch has to wait for one, and a validation in the background gets one at once or not
    /// at all.
    async fn enter(&self, question: &Question, endpoint: &Endpoint, until: Instant) -> Result<Permit, NotAsked> {
        let (domain, awaited) = (&question.domain, question.awaited.clone());
        let entered = match question.purpose {
            Purpose::User | Purpose::Revalidation => self.limiter.enter(endpoint, question.purpose, awaited).await,
            Purpose::Prefetch => {
                let (limit, key) = (&domain.functions.rules().prefetch, question.key.hash());
                let asks = Prefetching { domain: domain.name.as_str(), limit, key, again: question.again };
                let entered = self.limiter.enter_prefetching(endpoint, asks, awaited);
                tokio::select! {
                    biased;
                    () = question.all_left() => return Err(AskError::Left.into()),
                    entered = tokio::time::timeout_at(until, entered) => entered.unwrap_or(Err(NotNow::Full)),
                }
            }
        };
        entered.map_err(|not_now| match not_now {
            NotNow::Closed(after) => AskError::Busy(after).into(),
            NotNow::Full => AskError::Busy(limiter::PUT_OFF).into(),
        })
    }

    /// Tells the origin's limit how it answered, and, if `timed`, after how long: how long it takes to send a body is no word about
    /// how busy the origin is.
    fn tell(&self, permit: &Permit, sent: &Result<Response<Incoming>, Failure>, timed: bool) {
        match sent {
            Ok(answer) if permit.is_too_much(answer.status()) => {
                match httpcache::retry_after(answer.headers(), self.knowing.clock().now()) {
                    // A delay of zero is no pause: such an origin rests like one that names none.
                    Some(after) if !after.is_zero() => permit.closed(after),
                    _ => permit.failed(true),
                }
            }
            Ok(answer) if is_failure(answer.status()) => permit.failed(false),
            Ok(answer) if may_come_again(answer.status()) => permit.failed_alone(),
            Ok(_) => permit.answered(timed),
            Err(_) => permit.failed(false),
        }
    }

    /// Counts an answer for the figures of the domain.
    fn meter(&self, question: &Question, asked: &Endpoint, at: SystemTime, status: StatusCode) -> Option<Meter> {
        let slot = self.knowing.known().sites.slot(&question.domain)?;
        // The URL as requested: a key may be on another host, or no URL at all.
        let url = UrlKey::new(&question.asked.host, &question.asked.path).unwrap_or_else(|_| question.key.clone());
        let (figures, secure) = (self.figures.clone(), asked.tls.is_some());
        Some(Meter { figures, slot, url, at, secure, status: status.as_u16(), bytes: 0 })
    }

    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        let (resting, remembered) = self.health.counts(Instant::now());
        page.counter("origin_requests_total", "Requests sent to origins", self.asked.get());
        page.counter(
            "origin_failures_total",
            "Requests to origins that failed or were answered 502, 503 or 504",
            self.failed.get(),
        );
        page.counter("origin_failovers_total", "Times that another source was asked instead", self.failed_over.get());
        self.limiter.show(page);
        page.gauge("origins_resting", "Sources that are asked only after the others because they failed", resting);
        page.gauge("origins_failing", "Sources whose last answer was a failure", remembered);
        page.gauge("origins_failing_max", "Maximum of failing sources that are remembered", REMEMBERED_MAX);
    }
}

/// A source, and how it is asked.
struct Candidate {
    endpoint: Endpoint,
    /// The `Host` header.
    host: String,
    path: String,
    /// The configured wait for its first byte, if any.
    timeout: Option<Duration>,
}

impl Candidate {
    fn new(source: &Source, question: &Question) -> Candidate {
        let way = fetch::way(&question.domain.functions, source, &question.key, &question.asked);
        let endpoint = Endpoint { host: source.content.clone(), port: way.port, tls: way.tls };
        Candidate { endpoint, host: way.host, path: way.path, timeout: way.timeout }
    }
}

/// The target of a redirect.
struct Redirected {
    endpoint: Endpoint,
    host: String,
    path: String,
    /// Whether it is, or was reached by, another server than the source.
    elsewhere: bool,
}

impl Redirected {
    /// The target of this answer's redirect, if it is to be followed.
    fn follow(&self, question: &Question, answer: &Response<Incoming>) -> Option<Redirected> {
        let from = fetch::Redirecting {
            url: self.uri()?,
            host: &self.host,
            site: &question.asked.host,
            is_source: !self.elsewhere,
        };
        let functions = &question.domain.functions;
        let fetch::Target { url, host, same } =
            fetch::follow(functions, &question.method, &from, answer.status(), answer.headers())?;
        let path = framing::path(&url).into_owned();
        let endpoint = if same { self.endpoint.clone() } else { Endpoint::of(&url)? };
        Some(Redirected { endpoint, host, path, elsewhere: self.elsewhere || !same })
    }

    fn uri(&self) -> Option<Uri> {
        let Endpoint { host, port, tls } = &self.endpoint;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority = match (tls, port) {
            (Some(_), 443) | (None, 80) => host,
            (_, port) => format!("{host}:{port}"),
        };
        Uri::builder().scheme(scheme).authority(authority).path_and_query(self.path.as_str()).build().ok()
    }
}

/// Why one source gave no answer.
struct NotAsked {
    error: AskError,
    unsent: bool,
}

impl std::convert::From<Failure> for NotAsked {
    fn from(failure: Failure) -> NotAsked {
        let error = if failure.late { AskError::Timeout } else { AskError::Unreachable(failure.problem) };
        NotAsked { error, unsent: failure.unsent }
    }
}

impl std::convert::From<AskError> for NotAsked {
    fn from(error: AskError) -> NotAsked {
        NotAsked { error, unsent: true }
    }
}

/// Whether an answer of this status fails a prefetch, but a later one may succeed.
fn may_come_again(status: StatusCode) -> bool {
    model::Cause::OriginStatus(status.as_u16()).is_transient()
}

/// Whether a status says that the source cannot serve now, so that another one may (RFC 9110 §15.6).
fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// The sources in the order of their priority numbers; within a priority the key chooses the first one, by weight.
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

#[cfg(test)]
mod tests {
    use super::*;
    use model::SourceKind;

    #[test]
    fn sources_are_asked_by_priority_then_weight() {
        let source = |content: &str, priority, weight| Source {
            kind: SourceKind::Domain,
            content: content.into(),
            port: 80,
            priority,
            weight,
            scheme: None,
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
