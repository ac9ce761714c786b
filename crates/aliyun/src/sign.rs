//! The client's side: signs requests by V1 or V3, as the official SDKs do.
//!
//! The command line uses V3; V1 is for tests and for servers that support nothing else.

use std::fmt;
use std::time::SystemTime;

use http::Method;

use crate::form;
use crate::proof;
use crate::read::{FORM_TYPE, timestamp};

/// An access key. `Debug` omits the secret.
#[derive(Clone, Copy)]
pub struct AccessKey<'a> {
    /// The id, which is public.
    pub id: &'a str,
    /// The secret.
    pub secret: &'a str,
}

impl fmt::Debug for AccessKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The request, and the two values that make each request unique.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// GET or POST.
    pub method: &'a Method,
    /// The action, such as `PushObjectCache`.
    pub action: &'a str,
    /// The version, such as `2018-05-10`.
    pub version: &'a str,
    /// Wall time; the server accepts ±15 minutes.
    pub now: SystemTime,
    /// Never used before with this key.
    pub nonce: &'a str,
}

/// The headers of a V3 request, `authorization` last; all of them must be sent, with lower-case names.
///
/// `host` includes the port unless it is the scheme's default. `query` is not yet encoded (encode it with
/// [`encode_pairs`](form::encode_pairs)). `body` is the form as it will be sent; empty if there is none. `extra` are
/// further headers to sign, with lower-case names, such as `accept` or `x-acs-security-token`.
pub fn sign_v3(
    key: AccessKey<'_>,
    ask: Ask<'_>,
    host: &str,
    query: &[(String, String)],
    body: &[u8],
    extra: &[(&str, &str)],
) -> Vec<(String, String)> {
    let body_hash = proof::sha256_hex(body);
    let date = timestamp(ask.now);
    let own = [
        ("host", host),
        ("x-acs-action", ask.action),
        ("x-acs-content-sha256", &body_hash),
        ("x-acs-date", &date),
        ("x-acs-signature-nonce", ask.nonce),
        ("x-acs-version", ask.version),
    ];
    let form = (!body.is_empty()).then_some(("content-type", FORM_TYPE));
    let mut headers: Vec<(String, String)> = own
        .into_iter()
        .chain(form)
        .chain(extra.iter().copied())
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    headers.sort();

    let signed = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let query = form::canonical(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let canonical = proof::v3_canonical(ask.method, &query, &headers, &signed, &body_hash);
    let signature = proof::v3_signature(key.secret, &proof::v3_to_sign(&canonical));
    let algorithm = proof::V3_ALGORITHM;
    let authorization = format!("{algorithm} Credential={},SignedHeaders={signed},Signature={signature}", key.id);
    headers.push(("authorization".to_owned(), authorization));
    headers
}

/// All pairs of a V1 request: `params`, the common ones, and `Signature` last.
///
/// Each may be sent in the query or in the form. Further common parameters (`Format`, `RegionId`, `SecurityToken`)
/// belong into `params`.
pub fn sign_v1(key: AccessKey<'_>, ask: Ask<'_>, params: &[(String, String)]) -> Vec<(String, String)> {
    let date = timestamp(ask.now);
    let own = [
        ("AccessKeyId", key.id),
        ("Action", ask.action),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", ask.nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", &date),
        ("Version", ask.version),
    ];
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut pairs: Vec<(String, String)> = params.iter().cloned().chain(own).collect();
    let to_sign = proof::v1_to_sign(ask.method, pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    pairs.push(("Signature".to_owned(), proof::v1_signature(key.secret, &to_sign)));
    pairs
}
