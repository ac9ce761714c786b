//! The index of invalidations: the newest log entry that covers a key, in bounded time.
//!
//! A lookup makes one probe for the URL, one for the URL without its query, one for each directory above it, one for
//! its domain, one for each tag of the body, and tries the few regexes above the body's stamp. Neither the size of the
//! index nor the number of objects in the store matters (promise P6). An empty index is probed like a full one, so that
//! a refresh makes no later hit more expensive. Keys are 128-bit hashes: a collision could only cause a revalidation,
//! never keep a body that is covered.
//!
//! Tags are known only once there is a body. A fetch that begins does not know which tags its response will carry, so
//! it needs the newest tag entry of the domain, whatever the tag ([`About::Fetch`]). Otherwise a child would ask a
//! lagging parent without the fence of a refresh that covers the response, stamp the response as if it reflected that
//! refresh, and serve it for ever.
//!
//! # What always holds
//!
//! - The floor stands in for every forgotten entry: it is raised before entries are dropped. Where the store was not
//!   swept of what the forgotten entries deleted, the floor deletes ([`Index::delete_below`]).
//! - An answer reflects every entry whose [`Index::add`] returned before the lookup.
//! - A host or a tag header that changes hands makes bodies be revalidated, and so do functions that make other keys or
//!   keep responses differently: older entries were written against the configuration they were accepted under.
//! - Entries are translated from URLs to keys, under which bodies are stored ([`keyed`]). A regex that may match some
//!   URL of a key covers the key.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::HeaderMap;
use model::mistake::{Mistake, made};
use model::{Domain, DomainName, Entry, Invalidation, Knowledge, Mode, Revision, Scope, Tags, UrlKey, fence};

use xxhash_rust::xxh3::xxh3_128;

use regexes::Regexes;

mod regexes;

/// Room for host and path of most keys; longer ones are joined on the heap to be hashed.
const KEY_BYTES_INLINE: usize = 256;

/// Locks per kind of scope: entries are added rarely and looked up by every request.
const SHARDS: usize = 64;

/// The result of a lookup for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// A body must reflect this: the larger of the floor and the newest entry that covers the key.
    pub(crate) revision: Revision,
    /// The newest covering entry that says *delete*.
    pub(crate) deleted: Revision,
}

impl Need {
    /// How a body with `stamp` below `revision` is treated: *delete* wins when any entry it missed says so.
    pub(crate) fn mode(&self, stamp: Revision) -> Mode {
        if self.deleted > stamp { Mode::Delete } else { Mode::Expire }
    }
}

/// The subject of a lookup.
#[derive(Clone, Copy)]
pub(crate) enum About<'a> {
    /// A body. Entries at or below its stamp may be left out of the answer.
    Body {
        /// The revision the body reflects.
        stamp: Revision,
        /// The headers that name its tags; `None` when they are incomplete, as in a 304.
        headers: Option<&'a HeaderMap>,
    },
    /// Any response that a fetch which begins now may bring.
    Fetch,
}

/// The newest entries of one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Newest {
    any: Revision,
    deleting: Revision,
}

impl Newest {
    fn take(&mut self, revision: Revision, mode: Mode) {
        self.any = self.any.max(revision);
        if mode == Mode::Delete {
            self.deleting = self.deleting.max(revision);
        }
    }

    fn with(self, other: Newest) -> Newest {
        Newest { any: self.any.max(other.any), deleting: self.deleting.max(other.deleting) }
    }
}

/// A hasher for keys that are hashes already.
#[derive(Default)]
pub(crate) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    /// Called at the end of a string, whose bytes are hashed already.
    fn write_u8(&mut self, end: u8) {
        self.0 ^= u64::from(end);
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64;
    }
}

type Map = HashMap<u128, Newest, BuildHasherDefault<Uniform>>;

/// The entries of one kind of scope.
struct Kind {
    shards: Vec<RwLock<Map>>,
    /// Entries in all shards.
    count: AtomicUsize,
}

impl Kind {
    fn new() -> Kind {
        // An empty map is not probed at all. One dummy entry makes a probe cost the same from the first real entry on.
        let nobody = || RwLock::new(Map::from_iter([(u128::MAX, Newest::default())]));
        Kind { shards: (0..SHARDS).map(|_| nobody()).collect(), count: AtomicUsize::new(0) }
    }

