//! Node sessions: admission, what nodes are told, and what they report.
//!
//! Each node has one bidirectional stream, over TLS with a certificate of our own authority. Two tasks serve it: one
//! reads what the node says, the other sends it news. Both send through one bounded queue, so a slow node slows only
//! itself.
//!
//! # What always holds
//!
//! - A member's row is committed before the head for its welcome is read (fence rule 8).
//! - The head that answers a heartbeat is read from the database after the heartbeat arrived (rule 4). If it cannot be
//!   read, there is no answer.
//! - A removed node is refused at its next message or at the next change of the log, whichever comes first.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use model::link::{
    Entries, FromControl, FromNode, Head, Jobs, MESSAGE_BYTES_MAX, Refused, SWEPT_ENTRIES_MAX, Snapshot, Welcome,
    from_control, from_node,
};
use model::mistake::{Mistake, made};
use model::prefetch::UNDER_WAY_MAX;
use model::{Clock, Isolation, Member, NodeName, PopName, Revision, Tier};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::completion::Acknowledged;
use crate::connection::{Bounds, Peer};
use crate::figures::Collector;
use crate::heads::Heads;
use crate::known::{Following, Known};
use crate::scheduler::{Leases, Order, Scheduler};
use crate::shares::Shares;
use crate::state::log::Logged;
use crate::state::nodes::{AdmitError, Proof};
use crate::state::{Identity, State, StateError, millis};
use crate::strangers::Strangers;

/// The generated service.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the proto file documents it")]
pub(crate) mod service {
    tonic::include_proto!("warmfront.link.v1");
}

pub(crate) use service::link_server::LinkServer;

/// Messages waiting for one node.
const WAITING_MAX: usize = 64;

/// Entries read for one message; fewer when they are large.
const ENTRIES_BATCH_MAX: u32 = 512;

/// Bytes of jobs or entries that one message may hold, leaving room for its frame.
const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

/// How long a stream may stay open without a Hello.
const HELLO_MAX: Duration = Duration::from_secs(10);

/// The most sessions at a time.
const SESSIONS_MAX: usize = 10_000;

/// The most streams at a time that are not admitted yet, with or without a Hello. Further ones are to come back later.
pub(crate) const STRANGERS_MAX: usize = 4096;

/// The most of those from one address.
const STRANGERS_OF_ONE_MAX: usize = 1024;

/// How long a connection may last until a Hello comes on it, from when it is accepted, and after the session on it has
/// ended: a TLS handshake, and a stream without a Hello.
const UNUSED_MAX: Duration = Duration::from_secs(HANDSHAKE_MAX.as_secs() + HELLO_MAX.as_secs());

/// How long a TLS handshake may take.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// The most connections at a time on which no node is admitted yet. Further ones are closed at once.
const CONNECTIONS_MAX: usize = 4096;

/// The most of those from one address. Many nodes may share one behind a NAT.
const CONNECTIONS_OF_ONE_MAX: usize = 1024;

/// The link's server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

/// The receivers of what nodes say.
pub(crate) struct Listeners {
    pub(crate) scheduler: Scheduler,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) collector: Collector,
    pub(crate) shares: Shares,
}

struct Shared {
    state: State,
    identity: Identity,
    heads: Heads,
    following: Following,
    scheduler: Scheduler,
    acknowledged: Acknowledged,
    collector: Collector,
    shares: Shares,
    clock: Arc<dyn Clock>,
    /// The session of each connected node; a later session of a node replaces the earlier one.
    connected: Mutex<HashMap<NodeName, u64>>,
    /// Connections on which no node is admitted yet.
    connections: Arc<Strangers>,
    /// Streams on which no node is admitted yet.
    strangers: Arc<Strangers>,
    sessions: AtomicU64,
    stopping: CancellationToken,
}

impl Link {
    /// A server of sessions, which end when `stopping` is cancelled.
    pub(crate) fn new(
        state: State,
        identity: Identity,
        following: Following,
        listeners: Listeners,
        clock: Arc<dyn Clock>,
        stopping: CancellationToken,
    ) -> Link {
        let Listeners { scheduler, acknowledged, collector, shares } = listeners;
        let connected = Mutex::new(HashMap::new());
        let sessions = AtomicU64::new(0);
        let heads = Heads::start(state.clone());
        Link {
            shared: Arc::new(Shared {
                state,
                identity,
                heads,
                following,
                scheduler,
                acknowledged,
                collector,
                shares,
                clock,
                connected,
                connections: Strangers::new(CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX),
                strangers: Strangers::new(STRANGERS_MAX, STRANGERS_OF_ONE_MAX),
                sessions,
                stopping,
            }),
        }
    }

