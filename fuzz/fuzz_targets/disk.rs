//! A whole disk: written by a store, or empty, then edited by the fuzzer. It opens or reports why not, serves nothing
//! wrong unless the checksums were repaired, accepts new objects, and never panics.
//!
//! The first byte selects the contents: bit 0, segments of a store; bit 1, of one that was closed; bit 2, checksums are
//! repaired after the edits; bit 3, the disk was taken out of service. Edits follow: segment (1 byte), operation (1),
//! offset (2), length (1), bytes.
#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use store::disk::{Disk, FaultyDisk};
use store::{Config, DiskConfig, Key, Store, Sweep, Which, WriteError};

const SEGMENT_BYTES: u64 = 16 << 10;
/// Longest file that an edit can make, in bytes.
const FILE_BYTES_MAX: usize = 20 << 10;
/// A forged head may list one slice many times; bodies are only read up to here.
const BODY_BYTES_MAX: usize = 1 << 20;
const NAMES: [(&str, usize); 4] = [("/a", 300), ("/b", 9_000), ("/c", 1), ("/d", 0)];

type Files = Vec<(String, Vec<u8>)>;

static OPEN: LazyLock<Files> = LazyLock::new(|| run(written(false)));
static CLOSED: LazyLock<Files> = LazyLock::new(|| run(written(true)));

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, edits)) = bytes.split_first() else { return };
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let mut files = match (flag(0), flag(1)) {
        (false, _) => vec![("00000001.seg".to_owned(), Vec::new())],
        (true, false) => OPEN.clone(),
        (true, true) => CLOSED.clone(),
    };
    edit(&mut files, edits);
    let disk = FaultyDisk::new(2);
    for (name, mut bytes) in files {
        if flag(2) {
            let segment = name.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(1);
            store::fuzzing::mend(segment, &mut bytes);
        }
        disk.place(&name, &bytes);
    }
    if flag(3) {
        disk.place("void", b"");
    }
    run(ask_everything(&disk, !flag(2)));
});

fn edit(files: &mut Files, mut edits: &[u8]) {
    while let [file, what, low, high, length, rest @ ..] = edits {
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        edits = rest;
        let names = files.len();
        if *file == 0xff {
            files.push((format!("{:08}.seg", names + 1), Vec::new()));
            continue;
        }
        let (_, content) = &mut files[usize::from(*file) % names];
        let at = usize::from(u16::from_le_bytes([*low, *high])).min(content.len());
        match what % 4 {
            0 => content.iter_mut().skip(at).zip(bytes).for_each(|(old, new)| *old = *new),
            1 => content.truncate(at),
            2 => content.extend_from_slice(bytes),
            _ => {
                let copied: Vec<u8> = content.iter().skip(at).take(usize::from(*length) * 8).copied().collect();
                content.extend(copied);
            }
        }
        content.truncate(FILE_BYTES_MAX);
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(work)
}

fn config() -> Config {
    let disks = vec![DiskConfig { path: "disk".into(), capacity_bytes: 8 * SEGMENT_BYTES }];
    Config { memory_bytes: 64 << 10, disks, segment_bytes: SEGMENT_BYTES }
}

fn key(name: &str) -> Key {
    Key(u128::from_le_bytes(std::array::from_fn(|at| {
        name.as_bytes().get(at % name.len()).map_or(0, |byte| byte ^ at as u8)
    })))
}

fn body(name: &str, length: usize) -> Vec<u8> {
    name.bytes().cycle().zip(0_usize..).map(|(byte, at)| byte ^ (at / 7) as u8).take(length).collect()
}

/// The files of a store that contains the names.
async fn written(closed: bool) -> Files {
    let disk = FaultyDisk::new(1);
    let store =
        Store::open_on(config(), vec![Arc::new(disk.clone()) as Arc<dyn Disk>]).await.expect("an empty disk opens");
    for (name, length) in NAMES {
        put(&store, name, length).await.expect("there is room");
    }
    if closed {
        store.close().await.expect("the disk is good");
    }
    let mut files = Vec::new();
    for name in disk.list().await.expect("the disk is good") {
        let mut content = disk.content(&name).expect("it was listed");
        if !closed {
            content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        }
        files.push((name, content));
    }
    files
}

async fn put(store: &Store, name: &str, length: usize) -> Result<(), WriteError> {
    let mut fill = store.begin_fill(key(name), name.as_bytes(), Bytes::from_static(b"head"), 1, Some(length as u64))?;
    fill.append(Bytes::from(body(name, length))).await?;
    fill.finish().await.map(drop)
}

/// Opens a disk and performs every operation on it; the objects under the names must be those stored there, unless
/// checksums were forged.
async fn ask_everything(disk: &FaultyDisk, genuine: bool) {
    let Ok(store) = Store::open_on(config(), vec![Arc::new(disk.clone()) as Arc<dyn Disk>]).await else { return };
    for (name, length) in NAMES {
        let _ = store.verify(key(name), name.as_bytes()).await;
        let Ok(Some(object)) = store.lookup(key(name), name.as_bytes()).await else { continue };
        let (mut reader, mut read) = (object.read(0..u64::MAX), Vec::new());
        let whole = loop {
            match reader.next().await {
                Some(Ok(chunk)) if read.len() < BODY_BYTES_MAX => read.extend_from_slice(&chunk),
                Some(_) => break false,
                None => break true,
            }
        };
        assert!(!whole || !genuine || read == body(name, length), "wrong bytes under {name}");
        let _ = store.update_head(&object, Bytes::from_static(b"new"), 9).await;
    }
    let _ = store.sweep(|_| Sweep::Restamp(9), |_| {}).await;
    for (name, _) in NAMES {
        let _ = store.remove(key(name), name.as_bytes(), Which::Any).await;
    }
    // The edited contents may leave no room; then the disk is taken out of service after eight failures.
    let mut tries = 0;
    while put(&store, "/after", 5_000).await.is_err() {
        tries += 1;
        assert!(tries <= 8, "fills fail for ever");
    }
    let _ = store.close().await;
}
