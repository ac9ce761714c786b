//! ObjectPath: the lines of a task, each a URL with or without its scheme (prefetch-refresh §4).
//!
//! # What always holds
//!
//! - A line is taken literally but for what [`UrlKey`] normalises: nothing is decoded unless the operator chose so
//!   ([`Rules::unescape_paths`]), no index page is implied.
//! - `http://`, `https://` and no scheme mean the same object; lines that do are one.
//! - Lines are counted before any is read, so a body full of them costs no more than one that fits.

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
    /// The URL with its scheme, as task lists show it; `http` when none was given.
    pub text: String,
    /// Host and path, of what it stands for: a directory's path ends in `/`, that of a line whose parameters are ignored has no
    /// query, that of a regular expression is one.
    pub key: UrlKey,
}

/// What a line must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A file to prefetch: no directory.
    Prefetch,
    /// A file to refresh. `/` is one too: the object that the site answers it with.
    File,
    /// A directory: ends in `/`.
    Directory,
    /// A regular expression over the paths of a literal host, with or without anchors.
    Regex,
    /// A path whatever its query.
    IgnoreParams,
    /// Whatever a task may have had.
    Any,
}

impl ObjectPath {
    /// Reads one line, trimmed already.
    pub(crate) fn read(line: &str, shape: Shape) -> Result<ObjectPath, Fault> {
        if line.chars().count() > LINE_CHARACTERS_MAX || line.chars().any(char::is_control) {
            return Err(Fault::ObjectPath);
        }
        // Not a byte that a URL begins with. The one at the end is one that a URL may end with.
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
        // Ours: `.example.com/` as a directory is all of a wildcard domain. The vendor's way to write one is refused, as there.
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
            // What nodes would not give to users cannot be warm.
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

/// How many lines of which kind one call may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Lines.
    pub(crate) lines: usize,
    /// Distinct hosts.
    pub(crate) hosts: Option<usize>,
    /// Lines of one host.
    pub(crate) per_host: Option<usize>,
}

/// Reads all lines: none left out, none twice, in the order of their first occurrence. Empty when there is none.
pub(crate) fn read_lines(text: &str, shape: Shape, limits: Limits, rules: Rules) -> Result<Vec<ObjectPath>, Fault> {
    // Shells send a line feed as two characters; a list of URLs shows that this was meant.
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

/// A line that shows that it was escaped twice, with one of the two undone; any other as it is. The second escape also makes
/// `+` of a space.
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

/// Lines trimmed, empty ones dropped, cut off at one more than any profile allows.
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
            (Prefetch, "example.com/dir/", Err(Bad)), // no directories
            (Prefetch, "example.com/dir/?a=1", Ok("http://example.com/dir/?a=1")),
            (Prefetch, "http://*.example.com/a", Err(WildcardHost)),
            (Prefetch, ".example.com/a", Err(WildcardHost)),
            (Prefetch, "ftp://example.com/a", Err(Bad)),
            (Prefetch, "http://user@example.com/a", Err(Bad)),
            (Prefetch, "http:///a", Err(Bad)),
            (Prefetch, "/a", Err(Bad)),
            (Prefetch, "example.com/a\u{1}b", Err(Bad)),
            (Prefetch, "a.com/1,b.com/2", Ok("http://a.com/1,b.com/2")), // commas are no separators
            (File, "http://example.com/", Ok("http://example.com/")),
            (File, "http://example.com", Err(Bad)),
            (Directory, "http://example.com/", Ok("http://example.com/")),
            (Directory, "example.com/dir/", Ok("http://example.com/dir/")),
            (Directory, "example.com/dir", Err(Bad)),
            (Directory, "example.com/dir/?a=/", Err(Bad)),
            (Directory, ".example.com/", Ok("http://.example.com/")), // ours: all of a wildcard domain
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
        // Nine bytes each in a URL: nodes do not take it, so it cannot be prefetched.
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
            ("a.com/%25%FF", "a.com/%25%FF", "a.com/%25%FF"), // no text beneath
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
            (lines(51), Err(Fault::TooManyLines)), // of one host
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
