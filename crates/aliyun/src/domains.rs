//! Domains: creating, changing, switching, deleting and listing them, for CDN and VOD.
//!
//! # What always holds
//!
//! - A new name is valid in DNS: punycode if not ASCII, not an address, without a trailing dot, in lower case.
//!
//! # Not here
//!
//! Names already taken and limits on their number: the control plane knows. The format of origins (`sources`), tags
//! (`labels`).

use std::time::SystemTime;

use http::HeaderName;
use model::{Coverage, DomainName};
use serde_json::Value;

use crate::call::boolean;
use crate::labels::{self, Label, LabelFilter};
use crate::profile::{Profile, Wording};
use crate::read::{Params, Product, Request};
use crate::refusal::{Fault, Refusal};
use crate::sources::{self, BadSources, Source};
use crate::tasks::{Page, page, read_time};

/// Maximum number of domains in one call.
const NAMES_MAX: usize = 50;

/// Longest name of a header, in bytes.
const TAG_HEADER_BYTES_MAX: usize = 100;

/// Longest `Property`, in bytes.
const PROPERTY_BYTES_MAX: usize = 1024;

/// The only resource group, which contains everything.
pub const RESOURCE_GROUP: &str = "rg-default";

/// A request to create domains, identical except for their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddDomains {
    /// Their names, without duplicates; a leading dot makes a wildcard.
    pub names: Vec<DomainName>,
    /// Where they are served.
    pub coverage: Coverage,
    /// Their origins; at least one.
    pub sources: Vec<Source>,
    /// Their business type; `None` for VOD, which has none.
    pub kind: Option<CdnType>,
    /// Their tags.
    pub labels: Vec<Label>,
}

/// A request to change domains in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModifyDomains {
    /// The domains, without duplicates.
    pub names: Vec<DomainName>,
    /// Their origins; `None` leaves them unchanged.
    pub sources: Option<Vec<Source>>,
}

/// A change to an existing domain (SetWarmfrontDomain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDomain {
    /// The domain.
    pub name: DomainName,
    /// The response header in which its origins send tags, lower case; `None` for the usual ones.
    pub tag_header: Option<String>,
}

/// The business type of a CDN domain. It has no effect here; it is only stored and shown.
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

    /// The type with this name, in any letter case.
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
    /// Being distributed to the nodes.
    Configuring,
    /// The last configuration failed.
    ConfigureFailed,
    /// Under review.
    Checking,
    /// Not admitted.
    CheckFailed,
    /// Being switched off.
    Stopping,
    /// Being removed.
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

/// How a name filter is applied.
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

/// A query for domains. All given filters must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainQuery {
    /// A part of the name, lower case, and how it is matched.
    pub name: Option<(String, SearchType)>,
    /// In this state.
    pub status: Option<DomainStatus>,
    /// With one of these types; empty for any.
    pub kinds: Vec<CdnType>,
    /// With this coverage.
    pub coverage: Option<Coverage>,
    /// With an origin that has this content.
    pub source: Option<String>,
    /// Last changed at or after this time.
    pub changed_from: Option<SystemTime>,
    /// Last changed before this time.
    pub changed_until: Option<SystemTime>,
    /// Whether domains under review, and those whose review or configuration failed, are included.
    pub with_checking: bool,
    /// With these tags.
    pub labels: Vec<LabelFilter>,
    /// The query names a resource group that does not exist, so nothing matches.
    pub elsewhere: bool,
    /// The page of the list.
    pub page: Page,
}

