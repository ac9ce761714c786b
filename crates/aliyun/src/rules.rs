//! What an operator sets about how calls are read, for all accounts alike.

use std::time::Duration;

/// How long tasks can be asked for where nobody says otherwise: as long as with the vendor.
pub const TASK_HISTORY_DAYS: u64 = 3;

/// An operator's choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How far back tasks can be asked for, in days.
    pub task_history_days: u64,
    /// Whether a line of `ObjectPath` that was escaped twice is unescaped once: one that has `%3F` or `%25` and no `?`.
    ///
    /// The vendor's own script escapes what is escaped already. Such a line can also be meant literally, so this is a choice.
    pub unescape_paths: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { task_history_days: TASK_HISTORY_DAYS, unescape_paths: false }
    }
}

impl Rules {
    /// How far back tasks can be asked for.
    pub fn task_history(&self) -> Duration {
        Duration::from_secs(self.task_history_days * 86_400)
    }
}
