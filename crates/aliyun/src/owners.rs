//! Proofs that an account owns a name: DescribeVerifyContent and VerifyDomainOwner, for CDN and VOD.
//!
//! # Not here
//!
//! Where a proof is looked for: see the control plane.

use model::DomainName;
use serde_json::{Value, json};

use crate::domains;
use crate::profile::Profile;
use crate::read::Request;
use crate::refusal::Refusal;

/// Where an account proves that it owns a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyType {
    /// In the name's DNS.
    Dns,
    /// In a file that the name's host serves.
    File,
}

/// Reads the name to prove, and the kind of proof.
pub(crate) fn verify(request: &Request, profile: &Profile) -> Result<(DomainName, VerifyType), Refusal> {
    let name = domains::name(request, profile)?;
    match request.params.required("VerifyType")? {
        "dnsCheck" => Ok((name, VerifyType::Dns)),
        "fileCheck" => Ok((name, VerifyType::File)),
        _ => Err(Refusal::invalid("VerifyType", "dnsCheck or fileCheck is expected")),
    }
}

/// The fields of both actions: the content to present, or that was found.
pub(crate) fn fields(request_id: &str, content: &str) -> Value {
    json!({ "RequestId": request_id, "Content": content })
}
