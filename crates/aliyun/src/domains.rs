//! Domains: AddCdnDomain, DescribeUserDomains and their VOD twins.
//!
//! # Not here
//!
//! Names that are taken and limits on their number: the control plane knows.

use std::net::IpAddr;
use std::time::SystemTime;

use http::HeaderName;
use model::{Coverage, DomainName, Scheme};
use serde_json::{Map, Value};

use crate::call::boolean;
use crate::profile::{Profile, Wording};
use crate::read::{Product, Request};
use crate::refusal::{Fault, Refusal};
use crate::tasks::{Page, page, read_time};

/// Most origins of one domain.
const SOURCES_MAX: usize = 20;

/// Longest name of a header, in bytes.
const TAG_HEADER_BYTES_MAX: usize = 100;

/// Longest `Sources`, in bytes.
const SOURCES_BYTES_MAX: usize = 16 << 10;

/// A domain to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddDomain {
    /// Its name; a leading dot makes it a wildcard.
    pub name: DomainName,
    /// Where it is served.
    pub coverage: Coverage,
    /// Where its objects come from; at least one.
    pub sources: Vec<Source>,
    /// What it is for; `None` for VOD, which has no such kinds.
    pub kind: Option<CdnType>,
}

/// What is to become of a domain that is there (SetWarmfrontDomain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDomain {
    /// Which domain.
    pub name: DomainName,
    /// The response header in which its origins name tags, lower case; `None` for those that are usual.
    pub tag_header: Option<String>,
}

/// One origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What `content` is.
    pub kind: SourceType,
    /// An address or a host name.
    pub content: String,
    /// TCP port.
    pub port: u16,
    /// Ours: http or https whatever the port is; by the port when it is not given, as with the vendor.
    pub scheme: Option<Scheme>,
    /// 20 primary, 30 backup.
    pub priority: u16,
    /// 0 to 100.
    pub weight: u16,
}

/// What kind of origin a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// An IP address.
    Address,
    /// A host name.
    Domain,
    /// A bucket of the vendor's object store.
    Oss,
    /// A function's host name.
    Function,
    /// A site of the vendor's, by host name.
    Common,
}

impl SourceType {
    const ALL: [SourceType; 5] =
        [SourceType::Address, SourceType::Domain, SourceType::Oss, SourceType::Function, SourceType::Common];

    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            SourceType::Address => "ipaddr",
            SourceType::Domain => "domain",
            SourceType::Oss => "oss",
            SourceType::Function => "fc_domain",
            SourceType::Common => "common",
        }
    }
}

/// What a CDN domain is for. It changes nothing here; it is kept and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdnType {
    /// Pages and small files.
    Web,
    /// Large files.
    Download,
    /// Audio and video.
    Video,
}

impl CdnType {
    const ALL: [CdnType; 3] = [CdnType::Web, CdnType::Download, CdnType::Video];

    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            CdnType::Web => "web",
            CdnType::Download => "download",
            CdnType::Video => "video",
        }
    }

    /// The kind of this name, in any case.
    pub fn named(name: &str) -> Option<CdnType> {
        CdnType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// The states of a domain that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainStatus {
    /// Served.
    Online,
    /// Switched off.
    Offline,
    /// On its way to the nodes.
    Configuring,
    /// The last configuration failed.
    ConfigureFailed,
    /// Under review.
    Checking,
    /// Not admitted.
    CheckFailed,
    /// On its way to be switched off.
    Stopping,
    /// On its way to be removed.
    Deleting,
}

impl DomainStatus {
    const ALL: [DomainStatus; 8] = [
        DomainStatus::Online,
        DomainStatus::Offline,
        DomainStatus::Configuring,
        DomainStatus::ConfigureFailed,
        DomainStatus::Checking,
        DomainStatus::CheckFailed,
        DomainStatus::Stopping,
        DomainStatus::Deleting,
    ];

    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            DomainStatus::Online => "online",
            DomainStatus::Offline => "offline",
            DomainStatus::Configuring => "configuring",
            DomainStatus::ConfigureFailed => "configure_failed",
            DomainStatus::Checking => "checking",
            DomainStatus::CheckFailed => "check_failed",
            DomainStatus::Stopping => "stopping",
            DomainStatus::Deleting => "deleting",
        }
    }
}

/// How a name filter is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchType {
    /// Anywhere in the name.
    Contains,
    /// At its beginning.
    Prefix,
    /// At its end.
    Suffix,
    /// The whole name.
    Whole,
}

/// Which domains are asked for. Every filter that is there must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainQuery {
    /// A part of the name, lower case, and how it is compared.
    pub name: Option<(String, SearchType)>,
    /// In this state.
    pub status: Option<DomainStatus>,
    /// Of one of these kinds; empty for any.
    pub kinds: Vec<CdnType>,
    /// Served there.
    pub coverage: Option<Coverage>,
    /// With an origin of this content.
    pub source: Option<String>,
    /// Last changed at or after.
    pub changed_from: Option<SystemTime>,
    /// Last changed before.
    pub changed_until: Option<SystemTime>,
    /// Whether domains under review are listed too.
    pub with_checking: bool,
    /// Which part of the list.
    pub page: Page,
}