    /// What members have reported.
    pub(crate) fn acknowledged(&self) -> &Acknowledged {
        &self.shared.acknowledged
    }

    /// The collector of nodes' figures.
    pub(crate) fn collector(&self) -> &Collector {
        &self.shared.collector
    }

    /// The lender of shares of origins.
    pub(crate) fn shares(&self) -> &Shares {
        &self.shared.shares
    }

    /// The connections on which no node is admitted yet.
    pub(crate) fn connections(&self) -> &Strangers {
        &self.shared.connections
    }

    /// The bounds of connections to the link.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { room: self.shared.connections.clone(), first: UNUSED_MAX, idle: UNUSED_MAX }
    }

    /// How many streams are not admitted yet.
    pub(crate) fn strangers(&self) -> usize {
        self.shared.strangers.count()
    }

    /// How many nodes are connected now.
    pub(crate) fn connected(&self) -> usize {
        self.shared.connected.lock().expect("no holder of this lock can panic").len()
    }
}

type Sending = mpsc::Sender<Result<FromControl, Status>>;
type Answers = Pin<Box<dyn Stream<Item = Result<FromControl, Status>> + Send>>;

#[tonic::async_trait]
impl service::link_server::Link for Link {
    type FollowStream = Answers;

    async fn follow(&self, request: Request<Streaming<FromNode>>) -> Result<Response<Answers>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a request without a connection"))?;
        let stranger = self.shared.strangers.let_in(peer.from());
        let stranger = stranger.ok_or_else(|| Status::resource_exhausted("too many are about to be admitted"))?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO_MAX, incoming.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("expected Hello"))?;
        let first = first.ok_or_else(|| Status::invalid_argument("expected Hello"))??;
        let Some(from_node::Is::Hello(hello)) = first.is else {
            return Err(Status::invalid_argument("expected Hello first"));
        };
        if self.connected() >= SESSIONS_MAX {
            return Err(Status::resource_exhausted("too many nodes are connected"));
        }
        let (out, outgoing) = mpsc::channel(WAITING_MAX);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let _under_way = peer.begin();
            let admitted = || {
                drop(stranger);
                peer.admitted();
            };
            if let Err(end) = shared.session(hello, admitted, incoming, &out).await {
                match end {
                    End::Refused { reason, again } => {
                        tracing::warn!(reason, "node refused");
                        let _ = out.send(Ok(message(from_control::Is::Refused(Refused { reason, again })))).await;
                    }
                    End::State(error) => tracing::error!(error = &error as &dyn std::error::Error, "session ended"),
                    End::Gone => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// Why a session ends.
enum End {
    Refused { reason: String, again: bool },
    State(StateError),
    Gone,
}

impl From<StateError> for End {
    fn from(error: StateError) -> End {
        End::State(error)
    }
}

impl From<AdmitError> for End {
    fn from(error: AdmitError) -> End {
        match error {
            AdmitError::State(error) => End::State(error),
            AdmitError::NoPop(_) => End::Refused { reason: error.to_string(), again: true },
            AdmitError::NotInvited => End::Refused { reason: error.to_string(), again: false },
        }
    }
}

fn message(is: from_control::Is) -> FromControl {
    FromControl { is: Some(is) }
}

fn member(hello: &model::link::Hello) -> Result<Member, End> {
    let bad = |field: &str, expected: String| End::Refused { reason: format!("`{field}`: {expected}"), again: false };
    let isolation = match hello.isolation.as_str() {
        "revalidate" | "" => Isolation::Revalidate,
        "serve" => Isolation::Serve,
        _ => return Err(bad("isolation", "expected revalidate or serve".into())),
    };
    let reachable =
        hello.advertise_url.parse::<http::Uri>().is_ok_and(|url| url.host().is_some() && url.scheme().is_some());
    if !reachable {
        return Err(bad("advertise_url", "expected http://HOST:PORT".into()));
    }
    Ok(Member {
        name: NodeName::parse(&hello.name).map_err(|error| bad("name", error.to_string()))?,
        pop: PopName::parse(&hello.pop).map_err(|error| bad("pop", error.to_string()))?,
        tier: hello.tier.parse::<Tier>().map_err(|error| bad("tier", error.to_string()))?,
        advertise_url: hello.advertise_url.clone(),
        isolation,
    })
}

impl Shared {
    /// A node's session, from its Hello to its end. Calls `is_admitted` once the node has proven who it is.
    async fn session(
        &self,
        hello: model::link::Hello,
        is_admitted: impl FnOnce(),
        incoming: Streaming<FromNode>,
        out: &Sending,
    ) -> Result<(), End> {
        let (member, lost) = (member(&hello)?, hello.lost);
        let program: String = hello.program.chars().take(100).collect();
        let (welcome, start) = self.welcome(&hello, &member, &program).await?;
        is_admitted();
        self.acknowledged.heard(&member.name, millis(self.clock.now()));
        let (joined, joins) = (Revision(welcome.head), welcome.joins);
        send(out, from_control::Is::Welcome(welcome)).await?;

        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        {
            let mut connected = self.connected.lock().expect("no holder of this lock can panic");
            let latest = connected.entry(member.name.clone()).or_default();
            *latest = session.max(*latest);
        }
        tracing::info!(node = %member.name, session, applied = start.0, "node connected");
        let (leases, orders) = self.scheduler.connected(&member.name, session, joins, lost);
        let result = tokio::select! {
            biased;
            heard = self.hear(&member.name, incoming, out, &leases) => heard,
            told = self.tell(&member.name, session, joined, start, orders, out) => told,
            // Raced here, not at each send: a node that does not read must not delay the end.
            () = self.stopping.cancelled() => Err(End::Gone),
        };
        drop(leases);
        let mut connected = self.connected.lock().expect("no holder of this lock can panic");
        if connected.get(&member.name) == Some(&session) {
            connected.remove(&member.name);
        }
        drop(connected);
        tracing::info!(node = %member.name, session, "node disconnected");
        result
    }

    /// Admits a node; returns the answer to its hello, and the revision after which it reads on.
    async fn welcome(
        &self,
        hello: &model::link::Hello,
        member: &Member,
        program: &str,
    ) -> Result<(Welcome, Revision), End> {
        let same_log = hello.log_id == self.identity.log.0;
        let proof = if hello.credential.is_empty() {
            let (id, secret) = hello.join_token.split_once(':').unwrap_or_default();
            Proof::Token { id, secret }
        } else {
            Proof::Credential { secret: &hello.credential, of_this_log: same_log }
        };
        // What is known here, at a head read now, instead of replaying the whole log: thousands of nodes may come back
        // at once.
        let known = self.known_now().await?;
        let now_ms = millis(self.clock.now());
        if self.state.admits_empty(&proof, member, &known.knowledge, now_ms).await? {
            // Before the record of what it held is deleted: progress written from now on does not bring it back.
            self.scheduler.emptied(&member.name).await;
        }
        let admitted = self.state.admit(proof, member, &known.knowledge, program, now_ms).await?;
        // The membership is committed: only now is the head read (rule 8).
        let known = if made(Mistake::HeadBeforeMembership) { known } else { self.known_now().await? };
        let head = known.head;
        let applied = Revision(hello.applied);
        if same_log && applied > head {
            let reason =
                format!("node has applied {applied} of a log that ends at {head}: the database has lost entries");
            return Err(End::Refused { reason, again: false });
        }
        let joins = !same_log || admitted.credential.is_some();
        let behind = applied < self.state.compacted().await?;
        let snapshot = if joins || behind {
            let snapshot = model::Snapshot {
                log: self.identity.log.clone(),
                revision: head,
                knowledge: (*known.knowledge).clone(),
            };
            model::log::encode(&snapshot)
        } else {
            Vec::new()
        };
        let start = if snapshot.is_empty() { applied } else { head };
        let welcome = Welcome {
            log_id: self.identity.log.0.clone(),
            head: head.0,
            credential: admitted.credential.unwrap_or_default(),
            peer_credential: self.identity.peer_credential.to_string(),
            certificate_secret: self.identity.certificate_secret.expose().to_string(),
            joins,
            snapshot,
            takes_figures: true,
            takes_under_way: true,
            gives_shares: true,
        };
        Ok((welcome, start))
    }

    /// Knowledge at a head of the log that is read from the database now, or at a later one.
    async fn known_now(&self) -> Result<Arc<Known>, End> {
        let head = self.heads.now().await.ok_or(End::Gone)?;
        self.following.reach(head).await.ok_or(End::Gone)
    }

    /// Handles what the node says until its stream ends.
    async fn hear(
        &self,
        node: &NodeName,
        mut incoming: Streaming<FromNode>,
        out: &Sending,
        leases: &Leases,
    ) -> Result<(), End> {
        while let Some(said) = incoming.next().await {
            let Ok(FromNode { is: Some(said) }) = said else { return Err(End::Gone) };
            match said {
                from_node::Is::Hello(_) => {
                    return Err(End::Refused { reason: "Hello twice on one connection".into(), again: true });
                }
                from_node::Is::Heartbeat(heartbeat) => {
                    self.acknowledged.heard(node, millis(self.clock.now()));
                    leases.lost(heartbeat.lost);
                    let head = match made(Mistake::OldHead) {
                        true => self.following.now().head,
                        false => self.heads.now().await.ok_or(End::Gone)?,
                    };
                    send(out, from_control::Is::Head(Head { sequence: heartbeat.sequence, head: head.0 })).await?;
                }
                from_node::Is::Acknowledge(acknowledge) => {
                    let head = self.following.now().head;
                    // A node that acknowledges what it cannot know yet is faulty; believing it would break a promise.
                    let applied = Revision(acknowledge.applied);
                    let head = if applied > head { self.heads.now().await.ok_or(End::Gone)? } else { head };
                    if applied > head {
                        return Err(End::Refused {
                            reason: format!("acknowledged {applied} of a log that ends at {head}"),
                            again: false,
                        });
                    }
                    self.acknowledged.take(node, applied);
                }
                from_node::Is::Swept(swept) => {
                    let head = self.following.now().head.0;
                    if swept.entries.len() > SWEPT_ENTRIES_MAX {
                        let reason = format!("more than {SWEPT_ENTRIES_MAX} swept entries in one message");
                        return Err(End::Refused { reason, again: true });
                    }
                    let entries = swept.entries.iter().filter(|entry| entry.revision <= head);
                    let entries = entries.map(|entry| (Revision(entry.revision), (entry.objects, entry.bytes)));
                    self.acknowledged.swept(node, Revision(swept.upto.min(head)), entries);
                }
                from_node::Is::Figures(figures) => {
                    let out = out.clone();
                    // A node that cannot be told now sends it again, and is told then.
                    let taken = move |taken| _ = out.try_send(Ok(message(from_control::Is::FiguresTaken(taken))));
                    if let Err(error) = self.collector.take(node, figures, taken) {
                        return Err(End::Refused { reason: error.to_string(), again: true });
                    }
                }
                from_node::Is::UnderWay(under_way) => {
                    if under_way.jobs.len() > UNDER_WAY_MAX {
                        let reason = format!("more than {UNDER_WAY_MAX} jobs in one progress message");
                        return Err(End::Refused { reason, again: true });
                    }
                    leases.under_way(under_way.jobs.into_iter().map(model::UnderWay::from).collect());
                }
                from_node::Is::Wants(wants) => {
                    // Other nodes' news may use this sender long after the node's last word: it must not keep the
                    // session alive.
                    let out = out.downgrade();
                    // A node that cannot be told now sends its wants again, and is told then.
                    let tell = move |is| match out.upgrade() {
                        Some(out) => !matches!(out.try_send(Ok(message(is))), Err(TrySendError::Closed(_))),
                        None => false,
                    };
                    if let Err(error) = self.shares.take(node, wants, Arc::new(tell)) {
                        return Err(End::Refused { reason: error.to_string(), again: true });
                    }
                }
                from_node::Is::Reports(reports) => {
                    // Before the reports, so that no chunk ends with them whose objects the node lost meanwhile.
                    leases.lost(reports.lost);
                    let reports: Result<Vec<model::Report>, _> =
                        reports.reports.into_iter().map(model::Report::try_from).collect();
                    match reports {
                        Ok(reports) => leases.report(reports).await,
                        Err(error) => return Err(End::Refused { reason: error.to_string(), again: true }),
                    }
                }
            }
        }
        Err(End::Gone)
    }

    /// Sends the node news until it is gone, removed, or replaced by a later session.
    async fn tell(
        &self,
        node: &NodeName,
        session: u64,
        joined: Revision,
        mut told: Revision,
        mut orders: mpsc::Receiver<Order>,
        out: &Sending,
    ) -> Result<(), End> {
        let mut changes = self.following.changes();
        loop {
            let known = changes.borrow_and_update().clone();
            self.still_a_member(node, session, joined, &known)?;
            while told < known.head {
                told = self.tell_entries(told, out).await?;
            }
            // Jobs first. Still, all new log entries are sent before each of them.
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Jobs(jobs)) => {
                        for jobs in cut_jobs(jobs) {
                            send(out, from_control::Is::Jobs(Jobs { jobs, withdrawn: Vec::new() })).await?;
                        }
                    }
                    Some(Order::Withdraw(withdrawn)) => {
                        send(out, from_control::Is::Jobs(Jobs { jobs: Vec::new(), withdrawn })).await?;
                    }
                    None => return Err(End::Gone), // a later session of this node took over
                },
                changed = changes.changed() => changed.map_err(|_| End::Gone)?,
            }
        }
    }

    fn still_a_member(&self, node: &NodeName, session: u64, joined: Revision, known: &Known) -> Result<(), End> {
        let latest = self.connected.lock().expect("no holder of this lock can panic").get(node).copied();
        if latest.is_some_and(|latest| latest != session) {
            return Err(End::Refused { reason: "another process connected under this name".into(), again: true });
        }
        // A session may begin before this process has read its own membership from the log.
        if known.head >= joined && !known.knowledge.topology.members.contains_key(node) {
            return Err(End::Refused { reason: "node was removed".into(), again: false });
        }
        Ok(())
    }

    async fn tell_entries(&self, told: Revision, out: &Sending) -> Result<Revision, End> {
        let mut logged = self.following.entries_after(told, ENTRIES_BATCH_MAX as usize);
        if logged.is_empty() {
            logged = self.state.entries_after(told, ENTRIES_BATCH_MAX).await?;
        }
        let entries = continuing(told, logged);
        if entries.is_empty() {
            let known = self.known_now().await?;
            if known.head <= told {
                let reason =
                    format!("the log that reached {told} now ends at {}: the database has lost entries", known.head);
                return Err(End::Refused { reason, again: true });
            }
            let (log, knowledge) = (self.identity.log.clone(), (*known.knowledge).clone());
            let snapshot = model::Snapshot { log, revision: known.head, knowledge };
            send(out, from_control::Is::Snapshot(Snapshot { snapshot: model::log::encode(&snapshot) })).await?;
            return Ok(known.head);
        }
        let last = Revision(told.0 + entries.len() as u64);
        send(out, from_control::Is::Entries(Entries { first: told.0 + 1, entries })).await?;
        Ok(last)
    }
}

