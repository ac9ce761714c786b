//! Fetches what is to be stored: one fetch per key however many ask, to the store and to everybody who waits.
//!
//! A fetch is a task of its own, so the client that began it may leave. It ends in one of three ways: a body that grows in the
//! store and is read from there by everybody, a stored body that a 304 confirmed, or an answer that is nobody's but the one's who
//! began it; the others then ask on their own.
//!
//! # What always holds
//!
//! - Moment, stamp and fence are noted before anything is asked, and never change (rule 1); a fetch resumed by range keeps them.
//! - Who waits is judged at his own header, by the pipeline. Nothing here decides who may be sent what.
//! - A 304 confirms the very body whose validator was sent, or nothing.
//! - A body that ends early is never stored, and whoever reads it is cut off: nobody takes a part for the whole.
//! - What was asked for before a write to its URL was answered is not stored, and nobody joins it ([`Fills::forget`]).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use model::fence::{Asker, Fetch, Vouched};
use model::mistake::{Mistake, made};
use model::{Cause, Domain, NodeName, Revision, Tags, UrlKey};
use store::{Object, Store, WriteError};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::functions::keep;
use crate::head::{self, Head, ObjectKey, Series, Stored};
use crate::knowing::{Knowing, LogTag};
use crate::metrics::{Metrics, Refusal};
use crate::respond::BodyError;
use crate::slices::{self, Part, SliceSizes};
use crate::upstream::{self, Answer, AskError, BODY_SILENCE_MAX, From, Question, Upstream};
use crate::vouched::VouchedMoments;

/// Fetches at a time.
pub(crate) const FILLS_MAX: usize = 8192;

/// How often one fetch is continued by range after its connection broke.
const RESUMES_MAX: u32 = 3;

/// Keys remembered because their answers are nobody's but the asker's, and for how long: they are not waited for.
const LONE_MAX: usize = 16_384;
const LONE_FOR: Duration = Duration::from_secs(5);

/// The same for a body that turned out too large for the store only while it came: whoever follows such a fill is cut off.
const TOO_LARGE_FOR: Duration = Duration::from_secs(600);

/// Markers that may be left at the same time.
const MARKERS_AT_ONCE: usize = 64;

/// Chunks from which on they are kept as they came, in bytes.
const CHUNK_KEPT_MIN: usize = 128 << 10;

/// Why a fetch is begun: users come first (promise P4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    User,
    Prefetch,
}

/// A stored body that may be confirmed.
#[derive(Clone)]
pub(crate) struct Confirmable {
    pub(crate) object: Object,
    pub(crate) head: Arc<Head>,
    pub(crate) vouched: Vouched,
}

/// What is to be fetched.
pub(crate) struct Order {
    pub(crate) url: UrlKey,
    /// The path with its query that is asked for; the key may have less of it.
    pub(crate) path: String,
    pub(crate) domain: Arc<Domain>,
    /// Under what the asker looked.
    pub(crate) key: ObjectKey,
    /// What he found there, whatever it was worth.
    pub(crate) seen: Option<store::Generation>,
    /// The stored body to confirm, if it may be.
    pub(crate) confirm: Option<Confirmable>,
    /// What of it is wanted.
    pub(crate) part: Part,
    /// The request as it goes upstream, without conditions.
    pub(crate) headers: HeaderMap,
    pub(crate) asker: Asker,
    pub(crate) passed: Vec<NodeName>,
    pub(crate) purpose: Purpose,
    /// Not waiting for others, not waited for by others, and not stored.
    pub(crate) alone: bool,
}

/// How an answer came here.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) from: From,
    /// What the parent said of it.
    pub(crate) x_cache: Option<HeaderValue>,
    pub(crate) status: StatusCode,
}

/// A body that came, or was confirmed.
pub(crate) struct Arrived {
    /// What is kept of it.
    pub(crate) head: Arc<Head>,
    /// The whole, for the one who began, where some of it is for nobody else ([`httpcache::kept`]).
    pub(crate) own_head: Option<Arc<Head>>,
    pub(crate) vouched: Vouched,
    pub(crate) body: ArrivedBody,
    /// The request fields that chose it, and their values in the request that was sent.
    pub(crate) vary: Vec<HeaderName>,
    pub(crate) values: Vec<u8>,
    pub(crate) came: Came,
    /// Resolves once the body is in the store, or will not be.
    pub(crate) done: watch::Receiver<Option<Result<(), Cause>>>,
}

