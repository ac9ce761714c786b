//! Figures: what nodes counted, summed up in buckets of a minute, five minutes, an hour and a day, and the URLs of each
//! hour.
//!
//! There is one row per domain, length and bucket, with one value that is read and written whole. An account has rows
//! of its own, under the empty name, with the sums over its domains.
//!
//! # What always holds
//!
//! - A report is added whole or not at all, and once: the number of the last report of each start of a node is written
//!   in the same transaction.
//! - A bucket is kept for as long as [`Grain::kept_secs`] says; counts that arrive later are dropped, and so are counts
//!   from the future.
//! - Reports are added by one transaction at a time: it holds the row of the log's head, like every transaction that
//!   decides by rows it has read.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::NodeName;
use model::figures::{Regional, Sketch};
use sqlx::any::AnyRow;

use super::{Counter, On, State, StateError, Writing, count_up, json, signed, to_json, unsigned};

/// Rows deleted in one transaction.
const FORGOTTEN_BATCH_MAX: u64 = 1_000;

/// How far a node's clock may be ahead of this one.
const AHEAD_SECS_MAX: u64 = 3_600;

/// How long the report numbers of a start of a node are kept after its last report.
const REPORTS_KEPT_MS: u64 = 30 * 86_400_000;

/// How long the URLs of an hour are kept: a day longer than they can be queried.
const URLS_KEPT_SECS: u64 = (aliyun::URLS_KEPT_DAYS + 1) * 86_400;

/// The name of the account's own rows.
const ALL_DOMAINS: &str = "";

/// Lengths of buckets. Each begins at a multiple of its length since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// A minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Grain {
    /// All of them.
    pub const ALL: [Grain; 4] = [Grain::Minute, Grain::FiveMinutes, Grain::Hour, Grain::Day];

    /// How long it is, in seconds.
    pub fn secs(self) -> u64 {
        match self {
            Grain::Minute => 60,
            Grain::FiveMinutes => 300,
            Grain::Hour => 3_600,
            Grain::Day => 86_400,
        }
    }

    /// How long its buckets are kept, in seconds; except for minutes, a day longer than they can be queried.
    pub fn kept_secs(self) -> u64 {
        let days = match self {
            Grain::Minute => 2,
            Grain::FiveMinutes => aliyun::FIGURES_KEPT_DAYS[0] + 1,
            Grain::Hour => aliyun::FIGURES_KEPT_DAYS[1] + 1,
            Grain::Day => aliyun::FIGURES_KEPT_DAYS[2] + 1,
        };
        days * 86_400
    }

    /// The bucket that contains a time, both in seconds since 1970.
    pub fn bucket(self, secs: u64) -> u64 {
        secs - secs % self.secs()
    }
}

/// What a node counted since its last report, with the owners of the domains resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct FigureReport {
    /// The node.
    pub node: NodeName,
    /// The start of the node that it belongs to.
    pub boot: u64,
    /// The number of the report.
    pub sequence: u64,
    /// What was counted in minutes.
    pub minutes: Vec<MinuteOf>,
    /// URLs by hour.
    pub urls: Vec<UrlsOf>,
}

/// What was counted of a domain in a minute.
#[derive(Clone, Debug, PartialEq)]
pub struct MinuteOf {
    /// The account that owns the domain.
    pub account: String,
    /// Its name.
    pub domain: String,
    /// Which minute since 1970.
    pub minute: u64,
    /// What was counted.
    pub figures: Regional,
}

/// The URLs of a domain in an hour.
#[derive(Clone, Debug, PartialEq)]
pub struct UrlsOf {
    /// The account that owns the domain.
    pub account: String,
    /// Its name.
    pub domain: String,
    /// Whether the requests went to origins.
    pub origins: bool,
    /// Which hour since 1970.
    pub hour: u64,
    /// The URLs.
    pub sketch: Sketch,
}

/// The result of adding reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Reports that were added; the others had been added before.
    pub reports: u64,
    /// Minutes and lists outside the time that is kept.
    pub out_of_time: u64,
}

type FigureKey = (String, String, u64, u64);
type UrlsKey = (String, String, bool, u64);

