//! Domains in replies, in lists and individually.

use std::time::SystemTime;

use model::Coverage;
use serde_json::{Value, json};

use crate::domains::{CdnType, DomainStatus, RESOURCE_GROUP};
use crate::read::{Product, timestamp};
use crate::sources::Source;

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainDetail {
    /// Its name.
    pub name: String,
    /// The name that its users' DNS should point at.
    pub cname: String,
    /// Its business type; `None` for VOD.
    pub kind: Option<CdnType>,
    /// Where it is served.
    pub coverage: Coverage,
    /// Its state.
    pub status: DomainStatus,
    /// Why the state is a failed one; otherwise empty.
    pub description: String,
    /// Its origins.
    pub sources: Vec<Source>,
    /// The response header in which its origins send tags, if not a usual one.
    pub tag_header: Option<String>,
    /// Its certificate; `None` if it is served without TLS.
    pub tls: Option<DomainTls>,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it was last changed.
    pub modified_at: SystemTime,
}

impl DomainDetail {
    /// A stable number that stands for the name (FNV-1a), small enough for JSON to hold exactly.
    fn number(&self) -> u64 {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        self.name.bytes().fold(0xcbf2_9ce4_8422_2325, mix) >> 11
    }
}

/// Summary of a domain's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainTls {
    /// The owner's name for the certificate.
    pub name: String,
    /// The chain in PEM; empty in lists, which do not show it.
    pub chain: String,
}

/// A domain in a list.
pub(super) fn row(product: Product, domain: &DomainDetail) -> Value {
    let mut row = json!({
        "DomainName": domain.name,
        "Cname": domain.cname,
        "DomainStatus": domain.status.name(),
        "Description": domain.description,
        "GmtCreated": timestamp(domain.created_at),
        "GmtModified": timestamp(domain.modified_at),
        "Sandbox": "normal",
        "SslProtocol": ssl_protocol(domain),
        "Sources": { "Source": sources(product, domain, false) },
    });
    if product == Product::Cdn {
        row["CdnType"] = json!(domain.kind.map_or("", CdnType::name));
        row["Coverage"] = json!(coverage(domain.coverage));
        row["DomainId"] = json!(domain.number());
        row["ResourceGroupId"] = json!(RESOURCE_GROUP);
    }
    row
}

/// The fields of a reply about one domain.
pub(super) fn detail(product: Product, request_id: &str, domain: &DomainDetail) -> Value {
    let sources = sources(product, domain, true);
    let common = json!({
        "DomainName": domain.name,
        "Cname": domain.cname,
        "DomainStatus": domain.status.name(),
        "Description": domain.description,
        "GmtCreated": timestamp(domain.created_at),
        "GmtModified": timestamp(domain.modified_at),
        "Scope": coverage(domain.coverage),
    });
    let mut detail = common;
    match product {
        Product::Cdn => {
            detail["CdnType"] = json!(domain.kind.map_or("", CdnType::name));
            detail["HttpsCname"] = json!("");
            detail["ResourceGroupId"] = json!(RESOURCE_GROUP);
            detail["ServerCertificateStatus"] = json!(ssl_protocol(domain));
            // Our own; clients ignore unknown fields.
            if let Some(header) = &domain.tag_header {
                detail["TagHeader"] = json!(header);
            }
            detail["SourceModels"] = json!({ "SourceModel": sources });
            json!({ "RequestId": request_id, "GetDomainDetailModel": detail })
        }
        Product::Vod => {
            let tls = domain.tls.as_ref();
            detail["CertName"] = json!(tls.map_or("", |tls| &tls.name));
            detail["SSLProtocol"] = json!(ssl_protocol(domain));
            detail["SSLPub"] = json!(tls.map_or("", |tls| &tls.chain));
            detail["Weight"] = json!("");
            detail["Sources"] = json!({ "Source": sources });
            json!({ "RequestId": request_id, "DomainDetail": detail })
        }
    }
}

fn ssl_protocol(domain: &DomainDetail) -> &'static str {
    if domain.tls.is_some() { "on" } else { "off" }
}

fn sources(product: Product, domain: &DomainDetail, in_detail: bool) -> Vec<Value> {
    let one = |source: &Source| {
        let mut fields = json!({
            "Content": source.content,
            "Port": source.port,
            "Priority": source.priority.to_string(),
            "Type": source.kind.name(),
        });
        // Only if set, which clients written for the vendor never do.
        if let Some(scheme) = source.scheme {
            fields["Scheme"] = json!(scheme);
        }
        if in_detail {
            fields["Enabled"] = json!("online");
        }
        if in_detail || product == Product::Cdn {
            fields["Weight"] = json!(source.weight.to_string());
        }
        fields
    };
    domain.sources.iter().map(one).collect()
}

fn coverage(coverage: Coverage) -> &'static str {
    match coverage {
        Coverage::Domestic => "domestic",
        Coverage::Overseas => "overseas",
        Coverage::Global => "global",
    }
}
