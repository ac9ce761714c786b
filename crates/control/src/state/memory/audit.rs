//! The audit log on maps: one function per statement.

use std::sync::Arc;

use super::{Tables, drop_past};
use crate::state::audit::{Record, Recorded, Window};

/// Records kept in memory, where a simulation ends before anybody asks for old ones; the oldest are dropped first.
const ROWS_MAX: usize = 512;

impl Tables {
    pub(in crate::state) fn add_record(&mut self, id: u64, record: Record) {
        let audit = Arc::make_mut(&mut self.audit);
        let ended_ms = record.ended_ms();
        audit.insert(id, Arc::new(Recorded { id, record, ended_ms }));
        while audit.len() > ROWS_MAX {
            audit.pop_first();
        }
    }

    pub(in crate::state) fn end_record(&mut self, id: u64, outcome: &str, ended_ms: u64) {
        if self.audit.contains_key(&id)
            && let Some(row) = Arc::make_mut(&mut self.audit).get_mut(&id)
        {
            let row = Arc::make_mut(row);
            row.record.outcome = outcome.to_owned();
            row.ended_ms = ended_ms;
        }
    }

    pub(in crate::state) fn records(&self, window: &Window, most: u32) -> Vec<Recorded> {
        let mut found: Vec<&Arc<Recorded>> = self.audit.values().filter(|row| window.has(row)).collect();
        found.sort_by_key(|row| std::cmp::Reverse((row.record.at_ms, row.id)));
        found.into_iter().take(most as usize).map(|row| Recorded::clone(row)).collect()
    }

    pub(in crate::state) fn forget_records(&mut self, before_ms: u64, upto: u64, most: u64) -> u64 {
        drop_past(&mut self.audit, most, |id, row| row.record.at_ms < before_ms || *id <= upto)
    }

    /// The lowest and the highest number of a record.
    pub(in crate::state) fn record_span(&self) -> Option<(u64, u64)> {
        Some((*self.audit.first_key_value()?.0, *self.audit.last_key_value()?.0))
    }
}
