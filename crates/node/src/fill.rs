//! Fetches objects into the store: one fetch per key however many ask, delivered to the store and to every waiting
//! request.
//!
//! A fetch is a task of its own, so the client that began it may leave. It ends in one of three ways: a body that grows
//! in the store and is read from there by everybody, a stored body that a 304 confirmed, or an answer for the request
//! that began the fetch alone; the other requests then ask on their own.
//!
//! # What always holds
//!
//! - The moment, the stamp and the fence are noted before anything is asked, and never change (rule 1); a fetch resumed
//!   by range keeps them.
//! - Every waiting request is judged at its own header, by the pipeline. Nothing here decides which body may be sent to
//!   whom.
//! - A 304 confirms the body whose validator was sent, or nothing.
//! - A body that ends early is never stored, and its readers are cut off: nobody takes a part for the whole.
//! - A fetch that was begun for a prefetch and that nobody waits for any more asks no further parent or source
//!   ([`Party`]).
//! - An answer that was asked for before a write to its URL was answered is not stored, and nobody joins its fetch
//!   ([`Fills::forget`]).
//! - An earlier fetch never replaces the result of a later one, however slowly it arrives ([`Fills::outrun`]).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use model::fence::{Asker, Fetch, Vouched};
use model::{Cause, Domain, NodeName, UrlKey};
use store::{Object, Store, WriteError};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::head::{Head, ObjectKey};
use crate::interim::Interim;
use crate::knowing::{Knowing, LogTag};
use crate::metrics::{Gauge, Held, Metrics, Refusal};
use crate::respond::BodyError;
use crate::room::Room;
use crate::slices::{self, Part, SliceSizes};
use crate::upstream::{self, Answer, AskError, Asked, From, Question, Upstream};
use crate::vouched::VouchedMoments;
use task::FillTask;

mod marking;
mod pouring;
mod task;

pub(crate) use pouring::Pauses;

/// Most fetches at a time.
pub(crate) const FILLS_MAX: usize = 8192;

/// Most requests that go past the store at a time: each has a connection to a parent or an origin of its own.
pub(crate) const PASSING_MAX: usize = 4096;

/// How many keys are remembered because their answers may not be shared, and for how long: requests for them are not
/// collapsed.
const LONE_MAX: usize = 16_384;
const LONE_FOR: Duration = Duration::from_secs(5);

/// How many keys are remembered because their validation in the background failed or was put off, and for how long:
/// without a pause, the next of many requests would begin another one at once.
const UNCONFIRMED_MAX: usize = 16_384;
const UNCONFIRMED_FOR: Duration = Duration::from_secs(1);

/// The same as for answers that may not be shared, for a body that turned out too large for the store only while it arrived: the readers of such a fill are
/// cut off.
const TOO_LARGE_FOR: Duration = Duration::from_secs(600);

/// Most request fields by which the variants of a URL differ, over all its answers. If an origin names still others,
/// the set begins anew.
const VARY_FIELDS_MAX: usize = 16;

/// Why a prefetch that fetched a response that is not fresh has warmed nothing.
pub(crate) const NOT_FRESH: &str = "not fresh on arrival: users would not be answered from the store";

/// Markers that may be written at the same time.
const MARKERS_BATCH_MAX: usize = 64;

/// Why a fetch is begun: users come first (promise P4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    User,
    /// A user was sent a stale response, which is validated in the background. It is what a user's request would be,
    /// except that it yields to users: an origin that is to be left alone, or that users keep busy, is not asked.
    Revalidation,
    Prefetch,
}

/// A stored body that a 304 may confirm.
#[derive(Clone)]
pub(crate) struct Confirmable {
    pub(crate) object: Object,
    pub(crate) head: Arc<Head>,
    pub(crate) vouched: Vouched,
}

/// An order for a fetch.
pub(crate) struct Order {
    pub(crate) url: UrlKey,
    pub(crate) asked: Asked,
    pub(crate) domain: Arc<Domain>,
    /// The key that was looked up.
    pub(crate) key: ObjectKey,
    /// The generation found there, whether usable or not.
    pub(crate) seen: Option<store::Generation>,
    /// The stored body to confirm, if it may be.
    pub(crate) confirm: Option<Confirmable>,
    /// How much of the object is wanted.
    pub(crate) part: Part,
    /// The request's headers as sent upstream, without conditions.
    pub(crate) headers: HeaderMap,
    pub(crate) asker: Asker,
    pub(crate) passed: Vec<NodeName>,
    pub(crate) purpose: Purpose,
    /// The refetch it is for: only a fetch for this or a later one will do; zero for none.
    pub(crate) refetch: u64,
    /// Of a prefetch: whether an earlier try failed.
    pub(crate) again: bool,
    /// Where interim answers go.
    pub(crate) interim: Option<Interim>,
    /// The stored response may be served in place of a failure, so a failure must not replace it.
    pub(crate) stands_in: bool,
}

