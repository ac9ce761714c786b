//! `warmfront demo`: the whole product on one machine, on temporary storage, explained as it runs.
//!
//! Two regions, each with an L1 and an L2, in front of an origin. Everything a user would do goes through the public
//! API; every claim is checked, and `--once` ends with an error if a check failed.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use control::{Control, ControlConfig, Operator};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::{Coverage, Tier};
use node::Node;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli::api::Api;
use crate::clock::SystemClock;
use crate::output::table;
use crate::roles::{node_config, stopped, write_join_token};
use origin::Origin;
use user::{Answer, get};

mod origin;
mod user;

const KEY_ID: &str = "demo-key-id";
const KEY_SECRET: &str = "demo-key-secret";
const DOMAIN: &str = "demo.warmfront.test";
const API_PORT: u16 = 9680;
const LINK_PORT: u16 = 9681;
const ORIGIN_PORT: u16 = 9790;

/// Name, POP, tier and port of each node; its admin port is 20 higher.
const NODES: [(&str, &str, Tier, u16); 4] = [
    ("cn-1-l1", "cn-1", Tier::L1, 9701),
    ("cn-1-l2", "cn-1", Tier::L2, 9702),
    ("eu-1-l1", "eu-1", Tier::L1, 9711),
    ("eu-1-l2", "eu-1", Tier::L2, 9712),
];

/// Maximum number of URLs per call.
const URLS_PER_CALL: usize = 100;

/// Maximum number of paths in the file of `--paths`.
const PATHS_MAX: usize = 10_000;

/// How long a step may take before the demo gives up: longer than a refusing origin is retried, so that the cause is
/// reported.
const STEP_MAX: Duration = Duration::from_secs(240);

/// How often an edge is asked for its second answer before the check fails.
const SECOND_TRIES: u32 = 50;

/// Interval of polling during a step.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave when everything was shown; the exit status says whether every check held
    #[arg(long)]
    once: bool,
    /// Serve the files of a folder as the origin; they are only read
    #[arg(long, value_name = "DIR", conflicts_with = "origin")]
    files: Option<PathBuf>,
    /// Stand before a real origin, `http://HOST[:PORT]` or `https://HOST[:PORT]` without a path; nothing is changed there
    #[arg(long, value_name = "URL", requires = "domain")]
    origin: Option<String>,
    /// The domain that users ask the real origin for
    #[arg(long, value_name = "NAME", requires = "origin")]
    domain: Option<String>,
    /// Paths to prefetch from the real origin, one a line
    #[arg(long, value_name = "FILE", requires = "origin")]
    paths: Option<PathBuf>,
}

pub(crate) async fn run(arguments: &DemoArgs) -> anyhow::Result<()> {
    let stage = Stage::set(arguments).await?;
    let shown = tokio::select! {
        shown = show(&stage, arguments) => Some(shown),
        () = stopped() => None,
    };
    let good = match shown {
        None => Ok(true),
        Some(Ok(good)) => {
            if !arguments.once {
                stage.say_what_next()?;
                stopped().await;
            }
            Ok(good)
        }
        Some(Err(error)) => Err(error),
    };
    stage.strike().await;
    ensure!(good?, "a check did not hold");
    Ok(())
}

/// All running parts.
struct Stage {
    domain: String,
    api: Api,
    /// The demo's own origin; `None` with a real one.
    origin: Option<Origin>,
    /// The origin as a source of a domain, in the API's format.
    source: Value,
    nodes: Vec<Node>,
    control: Control,
    stopping: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn set(arguments: &DemoArgs) -> anyhow::Result<Stage> {
        let real = arguments.origin.as_deref().map(parse_origin).transpose()?;
        let mut ports = vec![(API_PORT, "the API"), (LINK_PORT, "the link")];
        ports.extend(NODES.iter().flat_map(|(name, _, _, port)| [(*port, *name), (*port + 20, *name)]));
        for (port, whose) in &ports {
            TcpListener::bind(("127.0.0.1", *port)).await.with_context(|| in_use(*port, whose))?;
        }
        let stopping = CancellationToken::new();
        let origin = match (&real, &arguments.files) {
            (Some(_), _) => None,
            (None, Some(folder)) => Some(Origin::of_folder(folder)?),
            (None, None) => Some(Origin::made_up()),
        };
        if let Some(origin) = origin.clone() {
            let listener = TcpListener::bind(("127.0.0.1", ORIGIN_PORT))
                .await
                .with_context(|| in_use(ORIGIN_PORT, "the origin"))?;
            tokio::spawn(origin.serve(listener, stopping.clone()));
        }

        let folder = tempfile::Builder::new().prefix("warmfront-demo-").tempdir()?;
        let config = ControlConfig::over_sqlite(&folder.path().join("control.db"));
        let token = prepare(&config, folder.path()).await?;
        let control = Control::start(config, Arc::new(SystemClock)).await?;
        let mut nodes = Vec::new();
        for (name, pop, tier, port) in NODES {
            let config = node_config(name, pop, tier, port, control.link_address(), &token, &folder.path().join(name))?;
            nodes.push(Node::start(config, Arc::new(SystemClock)).await?);
        }
        let api = Api::at(control.api_address(), KEY_ID, KEY_SECRET, Arc::new(SystemClock))?;
        let domain = arguments.domain.clone().unwrap_or_else(|| DOMAIN.to_owned());
        let source = match real {
            Some(source) => source,
            None => parse_origin(&format!("http://127.0.0.1:{ORIGIN_PORT}"))?,
        };
        Ok(Stage { domain, api, origin, source, nodes, control, stopping, _folder: folder })
    }

