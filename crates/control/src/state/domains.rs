//! Domains and their owners: rows beside the log entries that nodes read.
//!
//! # What always holds
//!
//! - A name has one owner, over all accounts; so do a wildcard and all names under it together.
//! - A change of several domains is one transaction: either all of their entries are in the log, or none.
//! - A domain that is being deleted keeps its name until [`State::forget_deleted`].
//! - A name becomes free only when its last owner has no open prefetch for it.

use std::collections::BTreeMap;

use model::{Domain, DomainName, Entry, Revision};
use serde::{Deserialize, Serialize};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::labels::{forget_labels, put_label};
use super::log::append;
use super::steering::{CANCELLED_BATCH_MAX, cancel_some};
use super::{On, State, StateError, Writing, json, revision, signed, text, to_json, unsigned};

/// A domain as the control plane stores it, beside what nodes know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainRow {
    /// Its name.
    pub name: DomainName,
    /// The account that owns it.
    pub account: String,
    /// What only the public API shows.
    pub detail: DomainDetail,
    /// When it was added, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was last changed.
    pub modified_ms: u64,
    /// The entry that gave it its present state: a node that has applied it has the domain configured.
    pub revision: Revision,
    /// Whether every node is past that entry, by acknowledgement or because its lease is over.
    pub configured: bool,
    /// What that entry does.
    pub doing: Doing,
    /// Why the operator blocked it; empty if it is not blocked.
    pub blocked: String,
    /// The entry that added it: anything counted under the name before belongs to an earlier domain.
    pub born: Revision,
}

/// What the last entry of a domain does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// It adds or changes it.
    #[default]
    Configuring,
    /// It switches it off.
    Stopping,
    /// It removes it.
    Deleting,
}

impl Doing {
    const ALL: [Doing; 3] = [Doing::Configuring, Doing::Stopping, Doing::Deleting];

    /// As it is stored.
    fn as_str(self) -> &'static str {
        match self {
            Doing::Configuring => "configuring",
            Doing::Stopping => "stopping",
            Doing::Deleting => "deleting",
        }
    }
}

/// What the public API shows of a domain but nodes need not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainDetail {
    /// Kind of business, as submitted (`web`, `download`, `video`).
    pub business: String,
    /// The kind of each source, as submitted: finer than what nodes need.
    pub source_types: Vec<String>,
    /// Its state before it was removed, while it is being deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Box<Domain>>,
}

/// A domain to be added.
#[derive(Clone, Debug)]
pub struct NewDomain {
    /// What nodes are told.
    pub domain: Domain,
    /// What they are not.
    pub detail: DomainDetail,
    /// Its owner's labels.
    pub labels: Vec<(String, String)>,
}

/// A domain to be changed.
#[derive(Clone, Debug)]
pub struct ChangedDomain {
    /// What nodes are told.
    pub domain: Domain,
    /// What they are not.
    pub detail: DomainDetail,
    /// The revision of what it was changed from.
    pub seen: Revision,
}

/// Why a domain was not added, changed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// The name is taken already.
    #[error("domain exists already")]
    Exists {
        /// Whether by the caller's own account.
        own: bool,
        /// Whether it is being deleted.
        deleting: bool,
    },
    /// Another account has a wildcard that covers the name, or a name that this wildcard covers.
    #[error("another account has a related domain")]
    Conflict,
    /// The operator blocked the name.
    #[error("name is blocked")]
    Blocked,
    /// The account has none of that name.
    #[error("no such domain")]
    Absent,
    /// It was changed by somebody else meanwhile.
    #[error("domain was changed meanwhile")]
    Changed,
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The names whose block applies to `name`: itself, and the wildcards over it.
fn covering(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(DomainName::candidates(name.trim_start_matches('.')).skip(1))
}

