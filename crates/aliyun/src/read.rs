//! Reading a request: the action and product, the caller, the time, the parameters, and the proof.
//!
//! Both signature versions use one entry point. V1 has everything in query and form, V3 (`ACS3-…`) has routing and
//! proof in headers. After [`read`], the difference no longer matters.
//!
//! # What always holds
//!
//! - The merged map of parameters that is verified is the one that is acted upon; a repeated name is refused.
//! - Checks run in the vendor's order (protocol §5): action and version, common parameters, time stamp; then the caller
//!   looks up the key, and [`Request::verify`] compares the signature. [`Request::check_window`] comes between the two.
//! - Nothing here panics, whatever the bytes.
//!
//! # Not here
//!
//! Used nonces (which take memory) and keys (which are secrets): the control plane has both.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::actions::is_known;
use crate::certificates::KEY_PARAMETER;
use crate::form;
use crate::proof::{self, Proof};
use crate::refusal::Refusal;

/// Largest body accepted: 1000 lines of 1024 escaped bytes, with room to spare. A server stops reading there.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Maximum difference between a request's time stamp and now, in either direction (protocol §5).
pub const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The version that old plugins send for the refresh family.
pub const VERSION_2014: &str = "2014-11-11";

/// Longest nonce, in bytes: clients send at most 64 hexadecimal digits, and nonces are stored.
const NONCE_BYTES_MAX: usize = 128;

/// Longest access key id, in bytes.
const KEY_ID_BYTES_MAX: usize = 128;

/// The format of time stamps.
pub(crate) const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Parameters that belong to the envelope, not to the action (protocol §2).
const COMMON: &[&str] = &[
    "AccessKeyId",
    "Action",
    "BearerToken",
    "Format",
    "OwnerAccount",
    "OwnerId",
    "RegionId",
    "ResourceOwnerAccount",
    "ResourceOwnerId",
    "SecurityToken",
    "Signature",
    "SignatureMethod",
    "SignatureNonce",
    "SignatureType",
    "SignatureVersion",
    "Timestamp",
    "Version",
];

/// A received request, with the complete body free of transfer codings.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// GET or POST.
    pub method: &'a Method,
    /// The path, `/`.
    pub path: &'a str,
    /// The part after `?`, as received; empty if there is none.
    pub query: &'a str,
    /// Header fields. For HTTP/2 the server adds `host` from `:authority`, as V3 signs it.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

/// One of the vendor's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// `Cdn`, versions 2018-05-10 and 2014-11-11.
    Cdn,
    /// `vod`, version 2017-03-21.
    Vod,
}

impl Product {
    /// The vendor's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Product::Cdn => "Cdn",
            Product::Vod => "vod",
        }
    }

    /// The product with this version.
    pub fn of_version(version: &str) -> Option<Product> {
        match version {
            "2018-05-10" | VERSION_2014 => Some(Product::Cdn),
            "2017-03-21" => Some(Product::Vod),
            _ => None,
        }
    }
}

/// The format of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json;charset=utf-8`
    Json,
    /// `text/xml;charset=utf-8`
    Xml,
}

impl Format {
    /// The format of the reply to `incoming`, known even if the request cannot be read (protocol §6).
    pub fn of(incoming: &Incoming<'_>) -> Format {
        if proof::is_v3(incoming) {
            let accept = header(incoming.headers, "accept").unwrap_or_default();
            return if accept.contains("xml") && !accept.contains("json") { Format::Xml } else { Format::Json };
        }
        let asked = form::find_leniently(incoming.query.as_bytes(), "Format")
            .or_else(|| form::find_leniently(incoming.body, "Format"));
        match asked {
            Some(format) if format.eq_ignore_ascii_case("json") => Format::Json,
            _ => Format::Xml,
        }
    }
}

/// A request that was read. Nothing in it is proven before [`Request::verify`].
pub struct Request {
    /// Which product.
    pub product: Product,
    /// The version, one that the product has.
    pub version: String,
    /// The action, one that the version has, whether implemented or not.
    pub action: String,
    /// The claimed access key id; empty with a bearer token.
    pub access_key_id: String,
    /// Unique for this request and key.
    pub nonce: String,
    /// When it was signed, according to the client's clock.
    pub signed_at: SystemTime,
    /// The token of temporary credentials.
    pub security_token: Option<String>,
    /// The format of the reply.
    pub format: Format,
    /// The action's own parameters.
    pub params: Params,
    pub(crate) proof: Proof,
}

impl Request {
    /// Whether the request was signed within [`WINDOW`] of `now`.
    pub fn check_window(&self, now: SystemTime) -> Result<(), Refusal> {
        let apart = now.duration_since(self.signed_at).unwrap_or_else(|ahead| ahead.duration());
        if apart > WINDOW { Err(Refusal::timestamp_expired()) } else { Ok(()) }
    }

    /// The bearer token that replaces a signature, if any: whoever presents it is taken for the one it was issued to.
    pub fn bearer_token(&self) -> Option<&str> {
        self.proof.bearer_token()
    }

    /// Whether the holder of `secret` signed this request. Takes constant time.
    pub fn verify(&self, secret: &str) -> Result<(), Refusal> {
        self.proof.verify(secret)
    }
}

