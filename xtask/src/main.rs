//! `cargo xtask check`: what a contributor runs before a commit, and `./test` before the tests. `cargo xtask sim`: seeds of the
//! simulation, more than a test has time for. `cargo xtask chaos`: real processes under random faults, for as long as wanted.
//! `cargo xtask soak prefetch`: prefetches while processes are killed. `cargo xtask fuzz`: the fuzz targets.

use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};

mod deny;
mod fuzz;
mod tidy;

type Check = (&'static str, fn() -> anyhow::Result<()>);

/// In the order of how fast they fail.
const CHECKS: &[Check] =
    &[("fmt", fmt), ("tidy", tidy::check), ("deny", deny::check), ("clippy", clippy), ("docs", docs)];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("check") => checks(arguments.next()),
        Some("sim") => sim(&arguments.collect::<Vec<_>>()),
        Some("chaos") => chaos(&arguments.collect::<Vec<_>>()),
        Some("soak") => soak(&arguments.collect::<Vec<_>>()),
        Some("fuzz") => fuzz::run(&arguments.collect::<Vec<_>>()),
        _ => bail!(
            "expected: cargo xtask check [fmt|tidy|deny|clippy|docs], cargo xtask sim [--seeds N] [--replay SEED], cargo xtask chaos --secs N --seed S, cargo xtask soak prefetch --rounds N --seed S, or cargo xtask fuzz --secs N [--only TARGET]"
        ),
    }
}

/// As many seeds of the simulation as one likes; the last line says what came of them.
fn sim(arguments: &[String]) -> anyhow::Result<()> {
    let mut all = vec!["run", "--quiet", "--release", "--package", "sim", "--"];
    all.extend(arguments.iter().map(String::as_str));
    cargo(&all, &[])
}

fn checks(only: Option<String>) -> anyhow::Result<()> {
    if let Some(name) = &only {
        ensure!(CHECKS.iter().any(|(known, _)| known == name), "no check `{name}`");
    }
    let mut failed = Vec::new();
    for (name, check) in CHECKS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        match check() {
            Ok(()) => eprintln!("{name}: ok"),
            Err(error) => {
                eprintln!("{name}: {error}");
                failed.push(*name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Readers, writers and faults over real processes; the last line sums up.
fn chaos(arguments: &[String]) -> anyhow::Result<()> {
    let program = ["run", "--quiet", "--package", "e2e", "--bin", "chaos", "--"];
    let arguments: Vec<&str> = program.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    cargo(&arguments, &[])
}

/// Prefetches while processes are killed, round by round; the last line sums up.
fn soak(arguments: &[String]) -> anyhow::Result<()> {
    let program = ["run", "--quiet", "--package", "e2e", "--bin", "soak", "--"];
    let arguments: Vec<&str> = program.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    cargo(&arguments, &[])
}

fn fmt() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"], &[])
}

fn clippy() -> anyhow::Result<()> {
    cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"], &[])
}

fn docs() -> anyhow::Result<()> {
    cargo(
        &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"],
        &[("RUSTDOCFLAGS", "--deny warnings")],
    )
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(arguments).envs(environment.iter().copied());
    let status = command.status().context("start cargo")?;
    ensure!(status.success(), "cargo {}", arguments.join(" "));
    Ok(())
}

/// What `cargo metadata` says.
fn metadata(arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let output =
        Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).args(arguments).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
