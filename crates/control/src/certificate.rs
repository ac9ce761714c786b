//! Certificates of domains: whether one can be served, and what it contains.
//!
//! A mistake is reported to the person who makes it, not to the users of the domain: every node can serve an accepted
//! certificate at once.
//!
//! # Not here
//!
//! Whether clients trust the chain: that is between its owner and them. A self-signed certificate is accepted like any
//! other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::DomainName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// The longest chain and key, in bytes of PEM: an entry of the log has to fit into a message of the link.
const CHAIN_BYTES_MAX: usize = 64 << 10;
const KEY_BYTES_MAX: usize = 16 << 10;

/// The most certificates of one chain.
const CHAIN_MAX: usize = 10;

/// Why a certificate cannot be used for a domain. Reveals nothing about the key except that it does not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BadCertificate {
    /// Not a chain of certificates in PEM.
    #[error("SSLPub: expected one to {CHAIN_MAX} certificates in PEM, the domain's own first")]
    Chain,
    /// Something other than certificates, which may be a secret: the chain is shown to everybody.
    #[error("SSLPub: expected certificates alone, without a key")]
    NotCertificates,
    /// Longer than is accepted.
    #[error("a chain of more than {CHAIN_BYTES_MAX} or a key of more than {KEY_BYTES_MAX} bytes")]
    TooLong,
    /// Not a usable private key.
    #[error("SSLPri: expected an RSA, ECDSA or Ed25519 key in PEM, without a passphrase")]
    Key,
    /// The key of another certificate.
    #[error("the key is not that of the first certificate")]
    Mismatch,
    /// A certificate of other names.
    #[error("the first certificate is not for {0}")]
    OtherNames(String),
    /// It has expired, or is not valid yet.
    #[error("the first certificate is not good now")]
    NotNow,
}

/// The contents of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Its subject.
    pub(crate) subject: String,
    /// Its issuer.
    pub(crate) issuer: String,
    /// The start of its validity.
    pub(crate) not_before: SystemTime,
    /// The end of its validity.
    pub(crate) not_after: SystemTime,
}

/// Checks whether `chain` and `key`, both in PEM, can be served to users of `domain` from `now` on.
pub(crate) fn check(domain: &DomainName, chain: &str, key: &str, now: SystemTime) -> Result<(), BadCertificate> {
    if chain.len() > CHAIN_BYTES_MAX || key.len() > KEY_BYTES_MAX {
        return Err(BadCertificate::TooLong);
    }
    let (all, certificates) = ("-----BEGIN ", "-----BEGIN CERTIFICATE-----");
    if chain.matches(all).count() != chain.matches(certificates).count() {
        return Err(BadCertificate::NotCertificates);
    }
    let chain = read(chain).ok_or(BadCertificate::Chain)?;
    let leaf = chain.first().and_then(parse).ok_or(BadCertificate::Chain)?;
    if !names(&leaf).iter().any(|name| covers(name, domain)) {
        let wanted = domain.as_str();
        return Err(BadCertificate::OtherNames(match domain.is_wildcard() {
            true => format!("*{wanted}"),
            false => wanted.to_owned(),
        }));
    }
    let facts = facts_of(&leaf);
    if now < facts.not_before || now > facts.not_after {
        return Err(BadCertificate::NotNow);
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| BadCertificate::Key)?;
    // With the provider that nodes use: what loads here loads there.
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match CertifiedKey::from_der(chain.clone(), key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(BadCertificate::Mismatch),
        Err(rustls::Error::InvalidCertificate(_)) => Err(BadCertificate::Chain),
        Err(_) => Err(BadCertificate::Key),
    }
}

/// The facts of the first certificate of a chain in PEM; `None` for a chain that [`check`] would refuse.
pub(crate) fn facts(chain: &str) -> Option<Facts> {
    read(chain)?.first().and_then(parse).map(|leaf| facts_of(&leaf))
}

fn read(chain: &str) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().ok()?;
    let whole = (1..=CHAIN_MAX).contains(&chain.len()) && chain.iter().all(|der| parse(der).is_some());
    whole.then_some(chain)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

/// The DNS names of a certificate. The common name is not one: clients have not used it for years (RFC 9525 §2).
fn names<'a>(certificate: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = alternatives.value.general_names.iter();
    names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None }).collect()
}

/// Whether a certificate for `name` can be served to users of `domain` (RFC 9525 §6.3: a `*` stands for one whole
/// label).
fn covers(name: &str, domain: &DomainName) -> bool {
    let wanted = domain.as_str();
    match name.strip_prefix('*') {
        Some(below) if domain.is_wildcard() => below.eq_ignore_ascii_case(wanted),
        Some(below) => wanted.find('.').is_some_and(|dot| wanted[dot..].eq_ignore_ascii_case(below)),
        None => name.eq_ignore_ascii_case(wanted),
    }
}