/// The rows in memory.
#[derive(Clone, Default)]
pub(super) struct FigureRows {
    figures: BTreeMap<FigureKey, Arc<Regional>>,
    urls: BTreeMap<UrlsKey, Arc<Sketch>>,
    reports: BTreeMap<(NodeName, u64), (u64, u64)>,
}

impl State {
    /// Adds reports, each once, however often it arrives.
    pub async fn add_figures(&self, reports: &[FigureReport], now_ms: u64) -> Result<Added, StateError> {
        let mut writing = self.write().await?;
        count_up(&mut writing, Counter::Revision, 0).await?;
        let now = now_ms / 1000;
        let mut added = Added::default();
        let mut figures: BTreeMap<FigureKey, Regional> = BTreeMap::new();
        let mut urls: BTreeMap<UrlsKey, Sketch> = BTreeMap::new();
        for report in reports {
            if last_report(&mut writing, report).await? >= report.sequence {
                continue;
            }
            set_last_report(&mut writing, report, now_ms).await?;
            added.reports += 1;
            for MinuteOf { account, domain, minute, figures: counted } in &report.minutes {
                let at = minute.saturating_mul(60);
                let kept = |grain: &Grain| grain.bucket(at) + grain.kept_secs() > now && at <= now + AHEAD_SECS_MAX;
                let grains: Vec<Grain> = Grain::ALL.into_iter().filter(kept).collect();
                added.out_of_time += u64::from(grains.is_empty());
                for grain in grains {
                    for domain in [domain.as_str(), ALL_DOMAINS] {
                        let key = (account.clone(), domain.to_owned(), grain.secs(), grain.bucket(at));
                        figures.entry(key).or_default().add(counted);
                    }
                }
            }
            for UrlsOf { account, domain, origins, hour, sketch } in &report.urls {
                let at = hour.saturating_mul(3_600);
                if at + URLS_KEPT_SECS <= now || at > now + AHEAD_SECS_MAX {
                    added.out_of_time += 1;
                    continue;
                }
                urls.entry((account.clone(), domain.clone(), *origins, at)).or_default().add(sketch);
            }
        }
        for (key, mut value) in figures {
            if let Some(before) = figure(&mut writing, &key).await? {
                value.add(&before);
            }
            set_figure(&mut writing, key, value).await?;
        }
        for (key, sketch) in urls {
            let mut value = urls_of(&mut writing, &key).await?.unwrap_or_default();
            value.add(&sketch);
            set_urls(&mut writing, key, value).await?;
        }
        writing.commit().await?;
        Ok(added)
    }

    /// The summed figures of domains of an account in buckets of `grain` that begin at `from` or later and before `to`.
    /// Without domains: of all that the account ever had. Times are seconds since 1970.
    pub async fn figures(
        &self,
        account: &str,
        domains: &[String],
        grain: Grain,
        from: u64,
        to: u64,
    ) -> Result<BTreeMap<u64, Regional>, StateError> {
        let all = [ALL_DOMAINS.to_owned()];
        let domains = if domains.is_empty() { &all } else { domains };
        let mut sums: BTreeMap<u64, Regional> = BTreeMap::new();
        match self.read()? {
            On::Sql(pool) => {
                for domain in domains {
                    let rows = sqlx::query(
                        "SELECT bucket, value FROM figure WHERE account = $1 AND domain = $2 AND grain = $3 \
                         AND bucket >= $4 AND bucket < $5",
                    )
                    .bind(account)
                    .bind(domain)
                    .bind(signed(grain.secs()))
                    .bind(signed(from))
                    .bind(signed(to))
                    .fetch_all(pool)
                    .await?;
                    for row in &rows {
                        sums.entry(unsigned(row, "bucket")?).or_default().add(&json(row, "value")?);
                    }
                }
            }
            On::Memory(tables) => {
                for domain in domains {
                    let key = |bucket| (account.to_owned(), domain.clone(), grain.secs(), bucket);
                    for ((.., bucket), value) in tables.figures.figures.range(key(from)..key(to.max(from))) {
                        sums.entry(*bucket).or_default().add(value);
                    }
                }
            }
        }
        Ok(sums)
    }

