//! The verb that shows what was done in an account.

use super::{App, Denied, Permission, Principal};
use crate::state::audit::{Recorded, Wanted, Window};

impl App {
    /// The newest `most` records of the account that are as wanted, the newest first, and behind which one to go on. An account sees
    /// its own, whatever its state, and nobody else's.
    pub(crate) async fn audit_log(
        &self,
        principal: &Principal,
        permission: Permission<'_>,
        within: Window,
        wanted: &Wanted,
        most: usize,
    ) -> Result<(Vec<Recorded>, Option<(u64, u64)>), Denied> {
        principal.may(permission.action, [permission.on("*")])?;
        let window = Window { account: Some(principal.account().to_owned()), ..within };
        Ok(self.state.search_records(window, wanted, most).await?)
    }
}
