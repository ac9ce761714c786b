//! One long story, cut short at every single change to the disk: by the power, by a full disk, by a dead one. What was
//! acknowledged is there afterwards, nothing torn is served, nothing removed comes back, and the store goes on.

mod common;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::{body, collect, key, open};
use store::disk::{CALL_MAX, Failure, FaultyDisk};
use store::{Config, DiskConfig, ReadError, Store, Sweep, VerifyError, Which, WriteError};

/// Numbers of the bodies that may be found under a name; `None`: nothing.
#[derive(Default)]
struct Ledger(BTreeMap<String, Vec<Option<u64>>>);

impl Ledger {
    fn may(&mut self, name: &str, body: Option<u64>) {
        self.0.entry(name.to_owned()).or_insert_with(|| vec![None]).push(body);
    }

    fn is(&mut self, name: &str, body: Option<u64>) {
        self.0.insert(name.to_owned(), vec![body]);
    }
}

/// Names that are asked for again and again.
const HOT: u64 = 3;

fn length_of(number: u64) -> usize {
    // The first three are hot.
    [9_000, 700, 1_500, 40, 0][number as usize % 5]
}

fn body_of(number: u64) -> Bytes {
    body(number, length_of(number))
}

/// Segments of 16 KiB, slices of 4 KiB.
fn segments_of_16_kib(segments: u64) -> Config {
    let disks = vec![DiskConfig { path: "disk".into(), capacity_bytes: segments << 14 }];
    Config { memory_bytes: 32 << 10, disks, segment_bytes: 16 << 10 }
}

/// A lookup that fails is a miss.
async fn get(store: &Store, name: &str) -> Option<store::Object> {
    store.lookup(key(name), name.as_bytes()).await.unwrap_or_default()
}

async fn put(store: &Store, name: &str, number: u64) -> Result<(), WriteError> {
    let head = Bytes::from(number.to_string());
    let mut fill = store.begin_fill(key(name), name.as_bytes(), head, number, None)?;
    for chunk in body_of(number).chunks(3_000) {
        fill.append(Bytes::copy_from_slice(chunk)).await?;
    }
    fill.finish().await.map(drop)
}

/// What an acknowledgement in the story binds.
#[derive(Clone, Copy, PartialEq)]
enum Binds {
    /// What a restart shows.
    Restart,
    /// The same, but that a head which is not durable yet may take its object with it when a write fails.
    RestartWithFaults,
    /// Nothing but removals: the disk dies.
    Nothing,
}

/// How long the story is, of how many objects beside the hot ones, and every how manieth of them is asked for again.
#[derive(Clone, Copy)]
struct Length {
    rounds: u64,
    names: u64,
    asked: u64,
}

const SHORT: Length = Length { rounds: 90, names: 10, asked: 5 };

/// Long enough for segments to be sifted.
const LONG: Length = Length { rounds: 300, names: 250, asked: 2 };

/// The story, until the disk is out of service or, if that binds nothing, to its end; says how many fills failed.
async fn tell(store: &Store, ledger: &mut Ledger, binds: Binds, story: Length) -> u64 {
    tell_until(|| false, store, ledger, binds, story).await
}

