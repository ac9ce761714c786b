//! An origin that works on so many requests at a time, and what its users notice of prefetches.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

mod sharing;

fn endpoint(host: &str) -> Endpoint {
    Endpoint { host: host.to_owned(), port: 80, tls: None }
}

/// Requests that the origin works on at a time, and how long on each on average.
const WORKERS: usize = 32;
const SERVICE: Duration = Duration::from_millis(50);

/// An origin that works on so many requests at a time; the others wait in line.
#[derive(Clone)]
struct Knee(Rc<RefCell<Work>>);

struct Work {
    /// When each has done what was given to it.
    workers: Vec<Instant>,
    /// By how much a request may take more or less time than others.
    spread: f64,
    seed: u64,
}

impl Knee {
    fn new(spread: f64) -> Knee {
        Knee(Rc::new(RefCell::new(Work { workers: vec![Instant::now(); WORKERS], spread, seed: 1 })))
    }

    async fn serve(&self) {
        let done = {
            let work = &mut *self.0.borrow_mut();
            work.seed = work.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = (work.seed >> 33) as f64 / f64::from(1_u32 << 31);
            let takes = SERVICE.mul_f64(1.0 + work.spread * (2.0 * chance - 1.0));
            let first = work.workers.iter_mut().min().expect("a worker");
            *first = (*first).max(Instant::now()) + takes;
            *first
        };
        tokio::time::sleep_until(done).await;
    }

    /// Nobody is served for so long.
    fn stall(&self, time: Duration) {
        let until = Instant::now() + time;
        for worker in &mut self.0.borrow_mut().workers {
            *worker = (*worker).max(until);
        }
    }
}

/// What a load came to.
struct Seen {
    users_p99: Duration,
    took: Duration,
    /// Prefetches done by each second.
    by_second: Vec<usize>,
}

/// A user every 20 ms while `prefetches` are done by 256 askers; a limiter decides about these, or a fixed number of them.
async fn load(knee: &Knee, prefetches: usize, fixed: Option<usize>, stall_after: Option<Duration>) -> Seen {
    load_of(&[Rc::new(Limiter::new(0))], knee, prefetches, fixed, stall_after).await
}

/// The same, by nodes with these limiters in turn.
async fn load_of(
    limiters: &[Rc<Limiter>],
    knee: &Knee,
    prefetches: usize,
    fixed: Option<usize>,
    stall_after: Option<Duration>,
) -> Seen {
    let waits: Rc<RefCell<Vec<Duration>>> = Rc::default();
    let done: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let left = Rc::new(RefCell::new(prefetches));
    let begun = Instant::now();
    let askers: Vec<_> = (0..fixed.unwrap_or(256))
        .map(|n| {
            let limiter = limiters[n % limiters.len()].clone();
            let (knee, done, left) = (knee.clone(), done.clone(), left.clone());
            tokio::task::spawn_local(async move {
                while *left.borrow() > 0 {
                    let slot = match fixed {
                        Some(_) => None,
                        None => match limiter.enter(&endpoint("o"), Purpose::Prefetch, None).await {
                            Ok(slot) => Some(slot),
                            Err(_) => continue,
                        },
                    };
                    if *left.borrow() == 0 {
                        return;
                    }
                    *left.borrow_mut() -= 1;
                    knee.serve().await;
                    if let Some(slot) = &slot {
                        slot.answered();
                    }
                    done.borrow_mut().push(Instant::now());
                }
            })
        })
        .collect();
    let users = async {
        for n in 0_usize.. {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (limiter, served, waits) = (limiters[n % limiters.len()].clone(), knee.clone(), waits.clone());
            tokio::task::spawn_local(async move {
                let slot = limiter.enter(&endpoint("o"), Purpose::User, None).await.expect("users pass");
                let asked = Instant::now();
                served.serve().await;
                slot.answered();
                waits.borrow_mut().push(asked.elapsed());
            });
            if stall_after
                .is_some_and(|after| begun.elapsed() >= after && begun.elapsed() < after + Duration::from_millis(20))
            {
                knee.stall(Duration::from_secs(5));
            }
        }
    };
    let all = async {
        for asker in askers {
            asker.await.expect("an asker does not panic");
        }
    };
    tokio::select! { () = all => {}, () = users => {} }
    let took = begun.elapsed();
    let mut waits = waits.borrow().clone();
    waits.sort();
    let users_p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
    let mut by_second = vec![0; took.as_secs() as usize + 1];
    for at in done.borrow().iter() {
        by_second[at.duration_since(begun).as_secs() as usize] += 1;
    }
    Seen { users_p99, took, by_second }
}

async fn local<T>(future: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(future).await
}

