//! Users of an account, the policies attached to them, and the keys of both.
//!
//! # What always holds
//!
//! - Attachments are never dangling: a policy cannot be deleted while a user has it, nor a user while it has a key. An
//!   attachment or a new key locks the rows that it needs, so that none of them is deleted meanwhile.
//! - What a user may do is read anew with its key; if a document cannot be read, it may do nothing.

use sqlx::any::AnyRow;

use super::accounts::{AccountError, has_account};
use super::{On, State, StateError, Writing, json, signed, text, unsigned};
use crate::policy::{self, Policy};

/// The most users of one account.
pub const USERS_MAX: u64 = 1_000;

/// The most policies of an account's own.
pub const POLICIES_MAX: u64 = 500;

/// The most policies attached to one user.
pub const ATTACHED_MAX: usize = 20;

/// The most keys of one account, including its users'.
pub const KEYS_MAX: u64 = 10_000;

/// Items of which an account may have a bounded number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Users,
    Policies,
    Keys,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The policies attached to it, by name.
    pub policies: Vec<String>,
    /// The ids of its keys.
    pub keys: Vec<String>,
}

/// A policy of an account's own.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnPolicy {
    /// Its name.
    pub name: String,
    /// What it says.
    pub policy: Policy,
    /// When it was last written, in milliseconds since 1970.
    pub changed_ms: u64,
    /// The users it is attached to.
    pub users: Vec<String>,
}

/// A key without its secret.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedKey {
    /// Its id.
    pub id: String,
    /// The user it belongs to; the account itself when absent.
    pub user: Option<String>,
    /// Whether it may be used.
    pub active: bool,
    /// The most it may be used for; everything when absent.
    pub policy: Option<Policy>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// Users.
