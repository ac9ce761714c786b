//! The scheduler turn by turn, one case each: time stands still until a test moves it, the database is in memory, nodes are queues.

use std::collections::VecDeque;

use model::{Entry, ManualClock};

use super::*;
use crate::testing::{clock, node, prefetch, topology};

const DEADLINE: Duration = Duration::from_secs(1_800);

const ALL: Look = Look { tick: true, committed: true };

struct Played {
    clock: Arc<ManualClock>,
    accepting: Accepting,
    task: Task,
    next: Next,
    nodes: BTreeMap<&'static str, mpsc::Receiver<Order>>,
}

impl Played {
    async fn start(names: &[&str]) -> Played {
        let (state, clock) = (State::in_memory(), clock());
        let model::Topology { pops, members, .. } = topology(names);
        let entries = pops.into_values().map(Entry::Pop).chain(members.into_values().map(Entry::Member));
        state.append(&entries.collect::<Vec<_>>()).await.unwrap();
        let following = Following::start(state.clone(), clock.clone(), CancellationToken::new()).await.unwrap();
        let (accepting, open) = Accepting::start(state.clone()).await.unwrap();
        let task = Task::new(state, open, following, clock.clone(), DEADLINE);
        Played { clock, accepting, task, next: Next::default(), nodes: BTreeMap::new() }
    }

    fn connect(&mut self, name: &'static str) {
        let (orders, incoming) = mpsc::channel(MESSAGES_MAX);
        self.task.take(Event::Here { node: node(name), session: 1, empty: false, orders });
        self.nodes.insert(name, incoming);
    }

    async fn submit(&self, account: &str, nonce: &str, urls: usize) {
        self.accepting.submit(prefetch(account, nonce, urls, millis(self.clock.now()))).await.unwrap();
    }

    async fn turn(&mut self) {
        self.next = self.task.turn(ALL, self.next).await;
    }

    /// Turns until all that there is room for is loaded and given out.
    async fn settle(&mut self) {
        self.turn().await;
        while self.next.more {
            self.turn().await;
        }
    }

    /// Jobs that have come to a node.
    fn jobs(&mut self, name: &str) -> Vec<Job> {
        let mut jobs = Vec::new();
        while let Ok(order) = self.nodes.get_mut(name).unwrap().try_recv() {
            if let Order::Jobs(more) = order {
                jobs.extend(more);
            }
        }
        jobs
    }

    fn report(&mut self, name: &str, jobs: &[Job], outcome: &Outcome) {
        let report = |job: &Job| Report { chunk: job.chunk, index: job.index, took_ms: 1, outcome: outcome.clone() };
        let reports = jobs.iter().map(report).collect();
        self.task.take(Event::Reports { node: node(name), session: 1, reports });
    }
}

const RESIDENT: Outcome = Outcome::Resident { bytes: 1, checksum: 1, validator: None, fetched: true };

#[tokio::test(start_paused = true)]
async fn account_whose_origin_does_not_answer_leaves_the_places_of_a_node_to_another() {
    let mut played = Played::start(&["p-1"]).await;
    for n in 0..20 {
        played.submit("dead", &format!("d{n}"), 500).await;
    }
    played.connect("p-1");
    played.settle().await;
    let mut waits: VecDeque<Job> = played.jobs("p-1").into();
    assert_eq!(waits.len(), JOBS_PER_NODE_MAX, "with nobody beside it, all of them");

    for n in 0..4 {
        played.submit("good", &format!("g{n}"), 500).await;
    }
    played.settle().await;
    let (mut put_off, mut good) = (0, 0);
    while good < 2_000 {
        // Eight of its requests at a time run into the limit of their waiting; what is the other's ends at once.
        let busy: Vec<Job> = waits.drain(..8).collect();
        put_off += busy.len();
        played.report("p-1", &busy, &Outcome::Failed(Cause::OriginBusy { seconds: 60 }));
        played.settle().await;
        let (fetched, more) = played.jobs("p-1").into_iter().partition(|job| job.url.contains("/g"));
        waits.extend(Vec::from(more));
        good += Vec::len(&fetched);
        played.report("p-1", &fetched, &RESIDENT);
    }
    assert!(put_off < 250, "{put_off} of the dead origin's had to go before 2000 of the good one's");
}
