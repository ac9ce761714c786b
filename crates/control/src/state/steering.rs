//! Steering: which prefetches of an account go first, which wait for a start time, and which are paused or cancelled.
//!
//! It is stored with the chunks, so every control plane on the database finds it, whichever one received it. Each
//! steering takes a number from the sequence that counts chunks, under its lock. So numbers become visible in order,
//! and a reader that asks for numbers above the last one it saw misses nothing.
//!
//! # What always holds
//!
//! - Tasks that are named together are steered together or not at all.
//! - A chunk that has ended is never steered; cancelling ends it in the database at once, whether it is loaded anywhere
//!   or not.
//! - A domain whose name is released has no open prefetches: they were cancelled, so the next owner inherits none.
//! - The deadline counts from [`Steering::from_ms`], the time from which a chunk may run; pauses shift it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use model::DomainName;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::{Counter, On, State, StateError, Writing, count_up, counter, signed, text, unsigned};

/// The range of priorities; higher ones go first.
pub const PRIORITIES: RangeInclusive<u8> = 1..=9;

/// The priority of a task that was given none.
pub const PRIORITY_USUAL: u8 = 5;

/// Chunks that are cancelled in one transaction when their domain is deleted.
pub(super) const CANCELLED_BATCH_MAX: u64 = 2_000;

/// How a chunk is steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    /// One of [`PRIORITIES`].
    pub priority: u8,
    /// The time from which it may run and its deadline counts, in milliseconds since 1970.
    pub from_ms: u64,
    /// Since when it is paused; zero while it is not.
    pub paused_ms: u64,
    /// When it was cancelled; zero if it was not.
    pub cancelled_ms: u64,
}

impl Steering {
    /// With the usual priority, from this time on.
    pub fn from(from_ms: u64) -> Steering {
        Steering { priority: PRIORITY_USUAL, from_ms, paused_ms: 0, cancelled_ms: 0 }
    }

    /// Whether jobs may be given out.
    pub fn may_run(&self, now_ms: u64) -> bool {
        self.paused_ms == 0 && self.cancelled_ms == 0 && self.from_ms <= now_ms
    }

    /// The result of applying `steer`.
    fn after(mut self, steer: Steer, now_ms: u64) -> Steering {
        match steer {
            Steer::Pause if self.paused_ms == 0 => self.paused_ms = now_ms.max(1),
            Steer::Pause => {}
            Steer::Resume => {
                // The deadline stood still while the chunk was paused but could otherwise have run.
                let stood =
                    if self.paused_ms > 0 { now_ms.saturating_sub(self.paused_ms.max(self.from_ms)) } else { 0 };
                self.from_ms += stood;
                self.paused_ms = 0;
            }
            Steer::Cancel => self.cancelled_ms = now_ms.max(1),
            Steer::Priority(priority) => self.priority = priority,
        }
        self
    }
}

/// An instruction for tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// No job of them is begun until they are resumed.
    Pause,
    /// They continue.
    Resume,
    /// What has not been done will not be.
    Cancel,
    /// They get this priority.
    Priority(u8),
}

/// An open prefetch chunk without its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The chunk.
    pub id: u64,
    /// How many objects it has.
    pub urls: u64,
    /// How it is steered.
    pub steering: Steering,
}

/// A chunk that was steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steered {
    /// The number of the steering, and the chunk: the position to read on from.
    pub at: (u64, u64),
    /// The account it belongs to.
    pub account: String,
    /// How it is steered now.
    pub steering: Steering,
}

/// Why tasks were not steered. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSteered {
    /// The account has no prefetch of this id.
    NoTask(u64),
    /// The prefetch of this id has ended.
    Ended(u64),
}

impl State {
    /// Steers prefetches of `account`; returns how many objects of each have not ended, in the order of `tasks`.
    pub async fn steer(
        &self,
        account: &str,
        tasks: &[u64],
        steer: Steer,
        now_ms: u64,
    ) -> Result<Result<Vec<u64>, NotSteered>, StateError> {
        let mut writing = self.write().await?;
        // First, because this takes the lock as well.
        let number = count_up(&mut writing, Counter::Chunk, 1).await?;
        let chunks = of_tasks(&mut writing, account, tasks).await?;
        let mut open: BTreeMap<u64, u64> = BTreeMap::new();
        for (task, chunk, finished) in &chunks {
            *open.entry(*task).or_default() += if *finished { 0 } else { chunk.urls };
        }
        for task in tasks {
            match open.get(task) {
                None => return Ok(Err(NotSteered::NoTask(*task))),
                Some(0) => return Ok(Err(NotSteered::Ended(*task))),
                Some(_) => {}
            }
        }
        for (_, chunk, _) in chunks.iter().filter(|(_, _, finished)| !finished) {
            set(&mut writing, number, chunk.id, chunk.steering.after(steer, now_ms)).await?;
        }
        writing.commit().await?;
        Ok(Ok(tasks.iter().filter_map(|task| open.get(task).copied()).collect()))
    }

