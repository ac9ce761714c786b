//! What a response to an unsafe request invalidates (RFC 9111 §4.4).
//!
//! # What always holds
//!
//! - A method that is not known to be safe is unsafe.
//! - Only URLs of the request's own origin are returned: otherwise a site could empty another's cache.
//!
//! # Not here
//!
//! Invalidating the stored responses: the caller's task.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, Method, StatusCode};

/// Whether the response to a request that bypassed the cache invalidates the response stored under its URL: a non-error
/// response to an unsafe or unknown method.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

/// The other URLs of the same origin that such a response names in `Location` and `Content-Location`, as path and
/// query.
///
/// `authority` and `path` are those of the request. The schemes `http` and `https` count as one origin if both have
/// their default port or the same explicit one: a node stores one object for both.
pub fn invalidated_too(authority: &str, path: &str, response: &HeaderMap) -> Vec<String> {
    let named = |field: HeaderName| response.get(field).and_then(|value| value.to_str().ok());
    let mut paths = Vec::new();
    for reference in [named(LOCATION), named(CONTENT_LOCATION)].into_iter().flatten() {
        if let Some(other) = same_origin(authority, path, reference.trim())
            && other != path
            && !paths.contains(&other)
        {
            paths.push(other);
        }
    }
    paths
}

/// The path and query of a reference, if it is within the same origin (RFC 3986 §5.2).
fn same_origin(authority: &str, base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    let scheme = reference.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    let rest = match scheme {
        None => reference,
        Some(scheme) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
            let rest = &reference[scheme.len() + 1..];
            rest.starts_with("//").then_some(rest)?
        }
        Some(_) => return None,
    };
    if let Some(rest) = rest.strip_prefix("//") {
        let (other, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !without_default_port(other).eq_ignore_ascii_case(without_default_port(authority)) {
            return None;
        }
        return Some(if path.starts_with('/') { without_dots(path) } else { format!("/{path}") });
    }
    let (base_path, base_query) = base.split_once('?').map_or((base, None), |(path, query)| (path, Some(query)));
    Some(match rest {
        "" => base_query.map_or_else(|| base_path.to_owned(), |query| format!("{base_path}?{query}")),
        rest if rest.starts_with('/') => without_dots(rest),
        rest if rest.starts_with('?') => format!("{base_path}{rest}"),
        rest => {
            let directory = base_path.rfind('/').map_or("/", |end| &base_path[..=end]);
            without_dots(&format!("{directory}{rest}"))
        }
    })
}

fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":80").or_else(|| authority.strip_suffix(":443")).unwrap_or(authority)
}

/// A path that begins with `/`, without `.` and `..` segments (RFC 3986 §5.2.4); its query is unchanged.
fn without_dots(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in path.split('/').skip(1) {
        ends_in_slash = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let slash = if ends_in_slash && !segments.is_empty() { "/" } else { "" };
    format!("/{}{slash}{query}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_within_the_origin_only() {
        let cases = [
            // reference                       path and query
            ("http://a.test/x", Some("/x")),
            ("https://A.TEST/x", Some("/x")),
            ("http://a.test:80/x", Some("/x")),
            ("//a.test/x?q", Some("/x?q")),
            ("http://a.test", Some("/")),
            ("http://a.test?q", Some("/?q")),
            ("/x#part", Some("/x")),
            ("x", Some("/dir/x")),
            ("./x/../y", Some("/dir/y")),
            ("..", Some("/")),
            ("../../../x", Some("/x")),
            (".", Some("/dir/")),
            ("?other", Some("/dir/page?other")),
            ("#part", Some("/dir/page?q")),
            ("a:b", None), // a scheme
            ("/a:b", Some("/a:b")),
            ("http://b.test/x", None),
            ("http://a.test:8080/x", None),
            ("http://a.test.evil/x", None),
            ("http://user@a.test/x", None),
            ("//b.test/x", None),
            ("http:/x", None),
            ("ftp://a.test/x", None),
            ("javascript:x", None),
        ];
        for (reference, expected) in cases {
            assert_eq!(same_origin("a.test", "/dir/page?q", reference).as_deref(), expected, "{reference}");
        }
        assert_eq!(same_origin("a.test:8080", "/", "http://a.test:8080/x").as_deref(), Some("/x"));
    }
}
