//! One run: who is there, and what they do.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use aliyun::{AccessKey, Ask, encode_pairs, sign_v3};
use control::state::memory::{Faults, Memory};
use control::{Control, Operator, Seal, Times};
use http::Method;
use model::{Clock, Coverage, Isolation, NodeName, PopName, Tier};
use node::{DiskTier, Machine, MemoryTier, Node, NodeConfig, StartError};
use serde_json::Value;
use store::disk::FaultyDisk;
use tokio::runtime::RngSeed;
use tokio::time::Instant;

use crate::clock::HostClock;
use crate::history::{History, Read};
use crate::http1;
use crate::journal::JournalFile;
use crate::nemesis;
use crate::net::{Net, Port, WIDE};
use crate::origin::{self, Origin, PATHS};
use crate::random::Random;

/// The host that users ask for.
pub const DOMAIN: &str = "sim.test";

const KEY: AccessKey<'static> = AccessKey { id: "sim-key", secret: "sim-secret" };

/// What is waited for beyond a lease. Clocks of a run are wrong by a tenth at most, leases are 3 s at most, and a header that waits is
/// looked at again every quarter of a second: 2 × 0.1 × 3 s ÷ 0.9 + 0.25 s.
const MARGIN: Duration = Duration::from_secs(1);

/// How long things go wrong.
const CHAOS: Duration = Duration::from_secs(9);

/// How long a refresh may take once all is well: the longest lease, the margin, and looking at it.
const HEALED_MAX: Duration = Duration::from_secs(9);

/// Longest wait for anything that must come while nothing goes wrong.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tasks of refreshes that are watched at a time.
const OPEN_MAX: usize = 12;

/// Tasks that one call asks for.
const IDS_AT_ONCE: usize = 10;

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where every choice comes from.
    pub seed: u64,
    /// A line of the fence that is switched off.
    pub mistake: Option<model::Mistake>,
    /// Whether events are kept to be shown.
    pub trace: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Equal for equal histories.
    pub digest: u64,
    /// What broke a promise; empty when all is well.
    pub violations: Vec<String>,
    /// What happened, when that was asked for.
    pub events: Vec<String>,
    /// Answers of nodes that were checked.
    pub reads: u64,
    /// Refreshes that were accepted.
    pub refreshes: u64,
    /// Things that were made to go wrong.
    pub faults: u64,
}

/// Runs `plan` to its end.
pub fn run(plan: Plan) -> Outcome {
    #[cfg(feature = "mistakes")]
    model::mistake::make(plan.mistake);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let numbers = RngSeed::from_bytes(&plan.seed.to_le_bytes());
    let runtime = builder.enable_time().start_paused(true).rng_seed(numbers).build();
    let runtime = runtime.expect("a runtime without drivers can be built");
    let outcome = runtime.block_on(World::live(plan));
    drop(runtime);
    outcome
}

/// One cache node of a run, whether it runs just now or not.
pub struct Host {
    /// Its name.
    pub name: String,
    pub(crate) tier: Tier,
    isolation: Isolation,
    clock: HostClock,
    pub(crate) disk: FaultyDisk,
    pub(crate) journal: JournalFile,
    /// The invitation it starts with.
    token: String,
    retire_above: usize,
    starting: bool,
    /// The journal was whole once: a start that is cut short before leaves a file that the next one makes anew.
    pub(crate) opened: bool,
    pub(crate) running: Option<(Node, Port)>,
}

/// A replica of the control plane of a run.
pub struct Plane {
    pub(crate) faults: Faults,
    clock: HostClock,
    pub(crate) lease_secs: u64,
    pub(crate) running: Option<(Control, Port)>,
}

