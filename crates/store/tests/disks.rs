//! Disks that fill up, fail, rot and are reclaimed: what is lost is a miss, and the store lives on.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{body, collect, config, get, key, open, put, small_config, whole};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use store::disk::{Disk, DiskFile, FaultyDisk, WriteFault};
use store::{Config, DiskConfig, OpenError, ReadError, Store, VerifyError, Which, WriteError};

async fn try_put(store: &Store, name: &str, bytes: &Bytes) -> Result<(), WriteError> {
    let mut fill = store.begin_fill(key(name), name.as_bytes(), Bytes::new(), 0, None)?;
    fill.append(bytes.clone()).await?;
    fill.finish().await.map(drop)
}

#[tokio::test]
async fn oldest_objects_make_room_for_new_ones() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk, small_config()).await;
    for number in 0..100 {
        put(&store, &format!("/{number}"), &body(number, 10_000), number).await;
        let stats = store.stats();
        assert!(stats.disk_bytes <= stats.disk_capacity_bytes, "{stats:?}");
    }
    let mut present = Vec::new();
    for number in 0..100 {
        if let Some(object) = get(&store, &format!("/{number}")).await {
            assert_eq!(whole(&object).await, body(number, 10_000));
            present.push(number);
        }
    }
    let oldest = present[0];
    assert!(present.iter().copied().eq(oldest..100), "the ones that left are the oldest: {present:?}");
    assert!(present.len() >= 35, "of 512 KiB at most one of eight segments is empty, not {}", present.len());
    let stats = store.stats();
    assert_eq!((stats.objects, stats.evicted_objects), (100 - oldest, oldest));

    store.close().await.expect("close");
    let store = open(&disk, small_config()).await;
    assert_eq!(store.stats().objects, 100 - oldest, "the same are there after a restart");
    assert!(get(&store, &format!("/{}", oldest - 1)).await.is_none());
}

#[tokio::test]
async fn object_that_lost_its_first_slice_is_a_miss() {
    let store = open(&FaultyDisk::new(1), small_config()).await;
    // Two segments long, so that its first slice goes long before its head.
    put(&store, "/long", &body(1, 120_000), 0).await;
    let mut number = 0;
    while store.stats().evicted_segments == 0 {
        put(&store, &format!("/{number}"), &body(number, 10_000), 0).await;
        number += 1;
    }
    assert!(get(&store, "/long").await.is_none());
    assert!(matches!(store.verify(key("/long"), b"/long").await, Err(VerifyError::Absent | VerifyError::Read(_))));
}

#[tokio::test]
async fn running_reader_is_not_ended_by_eviction() {
    let store = open(&FaultyDisk::new(1), config(4 << 20)).await;
    put(&store, "/long", &body(1, 120_000), 0).await;
    let object = get(&store, "/long").await.expect("stored");
    let reader = object.read(0..u64::MAX);
    for number in 0..600 {
        put(&store, &format!("/{number}"), &body(number, 10_000), 0).await;
    }
    assert_eq!(collect(reader).await.expect("it holds its segments"), body(1, 120_000));
    let late = collect(object.read(0..u64::MAX)).await;
    assert!(matches!(late, Err(ReadError::Evicted)), "{late:?}");
}

#[tokio::test]
async fn many_commits_share_a_sync() {
    let store = open(&FaultyDisk::new(1), config(16 << 20)).await;
    let puts = (0..200).map(|number| {
        let store = store.clone();
        async move { try_put(&store, &format!("/{number}"), &body(number, 1000)).await }
    });
    let results = futures_util::future::join_all(puts).await;
    assert!(results.iter().all(Result::is_ok));
    let stats = store.stats();
    assert_eq!(stats.commits, 200);
    assert!(stats.syncs <= 20, "{} syncs for 200 commits that wait together", stats.syncs);
}

/// A disk, and its files, whose writes take their time.
struct Slow<T>(T);

impl Disk for Slow<FaultyDisk> {
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.0.list()
    }

    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        self.0.create(name, length).map_ok(|file| Arc::new(Slow(file)) as Arc<dyn DiskFile>).boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        self.0.open(name).map_ok(|file| Arc::new(Slow(file)) as Arc<dyn DiskFile>).boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.0.remove(name)
    }
}

