//! The control plane's memory: one database, SQLite or PostgreSQL, and every SQL statement of the product.
//!
//! Values in, values out; a transaction never leaves this module. One SQL text serves both engines: only `BIGINT` and `TEXT`
//! columns, no nulls, statements in the subset both speak (docs/decisions/0002). What must differ is `Engine::begin`.
//!
//! # What always holds
//!
//! - The log's revision is taken from a row updated inside the writing transaction, so entries become visible in order.
//! - A batch of submissions is one transaction, on stable storage before anybody is answered (`synchronous=FULL` on
//!   SQLite; `synchronous_commit` is PostgreSQL's default `on`).
//! - Inside one process writers take turns, so that SQLite never makes them poll for its lock.
//!
//! # Not here
//!
//! What may be submitted, and what the rows mean to a user (`app`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Revision;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyConnection, AnyPool, Executor, Row, Transaction};

use crate::config::StateUrl;

pub mod accounts;
pub mod chunks;
pub mod completions;
pub mod identity;
pub mod log;
pub mod nodes;
mod schema;
pub mod submit;

pub use identity::Identity;

/// Connections kept to the database, beside the writer's.
const CONNECTIONS_MAX: u32 = 6;

/// How long a statement waits for another process that writes (an operator's verb, a backup) to SQLite.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Why the state could not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The database failed or could not be reached.
    #[error("state database")]
    Database(#[from] sqlx::Error),
    /// A row that this program did not write like that.
    #[error("state database: {what} is damaged")]
    Corrupt {
        /// Table and row.
        what: String,
    },
    /// Written by a later version of the program.
    #[error("state database has schema {found}, this program knows {known}")]
    Newer {
        /// Version in the database.
        found: i64,
        /// Version of this program.
        known: i64,
    },
    /// The folder of the SQLite file could not be made.
    #[error("state folder")]
    Folder(#[source] std::io::Error),
}

/// The two engines, where their SQL differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// How a writing transaction begins. SQLite takes its write lock at once, so that a transaction that has read never
    /// finds at its first write that another was faster.
    fn begin(self) -> &'static str {
        match self {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN",
        }
    }
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pool: AnyPool,
    engine: Engine,
    /// Held while this process writes.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A writing transaction and this process's turn to write.
pub(crate) struct Writing {
    tx: Transaction<'static, Any>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Writing {
    fn connection(&mut self) -> &mut AnyConnection {
        &mut self.tx
    }

    /// On return the transaction is on stable storage.
    async fn commit(self) -> Result<(), StateError> {
        Ok(self.tx.commit().await?)
    }
}

impl State {
    /// Opens the database, makes it when it is a SQLite file that does not exist, and brings its schema up to date.
    pub async fn open(url: &StateUrl) -> Result<State, StateError> {
        sqlx::any::install_default_drivers();
        let (engine, address) = match url.sqlite_path() {
            Some(path) => {
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    std::fs::create_dir_all(folder).map_err(StateError::Folder)?;
                }
                (Engine::Sqlite, format!("sqlite:{}?mode=rwc", path.display()))
            }
            None => (Engine::Postgres, url.expose().to_owned()),
        };
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(BUSY_WAIT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if engine == Engine::Sqlite {
                        // FULL syncs the write-ahead log at every commit: an acknowledged task survives a power cut.
                        let busy = BUSY_WAIT.as_millis();
                        let pragmas =
                            format!("PRAGMA busy_timeout={busy}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
                        connection.execute(sqlx::AssertSqlSafe(pragmas)).await?;
                    }
                    Ok(())
                })
            })
            .connect(&address)
            .await?;
        let state = State { pool, engine, turn: Arc::default() };
        schema::migrate(&state).await?;
        Ok(state)
    }

    /// Begins to write, when it is this caller's turn.
    async fn write(&self) -> Result<Writing, StateError> {
        let turn = self.turn.clone().lock_owned().await;
        let tx = self.pool.begin_with(self.engine.begin()).await?;
        Ok(Writing { tx, _turn: turn })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The value of a counter, after `by` was added. With `by` zero it takes the row's lock, and so the turn of all writers.
async fn count_up(connection: &mut AnyConnection, counter: &'static str, by: u64) -> Result<u64, StateError> {
    let row = sqlx::query("UPDATE counter SET value = value + $1 WHERE name = $2 RETURNING value")
        .bind(signed(by))
        .bind(counter)
        .fetch_one(connection)
        .await?;
    unsigned(&row, "value")
}

/// Numbers are kept signed because SQL has no others; none of ours comes near the top.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &AnyRow, column: &'static str) -> Result<u64, StateError> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| StateError::Corrupt { what: format!("{column} {number}") })
}

fn revision(row: &AnyRow, column: &'static str) -> Result<Revision, StateError> {
    unsigned(row, column).map(Revision)
}

fn text(row: &AnyRow, column: &'static str) -> Result<String, StateError> {
    Ok(row.try_get(column)?)
}

fn json<T: for<'de> serde::Deserialize<'de>>(row: &AnyRow, column: &'static str) -> Result<T, StateError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|error| StateError::Corrupt { what: format!("{column}: {error}") })
}

fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our own types have string keys and no failing serialiser")
}

/// Milliseconds since 1970 on the wall, as times are kept.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
