//! Nodes played by the test, over TLS, against a whole control plane.

use base64::Engine;
use model::link::{Acknowledge, Heartbeat, Hello, JobsUnderWay, Reports};
use model::{Cause, Coverage, Entry, Outcome};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::service::link_client::LinkClient;
use super::*;
use crate::state::identity::LINK_NAME;
use crate::state::submit::Accepting;
use crate::testing::{clock, node, pop, prefetch, soon, until, url};
use crate::{Control, ControlConfig, Operator};

mod lending;
mod unused;

/// A control plane with the POP `p`, and an invitation for nodes.
struct Rig {
    control: Option<Control>,
    operator: Operator,
    config: ControlConfig,
    token: String,
    authority: String,
    _dir: TempDir,
}

impl Rig {
    async fn start() -> Rig {
        let dir = TempDir::new().unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config =
            ControlConfig { listen: any, link_listen: any, ..ControlConfig::over_sqlite(&dir.path().join("c.db")) };
        let operator = Operator::open(&url(&dir), None, clock()).await.unwrap();
        operator.set_pop("p", Coverage::Global, &[]).await.unwrap();
        let token = operator.create_join_token().await.unwrap();
        let json =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.strip_prefix("wfjoin1.").unwrap()).unwrap();
        let token: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let text = |name: &str| token[name].as_str().unwrap().to_owned();
        let control = Some(Control::start(config.clone(), clock()).await.unwrap());
        let (authority, token) = (text("ca"), format!("{}:{}", text("id"), text("secret")));
        Rig { control, operator, config, token, authority, _dir: dir }
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.control = Some(Control::start(self.config.clone(), clock()).await.unwrap());
    }

    async fn stop(&mut self) {
        soon("stop", self.control.take().unwrap().stop()).await;
    }

    fn state(&self) -> &State {
        &self.control.as_ref().unwrap().state
    }

    /// A connection that has said `hello`.
    async fn connect(&self, hello: Hello) -> Node {
        self.connect_to(self.control.as_ref().unwrap(), hello).await
    }

    /// The same, to another control plane.
    async fn connect_to(&self, control: &Control, hello: Hello) -> Node {
        self.say_from([127, 0, 0, 1], control, hello).await
    }

    /// A connection to the link from one of this machine's addresses.
    async fn channel(&self, from: [u8; 4], control: &Control) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.authority)).domain_name(LINK_NAME);
        let address = format!("https://{}", control.link_address());
        let endpoint = Endpoint::from_shared(address).unwrap().tls_config(tls).unwrap();
        endpoint.local_address(Some(from.into())).connect().await.unwrap()
    }

    async fn say_from(&self, from: [u8; 4], control: &Control, hello: Hello) -> Node {
        let channel = self.channel(from, control).await;
        let (say, said) = mpsc::channel(16);
        say.send(FromNode { is: Some(from_node::Is::Hello(hello)) }).await.unwrap();
        let answers = LinkClient::new(channel).follow(ReceiverStream::new(said)).await.unwrap().into_inner();
        Node { say, answers }
    }

    /// A new member, and its welcome.
    async fn join(&self, name: &str) -> (Node, Welcome) {
        let mut node = self.connect(Hello { join_token: self.token.clone(), ..hello(name) }).await;
        let welcome = node.welcome().await;
        (node, welcome)
    }
}

fn hello(name: &str) -> Hello {
    Hello {
        name: name.into(),
        pop: "p".into(),
        tier: "L2".into(),
        advertise_url: "http://127.0.0.1:1".into(),
        isolation: "revalidate".into(),
        program: "test".into(),
        ..Hello::default()
    }
}

/// The hello of a member that has applied the log up to its welcome.
fn again(name: &str, welcome: &Welcome) -> Hello {
    Hello {
        credential: welcome.credential.clone(),
        log_id: welcome.log_id.clone(),
        applied: welcome.head,
        ..hello(name)
    }
}

struct Node {
    say: mpsc::Sender<FromNode>,
    answers: Streaming<FromControl>,
}

