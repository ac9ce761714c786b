//! What becomes of a request: site, key, lookup, judge, decide, one `match`. The place to start reading.
//!
//! A prefetch takes the same way ([`Pipeline::warm`]): a GET with another purpose.
//!
//! # What always holds
//!
//! - Every header of a body is judged right before it is sent, by [`Knowing::judge`] alone: from the store, from a running fetch,
//!   for who began it as for who joined (rule 3). What fails is asked for again, a bounded number of times.
//! - Nobody is served before the node is a member, or after it was told that it is none (rule 8).
//! - A child's request without a fence of this log is refused.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{
    ALLOW, CONTENT_LENGTH, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
    TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use httpcache::{Allowed, Decision, Forward};
use hyper::body::Incoming;
use model::fence::{Asker, Verdict, Vouched};
use model::functions::{Ranges, sent_to};
use model::mistake::{Mistake, made};
use model::{Domain, Mode, Revision, UrlKey};
use store::Store;
use tokio::time::Instant;

use crate::circle;
use crate::exchange::Counted;
use crate::figures::Figures;
use crate::fill::{Arrived, ArrivedBody, Came, Confirmable, Fills, LoneAnswer, Order, Outcome, Purpose};
use crate::framing;
use crate::functions::reply::Telling;
use crate::functions::{access, keep};
use crate::head::{self, Head, ObjectKey, Stored};
use crate::knowing::{Judged, Judging, Knowing, Known, LogTag};
use crate::listener::Handoff;
use crate::lookup::stored;
use crate::metrics::{self, Metrics, Refusal};
use crate::peer::{self, BadCaller};
use crate::pins::Pins;
use crate::respond::{AnswerBody, Reply, Said, Signs, strongly};
use crate::slices::{self, Part};
use crate::upstream::{self, AskError, From};
use crate::wanted::Wanted;

mod past;

/// The one transfer coding that there is here.
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

/// How often one request looks again because what it waited for was overtaken (fence, assumption 7).
pub(crate) const ATTEMPTS_MAX: u32 = 5;

/// Longest time one request waits for fetches, all those together that were overtaken; a little more than one of them takes that
/// tries every parent and source.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Everything a request needs.
pub(crate) struct Pipeline {
    knowing: Arc<Knowing>,
    store: Store,
    fills: Arc<Fills>,
    metrics: Arc<Metrics>,
    figures: Arc<Figures>,
    pins: Arc<Pins>,
    signs: Signs,
}

/// What lies in the store for a request.
pub(crate) struct Found {
    pub(crate) object: store::Object,
    pub(crate) head: Arc<Head>,
    pub(crate) vouched: Vouched,
}

/// Where a request's object lies or would lie.
pub(crate) struct Look {
    pub(crate) key: ObjectKey,
    pub(crate) seen: Option<store::Generation>,
    pub(crate) found: Option<Found>,
    /// The marker that leads to the variants, if there are some.
    pub(crate) marker: Option<store::Generation>,
}

/// How something is asked for.
struct Asking {
    /// A 304 is good enough.
    confirm: bool,
    /// What is stored may stand in for an answer that fails, if the fence allows it then.
    stale_if_error: bool,
    why: Forward,
    /// Not with others.
    alone: bool,
}