impl DiskFile for Slow<Arc<dyn DiskFile>> {
    fn length(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.0.length()
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.0.read(offset, length)
    }

    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.0.read_medium(offset, length)
    }

    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        tokio::time::sleep(Duration::from_millis(50)).then(move |()| self.0.write(offset, pieces)).boxed()
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        self.0.set_length(length)
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.0.sync()
    }
}

/// A disk on which, while it clings to them, no file can be removed.
struct Clinging {
    disk: FaultyDisk,
    clings: AtomicBool,
}

impl Disk for Clinging {
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.disk.list()
    }

    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        self.disk.create(name, length)
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        self.disk.open(name)
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        match self.clings.load(Ordering::SeqCst) {
            true => std::future::ready(Err(io::ErrorKind::PermissionDenied.into())).boxed(),
            false => self.disk.remove(name),
        }
    }
}

#[tokio::test]
async fn what_is_removed_is_not_back_with_a_file_that_could_not_be() {
    // Of one the oldest are evicted, of the other the young are sifted.
    for config in [small_config(), config(4 << 20)] {
        let disk = Arc::new(Clinging { disk: FaultyDisk::new(1), clings: AtomicBool::new(false) });
        let store = Store::open_on(config.clone(), vec![disk.clone()]).await.expect("open");
        let names: Vec<String> = (0..600).map(|number| format!("/{number}")).collect();
        for (number, name) in names.iter().enumerate() {
            put(&store, name, &body(number as u64, 10_000), 0).await;
        }
        assert!(store.stats().evicted_objects > 0);
        disk.clings.store(true, Ordering::SeqCst);
        let (before, mut more) = (store.stats().segments, 0);
        while store.stats().segments <= before {
            put(&store, &format!("/more/{more}"), &body(more, 10_000), 0).await;
            more += 1;
        }
        let mut removed = Vec::new();
        for name in &names {
            if store.remove(key(name), name.as_bytes(), Which::Any).await.is_ok() {
                removed.push(name);
            }
        }
        assert_eq!(store.stats().disks_out, 0);
        assert!(removed.len() > 550, "{}", removed.len());
        let store = open(&disk.disk.crash(), config).await;
        for name in removed {
            assert!(get(&store, name).await.is_none(), "{name} is back");
        }
    }
}

#[tokio::test]
async fn what_was_never_stored_is_not_found_once_the_segment_that_says_so_is_sifted() {
    let (mut kept, mut failed) = (0, 0);
    for seed in 0..60 {
        let disk = FaultyDisk::new(seed);
        let store = open(&disk, config(4 << 20)).await;
        for number in 0..252 {
            put(&store, &format!("/old/{number}"), &body(number, 20_000), 0).await;
        }
        // A segment of which little would go, for all that it holds is asked for; then one that is not whole is added to it.
        for number in 0..3 {
            let name = format!("/asked/{number}");
            put(&store, &name, &body(number, 19_600), 0).await;
            assert!(get(&store, &name).await.is_some());
        }
        disk.fail_writes(&[WriteFault::NoSpace]);
        let names: Vec<String> = (0..8).map(|number| format!("/few/{number}")).collect();
        let few = body(1, 300);
        let puts = names.iter().map(|name| try_put(&store, name, &few));
        let results = futures_util::future::join_all(puts).await;
        for number in 0..200 {
            put(&store, &format!("/new/{number}"), &body(number, 20_000), 0).await;
        }
        let stats = store.stats();
        assert!(stats.sifted_segments > 85, "not up to there: {stats:?}");
        let store = open(&disk.crash(), config(4 << 20)).await;
        for (name, result) in names.iter().zip(results) {
            if result.is_err() {
                failed += 1;
                assert!(get(&store, name).await.is_none(), "{seed}: {name} was never stored");
            }
        }
        kept += usize::from(get(&store, "/asked/0").await.is_some());
    }
    assert!(failed > 50 && kept > 50, "{failed} {kept}");
}

