//! This node's shares of what several nodes use: leases from the control plane, and the messages that ask for them
//! (docs/decisions/0025).
//!
//! Every half second, and at once when prefetches begin to want an origin or one is to be left alone, the node reports
//! what it wants of each. The answer holds leases that begin at the time of the report. Without a lease no prefetch is
//! let in, so the sum holds whatever happens to the control plane or the link. A control plane of an earlier version
//! lends nothing; under it each node keeps to its own measurements.
//!
//! # What always holds
//!
//! - A lease ends on this node before it is given to another: it counts from before the request for it was sent.
//! - A share that was given back does not return with a late answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use model::link::{SHARE_LEASE, SHARES_MAX, Share, Want, Wants};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often wanted shares are reported.
const EVERY: Duration = Duration::from_millis(500);

/// The least time between two messages, however urgent.
const APART: Duration = Duration::from_millis(50);

/// After how long without a prefetch a share is given back.
pub(super) const IDLE: Duration = Duration::from_secs(3);

/// Messages waiting for an answer.
const UNANSWERED_MAX: usize = 32;

/// A part of something that is shared.
#[derive(Debug, Default)]
pub(super) struct Allotment {
    heard: u64,
    lease: Option<Lease>,
    /// Answers to messages up to this one concern a share that was given back.
    returned: u64,
    /// The amount wanted in the last message.
    said: u64,
}

/// A share for a limited time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    /// The amount this node may use; on the measuring node, the amount the others may use.
    pub(super) granted: u64,
    pub(super) feels: bool,
    until: Instant,
}

impl Allotment {
    /// The lease, while it lasts.
    pub(super) fn lease(&self, now: Instant) -> Option<Lease> {
        self.lease.filter(|lease| now < lease.until)
    }

    /// Whether there is something to give back.
    pub(super) fn is_held(&self) -> bool {
        self.lease.is_some()
    }

    /// Whether the node should report at once that `wanted` is wanted: there is no lease, or far more is wanted than
    /// was reported.
    pub(super) fn is_hasty(&self, wanted: u64, now: Instant) -> bool {
        self.lease(now).is_none() || wanted > 2 * self.said
    }

    /// Fills in the state of the share. A node that wants nothing gives back what it has.
    pub(super) fn say(&mut self, want: Want, sequence: u64, now: Instant) -> Want {
        self.said = want.wanted;
        if want.wanted == 0 {
            (self.lease, self.returned) = (None, sequence);
        }
        let (granted, feels) = self.lease(now).map_or((0, false), |lease| (lease.granted, lease.feels));
        Want { heard: self.heard, granted, feels, ..want }
    }

    /// Applies an answer to a message that was sent at `sent`; false when the share was given back since.
    pub(super) fn take(&mut self, share: &Share, sequence: u64, sent: Instant) -> bool {
        if sequence <= self.returned {
            return false;
        }
        self.heard = share.number;
        self.lease = Some(Lease { granted: share.granted, feels: share.feels, until: sent + SHARE_LEASE });
        true
    }
}

/// The content and the timing of messages about shares.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Whether the control plane lends shares.
    on: AtomicBool,
    haste: Notify,
    talk: Mutex<Talk>,
}

#[derive(Debug, Default)]
struct Talk {
    sequence: u64,
    last: Option<Instant>,
    hasty: bool,
    /// Whether anything was wanted in the last message.
    busy: bool,
    sent: VecDeque<(u64, Instant)>,
    /// Where the next message begins when one cannot hold everything.
    from: usize,
}

impl Sharing {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().expect("no holder of this lock can panic")
    }

    /// Whether prefetches need a lease.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// Records that a control plane is connected, and whether it lends shares or is of a version that does not.
    pub(super) fn connected(&self, lends: bool) {
        self.on.store(lends, Ordering::SeqCst);
        let mut talk = self.talk();
        talk.sent.clear();
        // Earlier messages went over another connection.
        (talk.last, talk.hasty) = (None, true);
        drop(talk);
        self.haste.notify_one();
    }

    /// Asks for a message soon: prefetches want more than they have.
    pub(super) fn hurry(&self) {
        if self.is_on() && !std::mem::replace(&mut self.talk().hasty, true) {
            self.haste.notify_one();
        }
    }

    /// Sends a message at once: other nodes must hear of it before they ask again.
    pub(super) fn say_at_once(&self) {
        let mut talk = self.talk();
        (talk.last, talk.hasty) = (None, true);
        drop(talk);
        self.haste.notify_one();
    }

    /// Waits until a message is due, and fills it with what `collect` returns for its number.
    pub(super) async fn say(&self, collect: impl Fn(u64, Instant) -> Vec<Want>) -> Wants {
        loop {
            let haste = self.haste.notified();
            let at = {
                let talk = self.talk();
                let after = |time| talk.last.map_or_else(Instant::now, |last| last + time);
                match (talk.hasty, talk.busy) {
                    (true, _) => Some(after(APART)),
                    (false, true) => Some(after(EVERY)),
                    (false, false) => None,
                }
            };
            match at {
                None => haste.await,
                Some(at) => tokio::select! {
                    biased;
                    () = tokio::time::sleep_until(at) => if let Some(wants) = self.collected(&collect) {
                        return wants;
                    },
                    () = haste => {}
                },
            }
        }
    }

    fn collected(&self, collect: impl Fn(u64, Instant) -> Vec<Want>) -> Option<Wants> {
        // The time before it is sent: leases begin here.
        let now = Instant::now();
        let sequence = {
            let mut talk = self.talk();
            (talk.last, talk.hasty) = (Some(now), false);
            talk.sequence += 1;
            talk.sequence
        };
        let mut wants = collect(sequence, now);
        let mut talk = self.talk();
        talk.busy = !wants.is_empty();
        if wants.is_empty() {
            return None;
        }
        if wants.len() > SHARES_MAX {
            let from = talk.from % wants.len();
            wants.rotate_left(from);
            wants.truncate(SHARES_MAX);
            talk.from = from + SHARES_MAX;
        }
        if talk.sent.len() >= UNANSWERED_MAX {
            talk.sent.pop_front();
        }
        talk.sent.push_back((sequence, now));
        Some(Wants { sequence, wants })
    }

    /// When the message was sent that this answers.
    pub(super) fn answered(&self, sequence: u64) -> Option<Instant> {
        let mut talk = self.talk();
        while let Some((sent, at)) = talk.sent.pop_front() {
            if sent == sequence {
                return Some(at);
            }
        }
        None
    }
}
