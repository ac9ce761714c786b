//! Certificates of domains: SetCdnDomainSSLCertificate, DescribeDomainCertificateInfo and their VOD twins.
//!
//! # What always holds
//!
//! - A private key appears in no `Debug` output and in no refusal.
//!
//! # Not here
//!
//! Whether key, certificate and domain fit together: checked by the control plane.

use std::fmt;
use std::time::SystemTime;

use model::DomainName;
use serde_json::{Value, json};

use crate::domains;
use crate::profile::Profile;
use crate::read::{Request, timestamp};
use crate::refusal::{Fault, Refusal};

/// The parameter that holds a private key.
pub(crate) const KEY_PARAMETER: &str = "SSLPri";

/// Longest name of a certificate, in characters.
const NAME_CHARACTERS_MAX: usize = 128;

/// The certificate to set for a domain.
#[derive(Clone, PartialEq, Eq)]
pub struct SetCertificate {
    /// Which domain.
    pub domain: DomainName,
    /// The certificate; `None` to serve the domain without TLS.
    pub pair: Option<CertificatePair>,
}

/// A certificate and its key, as received.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificatePair {
    /// The owner's name for it; may be empty.
    pub name: String,
    /// The chain in PEM.
    pub chain: String,
    /// The private key in PEM.
    pub key: String,
}

/// The certificate of a domain, as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateShown {
    /// The owner's name for it.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// The subject.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// The chain in PEM.
    pub chain: String,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
    /// When it was set.
    pub set_at: SystemTime,
}

impl fmt::Debug for SetCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetCertificate").field("domain", &self.domain).field("pair", &self.pair).finish()
    }
}

impl fmt::Debug for CertificatePair {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificatePair").field("name", &self.name).field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Reads the certificate to set for a domain.
pub(crate) fn set(request: &Request, profile: &Profile) -> Result<SetCertificate, Refusal> {
    let params = &request.params;
    let worded = |fault| Refusal::of(fault, profile.wording(request));
    let domain = domains::name(request, profile)?;
    match params.required("SSLProtocol")? {
        "on" => {}
        "off" => return Ok(SetCertificate { domain, pair: None }),
        _ => return Err(worded(Fault::SslProtocol)),
    }
    // The oldest of the actions has no stored certificates, and ignores unknown parameters.
    if request.action != "SetVodDomainCertificate" {
        match params.get("CertType") {
            None | Some("upload") => {}
            Some("cas") => return Err(worded(Fault::CertificateUnknown)),
            Some(_) => return Err(Refusal::invalid("CertType", "upload or cas is expected")),
        }
        if params.get("CertRegion").is_some_and(|region| !matches!(region, "cn-hangzhou" | "ap-southeast-1")) {
            return Err(Refusal::invalid("CertRegion", "cn-hangzhou or ap-southeast-1 is expected"));
        }
        // There is no certificate store to take one from.
        if params.get("CertId").is_some() && params.get("SSLPub").is_none() {
            return Err(worded(Fault::CertificateUnknown));
        }
    }
    // `staging` requests a trial, which must not change what users see.
    if request.action == "SetVodDomainSSLCertificate" && params.get("Env") == Some("staging") {
        return Err(Refusal::unsupported());
    }
    let name = params.get("CertName").unwrap_or_default();
    if name.chars().count() > NAME_CHARACTERS_MAX {
        return Err(worded(Fault::CertificateName));
    }
    let chain = params.get("SSLPub").ok_or_else(|| worded(Fault::CertificateMissing))?;
    let key = params.get(KEY_PARAMETER).ok_or_else(|| worded(Fault::KeyMissing))?;
    let pair = CertificatePair { name: name.to_owned(), chain: chain.to_owned(), key: key.to_owned() };
    Ok(SetCertificate { domain, pair: Some(pair) })
}

/// The fields of DescribeDomainCertificateInfo: always one element, even without a certificate, as clients read the
/// first.
pub(crate) fn fields(request_id: &str, domain: &str, certificate: Option<&CertificateShown>) -> Value {
    let mut info = json!({ "DomainName": domain, "DomainCnameStatus": "ok", "ServerCertificateStatus": "off" });
    let fields: [(&str, String); 12] = match certificate {
        None => [
            ("CertDomainName", String::new()),
            ("CertExpireTime", String::new()),
            ("CertId", String::new()),
            ("CertLife", String::new()),
            ("CertName", String::new()),
            ("CertOrg", String::new()),
            ("CertRegion", String::new()),
            ("CertStartTime", String::new()),
            ("CertType", String::new()),
            ("CertUpdateTime", String::new()),
            ("ServerCertificate", String::new()),
            ("Status", String::new()),
        ],
        Some(shown) => [
            ("CertDomainName", shown.subject.clone()),
            ("CertExpireTime", timestamp(shown.not_after)),
            ("CertId", shown.id.to_string()),
            ("CertLife", life(shown).to_owned()),
            ("CertName", shown.name.clone()),
            ("CertOrg", shown.issuer.clone()),
            ("CertRegion", "cn-hangzhou".to_owned()),
            ("CertStartTime", timestamp(shown.not_before)),
            ("CertType", "upload".to_owned()),
            ("CertUpdateTime", timestamp(shown.set_at)),
            ("ServerCertificate", shown.chain.clone()),
            ("Status", "success".to_owned()),
        ],
    };
    for (name, value) in fields {
        info[name] = Value::String(value);
    }
    if certificate.is_some() {
        info["ServerCertificateStatus"] = json!("on");
    }
    json!({ "RequestId": request_id, "CertInfos": { "CertInfo": [info] } })
}

/// The unit of a certificate's lifetime: the vendor's pages have these two words and no number.
fn life(shown: &CertificateShown) -> &'static str {
    const YEAR_SECS: u64 = 365 * 86_400;
    let life = shown.not_after.duration_since(shown.not_before).unwrap_or_default();
    if life.as_secs() >= YEAR_SECS { "years" } else { "months" }
}
