//! Prefetch jobs: a GET through the same pipeline, with its body to the store alone, then the proof that the object is
//! resident.
//!
//! # What always holds
//!
//! - A job is begun only once the log is applied up to its submission (fence, assumption 10).
//! - *Resident* is reported only of an object that was read back from stable storage, was verified, and may be sent at
//!   that moment. A job that only looks finds out whether an object that was reported is still there, and fetches nothing.
//! - A withdrawn job is not begun any more. One that waits for its turn, here or at an origin, leaves; a fetch that
//!   somebody else waits for, or that was already sent, goes on.
//! - Users come first (promise P4): while they wait for fetches of their own, few jobs run.
//!
//! # Not here
//!
//! A second way into the store: fetching is the business of `fill`, for users and jobs alike.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use httpcache::Allowed;
use model::fence::Asker;
use model::prefetch::{JOBS_PER_NODE_MAX, UNDER_WAY_MAX};
use model::{Cause, Job, Outcome, Report, UnderWay, UrlKey};
use store::VerifyError;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fill::{self, ArrivedBody, Purpose};
use crate::head::ObjectKey;
use crate::lookup::stored;
use crate::pins::{self, NotPinned};
use crate::pipeline::{ATTEMPTS_MAX, Found, Look, Pipeline, allowed};
use crate::slices::Part;
use crate::upstream;
use crate::wanted::Wanted;

/// Jobs under way at a time, and how many while users wait for fetches. Most jobs wait for a sync that many share.
const RUNNING_MAX: usize = 256;
const RUNNING_WHILE_BUSY_MAX: usize = 8;

/// How many times as many places as are free the jobs of one account may have, and those of one host: an origin may be
/// slow, and jobs of others must not wait for it. So an account that is alone has three quarters of the places, two have
/// three sevenths each, and a host of an account that is alone has two thirds.
const OF_AN_ACCOUNT_PER_FREE: usize = 3;
const OF_A_HOST_PER_FREE: usize = 2;

/// Jobs of one host that fetch at a time.
const FETCHING_MAX: usize = 64;

/// The number of users' fetches from which the node counts as busy.
const BUSY_FILLS: u64 = 16;

/// How long reports are gathered while jobs are under way, and how many are sent at once without waiting.
const GATHER: std::time::Duration = std::time::Duration::from_millis(10);
const REPORTS_ENOUGH: usize = 64;

/// How often a busy node checks whether it still is.
const BUSY_RECHECK: std::time::Duration = std::time::Duration::from_millis(50);

type Name = (u64, u32);

#[derive(Default)]
struct Queue {
    /// Jobs not begun, by account. Accounts take turns.
    waiting: BTreeMap<u64, Waiting>,
    /// The account that had the last turn.
    last_turn: u64,
    /// Hosts with jobs under way, by account.
    hosts: BTreeMap<(u64, String), Arc<Host>>,
    /// Jobs waiting or under way, in an order that is the same in every run of a simulation.
    names: BTreeMap<Name, Held>,
    /// Reports not sent.
    outbox: VecDeque<Report>,
    /// Since when there are any.
    since: Option<Instant>,
}

/// The jobs of one account that were not begun.
#[derive(Default)]
struct Waiting {
    /// By chunk, in order of arrival. Chunks take turns: those of a large task arrive one after the other, and other work
    /// need not wait for hundreds of them.
    chunks: BTreeMap<u64, VecDeque<Job>>,
    /// The chunk that had the last turn.
    last_turn: u64,
}

/// The jobs of one host that are under way.
struct Host {
    fetching: Semaphore,
}

/// A job that was begun.
pub(crate) struct Begun {
    pub(crate) job: Job,
    /// Cancels it.
    pub(crate) withdrawn: CancellationToken,
    /// Its host, held for as long as it is under way.
    host: Arc<Host>,
}

/// A job that waits or is under way.
#[derive(Default)]
struct Held {
    /// Cancels it.
    withdrawn: CancellationToken,
    /// The body being received for it, its length, and whether [`Prefetch::under_way`] has seen it before.
    coming: Option<(store::Follower, u64, bool)>,
}

