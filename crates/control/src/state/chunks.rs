//! Chunks: the rows that tasks are made of. A row holds up to some hundreds of URLs of one task and one domain, with
//! its progress as one value beside them; there is never a row per URL.

use std::collections::BTreeMap;

use model::topology::WarmTiers;
use model::{Cause, Coverage, DomainName, NodeName, Pin, Revision};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Row};

use super::completions::{self, Completion};
use super::steering::{self, Steering};
use super::{On, State, StateError, Writing, json, revision, signed, text, to_json, unsigned};

pub(super) use forgetting::Past;

mod forgetting;

/// The time span of one count of lines in the table `tally`, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// The most chunks of the tasks that one query names: some hundreds of tasks of some hundreds of URLs each.
const TASK_CHUNKS_MAX: u32 = 100_000;

/// The most open chunks that one query considers: the newest.
const OPEN_CHUNKS_MAX: u32 = 100_000;

/// Revisions of refreshes that are not complete.
const OPEN_REFRESHES: &str = "SELECT DISTINCT revision FROM chunk \
    WHERE finished_ms = 0 AND revision > 0 AND kind <> 'prefetch' ORDER BY revision LIMIT $1";

/// Completes the open refreshes of a range of revisions.
const COMPLETE_REFRESHES: &str = "UPDATE chunk SET finished_ms = $1 \
    WHERE finished_ms = 0 AND kind <> 'prefetch' AND revision >= $2 AND revision <= $3";

/// What a task does to its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Makes them resident.
    Prefetch,
    /// Invalidates files.
    RefreshFile,
    /// Invalidates directories.
    RefreshDirectory,
    /// Invalidates objects that match regular expressions.
    RefreshRegex,
    /// Invalidates paths whatever their query.
    RefreshIgnoreParams,
    /// Invalidates objects with a tag.
    RefreshTag,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Prefetch,
        Kind::RefreshFile,
        Kind::RefreshDirectory,
        Kind::RefreshRegex,
        Kind::RefreshIgnoreParams,
        Kind::RefreshTag,
    ];

    /// Whether each object is a task of its own, rather than one of many (spec, tasks: merge).
    pub(super) fn stands_alone(self) -> bool {
        matches!(self, Kind::RefreshDirectory | Kind::RefreshRegex)
    }

    /// As it is stored.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Prefetch => "prefetch",
            Kind::RefreshFile => "file",
            Kind::RefreshDirectory => "directory",
            Kind::RefreshRegex => "regex",
            Kind::RefreshIgnoreParams => "ignore_params",
            Kind::RefreshTag => "tag",
        }
    }

    fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How a chunk's work is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// Which regions a prefetch warms.
    pub area: Coverage,
    /// Which tiers it warms.
    #[serde(default)]
    pub warm: WarmTiers,
    /// Request headers of each variant that a prefetch fetches; empty for a refresh.
    #[serde(default)]
    pub variants: Vec<Vec<(String, String)>>,
    /// Whether its objects are stored under their URLs as submitted, even if users' requests for them have other keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verbatim: bool,
    /// Whether copies from before its submission are fetched again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refetch: bool,
    /// Whether, and until when, its objects stay in the stores that it warms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

impl Params {
    /// A placeholder for parameters that cannot be read.
    fn unknown() -> Params {
        Params {
            area: Coverage::Global,
            warm: WarmTiers::default(),
            variants: Vec::new(),
            verbatim: false,
            refetch: false,
            pin: None,
        }
    }
}

/// Some objects of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Rising in the order of submission.
    pub id: u64,
    /// The id users know.
    pub task: u64,
    /// The id of the first chunk of its call; zero if it was accepted by a version that did not record it.
    pub call: u64,
    /// The account it belongs to.
    pub account: String,
    /// The bucket that it was charged to; empty if it was accepted by a version that did not record it.
    pub bucket: String,
    /// The domain all objects belong to.
    pub domain: DomainName,
    /// What is done.
    pub kind: Kind,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: u64,
    /// The revision of its log entry for a refresh; the head of the log at submission for a prefetch.
    pub revision: Revision,
    /// The objects as submitted, with scheme.
    pub paths: Vec<String>,
    /// Its parameters.
    pub params: Params,
    /// How a prefetch is steered.
    pub steering: Steering,
    /// When it ended; zero while it has not.
    pub finished_ms: u64,
    /// The progress of a prefetch; empty for a refresh.
    pub progress: Progress,
    /// Whether this program cannot read its parameters, which a later version may have written. `params` is then
    /// meaningless.
    pub unreadable: bool,
}

