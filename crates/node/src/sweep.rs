//! The background sweep: removes from the store what entries say to delete, so that its bytes can be used again.
//!
//! Applying an entry touches no object, and a covered body is not sent whether it was swept or not. So nobody waits for
//! a sweep, and a late one costs room, never freshness. A file is looked up by its key; everything else that is pending
//! is done in one pass over the store's index, however many entries there are. After a pass the sweep rests nine times
//! as long as the pass took.
//!
//! # What always holds
//!
//! - A body is removed only if it fails part (a) of the guard, and only if an entry it missed says *delete*, or nobody
//!   can be sent it at all. The store removes exactly the version that was judged.
//! - One sweep runs at a time, including the retiring of old entries: whoever sweeps holds a [`SweepGuard`].
//! - Everything up to [`Sweeper::upto`] was swept. After a restart, the entries above it in the journal are swept
//!   again.
//!
//! # Not here
//!
//! Who may be sent which body ([`model::fence`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue};
use model::link::{SWEPT_ENTRIES_MAX, Swept as Message, SweptFor};
use model::{Entry, Invalidation, Mode, Revision, Scope, UrlKey};
use store::{Sweep, Swept, SweptObject};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::head::{self, ObjectKey, Stored};
use crate::index::{About, Need};
use crate::journal::Journal;
use crate::knowing::{Knowing, Known};
use crate::metrics::Counter;

/// Files remembered until they are swept; beyond that, one pass over the store's index handles the rest.
pub(crate) const FILES_MAX: usize = 50_000;

/// Files swept before the position is recorded and other work gets its turn.
const FILES_BATCH_MAX: usize = 256;

/// A pass is followed by a rest this many times as long.
const REST_FACTOR: u32 = 9;

/// Entries whose removed amounts are reported by revision; those of others are reported without one.
const ATTRIBUTED_MAX: usize = 20_000;

/// The least time between two reports to the control plane, and between two writes to the journal.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What remains to be swept.
#[derive(Default)]
struct Pending {
    /// By key, oldest first.
    files: VecDeque<(Revision, UrlKey)>,
    /// The oldest and the newest entry that need a pass over everything.
    pass: Option<(Revision, Revision)>,
    /// Entries up to here were seen.
    noted: Revision,
}

impl Pending {
    fn needs_pass(&mut self, revision: Revision) {
        let (oldest, newest) = self.pass.unwrap_or((revision, revision));
        self.pass = Some((oldest.min(revision), newest.max(revision)));
    }

    /// Records that a pass has handled everything up to `upto`.
    fn passed(&mut self, upto: Revision) {
        self.files.retain(|(revision, _)| *revision > upto);
        self.pass =
            self.pass.filter(|(_, newest)| *newest > upto).map(|(oldest, newest)| (oldest.max(upto.next()), newest));
    }

    /// The revision up to which nothing is left to do.
    fn done(&self) -> Revision {
        let oldest = self.files.front().map(|(revision, _)| *revision);
        let oldest = oldest.into_iter().chain(self.pass.map(|(oldest, _)| oldest)).min();
        oldest.map_or(self.noted, |oldest| Revision(oldest.0.saturating_sub(1))).min(self.noted)
    }
}

/// What was not reported yet.
#[derive(Default)]
struct Outbox {
    amounts: BTreeMap<Revision, (u64, u64)>,
    /// Whether anything is new, including the position.
    fresh: bool,
    told: Option<Instant>,
}

/// The progress of the sweep, and what it has removed since the node started.
#[derive(Default)]
pub(crate) struct Sweeper {
    pending: Mutex<Pending>,
    wake: Notify,
    lock: Arc<tokio::sync::Mutex<()>>,
    /// How many wait for the lock now; a pass gives it up for them.
    wanting: AtomicU64,
    wanted: Notify,
    upto: AtomicU64,
    running: AtomicBool,
    outbox: Mutex<Outbox>,
    ready: Notify,
    /// Objects removed.
    pub(crate) objects: Counter,
    /// Bytes of their bodies.
    pub(crate) bytes: Counter,
    /// Completed passes.
    pub(crate) passes: Counter,
}

