//! The configuration that a node reads at start: `node.toml`.
//!
//! Plain values. Settings that only the control plane decides (domains, topology, the lease) arrive over the link
//! instead.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use model::{Isolation, NodeName, PopName, Tier};
use serde::Deserialize;

/// Longest grace of a stopping node, in seconds.
const DRAIN_GRACE_SECS_MAX: u64 = 3600;

/// Everything a cache node reads at start, from one TOML file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name, unique over all POPs.
    pub name: NodeName,
    /// The POP it belongs to.
    pub pop: PopName,
    /// `L1`, `L2` or `L3`.
    pub tier: Tier,
    /// The address for users and children: HTTP/1.1 and HTTP/2 without TLS.
    pub listen: SocketAddr,
    /// The address for users by TLS; none unless given.
    pub listen_tls: Option<SocketAddr>,
    /// The URL under which children reach it: `http://HOST:PORT` or `https://HOST:PORT`.
    pub advertise_url: String,
    /// The address of health and metrics.
    pub admin_listen: SocketAddr,
    /// The control plane's link: `https://HOST:PORT`.
    pub control_url: String,
    /// The operator's invitation; needed only until the node has joined.
    pub join_token_file: PathBuf,
    /// The memory tier.
    #[serde(default)]
    pub memory: MemoryTier,
    /// One entry per disk; none means memory only.
    #[serde(default)]
    pub disk: Vec<DiskTier>,
    /// The directory of the node's journal; the first disk's `path` unless given.
    pub state_path: Option<PathBuf>,
    /// How it serves users from its store once it has been out of contact for longer than the lease.
    #[serde(default)]
    pub isolation: Isolation,
    /// How origins are reached.
    #[serde(default)]
    pub origin: OriginConfig,
    /// Connections of users and children at a time; those beyond it are answered 503.
    #[serde(default = "connections_max")]
    pub connections_max: u64,
    /// A file that gets one line of JSON for each request; none unless given.
    pub access_log: Option<PathBuf>,
    /// Seconds between answering on `/readyz` that the node is leaving and refusing new connections, when SIGTERM stops
    /// it: as long as a load balancer needs to notice.
    #[serde(default)]
    pub drain_grace_secs: u64,
}

/// How origins are reached.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct OriginConfig {
    /// PEM certificates of authorities that are trusted beside the public ones.
    pub ca_file: Option<PathBuf>,
    /// Name servers, `ADDRESS:PORT`, instead of those in `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
}

fn connections_max() -> u64 {
    crate::listener::CONNECTIONS_MAX
}

/// The memory tier.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryTier {
    /// Bytes of heads and bodies held at once.
    pub capacity_bytes: u64,
}

impl Default for MemoryTier {
    fn default() -> Self {
        Self { capacity_bytes: 256 << 20 }
    }
}

/// One directory of the disk tier.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DiskTier {
    /// The directory; created if missing.
    pub path: PathBuf,
    /// Bytes this directory may take.
    pub capacity_bytes: u64,
}

