//! The concurrency limit of each origin: as many requests at a time as it answers without becoming slower, users first
//! (promise P4).
//!
//! Each origin has one limit for all its traffic: users, revalidations, prefetches of any task. It is not configured
//! but inferred from response times (`pace`). Where several nodes ask the same origin, one of them measures it for all,
//! and each node keeps to a share that the control plane lends (`shares`). Users pass at once and are counted. A
//! prefetch waits for its turn: it is let in only while all requests under way stay below the limit, and below the cap
//! of the domain's owner (`caps`). A validation in the background is let in at once or not at all.
//!
//! # What always holds
//!
//! - No prefetch and no validation in the background asks an origin that said when to come back (`Retry-After` with 503, or with 429 in answer to a
//!   prefetch) before then, nor one that fails in a row before a pause is over. Users do: such an answer may be about
//!   one user or one page, and must not take a site away from everybody else.
//! - Prefetches are let in in order of arrival, and none waits longer than [`WAIT_MAX`] (`line`).
//! - A prefetch becomes a user's request once a user begins to wait for it.
//! - A validation in the background goes to an origin only while users leave room there.
//! - Retries of prefetches are few compared with first tries (`retries`).
//!
//! # Not here
//!
//! Which origin is asked, and what happens when it refuses: `sources`.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::StatusCode;
use model::functions::{PrefetchLimit, SHARE_DEFAULT};
use model::link::{Closed, SHARE_NAME_BYTES_MAX, Shared, Shares, Want, Wants};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fill::Purpose;
use crate::metrics::Counter;
use crate::network::Endpoint;
use caps::{CapPermit, Caps};
use line::{Line, Waited};
use pace::{LIMIT_MAX, Pace};
use retries::{Budget, Failed, Trouble};
use shares::{Allotment, IDLE, Sharing};

mod caps;
mod line;
mod pace;
mod page;
mod retries;
mod shares;

/// Origins that are remembered; beyond that, those without requests are forgotten.
const ORIGINS_MAX: usize = 4096;

/// How long the measuring node lets other nodes use up the limit before it sends one request at a time anyway.
const STARVED: Duration = Duration::from_secs(2);

/// Longest wait of a prefetch: shorter than the wait of the node that asked for it.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);

/// Longest time that an origin is left alone at its own request.
pub(crate) const CLOSED_MAX: Duration = Duration::from_secs(600);

/// After how long a prefetch that got no turn is to be tried again.
pub(crate) const PUT_OFF: Duration = Duration::from_secs(5);

/// How long this node halves its share after a failure, where another node measures: by then that node has heard of it.
const HALVED_FOR: Duration = Duration::from_secs(1);

/// How long the smallest share of the domains that use an origin applies to all of them.
const SHARE_FOR: Duration = Duration::from_secs(60);

/// Why a request is not let in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotNow {
    /// The origin is to be left alone for this long.
    Closed(Duration),
    /// No turn came for a prefetch.
    Full,
}

/// Whether users wait for the response; that may begin later.
pub(crate) type Awaited = watch::Receiver<bool>;

/// Resolves once a user waits for the response; never, if none can any more.
pub(crate) async fn until_awaited(awaited: &mut Option<Awaited>) {
    let heard = match awaited {
        Some(awaited) => awaited.wait_for(|awaited| *awaited).await.is_ok(),
        None => false,
    };
    if !heard {
        std::future::pending::<()>().await;
    }
}

/// The limits of all origins.
pub(crate) struct Limiter {
    seed: u64,
    origins: Mutex<HashMap<Endpoint, Arc<Origin>>>,
    caps: Caps,
    sharing: Arc<Sharing>,
    failed: Mutex<Failed>,
    waited: Counter,
    full: Counter,
    closed: Counter,
    again: Counter,
    not_again: Counter,
    not_confirmed: Counter,
}

