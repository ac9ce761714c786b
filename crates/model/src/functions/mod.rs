//! The functions of a domain: what its owner configured beyond origins and coverage, as it was stored and what it comes to.
//!
//! A function has a name, arguments and a number of its own. They are kept in the log to the letter, those that this version does
//! not know among them: a node of a newer version may, and whoever asks gets back what was set. [`Rules`] is what those that are
//! known come to; it is made once, when a domain is read or changed, and shared.
//!
//! # What always holds
//!
//! - What [`check`] has passed compiles. A stored function that does not compile, for it was written by another version, does
//!   nothing; it is never an error on a node.
//! - Values of arguments may be secrets: neither `Debug` nor an error shows them.
//! - Names, arguments and counts are bounded, and so is the bulk of all functions of a domain.
//!
//! # Not here
//!
//! What rules do to requests and answers, but for the cache key ([`Functions::key`]), which both planes must agree on. Conditions:
//! a function that is bound to one is refused, for without it it would be in force always.

use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::UrlKey;

mod access;
mod args;
mod cachekey;
mod catalogue;
mod fetch;
mod headers;
mod https;
mod key;
mod prefetch;
mod redirect;
mod rewrite;
mod stale;
mod ttl;

pub use access::{Access, Addresses, Auth, AuthType, ClientAddress, IpRange, Referers};
pub use args::BadArgument;
pub use catalogue::{Kind, named, numbered};
pub use fetch::{ArgumentRewrite, Fetch, Follow, Ranges, Scheme};
pub use headers::{HeaderRule, Operation};
pub use https::{Forced, Https};
pub use key::{KeyRule, Query};
pub use prefetch::{PrefetchLimit, RATE_MIN, RATE_UNIT, SHARE_DEFAULT};
pub use redirect::{UrlRule, sent_to};
pub use rewrite::Rewrite;
pub use stale::Stale;
pub use ttl::{Applies, CodeTtl, Codes, Reach, TtlRule, Ttls};

use args::Args;

/// Functions of one domain.
pub const FUNCTIONS_MAX: usize = 200;

/// Arguments of one function.
pub const ARGUMENTS_MAX: usize = 64;

/// Longest name of a function or an argument, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// All names and values of one domain, in bytes: its log entry must fit into what nodes are sent at once.
pub const BYTES_MAX: usize = 64 << 10;

/// One function as it was set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its number, unique in the domain; the older of two has the lower one.
    pub id: u64,
    /// What it is called.
    pub name: String,
    /// Its arguments, in the order they were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<(String, String)>,
    /// The number of the condition it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
}

impl Function {
    /// Bytes of its names and values.
    fn bytes(&self) -> usize {
        self.name.len() + self.args.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Without values, which may be secrets.
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<&str> = self.args.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "{}#{}{args:?}", self.name, self.id)
    }
}

/// Why a set of functions is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFunctions {
    /// One of them has an argument that is not understood.
    #[error("{function}: {problem}")]
    Argument {
        /// Which function.
        function: String,
        /// Which argument, and what was expected.
        problem: BadArgument,
    },
    /// Two that cannot both be in force.
    #[error("{0} and {1} exclude each other")]
    Exclusive(&'static str, &'static str),
    /// It is bound to a condition, and conditions are not built.
    #[error("{0} is bound to a condition, which is not supported")]
    Conditional(String),
    /// A name that is none.
    #[error("a name of a function or an argument has 1 to {NAME_BYTES_MAX} letters, digits, `_` and `-`")]
    Name,
    /// More than one domain may have.
    #[error(
        "a domain may have {FUNCTIONS_MAX} functions, each with {ARGUMENTS_MAX} arguments, of {BYTES_MAX} bytes in all"
    )]
    TooMany,
}

/// Functions of which only one may be there.
const EXCLUSIVE: [(&str, &str); 6] = [
    ("set_hashkey_args", "ali_remove_args"),
    ("set_hashkey_args", "self_defined_cachekey"),
    ("ali_remove_args", "self_defined_cachekey"),
    ("https_force", "http_force"),
    ("referer_white_list_set", "referer_black_list_set"),
    ("ip_allow_list_set", "ip_black_list_set"),
];

