//! Single faults at the one moment where they do the most harm.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::{body, collect, get, key, open, put, small_config, whole};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use store::disk::{Disk, DiskFile, Failure, FaultyDisk, WriteFault};
use store::{OpenError, Store, VerifyError, Which, WriteError};

async fn try_put(store: &Store, name: &str, bytes: &Bytes) -> Result<(), WriteError> {
    let mut fill = store.begin_fill(key(name), name.as_bytes(), Bytes::new(), 0, None)?;
    fill.append(bytes.clone()).await?;
    fill.finish().await.map(drop)
}

/// A disk, or a file of it, with a fault that can be switched on.
struct Faulty<T> {
    of: T,
    fault: Fault,
    on: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Files cannot be emptied.
    KeepsRoom,
    /// The process has no descriptors left.
    NoDescriptors,
}

impl<T> Faulty<T> {
    fn has(&self, fault: Fault) -> bool {
        self.fault == fault && self.on.load(Ordering::SeqCst)
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(Faulty { of: file, fault: self.fault, on: self.on.clone() })
    }
}

impl Disk for Faulty<FaultyDisk> {
    fn list(&self) -> BoxFuture<'_, io::Result<Vec<String>>> {
        self.of.list()
    }

    fn create<'a>(&'a self, name: &'a str, length: u64) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        async move { Ok(self.file(self.of.create(name, length).await?)) }.boxed()
    }

    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Arc<dyn DiskFile>>> {
        async move {
            match self.has(Fault::NoDescriptors) {
                true => Err(io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())),
                false => Ok(self.file(self.of.open(name).await?)),
            }
        }
        .boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        self.of.remove(name)
    }
}

impl DiskFile for Faulty<Arc<dyn DiskFile>> {
    fn length(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.of.length()
    }

    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.of.read(offset, length)
    }

    fn read_medium(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.of.read_medium(offset, length)
    }

    fn write(&self, offset: u64, pieces: Vec<Bytes>) -> BoxFuture<'_, io::Result<()>> {
        self.of.write(offset, pieces)
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        match length == 0 && self.has(Fault::KeepsRoom) {
            true => std::future::ready(Err(io::Error::other("the room stays taken"))).boxed(),
            false => self.of.set_length(length),
        }
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.of.sync()
    }
}

#[tokio::test]
async fn what_is_removed_while_room_cannot_be_taken_back_stays_away() {
    let (disk, on) = (FaultyDisk::new(1), Arc::new(AtomicBool::new(false)));
    let faulty = Faulty { of: disk.clone(), fault: Fault::KeepsRoom, on: on.clone() };
    let store = Store::open_on(small_config(), vec![Arc::new(faulty)]).await.expect("open");
    // Each in a segment of its own, which its reader holds.
    let mut readers = Vec::new();
    for number in 0..12 {
        let mut reader = put(&store, &format!("/held/{number}"), &body(number, 45_000), 0).await.read(0..u64::MAX);
        reader.next().await.expect("a chunk").expect("read");
        readers.push(reader);
    }
    let names: Vec<String> = (0..900).map(|number| format!("/{number}")).collect();
    for name in &names {
        put(&store, name, &body(1, 20), 0).await;
    }
    on.store(true, Ordering::SeqCst);
    let mut failed = None;
    for name in &names {
        if store.remove(key(name), name.as_bytes(), Which::Any).await.is_err() {
            failed = Some(name);
            break;
        }
    }
    on.store(false, Ordering::SeqCst);
    let name = failed.expect("the removals need a new segment");
    put(&store, "/sync", &body(2, 20), 0).await;
    assert!(!store.remove(key(name), name.as_bytes(), Which::Any).await.expect("it is gone"));
    let store = open(&disk.crash(), small_config()).await;
    assert!(get(&store, "/sync").await.is_some());
    assert!(get(&store, name).await.is_none(), "{name} is back");
    drop(readers);
}

const FEW: usize = 8;

/// Stores some objects at once, of which the disk takes only a part, and then settles durably that none was stored: in a segment that
/// holds nothing but that.
async fn settled(seed: u64) -> (FaultyDisk, Store) {
    let disk = FaultyDisk::new(seed);
    let store = open(&disk, small_config()).await;
    put(&store, "/before", &body(1, 300), 0).await;
    disk.fail_writes(&[WriteFault::NoSpace]);
    let (names, few) = ((0..FEW).map(|number| format!("/few/{number}")).collect::<Vec<_>>(), body(2, 300));
    let puts = futures_util::future::join_all(names.iter().map(|name| try_put(&store, name, &few))).await;
    assert!(puts.iter().all(Result::is_err), "they are one write: {puts:?}");
    assert!(!store.remove(key("/few/0"), b"/few/0", Which::Any).await.expect("it is settled"));
    (disk, store)
}

/// Opens the store after a power cut: nothing that was never stored is found.
async fn open_and_check(disk: &FaultyDisk, seed: u64) -> FaultyDisk {
    let disk = disk.crash();
    let store = open(&disk, small_config()).await;
    assert!(get(&store, "/before").await.is_some(), "{seed}");
    for number in 0..FEW {
        let name = format!("/few/{number}");
        assert!(get(&store, &name).await.is_none(), "{seed}: {name} was never stored");
    }
    disk
}

#[tokio::test]
async fn what_failed_stays_away_though_the_segment_that_says_so_fails_as_well() {
    for seed in 0..40 {
        let (disk, store) = settled(seed).await;
        disk.fail_writes(&[WriteFault::Refused]);
        try_put(&store, "/refused", &body(3, 300)).await.expect_err("its write fails");
        put(&store, "/after", &body(4, 300), 0).await;
        open_and_check(&disk, seed).await;
    }
}

