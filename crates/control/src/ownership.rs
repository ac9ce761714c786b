//! Proofs that a name belongs to an account: a content that only this deployment can derive for it, looked up where
//! only the name's owner can publish it.
//!
//! # What always holds
//!
//! - A proof takes no longer than [`PROVING_MAX`], and at most [`RUNNING_MAX`] run at a time.
//! - No request goes to this machine or its network: the address that is connected to is the one that was checked, and
//!   it is globally reachable (unless the operator allows private ones).
//! - A host's answer is only compared and revealed to nobody.
//!
//! # Not here
//!
//! The registrable domain of a name: that needs a list of all public suffixes (docs/decisions/0020-domains.md). Each
//! name is proven by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aliyun::VerifyType;
use aws_lc_rs::hmac;
use bytes::Bytes;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use model::DomainName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The longest time for a proof, including its wait for other proofs.
const PROVING_MAX: Duration = Duration::from_secs(5);

/// The longest wait for one answer of a name server.
const QUERY_MAX: Duration = Duration::from_millis(1500);

/// The longest wait for a connection to one of a name's addresses.
const CONNECT_MAX: Duration = Duration::from_millis(1500);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Proofs that run at a time.
const RUNNING_MAX: usize = 16;

/// The most bytes read of a verification file.
const BODY_BYTES_MAX: usize = 4096;

/// The port of that file: the scheme's default (RFC 9110 §4.2.1).
pub(crate) const PORT: u16 = 80;

/// The label of the TXT record that proves only the name itself, as clients expect it.
const RECORD: &str = "verification";

/// The label of the TXT record that also proves all names below. Its underscore keeps it from being a host name: where
/// names under a suffix can be registered, anyone could register the other label.
const RECORD_OF_ALL: &str = "_verification";

/// The operator's settings for proofs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The name servers to ask; if empty, those of `/etc/resolv.conf`.
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Whether files may be fetched from addresses that are not globally reachable.
    pub(crate) private: bool,
    /// The port that files are fetched from.
    pub(crate) port: u16,
    /// Whether only proven names may become domains.
    pub(crate) required: bool,
}

/// Looks for proofs.
pub(crate) struct Ownership {
    key: hmac::Key,
    wanted: Wanted,
    running: Semaphore,
}

/// Why a name is not proven. Written only to the operator's log: it would show a stranger what this network looks like.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotProven {
    #[error("no name server can be asked: {0}")]
    Resolver(String),
    #[error("look up: {0}")]
    Lookup(String),
    #[error("no TXT record has the content")]
    Record,
    #[error("a file cannot prove a wildcard")]
    Wildcard,
    #[error("no address may be contacted")]
    Address,
    #[error("connect: {0}")]
    Connect(String),
    #[error("fetch: {0}")]
    Fetch(String),
    #[error("the file answers {0}")]
    Status(StatusCode),
    #[error("the file has different content")]
    Content,
    #[error("not found in time")]
    Late,
}

impl Ownership {
    /// Uses the deployment's own secret, from which contents are derived.
    pub(crate) fn new(secret: &str, wanted: Wanted) -> Ownership {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        Ownership { key, wanted, running: Semaphore::new(RUNNING_MAX) }
    }

    /// Whether only proven names may become domains.
    pub(crate) fn is_required(&self) -> bool {
        self.wanted.required
    }

    /// The content that proves a name for an account: 64 hex digits that never change; a wildcard has that of its name.
    pub(crate) fn content(&self, account: &str, name: &DomainName) -> String {
        // No name contains a line feed, so equal texts mean equal name and account.
        hex::encode(hmac::sign(&self.key, format!("{}\n{account}", host(name)).as_bytes()))
    }

    /// Looks for the content of `name`; returns what it proves: the name, or the wildcard that stands for it and all
    /// names below.
    pub(crate) async fn prove(
        &self,
        account: &str,
        name: &DomainName,
        how: VerifyType,
    ) -> Result<DomainName, NotProven> {
        let content = self.content(account, name);
        let proving = async {
            let _turn = self.running.acquire().await.expect("the semaphore is never closed");
            let resolver = self.resolver()?;
            match how {
                VerifyType::Dns => by_dns(&resolver, name, &content).await,
                VerifyType::File if name.is_wildcard() => Err(NotProven::Wildcard),
                VerifyType::File => self.by_file(&resolver, name, &content).await,
            }
        };
        tokio::time::timeout(PROVING_MAX, proving).await.map_err(|_| NotProven::Late)?
    }

    /// Created for each proof, so that it uses the present `/etc/resolv.conf`. `/etc/hosts` is ignored: only what the
    /// world sees counts.
    fn resolver(&self) -> Result<TokioResolver, NotProven> {
        let failed = |error: NetError| NotProven::Resolver(error.to_string());
        let (config, mut options) = match self.wanted.resolvers.as_slice() {
            [] => hickory_resolver::system_conf::read_system_conf().map_err(failed)?,
            servers => (of_servers(servers), ResolverOpts::default()),
        };
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = options.timeout.min(QUERY_MAX);
        options.cache_size = 0;
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        resolver.build().map_err(failed)
    }

