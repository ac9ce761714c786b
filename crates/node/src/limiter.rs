//! How much an origin is asked at a time: as much as it answers without being any slower for it, users first (promise P4).
//!
//! Each origin has one limit, whoever asks: users, revalidations, prefetches of any task. It is not configured but felt. Answers are
//! timed to their first byte; while they come as soon as they do from an idle origin the limit rises, and once they come later it
//! falls, before users notice (a gradient, as in TCP Vegas; a failure halves it). Users pass at once and are counted. A prefetch waits for
//! its turn: it is let in only while all that is under way stays below the limit.
//!
//! # What always holds
//!
//! - No prefetch asks an origin that said when to come back (`Retry-After` with 503, or with 429 in answer to a prefetch) before then.
//!   Users do: what one of them was told may be about him, or about one page, and must not take a site from all others.
//! - Prefetches are let in in the order they came, at most [`WAITING_MAX`] of them wait, and none waits longer than [`WAIT_MAX`].
//! - A user who begins to wait for what a prefetch asks for makes it a user's request.
//!
//! # Not here
//!
//! Which origin is asked, and what is done when it refuses: `sources`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::fill::Purpose;
use crate::metrics::{Counter, Page};
use crate::network::Endpoint;

/// Origins that are remembered; past it those that nobody asks are forgotten.
const ORIGINS_MAX: usize = 4096;

/// Prefetches that wait for one origin.
const WAITING_MAX: usize = 4096;

/// Longest wait of a prefetch: shorter than whoever asked us for it waits.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);

/// Longest time that an origin is left alone because it said so.
pub(crate) const CLOSED_MAX: Duration = Duration::from_secs(600);

/// After how long a prefetch is to be tried again for which there was no turn.
pub(crate) const PUT_OFF: Duration = Duration::from_secs(5);

/// Requests at a time that an origin is begun with, and the most that it can come to.
const LIMIT_FIRST: f64 = 4.0;
const LIMIT_MAX: f64 = 1024.0;

/// How much later than from an idle origin answers may come, and by how many standard errors more, so that chance lowers no limit.
const TOLERANCE: f64 = 1.05;
const CHANCE_RISING: f64 = 3.0;
const CHANCE_HOLDING: f64 = 5.0;

/// What the limit rises by after a span in which it was used up and answers came in time: near what was too much, and far from it.
const STEP_NEAR: f64 = 1.05;
const STEP_FAR: f64 = 1.15;
const NEAR: f64 = 0.8;
const FAR: f64 = 0.6;

/// What the limit falls to when it was too much.
const BACK: f64 = 0.92;

/// Answers that are timed before the limit is looked at again, or as many as the limit where that is more.
const ANSWERS_MIN: u32 = 16;

/// How long the limit stays after it was too much, until it is tried whether it still would be.
const HOLD: Duration = Duration::from_secs(30);

/// A failure lowers the limit once in this time: those that follow were asked before it fell.
const HALVED_EVERY: Duration = Duration::from_millis(500);

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotNow {
    /// The origin is to be left alone for so long.
    Closed(Duration),
    /// There was no turn for a prefetch.
    Full,
}

/// Whether users wait for what is asked: that may begin later.
pub(crate) type Awaited = watch::Receiver<bool>;

/// The limits of all origins.
#[derive(Default)]
pub(crate) struct Limiter {
    origins: Mutex<HashMap<Endpoint, Arc<Origin>>>,
    waited: Counter,
    full: Counter,
    closed: Counter,
}

#[derive(Debug)]
struct Origin {
    state: Mutex<State>,
    /// Somebody may be let in.
    room: Notify,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    users: usize,
    prefetches: usize,
    waiting: usize,
    closed: Option<Instant>,
}

/// A request under way; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Slot {
    origin: Arc<Origin>,
    purpose: Purpose,
    began: Instant,
}