/// The right to sweep, for as long as it is held.
pub(crate) struct SweepGuard(#[expect(dead_code, reason = "held, not read")] tokio::sync::OwnedMutexGuard<()>);

impl Sweeper {
    /// A sweeper for a store that was swept up to `upto`, with the entries after that. Entries up to `floor` may be
    /// missing.
    pub(crate) fn new<'a>(
        upto: Revision,
        floor: Revision,
        entries: impl IntoIterator<Item = (Revision, &'a Entry)>,
    ) -> Sweeper {
        let sweeper = Sweeper::default();
        sweeper.upto.store(upto.0, Ordering::SeqCst);
        sweeper.pending().noted = upto.max(floor);
        if upto < floor {
            sweeper.pending().pass = Some((upto.next(), floor));
        }
        for (revision, entry) in entries.into_iter().filter(|(revision, _)| *revision > upto) {
            sweeper.note(revision, std::slice::from_ref(entry));
        }
        sweeper
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no holder of this lock can panic")
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().expect("no holder of this lock can panic")
    }

    /// Records the deletions in applied entries, `first` and those after it.
    pub(crate) fn note(&self, first: Revision, entries: &[Entry]) {
        let mut pending = self.pending();
        for (at, entry) in (first.0..).map(Revision).zip(entries) {
            pending.noted = at;
            match entry {
                Entry::Invalidate(invalidations) => {
                    for Invalidation { scope, .. } in invalidations.iter().filter(|one| one.mode == Mode::Delete) {
                        match scope {
                            Scope::File(key) if pending.files.len() < FILES_MAX => {
                                pending.files.push_back((at, key.clone()));
                            }
                            _ => pending.needs_pass(at),
                        }
                    }
                }
                Entry::DomainRemoved(_) => pending.needs_pass(at),
                _ => {}
            }
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// Everything up to here was swept.
    pub(crate) fn upto(&self) -> Revision {
        Revision(self.upto.load(Ordering::SeqCst))
    }

    /// Whether a sweep is under way.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Files that wait to be swept.
    pub(crate) fn waiting(&self) -> usize {
        self.pending().files.len()
    }

    /// Takes the lock soon: a running pass gives it up, and is repeated later.
    pub(crate) async fn lock(&self) -> SweepGuard {
        if let Ok(guard) = self.lock.clone().try_lock_owned() {
            return SweepGuard(guard);
        }
        self.wanting.fetch_add(1, Ordering::SeqCst);
        self.wanted.notify_one();
        let guard = self.lock.clone().lock_owned().await;
        self.wanting.fetch_sub(1, Ordering::SeqCst);
        SweepGuard(guard)
    }

    /// Resolves when somebody wants the lock.
    async fn wanted(&self) {
        while self.wanting.load(Ordering::SeqCst) == 0 {
            self.wanted.notified().await;
        }
    }

    /// Records that the holder of the lock has swept the store of everything up to `upto`.
    pub(crate) fn retired(&self, _guard: &SweepGuard, upto: Revision, swept: Swept) {
        self.pending().passed(upto);
        self.count(Revision::ZERO, swept.dropped, swept.dropped_bytes);
        self.advance();
    }

    /// Starts over from a snapshot: entries before it are forgotten, and a pass removes what they may have deleted, and
    /// what belongs to another log. Until then nothing counts as swept.
    pub(crate) fn restart(&self, _guard: &SweepGuard, at: Revision) {
        *self.pending() = Pending { files: VecDeque::new(), pass: Some((Revision(1).min(at), at)), noted: at };
        self.outbox().amounts.clear();
        self.upto.store(0, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn count(&self, revision: Revision, objects: u64, bytes: u64) {
        if objects == 0 {
            return;
        }
        self.objects.add(objects);
        self.bytes.add(bytes);
        let mut outbox = self.outbox();
        let known = outbox.amounts.len() < ATTRIBUTED_MAX || outbox.amounts.contains_key(&revision);
        let entry = outbox.amounts.entry(if known { revision } else { Revision::ZERO }).or_default();
        *entry = (entry.0 + objects, entry.1 + bytes);
        outbox.fresh = true;
    }

    /// Updates the position; returns whether it moved forward.
    fn advance(&self) -> bool {
        let done = self.pending().done();
        let before = self.upto.fetch_max(done.0, Ordering::SeqCst);
        if before < done.0 {
            self.outbox().fresh = true;
        }
        if self.outbox().fresh {
            self.ready.notify_one();
        }
        before < done.0
    }

    /// Makes sure that a control plane that has just connected hears the position.
    pub(crate) fn tell_again(&self) {
        self.outbox().fresh = self.upto() > Revision::ZERO;
        self.ready.notify_one();
    }

    /// Waits for something to report, and returns it. Cancel safe.
    pub(crate) async fn report(&self) -> Message {
        loop {
            let wait = {
                let mut outbox = self.outbox();
                let due = outbox.told.map(|told| told + TELL_EVERY).filter(|due| *due > Instant::now());
                match (outbox.fresh, due) {
                    (true, None) => {
                        outbox.told = Some(Instant::now());
                        return self.take(&mut outbox);
                    }
                    (true, Some(due)) => Some(due),
                    (false, _) => None,
                }
            };
            match wait {
                Some(due) => tokio::time::sleep_until(due).await,
                None => self.ready.notified().await,
            }
        }
    }

    fn take(&self, outbox: &mut Outbox) -> Message {
        let mut entries = Vec::new();
        while entries.len() < SWEPT_ENTRIES_MAX
            && let Some((revision, (objects, bytes))) = outbox.amounts.pop_first()
        {
            entries.push(SweptFor { revision: revision.0, objects, bytes });
        }
        outbox.fresh = !outbox.amounts.is_empty();
        Message { upto: self.upto().0, entries }
    }

    /// Sweeps whenever there is something to sweep, until `stopping`.
    pub(crate) async fn run(
        self: Arc<Self>,
        store: store::Store,
        knowing: Arc<Knowing>,
        journal: Journal,
        stopping: CancellationToken,
    ) {
        let mut rest_until = Instant::now();
        let mut written = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = self.work(rest_until) => {}
            }
            let guard = SweepGuard(self.lock.clone().lock_owned().await);
            self.running.store(true, Ordering::SeqCst);
            let result = self.sweep_files(&store, &knowing).await;
            let passing = result.is_ok() && Instant::now() >= rest_until && self.pending().pass.is_some();
            let result = if passing {
                let began = Instant::now();
                let passed = tokio::select! {
                    biased;
                    () = stopping.cancelled() => return,
                    () = self.wanted() => Ok(()),
                    passed = self.pass(&store, &knowing) => passed,
                };
                rest_until = Instant::now() + began.elapsed() * REST_FACTOR;
                passed
            } else {
                result
            };
            self.running.store(false, Ordering::SeqCst);
            if let Err(error) = result {
                tracing::warn!(error = &error as &dyn std::error::Error, "store could not be swept");
                rest_until = Instant::now() + Duration::from_secs(1);
                tokio::time::sleep(TELL_EVERY).await;
            }
            // Written while the lock is held: a new log must not start with the position in the old one.
            if self.advance() && written.elapsed() >= TELL_EVERY {
                written = Instant::now();
                let upto = self.upto();
                if let Err(error) = journal.on(move |journal| journal.swept(upto)).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "position of the sweep is not kept");
                }
            }
            drop(guard);
            tokio::task::yield_now().await;
        }
    }

    /// Resolves when there is something to do.
    async fn work(&self, rest_until: Instant) {
        loop {
            let pass = {
                let pending = self.pending();
                if !pending.files.is_empty() || pending.done() > self.upto() {
                    return;
                }
                pending.pass.is_some()
            };
            if pass && Instant::now() >= rest_until {
                return;
            }
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(rest_until), if pass => {}
            }
        }
    }

    /// Sweeps some of the waiting files, by their keys.
    async fn sweep_files(&self, store: &store::Store, knowing: &Knowing) -> Result<(), store::WriteError> {
        let batch: Vec<(Revision, UrlKey)> = {
            let pending = self.pending();
            pending.files.iter().take(FILES_BATCH_MAX).cloned().collect()
        };
        let mut any = false;
        let mut named: Vec<(Revision, UrlKey)> = Vec::with_capacity(batch.len());
        for (revision, url) in &batch {
            let key = knowing.key_of(url);
            let too = (key != *url).then(|| (*revision, url.clone()));
            named.extend(std::iter::once((*revision, key)).chain(too));
        }
        for (revision, url) in &named {
            let bare = ObjectKey::bare(url);
            let mut beside = Beside::Nothing;
            any |= self.sweep_keys(store, knowing, &[bare], &mut beside).await?;
            match beside {
                Beside::Nothing => {}
                Beside::Variants(fields) if fields == [ACCEPT_ENCODING] => {
                    let bare = ObjectKey::bare(url);
                    let marker = store.lookup(bare.hash(), bare.bytes()).await.ok().flatten();
                    let Some(marker) = marker.map(|marker| marker.generation()) else { continue };
                    let variants: Vec<ObjectKey> = by_encoding(&ACCEPT_ENCODING, url, marker).collect();
                    any |= self.sweep_keys(store, knowing, &variants, &mut Beside::Nothing).await?;
                }
                // Unknown is by which other headers variants differ, or which slices exist; a pass finds them by their
                // URL.
                Beside::Variants(_) | Beside::Slices => self.pending().needs_pass(*revision),
            }
        }
        if any {
            store.sync_removals().await?;
        }
        self.pending().files.drain(..batch.len());
        Ok(())
    }

    /// Sweeps what is stored under `keys`; returns whether anything was removed. `beside` tells what else the store
    /// holds of a URL.
    async fn sweep_keys(
        &self,
        store: &store::Store,
        knowing: &Knowing,
        keys: &[ObjectKey],
        beside: &mut Beside,
    ) -> Result<bool, store::WriteError> {
        let keys: Vec<_> = keys.iter().map(|key| (key.hash(), key.bytes().to_vec())).collect();
        let judge = |object: &SweptObject<'_>| {
            match measure(knowing, &knowing.known(), object) {
                Some((Stored::Marker(fields), _)) => *beside = Beside::Variants(fields),
                Some((Stored::Object(head), _)) if head.slices.is_some() => *beside = Beside::Slices,
                _ => {}
            }
            verdict(knowing, object)
        };
        let swept = store.sweep_keys(&keys, judge, |object| self.count_one(knowing, object)).await?;
        Ok(swept.dropped > 0)
    }

    /// One pass over everything the store holds.
    async fn pass(&self, store: &store::Store, knowing: &Knowing) -> Result<(), store::WriteError> {
        // Entries that arrive while it runs wait for the next pass.
        let noted = self.pending().noted;
        let judge = |object: &SweptObject<'_>| verdict(knowing, object);
        let swept = store.sweep(judge, |object| self.count_one(knowing, object)).await?;
        self.pending().passed(noted);
        self.passes.inc();
        tracing::debug!(upto = noted.0, ?swept, "store swept");
        Ok(())
    }

    fn count_one(&self, knowing: &Knowing, object: &SweptObject<'_>) {
        let revision = measure(knowing, &knowing.known(), object).map_or(Revision::ZERO, |(_, need)| need.deleted);
        self.count(revision, 1, object.length);
    }
}

