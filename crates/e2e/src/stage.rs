//! Two regions, two tiers: one `warmfront control` and four `warmfront node` processes around an nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::nginx::Nginx;
use crate::{Process, binary, eventually, free_port, http, warmfront};

/// The domain every stage serves.
pub const DOMAIN: &str = "www.example.com";

/// An access key.
#[derive(Debug, Clone)]
pub struct Key {
    /// The public part.
    pub id: String,
    /// The secret, shown only once.
    pub secret: String,
}

/// A node process.
#[derive(Debug)]
pub struct Node {
    /// Its name, `POP-TIER`.
    pub name: String,
    /// Its loopback port for users and children.
    pub port: u16,
    /// Health and metrics.
    pub admin_port: u16,
    configuration: PathBuf,
    process: Option<Process>,
    log: PathBuf,
}

impl Node {
    /// Starts the process, which must not be running.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_by(&[])
    }

    /// As [`Node::start`], through a launcher program that finally executes the node.
    pub fn start_by(&mut self, launcher: &[&str]) -> anyhow::Result<()> {
        let mut command = match launcher {
            [] => Command::new(binary()),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary());
                command
            }
        };
        command.arg("node").arg("-c").arg(&self.configuration);
        self.process = Some(Process::start(&mut command, &self.log)?);
        Ok(())
    }

    /// Adds lines to its configuration, which take effect at its next start.
    pub fn configure(&self, lines: &str) -> anyhow::Result<()> {
        // At the top: after a table they would belong to it.
        self.reconfigure(|text| format!("{lines}{text}"))
    }

    /// Changes its configuration, which takes effect at its next start.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        Ok(std::fs::write(&self.configuration, change(std::fs::read_to_string(&self.configuration)?))?)
    }

    /// Sets the sizes of its memory tier and disk in bytes, which take effect at its next start.
    pub fn resize(&self, memory_bytes: u64, disk_bytes: u64) -> anyhow::Result<()> {
        let bytes = |line: &str, table: &str| match line.split_once(" = ") {
            Some(("capacity_bytes", _)) if table == "[memory]" => format!("capacity_bytes = {memory_bytes}"),
            Some(("capacity_bytes", _)) => format!("capacity_bytes = {disk_bytes}"),
            _ => line.to_owned(),
        };
        self.reconfigure(|text| {
            let mut table = "";
            let mut lines = String::new();
            for line in text.lines() {
                table = if line.starts_with('[') { line } else { table };
                lines.push_str(&bytes(line, table));
                lines.push('\n');
            }
            lines
        })
    }

    /// Terminates it, waits until it has ended, starts it again and waits until it serves.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.terminate()?;
        self.start()?;
        self.ready().await;
        Ok(())
    }

    /// Ends it, changes its configuration, and starts it restricted to one processor.
    pub fn restart_on(&mut self, processor: &str, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        self.process = None;
        self.reconfigure(change)?;
        self.start_by(&["taskset", "-c", processor])
    }

    /// Kills it, as in a power failure.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Its process, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// A value from its metrics, by the name after `warmfront_node_`.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let page = http::get(self.admin_port, "localhost", "/metrics", &[]).await?.text();
        let value =
            page.lines().find_map(|line| line.strip_prefix("warmfront_node_")?.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).with_context(|| format!("{name} in {page}"))
    }

    /// Waits until it has no running fetch.
    pub async fn settled(&self) {
        let name = format!("no fetch runs on {}", self.name);
        eventually(&name, || async {
            let running = self.metric("fills_running").await?;
            ensure!(running == 0, "{running}");
            Ok(())
        })
        .await;
    }

    /// Resident memory of its process in bytes (`VmRSS`).
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.process.as_ref().context("it runs")?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("VmRSS in {status}"))? << 10)
    }

    /// Waits until it serves.
    pub async fn ready(&self) {
        let name = format!("{} is ready", self.name);
        eventually(&name, || async {
            let answer = http::get(self.admin_port, "localhost", "/readyz", &[]).await?;
            ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
            Ok(())
        })
        .await;
    }
}

