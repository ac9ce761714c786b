//! The request pipeline: site, key, lookup, judge, decide, one `match`. The place to start reading.
//!
//! A prefetch takes the same path ([`Pipeline::warm`]): it is a GET with another purpose.
//!
//! # What always holds
//!
//! - The header of every body is judged right before it is sent, by [`Knowing::judge`] alone, whether the body comes
//!   from the store or from a running fetch, and for the request that began the fetch as for those that joined it (rule
//!   3). A body that fails is fetched again, a bounded number of times.
//! - The node serves nobody before it is a member, or after it was told that it no longer is one (rule 8).
//! - A child's request that carries no fence of this log is refused.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use httpcache::{Allowed, Decision, Forward};
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
use crate::interim::Interims;
use crate::knowing::{Judged, Judging, Knowing, Known, LogTag};
use crate::listener::Handoff;
use crate::lookup::stored;
use crate::metrics::{self, Metrics, Refusal};
use crate::peer::{self, BadCaller};
use crate::pins::Pins;
use crate::respond::{AnswerBody, Reply, Said, Signs};
use crate::slices::{self, Part};
use crate::streams::Content;
use crate::upstream::{self, AskError, From};
use crate::wanted::Wanted;

mod past;

/// The only transfer coding that this node speaks.
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");

/// Most attempts of one request: it looks up and fetches again when the fetch it waited for was overtaken (fence,
/// assumption 7).
pub(crate) const ATTEMPTS_MAX: u32 = 5;

/// How many revisions the fence of a child may be ahead of what this node has applied. A body is stored with the fence
/// as its stamp: one stamped far beyond the log would outlast every refresh.
const FENCE_AHEAD_MAX: u64 = 1 << 20;

/// Longest time one request waits for fetches, summed over all that were overtaken; a little longer than a single fetch
/// that tries every parent and source. What the domain's owner allows its origins ([`upstream::patience`]) is added.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The parts of the node that answering a request needs.
pub(crate) struct Pipeline {
    knowing: Arc<Knowing>,
    store: Store,
    fills: Arc<Fills>,
    metrics: Arc<Metrics>,
    figures: Arc<Figures>,
    pins: Arc<Pins>,
    signs: Signs,
}

/// The stored response that was found for a request.
pub(crate) struct Found {
    pub(crate) object: store::Object,
    pub(crate) head: Arc<Head>,
    pub(crate) vouched: Vouched,
}

/// The result of a lookup: where the object of a request is stored, or would be.
pub(crate) struct Look {
    pub(crate) key: ObjectKey,
    pub(crate) seen: Option<store::Generation>,
    pub(crate) found: Option<Found>,
    /// Generation of the marker that leads to the variants, if the URL has any.
    pub(crate) marker: Option<store::Generation>,
}

/// How a request is to be fetched.
struct Asking {
    /// A 304 will do: the stored body may be validated.
    confirm: bool,
    /// The stored response may be served when the answer is a failure, if the fence still allows it then.
    stale_if_error: bool,
    why: Forward,
    /// Fetch for this request alone, not collapsed with others.
    alone: bool,
}

/// The result of waiting for a fetch.
#[expect(clippy::large_enum_variant, reason = "moved once, into the answer; a box would cost more")]
enum Step {
    Answer(Response<AnswerBody>),
    /// Look up again; `alone` when the answer may not be shared, so that the next fetch is not collapsed.
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

    /// Answers a request of a user or a child; `stream` takes interim answers if it came by HTTP/2. `counted` is set for a user's request as soon as its domain is known.
    pub(crate) async fn handle(
        &self,
        request: Request<Content>,
        handoff: Arc<Handoff>,
        stream: Option<Arc<Interims>>,
        counted: &OnceLock<Counted>,
    ) -> Response<AnswerBody> {
        let (mut request, body) = request.into_parts();
        let known = self.knowing.known().clone();
        let caller = peer::caller(&mut request.headers, &known);
        let informed = request.version == Version::HTTP_11;
        let method = request.method.clone();
        let mut reply = Reply { method, asker: Asker::User, copy: None, telling: None, handoff, informed, stream };
        let authority = match framing::request(&mut request) {
            Ok(authority) => authority,
            Err(bad) => return reply.bad(bad),
        };
        // An HTTP/2 head does not show content of unknown length; this field tells code that decides by the head alone.
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
        if caller.asker.fence().0 > self.knowing.applied().0.saturating_add(FENCE_AHEAD_MAX) {
            return reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "the fence is too far ahead of this node");
        }
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
        // `OPTIONS *` addresses the node as a whole, not a site (RFC 9110 §9.3.7).
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
            // A wildcard certificate covers only names exactly one label below it (RFC 9525 §6.3).
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
        // Checked after escaping: parents are sent every odd byte escaped, and have the same limit.
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
            again: caller.again,
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

