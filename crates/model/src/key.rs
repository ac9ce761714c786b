//! The key of a stored object: the host and the path with its query; the scheme is dropped.
//!
//! A URL reaches us in a user's request and in a task's ObjectPath, and both must yield the same key. Keys are
//! byte-exact except for two normalisations: hexadecimal digits of percent-escapes are upper case (RFC 3986 §6.2.2.1),
//! and bytes that are not allowed in a URL (spaces, controls, non-ASCII) are escaped. Nothing is decoded and no dot
//! segment is removed: two paths that an origin may distinguish stay distinct.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest host in bytes (RFC 1035 §2.3.4).
pub const HOST_BYTES_MAX: usize = 253;

/// Longest path with its query that nodes accept from a user, in bytes.
pub const PATH_BYTES_MAX: usize = 8 << 10;

/// Host and path-with-query of an object, normalised.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct UrlKey {
    host: String,
    /// Starts with `/`; has no fragment.
    path: String,
}

/// The serialised form of a key. Deserialising enforces the same rules as [`UrlKey::new`].
#[derive(Deserialize)]
struct Written {
    host: String,
    path: String,
}

impl TryFrom<Written> for UrlKey {
    type Error = KeyError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        UrlKey::new(&written.host, &written.path)
    }
}

/// Why a URL has no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The host is empty, too long, or holds other bytes than letters, digits, `-`, `_` and `.`.
    #[error("host must be a name of letters, digits, `-`, `_` and `.`, at most {HOST_BYTES_MAX} bytes")]
    Host,
    /// The path does not start with `/`.
    #[error("path must start with `/`")]
    Path,
}

impl UrlKey {
    /// The key of `path` (with its query) on `host`, which carries no port. A fragment is dropped.
    pub fn new(host: &str, path: &str) -> Result<UrlKey, KeyError> {
        let name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !name {
            return Err(KeyError::Host);
        }
        if !path.starts_with('/') {
            return Err(KeyError::Path);
        }
        Ok(UrlKey { host: host.to_ascii_lowercase(), path: normalise(path) })
    }

    /// The host, lower case, without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path with its query, as sent to an origin.
    pub fn path_and_query(&self) -> &str {
        &self.path
    }

    /// The path alone.
    pub fn path(&self) -> &str {
        self.path.split_once('?').map_or(&self.path, |(path, _)| path)
    }

    /// Every directory that contains the object, deepest first, each ending in `/`; the last one is `/`.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        let path = self.path();
        path.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'/').map(|(at, _)| &path[..=at])
    }

    /// A 128-bit hash of the key, for indexes. Code that stores a body under the hash must store the whole key beside
    /// it and compare: the hash is fast, but not collision-resistant against an attacker.
    pub fn hash(&self) -> u128 {
        let mut state = xxhash_rust::xxh3::Xxh3::new();
        state.update(self.host.as_bytes());
        state.update(self.path.as_bytes());
        state.digest128()
    }
}

impl fmt::Display for UrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, self.path)
    }
}