    async fn strike(self) {
        for node in self.nodes {
            node.stop().await;
        }
        self.control.stop().await;
        self.stopping.cancel();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.domain)
    }

    async fn get(&self, port: u16, path: &str) -> anyhow::Result<Answer> {
        get(SocketAddr::from(([127, 0, 0, 1], port)), &self.domain, path).await
    }

    fn say_what_next(&self) -> anyhow::Result<()> {
        say(&format!(
            "\nTry next, in another shell:\n  \
             export WARMFRONT_ENDPOINT=http://127.0.0.1:{API_PORT} ALIBABA_CLOUD_ACCESS_KEY_ID={KEY_ID} ALIBABA_CLOUD_ACCESS_KEY_SECRET={KEY_SECRET}\n  \
             warmfront tasks\n  \
             warmfront push {} --edge --wait\n  \
             curl -sD - -o /dev/null -H 'Host: {}' http://127.0.0.1:{}{}\n\
             Ctrl-C ends the demo and removes its data.",
            self.url("/index.html"),
            self.domain,
            NODES[0].3,
            "/index.html"
        ))
    }
}

fn in_use(port: u16, whose: &str) -> String {
    format!("port {port} on 127.0.0.1, which {whose} needs, is not available")
}

fn parse_origin(text: &str) -> anyhow::Result<Value> {
    let bare = text.strip_suffix('/').unwrap_or(text);
    crate::cli::origin(bare).with_context(|| {
        format!(
            "`--origin {text}`: expected http://HOST[:PORT] or https://HOST[:PORT]; what lies there is named by --paths"
        )
    })
}

/// Creates account, key, POPs and a join token, as an operator would; returns the file of the token.
async fn prepare(config: &ControlConfig, folder: &Path) -> anyhow::Result<PathBuf> {
    let operator = Operator::open(&config.state, None, Arc::new(SystemClock)).await?;
    operator.create_account("demo", "open", BTreeMap::new(), 0).await?;
    operator.import_key("demo", KEY_ID, KEY_SECRET, None).await?;
    for (pop, region) in [("cn-1", Coverage::Domestic), ("eu-1", Coverage::Overseas)] {
        operator.set_pop(pop, region, &[format!("L1={pop}/L2")]).await?;
    }
    let token = write_join_token(&operator, folder).await?;
    operator.close().await;
    Ok(token)
}

/// Shows everything; returns whether every check held.
async fn show(stage: &Stage, arguments: &DemoArgs) -> anyhow::Result<bool> {
    eventually("all nodes are ready", || async {
        for (name, _, _, port) in NODES {
            let answer = get(SocketAddr::from(([127, 0, 0, 1], port + 20)), "localhost", "/readyz").await?;
            ensure!(answer.status == 200, "{name} answers {}", answer.status);
        }
        Ok(())
    })
    .await?;
    say(
        "Two regions, an L1 and an L2 each, before one origin:\n  users -> cn-1-l1 -> cn-1-l2 -> origin\n  users -> eu-1-l1 -> eu-1-l2 -> origin\n",
    )?;
    add_domain(stage).await?;

    let paths = paths(stage, arguments)?;
    if paths.is_empty() {
        say(&format!("{} is served; nothing was prefetched, for --paths was not given.", stage.domain))?;
        return Ok(true);
    }
    say(&format!("Prefetching {} objects of {} through the public API (PushObjectCache):", paths.len(), stage.domain))?;
    let mut good = prefetch(stage, &paths).await?;
    good &= edges(stage, &paths).await?;
    match &stage.origin {
        Some(origin) => {
            good &= asked_once(origin)?;
            good &= refresh(stage, origin, &paths).await?;
        }
        None => say("The change check is skipped: a real origin is not ours to change.")?,
    }
    say(if good { "\nEvery check held." } else { "\nA check did NOT hold: see above." })?;
    Ok(good)
}