    /// Task and domain of those of these tasks that are prefetches of `account`.
    pub async fn domains_of_prefetches(&self, account: &str, tasks: &[u64]) -> Result<Vec<(u64, String)>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let sql = format!(
                    "SELECT DISTINCT task, domain FROM chunk WHERE task IN ({}) AND account = $1 AND kind = 'prefetch'",
                    list(tasks)
                );
                let rows = sqlx::query(AssertSqlSafe(sql)).bind(account).fetch_all(pool).await?;
                rows.iter().map(|row| Ok((unsigned(row, "task")?, text(row, "domain")?))).collect()
            }
            On::Memory(tables) => Ok(tables.domains_of_prefetches(account, tasks)),
        }
    }

    /// The number of the last steering, or a higher one: every later steering has a number above it.
    pub async fn last_steering(&self) -> Result<u64, StateError> {
        counter(self, Counter::Chunk).await
    }

    /// Chunks steered after this number and chunk, in that order.
    pub async fn steered_after(&self, after: (u64, u64), most: u32) -> Result<Vec<Steered>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT id, account, priority, from_ms, paused_ms, cancelled_ms, steered FROM chunk \
                     WHERE steered > 0 AND (steered, id) > ($1, $2) ORDER BY steered, id LIMIT $3",
                )
                .bind(signed(after.0))
                .bind(signed(after.1))
                .bind(i64::from(most))
                .fetch_all(pool)
                .await?;
                let steered = |row: &AnyRow| {
                    Ok(Steered {
                        at: (unsigned(row, "steered")?, unsigned(row, "id")?),
                        account: text(row, "account")?,
                        steering: steering(row)?,
                    })
                };
                rows.iter().map(steered).collect()
            }
            On::Memory(tables) => Ok(tables.steered_after(after, most)),
        }
    }

    /// Marks open chunks as steered without changing them, so that every reader of steerings finds them.
    pub async fn offer(&self, ids: &[u64]) -> Result<(), StateError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut writing = self.write().await?;
        let number = count_up(&mut writing, Counter::Chunk, 1).await?;
        match writing.on() {
            On::Sql(connection) => {
                let sql = format!("UPDATE chunk SET steered = $1 WHERE id IN ({}) AND finished_ms = 0", list(ids));
                sqlx::query(AssertSqlSafe(sql)).bind(signed(number)).execute(connection).await?;
            }
            On::Memory(tables) => tables.offer(number, ids),
        }
        writing.commit().await
    }

    /// Those of these chunks that have ended other than by cancellation.
    pub async fn ended(&self, ids: &[u64]) -> Result<Vec<u64>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let sql = format!(
                    "SELECT id FROM chunk WHERE id IN ({}) AND finished_ms > 0 AND cancelled_ms = 0 ORDER BY id",
                    list(ids)
                );
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await?;
                rows.iter().map(|row| unsigned(row, "id")).collect()
            }
            On::Memory(tables) => Ok(tables.ended(ids)),
        }
    }

    /// Open prefetches of `account` after the chunk `after`, oldest first.
    pub async fn open_prefetches(&self, account: &str, after: u64, most: u32) -> Result<Vec<Standing>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT id, lines, priority, from_ms, paused_ms, cancelled_ms FROM chunk \
                     WHERE account = $1 AND finished_ms = 0 AND id > $2 AND kind = 'prefetch' ORDER BY id LIMIT $3",
                )
                .bind(account)
                .bind(signed(after))
                .bind(i64::from(most))
                .fetch_all(pool)
                .await?;
                rows.iter().map(standing).collect()
            }
            On::Memory(tables) => Ok(tables.open_prefetches(account, after, most)),
        }
    }
}

/// The steering in a row of a chunk.
pub(super) fn steering(row: &AnyRow) -> Result<Steering, StateError> {
    let priority = unsigned(row, "priority")?;
    Ok(Steering {
        priority: u8::try_from(priority).unwrap_or(PRIORITY_USUAL),
        from_ms: unsigned(row, "from_ms")?,
        paused_ms: unsigned(row, "paused_ms")?,
        cancelled_ms: unsigned(row, "cancelled_ms")?,
    })
}

