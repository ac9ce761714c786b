//! The state in memory: the same tables as maps, for simulations that run hundreds of thousands of times.
//!
//! A database brings threads and timers, and with them an order of events that no seed reproduces. Here every call
//! completes when it is first polled, maps are walked in order, and nothing is random. For each SQL statement of the
//! other modules, `Tables` has a function that does the same to maps; the decisions above them are the same code.
//!
//! # What always holds
//!
//! - A reader sees the whole result of one commit. A transaction works on tables of its own, which share everything it
//!   has not touched with the committed ones, and replaces those at once when it commits. If dropped, it leaves no
//!   trace.
//! - Reading and starting to write copy no table; a writer copies a table at its first change, sharing the rows.
//! - Nothing fails except through a [`Fault`] that was set, or where SQL would fail too.
//!
//! # Not here
//!
//! Durability: the simulation keeps a [`Memory`] and opens it again for a control plane that restarts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use model::{DomainName, NodeName, Revision};

use super::accounts::Account;
use super::audit::Recorded;
use super::chunks::{Chunk, Filter, Kind, Outline, Past, Progress};
use super::completions::{Amounts, Completion};
use super::domains::DomainRow;
use super::figures::FigureRows;
use super::log::{Filed, Logged};
use super::nodes::NodeRow;
use super::{Counter, On, State, StateError};
use crate::policy::Policy;

mod access;
mod audit;
mod domains;
mod steering;

/// The most faults that may be pending.
const FAULTS_MAX: usize = 1024;

/// The stored tables. Clones share them; they exist as long as one clone does.
#[derive(Clone, Default)]
pub struct Memory {
    committed: Arc<Mutex<Arc<Tables>>>,
    /// Held by the current writer, through whichever handle it was opened.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Memory {
    /// A state on these tables, which fails as `faults` says. Each process of a simulation has its own faults, so one
    /// may be cut off while another writes.
    pub fn open(&self, faults: &Faults) -> State {
        State { store: On::Memory(Handle { memory: self.clone(), faults: faults.clone() }), turn: self.turn.clone() }
    }
}

/// A single failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next read, begin or commit cannot reach the database. A commit that fails so stores nothing.
    Unavailable,
    /// The next commit fails and stores nothing.
    BeforeCommit,
    /// The next commit is stored, but its caller is told that it failed.
    AfterCommit,
}

/// The faults of one handle of a [`Memory`]. Clones share them.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<Pending>>);

#[derive(Default)]
struct Pending {
    queue: VecDeque<Fault>,
    cut_off: bool,
}

impl Faults {
    /// Makes one operation fail, after all faults that were set before. The first fault waits for an operation that it
    /// applies to; others are not affected.
    pub fn push(&self, fault: Fault) {
        let mut pending = self.pending();
        assert!(pending.queue.len() < FAULTS_MAX, "faults are set and nothing meets them");
        pending.queue.push_back(fault);
    }

    /// Removes all pending faults and the cut-off.
    pub fn clear(&self) {
        *self.pending() = Pending::default();
    }

    /// Sets whether every operation fails to reach the database from now on.
    pub fn cut_off(&self, cut_off: bool) {
        self.pending().cut_off = cut_off;
    }

    /// How many faults are still pending.
    pub fn waiting(&self) -> usize {
        self.pending().queue.len()
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.0.lock().expect("no holder of this lock can panic while it changes anything")
    }

    /// The fault for the operation that asks, if any.
    fn meet(&self, commit: bool) -> Option<Fault> {
        let mut pending = self.pending();
        if pending.cut_off {
            return Some(Fault::Unavailable);
        }
        pending.queue.pop_front_if(|fault| commit || *fault == Fault::Unavailable)
    }
}

/// One process's access to the tables.
#[derive(Clone)]
pub(super) struct Handle {
    memory: Memory,
    faults: Faults,
}

impl Handle {
    /// The result of the last commit.
    pub(super) fn read(&self) -> Result<Arc<Tables>, StateError> {
        match self.faults.meet(false) {
            Some(_) => Err(broken(ErrorKind::ConnectionRefused)),
            None => Ok(self.memory.committed.lock().expect("no holder of this lock can panic").clone()),
        }
    }

    pub(super) fn begin(&self) -> Result<Draft, StateError> {
        let tables = Tables::clone(&*self.read()?);
        Ok(Draft { tables, handle: self.clone() })
    }
}

/// Tables that are not committed yet. Its holder has the writer's turn.
pub(super) struct Draft {
    pub(super) tables: Tables,
    handle: Handle,
}

