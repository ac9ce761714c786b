//! A PostgreSQL server of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use control::StateUrl;
use tempfile::TempDir;

pub(crate) struct Postgres {
    process: Child,
    _dir: TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: a fast shutdown. A server of this test that does not go is killed.
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

/// Programs of PostgreSQL, the newest version that is installed.
fn postgres_bin() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed (./test does it)")
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().expect("PostgreSQL's server is installed (./test does it)")
}

/// A command that runs as an ordinary user: the server refuses to run as root.
fn as_user(program: &Path) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

/// A server on a Unix socket alone, and the address of its database.
pub(crate) fn start() -> (Postgres, StateUrl) {
    let bin = postgres_bin();
    let dir = TempDir::new_in("/tmp").unwrap();
    let _ = Command::new("chown").arg("postgres").arg(dir.path()).status();
    let data = dir.path().join("data");
    let made = as_user(&bin.join("initdb"))
        .args(["--auth", "trust", "--username", "warmfront", "--no-sync", "--pgdata"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = as_user(&bin.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}"), "-c", "unix_socket_directories="])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = StateUrl::parse(&format!("postgres://warmfront@127.0.0.1:{port}/postgres")).unwrap();
    (Postgres { process, _dir: dir }, url)
}
