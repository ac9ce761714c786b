//! The measured servers, and the origin behind them: each on processor 0 with one worker, with its cache in memory if
//! possible.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bench::api::Http;
use bench::family;
use e2e::stage::DOMAIN;
use e2e::{Process, eventually, free_port};
use futures_util::StreamExt;

/// Peers over HTTP/1.1, and those that speak HTTP/2 without TLS.
pub(crate) const ALL: [&str; 4] = ["nginx", "varnish", "haproxy", "trafficserver"];
pub(crate) const HTTP2: [&str; 3] = ["nginx", "varnish", "haproxy"];

/// Maximum number of requests per connection that every server answers, and concurrent connections while a cache is
/// warmed.
const REQUESTS_A_CONNECTION: usize = 500;
const CONNECTIONS_AT_ONCE: usize = 20;

/// Object sizes of the origin.
const SIZES: [usize; 5] = [1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20];

/// The protocol between clients and servers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// The path prefix of objects of a size; a number follows.
pub(crate) fn path(bytes: usize) -> String {
    format!("/o/{bytes}/")
}

/// A measured server.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pid: u32,
    process: Option<Process>,
    speaks: Speaks,
}

/// nginx serving files, on the client's processor.
pub(crate) struct Origin {
    pub(crate) port: u16,
    _process: Process,
}

impl Origin {
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Origin> {
        let folder = folder.join("origin");
        let files = folder.join("files");
        std::fs::create_dir_all(&files)?;
        for bytes in SIZES {
            // Not all the same, and compression is never requested.
            let body: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
            std::fs::write(files.join(format!("{bytes}.bin")), body)?;
        }
        let port = free_port();
        let process = configured("nginx", &folder, "origin.conf", port, 0, "", "1", |command, configuration| {
            command.arg("-p").arg(&folder).arg("-c").arg(configuration);
        })?;
        answers("the origin", port).await;
        Ok(Origin { port, _process: process })
    }
}

impl Target {
    /// Our node, which is already running.
    pub(crate) fn ours(port: u16, pid: u32) -> Target {
        // It detects the protocol from the first bytes, so none has to be given.
        Target { name: "warmfront", port, pid, process: None, speaks: Speaks::Http1 }
    }

    /// Whether it is our node.
    pub(crate) fn is_ours(&self) -> bool {
        self.process.is_none()
    }

    /// Starts the peer `name`.
    pub(crate) async fn start(
        name: &'static str,
        folder: &Path,
        origin: u16,
        speaks: Speaks,
    ) -> anyhow::Result<Target> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let port = free_port();
        let http2 = match (name, speaks) {
            ("nginx", Speaks::Http2) => "http2",
            ("haproxy", Speaks::Http2) => "proto h2",
            _ => "",
        };
        let process = match name {
            "nginx" => configured(name, &folder, "nginx.conf", port, origin, http2, "0", |command, configuration| {
                command.arg("-p").arg(&folder).arg("-c").arg(configuration);
            }),
            "haproxy" => {
                configured(name, &folder, "haproxy.cfg", port, origin, http2, "0", |command, configuration| {
                    command.arg("-f").arg(configuration);
                })
            }
            "varnish" => configured("varnishd", &folder, "varnish.vcl", port, origin, "", "0", |command, vcl| {
                command.args(["-F", "-j", "none", "-n"]).arg(folder.join("run"));
                command.args(["-a", &format!("127.0.0.1:{port},HTTP"), "-f"]).arg(vcl);
                command.args(["-s", "malloc,6G", "-p", "thread_pools=1", "-p", "thread_pool_min=100"]);
                if speaks == Speaks::Http2 {
                    command.args(["-p", "feature=+http2"]);
                }
            }),
            "trafficserver" => traffic_server(&folder, port, origin),
            _ => bail!("no peer is called {name}"),
        };
        let process = process.with_context(|| format!("{name} is needed (apt-get install {name})"))?;
        match speaks {
            Speaks::Http1 => answers(name, port).await,
            Speaks::Http2 => {
                let what = format!("{name} listens");
                eventually(&what, || async { Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await?) }).await;
            }
        }
        for pid in family(process.id()) {
            pin(pid, "0")?;
        }
        Ok(Target { name, port, pid: process.id(), process: Some(process), speaks })
    }

    /// CPU time of the server and all its children.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        family(self.pid).into_iter().map(bench::processor_time).sum()
    }

    /// Memory of the server and all its children, in bytes; shared memory is counted once.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in family(self.pid) {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = text.lines().find(|line| line.starts_with("Pss:")).context("Pss of a process")?;
            let kilobytes: u64 = line.split_whitespace().nth(1).context("a figure")?.parse()?;
            sum += kilobytes << 10;
        }
        Ok(sum)
    }

    /// Brings objects into its cache, and checks that they are there.
    pub(crate) async fn warm(&self, bytes: usize, objects: usize) -> anyhow::Result<()> {
        if self.speaks == Speaks::Http2 && self.name != "varnish" {
            // These accept HTTP/2 only; the first request is the miss.
            return Ok(());
        }
        let path = path(bytes);
        let warmed = (0..objects).step_by(REQUESTS_A_CONNECTION).map(|first| {
            let path = &path;
            async move {
                let mut http = Http::connect(self.port).await?;
                for number in first..objects.min(first + REQUESTS_A_CONNECTION) {
                    let path = format!("{path}{number}");
                    // Some occasionally close a connection in the middle of a miss.
                    if http.get(DOMAIN, &path).await.is_err() {
                        http = Http::connect(self.port).await?;
                        http.get(DOMAIN, &path).await?;
                    }
                }
                anyhow::Ok(())
            }
        });
        // Several at once, as some servers are slow with each.
        let mut warmed = futures_util::stream::iter(warmed).buffer_unordered(CONNECTIONS_AT_ONCE);
        while let Some(ended) = warmed.next().await {
            ended?;
        }
        let mut http = Http::connect(self.port).await?;
        let looked_at = [0, objects / 2, objects - 1];
        for number in looked_at {
            let (status, headers, body) = http.get(DOMAIN, &format!("{path}{number}")).await?;
            ensure!(status.is_success() && body.len() == bytes, "{status}, {} bytes", body.len());
            let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let hit = said("x-cache").contains("HIT") || headers.contains_key("age") || said("via").contains("[uScHs");
            ensure!(hit, "not a hit: {headers:?}");
        }
        Ok(())
    }
}