#[derive(Debug)]
struct Origin {
    sharing: Arc<Sharing>,
    /// Makes this node's pauses differ from another's.
    seed: u64,
    state: Mutex<State>,
    line: Line,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    users: usize,
    prefetches: usize,
    /// The peak of users, and of all requests under way or waiting, since the last message.
    peak_users: usize,
    peak: usize,
    /// When a prefetch last asked to be let in.
    asked: Option<Instant>,
    /// Since when other nodes have left the measuring node no room at all.
    starved: Cell<Option<Instant>>,
    closed: Option<Instant>,
    /// When a closure ends that the origin named to this node, while other nodes do not know of it yet.
    untold: Option<Instant>,
    allotment: Allotment,
    /// Whether it failed and the measuring node was not told yet.
    failed: bool,
    halved: Option<Instant>,
    /// The smallest percentage that a domain's prefetches may use, and when it expires.
    share: (u64, Instant),
    trouble: Trouble,
    budget: Budget,
}

/// A request under way; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Permit {
    origin: Arc<Origin>,
    purpose: Purpose,
    began: Instant,
    /// Its permit within the cap of its domain.
    cap: Option<CapPermit>,
}

/// A prefetch that asks to be let in.
pub(crate) struct Prefetching<'a> {
    pub(crate) domain: &'a str,
    pub(crate) limit: &'a PrefetchLimit,
    /// The hash of the key.
    pub(crate) key: u128,
    /// Whether a recent request for it, at this origin or another, failed.
    pub(crate) again: bool,
}

impl Limiter {
    /// A limiter; its seed makes its pauses differ from those of other nodes.
    pub(crate) fn new(seed: u64) -> Limiter {
        let sharing: Arc<Sharing> = Arc::default();
        Limiter {
            seed,
            origins: Mutex::default(),
            caps: Caps::new(sharing.clone()),
            sharing,
            failed: Mutex::default(),
            waited: Counter::default(),
            full: Counter::default(),
            closed: Counter::default(),
            again: Counter::default(),
            not_again: Counter::default(),
            not_confirmed: Counter::default(),
        }
    }

