//! A node's current knowledge, shared by everything that serves: what the log adds up to, the index, the node's
//! standing.
//!
//! Only the link writes it; every request reads it without waiting. The order of writes and reads makes the fence hold
//! inside a node (assumption 8): an entry is in the index before `applied` shows it, and `contact` moves only when the
//! head named in a heartbeat's answer is applied. A reader that reads contact, then applied, then the knowledge, then
//! the index therefore sees an index at least as new as the rest. A domain's entry is in the index before its knowledge
//! is published, so no body is judged by a new configuration with an index that has not seen it.
//!
//! # What always holds
//!
//! - A body is judged while holding a [`Judging`], which lives until the header it allowed is handed to the kernel or
//!   dropped. [`Knowing::drained`] waits for those taken before it, so an acknowledgement never overtakes a header
//!   (rule 6).
//! - Only [`fence::contact`] computes `contact`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use model::fence::{self, Asker, Fetch, Standing, Verdict, Vouched};
use model::mistake::{Mistake, made};
use model::{Clock, Entry, Isolation, Knowledge, LogId, Mode, Moment, NodeName, Revision, UrlKey};
use tokio::sync::{Notify, watch};

use crate::figures::Sites;
use crate::index::{About, Index, Need, keyed};
use crate::journal::Remembered;

/// Heads that heartbeats named and that are not applied yet. The oldest is dropped first, which only delays contact.
const TOLD_MAX: usize = 64;

/// The log that a body's stamp belongs to, in eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogTag(pub u64);

impl LogTag {
    /// The tag of a log.
    pub(crate) fn of(log: &LogId) -> LogTag {
        LogTag(xxhash_rust::xxh3::xxh3_64(log.0.as_bytes()))
    }
}

/// Whether the node may serve anybody (rule 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It has not been welcomed yet.
    Joining,
    /// A member: the promises are made for it.
    Member,
    /// It is not a member.
    Refused {
        /// Why not.
        reason: String,
    },
}

/// Everything that changes together as entries of the log are applied.
pub(crate) struct Known {
    /// Domains, topology, settings.
    pub(crate) knowledge: Knowledge,
    /// The log's identity.
    pub(crate) log: LogId,
    /// A short tag of that identity.
    pub(crate) tag: LogTag,
    /// The credential that nodes show each other.
    pub(crate) peer_credential: String,
    /// Whether the node may serve.
    pub(crate) membership: Membership,
    /// The numbers under which its domains are counted.
    pub(crate) sites: Sites,
    /// How users are served once the lease is over: *serve* only once the log says so of this member.
    isolation: Isolation,
}

/// Counts judged headers that are not on their way yet, by the parity of their epoch.
struct Drain {
    epoch: AtomicUsize,
    judging: [AtomicUsize; 2],
    left: Notify,
    /// One drain at a time.
    draining: tokio::sync::Mutex<()>,
}

