//! The control plane's persistent state: one store, in SQLite, PostgreSQL or (for simulations) maps, and every SQL
//! statement of the product.
//!
//! Values in, values out; a transaction never leaves this module. One SQL text serves both engines: only `BIGINT` and
//! `TEXT` columns, no nulls, only statements that both understand (docs/decisions/0002). The one difference is
//! `Engine::begin`. Beside each statement is its equivalent on maps (`memory`); decisions are made once, above both
//! (docs/decisions/0008).
//!
//! # What always holds
//!
//! - The log's revision comes from a row updated inside the writing transaction, so entries become visible in order.
//! - A batch of submissions is one transaction, on stable storage before any caller is answered (`synchronous=FULL` on
//!   SQLite; on PostgreSQL `synchronous_commit` is `on` by default).
//! - Writers of one process take turns, so that they never have to poll for SQLite's lock.
//!
//! # Not here
//!
//! What may be submitted, and what the rows mean to a user (`app`).

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Revision;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Any, AnyConnection, AnyPool, Connection, Executor, Row, Transaction};

use crate::config::StateUrl;

pub mod access;
pub mod accounts;
pub mod audit;
mod certificates;
pub mod chunks;
pub mod completions;
pub mod domains;
pub mod figures;
pub mod identity;
pub mod labels;
pub mod log;
pub mod memory;
pub mod nodes;
pub mod owners;
mod schema;
mod shares;
mod spending;
pub mod steering;
pub mod submit;

use memory::Tables;

pub use identity::Identity;

/// The most connections kept to the database, besides the writer's.
const CONNECTIONS_MAX: u32 = 6;

/// How long a statement waits while another process (an operator's verb, a backup) writes to SQLite.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Why an operation on the state failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The database failed or could not be reached.
    #[error("state database")]
    Database(#[from] sqlx::Error),
    /// A row that this program cannot have written.
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
    /// The database could not be opened.
    #[error("state database {place}")]
    Open {
        /// The file, or host and name; never a password.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The SQLite file or its folder could not be made.
    #[error("make `{}`", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl StateError {
    /// Whether the connection was refused: no server listens at the database's address.
    pub(crate) fn is_refused(&self) -> bool {
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        matches!(self, StateError::Open { source: sqlx::Error::Io(error), .. } if refused(error))
    }
}

/// The two engines, where their SQL differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// How a writing transaction begins. SQLite takes its write lock at once: otherwise a transaction that has read
    /// could find at its first write that another one wrote first.
    fn begin(self) -> &'static str {
        match self {
            Engine::Sqlite => "BEGIN IMMEDIATE",
            Engine::Postgres => "BEGIN",
        }
    }

    /// Whether the error may be transient: another process has SQLite's lock, or PostgreSQL is starting.
    fn may_pass(self, error: &sqlx::Error) -> bool {
        let Some(code) = error.as_database_error().and_then(|error| error.code()) else { return false };
        match self {
            // SQLITE_BUSY, whatever the extended code.
            Engine::Sqlite => code.parse::<u32>().is_ok_and(|code| code & 0xff == 5),
            Engine::Postgres => code == "57P03",
        }
    }
}

/// The two kinds of storage, and what represents them in a read or a write.
#[derive(Clone)]
enum On<S, M> {
    /// A database.
    Sql(S),
    /// Maps.
    Memory(M),
}

/// A database and its engine.
#[derive(Clone)]
struct Sql {
    pool: AnyPool,
    engine: Engine,
}

impl Sql {
    async fn begin(&self) -> Result<Transaction<'static, Any>, StateError> {
        Ok(self.pool.begin_with(self.engine.begin()).await?)
    }
}

/// The store. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct State {
    store: On<Sql, memory::Handle>,
    /// Held while this process writes.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A writing transaction and this process's turn to write. Rolled back if dropped.
pub(crate) struct Writing {
    tx: On<Transaction<'static, Any>, memory::Draft>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Writing {
    /// Where statements are executed.
    fn on(&mut self) -> On<&mut AnyConnection, &mut Tables> {
        match &mut self.tx {
            On::Sql(tx) => On::Sql(tx),
            On::Memory(draft) => On::Memory(&mut draft.tables),
        }
    }

    /// Commits. On return the transaction is on stable storage.
    async fn commit(self) -> Result<(), StateError> {
        match self.tx {
            On::Sql(tx) => Ok(tx.commit().await?),
            On::Memory(draft) => draft.commit(),
        }
    }
}

impl State {
    /// Opens the database, creates it if it is a SQLite file that does not exist, and brings its schema up to date.
    pub async fn open(url: &StateUrl) -> Result<State, StateError> {
        sqlx::any::install_default_drivers();
        let (engine, address, place) = match url.sqlite_path() {
            Some(path) => {
                make_file(&path)?;
                // The address is parsed as a URL, in which these two characters would not be part of the path.
                let escaped = path.display().to_string().replace('%', "%25").replace('?', "%3F");
                (Engine::Sqlite, format!("sqlite:{escaped}?mode=rwc"), format!("`{}`", path.display()))
            }
            None => (Engine::Postgres, url.expose().to_owned(), server(url.expose())),
        };
        let sql = connect(engine, &address).await.map_err(|error| match error {
            StateError::Database(source) => StateError::Open { place, source },
            other => other,
        })?;
        Ok(State { store: On::Sql(sql), turn: Arc::default() })
    }