/// Everything a scenario needs.
#[derive(Debug)]
pub struct Stage {
    /// The loopback port of the control plane's API.
    pub api_port: u16,
    /// The loopback port of the link.
    pub link_port: u16,
    /// A key of the account `test`.
    pub key: Key,
    /// cn-1-l1, cn-1-l2, eu-1-l1, eu-1-l2; with one root, the nodes that [`Stage::with_one_root`] lists.
    pub nodes: Vec<Node>,
    /// The control plane's database, `sqlite:PATH`.
    pub state: String,
    control: Option<Process>,
    configuration: PathBuf,
    dir: TempDir,
}

/// A client with the stage's access key.
#[derive(Debug, Clone)]
pub struct Client {
    api_port: u16,
    key: Key,
}

impl Client {
    /// Runs a client command of the program.
    pub async fn cli(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let endpoint = format!("http://127.0.0.1:{}", self.api_port);
        let key = self.key.clone();
        tokio::task::spawn_blocking(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            warmfront(
                &args,
                &[
                    ("WARMFRONT_ENDPOINT", &endpoint),
                    ("ALIBABA_CLOUD_ACCESS_KEY_ID", &key.id),
                    ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", &key.secret),
                ],
            )
        })
        .await?
    }
}

/// POPs with their regions and the parents of their tiers; and the nodes: POP, tier, number.
type Layout =
    (&'static [(&'static str, &'static str, &'static [&'static str])], &'static [(&'static str, &'static str, usize)]);

/// Two regions, each with an L1 and an L2 of one node: two roots.
const TWO_ROOTS: Layout = (
    &[("cn-1", "domestic", &["L1=cn-1/L2"]), ("eu-1", "overseas", &["L1=eu-1/L2"])],
    &[("cn-1", "L1", 1), ("cn-1", "L2", 1), ("eu-1", "L1", 1), ("eu-1", "L2", 1)],
);

/// One region with one L1 node and two L2 nodes: each object has an owner and a fallback.
const TWO_OWNERS: Layout = (&[("cn-1", "domestic", &["L1=cn-1/L2"])], &[("cn-1", "L1", 1), ("cn-1", "L2", 2)]);

/// Two regions, each with three L1 and three L2 nodes, below an L3 of three: one root.
const ONE_ROOT: Layout = (
    &[
        ("core", "global", &[]),
        ("cn-1", "domestic", &["L1=cn-1/L2", "L2=core/L3"]),
        ("eu-1", "overseas", &["L1=eu-1/L2", "L2=core/L3"]),
    ],
    &[("core", "L3", 3), ("cn-1", "L1", 3), ("cn-1", "L2", 3), ("eu-1", "L1", 3), ("eu-1", "L2", 3)],
);

impl Stage {
    /// A stage with the account `test` with `profile`, and no domain yet.
    pub async fn set(profile: &str) -> anyhow::Result<Stage> {
        Stage::set_with(profile, &[]).await
    }

    /// As [`Stage::set`], with fifteen nodes below one root: core-l3-1 to 3, cn-1-l1-1 to 3, and so on.
    pub async fn with_one_root(profile: &str) -> anyhow::Result<Stage> {
        Stage::prepare(profile, &[], ONE_ROOT)?.start().await
    }

    /// As [`Stage::set`], with three nodes in one region: cn-1-l1, and cn-1-l2-1 and cn-1-l2-2, which both fetch from
    /// the origin.
    pub async fn with_two_owners(profile: &str) -> anyhow::Result<Stage> {
        Stage::prepare(profile, &[], TWO_OWNERS)?.start().await
    }

    /// As [`Stage::set`], but only cn-1-l1 and cn-1-l2 run, with stores of these sizes.
    pub async fn one_region(profile: &str, memory_bytes: u64, disk_bytes: u64) -> anyhow::Result<Stage> {
        let mut stage = Stage::without_nodes(profile, &[]).await?;
        for name in ["cn-1-l2", "cn-1-l1"] {
            let node = stage.node(name);
            node.resize(memory_bytes, disk_bytes)?;
            node.start()?;
            node.ready().await;
        }
        Ok(stage)
    }

    /// As [`Stage::set`], with a lease of `secs` seconds.
    pub async fn with_lease(profile: &str, secs: u64) -> anyhow::Result<Stage> {
        let stage = Stage::prepare(profile, &[], TWO_ROOTS)?;
        let mut configuration = std::fs::read_to_string(&stage.configuration)?;
        configuration.push_str(&format!("lease_secs = {secs}\n"));
        std::fs::write(&stage.configuration, configuration)?;
        stage.start().await
    }

    /// As [`Stage::set`], without nodes, so that submitted tasks stay open.
    pub async fn without_nodes(profile: &str, account: &[&str]) -> anyhow::Result<Stage> {
        let mut stage = Stage::prepare(profile, account, TWO_ROOTS)?;
        stage.start_control().await?;
        Ok(stage)
    }

    /// As [`Stage::set`], with more arguments for `account create`.
    pub async fn set_with(profile: &str, account: &[&str]) -> anyhow::Result<Stage> {
        Stage::prepare(profile, account, TWO_ROOTS)?.start().await
    }

    async fn start(mut self) -> anyhow::Result<Stage> {
        self.start_control().await?;
        for node in &mut self.nodes {
            node.start()?;
        }
        for node in &self.nodes {
            node.ready().await;
        }
        Ok(self)
    }

    /// Prepares everything, without running processes.
    fn prepare(profile: &str, account: &[&str], (pops, places): Layout) -> anyhow::Result<Stage> {
        let dir = TempDir::new()?;
        let root = dir.path();
        let (api_port, link_port) = (free_port(), free_port());
        let state = format!("sqlite:{}", root.join("control.db").display());
        let configuration = root.join("control.toml");
        std::fs::write(
            &configuration,
            format!(
                "listen = \"127.0.0.1:{api_port}\"\nlink_listen = \"127.0.0.1:{link_port}\"\nstate = \"{state}\"\n"
            ),
        )?;

        let operate = |args: &[&str]| warmfront(&[args, &["--state", &state]].concat(), &[]);
        let mut create = vec!["account", "create", "test", "--profile", profile];
        create.extend_from_slice(account);
        operate(&create)?;
        let key = operate(&["key", "create", "test"])?;
        let text = |field: &str| key[field].as_str().map(str::to_owned).with_context(|| format!("{field} in {key}"));
        let key = Key { id: text("access_key_id")?, secret: text("access_key_secret")? };
        for (pop, region, parents) in pops {
            let parents: Vec<&str> = parents.iter().flat_map(|parent| ["--parent", parent]).collect();
            operate(&[&["pop", "set", pop, "--region", region][..], &parents].concat())?;
        }
        let token = operate(&["node", "token", "create"])?;
        let token_file = root.join("join.token");
        std::fs::write(&token_file, token["token"].as_str().with_context(|| format!("token in {token}"))?)?;

        let mut nodes = Vec::new();
        for (pop, tier, count) in places {
            let name = format!("{pop}-{}", tier.to_lowercase());
            for number in 1..=*count {
                let name = if *count == 1 { name.clone() } else { format!("{name}-{number}") };
                nodes.push(node(root, &name, pop, tier, link_port, &token_file)?);
            }
        }
        Ok(Stage { api_port, link_port, key, nodes, state, control: None, configuration, dir })
    }

    /// Starts the control plane, which must not be running, and waits until it answers.
    pub async fn start_control(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(binary());
        command.arg("control").arg("-c").arg(&self.configuration);
        self.control = Some(Process::start(&mut command, &self.dir.path().join("control.log"))?);
        let (port, control) = (self.api_port, std::cell::RefCell::new(&mut self.control));
        eventually("the control plane is ready", || async {
            {
                let mut control = control.borrow_mut();
                let process = control.as_mut().context("it was started")?;
                ensure!(process.runs(), "it ended: {}", process.tail());
            }
            let answer = http::get(port, "localhost", "/readyz", &[]).await?;
            ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
            Ok(())
        })
        .await;
        Ok(())
    }

    /// Kills the control plane, as in a power failure.
    pub fn kill_control(&mut self) {
        if let Some(mut control) = self.control.take() {
            control.kill9();
        }
    }

    /// The process of the control plane, while it runs.
    pub fn control(&mut self) -> Option<&mut Process> {
        self.control.as_mut()
    }

    /// A folder that lasts as long as the stage.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.dir.path().join(name);
        std::fs::create_dir_all(&folder)?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }

    /// Starts an nginx with files that the domain [`DOMAIN`] serves everywhere.
    pub async fn origin(&self) -> anyhow::Result<Nginx> {
        let origin = Nginx::start(&self.folder("origin")?)?;
        self.add_domain(&format!("127.0.0.1:{}", origin.port)).await?;
        Ok(origin)
    }

    /// Adds the domain [`DOMAIN`] with this origin and waits until it is served everywhere.
    pub async fn add_domain(&self, origin: &str) -> anyhow::Result<()> {
        self.cli(&["domain", "add", DOMAIN, "--origin", origin, "--coverage", "global"]).await?;
        self.online().await;
        Ok(())
    }

    /// Waits until the domain is served everywhere.
    pub async fn online(&self) {
        eventually("the domain is online", || async {
            let shown = self.cli(&["domain", "show", DOMAIN]).await?;
            ensure!(shown["status"] == "online", "{shown}");
            Ok(())
        })
        .await;
    }

    /// Runs a client command of the program with the stage's access key.
    pub async fn cli(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        self.client().cli(args).await
    }

    /// A client for use in another task.
    pub fn client(&self) -> Client {
        Client { api_port: self.api_port, key: self.key.clone() }
    }

    /// Writes the URLs of these paths of the domain into a file; returns it as an argument of `push`.
    pub fn listed<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> anyhow::Result<String> {
        let urls: Vec<String> = paths.into_iter().map(|path| format!("http://{DOMAIN}{path}")).collect();
        let list = self.folder("lists")?.join("urls");
        std::fs::write(&list, urls.join("\n"))?;
        Ok(format!("@{}", list.display()))
    }

    /// The node named `name`.
    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node of the stage")
    }

    /// The ports of each region for users: cn-1's L1, eu-1's L1.
    pub fn edges(&self) -> [u16; 2] {
        [self.nodes[0].port, self.nodes[2].port]
    }
}

fn node(root: &Path, name: &str, pop: &str, tier: &str, link_port: u16, token_file: &Path) -> anyhow::Result<Node> {
    let (port, admin_port) = (free_port(), free_port());
    let configuration = root.join(format!("{name}.toml"));
    let disk = root.join(name);
    std::fs::create_dir_all(&disk)?;
    std::fs::write(
        &configuration,
        format!(
            "name = \"{name}\"\npop = \"{pop}\"\ntier = \"{tier}\"\nlisten = \"127.0.0.1:{port}\"\nadvertise_url = \"http://127.0.0.1:{port}\"\n\
             admin_listen = \"127.0.0.1:{admin_port}\"\ncontrol_url = \"https://127.0.0.1:{link_port}\"\njoin_token_file = \"{}\"\n\n\
             [memory]\ncapacity_bytes = 67108864\n\n[[disk]]\npath = \"{}\"\ncapacity_bytes = 2147483648\n",
            token_file.display(),
            disk.display()
        ),
    )?;
    let log = root.join(format!("{name}.log"));
    Ok(Node { name: name.to_owned(), port, admin_port, configuration, process: None, log })
}