impl State {
    /// Creates a user, who may do nothing yet.
    pub async fn create_user(&self, account: &str, name: &str, now_ms: u64) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        need_account(&mut writing, account).await?;
        room(&mut writing, Listed::Users, account).await?;
        let is_new = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query(
                    "INSERT INTO sub_user (account, name, created_ms) VALUES ($1, $2, $3) ON CONFLICT (account, name) DO NOTHING",
                )
                .bind(account)
                .bind(name)
                .bind(signed(now_ms))
                .execute(connection)
                .await
                .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.add_user(account, name, now_ms),
        };
        if !is_new {
            return Err(AccountError::Exists(name.to_owned()));
        }
        Ok(writing.commit().await?)
    }

    /// The users of an account, by name.
    pub async fn users(&self, account: &str) -> Result<Vec<User>, StateError> {
        let rows = match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT name, created_ms FROM sub_user WHERE account = $1 ORDER BY name")
                    .bind(account)
                    .fetch_all(pool)
                    .await?;
                let row = |row: &AnyRow| Ok((text(row, "name")?, unsigned(row, "created_ms")?));
                rows.iter().map(row).collect::<Result<Vec<_>, StateError>>()?
            }
            On::Memory(tables) => tables.users(account),
        };
        let (attached, keys) = (self.attached(account).await?, self.keys(account).await?);
        let user = |(name, created_ms): (String, u64)| {
            let policies =
                attached.iter().filter(|(user, _)| *user == name).map(|(_, policy)| policy.clone()).collect();
            let own = keys.iter().filter(|key| key.user.as_ref() == Some(&name));
            User { policies, keys: own.map(|key| key.id.clone()).collect(), name, created_ms }
        };
        Ok(rows.into_iter().map(user).collect())
    }

    /// Deletes a user that has no keys, together with its attachments.
    pub async fn delete_user(&self, account: &str, name: &str) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        need_user(&mut writing, account, name).await?;
        let keys = keys_of(&mut writing, account).await?;
        let own: Vec<&str> =
            keys.iter().filter(|key| key.user.as_deref() == Some(name)).map(|key| key.id.as_str()).collect();
        if !own.is_empty() {
            return Err(AccountError::InUse { name: name.to_owned(), by: named("key", &own) });
        }
        match writing.on() {
            On::Sql(connection) => {
                for statement in [
                    "DELETE FROM attached WHERE account = $1 AND user_name = $2",
                    "DELETE FROM sub_user WHERE account = $1 AND name = $2",
                ] {
                    let done = sqlx::query(statement).bind(account).bind(name).execute(&mut *connection).await;
                    done.map_err(StateError::from)?;
                }
            }
            On::Memory(tables) => tables.remove_user(account, name),
        }
        Ok(writing.commit().await?)
    }

    /// Attaches a system policy or one of the account's own to a user; returns whether it is new.
    pub async fn attach(&self, account: &str, user: &str, policy: &str) -> Result<bool, AccountError> {
        let mut writing = self.write().await?;
        need_user(&mut writing, account, user).await?;
        if policy::system(policy).is_none() {
            need_policy(&mut writing, account, policy).await?;
        }
        let attached = attached_of(&mut writing, account).await?;
        let of_user: Vec<&String> = attached.iter().filter(|(of, _)| of == user).map(|(_, policy)| policy).collect();
        if !of_user.iter().any(|known| *known == policy) && of_user.len() >= ATTACHED_MAX {
            return Err(AccountError::TooMany { what: "policies of a user", most: ATTACHED_MAX as u64 });
        }
        let is_new = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query(
                    "INSERT INTO attached (account, user_name, policy) VALUES ($1, $2, $3) \
                     ON CONFLICT (account, user_name, policy) DO NOTHING",
                )
                .bind(account)
                .bind(user)
                .bind(policy)
                .execute(connection)
                .await
                .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.attach(account, user, policy),
        };
        writing.commit().await?;
        Ok(is_new)
    }

    /// Detaches a policy from a user; returns whether it was attached.
    pub async fn detach(&self, account: &str, user: &str, policy: &str) -> Result<bool, AccountError> {
        let mut writing = self.write().await?;
        need_user(&mut writing, account, user).await?;
        let was = match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query("DELETE FROM attached WHERE account = $1 AND user_name = $2 AND policy = $3")
                    .bind(account)
                    .bind(user)
                    .bind(policy)
                    .execute(connection)
                    .await
                    .map_err(StateError::from)?;
                done.rows_affected() > 0
            }
            On::Memory(tables) => tables.detach(account, user, policy),
        };
        writing.commit().await?;
        Ok(was)
    }

    /// The policies attached to a user.
    pub(super) async fn granted(&self, account: &str, user: &str) -> Result<Vec<Policy>, StateError> {
        let rows = match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT a.policy, COALESCE(p.document, 'null') AS document FROM attached a \
                     LEFT JOIN policy p ON p.account = a.account AND p.name = a.policy \
                     WHERE a.account = $1 AND a.user_name = $2",
                )
                .bind(account)
                .bind(user)
                .fetch_all(pool)
                .await?;
                let row = |row: &AnyRow| Ok((text(row, "policy")?, json(row, "document")?));
                rows.iter().map(row).collect::<Result<Vec<(String, Option<Policy>)>, StateError>>()?
            }
            On::Memory(tables) => tables.granted(account, user),
        };
        let known = |(name, own): (String, Option<Policy>)| {
            let policy = policy::system(&name).cloned().or(own);
            policy.ok_or_else(|| StateError::Corrupt { what: format!("policy {name} of {account}") })
        };
        rows.into_iter().map(known).collect()
    }

    /// User and policy of every attachment of an account.
    async fn attached(&self, account: &str) -> Result<Vec<(String, String)>, StateError> {
        match self.read()? {
            On::Sql(pool) => attachments(&sqlx::query(ATTACHED).bind(account).fetch_all(pool).await?),
            On::Memory(tables) => Ok(tables.attached(account)),
        }
    }
}

