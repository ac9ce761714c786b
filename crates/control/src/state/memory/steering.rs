//! Steering on maps: one function per statement.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::DomainName;

use super::Tables;
use crate::state::chunks::{Chunk, Kind};
use crate::state::steering::{CANCELLED_BATCH_MAX, Standing, Steered, Steering};

fn standing(chunk: &Arc<Chunk>) -> Standing {
    Standing { id: chunk.id, urls: chunk.paths.len() as u64, steering: chunk.steering }
}

impl Tables {
    fn of_tasks<'a>(&'a self, account: &'a str, tasks: &'a [u64]) -> impl Iterator<Item = &'a Arc<Chunk>> {
        self.chunks.values().filter(move |chunk| {
            chunk.account == account && chunk.kind == Kind::Prefetch && tasks.contains(&chunk.task)
        })
    }

    pub(in crate::state) fn domains_of_prefetches(&self, account: &str, tasks: &[u64]) -> Vec<(u64, String)> {
        let named = self.of_tasks(account, tasks).map(|chunk| (chunk.task, chunk.domain.to_string()));
        named.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(in crate::state) fn prefetches_of(&self, account: &str, tasks: &[u64]) -> Vec<(u64, Standing, bool)> {
        self.of_tasks(account, tasks).map(|chunk| (chunk.task, standing(chunk), chunk.finished_ms > 0)).collect()
    }

    pub(in crate::state) fn steer(&mut self, number: u64, id: u64, steering: Steering) {
        if self.chunks.get(&id).is_none_or(|chunk| chunk.finished_ms > 0) {
            return;
        }
        if let Some(chunk) = Arc::make_mut(&mut self.chunks).get_mut(&id) {
            let chunk = Arc::make_mut(chunk);
            (chunk.steering, chunk.finished_ms) = (steering, steering.cancelled_ms);
            Arc::make_mut(&mut self.steered).insert(id, number);
        }
    }

    pub(in crate::state) fn offer(&mut self, number: u64, ids: &[u64]) {
        let open = ids.iter().filter(|id| self.chunks.get(id).is_some_and(|chunk| chunk.finished_ms == 0));
        let open: Vec<u64> = open.copied().collect();
        Arc::make_mut(&mut self.steered).extend(open.into_iter().map(|id| (id, number)));
    }

    pub(in crate::state) fn ended(&self, ids: &[u64]) -> Vec<u64> {
        let ended = |chunk: &&Arc<Chunk>| chunk.finished_ms > 0 && chunk.steering.cancelled_ms == 0;
        let ids: BTreeSet<u64> = ids.iter().copied().collect();
        ids.iter().filter_map(|id| self.chunks.get(id)).filter(ended).map(|chunk| chunk.id).collect()
    }

    pub(in crate::state) fn cancel_some(
        &mut self,
        number: u64,
        account: &str,
        domain: &DomainName,
        now_ms: u64,
    ) -> u64 {
        let open = self.open(true).filter(|chunk| chunk.account == account && chunk.domain == *domain);
        let open = open.take(CANCELLED_BATCH_MAX as usize).map(|chunk| (chunk.id, chunk.steering));
        let open: Vec<(u64, Steering)> = open.collect();
        for (id, steering) in &open {
            self.steer(number, *id, Steering { cancelled_ms: now_ms, ..*steering });
        }
        open.len() as u64
    }

    pub(in crate::state) fn steered_after(&self, after: (u64, u64), most: u32) -> Vec<Steered> {
        let later = self.steered.iter().map(|(id, number)| (*number, *id)).filter(|at| *at > after);
        let places: BTreeSet<(u64, u64)> = later.collect();
        let steered = |at: &(u64, u64)| {
            let chunk = self.chunks.get(&at.1)?;
            Some(Steered { at: *at, account: chunk.account.clone(), steering: chunk.steering })
        };
        places.iter().filter_map(steered).take(most as usize).collect()
    }

    pub(in crate::state) fn open_prefetches(&self, account: &str, after: u64, most: u32) -> Vec<Standing> {
        let open = self.open(true).filter(|chunk| chunk.account == account && chunk.id > after);
        open.take(most as usize).map(standing).collect()
    }
}