    async fn by_file(
        &self,
        resolver: &TokioResolver,
        name: &DomainName,
        content: &str,
    ) -> Result<DomainName, NotProven> {
        let found = resolver.lookup_ip(format!("{}.", host(name))).await;
        let found = found.map_err(|error| NotProven::Lookup(error.to_string()))?;
        let may = |address: &IpAddr| self.wanted.private || is_everybodys(*address);
        let addresses: Vec<IpAddr> = found.iter().filter(may).take(ADDRESSES_MAX).collect();
        let body = fetch(connect(&addresses, self.wanted.port).await?, name).await?;
        if body.trim_ascii() == content.as_bytes() { Ok(name.clone()) } else { Err(NotProven::Content) }
    }
}

/// The name without the leading dot of a wildcard.
fn host(name: &DomainName) -> &str {
    name.as_str().trim_start_matches('.')
}

async fn by_dns(resolver: &TokioResolver, name: &DomainName, content: &str) -> Result<DomainName, NotProven> {
    let host = host(name);
    let (of_all, own) =
        tokio::join!(has_text(resolver, RECORD_OF_ALL, host, content), has_text(resolver, RECORD, host, content));
    match (of_all, own) {
        (Ok(true), _) => {
            Ok(DomainName::parse(&format!(".{host}")).expect("a name with a dot before it is a wildcard's"))
        }
        (_, Ok(true)) if !name.is_wildcard() => Ok(name.clone()),
        (Err(problem), _) | (_, Err(problem)) => Err(problem),
        _ => Err(NotProven::Record),
    }
}

/// Whether the content is in a TXT record of `label` under `host`.
async fn has_text(resolver: &TokioResolver, label: &str, host: &str, content: &str) -> Result<bool, NotProven> {
    match resolver.lookup(format!("{label}.{host}."), RecordType::TXT).await {
        Ok(found) => Ok(found.answers().iter().any(|record| match &record.data {
            RData::TXT(text) => text.txt_data.concat().trim_ascii() == content.as_bytes(),
            _ => false,
        })),
        Err(error) if error.is_no_records_found() => Ok(false),
        Err(error) => Err(NotProven::Lookup(error.to_string())),
    }
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, NotProven> {
    let mut problem = NotProven::Address;
    for address in addresses {
        let connecting = TcpStream::connect(SocketAddr::new(*address, port));
        problem = match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => NotProven::Connect(error.to_string()),
            Err(_) => NotProven::Connect(format!("{address} does not answer")),
        };
    }
    Err(problem)
}

/// Fetches the file from this host only: a redirect counts as another status.
async fn fetch(stream: TcpStream, name: &DomainName) -> Result<Bytes, NotProven> {
    let failed = |error: hyper::Error| NotProven::Fetch(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut running = JoinSet::new(); // aborted when dropped, however the proof ends
    running.spawn(connection);
    let request = Request::get("/verification.html")
        .header(header::HOST, name.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| NotProven::Fetch(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    if answer.status() != StatusCode::OK {
        return Err(NotProven::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| NotProven::Fetch(error.to_string()))
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

/// Whether an address is globally reachable (the registries of special-purpose addresses, RFC 6890).
fn is_everybodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_everybodys_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_everybodys_v4(address),
            None => is_everybodys_v6(address),
        },
    }
}

fn is_everybodys_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127, ..) => true,                               // this network, private, loopback
        (100, 64..=127, _) => true,                               // shared by a carrier's customers
        (169, 254, _) | (192, 168, _) => true,                    // link-local, private
        (172, 16..=31, _) => true,                                // private
        (192, 0, 0 | 2) | (192, 88, 99) => true,                  // protocols, documentation, relays of 6to4
        (192, 31, 196) | (192, 52, 193) | (192, 175, 48) => true, // anycast of protocols
        (198, 18..=19, _) => true,                                // benchmarks
        (198, 51, 100) | (203, 0, 113) => true,                   // documentation
        (224.., ..) => true,                                      // multicast, reserved, broadcast
        _ => false,
    };
    !special
}

/// Only 2000::/3 is assigned to hosts; parts of it that embed other addresses or are unassigned are excluded.
fn is_everybodys_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x2001, 0..=0x01ff, ..] => false, // protocols: Teredo, which stands for IPv4, benchmarks, ORCHID
        [0x2001, 0x0db8, ..] => false,     // documentation
        [0x2002, ..] => false,             // 6to4, which stands for IPv4
        [0x3fff, 0..=0x0fff, ..] => false, // documentation
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_all_the_world_reaches_are_asked() {
        let cases = [
            ("8.8.8.8", true),
            ("100.63.255.255", true),
            ("172.32.0.1", true),
            ("198.20.0.1", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.170", false),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("192.168.0.1", false),
            ("198.18.0.1", false),
            ("198.19.255.255", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700:4700::1111", true),
            ("2001:4860:4860::8888", true),
            ("::ffff:8.8.8.8", true),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("::127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("100::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::", false),
            ("3fff::1", false),
            ("fc00::1", false),
            ("fd12::1", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_everybodys(text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn content_is_of_one_account_name_and_deployment_and_stays() {
        let name = |text| DomainName::parse(text).unwrap();
        let of = |secret, account, text| Ownership::new(secret, Wanted::default()).content(account, &name(text));
        let content = of("s", "me", "a.com");
        assert!(content.len() == 64 && content.bytes().all(|byte| byte.is_ascii_hexdigit()), "{content}");
        assert_eq!((of("s", "me", "A.com"), of("s", "me", ".a.com")), (content.clone(), content.clone()));
        for other in [of("t", "me", "a.com"), of("s", "you", "a.com"), of("s", "me", "b.a.com")] {
            assert_ne!(other, content);
        }
    }
}
