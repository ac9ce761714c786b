//! Bodies: replies and refusals as JSON or XML, with the exact content types that clients compare.
//!
//! XML is written from the same fields as JSON: each key becomes an element, and an array repeats the element of its
//! key.
//!
//! # What always holds
//!
//! - Every value of an error body is a string; some clients crash on other types.
//! - XML contains no character that XML 1.0 forbids; such characters are replaced.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::read::{Format, Product, Request};
use crate::refusal::Refusal;
use crate::reply::{self, Reply, fields};

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// HTTP status.
    pub status: u16,
    /// The exact value of `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// Facts about the request for an error body.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Upper-case UUID of this request.
    pub request_id: &'a str,
    /// The requested host, with or without its port; empty if unknown.
    pub host: &'a str,
    /// Whether the request came by https, as far as is known: links to our own pages use the same scheme.
    pub https: bool,
    /// The product, as far as is known.
    pub product: Product,
    /// The requested format.
    pub format: Format,
}

/// Encodes a successful reply to `request`.
pub fn render(request: &Request, request_id: &str, reply: &Reply) -> Rendered {
    let body = match request.format {
        Format::Json => reply::json(request, request_id, reply),
        Format::Xml => xml_body(&format!("{}Response", request.action), &fields(request, request_id, reply)),
    };
    Rendered { status: 200, content_type: content_type(request.format), body }
}

/// Encodes a refusal.
pub fn refuse(refusal: &Refusal, envelope: Envelope<'_>) -> Rendered {
    let public_host = match envelope.product {
        Product::Cdn => "cdn.aliyuncs.com",
        Product::Vod => "vod.aliyuncs.com",
    };
    let host = match without_port(envelope.host) {
        "" => public_host,
        host => host,
    };
    let code = &refusal.code;
    debug_assert!(crate::page(code).is_some(), "no page about {code}");
    let recommend = link(code, &envelope);
    let body = match envelope.format {
        Format::Json => json_body(&json!({
            "RequestId": envelope.request_id,
            "HostId": host,
            "Code": code,
            "Message": refusal.message,
            "Recommend": recommend,
        })),
        Format::Xml => {
            let mut out = PROLOG.to_owned();
            out.push_str("<Error>");
            for (name, text) in
                [("RequestId", envelope.request_id), ("HostId", host), ("Code", code), ("Message", &refusal.message)]
            {
                element(&mut out, name, &Value::String(text.to_owned()));
            }
            // A code and an id are our own texts: neither can contain the end of a CDATA section.
            out.extend(["<Recommend><![CDATA[", &recommend, "]]></Recommend></Error>"]);
            out.into_bytes()
        }
    };
    Rendered { status: refusal.status, content_type: content_type(envelope.format), body }
}

/// The link to the page about a code: on this server, under the host name of the request.
fn link(code: &str, envelope: &Envelope<'_>) -> String {
    let named = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
    };
    let origin = match (named(envelope.host), envelope.https) {
        (true, true) => format!("https://{}", envelope.host),
        (true, false) => format!("http://{}", envelope.host),
        (false, _) => String::new(), // the host is unknown
    };
    let product = envelope.product.name();
    format!("{origin}{PAGES}{code}?product={product}&requestId={}", envelope.request_id)
}

/// The path under which a server offers the pages about codes ([`crate::page`]).
pub const PAGES: &str = "/errors/";

const PROLOG: &str = "<?xml version='1.0' encoding='UTF-8'?>\n";

/// Must match exactly: the Tea cores of Python and Node compare these texts to choose a parser.
fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json;charset=utf-8",
        Format::Xml => "text/xml;charset=utf-8",
    }
}

fn json_body(fields: &Value) -> Vec<u8> {
    fields.to_string().into_bytes()
}

fn xml_body(root: &str, fields: &Value) -> Vec<u8> {
    let mut out = PROLOG.to_owned();
    element(&mut out, root, fields);
    out.into_bytes()
}

/// Writes `value` as an element, and an array as one element per value.
fn element(out: &mut String, name: &str, value: &Value) {
    if let Value::Array(values) = value {
        for value in values {
            element(out, name, value);
        }
        return;
    }
    out.extend(["<", name, ">"]);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                element(out, name, value);
            }
        }
        Value::String(text) => out.extend(text.chars().map(escape)),
        Value::Null => {}
        other => out.push_str(&other.to_string()),
    }
    out.extend(["</", name, ">"]);
}

/// A character escaped for text in XML 1.0 (§2.2, §2.4).
fn escape(character: char) -> Cow<'static, str> {
    match character {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        '\r' => "&#13;".into(),
        '\t' | '\n' => character.to_string().into(),
        '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}".into(),
        _ => character.to_string().into(),
    }
}

/// A host without its port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(format: Format) -> Envelope<'static> {
        Envelope { request_id: "R-1", host: "cdn.example.com:9680", https: false, product: Product::Cdn, format }
    }

    #[test]
    fn refusals_read_as_clients_expect() {
        let refusal = Refusal::missing("Action");
        let json = refuse(&refusal, envelope(Format::Json));
        assert_eq!((json.status, json.content_type), (400, "application/json;charset=utf-8"));
        let body: Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!(
            body,
            json!({
                "RequestId": "R-1",
                "HostId": "cdn.example.com",
                "Code": "MissingParameter",
                "Message": "The input parameter \"Action\" that is mandatory for processing this request is not supplied.",
                "Recommend": "http://cdn.example.com:9680/errors/MissingParameter?product=Cdn&requestId=R-1",
            })
        );
        let xml = refuse(&Refusal::new(400, "InvalidTime", "a < b & \u{1} \u{2028}"), envelope(Format::Xml));
        assert_eq!(xml.content_type, "text/xml;charset=utf-8");
        assert_eq!(
            String::from_utf8(xml.body).unwrap(),
            "<?xml version='1.0' encoding='UTF-8'?>\n<Error><RequestId>R-1</RequestId><HostId>cdn.example.com</HostId>\
             <Code>InvalidTime</Code><Message>a &lt; b &amp; \u{fffd} \u{2028}</Message><Recommend><![CDATA[http://\
             cdn.example.com:9680/errors/InvalidTime?product=Cdn&requestId=R-1]]></Recommend></Error>"
        );
    }

    #[test]
    fn links_lead_to_whoever_was_asked() {
        let cases = [
            ("a.com", true, "https://a.com/errors/X"),
            ("[::1]:80", false, "http://[::1]:80/errors/X"),
            ("", false, "/errors/X"),
            ("a]]>b", false, "/errors/X"), // no host, and the end of a CDATA section
        ];
        for (host, https, expected) in cases {
            let link = link("X", &Envelope { host, https, ..envelope(Format::Json) });
            assert_eq!(link, format!("{expected}?product=Cdn&requestId=R-1"));
        }
    }

    #[test]
    fn hosts_lose_their_port() {
        let cases = [("a.com:80", "a.com"), ("a.com", "a.com"), ("[::1]:9680", "[::1]"), ("[::1]", "[::1]"), ("", "")];
        for (host, expected) in cases {
            assert_eq!(without_port(host), expected, "{host}");
        }
    }

    #[test]
    fn arrays_repeat_the_element_of_their_key() {
        let fields = json!({ "A": { "B": [{ "C": 1 }, { "C": true }] }, "D": [], "E": { "F": [] } });
        let body = String::from_utf8(xml_body("R", &fields)).unwrap();
        assert_eq!(body.strip_prefix(PROLOG), Some("<R><A><B><C>1</C></B><B><C>true</C></B></A><E></E></R>"));
    }
}
