//! `cargo xtask chaos --secs N --seed S`: real processes under random faults, for any length of time. The last line
//! sums up.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

#[tokio::main]
async fn main() -> ExitCode {
    let said = match run().await {
        Ok(summary) => writeln!(std::io::stdout(), "{summary}").map(|()| ExitCode::SUCCESS),
        Err(error) => writeln!(std::io::stderr(), "chaos: {error:?}").map(|()| ExitCode::FAILURE),
    };
    said.unwrap_or(ExitCode::FAILURE)
}

async fn run() -> anyhow::Result<e2e::fresh::storm::Summary> {
    let (mut secs, mut seed) = (60, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        let value: u64 = value.with_context(|| format!("expected a number after {name}"))?;
        match name.as_str() {
            "--secs" => secs = value,
            "--seed" => seed = value,
            _ => bail!("expected --secs N or --seed S, found {name}"),
        }
    }
    writeln!(std::io::stderr(), "chaos: seed {seed}, {secs} s")?;
    e2e::fresh::storm::run(Duration::from_secs(secs), seed).await
}
