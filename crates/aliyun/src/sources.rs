//! The origins of a domain: parsing of `Sources`.
//!
//! # What always holds
//!
//! - Parsed origins are usable: the content fits the type, the port is valid, and none of them is the domain itself.

use std::net::IpAddr;

use model::{DomainName, Scheme};
use serde_json::{Map, Value};

use crate::refusal::Fault;

/// Maximum number of origins of one domain.
const SOURCES_MAX: usize = 20;

/// Longest `Sources`, in bytes.
const SOURCES_BYTES_MAX: usize = 16 << 10;

/// One origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What `content` is.
    pub kind: SourceType,
    /// An address or a host name.
    pub content: String,
    /// TCP port.
    pub port: u16,
    /// Our own: http or https, whatever the port; if absent, it follows from the port, as with the vendor.
    pub scheme: Option<Scheme>,
    /// 20 primary, 30 backup.
    pub priority: u16,
    /// 0 to 100.
    pub weight: u16,
}

/// What kind of origin a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// An IP address.
    Address,
    /// A host name.
    Domain,
    /// A bucket of the vendor's object store.
    Oss,
    /// The host name of a function service.
    Function,
    /// A site hosted by the vendor, by host name.
    Common,
}

impl SourceType {
    const ALL: [SourceType; 5] =
        [SourceType::Address, SourceType::Domain, SourceType::Oss, SourceType::Function, SourceType::Common];

    /// The vendor's word.
    pub fn name(self) -> &'static str {
        match self {
            SourceType::Address => "ipaddr",
            SourceType::Domain => "domain",
            SourceType::Oss => "oss",
            SourceType::Function => "fc_domain",
            SourceType::Common => "common",
        }
    }
}

/// Why `Sources` is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadSources {
    /// Not an array of objects, or an object without a required field.
    Syntax,
    /// More than [`SOURCES_MAX`].
    TooMany,
    /// Neither an address nor a host name.
    Content,
    /// The domain itself, or a name that it serves: a request would loop.
    Itself,
    /// An unknown or missing type.
    Type,
    /// An address where the type requires a name, or the other way round.
    Mismatch,
    /// Neither 20 nor 30.
    Priority,
    /// Not a TCP port.
    Port,
    /// Above 100.
    Weight,
}

impl BadSources {
    /// The fault in calls that create domains.
    pub(crate) fn of_new(self) -> Fault {
        match self {
            BadSources::Type => Fault::SourceType,
            BadSources::TooMany => Fault::SourcesExceeded,
            _ => Fault::Sources,
        }
    }

    /// The fault in calls that change one domain.
    pub(crate) fn of_change(self) -> Fault {
        match self {
            BadSources::Syntax | BadSources::TooMany | BadSources::Weight => Fault::Sources,
            BadSources::Content | BadSources::Itself => Fault::SourceContent,
            BadSources::Type => Fault::ChangedSourceType,
            BadSources::Mismatch => Fault::SourceMismatch,
            BadSources::Priority => Fault::SourcePriority,
            BadSources::Port => Fault::SourcePort,
        }
    }
}

/// Parses `Sources` for the domains `names`: an array of objects whose keys are case-insensitive and whose numbers may
/// be strings.
pub(crate) fn read(text: &str, names: &[DomainName]) -> Result<Vec<Source>, BadSources> {
    if text.len() > SOURCES_BYTES_MAX {
        return Err(BadSources::Syntax);
    }
    let Ok(Value::Array(entries)) = serde_json::from_str(text) else {
        return Err(BadSources::Syntax);
    };
    if entries.is_empty() {
        return Err(BadSources::Syntax);
    }
    if entries.len() > SOURCES_MAX {
        return Err(BadSources::TooMany);
    }
    let one = |entry: &Value| {
        let source = read_one(entry.as_object().ok_or(BadSources::Syntax)?)?;
        let host = source.content.to_ascii_lowercase();
        let itself = |name: &DomainName| name.serves(&host);
        if names.iter().any(itself) { Err(BadSources::Itself) } else { Ok(source) }
    };
    entries.iter().map(one).collect()
}

