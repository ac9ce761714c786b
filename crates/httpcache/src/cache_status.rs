//! What a node says of itself in a response: `Cache-Status` (RFC 9211) and `Via` (RFC 9110 §7.6.3).

use std::fmt;

use http::{HeaderValue, StatusCode, Version};

/// One cache's member of `Cache-Status`. The list grows towards the user: append it behind what upstream sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    /// Name of the cache.
    pub cache: &'a str,
    /// Whether the store answered, or why upstream was asked.
    pub outcome: Outcome,
    /// Seconds of freshness left, negative when stale; [`crate::Freshness::ttl`].
    pub ttl: Option<i64>,
    /// Whether what upstream sent was stored.
    pub stored: bool,
    /// Whether the request joined another one's fetch.
    pub collapsed: bool,
}

/// Whether a cache answered by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store, without asking anybody.
    Hit,
    /// Upstream was asked.
    Forwarded {
        /// Why.
        why: Forward,
        /// What upstream answered, where it is not what the user gets (a 304 above all).
        status: Option<StatusCode>,
    },
}

/// Why a request was forwarded (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// The cache was told not to handle it.
    Bypass,
    /// The method is not one that is answered from the store.
    Method,
    /// Nothing is stored under the URL.
    UriMiss,
    /// Only variants that do not match are stored.
    VaryMiss,
    /// Nothing usable is stored, and it was not noted why.
    Miss,
    /// What is stored is fresh, and the request asks for better.
    Request,
    /// What is stored is stale, or the fence refused it.
    Stale,
    /// A part was stored and not the whole.
    Partial,
}

impl Forward {
    /// The word on the wire.
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
    /// The member as a header value of its own line.
    pub fn value(&self) -> HeaderValue {
        // One for every answer: written without the detours of formatting.
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

/// A name as a structured token where it is one, else as a string; bytes neither can hold become `?` (RFC 9651 §3.3).
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

/// The member a node adds to `Via`: the version it was spoken to with, and its name as the pseudonym.
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
