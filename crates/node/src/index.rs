//! What must be forgotten: the newest log entry that covers a key, in bounded time.
//!
//! One probe for the URL, one for each directory it lies in, one for its domain; the size of the index does not matter, nor
//! does the number of objects in the store (promise P6). An empty index is probed like a full one, so that a refresh makes no
//! hit dearer than it was. Keys are 128-bit hashes: a collision could only make a body be asked for again, never be kept.
//!
//! # What always holds
//!
//! - The floor stands in for every entry that was forgotten: it is raised before entries are dropped.
//! - An answer reflects every entry whose [`Index::add`] returned before the question.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use model::{DomainName, Entry, Invalidation, Mode, Revision, Scope, UrlKey, fence};
use xxhash_rust::xxh3::xxh3_128;

/// Host and path of most keys; what is longer is put together on the heap to be hashed.
const KEY_BYTES_INLINE: usize = 256;

/// Locks per kind of scope; entries are taken rarely and looked up by every request.
const SHARDS: usize = 64;

/// What the index says of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// A body must reflect this: the larger of the floor and the newest entry that covers the key.
    pub(crate) revision: Revision,
    /// The newest covering entry that says *delete*.
    deleted: Revision,
}

impl Need {
    /// What becomes of a body with `stamp` that does not reach `revision`. *Delete* wins when any entry it missed says so.
    pub(crate) fn mode(&self, stamp: Revision) -> Mode {
        if self.deleted > stamp { Mode::Delete } else { Mode::Expire }
    }
}

/// The newest entries of one scope.
#[derive(Clone, Copy, Default)]
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

/// Keys are hashes already.
#[derive(Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
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
        Kind { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), count: AtomicUsize::new(0) }
    }

    fn shard(&self, key: u128) -> &RwLock<Map> {
        &self.shards[key as usize % SHARDS]
    }

    fn add(&self, key: u128, revision: Revision, mode: Mode) {
        let mut shard = self.shard(key).write().expect("no holder of this lock can panic");
        if !shard.contains_key(&key) {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        shard.entry(key).or_default().take(revision, mode);
    }

    fn get(&self, key: u128) -> Newest {
        self.shard(key).read().expect("no holder of this lock can panic").get(&key).copied().unwrap_or_default()
    }

    fn forget(&self, upto: Revision) {
        for shard in &self.shards {
            let mut shard = shard.write().expect("no holder of this lock can panic");
            let before = shard.len();
            shard.retain(|_, newest| newest.any > upto);
            shard.shrink_to_fit();
            self.count.fetch_sub(before - shard.len(), Ordering::SeqCst);
        }
    }
}

/// The index of a node.
pub(crate) struct Index {
    files: Kind,
    directories: Kind,
    domains: Kind,
    floor: AtomicU64,
}

impl Index {
    /// An index without entries.
    pub(crate) fn new(floor: Revision) -> Index {
        Index { files: Kind::new(), directories: Kind::new(), domains: Kind::new(), floor: AtomicU64::new(floor.0) }
    }

    /// Takes what a log entry says is to be forgotten, if anything.
    pub(crate) fn add(&self, revision: Revision, entry: &Entry) {
        match entry {
            Entry::Invalidate(invalidations) => {
                for Invalidation { scope, mode } in invalidations {
                    match scope {
                        Scope::File(key) => self.files.add(key.hash(), revision, *mode),
                        Scope::Directory { host, path } => self.directories.add(hash(host, path), revision, *mode),
                        Scope::Domain(name) => self.domains.add(hash(name.as_str(), ""), revision, *mode),
                    }
                }
            }
            Entry::DomainRemoved(name) => self.domains.add(hash(name.as_str(), ""), revision, Mode::Delete),
            Entry::Domain(_) | Entry::Pop(_) | Entry::Member(_) | Entry::MemberRemoved(_) | Entry::Settings(_) => {}
        }
    }

    /// What a body of `key`, served for `domain`, must reflect.
    pub(crate) fn need(&self, domain: &DomainName, key: &UrlKey) -> Need {
        // The floor last: it may only rise while the others are read, and covers whatever they lose.
        let mut newest = self.domains.get(xxh3_128(domain.as_str().as_bytes()));
        joined(key.host(), key.path_and_query(), |bytes| {
            newest = newest.with(self.files.get(xxh3_128(bytes)));
            for directory in key.directories() {
                newest = newest.with(self.directories.get(xxh3_128(&bytes[..key.host().len() + directory.len()])));
            }
        });
        Need { revision: fence::need(self.floor(), Some(newest.any)), deleted: newest.deleting }
    }

    /// Entries up to here may have been forgotten.
    pub(crate) fn floor(&self) -> Revision {
        Revision(self.floor.load(Ordering::SeqCst))
    }

    /// Raises the floor, then drops what it stands in for (rule 9). The caller has made the floor durable.
    pub(crate) fn forget(&self, upto: Revision) {
        self.floor.fetch_max(upto.0, Ordering::SeqCst);
        for kind in [&self.files, &self.directories, &self.domains] {
            kind.forget(upto);
        }
    }

    /// Begins with another log, whose revisions say nothing of those before. The caller sends nothing meanwhile.
    pub(crate) fn restart(&self, floor: Revision) {
        for kind in [&self.files, &self.directories, &self.domains] {
            kind.forget(Revision(u64::MAX));
        }
        self.floor.store(floor.0, Ordering::SeqCst);
    }

    /// Scopes held now.
    pub(crate) fn len(&self) -> usize {
        [&self.files, &self.directories, &self.domains].iter().map(|kind| kind.count.load(Ordering::SeqCst)).sum()
    }
}

