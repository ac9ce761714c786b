//! Several nodes and one origin: a control plane that lends shares, over a link that takes time and may be cut, and
//! their total effect.

use std::cell::Cell;
use std::collections::BTreeMap;

use model::NodeName;
use model::share::{Row, Total};

use super::*;

/// The time that a message to the control plane takes, including its transaction, and that the answer takes.
const WAY: Duration = Duration::from_millis(5);

/// Lends shares to nodes. Dropping it cuts their links.
pub(super) struct Lender {
    rows: Rc<RefCell<BTreeMap<String, Row>>>,
    cut: Rc<Cell<Option<usize>>>,
}

impl Lender {
    /// Lends to these nodes; `set` is the cap of the domain.
    pub(super) fn of(limiters: &[Rc<Limiter>], set: Option<u64>) -> Lender {
        let lender = Lender { rows: Rc::default(), cut: Rc::default() };
        for (n, limiter) in limiters.iter().enumerate() {
            limiter.connected(true);
            let begun = Instant::now();
            let (limiter, rows, cut) = (limiter.clone(), lender.rows.clone(), lender.cut.clone());
            let others: Vec<_> = limiters.iter().filter(|other| !Rc::ptr_eq(other, &limiter)).cloned().collect();
            tokio::task::spawn_local(async move {
                let name = NodeName::parse(&format!("n{n}")).unwrap();
                loop {
                    let wants = limiter.wants().await;
                    tokio::time::sleep(WAY).await;
                    if cut.get() == Some(n) {
                        continue; // neither heard nor answered
                    }
                    for want in wants.wants.iter().filter(|want| want.closed_ms > 0) {
                        let closed = Closed { name: want.name.clone(), closed_ms: want.closed_ms };
                        let others = others.clone();
                        tokio::task::spawn_local(async move {
                            tokio::time::sleep(WAY).await;
                            others.iter().for_each(|other| other.close(&closed));
                        });
                    }
                    let shares = wants.wants.iter().map(|want| {
                        let total =
                            if want.shared == Shared::Origin as i32 { Total::Felt } else { Total::Set(set.unwrap()) };
                        let mut rows = rows.borrow_mut();
                        let row = rows.entry(format!("{} {}", want.shared, want.name)).or_default();
                        row.step(&name, &want.into(), total, 0, begun.elapsed().as_millis() as u64).of(want)
                    });
                    let shares = Shares { sequence: wants.sequence, shares: shares.collect() };
                    tokio::time::sleep(WAY).await;
                    limiter.take(&shares);
                }
            });
        }
        lender
    }

    /// Cuts a node off; the others get its share only once its lease is over.
    async fn cut_off(&self, n: usize) {
        self.cut.set(Some(n));
        tokio::time::sleep(model::link::SHARE_LEASE + Duration::from_secs(1)).await;
        for row in self.rows.borrow_mut().values_mut() {
            row.remove(&NodeName::parse(&format!("n{n}")).unwrap());
        }
    }
}

pub(super) fn nodes(count: usize) -> Vec<Rc<Limiter>> {
    (0..count as u64).map(|seed| Rc::new(Limiter::new(seed))).collect()
}

fn prefetches(limiter: &Limiter) -> usize {
    limiter.origins().values().map(|origin| origin.state().prefetches).sum()
}