/// The progress of a prefetch: for each job, where it is resident or why it failed.
///
/// A job's index is `(target * variants + variant) * paths + path`, with targets in the order kept here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The tiers of POPs it warms, as `POP/TIER`.
    #[serde(default)]
    pub targets: Vec<String>,
    /// The nodes that `resident` refers to.
    #[serde(default)]
    pub nodes: Vec<NodeName>,
    /// One number per job: zero while it is not resident, else one more than the index in `nodes` of the node that has
    /// it.
    #[serde(default)]
    pub resident: Vec<u32>,
    /// Jobs that will not become resident.
    #[serde(default)]
    pub failed: BTreeMap<u32, Cause>,
    /// Which node reported some of these failures: one more than its index in `told_by`, or zero for none; and when, in
    /// milliseconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed_at: BTreeMap<u32, (u32, u64)>,
    /// The nodes that `failed_at` refers to, including those that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub told_by: Vec<NodeName>,
    /// One pair per job: bytes of the resident object, and milliseconds that its fetch took, zero if it was there
    /// already. Empty until something is resident.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetched: Vec<(u64, u32)>,
    /// Jobs under way that reported their progress: bytes received, and bytes announced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub under_way: BTreeMap<u32, (u64, u64)>,
    /// The highest progress of each path that was shown, in hundredths of a percent: it never goes back. Empty until
    /// something is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<u16>,
    /// The shape of the keys under which objects are resident ([`model::Functions::shape`]).
    #[serde(default)]
    pub shape: u64,
}

impl Progress {
    /// A progress in which all of `paths` objects have failed, without a target that could be named.
    pub(crate) fn failed(paths: usize, cause: &Cause) -> Progress {
        Progress {
            targets: vec!["-".to_owned()],
            resident: vec![0; paths],
            failed: (0..paths as u32).map(|job| (job, cause.clone())).collect(),
            ..Progress::default()
        }
    }
}

/// Which chunks a query is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only of these tasks; any when empty.
    pub tasks: Vec<u64>,
    /// Only of this domain.
    pub domain: Option<String>,
    /// Only of these kinds; any when empty.
    pub kinds: Vec<Kind>,
    /// Submitted at or after this time, in milliseconds since 1970.
    pub from_ms: u64,
    /// Submitted at or before this time.
    pub to_ms: u64,
    /// Only those that have not ended.
    pub open: bool,
}

// Only our own words and numbers go into the text: a caller's text reaches a statement only as a parameter.
impl Filter {
    /// The chunks to choose from. If tasks are named, chunks are found by task; else, if only open ones are wanted, by
    /// that. A query planner that does not know how few those are would scan the account's whole history, in the order
    /// of the answer. The account is bound to `$1`.
    fn chunks(&self) -> String {
        let ids: Vec<String> = self.tasks.iter().map(u64::to_string).collect();
        let open = if self.open { " AND finished_ms = 0" } else { "" };
        let which = match (ids.is_empty(), self.open) {
            (true, false) => return "chunk".to_owned(),
            (true, true) => format!("account = $1{open} ORDER BY id DESC LIMIT {OPEN_CHUNKS_MAX}"),
            (false, _) => format!("task IN ({}){open} LIMIT {TASK_CHUNKS_MAX}", ids.join(",")),
        };
        format!("(SELECT id, account, domain, kind, created_ms, lines FROM chunk WHERE {which}) AS found")
    }

    /// The condition for kinds and domain, to be appended to others; the domain's name is bound to `domain`.
    fn kind_and_domain(&self, domain: &str) -> String {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" AND kind IN ({})", kinds.join(",")) };
        if self.domain.is_some() { format!("{kinds} AND domain = {domain}") } else { kinds }
    }
}

/// A chunk without its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The chunk.
    pub id: u64,
    /// When it was submitted, in milliseconds since 1970.
    pub created_ms: u64,
    /// How many objects it has.
    pub lines: u64,
}

