//! Figures: what nodes counted of a domain's requests in a span of time, and its most requested URLs.
//!
//! Nodes count, the control plane adds up, the API shows; these are the values they exchange. The figures of two nodes, or
//! of two minutes, add up to those of both.
//!
//! # What always holds
//!
//! - Counters saturate instead of overflowing.
//! - A [`Sketch`] that never saw more than [`SKETCH_URLS_MAX`] URLs of a class is exact.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::topology::Region;

/// URLs that a sketch keeps for each class of statuses.
pub const SKETCH_URLS_MAX: usize = 128;

/// Longest URL kept in a sketch, in bytes; longer ones are only counted in the figures.
pub const SKETCH_URL_BYTES_MAX: usize = 1024;

/// Counts of requests and of their answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 4]", into = "[u64; 4]")]
pub struct Tally {
    /// Requests that finished.
    pub requests: u64,
    /// Bytes of bodies sent to users, as the access log has them.
    pub bytes: u64,
    /// Requests answered from a store: those logged as HIT.
    pub hits: u64,
    /// Body bytes of those.
    pub hit_bytes: u64,
}

impl From<[u64; 4]> for Tally {
    fn from([requests, bytes, hits, hit_bytes]: [u64; 4]) -> Tally {
        Tally { requests, bytes, hits, hit_bytes }
    }
}

impl From<Tally> for [u64; 4] {
    fn from(tally: Tally) -> [u64; 4] {
        [tally.requests, tally.bytes, tally.hits, tally.hit_bytes]
    }
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Tally) {
        let pairs = [
            (&mut self.requests, other.requests),
            (&mut self.bytes, other.bytes),
            (&mut self.hits, other.hits),
            (&mut self.hit_bytes, other.hit_bytes),
        ];
        for (sum, by) in pairs {
            *sum = sum.saturating_add(by);
        }
    }
}

/// Number of answers by status.
pub type Codes = BTreeMap<u16, u64>;

/// Counts of answers, by scheme.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// All answers, whatever their scheme.
    #[serde(rename = "a")]
    pub all: Tally,
    /// Those of them sent over TLS.
    #[serde(rename = "s", default, skip_serializing_if = "is_nothing")]
    pub secure: Tally,
    /// All answers by status; 499 if the client disconnected before it was answered.
    #[serde(rename = "c", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: Codes,
}

fn is_nothing(tally: &Tally) -> bool {
    *tally == Tally::default()
}

impl Side {
    /// Counts one answer.
    pub fn count(&mut self, secure: bool, status: u16, bytes: u64, hit: bool) {
        let (hits, hit_bytes) = if hit { (1, bytes) } else { (0, 0) };
        let one = Tally { requests: 1, bytes, hits, hit_bytes };
        self.all.add(one);
        if secure {
            self.secure.add(one);
        }
        *self.codes.entry(status).or_default() += 1;
    }

    /// Adds another.
    pub fn add(&mut self, other: &Side) {
        self.all.add(other.all);
        self.secure.add(other.secure);
        for (code, count) in &other.codes {
            let sum = self.codes.entry(*code).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.all == Tally::default()
    }
}

/// Counts for a domain: towards users, and towards its origins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests of users.
    #[serde(rename = "u", default, skip_serializing_if = "Side::is_empty")]
    pub users: Side,
    /// Requests to origins that were answered; their hits are always zero.
    #[serde(rename = "o", default, skip_serializing_if = "Side::is_empty")]
    pub origins: Side,
}

impl Figures {
    /// Adds others.
    pub fn add(&mut self, other: &Figures) {
        self.users.add(&other.users);
        self.origins.add(&other.origins);
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.origins.is_empty()
    }
}

/// Figures by the region of the POP whose nodes counted them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regional {
    /// The Chinese mainland.
    #[serde(rename = "d", default, skip_serializing_if = "Figures::is_empty")]
    pub domestic: Figures,
    /// Everywhere else.
    #[serde(rename = "o", default, skip_serializing_if = "Figures::is_empty")]
    pub overseas: Figures,
}

