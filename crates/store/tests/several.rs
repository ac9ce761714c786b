//! Several disks, of which one is out at times: what was removed or swept while it was back does not come back when it is out again.

mod common;

use std::sync::Arc;

use common::{body, get, key, put};
use store::disk::{Failure, FaultyDisk};
use store::{Config, DiskConfig, Store, Sweep, Which};

const OBJECTS: u64 = 30;

fn name(number: u64) -> String {
    format!("/{number}")
}

/// Opens a store on both disks, of which the first fails at once if it is `out`.
async fn opened(disks: &mut [FaultyDisk; 2], out: bool) -> Store {
    *disks = disks.clone().map(|disk| disk.crash());
    if out {
        disks[0].fail_after(0, Some(Failure::Everything));
    }
    let place = |number: usize| DiskConfig { path: format!("disk{number}").into(), capacity_bytes: 1 << 20 };
    let config = Config { memory_bytes: 32 << 10, disks: (0..2).map(place).collect(), segment_bytes: 16 << 10 };
    let store = Store::open_on(config, disks.iter().map(|disk| Arc::new(disk.clone()) as _).collect()).await;
    let store = store.expect("open");
    assert_eq!(store.stats().disks_out, u64::from(out));
    store
}

/// Stores something on both disks: an empty one does not fail when it is opened.
async fn use_both(store: &Store) {
    for number in 0..10 {
        put(store, &format!("/used/{number}"), &body(number, 100), 1).await;
    }
}

async fn found(store: &Store) -> Vec<u64> {
    let mut found = Vec::new();
    for number in 0..OBJECTS {
        if get(store, &name(number)).await.is_some() {
            found.push(number);
        }
    }
    found
}

#[tokio::test]
async fn what_went_while_a_disk_was_back_stays_away_when_it_is_out_again() {
    for how in ["removed", "swept", "swept by key"] {
        let mut disks = [1, 2].map(FaultyDisk::new);
        use_both(&opened(&mut disks, false).await).await;
        let store = opened(&mut disks, true).await;
        for number in 0..10 {
            let name = format!("/used/{number}");
            store.remove(key(&name), name.as_bytes(), Which::Any).await.expect("remove");
        }
        for number in 0..OBJECTS {
            put(&store, &name(number), &body(number, 3_000), 1).await;
        }
        assert_eq!(found(&store).await.len(), OBJECTS as usize);

        let store = opened(&mut disks, false).await;
        let left = found(&store).await.len();
        assert!(0 < left && left < OBJECTS as usize, "the disk that is back owns some of the keys: {left}");
        let mut told = Vec::new();
        let tell = |object: &store::SweptObject<'_>| told.push(object.full_key.to_vec());
        match how {
            "removed" => {
                for number in 0..OBJECTS {
                    let name = name(number);
                    store.remove(key(&name), name.as_bytes(), Which::Any).await.expect("remove");
                }
            }
            "swept" => {
                let swept = store.sweep(|_| Sweep::Drop, tell).await.expect("sweep");
                assert_eq!((swept.dropped, swept.skipped), (left as u64, 0), "of what lookups find");
            }
            _ => {
                let keys: Vec<_> = (0..OBJECTS).map(|number| (key(&name(number)), name(number).into())).collect();
                store.sweep_keys(&keys, |_| Sweep::Drop, tell).await.expect("sweep");
                store.sync_removals().await.expect("sync");
            }
        }
        assert!(how == "removed" || told.len() == left, "{how}: {told:?}");
        assert_eq!(store.stats().objects, 0, "{how}");

        use_both(&store).await;
        let store = opened(&mut disks, true).await;
        assert_eq!(found(&store).await, Vec::<u64>::new(), "{how}");
    }
}

#[tokio::test]
async fn sweep_frees_the_room_of_what_another_disk_owns_by_now() {
    let mut disks = [3, 4].map(FaultyDisk::new);
    use_both(&opened(&mut disks, false).await).await;
    let store = opened(&mut disks, true).await;
    for number in 0..OBJECTS {
        put(&store, &name(number), &body(number, 15_000), 1).await;
    }
    let store = opened(&mut disks, false).await;
    let before = store.stats();
    for number in found(&store).await {
        // Not in the old segments.
        put(&store, &name(number), &body(number, 100), 1).await;
    }
    let judge = |object: &store::SweptObject<'_>| match object.full_key.starts_with(b"/used/") {
        true => Sweep::Drop,
        false => Sweep::Keep,
    };
    store.sweep(judge, |_| {}).await.expect("sweep");
    let after = store.stats();
    assert!(before.segments >= OBJECTS && after.segments <= 4, "{before:?} {after:?}");
}
