//! Everything the store reads from a disk, made of arbitrary bytes: as rot leaves it, where checksums fail, and as an enemy would
//! write it, where every checksum is right and nothing behind it makes sense. It opens or says why not, serves nothing
//! wrong, and never panics. `PROPTEST_CASES=100000` makes a long run of it.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{body, collect, key, put, small_config};
use proptest::collection::vec;
use proptest::prelude::*;
use store::disk::{Disk, FaultyDisk};
use store::{Store, Sweep, Which, WriteError};

const NAMES: [(&str, usize); 4] = [("/a", 3_000), ("/b", 40_000), ("/c", 1), ("/d", 0)];

fn crc(segment: u32, bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(segment);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(work)
}

/// Opens a disk and asks it for everything; what is found under the names of these tests must be what was put there.
async fn ask_everything(disk: &FaultyDisk, genuine: bool) {
    let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(disk.clone())];
    let Ok(store) = Store::open_on(small_config(), disks).await else { return };
    for (number, (name, length)) in NAMES.into_iter().enumerate() {
        let _ = store.verify(key(name), name.as_bytes()).await;
        let Ok(Some(object)) = store.lookup(key(name), name.as_bytes()).await else { continue };
        if let Ok(read) = collect(object.read(0..u64::MAX)).await
            && genuine
        {
            assert!(read == body(number as u64, length), "wrong bytes under {name}");
        }
        let _ = store.update_head(&object, Bytes::from_static(b"new"), 9).await;
    }
    let _ = store.sweep(|_| Sweep::Restamp(9), |_| {}).await;
    for (name, _) in NAMES {
        let _ = store.remove(key(name), name.as_bytes(), Which::Any).await;
    }
    // What lies there may leave no room for more; then the disk is taken out of service, after eight failures.
    let mut tries = 0;
    while try_put(&store).await.is_err() {
        tries += 1;
        assert!(tries <= 8, "fills fail for ever");
    }
    let _ = store.close().await;
}

async fn try_put(store: &Store) -> Result<(), WriteError> {
    let mut fill = store.begin_fill(key("/after"), b"/after", Bytes::new(), 1, None)?;
    fill.append(body(9, 20_000)).await?;
    fill.finish().await.map(drop)
}

/// The segments of a store that holds the names, sealed or as a kill leaves them.
async fn genuine(sealed: bool) -> Vec<(String, Vec<u8>)> {
    let disk = FaultyDisk::new(1);
    let disks: Vec<Arc<dyn Disk>> = vec![Arc::new(disk.clone())];
    let store = Store::open_on(small_config(), disks).await.expect("open");
    for (number, (name, length)) in NAMES.into_iter().enumerate() {
        put(&store, name, &body(number as u64, length), 0).await;
    }
    if sealed {
        store.close().await.expect("close");
    }
    let mut files = Vec::new();
    for name in disk.list().await.expect("list") {
        let content = disk.content(&name).expect("listed");
        files.push((name, content));
    }
    files
}

/// What rot, or a careless copy, does to a file.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Write(usize, Vec<u8>),
    /// From, to, length.
    Copy(usize, usize, usize),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || prop_oneof![0..70_000usize, 0..4_000usize, 44_000..46_000usize];
    prop_oneof![
        (at(), 1..=255u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        at().prop_map(Damage::Cut),
        (at(), vec(any::<u8>(), 1..200)).prop_map(|(at, bytes)| Damage::Write(at, bytes)),
        (at(), at(), 1..3_000usize).prop_map(|(from, to, length)| Damage::Copy(from, to, length)),
        vec(any::<u8>(), 1..200).prop_map(Damage::Append),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    match damage {
        Damage::Flip(at, bits) => {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte ^= bits;
            }
        }
        Damage::Cut(at) => bytes.truncate(*at),
        Damage::Write(at, new) => {
            for (byte, new) in bytes.iter_mut().skip(*at).zip(new) {
                *byte = *new;
            }
        }
        Damage::Copy(from, to, length) => {
            let part: Vec<u8> = bytes.iter().skip(*from).take(*length).copied().collect();
            for (byte, new) in bytes.iter_mut().skip(*to).zip(part) {
                *byte = new;
            }
        }
        Damage::Append(new) => bytes.extend_from_slice(new),
    }
}

/// Numbers as they are, near the edges of what is believed, and anything.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..4u32,
        40..200u32,
        1..70_000u32,
        Just(1 << 20),
        (1 << 25)..(1 << 25) + 100u32,
        Just(u32::MAX),
        any::<u32>()
    ]
}

