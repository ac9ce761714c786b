//! The inner parts of a node without sockets, for sections that measure one step.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::{
    Clock, Coverage, Domain, DomainName, Isolation, Member, Moment, NodeName, PopName, Source, SourceKind, Tier,
};
use node::internals::Inside;
use store::Store;
use tokio::time::Instant;

/// The host of every object.
pub(crate) const HOST: &str = "www.example.com";

/// The domain of every object.
pub(crate) fn domain_name() -> DomainName {
    DomainName::parse(HOST).expect("a name that is one")
}

/// Real time.
struct Running(Instant);

impl Clock for Running {
    fn now(&self) -> SystemTime {
        #[allow(clippy::disallowed_methods, reason = "a benchmark lives in real time")]
        SystemTime::now()
    }

    fn moment(&self) -> Moment {
        Moment::at(self.0.elapsed() + Duration::from_secs(1))
    }
}

/// A member in contact over `store`, with its journal in `directory`.
pub(crate) fn open(directory: &Path, store: Store) -> anyhow::Result<Inside> {
    let member = Member {
        name: NodeName::parse("n")?,
        pop: PopName::parse("p")?,
        tier: Tier::L1,
        advertise_url: "http://127.0.0.1:9".to_owned(),
        isolation: Isolation::Revalidate,
    };
    let source = Source {
        kind: SourceKind::Address,
        content: "127.0.0.1".to_owned(),
        port: 80,
        scheme: None,
        priority: 20,
        weight: 10,
    };
    let domain = Domain {
        name: domain_name(),
        coverage: Coverage::Global,
        sources: vec![source],
        online: true,
        tag_header: None,
        functions: model::Functions::default(),
    };
    Ok(Inside::open(directory, store, member, domain, Arc::new(Running(Instant::now())))?)
}
