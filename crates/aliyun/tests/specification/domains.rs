//! Domains and their tags.

use std::time::Duration;

use aliyun::{
    CdnType, DomainDetail, DomainStatus, DomainTls, Fault, LabelRow, Page, Refusal, Reply, Source, SourceType, Wording,
};
use model::Coverage;

use super::Group;
use super::common::now;

const SOURCES: (&str, &str) = ("Sources", r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#);
const DOMAIN: (&str, &str) = ("DomainName", "a.com");
const TYPE: (&str, &str) = ("ResourceType", "DOMAIN");

pub(crate) const GROUP: Group = Group {
    actions: &[
        "AddCdnDomain",
        "BatchAddCdnDomain",
        "ModifyCdnDomain",
        "BatchUpdateCdnDomain",
        "ModifyCdnDomainSchdmByProperty",
        "StartCdnDomain",
        "StopCdnDomain",
        "BatchStartCdnDomain",
        "BatchStopCdnDomain",
        "DeleteCdnDomain",
        "DescribeUserDomains",
        "DescribeCdnDomainDetail",
        "DescribeCdnRegionAndIsp",
        "DescribeL2VipsByDomain",
        "DescribeDomainCname",
        "DescribeVerifyContent",
        "VerifyDomainOwner",
        "TagResources",
        "UntagResources",
        "ListTagResources",
        "DescribeTagResources",
        "DescribeUserTags",
        "AddVodDomain",
        "UpdateVodDomain",
        "DeleteVodDomain",
        "BatchStartVodDomain",
        "BatchStopVodDomain",
        "DescribeVodUserDomains",
        "DescribeVodDomainDetail",
        "DescribeVodVerifyContent",
        "VerifyVodDomainOwner",
    ],
    good,
    others,
    sent_as: |name| match name {
        "Tag" => "Tag.1.Key",
        "TagKey" => "TagKey.1",
        "ResourceId" => "ResourceId.1",
        other => other,
    },
    not_alone: &[],
    reply,
    refusals,
    unfilled: &[],
    without_effect: &[
        ("CheckUrl", "nodes find out themselves which origins answer"),
        ("ResourceGroupId", "there is one resource group; in a list another one matches nothing"),
        ("AddCdnDomain.TopLevelDomain", "ignored beside Sources, which is required"),
        ("BatchAddCdnDomain.TopLevelDomain", "ignored beside Sources, which is required"),
        ("AddVodDomain.TopLevelDomain", "ignored beside Sources, which is required"),
        ("ModifyCdnDomain.TopLevelDomain", "ignored beside Sources"),
        ("BatchUpdateCdnDomain.TopLevelDomain", "ignored beside Sources"),
        ("UpdateVodDomain.TopLevelDomain", "ignored beside Sources"),
        ("GlobalResourcePlan", "obsolete"),
        ("SourceType", "obsolete: clients of 2014 send it"),
        ("SourcePort", "obsolete: clients of 2014 send it"),
        ("Priorities", "obsolete: clients of 2014 send it"),
        ("FuncId", "obsolete: an action of its own does it"),
        ("FuncFilter", "obsolete: an action of its own does it"),
        ("DescribeVodUserDomains.CdnType", "obsolete"),
        ("DescribeVodUserDomains.CheckDomainShow", "obsolete"),
        ("UntagResources.All", "only effective when no TagKey is given"),
        ("TagOwnerBid", "a field of the vendor's own"),
        ("TagOwnerUid", "a field of the vendor's own"),
        ("DescribeTagResources.Scope", "obsolete"),
        ("ResourceType", "there is one type"),
    ],
    other_words: &[
        ("InvalidSourceType.Malformed", "Specified CdnType", "two languages of one page have two texts"),
        ("InvalidSourceType.Malformed", "The specific value", "an older page of the same"),
        ("InvalidSources.Malformed", "The specific value", "an older page of the same"),
        ("InvalidDomainName.Malformed", "Specified DomainName", "said of new names; others have the other text"),
        ("MissingParameter", "", "the gateway's text names the parameter as it is sent"),
        ("MissingSources", "", "the parameter is not required"),
        ("MissingSourceType", "", "a part of Sources"),
        ("InvalidCertificate", "", "the call has no certificate"),
        ("InvalidCertificate.TooLong", "", "the call has no certificate"),
        ("InvaildParameter", "", "the call has no certificate"),
        ("NotExist", "", "a domain without a certificate is described all the same"),
        ("InnerAddDomainDenied", "", "the vendor's own accounts"),
        ("BusinessExist", "", "the vendor's business"),
        ("NotInternationRealIdentity", "", "the vendor's business"),
        ("DomainNotRegistration", "", "the operator decides whose domains are served"),
        ("DomainReserved", "", "the operator decides whose domains are served: IllegalOperation"),
        ("DomainInProtectedMode", "", "the operator decides: IllegalOperation"),
        ("InvalidDomainNameLevel", "", "names of the vendor's own"),
        ("ExtensiveAndAllBothExist", "", "there is no reason for it here"),
        ("CdnTypeNotSupportExtensiveDomain", "", "every kind may be a wildcard"),
        ("InvalidTopLevelDomain.Malformed", "", "none of them is there"),
        ("TopLevelDomain.NotFound", "", "ignored beside Sources; without them it is answered"),
        ("InvalidStatus.ResourceGroup", "", "the one group is always well"),
        ("Abs.resourceGroupId.Malformed", "", "another code for the same"),
        ("InvalidPriorities.Malformed", "", "an obsolete parameter"),
        ("InvalidRegion.Malformed", "", "live streams"),
        ("InvalidParameter", "", "live streams"),
        ("OperationDenied", "You do not have access", "the vendor's business"),
        ("IllegalOperation", "", "403 everywhere; one page has it with 400"),
        ("ServiceBusy", "The specified Domain is configuring, please retry again", "looking is not refused"),
    ],
};

fn good(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "AddCdnDomain" | "BatchAddCdnDomain" => &[DOMAIN, ("CdnType", "web"), SOURCES],
        "AddVodDomain" => &[DOMAIN, SOURCES],
        "ModifyCdnDomainSchdmByProperty" => &[DOMAIN, ("Property", r#"{"coverage":"global"}"#)],
        "BatchStartCdnDomain" | "BatchStopCdnDomain" | "BatchStartVodDomain" | "BatchStopVodDomain" => {
            &[("DomainNames", "a.com")]
        }
        "TagResources" => &[("ResourceId.1", "a.com"), TYPE, ("Tag.1.Key", "k")],
        "UntagResources" => &[("ResourceId.1", "a.com"), TYPE, ("TagKey.1", "k")],
        "DescribeTagResources" => &[("ResourceId.1", "a.com"), TYPE],
        "ListTagResources" => &[TYPE],
        "ModifyCdnDomain" | "BatchUpdateCdnDomain" | "UpdateVodDomain" => &[DOMAIN, SOURCES],
        "VerifyDomainOwner" | "VerifyVodDomainOwner" => &[DOMAIN, ("VerifyType", "dnsCheck")],
        "DescribeCdnRegionAndIsp" | "DescribeUserTags" => &[],
        _ => &[DOMAIN],
    }
}

fn others(action: &str, name: &str) -> &'static [&'static str] {
    match (action, name) {
        ("BatchAddCdnDomain" | "BatchUpdateCdnDomain" | "DescribeDomainCname", "DomainName") => {
            &["b.com,c.com", "b.com"]
        }
        ("AddCdnDomain" | "AddVodDomain", "DomainName") => &["b.com", ".b.com"],
        (_, "DomainName") => &["b.com"],
        (_, "DomainNames") => &["b.com", "a.com,b.com"],
        (_, "Sources") => &[r#"[{"Content":"o.com","Type":"domain","Priority":"30","Port":443,"Weight":"15"}]"#],
        (_, "Property") => &[r#"{"coverage":"overseas"}"#],
        (_, "ChangeStartTime" | "ChangeEndTime") => &["2026-01-02T03:04:05Z", "2026-01-02T03:04Z"],
        ("DescribeVodUserDomains", "CdnType") => &["web"],
        ("DescribeVodUserDomains", "CheckDomainShow") => &["true"],
        (_, "PageNumber") => &["2", "100000"],
        (_, "PageSize") => &["50"],
        (_, "Source") => &["127.0.0.1"],
        (_, "Tag" | "TagKey") => &["other"],
        (_, "ResourceId") => &["b.com"],
        (_, "ResourceGroupId") => &["rg-default"],
        (_, "NextToken") => &["YS5jb20KYQ"],
        (_, "SourceType" | "SourcePort" | "Priorities" | "GlobalResourcePlan" | "CheckUrl" | "TopLevelDomain") => {
            &["x"]
        }
        (_, "FuncId" | "FuncFilter" | "TagOwnerBid" | "TagOwnerUid") => &["x"],
        ("DescribeTagResources", "Scope") => &["x"],
        _ => &[],
    }
}

pub(crate) fn reply(action: &str) -> Reply {
    let label = || ("env".to_owned(), "prod".to_owned());
    let domain = DomainDetail {
        name: "a.com".to_owned(),
        cname: String::new(),
        kind: Some(CdnType::Web),
        coverage: Coverage::Global,
        status: DomainStatus::Online,
        description: String::new(),
        sources: vec![Source {
            kind: SourceType::Address,
            content: "127.0.0.1".to_owned(),
            port: 80,
            scheme: None,
            priority: 20,
            weight: 10,
        }],
        tag_header: None,
        tls: Some(DomainTls { name: "c".to_owned(), chain: "chain".to_owned() }),
        created_at: now(),
        modified_at: now() + Duration::from_secs(1),
    };
    match action {
        "DescribeUserDomains" | "DescribeVodUserDomains" => {
            Reply::Domains { page: Page { number: 1, size: 20 }, total: 1, rows: vec![domain] }
        }
        "DescribeCdnDomainDetail" | "DescribeVodDomainDetail" => Reply::DomainDetail(domain),
        "ListTagResources" => {
            Reply::Labels { rows: vec![LabelRow { domain: "a.com".to_owned(), label: label() }], more: true }
        }
        "DescribeTagResources" => Reply::LabelsOf(vec![("a.com".to_owned(), vec![label()])]),
        "DescribeUserTags" => Reply::LabelsOfAccount(vec![("env".to_owned(), vec!["prod".to_owned()])]),
        "DescribeVerifyContent" | "VerifyDomainOwner" | "DescribeVodVerifyContent" | "VerifyVodDomainOwner" => {
            Reply::ProofContent("0f".repeat(32))
        }
        "DescribeCdnRegionAndIsp" => Reply::Places(vec![model::Region::Domestic]),
        "DescribeL2VipsByDomain" => {
            Reply::Addresses { domain: "a.com".to_owned(), addresses: vec!["127.0.0.1".to_owned()] }
        }
        "DescribeDomainCname" => Reply::Cnames(vec!["a.com".to_owned()]),
        _ => Reply::Done,
    }
}

fn refusals() -> Vec<Refusal> {
    use Fault::*;
    let faults = [
        DomainUnknown,
        DomainForbidden,
        DomainBusy,
        PageNumber,
        PageSize,
        NewDomainName,
        DomainName,
        Fault::CdnType,
        FilterCdnType,
        Sources,
        Fault::SourceType,
        SourcesExceeded,
        SourceContent,
        ChangedSourceType,
        SourceMismatch,
        SourcePriority,
        SourcePort,
        TopLevelDomain,
        ResourceGroup,
        ResourceGroupId,
        Scope,
        DomainExists,
        DomainConflict,
        DomainOverLimit,
        NotProven,
        FilterDomainStatus,
        SearchType,
    ];
    let worded = faults.into_iter().flat_map(|fault| {
        [Wording::Current, Wording::Legacy, Wording::LegacyVod].map(|wording| Refusal::of(fault, wording))
    });
    worded.chain([Refusal::forbidden()]).collect()
}
