//! A request for an object, once parsed: the key of the object, and how it is asked for upstream.

use std::sync::{Arc, OnceLock};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Version};
use model::fence::Asker;
use model::{Domain, Functions, NodeName, UrlKey};

use crate::fill::Purpose;
use crate::knowing::Named;
use crate::respond::Signs;
use crate::upstream::Asked;

/// A request for an object; see the head of the file.
pub(crate) struct Wanted {
    /// The key of the object; the URL that users ask for may say more.
    pub(crate) url: UrlKey,
    /// The URL to send upstream, where that is not the key.
    pub(crate) sent: Option<UrlKey>,
    pub(crate) domain: Arc<Domain>,
    pub(crate) method: Method,
    /// The HTTP version of the request.
    pub(crate) version: Version,
    /// The host that the client addressed, with the port if it gave one.
    pub(crate) authority: Authority,
    /// The request's headers, as the client sent them.
    pub(crate) headers: HeaderMap,
    /// See [`Wanted::shared`].
    pub(crate) shared: OnceLock<HeaderMap>,
    pub(crate) asker: Asker,
    pub(crate) passed: Vec<NodeName>,
    pub(crate) purpose: Purpose,
    /// A stored response will do only if it was fetched for this refetch or a later one; zero accepts any.
    pub(crate) refetch: u64,
    /// Of a prefetch: whether an earlier try failed.
    pub(crate) again: bool,
    /// The user's connection is TLS.
    pub(crate) secure: bool,
}

/// Fields by which a request names another host, path or method than its own, to origins that believe them. An answer to
/// them would be stored for everybody who asks without them, so they are sent on only where they are part of the key.
const OVERRIDES: [HeaderName; 11] = [
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-scheme"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-host"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-host"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];

impl Wanted {
    /// The key of a requested URL, and the URL to send upstream where that is another.
    pub(crate) fn named(functions: &Functions, url: UrlKey) -> (UrlKey, Option<UrlKey>) {
        let rule = &functions.rules().key;
        if (functions.shape() == 0 && rule.share.is_none()) || rule.verbatim {
            return (url, None);
        }
        let unsigned = UrlKey::new(url.host(), &rule.unsigned(url.path_and_query()));
        (functions.key(&url), Some(unsigned.unwrap_or(url)))
    }

    /// The domain by whose functions `url` is stored: unchanged, or taking `url` itself as the key, where `verbatim`
    /// asks for that and users' requests for `url` have another key. A body stored under such a key records how the key
    /// was made (`keep`), so it is never sent to a user whose request has the same key by another URL.
    pub(crate) fn kept_for(domain: &Arc<Domain>, url: &UrlKey, verbatim: bool) -> Arc<Domain> {
        if !verbatim || domain.functions.key(url) == *url {
            return domain.clone();
        }
        Arc::new(Domain { functions: domain.functions.verbatim(), ..Domain::clone(domain) })
    }

    /// The name under which it is judged.
    pub(crate) fn name(&self) -> Named<'_> {
        Named { key: &self.url, site: self.site() }
    }

    /// The host that was asked for.
    pub(crate) fn site(&self) -> &str {
        self.sent.as_ref().unwrap_or(&self.url).host()
    }

    /// The headers to send upstream for an answer that may be shared; variants are selected by these. Made on first
    /// use, because a hit without variants needs none.
    pub(crate) fn shared(&self, signs: &Signs) -> &HeaderMap {
        self.shared.get_or_init(|| {
            let mut shared = httpcache::upstream(&self.headers);
            shared.remove(HOST);
            let keyed = &self.domain.functions.rules().key.headers;
            for name in OVERRIDES.iter().filter(|name| !keyed.contains(name)) {
                shared.remove(name);
            }
            shared.append(http::header::VIA, signs.via_of(self.version));
            shared
        })
    }

    /// The URL to send upstream.
    pub(crate) fn asked(&self) -> Asked {
        let sent = self.sent.as_ref().unwrap_or(&self.url);
        Asked { host: sent.host().to_owned(), path: sent.path_and_query().to_owned(), secure: self.secure }
    }
}
