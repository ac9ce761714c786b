//! Follows the control plane: hello, entries, heartbeats, acknowledgements, jobs, reports.
//!
//! First connect, reconnect and steady state are the same loop: report what is applied, read on from there, persist it,
//! apply it, acknowledge it. A lost connection is made again after a growing pause; meanwhile the node goes on serving,
//! within its lease.
//!
//! # What always holds
//!
//! - Entries are taken in order, without a gap. One that cannot be read closes the link and is not skipped.
//! - A heartbeat's moment is read before it is queued to be sent (rule 4). Hello is the first heartbeat.
//! - What is acknowledged is in the durable journal, and the headers judged before it was applied are on their way
//!   (rule 6).
//!
//! # Not here
//!
//! What an answer means for the lease: `Knowing`. What a job does: `prefetch`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use model::link::{
    Acknowledge, FromControl, FromNode, Heartbeat, Hello, JobsUnderWay, Reports, Welcome, from_control, from_node,
};
use model::mistake::{Mistake, made};
use model::{Entry, Isolation, LogId, Moment, NodeName, Revision, Snapshot};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::config::NodeConfig;
use crate::figures::Figures;
use crate::join::JoinToken;
use crate::journal::{Identity, Journal, JournalError};
use crate::knowing::{Knowing, Membership};
use crate::limiter::Limiter;
use crate::network::{Connector, Network};
use crate::prefetch::Prefetch;
use crate::sweep::Sweeper;
use crate::tls::Certificates;

/// The generated client.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the proto file documents it")]
mod service {
    tonic::include_proto!("warmfront.link.v1");
}

/// The name in the certificate of every control plane's link.
const SERVER_NAME: &str = "warmfront-link";

/// Messages waiting to be sent.
const WAITING_MAX: usize = 64;

/// Bytes of the largest message that is read: a snapshot holds every domain.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// Reports in one message.
const REPORTS_BATCH_MAX: usize = 256;

/// Unanswered heartbeats after which no more are sent.
const UNANSWERED_MAX: usize = 32;

/// How often the progress of long jobs is reported.
const UNDER_WAY_EVERY: Duration = Duration::from_secs(1);

/// Longest silence of the control plane before the connection is given up; two leases where those are longer.
const SILENCE_MIN: Duration = Duration::from_secs(10);

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// First and longest pause between connections.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Index entries and kept log entries beyond which the oldest are retired behind the floor (rule 9).
pub(crate) const RETIRE_ABOVE: usize = 200_000;

