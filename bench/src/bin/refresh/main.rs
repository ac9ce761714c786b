//! What a refresh costs: how long until it is in effect and Complete, how many a second, and what it does to hits.
//!
//! Sections, each alone with `--section NAME`, all of them in this order without:
//!
//! - `nodes`: four real nodes, from the acknowledgement to *in effect on all* and to *Complete*.
//! - `sessions`: the same with 1,000 simulated members; and how long until all are back after the control plane was killed.
//! - `flood`: 3,000 URLs a second for half a minute, four real nodes keeping up.
//!
//! Servers, clients and load share this machine: what is measured includes its client. `--release`, or the figures mean little.

#![allow(clippy::print_stdout, reason = "what a benchmark prints is what it is for")]

use anyhow::bail;

mod flood;
mod nodes;
mod origin;
mod sessions;

/// What the control plane and nodes promise before they answer, in the words of every section.
const DURABLE: &str = "durable = acknowledged after SQLite's commit (WAL, synchronous=FULL), applied after the node's journal (redb) was synced";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--verbose").collect();
    let chosen = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => None,
        ["--section", name] => Some(name.to_owned()),
        _ => bail!("expected nothing or --section NAME"),
    };
    let mut known = false;
    for name in ["nodes", "sessions", "flood"] {
        if chosen.as_ref().is_some_and(|chosen| chosen != name) {
            continue;
        }
        known = true;
        println!("== {name}\n{DURABLE}");
        match name {
            "nodes" => nodes::run().await?,
            "sessions" => sessions::run().await?,
            _ => flood::run().await?,
        }
        println!();
    }
    if !known {
        bail!("no section of that name");
    }
    Ok(())
}