fn facts_of(certificate: &X509Certificate<'_>) -> Facts {
    let subject = common_name(certificate.subject()).or(names(certificate).first().copied()).unwrap_or_default();
    let issuer = certificate.issuer();
    let organisation = issuer.iter_organization().next().and_then(|text| text.as_str().ok());
    let validity = certificate.validity();
    Facts {
        subject: subject.to_owned(),
        issuer: organisation.or(common_name(issuer)).unwrap_or_default().to_owned(),
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    }
}

fn common_name<'a>(name: &'a X509Name<'_>) -> Option<&'a str> {
    name.iter_common_name().next().and_then(|text| text.as_str().ok())
}

/// Seconds since 1970; earlier times become 1970.
fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> SystemTime {
        time(1_780_000_000 + days * 86_400)
    }

    /// A certificate for `names` that is good from day 0 to day 90.
    fn make(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut params =
            rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "cn.test");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Own CA");
        (params.not_before, params.not_after) = (at(0).into(), at(90).into());
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn certificate_is_for_its_domain_its_key_and_its_time() {
        let ec = &rcgen::PKCS_ECDSA_P256_SHA256;
        let (a, a_key) = make(&["a.com", "*.a.com"], ec);
        let (_, other_key) = make(&["a.com"], ec);
        let (ed, ed_key) = make(&["a.com"], &rcgen::PKCS_ED25519);
        let (unnamed, unnamed_key) = make(&[], ec);
        let cut = &a[..a.len() / 2];
        let other = |name: &str| Err(BadCertificate::OtherNames(name.to_owned()));
        let long = "x".repeat(CHAIN_BYTES_MAX + 1);
        let eleven = a.repeat(CHAIN_MAX + 1);
        let (both, combined) = (format!("{a}{ed}"), format!("{a}{a_key}"));
        let cases = [
            // domain     chain     key         day  result
            ("a.com", a.as_str(), a_key.as_str(), 1, Ok(())),
            ("A.com", &a, &a_key, 1, Ok(())),
            ("x.a.com", &a, &a_key, 1, Ok(())),
            (".a.com", &a, &a_key, 1, Ok(())),
            ("a.com", &both, &a_key, 1, Ok(())), // whether the rest leads to an authority is not ours to say
            ("a.com", &ed, &ed_key, 1, Ok(())),
            ("x.y.a.com", &a, &a_key, 1, other("x.y.a.com")), // a star is one label
            (".y.a.com", &a, &a_key, 1, other("*.y.a.com")),
            (".a.com", &ed, &ed_key, 1, other("*.a.com")),
            ("b.com", &a, &a_key, 1, other("b.com")),
            ("cn.test", &unnamed, &unnamed_key, 1, other("cn.test")), // the common name is no name
            ("a.com", &a, &a_key, -1, Err(BadCertificate::NotNow)),
            ("a.com", &a, &a_key, 91, Err(BadCertificate::NotNow)),
            ("a.com", &a, &other_key, 1, Err(BadCertificate::Mismatch)),
            ("a.com", &a, &ed_key, 1, Err(BadCertificate::Mismatch)),
            ("a.com", &a, &a, 1, Err(BadCertificate::Key)),
            ("a.com", &a, "no key", 1, Err(BadCertificate::Key)),
            ("a.com", &a_key, &a_key, 1, Err(BadCertificate::NotCertificates)),
            ("a.com", &combined, &a_key, 1, Err(BadCertificate::NotCertificates)),
            ("a.com", cut, &a_key, 1, Err(BadCertificate::Chain)),
            ("a.com", "", &a_key, 1, Err(BadCertificate::Chain)),
            ("a.com", &eleven, &a_key, 1, Err(BadCertificate::Chain)),
            ("a.com", &long, &a_key, 1, Err(BadCertificate::TooLong)),
            ("a.com", &a, &long, 1, Err(BadCertificate::TooLong)),
        ];
        for (at_case, (domain, chain, key, day, expected)) in cases.into_iter().enumerate() {
            let domain = DomainName::parse(domain).unwrap();
            assert_eq!(check(&domain, chain, key, at(day)), expected, "case {at_case}: {domain}");
        }
    }

    #[test]
    fn certificate_tells_of_itself() {
        let (chain, key) = make(&["a.com"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let facts = facts(&chain).unwrap();
        let expected =
            Facts { subject: "cn.test".into(), issuer: "Own CA".into(), not_before: at(0), not_after: at(90) };
        assert_eq!(facts, expected);
        assert_eq!(super::facts(&key), None);
    }
}
