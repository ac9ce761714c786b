//! Test scenarios with real processes: `warmfront control`, `warmfront node`, nginx as the origin, and the vendor's own
//! SDKs as clients, all on loopback and in one temporary folder.
//!
//! # What always holds
//!
//! - Everything a scenario starts ends with it, by process id, even if it panics.
//! - A missing program is a failure that says how to install it, never a skipped test.
//! - Nothing sleeps in hope: [`eventually`] retries until a deadline, and then reports the last error.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

pub mod authority;
pub mod film;
pub mod fresh;
pub mod http;
pub mod knee;
pub mod nginx;
pub mod sdk;
pub mod soak;
pub mod stage;

/// How long a scenario waits for something that should happen within seconds even on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/e2e lies two folders deep").to_path_buf()
}

/// The program under test, built once per test process with the profile of the tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let release = !cfg!(debug_assertions);
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(workspace()).args(["build", "--quiet", "--package", "warmfront"]);
        if release {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the program does not build");
        let own = std::env::current_exe().expect("a program has a path");
        // Tests are in target/PROFILE/deps, benchmarks in target/PROFILE.
        let mut folder = own.parent().expect("a program lies in a folder");
        if folder.ends_with("deps") {
            folder = folder.parent().expect("deps lies in a folder");
        }
        folder.join("warmfront")
    })
}

/// Size of the block of ports that a test process reserves, by being the first to mark it.
const BLOCK: u16 = 400;
const BLOCKS: u16 = 47;
const FIRST_PORT: u16 = 12_000;

/// A port that is neither an ephemeral port nor used by another test process, so that a process can be restarted on it.
/// All are below the system's ephemeral range.
pub fn free_port() -> u16 {
    static TAKEN: OnceLock<(TcpListener, u16)> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let bind = |port: u16| TcpListener::bind(("127.0.0.1", port)).ok();
    let (_, first) = TAKEN.get_or_init(|| {
        let start = (std::process::id() % u32::from(BLOCKS)) as u16;
        let mut firsts = (0..BLOCKS).map(|block| FIRST_PORT + (start + block) % BLOCKS * BLOCK);
        firsts.find_map(|first| Some((bind(first)?, first))).expect("fewer processes of tests than blocks of ports")
    });
    loop {
        let port = first + 1 + NEXT.fetch_add(1, Ordering::Relaxed) % (BLOCK - 1);
        if bind(port).is_some() {
            return port;
        }
    }
}

/// Retries `what` until it returns `Ok`, for at most [`PATIENCE`]; then panics with its last error.
pub async fn eventually<T, F>(name: &str, mut what: impl FnMut() -> F) -> T
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match what().await {
            Ok(value) => return value,
            Err(error) if tokio::time::Instant::now() >= deadline => panic!("{name}: {error:#}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A process that ends when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The file with its output.
    pub log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        let out = File::options().create(true).append(true).open(log).context("open the log of a process")?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Process { child, log: log.to_path_buf() })
    }

    /// Kills it, as in a power failure, and waits until it is gone.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Terminates it, and returns whether it ended successfully within [`PATIENCE`].
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "kill -TERM {pid}");
        self.ended_well()
    }

    /// Waits until it has ended, within [`PATIENCE`], and returns whether successfully.
    pub fn ended_well(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "ended with {status}:\n{}", self.tail());
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("still runs:\n{}", self.tail())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    /// Terminated first, so that it can end what it started.
    fn drop(&mut self) {
        if self.runs() {
            let _ = Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
            for _ in 0..250 {
                if !self.runs() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.kill9();
    }
}

/// Runs the program as a user would, and returns its JSON output.
pub fn warmfront(args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Value> {
    let output = Command::new(binary())
        .args(args)
        .args(["--output", "json"])
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .context("run warmfront")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "warmfront {args:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("warmfront {args:?} printed {text:?}"))
}
