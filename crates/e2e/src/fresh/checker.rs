//! Detects reads of versions that a completed refresh should have replaced: the promise, checked against observations.
//!
//! Values in, values out. Events are reported in the order in which they happen, so it needs no clock: the given
//! moments are only used in reports.
//!
//! # What it checks
//!
//! - **Begun**: a read that begins after the answer `Complete` to a refresh arrived has no version older than the
//!   origin's before the refresh was submitted.
//! - **Sent**: nor has a read in progress of which nothing had arrived once that answer was here and everything sent
//!   before was delivered. Its header left after `Complete`, so the guard at that header saw the refresh or an expired
//!   lease. This is more than the promise, which covers requests that begin after the refresh was accepted; the rules
//!   ensure it for every request.
//!
//! # What it tolerates, and counts
//!
//! - A *Sent* read from a process that was stopped while it had the request: it may have been stopped between judging
//!   and sending, for longer than the margin, which assumption 3 of the fence excludes.
//! - A read from a node after its removal: the promise covers members only.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Maximum number of events kept for reports.
const EVENTS_MAX: usize = 60;

/// Maximum number of violations kept in full; further ones are only counted.
const VIOLATIONS_MAX: usize = 20;

/// A refresh that was reported complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Its task id.
    pub task: String,
    /// Its scope.
    pub what: String,
    /// The origin's version of every object that it covers, before the submission.
    pub set: Vec<(String, u64)>,
    /// When the submission was sent.
    pub submitted: Duration,
    /// When the answer to it had arrived.
    pub accepted: Duration,
}

/// A read in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A node's response to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The version in its header.
    pub version: u64,
    /// Other details, for reports.
    pub said: String,
}

/// The clause of the promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The read began after `Complete`.
    Begun,
    /// Its header was sent after `Complete`.
    Sent,
}

/// A stale read.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The broken clause.
    pub broken: Broken,
    /// All known details.
    pub report: String,
}

/// The counts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads that received an object.
    pub reads: u64,
    /// Reads among them for which a refresh had completed before they began: those that could have been stale.
    pub held_to: u64,
    /// Reads among them that were in progress at a `Complete`, with nothing arrived by then.
    pub under_way: u64,
    /// Reads with another response, or none in time.
    pub unanswered: u64,
    /// Refreshes that completed.
    pub refreshes: u64,
    /// Stale reads.
    pub stale: u64,
    /// Stale reads from processes that were stopped during the read.
    pub stopped: u64,
    /// Stale reads from nodes that were not members.
    pub removed: u64,
}

/// The oldest version an object may have, and the refresh that requires it.
#[derive(Clone, Debug)]
struct Floor {
    version: u64,
    because: Arc<Why>,
}

/// A refresh, and when the answer `Complete` arrived.
#[derive(Clone, Debug)]
pub struct Completed(Arc<Why>);

#[derive(Debug)]
struct Why {
    refresh: Refresh,
    completed: Duration,
}

#[derive(Debug)]
struct Read {
    node: usize,
    path: String,
    begun: Duration,
    /// The oldest version allowed because the read began after a refresh.
    floor: Option<Floor>,
    /// The oldest version allowed because the read is answered after a refresh.
    late: Option<Floor>,
    /// Its node was stopped after it began.
    stopped: bool,
    /// Its node was not a member at some time after it began.
    removed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    stopping: bool,
    removed: bool,
}

/// The state needed to judge reads; grows with objects and reads in progress, not with time.
#[derive(Debug, Default)]
pub struct Checker {
    names: Vec<String>,
    nodes: Vec<Node>,
    floors: BTreeMap<String, Floor>,
    reads: BTreeMap<Ticket, Read>,
    last: u64,
    events: VecDeque<(Duration, String)>,
    counts: Counts,
    violations: Vec<Violation>,
}

impl Checker {
    /// A checker for nodes with these names.
    pub fn new(names: Vec<String>) -> Checker {
        let nodes = vec![Node::default(); names.len()];
        Checker { names, nodes, ..Checker::default() }
    }

    /// A read begins; none of its request was sent before.
    pub fn begun(&mut self, now: Duration, node: usize, path: &str) -> Ticket {
        self.last += 1;
        let ticket = Ticket(self.last);
        let floor = self.floors.get(path).cloned();
        let Node { stopping, removed } = self.nodes[node];
        let read = Read { node, path: path.to_owned(), begun: now, floor, late: None, stopped: stopping, removed };
        self.reads.insert(ticket, read);
        ticket
    }

    /// The answer `Complete` arrived: reads that begin from now on are checked against it.
    pub fn completed(&mut self, now: Duration, refresh: Refresh) -> Completed {
        self.counts.refreshes += 1;
        let because = Arc::new(Why { refresh, completed: now });
        for (path, version) in &because.refresh.set {
            let floor = Floor { version: *version, because: because.clone() };
            let kept = self.floors.entry(path.clone()).or_insert_with(|| floor.clone());
            if kept.version < floor.version {
                *kept = floor;
            }
        }
        Completed(because)
    }

