//! `cargo xtask check`: what a contributor runs before a commit, and `./test` before the tests. `cargo xtask sim`: more
//! seeds of the simulation than fit into a test. `cargo xtask chaos`: real processes under random faults, for any
//! length of time. `cargo xtask soak prefetch`: prefetches while processes are killed. `cargo xtask fuzz`: the fuzz
//! targets.

use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};

mod deny;
mod fuzz;
mod tidy;

type Check = (&'static str, fn() -> anyhow::Result<()>);

/// The fastest to fail first.
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

/// Runs any number of seeds of the simulation; the last line of output is the result.
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

/// Runs readers, writers and faults over real processes; the last line of output is the summary.
fn chaos(arguments: &[String]) -> anyhow::Result<()> {
    let program = ["run", "--quiet", "--package", "e2e", "--bin", "chaos", "--"];
    let arguments: Vec<&str> = program.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    cargo(&arguments, &[])
}

/// Runs prefetches while processes are killed, round by round; the last line of output is the summary.
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

/// The output of `cargo metadata`.
fn metadata(arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
    let output =
        Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).args(arguments).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
