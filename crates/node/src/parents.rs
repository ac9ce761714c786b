//! Requests to a parent: which headers they carry, how much of the answer is believed, and how a parent is known to be
//! alive meanwhile.
//!
//! A parent may wait for the origin as long as it likes, so its silence proves nothing. A parent that stays silent for
//! [`PATIENCE`] is greeted on a separate connection: a live node answers a greeting at once, whatever else it waits
//! for. Requests that wait for one parent greet it one at a time, and share the greeting and its outcome. A request
//! whose greeting is not answered is given up and goes to the next parent.
//!
//! # What always holds
//!
//! - A stalled parent holds a request for [`PATIENCE`] and [`GREETING_MAX`], however many requests wait for it, not for
//!   as long as an origin may take.
//! - A parent that could not be reached rests (`health`): it is asked after the other parents, or after the origin. A
//!   prefetch waits a little for it before others are asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use hyper::body::Incoming;
use model::{NodeName, Revision, Topology};
use tokio::time::Instant;

use crate::figures::FromAbove;
use crate::health::{Admission, Health, REMEMBERED_MAX, Rules};
use crate::knowing::Known;
use crate::limiter::PUT_OFF;
use crate::metrics::{Counter, Page};
use crate::network::Endpoint;
use crate::peer;
use crate::pool::{Bounds, Failure, Message, Pool};
use crate::upload::TAKES_MAX;
use crate::upstream::{Answer, AskError, From, Question, UpBody, host, is_fenced, target};

/// Longest wait for a connection to a parent: enough to send one lost packet of the handshake again.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long a parent may be silent before it is greeted, and the interval between greetings.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for the answer to a greeting.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// How long a prefetch waits for a parent that has just gone. It is most likely about to be back, with all that it has
/// fetched, while another parent would ask the origin for it once more (promise P3). Longer than the first rest, so
/// that the parent is tried again within it.
const MISSED_MAX: Duration = Duration::from_secs(15);

/// When a parent rests, and for how long.
const RULES: Rules = Rules { failures: 1, first: Duration::from_secs(5), most: Duration::from_secs(60) };

/// Why a parent gave no answer.
pub(crate) enum NoAnswer {
    /// No connection, or it broke, or the parent fell silent.
    Unreachable {
        problem: String,
        /// Whether nothing was sent.
        unsent: bool,
    },
    /// It answered, but not as a node that saw the fence and can serve.
    Refused(String),
    /// It reported that the origin gave it no answer.
    Told(AskError),
}

/// When a parent was last heard from.
#[derive(Default)]
struct Heard {
    last: Mutex<Option<Instant>>,
    /// Held while greeting; when the last greeting that was not answered ended.
    greeting: tokio::sync::Mutex<Option<Instant>>,
}

impl Heard {
    fn now(&self) {
        *self.last.lock().expect("no holder of this lock can panic") = Some(Instant::now());
    }

    fn since(&self, moment: Instant) -> bool {
        self.last.lock().expect("no holder of this lock can panic").is_some_and(|last| last >= moment)
    }
}

/// A node's client for its parents.
pub(crate) struct Parents {
    pool: Pool,
    own: NodeName,
    health: Health<NodeName>,
    /// At most one entry for each member, and [`REMEMBERED_MAX`] for nodes that are members no longer.
    heard: Mutex<HashMap<NodeName, Arc<Heard>>>,
    asked: Counter,
    unreachable: Counter,
    greeted: Counter,
    silent: Counter,
}

impl Parents {
    pub(crate) fn new(pool: Pool, own: NodeName, seed: u64) -> Parents {
        Parents {
            pool,
            own,
            health: Health::new(RULES, seed),
            heard: Mutex::default(),
            asked: Counter::default(),
            unreachable: Counter::default(),
            greeted: Counter::default(),
            silent: Counter::default(),
        }
    }

