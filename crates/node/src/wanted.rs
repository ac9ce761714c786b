//! A request for an object, as far as it is understood: under what the object lies, and how it is asked for above.

use std::sync::{Arc, OnceLock};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method, Version};
use model::fence::Asker;
use model::{Domain, Functions, NodeName, UrlKey};

use crate::fill::Purpose;
use crate::knowing::Named;
use crate::respond::Signs;
use crate::upstream::Asked;

/// See the head of the file.
pub(crate) struct Wanted {
    /// Under what the object lies; what users ask for may say more.
    pub(crate) url: UrlKey,
    /// The URL as it goes upstream, where that is not the key.
    pub(crate) sent: Option<UrlKey>,
    pub(crate) domain: Arc<Domain>,
    pub(crate) method: Method,
    /// By which version of HTTP it came.
    pub(crate) version: Version,
    /// Whom the client addressed: the host, with the port if it said one.
    pub(crate) authority: Authority,
    /// As the client sent them.
    pub(crate) headers: HeaderMap,
    /// See [`Wanted::shared`].
    pub(crate) shared: OnceLock<HeaderMap>,
    pub(crate) asker: Asker,
    pub(crate) passed: Vec<NodeName>,
    pub(crate) purpose: Purpose,
    /// What is stored will do only if it was fetched for this refetch or a later one; zero: whenever it was.
    pub(crate) refetch: u64,
    /// The user came by TLS.
    pub(crate) secure: bool,
}

impl Wanted {
    /// The key of a URL as it was asked for, and the URL as it goes upstream where that is another.
    pub(crate) fn named(functions: &Functions, url: UrlKey) -> (UrlKey, Option<UrlKey>) {
        let rule = &functions.rules().key;
        if (functions.shape() == 0 && rule.share.is_none()) || rule.verbatim {
            return (url, None);
        }
        let unsigned = UrlKey::new(url.host(), &rule.unsigned(url.path_and_query()));
        (functions.key(&url), Some(unsigned.unwrap_or(url)))
    }

    /// The domain as `url` is kept for it: as ever, or under that very URL where that is wished and users' requests for it have
    /// another key. What lies under such a key is told apart by how it was made (`keep`), so that no user is sent it whose request
    /// has that key by another URL.
    pub(crate) fn kept_for(domain: &Arc<Domain>, url: &UrlKey, verbatim: bool) -> Arc<Domain> {
        if !verbatim || domain.functions.key(url) == *url {
            return domain.clone();
        }
        Arc::new(Domain { functions: domain.functions.verbatim(), ..Domain::clone(domain) })
    }

    /// What it is judged by.
    pub(crate) fn name(&self) -> Named<'_> {
        Named { key: &self.url, site: self.site() }
    }

    /// The host that was asked.
    pub(crate) fn site(&self) -> &str {
        self.sent.as_ref().unwrap_or(&self.url).host()
    }

    /// The headers as they go upstream for an answer that is everybody's; variants are chosen by these. A hit without variants
    /// needs none.
    pub(crate) fn shared(&self, signs: &Signs) -> &HeaderMap {
        self.shared.get_or_init(|| {
            let mut shared = httpcache::upstream(&self.headers);
            shared.remove(HOST);
            shared.append(http::header::VIA, signs.via_of(self.version));
            shared
        })
    }

    /// The URL as it goes upstream.
    pub(crate) fn asked(&self) -> Asked {
        let sent = self.sent.as_ref().unwrap_or(&self.url);
        Asked { host: sent.host().to_owned(), path: sent.path_and_query().to_owned(), secure: self.secure }
    }
}