/// The jobs of a node.
pub(crate) struct Prefetch {
    queue: Mutex<Queue>,
    arrived: Notify,
    reported: Notify,
}

impl Prefetch {
    pub(crate) fn new() -> Prefetch {
        Prefetch { queue: Mutex::default(), arrived: Notify::new(), reported: Notify::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock can panic")
    }

    /// Takes jobs. Those that are here already are not taken twice, and none is taken beyond [`JOBS_PER_NODE_MAX`].
    pub(crate) fn accept(&self, jobs: impl Iterator<Item = Job>) {
        let mut queue = self.queue();
        let mut refused = 0_usize;
        for job in jobs {
            let name = (job.chunk, job.index);
            if queue.names.contains_key(&name) {
                continue;
            }
            if queue.names.len() + queue.outbox.len() >= JOBS_PER_NODE_MAX {
                refused += 1;
                continue;
            }
            queue.names.insert(name, Held::default());
            queue.waiting.entry(job.account).or_default().chunks.entry(job.chunk).or_default().push_back(job);
        }
        drop(queue);
        if refused > 0 {
            tracing::warn!(refused, "more jobs than a node takes; their lease will run out");
        }
        self.arrived.notify_one();
    }

    /// Drops the jobs of these chunks. Nothing is reported of them, and none that waits for its turn is begun.
    pub(crate) fn withdraw(&self, chunks: &[u64]) {
        if !chunks.is_empty() {
            self.drop_jobs(|chunk| chunks.contains(&chunk));
        }
    }

    /// Drops all jobs: the control plane gives them to other nodes.
    pub(crate) fn withdraw_all(&self) {
        self.drop_jobs(|_| true);
    }

    fn drop_jobs(&self, of: impl Fn(u64) -> bool) {
        let mut queue = self.queue();
        queue.waiting.retain(|_, waiting| {
            waiting.chunks.retain(|chunk, _| !of(*chunk));
            !waiting.chunks.is_empty()
        });
        queue.outbox.retain(|report| !of(report.chunk));
        for (_, held) in queue.names.extract_if(.., |(chunk, _), _| of(*chunk)) {
            held.withdrawn.cancel();
        }
    }

    /// Records that a body of this length is being received for a job.
    fn follow(&self, job: &Job, coming: store::Follower, length: u64) {
        if let Some(held) = self.queue().names.get_mut(&(job.chunk, job.index)) {
            held.coming = Some((coming, length, false));
        }
    }

    /// The progress of the jobs whose bodies were already coming at the previous call: most are done sooner.
    pub(crate) fn under_way(&self) -> Vec<UnderWay> {
        let mut queue = self.queue();
        let mut under_way = Vec::new();
        for ((chunk, index), held) in &mut queue.names {
            let Some((coming, length, seen)) = &mut held.coming else { continue };
            if std::mem::replace(seen, true) && under_way.len() < UNDER_WAY_MAX {
                under_way.push(UnderWay { chunk: *chunk, index: *index, bytes: coming.length(), length: *length });
            }
        }
        under_way
    }

    /// Waits for reports and takes up to `most` of them. While jobs are under way, a few reports are held back for
    /// [`GATHER`], so that a message carries many.
    pub(crate) async fn reports(&self, most: usize) -> Vec<Report> {
        loop {
            let reported = self.reported.notified();
            let until = {
                let mut queue = self.queue();
                let until = queue.since.map(|since| since + GATHER);
                let ready = queue.outbox.len() >= REPORTS_ENOUGH || queue.names.is_empty();
                if !queue.outbox.is_empty() && (ready || until.is_none_or(|until| Instant::now() >= until)) {
                    let most = most.min(queue.outbox.len());
                    let reports = queue.outbox.drain(..most).collect();
                    queue.since = (!queue.outbox.is_empty()).then(Instant::now);
                    return reports;
                }
                until
            };
            match until {
                Some(until) => {
                    tokio::select! {
                        () = reported => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                None => reported.await,
            }
        }
    }

    /// Jobs waiting, jobs under way, reports not sent.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let queue = self.queue();
        let waiting = queue.waiting.values().flat_map(|waiting| waiting.chunks.values()).map(VecDeque::len).sum();
        (waiting, queue.names.len() - waiting, queue.outbox.len())
    }

    /// The next job to begin while `free` places are free: of the next account that does not yet have its part of the
    /// places, the oldest of the next chunk whose submission the node has applied, and whose host does not yet have its
    /// part.
    pub(crate) fn next(&self, applied: model::Revision, free: usize) -> Option<Begun> {
        let mut queue = self.queue();
        queue.hosts.retain(|_, host| under_way(host) > 0);
        let (hosts, last) = (&queue.hosts, queue.last_turn);
        let may_begin = |job: &Job| {
            let host = hosts.get(&(job.account, host(&job.url).to_owned()));
            job.begin_after <= applied && host.map_or(0, under_way) < OF_A_HOST_PER_FREE * free
        };
        let (account, chunk) = in_turn(&queue.waiting, last).find_map(|(account, waiting)| {
            let of_account = hosts.range((*account, String::new())..).take_while(|((of, _), _)| of == account);
            if of_account.map(|(_, host)| under_way(host)).sum::<usize>() >= OF_AN_ACCOUNT_PER_FREE * free {
                return None;
            }
            let mut chunks = in_turn(&waiting.chunks, waiting.last_turn);
            let chunk = chunks.find(|(_, jobs)| jobs.front().is_some_and(may_begin)).map(|(chunk, _)| *chunk)?;
            Some((*account, chunk))
        })?;
        queue.last_turn = account;
        let waiting = queue.waiting.get_mut(&account)?;
        waiting.last_turn = chunk;
        let jobs = waiting.chunks.get_mut(&chunk)?;
        let job = jobs.pop_front()?;
        if jobs.is_empty() {
            waiting.chunks.remove(&chunk);
        }
        if waiting.chunks.is_empty() {
            queue.waiting.remove(&account);
        }
        let withdrawn = queue.names.get(&(job.chunk, job.index))?.withdrawn.clone();
        let new = || Arc::new(Host { fetching: Semaphore::new(FETCHING_MAX) });
        let host = queue.hosts.entry((account, host(&job.url).to_owned())).or_insert_with(new).clone();
        Some(Begun { job, withdrawn, host })
    }

    /// Ends a job. Nothing is reported of a withdrawn one: its place and its name may be another job's by now.
    pub(crate) fn done(&self, report: Report, withdrawn: &CancellationToken) {
        let mut queue = self.queue();
        if withdrawn.is_cancelled() {
            return;
        }
        queue.names.remove(&(report.chunk, report.index));
        queue.outbox.push_back(report);
        queue.since.get_or_insert_with(Instant::now);
        // A task that gathers reports is woken only when necessary.
        let wakes = queue.outbox.len() == 1 || queue.outbox.len() == REPORTS_ENOUGH || queue.names.is_empty();
        drop(queue);
        if wakes {
            self.reported.notify_one();
        }
    }

    /// Runs jobs until `stopping`.
    pub(crate) async fn run(self: Arc<Self>, pipeline: Arc<Pipeline>, stopping: CancellationToken) {
        let mut applied = pipeline.knowing().applied_changes();
        let mut running = JoinSet::new();
        loop {
            let now_applied = *applied.borrow_and_update();
            let (_, users) = pipeline.fills().counts();
            let busy = users >= BUSY_FILLS;
            let most = if busy { RUNNING_WHILE_BUSY_MAX } else { RUNNING_MAX };
            while running.len() < most && pipeline.knowing().known().serves() {
                let free = most - running.len();
                let Some(Begun { job, withdrawn, host }) = self.next(now_applied, free) else { break };
                let (prefetch, pipeline) = (self.clone(), pipeline.clone());
                running.spawn(async move {
                    let began = Instant::now();
                    let warming = async {
                        match job.look {
                            true => pipeline.look_again(&job).await,
                            false => pipeline.warm(&job, &prefetch, &host.fetching).await,
                        }
                    };
                    let Some(outcome) = withdrawn.run_until_cancelled(warming).await else { return };
                    match &outcome {
                        _ if job.look => {} // it counted when it became resident
                        Outcome::Resident { .. } => pipeline.metrics().jobs_done.inc(),
                        // Nothing was tried, and the job comes again.
                        Outcome::Failed(Cause::OriginBusy { .. }) => pipeline.metrics().jobs_put_off.inc(),
                        Outcome::Failed(cause) => {
                            tracing::debug!(url = job.url, %cause, "prefetch failed");
                            pipeline.metrics().jobs_failed.inc();
                        }
                    }
                    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    prefetch.done(job.report(took_ms, outcome), &withdrawn);
                });
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                _ = running.join_next(), if !running.is_empty() => {}
                () = self.arrived.notified() => {}
                changed = applied.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(BUSY_RECHECK), if busy => {}
            }
        }
    }
}

/// All entries, beginning behind the one that had the last turn.
fn in_turn<T>(all: &BTreeMap<u64, T>, last: u64) -> impl Iterator<Item = (&u64, &T)> {
    all.range((Bound::Excluded(last), Bound::Unbounded)).chain(all.range(..=last))
}

/// How many jobs of a host are under way.
fn under_way(host: &Arc<Host>) -> usize {
    // The queue itself holds it, too.
    Arc::strong_count(host) - 1
}

/// The host of a URL, as it was written.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or_default()
}

/// The outcome of waiting for a prefetch's fetch.
enum Step {
    /// Look at the store again; `fetched` when this fetch brought or confirmed the object.
    Look {
        fetched: bool,
    },
    Failed(Cause),
}

impl Pipeline {
    /// Makes an object resident (promise P2). It fetches within the bound of its host, and tells `prefetch` of the body
    /// being received.
    pub(crate) async fn warm(&self, job: &Job, prefetch: &Prefetch, fetching: &Semaphore) -> Outcome {
        let mut fetched = false;
        for _ in 0..ATTEMPTS_MAX {
            // Each time anew: the domain may make its keys differently by now.
            let Some(wanted) = self.wanted(job) else { return Outcome::Failed(Cause::UnknownDomain) };
            let look = self.look(&wanted).await;
            let (good, confirm) = self.weigh(&wanted, &look);
            if let Some(found) = look.found.as_ref().filter(|_| good) {
                match self.prove(job, &look, found, &wanted, fetched).await {
                    Ok(resident) => match self.pin(job, &wanted, &look, found).await {
                        Ok(()) => return resident,
                        Err(NotPinned::Absent) => continue,
                        Err(NotPinned::For(cause)) => return Outcome::Failed(cause),
                    },
                    Err(VerifyError::Absent | VerifyError::Read(store::ReadError::Evicted)) => continue,
                    // The object may be good, and the job is tried again later.
                    Err(VerifyError::Read(error)) if error.is_passing() => {
                        return Outcome::Failed(Cause::Store(upstream::words(&error)));
                    }
                    Err(VerifyError::Read(error)) => {
                        tracing::warn!(
                            url = job.url,
                            error = &error as &dyn std::error::Error,
                            "object could not be read back"
                        );
                        let _ = self.store().remove(look.key.hash(), look.key.bytes(), store::Which::Any).await;
                        if !fetched {
                            continue;
                        }
                        // The disk would hardly do better with what is fetched once more at once.
                        self.fills().upstream().limiter().note(wanted.url.hash(), false);
                        return Outcome::Failed(Cause::Store(upstream::words(&error)));
                    }
                    Err(error) => return Outcome::Failed(Cause::Store(upstream::words(&error))),
                }
            }
            // What is fetched could not be proven, and the origin would have been asked for nothing.
            if let Err(error) = self.store().can_prove() {
                return Outcome::Failed(Cause::Store(upstream::words(&error)));
            }
            let permit = fetching.acquire().await;
            let coming = |body, length| prefetch.follow(job, body, length);
            let step = self.fetch_to_store(&wanted, &look, confirm, coming).await;
            drop(permit);
            match step {
                Step::Look { fetched: brought } => fetched |= brought,
                Step::Failed(cause) => return Outcome::Failed(cause),
            }
        }
        Outcome::Failed(Cause::Evicted)
    }