    /// An empty store that vanishes with its last clone, for simulations and tests. It needs no async runtime, only
    /// polling, and is deterministic. [`memory::Memory::open`] makes one that fails on demand.
    pub fn in_memory() -> State {
        memory::Memory::default().open(&memory::Faults::default())
    }

    /// Begins a writing transaction, once it is this caller's turn.
    async fn write(&self) -> Result<Writing, StateError> {
        let turn = self.turn.clone().lock_owned().await;
        let tx = match &self.store {
            On::Sql(sql) => On::Sql(sql.begin().await?),
            On::Memory(memory) => On::Memory(memory.begin()?),
        };
        Ok(Writing { tx, _turn: turn })
    }

    /// Where a read without a transaction is executed: it sees what is committed now.
    fn read(&self) -> Result<On<&AnyPool, Arc<Tables>>, StateError> {
        match &self.store {
            On::Sql(sql) => Ok(On::Sql(&sql.pool)),
            On::Memory(memory) => Ok(On::Memory(memory.read()?)),
        }
    }

    /// Closes every connection. A store in memory stays usable.
    pub async fn close(&self) {
        match &self.store {
            On::Sql(sql) => sql.pool.close().await,
            On::Memory(_) => {}
        }
    }
}

/// Creates a missing SQLite file, accessible to its owner only: it holds users' URL signing keys. SQLite gives the
/// files beside it the same permissions.
fn make_file(path: &Path) -> Result<(), StateError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StateError::Make { path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    // An existing file is not opened: closing it would release the locks of other connections of this process.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// Host and database of a PostgreSQL URL.
fn server(url: &str) -> String {
    let Ok(options) = url.parse::<PgConnectOptions>() else { return "of PostgreSQL".to_owned() };
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("`{}` at {host}", options.get_database().unwrap_or(options.get_username()))
}

/// Connects and brings the schema up to date.
async fn connect(engine: Engine, address: &str) -> Result<Sql, StateError> {
    // Once without the pool, which would retry until its timeout and then report only that.
    let first = async {
        let mut connection = AnyConnection::connect(address).await?;
        settle(engine, &mut connection).await?;
        connection.close().await
    };
    let late = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    match tokio::time::timeout(BUSY_WAIT, first).await.map_err(late)? {
        Err(error) if !engine.may_pass(&error) => return Err(error.into()),
        _ => {}
    }
    let pool = AnyPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(BUSY_WAIT)
        .after_connect(move |connection, _| Box::pin(settle(engine, connection)))
        .connect(address)
        .await?;
    let sql = Sql { pool, engine };
    schema::migrate(&sql).await?;
    Ok(sql)
}

/// Configures a new connection for its engine.
async fn settle(engine: Engine, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    if engine == Engine::Sqlite {
        // FULL syncs the write-ahead log at every commit: an acknowledged task survives a power cut.
        let busy = BUSY_WAIT.as_millis();
        let pragmas = format!("PRAGMA busy_timeout={busy}; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL");
        connection.execute(sqlx::AssertSqlSafe(pragmas)).await?;
    }
    Ok(())
}

/// The counters, each a row.
#[derive(Clone, Copy)]
enum Counter {
    /// The head of the log.
    Revision,
    /// The revision that the log was compacted to.
    Compacted,
    /// The last id of a task.
    Task,
    /// The last id of a chunk.
    Chunk,
    /// The last id of a record of the audit log.
    Audit,
}

impl Counter {
    fn name(self) -> &'static str {
        match self {
            Counter::Revision => "revision",
            Counter::Compacted => "compacted",
            Counter::Task => "task",
            Counter::Chunk => "chunk",
            Counter::Audit => "audit",
        }
    }
}

/// The value of a counter as it is committed now.
async fn counter(state: &State, counter: Counter) -> Result<u64, StateError> {
    match state.read()? {
        On::Sql(pool) => {
            let row =
                sqlx::query("SELECT value FROM counter WHERE name = $1").bind(counter.name()).fetch_one(pool).await?;
            unsigned(&row, "value")
        }
        On::Memory(tables) => Ok(tables.counter(counter)),
    }
}

/// Adds `by` to a counter and returns its value. With `by` zero it only takes the row's lock, which serialises all
/// writers.
async fn count_up(writing: &mut Writing, counter: Counter, by: u64) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("UPDATE counter SET value = value + $1 WHERE name = $2 RETURNING value")
                .bind(signed(by))
                .bind(counter.name())
                .fetch_one(connection)
                .await?;
            unsigned(&row, "value")
        }
        On::Memory(tables) => Ok(tables.count_up(counter, by)),
    }
}

/// Numbers are stored signed because SQL has no unsigned ones; none of ours comes near the maximum.
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

/// Milliseconds since 1970 on the wall clock, as times are stored.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