/// Bodies of one slice go to the writer only when they are whole: one after the other, they must not outrun the disk either.
#[tokio::test]
async fn small_bodies_wait_for_a_slow_disk() {
    const LENGTH: usize = 256 << 10;
    let sizes = Config { segment_bytes: 4 << 20, memory_bytes: 512 << 20, ..config(512 << 20) };
    let store = Store::open_on(sizes, vec![Arc::new(Slow(FaultyDisk::new(1)))]).await.expect("open");
    let (body, mut finishing) = (body(1, LENGTH), Vec::new());
    for number in 0..400 {
        let name = format!("/{number}");
        let mut fill = store.begin_fill(key(&name), name.as_bytes(), Bytes::new(), 0, None).expect("begin");
        fill.append(body.clone()).await.expect("append");
        finishing.push(tokio::spawn(fill.finish()));
        let stats = store.stats();
        // A fill counts until it is visible, so what is in flight counts twice.
        assert!(stats.gathering_bytes <= stats.in_flight_bytes_max + 8 * LENGTH as u64, "{stats:?}");
        tokio::task::yield_now().await;
    }
    for finished in finishing {
        finished.await.expect("no panic").expect("stored");
    }
    assert!(400 * LENGTH as u64 > 2 * store.stats().in_flight_bytes_max, "or none had to wait");
}

/// Who fetches slowly holds what has come so far: all of them together hold no more than they may.
#[tokio::test]
async fn fills_that_might_hold_too_much_are_refused() {
    let store = Store::open_on(config(512 << 20), vec![Arc::new(FaultyDisk::new(1))]).await.expect("open");
    let begin = |name: usize, length| {
        let name = format!("/{name}");
        store.begin_fill(key(&name), name.as_bytes(), Bytes::new(), 0, length)
    };
    let mut fills: Vec<_> = (1..).map_while(|name| begin(name, None).ok()).collect();
    let stats = store.stats();
    assert!(fills.len() > 10 && stats.reserved_bytes <= stats.reserved_bytes_max, "{stats:?}");
    for length in [None, Some(1), Some(1 << 20)] {
        assert!(matches!(begin(0, length), Err(WriteError::Busy { .. })), "{length:?}");
    }
    assert!(begin(0, Some(0)).is_ok(), "nothing to hold");
    drop(fills.pop());
    let small = begin(0, Some(1000)).expect("what is small takes little");
    assert!(matches!(begin(0, None), Err(WriteError::Busy { .. })));
    drop(small);
    let large = begin(0, Some(100 << 20)).expect("what is large takes a slice");
    drop((fills, large));
    assert_eq!(store.stats().reserved_bytes, 0);
}

