//! `control.toml`: the settings that a control plane starts with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::ownership;

/// Settings of one control plane. Unknown keys are refused by name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// Where the API, health and metrics are served.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where nodes connect.
    #[serde(default = "default_link_listen")]
    pub link_listen: SocketAddr,
    /// `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`.
    pub state: StateUrl,
    /// The key that seals secrets at rest; created with mode 0600 if missing. By default beside the database, for
    /// SQLite.
    pub secret_key_file: Option<PathBuf>,
    /// How long nodes may trust their stores after a contact, in seconds; if absent, the value in the log stays.
    pub lease_secs: Option<u64>,
    /// Added to the lease before a refresh is complete without a node, in seconds. It covers the drift of clocks over
    /// one lease, and the longest pause between judging a header and sending it. A node rechecks headers it could not
    /// send every quarter of a second, so a whole second is the least that leaves room for a busy machine.
    #[serde(default = "default_margin_secs")]
    pub margin_secs: u64,
    /// How long a prefetch may take before its unfinished jobs fail, in seconds.
    #[serde(default = "default_prefetch_deadline_secs")]
    pub prefetch_deadline_secs: u64,
    /// How long ended tasks are kept and can be queried, in days.
    #[serde(default = "default_task_history_days")]
    pub task_history_days: u64,
    /// How long the audit log is kept, in days.
    #[serde(default = "default_audit_history_days")]
    pub audit_history_days: u64,
    /// Whether a line of `ObjectPath` that was escaped twice is unescaped once, as the vendor's own script requires.
    #[serde(default)]
    pub unescape_paths: bool,
    /// The name servers to ask for proofs of names; if empty, those of `/etc/resolv.conf`.
    #[serde(default)]
    pub resolvers: Vec<SocketAddr>,
    /// Whether a verification file may be fetched from an address that is not globally reachable.
    #[serde(default)]
    pub verify_private_addresses: bool,
    /// Whether only names that accounts have proven to own may become domains.
    #[serde(default)]
    pub verify_domain_owners: bool,
    /// The port of verification files: 80, and not configurable; tests use another.
    #[serde(skip, default = "default_verify_port")]
    pub verify_port: u16,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9680))
}

fn default_link_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9681))
}

fn default_margin_secs() -> u64 {
    1
}

fn default_prefetch_deadline_secs() -> u64 {
    1800
}

fn default_verify_port() -> u16 {
    ownership::PORT
}

fn default_task_history_days() -> u64 {
    aliyun::TASK_HISTORY_DAYS
}

/// Half a year: long enough for investigations, and room for 55,000 changes a day below the log's own bound.
fn default_audit_history_days() -> u64 {
    180
}

/// The accepted ages of the audit log, in days: up to ten years.
const AUDIT_HISTORY_DAYS: std::ops::RangeInclusive<u64> = 1..=3_653;

/// The accepted task histories, in days: clients rely on the vendor's three, and beyond a year an archive is the better
/// tool.
const TASK_HISTORY_DAYS: std::ops::RangeInclusive<u64> = aliyun::TASK_HISTORY_DAYS..=366;

/// The accepted leases: shorter ones expire during a pause of the machine.
const LEASE_SECS: std::ops::RangeInclusive<u64> = 2..=model::log::LEASE_SECS_MAX;

/// The accepted margins: shorter ones do not cover the interval at which a node rechecks waiting headers, longer ones
/// delay refreshes without need.
const MARGIN_SECS: std::ops::RangeInclusive<u64> = 1..=600;

/// The accepted deadlines, in seconds: up to a week.
const PREFETCH_DEADLINE_SECS: std::ops::RangeInclusive<u64> = 1..=7 * 86_400;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not TOML, an unknown key, or a value of the wrong type: line, key and problem, see [`without_values`].
    #[error("{0}")]
    Toml(String),
    /// A value that cannot work.
    #[error("`{key}`: expected {expected}, found {found}")]
    Value {
        /// The key in the file.
        key: &'static str,
        /// What is accepted.
        expected: String,
        /// What was found; never a secret.
        found: String,
    },
}

