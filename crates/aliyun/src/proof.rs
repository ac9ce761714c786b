//! Signatures: V1 (HMAC over the sorted parameters) and V3 (`ACS3-HMAC-SHA256`, over a canonical request), verified and
//! made.
//!
//! Each string to sign is built in one place, from the received request when verifying and from the request to be sent
//! when signing, so the two cannot drift apart.
//!
//! # What always holds
//!
//! - V3 covers everything that determines what a request does: a list of signed headers without one of [`MUST_SIGN`] is
//!   refused, as otherwise a captured request could be turned into another.
//! - Comparisons take constant time.
//!
//! # Not here
//!
//! RSA and SM3 signatures, which are refused by name. The owner of a bearer token, which the control plane knows.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::form;
use crate::read::{Incoming, header};
use crate::refusal::Refusal;

/// The only V3 algorithm supported.
pub(crate) const V3_ALGORITHM: &str = "ACS3-HMAC-SHA256";

/// The value of `SignatureType` if a bearer token replaces the signature.
const BEARER: &str = "BEARERTOKEN";

/// Longest session or bearer token, in bytes: twice the length of one with the longest policy.
pub(crate) const TOKEN_BYTES_MAX: usize = 8_192;

/// Headers that a V3 signature must cover.
const MUST_SIGN: &[&str] =
    &["host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"];

/// Headers that a V3 signature must cover if they are sent.
const MUST_SIGN_IF_SENT: &[&str] = &["content-type", "x-acs-security-token"];

/// Maximum number of headers that a V3 signature may cover.
const SIGNED_HEADERS_MAX: usize = 64;

/// What a request contains to prove who signed it.
pub(crate) enum Proof {
    V1 {
        sha256: bool,
        to_sign: String,
        signature: Vec<u8>,
    },
    V3 {
        to_sign: String,
        canonical: String,
        body_as_signed: bool,
        signature: Vec<u8>,
    },
    /// No signature: a bearer token instead.
    Bearer(String),
}

impl Proof {
    pub(crate) fn bearer_token(&self) -> Option<&str> {
        match self {
            Proof::Bearer(token) => Some(token),
            Proof::V1 { .. } | Proof::V3 { .. } => None,
        }
    }

    /// Whether the holder of `secret` made it; always refused without a signature.
    pub(crate) fn verify(&self, secret: &str) -> Result<(), Refusal> {
        match self {
            Proof::Bearer(_) => Err(Refusal::incomplete_signature("", "a bearer token is no signature")),
            Proof::V1 { sha256, to_sign, signature } => {
                let key = format!("{secret}&");
                let same = if *sha256 {
                    sha256_mac(&key, to_sign).verify_slice(signature).is_ok()
                } else {
                    sha1_mac(&key, to_sign).verify_slice(signature).is_ok()
                };
                if same { Ok(()) } else { Err(Refusal::signature_v1(to_sign)) }
            }
            Proof::V3 { to_sign, canonical, body_as_signed, signature } => {
                let same = sha256_mac(secret, to_sign).verify_slice(signature).is_ok();
                if same && *body_as_signed { Ok(()) } else { Err(Refusal::signature_v3(to_sign, canonical)) }
            }
        }
    }
}

/// Reads a bearer token, which requires a matching `SignatureType`: a token in any other request proves nothing.
pub(crate) fn read_bearer(token: &str, all: &BTreeMap<&str, &str>) -> Result<Proof, Refusal> {
    if all.get("SignatureType") != Some(&BEARER) {
        return Err(Refusal::incomplete_signature("", "SignatureType must be BEARERTOKEN with a bearer token"));
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::bearer_malformed());
    }
    Ok(Proof::Bearer(token.to_owned()))
}

/// Whether a request uses V3: by its `Authorization` header, or a bearer token in a header (protocol §1).
pub(crate) fn is_v3(incoming: &Incoming<'_>) -> bool {
    let authorization = header(incoming.headers, "authorization").unwrap_or_default();
    authorization.starts_with("ACS3-")
        || (incoming.headers.contains_key("x-acs-bearer-token")
            && form::find_leniently(incoming.query.as_bytes(), "Signature").is_none()
            && form::find_leniently(incoming.body, "Signature").is_none())
}

