//! Accounts, users, policies and keys on maps: one function per statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AccountRow, KeyRow, PolicyRow, Tables, insert_new};
use crate::policy::Policy;
use crate::state::access::Listed;
use crate::state::accounts::{Account, AccountStatus, Opening};

/// Accounts.
impl Tables {
    pub(in crate::state) fn add_account(&mut self, account: &Account, created_ms: u64) -> bool {
        let row = AccountRow { account: account.clone(), created_ms, opened_ms: 0, charge: String::new() };
        insert_new(&mut self.accounts, account.name.clone(), row)
    }

    pub(in crate::state) fn set_account_status(&mut self, name: &str, status: AccountStatus) -> bool {
        if !self.has_account(name) {
            return false;
        }
        let row = Arc::make_mut(&mut self.accounts).get_mut(name);
        row.map(|row| row.account.status = status).is_some()
    }

    pub(in crate::state) fn open_service(&mut self, name: &str, charge: &str, now_ms: u64) -> bool {
        if self.accounts.get(name).is_none_or(|row| row.account.status != AccountStatus::NotOpened) {
            return false;
        }
        if let Some(row) = Arc::make_mut(&mut self.accounts).get_mut(name) {
            row.account.status = AccountStatus::Active;
            (row.opened_ms, row.charge) = (now_ms, charge.to_owned());
        }
        true
    }

    pub(in crate::state) fn opening(&self, name: &str) -> Option<Opening> {
        let row = self.accounts.get(name)?;
        Some(Opening::of(row.created_ms, row.opened_ms, row.charge.clone()))
    }

    pub(in crate::state) fn has_account(&self, name: &str) -> bool {
        self.accounts.contains_key(name)
    }

    pub(in crate::state) fn accounts(&self) -> Vec<Account> {
        self.accounts.values().map(|row| row.account.clone()).collect()
    }
}

/// Users and policies.
impl Tables {
    pub(in crate::state) fn count(&self, listed: Listed, account: &str) -> u64 {
        let of_account = |of: &str| of == account;
        let count = match listed {
            Listed::Users => self.users.keys().filter(|(of, _)| of_account(of)).count(),
            Listed::Policies => self.policies.keys().filter(|(of, _)| of_account(of)).count(),
            Listed::Keys => self.keys.values().filter(|row| of_account(&row.account)).count(),
        };
        count as u64
    }

    pub(in crate::state) fn add_user(&mut self, account: &str, name: &str, now_ms: u64) -> bool {
        insert_new(&mut self.users, (account.to_owned(), name.to_owned()), now_ms)
    }

    pub(in crate::state) fn has_user(&self, account: &str, name: &str) -> bool {
        self.users.contains_key(&(account.to_owned(), name.to_owned()))
    }

    pub(in crate::state) fn users(&self, account: &str) -> Vec<(String, u64)> {
        let of_account = self.users.iter().filter(|((of, _), _)| of == account);
        of_account.map(|((_, name), created_ms)| (name.clone(), *created_ms)).collect()
    }

    pub(in crate::state) fn remove_user(&mut self, account: &str, name: &str) {
        Arc::make_mut(&mut self.users).remove(&(account.to_owned(), name.to_owned()));
        Arc::make_mut(&mut self.attached).retain(|(of, user, _), ()| (of.as_str(), user.as_str()) != (account, name));
    }

    pub(in crate::state) fn put_policy(&mut self, account: &str, name: &str, policy: &Policy, now_ms: u64) {
        let row = PolicyRow { policy: policy.clone(), changed_ms: now_ms };
        Arc::make_mut(&mut self.policies).insert((account.to_owned(), name.to_owned()), row);
    }

    pub(in crate::state) fn has_policy(&self, account: &str, name: &str) -> bool {
        self.policies.contains_key(&(account.to_owned(), name.to_owned()))
    }

    pub(in crate::state) fn policies(&self, account: &str) -> Vec<(String, Policy, u64)> {
        let of_account = self.policies.iter().filter(|((of, _), _)| of == account);
        of_account.map(|((_, name), row)| (name.clone(), row.policy.clone(), row.changed_ms)).collect()
    }

    pub(in crate::state) fn remove_policy(&mut self, account: &str, name: &str) {
        Arc::make_mut(&mut self.policies).remove(&(account.to_owned(), name.to_owned()));
    }

    pub(in crate::state) fn attach(&mut self, account: &str, user: &str, policy: &str) -> bool {
        insert_new(&mut self.attached, (account.to_owned(), user.to_owned(), policy.to_owned()), ())
    }

    pub(in crate::state) fn detach(&mut self, account: &str, user: &str, policy: &str) -> bool {
        let row = (account.to_owned(), user.to_owned(), policy.to_owned());
        Arc::make_mut(&mut self.attached).remove(&row).is_some()
    }

    /// User and policy of every attachment of an account.
    pub(in crate::state) fn attached(&self, account: &str) -> Vec<(String, String)> {
        let of_account = self.attached.keys().filter(|(of, ..)| of == account);
        of_account.map(|(_, user, policy)| (user.clone(), policy.clone())).collect()
    }

    /// The policies attached to a user, each with its document if it is one of the account's own.
    pub(in crate::state) fn granted(&self, account: &str, user: &str) -> Vec<(String, Option<Policy>)> {
        let of_user = self.attached.keys().filter(|(of, name, _)| (of.as_str(), name.as_str()) == (account, user));
        let own = |name: &String| self.policies.get(&(account.to_owned(), name.clone())).map(|row| row.policy.clone());
        of_user.map(|(_, _, policy)| (policy.clone(), own(policy))).collect()
    }
}

/// Keys.
impl Tables {
    pub(in crate::state) fn add_key(&mut self, id: &str, row: KeyRow) -> bool {
        insert_new(&mut self.keys, id.to_owned(), row)
    }

    pub(in crate::state) fn key(&self, id: &str) -> Option<(&KeyRow, &Account)> {
        let key = self.keys.get(id)?;
        Some((key, self.accounts.get(&key.account).map(|row| &row.account)?))
    }

    pub(in crate::state) fn keys(&self, account: &str) -> BTreeMap<String, KeyRow> {
        let of_account = self.keys.iter().filter(|(_, row)| row.account == account);
        of_account.map(|(id, row)| (id.clone(), row.clone())).collect()
    }

    pub(in crate::state) fn set_key_active(&mut self, id: &str, active: bool) -> Option<String> {
        self.keys.get(id)?;
        let row = Arc::make_mut(&mut self.keys).get_mut(id)?;
        row.active = active;
        Some(row.account.clone())
    }

    pub(in crate::state) fn remove_key(&mut self, id: &str) -> Option<String> {
        self.keys.get(id)?;
        Arc::make_mut(&mut self.keys).remove(id).map(|row| row.account)
    }
}
