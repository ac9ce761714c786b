//! Requests that loop back: a site whose origin is the site itself, or another that leads back to it.
//!
//! Every request to an origin names its sender and the site in `CDN-Loop` (RFC 8586), which intermediaries must not
//! remove. A user's request that names the very site it asks for would loop for ever.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::knowing::LogTag;

/// The `CDN-Loop` header (RFC 8586 §2).
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// A member of the list: the nodes of one log, and the site.
fn member(of: LogTag, site: &str) -> String {
    format!("warmfront-{:016x};site={site}", of.0)
}

/// Tells an origin who asks, and for which site.
pub(crate) fn tell(headers: &mut HeaderMap, of: LogTag, site: &str) {
    if let Ok(member) = HeaderValue::try_from(member(of, site)) {
        headers.append(CDN_LOOP, member);
    }
}

/// Whether a request was sent out by nodes of this log for this site, and has come back.
pub(crate) fn came_back(headers: &HeaderMap, of: LogTag, site: &str) -> bool {
    let mut lines = headers.get_all(CDN_LOOP).iter().peekable();
    if lines.peek().is_none() {
        return false;
    }
    let own = member(of, site);
    lines.any(|line| line.as_bytes().split(|byte| *byte == b',').any(|said| said.trim_ascii() == own.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_that_comes_back_is_known() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, LogTag(7), "a.com");
        headers.append(CDN_LOOP, HeaderValue::from_static("other, warmfront-0000000000000007;site=b.com , x;y=1"));
        let cases = [(7, "a.com", true), (7, "b.com", true), (7, "c.com", false), (8, "a.com", false)];
        for (tag, site, expected) in cases {
            assert_eq!(came_back(&headers, LogTag(tag), site), expected, "{tag} {site}");
        }
    }
}
