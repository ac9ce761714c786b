//! Functions and certificates of domains.

use std::time::{Duration, SystemTime};

use aliyun::{CertificateShown, Fault, FunctionRow, FunctionSet, Refusal, Reply, Wording};

use super::Group;
use super::common::now;

const FUNCTIONS: (&str, &str) =
    ("Functions", r#"[{"functionName":"range","functionArgs":[{"argName":"enable","argValue":"on"}]}]"#);
const DOMAIN: (&str, &str) = ("DomainName", "a.com");

pub(crate) const GROUP: Group = Group {
    actions: &[
        "BatchSetCdnDomainConfig",
        "DescribeCdnDomainConfigs",
        "DeleteSpecificConfig",
        "BatchDeleteCdnDomainConfig",
        "DescribeCdnUserDomainsByFunc",
        "BatchSetVodDomainConfigs",
        "DescribeVodDomainConfigs",
        "DeleteVodSpecificConfig",
        "SetCdnDomainSSLCertificate",
        "DescribeDomainCertificateInfo",
        "SetVodDomainCertificate",
        "SetVodDomainSSLCertificate",
        "DescribeVodDomainCertificateInfo",
    ],
    good,
    others,
    sent_as: |name| name,
    not_alone: &[],
    reply,
    refusals,
    unfilled: &[],
    without_effect: &[
        ("ResourceGroupId", "there is one resource group"),
        ("HeraApiAutoVersion", "a field of the vendor's own"),
        ("DeleteVodSpecificConfig.Env", "there is one environment"),
        ("SetCdnDomainSSLCertificate.Env", "obsolete"),
        ("SetVodDomainSSLCertificate.Env", "a trial run is refused; anything else is none"),
        ("SetVodDomainCertificate.Region", "obsolete"),
        ("CertId", "ignored beside a certificate; without one there is no store to take it from"),
        ("CertRegion", "there is one region"),
        ("CertType", "certificates are uploaded; there is no store to take one from"),
    ],
    other_words: &[
        ("InvalidFunctions.Malformed", "Specified Functions", "the text of older profiles"),
        ("MissingParameter", "", "the gateway's text names the parameter as it is sent"),
        ("NoPermission.SLR", "", "another product's"),
        ("DeleteFunctionFailed", "", "looking deletes nothing"),
        ("Certificate.Duplicated", "", "names of certificates need not differ"),
        ("InvalidDomain.Offline", "The domain provided is offline.", "one that is offline may be given a certificate"),
        ("OperationDenied", "Your CDN service is suspended.", "VOD's own words"),
        ("SetDomainSSLPub.ParameterError", "", "what is wrong is told apart"),
        ("Certificate.StatusError", "", "there is no store of certificates"),
        ("DeleteFailed", "", "it does not"),
        ("Certificate.FormatError", "", "another code for InvalidCertificate"),
        ("Certificate.KeyNull", "", "another code for SSLPri.MissingParameter"),
        ("SSLPri.Malformed", "", "another code for InvalidSSLPri"),
        ("Certificate.NotPermittedOff", "", "the vendor's business"),
        ("Certificate.SettedNotEffect", "", "the vendor's business"),
    ],
};

fn good(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "BatchSetCdnDomainConfig" | "BatchSetVodDomainConfigs" => &[("DomainNames", "a.com"), FUNCTIONS],
        "BatchDeleteCdnDomainConfig" => &[("DomainNames", "a.com"), ("FunctionNames", "range")],
        "DeleteSpecificConfig" | "DeleteVodSpecificConfig" => &[DOMAIN, ("ConfigId", "1")],
        "DescribeVodDomainConfigs" => &[DOMAIN, ("FunctionNames", "range")],
        "DescribeCdnUserDomainsByFunc" => &[("FuncId", "31")],
        "SetCdnDomainSSLCertificate" | "SetVodDomainCertificate" | "SetVodDomainSSLCertificate" => {
            &[DOMAIN, ("SSLProtocol", "on"), ("SSLPub", "chain"), ("SSLPri", "key")]
        }
        _ => &[DOMAIN],
    }
}

fn others(_: &str, name: &str) -> &'static [&'static str] {
    match name {
        "DomainName" => &["b.com"],
        "DomainNames" => &["b.com", "a.com,b.com"],
        "Functions" => &[r#"[{"functionName":"gzip","functionArgs":[]}]"#],
        "FunctionNames" => &["gzip", "range,gzip"],
        "ConfigId" => &["2"],
        "FuncId" => &["7"],
        "PageNumber" => &["2"],
        "PageSize" => &["50"],
        "SSLPub" | "SSLPri" | "CertName" => &["other"],
        "CertId" | "Region" | "HeraApiAutoVersion" | "ResourceGroupId" => &["x"],
        "Env" => &["online"],
        "CertType" => &["upload"],
        _ => &[],
    }
}

fn reply(action: &str) -> Reply {
    match action {
        "BatchSetCdnDomainConfig" | "BatchSetVodDomainConfigs" => {
            Reply::FunctionsSet(vec![FunctionSet { domain: "a.com".to_owned(), name: "range".to_owned(), id: 1 }])
        }
        "DescribeCdnDomainConfigs" | "DescribeVodDomainConfigs" => {
            let args = vec![("enable".to_owned(), "on".to_owned())];
            let row = FunctionRow { id: 1, name: "range".to_owned(), args, parent: None };
            Reply::Functions { rows: vec![row], configured: true }
        }
        "DescribeCdnUserDomainsByFunc" => super::domains::reply("DescribeUserDomains"),
        "DescribeDomainCertificateInfo" | "DescribeVodDomainCertificateInfo" => {
            let certificate = CertificateShown {
                name: "c".to_owned(),
                id: 1,
                subject: "a.com".to_owned(),
                issuer: "a".to_owned(),
                chain: "chain".to_owned(),
                not_before: SystemTime::UNIX_EPOCH,
                not_after: now() + Duration::from_secs(1),
                set_at: now(),
            };
            Reply::Certificate { domain: "a.com".to_owned(), certificate: Some(certificate) }
        }
        _ => Reply::Done,
    }
}

fn refusals() -> Vec<Refusal> {
    use Fault::*;
    let faults = [
        DomainUnknown,
        DomainForbidden,
        DomainBusy,
        Functions,
        SslProtocol,
        CertificateMissing,
        KeyMissing,
        Certificate,
        Key,
        KeyMismatch,
        CertificateTooLong,
        CertificateName,
        CertificateUnknown,
    ];
    let worded = faults.into_iter().flat_map(|fault| {
        [Wording::Current, Wording::Legacy, Wording::LegacyVod].map(|wording| Refusal::of(fault, wording))
    });
    let quoting =
        [Refusal::function_name("%s"), Refusal::argument_name("%s"), Refusal::argument_value(), Refusal::header_key()];
    worded.chain(quoting).collect()
}
