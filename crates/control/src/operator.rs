//! The operator's verbs: accounts, users, keys, policies, POPs, nodes and blocked names, executed directly on the
//! database. Write access to it is enough, no key is needed; the audit log records what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use model::{Clock, Coverage, Domain, DomainName, Entry, Knowledge, LogId, NodeName, Pop, PopName, Revision, Tier};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::config::{ConfigError, StateUrl};
use crate::seal::{Seal, SealError, random_text};
use crate::state::accounts::{Account, AccountError, AccountStatus};
use crate::state::audit::{self, Record};
use crate::state::domains::{Doing, DomainError};
use crate::state::identity::{Identity, IdentityError};
use crate::state::nodes::NodeRow;
use crate::state::{State, StateError, millis};

mod access;

/// The longest name of an account, in bytes.
const ACCOUNT_BYTES_MAX: usize = 64;

/// The product in records of operators' actions.
const OPERATOR: &str = "operator";

/// How long an invitation is valid.
const TOKEN_TTL: Duration = Duration::from_secs(86_400);

/// The prefix of a join token, before its encoded part.
const TOKEN_PREFIX: &str = "wfjoin1.";

/// Why an operator's verb failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// An argument that cannot work.
    #[error("`{argument}`: {problem}")]
    Argument {
        /// Which.
        argument: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The address of the state.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Accounts and keys.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The identity of the control plane.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Domains.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// The sealing key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The longest reason of a block, in bytes; owners read it.
const REASON_BYTES_MAX: usize = 200;

/// How often a block is tried while owners change the affected domains.
const BLOCK_ATTEMPTS_MAX: usize = 10;

/// An operator with access to the database.
pub struct Operator {
    state: State,
    seal: Seal,
    identity: Identity,
    clock: Arc<dyn Clock>,
}

/// A key as it is shown, once.
pub struct ShownKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: Zeroizing<String>,
}

/// A member as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The POP it stands in.
    pub pop: String,
    /// Its tier.
    pub tier: String,
    /// Where children reach it.
    pub advertise_url: String,
    /// The highest revision it acknowledged.
    pub acknowledged: u64,
    /// The head of the log.
    pub head: u64,
    /// Version of its program.
    pub program: String,
}

#[derive(Serialize)]
struct Token<'a> {
    id: &'a str,
    secret: &'a str,
    ca: &'a str,
}

impl Operator {
    /// Opens the state; creates it, its sealing key and its identity if there is none.
    pub async fn open(
        url: &StateUrl,
        secret_key_file: Option<&Path>,
        clock: Arc<dyn Clock>,
    ) -> Result<Operator, OperatorError> {
        let key_path = url.secret_key_path(secret_key_file)?;
        let state = State::open(url).await?;
        let seal = state.seal(&key_path).await?;
        Operator::over(state, seal, clock).await
    }

    /// An operator over an open state.
    pub async fn over(state: State, seal: Seal, clock: Arc<dyn Clock>) -> Result<Operator, OperatorError> {
        let identity = state.identity(&seal).await?;
        Ok(Operator { state, seal, identity, clock })
    }

    fn now_ms(&self) -> u64 {
        millis(self.clock.now())
    }

    /// Does `done`, with a record in the audit log that is begun before it.
    async fn recorded<T>(
        &self,
        verb: &str,
        account: &str,
        detail: &[(&str, &str)],
        done: impl Future<Output = Result<T, OperatorError>>,
    ) -> Result<T, OperatorError> {
        let record = Record {
            at_ms: self.now_ms(),
            request: uuid::Uuid::new_v4().to_string().to_uppercase(),
            account: account.to_owned(),
            product: OPERATOR.to_owned(),
            action: verb.to_owned(),
            detail: detail.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            outcome: audit::BEGUN.to_owned(),
            ..Record::default()
        };
        let id = self.state.begin_record(&record).await?;
        let done = done.await;
        let outcome = done.as_ref().map_or_else(ToString::to_string, |_| audit::OK.to_owned());
        if let Err(error) = self.state.end_record(id, &outcome, self.now_ms()).await {
            // The change stands; its record goes on saying `begun`.
            tracing::warn!(error = &error as &dyn std::error::Error, "the outcome was not written to the audit log");
        }
        done
    }