/// What the store holds of a URL beside its bare key.
enum Beside {
    Nothing,
    /// Variants selected by these request headers.
    Variants(Vec<HeaderName>),
    Slices,
}

/// Whether a stored body is removed.
fn verdict(knowing: &Knowing, object: &SweptObject<'_>) -> Sweep {
    let known = knowing.known();
    // Between two logs it is unknown whether a body is covered.
    if !known.serves() {
        return Sweep::Keep;
    }
    match measure(knowing, &known, object) {
        None => Sweep::Drop,
        Some((Stored::Marker(_), _)) => Sweep::Keep,
        Some((Stored::Object(_) | Stored::Slice, need)) => {
            let stamp = Revision(object.stamp);
            let covered = stamp < need.revision && need.mode(stamp) == Mode::Delete;
            if covered { Sweep::Drop } else { Sweep::Keep }
        }
    }
}

/// The keys of all variants that `Accept-Encoding` alone can select.
fn by_encoding<'a>(
    field: &'a HeaderName,
    url: &'a UrlKey,
    marker: store::Generation,
) -> impl Iterator<Item = ObjectKey> + 'a {
    httpcache::accept_encodings().filter_map(move |value| {
        let mut request = HeaderMap::new();
        request.insert(ACCEPT_ENCODING, HeaderValue::from_str(&value).ok()?);
        Some(ObjectKey::variant(url, marker, &httpcache::vary_key(std::slice::from_ref(field), &request)))
    })
}