/// Starts `program` on a processor with a configuration made from a template.
#[expect(clippy::too_many_arguments, reason = "one call a peer, each argument a different thing")]
fn configured(
    program: &str,
    folder: &Path,
    template: &str,
    port: u16,
    origin: u16,
    http2: &str,
    processor: &str,
    arguments: impl FnOnce(&mut Command, &Path),
) -> anyhow::Result<Process> {
    std::fs::create_dir_all(folder.join("tmp"))?;
    let text = std::fs::read_to_string(e2e::workspace().join("bench/peers").join(template))?;
    let text = text
        .replace("@FOLDER@", &folder.display().to_string())
        .replace("@PORT@", &port.to_string())
        .replace("@ORIGIN@", &origin.to_string())
        .replace("@HTTP2@", http2);
    let configuration = folder.join(template);
    std::fs::write(&configuration, text)?;
    // Some run their workers as another user.
    ensure!(
        Command::new("chmod").args(["-R", "a+rwX"]).arg(folder).status()?.success(),
        "chmod of {}",
        folder.display()
    );
    let mut command = Command::new("taskset");
    command.args(["-c", processor, program]).env("PATH", path_with_sbin());
    arguments(&mut command, &configuration);
    Process::start(&mut command, &folder.join(format!("{template}.log")))
}

/// Traffic Server needs a directory tree of its own, and its threads pinned after the start.
fn traffic_server(folder: &Path, port: u16, origin: u16) -> anyhow::Result<Process> {
    let listed = Command::new("dpkg").args(["-L", "trafficserver"]).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let parent = |suffix: &str| -> anyhow::Result<String> {
        let found = listed.lines().find(|line| line.ends_with(suffix)).with_context(|| suffix.to_owned())?;
        Ok(Path::new(found).parent().context("a folder")?.display().to_string())
    };
    let (plugins, defaults) = (parent("/generator.so")?, parent("/records.config")?);
    for name in ["etc/body_factory/default", "data", "var", "run", "log", "store"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let at = folder.display();
    let copied = Command::new("cp").arg("-r").arg(format!("{defaults}/.")).arg(folder.join("etc")).status()?;
    ensure!(copied.success(), "cp of {defaults}");
    let root = format!(
        "prefix: {at}\nexec_prefix: {at}\nbindir: /usr/bin\nsbindir: /usr/bin\nsysconfdir: {at}/etc\ndatadir: {at}/data\n\
         includedir: {at}\nlibdir: {plugins}\nlibexecdir: {plugins}\nlocalstatedir: {at}/var\nruntimedir: {at}/run\n\
         logdir: {at}/log\ncachedir: {at}/store\n"
    );
    std::fs::write(folder.join("runroot.yaml"), root)?;
    std::fs::write(folder.join("etc/storage.config"), format!("{at}/store 8G\n"))?;
    std::fs::write(folder.join("etc/remap.config"), format!("map / http://127.0.0.1:{origin}/\n"))?;
    std::fs::write(folder.join("etc/plugin.config"), "")?;
    configured("traffic_server", folder, "trafficserver.config", port, origin, "", "0", |command, configuration| {
        let _ = std::fs::copy(configuration, folder.join("etc/records.config"));
        command.current_dir(folder).env("TS_RUNROOT", folder);
    })
}

fn path_with_sbin() -> std::ffi::OsString {
    #[allow(clippy::disallowed_methods, reason = "where programs are is the machine's affair")]
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin");
    path
}

async fn answers(name: &str, port: u16) {
    eventually(&format!("{name} answers"), || async {
        Http::connect(port).await?.get(DOMAIN, &format!("{}0", path(1024))).await
    })
    .await;
}

/// Pins a process with all its threads to a processor.
pub(crate) fn pin(pid: u32, processor: &str) -> anyhow::Result<()> {
    let done = Command::new("taskset").args(["-acp", processor, &pid.to_string()]).stdout(Stdio::null()).status()?;
    ensure!(done.success(), "taskset of {pid}");
    Ok(())
}
