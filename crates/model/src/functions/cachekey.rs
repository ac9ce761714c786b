//! Custom cache keys: paths that share a key, arguments that count, request headers that distinguish variants.
//!
//! # Not here
//!
//! `variable`: the names of its parts are not documented, so a non-empty list is refused.

use http::HeaderName;
use serde_json::Value;

use super::args::{Args, BadArgument};
use super::fetch::ArgumentRewrite;
use super::rewrite::Rewrite;

/// Maximum number of path rules, of argument operations, and of headers in one function.
const RULES_MAX: usize = 50;
const OPERATIONS_MAX: usize = 50;
const HEADERS_MAX: usize = 10;

/// Longest target, in bytes.
const TARGET_BYTES_MAX: usize = 1024;

/// Headers that express no preference of a user, or that nodes do not forward unchanged.
const NOT_KEYS: [&str; 24] = [
    "cache-control",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
];

/// The settings of one self_defined_cachekey.
pub(super) struct CacheKey {
    pub(super) paths: Vec<Rewrite>,
    pub(super) arguments: ArgumentRewrite,
    pub(super) headers: Vec<HeaderName>,
}

/// Reads self_defined_cachekey.
pub(super) fn cache_key(args: &Args<'_>) -> Result<CacheKey, BadArgument> {
    args.only(&["uri", "args", "headers", "variable"])?;
    if !list(args, "variable", "an empty list: variables are not supported")?.is_empty() {
        return Err(BadArgument::Value { name: "variable", expected: "an empty list: variables are not supported" });
    }
    Ok(CacheKey { paths: paths(args)?, arguments: arguments(args)?, headers: headers(args)? })
}

/// A list in JSON; absent counts as empty.
fn list(args: &Args<'_>, name: &'static str, expected: &'static str) -> Result<Vec<Value>, BadArgument> {
    let Some(text) = args.get(name) else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|_| BadArgument::Value { name, expected })
}

/// The values of two fields of an object that has no other fields.
fn pair<'a>(value: &'a Value, one: &str, other: &str) -> Option<(&'a str, &'a str)> {
    let object = value.as_object().filter(|object| object.len() == 2)?;
    Some((object.get(one)?.as_str()?.trim(), object.get(other)?.as_str()?.trim()))
}

fn paths(args: &Args<'_>) -> Result<Vec<Rewrite>, BadArgument> {
    let expected =
        "a list as [{\"uri_to_rewrite\":\"^/a\",\"ai_uri_regex\":\"/b\"}], of up to 50 regular expressions and paths";
    let bad = || BadArgument::Value { name: "uri", expected };
    let rules = list(args, "uri", expected)?;
    if rules.len() > RULES_MAX {
        return Err(bad());
    }
    let rule = |value: &Value| {
        let (source, target) = pair(value, "uri_to_rewrite", "ai_uri_regex").ok_or_else(bad)?;
        let plain = target.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'?'));
        if source.is_empty() || !target.starts_with('/') || target.len() > TARGET_BYTES_MAX || !plain {
            return Err(bad());
        }
        Rewrite::new("uri", source, target, false, true, false)
    };
    rules.iter().map(rule).collect()
}

fn arguments(args: &Args<'_>) -> Result<ArgumentRewrite, BadArgument> {
    let expected = "a list as [{\"args_operation_type\":\"add\",\"args\":\"a=1\"}], of up to 50 operations add, delete, modify, keep";
    let bad = || BadArgument::Value { name: "args", expected };
    let operations = list(args, "args", expected)?;
    if operations.len() > OPERATIONS_MAX {
        return Err(bad());
    }
    let mut all = ArgumentRewrite::default();
    for operation in &operations {
        let (kind, words) = pair(operation, "args_operation_type", "args").ok_or_else(bad)?;
        for word in words.split_whitespace() {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'&' | b'#' | b'?'));
            if name.is_empty() || !plain(word) {
                return Err(bad());
            }
            let name = name.to_owned();
            match (kind, value) {
                ("add", Some(value)) => all.add.push((name, value.to_owned())),
                ("modify", Some(value)) => all.modify.push((name, value.to_owned())),
                ("delete", None) => all.delete.push(name),
                ("keep", None) => all.save.push(name),
                _ => return Err(bad()),
            }
        }
        if words.is_empty() {
            return Err(bad());
        }
    }
    // If an argument is both kept and modified, keeping wins.
    all.modify.retain(|(name, _)| !all.save.contains(name));
    Ok(all)
}

fn headers(args: &Args<'_>) -> Result<Vec<HeaderName>, BadArgument> {
    let expected =
        "up to 10 names of headers that users send, split by blanks; not those of conditions, ranges and connections";
    let bad = || BadArgument::Value { name: "headers", expected };
    let name = |word: &String| {
        let name = HeaderName::from_bytes(word.as_bytes()).ok()?;
        let good = !NOT_KEYS.contains(&name.as_str()) && !name.as_str().starts_with("warmfront-");
        good.then_some(name)
    };
    let names: Option<Vec<HeaderName>> = args.words("headers").iter().map(name).collect();
    let mut names = names.filter(|names| names.len() <= HEADERS_MAX).ok_or_else(bad)?;
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    Ok(names)
}