impl ControlConfig {
    /// Reads `control.toml`.
    pub fn parse(text: &str) -> Result<ControlConfig, ConfigError> {
        let config: ControlConfig =
            toml::from_str(text).map_err(|error| ConfigError::Toml(without_values(text, &error)))?;
        let within = |key: &'static str, value: u64, range: std::ops::RangeInclusive<u64>| {
            if range.contains(&value) {
                return Ok(());
            }
            let unit = if key.ends_with("_days") { "days" } else { "seconds" };
            let expected = format!("{} to {} {unit}", range.start(), range.end());
            Err(ConfigError::Value { key, expected, found: value.to_string() })
        };
        if let Some(lease) = config.lease_secs {
            within("lease_secs", lease, LEASE_SECS)?;
        }
        within("margin_secs", config.margin_secs, MARGIN_SECS)?;
        within("prefetch_deadline_secs", config.prefetch_deadline_secs, PREFETCH_DEADLINE_SECS)?;
        within("task_history_days", config.task_history_days, TASK_HISTORY_DAYS)?;
        within("audit_history_days", config.audit_history_days, AUDIT_HISTORY_DAYS)?;
        if config.listen == config.link_listen && config.listen.port() != 0 {
            let (expected, found) = ("an address of its own".into(), "that of `listen`".into());
            return Err(ConfigError::Value { key: "link_listen", expected, found });
        }
        if config.secret_key_path()?.as_os_str().is_empty() {
            let (expected, found) = ("a path".into(), "nothing".into());
            return Err(ConfigError::Value { key: "secret_key_file", expected, found });
        }
        Ok(config)
    }

    /// The settings of a control plane on the SQLite file `path`, with defaults for everything else.
    pub fn over_sqlite(path: &Path) -> ControlConfig {
        ControlConfig {
            listen: default_listen(),
            link_listen: default_link_listen(),
            state: StateUrl(format!("sqlite:{}", path.display())),
            secret_key_file: None,
            lease_secs: None,
            margin_secs: default_margin_secs(),
            prefetch_deadline_secs: default_prefetch_deadline_secs(),
            task_history_days: default_task_history_days(),
            audit_history_days: default_audit_history_days(),
            unescape_paths: false,
            resolvers: Vec::new(),
            verify_private_addresses: false,
            verify_domain_owners: false,
            verify_port: default_verify_port(),
        }
    }

    /// The settings for reading calls.
    pub fn rules(&self) -> aliyun::Rules {
        aliyun::Rules { task_history_days: self.task_history_days, unescape_paths: self.unescape_paths }
    }

    /// The settings for proofs of names.
    pub(crate) fn owners(&self) -> ownership::Wanted {
        ownership::Wanted {
            resolvers: self.resolvers.clone(),
            private: self.verify_private_addresses,
            port: self.verify_port,
            required: self.verify_domain_owners,
        }
    }

    /// How long the audit log is kept.
    pub fn audit_history(&self) -> Duration {
        Duration::from_secs(self.audit_history_days * 86_400)
    }

    /// The path of the sealing key.
    pub fn secret_key_path(&self) -> Result<PathBuf, ConfigError> {
        self.state.secret_key_path(self.secret_key_file.as_deref())
    }

    /// The time added to the lease.
    pub fn margin(&self) -> Duration {
        Duration::from_secs(self.margin_secs)
    }

    /// How long a prefetch may take.
    pub fn prefetch_deadline(&self) -> Duration {
        Duration::from_secs(self.prefetch_deadline_secs)
    }
}

/// The problem with a file that may hold a password: line, key and message, without the line itself, which the error
/// would show.
pub fn without_values(text: &str, error: &toml::de::Error) -> String {
    let problem = error.message().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return problem };
    let line = before.matches('\n').count() + 1;
    let key = before.rsplit('\n').next().and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    // In a multi-line value, the text before a `=` is part of the value.
    let is_key = |text: &&str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    match key.filter(is_key) {
        Some(key) if !problem.contains(&format!("`{key}`")) => format!("line {line}: `{key}`: {problem}"),
        _ => format!("line {line}: {problem}"),
    }
}

/// The location of the state. May hold a password, so nothing of a PostgreSQL URL is shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StateUrl(String);

impl StateUrl {
    /// Reads `sqlite:PATH` or `postgres://...`.
    pub fn parse(text: &str) -> Result<StateUrl, ConfigError> {
        let sqlite = text.strip_prefix("sqlite:").is_some_and(|path| !path.is_empty());
        if sqlite || text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(StateUrl(text.to_owned()));
        }
        // If it is not a URL, a password may be anywhere in it.
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let scheme =
            scheme.filter(|scheme| scheme.len() < 30 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let found = scheme.map_or("neither".to_owned(), |scheme| format!("`{scheme}://`"));
        Err(ConfigError::Value { key: "state", expected: "`sqlite:PATH` or `postgres://...`".into(), found })
    }

