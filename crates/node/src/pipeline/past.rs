//! Requests that go past the store: everything but a GET of an object, requests that forbid storing the answer, and
//! answers that are not shared.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, MAX_FORWARDS, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use httpcache::Forward;
use hyper::body::Incoming;
use model::UrlKey;

use super::{ATTEMPTS_MAX, CHUNKED, Pipeline, Step, may_pass, said};
use crate::fill::Came;
use crate::functions::keep;
use crate::knowing::Judged;
use crate::metrics;
use crate::respond::{AnswerBody, Reply, X_CACHE};
use crate::upload::Upload;
use crate::upstream::{self, From, Question};
use crate::wanted::Wanted;

impl Pipeline {
    /// A HEAD that misses is forwarded as a HEAD: fetching the whole object for it would be expensive.
    pub(super) async fn head(&self, wanted: Wanted, why: Forward, reply: Reply) -> Response<AnswerBody> {
        for _ in 0..ATTEMPTS_MAX {
            match self.pass(&wanted, wanted.shared(&self.signs).clone(), None, why, &reply, || None).await {
                Step::Answer(answer) => return answer,
                Step::Again { .. } => {}
            }
        }
        reply.refusal(StatusCode::SERVICE_UNAVAILABLE, "the object is being refreshed faster than it can be fetched")
    }

    /// Forwards a request past the stores, on every tier.
    pub(super) async fn bypass(
        &self,
        wanted: Wanted,
        body: Incoming,
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
        headers.remove(http::header::EXPECT); // answered by this node's own 100
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