    fn shard(&self, key: u128) -> &RwLock<Map> {
        &self.shards[key as usize % SHARDS]
    }

    fn add(&self, key: u128, revision: Revision, mode: Mode) {
        let mut newest = Newest::default();
        newest.take(revision, mode);
        self.put(key, newest);
    }

    fn put(&self, key: u128, newest: Newest) {
        let mut shard = self.shard(key).write().expect("no holder of this lock can panic");
        if !shard.contains_key(&key) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        let kept = shard.entry(key).or_default();
        *kept = kept.with(newest);
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn get(&self, key: u128) -> Newest {
        self.shard(key).read().expect("no holder of this lock can panic").get(&key).copied().unwrap_or_default()
    }

    fn forget(&self, upto: Revision) {
        for shard in &self.shards {
            let mut shard = shard.write().expect("no holder of this lock can panic");
            let before = shard.len();
            shard.retain(|key, newest| newest.any > upto || *key == u128::MAX);
            shard.shrink_to_fit();
            self.count.fetch_sub(before - shard.len(), Ordering::SeqCst);
        }
    }
}

/// The index of a node.
pub(crate) struct Index {
    files: Kind,
    directories: Kind,
    /// Paths without their query.
    paths: Kind,
    regexes: Regexes,
    tags: Kind,
    /// The newest entry of any tag, by domain; derived from `tags`.
    tagged: Kind,
    domains: Kind,
    /// Names of removed domains, by which the hosts they served are found.
    removed: Kind,
    floor: AtomicU64,
    /// The entries up to here that are no longer in the index may include some that said *delete*.
    forgotten: AtomicU64,
}

impl Index {
    /// An index without entries.
    pub(crate) fn new(floor: Revision) -> Index {
        Index {
            files: Kind::new(),
            directories: Kind::new(),
            paths: Kind::new(),
            regexes: Regexes::new(),
            tags: Kind::new(),
            tagged: Kind::new(),
            domains: Kind::new(),
            removed: Kind::new(),
            floor: AtomicU64::new(floor.0),
            forgotten: AtomicU64::new(0),
        }
    }

    fn tables(&self) -> [&Kind; 7] {
        [&self.files, &self.directories, &self.paths, &self.tags, &self.tagged, &self.domains, &self.removed]
    }

    /// Adds the invalidations in a log entry, if there are any. `before` is the domain that an [`Entry::Domain`]
    /// changes, as it was; `None` when there was none, or its earlier state is unknown.
    pub(crate) fn add(&self, revision: Revision, entry: &Entry, before: Option<&Domain>) {
        match entry {
            Entry::Invalidate(invalidations) => {
                for Invalidation { scope, mode } in invalidations {
                    self.add_scope(revision, scope, *mode);
                }
            }
            Entry::DomainRemoved(name) => self.removed.add(hash(name.as_str(), ""), revision, Mode::Delete),
            // A new domain may take hosts over from a wildcard domain, to which earlier tags and refreshes applied.
            Entry::Domain(domain) if before.is_none_or(|before| is_kept_otherwise(before, domain)) => {
                // Earlier refreshes of this domain did not apply to the domain whose keys it shares from now on.
                for name in std::iter::once(&domain.name).chain(&domain.functions.rules().key.share) {
                    self.domains.add(hash(name.as_str(), ""), revision, Mode::Expire);
                }
            }
            Entry::Domain(_)
            | Entry::Certificate(_)
            | Entry::CertificateRemoved(_)
            | Entry::Pop(_)
            | Entry::Member(_)
            | Entry::MemberRemoved(_)
            | Entry::Settings(_) => {}
        }
    }

    fn add_scope(&self, revision: Revision, scope: &Scope, mode: Mode) {
        match scope {
            Scope::File(key) => self.files.add(key.hash(), revision, mode),
            Scope::Directory { host, path } => self.directories.add(hash(host, path), revision, mode),
            Scope::IgnoreParams { host, path } => self.paths.add(hash(host, path), revision, mode),
            Scope::Regex(pattern) => self.regexes.add(pattern, revision, mode, |folded| {
                self.directories.put(hash(&folded.host, "/"), folded.newest);
            }),
            Scope::Tag { domain, tag } => {
                self.tags.add(tag_hash(domain, tag.as_str().as_bytes()), revision, mode);
                self.tagged.add(hash(domain.as_str(), ""), revision, mode);
            }
            Scope::Domain(name) => self.domains.add(hash(name.as_str(), ""), revision, mode),
        }
    }

