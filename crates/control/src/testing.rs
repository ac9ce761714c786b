//! Fixtures of this crate's tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use model::topology::WarmTiers;
use model::{
    Coverage, Domain, DomainName, Entry, Isolation, ManualClock, Member, NodeName, Pop, PopName, Source, SourceKind,
    Tier, Topology,
};
use tempfile::TempDir;

use crate::StateUrl;
use crate::state::State;
use crate::state::audit::Record;
use crate::state::chunks::{Kind, Params};
use crate::state::steering::Steering;
use crate::state::submit::{Charge, Group, QueueMax, Submission};

/// The longest that a test waits for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// A clock that reads some day of 2026.
pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_780_000_000)))
}

/// Waits until `look` finds something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Awaits `next`, for [`PATIENCE`] at most.
pub(crate) async fn soon<T>(what: &str, next: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

pub(crate) fn url(dir: &TempDir) -> StateUrl {
    StateUrl::parse(&format!("sqlite:{}", dir.path().join("c.db").display())).unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub(crate) fn pop(name: &str) -> Pop {
    Pop { name: PopName::parse(name).unwrap(), region: Coverage::Global, parents: BTreeMap::new() }
}

/// An L2 node; the part of its name before the last `-` is its POP.
pub(crate) fn member(name: &str) -> Member {
    let pop = name.rsplit_once('-').map_or(name, |(pop, _)| pop);
    Member {
        name: node(name),
        pop: PopName::parse(pop).unwrap(),
        tier: Tier::L2,
        advertise_url: format!("http://{name}.test"),
        isolation: Isolation::Revalidate,
    }
}

/// A topology of these nodes and their POPs.
pub(crate) fn topology(names: &[&str]) -> Topology {
    let mut topology = Topology::default();
    for member in names.iter().map(|name| member(name)) {
        topology.pops.insert(member.pop.clone(), pop(member.pop.as_str()));
        topology.members.insert(member.name.clone(), member);
    }
    topology
}

/// A database in `dir` whose log begins with these nodes.
pub(crate) async fn state(dir: &TempDir, names: &[&str]) -> State {
    let state = State::open(&url(dir)).await.unwrap();
    let topology = topology(names);
    let pops = topology.pops.into_values().map(Entry::Pop);
    let entries: Vec<Entry> = pops.chain(topology.members.into_values().map(Entry::Member)).collect();
    state.append(&entries).await.unwrap();
    state
}

/// Changes the database in `dir` in a way that this version of the program would not.
pub(crate) async fn run_sql(dir: &TempDir, statement: &'static str) {
    sqlx::any::install_default_drivers();
    let address = format!("sqlite:{}", dir.path().join("c.db").display());
    let mut connection = <sqlx::AnyConnection as sqlx::Connection>::connect(&address).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
}

/// A prefetch of `urls` objects of `a.com`.
pub(crate) fn prefetch(account: &str, nonce: &str, urls: usize, now_ms: u64) -> Submission {
    let paths: Vec<String> = (0..urls).map(|n| format!("http://a.com/{nonce}/{n}")).collect();
    let params = Params {
        area: Coverage::Global,
        warm: WarmTiers::default(),
        variants: vec![Vec::new()],
        verbatim: false,
        refetch: false,
        pin: None,
    };
    let domain = DomainName::parse("a.com").unwrap();
    Submission {
        account: account.into(),
        nonce: (account.into(), nonce.into()),
        now_ms,
        groups: vec![Group {
            domain,
            kind: Kind::Prefetch,
            paths,
            invalidations: Vec::new(),
            params,
            steering: Steering::from(now_ms),
        }],
        charge: Charge { bucket: "preload", day: 1, units: urls as u64, limit: None },
        minute_max: None,
        queue_max: QueueMax::Unlimited,
        record: Record::default(),
    }
}

/// A domain with one origin.
pub(crate) fn domain(text: &str) -> Domain {
    let source = Source {
        kind: SourceKind::Address,
        content: "127.0.0.1".into(),
        port: 80,
        scheme: None,
        priority: 20,
        weight: 10,
    };
    let functions = model::Functions::default();
    Domain {
        name: DomainName::parse(text).unwrap(),
        coverage: Coverage::Domestic,
        sources: vec![source],
        online: true,
        tag_header: None,
        functions,
    }
}
