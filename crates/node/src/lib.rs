//! A cache node: it answers users and children from its store, and asks a parent or the origin for the rest.
//!
//! `pipeline` is the place to start: `handle` takes a request from key to answer, and its one `match` on the decision
//! shows everything that can happen. `link` follows the control plane; `knowing` holds what the log has told the node,
//! `index` the invalidations, `journal` what of that survives a restart; `sweep` removes from the store what entries
//! say to delete.
//!
//! # What always holds
//!
//! - [`model::fence`] alone decides who may be sent which body, at every header.
//! - A prefetch is a GET with another purpose. There is no second way into the store.
//! - Every queue, table and loop has a named maximum, and the metrics show it.
//!
//! # Not here
//!
//! SQL, accounts, and any word of the public API. A node goes on serving while the control plane is away, within what
//! its lease allows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use model::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use config::{ConfigError, DiskTier, MemoryTier, NodeConfig, OriginConfig};
pub use journal::JournalError;
pub use machine::{Bounds, Machine};
pub use network::{Endpoint, Network, Stream};
pub use slices::SliceSizes;

mod access;
mod admin;
mod circle;
mod config;
mod connection;
mod exchange;
mod figures;
mod fill;
mod flood;
mod framing;
mod functions;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod head;
mod health;
mod hot;
mod index;
mod interim;
#[cfg(feature = "internals")]
pub mod internals;
mod join;
mod journal;
mod knowing;
mod limiter;
mod link;
mod listener;
mod lookup;
mod machine;
mod metrics;
mod network;
mod parents;
mod parts;
mod peer;
mod pins;
mod pipeline;
mod pool;
mod prefetch;
mod resolve;
mod respond;
mod room;
mod slices;
mod sources;
mod streams;
mod sweep;
mod tls;
mod upload;
mod upstream;
mod vouched;
mod wanted;

use access::AccessLog;
use figures::Figures;
use fill::Fills;
use join::JoinToken;
use journal::Journal;
use knowing::Knowing;
use link::Link;
use listener::Front;
use metrics::Metrics;
use network::Internet;
use pipeline::Pipeline;
use prefetch::Prefetch;
use sweep::Sweeper;
use tls::Certificates;
use upstream::Upstream;

#[cfg(test)]
mod tests;

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("`{field}`: cannot listen on {address}")]
    Listen {
        /// The key of the configuration.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// The error of the system, usually a port in use.
        #[source]
        source: std::io::Error,
    },
    /// The node has not joined before, and there is no invitation.
    #[error("`join_token_file`: `{}`: {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The journal.
    #[error("open the node's journal")]
    Journal(#[from] JournalError),
    /// The store.
    #[error("open the store")]
    Store(#[from] store::OpenError),
    /// The operator's authorities cannot be read.
    #[error("`origin.ca_file`: `{}`: {problem}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The access log.
    #[error("`access_log`: open `{}`", path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: std::io::Error,
    },
    /// TLS towards origins.
    #[error("prepare TLS")]
    Tls(#[from] rustls::Error),
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[source] std::io::Error),
}

/// How long a stopping node waits for the control plane to take its figures.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// A running node.
pub struct Node {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    admin_address: SocketAddr,
    front: Arc<Front>,
    /// Ends the tasks that are not bound to a core, after the last answer.
    ending: CancellationToken,
    drain_grace: Duration,
    threads: Vec<std::thread::JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    store: store::Store,
}

