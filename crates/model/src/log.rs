//! The log: its entries, the knowledge they add up to, and their encoding.
//!
//! Everything a node must learn is an entry of one ordered log. The result of all entries up to a revision, except for
//! invalidations, is [`Knowledge`]; a joining node gets it as a [`Snapshot`] and reads on from there.
//!
//! # What always holds
//!
//! - An entry never changes once appended; its encoded form is what is stored, sent and journalled.
//! - An entry of an unknown kind or version is an error and never skipped: a node that cannot apply an entry must not
//!   acknowledge it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::certificate::Certificate;
use crate::domain::{Domain, DomainName};
use crate::invalidation::Invalidation;
use crate::revision::{LogId, Revision};
use crate::topology::{Member, NodeName, Pop, Topology};

/// Version of the encoding of entries and snapshots.
const VERSION: u32 = 1;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// Bodies to invalidate; all of them share the entry's revision.
    Invalidate(Vec<Invalidation>),
    /// A domain was added or changed: its state from now on.
    Domain(Domain),
    /// A domain is no longer served; its bodies are invalidated.
    DomainRemoved(DomainName),
    /// The certificate shown to users of a domain from now on. Bodies are not affected.
    Certificate(Certificate),
    /// A domain is no longer served over TLS.
    CertificateRemoved(DomainName),
    /// A POP was added or changed.
    Pop(Pop),
    /// A member was added or changed.
    Member(Member),
    /// A node is no longer a member.
    MemberRemoved(NodeName),
    /// The settings from now on.
    Settings(Settings),
}

/// What nodes must agree on with the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How long a node may trust its store after a contact, in seconds.
    pub lease_secs: u64,
}

impl Settings {
    /// How long a node may trust its store after a contact.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_secs)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease_secs: 10 }
    }
}

/// The result of all entries up to some revision, except for invalidations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// Every domain, by name.
    #[serde(with = "shared")]
    pub domains: BTreeMap<DomainName, Arc<Domain>>,
    /// The certificates of those domains that have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", with = "shared")]
    pub certificates: BTreeMap<DomainName, Arc<Certificate>>,
    /// Every POP and member.
    pub topology: Topology,
    /// The settings.
    pub settings: Settings,
}

impl Knowledge {
    /// Applies one entry. Invalidations change nothing here: bodies are judged against them.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Invalidate(_) => {}
            Entry::Domain(domain) => {
                self.domains.insert(domain.name.clone(), Arc::new(domain.clone()));
            }
            Entry::DomainRemoved(name) => {
                self.domains.remove(name);
                self.certificates.remove(name);
            }
            Entry::Certificate(certificate) => {
                self.certificates.insert(certificate.domain.clone(), Arc::new(certificate.clone()));
            }
            Entry::CertificateRemoved(name) => {
                self.certificates.remove(name);
            }
            Entry::Pop(pop) => {
                self.topology.pops.insert(pop.name.clone(), pop.clone());
            }
            Entry::Member(member) => {
                self.topology.members.insert(member.name.clone(), member.clone());
            }
            Entry::MemberRemoved(name) => {
                self.topology.members.remove(name);
            }
            Entry::Settings(settings) => self.settings = settings.clone(),
        }
    }

    /// A domain by its name.
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name).map(|domain| &**domain)
    }

    /// The domain that serves `host` (lower case, no port): the exact name before wildcards, narrow before wide.
    pub fn domain_for(&self, host: &str) -> Option<&Domain> {
        self.shared_domain_for(host).map(|domain| &**domain)
    }

    /// The same, as a shared pointer to keep.
    pub fn shared_domain_for(&self, host: &str) -> Option<&Arc<Domain>> {
        DomainName::candidates(host).find_map(|name| {
            let domain = self.domains.get(name)?;
            domain.name.serves(host).then_some(domain)
        })
    }
}

/// Domains and certificates are large, and every change copies the knowledge, so copies share them. The encoding is
/// that of plain maps.
mod shared {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::domain::DomainName;

    type Shared<T> = BTreeMap<DomainName, Arc<T>>;

