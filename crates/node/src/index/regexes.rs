//! The live regular expressions, by host, and remembered results of matching them.
//!
//! Only trying a regex tells whether it matches, so their number is bounded: beyond the bound the oldest becomes a
//! refresh of the whole host at its own revision, which revalidates more than necessary and keeps nothing that should
//! go. Only live regexes above a body's stamp are tried, and the result is remembered for the key, so a hit pays once.
//!
//! # What always holds
//!
//! - A remembered result holds for all regexes added up to a point, whatever was folded or forgotten since.
//! - Results are remembered under the whole key, never its hash alone: a collision would keep a body that must be
//!   revalidated.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use model::{Mode, Pattern, Revision, UrlKey};

use super::{Newest, Uniform};

/// Live regexes of one host. A domain that is not a wildcard has one host.
pub(super) const PER_HOST_MAX: usize = 64;

/// Live regexes of all hosts.
pub(super) const REGEXES_MAX: usize = 4096;

const SHARDS: usize = 64;

/// Keys per shard whose results are remembered; a full shard is emptied.
const KEYS_MAX: usize = 2048;

/// The regexes of a node.
pub(super) struct Regexes {
    live: ArcSwap<Live>,
    /// Serializes changes of `live`.
    changing: Mutex<()>,
}

/// The state at one moment.
#[derive(Clone, Default)]
struct Live {
    /// The regexes of each host in the order they were added, so by rising revision.
    hosts: HashMap<Arc<str>, Arc<[One]>, BuildHasherDefault<Uniform>>,
    count: usize,
    /// How many were ever added. Several may share a revision, so a revision does not tell whether all of them were
    /// tried.
    added: u64,
    /// The newest revision among those.
    newest: Revision,
    /// Shared by all states of one log; new with another log, whose revisions say nothing about earlier ones.
    answers: Arc<Answers>,
}

#[derive(Clone)]
struct One {
    pattern: Pattern,
    newest: Newest,
    added: u64,
}

/// A host's oldest regex that had to make room: the index takes it as a refresh of the host.
pub(super) struct Folded {
    pub(super) host: Arc<str>,
    pub(super) newest: Newest,
}

/// The result of matching a key against the regexes of its host.
#[derive(Clone, Copy, Default)]
struct Answer {
    /// The value of `added` up to which regexes, of any host, are included.
    upto: u64,
    newest: Newest,
    /// Matched against URLs with other queries too.
    joined: bool,
}

/// By the key's hash, with the key itself beside the answer.
type Remembered = HashMap<u128, (UrlKey, Answer), BuildHasherDefault<Uniform>>;

struct Answers(Vec<Mutex<Remembered>>);

