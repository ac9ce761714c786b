//! A line of prefetches that wait for room.
//!
//! # What always holds
//!
//! - They are let in in the order they came; at most [`WAITING_MAX`] wait in one line, and none longer than [`WAIT_MAX`].
//! - A user who begins to wait for what a prefetch asks for takes it out of the line.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Awaited, NotNow, WAIT_MAX, until_awaited};

/// Prefetches in one line.
pub(super) const WAITING_MAX: usize = 4096;

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct Line {
    room: Notify,
    waiting: AtomicUsize,
}

/// What waiting came to.
pub(super) enum Turn<T> {
    Mine(T),
    /// A user waits for it now, and users do not wait in line.
    User,
}

impl Line {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// There may be room for the first.
    pub(super) fn call(&self) {
        if self.len() > 0 {
            self.room.notify_one();
        }
    }

    /// All are to look again: what they wait for is not to be had.
    pub(super) fn call_all(&self) {
        self.room.notify_waiters();
    }

    /// Waits until `enter` has room, and calls the next one if it says that there is more. `waits` is called when there is none.
    pub(super) async fn wait<T>(
        &self,
        mut awaited: Option<Awaited>,
        mut enter: impl FnMut() -> Result<Option<(T, bool)>, NotNow>,
        waits: impl FnOnce(),
    ) -> Result<Turn<T>, NotNow> {
        if self.len() == 0
            && let Some((entered, _)) = enter()?
        {
            return Ok(Turn::Mine(entered));
        }
        let until = Instant::now() + WAIT_MAX;
        let (here, first) = Here::of(self)?;
        waits();
        // Between the look above and the place in line there may have been room, and nobody was called.
        let mut mine = first;
        loop {
            let called = self.room.notified();
            tokio::pin!(called);
            // From here on a call is heard, also one that comes before it is waited for.
            called.as_mut().enable();
            if std::mem::replace(&mut mine, true) {
                let entered = enter();
                // Who came since all were called hears what is wrong from the one before.
                let more = !matches!(entered, Ok(None | Some((_, false))));
                if let Some(turn) = entered.map(|entered| entered.map(|(entered, _)| Turn::Mine(entered))).transpose() {
                    drop(here);
                    if more {
                        self.call();
                    }
                    return turn;
                }
            }
            tokio::select! {
                biased;
                () = until_awaited(&mut awaited) => return Ok(Turn::User),
                () = called => {}
                () = tokio::time::sleep_until(until) => return Err(NotNow::Full),
            }
        }
    }
}

/// One of those that wait, counted.
struct Here<'a>(&'a Line);

impl Here<'_> {
    /// Says whether nobody else waits.
    fn of(line: &Line) -> Result<(Here<'_>, bool), NotNow> {
        let before = line.waiting.fetch_add(1, Ordering::SeqCst);
        if before >= WAITING_MAX {
            line.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(NotNow::Full);
        }
        Ok((Here(line), before == 0))
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
