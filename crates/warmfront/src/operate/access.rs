//! `user`, `policy` and `key`: permissions within an account.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use control::policy::{self, Policy};
use control::state::access::OwnPolicy;
use serde_json::{Value, json};

use super::StateArgs;
use super::audit::wall;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user, who may do nothing until a policy is attached
    Create {
        account: String,
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show the users of an account, what is attached to them, and their keys
    List {
        account: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Delete a user, who must have no keys left; policies stay, attached to it no more
    Delete {
        account: String,
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Attach a policy of the account's own, or a system's
    Attach {
        account: String,
        name: String,
        policy: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Take a policy away again
    Detach {
        account: String,
        name: String,
        policy: String,
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Put a policy in place of what has its name; users who have it may at once what it says
    Put {
        account: String,
        name: String,
        /// The policy, as JSON
        file: PathBuf,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show the policies of an account and those that every account has
    List {
        account: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show what a policy says, as JSON
    Show {
        account: String,
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Delete a policy, which must be attached to nobody
    Delete {
        account: String,
        name: String,
        #[command(flatten)]
        state: StateArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Give an account, or a user of it, an access key; its secret is shown once
    Create {
        account: String,
        /// Whose it is; without, the account's own, which may everything
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// What the key may be used for, at most, as JSON; without, all that its user or account may
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Show the keys of an account, without their secrets
    List {
        account: String,
        /// Only those of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Refuse what is signed by a key, and by sessions of it, until it is enabled
    Disable {
        id: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Let a key be used again
    Enable {
        id: String,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Delete a key, and with it all sessions and tokens that were made with it
    Delete {
        id: String,
        #[command(flatten)]
        state: StateArgs,
    },
}

pub(crate) async fn user(command: &UserCommand, output: Output) -> anyhow::Result<()> {
    match command {
        UserCommand::Create { account, name, state } => {
            let operator = state.open().await?;
            operator.create_user(account, name).await?;
            operator.close().await;
            output.object(&json!({ "account": account, "user": name }))
        }
        UserCommand::List { account, state } => {
            let operator = state.open().await?;
            let users = operator.users(account).await?;
            operator.close().await;
            let row = |user: &control::state::access::User| json!({ "user": user.name, "policies": user.policies, "keys": user.keys, "created": wall(user.created_ms) });
            output.rows(&["user", "policies", "keys", "created"], &users.iter().map(row).collect::<Vec<_>>())
        }
        UserCommand::Delete { account, name, state } => {
            let operator = state.open().await?;
            operator.delete_user(account, name).await?;
            operator.close().await;
            output.object(&json!({ "deleted": name }))
        }
        UserCommand::Attach { account, name, policy, state } => {
            let operator = state.open().await?;
            operator.attach(account, name, policy).await?;
            operator.close().await;
            output.object(&json!({ "user": name, "attached": policy }))
        }
        UserCommand::Detach { account, name, policy, state } => {
            let operator = state.open().await?;
            let was = operator.detach(account, name, policy).await?;
            operator.close().await;
            if !was {
                bail!("`{policy}` is not attached to `{name}`");
            }
            output.object(&json!({ "user": name, "detached": policy }))
        }
    }
}

pub(crate) async fn policy(command: &PolicyCommand, output: Output) -> anyhow::Result<()> {
    match command {
        PolicyCommand::Put { account, name, file, state } => {
            let policy = read(file)?;
            let operator = state.open().await?;
            operator.put_policy(account, name, &policy).await?;
            operator.close().await;
            output.object(&json!({ "account": account, "policy": name }))
        }
        PolicyCommand::List { account, state } => {
            let operator = state.open().await?;
            let own = operator.policies(account).await?;
            let users = operator.users(account).await?;
            operator.close().await;
            let system = policy::system_names().map(|name| {
                let has = users.iter().filter(|user| user.policies.iter().any(|policy| policy == name));
                json!({ "policy": name, "kind": "system", "users": has.map(|user| &user.name).collect::<Vec<_>>(), "changed": Value::Null })
            });
            let own = own.iter().map(|one: &OwnPolicy| {
                json!({ "policy": one.name, "kind": "own", "users": one.users, "changed": wall(one.changed_ms) })
            });
            output.rows(&["policy", "kind", "users", "changed"], &own.chain(system).collect::<Vec<_>>())
        }
        PolicyCommand::Show { account, name, state } => {
            let document = match policy::system(name) {
                Some(policy) => policy.document(),
                None => {
                    let operator = state.open().await?;
                    let own = operator.policies(account).await?;
                    operator.close().await;
                    let found = own.into_iter().find(|policy| policy.name == *name);
                    found.with_context(|| format!("no policy `{name}`"))?.policy.document()
                }
            };
            // The document itself, whatever the output format, so that it can be redirected into a file.
            Output::Json.object(&serde_json::from_str(&document)?)
        }
        PolicyCommand::Delete { account, name, state } => {
            let operator = state.open().await?;
            operator.delete_policy(account, name).await?;
            operator.close().await;
            output.object(&json!({ "deleted": name }))
        }
    }
}

pub(crate) async fn key(command: &KeyCommand, output: Output) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { account, user, policy, state } => {
            let policy = policy.as_deref().map(read).transpose()?;
            let operator = state.open().await?;
            let key = operator.create_key_of(account, user.as_deref(), policy.as_ref()).await?;
            operator.close().await;
            output.object(&json!({ "access_key_id": key.id, "access_key_secret": key.secret.as_str() }))
        }
        KeyCommand::List { account, user, state } => {
            let operator = state.open().await?;
            let keys = operator.keys(account).await?;
            operator.close().await;
            let wanted = keys.iter().filter(|key| user.is_none() || key.user == *user);
            let rows: Vec<Value> = wanted
                .map(|key| {
                    let status = if key.active { "active" } else { "disabled" };
                    let policy = key.policy.as_ref().map(Policy::document).map(Value::String);
                    json!({ "access_key_id": key.id, "user": key.user, "status": status, "policy": policy, "created": wall(key.created_ms) })
                })
                .collect();
            output.rows(&["access_key_id", "user", "status", "policy", "created"], &rows)
        }
        KeyCommand::Disable { id, state } => switch(id, false, state, output).await,
        KeyCommand::Enable { id, state } => switch(id, true, state, output).await,
        KeyCommand::Delete { id, state } => {
            let operator = state.open().await?;
            operator.delete_key(id).await?;
            operator.close().await;
            output.object(&json!({ "deleted": id }))
        }
    }
}

async fn switch(id: &str, active: bool, state: &StateArgs, output: Output) -> anyhow::Result<()> {
    let operator = state.open().await?;
    operator.set_key_active(id, active).await?;
    operator.close().await;
    output.object(&json!({ "access_key_id": id, "status": if active { "active" } else { "disabled" } }))
}

fn read(path: &Path) -> anyhow::Result<Policy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    match Policy::parse(&text) {
        Ok(policy) => Ok(policy),
        Err(problem) => bail!("{}: {problem}", path.display()),
    }
}
