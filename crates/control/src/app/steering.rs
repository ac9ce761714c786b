//! The verb that steers prefetches.

use std::collections::BTreeSet;

use super::{App, Denied, Permission, Principal};
use crate::state::millis;
use crate::state::steering::{NotSteered, Steer};

impl App {
    /// Steers prefetches of the account, all of these or none; returns how many URLs of each had not ended, in the
    /// order of `tasks`.
    pub(crate) async fn steer(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        tasks: &[u64],
        steer: Steer,
    ) -> Result<Vec<u64>, Denied> {
        principal.may_change()?;
        let of_tasks = self.state.domains_of_prefetches(principal.account(), tasks).await?;
        let mut domains: BTreeSet<&str> = of_tasks.iter().map(|(_, domain)| domain.as_str()).collect();
        if domains.is_empty() {
            // Permission is checked before existence.
            domains.insert("*");
        }
        principal.may(permission.action, domains.into_iter().map(|domain| permission.on(domain)))?;
        let steered = self.state.steer(principal.account(), tasks, steer, millis(self.clock.now())).await?;
        let urls = steered.map_err(|not| match not {
            NotSteered::NoTask(task) => Denied::NoPrefetch(task),
            NotSteered::Ended(task) => Denied::TaskEnded(task),
        })?;
        self.accepting.nudge();
        Ok(urls)
    }
}
