//! The public API: an HTTP request becomes a signed request, a verb and a reply.
//!
//! Checks run in this order: action and version, common parameters, time stamp, key and token, signature, rate, the
//! action's parameters, nonce, policy. A submission spends its nonce after the policy has allowed it. This module and
//! `calls` are the only places that use both our terms and the vendor's; `errors` is the only one that turns denials
//! into codes.
//!
//! # What always holds
//!
//! - At most [`OPEN_MAX`] requests are processed at a time; their bodies were read before, within the bounds of
//!   `bodies`, and their connections are within those of `serving`.
//! - A nonce is spent only by a request with a good signature or bearer token: in the database with the submission or
//!   before another change, in memory for a call that only reads.
//! - A call that changes something is recorded in the audit log before or with its change; one that policies refuse is
//!   recorded too. A call refused earlier (credentials, rate, parameters) is only counted.
//! - An error on our side is logged with the request's id, and its cause is in no reply.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aliyun::{Envelope, Fault, Format, Incoming, PAGES, Product, Refusal, Rendered, Request, Wording};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming as Body;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Denied, Principal};
use crate::keys::{Nonces, Rates};
use crate::limits;
use crate::link::Link;
use crate::metrics::{self, Requests};
use crate::passes::{self, BadToken, Pass};
use crate::scheduler::Scheduler;
use crate::state::accounts::AccessKey;
use crate::state::audit::{OK, Record};
use crate::state::millis;
use crate::state::submit::{Note, Refused};
use crate::strangers::Strangers;

pub(crate) mod bodies;
mod calls;
mod errors;
mod serving;
mod told;

/// Requests processed at a time; further ones are told to come back.
pub(crate) const OPEN_MAX: usize = 512;

/// How long a request's head and body may take to arrive, and the first request of a connection to begin.
const READ_MAX: Duration = Duration::from_secs(30);

/// Everything the API needs. One per process.
pub(crate) struct Door {
    app: App,
    rates: Rates,
    nonces: Nonces,
    connections: Arc<Strangers>,
    senders: Arc<Strangers>,
    open: Semaphore,
    requests: Requests,
    scheduler: Scheduler,
    link: Link,
}

impl Door {
    pub(crate) fn new(app: App, scheduler: Scheduler, link: Link) -> Door {
        Door {
            app,
            rates: Rates::default(),
            nonces: Nonces::default(),
            connections: serving::room(),
            senders: bodies::senders(),
            open: Semaphore::new(OPEN_MAX),
            requests: Requests::default(),
            scheduler,
            link,
        }
    }
}

/// Serves HTTP/1.1 and HTTP/2 until `stopping` is cancelled, on connections that come with the client's address.
pub(crate) async fn serve<S: crate::Stream>(
    door: Door,
    incoming: impl tokio_stream::Stream<Item = io::Result<(S, Option<IpAddr>)>>,
    stopping: CancellationToken,
) {
    let (room, door) = (door.connections.clone(), Arc::new(door));
    let answer = move |request, from| {
        let door = door.clone();
        async move { door.answer(request, from).await }
    };
    serving::serve(incoming, room, answer, stopping).await;
}