    fn origins(&self) -> MutexGuard<'_, HashMap<Endpoint, Arc<Origin>>> {
        self.origins.lock().expect("no holder of this lock can panic")
    }

    fn failed(&self) -> MutexGuard<'_, Failed> {
        self.failed.lock().expect("no holder of this lock can panic")
    }

    fn origin(&self, endpoint: &Endpoint, now: Instant) -> Arc<Origin> {
        let mut origins = self.origins();
        if let Some(origin) = origins.get(endpoint) {
            return origin.clone();
        }
        if origins.len() >= ORIGINS_MAX {
            origins.retain(|_, origin| Arc::strong_count(origin) > 1 || origin.state().is_closed(now));
        }
        let seed = xxhash_rust::xxh3::xxh3_64_with_seed(name(endpoint).as_bytes(), self.seed);
        let state = Mutex::new(State::new(now));
        let origin = Arc::new(Origin { sharing: self.sharing.clone(), seed, state, line: Line::default() });
        if origins.len() < ORIGINS_MAX {
            origins.insert(endpoint.clone(), origin.clone());
        }
        origin
    }

    /// Waits until `endpoint` may be asked. A prefetch becomes a user's request as soon as `awaited` says so. A
    /// validation in the background does not wait: a later request begins another one.
    pub(crate) async fn enter(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        awaited: Option<Awaited>,
    ) -> Result<Permit, NotNow> {
        let origin = self.origin(endpoint, Instant::now());
        let entered = match purpose {
            Purpose::User => Ok(origin.enter_user()),
            Purpose::Revalidation if awaited.as_ref().is_some_and(|awaited| *awaited.borrow()) => {
                Ok(origin.enter_user())
            }
            Purpose::Revalidation => {
                return origin.enter_revalidation().inspect_err(|_| self.not_confirmed.inc());
            }
            Purpose::Prefetch => {
                let waits = || self.waited.inc();
                match origin.line.wait(awaited, || origin.enter_prefetch(), waits).await {
                    Ok(Waited::Entered(permit)) => Ok(permit),
                    Ok(Waited::User) => Ok(origin.enter_user()),
                    Err(not_now) => Err(not_now),
                }
            }
        };
        match entered {
            Err(NotNow::Closed(_)) => self.closed.inc(),
            Err(NotNow::Full) => self.full.inc(),
            Ok(_) => {}
        }
        entered
    }

    /// As [`Limiter::enter`], for a prefetch, within the caps of its domain. A retry has to fit the retry budget.
    pub(crate) async fn enter_prefetching(
        &self,
        endpoint: &Endpoint,
        asks: Prefetching<'_>,
        awaited: Option<Awaited>,
    ) -> Result<Permit, NotNow> {
        let cap = self.caps.enter(asks.domain, asks.limit, awaited.clone()).await;
        let cap = cap.inspect_err(|_| self.full.inc())?;
        let now = Instant::now();
        let again = asks.again || self.failed().is_here(asks.key, now);
        let origin = self.origin(endpoint, now);
        {
            let mut state = origin.state();
            if asks.limit.share <= state.share.0 || state.share.1 <= now {
                state.share = (asks.limit.share, now + SHARE_FOR);
            }
        }
        let mut permit = self.enter(endpoint, Purpose::Prefetch, awaited).await?;
        // Only now: a prefetch that was put off made no request and is no first try. One that a user waits for is not
        // held back.
        if permit.purpose == Purpose::User {
            return Ok(permit);
        }
        if !again {
            origin.state().budget.first();
        } else if origin.state().budget.again(Instant::now()) {
            self.again.inc();
        } else {
            self.not_again.inc();
            return Err(NotNow::Full);
        }
        permit.cap = cap;
        Ok(permit)
    }

    /// Records whether a prefetch got its object; if not, the next request for it is a retry.
    pub(crate) fn note(&self, key: u128, came: bool) {
        match came {
            true => self.failed().forget(key),
            false => self.failed().note(key, Instant::now()),
        }
    }

    /// Records that a control plane is connected, and whether it lends shares.
    pub(crate) fn connected(&self, lends: bool) {
        self.sharing.connected(lends);
        if !lends {
            self.origins().values().for_each(|origin| origin.state().pace.alone());
        }
    }

    /// Waits until the next message about wanted shares is due, and returns it.
    pub(crate) async fn wants(&self) -> Wants {
        self.sharing
            .say(|sequence, now| {
                let mut wants = Vec::new();
                for (endpoint, origin) in &*self.origins() {
                    wants.extend(origin.say(endpoint, sequence, now));
                }
                self.caps.say(sequence, now, &mut wants);
                wants
            })
            .await
    }

    /// Applies the shares that the control plane lends.
    pub(crate) fn take(&self, shares: &Shares) {
        let Some(sent) = self.sharing.answered(shares.sequence) else { return };
        let by_name: HashMap<String, Arc<Origin>> =
            self.origins().iter().map(|(endpoint, origin)| (name(endpoint), origin.clone())).collect();
        for share in &shares.shares {
            match Shared::try_from(share.shared) {
                Ok(Shared::Origin) => {
                    if let Some(origin) = by_name.get(&share.name) {
                        origin.take(share, shares.sequence, sent);
                    }
                }
                Ok(Shared::Places | Shared::Rate) => self.caps.take(share, shares.sequence, sent),
                Err(_) => {} // of a later version, and never asked for
            }
        }
    }

    /// Closes an origin that told another node to leave it alone.
    pub(crate) fn close(&self, closed: &Closed) {
        let origins = self.origins();
        let Some((_, origin)) = origins.iter().find(|(endpoint, _)| name(endpoint) == closed.name) else { return };
        origin.state().close(Duration::from_millis(closed.closed_ms), Instant::now());
        origin.line.call_all();
    }
}