impl Default for Answers {
    fn default() -> Self {
        Answers((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Answers {
    fn shard(&self, hash: u128) -> MutexGuard<'_, Remembered> {
        self.0[hash as usize % SHARDS].lock().expect("no holder of this lock can panic")
    }
}

impl Regexes {
    pub(super) fn new() -> Regexes {
        Regexes { live: ArcSwap::default(), changing: Mutex::default() }
    }

    /// Regexes live now.
    pub(super) fn count(&self) -> usize {
        self.live.load().count
    }

    /// Keys whose results are remembered now, and the bound of their number.
    pub(super) fn answers(&self) -> (usize, usize) {
        let lock = |shard: &Mutex<Remembered>| shard.lock().expect("no holder of this lock can panic").len();
        (self.live.load().answers.0.iter().map(lock).sum(), SHARDS * KEYS_MAX)
    }

    /// Adds a regex. `fold` is called with every regex that no longer has room, before that one is dropped here.
    pub(super) fn add(&self, pattern: &Pattern, revision: Revision, mode: Mode, fold: impl Fn(Folded)) {
        let _changing = self.changing.lock().expect("no holder of this lock can panic");
        let mut live = Live::clone(&self.live.load());
        let of_host = live.hosts.get(pattern.host()).cloned().unwrap_or_default();
        let before = of_host.iter().find(|one| one.pattern == *pattern).map_or(Newest::default(), |one| one.newest);
        let mut newest = before;
        newest.take(revision, mode);
        live.added += 1;
        live.newest = live.newest.max(revision);
        let one = One { pattern: pattern.clone(), newest, added: live.added };
        let others = of_host.iter().filter(|one| one.pattern != *pattern).cloned();
        let all: Vec<One> = others.chain([one]).collect();
        live.count = live.count + all.len() - of_host.len();
        let full = all.len() > PER_HOST_MAX;
        live.hosts.insert(pattern.host().into(), all.into());
        if full {
            live.fold(pattern.host(), &fold);
        }
        if live.count > REGEXES_MAX {
            let oldest = live.hosts.iter().min_by_key(|(_, all)| all.first().map(|one| one.newest.any));
            if let Some(host) = oldest.map(|(host, _)| host.clone()) {
                live.fold(&host, &fold);
            }
        }
        self.live.store(Arc::new(live));
    }

    /// The newest regexes above `stamp` that match `key`, whose hash is `hash`; those at or below `stamp` may be left
    /// out. A `joined` key stands for URLs with other queries too.
    pub(super) fn above(&self, stamp: Revision, key: &UrlKey, hash: u128, joined: bool) -> Newest {
        let live = self.live.load();
        if live.newest <= stamp {
            return Newest::default();
        }
        let remembered = live.answers.shard(hash).get(&hash).filter(|(of, _)| of == key).map(|(_, answer)| *answer);
        let remembered = remembered.filter(|answer| answer.joined == joined);
        let mut answer = remembered.unwrap_or(Answer { joined, ..Answer::default() });
        if answer.upto == live.added {
            return answer.newest;
        }
        let Some(all) = live.hosts.get(key.host()) else { return Newest::default() };
        if all.last().is_none_or(|last| last.newest.any <= stamp) {
            return Newest::default();
        }
        for one in all.iter().rev().take_while(|one| one.added > answer.upto) {
            if one.pattern.matches(key) || (joined && one.pattern.may_match(key)) {
                answer.newest = answer.newest.with(one.newest);
            }
        }
        answer.upto = live.added;
        let mut shard = live.answers.shard(hash);
        if shard.len() >= KEYS_MAX && !shard.contains_key(&hash) {
            shard.clear();
        }
        shard.insert(hash, (key.clone(), answer));
        answer.newest
    }

    /// The newest regex of a host, whether it matches or not.
    pub(super) fn newest(&self, host: &str) -> Newest {
        self.live.load().hosts.get(host).and_then(|all| all.last()).map_or(Newest::default(), |last| last.newest)
    }

    /// Drops the regexes that a floor at `upto` covers.
    pub(super) fn forget(&self, upto: Revision) {
        let _changing = self.changing.lock().expect("no holder of this lock can panic");
        let mut live = Live::clone(&self.live.load());
        live.hosts.retain(|_, all| {
            if all.first().is_some_and(|oldest| oldest.newest.any <= upto) {
                *all = all.iter().filter(|one| one.newest.any > upto).cloned().collect();
            }
            !all.is_empty()
        });
        live.count = live.hosts.values().map(|all| all.len()).sum();
        self.live.store(Arc::new(live));
    }

    /// Drops everything, including remembered results.
    pub(super) fn restart(&self) {
        let _changing = self.changing.lock().expect("no holder of this lock can panic");
        self.live.store(Arc::default());
    }
}

impl Live {
    /// Drops the oldest regex of `host`, after handing it to `fold`.
    fn fold(&mut self, host: &str, fold: &impl Fn(Folded)) {
        let Some((host, all)) = self.hosts.get_key_value(host) else { return };
        let (host, all) = (host.clone(), all.clone());
        let Some((oldest, rest)) = all.split_first() else { return };
        fold(Folded { host: host.clone(), newest: oldest.newest });
        self.count -= 1;
        if rest.is_empty() {
            self.hosts.remove(&host);
        } else {
            self.hosts.insert(host, rest.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(host: &str, path: &str) -> Pattern {
        Pattern::parse(UrlKey::new(host, path).unwrap()).unwrap()
    }

    fn never(folded: Folded) {
        panic!("a regex of {} was folded", folded.host)
    }

    #[test]
    fn regex_added_at_the_same_revision_as_one_that_was_tried_is_tried_too() {
        let regexes = Regexes::new();
        let key = UrlKey::new("a.com", "/x").unwrap();
        regexes.add(&pattern("a.com", "/y.*"), Revision(5), Mode::Expire, never);
        assert_eq!(regexes.above(Revision(1), &key, key.hash(), false).any, Revision::ZERO);
        regexes.add(&pattern("a.com", "/x.*"), Revision(5), Mode::Expire, never);
        assert_eq!(regexes.above(Revision(1), &key, key.hash(), false).any, Revision(5));
        assert_eq!(
            regexes.above(Revision(5), &key, key.hash(), false).any,
            Revision::ZERO,
            "what the body reflects need not be said"
        );
    }

    #[test]
    fn pattern_issued_again_takes_one_place_and_keeps_that_it_deletes() {
        let regexes = Regexes::new();
        let key = UrlKey::new("a.com", "/x").unwrap();
        for revision in 1..200 {
            let mode = if revision == 7 { Mode::Delete } else { Mode::Expire };
            regexes.add(&pattern("a.com", "/x.*"), Revision(revision), mode, never);
            let said = regexes.above(Revision::ZERO, &key, key.hash(), false);
            let deleting = if revision < 7 { Revision::ZERO } else { Revision(7) };
            assert_eq!(
                said,
                Newest { any: Revision(revision), deleting },
                "an answer that was remembered is not the last"
            );
        }
        assert_eq!(regexes.count(), 1);
    }

    #[test]
    fn oldest_is_handed_on_when_a_host_or_the_node_has_no_room() {
        let regexes = Regexes::new();
        let folded = Mutex::new(Vec::new());
        let fold = |one: Folded| folded.lock().unwrap().push((one.host.to_string(), one.newest.any));
        for revision in 1..=PER_HOST_MAX as u64 + 2 {
            regexes.add(&pattern("a.com", &format!("/{revision}")), Revision(revision), Mode::Expire, fold);
        }
        assert_eq!(*folded.lock().unwrap(), [("a.com".to_owned(), Revision(1)), ("a.com".to_owned(), Revision(2))]);
        assert_eq!(regexes.count(), PER_HOST_MAX);

        let regexes = Regexes::new();
        folded.lock().unwrap().clear();
        for revision in 1..=REGEXES_MAX as u64 + 1 {
            regexes.add(&pattern(&format!("h{revision}.a.com"), "/x"), Revision(revision), Mode::Expire, fold);
        }
        assert_eq!(*folded.lock().unwrap(), [("h1.a.com".to_owned(), Revision(1))]);
        assert_eq!(regexes.count(), REGEXES_MAX);
    }

    #[test]
    fn another_log_begins_without_answers_of_the_old_one() {
        let regexes = Regexes::new();
        let key = UrlKey::new("a.com", "/x").unwrap();
        regexes.add(&pattern("a.com", "/x"), Revision(1_000), Mode::Expire, never);
        assert_eq!(regexes.above(Revision(1), &key, key.hash(), false).any, Revision(1_000));
        regexes.restart();
        assert_eq!(regexes.above(Revision(1), &key, key.hash(), false).any, Revision::ZERO);
        regexes.add(&pattern("a.com", "/x"), Revision(5), Mode::Expire, never);
        assert_eq!(regexes.above(Revision(1), &key, key.hash(), false).any, Revision(5));
    }
}
