//! The addresses of parents, origins and the control plane, looked up by name and cached for their time to live.
//!
//! When the time to live of a name is over, one of the requests that need it looks it up again, while the others go on
//! with the known addresses. Answers come from the name servers and from `/etc/hosts`, which is read at start.
//!
//! # What always holds
//!
//! - An origin that moves is followed once the time to live of its old address is over.
//! - Known addresses stay in use while no name server answers: a broken resolver is no outage.
//! - The answer that a name does not exist is believed for [`NEGATIVE_FOR`] and no longer.
//!
//! # Not here
//!
//! Which of the addresses is tried first, and what happens when one is dead: `network`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::Instant;

use crate::metrics::{Counter, Page};

/// Names cached at a time.
const NAMES_MAX: usize = 4096;

/// Longest wait for a lookup, including tries at other name servers.
const LOOKUP_MAX: Duration = Duration::from_secs(4);

/// Longest wait for one answer of a name server.
const QUERY_MAX: Duration = Duration::from_millis(1500);

/// Bounds of a time to live: zero would cost a lookup for each connection, a huge one would never end.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);

/// How long a failed lookup is remembered: the name does not exist, or no name server answered.
const NEGATIVE_FOR: Duration = Duration::from_secs(5);

/// How long after they were learned addresses stay in use while no name server answers.
const STALE_FOR: Duration = Duration::from_secs(24 * 3600);

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("look up `{name}`: {problem}")]
pub(crate) struct ResolveError {
    name: String,
    problem: String,
}

/// Why a lookup brought no address.
struct NoAnswer {
    problem: String,
    /// The name servers say that there is none, and are believed.
    denied: bool,
}

/// The result of the last lookup of a name.
#[derive(Clone)]
struct Found {
    /// The addresses, never empty; or why there are none.
    addresses: Result<Vec<IpAddr>, ResolveError>,
    /// Until when the name is not looked up again.
    until: Instant,
    /// When the addresses were learned.
    learned: Instant,
}

#[derive(Default)]
struct Name {
    found: Mutex<Option<Found>>,
    /// Held while looking up.
    asking: tokio::sync::Mutex<()>,
}

impl Name {
    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().expect("no holder of this lock can panic")
    }
}

/// Names and their addresses.
pub(crate) struct Names {
    resolver: Result<TokioResolver, String>,
    known: Mutex<HashMap<String, Arc<Name>>>,
    /// Decides which of several addresses comes first.
    turn: Counter,
    lookups: Counter,
    failures: Counter,
    stale: Counter,
}

impl Names {
    /// Uses `servers`, or those of `/etc/resolv.conf` where none is given.
    pub(crate) fn new(servers: &[SocketAddr]) -> Names {
        let (config, mut options) = match hickory_resolver::system_conf::read_system_conf() {
            _ if !servers.is_empty() => (of_servers(servers), ResolverOpts::default()),
            Ok(system) => system,
            Err(error) => {
                tracing::warn!(%error, "/etc/resolv.conf names no server; only /etc/hosts is used");
                (of_servers(&[]), ResolverOpts::default())
            }
        };
        options.use_hosts_file = ResolveHosts::Always;
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.timeout = options.timeout.min(QUERY_MAX);
        options.cache_size = 0; // cached here instead, because addresses outlive a failing resolver
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        Names {
            resolver: resolver.build().map_err(|error| error.to_string()),
            known: Mutex::default(),
            turn: Counter::default(),
            lookups: Counter::default(),
            failures: Counter::default(),
            stale: Counter::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Name>>> {
        self.known.lock().expect("no holder of this lock can panic")
    }

    /// The addresses of a name, in the order they are to be tried.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let entry = self.entry(name, Instant::now());
        let addresses = self.addresses(name, &entry).await?;
        self.turn.inc();
        Ok(in_turn(addresses, self.turn.get() as usize))
    }

    async fn addresses(&self, name: &str, entry: &Name) -> Result<Vec<IpAddr>, ResolveError> {
        let known = entry.found().clone();
        if let Some(found) = known.as_ref().filter(|found| Instant::now() < found.until) {
            return found.addresses.clone();
        }
        let old = known.as_ref().and_then(|found| found.addresses.as_ref().ok());
        let _asking = match (entry.asking.try_lock(), old) {
            (Ok(asking), _) => asking,
            (Err(_), Some(old)) => return Ok(old.clone()), // somebody else looks it up: go on with the known addresses
            (Err(_), None) => entry.asking.lock().await,
        };
        let known = entry.found().clone();
        if let Some(found) = known.as_ref().filter(|found| Instant::now() < found.until) {
            return found.addresses.clone();
        }
        self.lookups.inc();
        let answer = self.ask(name).await;
        let now = Instant::now();
        let found = match (answer, known) {
            (Ok((addresses, ttl)), _) => {
                Found { addresses: Ok(addresses), until: now + ttl.clamp(TTL_MIN, TTL_MAX), learned: now }
            }
            (Err(NoAnswer { problem, denied }), known) => {
                self.failures.inc();
                let usable = |old: &Found| {
                    !denied && old.addresses.is_ok() && now.saturating_duration_since(old.learned) < STALE_FOR
                };
                let old = known.filter(usable);
                match old {
                    Some(old) => {
                        self.stale.inc();
                        tracing::warn!(name, problem, "name server failed; cached addresses are used");
                        Found { until: now + NEGATIVE_FOR, ..old }
                    }
                    None => {
                        let error = ResolveError { name: name.to_owned(), problem };
                        Found { addresses: Err(error), until: now + NEGATIVE_FOR, learned: now }
                    }
                }
            }
        };
        let addresses = found.addresses.clone();
        *entry.found() = Some(found);
        addresses
    }

    /// Asks a name server, or `/etc/hosts`.
    async fn ask(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), NoAnswer> {
        let failed = |problem: String| NoAnswer { problem, denied: false };
        let resolver = self.resolver.as_ref().map_err(|problem| failed(problem.clone()))?;
        let answer = tokio::time::timeout(LOOKUP_MAX, resolver.lookup_ip(name)).await;
        let answer = answer.map_err(|_| failed("no name server answered in time".to_owned()))?;
        let answer = answer.map_err(|error| {
            let denied = matches!(&error, NetError::Dns(DnsError::NoRecordsFound(none))
                if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError));
            NoAnswer { problem: error.to_string(), denied }
        })?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() {
            return Err(NoAnswer { problem: "it has no address".to_owned(), denied: true });
        }
        let ttl = Instant::from_std(answer.valid_until()).saturating_duration_since(Instant::now());
        Ok((addresses, ttl))
    }

