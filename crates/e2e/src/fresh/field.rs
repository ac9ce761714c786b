//! The field: one control plane and five nodes in three tiers, with links between them that can break.
//!
//! ```text
//! cn-1-l1 --.      .-- cn-1-l2a --.
//!            >----<                >-- core-l3 -- origin
//! eu-1-l1 --'      '-- cn-1-l2b --'
//! ```

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::Dice;
use super::history::History;
use super::liar::Liar;
use super::member::{Member, Place, Ports, go_on, stand_still};
use super::origin::{Origin, Pace};
use super::reader::{Reader, Seen};
use super::relay::{Mode, Relay};
use super::wall::{self, Wall};
use super::writer::{Api, Scope, Submitted, submit};
use crate::stage::{DOMAIN, Key};
use crate::{Process, binary, eventually, free_port, http, warmfront};

/// The nodes, by number.
pub const PLACES: [Place; 5] = [
    Place { name: "cn-1-l1", pop: "cn-1", tier: "L1", ahead_secs: 3 * 3_600 },
    Place { name: "eu-1-l1", pop: "eu-1", tier: "L1", ahead_secs: -2 * 86_400 },
    Place { name: "cn-1-l2a", pop: "cn-1", tier: "L2", ahead_secs: 11 * 86_400 },
    Place { name: "cn-1-l2b", pop: "cn-1", tier: "L2", ahead_secs: 0 },
    Place { name: "core-l3", pop: "core", tier: "L3", ahead_secs: -40 * 60 },
];

/// The control plane's margin beyond the lease.
pub const MARGIN: Duration = Duration::from_secs(1);

/// How far the control plane's wall clock is ahead, in seconds: signatures are valid for a quarter of an hour.
const CONTROL_AHEAD_SECS: i64 = 7 * 60;

/// Longest wait for a refresh while faults are injected.
pub const COMPLETE_MAX: Duration = Duration::from_secs(90);

/// The parameters of a field.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The lease, in seconds.
    pub lease_secs: u64,
    /// The node that keeps serving while isolated.
    pub serves: Option<usize>,
    /// The node that has a liar in front.
    pub lied_for: Option<usize>,
    /// The origin's pace.
    pub pace: Pace,
    /// The seed of everything random.
    pub seed: u64,
}

impl Plan {
    /// A lease of two seconds, and nothing special.
    pub fn new(seed: u64) -> Plan {
        Plan { lease_secs: 2, serves: None, lied_for: None, pace: Pace::MIXED, seed }
    }
}

/// The control plane's process.
#[derive(Debug)]
pub struct Control {
    process: Option<Process>,
    configuration: PathBuf,
    wall: Wall,
    log: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
            wall::take_down(process.id());
        }
    }
}

/// All parts of a field.
#[derive(Debug)]
pub struct Field {
    /// The plan it was made from.
    pub plan: Plan,
    /// The history.
    pub history: History,
    /// The origin.
    pub origin: Origin,
    /// The API.
    pub api: Api,
    /// The nodes, by number.
    pub nodes: Vec<Mutex<Member>>,
    /// The relays between each node and the control plane.
    pub links: Vec<Mutex<Relay>>,
    /// The relays between each node and its children.
    pub fronts: Vec<Mutex<Relay>>,
    /// The liar in front of the plan's node.
    pub liar: Option<Liar>,
    ports: Vec<u16>,
    seen: Vec<Arc<Seen>>,
    control: Mutex<Control>,
    /// Held while somebody breaks the control plane.
    breaking_control: Mutex<()>,
    state: String,
    _dir: TempDir,
}