    /// Admission to ask a parent; after a rest, the request is the trial.
    pub(crate) fn admits(&self, name: &NodeName) -> Option<Admission<'_, NodeName>> {
        self.health.admits(name, Instant::now())
    }

    /// Whether a parent has gone so recently that a prefetch waits for it to return.
    pub(crate) fn is_missed(&self, name: &NodeName) -> bool {
        let now = Instant::now();
        self.health.failing(name, now).is_some_and(|(since, _)| now.saturating_duration_since(since) < MISSED_MAX)
    }

    /// Whether a parent is missed, and still rests.
    pub(crate) fn is_missed_and_rests(&self, name: &NodeName) -> bool {
        let rests = self.health.failing(name, Instant::now()).is_some_and(|(_, rests)| rests);
        rests && self.is_missed(name)
    }

    fn heard(&self, known: &Known, name: &NodeName) -> Arc<Heard> {
        let mut heard = self.heard.lock().expect("no holder of this lock can panic");
        remembered(&mut heard, &known.knowledge.topology, name)
    }

    /// Asks one parent.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        known: &Known,
        name: &NodeName,
        url: &str,
        body: &mut Option<UpBody>,
        until: Instant,
    ) -> Result<Answer, NoAnswer> {
        let endpoint = url.parse::<Uri>().ok().as_ref().and_then(Endpoint::of);
        let endpoint = endpoint.ok_or_else(|| NoAnswer::Refused(format!("{name}: its address is not a URL")))?;
        let target = target(&question.asked.path).map_err(NoAnswer::Told)?;
        let mut headers = question.headers.clone();
        headers.insert(HOST, host(&question.asked.host).map_err(NoAnswer::Told)?);
        peer::introduce(&mut headers, known, question.fetch.fence, &question.passed, &self.own);
        peer::tell_purpose(&mut headers, question.purpose, question.again);
        peer::tell_scheme(&mut headers, question.asked.secure);
        peer::tell_key(&mut headers, question.domain.functions.rules().key.verbatim);
        peer::tell_refetch(&mut headers, question.refetch);
        question.copy.iter().for_each(|copy| peer::tell_copy(&mut headers, *copy));
        let message = Message {
            method: &question.method,
            target: &target,
            headers: &headers,
            interim: question.interim.as_ref(),
        };
        let left = until.saturating_duration_since(Instant::now());
        // A parent reads the body no faster than the origin does, and should be the first to report that the origin
        // stalls.
        let bounds = Bounds { connect: left.min(CONNECT_MAX), takes: 2 * TAKES_MAX, first_byte: left };
        let heard = self.heard(known, name);
        self.asked.inc();
        let sent = tokio::select! {
            sent = self.pool.send(&endpoint, &message, body, bounds) => sent,
            () = self.falls_silent(known, &endpoint, &heard) => {
                self.silent.inc();
                Err(Failure::of("fell silent".to_owned()))
            }
        };
        let failed = |failure: Failure| {
            // The parent is alive and waits for the origin; the next parent would do the same.
            if failure.late && !failure.unsent && Instant::now() >= until {
                return NoAnswer::Told(AskError::Timeout);
            }
            if failure.by_client {
                return NoAnswer::Told(AskError::Left);
            }
            // The parent is as well as before, and the next one would hardly answer anything else.
            if failure.unusable {
                return NoAnswer::Refused(format!("{name}: {}", failure.problem));
            }
            self.unreachable.inc();
            self.health.failed_at(name, Instant::now());
            NoAnswer::Unreachable { problem: format!("{name}: {}", failure.problem), unsent: failure.unsent }
        };
        let answer = sent.map_err(failed)?;
        heard.now();
        self.health.answered(name);
        believed(question, name, answer)
    }

    /// Resolves when the parent does not answer a greeting.
    async fn falls_silent(&self, known: &Known, endpoint: &Endpoint, heard: &Heard) {
        loop {
            let since = Instant::now();
            tokio::time::sleep(PATIENCE).await;
            if heard.since(since) {
                continue;
            }
            let would_greet = Instant::now();
            let mut silent = heard.greeting.lock().await;
            // Another request may have greeted it meanwhile, with or without an answer.
            if heard.since(since) {
                continue;
            }
            if silent.is_some_and(|at| at >= would_greet) {
                return;
            }
            if !self.greet(known, endpoint).await {
                *silent = Some(Instant::now());
                return;
            }
            heard.now();
        }
    }

    async fn greet(&self, known: &Known, endpoint: &Endpoint) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("warmfront"));
        peer::introduce(&mut headers, known, Revision::ZERO, &[], &self.own);
        headers.insert(peer::ALIVE, HeaderValue::from_static("?"));
        let target = PathAndQuery::from_static("/");
        let message = Message { method: &Method::HEAD, target: &target, headers: &headers, interim: None };
        let bounds = Bounds { connect: GREETING_MAX, takes: GREETING_MAX, first_byte: GREETING_MAX };
        self.greeted.inc();
        let sent = tokio::time::timeout(GREETING_MAX, self.pool.send(endpoint, &message, &mut None, bounds)).await;
        // Any answer shows that it is alive.
        matches!(sent, Ok(Ok(_)))
    }

    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        let (resting, _) = self.health.counts(Instant::now());
        page.counter("parent_requests_total", "Requests sent to parents", self.asked.get());
        page.counter("parent_failures_total", "Requests that did not reach their parent", self.unreachable.get());
        page.counter(
            "parent_greetings_total",
            "Times that a silent parent was asked whether it is alive",
            self.greeted.get(),
        );
        page.counter("parent_silent_total", "Requests given up because the parent was not alive", self.silent.get());
        let heard = self.heard.lock().expect("no holder of this lock can panic").len();
        page.gauge("parents_remembered", "Nodes whose last sign of life is remembered", heard);
        page.gauge("parents_resting", "Parents that are asked only after the others because they failed", resting);
    }
}

