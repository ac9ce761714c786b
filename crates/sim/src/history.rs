//! What happened in a run, and what of it breaks a promise.
//!
//! The checker knows nothing of the fence. It knows versions: which one the origin had when a refresh was accepted, when the task
//! read `Complete`, and which one a node sent to whom. *Fresh* (design §2, P1): once a refresh of a path reads `Complete`, no
//! node sends a version older than the origin's at its acceptance, in answer to a request begun after the acceptance.

use std::collections::BTreeMap;
use std::fmt::Write;

use tokio::time::Instant;
use xxhash_rust::xxh3::Xxh3;

/// Events that are kept to be shown; all of them are in the hash.
const EVENTS_MAX: usize = 100_000;

/// A refresh that was accepted.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// When the answer that accepted it was there.
    pub accepted: Instant,
    /// When an answer first read `Complete`.
    pub complete: Option<Instant>,
    /// Each path it covers, with the origin's version before it was asked for.
    pub versions: BTreeMap<String, u64>,
}

/// What somebody was sent.
#[derive(Clone, Debug)]
pub struct Read {
    /// By which node.
    pub node: String,
    /// Of what.
    pub path: String,
    /// Which version.
    pub version: u64,
    /// When the request was begun.
    pub begun: Instant,
    /// When the header had left the node.
    pub sent: Instant,
}

/// The history of one run.
pub struct History {
    began: Instant,
    hash: Xxh3,
    refreshes: BTreeMap<String, Refreshed>,
    /// What happened, for people.
    pub events: Vec<String>,
    /// What broke a promise.
    pub violations: Vec<String>,
    /// Answers that were checked.
    pub reads: u64,
    keeps: bool,
}

impl History {
    /// An empty one; `keeps` events to be shown.
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

    /// Takes down that something happened.
    pub fn note(&mut self, what: &str) {
        let at = self.began.elapsed();
        self.hash.update(&at.as_nanos().to_le_bytes());
        self.hash.update(what.as_bytes());
        if self.keeps && self.events.len() < EVENTS_MAX {
            self.events.push(format!("{:9.4} {what}", at.as_secs_f64()));
        }
    }

    /// A promise is broken.
    pub fn violation(&mut self, what: String) {
        self.note(&what);
        self.violations.push(format!("{:.4} s: {what}", self.began.elapsed().as_secs_f64()));
    }

    /// A refresh was accepted as `task`.
    pub fn accepted(&mut self, task: &str, versions: BTreeMap<String, u64>) {
        let refreshed = Refreshed { accepted: Instant::now(), complete: None, versions };
        let mut text = format!("task {task} accepted");
        for (path, version) in &refreshed.versions {
            let _ = write!(text, " {path}={version}");
        }
        self.note(&text);
        // Several within a second may share an id; then it is complete when the last of them is.
        let kept = self.refreshes.entry(task.to_owned()).or_insert_with(|| refreshed.clone());
        kept.accepted = kept.accepted.max(refreshed.accepted);
        kept.complete = None;
        kept.versions.extend(refreshed.versions);
    }

    /// An answer said that `task` is complete. Whether that is news.
    pub fn complete(&mut self, task: &str) -> bool {
        let Some(refreshed) = self.refreshes.get_mut(task).filter(|refreshed| refreshed.complete.is_none()) else {
            return false;
        };
        refreshed.complete = Some(Instant::now());
        self.note(&format!("task {task} complete"));
        true
    }

    /// Tasks that no answer has called complete.
    pub fn open(&self) -> Vec<String> {
        let open = self.refreshes.iter().filter(|(_, refreshed)| refreshed.complete.is_none());
        open.map(|(task, _)| task.clone()).collect()
    }

    /// What a task was about; never empty for one that was accepted.
    pub fn paths(&self, task: &str) -> Vec<String> {
        self.refreshes.get(task).map(|refreshed| refreshed.versions.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many refreshes were accepted.
    pub fn refreshes(&self) -> u64 {
        self.refreshes.len() as u64
    }

    /// Checks what somebody was sent.
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

    /// A number that tells runs apart.
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
