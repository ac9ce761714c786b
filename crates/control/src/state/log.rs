//! The one log: appended inside a writing transaction, read in order.

use bytes::Bytes;
use model::{DomainName, Entry, Knowledge, Revision, Settings};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;

use super::{State, StateError, Writing, count_up, json, revision, signed, text, to_json, unsigned};

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
}

/// What the public API tells about a domain that nodes need not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainDetail {
    /// Kind of business, as submitted (`web`, `download`, `video`).
    pub business: String,
    /// The kind of each source, as submitted: finer than what nodes need.
    pub source_types: Vec<String>,
}

/// Why a domain was not added or removed.
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
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The kind under which an entry is filed: all but invalidations are needed to know what is known.
fn kind(entry: &Entry) -> &'static str {
    match entry {
        Entry::Invalidate(_) => "invalidate",
        Entry::Settings(_) => "settings",
        Entry::Domain(_) | Entry::DomainRemoved(_) | Entry::Pop(_) | Entry::Member(_) | Entry::MemberRemoved(_) => {
            "configure"
        }
    }
}

/// Appends entries one behind the other; the revision of the last.
pub(super) async fn append(connection: &mut AnyConnection, entries: &[Entry]) -> Result<Revision, StateError> {
    let last = count_up(connection, "revision", entries.len() as u64).await?;
    let first = last - entries.len() as u64;
    for (at, entry) in (first + 1..).zip(entries) {
        let bytes = String::from_utf8(model::log::encode(entry)).expect("entries are encoded as JSON");
        sqlx::query("INSERT INTO log (revision, kind, entry) VALUES ($1, $2, $3)")
            .bind(signed(at))
            .bind(kind(entry))
            .bind(bytes)
            .execute(&mut *connection)
            .await?;
    }
    Ok(Revision(last))
}

impl State {
    /// The head of the log, by a read that begins now (fence rule 4).
    pub async fn head(&self) -> Result<Revision, StateError> {
        let row = sqlx::query("SELECT value FROM counter WHERE name = 'revision'").fetch_one(&self.pool).await?;
        revision(&row, "value")
    }