    /// Everything sent before `Complete` has been delivered: reads in progress with nothing arrived by now are checked
    /// against it as well; `waiting` tells which.
    pub fn delivered(&mut self, completed: &Completed, waiting: impl Fn(Ticket) -> bool) {
        let Completed(because) = completed;
        for (path, version) in &because.refresh.set {
            for (ticket, read) in self.reads.iter_mut().filter(|(_, read)| read.path == *path) {
                if read.late.as_ref().is_none_or(|late| late.version < *version) && waiting(*ticket) {
                    read.late = Some(Floor { version: *version, because: because.clone() });
                }
            }
        }
    }

    /// The header of a response arrived; returns whether the read is stale.
    pub fn answered(&mut self, now: Duration, ticket: Ticket, answered: &Answered) -> Option<Broken> {
        let read = self.reads.remove(&ticket)?;
        self.counts.reads += 1;
        self.counts.held_to += u64::from(read.floor.is_some());
        self.counts.under_way += u64::from(read.late.is_some());
        let older = |floor: &&Floor| answered.version < floor.version;
        let (broken, floor) = match (read.floor.as_ref().filter(older), read.late.as_ref().filter(older)) {
            (Some(floor), _) => (Broken::Begun, floor),
            (None, Some(floor)) => (Broken::Sent, floor),
            (None, None) => return None,
        };
        if read.removed {
            self.counts.removed += 1;
            return None;
        }
        if broken == Broken::Sent && read.stopped {
            self.counts.stopped += 1;
            return None;
        }
        self.counts.stale += 1;
        if self.violations.len() < VIOLATIONS_MAX {
            let report = self.report(now, &read, answered, broken, floor);
            self.violations.push(Violation { broken, report });
        }
        Some(broken)
    }

    /// A read got another response than the object, or none.
    pub fn unanswered(&mut self, ticket: Ticket) {
        if self.reads.remove(&ticket).is_some() {
            self.counts.unanswered += 1;
        }
    }

    /// A node is about to be stopped: its reads in progress may be answered by a process that was stopped.
    pub fn stopping(&mut self, node: usize) {
        self.nodes[node].stopping = true;
        self.reads.values_mut().filter(|read| read.node == node).for_each(|read| read.stopped = true);
    }

    /// A node has been stopped: reads that begin now are judged after it continues.
    pub fn stopped(&mut self, node: usize) {
        self.nodes[node].stopping = false;
    }

    /// A node is about to be removed.
    pub fn removed(&mut self, node: usize) {
        self.nodes[node].removed = true;
        self.reads.values_mut().filter(|read| read.node == node).for_each(|read| read.removed = true);
    }

    /// The removed process is gone; the next one with its name is a member before it serves.
    pub fn replaced(&mut self, node: usize) {
        self.nodes[node].removed = false;
    }

