//! Shares of origins: one row per shared thing, with one value that is read and written whole.
//!
//! # What always holds
//!
//! - Rows are locked in the order of their names before they are read, so that control planes take turns and cannot
//!   deadlock.
//! - A row that cannot be read starts empty: it is read together with others, which must not wait for it.

use std::collections::BTreeMap;

use model::share::Row;

use super::{On, State, StateError, Writing, signed, text, to_json};

/// Rows deleted in one transaction.
const FORGOTTEN_BATCH_MAX: u64 = 1_000;

impl State {
    /// Changes rows in one transaction. A row that did not exist starts empty; one that is empty afterwards is deleted.
    pub async fn change_shares<T>(
        &self,
        names: impl IntoIterator<Item = String>,
        now_ms: u64,
        change: impl FnOnce(&mut BTreeMap<String, Row>) -> T,
    ) -> Result<T, StateError> {
        let mut writing = self.write().await?;
        let mut rows: BTreeMap<String, Row> = names.into_iter().map(|name| (name, Row::default())).collect();
        for (name, row) in &mut rows {
            *row = lock(&mut writing, name, now_ms).await?;
        }
        let changed = change(&mut rows);
        for (name, row) in rows {
            match row.is_empty(now_ms) {
                true => remove(&mut writing, &name).await?,
                false => put(&mut writing, &name, &to_json(&row)).await?,
            }
        }
        writing.commit().await?;
        Ok(changed)
    }

    /// Deletes rows that nobody has used since `before_ms`.
    pub async fn forget_shares(&self, before_ms: u64) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        match writing.on() {
            On::Sql(connection) => {
                sqlx::query("DELETE FROM share WHERE name IN (SELECT name FROM share WHERE touched_ms < $1 LIMIT $2)")
                    .bind(signed(before_ms))
                    .bind(signed(FORGOTTEN_BATCH_MAX))
                    .execute(connection)
                    .await?;
            }
            On::Memory(tables) => {
                if tables.shares.values().any(|(_, touched_ms)| *touched_ms < before_ms) {
                    std::sync::Arc::make_mut(&mut tables.shares).retain(|_, (_, touched_ms)| *touched_ms >= before_ms);
                }
            }
        }
        writing.commit().await
    }
}

/// Reads a row and locks it for this transaction.
async fn lock(writing: &mut Writing, name: &str, now_ms: u64) -> Result<Row, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(
                "INSERT INTO share (name, value, touched_ms) VALUES ($1, $2, $3) \
                 ON CONFLICT (name) DO UPDATE SET touched_ms = excluded.touched_ms RETURNING value",
            )
            .bind(name)
            .bind(to_json(&Row::default()))
            .bind(signed(now_ms))
            .fetch_one(connection)
            .await?;
            Ok(read(name, &text(&row, "value")?))
        }
        On::Memory(tables) => {
            let row = tables.shares.get(name).map(|(value, _)| read(name, value)).unwrap_or_default();
            std::sync::Arc::make_mut(&mut tables.shares).insert(name.to_owned(), (to_json(&row), now_ms));
            Ok(row)
        }
    }
}

/// A stored row. Its grants may be in force for one more lease if it could not be read; that is the lesser harm.
fn read(name: &str, value: &str) -> Row {
    serde_json::from_str(value).unwrap_or_else(|error| {
        tracing::error!(name, %error, "shares of an origin cannot be read and are reset");
        Row::default()
    })
}

async fn put(writing: &mut Writing, name: &str, value: &str) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("UPDATE share SET value = $1 WHERE name = $2")
                .bind(value)
                .bind(name)
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => {
            if let Some((kept, _)) = std::sync::Arc::make_mut(&mut tables.shares).get_mut(name) {
                value.clone_into(kept);
            }
        }
    }
    Ok(())
}

async fn remove(writing: &mut Writing, name: &str) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("DELETE FROM share WHERE name = $1").bind(name).execute(connection).await?;
        }
        On::Memory(tables) => _ = std::sync::Arc::make_mut(&mut tables.shares).remove(name),
    }
    Ok(())
}
