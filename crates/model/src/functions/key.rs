//! How cache keys are made: which query arguments count, which part of a URL is a signature, which URLs share a key.
//!
//! A derived key is an ordinary [`UrlKey`]. Bodies are judged by their keys alone, and a stamp is a promise about a
//! key. So the scope of an invalidation is translated from URLs to keys once, before it takes effect
//! ([`KeyRule::in_keys`]), and judging a body never needs the URL of the request. Judging by that URL as well would be
//! wrong: a fetch for one URL of a key asks a lagging parent only for what that URL needs, and would vouch for the
//! others.
//!
//! # What always holds
//!
//! - The scopes that [`KeyRule::in_keys`] returns cover the key of every URL that the given scope covers. They may
//!   cover more.

use http::HeaderName;

use super::access::AuthType;
use super::args::{Args, BadArgument};
use super::fetch::ArgumentRewrite;
use super::rewrite::{Area, Rewrite, reached, rewritten};
use crate::domain::DomainName;
use crate::invalidation::Scope;
use crate::key::UrlKey;

/// Maximum number of arguments that one function may name.
const ARGUMENTS_MAX: usize = 10;

/// Which query arguments count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Query {
    /// All, as requested.
    #[default]
    All,
    /// None.
    None,
    /// These, in the order of the request.
    Only(Vec<String>),
    /// All but these.
    Without(Vec<String>),
}

/// How keys are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRule {
    /// Which query arguments count.
    pub query: Query,
    /// Which part of a URL is a signature.
    pub signed: Option<AuthType>,
    /// Rewrites applied to the path first; requests to origins use the result, too.
    pub rewrites: Vec<Rewrite>,
    /// Rewrites applied to the path next, for the key only.
    pub paths: Vec<Rewrite>,
    /// Changes to the arguments, for the key only.
    pub arguments: ArgumentRewrite,
    /// Request headers that distinguish variants under one key, as if every response named them in `Vary`; sorted,
    /// without duplicates.
    pub headers: Vec<HeaderName>,
    /// The domain under whose keys objects are stored, if it is another one; not a wildcard.
    pub share: Option<DomainName>,
    /// Keys are URLs as requested, whatever the fields above say: used for prefetches that ask for it.
    pub verbatim: bool,
}

/// The shape of keys that are URLs as requested although the functions of their domain derive other keys.
const VERBATIM: u64 = u64::MAX;

impl KeyRule {
    /// Whether URLs that differ in their query may share a key.
    pub fn joins_queries(&self) -> bool {
        self.query != Query::All || self.signed.is_some() || self.arguments != ArgumentRewrite::default()
    }

    /// A number that identifies the rule; zero for the rule that changes nothing. Stored beside bodies, so its
    /// derivation must not change.
    pub(super) fn shape(&self) -> u64 {
        if self.verbatim {
            return VERBATIM;
        }
        // `share` is left out: bodies that two domains share are stored under the rules of both.
        if self.is_plain() {
            return 0;
        }
        let query = match &self.query {
            Query::All => "all".to_owned(),
            Query::None => "none".to_owned(),
            Query::Only(names) => format!("only {}", names.join(" ")),
            Query::Without(names) => format!("without {}", names.join(" ")),
        };
        let signed = match self.signed {
            None => "",
            Some(AuthType::A) => " a",
            Some(AuthType::B) => " b",
            Some(AuthType::C) => " c",
        };
        let rewrites: String = self.rewrites.iter().map(|rule| format!("\n{}", rule.name())).collect();
        let paths: String = self.paths.iter().map(|rule| format!("\nkey {}", rule.name())).collect();
        let mut name = format!("{query}{signed}{rewrites}{paths}");
        if self.arguments != ArgumentRewrite::default() {
            name.push_str(&format!("\nargs {:?}", self.arguments));
        }
        if !self.headers.is_empty() {
            name.push_str(&format!("\nheaders {:?}", self.headers));
        }
        xxhash_rust::xxh3::xxh3_64(name.as_bytes()).max(1)
    }

    /// Whether keys are URLs as requested.
    fn is_plain(&self) -> bool {
        !self.joins_queries() && !self.moves_paths() && self.headers.is_empty()
    }

    /// Whether the path of a key may differ from that of its URL.
    fn moves_paths(&self) -> bool {
        !self.rewrites.is_empty() || !self.paths.is_empty()
    }

