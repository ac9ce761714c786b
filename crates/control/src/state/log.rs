//! The one log: appended inside a writing transaction, read in order.

use bytes::Bytes;
use model::{DomainName, Entry, Knowledge, Revision, Settings};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use super::{
    Counter, On, State, StateError, Writing, count_up, counter, json, revision, signed, text, to_json, unsigned,
};

/// An entry as it lies in the log, encoded once for database, wire and journal. Cheap to clone: every session sends the same
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its position.
    pub revision: Revision,
    /// What `model::log::encode` made of it.
    pub bytes: Bytes,
}

/// A domain as the control plane keeps it, beside what nodes know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainRow {
    /// Its name.
    pub name: DomainName,
    /// Whose it is.
    pub account: String,
    /// What only the public API speaks of.
    pub detail: DomainDetail,
    /// When it was added, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was last changed.
    pub modified_ms: u64,
    /// The entry that made it what it is: it is configured where that is applied.
    pub revision: Revision,
    /// Whether every node is past that entry, by acknowledgement or because its lease is over.
    pub configured: bool,
    /// The entry that added it: what was counted under the name before is not this domain's.
    pub born: Revision,
}

/// What the public API tells about a domain that nodes need not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainDetail {
    /// Kind of business, as submitted (`web`, `download`, `video`).
    pub business: String,
    /// The kind of each source, as submitted: finer than what nodes need.
    pub source_types: Vec<String>,
}

/// Why a domain was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// Somebody has it already; whether it is the caller says `own`.
    #[error("domain exists already")]
    Exists {
        /// Whether it is the caller's own.
        own: bool,
    },
    /// Another account has a wildcard that covers the name, or a name that the wildcard covers.
    #[error("another account has domains there")]
    Conflict,
    /// The account has none of that name.
    #[error("no such domain")]
    Absent,
    /// Somebody else changed it meanwhile.
    #[error("domain was changed meanwhile")]
    Changed,
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Where an entry is filed: all but invalidations are needed to know what is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Filed {
    Invalidate,
    Settings,
    Configure,
}

impl Filed {
    fn under(entry: &Entry) -> Filed {
        match entry {
            Entry::Invalidate(_) => Filed::Invalidate,
            Entry::Settings(_) => Filed::Settings,
            Entry::Domain(_)
            | Entry::DomainRemoved(_)
            | Entry::Certificate(_)
            | Entry::CertificateRemoved(_)
            | Entry::Pop(_)
            | Entry::Member(_)
            | Entry::MemberRemoved(_) => Filed::Configure,
        }
    }

    /// As it is kept.
    fn as_str(self) -> &'static str {
        match self {
            Filed::Invalidate => "invalidate",
            Filed::Settings => "settings",
            Filed::Configure => "configure",
        }
    }
}

/// Appends entries one behind the other; the revision of the last.
pub(super) async fn append(writing: &mut Writing, entries: &[Entry]) -> Result<Revision, StateError> {
    let last = count_up(writing, Counter::Revision, entries.len() as u64).await?;
    let first = last - entries.len() as u64;
    for (at, entry) in (first + 1..).zip(entries) {
        let (filed, bytes) = (Filed::under(entry), model::log::encode(entry));
        match writing.on() {
            On::Sql(connection) => {
                sqlx::query("INSERT INTO log (revision, kind, entry) VALUES ($1, $2, $3)")
                    .bind(signed(at))
                    .bind(filed.as_str())
                    .bind(String::from_utf8(bytes).expect("entries are encoded as JSON"))
                    .execute(connection)
                    .await?;
            }
            On::Memory(tables) => tables.add_entry(Revision(at), filed, bytes.into()),
        }
    }
    Ok(Revision(last))
}

impl State {
    /// The head of the log, by a read that begins now (fence rule 4).
    pub async fn head(&self) -> Result<Revision, StateError> {
        counter(self, Counter::Revision).await.map(Revision)
    }

