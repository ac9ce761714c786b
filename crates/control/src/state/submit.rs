//! Accepting: many submissions are written in one transaction, each of them whole or not at all.
//!
//! Callers hand a [`Submission`] to the [`Accepting`] task and wait. The task gathers all that are queued, decides on
//! each by the database and its own counters, writes those it accepts, commits, and only then answers. A refusal costs
//! the others nothing: it is decided before anything of it is written. Other records for the audit log go the same way,
//! so that they need no transaction of their own.
//!
//! # What always holds
//!
//! - Nonce, quota, chunks, log entries and audit record of a submission are in one transaction, on stable storage
//!   before the answer.
//! - At most [`WAITING_MAX`] submissions wait; when the queue is full the caller is told at once ([`Refused::Busy`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{DomainName, Entry, Invalidation, Revision};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::audit::Record;
use super::chunks::{self, Chunk, Kind, Params, Progress, Tally};
use super::log::append;
use super::steering::Steering;
use super::{Counter, State, StateError, Writing, count_up, spending};

mod cut;
mod notes;
mod open;
mod used;

use cut::{chunk_lines_max, cut_paths};
pub use notes::Note;
use notes::RefusedCounts;
pub use open::Open;
use used::Used;

/// Submissions waiting to be written.
pub const WAITING_MAX: usize = 1024;

/// Submissions written in one transaction.
const BATCH_MAX: usize = 256;

/// Objects that may share a task id, for prefetches.
const TASK_PREFETCHES_MAX: u64 = 500;

/// Objects that may share a task id, for refreshes of files.
const TASK_REFRESHES_MAX: u64 = 2000;

/// The window of per-minute limits, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// Domains whose last minute is remembered; above this number, expired ones are dropped.
const MINUTES_SWEEP_AT: usize = 10_000;

/// The work of one call.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The account it belongs to.
    pub account: String,
    /// The key it was signed with, and its nonce, which may be used once.
    pub nonce: (String, String),
    /// When it arrived, in milliseconds since 1970.
    pub now_ms: u64,
    /// What it asks for, one group per domain.
    pub groups: Vec<Group>,
    /// What it costs of the daily quota.
    pub charge: Charge,
    /// How many objects each domain may be sent within a minute.
    pub minute_max: Option<u64>,
    /// How much may be open.
    pub queue_max: QueueMax,
    /// Its record in the audit log if it is accepted; the ids of its tasks are added.
    pub record: Record,
}

/// What a submission costs of the daily quota.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The bucket that it is charged to.
    pub bucket: &'static str,
    /// The day, counted from 1970 in the time zone of quotas.
    pub day: u64,
    /// How much.
    pub units: u64,
    /// The quota of the day; unlimited when absent.
    pub limit: Option<u64>,
}

/// How much prefetching an account may have open in one bucket: each product has a queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueMax {
    /// No limit except the store's own.
    Unlimited,
    /// At most so many URLs.
    Urls(u64),
    /// At most so many calls.
    Requests(u64),
}

/// Objects of one domain.
#[derive(Clone, Debug)]
pub struct Group {
    /// The domain.
    pub domain: DomainName,
    /// What is done to them.
    pub kind: Kind,
    /// The objects as submitted, with scheme; no line breaks in them.
    pub paths: Vec<String>,
    /// What nodes must forget, one for each path of a refresh; empty for a prefetch.
    pub invalidations: Vec<Invalidation>,
    /// How.
    pub params: Params,
    /// When, for a prefetch: never before its submission.
    pub steering: Steering,
}

/// Why a submission was not accepted. Nothing of it was written or charged, unless it is [`Refused::Unavailable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The nonce was used before.
    NonceUsed,
    /// It exceeds what is left of the daily quota.
    DayUsedUp,
    /// It exceeds the per-minute limit of a domain.
    MinuteUsedUp,
    /// It exceeds the limit of open prefetches.
    QueueFull,
    /// Too many refreshes of a domain are open.
    RefreshesFull,
    /// Too many submissions are waiting.
    Busy,
    /// The database failed; whether the submission was written is not known.
    Unavailable,
}

