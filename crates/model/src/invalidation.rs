//! Invalidations: a scope, and what happens to the bodies in it.

use serde::{Deserialize, Serialize};

use crate::domain::DomainName;
use crate::key::UrlKey;
use crate::pattern::Pattern;
use crate::tags::{Tag, Tags};

/// One invalidation. Several can share a log entry, and so a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invalidation {
    /// Which bodies.
    pub scope: Scope,
    /// What happens to them.
    pub mode: Mode,
}

/// Which bodies an invalidation covers, whatever their variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One object, by its exact key; http and https are the same object.
    File(UrlKey),
    /// Everything below a directory of one host.
    Directory {
        /// Lower case, without a port.
        host: String,
        /// Starts and ends with `/`; `/` is the whole site.
        path: String,
    },
    /// One path of a host, whatever its query.
    IgnoreParams {
        /// Lower case, without a port.
        host: String,
        /// Without a query.
        path: String,
    },
    /// Every object of one host that a regular expression matches.
    Regex(Pattern),
    /// Every body of a domain that carries a tag from its origin.
    Tag {
        /// The domain of the bodies.
        domain: DomainName,
        /// The tag.
        tag: Tag,
    },
    /// Every body of a domain, whatever the host.
    Domain(DomainName),
}

/// What happens to a body that an invalidation covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Kept for validation: the origin is asked before the next use, and the body stays if it answers 304.
    Expire,
    /// Not kept: the next use fetches the whole body.
    Delete,
}

impl Scope {
    /// Whether the object `key` with `tags`, served for `domain`, lies in this scope. This defines what scopes mean;
    /// the node has its own index that finds covering scopes fast.
    pub fn covers(&self, domain: &DomainName, key: &UrlKey, tags: &Tags<'_>) -> bool {
        match self {
            Scope::File(file) => file == key,
            Scope::Directory { host, path } => host == key.host() && key.path().starts_with(path.as_str()),
            Scope::IgnoreParams { host, path } => host == key.host() && key.path() == path,
            Scope::Regex(pattern) => pattern.matches(key),
            Scope::Tag { domain: of, tag } => of == domain && tags.has(tag),
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
            assert_eq!(scope.covers(&domain, &key, &Tags::Any), covered, "{directory} over {path}");
            let elsewhere = UrlKey::new("b.com", path).unwrap();
            assert!(!scope.covers(&domain, &elsewhere, &Tags::Any), "another host is never covered");
        }
    }

    #[test]
    fn path_without_parameters_covers_every_query_of_it() {
        let domain = DomainName::parse("a.com").unwrap();
        let cases = [
            ("/a", "/a", true),
            ("/a", "/a?x=1", true),
            ("/a", "/a?", true),
            ("/a", "/a/b", false),
            ("/a", "/b?x=/a", false),
            ("/", "/?x", true),
            ("/", "/a", false), // `/` is a path here, not a directory
        ];
        for (path, requested, covered) in cases {
            let scope = Scope::IgnoreParams { host: "a.com".into(), path: path.into() };
            let key = UrlKey::new("a.com", requested).unwrap();
            assert_eq!(scope.covers(&domain, &key, &Tags::Any), covered, "{path} over {requested}");
            assert!(!scope.covers(&domain, &UrlKey::new("b.com", requested).unwrap(), &Tags::Any));
        }
    }

    #[test]
    fn tag_covers_what_has_it_in_its_own_domain() {
        let (own, other) = (DomainName::parse("a.com").unwrap(), DomainName::parse("b.com").unwrap());
        let key = UrlKey::new("a.com", "/x").unwrap();
        let scope = Scope::Tag { domain: own.clone(), tag: Tag::parse("news").unwrap() };
        let cases = [
            (&own, Tags::Named(vec![b"sport", b"news"]), true),
            (&own, Tags::Named(vec![b"sport", b"News"]), false), // tags differ by letter case
            (&own, Tags::Named(Vec::new()), false),
            (&own, Tags::Any, true), // unknown tags count as covered
            (&other, Tags::Named(vec![b"news"]), false),
            (&other, Tags::Any, false),
        ];
        for (domain, tags, covered) in cases {
            assert_eq!(scope.covers(domain, &key, &tags), covered, "{tags:?} of {domain}");
        }
    }
}
