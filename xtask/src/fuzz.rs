//! `cargo xtask fuzz --secs N [--only TARGET]`: runs every fuzz target in turn, and prints a table of the results.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Memory limit of a target, in MiB; exceeding it is a failure.
const MEMORY_MIB: u32 = 2048;

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (secs, only) = match arguments {
        [flag, secs] if flag == "--secs" => (secs.parse::<u64>()?, None),
        [flag, secs, other, only] if flag == "--secs" && other == "--only" => (secs.parse()?, Some(only.as_str())),
        _ => bail!("expected: cargo xtask fuzz --secs N [--only TARGET]"),
    };
    let listed = Command::new("cargo").args(["fuzz", "list"]).output().context("start cargo")?;
    ensure!(listed.status.success(), "cargo fuzz: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let listed = String::from_utf8(listed.stdout)?;
    let targets: Vec<&str> = listed.lines().filter(|target| only.is_none_or(|only| only == *target)).collect();
    ensure!(!targets.is_empty(), "no target of that name; there are: {}", listed.replace('\n', " "));
    let mut rows = Vec::new();
    for target in targets {
        rows.push(one(target, secs)?);
    }
    eprintln!("| target | executions | seconds | failed |\n|---|---|---|---|\n{}", rows.join("\n"));
    ensure!(!rows.iter().any(|row| row.ends_with("yes |")), "see fuzz/artifacts");
    Ok(())
}

/// Runs a target; returns its row of the table.
fn one(target: &str, secs: u64) -> anyhow::Result<String> {
    let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    std::fs::create_dir_all(&corpus)?;
    // Our code has no unsafe code for a sanitizer to check, so any toolchain will do.
    let mut command = Command::new("cargo");
    command.args(["fuzz", "run", "--sanitizer", "none", target, &corpus, &seeds, "--"]);
    command.args(["-dict=fuzz/words.dict"]);
    command.args([format!("-max_total_time={secs}"), format!("-rss_limit_mb={MEMORY_MIB}")]);
    let mut running = command.stderr(Stdio::piped()).spawn().context("start cargo")?;
    let (mut executions, mut took) = (String::new(), String::new());
    for line in BufReader::new(running.stderr.take().context("its output")?).lines() {
        let line = line?;
        eprintln!("{line}");
        // `Done 12345 runs in 600 second(s)`, unless it failed.
        if let ["Done", runs, "runs", "in", seconds, ..] = line.split(' ').collect::<Vec<_>>().as_slice() {
            (executions, took) = ((*runs).to_owned(), (*seconds).to_owned());
        }
    }
    let failed = if running.wait()?.success() { "no" } else { "yes" };
    Ok(format!("| {target} | {executions} | {took} | {failed} |"))
}
