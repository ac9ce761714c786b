//! Real directories: locks, restarts without a goodbye, and files that an earlier version wrote.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::{body, get, key, put, whole};
use store::disk::{Disk, FileDisk};
use store::{Config, DiskConfig, OpenError, Store};

fn at(path: &Path) -> Config {
    let disks = vec![DiskConfig { path: path.to_owned(), capacity_bytes: 128 << 10 }];
    Config { memory_bytes: 64 << 10, disks, segment_bytes: 16 << 10 }
}

/// What the sample holds: four objects, of which `/removed` is gone again.
const SAMPLE: [(&str, usize, u64); 3] = [("/small", 1_000, 1), ("/long", 20_000, 2), ("/empty", 0, 9)];

async fn fill_sample(store: &Store) {
    put(store, "/removed", &body(5, 2_000), 3).await;
    for (number, (name, length, stamp)) in SAMPLE.into_iter().enumerate() {
        put(store, name, &body(number as u64, length), stamp.min(2)).await;
    }
    store.remove(key("/removed"), b"/removed", store::Which::Any).await.expect("remove");
    let empty = get(store, "/empty").await.expect("stored");
    store.update_head(&empty, Bytes::from_static(b"head of /empty"), 9).await.expect("update").expect("stored");
    store.verify(key("/empty"), b"/empty").await.expect("resident");
}

async fn check_sample(store: &Store) {
    for (number, (name, length, stamp)) in SAMPLE.into_iter().enumerate() {
        let object = get(store, name).await.unwrap_or_else(|| panic!("{name} is not there"));
        assert_eq!(whole(&object).await, body(number as u64, length), "{name}");
        assert_eq!((object.head(), object.stamp()), (&Bytes::from(format!("head of {name}")), stamp), "{name}");
        store.verify(key(name), name.as_bytes()).await.expect("resident");
    }
    assert!(get(store, "/removed").await.is_none());
    assert_eq!(store.stats().objects, 3);
}

/// Runs on a runtime that is then gone with all its tasks, as after a kill.
fn until_killed<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(work)
}

#[test]
fn killed_store_comes_back_and_goes_on() {
    let directory = tempfile::tempdir().expect("directory");
    until_killed(async {
        let store = Store::open(at(directory.path())).await.expect("open");
        fill_sample(&store).await;
        let mut unfinished = store.begin_fill(key("/half"), b"/half", Bytes::new(), 0, None).expect("begin");
        unfinished.append(body(8, 20_000)).await.expect("append");
    });
    until_killed(async {
        let store = Store::open(at(directory.path())).await.expect("open");
        check_sample(&store).await;
        assert!(get(&store, "/half").await.is_none());
        put(&store, "/more", &body(7, 9_000), 0).await;
        assert!(store.remove(key("/more"), b"/more", store::Which::Any).await.expect("remove"));
        store.close().await.expect("close");
    });
    until_killed(async { check_sample(&Store::open(at(directory.path())).await.expect("open")).await });
}

#[test]
fn directory_has_one_store() {
    let directory = tempfile::tempdir().expect("directory");
    until_killed(async {
        let _store = Store::open(at(directory.path())).await.expect("open");
        match Store::open(at(directory.path())).await {
            Err(OpenError::InUse { path }) => assert_eq!(path, directory.path()),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened twice"),
        }
    });
    until_killed(async { Store::open(at(directory.path())).await.map(drop).expect("the lock went with its holder") });
}

