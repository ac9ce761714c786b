//! Runs many seeds on every core; the last line of output is the result.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clap::Parser;
use sim::{Plan, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The real control plane and nodes in a simulated world.
#[derive(Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Runs one seed alone and shows what happened.
    #[arg(long)]
    replay: Option<u64>,
    /// With `--replay`: what the processes log, such as `debug` or `control=debug`.
    #[arg(long, requires = "replay")]
    log: Option<String>,
    /// How many seeds may break a promise before no more are run.
    #[arg(long, default_value_t = 20)]
    broken_max: u64,
    /// Threads; each runs seeds of its own.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Switches a line of the fence off, by its name.
    #[cfg(feature = "mistakes")]
    #[arg(long, value_parser = |name: &str| model::Mistake::named(name).ok_or("no such line of the fence"))]
    mistake: Option<model::Mistake>,
}

impl Args {
    fn mistake(&self) -> Option<model::Mistake> {
        #[cfg(feature = "mistakes")]
        return self.mistake;
        #[cfg(not(feature = "mistakes"))]
        None
    }
}

#[expect(clippy::print_stdout, reason = "a program that prints what it found")]
fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.replay {
        if let Some(log) = &args.log {
            tracing_subscriber::fmt().with_env_filter(log).without_time().with_writer(std::io::stderr).init();
        }
        let outcome = run(Plan { seed, mistake: args.mistake(), trace: true });
        for event in &outcome.events {
            println!("{event}");
        }
        println!(
            "seed {seed}: digest {:016x}, {} reads, {} refreshes",
            outcome.digest, outcome.reads, outcome.refreshes
        );
        for violation in &outcome.violations {
            println!("seed {seed}: {violation}");
        }
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let (next, violations) = (AtomicU64::new(args.first), AtomicU64::new(0));
    let (reads, refreshes, faults) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.first + args.seeds {
                        return;
                    }
                    let outcome = run(Plan { seed, mistake: args.mistake(), trace: false });
                    reads.fetch_add(outcome.reads, Ordering::Relaxed);
                    refreshes.fetch_add(outcome.refreshes, Ordering::Relaxed);
                    faults.fetch_add(outcome.faults, Ordering::Relaxed);
                    for violation in &outcome.violations {
                        println!("seed {seed}: {violation}");
                    }
                    if !outcome.violations.is_empty() {
                        violations.fetch_add(1, Ordering::Relaxed);
                    }
                    // A violation in every run need not be shown a thousand times.
                    stop.fetch_or(violations.load(Ordering::Relaxed) >= args.broken_max, Ordering::Relaxed);
                }
            });
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!("{} answers checked, {} refreshes, {} faults", count(&reads), count(&refreshes), count(&faults));
    let ran = (count(&next) - args.first).min(args.seeds);
    println!("{ran} seeds, {} violations", count(&violations));
    if count(&violations) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