/// The result of a submission: its task ids, in the order of its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Ids for users.
    pub tasks: Vec<u64>,
}

enum Waiting {
    Submission {
        submission: Box<Submission>,
        answer: oneshot::Sender<Result<Accepted, Refused>>,
    },
    /// Answered once it is written; the answer is dropped if it could not be.
    Note {
        note: Note,
        answer: oneshot::Sender<()>,
    },
}

/// The handle of the accepting task. Cheap to clone.
#[derive(Clone)]
pub struct Accepting {
    queue: mpsc::Sender<Waiting>,
    counters: Arc<Counters>,
    committed: watch::Sender<u64>,
    refused: RefusedCounts,
}

/// What the accepting task has done so far.
#[derive(Default)]
pub struct Counters {
    /// Submissions committed.
    pub accepted: AtomicU64,
    /// Transactions they took.
    pub commits: AtomicU64,
    /// Prefetch URLs that are open, over all accounts.
    pub open_urls: AtomicU64,
    /// Records that are missing from the audit log: of refused calls, because there were too many, or because of a
    /// failure.
    pub left_out: AtomicU64,
    /// Records kept, as of the last deletion of old ones.
    pub records: AtomicU64,
    /// Records deleted because of their age or number.
    pub records_forgotten: AtomicU64,
}

/// Objects of refreshes that may be open in one domain: those that arrive at thousands a second until a dead node's
/// lease is over.
pub const OPEN_REFRESHES_MAX: u64 = 50_000;

/// How long a count of too many open refreshes in a domain is believed.
const COUNTED_FOR: Duration = Duration::from_secs(1);

/// How long it may stay unknown what was committed before the database is asked again.
const DOUBTED_FOR: Duration = Duration::from_secs(1);

/// Prefetch URLs that may be open over all accounts, whatever their profiles allow: the store's own bound.
pub const OPEN_URLS_MAX: u64 = 20_000_000;

impl Accepting {
    /// Starts the task. Open prefetches are counted in the database first.
    pub async fn start(state: State) -> Result<(Accepting, Open), StateError> {
        let open = Open::default();
        for (account, chunks, urls) in state.open_accounts().await? {
            open.add(&account, chunks, urls);
        }
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let counters = Arc::new(Counters::default());
        let (committed, _) = watch::channel(0);
        let accepting = Accepting {
            queue,
            counters: counters.clone(),
            committed: committed.clone(),
            refused: RefusedCounts::default(),
        };
        let task = Task {
            state,
            open: open.clone(),
            minutes: HashMap::new(),
            refreshing: HashMap::new(),
            queued: HashMap::new(),
            tasks: HashMap::new(),
            counters,
            committed,
            doubtful: false,
        };
        tokio::spawn(task.run(waiting));
        Ok((accepting, open))
    }

