//! Accounts and their keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use zeroize::Zeroizing;

use super::memory::KeyRow;
use super::{On, State, StateError, Writing, json, signed, text, to_json, unsigned};
use crate::policy::Policy;
use crate::seal::{Seal, SealError};

const KEY_SECRET: &str = "access key";

/// Who calls the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// The profile whose limits and wording it gets.
    pub profile: String,
    /// Limits that differ from the profile's, by their name.
    pub quota: BTreeMap<String, u64>,
    /// Requests a second over all actions; zero is any number.
    pub qps: u64,
    /// What it may do.
    pub status: AccountStatus,
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccountStatus {
    /// Everything its keys allow.
    Active,
    /// Nothing yet: the service was not opened.
    NotOpened,
    /// Only look.
    Suspended,
    /// Only look, until it pays.
    Overdue,
}

impl std::str::FromStr for AccountStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let quoted = format!("\"{text}\"");
        serde_json::from_str(&quoted).map_err(|_| "expected active, not-opened, suspended or overdue".to_owned())
    }
}

/// A key with everything a request is judged by. The secret is not shown.
#[derive(Clone)]
pub struct AccessKey {
    /// Its id.
    pub id: String,
    /// What requests are signed with.
    pub secret: Zeroizing<String>,
    /// Whether it may be used.
    pub active: bool,
    /// What it may be used for; everything when absent.
    pub policy: Option<Policy>,
    /// Whose it is.
    pub account: Account,
}

/// Why an account or key was not made or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The name or id is taken.
    #[error("`{0}` exists already")]
    Exists(String),
    /// There is none of that name.
    #[error("no account `{0}`")]
    Absent(String),
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
    /// The secret cannot be opened.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl State {
    /// Makes an account.
    pub async fn create_account(&self, account: &Account, now_ms: u64) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        let is_new = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query(
                    "INSERT INTO account (name, profile, quota, qps, status, created_ms) VALUES ($1, $2, $3, $4, $5, $6) \
                     ON CONFLICT (name) DO NOTHING",
                )
                .bind(&account.name)
                .bind(&account.profile)
                .bind(to_json(&account.quota))
                .bind(signed(account.qps))
                .bind(to_json(&account.status))
                .bind(signed(now_ms))
                .execute(connection)
                .await
                .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.add_account(account),
        };
        if !is_new {
            return Err(AccountError::Exists(account.name.clone()));
        }
        Ok(writing.commit().await?)
    }

    /// Says what an account may do from now on.
    pub async fn set_account_status(&self, name: &str, status: AccountStatus) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        let known = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query("UPDATE account SET status = $1 WHERE name = $2")
                    .bind(to_json(&status))
                    .bind(name)
                    .execute(connection)
                    .await
                    .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.set_account_status(name, status),
        };
        if !known {
            return Err(AccountError::Absent(name.to_owned()));
        }
        Ok(writing.commit().await?)
    }

    /// Gives an account a key. The secret is sealed before it is stored.
    pub async fn create_key(
        &self,
        seal: &Seal,
        account: &str,
        id: &str,
        secret: &str,
        policy: Option<&Policy>,
        now_ms: u64,
    ) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        if !has_account(&mut writing, account).await? {
            return Err(AccountError::Absent(account.to_owned()));
        }
        let sealed = seal.seal(KEY_SECRET, secret);
        let is_new = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query(
                    "INSERT INTO access_key (id, account, sealed, policy, active, created_ms) VALUES ($1, $2, $3, $4, 1, $5) \
                     ON CONFLICT (id) DO NOTHING",
                )
                .bind(id)
                .bind(account)
                .bind(sealed)
                .bind(to_json(&policy))
                .bind(signed(now_ms))
                .execute(connection)
                .await
                .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => {
                tables.add_key(id, KeyRow { account: account.to_owned(), sealed, policy: policy.cloned() })
            }
        };
        if !is_new {
            return Err(AccountError::Exists(id.to_owned()));
        }
        Ok(writing.commit().await?)
    }

    /// Every account, by name.
    pub async fn accounts(&self) -> Result<Vec<Account>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT name, profile, quota, qps, status FROM account ORDER BY name")
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(account).collect()
            }
            On::Memory(tables) => Ok(tables.accounts()),
        }
    }

    /// The key `id`, with its secret opened; `None` when there is none.
    pub async fn access_key(&self, seal: &Seal, id: &str) -> Result<Option<AccessKey>, AccountError> {
        let found = match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(
                    "SELECT k.id, k.sealed, k.policy, k.active, a.name, a.profile, a.quota, a.qps, a.status \
                     FROM access_key k JOIN account a ON a.name = k.account WHERE k.id = $1",
                )
                .bind(id)
                .fetch_optional(pool)
                .await
                .map_err(StateError::from)?;
                let Some(row) = row else { return Ok(None) };
                (text(&row, "sealed")?, unsigned(&row, "active")? == 1, json(&row, "policy")?, account(&row)?)
            }
            On::Memory(tables) => {
                let Some((key, account)) = tables.key(id) else { return Ok(None) };
                (key.sealed.clone(), true, key.policy.clone(), account.clone())
            }
        };
        let (sealed, active, policy, account) = found;
        Ok(Some(AccessKey { id: id.to_owned(), secret: seal.open(KEY_SECRET, &sealed)?, active, policy, account }))
    }
}

async fn has_account(writing: &mut Writing, name: &str) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row =
                sqlx::query("SELECT name FROM account WHERE name = $1").bind(name).fetch_optional(connection).await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => Ok(tables.has_account(name)),
    }
}

fn account(row: &AnyRow) -> Result<Account, StateError> {
    Ok(Account {
        name: text(row, "name")?,
        profile: text(row, "profile")?,
        quota: json(row, "quota")?,
        qps: unsigned(row, "qps")?,
        status: json(row, "status")?,
    })
}