#[tokio::test(start_paused = true)]
async fn users_do_not_notice_and_the_origin_is_used_up_to_its_knee() {
    local(async {
        // Fixed, it is known where the knee is, and how much of it users need.
        for (prefetches, spread) in [(5_000, 0.0), (20_000, 0.0), (100_000, 0.5)] {
            let alone = load(&Knee::new(spread), 1_000, Some(1), None).await;
            let best = load(&Knee::new(spread), prefetches, Some(WORKERS - 3), None).await;
            let seen = load(&Knee::new(spread), prefetches, None, None).await;
            let (with, without) = (seen.users_p99, alone.users_p99);
            assert!(with <= without.mul_f64(1.1), "{prefetches}, {spread}: {with:?} and {without:?} alone");
            let ratio = best.took.as_secs_f64() / seen.took.as_secs_f64();
            // Of a short task the first seconds are much, in which the knee is looked for.
            let least = if prefetches == 5_000 { 0.8 } else { 0.85 };
            assert!(ratio >= least, "{prefetches}, {spread}: {ratio} of the best fixed limit");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_stall_it_is_as_fast_again_within_half_a_minute() {
    local(async {
        let seen = load(&Knee::new(0.0), 40_000, None, Some(Duration::from_secs(20))).await;
        let sum = |seconds: std::ops::Range<usize>| seen.by_second[seconds].iter().sum::<usize>();
        assert_eq!(sum(21..24), 0, "it stood still: {:?}", &seen.by_second[..30]);
        assert!(sum(51..55) * 10 >= sum(15..19) * 9, "{:?}", &seen.by_second[..60]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_prefetch_asks_an_origin_before_the_moment_it_named() {
    let limiter = Limiter::new(0);
    let (busy, well) = (endpoint("busy"), endpoint("well"));
    let first = limiter.enter(&busy, Purpose::User, None).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(limiter.enter(&busy, Purpose::Prefetch, None).await.unwrap());
    }
    let waiting = limiter.enter(&busy, Purpose::Prefetch, None);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "four are under way");
    first.closed(Duration::from_secs(7));
    assert_eq!(waiting.await.unwrap_err(), NotNow::Closed(Duration::from_secs(7)), "who waits hears it");
    let refused = limiter.enter(&busy, Purpose::Prefetch, None).await.unwrap_err();
    assert_eq!(refused, NotNow::Closed(Duration::from_secs(7)));
    assert!(limiter.enter(&busy, Purpose::User, None).await.is_ok(), "users go their way");
    assert!(limiter.enter(&well, Purpose::Prefetch, None).await.is_ok(), "it is one origin's word");
    first.closed(Duration::from_secs(3));
    drop(held);
    tokio::time::advance(Duration::from_millis(6_999)).await;
    assert!(limiter.enter(&busy, Purpose::Prefetch, None).await.is_err(), "the later of two moments counts");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(limiter.enter(&busy, Purpose::Prefetch, None).await.is_ok());
    first.closed(Duration::from_secs(86_400));
    assert_eq!(limiter.enter(&busy, Purpose::Prefetch, None).await.unwrap_err(), NotNow::Closed(CLOSED_MAX));
}

#[tokio::test(start_paused = true)]
async fn users_pass_prefetches_wait_in_order_and_not_for_ever() {
    local(async {
        let limiter = Rc::new(Limiter::new(0));
        let mut slots = Vec::new();
        for _ in 0..20 {
            slots.push(limiter.enter(&endpoint("o"), Purpose::User, None).await.unwrap());
        }
        let order: Rc<RefCell<Vec<usize>>> = Rc::default();
        let (hurry, hurried) = watch::channel(false);
        let waiting: Vec<_> = (0..3)
            .map(|n| {
                let (limiter, order, hurried) = (limiter.clone(), order.clone(), hurried.clone());
                tokio::task::spawn_local(async move {
                    let awaited = (n == 2).then_some(hurried);
                    let slot = limiter.enter(&endpoint("o"), Purpose::Prefetch, awaited).await;
                    order.borrow_mut().push(n);
                    slot
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(order.borrow().is_empty(), "users fill it");
        hurry.send_replace(true);
        while order.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.borrow(), [2], "a user waits for this one now");
        slots.clear();
        while order.borrow().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.borrow(), [2, 0, 1]);
        for one in waiting {
            slots.push(one.await.unwrap().unwrap());
        }
        let mut rest = Vec::new();
        while rest.len() < 2 {
            rest.push(limiter.enter(&endpoint("o"), Purpose::User, None).await.unwrap());
        }
        let asked = Instant::now();
        assert_eq!(limiter.enter(&endpoint("o"), Purpose::Prefetch, None).await.unwrap_err(), NotNow::Full);
        assert_eq!(asked.elapsed(), WAIT_MAX);
    })
    .await;
}
