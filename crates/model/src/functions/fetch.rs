//! How requests to origins are made: Host, scheme, timeout, headers, path and arguments.

use std::time::Duration;

use super::args::{Args, BadArgument};
use super::headers::HeaderRule;
use super::key::name_of;
use super::rewrite::{Rewrite, rewritten};

/// Largest timeout that can be configured, in seconds.
const TIMEOUT_MAX_SECS: u64 = 900;

/// Largest and default number of redirects followed for one request.
const FOLLOW_MAX: u64 = 5;
const FOLLOW_DEFAULT: u64 = 2;

/// Maximum number of arguments that one function may name.
const ARGUMENTS_MAX: usize = 50;

/// How requests to origins are made.
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    /// When bodies are fetched in parts, if configured.
    pub range: Option<Ranges>,
    /// The Host sent to every origin.
    pub host: Option<String>,
    /// The Host sent to one origin, by the `content` of its source.
    pub hosts: Vec<(String, String)>,
    /// The scheme.
    pub scheme: Option<Scheme>,
    /// The server name (SNI) in TLS handshakes with origins.
    pub sni: Option<String>,
    /// How long to wait for the first byte.
    pub timeout: Option<Duration>,
    /// Whether redirects are followed.
    pub follow: Option<Follow>,
    /// Changes to the request headers.
    pub headers: Vec<HeaderRule>,
    /// Rewrites of the path.
    pub rewrites: Vec<Rewrite>,
    /// Changes to the arguments.
    pub arguments: ArgumentRewrite,
    /// Only arguments that are part of the key are sent.
    pub by_key: bool,
}

/// When bodies are fetched in parts. If not configured: large ones, when a part is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Never.
    Off,
    /// Always, for large bodies.
    Force,
}

/// The scheme of requests to origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Whether https is used; `None` for the scheme of the user's request.
    pub https: Option<bool>,
    /// Ports for http and https; `None` for a source's own.
    pub ports: Option<(u16, u16)>,
}

/// How redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Maximum number of redirects in a row.
    pub most: u32,
    /// Later requests carry the arguments of the first.
    pub retain_args: bool,
    /// Later requests carry the Host of the first.
    pub retain_host: bool,
    /// Later requests carry credentials and the owner's headers, even to another server.
    pub retain_header: bool,
}

/// Changes to arguments, applied in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArgumentRewrite {
    /// Removes all.
    pub ignore_all: bool,
    /// Removes these.
    pub delete: Vec<String>,
    /// Keeps only these, unless empty.
    pub save: Vec<String>,
    /// Changes the values of these, where present.
    pub modify: Vec<(String, String)>,
    /// Adds these.
    pub add: Vec<(String, String)>,
}

impl Fetch {
    /// Reads one function; one that is not implemented has no effect.
    pub(super) fn take(&mut self, name: &str, args: &Args<'_>) -> Result<(), BadArgument> {
        match name {
            "set_req_host_header" => self.host = Some(host(args.only(&["domain_name"])?, "domain_name")?),
            "origin_host" => {
                args.only(&["origin", "host"])?;
                self.hosts.push((host(args, "origin")?, host(args, "host")?));
            }
            "forward_scheme" => self.scheme = scheme(args)?,
            "https_origin_sni" => {
                let on = args.only(&["enabled", "https_origin_sni"])?.on("enabled")?;
                self.sni = if on { Some(server_name(args, "https_origin_sni")?) } else { None };
            }
            "forward_timeout" => {
                let expected = "a number of seconds from 1 to 900";
                let args = args.only(&["forward_timeout"])?;
                let secs = args.number("forward_timeout", 1..=TIMEOUT_MAX_SECS, expected)?;
                let secs = secs.ok_or(BadArgument::Value { name: "forward_timeout", expected })?;
                self.timeout = Some(Duration::from_secs(secs));
            }
            "follow_302" => self.follow = follow(args)?,
            "back_to_origin_url_rewrite" => self.rewrites.push(rewrite(args)?),
            "back_to_origin_argument_rewrite" => self.arguments = arguments(args)?,
            _ => {}
        }
        Ok(())
    }

    /// The path with its query that is requested from an origin in place of `path`.
    pub fn path(&self, path: &str) -> String {
        self.arguments.of(rewritten(&self.rewrites, path))
    }
}

impl ArgumentRewrite {
    /// Applies the changes to a path with its query.
    pub(super) fn of(&self, path: String) -> String {
        if *self == ArgumentRewrite::default() {
            return path;
        }
        let (bare, query) = path.split_once('?').unwrap_or((&path, ""));
        let name = name_of;
        let sent = query.split('&').filter(|argument| !argument.is_empty() && !self.ignore_all);
        let mut sent: Vec<String> = sent
            .filter(|argument| !self.delete.contains(&name(argument)))
            .filter(|argument| self.save.is_empty() || self.save.contains(&name(argument)))
            .map(|argument| {
                let modified = self.modify.iter().find(|(modified, _)| *modified == name(argument));
                modified.map_or_else(|| argument.to_owned(), |(name, value)| format!("{name}={value}"))
            })
            .collect();
        sent.extend(self.add.iter().map(|(name, value)| format!("{name}={value}")));
        if sent.is_empty() { bare.to_owned() } else { format!("{bare}?{}", sent.join("&")) }
    }
}

