//! The knowledge that the log adds up to, kept current in memory: every verb, session and scheduler of the process
//! reads it here.
//!
//! Writers in this process nudge the follower after a commit. What other processes write (an operator's verb, another
//! control plane) is seen at the next look, at most [`LOOK_EVERY`] later.
//!
//! The newest entries are kept too, since every session sends them on: the database is asked for them once, not once
//! per node.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{Clock, DomainName, Entry, Invalidation, Knowledge, Moment, NodeName, Revision, Scope};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::state::domains::{Doing, DomainRow};
use crate::state::log::Logged;
use crate::state::{State, StateError};

/// How often the head of the log is looked at without a nudge.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often rows are read again while a domain is being deleted: the end of a deletion, perhaps by another process,
/// has no log entry.
const DELETED_EVERY: Duration = Duration::from_secs(1);

/// Entries read at a time.
const ENTRIES_BATCH_MAX: u32 = 1000;

/// Entries kept in memory, and their bytes; a session that is further behind reads the database.
pub(crate) const TAIL_ENTRIES_MAX: usize = 4096;
const TAIL_BYTES_MAX: usize = 16 << 20;

/// Domains whose newest invalidation is remembered. When there are more, all are forgotten, and every domain counts as
/// refreshed at that moment.
const REFRESHED_MAX: usize = 4096;

/// Everything known at a head of the log.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The head.
    pub(crate) head: Revision,
    /// A moment at which this process already knew `head` to be committed.
    pub(crate) seen: Moment,
    /// What the entries up to the head add up to.
    pub(crate) knowledge: Arc<Knowledge>,
    /// Every domain with its account.
    pub(crate) domains: Arc<BTreeMap<DomainName, DomainRow>>,
    /// For each member, the last entry since the process started that made it one. Includes a member that joined again
    /// unchanged, which changes nothing in `knowledge`.
    pub(crate) joined: Arc<BTreeMap<NodeName, Revision>>,
}

/// Follows the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Following {
    known: watch::Receiver<Arc<Known>>,
    nudge: Arc<Notify>,
    /// Whether domain rows must be read again although the log has nothing new about them.
    stale: Arc<AtomicBool>,
    tail: Arc<Mutex<Tail>>,
    refreshed: Arc<Mutex<Refreshed>>,
}

/// The newest invalidation of each domain since the process began to follow the log.
#[derive(Default)]
struct Refreshed {
    of: HashMap<DomainName, Revision>,
    /// Up to here every domain may have been refreshed.
    all: Revision,
}

impl Refreshed {
    fn note(&mut self, entry: &[Invalidation], at: Revision, knowledge: &Knowledge) {
        for invalidation in entry {
            let domain = match &invalidation.scope {
                Scope::Tag { domain, .. } | Scope::Domain(domain) => Some(domain),
                Scope::File(key) => knowledge.domain_for(key.host()).map(|domain| &domain.name),
                Scope::Directory { host, .. } | Scope::IgnoreParams { host, .. } => {
                    knowledge.domain_for(host).map(|domain| &domain.name)
                }
                Scope::Regex(pattern) => knowledge.domain_for(pattern.host()).map(|domain| &domain.name),
            };
            let Some(domain) = domain else { continue };
            match self.of.get_mut(domain) {
                Some(last) => *last = at,
                None => {
                    if self.of.len() >= REFRESHED_MAX {
                        self.all_at(at);
                    }
                    self.of.insert(domain.clone(), at);
                }
            }
        }
    }

    /// Entries up to here are not known: every domain may have been refreshed.
    fn all_at(&mut self, at: Revision) {
        self.of.clear();
        self.all = self.all.max(at);
    }

    fn last(&self, domain: &DomainName) -> Revision {
        self.of.get(domain).copied().unwrap_or_default().max(self.all)
    }
}

/// The newest entries of the log, consecutive without a gap.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Logged>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, entry: Logged) {
        if self.entries.back().is_some_and(|last| entry.revision.0 != last.revision.0 + 1) {
            *self = Tail::default();
        }
        self.bytes += entry.bytes.len();
        self.entries.push_back(entry);
        while self.entries.len() > TAIL_ENTRIES_MAX || self.bytes > TAIL_BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
        }
    }

    /// At most `most` entries directly after `after`; none if the tail does not reach back that far.
    fn after(&self, after: Revision, most: usize) -> Vec<Logged> {
        let Some(first) = self.entries.front() else { return Vec::new() };
        let Some(skip) = (after.0 + 1).checked_sub(first.revision.0) else { return Vec::new() };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).take(most).cloned().collect()
    }
}