/// Conditions and parts (RFC 9110 §13.1, §14.2): of what is asked for one user they go upstream as he sent them.
const OF_ONE: [HeaderName; 6] = [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

/// What waiting for a fetch came to.
#[expect(clippy::large_enum_variant, reason = "moved once, into the answer; a box would cost more")]
enum Step {
    Answer(Response<AnswerBody>),
    /// Look again; alone, when what was waited for was another's.
    Again {
        alone: bool,
    },
}

impl Pipeline {
    pub(crate) fn new(
        knowing: Arc<Knowing>,
        store: Store,
        fills: Arc<Fills>,
        metrics: Arc<Metrics>,
        figures: Arc<Figures>,
        pins: Arc<Pins>,
    ) -> Pipeline {
        let signs = Signs::new(knowing.name());
        Pipeline { knowing, store, fills, metrics, figures, pins, signs }
    }

    pub(crate) fn signs(&self) -> &Signs {
        &self.signs
    }

    pub(crate) fn knowing(&self) -> &Arc<Knowing> {
        &self.knowing
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn fills(&self) -> &Arc<Fills> {
        &self.fills
    }

    pub(crate) fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(crate) fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// Answers a request of a user or a child. A user's is `counted` for its domain as soon as that is known.
    pub(crate) async fn handle(
        &self,
        request: Request<Incoming>,
        handoff: Arc<Handoff>,
        counted: &OnceLock<Counted>,
    ) -> Response<AnswerBody> {
        let (mut request, body) = request.into_parts();
        let known = self.knowing.known().clone();
        let caller = peer::caller(&mut request.headers, &known);
        let informed = request.version == Version::HTTP_11;
        let method = request.method.clone();
        let mut reply = Reply { method, asker: Asker::User, copy: None, telling: None, handoff, informed };
        let authority = match framing::request(&mut request) {
            Ok(authority) => authority,
            Err(bad) => return reply.bad(bad),
        };
        // HTTP/2 does not say in the head that there is content of unknown length; what goes by the head alone is told like this.
        if request.version == Version::HTTP_2
            && !hyper::body::Body::is_end_stream(&body)
            && !request.headers.contains_key(CONTENT_LENGTH)
        {
            request.headers.insert(TRANSFER_ENCODING, CHUNKED);
        }
        let caller = match caller {
            Ok(caller) => caller,
            Err(BadCaller::AnotherLog) => {
                return reply.refusal(StatusCode::MISDIRECTED_REQUEST, "the fence is of another log");
            }
            Err(BadCaller::Fence) => return reply.refusal(StatusCode::BAD_REQUEST, "a node's request needs a fence"),
            Err(BadCaller::Circle) => return reply.refusal(StatusCode::LOOP_DETECTED, "the request went in a circle"),
        };
        (reply.asker, reply.copy) = (caller.asker, caller.copy);
        if caller.greets {
            return reply.alive();
        }
        if caller.asker == Asker::User
            && let Err(bad) = framing::leaves_room(&request.headers)
        {
            return reply.bad(bad);
        }
        if !known.serves() {
            return reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "this node does not serve now");
        }
        let path = framing::path(&request.uri);
        let path = path.as_ref();
        // It is of the node as a whole, not of a site (RFC 9110 §9.3.7).
        if request.method == Method::OPTIONS && path == "*" {
            return with_methods(reply.alive());
        }
        let Ok(url) = UrlKey::new(authority.host(), path) else {
            return reply.refusal(StatusCode::BAD_REQUEST, "expected a host name and a path");
        };
        if caller.asker == Asker::User
            && let Some(domain) = known.knowledge.domain_for(url.host())
            && let Some(slot) = known.sites.slot(domain)
        {
            let rule = &domain.functions.rules().key;
            let signature =
                rule.signed.and_then(|kind| kind.split(path).map(|(signature, _)| signature.hash.to_owned()));
            let unsigned = UrlKey::new(url.host(), &rule.unsigned(url.path_and_query()));
            let unsigned = unsigned.ok().filter(|_| signature.is_some());
            let _ = counted.set(Counted { slot, url: unsigned.unwrap_or_else(|| url.clone()), hash: signature });
        }
        let domain = match site(&known, url.host()) {
            Ok(domain) => domain,
            Err((status, why)) => return reply.refusal(status, why),
        };
        if caller.asker == Asker::User {
            if circle::came_back(&request.headers, known.tag, url.host()) {
                return reply.refusal(StatusCode::LOOP_DETECTED, "the request went in a circle");
            }
            if !reply.handoff.is_for(domain, &known.knowledge) {
                return reply.refusal(StatusCode::MISDIRECTED_REQUEST, "this connection was made for another site");
            }
            // A certificate of a wildcard is for the names one label below it (RFC 9525 §6.3).
            let is_named = |host: &str| {
                !domain.name.is_wildcard() || host.matches('.').count() == domain.name.as_str().matches('.').count()
            };
            if let Some(forced) = domain.functions.rules().https.forced
                && forced.https != reply.handoff.secure
                && known.knowledge.certificates.contains_key(&domain.name)
                && is_named(url.host())
            {
                return reply.by_the_other_scheme(forced, url.host(), path);
            }
            let rules = &domain.functions.rules().access;
            let client = reply.handoff.client.map(|client| access::Client(client.ip()));
            if !rules.is_open()
                && let Err(refused) = access::may(rules, &request.headers, client, path, self.knowing.clock().now())
            {
                return reply.denied(refused);
            }
            let urls = &domain.functions.rules().urls;
            if !urls.is_empty()
                && let Some((status, to)) = sent_to(urls, &domain.functions.rules().key.unsigned(url.path_and_query()))
            {
                return reply.elsewhere(status, authority.as_str(), &to);
            }
            reply.telling = Telling::of(&domain.functions, &request.headers);
        }
        // As its parents would read it, who are asked with every odd byte escaped.
        if url.path_and_query().len() > framing::URL_BYTES_MAX {
            return reply.refusal(StatusCode::URI_TOO_LONG, "the URL is too long");
        }
        let domain = Wanted::kept_for(domain, &url, caller.verbatim);
        let (url, sent) = Wanted::named(&domain.functions, url);
        let wanted = Wanted {
            url,
            sent,
            domain,
            method: request.method,
            version: request.version,
            shared: OnceLock::new(),
            headers: request.headers,
            authority,
            asker: caller.asker,
            passed: caller.passed,
            purpose: caller.purpose,
            refetch: caller.refetch,
            secure: match caller.asker {
                Asker::User => reply.handoff.secure,
                Asker::Child { .. } => caller.secure,
            },
        };
        match wanted.method.as_str() {
            "CONNECT" | "TRACE" | "PURGE" => {
                with_methods(reply.refusal(StatusCode::METHOD_NOT_ALLOWED, "this method is not served"))
            }
            "GET" | "HEAD" => self.object(wanted, body, reply).await,
            _ => Box::pin(self.bypass(wanted, body, httpcache::Bypass::Method, reply)).await,
        }
    }

    // What is more than a hit is boxed here, for every request has room for all of this.
    async fn object(&self, wanted: Wanted, body: Incoming, reply: Reply) -> Response<AnswerBody> {
        let mut alone = false;
        let mut until = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                // Both may have changed while something was waited for.
                let known = self.knowing.known().clone();
                if !known.serves() {
                    break;
                }
                if let Err((status, why)) = site(&known, wanted.site()) {
                    return reply.refusal(status, why);
                }
            }
            let look = self.look(&wanted).await;
            // What is in memory goes on being served, and takes nothing more.
            if self.store.is_exhausted()
                && wanted.method == Method::GET
                && !look.found.as_ref().is_some_and(|found| found.head.slices.is_none() && found.object.is_in_memory())
            {
                self.metrics.refused(Refusal::Memory);
                return reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "this node has no room for the object now");
            }
            let mut judging = self.knowing.judging();
            let judged = look.found.as_ref().and_then(|found| self.judge_found(&mut judging, found, &wanted));
            let judged = judged.map(|judged| match made(Mistake::NoJudgementAtLookup) {
                true => Judged { verdict: Verdict::Send, ..judged },
                false => judged,
            });
            let now = self.knowing.clock().now();
            let stored = look.found.as_ref().zip(judged.as_ref());
            let stored = stored.map(|(found, judged)| (&found.head.freshness, allowed(judged, found.vouched.stamp)));
            let decision = httpcache::decide(&wanted.method, &wanted.headers, stored, now);
            // What is to be warm is fetched, whatever may stand in for a user.
            let decision = match decision {
                Decision::ServeStaleAndRevalidate { .. } if wanted.purpose == Purpose::Prefetch => {
                    Decision::Revalidate { forward: Forward::Stale, stale_if_error: false }
                }
                decision => decision,
            };
            let known_good = judged.and_then(|judged| judged.age);
            let asking = match (decision, &look.found) {
                (Decision::Serve { .. }, Some(found)) => {
                    let body = self.body(&wanted, found);
                    // A child hears of tags by the head alone: what slice it asks for is here first, and what that came with in the head.
                    if let (ArrivedBody::Sliced(body), Asker::Child { .. }, 0) = (&body, wanted.asker, attempt)
                        && let Some(number) = slices::wanted(&wanted.headers, self.fills.sizes)
                        && !body.is_at_hand(number)
                    {
                        drop(judging);
                        body.bring(number).await;
                        continue;
                    }
                    return reply.stored(&wanted.headers, &found.head, &body, now, Said::hit(known_good), judging);
                }
                (Decision::ServeStaleAndRevalidate { .. }, Some(found)) => {
                    let part = self.part(&wanted, &look);
                    let order = Order { stands_in: true, ..self.order(&wanted, &look, true, part) };
                    if let Some(behind) = self.fills.begin(order) {
                        behind.leave_it_behind();
                    }
                    let body = self.body(&wanted, found);
                    let said = Said { result: metrics::XCache::Stale, ..Said::hit(known_good) };
                    return reply.stored(&wanted.headers, &found.head, &body, now, said, judging);
                }
                (Decision::Bypass(why), _) => {
                    drop(judging);
                    return Box::pin(self.bypass(wanted, body, why, reply)).await;
                }
                (Decision::OnlyIfCached, _) => {
                    return reply.refusal(StatusCode::GATEWAY_TIMEOUT, "nothing is stored that may be sent");
                }
                (Decision::Fetch { forward, .. }, None) if wanted.method == Method::HEAD => {
                    drop(judging);
                    return Box::pin(self.head(wanted, forward, reply)).await;
                }
                (Decision::Revalidate { forward, stale_if_error }, _) => {
                    Asking { confirm: true, stale_if_error, why: forward, alone }
                }
                (Decision::Fetch { forward, stale_if_error, keep }, _) => {
                    let other_variant = forward == Forward::UriMiss && look.marker.is_some();
                    let why = if other_variant { Forward::VaryMiss } else { forward };
                    Asking { confirm: false, stale_if_error, why, alone: alone || !keep }
                }
                // Only what was found can be served.
                (Decision::Serve { .. } | Decision::ServeStaleAndRevalidate { .. }, None) => break,
            };
            drop(judging);
            let waits = || Instant::now() + WAIT_MAX + upstream::patience(&wanted.domain);
            let until = *until.get_or_insert_with(waits);
            match Box::pin(self.fetch(&wanted, &look, &asking, until, &reply)).await {
                Step::Answer(answer) => return answer,
                Step::Again { alone: next } => alone = next,
            }
        }
        reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "the object is being refreshed faster than it can be fetched")
    }

    /// Finds what is stored for a request. A body whose stamp is of another log is not there.
    pub(crate) async fn look(&self, wanted: &Wanted) -> Look {
        let tag = self.knowing.known().tag;
        let mut key = ObjectKey::bare(&wanted.url);
        let mut object = stored(&self.store, &key).await;
        let mut marker = None;
        if let Some(Stored::Marker(vary)) = of(&object, tag) {
            let generation = object.as_ref().map_or(store::Generation(0), store::Object::generation);
            marker = Some(generation);
            key = ObjectKey::variant(&wanted.url, generation, &httpcache::vary_key(vary, wanted.shared(&self.signs)));
            object = stored(&self.store, &key).await;
        }
        let seen = object.as_ref().map(store::Object::generation);
        let head = match of(&object, tag) {
            // What was kept under a key that was made otherwise was kept for other URLs; what is to be fetched again is not there. For
            // a prefetch neither is what lies in slices, for whether all of them are there nobody knows, nor what says that there is nothing.
            Some(Stored::Object(head))
                if keep::is_keyed_by(&wanted.domain.functions, &head.headers)
                    && head.refetch >= wanted.refetch
                    && (head.slices.is_none() && head.status.is_success() || wanted.purpose == Purpose::User) =>
            {
                Some(head.clone())
            }
            _ => None,
        };
        let found = object.zip(head).map(|(object, head)| {
            let at = self.fills.vouched.get(key.hash(), object.generation());
            let vouched = Vouched { stamp: Revision(object.stamp()), at };
            Found { object, head, vouched }
        });
        Look { key, seen, found, marker }
    }

    /// Judges what is stored.
    pub(crate) fn judge_found(&self, judging: &mut Judging, found: &Found, wanted: &Wanted) -> Option<Judged> {
        let headers = Some(&found.head.headers);
        self.knowing.judge(judging, found.vouched, found.head.log, wanted.name(), headers, wanted.asker)
    }

    /// Judges an answer that is not stored.
    fn judge_passed(
        &self,
        judging: &mut Judging,
        vouched: Vouched,
        log: LogTag,
        head: &http::response::Parts,
        wanted: &Wanted,
    ) -> Option<Judged> {
        // These two need not repeat all headers of what they speak of.
        let partial = matches!(head.status, StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT);
        let headers = (!partial).then_some(&head.headers);
        self.knowing.judge(judging, vouched, log, wanted.name(), headers, wanted.asker)
    }

    /// What is to be fetched for a request; `confirm` when a 304 is good enough.
    pub(crate) fn order(&self, wanted: &Wanted, look: &Look, confirm: bool, part: Part) -> Order {
        let confirm = look.found.as_ref().filter(|_| confirm).map(|found| Confirmable {
            object: found.object.clone(),
            head: found.head.clone(),
            vouched: found.vouched,
        });
        Order {
            url: wanted.url.clone(),
            asked: wanted.asked(),
            domain: wanted.domain.clone(),
            key: look.key.clone(),
            seen: look.seen,
            confirm,
            part,
            headers: wanted.shared(&self.signs).clone(),
            asker: wanted.asker,
            passed: wanted.passed.clone(),
            purpose: wanted.purpose,
            refetch: wanted.refetch,
            interim: None,
            stands_in: false,
        }
    }

    /// How much of it is fetched: of what is asked for in part, or lies in slices, as little as will do.
    fn part(&self, wanted: &Wanted, look: &Look) -> Part {
        let told_apart = !wanted.domain.functions.rules().key.headers.is_empty();
        // A prefetch wants the whole, also one that a child goes on with where another node broke off.
        let prefetch = wanted.purpose == Purpose::Prefetch;
        if prefetch || look.marker.is_some() || told_apart || wanted.method != Method::GET {
            return Part::Whole;
        }
        let sliced = || look.found.as_ref().is_some_and(|found| found.head.slices.is_some());
        let begin = match wanted.domain.functions.rules().fetch.range {
            Some(Ranges::Off) => None,
            Some(Ranges::Force) => slices::wanted(&wanted.headers, self.fills.sizes).or(Some(0)),
            None => slices::wanted(&wanted.headers, self.fills.sizes).or_else(|| sliced().then_some(0)),
        };
        match begin {
            Some(number) => Part::Begin(number),
            None => Part::Whole,
        }
    }

    /// The headers as they go upstream for an answer that is nobody's but his who asked. A child that confirms what it has goes by
    /// copies, which no origin knows.
    fn for_one(&self, wanted: &Wanted, reply: &Reply) -> HeaderMap {
        let mut headers = wanted.shared(&self.signs).clone();
        if reply.copy.is_some() {
            return headers;
        }
        let own = httpcache::end_to_end(&wanted.headers);
        let compresses = reply.telling.as_ref().is_some_and(Telling::may_compress);
        let own = if compresses { strongly(&own) } else { Cow::Borrowed(&own) };
        for name in OF_ONE {
            own.get_all(&name).iter().for_each(|value| _ = headers.append(&name, value.clone()));
        }
        headers
    }

    /// Where what was found is read from.
    fn body(&self, wanted: &Wanted, found: &Found) -> ArrivedBody {
        let Some(series) = found.head.slices else { return ArrivedBody::Stored(found.object.clone()) };
        ArrivedBody::Sliced(Box::new(slices::Body {
            fills: self.fills.clone(),
            url: wanted.url.clone(),
            asked: wanted.asked(),
            domain: wanted.domain.clone(),
            headers: wanted.shared(&self.signs).clone(),
            asker: wanted.asker,
            passed: wanted.passed.clone(),
            head: found.head.clone(),
            series,
            coming: None,
        }))
    }

    /// Waits for a fetch and answers from it.
    async fn fetch(&self, wanted: &Wanted, look: &Look, asking: &Asking, until: Instant, reply: &Reply) -> Step {
        let Asking { confirm, stale_if_error, why, alone } = *asking;
        let stale_if_error = stale_if_error && wanted.purpose == Purpose::User;
        if alone || self.fills.is_lone(&look.key, &wanted.headers) {
            let stands_in = || self.stale(wanted, look, stale_if_error, why, reply);
            return self.pass(wanted, self.for_one(wanted, reply), None, why, reply, stands_in).await;
        }
        let part = self.part(wanted, look);
        if wanted.refetch > 0 {
            self.fills.overtake(&wanted.url, wanted.refetch).await;
        }
        let order = self.order(wanted, look, confirm, part);
        let order = Order { interim: reply.interim(), stands_in: stale_if_error, ..order };
        let Some(waiting) = self.fills.begin(order) else {
            // Shed, unless what is stored may stand in (RFC 5861 §4: as for an answer 503).
            let stale = self.stale(wanted, look, stale_if_error, why, reply);
            let shed = || reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "too many fetches are running");
            return Step::Answer(stale.unwrap_or_else(shed));
        };
        let joined = waiting.joined;
        let outcome = tokio::time::timeout_at(until, waiting.outcome()).await;
        match outcome.unwrap_or(Outcome::Failed(AskError::Timeout)) {
            Outcome::Body(arrived) => self.deliver(wanted, &arrived, why, joined, reply),
            Outcome::Mine(lone) => {
                let failed = keep::is_failure(&wanted.domain.functions, lone.answer.head.status);
                match self.stale(wanted, look, failed && stale_if_error, why, reply) {
                    Some(answer) => Step::Answer(answer),
                    None => self.deliver_lone(wanted, *lone, why, reply),
                }
            }
            Outcome::NotMine { failed } => match self.stale(wanted, look, failed && stale_if_error, why, reply) {
                Some(answer) => Step::Answer(answer),
                None => Step::Again { alone: true },
            },
            Outcome::Again => Step::Again { alone: false },
            // It was fetched for a prefetch, which is held to more than a user.
            Outcome::Failed(AskError::NotPastParents(_) | AskError::Busy(_))
                if joined && wanted.purpose == Purpose::User =>
            {
                Step::Again { alone: false }
            }
            Outcome::Failed(error) => {
                tracing::debug!(url = %wanted.url, %error, "no answer from above");
                let stale = self.stale(wanted, look, stale_if_error, why, reply);
                Step::Answer(stale.unwrap_or_else(|| reply.unanswered(&error)))
            }
        }
    }

    fn deliver(&self, wanted: &Wanted, arrived: &Arrived, why: Forward, joined: bool, reply: &Reply) -> Step {
        if httpcache::vary_key(&arrived.vary, wanted.shared(&self.signs)) != arrived.values {
            return Step::Again { alone: false }; // another variant than ours came
        }
        let mut judging = self.knowing.judging();
        let headers = Some(&arrived.head.headers);
        let judged =
            self.knowing.judge(&mut judging, arrived.vouched, arrived.head.log, wanted.name(), headers, wanted.asker);
        let Some(Judged { age, .. }) = judged.filter(may_pass) else {
            self.metrics.overtaken.inc();
            return Step::Again { alone: false };
        };
        let mut said = said(&arrived.came, why, age);
        said.stored = match &arrived.body {
            ArrivedBody::Growing(..) => true,
            ArrivedBody::Stored(_) => false,
            ArrivedBody::Sliced(body) => body.coming.is_some(),
        };
        said.collapsed = joined;
        let now = self.knowing.clock().now();
        let head = arrived.own_head.as_ref().filter(|_| !joined).unwrap_or(&arrived.head);
        Step::Answer(reply.stored(&wanted.headers, head, &arrived.body, now, said, judging))
    }

    fn deliver_lone(&self, wanted: &Wanted, lone: LoneAnswer, why: Forward, reply: &Reply) -> Step {
        let mut judging = self.knowing.judging();
        let judged = self.judge_passed(&mut judging, lone.vouched, lone.log, &lone.answer.head, wanted);
        let Some(Judged { age, .. }) = judged.filter(may_pass) else {
            self.metrics.overtaken.inc();
            return Step::Again { alone: true };
        };
        let came = Came { from: lone.answer.from, x_cache: lone.x_cache, status: lone.answer.head.status };
        let headers = httpcache::end_to_end(&lone.answer.head.headers);
        let said = said(&came, why, age);
        // It was asked for as for everybody; what its user has is not sent to him again.
        let answer = httpcache::answer(&wanted.method, &wanted.headers, came.status, &headers, None);
        if matches!(answer, httpcache::Answer::NotModified) && reply.copy.is_none() {
            let (status, headers) = answer.head(came.status, &headers, None);
            return Step::Answer(reply.confirmed(status, headers, &said, judging));
        }
        Step::Answer(reply.passed(came.status, headers, lone.answer.body, &said, Some(judging)))
    }

    /// A stored body that may stand in because there is no answer from above (RFC 5861 §4), if the fence still allows it.
    fn stale(
        &self,
        wanted: &Wanted,
        look: &Look,
        allowed: bool,
        why: Forward,
        reply: &Reply,
    ) -> Option<Response<AnswerBody>> {
        let found = look.found.as_ref().filter(|_| allowed)?;
        let mut judging = self.knowing.judging();
        let judged = self.judge_found(&mut judging, found, wanted)?;
        if judged.verdict != Verdict::Send {
            return None;
        }
        let now = self.knowing.clock().now();
        // What is fresh was asked for anew because the request wished it.
        let fresh = found.head.freshness.is_fresh(now);
        let result = if fresh { metrics::XCache::Hit } else { metrics::XCache::Stale };
        let said = Said::forwarded(result, why, None, judged.age);
        let body = self.body(wanted, found);
        Some(reply.stored(&wanted.headers, &found.head, &body, now, said, judging))
    }
}

