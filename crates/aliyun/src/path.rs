//! ObjectPath: the lines of a task, each a URL with or without its scheme (prefetch-refresh §4).
//!
//! # What always holds
//!
//! - A line is taken literally except for the normalisation in [`UrlKey`]: nothing is decoded unless the operator chose
//!   so ([`Rules::unescape_paths`]), and no index page is implied.
//! - `http://`, `https://` and no scheme mean the same object; lines that differ only in that are merged.
//! - Lines are counted before any is parsed, so a body with too many costs no more than one within the limit.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use model::{PATH_BYTES_MAX, UrlKey};

use crate::profile::LINES_PER_CALL_MAX;
use crate::refusal::Fault;
use crate::rules::Rules;

/// Longest line, in characters.
pub const LINE_CHARACTERS_MAX: usize = 1024;

/// One line of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPath {
    /// The URL with its scheme, as shown in task lists; `http` if none was given.
    pub text: String,
    /// Host and path of what the line covers: for a directory the path ends in `/`, with ignored parameters it has no
    /// query, and for a regular expression it is the expression.
    pub key: UrlKey,
}

/// The form that a line must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A file to prefetch: not a directory.
    Prefetch,
    /// A file to refresh. `/` is one as well: the object that the site serves there.
    File,
    /// A directory: ends in `/`.
    Directory,
    /// A regular expression over the paths of a literal host, with or without anchors.
    Regex,
    /// A path with any query.
    IgnoreParams,
    /// Any form that a task may have had.
    Any,
}

impl ObjectPath {
    /// Parses one line, which is already trimmed.
    pub(crate) fn read(line: &str, shape: Shape) -> Result<ObjectPath, Fault> {
        if line.chars().count() > LINE_CHARACTERS_MAX || line.chars().any(char::is_control) {
            return Err(Fault::ObjectPath);
        }
        // No URL begins with `^`, so it is an anchor; a `$` at the end may be part of a URL.
        let line = match (shape, line.strip_prefix('^')) {
            (Shape::Regex, anchored) => {
                let line = anchored.unwrap_or(line);
                line.strip_suffix('$').unwrap_or(line)
            }
            (Shape::Any, Some(anchored)) => anchored.strip_suffix('$').unwrap_or(anchored),
            _ => line,
        };
        let (scheme, rest) = match line.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => ("http", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => ("https", rest),
            _ => ("http", line),
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        // Our own: `.example.com/` as a directory is all of a wildcard domain. The vendor's wildcard syntax is refused,
        // as it is there.
        let whole_wildcard = matches!(shape, Shape::Directory | Shape::Any) && path == "/";
        if authority.starts_with('*') || (authority.starts_with('.') && !whole_wildcard) {
            return Err(Fault::WildcardHost);
        }
        let host = match authority.split_once(':') {
            Some((host, "80" | "443")) => host,
            Some(_) => return Err(Fault::ObjectPath),
            None => authority,
        };
        let key = UrlKey::new(host, path).map_err(|_| Fault::ObjectPath)?;
        let is_directory = key.path_and_query().ends_with('/') && !key.path_and_query().contains('?');
        let fits = match shape {
            // Nodes refuse longer URLs, so they cannot be warmed.
            Shape::Prefetch => !is_directory && key.path_and_query().len() <= PATH_BYTES_MAX,
            Shape::Directory => is_directory,
            Shape::File | Shape::Regex | Shape::IgnoreParams | Shape::Any => true,
        };
        if !fits {
            return Err(Fault::ObjectPath);
        }
        let text = format!("{scheme}://{key}");
        let key = match shape {
            Shape::IgnoreParams => UrlKey::new(key.host(), key.path()).map_err(|_| Fault::ObjectPath)?,
            _ => key,
        };
        Ok(ObjectPath { text, key })
    }
}

/// Maximum numbers of lines in one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Lines in total.
    pub(crate) lines: usize,
    /// Distinct hosts.
    pub(crate) hosts: Option<usize>,
    /// Lines per host.
    pub(crate) per_host: Option<usize>,
}