impl Limiter {
    fn origin(&self, endpoint: &Endpoint, now: Instant) -> Arc<Origin> {
        let mut origins = self.origins.lock().expect("no holder of this lock can panic");
        if let Some(origin) = origins.get(endpoint) {
            return origin.clone();
        }
        if origins.len() >= ORIGINS_MAX {
            origins.retain(|_, origin| Arc::strong_count(origin) > 1 || origin.state().is_closed(now));
        }
        let state = State { pace: Pace::new(now), users: 0, prefetches: 0, waiting: 0, closed: None };
        let origin = Arc::new(Origin { state: Mutex::new(state), room: Notify::new() });
        if origins.len() < ORIGINS_MAX {
            origins.insert(endpoint.clone(), origin.clone());
        }
        origin
    }

    /// Waits until `endpoint` may be asked. A prefetch is a user's request from the moment that `awaited` says so.
    pub(crate) async fn enter(
        &self,
        endpoint: &Endpoint,
        purpose: Purpose,
        awaited: Option<Awaited>,
    ) -> Result<Slot, NotNow> {
        let origin = self.origin(endpoint, Instant::now());
        let entered = match purpose {
            Purpose::User => Ok(origin.enter_user()),
            Purpose::Prefetch => self.enter_prefetch(&origin, awaited).await,
        };
        match entered {
            Err(NotNow::Closed(_)) => self.closed.inc(),
            Err(NotNow::Full) => self.full.inc(),
            Ok(_) => {}
        }
        entered
    }

    async fn enter_prefetch(&self, origin: &Arc<Origin>, mut awaited: Option<Awaited>) -> Result<Slot, NotNow> {
        let until = Instant::now() + WAIT_MAX;
        let mut line = None;
        loop {
            let called = origin.room.notified();
            tokio::pin!(called);
            // From here on a call is heard, also one that comes before it is waited for.
            called.as_mut().enable();
            if let Some(slot) = origin.enter_prefetch(line.is_some())? {
                return Ok(slot);
            }
            if line.is_none() {
                line = Some(InLine::of(origin)?);
                self.waited.inc();
            }
            let user = async {
                let heard = match &mut awaited {
                    Some(awaited) => awaited.wait_for(|awaited| *awaited).await.is_ok(),
                    None => false,
                };
                if !heard {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = user => return Ok(origin.enter_user()),
                () = called => {}
                () = tokio::time::sleep_until(until) => return Err(NotNow::Full),
            }
        }
    }

    /// Shows what is counted.
    pub(crate) fn show(&self, page: &mut Page) {
        let now = Instant::now();
        let origins = self.origins.lock().expect("no holder of this lock can panic");
        let (mut users, mut prefetches, mut waiting, mut closed) = (0, 0, 0, 0);
        for origin in origins.values() {
            let state = origin.state();
            users += state.users;
            prefetches += state.prefetches;
            waiting += state.waiting;
            closed += usize::from(state.is_closed(now));
        }
        page.gauge("origin_users_running", "Requests to origins under way that users wait for", users);
        page.gauge("origin_prefetches_running", "Those that only prefetches wait for", prefetches);
        page.gauge("origin_prefetches_waiting", "Prefetches that wait for their turn at an origin", waiting);
        page.gauge("origin_prefetches_waiting_max", "Bound of those, for each origin", WAITING_MAX);
        page.gauge("origins_closed", "Origins that no prefetch asks because they said when to come back", closed);
        page.gauge("origins_known", "Origins whose pace is known", origins.len());
        page.gauge("origins_known_max", "Bound of those", ORIGINS_MAX);
        page.counter("origin_waited_total", "Prefetches that had to wait for their turn", self.waited.get());
        page.counter("origin_full_total", "Prefetches put off because no turn came", self.full.get());
        page.counter("origin_closed_total", "Prefetches put off because the origin is left alone", self.closed.get());
    }
}

/// One of those that wait, counted.
struct InLine<'a>(&'a Origin);

impl InLine<'_> {
    fn of(origin: &Origin) -> Result<InLine<'_>, NotNow> {
        let mut state = origin.state();
        if state.waiting >= WAITING_MAX {
            return Err(NotNow::Full);
        }
        state.waiting += 1;
        Ok(InLine(origin))
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.state().waiting -= 1;
    }
}

impl Origin {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    fn enter_user(self: &Arc<Self>) -> Slot {
        let now = Instant::now();
        let mut state = self.state();
        state.users += 1;
        state.note_use();
        Slot { origin: self.clone(), purpose: Purpose::User, began: now }
    }