async fn add_domain(stage: &Stage) -> anyhow::Result<()> {
    let sources = json!([stage.source]);
    let parameters = [
        ("DomainName", stage.domain.as_str()),
        ("CdnType", "web"),
        ("Scope", "global"),
        ("Sources", &sources.to_string()),
    ];
    stage.api.call("AddCdnDomain", &parameters).await?;
    eventually("the domain is online", || async {
        let detail = stage.api.call("DescribeCdnDomainDetail", &[("DomainName", stage.domain.as_str())]).await?;
        let status = &detail["GetDomainDetailModel"]["DomainStatus"];
        ensure!(status == "online", "its status is {status}");
        Ok(())
    })
    .await
}

fn paths(stage: &Stage, arguments: &DemoArgs) -> anyhow::Result<Vec<String>> {
    if let Some(origin) = &stage.origin {
        return Ok(origin.paths());
    }
    let Some(file) = &arguments.paths else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let paths: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    ensure!(paths.len() <= PATHS_MAX, "{}: more than {PATHS_MAX} paths", file.display());
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => bail!("{}: `{path}`: expected a path that begins with `/`", file.display()),
        None => Ok(paths),
    }
}

/// Submits all paths and waits until each has ended, showing a progress bar.
async fn prefetch(stage: &Stage, paths: &[String]) -> anyhow::Result<bool> {
    let urls: Vec<String> = paths.iter().map(|path| stage.url(path)).collect();
    let mut ids = Vec::new();
    for some in urls.chunks(URLS_PER_CALL) {
        let reply = stage.api.call("PushObjectCache", &[("ObjectPath", &some.join("\n"))]).await?;
        ids.extend(reply["PushTaskId"].as_str().unwrap_or_default().split(',').map(str::to_owned));
    }
    ids.dedup();
    let failed = wait(stage, &ids, paths.len()).await?;
    for row in &failed {
        say(&format!("  {} {}: {}", row["Status"], row["ObjectPath"], row["Description"]))?;
    }
    Ok(failed.is_empty())
}

