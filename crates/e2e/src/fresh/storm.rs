//! Random faults, from a seed, while readers read and writers refresh.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;

use super::Dice;
use super::checker::Counts;
use super::field::{COMPLETE_MAX, Field, PLACES, Plan};
use super::member::go_on;
use super::origin::{self, Pace};
use super::relay::{Flow, Mode};
use super::writer::Scope;
use crate::http;
use crate::stage::DOMAIN;

/// Concurrent writers, readers per node, and the longest pause of a reader in milliseconds.
const WRITERS: usize = 3;
const READERS: usize = 5;
const PAUSE_MS: u64 = 60;

/// The node that keeps serving while isolated, in runs that have one: an L1.
const SERVES: usize = 1;

/// Concurrent faults.
const STORMS: usize = 2;

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillNode,
    KillControl,
    StopNode,
    StopControl,
    Link,
    Front,
    Wipe,
    Remove,
    StepClock,
}

/// The weight of each in random choice.
const FAULTS: [(Fault, u64); 9] = [
    (Fault::KillNode, 4),
    (Fault::KillControl, 2),
    (Fault::StopNode, 5),
    (Fault::StopControl, 1),
    (Fault::Link, 6),
    (Fault::Front, 4),
    (Fault::Wipe, 2),
    (Fault::Remove, 2),
    (Fault::StepClock, 2),
];

/// The result of a storm.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The checker's counts.
    pub counts: Counts,
    /// Number of faults.
    pub faults: u64,
    /// Objects and hits per node.
    pub seen: Vec<(u64, u64)>,
    /// The origin's answers with a body and with 304.
    pub origin: (u64, u64),
    /// Durations of refreshes: the median, and the longest.
    pub took: (Duration, Duration),
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { reads, held_to, under_way, unanswered, refreshes, stale, stopped, removed } = self.counts;
        for (place, (objects, hits)) in PLACES.iter().zip(&self.seen) {
            writeln!(f, "{}: {objects} objects, {hits} hits, wall clock {:+} s", place.name, place.ahead_secs)?;
        }
        let (bodies, confirmed) = self.origin;
        writeln!(f, "origin: {bodies} bodies, {confirmed} times 304")?;
        writeln!(f, "refreshes: half within {:.2?}, all within {:.2?}", self.took.0, self.took.1)?;
        writeln!(
            f,
            "reads after a Complete: {held_to}; sent after a Complete that came meanwhile: {under_way}; refused or given up: {unanswered}; \
             stale but outside: {stopped} of processes stopped in the middle, {removed} of removed nodes"
        )?;
        write!(f, "{reads} reads, {refreshes} refreshes, {} faults, {stale} stale", self.faults)
    }
}

/// Injects random faults for `time`, then repairs everything and checks every object on every node.
///
/// Fails with a report if there was a stale read.
pub async fn run(time: Duration, seed: u64) -> anyhow::Result<Summary> {
    let mut dice = Dice::new(seed);
    // In every third run one node keeps serving its users while isolated, and refreshes wait for it.
    let plan = Plan { lease_secs: 2 + seed % 2, serves: seed.is_multiple_of(3).then_some(SERVES), ..Plan::new(seed) };
    let field = Arc::new(Field::set(plan).await?);
    let readers = field.read(READERS, PAUSE_MS);
    let until = Instant::now() + time;
    let faults = Arc::new(AtomicU64::new(0));

    let mut storms = tokio::task::JoinSet::new();
    for _ in 0..STORMS {
        storms.spawn(storm(field.clone(), dice.split(), until, faults.clone()));
    }
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(field.clone(), dice.split(), until));
    }
    while let Some(ended) = storms.join_next().await {
        ended?.context("break things")?;
    }
    let mut took = Vec::new();
    while let Some(ended) = writers.join_next().await {
        took.extend(ended??);
    }
    took.sort_unstable();

    let summary = |took: &[Duration]| Summary {
        counts: field.history.counts(),
        faults: faults.load(Ordering::Relaxed),
        seen: field.seen(),
        origin: field.origin.answers(),
        took: (took.get(took.len() / 2).copied().unwrap_or_default(), took.last().copied().unwrap_or_default()),
    };
    field.verdict().with_context(|| format!("seed {seed}: {}", summary(&took)))?;
    field.ready().await;
    calm(&field).await.with_context(|| format!("after the storm of seed {seed}"))?;
    readers.finish()?;
    field.verdict().with_context(|| format!("seed {seed}: {}", summary(&took)))?;
    Ok(summary(&took))
}

/// Without faults a refresh is quick, and every node has the newest version of everything.
async fn calm(field: &Arc<Field>) -> anyhow::Result<()> {
    field.origin.set_pace(Pace::QUICK);
    let took = field.refresh(&Scope::Directory("/".to_owned()), false).await?;
    ensure!(took < COMPLETE_MAX / 4, "a refresh in the calm took {took:?}");
    let mut looking = tokio::task::JoinSet::new();
    for node in 0..PLACES.len() {
        looking.spawn(has_the_newest(field.clone(), node));
    }
    while let Some(looked) = looking.join_next().await {
        looked??;
    }
    Ok(())
}

async fn has_the_newest(field: Arc<Field>, node: usize) -> anyhow::Result<()> {
    let name = PLACES[node].name;
    for path in origin::paths() {
        let answer = crate::eventually(&format!("{path} is served by {name}"), || async {
            let answer = http::get(field.port(node), DOMAIN, &path, &[]).await?;
            ensure!(answer.status.is_success(), "{}", answer.status);
            Ok(answer)
        })
        .await;
        let (got, wanted) = (answer.header("x-version"), field.origin.version(&path).to_string());
        ensure!(got == wanted, "{path} from {name} has version {got}, expected {wanted}");
    }
    Ok(())
}

