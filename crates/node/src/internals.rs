//! A node's internals for benchmarks: its store with its index, queried and changed as `pipeline` and `link` do,
//! without sockets around them.
//!
//! Only built with the feature `internals`, which nothing but the benchmarks turns on.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use model::fence::{Asker, Verdict, Vouched};
use model::{Clock, Domain, Entry, Isolation, Knowledge, LogId, Member, Revision, Settings, Snapshot, UrlKey};
use store::{Store, WriteError};

use crate::head::{self, Head, ObjectKey, Stored};
use crate::journal::{Identity, Journal, JournalError};
use crate::knowing::{Knowing, LogTag, Named};
use crate::vouched::VouchedMoments;

/// Longer than any benchmark: no heartbeat interrupts the counting of instructions.
const LEASE_SECS: u64 = 3600;

/// A node's store, index and journal.
pub struct Inside {
    knowing: Knowing,
    store: Store,
    journal: Journal,
    vouched: VouchedMoments,
}

impl Inside {
    /// A member in contact that serves `domain`, over `store`, with a new journal in `directory`.
    pub fn open(
        directory: &Path,
        store: Store,
        member: Member,
        domain: Domain,
        clock: Arc<dyn Clock>,
    ) -> Result<Inside, JournalError> {
        let name = member.name.clone();
        let mut knowledge = Knowledge::default();
        knowledge.apply(&Entry::Member(member));
        knowledge.apply(&Entry::Domain(domain));
        knowledge.apply(&Entry::Settings(Settings { lease_secs: LEASE_SECS }));
        let log = LogId("inside".to_owned());
        let identity = Identity {
            certificate_secret: String::new(),
            log: log.clone(),
            credential: String::new(),
            peer_credential: String::new(),
            token_id: String::new(),
            ca: String::new(),
        };
        let journal = Journal::open(directory)?;
        journal.restart(Some(&identity), &Snapshot { log, revision: Revision::ZERO, knowledge })?;
        let knowing = Knowing::new(name, Isolation::Revalidate, clock, journal.load()?);
        let inside = Inside { knowing, store, journal, vouched: VouchedMoments::new() };
        inside.beat();
        Ok(inside)
    }

    /// Receives the answer to a heartbeat that names no new head.
    pub fn beat(&self) {
        self.knowing.heard(self.knowing.clock().moment(), self.knowing.applied());
    }

    /// Stores a small object under `url` as of now; visible on return.
    pub async fn store(&self, url: &UrlKey, body: Bytes) -> Result<(), WriteError> {
        let key = ObjectKey::bare(url);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("max-age=86400"));
        let now = self.knowing.clock().now();
        let head = Head::new(LogTag::of(&self.knowing.known().log), StatusCode::OK, headers, now, now).encode();
        let stamp = self.knowing.applied().0;
        let mut fill = self.store.begin_fill(key.hash(), key.bytes(), head, stamp, Some(body.len() as u64))?;
        fill.append(body).await?;
        fill.finish_visible().await.map(drop)
    }

    /// Persists an entry as the next one.
    pub fn keep(&self, entry: &Entry) -> Result<(), JournalError> {
        self.journal.append(self.knowing.applied().next(), &[model::log::encode(entry)])
    }

    /// Applies an entry as the next one: on return every judgement reflects it.
    pub fn apply(&self, entry: &Entry) {
        self.knowing.apply(self.knowing.applied().next(), std::slice::from_ref(entry));
    }

    /// Looks up what is stored under `url` and judges it for a user; `None` when nothing is stored.
    pub async fn lookup_and_judge(&self, url: &UrlKey) -> Option<Verdict> {
        let key = ObjectKey::bare(url);
        let object = self.store.lookup(key.hash(), key.bytes()).await.ok()??;
        let Some((log, Stored::Object(head))) = head::read(&object) else { return None };
        let at = self.vouched.get(key.hash(), object.generation());
        let body = Vouched { stamp: Revision(object.stamp()), at };
        let mut judging = self.knowing.judging();
        let judged = self.knowing.judge(&mut judging, body, *log, Named::own(url), Some(&head.headers), Asker::User)?;
        Some(judged.verdict)
    }

    /// Live scopes in the index.
    pub fn live(&self) -> usize {
        self.knowing.index().len()
    }
}
