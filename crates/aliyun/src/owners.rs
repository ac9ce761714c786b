//! Proofs that a name is an account's: DescribeVerifyContent and VerifyDomainOwner, for CDN and VOD.
//!
//! # Not here
//!
//! Where a proof is looked for: the control plane knows.

use model::DomainName;
use serde_json::{Value, json};

use crate::domains;
use crate::profile::Profile;
use crate::read::Request;
use crate::refusal::Refusal;

/// Where an account shows that a name is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyType {
    /// In the name's DNS.
    Dns,
    /// In a file that the name's host serves.
    File,
}

/// Reads which name is to be proven, and how.
pub(crate) fn verify(request: &Request, profile: &Profile) -> Result<(DomainName, VerifyType), Refusal> {
    let name = domains::name(request, profile)?;
    match request.params.required("VerifyType")? {
        "dnsCheck" => Ok((name, VerifyType::Dns)),
        "fileCheck" => Ok((name, VerifyType::File)),
        _ => Err(Refusal::invalid("VerifyType", "dnsCheck or fileCheck is expected")),
    }
}

/// The fields of both actions: what is to be shown, or was found.
pub(crate) fn fields(request_id: &str, content: &str) -> Value {
    json!({ "RequestId": request_id, "Content": content })
}
