//! What the submissions of one transaction have used that is not in the database yet.

use std::collections::{BTreeMap, HashMap};

use model::DomainName;

use crate::state::{StateError, Writing, spending};

/// What a batch has used, in addition to what the database says.
#[derive(Default)]
pub(super) struct Used {
    pub(super) days: BTreeMap<(String, u64, &'static str), (u64, bool)>,
    pub(super) minutes: HashMap<(DomainName, &'static str), u64>,
    /// Calls that prefetch and their URLs, by account and bucket.
    pub(super) open: HashMap<(String, &'static str), (u64, u64)>,
    /// URLs of all of them.
    pub(super) urls: u64,
    pub(super) refreshing: HashMap<DomainName, u64>,
}

impl Used {
    pub(super) fn open(&self, account: &str, bucket: &'static str) -> (u64, u64) {
        self.open.get(&(account.to_owned(), bucket)).copied().unwrap_or_default()
    }

    pub(super) async fn spent(
        &mut self,
        writing: &mut Writing,
        account: &str,
        day: u64,
        bucket: &'static str,
    ) -> Result<u64, StateError> {
        if let Some((spent, _)) = self.days.get(&(account.to_owned(), day, bucket)) {
            return Ok(*spent);
        }
        let spent = spending::spent(writing, account, day, bucket).await?;
        self.days.insert((account.to_owned(), day, bucket), (spent, false));
        Ok(spent)
    }

    pub(super) fn spend(&mut self, account: &str, day: u64, bucket: &'static str, units: u64) {
        let entry = self.days.entry((account.to_owned(), day, bucket)).or_default();
        *entry = (entry.0 + units, true);
    }

    pub(super) async fn keep(&self, writing: &mut Writing) -> Result<(), StateError> {
        for ((account, day, bucket), (spent, changed)) in &self.days {
            if !changed {
                continue;
            }
            spending::set_spent(writing, account, *day, bucket, *spent).await?;
        }
        Ok(())
    }
}