/// Waits until every row of the tasks has ended; returns the failed ones.
async fn wait(stage: &Stage, ids: &[String], rows: usize) -> anyhow::Result<Vec<Value>> {
    let bar = ProgressBar::with_draw_target(Some(rows as u64), ProgressDrawTarget::stdout());
    bar.set_style(ProgressStyle::with_template("  [{bar:40}] {pos}/{len} {elapsed}")?.progress_chars("=> "));
    let deadline = tokio::time::Instant::now() + STEP_MAX;
    loop {
        let mut ended = 0;
        let mut failed = Vec::new();
        for some in ids.chunks(10) {
            let reply = stage.api.call("DescribeRefreshTaskById", &[("TaskId", &some.join(","))]).await?;
            for row in reply["Tasks"].as_array().into_iter().flatten() {
                match row["Status"].as_str() {
                    Some("Complete") => ended += 1,
                    Some("Failed") => {
                        ended += 1;
                        failed.push(row.clone());
                    }
                    _ => {}
                }
            }
        }
        bar.set_position(ended);
        if ended as usize >= rows {
            bar.finish();
            return Ok(failed);
        }
        ensure!(tokio::time::Instant::now() < deadline, "{ended} of {rows} ended within {} s", STEP_MAX.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Shows each edge's first and second answer for three of the objects; neither may come from the origin.
async fn edges(stage: &Stage, paths: &[String]) -> anyhow::Result<bool> {
    let before = stage.origin.as_ref().map(Origin::gets);
    let mut good = true;
    let mut shown: Vec<&String> =
        [paths.first(), paths.get(paths.len() / 2), paths.last()].into_iter().flatten().collect();
    shown.dedup();
    let mut rows = table(&["edge", "path", "bytes", "first", "ttfb", "second", "ttfb"]);
    for (name, _, _, port) in NODES.iter().filter(|(_, _, tier, _)| *tier == Tier::L1) {
        for path in &shown {
            let first = stage.get(*port, path).await?;
            let second = second(stage, *port, path, name).await?;
            let l2 = name.replace("l1", "l2");
            good &= first.x_cache == format!("HIT from {l2}") && second.x_cache == format!("HIT from {name}");
            good &= first.status == 200 && first.sha256 == second.sha256;
            rows.add_row([
                (*name).to_owned(),
                (*path).clone(),
                second.bytes.to_string(),
                first.x_cache,
                millis(first.first_byte),
                second.x_cache,
                millis(second.first_byte),
            ]);
        }
    }
    say(&format!(
        "\nUsers ask each edge twice. The first answer comes from the L2 that was warmed, the second from the edge:\n\n{rows}\n"
    ))?;
    if before != stage.origin.as_ref().map(Origin::gets) {
        say("The origin was asked although everything was warm.")?;
        good = false;
    }
    Ok(good)
}

/// Waits for an answer from the edge's own store: an object is there a moment after the last byte of the first answer.
async fn second(stage: &Stage, port: u16, path: &str, edge: &str) -> anyhow::Result<Answer> {
    let own = format!("HIT from {edge}");
    for _ in 0..SECOND_TRIES {
        let answer = stage.get(port, path).await?;
        if answer.x_cache == own {
            return Ok(answer);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    stage.get(port, path).await
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Checks that the origin was asked for each object once per root, of which there are two.
fn asked_once(origin: &Origin) -> anyhow::Result<bool> {
    let gets = origin.gets();
    let total: u64 = gets.values().sum();
    let odd: Vec<_> = gets.iter().filter(|(_, count)| **count != 2).collect();
    say(&format!(
        "The origin was asked {total} times for {} objects: once for each object and root (cn-1-l2, eu-1-l2).",
        gets.len()
    ))?;
    for (path, count) in &odd {
        say(&format!("  {path} was asked for {count} times, not twice"))?;
    }
    Ok(odd.is_empty())
}

/// Changes the origin, refreshes everything, and verifies the new bytes on every node.
async fn refresh(stage: &Stage, origin: &Origin, paths: &[String]) -> anyhow::Result<bool> {
    origin.change();
    say("\nThe origin's files have changed. Refreshing the whole site (RefreshObjectCaches, Directory):")?;
    let parameters = [("ObjectPath", stage.url("/")), ("ObjectType", "Directory".to_owned())];
    let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = stage.api.call("RefreshObjectCaches", &parameters).await?;
    let id = reply["RefreshTaskId"].as_str().context("a reply with RefreshTaskId")?.to_owned();
    let failed = wait(stage, &[id], 1).await?;
    let mut good = failed.is_empty();
    let mut checked = 0;
    for path in paths {
        let (_, wanted) = {
            let (origin, path) = (origin.clone(), path.clone());
            tokio::task::spawn_blocking(move || origin.digest(&path)).await??
        };
        for (name, _, _, port) in NODES {
            let answer = stage.get(port, path).await?;
            if answer.status != 200 || answer.sha256 != wanted {
                say(&format!("  {name} {path}: status {}, {}: not the new bytes", answer.status, answer.x_cache))?;
                good = false;
            }
            checked += 1;
        }
    }
    if good {
        say(&format!("New bytes proved: {checked} answers of four nodes, each compared by SHA-256 with the origin."))?;
    }
    Ok(good)
}

async fn eventually<F: Future<Output = anyhow::Result<()>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + STEP_MAX;
    loop {
        match check().await {
            Ok(()) => return Ok(()),
            Err(error) if tokio::time::Instant::now() > deadline => {
                return Err(error.context(format!("waited until {what}")));
            }
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_a_server_and_nothing_on_it() {
        let cases = [
            // --origin                       content, port and scheme
            ("http://o.test", Some(("o.test", 80, "http"))),
            ("http://o.test/", Some(("o.test", 80, "http"))),
            ("https://o.test:8443", Some(("o.test", 8443, "https"))),
            ("http://o.test/sub/dir", None),
            ("http://o.test//", None),
            ("http://me:hunter2@o.test", None),
            ("o.test", None),
            ("ftp://o.test", None),
        ];
        for (text, expected) in cases {
            let read = parse_origin(text).ok();
            let read = read.as_ref().map(|source| {
                (
                    source["content"].as_str().unwrap(),
                    source["port"].as_u64().unwrap(),
                    source["scheme"].as_str().unwrap(),
                )
            });
            assert_eq!(read, expected, "{text}");
        }
    }
}