    /// Submits, and waits until it is on stable storage or refused.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, Refused> {
        let (answer, answered) = oneshot::channel();
        let submission = Box::new(submission);
        self.queue.try_send(Waiting::Submission { submission, answer }).map_err(|_| Refused::Busy)?;
        answered.await.unwrap_or(Err(Refused::Unavailable))
    }

    /// Writes to the audit log, and waits for that. If too many calls are refused, some of their records are dropped
    /// and counted.
    pub async fn note(&self, note: Note) {
        let (answer, answered) = oneshot::channel();
        let is_queued = match note {
            Note::Refused(record) => {
                self.refused.take(&record)
                    && self.queue.try_send(Waiting::Note { note: Note::Refused(record), answer }).is_ok()
            }
            // It is about a call that was accepted and changed something, so it waits for room.
            Note::Ended { .. } => self.queue.send(Waiting::Note { note, answer }).await.is_ok(),
        };
        if !is_queued || answered.await.is_err() {
            self.counters.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Signals that an accepted chunk was changed, so that followers look again.
    pub fn nudge(&self) {
        self.committed.send_modify(|count| *count += 1);
    }

    /// Rises with every transaction that accepted something, and with every nudge.
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Submissions waiting now.
    pub fn waiting(&self) -> usize {
        WAITING_MAX - self.queue.capacity()
    }
}

/// A chunk about to be written.
struct NewChunk {
    task: u64,
    domain: DomainName,
    kind: Kind,
    paths: Vec<String>,
    invalidations: Vec<Invalidation>,
    params: Params,
    steering: Steering,
}

/// The task id that URLs of one account, domain and kind share within a second, and how many use it.
struct SharedTask {
    second: u64,
    task: u64,
    lines: u64,
}

struct Task {
    state: State,
    open: Open,
    /// What each domain was sent from each bucket within the last minute: times and amounts.
    minutes: HashMap<(DomainName, &'static str), VecDeque<(u64, u64)>>,
    /// An upper bound of the objects of open refreshes in each domain, and when they were counted.
    refreshing: HashMap<DomainName, (u64, Instant)>,
    /// The same of the URLs of open prefetches of an account in one bucket, where those of all its buckets are too many
    /// for one.
    queued: HashMap<(String, &'static str), (u64, Instant)>,
    tasks: HashMap<(String, DomainName, Kind), SharedTask>,
    counters: Arc<Counters>,
    committed: watch::Sender<u64>,
    /// Whether a transaction failed, so that it is unknown whether it was committed.
    doubtful: bool,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                count = waiting.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
                // Otherwise the recount might wait for hours, until the next submission.
                () = tokio::time::sleep(DOUBTED_FOR), if self.doubtful => { self.count_anew().await; continue }
            }
            let (mut submissions, mut answers, mut notes, mut noted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for waiting in batch.drain(..) {
                match waiting {
                    Waiting::Submission { submission, answer } => {
                        submissions.push(*submission);
                        answers.push(answer);
                    }
                    Waiting::Note { note, answer } => {
                        notes.push(note);
                        noted.push(answer);
                    }
                }
            }
            let decided = match self.write(&submissions, &notes).await {
                Ok(decided) => decided,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "submissions could not be written");
                    // Ids handed out in the transaction that failed will be handed out again.
                    self.tasks.clear();
                    // What was written after all is not added to these.
                    self.queued.clear();
                    self.doubtful = true;
                    noted.clear();
                    submissions.iter().map(|_| Err(Refused::Unavailable)).collect()
                }
            };
            for answer in noted {
                let _ = answer.send(());
            }
            for (submission, decided) in submissions.iter().zip(&decided) {
                if decided.is_ok() {
                    self.committed_one(submission);
                }
            }
            if self.doubtful {
                self.count_anew().await;
            }
            if !submissions.is_empty() {
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
            }
            self.counters.open_urls.store(self.open.urls(), Ordering::Relaxed);
            if decided.iter().any(Result::is_ok) {
                self.committed.send_modify(|count| *count += 1);
            }
            for (answer, decided) in answers.into_iter().zip(decided) {
                // The client may have gone away; the task stands all the same.
                let _ = answer.send(decided);
            }
            if let Some(last) = submissions.last() {
                self.tidy(last.now_ms);
            }
        }
    }

    /// Counts open prefetches anew: a commit whose answer was lost may stand all the same, and its chunks would not be
    /// worked on before the next start.
    async fn count_anew(&mut self) {
        let Ok(open) = self.state.open_accounts().await else { return };
        for (account, chunks, urls) in open {
            self.open.raise(account, chunks, urls);
        }
        self.doubtful = false;
        self.committed.send_modify(|count| *count += 1);
    }

    async fn write(
        &mut self,
        submissions: &[Submission],
        notes: &[Note],
    ) -> Result<Vec<Result<Accepted, Refused>>, StateError> {
        let mut writing = self.state.write().await?;
        if submissions.is_empty() {
            notes::write(&mut writing, &[], notes).await?;
            writing.commit().await?;
            return Ok(Vec::new());
        }
        // The log's lock comes first: its holder is the only one that accepts.
        let head = Revision(count_up(&mut writing, Counter::Revision, 0).await?);
        let mut next_task = count_up(&mut writing, Counter::Task, 0).await?;
        let first_task = next_task;
        let mut used = Used::default();
        let mut decided = Vec::with_capacity(submissions.len());
        let mut chunks: Vec<(&Submission, NewChunk)> = Vec::new();
        for submission in submissions {
            let verdict = match self.judge(&mut writing, submission, &mut used).await? {
                Some(refused) => Err(refused),
                None => {
                    let (tasks, new) = self.cut(submission, &mut next_task);
                    chunks.extend(new.into_iter().map(|chunk| (submission, chunk)));
                    Ok(Accepted { tasks })
                }
            };
            decided.push(verdict);
        }
        if next_task > first_task {
            count_up(&mut writing, Counter::Task, next_task - first_task).await?;
        }
        if !chunks.is_empty() {
            insert(&mut writing, head, chunks).await?;
        }
        let accepted = submissions.iter().zip(&decided).filter_map(|(submission, decided)| {
            let Accepted { tasks } = decided.as_ref().ok()?;
            Some(notes::accepted(&submission.record, tasks))
        });
        notes::write(&mut writing, &accepted.collect::<Vec<_>>(), notes).await?;
        used.keep(&mut writing).await?;
        writing.commit().await?;
        Ok(decided)
    }

    /// Why a submission is refused; `None` if it is accepted, and then its nonce is written and its cost counted.
    async fn judge(
        &mut self,
        writing: &mut Writing,
        submission: &Submission,
        used: &mut Used,
    ) -> Result<Option<Refused>, StateError> {
        let Charge { bucket, day, units, limit } = submission.charge;
        let (key, nonce) = &submission.nonce;
        if spending::nonce_used(writing, key, nonce).await? {
            return Ok(Some(Refused::NonceUsed));
        }
        let spent = used.spent(writing, &submission.account, day, bucket).await?;
        if limit.is_some_and(|limit| spent + units > limit) {
            return Ok(Some(Refused::DayUsedUp));
        }
        for group in &submission.groups {
            let key = (group.domain.clone(), bucket);
            let minute = self.minutes.get(&key).into_iter().flatten();
            let minute: u64 = minute.filter(|(at, _)| is_of_minute(*at, submission.now_ms)).map(|(_, n)| n).sum();
            let minute = minute + used.minutes.get(&key).copied().unwrap_or(0);
            if submission.minute_max.is_some_and(|most| minute + group.paths.len() as u64 > most) {
                return Ok(Some(Refused::MinuteUsedUp));
            }
        }
        let prefetched = prefetch_urls(submission);
        if prefetched > 0 {
            let full = match submission.queue_max {
                QueueMax::Unlimited => false,
                QueueMax::Urls(most) => !self.has_place(writing, submission, used, most).await?,
                // Where calls are limited there are never many, so they are counted in the database.
                QueueMax::Requests(most) => {
                    let (calls, _) = chunks::open_in_bucket(writing, &submission.account, bucket).await?;
                    calls + used.open(&submission.account, bucket).0 + 1 > most
                }
            };
            if full || self.open.urls() + used.urls + prefetched > OPEN_URLS_MAX {
                return Ok(Some(Refused::QueueFull));
            }
            let (calls, urls) = used.open.entry((submission.account.clone(), bucket)).or_default();
            (*calls, *urls) = (*calls + 1, *urls + prefetched);
            used.urls += prefetched;
        }
        for group in submission.groups.iter().filter(|group| group.kind != Kind::Prefetch) {
            let more = used.refreshing.get(&group.domain).copied().unwrap_or(0) + group.paths.len() as u64;
            if !self.has_room(writing, &group.domain, more).await? {
                return Ok(Some(Refused::RefreshesFull));
            }
        }
        if !spending::use_nonce(writing, key, nonce, submission.now_ms).await? {
            // Another process used it since it was checked.
            return Ok(Some(Refused::NonceUsed));
        }
        used.spend(&submission.account, day, bucket, units);
        for group in &submission.groups {
            *used.minutes.entry((group.domain.clone(), bucket)).or_default() += group.paths.len() as u64;
            if group.kind != Kind::Prefetch {
                *used.refreshing.entry(group.domain.clone()).or_default() += group.paths.len() as u64;
            }
        }
        Ok(None)
    }

    /// Whether the URLs of a submission fit into its queue of at most `most`. The open URLs of an account are counted in
    /// memory over all its queues. Only if those are too many is this queue counted in the database, and as seldom as
    /// in [`Task::has_room`].
    async fn has_place(
        &mut self,
        writing: &mut Writing,
        submission: &Submission,
        used: &Used,
        most: u64,
    ) -> Result<bool, StateError> {
        let (account, bucket) = (&submission.account, submission.charge.bucket);
        let more = prefetch_urls(submission);
        if self.open.of(account).1 + used.urls + more <= most {
            return Ok(true);
        }
        let more = used.open(account, bucket).1 + more;
        let queue = (account.clone(), bucket);
        if let Some((open, counted)) = self.queued.get(&queue) {
            let fits = open + more <= most;
            if fits || counted.elapsed() < COUNTED_FOR {
                return Ok(fits);
            }
        }
        let (_, open) = chunks::open_in_bucket(writing, account, bucket).await?;
        self.queued.insert(queue, (open, Instant::now()));
        Ok(open + more <= most)
    }

    /// Whether `more` objects may be refreshed in a domain besides the open ones. The remembered number only grows; it
    /// is counted anew before a submission is refused for it, unless that was done less than [`COUNTED_FOR`] ago.
    async fn has_room(&mut self, writing: &mut Writing, domain: &DomainName, more: u64) -> Result<bool, StateError> {
        if let Some((open, counted)) = self.refreshing.get(domain) {
            let fits = open + more <= OPEN_REFRESHES_MAX;
            // All submissions wait for the count, so it is not repeated for each refusal.
            if fits || counted.elapsed() < COUNTED_FOR {
                return Ok(fits);
            }
        }
        let open = chunks::open_refresh_lines(writing, domain).await?;
        self.refreshing.insert(domain.clone(), (open, Instant::now()));
        Ok(open + more <= OPEN_REFRESHES_MAX)
    }

    /// Splits a submission into chunks and assigns task ids: URLs of one domain within one second share an id while
    /// they fit; each directory and regex has its own (spec, tasks: merge).
    fn cut(&mut self, submission: &Submission, next_task: &mut u64) -> (Vec<u64>, Vec<NewChunk>) {
        let mut tasks = Vec::new();
        let mut chunks = Vec::new();
        for group in &submission.groups {
            let mut invalidations = group.invalidations.iter();
            let mut new = |task: u64, paths: Vec<String>| {
                let invalidations = invalidations.by_ref().take(paths.len()).cloned().collect();
                chunks.push(NewChunk {
                    task,
                    domain: group.domain.clone(),
                    kind: group.kind,
                    paths,
                    invalidations,
                    params: group.params.clone(),
                    steering: group.steering,
                });
            };
            if group.kind.stands_alone() {
                for path in &group.paths {
                    *next_task += 1;
                    tasks.push(*next_task);
                    new(*next_task, vec![path.clone()]);
                }
                continue;
            }
            let most = if group.kind == Kind::Prefetch { TASK_PREFETCHES_MAX } else { TASK_REFRESHES_MAX };
            for part in group.paths.chunks(most as usize) {
                let task = self.shared_task(submission, group, part.len() as u64, most, next_task);
                if tasks.last() != Some(&task) {
                    tasks.push(task);
                }
                for paths in cut_paths(part, chunk_lines_max(&group.params)) {
                    new(task, paths.to_vec());
                }
            }
        }
        (tasks, chunks)
    }

    fn shared_task(
        &mut self,
        submission: &Submission,
        group: &Group,
        lines: u64,
        most: u64,
        next_task: &mut u64,
    ) -> u64 {
        // Steering applies to whole tasks: a steered submission shares no task with one that starts at once.
        if group.steering != Steering::from(group.steering.from_ms.min(submission.now_ms)) {
            *next_task += 1;
            return *next_task;
        }
        let second = submission.now_ms / 1000;
        let shared = self
            .tasks
            .entry((submission.account.clone(), group.domain.clone(), group.kind))
            .or_insert(SharedTask { second: 0, task: 0, lines: 0 });
        if shared.second != second || shared.lines + lines > most {
            *next_task += 1;
            *shared = SharedTask { second, task: *next_task, lines: 0 };
        }
        shared.lines += lines;
        shared.task
    }

    fn committed_one(&mut self, submission: &Submission) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        for group in &submission.groups {
            let minute = self.minutes.entry((group.domain.clone(), submission.charge.bucket)).or_default();
            minute.retain(|(at, _)| is_of_minute(*at, submission.now_ms));
            let second = submission.now_ms / 1000 * 1000;
            match minute.back_mut().filter(|(at, _)| *at == second) {
                Some((_, lines)) => *lines += group.paths.len() as u64,
                None => minute.push_back((second, group.paths.len() as u64)),
            }
            if group.kind != Kind::Prefetch {
                let open = self.refreshing.entry(group.domain.clone()).or_insert((0, Instant::now()));
                open.0 += group.paths.len() as u64;
            } else {
                let most = chunk_lines_max(&group.params);
                let parts = group.paths.chunks(TASK_PREFETCHES_MAX as usize);
                let chunks = parts.flat_map(|part| cut_paths(part, most)).count() as u64;
                let queue = (submission.account.clone(), submission.charge.bucket);
                if let Some((open, _)) = self.queued.get_mut(&queue) {
                    *open += group.paths.len() as u64;
                }
                self.open.add(&submission.account, chunks, group.paths.len() as u64);
            }
        }
    }

    /// Drops entries of seconds and minutes that are over, once there are many.
    fn tidy(&mut self, now_ms: u64) {
        if self.minutes.len() > MINUTES_SWEEP_AT {
            self.minutes.retain(|_, minute| minute.back().is_some_and(|(at, _)| is_of_minute(*at, now_ms)));
        }
        if self.refreshing.len() > MINUTES_SWEEP_AT {
            self.refreshing.clear(); // counted anew when needed
        }
        if self.queued.len() > MINUTES_SWEEP_AT {
            self.queued.clear(); // counted anew when needed
        }
        if self.tasks.len() > MINUTES_SWEEP_AT {
            let newest = self.tasks.values().map(|shared| shared.second).max().unwrap_or(0);
            self.tasks.retain(|_, shared| shared.second == newest);
        }
    }
}