#[test]
fn newer_format_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let mut header = [0; 64];
    header[..8].copy_from_slice(b"WARMSEGM");
    header[8] = 2;
    header[12] = 1;
    let mut crc = crc32fast::Hasher::new_with_initial(1);
    crc.update(&header[..60]);
    header[60..].copy_from_slice(&crc.finalize().to_le_bytes());
    let path = directory.path().join("00000001.seg");
    std::fs::write(&path, header).expect("write");
    match until_killed(Store::open(at(directory.path()))) {
        Err(OpenError::UnknownFormat { segment: 1, found: 2, known: 1, .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
    assert_eq!(std::fs::read(path).expect("still there"), header);
}

#[test]
fn torn_tail_is_cut_off() {
    let directory = tempfile::tempdir().expect("directory");
    until_killed(async {
        let store = Store::open(at(directory.path())).await.expect("open");
        fill_sample(&store).await;
        put(&store, "/torn", &body(3, 300), 0).await;
    });
    let newest = newest_segment(directory.path());
    let mut bytes = std::fs::read(&newest).expect("read");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("records");
    bytes.truncate(last - 10);
    std::fs::write(&newest, bytes).expect("write");
    until_killed(async {
        let store = Store::open(at(directory.path())).await.expect("open");
        assert!(get(&store, "/torn").await.is_none());
        check_sample(&store).await;
    });
}

/// Readers, writers, removals and eviction at once, on several threads; what is read is always some whole version.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_never_mixes_bytes() {
    const NAMES: u64 = 40;
    let directory = tempfile::tempdir().expect("directory");
    let disks = vec![DiskConfig { path: directory.path().to_owned(), capacity_bytes: 512 << 10 }];
    let store = Store::open(Config { disks, ..at(directory.path()) }).await.expect("open");
    let done = Arc::new(AtomicBool::new(false));
    let expected = |number: u64| body(number, 1 + (number as usize * 37) % 20_000);
    let writers = (0..4_u64).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..100 {
                let number = task * 1000 + round;
                let name = format!("/{}", number * 7 % NAMES);
                let head = Bytes::from(number.to_string());
                let mut fill = store.begin_fill(key(&name), name.as_bytes(), head, number, None).expect("begin");
                fill.append(expected(number)).await.expect("append");
                match fill.finish().await {
                    Ok(_) | Err(store::WriteError::Evicted) => {}
                    Err(error) => panic!("{name}: {error}"),
                }
                if round % 9 == 0 {
                    store.remove(key(&name), name.as_bytes(), store::Which::Any).await.expect("remove");
                }
            }
        })
    });
    let readers = (0..4_u64).map(|task| {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let (mut found, mut round) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
                round += 1;
                let name = format!("/{}", (task + round) % NAMES);
                let Some(object) = get(&store, &name).await else { continue };
                let number: u64 = std::str::from_utf8(object.head()).expect("text").parse().expect("a number");
                match common::collect(object.read(0..u64::MAX)).await {
                    Ok(bytes) => assert!(bytes == expected(number), "wrong bytes: {object:?}"),
                    Err(store::ReadError::Evicted) => {}
                    Err(error) => panic!("{object:?}: {error}"),
                }
                found += 1;
            }
            found
        })
    });
    let (writers, readers): (Vec<_>, Vec<_>) = (writers.collect(), readers.collect());
    for writer in writers {
        writer.await.expect("no panic");
    }
    done.store(true, Ordering::Relaxed);
    let mut found = 0;
    for reader in readers {
        found += reader.await.expect("no panic");
    }
    let stats = store.stats();
    assert!(found > 0 && stats.evicted_segments > 0, "{found} reads, {stats:?}");
    assert_eq!((stats.read_errors, stats.write_errors, stats.in_flight_bytes, stats.fills), (0, 0, 0, 0), "{stats:?}");
}

fn newest_segment(directory: &Path) -> PathBuf {
    let paths = std::fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().expect("a segment")
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format-v1")
}

/// The files of this format stay readable for as long as there are stores that hold them.
#[test]
fn sample_of_version_1_still_opens() {
    let directory = tempfile::tempdir().expect("directory");
    for entry in std::fs::read_dir(sample()).expect("the sample") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), directory.path().join(entry.file_name())).expect("copy");
    }
    until_killed(async { check_sample(&Store::open(at(directory.path())).await.expect("open")).await });
}

/// Writes the sample anew; only for a new version of the format, in a directory of its own.
#[test]
#[ignore = "writes into the source tree"]
fn write_sample() {
    until_killed(async { fill_sample(&Store::open(at(&sample())).await.expect("open")).await });
    std::fs::remove_file(sample().join("lock")).expect("remove the lock");
}

/// Bytes that this thread's process had read from media so far.
fn read_from_media() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").expect("this is Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("it has such a line");
    line.parse().expect("a number")
}

#[tokio::test]
async fn medium_is_read_past_the_page_cache_at_any_offset() {
    // Beside the build rather than under /tmp, which lies in memory more often.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let disk = FileDisk::open(directory.path()).await.expect("open");
    let file = disk.create("f", 100_000).await.expect("create");
    let bytes = body(1, 70_001);
    file.write(0, vec![bytes.clone()]).await.expect("write");
    file.sync().await.expect("sync");
    // A file that has left its directory can be proved as well.
    disk.remove("f").await.expect("remove");
    let before = read_from_media();
    for (offset, length) in [(0, 1), (1, 4_096), (4_095, 2), (4_096, 4_096), (5_000, 65_000), (69_000, 5_000)] {
        let cached = file.read(offset, length).await.expect("read");
        assert_eq!(file.read_medium(offset, length).await.expect("read"), cached, "{length} at {offset}");
        assert_eq!(cached.len(), length, "the file is longer");
    }
    assert_eq!(file.read_medium(99_990, 100).await.expect("read"), Bytes::from_static(&[0; 10]), "up to its end");
    assert!(file.read_medium(200_000, 10).await.expect("read").is_empty(), "behind its end");
    const IN_MEMORY: i64 = 0x0102_1994;
    if rustix::fs::statfs(directory.path()).expect("statfs").f_type == IN_MEMORY {
        return; // there is no medium
    }
    let read = read_from_media() - before;
    assert!(read >= 80_000, "only {read} bytes came from the medium");
}
