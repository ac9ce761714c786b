//! An origin with a fixed number of workers, and what its users notice of prefetches.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

mod origins;
mod sharing;

fn endpoint(host: &str) -> Endpoint {
    Endpoint { host: host.to_owned(), port: 80, tls: None }
}

/// The properties of an origin.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Requests it works on at a time.
    workers: usize,
    /// Mean service time of a request.
    service: Duration,
    /// How far service times vary around the mean, as a fraction.
    spread: f64,
}

impl Shape {
    /// The interval between users' requests, which take about a thirteenth of the capacity.
    fn user_every(&self) -> Duration {
        self.service.mul_f64(12.8 / self.workers as f64)
    }

    /// Requests it serves in so many seconds.
    fn does_in(&self, seconds: f64) -> usize {
        (self.workers as f64 * seconds / self.service.as_secs_f64()) as usize
    }
}

const WORKERS: usize = 32;

/// The origin of most of these tests.
fn usual(spread: f64) -> Shape {
    Shape { workers: WORKERS, service: Duration::from_millis(50), spread }
}

/// An origin that works on a bounded number of requests at a time; the others queue.
#[derive(Clone)]
struct Knee(Rc<RefCell<Work>>);

struct Work {
    shape: Shape,
    /// When each worker is done with its queue.
    workers: Vec<Instant>,
    seed: u64,
}

impl Knee {
    fn new(shape: Shape) -> Knee {
        Knee(Rc::new(RefCell::new(Work { shape, workers: vec![Instant::now(); shape.workers], seed: 1 })))
    }

    async fn serve(&self) {
        let done = {
            let work = &mut *self.0.borrow_mut();
            work.seed = work.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chance = (work.seed >> 33) as f64 / f64::from(1_u32 << 31);
            let takes = work.shape.service.mul_f64(1.0 + work.shape.spread * (2.0 * chance - 1.0));
            let first = work.workers.iter_mut().min().expect("a worker");
            *first = (*first).max(Instant::now()) + takes;
            *first
        };
        tokio::time::sleep_until(done).await;
    }

    /// No request is served for this long.
    fn stall(&self, time: Duration) {
        let until = Instant::now() + time;
        for worker in &mut self.0.borrow_mut().workers {
            *worker = (*worker).max(until);
        }
    }

    /// Changes the number of workers.
    fn resize(&self, workers: usize) {
        self.0.borrow_mut().workers.resize(workers, Instant::now());
    }
}

/// The outcome of a load.
struct Seen {
    begun: Instant,
    took: Duration,
    /// When each user began to wait, and how long.
    waits: Vec<(Instant, Duration)>,
    /// Prefetches done in each second.
    by_second: Vec<usize>,
}

impl Seen {
    /// The 99th percentile of the waits of users who asked in these seconds.
    fn p99(&self, seconds: std::ops::Range<usize>) -> Duration {
        let second = |at: &Instant| at.duration_since(self.begun).as_secs() as usize;
        let waits = self.waits.iter().filter(|(at, _)| seconds.contains(&second(at)));
        let mut waits: Vec<Duration> = waits.map(|(_, wait)| *wait).collect();
        waits.sort();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
    }

    fn users_p99(&self) -> Duration {
        self.p99(0..usize::MAX)
    }

    /// Prefetches a second, over these seconds.
    fn rate(&self, seconds: std::ops::Range<usize>) -> f64 {
        let count = seconds.len() as f64;
        self.by_second[seconds].iter().sum::<usize>() as f64 / count
    }
}

/// Users at a steady rate, while 256 clients do `prefetches` under a limiter, or `fixed` clients do them without one.
async fn load(knee: &Knee, prefetches: usize, fixed: Option<usize>) -> Seen {
    load_of(&[Rc::new(Limiter::new(0))], knee, prefetches, fixed, async {}).await
}

