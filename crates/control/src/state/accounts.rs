//! Accounts, and the keys that requests are signed with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use zeroize::Zeroizing;

use super::access::{self, Listed};
use super::memory::KeyRow;
use super::{On, State, StateError, Writing, json, signed, text, to_json, unsigned};
use crate::policy::Policy;
use crate::seal::{Seal, SealError};

const KEY_SECRET: &str = "access key";

/// An account, on whose behalf the API is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// The profile that sets its limits and error wording.
    pub profile: String,
    /// Limits that override the profile's, by name.
    pub quota: BTreeMap<String, u64>,
    /// Requests a second over all actions; zero means unlimited.
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
    /// Only reading.
    Suspended,
    /// Only reading, until it pays.
    Overdue,
}

impl std::fmt::Display for AccountStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AccountStatus::Active => "active",
            AccountStatus::NotOpened => "not-opened",
            AccountStatus::Suspended => "suspended",
            AccountStatus::Overdue => "overdue",
        })
    }
}

impl std::str::FromStr for AccountStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let quoted = format!("\"{text}\"");
        serde_json::from_str(&quoted).map_err(|_| "expected active, not-opened, suspended or overdue".to_owned())
    }
}

/// A key with everything needed to judge a request. The secret is not shown.
#[derive(Clone)]
pub struct AccessKey {
    /// Its id.
    pub id: String,
    /// The secret that requests are signed with.
    pub secret: Zeroizing<String>,
    /// Whether it may be used.
    pub active: bool,
    /// The most it may be used for; everything when absent.
    pub policy: Option<Policy>,
    /// The user of the account that owns it; the account itself when absent.
    pub user: Option<KeyUser>,
    /// The account it belongs to.
    pub account: Account,
}

/// The user of a key, and what it may do: nothing without a policy.
#[derive(Clone, Debug)]
pub struct KeyUser {
    /// Its name.
    pub name: String,
    /// The policies attached to it, which apply together.
    pub policies: Vec<Policy>,
}

/// When an account opened the service, and how it chose to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// `PayByTraffic` or `PayByBandwidth`.
    pub charge: String,
}

impl Opening {
    /// If the account never opened the service itself, the time of its creation counts.
    pub(super) fn of(created_ms: u64, opened_ms: u64, charge: String) -> Opening {
        let at_ms = if opened_ms > 0 { opened_ms } else { created_ms };
        let charge = if charge.is_empty() { "PayByTraffic".to_owned() } else { charge };
        Opening { at_ms, charge }
    }
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
    /// The account has no user of that name.
    #[error("no user `{0}`")]
    NoUser(String),
    /// There is no policy of that name.
    #[error("no policy `{0}`")]
    NoPolicy(String),
    /// There is no key of that id.
    #[error("no access key `{0}`")]
    NoKey(String),
    /// The item to be deleted is in use.
    #[error("`{name}` is in use by {by}")]
    InUse {
        /// What.
        name: String,
        /// By what, with names.
        by: String,
    },
    /// The account has the maximum number already.
    #[error("at most {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: u64,
    },
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
            On::Memory(tables) => tables.add_account(account, now_ms),
        };
        if !is_new {
            return Err(AccountError::Exists(account.name.clone()));
        }
        Ok(writing.commit().await?)
    }

    /// Sets what an account may do from now on.
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

    /// Opens the service for an account; returns whether it was not open before.
    pub async fn open_service(&self, name: &str, charge: &str, now_ms: u64) -> Result<bool, StateError> {
        let mut writing = self.write().await?;
        let opened = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query(
                    "UPDATE account SET status = $1, charge = $2, opened_ms = $3 WHERE name = $4 AND status = $5",
                )
                .bind(to_json(&AccountStatus::Active))
                .bind(charge)
                .bind(signed(now_ms))
                .bind(name)
                .bind(to_json(&AccountStatus::NotOpened))
                .execute(connection)
                .await?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.open_service(name, charge, now_ms),
        };
        writing.commit().await?;
        Ok(opened)
    }

    /// When an account opened the service; `None` if there is no such account.
    pub async fn opening(&self, name: &str) -> Result<Option<Opening>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query("SELECT created_ms, opened_ms, charge FROM account WHERE name = $1")
                    .bind(name)
                    .fetch_optional(pool)
                    .await?;
                let opening = |row: AnyRow| {
                    let (created_ms, opened_ms) = (unsigned(&row, "created_ms")?, unsigned(&row, "opened_ms")?);
                    Ok(Opening::of(created_ms, opened_ms, text(&row, "charge")?))
                };
                row.map(opening).transpose()
            }
            On::Memory(tables) => Ok(tables.opening(name)),
        }
    }

    /// Creates a key for an account or a user of it. The secret is sealed before it is stored.
    #[expect(clippy::too_many_arguments, reason = "a row of the table has as many columns")]
    pub async fn create_key(
        &self,
        seal: &Seal,
        account: &str,
        user: Option<&str>,
        id: &str,
        secret: &str,
        policy: Option<&Policy>,
        now_ms: u64,
    ) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        if !has_account(&mut writing, account).await? {
            return Err(AccountError::Absent(account.to_owned()));
        }
        if let Some(user) = user {
            access::need_user(&mut writing, account, user).await?;
        }
        access::room(&mut writing, Listed::Keys, account).await?;
        let sealed = seal.seal(KEY_SECRET, secret);
        let user = user.unwrap_or_default();
        let is_new = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query(
                    "INSERT INTO access_key (id, account, sealed, policy, active, created_ms, user_name) \
                     VALUES ($1, $2, $3, $4, 1, $5, $6) ON CONFLICT (id) DO NOTHING",
                )
                .bind(id)
                .bind(account)
                .bind(sealed)
                .bind(to_json(&policy))
                .bind(signed(now_ms))
                .bind(user)
                .execute(connection)
                .await
                .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => {
                let (account, user, policy) = (account.to_owned(), user.to_owned(), policy.cloned());
                tables.add_key(id, KeyRow { account, user, sealed, policy, active: true, created_ms: now_ms })
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

    /// The key `id`, with its secret opened and the policies of its user; `None` if there is none.
    pub async fn access_key(&self, seal: &Seal, id: &str) -> Result<Option<AccessKey>, AccountError> {
        let found = match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(
                    "SELECT k.sealed, k.policy, k.active, k.user_name, a.name, a.profile, a.quota, a.qps, a.status \
                     FROM access_key k JOIN account a ON a.name = k.account WHERE k.id = $1",
                )
                .bind(id)
                .fetch_optional(pool)
                .await
                .map_err(StateError::from)?;
                let Some(row) = row else { return Ok(None) };
                let active = unsigned(&row, "active")? == 1;
                (text(&row, "sealed")?, active, json(&row, "policy")?, text(&row, "user_name")?, account(&row)?)
            }
            On::Memory(tables) => {
                let Some((key, account)) = tables.key(id) else { return Ok(None) };
                (key.sealed.clone(), key.active, key.policy.clone(), key.user.clone(), account.clone())
            }
        };
        let (sealed, active, policy, user, account) = found;
        let user = match user.as_str() {
            "" => None,
            name => {
                let policies = self.granted(&account.name, name).await?;
                Some(KeyUser { name: name.to_owned(), policies })
            }
        };
        let secret = seal.open(KEY_SECRET, &sealed)?;
        Ok(Some(AccessKey { id: id.to_owned(), secret, active, policy, user, account }))
    }
}

/// Whether there is such an account.
pub(super) async fn has_account(writing: &mut Writing, name: &str) -> Result<bool, StateError> {
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