impl fmt::Debug for Request {
    /// Omits token and signature.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("product", &self.product)
            .field("version", &self.version)
            .field("action", &self.action)
            .field("access_key_id", &self.access_key_id)
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

/// An action's parameters, from query and form alike.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl fmt::Debug for Params {
    /// Omits private keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().filter(|(name, _)| *name != KEY_PARAMETER)).finish()
    }
}

impl Params {
    /// The value of `name`; `None` if absent or empty, which clients do not distinguish.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value of `name`, or the refusal for a missing parameter.
    pub fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::missing(name))
    }

    /// Every parameter with this prefix, as in lists (`Tag.1.Key`): the rest of its name, and the value.
    pub(crate) fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let from = self.0.range(prefix.to_owned()..);
        from.map_while(move |(name, value)| name.strip_prefix(prefix).map(|rest| (rest, value.as_str())))
    }

    /// The parameters among these pairs, without those of the envelope.
    pub(crate) fn of(pairs: Vec<(String, String)>) -> Params {
        Params(pairs.into_iter().filter(|(name, _)| !COMMON.contains(&name.as_str())).collect())
    }
}

/// Reads a request: routing, common parameters, time stamp, and what is needed to verify it later.
pub fn read(incoming: &Incoming<'_>) -> Result<Request, Refusal> {
    if incoming.path != "/" {
        return Err(Refusal::action_not_found());
    }
    if incoming.method != Method::GET && incoming.method != Method::POST {
        return Err(Refusal::method());
    }
    if incoming.body.len() > BODY_BYTES_MAX {
        return Err(Refusal::too_large(BODY_BYTES_MAX));
    }
    let query = form::decode("query", incoming.query.as_bytes())?;
    let form = read_form(incoming)?;
    if query.len() + form.len() > form::PAIRS_MAX {
        let expected = format!("at most {} parameters are read", form::PAIRS_MAX);
        return Err(Refusal::invalid("form", &expected));
    }
    let mut all: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in query.iter().chain(&form) {
        if all.insert(name, value).is_some() {
            return Err(Refusal::invalid(name, "it occurs more than once"));
        }
    }

    let v3 = proof::is_v3(incoming);
    let envelope = |param: &str, field: &str| {
        let value = if v3 { header(incoming.headers, field) } else { all.get(param).copied() };
        value.filter(|value| !value.is_empty())
    };

    let action = envelope("Action", "x-acs-action").ok_or_else(|| Refusal::missing("Action"))?;
    let version = envelope("Version", "x-acs-version").ok_or_else(|| Refusal::missing("Version"))?;
    let product = Product::of_version(version).ok_or_else(Refusal::invalid_version)?;
    if !is_known(version, action) {
        return Err(Refusal::action_not_found());
    }

    let bearer = if header(incoming.headers, "authorization").is_none_or(|value| !value.starts_with("ACS3-")) {
        envelope("BearerToken", "x-acs-bearer-token")
    } else {
        None // signed by headers, which are the proof
    };
    let (proof, access_key_id) = match bearer {
        Some(token) => (proof::read_bearer(token, &all)?, String::new()),
        None if v3 => proof::read_v3(incoming, &query)?,
        None => proof::read_v1(incoming, &all)?,
    };
    if access_key_id.len() > KEY_ID_BYTES_MAX || access_key_id.chars().any(char::is_control) {
        return Err(Refusal::key_not_found());
    }
    let nonce =
        envelope("SignatureNonce", "x-acs-signature-nonce").ok_or_else(|| Refusal::missing("SignatureNonce"))?;
    if nonce.len() > NONCE_BYTES_MAX || nonce.chars().any(char::is_control) {
        let expected = format!("at most {NONCE_BYTES_MAX} printable bytes are expected");
        return Err(Refusal::invalid("SignatureNonce", &expected));
    }
    let timestamp = envelope("Timestamp", "x-acs-date").ok_or_else(Refusal::illegal_timestamp)?;
    let signed_at = time::PrimitiveDateTime::parse(timestamp, TIMESTAMP).map_err(|_| Refusal::timestamp_format())?;

    Ok(Request {
        product,
        version: version.to_owned(),
        action: action.to_owned(),
        access_key_id,
        nonce: nonce.to_owned(),
        signed_at: signed_at.assume_utc().into(),
        security_token: envelope("SecurityToken", "x-acs-security-token").map(str::to_owned),
        format: Format::of(incoming),
        params: Params::of(query.into_iter().chain(form).collect()),
        proof,
    })
}

/// The pairs of a form body. The content type may be absent, and may be present without a body (both occur).
fn read_form(incoming: &Incoming<'_>) -> Result<Vec<(String, String)>, Refusal> {
    if incoming.body.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(value) = incoming.headers.get("content-type") {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case(FORM_TYPE) {
            return Err(Refusal::invalid("Content-Type", &format!("a body must be {FORM_TYPE}")));
        }
    }
    form::decode("form", incoming.body)
}

/// The only content type accepted for bodies.
pub(crate) const FORM_TYPE: &str = "application/x-www-form-urlencoded";

/// A header field's value, trimmed; `None` when absent or not ASCII.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// Formats as `yyyy-MM-ddTHH:mm:ssZ`. A time outside the years 0 to 9999 does not occur, and is formatted as the epoch.
pub(crate) fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at).format(TIMESTAMP).unwrap_or_else(|_| "1970-01-01T00:00:00Z".to_owned())
}