/// The same, over nodes with these limiters in turn, while `meanwhile` runs.
async fn load_of(
    limiters: &[Rc<Limiter>],
    knee: &Knee,
    prefetches: usize,
    fixed: Option<usize>,
    meanwhile: impl Future<Output = ()>,
) -> Seen {
    let waits: Rc<RefCell<Vec<(Instant, Duration)>>> = Rc::default();
    let done: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let left = Rc::new(RefCell::new(prefetches));
    let begun = Instant::now();
    let askers: Vec<_> = (0..fixed.unwrap_or(256))
        .map(|n| {
            let limiter = limiters[n % limiters.len()].clone();
            let (knee, done, left) = (knee.clone(), done.clone(), left.clone());
            tokio::task::spawn_local(async move {
                while *left.borrow() > 0 {
                    let permit = match fixed {
                        Some(_) => None,
                        None => match limiter.enter(&endpoint("o"), Purpose::Prefetch, None).await {
                            Ok(permit) => Some(permit),
                            Err(_) => continue,
                        },
                    };
                    if *left.borrow() == 0 {
                        return;
                    }
                    *left.borrow_mut() -= 1;
                    knee.serve().await;
                    if let Some(permit) = &permit {
                        permit.answered(true);
                    }
                    done.borrow_mut().push(Instant::now());
                }
            })
        })
        .collect();
    let user_every = knee.0.borrow().shape.user_every();
    let users = async {
        let mut ticks = tokio::time::interval(user_every);
        for n in 0_usize.. {
            ticks.tick().await;
            let (limiter, served, waits) = (limiters[n % limiters.len()].clone(), knee.clone(), waits.clone());
            tokio::task::spawn_local(async move {
                let permit = limiter.enter(&endpoint("o"), Purpose::User, None).await.expect("users pass");
                let asked = Instant::now();
                served.serve().await;
                permit.answered(true);
                waits.borrow_mut().push((asked, asked.elapsed()));
            });
        }
    };
    let meanwhile = async {
        meanwhile.await;
        std::future::pending::<()>().await;
    };
    let all = async {
        for asker in askers {
            asker.await.expect("an asker does not panic");
        }
    };
    tokio::select! { () = all => {}, () = users => {}, () = meanwhile => {} }
    let took = begun.elapsed();
    let mut by_second = vec![0; took.as_secs() as usize + 1];
    for at in done.borrow().iter() {
        by_second[at.duration_since(begun).as_secs() as usize] += 1;
    }
    let waits = waits.borrow().clone();
    Seen { begun, waits, took, by_second }
}

/// A stall of five seconds, after the first twenty.
async fn stall(knee: &Knee) {
    tokio::time::sleep(Duration::from_secs(20)).await;
    knee.stall(Duration::from_secs(5));
}

fn assert_as_fast_after_a_stall(seen: &Seen) {
    assert!(seen.rate(21..24) == 0.0, "it stood still: {:?}", &seen.by_second[..30]);
    // Users take fifty of the 640 requests a second.
    assert!(seen.rate(51..55) >= 590.0 * 0.85, "{:?}", &seen.by_second[..60]);
}

async fn local<T>(future: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(future).await
}

