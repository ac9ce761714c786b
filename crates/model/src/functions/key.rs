//! Under what an object is kept: which arguments of a query count, and what of a URL is only a signature.
//!
//! A key that is derived is an ordinary [`UrlKey`] of the same host and, signatures aside, the same path: what an invalidation
//! says of directories and paths holds for it as it is. What one says of a whole URL is said of that URL's key.

use super::access::AuthType;
use super::args::{Args, BadArgument};
use crate::key::UrlKey;

/// Arguments that one function may name.
const ARGUMENTS_MAX: usize = 10;

/// Which arguments count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Query {
    /// All, as they were sent.
    #[default]
    All,
    /// None.
    None,
    /// These, in the order they were sent.
    Only(Vec<String>),
    /// All but these.
    Without(Vec<String>),
}

/// How keys are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRule {
    /// Which arguments count.
    pub query: Query,
    /// What of a URL is a signature.
    pub signed: Option<AuthType>,
}

impl KeyRule {
    /// Whether URLs that differ in their query may have one key.
    pub fn joins_queries(&self) -> bool {
        self.query != Query::All || self.signed.is_some()
    }

    /// A number that stands for the rule; zero for the rule that changes nothing. Stored beside bodies, so its making is stable.
    pub(super) fn shape(&self) -> u64 {
        if !self.joins_queries() {
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
        xxhash_rust::xxh3::xxh3_64(format!("{query}{signed}").as_bytes()).max(1)
    }

    /// The key of a URL. The key of a key is itself.
    pub fn of(&self, url: &UrlKey) -> UrlKey {
        if !self.joins_queries() {
            return url.clone();
        }
        let unsigned = self.unsigned(url.path_and_query());
        let (path, query) = match unsigned.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (unsigned.as_str(), None),
        };
        let kept = query.map(|query| self.query.of(query)).filter(|query| !query.is_empty());
        let path = match kept {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        // Parts of a key that was normalised are a key.
        UrlKey::new(url.host(), &path).unwrap_or_else(|_| url.clone())
    }

    /// A path with its query as the origin knows it: without a signature.
    pub fn unsigned(&self, path: &str) -> String {
        match self.signed {
            None => path.to_owned(),
            Some(kind) => kind.without_signature(path),
        }
    }
}

impl Query {
    fn of(&self, query: &str) -> String {
        let counts = |argument: &&str| {
            let name = argument.split('=').next().unwrap_or_default();
            match self {
                Query::All => true,
                Query::None => false,
                Query::Only(names) => names.iter().any(|kept| kept == name),
                Query::Without(names) => !names.iter().any(|removed| removed == name),
            }
        };
        query.split('&').filter(counts).collect::<Vec<_>>().join("&")
    }
}

/// Reads set_hashkey_args: the arguments named are all that count; when none is, `disable` says whether any does.
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
    Ok(names)
}
