//! The headers that nodes exchange beside HTTP: `Warmfront-*`.
//!
//! They are believed only with the peer credential, and stripped from everything else that comes in or goes out. A
//! request from a child names the log and the fence its answer must reflect; the answer carries its age, the time since
//! the body was last known good. An answer without an age comes from a node that did not see the fence, so it does not
//! count as an answer (fence, assumption 9).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use model::fence::Asker;
use model::{LogId, NodeName, Revision, fence};
use subtle::ConstantTimeEq;

use crate::fill::Purpose;
use crate::knowing::Known;

/// The peer credential.
pub(crate) const CREDENTIAL: HeaderName = HeaderName::from_static("warmfront-credential");
/// `LOG:REVISION`, on a request.
pub(crate) const FENCE: HeaderName = HeaderName::from_static("warmfront-fence");
/// The nodes that a request has passed, on a request: a cycle in the topology ends at the origin.
pub(crate) const PASSED: HeaderName = HeaderName::from_static("warmfront-passed");
/// Milliseconds since the body was known good, on an answer.
pub(crate) const AGE: HeaderName = HeaderName::from_static("warmfront-age");
/// `timeout`, `unreachable` or `busy`, on an error that a node reports because of the origin.
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("warmfront-origin");

/// On a request that only asks whether the node is alive.
pub(crate) const ALIVE: HeaderName = HeaderName::from_static("warmfront-alive");
/// `prefetch` or `revalidation`, on a request that no user waits for.
pub(crate) const PURPOSE: HeaderName = HeaderName::from_static("warmfront-purpose");
/// On a request of a prefetch that failed before.
pub(crate) const AGAIN: HeaderName = HeaderName::from_static("warmfront-again");
/// `verbatim`, on a request for an object that is stored under its URL as requested.
pub(crate) const KEY: HeaderName = HeaderName::from_static("warmfront-key");
/// On a request, the refetch it is part of: a copy fetched for an earlier one, or for none, will not do. On an answer,
/// the refetch that its body was fetched for.
pub(crate) const REFETCH: HeaderName = HeaderName::from_static("warmfront-refetch");
/// Of which answer of an origin a body is a copy, as a number. On a request that validates a body, that body's, zero
/// when the sender does not know it; on an answer, its own body's. Validators do not tell copies apart: an origin may
/// give different bytes the same date or the same entity tag.
pub(crate) const COPY: HeaderName = HeaderName::from_static("warmfront-copy");
/// `https`, on a request for a user who came by TLS: some origins are asked by the scheme of the user.
pub(crate) const SCHEME: HeaderName = HeaderName::from_static("warmfront-scheme");

const PREFIX: &str = "warmfront-";

/// Most nodes a request may pass.
const PASSED_MAX: usize = 8;

/// The sender of a request, as far as its headers can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) asker: Asker,
    /// The nodes the request has passed.
    pub(crate) passed: Vec<NodeName>,
    /// Who the request is for.
    pub(crate) purpose: Purpose,
    /// Of a prefetch: whether an earlier try failed.
    pub(crate) again: bool,
    /// Whether it only asks whether this node is alive.
    pub(crate) greets: bool,
    /// From a node: whether its user came by TLS.
    pub(crate) secure: bool,
    /// From a node: whether the object is stored under its URL as requested.
    pub(crate) verbatim: bool,
    /// From a node: the refetch it is part of; zero for none.
    pub(crate) refetch: u64,
    /// From a node that validates a body: of which answer of an origin that body is a copy.
    pub(crate) copy: Option<u64>,
}

/// Why a request of a node is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCaller {
    /// No fence, or one that cannot be read.
    Fence,
    /// The fence is of another log: its revisions mean nothing here.
    AnotherLog,
    /// The request has passed too many nodes.
    Circle,
}