async fn send(out: &Sending, is: from_control::Is) -> Result<(), End> {
    out.send(Ok(message(is))).await.map_err(|_| End::Gone)
}

/// The entries that continue what was told, as many as fit in one message. Where invalidations were compacted away the
/// log has gaps; entries behind a gap are no continuation.
fn continuing(told: Revision, logged: Vec<Logged>) -> Vec<Bytes> {
    let mut bytes = 0;
    (told.0 + 1..)
        .zip(logged)
        .take_while(|(at, logged)| logged.revision.0 == *at)
        .map(|(_, logged)| logged.bytes)
        .take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.len();
            first || bytes <= BATCH_BYTES_MAX
        })
        .collect()
}

/// Splits jobs into messages that fit.
fn cut_jobs(jobs: Vec<model::Job>) -> Vec<Vec<model::link::Job>> {
    let mut messages: Vec<Vec<model::link::Job>> = vec![Vec::new()];
    let mut bytes = 0;
    for job in jobs {
        let headers: usize = job.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        let size = job.url.len() + headers + 64;
        if bytes + size > BATCH_BYTES_MAX {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = messages.last_mut() {
            last.push(job.into());
        }
    }
    messages.retain(|message| !message.is_empty());
    messages
}

#[cfg(test)]
mod tests;
