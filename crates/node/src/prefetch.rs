//! Prefetch jobs: a GET through the same pipeline, its body to the store alone, then the proof that the object is there.
//!
//! # What always holds
//!
//! - A job is begun only once the log is applied up to its submission (fence, assumption 10).
//! - *Resident* is said of what was read back from stable storage, checked, and may be sent at that moment.
//! - Users come first (promise P4): while they wait for fetches of their own, few jobs run.
//!
//! # Not here
//!
//! A second way into the store: fetching is `fill`'s, whoever asks.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httpcache::Allowed;
use model::fence::Asker;
use model::prefetch::JOBS_PER_NODE_MAX;
use model::{Cause, Job, Outcome, Report, UrlKey};
use store::VerifyError;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fill::{self, Purpose};
use crate::pipeline::{ATTEMPTS_MAX, Found, Look, Pipeline, allowed};
use crate::slices::Part;
use crate::upstream;
use crate::wanted::Wanted;

/// Jobs under way at a time, and how many while users wait for fetches. Most of them wait for a sync that many share.
const RUNNING_MAX: usize = 256;
const RUNNING_WHILE_BUSY_MAX: usize = 8;

/// Jobs that fetch at a time.
const FETCHING_MAX: usize = 64;

/// Users' fetches at a time from which on the node counts as busy.
const BUSY_FILLS: u64 = 16;

/// How often a busy node looks whether it still is.
const BUSY_RECHECK: std::time::Duration = std::time::Duration::from_millis(50);

type Name = (u64, u32);

#[derive(Default)]
struct Queue {
    /// Jobs not begun, oldest first.
    waiting: VecDeque<Job>,
    /// Jobs waiting or under way.
    names: HashSet<Name>,
    /// Reports not sent.
    outbox: VecDeque<Report>,
}

/// The jobs of a node.
pub(crate) struct Prefetch {
    queue: Mutex<Queue>,
    arrived: Notify,
    reported: Notify,
    fetching: Semaphore,
}

impl Prefetch {
    pub(crate) fn new() -> Prefetch {
        let fetching = Semaphore::new(FETCHING_MAX);
        Prefetch { queue: Mutex::default(), arrived: Notify::new(), reported: Notify::new(), fetching }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of this lock can panic")
    }

    /// Takes jobs; those that are here already are not taken twice, and beyond [`JOBS_PER_NODE_MAX`] none is.
    pub(crate) fn accept(&self, jobs: impl Iterator<Item = Job>) {
        let mut queue = self.queue();
        let mut refused = 0_usize;
        for job in jobs {
            let name = (job.chunk, job.index);
            if queue.names.contains(&name) {
                continue;
            }
            if queue.names.len() + queue.outbox.len() >= JOBS_PER_NODE_MAX {
                refused += 1;
                continue;
            }
            queue.names.insert(name);
            queue.waiting.push_back(job);
        }
        drop(queue);
        if refused > 0 {
            tracing::warn!(refused, "more jobs than a node takes; their lease will run out");
        }
        self.arrived.notify_one();
    }

    /// Drops the jobs of these chunks that are not begun.
    pub(crate) fn withdraw(&self, chunks: &[u64]) {
        if chunks.is_empty() {
            return;
        }
        let mut queue = self.queue();
        let Queue { waiting, names, .. } = &mut *queue;
        waiting.retain(|job| {
            let stays = !chunks.contains(&job.chunk);
            if !stays {
                names.remove(&(job.chunk, job.index));
            }
            stays
        });
    }

    /// Waits for reports and takes up to `most` of them.
    pub(crate) async fn reports(&self, most: usize) -> Vec<Report> {
        loop {
            let reported = self.reported.notified();
            {
                let mut queue = self.queue();
                let most = most.min(queue.outbox.len());
                if most > 0 {
                    return queue.outbox.drain(..most).collect();
                }
            }
            reported.await;
        }
    }

