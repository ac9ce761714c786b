//! The verbs that issue temporary credentials.

use std::time::Duration;

use super::{App, Denied, Permission, Principal};
use crate::passes::Issued;
use crate::policy::Policy;
use crate::state::millis;

impl App {
    /// A session of the caller's key, which may do what the key and `policy` both allow.
    pub(crate) fn create_session(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        duration: Duration,
        policy: Option<&str>,
    ) -> Result<Issued, Denied> {
        let policy = may_issue(principal, permission, policy)?;
        let whose = (principal.key.id.as_str(), principal.account(), principal.user());
        Ok(self.passes.session(whose, millis(self.clock.now()), duration, policy))
    }

    /// A bearer token of the caller's key, which may do what the key and `policy` both allow.
    pub(crate) fn create_bearer(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        duration: Duration,
        policy: Option<&str>,
    ) -> Result<Issued, Denied> {
        let policy = may_issue(principal, permission, policy)?;
        let whose = (principal.key.id.as_str(), principal.account(), principal.user());
        Ok(self.passes.bearer(whose, millis(self.clock.now()), duration, policy))
    }
}

/// Fails unless a lasting key asks that may: temporary credentials must not prolong themselves by issuing more.
fn may_issue(
    principal: &Principal,
    permission: Permission<'_>,
    policy: Option<&str>,
) -> Result<Option<Policy>, Denied> {
    principal.may_change()?;
    if principal.pass.is_some() {
        return Err(Denied::Forbidden);
    }
    principal.may(permission.action, [permission.on("*")])?;
    policy.map(Policy::parse).transpose().map_err(Denied::Policy)
}