/// The name under which an origin is shared.
fn name(endpoint: &Endpoint) -> String {
    let mut name = match &endpoint.tls {
        None => endpoint.to_string(),
        Some(tls) => format!("{endpoint} {tls}"),
    };
    // No host name is that long; a longer text would share with others that begin alike.
    name.truncate(name.floor_char_boundary(SHARE_NAME_BYTES_MAX));
    name
}

impl Origin {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    fn enter_user(self: &Arc<Self>) -> Permit {
        let now = Instant::now();
        let mut state = self.state();
        state.users += 1;
        state.peak_users = state.peak_users.max(state.users);
        self.note_use(&mut state, now);
        Permit { origin: self.clone(), purpose: Purpose::User, began: now, cap: None }
    }

    /// A permit for a validation in the background, which a user's request caused: it is counted with users' requests and
    /// goes before prefetches, which might otherwise keep it out for as long as a task lasts. Without a lease it goes by
    /// the limit that this node knew last: leases are asked for prefetches, and are there only while prefetches run.
    fn enter_revalidation(self: &Arc<Self>) -> Result<Permit, NotNow> {
        let now = Instant::now();
        let mut state = self.state();
        state.check_open(now)?;
        let shared = self.sharing.is_on() && state.allotment.lease(now).is_some();
        let bound = if shared { state.bound(now, true) } else { state.pace.limit };
        if state.users as f64 + 1.0 > bound.max(1.0) {
            return Err(NotNow::Full);
        }
        state.users += 1;
        self.note_use(&mut state, now);
        Ok(Permit { origin: self.clone(), purpose: Purpose::Revalidation, began: now, cap: None })
    }

    /// A permit for a prefetch, or `None` when there is no room.
    fn enter_prefetch(self: &Arc<Self>) -> Result<Option<Permit>, NotNow> {
        let now = Instant::now();
        let mut state = self.state();
        state.check_open(now)?;
        state.asked = Some(now);
        if !state.has_room(now, self.sharing.is_on()) {
            state.pace.wanted = true;
            // This request is either not counted as waiting yet, or is one of those that wait.
            let wanted = state.users + state.prefetches + self.line.len().max(1);
            state.peak = state.peak.max(wanted);
            if state.allotment.is_hasty(wanted as u64, now) {
                self.sharing.hurry();
            }
            return Ok(None);
        }
        state.prefetches += 1;
        self.note_use(&mut state, now);
        Ok(Some(Permit { origin: self.clone(), purpose: Purpose::Prefetch, began: now, cap: None }))
    }

    fn note_use(&self, state: &mut State, now: Instant) {
        state.peak = state.peak.max(state.users + state.prefetches + self.line.len());
        if !state.has_room(now, self.sharing.is_on()) {
            state.pace.wanted = true;
        }
    }

    /// Calls the first in line when there is room.
    fn call(&self, state: MutexGuard<'_, State>) {
        let has_room = state.has_room(Instant::now(), self.sharing.is_on());
        drop(state);
        if has_room {
            self.line.call();
        }
    }

    /// The share wanted of this origin.
    fn say(&self, endpoint: &Endpoint, sequence: u64, now: Instant) -> Option<Want> {
        let mut state = self.state();
        let waiting = self.line.len();
        let peak = state.peak.max(state.users + state.prefetches + waiting);
        let users = state.peak_users.max(state.users);
        (state.peak, state.peak_users) = (state.users + state.prefetches + waiting, state.users);
        let idle = state.prefetches == 0 && waiting == 0 && state.asked.is_none_or(|asked| now - asked >= IDLE);
        let closed_ms = state.untold.map_or(0, |until| until.saturating_duration_since(now).as_millis() as u64);
        if idle && !state.allotment.is_held() && closed_ms == 0 {
            return None;
        }
        let want = Want {
            shared: Shared::Origin.into(),
            name: name(endpoint),
            wanted: if idle { 0 } else { (peak.max(1) as u64).min(LIMIT_MAX as u64) },
            users: users as u64,
            used: (state.users + state.prefetches) as u64,
            limit: state.pace.limit,
            failed: std::mem::take(&mut state.failed),
            closed_ms,
            ..Want::default()
        };
        Some(state.allotment.say(want, sequence, now))
    }