/// Where an answer came from.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) from: From,
    /// The parent's `X-Cache`.
    pub(crate) x_cache: Option<HeaderValue>,
    pub(crate) status: StatusCode,
}

/// A body that arrived, or was confirmed.
pub(crate) struct Arrived {
    /// The head as it is stored.
    pub(crate) head: Arc<Head>,
    /// Only the request that began the fetch may use it.
    pub(crate) alone: bool,
    /// The complete head, for the request that began the fetch, where some of it may not be shared
    /// ([`httpcache::kept`]).
    pub(crate) own_head: Option<Arc<Head>>,
    pub(crate) vouched: Vouched,
    pub(crate) body: ArrivedBody,
    /// The request fields that selected it, and their values in the request that was sent.
    pub(crate) vary: Vec<HeaderName>,
    pub(crate) values: Vec<u8>,
    pub(crate) came: Came,
    /// Resolves once the body is stored, or is known not to be.
    pub(crate) done: watch::Receiver<Option<Result<(), Cause>>>,
}

/// Where to read an arrived body.
#[derive(Clone)]
pub(crate) enum ArrivedBody {
    /// From the fill as it grows; with the length, if it was announced.
    Growing(store::Follower, Option<u64>),
    /// From the store.
    Stored(Object),
    /// Slice by slice.
    Sliced(Box<slices::Body>),
}

/// A reader of such a body.
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

/// The result of a fetch, for every waiting request.
#[derive(Clone)]
pub(crate) enum Arrival {
    Body(Arc<Arrived>),
    /// The answer is for the request that began the fetch alone; `failed` if it is a failure.
    Lone {
        failed: bool,
    },
    /// The stored response changed meanwhile: look up again.
    Again,
    Failed(AskError),
}

/// An answer for the request that began the fetch alone.
pub(crate) struct LoneAnswer {
    pub(crate) answer: Answer,
    pub(crate) vouched: Vouched,
    pub(crate) log: LogTag,
    pub(crate) x_cache: Option<HeaderValue>,
    /// Why it is not stored.
    pub(crate) why: Cause,
}

/// The requests that wait for a fetch. When the last one leaves before an answer came, a fetch that only prefetches
/// began or joined asks no more; one that a user began or joined goes on, whoever leaves.
struct Party {
    state: Mutex<PartyState>,
    /// Whether an answer is wanted.
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct PartyState {
    waiting: usize,
    /// The fetch goes on even if nobody waits.
    goes_on: bool,
    /// The fetch was given up: nobody can join any more.
    over: bool,
}

impl Party {
    fn new() -> Arc<Party> {
        Arc::new(Party { state: Mutex::default(), wanted: watch::Sender::new(true) })
    }

    fn state(&self) -> MutexGuard<'_, PartyState> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    /// Adds a waiting request; `None` if the fetch was given up.
    fn join(self: &Arc<Self>, goes_on: bool) -> Option<Member> {
        let mut state = self.state();
        if state.over {
            return None;
        }
        state.waiting += 1;
        state.goes_on |= goes_on;
        self.wanted.send_replace(true);
        drop(state);
        Some(Member(self.clone()))
    }

    /// Gives the fetch up, unless somebody has joined since the last one left.
    fn give_up(&self) -> bool {
        let mut state = self.state();
        state.over = state.waiting == 0 && !state.goes_on;
        state.over
    }
}

/// A waiting request; it leaves when dropped.
struct Member(Arc<Party>);

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting -= 1;
        if state.waiting == 0 && !state.goes_on {
            self.0.wanted.send_replace(false);
        }
    }
}

/// A fetch that somebody waits for.
pub(crate) struct Waiting {
    member: Member,
    arrival: watch::Receiver<Option<Arrival>>,
    lone: Option<oneshot::Receiver<LoneAnswer>>,
    /// Whether somebody else began it.
    pub(crate) joined: bool,
}

/// The result of a fetch, for one waiting request.
pub(crate) enum Outcome {
    Body(Arc<Arrived>),
    /// The answer is for this request alone.
    Mine(Box<LoneAnswer>),
    /// The answer is for another request alone, or a part was asked for of an object that may not be stored. This
    /// request must ask on its own, unless the answer failed and a stored response may replace it.
    NotMine {
        failed: bool,
    },
    Again,
    Failed(AskError),
}