/// Everything of a run. Clones are the same one.
#[derive(Clone)]
pub struct World {
    pub(crate) net: Net,
    pub(crate) origin: Origin,
    /// What all replicas keep.
    pub(crate) memory: Memory,
    pub(crate) hosts: Arc<Mutex<Vec<Host>>>,
    pub(crate) planes: Arc<Mutex<Vec<Plane>>>,
    history: Arc<Mutex<History>>,
    user: Port,
    nonces: Arc<Mutex<Random>>,
    operator_faults: Faults,
    /// More of what makes a mistake show: nodes that hear of nothing while things are refreshed.
    focused: bool,
    /// Since when and until when nodes were no members: nothing is promised for them then.
    outside: Arc<Mutex<Vec<(String, Instant, Option<Instant>)>>>,
}

fn seal() -> Seal {
    static FILE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("secret.key");
        Seal::open_or_create(&path).expect("the key file can be made");
        (folder, path)
    });
    Seal::open_or_create(path).expect("the key file can be read")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock can panic")
}

impl World {
    async fn live(plan: Plan) -> Outcome {
        let mut random = Random::new(plan.seed);
        let world = World::new(plan, &mut random).await;
        let began = Instant::now();
        world.settle().await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..3 {
            tasks.spawn(world.clone().reads(random.fork(), began + CHAOS));
        }
        tasks.spawn(world.clone().refreshes(random.fork(), began + CHAOS));
        tasks.spawn(world.clone().watch(random.fork(), began + CHAOS, false));
        let faults = tokio::spawn(nemesis::disturb(world.clone(), random.fork(), began + CHAOS));
        let faults = faults.await.unwrap_or_else(|_| panic!("seed {}: the nemesis panicked", plan.seed));
        while let Some(ended) = tasks.join_next().await {
            assert!(ended.is_ok(), "seed {}: a task of the run panicked", plan.seed);
        }
        world.healed().await;
        let history = world.history();
        let (refreshes, _) = history.counts();
        Outcome {
            seed: plan.seed,
            digest: history.digest(),
            violations: history.violations.clone(),
            events: history.events.clone(),
            reads: history.reads,
            refreshes,
            faults,
        }
    }

    /// From now on nothing is promised for a node.
    pub(crate) fn put_outside(&self, name: &str) {
        lock(&self.outside).push((name.to_owned(), Instant::now(), None));
    }

    /// From now on a node is a member, or sends nothing.
    pub(crate) fn take_inside(&self, name: &str) {
        let mut outside = lock(&self.outside);
        let open = outside.iter_mut().filter(|(node, _, until)| node == name && until.is_none());
        open.for_each(|(_, _, until)| *until = Some(Instant::now()));
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        lock(&self.hosts).len()
    }

