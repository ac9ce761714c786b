//! Secondary keys: which variant of an object a request selects (RFC 9111 §4.1).

use std::fmt::Write;

use http::header::{ACCEPT_ENCODING, VARY};
use http::{HeaderMap, HeaderName};

use crate::directives::elements;

/// Content codings that are distinguished (RFC 9110 §8.4.1, RFC 8878, RFC 7932), in the order in which they are
/// written. Others are dropped: clients that send only those get the unencoded body.
const CODINGS: [&str; 4] = ["br", "deflate", "gzip", "zstd"];

/// `Vary` is `*`, or contains an invalid field name: no other request can be known to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Vary: *")]
pub struct VaryStar;

/// The request fields that selected a response: sorted, without duplicates.
pub fn vary_fields(response: &HeaderMap) -> Result<Vec<HeaderName>, VaryStar> {
    let mut fields = Vec::new();
    for line in response.get_all(VARY) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            match name {
                b"" => {}
                b"*" => return Err(VaryStar), // also a valid token, so checked first
                name => fields.push(HeaderName::from_bytes(name).map_err(|_| VaryStar)?),
            }
        }
    }
    fields.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    fields.dedup();
    Ok(fields)
}

/// The values of the [`vary_fields`] in a request, as bytes: equal for requests that select the same variant, different
/// otherwise. Empty if there are no fields. The encoding is stored, so it must not change.
pub fn vary_key(fields: &[HeaderName], request: &HeaderMap) -> Vec<u8> {
    let mut key = Vec::new();
    let mut add = |bytes: &[u8]| {
        // Length-prefixed, so that no value can imitate the boundary between two.
        key.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        key.extend_from_slice(bytes);
    };
    for field in fields {
        add(field.as_str().as_bytes());
        if field == ACCEPT_ENCODING {
            add(accept_encoding(request).as_bytes());
        } else if request.contains_key(field) {
            // Separate lines of one field and spaces around commas are insignificant (RFC 9110 §5.2, §5.6.1), except in
            // quotes.
            let elements: Vec<&[u8]> =
                request.get_all(field).iter().flat_map(|line| elements(line.as_bytes())).collect();
            add(b"=");
            add(&elements.join(&b","[..]));
        } else {
            add(b"");
        }
    }
    key
}

/// A request's `Accept-Encoding` reduced to what distinguishes variants: the accepted codings, sorted, without weights.
/// Empty for no field and for `identity`: both accept the unencoded body.
///
/// Weights are dropped because any accepted coding is acceptable; keeping them would store one variant per browser.
pub fn accept_encoding(request: &HeaderMap) -> String {
    let mut accepted = [None; CODINGS.len()];
    let mut others = None; // `*`
    let mut identity = None;
    for line in request.get_all(ACCEPT_ENCODING) {
        let Ok(line) = line.to_str() else { continue };
        for element in line.split(',') {
            let mut parts = element.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default().to_ascii_lowercase();
            let wanted = !parts.any(is_zero_weight);
            let coding = coding.strip_prefix("x-").unwrap_or(&coding); // RFC 9110 §8.4.1.3: x-gzip is gzip
            match coding {
                "*" => others = Some(wanted),
                "identity" => identity = Some(wanted),
                _ => {
                    if let Some(at) = CODINGS.iter().position(|known| *known == coding) {
                        accepted[at] = Some(wanted);
                    }
                }
            }
        }
    }
    let mut text = String::new();
    for (coding, wanted) in CODINGS.iter().zip(accepted) {
        if wanted.or(others).unwrap_or(false) {
            let separator = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{separator}{coding}"); // writing to a String cannot fail
        }
    }
    if identity.or(others) == Some(false) {
        text.push_str(if text.is_empty() { "identity;q=0" } else { ", identity;q=0" });
    }
    text
}

/// Every value that [`accept_encoding`] can return: all that requests can say that distinguishes variants by
/// `Accept-Encoding` alone.
pub fn accept_encodings() -> impl Iterator<Item = String> {
    (0_u32..2 << CODINGS.len()).map(|set| {
        let refused = set & 1 == 1;
        let some = CODINGS.iter().enumerate().filter(|(at, _)| set & (2 << at) != 0).map(|(_, coding)| *coding);
        some.chain(refused.then_some("identity;q=0")).collect::<Vec<_>>().join(", ")
    })
}

/// Whether a parameter is a weight of zero (RFC 9110 §12.4.2).
fn is_zero_weight(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return false };
    name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accept_encoding_is_among_the_values_it_can_have() {
        let all: std::collections::BTreeSet<String> = accept_encodings().collect();
        assert_eq!(all.len(), 32);
        for text in
            ["", "gzip", "gzip, br;q=0.5", "*", "*;q=0", "identity;q=0, x-gzip", "zstd,*;q=0", "compress", "*, br;q=0"]
        {
            let mut request = HeaderMap::new();
            request.insert(ACCEPT_ENCODING, text.parse().unwrap());
            assert!(all.contains(&accept_encoding(&request)), "{text}");
        }
        for text in all {
            let mut request = HeaderMap::new();
            request.insert(ACCEPT_ENCODING, text.parse().unwrap());
            assert_eq!(accept_encoding(&request), text, "each is its own form");
        }
    }
}