    /// The entries after `after`, at most `most`, in order.
    pub async fn entries_after(&self, after: Revision, most: u32) -> Result<Vec<Logged>, StateError> {
        let rows = sqlx::query("SELECT revision, entry FROM log WHERE revision > $1 ORDER BY revision LIMIT $2")
            .bind(signed(after.0))
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| Ok(Logged { revision: revision(row, "revision")?, bytes: text(row, "entry")?.into() }))
            .collect()
    }

    /// Invalidations up to here are no longer in the log.
    pub async fn compacted(&self) -> Result<Revision, StateError> {
        let row = sqlx::query("SELECT value FROM counter WHERE name = 'compacted'").fetch_one(&self.pool).await?;
        revision(&row, "value")
    }

    /// Forgets all but the newest `keep` invalidations; configuration is kept, for it makes up the knowledge.
    pub async fn compact(&self, keep: u64) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        let head = count_up(writing.connection(), "revision", 0).await?;
        let Some(to) = head.checked_sub(keep).filter(|to| *to > 0) else { return Ok(()) };
        sqlx::query("DELETE FROM log WHERE kind = 'invalidate' AND revision <= $1")
            .bind(signed(to))
            .execute(writing.connection())
            .await?;
        sqlx::query("UPDATE counter SET value = $1 WHERE name = 'compacted' AND value < $1")
            .bind(signed(to))
            .execute(writing.connection())
            .await?;
        writing.commit().await
    }

    /// What all entries up to the head add up to. The head is read first: entries become visible in order, so all up to
    /// it are there.
    pub async fn knowledge(&self) -> Result<(Revision, Knowledge), StateError> {
        let head = self.head().await?;
        let rows = sqlx::query(
            "SELECT revision, entry FROM log WHERE kind <> 'invalidate' AND revision <= $1 ORDER BY revision",
        )
        .bind(signed(head.0))
        .fetch_all(&self.pool)
        .await?;
        let mut knowledge = Knowledge::default();
        for row in &rows {
            knowledge.apply(&decode(unsigned(row, "revision")?, text(row, "entry")?.as_bytes())?);
        }
        Ok((head, knowledge))
    }

    /// The longest lease that a member which has acknowledged only `acked` may still go by.
    pub async fn longest_lease(&self, acked: Revision) -> Result<std::time::Duration, StateError> {
        let rows = sqlx::query("SELECT revision, entry FROM log WHERE kind = 'settings' ORDER BY revision")
            .fetch_all(&self.pool)
            .await?;
        let (mut before, mut after) = (Settings::default().lease(), std::time::Duration::ZERO);
        for row in &rows {
            let at = revision(row, "revision")?;
            if let Entry::Settings(settings) = decode(at.0, text(row, "entry")?.as_bytes())? {
                if at <= acked { before = settings.lease() } else { after = after.max(settings.lease()) }
            }
        }
        Ok(before.max(after))
    }

    /// Appends entries on behalf of an operator; the revision of the last.
    pub async fn append(&self, entries: &[Entry]) -> Result<Revision, StateError> {
        let mut writing = self.write().await?;
        let at = append(writing.connection(), entries).await?;
        writing.commit().await?;
        Ok(at)
    }

    /// Every domain.
    pub async fn domains(&self) -> Result<Vec<DomainRow>, StateError> {
        let rows = sqlx::query("SELECT name, account, detail, created_ms, modified_ms, revision, configured FROM domain ORDER BY created_ms, name")
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let name = text(row, "name")?;
                Ok(DomainRow {
                    name: DomainName::parse(&name)
                        .map_err(|_| StateError::Corrupt { what: format!("domain {name}") })?,
                    account: text(row, "account")?,
                    detail: json(row, "detail")?,
                    created_ms: unsigned(row, "created_ms")?,
                    modified_ms: unsigned(row, "modified_ms")?,
                    revision: revision(row, "revision")?,
                    configured: unsigned(row, "configured")? == 1,
                })
            })
            .collect()
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
        let name = domain.name.to_string();
        let at = append(writing.connection(), &[Entry::Domain(domain)]).await?;
        if let Some(owner) = domain_owner(&mut writing, &name).await? {
            return Err(DomainError::Exists { own: owner == account });
        }
        if overlaps(&mut writing, &name, account).await? {
            return Err(DomainError::Conflict);
        }
        sqlx::query("INSERT INTO domain (name, account, detail, created_ms, modified_ms, revision, configured) VALUES ($1, $2, $3, $4, $4, $5, 0)")
            .bind(name)
            .bind(account)
            .bind(to_json(detail))
            .bind(signed(now_ms))
            .bind(signed(at.0))
            .execute(writing.connection())
            .await
            .map_err(StateError::from)?;
        writing.commit().await?;
        Ok(at)
    }

    /// Marks domains whose entry is at or below `passed` as configured; how many those were.
    pub async fn configured(&self, passed: Revision) -> Result<u64, StateError> {
        let mut writing = self.write().await?;
        let done = sqlx::query("UPDATE domain SET configured = 1 WHERE configured = 0 AND revision <= $1")
            .bind(signed(passed.0))
            .execute(writing.connection())
            .await?;
        writing.commit().await?;
        Ok(done.rows_affected())
    }

    /// Takes a domain from its account, and tells the nodes to forget it.
    pub async fn remove_domain(&self, account: &str, name: &DomainName) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let at = append(writing.connection(), &[Entry::DomainRemoved(name.clone())]).await?;
        if domain_owner(&mut writing, name.as_str()).await?.as_deref() != Some(account) {
            return Err(DomainError::Absent);
        }
        sqlx::query("DELETE FROM domain WHERE name = $1")
            .bind(name.as_str())
            .execute(writing.connection())
            .await
            .map_err(StateError::from)?;
        writing.commit().await?;
        Ok(at)
    }
}

async fn domain_owner(writing: &mut Writing, name: &str) -> Result<Option<String>, StateError> {
    let row = sqlx::query("SELECT account FROM domain WHERE name = $1")
        .bind(name)
        .fetch_optional(writing.connection())
        .await?;
    row.map(|row| text(&row, "account")).transpose()
}

/// Whether another account has a wildcard over `name`, or a name under the wildcard that `name` is: whoever has the one would
/// take users from the other.
async fn overlaps(writing: &mut Writing, name: &str, account: &str) -> Result<bool, StateError> {
    let under = "SELECT name FROM domain WHERE account <> $1 AND length(name) > length($2) \
                 AND substr(name, length(name) - length($2) + 1) = $2 LIMIT 1";
    if name.starts_with('.') {
        let row = sqlx::query(under).bind(account).bind(name).fetch_optional(writing.connection()).await?;
        if row.is_some() {
            return Ok(true);
        }
    }
    for wildcard in DomainName::candidates(name.trim_start_matches('.')).skip(1) {
        let owner = domain_owner(writing, wildcard).await?;
        if owner.is_some_and(|owner| owner != account) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn decode(at: u64, bytes: &[u8]) -> Result<Entry, StateError> {
    model::log::decode(bytes).map_err(|error| StateError::Corrupt { what: format!("log entry {at}: {error}") })
}