    /// How many control planes there are, on one state.
    pub(crate) fn replicas(&self) -> usize {
        lock(&self.planes).len()
    }

    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    async fn new(plan: Plan, random: &mut Random) -> World {
        let began = Instant::now();
        let usual = *random.pick(&[(0, 2), (1, 20), (0, 200)]);
        let net = Net::new(random.fork(), usual.0..usual.1);
        let origin = Origin::new(random.fork());
        let drift = |random: &mut Random| random.within(0..2_001) as i64 - 1_000;
        let lease_secs = random.within(2..4);
        let replicas = if random.one_in(if plan.mistake.is_some() { 2 } else { 3 }) { 2 } else { 1 };
        let planes = (0..replicas).map(|_| Plane {
            faults: Faults::default(),
            clock: HostClock::new(began, drift(random), 0),
            lease_secs,
            running: None,
        });
        let planes = planes.collect();
        // How many nodes stand in each tier.
        let shape: &[[u64; 3]] =
            &[[1, 0, 0], [2, 0, 0], [1, 1, 0], [2, 1, 0], [1, 2, 0], [1, 1, 1], [2, 1, 1], [2, 2, 1]];
        let shape = random.pick(shape);
        let operator_faults = Faults::default();
        let world = World {
            user: net.port("user"),
            net,
            origin: origin.clone(),
            hosts: Arc::default(),
            memory: Memory::default(),
            planes: Arc::new(Mutex::new(planes)),
            history: Arc::new(Mutex::new(History::new(plan.trace))),
            nonces: Arc::new(Mutex::new(random.fork())),
            operator_faults,
            focused: plan.mistake.is_some(),
            outside: Arc::default(),
        };
        let port = world.net.port("origin");
        tokio::spawn(origin.serve(port.listen("origin:80")));

        let operator = world.operator().await;
        operator.create_account("sim", "open", BTreeMap::new(), 0).await.expect("the account is new");
        operator.import_key("sim", KEY.id, KEY.secret, None).await.expect("the key is new");
        let tiers: Vec<Tier> = [Tier::L1, Tier::L2, Tier::L3]
            .into_iter()
            .zip(shape)
            .filter(|(_, count)| **count > 0)
            .map(|(tier, _)| tier)
            .collect();
        let parents: Vec<String> = tiers.windows(2).map(|two| format!("{}=p/{}", two[0], two[1])).collect();
        operator.set_pop("p", Coverage::Global, &parents).await.expect("the POP is as it should be");
        let serves = random.one_in(5);
        for (tier, count) in tiers.iter().zip(shape) {
            for number in 0..*count {
                let first = lock(&world.hosts).is_empty();
                let host = Host {
                    name: format!("{}-{number}", tier.to_string().to_ascii_lowercase()),
                    tier: *tier,
                    isolation: if first && serves { Isolation::Serve } else { Isolation::Revalidate },
                    clock: HostClock::new(began, drift(random), random.within(0..200_000) as i64 - 100_000),
                    disk: FaultyDisk::new(random.next()),
                    journal: JournalFile::new(random.fork(), plan.mistake == Some(model::Mistake::AckBeforePersisted)),
                    token: operator.create_join_token().await.expect("the state works").to_string(),
                    retire_above: *random.pick(&[3, 8, 100_000]),
                    starting: false,
                    opened: false,
                    running: None,
                };
                lock(&world.hosts).push(host);
            }
        }
        for at in 0..replicas {
            world.start_plane(at).await;
        }
        for at in 0..world.nodes() {
            world.start_host(at).await;
        }
        world
    }

    /// An operator beside the control plane.
    pub(crate) async fn operator(&self) -> Operator {
        let (state, clock) = (self.memory.open(&self.operator_faults), lock(&self.planes)[0].clock);
        Operator::over(state, seal(), Arc::new(clock)).await.expect("nothing befalls the operator's state")
    }

    /// Starts a replica of the control plane, unless it runs.
    pub(crate) async fn start_plane(&self, at: usize) {
        let (state, clock, lease_secs, port) = {
            let mut planes = lock(&self.planes);
            let plane = &mut planes[at];
            if plane.running.is_some() {
                return;
            }
            plane.faults = Faults::default();
            (self.memory.open(&plane.faults), plane.clock, plane.lease_secs, self.net.port("control"))
        };
        let (api, link) = (port.listen("control:9680"), port.listen("control:9681"));
        let times = Times { lease_secs: Some(lease_secs), margin: MARGIN, prefetch_deadline: PATIENCE };
        let started = Control::start_on(state, seal(), Arc::new(clock), times, api, link).await;
        let control = started.expect("nothing befalls a state that is just opened");
        self.history().note(&format!("control plane {at} starts, lease {lease_secs} s"));
        lock(&self.planes)[at].running = Some((control, port));
    }

    /// Kills a replica of the control plane.
    pub(crate) fn kill_plane(&self, at: usize) {
        let mut planes = lock(&self.planes);
        let plane = &mut planes[at];
        if let Some((control, port)) = plane.running.take() {
            port.kill();
            plane.faults.cut_off(true);
            // What is left of it can reach nobody any more; it is told to end.
            tokio::spawn(control.stop());
            self.history().note(&format!("control plane {at} is killed"));
        }
    }