impl Waiting {
    /// Leaves; the fetch goes on.
    pub(crate) fn leave_it_behind(self) {
        self.member.0.state().goes_on = true;
    }

    /// Waits for the head of the answer.
    pub(crate) async fn outcome(mut self) -> Outcome {
        let arrival = match self.arrival.wait_for(Option::is_some).await {
            Ok(arrival) => arrival.clone(),
            Err(_) => None, // the fetch was dropped: the node is stopping
        };
        match arrival {
            Some(Arrival::Body(arrived)) if arrived.alone && self.joined => Outcome::NotMine { failed: false },
            Some(Arrival::Body(arrived)) => Outcome::Body(arrived),
            Some(Arrival::Lone { failed }) => match self.lone {
                Some(lone) => lone.await.map_or(Outcome::NotMine { failed }, |lone| Outcome::Mine(Box::new(lone))),
                None => Outcome::NotMine { failed },
            },
            Some(Arrival::Again) => Outcome::Again,
            Some(Arrival::Failed(error)) => Outcome::Failed(error),
            None => Outcome::Failed(AskError::NoParent("the node is stopping".to_owned())),
        }
    }
}

struct Running {
    /// Rises with every fetch that begins.
    number: u64,
    /// The shape of the functions that made its key.
    shape: u64,
    /// It was asked for with credentials: until it is known whether the answer may be shared, only requests with
    /// credentials join.
    authorized: bool,
    fetch: Fetch,
    log: LogTag,
    /// The refetch it is for.
    refetch: u64,
    arrival: watch::Receiver<Option<Arrival>>,
    party: Arc<Party>,
    /// Whether a user waits for it.
    awaited: watch::Sender<bool>,
    /// Set once a user has begun or joined it: it is then counted among those that users wait for.
    for_users: OnceLock<Held>,
    /// Whether its result must no longer be stored, because the URL was written to since it was asked for, or the
    /// result of a later fetch is there. The lock is held while the result becomes visible in the store, so that the
    /// setter knows that the result is either there already or never will be.
    overtaken: tokio::sync::Mutex<bool>,
}

impl Running {
    /// Whether it has brought a body, which may be shared unless it is [`Arrived::alone`].
    fn has_come(&self) -> bool {
        matches!(&*self.arrival.borrow(), Some(Arrival::Body(_)))
    }

    /// Whether it brought a failure, or nothing.
    fn has_failed(&self) -> bool {
        matches!(&*self.arrival.borrow(), Some(Arrival::Lone { failed: true } | Arrival::Failed(_)))
    }

    /// Whether it brings the ordered variant, as far as that is known.
    fn may_bring(&self, order: &Order) -> bool {
        match &*self.arrival.borrow() {
            None => true,
            Some(Arrival::Body(arrived)) => httpcache::vary_key(&arrived.vary, &order.headers) == arrived.values,
            Some(Arrival::Lone { .. } | Arrival::Again | Arrival::Failed(_)) => false,
        }
    }

    /// Whether its result, once arrived, may still answer a request made at `now`: a body may take longer to arrive
    /// than it is fresh. A prefetch checks its object in the end, and a request for a slice has judged the slice's
    /// head.
    fn is_good(&self, order: &Order, now: SystemTime) -> bool {
        match &*self.arrival.borrow() {
            None => true,
            Some(Arrival::Body(arrived)) => {
                let stored = Some((&arrived.head.freshness, httpcache::Allowed::Send));
                let decision = httpcache::decide(&Method::GET, &order.headers, stored, now);
                order.purpose == Purpose::Prefetch
                    || matches!(order.part, Part::Slice(..))
                    || matches!(decision, httpcache::Decision::Serve { .. })
            }
            Some(Arrival::Lone { .. } | Arrival::Again | Arrival::Failed(_)) => false,
        }
    }
}

