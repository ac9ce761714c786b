//! Takes nodes' figures: finds the owners of their domains and writes them, many reports in one transaction.
//!
//! A session hands a report over and goes on listening. The node is told once the report is in the database. A report
//! for which there is no room, or that could not be written, is not answered, and the node sends it again.
//!
//! # What always holds
//!
//! - Figures belong to the account that had the name when they were counted: a minute carries the revision of the log
//!   at which the node knew the domain, and figures older than the present domain of the name are dropped.
//! - A transaction holds only a few reports ([`ROWS_BATCH_MAX`]), so that submissions do not wait long for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::figures::Regional;
use model::link::{BadMessage, FIGURES_ROWS_MAX, FIGURES_URLS_MAX, FiguresTaken};
use model::{Clock, Coverage, DomainName, NodeName, Region, Revision};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::known::{Following, Known};
use crate::state::figures::{FigureReport, MinuteOf, UrlsOf};
use crate::state::{State, millis};

/// Reports waiting to be written.
pub(crate) const WAITING_MAX: usize = 256;

/// How long the first report of a transaction waits for others.
const GATHER: Duration = Duration::from_millis(100);

/// Minutes and lists in one transaction. Reports are not split, so the last one may exceed it.
const ROWS_BATCH_MAX: usize = 128;

/// The pause after a failed transaction.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Takes reports. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Collector {
    waiting: mpsc::Sender<Waiting>,
    counters: Arc<Counters>,
}

/// What is counted about reports.
#[derive(Default)]
pub(crate) struct Counters {
    /// Reports that were written.
    pub(crate) taken: AtomicU64,
    /// Reports that had been written before.
    pub(crate) again: AtomicU64,
    /// Reports for which there was no room; nodes send them again.
    pub(crate) put_off: AtomicU64,
    /// Minutes and lists of URLs without a present owner, or outside the time that is kept.
    pub(crate) left_out: AtomicU64,
}

struct Waiting {
    node: NodeName,
    report: model::link::Figures,
    taken: Box<dyn FnOnce(FiguresTaken) + Send + Sync>,
}

impl Collector {
    /// Starts writing reports, until `stopping` is cancelled.
    pub(crate) fn start(
        state: State,
        following: Following,
        clock: Arc<dyn Clock>,
        stopping: CancellationToken,
    ) -> Collector {
        let (waiting, come) = mpsc::channel(WAITING_MAX);
        let counters = Arc::new(Counters::default());
        let writer = Writer { state, following, clock, counters: counters.clone() };
        tokio::spawn(async move {
            stopping.run_until_cancelled(writer.run(come)).await;
        });
        Collector { waiting, counters }
    }

