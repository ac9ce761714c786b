//! What a refresh costs: how long until it is in effect and Complete, how many a second, and what it does to hits.
//!
//! Sections, each alone with `--section NAME`, all of them in this order without:
//!
//! - `nodes`: four real nodes, from the acknowledgement to *in effect on all* and to *Complete*.
//! - `sessions`: the same with 1,000 simulated members; and how long until all are back after the control plane was killed.
//! - `flood`: 3,000 URLs a second for half a minute, four real nodes keeping up.
//! - `directory`: one entry that covers a million of ten million objects in one node's store.
//! - `instructions`: of a lookup-and-judge with 0, 1,000 and 100,000 live scopes, by callgrind (needs valgrind).
//! - `peer`: hits a second while invalidations arrive, beside Varnish with bans (needs varnish and wrk).
//!
//! Servers, clients and load share this machine: what is measured includes its client. `--release`, or the figures mean little.

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use anyhow::{bail, ensure};

mod directory;
mod flood;
mod inside;
mod instructions;
mod nodes;
mod origin;
mod peer;
mod sessions;

/// The product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the control plane and nodes promise before they answer, in the words of every section.
const DURABLE: &str = "durable = acknowledged after SQLite's commit (WAL, synchronous=FULL), applied after the node's journal (redb) was synced";

/// In the order they are run.
const SECTIONS: [&str; 6] = ["nodes", "sessions", "flood", "directory", "instructions", "peer"];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--verbose").collect();
    let chosen = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--section", name] => Some(name.to_owned()),
        ["--loop", live, operations] => return instructions::operate(live.parse()?, operations.parse()?),
        _ => bail!("expected nothing or --section NAME"),
    };
    ensure!(chosen.as_deref().is_none_or(|name| SECTIONS.contains(&name)), "sections are {}", SECTIONS.join(", "));
    let runtime = tokio::runtime::Runtime::new()?;
    for name in SECTIONS.into_iter().filter(|name| chosen.as_deref().is_none_or(|chosen| chosen == *name)) {
        println!("== {name}\n{DURABLE}");
        runtime.block_on(async {
            match name {
                "nodes" => nodes::run().await,
                "sessions" => sessions::run().await,
                "flood" => flood::run().await,
                "directory" => directory::run().await,
                "instructions" => instructions::run(),
                _ => peer::run().await,
            }
        })?;
        println!();
    }
    Ok(())
}