    /// The entries after `after`, at most `most`, in order.
    pub async fn entries_after(&self, after: Revision, most: u32) -> Result<Vec<Logged>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows =
                    sqlx::query("SELECT revision, entry FROM log WHERE revision > $1 ORDER BY revision LIMIT $2")
                        .bind(signed(after.0))
                        .bind(i64::from(most))
                        .fetch_all(pool)
                        .await?;
                rows.iter().map(logged).collect()
            }
            On::Memory(tables) => Ok(tables.entries_after(after, most)),
        }
    }

    /// Invalidations up to here are no longer in the log.
    pub async fn compacted(&self) -> Result<Revision, StateError> {
        counter(self, Counter::Compacted).await.map(Revision)
    }

    /// Forgets all but the newest `keep` invalidations; configuration is kept, for it makes up the knowledge.
    pub async fn compact(&self, keep: u64) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        let head = count_up(&mut writing, Counter::Revision, 0).await?;
        let Some(to) = head.checked_sub(keep).filter(|to| *to > 0) else { return Ok(()) };
        match writing.on() {
            On::Sql(connection) => {
                sqlx::query("DELETE FROM log WHERE kind = 'invalidate' AND revision <= $1")
                    .bind(signed(to))
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("UPDATE counter SET value = $1 WHERE name = 'compacted' AND value < $1")
                    .bind(signed(to))
                    .execute(connection)
                    .await?;
            }
            On::Memory(tables) => tables.compact(Revision(to)),
        }
        writing.commit().await
    }

    /// What all entries up to the head add up to. The head is read first: entries become visible in order, so all up to
    /// it are there.
    pub async fn knowledge(&self) -> Result<(Revision, Knowledge), StateError> {
        let head = self.head().await?;
        let entries: Vec<Logged> = match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query(
                    "SELECT revision, entry FROM log WHERE kind <> 'invalidate' AND revision <= $1 ORDER BY revision",
                )
                .bind(signed(head.0))
                .fetch_all(pool)
                .await?;
                rows.iter().map(logged).collect::<Result<_, _>>()?
            }
            On::Memory(tables) => tables.entries_filed(head, |filed| filed != Filed::Invalidate),
        };
        let mut knowledge = Knowledge::default();
        for entry in &entries {
            knowledge.apply(&decode(entry)?);
        }
        Ok((head, knowledge))
    }

    /// The longest lease that a member which has acknowledged only `acked` may still go by.
    pub async fn longest_lease(&self, acked: Revision) -> Result<std::time::Duration, StateError> {
        let entries: Vec<Logged> = match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT revision, entry FROM log WHERE kind = 'settings' ORDER BY revision")
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(logged).collect::<Result<_, _>>()?
            }
            On::Memory(tables) => tables.entries_filed(Revision(u64::MAX), |filed| filed == Filed::Settings),
        };
        let (mut before, mut after) = (Settings::default().lease(), std::time::Duration::ZERO);
        for entry in &entries {
            if let Entry::Settings(settings) = decode(entry)? {
                if entry.revision <= acked { before = settings.lease() } else { after = after.max(settings.lease()) }
            }
        }
        Ok(before.max(after))
    }

    /// Appends entries on behalf of an operator; the revision of the last.
    pub async fn append(&self, entries: &[Entry]) -> Result<Revision, StateError> {
        let mut writing = self.write().await?;
        let at = append(&mut writing, entries).await?;
        writing.commit().await?;
        Ok(at)
    }

    /// Every domain.
    pub async fn domains(&self) -> Result<Vec<DomainRow>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT name, account, detail, created_ms, modified_ms, revision, configured, born FROM domain ORDER BY created_ms, name")
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(domain_row).collect()
            }
            On::Memory(tables) => Ok(tables.domains()),
        }
    }

    /// Adds a domain to an account, and tells the nodes.
    pub async fn add_domain(
        &self,
        account: &str,
        domain: model::Domain,
        detail: &DomainDetail,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let name = domain.name.clone();
        let at = append(&mut writing, &[Entry::Domain(domain)]).await?;
        if let Some(owner) = domain_owner(&mut writing, name.as_str()).await? {
            return Err(DomainError::Exists { own: owner == account });
        }
        if overlaps(&mut writing, name.as_str(), account).await? {
            return Err(DomainError::Conflict);
        }
        let row = DomainRow {
            name,
            account: account.to_owned(),
            detail: detail.clone(),
            created_ms: now_ms,
            modified_ms: now_ms,
            revision: at,
            configured: false,
            born: at,
        };
        insert_domain(&mut writing, row).await?;
        writing.commit().await?;
        Ok(at)
    }

    /// Changes a domain of an account from what it was at `seen`, and tells the nodes.
    pub async fn change_domain(
        &self,
        account: &str,
        domain: model::Domain,
        seen: Revision,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        self.change_domains(account, vec![(domain, seen)], now_ms).await
    }

    /// Changes domains of an account, each from what it was when it was seen, all or none; the revision of the last.
    pub async fn change_domains(
        &self,
        account: &str,
        changes: Vec<(model::Domain, Revision)>,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let seen: Vec<(DomainName, Revision)> =
            changes.iter().map(|(domain, seen)| (domain.name.clone(), *seen)).collect();
        for (domain, _) in &changes {
            if let Some(share) = &domain.functions.rules().key.share
                && domain_owner(&mut writing, share.as_str()).await?.is_some_and(|owner| owner != account)
            {
                return Err(DomainError::Absent);
            }
        }
        let entries: Vec<Entry> = changes.into_iter().map(|(domain, _)| Entry::Domain(domain)).collect();
        let last = append(&mut writing, &entries).await?;
        let first = last.0 + 1 - entries.len() as u64;
        for (at, (name, seen)) in (first..).zip(seen) {
            if domain_owner(&mut writing, name.as_str()).await?.as_deref() != Some(account) {
                return Err(DomainError::Absent);
            }
            if !update_domain(&mut writing, &name, seen, Revision(at), now_ms).await? {
                return Err(DomainError::Changed);
            }
        }
        writing.commit().await?;
        Ok(last)
    }

    /// Marks domains whose entry is at or below `passed` as configured; how many those were.
    pub async fn configured(&self, passed: Revision) -> Result<u64, StateError> {
        let mut writing = self.write().await?;
        let count = match writing.on() {
            On::Sql(connection) => {
                sqlx::query("UPDATE domain SET configured = 1 WHERE configured = 0 AND revision <= $1")
                    .bind(signed(passed.0))
                    .execute(connection)
                    .await?
                    .rows_affected()
            }
            On::Memory(tables) => tables.configured(passed),
        };
        writing.commit().await?;
        Ok(count)
    }

    /// Takes a domain from its account, and tells the nodes to forget it.
    pub async fn remove_domain(&self, account: &str, name: &DomainName) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let at = append(&mut writing, &[Entry::DomainRemoved(name.clone())]).await?;
        if domain_owner(&mut writing, name.as_str()).await?.as_deref() != Some(account) {
            return Err(DomainError::Absent);
        }
        delete_domain(&mut writing, name).await?;
        writing.commit().await?;
        Ok(at)
    }
}