/// When `name` was last heard from. Names of nodes that are members no longer are dropped once there are many.
fn remembered(heard: &mut HashMap<NodeName, Arc<Heard>>, topology: &Topology, name: &NodeName) -> Arc<Heard> {
    if heard.len() >= REMEMBERED_MAX && !heard.contains_key(name) {
        heard.retain(|name, _| topology.members.contains_key(name));
    }
    heard.entry(name.clone()).or_default().clone()
}

/// The part of a parent's answer that is believed.
fn believed(question: &Question, name: &NodeName, answer: Response<Incoming>) -> Result<Answer, NoAnswer> {
    let (mut head, body) = answer.into_parts();
    let age = peer::told_age(&head.headers);
    let (refetch, copy) = (peer::refetch(&head.headers), peer::copy(&head.headers).unwrap_or(0));
    let origin = head.headers.get(peer::ORIGIN).map(|origin| origin.as_bytes().to_vec());
    peer::strip(&mut head.headers);
    match (age, origin.as_deref()) {
        (None, Some(b"timeout")) => Err(NoAnswer::Told(AskError::Timeout)),
        (None, Some(b"busy")) => {
            Err(NoAnswer::Told(AskError::Busy(httpcache::delay(&head.headers).unwrap_or(PUT_OFF))))
        }
        (None, Some(_)) => Err(NoAnswer::Told(AskError::Unreachable(format!("{name} could not reach the origin")))),
        (None, None) if is_fenced(&question.method) => {
            Err(NoAnswer::Refused(format!("{name}: answered {} without an age", head.status)))
        }
        (age, _) => {
            let mut answer = Answer::new(head, FromAbove::parent(body), age, From::Parent(name.clone()));
            (answer.refetch, answer.copy) = (refetch, copy);
            Ok(answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Isolation, Member, PopName, Tier};

    use super::*;

    #[test]
    fn nodes_that_are_members_no_longer_are_forgotten_once_there_are_many() {
        let name = |n: usize| NodeName::parse(&format!("n{n}")).unwrap();
        let member = Member {
            name: name(0),
            pop: PopName::parse("p").unwrap(),
            tier: Tier::L2,
            advertise_url: "http://127.0.0.1:1".to_owned(),
            isolation: Isolation::Revalidate,
        };
        let mut topology = Topology::default();
        topology.members.insert(name(0), member);
        let mut heard = HashMap::new();
        let first = remembered(&mut heard, &topology, &name(0));
        first.now();
        for n in 1..3 * REMEMBERED_MAX {
            remembered(&mut heard, &topology, &name(n));
            assert!(heard.len() <= REMEMBERED_MAX + 1);
        }
        assert!(Arc::ptr_eq(&remembered(&mut heard, &topology, &name(0)), &first), "a member is not forgotten");
    }
}