    /// The path of the database file, if it is SQLite.
    pub fn sqlite_path(&self) -> Option<PathBuf> {
        self.0.strip_prefix("sqlite:").map(|path| PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
    }

    /// The whole URL including a password: for the database driver only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The path of the sealing key: `set`, or `secret.key` beside the SQLite file.
    pub fn secret_key_path(&self, set: Option<&Path>) -> Result<PathBuf, ConfigError> {
        if let Some(path) = set {
            return Ok(path.to_owned());
        }
        self.sqlite_path().map(|path| path.with_file_name("secret.key")).ok_or_else(|| ConfigError::Value {
            key: "secret_key_file",
            expected: "a path: a PostgreSQL database has no folder to keep it in".into(),
            found: "nothing".into(),
        })
    }
}

impl TryFrom<String> for StateUrl {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        StateUrl::parse(&text)
    }
}

impl std::fmt::Debug for StateUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.sqlite_path() {
            Some(_) => f.write_str(&self.0),
            None => f.write_str("postgres://***"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("state = \"sqlite:/x/c.db\"\n", None),
            ("state = \"postgres://u:p@h/d\"\nsecret_key_file = \"/k\"\n", None),
            ("state = \"postgres://u:p@h/d\"\n", Some("secret_key_file")),
            ("state = \"mysql://h/d\"\n", Some("sqlite:PATH")),
            ("state = \"sqlite:/x\"\nlisten_on = \"1\"\n", Some("listen_on")),
            ("listen = \"127.0.0.1:1\"\n", Some("state")),
            ("state = \"sqlite:/x\"\nlease_secs = 0\n", Some("lease_secs")),
            ("state = \"sqlite:/x\"\nlease_secs = 3601\n", Some("lease_secs")),
            ("state = \"sqlite:/x\"\nmargin_secs = 0\n", Some("margin_secs")),
            ("state = \"sqlite:/x\"\nmargin_secs = 2\n", None),
            ("state = \"sqlite:/x\"\nprefetch_deadline_secs = 0\n", Some("prefetch_deadline_secs")),
            ("state = \"sqlite:/x\"\ntask_history_days = 30\nunescape_paths = true\n", None),
            ("state = \"sqlite:/x\"\ntask_history_days = 2\n", Some("3 to 366 days")),
            ("state = \"sqlite:/x\"\naudit_history_days = 0\n", Some("1 to 3653 days")),
            ("state = \"sqlite:/x\"\nlisten = \"here\"\n", Some("listen")),
            ("state = \"sqlite:/x\"\nlink_listen = \"127.0.0.1:9680\"\n", Some("link_listen")),
            ("state = \"sqlite:/x\"\nlisten = \"127.0.0.1:0\"\nlink_listen = \"127.0.0.1:0\"\n", None),
            ("state = \"sqlite:/x\"\nsecret_key_file = \"\"\n", Some("secret_key_file")),
            ("state = \"sqlite:/x\"\nresolvers = [\"127.0.0.1:53\"]\nverify_domain_owners = true\n", None),
            ("state = \"sqlite:/x\"\nresolvers = [\"127.0.0.1\"]\n", Some("resolvers")),
            ("state = \"sqlite:/x\"\nverify_port = 81\n", Some("verify_port")),
        ];
        for (text, named) in cases {
            match (ControlConfig::parse(text), named) {
                (Ok(_), None) => {}
                (Err(error), Some(named)) => assert!(error.to_string().contains(named), "{text}: {error}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        }
    }

    #[test]
    fn password_is_not_shown() {
        let config = ControlConfig::parse("state = \"postgres://u:hunter2@h/d\"\nsecret_key_file = \"/k\"\n").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let cases = [
            // control.toml                                                            what is said
            ("listen = \"127.0.0.1:1\"\nstate = \"mysql://u:hunter2@h/d\"\n", "line 2: `state`: expected"),
            ("state = \"postgres:u:hunter2@h/d\"\n", "line 1: `state`"),
            ("state = \"hunter2@h/d://\"\n", "line 1: `state`"),
            ("state = postgres://u:hunter2@h/d\n", "line 1: `state`"),
            ("state = \"postgres://u:hunter2@h/d\n", "line 1: `state`"),
            ("state = \"\"\"\npostgres://u:hunter2@h/d?sslmode=off\"\"\" and\n", "line 2: "),
            ("state = [\"postgres://u:hunter2@h/d\"]\n", "line 1: `state`"),
            ("state = \"postgres://u:hunter2@h/d\" # \nstate = \"postgres://u:hunter2@h/d\"", "line 2"),
        ];
        for (text, said) in cases {
            let error = ControlConfig::parse(text).unwrap_err();
            let shown = error.to_string();
            assert!(std::error::Error::source(&error).is_none(), "it is said once");
            assert!(!shown.contains("hunter2") && shown.contains(said), "{text}: {shown}");
        }
    }
}