/// Reads and strips the headers that describe the sender of a request.
pub(crate) fn caller(headers: &mut HeaderMap, known: &Known) -> Result<Caller, BadCaller> {
    let user = Caller {
        asker: Asker::User,
        passed: Vec::new(),
        purpose: Purpose::User,
        again: false,
        greets: false,
        secure: false,
        verbatim: false,
        refetch: 0,
        copy: None,
    };
    let Some(shown) = headers.get(CREDENTIAL) else {
        strip(headers);
        return Ok(user);
    };
    let expected = known.peer_credential.as_bytes();
    if expected.is_empty() || !bool::from(shown.as_bytes().ct_eq(expected)) {
        strip(headers);
        return Ok(user);
    }
    let fence = headers.get(FENCE).and_then(|fence| fence.to_str().ok()).and_then(|fence| fence.rsplit_once(':'));
    let fence = fence.map(|(log, revision)| (log == known.log.0, revision.parse::<u64>()));
    let passed = headers.get(PASSED).and_then(|passed| passed.to_str().ok()).unwrap_or_default();
    let passed: Vec<NodeName> = passed.split(',').filter_map(|name| NodeName::parse(name.trim()).ok()).collect();
    let purpose = match headers.get(PURPOSE).map(HeaderValue::as_bytes) {
        Some(b"prefetch") => Purpose::Prefetch,
        Some(b"revalidation") => Purpose::Revalidation,
        _ => Purpose::User,
    };
    let again = headers.contains_key(AGAIN);
    let greets = headers.contains_key(ALIVE);
    let secure = headers.get(SCHEME).is_some_and(|scheme| scheme == "https");
    let verbatim = headers.get(KEY).is_some_and(|key| key == "verbatim");
    let (refetch, copy) = (refetch(headers), copy(headers));
    strip(headers);
    match fence {
        Some((_, Err(_))) | None => Err(BadCaller::Fence),
        Some((false, _)) => Err(BadCaller::AnotherLog),
        Some((true, Ok(_))) if passed.len() > PASSED_MAX => Err(BadCaller::Circle),
        Some((true, Ok(revision))) => {
            let asker = Asker::Child { fence: Revision(revision) };
            Ok(Caller { asker, passed, purpose, again, greets, secure, verbatim, refetch, copy })
        }
    }
}

/// Removes every `Warmfront-*` header.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Adds the headers that tell a parent who asks, the fence of its answer, and the nodes the request has passed.
pub(crate) fn introduce(headers: &mut HeaderMap, known: &Known, fence: Revision, passed: &[NodeName], own: &NodeName) {
    let LogId(log) = &known.log;
    let passed: Vec<&str> = passed.iter().chain([own]).map(NodeName::as_str).collect();
    let values =
        [(CREDENTIAL, known.peer_credential.clone()), (FENCE, format!("{log}:{fence}")), (PASSED, passed.join(","))];
    for (name, text) in values {
        // A credential or log id that is no header value cannot come from a control plane of ours; the parent will
        // refuse.
        if let Ok(mut value) = HeaderValue::try_from(text) {
            value.set_sensitive(name == CREDENTIAL);
            headers.insert(name, value);
        }
    }
}

/// Tells a parent that no user waits, and of a prefetch whether an earlier try failed.
pub(crate) fn tell_purpose(headers: &mut HeaderMap, purpose: Purpose, again: bool) {
    match purpose {
        Purpose::Prefetch => _ = headers.insert(PURPOSE, HeaderValue::from_static("prefetch")),
        Purpose::Revalidation => _ = headers.insert(PURPOSE, HeaderValue::from_static("revalidation")),
        Purpose::User => {}
    }
    if again && purpose == Purpose::Prefetch {
        headers.insert(AGAIN, HeaderValue::from_static("?1"));
    }
}

/// Tells a parent the scheme that the user came by.
pub(crate) fn tell_scheme(headers: &mut HeaderMap, secure: bool) {
    if secure {
        headers.insert(SCHEME, HeaderValue::from_static("https"));
    }
}

/// Tells a parent that the URL itself is the key.
pub(crate) fn tell_key(headers: &mut HeaderMap, verbatim: bool) {
    if verbatim {
        headers.insert(KEY, HeaderValue::from_static("verbatim"));
    }
}

/// Tells a parent which refetch a request is part of, or a child which one a body was fetched for.
pub(crate) fn tell_refetch(headers: &mut HeaderMap, refetch: u64) {
    if refetch > 0 {
        headers.insert(REFETCH, HeaderValue::from(refetch));
    }
}

/// The refetch that a request is part of, or that a body was fetched for; zero for none.
pub(crate) fn refetch(headers: &HeaderMap) -> u64 {
    headers.get(REFETCH).and_then(|refetch| refetch.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Tells a parent of which answer the body at hand is a copy, or a child of which one it gets a copy.
pub(crate) fn tell_copy(headers: &mut HeaderMap, copy: u64) {
    headers.insert(COPY, HeaderValue::from(copy));
}

/// Of which answer a body is a copy, if the headers say so.
pub(crate) fn copy(headers: &HeaderMap) -> Option<u64> {
    headers.get(COPY)?.to_str().ok()?.parse().ok()
}

/// Tells a child how long ago the body was known good (rule 5).
pub(crate) fn tell_age(headers: &mut HeaderMap, age: Duration) {
    headers.insert(AGE, HeaderValue::from(fence::ceil_millis(age)));
}

/// The age of a parent's answer; `None` when the parent did not see the fence.
pub(crate) fn told_age(headers: &HeaderMap) -> Option<Duration> {
    headers.get(AGE)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}
