//! The one log: appended to inside a writing transaction, read in order.

use bytes::Bytes;
use model::{Entry, Knowledge, Revision, Settings};
use sqlx::any::AnyRow;

use super::{Counter, On, State, StateError, Writing, count_up, counter, revision, signed, text};

/// Entries deleted in one transaction of a compaction.
pub const COMPACTED_BATCH_MAX: u64 = 2_000;

/// An entry as stored in the log, encoded once for database, wire and journal. Cheap to clone: every session sends the
/// same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its position.
    pub revision: Revision,
    /// The output of `model::log::encode`.
    pub bytes: Bytes,
}

/// The category of an entry: all except invalidations make up the knowledge.
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

    /// As it is stored.
    fn as_str(self) -> &'static str {
        match self {
            Filed::Invalidate => "invalidate",
            Filed::Settings => "settings",
            Filed::Configure => "configure",
        }
    }
}

/// Appends consecutive entries; returns the revision of the last.
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

    /// The revision up to which invalidations have been compacted away.
    pub async fn compacted(&self) -> Result<Revision, StateError> {
        counter(self, Counter::Compacted).await.map(Revision)
    }

    /// Deletes all but the newest `keep` invalidations; configuration stays, since the knowledge is made of it. The
    /// compaction's revision is raised before anything is deleted, so nodes that are behind get a snapshot. In many
    /// small transactions, so that no submission waits long for one of them.
    pub async fn compact(&self, keep: u64) -> Result<(), StateError> {
        // The head only rises, so entries that are old enough now stay so.
        let Some(to) = self.head().await?.0.checked_sub(keep).filter(|to| *to > 0) else { return Ok(()) };
        if self.compacted().await?.0 < to {
            let mut writing = self.write().await?;
            match writing.on() {
                On::Sql(connection) => {
                    sqlx::query("UPDATE counter SET value = $1 WHERE name = 'compacted' AND value < $1")
                        .bind(signed(to))
                        .execute(connection)
                        .await?;
                }
                On::Memory(tables) => tables.set_compacted(Revision(to)),
            }
            writing.commit().await?;
        }
        loop {
            let mut writing = self.write().await?;
            let count = match writing.on() {
                On::Sql(connection) => {
                    let done = sqlx::query(
                        "DELETE FROM log WHERE revision IN \
                         (SELECT revision FROM log WHERE kind = 'invalidate' AND revision <= $1 ORDER BY revision LIMIT $2)",
                    );
                    let done = done.bind(signed(to)).bind(signed(COMPACTED_BATCH_MAX)).execute(connection).await?;
                    done.rows_affected()
                }
                On::Memory(tables) => tables.compact(Revision(to), COMPACTED_BATCH_MAX),
            };
            writing.commit().await?;
            if count < COMPACTED_BATCH_MAX {
                return Ok(());
            }
        }
    }

    /// The knowledge that all entries up to the head add up to. The head is read first: entries become visible in
    /// order, so all of them are there.
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

    /// The longest lease that a member that has acknowledged only `acked` may still rely on.
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

    /// Appends entries for an operator; returns the revision of the last.
    pub async fn append(&self, entries: &[Entry]) -> Result<Revision, StateError> {
        let mut writing = self.write().await?;
        let at = append(&mut writing, entries).await?;
        writing.commit().await?;
        Ok(at)
    }
}

fn logged(row: &AnyRow) -> Result<Logged, StateError> {
    Ok(Logged { revision: revision(row, "revision")?, bytes: text(row, "entry")?.into() })
}

fn decode(entry: &Logged) -> Result<Entry, StateError> {
    let damaged = |error| StateError::Corrupt { what: format!("log entry {}: {error}", entry.revision) };
    model::log::decode(&entry.bytes).map_err(damaged)
}