    /// Starts a node, unless it runs; `false` when its disk failed.
    async fn try_start(&self, at: usize) -> bool {
        let (machine, config, token, port, incoming, journal, opened) = {
            let mut hosts = lock(&self.hosts);
            let host = &mut hosts[at];
            if host.running.is_some() || host.starting {
                return true;
            }
            host.starting = true;
            let port = self.net.port(&host.name);
            let incoming = port.listen(&format!("{}:80", host.name));
            let machine = Machine {
                clock: Arc::new(host.clock) as Arc<dyn Clock>,
                network: Arc::new(port.clone()),
                disks: vec![Arc::new(host.disk.clone())],
                journal: host.journal.clone(),
                retire_above: host.retire_above,
            };
            let nowhere = ([0, 0, 0, 0], 0).into();
            let config = NodeConfig {
                name: NodeName::parse(&host.name).expect("names of hosts are good"),
                pop: PopName::parse("p").expect("a good name"),
                tier: host.tier,
                listen: nowhere,
                advertise_url: format!("http://{}:80", host.name),
                admin_listen: nowhere,
                control_url: "http://control:9681".to_owned(),
                join_token_file: PathBuf::new(),
                memory: MemoryTier { capacity_bytes: 1 << 20 },
                disk: vec![DiskTier { path: PathBuf::from(&host.name), capacity_bytes: 4 << 20 }],
                state_path: None,
                isolation: host.isolation,
            };
            (machine, config, host.token.clone(), port, incoming, host.journal.clone(), host.opened)
        };
        let name = config.name.to_string();
        let started = Node::start_on(machine, config, Some(&token), incoming).await;
        lock(&self.hosts)[at].starting = false;
        match started {
            Ok(node) => {
                self.history().note(&format!("{name} starts"));
                let mut hosts = lock(&self.hosts);
                hosts[at].opened = true;
                hosts[at].running = Some((node, port));
                true
            }
            Err(StartError::Journal(error)) if journal.fails() || !opened => {
                self.history().note(&format!("{name} does not start: {error:?}"));
                let mut hosts = lock(&self.hosts);
                let host = &mut hosts[at];
                host.journal = if opened { host.journal.crash() } else { host.journal.anew() };
                false
            }
            Err(StartError::Store(error)) => {
                self.history().note(&format!("{name} does not start: {error:?}"));
                false
            }
            Err(error) => {
                let text = format!("{name} does not start: {error:?}");
                self.history().violation(text);
                true
            }
        }
    }