impl State {
    /// Chunks of `account` that pass `filter`, newest first, at most `most`, starting after `before`.
    pub async fn outlines(
        &self,
        account: &str,
        filter: &Filter,
        before: Option<Outline>,
        most: u32,
    ) -> Result<Vec<Outline>, StateError> {
        let pool = match self.read()? {
            On::Sql(pool) => pool,
            On::Memory(tables) => return Ok(tables.outlines(account, filter, before, most)),
        };
        let (from, to) = (signed(filter.from_ms), signed(filter.to_ms));
        let (before_ms, before_id) =
            before.map_or((i64::MAX, i64::MAX), |before| (signed(before.created_ms), signed(before.id)));
        let sql = format!(
            "SELECT id, created_ms, lines FROM {} WHERE account = $1 AND created_ms >= $2 AND created_ms <= $3 \
             AND (created_ms, id) < ($4, $5){} ORDER BY created_ms DESC, id DESC LIMIT {most}",
            filter.chunks(),
            filter.kind_and_domain("$6")
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(account).bind(from).bind(to).bind(before_ms).bind(before_id);
        let rows = match &filter.domain {
            Some(domain) => query.bind(domain).fetch_all(pool).await?,
            None => query.fetch_all(pool).await?,
        };
        let outline = |row: &AnyRow| {
            Ok(Outline {
                id: unsigned(row, "id")?,
                created_ms: unsigned(row, "created_ms")?,
                lines: unsigned(row, "lines")?,
            })
        };
        rows.iter().map(outline).collect()
    }

    /// How many lines the chunks that [`State::outlines`] lists have. Minutes wholly within the filter's time are not
    /// counted chunk by chunk: an account's history may be long and is queried often.
    pub async fn count_lines(&self, account: &str, filter: &Filter) -> Result<u64, StateError> {
        let pool = match self.read()? {
            On::Sql(pool) => pool,
            On::Memory(tables) => return Ok(tables.count_lines(account, filter)),
        };
        // Milliseconds before the first whole minute, whole minutes, milliseconds after the last. The counts per minute
        // know neither tasks nor which chunks are open.
        let (from, end) = (filter.from_ms, filter.to_ms.saturating_add(1));
        let (first, last) = (from.div_ceil(MINUTE_MS) * MINUTE_MS, end / MINUTE_MS * MINUTE_MS);
        let (first, last) =
            if first < last && filter.tasks.is_empty() && !filter.open { (first, last) } else { (end, end) };
        let (chunks, condition) = (filter.chunks(), filter.kind_and_domain("$6"));
        let sum = |table: &str, from: &str, end: &str| {
            format!("(SELECT COALESCE(SUM(lines), 0) FROM {table} WHERE account = $1 AND {from} AND {end}{condition})")
        };
        let sql = format!(
            "SELECT CAST({} + {} + {} AS BIGINT) AS lines",
            sum(&chunks, "created_ms >= $2", "created_ms < $3"),
            sum("tally", "minute_ms >= $3", "minute_ms < $4"),
            sum(&chunks, "created_ms >= $4", "created_ms < $5"),
        );
        let times = [from, first, last, end].map(signed);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(account);
        let query = times.into_iter().fold(query, |query, time| query.bind(time));
        let row = match &filter.domain {
            Some(domain) => query.bind(domain).fetch_one(pool).await?,
            None => query.fetch_one(pool).await?,
        };
        unsigned(&row, "lines")
    }

    /// The chunks with these ids, newest first. A damaged row is left out and hides no other.
    pub async fn chunks(&self, ids: &[u64]) -> Result<Vec<Chunk>, StateError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        match self.read()? {
            On::Sql(pool) => {
                let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
                let sql = format!("SELECT * FROM chunk WHERE id IN ({}) ORDER BY id DESC", ids.join(","));
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await?;
                let readable = rows.iter().filter_map(|row| {
                    chunk(row)
                        .inspect_err(|error| tracing::error!(error = error as &dyn std::error::Error, "left out"))
                        .ok()
                });
                Ok(readable.collect())
            }
            On::Memory(tables) => Ok(tables.chunks(ids)),
        }
    }