/// Where to read it.
#[derive(Clone)]
pub(crate) enum ArrivedBody {
    /// From the fill as it grows; the length when it was announced.
    Growing(store::Follower, Option<u64>),
    /// From the store.
    Stored(Object),
    /// Slice by slice.
    Sliced(Box<slices::Body>),
}

/// Bytes of it on their way.
pub(crate) enum Reading {
    Store(store::Reader),
    Slices(slices::Reader),
}

impl Reading {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Reading::Store(reader) => Pin::new(reader).poll_next(cx).map_err(BodyError::Store),
            Reading::Slices(reader) => reader.as_mut().poll_next(cx),
        }
    }
}

impl ArrivedBody {
    /// Reads a part of it.
    pub(crate) fn read(&self, range: httpcache::ByteRange) -> Reading {
        match self {
            ArrivedBody::Growing(follower, _) => Reading::Store(follower.read(range.start, Some(range.end))),
            ArrivedBody::Stored(object) => Reading::Store(object.read(range.start..range.end)),
            ArrivedBody::Sliced(body) => Reading::Slices(body.read(range.start..range.end)),
        }
    }
}

/// What a fetch came to, for everybody who waits.
#[derive(Clone)]
pub(crate) enum Arrival {
    Body(Arc<Arrived>),
    /// It is the beginner's alone.
    Lone,
    /// What is stored changed meanwhile: look again.
    Again,
    Failed(AskError),
}

/// An answer for the one who began.
pub(crate) struct LoneAnswer {
    pub(crate) answer: Answer,
    pub(crate) vouched: Vouched,
    pub(crate) log: LogTag,
    pub(crate) x_cache: Option<HeaderValue>,
    /// Why it is not stored.
    pub(crate) why: Cause,
}

/// A fetch that somebody waits for.
pub(crate) struct Waiting {
    arrival: watch::Receiver<Option<Arrival>>,
    lone: Option<oneshot::Receiver<LoneAnswer>>,
    /// Whether somebody else began it.
    pub(crate) joined: bool,
}

/// What a fetch came to, for one who waited.
pub(crate) enum Outcome {
    Body(Arc<Arrived>),
    /// The answer is his alone.
    Mine(Box<LoneAnswer>),
    /// It was another's alone: ask on one's own.
    NotMine,
    Again,
    Failed(AskError),
}

impl Waiting {
    /// Waits for the header.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let arrival = match self.arrival.wait_for(Option::is_some).await {
            Ok(arrival) => arrival.clone(),
            Err(_) => None, // the fetch was dropped: the node is stopping
        };
        match arrival {
            Some(Arrival::Body(arrived)) => Outcome::Body(arrived),
            Some(Arrival::Lone) => match self.lone {
                Some(lone) => lone.await.map_or(Outcome::NotMine, |lone| Outcome::Mine(Box::new(lone))),
                None => Outcome::NotMine,
            },
            Some(Arrival::Again) => Outcome::Again,
            Some(Arrival::Failed(error)) => Outcome::Failed(error),
            None => Outcome::Failed(AskError::NoParent("the node is stopping".to_owned())),
        }
    }
}

struct Running {
    /// How its key was made.
    shape: u64,
    fetch: Fetch,
    log: LogTag,
    arrival: watch::Receiver<Option<Arrival>>,
    /// Whether the URL was written to since it was asked for; held while what came becomes visible in the store, so that whoever
    /// forgets a URL knows it to be there or never to come.
    written_over: tokio::sync::Mutex<bool>,
}

/// The fetches of a node.
pub(crate) struct Fills {
    main: tokio::runtime::Handle,
    knowing: Arc<Knowing>,
    store: Store,
    upstream: Upstream,
    pub(crate) sizes: SliceSizes,
    pub(crate) vouched: VouchedMoments,
    metrics: Arc<Metrics>,
    running: Mutex<HashMap<ObjectKey, Arc<Running>>>,
    lone: Mutex<HashMap<ObjectKey, Instant>>,
    /// Held while the marker of a URL is looked at and left, chosen by the URL: variants that come at the same time share one.
    marking: [tokio::sync::Mutex<()>; MARKERS_AT_ONCE],
    for_users: Arc<crate::metrics::Gauge>,
    all: Arc<crate::metrics::Gauge>,
}

