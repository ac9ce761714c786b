//! One run: its hosts and what they do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use aliyun::AccessKey;
use control::state::memory::{Faults, Memory};
use control::{Control, Operator, Seal, Times};
use model::{Clock, Coverage, Isolation, NodeName, PopName, Tier};
use node::{Bounds, DiskTier, Machine, MemoryTier, Node, NodeConfig, SliceSizes, StartError};
use store::disk::FaultyDisk;
use tokio::runtime::RngSeed;
use tokio::time::Instant;

use crate::clock::HostClock;
use crate::history::History;
use crate::journal::JournalFile;
use crate::nemesis;
use crate::net::{Net, Port, WIDE};
use crate::origin::{Origin, PATHS};
use crate::random::Random;

/// The host that users request.
pub const DOMAIN: &str = "sim.test";

pub(crate) const KEY: AccessKey<'static> = AccessKey { id: "sim-key", secret: "sim-secret" };

/// The margin added to a lease. Clocks of a run are wrong by at most a tenth, leases are at most 3 s, and a waiting
/// header is checked again every quarter of a second: 2 × 0.1 × 3 s ÷ 0.9 + 0.25 s.
const MARGIN: Duration = Duration::from_secs(1);

/// Slice sizes of the nodes: the body of the long path has two or three slices.
const SLICES: SliceSizes = SliceSizes { slice: 16 << 10, least: 20 << 10 };

/// How long faults are injected.
const CHAOS: Duration = Duration::from_secs(9);

/// Longest wait for something that must happen in the absence of faults.
const PATIENCE: Duration = Duration::from_secs(20);

/// The parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed of all random choices.
    pub seed: u64,
    /// The clause of the fence to switch off.
    pub mistake: Option<model::Mistake>,
    /// Whether to keep events to be shown.
    pub trace: bool,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Equal for equal histories.
    pub digest: u64,
    /// Broken promises; empty if all is well.
    pub violations: Vec<String>,
    /// The events, if they were to be kept.
    pub events: Vec<String>,
    /// Responses of nodes that were checked.
    pub reads: u64,
    /// Refreshes that were accepted.
    pub refreshes: u64,
    /// Faults that were injected.
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

/// One cache node of a run, whether or not it is running.
pub struct Host {
    /// Its name.
    pub name: String,
    pub(crate) tier: Tier,
    isolation: Isolation,
    clock: HostClock,
    pub(crate) disk: FaultyDisk,
    pub(crate) journal: JournalFile,
    /// The join token it starts with.
    token: String,
    retire_above: usize,
    starting: bool,
    /// Whether the journal was ever complete: a start that is cut short before that leaves a file that the next start
    /// creates anew.
    pub(crate) opened: bool,
    pub(crate) running: Option<(Node, Port)>,
}

/// A replica of the control plane of a run.
pub struct Plane {
    pub(crate) faults: Faults,
    pub(crate) clock: HostClock,
    pub(crate) lease_secs: u64,
    pub(crate) running: Option<(Control, Port)>,
}

/// A period in which a node was not a member, so that nothing was promised for it.
pub(crate) struct Outside {
    pub(crate) node: String,
    pub(crate) from: Instant,
    pub(crate) until: Option<Instant>,
}

