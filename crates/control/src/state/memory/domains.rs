//! Domains, their labels, blocked names and proofs on maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{DomainName, Revision};

use super::{Tables, insert_new, update};
use crate::state::domains::{Doing, DomainRow, RowChange};
use crate::state::labels::Label;

impl Tables {
    pub(in crate::state) fn domains(&self) -> Vec<DomainRow> {
        let mut domains: Vec<DomainRow> = self.domains.values().map(|row| DomainRow::clone(row)).collect();
        domains.sort_by_key(|row| row.created_ms); // stable: rows with equal times stay in the order of names
        domains
    }

    pub(in crate::state) fn owner_and_doing(&self, name: &str) -> Option<(String, Doing)> {
        self.domains.get(name).map(|row| (row.account.clone(), row.doing))
    }

    /// Whether an account other than `account` has a longer name that ends in `name`.
    pub(in crate::state) fn others_under(&self, name: &str, account: &str) -> bool {
        self.domains.values().any(|row| {
            row.account != account && row.name.as_str().len() > name.len() && row.name.as_str().ends_with(name)
        })
    }

    pub(in crate::state) fn add_domain(&mut self, row: DomainRow) {
        insert_new(&mut self.domains, row.name.to_string(), Arc::new(row));
    }

    /// Changes a domain; returns false if it is no longer as it was at `seen`, or is being deleted.
    pub(in crate::state) fn change_domain(
        &mut self,
        name: &DomainName,
        seen: Revision,
        change: &RowChange<'_>,
    ) -> bool {
        let changed = update(
            &mut self.domains,
            |row| row.name == *name && row.revision == seen && row.doing != Doing::Deleting,
            |row| {
                (row.modified_ms, row.revision, row.configured) = (change.now_ms, change.at, false);
                row.doing = change.doing;
                if let Some(detail) = change.detail {
                    row.detail = detail.clone();
                }
            },
        );
        changed > 0
    }

    pub(in crate::state) fn configured(&mut self, passed: Revision) -> u64 {
        update(&mut self.domains, |row| !row.configured && row.revision <= passed, |row| row.configured = true)
    }

    /// Returns how many rows were deleted.
    pub(in crate::state) fn forget_deleted(&mut self, name: &DomainName, at: Revision) -> u64 {
        let is_it = |row: &Arc<DomainRow>| row.revision == at && row.doing == Doing::Deleting;
        if !self.domains.get(name.as_str()).is_some_and(is_it) {
            return 0;
        }
        Arc::make_mut(&mut self.domains).remove(name.as_str());
        1
    }

    pub(in crate::state) fn blocked(&self) -> BTreeMap<String, String> {
        BTreeMap::clone(&self.blocked)
    }

    pub(in crate::state) fn is_blocked(&self, name: &str) -> bool {
        self.blocked.contains_key(name)
    }

    pub(in crate::state) fn set_blocked(&mut self, name: &DomainName, reason: Option<&str>) {
        let blocked = Arc::make_mut(&mut self.blocked);
        match reason {
            Some(reason) => blocked.insert(name.to_string(), reason.to_owned()),
            None => blocked.remove(name.as_str()),
        };
    }

    /// How many domains a block of `name` affects.
    pub(in crate::state) fn count_concerned(&self, name: &str) -> u64 {
        let under = |row: &DomainRow| {
            name.starts_with('.') && row.name.as_str().len() > name.len() && row.name.as_str().ends_with(name)
        };
        let concerned =
            |row: &&Arc<DomainRow>| row.doing != Doing::Deleting && (row.name.as_str() == name || under(row));
        self.domains.values().filter(concerned).count() as u64
    }
}

/// Labels.
impl Tables {
    pub(in crate::state) fn put_label(&mut self, account: &str, domain: &DomainName, key: &str, value: &str) {
        let (key, row) = ((domain.to_string(), key.to_owned()), (account.to_owned(), value.to_owned()));
        Arc::make_mut(&mut self.labels).insert(key, row);
    }

    pub(in crate::state) fn forget_labels(&mut self, domain: &DomainName, key: Option<&str>) {
        let goes = |of: &(String, String)| of.0 == domain.as_str() && key.is_none_or(|key| of.1 == key);
        Arc::make_mut(&mut self.labels).retain(|of, _| !goes(of));
    }

    pub(in crate::state) fn count_labels(&self, domain: &DomainName) -> u64 {
        self.labels.keys().filter(|(of, _)| of == domain.as_str()).count() as u64
    }

    fn labels(&self, account: &str) -> impl Iterator<Item = Label> {
        self.labels
            .iter()
            .filter(move |(_, (owner, _))| owner == account)
            .map(|((domain, key), (_, value))| (domain.clone(), key.clone(), value.clone()))
    }

    pub(in crate::state) fn labels_after(&self, account: &str, after: (&str, &str), most: u32) -> Vec<Label> {
        let behind = |(domain, key, _): &Label| (domain.as_str(), key.as_str()) > after;
        self.labels(account).filter(behind).take(most as usize).collect()
    }

    pub(in crate::state) fn labels_of(&self, account: &str, domain: &str) -> Vec<Label> {
        self.labels(account).filter(|(of, _, _)| of == domain).collect()
    }

    pub(in crate::state) fn labelled(&self, account: &str, key: &str, value: Option<&str>) -> BTreeSet<String> {
        let has = |(_, of, is): &Label| of == key && value.is_none_or(|value| is == value);
        self.labels(account).filter(has).map(|(domain, _, _)| domain).collect()
    }

    pub(in crate::state) fn labels_in_use(&self, account: &str, most: u32) -> Vec<(String, String)> {
        let pairs: BTreeSet<(String, String)> = self.labels(account).map(|(_, key, value)| (key, value)).collect();
        pairs.into_iter().take(most as usize).collect()
    }
}

/// Names that were proven.
impl Tables {
    pub(in crate::state) fn put_proof(&mut self, account: &str, name: &DomainName) {
        Arc::make_mut(&mut self.proofs).insert((account.to_owned(), name.to_string()));
    }

    pub(in crate::state) fn has_proof(&self, account: &str, name: &DomainName, under: &str) -> bool {
        let stands = |proven: &str| proven == name.as_str() || (proven.starts_with('.') && under.ends_with(proven));
        self.proofs.iter().any(|(of, proven)| of == account && stands(proven))
    }

    pub(in crate::state) fn count_proofs(&self, account: &str) -> u64 {
        self.proofs.iter().filter(|(of, _)| of == account).count() as u64
    }
}