fn standing(row: &AnyRow) -> Result<Standing, StateError> {
    Ok(Standing { id: unsigned(row, "id")?, urls: unsigned(row, "lines")?, steering: steering(row)? })
}

/// The prefetch chunks of these tasks, each with its task and whether it has ended.
async fn of_tasks(
    writing: &mut Writing,
    account: &str,
    tasks: &[u64],
) -> Result<Vec<(u64, Standing, bool)>, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let sql = format!(
                "SELECT task, id, lines, priority, from_ms, paused_ms, cancelled_ms, finished_ms FROM chunk \
                 WHERE task IN ({}) AND account = $1 AND kind = 'prefetch' ORDER BY id",
                list(tasks)
            );
            let rows = sqlx::query(AssertSqlSafe(sql)).bind(account).fetch_all(connection).await?;
            let one = |row: &AnyRow| {
                let finished: i64 = row.try_get("finished_ms")?;
                Ok((unsigned(row, "task")?, standing(row)?, finished > 0))
            };
            rows.iter().map(one).collect()
        }
        On::Memory(tables) => Ok(tables.prefetches_of(account, tasks)),
    }
}

/// Steers an open chunk; a cancelled one ends.
async fn set(writing: &mut Writing, number: u64, id: u64, steering: Steering) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "UPDATE chunk SET priority = $1, from_ms = $2, paused_ms = $3, cancelled_ms = $4, finished_ms = $4, steered = $5 \
                 WHERE id = $6 AND finished_ms = 0",
            )
            .bind(i64::from(steering.priority))
            .bind(signed(steering.from_ms))
            .bind(signed(steering.paused_ms))
            .bind(signed(steering.cancelled_ms))
            .bind(signed(number))
            .bind(signed(id))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => tables.steer(number, id, steering),
    }
    Ok(())
}

/// Cancels open prefetches of a domain of the account, at most [`CANCELLED_BATCH_MAX`]; returns how many.
pub(super) async fn cancel_some(
    writing: &mut Writing,
    account: &str,
    domain: &DomainName,
    now_ms: u64,
) -> Result<u64, StateError> {
    let number = count_up(writing, Counter::Chunk, 1).await?;
    let now_ms = now_ms.max(1); // zero would be open
    match writing.on() {
        On::Sql(connection) => {
            let sql = format!(
                "UPDATE chunk SET cancelled_ms = $1, finished_ms = $1, steered = $2 WHERE id IN (SELECT id FROM chunk \
                 WHERE account = $3 AND finished_ms = 0 AND kind = 'prefetch' AND domain = $4 LIMIT {CANCELLED_BATCH_MAX})"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(signed(now_ms)).bind(signed(number));
            let done = query.bind(account).bind(domain.as_str()).execute(connection).await?;
            Ok(done.rows_affected())
        }
        On::Memory(tables) => Ok(tables.cancel_some(number, account, domain, now_ms)),
    }
}

/// Our own numbers as the list of an SQL statement.
fn list(ids: &[u64]) -> String {
    // An empty list is not valid SQL: it becomes a list that matches nothing.
    let ids: Vec<String> =
        if ids.is_empty() { vec!["-1".to_owned()] } else { ids.iter().map(u64::to_string).collect() };
    ids.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_stands_still_for_as_long_as_a_chunk_could_have_run_and_was_paused() {
        let cases = [
            // from, paused at, resumed at, from then on
            (100, 300, 500, 300), // 200 of it were spent before the pause, and still are
            (100, 300, 300, 100),
            (900, 300, 500, 900), // it could not have run anyway
            (900, 300, 950, 950), // it could have, for 50
            (900, 900, 950, 950),
        ];
        for (from, paused, resumed, then) in cases {
            let steering = Steering::from(from).after(Steer::Pause, paused);
            assert!(!steering.may_run(u64::MAX), "{from} {paused}");
            assert_eq!(steering.after(Steer::Pause, paused + 7), steering, "once is enough");
            assert_eq!(steering.after(Steer::Resume, resumed), Steering::from(then), "{from} {paused} {resumed}");
        }
        assert_eq!(Steering::from(5).after(Steer::Resume, 77), Steering::from(5), "it was not paused");
    }

    #[test]
    fn chunk_may_run_from_its_moment_on_unless_it_is_paused_or_cancelled() {
        let steering = Steering::from(100);
        assert!(!steering.may_run(99) && steering.may_run(100));
        assert!(!steering.after(Steer::Cancel, 50).may_run(100));
        let first = steering.after(Steer::Priority(9), 50);
        assert_eq!((first.priority, first.may_run(100)), (9, true));
    }
}
