//! The control plane: takes tasks from clients of the public API, stores them, and tells every node what to know and
//! fetch.
//!
//! `api` is the public API, `app` the verbs behind it, `state` everything durable. `link` speaks with nodes,
//! `scheduler` hands out prefetch jobs, `completion` decides when a refresh is complete. [`Control::start`] wires them.
//! [`Operator`] is the other way in, for those who can write the database.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::{Clock, Entry, Settings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity as TlsIdentity, Server, ServerTlsConfig};

use crate::state::submit::Accepting;
use crate::state::{StateError, millis};

mod api;
mod app;
mod certificate;
mod completion;
pub mod config;
mod connection;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod heads;
mod keys;
mod known;
mod limits;
mod link;
mod metrics;
mod operator;
mod ownership;
mod passes;
pub mod policy;
pub mod receipt;
mod scheduler;
mod seal;
mod shares;
pub mod state;
mod strangers;
#[cfg(test)]
mod testing;

pub use config::{ConfigError, ControlConfig, StateUrl};
pub use operator::{NodeView, Operator, OperatorError, ShownKey};
pub use seal::{Seal, SealError};
pub use state::State;

/// How often expired records are deleted.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// How long a spent nonce is kept: longer than a signature can be valid by any clock.
const NONCES_KEPT: Duration = Duration::from_secs(4 * aliyun::WINDOW.as_secs());

/// How long a row of shares is kept after a node last asked for it: far longer than any lease.
const SHARES_KEPT: Duration = Duration::from_secs(86_400);

/// Invalidations kept in the log; a node that is further behind starts from a snapshot.
const INVALIDATIONS_KEPT: u64 = 1_000_000;

/// How long a stopping control plane waits for requests in progress.
const STOPPING_MAX: Duration = Duration::from_secs(5);