    /// Creates an account. `quota` overrides limits of the profile by name.
    pub async fn create_account(
        &self,
        name: &str,
        profile: &str,
        quota: BTreeMap<String, u64>,
        qps: u64,
    ) -> Result<(), OperatorError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !(1..=ACCOUNT_BYTES_MAX).contains(&name.len()) || !name.bytes().all(good) {
            let problem = format!("expected letters, digits, `-`, `_` and `.`, at most {ACCOUNT_BYTES_MAX}");
            return Err(OperatorError::Argument { argument: "NAME", problem });
        }
        crate::limits::check(profile, &quota)
            .map_err(|(argument, problem)| OperatorError::Argument { argument, problem })?;
        let account =
            Account { name: name.to_owned(), profile: profile.to_owned(), quota, qps, status: AccountStatus::Active };
        let made = async { Ok(self.state.create_account(&account, self.now_ms()).await?) };
        self.recorded("account create", name, &[("Profile", profile)], made).await
    }

    /// Sets what an account may do from now on.
    pub async fn set_account_status(&self, name: &str, status: AccountStatus) -> Result<(), OperatorError> {
        let set = async { Ok(self.state.set_account_status(name, status).await?) };
        self.recorded("account set", name, &[("Status", &status.to_string())], set).await
    }

    /// Every account.
    pub async fn accounts(&self) -> Result<Vec<Account>, OperatorError> {
        Ok(self.state.accounts().await?)
    }

    /// Creates or replaces a POP. Each parent is `TIER=POP/TIER`; parents that do not exist yet are returned.
    pub async fn set_pop(
        &self,
        name: &str,
        region: Coverage,
        parents: &[String],
    ) -> Result<BTreeSet<PopName>, OperatorError> {
        let bad = |argument, problem: String| OperatorError::Argument { argument, problem };
        let name = PopName::parse(name).map_err(|error| bad("NAME", error.to_string()))?;
        let mut pop = Pop { name, region, parents: BTreeMap::new() };
        for text in parents {
            let (tier, parent) = parse_parent(text)
                .ok_or_else(|| bad("--parent", format!("`{text}`: expected TIER=POP/TIER, such as L1=cn-1/L2")))?;
            if parent.tier <= tier {
                return Err(bad("--parent", format!("`{text}`: a parent's tier lies nearer the origin")));
            }
            pop.parents.insert(tier, parent);
        }
        let name = pop.name.to_string();
        let set = async {
            let (_, known) = self.state.knowledge().await?;
            let there = |name: &PopName| *name == pop.name || known.topology.pops.contains_key(name);
            let unknown = pop.parents.values().map(|parent| parent.pop.clone()).filter(|name| !there(name)).collect();
            if known.topology.pops.get(&pop.name) != Some(&pop) {
                self.state.append(&[Entry::Pop(pop)]).await?;
            }
            Ok(unknown)
        };
        self.recorded("pop set", "", &[("Pop", &name)], set).await
    }

    /// Creates an invitation for nodes, valid for a day: the content of a `join_token_file`.
    pub async fn create_join_token(&self) -> Result<Zeroizing<String>, OperatorError> {
        let (id, secret) = (random_text(12), Zeroizing::new(random_text(40)));
        let expires_ms = self.now_ms() + TOKEN_TTL.as_millis() as u64;
        let made = async { Ok(self.state.create_join_token(&id, &secret, expires_ms).await?) };
        self.recorded("node token create", "", &[("Token", &id)], made).await?;
        let token = Token { id: &id, secret: &secret, ca: &self.identity.authority };
        let json = Zeroizing::new(serde_json::to_vec(&token).expect("texts have no failing serialiser"));
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&*json);
        Ok(Zeroizing::new(format!("{TOKEN_PREFIX}{encoded}")))
    }

    /// Every member.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, OperatorError> {
        let (head, known) = self.state.knowledge().await?;
        let rows = self.state.nodes().await?;
        Ok(rows.iter().filter_map(|row| node_view(row, &known, head)).collect())
    }

    /// Removes a node's membership; returns whether it had one.
    pub async fn remove_node(&self, name: &str) -> Result<bool, OperatorError> {
        let name = NodeName::parse(name)
            .map_err(|error| OperatorError::Argument { argument: "NAME", problem: error.to_string() })?;
        let removed = async { Ok(self.state.remove_node(&name).await?) };
        self.recorded("node remove", "", &[("Node", name.as_str())], removed).await
    }

    /// Gives the log a new identity, which every restore of the database from a backup needs before a control plane
    /// starts on it: what was logged since the backup is lost, and nodes that applied it must forget what they know.
    /// Nodes get a new credential to believe each other by, so that a removed one is believed no longer.
    pub async fn renew_log(&self) -> Result<LogId, OperatorError> {
        self.recorded("log renew", "", &[], async { Ok(self.state.renew_log(&self.seal).await?) }).await
    }

    /// Blocks a name, and with a leading dot all names below it: its domain is switched off, and nobody may add or
    /// change it. Owners read the reason.
    pub async fn block_name(&self, name: &str, reason: &str) -> Result<(), OperatorError> {
        if !(1..=REASON_BYTES_MAX).contains(&reason.len()) || reason.chars().any(char::is_control) {
            let problem = format!("expected 1 to {REASON_BYTES_MAX} printable bytes");
            return Err(OperatorError::Argument { argument: "--reason", problem });
        }
        self.set_blocked(name, Some(reason)).await.map(|_| ())
    }

    /// Unblocks a name; returns whether it was blocked. Its domain stays off until its owner starts it.
    pub async fn unblock_name(&self, name: &str) -> Result<bool, OperatorError> {
        self.set_blocked(name, None).await
    }

    /// Names that are blocked, each with the reason.
    pub async fn blocked_names(&self) -> Result<BTreeMap<String, String>, OperatorError> {
        Ok(self.state.blocked().await?)
    }

    async fn set_blocked(&self, name: &str, reason: Option<&str>) -> Result<bool, OperatorError> {
        let name = DomainName::parse(name)
            .map_err(|error| OperatorError::Argument { argument: "NAME", problem: error.to_string() })?;
        for _ in 1..BLOCK_ATTEMPTS_MAX {
            match self.try_set_blocked(&name, reason).await {
                // An owner changed one of the domains meanwhile.
                Err(OperatorError::Domain(DomainError::Changed)) => {}
                done => return done,
            }
        }
        self.try_set_blocked(&name, reason).await
    }

    async fn try_set_blocked(&self, name: &DomainName, reason: Option<&str>) -> Result<bool, OperatorError> {
        let rows = self.state.domains().await?;
        let (_, known) = self.state.knowledge().await?;
        let concerned = |domain: &DomainName| domain == name || (name.is_wildcard() && name.serves(domain.as_str()));
        let there = rows.iter().filter(|row| row.doing != Doing::Deleting && concerned(&row.name));
        let there = there.filter_map(|row| {
            let domain = known.domain(row.name.as_str())?;
            Some((Domain { online: domain.online && reason.is_none(), ..domain.clone() }, row.revision))
        });
        let there = there.collect();
        let set = async { Ok(self.state.set_blocked(name, reason, there, self.now_ms()).await?) };
        let verb = if reason.is_some() { "name block" } else { "name unblock" };
        self.recorded(verb, "", &[("Name", name.as_str())], set).await
    }

    /// Closes the database.
    pub async fn close(self) {
        self.state.close().await;
    }
}

fn parse_parent(text: &str) -> Option<(Tier, model::Parent)> {
    let (tier, parent) = text.split_once('=')?;
    let (pop, parent_tier) = parent.split_once('/')?;
    Some((tier.parse().ok()?, model::Parent { pop: PopName::parse(pop).ok()?, tier: parent_tier.parse().ok()? }))
}

fn node_view(row: &NodeRow, known: &Knowledge, head: Revision) -> Option<NodeView> {
    let member = known.topology.members.get(&row.name)?;
    Some(NodeView {
        name: row.name.to_string(),
        pop: member.pop.to_string(),
        tier: member.tier.to_string(),
        advertise_url: member.advertise_url.clone(),
        acknowledged: row.acked.0,
        head: head.0,
        program: row.program.clone(),
    })
}
