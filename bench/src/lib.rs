//! Shared parts of the benchmarks: clients, simulated members, CPU time of processes, statistics.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

pub mod api;
pub mod members;

/// CPU time, user and system, of the process `pid` and its reaped children.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The program name is in parentheses and may contain spaces; fields 14 to 17 are counted from the second field
    // after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux counts in hundredths of a second on every platform we run on (USER_HZ).
    Ok(Duration::from_millis(ticks * 10))
}

/// A process and all its living descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

/// Idle time of all processors together since the machine started.
pub fn idle_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("processor times of the machine")?;
    // The first line is the sum over all processors; its fourth number is the idle time.
    let idle = stat.split_whitespace().nth(4).context("idle time")?;
    Ok(Duration::from_millis(idle.parse::<u64>()? * 10))
}

/// Memory of a process, and its peak since the start or since the last [`forget_peak`].
#[derive(Clone, Copy)]
pub struct Memory {
    /// `VmRSS`, in bytes.
    pub resident: u64,
    /// `VmHWM`, in bytes.
    pub peak: u64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(f, "{:>7.1} MiB, {:>7.1} at its peak", mib(self.resident), mib(self.peak))
    }
}

/// Memory of the process `pid`.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let of = |name: &str| {
        let kib =
            status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok::<u64, anyhow::Error>(kib.with_context(|| format!("{name} in {status}"))? << 10)
    };
    Ok(Memory { resident: of("VmRSS:")?, peak: of("VmHWM:")? })
}

/// Resets the peak of the process `pid` to its current memory.
pub fn forget_peak(pid: u32) -> anyhow::Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("peak of process {pid}"))
}

/// Single-row commits per second by SQLite itself, measured for a while: `journal_mode=WAL, synchronous=FULL`.
pub fn raw_commits(folder: &Path, seconds: Duration) -> anyhow::Result<f64> {
    let script = "import sqlite3,sys,time\n\
        c=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
        c.execute('PRAGMA journal_mode=WAL');c.execute('PRAGMA synchronous=FULL')\n\
        c.execute('CREATE TABLE IF NOT EXISTS t (a TEXT)')\n\
        x='x'*4000;n=0;e=time.monotonic()+float(sys.argv[2])\n\
        while time.monotonic()<e:\n c.execute('INSERT INTO t VALUES (?)',(x,));n+=1\n\
        print(n)";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(folder.join("raw.db"))
        .arg(seconds.as_secs_f64().to_string())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
    Ok(rows / seconds.as_secs_f64())
}

/// The median of a non-empty list of measurements.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The distribution of durations.
pub struct Spread(Vec<Duration>);

impl Spread {
    /// Of at least one duration.
    pub fn of(mut figures: Vec<Duration>) -> Spread {
        figures.sort();
        Spread(figures)
    }

    /// The given percentile.
    pub fn at(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (p50, p99, max) = (ms(self.at(50)), ms(self.at(99)), ms(self.at(100)));
        write!(f, "p50 {p50:>8.3} ms  p99 {p99:>8.3} ms  max {max:>8.3} ms  ({} of them)", self.0.len())
    }
}