/// Parses all lines, without empty ones and duplicates, in the order of their first occurrence. The result is empty if
/// there are none.
pub(crate) fn read_lines(text: &str, shape: Shape, limits: Limits, rules: Rules) -> Result<Vec<ObjectPath>, Fault> {
    // Shells may send a line feed as the two characters `
    // `; this is recognised if a URL follows.
    let lines = if text.contains("\\nhttp") {
        bounded(text.lines().flat_map(|line| line.split("\\n")).map(|line| line.trim_end_matches("\\r")))
    } else {
        bounded(text.lines())
    };
    if lines.len() > LINES_PER_CALL_MAX {
        return Err(Fault::OverLimit);
    }
    if lines.len() > limits.lines {
        return Err(Fault::TooManyLines);
    }

    let mut seen = HashSet::new();
    let mut paths: Vec<ObjectPath> = Vec::with_capacity(lines.len());
    for line in lines {
        let line = if rules.unescape_paths { unescaped(line) } else { line.into() };
        let path = ObjectPath::read(&line, shape)?;
        if seen.insert(path.key.clone()) {
            paths.push(path);
        }
    }
    let mut per_host = HashMap::<&str, usize>::new();
    for path in &paths {
        *per_host.entry(path.key.host()).or_default() += 1;
    }
    let too_many_hosts = limits.hosts.is_some_and(|max| per_host.len() > max);
    let too_many_of_one = limits.per_host.is_some_and(|max| per_host.values().any(|count| *count > max));
    if too_many_hosts || too_many_of_one {
        return Err(Fault::TooManyLines);
    }
    Ok(paths)
}

/// A line that is evidently escaped twice, with one level undone; any other line unchanged. The second escaping turns
/// spaces into `+`.
fn unescaped(line: &str) -> Cow<'_, str> {
    let twice = ["%3F", "%3f", "%25"].iter().any(|escape| line.contains(escape)) && !line.contains('?');
    if !twice {
        return line.into();
    }
    let spaced = line.replace('+', " ");
    match percent_encoding::percent_decode_str(&spaced).decode_utf8() {
        Ok(once) => once.into_owned().into(),
        Err(_) => line.into(), // not what such a client sends
    }
}

