//! Room for what takes its time, of which no site gets everything.
//!
//! # What always holds
//!
//! - There are never more than there is room for; once half of it is taken, a site that has a quarter gets no more: who makes one site's
//!   origin slow, or asks it for what nobody has, leaves room for the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use model::DomainName;

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Room {
    most: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    /// Of each site that has some.
    of: HashMap<DomainName, u64>,
}

/// One of the places; dropping it gives it back.
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

    /// A place for a site, if there is one for it.
    pub(crate) fn take(self: &Arc<Self>, site: &DomainName) -> Option<Place> {
        let mut taken = self.state();
        let of_it = taken.of.get(site).copied().unwrap_or(0);
        if taken.all >= self.most || (taken.all >= self.most / 2 && of_it >= self.most / 4) {
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
        let room = Room::new(8);
        let [greedy, other, third] = ["a.com", "b.com", "c.com"].map(|name| DomainName::parse(name).unwrap());
        let mut places: Vec<Place> = std::iter::from_fn(|| room.take(&greedy)).collect();
        assert_eq!(places.len(), 4, "alone it may have half");
        let others: Vec<Place> = std::iter::from_fn(|| room.take(&other)).collect();
        assert_eq!((others.len(), room.taken()), (2, 6), "and then each a quarter");
        assert!(room.take(&greedy).is_none());
        assert!(room.take(&third).is_some_and(|place| room.taken() == 7 && place.site == third));
        places.truncate(1);
        drop(others);
        assert_eq!(room.taken(), 1);
        assert!(room.take(&greedy).is_some());
        drop(places);
        assert!(room.state().of.is_empty() && room.taken() == 0);
    }
}