/// Whether a time counts for the minute of `now_ms`. A time slightly ahead does, since calls overtake each other; one
/// further ahead was recorded before the wall clock was set back.
fn is_of_minute(at: u64, now_ms: u64) -> bool {
    at.abs_diff(now_ms) < MINUTE_MS
}

fn prefetch_urls(submission: &Submission) -> u64 {
    submission.groups.iter().filter(|group| group.kind == Kind::Prefetch).map(|group| group.paths.len() as u64).sum()
}

/// Writes chunks, and log entries for those that invalidate.
async fn insert(writing: &mut Writing, head: Revision, chunks: Vec<(&Submission, NewChunk)>) -> Result<(), StateError> {
    let mut id = count_up(writing, Counter::Chunk, chunks.len() as u64).await? - chunks.len() as u64;
    let mut call: Option<(&Submission, u64)> = None;
    let mut tally = Tally::default();
    for (submission, chunk) in chunks {
        id += 1;
        let first = match call {
            Some((of, first)) if std::ptr::eq(of, submission) => first,
            _ => id,
        };
        call = Some((submission, first));
        let revision = if chunk.invalidations.is_empty() {
            head
        } else {
            append(writing, &[Entry::Invalidate(chunk.invalidations)]).await?
        };
        let chunk = Chunk {
            id,
            task: chunk.task,
            call: first,
            account: submission.account.clone(),
            bucket: submission.charge.bucket.to_owned(),
            domain: chunk.domain,
            kind: chunk.kind,
            created_ms: submission.now_ms,
            revision,
            paths: chunk.paths,
            params: chunk.params,
            steering: Steering { from_ms: chunk.steering.from_ms.max(submission.now_ms), ..chunk.steering },
            finished_ms: 0,
            progress: Progress::default(),
            unreadable: false,
        };
        tally.count(&chunk);
        chunks::insert(writing, chunk).await?;
    }
    tally.add(writing).await
}

#[cfg(test)]
mod tests;
