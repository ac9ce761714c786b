//! Requests that go past the store: everything but a GET of an object, requests that forbid storing the answer, and
//! answers that are not shared.

use std::borrow::Cow;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HOST, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, MAX_FORWARDS, RANGE, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use httpcache::{Answer, ByteRange, Decision, Forward};
use model::UrlKey;
use model::functions::Ranges;

use super::{ATTEMPTS_MAX, CHUNKED, Found, Look, Pipeline, Step, may_pass, said};
use crate::fill::{Arrived, ArrivedBody, Came, Purpose};
use crate::functions::keep;
use crate::functions::reply::Telling;
use crate::knowing::Judged;
use crate::metrics;
use crate::respond::{AnswerBody, Reply, X_CACHE, strongly};
use crate::slices::AHEAD_MAX;
use crate::streams::Content;
use crate::upload::Upload;
use crate::upstream::{self, From, Question};
use crate::wanted::Wanted;

/// Conditional and range fields (RFC 9110 §13.1, §14.2). When a request is fetched for one user alone, they go upstream
/// with it.
const OF_ONE: [HeaderName; 6] = [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE];

impl Pipeline {
    /// What to do with a request instead of answering it from a stored body, if slices of that body are missing that the
    /// request forbids to fetch or to store.
    pub(super) fn instead(&self, wanted: &Wanted, found: &Found, reply: &Reply) -> Option<Decision> {
        found.head.slices.filter(|_| wanted.method == Method::GET)?;
        let instead = httpcache::lacking(&wanted.headers)?;
        let ArrivedBody::Sliced(body) = self.body(wanted, found) else { return None };
        let length = body.series.length;
        let needed = match reply.selected(&wanted.headers, &found.head, Some(length)).0 {
            Answer::Whole => vec![ByteRange { start: 0, end: length }],
            Answer::Part(part) => vec![part],
            Answer::Parts(parts) => parts,
            Answer::NotModified | Answer::PreconditionFailed | Answer::Unsatisfiable => Vec::new(),
        };
        (!needed.iter().all(|range| body.has(range))).then_some(instead)
    }

