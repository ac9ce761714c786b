//! What must be forgotten: a scope, and what becomes of the bodies in it.

use serde::{Deserialize, Serialize};

use crate::domain::DomainName;
use crate::key::UrlKey;

/// One thing to forget. Several of them can share a log entry, and so a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidation {
    /// Which bodies.
    pub scope: Scope,
    /// What becomes of them.
    pub mode: Mode,
}

/// Which bodies an invalidation covers, whatever their variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One object, by its exact key; http and https are one.
    File(UrlKey),
    /// Everything below a directory of one host.
    Directory {
        /// Lower case, without a port.
        host: String,
        /// Starts and ends with `/`; `/` is the whole site.
        path: String,
    },
    /// Everything of a domain, whatever the host.
    Domain(DomainName),
}

/// What becomes of a body that an invalidation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Kept for a validation: the origin is asked before the next use, and a 304 keeps it.
    Expire,
    /// Not kept: the next use fetches it whole.
    Delete,
}

impl Scope {
    /// Whether the object `key`, served for `domain`, lies in this scope.
    pub fn covers(&self, domain: &DomainName, key: &UrlKey) -> bool {
        match self {
            Scope::File(file) => file == key,
            Scope::Directory { host, path } => host == key.host() && key.path().starts_with(path.as_str()),
            Scope::Domain(name) => name == domain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_covers_what_lies_beneath_it() {
        let domain = DomainName::parse("a.com").unwrap();
        let cases = [
            // directory   path                covered
            ("/img/", "/img/a.png", true),
            ("/img/", "/img/2026/a.png", true),
            ("/img/", "/img/", true),
            ("/img/", "/img", false), // the slash is part of the name
            ("/img/", "/imgs/a.png", false),
            ("/img/", "/x?from=/img/", false), // a query is not a directory
            ("/", "/anything", true),
        ];
        for (directory, path, covered) in cases {
            let scope = Scope::Directory { host: "a.com".into(), path: directory.into() };
            let key = UrlKey::new("a.com", path).unwrap();
            assert_eq!(scope.covers(&domain, &key), covered, "{directory} over {path}");
            let elsewhere = UrlKey::new("b.com", path).unwrap();
            assert!(!scope.covers(&domain, &elsewhere), "another host is never covered");
        }
    }
}
