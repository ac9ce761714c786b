//! The verbs about ownership of names: the content that proves it, and looking for that.

use aliyun::VerifyType;
use model::DomainName;

use super::{App, Denied, Permission, Principal};
use crate::state::millis;

/// The most proofs stored for one account. Without a bound, a zone that answers for every name could fill the table.
const PROOFS_MAX: usize = super::DOMAINS_MAX;

impl App {
    /// The content with which an account proves that a name is its own, whoever has a domain of that name.
    pub(crate) fn proof_content(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
    ) -> Result<String, Denied> {
        principal.may_look()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        Ok(self.ownership.content(principal.account(), name))
    }

    /// Checks that a name shows the account's content, and records the proof. Returns the content.
    pub(crate) async fn prove_name(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        name: &DomainName,
        how: VerifyType,
    ) -> Result<String, Denied> {
        principal.may_change()?;
        principal.may(permission.action, [permission.on(name.as_str())])?;
        let account = principal.account();
        let proven = self.ownership.prove(account, name, how).await.map_err(|problem| {
            tracing::info!(account, domain = %name, %problem, "a name was not proven");
            Denied::NotProven
        })?;
        let now_ms = millis(self.clock.now());
        if !self.state.keep_proof(account, &proven, PROOFS_MAX, now_ms).await? {
            return Err(Denied::DomainsUsedUp);
        }
        Ok(self.ownership.content(account, name))
    }

    /// Fails if the operator requires proven names and one of these is not.
    pub(super) async fn are_proven(&self, principal: &Principal, names: &[DomainName]) -> Result<(), Denied> {
        if !self.ownership.is_required() {
            return Ok(());
        }
        for name in names {
            if !self.state.has_proof(principal.account(), name).await? {
                return Err(Denied::NotProven);
            }
        }
        Ok(())
    }
}
