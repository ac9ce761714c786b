//! The node's durable memory: its identity, what it has applied, and the log entries it still needs.
//!
//! One small redb file. It holds the knowledge as a snapshot at some revision, and the encoded entries after it; the
//! index of invalidations is rebuilt from the entries at start. Persisting an entry therefore means writing its bytes,
//! whatever it says.
//!
//! # What always holds
//!
//! - `applied` and the entries up to it are written in one transaction, synced before [`Journal::append`] returns.
//! - Every entry above the floor is present, and so is every one above the snapshot's revision.
//! - The file holds secrets: only its owner can read it, and its contents are never printed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::log::DecodeError;
use model::{Entry, Knowledge, LogId, Revision, Snapshot};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::pins::Pinned;

/// Version of the file's layout.
const FORMAT: u64 = 1;

/// Numbers, by name: `format`, `applied`, `floor`, `swept`.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// Texts and bytes, by name: `log`, `credential`, `peer_credential`, `certificate_secret`, `token`, `ca`, `snapshot`.
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
/// Encoded entries, by revision.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

/// Pinned objects, by the hash of their key: expiry, owner, bytes, full key.
const PINS: TableDefinition<'_, u128, (u64, u64, u64, &[u8])> = TableDefinition::new("pins");

/// Bytes of memory that redb may use for pages; the file is a few megabytes.
const CACHE_BYTES: usize = 4 << 20;

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file could not be created or opened.
    #[error("journal `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// Reading or writing failed.
    #[error("journal")]
    Database(#[source] Box<redb::Error>),
    /// The file was written by a later version of the program.
    #[error("journal has format {found}, this program knows {FORMAT}")]
    Format {
        /// The format of the file.
        found: u64,
    },
    /// An entry or snapshot in it cannot be read.
    #[error("journal contains data that this program cannot read")]
    Decode(#[from] DecodeError),
    /// A required part is missing or wrong.
    #[error("journal is damaged: {0}")]
    Damaged(&'static str),
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for JournalError {
            fn from(error: redb::$error) -> Self {
                JournalError::Database(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// The node's identity towards the control plane, kept from its first join on.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The log whose entries it has applied.
    pub(crate) log: LogId,
    /// Its own secret.
    pub(crate) credential: String,
    /// The credential that nodes show each other.
    pub(crate) peer_credential: String,
    /// The secret that private keys in the log are sealed with; empty until a control plane has sent it.
    pub(crate) certificate_secret: String,
    /// The invitation it joined with. Another one in the token file means that the operator wants it to join anew.
    pub(crate) token_id: String,
    /// The certificate authority it trusts, in PEM.
    pub(crate) ca: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("log", &self.log).field("token_id", &self.token_id).finish_non_exhaustive()
    }
}

/// The state in the journal of a node that has joined before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Its identity.
    pub(crate) identity: Identity,
    /// Every entry up to here is applied.
    pub(crate) applied: Revision,
    /// Entries up to here may be missing in `entries`.
    pub(crate) floor: Revision,
    /// The store was swept of what entries up to here delete.
    pub(crate) swept: Revision,
    /// The knowledge that everything up to `applied` adds up to.
    pub(crate) knowledge: Knowledge,
    /// Entries above the floor, oldest first.
    pub(crate) entries: Vec<(Revision, Entry)>,
}

/// The journal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    database: Arc<Database>,
    /// Whether calls wait for a disk.
    blocks: bool,
}

impl Journal {
    /// Opens `journal.redb` in `directory`, creating both where missing.
    pub(crate) fn open(directory: &Path) -> Result<Journal, JournalError> {
        let path = directory.join("journal.redb");
        let failed = |source| JournalError::File { path: path.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        if !path.try_exists().map_err(failed)? {
            // The final name appears only once the file is complete: a first start that was cut short is repeated.
            let fresh = path.with_extension("redb.new");
            drop(Journal::open_file(&fresh, true)?);
            std::fs::rename(&fresh, &path).map_err(failed)?;
            std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        }
        Journal::open_file(&path, false)
    }

    fn open_file(path: &Path, anew: bool) -> Result<Journal, JournalError> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(anew);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|source| JournalError::File { path: path.to_owned(), source })?;
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_file(file)?;
        let journal = Journal { database: Arc::new(database), blocks: true };
        journal.check_format()?;
        Ok(journal)
    }

    /// Opens or creates the journal in the storage `place`, whose calls do not block.
    pub(crate) fn open_on(place: impl redb::StorageBackend) -> Result<Journal, JournalError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(place)?;
        let journal = Journal { database: Arc::new(database), blocks: false };
        journal.check_format()?;
        Ok(journal)
    }

    /// Runs `work` where waiting for the disk blocks no task.
    pub(crate) async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        if !self.blocks {
            return work(self);
        }
        let journal = self.clone();
        tokio::task::spawn_blocking(move || work(&journal)).await.expect("the journal does not panic")
    }

    fn check_format(&self) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        {
            let mut numbers = transaction.open_table(NUMBERS)?;
            transaction.open_table(VALUES)?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(PINS)?;
            let found = numbers.get("format")?.map(|found| found.value());
            match found {
                Some(FORMAT) => {}
                Some(found) => return Err(JournalError::Format { found }),
                None => {
                    numbers.insert("format", FORMAT)?;
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// The state when the node stopped; `None` when it never joined.
    pub(crate) fn load(&self) -> Result<Option<Remembered>, JournalError> {
        let transaction = self.database.begin_read()?;
        let values = transaction.open_table(VALUES)?;
        let numbers = transaction.open_table(NUMBERS)?;
        let text = |name: &'static str| -> Result<Option<String>, JournalError> {
            let Some(value) = values.get(name)? else { return Ok(None) };
            String::from_utf8(value.value().to_vec()).map(Some).map_err(|_| JournalError::Damaged(name))
        };
        let Some(log) = text("log")? else { return Ok(None) };
        let identity = Identity {
            log: LogId(log),
            credential: text("credential")?.ok_or(JournalError::Damaged("credential"))?,
            peer_credential: text("peer_credential")?.ok_or(JournalError::Damaged("peer_credential"))?,
            // Absent in a journal of an earlier version.
            certificate_secret: text("certificate_secret")?.unwrap_or_default(),
            token_id: text("token")?.ok_or(JournalError::Damaged("token"))?,
            ca: text("ca")?.ok_or(JournalError::Damaged("ca"))?,
        };
        let number = |name: &'static str| -> Result<Revision, JournalError> {
            Ok(Revision(numbers.get(name)?.ok_or(JournalError::Damaged(name))?.value()))
        };
        let (applied, floor) = (number("applied")?, number("floor")?);
        // Absent in a journal of an earlier version, which swept up to the floor before it raised it, and nothing
        // above.
        let swept = numbers.get("swept")?.map_or(floor, |swept| Revision(swept.value()));
        let snapshot = values.get("snapshot")?.ok_or(JournalError::Damaged("snapshot"))?;
        let snapshot: Snapshot = model::log::decode(snapshot.value())?;
        let mut knowledge = snapshot.knowledge;
        let mut expected = snapshot.revision;
        let mut entries = Vec::new();
        for kept in transaction.open_table(ENTRIES)?.iter()? {
            let (revision, bytes) = kept?;
            let revision = Revision(revision.value());
            let entry: Entry = model::log::decode(bytes.value())?;
            if revision > snapshot.revision {
                expected = expected.next();
                if revision != expected {
                    return Err(JournalError::Damaged("entries"));
                }
                knowledge.apply(&entry);
            }
            if revision > floor {
                entries.push((revision, entry));
            }
        }
        if expected != applied {
            return Err(JournalError::Damaged("applied"));
        }
        Ok(Some(Remembered { identity, applied, floor, swept, knowledge, entries }))
    }

    /// Persists the identity, after a new secret arrived.
    pub(crate) fn keep_identity(&self, identity: &Identity) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        write_identity(&transaction, identity)?;
        transaction.commit()?;
        Ok(())
    }

    /// Persists entries `first`, `first + 1`, ...; `applied` is then the last one.
    pub(crate) fn append(&self, first: Revision, entries: &[impl AsRef<[u8]>]) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(ENTRIES)?;
            let mut last = first.0;
            for (revision, bytes) in (first.0..).zip(entries) {
                table.insert(revision, bytes.as_ref())?;
                last = revision;
            }
            transaction.open_table(NUMBERS)?.insert("applied", last)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Starts over from a snapshot: `applied = floor =` its revision, without entries (rules 8 and 9), and nothing
    /// swept. When the node joins, `identity` is written in the same transaction.
    pub(crate) fn restart(&self, identity: Option<&Identity>, snapshot: &Snapshot) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        if let Some(identity) = identity {
            write_identity(&transaction, identity)?;
        }
        {
            transaction.open_table(ENTRIES)?.retain(|_, _| false)?;
            transaction.open_table(VALUES)?.insert("snapshot", model::log::encode(snapshot).as_slice())?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert("applied", snapshot.revision.0)?;
            numbers.insert("floor", snapshot.revision.0)?;
            numbers.insert("swept", 0)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Pinned objects, by the hash of their key.
    pub(crate) fn pins(&self) -> Result<Vec<(u128, Pinned)>, JournalError> {
        let transaction = self.database.begin_read()?;
        let mut pins = Vec::new();
        for kept in transaction.open_table(PINS)?.iter()? {
            let (key, value) = kept?;
            let (until, owner, bytes, full_key) = value.value();
            pins.push((key.value(), Pinned { full_key: full_key.to_vec(), until, owner, bytes }));
        }
        Ok(pins)
    }

    /// Persists pins.
    pub(crate) fn pin(&self, pins: &[(u128, Pinned)]) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(PINS)?;
            for (key, Pinned { full_key, until, owner, bytes }) in pins {
                table.insert(*key, (*until, *owner, *bytes, full_key.as_slice()))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes pins.
    pub(crate) fn unpin(&self, keys: &[u128]) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(PINS)?;
            for key in keys {
                table.remove(*key)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Persists the position of the sweep, unless it was further. Not synced by itself: what a crash loses is swept
    /// again.
    pub(crate) fn swept(&self, upto: Revision) -> Result<(), JournalError> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(redb::Durability::None)?;
        {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let kept = numbers.get("swept")?.map_or(0, |kept| kept.value());
            numbers.insert("swept", kept.max(upto.0))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Retires the entries that the snapshot and a floor at its revision replace (rule 9), once the store was swept of
    /// them; later entries stay.
    pub(crate) fn retire(&self, snapshot: &Snapshot) -> Result<(), JournalError> {
        let transaction = self.database.begin_write()?;
        {
            transaction.open_table(ENTRIES)?.retain(|revision, _| revision > snapshot.revision.0)?;
            transaction.open_table(VALUES)?.insert("snapshot", model::log::encode(snapshot).as_slice())?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert("floor", snapshot.revision.0)?;
            let kept = numbers.get("swept")?.map_or(0, |kept| kept.value());
            numbers.insert("swept", kept.max(snapshot.revision.0))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn write_identity(transaction: &redb::WriteTransaction, identity: &Identity) -> Result<(), JournalError> {
    let mut values = transaction.open_table(VALUES)?;
    values.insert("log", identity.log.0.as_bytes())?;
    values.insert("credential", identity.credential.as_bytes())?;
    values.insert("peer_credential", identity.peer_credential.as_bytes())?;
    values.insert("certificate_secret", identity.certificate_secret.as_bytes())?;
    values.insert("token", identity.token_id.as_bytes())?;
    values.insert("ca", identity.ca.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Invalidation, Mode, Scope, Settings, UrlKey};

    fn identity() -> Identity {
        let text = |text: &str| text.to_owned();
        Identity {
            log: LogId(text("log")),
            credential: text("own"),
            peer_credential: text("peers"),
            certificate_secret: text("sealing"),
            token_id: text("t"),
            ca: text("pem"),
        }
    }

    fn refresh(path: &str) -> Entry {
        let scope = Scope::File(UrlKey::new("a.com", path).unwrap());
        Entry::Invalidate(vec![Invalidation { scope, mode: Mode::Expire }])
    }

    fn joined(directory: &Path) -> Journal {
        let journal = Journal::open(directory).unwrap();
        assert_eq!(journal.load().unwrap(), None, "a new node has not joined");
        let snapshot = Snapshot { log: LogId("log".into()), revision: Revision(7), knowledge: Knowledge::default() };
        journal.restart(Some(&identity()), &snapshot).unwrap();
        journal
    }

    #[test]
    fn what_was_applied_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let journal = joined(directory.path());
        let settings = Entry::Settings(Settings { lease_secs: 3 });
        journal.append(Revision(8), &[model::log::encode(&refresh("/8")), model::log::encode(&settings)]).unwrap();
        journal.append(Revision(10), &[model::log::encode(&refresh("/10"))]).unwrap();
        drop(journal);

        let remembered = Journal::open(directory.path()).unwrap().load().unwrap().unwrap();
        assert_eq!((remembered.applied, remembered.floor), (Revision(10), Revision(7)));
        assert_eq!(remembered.identity, identity());
        assert_eq!(remembered.knowledge.settings.lease_secs, 3);
        let entries = [(Revision(8), refresh("/8")), (Revision(9), settings), (Revision(10), refresh("/10"))];
        assert_eq!(remembered.entries, entries);
    }

    #[test]
    fn position_of_the_sweep_never_falls_and_begins_anew_with_a_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let journal = joined(directory.path());
        let swept = |journal: &Journal| journal.load().unwrap().unwrap().swept;
        assert_eq!(swept(&journal), Revision(0), "nobody knows what the snapshot stands in for");
        journal.swept(Revision(9)).unwrap();
        journal.swept(Revision(8)).unwrap();
        assert_eq!(swept(&journal), Revision(9));
        let snapshot = Snapshot { log: LogId("other".into()), revision: Revision(3), knowledge: Knowledge::default() };
        journal.restart(Some(&identity()), &snapshot).unwrap();
        assert_eq!(swept(&journal), Revision(0));
    }

    #[test]
    fn retiring_keeps_what_came_after() {
        let directory = tempfile::tempdir().unwrap();
        let journal = joined(directory.path());
        for revision in 8..=12 {
            journal.append(Revision(revision), &[model::log::encode(&refresh(&format!("/{revision}")))]).unwrap();
        }
        let knowledge = Knowledge { settings: Settings { lease_secs: 5 }, ..Knowledge::default() };
        journal
            .retire(&Snapshot { log: LogId("log".into()), revision: Revision(10), knowledge: knowledge.clone() })
            .unwrap();
        drop(journal);

        let remembered = Journal::open(directory.path()).unwrap().load().unwrap().unwrap();
        assert_eq!(
            (remembered.applied, remembered.floor, &remembered.knowledge),
            (Revision(12), Revision(10), &knowledge)
        );
        assert_eq!(remembered.entries, [(Revision(11), refresh("/11")), (Revision(12), refresh("/12"))]);
        assert_eq!(remembered.swept, Revision(10), "retiring swept what it retired");
    }

    #[test]
    fn snapshot_replaces_everything_but_the_identity() {
        let directory = tempfile::tempdir().unwrap();
        let journal = joined(directory.path());
        journal.append(Revision(8), &[model::log::encode(&refresh("/8"))]).unwrap();
        let snapshot = Snapshot { log: LogId("log".into()), revision: Revision(100), knowledge: Knowledge::default() };
        journal.restart(None, &snapshot).unwrap();
        let remembered = journal.load().unwrap().unwrap();
        assert_eq!((remembered.applied, remembered.floor), (Revision(100), Revision(100)));
        assert_eq!((remembered.entries.len(), remembered.identity), (0, identity()));
    }

    #[test]
    fn entry_of_a_later_version_is_an_error_not_a_gap() {
        let directory = tempfile::tempdir().unwrap();
        let journal = joined(directory.path());
        journal.append(Revision(8), &[br#"{"v":2,"is":{}}"#.to_vec()]).unwrap();
        assert!(matches!(journal.load(), Err(JournalError::Decode(_))));
    }

    #[test]
    fn first_start_that_was_cut_short_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("journal.redb.new"), [7; 100]).unwrap();
        let _journal = joined(directory.path());
    }

    #[cfg(unix)]
    #[test]
    fn file_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let _journal = joined(directory.path());
        let mode = std::fs::metadata(directory.path().join("journal.redb")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
