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
//! - What was begun for a prefetch and nobody waits for any more asks nobody who was not asked yet ([`Party`]).
//! - What was asked for before a write to its URL was answered is not stored, and nobody joins it ([`Fills::forget`]).
//! - What was asked for earlier never takes the place of what was asked for later, however slowly it comes ([`Fills::outrun`]).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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
use crate::metrics::{Metrics, Refusal};
use crate::respond::BodyError;
use crate::room::Room;
use crate::slices::{self, Part, SliceSizes};
use crate::upstream::{self, Answer, AskError, Asked, From, Question, Upstream};
use crate::vouched::VouchedMoments;
use task::FillTask;

mod marking;
mod pouring;
mod task;

/// Fetches at a time.
pub(crate) const FILLS_MAX: usize = 8192;

/// Requests that go past the store at the same time: each has a connection to a parent or an origin of its own.
pub(crate) const PASSING_MAX: usize = 4096;

/// Keys remembered because their answers are nobody's but the asker's, and for how long: they are not waited for.
const LONE_MAX: usize = 16_384;
const LONE_FOR: Duration = Duration::from_secs(5);

/// The same for a body that turned out too large for the store only while it came: whoever follows such a fill is cut off.
const TOO_LARGE_FOR: Duration = Duration::from_secs(600);

/// Request fields by which the variants of a URL differ altogether. An origin that names others with every answer begins anew.
const VARY_FIELDS_MAX: usize = 16;

/// Why a prefetch that brought what is not fresh has warmed nothing.
pub(crate) const NOT_FRESH: &str = "not fresh on arrival: users would not be answered from the store";

/// Markers that may be left at the same time.
const MARKERS_AT_ONCE: usize = 64;

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
    pub(crate) asked: Asked,
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
    /// For which refetch, so that only what is fetched for this or a later one will do; zero for none.
    pub(crate) refetch: u64,
    /// Where interim answers go.
    pub(crate) interim: Option<Interim>,
    /// What he found may stand in for an answer that failed: one that did does not take its place.
    pub(crate) stands_in: bool,
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
    /// It is for the one who began, and for nobody else.
    pub(crate) alone: bool,
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
    /// It is the beginner's alone; what came is a failure, or not.
    Lone {
        failed: bool,
    },
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

/// Those who wait for a fetch. When the last of them leaves before an answer came, a fetch that was begun for a prefetch does not ask
/// any more; one that a user began or joined does, whoever leaves.
struct Party {
    state: Mutex<PartyState>,
    /// Whether an answer is wanted.
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct PartyState {
    waiting: usize,
    /// It goes on whether anybody waits or not.
    goes_on: bool,
    /// It was given up, and nobody can join any more.
    over: bool,
}

impl Party {
    fn new() -> Arc<Party> {
        Arc::new(Party { state: Mutex::default(), wanted: watch::Sender::new(true) })
    }

    fn state(&self) -> MutexGuard<'_, PartyState> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    /// One more who waits; `None` when it was given up.
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

    /// Gives it up, unless somebody has joined since all had left.
    fn give_up(&self) -> bool {
        let mut state = self.state();
        state.over = state.waiting == 0 && !state.goes_on;
        state.over
    }
}

/// One who waits.
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

/// What a fetch came to, for one who waited.
pub(crate) enum Outcome {
    Body(Arc<Arrived>),
    /// The answer is his alone.
    Mine(Box<LoneAnswer>),
    /// It was another's alone, or what may not be stored was asked for in part: ask on one's own, unless it failed and something may
    /// stand in.
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

    /// Waits for the header.
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
    /// How its key was made.
    shape: u64,
    /// It is asked for with somebody's credentials: until it is known whether the answer is everybody's, only such requests wait for it.
    authorized: bool,
    fetch: Fetch,
    log: LogTag,
    /// For which refetch it is.
    refetch: u64,
    arrival: watch::Receiver<Option<Arrival>>,
    party: Arc<Party>,
    /// Whether a user waits for it.
    awaited: watch::Sender<bool>,
    /// Whether what comes is not to be stored any more, for the URL was written to since it was asked for, or what was asked for later
    /// is there; held while it becomes visible in the store, so that whoever sets this knows it to be there or never to come.
    overtaken: tokio::sync::Mutex<bool>,
}

impl Running {
    /// Whether its head is there, and everybody's.
    fn has_come(&self) -> bool {
        matches!(&*self.arrival.borrow(), Some(Arrival::Body(_)))
    }

