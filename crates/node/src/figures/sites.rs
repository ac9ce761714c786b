//! The numbers of domains on this node, to count under.
//!
//! A domain that is removed and added again is another one, under another number: it may be another account's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use model::{Domain, DomainName, Knowledge, Revision};

use super::Numbers;

/// Numbers of domains that are gone, kept so that their figures can be reported.
const GONE_MAX: usize = 4_096;

/// A domain's number. Never used twice while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(pub(super) u32);

/// A domain that is counted.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) name: DomainName,
    /// A revision at which it was the domain of that name.
    pub(crate) since: Revision,
}

/// The numbers of the domains that are known.
#[derive(Clone, Default)]
pub(crate) struct Sites {
    /// By the domain's address in memory, which is cheap to look up for a request: the domain as it is, and as it was
    /// for requests that began before it changed. The weak pointer keeps the address from being used again.
    by_address: HashMap<u64, (Weak<Domain>, Slot), Numbers>,
    named: BTreeMap<Slot, Arc<Site>>,
    last: u32,
}

fn address(domain: &Domain) -> u64 {
    std::ptr::from_ref(domain).addr() as u64
}

impl Sites {
    /// New numbers for all domains, as known at `at`; figures under earlier numbers can still be reported.
    pub(crate) fn anew(&self, knowledge: &Knowledge, at: Revision) -> Sites {
        self.next(&Knowledge::default(), knowledge, &BTreeSet::new(), at)
    }

    /// The numbers after the knowledge `before` has become `knowledge` at revision `at`. Domains that were `removed` on
    /// the way get new numbers if they are there again.
    pub(crate) fn next(
        &self,
        before: &Knowledge,
        knowledge: &Knowledge,
        removed: &BTreeSet<DomainName>,
        at: Revision,
    ) -> Sites {
        let mut sites = self.clone();
        sites.by_address.retain(|_, (domain, _)| domain.strong_count() > 0);
        for (name, domain) in &knowledge.domains {
            let known = before.domains.get(name).filter(|_| !removed.contains(name));
            let slot = known.and_then(|before| self.slot(before)).unwrap_or_else(|| {
                sites.last += 1;
                let slot = Slot(sites.last);
                sites.named.insert(slot, Arc::new(Site { name: name.clone(), since: at }));
                slot
            });
            sites.by_address.insert(address(domain), (Arc::downgrade(domain), slot));
        }
        if sites.named.len() > sites.by_address.len() + 2 * GONE_MAX.max(sites.by_address.len()) {
            let there: BTreeSet<Slot> = sites.by_address.values().map(|(_, slot)| *slot).collect();
            let surplus = sites.named.len() - there.len() - GONE_MAX.max(there.len());
            let oldest: Vec<Slot> =
                sites.named.keys().filter(|slot| !there.contains(slot)).take(surplus).copied().collect();
            oldest.iter().for_each(|slot| _ = sites.named.remove(slot));
        }
        sites
    }

    /// Without any domain; new numbers go on from the last one, so none is given again.
    pub(crate) fn without_names(&self) -> Sites {
        Sites { last: self.last, ..Sites::default() }
    }

    /// The number of a domain, as it is known or was known before it changed.
    pub(crate) fn slot(&self, domain: &Domain) -> Option<Slot> {
        self.by_address.get(&address(domain)).map(|(_, slot)| *slot)
    }

    /// The domain of a number.
    pub(crate) fn named(&self, slot: Slot) -> Option<&Arc<Site>> {
        self.named.get(&slot)
    }
}