    /// Only the objects of the chunks with these ids.
    pub async fn paths(&self, ids: &[u64]) -> Result<Vec<(u64, Vec<String>)>, StateError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        match self.read()? {
            On::Sql(pool) => {
                let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
                let sql = format!("SELECT id, paths FROM chunk WHERE id IN ({})", ids.join(","));
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await?;
                rows.iter().map(|row| Ok((unsigned(row, "id")?, paths(row)?))).collect()
            }
            On::Memory(tables) => Ok(tables.chunks(ids).into_iter().map(|chunk| (chunk.id, chunk.paths)).collect()),
        }
    }

    /// Accounts with open prefetches, and how many chunks and objects those have.
    pub async fn open_accounts(&self) -> Result<Vec<(String, u64, u64)>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT account, COUNT(*) AS chunks, CAST(SUM(lines) AS BIGINT) AS urls FROM chunk \
                     WHERE finished_ms = 0 AND kind = 'prefetch' GROUP BY account",
                )
                .fetch_all(pool)
                .await?;
                let open = |row| Ok((text(row, "account")?, unsigned(row, "chunks")?, unsigned(row, "urls")?));
                rows.iter().map(open).collect()
            }
            On::Memory(tables) => Ok(tables.open_accounts()),
        }
    }

    /// Revisions of refreshes that are not complete, lowest first.
    pub async fn open_refreshes(&self, most: u32) -> Result<Vec<Revision>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(OPEN_REFRESHES).bind(i64::from(most)).fetch_all(pool).await?;
                rows.iter().map(|row| revision(row, "revision")).collect()
            }
            On::Memory(tables) => Ok(tables.open_refreshes(most)),
        }
    }

    /// Marks the refreshes of a step as complete and records the step with them; returns how many chunks those were. If
    /// there are none, nothing is written.
    pub async fn complete_refreshes(&self, step: &Completion) -> Result<u64, StateError> {
        let mut writing = self.write().await?;
        let (from, to) = step.range;
        let finished_ms = step.completed_ms.max(1); // zero would be open
        let count = match writing.on() {
            On::Sql(connection) => sqlx::query(COMPLETE_REFRESHES)
                .bind(signed(finished_ms))
                .bind(signed(from.0))
                .bind(signed(to.0))
                .execute(connection)
                .await?
                .rows_affected(),
            On::Memory(tables) => tables.complete_refreshes(from, to, finished_ms),
        };
        if count == 0 {
            return Ok(0);
        }
        completions::insert(&mut writing, step).await?;
        writing.commit().await?;
        Ok(count)
    }

    /// Writes the progress of prefetches in one transaction; `finished_ms` is zero for those that go on. A cancelled
    /// one keeps the time of its cancellation as its end, but its progress is written too.
    pub async fn keep_progress(&self, changed: &[(u64, u64, &Progress)]) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        for (id, finished_ms, progress) in changed {
            match writing.on() {
                On::Sql(connection) => {
                    sqlx::query(
                        "UPDATE chunk SET finished_ms = CASE WHEN finished_ms > 0 THEN finished_ms ELSE $1 END, progress = $2 \
                         WHERE id = $3 AND (finished_ms = 0 OR cancelled_ms > 0)",
                    )
                    .bind(signed(*finished_ms))
                    .bind(to_json(progress))
                    .bind(signed(*id))
                    .execute(connection)
                    .await?;
                }
                On::Memory(tables) => tables.keep_progress(*id, *finished_ms, progress),
            }
        }
        writing.commit().await
    }
}

/// Lines by account, minute, domain and kind: what chunks add to the table `tally`, or take from it when they are
/// deleted.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<(String, u64, String, String), u64>);

impl Tally {
    /// Counts a chunk's lines.
    pub(super) fn count(&mut self, chunk: &Chunk) {
        let kind = chunk.kind.as_str().to_owned();
        let key = (chunk.account.clone(), chunk.created_ms / MINUTE_MS, chunk.domain.to_string(), kind);
        *self.0.entry(key).or_default() += chunk.paths.len() as u64;
    }

    /// Adds the counts. The store on maps keeps none: it counts when asked.
    pub(super) async fn add(self, writing: &mut Writing) -> Result<(), StateError> {
        let On::Sql(connection) = writing.on() else { return Ok(()) };
        for ((account, minute, domain, kind), lines) in self.0 {
            sqlx::query(
                "INSERT INTO tally (account, minute_ms, domain, kind, lines) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (account, minute_ms, domain, kind) DO UPDATE SET lines = tally.lines + $5",
            )
            .bind(account)
            .bind(signed(minute * MINUTE_MS))
            .bind(domain)
            .bind(kind)
            .bind(signed(lines))
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }

    /// Subtracts the counts.
    async fn take(self, connection: &mut AnyConnection) -> Result<(), StateError> {
        for ((account, minute, domain, kind), lines) in self.0 {
            let minute_ms = signed(minute * MINUTE_MS);
            sqlx::query(
                "UPDATE tally SET lines = lines - $5 WHERE account = $1 AND minute_ms = $2 AND domain = $3 AND kind = $4",
            )
            .bind(&account)
            .bind(minute_ms)
            .bind(&domain)
            .bind(&kind)
            .bind(signed(lines))
            .execute(&mut *connection)
            .await?;
            sqlx::query(
                "DELETE FROM tally WHERE account = $1 AND minute_ms = $2 AND domain = $3 AND kind = $4 AND lines <= 0",
            )
            .bind(&account)
            .bind(minute_ms)
            .bind(&domain)
            .bind(&kind)
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

/// Inserts a new chunk.
pub(super) async fn insert(writing: &mut Writing, chunk: Chunk) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "INSERT INTO chunk (id, task, account, domain, kind, created_ms, revision, paths, lines, params, finished_ms, progress, \
                 call_id, priority, from_ms, bucket) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, '', $11, $12, $13, $14)",
            )
            .bind(signed(chunk.id))
            .bind(signed(chunk.task))
            .bind(chunk.account)
            .bind(chunk.domain.as_str())
            .bind(chunk.kind.as_str())
            .bind(signed(chunk.created_ms))
            .bind(signed(chunk.revision.0))
            .bind(chunk.paths.join("\n"))
            .bind(signed(chunk.paths.len() as u64))
            .bind(to_json(&chunk.params))
            .bind(signed(chunk.call))
            .bind(i64::from(chunk.steering.priority))
            .bind(signed(chunk.steering.from_ms))
            .bind(chunk.bucket)
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => tables.add_chunk(chunk),
    }
    Ok(())
}

/// How many calls of an account have an open prefetch that is charged to this bucket, and how many objects those have.
pub(super) async fn open_in_bucket(
    writing: &mut Writing,
    account: &str,
    bucket: &str,
) -> Result<(u64, u64), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(
                "SELECT COUNT(DISTINCT CASE WHEN call_id = 0 THEN id ELSE call_id END) AS calls, \
                 CAST(COALESCE(SUM(lines), 0) AS BIGINT) AS urls FROM chunk \
                 WHERE finished_ms = 0 AND kind = 'prefetch' AND account = $1 AND bucket IN ($2, '')",
            )
            .bind(account)
            .bind(bucket)
            .fetch_one(connection)
            .await?;
            Ok((unsigned(&row, "calls")?, unsigned(&row, "urls")?))
        }
        On::Memory(tables) => Ok(tables.open_in_bucket(account, bucket)),
    }
}

