//! The caps that the owner of a domain sets on its prefetches, over all nodes: how many at a time, how many bytes a
//! second.
//!
//! # What always holds
//!
//! - The sum over all nodes keeps to the cap: each node has a lease of it (`shares`), and without one nothing is let
//!   in.
//! - A paced body makes progress: if more than one is let in, there are no more of them than get [`BODY_RATE_MIN`]
//!   each.
//! - Pacing ends for a body that a user begins to wait for. Users' own requests are not counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use model::functions::{PrefetchLimit, RATE_UNIT};
use model::link::{Share, Shared, Want};
use tokio::time::Instant;

use super::line::{Line, Waited};
use super::shares::{Allotment, IDLE, Sharing};
use super::{Awaited, NotNow, until_awaited};

/// Domains whose caps are remembered; beyond that, those without prefetches are forgotten.
const DOMAINS_MAX: usize = 4096;

/// The least bytes a second for each body, where there is more than one.
const BODY_RATE_MIN: u64 = 64 << 10;

/// Bytes that may be saved up, as the time in which they would be granted.
const BURST: Duration = Duration::from_millis(250);

/// How often a paced body checks its rate, which may change.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The caps of all domains.
#[derive(Debug)]
pub(super) struct Caps {
    sharing: Arc<Sharing>,
    domains: Mutex<HashMap<String, Arc<Cap>>>,
}

/// The caps of one domain.
#[derive(Debug)]
struct Cap {
    sharing: Arc<Sharing>,
    line: Line,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    set: PrefetchLimit,
    running: u64,
    /// The peak of running and waiting prefetches since the last message.
    peak: u64,
    asked: Instant,
    places: Allotment,
    rate: Allotment,
    /// Bytes that may be read; negative when more was read, which is waited for.
    balance: f64,
    filled: Instant,
    /// Bytes read since the last message, and whether any prefetch had to wait for some.
    read: u64,
    starved: bool,
    said: Instant,
}

/// A prefetch under way; dropping it makes room.
#[derive(Debug)]
pub(crate) struct CapPermit {
    cap: Arc<Cap>,
    awaited: Option<Awaited>,
}

impl Caps {
    pub(super) fn new(sharing: Arc<Sharing>) -> Caps {
        Caps { sharing, domains: Mutex::default() }
    }

    fn domains(&self) -> MutexGuard<'_, HashMap<String, Arc<Cap>>> {
        self.domains.lock().expect("no holder of this lock can panic")
    }

    fn cap(&self, domain: &str, set: &PrefetchLimit, now: Instant) -> Arc<Cap> {
        let mut domains = self.domains();
        if let Some(cap) = domains.get(domain) {
            cap.state().set = *set;
            return cap.clone();
        }
        if domains.len() >= DOMAINS_MAX {
            domains.retain(|_, cap| Arc::strong_count(cap) > 1);
        }
        let state = State {
            set: *set,
            running: 0,
            peak: 0,
            asked: now,
            places: Allotment::default(),
            rate: Allotment::default(),
            balance: 0.0,
            filled: now,
            read: 0,
            starved: false,
            said: now,
        };
        let cap = Arc::new(Cap { sharing: self.sharing.clone(), line: Line::default(), state: Mutex::new(state) });
        if domains.len() < DOMAINS_MAX {
            domains.insert(domain.to_owned(), cap.clone());
        }
        cap
    }

    /// Waits for a place of a domain whose owner sets a cap. A prefetch that a user waits for needs none.
    pub(super) async fn enter(
        &self,
        domain: &str,
        set: &PrefetchLimit,
        awaited: Option<Awaited>,
    ) -> Result<Option<CapPermit>, NotNow> {
        if set.concurrency.is_none() && set.bytes_per_second.is_none() {
            return Ok(None);
        }
        let cap = self.cap(domain, set, Instant::now());
        let waited = cap.line.wait(awaited.clone(), || Ok(cap.enter()), || {}).await?;
        Ok(matches!(waited, Waited::Entered(())).then(|| CapPermit { cap, awaited }))
    }

    /// Adds the shares wanted of these caps.
    pub(super) fn say(&self, sequence: u64, now: Instant, wants: &mut Vec<Want>) {
        for (domain, cap) in &*self.domains() {
            cap.say(domain, sequence, now, wants);
        }
    }

    /// Applies a share.
    pub(super) fn take(&self, share: &Share, sequence: u64, sent: Instant) {
        let Some(cap) = self.domains().get(&share.name).cloned() else { return };
        let mut state = cap.state();
        let allotment = if share.shared == Shared::Places as i32 { &mut state.places } else { &mut state.rate };
        if allotment.take(share, sequence, sent) {
            cap.call(state);
        }
    }

    /// Prefetches under way within caps, and those that wait.
    pub(super) fn counts(&self) -> (u64, usize) {
        let domains = self.domains();
        (domains.values().map(|cap| cap.state().running).sum(), domains.values().map(|cap| cap.line.len()).sum())
    }
}