/// Reads the parameters of new domains: one of AddCdnDomain and AddVodDomain, several of BatchAddCdnDomain.
pub(crate) fn add(request: &Request, profile: &Profile, several: bool) -> Result<AddDomains, Refusal> {
    let params = &request.params;
    let worded = |fault| Refusal::of(fault, profile.wording(request));
    let text = params.required("DomainName")?;
    let kind = match request.product {
        Product::Cdn => {
            // The vendor's wording.
            let text = "The input parameter cdnType that is mandatory for processing this request is not supplied.";
            let named = params.get("CdnType").ok_or_else(|| Refusal::new(400, "MissingParameter", text))?;
            Some(CdnType::named(named).ok_or_else(|| worded(Fault::CdnType))?)
        }
        Product::Vod => None,
    };
    let sources = params.required("Sources")?;
    let names = match several {
        true => each_once(text, "DomainName", |text| new_name(text).ok_or_else(|| worded(Fault::NewDomainName)))?,
        false => vec![new_name(text).ok_or_else(|| worded(Fault::NewDomainName))?],
    };
    let sources = sources::read(sources, &names).map_err(|bad| {
        let exceeded = bad == BadSources::TooMany && request.product == Product::Vod;
        worded(if exceeded { Fault::Sources } else { bad.of_new() })
    })?;
    group(params).map_err(worded)?;
    Ok(AddDomains {
        names,
        coverage: coverage(params.get("Scope").unwrap_or("domestic")).ok_or_else(|| worded(Fault::Scope))?,
        sources,
        kind,
        labels: if several { Vec::new() } else { labels::read(params)? },
    })
}

/// Reads the changes to one domain, or several.
pub(crate) fn modify(request: &Request, profile: &Profile, several: bool) -> Result<ModifyDomains, Refusal> {
    let params = &request.params;
    let worded = |fault| Refusal::of(fault, profile.wording(request));
    let names = match several {
        true => names(request, profile, "DomainName")?,
        false => vec![DomainName::parse(params.required("DomainName")?).map_err(|_| {
            worded(match request.product {
                Product::Cdn => Fault::DomainName,
                Product::Vod => Fault::NewDomainName,
            })
        })?],
    };
    let read = |text| {
        let fault = |bad: BadSources| match (several, request.product, bad.of_change()) {
            (true, _, _) => Fault::Sources,
            (false, Product::Cdn, Fault::Sources) => Fault::ChangedSources,
            (false, _, fault) => fault,
        };
        sources::read(text, &names).map_err(|bad| worded(fault(bad)))
    };
    let sources = params.get("Sources").map(read).transpose()?;
    if sources.is_none() && params.get("TopLevelDomain").is_some() {
        return Err(worded(Fault::TopLevelDomain)); // this needs an allow list, and nobody is on it
    }
    group(params).map_err(worded)?;
    Ok(ModifyDomains { names, sources })
}

/// Reads the new coverage of a domain.
pub(crate) fn set_coverage(request: &Request, profile: &Profile) -> Result<(DomainName, Coverage), Refusal> {
    let name = name(request, profile)?;
    let text = request.params.required("Property")?;
    let property = match serde_json::from_str(text) {
        Ok(Value::Object(property)) if text.len() <= PROPERTY_BYTES_MAX => property,
        _ => return Err(bad_property()),
    };
    let mut fields = property.iter();
    match (fields.next(), fields.next()) {
        (Some((key, Value::String(area))), None) if key.eq_ignore_ascii_case("coverage") => {
            Ok((name, coverage(area).ok_or_else(bad_property)?))
        }
        _ => Err(bad_property()),
    }
}

fn bad_property() -> Refusal {
    Refusal::invalid("Property", r#"{"coverage":"domestic"}, "overseas" or "global" is expected"#)
}

/// Reads the change to a domain.
pub(crate) fn set(request: &Request, profile: &Profile) -> Result<SetDomain, Refusal> {
    let tag_header = request.params.get("TagHeader").map(|text| {
        let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| text.len() <= TAG_HEADER_BYTES_MAX);
        name.map(|name| name.as_str().to_owned())
            .ok_or_else(|| Refusal::invalid("TagHeader", "the name of a response header is expected"))
    });
    Ok(SetDomain { name: name(request, profile)?, tag_header: tag_header.transpose()? })
}

/// Reads the name of the only domain of a call.
pub(crate) fn name(request: &Request, profile: &Profile) -> Result<DomainName, Refusal> {
    DomainName::parse(request.params.required("DomainName")?)
        .map_err(|_| Refusal::of(Fault::DomainName, profile.wording(request)))
}

/// Reads the domains of a call from `parameter`, separated by commas, without duplicates.
pub(crate) fn names(request: &Request, profile: &Profile, parameter: &str) -> Result<Vec<DomainName>, Refusal> {
    let worded = || Refusal::of(Fault::DomainName, profile.wording(request));
    each_once(request.params.required(parameter)?, parameter, |text| DomainName::parse(text).map_err(|_| worded()))
}