/// Why a configuration is not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a missing one, or a value of the wrong type; the text names it.
    #[error("{0}")]
    Parse(String),
    /// A value that cannot work.
    #[error("`{field}`: {problem}")]
    Field {
        /// The key as written in the file.
        field: &'static str,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

impl NodeConfig {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<NodeConfig, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        NodeConfig::parse(&text)
    }

    /// Reads and checks the text of a file.
    pub fn parse(text: &str) -> Result<NodeConfig, ConfigError> {
        let config: NodeConfig =
            toml::from_str(text).map_err(|error| ConfigError::Parse(error.to_string().trim_end().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    /// Checks that the values can work together; [`crate::Node::start`] does too.
    pub fn check(&self) -> Result<(), ConfigError> {
        base_url("advertise_url", &self.advertise_url, &["http", "https"])?;
        base_url("control_url", &self.control_url, &["https"])?;
        let bad = |field, problem: &str| Err(ConfigError::Field { field, problem: problem.to_owned() });
        if self.listen_tls.is_some_and(|tls| tls == self.listen && tls.port() != 0) {
            return bad("listen_tls", "is `listen` again, expected an address of its own");
        }
        let listens = [("`listen`", Some(self.listen)), ("`listen_tls`", self.listen_tls)];
        for (key, other) in listens {
            if other == Some(self.admin_listen) && self.admin_listen.port() != 0 {
                return bad("admin_listen", &format!("is the same as {key}, expected an address of its own"));
            }
        }
        let mut paths = vec![
            ("join_token_file", Some(&self.join_token_file)),
            ("state_path", self.state_path.as_ref()),
            ("access_log", self.access_log.as_ref()),
            ("origin.ca_file", self.origin.ca_file.as_ref()),
        ];
        paths.extend(self.disk.iter().map(|disk| ("disk.path", Some(&disk.path))));
        if let Some((field, _)) = paths.iter().find(|(_, path)| path.is_some_and(|path| path.as_os_str().is_empty())) {
            return bad(field, "is empty, expected a path");
        }
        if let Some(disk) = self.disk.iter().find(|disk| disk.capacity_bytes < store::DISK_BYTES_MIN) {
            let (bytes, least) = (disk.capacity_bytes, store::DISK_BYTES_MIN);
            return bad("disk.capacity_bytes", &format!("is {bytes}, expected at least {least}"));
        }
        if self.memory.capacity_bytes == 0 {
            return bad("memory.capacity_bytes", "is 0, expected some bytes of memory");
        }
        if self.connections_max == 0 {
            return bad("connections_max", "is 0, expected room for some connections");
        }
        if self.drain_grace_secs > DRAIN_GRACE_SECS_MAX {
            return bad(
                "drain_grace_secs",
                "is more than an hour, expected the time that a load balancer needs to notice",
            );
        }
        if self.disk.is_empty() && self.state_path.is_none() {
            return bad(
                "state_path",
                "is missing, expected a directory, for there is no [[disk]] to keep the node's state on",
            );
        }
        if self.disk.iter().enumerate().any(|(at, disk)| self.disk.iter().take(at).any(|other| other.path == disk.path))
        {
            return bad("disk.path", "is given twice, expected another directory for each disk");
        }
        Ok(())
    }

    /// The directory of the node's journal.
    pub(crate) fn state_dir(&self) -> PathBuf {
        let disk = || self.disk.first().map(|disk| disk.path.clone());
        self.state_path.clone().or_else(disk).unwrap_or_else(|| PathBuf::from("."))
    }

    pub(crate) fn store(&self) -> store::Config {
        let disks = self
            .disk
            .iter()
            .map(|disk| store::DiskConfig { path: disk.path.clone(), capacity_bytes: disk.capacity_bytes });
        store::Config {
            memory_bytes: self.memory.capacity_bytes,
            disks: disks.collect(),
            segment_bytes: store::SEGMENT_BYTES_DEFAULT,
        }
    }
}

/// Checks for a URL with a scheme in `schemes` and a host, and nothing after the port.
fn base_url(field: &'static str, text: &str, schemes: &[&str]) -> Result<(), ConfigError> {
    let good = url::Url::parse(text).is_ok_and(|url| {
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        schemes.contains(&url.scheme())
            && url.has_host()
            && bare
            && url.username().is_empty()
            && url.password().is_none()
    });
    // The port must be given: the default of the scheme is not ours.
    let port = text.trim_end_matches('/').rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if good && port.is_some() {
        return Ok(());
    }
    let shown: String = text.chars().take(100).collect();
    Err(ConfigError::Field { field, problem: format!("is `{shown}`, expected {}://HOST:PORT", schemes.join(" or ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
name = "cn-1-l1"
pop = "cn-1"
tier = "L1"
listen = "127.0.0.1:9701"
advertise_url = "http://127.0.0.1:9701"
admin_listen = "127.0.0.1:9721"
control_url = "https://127.0.0.1:9681"
join_token_file = "/etc/warmfront/join.token"
"#;

    #[test]
    fn small_file_has_the_documented_defaults() {
        let config = NodeConfig::parse(&format!(
            "{SMALL}\n[[disk]]\npath = \"/var/cache/warmfront\"\ncapacity_bytes = 1000000\n"
        ))
        .unwrap();
        assert_eq!((config.memory.capacity_bytes, config.isolation), (256 << 20, Isolation::Revalidate));
        assert_eq!((config.connections_max, config.access_log.as_deref(), config.drain_grace_secs), (20_000, None, 0));
        assert_eq!(config.state_dir(), PathBuf::from("/var/cache/warmfront"), "state lies on the first disk");
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        let disk = "[[disk]]\npath = \"/a\"\ncapacity_bytes = 131072\n";
        let cases = [
            // what is changed                                         named in the error
            (format!("{SMALL}lease_secs = 3\n{disk}"), "lease_secs"), // the control plane decides it
            (format!("{SMALL}{disk}capacity = 3\n"), "capacity"),
            (SMALL.replace("tier = \"L1\"", "tier = \"L9\"") + disk, "L9"),
            (SMALL.replace("name = \"cn-1-l1\"", "name = \"CN 1\"") + disk, "lower-case letters"),
            (SMALL.replace("https://127.0.0.1:9681", "http://127.0.0.1:9681") + disk, "`control_url`"),
            (SMALL.replace("http://127.0.0.1:9701", "127.0.0.1:9701") + disk, "`advertise_url`"),
            (SMALL.replace("http://127.0.0.1:9701", "http://127.0.0.1:9701/x") + disk, "`advertise_url`"),
            (SMALL.replace("http://127.0.0.1:9701", "http://127.0.0.1") + disk, "`advertise_url`"),
            (SMALL.replace("https://127.0.0.1:9681", "https://[::1]") + disk, "`control_url`"),
            (SMALL.replace("127.0.0.1:9721", "127.0.0.1:9701") + disk, "`admin_listen`"),
            (SMALL.replace("/etc/warmfront/join.token", "") + disk, "`join_token_file`"),
            (format!("{SMALL}state_path = \"\"\n{disk}"), "`state_path`"),
            (format!("{SMALL}access_log = \"\"\n{disk}"), "`access_log`"),
            (format!("{SMALL}{disk}[origin]\nca_file = \"\"\n"), "`origin.ca_file`"),
            (SMALL.to_owned() + &disk.replace("/a", ""), "`disk.path`"),
            (SMALL.to_owned() + &disk.replace("131072", "131071"), "`disk.capacity_bytes`"),
            (format!("{SMALL}{disk}{disk}"), "`disk.path`"),
            (format!("{SMALL}[memory]\ncapacity_bytes = 0\n{disk}"), "`memory.capacity_bytes`"),
            (
                SMALL.replace(
                    "listen = \"127.0.0.1:9701\"",
                    "listen = \"127.0.0.1:9701\"\nlisten_tls = \"127.0.0.1:9701\"",
                ) + disk,
                "`listen_tls`",
            ),
            (format!("{SMALL}connections_max = 0\n{disk}"), "`connections_max`"),
            (format!("{SMALL}drain_grace_secs = 3601\n{disk}"), "`drain_grace_secs`"),
            (SMALL.to_owned(), "`state_path`"),
            (SMALL.replace("join_token_file", "join_token_fil") + disk, "join_token_fil"),
        ];
        for (text, named) in cases {
            let error = NodeConfig::parse(&text).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }
}
