//! Origins other than the usual one: faster and slower ones, with other knees, and one whose knee changes.

use super::sharing::{Lender, nodes};
use super::*;

/// How late a Tokio timer may be.
const TIMER: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn origins_of_other_knees_and_times_are_used_and_their_users_do_not_notice() {
    let ms = Duration::from_millis;
    let cases = [
        // workers, service, spread, nodes, least part of the best fixed limit
        (8, ms(5), 0.0, 1, 0.85),
        (8, ms(5), 0.3, 1, 0.85),
        (8, ms(5), 0.3, 3, 0.8),
        (32, ms(50), 0.3, 1, 0.85),
        (32, ms(50), 0.3, 3, 0.8),
        (100, ms(200), 0.0, 1, 0.85),
        (100, ms(200), 0.3, 1, 0.85),
        (100, ms(200), 0.3, 3, 0.8),
    ];
    for (workers, service, spread, count, least) in cases {
        let shape = Shape { workers, service, spread };
        local(async {
            let prefetches = shape.does_in(180.0);
            let alone = load(&Knee::new(shape), shape.does_in(20.0) / workers, Some(1)).await.users_p99();
            let best = load(&Knee::new(shape), prefetches, Some(workers)).await.took;
            let limiters = nodes(count);
            let _lender = (count > 1).then(|| Lender::of(&limiters, None));
            let seen = load_of(&limiters, &Knee::new(shape), prefetches, None, async {}).await;
            let ratio = best.as_secs_f64() / seen.took.as_secs_f64();
            let with = seen.users_p99();
            assert!(ratio >= least, "{shape:?}, {count} nodes: {ratio} of the best fixed limit");
            assert!(with <= alone.mul_f64(1.1) + TIMER, "{shape:?}, {count} nodes: {with:?} and {alone:?} alone");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn knee_that_changes_is_found_again() {
    local(async {
        let shape = usual(0.3);
        let knee = Knee::new(shape);
        let change = async {
            for workers in [WORKERS / 2, WORKERS] {
                tokio::time::sleep(Duration::from_secs(100)).await;
                knee.resize(workers);
            }
        };
        let seen = load_of(&[Rc::new(Limiter::new(0))], &knee, shape.does_in(220.0), None, change).await;
        // The best rate leaves out what users need; without prefetches, their p99 is the slowest request.
        let (least, most) = (0.85, shape.service.mul_f64(1.3 * 1.1));
        for (workers, seconds) in [(WORKERS, 60..100), (WORKERS / 2, 110..200), (WORKERS, 260..300)] {
            let best = (workers as f64 - 2.5) / shape.service.as_secs_f64();
            let (rate, with) = (seen.rate(seconds.clone()), seen.p99(seconds.clone()));
            assert!(rate >= best * least, "{workers} workers, {seconds:?}: {rate} of {best}");
            assert!(with <= most, "{workers} workers, {seconds:?}: {with:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn prefetches_that_may_use_a_half_use_more_of_it_only_to_find_it_out() {
    local(async {
        let (limiter, knee) = (Rc::new(Limiter::new(0)), Knee::new(usual(0.0)));
        let limit = PrefetchLimit { share: 50, ..PrefetchLimit::default() };
        for n in 0..64 {
            let (limiter, knee) = (limiter.clone(), knee.clone());
            tokio::task::spawn_local(async move {
                for k in 0_u128.. {
                    let asks = Prefetching { domain: "a.test", limit: &limit, key: k * 64 + n, again: false };
                    let Ok(slot) = limiter.enter_prefetching(&endpoint("o"), asks, None).await else { continue };
                    knee.serve().await;
                    slot.answered(true);
                }
            });
        }
        let under_way = || limiter.origins().values().map(|origin| origin.state().prefetches).sum::<usize>();
        let (mut more, mut sum) = (0_usize, 0_usize);
        const LOOKS: usize = 30 * 60 * 20;
        for _ in 0..LOOKS {
            tokio::time::sleep(Duration::from_millis(50)).await;
            more += usize::from(under_way() > WORKERS / 2);
            sum += under_way();
        }
        assert!(more * 200 <= LOOKS, "{more} of {LOOKS}");
        assert!(sum / LOOKS >= WORKERS * 2 / 5, "{} at a time", sum / LOOKS);
    })
    .await;
}