impl Cap {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock can panic")
    }

    /// Calls the first in line when there is room.
    fn call(&self, state: MutexGuard<'_, State>) {
        let has_room = state.running < state.room(Instant::now(), self.sharing.is_on());
        drop(state);
        if has_room {
            self.line.call();
        }
    }

    /// Takes a place when there is room.
    fn enter(&self) -> Option<()> {
        let (now, shared) = (Instant::now(), self.sharing.is_on());
        let mut state = self.state();
        let wanted = state.running + self.line.len() as u64 + 1;
        (state.asked, state.peak) = (now, state.peak.max(wanted));
        let room = state.room(now, shared);
        if state.running < room {
            state.running += 1;
            return Some(());
        }
        let (set, places, rate) = (state.set, &state.places, &state.rate);
        let missed = |set: Option<u64>, allotment: &Allotment| set.is_some() && allotment.is_hasty(wanted, now);
        if missed(set.concurrency, places) || (set.bytes_per_second.is_some() && rate.lease(now).is_none()) {
            self.sharing.hurry();
        }
        None
    }

    fn say(&self, domain: &str, sequence: u64, now: Instant, wants: &mut Vec<Want>) {
        let mut state = self.state();
        let state = &mut *state;
        let count = state.running + self.line.len() as u64;
        let peak = std::mem::replace(&mut state.peak, count).max(count);
        let idle = peak == 0 && now - state.asked >= IDLE;
        let mut say = |shared: Shared, set: Option<u64>, allotment: &mut Allotment, wanted: u64, used: u64| {
            let Some(set) = set else { return };
            if idle && !allotment.is_held() {
                return;
            }
            let wanted = if idle { 0 } else { wanted.clamp(1, set) };
            let want = Want {
                shared: shared.into(),
                name: domain.to_owned(),
                wanted,
                used,
                limit: set as f64,
                ..Want::default()
            };
            wants.push(allotment.say(want, sequence, now));
        };
        say(Shared::Places, state.set.concurrency, &mut state.places, peak, state.running);
        let units = state.set.bytes_per_second.map(|rate| rate / RATE_UNIT);
        let read = state.read as f64 / (now - state.said).as_secs_f64().max(0.05);
        let starved = state.starved || self.line.len() > 0;
        let wanted = if starved { u64::MAX } else { (read * 1.5) as u64 / RATE_UNIT + 1 };
        say(Shared::Rate, units, &mut state.rate, wanted, 0);
        (state.read, state.starved, state.said) = (0, false, now);
    }
}

/// How many bodies may be read at a time at a rate.
fn bodies(rate: u64) -> u64 {
    if rate == 0 { 0 } else { (rate / BODY_RATE_MIN).max(1) }
}

impl State {
    fn room(&self, now: Instant, shared: bool) -> u64 {
        self.places(now, shared).min(self.rate(now, shared).map_or(u64::MAX, bodies))
    }

    /// How many places this node has.
    fn places(&self, now: Instant, shared: bool) -> u64 {
        match self.set.concurrency {
            None => u64::MAX,
            Some(set) if !shared => set,
            Some(set) => self.places.lease(now).map_or(0, |lease| lease.granted).min(set),
        }
    }

    /// Bytes a second that may be read here; `None` without a cap.
    fn rate(&self, now: Instant, shared: bool) -> Option<u64> {
        let set = self.set.bytes_per_second?;
        if !shared {
            return Some(set);
        }
        Some(self.rate.lease(now).map_or(0, |lease| lease.granted.saturating_mul(RATE_UNIT)).min(set))
    }

    /// Adds what may be read by now; returns how long to wait when nothing may be read yet.
    fn wait(&mut self, now: Instant, shared: bool) -> Option<Duration> {
        let rate = self.rate(now, shared)?;
        let more = rate as f64 * (now - self.filled).as_secs_f64();
        let most = rate as f64 * BURST.as_secs_f64();
        (self.balance, self.filled) = ((self.balance + more).min(most), now);
        if rate > 0 && self.balance >= 0.0 {
            return None;
        }
        self.starved = true;
        let wait = if rate == 0 { LOOK_EVERY } else { Duration::from_secs_f64(-self.balance / rate as f64) };
        Some(wait.clamp(Duration::from_millis(1), LOOK_EVERY))
    }
}

impl CapPermit {
    /// Waits until more of the body may be read; returns at once when a user waits for it.
    pub(crate) async fn readable(&self) {
        let mut awaited = self.awaited.clone();
        while !self.is_awaited() {
            let shared = self.cap.sharing.is_on();
            let Some(wait) = self.cap.state().wait(Instant::now(), shared) else { return };
            tokio::select! {
                biased;
                () = until_awaited(&mut awaited) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn is_awaited(&self) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| *awaited.borrow())
    }

    /// Records how many bytes of the body were read.
    pub(crate) fn read(&self, bytes: usize) {
        if self.is_awaited() {
            return;
        }
        let mut state = self.cap.state();
        if state.set.bytes_per_second.is_some() {
            state.balance -= bytes as f64;
            state.read += bytes as u64;
        }
    }
}

impl Drop for CapPermit {
    fn drop(&mut self) {
        let mut state = self.cap.state();
        state.running -= 1;
        self.cap.call(state);
    }
}
