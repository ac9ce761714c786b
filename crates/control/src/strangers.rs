//! Peers that have not proven their identity (yet), bounded in total and per address.
//!
//! # What always holds
//!
//! - One address may use only a part of the room, so it cannot keep out others.
//! - An address without a current connection is not remembered.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// How many times the free places one address may have where it has no fixed part: alone three quarters of the room,
/// less when other addresses need theirs.
const TIMES_LEFT: usize = 3;

/// The room for unidentified peers.
pub(crate) struct Strangers {
    most: usize,
    /// The part of one address; [`TIMES_LEFT`] decides if it is not fixed.
    most_of_one: Option<usize>,
    here: Mutex<HashMap<Option<IpAddr>, usize>>,
    refused: AtomicU64,
}

/// A peer that was let in; dropping this frees its place.
pub(crate) struct Stranger {
    of: Arc<Strangers>,
    from: Option<IpAddr>,
}

impl Strangers {
    /// Room for `most` peers, of which `most_of_one` may share an address.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Strangers> {
        Arc::new(Strangers { most, most_of_one: Some(most_of_one), here: Mutex::default(), refused: AtomicU64::new(0) })
    }

    /// Room for `most` peers. One address may have at most three times the places that are free. All clients may share
    /// the address of a balancer, so an address that is alone has most of the room.
    pub(crate) fn shared(most: usize) -> Arc<Strangers> {
        Arc::new(Strangers { most, most_of_one: None, here: Mutex::default(), refused: AtomicU64::new(0) })
    }

    /// How many there may be.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// How many were not let in.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many there are now.
    pub(crate) fn count(&self) -> usize {
        self.here().values().sum()
    }

    /// Lets in a peer from an address, if that is known; `None` if there is no room.
    pub(crate) fn let_in(self: &Arc<Strangers>, from: Option<IpAddr>) -> Option<Stranger> {
        let from = from.map(network);
        let mut here = self.here();
        let (all, of_one) = (here.values().sum::<usize>(), here.get(&from).copied().unwrap_or_default());
        let most_of_one = self.most_of_one.unwrap_or(TIMES_LEFT * self.most.saturating_sub(all));
        if all >= self.most || of_one >= most_of_one {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        here.insert(from, of_one + 1);
        Some(Stranger { of: self.clone(), from })
    }

    fn here(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.here.lock().expect("no holder of this lock can panic")
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut here = self.of.here();
        if let Some(count) = here.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                here.remove(&self.from);
            }
        }
    }
}

/// The unit that an address is counted by: for IPv6 its /64 network, since one host usually has a whole one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_takes_a_part_of_the_room_and_all_together_no_more_than_there_is() {
        let strangers = Strangers::new(8, 3);
        let address = |n: u8| Some(IpAddr::from([10, 0, 0, n]));
        let fill = |n| std::iter::from_fn(|| strangers.let_in(address(n))).collect::<Vec<_>>();
        let mut here = vec![fill(1), fill(2), fill(3)];
        assert_eq!(here.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!(strangers.count(), 8);
        assert!(strangers.let_in(address(4)).is_none() && strangers.let_in(None).is_none());
        here[2].pop();
        assert!(strangers.let_in(address(1)).is_none(), "it has its part");
        drop(strangers.let_in(address(4)).expect("there is room for one"));
        drop(here);
        assert!(strangers.here().is_empty(), "whom nobody is here from is not remembered");
    }

    #[test]
    fn address_without_a_fixed_part_leaves_some_room_to_every_other() {
        let room = Strangers::shared(64);
        let fill = |n: u8| {
            let address = Some(IpAddr::from([10, 0, 0, n]));
            std::iter::from_fn(|| room.let_in(address)).collect::<Vec<_>>()
        };
        let here: Vec<_> = (1..=3).map(fill).collect();
        assert_eq!(here.iter().map(Vec::len).collect::<Vec<_>>(), [48, 12, 3]);
        assert_eq!((room.count(), room.refused()), (63, 3));
    }

    #[test]
    fn neighbours_in_a_network_of_ipv6_are_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