fn logged(row: &AnyRow) -> Result<Logged, StateError> {
    Ok(Logged { revision: revision(row, "revision")?, bytes: text(row, "entry")?.into() })
}

fn domain_row(row: &AnyRow) -> Result<DomainRow, StateError> {
    let name = text(row, "name")?;
    Ok(DomainRow {
        name: DomainName::parse(&name).map_err(|_| StateError::Corrupt { what: format!("domain {name}") })?,
        account: text(row, "account")?,
        detail: json(row, "detail")?,
        created_ms: unsigned(row, "created_ms")?,
        modified_ms: unsigned(row, "modified_ms")?,
        revision: revision(row, "revision")?,
        configured: unsigned(row, "configured")? == 1,
        born: revision(row, "born")?,
    })
}

/// Writes a domain that is not there yet.
async fn insert_domain(writing: &mut Writing, row: DomainRow) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("INSERT INTO domain (name, account, detail, created_ms, modified_ms, revision, configured, born) VALUES ($1, $2, $3, $4, $5, $6, 0, $6)")
                .bind(row.name.as_str())
                .bind(row.account)
                .bind(to_json(&row.detail))
                .bind(signed(row.created_ms))
                .bind(signed(row.modified_ms))
                .bind(signed(row.revision.0))
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => tables.add_domain(row),
    }
    Ok(())
}

/// Writes when a domain was changed; whether it was still as it was at `seen`.
pub(super) async fn update_domain(
    writing: &mut Writing,
    name: &DomainName,
    seen: Revision,
    at: Revision,
    now_ms: u64,
) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let done = sqlx::query(
                "UPDATE domain SET modified_ms = $1, revision = $2, configured = 0 WHERE name = $3 AND revision = $4",
            )
            .bind(signed(now_ms))
            .bind(signed(at.0))
            .bind(name.as_str())
            .bind(signed(seen.0))
            .execute(connection)
            .await?;
            Ok(done.rows_affected() > 0)
        }
        On::Memory(tables) => Ok(tables.change_domain(name, seen, at, now_ms)),
    }
}

async fn delete_domain(writing: &mut Writing, name: &DomainName) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("DELETE FROM domain WHERE name = $1").bind(name.as_str()).execute(connection).await?;
        }
        On::Memory(tables) => tables.remove_domain(name),
    }
    Ok(())
}

pub(super) async fn domain_owner(writing: &mut Writing, name: &str) -> Result<Option<String>, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row =
                sqlx::query("SELECT account FROM domain WHERE name = $1").bind(name).fetch_optional(connection).await?;
            row.map(|row| text(&row, "account")).transpose()
        }
        On::Memory(tables) => Ok(tables.domain_owner(name)),
    }
}

/// Whether an account other than `account` has a longer name that ends in `name`.
async fn others_under(writing: &mut Writing, name: &str, account: &str) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let under = "SELECT name FROM domain WHERE account <> $1 AND length(name) > length($2) \
                         AND substr(name, length(name) - length($2) + 1) = $2 LIMIT 1";
            let row = sqlx::query(under).bind(account).bind(name).fetch_optional(connection).await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => Ok(tables.others_under(name, account)),
    }
}

/// Whether another account has a wildcard over `name`, or a name under the wildcard that `name` is: whoever has the one would
/// take users from the other.
async fn overlaps(writing: &mut Writing, name: &str, account: &str) -> Result<bool, StateError> {
    if name.starts_with('.') && others_under(writing, name, account).await? {
        return Ok(true);
    }
    for wildcard in DomainName::candidates(name.trim_start_matches('.')).skip(1) {
        let owner = domain_owner(writing, wildcard).await?;
        if owner.is_some_and(|owner| owner != account) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn decode(entry: &Logged) -> Result<Entry, StateError> {
    let damaged = |error| StateError::Corrupt { what: format!("log entry {}: {error}", entry.revision) };
    model::log::decode(&entry.bytes).map_err(damaged)
}