/// Looks whether all of `functions` may be set together.
pub fn check(functions: &[Function]) -> Result<(), BadFunctions> {
    let name_is_good = |name: &str| {
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    if functions.len() > FUNCTIONS_MAX || functions.iter().map(Function::bytes).sum::<usize>() > BYTES_MAX {
        return Err(BadFunctions::TooMany);
    }
    let mut rules = Rules::default();
    for function in functions {
        if function.args.len() > ARGUMENTS_MAX {
            return Err(BadFunctions::TooMany);
        }
        if !name_is_good(&function.name) || !function.args.iter().all(|(name, _)| name_is_good(name)) {
            return Err(BadFunctions::Name);
        }
        if named(&function.name).is_some_and(|kind| kind.built) && function.parent.is_some() {
            return Err(BadFunctions::Conditional(function.name.clone()));
        }
        rules.take(function).map_err(|problem| BadFunctions::Argument { function: function.name.clone(), problem })?;
    }
    let is_there = |name: &str| functions.iter().any(|function| function.name == name);
    match EXCLUSIVE.into_iter().find(|(one, other)| is_there(one) && is_there(other)) {
        Some((one, other)) => Err(BadFunctions::Exclusive(one, other)),
        None => Ok(()),
    }
}

/// What functions come to.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// How long what is kept.
    pub ttls: Ttls,
    /// When it stands in for an answer that failed.
    pub stale: Option<Stale>,
    /// Under what it is kept.
    pub key: KeyRule,
    /// How origins are asked.
    pub fetch: Fetch,
    /// What becomes of headers that an origin sent, before they are kept.
    pub origin_response: Vec<HeaderRule>,
    /// What becomes of headers on their way to a user.
    pub response: Vec<HeaderRule>,
    /// Whether texts go out compressed to users who can read it.
    pub gzip: bool,
    /// Who may ask.
    pub access: Access,
    /// How users come.
    pub https: Https,
    /// What becomes of the URLs they ask for, in its order; those that send nobody elsewhere are in `key`, too.
    pub urls: Vec<UrlRule>,
    /// How much of origins prefetches may take.
    pub prefetch: PrefetchLimit,
}

impl Rules {
    /// Adds one function; one that is not built adds nothing.
    fn take(&mut self, function: &Function) -> Result<(), BadArgument> {
        let args = Args::of(function);
        match function.name.as_str() {
            "filetype_based_ttl_set" | "path_based_ttl_set" => self.ttls.rules.push(ttl::rule(function.id, &args)?),
            "filetype_force_ttl_code" | "path_force_ttl_code" => self.ttls.codes.push(ttl::code(function.id, &args)?),
            "serving_stale_content" => self.stale = Some(stale::stale(&args)?),
            "default_ttl_code" => self.ttls.default = ttl::default(&args)?,
            "set_hashkey_args" => {
                self.key.query = key::kept(&args)?;
                self.fetch.by_key = args.get("keep_oss_args") == Some("off");
            }
            "ali_remove_args" => {
                self.key.query = key::removed(&args)?;
                self.fetch.by_key = args.get("keep_oss_args") == Some("off");
            }
            "range" => {
                self.fetch.range = match args.one_of("enable", &["on", "off", "force"])? {
                    "off" => Some(Ranges::Off),
                    "force" => Some(Ranges::Force),
                    _ => None,
                }
            }
            "set_resp_header" => self.response.push(headers::set_response(&args)?),
            "set_req_header" => self.fetch.headers.push(headers::set_request(&args)?),
            "origin_request_header" => self.fetch.headers.push(headers::at_origin(&args)?),
            "origin_response_header" => self.origin_response.push(headers::from_origin(&args)?),
            "prefetch_limit" => self.prefetch = prefetch::limit(&args)?,
            "gzip" => self.gzip = args.only(&["enable"])?.on("enable")?,
            name @ ("https_option" | "https_force" | "http_force" | "https_tls_version") => {
                self.https.take(name, &args)?
            }
            "self_defined_cachekey" => {
                let made = cachekey::cache_key(&args)?;
                (self.key.paths, self.key.arguments, self.key.headers) = (made.paths, made.arguments, made.headers);
            }
            "rewrite_host" => self.key.share = Some(key::share(&args)?),
            "host_redirect" => {
                let rule = redirect::rule(&args)?;
                if rule.status.is_none() {
                    self.key.rewrites.push(rule.rewrite.clone());
                }
                self.urls.push(rule);
            }
            "aliauth" => {
                let auth = access::auth(&args)?;
                self.key.signed = auth.as_ref().map(|auth| auth.kind);
                self.access.auth = auth;
            }
            "referer_white_list_set" => self.access.referers = Some(access::referers(&args, true)?),
            "referer_black_list_set" => self.access.referers = Some(access::referers(&args, false)?),
            "ip_allow_list_set" => self.access.addresses = Some(access::addresses(&args, true)?),
            "ip_black_list_set" => self.access.addresses = Some(access::addresses(&args, false)?),
            name => return self.fetch.take(name, &args),
        }
        Ok(())
    }
}