fn read_one(entry: &Map<String, Value>) -> Result<Source, BadSources> {
    let field = |name: &str| -> Result<Option<String>, BadSources> {
        match entry.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(BadSources::Syntax),
        }
    };
    let number = |name: &str, default: u16, bad: BadSources| -> Result<u16, BadSources> {
        field(name)?.map_or(Ok(default), |text| text.parse().map_err(|_| bad))
    };
    let kind = field("type")?.ok_or(BadSources::Type)?;
    let kind = SourceType::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(&kind));
    let kind = kind.ok_or(BadSources::Type)?;
    let content = field("content")?.ok_or(BadSources::Content)?;
    let is_address = content.parse::<IpAddr>().is_ok();
    let is_host = content.len() <= 253
        && content.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        });
    if !is_address && !is_host {
        return Err(BadSources::Content);
    }
    if is_address != (kind == SourceType::Address) {
        return Err(BadSources::Mismatch);
    }
    let scheme = match field("scheme")?.map(|scheme| scheme.to_ascii_lowercase()).as_deref() {
        None => None,
        Some("http") => Some(Scheme::Http),
        Some("https") => Some(Scheme::Https),
        Some(_) => return Err(BadSources::Syntax),
    };
    let source = Source {
        kind,
        content,
        port: number("port", if scheme == Some(Scheme::Https) { 443 } else { 80 }, BadSources::Port)?,
        scheme,
        priority: number("priority", 20, BadSources::Priority)?,
        weight: number("weight", 10, BadSources::Weight)?,
    };
    match &source {
        Source { port: 0, .. } => Err(BadSources::Port),
        Source { priority, .. } if !matches!(priority, 20 | 30) => Err(BadSources::Priority),
        Source { weight, .. } if *weight > 100 => Err(BadSources::Weight),
        _ => Ok(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_clients_write_them() {
        let source = |kind, content: &str, port, priority, weight| Source {
            kind,
            content: content.to_owned(),
            port,
            scheme: None,
            priority,
            weight,
        };
        let secure =
            |port, scheme| Source { scheme: Some(scheme), ..source(SourceType::Domain, "o.example.com", port, 20, 10) };
        let cases = [
            (r#"[{"content":"1.2.3.4","type":"ipaddr"}]"#, Ok(source(SourceType::Address, "1.2.3.4", 80, 20, 10))),
            (
                // Terraform: capitalised keys, numbers in both forms
                r#"[{"Content":"o.example.com","Type":"domain","Priority":"30","Port":443,"Weight":"15"}]"#,
                Ok(source(SourceType::Domain, "o.example.com", 443, 30, 15)),
            ),
            (
                r#"[{"content":"localhost","type":"domain","port":9790}]"#,
                Ok(source(SourceType::Domain, "localhost", 9790, 20, 10)),
            ),
            (r#"[{"content":"::1","type":"ipaddr"}]"#, Ok(source(SourceType::Address, "::1", 80, 20, 10))),
            (
                // ours
                r#"[{"content":"o.example.com","type":"domain","port":8443,"scheme":"https"}]"#,
                Ok(secure(8443, Scheme::Https)),
            ),
            (r#"[{"content":"o.example.com","type":"domain","scheme":"HTTPS"}]"#, Ok(secure(443, Scheme::Https))),
            (
                r#"[{"content":"o.example.com","type":"domain","port":443,"scheme":"http"}]"#,
                Ok(secure(443, Scheme::Http)),
            ),
            (r#"[{"content":"o.example.com","type":"domain","scheme":"ftp"}]"#, Err(BadSources::Syntax)),
            ("1.2.3.4", Err(BadSources::Syntax)),
            ("[]", Err(BadSources::Syntax)),
            ("[1]", Err(BadSources::Syntax)),
            (r#"[{"type":"ipaddr"}]"#, Err(BadSources::Content)),
            (r#"[{"content":"1.2.3.4"}]"#, Err(BadSources::Type)),
            (r#"[{"content":"1.2.3.4","type":"tape"}]"#, Err(BadSources::Type)),
            (r#"[{"content":"o.example.com","type":"ipaddr"}]"#, Err(BadSources::Mismatch)),
            (r#"[{"content":"1.2.3.4","type":"domain"}]"#, Err(BadSources::Mismatch)),
            (r#"[{"content":"http://o.example.com","type":"domain"}]"#, Err(BadSources::Content)),
            (r#"[{"content":"a.com","type":"domain","port":0}]"#, Err(BadSources::Port)),
            (r#"[{"content":"a.com","type":"domain","port":70000}]"#, Err(BadSources::Port)),
            (r#"[{"content":"a.com","type":"domain","priority":25}]"#, Err(BadSources::Priority)),
            (r#"[{"content":"a.com","type":"domain","weight":101}]"#, Err(BadSources::Weight)),
            (r#"[{"content":{},"type":"domain"}]"#, Err(BadSources::Syntax)),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text, &[]), expected.map(|source| vec![source]), "{text}");
        }
    }

    #[test]
    fn origins_are_few_and_never_the_domain_itself() {
        let many = |count: usize| {
            let one = r#"{"content":"1.2.3.4","type":"ipaddr"}"#;
            format!("[{}]", vec![one; count].join(","))
        };
        assert_eq!(read(&many(20), &[]).map(|sources| sources.len()), Ok(20));
        assert_eq!(read(&many(21), &[]), Err(BadSources::TooMany));
        let name = |text: &str| DomainName::parse(text).expect("a name");
        let cases = [
            ("a.example.com", "A.Example.com", true),
            ("a.example.com", "b.example.com", false),
            (".example.com", "o.example.com", true), // served by the wildcard
            (".example.com", "example.com", false),
        ];
        for (domain, origin, itself) in cases {
            let text = format!(r#"[{{"content":"{origin}","type":"domain"}}]"#);
            let got = read(&text, &[name("other.com"), name(domain)]);
            assert_eq!(got.err(), itself.then_some(BadSources::Itself), "{origin} of {domain}");
        }
    }
}
