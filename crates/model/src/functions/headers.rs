//! Rules that each change one header: in requests to the origin, in its responses, or in responses to users.
//!
//! Headers for message framing, for caching, or for communication between nodes cannot be changed.

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::bytes::{Captures, Regex, RegexBuilder};

use super::args::{Args, BadArgument};

/// Largest compiled expression, in bytes.
pub(super) const COMPILED_BYTES_MAX: usize = 1 << 18;

/// Longest expression, in bytes.
pub(super) const EXPRESSION_BYTES_MAX: usize = 512;

/// A change to one header. Applying it again changes nothing more, except for [`Operation::Replace`].
#[derive(Clone, Debug)]
pub struct HeaderRule {
    /// Which header.
    pub name: HeaderName,
    /// The change.
    pub operation: Operation,
}

/// A change to a header.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Sets it to this value alone.
    Set(HeaderValue),
    /// Adds this value, unless it is there.
    Add(HeaderValue),
    /// Removes it.
    Delete,
    /// In every value, replaces what `from` matches by `to`.
    Replace {
        /// The expression to find.
        from: Regex,
        /// The replacement.
        to: String,
        /// Replaces every match, not only the first.
        all: bool,
    },
}

impl PartialEq for HeaderRule {
    fn eq(&self, other: &HeaderRule) -> bool {
        self.name == other.name && format!("{:?}", self.operation) == format!("{:?}", other.operation)
    }
}

impl HeaderRule {
    /// Applies the rule.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match &self.operation {
            Operation::Set(value) => _ = headers.insert(self.name.clone(), value.clone()),
            Operation::Add(value) => {
                if !headers.get_all(&self.name).iter().any(|there| there == value) {
                    headers.append(self.name.clone(), value.clone());
                }
            }
            Operation::Delete => _ = headers.remove(&self.name),
            Operation::Replace { from, to, all } => {
                let values: Vec<HeaderValue> = headers.get_all(&self.name).iter().cloned().collect();
                headers.remove(&self.name);
                for value in values {
                    let new = replaced(from, to, *all, value.as_bytes());
                    let new = new.and_then(|new| HeaderValue::from_bytes(&new).ok());
                    headers.append(self.name.clone(), new.unwrap_or(value));
                }
            }
        }
    }
}

/// Longest path or header value that a rule with an expression may produce, in bytes: rules that rewrite each other's
/// results could otherwise grow them without end.
pub(super) const MADE_BYTES_MAX: usize = crate::key::PATH_BYTES_MAX;

/// `old` with the first match of `from`, or all matches, replaced; `None` if the result is too long.
pub(super) fn replaced(from: &Regex, to: &str, all: bool, old: &[u8]) -> Option<Vec<u8>> {
    let most = MADE_BYTES_MAX.max(old.len());
    let (mut new, mut rest) = (Vec::new(), 0);
    for found in from.captures_iter(old).take(if all { usize::MAX } else { 1 }) {
        let whole = found.get_match();
        new.extend_from_slice(old.get(rest..whole.start())?);
        expand(&found, to, &mut new, most)?;
        rest = whole.end();
    }
    new.extend_from_slice(old.get(rest..)?);
    (new.len() <= most).then_some(new)
}

/// Appends `to` with its groups expanded; `None` if the result would exceed `most` bytes.
pub(super) fn expand(found: &Captures<'_>, to: &str, made: &mut Vec<u8>, most: usize) -> Option<()> {
    let group = |reference: &str| Some(found.get(reference.split_once('}')?.0.parse().ok()?)?.len());
    let groups: usize = to.split("${").skip(1).filter_map(group).sum();
    (made.len() + to.len() + groups <= most).then(|| found.expand(to.as_bytes(), made))
}

/// The direction of a message.
#[derive(Clone, Copy)]
enum Way {
    ToOrigin,
    FromOrigin,
    ToUser,
}

/// Headers that cannot be changed in any direction.
const OURS: [&str; 17] = [
    "age",
    "cache-status",
    "cdn-loop",
    "connection",
    "content-length",
    "content-range",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-cache",
];

