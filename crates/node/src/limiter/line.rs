//! A queue of prefetches that wait for room.
//!
//! # What always holds
//!
//! - They are let in in order of arrival; at most [`WAITING_MAX`] wait in one line, and none longer than [`WAIT_MAX`].
//! - A prefetch leaves the line when a user begins to wait for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};

use super::{Awaited, NotNow, WAIT_MAX, until_awaited};

/// Prefetches in one line.
pub(super) const WAITING_MAX: usize = 4096;

/// A line.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Held by the first in line; the lock is fair, so it is passed on in order of arrival.
    first: Mutex<()>,
    room: Notify,
    waiting: AtomicUsize,
}

/// The outcome of waiting.
pub(super) enum Waited<T> {
    Entered(T),
    /// A user waits for it now, and users do not wait in line.
    User,
}

impl Line {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Wakes the first in line: there may be room.
    pub(super) fn call(&self) {
        if self.len() > 0 {
            self.room.notify_one();
        }
    }

    /// Makes the first in line look again, and after it the others: the origin was closed.
    pub(super) fn call_all(&self) {
        self.room.notify_waiters();
    }

    /// Waits until `enter` finds room; only the first in line tries. `waits` is called when the caller has to wait.
    pub(super) async fn wait<T>(
        &self,
        mut awaited: Option<Awaited>,
        mut enter: impl FnMut() -> Result<Option<T>, NotNow>,
        waits: impl FnOnce(),
    ) -> Result<Waited<T>, NotNow> {
        if self.len() == 0
            && let Some(entered) = enter()?
        {
            return Ok(Waited::Entered(entered));
        }
        let _here = Here::of(self)?;
        waits();
        let waited = async {
            let _first = self.first.lock().await;
            loop {
                let called = self.room.notified();
                tokio::pin!(called);
                // From here on no call is missed, not even one that comes before it is awaited.
                called.as_mut().enable();
                // A waiter that was called may find that a user was quicker, and stays the first.
                if let Some(entered) = enter()? {
                    return Ok(Waited::Entered(entered));
                }
                called.await;
            }
        };
        tokio::select! {
            biased;
            () = until_awaited(&mut awaited) => Ok(Waited::User),
            waited = waited => waited,
            () = tokio::time::sleep(WAIT_MAX) => Err(NotNow::Full),
        }
    }
}

/// A waiter, counted.
struct Here<'a>(&'a Line);

impl Here<'_> {
    fn of(line: &Line) -> Result<Here<'_>, NotNow> {
        let here = Here(line);
        // Dropping it subtracts it again.
        match line.waiting.fetch_add(1, Ordering::SeqCst) >= WAITING_MAX {
            true => Err(NotNow::Full),
            false => Ok(here),
        }
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test]
    async fn first_in_line_stays_the_first_when_a_user_takes_what_it_was_called_for() {
        let line = Arc::new(Line::default());
        let room = Arc::new(AtomicU32::new(0));
        let waits = |line: Arc<Line>, room: Arc<AtomicU32>| {
            tokio::spawn(async move {
                let take = |room: u32| room.checked_sub(1);
                let enter = || Ok(room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).ok());
                line.wait(None, enter, || {}).await.map(drop)
            })
        };
        let settle = || async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        };
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(waits(line.clone(), room.clone()));
            settle().await;
        }
        line.call(); // and somebody else was quicker
        settle().await;
        assert!(waiting.iter().all(|one| !one.is_finished()));
        for (nth, left) in [(0, 2), (1, 1), (2, 0)] {
            room.store(1, Ordering::SeqCst);
            line.call();
            settle().await;
            let finished: Vec<bool> = waiting.iter().map(tokio::task::JoinHandle::is_finished).collect();
            assert_eq!(finished.iter().rposition(|finished| *finished), Some(nth), "{finished:?}");
            assert_eq!(line.len(), left);
        }
    }
}
