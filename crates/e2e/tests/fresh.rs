//! `Complete` means fresh, with real processes: three tiers, readers on every node all the time, one fault after
//! another.
//!
//! Every scenario checks all reads against the promise ([`Field::verdict`]), and the durations of tasks: by
//! acknowledgement while all nodes are present, after lease and margin when one is not, never while one that serves in
//! isolation is absent.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use e2e::fresh::field::{COMPLETE_MAX, Field, MARGIN, PLACES, Plan, Readers};
use e2e::fresh::liar::Liar;
use e2e::fresh::member::go_on;
use e2e::fresh::origin::{Pace, VERSION};
use e2e::fresh::relay::{Flow, Mode};
use e2e::fresh::writer::{Scope, Submitted};
use e2e::fresh::{Dice, storm};
use e2e::http::Answer;
use e2e::stage::DOMAIN;
use e2e::{eventually, http};

/// Tolerance for a loaded machine, added to times given by the design.
const SLACK: Duration = Duration::from_secs(4);

/// Longest pause of readers, in milliseconds, and readers per node.
const PAUSE_MS: u64 = 80;
const READERS: usize = 3;

async fn set(plan: Plan) -> anyhow::Result<(Field, Readers)> {
    let field = Field::set(plan).await?;
    let readers = field.read(READERS, PAUSE_MS);
    Ok((field, readers))
}

async fn end(field: &Field, readers: Readers) -> anyhow::Result<()> {
    // On a loaded machine a scenario may end before the readers have reached every node.
    eventually("every node sent what it had", || async { field.read_everywhere() }).await;
    readers.finish()?;
    field.verdict()
}

fn site() -> Scope {
    Scope::Directory("/".to_owned())
}

fn folder() -> Scope {
    Scope::Directory("/d1/".to_owned())
}

fn file() -> Scope {
    Scope::File("/d0/a".to_owned())
}

async fn ask(field: &Field, node: usize, path: &str) -> anyhow::Result<Answer> {
    http::get(field.port(node), DOMAIN, path, &[]).await
}

/// Waits until a node is following the control plane.
async fn follows(field: &Field, node: usize) {
    eventually(&format!("{} follows", PLACES[node].name), || async {
        let connected = field.nodes[node].lock().await.metric("link_connected").await?;
        ensure!(connected == 1.0, "not connected");
        Ok(())
    })
    .await;
    field.nodes[node].lock().await.ready().await;
}

/// How often a loaded machine may retry to be quick enough.
const TRIES: usize = 4;

/// A refresh acknowledged by all nodes, before any lease could expire.
async fn prompt(field: &Field, scope: &Scope) -> anyhow::Result<()> {
    let mut took = Duration::ZERO;
    for _ in 0..TRIES {
        took = field.refresh(scope, false).await?;
        if took < field.lease_and_margin() {
            return Ok(());
        }
    }
    bail!("{scope:?} took {took:?} with all nodes there")
}

/// A refresh that must wait until the lease of a node expires: not less, and not much longer.
async fn by_lease(field: &Field, scope: &Scope, force: bool) -> anyhow::Result<()> {
    let took = field.refresh(scope, force).await?;
    let due = field.lease_and_margin();
    ensure!(took >= due, "{scope:?} took only {took:?}, though a node may have trusted its store until {due:?}");
    ensure!(took < due + SLACK, "{scope:?} took {took:?}, and {due:?} would have done");
    Ok(())
}