fn each_once(
    text: &str,
    parameter: &str,
    read: impl Fn(&str) -> Result<DomainName, Refusal>,
) -> Result<Vec<DomainName>, Refusal> {
    let mut names = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let name = read(word)?;
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > NAMES_MAX {
            break;
        }
    }
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(Refusal::invalid(parameter, "1 to 50 domains are expected, split by commas"));
    }
    Ok(names)
}

/// Parses a name that a domain may get: a valid name that is not an address (whose last label would be a number), with
/// valid punycode in labels that look like it (RFC 5890 §2.3.1).
fn new_name(text: &str) -> Option<DomainName> {
    let name = DomainName::parse(text).ok()?;
    let label = |label: &str| match label.get(2..4) {
        Some("--") => label.strip_prefix("xn--").is_some_and(|rest| !rest.is_empty() && !rest.contains('_')),
        _ => true,
    };
    let mut labels = name.as_str().trim_start_matches('.').split('.');
    let top = labels.clone().next_back()?;
    let is_address = top.bytes().all(|byte| byte.is_ascii_digit()) || top.starts_with("0x");
    (!is_address && labels.all(label)).then_some(name)
}

/// Checks the resource group of a call, which must be the only one.
fn group(params: &Params) -> Result<(), Fault> {
    match params.get("ResourceGroupId") {
        None | Some(RESOURCE_GROUP) => Ok(()),
        Some(id) => match id.strip_prefix("rg-") {
            Some(rest) if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Err(Fault::ResourceGroup)
            }
            _ => Err(Fault::ResourceGroupId),
        },
    }
}

/// Reads the filters of a list of domains.
pub(crate) fn query(request: &Request, profile: &Profile) -> Result<DomainQuery, Refusal> {
    let params = &request.params;
    let wording: Wording = profile.wording(request);
    let worded = |fault| Refusal::of(fault, wording);
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
    let part = |text: &str| {
        let good = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if good { Ok((text.to_ascii_lowercase(), search)) } else { Err(worded(Fault::DomainName)) }
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
    let with_checking = match request.product {
        Product::Vod => true, // its lists have them all; the parameter is obsolete there
        Product::Cdn => boolean(params, "CheckDomainShow")?,
    };
    Ok(DomainQuery {
        name: params.get("DomainName").map(part).transpose()?,
        status: status.transpose()?,
        kinds: kinds
            .map(|kind| CdnType::named(kind.trim()).ok_or_else(|| worded(Fault::FilterCdnType)))
            .collect::<Result<_, _>>()?,
        coverage: covered.transpose()?,
        source: params.get("Source").map(str::to_owned),
        changed_from: time("ChangeStartTime")?,
        changed_until: time("ChangeEndTime")?,
        with_checking,
        labels: labels::filters(params)?,
        elsewhere: params.get("ResourceGroupId").is_some_and(|id| id != RESOURCE_GROUP),
        page: page(params, largest).map_err(worded)?,
    })
}

/// The coverage with the vendor's name `text`, in any letter case.
fn coverage(text: &str) -> Option<Coverage> {
    [("domestic", Coverage::Domestic), ("overseas", Coverage::Overseas), ("global", Coverage::Global)]
        .into_iter()
        .find_map(|(name, coverage)| name.eq_ignore_ascii_case(text).then_some(coverage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_are_those_that_dns_can_have() {
        let cases = [
            ("A.Example.COM", Some("a.example.com")),
            (".example.com", Some(".example.com")),
            ("a_b.example.com", Some("a_b.example.com")),
            ("xn--fiqs8s.example.com", Some("xn--fiqs8s.example.com")),
            ("1.example.com", Some("1.example.com")),
            ("中国.example.com", None), // must be sent as punycode
            ("xn--.example.com", None),
            ("xn--a_b.example.com", None),
            ("ab--c.example.com", None),
            ("example.com.", None),
            ("*.example.com", None),
            ("127.0.0.1", None),
            ("1.2.3", None),
            ("0x7f.0x1", None),
            ("::1", None),
            ("example", None),
            ("a b.example.com", None),
            ("http://a.example.com", None),
        ];
        for (text, expected) in cases {
            assert_eq!(new_name(text).as_ref().map(DomainName::as_str), expected, "{text}");
        }
    }
}