impl Field {
    /// Sets everything up and waits until all nodes serve the domain.
    pub async fn set(plan: Plan) -> anyhow::Result<Field> {
        let dir = TempDir::new()?;
        let root = dir.path();
        let (api_port, link_port) = (free_port(), free_port());
        let state = format!("sqlite:{}", root.join("control.db").display());
        let configuration = root.join("control.toml");
        let lease = plan.lease_secs;
        std::fs::write(
            &configuration,
            format!(
                "listen = \"127.0.0.1:{api_port}\"\nlink_listen = \"127.0.0.1:{link_port}\"\nstate = \"{state}\"\nlease_secs = {lease}\n"
            ),
        )?;
        operate(&state, &["account", "create", "test", "--profile", "open"]).await?;
        let key = operate(&state, &["key", "create", "test"]).await?;
        let text = |field: &str| key[field].as_str().map(str::to_owned).with_context(|| format!("{field} in {key}"));
        let key = Key { id: text("access_key_id")?, secret: text("access_key_secret")? };
        for (pop, region, parents) in [
            ("core", "global", &[][..]),
            ("cn-1", "domestic", &["--parent", "L1=cn-1/L2", "--parent", "L2=core/L3"][..]),
            ("eu-1", "overseas", &["--parent", "L1=cn-1/L2"][..]),
        ] {
            operate(&state, &[&["pop", "set", pop, "--region", region][..], parents].concat()).await?;
        }

        let (mut nodes, mut links, mut fronts, mut ports) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut liar = None;
        for (number, place) in PLACES.into_iter().enumerate() {
            let (own, admin) = (free_port(), free_port());
            let mut behind = own;
            if plan.lied_for == Some(number) {
                let lies = Liar::start(own).await?;
                behind = lies.port;
                liar = Some(lies);
            }
            let (link, front) = (Relay::start(link_port).await?, Relay::start(behind).await?);
            let more = if plan.serves == Some(number) { "isolation = \"serve\"\n" } else { "" };
            let around = Ports { own, admin, front: front.port, link: link.port };
            nodes.push(Mutex::new(Member::new(root, place, around, more)?));
            links.push(Mutex::new(link));
            fronts.push(Mutex::new(front));
            ports.push(own);
        }
        let origin = Origin::start(plan.pace, Dice::new(plan.seed).split()).await?;
        let wall = Wall::new(root.join("control.clock"), CONTROL_AHEAD_SECS)?;
        let control = Control { process: None, configuration, wall, log: root.join("control.log") };
        let field = Field {
            history: History::new(PLACES.iter().map(|place| place.name.to_owned()).collect()),
            api: Api { port: api_port, key },
            seen: PLACES.iter().map(|_| Arc::default()).collect(),
            control: Mutex::new(control),
            breaking_control: Mutex::new(()),
            plan,
            origin,
            nodes,
            links,
            fronts,
            liar,
            ports,
            state,
            _dir: dir,
        };
        field.start_control().await?;
        let token = field.token().await?;
        for node in &field.nodes {
            let mut node = node.lock().await;
            node.invite(&token)?;
            node.start()?;
        }
        field.ready().await;
        let source = format!("[{{\"content\":\"127.0.0.1\",\"type\":\"ipaddr\",\"port\":{}}}]", field.origin.port);
        let domain = [("DomainName", DOMAIN), ("CdnType", "web"), ("Scope", "global"), ("Sources", &source)];
        field.api.call("AddCdnDomain", &domain).await?;
        for port in &field.ports {
            eventually("the domain is served", || async {
                let answer = http::get(*port, DOMAIN, "/d0/a", &[]).await?;
                ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
                Ok(())
            })
            .await;
        }
        // Served does not mean acknowledged; before that, refreshes are refused with a retry.
        eventually("the domain is configured", || async {
            let shown = field.api.call("DescribeCdnDomainDetail", &[("DomainName", DOMAIN)]).await?;
            ensure!(shown["GetDomainDetailModel"]["DomainStatus"] == "online", "{shown}");
            Ok(())
        })
        .await;
        Ok(field)
    }

    /// The lease plus the margin: how long an absent node delays a refresh.
    pub fn lease_and_margin(&self) -> Duration {
        Duration::from_secs(self.plan.lease_secs) + MARGIN
    }

    /// The number of the node named `name`.
    pub fn number(name: &str) -> usize {
        PLACES.iter().position(|place| place.name == name).expect("a name of the field")
    }

    /// The port of a node.
    pub fn port(&self, node: usize) -> u16 {
        self.ports[node]
    }

    /// A new join token.
    pub async fn token(&self) -> anyhow::Result<String> {
        let token = operate(&self.state, &["node", "token", "create"]).await?;
        Ok(token["token"].as_str().with_context(|| format!("token in {token}"))?.to_owned())
    }

    /// Removes a node from the members.
    pub async fn remove(&self, node: usize) -> anyhow::Result<()> {
        self.history.tell(|checker| checker.removed(node));
        let done = operate(&self.state, &["node", "remove", PLACES[node].name]).await;
        if done.is_err() {
            self.history.tell(|checker| checker.replaced(node));
        }
        done.map(drop)
    }

    /// Starts the control plane, which must not be running, and waits until it answers.
    pub async fn start_control(&self) -> anyhow::Result<()> {
        let mut control = self.control.lock().await;
        let mut command = Command::new(binary());
        command.arg("control").arg("-c").arg(&control.configuration);
        control.wall.hang_in(&mut command)?;
        control.process = Some(Process::start(&mut command, &control.log)?);
        eventually("the control plane is ready", || async {
            let answer = http::get(self.api.port, "localhost", "/readyz", &[]).await?;
            ensure!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
            Ok(())
        })
        .await;
        Ok(())
    }

    /// The exclusive right to break the control plane, if free.
    pub fn control_alone(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.breaking_control.try_lock().ok()
    }

    /// Kills the control plane, as in a power failure.
    pub async fn kill_control(&self) {
        if let Some(mut process) = self.control.lock().await.process.take() {
            process.kill9();
            wall::take_down(process.id());
        }
    }