    /// A slot for a prefetch when there is room, and nobody waits for it who came earlier.
    fn enter_prefetch(self: &Arc<Self>, in_line: bool) -> Result<Option<Slot>, NotNow> {
        let now = Instant::now();
        let mut state = self.state();
        state.check_open(now)?;
        if !state.has_room() || (state.waiting > 0 && !in_line) {
            state.pace.wanted = true;
            return Ok(None);
        }
        state.prefetches += 1;
        state.note_use();
        let more = state.has_room() && state.waiting > usize::from(in_line);
        drop(state);
        if more {
            self.room.notify_one();
        }
        Ok(Some(Slot { origin: self.clone(), purpose: Purpose::Prefetch, began: now }))
    }
}

impl State {
    fn is_closed(&self, now: Instant) -> bool {
        self.closed.is_some_and(|until| now < until)
    }

    fn check_open(&self, now: Instant) -> Result<(), NotNow> {
        match self.closed.filter(|until| now < *until) {
            Some(until) => Err(NotNow::Closed(until - now)),
            None => Ok(()),
        }
    }

    fn has_room(&self) -> bool {
        (self.users + self.prefetches) as f64 + 1.0 <= self.pace.limit
    }

    fn note_use(&mut self) {
        if !self.has_room() {
            self.pace.wanted = true;
        }
    }
}

impl Slot {
    /// Whether a status says that the origin is asked too much (RFC 9110 §15.6.4). Of a user it may say that he asks too much (RFC 6585
    /// §4), which is no word about anybody else.
    pub(crate) fn is_too_much(&self, status: StatusCode) -> bool {
        status == StatusCode::SERVICE_UNAVAILABLE
            || (status == StatusCode::TOO_MANY_REQUESTS && self.purpose == Purpose::Prefetch)
    }

    /// The first byte of an answer is there, and the origin is well.
    pub(crate) fn answered(&self) {
        self.told(|pace, began, now| pace.answered(began, now));
    }

    /// It failed, or said that it is asked too much.
    pub(crate) fn failed(&self) {
        self.told(|pace, _, now| pace.failed(now));
    }

    /// The origin said when to come back: after this time.
    pub(crate) fn closed(&self, after: Duration) {
        let now = Instant::now();
        let mut state = self.origin.state();
        let until = now + after.min(CLOSED_MAX);
        state.closed = Some(state.closed.map_or(until, |closed| closed.max(until)));
        state.pace.failed(now);
        drop(state);
        // Whoever waits hears it now.
        self.origin.room.notify_waiters();
    }

