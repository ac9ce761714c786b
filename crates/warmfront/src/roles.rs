//! The roles as processes: `control`, `node`, `serve`; and `config check`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use control::{Control, ControlConfig, Operator};
use model::Coverage;
use node::{Node, NodeConfig};

use crate::clock::SystemClock;

/// Memory and disk sizes in bytes of each node of `serve` and of the demo.
const MEMORY_BYTES: u64 = 64 << 20;
const DISK_BYTES: u64 = 4 << 30;

/// Ports of the nodes of `serve`, L1 and L2; the admin port is 20 higher.
const SERVE_PORTS: [(model::Tier, u16); 2] = [(model::Tier::L1, 9701), (model::Tier::L2, 9702)];

/// Runs a control plane until it is told to stop.
pub(crate) async fn control(file: &Path) -> anyhow::Result<()> {
    let config = ControlConfig::parse(&read(file)?).with_context(|| file.display().to_string())?;
    let control = Control::start(config, Arc::new(SystemClock)).await?;
    tracing::info!(api = %control.api_address(), link = %control.link_address(), "control plane ready");
    stopped().await;
    control.stop().await;
    Ok(())
}

/// Runs a node until it is told to stop.
pub(crate) async fn node(file: &Path) -> anyhow::Result<()> {
    let config = NodeConfig::parse(&read(file)?).with_context(|| file.display().to_string())?;
    let name = config.name.clone();
    let node = Node::start(config, Arc::new(SystemClock)).await?;
    tracing::info!(%name, "node started");
    match told(&node).await {
        Told::Stop => node.stop().await,
        // A second signal ends the drain.
        Told::Drain => tokio::select! {
            () = node.drain() => {}
            () = stopped() => {}
        },
    }
    Ok(())
}

/// The signal that a node's process received.
enum Told {
    /// By Ctrl-C: end now.
    Stop,
    /// By SIGTERM: drain connections, then end.
    Drain,
}

/// Waits until a node's process is told to end; SIGHUP makes it reopen its access log.
async fn told(node: &Node) -> Told {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::hangup())?)));
    let (mut terminate, mut hangup) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot wait for signals");
            return Told::Stop;
        }
    };
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Told::Stop,
            _ = terminate.recv() => return Told::Drain,
            _ = hangup.recv() => node.reopen_access_log(),
        }
    }
}

/// Checks whether a file is a valid `control.toml` or `node.toml`.
pub(crate) fn check(file: &Path) -> anyhow::Result<&'static str> {
    let text = read(file)?;
    let table: toml::Table = text
        .parse()
        .map_err(|error| anyhow!("{}: {}", file.display(), control::config::without_values(&text, &error)))?;
    // Each kind has keys that the other does not have.
    if table.contains_key("state") || table.contains_key("link_listen") {
        ControlConfig::parse(&text).with_context(|| file.display().to_string())?;
        Ok("control plane")
    } else if table.contains_key("control_url") || table.contains_key("tier") || table.contains_key("pop") {
        NodeConfig::parse(&text).with_context(|| file.display().to_string())?;
        Ok("node")
    } else {
        bail!("{}: expected `state` (a control plane) or `control_url` (a node)", file.display())
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

/// Runs everything in one process on `data`, which is kept.
pub(crate) async fn serve(data: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("make {}", data.display()))?;
    let config = ControlConfig::over_sqlite(&data.join("control.db"));
    let operator = Operator::open(&config.state, None, Arc::new(SystemClock)).await?;
    operator.set_pop("local", Coverage::Global, &["L1=local/L2".to_owned()]).await?;
    let first = operator.accounts().await?.is_empty();
    if first {
        operator.create_account("main", "open", std::collections::BTreeMap::new(), 0).await?;
        let key = operator.create_key("main", None).await?;
        // Shown once, to the person who started it, and not through the log, which may be kept elsewhere.
        let note = format!(
            "access key of the account `main`, shown this once:\n  ALIBABA_CLOUD_ACCESS_KEY_ID={}\n  ALIBABA_CLOUD_ACCESS_KEY_SECRET={}\n",
            key.id,
            key.secret.as_str()
        );
        use std::io::Write;
        std::io::stdout().write_all(note.as_bytes())?;
    }
    let names = SERVE_PORTS.map(|(tier, _)| format!("local-{}", tier.to_string().to_lowercase()));
    let known = operator.nodes().await?;
    let has_joined =
        |name: &String| known.iter().any(|node| node.name == *name) && data.join(name).join("journal.redb").exists();
    // With a new join token the nodes would join anew, without their stored objects.
    let token = match data.join("join.token") {
        kept if kept.exists() && names.iter().all(has_joined) => kept,
        _ => write_join_token(&operator, data).await?,
    };
    operator.close().await;
    let control = Control::start(config, Arc::new(SystemClock)).await?;
    let mut nodes = Vec::new();
    for ((tier, port), name) in SERVE_PORTS.into_iter().zip(names) {
        let config = node_config(&name, "local", tier, port, control.link_address(), &token, &data.join(&name))?;
        nodes.push(Node::start(config, Arc::new(SystemClock)).await?);
    }
    tracing::info!(api = %control.api_address(), users = SERVE_PORTS[0].1, "serving");
    stopped().await;
    for node in nodes {
        node.stop().await;
    }
    control.stop().await;
    Ok(())
}

/// Writes a new join token into a file that only its owner can read.
pub(crate) async fn write_join_token(operator: &Operator, folder: &Path) -> anyhow::Result<PathBuf> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join("join.token");
    let token = operator.create_join_token().await?;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(token.as_bytes())?;
    Ok(path)
}

/// The configuration of a node on this machine. It is written as TOML and parsed like a file, so that there is only one
/// parser.
pub(crate) fn node_config(
    name: &str,
    pop: &str,
    tier: model::Tier,
    port: u16,
    link: SocketAddr,
    token: &Path,
    disk: &Path,
) -> anyhow::Result<NodeConfig> {
    let admin = port + 20;
    let text = format!(
        "name = {name:?}\npop = {pop:?}\ntier = \"{tier}\"\nlisten = \"127.0.0.1:{port}\"\nadvertise_url = \"http://127.0.0.1:{port}\"\n\
         admin_listen = \"127.0.0.1:{admin}\"\ncontrol_url = \"https://{link}\"\njoin_token_file = {token:?}\n\n\
         [memory]\ncapacity_bytes = {MEMORY_BYTES}\n\n[[disk]]\npath = {disk:?}\ncapacity_bytes = {DISK_BYTES}\n",
    );
    Ok(NodeConfig::parse(&text)?)
}

/// Waits until the process is told to stop, by Ctrl-C or SIGTERM.
pub(crate) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::error!(%error, "cannot wait for SIGTERM");
            return;
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_good_and_mistakes_are_named() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config");
        let mut checked = 0;
        for entry in std::fs::read_dir(examples).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let expected = if name.starts_with("node") { "node" } else { "control plane" };
            assert_eq!(check(&path).unwrap(), expected, "{name}");
            checked += 1;
        }
        assert!(checked >= 4, "the examples are there");

        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("state = \"sqlite:/x\"\nlisten_on = 1\n", "listen_on"),
            ("tier = \"L9\"\n", "tier"),
            ("colour = \"red\"\n", "control_url"),
            ("state = ", "line 1: `state`"),
            ("state = \"postgress://u:hunter2@h/d\"\n", "line 1: `state`: expected"),
            ("state = postgres://u:hunter2@h/d\n", "line 1: `state`"),
        ];
        for (text, named) in cases {
            let path = dir.path().join("x.toml");
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", check(&path).unwrap_err());
            assert!(error.contains(named) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