    // Everything beyond a hit is boxed, because the future of every request reserves room for all of this.
    async fn object(&self, wanted: Wanted, body: Content, reply: Reply) -> Response<AnswerBody> {
        let mut alone = false;
        let mut until = None;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                // Membership and the site may have changed during the wait.
                let known = self.knowing.known().clone();
                if !known.serves() {
                    break;
                }
                if let Err((status, why)) = site(&known, wanted.site()) {
                    return reply.refusal(status, why);
                }
            }
            let look = self.look(&wanted).await;
            // Without room in memory only bodies that are already in memory are served, since they take nothing more.
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
            // A prefetch fetches even where a user would be served a stale response.
            let decision = match decision {
                Decision::ServeStaleAndRevalidate { .. } if wanted.purpose == Purpose::Prefetch => {
                    Decision::Revalidate { forward: Forward::Stale, stale_if_error: false }
                }
                decision => decision,
            };
            let decision = match (decision, &look.found) {
                (Decision::Serve { .. } | Decision::ServeStaleAndRevalidate { .. }, Some(found)) => {
                    self.instead(&wanted, found, &reply).unwrap_or(decision)
                }
                _ => decision,
            };
            let known_good = judged.and_then(|judged| judged.age);
            let asking = match (decision, &look.found) {
                (Decision::Serve { .. }, Some(found)) => {
                    let body = self.body(&wanted, found);
                    // A child learns tags from the head alone, so the slice it asks for is fetched first, and the tags
                    // that came with it are then in the head.
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
                    self.fills.revalidate(self.order(&wanted, &look, true, part));
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
                (Decision::Fetch { forward, stale_if_error, .. }, _) if wanted.method == Method::HEAD => {
                    drop(judging);
                    return Box::pin(self.head(wanted, look, stale_if_error, forward, reply)).await;
                }
                (Decision::Revalidate { forward, stale_if_error }, _) => {
                    Asking { confirm: true, stale_if_error, why: forward, alone }
                }
                (Decision::Fetch { forward, stale_if_error, keep }, _) => {
                    let other_variant = forward == Forward::UriMiss && look.marker.is_some();
                    let why = if other_variant { Forward::VaryMiss } else { forward };
                    Asking { confirm: false, stale_if_error, why, alone: alone || !keep }
                }
                // Unreachable: only a response that was found can be served.
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

    /// Looks up the stored response for a request. A body whose stamp is of another log is a miss.
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
            // A body stored under a key that other rules made belongs to other URLs, and one fetched before the wanted
            // refetch must be fetched again. For a prefetch a sliced body is a miss too, since it is not known whether
            // all slices are stored, and so is a status that is not a success.
            Some(Stored::Object(head))
                if keep::is_keyed_by(&wanted.domain.functions, &head.headers)
                    && head.refetch >= wanted.refetch
                    && (head.slices.is_none() && head.status.is_success() || wanted.purpose != Purpose::Prefetch) =>
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

    /// Judges a stored response.
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
        // A 304 and a 206 need not repeat all headers of the representation.
        let partial = matches!(head.status, StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT);
        let headers = (!partial).then_some(&head.headers);
        self.knowing.judge(judging, vouched, log, wanted.name(), headers, wanted.asker)
    }

    /// The order to fetch for a request; with `confirm`, a 304 that validates the stored body will do.
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
            again: wanted.again,
            interim: None,
            stands_in: false,
        }
    }

    /// How much of the object to fetch: as little as will do for a range request or a sliced body.
    fn part(&self, wanted: &Wanted, look: &Look) -> Part {
        let told_apart = !wanted.domain.functions.rules().key.headers.is_empty();
        // A prefetch wants the whole, even where its child asks by range to resume what another node broke off.
        let prefetch = wanted.purpose == Purpose::Prefetch;
        // The pin of a whole body would pass to a head whose slices are not pinned.
        let pinned = || self.store.is_pinned(look.key.hash());
        if prefetch || look.marker.is_some() || told_apart || pinned() {
            return Part::Whole;
        }
        let sliced = || look.found.as_ref().is_some_and(|found| found.head.slices.is_some());
        // If a long body has changed, its head and one slice are enough for a HEAD. Slices are asked for without a
        // content coding, so a coded body would not be confirmed.
        let long = |found: &Found| {
            found.object.length() >= self.fills.sizes.least && !found.head.headers.contains_key(CONTENT_ENCODING)
        };
        // Ranges are for GET alone (RFC 9110 §14.2).
        let ranged = || match wanted.method == Method::GET {
            true => slices::wanted(&wanted.headers, self.fills.sizes),
            false => look.found.as_ref().is_some_and(long).then_some(0),
        };
        let begin = match wanted.domain.functions.rules().fetch.range {
            Some(Ranges::Off) => None,
            Some(Ranges::Force) => ranged().or(Some(0)),
            None => ranged().or_else(|| sliced().then_some(0)),
        };
        match begin {
            Some(number) => Part::Begin(number),
            None => Part::Whole,
        }
    }

    /// Where a found body is read from.
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
            only_stored: httpcache::lacking(&wanted.headers).is_some(),
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
            // Shed the request, unless the stored response may be served stale (RFC 5861 §4: as for a 503).
            let stale = self.stale(wanted, look, stale_if_error, why, reply);
            let shed = || reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "too many fetches are running");
            return Step::Answer(stale.unwrap_or_else(shed));
        };
        let joined = waiting.joined;
        let outcome = tokio::time::timeout_at(until, waiting.outcome()).await;
        match outcome.unwrap_or(Outcome::Failed(AskError::Timeout)) {
            Outcome::Body(arrived) => match self.far_ahead(wanted, &arrived, why, reply).await {
                Some(answer) => Step::Answer(answer),
                None => self.deliver(wanted, &arrived, why, joined, reply),
            },
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
            // The joined fetch was begun for a prefetch, which may do less than one for a user.
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
            return Step::Again { alone: false }; // a variant other than ours came
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
        // It was fetched without the user's conditions: a user who already has it gets a 304.
        let answer = httpcache::answer(&wanted.method, &wanted.headers, came.status, &headers, None);
        if matches!(answer, httpcache::Answer::NotModified) && reply.copy.is_none() {
            let (status, headers) = answer.head(came.status, &headers, None);
            return Step::Answer(reply.confirmed(status, headers, &said, judging));
        }
        Step::Answer(reply.passed(came.status, headers, lone.answer.body, &said, Some(judging)))
    }

    /// The stored response in place of an answer that failed (RFC 5861 §4), if `allowed` and if the fence still permits
    /// it.
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
        if judged.verdict != Verdict::Send || self.instead(wanted, found, reply).is_some() {
            return None;
        }
        let now = self.knowing.clock().now();
        // A fresh response was fetched again only because the request wanted it.
        let fresh = found.head.freshness.is_fresh(now);
        let result = if fresh { metrics::XCache::Hit } else { metrics::XCache::Stale };
        let said = Said::forwarded(result, why, None, judged.age);
        let body = self.body(wanted, found);
        Some(reply.stored(&wanted.headers, &found.head, &body, now, said, judging))
    }
}