impl Node {
    async fn say(&self, is: from_node::Is) {
        self.say.send(FromNode { is: Some(is) }).await.unwrap();
    }

    /// The next message; `None` at the end of the session.
    async fn next(&mut self) -> Option<from_control::Is> {
        soon("a message", self.answers.next()).await?.ok()?.is
    }

    async fn welcome(&mut self) -> Welcome {
        match self.next().await {
            Some(from_control::Is::Welcome(welcome)) => welcome,
            other => panic!("{other:?}"),
        }
    }

    /// Reads until it is refused.
    async fn refusal(&mut self) -> Refused {
        loop {
            match self.next().await {
                Some(from_control::Is::Refused(refused)) => return refused,
                Some(_) => {}
                None => panic!("the session ended without a word"),
            }
        }
    }

    /// Reads entries up to `head`, which must come without a gap.
    async fn entries(&mut self, after: u64, head: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        while after + (entries.len() as u64) < head {
            match self.next().await {
                Some(from_control::Is::Entries(more)) => {
                    assert_eq!(more.first, after + entries.len() as u64 + 1);
                    entries.extend(more.entries.iter().map(|bytes| model::log::decode::<Entry>(bytes).unwrap()));
                }
                other => panic!("{other:?}"),
            }
        }
        entries
    }
}

#[tokio::test]
async fn node_joins_with_an_invitation_and_returns_with_its_credential() {
    let mut rig = Rig::start().await;
    let (first, welcome) = rig.join("p-1").await;
    assert!(welcome.joins && !welcome.credential.is_empty() && !welcome.peer_credential.is_empty());
    let snapshot: model::Snapshot = model::log::decode(&welcome.snapshot).unwrap();
    assert_eq!((snapshot.log.0, snapshot.revision.0), (welcome.log_id.clone(), welcome.head));
    assert!(snapshot.knowledge.topology.members.contains_key(&node("p-1")), "its row precedes the head it is told");

    drop(first);
    let mut second = rig.connect(again("p-1", &welcome)).await;
    let back = second.welcome().await;
    assert_eq!((back.joins, back.credential.as_str(), back.snapshot.len(), back.head), (false, "", 0, welcome.head));

    rig.restart().await;
    let mut third = rig.connect(again("p-1", &welcome)).await;
    assert_eq!(third.welcome().await.head, welcome.head, "credential and log outlive the process");
    let other_log = Hello { log_id: "another".into(), applied: 1_000, ..again("p-1", &welcome) };
    let mut fourth = rig.connect(other_log).await;
    let anew = fourth.welcome().await;
    assert!(anew.joins && !anew.snapshot.is_empty() && anew.credential.is_empty(), "another log is begun at its head");
    rig.stop().await;
    assert!(fourth.next().await.is_none());
}

#[tokio::test]
async fn who_has_no_place_is_refused_and_told_why() {
    let rig = Rig::start().await;
    let (_member, welcome) = rig.join("p-1").await;
    let good = || Hello { join_token: rig.token.clone(), ..hello("p-2") };
    let id = rig.token.split(':').next().unwrap();
    let cases = [
        ("no proof", hello("p-2"), "not invited", false),
        ("a wrong secret", Hello { join_token: format!("{id}:x"), ..good() }, "not invited", false),
        ("a token that is none", Hello { join_token: "x".into(), ..good() }, "not invited", false),
        ("another's credential", Hello { credential: welcome.credential.clone(), ..good() }, "not invited", false),
        ("a wrong credential", Hello { credential: "x".into(), ..again("p-1", &welcome) }, "not invited", false),
        ("a POP that is not there", Hello { pop: "nowhere".into(), ..good() }, "nowhere", true),
        ("a name that is none", Hello { name: "P 2".into(), ..good() }, "`name`", false),
        ("a tier that is none", Hello { tier: "L9".into(), ..good() }, "`tier`", false),
        ("an isolation that is none", Hello { isolation: "alone".into(), ..good() }, "`isolation`", false),
        ("an address that is none", Hello { advertise_url: "here".into(), ..good() }, "`advertise_url`", false),
        (
            "applied beyond the head",
            Hello { applied: welcome.head + 1, ..again("p-1", &welcome) },
            "lost entries",
            false,
        ),
    ];
    for (why, hello, says, may_try_again) in cases {
        let refused = rig.connect(hello).await.refusal().await;
        assert!(refused.reason.contains(says), "{why}: {}", refused.reason);
        assert_eq!(refused.again, may_try_again, "{why}");
    }
    assert_eq!(rig.state().head().await.unwrap().0, welcome.head, "nothing of it was logged");
}