impl State {
    /// Every domain.
    pub async fn domains(&self) -> Result<Vec<DomainRow>, StateError> {
        let blocked = self.blocked().await?;
        let mut rows = match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT name, account, detail, created_ms, modified_ms, revision, configured, doing, born FROM domain ORDER BY created_ms, name")
                    .fetch_all(pool)
                    .await?;
                rows.iter().map(domain_row).collect::<Result<Vec<_>, _>>()?
            }
            On::Memory(tables) => tables.domains(),
        };
        if !blocked.is_empty() {
            for row in &mut rows {
                let reason = covering(row.name.as_str()).find_map(|name| blocked.get(name));
                row.blocked = reason.cloned().unwrap_or_default();
            }
        }
        Ok(rows)
    }

    /// Adds domains to an account, all or none, and tells the nodes; returns the revision of the last.
    pub async fn add_domains(
        &self,
        account: &str,
        domains: Vec<NewDomain>,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let entries: Vec<Entry> = domains.iter().map(|new| Entry::Domain(new.domain.clone())).collect();
        let last = append(&mut writing, &entries).await?;
        let first = last.0 + 1 - entries.len() as u64;
        for (at, NewDomain { domain, detail, labels }) in (first..).zip(domains) {
            let name = domain.name;
            if let Some((owner, doing)) = owner_and_doing(&mut writing, name.as_str()).await? {
                return Err(DomainError::Exists { own: owner == account, deleting: doing == Doing::Deleting });
            }
            if overlaps(&mut writing, name.as_str(), account).await? {
                return Err(DomainError::Conflict);
            }
            for name in covering(name.as_str()) {
                if is_blocked(&mut writing, name).await? {
                    return Err(DomainError::Blocked);
                }
            }
            for (key, value) in labels {
                put_label(&mut writing, account, &name, &key, &value).await?;
            }
            let row = DomainRow {
                name,
                account: account.to_owned(),
                detail,
                created_ms: now_ms,
                modified_ms: now_ms,
                revision: Revision(at),
                configured: false,
                doing: Doing::Configuring,
                blocked: String::new(),
                born: Revision(at),
            };
            insert_domain(&mut writing, row).await?;
        }
        writing.commit().await?;
        Ok(last)
    }

    /// Changes domains of an account, all or none, each only if it is still as it was at `seen`; returns the revision
    /// of the last.
    pub async fn change_domains(
        &self,
        account: &str,
        changes: Vec<ChangedDomain>,
        doing: Doing,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        for ChangedDomain { domain, .. } in &changes {
            if let Some(share) = &domain.functions.rules().key.share
                && domain_owner(&mut writing, share.as_str()).await?.is_some_and(|owner| owner != account)
            {
                return Err(DomainError::Absent);
            }
        }
        let entries: Vec<Entry> = changes.iter().map(|change| Entry::Domain(change.domain.clone())).collect();
        let last = append(&mut writing, &entries).await?;
        let first = last.0 + 1 - entries.len() as u64;
        for (at, ChangedDomain { domain, detail, seen }) in (first..).zip(changes) {
            if domain_owner(&mut writing, domain.name.as_str()).await?.as_deref() != Some(account) {
                return Err(DomainError::Absent);
            }
            let change = RowChange { at: Revision(at), doing, detail: Some(&detail), now_ms };
            if !update_domain(&mut writing, &domain.name, seen, change).await? {
                return Err(DomainError::Changed);
            }
        }
        writing.commit().await?;
        Ok(last)
    }

    /// Marks domains whose entry is at or below `passed` as configured; returns how many those were.
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

    /// Removes a domain, which was `last` at `seen`, from its account, and tells the nodes to forget it. Its open
    /// prefetches are cancelled; if this fails midway, the rest are cancelled when the name is released. Until then the
    /// name stays taken.
    pub async fn remove_domain(
        &self,
        account: &str,
        last: Domain,
        detail: &DomainDetail,
        seen: Revision,
        now_ms: u64,
    ) -> Result<Revision, DomainError> {
        let mut writing = self.write().await?;
        let name = last.name.clone();
        let at = append(&mut writing, &[Entry::DomainRemoved(name.clone())]).await?;
        if domain_owner(&mut writing, name.as_str()).await?.as_deref() != Some(account) {
            return Err(DomainError::Absent);
        }
        let detail = DomainDetail { last: Some(Box::new(last)), ..detail.clone() };
        let change = RowChange { at, doing: Doing::Deleting, detail: Some(&detail), now_ms };
        if !update_domain(&mut writing, &name, seen, change).await? {
            return Err(DomainError::Changed);
        }
        let mut cancelled = cancel_some(&mut writing, account, &name, now_ms).await?;
        writing.commit().await?;
        while cancelled == CANCELLED_BATCH_MAX {
            let mut writing = self.write().await?;
            cancelled = cancel_some(&mut writing, account, &name, now_ms).await?;
            writing.commit().await?;
        }
        Ok(at)
    }

    /// Releases the names of domains whose deletion, by the given entry, is done. A domain with more open prefetches
    /// than are cancelled at once keeps its name until the next call.
    pub async fn forget_deleted(&self, deleted: &[(DomainName, Revision)], now_ms: u64) -> Result<(), StateError> {
        let mut writing = self.write().await?;
        for (name, at) in deleted {
            // A process that did not know of the deletion yet may have accepted more since.
            if let Some((owner, Doing::Deleting)) = owner_and_doing(&mut writing, name.as_str()).await?
                && cancel_some(&mut writing, &owner, name, now_ms).await? == CANCELLED_BATCH_MAX
            {
                continue;
            }
            let gone = match writing.on() {
                On::Sql(connection) => {
                    sqlx::query("DELETE FROM domain WHERE name = $1 AND revision = $2 AND doing = 'deleting'")
                        .bind(name.as_str())
                        .bind(signed(at.0))
                        .execute(connection)
                        .await?
                        .rows_affected()
                }
                On::Memory(tables) => tables.forget_deleted(name, *at),
            };
            if gone > 0 {
                forget_labels(&mut writing, name, None).await?;
            }
        }
        writing.commit().await
    }

    /// Names that the operator blocked, each with the reason.
    pub async fn blocked(&self) -> Result<BTreeMap<String, String>, StateError> {
        match self.read()? {
            On::Sql(pool) => {
                let rows = sqlx::query("SELECT name, reason FROM blocked_name").fetch_all(pool).await?;
                rows.iter().map(|row| Ok((text(row, "name")?, text(row, "reason")?))).collect()
            }
            On::Memory(tables) => Ok(tables.blocked()),
        }
    }

    /// Blocks a name for a reason, or unblocks it. `there` are the affected domains in their new state; if others are
    /// there by now, the result is [`DomainError::Changed`]. Returns whether the name was blocked before.
    pub async fn set_blocked(
        &self,
        name: &DomainName,
        reason: Option<&str>,
        there: Vec<(Domain, Revision)>,
        now_ms: u64,
    ) -> Result<bool, DomainError> {
        let mut writing = self.write().await?;
        let entries: Vec<Entry> = there.iter().map(|(domain, _)| Entry::Domain(domain.clone())).collect();
        let last = append(&mut writing, &entries).await?;
        let first = last.0 + 1 - entries.len() as u64;
        if count_concerned(&mut writing, name.as_str()).await? != there.len() as u64 {
            return Err(DomainError::Changed);
        }
        let doing = if reason.is_some() { Doing::Stopping } else { Doing::Configuring };
        for (at, (domain, seen)) in (first..).zip(there) {
            let change = RowChange { at: Revision(at), doing, detail: None, now_ms };
            if !update_domain(&mut writing, &domain.name, seen, change).await? {
                return Err(DomainError::Changed);
            }
        }
        let before = is_blocked(&mut writing, name.as_str()).await?;
        match writing.on() {
            On::Sql(connection) => block(connection, name, reason, now_ms).await?,
            On::Memory(tables) => tables.set_blocked(name, reason),
        }
        writing.commit().await?;
        Ok(before)
    }
}