impl Draft {
    pub(super) fn commit(self) -> Result<(), StateError> {
        let fault = self.handle.faults.meet(true);
        if matches!(fault, None | Some(Fault::AfterCommit)) {
            let tables = Arc::new(self.tables);
            *self.handle.memory.committed.lock().expect("no holder of this lock can panic") = tables;
        }
        match fault {
            None => Ok(()),
            Some(Fault::Unavailable) => Err(broken(ErrorKind::ConnectionRefused)),
            Some(Fault::BeforeCommit | Fault::AfterCommit) => Err(broken(ErrorKind::ConnectionReset)),
        }
    }
}

/// The error that a caller gets for a fault: the same as from a database whose connection breaks.
fn broken(kind: ErrorKind) -> StateError {
    StateError::Database(sqlx::Error::Io(kind.into()))
}

/// The tables, each shared until it is changed. Rows are those of `schema`, and keys are its primary keys.
#[derive(Clone, Default)]
pub(super) struct Tables {
    counters: [u64; 5],
    meta: Arc<BTreeMap<&'static str, String>>,
    log: Arc<BTreeMap<Revision, Arc<LogRow>>>,
    accounts: Arc<BTreeMap<String, AccountRow>>,
    users: Arc<BTreeMap<(String, String), u64>>,
    policies: Arc<BTreeMap<(String, String), PolicyRow>>,
    attached: Arc<BTreeMap<(String, String, String), ()>>,
    keys: Arc<BTreeMap<String, KeyRow>>,
    domains: Arc<BTreeMap<String, Arc<DomainRow>>>,
    /// By domain and key: account and value.
    labels: Arc<BTreeMap<(String, String), (String, String)>>,
    blocked: Arc<BTreeMap<String, String>>,
    /// By account and name.
    proofs: Arc<BTreeSet<(String, String)>>,
    nodes: Arc<BTreeMap<NodeName, MemberRow>>,
    invitations: Arc<BTreeMap<String, (String, u64)>>,
    chunks: Arc<BTreeMap<u64, Arc<Chunk>>>,
    /// The number of the last steering of each chunk that was steered.
    steered: Arc<BTreeMap<u64, u64>>,
    completions: Arc<BTreeMap<Revision, Arc<Completion>>>,
    days: Arc<BTreeMap<(String, u64, &'static str), u64>>,
    nonces: Arc<BTreeMap<Arc<(String, String)>, u64>>,
    pub(super) figures: Arc<FigureRows>,
    audit: Arc<BTreeMap<u64, Arc<Recorded>>>,
    /// By name: the value, and when it was last used.
    pub(super) shares: Arc<BTreeMap<String, (String, u64)>>,
}

struct LogRow {
    filed: Filed,
    bytes: Bytes,
}

/// An access key. Its secret is sealed here too.
#[derive(Clone)]
pub(super) struct KeyRow {
    pub(super) account: String,
    /// Empty: it belongs to the account itself.
    pub(super) user: String,
    pub(super) sealed: String,
    pub(super) policy: Option<Policy>,
    pub(super) active: bool,
    pub(super) created_ms: u64,
}

#[derive(Clone)]
struct AccountRow {
    account: Account,
    created_ms: u64,
    opened_ms: u64,
    charge: String,
}

#[derive(Clone)]
struct PolicyRow {
    policy: Policy,
    changed_ms: u64,
}

#[derive(Clone)]
struct MemberRow {
    credential: String,
    acked: Revision,
    acked_ms: u64,
    swept: Revision,
    program: String,
}

/// Removes the first `most` rows that are `past`; returns how many.
fn drop_past<K: Ord + Clone, V: Clone>(
    table: &mut Arc<BTreeMap<K, V>>,
    most: u64,
    past: impl Fn(&K, &V) -> bool,
) -> u64 {
    let keys: Vec<K> = table.iter().filter(|(key, row)| past(key, row)).map(|(key, _)| key.clone()).collect();
    let keys = &keys[..keys.len().min(most as usize)];
    if !keys.is_empty() {
        let table = Arc::make_mut(table);
        for key in keys {
            table.remove(key);
        }
    }
    keys.len() as u64
}

/// Changes the rows that `which` selects; returns how many. A table without such rows is not copied.
fn update<K: Ord + Clone, V: Clone>(
    table: &mut Arc<BTreeMap<K, Arc<V>>>,
    which: impl Fn(&V) -> bool,
    change: impl Fn(&mut V),
) -> u64 {
    let keys: Vec<K> = table.iter().filter(|(_, row)| which(row)).map(|(key, _)| key.clone()).collect();
    if !keys.is_empty() {
        let table = Arc::make_mut(table);
        for key in &keys {
            if let Some(row) = table.get_mut(key) {
                change(Arc::make_mut(row));
            }
        }
    }
    keys.len() as u64
}

/// Adds a row unless its key exists; returns whether it did.
fn insert_new<K: Ord + Clone, V: Clone>(table: &mut Arc<BTreeMap<K, V>>, key: K, row: V) -> bool {
    if table.contains_key(&key) {
        return false;
    }
    Arc::make_mut(table).insert(key, row);
    true
}

/// Counters and the identity of the control plane.
impl Tables {
    pub(super) fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    pub(super) fn count_up(&mut self, counter: Counter, by: u64) -> u64 {
        self.counters[counter as usize] += by;
        self.counter(counter)
    }

