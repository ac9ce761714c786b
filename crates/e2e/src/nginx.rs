//! nginx as the origin: real files, and a log that is the witness of every GET.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::{Process, free_port};

/// An nginx that serves a folder.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    /// Where it listens on loopback.
    pub port: u16,
    /// What it serves.
    pub files: PathBuf,
    log: PathBuf,
}

impl Nginx {
    /// Starts nginx in `dir`, serving `dir/files` with validators and `Cache-Control: max-age=3600`; what lies under
    /// `/tagged/NAME/` has the tags `all` and NAME.
    pub fn start(dir: &Path) -> anyhow::Result<Nginx> {
        let files = dir.join("files");
        std::fs::create_dir_all(&files)?;
        // The workers of an nginx started by root run as another user.
        for folder in [dir, &files] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        }
        let port = free_port();
        let log = dir.join("access.log");
        let configuration = dir.join("nginx.conf");
        std::fs::write(
            &configuration,
            format!(
                "worker_processes 1;\ndaemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 1024; }}\n\
                 http {{\n  log_format witness '$request_method $request_uri $status $body_bytes_sent';\n  access_log {log} witness;\n\
                 client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
                 sendfile on; keepalive_requests 100000;\n\
                 server {{ listen 127.0.0.1:{port}; root {files}; default_type application/octet-stream;\n\
                 location / {{ add_header Cache-Control max-age=3600; }}\n\
                 location ~ ^/tagged/([a-z]+)/ {{ add_header Cache-Control max-age=3600; add_header Cache-Tag \"all, $1\"; }}\n\
                 location /private/ {{ add_header Cache-Control no-store; }} }}\n}}\n",
                dir = dir.display(),
                log = log.display(),
                files = files.display(),
            ),
        )?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&configuration).arg("-e").arg(dir.join("error.log"));
        let process = Process::start(&mut command, &dir.join("nginx.out"))
            .context("nginx is needed for this test; ./test installs it (apt-get install nginx-light)")?;
        Ok(Nginx { process, port, files, log })
    }

    /// Writes a file of `bytes` that differ by name, and returns them.
    pub fn write(&self, name: &str, bytes: usize) -> anyhow::Result<Vec<u8>> {
        let body = pattern(name, bytes);
        self.write_bytes(name, &body)?;
        Ok(body)
    }

    /// Writes a file.
    pub fn write_bytes(&self, name: &str, body: &[u8]) -> anyhow::Result<()> {
        let path = self.files.join(name.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(path, body)?;
        Ok(())
    }

    /// Every GET so far: how many times each path was answered with a body.
    pub fn gets(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let mut gets = BTreeMap::new();
        for line in std::fs::read_to_string(&self.log)?.lines() {
            let mut words = line.split(' ');
            if let (Some("GET"), Some(path), Some("200" | "206")) = (words.next(), words.next(), words.next()) {
                *gets.entry(path.to_owned()).or_default() += 1;
            }
        }
        Ok(gets)
    }

    /// Stops it.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate()
    }
}

/// Bytes that no two names share and no compression helps with.
pub fn pattern(name: &str, bytes: usize) -> Vec<u8> {
    let mut state = name
        .bytes()
        .fold(0x9E37_79B9_7F4A_7C15_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    let mut body = Vec::with_capacity(bytes + 8);
    while body.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(bytes);
    body
}