    /// The host of the keys of URLs on `host`.
    fn host<'a>(&'a self, host: &'a str) -> &'a str {
        self.share.as_ref().map_or(host, DomainName::as_str)
    }

    /// The key of a URL.
    pub fn of(&self, url: &UrlKey) -> UrlKey {
        if self.verbatim {
            return url.clone();
        }
        if self.is_plain() {
            return self.shared(url);
        }
        let visited = rewritten(&self.paths, &self.visited(&self.unsigned(url.path_and_query())));
        let visited = self.arguments.of(visited);
        let (path, query) = match visited.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (visited.as_str(), None),
        };
        let kept = query.map(|query| self.query.of(query)).filter(|query| !query.is_empty());
        let path = match kept {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        // The parts come from a normalised key, so they form a key.
        UrlKey::new(self.host(url.host()), &path).unwrap_or_else(|_| self.shared(url))
    }

    /// The derivation of a URL's key, step by step: the functions that may have made the change, and the result. Only
    /// steps that change something.
    pub fn steps(&self, url: &UrlKey) -> Vec<(&'static [&'static str], UrlKey)> {
        let host = url.host();
        let unsigned = self.unsigned(url.path_and_query());
        let visited = self.visited(&unsigned);
        let made = self.arguments.of(rewritten(&self.paths, &visited));
        let key = self.of(url);
        let all: [(&'static [&'static str], Result<UrlKey, _>); 5] = [
            (&["aliauth"], UrlKey::new(host, &unsigned)),
            (&["host_redirect"], UrlKey::new(host, &visited)),
            (&["self_defined_cachekey"], UrlKey::new(host, &made)),
            (&["set_hashkey_args", "ali_remove_args"], UrlKey::new(host, key.path_and_query())),
            (&["rewrite_host"], Ok(key)),
        ];
        let mut before = url.clone();
        let mut steps = Vec::new();
        for (names, after) in all {
            if let Ok(after) = after
                && after != before
            {
                steps.push((names, after.clone()));
                before = after;
            }
        }
        steps
    }

    /// The same URL on the host that its keys have.
    fn shared(&self, url: &UrlKey) -> UrlKey {
        match &self.share {
            None => url.clone(),
            Some(host) => UrlKey::new(host.as_str(), url.path_and_query()).unwrap_or_else(|_| url.clone()),
        }
    }

    /// Scopes that cover the key of every URL that `scope` covers, and the URL itself, under which a prefetch may have
    /// stored it; `None` if `scope` already does so.
    pub fn in_keys(&self, scope: &Scope) -> Option<Vec<Scope>> {
        if self.is_plain() && self.share.is_none() {
            return None;
        }
        if let Scope::File(url) = scope {
            let (key, as_it_is) = (self.of(url), self.shared(url));
            let mut covered = vec![key];
            // Even a URL that nobody requests as such may be the key of other URLs.
            covered.extend(Some(as_it_is).filter(|_| self.moves_paths()));
            covered.push(url.clone());
            covered.dedup();
            return Some(covered.into_iter().map(Scope::File).collect());
        }
        let (host, from) = match scope {
            Scope::Directory { host, path } => (host.as_str(), Area::Below(path.clone())),
            Scope::IgnoreParams { host, path } => (host.as_str(), Area::Path(path.clone())),
            Scope::Regex(pattern) => {
                let plain = pattern.path().split(['[', '*', '?']).next().unwrap_or_default();
                (pattern.host(), Area::holding(plain))
            }
            Scope::Tag { .. } | Scope::Domain(_) => {
                let share = self.share.clone()?;
                let shared = match scope {
                    Scope::Tag { tag, .. } => Scope::Tag { domain: share, tag: tag.clone() },
                    _ => Scope::Domain(share),
                };
                return Some(vec![shared, scope.clone()]);
            }
            Scope::File(_) => return None,
        };
        let (host, below) = (self.host(host), from.clone());
        let reached = reached(self.rewrites.iter().chain(&self.paths), &from).into_iter().map(|area| match area {
            Area::Below(path) => Scope::Directory { host: host.to_owned(), path },
            Area::Path(path) => Scope::IgnoreParams { host: host.to_owned(), path },
        });
        let as_it_is = match scope {
            Scope::Directory { path, .. } => Scope::Directory { host: host.to_owned(), path: path.clone() },
            Scope::IgnoreParams { path, .. } => Scope::IgnoreParams { host: host.to_owned(), path: path.clone() },
            // A pattern with a query could miss keys here: the domain that these keys belong to has other query rules.
            Scope::Regex(_) if self.share.is_some() && self.joins_queries() => match &below {
                Area::Below(path) => Scope::Directory { host: host.to_owned(), path: path.clone() },
                Area::Path(path) => Scope::IgnoreParams { host: host.to_owned(), path: path.clone() },
            },
            Scope::Regex(pattern) => Scope::Regex(pattern.at(host)),
            Scope::File(_) | Scope::Tag { .. } | Scope::Domain(_) => scope.clone(),
        };
        let own = self.share.is_some().then(|| scope.clone());
        Some(std::iter::once(as_it_is).chain(reached).chain(own).collect())
    }

    /// The path that is served for `path`, which has no signature.
    pub fn visited(&self, path: &str) -> String {
        rewritten(&self.rewrites, path)
    }

    /// A path with its query as the origin knows it, without the signature.
    pub fn unsigned(&self, path: &str) -> String {
        match self.signed {
            None => path.to_owned(),
            Some(kind) => kind.without_signature(path),
        }
    }
}

