//! The operator's commands: `account`, `user`, `policy`, `key`, `audit`, `pop`, `node`, `name`, `log`, each on the
//! state database itself (`--state URL`).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use control::state::accounts::AccountStatus;
use control::{Operator, StateUrl};
use model::Coverage;
use serde_json::json;

use crate::clock::SystemClock;
use crate::output::Output;

mod access;
mod audit;

pub(crate) use access::{KeyCommand, PolicyCommand, UserCommand, key, policy, user};
pub(crate) use audit::{AuditArgs, audit};

/// Where the state is stored.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// The control plane's database: sqlite:PATH or postgres://USER@HOST/DATABASE, with the password in PGPASSWORD or PGPASSFILE
    #[arg(long, value_name = "URL")]
    state: String,
    /// The file with the key that seals secrets [default: secret.key next to a SQLite file]
    #[arg(long, value_name = "PATH")]
    secret_key_file: Option<PathBuf>,
}

impl StateArgs {
    async fn open(&self) -> anyhow::Result<Operator> {
        let url = StateUrl::parse(&self.state)?;
        Ok(Operator::open(&url, self.secret_key_file.as_deref(), Arc::new(SystemClock)).await?)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Make an account
    Create {
        name: String,
        /// The profile of limits and error texts: cdn-2024, vod-2021, open, ...
        #[arg(long, default_value = "cdn-2024")]
        profile: String,
        /// Limits that differ from the profile's, such as preload=5000,url=20000,dir=200,queue=100000,action_qps=200,pin_bytes=5000000000
        #[arg(long, value_delimiter = ',', value_name = "NAME=N")]
        quota: Vec<String>,
        /// Requests a second over all actions [default: any number]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        qps: u64,
        /// active, not-opened, suspended or overdue; one that is not opened opens the service itself, by OpenCdnService
        #[arg(long, default_value = "active")]
        status: AccountStatus,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Set what an account may do
    Set {
        name: String,
        /// active, not-opened, suspended or overdue
        #[arg(long)]
        status: AccountStatus,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show all accounts
    List {
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NameCommand {
    /// Block a domain: it is switched off and cannot be added or changed
    Block {
        /// A domain's name; with a leading dot also all below it
        name: String,
        /// The reason that its owner is shown
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Let go of a name; its domain stays off until its owner starts it
    Unblock {
        /// As it was blocked
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show all names that are blocked
    List {
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Give the log a new identity after the database was restored from a backup, before a control plane runs on it again
    Renew {
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Region {
    Domestic,
    Overseas,
    /// One place that serves everybody
    Global,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PopCommand {
    /// Set a POP: its region and the parent of each of its tiers
    Set {
        name: String,
        #[arg(long)]
        region: Region,
        /// TIER=POP/TIER, such as L1=cn-1/L2; a tier without a parent asks the origin
        #[arg(long = "parent", value_name = "TIER=POP/TIER")]
        parents: Vec<String>,
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Invitations for nodes
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Show all members
    List {
        #[command(flatten)]
        state: StateArgs,
    },
    /// Take the membership from a node: it stops serving
    Remove {
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make an invitation, good for a day: the content of a node's join_token_file
    Create {
        #[command(flatten)]
        state: StateArgs,
    },
}

pub(crate) async fn account(command: &AccountCommand, output: Output) -> anyhow::Result<()> {
    match command {
        AccountCommand::Create { name, profile, quota, qps, status, state } => {
            let quota = quota.iter().map(|text| limit(text)).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
            let operator = state.open().await?;
            operator.create_account(name, profile, quota, *qps).await?;
            if *status != AccountStatus::Active {
                operator.set_account_status(name, *status).await?;
            }
            operator.close().await;
            output.object(&json!({ "account": name, "profile": profile, "status": status }))
        }
        AccountCommand::Set { name, status, state } => {
            let operator = state.open().await?;
            operator.set_account_status(name, *status).await?;
            operator.close().await;
            output.object(&json!({ "account": name, "status": status }))
        }
        AccountCommand::List { state } => {
            let operator = state.open().await?;
            let accounts = operator.accounts().await?;
            operator.close().await;
            let rows: Vec<_> = accounts
                .iter()
                .map(|account| {
                    let (profile, status, quota) = (&account.profile, account.status, &account.quota);
                    // A table needs a word for an absent limit.
                    let qps =
                        if output == Output::Table && account.qps == 0 { json!("any") } else { json!(account.qps) };
                    json!({ "account": account.name, "profile": profile, "status": status, "quota": quota, "qps": qps })
                })
                .collect();
            output.rows(&["account", "profile", "status", "quota", "qps"], &rows)
        }
    }
}

fn limit(text: &str) -> anyhow::Result<(String, u64)> {
    let (name, number) = text.split_once('=').with_context(|| format!("`--quota {text}`: expected NAME=N"))?;
    let number = number.parse().with_context(|| format!("`--quota {text}`: expected a number behind `=`"))?;
    Ok((name.to_owned(), number))
}

pub(crate) async fn pop(command: &PopCommand, output: Output) -> anyhow::Result<()> {
    let PopCommand::Set { name, region, parents, state } = command;
    let region = match region {
        Region::Domestic => Coverage::Domestic,
        Region::Overseas => Coverage::Overseas,
        Region::Global => Coverage::Global,
    };
    let operator = state.open().await?;
    let unknown = operator.set_pop(name, region, parents).await?;
    operator.close().await;
    for parent in unknown {
        eprintln!("warmfront: there is no POP `{parent}` yet, which is named as a parent");
    }
    output.object(&json!({ "pop": name }))
}

pub(crate) async fn node(command: &NodeCommand, output: Output) -> anyhow::Result<()> {
    match command {
        NodeCommand::Token { command: TokenCommand::Create { state } } => {
            let operator = state.open().await?;
            let token = operator.create_join_token().await?;
            operator.close().await;
            if output == Output::Table {
                // Alone on its line, so that it can be redirected into a file.
                return Ok(writeln!(std::io::stdout(), "{}", token.as_str())?);
            }
            output.object(&json!({ "token": token.as_str() }))
        }
        NodeCommand::List { state } => {
            let operator = state.open().await?;
            let nodes = operator.nodes().await?;
            operator.close().await;
            let rows: Vec<_> = nodes.iter().map(|node| json!(node)).collect();
            output.rows(&["name", "pop", "tier", "advertise_url", "acknowledged", "head", "program"], &rows)
        }
        NodeCommand::Remove { name, state } => {
            let operator = state.open().await?;
            let removed = operator.remove_node(name).await?;
            operator.close().await;
            if !removed {
                bail!("no node `{name}`");
            }
            output.object(&json!({ "removed": name }))
        }
    }
}

pub(crate) async fn name(command: &NameCommand, output: Output) -> anyhow::Result<()> {
    match command {
        NameCommand::Block { name, reason, state } => {
            let operator = state.open().await?;
            operator.block_name(name, reason).await?;
            operator.close().await;
            output.object(&json!({ "name": name, "blocked": reason }))
        }
        NameCommand::Unblock { name, state } => {
            let operator = state.open().await?;
            let was_blocked = operator.unblock_name(name).await?;
            operator.close().await;
            if !was_blocked {
                bail!("`{name}` is not blocked");
            }
            output.object(&json!({ "unblocked": name }))
        }
        NameCommand::List { state } => {
            let operator = state.open().await?;
            let names = operator.blocked_names().await?;
            operator.close().await;
            let rows: Vec<_> = names.iter().map(|(name, reason)| json!({ "name": name, "blocked": reason })).collect();
            output.rows(&["name", "blocked"], &rows)
        }
    }
}

pub(crate) async fn log(command: &LogCommand, output: Output) -> anyhow::Result<()> {
    let LogCommand::Renew { state } = command;
    let operator = state.open().await?;
    let log = operator.renew_log().await?;
    operator.close().await;
    output.object(&json!({ "log": log.0 }))
}