    /// Applies a share of this origin.
    fn take(&self, share: &model::link::Share, sequence: u64, sent: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        let felt = state.allotment.lease(now).is_some_and(|lease| lease.feels);
        if share.closed_ms > 0 {
            state.close(Duration::from_millis(share.closed_ms), now);
        }
        if state.untold.is_some_and(|until| share.closed_ms > 0 || until <= now) {
            state.untold = None;
        }
        if state.allotment.take(share, sequence, sent) && share.feels {
            if !felt && (share.limit - state.pace.limit).abs() >= 1.0 {
                state.pace = Pace::taken_over(share.limit, now);
            }
            state.pace.others = share.granted as f64;
            state.pace.unused = share.granted.saturating_sub(share.taken) as f64;
            if share.failed {
                state.pace.failed(now);
            }
        }
        match state.is_closed(now) {
            true => self.line.call_all(),
            false => self.call(state),
        }
    }
}

impl State {
    fn new(now: Instant) -> State {
        State {
            pace: Pace::new(now),
            users: 0,
            prefetches: 0,
            peak_users: 0,
            peak: 0,
            asked: None,
            starved: Cell::default(),
            closed: None,
            untold: None,
            allotment: Allotment::default(),
            failed: false,
            halved: None,
            share: (SHARE_DEFAULT, now),
            trouble: Trouble::default(),
            budget: Budget::new(now),
        }
    }

    fn is_closed(&self, now: Instant) -> bool {
        self.closed.is_some_and(|until| now < until)
    }

    fn check_open(&self, now: Instant) -> Result<(), NotNow> {
        match self.closed.filter(|until| now < *until) {
            Some(until) => Err(NotNow::Closed(until - now)),
            None => Ok(()),
        }
    }

    fn close(&mut self, after: Duration, now: Instant) {
        let until = now + after.min(CLOSED_MAX);
        self.closed = Some(self.closed.map_or(until, |closed| closed.max(until)));
    }

    /// The percentage of the limit that prefetches may use.
    fn percent(&self, now: Instant) -> u64 {
        if now < self.share.1 { self.share.0 } else { SHARE_DEFAULT }
    }

    /// Whether this node measures the origin: for all nodes, or because nobody lends shares.
    fn feels(&self, now: Instant, shared: bool) -> bool {
        !shared || self.allotment.lease(now).is_some_and(|lease| lease.feels)
    }

    /// How many requests this node may have under way.
    fn bound(&self, now: Instant, shared: bool) -> f64 {
        if !shared {
            return self.pace.own();
        }
        match self.allotment.lease(now) {
            None => 0.0,
            Some(lease) if lease.feels => self.pace.own(),
            Some(lease) if self.halved.is_some_and(|until| now < until) => lease.granted as f64 / 2.0,
            Some(lease) => lease.granted as f64,
        }
    }

    /// Whether one more prefetch may be let in.
    fn has_room(&self, now: Instant, shared: bool) -> bool {
        let bound = self.bound(now, shared);
        // A measuring node that other nodes leave no room sends one request at a time after a while: without responses
        // to measure, no limit would ever rise again.
        if bound >= 1.0 || !self.feels(now, shared) {
            self.starved.set(None);
        } else if self.users + self.prefetches == 0 {
            let since = self.starved.get().unwrap_or(now);
            self.starved.set(Some(since));
            if now - since >= STARVED {
                return true;
            }
        }
        // A limit is found only by using all of it.
        let is_tried = self.feels(now, shared) && !self.pace.is_settled();
        let of_prefetches =
            if is_tried { bound } else { (bound * self.percent(now) as f64 / 100.0).max(bound.min(1.0)) };
        (self.users + self.prefetches) as f64 + 1.0 <= bound && self.prefetches as f64 + 1.0 <= of_prefetches
    }
}