/// Silent streams from one address, until one is refused; streams from elsewhere are not.
#[tokio::test]
async fn who_says_nothing_keeps_out_nobody_from_elsewhere() {
    let rig = Rig::start().await;
    let control = rig.control.as_ref().unwrap();
    let (ended, mut ends) = mpsc::channel(4 * STRANGERS_MAX);
    let full = async {
        // As many on each connection as are allowed at a time.
        for _ in 0..2 * STRANGERS_MAX / 200 {
            let channel = rig.channel([127, 0, 0, 1], control).await;
            for _ in 0..200 {
                let (mut client, ended) = (LinkClient::new(channel.clone()), ended.clone());
                tokio::spawn(async move {
                    let silent = client.follow(tokio_stream::pending()).await;
                    let _ = ended.send(silent.err().map(|status| status.code())).await;
                });
            }
            while let Ok(code) = ends.try_recv() {
                if code == Some(tonic::Code::ResourceExhausted) {
                    return;
                }
            }
        }
        while ends.recv().await.expect("somebody waits") != Some(tonic::Code::ResourceExhausted) {}
    };
    soon("a stream that is refused", full).await;
    let hello = Hello { join_token: rig.token.clone(), ..hello("n1") };
    let mut node = rig.say_from([127, 0, 0, 2], control, hello).await;
    assert!(!node.welcome().await.credential.is_empty());
}