fn host(args: &Args<'_>, name: &'static str) -> Result<String, BadArgument> {
    let expected = "a host name or an address";
    let text = args.required(name, expected)?;
    let (host, port) = match text.split_once(':') {
        Some((host, port)) if text.parse::<std::net::Ipv6Addr>().is_err() => (host, Some(port)),
        _ => (text, None),
    };
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port > 0);
    let good = (is_name(host) || text.parse::<std::net::Ipv6Addr>().is_ok()) && port.is_none_or(is_port);
    if good { Ok(text.to_ascii_lowercase()) } else { Err(BadArgument::Value { name, expected }) }
}

/// Whether `text` consists of non-empty labels: a host name, or an IPv4 address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A server name for TLS: neither an address nor with a port.
fn server_name(args: &Args<'_>, name: &'static str) -> Result<String, BadArgument> {
    let expected = "a host name";
    let text = args.required(name, expected)?;
    let good = is_name(text) && text.parse::<std::net::Ipv4Addr>().is_err();
    if good { Ok(text.to_ascii_lowercase()) } else { Err(BadArgument::Value { name, expected }) }
}

fn scheme(args: &Args<'_>) -> Result<Option<Scheme>, BadArgument> {
    args.only(&["enable", "scheme_origin", "scheme_origin_port"])?;
    if !args.on("enable")? {
        return Ok(None);
    }
    let https = match args.one_of("scheme_origin", &["http", "https", "follow"])? {
        "http" => Some(false),
        "https" => Some(true),
        _ => None,
    };
    let bad = BadArgument::Value { name: "scheme_origin_port", expected: "two ports, as in 80:443" };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let ports = args.get("scheme_origin_port").map(|text| {
        let (http, https) = text.split_once(':')?;
        Some((port(http)?, port(https)?))
    });
    Ok(Some(Scheme { https, ports: ports.map(|ports| ports.ok_or(bad)).transpose()? }))
}

fn follow(args: &Args<'_>) -> Result<Option<Follow>, BadArgument> {
    let on = args.on("enable")?;
    let most = args.number("max_tries", 1..=FOLLOW_MAX, "a number from 1 to 5")?.unwrap_or(FOLLOW_DEFAULT);
    let (retain_args, retain_host) = (args.switch("retain_args")?, args.switch("retain_host")?);
    let retain_header = args.switch("retain_header")?;
    args.switch("cache")?;
    Ok(on.then_some(Follow { most: most as u32, retain_args, retain_host, retain_header }))
}

fn rewrite(args: &Args<'_>) -> Result<Rewrite, BadArgument> {
    args.only(&["source_url", "target_url", "flag"])?;
    let source = args.required("source_url", "a regular expression")?;
    let (expected, flag) = ("a path", "break, enhance_break, or nothing");
    let target = args.required("target_url", expected)?;
    if target.len() > 1024 || !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#') {
        return Err(BadArgument::Value { name: "target_url", expected });
    }
    let (with_query, last) = match args.get("flag") {
        None | Some("null") => (false, false),
        Some("break") => (false, true),
        Some("enhance_break") => (true, true),
        Some(_) => return Err(BadArgument::Value { name: "flag", expected: flag }),
    };
    Rewrite::new("source_url", source, target, with_query, last, false)
}

fn arguments(args: &Args<'_>) -> Result<ArgumentRewrite, BadArgument> {
    args.only(&[
        "delete_argument",
        "save_argument",
        "ignore_all_argument",
        "add_argument",
        "modify_argument",
        "enable",
    ])?;
    if args.get("enable").is_some() && !args.on("enable")? {
        return Ok(ArgumentRewrite::default());
    }
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'#' | b'?'));
    let names = |name: &'static str| {
        let words = args.words(name);
        let good = words.len() <= ARGUMENTS_MAX && words.iter().all(|word| plain(word) && !word.contains('='));
        let expected = "up to 50 names of arguments, split by blanks or commas";
        if good { Ok(words) } else { Err(BadArgument::Value { name, expected }) }
    };
    let pairs = |name: &'static str| {
        let words = args.words(name);
        let pair = |word: &String| {
            let (name, value) = word.split_once('=').filter(|(name, value)| plain(name) && plain(value))?;
            Some((name.to_owned(), value.to_owned()))
        };
        let expected = "up to 50 arguments with their values, as in a=1, split by blanks or commas";
        let pairs: Option<Vec<_>> = words.iter().map(pair).collect();
        pairs.filter(|pairs| pairs.len() <= ARGUMENTS_MAX).ok_or(BadArgument::Value { name, expected })
    };
    Ok(ArgumentRewrite {
        ignore_all: args.switch("ignore_all_argument")?,
        delete: names("delete_argument")?,
        save: names("save_argument")?,
        modify: pairs("modify_argument")?,
        add: pairs("add_argument")?,
    })
}
