//! The functions of a domain: what its owner configured besides origins and coverage, as it was set and as compiled
//! rules.
//!
//! A function has a name, arguments and an id. Functions are kept in the log verbatim, including those that this
//! version does not know: a node of a newer version may know them, and API clients read back what they set. [`Rules`]
//! is the compiled form of the known ones; it is built once, when a domain is decoded or changed, and shared.
//!
//! # What always holds
//!
//! - Functions that [`check`] has passed compile. A stored function that does not compile, because another version
//!   wrote it, has no effect; it is never an error on a node.
//! - Argument values may be secrets: neither `Debug` nor an error shows them.
//! - Names, arguments and counts are bounded, and so is the total size of a domain's functions.
//!
//! # Not here
//!
//! Applying rules to requests and responses, except for the cache key ([`Functions::key`]), on which both planes must
//! agree. Conditions: a function bound to one is refused, because without its condition it would always apply.

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

/// Maximum number of functions of one domain.
pub const FUNCTIONS_MAX: usize = 200;

/// Maximum number of arguments of one function.
pub const ARGUMENTS_MAX: usize = 64;

/// Longest name of a function or an argument, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Total size of all names and values of one domain, in bytes: its log entry must fit into one message to nodes.
pub const BYTES_MAX: usize = 64 << 10;

/// One function, as it was set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its id, unique in the domain; older functions have lower ids.
    pub id: u64,
    /// What it is called.
    pub name: String,
    /// Its arguments, in the order they were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<(String, String)>,
    /// The id of the condition it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
}

impl Function {
    /// Size of its names and values, in bytes.
    fn bytes(&self) -> usize {
        self.name.len() + self.args.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Omits values, which may be secrets.
impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args: Vec<&str> = self.args.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "{}#{}{args:?}", self.name, self.id)
    }
}

/// Why a set of functions is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFunctions {
    /// One of them has an invalid argument.
    #[error("{function}: {problem}")]
    Argument {
        /// Which function.
        function: String,
        /// Which argument, and what was expected.
        problem: BadArgument,
    },
    /// Two of them exclude each other.
    #[error("{0} and {1} exclude each other")]
    Exclusive(&'static str, &'static str),
    /// It is bound to a condition, and conditions are not implemented.
    #[error("{0} is bound to a condition, which is not supported")]
    Conditional(String),
    /// A name is not well-formed.
    #[error("a name of a function or an argument has 1 to {NAME_BYTES_MAX} letters, digits, `_` and `-`")]
    Name,
    /// They exceed what one domain may have.
    #[error(
        "a domain may have {FUNCTIONS_MAX} functions, each with {ARGUMENTS_MAX} arguments, of {BYTES_MAX} bytes in all"
    )]
    TooMany,
}

/// Pairs of functions that exclude each other.
const EXCLUSIVE: [(&str, &str); 6] = [
    ("set_hashkey_args", "ali_remove_args"),
    ("set_hashkey_args", "self_defined_cachekey"),
    ("ali_remove_args", "self_defined_cachekey"),
    ("https_force", "http_force"),
    ("referer_white_list_set", "referer_black_list_set"),
    ("ip_allow_list_set", "ip_black_list_set"),
];

/// Checks that all of `functions` may be set together.
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

/// The compiled functions of a domain.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// How long responses are kept.
    pub ttls: Ttls,
    /// When a stored response may be used in place of a failed one.
    pub stale: Option<Stale>,
    /// How cache keys are made.
    pub key: KeyRule,
    /// How requests to origins are made.
    pub fetch: Fetch,
    /// Changes to response headers from an origin, before they are stored.
    pub origin_response: Vec<HeaderRule>,
    /// Changes to response headers on their way to a user.
    pub response: Vec<HeaderRule>,
    /// Whether text is sent compressed to users that accept it.
    pub gzip: bool,
    /// Who may request objects.
    pub access: Access,
    /// How users connect.
    pub https: Https,
    /// Rewrites and redirects of requested URLs, in order; the rewrites are in `key`, too.
    pub urls: Vec<UrlRule>,
    /// How much of the origins' capacity prefetches may use.
    pub prefetch: PrefetchLimit,
}

impl Rules {
    /// Adds one function; one that is not implemented adds nothing.
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

/// The functions of a domain without any.
static NONE: LazyLock<Functions> =
    LazyLock::new(|| Functions(Arc::new(Compiled { list: Vec::new(), rules: Rules::default(), shape: 0 })));

impl Functions {
    /// Compiles `list`. A function that is invalid or bound to a condition has no effect.
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

    /// The functions as they were set, oldest first.
    pub fn list(&self) -> &[Function] {
        &self.0.list
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.list.is_empty()
    }

    /// The compiled form.
    pub fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// The key under which the response to a request for `url` is stored, looked up, joined and judged.
    pub fn key(&self, url: &UrlKey) -> UrlKey {
        self.0.rules.key.of(url)
    }

    /// A number that identifies how keys are made; zero if keys are URLs as requested. A body stored under another
    /// number was stored for other URLs.
    pub fn shape(&self) -> u64 {
        self.0.shape
    }

    /// The same functions, except that keys are URLs as requested.
    pub fn verbatim(&self) -> Functions {
        let Compiled { list, rules, .. } = &*self.0;
        let mut rules = rules.clone();
        rules.key.verbatim = true;
        // The key no longer determines which arguments the origin is sent.
        rules.fetch.by_key = false;
        let shape = rules.key.shape();
        Functions(Arc::new(Compiled { list: list.clone(), rules, shape }))
    }

    /// Whether bodies are stored differently under these functions than under `before`: under another key, for another
    /// time, or with other headers. Bodies stored under `before` must then be validated before they are used again.
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