/// The functions of a domain. Cheap to clone.
#[derive(Clone)]
pub struct Functions(Arc<Compiled>);

struct Compiled {
    list: Vec<Function>,
    rules: Rules,
    shape: u64,
}

/// Those of a domain that has none.
static NONE: LazyLock<Functions> =
    LazyLock::new(|| Functions(Arc::new(Compiled { list: Vec::new(), rules: Rules::default(), shape: 0 })));

impl Functions {
    /// What `list` comes to. A function that cannot be in force does nothing.
    pub fn new(mut list: Vec<Function>) -> Functions {
        if list.is_empty() {
            return NONE.clone();
        }
        list.sort_by_key(|function| function.id);
        let mut rules = Rules::default();
        for function in list.iter().filter(|function| function.parent.is_none()) {
            let _ = rules.take(function);
        }
        let shape = rules.key.shape();
        Functions(Arc::new(Compiled { list, rules, shape }))
    }

    /// As they were set, the oldest first.
    pub fn list(&self) -> &[Function] {
        &self.0.list
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.list.is_empty()
    }

    /// What they come to.
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Under what the answer to a request for `url` is kept, looked up, joined and judged.
    pub fn key(&self, url: &UrlKey) -> UrlKey {
        self.0.rules.key.of(url)
    }

    /// A number that stands for how keys are made; zero where they are URLs as they were sent. What was kept under another
    /// number was kept for other URLs.
    pub fn shape(&self) -> u64 {
        self.0.shape
    }

    /// The same functions, but that keys are URLs as they were asked for.
    pub fn verbatim(&self) -> Functions {
        let Compiled { list, rules, .. } = &*self.0;
        let mut rules = rules.clone();
        rules.key.verbatim = true;
        // The key says no more what the origin is asked for.
        rules.fetch.by_key = false;
        let shape = rules.key.shape();
        Functions(Arc::new(Compiled { list: list.clone(), rules, shape }))
    }

    /// Whether what is kept under these functions was kept otherwise under `before`: under another key, for another time, or
    /// with other headers. A body that was kept so is confirmed before it is used again.
    pub fn keep_otherwise(&self, before: &Functions) -> bool {
        let (now, before) = (self.rules(), before.rules());
        let times = now.ttls != before.ttls || now.stale != before.stale;
        times || now.key != before.key || now.origin_response != before.origin_response
    }
}

impl Default for Functions {
    fn default() -> Self {
        NONE.clone()
    }
}

impl PartialEq for Functions {
    fn eq(&self, other: &Functions) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.list == other.0.list
    }
}

impl Eq for Functions {}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.list.fmt(f)
    }
}

impl Serialize for Functions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.list.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Functions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Functions::new)
    }
}

#[cfg(test)]
mod tests;