    pub(super) fn serialize<T: Serialize, S: Serializer>(all: &Shared<T>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(all.iter().map(|(name, one)| (name, &**one)))
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Shared<T>, D::Error> {
        let all = BTreeMap::<DomainName, T>::deserialize(from)?;
        Ok(all.into_iter().map(|(name, one)| (name, Arc::new(one))).collect())
    }
}

/// Knowledge at a revision: the starting point of a joining node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The log it belongs to.
    pub log: LogId,
    /// The head of the log it was taken at.
    pub revision: Revision,
    /// What was known there.
    pub knowledge: Knowledge,
}

/// Why bytes are not an entry or a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a later version of Warmfront.
    #[error("written in version {found} of the format, this program reads {VERSION}")]
    Version {
        /// The version in the bytes.
        found: u32,
    },
    /// Damaged, or of a kind that this version does not know.
    #[error("not an entry this program knows")]
    Unknown(#[source] serde_json::Error),
}

#[derive(Serialize)]
struct Writing<'a, T> {
    v: u32,
    is: &'a T,
}

#[derive(Deserialize)]
struct Reading<T> {
    is: T,
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// Encodes an entry or a snapshot: JSON with the version of the format first.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(&Writing { v: VERSION, is: value })
        .expect("our own types have string keys and no failing serialiser")
}