/// A host cannot hold a `/`, with which every path begins.
fn hash(host: &str, path: &str) -> u128 {
    joined(host, path, xxh3_128)
}

/// Hands on `host` and `path` as one; every directory of a key is then a part of it that need not be copied again.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOSTS: [&str; 3] = ["a.com", "b.com", "x.a.com"];
    const PATHS: [&str; 8] = ["/", "/d/", "/d/e/", "/d/e/f", "/d/e?q=/d/", "/de/f", "/d", "/d/e/f?x"];
    const DOMAINS: [&str; 3] = ["a.com", "b.com", ".a.com"];

    fn invalidation() -> impl Strategy<Value = Invalidation> {
        let scope = (0..3_usize, 0..HOSTS.len(), 0..PATHS.len()).prop_map(|(kind, host, path)| match kind {
            0 => Scope::File(UrlKey::new(HOSTS[host], PATHS[path]).unwrap()),
            1 => Scope::Directory { host: HOSTS[host].into(), path: ["/", "/d/", "/d/e/"][path % 3].into() },
            _ => Scope::Domain(DomainName::parse(DOMAINS[host]).unwrap()),
        });
        (scope, prop_oneof![Just(Mode::Expire), Just(Mode::Delete)])
            .prop_map(|(scope, mode)| Invalidation { scope, mode })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            4 => prop::collection::vec(invalidation(), 1..3).prop_map(Entry::Invalidate),
            1 => (0..DOMAINS.len()).prop_map(|at| Entry::DomainRemoved(DomainName::parse(DOMAINS[at]).unwrap())),
            1 => Just(Entry::Settings(model::Settings::default())),
        ]
    }

    /// What an entry covers, by the words of the model alone.
    fn covers(entry: &Entry, domain: &DomainName, key: &UrlKey) -> Option<Mode> {
        match entry {
            Entry::Invalidate(all) => {
                let covering: Vec<Mode> =
                    all.iter().filter(|one| one.scope.covers(domain, key)).map(|one| one.mode).collect();
                let any = covering.first().copied();
                if covering.contains(&Mode::Delete) { Some(Mode::Delete) } else { any }
            }
            Entry::DomainRemoved(name) => (name == domain).then_some(Mode::Delete),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn index_agrees_with_looking_at_every_entry(
            log in prop::collection::vec(entry(), 0..20),
            forgotten in 0..25_u64,
            stamp in 0..25_u64,
        ) {
            let index = Index::new(Revision::ZERO);
            for (at, entry) in log.iter().enumerate() {
                index.add(Revision(at as u64 + 1), entry);
            }
            let floor = Revision(forgotten.min(log.len() as u64));
            index.forget(floor);
            for (host, domain) in [("a.com", "a.com"), ("b.com", "b.com"), ("x.a.com", ".a.com")] {
                let domain = DomainName::parse(domain).unwrap();
                for path in PATHS {
                    let key = UrlKey::new(host, path).unwrap();
                    let covering = log.iter().enumerate().map(|(at, entry)| (Revision(at as u64 + 1), covers(entry, &domain, &key)));
                    let covering: Vec<(Revision, Mode)> = covering.filter_map(|(revision, mode)| Some((revision, mode?))).collect();
                    let newest = covering.iter().map(|(revision, _)| *revision).max();
                    let need = index.need(&domain, &key);
                    prop_assert_eq!(need.revision, fence::need(floor, newest));
                    let kept = covering.iter().any(|(at, mode)| *at > floor && at.0 > stamp && *mode == Mode::Delete);
                    let all = covering.iter().any(|(at, mode)| at.0 > stamp && *mode == Mode::Delete);
                    let says = need.mode(Revision(stamp)) == Mode::Delete;
                    // What was forgotten may or may not still say *delete*; what is kept must.
                    prop_assert!(says >= kept && says <= all, "{:?} {} {} {}", need, says, kept, all);
                }
            }
        }
    }

    #[test]
    fn long_keys_are_found_like_short_ones() {
        let index = Index::new(Revision::ZERO);
        let domain = DomainName::parse("a.com").unwrap();
        for (at, length) in (1..).zip([1, KEY_BYTES_INLINE - 8, KEY_BYTES_INLINE, 4 * KEY_BYTES_INLINE]) {
            let name = "x".repeat(length);
            let file = UrlKey::new("a.com", &format!("/f/{name}")).unwrap();
            let below = UrlKey::new("a.com", &format!("/{name}/{name}")).unwrap();
            let directory = Scope::Directory { host: "a.com".into(), path: format!("/{name}/") };
            let scopes = [Scope::File(file.clone()), directory];
            let entry = scopes.map(|scope| Invalidation { scope, mode: Mode::Expire }).to_vec();
            index.add(Revision(at), &Entry::Invalidate(entry));
            assert_eq!(index.need(&domain, &file).revision, Revision(at), "a file of {length}");
            assert_eq!(index.need(&domain, &below).revision, Revision(at), "in a directory of {length}");
        }
    }

    #[test]
    fn restart_forgets_a_higher_floor() {
        let index = Index::new(Revision(1_000));
        index.add(
            Revision(1_001),
            &Entry::Invalidate(vec![Invalidation {
                scope: Scope::Directory { host: "a.com".into(), path: "/".into() },
                mode: Mode::Expire,
            }]),
        );
        index.restart(Revision(3));
        let need = index.need(&DomainName::parse("a.com").unwrap(), &UrlKey::new("a.com", "/x").unwrap());
        assert_eq!((need.revision, index.len()), (Revision(3), 0));
    }
}