impl Following {
    /// Reads all knowledge, and follows the log until `stopping` is cancelled.
    pub(crate) async fn start(
        state: State,
        clock: Arc<dyn Clock>,
        stopping: CancellationToken,
    ) -> Result<Following, StateError> {
        let (head, knowledge) = state.knowledge().await?;
        let domains = domains(&state).await?;
        let seen = clock.moment();
        let (knowledge, domains, joined) = (Arc::new(knowledge), Arc::new(domains), Arc::default());
        let known = Known { head, seen, knowledge, domains, joined };
        let (publish, known) = watch::channel(Arc::new(known));
        let nudge = Arc::new(Notify::new());
        let nudged = nudge.clone();
        let tail = Arc::new(Mutex::new(Tail::default()));
        let stale = Arc::new(AtomicBool::new(false));
        let refreshed = Arc::new(Mutex::new(Refreshed::default()));
        let (of_tail, of_refreshed) = (tail.clone(), refreshed.clone());
        let following = Following { known, nudge, stale: stale.clone(), tail: of_tail, refreshed: of_refreshed };
        tokio::spawn(async move {
            let mut deleting_since = Instant::now();
            loop {
                tokio::select! {
                    biased;
                    () = stopping.cancelled() => return,
                    () = nudged.notified() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let before = publish.borrow().clone();
                let mut reread = stale.swap(false, Ordering::SeqCst);
                if !before.domains.values().any(|row| row.doing == Doing::Deleting) {
                    deleting_since = Instant::now();
                } else if deleting_since.elapsed() >= DELETED_EVERY {
                    deleting_since = Instant::now();
                    reread = true;
                }
                match look(&state, &before, reread, &*clock, &tail, &refreshed).await {
                    Ok(Some(known)) => {
                        publish.send_replace(Arc::new(known));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "log could not be followed")
                    }
                }
            }
        });
        Ok(following)
    }

    /// What is known now.
    pub(crate) fn now(&self) -> Arc<Known> {
        self.known.borrow().clone()
    }

    /// The newest invalidation of anything of a domain that is known by now; zero if there was none since the process
    /// started.
    pub(crate) fn refreshed(&self, domain: &DomainName) -> Revision {
        self.refreshed.lock().expect("no holder of this lock can panic").last(domain)
    }

    /// Signals whenever more is known.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Known>> {
        self.known.clone()
    }

    /// Signals that something was committed.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Signals that rows of domains were changed without a log entry.
    pub(crate) fn nudge_domains(&self) {
        self.stale.store(true, Ordering::SeqCst);
        self.nudge();
    }

    /// Waits until everything up to `revision` is known, and returns that knowledge. `None` when the process is
    /// stopping.
    pub(crate) async fn reach(&self, revision: Revision) -> Option<Arc<Known>> {
        self.nudge();
        let mut known = self.known.clone();
        known.wait_for(|known| known.head >= revision).await.ok().map(|known| known.clone())
    }

    /// At most `most` entries directly after `after`, from memory; none if memory does not reach back that far.
    pub(crate) fn entries_after(&self, after: Revision, most: usize) -> Vec<Logged> {
        self.tail.lock().expect("no holder of this lock can panic").after(after, most)
    }
}

async fn look(
    state: &State,
    before: &Known,
    reread: bool,
    clock: &dyn Clock,
    tail: &Mutex<Tail>,
    refreshed: &Mutex<Refreshed>,
) -> Result<Option<Known>, StateError> {
    let head = state.head().await?;
    let unconfigured = reread || before.domains.values().any(|row| !row.configured);
    if head == before.head && !unconfigured {
        return Ok(None);
    }
    let mut known = before.clone();
    let mut of_domains = unconfigured;
    let mut fresh = Vec::new();
    while known.head < head {
        let entries = state.entries_after(known.head, ENTRIES_BATCH_MAX).await?;
        let Some(last) = entries.last() else { break };
        if last.revision.0 - known.head.0 > entries.len() as u64 {
            refreshed.lock().expect("no holder of this lock can panic").all_at(last.revision);
        }
        known.head = last.revision;
        for logged in &entries {
            let entry = model::log::decode(&logged.bytes)
                .map_err(|error| StateError::Corrupt { what: format!("log entry {}: {error}", logged.revision) })?;
            of_domains |= matches!(
                entry,
                Entry::Domain(_) | Entry::DomainRemoved(_) | Entry::Certificate(_) | Entry::CertificateRemoved(_)
            );
            match &entry {
                Entry::Member(member) => {
                    Arc::make_mut(&mut known.joined).insert(member.name.clone(), logged.revision);
                }
                Entry::MemberRemoved(name) => {
                    Arc::make_mut(&mut known.joined).remove(name);
                }
                _ => {}
            }
            if let Entry::Invalidate(invalidations) = &entry {
                let mut refreshed = refreshed.lock().expect("no holder of this lock can panic");
                refreshed.note(invalidations, logged.revision, &known.knowledge);
            } else {
                Arc::make_mut(&mut known.knowledge).apply(&entry);
            }
        }
        fresh.extend(entries);
        let over = fresh.len().saturating_sub(TAIL_ENTRIES_MAX);
        fresh.drain(..over);
    }
    // Entries become visible in commit order, so entries up to the head that are missing are not late: they were
    // compacted.
    if known.head < head {
        refreshed.lock().expect("no holder of this lock can panic").all_at(head);
        known.head = head;
    }
    if of_domains {
        let domains = domains(state).await?;
        if head == before.head && domains == *before.domains {
            return Ok(None);
        }
        known.domains = Arc::new(domains);
    }
    // Last, because a look that failed is repeated from its start.
    let mut tail = tail.lock().expect("no holder of this lock can panic");
    fresh.into_iter().for_each(|entry| tail.push(entry));
    drop(tail);
    known.seen = clock.moment();
    Ok(Some(known))
}