/// Policies.
impl State {
    /// Creates a policy of the account's own, or replaces the one with its name.
    pub async fn put_policy(
        &self,
        account: &str,
        name: &str,
        policy: &Policy,
        now_ms: u64,
    ) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        need_account(&mut writing, account).await?;
        if !lock(&mut writing, Listed::Policies, account, name).await? {
            room(&mut writing, Listed::Policies, account).await?;
        }
        match writing.on() {
            On::Sql(connection) => {
                sqlx::query(
                    "INSERT INTO policy (account, name, document, changed_ms) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (account, name) DO UPDATE SET document = excluded.document, changed_ms = excluded.changed_ms",
                )
                .bind(account)
                .bind(name)
                .bind(policy.document())
                .bind(signed(now_ms))
                .execute(connection)
                .await
                .map_err(StateError::from)?;
            }
            On::Memory(tables) => tables.put_policy(account, name, policy, now_ms),
        }
        Ok(writing.commit().await?)
    }

    /// The policies of an account's own, by name.
    pub async fn policies(&self, account: &str) -> Result<Vec<OwnPolicy>, StateError> {
        let rows = match self.read()? {
            On::Sql(pool) => {
                let rows =
                    sqlx::query("SELECT name, document, changed_ms FROM policy WHERE account = $1 ORDER BY name")
                        .bind(account)
                        .fetch_all(pool)
                        .await?;
                let row = |row: &AnyRow| Ok((text(row, "name")?, json(row, "document")?, unsigned(row, "changed_ms")?));
                rows.iter().map(row).collect::<Result<Vec<_>, StateError>>()?
            }
            On::Memory(tables) => tables.policies(account),
        };
        let attached = self.attached(account).await?;
        let own = |(name, policy, changed_ms): (String, Policy, u64)| {
            let users = attached.iter().filter(|(_, policy)| *policy == name).map(|(user, _)| user.clone()).collect();
            OwnPolicy { name, policy, changed_ms, users }
        };
        Ok(rows.into_iter().map(own).collect())
    }

    /// Deletes a policy that is attached to no user.
    pub async fn delete_policy(&self, account: &str, name: &str) -> Result<(), AccountError> {
        let mut writing = self.write().await?;
        need_policy(&mut writing, account, name).await?;
        let attached = attached_of(&mut writing, account).await?;
        let users: Vec<&str> =
            attached.iter().filter(|(_, policy)| policy == name).map(|(user, _)| user.as_str()).collect();
        if !users.is_empty() {
            return Err(AccountError::InUse { name: name.to_owned(), by: named("user", &users) });
        }
        match writing.on() {
            On::Sql(connection) => {
                let done = sqlx::query("DELETE FROM policy WHERE account = $1 AND name = $2");
                done.bind(account).bind(name).execute(connection).await.map_err(StateError::from)?;
            }
            On::Memory(tables) => tables.remove_policy(account, name),
        }
        Ok(writing.commit().await?)
    }
}

/// Keys.
impl State {
    /// The keys of an account and its users, oldest first.
    pub async fn keys(&self, account: &str) -> Result<Vec<ListedKey>, StateError> {
        match self.read()? {
            On::Sql(pool) => listed_keys(&sqlx::query(KEYS).bind(account).fetch_all(pool).await?),
            On::Memory(tables) => Ok(memory_keys(&tables, account)),
        }
    }

    /// Activates or deactivates a key; returns the account it belongs to.
    pub async fn set_key_active(&self, id: &str, active: bool) -> Result<String, AccountError> {
        let mut writing = self.write().await?;
        let account = match writing.on() {
            On::Sql(connection) => {
                let row = sqlx::query("UPDATE access_key SET active = $1 WHERE id = $2 RETURNING account")
                    .bind(i64::from(active))
                    .bind(id)
                    .fetch_optional(connection)
                    .await
                    .map_err(StateError::from)?;
                row.map(|row| text(&row, "account")).transpose()?
            }
            On::Memory(tables) => tables.set_key_active(id, active),
        };
        let account = account.ok_or_else(|| AccountError::NoKey(id.to_owned()))?;
        writing.commit().await?;
        Ok(account)
    }

    /// Deletes a key, and with it the sessions and tokens made with it; returns the account it belonged to.
    pub async fn delete_key(&self, id: &str) -> Result<String, AccountError> {
        let mut writing = self.write().await?;
        let account = match writing.on() {
            On::Sql(connection) => {
                let row = sqlx::query("DELETE FROM access_key WHERE id = $1 RETURNING account")
                    .bind(id)
                    .fetch_optional(connection)
                    .await
                    .map_err(StateError::from)?;
                row.map(|row| text(&row, "account")).transpose()?
            }
            On::Memory(tables) => tables.remove_key(id),
        };
        let account = account.ok_or_else(|| AccountError::NoKey(id.to_owned()))?;
        writing.commit().await?;
        Ok(account)
    }
}

const ATTACHED: &str = "SELECT user_name, policy FROM attached WHERE account = $1 ORDER BY user_name, policy";
const KEYS: &str =
    "SELECT id, user_name, active, policy, created_ms FROM access_key WHERE account = $1 ORDER BY created_ms, id";

fn attachments(rows: &[AnyRow]) -> Result<Vec<(String, String)>, StateError> {
    rows.iter().map(|row| Ok((text(row, "user_name")?, text(row, "policy")?))).collect()
}

fn listed_keys(rows: &[AnyRow]) -> Result<Vec<ListedKey>, StateError> {
    let key = |row: &AnyRow| {
        Ok(ListedKey {
            id: text(row, "id")?,
            user: Some(text(row, "user_name")?).filter(|user| !user.is_empty()),
            active: unsigned(row, "active")? == 1,
            policy: json(row, "policy")?,
            created_ms: unsigned(row, "created_ms")?,
        })
    };
    rows.iter().map(key).collect()
}