impl Fills {
    pub(crate) fn new(
        main: tokio::runtime::Handle,
        knowing: Arc<Knowing>,
        store: Store,
        upstream: Upstream,
        sizes: SliceSizes,
        metrics: Arc<Metrics>,
    ) -> Fills {
        Fills {
            main,
            knowing,
            store,
            upstream,
            sizes,
            vouched: VouchedMoments::new(),
            metrics,
            running: Mutex::default(),
            lone: Mutex::default(),
            marking: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            for_users: Arc::default(),
            all: Arc::default(),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Fetches running now, and those of them that users wait for.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.all.get(), self.for_users.get())
    }

    /// Who is asked for what is not stored.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ObjectKey, Arc<Running>>> {
        self.running.lock().expect("no holder of this lock can panic")
    }

    /// Whether answers for `key` were lately nobody's but the asker's.
    pub(crate) fn is_lone(&self, key: &ObjectKey) -> bool {
        let lone = self.lone.lock().expect("no holder of this lock can panic");
        !lone.is_empty() && lone.get(key).is_some_and(|until| Instant::now() < *until)
    }

    fn note_lone(&self, key: &ObjectKey, time: Duration) {
        let now = Instant::now();
        let mut lone = self.lone.lock().expect("no holder of this lock can panic");
        if lone.len() >= LONE_MAX {
            lone.retain(|_, until| now < *until);
        }
        if lone.len() < LONE_MAX {
            lone.insert(key.clone(), now + time);
        }
    }

    /// Joins a fetch that runs, or begins one; `None` when too many run.
    pub(crate) fn begin(self: &Arc<Self>, order: Order) -> Option<Waiting> {
        let (told, arrival) = watch::channel(None);
        let (lone_to, lone) = oneshot::channel();
        let running = {
            let mut all = self.running();
            let shape = order.domain.functions.shape();
            let joinable = all.get(&order.key).filter(|running| {
                !order.alone
                    && running.shape == shape
                    && self.knowing.may_join(&running.fetch, running.log, &order.url, order.asker)
            });
            if let Some(running) = joinable {
                return Some(Waiting { arrival: running.arrival.clone(), lone: None, joined: true });
            }
            if self.all.get() >= FILLS_MAX as u64 {
                self.metrics.refused(Refusal::Fetches);
                return None;
            }
            // Noted here, before anything is asked (rule 1).
            let (fetch, log) = self.knowing.begin_fetch(&order.url, order.asker);
            let written_over = tokio::sync::Mutex::default();
            let running = Arc::new(Running { shape, fetch, log, arrival: arrival.clone(), written_over });
            if !order.alone {
                all.insert(order.key.clone(), running.clone());
            }
            running
        };
        let held = (self.all.hold(), (order.purpose == Purpose::User).then(|| self.for_users.hold()));
        let fills = self.clone();
        self.main.spawn(async move {
            let _held = held;
            let task = FillTask {
                fills: &fills,
                order: &order,
                fetch: running.fetch,
                log: running.log,
                written_over: &running.written_over,
                told,
            };
            task.run(lone_to).await;
            let mut all = fills.running();
            if all.get(&order.key).is_some_and(|here| Arc::ptr_eq(here, &running)) {
                all.remove(&order.key);
            }
        });
        Some(Waiting { arrival, lone: Some(lone), joined: false })
    }

    /// Forgets what is stored under a URL, all variants of it, and what is being fetched for it: it was written to (RFC 9111
    /// §4.4). On return no lookup finds what was asked for before this call.
    pub(crate) async fn forget(&self, url: &UrlKey) -> Result<(), WriteError> {
        let bare = ObjectKey::bare(url);
        let overtaken: Vec<Arc<Running>> =
            self.running().extract_if(|key, _| key.is_of(&bare)).map(|(_, running)| running).collect();
        for running in overtaken {
            *running.written_over.lock().await = true;
        }
        self.store.remove(bare.hash(), bare.bytes(), store::Which::Any).await.map(drop)
    }

    /// Asks for something that is not stored, whatever comes; on the runtime that keeps the connections.
    pub(crate) async fn pass(&self, question: Question, body: Option<upstream::UpBody>) -> Result<Answer, AskError> {
        let upstream = self.upstream.clone();
        let asking = self.main.spawn(async move { upstream.ask(&question, body).await });
        match tokio_util::task::AbortOnDropHandle::new(asking).await {
            Ok(answered) => answered,
            Err(_) => Err(AskError::NoParent("the node is stopping".to_owned())),
        }
    }
}