    fn told(&self, tell: impl FnOnce(&mut Pace, Instant, Instant)) {
        let mut state = self.origin.state();
        tell(&mut state.pace, self.began, Instant::now());
        let calls = state.has_room() && state.waiting > 0;
        drop(state);
        if calls {
            self.origin.room.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.origin.state();
        match self.purpose {
            Purpose::User => state.users -= 1,
            Purpose::Prefetch => state.prefetches -= 1,
        }
        let calls = state.has_room() && state.waiting > 0;
        drop(state);
        if calls {
            self.origin.room.notify_one();
        }
    }
}

/// The limit of one origin, and what it is felt by.
#[derive(Debug)]
struct Pace {
    limit: f64,
    /// What was too much when it was last felt; infinite before.
    ceiling: f64,
    /// How soon an idle origin answers.
    idle: Option<Timed>,
    /// Answers to what was asked since the span began.
    span: Span,
    since: Instant,
    /// Whether there was less room than was wanted in the span.
    wanted: bool,
    halved: Option<Instant>,
    phase: Phase,
}

/// What becomes of the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// It rises until answers come later.
    Rising,
    /// It was too much: a little less until this moment.
    Holding(Instant),
    /// It is halved to find out anew how soon an idle origin answers, for what this was may not be any more. What was asked before
    /// is still answered; then it is this again.
    Emptying(f64),
    /// Answers are timed with little under way.
    Timing(f64),
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace {
            limit: LIMIT_FIRST,
            ceiling: f64::INFINITY,
            idle: None,
            span: Span::default(),
            since: now,
            wanted: false,
            halved: None,
            phase: Phase::Rising,
        }
    }

    fn answered(&mut self, began: Instant, now: Instant) {
        if began < self.since {
            return; // asked under another limit
        }
        self.span.add((now - began).as_secs_f64());
        if self.span.answers >= ANSWERS_MIN.max(self.limit as u32) {
            self.turn(now);
        }
    }

    fn failed(&mut self, now: Instant) {
        if self.halved.is_some_and(|halved| now - halved < HALVED_EVERY) {
            return;
        }
        self.halved = Some(now);
        self.ceiling = self.limit;
        self.limit = (self.limit / 2.0).max(1.0);
        self.phase = Phase::Holding(now + HALVED_EVERY);
        self.begin_span(now);
    }

    fn begin_span(&mut self, now: Instant) {
        (self.span, self.since, self.wanted) = (Span::default(), now, false);
    }

    /// The span is over.
    fn turn(&mut self, now: Instant) {
        let timed = self.span.timed();
        // Where the limit stays, many spans are looked at: chance must not lower it a little each time.
        let chance = if matches!(self.phase, Phase::Holding(_)) { CHANCE_HOLDING } else { CHANCE_RISING };
        let late = self.idle.is_some_and(|idle| timed.is_later_than(&idle, chance));
        self.phase = match self.phase {
            Phase::Rising | Phase::Holding(_) if late => {
                // What it works on at a time when it is no slower for it (Little's law), and some room.
                let idle = self.idle.map_or(timed.mean, |idle| idle.mean);
                self.ceiling = self.limit;
                self.limit = (self.limit * BACK * (idle / timed.mean).clamp(0.5, 1.0)).max(1.0);
                // What was far too much, as after a stall, says little of how much is not.
                if self.limit < self.ceiling * FAR { Phase::Rising } else { Phase::Holding(now + HOLD) }
            }
            Phase::Rising => {
                if self.ceiling.is_infinite() {
                    self.idle = Some(self.idle.map_or(timed, |idle| idle.with(&timed)));
                }
                if self.wanted {
                    let step = if self.limit < self.ceiling * NEAR { STEP_FAR } else { STEP_NEAR };
                    self.limit = (self.limit * step).max(self.limit + 0.5).min(LIMIT_MAX);
                }
                Phase::Rising
            }
            Phase::Holding(until) if now < until || !self.wanted => Phase::Holding(until),
            Phase::Holding(_) => {
                let before = self.limit;
                self.limit = (before / 2.0).max(1.0);
                Phase::Emptying(before)
            }
            Phase::Emptying(limit) => Phase::Timing(limit),
            Phase::Timing(limit) => {
                self.idle = Some(self.idle.map_or(timed, |idle| idle.with(&timed)));
                self.limit = limit;
                Phase::Rising
            }
        };
        self.begin_span(now);
    }
}

/// Answers that were timed: how many, and the sums of their seconds and of the squares of these.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    answers: u32,
    sum: f64,
    squares: f64,
}

impl Span {
    fn add(&mut self, seconds: f64) {
        self.answers += 1;
        self.sum += seconds;
        self.squares += seconds * seconds;
    }

    fn timed(&self) -> Timed {
        let answers = f64::from(self.answers.max(1));
        let mean = self.sum / answers;
        let variance = (self.squares / answers - mean * mean).max(0.0);
        Timed { mean, error: variance / answers }
    }
}

/// How soon answers come: their mean in seconds, and how far that may be off (the square of its standard error).
#[derive(Clone, Copy, Debug)]
struct Timed {
    mean: f64,
    error: f64,
}

impl Timed {
    /// Later than from an idle origin, by more than chance explains.
    fn is_later_than(&self, idle: &Timed, chance: f64) -> bool {
        let chance = chance * (self.error + idle.error).sqrt();
        self.mean > idle.mean * TOLERANCE + chance
    }

    /// What both say together.
    fn with(&self, other: &Timed) -> Timed {
        Timed { mean: (self.mean + other.mean) / 2.0, error: (self.error + other.error) / 4.0 }
    }
}

#[cfg(test)]
mod tests;