async fn domains(state: &State) -> Result<BTreeMap<DomainName, DomainRow>, StateError> {
    Ok(state.domains().await?.into_iter().map(|row| (row.name.clone(), row)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(revision: u64, bytes: usize) -> Logged {
        Logged { revision: Revision(revision), bytes: vec![b'x'; bytes].into() }
    }

    #[tokio::test]
    async fn log_that_was_compacted_under_a_process_is_followed_to_its_head() {
        let state = State::in_memory();
        let clock: Arc<dyn Clock> = Arc::new(model::ManualClock::at(std::time::UNIX_EPOCH));
        let (head, knowledge) = state.knowledge().await.unwrap();
        let (seen, knowledge) = (clock.moment(), Arc::new(knowledge));
        let before = Known { head, seen, knowledge, domains: Arc::default(), joined: Arc::default() };
        let (last, refreshed) = (state.append(&[Entry::Invalidate(Vec::new())]).await.unwrap(), Mutex::default());
        state.compact(0).await.unwrap();
        let known = look(&state, &before, false, &*clock, &Mutex::default(), &refreshed).await.unwrap().unwrap();
        assert_eq!(known.head, last);
        let name = DomainName::parse("a.com").unwrap();
        let refreshed = refreshed.into_inner().unwrap();
        assert_eq!(refreshed.last(&name), last, "what was compacted may have been of any domain");
    }

    #[test]
    fn newest_invalidation_of_a_domain_is_known_in_bounded_memory() {
        let mut refreshed = Refreshed::default();
        let name = |n: usize| DomainName::parse(&format!("d{n}.com")).unwrap();
        let note = |refreshed: &mut Refreshed, n, at| {
            let invalidation = Invalidation { scope: Scope::Domain(name(n)), mode: model::Mode::Delete };
            refreshed.note(&[invalidation], Revision(at), &Knowledge::default());
        };
        note(&mut refreshed, 0, 5);
        note(&mut refreshed, 0, 7);
        assert_eq!((refreshed.last(&name(0)).0, refreshed.last(&name(1)).0), (7, 0));
        (0..REFRESHED_MAX).for_each(|n| note(&mut refreshed, n, 8));
        assert_eq!(refreshed.last(&name(REFRESHED_MAX)).0, 0);
        note(&mut refreshed, REFRESHED_MAX, 9);
        assert_eq!(refreshed.of.len(), 1);
        assert_eq!(refreshed.last(&name(REFRESHED_MAX + 1)).0, 9, "what is not known counts as refreshed");
    }

    #[test]
    fn tail_gives_what_follows_without_a_gap_or_nothing() {
        let mut tail = Tail::default();
        (5..=9).for_each(|at| tail.push(logged(at, 1)));
        let after = |tail: &Tail, at, most| {
            tail.after(Revision(at), most).iter().map(|entry| entry.revision.0).collect::<Vec<_>>()
        };
        let cases: [(u64, usize, &[u64]); 6] = [
            (4, 9, &[5, 6, 7, 8, 9]),
            (7, 9, &[8, 9]),
            (4, 2, &[5, 6]),
            (9, 9, &[]),
            (3, 9, &[]),
            (u64::MAX >> 1, 9, &[]),
        ];
        for (at, most, expected) in cases {
            assert_eq!(after(&tail, at, most), expected, "after {at}");
        }
        tail.push(logged(12, 1));
        assert_eq!((after(&tail, 9, 9), after(&tail, 11, 9)), (vec![], vec![12]), "nothing is kept across a gap");
        tail.push(logged(13, TAIL_BYTES_MAX));
        assert_eq!(after(&tail, 12, 9), [13]);
        assert_eq!(after(&tail, 11, 9), [0; 0], "what is too much goes, the oldest first");
    }
}