    pub(super) fn meta(&self, name: &str) -> Option<String> {
        self.meta.get(name).cloned()
    }

    pub(super) fn add_meta(&mut self, name: &'static str, value: String) {
        insert_new(&mut self.meta, name, value);
    }

    pub(super) fn change_meta(&mut self, name: &str, value: String) {
        if let Some(kept) = Arc::make_mut(&mut self.meta).get_mut(name) {
            *kept = value;
        }
    }
}

/// The log.
impl Tables {
    pub(super) fn add_entry(&mut self, at: Revision, filed: Filed, bytes: Bytes) {
        Arc::make_mut(&mut self.log).insert(at, Arc::new(LogRow { filed, bytes }));
    }

    pub(super) fn entries_after(&self, after: Revision, most: u32) -> Vec<Logged> {
        let later = self.log.range(Revision(after.0.saturating_add(1))..).take(most as usize);
        later.map(|(at, row)| Logged { revision: *at, bytes: row.bytes.clone() }).collect()
    }

    /// Entries up to `to` that `wanted` selects.
    pub(super) fn entries_filed(&self, to: Revision, wanted: impl Fn(Filed) -> bool) -> Vec<Logged> {
        let entries = self.log.range(..=to).filter(|(_, row)| wanted(row.filed));
        entries.map(|(at, row)| Logged { revision: *at, bytes: row.bytes.clone() }).collect()
    }

    pub(super) fn compact(&mut self, to: Revision, most: u64) -> u64 {
        drop_past(&mut self.log, most, |at, row| row.filed == Filed::Invalidate && *at <= to)
    }

    pub(super) fn set_compacted(&mut self, to: Revision) {
        let compacted = &mut self.counters[Counter::Compacted as usize];
        *compacted = to.0.max(*compacted);
    }
}

/// What accounts have used up.
impl Tables {
    pub(super) fn spent_all(&self, account: &str, day: u64) -> BTreeMap<String, u64> {
        let of_day = self.days.range((account.to_owned(), day, "")..);
        let of_day = of_day.take_while(|((of, on, _), _)| of == account && *on == day);
        of_day.map(|((_, _, bucket), used)| ((*bucket).to_owned(), *used)).collect()
    }

    pub(super) fn spent(&self, account: &str, day: u64, bucket: &'static str) -> u64 {
        self.days.get(&(account.to_owned(), day, bucket)).copied().unwrap_or(0)
    }

    pub(super) fn set_spent(&mut self, account: &str, day: u64, bucket: &'static str, used: u64) {
        Arc::make_mut(&mut self.days).insert((account.to_owned(), day, bucket), used);
    }

    pub(super) fn nonce_used(&self, key: &str, nonce: &str) -> bool {
        self.nonces.contains_key(&(key.to_owned(), nonce.to_owned()))
    }

    pub(super) fn use_nonce(&mut self, key: &str, nonce: &str, now_ms: u64) -> bool {
        insert_new(&mut self.nonces, Arc::new((key.to_owned(), nonce.to_owned())), now_ms)
    }
}

/// Nodes.
impl Tables {
    /// Fails if the id exists, as the primary key makes SQL fail.
    pub(super) fn add_invitation(&mut self, id: &str, secret: String, expires_ms: u64) -> Result<(), StateError> {
        if insert_new(&mut self.invitations, id.to_owned(), (secret, expires_ms)) {
            return Ok(());
        }
        Err(StateError::Database(sqlx::Error::Protocol(format!("join token {id} exists already"))))
    }

    pub(super) fn invitation(&self, id: &str) -> Option<(String, u64)> {
        self.invitations.get(id).cloned()
    }