    /// Starts a node, unless it runs; again when its disk fails just then.
    pub(crate) async fn start_host(&self, at: usize) {
        while !self.try_start(at).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Kills a node; of its disk remains what was synced, and some more.
    pub(crate) fn kill_host(&self, at: usize) -> bool {
        let mut hosts = lock(&self.hosts);
        let host = &mut hosts[at];
        let Some((node, port)) = host.running.take() else { return false };
        port.kill();
        host.disk = host.disk.crash();
        host.journal = host.journal.crash();
        drop(node);
        self.history().note(&format!("{} is killed", host.name));
        true
    }

    /// Kills a node, also one that just starts.
    pub(crate) async fn stop_host(&self, at: usize) {
        while lock(&self.hosts)[at].starting {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.kill_host(at);
    }

    /// Gives a node that does not run empty disks.
    pub(crate) fn wipe_host(&self, at: usize, random: &mut Random) {
        let mut hosts = lock(&self.hosts);
        let host = &mut hosts[at];
        host.disk = FaultyDisk::new(random.next());
        host.journal = JournalFile::new(random.fork(), false);
        host.opened = false;
        self.history().note(&format!("{} lost its disk", host.name));
    }

    /// Invites a node anew.
    pub(crate) async fn invite_host(&self, at: usize) {
        let operator = self.operator().await;
        let token = operator.create_join_token().await.expect("nothing befalls the operator's state");
        lock(&self.hosts)[at].token = token.to_string();
    }

    /// One call of the API.
    async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> io::Result<Value> {
        let form = encode_pairs(parameters);
        let now = lock(&self.planes)[0].clock.now();
        let nonce = format!("{:016x}", lock(&self.nonces).next());
        let ask = Ask { method: &Method::POST, action, version: "2018-05-10", now, nonce: &nonce };
        let headers = sign_v3(KEY, ask, "control:9680", &[], form.as_bytes(), &[("accept", "application/json")]);
        let mut request =
            format!("POST / HTTP/1.1\r\nhost: control:9680\r\nconnection: close\r\ncontent-length: {}\r\n", form.len());
        for (name, value) in headers.iter().filter(|(name, _)| name != "host") {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(&form);
        let exchange = async {
            let end = self.user.dial("control:9680", WIDE).await?;
            http1::exchange(end, request.as_bytes(), Duration::ZERO).await
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        let answer = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let body: Value = serde_json::from_slice(&answer.body?).map_err(io::Error::other)?;
        if answer.status == 200 {
            Ok(body)
        } else {
            Err(io::Error::other(format!("{} {}", answer.status, body["Code"])))
        }
    }

    /// Adds the domain, and waits until every node serves it.
    async fn settle(&self) {
        let sources = r#"[{"content":"origin","type":"domain","priority":"20","port":80,"weight":"10"}]"#;
        let added = [("DomainName", DOMAIN), ("CdnType", "web"), ("Sources", sources), ("Scope", "global")];
        self.call("AddCdnDomain", &added).await.expect("nothing goes wrong yet");
        let deadline = Instant::now() + PATIENCE;
        'waiting: loop {
            if Instant::now() > deadline {
                self.history().violation("the nodes do not come up though nothing went wrong yet".to_owned());
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let detail = self.call("DescribeCdnDomainDetail", &[("DomainName", DOMAIN)]).await;
            if !detail.is_ok_and(|detail| detail["GetDomainDetailModel"]["DomainStatus"] == "online") {
                continue;
            }
            for at in 0..self.nodes() {
                if self.ask(at, PATHS[0], "", WIDE, Duration::ZERO).await != Some(200) {
                    continue 'waiting;
                }
            }
            break;
        }
        self.history().note("all is set up");
    }

    /// One user's request of whatever kind; its status.
    pub(crate) async fn read(&self, at: usize, path: &str, random: &mut Random) -> Option<u16> {
        let more = match random.next() % 16 {
            0 => "cache-control: max-stale\r\n".to_owned(),
            1 => "accept-encoding: gzip\r\n".to_owned(),
            2 => "range: bytes=0-9\r\n".to_owned(),
            3 => format!("if-none-match: \"{}\"\r\n", self.origin.version(path).saturating_sub(1)),
            _ => String::new(),
        };
        // Some users read slowly, over connections that hold little.
        let slow = random.one_in(12);
        let (capacity, pause) = if slow { (64, random.millis(1..4_000)) } else { (WIDE, Duration::ZERO) };
        self.ask(at, path, &more, capacity, pause).await
    }

    /// One user's request; its status.
    async fn ask(&self, at: usize, path: &str, more: &str, capacity: usize, pause: Duration) -> Option<u16> {
        let name = lock(&self.hosts)[at].name.clone();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {DOMAIN}\r\nconnection: close\r\n{more}\r\n");
        let begun = Instant::now();
        let exchange = async {
            let end = self.user.dial(&format!("{name}:80"), capacity).await?;
            http1::exchange(end, request.as_bytes(), pause).await
        };
        let answer = match tokio::time::timeout(Duration::from_secs(6), exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => return None,
        };
        if !matches!(answer.status, 200 | 206 | 304) {
            self.history().note(&format!("{name} answers {} for {path}", answer.status));
            return Some(answer.status);
        }
        let etag =
            answer.headers.get("etag").and_then(|etag| etag.trim_start_matches("W/").trim_matches('"').parse().ok());
        let version = answer.headers.get("x-version").and_then(|version| version.parse().ok()).or(etag);
        let Some(version) = version else {
            let text = format!("{name} answers {} for {path} without a version", answer.status);
            self.history().violation(text);
            return Some(answer.status);
        };
        let line = format!("{path} {version}");
        if answer.status == 200
            && let Ok(body) = &answer.body
            && (body.is_empty() || !String::from_utf8_lossy(body).lines().all(|have| have == line))
        {
            let text = format!("TORN: {name} sent a body of {path} v{version} that is not of it");
            self.history().violation(text);
        }
        let outside = lock(&self.outside).iter().any(|(node, from, until)| {
            *node == name && *from <= answer.written && until.is_none_or(|until| answer.written <= until)
        });
        if !outside {
            let read = Read { node: name, path: path.to_owned(), version, begun, sent: answer.written };
            self.history().read(&read);
        }
        Some(answer.status)
    }

    /// Users who read now and then, until `end`.
    async fn reads(self, mut random: Random, end: Instant) {
        while Instant::now() < end {
            tokio::time::sleep(random.millis(5..250)).await;
            let hosts = self.nodes() as u64;
            let (at, path) = (random.within(0..hosts) as usize, *random.pick(&PATHS));
            self.read(at, path, &mut random).await;
        }
    }

    /// A customer who changes things and refreshes them, until `end`.
    async fn refreshes(self, mut random: Random, end: Instant) {
        while Instant::now() < end {
            tokio::time::sleep(random.millis(50..1_200)).await;
            if self.history().open().len() >= OPEN_MAX {
                continue;
            }
            // Now and then just while nodes cannot hear of it, and then a few of them at once.
            let mut many = 1;
            if random.one_in(if self.focused { 1 } else { 3 }) {
                nemesis::isolate(&self, &mut random, end);
                tokio::time::sleep(random.millis(0..300)).await;
                many = random.within(1..5);
            }
            for _ in 0..many {
                self.refresh(&mut random).await;
            }
        }
    }

    /// Asks for the tasks that are open, and looks at once whether those that are complete are true, until `end` or until there are
    /// none.
    async fn watch(self, mut random: Random, end: Instant, all: bool) {
        let every = *random.pick(&[40, 300, 300]);
        let mut looking = tokio::task::JoinSet::new();
        while Instant::now() < end && !(all && self.history().open().is_empty()) {
            tokio::time::sleep(random.millis(20..every)).await;
            for task in self.look().await {
                let (world, mut random) = (self.clone(), random.fork());
                looking.spawn(async move { world.look_around(&task, &mut random).await });
            }
            while looking.try_join_next().is_some() {}
        }
        while looking.join_next().await.is_some() {}
    }

    /// Changes what a refresh will cover, and submits it; the task's id, when it is known to be accepted.
    pub(crate) async fn refresh(&self, random: &mut Random) -> Option<String> {
        let path = *random.pick(&PATHS);
        let bare = path.split('?').next().unwrap_or(path);
        let site = format!("http://{DOMAIN}");
        let (kind, object, covered): (&str, String, Vec<&str>) = match random.next() % 8 {
            0 | 1 => {
                let directory = &path[..=path.rfind('/').unwrap_or(0)];
                let covered = PATHS.iter().copied().filter(|path| path.starts_with(directory)).collect();
                ("Directory", format!("{site}{directory}"), covered)
            }
            2 => {
                let digit = PATHS.iter().copied().filter(|path| path.ends_with(|last: char| last.is_ascii_digit()));
                let covered = digit.filter(|path| path.starts_with("/a/")).collect();
                ("Regex", format!("{site}/a/.*[0-9]"), covered)
            }
            3 => ("ExQuery", format!("{site}{bare}"), vec![path]),
            4 => {
                let tag = origin::tag(path);
                ("Tag", tag.clone(), PATHS.iter().copied().filter(|path| origin::tag(path) == tag).collect())
            }
            _ => ("File", format!("{site}{path}"), vec![path]),
        };
        let mut versions = BTreeMap::new();
        for path in covered {
            // Not everything that is refreshed has changed: then a 304 keeps it.
            let version = if random.one_in(4) { self.origin.version(path) } else { self.origin.change(path) };
            versions.insert(path.to_owned(), version);
        }
        let force = if random.one_in(4) { "true" } else { "false" };
        let called = if kind == "Tag" {
            let parameters = [("DomainName", DOMAIN), ("CacheTag", object.as_str()), ("Force", force)];
            self.call("RefreshObjectCacheByCacheTag", &parameters).await
        } else {
            let parameters = [("ObjectPath", object.as_str()), ("ObjectType", kind), ("Force", force)];
            self.call("RefreshObjectCaches", &parameters).await
        };
        match called {
            Ok(reply) => {
                let task = reply["RefreshTaskId"].as_str()?.to_owned();
                self.history().accepted(&task, versions);
                Some(task)
            }
            Err(error) => {
                self.history().note(&format!("refresh of {kind} {object}: {error}"));
                None
            }
        }
    }

    /// Tasks that read `Complete` for the first time.
    async fn look(&self) -> Vec<String> {
        let open = self.history().open();
        let mut complete = Vec::new();
        for ids in open.chunks(IDS_AT_ONCE) {
            let Ok(reply) = self.call("DescribeRefreshTaskById", &[("TaskId", &ids.join(","))]).await else { continue };
            let lines = reply["Tasks"].as_array().map_or(&[][..], Vec::as_slice);
            for id in ids {
                let mut of_it = lines.iter().filter(|line| line["TaskId"] == id.as_str()).peekable();
                let done = of_it.peek().is_some() && of_it.all(|line| line["Status"] == "Complete");
                if done && self.history().complete(id) {
                    complete.push(id.clone());
                }
            }
        }
        complete
    }

    /// Reads what a task was about from every node, all at once.
    async fn look_around(&self, task: &str, random: &mut Random) {
        let paths = self.history().paths(task);
        let mut reading = tokio::task::JoinSet::new();
        for at in 0..self.nodes() {
            let path = random.pick(&paths).clone();
            let (world, mut random) = (self.clone(), random.fork());
            reading.spawn(async move { world.read(at, &path, &mut random).await });
        }
        while reading.join_next().await.is_some() {}
    }

    /// All is made well; then every task must complete, and every node serve what the origin has.
    async fn healed(&self) {
        self.net.heal_all();
        self.origin.get_well();
        for at in 0..self.replicas() {
            self.start_plane(at).await;
            lock(&self.planes)[at].faults.clear();
        }
        for at in 0..self.nodes() {
            self.start_host(at).await;
        }
        self.history().note("all is healed");
        self.clone().watch(Random::new(1), Instant::now() + HEALED_MAX, true).await;
        let open = self.history().open();
        if !open.is_empty() {
            let text = format!("tasks {open:?} are not complete {} s after all was healed", HEALED_MAX.as_secs());
            self.history().violation(text);
        }
        // Whoever waited for a slow link is back by now.
        for at in 0..self.nodes() {
            for path in PATHS {
                self.must_serve(at, path, "though all is healed").await;
            }
        }
        self.lagging().await;
    }

    /// A parent that does not hear of a refresh must not keep its children from serving what was refreshed: its answers reflect
    /// what it was asked to reflect.
    async fn lagging(&self) {
        let parent = lock(&self.hosts).iter().find(|host| host.tier > Tier::L1).map(|host| host.name.clone());
        let Some(parent) = parent else { return };
        self.net.cut("control", &parent);
        self.history().note(&format!("{parent} lags"));
        let path = PATHS[0];
        self.origin.change(path);
        let object = format!("http://{DOMAIN}{path}");
        let parameters = [("ObjectPath", object.as_str()), ("ObjectType", "File")];
        if let Err(error) = self.call("RefreshObjectCaches", &parameters).await {
            self.history().violation(format!("a refresh is refused though all is healed: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        for at in 0..self.nodes() {
            self.must_serve(at, path, &format!("because {parent} lags")).await;
        }
        self.net.heal("control", &parent);
    }

    /// A node must serve a path, if not at once.
    async fn must_serve(&self, at: usize, path: &str, why: &str) {
        let deadline = Instant::now() + HEALED_MAX;
        while self.ask(at, path, "", WIDE, Duration::ZERO).await.is_none_or(|status| status >= 400) {
            if Instant::now() > deadline {
                let name = lock(&self.hosts)[at].name.clone();
                self.history().violation(format!("{name} does not serve {path} {why}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