    /// The revision that a body of `key`, served for `domain`, must reflect.
    pub(crate) fn need(&self, domain: Option<&Domain>, key: &UrlKey, about: About<'_>) -> Need {
        // The floor is read last: it can only rise during the other reads, and covers whatever they miss.
        let newest = self.newest(domain, key, about);
        let floor = if made(Mistake::FloorNotJudged) { Revision::ZERO } else { self.floor() };
        let forgotten = Revision(self.forgotten.load(Ordering::SeqCst));
        Need { revision: fence::need(floor, Some(newest.any)), deleted: newest.deleting.max(forgotten) }
    }

    /// The newest entries that cover `key`, as far as they are not forgotten.
    fn newest(&self, domain: Option<&Domain>, key: &UrlKey, about: About<'_>) -> Newest {
        let mut newest = Newest::default();
        let host = key.host().len();
        joined(key.host(), key.path_and_query(), |bytes| {
            let hash = xxh3_128(bytes);
            // Regexes before directories, into which they are folded.
            newest = match about {
                About::Body { stamp, .. } => {
                    let joined = domain.is_some_and(|domain| domain.functions.rules().key.joins_queries());
                    self.regexes.above(stamp, key, hash, joined)
                }
                About::Fetch => self.regexes.newest(key.host()),
            };
            newest = newest.with(self.files.get(hash));
            newest = newest.with(self.paths.get(xxh3_128(&bytes[..host + key.path().len()])));
            for directory in key.directories() {
                newest = newest.with(self.directories.get(xxh3_128(&bytes[..host + directory.len()])));
            }
        });
        if self.removed.count() > 0 {
            for name in DomainName::candidates(key.host()) {
                newest = newest.with(self.removed.get(hash(name, "")));
            }
        }
        match domain {
            Some(domain) => {
                let hash = hash(domain.name.as_str(), "");
                newest.with(self.domains.get(hash)).with(self.tagged(domain, hash, about))
            }
            // The domain is gone, but others may share its keys: entries of its scope and every tag count.
            None => {
                let hash = hash(key.host(), "");
                newest.with(self.domains.get(hash)).with(self.tagged.get(hash))
            }
        }
    }

    /// The fence of a request to a parent (fence rule 2).
    pub(crate) fn fence(&self, domain: Option<&Domain>, key: &UrlKey) -> Revision {
        match made(Mistake::FloorNotInFence) {
            true => self.newest(domain, key, About::Fetch).any,
            false => self.need(domain, key, About::Fetch).revision,
        }
    }

    /// The newest tag entries that cover the subject of the lookup; `hash` is the domain's.
    fn tagged(&self, domain: &Domain, hash: u128, about: About<'_>) -> Newest {
        let any = self.tagged.get(hash);
        let About::Body { stamp, headers } = about else { return any };
        if any.any <= stamp {
            return Newest::default();
        }
        match headers.map(|headers| Tags::of(headers, domain.tag_header.as_deref())) {
            None | Some(Tags::Any) => any,
            Some(Tags::Named(tags)) => tags
                .iter()
                .fold(Newest::default(), |newest, tag| newest.with(self.tags.get(tag_hash(&domain.name, tag)))),
        }
    }

    /// Entries up to here may have been forgotten.
    pub(crate) fn floor(&self) -> Revision {
        Revision(self.floor.load(Ordering::SeqCst))
    }

    /// Raises the floor, then drops the entries it covers (rule 9). The caller has made the floor durable.
    pub(crate) fn forget(&self, upto: Revision) {
        if !made(Mistake::SnapshotWithoutFloor) {
            self.floor.fetch_max(upto.0, Ordering::SeqCst);
        }
        for kind in self.tables() {
            kind.forget(upto);
        }
        self.regexes.forget(upto);
    }

    /// Starts over with another log, whose revisions say nothing about earlier ones. The caller sends nothing
    /// meanwhile.
    pub(crate) fn restart(&self, floor: Revision) {
        for kind in self.tables() {
            kind.forget(Revision(u64::MAX));
        }
        self.regexes.restart();
        self.floor.store(if made(Mistake::JoinsWithoutFloor) { 0 } else { floor.0 }, Ordering::SeqCst);
        self.delete_below(floor);
    }

