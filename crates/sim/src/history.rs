//! The history of a run, and the promises it breaks.
//!
//! The checker does not know the fence. It knows versions: the origin's at the acceptance of a refresh, and those that
//! nodes sent, and when a task was first shown as `Complete`. *Fresh* (design §2, P1): once a refresh of a path reads
//! `Complete`, no node sends a version older than the origin's at its acceptance, in answer to a request begun after
//! the acceptance.

use std::collections::BTreeMap;
use std::fmt::Write;

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Maximum number of events kept to be shown; the hash covers all of them.
const EVENTS_MAX: usize = 100_000;

/// A refresh that was accepted.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// When the response that accepted it had arrived.
    pub accepted: Instant,
    /// When a response first showed it as `Complete`.
    pub complete: Option<Instant>,
    /// Each path that it covers, with the origin's version before the request.
    pub versions: BTreeMap<String, u64>,
}

/// A response that a client received.
#[derive(Clone, Debug)]
pub struct Read {
    /// The node that sent it.
    pub node: String,
    /// The path.
    pub path: String,
    /// The version in it.
    pub version: u64,
    /// When the request began.
    pub begun: Instant,
    /// When the header had left the node.
    pub sent: Instant,
}

/// The history of one run.
pub struct History {
    began: Instant,
    hash: Xxh3,
    refreshes: BTreeMap<String, Refreshed>,
    /// The events, for humans.
    pub events: Vec<String>,
    /// The broken promises.
    pub violations: Vec<String>,
    /// Number of responses checked.
    pub reads: u64,
    keeps: bool,
}

impl History {
    /// An empty history; with `keeps`, events are kept to be shown.
    pub fn new(keeps: bool) -> History {
        History {
            began: Instant::now(),
            hash: Xxh3::new(),
            refreshes: BTreeMap::new(),
            events: Vec::new(),
            violations: Vec::new(),
            reads: 0,
            keeps,
        }
    }

    /// Records an event.
    pub fn note(&mut self, what: &str) {
        let at = self.began.elapsed();
        self.hash.update(&at.as_nanos().to_le_bytes());
        self.hash.update(what.as_bytes());
        if self.keeps && self.events.len() < EVENTS_MAX {
            self.events.push(format!("{:9.4} {what}", at.as_secs_f64()));
        }
    }

    /// Records a broken promise.
    pub fn violation(&mut self, what: String) {
        self.note(&what);
        self.violations.push(format!("{:.4} s: {what}", self.began.elapsed().as_secs_f64()));
    }

    /// Records that a refresh was accepted as `task`.
    pub fn accepted(&mut self, task: &str, versions: BTreeMap<String, u64>) {
        let refreshed = Refreshed { accepted: Instant::now(), complete: None, versions };
        let mut text = format!("task {task} accepted");
        for (path, version) in &refreshed.versions {
            let _ = write!(text, " {path}={version}");
        }
        self.note(&text);
        // Several within a second may share an id, which is complete once the last of them is.
        let kept = self.refreshes.entry(task.to_owned()).or_insert_with(|| refreshed.clone());
        kept.accepted = kept.accepted.max(refreshed.accepted);
        kept.complete = None;
        kept.versions.extend(refreshed.versions);
    }

    /// Records that a response showed `task` as complete; returns whether that is new.
    pub fn complete(&mut self, task: &str) -> bool {
        let Some(refreshed) = self.refreshes.get_mut(task).filter(|refreshed| refreshed.complete.is_none()) else {
            return false;
        };
        refreshed.complete = Some(Instant::now());
        self.note(&format!("task {task} complete"));
        true
    }

    /// Tasks that no response has shown as complete.
    pub fn open(&self) -> Vec<String> {
        let open = self.refreshes.iter().filter(|(_, refreshed)| refreshed.complete.is_none());
        open.map(|(task, _)| task.clone()).collect()
    }

    /// The paths of a task; never empty for an accepted one.
    pub fn paths(&self, task: &str) -> Vec<String> {
        self.refreshes.get(task).map(|refreshed| refreshed.versions.keys().cloned().collect()).unwrap_or_default()
    }

    /// Number of refreshes accepted.
    pub fn refreshes(&self) -> u64 {
        self.refreshes.len() as u64
    }

    /// Checks a response.
    pub fn read(&mut self, read: &Read) {
        self.reads += 1;
        self.note(&format!("{} sent {} v{}", read.node, read.path, read.version));
        let broken = self.refreshes.iter().find(|(_, refreshed)| {
            let complete = refreshed.complete.is_some_and(|complete| complete <= read.sent);
            let wanted = refreshed.versions.get(&read.path).copied().unwrap_or(0);
            complete && refreshed.accepted <= read.begun && read.version < wanted
        });
        if let Some((task, refreshed)) = broken {
            let at = |moment: Instant| (moment - self.began).as_secs_f64();
            let wanted = refreshed.versions[&read.path];
            let complete = refreshed.complete.map_or(0.0, at);
            let text = format!(
                "STALE: {} sent v{} of {} at {:.4} (asked {:.4}); task {task} promised v{wanted}: accepted {:.4}, complete {complete:.4}",
                read.node,
                read.version,
                read.path,
                at(read.sent),
                at(read.begun),
                at(refreshed.accepted)
            );
            self.violation(text);
        }
    }

    /// A number that distinguishes histories.
    pub fn digest(&self) -> u64 {
        self.hash.digest()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(version: u64, begun: Instant, sent: Instant) -> Read {
        Read { node: "n".into(), path: "/p".into(), version, begun, sent }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_old_version_after_complete_for_a_request_after_acceptance_is_stale() {
        let step = Duration::from_secs(1);
        let mut history = History::new(true);
        let before = Instant::now();
        tokio::time::advance(step).await;
        history.accepted("1", BTreeMap::from([("/p".to_owned(), 2)]));
        tokio::time::advance(step).await;
        let after = Instant::now();
        history.read(&read(1, after, after));
        tokio::time::advance(step).await;
        assert!(history.complete("1") && !history.complete("1"));
        let late = Instant::now();
        history.read(&read(1, before, late));
        history.read(&read(1, after, after));
        history.read(&read(2, late, late));
        assert_eq!(history.violations, [""; 0], "not complete yet, begun before, sent before, new enough");
        history.read(&read(1, after, late));
        assert_eq!(history.violations.len(), 1, "{:?}", history.violations);
    }
}