/// Checks that a refresh stays open for `time`.
async fn stays_open(field: &Field, submitted: &Submitted, time: Duration) -> anyhow::Result<()> {
    let until = field.history.now() + time;
    while field.history.now() < until {
        ensure!(!submitted.is_complete().await?, "complete though a node is away that may serve what it has");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refresh_is_acknowledged_at_once_whatever_the_wall_clocks_say() -> anyhow::Result<()> {
    let (field, readers) = set(Plan { lease_secs: 10, ..Plan::new(1) }).await?;
    for (node, place) in PLACES.iter().enumerate() {
        let answer = http::get(field.nodes[node].lock().await.ports.admin, "localhost", "/healthz", &[]).await?;
        #[allow(clippy::disallowed_methods, reason = "the node's wall clock is compared with the machine's")]
        let now = SystemTime::now();
        let expected = i128::from(place.ahead_secs);
        let shown = httpdate::parse_http_date(answer.header("date"))?;
        let ahead = shown
            .duration_since(now)
            .map_or_else(|back| -(back.duration().as_secs() as i128), |ahead| ahead.as_secs() as i128);
        ensure!((ahead - expected).abs() < 60, "{} is {ahead} s ahead, expected {expected}", place.name);
    }

    let mut took = Vec::new();
    let mut dice = Dice::new(1);
    for turn in 0..20 {
        // While they run, one clock jumps a year ahead and one a year back.
        if turn == 10 {
            for (node, ahead_secs) in [(0, 400 * 86_400), (2, -400 * 86_400)] {
                field.nodes[node].lock().await.set_clock(ahead_secs)?;
                // Certificates are valid on any of these days.
                field.link(node, Mode::CUT).await;
                field.link(node, Mode::WHOLE).await;
                follows(&field, node).await;
            }
        }
        took.push(field.refresh(&Scope::any(&mut dice), turn % 3 == 0).await?);
    }
    took.sort_unstable();
    ensure!(took[19] < Duration::from_secs(10), "with all nodes there no lease has to run out: {took:?}");
    ensure!(took[10] < Duration::from_secs(2), "half of all refreshes within two seconds: {took:?}");
    for (node, place) in PLACES.iter().enumerate() {
        let age = field.nodes[node].lock().await.metric("contact_age_milliseconds").await?;
        ensure!(age < 10_000.0, "{} counts its lease on a wall clock: {age} ms", place.name);
    }
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_is_waited_for_until_its_lease_is_over() -> anyhow::Result<()> {
    let (field, readers) = set(Plan::new(2)).await?;
    for (name, scope) in [("cn-1-l2a", site()), ("eu-1-l1", folder())] {
        let mut node = field.nodes[Field::number(name)].lock().await;
        field.history.event(format!("kill -9 {name}"));
        node.kill9();
        by_lease(&field, &scope, false).await?;
        // It returns with everything it had stored before.
        node.start()?;
        node.ready().await;
        drop(node);
        prompt(&field, &file()).await?;
    }
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_stood_still_does_not_trust_its_store() -> anyhow::Result<()> {
    let (field, readers) = set(Plan { lease_secs: 3, ..Plan::new(3) }).await?;
    let due = field.lease_and_margin();
    for name in ["cn-1-l1", "cn-1-l2b"] {
        let number = Field::number(name);
        let node = field.nodes[number].lock().await;
        // Stopped for less than the lease: it acknowledges when it continues.
        let mut took = due;
        for _ in 0..TRIES {
            let id = field.freeze(number, &node).await?;
            let submitted = field.submit(&folder(), false).await?;
            stays_open(&field, &submitted, Duration::from_millis(1_000)).await?;
            go_on(id)?;
            took = submitted.wait(&field.history, COMPLETE_MAX).await?;
            if took < due {
                break;
            }
        }
        ensure!(took < due, "{name} went on after a second, and the refresh took {took:?}");

        // Stopped for longer: the refresh completes before, and later requests to the node are answered anew.
        let id = field.freeze(number, &node).await?;
        by_lease(&field, &site(), false).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        go_on(id)?;
        drop(node);
        follows(&field, number).await;
        prompt(&field, &file()).await?;
    }
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_is_cut_off_asks_before_it_serves() -> anyhow::Result<()> {
    let (field, readers) = set(Plan::new(4)).await?;
    let modes = [
        Mode::CUT,
        Mode::STALLED,
        Mode { up: Flow::Stalled, ..Mode::WHOLE },
        Mode { down: Flow::Stalled, ..Mode::WHOLE },
    ];
    for (turn, mode) in modes.into_iter().enumerate() {
        let node = if turn % 2 == 0 { 0 } else { Field::number("cn-1-l2a") };
        field.link(node, mode).await;
        by_lease(&field, &site(), turn % 2 == 1).await?;
        let answer = ask(&field, node, "/d0/a").await?;
        ensure!(answer.status.is_success(), "it serves what it can confirm: {} {}", answer.status, answer.text());
        field.link(node, Mode::WHOLE).await;
        follows(&field, node).await;
    }
    // A link that is only slow delivers acknowledgements, just later.
    let slow = Flow::Slow(Duration::from_millis(250));
    field.link(1, Mode { up: slow, down: slow, cut: false }).await;
    prompt(&field, &folder()).await?;
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_a_parent_that_cannot_be_reached_ask_another() -> anyhow::Result<()> {
    let (field, readers) = set(Plan::new(5)).await?;
    field.front(Field::number("cn-1-l2a"), Mode::CUT).await;
    for scope in [site(), folder(), file()] {
        prompt(&field, &scope).await?;
    }
    for (node, place) in PLACES.iter().enumerate() {
        for path in ["/d0/a", "/d1/deep/b", "/d2/vary"] {
            let answer = ask(&field, node, path).await?;
            ensure!(answer.status.is_success(), "{path} of {}: {}", place.name, answer.status);
        }
    }
    // Without the root, nobody sends bodies that cannot be confirmed; users' requests go to the origin directly. A
    // refresh needs no data path.
    let root = Field::number("core-l3");
    field.front(root, Mode::CUT).await;
    let changed = field.origin.change("/d0/swr");
    prompt(&field, &site()).await?;
    let answer = ask(&field, 0, "/d0/swr").await?;
    // It may be a HIT for an object that a reader has just fetched past the root.
    let version: u64 = answer.header(VERSION.as_str()).parse().context("an object of the origin")?;
    let came = answer.header("x-cache");
    ensure!(answer.status.is_success() && version >= changed, "the old bytes stand in for an error: {came}");
    field.front(root, Mode::WHOLE).await;
    prompt(&field, &site()).await?;
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_control_plane_keeps_nobody_from_serving_and_counts_anew_when_it_is_back() -> anyhow::Result<()> {
    let (field, readers) = set(Plan::new(6)).await?;
    let due = field.lease_and_margin();
    field.link(0, Mode::CUT).await;
    let submitted = field.submit(&site(), false).await?;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    field.history.event("kill -9 of the control plane");
    field.kill_control().await;
    tokio::time::sleep(due + Duration::from_secs(1)).await;
    for (node, place) in PLACES.iter().enumerate() {
        let path = "/d0/b";
        eventually(&format!("{} serves without a control plane", place.name), || async {
            let answer = ask(&field, node, path).await?;
            ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
            Ok(())
        })
        .await;
    }
    field.history.event("the control plane is back");
    let back = field.history.now();
    field.start_control().await?;
    submitted.wait(&field.history, due + SLACK + SLACK).await?;
    let waited = field.history.now() - back;
    ensure!(waited >= due, "it was back for {waited:?} only, and the node that is cut off may be within its lease");

    field.link(0, Mode::WHOLE).await;
    for node in 0..PLACES.len() {
        follows(&field, node).await;
    }
    prompt(&field, &folder()).await?;
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_serves_in_isolation_is_waited_for_without_limit() -> anyhow::Result<()> {
    let serves = 1;
    let (field, readers) = set(Plan { serves: Some(serves), ..Plan::new(7) }).await?;
    let long = field.lease_and_margin() * 2;
    prompt(&field, &site()).await?;
    eventually("it has the object", || async {
        let answer = ask(&field, serves, "/d0/a").await?;
        ensure!(answer.header("x-cache") == "HIT from eu-1-l1", "{}", answer.header("x-cache"));
        Ok(())
    })
    .await;

    field.link(serves, Mode::CUT).await;
    let submitted = field.submit(&site(), false).await?;
    stays_open(&field, &submitted, long).await?;
    let answer = ask(&field, serves, "/d0/a").await?;
    ensure!(answer.header("x-cache") == "HIT from eu-1-l1", "it serves what it has: {}", answer.header("x-cache"));
    field.link(serves, Mode::WHOLE).await;
    submitted.wait(&field.history, SLACK + SLACK).await.context("after it was back")?;

    // A node that is gone for good is waited for until the operator removes it.
    field.history.event("kill -9 eu-1-l1");
    let mut node = field.nodes[serves].lock().await;
    node.kill9();
    let submitted = field.submit(&folder(), true).await?;
    stays_open(&field, &submitted, long).await?;
    field.remove(serves).await?;
    submitted.wait(&field.history, SLACK).await.context("after it was removed")?;
    field.join_anew(serves, &mut node).await?;
    node.ready().await;
    drop(node);
    prompt(&field, &site()).await?;
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_node_stops_serving_and_its_children_are_not_deceived() -> anyhow::Result<()> {
    let (field, readers) = set(Plan::new(8)).await?;
    let parent = Field::number("cn-1-l2a");

    // It learns of its removal.
    field.remove(parent).await?;
    eventually("the removed node stops", || async {
        let answer = ask(&field, parent, "/d0/a").await?;
        ensure!(answer.status == 503, "{}", answer.status);
        Ok(())
    })
    .await;
    prompt(&field, &site()).await?;
    let mut node = field.nodes[parent].lock().await;
    field.join_anew(parent, &mut node).await?;
    node.ready().await;
    prompt(&field, &site()).await?;

    // It does not learn of it, and neither does a child that keeps asking it.
    for number in [parent, 0] {
        field.link(number, Mode::STALLED).await;
    }
    field.remove(parent).await?;
    by_lease(&field, &site(), true).await?;
    field.link(0, Mode::WHOLE).await;
    follows(&field, 0).await;
    prompt(&field, &folder()).await?;
    field.link(parent, Mode::WHOLE).await;
    field.join_anew(parent, &mut node).await?;
    node.ready().await;
    drop(node);
    prompt(&field, &site()).await?;
    end(&field, readers).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_its_disk_joins_anew_and_is_promised_for() -> anyhow::Result<()> {
    let (field, readers) = set(Plan::new(9)).await?;
    for name in ["cn-1-l2b", "cn-1-l1", "core-l3"] {
        let number = Field::number(name);
        let mut node = field.nodes[number].lock().await;
        field.history.event(format!("{name} loses its disk"));
        // While a refresh is in progress: it joins at a head at or above it.
        let submitted = field.submit(&site(), false).await?;
        field.join_anew(number, &mut node).await?;
        submitted.wait(&field.history, field.lease_and_margin() + SLACK).await?;
        node.ready().await;
        drop(node);
        prompt(&field, &folder()).await?;
    }
    end(&field, readers).await
}

/// Refreshes the site twice with all nodes present, and waits until the checker has noticed.
async fn is_noticed(field: &Field, liar: &Liar) -> anyhow::Result<()> {
    prompt(field, &site()).await?;
    eventually("the liar has something to tell", || async {
        let objects: u64 = field.seen().iter().map(|(objects, _)| objects).sum();
        ensure!(objects > 300, "{objects} objects");
        Ok(())
    })
    .await;
    ensure!(field.history.counts().stale == 0, "honest so far\n{}", field.history.violations());
    liar.lie();
    prompt(field, &site()).await?;
    eventually("the lie is noticed", || async {
        ensure!(field.history.counts().stale > 0, "{} lies told, {:?}", liar.told(), field.history.counts());
        Ok(())
    })
    .await;
    let report = format!("{:#}", field.verdict().err().context("a verdict of stale reads")?);
    ensure!(report.contains("STALE (Begun)") && report.contains("Directory /"), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dishonest_cache_before_a_node_is_noticed() -> anyhow::Result<()> {
    let field = Field::set(Plan { pace: Pace::QUICK, ..Plan::new(10) }).await?;
    let mut readers = field.read(1, PAUSE_MS);
    let liar = Liar::start(field.port(0)).await?;
    let mut deceived = field.reader(0, 20);
    deceived.port = liar.port;
    for seed in 0..4 {
        readers.add(deceived.clone(), Dice::new(seed));
    }
    is_noticed(&field, &liar).await?;
    readers.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parent_that_replays_what_it_said_before_is_noticed() -> anyhow::Result<()> {
    // With credential, age and everything else: a node that does not judge for its children would look like this.
    let plan = Plan { pace: Pace::QUICK, lied_for: Some(Field::number("cn-1-l2b")), ..Plan::new(11) };
    let (field, readers) = set(plan).await?;
    let liar = field.liar.as_ref().context("the plan has a liar")?;
    is_noticed(&field, liar).await?;
    readers.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_stale_bytes_in_a_storm() -> anyhow::Result<()> {
    let summary = storm::run(Duration::from_secs(45), 1).await?;
    assert_eq!(summary.counts.stale, 0, "{summary}");
    ensure!(summary.faults >= 10 && summary.counts.refreshes >= 10, "{summary}");
    Ok(())
}

#[test]
fn margin_is_the_one_of_the_guide() {
    let guide = include_str!("../../../docs/guide/complete.md");
    assert!(
        guide.contains(&format!("`margin_secs` ({})", MARGIN.as_secs())),
        "the guide says how long a refresh waits"
    );
}