    /// A HEAD for which there is nothing to validate is forwarded as a HEAD, with its conditions: fetching the whole
    /// object for it would be expensive. A stored response may stand in for a failure, if `stale_if_error`.
    pub(super) async fn head(
        &self,
        wanted: Wanted,
        look: Look,
        stale_if_error: bool,
        why: Forward,
        reply: Reply,
    ) -> Response<AnswerBody> {
        for _ in 0..ATTEMPTS_MAX {
            let stands_in = || self.stale(&wanted, &look, stale_if_error, why, &reply);
            match self.pass(&wanted, self.for_one(&wanted, &reply), None, why, &reply, stands_in).await {
                Step::Answer(answer) => return answer,
                Step::Again { .. } => {}
            }
        }
        reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "the object is being refreshed faster than it can be fetched")
    }

    /// The headers to send upstream for an answer that is not shared. A child that revalidates names its body as a copy
    /// of an origin's answer, which no origin knows, so its conditions are left out. Ranges are for GET alone (RFC 9110
    /// §14.2).
    pub(super) fn for_one(&self, wanted: &Wanted, reply: &Reply) -> HeaderMap {
        let mut headers = wanted.shared(&self.signs).clone();
        let own = httpcache::end_to_end(&wanted.headers);
        let compresses = reply.telling.as_ref().is_some_and(Telling::may_compress);
        let own = if compresses { strongly(&own) } else { Cow::Borrowed(&own) };
        let goes = |name: &HeaderName| match reply.copy {
            Some(_) => *name == RANGE && !own.contains_key(IF_RANGE),
            None => wanted.method == Method::GET || ![RANGE, IF_RANGE].contains(name),
        };
        for name in OF_ONE.into_iter().filter(goes) {
            own.get_all(&name).iter().for_each(|value| _ = headers.append(&name, value.clone()));
        }
        headers
    }

    /// The answer to a user's range request that waited for a body which is being fetched whole, if the range begins far
    /// beyond what has come: a seek in a film does not wait for the film, but is asked for on its own. `None` if it is to
    /// wait, also because upstream sends no ranges.
    pub(super) async fn far_ahead(
        &self,
        wanted: &Wanted,
        arrived: &Arrived,
        why: Forward,
        reply: &Reply,
    ) -> Option<Response<AnswerBody>> {
        let sizes = self.fills.sizes;
        let ArrivedBody::Growing(come, Some(length)) = &arrived.body else { return None };
        let whole_only = wanted.domain.functions.rules().fetch.range == Some(Ranges::Off);
        if *length < sizes.least || wanted.purpose != Purpose::User || whole_only {
            return None;
        }
        let start = match reply.selected(&wanted.headers, &arrived.head, Some(*length)).0 {
            Answer::Part(part) => part.start,
            Answer::Parts(parts) => parts.iter().map(|part| part.start).max()?,
            Answer::Whole | Answer::NotModified | Answer::PreconditionFailed | Answer::Unsatisfiable => return None,
        };
        if start.saturating_sub(come.length()) <= AHEAD_MAX * sizes.slice {
            return None;
        }
        let mut headers = self.for_one(wanted, reply);
        // An origin that compresses as it sends has no ranges of what it compresses.
        if arrived.vary.is_empty() && !arrived.head.headers.contains_key(CONTENT_ENCODING) {
            headers.remove(ACCEPT_ENCODING);
        }
        match self.pass(wanted, headers, None, why, reply, || None).await {
            Step::Answer(answer) if answer.status() == StatusCode::PARTIAL_CONTENT => Some(answer),
            Step::Answer(_) | Step::Again { .. } => None,
        }
    }

    /// Forwards a request past the stores, on every tier.
    pub(super) async fn bypass(
        &self,
        wanted: Wanted,
        body: Content,
        why: httpcache::Bypass,
        reply: Reply,
    ) -> Response<AnswerBody> {
        let mut headers = httpcache::end_to_end(&wanted.headers);
        // RFC 9110 §7.6.2.
        if wanted.method == Method::OPTIONS
            && let Some(left) = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u64>().ok())
        {
            if left == 0 {
                return reply.alive();
            }
            headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
        }
        headers.remove(HOST);
        // Answered by this node itself; on HTTP/1.1 by hyper, as soon as the body is read.
        if headers.remove(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
            && reply.stream.is_some()
            && let Some(interim) = reply.interim()
        {
            interim.came(StatusCode::CONTINUE, &HeaderMap::new());
        }
        headers.append(http::header::VIA, self.signs.via_of(wanted.version));
        // hyper assumes that GET and HEAD have no content (RFC 9112 §6.3), so the coding is stated.
        if wanted.headers.contains_key(TRANSFER_ENCODING) {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, CHUNKED);
        }
        let (body, ended) = Upload::new(body);
        let body = body.map_err(|error| Box::new(error) as _).boxed_unsync();
        match self.pass(&wanted, headers, Some(body), why.forward(), &reply, || None).await {
            Step::Answer(mut answer) => {
                if let Some(bad) = ended.badly() {
                    return reply.bad(bad);
                }
                // The answer came before the whole request did, and the rest of the request is not waited for.
                if !ended.whole() && !reply.handoff.is_http2() {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                if httpcache::invalidates(&wanted.method, answer.status()) {
                    self.written(&wanted, answer.headers()).await;
                }
                answer
            }
            // The request's body is consumed, so it cannot be sent again.
            Step::Again { .. } => reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "the object was refreshed meanwhile"),
        }
    }

    /// Asks above and passes the answer on, judged where the fence covers such answers (fence, assumption 6). If the
    /// answer is a failure, or there is none, `stands_in` may replace it.
    pub(super) async fn pass(
        &self,
        wanted: &Wanted,
        headers: HeaderMap,
        body: Option<upstream::UpBody>,
        why: Forward,
        reply: &Reply,
        stands_in: impl FnOnce() -> Option<Response<AnswerBody>>,
    ) -> Step {
        let (fetch, log) = self.knowing.begin_fetch(&wanted.url, wanted.asker);
        let bypass = body.is_some();
        let question = Question {
            method: wanted.method.clone(),
            key: wanted.url.clone(),
            asked: wanted.asked(),
            domain: wanted.domain.clone(),
            headers,
            fetch,
            log,
            passed: wanted.passed.clone(),
            purpose: wanted.purpose,
            refetch: wanted.refetch,
            copy: None,
            interim: reply.interim(),
            again: wanted.again,
            uncoded: false,
            awaited: None,
            wanted: None,
        };
        let mut answer = match self.fills.pass(question, body).await {
            Ok(answer) => answer,
            Err(error) => return Step::Answer(stands_in().unwrap_or_else(|| reply.unanswered(&error))),
        };
        if keep::is_failure(&wanted.domain.functions, answer.head.status)
            && let Some(stale) = stands_in()
        {
            return Step::Answer(stale);
        }
        let x_cache = answer.head.headers.remove(X_CACHE).filter(|_| answer.from != From::Origin);
        let came = Came { from: answer.from.clone(), x_cache, status: answer.head.status };
        let mut judging = None;
        let mut age = None;
        if upstream::is_fenced(&wanted.method) {
            let mut held = self.knowing.judging();
            let judged = self.judge_passed(&mut held, fetch.vouch(answer.age), log, &answer.head, wanted);
            let Some(Judged { age: known_good, .. }) = judged.filter(may_pass) else {
                self.metrics.overtaken.inc();
                return Step::Again { alone: true };
            };
            judging = Some(held);
            age = known_good;
        }
        let mut said = said(&came, why, age);
        if bypass && came.from == From::Origin {
            said.result = metrics::XCache::Bypass;
        }
        let headers = httpcache::end_to_end(&answer.head.headers);
        Step::Answer(reply.passed(came.status, headers, answer.body, &said, judging))
    }

    /// After an unsafe request that did not fail, removes the stored responses of its URL and of the URLs that the
    /// answer names (RFC 9111 §4.4).
    async fn written(&self, wanted: &Wanted, answer: &HeaderMap) {
        let asked = wanted.asked();
        let others = httpcache::invalidated_too(wanted.authority.as_str(), &asked.path, answer);
        let others = others.iter().filter_map(|path| UrlKey::new(&asked.host, path).ok());
        let others = others.map(|url| wanted.domain.functions.key(&url));
        // Also the responses stored under the URL itself, where that is not the key.
        let own = UrlKey::new(&asked.host, &asked.path).ok().filter(|own| *own != wanted.url);
        for url in std::iter::once(wanted.url.clone()).chain(own).chain(others) {
            if let Err(error) = self.fills.forget(&url).await {
                tracing::warn!(%url, error = &error as &dyn std::error::Error, "remove after an unsafe request");
            }
        }
    }
}
