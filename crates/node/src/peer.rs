//! What nodes say to each other beside HTTP: the `Warmfront-*` headers.
//!
//! They are believed only with the peer credential, and stripped from everything else that comes in or goes out. A request
//! from a child names the log and the fence its answer must reflect; the answer says how old its knowledge is. An answer
//! without that age comes from a node that did not see the fence, so it is no answer (fence, assumption 9).

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
/// The nodes that a request has passed, on a request: a circle in the topology ends at the origin.
pub(crate) const PASSED: HeaderName = HeaderName::from_static("warmfront-passed");
/// Milliseconds since the body was known good, on an answer.
pub(crate) const AGE: HeaderName = HeaderName::from_static("warmfront-age");
/// On an error that a node made because of the origin: `timeout`, `unreachable`.
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("warmfront-origin");

/// On a request that asks for nothing but whether the node is alive.
pub(crate) const ALIVE: HeaderName = HeaderName::from_static("warmfront-alive");
/// `prefetch`, on a request that no user waits for.
pub(crate) const PURPOSE: HeaderName = HeaderName::from_static("warmfront-purpose");
/// `verbatim`, on a request for what is kept under the URL as it was asked for.
pub(crate) const KEY: HeaderName = HeaderName::from_static("warmfront-key");
/// On a request, for which refetch it is asked: a copy that was fetched for an earlier one or for none will not do. On an answer, for
/// which refetch its body was fetched.
pub(crate) const REFETCH: HeaderName = HeaderName::from_static("warmfront-refetch");
/// On a request that is to confirm a body, of which answer of an origin that is a copy, zero when its sender does not know; on an
/// answer, of which its body is one. Validators do not say it: an origin may give other bytes the same date, or the same tag.
pub(crate) const COPY: HeaderName = HeaderName::from_static("warmfront-copy");
/// `https`, on a request for a user who came by TLS: some origins are asked by the scheme that users come by.
pub(crate) const SCHEME: HeaderName = HeaderName::from_static("warmfront-scheme");

const PREFIX: &str = "warmfront-";

/// Most nodes a request may pass.
const PASSED_MAX: usize = 8;

/// Who asks, as far as the headers can be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) asker: Asker,
    /// The nodes the request has passed.
    pub(crate) passed: Vec<NodeName>,
    /// For whom.
    pub(crate) purpose: Purpose,
    /// Only whether this node is alive is wanted.
    pub(crate) greets: bool,
    /// Of a node: the user it asks for came by TLS.
    pub(crate) secure: bool,
    /// Of a node: it asks for what is kept under the URL as it stands.
    pub(crate) verbatim: bool,
    /// Of a node: for which refetch it asks; zero for none.
    pub(crate) refetch: u64,
    /// Of a node that has something confirmed: of which answer that is a copy.
    pub(crate) copy: Option<u64>,
}

/// Why a node's request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadCaller {
    /// No fence, or one that cannot be read.
    Fence,
    /// The fence is of another log: its revisions say nothing here.
    AnotherLog,
    /// It has passed too many nodes.
    Circle,
}

/// Reads and strips what a request says of its sender.
pub(crate) fn caller(headers: &mut HeaderMap, known: &Known) -> Result<Caller, BadCaller> {
    let user = Caller {
        asker: Asker::User,
        passed: Vec::new(),
        purpose: Purpose::User,
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
    let prefetch = headers.get(PURPOSE).is_some_and(|purpose| purpose == "prefetch");
    let purpose = if prefetch { Purpose::Prefetch } else { Purpose::User };
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
            Ok(Caller { asker, passed, purpose, greets, secure, verbatim, refetch, copy })
        }
    }
}

/// Removes every header of ours.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Says to a parent who asks, what its answer must reflect, and whom the request has passed.
pub(crate) fn introduce(headers: &mut HeaderMap, known: &Known, fence: Revision, passed: &[NodeName], own: &NodeName) {
    let LogId(log) = &known.log;
    let passed: Vec<&str> = passed.iter().chain([own]).map(NodeName::as_str).collect();
    let values =
        [(CREDENTIAL, known.peer_credential.clone()), (FENCE, format!("{log}:{fence}")), (PASSED, passed.join(","))];
    for (name, text) in values {
        // A secret or log id that is no header value cannot have come from a control plane of ours; the parent will refuse.
        if let Ok(mut value) = HeaderValue::try_from(text) {
            value.set_sensitive(name == CREDENTIAL);
            headers.insert(name, value);
        }
    }
}

/// Says to a parent that no user waits.
pub(crate) fn tell_purpose(headers: &mut HeaderMap, purpose: Purpose) {
    match purpose {
        Purpose::Prefetch => _ = headers.insert(PURPOSE, HeaderValue::from_static("prefetch")),
        Purpose::User => {}
    }
}

/// Says to a parent by which scheme the user came.
pub(crate) fn tell_scheme(headers: &mut HeaderMap, secure: bool) {
    if secure {
        headers.insert(SCHEME, HeaderValue::from_static("https"));
    }
}

/// Says to a parent that the URL itself is the key.
pub(crate) fn tell_key(headers: &mut HeaderMap, verbatim: bool) {
    if verbatim {
        headers.insert(KEY, HeaderValue::from_static("verbatim"));
    }
}

/// Says to a parent for which refetch it is asked, to a child for which one a body was fetched.
pub(crate) fn tell_refetch(headers: &mut HeaderMap, refetch: u64) {
    if refetch > 0 {
        headers.insert(REFETCH, HeaderValue::from(refetch));
    }
}

/// For which refetch somebody asks, or a body was fetched; zero for none.
pub(crate) fn refetch(headers: &HeaderMap) -> u64 {
    headers.get(REFETCH).and_then(|refetch| refetch.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Says to a parent of which answer there is a copy, to a child of which a body is one.
pub(crate) fn tell_copy(headers: &mut HeaderMap, copy: u64) {
    headers.insert(COPY, HeaderValue::from(copy));
}

/// Of which answer somebody has a copy, where that is said.
pub(crate) fn copy(headers: &HeaderMap) -> Option<u64> {
    headers.get(COPY)?.to_str().ok()?.parse().ok()
}

/// Says to a child how long ago the body was known good (rule 5).
pub(crate) fn tell_age(headers: &mut HeaderMap, age: Duration) {
    headers.insert(AGE, HeaderValue::from(fence::ceil_millis(age)));
}

/// What a parent's answer says of its age; `None` when it is no answer to a fence.
pub(crate) fn told_age(headers: &HeaderMap) -> Option<Duration> {
    headers.get(AGE)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}