/// Decodes what [`encode`] wrote.
pub fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, DecodeError> {
    // The version is read alone first: nothing else of a later format need be readable here.
    let version: Versioned = serde_json::from_slice(bytes).map_err(DecodeError::Unknown)?;
    if version.v != VERSION {
        return Err(DecodeError::Version { found: version.v });
    }
    serde_json::from_slice::<Reading<T>>(bytes).map(|reading| reading.is).map_err(DecodeError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Source, SourceKind};
    use crate::invalidation::{Mode, Scope};
    use crate::key::UrlKey;
    use crate::pattern::Pattern;
    use crate::tags::Tag;
    use crate::topology::Coverage;

    fn domain(name: &str) -> Domain {
        Domain {
            name: DomainName::parse(name).unwrap(),
            coverage: Coverage::Global,
            sources: vec![Source {
                kind: SourceKind::Address,
                content: "127.0.0.1".into(),
                port: 80,
                scheme: None,
                priority: 20,
                weight: 10,
            }],
            online: true,
            tag_header: None,
            functions: Default::default(),
        }
    }

    fn certificate(name: &str) -> Certificate {
        let (domain, secret) = (DomainName::parse(name).unwrap(), crate::CertificateSecret::new([1; 32]));
        let key = crate::SealedKey::seal(&secret, [2; 12], &domain, "key");
        Certificate { domain, name: "c".into(), chain: "chain".into(), key, set_ms: 3 }
    }

    #[test]
    fn certificate_goes_with_its_domain_and_is_written_down_whole() {
        let mut knowledge = Knowledge::default();
        for entry in [Entry::Domain(domain("a.com")), Entry::Certificate(certificate("a.com"))] {
            knowledge.apply(&entry);
        }
        let copy: Knowledge = decode(&encode(&knowledge)).unwrap();
        assert_eq!((copy.certificates.len(), &copy), (1, &knowledge));
        for last in [
            Entry::CertificateRemoved(DomainName::parse("a.com").unwrap()),
            Entry::DomainRemoved(DomainName::parse("a.com").unwrap()),
        ] {
            let mut after = copy.clone();
            after.apply(&last);
            assert!(after.certificates.is_empty(), "{last:?}");
        }
    }

    #[test]
    fn entries_survive_being_written_down() {
        let entries = [
            Entry::Invalidate(vec![
                Invalidation { scope: Scope::File(UrlKey::new("a.com", "/x?y").unwrap()), mode: Mode::Delete },
                Invalidation {
                    scope: Scope::Directory { host: "a.com".into(), path: "/d/".into() },
                    mode: Mode::Expire,
                },
            ]),
            Entry::Invalidate(vec![
                Invalidation {
                    scope: Scope::IgnoreParams { host: "a.com".into(), path: "/x".into() },
                    mode: Mode::Expire,
                },
                Invalidation {
                    scope: Scope::Regex(Pattern::parse(UrlKey::new("a.com", "/x[0-9].*").unwrap()).unwrap()),
                    mode: Mode::Expire,
                },
                Invalidation {
                    scope: Scope::Tag {
                        domain: DomainName::parse(".a.com").unwrap(),
                        tag: Tag::parse("news").unwrap(),
                    },
                    mode: Mode::Delete,
                },
                Invalidation { scope: Scope::Domain(DomainName::parse(".a.com").unwrap()), mode: Mode::Expire },
            ]),
            Entry::Domain(domain(".a.com")),
            Entry::Domain(Domain { tag_header: Some("x-tags".into()), ..domain("a.com") }),
            Entry::Certificate(certificate("a.com")),
            Entry::CertificateRemoved(DomainName::parse(".a.com").unwrap()),
            Entry::MemberRemoved(NodeName::parse("n").unwrap()),
        ];
        for entry in entries {
            assert_eq!(decode::<Entry>(&encode(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn entries_of_the_first_version_are_still_read() {
        // As version 1 wrote it to disks and databases; never edit.
        let samples = [
            r#"{"v":1,"is":{"invalidate":[{"scope":{"file":{"host":"a.com","path":"/x?y"}},"mode":"delete"}]}}"#,
            r#"{"v":1,"is":{"invalidate":[{"scope":{"directory":{"host":"a.com","path":"/d/"}},"mode":"expire"}]}}"#,
            r#"{"v":1,"is":{"invalidate":[{"scope":{"ignore_params":{"host":"a.com","path":"/x"}},"mode":"expire"}]}}"#,
            r#"{"v":1,"is":{"invalidate":[{"scope":{"regex":{"host":"a.com","path":"/x[0-9]/[^/]*.*"}},"mode":"expire"}]}}"#,
            r#"{"v":1,"is":{"invalidate":[{"scope":{"tag":{"domain":".a.com","tag":"news"}},"mode":"delete"}]}}"#,
            r#"{"v":1,"is":{"invalidate":[{"scope":{"domain":"a.com"},"mode":"delete"}]}}"#,
            r#"{"v":1,"is":{"settings":{"lease_secs":10}}}"#,
            r#"{"v":1,"is":{"domain":{"name":".a.com","coverage":"global","sources":[{"kind":"address","content":"127.0.0.1","port":80,"priority":20,"weight":10}],"online":true}}}"#,
            r#"{"v":1,"is":{"domain":{"name":"a.com","coverage":"global","sources":[],"online":false,"tag_header":"x-tags"}}}"#,
            r#"{"v":1,"is":{"certificate":{"domain":"a.com","name":"c","chain":"pem","key":"c2VhbGVk","set_ms":1}}}"#,
            r#"{"v":1,"is":{"certificate_removed":"a.com"}}"#,
            r#"{"v":1,"is":{"domain":{"name":"a.com","coverage":"global","sources":[],"online":true,"functions":[{"id":7,"name":"range","args":[["enable","on"]]},{"id":8,"name":"not_known","parent":3}]}}}"#,
            r#"{"v":1,"is":{"pop":{"name":"cn-1","region":"domestic","parents":{"L1":{"pop":"cn-1","tier":"L2"}}}}}"#,
        ];
        for sample in samples {
            decode::<Entry>(sample.as_bytes()).unwrap_or_else(|error| panic!("{sample}: {error:?}"));
        }
    }

    #[test]
    fn unknown_entries_are_errors() {
        assert!(matches!(decode::<Entry>(br#"{"v":2,"is":{}}"#), Err(DecodeError::Version { found: 2 })));
        for bad in [&b"{\"v\":1,\"is\":{\"teapot\":1}}"[..], b"", b"\xff", b"{\"v\":1}"] {
            assert!(matches!(decode::<Entry>(bad), Err(DecodeError::Unknown(_))), "{bad:?}");
        }
    }

    #[test]
    fn narrowest_domain_serves_a_host() {
        let mut knowledge = Knowledge::default();
        for name in ["a.com", ".a.com", ".b.a.com"] {
            knowledge.apply(&Entry::Domain(domain(name)));
        }
        let cases = [
            ("a.com", Some("a.com")),
            ("x.a.com", Some(".a.com")),
            ("x.b.a.com", Some(".b.a.com")),
            ("b.a.com", Some(".a.com")),
            ("c.com", None),
        ];
        for (host, expected) in cases {
            assert_eq!(knowledge.domain_for(host).map(|domain| domain.name.as_str()), expected, "{host}");
        }
    }
}