/// How long a starting control plane waits for a database that refuses connections.
const DATABASE_WAIT: Duration = Duration::from_secs(30);

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address is in use, or not this machine's.
    #[error("listen on {address} (`{key}`)")]
    Listen {
        /// The key in the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The database.
    #[error(transparent)]
    State(#[from] StateError),
    /// The sealing key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The identity in the database.
    #[error(transparent)]
    Identity(#[from] state::identity::IdentityError),
    /// The certificate of the link.
    #[error("certificate of the link")]
    Certificate(#[from] rcgen::Error),
    /// TLS of the link.
    #[error("TLS of the link")]
    Tls(#[from] tonic::transport::Error),
}

/// A running control plane.
pub struct Control {
    api: SocketAddr,
    link: SocketAddr,
    stopping: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    state: State,
}

/// Opens the database. Waits up to [`DATABASE_WAIT`] while it refuses connections, as after a boot of the machine.
async fn open(url: &StateUrl) -> Result<State, StateError> {
    let until = tokio::time::Instant::now() + DATABASE_WAIT;
    loop {
        match State::open(url).await {
            Err(error) if error.is_refused() && tokio::time::Instant::now() < until => {
                tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            opened => return opened,
        }
    }
}

impl Control {
    /// Starts everything. Once this returns, the API and the link accept connections.
    pub async fn start(config: ControlConfig, clock: Arc<dyn Clock>) -> Result<Control, StartError> {
        // Ports first: a mistake there should cost nothing.
        let api_listener = listen("listen", config.listen).await?;
        let link_listener = listen("link_listen", config.link_listen).await?;
        let (api, link_address) = (address(&api_listener, config.listen), address(&link_listener, config.link_listen));

        let state = open(&config.state).await?;
        let seal = state.seal(&config.secret_key_path()?).await?;
        let identity = state.identity(&seal).await?;
        let (certificate, key) = identity.link_certificate()?;
        let tls = ServerTlsConfig::new()
            .identity(TlsIdentity::from_pem(certificate, key.as_bytes()))
            .timeout(link::HANDSHAKE_MAX);
        let mut control = Control {
            api,
            link: link_address,
            stopping: CancellationToken::new(),
            tasks: Vec::new(),
            state: state.clone(),
        };
        let times = Times {
            lease_secs: config.lease_secs,
            margin: config.margin(),
            prefetch_deadline: config.prefetch_deadline(),
            rules: config.rules(),
            audit_history: config.audit_history(),
        };
        let owners = config.owners();
        let parts = Parts::start(state, seal, identity, clock, times, owners, &control.stopping).await?;
        let (api, link) = (accepted(api_listener), accepted(link_listener));
        control.tasks = parts.serve(api, Server::builder().tls_config(tls)?, link);
        Ok(control)
    }

    /// Starts a control plane whose connections do not come from sockets, but mainly from simulated hosts. The link
    /// runs without TLS.
    pub async fn start_on<S: Stream>(
        state: State,
        seal: Seal,
        clock: Arc<dyn Clock>,
        times: Times,
        api: mpsc::Receiver<S>,
        link: mpsc::Receiver<S>,
    ) -> Result<Control, StartError> {
        let identity = state.identity(&seal).await?;
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let stopping = CancellationToken::new();
        let mut control = Control { api: nowhere, link: nowhere, stopping, tasks: Vec::new(), state: state.clone() };
        let owners = ownership::Wanted::default();
        let parts = Parts::start(state, seal, identity, clock, times, owners, &control.stopping).await?;
        let [api, link] = [api, link].map(|streams| ReceiverStream::new(streams).map(|stream| Ok((stream, None))));
        control.tasks = parts.serve(api, Server::builder(), link);
        Ok(control)
    }

    /// Where the API is served.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Where nodes connect.
    pub fn link_address(&self) -> SocketAddr {
        self.link
    }

    /// Ends sessions, finishes requests in progress, and closes the database.
    pub async fn stop(self) {
        self.stopping.cancel();
        for mut task in self.tasks {
            if tokio::time::timeout(STOPPING_MAX, &mut task).await.is_err() {
                tracing::warn!("a listener did not stop in time");
                task.abort();
            }
        }
        self.state.close().await;
    }
}

/// Durations and rules that a control plane works by.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long nodes may trust their stores after a contact, in seconds; if absent, the value in the log stays.
    pub lease_secs: Option<u64>,
    /// Time to wait beyond a lease (`margin_secs`).
    pub margin: Duration,
    /// How long a prefetch may take.
    pub prefetch_deadline: Duration,
    /// The operator's settings for reading calls, and how long tasks are kept.
    pub rules: aliyun::Rules,
    /// How long the audit log is kept.
    pub audit_history: Duration,
}

/// Everything of a control plane except the sources of its connections.
struct Parts {
    state: State,
    clock: Arc<dyn Clock>,
    door: api::Door,
    link: link::Link,
    stopping: CancellationToken,
    accepting: Accepting,
    history: Histories,
}

/// How long ended tasks and audit records are kept.
#[derive(Clone, Copy)]
struct Histories {
    tasks: Duration,
    audit: Duration,
}

impl Parts {
    async fn start(
        state: State,
        seal: Seal,
        identity: state::Identity,
        clock: Arc<dyn Clock>,
        times: Times,
        owners: ownership::Wanted,
        stopping: &CancellationToken,
    ) -> Result<Parts, StartError> {
        settle_lease(&state, times.lease_secs).await?;
        let stopping = stopping.clone();
        let following = known::Following::start(state.clone(), clock.clone(), stopping.clone()).await?;
        let (accepting, open) = Accepting::start(state.clone()).await?;
        let acknowledged =
            completion::start(state.clone(), following.clone(), clock.clone(), times.margin, stopping.clone()).await?;
        let scheduler = scheduler::Scheduler::start(
            state.clone(),
            &accepting,
            open,
            following.clone(),
            clock.clone(),
            times.prefetch_deadline,
            stopping.clone(),
        );
        let collector = figures::Collector::start(state.clone(), following.clone(), clock.clone(), stopping.clone());
        let shares = shares::Shares::start(state.clone(), following.clone(), clock.clone(), stopping.clone());
        let (signer, log) = (identity.signer.clone(), identity.log.clone());
        let certificate_secret = identity.certificate_secret.clone();
        let ownership = Arc::new(ownership::Ownership::new(&identity.owner_secret, owners));
        let link = link::Link::new(
            state.clone(),
            identity,
            following.clone(),
            link::Listeners { scheduler: scheduler.clone(), acknowledged: acknowledged.clone(), collector, shares },
            clock.clone(),
            stopping.clone(),
        );
        let seal = Arc::new(seal);
        let app = app::App {
            state: state.clone(),
            accepting,
            following,
            acknowledged,
            clock: clock.clone(),
            signer,
            log,
            certificate_secret,
            passes: passes::Passes::new(seal.clone()),
            keys: keys::Keys::new(state.clone(), seal),
            ownership,
            rules: times.rules,
            jobs: scheduler.jobs(),
        };
        let (accepting, door) = (app.accepting.clone(), api::Door::new(app, scheduler, link.clone()));
        let history = Histories { tasks: times.rules.task_history(), audit: times.audit_history };
        Ok(Parts { state, clock, door, link, stopping, accepting, history })
    }

    /// Serves the API and the link on incoming connections.
    fn serve<S: Stream, L: Stream>(
        self,
        api: impl tokio_stream::Stream<Item = io::Result<(S, Option<IpAddr>)>> + Send + 'static,
        server: Server,
        link: impl tokio_stream::Stream<Item = io::Result<(L, Option<IpAddr>)>> + Send + 'static,
    ) -> Vec<JoinHandle<()>> {
        let Parts { state, clock, door, link: sessions, stopping, accepting, history } = self;
        let link = connection::within(link, sessions.bounds()).map(Ok::<_, io::Error>);
        let service = link::LinkServer::new(sessions)
            .max_decoding_message_size(2 * model::link::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let serving = server
            .http2_keepalive_interval(Some(Duration::from_secs(45)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .add_service(service)
            .serve_with_incoming_shutdown(link, stopping.clone().cancelled_owned());
        let serving = async move {
            if let Err(error) = serving.await {
                tracing::error!(error = &error as &dyn std::error::Error, "link ended");
            }
        };
        vec![
            tokio::spawn(serving),
            tokio::spawn(api::serve(door, api, stopping.clone())),
            tokio::spawn(forget(state, clock, accepting, history, stopping)),
        ]
    }
}

/// The connections of a listener, with their addresses.
fn accepted(listener: TcpListener) -> impl tokio_stream::Stream<Item = io::Result<(TcpStream, Option<IpAddr>)>> {
    TcpListenerStream::new(listener).map(|accepted| {
        let stream = accepted?;
        let _ = stream.set_nodelay(true);
        let from = stream.peer_addr().ok().map(|address| address.ip());
        Ok((stream, from))
    })
}

/// A connection, whatever it runs over.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// Appends the configured lease to the log, unless the log already has that value.
async fn settle_lease(state: &State, lease_secs: Option<u64>) -> Result<(), StateError> {
    let Some(lease_secs) = lease_secs else { return Ok(()) };
    let (_, known) = state.knowledge().await?;
    if known.settings.lease_secs != lease_secs {
        state.append(&[Entry::Settings(Settings { lease_secs })]).await?;
    }
    Ok(())
}

/// Deletes expired records every [`FORGET_EVERY`]. Tasks are kept for `history.tasks` after they end.
async fn forget(
    state: State,
    clock: Arc<dyn Clock>,
    accepting: Accepting,
    history: Histories,
    stopping: CancellationToken,
) {
    let mut every = tokio::time::interval(FORGET_EVERY);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = every.tick() => {}
        }
        let now_ms = millis(clock.now());
        let before = |history: Duration| now_ms.saturating_sub(history.as_millis() as u64);
        let before_ms = before(history.tasks);
        let done = async {
            state
                .forget(before_ms, app::quota_day(before_ms), now_ms.saturating_sub(NONCES_KEPT.as_millis() as u64))
                .await?;
            let beyond = state.forget_completions(before_ms, state::completions::BYTES_MAX).await?;
            if beyond > 0 {
                tracing::warn!(
                    steps = beyond,
                    "receipt data exceeds its bound: the receipts of the oldest refreshes were deleted"
                );
            }
            state.forget_figures(now_ms).await?;
            state.forget_shares(before(SHARES_KEPT)).await?;
            let forgotten = state.forget_records(before(history.audit), state::audit::ROWS_MAX).await?;
            let counters = accepting.counters();
            counters.records_forgotten.fetch_add(forgotten, Ordering::Relaxed);
            let records = state.record_span().await?.map_or(0, |(oldest, newest)| newest - oldest + 1);
            counters.records.store(records, Ordering::Relaxed);
            state.compact(INVALIDATIONS_KEPT).await
        };
        if let Err(error) = done.await {
            tracing::error!(error = &error as &dyn std::error::Error, "expired data could not be deleted");
        }
    }
}