/// The same, until it is told to stop.
async fn tell_until(stop: impl Fn() -> bool, store: &Store, ledger: &mut Ledger, binds: Binds, story: Length) -> u64 {
    let mut failures = 0;
    let certain = binds != Binds::Nothing;
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    let mut steps: Vec<(String, char)> = (0..HOT).map(|hot| (format!("/hot/{hot}"), 'p')).collect();
    for round in 0..story.rounds {
        steps.push((format!("/{}", round % story.names), 'p'));
        if round % 3 == 0 {
            steps.push((format!("/{}", (round + story.names - 3) % story.names), 'r'));
        }
        if round % story.asked == 0 {
            steps.push((format!("/{}", round % story.names), 'h'));
        }
        if round % 8 == 3 {
            steps.push((format!("/hot/{}", round / 8 % HOT), 'h'));
        }
        if round % 11 == 10 {
            steps.push((String::new(), 's'));
        }
    }
    for (name, step) in steps {
        if certain && store.stats().disks_out > 0 || stop() {
            // A machine without power tells no story.
            break;
        }
        match step {
            'p' => {
                let number = next();
                ledger.may(&name, Some(number));
                match put(store, &name, number).await {
                    Ok(()) if certain && store.stats().disks_out == 0 => ledger.is(&name, Some(number)),
                    Ok(()) => {}
                    Err(_) => {
                        failures += 1;
                        ledger.may(&name, None);
                    }
                }
            }
            'r' => {
                ledger.may(&name, None);
                if store.remove(key(&name), name.as_bytes(), Which::Any).await.is_ok() {
                    ledger.is(&name, None);
                }
            }
            'h' => {
                if let Ok(Some(object)) = store.lookup(key(&name), name.as_bytes()).await {
                    // It becomes durable with the next sync; if that fails, what it replaced goes with it.
                    if store.update_head(&object, object.head().clone(), 1_000).await.is_err()
                        || binds != Binds::Restart
                    {
                        ledger.may(&name, None);
                    }
                }
            }
            _ => {
                let odd = |object: &store::SweptObject<'_>| match object.full_key {
                    b"/1" | b"/3" => Sweep::Drop,
                    _ => Sweep::Keep,
                };
                ["/1", "/3"].into_iter().for_each(|name| ledger.may(name, None));
                let mut dropped = Vec::new();
                let note = |object: &store::SweptObject<'_>| dropped.push(object.full_key.to_vec());
                if store.sweep(odd, note).await.is_ok() && certain {
                    for name in dropped {
                        ledger.is(std::str::from_utf8(&name).expect("a name"), None);
                    }
                }
            }
        }
        for hot in 0..HOT {
            let _ = store.lookup(key(&format!("/hot/{hot}")), format!("/hot/{hot}").as_bytes()).await;
        }
    }
    failures
}

/// Looks everything up. `lossy`: an object that was acknowledged may be missing.
async fn check(store: &Store, ledger: &Ledger, lossy: impl Fn(&str) -> bool, context: &str) {
    for (name, allowed) in &ledger.0 {
        let Some(object) = get(store, name).await else {
            assert!(lossy(name) || allowed.contains(&None), "{context}: {name} is lost, expected one of {allowed:?}");
            continue;
        };
        let number: u64 = std::str::from_utf8(object.head()).expect("text").parse().expect("a number");
        assert!(allowed.contains(&Some(number)), "{context}: {name} is {number}, expected one of {allowed:?}");
        match collect(object.read(0..u64::MAX)).await {
            Ok(read) => assert!(read == body_of(number), "{context}: wrong bytes under {name}"),
            Err(ReadError::Evicted | ReadError::Io { .. }) if lossy(name) => {
                assert!(get(store, name).await.is_none(), "{context}: {name} is found but cannot be read");
            }
            Err(error) => panic!("{context}: {name}: {error}"),
        }
    }
}

/// How many changes the whole story makes.
async fn changes(seed: u64, config: &Config, story: Length) -> u64 {
    let disk = FaultyDisk::new(seed);
    let store = open(&disk, config.clone()).await;
    tell(&store, &mut Ledger::default(), Binds::Restart, story).await;
    store.close().await.expect("close");
    disk.changes()
}

async fn cut_everywhere(
    seeds: std::ops::Range<u64>,
    config: Config,
    story: Length,
    lossy: impl Fn(&str) -> bool + Copy,
) {
    for seed in seeds {
        for cut in 0..changes(seed, &config, story).await {
            let context = format!("seed {seed}, power lost at change {cut}");
            let disk = FaultyDisk::new(seed);
            disk.fail_after(cut, Some(Failure::Power));
            let mut ledger = Ledger::default();
            let store = open(&disk, config.clone()).await;
            tell(&store, &mut ledger, Binds::Restart, story).await;
            let _ = store.close().await;
            let disk = disk.crash();
            let store = open(&disk, config.clone()).await;
            check(&store, &ledger, lossy, &context).await;
            // And the store goes on from there.
            put(&store, "/after", 1).await.unwrap_or_else(|error| panic!("{context}: {error}"));
            ledger.is("/after", Some(1));
            let store = open(&disk.crash(), config.clone()).await;
            // The check above asked for everything, which is more than is kept where the story is long.
            let crowded = story.names > SHORT.names;
            let lossy = |name: &str| lossy(name) || crowded && name != "/after";
            check(&store, &ledger, lossy, &format!("{context}, and again")).await;
        }
    }
}

#[tokio::test]
async fn power_lost_at_any_change_loses_nothing_acknowledged() {
    cut_everywhere(0..4, segments_of_16_kib(256), SHORT, |_| false).await;
}

