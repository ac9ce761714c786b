//! Access keys and rates, which the API needs at every request: keys are cached for a second, rates are counted per
//! account.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::seal::Seal;
use crate::state::State;
use crate::state::accounts::{AccessKey, AccountError};

/// How long a key is cached with its account, its user and that user's policies: an operator's change of any of them
/// takes effect within this time.
const BELIEVED: Duration = Duration::from_secs(1);

/// Keys that are cached; others are read each time. Only existing keys are cached, so a stranger cannot fill the cache.
const KEYS_MAX: usize = 10_000;

/// Accounts and actions whose rate is counted; above this number, idle ones are dropped.
const RATES_MAX: usize = 10_000;

/// The longest wait that a client is told, in milliseconds.
const WAIT_MS_MAX: f64 = 60_000.0;

/// Nonces remembered for requests that only read. Those of requests that change something are in the database.
const NONCES_MAX: usize = 200_000;

/// Keys by their ids, and when each was read.
type Believed = HashMap<String, (Instant, Arc<AccessKey>)>;

/// The cache of keys. Clones share it.
#[derive(Clone)]
pub(crate) struct Keys {
    state: State,
    seal: Arc<Seal>,
    known: Arc<Mutex<Believed>>,
}

impl Keys {
    pub(crate) fn new(state: State, seal: Arc<Seal>) -> Keys {
        Keys { state, seal, known: Arc::default() }
    }

    /// The key `id`; `None` if there is none.
    pub(crate) async fn get(&self, id: &str) -> Result<Option<Arc<AccessKey>>, AccountError> {
        let now = Instant::now();
        let known = self.known.lock().expect("no holder of this lock can panic").get(id).cloned();
        if let Some((_, key)) = known.filter(|(read, _)| now.duration_since(*read) < BELIEVED) {
            return Ok(Some(key));
        }
        let key = self.state.access_key(&self.seal, id).await?.map(Arc::new);
        let mut known = self.known.lock().expect("no holder of this lock can panic");
        match &key {
            Some(key) => {
                if known.len() >= KEYS_MAX {
                    known.retain(|_, (read, _)| now.duration_since(*read) < BELIEVED);
                }
                if known.len() < KEYS_MAX {
                    known.insert(id.to_owned(), (now, key.clone()));
                }
            }
            None => {
                known.remove(id);
            }
        }
        Ok(key)
    }

    /// Drops an account's keys from the cache, so that it sees its own changes at once.
    pub(crate) fn forget(&self, account: &str) {
        let mut known = self.known.lock().expect("no holder of this lock can panic");
        known.retain(|_, (_, key)| key.account.name != account);
    }
}

/// Requests per second, by account and action, or over all actions of an account: a token bucket that fills at the rate
/// and holds one second's worth.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<(String, String), (Instant, f64)>>);

impl Rates {
    /// Takes one from the bucket of `action`, or of all actions if it is empty. If none is left, the error is the time
    /// until there is one.
    pub(crate) fn take(&self, account: &str, action: &str, per_second: u64) -> Result<(), Duration> {
        let now = Instant::now();
        let most = per_second as f64;
        let mut rates = self.0.lock().expect("no holder of this lock can panic");
        if rates.len() >= RATES_MAX {
            rates.retain(|_, (last, _)| now.duration_since(*last) < Duration::from_secs(2));
        }
        let (last, left) = rates.entry((account.to_owned(), action.to_owned())).or_insert((now, most));
        *left = (*left + now.duration_since(*last).as_secs_f64() * most).min(most);
        *last = now;
        if *left >= 1.0 {
            *left -= 1.0;
            return Ok(());
        }
        // In whole milliseconds, rounded up, so that a client that waits this long finds one. With a rate of zero there
        // never is one.
        let millis = ((1.0 - *left) / most.max(f64::MIN_POSITIVE) * 1000.0).ceil().min(WAIT_MS_MAX);
        Err(Duration::from_millis(millis as u64))
    }
}

/// Nonces of requests that only read, within the window in which a signature is valid.
#[derive(Default)]
pub(crate) struct Nonces(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Until when each is remembered.
    until: HashMap<(String, String), u64>,
    /// In order of arrival.
    order: VecDeque<(String, String)>,
}

impl Nonces {
    /// Remembers a nonce until `until_ms`; returns whether it is new. When there are too many, the oldest are dropped
    /// early: a replay then only repeats a read.
    pub(crate) fn spend(&self, key: &str, nonce: &str, now_ms: u64, until_ms: u64) -> bool {
        let mut seen = self.0.lock().expect("no holder of this lock can panic");
        let Seen { until, order } = &mut *seen;
        while let Some(oldest) = order.front() {
            let over = until.get(oldest).is_none_or(|until| *until <= now_ms);
            if !over && order.len() < NONCES_MAX {
                break;
            }
            until.remove(oldest);
            order.pop_front();
        }
        let name = (key.to_owned(), nonce.to_owned());
        match until.get_mut(&name) {
            Some(until) if *until > now_ms => false,
            Some(until) => {
                *until = until_ms;
                true
            }
            None => {
                until.insert(name.clone(), until_ms);
                order.push_back(name);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bucket_fills_at_its_rate() {
        let rates = Rates::default();
        let taken = (0..10).filter(|_| rates.take("a", "x", 3).is_ok()).count();
        assert_eq!(taken, 3);
        assert_eq!(rates.take("a", "x", 3), Err(Duration::from_millis(334)), "a third of a second");
        assert!(rates.take("b", "x", 3).is_ok(), "another account has its own");
        assert!(rates.take("a", "", 3).is_ok(), "and so has the account over all its actions");
        tokio::time::advance(Duration::from_millis(334)).await;
        assert_eq!(rates.take("a", "x", 3), Ok(()), "whoever waited as long as he was told is let in");
        assert!(rates.take("a", "x", 3).is_err());
        assert_eq!(rates.take("a", "never", 0), Err(Duration::from_secs(60)));
    }

    #[test]
    fn nonce_is_spent_once_per_key() {
        let nonces = Nonces::default();
        assert!(nonces.spend("k", "n", 1_000, 2_000));
        assert!(!nonces.spend("k", "n", 1_500, 2_500));
        assert!(nonces.spend("l", "n", 1_500, 2_500));
        assert!(nonces.spend("k", "n", 9_000, 10_000), "after its window it may come again");
    }

    #[test]
    fn remembered_nonces_are_bounded_and_the_oldest_go_first() {
        let nonces = Nonces::default();
        for n in 0..=NONCES_MAX {
            assert!(nonces.spend("k", &n.to_string(), 1_000, 900_000));
        }
        assert!(!nonces.spend("k", &NONCES_MAX.to_string(), 1_000, 900_000));
        assert!(nonces.spend("k", "0", 1_000, 900_000), "the oldest was forgotten");
        assert_eq!(nonces.0.lock().unwrap().until.len(), NONCES_MAX);
    }
}