    /// Whether it brings the variant that is ordered, as far as that is known.
    fn may_bring(&self, order: &Order) -> bool {
        match &*self.arrival.borrow() {
            None => true,
            Some(Arrival::Body(arrived)) => httpcache::vary_key(&arrived.vary, &order.headers) == arrived.values,
            Some(Arrival::Lone { .. } | Arrival::Again | Arrival::Failed(_)) => false,
        }
    }

    /// Whether what has come of it is good for who asks only now, at `now`: a body may take longer to come than it is fresh. A prefetch
    /// looks at what it has in the end, and whoever asks for a slice has judged the head of which it is one.
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

/// Whether a request comes with credentials, so that its answer may be nobody else's (RFC 9111 §3.5).
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
    /// By what they are for, each in the order in which they began: one that is overtaken goes on beside the next.
    running: Mutex<HashMap<ObjectKey, Vec<Arc<Running>>>>,
    /// How many have begun; numbers them.
    begun: AtomicU64,
    /// Keys whose answers are nobody's but the asker's, to requests with credentials or to those without, and until when.
    lone: Mutex<HashMap<(ObjectKey, bool), Instant>>,
    /// Held while the marker of a URL is looked at and left, chosen by the URL: variants that come at the same time share one.
    marking: [tokio::sync::Mutex<()>; MARKERS_AT_ONCE],
    for_users: Arc<crate::metrics::Gauge>,
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
            all: Room::new(FILLS_MAX),
            passing: Room::new(PASSING_MAX),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Fetches running now, and those of them that users wait for.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.all.taken(), self.for_users.get())
    }

    /// Requests that go past the store now.
    pub(crate) fn passing(&self) -> u64 {
        self.passing.taken()
    }

    /// Who is asked for what is not stored.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn running(&self) -> MutexGuard<'_, HashMap<ObjectKey, Vec<Arc<Running>>>> {
        self.running.lock().expect("no holder of this lock can panic")
    }

    /// Whether answers for `key` to requests with such `headers` were lately nobody's but the asker's.
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
            // A variant may be on its way under the bare URL: it was asked for before anybody knew that there are some.
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
            let awaited = watch::Sender::new(order.purpose == Purpose::User);
            let (refetch, arrival) = (order.refetch, arrival.clone());
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            let running =
                Running { number, shape, authorized, fetch, log, refetch, arrival, party, awaited, overtaken };
            let running = Arc::new(running);
            all.entry(order.key.clone()).or_default().push(running.clone());
            (running, place)
        };
        let held = (place, (order.purpose == Purpose::User).then(|| self.for_users.hold()));
        let fills = self.clone();
        self.main.spawn(async move {
            let _held = held;
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

    /// Forgets what is stored under a URL, all variants of it, and what is being fetched for it: it was written to (RFC 9111
    /// §4.4). On return no lookup finds what was asked for before this call.
    pub(crate) async fn forget(&self, url: &UrlKey) -> Result<(), WriteError> {
        let bare = ObjectKey::bare(url);
        let overtaken: Vec<Arc<Running>> =
            self.running().extract_if(|key, _| key.is_of(&bare)).flat_map(|(_, running)| running).collect();
        for running in overtaken {
            *running.overtaken.lock().await = true;
        }
        self.store.remove(bare.hash(), bare.bytes(), store::Which::Any).await.map(drop)
    }

    /// Sees to it that fetches of a URL that were begun for an earlier refetch than this one, or for none, put nothing in the place of
    /// what this one brings. Whoever waits for them is answered.
    pub(crate) async fn overtake(&self, url: &UrlKey, refetch: u64) {
        let bare = ObjectKey::bare(url);
        let of_it: Vec<Arc<Running>> =
            self.running().iter().filter(|(key, _)| key.is_of(&bare)).flat_map(|(_, all)| all.clone()).collect();
        for running in of_it.iter().filter(|running| running.refetch < refetch) {
            *running.overtaken.lock().await = true;
        }
    }

    /// Sees to it that fetches that began before this one put nothing in the place of what it is about to store at `place`: they were
    /// overtaken, and what is proved to be there would be gone when they end.
    async fn outrun(&self, order: &Order, place: &ObjectKey, number: u64) {
        let earlier: Vec<Arc<Running>> = {
            let all = self.running();
            let before = |running: &&Arc<Running>| running.number < number && running.may_bring(order);
            // Of what was asked for under the bare URL it may not be known yet which variant it is.
            let places = [place, &order.key, &ObjectKey::bare(&order.url)];
            places.into_iter().filter_map(|key| all.get(key)).flatten().filter(before).cloned().collect()
        };
        for running in earlier {
            *running.overtaken.lock().await = true;
        }
    }

    /// Asks for something that is not stored, whatever comes; on the runtime that keeps the connections.
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