/// With eviction only what is asked for is certain to stay: it is copied while its old place is given up.
#[tokio::test]
async fn power_lost_at_any_change_of_a_full_store_loses_nothing_hot() {
    let config = segments_of_16_kib(8);
    let store = open(&FaultyDisk::new(1), config.clone()).await;
    tell(&store, &mut Ledger::default(), Binds::Restart, SHORT).await;
    let stats = store.stats();
    assert!(stats.evicted_segments > 0 && stats.kept_objects > 0, "the story is too short: {stats:?}");
    cut_everywhere(10..13, config, SHORT, |name| !name.starts_with("/hot/")).await;
}

/// The same where segments are sifted.
#[tokio::test]
async fn power_lost_at_any_change_of_a_store_that_is_sifted_loses_nothing_hot() {
    let config = segments_of_16_kib(16);
    let store = open(&FaultyDisk::new(1), config.clone()).await;
    tell(&store, &mut Ledger::default(), Binds::Restart, LONG).await;
    let stats = store.stats();
    assert!(stats.sifted_segments > 5 && stats.evicted_segments > 0, "the story is too short: {stats:?}");
    cut_everywhere(20..21, config, LONG, |name| !name.starts_with("/hot/")).await;
}

/// Whatever stops working, and whenever: nothing wrong is served, requests are answered, and nothing is tried for ever.
#[tokio::test(start_paused = true)]
async fn disk_that_fails_for_good_at_any_change_is_no_outage() {
    for failure in [Failure::Writes, Failure::Room, Failure::Everything, Failure::Hangs] {
        let stores = [
            (segments_of_16_kib(256), 1, SHORT),
            (segments_of_16_kib(8), 3, SHORT),
            (segments_of_16_kib(16), 31, LONG),
        ];
        for (config, step, story) in stores {
            for cut in (0..changes(7, &config, story).await).step_by(step) {
                let context = format!("{failure:?} at change {cut}");
                let disk = FaultyDisk::new(7);
                disk.fail_after(cut, Some(failure));
                let mut ledger = Ledger::default();
                let store = open(&disk, config.clone()).await;
                let failures = tell(&store, &mut ledger, Binds::Nothing, story).await;
                // Most of the eight failures that a disk is granted may meet a fill, never more.
                assert!(failures <= 8, "{context}: {failures} fills failed");
                check(&store, &ledger, |_| true, &context).await;
                let mut tries = 0;
                while put(&store, "/last", 2).await.is_err() {
                    tries += 1;
                    assert!(tries <= 8, "{context}: fills fail for ever");
                }
                let object = get(&store, "/last").await.unwrap_or_else(|| panic!("{context}: /last is not served"));
                assert_eq!(collect(object.read(0..u64::MAX)).await.expect("read"), body_of(2), "{context}");
                if store.stats().disks_out == 1 {
                    let proof = store.verify(key("/last"), b"/last").await;
                    assert!(matches!(proof, Err(VerifyError::OutOfService { .. })), "{context}: {proof:?}");
                }
                ledger.may("/last", Some(2));
                ledger.may("/last", None);
                if cut % 2 == 0 {
                    disk.let_through();
                }
                let disk = disk.crash();
                let store = open(&disk, config.clone()).await;
                check(&store, &ledger, |_| true, &format!("{context}, mended")).await;
                put(&store, "/mended", 3).await.unwrap_or_else(|error| panic!("{context}, mended: {error}"));
                store.verify(key("/mended"), b"/mended").await.expect("resident");
            }
        }
    }
}

/// One refused write, or a disk that is full for a moment, anywhere in the story.
#[tokio::test]
async fn one_failed_change_anywhere_takes_no_disk_out() {
    let config = segments_of_16_kib(256);
    for failure in [Failure::Writes, Failure::Room] {
        for cut in 0..changes(5, &config, SHORT).await {
            let context = format!("{failure:?} at change {cut}");
            let disk = FaultyDisk::new(5);
            let store = open(&disk, config.clone()).await;
            let mut ledger = Ledger::default();
            // Until something failed, then mended.
            disk.fail_after(cut, Some(failure));
            let watch = async {
                while store.stats().write_errors == 0 {
                    tokio::task::yield_now().await;
                }
                disk.fail_after(0, None);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = watch => {}
                _ = tell(&store, &mut ledger, Binds::RestartWithFaults, SHORT) => {}
            }
            disk.fail_after(0, None);
            assert_eq!(store.stats().disks_out, 0, "{context}");
            store.sync_removals().await.expect("sync");
            put(&store, "/sync", 1).await.expect("the disk works again");
            ledger.is("/sync", Some(1));
            let store = open(&disk.crash(), config.clone()).await;
            // A disk that is full for a moment gets the room of the oldest segments.
            check(&store, &ledger, |_| failure == Failure::Room, &context).await;
        }
    }
}