    /// An event for reports.
    pub fn event(&mut self, now: Duration, what: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((now, what));
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The stale reads, the first ones in full.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    fn report(&self, now: Duration, read: &Read, answered: &Answered, broken: Broken, floor: &Floor) -> String {
        use fmt::Write;
        let Why { refresh, completed } = &*floor.because;
        let mut report = format!(
            "STALE ({broken:?}): {node} answered {path} with version {got}, completed was {wanted}\n  \
             read: begun {begun:.3?}, header {now:.3?}, {said}\n  \
             refresh {task} of {what}: submitted {submitted:.3?}, accepted {accepted:.3?}, complete {completed:.3?}\n  before:",
            node = self.names[read.node],
            path = read.path,
            got = answered.version,
            wanted = floor.version,
            begun = read.begun,
            said = answered.said,
            task = refresh.task,
            what = refresh.what,
            submitted = refresh.submitted,
            accepted = refresh.accepted,
        );
        for (at, what) in &self.events {
            let _ = write!(report, "\n    {at:.3?} {what}");
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events on nodes 0 and 1, for the single object `/a`.
    enum Happens {
        /// Read number, node.
        Begins(u64, usize),
        /// Version completed; reads of which something has arrived.
        Completes(u64, &'static [u64]),
        /// Read number, version, expected verdict.
        Answers(u64, u64, Option<Broken>),
        Stopping(usize),
        Stopped(usize),
        Removed(usize),
        Replaced(usize),
    }
    use Happens::*;

    fn check(why: &str, history: &[Happens]) -> Counts {
        let mut checker = Checker::new(vec!["n0".into(), "n1".into()]);
        let mut now = Duration::ZERO;
        for happens in history {
            now += Duration::from_millis(1);
            match happens {
                Begins(number, node) => assert_eq!(checker.begun(now, *node, "/a"), Ticket(*number), "{why}"),
                Completes(version, arrived) => {
                    let set = vec![("/a".to_owned(), *version)];
                    let refresh = Refresh { task: "1".into(), what: "/a".into(), set, submitted: now, accepted: now };
                    let completed = checker.completed(now, refresh);
                    checker.delivered(&completed, |ticket| !arrived.contains(&ticket.0));
                }
                Answers(number, version, expected) => {
                    let answered = Answered { version: *version, said: String::new() };
                    assert_eq!(checker.answered(now, Ticket(*number), &answered), *expected, "{why}");
                }
                Stopping(node) => checker.stopping(*node),
                Stopped(node) => checker.stopped(*node),
                Removed(node) => checker.removed(*node),
                Replaced(node) => checker.replaced(*node),
            }
        }
        let counts = checker.counts();
        assert_eq!(counts.stale as usize, checker.violations().len(), "{why}");
        counts
    }

    #[test]
    fn histories_are_told_apart() {
        use Broken::{Begun, Sent};
        let cases: &[(&str, &[Happens])] = &[
            ("old bytes before Complete are allowed", &[Begins(1, 0), Answers(1, 0, None), Completes(1, &[])]),
            ("old bytes that were on their way", &[Begins(1, 0), Completes(1, &[1]), Answers(1, 0, None)]),
            ("old bytes that left after Complete", &[Begins(1, 0), Completes(1, &[]), Answers(1, 0, Some(Sent))]),
            ("old bytes asked for after Complete", &[Completes(1, &[]), Begins(1, 0), Answers(1, 0, Some(Begun))]),
            ("new bytes", &[Completes(1, &[]), Begins(1, 0), Answers(1, 1, None)]),
            ("newer bytes than were refreshed", &[Completes(1, &[]), Begins(1, 0), Answers(1, 2, None)]),
            (
                "completed out of order: the newest counts",
                &[Completes(2, &[]), Completes(1, &[]), Begins(1, 0), Answers(1, 1, Some(Begun))],
            ),
            (
                "between two refreshes the first counts",
                &[Completes(1, &[]), Begins(1, 0), Completes(2, &[1]), Answers(1, 1, None)],
            ),
            (
                "and what left after the second must reflect it",
                &[Completes(1, &[]), Begins(1, 0), Completes(2, &[]), Answers(1, 1, Some(Sent))],
            ),
        ];
        for (why, history) in cases {
            check(why, history);
        }
    }

    #[test]
    fn excuses_are_narrow() {
        use Broken::{Begun, Sent};
        let stopped = check(
            "stopped with the request in hand",
            &[Begins(1, 0), Stopping(0), Stopped(0), Completes(1, &[]), Answers(1, 0, None)],
        );
        assert_eq!((stopped.stopped, stopped.stale), (1, 0));
        let cases: &[(&str, &[Happens])] = &[
            (
                "another node was stopped",
                &[Begins(1, 0), Stopping(1), Stopped(1), Completes(1, &[]), Answers(1, 0, Some(Sent))],
            ),
            (
                "begun while it stood still: it judges when it goes on",
                &[Stopping(0), Stopped(0), Begins(1, 0), Completes(1, &[]), Answers(1, 0, Some(Sent))],
            ),
            (
                "a stop is no excuse for what begins after Complete",
                &[Completes(1, &[]), Begins(1, 0), Stopping(0), Stopped(0), Answers(1, 0, Some(Begun))],
            ),
            (
                "who joined again is a member",
                &[Removed(0), Replaced(0), Completes(1, &[]), Begins(1, 0), Answers(1, 0, Some(Begun))],
            ),
            (
                "a child of a removed node is a member",
                &[Removed(1), Completes(1, &[]), Begins(1, 0), Answers(1, 0, Some(Begun))],
            ),
        ];
        for (why, history) in cases {
            check(why, history);
        }
        let removed = check("a removed node", &[Removed(0), Completes(1, &[]), Begins(1, 0), Answers(1, 0, None)]);
        assert_eq!((removed.removed, removed.stale), (1, 0));
    }

    #[test]
    fn report_names_read_refresh_and_what_went_before() {
        let mut checker = Checker::new(vec!["cn-1-l1".into()]);
        let second = Duration::from_secs;
        checker.event(second(1), "kill -9 cn-1-l2".into());
        let set = vec![("/d/a".to_owned(), 7)];
        let refresh = Refresh { task: "42".into(), what: "/d/".into(), set, submitted: second(2), accepted: second(3) };
        checker.completed(second(4), refresh);
        let ticket = checker.begun(second(5), 0, "/d/a");
        checker.answered(second(6), ticket, &Answered { version: 6, said: "X-Cache: HIT".into() });
        let report = &checker.violations()[0].report;
        for part in ["cn-1-l1", "/d/a", "version 6", "7", "begun 5", "refresh 42 of /d/", "HIT", "kill -9 cn-1-l2"] {
            assert!(report.contains(part), "{part} in {report}");
        }
    }
}