impl Door {
    async fn answer(&self, request: http::Request<Body>, from: Option<IpAddr>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" => plain(StatusCode::OK, "alive\n"),
            "/readyz" => match self.app.state.head().await {
                Ok(_) => plain(StatusCode::OK, "ready\n"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "not ready");
                    plain(StatusCode::SERVICE_UNAVAILABLE, "state is not available\n")
                }
            },
            "/metrics" => {
                let (following, accepting) = (&self.app.following, &self.app.accepting);
                // Counted by the permits themselves, since a cancelled request returns its permit too.
                let open = OPEN_MAX - self.open.available_permits();
                let reading = self.senders.count();
                let door = metrics::Door { requests: &self.requests, open, reading, connections: &self.connections };
                let text = metrics::render(door, accepting, &self.scheduler, following, &self.link);
                plain(StatusCode::OK, &text)
            }
            path => match path.strip_prefix(PAGES) {
                Some(code) => page(code),
                None => self.call(request, from).await,
            },
        }
    }

    async fn call(&self, request: http::Request<Body>, from: Option<IpAddr>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let mut headers = head.headers;
        // HTTP/2 has the host in its pseudo-header; V3 signs it under its old name.
        if !headers.contains_key(header::HOST)
            && let Some(host) = head.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok())
        {
            headers.insert(header::HOST, host);
        }
        let incoming = |body| Incoming {
            method: &head.method,
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            headers: &headers,
            body,
        };
        let id = uuid::Uuid::new_v4().to_string().to_uppercase();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let refused = |refusal: &Refusal, format, product: Option<Product>| {
            let product = product.unwrap_or(Product::Cdn);
            let envelope = Envelope { request_id: &id, host, https: by_https(&headers), product, format };
            self.refused(refusal, envelope)
        };

        let overloaded = || {
            let product = product(&head.uri, &headers);
            let wording = if product == Product::Vod { Wording::LegacyVod } else { Wording::Current };
            refused(&Refusal::of(Fault::Overload, wording), Format::of(&incoming(&[])), Some(product))
        };
        let Some(body) = bodies::read(&self.senders, body, from).await else { return overloaded() };
        // Only after the body has arrived: one that has not arrived yet may never do so.
        let Ok(_open) = self.open.try_acquire() else { return overloaded() };
        match &body {
            Ok(body) => {
                let incoming = incoming(body);
                let format = Format::of(&incoming);
                match self.reply(&incoming, &id, from).await {
                    Ok(rendered) => {
                        self.requests.ok.fetch_add(1, Ordering::Relaxed);
                        http_response(rendered, &id, None)
                    }
                    Err((refusal, product)) => refused(&refusal, format, product),
                }
            }
            Err(refusal) => refused(refusal, Format::of(&incoming(&[])), None),
        }
    }

    /// From reading the request to rendering the reply. A refusal comes with the product, if known.
    async fn reply(
        &self,
        incoming: &Incoming<'_>,
        id: &str,
        from: Option<IpAddr>,
    ) -> Result<Rendered, (Refusal, Option<Product>)> {
        let request = aliyun::read(incoming).map_err(|refusal| (refusal, None))?;
        self.verified(&request, id, from).await.map_err(|refusal| {
            tracing::debug!(request = id, action = request.action, code = %refusal.code, "refused");
            (refusal, Some(request.product))
        })
    }

    async fn verified(&self, request: &Request, id: &str, from: Option<IpAddr>) -> Result<Rendered, Refusal> {
        let now = self.app.clock.now();
        request.check_window(now)?;
        let principal = self.principal(request, id).await?;
        let account = &principal.key.account;
        if let Some(most) = limits::action_rate(account, &request.action) {
            let taken = self.rates.take(&account.name, &request.action, most);
            taken.map_err(|wait| Refusal::throttled().after(wait))?;
        }
        if let Some(most) = limits::account_rate(account) {
            let taken = self.rates.take(&account.name, "", most);
            taken.map_err(|wait| Refusal::throttled_user().after(wait))?;
        }
        let profile = limits::profile(account);
        let call = aliyun::call(request, profile, self.app.rules, now)?;
        let spent = calls::spent(&call);
        let record = |of_call| told::record(&principal, request, of_call, id, from, millis(now));
        // A call that only reads is recorded only if policies refuse it; otherwise it costs nothing.
        let told = (spent != calls::Spent::InMemory).then(|| record(told::of_call(&call)));
        let begun = self.spend_nonce(&principal, request, spent, told.as_ref(), id).await?;
        let caller = calls::Caller { principal: &principal, request, wording: profile.wording(request), record: told };
        let answered = calls::answer(&self.app, &caller, call).await;
        let refused = answered.as_ref().err().map(|denied| {
            if errors::is_ours(denied) {
                tracing::error!(request = id, error = denied as &dyn std::error::Error, "request failed");
            }
            errors::refusal(denied, caller.wording, caller.is_prefetch())
        });
        let outcome = refused.as_ref().map_or(OK, |refusal| &refusal.code).to_owned();
        match (spent, &answered) {
            (calls::Spent::InDatabase, _) => {
                if let Some(id) = begun {
                    let at_ms = millis(self.app.clock.now());
                    self.app.accepting.note(Note::Ended { id, outcome, at_ms }).await;
                }
            }
            // An accepted submission has its record; a replayed one has the record of its first use.
            (calls::Spent::WithSubmission, Ok(_) | Err(Denied::Refused(Refused::NonceUsed))) => {}
            (calls::Spent::WithSubmission, Err(_)) => {
                let record = caller.record.clone().unwrap_or_default();
                self.app.accepting.note(Note::Refused(Box::new(Record { outcome, ..record }))).await;
            }
            (calls::Spent::InMemory, Err(Denied::Forbidden)) => {
                self.app
                    .accepting
                    .note(Note::Refused(Box::new(Record { outcome, ..record(told::OfCall::default()) })))
                    .await;
            }
            (calls::Spent::InMemory, _) => {}
        }
        match (answered, refused) {
            (Ok(reply), _) => Ok(aliyun::render(request, id, &reply)),
            (Err(_), Some(refusal)) => Err(refusal),
            (Err(_), None) => Err(Refusal::internal()),
        }
    }

    /// The caller, proven by a signature or a bearer token.
    async fn principal(&self, request: &Request, id: &str) -> Result<Principal, Refusal> {
        let now_ms = millis(self.app.clock.now());
        if let Some(token) = request.bearer_token() {
            let pass = self.app.passes.open_bearer(token, now_ms).map_err(|bad| match bad {
                BadToken::Expired => Refusal::bearer_expired(),
                BadToken::Malformed | BadToken::Mismatch => Refusal::bearer_malformed(),
            })?;
            let key = self.key_behind(&pass, id).await?.ok_or_else(Refusal::bearer_expired)?;
            return Ok(Principal { key, pass: Some(Arc::new(pass)) });
        }
        if passes::is_session(&request.access_key_id) {
            let token =
                request.security_token.as_deref().ok_or_else(|| Refusal::missing_for_action("SecurityToken"))?;
            let pass =
                self.app.passes.open_session(token, &request.access_key_id, now_ms).map_err(|bad| match bad {
                    BadToken::Expired => Refusal::token_expired(),
                    BadToken::Malformed => Refusal::token_malformed(),
                    BadToken::Mismatch => Refusal::token_mismatch(),
                })?;
            let key = self.key_behind(&pass, id).await?.ok_or_else(Refusal::key_not_found)?;
            request.verify(&pass.secret)?;
            return Ok(Principal { key, pass: Some(Arc::new(pass)) });
        }
        let key = self.key(&request.access_key_id, id).await?.ok_or_else(Refusal::key_not_found)?;
        if request.security_token.is_some() {
            return Err(Refusal::token_mismatch());
        }
        request.verify(&key.secret)?;
        Ok(Principal { key, pass: None })
    }

    /// The key that temporary credentials were made with, if it still exists and belongs to the same account and user.
    async fn key_behind(&self, pass: &Pass, id: &str) -> Result<Option<Arc<AccessKey>>, Refusal> {
        let is_behind = |key: &Arc<AccessKey>| {
            let user = key.user.as_ref().map(|user| &user.name);
            key.account.name == pass.account && user == pass.user.as_ref()
        };
        Ok(self.key(&pass.key, id).await?.filter(is_behind))
    }

    /// The key with this id, which must be active; `None` if there is none.
    async fn key(&self, name: &str, id: &str) -> Result<Option<Arc<AccessKey>>, Refusal> {
        let key = self.app.keys.get(name).await.map_err(|error| {
            tracing::error!(request = id, error = &error as &dyn std::error::Error, "key could not be read");
            Refusal::unavailable()
        })?;
        if key.as_ref().is_some_and(|key| !key.active) { Err(Refusal::key_inactive()) } else { Ok(key) }
    }

    /// Spends the nonce of a request unless its submission spends it; returns the number of the record that was begun
    /// with it.
    async fn spend_nonce(
        &self,
        principal: &Principal,
        request: &Request,
        spent: calls::Spent,
        record: Option<&Record>,
        id: &str,
    ) -> Result<Option<u64>, Refusal> {
        let now_ms = millis(self.app.clock.now());
        let (key, nonce) = (principal.id(), &request.nonce);
        match (spent, record) {
            (calls::Spent::WithSubmission, _) => Ok(None),
            (calls::Spent::InDatabase, Some(record)) => {
                let begun = self.app.state.spend_nonce(key, nonce, now_ms, record).await.map_err(|error| {
                    tracing::error!(request = id, error = &error as &dyn std::error::Error, "nonce could not be spent");
                    Refusal::unavailable()
                })?;
                begun.map(Some).ok_or_else(Refusal::nonce_used)
            }
            (calls::Spent::InMemory | calls::Spent::InDatabase, _) => {
                let until = millis(request.signed_at + aliyun::WINDOW);
                let fresh = self.nonces.spend(key, nonce, now_ms, until.max(now_ms));
                if fresh { Ok(None) } else { Err(Refusal::nonce_used()) }
            }
        }
    }

    fn refused(&self, refusal: &Refusal, envelope: Envelope<'_>) -> Response<Full<Bytes>> {
        let counter = if refusal.status >= 500 { &self.requests.failed } else { &self.requests.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        http_response(aliyun::refuse(refusal, envelope), envelope.request_id, refusal.retry_after())
    }
}

/// The documentation page of an error code.
fn page(code: &str) -> Response<Full<Bytes>> {
    match aliyun::page(code) {
        Some(text) => plain(StatusCode::OK, text),
        None => plain(StatusCode::NOT_FOUND, "There is no page about this code.\n"),
    }
}

/// Whether a proxy in front says that the client used https. It only decides how links begin.
fn by_https(headers: &http::HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// The product that a request addresses, by its URL and headers only: an overloaded server looks at no more.
fn product(uri: &http::Uri, headers: &http::HeaderMap) -> Product {
    let in_header = headers.get("x-acs-version").and_then(|version| version.to_str().ok());
    let pairs = uri.query().unwrap_or_default().split('&');
    let version = in_header.or_else(|| pairs.filter_map(|pair| pair.strip_prefix("Version=")).next());
    version.and_then(Product::of_version).unwrap_or(Product::Cdn)
}

fn http_response(rendered: Rendered, id: &str, retry_after: Option<Duration>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(rendered.body)));
    *response.status_mut() = StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(rendered.content_type));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(HeaderName::from_static("x-acs-request-id"), id);
    }
    if let Some(wait) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        headers.insert(HeaderName::from_static("x-acs-retry-after"), HeaderValue::from(millis));
    }
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
