//! The open prefetches of each account, counted in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Open chunks and URLs of prefetches per account. Shared with the scheduler, which subtracts those that have ended.
#[derive(Clone, Default)]
pub struct Open(Arc<Mutex<BTreeMap<String, (u64, u64)>>>);

impl Open {
    /// Chunks and URLs that an account has open.
    pub fn of(&self, account: &str) -> (u64, u64) {
        self.0.lock().expect("no holder of this lock can panic").get(account).copied().unwrap_or_default()
    }

    pub(super) fn add(&self, account: &str, chunks: u64, urls: u64) {
        let mut open = self.0.lock().expect("no holder of this lock can panic");
        let entry = open.entry(account.to_owned()).or_default();
        *entry = (entry.0 + chunks, entry.1 + urls);
    }

    /// Raises an account's counts to at least these.
    pub(crate) fn raise(&self, account: String, chunks: u64, urls: u64) {
        let mut open = self.0.lock().expect("no holder of this lock can panic");
        let entry = open.entry(account).or_default();
        *entry = (entry.0.max(chunks), entry.1.max(urls));
    }

    /// Subtracts a chunk of `urls` URLs that has ended.
    pub fn ended(&self, account: &str, urls: u64) {
        self.take(account, 1, urls);
    }

    /// Subtracts from an account's counts.
    pub fn take(&self, account: &str, chunks: u64, urls: u64) {
        let mut open = self.0.lock().expect("no holder of this lock can panic");
        if let Some(entry) = open.get_mut(account) {
            *entry = (entry.0.saturating_sub(chunks), entry.1.saturating_sub(urls));
            if *entry == (0, 0) {
                open.remove(account);
            }
        }
    }

    /// Accounts with open prefetches, by name, and how many chunks.
    pub fn chunks(&self) -> Vec<(String, u64)> {
        let open = self.0.lock().expect("no holder of this lock can panic");
        open.iter().map(|(account, (chunks, _))| (account.clone(), *chunks)).collect()
    }

    /// Open URLs over all accounts.
    pub fn urls(&self) -> u64 {
        self.0.lock().expect("no holder of this lock can panic").values().map(|(_, urls)| urls).sum()
    }
}