/// Some changes in a row fail anywhere in a long story, which goes on: segments are sifted and evicted before and after. What was
/// removed, replaced or never stored does not come back.
#[tokio::test]
async fn story_goes_on_after_changes_that_failed() {
    let config = segments_of_16_kib(16);
    for last in 1..4 {
        for cut in (50 * last..changes(9, &config, LONG).await).step_by(23) {
            let context = format!("changes {cut} and {last} more fail");
            let disk = FaultyDisk::new(9);
            let store = open(&disk, config.clone()).await;
            let mut ledger = Ledger::default();
            disk.fail_after(cut, Some(Failure::Writes));
            let mend = async {
                while disk.changes() < cut + last {
                    tokio::task::yield_now().await;
                }
                disk.fail_after(0, None);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = mend => {}
                _ = tell(&store, &mut ledger, Binds::RestartWithFaults, LONG) => {}
            }
            disk.fail_after(0, None);
            assert_eq!(store.stats().disks_out, 0, "{context}");
            check(&store, &ledger, |_| true, &context).await;
            // Whatever can no longer be found is acknowledged to be gone.
            for name in ledger.0.keys().cloned().collect::<Vec<_>>() {
                if get(&store, &name).await.is_none() {
                    store.remove(key(&name), name.as_bytes(), Which::Any).await.expect("remove");
                    ledger.is(&name, None);
                }
            }
            put(&store, "/sync", 1).await.expect("the disk works again");
            ledger.is("/sync", Some(1));
            let store = open(&disk.crash(), config.clone()).await;
            check(&store, &ledger, |_| true, &format!("{context}, after a restart")).await;
        }
    }
}

/// One change that hangs, anywhere in the story, and is made late: when it was just given up, when much was written after it, or never.
#[tokio::test(start_paused = true)]
async fn one_change_that_comes_late_takes_nothing_with_it() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Comes {
        AtOnce,
        AtTheEnd,
        Never,
    }
    let config = segments_of_16_kib(256);
    for (first, comes) in [Comes::AtOnce, Comes::AtTheEnd, Comes::Never].into_iter().enumerate() {
        for cut in (first as u64..changes(5, &config, SHORT).await).step_by(3) {
            let context = format!("change {cut} comes {comes:?}");
            let disk = FaultyDisk::new(5);
            let store = open(&disk, config.clone()).await;
            let mut ledger = Ledger::default();
            disk.fail_after(cut, Some(Failure::Hangs));
            let watch = async {
                while disk.hung() == 0 {
                    tokio::time::sleep(CALL_MAX / 30).await;
                }
                disk.fail_after(0, None);
                std::future::pending::<()>().await;
            };
            let come = || {
                if comes == Comes::AtOnce && store.stats().write_errors > 0 {
                    disk.let_through();
                }
                // Not to the end of the story, where everything was written anew.
                disk.changes() > cut + cut % 9
            };
            tokio::select! {
                biased;
                () = watch => {}
                _ = tell_until(come, &store, &mut ledger, Binds::RestartWithFaults, SHORT) => {}
            }
            disk.fail_after(0, None);
            assert_eq!(store.stats().disks_out, 0, "{context}");
            store.sync_removals().await.expect("sync");
            put(&store, "/sync", 1).await.expect("the disk works again");
            ledger.is("/sync", Some(1));
            check(&store, &ledger, |_| false, &context).await;
            if comes == Comes::AtTheEnd {
                disk.let_through();
            }
            let store = open(&disk.crash(), config.clone()).await;
            check(&store, &ledger, |_| false, &context).await;
        }
    }
}