#[tokio::test]
async fn member_is_told_entries_in_order_and_a_head_that_is_fresh() {
    let rig = Rig::start().await;
    let (mut p1, welcome) = rig.join("p-1").await;
    for n in 0..100 {
        // Not through this process, as if by another one.
        rig.operator.set_pop(&format!("q{n}"), Coverage::Global, &[]).await.unwrap();
    }
    let committed = rig.state().head().await.unwrap();
    p1.say(from_node::Is::Heartbeat(Heartbeat { sequence: 7, lost: 0 })).await;
    let mut entries = 0;
    let head = loop {
        match p1.next().await {
            Some(from_control::Is::Head(head)) => break head,
            Some(from_control::Is::Entries(more)) => entries += more.entries.len() as u64,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((head.sequence, head.head), (7, committed.0));
    let rest = p1.entries(welcome.head + entries, committed.0).await;
    assert!(rest.last().is_none_or(|last| *last == Entry::Pop(pop("q99"))));

    // A node that was away for long gets all of them from the database.
    drop(p1);
    let mut p1 = rig.connect(again("p-1", &welcome)).await;
    assert_eq!(p1.welcome().await.head, committed.0);
    let all = p1.entries(welcome.head, committed.0).await;
    assert!(all.iter().zip(0..100).all(|(entry, n)| *entry == Entry::Pop(pop(&format!("q{n}")))));

    p1.say(from_node::Is::Acknowledge(Acknowledge { applied: committed.0 })).await;
    let acknowledged = || async { (rig.state().nodes().await.unwrap()[0].acked == committed).then_some(()) };
    until("its acknowledgement is kept", acknowledged).await;
    p1.say(from_node::Is::Acknowledge(Acknowledge { applied: committed.0 + 1 })).await;
    assert!(!p1.refusal().await.again, "an acknowledgement of what is not there");
}

#[tokio::test]
async fn log_that_was_compacted_is_taken_up_by_a_snapshot() {
    let mut rig = Rig::start().await;
    let (p1, welcome) = rig.join("p-1").await;
    drop(p1);
    let forgotten = Entry::Invalidate(Vec::new());
    rig.state().append(&[forgotten.clone(), forgotten.clone(), Entry::Pop(pop("q"))]).await.unwrap();
    rig.state().compact(1).await.unwrap();
    rig.restart().await;
    let mut p1 = rig.connect(again("p-1", &welcome)).await;
    let back = p1.welcome().await;
    assert!(!back.joins && back.credential.is_empty());
    let snapshot: model::Snapshot = model::log::decode(&back.snapshot).unwrap();
    assert_eq!(snapshot.revision.0, back.head);
    assert!(snapshot.knowledge.topology.pops.contains_key(&pop("q").name));
    rig.state().append(&[forgotten]).await.unwrap();
    assert_eq!(p1.entries(back.head, back.head + 1).await.len(), 1, "and reads on from there");
}

#[tokio::test]
async fn node_further_behind_than_memory_reaches_is_told_everything() {
    let rig = Rig::start().await;
    let (p1, welcome) = rig.join("p-1").await;
    drop(p1);
    let missed = crate::known::TAIL_ENTRIES_MAX + 500;
    let head = rig.state().append(&vec![Entry::Invalidate(Vec::new()); missed]).await.unwrap();
    let mut p1 = rig.connect(again("p-1", &welcome)).await;
    let back = p1.welcome().await;
    assert_eq!((back.head, back.snapshot.len()), (head.0, 0), "the log reaches back");
    assert_eq!(p1.entries(welcome.head, head.0).await.len(), missed);
}

#[tokio::test]
async fn removed_node_is_refused_at_once_and_for_good() {
    let rig = Rig::start().await;
    let (mut p1, welcome) = rig.join("p-1").await;
    assert!(rig.operator.remove_node("p-1").await.unwrap());
    let refused = p1.refusal().await;
    assert!(refused.reason.contains("removed") && !refused.again, "{refused:?}");
    assert!(!rig.connect(again("p-1", &welcome)).await.refusal().await.again);
    let (_p1, anew) = rig.join("p-1").await;
    assert!(anew.joins && anew.credential != welcome.credential);
}

#[tokio::test]
async fn later_session_of_a_node_takes_over() {
    let rig = Rig::start().await;
    let (mut first, welcome) = rig.join("p-1").await;
    let mut second = rig.connect(again("p-1", &welcome)).await;
    second.welcome().await;
    while first.next().await.is_some() {}
    second.say(from_node::Is::Heartbeat(Heartbeat { sequence: 1, lost: 0 })).await;
    assert!(matches!(second.next().await, Some(from_control::Is::Head(_))));
    second.say(from_node::Is::Hello(hello("p-1"))).await;
    assert!(second.refusal().await.reason.contains("Hello"));
}

#[tokio::test]
async fn jobs_go_down_and_reports_come_up() {
    let mut rig = Rig::start().await;
    let (_, welcome) = rig.join("p-1").await;
    rig.stop().await;
    let state = State::open(&rig.config.state).await.unwrap();
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    accepting.submit(prefetch("me", "n", 3, millis(clock().now()))).await.unwrap();
    state.close().await;
    rig.control = Some(Control::start(rig.config.clone(), clock()).await.unwrap());
    let mut p1 = rig.connect(again("p-1", &welcome)).await;
    p1.welcome().await;
    let mut jobs = Vec::new();
    while jobs.len() < 3 {
        match p1.next().await {
            Some(from_control::Is::Jobs(more)) => jobs.extend(more.jobs),
            other => panic!("{other:?}"),
        }
    }
    let report = |job: &model::link::Job| {
        model::link::Report::from(&model::Job::from(job.clone()).report(1, Outcome::Failed(Cause::TooLarge)))
    };
    // A slow job reports its progress, and everybody can see that.
    let half = model::link::UnderWay { chunk: jobs[1].chunk, index: jobs[1].index, bytes: 5, length: 10 };
    p1.say(from_node::Is::UnderWay(JobsUnderWay { jobs: vec![half] })).await;
    let told = || async {
        let chunk = rig.state().chunks(&[jobs[1].chunk]).await.unwrap().pop()?;
        (chunk.progress.under_way == [(jobs[1].index, (5, 10))].into()).then_some(chunk.progress.shown)
    };
    assert_eq!(until("half of one is there", told).await[jobs[1].index as usize], 5_000);
    p1.say(from_node::Is::Reports(Reports { reports: jobs.iter().map(report).collect(), lost: 0 })).await;
    let ended = || async { rig.state().open_accounts().await.unwrap().is_empty().then_some(()) };
    until("the chunk has ended", ended).await;
    let nonsense = model::link::Report { chunk: 1, outcome: b"{".to_vec(), ..Default::default() };
    p1.say(from_node::Is::Reports(Reports { reports: vec![nonsense], lost: 0 })).await;
    assert!(p1.refusal().await.reason.contains("outcome"));
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_answered_while_the_database_takes_no_writes_and_reports_wait() {
    let mut rig = Rig::start().await;
    let (_, welcome) = rig.join("p-1").await;
    rig.stop().await;
    let state = State::open(&rig.config.state).await.unwrap();
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    accepting.submit(prefetch("me", "n", 1, millis(clock().now()))).await.unwrap();
    state.close().await;
    rig.control = Some(Control::start(rig.config.clone(), clock()).await.unwrap());
    let mut p1 = rig.connect(again("p-1", &welcome)).await;
    p1.welcome().await;
    let Some(from_control::Is::Jobs(Jobs { jobs, .. })) = p1.next().await else { panic!("expected jobs") };

    // A transaction of somebody else holds the writer's turn until it is told to go on.
    let (state, runtime) = (rig.state().clone(), tokio::runtime::Handle::current());
    let (holds, held) = tokio::sync::oneshot::channel();
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let holding = tokio::task::spawn_blocking(move || {
        let wait = |_: &mut std::collections::BTreeMap<String, model::share::Row>| {
            holds.send(()).unwrap();
            let _ = told.recv();
        };
        runtime.block_on(state.change_shares(["origin o:80".to_owned()], 0, wait))
    });
    soon("the writer is held", held).await.unwrap();
    let report = |job: &model::link::Job| {
        let report = model::Job::from(job.clone()).report(1, Outcome::Failed(Cause::TooLarge));
        from_node::Is::Reports(Reports { reports: vec![(&report).into()], lost: 0 })
    };
    // The job ends, which is to be written. More reports follow than the scheduler's queue holds.
    for _ in 0..400 {
        soon("a report is sent", p1.say(report(&jobs[0]))).await;
    }
    soon("a heartbeat is sent", p1.say(from_node::Is::Heartbeat(Heartbeat { sequence: 7, lost: 0 }))).await;
    loop {
        match p1.next().await {
            Some(from_control::Is::Head(Head { sequence: 7, .. })) => break,
            Some(_) => {}
            None => panic!("the session ended"),
        }
    }
    assert!(!rig.state().open_accounts().await.unwrap().is_empty(), "nothing was written meanwhile");
    go_on.send(()).unwrap();
    soon("the transaction", holding).await.unwrap().unwrap();
    let ended = || async { rig.state().open_accounts().await.unwrap().is_empty().then_some(()) };
    until("the chunk has ended", ended).await;
    rig.stop().await;
}

#[test]
fn jobs_are_cut_into_messages_that_fit() {
    let job = |bytes: usize| model::Job {
        chunk: 1,
        index: 1,
        url: "u".repeat(bytes),
        headers: Vec::new(),
        begin_after: Revision::ZERO,
        ..model::Job::default()
    };
    let cases: [(&[usize], &[usize]); 4] = [
        (&[], &[]),
        (&[10, 10], &[2]),
        (&[BATCH_BYTES_MAX / 2, BATCH_BYTES_MAX / 2, 1], &[1, 2]),
        (&[2 * BATCH_BYTES_MAX, 1], &[1, 1]),
    ];
    for (sizes, messages) in cases {
        let cut = cut_jobs(sizes.iter().map(|bytes| job(*bytes)).collect());
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), messages, "{sizes:?}");
    }
}

#[test]
fn entries_continue_what_was_told_without_a_gap() {
    type Log = &'static [(u64, usize)];
    let cases: [(&str, Log, usize); 6] = [
        ("nothing there", &[], 0),
        ("in order", &[(4, 1), (5, 1), (6, 1)], 3),
        ("a gap behind what was told", &[(5, 1), (6, 1)], 0),
        ("a gap later", &[(4, 1), (6, 1)], 1),
        ("more than one message holds", &[(4, BATCH_BYTES_MAX), (5, 1)], 1),
        ("one that is more than a message alone", &[(4, 2 * BATCH_BYTES_MAX)], 1),
    ];
    for (why, log, expected) in cases {
        let logged = log
            .iter()
            .map(|(at, bytes)| Logged { revision: Revision(*at), bytes: vec![b'x'; *bytes].into() })
            .collect();
        assert_eq!(continuing(Revision(3), logged).len(), expected, "{why}");
    }
}

/// A domain's figures of a minute, as a node reports them.
fn counted(domain: &str, revision: Revision, requests: usize) -> model::link::MinuteFigures {
    let mut users = model::figures::Side::default();
    (0..requests).for_each(|_| users.count(false, 200, 10, true));
    let minute = millis(clock().now()) / 60_000;
    model::link::MinuteFigures {
        domain: domain.into(),
        revision: revision.0,
        minute,
        users: Some((&users).into()),
        origins: None,
    }
}

#[tokio::test]
async fn figures_are_taken_once_and_go_to_whose_the_domain_was() {
    let rig = Rig::start().await;
    let (mut node, welcome) = rig.join("p-1").await;
    assert!(welcome.takes_figures);
    let state = rig.state();
    let domain = |name: &str| model::Domain {
        name: model::DomainName::parse(name).unwrap(),
        coverage: Coverage::Domestic,
        sources: Vec::new(),
        online: true,
        tag_header: None,
        functions: model::Functions::default(),
    };
    let add = async |account| {
        let detail = crate::state::domains::DomainDetail::default();
        let new = crate::state::domains::NewDomain { domain: domain("a.com"), detail, labels: Default::default() };
        state.add_domains(account, vec![new], 0).await.unwrap()
    };
    let mine = add("me").await;
    let detail = crate::state::domains::DomainDetail::default();
    let removed = state.remove_domain("me", domain("a.com"), &detail, mine, 0).await.unwrap();
    state.forget_deleted(&[(domain("a.com").name, removed)], 0).await.unwrap();
    let yours = add("you").await;

    let report = |sequence, minutes| model::link::Figures { boot: 7, sequence, minutes, urls: Vec::new() };
    let first = report(1, vec![counted("a.com", mine, 5), counted("a.com", yours, 2), counted("b.com", yours, 1)]);
    // The head is known here before the report is handled, however far this process has read.
    for report in [first.clone(), first, report(2, vec![counted("a.com", Revision(yours.0 + 100), 1)])] {
        let sent = (report.boot, report.sequence);
        node.say(from_node::Is::Figures(report)).await;
        loop {
            match node.next().await {
                Some(from_control::Is::FiguresTaken(taken)) => break assert_eq!((taken.boot, taken.sequence), sent),
                Some(from_control::Is::Entries(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let requests = async |account: &str| {
        let grain = crate::state::figures::Grain::Day;
        let found = state.figures(account, &["a.com".to_owned()], grain, 0, u64::MAX >> 1).await.unwrap();
        found.values().map(|counted| counted.domestic.users.all.requests).sum::<u64>()
    };
    assert_eq!(
        (requests("me").await, requests("you").await),
        (0, 3),
        "its own, once; a revision that is not there is no older"
    );

    let too_many = report(3, vec![counted("a.com", yours, 1); model::link::FIGURES_ROWS_MAX + 1]);
    node.say(from_node::Is::Figures(too_many)).await;
    assert!(node.refusal().await.reason.contains("figures"));
}