    /// The URLs of domains of an account in the hours that begin at `from` or later and before `to`, in seconds since
    /// 1970.
    pub async fn figure_urls(
        &self,
        account: &str,
        domains: &[String],
        origins: bool,
        from: u64,
        to: u64,
    ) -> Result<Vec<Sketch>, StateError> {
        let mut sketches = Vec::new();
        for domain in domains {
            match self.read()? {
                On::Sql(pool) => {
                    let rows = sqlx::query(
                        "SELECT value FROM figure_urls WHERE account = $1 AND domain = $2 AND origins = $3 \
                         AND hour >= $4 AND hour < $5 ORDER BY hour",
                    )
                    .bind(account)
                    .bind(domain)
                    .bind(i64::from(origins))
                    .bind(signed(from))
                    .bind(signed(to))
                    .fetch_all(pool)
                    .await?;
                    for row in &rows {
                        sketches.push(json(row, "value")?);
                    }
                }
                On::Memory(tables) => {
                    let key = |hour| (account.to_owned(), domain.clone(), origins, hour);
                    let rows = tables.figures.urls.range(key(from)..key(to.max(from)));
                    sketches.extend(rows.map(|(_, sketch)| Sketch::clone(sketch)));
                }
            }
        }
        Ok(sketches)
    }

    /// Deletes expired rows, in many small transactions; returns how many.
    pub async fn forget_figures(&self, now_ms: u64) -> Result<u64, StateError> {
        let now = now_ms / 1000;
        let mut forgotten = 0;
        for grain in Grain::ALL {
            // A bucket expires only once its end has.
            let before = now.saturating_sub(grain.kept_secs() + grain.secs());
            forgotten += self.forget_rows(Past::Figures(grain.secs()), before).await?;
        }
        forgotten += self.forget_rows(Past::Urls, now.saturating_sub(URLS_KEPT_SECS + 3_600)).await?;
        Ok(forgotten + self.forget_rows(Past::Reports, now_ms.saturating_sub(REPORTS_KEPT_MS)).await?)
    }

    async fn forget_rows(&self, past: Past, before: u64) -> Result<u64, StateError> {
        let mut forgotten = 0;
        loop {
            let mut writing = self.write().await?;
            let count = match writing.on() {
                On::Sql(connection) => {
                    let mut query =
                        sqlx::query(past.statement()).bind(signed(before)).bind(signed(FORGOTTEN_BATCH_MAX));
                    if let Past::Figures(grain) = past {
                        query = query.bind(signed(grain));
                    }
                    query.execute(connection).await?.rows_affected()
                }
                On::Memory(tables) => Arc::make_mut(&mut tables.figures).forget(past, before, FORGOTTEN_BATCH_MAX),
            };
            writing.commit().await?;
            forgotten += count;
            if count < FORGOTTEN_BATCH_MAX {
                return Ok(forgotten);
            }
        }
    }
}

/// Kinds of rows that expire.
#[derive(Clone, Copy)]
enum Past {
    /// Buckets of this many seconds.
    Figures(u64),
    Urls,
    Reports,
}

impl Past {
    fn statement(self) -> &'static str {
        match self {
            Past::Figures(_) => {
                "DELETE FROM figure WHERE (account, domain, grain, bucket) IN \
                 (SELECT account, domain, grain, bucket FROM figure WHERE grain = $3 AND bucket < $1 LIMIT $2)"
            }
            Past::Urls => {
                "DELETE FROM figure_urls WHERE (account, domain, origins, hour) IN \
                 (SELECT account, domain, origins, hour FROM figure_urls WHERE hour < $1 LIMIT $2)"
            }
            Past::Reports => {
                "DELETE FROM figure_report WHERE (node, boot) IN \
                 (SELECT node, boot FROM figure_report WHERE taken_ms < $1 LIMIT $2)"
            }
        }
    }
}

impl FigureRows {
    fn forget(&mut self, past: Past, before: u64, most: u64) -> u64 {
        fn drop_some<K: Ord + Clone, V>(rows: &mut BTreeMap<K, V>, most: u64, is: impl Fn(&K, &V) -> bool) -> u64 {
            let keys: Vec<K> = rows.iter().filter(|(key, row)| is(key, row)).map(|(key, _)| key.clone()).collect();
            let keys = &keys[..keys.len().min(most as usize)];
            for key in keys {
                rows.remove(key);
            }
            keys.len() as u64
        }
        match past {
            Past::Figures(grain) => {
                drop_some(&mut self.figures, most, |(_, _, of, bucket), _| *of == grain && *bucket < before)
            }
            Past::Urls => drop_some(&mut self.urls, most, |(.., hour), _| *hour < before),
            Past::Reports => drop_some(&mut self.reports, most, |_, (_, taken_ms)| *taken_ms < before),
        }
    }
}

