//! Deletes tasks, and what is stored beside them, after their retention time.

use super::{MINUTE_MS, Tally};
use crate::state::{On, State, StateError, Writing, signed, text, unsigned};

/// Deletes chunks that ended before a time, of tasks of which no chunk is open or ended later: a task ends with the
/// last of its chunks, and stays whole until it is deleted.
const FORGET_CHUNKS: &str = "DELETE FROM chunk WHERE id IN ( \
    SELECT id FROM chunk AS ended WHERE finished_ms > 0 AND finished_ms < $1 \
    AND (SELECT MIN(finished_ms) FROM chunk AS first WHERE first.task = ended.task) > 0 \
    AND (SELECT MAX(finished_ms) FROM chunk AS last WHERE last.task = ended.task) < $1 LIMIT $2) \
    RETURNING account, domain, kind, created_ms, lines";

/// Rows deleted in one transaction.
const FORGOTTEN_BATCH_MAX: u64 = 2_000;

/// What is deleted after its retention time.
#[derive(Clone, Copy)]
pub(in crate::state) enum Past {
    /// Tasks that ended.
    Tasks,
    /// Nonces.
    Nonces,
    /// Invitations of nodes.
    Invitations,
    /// What accounts have spent on a day.
    Days,
}

impl State {
    /// Deletes tasks that ended before `before_ms`, quota counts of days before `before_day`, and nonces older than
    /// `nonces_before_ms`. In many small transactions, so that no submission waits long for one of them.
    pub async fn forget(&self, before_ms: u64, before_day: u64, nonces_before_ms: u64) -> Result<(), StateError> {
        let all = [
            (Past::Tasks, before_ms),
            (Past::Nonces, nonces_before_ms),
            (Past::Invitations, before_ms),
            (Past::Days, before_day),
        ];
        for (past, before) in all {
            loop {
                let mut writing = self.write().await?;
                let count = forget_some(&mut writing, past, before).await?;
                writing.commit().await?;
                if count < FORGOTTEN_BATCH_MAX {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Deletes the first rows that are due; returns how many.
async fn forget_some(writing: &mut Writing, past: Past, before: u64) -> Result<u64, StateError> {
    let connection = match writing.on() {
        On::Sql(connection) => connection,
        On::Memory(tables) => return Ok(tables.forget(past, before, FORGOTTEN_BATCH_MAX)),
    };
    let statement = match past {
        Past::Tasks => {
            let gone = sqlx::query(FORGET_CHUNKS).bind(signed(before)).bind(FORGOTTEN_BATCH_MAX as i64);
            let gone = gone.fetch_all(&mut *connection).await?;
            let mut tally = Tally::default();
            for row in &gone {
                let kind = text(row, "kind")?;
                let key = (text(row, "account")?, unsigned(row, "created_ms")? / MINUTE_MS, text(row, "domain")?, kind);
                *tally.0.entry(key).or_default() += unsigned(row, "lines")?;
            }
            tally.take(connection).await?;
            return Ok(gone.len() as u64);
        }
        Past::Nonces => {
            "DELETE FROM nonce WHERE (access_key, nonce) IN (SELECT access_key, nonce FROM nonce WHERE seen_ms < $1 LIMIT $2)"
        }
        Past::Invitations => {
            "DELETE FROM join_token WHERE id IN (SELECT id FROM join_token WHERE expires_ms < $1 LIMIT $2)"
        }
        Past::Days => {
            "DELETE FROM quota_use WHERE (account, day, bucket) IN \
             (SELECT account, day, bucket FROM quota_use WHERE day < $1 LIMIT $2)"
        }
    };
    let done = sqlx::query(statement).bind(signed(before)).bind(FORGOTTEN_BATCH_MAX as i64).execute(connection).await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use tempfile::TempDir;

    use super::*;
    use crate::testing::state;

    #[tokio::test]
    async fn a_task_of_many_chunks_is_forgotten_without_a_look_at_all_of_them_for_each() {
        let dir = TempDir::new().unwrap();
        let state = state(&dir, &[]).await;
        let On::Sql(pool) = state.read().unwrap() else { panic!("it is a database") };
        let sql = format!("EXPLAIN QUERY PLAN {FORGET_CHUNKS}");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| text(row, "detail").unwrap()).collect();
        // The minimum and maximum of a task are the ends of its range in an index.
        for look in ["ended USING INDEX chunk_finished", "first USING COVERING INDEX chunk_task_finished (task=?)"] {
            assert!(plan.iter().any(|step| step.contains(look)), "{look}: {plan:?}");
        }
    }
}