/// The name of an argument as origins read it: escapes of unreserved characters are decoded (RFC 3986 §2.3). Otherwise
/// an argument that counts could be hidden from the key.
pub(super) fn name_of(argument: &str) -> String {
    let name = argument.split('=').next().unwrap_or_default();
    let mut parts = name.split('%');
    let mut read = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')) {
            Some(byte) => {
                read.push(char::from(byte));
                read.push_str(part.get(2..).unwrap_or_default());
            }
            None => {
                read.push('%');
                read.push_str(part);
            }
        }
    }
    read
}

impl Query {
    fn of(&self, query: &str) -> String {
        let counts = |argument: &&str| {
            let name = name_of(argument);
            match self {
                Query::All => true,
                Query::None => false,
                Query::Only(names) => names.contains(&name),
                Query::Without(names) => !names.contains(&name),
            }
        };
        query.split('&').filter(counts).collect::<Vec<_>>().join("&")
    }
}

/// Reads set_hashkey_args: only the named arguments count; if none is named, `disable` decides whether all or none
/// count.
pub(super) fn kept(args: &Args<'_>) -> Result<Query, BadArgument> {
    args.only(&["hashkey_args", "disable", "keep_oss_args"])?;
    args.switch("keep_oss_args")?;
    let disable = args.switch("disable")?;
    let names = named(args, "hashkey_args", "up to 10 names of arguments, split by commas")?;
    Ok(match (names.is_empty(), disable) {
        (false, _) => Query::Only(names),
        (true, true) => Query::None,
        (true, false) => Query::All,
    })
}

/// Reads ali_remove_args.
pub(super) fn removed(args: &Args<'_>) -> Result<Query, BadArgument> {
    args.only(&["ali_remove_args", "keep_oss_args"])?;
    args.switch("keep_oss_args")?;
    let expected = "up to 10 names of arguments, split by blanks";
    let names = named(args, "ali_remove_args", expected)?;
    if names.is_empty() {
        return Err(BadArgument::Value { name: "ali_remove_args", expected });
    }
    Ok(Query::Without(names))
}

fn named(args: &Args<'_>, name: &'static str, expected: &'static str) -> Result<Vec<String>, BadArgument> {
    let names = args.words(name);
    let good = |name: &String| name.len() <= 128 && !name.contains(['&', '=', '#', '?']);
    if names.len() > ARGUMENTS_MAX || !names.iter().all(good) {
        return Err(BadArgument::Value { name, expected });
    }
    // Normalised as in keys, which the names are compared with.
    let written = |name: String| match UrlKey::new("a", &format!("/?{name}")) {
        Ok(key) => key.path_and_query().strip_prefix("/?").unwrap_or_default().to_owned(),
        Err(_) => name,
    };
    Ok(names.into_iter().map(written).collect())
}

/// Reads rewrite_host.
pub(super) fn share(args: &Args<'_>) -> Result<DomainName, BadArgument> {
    let expected = "the name of a domain that is no wildcard";
    let name = args.only(&["share_host"])?.required("share_host", expected)?;
    let name = DomainName::parse(name).ok().filter(|name| !name.is_wildcard());
    name.ok_or(BadArgument::Value { name: "share_host", expected })
}