async fn block(
    connection: &mut AnyConnection,
    name: &DomainName,
    reason: Option<&str>,
    now_ms: u64,
) -> Result<(), StateError> {
    match reason {
        Some(reason) => {
            sqlx::query(
                "INSERT INTO blocked_name (name, reason, since_ms) VALUES ($1, $2, $3) \
                 ON CONFLICT (name) DO UPDATE SET reason = excluded.reason",
            )
            .bind(name.as_str())
            .bind(reason)
            .bind(signed(now_ms))
            .execute(connection)
            .await?
        }
        None => sqlx::query("DELETE FROM blocked_name WHERE name = $1").bind(name.as_str()).execute(connection).await?,
    };
    Ok(())
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
        doing: doing(row)?,
        blocked: String::new(),
        born: revision(row, "born")?,
    })
}

fn doing(row: &AnyRow) -> Result<Doing, StateError> {
    let kept = text(row, "doing")?;
    let found = Doing::ALL.into_iter().find(|doing| doing.as_str() == kept);
    found.ok_or_else(|| StateError::Corrupt { what: format!("domain that is {kept}") })
}

/// Inserts a new domain.
async fn insert_domain(writing: &mut Writing, row: DomainRow) -> Result<(), StateError> {
    match writing.on() {
        On::Sql(connection) => {
            sqlx::query("INSERT INTO domain (name, account, detail, created_ms, modified_ms, revision, configured, doing, born) VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $6)")
                .bind(row.name.as_str())
                .bind(row.account)
                .bind(to_json(&row.detail))
                .bind(signed(row.created_ms))
                .bind(signed(row.modified_ms))
                .bind(signed(row.revision.0))
                .bind(row.doing.as_str())
                .execute(connection)
                .await?;
        }
        On::Memory(tables) => tables.add_domain(row),
    }
    Ok(())
}