#[tokio::test(start_paused = true)]
async fn several_nodes_are_to_users_and_to_the_origin_as_one() {
    for (count, spread) in [(2, 0.0), (3, 0.0), (3, 0.5)] {
        local(async {
            let shape = usual(spread);
            let alone = load(&Knee::new(shape), 1_000, Some(1)).await;
            let best = load(&Knee::new(shape), 60_000, Some(WORKERS - 3)).await;
            let limiters = nodes(count);
            let _lender = Lender::of(&limiters, None);
            let seen = load_of(&limiters, &Knee::new(shape), 60_000, None, async {}).await;
            let (with, without) = (seen.users_p99(), alone.users_p99());
            assert!(with <= without.mul_f64(1.1), "{count}, {spread}: {with:?} and {without:?} alone");
            let ratio = best.took.as_secs_f64() / seen.took.as_secs_f64();
            assert!(ratio >= 0.85, "{count}, {spread}: {ratio} of the best fixed limit");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_stall_several_are_as_fast_again_within_half_a_minute() {
    local(async {
        let limiters = nodes(3);
        let _lender = Lender::of(&limiters, None);
        let knee = Knee::new(usual(0.0));
        assert_as_fast_after_a_stall(&load_of(&limiters, &knee, 40_000, None, stall(&knee)).await);
    })
    .await;
}

/// Runs prefetches on every node for ever, each taking `takes`.
fn ask_for_ever(limiters: &[Rc<Limiter>], limit: PrefetchLimit, takes: Duration) {
    for (n, limiter) in limiters.iter().enumerate() {
        for m in 0..64 {
            let limiter = limiter.clone();
            tokio::task::spawn_local(async move {
                for k in 0_u128.. {
                    let key = k * 1_000_000 + n as u128 * 1_000 + m;
                    let asks = Prefetching { domain: "a.test", limit: &limit, key, again: false };
                    if let Ok(permit) = limiter.enter_prefetching(&endpoint("o"), asks, None).await {
                        tokio::time::sleep(takes).await;
                        permit.answered(true);
                    }
                }
            });
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_owner_allows_holds_for_the_sum_whoever_is_cut_off() {
    local(async {
        let limiters = nodes(3);
        let lender = Lender::of(&limiters, Some(7));
        let limit = PrefetchLimit { concurrency: Some(7), ..PrefetchLimit::default() };
        ask_for_ever(&limiters, limit, Duration::from_millis(300));
        let all = || limiters.iter().map(|limiter| prefetches(limiter)).collect::<Vec<_>>();
        let watch = async |seconds: u64| {
            let mut most = 0;
            for _ in 0..seconds * 50 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let now = all();
                assert!(now.iter().sum::<usize>() <= 7, "{now:?}");
                most = most.max(now.iter().sum());
            }
            assert_eq!(most, 7, "all of it is used: {:?}", all());
        };
        watch(20).await;
        assert!(all().iter().all(|one| *one >= 2), "each has its part: {:?}", all());
        tokio::join!(lender.cut_off(1), watch(11));
        watch(5).await;
        assert_eq!(prefetches(&limiters[1]), 0, "without a lease nothing is let in");
        lender.cut.set(None);
        watch(20).await;
        assert!(all().iter().all(|one| *one >= 2), "it has its part again: {:?}", all());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_come_no_faster_than_an_owner_allows_in_sum_and_users_do_not_wait_for_them() {
    local(async {
        let limiters = nodes(2);
        let rate: u64 = 1 << 20;
        let _lender = Lender::of(&limiters, Some(rate / model::functions::RATE_UNIT));
        let limit = PrefetchLimit { bytes_per_second: Some(rate), ..PrefetchLimit::default() };
        let read: Rc<Cell<u64>> = Rc::default();
        for (n, limiter) in limiters.iter().enumerate() {
            for m in 0..8 {
                let (limiter, read) = (limiter.clone(), read.clone());
                tokio::task::spawn_local(async move {
                    for k in 0_u128.. {
                        let key = k * 1_000_000 + n as u128 * 1_000 + m;
                        let asks = Prefetching { domain: "a.test", limit: &limit, key, again: false };
                        let Ok(permit) = limiter.enter_prefetching(&endpoint("o"), asks, None).await else { continue };
                        permit.answered(true);
                        for _ in 0..10 {
                            permit.readable().await;
                            permit.read(64 << 10);
                            read.set(read.get() + (64 << 10));
                        }
                    }
                });
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = read.get();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let per_second = (read.get() - before) as f64 / 60.0 / rate as f64;
        assert!((0.8..=1.02).contains(&per_second), "{per_second} of what is allowed");

        let (hurry, awaited) = watch::channel(false);
        let asks = Prefetching { domain: "a.test", limit: &limit, key: 1, again: false };
        let permit = limiters[0].enter_prefetching(&endpoint("o"), asks, Some(awaited)).await.unwrap();
        hurry.send_replace(true);
        let begun = Instant::now();
        for _ in 0..100 {
            permit.readable().await;
            permit.read(1 << 20);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "a user waits for it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_word_of_the_origin_is_heeded_by_all_nodes_at_once_and_without_control_nobody_is_let_in() {
    local(async {
        let limiters = nodes(2);
        let lender = Lender::of(&limiters, None);
        let first = limiters[0].enter(&endpoint("o"), Purpose::Prefetch, None).await.unwrap();
        let other = limiters[1].enter(&endpoint("o"), Purpose::Prefetch, None).await.unwrap();
        first.closed(Duration::from_secs(30));
        tokio::time::sleep(WAY * 2 + Duration::from_millis(1)).await;
        let refused = limiters[1].enter(&endpoint("o"), Purpose::Prefetch, None).await.unwrap_err();
        assert!(matches!(refused, NotNow::Closed(left) if left > Duration::from_secs(29)), "{refused:?}");
        assert!(limiters[1].enter(&endpoint("o"), Purpose::User, None).await.is_ok(), "users go their way");
        drop((first, other));
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert!(limiters[1].enter(&endpoint("o"), Purpose::Prefetch, None).await.is_ok());

        lender.cut.set(Some(1));
        tokio::time::sleep(model::link::SHARE_LEASE).await;
        assert_eq!(limiters[1].enter(&endpoint("o"), Purpose::Prefetch, None).await.unwrap_err(), NotNow::Full);
        limiters[1].connected(false);
        assert!(
            limiters[1].enter(&endpoint("o"), Purpose::Prefetch, None).await.is_ok(),
            "a version that lends nothing"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_fails_is_asked_again_for_a_tenth_of_what_it_is_asked_for() {
    let limiter = Limiter::new(0);
    let limit = PrefetchLimit::default();
    let (mut first, mut again) = (0, 0);
    for key in 0..2_000_u128 {
        for _ in 0..4 {
            let asks = Prefetching { domain: "a.test", limit: &limit, key, again: false };
            match limiter.enter_prefetching(&endpoint("o"), asks, None).await {
                Ok(permit) => {
                    if limiter.failed().is_here(key, Instant::now()) {
                        again += 1
                    } else {
                        first += 1
                    }
                    permit.answered(true);
                    limiter.note(key, false);
                }
                Err(refused) => assert_eq!(refused, NotNow::Full),
            }
        }
    }
    assert_eq!((first, again), (2_000, 209));
}