/// One fetch while it runs.
struct FillTask<'a> {
    fills: &'a Arc<Fills>,
    order: &'a Order,
    fetch: Fetch,
    log: LogTag,
    written_over: &'a tokio::sync::Mutex<bool>,
    told: watch::Sender<Option<Arrival>>,
}

impl FillTask<'_> {
    async fn run(&self, lone: oneshot::Sender<LoneAnswer>) {
        // A fetch that ended between the asker's look and this one's beginning has brought what is wanted.
        let key = &self.order.key;
        if let Ok(Some(object)) = self.fills.store.lookup(key.hash(), key.bytes()).await
            && self.order.seen != Some(object.generation())
        {
            self.tell(Arrival::Again);
            return;
        }
        self.fills.metrics.fetches.inc();
        let mut headers = self.order.headers.clone();
        if let Some(confirm) = &self.order.confirm {
            httpcache::validators(&confirm.head.headers, &mut headers);
        }
        if let Some(range) = self.order.part.range(self.fills.sizes) {
            headers.insert(RANGE, range);
        }
        let sent = self.fills.knowing.clock().now();
        let answer = match self.ask(&headers).await {
            Ok(answer) if answer.head.status == StatusCode::PARTIAL_CONTENT => {
                if let Some(part) = self.kept_part(&answer, sent) {
                    return self.take_part(part, answer).await;
                }
                // It is no part that could be kept: the whole, then. Moment and stamp were noted before, which is safe.
                headers.remove(RANGE);
                self.ask(&headers).await
            }
            answered => answered,
        };
        match (answer, &self.order.part) {
            (Err(error), _) => self.tell(Arrival::Failed(error)),
            (Ok(_), Part::Slice(..)) => self.tell(Arrival::Failed(AskError::Changed)),
            (Ok(answer), Part::Whole | Part::Begin(_)) => self.take(answer, sent, lone).await,
        }
    }

    async fn ask(&self, headers: &HeaderMap) -> Result<Answer, AskError> {
        self.fills.upstream.ask(&self.question(headers.clone()), None).await
    }

    /// What a 206 brings, when that may be kept.
    fn kept_part(&self, answer: &Answer, sent: SystemTime) -> Option<KeptPart> {
        match &self.order.part {
            Part::Whole => None,
            Part::Slice(head, series, number) => slices::continues(&answer.head, head, series, *number)
                .then(|| KeptPart { head: head.clone(), series: *series, number: *number, begins: false }),
            Part::Begin(number) => {
                let (mut series, _) = slices::begun(&answer.head, *number, self.fills.sizes)?;
                let received = self.fills.knowing.clock().now();
                let mut headers = httpcache::end_to_end(&answer.head.headers);
                headers.remove(CONTENT_RANGE);
                headers.remove(CONTENT_LENGTH);
                self.mark(StatusCode::OK, &answer.from, &mut headers);
                if own_head(&headers, &httpcache::kept(&headers, received)) {
                    return None;
                }
                let ok = StatusCode::OK;
                let storable = self.storable(ok, &headers, sent, received);
                if self.order.alone || storable.is_err() || !httpcache::vary_fields(&headers).ok()?.is_empty() {
                    return None;
                }
                // No two heads share a series: not those of two logs, nor of two moments, nor of two validators.
                let moment =
                    format!("{} {} {:?} {sent:?} {}", self.log.0, self.fetch.stamp, self.fetch.sent, series.name);
                series.name = xxhash_rust::xxh3::xxh3_128(moment.as_bytes());
                let head = Head::new(self.log, ok, headers, sent, received).sliced(series);
                Some(KeptPart { head: Arc::new(head), series, number: *number, begins: true })
            }
        }
    }

    /// A slice, and the head it begins with: to the store and to whoever waits.
    async fn take_part(&self, part: KeptPart, answer: Answer) {
        let vouched = self.noted().vouch(answer.age);
        let x_cache = answer.head.headers.get("x-cache").filter(|_| answer.from != From::Origin).cloned();
        let came = Came { from: answer.from.clone(), x_cache, status: StatusCode::OK };
        let KeptPart { head, series, number, begins } = part;
        let filled = match self.open_part(&head, &series, number, vouched, begins).await {
            Ok(filled) => filled,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "slice was not stored");
                return self.tell(Arrival::Failed(AskError::Unreachable("the store takes nothing".to_owned())));
            }
        };
        let (done, finished) = watch::channel(None);
        let follower = filled.fill.follow();
        let body = if begins {
            self.sliced(&head, series, Some((number, follower)))
        } else {
            ArrivedBody::Growing(follower, filled.length)
        };
        let arrived =
            Arrived { head, own_head: None, vouched, body, vary: Vec::new(), values: Vec::new(), came, done: finished };
        self.tell(Arrival::Body(Arc::new(arrived)));
        done.send_replace(Some(self.pour_part(answer.body, filled).await));
    }

    /// Opens the store for a slice, its head before it when it is the first.
    async fn open_part(
        &self,
        head: &Head,
        series: &Series,
        number: u64,
        vouched: Vouched,
        begins: bool,
    ) -> Result<Filling, WriteError> {
        let store = &self.fills.store;
        if begins {
            let bare = ObjectKey::bare(&self.order.url);
            let fill = store.begin_fill(bare.hash(), bare.bytes(), head.encode(), vouched.stamp.0, Some(0))?;
            let written_over = self.written_over.lock().await;
            if !*written_over {
                let (object, _durable) = fill.finish_visible().await?;
                self.remember(&bare, object.generation(), vouched);
            }
        }
        let key = ObjectKey::slice(&self.order.url, series, number);
        let range = series.range(number);
        let length = Some(range.end - range.start);
        let fill = store.begin_fill(key.hash(), key.bytes(), head::encode_slice(self.log), vouched.stamp.0, length)?;
        Ok(Filling { key, fill, length })
    }

    /// The bytes of a slice. One that breaks off is not continued: whoever reads it is cut off and asks for less the next time.
    async fn pour_part(&self, mut body: Incoming, filling: Filling) -> Result<(), Cause> {
        let Filling { mut fill, length, .. } = filling;
        match self.pour_some(&mut body, &mut fill, length).await {
            Ok(()) => {}
            Err(Broken::Store(error)) => return Err(cause(&error)),
            Err(Broken::Body(cause)) => return Err(cause),
        }
        fill.finish_visible().await.map_err(|error| cause(&error))?;
        self.fills.metrics.slices_stored.inc();
        Ok(())
    }

    /// What was noted before the question was sent, when the answer is there (rules 1 and 5).
    fn noted(&self) -> Fetch {
        let (mut noted, knowing) = (self.fetch, &self.fills.knowing);
        if made(Mistake::StampOnArrival) {
            noted.stamp = noted.stamp.max(knowing.applied());
        }
        if made(Mistake::AgeFromArrival) {
            noted.sent = knowing.clock().moment();
        }
        noted
    }

    fn question(&self, headers: HeaderMap) -> Question {
        Question {
            method: Method::GET,
            key: self.order.url.clone(),
            path: self.order.path.clone(),
            domain: self.order.domain.clone(),
            headers,
            fetch: self.fetch,
            log: self.log,
            passed: self.order.passed.clone(),
            purpose: self.order.purpose,
        }
    }

    /// Leaves in a head what the domain's functions make of it.
    fn mark(&self, status: StatusCode, from: &From, headers: &mut HeaderMap) {
        keep::mark(&self.order.domain.functions, &self.order.path, status, *from == From::Origin, headers);
    }

    /// Whether an answer with this head may be kept.
    fn storable(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        sent: SystemTime,
        received: SystemTime,
    ) -> Result<httpcache::Freshness, httpcache::NotStorable> {
        let said = keep::effective(headers);
        httpcache::storable(&Method::GET, &self.order.headers, status, &said, sent, received)
    }

    /// A body in slices, as whoever ordered this reads it.
    fn sliced(&self, head: &Arc<Head>, series: Series, coming: Option<(u64, store::Follower)>) -> ArrivedBody {
        ArrivedBody::Sliced(Box::new(slices::Body {
            fills: self.fills.clone(),
            url: self.order.url.clone(),
            path: self.order.path.clone(),
            domain: self.order.domain.clone(),
            headers: self.order.headers.clone(),
            asker: self.order.asker,
            passed: self.order.passed.clone(),
            head: head.clone(),
            series,
            coming,
        }))
    }

    fn tell(&self, arrival: Arrival) {
        self.told.send_replace(Some(arrival));
    }

    async fn take(&self, mut answer: Answer, sent: SystemTime, lone: oneshot::Sender<LoneAnswer>) {
        let received = self.fills.knowing.clock().now();
        let x_cache = answer.head.headers.remove("x-cache").filter(|_| answer.from != From::Origin);
        let came = Came { from: answer.from.clone(), x_cache: x_cache.clone(), status: answer.head.status };
        if answer.head.status == StatusCode::NOT_MODIFIED {
            let confirmed = match &self.order.confirm {
                Some(confirm) => self.confirm(confirm, &answer, came, sent, received).await,
                None => None,
            };
            match confirmed {
                Some(arrived) => self.tell(Arrival::Body(Arc::new(arrived))),
                None => self.tell(Arrival::Again),
            }
            return;
        }
        let vouched = self.noted().vouch(answer.age);
        let mut headers = httpcache::end_to_end(&answer.head.headers);
        let status = answer.head.status;
        self.mark(status, &came.from, &mut headers);
        let storable = self.storable(status, &headers, sent, received);
        let kept = httpcache::kept(&headers, received);
        let why = match storable {
            Ok(_) if !same_tags(&self.order.domain, &headers, &kept) => {
                Cause::NotStorable("a field that names its tags may not be kept".to_owned())
            }
            Ok(_) if self.order.alone => Cause::NotStorable("asked for alone".to_owned()),
            // The log was changed for another while this was asked for: the stamp means nothing there.
            Ok(_) if self.fills.knowing.known().tag != self.log => Cause::Evicted,
            Ok(_) => {
                let own_head = own_head(&headers, &kept).then(|| Head::new(self.log, status, headers, sent, received));
                let head = Arc::new(Head::new(self.log, status, kept, sent, received));
                match self.open(&head, own_head.map(Arc::new), &answer, vouched, came).await {
                    Ok((arrived, fill, done)) => {
                        let arrived = Arc::new(arrived);
                        self.tell(Arrival::Body(arrived.clone()));
                        let stored = self.pour(answer.body, fill, &arrived).await;
                        if let Err(cause) = &stored {
                            tracing::debug!(url = %self.order.url, %cause, "fetch was not stored");
                            if *cause == Cause::TooLarge {
                                self.fills.note_lone(&self.order.key, TOO_LARGE_FOR);
                            }
                        }
                        done.send_replace(Some(stored));
                        return;
                    }
                    Err(error) => cause(&error),
                }
            }
            Err(reason) => Cause::NotStorable(reason.to_string()),
        };
        if !self.order.alone {
            self.fills.note_lone(&self.order.key, LONE_FOR);
        }
        // Nobody to take it is a client that left, or a prefetch that knows enough.
        let _ = lone.send(LoneAnswer { answer, vouched, log: self.log, x_cache, why });
        self.tell(Arrival::Lone);
    }

    /// A 304 to the validator of `confirm`: the stored head takes its news, the body its stamp (rule 1). `None` when that body is
    /// not the stored one any more, or the 304 speaks of another.
    async fn confirm(
        &self,
        confirm: &Confirmable,
        answer: &Answer,
        came: Came,
        sent: SystemTime,
        received: SystemTime,
    ) -> Option<Arrived> {
        let key = &self.order.key;
        let Ok(mut headers) = httpcache::freshen(&confirm.head.headers, &answer.head.headers) else {
            let only = store::Which::Only(confirm.object.generation());
            let _ = self.fills.store.remove(key.hash(), key.bytes(), only).await;
            return None;
        };
        self.mark(confirm.head.status, &came.from, &mut headers);
        let mut vouched = self.noted().confirm(confirm.vouched, answer.age);
        if made(Mistake::LiftToApplied) {
            vouched.stamp = vouched.stamp.max(self.fills.knowing.applied());
        }
        let kept = httpcache::kept(&headers, received);
        let own_head = own_head(&headers, &kept)
            .then(|| Arc::new(Head::new(self.log, confirm.head.status, headers.clone(), sent, received)));
        let head = Head::new(self.log, confirm.head.status, kept, sent, received);
        let head = Arc::new(Head { slices: confirm.head.slices, ..head });
        let mut lifted = confirm.object.clone();
        if made(Mistake::LiftAnyBody)
            && let Ok(Some(there)) = self.fills.store.lookup(key.hash(), key.bytes()).await
        {
            lifted = there;
        }
        let written_over = self.written_over.lock().await;
        if *written_over {
            return None;
        }
        let object = match self.fills.store.update_head(&lifted, head.encode(), vouched.stamp.0).await {
            Ok(updated) => updated?,
            Err(error) => {
                // The body is good all the same; it will be asked for again.
                tracing::warn!(error = &error as &dyn std::error::Error, "confirmed head was not stored");
                confirm.object.clone()
            }
        };
        drop(written_over);
        // A body lies where its `Vary` says.
        let same_place = httpcache::vary_fields(&headers) == httpcache::vary_fields(&confirm.head.headers);
        let storable = self.storable(head.status, &headers, sent, received);
        if storable.is_ok() && same_place && same_tags(&self.order.domain, &headers, &head.headers) {
            self.remember(key, object.generation(), vouched);
        } else {
            // The 304 brought `no-store`, another `Vary` or the like: this answer may use the body, no later one.
            let _ = self.fills.store.remove(key.hash(), key.bytes(), store::Which::Only(object.generation())).await;
        }
        let vary = httpcache::vary_fields(&head.headers).unwrap_or_default();
        let values = httpcache::vary_key(&vary, &self.order.headers);
        let done = watch::Sender::new(Some(Ok(()))).subscribe();
        let body = match head.slices {
            None => ArrivedBody::Stored(object),
            Some(series) => self.sliced(&head, series, None),
        };
        Some(Arrived { head, own_head, vouched, body, vary, values, came, done })
    }

    /// Opens the store for a body that comes.
    async fn open(
        &self,
        head: &Arc<Head>,
        own_head: Option<Arc<Head>>,
        answer: &Answer,
        vouched: Vouched,
        came: Came,
    ) -> Result<(Arrived, Filling, watch::Sender<Option<Result<(), Cause>>>), WriteError> {
        let vary = httpcache::vary_fields(&head.headers).unwrap_or_default();
        let values = httpcache::vary_key(&vary, &self.order.headers);
        let key = if vary.is_empty() {
            ObjectKey::bare(&self.order.url)
        } else {
            let marker = self.mark_variants(&vary, vouched.stamp).await?;
            ObjectKey::variant(&self.order.url, marker, &values)
        };
        let length = announced(&answer.head.headers, &answer.body);
        let fill = self.fills.store.begin_fill(key.hash(), key.bytes(), head.encode(), vouched.stamp.0, length)?;
        let (done, finished) = watch::channel(None);
        let body = ArrivedBody::Growing(fill.follow(), length);
        let arrived = Arrived { head: head.clone(), own_head, vouched, body, vary, values, came, done: finished };
        Ok((arrived, Filling { key, fill, length }, done))
    }

    /// Leaves word under the bare URL by what the variants differ, before anybody is told that there are some. Says which marker
    /// it is.
    async fn mark_variants(&self, vary: &[HeaderName], stamp: Revision) -> Result<store::Generation, WriteError> {
        let bare = ObjectKey::bare(&self.order.url);
        let turn = (bare.hash().0 % MARKERS_AT_ONCE as u128) as usize;
        let _turn = self.fills.marking[turn].lock().await;
        if let Ok(Some(object)) = self.fills.store.lookup(bare.hash(), bare.bytes()).await
            && let Some((log, Stored::Marker(kept))) = head::decode(object.head())
            && log == self.log
            && kept.len() == vary.len()
            && kept.iter().all(|name| vary.contains(name))
        {
            return Ok(object.generation());
        }
        let fill = self.fills.store.begin_fill(
            bare.hash(),
            bare.bytes(),
            head::encode_marker(self.log, vary),
            stamp.0,
            Some(0),
        )?;
        fill.finish_visible().await.map(|(marker, _)| marker.generation())
    }

    /// The body, from the connection to the store; continued by range when the connection breaks and that is safe.
    async fn pour(&self, body: Incoming, filling: Filling, arrived: &Arrived) -> Result<(), Cause> {
        let Filling { key, mut fill, length } = filling;
        let mut body = body;
        let mut resumes = 0;
        loop {
            let broke = match self.pour_some(&mut body, &mut fill, length).await {
                Ok(()) => break,
                Err(Broken::Store(error)) => return Err(cause(&error)),
                Err(Broken::Body(cause)) => cause,
            };
            if resumes == RESUMES_MAX {
                return Err(broke);
            }
            resumes += 1;
            match self.resume(&arrived.head, fill.length(), length).await {
                Some(rest) => body = rest,
                None => return Err(broke),
            }
            self.fills.metrics.resumed.inc();
        }
        if self.fills.knowing.known().tag != self.log {
            return Err(Cause::Evicted);
        }
        let written_over = self.written_over.lock().await;
        if *written_over {
            fill.finish_unseen().map_err(|error| cause(&error))?;
            return Err(Cause::Evicted);
        }
        let (object, _durable) = fill.finish_visible().await.map_err(|error| cause(&error))?;
        drop(written_over);
        self.remember(&key, object.generation(), arrived.vouched);
        self.fills.metrics.stored.inc();
        Ok(())
    }

    async fn pour_some(&self, body: &mut Incoming, fill: &mut store::Fill, length: Option<u64>) -> Result<(), Broken> {
        let truncated = |got: u64| Broken::Body(Cause::Truncated { got, expected: length.unwrap_or(got) });
        loop {
            let Ok(frame) = tokio::time::timeout(BODY_SILENCE_MAX, body.frame()).await else {
                return Err(Broken::Body(Cause::OriginTimeout));
            };
            match frame {
                None if length.is_none_or(|length| length == fill.length()) => return Ok(()),
                None => return Err(truncated(fill.length())),
                Some(Err(error)) if length.is_none() => {
                    return Err(Broken::Body(Cause::OriginUnreachable(upstream::words(&error))));
                }
                Some(Err(_)) => return Err(truncated(fill.length())),
                Some(Ok(frame)) => {
                    let Ok(bytes): Result<Bytes, _> = frame.into_data() else { continue };
                    if length.is_some_and(|length| fill.length() + bytes.len() as u64 > length) {
                        return Err(truncated(fill.length() + bytes.len() as u64));
                    }
                    self.fills.metrics.bytes_fetched.add(bytes.len() as u64);
                    // A chunk is a part of the connection's buffer and holds all of it; what stays in memory should not.
                    let bytes = if bytes.len() < CHUNK_KEPT_MIN { Bytes::copy_from_slice(&bytes) } else { bytes };
                    fill.append(bytes).await.map_err(Broken::Store)?;
                }
            }
        }
    }

    /// Asks for the rest of a body whose connection broke; only under a strong validator do two parts belong together
    /// (fence, assumption 5).
    async fn resume(&self, head: &Head, from: u64, length: Option<u64>) -> Option<Incoming> {
        let length = length?;
        let etag = head.headers.get(ETAG)?;
        if head.status != StatusCode::OK {
            return None;
        }
        let mut headers = self.order.headers.clone();
        headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-")).ok()?);
        headers.insert(IF_RANGE, etag.clone());
        let answer = self.fills.upstream.ask(&self.question(headers), None).await.ok()?;
        let came = &answer.head;
        httpcache::continues(&head.headers, from, length, came.status, &came.headers).then_some(answer.body)
    }

    fn remember(&self, key: &ObjectKey, body: store::Generation, vouched: Vouched) {
        let knowing = &self.fills.knowing;
        let lease = knowing.known().knowledge.settings.lease();
        self.fills.vouched.set(key.hash(), body, vouched.at, knowing.clock().moment(), lease);
    }
}