    /// Takes a report of a node; `taken` is called once it is in the database.
    pub(crate) fn take(
        &self,
        node: &NodeName,
        report: model::link::Figures,
        taken: impl FnOnce(FiguresTaken) + Send + Sync + 'static,
    ) -> Result<(), BadMessage> {
        let urls: usize = report.urls.iter().map(|list| list.urls.len()).sum();
        if report.minutes.len() + report.urls.len() > FIGURES_ROWS_MAX || urls > FIGURES_URLS_MAX {
            return Err(BadMessage { field: "figures: too many" });
        }
        if report.sequence == 0 {
            return Err(BadMessage { field: "sequence" });
        }
        for minute in &report.minutes {
            minute.figures()?;
        }
        for list in &report.urls {
            list.sketch()?;
        }
        let waiting = Waiting { node: node.clone(), report, taken: Box::new(taken) };
        if self.waiting.try_send(waiting).is_err() {
            self.counters.put_off.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Reports waiting to be written.
    pub(crate) fn waiting(&self) -> usize {
        WAITING_MAX - self.waiting.capacity()
    }
}

struct Writer {
    state: State,
    following: Following,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl Writer {
    async fn run(self, mut come: mpsc::Receiver<Waiting>) {
        while let Some(first) = come.recv().await {
            tokio::time::sleep(GATHER).await;
            let mut rows = first.rows();
            let mut batch = vec![first];
            while rows < ROWS_BATCH_MAX
                && let Ok(next) = come.try_recv()
            {
                rows += next.rows();
                batch.push(next);
            }
            let Some(reports) = self.resolve(&batch).await else { return };
            match self.state.add_figures(&reports, millis(self.clock.now())).await {
                Ok(added) => {
                    self.counters.taken.fetch_add(added.reports, Ordering::Relaxed);
                    self.counters.again.fetch_add(reports.len() as u64 - added.reports, Ordering::Relaxed);
                    self.counters.left_out.fetch_add(added.out_of_time, Ordering::Relaxed);
                    for Waiting { report, taken, .. } in batch {
                        taken(FiguresTaken { boot: report.boot, sequence: report.sequence });
                    }
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "figures were not written");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    /// Finds the owners of the figures. `None` when the process is stopping.
    async fn resolve(&self, batch: &[Waiting]) -> Option<Vec<FigureReport>> {
        let revisions = batch.iter().flat_map(|waiting| {
            let report = &waiting.report;
            let minutes = report.minutes.iter().map(|minute| minute.revision);
            minutes.chain(report.urls.iter().map(|list| list.revision))
        });
        let newest = Revision(revisions.max().unwrap_or(0));
        let mut known = self.following.now();
        // A node may be ahead of this process, but not of the database; one that claims to be must not delay the
        // others.
        if newest > known.head && self.state.head().await.is_ok_and(|head| newest <= head) {
            known = self.following.reach(newest).await?;
        }
        let mut left_out = 0;
        let reports = batch.iter().map(|waiting| report_of(waiting, &known, &mut left_out)).collect();
        self.counters.left_out.fetch_add(left_out, Ordering::Relaxed);
        Some(reports)
    }
}

impl Waiting {
    fn rows(&self) -> usize {
        self.report.minutes.len() + self.report.urls.len()
    }
}

fn report_of(waiting: &Waiting, known: &Known, left_out: &mut u64) -> FigureReport {
    let Waiting { node, report, .. } = waiting;
    let topology = &known.knowledge.topology;
    let pop = topology.members.get(node).and_then(|member| topology.pops.get(&member.pop));
    let owner = |name: &str, revision: u64| {
        let name = DomainName::parse(name).ok()?;
        known.domains.get(&name).filter(|row| row.born.0 <= revision)
    };
    let region = |name: &DomainName| {
        let of_domain = known.knowledge.domain(name.as_str()).map(|domain| domain.coverage);
        region(pop.map_or(Coverage::Global, |pop| pop.region), of_domain)
    };
    let minute = |minute: &model::link::MinuteFigures| {
        let row = owner(&minute.domain, minute.revision)?;
        Some(MinuteOf {
            account: row.account.clone(),
            domain: row.name.to_string(),
            minute: minute.minute,
            figures: Regional::of(region(&row.name), minute.figures().ok()?),
        })
    };
    let list = |list: &model::link::HourUrls| {
        let row = owner(&list.domain, list.revision)?;
        Some(UrlsOf {
            account: row.account.clone(),
            domain: row.name.to_string(),
            origins: list.of_origins,
            hour: list.hour,
            sketch: list.sketch().ok()?,
        })
    };
    let minutes: Vec<MinuteOf> = report.minutes.iter().filter_map(minute).collect();
    let urls: Vec<UrlsOf> = report.urls.iter().filter_map(list).collect();
    *left_out += (waiting.rows() - minutes.len() - urls.len()) as u64;
    FigureReport { node: node.clone(), boot: report.boot, sequence: report.sequence, minutes, urls }
}

/// The region that figures count for: the POP's; for a POP in both, the domain's; if that is both or unknown, domestic.
fn region(pop: Coverage, domain: Option<Coverage>) -> Region {
    match (pop, domain) {
        (Coverage::Overseas, _) | (Coverage::Global, Some(Coverage::Overseas)) => Region::Overseas,
        (Coverage::Domestic | Coverage::Global, _) => Region::Domestic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_region_of_the_pop() {
        use Coverage::{Domestic, Global, Overseas};
        let cases = [
            (Domestic, Some(Global), Region::Domestic),
            (Domestic, Some(Overseas), Region::Domestic), // it was served there all the same
            (Overseas, Some(Domestic), Region::Overseas),
            (Global, Some(Overseas), Region::Overseas),
            (Global, Some(Domestic), Region::Domestic),
            (Global, Some(Global), Region::Domestic),
            (Global, None, Region::Domestic),
        ];
        for (pop, domain, expected) in cases {
            assert_eq!(region(pop, domain), expected, "{pop:?} {domain:?}");
        }
    }
}
