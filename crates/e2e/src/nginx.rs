//! nginx as the origin: real files, and a log of every GET as evidence.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::authority::Pair;
use crate::{Process, free_port};

/// An nginx serving a folder.
#[derive(Debug)]
pub struct Nginx {
    process: Option<Process>,
    /// Where it listens on loopback.
    pub port: u16,
    /// The folder it serves.
    pub files: PathBuf,
    dir: PathBuf,
}

impl Nginx {
    /// Starts nginx in `dir`, serving `dir/files` with validators and `Cache-Control: max-age=3600`. Files in
    /// `/tagged/NAME/` have the tags `all` and NAME; those in `/slow/` are sent at half a megabyte per second, in
    /// `/steady/` at four; those in `/packed/` vary by encoding if there is a `.gz` file beside them, and those in
    /// `/zipped/` are compressed on request.
    pub fn start(dir: &Path) -> anyhow::Result<Nginx> {
        Nginx::start_with(dir, None)
    }

    /// As [`Nginx::start`], by TLS with this certificate.
    pub fn start_tls(dir: &Path, shown: &Pair) -> anyhow::Result<Nginx> {
        Nginx::start_with(dir, Some(shown))
    }

    fn start_with(dir: &Path, shown: Option<&Pair>) -> anyhow::Result<Nginx> {
        let files = dir.join("files");
        std::fs::create_dir_all(&files)?;
        // nginx's user must be able to enter these.
        for folder in [dir, &files] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        }
        let port = free_port();
        let tls =
            shown.map(|Pair { cert, key, .. }| format!(" ssl; ssl_certificate {cert}; ssl_certificate_key {key}"));
        // A single process, so that killing it kills all of nginx.
        std::fs::write(
            dir.join("nginx.conf"),
            format!(
                "master_process off;\ndaemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\nevents {{ worker_connections 1024; }}\n\
                 http {{\n  log_format witness '$request_method $request_uri $status $body_bytes_sent $host $ssl_server_name';\n  access_log {dir}/access.log witness;\n\
                 client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
                 sendfile on; keepalive_requests 100000;\n\
                 server {{ listen 127.0.0.1:{port}{tls}; root {files}; default_type application/octet-stream;\n\
                 location / {{ add_header Cache-Control max-age=3600; }}\n\
                 location ~ ^/tagged/([a-z]+)/ {{ add_header Cache-Control max-age=3600; add_header Cache-Tag \"all, $1\"; }}\n\
                 location /slow/ {{ add_header Cache-Control max-age=3600; limit_rate 512k; }}\n\
                 location /steady/ {{ add_header Cache-Control max-age=3600; limit_rate 4m; }}\n\
                 location /packed/ {{ add_header Cache-Control max-age=3600; gzip_static on; gzip_vary on; gzip_proxied any; }}\n\
                 location /zipped/ {{ add_header Cache-Control max-age=3600; gzip on; gzip_vary on; gzip_proxied any; gzip_types *; }}\n\
                 location /private/ {{ add_header Cache-Control no-store; }} }}\n}}\n",
                dir = dir.display(),
                tls = tls.unwrap_or_default(),
                files = files.display(),
            ),
        )?;
        let mut nginx = Nginx { process: None, port, files, dir: dir.to_owned() };
        nginx.start_again()?;
        Ok(nginx)
    }

    /// Starts it again in its folder; it must not be running.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("nginx");
        command.arg("-c").arg(self.dir.join("nginx.conf")).arg("-e").arg(self.dir.join("error.log"));
        let process = Process::start(&mut command, &self.dir.join("nginx.out"))
            .context("nginx is needed for this test; ./test installs it (apt-get install nginx-light)")?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it, as in a power failure.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Writes a file of `bytes` bytes that depend on its name, and returns them.
    pub fn write(&self, name: &str, bytes: usize) -> anyhow::Result<Vec<u8>> {
        let body = pattern(name, bytes);
        self.write_bytes(name, &body)?;
        Ok(body)
    }

    /// As [`Nginx::write`], but keeps an existing file of that length.
    pub fn write_once(&self, name: &str, bytes: usize) -> anyhow::Result<Vec<u8>> {
        match std::fs::metadata(self.files.join(name.trim_start_matches('/'))) {
            Ok(there) if there.len() == bytes as u64 => Ok(pattern(name, bytes)),
            _ => self.write(name, bytes),
        }
    }

    /// Writes a file.
    pub fn write_bytes(&self, name: &str, body: &[u8]) -> anyhow::Result<()> {
        let path = self.files.join(name.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        std::fs::write(path, body)?;
        Ok(())
    }

    /// Replaces a file, with a new modification time; responses in progress continue with the old file.
    pub fn replace(&self, name: &str, body: &[u8]) -> anyhow::Result<()> {
        let path = self.files.join(name.trim_start_matches('/'));
        let before = std::fs::metadata(&path)?.modified()?;
        let new = path.with_extension("new");
        std::fs::write(&new, body)?;
        // nginx derives validators from the time in seconds and the length.
        File::options().append(true).open(&new)?.set_modified(before + Duration::from_secs(1))?;
        Ok(std::fs::rename(new, path)?)
    }

    /// All GETs so far: how often each path was answered with a body.
    pub fn gets(&self) -> anyhow::Result<BTreeMap<String, usize>> {
        let mut gets = BTreeMap::new();
        for got in self.log()? {
            *gets.entry(got.path).or_default() += 1;
        }
        Ok(gets)
    }

    /// All answers with a body to GETs, ordered by their ends.
    pub fn log(&self) -> anyhow::Result<Vec<Got>> {
        let mut log = Vec::new();
        for line in std::fs::read_to_string(self.dir.join("access.log"))?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["GET", path, "200" | "206", bytes, host, sni] = words[..] {
                let (path, host, sni) = (path.to_owned(), host.to_owned(), sni.to_owned());
                log.push(Got { path, bytes: bytes.parse()?, host, sni });
            }
        }
        Ok(log)
    }

    /// Status and body size of all answers, ordered by their ends.
    pub fn answers(&self) -> anyhow::Result<Vec<(u16, u64)>> {
        let log = std::fs::read_to_string(self.dir.join("access.log"))?;
        let answer = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [_, _, status, bytes, ..] => Ok((status.parse()?, bytes.parse()?)),
                _ => bail!("not a line of the log: {line}"),
            }
        };
        log.lines().map(answer).collect()
    }

    /// Stops it.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.terminate())
    }
}

/// An answer with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// Path with query.
    pub path: String,
    /// Number of body bytes sent.
    pub bytes: u64,
    /// The requested host.
    pub host: String,
    /// The server name in the TLS handshake; `-` if none.
    pub sni: String,
}

/// Bytes that differ between names and do not compress.
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
