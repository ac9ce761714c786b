//! From arguments to calls: resolving URLs, and splitting them into calls.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};

use super::Stop;

/// Maximum number of URLs in one command; more is a mistake, or needs a program of its own.
const URLS_MAX: usize = 1_000_000;

/// Maximum number of hosts in one call, a limit of the API.
const HOSTS_PER_CALL: usize = 10;

/// Resolves arguments in order: `@FILE` and `-` (`stdin`) contain one URL per line, anything else is a URL itself.
/// Blank lines and lines beginning with `#` are skipped, and duplicate URLs are dropped.
pub(super) fn read(arguments: &[String], mut stdin: impl Read) -> Result<Vec<String>, Stop> {
    let mut urls = Urls::default();
    for argument in arguments {
        if argument == "-" {
            urls.lines(BufReader::new(&mut stdin), "standard input")?;
        } else if let Some(path) = argument.strip_prefix('@') {
            let file = std::fs::File::open(path).map_err(|error| Stop::usage(format_args!("open {path}: {error}")))?;
            urls.lines(BufReader::new(file), path)?;
        } else {
            urls.add(argument)?;
        }
    }
    if urls.list.is_empty() {
        return Err(Stop::usage("no URL given"));
    }
    Ok(urls.list)
}

#[derive(Default)]
struct Urls {
    list: Vec<String>,
    seen: HashSet<String>,
}

impl Urls {
    fn lines(&mut self, reader: impl BufRead, name: &str) -> Result<(), Stop> {
        for line in reader.lines() {
            let line = line.map_err(|error| Stop::usage(format_args!("read {name}: {error}")))?;
            if !line.starts_with('#') {
                self.add(line.trim())?;
            }
        }
        Ok(())
    }

    fn add(&mut self, url: &str) -> Result<(), Stop> {
        if url.contains(['\n', '\r']) {
            return Err(Stop::usage("a URL holds a line break; give each URL as an argument or a line of its own"));
        }
        if url.is_empty() || !self.seen.insert(url.to_owned()) {
            return Ok(());
        }
        if self.list.len() == URLS_MAX {
            return Err(Stop::usage(format_args!("more than {URLS_MAX} URLs")));
        }
        self.list.push(url.to_owned());
        Ok(())
    }
}

/// Splits URLs into calls of at most `per_call` URLs and [`HOSTS_PER_CALL`] hosts, in order.
pub(super) fn calls(urls: &[String], per_call: usize) -> Vec<&[String]> {
    let mut calls = Vec::new();
    let (mut begin, mut hosts) = (0, HashSet::new());
    for (at, url) in urls.iter().enumerate() {
        let new_host = !hosts.contains(host(url));
        if at - begin == per_call || (new_host && hosts.len() == HOSTS_PER_CALL) {
            calls.push(&urls[begin..at]);
            begin = at;
            hosts.clear();
        }
        hosts.insert(host(url));
    }
    if begin < urls.len() {
        calls.push(&urls[begin..]);
    }
    calls
}

/// The host of a URL, with or without a scheme; only compared, never trusted.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', ':']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn arguments_files_and_stdin_are_one_list() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "http://a/2\r\n\n# a comment\n  http://a/3  \nhttp://a/1\n").unwrap();
        let arguments = texts(&["http://a/1", &format!("@{}", file.path().display()), "-", "http://a/5"]);
        let urls = read(&arguments, &b"http://a/4\n"[..]);
        assert_eq!(urls.unwrap(), ["http://a/1", "http://a/2", "http://a/3", "http://a/4", "http://a/5"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let cases = [
            (texts(&["@/nowhere/at/all"]), "/nowhere/at/all"),
            (texts(&["-"]), "no URL given"), // an empty input
            (texts(&["http://a/1\nhttp://a/2"]), "line break"),
        ];
        for (arguments, expected) in cases {
            match read(&arguments, &b""[..]) {
                Err(Stop::Usage(problem)) => assert!(problem.contains(expected), "{problem}"),
                other => panic!("{arguments:?}: {other:?}"),
            }
        }
        assert!(matches!(read(&texts(&["-"]), &b"\xff\n"[..]), Err(Stop::Usage(_))), "not UTF-8");
    }

    #[test]
    fn calls_hold_what_the_api_takes() {
        let sizes = |urls: &[String], per_call| calls(urls, per_call).iter().map(|call| call.len()).collect::<Vec<_>>();
        let one_host: Vec<String> = (0..250).map(|n| format!("http://a.test/{n}")).collect();
        assert_eq!(sizes(&one_host, 100), [100, 100, 50]);
        assert_eq!(sizes(&one_host[..100], 100), [100]);
        assert_eq!(sizes(&one_host[..2], 1), [1, 1]);
        let hosts: Vec<String> =
            (0..12).flat_map(|n| [format!("h{n}.test/1"), format!("http://h{n}.test/2")]).collect();
        assert_eq!(sizes(&hosts, 100), [20, 4], "ten hosts a call");
    }
}