impl Drain {
    /// Waits until no header of an epoch with this parity is outstanding.
    async fn emptied(&self, epoch: usize) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.judging[epoch % 2].load(Ordering::SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

/// What a node knows. One per node.
pub(crate) struct Knowing {
    name: NodeName,
    wanted: Isolation,
    clock: Arc<dyn Clock>,
    index: Index,
    known: ArcSwap<Known>,
    applied: watch::Sender<Revision>,
    applied_now: AtomicU64,
    /// Nanoseconds since the clock's zero, plus one; zero means never.
    contact: AtomicU64,
    told: Mutex<Vec<(Moment, Revision)>>,
    drain: Arc<Drain>,
}

/// The names under which a body is requested.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The key the body is stored under.
    pub(crate) key: &'a UrlKey,
    /// The host that was requested: that of the key, unless another domain shares the key.
    pub(crate) site: &'a str,
}

impl<'a> Named<'a> {
    /// A request for the key under its own host.
    pub(crate) fn own(key: &'a UrlKey) -> Named<'a> {
        Named { key, site: key.host() }
    }
}

/// The right to judge a body, and then the promise that its header is on its way (rule 6).
pub(crate) struct Judging {
    drain: Arc<Drain>,
    epoch: usize,
    /// When the lease stops allowing what was judged; `None` when nothing was judged or the lease is waived.
    until: Option<Moment>,
}

impl Drop for Judging {
    fn drop(&mut self) {
        if self.drain.judging[self.epoch % 2].fetch_sub(1, Ordering::SeqCst) == 1 {
            self.drain.left.notify_waiters();
        }
    }
}

/// The guard's verdict on a body, and what it was based on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// What the index says of the key.
    pub(crate) need: Need,
    /// How long ago the body was last known good, as a child is told.
    pub(crate) age: Option<Duration>,
}

impl Judged {
    /// How a body that may not be sent is treated.
    pub(crate) fn mode(&self, stamp: Revision) -> Mode {
        match self.verdict {
            Verdict::Covered => self.need.mode(stamp),
            Verdict::Send | Verdict::Unvouched => Mode::Expire,
        }
    }
}

impl Knowing {
    /// The knowledge a node starts with: that of its journal, or none. There is no contact yet (rule 4).
    pub(crate) fn new(
        name: NodeName,
        wanted: Isolation,
        clock: Arc<dyn Clock>,
        remembered: Option<Remembered>,
    ) -> Knowing {
        let (known, applied, index) = match remembered {
            None => {
                let log = LogId(String::new());
                let sites = Sites::default();
                let known =
                    Known::new(&name, wanted, Knowledge::default(), sites, log, String::new(), Membership::Joining);
                (known, Revision::ZERO, Index::new(Revision::ZERO))
            }
            Some(remembered) => {
                let index = Index::new(remembered.floor);
                if remembered.swept < remembered.floor {
                    index.delete_below(remembered.floor);
                }
                // The state of a domain before the first entry still in the journal is unknown.
                let mut before = Knowledge::default();
                // So is the way keys were made: until the first entry that tells, assume the present one. Where that is
                // wrong, that entry makes every body of the domain be revalidated.
                let mut keys = remembered.knowledge.clone();
                for (revision, entry) in &remembered.entries {
                    learn(&index, &mut before, *revision, &keyed(entry, &keys));
                    keys.apply(entry);
                }
                let identity = remembered.identity;
                let sites = Sites::default().anew(&remembered.knowledge, remembered.applied);
                let known = Known::new(
                    &name,
                    wanted,
                    remembered.knowledge,
                    sites,
                    identity.log,
                    identity.peer_credential,
                    Membership::Member,
                );
                (known, remembered.applied, index)
            }
        };
        let contact = if made(Mistake::ContactSurvivesRestart) { nanos(clock.moment()) } else { 0 };
        Knowing {
            name,
            wanted,
            clock,
            index,
            known: ArcSwap::from_pointee(known),
            applied: watch::Sender::new(applied),
            applied_now: AtomicU64::new(applied.0),
            contact: AtomicU64::new(contact),
            told: Mutex::default(),
            drain: Arc::new(Drain {
                epoch: AtomicUsize::new(0),
                judging: [AtomicUsize::new(0), AtomicUsize::new(0)],
                left: Notify::new(),
                draining: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// The node's name.
    pub(crate) fn name(&self) -> &NodeName {
        &self.name
    }

    /// The node's clock.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What the log adds up to.
    pub(crate) fn known(&self) -> arc_swap::Guard<Arc<Known>> {
        self.known.load()
    }

    /// The key that a URL is stored under.
    pub(crate) fn key_of(&self, url: &UrlKey) -> UrlKey {
        let known = self.known();
        known.knowledge.domain_for(url.host()).map_or_else(|| url.clone(), |domain| domain.functions.key(url))
    }

    /// The index of invalidations.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Every entry up to here is in the index.
    pub(crate) fn applied(&self) -> Revision {
        Revision(self.applied_now.load(Ordering::SeqCst))
    }

    /// Notifies when `applied` rises.
    pub(crate) fn applied_changes(&self) -> watch::Receiver<Revision> {
        self.applied.subscribe()
    }

    /// When the node last knew that it had applied the head of the log.
    pub(crate) fn contact(&self) -> Option<Moment> {
        let nanos = self.contact.load(Ordering::SeqCst);
        nanos.checked_sub(1).map(|nanos| Moment::at(Duration::from_nanos(nanos)))
    }

    /// Whether the node serves users in full: it is a member, and its lease is running or waived.
    pub(crate) fn is_ready(&self) -> bool {
        let known = self.known();
        let leased =
            self.contact().is_some_and(|contact| self.clock.moment().since(contact) < known.knowledge.settings.lease());
        known.serves() && (leased || (known.isolation == Isolation::Serve && self.contact().is_some()))
    }

    /// Announces a judgement. Hold it until the header it allows is handed to the kernel or dropped.
    pub(crate) fn judging(&self) -> Judging {
        loop {
            let epoch = self.drain.epoch.load(Ordering::SeqCst);
            self.drain.judging[epoch % 2].fetch_add(1, Ordering::SeqCst);
            let judging = Judging { drain: self.drain.clone(), epoch, until: None };
            // A count in an epoch that is over could be missed by the drain of the epoch before the next.
            if self.drain.epoch.load(Ordering::SeqCst) == epoch {
                return judging;
            }
        }
    }

    /// Waits until every header that was judged before this call is on its way or dropped.
    pub(crate) async fn drained(&self) {
        let _one = self.drain.draining.lock().await;
        let epoch = self.drain.epoch.load(Ordering::SeqCst);
        // First the headers of the epoch before this one, in case the drain that should have waited for them was
        // abandoned.
        self.drain.emptied(epoch + 1).await;
        self.drain.epoch.store(epoch + 1, Ordering::SeqCst);
        self.drain.emptied(epoch).await;
    }

    /// Judges a body for `asker` now (rule 3). `None` when the node serves nobody, does not serve this host, or has
    /// switched to another log since the body was requested. `headers` are those that came with the body and name its
    /// tags.
    pub(crate) fn judge(
        &self,
        held: &mut Judging,
        body: Vouched,
        of: LogTag,
        named: Named<'_>,
        headers: Option<&HeaderMap>,
        asker: Asker,
    ) -> Option<Judged> {
        // The order matters; see the module head. The clock is read last (assumption 3).
        let contact = self.contact();
        let applied = self.applied();
        let known = self.known();
        if !known.serves() || known.tag != of {
            return None;
        }
        // The domain as it is now, not when the body was requested: hosts and tag headers change hands through the log
        // too.
        let Named { key, site } = named;
        let served = known.knowledge.domain_for(site).filter(|domain| domain.online)?;
        let domain = if site == key.host() { Some(served) } else { known.knowledge.domain_for(key.host()) };
        let need = self.index.need(domain, key, About::Body { stamp: body.stamp, headers });
        let node = Standing { applied, contact, lease: known.knowledge.settings.lease(), isolation: known.isolation };
        let now = self.clock.moment();
        let verdict = fence::judge(body, need.revision, asker, &node, now);
        let age = fence::age(body, contact, now);
        let leased = matches!(asker, Asker::Child { .. }) || node.isolation != Isolation::Serve;
        held.until = age.filter(|_| leased).map(|age| now.later(node.lease.saturating_sub(age)));
        Some(Judged { verdict, need, age })
    }

    /// Whether a header that was judged but is not on its way might be judged differently now: an entry was applied
    /// since, or the lease that allowed it is over.
    pub(crate) fn is_overtaken(&self, judging: &Judging) -> bool {
        let over = judging.until.is_some_and(|until| self.clock.moment() >= until);
        over || self.drain.epoch.load(Ordering::SeqCst) != judging.epoch
    }

    /// Records the start of a fetch (rules 1 and 2). Call it before anything is sent.
    pub(crate) fn begin_fetch(&self, key: &UrlKey, asker: Asker) -> (Fetch, LogTag) {
        let tag = self.known().tag;
        let applied = self.applied();
        let known = self.known();
        let need = self.index.fence(known.knowledge.domain_for(key.host()), key);
        (Fetch::begin(self.clock.moment(), applied, asker.fence(), need), tag)
    }

    /// Whether `asker` may wait for a fetch that is running.
    pub(crate) fn may_join(&self, fetch: &Fetch, of: LogTag, key: &UrlKey, asker: Asker) -> bool {
        let applied = self.applied();
        self.known().tag == of && fetch.may_join(applied, asker.fence(), self.need_of_fetch(key))
    }

    /// What any response to a fetch of `key` must reflect.
    fn need_of_fetch(&self, key: &UrlKey) -> Revision {
        let known = self.known();
        self.index.need(known.knowledge.domain_for(key.host()), key, About::Fetch).revision
    }

    /// Applies entries that the journal has made durable: first to the index, then to the knowledge, then to `applied`.
    pub(crate) fn apply(&self, first: Revision, entries: &[Entry]) {
        assert!(first == self.applied().next(), "went from {} to {first}", self.applied());
        let mut last = self.applied();
        let known = self.known.load_full();
        let mut knowledge = std::borrow::Cow::Borrowed(&known.knowledge);
        let mut removed = BTreeSet::new();
        for entry in entries {
            last = last.next();
            if let Entry::DomainRemoved(name) = entry {
                removed.insert(name.clone());
            }
            match entry {
                Entry::Invalidate(_) => self.index.add(last, &keyed(entry, &knowledge), None),
                _ => learn(&self.index, knowledge.to_mut(), last, entry),
            }
        }
        if let std::borrow::Cow::Owned(knowledge) = knowledge {
            let sites = known.sites.next(&known.knowledge, &knowledge, &removed, last);
            self.publish(knowledge, sites, &known.log, &known.peer_credential, known.membership.clone());
        }
        self.show_applied(last);
    }

    /// Continues from a snapshot of the same log that is ahead of this node: `applied = floor =` its revision (rule 9).
    pub(crate) fn skip_to(&self, revision: Revision, knowledge: Knowledge) {
        self.index.forget(revision);
        let known = self.known.load_full();
        // A snapshot does not tell whether a domain belonged to another account in between.
        let sites = known.sites.anew(&knowledge, revision);
        self.publish(knowledge, sites, &known.log, &known.peer_credential, known.membership.clone());
        self.show_applied(revision);
    }

    /// Starts from a snapshot as a new member, of this log or another (rule 8). Nobody is served meanwhile.
    pub(crate) async fn join(&self, log: LogId, peer_credential: String, revision: Revision, knowledge: Knowledge) {
        let known = self.known.load_full();
        let before = (known.knowledge.clone(), known.sites.clone());
        self.publish(before.0, before.1, &known.log, &known.peer_credential, Membership::Joining);
        self.drained().await;
        self.contact.store(0, Ordering::SeqCst);
        self.told().clear();
        self.index.restart(revision);
        self.applied_now.store(revision.0, Ordering::SeqCst);
        // What was counted under another log's revisions belongs to nobody in this one.
        let sites = known.sites.without_names().anew(&knowledge, revision);
        self.publish(knowledge, sites, &log, &peer_credential, Membership::Member);
        self.show_applied(revision);
    }

    /// Replaces the credential that nodes show each other.
    pub(crate) fn set_peer_credential(&self, peer_credential: &str) {
        let known = self.known.load_full();
        let sites = known.sites.clone();
        self.publish(known.knowledge.clone(), sites, &known.log, peer_credential, Membership::Member);
    }

    /// Stops serving anybody.
    pub(crate) fn refuse(&self, reason: String) {
        let known = self.known.load_full();
        let refused = Membership::Refused { reason };
        self.publish(known.knowledge.clone(), known.sites.clone(), &known.log, &known.peer_credential, refused);
    }

    fn publish(&self, knowledge: Knowledge, sites: Sites, log: &LogId, peer_credential: &str, membership: Membership) {
        let (log, peer_credential) = (log.clone(), peer_credential.to_owned());
        let known = Known::new(&self.name, self.wanted, knowledge, sites, log, peer_credential, membership);
        self.known.store(Arc::new(known));
    }

    fn show_applied(&self, revision: Revision) {
        self.applied_now.store(revision.0, Ordering::SeqCst);
        self.applied.send_replace(revision);
        let told = std::mem::take(&mut *self.told());
        for (sent, head) in told {
            self.heard(sent, head);
        }
    }

    /// Takes the answer to a heartbeat that was sent at `sent` (rule 4). It is kept until the head it names is applied.
    pub(crate) fn heard(&self, sent: Moment, head: Revision) {
        let sent = if made(Mistake::ContactOnReceipt) { self.clock.moment() } else { sent };
        let applied = self.applied();
        let contact = fence::contact(self.contact(), sent, head, applied);
        if let Some(contact) = contact {
            self.contact.fetch_max(nanos(contact), Ordering::SeqCst);
        }
        if head > applied {
            let mut told = self.told();
            if told.len() >= TOLD_MAX {
                told.remove(0);
            }
            told.push((sent, head));
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Vec<(Moment, Revision)>> {
        self.told.lock().expect("no holder of this lock can panic")
    }
}

/// A moment as a number in which zero means never.
fn nanos(moment: Moment) -> u64 {
    let nanos = moment.since(Moment::at(Duration::ZERO)).as_nanos();
    u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1
}

/// Adds an entry to the index, then to the knowledge that the entries before it add up to.
fn learn(index: &Index, before: &mut Knowledge, revision: Revision, entry: &Entry) {
    let domain = match entry {
        Entry::Domain(domain) => before.domain(domain.name.as_str()),
        _ => None,
    };
    index.add(revision, entry, domain);
    before.apply(entry);
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("log", &self.log).field("membership", &self.membership).finish_non_exhaustive()
    }
}

impl Known {
    fn new(
        name: &NodeName,
        wanted: Isolation,
        knowledge: Knowledge,
        sites: Sites,
        log: LogId,
        peer_credential: String,
        membership: Membership,
    ) -> Known {
        let agreed = knowledge.topology.members.get(name).map(|member| member.isolation);
        let isolation = if wanted == Isolation::Serve && agreed == Some(Isolation::Serve) {
            Isolation::Serve
        } else {
            Isolation::Revalidate
        };
        // A node that reads its own removal in the log need not wait for the control plane to say so.
        let membership = match membership {
            Membership::Member if agreed.is_none() => Membership::Refused { reason: "node was removed".to_owned() },
            other => other,
        };
        Known { tag: LogTag::of(&log), knowledge, sites, log, peer_credential, membership, isolation }
    }

    /// Whether the node may serve anybody at all.
    pub(crate) fn serves(&self) -> bool {
        self.membership == Membership::Member
    }
}