/// Adds `Allow`: the methods that this node serves (RFC 9110 §10.2.1).
fn with_methods(mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE"));
    answer
}

/// The decoded head or marker of an object, if its stamp is of this log.
fn of(object: &Option<store::Object>, tag: LogTag) -> Option<&Stored> {
    let (log, stored) = head::read(object.as_ref()?)?;
    (*log == tag).then_some(stored)
}

/// Whether the guard lets a fetched answer be sent.
fn may_pass(judged: &Judged) -> bool {
    match judged.verdict {
        Verdict::Send => true,
        Verdict::Covered => made(Mistake::OwnAnswerNotJudged),
        Verdict::Unvouched => made(Mistake::OwnAnswerNotJudged) || made(Mistake::OwnAnswerExemptFromTime),
    }
}

/// The guard's verdict in terms of HTTP caching.
pub(crate) fn allowed(judged: &Judged, stamp: Revision) -> Allowed {
    match (judged.verdict, judged.mode(stamp)) {
        (Verdict::Send, _) => Allowed::Send,
        (Verdict::Covered | Verdict::Unvouched, Mode::Expire) => Allowed::Revalidate,
        (Verdict::Covered | Verdict::Unvouched, Mode::Delete) => Allowed::Refetch,
    }
}

/// The `X-Cache` and `Cache-Status` of an answer from above. A parent's `X-Cache` is passed on, except when the parent
/// confirmed this node's body from its own store: then this node's store answers.
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

/// The domain that serves `host`, or the status and words to refuse the request with.
fn site<'a>(known: &'a Known, host: &str) -> Result<&'a Arc<Domain>, (StatusCode, &'static str)> {
    match known.knowledge.shared_domain_for(host) {
        None => Err((StatusCode::NOT_FOUND, "no domain is served under this host")),
        Some(domain) if !domain.online => Err((StatusCode::FORBIDDEN, "the domain is offline")),
        Some(domain) => Ok(domain),
    }
}