/// Reads the parameters of a new domain.
pub(crate) fn add(request: &Request, profile: &Profile) -> Result<AddDomain, Refusal> {
    let params = &request.params;
    let worded = |fault| Refusal::of(fault, profile.wording(request));
    let name = params.required("DomainName")?;
    let kind = match request.product {
        Product::Cdn => Some(CdnType::named(params.required("CdnType")?).ok_or_else(|| worded(Fault::CdnType))?),
        Product::Vod => None,
    };
    let sources = params.required("Sources")?;
    if params.any_starts_with("Tag.") {
        return Err(Refusal::unsupported()); // tags that nobody could ask for again would be a false success
    }
    Ok(AddDomain {
        name: DomainName::parse(name).map_err(|_| worded(Fault::NewDomainName))?,
        coverage: coverage(params.get("Scope").unwrap_or("domestic")).ok_or_else(|| worded(Fault::Scope))?,
        sources: read_sources(sources).map_err(worded)?,
        kind,
    })
}

/// Reads what a domain is to become.
pub(crate) fn set(request: &Request, profile: &Profile) -> Result<SetDomain, Refusal> {
    let tag_header = request.params.get("TagHeader").map(|text| {
        let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| text.len() <= TAG_HEADER_BYTES_MAX);
        name.map(|name| name.as_str().to_owned())
            .ok_or_else(|| Refusal::invalid("TagHeader", "the name of a response header is expected"))
    });
    Ok(SetDomain { name: name(request, profile)?, tag_header: tag_header.transpose()? })
}

/// Reads the one domain that a call is about.
pub(crate) fn name(request: &Request, profile: &Profile) -> Result<DomainName, Refusal> {
    DomainName::parse(request.params.required("DomainName")?)
        .map_err(|_| Refusal::of(Fault::DomainName, profile.wording(request)))
}

/// Reads the filters of a list of domains.
pub(crate) fn query(request: &Request, profile: &Profile) -> Result<DomainQuery, Refusal> {
    let params = &request.params;
    let wording: Wording = profile.wording(request);
    let worded = |fault| Refusal::of(fault, wording);
    if params.any_starts_with("Tag.") {
        return Err(Refusal::unsupported());
    }
    let (largest, search) = match request.product {
        Product::Cdn => (500, SearchType::Whole),
        Product::Vod => (50, SearchType::Contains),
    };
    let search = match params.get("DomainSearchType") {
        None => search,
        Some("fuzzy_match") => SearchType::Contains,
        Some("pre_match") => SearchType::Prefix,
        Some("suf_match") => SearchType::Suffix,
        Some("full_match") => SearchType::Whole,
        Some(_) => return Err(worded(Fault::SearchType)),
    };
    let status = params.get("DomainStatus").map(|text| {
        let found = DomainStatus::ALL.into_iter().find(|status| status.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| worded(Fault::FilterDomainStatus))
    });
    let kinds = match request.product {
        Product::Vod => None, // obsolete there: accepted and ignored
        Product::Cdn => params.get("CdnType"),
    };
    let kinds = kinds.into_iter().flat_map(|list| list.split(','));
    let time = |name: &str| {
        let expected = "a time such as 2026-01-02T03:04:05Z is expected";
        params.get(name).map(|text| read_time(text).ok_or_else(|| Refusal::invalid(name, expected))).transpose()
    };
    let covered = params.get("Coverage").map(|text| {
        coverage(text).ok_or_else(|| Refusal::invalid("Coverage", "domestic, overseas or global is expected"))
    });
    Ok(DomainQuery {
        name: params.get("DomainName").map(|name| (name.to_ascii_lowercase(), search)),
        status: status.transpose()?,
        kinds: kinds
            .map(|kind| CdnType::named(kind.trim()).ok_or_else(|| worded(Fault::FilterCdnType)))
            .collect::<Result<_, _>>()?,
        coverage: covered.transpose()?,
        source: params.get("Source").map(str::to_owned),
        changed_from: time("ChangeStartTime")?,
        changed_until: time("ChangeEndTime")?,
        with_checking: boolean(params, "CheckDomainShow")?,
        page: page(params, largest).map_err(worded)?,
    })
}

/// The vendor's word for a coverage, in any case.
fn coverage(text: &str) -> Option<Coverage> {
    [("domestic", Coverage::Domestic), ("overseas", Coverage::Overseas), ("global", Coverage::Global)]
        .into_iter()
        .find_map(|(name, coverage)| name.eq_ignore_ascii_case(text).then_some(coverage))
}

