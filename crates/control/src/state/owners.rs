//! Names whose ownership accounts have proven.
//!
//! # What always holds
//!
//! - A proof belongs to one account; several accounts may have proven one name, each with its own content.
//! - A proven wildcard covers its name and everything below it; any other name covers only itself.

use model::DomainName;

use super::{On, State, StateError, Writing, signed, unsigned};

impl State {
    /// Records that an account proved a name; returns false, and records nothing, if it would have more than `most`.
    pub async fn keep_proof(
        &self,
        account: &str,
        name: &DomainName,
        most: usize,
        now_ms: u64,
    ) -> Result<bool, StateError> {
        let mut writing = self.write().await?;
        put_proof(&mut writing, account, name, now_ms).await?;
        if count_proofs(&mut writing, account).await? > most as u64 {
            return Ok(false); // dropped without a commit, the insert is rolled back
        }
        writing.commit().await?;
        Ok(true)
    }

    /// Whether an account proved a name, or a wildcard that covers it.
    pub async fn has_proof(&self, account: &str, name: &DomainName) -> Result<bool, StateError> {
        // A wildcard covers the name if it is a suffix of this, or equal to it.
        let under = format!(".{}", name.as_str().trim_start_matches('.'));
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(
                    "SELECT name FROM proven_name WHERE account = $1 AND (name = $2 OR (substr(name, 1, 1) = '.' \
                     AND length(name) <= length($3) AND substr($3, length($3) - length(name) + 1) = name)) LIMIT 1",
                )
                .bind(account)
                .bind(name.as_str())
                .bind(under)
                .fetch_optional(pool)
                .await?;
                Ok(row.is_some())
            }
            On::Memory(tables) => Ok(tables.has_proof(account, name, &under)),
        }
    }
}

async fn put_proof(writing: &mut Writing, account: &str, name: &DomainName, now_ms: u64) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "INSERT INTO proven_name (account, name, since_ms) VALUES ($1, $2, $3) \
                 ON CONFLICT (account, name) DO NOTHING",
            )
            .bind(account)
            .bind(name.as_str())
            .bind(signed(now_ms))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => tables.put_proof(account, name),
    }
    Ok(())
}

async fn count_proofs(writing: &mut Writing, account: &str) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT COUNT(*) AS proofs FROM proven_name WHERE account = $1")
                .bind(account)
                .fetch_one(connection)
                .await?;
            unsigned(&row, "proofs")
        }
        On::Memory(tables) => Ok(tables.count_proofs(account)),
    }
}
