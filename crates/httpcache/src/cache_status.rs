//! The headers in which a node identifies itself: `Cache-Status` (RFC 9211) and `Via` (RFC 9110 §7.6.3).

use std::fmt;

use http::{HeaderValue, StatusCode, Version};

/// One cache's member of `Cache-Status`. The list grows towards the user: append it after the members from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    /// Name of the cache.
    pub cache: &'a str,
    /// Whether the store answered, or why upstream was asked.
    pub outcome: Outcome,
    /// Seconds of freshness left, negative when stale; [`crate::Freshness::ttl`].
    pub ttl: Option<i64>,
    /// Whether the response from upstream was stored.
    pub stored: bool,
    /// Whether the request was collapsed into another one's fetch.
    pub collapsed: bool,
}

/// Whether the cache answered from its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store, without asking anybody.
    Hit,
    /// Upstream was asked.
    Forwarded {
        /// Why.
        why: Forward,
        /// The status of the upstream response if the user gets another one (typically a 304).
        status: Option<StatusCode>,
    },
}

/// Why a request was forwarded (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The cache was told not to handle it.
    Bypass,
    /// The method cannot be answered from the store.
    Method,
    /// Nothing is stored under the URL.
    UriMiss,
    /// Only variants that do not match are stored.
    VaryMiss,
    /// Nothing usable is stored, for a reason that was not recorded.
    Miss,
    /// The stored response is fresh, but the request's directives demand more.
    Request,
    /// The stored response is stale, or the fence refused it.
    Stale,
    /// Only a part was stored.
    Partial,
}

impl Forward {
    /// The token on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Miss => "miss",
            Forward::Request => "request",
            Forward::Stale => "stale",
            Forward::Partial => "partial",
        }
    }
}

impl CacheStatus<'_> {
    /// The member as a field value of its own line.
    pub fn value(&self) -> HeaderValue {
        // Built for every response, so written without the formatting machinery.
        let mut text = String::with_capacity(self.cache.len() + 48);
        self.write(&mut text).expect("a string takes everything");
        HeaderValue::try_from(text).expect("names are escaped, the rest is ASCII words and digits")
    }
}

impl fmt::Display for CacheStatus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

impl CacheStatus<'_> {
    fn write(&self, f: &mut impl fmt::Write) -> fmt::Result {
        write_name(f, self.cache)?;
        match self.outcome {
            Outcome::Hit => f.write_str("; hit")?,
            Outcome::Forwarded { why, status } => {
                f.write_str("; fwd=")?;
                f.write_str(why.as_str())?;
                if let Some(status) = status {
                    write!(f, "; fwd-status={}", status.as_u16())?;
                }
            }
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        if self.stored {
            f.write_str("; stored")?;
        }
        if self.collapsed {
            f.write_str("; collapsed")?;
        }
        Ok(())
    }
}

/// A name as a structured token if it is one, else as a string; bytes that neither can hold become `?` (RFC 9651 §3.3).
fn write_name(f: &mut impl fmt::Write, name: &str) -> fmt::Result {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
    if name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*') && name.bytes().all(token) {
        return f.write_str(name);
    }
    f.write_str("\"")?;
    for character in name.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            ' '..='~' => write!(f, "{character}")?,
            _ => f.write_str("?")?,
        }
    }
    f.write_str("\"")
}

/// The member that a node adds to `Via`: the protocol version of the received message, and the node's name as the
/// pseudonym.
pub fn via(version: Version, name: &str) -> HeaderValue {
    let version = match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    let token = |c: char| if c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c) { c } else { '_' };
    let name: String = name.chars().map(token).collect();
    HeaderValue::try_from(format!("{version} {name}")).expect("a version and a token make a header value")
}