/// Reads `Sources`: an array of objects whose keys come in any case and whose numbers may be texts.
fn read_sources(text: &str) -> Result<Vec<Source>, Fault> {
    if text.len() > SOURCES_BYTES_MAX {
        return Err(Fault::Sources);
    }
    let Ok(Value::Array(entries)) = serde_json::from_str(text) else {
        return Err(Fault::Sources);
    };
    if entries.is_empty() || entries.len() > SOURCES_MAX {
        return Err(Fault::Sources);
    }
    entries.iter().map(|entry| read_source(entry.as_object().ok_or(Fault::Sources)?)).collect()
}

fn read_source(entry: &Map<String, Value>) -> Result<Source, Fault> {
    let field = |name: &str| -> Result<Option<String>, Fault> {
        match entry.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(Fault::Sources),
        }
    };
    let number = |name: &str, default: u16| -> Result<u16, Fault> {
        field(name)?.map_or(Ok(default), |text| text.parse().map_err(|_| Fault::Sources))
    };
    let kind = field("type")?.ok_or(Fault::SourceType)?;
    let kind = SourceType::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(&kind));
    let kind = kind.ok_or(Fault::SourceType)?;
    let content = field("content")?.ok_or(Fault::Sources)?;
    let is_address = content.parse::<IpAddr>().is_ok();
    let is_host = content.len() <= 253
        && content.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
    let scheme = match field("scheme")?.map(|scheme| scheme.to_ascii_lowercase()).as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(_) => return Err(Fault::Sources),
    };
    let source = Source {
        kind,
        content,
        port: number("port", if scheme == Some(Scheme::Https) { 443 } else { 80 })?,
        scheme,
        priority: number("priority", 20)?,
        weight: number("weight", 10)?,
    };
    let fits = if kind == SourceType::Address { is_address } else { is_host };
    if fits && source.port > 0 && matches!(source.priority, 20 | 30) && source.weight <= 100 {
        Ok(source)
    } else {
        Err(Fault::Sources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_clients_write_them() {
        let source = |kind, content: &str, port, priority, weight| Source {
            kind,
            content: content.to_owned(),
            port,
            scheme: None,
            priority,
            weight,
        };
        let secure =
            |port, scheme| Source { scheme: Some(scheme), ..source(SourceType::Domain, "o.example.com", port, 20, 10) };
        let cases = [
            (r#"[{"content":"1.2.3.4","type":"ipaddr"}]"#, Ok(source(SourceType::Address, "1.2.3.4", 80, 20, 10))),
            (
                // Terraform: capitalised keys, numbers both ways
                r#"[{"Content":"o.example.com","Type":"domain","Priority":"30","Port":443,"Weight":"15"}]"#,
                Ok(source(SourceType::Domain, "o.example.com", 443, 30, 15)),
            ),
            (
                r#"[{"content":"localhost","type":"domain","port":9790}]"#,
                Ok(source(SourceType::Domain, "localhost", 9790, 20, 10)),
            ),
            (r#"[{"content":"::1","type":"ipaddr"}]"#, Ok(source(SourceType::Address, "::1", 80, 20, 10))),
            (
                // ours
                r#"[{"content":"o.example.com","type":"domain","port":8443,"scheme":"https"}]"#,
                Ok(secure(8443, Scheme::Https)),
            ),
            (r#"[{"content":"o.example.com","type":"domain","scheme":"HTTPS"}]"#, Ok(secure(443, Scheme::Https))),
            (
                r#"[{"content":"o.example.com","type":"domain","port":443,"scheme":"http"}]"#,
                Ok(secure(443, Scheme::Http)),
            ),
            (r#"[{"content":"o.example.com","type":"domain","scheme":"ftp"}]"#, Err(Fault::Sources)),
            ("1.2.3.4", Err(Fault::Sources)),
            ("[]", Err(Fault::Sources)),
            ("[1]", Err(Fault::Sources)),
            (r#"[{"type":"ipaddr"}]"#, Err(Fault::Sources)),
            (r#"[{"content":"1.2.3.4"}]"#, Err(Fault::SourceType)),
            (r#"[{"content":"1.2.3.4","type":"tape"}]"#, Err(Fault::SourceType)),
            (r#"[{"content":"o.example.com","type":"ipaddr"}]"#, Err(Fault::Sources)),
            (r#"[{"content":"http://o.example.com","type":"domain"}]"#, Err(Fault::Sources)),
            (r#"[{"content":"a.com","type":"domain","port":0}]"#, Err(Fault::Sources)),
            (r#"[{"content":"a.com","type":"domain","port":70000}]"#, Err(Fault::Sources)),
            (r#"[{"content":"a.com","type":"domain","priority":25}]"#, Err(Fault::Sources)),
            (r#"[{"content":"a.com","type":"domain","weight":101}]"#, Err(Fault::Sources)),
            (r#"[{"content":{},"type":"domain"}]"#, Err(Fault::Sources)),
        ];
        for (text, expected) in cases {
            assert_eq!(read_sources(text), expected.map(|source| vec![source]), "{text}");
        }
    }
}
