//! Name-value pairs: parsing query strings and form bodies, and encoding with the vendor's escapes.
//!
//! Clients escape in several ways (`+` for a space, `*()'!` unescaped), and a signature covers the decoded values. So
//! pairs are always decoded and, for signing, encoded again in the one strict form of [`encode`].
//!
//! # What always holds
//!
//! - Nothing is guessed: an invalid escape or text that is not UTF-8 is an error that names the parameter.
//! - A pair without a name, or with an empty value, is kept: the signature covers it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::refusal::Refusal;

/// Maximum number of pairs of one request, query and form together. The largest legitimate call tags 50 domains with 20
/// tags.
pub const PAIRS_MAX: usize = 500;

/// Everything except letters, digits and `-_.~`, the unreserved characters of RFC 3986 §2.3.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Percent-encodes as signatures require: UTF-8 bytes as upper-case `%XX`, except letters, digits and `-_.~`.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, STRICT).to_string()
}

/// Encodes pairs as a query string or form body, in the given order.
pub fn encode_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: &[(K, V)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.extend([&encode(name.as_ref()), "=", &encode(value.as_ref())]);
    }
    out
}

/// Pairs sorted by name and encoded: what V1 and V3 sign.
pub(crate) fn canonical<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut pairs: Vec<(&str, &str)> = pairs.collect();
    pairs.sort_unstable();
    encode_pairs(&pairs)
}

/// Parses a query string or form body. `place` names it in errors.
pub(crate) fn decode(place: &str, bytes: &[u8]) -> Result<Vec<(String, String)>, Refusal> {
    let mut pairs = Vec::new();
    for piece in bytes.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty()) {
        if pairs.len() == PAIRS_MAX {
            return Err(Refusal::invalid(place, &format!("at most {PAIRS_MAX} parameters are read")));
        }
        let at = piece.iter().position(|byte| *byte == b'=');
        let (name, value) = at.map_or((piece, &[][..]), |at| (&piece[..at], &piece[at + 1..]));
        let name = unescape(name).map_err(|why| Refusal::invalid(place, &format!("a name in it has {why}")))?;
        let value = unescape(value).map_err(|why| Refusal::invalid(&name, &format!("it has {why}")))?;
        if name.chars().any(char::is_control) {
            return Err(Refusal::invalid(place, "a name in it has control characters"));
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// The value of `name`, as far as it can be decoded, for facts needed about a request that cannot be read.
pub(crate) fn find_leniently(bytes: &[u8], name: &str) -> Option<String> {
    bytes.split(|byte| *byte == b'&').take(PAIRS_MAX).find_map(|piece| {
        let value = piece.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        unescape(value).ok()
    })
}

/// `+` is a space, `%XX` a byte of UTF-8, everything else stands for itself.
fn unescape(bytes: &[u8]) -> Result<String, &'static str> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8, // at most 255: two hexadecimal digits
                    _ => return Err("a `%` that two hexadecimal digits do not follow"),
                }
            }
            byte => *byte,
        });
    }
    String::from_utf8(out).map_err(|_| "bytes that are not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_as_clients_write_them() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("a=1&b=2", &[("a", "1"), ("b", "2")]),
            ("a=+x%20y", &[("a", " x y")]),
            ("a=*()'!~", &[("a", "*()'!~")]),
            ("a=&b", &[("a", ""), ("b", "")]), // empty values are signed
            ("a=b=c", &[("a", "b=c")]),
            ("&&a=1&", &[("a", "1")]),
            ("%41=%e4%B8%ad", &[("A", "中")]),
        ];
        for (text, expected) in cases {
            let got = decode("query", text.as_bytes()).unwrap();
            let got: Vec<(&str, &str)> = got.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            assert_eq!(&got, expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let many = vec!["a=1"; PAIRS_MAX + 1].join("&");
        let cases: &[(&[u8], &str)] = &[
            (b"Area=%zz", "Area"),
            (b"Area=%4", "Area"),
            (b"Area=%", "Area"),
            (b"Area=%ff", "Area"),
            (b"Area=\xff", "Area"),
            (b"\xff=1", "query"),
            (b"a%00=1", "query"),
            (many.as_bytes(), "query"),
        ];
        for (text, named) in cases {
            let refusal = decode("query", text).unwrap_err();
            assert_eq!((refusal.status, refusal.code.as_ref()), (400, "InvalidParameter"));
            assert!(refusal.message.contains(&format!("parameter {named} ")), "{}", refusal.message);
        }
        assert_eq!(decode("query", vec!["a=1"; PAIRS_MAX].join("&").as_bytes()).unwrap().len(), PAIRS_MAX);
    }

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(encode("aZ09-_.~ +*/'!()中"), "aZ09-_.~%20%2B%2A%2F%27%21%28%29%E4%B8%AD");
    }
}
