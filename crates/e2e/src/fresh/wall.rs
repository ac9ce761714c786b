//! A separate wall clock for a process, by libfaketime, which reads its offset from a file: a test can step the clock
//! while the process runs. The monotonic clocks, by which leases are counted, are unchanged.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// A wall clock.
#[derive(Debug)]
pub struct Wall {
    file: PathBuf,
}

impl Wall {
    /// A clock that is `ahead_secs` ahead of the machine's; its offset is stored in `file`.
    pub fn new(file: PathBuf, ahead_secs: i64) -> anyhow::Result<Wall> {
        let wall = Wall { file };
        wall.set(ahead_secs)?;
        Ok(wall)
    }

    /// Steps it to that many seconds ahead; processes follow within a second.
    pub fn set(&self, ahead_secs: i64) -> anyhow::Result<()> {
        // Replaces the file, so that nobody reads a partial one.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead_secs:+}"))?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    /// Makes the process that `command` will start use this clock.
    pub fn hang_in(&self, command: &mut Command) -> anyhow::Result<()> {
        command
            .env("LD_PRELOAD", library()?)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(())
    }
}

/// Removes what libfaketime leaves behind when a process is killed.
pub fn take_down(id: u32) {
    for name in [format!("sem.faketime_sem_{id}"), format!("faketime_shm_{id}")] {
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
    }
}

fn library() -> anyhow::Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")?.filter_map(Result::ok).map(|entry| entry.path());
    folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .context("libfaketime is needed for this test; ./test installs it (apt-get install libfaketime)")
}