/// The number of the last report of this start of a node; zero if there is none.
async fn last_report(writing: &mut Writing, report: &FigureReport) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT sequence FROM figure_report WHERE node = $1 AND boot = $2")
                .bind(report.node.as_str())
                .bind(signed(report.boot))
                .fetch_optional(connection)
                .await?;
            row.as_ref().map_or(Ok(0), |row| unsigned(row, "sequence"))
        }
        On::Memory(tables) => {
            Ok(tables.figures.reports.get(&(report.node.clone(), report.boot)).map_or(0, |(sequence, _)| *sequence))
        }
    }
}

async fn set_last_report(writing: &mut Writing, report: &FigureReport, now_ms: u64) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query(
                "INSERT INTO figure_report (node, boot, sequence, taken_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (node, boot) DO UPDATE SET sequence = excluded.sequence, taken_ms = excluded.taken_ms",
            )
            .bind(report.node.as_str())
            .bind(signed(report.boot))
            .bind(signed(report.sequence))
            .bind(signed(now_ms))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => {
            let rows = &mut Arc::make_mut(&mut tables.figures).reports;
            rows.insert((report.node.clone(), report.boot), (report.sequence, now_ms));
        }
    }
    Ok(())
}

async fn figure(writing: &mut Writing, key: &FigureKey) -> Result<Option<Regional>, StateError> {
    let (account, domain, grain, bucket) = key;
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(
                "SELECT value FROM figure WHERE account = $1 AND domain = $2 AND grain = $3 AND bucket = $4",
            )
            .bind(account)
            .bind(domain)
            .bind(signed(*grain))
            .bind(signed(*bucket))
            .fetch_optional(connection)
            .await?;
            value(row)
        }
        On::Memory(tables) => Ok(tables.figures.figures.get(key).map(|value| Regional::clone(value))),
    }
}

fn value<T: for<'de> serde::Deserialize<'de>>(row: Option<AnyRow>) -> Result<Option<T>, StateError> {
    row.as_ref().map(|row| json(row, "value")).transpose()
}

async fn set_figure(writing: &mut Writing, key: FigureKey, value: Regional) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let (account, domain, grain, bucket) = key;
            sqlx::query(
                "INSERT INTO figure (account, domain, grain, bucket, value) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (account, domain, grain, bucket) DO UPDATE SET value = excluded.value",
            )
            .bind(account)
            .bind(domain)
            .bind(signed(grain))
            .bind(signed(bucket))
            .bind(to_json(&value))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => {
            Arc::make_mut(&mut tables.figures).figures.insert(key, Arc::new(value));
        }
    }
    Ok(())
}

async fn urls_of(writing: &mut Writing, key: &UrlsKey) -> Result<Option<Sketch>, StateError> {
    let (account, domain, origins, hour) = key;
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query(
                "SELECT value FROM figure_urls WHERE account = $1 AND domain = $2 AND origins = $3 AND hour = $4",
            )
            .bind(account)
            .bind(domain)
            .bind(i64::from(*origins))
            .bind(signed(*hour))
            .fetch_optional(connection)
            .await?;
            value(row)
        }
        On::Memory(tables) => Ok(tables.figures.urls.get(key).map(|sketch| Sketch::clone(sketch))),
    }
}

async fn set_urls(writing: &mut Writing, key: UrlsKey, sketch: Sketch) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let (account, domain, origins, hour) = key;
            sqlx::query(
                "INSERT INTO figure_urls (account, domain, origins, hour, value) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (account, domain, origins, hour) DO UPDATE SET value = excluded.value",
            )
            .bind(account)
            .bind(domain)
            .bind(i64::from(origins))
            .bind(signed(hour))
            .bind(to_json(&sketch))
            .execute(connection)
            .await?;
        }
        On::Memory(tables) => {
            Arc::make_mut(&mut tables.figures).urls.insert(key, Arc::new(sketch));
        }
    }
    Ok(())
}