/// Reads a V1 proof and the access key id.
pub(crate) fn read_v1(incoming: &Incoming<'_>, all: &BTreeMap<&str, &str>) -> Result<(Proof, String), Refusal> {
    let get = |name: &str| all.get(name).copied().filter(|value| !value.is_empty());
    let to_sign = v1_to_sign(incoming.method, all.iter().map(|(name, value)| (*name, *value)));
    let incomplete = |reason: &str| Refusal::incomplete_signature(&to_sign, reason);

    if get("SignatureType") == Some(BEARER) {
        return Err(Refusal::missing_for_action("BearerToken"));
    }
    let key_id = get("AccessKeyId").ok_or_else(|| Refusal::missing_for_action("AccessKeyId"))?;
    let sha256 = match get("SignatureMethod") {
        Some("HMAC-SHA1") => false,
        Some("HMAC-SHA256") => true,
        Some(_) => return Err(incomplete("SignatureMethod must be HMAC-SHA1 or HMAC-SHA256")),
        None => return Err(incomplete("SignatureMethod is missing")),
    };
    match get("SignatureVersion") {
        Some("1.0") => {}
        Some(_) => return Err(incomplete("SignatureVersion must be 1.0")),
        None => return Err(incomplete("SignatureVersion is missing")),
    }
    if get("SignatureType").is_some() {
        return Err(incomplete("SignatureType must be empty"));
    }
    let signature = get("Signature").ok_or_else(|| incomplete("Signature is missing"))?;
    let signature = BASE64.decode(signature).map_err(|_| incomplete("Signature is not base64"))?;
    Ok((Proof::V1 { sha256, to_sign, signature }, key_id.to_owned()))
}

/// The string that V1 signs (protocol §3): every pair except the signature itself.
pub(crate) fn v1_to_sign<'a>(method: &Method, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let canonical = form::canonical(pairs.filter(|(name, _)| *name != "Signature"));
    format!("{method}&%2F&{}", form::encode(&canonical))
}

/// The V1 signature of `to_sign`.
pub(crate) fn v1_signature(secret: &str, to_sign: &str) -> String {
    BASE64.encode(sha1_mac(&format!("{secret}&"), to_sign).finalize().into_bytes())
}

/// Reads a V3 proof and the access key id. `query` is decoded.
pub(crate) fn read_v3(incoming: &Incoming<'_>, query: &[(String, String)]) -> Result<(Proof, String), Refusal> {
    let incomplete = |reason: &str| Refusal::incomplete_signature("", reason);
    let Some(authorization) = header(incoming.headers, "authorization") else {
        return Err(Refusal::missing_for_action("BearerToken")); // its header is present, and empty
    };
    let shape = "Authorization must be `ACS3-HMAC-SHA256 Credential=ID,SignedHeaders=a;b,Signature=HEX`";
    let (algorithm, rest) = authorization.split_once(' ').ok_or_else(|| incomplete(shape))?;
    if algorithm != V3_ALGORITHM {
        return Err(incomplete("the algorithm must be ACS3-HMAC-SHA256"));
    }
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    for field in rest.split(',') {
        let (name, value) = field.trim().split_once('=').ok_or_else(|| incomplete(shape))?;
        if fields.insert(name, value).is_some() {
            return Err(incomplete(shape));
        }
    }
    let field = |name: &str| fields.get(name).copied().filter(|value| !value.is_empty());
    let (Some(key_id), Some(signed), Some(signature)) =
        (field("Credential"), field("SignedHeaders"), field("Signature"))
    else {
        return Err(incomplete(shape));
    };

    let names: Vec<&str> = signed.split(';').take(SIGNED_HEADERS_MAX + 1).collect();
    if names.len() > SIGNED_HEADERS_MAX {
        return Err(incomplete("SignedHeaders names too many headers"));
    }
    let is_signed = |name: &str| names.iter().any(|signed| signed.eq_ignore_ascii_case(name));
    let unsigned_but_sent =
        MUST_SIGN_IF_SENT.iter().filter(|name| incoming.headers.contains_key(**name)).find(|name| !is_signed(name));
    if let Some(name) = MUST_SIGN.iter().find(|name| !is_signed(name)).or(unsigned_but_sent) {
        return Err(incomplete(&format!("SignedHeaders must contain {name}")));
    }
    let mut values = Vec::with_capacity(names.len());
    for name in names {
        let mut all = incoming.headers.get_all(name).iter();
        // The name comes from the request: it is repeated only after it is known to be a valid header name.
        let value = all.next().ok_or_else(|| incomplete("SignedHeaders names a header that was not sent"))?;
        if all.next().is_some() {
            return Err(incomplete("a signed header occurs more than once"));
        }
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| incomplete("a signed header has bytes that are not UTF-8"))?;
        values.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }

    let body_hash = sha256_hex(incoming.body);
    let body_as_signed =
        header(incoming.headers, "x-acs-content-sha256").is_some_and(|sent| sent.eq_ignore_ascii_case(&body_hash));
    let query = form::canonical(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let canonical = v3_canonical(incoming.method, &query, &values, signed, &body_hash);
    let to_sign = v3_to_sign(&canonical);
    // A wrong length is found by the comparison.
    let signature =
        hex::decode(signature).map_err(|_| Refusal::incomplete_signature(&to_sign, "Signature is not hexadecimal"))?;
    Ok((Proof::V3 { to_sign, canonical, body_as_signed, signature }, key_id.to_owned()))
}