/// Request headers that nodes use themselves: for variants, ranges and conditions.
const ASKED_BY: [&str; 7] =
    ["accept-encoding", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"];

/// Headers that describe a stored body; tags among them, so that a refresh by tag finds it.
const KEPT_BY: [&str; 7] = ["cache-tag", "content-encoding", "date", "etag", "last-modified", "surrogate-key", "vary"];

fn header(args: &Args<'_>, argument: &'static str, way: Way) -> Result<HeaderName, BadArgument> {
    let expected = "the name of a header that may be set";
    let bad = BadArgument::Value { name: argument, expected };
    let name = HeaderName::from_bytes(args.required(argument, expected)?.as_bytes()).map_err(|_| bad.clone())?;
    let others: &[&str] = match way {
        Way::ToOrigin => &ASKED_BY,
        Way::FromOrigin | Way::ToUser => &KEPT_BY,
    };
    let text = name.as_str();
    let ours = OURS.contains(&text) || others.contains(&text) || text.starts_with("warmfront-") || text.len() > 100;
    if ours { Err(bad) } else { Ok(name) }
}

fn value(args: &Args<'_>, argument: &'static str) -> Result<HeaderValue, BadArgument> {
    let expected = "a value of at most 1000 visible characters";
    let bad = BadArgument::Value { name: argument, expected };
    let text = args.required(argument, expected)?;
    HeaderValue::from_str(text).ok().filter(|_| text.len() <= 1000).ok_or(bad)
}

/// Compiles an expression within bounds.
pub(super) fn expression(text: &str, name: &'static str) -> Result<Regex, BadArgument> {
    let bad = BadArgument::Value { name, expected: "a regular expression of at most 512 bytes, without look-around" };
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(bad);
    }
    RegexBuilder::new(text).unicode(false).size_limit(COMPILED_BYTES_MAX).build().map_err(|_| bad)
}

/// The replacement with group references such as `$1` delimited, as in `${1}`.
pub(super) fn replacement(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, after) = rest.split_at(at);
        let digits = after[1..].bytes().take_while(u8::is_ascii_digit).count();
        out.push_str(before);
        if digits == 0 {
            out.push_str("$$");
            rest = &after[1..];
        } else {
            out.push_str(&format!("${{{}}}", &after[1..=digits]));
            rest = &after[digits + 1..];
        }
    }
    out.push_str(rest);
    out
}

/// Reads set_req_header: a key and its value; the value `null` removes the header.
pub(super) fn set_request(args: &Args<'_>) -> Result<HeaderRule, BadArgument> {
    args.only(&["key", "value"])?;
    plain(args, Way::ToOrigin)
}

fn plain(args: &Args<'_>, way: Way) -> Result<HeaderRule, BadArgument> {
    let name = header(args, "key", way)?;
    let operation = match args.get("value") {
        Some("null") => Operation::Delete,
        _ => Operation::Set(value(args, "value")?),
    };
    Ok(HeaderRule { name, operation })
}

/// Reads set_resp_header, in its old and its new form.
pub(super) fn set_response(args: &Args<'_>) -> Result<HeaderRule, BadArgument> {
    args.only(&[
        "key",
        "value",
        "header_operation_type",
        "duplicate",
        "match_all",
        "header_source",
        "header_destination",
        "header_name",
        "header_value",
        "access_origin_control",
    ])?;
    match args.get("header_operation_type") {
        None => plain(args, Way::ToUser),
        Some(_) => operated(args, "key", "value", Way::ToUser),
    }
}

/// Reads origin_request_header.
pub(super) fn at_origin(args: &Args<'_>) -> Result<HeaderRule, BadArgument> {
    operated(args.only(&OPERATED)?, "header_name", "header_value", Way::ToOrigin)
}

/// Reads origin_response_header.
pub(super) fn from_origin(args: &Args<'_>) -> Result<HeaderRule, BadArgument> {
    operated(args.only(&OPERATED)?, "header_name", "header_value", Way::FromOrigin)
}

const OPERATED: [&str; 7] = [
    "header_operation_type",
    "header_name",
    "header_value",
    "duplicate",
    "header_source",
    "header_destination",
    "match_all",
];

fn operated(args: &Args<'_>, key: &'static str, worth: &'static str, way: Way) -> Result<HeaderRule, BadArgument> {
    let expected = "add, delete, modify or rewrite";
    let name = header(args, key, way)?;
    let (duplicate, all) = (args.switch("duplicate")?, args.switch("match_all")?);
    let operation = match args.required("header_operation_type", expected)? {
        "delete" => Operation::Delete,
        "add" if duplicate => Operation::Add(value(args, worth)?),
        "add" => Operation::Set(value(args, worth)?),
        "modify" | "rewrite" => match args.get("header_source") {
            None => Operation::Set(value(args, worth)?),
            Some(source) => {
                let to = replacement(args.get("header_destination").unwrap_or_default());
                Operation::Replace { from: expression(source, "header_source")?, to, all }
            }
        },
        _ => return Err(BadArgument::Value { name: "header_operation_type", expected }),
    };
    Ok(HeaderRule { name, operation })
}