/// Trims lines, drops empty ones, and stops one line above the maximum of any profile.
fn bounded<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines.map(str::trim).filter(|line| !line.is_empty()).take(LINES_PER_CALL_MAX + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: Limits = Limits { lines: LINES_PER_CALL_MAX, hosts: None, per_host: None };

    #[test]
    fn lines_are_read_as_the_page_says() {
        use Fault::{ObjectPath as Bad, WildcardHost};
        use Shape::{Any, Directory, File, IgnoreParams, Prefetch, Regex};
        let cases = [
            // shape     line                                expected
            (Prefetch, "http://example.com/a.png", Ok("http://example.com/a.png")),
            (Prefetch, "HTTPS://Example.COM/A.png", Ok("https://example.com/A.png")),
            (Prefetch, "example.com/a.png", Ok("http://example.com/a.png")),
            (Prefetch, "example.com:443/a", Ok("http://example.com/a")),
            (Prefetch, "example.com:8080/a", Err(Bad)),
            (Prefetch, "example.com/a?x=http://b/", Ok("http://example.com/a?x=http://b/")),
            (Prefetch, "example.com/a#frag", Ok("http://example.com/a")),
            (Prefetch, "example.com/中 文.png", Ok("http://example.com/%E4%B8%AD%20%E6%96%87.png")),
            (Prefetch, "example.com/a%2Fb", Ok("http://example.com/a%2Fb")), // not decoded
            (Prefetch, "example.com", Err(Bad)),
            (Prefetch, "example.com/dir/", Err(Bad)), // a directory
            (Prefetch, "example.com/dir/?a=1", Ok("http://example.com/dir/?a=1")),
            (Prefetch, "http://*.example.com/a", Err(WildcardHost)),
            (Prefetch, ".example.com/a", Err(WildcardHost)),
            (Prefetch, "ftp://example.com/a", Err(Bad)),
            (Prefetch, "http://user@example.com/a", Err(Bad)),
            (Prefetch, "http:///a", Err(Bad)),
            (Prefetch, "/a", Err(Bad)),
            (Prefetch, "example.com/a\u{1}b", Err(Bad)),
            (Prefetch, "a.com/1,b.com/2", Ok("http://a.com/1,b.com/2")), // commas are not separators
            (File, "http://example.com/", Ok("http://example.com/")),
            (File, "http://example.com", Err(Bad)),
            (Directory, "http://example.com/", Ok("http://example.com/")),
            (Directory, "example.com/dir/", Ok("http://example.com/dir/")),
            (Directory, "example.com/dir", Err(Bad)),
            (Directory, "example.com/dir/?a=/", Err(Bad)),
            (Directory, ".example.com/", Ok("http://.example.com/")), // our own: all of a wildcard domain
            (Directory, ".example.com/dir/", Err(WildcardHost)),
            (Directory, "*.example.com/", Err(WildcardHost)),
            (File, ".example.com/", Err(WildcardHost)),
            (Regex, "^http://example.com/[a-z]/.*$", Ok("http://example.com/[a-z]/.*")),
            (Regex, "example.com/[^/]*/x", Ok("http://example.com/[^/]*/x")),
            (Regex, "http://[a-z].example.com/x", Err(Bad)), // the host is literal
            (Regex, "http://.*/x", Err(WildcardHost)),
            (Regex, "http://example.com", Err(Bad)),
            (IgnoreParams, "https://example.com/x?a=1&b=/", Ok("https://example.com/x?a=1&b=/")), // shown as submitted
            (Any, "^example.com/x$", Ok("http://example.com/x")),
            (Any, "example.com/x$", Ok("http://example.com/x$")),
        ];
        for (shape, line, expected) in cases {
            let got = ObjectPath::read(line, shape).map(|path| path.text);
            assert_eq!(got, expected.map(str::to_owned), "{shape:?} {line}");
        }
        let longest = format!("a.com/{}", "x".repeat(LINE_CHARACTERS_MAX - 6));
        assert!(ObjectPath::read(&longest, File).is_ok());
        assert_eq!(ObjectPath::read(&format!("{longest}x"), File), Err(Bad));
        // Each character takes nine bytes in a URL: nodes refuse it, so it cannot be prefetched.
        let long = |characters| format!("a.com/{}", "中".repeat(characters));
        assert!(ObjectPath::read(&long(910), Prefetch).is_ok() && ObjectPath::read(&long(911), File).is_ok());
        assert_eq!(ObjectPath::read(&long(911), Prefetch), Err(Bad));
    }

    #[test]
    fn lines_that_differ_in_what_is_ignored_are_one() {
        let text = "a.com/x?1\nhttps://a.com/x?2\na.com/x\na.com/y?1";
        let keys: Vec<String> = read_lines(text, Shape::IgnoreParams, NO_LIMIT, Rules::default())
            .unwrap()
            .iter()
            .map(|path| path.key.to_string())
            .collect();
        assert_eq!(keys, ["a.com/x", "a.com/y"]);
    }

    #[test]
    fn separators_are_line_feeds_in_every_costume() {
        let cases = [
            ("a.com/1\na.com/2", 2),
            ("a.com/1\r\na.com/2\r\n\r\n", 2),
            ("  a.com/1  \n\n\ta.com/2\n", 2),
            (r"http://a.com/1\nhttp://a.com/2\r\nhttp://a.com/3", 3), // two characters, from a shell
            (r"a.com/1\next", 1),                                     // a backslash in a name
            ("http://a.com/1\nhttps://a.com/1\na.com/1", 1),          // one object
            (" \n\r\n", 0),
        ];
        for (text, count) in cases {
            assert_eq!(read_lines(text, Shape::File, NO_LIMIT, Rules::default()).unwrap().len(), count, "{text:?}");
        }
    }

    #[test]
    fn lines_that_were_escaped_twice_are_unescaped_where_the_operator_chose_so() {
        let rules = Rules { unescape_paths: true, ..Rules::default() };
        let cases = [
            // line                               read literally                       unescaped once
            ("a.com/x%3Fa%3D1", "a.com/x%3Fa%3D1", "a.com/x?a=1"),
            ("a.com/%25E4%25B8%25AD", "a.com/%25E4%25B8%25AD", "a.com/%E4%B8%AD"),
            ("a.com/a%2520b+c", "a.com/a%2520b+c", "a.com/a%20b%20c"),
            ("a.com/x?a=%253D", "a.com/x?a=%253D", "a.com/x?a=%253D"), // has a query, so it was escaped once
            ("a.com/a%20b", "a.com/a%20b", "a.com/a%20b"),
            ("a.com/%25%FF", "a.com/%25%FF", "a.com/%25%FF"), // not valid text when unescaped
        ];
        for (line, literally, once) in cases {
            for (rules, expected) in [(Rules::default(), literally), (rules, once)] {
                let paths = read_lines(line, Shape::File, NO_LIMIT, rules).unwrap();
                assert_eq!(paths[0].key.to_string(), expected, "{line} {rules:?}");
            }
        }
    }

    #[test]
    fn each_limit_has_its_fault() {
        let lines = |count: usize| (0..count).map(|n| format!("a.com/{n}\n")).collect::<String>();
        let hosts = |count: usize| (0..count).map(|n| format!("h{n}.a.com/x\n")).collect::<String>();
        let limits = Limits { lines: 100, hosts: Some(10), per_host: Some(50) };
        let cases = [
            (lines(50), Ok(50)),
            (lines(51), Err(Fault::TooManyLines)), // all of one host
            (lines(101), Err(Fault::TooManyLines)),
            (lines(1000), Err(Fault::TooManyLines)),
            (lines(1001), Err(Fault::OverLimit)),
            (lines(10_000), Err(Fault::OverLimit)),
            (hosts(10), Ok(10)),
            (hosts(11), Err(Fault::TooManyLines)),
        ];
        for (text, expected) in cases {
            let got = read_lines(&text, Shape::File, limits, Rules::default()).map(|paths| paths.len());
            assert_eq!(got, expected, "{} lines", text.lines().count());
        }
    }
}
