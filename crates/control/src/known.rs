//! What the log adds up to, kept current in memory: every verb, session and scheduler of the process reads it here.
//!
//! Writers of this process nudge the follower after a commit; what other processes write (an operator's verb, another
//! replica) is seen at its next look, [`LOOK_EVERY`] later at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Clock, DomainName, Knowledge, Moment, Revision};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::state::log::DomainRow;
use crate::state::{State, StateError};

/// How often the head of the log is looked at without a nudge.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Entries read at a time.
const ENTRIES_AT_ONCE: u32 = 1000;

/// Everything known at a head of the log.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// The head.
    pub(crate) head: Revision,
    /// A moment by which this process knew `head` to be committed.
    pub(crate) seen: Moment,
    /// What entries up to the head add up to.
    pub(crate) knowledge: Arc<Knowledge>,
    /// Every domain with its account.
    pub(crate) domains: Arc<BTreeMap<DomainName, DomainRow>>,
}

/// Follows the log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Following {
    known: watch::Receiver<Arc<Known>>,
    nudge: Arc<Notify>,
}

impl Following {
    /// Reads all that is known and goes on following it until `stopping` is cancelled.
    pub(crate) async fn start(state: State, clock: Arc<dyn Clock>, stopping: CancellationToken) -> Result<Following, StateError> {
        let (head, knowledge) = state.knowledge().await?;
        let domains = domains(&state).await?;
        let seen = clock.moment();
        let known = Known { head, seen, knowledge: Arc::new(knowledge), domains: Arc::new(domains) };
        let (publish, known) = watch::channel(Arc::new(known));
        let nudge = Arc::new(Notify::new());
        let nudged = nudge.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = nudged.notified() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = stopping.cancelled() => return,
                }
                let before = publish.borrow().clone();
                match look(&state, &before, &*clock).await {
                    Ok(Some(known)) => {
                        publish.send_replace(Arc::new(known));
                    }
                    Ok(None) => {}
                    Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "log could not be followed"),
                }
            }
        });
        Ok(Following { known, nudge })
    }

    /// What is known now.
    pub(crate) fn now(&self) -> Arc<Known> {
        self.known.borrow().clone()
    }

    /// Changes whenever more is known.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Known>> {
        self.known.clone()
    }

    /// Says that something was committed.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits until everything up to `revision` is known.
    pub(crate) async fn reach(&self, revision: Revision) {
        self.nudge();
        let mut known = self.known.clone();
        // The follower ends only with the process.
        let _ = known.wait_for(|known| known.head >= revision).await;
    }
}

async fn look(state: &State, before: &Known, clock: &dyn Clock) -> Result<Option<Known>, StateError> {
    let head = state.head().await?;
    let unconfigured = before.domains.values().any(|row| !row.configured);
    if head == before.head && !unconfigured {
        return Ok(None);
    }
    let mut known = before.clone();
    let mut of_domains = unconfigured;
    while known.head < head {
        let entries = state.entries_after(known.head, ENTRIES_AT_ONCE).await?;
        let Some(last) = entries.last() else { break };
        known.head = last.revision;
        for logged in &entries {
            let entry = model::log::decode(&logged.bytes)
                .map_err(|error| StateError::Corrupt { what: format!("log entry {}: {error}", logged.revision) })?;
            of_domains |= matches!(entry, model::Entry::Domain(_) | model::Entry::DomainRemoved(_));
            if !matches!(entry, model::Entry::Invalidate(_)) {
                Arc::make_mut(&mut known.knowledge).apply(&entry);
            }
        }
    }
    if of_domains {
        let domains = domains(state).await?;
        if head == before.head && domains == *before.domains {
            return Ok(None);
        }
        known.domains = Arc::new(domains);
    }
    known.seen = clock.moment();
    Ok(Some(known))
}

async fn domains(state: &State) -> Result<BTreeMap<DomainName, DomainRow>, StateError> {
    Ok(state.domains().await?.into_iter().map(|row| (row.name.clone(), row)).collect())
}
