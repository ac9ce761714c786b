//! An accelerated domain: its owner, its origins, and where it is served.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::functions::Functions;
use crate::topology::Coverage;

/// Name of an accelerated domain, lower case; a leading dot makes it a wildcard that serves every host below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

/// Why a text is not a domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a domain name: labels of letters, digits, `-` and `_`, at least two, at most 253 bytes in all")]
pub struct BadDomainName(String);

impl DomainName {
    /// Parses a domain name: at least two labels (RFC 1035 §2.3.1, plus the underscore found in practice), lower-cased.
    pub fn parse(text: &str) -> Result<DomainName, BadDomainName> {
        let host = text.strip_prefix('.').unwrap_or(text);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if host.len() > 253 || host.split('.').count() < 2 || !host.split('.').all(label) {
            return Err(BadDomainName(text.chars().take(300).collect()));
        }
        Ok(DomainName(text.to_ascii_lowercase()))
    }

    /// The name, with the leading dot of a wildcard.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the domain serves every host below its name.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('.')
    }

    /// Whether requests for `host` (lower case, no port) belong to this domain.
    pub fn serves(&self, host: &str) -> bool {
        if self.is_wildcard() { host.len() > self.0.len() && host.ends_with(&self.0) } else { host == self.0 }
    }

    /// The names under which a domain that serves `host` may be configured: the exact one first, then wildcards from
    /// the narrowest to the widest.
    pub fn candidates(host: &str) -> impl Iterator<Item = &str> {
        let dots = host.bytes().enumerate().filter(|(_, b)| *b == b'.').map(|(at, _)| &host[at..]);
        std::iter::once(host).chain(dots)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for DomainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DomainName {
    type Error = BadDomainName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        DomainName::parse(&text)
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> String {
        name.0
    }
}

/// What nodes know of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its name, unique over all accounts.
    pub name: DomainName,
    /// Where it is served.
    pub coverage: Coverage,
    /// Where its objects come from; never empty.
    pub sources: Vec<Source>,
    /// Whether users are served at all.
    pub online: bool,
    /// The response header in which its origins send tags, lower case; `cache-tag` and `surrogate-key` if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag_header: Option<String>,
    /// The functions its owner configured.
    #[serde(default, skip_serializing_if = "Functions::is_empty")]
    pub functions: Functions,
}

/// One origin server of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What `content` is.
    pub kind: SourceKind,
    /// An address or a host name, without scheme and port.
    pub content: String,
    /// TCP port.
    pub port: u16,
    /// The scheme to use; if `None`, it follows from the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The lower number is asked first (20 primary, 30 backup).
    pub priority: u16,
    /// Share among sources of one priority.
    pub weight: u16,
}

impl Source {
    /// Whether it is fetched from by https: if so configured, or if no scheme is configured and the port is 443.
    pub fn is_secure(&self) -> bool {
        self.scheme.map_or(self.port == 443, |scheme| scheme == Scheme::Https)
    }
}

/// The scheme for requests to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS; the certificate is verified.
    Https,
}

/// What kind of origin a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// An IP address; requests carry the accelerated domain as Host.
    Address,
    /// A host name; requests carry the accelerated domain as Host.
    Domain,
    /// A bucket of an object store; requests carry its own name as Host.
    Bucket,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_folded() {
        let cases = [
            ("Example.COM", Some("example.com")),
            (".example.com", Some(".example.com")),
            ("a_b.example.com", Some("a_b.example.com")),
            ("example", None), // one label
            ("*.example.com", None),
            ("-a.com", None),
            ("a..com", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(DomainName::parse(text).ok().as_ref().map(DomainName::as_str), expected, "{text}");
        }
    }

    #[test]
    fn wildcard_serves_what_lies_below_it() {
        let cases = [
            (".example.com", "a.example.com", true),
            (".example.com", "b.a.example.com", true),
            (".example.com", "example.com", false),
            (".example.com", "badexample.com", false),
            ("example.com", "example.com", true),
            ("example.com", "a.example.com", false),
        ];
        for (name, host, serves) in cases {
            let name = DomainName::parse(name).unwrap();
            assert_eq!(name.serves(host), serves, "{name} for {host}");
            assert_eq!(DomainName::candidates(host).any(|c| c == name.as_str()), serves, "candidates of {host}");
        }
    }
}