/// Says with which methods this node is asked (RFC 9110 §10.2.1).
fn with_methods(mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"));
    answer
}

/// What the head of an object says, if it is of this log.
fn of(object: &Option<store::Object>, tag: LogTag) -> Option<&Stored> {
    let (log, stored) = head::read(object.as_ref()?)?;
    (*log == tag).then_some(stored)
}

/// Whether an answer that came may be handed on.
fn may_pass(judged: &Judged) -> bool {
    match judged.verdict {
        Verdict::Send => true,
        Verdict::Covered => made(Mistake::OwnAnswerNotJudged),
        Verdict::Unvouched => made(Mistake::OwnAnswerNotJudged) || made(Mistake::OwnAnswerExemptFromTime),
    }
}

/// What the guard's word means to HTTP caching.
pub(crate) fn allowed(judged: &Judged, stamp: Revision) -> Allowed {
    match (judged.verdict, judged.mode(stamp)) {
        (Verdict::Send, _) => Allowed::Send,
        (Verdict::Covered | Verdict::Unvouched, Mode::Expire) => Allowed::Revalidate,
        (Verdict::Covered | Verdict::Unvouched, Mode::Delete) => Allowed::Refetch,
    }
}

/// What is said of an answer that came from above. A parent's word is passed on, but for this: where it confirmed from its store
/// what this node has, this node's store answers.
fn said(came: &Came, why: Forward, known_good: Option<std::time::Duration>) -> Said {
    let confirmed = came.status == StatusCode::NOT_MODIFIED;
    let status = confirmed.then_some(came.status);
    let parent = came.x_cache.as_ref().and_then(|said| metrics::XCache::of(said.to_str().ok()?));
    let (result, x_cache): (metrics::XCache, Option<HeaderValue>) = match (&came.from, parent) {
        (From::Origin, _) if confirmed => (metrics::XCache::Revalidated, None),
        (From::Parent(_), Some(metrics::XCache::Hit)) if confirmed => (metrics::XCache::Hit, None),
        (From::Parent(_), Some(result)) => (result, came.x_cache.clone()),
        (From::Origin | From::Parent(_), _) => (metrics::XCache::Miss, None),
    };
    Said { x_cache, ..Said::forwarded(result, why, status, known_good) }
}

/// The domain that serves `host`, or the refusal of who asks for it.
fn site<'a>(known: &'a Known, host: &str) -> Result<&'a Arc<Domain>, (StatusCode, &'static str)> {
    match known.knowledge.shared_domain_for(host) {
        None => Err((StatusCode::NOT_FOUND, "no domain is served under this host")),
        Some(domain) if !domain.online => Err((StatusCode::FORBIDDEN, "the domain is offline")),
        Some(domain) => Ok(domain),
    }
}
