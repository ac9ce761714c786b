//! `cargo xtask soak prefetch --rounds N --seed S`: prefetches while processes are killed, round by round. The last line sums up.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};

#[tokio::main]
async fn main() -> ExitCode {
    let said = match run().await {
        Ok(summary) => writeln!(std::io::stdout(), "{summary}").map(|()| ExitCode::SUCCESS),
        Err(error) => writeln!(std::io::stderr(), "soak: {error:?}").map(|()| ExitCode::FAILURE),
    };
    said.unwrap_or(ExitCode::FAILURE)
}

async fn run() -> anyhow::Result<e2e::soak::Summary> {
    let (mut rounds, mut seed) = (200, 1);
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("prefetch") => {}
        found => bail!("expected prefetch, found {}", found.unwrap_or("nothing")),
    }
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        let value: u64 = value.with_context(|| format!("expected a number after {name}"))?;
        match name.as_str() {
            "--rounds" => rounds = value as usize,
            "--seed" => seed = value,
            _ => bail!("expected --rounds N or --seed S, found {name}"),
        }
    }
    writeln!(std::io::stderr(), "soak: seed {seed}, {rounds} rounds")?;
    e2e::soak::prefetch(rounds, seed).await
}
