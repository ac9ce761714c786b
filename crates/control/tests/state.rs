//! What the state keeps, however it is kept: each case runs on a SQLite file, on a PostgreSQL server of its own, and in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use control::StateUrl;
use control::state::State;
use control::state::accounts::{Account, AccountError, AccountStatus};
use control::state::chunks::{Filter, Kind, Params, Progress};
use control::state::log::{DomainDetail, DomainError};
use control::state::memory::{Faults, Memory};
use control::state::nodes::{AdmitError, Proof};
use control::state::submit::{Accepted, Accepting, Charge, Group, OPEN_REFRESHES_MAX, QueueMax, Refused, Submission};
use model::topology::WarmTiers;
use model::{
    Coverage, Domain, DomainName, Entry, Invalidation, Isolation, Knowledge, Member, Mode, NodeName, Pop, PopName,
    Revision, Scope, Settings, Source, SourceKind, Tier, UrlKey,
};
use tempfile::TempDir;

/// A PostgreSQL server of the test's own, stopped when dropped.
struct Postgres {
    process: Child,
    _dir: TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: a fast shutdown. A server of this test that does not go is killed.
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

/// Programs of PostgreSQL, the newest version that is installed.
fn postgres_bin() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed (./test does it)")
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().expect("PostgreSQL's server is installed (./test does it)")
}

