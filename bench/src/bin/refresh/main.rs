//! The cost of a refresh: how long until it takes effect and is Complete, how many per second, and their influence on
//! hits.
//!
//! Sections; `--section NAME` runs one, by default all run in this order:
//!
//! - `nodes`: four real nodes, from the acknowledgement to *effect on all* and to *Complete*.
//! - `sessions`: the same with 1,000 simulated members; and how long until all are back after the control plane was
//!   killed.
//! - `flood`: 3,000 URLs per second for half a minute, with four real nodes keeping up.
//! - `directory`: one entry that covers a million of ten million objects in one node's store.
//! - `instructions`: instructions of a lookup-and-judge with 0, 1,000 and 100,000 live scopes, by callgrind (needs
//!   valgrind).
//! - `peer`: hits per second while invalidations arrive, compared with Varnish's bans (needs varnish and wrk).
//!
//! Servers, clients and load share this machine, so results include the client. Without `--release` they mean little.

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

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the control plane and nodes guarantee before they answer, as printed by every section.
const DURABLE: &str = "durable = acknowledged after SQLite's commit (WAL, synchronous=FULL), applied after the node's journal (redb) was synced";

/// In the order in which they run.
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