    /// Whether an object that this node reported resident still is: stored whole, good to be sent, fresh, and pinned if the job says
    /// so. It was read back from the medium when it became resident, so that is not done again.
    pub(crate) async fn look_again(&self, job: &Job) -> Outcome {
        let Some(wanted) = self.wanted(job) else { return Outcome::Failed(Cause::UnknownDomain) };
        let look = self.look(&wanted).await;
        let Some(found) = look.found.as_ref().filter(|_| self.weigh(&wanted, &look).0) else {
            return Outcome::Failed(Cause::Evicted);
        };
        let marker = match look.marker {
            Some(generation) => {
                let marker = stored(self.store(), &ObjectKey::bare(&wanted.url)).await;
                marker.is_some_and(|marker| marker.generation() == generation && self.store().holds(&marker))
            }
            None => true,
        };
        if !marker || !self.store().holds(&found.object) {
            return Outcome::Failed(Cause::Evicted);
        }
        let (bytes, checksum) = (found.object.length(), found.object.checksum());
        // A pin that has expired since is no reason to fail.
        let now = pins::secs(self.knowing().clock().now());
        let pinned = match job.pin.as_ref().filter(|pin| pin.until > now) {
            Some(_) => self.pin(job, &wanted, &look, found).await,
            None => Ok(()),
        };
        match pinned {
            Ok(()) => Outcome::Resident { bytes, checksum, validator: found.head.validator(), fetched: false },
            Err(NotPinned::Absent) => Outcome::Failed(Cause::Evicted),
            Err(NotPinned::For(cause)) => Outcome::Failed(cause),
        }
    }