/// The same where segments are sifted and evicted.
#[tokio::test(start_paused = true)]
async fn change_that_comes_late_to_a_full_store_brings_nothing_back() {
    let config = segments_of_16_kib(16);
    for cut in (0..changes(5, &config, LONG).await).step_by(3) {
        let context = format!("change {cut} comes late");
        let disk = FaultyDisk::new(5);
        let store = open(&disk, config.clone()).await;
        let mut ledger = Ledger::default();
        disk.fail_after(cut, Some(Failure::Hangs));
        let watch = async {
            while disk.hung() == 0 {
                tokio::time::sleep(CALL_MAX / 30).await;
            }
            disk.fail_after(0, None);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = watch => {}
            _ = tell(&store, &mut ledger, Binds::RestartWithFaults, LONG) => {}
        }
        disk.fail_after(0, None);
        assert_eq!(store.stats().disks_out, 0, "{context}");
        store.sync_removals().await.expect("sync");
        put(&store, "/sync", 1).await.expect("the disk works again");
        ledger.is("/sync", Some(1));
        disk.let_through();
        check(&store, &ledger, |_| true, &context).await;
        let store = open(&disk.crash(), config.clone()).await;
        check(&store, &ledger, |name| name != "/sync", &context).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fill_that_failed_because_the_disk_hung_is_not_there_when_its_bytes_come_late() {
    for seed in 0..20 {
        let disk = FaultyDisk::new(seed);
        let store = open(&disk, segments_of_16_kib(64)).await;
        put(&store, "/before", 1).await.expect("put");
        disk.fail_after(0, Some(Failure::Hangs));
        let mend = async {
            tokio::time::sleep(CALL_MAX / 2).await;
            disk.fail_after(0, None);
        };
        let (failed, ()) = tokio::join!(put(&store, "/late", 2), mend);
        assert!(failed.is_err());
        assert!(!store.remove(key("/late"), b"/late", Which::Any).await.expect("nothing is there"));
        put(&store, "/after", 3).await.expect("the disk works again");
        disk.let_through();
        assert!(get(&store, "/late").await.is_none());
        let store = open(&disk.crash(), segments_of_16_kib(64)).await;
        assert!(get(&store, "/late").await.is_none(), "{seed}: it is back");
        assert!(get(&store, "/before").await.is_some() && get(&store, "/after").await.is_some(), "{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn disk_that_hangs_is_out_after_two_bounds_and_keeps_nobody_waiting() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk, segments_of_16_kib(64)).await;
    for number in 0..40 {
        put(&store, &format!("/{number}"), 2).await.expect("put");
    }
    disk.fail_after(0, Some(Failure::Hangs));
    let began = tokio::time::Instant::now();
    for number in 0..2 {
        let failed = put(&store, &format!("/new/{number}"), 2).await;
        assert!(failed.is_err(), "{number}");
    }
    assert_eq!(store.stats().disks_out, 1);
    assert!(began.elapsed() <= 2 * CALL_MAX + std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    for number in 0..40 {
        assert!(get(&store, &format!("/{number}")).await.is_none());
    }
    put(&store, "/39", 4).await.expect("to memory");
    // Nobody could write down that what is on the disk does not count.
    let removed = store.remove(key("/1"), b"/1", Which::Any).await;
    assert!(matches!(removed, Err(WriteError::OutOfService { .. })), "{removed:?}");
    assert!(began.elapsed() <= 4 * CALL_MAX, "{:?}", began.elapsed());
}

#[tokio::test]
async fn object_that_cannot_be_read_is_fetched_again_and_can_be_removed() {
    for removed in [false, true] {
        let disk = FaultyDisk::new(3);
        let store = open(&disk, segments_of_16_kib(64)).await;
        put(&store, "/a", 5).await.expect("put");
        // Pushes it out of memory.
        for number in 0..8 {
            put(&store, &format!("/other/{number}"), 10).await.expect("put");
        }
        let object = get(&store, "/a").await.expect("stored");
        disk.fail_reads(1);
        assert!(matches!(collect(object.read(0..u64::MAX)).await, Err(ReadError::Io { .. })));
        assert!(get(&store, "/a").await.is_none(), "a miss from then on");
        if removed {
            assert!(store.remove(key("/a"), b"/a", Which::Any).await.expect("remove"));
        } else {
            put(&store, "/a", 7).await.expect("put");
            assert_eq!(get(&store, "/a").await.expect("stored").stamp(), 7);
        }
        let store = open(&disk.crash(), segments_of_16_kib(64)).await;
        assert_eq!(get(&store, "/a").await.map(|object| object.stamp()), (!removed).then_some(7));
        assert_eq!(store.stats().disks_out, 0);
    }
}

#[tokio::test]
async fn disk_that_cannot_be_read_any_more_is_taken_out() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk, segments_of_16_kib(64)).await;
    for number in 0..40 {
        put(&store, &format!("/{number}"), 2).await.expect("put");
    }
    disk.fail_reads(u32::MAX);
    for number in 0..40 {
        let Ok(Some(object)) = store.lookup(key(&format!("/{number}")), format!("/{number}").as_bytes()).await else {
            continue;
        };
        let _ = collect(object.read(0..u64::MAX)).await;
    }
    assert_eq!(store.stats().disks_out, 1);
    assert!(get(&store, "/39").await.is_none());
    put(&store, "/39", 4).await.expect("to memory");
    let proof = store.verify(key("/39"), b"/39").await.expect_err("memory is no stable storage");
    assert!(proof.to_string().contains("out of service: read failed"), "{proof}");
    // Until it is settled that nothing on it counts, no removal is acknowledged.
    let mut tries = 0;
    while store.remove(key("/38"), b"/38", Which::Any).await.is_err() {
        tries += 1;
        assert!(tries < 1_000, "it never settles");
        tokio::task::yield_now().await;
    }

    // A disk that works again is empty, and its next bodies are told from those it had.
    let store = open(&disk.crash(), segments_of_16_kib(64)).await;
    assert_eq!((store.stats().disks_out, store.stats().objects), (0, 0));
    put(&store, "/39", 2).await.expect("put");
    store.verify(key("/39"), b"/39").await.expect("resident");
}

#[tokio::test]
async fn next_disk_takes_over_from_one_that_died() {
    let disks = [1, 2].map(FaultyDisk::new);
    let place = |number: usize| DiskConfig { path: format!("disk{number}").into(), capacity_bytes: 1 << 20 };
    let config = Config { memory_bytes: 32 << 10, disks: (0..2).map(place).collect(), segment_bytes: 16 << 10 };
    let handles = disks.iter().map(|disk| std::sync::Arc::new(disk.clone()) as _).collect();
    let store = Store::open_on(config, handles).await.expect("open");
    for number in 0..30 {
        put(&store, &format!("/{number}"), 2).await.expect("put");
    }
    disks[0].fail_after(0, Some(Failure::Everything));
    let mut failures = 0;
    for number in (0..30).cycle().take(90) {
        failures += u32::from(put(&store, &format!("/{number}"), 7).await.is_err());
    }
    assert!((1..=8).contains(&failures), "{failures}");
    assert_eq!(store.stats().disks_out, 1);
    for number in 0..30 {
        let name = format!("/{number}");
        assert_eq!(get(&store, &name).await.expect("stored").stamp(), 7);
        store.verify(key(&name), name.as_bytes()).await.expect("resident on the other disk");
    }
}

#[tokio::test]
async fn what_is_removed_while_a_disk_is_left_out_is_not_back_with_it() {
    let mut disks = [1, 2].map(FaultyDisk::new);
    let place = |number: usize| DiskConfig { path: format!("disk{number}").into(), capacity_bytes: 1 << 20 };
    let config =
        |count| Config { memory_bytes: 32 << 10, disks: (0..count).map(place).collect(), segment_bytes: 16 << 10 };
    let handles = |disks: &[FaultyDisk]| disks.iter().map(|disk| std::sync::Arc::new(disk.clone()) as _).collect();
    let store = Store::open_on(config(2), handles(&disks)).await.expect("open");
    for number in 0..30 {
        put(&store, &format!("/{number}"), 2).await.expect("put");
    }
    let all = store.stats().objects;
    assert_eq!(all, 30);

    disks = disks.map(|disk| disk.crash());
    disks[0].fail_after(0, Some(Failure::Everything));
    let store = Store::open_on(config(2), handles(&disks)).await.expect("without one of them");
    assert_eq!(store.stats().disks_out, 1);
    let left = store.stats().objects;
    assert!(0 < left && left < 30, "{left}");
    for number in 0..30 {
        let name = format!("/{number}");
        store.remove(key(&name), name.as_bytes(), Which::Any).await.expect("it stays away");
    }

    for round in 0..2 {
        disks = disks.map(|disk| disk.crash());
        let store = Store::open_on(config(2), handles(&disks)).await.expect("open");
        assert_eq!(store.stats().disks_out, 0);
        for number in 0..30 {
            let name = format!("/{number}");
            let found = get(&store, &name).await.map(|object| object.stamp());
            assert_eq!(found, (round == 1).then_some(3), "{name}");
            put(&store, &name, 3).await.expect("put");
        }
    }

    // Where there is no other disk that could be told, nobody is promised anything.
    let alone = disks[1].crash();
    alone.fail_after(0, Some(Failure::Everything));
    let handles = vec![std::sync::Arc::new(alone) as _];
    let store = Store::open_on(config(1), handles).await.expect("in memory");
    let removed = store.remove(key("/1"), b"/1", Which::Any).await;
    assert!(matches!(removed, Err(store::WriteError::OutOfService { .. })), "{removed:?}");
}