/// The parts of the node that the link needs.
pub(crate) struct Link {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) knowing: Arc<Knowing>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) journal: Journal,
    pub(crate) identity: Option<Identity>,
    pub(crate) token: Option<JoinToken>,
    pub(crate) store: store::Store,
    pub(crate) prefetch: Arc<Prefetch>,
    pub(crate) sweeper: Arc<Sweeper>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) connected: Arc<AtomicBool>,
    /// Log entries applied since the floor was last raised.
    pub(crate) kept: usize,
    /// How many index entries and kept log entries there may be before the oldest are retired.
    pub(crate) retire_above: usize,
    /// The task that retires old entries.
    pub(crate) retiring: Option<JoinHandle<()>>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("connect to the control plane")]
    Connect(#[from] tonic::transport::Error),
    #[error("control plane ended the connection")]
    Status(#[from] Box<tonic::Status>),
    #[error("control plane closed the connection")]
    Closed,
    #[error("control plane was silent for {}s", .0.as_secs())]
    Silent(Duration),
    #[error("control plane sent {0}")]
    Unexpected(&'static str),
    #[error("log entry {first} received after entry {applied}")]
    OutOfOrder { first: Revision, applied: Revision },
    #[error("control plane sent data that this program cannot read")]
    Decode(#[from] model::log::DecodeError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("refused: {reason}")]
    Refused { reason: String, again: bool },
    #[error("the node has not joined and there is no join token")]
    NoToken,
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> LinkError {
        LinkError::Status(Box::new(status))
    }
}

/// What the control plane of this connection can do beyond what every version can, as its Welcome says.
#[derive(Clone, Copy)]
struct Abilities {
    takes_figures: bool,
    takes_under_way: bool,
    gives_shares: bool,
}

/// A heartbeat that was sent and is not answered yet.
struct Beat {
    sequence: u64,
    sent: Moment,
}

impl Link {
    /// Follows the control plane until `stopping`, or until it says that the node is no member.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                ended = self.session() => ended,
            };
            self.connected.store(false, Ordering::SeqCst);
            self.figures.disconnected();
            let Err(error) = ended;
            match &error {
                LinkError::Refused { reason, again: false } => {
                    tracing::error!(reason, "the control plane refuses this node; it stops serving");
                    self.knowing.refuse(reason.clone());
                    return;
                }
                error => tracing::warn!(error = error as &dyn std::error::Error, "link lost"),
            }
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(jittered(pause, &self.config.name, self.knowing.clock().moment())) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One connection, from hello to its end.
    async fn session(&mut self) -> Result<std::convert::Infallible, LinkError> {
        let ca = self.identity.as_ref().map(|identity| &identity.ca).or(self.token.as_ref().map(|token| &token.ca));
        let ca = ca.ok_or(LinkError::NoToken)?;
        let mut endpoint = Endpoint::from_shared(self.config.control_url.clone())?
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        // It is something else only within one process: the configuration refuses a URL without TLS.
        if self.config.control_url.starts_with("https:") {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(SERVER_NAME);
            endpoint = endpoint.tls_config(tls)?;
        }
        let channel = endpoint.connect_with_connector(Connector::new(self.network.clone())).await?;
        let mut client = service::link_client::LinkClient::new(channel).max_decoding_message_size(SNAPSHOT_BYTES_MAX);

        let (out, outgoing) = mpsc::channel(WAITING_MAX);
        let sent = self.knowing.clock().moment();
        say(&out, from_node::Is::Hello(self.hello())).await?;
        let welcome = async {
            let mut incoming = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = incoming.message().await?.and_then(|first| first.is);
            Ok::<_, LinkError>((incoming, first))
        };
        let (mut incoming, first) =
            tokio::time::timeout(self.silence(), welcome).await.map_err(|_| LinkError::Silent(self.silence()))??;
        let abilities = match first {
            Some(from_control::Is::Welcome(welcome)) => {
                let abilities = Abilities {
                    takes_figures: welcome.takes_figures,
                    takes_under_way: welcome.takes_under_way,
                    gives_shares: welcome.gives_shares,
                };
                self.welcomed(welcome, sent).await?;
                abilities
            }
            Some(from_control::Is::Refused(refused)) => {
                return Err(LinkError::Refused { reason: refused.reason, again: refused.again });
            }
            None => return Err(LinkError::Closed),
            Some(_) => return Err(LinkError::Unexpected("something other than Welcome first")),
        };
        self.figures.connected(abilities.takes_figures);
        self.limiter.connected(abilities.gives_shares);
        self.connected.store(true, Ordering::SeqCst);
        tracing::info!(applied = self.knowing.applied().0, "following the control plane");

        // Acknowledgements wait for slow headers; entries and heartbeats must not.
        let acknowledging =
            tokio_util::task::AbortOnDropHandle::new(tokio::spawn(acknowledge(self.knowing.clone(), out.clone())));
        let result = self.follow(&mut incoming, &out, abilities).await;
        drop(acknowledging);
        // The leases of the jobs are over: those not begun go to other nodes, or come again.
        self.prefetch.withdraw_all();
        result
    }

    fn hello(&self) -> Hello {
        let config = &self.config;
        let isolation = match config.isolation {
            Isolation::Revalidate => "revalidate",
            Isolation::Serve => "serve",
        };
        let identity = self.identity.as_ref();
        Hello {
            name: config.name.to_string(),
            pop: config.pop.to_string(),
            tier: config.tier.to_string(),
            advertise_url: config.advertise_url.trim_end_matches('/').to_owned(),
            credential: identity.map(|identity| identity.credential.clone()).unwrap_or_default(),
            join_token: if identity.is_some() {
                String::new()
            } else {
                self.token.as_ref().map(JoinToken::shown).unwrap_or_default()
            },
            log_id: identity.map(|identity| identity.log.0.clone()).unwrap_or_default(),
            applied: self.knowing.applied().0,
            isolation: isolation.to_owned(),
            program: concat!("warmfront ", env!("CARGO_PKG_VERSION")).to_owned(),
            lost: self.store.losses(),
        }
    }

    fn silence(&self) -> Duration {
        SILENCE_MIN.max(self.knowing.known().knowledge.settings.lease() * 2)
    }

    /// Applies the answer to hello, which also answers hello as a heartbeat.
    async fn welcomed(&mut self, welcome: Welcome, sent: Moment) -> Result<(), LinkError> {
        let log = LogId(welcome.log_id.clone());
        let another_log = self.identity.as_ref().is_none_or(|identity| identity.log != log);
        if welcome.joins || another_log {
            let snapshot = read_snapshot(&welcome.snapshot, &log)?;
            let kept = self.identity.as_ref();
            let credential = if welcome.credential.is_empty() {
                kept.map(|identity| identity.credential.clone())
                    .ok_or(LinkError::Unexpected("no credential for a new member"))?
            } else {
                welcome.credential
            };
            let token = self.token.as_ref();
            let identity = Identity {
                log: log.clone(),
                credential,
                peer_credential: welcome.peer_credential,
                certificate_secret: welcome.certificate_secret,
                token_id: token
                    .map(|token| token.id.clone())
                    .or(kept.map(|kept| kept.token_id.clone()))
                    .unwrap_or_default(),
                ca: kept
                    .map(|kept| kept.ca.clone())
                    .or(token.map(|token| token.ca.clone()))
                    .ok_or(LinkError::NoToken)?,
            };
            self.retired().await;
            let guard = self.sweeper.lock().await;
            let (written, start) = (identity.clone(), snapshot.clone());
            self.on_journal(move |journal| journal.restart(Some(&written), &start)).await?;
            self.certificates.open_with(&identity.certificate_secret);
            self.figures.forget();
            self.knowing.join(log, identity.peer_credential.clone(), snapshot.revision, snapshot.knowledge).await;
            self.sweeper.restart(&guard, snapshot.revision);
            drop(guard);
            tracing::info!(log = %identity.log, floor = snapshot.revision.0, "joined");
            self.identity = Some(identity);
            self.kept = 0;
        } else if let Some(identity) = &mut self.identity {
            // A control plane of an earlier version sends none, which changes nothing.
            let other_secret =
                !welcome.certificate_secret.is_empty() && identity.certificate_secret != welcome.certificate_secret;
            if identity.peer_credential != welcome.peer_credential || other_secret || !welcome.credential.is_empty() {
                identity.peer_credential = welcome.peer_credential;
                if other_secret {
                    identity.certificate_secret = welcome.certificate_secret;
                    self.certificates.open_with(&identity.certificate_secret);
                }
                if !welcome.credential.is_empty() {
                    identity.credential = welcome.credential;
                }
                let written = identity.clone();
                self.on_journal(move |journal| journal.keep_identity(&written)).await?;
            }
            let peer_credential =
                self.identity.as_ref().map(|identity| identity.peer_credential.clone()).unwrap_or_default();
            self.knowing.set_peer_credential(&peer_credential);
            if !welcome.snapshot.is_empty() {
                let snapshot = read_snapshot(&welcome.snapshot, &log)?;
                self.skip_to(snapshot).await?;
            }
        }
        self.knowing.heard(sent, Revision(welcome.head));
        Ok(())
    }

    /// Sends and receives until the connection ends.
    async fn follow(
        &mut self,
        incoming: &mut tonic::Streaming<FromControl>,
        out: &mpsc::Sender<FromNode>,
        abilities: Abilities,
    ) -> Result<std::convert::Infallible, LinkError> {
        let mut beats: VecDeque<Beat> = VecDeque::new();
        let mut sequence = 0;
        let mut next_beat = Instant::now();
        let mut next_under_way = Instant::now() + UNDER_WAY_EVERY;
        let mut heard = Instant::now();
        let (prefetch, sweeper) = (self.prefetch.clone(), self.sweeper.clone());
        let (figures, knowing) = (self.figures.clone(), self.knowing.clone());
        let limiter = self.limiter.clone();
        sweeper.tell_again();
        loop {
            // In this order: neither a heartbeat nor a report may wait behind a long log.
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next_beat) => {
                    let silence = self.silence();
                    if heard.elapsed() >= silence {
                        return Err(LinkError::Silent(silence));
                    }
                    if beats.len() < UNANSWERED_MAX {
                        sequence += 1;
                        // Read before the heartbeat can be sent.
                        beats.push_back(Beat { sequence, sent: self.knowing.clock().moment() });
                        let lost = self.store.losses();
                        say(out, from_node::Is::Heartbeat(Heartbeat { sequence, lost })).await?;
                    }
                    next_beat = Instant::now() + self.knowing.known().knowledge.settings.lease() / 5;
                }
                reports = prefetch.reports(REPORTS_BATCH_MAX) => {
                    let reports = reports.iter().map(model::link::Report::from).collect();
                    let lost = self.store.losses();
                    say(out, from_node::Is::Reports(Reports { reports, lost })).await?;
                }
                () = tokio::time::sleep_until(next_under_way), if abilities.takes_under_way => {
                    next_under_way = Instant::now() + UNDER_WAY_EVERY;
                    let jobs: Vec<_> = prefetch.under_way().into_iter().map(model::link::UnderWay::from).collect();
                    if !jobs.is_empty() {
                        say(out, from_node::Is::UnderWay(JobsUnderWay { jobs })).await?;
                    }
                }
                report = figures.report(&knowing), if abilities.takes_figures => say(out, from_node::Is::Figures(report)).await?,
                wants = limiter.wants(), if abilities.gives_shares => say(out, from_node::Is::Wants(wants)).await?,
                swept = sweeper.report() => say(out, from_node::Is::Swept(swept)).await?,
                message = incoming.message() => {
                    let is = message?.ok_or(LinkError::Closed)?.is.ok_or(LinkError::Unexpected("a message of a later version"))?;
                    heard = Instant::now();
                    self.take(is, &mut beats).await?;
                }
            }
        }
    }

    async fn take(&mut self, is: from_control::Is, beats: &mut VecDeque<Beat>) -> Result<(), LinkError> {
        match is {
            from_control::Is::Head(head) => {
                while let Some(beat) = beats.pop_front() {
                    if beat.sequence == head.sequence {
                        self.knowing.heard(beat.sent, Revision(head.head));
                        break;
                    }
                }
            }
            from_control::Is::Entries(entries) => self.take_entries(Revision(entries.first), entries.entries).await?,
            from_control::Is::Snapshot(snapshot) => {
                let log = self.knowing.known().log.clone();
                self.skip_to(read_snapshot(&snapshot.snapshot, &log)?).await?;
            }
            from_control::Is::Jobs(jobs) => {
                self.prefetch.withdraw(&jobs.withdrawn);
                self.prefetch.accept(jobs.jobs.into_iter().map(model::Job::from));
            }
            from_control::Is::Refused(refused) => {
                return Err(LinkError::Refused { reason: refused.reason, again: refused.again });
            }
            from_control::Is::FiguresTaken(taken) => self.figures.take(taken),
            from_control::Is::Shares(shares) => self.limiter.take(&shares),
            from_control::Is::Closed(closed) => self.limiter.close(&closed),
            from_control::Is::Welcome(_) => return Err(LinkError::Unexpected("Welcome twice")),
        }
        Ok(())
    }

    /// Journal, index, `applied`, in this order; the acknowledgement follows by itself.
    async fn take_entries(&mut self, first: Revision, bytes: Vec<Bytes>) -> Result<(), LinkError> {
        let applied = self.knowing.applied();
        if first != applied.next() {
            return Err(LinkError::OutOfOrder { first, applied });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let entries: Vec<Entry> = bytes.iter().map(|bytes| model::log::decode(bytes)).collect::<Result<_, _>>()?;
        self.kept += entries.len();
        self.on_journal(move |journal| journal.append(first, &bytes)).await?;
        self.knowing.apply(first, &entries);
        self.sweeper.note(first, &entries);
        if let Membership::Refused { reason } = &self.knowing.known().membership {
            return Err(LinkError::Refused { reason: reason.clone(), again: false });
        }
        if self.knowing.index().len().max(self.kept) > self.retire_above {
            self.retire();
        }
        Ok(())
    }

    /// Continues from a snapshot, because the log does not reach back to what this node has applied (rule 9).
    async fn skip_to(&mut self, snapshot: Snapshot) -> Result<(), LinkError> {
        if snapshot.revision < self.knowing.applied() {
            return Err(LinkError::Unexpected("a snapshot older than what is applied"));
        }
        self.retired().await;
        let guard = self.sweeper.lock().await;
        let start = snapshot.clone();
        self.on_journal(move |journal| journal.restart(None, &start)).await?;
        self.knowing.skip_to(snapshot.revision, snapshot.knowledge);
        self.sweeper.restart(&guard, snapshot.revision);
        drop(guard);
        self.kept = 0;
        Ok(())
    }

    /// Retires index entries: first every stored body is brought up to date or dropped, then the floor is raised (rule
    /// 9). The link goes on meanwhile: entries applied later only make the sweep stricter.
    fn retire(&mut self) {
        if self.retiring.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.kept = 0;
        let applied = self.knowing.applied();
        let known = self.knowing.known().clone();
        let (store, knowing, journal) = (self.store.clone(), self.knowing.clone(), self.journal.clone());
        let sweeper = self.sweeper.clone();
        self.retiring = Some(tokio::spawn(async move {
            let guard = sweeper.lock().await;
            let swept = match crate::sweep::retire(&store, &knowing, &known, applied).await {
                Ok(swept) => swept,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "old entries are not retired");
                    return;
                }
            };
            let snapshot = Snapshot { log: known.log.clone(), revision: applied, knowledge: known.knowledge.clone() };
            match journal.on(move |journal| journal.retire(&snapshot)).await {
                Ok(()) => {
                    knowing.index().forget(applied);
                    sweeper.retired(&guard, applied, swept);
                    tracing::info!(floor = applied.0, ?swept, "old entries retired");
                }
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "old entries are not retired"),
            }
        }));
    }

    /// Waits for a running retirement to end: it must not overwrite a snapshot that the node starts from.
    async fn retired(&mut self) {
        if let Some(task) = self.retiring.take() {
            let _ = task.await;
        }
    }

    async fn on_journal<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.journal.on(work).await
    }
}