/// Refreshes one scope after the other; returns how long each took.
async fn write(field: Arc<Field>, mut dice: Dice, until: Instant) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let scope = Scope::any(&mut dice);
        let submitting = field.submit(&scope, dice.chance(40));
        // If the control plane is down, acceptance is unknown, so nothing is promised.
        if let Ok(Ok(submitted)) = tokio::time::timeout(Duration::from_secs(5), submitting).await {
            took.push(submitted.wait(&field.history, COMPLETE_MAX).await?);
        }
        tokio::time::sleep(dice.millis(0..400)).await;
    }
    Ok(took)
}

/// Injects one fault after the other. Each is repaired before the next, so on return nothing that it broke is still
/// broken.
async fn storm(field: Arc<Field>, mut dice: Dice, until: Instant, faults: Arc<AtomicU64>) -> anyhow::Result<()> {
    while Instant::now() < until {
        if breaks(&field, &mut dice).await? {
            faults.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(dice.millis(50..1_500)).await;
    }
    Ok(())
}

/// Injects and repairs one fault; false if its target is already broken.
async fn breaks(field: &Field, dice: &mut Dice) -> anyhow::Result<bool> {
    let fault = chosen(dice);
    let node = dice.below(PLACES.len() as u64) as usize;
    let name = PLACES[node].name;
    // Shorter and longer than lease and margin.
    let long = field.lease_and_margin().as_millis() as u64;
    let time = if dice.chance(50) { dice.millis(100..long) } else { dice.millis(long..2 * long) };
    match fault {
        Fault::KillNode => {
            let Ok(mut member) = field.nodes[node].try_lock() else { return Ok(false) };
            field.history.event(format!("kill -9 {name}, back after {time:?}"));
            member.kill9();
            tokio::time::sleep(time).await;
            member.start()?;
        }
        Fault::KillControl => {
            let Some(_alone) = field.control_alone() else { return Ok(false) };
            field.history.event(format!("kill -9 of the control plane, back after {time:?}"));
            field.kill_control().await;
            tokio::time::sleep(time).await;
            field.start_control().await?;
        }
        Fault::StopNode => {
            let Ok(member) = field.nodes[node].try_lock() else { return Ok(false) };
            field.history.event(format!("stop {name} for {time:?}"));
            let Ok(id) = field.freeze(node, &member).await else { return Ok(false) };
            tokio::time::sleep(time).await;
            go_on(id)?;
        }
        Fault::StopControl => {
            let Some(_alone) = field.control_alone() else { return Ok(false) };
            field.history.event(format!("stop the control plane for {time:?}"));
            field.stop_control(time).await?;
        }
        Fault::Link | Fault::Front => {
            let relays = if fault == Fault::Link { &field.links } else { &field.fronts };
            let Ok(relay) = relays[node].try_lock() else { return Ok(false) };
            let mode = broken(dice);
            field.history.event(format!("{fault:?} of {name} for {time:?}: {mode:?}"));
            relay.set(mode);
            tokio::time::sleep(time).await;
            relay.set(Mode::WHOLE);
        }
        Fault::Wipe => {
            let Ok(mut member) = field.nodes[node].try_lock() else { return Ok(false) };
            field.history.event(format!("{name} loses its disk"));
            member.kill9();
            tokio::time::sleep(time / 4).await;
            field.join_anew(node, &mut member).await?;
        }
        Fault::Remove => {
            let Ok(mut member) = field.nodes[node].try_lock() else { return Ok(false) };
            // Half of the nodes do not learn of it.
            let deaf = if dice.chance(50) { field.links[node].try_lock().ok() } else { None };
            field.history.event(format!("{name} is removed, runs on for {time:?}, deaf: {}", deaf.is_some()));
            if let Some(link) = &deaf {
                link.set(broken(dice));
            }
            let removed = field.remove(node).await.is_ok();
            if removed {
                tokio::time::sleep(time).await;
            }
            if let Some(link) = &deaf {
                link.set(Mode::WHOLE);
            }
            if !removed {
                return Ok(false); // it has not yet joined again since the last time
            }
            field.join_anew(node, &mut member).await?;
        }
        Fault::StepClock => {
            let Ok(member) = field.nodes[node].try_lock() else { return Ok(false) };
            let ahead_secs = *dice.pick(&[0, 5, -5, 7_200, -7_200, 400 * 86_400, -400 * 86_400]);
            field.history.event(format!("{name} steps its wall clock to {ahead_secs:+} s"));
            member.set_clock(ahead_secs)?;
        }
    }
    field.history.event(format!("{fault:?} of {name} is over"));
    Ok(true)
}

fn chosen(dice: &mut Dice) -> Fault {
    let mut fallen = dice.below(FAULTS.iter().map(|(_, weight)| weight).sum());
    for (fault, weight) in FAULTS {
        if fallen < weight {
            return fault;
        }
        fallen -= weight;
    }
    Fault::KillNode
}

/// A random fault of a link.
fn broken(dice: &mut Dice) -> Mode {
    let slow = Flow::Slow(dice.millis(50..900));
    *dice.pick(&[
        Mode::CUT,
        Mode::STALLED,
        Mode { up: Flow::Stalled, ..Mode::WHOLE },
        Mode { down: Flow::Stalled, ..Mode::WHOLE },
        Mode { up: slow, down: slow, cut: false },
        Mode { down: slow, ..Mode::WHOLE },
    ])
}