#[tokio::test]
async fn fills_of_unknown_length_that_no_disk_takes_are_bounded_as_they_grow() {
    let store = Store::open(Config::memory_only(64 << 20)).await.expect("open");
    let mut fills = Vec::new();
    for number in 0..4 {
        let name = format!("/{number}");
        fills.push(store.begin_fill(key(&name), name.as_bytes(), Bytes::new(), 0, None).expect("begin"));
    }
    let piece = body(1, 1 << 20);
    let (mut appended, mut refused) = (0, 0);
    for _ in 0..30 {
        for fill in &mut fills {
            match fill.append(piece.clone()).await {
                Ok(()) => appended += piece.len() as u64,
                Err(WriteError::Busy { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let stats = store.stats();
    assert!(refused > 0 && appended <= stats.reserved_bytes_max, "{appended} of {stats:?}");
    drop(fills);
    assert_eq!(store.stats().reserved_bytes, 0);
}

#[tokio::test]
async fn removal_and_head_survive_a_crash() {
    let disk = FaultyDisk::new(4);
    let store = open(&disk, small_config()).await;
    for name in ["/a", "/b"] {
        put(&store, name, &body(1, 20_000), 1).await;
    }
    assert!(store.remove(key("/a"), b"/a", Which::Any).await.expect("remove"));
    let object = get(&store, "/b").await.expect("stored");
    store.update_head(&object, Bytes::from_static(b"new"), 7).await.expect("update").expect("stored");
    // Durable with the next sync, which the proof asks for.
    store.verify(key("/b"), b"/b").await.expect("resident");

    let store = open(&disk.crash(), small_config()).await;
    assert!(get(&store, "/a").await.is_none());
    let object = get(&store, "/b").await.expect("stored");
    assert_eq!((&object.head()[..], object.stamp()), (&b"new"[..], 7));
    assert_eq!(whole(&object).await, body(1, 20_000));
}

#[tokio::test]
async fn failing_disk_fails_fills_and_nothing_else() {
    let cases: [(&str, &[WriteFault], u32); 4] = [
        ("refused write", &[WriteFault::Refused], 0),
        ("disk full in a write", &[WriteFault::NoSpace], 0),
        ("failed sync", &[], 1),
        ("all of it", &[WriteFault::NoSpace, WriteFault::Refused, WriteFault::Refused], 2),
    ];
    for (case, writes, syncs) in cases {
        let disk = FaultyDisk::new(9);
        let store = open(&disk, small_config()).await;
        put(&store, "/before", &body(1, 20_000), 0).await;
        disk.fail_writes(writes);
        disk.fail_syncs(syncs);
        let mut failures = 0;
        while let Err(error) = try_put(&store, "/during", &body(2, 20_000)).await {
            assert!(matches!(error, WriteError::Io(_)), "{case}: {error:?}");
            assert!(get(&store, "/during").await.is_none(), "{case}: what failed is not visible");
            failures += 1;
            assert!(failures < 10, "{case}: the store does not recover");
        }
        assert!(failures > 0, "{case}");
        for round in ["before the crash", "after it"] {
            let store = if round == "after it" { open(&disk.crash(), small_config()).await } else { store.clone() };
            for (name, seed) in [("/before", 1), ("/during", 2)] {
                let object = get(&store, name).await.unwrap_or_else(|| panic!("{case}: {name} {round}"));
                assert_eq!(whole(&object).await, body(seed, 20_000), "{case}: {name} {round}");
            }
        }
    }
}

/// A removal that finds nothing, because what was there left with a failed write, is as good as any other.
#[tokio::test]
async fn what_failed_and_was_removed_stays_away() {
    for seed in 0..20 {
        for fault in ["sync", "write"] {
            let disk = FaultyDisk::new(seed);
            let store = open(&disk, config(8 << 20)).await;
            put(&store, "/0", &body(1, 2_000), 0).await;
            match fault {
                "sync" => disk.fail_syncs(1),
                // The disk is full in the midst of many bodies: some of them are whole on it.
                _ => disk.fail_writes(&[WriteFault::NoSpace]),
            }
            let names: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
            let bytes = body(2, 2_000);
            let puts = names.iter().map(|name| try_put(&store, name, &bytes).map_err(move |_| name));
            let failed: Vec<_> =
                futures_util::future::join_all(puts).await.into_iter().filter_map(Result::err).collect();
            assert!(!failed.is_empty(), "{fault}, seed {seed}");
            for name in &failed {
                store.remove(key(name), name.as_bytes(), Which::Any).await.expect("remove");
            }
            let store = open(&disk.crash(), config(8 << 20)).await;
            for name in failed {
                assert!(get(&store, name).await.is_none(), "{name} is back: {fault}, seed {seed}");
            }
        }
    }
}

#[tokio::test]
async fn full_disk_takes_the_room_of_the_oldest_segment() {
    let disk = FaultyDisk::new(9);
    let store = open(&disk, config(8 << 20)).await;
    for number in 0..30 {
        put(&store, &format!("/{number}"), &body(number, 10_000), 0).await;
    }
    // Others took the room: the next segment cannot be created until one is given back.
    let segments = store.stats().segments;
    for number in 30..36 {
        disk.fail_writes(&[]);
        if store.stats().segments == segments {
            disk.fail_writes(&[WriteFault::NoSpace]);
        }
        let _ = try_put(&store, &format!("/{number}"), &body(number, 10_000)).await;
    }
    disk.fail_writes(&[]);
    put(&store, "/last", &body(99, 10_000), 0).await;
    assert_eq!(whole(&get(&store, "/last").await.expect("stored")).await, body(99, 10_000));
}

#[tokio::test]
async fn rotten_byte_is_never_served() {
    let names = [("/a", 3_000), ("/b", 40_000), ("/c", 1)];
    for sealed in [true, false] {
        for offset in (0..46_000).step_by(331).chain(0..200) {
            let disk = FaultyDisk::new(3);
            let store = open(&disk, small_config()).await;
            for (number, (name, length)) in names.into_iter().enumerate() {
                put(&store, name, &body(number as u64, length), 0).await;
            }
            if sealed {
                store.close().await.expect("close");
            }
            disk.corrupt("00000001.seg", offset);
            let store = open(&disk.crash(), small_config()).await;
            for (number, (name, length)) in names.into_iter().enumerate() {
                let context = format!("{name}, sealed {sealed}, byte {offset}");
                let Ok(Some(object)) = store.lookup(key(name), name.as_bytes()).await else { continue };
                let expected = body(number as u64, length);
                assert_eq!(object.head(), format!("head of {name}").as_bytes(), "{context}");
                match collect(object.read(0..u64::MAX)).await {
                    Ok(read) => assert!(read == expected, "wrong bytes: {context}"),
                    Err(ReadError::Corrupt { .. }) => {
                        assert!(store.verify(key(name), name.as_bytes()).await.is_err(), "{context}");
                        assert!(get(&store, name).await.is_none(), "a miss from then on: {context}");
                    }
                    Err(error) => panic!("{context}: {error}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn proof_of_residency_finds_rot_behind_the_memory_tier() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk, small_config()).await;
    put(&store, "/a", &body(1, 3_000), 0).await;
    assert!(store.verify(key("/a"), b"/a").await.is_ok());
    disk.corrupt("00000001.seg", 500);
    assert_eq!(get(&store, "/a").await.expect("in memory").body(), Some(&body(1, 3_000)));
    let proof = store.verify(key("/a"), b"/a").await;
    assert!(matches!(proof, Err(VerifyError::Read(ReadError::Corrupt { segment: 1, .. }))), "{proof:?}");
    assert!(get(&store, "/a").await.is_none(), "it is to be fetched again");
}

/// The operating system may still have what the medium has lost.
#[tokio::test]
async fn proof_is_of_the_medium_and_of_no_cache() {
    for length in [1_000, 40_000] {
        let disk = FaultyDisk::new(1);
        let store = open(&disk, small_config()).await;
        put(&store, "/a", &body(1, length), 0).await;
        store.verify(key("/a"), b"/a").await.expect("resident");
        let segment = disk.content("00000001.seg").expect("the first segment");
        let at = segment.windows(100).position(|window| *window == body(1, length)[500..600]).expect("of the body");
        assert!(disk.corrupt_medium("00000001.seg", at));
        let proof = store.verify(key("/a"), b"/a").await;
        assert!(matches!(proof, Err(VerifyError::Read(ReadError::Corrupt { .. }))), "{length}: {proof:?}");
    }
}

/// Those that lie together are read together; what is wrong with one is wrong with no other.
#[tokio::test]
async fn many_are_proved_together_and_each_for_itself() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk, config(16 << 20)).await;
    let name = |number: u64| format!("/{number}");
    let length = |number: u64| [0, 1, 300, 10_000, 20_000][number as usize % 5];
    for number in 0..300 {
        put(&store, &name(number), &body(number, length(number)), number).await;
    }
    let rotten = 153;
    let bytes = body(rotten, length(rotten));
    let segments =
        (1..).step_by(2).map(|id| format!("{id:08}.seg")).map_while(|name| Some((disk.content(&name)?, name)));
    let found = segments
        .into_iter()
        .find_map(|(content, name)| Some((name, content.windows(200).position(|window| *window == bytes[..200])?)));
    let (segment, at) = found.expect("it is in one of them");
    assert!(disk.corrupt_medium(&segment, at));
    let proofs = (0..300).map(|number| {
        let (store, name) = (store.clone(), name(number));
        async move { store.verify(key(&name), name.as_bytes()).await }
    });
    let proofs = futures_util::future::join_all(proofs).await;
    for (number, proof) in (0..).zip(proofs) {
        let bytes = body(number, length(number));
        match proof {
            Ok(verified) => {
                assert_ne!(number, rotten);
                assert_eq!((verified.length, verified.checksum), (bytes.len() as u64, crc32fast::hash(&bytes)));
                assert_eq!(verified.stamp, number);
            }
            Err(error) => {
                assert!(matches!(error, VerifyError::Read(ReadError::Corrupt { .. })), "{number}: {error}");
                assert_eq!(number, rotten);
            }
        }
    }
}

#[tokio::test]
async fn several_disks_share_the_objects() {
    let disks = [1, 2, 3].map(FaultyDisk::new);
    let place = |number: usize| DiskConfig { path: format!("disk{number}").into(), capacity_bytes: 4 << 20 };
    let config = Config { memory_bytes: 64 << 10, disks: (0..3).map(place).collect(), segment_bytes: 64 << 10 };
    let open = || {
        let disks = disks.iter().map(|disk| Arc::new(disk.clone()) as Arc<dyn Disk>).collect();
        let config = config.clone();
        async { Store::open_on(config, disks).await.expect("open") }
    };
    let store = open().await;
    for number in 0..60 {
        put(&store, &format!("/{number}"), &body(number, 5_000), 0).await;
    }
    store.close().await.expect("close");
    for disk in &disks {
        let file = disk.open("00000001.seg").await.expect("each disk has a part");
        assert!(file.length().await.expect("length") > 20_000);
    }
    let store = open().await;
    for number in 0..60 {
        let object = get(&store, &format!("/{number}")).await.expect("stored");
        assert_eq!(whole(&object).await, body(number, 5_000));
    }
    assert_eq!(store.stats().objects, 60);
}

#[tokio::test]
async fn capacity_below_eight_segments_is_refused() {
    let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(FaultyDisk::new(1))];
    match Store::open_on(config(100_000), disks).await {
        Err(OpenError::CapacityTooSmall { capacity_bytes: 100_000, least_bytes: 131_072, .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test]
async fn disk_that_gets_another_number_gives_no_number_of_a_fill_twice() {
    let (first, second) = (FaultyDisk::new(51), FaultyDisk::new(52));
    let on = |disks: Vec<(&'static str, FaultyDisk)>| async move {
        let entry = |path: &str| DiskConfig { path: path.into(), capacity_bytes: 512 << 10 };
        let entries = disks.iter().map(|(path, _)| entry(path)).collect();
        let opened: Vec<Arc<dyn Disk>> = disks.into_iter().map(|(_, disk)| Arc::new(disk) as Arc<dyn Disk>).collect();
        Store::open_on(Config { disks: entries, memory_bytes: 1 << 20, ..small_config() }, opened).await.expect("open")
    };
    // Bodies of several slices, which lie in memory under the number of their fill.
    let long = |seed| body(seed, 40_000);
    let both = on(vec![("first", first.clone()), ("second", second.clone())]).await;
    for number in 0..6 {
        put(&both, &format!("/{number}"), &long(number), 0).await;
    }
    both.close().await.expect("close");
    drop(both);
    let mut generations = std::collections::HashSet::new();
    let mut disk = second.crash();
    for start in 1..4 {
        let alone = on(vec![("second", disk.clone())]).await;
        let name = format!("/new/{start}");
        put(&alone, &name, &long(100 + start), 0).await;
        for seed in 1..=start {
            let object = get(&alone, &format!("/new/{seed}")).await.expect("stored");
            assert!(whole(&object).await == long(100 + seed), "body {seed} at start {start}");
        }
        let generation = get(&alone, &name).await.expect("stored").generation();
        assert!(generations.insert(generation), "{generation:?} was another body's");
        alone.close().await.expect("close");
        drop(alone);
        disk = disk.crash();
    }
}

#[tokio::test]
async fn object_without_a_body_leaves_memory_with_its_segment_though_the_summary_rots() {
    let disk = FaultyDisk::new(53);
    let store = open(&disk, small_config()).await;
    put(&store, "/marker", &Bytes::new(), 0).await;
    let mut number = 0;
    while store.stats().segments < 2 {
        put(&store, &format!("/{number}"), &body(number, 9_000), 0).await;
        number += 1;
    }
    // From its end on: the summary, and some of what is before it.
    for offset in 60_000..(64 << 10) {
        disk.corrupt("00000001.seg", offset);
    }
    while store.stats().evicted_segments == 0 {
        assert!(get(&store, "/marker").await.is_some(), "in memory, and asked for all the time");
        put(&store, &format!("/{number}"), &body(number, 9_000), 0).await;
        number += 1;
    }
    let removed = store.remove(key("/marker"), b"/marker", Which::Any);
    let removed = tokio::time::timeout(std::time::Duration::from_secs(10), removed).await.expect("it comes to an end");
    assert!(matches!(removed, Ok(false)), "{removed:?}");
    assert!(get(&store, "/marker").await.is_none());
}