    pub(super) fn credential(&self, name: &NodeName) -> Option<String> {
        self.nodes.get(name).map(|row| row.credential.clone())
    }

    /// Adds a node, or replaces the credential of an existing one; what it acknowledged stays.
    pub(super) fn set_credential(&mut self, name: &NodeName, credential: String, program: &str) {
        let before = self.nodes.get(name);
        let (acked, acked_ms) = before.map_or((Revision::ZERO, 0), |row| (row.acked, row.acked_ms));
        let swept = before.map_or(Revision::ZERO, |row| row.swept);
        let row = MemberRow { credential, acked, acked_ms, swept, program: program.to_owned() };
        Arc::make_mut(&mut self.nodes).insert(name.clone(), row);
    }

    pub(super) fn remove_node(&mut self, name: &NodeName) -> bool {
        Arc::make_mut(&mut self.nodes).remove(name).is_some()
    }

    pub(super) fn nodes(&self) -> Vec<NodeRow> {
        let row = |(name, row): (&NodeName, &MemberRow)| NodeRow {
            name: name.clone(),
            acked: row.acked,
            acked_ms: row.acked_ms,
            swept: row.swept,
            program: row.program.clone(),
        };
        self.nodes.iter().map(row).collect()
    }

    pub(super) fn acknowledge(&mut self, name: &NodeName, at: Revision, now_ms: u64) {
        if self.nodes.get(name).is_some_and(|row| row.acked < at)
            && let Some(row) = Arc::make_mut(&mut self.nodes).get_mut(name)
        {
            (row.acked, row.acked_ms) = (at, now_ms);
        }
    }
}

/// Sweeps.
impl Tables {
    pub(super) fn keep_swept_upto(&mut self, name: &NodeName, upto: Revision) {
        if let Some(row) = Arc::make_mut(&mut self.nodes).get_mut(name) {
            row.swept = upto;
        }
    }
}

/// Chunks.
impl Tables {
    pub(super) fn add_chunk(&mut self, chunk: Chunk) {
        Arc::make_mut(&mut self.chunks).insert(chunk.id, Arc::new(chunk));
    }

    fn open(&self, prefetches: bool) -> impl DoubleEndedIterator<Item = &Arc<Chunk>> {
        let open = self.chunks.values().filter(|chunk| chunk.finished_ms == 0);
        open.filter(move |chunk| (chunk.kind == Kind::Prefetch) == prefetches)
    }