/// A record that has its checksums right: kind, fill, number, key, payload.
type Forged = (u32, u64, u32, usize, Vec<u8>);

fn forged() -> impl Strategy<Value = Forged> {
    // A head: fixed fields, slices, full key, head.
    let slices = vec((number(), number(), number(), any::<u32>()), 0..4);
    let head = (any::<u64>(), prop_oneof![0..100_000u64, any::<u64>()], slices, any::<bool>()).prop_map(
        |(stamp, length, slices, sums)| {
            let mut out = Vec::new();
            let sum: u64 = slices.iter().map(|slice| u64::from(slice.2)).sum();
            out.extend_from_slice(&stamp.to_le_bytes());
            out.extend_from_slice(&if sums { sum } else { length }.to_le_bytes());
            for field in [0, 2, 1, slices.len() as u32] {
                out.extend_from_slice(&u32::to_le_bytes(field));
            }
            for (segment, offset, length, crc) in slices {
                for field in [segment, offset, length, crc] {
                    out.extend_from_slice(&field.to_le_bytes());
                }
            }
            out.extend_from_slice(b"/ah");
            out
        },
    );
    let payload = prop_oneof![3 => head, 1 => vec(any::<u8>(), 0..300)];
    (0..6u32, prop_oneof![0..9u64, any::<u64>()], number(), 0..NAMES.len(), payload)
}

/// A line of a summary: which name, kind, offset, length, lead, first segment.
type Line = (usize, u32, u32, u32, u32, u32);

fn forge(records: &[Forged], lines: Option<&[Line]>, next_fill: u64, void: (u32, u32)) -> Vec<u8> {
    let segment = 1u32;
    let mut out = b"WARMSEGM".to_vec();
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&segment.to_le_bytes());
    out.extend_from_slice(&next_fill.to_le_bytes());
    out.extend_from_slice(&void.0.to_le_bytes());
    out.extend_from_slice(&void.1.to_le_bytes());
    out.resize(60, 0);
    let sum = crc(segment, &out);
    out.extend_from_slice(&sum);
    for (kind, fill, number, name, payload) in records {
        let start = out.len();
        out.extend_from_slice(&0x5752_4d31u32.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        out.extend_from_slice(&key(NAMES[*name].0).0.to_le_bytes());
        out.extend_from_slice(&fill.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        let sum = crc(segment, &out[start..]);
        out.extend_from_slice(&sum);
        out.extend_from_slice(payload);
    }
    let Some(lines) = lines else { return out };
    let summary = out.len();
    for (name, kind, offset, length, lead, first) in lines {
        out.extend_from_slice(&key(NAMES[*name].0).0.to_le_bytes());
        for field in [kind, offset, length, lead, first] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    let entries = crc(segment, &out[summary..]);
    let trailer = out.len();
    out.extend_from_slice(b"WARMSUMM");
    out.extend_from_slice(&(summary as u64).to_le_bytes());
    out.extend_from_slice(&(lines.len() as u32).to_le_bytes());
    out.extend_from_slice(&entries);
    out.extend_from_slice(&next_fill.to_le_bytes());
    out.extend_from_slice(&segment.to_le_bytes());
    let sum = crc(segment, &out[trailer..]);
    out.extend_from_slice(&sum);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_segments_serve_nothing_wrong(sealed: bool, damages in vec(damage(), 1..6)) {
        run(async {
            let disk = FaultyDisk::new(2);
            for (name, mut bytes) in genuine(sealed).await {
                damages.iter().for_each(|damage| apply(&mut bytes, damage));
                disk.place(&name, &bytes);
            }
            ask_everything(&disk, true).await;
        });
    }

    #[test]
    fn forged_segments_make_no_panic(
        records in vec(forged(), 0..6),
        lines in proptest::option::of(vec((0..NAMES.len(), 0..6u32, number(), number(), number(), number()), 0..6)),
        next_fill in prop_oneof![0..9u64, any::<u64>()],
        void in (number(), number()),
        out_of_service: bool,
    ) {
        run(async {
            let disk = FaultyDisk::new(2);
            disk.place("00000001.seg", &forge(&records, lines.as_deref(), next_fill, void));
            if out_of_service {
                disk.place("void", b"");
            }
            ask_everything(&disk, false).await;
        });
    }

    #[test]
    fn arbitrary_bytes_make_no_panic(bytes in vec(any::<u8>(), 0..600), name in "(0000000[0-9]|[0-9]{1,12}|4294967295)\\.seg|void|lock") {
        run(async {
            let disk = FaultyDisk::new(2);
            disk.place(&name, &bytes);
            ask_everything(&disk, false).await;
        });
    }
}
