//! The verbs about the service itself: opening it, and the state of the account.

use super::{App, Denied, Permission, Principal};
use crate::state::accounts::{AccountStatus, Opening};
use crate::state::{StateError, millis};

impl App {
    /// Opens the service for an account that has not opened it.
    pub(crate) async fn open_service(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        charge: &str,
    ) -> Result<(), Denied> {
        principal.may(permission.action, [permission.on("*")])?;
        match principal.key.account.status {
            AccountStatus::NotOpened => {}
            AccountStatus::Active | AccountStatus::Suspended => return Err(Denied::ServiceOpen),
            AccountStatus::Overdue => return Err(Denied::Account(AccountStatus::Overdue)),
        }
        let opened = self.state.open_service(principal.account(), charge, millis(self.clock.now())).await?;
        self.keys.forget(principal.account());
        // If it is false, another call opened it first.
        if opened { Ok(()) } else { Err(Denied::ServiceOpen) }
    }

    /// When the service was opened.
    pub(crate) async fn service(&self, principal: &Principal, permission: Permission<'_>) -> Result<Opening, Denied> {
        principal.may(permission.action, [permission.on("*")])?;
        if principal.key.account.status == AccountStatus::NotOpened {
            return Err(Denied::ServiceNotOpened);
        }
        let opening = self.state.opening(principal.account()).await?;
        let what = || format!("account {}", principal.account());
        opening.ok_or_else(|| Denied::Unavailable(StateError::Corrupt { what: what() }))
    }

    /// The state of the account; told to every permitted caller, whatever the state.
    pub(crate) fn standing(&self, principal: &Principal, permission: Permission<'_>) -> Result<AccountStatus, Denied> {
        principal.may(permission.action, [permission.on("*")])?;
        Ok(principal.key.account.status)
    }
}
