//! A node process with its own wall clock, which can be killed, stopped, and deprived of its disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::wall::{self, Wall};
use crate::{Process, binary, eventually, http};

/// A node's position in the topology, and the error of its wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its name.
    pub name: &'static str,
    /// Its POP.
    pub pop: &'static str,
    /// Its tier.
    pub tier: &'static str,
    /// How far its wall clock is ahead, in seconds.
    pub ahead_secs: i64,
}

/// The ports of a node, all on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Its own listener.
    pub own: u16,
    /// Health and metrics.
    pub admin: u16,
    /// The address given to children: a relay.
    pub front: u16,
    /// The address of the control plane for it: a relay.
    pub link: u16,
}

/// A node.
#[derive(Debug)]
pub struct Member {
    /// Its position.
    pub place: Place,
    /// Its ports.
    pub ports: Ports,
    configuration: PathBuf,
    token_file: PathBuf,
    wall: Wall,
    disk: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Member {
    /// A node with its files in `root`, not yet running. `more` is added to its configuration.
    pub fn new(root: &Path, place: Place, ports: Ports, more: &str) -> anyhow::Result<Member> {
        let Place { name, pop, tier, ahead_secs } = place;
        let Ports { own, admin, front, link } = ports;
        let file = |end: &str| root.join(format!("{name}.{end}"));
        let (configuration, token_file, log) = (file("toml"), file("token"), file("log"));
        let disk = root.join(name);
        std::fs::write(
            &configuration,
            format!(
                "name = \"{name}\"\npop = \"{pop}\"\ntier = \"{tier}\"\nlisten = \"127.0.0.1:{own}\"\nadvertise_url = \"http://127.0.0.1:{front}\"\n\
                 admin_listen = \"127.0.0.1:{admin}\"\ncontrol_url = \"https://127.0.0.1:{link}\"\njoin_token_file = {token_file:?}\n{more}\n\
                 [memory]\ncapacity_bytes = 8388608\n\n[[disk]]\npath = {disk:?}\ncapacity_bytes = 1073741824\n",
            ),
        )?;
        let wall = Wall::new(file("clock"), ahead_secs)?;
        Ok(Member { place, ports, configuration, token_file, wall, disk, log, process: None })
    }

    /// Gives it a join token for its next join.
    pub fn invite(&self, token: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.token_file, token)?)
    }

    /// Starts the process, which must not be running.
    pub fn start(&mut self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.disk)?;
        let mut command = Command::new(binary());
        command.arg("node").arg("-c").arg(&self.configuration);
        self.wall.hang_in(&mut command)?;
        self.process = Some(Process::start(&mut command, &self.log)?);
        Ok(())
    }

    /// Starts the process unless it runs.
    pub fn ensure_runs(&mut self) -> anyhow::Result<()> {
        if self.process.as_mut().is_none_or(|process| !process.runs()) {
            self.start()?;
        }
        Ok(())
    }

    /// Kills it, as in a power failure.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
            wall::take_down(process.id());
        }
    }

    /// Deletes everything on its disk; it must not be running.
    pub fn wipe(&mut self) -> anyhow::Result<()> {
        Ok(std::fs::remove_dir_all(&self.disk)?)
    }

    /// Steps its wall clock to that many seconds ahead; it follows within a second.
    pub fn set_clock(&self, ahead_secs: i64) -> anyhow::Result<()> {
        self.wall.set(ahead_secs)
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        self.process.as_ref().map(Process::tail).unwrap_or_default()
    }

    /// Waits until it serves.
    pub async fn ready(&self) {
        let name = format!("{} is ready", self.place.name);
        eventually(&name, || async {
            let answer = http::get(self.ports.admin, "localhost", "/readyz", &[]).await?;
            ensure!(answer.status.is_success(), "{}: {}\n{}", answer.status, answer.text(), self.tail());
            Ok(())
        })
        .await;
    }

    /// A gauge or counter from its metrics.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let page = http::get(self.ports.admin, "localhost", "/metrics", &[]).await?.text();
        let line = page.lines().find(|line| line.split([' ', '{']).next().is_some_and(|word| word.ends_with(name)));
        let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("{name} in {page}"))?;
        Ok(value.parse()?)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Stops a process (SIGSTOP), and returns once all its threads stand still.
pub async fn stand_still(id: u32) -> anyhow::Result<()> {
    signal(id, "STOP")?;
    for _ in 0..2_000 {
        if stands_still(id)? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    anyhow::bail!("process {id} goes on after SIGSTOP")
}

/// Lets a stopped process continue.
pub fn go_on(id: u32) -> anyhow::Result<()> {
    signal(id, "CONT")
}

fn signal(id: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status()?;
    ensure!(status.success(), "kill -{name} {id}: {status}");
    Ok(())
}

fn stands_still(id: u32) -> anyhow::Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let stat = std::fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may contain anything.
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
        if !matches!(state, Some('T') | None) {
            return Ok(false);
        }
    }
    Ok(true)
}