#[tokio::test(start_paused = true)]
async fn users_do_not_notice_and_the_origin_is_used_up_to_its_knee() {
    local(async {
        // The fixed limit knows the knee, and how much of it users need.
        for (prefetches, spread) in [(5_000, 0.0), (20_000, 0.0), (100_000, 0.5)] {
            let shape = usual(spread);
            let alone = load(&Knee::new(shape), 1_000, Some(1)).await;
            let best = load(&Knee::new(shape), prefetches, Some(WORKERS - 3)).await;
            let seen = load(&Knee::new(shape), prefetches, None).await;
            let (with, without) = (seen.users_p99(), alone.users_p99());
            assert!(with <= without.mul_f64(1.1), "{prefetches}, {spread}: {with:?} and {without:?} alone");
            let ratio = best.took.as_secs_f64() / seen.took.as_secs_f64();
            // In a short task, the first seconds, in which the knee is looked for, weigh more.
            let least = if prefetches == 5_000 { 0.8 } else { 0.85 };
            assert!(ratio >= least, "{prefetches}, {spread}: {ratio} of the best fixed limit");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_stall_it_is_as_fast_again_within_half_a_minute() {
    local(async {
        let knee = Knee::new(usual(0.0));
        let seen = load_of(&[Rc::new(Limiter::new(0))], &knee, 40_000, None, stall(&knee)).await;
        assert_as_fast_after_a_stall(&seen);
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
async fn what_users_are_refused_while_it_is_left_alone_does_not_make_it_slow_afterwards() {
    local(async {
        let limiter = Rc::new(Limiter::new(0));
        load_of(std::slice::from_ref(&limiter), &Knee::new(usual(0.0)), 5_000, None, async {}).await;
        let back = Instant::now() + Duration::from_secs(8);
        while Instant::now() + Duration::from_millis(10) < back {
            let user = limiter.enter(&endpoint("o"), Purpose::User, None).await.unwrap();
            tokio::time::advance(Duration::from_millis(10)).await;
            user.closed(back - Instant::now());
        }
        tokio::time::sleep_until(back).await;
        let mut held = Vec::new();
        while let std::task::Poll::Ready(permit) =
            futures_util::poll!(std::pin::pin!(limiter.enter(&endpoint("o"), Purpose::Prefetch, None)))
        {
            held.push(permit.unwrap());
        }
        assert!((WORKERS / 3..WORKERS).contains(&held.len()), "{} are let in", held.len());
    })
    .await;
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
                    let permit = limiter.enter(&endpoint("o"), Purpose::Prefetch, awaited).await;
                    order.borrow_mut().push(n);
                    permit
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

#[tokio::test(start_paused = true)]
async fn answers_that_fail_one_request_do_not_tell_how_soon_an_origin_answers() {
    let limiter = Limiter::new(0);
    let limit = || limiter.origins().values().map(|origin| origin.state().pace.limit).sum::<f64>();
    let mut limits = Vec::new();
    for well in [false, true] {
        for _ in 0..100 {
            let mut users = Vec::new();
            while users.len() < 8 {
                users.push(limiter.enter(&endpoint("o"), Purpose::User, None).await.unwrap());
            }
            tokio::time::advance(Duration::from_millis(1)).await;
            users.iter().for_each(|user| if well { user.answered(true) } else { user.failed_alone() });
        }
        limits.push(limit());
    }
    assert_eq!(limits[0], 4.0, "as in the beginning");
    assert!(limits[1] > 4.0, "good answers do raise it: {limits:?}");
}

#[tokio::test(start_paused = true)]
async fn validation_in_the_background_goes_before_prefetches_and_yields_to_users() {
    let o = endpoint("o");
    for lends in [false, true] {
        let limiter = Limiter::new(0);
        let validate = |awaited| limiter.enter(&o, Purpose::Revalidation, awaited);
        limiter.connected(lends); // and no share is ever lent
        let mut prefetches = Vec::new();
        for _ in 0..4 {
            let mut entering = Box::pin(limiter.enter(&o, Purpose::Prefetch, None));
            if let std::task::Poll::Ready(permit) = futures_util::poll!(entering.as_mut()) {
                prefetches.push(permit.unwrap());
            }
        }
        assert_eq!(prefetches.len(), if lends { 0 } else { 4 });
        let mut running = vec![validate(None).await.unwrap(), limiter.enter(&o, Purpose::User, None).await.unwrap()];
        running.push(validate(None).await.unwrap());
        running.push(limiter.enter(&o, Purpose::User, None).await.unwrap());
        assert_eq!(validate(None).await.unwrap_err(), NotNow::Full, "four are under way without prefetches");
        let (_waits, awaited) = watch::channel(true);
        assert!(validate(Some(awaited.clone())).await.is_ok(), "a user waits for this one");
        running.pop();
        running.push(validate(None).await.unwrap());
        running[1].closed(Duration::from_secs(7));
        running.clear();
        assert_eq!(validate(None).await.unwrap_err(), NotNow::Closed(Duration::from_secs(7)));
        assert!(validate(Some(awaited)).await.is_ok());
    }
}
