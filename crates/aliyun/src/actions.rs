//! The vendor's actions: their names in each version, and how often a second an account may call them.
//!
//! `data/actions.txt` has a line for each: version, name, and the rate where a page of the vendor's names one.

use crate::read::VERSION_2014;

/// Our own action: what the vendor has no function for (reference of the API's own parts).
pub(crate) const SET_DOMAIN: &str = "SetWarmfrontDomain";

/// Our own action: temporary credentials.
pub(crate) const CREATE_SESSION: &str = "CreateSessionCredentials";

/// Our own action: a bearer token.
pub(crate) const CREATE_BEARER: &str = "CreateBearerToken";

/// Actions of our own, which both products have; the vendor's list holds none of these names.
const OWN: [&str; 4] = ["DescribeRefreshTaskReceipt", "DescribeReceiptKey", CREATE_SESSION, CREATE_BEARER];

/// Sessions and tokens a second and account: each is sealed under one key, which is good for 2^32 of them.
const OWN_RATE: u32 = 10;

/// Whether the vendor has this action in this version, or we do.
pub(crate) fn is_known(version: &str, action: &str) -> bool {
    let own = (version == "2018-05-10" && action == SET_DOMAIN) || (version != VERSION_2014 && OWN.contains(&action));
    own || listed().any(|(known, name, _)| (known, name) == (version, action))
}

/// Calls of `action` an account may make a second whatever its profile is.
pub(crate) fn own_rate(action: &str) -> Option<u32> {
    [CREATE_SESSION, CREATE_BEARER].contains(&action).then_some(OWN_RATE)
}

/// Calls of `action` an account may make a second, where a page says so.
pub(crate) fn rate(action: &str) -> Option<u32> {
    listed().find(|(_, name, _)| *name == action).and_then(|(_, _, rate)| rate)
}

/// Version, name and rate of every action.
fn listed() -> impl Iterator<Item = (&'static str, &'static str, Option<u32>)> {
    include_str!("../data/actions.txt").lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next().and_then(|rate| rate.parse().ok())))
    })
}