    /// The cache entry of `name`; when the cache is full, names whose time to live is over make room.
    fn entry(&self, name: &str, now: Instant) -> Arc<Name> {
        let mut known = self.known();
        if let Some(entry) = known.get(name) {
            return entry.clone();
        }
        if known.len() >= NAMES_MAX {
            known.retain(|_, entry| entry.found().as_ref().is_none_or(|found| now < found.until));
        }
        let entry = Arc::new(Name::default());
        // When the cache is full of valid names, this one is not cached and is looked up each time.
        if known.len() < NAMES_MAX {
            known.insert(name.to_owned(), entry.clone());
        }
        entry
    }

    /// Shows the counters.
    pub(crate) fn show(&self, page: &mut Page) {
        page.gauge("names_known", "Host names whose addresses are cached", self.known().len());
        page.gauge("names_known_max", "Maximum of cached host names", NAMES_MAX);
        page.counter("name_lookups_total", "Host name lookups sent to name servers", self.lookups.get());
        page.counter("name_lookup_failures_total", "Host name lookups that returned no address", self.failures.get());
        page.counter(
            "name_lookups_stale_total",
            "Failed host name lookups for which expired addresses were used",
            self.stale.get(),
        );
    }
}

fn of_servers(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

/// Addresses in the order they are to be tried: the families alternate, beginning with version 6 (RFC 8305 §4), and
/// within a family the addresses take turns to be first.
fn in_turn(addresses: Vec<IpAddr>, turn: usize) -> Vec<IpAddr> {
    let (mut six, mut four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    for family in [&mut six, &mut four] {
        let first = turn % family.len().max(1);
        family.rotate_left(first);
    }
    let mut ordered = Vec::with_capacity(six.len() + four.len());
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    loop {
        let pair = [six.next(), four.next()];
        if pair == [None, None] {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_each_address_has_its_turn() {
        let read = |text: &str| text.split(' ').map(|one| one.parse().unwrap()).collect::<Vec<IpAddr>>();
        let cases = [
            ("10.0.0.1 10.0.0.2 ::1", 0, "::1 10.0.0.1 10.0.0.2"),
            ("10.0.0.1 10.0.0.2 ::1", 1, "::1 10.0.0.2 10.0.0.1"),
            ("::1 ::2 ::3 10.0.0.1", 2, "::3 10.0.0.1 ::1 ::2"),
            ("10.0.0.1", 7, "10.0.0.1"),
        ];
        for (given, turn, expected) in cases {
            assert_eq!(in_turn(read(given), turn), read(expected), "{given}, turn {turn}");
        }
    }
}