impl Node {
    /// Starts a node. Everything that is not bound to a core runs on the calling runtime, which must live as long as
    /// the node. The node serves once the control plane has welcomed it, or at once when it was a member before.
    pub async fn start(config: NodeConfig, clock: Arc<dyn Clock>) -> Result<Node, StartError> {
        config.check()?;
        // With two different providers present rustls would refuse to choose. One that is installed already is the same
        // as ours.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listen_error = |field, address| move |source| StartError::Listen { field, address, source };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let sockets = listener::bind(config.listen, cores).map_err(listen_error("listen", config.listen))?;
        let tls_sockets = match config.listen_tls {
            None => Vec::new(),
            Some(listen_tls) => listener::bind(listen_tls, cores).map_err(listen_error("listen_tls", listen_tls))?,
        };
        let admin_sockets =
            listener::bind(config.admin_listen, 1).map_err(listen_error("admin_listen", config.admin_listen))?;
        let local = |sockets: &[std::net::TcpListener], asked| {
            sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(asked)
        };
        let (address, admin_address) = (local(&sockets, config.listen), local(&admin_sockets, config.admin_listen));

        let tls_address = config.listen_tls.map(|asked| local(&tls_sockets, asked));

        let journal = Journal::open(&config.state_dir())?;
        let known = Known::of(&journal, read_token(&config), &config)?;
        let store = store::Store::open(config.store()).await?;
        let internet = Internet::new(&config.origin)?;
        let (drain_grace, connections_max) = (Duration::from_secs(config.drain_grace_secs), config.connections_max);
        let log = config.access_log.as_deref().map(|path| {
            let failed = |source| StartError::AccessLog { path: path.to_owned(), source };
            AccessLog::open(path).map_err(failed)
        });
        let log = log.transpose()?;
        let parts = Parts::new(config, clock, Arc::new(internet.clone()), journal, store, known, BOUNDS)?;
        parts.pin_again().await?;
        let (stopping, ending) = (CancellationToken::new(), CancellationToken::new());
        let front = Front::new(parts.pipeline.clone(), log, connections_max, &stopping);
        let mut node = Node {
            address,
            tls_address,
            admin_address,
            front: front.clone(),
            ending: ending.clone(),
            drain_grace,
            threads: Vec::new(),
            tasks: Vec::new(),
            store: parts.store.clone(),
        };
        tracing::info!(%address, tls_address = tls_address.map(tracing::field::display), %admin_address, "node started");
        let mut tls_sockets = tls_sockets.into_iter();
        for socket in sockets {
            let tls = tls_sockets.next().map(|socket| (socket, parts.certificates.clone()));
            node.threads.push(serve_on_a_thread(socket, tls, front.clone())?);
        }
        let admin = parts.admin(internet, front);
        node.tasks.extend(parts.run(&ending));
        for socket in admin_sockets {
            let (admin, ending) = (admin.clone(), ending.clone());
            node.tasks.push(tokio::spawn(async move {
                if let Err(error) = admin::serve(socket, admin, ending).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "admin listener ended");
                }
            }));
        }
        Ok(node)
    }

    /// Starts a node on a machine other than this one, such as a simulated one. It has no sockets and no threads of its
    /// own; users and children arrive through `incoming`. `token` is the text of an invitation, needed until the node
    /// has joined.
    pub async fn start_on<S: Stream>(
        machine: Machine<impl redb::StorageBackend>,
        config: NodeConfig,
        token: Option<&str>,
        incoming: mpsc::Receiver<S>,
    ) -> Result<Node, StartError> {
        let Machine { clock, network, disks, journal, bounds } = machine;
        let journal = Journal::open_on(journal)?;
        let token = token.ok_or_else(|| "none was given".to_owned());
        let token = token.and_then(|text| JoinToken::parse(text).map_err(|error| error.to_string()));
        let known = Known::of(&journal, token, &config)?;
        let store = store::Store::open_on(config.store(), disks).await?;
        let (address, admin_address) = (config.listen, config.admin_listen);
        let connections_max = config.connections_max;
        let parts = Parts::new(config, clock, network, journal, store, known, bounds)?;
        parts.pin_again().await?;
        let (stopping, ending) = (CancellationToken::new(), CancellationToken::new());
        let store = parts.store.clone();
        let front = Front::new(parts.pipeline.clone(), None, connections_max, &stopping);
        let mut tasks = vec![tokio::spawn(listener::serve_on(incoming, front.clone()))];
        tasks.extend(parts.run(&ending));
        let drain_grace = Duration::ZERO;
        let threads = Vec::new();
        Ok(Node { address, tls_address: None, admin_address, front, ending, drain_grace, threads, tasks, store })
    }

    /// The address users are served on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address users are served on by TLS, if any.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// The address of health and metrics.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Opens the access log anew, after its file was moved away.
    pub fn reopen_access_log(&self) {
        self.front.log.iter().for_each(AccessLog::reopen);
    }

    /// Stops without failing a request: answers on `/readyz` that the node is leaving, asks clients to leave, refuses
    /// new connections once the configured grace is over, lets running answers end within a bound, and makes the store
    /// durable.
    pub async fn drain(self) {
        tracing::info!(grace = ?self.drain_grace, "draining");
        self.front.draining.cancel();
        tokio::time::sleep(self.drain_grace).await;
        self.end(listener::DRAIN_MAX).await;
    }

    /// Stops: takes no more connections, gives running answers a bounded time to end, and makes the store durable.
    pub async fn stop(self) {
        self.end(listener::STOP_MAX).await;
    }

    async fn end(mut self, running_max: Duration) {
        self.front.stop(running_max);
        let threads = std::mem::take(&mut self.threads);
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| _ = thread.join())).await;
        debug_assert!(joined.is_ok());
        self.front.pipeline.figures().flush(FLUSH_MAX).await;
        // The control plane is followed until here: a running answer could still be judged anew, which needs current
        // knowledge.
        self.ending.cancel();
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        if let Err(error) = self.store.close().await {
            tracing::error!(error = &error as &dyn std::error::Error, "store was not closed cleanly");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.front.stopping.cancel();
        self.ending.cancel();
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A node without the source of its connections.
struct Parts {
    pipeline: Arc<Pipeline>,
    prefetch: Arc<Prefetch>,
    link: Link,
    store: store::Store,
    certificates: Arc<Certificates>,
}

/// A node's identity at start: a member that remembers itself, or a node with an invitation.
struct Known {
    remembered: Option<journal::Remembered>,
    token: Option<JoinToken>,
}

impl Known {
    fn of(journal: &Journal, token: Result<JoinToken, String>, config: &NodeConfig) -> Result<Known, StartError> {
        let mut remembered = journal.load()?;
        // An invitation other than the one it joined with: the operator wants it to join anew.
        let invited_again =
            |remembered: &journal::Remembered| matches!(&token, Ok(token) if token.id != remembered.identity.token_id);
        if remembered.as_ref().is_some_and(invited_again) {
            remembered = None;
        }
        match (token, remembered) {
            (Ok(token), remembered) => Ok(Known { remembered, token: Some(token) }),
            (Err(_), Some(remembered)) => Ok(Known { remembered: Some(remembered), token: None }),
            (Err(problem), None) => Err(StartError::Token { path: config.join_token_file.clone(), problem }),
        }
    }
}

/// The bounds of a node on a real machine.
const BOUNDS: Bounds = Bounds { retire_above: link::RETIRE_ABOVE, slices: slices::SIZES };

impl Parts {
    fn new(
        config: NodeConfig,
        clock: Arc<dyn Clock>,
        network: Arc<dyn Network>,
        journal: Journal,
        store: store::Store,
        known: Known,
        bounds: Bounds,
    ) -> Result<Parts, rustls::Error> {
        let Known { remembered, token } = known;
        let identity = remembered.as_ref().map(|remembered| remembered.identity.clone());
        let kept = remembered.as_ref().map_or(0, |remembered| remembered.entries.len());
        let sweeper = Arc::new(match &remembered {
            None => Sweeper::default(),
            Some(kept) => {
                let entries = kept.entries.iter().map(|(revision, entry)| (*revision, entry));
                Sweeper::new(kept.swept, kept.floor, entries)
            }
        });
        let knowing = Arc::new(Knowing::new(config.name.clone(), config.isolation, clock, remembered));
        let (pipeline, prefetch) =
            assemble(knowing.clone(), network.clone(), store.clone(), journal.clone(), bounds.slices);
        let certificates = Arc::new(Certificates::new(knowing.clone(), pipeline.metrics().clone())?);
        if let Some(identity) = &identity {
            certificates.open_with(&identity.certificate_secret);
        }
        let limiter = pipeline.fills().upstream().limiter().clone();
        // True until the control plane says that it lends no shares.
        limiter.connected(true);
        let link = Link {
            config: Arc::new(config),
            knowing,
            network,
            journal,
            identity,
            token,
            store: store.clone(),
            prefetch: prefetch.clone(),
            sweeper,
            certificates: certificates.clone(),
            figures: pipeline.figures().clone(),
            limiter,
            connected: Arc::new(AtomicBool::new(false)),
            kept,
            retire_above: bounds.retire_above,
            retiring: None,
        };
        Ok(Parts { pipeline, prefetch, link, store, certificates })
    }

    fn admin(&self, internet: Internet, front: Arc<Front>) -> Arc<admin::Admin> {
        Arc::new(admin::Admin {
            pipeline: self.pipeline.clone(),
            internet,
            prefetch: self.prefetch.clone(),
            sweeper: self.link.sweeper.clone(),
            connected: self.link.connected.clone(),
            front,
        })
    }

    /// Restores the pins in the store, before anything is written into it.
    async fn pin_again(&self) -> Result<(), JournalError> {
        self.pipeline.pins().load(self.link.knowing.clock().now()).await
    }

    /// Starts the tasks that are not bound to a core.
    fn run(self, stopping: &CancellationToken) -> [JoinHandle<()>; 4] {
        let (store, knowing, journal) = (self.store, self.link.knowing.clone(), self.link.journal.clone());
        let sweeping = self.link.sweeper.clone().run(store, knowing, journal, stopping.clone());
        let pins = self.pipeline.pins().clone().run(self.link.knowing.clock().clone(), stopping.clone());
        let link = tokio::spawn(self.link.run(stopping.clone()));
        [
            link,
            tokio::spawn(pins),
            tokio::spawn(self.prefetch.run(self.pipeline, stopping.clone())),
            tokio::spawn(sweeping),
        ]
    }
}

/// The data plane, built around the node's knowledge and its store.
fn assemble(
    knowing: Arc<Knowing>,
    network: Arc<dyn Network>,
    store: store::Store,
    journal: Journal,
    slices: SliceSizes,
) -> (Arc<Pipeline>, Arc<Prefetch>) {
    let metrics = Arc::new(Metrics::default());
    let figures = Arc::new(Figures::new(knowing.clock().now()));
    let upstream = Upstream::new(knowing.clone(), network, figures.clone());
    let main = tokio::runtime::Handle::current();
    let fills = Arc::new(Fills::new(main, knowing.clone(), store.clone(), upstream, slices, metrics.clone()));
    let pins = Arc::new(pins::Pins::new(store.clone(), journal));
    let pipeline = Arc::new(Pipeline::new(knowing, store, fills, metrics, figures, pins));
    (pipeline, Arc::new(Prefetch::new()))
}

fn read_token(config: &NodeConfig) -> Result<JoinToken, String> {
    let text = std::fs::read_to_string(&config.join_token_file).map_err(|error| error.to_string())?;
    JoinToken::parse(&text).map_err(|error| error.to_string())
}

fn serve_on_a_thread(
    socket: std::net::TcpListener,
    tls: Option<(std::net::TcpListener, Arc<Certificates>)>,
    front: Arc<Front>,
) -> Result<std::thread::JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
    let serve = move || {
        let plain = listener::serve(socket, None, front.clone());
        let secure = async {
            match tls {
                None => Ok(()),
                Some((socket, certificates)) => listener::serve(socket, Some(certificates), front).await,
            }
        };
        let (plain, secure) = runtime.block_on(async { tokio::join!(plain, secure) });
        for error in [plain, secure].into_iter().filter_map(Result::err) {
            tracing::error!(error = &error as &dyn std::error::Error, "listener ended");
        }
    };
    std::thread::Builder::new().name("node-http".to_owned()).spawn(serve).map_err(StartError::Thread)
}
