//! Certificates: what is read, every fault by its code, and what is shown.

mod common;

use std::time::Duration;

use aliyun::{Call, CertificatePair, CertificateShown, Profile, Refusal, Reply, SetCertificate, call, render};
use common::{now, request};
use model::DomainName;
use serde_json::Value;

const CDN: &str = "2018-05-10";
const VOD: &str = "2017-03-21";

type Params<'a> = &'a [(&'a str, &'a str)];

fn ask(version: &str, action: &str, params: Params<'_>) -> Result<Call, Refusal> {
    call(&request(version, action, params), Profile::named("cdn-2024").unwrap(), aliyun::Rules::default(), now())
}

const SETTING: [(&str, &str); 3] =
    [(CDN, "SetCdnDomainSSLCertificate"), (VOD, "SetVodDomainCertificate"), (VOD, "SetVodDomainSSLCertificate")];

#[test]
fn certificate_is_read_from_every_action_that_sets_one() {
    let domain = DomainName::parse("a.com").unwrap();
    let pair = CertificatePair { name: "c".into(), chain: "PUB".into(), key: "PRI".into() };
    for (version, action) in SETTING {
        let on =
            [("DomainName", "A.com"), ("SSLProtocol", "on"), ("SSLPub", "PUB"), ("SSLPri", "PRI"), ("CertName", "c")];
        let expected = SetCertificate { domain: domain.clone(), pair: Some(pair.clone()) };
        assert_eq!(ask(version, action, &on), Ok(Call::SetCertificate(expected)), "{action}");
        let off = [("DomainName", "a.com"), ("SSLProtocol", "off")];
        let expected = SetCertificate { domain: domain.clone(), pair: None };
        assert_eq!(ask(version, action, &off), Ok(Call::SetCertificate(expected)), "{action}");
    }
    for (version, action) in [(CDN, "DescribeDomainCertificateInfo"), (VOD, "DescribeVodDomainCertificateInfo")] {
        assert_eq!(ask(version, action, &[("DomainName", "a.com")]), Ok(Call::Certificate(domain.clone())), "{action}");
    }
}

#[test]
fn faults_of_certificates() {
    let long = "x".repeat(129);
    let cases: &[(Params<'_>, &str)] = &[
        (&[("DomainName", "")], "MissingParameter"),
        (&[("DomainName", "a b")], "InvalidDomainName.Malformed"),
        (&[("SSLProtocol", "")], "MissingParameter"),
        (&[("SSLProtocol", "maybe")], "InvalidSSLProtocol.ValueNotSupported"),
        (&[("SSLPub", "")], "SSLPub.MissingParameter"),
        (&[("SSLPri", "")], "SSLPri.MissingParameter"),
        (&[("CertName", &long)], "InvalidCertName.TooLong"),
    ];
    let stored: &[(Params<'_>, &str)] = &[
        (&[("CertType", "cas")], "Certificate.NotFind"),
        (&[("CertId", "7"), ("SSLPub", "")], "Certificate.NotFind"),
        (&[("CertType", "free")], "InvalidParameter"),
        (&[("CertRegion", "mars")], "InvalidParameter"),
    ];
    for (version, action) in SETTING {
        let stored = stored.iter().filter(|_| action != "SetVodDomainCertificate");
        for (changed, code) in cases.iter().chain(stored) {
            let good = [("DomainName", "a.com"), ("SSLProtocol", "on"), ("SSLPub", "PUB"), ("SSLPri", "SECRET")];
            let kept = good.into_iter().filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
            let params: Vec<_> = kept.chain(changed.iter().copied()).collect();
            let refusal = ask(version, action, &params).unwrap_err();
            assert_eq!((refusal.status, &*refusal.code), (400, *code), "{action} {changed:?}");
            assert!(!refusal.message.contains("SECRET"));
        }
    }
    let trial = [("DomainName", "a.com"), ("SSLProtocol", "on"), ("SSLPub", "P"), ("SSLPri", "P"), ("Env", "staging")];
    assert!(ask(VOD, "SetVodDomainSSLCertificate", &trial).is_err(), "a trial must not be the real thing");
    assert!(ask(CDN, "SetCdnDomainSSLCertificate", &trial).is_ok(), "accepted and ignored there");
}

#[test]
fn private_keys_are_not_shown_by_debug() {
    let params = [("DomainName", "a.com"), ("SSLProtocol", "on"), ("SSLPub", "PUB"), ("SSLPri", "SECRET")];
    let request = request(CDN, "SetCdnDomainSSLCertificate", &params);
    let call = call(&request, Profile::named("open").unwrap(), aliyun::Rules::default(), now()).unwrap();
    let shown = format!("{request:?} {call:?}");
    assert!(shown.contains("PUB") && !shown.contains("SECRET"), "{shown}");
}

fn body(version: &str, action: &str, reply: &Reply) -> Value {
    let request = request(version, action, &[("DomainName", "a.com")]);
    serde_json::from_slice(&render(&request, "R-1", reply).body).unwrap()
}

#[test]
fn domain_without_certificate_is_one_element_too() {
    let fields = "CertDomainName CertExpireTime CertId CertLife CertName CertOrg CertRegion CertStartTime CertType CertUpdateTime \
                  DomainCnameStatus DomainName ServerCertificate ServerCertificateStatus Status";
    let shown = CertificateShown {
        name: "c".into(),
        id: 7,
        subject: "a.com".into(),
        issuer: "Some CA".into(),
        chain: "PUB".into(),
        not_before: now(),
        not_after: now() + Duration::from_secs(90 * 86_400),
        set_at: now(),
    };
    for (version, action) in [(CDN, "DescribeDomainCertificateInfo"), (VOD, "DescribeVodDomainCertificateInfo")] {
        for (certificate, status, life, expires) in
            [(None, "off", "", ""), (Some(shown.clone()), "on", "months", "2026-04-02T03:04:05Z")]
        {
            let reply = Reply::Certificate { domain: "a.com".into(), certificate };
            let body = body(version, action, &reply);
            let [info] = body["CertInfos"]["CertInfo"].as_array().unwrap().as_slice() else { panic!("{body}") };
            let names = info.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
            assert_eq!(names, fields);
            assert!(info.as_object().unwrap().values().all(Value::is_string), "as the SDK's models say");
            assert_eq!((&info["ServerCertificateStatus"], &info["CertLife"]), (&status.into(), &life.into()));
            assert_eq!(info["CertExpireTime"], expires);
        }
    }
}
