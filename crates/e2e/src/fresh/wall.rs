//! A wall clock of its own for a process, by libfaketime, which reads how far it is off from a file: a test can step it while
//! the process runs. The monotonic clocks are left alone; leases are counted on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

/// A wall clock.
#[derive(Debug)]
pub struct Wall {
    file: PathBuf,
}

impl Wall {
    /// A clock that is `ahead_secs` ahead of the machine's; what it shows is kept in `file`.
    pub fn new(file: PathBuf, ahead_secs: i64) -> anyhow::Result<Wall> {
        let wall = Wall { file };
        wall.set(ahead_secs)?;
        Ok(wall)
    }

    /// Steps it to that many seconds ahead; whoever goes by it follows within a second.
    pub fn set(&self, ahead_secs: i64) -> anyhow::Result<()> {
        // Another file in its place: nobody reads half of one.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{ahead_secs:+}"))?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    /// Makes the process that `command` will start go by this clock.
    pub fn hang_in(&self, command: &mut Command) -> anyhow::Result<()> {
        command
            .env("LD_PRELOAD", library()?)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(())
    }
}

/// Removes what libfaketime leaves behind of a process that was not asked to end.
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