impl Regional {
    /// Figures of one region.
    pub fn of(region: Region, figures: Figures) -> Regional {
        match region {
            Region::Domestic => Regional { domestic: figures, overseas: Figures::default() },
            Region::Overseas => Regional { domestic: Figures::default(), overseas: figures },
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: &Regional) {
        self.domestic.add(&other.domestic);
        self.overseas.add(&other.overseas);
    }

    /// Both regions together.
    pub fn sum(&self) -> Figures {
        let mut sum = self.domestic.clone();
        sum.add(&self.overseas);
        sum
    }
}

/// Classes of statuses, by which lists of URLs are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// 2xx.
    #[serde(rename = "2")]
    Success,
    /// 3xx.
    #[serde(rename = "3")]
    Redirect,
    /// 4xx, 499 included.
    #[serde(rename = "4")]
    Client,
    /// 5xx.
    #[serde(rename = "5")]
    Server,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 4] = [Class::Success, Class::Redirect, Class::Client, Class::Server];

    /// The class of a status; `None` for interim (1xx) statuses.
    pub fn of(status: u16) -> Option<Class> {
        usize::from(status / 100).checked_sub(2).and_then(|at| Class::ALL.get(at)).copied()
    }

    /// The first digit of its statuses.
    pub fn digit(self) -> u32 {
        self as u32 + 2
    }

    /// The class with this first digit.
    pub fn of_digit(digit: u32) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.digit() == digit)
    }
}

/// How often a URL was requested, and how many bytes were sent for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visits {
    /// Host and path; no scheme, no query.
    #[serde(rename = "u")]
    pub url: String,
    /// Requests.
    #[serde(rename = "n")]
    pub requests: u64,
    /// Bytes of bodies.
    #[serde(rename = "b")]
    pub bytes: u64,
}

/// The most requested URLs, by class of status, in bounded memory (space-saving, Metwally et al. 2005).
///
/// While a class has at most [`SKETCH_URLS_MAX`] URLs, all its numbers are exact. Beyond that, a new URL replaces the
/// one with the fewest requests and takes over its count: a count of requests is never too small, and too large by at
/// most the requests of the class divided by [`SKETCH_URLS_MAX`]. So every URL with more than that share of the
/// requests is in the sketch. Bytes are counted from when the URL entered the sketch. The sum of several full sketches
/// may be off by twice that share, in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sketch {
    /// Sorted by URL.
    #[serde(deserialize_with = "in_order")]
    classes: BTreeMap<Class, Vec<Visits>>,
}

/// An earlier version kept them in order of arrival, so they are sorted here.
fn in_order<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeMap<Class, Vec<Visits>>, D::Error> {
    let mut classes = BTreeMap::<Class, Vec<Visits>>::deserialize(from)?;
    classes.values_mut().for_each(|kept| kept.sort_by(|one, other| one.url.cmp(&other.url)));
    Ok(classes)
}

impl Sketch {
    /// Counts a visit; returns whether the number of URLs in the sketch grew.
    pub fn count(&mut self, class: Class, visits: Visits) -> bool {
        self.count_within(class, visits, SKETCH_URLS_MAX)
    }

    /// The same without growing the sketch; returns whether the visit could be counted at all.
    pub fn count_in_place(&mut self, class: Class, visits: Visits) -> bool {
        let room = self.classes.get(&class).map_or(0, Vec::len);
        if room > 0 {
            self.count_within(class, visits, room);
        }
        room > 0
    }

    fn count_within(&mut self, class: Class, visits: Visits, most: usize) -> bool {
        let kept = self.classes.entry(class).or_default();
        let place = match kept.binary_search_by(|known| known.url.cmp(&visits.url)) {
            Ok(known) => {
                let known = &mut kept[known];
                known.requests = known.requests.saturating_add(visits.requests);
                known.bytes = known.bytes.saturating_add(visits.bytes);
                return false;
            }
            Err(place) => place,
        };
        if kept.len() < most {
            kept.insert(place, visits);
            return true;
        }
        if let Some(least) = (0..kept.len()).min_by_key(|known| kept[*known].requests) {
            let requests = kept.remove(least).requests.saturating_add(visits.requests);
            kept.insert(place - usize::from(least < place), Visits { requests, ..visits });
        }
        false
    }

    /// Adds the counts of another sketch.
    pub fn add(&mut self, other: &Sketch) {
        for (class, visits) in other.visits() {
            self.count(class, visits.clone());
        }
    }

    /// Every URL, by class.
    pub fn visits(&self) -> impl Iterator<Item = (Class, &Visits)> {
        self.classes.iter().flat_map(|(class, kept)| kept.iter().map(|visits| (*class, visits)))
    }

