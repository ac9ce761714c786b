//! The audit log: who changed what and when, and how it ended.
//!
//! # What always holds
//!
//! - Every change has a record. The record of a call is written in the transaction that spends its nonce: before
//!   anything is done, with [`BEGUN`] as its outcome, or together with a submission, with the final outcome. An old
//!   record that still says `begun` means that the outcome was not recorded, most likely because the process ended
//!   first.
//! - A record holds no secret and has a bounded size; the number of records is bounded by age and by [`ROWS_MAX`].
//! - Record numbers rise; the records of one process are in the order of their numbers and of their times.
//!
//! # Not here
//!
//! Which facts of a call are recorded (`api::told`), and how outcomes are expressed as codes.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::{Counter, On, State, StateError, Writing, count_up, json, signed, text, to_json, unsigned};

/// The outcome of an action that is not known to have ended.
pub const BEGUN: &str = "begun";

/// The outcome of a completed action.
pub const OK: &str = "OK";

/// Records kept over all accounts; the oldest are deleted first. About four gigabytes at the usual size of a record.
pub const ROWS_MAX: u64 = 10_000_000;

/// Records in one statement: with fourteen values each, below the limits of both engines.
const INSERTED_BATCH_MAX: usize = 64;

/// Records deleted in one transaction, so that no writer waits long.
const FORGOTTEN_BATCH_MAX: u64 = 2_000;

/// Who did what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
    /// The id of the request; an operator's verb has an id of its own.
    pub request: String,
    /// The calling account, or the one an operator's verb is about; empty if it is about none.
    pub account: String,
    /// The user of the account; empty for a key of the account itself.
    pub user: String,
    /// The access key; empty for an operator, who needs none.
    pub key: String,
    /// The id of the temporary credentials; empty if the key itself signed.
    pub session: String,
    /// `Cdn`, `vod`, or `operator`.
    pub product: String,
    /// The action, or the operator's verb.
    pub action: String,
    /// The domains it is about, as far as they are recorded.
    pub domains: Vec<String>,
    /// Further facts, by name.
    pub detail: BTreeMap<String, String>,
    /// The address it came from; empty if unknown.
    pub source: String,
    /// [`BEGUN`], [`OK`], or the code it was refused with.
    pub outcome: String,
}

impl Record {
    /// When it ended, as far as the record itself says; zero: not yet.
    pub(super) fn ended_ms(&self) -> u64 {
        if self.outcome == BEGUN { 0 } else { self.at_ms }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its number.
    pub id: u64,
    /// Its content.
    pub record: Record,
    /// When it ended, in milliseconds since 1970; zero if unknown.
    pub ended_ms: u64,
}

/// Which records are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Records of this account; if absent, of all accounts and of none.
    pub account: Option<String>,
    /// The start, in milliseconds since 1970.
    pub from_ms: u64,
    /// The end, inclusive.
    pub to_ms: u64,
    /// Only records older than the one with this time and number.
    pub before: Option<(u64, u64)>,
}

impl Window {
    pub(super) fn has(&self, row: &Recorded) -> bool {
        let at = (row.record.at_ms, row.id);
        self.account.as_ref().is_none_or(|account| *account == row.record.account)
            && (self.from_ms..=self.to_ms).contains(&at.0)
            && self.before.is_none_or(|before| at < before)
    }
}

/// Conditions on records besides their window. All that are present must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The action, or the operator's verb.
    pub action: Option<String>,
    /// A domain that it is about, lower case.
    pub domain: Option<String>,
    /// The user.
    pub user: Option<String>,
}

impl Wanted {
    fn is(&self, record: &Record) -> bool {
        self.action.as_ref().is_none_or(|action| *action == record.action)
            && self.domain.as_ref().is_none_or(|domain| record.domains.contains(domain))
            && self.user.as_ref().is_none_or(|user| *user == record.user)
    }
}

/// Records that one search reads; a further search can continue where it ended.
const SEARCHED_MAX: usize = 10_000;

/// Records read at a time.
const READ_BATCH_MAX: u32 = 500;

impl State {
    /// The newest `most` records of a window that match `wanted`, newest first, and the position to continue from;
    /// `None` there when no older ones are left. A search reads a bounded number of records, so it may return fewer
    /// than there are; the position then says where to continue.
    pub async fn search_records(
        &self,
        mut window: Window,
        wanted: &Wanted,
        most: usize,
    ) -> Result<(Vec<Recorded>, Option<(u64, u64)>), StateError> {
        let mut found = Vec::new();
        let mut read = 0;
        loop {
            let rows = self.records(&window, READ_BATCH_MAX).await?;
            let is_last = rows.len() < READ_BATCH_MAX as usize;
            for row in rows {
                read += 1;
                let at = (row.record.at_ms, row.id);
                if found.len() == most {
                    return Ok((found, window.before));
                }
                window.before = Some(at);
                if wanted.is(&row.record) {
                    found.push(row);
                }
            }
            if is_last {
                return Ok((found, None));
            }
            if read >= SEARCHED_MAX {
                return Ok((found, window.before));
            }
        }
    }

    /// Records an action that is about to be done; returns the record's number.
    pub async fn begin_record(&self, record: &Record) -> Result<u64, StateError> {
        let mut writing = self.write().await?;
        let id = insert(&mut writing, &[record]).await?;
        writing.commit().await?;
        Ok(id)
    }