    /// Jobs waiting, jobs under way, reports not sent.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let queue = self.queue();
        (queue.waiting.len(), queue.names.len() - queue.waiting.len(), queue.outbox.len())
    }

    /// The oldest job whose submission the node has caught up with.
    fn next(&self, applied: model::Revision) -> Option<Job> {
        let mut queue = self.queue();
        let at = queue.waiting.iter().position(|job| job.begin_after <= applied)?;
        queue.waiting.remove(at)
    }

    fn done(&self, report: Report) {
        let mut queue = self.queue();
        queue.names.remove(&(report.chunk, report.index));
        queue.outbox.push_back(report);
        drop(queue);
        self.reported.notify_one();
    }

    /// Does jobs until `stopping`.
    pub(crate) async fn run(self: Arc<Self>, pipeline: Arc<Pipeline>, stopping: CancellationToken) {
        let mut applied = pipeline.knowing().applied_changes();
        let mut running = JoinSet::new();
        loop {
            let now_applied = *applied.borrow_and_update();
            let (_, users) = pipeline.fills().counts();
            let busy = users >= BUSY_FILLS;
            let most = if busy { RUNNING_WHILE_BUSY_MAX } else { RUNNING_MAX };
            while running.len() < most && pipeline.knowing().known().serves() {
                let Some(job) = self.next(now_applied) else { break };
                let (prefetch, pipeline) = (self.clone(), pipeline.clone());
                running.spawn(async move {
                    let (chunk, index) = (job.chunk, job.index);
                    let outcome = pipeline.warm(&job, &prefetch.fetching).await;
                    match &outcome {
                        Outcome::Resident { .. } => pipeline.metrics().jobs_done.inc(),
                        Outcome::Failed(cause) => {
                            tracing::debug!(url = job.url, %cause, "prefetch failed");
                            pipeline.metrics().jobs_failed.inc();
                        }
                    }
                    prefetch.done(Report { chunk, index, outcome });
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

/// What waiting for a prefetch's fetch came to.
enum Step {
    /// Look at the store again; `fetched` when this fetch brought or confirmed the object.
    Look {
        fetched: bool,
    },
    Failed(Cause),
}

impl Pipeline {
    /// Makes an object resident (promise P2); fetches while it holds a permit of `fetching`.
    pub(crate) async fn warm(&self, job: &Job, fetching: &Semaphore) -> Outcome {
        let Some(wanted) = self.wanted(job) else { return Outcome::Failed(Cause::UnknownDomain) };
        let mut fetched = false;
        for _ in 0..ATTEMPTS_MAX {
            let look = self.look(&wanted).await;
            let (good, confirm) = self.weigh(&wanted, &look);
            if let Some(found) = look.found.as_ref().filter(|_| good) {
                match self.prove(&look, found, &wanted, fetched).await {
                    Ok(resident) => return resident,
                    Err(VerifyError::Absent) => continue,
                    Err(VerifyError::Read(error)) => {
                        tracing::warn!(
                            url = job.url,
                            error = &error as &dyn std::error::Error,
                            "object could not be read back"
                        );
                        let _ = self.store().remove(look.key.hash(), look.key.bytes(), store::Which::Any).await;
                        continue;
                    }
                    Err(error) => return Outcome::Failed(Cause::Store(upstream::words(&error))),
                }
            }
            let permit = fetching.acquire().await;
            let step = self.fetch_to_store(&wanted, &look, confirm).await;
            drop(permit);
            match step {
                Step::Look { fetched: brought } => fetched |= brought,
                Step::Failed(cause) => return Outcome::Failed(cause),
            }
        }
        Outcome::Failed(Cause::Evicted)
    }

    fn wanted(&self, job: &Job) -> Option<Wanted> {
        let (scheme, rest) = job.url.split_once("://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let url = UrlKey::new(host, if path.is_empty() { "/" } else { path }).ok()?;
        let known = self.knowing().known();
        let domain = known.knowledge.shared_domain_for(url.host()).filter(|domain| domain.online)?;
        let mut headers = HeaderMap::new();
        for (name, value) in &job.headers {
            // What is no header cannot choose a variant either.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
            {
                headers.append(name, value);
            }
        }
        crate::peer::strip(&mut headers);
        let authority = Authority::try_from(url.host()).ok()?;
        let (url, sent) = Wanted::named(&domain.functions, url);
        Some(Wanted {
            url,
            sent,
            domain: domain.clone(),
            method: Method::GET,
            shared: OnceLock::new(),
            authority,
            headers,
            asker: Asker::User,
            passed: Vec::new(),
            purpose: Purpose::Prefetch,
            secure: scheme.eq_ignore_ascii_case("https"),
        })
    }

    /// Whether what is found is as good as freshly fetched, and if not, whether a 304 would make it so.
    fn weigh(&self, wanted: &Wanted, look: &Look) -> (bool, bool) {
        // Slices are no residency: whether all of them are there nobody knows.
        let Some(found) = look.found.as_ref().filter(|found| found.head.slices.is_none()) else {
            return (false, false);
        };
        let mut judging = self.knowing().judging();
        let Some(judged) = self.judge_found(&mut judging, found, wanted) else {
            return (false, false);
        };
        let allowed = allowed(&judged, found.vouched.stamp);
        let object = found.head.status.is_success();
        let fresh = found.head.freshness.is_fresh(self.knowing().clock().now());
        (allowed == Allowed::Send && fresh && object, allowed != Allowed::Refetch && object)
    }

    /// Reads the object back from stable storage, and looks once more whether it may be sent.
    async fn prove(&self, look: &Look, found: &Found, wanted: &Wanted, fetched: bool) -> Result<Outcome, VerifyError> {
        let verified = self.store().verify(look.key.hash(), look.key.bytes()).await?;
        if verified.generation != found.object.generation() {
            return Err(VerifyError::Absent); // replaced meanwhile: look at the new one
        }
        if !self.weigh(wanted, look).0 {
            return Err(VerifyError::Absent);
        }
        Ok(Outcome::Resident {
            bytes: verified.length,
            checksum: verified.checksum,
            validator: found.head.validator(),
            fetched,
        })
    }

    async fn fetch_to_store(&self, wanted: &Wanted, look: &Look, confirm: bool) -> Step {
        let Some(waiting) = self.fills().begin(self.order(wanted, look, confirm, Part::Whole, false)) else {
            return Step::Failed(Cause::Store("too many fetches are running".to_owned()));
        };
        match waiting.outcome().await {
            fill::Outcome::Body(arrived) => {
                if !arrived.head.status.is_success() {
                    return Step::Failed(Cause::OriginStatus(arrived.head.status.as_u16()));
                }
                if !arrived.head.freshness.is_fresh(self.knowing().clock().now()) {
                    return Step::Failed(Cause::NotStorable(
                        "not fresh on arrival: users would not be answered from the store".to_owned(),
                    ));
                }
                let mut done = arrived.done.clone();
                let stored = done.wait_for(Option::is_some).await.map(|stored| stored.clone());
                match stored {
                    Ok(Some(Err(cause))) => Step::Failed(cause),
                    Ok(_) => Step::Look { fetched: true },
                    Err(_) => Step::Failed(Cause::Store("the node is stopping".to_owned())),
                }
            }
            fill::Outcome::Mine(lone)
                if !lone.answer.head.status.is_success() && lone.answer.head.status != StatusCode::NOT_MODIFIED =>
            {
                Step::Failed(Cause::OriginStatus(lone.answer.head.status.as_u16()))
            }
            fill::Outcome::Mine(lone) => Step::Failed(lone.why),
            // Another's fetch ended without being stored: ask on our own next time.
            fill::Outcome::NotMine | fill::Outcome::Again => Step::Look { fetched: false },
            fill::Outcome::Failed(error) => Step::Failed(error.into()),
        }
    }
}
