//! Operator settings about how calls are read, for all accounts.

use std::time::Duration;

/// Default time for which tasks can be queried: the vendor's.
pub const TASK_HISTORY_DAYS: u64 = 3;

/// The operator's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How far back tasks can be queried, in days.
    pub task_history_days: u64,
    /// Whether a line of `ObjectPath` that was escaped twice is unescaped once: one that contains `%3F` or `%25` and no
    /// `?`.
    ///
    /// The vendor's own script escapes text that is already escaped. Such a line may also be meant literally, so this
    /// is a setting.
    pub unescape_paths: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { task_history_days: TASK_HISTORY_DAYS, unescape_paths: false }
    }
}

impl Rules {
    /// How far back tasks can be queried.
    pub fn task_history(&self) -> Duration {
        Duration::from_secs(self.task_history_days * 86_400)
    }
}