/// The state of a run. Clones share it.
#[derive(Clone)]
pub struct World {
    pub(crate) net: Net,
    pub(crate) origin: Origin,
    /// The state store shared by all replicas.
    pub(crate) memory: Memory,
    pub(crate) hosts: Arc<Mutex<Vec<Host>>>,
    pub(crate) planes: Arc<Mutex<Vec<Plane>>>,
    history: Arc<Mutex<History>>,
    pub(crate) user: Port,
    pub(crate) nonces: Arc<Mutex<Random>>,
    operator_faults: Faults,
    /// Isolates nodes more often while refreshes run, to make mistakes show.
    pub(crate) focused: bool,
    pub(crate) outside: Arc<Mutex<Vec<Outside>>>,
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
        Outcome {
            seed: plan.seed,
            digest: history.digest(),
            violations: history.violations.clone(),
            events: history.events.clone(),
            reads: history.reads,
            refreshes: history.refreshes(),
            faults,
        }
    }

    /// From now on nothing is promised for this node.
    pub(crate) fn put_outside(&self, name: &str) {
        lock(&self.outside).push(Outside { node: name.to_owned(), from: Instant::now(), until: None });
    }

    /// From now on this node is a member, or sends nothing.
    pub(crate) fn take_inside(&self, name: &str) {
        let mut outside = lock(&self.outside);
        let open = outside.iter_mut().filter(|time| time.node == name && time.until.is_none());
        open.for_each(|time| time.until = Some(Instant::now()));
    }

    /// The number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        lock(&self.hosts).len()
    }

    /// The number of control plane replicas, which share one state store.
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
        // The number of nodes in each tier.
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
                    disk: FaultyDisk::new(random.draw()),
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

    /// An operator, beside the control plane.
    pub(crate) async fn operator(&self) -> Operator {
        let (state, clock) = (self.memory.open(&self.operator_faults), lock(&self.planes)[0].clock);
        Operator::over(state, seal(), Arc::new(clock)).await.expect("nothing befalls the operator's state")
    }

    /// Starts a replica of the control plane, unless it is running.
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
        let times = Times {
            lease_secs: Some(lease_secs),
            margin: MARGIN,
            prefetch_deadline: PATIENCE,
            rules: Default::default(),
            audit_history: Duration::from_secs(86_400),
        };
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
            // It can reach nobody any more; it is stopped.
            tokio::spawn(control.stop());
            self.history().note(&format!("control plane {at} is killed"));
        }
    }

    /// Starts a node, unless it is running; `false` if its disk failed.
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
                bounds: Bounds { retire_above: host.retire_above, slices: SLICES },
            };
            let nowhere = ([0, 0, 0, 0], 0).into();
            let config = NodeConfig {
                name: NodeName::parse(&host.name).expect("names of hosts are good"),
                pop: PopName::parse("p").expect("a good name"),
                tier: host.tier,
                listen: nowhere,
                advertise_url: format!("http://{}:80", host.name),
                listen_tls: None,
                admin_listen: nowhere,
                control_url: "http://control:9681".to_owned(),
                join_token_file: PathBuf::new(),
                memory: MemoryTier { capacity_bytes: 1 << 20 },
                disk: vec![DiskTier { path: PathBuf::from(&host.name), capacity_bytes: 4 << 20 }],
                state_path: None,
                isolation: host.isolation,
                origin: Default::default(),
                connections_max: 1000,
                access_log: None,
                drain_grace_secs: 0,
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

    /// Starts a node, unless it is running; retries if its disk fails during the start.
    pub(crate) async fn start_host(&self, at: usize) {
        while !self.try_start(at).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Kills a node; its disk keeps what was synced, and possibly more.
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

    /// Kills a node, even while it is starting.
    pub(crate) async fn stop_host(&self, at: usize) {
        while lock(&self.hosts)[at].starting {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.kill_host(at);
    }

    /// Gives empty disks to a node that is not running.
    pub(crate) fn wipe_host(&self, at: usize, random: &mut Random) {
        let mut hosts = lock(&self.hosts);
        let host = &mut hosts[at];
        host.disk = FaultyDisk::new(random.draw());
        host.journal = JournalFile::new(random.fork(), false);
        host.opened = false;
        self.history().note(&format!("{} lost its disk", host.name));
    }

    /// Makes a new invitation for a node.
    pub(crate) async fn invite_host(&self, at: usize) {
        let operator = self.operator().await;
        let token = operator.create_join_token().await.expect("nothing befalls the operator's state");
        lock(&self.hosts)[at].token = token.to_string();
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
}