fn read_snapshot(bytes: &[u8], log: &LogId) -> Result<Snapshot, LinkError> {
    if bytes.is_empty() {
        return Err(LinkError::Unexpected("no snapshot to start from"));
    }
    let snapshot: Snapshot = model::log::decode(bytes)?;
    if &snapshot.log != log {
        return Err(LinkError::Unexpected("a snapshot of another log"));
    }
    Ok(snapshot)
}

/// Acknowledges what is applied, once the headers judged before it are on their way (rule 6).
async fn acknowledge(knowing: Arc<Knowing>, out: mpsc::Sender<FromNode>) {
    let mut changes = knowing.applied_changes();
    loop {
        let applied = *changes.borrow_and_update();
        if !made(Mistake::AckWhileUnsent) {
            knowing.drained().await;
        }
        if say(&out, from_node::Is::Acknowledge(Acknowledge { applied: applied.0 })).await.is_err() {
            return;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn say(out: &mpsc::Sender<FromNode>, is: from_node::Is) -> Result<(), LinkError> {
    out.send(FromNode { is: Some(is) }).await.map_err(|_| LinkError::Closed)
}

/// `pause`, up to half shorter or longer: nodes that lost the same control plane must not return together. The name
/// spreads nodes, and the moment spreads the attempts of one; neither needs randomness.
fn jittered(pause: Duration, name: &NodeName, now: Moment) -> Duration {
    let nanos = now.since(Moment::at(Duration::ZERO)).as_nanos() as u64;
    let spread = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_str().as_bytes(), nanos);
    pause / 2 + pause.mul_f64(spread as f64 / u64::MAX as f64)
}