    fn wanted(&self, job: &Job) -> Option<Wanted> {
        let (scheme, rest) = job.url.split_once("://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let url = UrlKey::new(host, if path.is_empty() { "/" } else { path }).ok()?;
        let known = self.knowing().known();
        let domain = known.knowledge.shared_domain_for(url.host()).filter(|domain| domain.online)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &job.headers {
            // What is not a header cannot select a variant either.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
            {
                headers.append(name, value);
            }
        }
        crate::peer::strip(&mut headers);
        let authority = Authority::try_from(url.host()).ok()?;
        let domain = Wanted::kept_for(domain, &url, job.verbatim);
        let (url, sent) = Wanted::named(&domain.functions, url);
        Some(Wanted {
            url,
            sent,
            domain,
            method: Method::GET,
            version: http::Version::HTTP_11,
            shared: OnceLock::new(),
            authority,
            headers,
            asker: Asker::User,
            passed: Vec::new(),
            purpose: Purpose::Prefetch,
            refetch: if job.refetch { job.chunk } else { 0 },
            again: job.again,
            secure: scheme.eq_ignore_ascii_case("https"),
        })
    }

    /// Whether the stored object is as good as freshly fetched, and if not, whether a 304 would make it so.
    fn weigh(&self, wanted: &Wanted, look: &Look) -> (bool, bool) {
        let Some(found) = look.found.as_ref() else { return (false, false) };
        let mut judging = self.knowing().judging();
        let Some(judged) = self.judge_found(&mut judging, found, wanted) else {
            return (false, false);
        };
        let allowed = allowed(&judged, found.vouched.stamp);
        let object = found.head.status.is_success();
        let fresh = found.head.freshness.is_fresh(self.knowing().clock().now());
        (allowed == Allowed::Send && fresh && object, allowed != Allowed::Refetch && object)
    }

    /// Reads the object back from stable storage, with the marker that leads to it, and checks once more that it may be
    /// sent and is what users ask for. [`VerifyError::Absent`] means to look again.
    async fn prove(
        &self,
        job: &Job,
        look: &Look,
        found: &Found,
        wanted: &Wanted,
        fetched: bool,
    ) -> Result<Outcome, VerifyError> {
        let verified = self.store().verify(look.key.hash(), look.key.bytes()).await?;
        if verified.generation != found.object.generation() {
            return Err(VerifyError::Absent); // replaced meanwhile: look at the new one
        }
        if let Some(marker) = look.marker {
            let bare = ObjectKey::bare(&wanted.url);
            if self.store().verify(bare.hash(), bare.bytes()).await?.generation != marker {
                return Err(VerifyError::Absent);
            }
        }
        let named = |wanted: &Wanted| (wanted.url.clone(), wanted.domain.functions.shape());
        if !self.weigh(wanted, look).0 || self.wanted(job).as_ref().map(named) != Some(named(wanted)) {
            return Err(VerifyError::Absent);
        }
        Ok(Outcome::Resident {
            bytes: verified.length,
            checksum: verified.checksum,
            validator: found.head.validator(),
            fetched,
        })
    }

    /// Pins the proven object, and the marker that leads to it, where the job asks for it.
    async fn pin(&self, job: &Job, wanted: &Wanted, look: &Look, found: &Found) -> Result<(), NotPinned> {
        let Some(pin) = &job.pin else { return Ok(()) };
        let marker = look.marker.map(|_| ObjectKey::bare(&wanted.url));
        let keys: Vec<ObjectKey> = std::iter::once(look.key.clone()).chain(marker).collect();
        if pin.until <= pins::secs(self.knowing().clock().now()) {
            return Err(NotPinned::For(Cause::NotPinned(
                "the time until which it was to be pinned is over".to_owned(),
            )));
        }
        self.pins().pin(&keys, found.object.generation(), found.object.length(), pin).await
    }

    /// Fetches the object, and calls `coming` with its body and length, where a length is announced.
    async fn fetch_to_store(
        &self,
        wanted: &Wanted,
        look: &Look,
        confirm: bool,
        coming: impl FnOnce(store::Follower, u64),
    ) -> Step {
        if wanted.refetch > 0 {
            self.fills().overtake(&wanted.url, wanted.refetch).await;
        }
        let Some(waiting) = self.fills().begin(self.order(wanted, look, confirm, Part::Whole)) else {
            return Step::Failed(Cause::Store("too many fetches are running".to_owned()));
        };
        match waiting.outcome().await {
            fill::Outcome::Body(arrived) => {
                if !arrived.head.status.is_success() {
                    return Step::Failed(Cause::OriginStatus(arrived.head.status.as_u16()));
                }
                if !arrived.head.freshness.is_fresh(self.knowing().clock().now()) {
                    return Step::Failed(Cause::NotStorable(fill::NOT_FRESH.to_owned()));
                }
                if arrived.head.refetch < wanted.refetch {
                    let problem = "a node above gave a copy from before it was asked to fetch again";
                    return Step::Failed(Cause::OriginUnreachable(problem.to_owned()));
                }
                if let ArrivedBody::Growing(body, Some(length)) = &arrived.body {
                    coming(body.clone(), *length);
                }
                let mut done = arrived.done.clone();
                let stored = done.wait_for(Option::is_some).await.map(|stored| stored.clone());
                match stored {
                    Ok(Some(Err(cause))) => Step::Failed(cause),
                    Ok(_) => Step::Look { fetched: true },
                    Err(_) => Step::Failed(Cause::Store("the node is stopping".to_owned())),
                }
            }
            fill::Outcome::Mine(lone) if !lone.answer.head.status.is_success() => {
                Step::Failed(Cause::OriginStatus(lone.answer.head.status.as_u16()))
            }
            fill::Outcome::Mine(lone) => Step::Failed(lone.why),
            // Another request's fetch ended without being stored: the next attempt makes its own.
            fill::Outcome::NotMine { .. } | fill::Outcome::Again => Step::Look { fetched: false },
            fill::Outcome::Failed(error) => Step::Failed(error.into()),
        }
    }
}
