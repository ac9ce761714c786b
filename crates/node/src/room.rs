//! Places for long-running work, of which no single site gets all.
//!
//! # What always holds
//!
//! - No more places are taken than there are, and a site has at most [`TIMES_LEFT`] times what is left for others. A
//!   slow origin of one site, or requests to it for objects that do not exist, therefore leave room for the rest,
//!   however many sites are affected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use model::DomainName;

/// How many times the free places one site may have (the dynamic thresholds of Choudhury and Hahne, 1998).
const TIMES_LEFT: u64 = 3;

/// See the module head.
#[derive(Debug)]
pub(crate) struct Room {
    most: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    /// Places taken by each site that has any.
    of: HashMap<DomainName, u64>,
}

/// One place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    site: DomainName,
}

impl Room {
    pub(crate) fn new(most: usize) -> Arc<Room> {
        Arc::new(Room { most: most as u64, taken: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no holder of this lock can panic")
    }

    /// Takes a place for a site, unless the site has its part or none is left.
    pub(crate) fn take(self: &Arc<Self>, site: &DomainName) -> Option<Place> {
        let mut taken = self.state();
        let of_it = taken.of.get(site).copied().unwrap_or(0);
        if of_it >= TIMES_LEFT * self.most.saturating_sub(taken.all) {
            return None;
        }
        taken.all += 1;
        *taken.of.entry(site.clone()).or_default() += 1;
        Some(Place { room: self.clone(), site: site.clone() })
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> u64 {
        self.state().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.state();
        taken.all -= 1;
        if let Some(of_it) = taken.of.get_mut(&self.site) {
            *of_it -= 1;
            if *of_it == 0 {
                taken.of.remove(&self.site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_site_leaves_room_for_the_others() {
        let room = Room::new(70);
        let [first, second, third] = ["a.com", "b.com", "c.com"].map(|name| DomainName::parse(name).unwrap());
        let all_of = |site| std::iter::from_fn(|| room.take(site)).collect::<Vec<Place>>();
        let mut places = all_of(&first);
        assert_eq!(places.len(), 53, "alone it may have three quarters");
        let others = [all_of(&second), all_of(&third)];
        assert_eq!(others.each_ref().map(Vec::len), [13, 3], "and the next of what is left");
        assert_eq!(room.taken(), 69);
        assert!(room.take(&first).is_none());
        places.truncate(10);
        drop(others);
        assert_eq!(room.taken(), 10);
        assert!(room.take(&first).is_some());
        drop(places);
        assert!(room.state().of.is_empty() && room.taken() == 0);
    }
}