/// How many objects of a domain are in open refreshes.
pub(super) async fn open_refresh_lines(writing: &mut Writing, domain: &DomainName) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(
                "SELECT CAST(COALESCE(SUM(lines), 0) AS BIGINT) AS open FROM chunk \
                 WHERE finished_ms = 0 AND kind <> 'prefetch' AND domain = $1",
            )
            .bind(domain.as_str())
            .fetch_one(connection)
            .await?;
            unsigned(&row, "open")
        }
        On::Memory(tables) => Ok(tables.open_refresh_lines(domain)),
    }
}

fn paths(row: &AnyRow) -> Result<Vec<String>, StateError> {
    Ok(text(row, "paths")?.split('\n').map(str::to_owned).collect())
}

fn chunk(row: &AnyRow) -> Result<Chunk, StateError> {
    let id = unsigned(row, "id")?;
    let damaged = |what: &str| StateError::Corrupt { what: format!("chunk {id}: {what}") };
    let (paths, finished_ms) = (paths(row)?, unsigned(row, "finished_ms")?);
    let params = json(row, "params");
    let progress = match row.try_get::<String, _>("progress")? {
        progress if progress.is_empty() => Ok(Progress::default()),
        _ => json(row, "progress"),
    };
    Ok(Chunk {
        id,
        task: unsigned(row, "task")?,
        call: unsigned(row, "call_id")?,
        account: text(row, "account")?,
        bucket: text(row, "bucket")?,
        domain: DomainName::parse(&text(row, "domain")?).map_err(|_| damaged("domain"))?,
        kind: Kind::parse(&text(row, "kind")?).ok_or_else(|| damaged("kind"))?,
        created_ms: unsigned(row, "created_ms")?,
        revision: revision(row, "revision")?,
        unreadable: params.is_err(),
        params: params.unwrap_or_else(|_: StateError| Params::unknown()),
        steering: steering::steering(row)?,
        finished_ms,
        // The progress of an open chunk can be found out anew: a node that has an object reports it without fetching it
        // again.
        progress: progress.unwrap_or_else(|error| match finished_ms {
            0 => {
                tracing::warn!(
                    chunk = id,
                    error = &error as &dyn std::error::Error,
                    "the outcome of a prefetch is lost"
                );
                Progress::default()
            }
            _ => Progress::failed(paths.len(), &Cause::Unreadable),
        }),
        paths,
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::testing::state;

    #[tokio::test]
    async fn refreshes_are_completed_without_a_look_at_open_prefetches() {
        let dir = TempDir::new().unwrap();
        let state = state(&dir, &[]).await;
        let On::Sql(pool) = state.read().unwrap() else { panic!("it is a database") };
        for statement in [OPEN_REFRESHES, COMPLETE_REFRESHES] {
            let sql = format!("EXPLAIN QUERY PLAN {statement}");
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| text(row, "detail").unwrap()).collect();
            assert!(plan.len() == 1 && plan[0].contains("chunk_open_refresh"), "{statement}: {plan:?}");
        }
    }
}
