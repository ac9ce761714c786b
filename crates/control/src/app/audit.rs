//! The verb that shows an account's audit log.

use super::{App, Denied, Permission, Principal};
use crate::state::audit::{Recorded, Wanted, Window};

impl App {
    /// The newest `most` records of the account that match `wanted`, newest first, and the position to continue from.
    /// An account sees only its own records, whatever its state.
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
