//! Simulated members, which are nodes to the control plane and nothing else: each has its own TLS connection, joins
//! with a join token, sends a heartbeat every fifth of a lease, and acknowledges entries at once, without index,
//! journal or store.
//!
//! They reconnect as real nodes do: immediately at first, then after pauses of 100 ms to 5 s, randomised by up to half.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use model::link::{Acknowledge, FromControl, FromNode, Heartbeat, Hello, from_control, from_node};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

/// The generated client.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the proto file documents it")]
mod service {
    tonic::include_proto!("warmfront.link.v1");
}

/// First and longest pause before reconnecting, as for a real node.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Members that join concurrently; joining is rare, and not measured.
const JOINING_MAX: usize = 32;

/// Capacity of the event queue; more than all members can send at once.
const EVENTS_MAX: usize = 1 << 16;

/// An event of a member.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// It was welcomed.
    Welcomed(Instant),
    /// It has received all entries up to this revision.
    Received(u64, Instant),
    /// It was told to start from a snapshot while connected.
    Skipped(u64),
}

/// A join token, as a node parses it.
#[derive(Deserialize)]
struct Token {
    id: String,
    secret: String,
    ca: String,
}

/// Running members; they stop when this is dropped.
pub struct Members {
    /// Their events.
    pub events: mpsc::Receiver<Event>,
    /// The revision that each of them has received.
    pub applied: Vec<Arc<AtomicU64>>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Members {
    /// Makes `count` members of the POP `pop` join the control plane whose link is at `port`.
    pub async fn join(port: u16, pop: &str, invitation: &str, count: usize) -> anyhow::Result<Members> {
        let encoded = invitation.trim().strip_prefix("wfjoin1.").context("an invitation")?;
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded)?;
        let token: Arc<Token> = Arc::new(serde_json::from_slice(&json)?);
        let (events, mut received) = mpsc::channel(EVENTS_MAX);
        let mut applied = Vec::new();
        let mut tasks = Vec::new();
        let mut joining = 0;
        for number in 0..count {
            let mut member = Member {
                name: format!("m-{number}"),
                pop: pop.to_owned(),
                control: format!("https://127.0.0.1:{port}"),
                token: token.clone(),
                credential: String::new(),
                log: String::new(),
                applied: Arc::default(),
                events: events.clone(),
            };
            applied.push(member.applied.clone());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move { member.run().await })));
            joining += 1;
            while joining >= if number + 1 == count { 1 } else { JOINING_MAX } {
                let event = tokio::time::timeout(e2e::PATIENCE, received.recv()).await?.context("members are there")?;
                if matches!(event, Event::Welcomed(_)) {
                    joining -= 1;
                }
            }
        }
        Ok(Members { events: received, applied, _tasks: tasks })
    }

    /// The lowest revision received by all of them.
    pub fn lowest(&self) -> u64 {
        self.applied.iter().map(|applied| applied.load(Ordering::SeqCst)).min().unwrap_or(0)
    }

    /// Waits until all have received `revision`; returns when the last one did.
    pub async fn all_received(&mut self, revision: u64) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + e2e::PATIENCE;
        let mut last = Instant::now();
        let mut waiting = self.applied.len();
        while waiting > 0 {
            match tokio::time::timeout_at(deadline, self.events.recv()).await?.context("members are there")? {
                Event::Received(upto, at) if upto >= revision => {
                    waiting -= 1;
                    last = at;
                }
                Event::Skipped(_) => bail!("a member was told to skip"),
                Event::Received(..) | Event::Welcomed(_) => {}
            }
        }
        Ok(last)
    }

    /// Discards past events.
    pub fn drain(&mut self) {
        while self.events.try_recv().is_ok() {}
    }
}

struct Member {
    name: String,
    pop: String,
    control: String,
    token: Arc<Token>,
    credential: String,
    log: String,
    applied: Arc<AtomicU64>,
    events: mpsc::Sender<Event>,
}

impl Member {
    async fn run(&mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            let ended = self.session().await;
            if let Err(error) = ended
                && std::env::args().any(|argument| argument == "--verbose")
            {
                eprintln!("{}: {error:#}", self.name);
            }
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn session(&mut self) -> anyhow::Result<()> {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.token.ca)).domain_name("warmfront-link");
        let endpoint = Endpoint::from_shared(self.control.clone())?
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .tls_config(tls)?;
        let mut client =
            service::link_client::LinkClient::new(endpoint.connect().await?).max_decoding_message_size(256 << 20);
        let (out, outgoing) = mpsc::channel(64);
        say(&out, from_node::Is::Hello(self.hello())).await?;
        let mut incoming = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
        let Some(FromControl { is: Some(from_control::Is::Welcome(welcome)) }) = incoming.message().await? else {
            bail!("not welcomed");
        };
        if welcome.joins {
            self.credential = welcome.credential;
            self.log = welcome.log_id;
        }
        if !welcome.snapshot.is_empty() {
            self.applied.store(welcome.head, Ordering::SeqCst);
        }
        self.events.send(Event::Welcomed(Instant::now())).await?;
        let lease = Duration::from_secs(10);
        let mut sequence = 0;
        let mut next_beat = Instant::now();
        loop {
            tokio::select! {
                message = incoming.message() => match message?.context("closed")?.is {
                    Some(from_control::Is::Entries(entries)) => {
                        let applied = self.applied.load(Ordering::SeqCst);
                        ensure!(entries.first == applied + 1, "entry {} after {applied}", entries.first);
                        self.received(applied + entries.entries.len() as u64, &out).await?;
                    }
                    Some(from_control::Is::Snapshot(snapshot)) => {
                        let snapshot: model::Snapshot = model::log::decode(&snapshot.snapshot)?;
                        self.events.send(Event::Skipped(snapshot.revision.0)).await?;
                        self.received(snapshot.revision.0, &out).await?;
                    }
                    Some(from_control::Is::Refused(refused)) => bail!("refused: {}", refused.reason),
                    _ => {}
                },
                () = tokio::time::sleep_until(next_beat) => {
                    sequence += 1;
                    say(&out, from_node::Is::Heartbeat(Heartbeat { sequence, lost: 0 })).await?;
                    next_beat = Instant::now() + lease / 5;
                }
            }
        }
    }

    async fn received(&self, upto: u64, out: &mpsc::Sender<FromNode>) -> anyhow::Result<()> {
        self.applied.store(upto, Ordering::SeqCst);
        self.events.send(Event::Received(upto, Instant::now())).await?;
        say(out, from_node::Is::Acknowledge(Acknowledge { applied: upto })).await
    }

    fn hello(&self) -> Hello {
        let joining = self.credential.is_empty();
        Hello {
            name: self.name.clone(),
            pop: self.pop.clone(),
            tier: "L1".to_owned(),
            advertise_url: "http://127.0.0.1:9".to_owned(),
            credential: self.credential.clone(),
            join_token: if joining { format!("{}:{}", self.token.id, self.token.secret) } else { String::new() },
            log_id: self.log.clone(),
            applied: self.applied.load(Ordering::SeqCst),
            isolation: "revalidate".to_owned(),
            program: "simulated".to_owned(),
            lost: 0,
        }
    }
}

async fn say(out: &mpsc::Sender<FromNode>, is: from_node::Is) -> anyhow::Result<()> {
    Ok(out.send(FromNode { is: Some(is) }).await?)
}

fn jittered(pause: Duration) -> Duration {
    let mut bytes = [0_u8; 2];
    let _ = getrandom::fill(&mut bytes);
    pause / 2 + pause.mul_f64(f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX))
}