fn memory_keys(tables: &super::memory::Tables, account: &str) -> Vec<ListedKey> {
    let key = |(id, row): (String, super::memory::KeyRow)| ListedKey {
        id,
        user: Some(row.user).filter(|user| !user.is_empty()),
        active: row.active,
        policy: row.policy,
        created_ms: row.created_ms,
    };
    let mut keys: Vec<ListedKey> = tables.keys(account).into_iter().map(key).collect();
    keys.sort_by_key(|key| key.created_ms); // stable: keys with equal times stay in the order of ids
    keys
}

async fn attached_of(writing: &mut Writing, account: &str) -> Result<Vec<(String, String)>, StateError> {
    match writing.on() {
        On::Sql(connection) => attachments(&sqlx::query(ATTACHED).bind(account).fetch_all(connection).await?),
        On::Memory(tables) => Ok(tables.attached(account)),
    }
}

async fn keys_of(writing: &mut Writing, account: &str) -> Result<Vec<ListedKey>, StateError> {
    match writing.on() {
        On::Sql(connection) => listed_keys(&sqlx::query(KEYS).bind(account).fetch_all(connection).await?),
        On::Memory(tables) => Ok(memory_keys(tables, account)),
    }
}

async fn need_account(writing: &mut Writing, account: &str) -> Result<(), AccountError> {
    if has_account(writing, account).await? { Ok(()) } else { Err(AccountError::Absent(account.to_owned())) }
}

/// Fails unless the user exists; it then cannot be deleted before the transaction ends.
pub(super) async fn need_user(writing: &mut Writing, account: &str, name: &str) -> Result<(), AccountError> {
    need_account(writing, account).await?;
    let there = lock(writing, Listed::Users, account, name).await?;
    if there { Ok(()) } else { Err(AccountError::NoUser(name.to_owned())) }
}

async fn need_policy(writing: &mut Writing, account: &str, name: &str) -> Result<(), AccountError> {
    need_account(writing, account).await?;
    let there = lock(writing, Listed::Policies, account, name).await?;
    if there { Ok(()) } else { Err(AccountError::NoPolicy(name.to_owned())) }
}

/// Whether there is such a row. An update, not a read, so that it takes the row's lock.
async fn lock(writing: &mut Writing, listed: Listed, account: &str, name: &str) -> Result<bool, StateError> {
    let statement = match listed {
        Listed::Users => "UPDATE sub_user SET name = name WHERE account = $1 AND name = $2",
        Listed::Policies => "UPDATE policy SET name = name WHERE account = $1 AND name = $2",
        Listed::Keys => "UPDATE access_key SET id = id WHERE account = $1 AND id = $2",
    };
    match writing.on() {
        On::Sql(connection) => {
            let done = sqlx::query(statement).bind(account).bind(name).execute(connection).await?;
            Ok(done.rows_affected() > 0)
        }
        On::Memory(tables) => Ok(match listed {
            Listed::Users => tables.has_user(account, name),
            Listed::Policies => tables.has_policy(account, name),
            Listed::Keys => tables.key(name).is_some_and(|(key, _)| key.account == account),
        }),
    }
}

/// Fails if the account has the maximum number of them.
pub(super) async fn room(writing: &mut Writing, listed: Listed, account: &str) -> Result<(), AccountError> {
    let (statement, what, most) = match listed {
        Listed::Users => ("SELECT COUNT(*) AS count FROM sub_user WHERE account = $1", "users", USERS_MAX),
        Listed::Policies => ("SELECT COUNT(*) AS count FROM policy WHERE account = $1", "policies", POLICIES_MAX),
        Listed::Keys => ("SELECT COUNT(*) AS count FROM access_key WHERE account = $1", "keys", KEYS_MAX),
    };
    let count = match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(statement).bind(account).fetch_one(connection).await.map_err(StateError::from)?;
            unsigned(&row, "count")?
        }
        On::Memory(tables) => tables.count(listed, account),
    };
    if count >= most { Err(AccountError::TooMany { what, most }) } else { Ok(()) }
}

/// What an item is used by, with some of the names.
fn named(what: &str, names: &[&str]) -> String {
    const NAMED_MAX: usize = 10;
    let more = names.len().saturating_sub(NAMED_MAX);
    let some = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
    let plural = if names.len() == 1 { "" } else { "s" };
    if more == 0 { format!("{what}{plural} {some}") } else { format!("{what}{plural} {some} and {more} more") }
}
