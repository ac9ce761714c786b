//! Who may request objects: by referring page, by address, by a signature in the URL.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::args::{Args, BadArgument};

/// Maximum number of names or addresses in one list.
const LIST_MAX: usize = 1000;

/// Default time for which a signature is valid after its timestamp.
const DELTA_DEFAULT_SECS: u64 = 1800;

/// Longest such time that can be configured: a year.
const DELTA_MAX_SECS: u64 = 31_536_000;

/// Length of a secret, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 6..=128;

/// All rules about who may request objects.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Referring pages that are allowed or denied.
    pub referers: Option<Referers>,
    /// Addresses that are allowed or denied.
    pub addresses: Option<Addresses>,
    /// Signatures in URLs.
    pub auth: Option<Auth>,
}

impl Access {
    /// Whether everybody is allowed.
    pub fn is_open(&self) -> bool {
        self.referers.is_none() && self.addresses.is_none() && self.auth.is_none()
    }
}

/// Hosts of referring pages that are allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referers {
    /// Whether the listed hosts are the allowed ones; otherwise they are the denied ones.
    pub allow: bool,
    /// Lower case; `*.` at the beginning stands for all hosts below.
    pub hosts: Vec<String>,
    /// Whether requests without `Referer` are allowed.
    pub allow_empty: bool,
    /// Whether a `Referer` without a scheme is accepted as well.
    pub ignore_scheme: bool,
    /// Where denied requests are redirected; if `None`, they are refused.
    pub redirect: Option<String>,
}

/// Addresses that are allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Whether the listed addresses are the allowed ones; otherwise they are the denied ones.
    pub allow: bool,
    /// The list.
    pub ranges: Vec<IpRange>,
    /// Which address of a request is checked.
    pub of: ClientAddress,
}

/// Which address of a request is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// The first of `X-Forwarded-For`; without that header, the address of the connection.
    Forwarded,
    /// The address of the connection.
    Connection,
    /// Both: an allow list must contain both, a deny list either.
    Both,
}

/// An address, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    /// Length of the prefix, in bits.
    bits: u32,
}

impl IpRange {
    /// Parses `1.2.3.4`, `1.2.3.0/24`, and the same for IPv6.
    pub fn parse(text: &str) -> Option<IpRange> {
        let digits = |bits: &str| bits.bytes().all(|byte| byte.is_ascii_digit()).then(|| bits.parse::<u32>().ok())?;
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(digits(bits)?)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().ok()?;
        let most = if written.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        // An IPv4-mapped IPv6 network is compared as IPv4, as far as its prefix allows.
        let address = if bits >= 96 || written.is_ipv4() { written.to_canonical() } else { written };
        let bits = if written.is_ipv6() && address.is_ipv4() { bits - 96 } else { bits };
        (bits <= most).then_some(IpRange { address, bits })
    }

    /// Whether `address` is in the range. An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn has(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = u32::from(ours) ^ u32::from(theirs);
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = u128::from(ours) ^ u128::from(theirs);
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Where a URL carries its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// `/file?auth_key=TIME-RAND-UID-HASH`.
    A,
    /// `/YYYYMMDDhhmm/HASH/file`.
    B,
    /// `/HASH/TIME/file`, or `?KEY1=HASH&KEY2=TIME`.
    C,
}

impl AuthType {
    /// Splits a path with its query into its signature, whose parts borrow from it, and the rest; `None` if it has no
    /// signature.
    pub fn split(self, path: &str) -> Option<(Signature<'_>, String)> {
        match self {
            AuthType::A => {
                let (value, rest) = without(path, "auth_key")?;
                let (time, hash) = (value.split('-').next()?, value.rsplit('-').next()?);
                // Exactly four parts: the sender must not choose where the signed text begins.
                let is_one = value.bytes().filter(|byte| *byte == b'-').count() == 3;
                (is_one && is_hash(hash)).then_some((Signature { time, hash, signed: value.rsplit_once('-')?.0 }, rest))
            }
            AuthType::B => {
                let (time, hash, rest) = segments(path)?;
                let is_time = time.len() == 12 && time.bytes().all(|byte| byte.is_ascii_digit());
                (is_time && is_hash(hash)).then(|| (Signature { time, hash, signed: "" }, rest.to_owned()))
            }
            AuthType::C => match segments(path) {
                Some((hash, time, rest)) if is_hash(hash) && is_hex_time(time) => {
                    Some((Signature { time, hash, signed: "" }, rest.to_owned()))
                }
                _ => {
                    let (hash, _) = without(path, "KEY1")?;
                    let (time, _) = without(path, "KEY2")?;
                    let rest = without(path, "KEY1")?.1;
                    let rest = without(&rest, "KEY2")?.1;
                    (is_hash(hash) && is_hex_time(time)).then_some((Signature { time, hash, signed: "" }, rest))
                }
            },
        }
    }

    /// A path with its query, without anything that has the form of a signature, valid or not, repeatedly. The node's
    /// parents strip it again and must arrive at the same path.
    pub(super) fn without_signature(self, path: &str) -> String {
        let mut path = path.to_owned();
        while let Some((_, rest)) = self.split(&path) {
            path = rest;
        }
        path
    }
}

/// The parts of a signature, as they occur in a URL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature<'a> {
    /// The timestamp, in the format of the type.
    pub time: &'a str,
    /// The hash, in hexadecimal digits.
    pub hash: &'a str,
    /// For type A: the text before the hash.
    pub signed: &'a str,
}

fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Eight digits, the length of a timestamp in this century. The sender must not choose where the path ends and the
/// timestamp begins, as the two are hashed without a separator.
fn is_hex_time(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The first two segments of a path, and the rest with its slash.
fn segments(path: &str) -> Option<(&str, &str, &str)> {
    let (first, rest) = path.strip_prefix('/')?.split_once('/')?;
    let at = rest.find('/')?;
    let (second, rest) = rest.split_at(at);
    (!first.contains('?') && !second.contains('?')).then_some((first, second, rest))
}

/// The value of the first argument `name`, and the path with its query without all arguments of that name.
fn without<'a>(path: &'a str, name: &str) -> Option<(&'a str, String)> {
    let (bare, query) = path.split_once('?')?;
    let is_it = |argument: &&str| argument.split('=').next() == Some(name);
    let (_, value) = query.split('&').find(is_it)?.split_once('=')?;
    let rest: Vec<&str> = query.split('&').filter(|argument| !is_it(argument)).collect();
    let rest = rest.join("&");
    Some((value, if rest.is_empty() { bare.to_owned() } else { format!("{bare}?{rest}") }))
}

/// Which signatures are valid.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Where they are found.
    pub kind: AuthType,
    /// The secrets that they may be made with.
    pub secrets: Vec<String>,
    /// How long a signature is valid after its timestamp.
    pub delta: Duration,
}

/// Omits the secrets.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("kind", &self.kind).field("delta", &self.delta).finish_non_exhaustive()
    }
}

/// Reads aliauth; `None` for `no_auth`.
pub(super) fn auth(args: &Args<'_>) -> Result<Option<Auth>, BadArgument> {
    args.only(&["auth_type", "auth_key1", "auth_key2", "ali_auth_delta"])?;
    let expected = "no_auth, type_a, type_b or type_c";
    let kind = match args.required("auth_type", expected)? {
        "no_auth" => return Ok(None),
        "type_a" => AuthType::A,
        "type_b" => AuthType::B,
        "type_c" => AuthType::C,
        _ => return Err(BadArgument::Value { name: "auth_type", expected }),
    };
    let expected = "6 to 128 letters and digits";
    let secret = |name: &'static str| {
        let good =
            |secret: &&str| SECRET_BYTES.contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_alphanumeric());
        let Some(secret) = args.get(name) else { return Ok(None) };
        Some(secret).filter(good).map(|secret| Some(secret.to_owned())).ok_or(BadArgument::Value { name, expected })
    };
    let first = secret("auth_key1")?.ok_or(BadArgument::Value { name: "auth_key1", expected })?;
    let secrets = [Some(first), secret("auth_key2")?].into_iter().flatten().collect();
    let delta = args.number("ali_auth_delta", 0..=DELTA_MAX_SECS, "seconds, a year at most")?;
    Ok(Some(Auth { kind, secrets, delta: Duration::from_secs(delta.unwrap_or(DELTA_DEFAULT_SECS)) }))
}

/// Reads a list of referers.
pub(super) fn referers(args: &Args<'_>, allow: bool) -> Result<Referers, BadArgument> {
    let list = if allow { "refer_domain_allow_list" } else { "refer_domain_deny_list" };
    args.only(&[list, "allow_empty", "redirect_url", "ignore_scheme"])?;
    let hosts = args.words(list);
    let good = |host: &String| {
        let host = host.strip_prefix("*.").unwrap_or(host);
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    if hosts.is_empty() || hosts.len() > LIST_MAX || !hosts.iter().all(good) {
        return Err(BadArgument::Value { name: list, expected: "a list of hosts, split by commas, up to 1000" });
    }
    let redirect = args.get("redirect_url");
    let is_url = |url: &str| {
        (url.starts_with("http://") || url.starts_with("https://")) && url.bytes().all(|b| b.is_ascii_graphic())
    };
    if !redirect.is_none_or(is_url) {
        return Err(BadArgument::Value { name: "redirect_url", expected: "an http or https URL" });
    }
    Ok(Referers {
        allow,
        hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        allow_empty: args.get("allow_empty").is_none() || args.on("allow_empty")?,
        ignore_scheme: args.switch("ignore_scheme")?,
        redirect: redirect.map(str::to_owned),
    })
}

/// Reads a list of addresses.
pub(super) fn addresses(args: &Args<'_>, allow: bool) -> Result<Addresses, BadArgument> {
    args.only(&["ip_list", "ip_acl_xfwd"])?;
    let words = args.words("ip_list");
    let ranges: Option<Vec<IpRange>> = words.iter().map(|text| IpRange::parse(text)).collect();
    let ranges = ranges.filter(|ranges| (1..=LIST_MAX).contains(&ranges.len()));
    let of = match args.get("ip_acl_xfwd") {
        // `X-Forwarded-For` is set by clients, and trusted only if the owner says so.
        None => ClientAddress::Connection,
        Some(_) => match args.one_of("ip_acl_xfwd", &["on", "off", "all"])? {
            "on" => ClientAddress::Forwarded,
            "off" => ClientAddress::Connection,
            _ => ClientAddress::Both,
        },
    };
    let expected = "a list of addresses and networks, split by commas, up to 1000";
    Ok(Addresses { allow, ranges: ranges.ok_or(BadArgument::Value { name: "ip_list", expected })?, of })
}