/// A change of a domain's row.
pub(super) struct RowChange<'a> {
    pub(super) at: Revision,
    pub(super) doing: Doing,
    /// `None` leaves it unchanged.
    pub(super) detail: Option<&'a DomainDetail>,
    pub(super) now_ms: u64,
}

/// Writes a change of a domain; returns false if it is no longer as it was at `seen`, or is being deleted.
pub(super) async fn update_domain(
    writing: &mut Writing,
    name: &DomainName,
    seen: Revision,
    change: RowChange<'_>,
) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let done = sqlx::query(
                "UPDATE domain SET modified_ms = $1, revision = $2, configured = 0, doing = $3, \
                 detail = CASE WHEN $4 = '' THEN detail ELSE $4 END \
                 WHERE name = $5 AND revision = $6 AND doing <> 'deleting'",
            )
            .bind(signed(change.now_ms))
            .bind(signed(change.at.0))
            .bind(change.doing.as_str())
            .bind(change.detail.map(to_json).unwrap_or_default())
            .bind(name.as_str())
            .bind(signed(seen.0))
            .execute(connection)
            .await?;
            Ok(done.rows_affected() > 0)
        }
        On::Memory(tables) => Ok(tables.change_domain(name, seen, &change)),
    }
}

/// The account that owns a domain.
pub(super) async fn domain_owner(writing: &mut Writing, name: &str) -> Result<Option<String>, StateError> {
    Ok(owner_and_doing(writing, name).await?.map(|(owner, _)| owner))
}

async fn owner_and_doing(writing: &mut Writing, name: &str) -> Result<Option<(String, Doing)>, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT account, doing FROM domain WHERE name = $1")
                .bind(name)
                .fetch_optional(connection)
                .await?;
            row.map(|row| Ok((text(&row, "account")?, doing(&row)?))).transpose()
        }
        On::Memory(tables) => Ok(tables.owner_and_doing(name)),
    }
}

async fn is_blocked(writing: &mut Writing, name: &str) -> Result<bool, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let row = sqlx::query("SELECT name FROM blocked_name WHERE name = $1")
                .bind(name)
                .fetch_optional(connection)
                .await?;
            Ok(row.is_some())
        }
        On::Memory(tables) => Ok(tables.is_blocked(name)),
    }
}

/// How many domains a block of `name` affects: itself and, for a wildcard, those under it, except those being deleted.
async fn count_concerned(writing: &mut Writing, name: &str) -> Result<u64, StateError> {
    match writing.on() {
        On::Sql(connection) => {
            let of = "SELECT COUNT(*) AS concerned FROM domain WHERE doing <> 'deleting' AND (name = $1 OR \
                      (substr($1, 1, 1) = '.' AND length(name) > length($1) \
                      AND substr(name, length(name) - length($1) + 1) = $1))";
            let row = sqlx::query(of).bind(name).fetch_one(connection).await?;
            unsigned(&row, "concerned")
        }
        On::Memory(tables) => Ok(tables.count_concerned(name)),
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

/// Whether another account has a wildcard over `name`, or a name under the wildcard `name`: either would take users
/// from the other.
async fn overlaps(writing: &mut Writing, name: &str, account: &str) -> Result<bool, StateError> {
    if name.starts_with('.') && others_under(writing, name, account).await? {
        return Ok(true);
    }
    for wildcard in covering(name).skip(1) {
        let owner = domain_owner(writing, wildcard).await?;
        if owner.is_some_and(|owner| owner != account) {
            return Ok(true);
        }
    }
    Ok(false)
}
