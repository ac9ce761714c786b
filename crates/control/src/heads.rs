//! The head of the log, read for many callers at once: one read of the database answers every call that arrived before
//! it began.
//!
//! Every node sends several heartbeats per lease, and each must be answered by a read that begins after it arrived
//! (fence rule 4). One read may serve all heartbeats that arrived before it (assumption 1), so a thousand nodes cost
//! the database little more than one.
//!
//! # What always holds
//!
//! - A head that is returned was read by a read that began after the call.
//! - A read that fails answers no call.

use model::Revision;
use tokio::sync::{mpsc, oneshot};

use crate::state::State;

/// Calls waiting for the next read; when the queue is full, callers wait for a place in it.
const WAITING_MAX: usize = 4096;

/// The handle for reading the head. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Heads {
    questions: mpsc::Sender<oneshot::Sender<Revision>>,
}

impl Heads {
    /// Starts the reader, which ends when every clone of the handle is gone.
    pub(crate) fn start(state: State) -> Heads {
        let (questions, mut waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let mut asking: Vec<oneshot::Sender<Revision>> = Vec::new();
            while waiting.recv_many(&mut asking, WAITING_MAX).await > 0 {
                match state.head().await {
                    // The caller may be gone by now.
                    Ok(head) => asking.drain(..).for_each(|answer| _ = answer.send(head)),
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "head of the log could not be read");
                        asking.clear();
                    }
                }
            }
        });
        Heads { questions }
    }

    /// The head, from a read that begins after this call. `None` if it cannot be read: then nothing may be said about
    /// it.
    pub(crate) async fn now(&self) -> Option<Revision> {
        let (answer, answered) = oneshot::channel();
        self.questions.send(answer).await.ok()?;
        answered.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use model::{Entry, Settings};

    use super::*;

    #[tokio::test]
    async fn head_is_at_least_what_was_committed_before_the_question() {
        let folder = tempfile::tempdir().unwrap();
        let url = crate::StateUrl::parse(&format!("sqlite:{}", folder.path().join("c.db").display())).unwrap();
        let state = State::open(&url).await.unwrap();
        let heads = Heads::start(state.clone());
        let mut last = Revision::ZERO;
        for lease_secs in 2..20 {
            let at = state.append(&[Entry::Settings(Settings { lease_secs })]).await.unwrap();
            // Some ask before the next commit and are answered after it: they may hear more, never less.
            let asking: Vec<_> = (0..50)
                .map(|_| {
                    tokio::spawn({
                        let heads = heads.clone();
                        async move { heads.now().await }
                    })
                })
                .collect();
            for answer in asking {
                last = answer.await.unwrap().unwrap();
                assert!(last >= at, "{last} after {at}");
            }
        }
        assert_eq!(last, state.head().await.unwrap());
        state.close().await;
        assert_eq!(heads.now().await, None, "what cannot be read is not answered");
    }
}
