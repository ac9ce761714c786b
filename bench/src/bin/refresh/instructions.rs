//! Instructions of one lookup-and-judge, by callgrind, with none, a thousand and a hundred thousand live scopes.
//!
//! This program runs itself under callgrind as `--loop LIVE OPERATIONS`, twice per size with different numbers of
//! operations: the difference is due to the operations alone, without start and filling. The looked-up objects are
//! stored, and covered by none of the live scopes: a hit, the case that must not pay for refreshes.

use std::process::Command;

use anyhow::{Context, ensure};
use bytes::Bytes;
use model::fence::Verdict;
use model::{Entry, Invalidation, Mode, Pattern, Scope, Tag, UrlKey};
use store::{Config, Store};

use crate::inside::{self, HOST};

/// Numbers of live scopes.
const LIVE: [usize; 3] = [0, 1_000, 100_000];

/// Numbers of operations in the two runs.
const OPERATIONS: [usize; 2] = [20_000, 60_000];

/// Objects that are looked up in turn.
const OBJECTS: usize = 1024;

pub(crate) fn run() -> anyhow::Result<()> {
    println!("instructions of a lookup-and-judge of a stored object, {OBJECTS} objects in turn, by callgrind");
    let mut first = None;
    let mut worst: f64 = 0.0;
    for live in LIVE {
        let few = callgrind(live, OPERATIONS[0])?;
        let many = callgrind(live, OPERATIONS[1])?;
        let each = many.saturating_sub(few) as f64 / (OPERATIONS[1] - OPERATIONS[0]) as f64;
        let base = *first.get_or_insert(each);
        let more = (each / base - 1.0) * 100.0;
        worst = worst.max(more.abs());
        println!("{live:>7} live scopes        {each:>9.1} instructions   {more:>+6.2} %");
    }
    println!("largest difference         {worst:>9.2} %   aim within 5 %");
    Ok(())
}

/// Instructions of a whole run.
fn callgrind(live: usize, operations: usize) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--loop", &live.to_string(), &operations.to_string()])
        .output()
        .context("valgrind is needed (apt-get install valgrind)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let collected =
        said.lines().find_map(|line| line.split_once("Collected : ")).context("what callgrind collected")?;
    Ok(collected.1.trim().parse()?)
}

/// The measured loop.
pub(crate) fn operate(live: usize, operations: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let folder = tempfile::tempdir()?;
        let store = Store::open(Config::memory_only(64 << 20)).await?;
        let inside = inside::open(folder.path(), store)?;
        // Stored first, so that every scope is newer than the looked-up objects.
        let urls: Vec<UrlKey> = (0..OBJECTS).map(|number| url(&format!("/images/2026/{number}.jpg"))).collect();
        for url in &urls {
            inside.store(url, Bytes::from_static(b"x")).await?;
        }
        let scopes: Vec<Invalidation> =
            (0..live).map(|number| Invalidation { scope: scope(number), mode: Mode::Expire }).collect();
        for some in scopes.chunks(500) {
            inside.apply(&Entry::Invalidate(some.to_vec()));
        }
        ensure!(inside.live() == live, "{} scopes are live", inside.live());
        inside.beat();
        for url in urls.iter().cycle().take(operations) {
            let verdict = inside.lookup_and_judge(url).await;
            ensure!(verdict == Some(Verdict::Send), "{verdict:?}");
        }
        Ok(())
    })
}

/// A scope of each kind in turn, none of which covers a looked-up object. There are as many expressions as a host may
/// have before they are folded into one.
fn scope(number: usize) -> Scope {
    let host = HOST.to_owned();
    match number % 5 {
        0 => Scope::File(url(&format!("/gone/{number}.jpg"))),
        1 => Scope::Directory { host, path: format!("/gone/{number}/") },
        2 => Scope::IgnoreParams { host, path: format!("/gone/{number}") },
        3 if number < 300 => {
            Scope::Regex(Pattern::parse(url(&format!("/gone/{number}.*"))).expect("a good expression"))
        }
        _ => Scope::Tag {
            domain: inside::domain_name(),
            tag: Tag::parse(&format!("gone-{number}")).expect("a good tag"),
        },
    }
}

fn url(path: &str) -> UrlKey {
    UrlKey::new(HOST, path).expect("a path that is one")
}