    /// Records the outcome of an action.
    pub async fn end_record(&self, id: u64, outcome: &str, ended_ms: u64) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        end(&mut writing, id, outcome, ended_ms).await?;
        writing.commit().await
    }

    /// The newest `most` records of a window, newest first.
    pub async fn records(&self, window: &Window, most: u32) -> Result<Vec<Recorded>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let of_account = if window.account.is_some() { "AND account = $5 " } else { "" };
                let sql = format!(
                    "SELECT * FROM audit WHERE at_ms >= $1 AND at_ms <= $2 AND (at_ms < $3 OR (at_ms = $3 AND id < $4)) \
                     {of_account}ORDER BY at_ms DESC, id DESC LIMIT {most}"
                );
                let (before_ms, before_id) = window.before.unwrap_or((u64::MAX, u64::MAX));
                let mut query = sqlx::query(AssertSqlSafe(sql))
                    .bind(signed(window.from_ms))
                    .bind(signed(window.to_ms))
                    .bind(signed(before_ms))
                    .bind(signed(before_id));
                if let Some(account) = &window.account {
                    query = query.bind(account);
                }
                query.fetch_all(pool).await?.iter().map(recorded).collect()
            }
            On::Memory(tables) => Ok(tables.records(window, most)),
        }
    }

    /// Deletes records from before `before_ms`, and the oldest beyond `rows_max`, in many small transactions; returns
    /// how many.
    pub async fn forget_records(&self, before_ms: u64, rows_max: u64) -> Result<u64, StateError> {
        let mut forgotten = 0;
        loop {
            let upto = self.record_span().await?.map_or(0, |(_, newest)| newest.saturating_sub(rows_max));
            let mut writing = self.write().await?;
            let count = match writing.on() {
                On::Sql(connection) => {
                    let done = sqlx::query(
                        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < $1 OR id <= $2 LIMIT $3)",
                    )
                    .bind(signed(before_ms))
                    .bind(signed(upto))
                    .bind(signed(FORGOTTEN_BATCH_MAX))
                    .execute(connection)
                    .await?;
                    done.rows_affected()
                }
                On::Memory(tables) => tables.forget_records(before_ms, upto, FORGOTTEN_BATCH_MAX),
            };
            writing.commit().await?;
            forgotten += count;
            if count < FORGOTTEN_BATCH_MAX {
                return Ok(forgotten);
            }
        }
    }

    /// The lowest and the highest number of a record; `None` if there is none. Numbers have few gaps, so the difference
    /// gives the number of records without counting them.
    pub async fn record_span(&self) -> Result<Option<(u64, u64)>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let row = sqlx::query(
                    "SELECT COALESCE((SELECT MIN(id) FROM audit), 0) AS low, COALESCE((SELECT MAX(id) FROM audit), 0) AS high",
                )
                .fetch_one(pool)
                .await?;
                let span = (unsigned(&row, "low")?, unsigned(&row, "high")?);
                Ok(Some(span).filter(|(_, high)| *high > 0))
            }
            On::Memory(tables) => Ok(tables.record_span()),
        }
    }
}

/// Inserts new records; returns the number of the last.
pub(super) async fn insert(writing: &mut Writing, records: &[&Record]) -> Result<u64, StateError> {
    let last = count_up(writing, Counter::Audit, records.len() as u64).await?;
    let mut id = last - records.len() as u64;
    for some in records.chunks(INSERTED_BATCH_MAX) {
        match writing.on() {
            On::Sql(connection) => {
                let mut sql = String::from(
                    "INSERT INTO audit (id, at_ms, request, account, user_name, access_key, session, product, action, domains, \
                     detail, source, outcome, ended_ms) VALUES ",
                );
                for at in 0..some.len() {
                    let places: Vec<String> = (at * 14 + 1..=at * 14 + 14).map(|place| format!("${place}")).collect();
                    sql.push_str(if at > 0 { ", (" } else { "(" });
                    sql.push_str(&places.join(", "));
                    sql.push(')');
                }
                let mut query = sqlx::query(AssertSqlSafe(sql));
                for record in some {
                    id += 1;
                    query = query
                        .bind(signed(id))
                        .bind(signed(record.at_ms))
                        .bind(&record.request)
                        .bind(&record.account)
                        .bind(&record.user)
                        .bind(&record.key)
                        .bind(&record.session)
                        .bind(&record.product)
                        .bind(&record.action)
                        .bind(record.domains.join(" "))
                        .bind(to_json(&record.detail))
                        .bind(&record.source)
                        .bind(&record.outcome)
                        .bind(signed(record.ended_ms()));
                }
                query.execute(connection).await?;
            }
            On::Memory(tables) => {
                for record in some {
                    id += 1;
                    tables.add_record(id, Record::clone(record));
                }
            }
        }
    }
    Ok(last)
}

/// Records an outcome. A record deleted meanwhile stays deleted.
pub(super) async fn end(writing: &mut Writing, id: u64, outcome: &str, ended_ms: u64) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("UPDATE audit SET outcome = $1, ended_ms = $2 WHERE id = $3")
                .bind(outcome)
                .bind(signed(ended_ms))
                .bind(signed(id))
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => tables.end_record(id, outcome, ended_ms),
    }
    Ok(())
}

fn recorded(row: &AnyRow) -> Result<Recorded, StateError> {
    let domains = text(row, "domains")?;
    let record = Record {
        at_ms: unsigned(row, "at_ms")?,
        request: text(row, "request")?,
        account: text(row, "account")?,
        user: text(row, "user_name")?,
        key: text(row, "access_key")?,
        session: text(row, "session")?,
        product: text(row, "product")?,
        action: text(row, "action")?,
        domains: domains.split_whitespace().map(str::to_owned).collect(),
        detail: json(row, "detail")?,
        source: text(row, "source")?,
        outcome: text(row, "outcome")?,
    };
    Ok(Recorded { id: unsigned(row, "id")?, record, ended_ms: unsigned(row, "ended_ms")? })
}
