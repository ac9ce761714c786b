//! Labels: what owners call the tags of their domains. Nodes do not know them.
//!
//! # What always holds
//!
//! - A domain has at most [`LABELS_MAX`] labels, which are deleted with it.
//! - A call changes the labels of all domains it names or of none.

use std::collections::BTreeSet;

use model::DomainName;
use sqlx::any::AnyRow;

use super::domains::domain_owner;
use super::{On, State, StateError, Writing, signed, text, unsigned};

/// The most labels of a domain.
pub const LABELS_MAX: usize = aliyun::LABELS_MAX;

/// A label of a domain: the domain, key and value.
pub type Label = (String, String, String);

/// Why labels were not set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The account has no such domain.
    #[error("no domain `{0}`")]
    Absent(DomainName),
    /// The domain would have more than [`LABELS_MAX`].
    #[error("`{0}` would have more than {LABELS_MAX} tags")]
    TooMany(DomainName),
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

impl State {
    /// Sets labels on domains of an account; an existing key gets the new value.
    pub async fn set_labels(
        &self,
        account: &str,
        domains: &[DomainName],
        labels: &[(String, String)],
    ) -> Result<(), LabelError> {
        let mut writing = self.write().await?;
        for domain in domains {
            if domain_owner(&mut writing, domain.as_str()).await?.as_deref() != Some(account) {
                return Err(LabelError::Absent(domain.clone()));
            }
            for (key, value) in labels {
                put_label(&mut writing, account, domain, key, value).await?;
            }
            if count_labels(&mut writing, domain).await? > LABELS_MAX as u64 {
                return Err(LabelError::TooMany(domain.clone()));
            }
        }
        Ok(writing.commit().await?)
    }

    /// Removes the labels with these keys, or all, from domains of an account. Missing labels are no error.
    pub async fn remove_labels(
        &self,
        account: &str,
        domains: &[DomainName],
        keys: Option<&[String]>,
    ) -> Result<(), LabelError> {
        let mut writing = self.write().await?;
        for domain in domains {
            if domain_owner(&mut writing, domain.as_str()).await?.as_deref() != Some(account) {
                return Err(LabelError::Absent(domain.clone()));
            }
            match keys {
                None => forget_labels(&mut writing, domain, None).await?,
                Some(keys) => {
                    for key in keys {
                        forget_labels(&mut writing, domain, Some(key)).await?;
                    }
                }
            }
        }
        Ok(writing.commit().await?)
    }

    /// At most `most` labels of an account after this domain and key, ordered by domain and key.
    pub async fn labels_after(&self, account: &str, after: (&str, &str), most: u32) -> Result<Vec<Label>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT domain, name, value FROM label WHERE account = $1 AND (domain, name) > ($2, $3) \
                     ORDER BY domain, name LIMIT $4",
                )
                .bind(account)
                .bind(after.0)
                .bind(after.1)
                .bind(i64::from(most))
                .fetch_all(pool)
                .await?;
                rows.iter().map(label).collect()
            }
            On::Memory(tables) => Ok(tables.labels_after(account, after, most)),
        }
    }

    /// The labels of one domain of an account, by key.
    pub async fn labels_of(&self, account: &str, domain: &str) -> Result<Vec<Label>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT domain, name, value FROM label WHERE account = $1 AND domain = $2 ORDER BY name",
                )
                .bind(account)
                .bind(domain)
                .fetch_all(pool)
                .await?;
                rows.iter().map(label).collect()
            }
            On::Memory(tables) => Ok(tables.labels_of(account, domain)),
        }
    }

    /// The domains of an account with a label of this key, and of this value if one is given.
    pub async fn labelled(
        &self,
        account: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<BTreeSet<String>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows =
                    sqlx::query("SELECT domain FROM label WHERE account = $1 AND name = $2 AND ($3 = 1 OR value = $4)")
                        .bind(account)
                        .bind(key)
                        .bind(signed(u64::from(value.is_none())))
                        .bind(value.unwrap_or_default())
                        .fetch_all(pool)
                        .await?;
                rows.iter().map(|row| text(row, "domain")).collect()
            }
            On::Memory(tables) => Ok(tables.labelled(account, key, value)),
        }
    }

    /// At most `most` distinct pairs of key and value among the labels of an account, in order.
    pub async fn labels_in_use(&self, account: &str, most: u32) -> Result<Vec<(String, String)>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT DISTINCT name, value FROM label WHERE account = $1 ORDER BY name, value LIMIT $2",
                )
                .bind(account)
                .bind(i64::from(most))
                .fetch_all(pool)
                .await?;
                rows.iter().map(|row| Ok((text(row, "name")?, text(row, "value")?))).collect()
            }
            On::Memory(tables) => Ok(tables.labels_in_use(account, most)),
        }
    }
}

fn label(row: &AnyRow) -> Result<Label, StateError> {
    Ok((text(row, "domain")?, text(row, "name")?, text(row, "value")?))
}

/// Sets a label; an existing one with its key gets the new value.
pub(super) async fn put_label(
    writing: &mut Writing,
    account: &str,
    domain: &DomainName,
    key: &str,
    value: &str,
) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "INSERT INTO label (domain, name, account, value) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (domain, name) DO UPDATE SET value = excluded.value",
            )
            .bind(domain.as_str())
            .bind(key)
            .bind(account)
            .bind(value)
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => tables.put_label(account, domain, key, value),
    }
    Ok(())
}

/// Removes the label with this key from a domain, or all labels.
pub(super) async fn forget_labels(
    writing: &mut Writing,
    domain: &DomainName,
    key: Option<&str>,
) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("DELETE FROM label WHERE domain = $1 AND ($2 = 1 OR name = $3)")
                .bind(domain.as_str())
                .bind(signed(u64::from(key.is_none())))
                .bind(key.unwrap_or_default())
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => tables.forget_labels(domain, key),
    }
    Ok(())
}

async fn count_labels(writing: &mut Writing, domain: &DomainName) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT COUNT(*) AS labels FROM label WHERE domain = $1")
                .bind(domain.as_str())
                .fetch_one(connection)
                .await?;
            unsigned(&row, "labels")
        }
        On::Memory(tables) => Ok(tables.count_labels(domain)),
    }
}
