//! What callers have used up: nonces, and daily quotas.
//!
//! Whether enough is left is decided in `submit`, which spends in the transaction of the submission.

use std::collections::BTreeMap;

use super::audit::{self, Record};
use super::{On, State, StateError, Writing, signed, text, unsigned};

impl State {
    /// Spends a nonce and records the action it is spent for, in one transaction. Returns the number of the record, or
    /// `None` if the nonce was spent before. Submissions spend theirs in their own transaction.
    pub async fn spend_nonce(
        &self,
        key: &str,
        nonce: &str,
        now_ms: u64,
        record: &Record,
    ) -> Result<Option<u64>, StateError> {
        let mut writing = self.write().await?;
        if !use_nonce(&mut writing, key, nonce, now_ms).await? {
            return Ok(None);
        }
        let id = audit::insert(&mut writing, &[record]).await?;
        writing.commit().await?;
        Ok(Some(id))
    }

    /// What an account has spent on a day, by bucket.
    pub async fn spent(&self, account: &str, day: u64) -> Result<BTreeMap<String, u64>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT bucket, used FROM quota_use WHERE account = $1 AND day = $2")
                    .bind(account)
                    .bind(signed(day))
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(|row| Ok((text(row, "bucket")?, unsigned(row, "used")?))).collect()
            }
            On::Memory(tables) => Ok(tables.spent_all(account, day)),
        }
    }
}

/// What an account has spent on a day from one bucket.
pub(super) async fn spent(
    writing: &mut Writing,
    account: &str,
    day: u64,
    bucket: &'static str,
) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT used FROM quota_use WHERE account = $1 AND day = $2 AND bucket = $3")
                .bind(account)
                .bind(signed(day))
                .bind(bucket)
                .fetch_optional(connection)
                .await?;
            row.map_or(Ok(0), |row| unsigned(&row, "used"))
        }
        On::Memory(tables) => Ok(tables.spent(account, day, bucket)),
    }
}

/// Writes what an account has now spent on a day from a bucket.
pub(super) async fn set_spent(
    writing: &mut Writing,
    account: &str,
    day: u64,
    bucket: &'static str,
    used: u64,
) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "INSERT INTO quota_use (account, day, bucket, used) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (account, day, bucket) DO UPDATE SET used = excluded.used",
            )
            .bind(account)
            .bind(signed(day))
            .bind(bucket)
            .bind(signed(used))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => tables.set_spent(account, day, bucket, used),
    }
    Ok(())
}

/// Whether a key has used a nonce.
pub(super) async fn nonce_used(writing: &mut Writing, key: &str, nonce: &str) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT seen_ms FROM nonce WHERE access_key = $1 AND nonce = $2")
                .bind(key)
                .bind(nonce)
                .fetch_optional(connection)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => Ok(tables.nonce_used(key, nonce)),
    }
}

/// Records a nonce; returns whether it was new.
pub(super) async fn use_nonce(writing: &mut Writing, key: &str, nonce: &str, now_ms: u64) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let done = sqlx::query(
                "INSERT INTO nonce (access_key, nonce, seen_ms) VALUES ($1, $2, $3) \
                 ON CONFLICT (access_key, nonce) DO NOTHING",
            )
            .bind(key)
            .bind(nonce)
            .bind(signed(now_ms))
            .execute(connection)
            .await?;
            Ok(done.rows_affected() == 1)
        }
        On::Memory(tables) => Ok(tables.use_nonce(key, nonce, now_ms)),
    }
}
