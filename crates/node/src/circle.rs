//! Requests that come back: a site whose origin is the site itself, or another that leads back to it.
//!
//! Whoever is asked as an origin is told by whom and for which site, in `CDN-Loop` (RFC 8586), which nobody on the way may take away. A
//! user's request that says so of the very site it asks for would go round for ever.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::knowing::LogTag;

/// RFC 8586 §2.
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// A member of the list: these nodes, by their log, and the site.
fn member(of: LogTag, site: &str) -> String {
    format!("warmfront-{:016x};site={site}", of.0)
}

/// Says to an origin who asks, and for which site.
pub(crate) fn tell(headers: &mut HeaderMap, of: LogTag, site: &str) {
    if let Ok(member) = HeaderValue::try_from(member(of, site)) {
        headers.append(CDN_LOOP, member);
    }
}

/// Whether these nodes sent out a request for the site, and it is this one.
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