/// Whether a request carries credentials, so that its answer may not be shared without permission (RFC 9111 §3.5).
fn is_authorized(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION)
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
    /// Running fetches by key, each list in the order in which they began: one that is overtaken goes on beside the
    /// next.
    running: Mutex<HashMap<ObjectKey, Vec<Arc<Running>>>>,
    /// Fetches begun so far; numbers them.
    begun: AtomicU64,
    /// Keys whose answers may not be shared, for requests with credentials or those without, and until when this is
    /// remembered.
    lone: Mutex<HashMap<(ObjectKey, bool), Instant>>,
    /// Held while the marker of a URL is read and written, chosen by the URL's hash: variants that arrive at the same
    /// time share one marker.
    marking: [tokio::sync::Mutex<()>; MARKERS_BATCH_MAX],
    for_users: Arc<Gauge>,
    /// Keys whose background validation failed, and until when none is begun.
    unconfirmed: Mutex<HashMap<ObjectKey, Instant>>,
    all: Arc<Room>,
    passing: Arc<Room>,
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
            begun: AtomicU64::new(0),
            lone: Mutex::default(),
            marking: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            for_users: Arc::default(),
            unconfirmed: Mutex::default(),
            all: Room::new(FILLS_MAX),
            passing: Room::new(PASSING_MAX),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Fetches running now, and those of them that users began or joined.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.all.taken(), self.for_users.get())
    }

    /// Requests that go past the store now.
    pub(crate) fn passing(&self) -> u64 {
        self.passing.taken()
    }

    /// The parents and origins that objects are fetched from.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ObjectKey, Vec<Arc<Running>>>> {
        self.running.lock().expect("no holder of this lock can panic")
    }

    /// Whether recent answers for `key` could not be shared, to requests with or without credentials as in `headers`.
    pub(crate) fn is_lone(&self, key: &ObjectKey, headers: &HeaderMap) -> bool {
        let lone = self.lone.lock().expect("no holder of this lock can panic");
        !lone.is_empty()
            && lone.get(&(key.clone(), is_authorized(headers))).is_some_and(|until| Instant::now() < *until)
    }

    fn note_lone(&self, key: &ObjectKey, headers: &HeaderMap, time: Duration) {
        let now = Instant::now();
        let mut lone = self.lone.lock().expect("no holder of this lock can panic");
        if lone.len() >= LONE_MAX {
            lone.retain(|_, until| now < *until);
        }
        if lone.len() < LONE_MAX {
            lone.insert((key.clone(), is_authorized(headers)), now + time);
        }
    }

    /// Validates a stored response in the background, or joins a fetch that does; not if a moment ago that failed.
    pub(crate) fn revalidate(self: &Arc<Self>, order: Order) {
        if self.is_unconfirmed(&order.key) {
            return;
        }
        if let Some(behind) = self.begin(Order { purpose: Purpose::Revalidation, stands_in: true, ..order }) {
            behind.leave_it_behind();
        }
    }

    fn is_unconfirmed(&self, key: &ObjectKey) -> bool {
        let unconfirmed = self.unconfirmed.lock().expect("no holder of this lock can panic");
        !unconfirmed.is_empty() && unconfirmed.get(key).is_some_and(|until| Instant::now() < *until)
    }

    fn note_unconfirmed(&self, key: &ObjectKey) {
        let now = Instant::now();
        let mut unconfirmed = self.unconfirmed.lock().expect("no holder of this lock can panic");
        if unconfirmed.len() >= UNCONFIRMED_MAX {
            unconfirmed.retain(|_, until| now < *until);
        }
        if unconfirmed.len() < UNCONFIRMED_MAX {
            unconfirmed.insert(key.clone(), now + UNCONFIRMED_FOR);
        }
    }

    /// Joins a fetch that runs, or begins one; `None` when too many run.
    pub(crate) fn begin(self: &Arc<Self>, order: Order) -> Option<Waiting> {
        let (told, arrival) = watch::channel(None);
        let (lone_to, lone) = oneshot::channel();
        let party = Party::new();
        let member = party.join(order.purpose == Purpose::User)?;
        let (running, place) = {
            let mut all = self.running();
            let shape = order.domain.functions.shape();
            let now = self.knowing.clock().now();
            let authorized = is_authorized(&order.headers);
            let joinable = |running: &&Arc<Running>| {
                running.is_good(&order, now)
                    && (running.authorized == authorized || running.has_come())
                    && running.shape == shape
                    && running.refetch >= order.refetch
                    && self.knowing.may_join(&running.fetch, running.log, &order.url, order.asker)
            };
            let newest = |key: &ObjectKey| all.get(key).and_then(|all| all.iter().rev().find(joinable));
            // A variant may be arriving under the bare URL: it was asked for before the URL was known to have variants.
            let early = || {
                let running = newest(&ObjectKey::bare(&order.url))?;
                (matches!(order.part, Part::Whole) && running.may_bring(&order)).then_some(running)
            };
            let joinable = newest(&order.key).or_else(early);
            let by_user = order.purpose == Purpose::User;
            let joined = joinable.and_then(|running| Some((running, running.party.join(by_user)?)));
            if let Some((running, member)) = joined {
                if by_user {
                    running.awaited.send_if_modified(|awaited| !std::mem::replace(awaited, true));
                    running.for_users.get_or_init(|| self.for_users.hold());
                }
                return Some(Waiting { member, arrival: running.arrival.clone(), lone: None, joined: true });
            }
            let Some(place) = self.all.take(&order.domain.name) else {
                self.metrics.refused(Refusal::Fetches);
                return None;
            };
            // Noted here, before anything is asked (rule 1).
            let (fetch, log) = self.knowing.begin_fetch(&order.url, order.asker);
            let overtaken = tokio::sync::Mutex::default();
            let awaited = watch::Sender::new(by_user);
            let for_users = OnceLock::new();
            if by_user {
                for_users.get_or_init(|| self.for_users.hold());
            }
            let running = Arc::new(Running {
                number: self.begun.fetch_add(1, Ordering::Relaxed),
                shape,
                authorized,
                fetch,
                log,
                refetch: order.refetch,
                arrival: arrival.clone(),
                party,
                awaited,
                for_users,
                overtaken,
            });
            all.entry(order.key.clone()).or_default().push(running.clone());
            (running, place)
        };
        let fills = self.clone();
        self.main.spawn(async move {
            let _place = place;
            let task = FillTask {
                fills: &fills,
                order: &order,
                running: &running,
                fetch: running.fetch,
                log: running.log,
                told,
                awaited: running.awaited.subscribe(),
            };
            task.run(lone_to).await;
            if order.purpose == Purpose::Revalidation && running.has_failed() {
                fills.note_unconfirmed(&order.key);
            }
            let mut all = fills.running();
            if let Some(here) = all.get_mut(&order.key) {
                here.retain(|one| !Arc::ptr_eq(one, &running));
                if here.is_empty() {
                    all.remove(&order.key);
                }
            }
        });
        Some(Waiting { member, arrival, lone: Some(lone), joined: false })
    }

    /// Removes the stored responses of a URL that was written to, all variants included, and keeps running fetches of
    /// it from being stored (RFC 9111 §4.4). On return no lookup finds a response that was asked for before this call.
    pub(crate) async fn forget(&self, url: &UrlKey) -> Result<(), WriteError> {
        let bare = ObjectKey::bare(url);
        let overtaken: Vec<Arc<Running>> =
            self.running().extract_if(|key, _| key.is_of(&bare)).flat_map(|(_, running)| running).collect();
        for running in overtaken {
            *running.overtaken.lock().await = true;
        }
        self.store.remove(bare.hash(), bare.bytes(), store::Which::Any).await.map(drop)
    }

    /// Makes sure that fetches of a URL that were begun for an earlier refetch than this one, or for none, do not
    /// replace the result of this one. Requests that wait for them are still answered.
    pub(crate) async fn overtake(&self, url: &UrlKey, refetch: u64) {
        let bare = ObjectKey::bare(url);
        let of_it: Vec<Arc<Running>> =
            self.running().iter().filter(|(key, _)| key.is_of(&bare)).flat_map(|(_, all)| all.clone()).collect();
        for running in of_it.iter().filter(|running| running.refetch < refetch) {
            *running.overtaken.lock().await = true;
        }
    }

    /// Makes sure that fetches that began before fetch `number` do not replace the object that it is about to store at
    /// `place`: otherwise an object proven to be resident would be gone when they end.
    async fn outrun(&self, order: &Order, place: &ObjectKey, number: u64) {
        let earlier: Vec<Arc<Running>> = {
            let all = self.running();
            let before = |running: &&Arc<Running>| running.number < number && running.may_bring(order);
            // A fetch under the bare URL may not know yet which variant it brings.
            let places = [place, &order.key, &ObjectKey::bare(&order.url)];
            places.into_iter().filter_map(|key| all.get(key)).flatten().filter(before).cloned().collect()
        };
        for running in earlier {
            *running.overtaken.lock().await = true;
        }
    }

    /// Sends a request whose answer is not stored, on the runtime that keeps the connections.
    pub(crate) async fn pass(&self, question: Question, body: Option<upstream::UpBody>) -> Result<Answer, AskError> {
        let Some(place) = self.passing.take(&question.domain.name) else {
            self.metrics.refused(Refusal::Fetches);
            return Err(AskError::NotTaken);
        };
        let upstream = self.upstream.clone();
        let asking = self.main.spawn(async move { upstream.ask(&question, body).await });
        match tokio_util::task::AbortOnDropHandle::new(asking).await {
            Ok(answered) => answered.map(|mut answer| {
                answer.body = answer.body.passes(place);
                answer
            }),
            Err(_) => Err(AskError::NoParent("the node is stopping".to_owned())),
        }
    }
}