    /// Deletes everything below `floor`: the store was not swept for *delete* entries that are missing here. Nobody may
    /// be sent those bodies, not even once the origin confirms them, because the domain may belong to another account
    /// by now.
    pub(crate) fn delete_below(&self, floor: Revision) {
        self.forgotten.store(floor.0, Ordering::SeqCst);
    }

    /// Scopes held now, by kind, each with the label that metrics give it.
    pub(crate) fn kinds(&self) -> [(&'static str, usize); 6] {
        [
            ("kind=\"file\"", self.files.count()),
            ("kind=\"directory\"", self.directories.count()),
            ("kind=\"ignore_params\"", self.paths.count()),
            ("kind=\"regex\"", self.regexes.count()),
            ("kind=\"tag\"", self.tags.count()),
            ("kind=\"domain\"", self.domains.count() + self.removed.count()),
        ]
    }

    /// Keys whose regex results are remembered, and the bound of their number.
    pub(crate) fn answers(&self) -> (usize, usize) {
        self.regexes.answers()
    }

    /// Scopes held now.
    pub(crate) fn len(&self) -> usize {
        self.kinds().iter().map(|(_, live)| live).sum()
    }
}

/// Translates an entry to keys: what it says of a URL applies to every key that the domain makes of that URL.
pub(crate) fn keyed<'a>(entry: &'a Entry, domains: &Knowledge) -> Cow<'a, Entry> {
    let Entry::Invalidate(invalidations) = entry else { return Cow::Borrowed(entry) };
    let in_keys = |scope: &Scope| {
        let domain = match scope {
            Scope::File(url) => domains.domain_for(url.host()),
            Scope::Directory { host, .. } | Scope::IgnoreParams { host, .. } => domains.domain_for(host),
            Scope::Regex(pattern) => domains.domain_for(pattern.host()),
            Scope::Tag { domain, .. } | Scope::Domain(domain) => domains.domain(domain.as_str()),
        }?;
        let rule = &domain.functions.rules().key;
        // Bodies name their tags by the tag header of the domain whose keys they have.
        let other =
            |name: &DomainName| domains.domain(name.as_str()).is_none_or(|of| of.tag_header != domain.tag_header);
        match (scope, &rule.share) {
            (Scope::Tag { .. }, Some(share)) if other(share) => Some(vec![Scope::Domain(share.clone()), scope.clone()]),
            _ => rule.in_keys(scope),
        }
    };
    let said: Vec<Option<Vec<Scope>>> = invalidations.iter().map(|one| in_keys(&one.scope)).collect();
    if said.iter().all(Option::is_none) {
        return Cow::Borrowed(entry);
    }
    let all = invalidations.iter().zip(said).flat_map(|(one, scopes)| {
        let scopes = scopes.unwrap_or_else(|| vec![one.scope.clone()]);
        scopes.into_iter().map(|scope| Invalidation { scope, mode: one.mode })
    });
    Cow::Owned(Entry::Invalidate(all.collect()))
}

/// Whether responses kept for a domain mean something else now.
fn is_kept_otherwise(before: &Domain, now: &Domain) -> bool {
    before.tag_header != now.tag_header || now.functions.keep_otherwise(&before.functions)
}

/// The hash of a host and a path. A host cannot contain a `/`, with which every path begins.
fn hash(host: &str, path: &str) -> u128 {
    joined(host, path, xxh3_128)
}

/// Passes on `host` and `path` joined; every directory of a key is then a prefix that need not be copied again.
fn joined<T>(host: &str, path: &str, then: impl FnOnce(&[u8]) -> T) -> T {
    let (middle, end) = (host.len(), host.len() + path.len());
    if end > KEY_BYTES_INLINE {
        return then(&[host.as_bytes(), path.as_bytes()].concat());
    }
    let mut bytes = [0; KEY_BYTES_INLINE];
    bytes[..middle].copy_from_slice(host.as_bytes());
    bytes[middle..end].copy_from_slice(path.as_bytes());
    then(&bytes[..end])
}

/// The hash of a domain's tag. A domain name cannot contain a zero byte.
fn tag_hash(domain: &DomainName, tag: &[u8]) -> u128 {
    let mut state = xxhash_rust::xxh3::Xxh3::new();
    state.update(domain.as_str().as_bytes());
    state.update(b"\0");
    state.update(tag);
    state.digest128()
}

#[cfg(test)]
mod tests;