/// Normalises a path with its query: drops the fragment, upper-cases escapes, escapes bytes not allowed in a URL.
fn normalise(path: &str) -> String {
    let stands = |byte: u8| matches!(byte, 0x21..=0x7E) && !matches!(byte, b'"' | b'<' | b'>' | b'`' | b'#' | b'%');
    if path.bytes().all(stands) {
        return path.to_owned();
    }
    let path = path.split_once('#').map_or(path, |(before, _)| before).as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        match byte {
            b'%' => {
                out.push('%');
                for digit in path.iter().skip(at + 1).take(2).take_while(|b| b.is_ascii_hexdigit()) {
                    out.push(char::from(digit.to_ascii_uppercase()));
                    at += 1;
                }
            }
            0x21..=0x7E if !matches!(byte, b'"' | b'<' | b'>' | b'`') => out.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_and_submission_come_to_one_key() {
        let cases = [
            // submitted                  requested                         same
            ("/a b.png", "/a%20b.png", true),
            ("/中.png", "/%E4%B8%AD.png", true),
            ("/%e4%b8%ad.png", "/%E4%B8%AD.png", true),
            ("/a.png#top", "/a.png", true),
            ("/a%2fb", "/a/b", false), // an escaped slash is not a slash
            ("/a/../b", "/b", false),  // origins may distinguish them
            ("/a?x=1", "/a?x=2", false),
            ("/a%zz", "/a%zz", true), // not a valid escape, kept as it is
            ("/", "/index.html", false),
        ];
        for (submitted, requested, same) in cases {
            let left = UrlKey::new("Example.com", submitted).unwrap();
            let right = UrlKey::new("example.com", requested).unwrap();
            assert_eq!(left == right, same, "{submitted} and {requested}");
            assert_eq!(left.hash() == right.hash(), same, "{submitted} and {requested}");
        }
    }

    #[test]
    fn directories_run_from_the_deepest_to_the_root_and_ignore_the_query() {
        let key = UrlKey::new("a.com", "/img/2026/x.png?from=/b/").unwrap();
        assert_eq!(key.directories().collect::<Vec<_>>(), ["/img/2026/", "/img/", "/"]);
        let key = UrlKey::new("a.com", "/img/").unwrap();
        assert_eq!(key.directories().collect::<Vec<_>>(), ["/img/", "/"]);
    }

    #[test]
    fn odd_hosts_and_paths_are_refused() {
        for host in ["", "a b", "a:80", "a/b", "中.com"] {
            assert_eq!(UrlKey::new(host, "/"), Err(KeyError::Host), "{host}");
        }
        assert_eq!(UrlKey::new("a.com", "x"), Err(KeyError::Path));
    }

    #[test]
    fn what_is_read_is_held_to_the_rules() {
        let read = |text: &str| serde_json::from_str::<UrlKey>(text).ok();
        let key = UrlKey::new("a.com", "/a%20b").unwrap();
        assert_eq!(read(&serde_json::to_string(&key).unwrap()), Some(key.clone()));
        assert_eq!(read(r##"{"host":"A.com","path":"/a b#c"}"##), Some(key), "whoever wrote it");
        for bad in [r#"{"host":"","path":"/"}"#, r#"{"host":"a.com","path":"x"}"#, r#"{"host":"a.com"}"#] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    /// Reference implementation of the normalisation, one step at a time over the whole path.
    fn naive(path: &str) -> String {
        let before = path.split('#').next().unwrap_or_default();
        let stands = |byte: u8| byte.is_ascii_graphic() && !b"\"<>`".contains(&byte);
        let byte = |byte: u8| if stands(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        let escaped: String = before.bytes().map(byte).collect();
        let escapes = regex::Regex::new("%[0-9A-Fa-f]{1,2}").unwrap();
        escapes.replace_all(&escaped, |found: &regex::Captures<'_>| found[0].to_uppercase()).into_owned()
    }

    proptest::proptest! {
        #[test]
        fn keys_agree_with_the_slowest_way(path in "/(\\PC|[%#?/\"<>a-fA-F0-9]|%[0-9a-f]{2}|[ \t\u{7f}]){0,30}", host in "[a-zA-Z0-9._-]{1,12}") {
            let key = UrlKey::new(&host, &path).unwrap();
            assert_eq!((key.host(), key.path_and_query()), (host.to_lowercase().as_str(), naive(&path).as_str()));
            let path = naive(&path);
            let path = path.split('?').next().unwrap_or_default();
            assert_eq!(key.path(), path);
            let ends = (1..=path.len()).rev().filter(|end| path[..*end].ends_with('/'));
            assert!(key.directories().eq(ends.map(|end| &path[..end])), "{key}");
        }

        #[test]
        fn normalising_twice_changes_nothing(path in "/\\PC{0,40}") {
            let once = UrlKey::new("a.com", &path).unwrap();
            let twice = UrlKey::new("a.com", once.path_and_query()).unwrap();
            assert_eq!(once, twice);
            assert!(once.path_and_query().bytes().all(|b| (0x21..=0x7E).contains(&b)));
        }

        #[test]
        fn hashes_tell_keys_apart(one in "/[a-c/?]{0,4}", other in "/[a-c/?]{0,4}", hosts in proptest::sample::subsequence(vec!["a.b", "a", "a.bc"], 2)) {
            let (one, other) = (UrlKey::new(hosts[0], &one).unwrap(), UrlKey::new(hosts[1], &other).unwrap());
            assert_ne!(one.hash(), other.hash(), "{one} {other}");
        }
    }
}