#[tokio::test]
async fn what_failed_stays_away_though_its_segment_cannot_be_sealed_at_the_next_start() {
    for seed in 0..40 {
        let (disk, _store) = settled(seed).await;
        let disk = disk.crash();
        disk.fail_writes(&[WriteFault::Refused]); // the summary
        open(&disk, small_config()).await;
        open_and_check(&disk, seed).await;
    }
}

#[tokio::test]
async fn disk_whose_recovery_cannot_be_synced_is_left_out() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk, small_config()).await;
    put(&store, "/a", &body(1, 300), 0).await;
    let disk = disk.kill();
    disk.fail_syncs(1);
    let store = open(&disk, small_config()).await;
    assert_eq!(store.stats().disks_out, 1, "a second sync would have proved nothing");
}

#[tokio::test]
async fn what_a_failed_sync_lost_is_not_found_by_the_next_process() {
    let mut found = 0;
    for seed in 0..40 {
        let disk = FaultyDisk::new(seed);
        let store = open(&disk, small_config()).await;
        put(&store, "/before", &body(1, 300), 0).await;
        disk.fail_syncs(1);
        try_put(&store, "/maybe", &body(2, 9_000)).await.expect_err("its sync fails");
        // Nothing more is written before the process ends.
        let disk = disk.kill();
        let store = open(&disk, small_config()).await;
        assert!(get(&store, "/before").await.is_some(), "{seed}");
        if let Some(object) = get(&store, "/maybe").await {
            found += 1;
            assert!(whole(&object).await == body(2, 9_000));
            store.verify(key("/maybe"), b"/maybe").await.unwrap_or_else(|error| panic!("{seed}: {error}"));
            let store = open(&disk.crash(), small_config()).await;
            assert!(get(&store, "/maybe").await.is_some(), "{seed}: what was proved is there");
        }
    }
    assert!((5..35).contains(&found), "{found}");
}

#[tokio::test]
async fn too_few_descriptors_are_no_reason_to_leave_a_disk_out() {
    let (disk, on) = (FaultyDisk::new(1), Arc::new(AtomicBool::new(false)));
    let store = open(&disk, small_config()).await;
    put(&store, "/a", &body(1, 300), 0).await;
    let disk = disk.crash();
    on.store(true, Ordering::SeqCst);
    let opened = || Faulty { of: disk.clone(), fault: Fault::NoDescriptors, on: on.clone() };
    let refused = Store::open_on(small_config(), vec![Arc::new(opened())]).await.err().expect("it must not begin so");
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
    on.store(false, Ordering::SeqCst);
    let store = Store::open_on(small_config(), vec![Arc::new(opened())]).await.expect("open");
    assert!(get(&store, "/a").await.is_some());
}

#[tokio::test]
async fn object_that_cannot_be_read_for_want_of_descriptors_stays_and_can_be_removed() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk, small_config()).await;
    for name in ["/gone", "/a", "/b"] {
        put(&store, name, &body(1, 40_000), 0).await;
    }
    // Pushes them out of memory.
    for number in 0..4 {
        put(&store, &format!("/{number}"), &body(number, 20_000), 0).await;
    }
    let object = get(&store, "/b").await.expect("stored");
    disk.fail_after(0, Some(Failure::NoDescriptors));
    // More often than a disk may fail.
    for _ in 0..20 {
        for name in ["/gone", "/a"] {
            let error = store.lookup(key(name), name.as_bytes()).await.expect_err("it is not in memory");
            assert!(error.is_passing(), "{error}");
        }
        let error = collect(object.read(0..u64::MAX)).await.expect_err("its body is not in memory");
        assert!(error.is_passing(), "{error}");
        let proof = store.verify(key("/b"), b"/b").await;
        assert!(matches!(&proof, Err(VerifyError::Read(error)) if error.is_passing()), "{proof:?}");
    }
    assert!(store.remove(key("/gone"), b"/gone", Which::Any).await.expect("it needs not be read"));
    disk.fail_after(0, None);
    assert_eq!(store.stats().disks_out, 0);
    assert!(get(&store, "/gone").await.is_none(), "what was removed is back");
    for name in ["/a", "/b"] {
        assert!(whole(&get(&store, name).await.expect(name)).await == body(1, 40_000), "{name}");
        store.verify(key(name), name.as_bytes()).await.expect("resident");
    }
}

#[tokio::test]
async fn proof_of_what_was_found_unreadable_fails_until_it_is_stored_again() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk, small_config()).await;
    put(&store, "/a", &body(1, 40_000), 0).await;
    // Pushes it out of memory.
    for number in 0..8 {
        put(&store, &format!("/{number}"), &body(number, 20_000), 0).await;
    }
    let object = get(&store, "/a").await.expect("stored");
    disk.fail_reads(1);
    collect(object.read(0..u64::MAX)).await.expect_err("the read fails");
    assert!(get(&store, "/a").await.is_none());
    let proof = store.verify(key("/a"), b"/a").await;
    assert!(matches!(proof, Err(VerifyError::Absent)), "what no lookup finds is not resident: {proof:?}");
    put(&store, "/a", &body(1, 40_000), 0).await;
    store.verify(key("/a"), b"/a").await.expect("resident");
}

/// Slices that wait for the writer are bounded by what is reserved for fills; they leave readers the room that readers have.
#[tokio::test]
async fn fills_have_room_of_their_own_in_memory() {
    let store = open(&FaultyDisk::new(1), store::Config { memory_bytes: 512 << 20, ..small_config() }).await;
    let stats = store.stats();
    let owned = stats.memory_capacity_bytes + stats.in_flight_bytes_max + stats.reserved_bytes_max;
    assert!(stats.buffered_bytes_max >= owned + (512 << 20), "{stats:?}");
}