impl Permit {
    /// Whether a status says that the origin is overloaded (RFC 9110 §15.6.4). To a user, 429 may say that this user
    /// asks too much (RFC 6585 §4), which says nothing about others.
    pub(crate) fn is_too_much(&self, status: StatusCode) -> bool {
        status == StatusCode::SERVICE_UNAVAILABLE
            || (status == StatusCode::TOO_MANY_REQUESTS && self.purpose == Purpose::Prefetch)
    }

    /// Records the first byte of an answer from a healthy origin. The limit adapts to how long it took if it was `timed`.
    pub(crate) fn answered(&self, timed: bool) {
        let now = Instant::now();
        let mut state = self.origin.state();
        state.trouble.is_over();
        if timed && state.feels(now, self.origin.sharing.is_on()) {
            state.pace.in_part = state.percent(now) < SHARE_DEFAULT;
            state.pace.answered(self.began, now, self.purpose == Purpose::User);
        }
        self.origin.call(state);
    }

    /// Records an answer that fails this request, though it may be about the page or the user alone: it shows neither
    /// that the origin is well nor how soon it answers. In answer to what no user waits for, several in a row make the
    /// origin rest, like other failures.
    pub(crate) fn failed_alone(&self) {
        let now = Instant::now();
        let mut state = self.origin.state();
        let pause = match self.purpose {
            Purpose::User => None,
            Purpose::Revalidation | Purpose::Prefetch => state.trouble.failed(false, self.began, now, self.origin.seed),
        };
        match pause {
            Some(pause) => self.close(state, pause, now),
            None => self.origin.call(state),
        }
    }

    /// Records a failure, or an answer that says the origin is overloaded.
    pub(crate) fn failed(&self, too_much: bool) {
        let now = Instant::now();
        let mut state = self.origin.state();
        self.note_failure(&mut state, now);
        match state.trouble.failed(too_much, self.began, now, self.origin.seed) {
            Some(pause) => self.close(state, pause, now),
            None => self.origin.call(state),
        }
    }

    /// Records that the origin asked to be left alone for this time.
    pub(crate) fn closed(&self, after: Duration) {
        let now = Instant::now();
        let mut state = self.origin.state();
        self.note_failure(&mut state, now);
        self.close(state, after, now);
    }

    fn note_failure(&self, state: &mut State, now: Instant) {
        // While an origin is left alone it refuses users, which no limit of prefetches would change.
        if state.is_closed(now) {
            return;
        }
        if state.feels(now, self.origin.sharing.is_on()) {
            state.pace.failed(now);
        } else {
            (state.failed, state.halved) = (true, Some(now + HALVED_FOR));
        }
    }

    fn close(&self, mut state: MutexGuard<'_, State>, after: Duration, now: Instant) {
        // All requests under way will get the same answer: only the first one is news.
        let is_news = !state.is_closed(now);
        state.close(after, now);
        state.untold = state.closed;
        drop(state);
        // Waiting prefetches hear it now, and so do other nodes.
        self.origin.line.call_all();
        match is_news {
            true => self.origin.sharing.say_at_once(),
            false => self.origin.sharing.hurry(),
        }
    }

    /// Waits until more of the body may be read.
    pub(crate) async fn readable(&self) {
        if let Some(cap) = &self.cap {
            cap.readable().await;
        }
    }

    /// Records how many bytes of the body were read.
    pub(crate) fn read(&self, bytes: usize) {
        if let Some(cap) = &self.cap {
            cap.read(bytes);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.origin.state();
        match self.purpose {
            Purpose::User | Purpose::Revalidation => state.users -= 1,
            Purpose::Prefetch => state.prefetches -= 1,
        }
        self.origin.call(state);
    }
}

#[cfg(test)]
mod tests;