/// Restamps with `upto` every stored body that reflects all of it, and drops the others, so that index entries up to
/// there can be forgotten (rule 9). Bodies of domains that are no longer served are dropped, too.
pub(crate) async fn retire(
    store: &store::Store,
    knowing: &Knowing,
    known: &Known,
    upto: Revision,
) -> Result<Swept, store::WriteError> {
    store
        .sweep(
            |object| match measure(knowing, known, object) {
                None => Sweep::Drop,
                Some((Stored::Marker(_), _)) => Sweep::Keep,
                // Guard (a) alone: the lease plays no part.
                Some((Stored::Object(_) | Stored::Slice, need)) if Revision(object.stamp) >= need.revision => {
                    Sweep::Restamp(upto.0)
                }
                Some((Stored::Object(_) | Stored::Slice, _)) => Sweep::Drop,
            },
            |_| {},
        )
        .await
}

/// The record under a key, and the revision it must reflect; `None` for a body that can no longer be sent to anybody:
/// its head cannot be read, or it is of another log or of a domain that is not served.
fn measure(knowing: &Knowing, known: &Known, object: &SweptObject<'_>) -> Option<(Stored, Need)> {
    let (_, stored) = head::decode(object.head).filter(|(log, _)| *log == known.tag)?;
    let url = head::url_of(object.full_key)?;
    let domain = known.knowledge.domain_for(url.host())?;
    let headers = match &stored {
        Stored::Object(head) => Some(&head.headers),
        Stored::Marker(_) | Stored::Slice => None,
    };
    let need = knowing.index().need(Some(domain), &url, About::Body { stamp: Revision(object.stamp), headers });
    Some((stored, need))
}