/// A command that runs as an ordinary user: the server refuses to run as root.
fn as_user(program: &Path) -> Command {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

/// A server on a Unix socket alone, and the address of its database.
fn postgres() -> (Postgres, StateUrl) {
    let bin = postgres_bin();
    let dir = TempDir::new_in("/tmp").unwrap();
    let _ = Command::new("chown").arg("postgres").arg(dir.path()).status();
    let data = dir.path().join("data");
    let made = as_user(&bin.join("initdb"))
        .args(["--auth", "trust", "--username", "warmfront", "--no-sync", "--pgdata"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = as_user(&bin.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={port}"), "-c", "unix_socket_directories="])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = StateUrl::parse(&format!("postgres://warmfront@127.0.0.1:{port}/postgres")).unwrap();
    (Postgres { process, _dir: dir }, url)
}

async fn open(url: &StateUrl) -> State {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        match State::open(url).await {
            Ok(state) => return state,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn prefetch(nonce: &str, urls: usize) -> Submission {
    let paths: Vec<String> = (0..urls).map(|n| format!("http://a.com/{nonce}/{n}")).collect();
    let params = Params { area: Coverage::Global, warm: WarmTiers::default(), variants: vec![Vec::new()] };
    let groups = vec![Group { domain: name("a.com"), kind: Kind::Prefetch, paths, invalidations: Vec::new(), params }];
    Submission {
        account: "me".into(),
        nonce: ("key".into(), nonce.into()),
        now_ms: 1_000_000,
        groups,
        charge: Charge { bucket: "preload", day: 7, units: urls as u64, limit: Some(1_000) },
        minute_max: None,
        queue_max: QueueMax::Unlimited,
    }
}

fn refresh(nonce: &str, kind: Kind, paths: &[&str]) -> Submission {
    let mut submission = prefetch(nonce, 0);
    submission.charge = Charge { bucket: "url", day: 7, units: paths.len() as u64, limit: None };
    let group = &mut submission.groups[0];
    group.kind = kind;
    group.paths = paths.iter().map(|path| format!("http://a.com{path}")).collect();
    group.invalidations = paths
        .iter()
        .map(|path| Invalidation { scope: Scope::File(UrlKey::new("a.com", path).unwrap()), mode: Mode::Delete })
        .collect();
    submission
}

fn all() -> Filter {
    Filter { to_ms: u64::MAX >> 1, ..Filter::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_what_it_must() {
    let dir = TempDir::new().unwrap();
    let url = StateUrl::parse(&format!("sqlite:{}", dir.path().join("deep/c.db").display())).unwrap();
    conform(async || open(&url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_what_it_must() {
    let (_server, url) = postgres();
    conform(async || open(&url).await).await;
}

#[tokio::test]
async fn memory_keeps_what_it_must() {
    let kept = Memory::default();
    conform(async || kept.open(&Faults::default())).await;
}

/// `open` is called as often as a control plane starts, and what was committed is there every time.
async fn conform(open: impl AsyncFn() -> State) {
    let state = open().await;
    submissions_are_whole_or_not_at_all(&state).await;
    queries_are_filtered_ordered_and_limited(&state).await;
    log_is_read_in_order_and_compacted(&state).await;
    leases_count_while_somebody_may_go_by_them(&state).await;
    domains_belong_to_one_account(&state).await;
    accounts_are_made_once(&state).await;
    nodes_are_let_in_by_proof_alone(&state).await;
    what_is_past_its_time_is_forgotten(&state).await;
    refreshes_of_a_domain_are_bounded(&state).await;
    what_is_not_committed_never_was(&state).await;
    let head = state.head().await.unwrap();
    let domains = state.domains().await.unwrap();
    state.close().await;
    let again = open().await;
    assert_eq!(again.head().await.unwrap(), head, "what was committed is there when it is opened again");
    assert_eq!(again.domains().await.unwrap(), domains);
    again.close().await;
}

async fn submissions_are_whole_or_not_at_all(state: &State) {
    let (accepting, open) = Accepting::start(state.clone()).await.unwrap();

    // Many at once: one transaction or several, each submission whole.
    let answers =
        futures_util::future::join_all((0..9).map(|n| accepting.submit(prefetch(&format!("n{n}"), 100)))).await;
    let first = answers[0].as_ref().unwrap().tasks.clone();
    assert!(
        answers.iter().take(5).all(|answer| answer.as_ref().unwrap().tasks == first),
        "500 URLs of one second share an id"
    );
    assert_ne!(answers[5].as_ref().unwrap().tasks, first, "the next 500 have another");
    assert_eq!(accepting.submit(prefetch("n0", 1)).await, Err(Refused::NonceUsed));
    assert_eq!(accepting.submit(prefetch("over", 101)).await, Err(Refused::DayUsedUp));
    assert_eq!(state.spent("me", 7).await.unwrap(), [("preload".to_owned(), 900)].into());
    assert!(
        accepting.submit(prefetch("over", 100)).await.is_ok(),
        "a refused nonce was not spent, and the rest of the day is there"
    );

    let mut queue = prefetch("queue", 1);
    queue.charge.limit = None;
    queue.queue_max = QueueMax::Urls(1_000);
    assert_eq!(accepting.submit(queue.clone()).await, Err(Refused::QueueFull));
    let outlines = state.outlines("me", &all(), None, 100).await.unwrap();
    assert_eq!(
        outlines.iter().map(|outline| outline.lines).sum::<u64>(),
        1_000,
        "nothing of what was refused is there"
    );

    // What has ended makes room; what it came to is kept.
    let chunks = state.open_prefetches("me", 0, 1).await.unwrap();
    let done = Progress {
        targets: vec!["p/L2".into()],
        nodes: vec![NodeName::parse("n").unwrap()],
        resident: vec![1; 100],
        failed: BTreeMap::new(),
    };
    state.keep_progress(&[(chunks[0].id, 1_000_500, &done)]).await.unwrap();
    open.ended("me", 100);
    assert!(accepting.submit(queue).await.is_ok());
    let kept = state.chunks(&[chunks[0].id]).await.unwrap();
    assert_eq!((kept[0].finished_ms, &kept[0].progress, &kept[0].paths), (1_000_500, &done, &chunks[0].paths));

    // Directories have an id each, files share one; both are in the log before they are answered.
    let head = state.head().await.unwrap();
    let Accepted { tasks } = accepting.submit(refresh("r1", Kind::RefreshDirectory, &["/a/", "/b/"])).await.unwrap();
    assert_eq!(tasks.len(), 2);
    let Accepted { tasks } = accepting.submit(refresh("r2", Kind::RefreshFile, &["/c", "/d"])).await.unwrap();
    assert_eq!(tasks.len(), 1);
    let entries = state.entries_after(head, 10).await.unwrap();
    assert_eq!(entries.len(), 3, "one entry a chunk");
    assert_eq!(state.open_refreshes(10).await.unwrap(), entries.iter().map(|entry| entry.revision).collect::<Vec<_>>());
    assert_eq!(state.complete_refreshes(entries[0].revision, entries[1].revision, 5).await.unwrap(), 2);
    assert_eq!(state.open_refreshes(10).await.unwrap(), [entries[2].revision]);
    let by_task = Filter { tasks, ..all() };
    assert_eq!(state.outlines("me", &by_task, None, 10).await.unwrap().len(), 1);
    assert_eq!(state.outlines("you", &by_task, None, 10).await.unwrap(), [], "another account's");
    assert_eq!(state.outlines("me", &Filter { domain: Some("b.com".into()), ..all() }, None, 10).await.unwrap(), []);
    assert_eq!(
        state.outlines("me", &Filter { kind: Some(Kind::RefreshFile), ..all() }, None, 10).await.unwrap().len(),
        1
    );
}

async fn queries_are_filtered_ordered_and_limited(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let mut tasks = Vec::new();
    for (n, at) in [(1, 2_000_000), (2, 2_001_000), (3, 2_002_000)] {
        let mut submission = prefetch(&format!("q{n}"), n);
        (submission.account, submission.now_ms) = ("asks".into(), at);
        tasks.extend(accepting.submit(submission).await.unwrap().tasks);
        let mut submission = refresh(&format!("s{n}"), Kind::RefreshFile, &["/a", "/b", "/c", "/d"]);
        (submission.account, submission.now_ms) = ("asks".into(), at);
        submission.groups[0].domain = name(&format!("d{n}.com"));
        tasks.extend(accepting.submit(submission).await.unwrap().tasks);
    }
    let lines = async |filter: Filter, before: Option<u64>, most: u32| -> Vec<u64> {
        let outlines = state.outlines("asks", &filter, before, most).await.unwrap();
        assert!(outlines.is_sorted_by(|a, b| a.id > b.id), "the newest first");
        outlines.iter().map(|outline| outline.lines).collect()
    };
    let newest = state.outlines("asks", &all(), None, 1).await.unwrap()[0].id;
    let between = |from_ms, to_ms| Filter { from_ms, to_ms, ..Filter::default() };
    type Case<'a> = (&'a str, Filter, Option<u64>, u32, &'a [u64]);
    let cases: [Case<'_>; 11] = [
        ("all", all(), None, 100, &[4, 3, 4, 2, 4, 1]),
        ("the first", all(), None, 2, &[4, 3]),
        ("none", all(), None, 0, &[]),
        ("before is exclusive", all(), Some(newest), 2, &[3, 4]),
        ("the ends of a span are in it", between(2_000_000, 2_001_000), None, 100, &[4, 2, 4, 1]),
        ("and nothing else is", between(2_000_001, 2_000_999), None, 100, &[]),
        ("a span that ends before it begins", between(2_002_000, 2_000_000), None, 100, &[]),
        ("tasks", Filter { tasks: vec![tasks[0], tasks[3], u64::MAX >> 1], ..all() }, None, 100, &[4, 1]),
        ("a kind", Filter { kind: Some(Kind::Prefetch), ..all() }, None, 100, &[3, 2, 1]),
        ("a domain", Filter { domain: Some("d2.com".into()), ..all() }, None, 100, &[4]),
        (
            "a domain and a kind",
            Filter { domain: Some("d2.com".into()), kind: Some(Kind::Prefetch), ..all() },
            None,
            100,
            &[],
        ),
    ];
    for (what, filter, before, most, expected) in cases {
        assert_eq!(lines(filter, before, most).await, expected, "{what}");
    }

    let ids: Vec<u64> = state.outlines("asks", &all(), None, 100).await.unwrap().iter().map(|o| o.id).collect();
    let chunks = state.chunks(&[ids[4], ids[0], ids[4], u64::MAX >> 1, ids[2]]).await.unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.id).collect::<Vec<_>>(), [ids[0], ids[2], ids[4]], "each once");
    assert_eq!(state.chunks(&[]).await.unwrap(), []);
    let chunk = &chunks[0];
    assert_eq!((chunk.account.as_str(), chunk.domain.as_str(), chunk.created_ms), ("asks", "d3.com", 2_002_000));
    assert_eq!(
        (chunk.kind, chunk.paths.len(), chunk.params.area, chunk.task),
        (Kind::RefreshFile, 4, Coverage::Global, tasks[5])
    );

    let open: Vec<u64> = state.open_prefetches("asks", 0, 100).await.unwrap().iter().map(|chunk| chunk.id).collect();
    assert_eq!(open, [ids[5], ids[3], ids[1]], "the oldest first");
    let some = state.open_prefetches("asks", ids[5], 1).await.unwrap();
    assert_eq!(some.iter().map(|chunk| chunk.id).collect::<Vec<_>>(), [ids[3]], "after is exclusive");
    assert!(state.open_prefetches("nobody", 0, 100).await.unwrap().is_empty());
    let mut accounts = state.open_accounts().await.unwrap();
    accounts.retain(|(account, _, _)| account == "asks");
    assert_eq!(accounts, [("asks".to_owned(), 3, 6)]);

    // What has ended stays as it ended.
    let progress = |target: &str| Progress { targets: vec![target.into()], ..Progress::default() };
    let (going, ended, late) = (progress("going/L1"), progress("ended/L1"), progress("late/L1"));
    state.keep_progress(&[(ids[5], 0, &going), (ids[5], 7, &ended), (ids[5], 9, &late)]).await.unwrap();
    let kept = &state.chunks(&[ids[5]]).await.unwrap()[0];
    assert_eq!((kept.finished_ms, &kept.progress), (7, &ended));
    let refreshes = state.open_refreshes(1_000).await.unwrap();
    assert!(refreshes.is_sorted_by(|a, b| a < b));
    assert_eq!(state.open_refreshes(2).await.unwrap(), refreshes[..2]);
    let (first, last) = (chunks[1].revision, chunks[0].revision);
    assert_eq!(state.complete_refreshes(last, first, 5).await.unwrap(), 0, "a span that ends before it begins");
    assert_eq!(state.complete_refreshes(first, last, 0).await.unwrap(), 2, "both ends are in it, prefetches are not");
    assert_eq!(state.complete_refreshes(first, last, 5).await.unwrap(), 0, "what is complete stays as it is");
    assert!(state.chunks(&[ids[0]]).await.unwrap()[0].finished_ms > 0, "whatever the clock says");
    assert_eq!(state.complete_refreshes(Revision::ZERO, first, 5).await.unwrap() as usize, refreshes.len() - 2);
}

async fn log_is_read_in_order_and_compacted(state: &State) {
    let pop = Pop { name: PopName::parse("p").unwrap(), region: Coverage::Global, parents: BTreeMap::new() };
    let at = state.append(&[Entry::Pop(pop.clone())]).await.unwrap();
    assert_eq!(at, state.head().await.unwrap());
    let entries = state.entries_after(Revision::ZERO, 1_000).await.unwrap();
    assert!(entries.iter().zip(1..).all(|(entry, at)| entry.revision == Revision(at)), "no gap");
    assert_eq!(
        state.entries_after(Revision(1), 2).await.unwrap(),
        entries[1..3],
        "after is exclusive, and there is an end"
    );
    assert_eq!(state.entries_after(at, 1_000).await.unwrap(), []);
    assert_eq!(state.append(&[]).await.unwrap(), at, "nothing is no entry");
    state.compact(at.0).await.unwrap();
    state.compact(at.0 + 1).await.unwrap();
    assert_eq!(state.compacted().await.unwrap(), Revision::ZERO, "all of it is kept");
    assert_eq!(state.entries_after(Revision::ZERO, 1_000).await.unwrap(), entries);
    state.compact(1).await.unwrap();
    assert_eq!(state.compacted().await.unwrap(), Revision(at.0 - 1));
    assert_eq!(
        state.entries_after(Revision::ZERO, 1_000).await.unwrap().len(),
        1,
        "invalidations are gone, configuration is not"
    );
    let (head, known) = state.knowledge().await.unwrap();
    assert_eq!((head, known.topology.pops.get(&pop.name)), (at, Some(&pop)));
}

async fn leases_count_while_somebody_may_go_by_them(state: &State) {
    let set = async |lease_secs| state.append(&[Entry::Settings(Settings { lease_secs })]).await.unwrap();
    let lease = async |acked| state.longest_lease(acked).await.unwrap().as_secs();
    assert_eq!(lease(Revision::ZERO).await, Settings::default().lease_secs);
    let (long, short) = (set(60).await, set(5).await);
    let cases = [(Revision::ZERO, 60), (Revision(long.0 - 1), 60), (long, 60), (short, 5)];
    for (acked, expected) in cases {
        assert_eq!(lease(acked).await, expected, "{acked:?}");
    }
    state.compact(0).await.unwrap();
    assert_eq!(lease(long).await, 60, "settings are not compacted");
    let compacted = state.compacted().await.unwrap();
    state.compact(1).await.unwrap();
    assert_eq!(state.compacted().await.unwrap(), compacted, "it never falls");
    set(Settings::default().lease_secs).await;
}

async fn accounts_are_made_once(state: &State) {
    let account = |name: &str, qps| Account {
        name: name.into(),
        profile: "cdn".into(),
        quota: [("url".to_owned(), qps)].into(),
        qps,
        status: AccountStatus::Active,
    };
    state.create_account(&account("two", 2), 5).await.unwrap();
    state.create_account(&account("one", 1), 6).await.unwrap();
    let refused = state.create_account(&account("two", 3), 7).await;
    assert!(matches!(refused, Err(AccountError::Exists(name)) if name == "two"));
    state.set_account_status("one", AccountStatus::Overdue).await.unwrap();
    let refused = state.set_account_status("three", AccountStatus::Overdue).await;
    assert!(matches!(refused, Err(AccountError::Absent(name)) if name == "three"));
    let overdue = Account { status: AccountStatus::Overdue, ..account("one", 1) };
    assert_eq!(state.accounts().await.unwrap(), [overdue, account("two", 2)], "by name, as they were made first");
}

/// What is read is what was committed: a transaction that was given up, before or after its first change, is not there.
async fn what_is_not_committed_never_was(state: &State) {
    let (head, known) = state.knowledge().await.unwrap();
    let nodes = state.nodes().await.unwrap();
    assert!(!state.remove_node(&NodeName::parse("nobody").unwrap()).await.unwrap());
    state.create_join_token("once", "first", 9_000_000).await.unwrap();
    assert!(state.create_join_token("once", "second", 9_000_000).await.is_err(), "an invitation is made once");
    let member = Member {
        name: NodeName::parse("late").unwrap(),
        pop: PopName::parse("p").unwrap(),
        tier: Tier::L2,
        advertise_url: "http://127.0.0.1:2".into(),
        isolation: Isolation::default(),
    };
    let second = Proof::Token { id: "once", secret: "second" };
    assert!(matches!(state.admit(second, &member, &known, "1", 5).await, Err(AdmitError::NotInvited)));
    state.acknowledge(&[(member.name.clone(), Revision(1))]).await.unwrap();
    assert_eq!((state.head().await.unwrap(), state.nodes().await.unwrap()), (head, nodes));

    // Callers that go away while they write take nothing with them: neither a part of what they wrote, nor the turn.
    let entries = [Entry::Settings(Settings::default())];
    for polls in 0..3 {
        let mut writing = std::pin::pin!(state.append(&entries));
        for _ in 0..polls {
            if futures_util::poll!(&mut writing).is_ready() {
                break;
            }
        }
    }
    let first = Proof::Token { id: "once", secret: "first" };
    assert!(state.admit(first, &member, &known, "1", 5).await.is_ok(), "the turn is free");
    let head = state.head().await.unwrap();
    let last = state.entries_after(Revision(head.0 - 1), 10).await.unwrap();
    assert_eq!(last.len(), 1, "the head is an entry, and there is none after it");
}

async fn domains_belong_to_one_account(state: &State) {
    let source = Source { kind: SourceKind::Address, content: "127.0.0.1".into(), port: 80, priority: 20, weight: 10 };
    let domain = Domain { name: name("d.com"), coverage: Coverage::Global, sources: vec![source], online: true };
    let detail = DomainDetail::default();
    let at = state.add_domain("me", domain.clone(), &detail, 5).await.unwrap();
    let head = state.head().await.unwrap();
    assert!(matches!(state.add_domain("me", domain.clone(), &detail, 5).await, Err(DomainError::Exists { own: true })));
    assert!(matches!(
        state.add_domain("you", domain.clone(), &detail, 5).await,
        Err(DomainError::Exists { own: false })
    ));
    assert!(matches!(state.remove_domain("you", &name("d.com")).await, Err(DomainError::Absent)));
    assert_eq!(state.head().await.unwrap(), head, "what was refused left nothing in the log");
    let named = |text: &str| Domain { name: name(text), ..domain.clone() };
    for (taken, conflicting) in [(".w.com", "a.w.com"), (".w.com", ".b.w.com"), ("x.y.com", ".y.com")] {
        let at = state.add_domain("you", named(taken), &detail, 5).await.unwrap();
        assert!(
            matches!(state.add_domain("me", named(conflicting), &detail, 5).await, Err(DomainError::Conflict)),
            "{conflicting}"
        );
        state.remove_domain("you", &name(taken)).await.unwrap();
        assert!(state.head().await.unwrap() > at);
    }
    for (wide, narrow) in [(".own.com", "a.own.com"), ("a.own.com", ".own.com")] {
        state.add_domain("me", named(wide), &detail, 5).await.unwrap();
        state.add_domain("me", named(narrow), &detail, 5).await.expect("both are the caller's own");
        let aside = state.add_domain("you", named("down.com"), &detail, 5).await;
        assert!(aside.is_ok(), "a name that ends alike, but not at a dot");
        for (account, text) in [("me", wide), ("me", narrow), ("you", "down.com")] {
            state.remove_domain(account, &name(text)).await.unwrap();
        }
    }
    assert_eq!(state.configured(Revision(at.0 - 1)).await.unwrap(), 0);
    assert_eq!(state.configured(at).await.unwrap(), 1);
    assert_eq!(state.configured(at).await.unwrap(), 0, "each once");
    let later = state.add_domain("you", named("a.com"), &detail, 9).await.unwrap();
    let earlier = state.add_domain("you", named("e.com"), &detail, 4).await.unwrap();
    let domains = state.domains().await.unwrap();
    let rows: Vec<_> =
        domains.iter().map(|row| (row.name.as_str(), row.account.as_str(), row.revision, row.configured)).collect();
    let expected = [("e.com", "you", earlier, false), ("d.com", "me", at, true), ("a.com", "you", later, false)];
    assert_eq!(rows, expected, "the oldest first");
    assert_eq!((domains[1].created_ms, domains[1].modified_ms), (5, 5));
    state.remove_domain("me", &name("d.com")).await.unwrap();
    state.remove_domain("you", &name("e.com")).await.unwrap();
    assert_eq!(state.domains().await.unwrap().len(), 1);
}

async fn nodes_are_let_in_by_proof_alone(state: &State) {
    let member = Member {
        name: NodeName::parse("n1").unwrap(),
        pop: PopName::parse("p").unwrap(),
        tier: Tier::L1,
        advertise_url: "http://127.0.0.1:1".into(),
        isolation: Isolation::default(),
    };
    let (_, known) = state.knowledge().await.unwrap();
    let elsewhere = Member { pop: PopName::parse("nowhere").unwrap(), ..member.clone() };
    state.create_join_token("t", "secret", 100).await.unwrap();
    let token = |secret| Proof::Token { id: "t", secret };
    fn own(secret: &str) -> Proof<'_> {
        Proof::Credential { secret, of_this_log: true }
    }
    assert!(matches!(state.admit(token("secret"), &elsewhere, &known, "1", 50).await, Err(AdmitError::NoPop(_))));
    assert!(matches!(state.admit(token("wrong"), &member, &known, "1", 50).await, Err(AdmitError::NotInvited)));
    assert!(
        matches!(state.admit(token("secret"), &member, &known, "1", 100).await, Err(AdmitError::NotInvited)),
        "expired"
    );
    let credential = state.admit(token("secret"), &member, &known, "1", 50).await.unwrap().credential.unwrap();
    let (head, known) = state.knowledge().await.unwrap();
    assert_eq!(known.topology.members.get(&member.name), Some(&member));
    assert!(state.admit(own(&credential), &member, &known, "1", 50).await.unwrap().credential.is_none());
    assert_eq!(state.head().await.unwrap(), head, "nothing new, nothing logged");
    let mut stale = known.clone();
    state.remove_node(&member.name).await.unwrap();
    stale.topology.members.insert(member.name.clone(), member.clone());
    let credential = state.admit(token("secret"), &member, &stale, "1", 50).await.unwrap().credential.unwrap();
    let (_, known) = state.knowledge().await.unwrap();
    assert!(known.topology.members.contains_key(&member.name), "who is invited is a member, whatever was known before");
    state.acknowledge(&[(member.name.clone(), Revision(3))]).await.unwrap();
    state.acknowledge(&[(member.name.clone(), Revision(2))]).await.unwrap();
    assert_eq!(state.nodes().await.unwrap()[0].acked, Revision(3), "an acknowledgement never falls");
    // A node that is invited again comes without a store: what open prefetches had resident there is not.
    let open = state.open_prefetches("me", 0, 2).await.unwrap();
    let holding = |name: &str| Progress {
        targets: vec!["p/L2".into()],
        nodes: vec![NodeName::parse(name).unwrap()],
        resident: vec![1; 100],
        failed: BTreeMap::new(),
    };
    let (here, elsewhere) = (holding("n1"), holding("n11"));
    state.keep_progress(&[(open[0].id, 0, &here), (open[1].id, 0, &elsewhere)]).await.unwrap();
    state.admit(own(&credential), &member, &known, "1", 50).await.unwrap();
    let kept = || async {
        state
            .chunks(&[open[1].id, open[0].id])
            .await
            .unwrap()
            .into_iter()
            .map(|chunk| chunk.progress)
            .collect::<Vec<_>>()
    };
    assert_eq!(kept().await, [elsewhere.clone(), here], "a node that only comes back holds what it held");
    let stranger = Proof::Credential { secret: &credential, of_this_log: false };
    state.admit(stranger, &member, &known, "2", 50).await.unwrap();
    assert_eq!(kept().await, [elsewhere.clone(), Progress::default()], "what it held was of another log");
    let here = holding("n1");
    state.keep_progress(&[(open[0].id, 0, &here)]).await.unwrap();
    let credential = state.admit(token("secret"), &member, &known, "3", 50).await.unwrap().credential.unwrap();
    assert_eq!(kept().await, [elsewhere, Progress::default()]);
    let row = &state.nodes().await.unwrap()[0];
    assert_eq!((row.acked, row.program.as_str()), (Revision(3), "3"), "what it acknowledged stays");
    assert!(state.remove_node(&member.name).await.unwrap());
    assert!(!state.remove_node(&member.name).await.unwrap());
    let none = Knowledge::default();
    let refused = state.admit(own(&credential), &member, &none, "1", 50).await;
    assert!(matches!(refused, Err(AdmitError::NoPop(_))));
    let refused = state.admit(own(&credential), &member, &known, "1", 50).await;
    assert!(matches!(refused, Err(AdmitError::NotInvited)), "a removed node has no credential");
}

async fn what_is_past_its_time_is_forgotten(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let ended = state.outlines("me", &all(), None, 100).await.unwrap().len() as u64;
    let mut later = prefetch("later", 1);
    (later.now_ms, later.charge.day) = (3_000_000, 8);
    accepting.submit(later.clone()).await.unwrap();
    assert!(state.spend_nonce("key", "alone", 2_000_000).await.unwrap());
    assert!(!state.spend_nonce("key", "alone", 2_000_000).await.unwrap());
    assert!(!state.spend_nonce("key", "later", 3_000_000).await.unwrap(), "a submission spent it");
    assert!(state.spend_nonce("other key", "later", 3_000_000).await.unwrap());

    assert!(state.spend_nonce("key", "last", 2_500_000).await.unwrap());
    state.create_join_token("over", "secret", 1_999_999).await.unwrap();
    state.create_join_token("last", "secret", 2_000_000).await.unwrap();

    state.forget(2_000_000, 8, 2_500_000).await.unwrap();
    assert!(!state.spend_nonce("key", "last", 3_000_000).await.unwrap(), "what is of that very moment stays");
    assert!(state.create_join_token("last", "secret", 2_000_000).await.is_err());
    assert!(state.create_join_token("over", "secret", 2_000_000).await.is_ok(), "it was forgotten");
    assert!(state.spend_nonce("key", "alone", 3_000_000).await.unwrap(), "its window is over");
    assert!(!state.spend_nonce("key", "later", 3_000_000).await.unwrap());
    let left = state.outlines("me", &all(), None, 100).await.unwrap().len() as u64;
    assert!(
        left < ended + 1 && left > 1,
        "{left} of {ended}: what has ended is gone, what is open stays however old it is"
    );
    assert!(state.spent("me", 7).await.unwrap().is_empty());
    assert_eq!(state.spent("me", 8).await.unwrap(), [("preload".to_owned(), 1)].into());
}

async fn refreshes_of_a_domain_are_bounded(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let paths: Vec<String> = (0..2_000).map(|n| format!("/{n}")).collect();
    let of = |nonce: &str, domain: &str, lines: usize| {
        let paths: Vec<&str> = paths.iter().take(lines).map(String::as_str).collect();
        let mut submission = refresh(nonce, Kind::RefreshFile, &paths);
        submission.groups[0].domain = name(domain);
        submission
    };
    let head = state.head().await.unwrap();
    let count = OPEN_REFRESHES_MAX / 2_000;
    for n in 0..count {
        assert!(accepting.submit(of(&format!("f{n}"), "full.com", 2_000)).await.is_ok());
    }
    for _ in 0..2 {
        assert_eq!(accepting.submit(of("one more", "full.com", 1)).await, Err(Refused::RefreshesFull));
    }
    assert!(accepting.submit(of("elsewhere", "room.com", 1)).await.is_ok());
    let (again, _) = Accepting::start(state.clone()).await.unwrap();
    let refused = again.submit(of("one more", "full.com", 1)).await;
    assert_eq!(refused, Err(Refused::RefreshesFull), "a process that restarted counts what is there");

    state.complete_refreshes(Revision(head.0 + 1), Revision(head.0 + 4), 5).await.unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while accepting.submit(of("one more", "full.com", 2_000)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "what is complete makes room");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