/// The canonical request of V3 (protocol §4); `headers` are the signed ones, in the order of `signed`.
pub(crate) fn v3_canonical(
    method: &Method,
    query: &str,
    headers: &[(String, String)],
    signed: &str,
    body_hash: &str,
) -> String {
    let mut out = format!("{method}\n/\n{query}\n");
    for (name, value) in headers {
        out.extend([name, ":", value, "\n"]);
    }
    out.extend(["\n", signed, "\n", body_hash]);
    out
}

/// The string that V3 signs.
pub(crate) fn v3_to_sign(canonical: &str) -> String {
    format!("{V3_ALGORITHM}\n{}", sha256_hex(canonical.as_bytes()))
}

/// The V3 signature of `to_sign`.
pub(crate) fn v3_signature(secret: &str, to_sign: &str) -> String {
    hex::encode(sha256_mac(secret, to_sign).finalize().into_bytes())
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn sha1_mac(key: &str, text: &str) -> Hmac<Sha1> {
    Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length").chain_update(text)
}

fn sha256_mac(key: &str, text: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length").chain_update(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector on the vendor's public pages is for a product that routing does not know, so it is verified here.
    #[test]
    fn published_vector_verifies() {
        let headers = [
            ("host", "ecs.cn-shanghai.aliyuncs.com"),
            ("x-acs-action", "RunInstances"),
            ("x-acs-content-sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("x-acs-date", "2023-10-26T10:22:32Z"),
            ("x-acs-signature-nonce", "3156853299f313e23d1673dc12e1703d"),
            ("x-acs-version", "2014-05-26"),
            (
                "authorization",
                "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;\
                 x-acs-date;x-acs-signature-nonce;x-acs-version,\
                 Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0",
            ),
        ];
        let headers = headers.map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
        let headers = http::HeaderMap::from_iter(headers);
        let query = "ImageId=win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd&RegionId=cn-shanghai";
        let incoming = Incoming { method: &Method::POST, path: "/", query, headers: &headers, body: b"" };
        let pairs = form::decode("query", query.as_bytes()).unwrap();
        let (proof, key_id) = read_v3(&incoming, &pairs).unwrap();
        assert_eq!(key_id, "YourAccessKeyId");
        assert_eq!(proof.verify("YourAccessKeySecret"), Ok(()));
        assert!(proof.verify("another").is_err());
    }

    /// Old PHP clients sign the same string with SHA-256.
    #[test]
    fn v1_takes_hmac_sha256() {
        let pairs = [("AccessKeyId", "id"), ("SignatureMethod", "HMAC-SHA256"), ("SignatureVersion", "1.0")];
        let mut all = BTreeMap::from(pairs);
        let to_sign = v1_to_sign(&Method::GET, pairs.into_iter());
        let signature = BASE64.encode(sha256_mac("secret&", &to_sign).finalize().into_bytes());
        all.insert("Signature", &signature);
        let headers = http::HeaderMap::new();
        let incoming = Incoming { method: &Method::GET, path: "/", query: "", headers: &headers, body: b"" };
        let (proof, _) = read_v1(&incoming, &all).unwrap();
        assert_eq!(proof.verify("secret"), Ok(()));
        assert!(proof.verify("Secret").is_err());
    }
}