/// A part that is kept.
struct KeptPart {
    head: Arc<Head>,
    series: Series,
    number: u64,
    /// The head is new with it.
    begins: bool,
}

/// A body on its way into the store.
struct Filling {
    key: ObjectKey,
    fill: store::Fill,
    length: Option<u64>,
}

enum Broken {
    Body(Cause),
    Store(WriteError),
}

/// Whether the one who began is to get more of a head than is kept.
fn own_head(headers: &HeaderMap, kept: &HeaderMap) -> bool {
    headers.keys().any(|name| !kept.contains_key(name))
}

/// Whether what is kept names the tags that came: without them a refresh by tag would miss it.
fn same_tags(domain: &Domain, headers: &HeaderMap, kept: &HeaderMap) -> bool {
    Tags::of(headers, domain.tag_header.as_deref()) == Tags::of(kept, domain.tag_header.as_deref())
}

/// The length of a body that was announced.
fn announced(headers: &HeaderMap, body: &Incoming) -> Option<u64> {
    let exact = body.size_hint().exact();
    exact.or_else(|| headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok())
}

fn cause(error: &WriteError) -> Cause {
    match error {
        WriteError::TooLarge { .. } | WriteError::HeadTooLarge { .. } => Cause::TooLarge,
        WriteError::Evicted => Cause::Evicted,
        error => Cause::Store(upstream::words(error)),
    }
}