    /// Number of URLs; one that occurs in several classes counts once per class.
    pub fn len(&self) -> usize {
        self.classes.values().map(Vec::len).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visits(url: &str, requests: u64, bytes: u64) -> Visits {
        Visits { url: url.to_owned(), requests, bytes }
    }

    #[test]
    fn what_is_counted_apart_adds_up() {
        let answers = [(false, 200, 10, true), (true, 200, 5, true), (true, 404, 7, false), (false, 499, 0, false)];
        let mut whole = Side::default();
        let mut parts = Side::default();
        for (secure, status, bytes, hit) in answers {
            whole.count(secure, status, bytes, hit);
            let mut one = Side::default();
            one.count(secure, status, bytes, hit);
            parts.add(&one);
        }
        assert_eq!(whole, parts);
        assert_eq!(whole.all, Tally { requests: 4, bytes: 22, hits: 2, hit_bytes: 15 });
        assert_eq!(whole.secure, Tally { requests: 2, bytes: 12, hits: 1, hit_bytes: 5 });
        assert_eq!(whole.codes, Codes::from([(200, 2), (404, 1), (499, 1)]));
        let figures = Figures { users: whole, origins: Side::default() };
        let text = serde_json::to_string(&figures).unwrap();
        assert_eq!(text, r#"{"u":{"a":[4,22,2,15],"s":[2,12,1,5],"c":{"200":2,"404":1,"499":1}}}"#);
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), figures);
    }

    #[test]
    fn sketch_is_exact_up_to_its_bound_and_never_too_small_beyond() {
        let mut sketch = Sketch::default();
        for round in 1..=3_u64 {
            for url in 0..SKETCH_URLS_MAX {
                assert_eq!(sketch.count(Class::Success, visits(&url.to_string(), 1, 2)), round == 1);
            }
        }
        assert!(sketch.visits().all(|(_, visits)| (visits.requests, visits.bytes) == (3, 6)));
        assert_eq!(sketch.len(), SKETCH_URLS_MAX);
        // Beside many that are asked for once, one that is asked for often stays, with a number that is at most too large by a share.
        let mut requests = 3 * SKETCH_URLS_MAX as u64;
        for other in 0..2_000_u64 {
            sketch.count(Class::Success, visits(&format!("other{other}"), 1, 1));
            sketch.count(Class::Success, visits("hot", 1, 1));
            requests += 2;
        }
        assert_eq!(sketch.len(), SKETCH_URLS_MAX);
        let hot = sketch.visits().find(|(_, visits)| visits.url == "hot").unwrap().1;
        assert!((2_000..=2_000 + requests / SKETCH_URLS_MAX as u64).contains(&hot.requests), "{hot:?}");
    }

    #[test]
    fn classes_are_apart_and_interim_answers_are_of_none() {
        let cases =
            [(101, None), (200, Some(2)), (206, Some(2)), (304, Some(3)), (499, Some(4)), (503, Some(5)), (600, None)];
        for (status, digit) in cases {
            assert_eq!(Class::of(status).map(Class::digit), digit, "{status}");
        }
        let mut sketch = Sketch::default();
        assert!(!sketch.count_in_place(Class::Success, visits("a", 1, 1)), "there is no room to take over");
        sketch.count(Class::Success, visits("a", 1, 1));
        sketch.count(Class::Client, visits("a", 2, 0));
        assert!(sketch.count_in_place(Class::Success, visits("b", 1, 5)));
        let mut other = Sketch::default();
        other.add(&sketch);
        let all: Vec<_> =
            other.visits().map(|(class, v)| (class.digit(), v.url.as_str(), v.requests, v.bytes)).collect();
        assert_eq!(all, [(2, "b", 2, 5), (4, "a", 2, 0)]);
        let text = serde_json::to_string(&sketch).unwrap();
        assert_eq!(serde_json::from_str::<Sketch>(&text).unwrap(), sketch);
        let mixed = r#"{"2":[{"u":"b","n":1,"b":1},{"u":"a","n":1,"b":1}]}"#;
        let mut mixed = serde_json::from_str::<Sketch>(mixed).unwrap();
        assert!(!mixed.count(Class::Success, visits("b", 1, 1)), "known, in whatever order it was kept");
    }
}