    /// Stops the control plane for `time`.
    pub async fn stop_control(&self, time: Duration) -> anyhow::Result<()> {
        let Some(id) = self.control.lock().await.process.as_ref().map(Process::id) else { return Ok(()) };
        stand_still(id).await?;
        tokio::time::sleep(time).await;
        go_on(id)
    }

    /// Stops a node and records that, until [`go_on`] is called with the returned id. The caller holds the node's lock.
    pub async fn freeze(&self, node: usize, member: &Member) -> anyhow::Result<u32> {
        let id = member.id().context("a process to stop")?;
        self.history.event(format!("{} is stopped", member.place.name));
        self.history.tell(|checker| checker.stopping(node));
        let still = stand_still(id).await;
        self.history.tell(|checker| checker.stopped(node));
        still.map(|()| id)
    }

    /// Lets a node that lost its disk, or was removed, join again under its name. The caller holds its lock.
    pub async fn join_anew(&self, node: usize, member: &mut Member) -> anyhow::Result<()> {
        member.kill9();
        member.wipe()?;
        self.history.tell(|checker| checker.replaced(node));
        member.invite(&self.token().await?)?;
        member.start()
    }

    /// Waits until every node runs and serves.
    pub async fn ready(&self) {
        for node in &self.nodes {
            let mut node = node.lock().await;
            node.ensure_runs().expect("the program can be started");
            node.ready().await;
        }
    }

    /// Sets the mode of a node's link to the control plane.
    pub async fn link(&self, node: usize, mode: Mode) {
        self.history.event(format!("link of {}: {mode:?}", PLACES[node].name));
        self.links[node].lock().await.set(mode);
    }

    /// Sets the mode of the link between a node and its children.
    pub async fn front(&self, node: usize, mode: Mode) {
        self.history.event(format!("front of {}: {mode:?}", PLACES[node].name));
        self.fronts[node].lock().await.set(mode);
    }

    /// Changes the objects of a scope and submits a refresh.
    pub async fn submit(&self, scope: &Scope, force: bool) -> anyhow::Result<Submitted> {
        submit(&self.api, &self.origin, &self.history, scope, force).await
    }

    /// Changes, refreshes and waits; returns how long it took.
    pub async fn refresh(&self, scope: &Scope, force: bool) -> anyhow::Result<Duration> {
        self.submit(scope, force).await?.wait(&self.history, COMPLETE_MAX).await
    }

    /// Starts readers on every node.
    pub fn read(&self, of_each_node: usize, pause_ms: u64) -> Readers {
        let mut dice = Dice::new(self.plan.seed ^ 0x5EED);
        let mut readers = Readers { tasks: JoinSet::new() };
        for node in 0..PLACES.len() {
            for _ in 0..of_each_node {
                readers.add(self.reader(node, pause_ms), dice.split());
            }
        }
        readers
    }

    /// A reader of one node.
    pub fn reader(&self, node: usize, pause_ms: u64) -> Reader {
        let (history, seen) = (self.history.clone(), self.seen[node].clone());
        Reader { node, port: self.ports[node], history, seen, pause_ms }
    }

    /// Objects read from each node, and the number of hits among them.
    pub fn seen(&self) -> Vec<(u64, u64)> {
        let load = |seen: &Arc<Seen>| (seen.objects.load(Ordering::Relaxed), seen.hits.load(Ordering::Relaxed));
        self.seen.iter().map(load).collect()
    }

    /// Fails with all details if there was a stale read, or if too few reads could have been stale.
    pub fn verdict(&self) -> anyhow::Result<()> {
        let counts = self.history.counts();
        ensure!(counts.stale == 0, "{} stale reads\n{}", counts.stale, self.history.violations());
        ensure!(counts.held_to > 0, "no read was held to anything: {counts:?}");
        self.read_everywhere()
    }

    /// Fails unless every node was read from, with some hits: otherwise no read could have been stale.
    pub fn read_everywhere(&self) -> anyhow::Result<()> {
        for (place, (objects, hits)) in PLACES.iter().zip(self.seen()) {
            ensure!(objects > 0 && hits > 0, "{}: {objects} reads, {hits} hits", place.name);
        }
        Ok(())
    }
}

/// Readers that run until dropped.
#[derive(Debug)]
pub struct Readers {
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Readers {
    /// Adds one.
    pub fn add(&mut self, reader: Reader, dice: Dice) {
        self.tasks.spawn(reader.run(dice));
    }

    /// Ends them; fails if one received something that is no version of an object.
    pub fn finish(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended??;
        }
        Ok(())
    }
}

/// Runs an operator's command on the state database.
async fn operate(state: &str, args: &[&str]) -> anyhow::Result<Value> {
    let args: Vec<String> = args.iter().chain(&["--state", state]).map(|arg| (*arg).to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        warmfront(&args, &[])
    })
    .await?
}