    fn history<'a>(&'a self, account: &'a str, filter: &'a Filter) -> impl Iterator<Item = &'a Arc<Chunk>> {
        self.chunks.values().filter(move |chunk| {
            chunk.account == account
                && (filter.from_ms..=filter.to_ms).contains(&chunk.created_ms)
                && filter.domain.as_ref().is_none_or(|domain| chunk.domain.as_str() == domain)
                && (filter.kinds.is_empty() || filter.kinds.contains(&chunk.kind))
                && (filter.tasks.is_empty() || filter.tasks.contains(&chunk.task))
                && (!filter.open || chunk.finished_ms == 0)
        })
    }

    pub(super) fn outlines(&self, account: &str, filter: &Filter, before: Option<Outline>, most: u32) -> Vec<Outline> {
        let outline = |chunk: &Arc<Chunk>| Outline {
            id: chunk.id,
            created_ms: chunk.created_ms,
            lines: chunk.paths.len() as u64,
        };
        let place = |outline: &Outline| (outline.created_ms, outline.id);
        let mut found: Vec<Outline> = self.history(account, filter).map(outline).collect();
        found.retain(|outline| before.is_none_or(|before| place(outline) < place(&before)));
        found.sort_by_key(|outline| std::cmp::Reverse(place(outline)));
        found.truncate(most as usize);
        found
    }

    pub(super) fn count_lines(&self, account: &str, filter: &Filter) -> u64 {
        self.history(account, filter).map(|chunk| chunk.paths.len() as u64).sum()
    }

    pub(super) fn chunks(&self, ids: &[u64]) -> Vec<Chunk> {
        let ids: BTreeSet<u64> = ids.iter().copied().collect();
        ids.iter().rev().filter_map(|id| self.chunks.get(id)).map(|chunk| Chunk::clone(chunk)).collect()
    }

    pub(super) fn open_accounts(&self) -> Vec<(String, u64, u64)> {
        let mut accounts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for chunk in self.open(true) {
            let (chunks, urls) = accounts.entry(&chunk.account).or_default();
            (*chunks, *urls) = (*chunks + 1, *urls + chunk.paths.len() as u64);
        }
        accounts.into_iter().map(|(account, (chunks, urls))| (account.to_owned(), chunks, urls)).collect()
    }

    pub(super) fn open_refreshes(&self, most: u32) -> Vec<Revision> {
        let revisions: BTreeSet<Revision> =
            self.open(false).map(|chunk| chunk.revision).filter(|at| *at > Revision::ZERO).collect();
        revisions.into_iter().take(most as usize).collect()
    }

    /// How many calls of an account have an open prefetch.
    pub(super) fn open_calls(&self, account: &str) -> u64 {
        let open = self.open(true).filter(|chunk| chunk.account == account);
        let calls: BTreeSet<u64> = open.map(|chunk| if chunk.call == 0 { chunk.id } else { chunk.call }).collect();
        calls.len() as u64
    }

    /// How many objects of a domain are in open refreshes.
    pub(super) fn open_refresh_lines(&self, domain: &DomainName) -> u64 {
        self.open(false).filter(|chunk| chunk.domain == *domain).map(|chunk| chunk.paths.len() as u64).sum()
    }

    pub(super) fn complete_refreshes(&mut self, from: Revision, to: Revision, now_ms: u64) -> u64 {
        let passed = |chunk: &Chunk| {
            chunk.finished_ms == 0 && chunk.kind != Kind::Prefetch && from <= chunk.revision && chunk.revision <= to
        };
        update(&mut self.chunks, passed, |chunk| chunk.finished_ms = now_ms)
    }

    pub(super) fn keep_progress(&mut self, id: u64, finished_ms: u64, progress: &Progress) {
        let ended = |chunk: &Arc<Chunk>| chunk.finished_ms > 0 && chunk.steering.cancelled_ms == 0;
        if self.chunks.get(&id).is_none_or(ended) {
            return;
        }
        if let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(&id) {
            let chunk = Arc::make_mut(chunk);
            if chunk.finished_ms == 0 {
                chunk.finished_ms = finished_ms;
            }
            chunk.progress = progress.clone();
        }
    }

    /// Clears the progress of those of these chunks that are open and name `node`; `ids` must be sorted.
    pub(super) fn begin_anew(&mut self, ids: &[u64], node: &NodeName) {
        let named = |chunk: &Chunk| {
            ids.binary_search(&chunk.id).is_ok() && chunk.finished_ms == 0 && chunk.progress.nodes.contains(node)
        };
        update(&mut self.chunks, named, |chunk| chunk.progress = Progress::default());
    }

    pub(super) fn forget(&mut self, past: Past, before: u64, most: u64) -> u64 {
        match past {
            Past::Tasks => {
                let stays = |chunk: &&Arc<Chunk>| chunk.finished_ms == 0 || chunk.finished_ms >= before;
                let staying: BTreeSet<u64> = self.chunks.values().filter(stays).map(|chunk| chunk.task).collect();
                drop_past(&mut self.chunks, most, |_, chunk| !staying.contains(&chunk.task))
            }
            Past::Nonces => drop_past(&mut self.nonces, most, |_, seen_ms| *seen_ms < before),
            Past::Invitations => drop_past(&mut self.invitations, most, |_, (_, expires_ms)| *expires_ms < before),
            Past::Days => drop_past(&mut self.days, most, |(_, day, _), _| *day < before),
        }
    }
}

/// Completions, keyed by the highest revision of each.
impl Tables {
    pub(super) fn add_completion(&mut self, step: &Completion) {
        insert_new(&mut self.completions, step.range.1, Arc::new(step.clone()));
    }

    /// The first step whose highest revision is at or above `revision`.
    pub(super) fn completion_from(&self, revision: Revision) -> Option<Completion> {
        self.completions.range(revision..).next().map(|(_, step)| Completion::clone(step))
    }

    pub(super) fn set_swept(&mut self, last: Revision, swept: &Amounts) {
        if let Some(step) = Arc::make_mut(&mut self.completions).get_mut(&last) {
            Arc::make_mut(step).swept = swept.clone();
        }
    }

    pub(super) fn completion_bytes(&self) -> u64 {
        self.completions.values().map(|step| step.bytes()).sum()
    }

    /// Deletes steps from before `before_ms`, lowest first.
    pub(super) fn forget_completions(&mut self, before_ms: u64, most: u64) -> u64 {
        drop_past(&mut self.completions, most, |_, step| step.completed_ms < before_ms)
    }
}

#[cfg(test)]
mod tests;
