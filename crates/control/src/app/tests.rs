//! Who may do what: domains of the account, policies, states of the account.

use std::sync::Arc;
use std::time::Duration;

use model::{Knowledge, ManualClock, Moment, Revision};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::lines::{Page, hundredths};
use super::*;
use crate::policy::Policy;
use crate::scheduler::key_of;
use crate::state::accounts::Account;
use crate::state::chunks::Filter;
use crate::state::domains::{ChangedDomain, Doing, DomainDetail, DomainError};
use crate::testing::{clock, domain, state, until};

mod long;
mod sharing;

#[test]
fn days_begin_at_midnight_in_the_zone_of_quotas() {
    let cases = [
        (1_767_283_199_000, 0), // 2026-01-01T15:59:59Z is 23:59:59 there
        (1_767_283_200_000, 1),
        (1_767_369_599_000, 1),
    ];
    for (now_ms, later) in cases {
        assert_eq!(quota_day(now_ms), quota_day(1_767_283_199_000) + later, "{now_ms}");
    }
}

#[test]
fn progress_never_says_all_while_the_task_has_not() {
    assert_eq!([hundredths(0, 4), hundredths(1, 4), hundredths(4, 4), hundredths(0, 0)], [0, 2_500, 9_900, 0]);
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap()
}

fn object(url: &str) -> Object {
    Object { text: format!("http://{url}"), key: key_of(url).unwrap() }
}

fn objects(urls: &[&str]) -> Vec<Object> {
    urls.iter().map(|url| object(url)).collect()
}

#[test]
fn objects_belong_to_domains_of_the_caller_that_are_served() {
    let mut knowledge = Knowledge::default();
    let mut domains = BTreeMap::new();
    let rows = [
        ("a.com", "me", true, true),
        (".w.com", "me", true, true),
        ("x.w.com", "you", true, true),
        ("off.com", "me", false, true),
        ("new.com", "me", true, false),
    ];
    for (text, account, online, configured) in rows {
        knowledge.domains.insert(name(text), Domain { online, ..domain(text) }.into());
        let detail = DomainDetail::default();
        let row = DomainRow {
            name: name(text),
            account: account.into(),
            detail,
            created_ms: 0,
            modified_ms: 0,
            revision: Revision(1),
            configured,
            doing: Doing::Configuring,
            blocked: String::new(),
            born: Revision(1),
        };
        domains.insert(name(text), row);
    }
    let known = Known {
        head: Revision(1),
        seen: Moment::at(Duration::ZERO),
        knowledge: Arc::new(knowledge),
        domains: Arc::new(domains),
        joined: Arc::default(),
    };
    type Groups = &'static [(&'static str, usize)];
    let cases: [(&[&str], Result<Groups, &str>); 9] = [
        (&["a.com/1", "y.w.com/", "a.com/2", "z.w.com/"], Ok(&[("a.com", 2), (".w.com", 2)])),
        (&["a.com/1", "x.w.com/1"], Err("no domain of the account serves `x.w.com`")),
        (&["y.x.w.com/1"], Ok(&[(".w.com", 1)])),
        (&["w.com/1"], Err("no domain of the account serves `w.com`")),
        (&["www.a.com/1"], Err("no domain of the account serves `www.a.com`")),
        (&["nobody.com/1"], Err("no domain of the account serves `nobody.com`")),
        (&["a.com/1", "off.com/1"], Err("domain is offline")),
        (&["a.com/1", "new.com/1"], Err("domain is being configured")),
        (&[], Ok(&[])),
    ];
    for (urls, expected) in cases {
        let found = by_domain(&known, "me", objects(urls)).map_err(|denied| denied.to_string());
        let found =
            found.map(|groups| groups.iter().map(|(row, of)| (row.name.as_str(), of.len())).collect::<Vec<_>>());
        assert_eq!(found, expected.map(<[_]>::to_vec).map_err(str::to_owned), "{urls:?}");
    }
}

const MARGIN: Duration = Duration::from_secs(1);

/// The verbs over a database without nodes.
struct Rig {
    app: App,
    clock: Arc<ManualClock>,
    stopping: CancellationToken,
    _dir: TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

const FILES: Refresh = Refresh { of: RefreshOf::Files, force: false };
const DIRECTORIES: Refresh = Refresh { of: RefreshOf::Directories, force: false };

const PUSH: Permission<'_> = Permission { action: "cdn:PushObjectCache", resource: "acs:cdn:*:me:domain/{}" };
const LOOK: Permission<'_> = Permission { action: "cdn:DescribeRefreshTasks", resource: "acs:cdn:*:me:domain/{}" };

fn spending(nonce: &str) -> Spending<'_> {
    Spending { nonce, record: Record::default() }
}

fn limits() -> Limits {
    Limits { bucket: "preload", day: Some(1_000), minute: None, queue: QueueMax::Unlimited }
}

fn principal(account: &str, status: AccountStatus, policy: Option<&str>) -> Principal {
    let account = Account { name: account.into(), profile: "open".into(), quota: BTreeMap::new(), qps: 0, status };
    let policy = policy.map(|text| Policy::parse(text).unwrap());
    let secret = Zeroizing::new("secret".into());
    let key = AccessKey { id: "key".into(), secret, active: true, policy, user: None, account };
    Principal { key: Arc::new(key), pass: None }
}

fn me() -> Principal {
    principal("me", AccountStatus::Active, None)
}

impl Rig {
    /// With the domains `a.com` and `b.com` of mine.
    async fn start() -> Rig {
        Rig::with_nodes(&[]).await
    }

    /// The same, with these nodes as members.
    async fn with_nodes(names: &[&str]) -> Rig {
        let dir = TempDir::new().unwrap();
        let (state, clock, stopping) = (state(&dir, names).await, clock(), CancellationToken::new());
        let following = Following::start(state.clone(), clock.clone(), stopping.clone()).await.unwrap();
        let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
        let acknowledged =
            crate::completion::start(state.clone(), following.clone(), clock.clone(), MARGIN, stopping.clone())
                .await
                .unwrap();
        let signer = Arc::new(Signer::of_seed(&Signer::fresh_seed()).unwrap());
        let seal = Arc::new(crate::Seal::open_or_create(&dir.path().join("secret.key")).unwrap());
        let app = App {
            state: state.clone(),
            accepting,
            following,
            acknowledged,
            clock: clock.clone(),
            signer,
            log: LogId("log".into()),
            certificate_secret: model::CertificateSecret::new([7; 32]),
            passes: Passes::new(seal.clone()),
            keys: Keys::new(state.clone(), seal),
            ownership: Arc::new(crate::ownership::Ownership::new("secret", Default::default())),
            rules: Rules::default(),
            jobs: Arc::default(),
        };
        let rig = Rig { app, clock, stopping, _dir: dir };
        for name in ["a.com", "b.com"] {
            rig.add_domain(&me(), name).await.unwrap();
        }
        let head = rig.app.state.head().await.unwrap();
        names.iter().for_each(|name| rig.app.acknowledged.take(&crate::testing::node(name), head));
        until("domains are configured", || async {
            rig.app.following.now().domains.values().all(|row| row.configured).then_some(())
        })
        .await;
        rig
    }

    async fn add_domain(&self, principal: &Principal, text: &str) -> Result<(), Denied> {
        let Domain { name, coverage, sources, .. } = domain(text);
        let (names, detail) = (vec![name], DomainDetail::default());
        let wanted = Wanted { names, coverage, sources, detail, labels: Vec::new() };
        self.app.add_domains(principal, PUSH, wanted).await
    }

    /// Deletes a domain of mine, and waits until its name is free.
    async fn delete(&self, text: &str) {
        until("the domain is configured", || async {
            self.app.following.now().domains[&name(text)].configured.then_some(())
        })
        .await;
        self.app.remove_domain(&me(), PUSH, &name(text)).await.unwrap();
        until("the name is free", || async {
            (!self.app.following.now().domains.contains_key(&name(text))).then_some(())
        })
        .await;
    }

    async fn push(&self, principal: &Principal, nonce: &str, urls: &[&str]) -> Result<Vec<u64>, Denied> {
        let how = Prefetch {
            area: None,
            warm: WarmTiers::default(),
            variants: vec![Vec::new()],
            priority: 5,
            not_before_ms: 0,
            verbatim: false,
            refetch: false,
            pin: None,
        };
        self.app.prefetch(principal, PUSH, spending(nonce), &limits(), objects(urls), &how).await
    }

    async fn refresh(
        &self,
        principal: &Principal,
        nonce: &str,
        urls: &[&str],
        how: Refresh,
    ) -> Result<Vec<u64>, Denied> {
        self.app.refresh(principal, PUSH, spending(nonce), &limits(), objects(urls), how).await
    }

    async fn lines(&self, principal: &Principal, filter: &LineFilter, skip: u64, size: usize) -> Result<Page, Denied> {
        self.app.lines(principal, LOOK, filter, skip, size).await
    }
}

#[test]
fn objects_of_a_refresh_become_scopes() {
    let pattern = |path: &str| Pattern::parse(UrlKey::new("a.com", path).unwrap()).unwrap();
    let directory = |path: &str| Scope::Directory { host: "a.com".into(), path: path.into() };
    let path = |path: &str| Scope::IgnoreParams { host: "a.com".into(), path: path.into() };
    use Mode::{Delete, Expire};
    use RefreshOf::{Directories, Files, Paths, Regexes};
    let cases = [
        // of        force  url              scope                                     mode
        (Files, false, "a.com/x?1", Scope::File(UrlKey::new("a.com", "/x?1").unwrap()), Delete),
        (Files, true, "a.com/x", Scope::File(UrlKey::new("a.com", "/x").unwrap()), Delete),
        (Directories, false, "a.com/d/", directory("/d/"), Expire),
        (Directories, true, "a.com/", directory("/"), Delete),
        (Directories, false, ".a.com/", Scope::Domain(name(".a.com")), Expire), // all hosts of a wildcard domain
        (Regexes, false, "a.com/[0-9].*", Scope::Regex(pattern("/[0-9].*")), Expire),
        (Regexes, true, "a.com/x", Scope::Regex(pattern("/x")), Delete),
        (Paths, false, "a.com/x?1", path("/x"), Expire),
        (Paths, true, "a.com/x", path("/x"), Delete),
    ];
    for (of, force, url, scope, mode) in cases {
        let got = invalidation(&object(url).key, Refresh { of, force });
        assert_eq!(got, Ok(Invalidation { scope, mode }), "{of:?} {url}");
    }
    assert!(invalidation(&object("a.com/(?x)").key, Refresh { of: Regexes, force: false }).is_err());
}

#[tokio::test]
async fn tags_are_refreshed_in_a_domain_of_the_caller() {
    let rig = Rig::start().await;
    let refresh = async |domain: &str, nonce: &str| {
        let tags = ["x", "y"].map(|tag| (format!("http://a.com/?{tag}"), Tag::parse(tag).unwrap()));
        rig.app.refresh_tags(&me(), PUSH, spending(nonce), &limits(), &name(domain), tags.into(), false).await
    };
    assert!(matches!(refresh("c.com", "1").await, Err(Denied::NoDomain(_))));
    assert!(matches!(refresh("x.a.com", "1").await, Err(Denied::NoDomain(_))), "a host is not a domain");
    let tasks = refresh("a.com", "1").await.unwrap();
    assert_eq!(tasks.len(), 1, "tags of one call are one task");
    let again = refresh("a.com", "2").await.unwrap();
    let page = rig.lines(&me(), &all(), 0, 10).await.unwrap();
    assert_eq!(page.total, 4, "the same again is done again: {again:?}");
    assert!(page.lines.iter().all(|line| line.kind == Kind::RefreshTag), "{page:?}");
    let logged = rig.app.state.entries_after(Revision::ZERO, 100).await.unwrap();
    let last = model::log::decode::<model::Entry>(&logged.last().unwrap().bytes).unwrap();
    let scope = |tag: &str| Scope::Tag { domain: name("a.com"), tag: Tag::parse(tag).unwrap() };
    let both = ["x", "y"].map(|tag| Invalidation { scope: scope(tag), mode: Mode::Expire });
    assert_eq!(last, model::Entry::Invalidate(both.into()));
}

#[tokio::test]
async fn domain_changes_reach_the_log_once_and_one_at_a_time() {
    let rig = Rig::start().await;
    let change = async |change| rig.app.change_domains(&me(), PUSH, &[name("a.com")], &change).await;
    let configured = || {
        until("the domain is configured", || async {
            rig.app.following.now().domains[&name("a.com")].configured.then_some(())
        })
    };
    let head = || async { rig.app.state.head().await.unwrap() };
    let before = head().await;
    change(DomainChange::Online(true)).await.unwrap();
    change(DomainChange::TagHeader(None)).await.unwrap();
    assert_eq!(head().await, before, "what it is already is no entry");

    change(DomainChange::Online(false)).await.unwrap();
    assert!(matches!(rig.refresh(&me(), "1", &["a.com/x"], FILES).await, Err(Denied::Offline)));
    assert!(matches!(rig.push(&me(), "1", &["a.com/x"]).await, Err(Denied::Offline)));
    configured().await;
    change(DomainChange::Online(true)).await.unwrap();
    configured().await;
    rig.refresh(&me(), "2", &["a.com/x"], FILES).await.unwrap();
    change(DomainChange::TagHeader(Some("x-tags".into()))).await.unwrap();
    let domain = rig.app.following.now().knowledge.domain("a.com").unwrap().clone();
    assert_eq!((domain.online, domain.tag_header.as_deref()), (true, Some("x-tags")));

    let stranger = principal("you", AccountStatus::Active, None);
    let denied = rig.app.change_domains(&stranger, PUSH, &[name("a.com")], &DomainChange::Online(false)).await;
    assert!(matches!(denied, Err(Denied::NoDomain(_))));
    let row = rig.app.following.now().domains[&name("a.com")].clone();
    let change = ChangedDomain { domain, detail: row.detail, seen: Revision(row.revision.0 - 1) };
    let outdated = rig.app.state.change_domains("me", vec![change], Doing::Configuring, 0).await;
    assert!(matches!(outdated, Err(DomainError::Changed)), "{outdated:?}");
    assert_eq!(rig.app.following.now().knowledge.domains[&name("a.com")].tag_header.as_deref(), Some("x-tags"));
}

#[tokio::test]
async fn domain_whose_nodes_have_not_heard_of_its_last_change_is_busy() {
    let rig = Rig::with_nodes(&["p-1"]).await;
    let app = &rig.app;
    let change = async |names: &[&str], change| {
        let names: Vec<DomainName> = names.iter().map(|text| name(text)).collect();
        app.change_domains(&me(), PUSH, &names, &change).await
    };
    let doing = || app.following.now().domains[&name("a.com")].doing;
    change(&["a.com"], DomainChange::Online(false)).await.unwrap();
    assert_eq!(doing(), Doing::Stopping);
    let function =
        model::Function { id: 0, name: "range".into(), args: vec![("enable".into(), "on".into())], parent: None };
    let set = app.set_functions(&me(), PUSH, &[name("a.com")], &[Wished { id: None, function }]).await.map(drop);
    let busy = [
        change(&["a.com"], DomainChange::Online(true)).await,
        change(&["b.com", "a.com"], DomainChange::Coverage(Coverage::Overseas)).await,
        change(&["a.com"], DomainChange::Sources(domain("x.com").sources, vec!["domain".into()])).await,
        app.remove_domain(&me(), PUSH, &name("a.com")).await,
        set,
    ];
    assert!(busy.iter().all(|denied| matches!(denied, Err(Denied::Configuring))), "{busy:?}");
    assert_eq!(
        app.following.now().knowledge.domain("b.com").unwrap().coverage,
        domain("b.com").coverage,
        "all or none"
    );
    change(&["a.com"], DomainChange::Online(false)).await.expect("it is so already");

    let acknowledge = || rig.app.acknowledged.take(&crate::testing::node("p-1"), rig.app.following.now().head);
    acknowledge();
    until("the node is past it", || async { rig.app.following.now().domains[&name("a.com")].configured.then_some(()) })
        .await;
    change(&["a.com"], DomainChange::Online(true)).await.unwrap();
    assert_eq!(doing(), Doing::Configuring);

    // A domain that is being deleted is shown and busy; nobody can take its name.
    app.remove_domain(&me(), PUSH, &name("b.com")).await.unwrap();
    acknowledge();
    let view = app.domain(&me(), LOOK, &name("b.com")).unwrap();
    assert_eq!((view.row.doing, view.domain.sources), (Doing::Deleting, domain("b.com").sources));
    assert!(matches!(change(&["b.com"], DomainChange::Online(false)).await, Err(Denied::Configuring)));
    assert!(matches!(rig.push(&me(), "1", &["b.com/1"]).await, Err(Denied::NoDomain(_))));
    assert!(matches!(rig.add_domain(&me(), "b.com").await, Err(Denied::Configuring)));
    let you = principal("you", AccountStatus::Active, None);
    assert!(matches!(rig.add_domain(&you, "b.com").await, Err(Denied::DomainExists { own: false })));
}

#[tokio::test]
async fn functions_change_all_their_domains_or_none() {
    let rig = Rig::start().await;
    let wish = |name: &str, value: &str| Wished {
        id: None,
        function: model::Function {
            id: 0,
            name: name.into(),
            args: vec![("enable".into(), value.into())],
            parent: None,
        },
    };
    let set = |who, domains: &[&str], wish| {
        let domains: Vec<DomainName> = domains.iter().map(|text| name(text)).collect();
        let app = &rig.app;
        async move { app.set_functions(&who, PUSH, &domains, &[wish]).await }
    };
    let only_a =
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"*","Resource":"acs:cdn:*:*:domain/a.com"}]}"#;
    let limited = || principal("me", AccountStatus::Active, Some(only_a));
    let head = rig.app.state.head().await.unwrap();
    let denied = set(limited(), &["a.com", "b.com"], wish("gzip", "on")).await;
    assert!(matches!(denied, Err(Denied::Forbidden)), "{denied:?}");
    let denied = set(me(), &["a.com", "none.com"], wish("gzip", "on")).await;
    assert!(matches!(denied, Err(Denied::NoDomain(_))), "{denied:?}");
    let denied = set(me(), &["a.com", "b.com"], wish("gzip", "no")).await;
    assert!(matches!(denied, Err(Denied::Functions(_))), "{denied:?}");
    assert_eq!(rig.app.state.head().await.unwrap(), head, "nothing was changed");

    let numbered = set(me(), &["a.com", "b.com"], wish("gzip", "on")).await.unwrap();
    assert_eq!(numbered.iter().map(|(domain, ..)| domain.as_str()).collect::<Vec<_>>(), ["a.com", "b.com"]);
    assert_eq!(rig.app.state.head().await.unwrap(), Revision(head.0 + 2), "an entry for each, together");
    let again = set(me(), &["a.com", "b.com"], wish("gzip", "on")).await.unwrap();
    assert_eq!(again, numbered, "what is set already is no entry");
    let (functions, _) = rig.app.functions(&limited(), PUSH, &name("a.com")).unwrap();
    assert_eq!(functions.list()[0].id, numbered[0].2);
    assert!(matches!(rig.app.functions(&limited(), PUSH, &name("b.com")), Err(Denied::Forbidden)));

    until("both are configured", || async {
        let known = rig.app.following.now();
        ["a.com", "b.com"].iter().all(|text| known.domains[&name(text)].configured).then_some(())
    })
    .await;
    let both = [name("a.com"), name("b.com")];
    rig.app.delete_functions(&me(), PUSH, &both, &Doomed::Names(vec!["gzip".into()])).await.unwrap();
    assert!(rig.app.functions(&me(), PUSH, &name("b.com")).unwrap().0.is_empty());
}

fn all() -> LineFilter {
    LineFilter { chunks: Filter { to_ms: u64::MAX >> 1, ..Filter::default() }, ..LineFilter::default() }
}

#[tokio::test]
async fn account_may_do_what_its_status_says() {
    let rig = Rig::start().await;
    let cases = [
        (AccountStatus::Active, true, true),
        (AccountStatus::NotOpened, false, false),
        (AccountStatus::Suspended, false, true),
        (AccountStatus::Overdue, false, true),
    ];
    for (status, may_change, may_look) in cases {
        let who = principal("me", status, None);
        let denied = |result: Result<(), Denied>| match result {
            Ok(()) => true,
            Err(Denied::Account(is)) => {
                assert_eq!(is, status);
                false
            }
            Err(other) => panic!("{status:?}: {other}"),
        };
        let nonce = format!("{status:?}");
        let changes = [
            rig.push(&who, &nonce, &["a.com/1"]).await.map(drop),
            rig.refresh(&who, &format!("r{nonce}"), &["a.com/1"], FILES).await.map(drop),
            rig.add_domain(&who, "c.com").await,
            rig.app.remove_domain(&who, PUSH, &name("b.com")).await,
        ];
        assert_eq!(changes.map(denied), [may_change; 4], "{status:?}");
        let looks = [
            rig.lines(&who, &all(), 0, 1).await.map(drop),
            rig.app.spent_today(&who, LOOK).await.map(drop),
            rig.app.domains(&who, LOOK).map(drop),
            rig.app.domain(&who, LOOK, &name("a.com")).map(drop),
        ];
        assert_eq!(looks.map(denied), [may_look; 4], "{status:?}");
    }
    assert_eq!(rig.app.spent_today(&me(), LOOK).await.unwrap()["preload"], 2, "only what was accepted is counted");
}

#[tokio::test]
async fn policy_must_allow_every_domain() {
    let rig = Rig::start().await;
    let only_a =
        r#"{"Version":"1","Statement":[{"Effect":"Allow","Action":"cdn:*","Resource":"acs:cdn:*:*:domain/a.com"}]}"#;
    let who = principal("me", AccountStatus::Active, Some(only_a));
    assert!(rig.push(&who, "1", &["a.com/1"]).await.is_ok());
    assert!(matches!(rig.push(&who, "2", &["a.com/1", "b.com/1"]).await, Err(Denied::Forbidden)));
    assert!(matches!(rig.add_domain(&who, "c.com").await, Err(Denied::Forbidden)));
    assert!(matches!(rig.app.remove_domain(&who, PUSH, &name("b.com")).await, Err(Denied::Forbidden)));
    assert!(matches!(rig.app.domains(&who, LOOK), Err(Denied::Forbidden)));
    assert!(rig.app.domain(&who, LOOK, &name("a.com")).is_ok());
    assert!(matches!(rig.lines(&who, &all(), 0, 9).await, Err(Denied::Forbidden)), "of all domains");
    let of_a = LineFilter { host: Some("a.com".into()), ..all() };
    assert_eq!(rig.lines(&who, &of_a, 0, 9).await.unwrap().total, 1);
    assert!(rig.push(&who, "2", &["a.com/1"]).await.is_ok(), "what was denied spent no nonce");
    assert!(matches!(rig.push(&who, "2", &["a.com/1"]).await, Err(Denied::Refused(Refused::NonceUsed))));
}

#[tokio::test]
async fn domains_are_each_accounts_own() {
    let rig = Rig::start().await;
    let you = principal("you", AccountStatus::Active, None);
    assert!(matches!(rig.add_domain(&me(), "a.com").await, Err(Denied::DomainExists { own: true })));
    assert!(matches!(rig.add_domain(&you, "a.com").await, Err(Denied::DomainExists { own: false })));
    assert!(matches!(rig.app.remove_domain(&you, PUSH, &name("a.com")).await, Err(Denied::NoDomain(_))));
    assert!(matches!(rig.app.domain(&you, LOOK, &name("a.com")), Err(Denied::NoDomain(_))));
    assert!(matches!(rig.push(&you, "1", &["a.com/1"]).await, Err(Denied::NoDomain(_))));
    rig.push(&me(), "1", &["a.com/1"]).await.unwrap();
    assert_eq!(rig.lines(&you, &all(), 0, 9).await.unwrap().total, 0);
    rig.delete("b.com").await;
    let names: Vec<String> =
        rig.app.domains(&me(), LOOK).unwrap().iter().map(|view| view.row.name.to_string()).collect();
    assert_eq!(names, ["a.com"], "what was just removed is not shown");
    rig.add_domain(&you, "b.com").await.unwrap();
}

#[tokio::test]
async fn lines_come_in_pages_newest_task_first() {
    let rig = Rig::start().await;
    rig.add_domain(&me(), ".w.com").await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..5 {
        let urls: Vec<String> = (0..3).map(|at| format!("a.com/{n}/{at}")).collect();
        tasks.extend(
            rig.push(&me(), &format!("p{n}"), &urls.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap(),
        );
        rig.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(tasks.len(), 5, "each second has its own task");
    let refreshed = rig.refresh(&me(), "r", &["b.com/d/", "b.com/e/"], DIRECTORIES).await.unwrap();
    assert_eq!(refreshed.len(), 2);

    let complete = || async {
        let filter = LineFilter { status: Some(Status::Complete), ..all() };
        (rig.lines(&me(), &filter, 0, 100).await.unwrap().total == 2).then_some(())
    };
    until("without nodes a refresh is complete at once", complete).await;

    let whole = rig.lines(&me(), &all(), 0, 100).await.unwrap();
    assert_eq!((whole.total, whole.lines.len()), (17, 17));
    assert!(whole.lines.is_sorted_by(|a, b| a.task >= b.task));
    for (skip, size, expected) in [(0, 4, 4), (4, 4, 4), (16, 4, 1), (17, 4, 0), (3, 1, 1)] {
        let page = rig.lines(&me(), &all(), skip, size).await.unwrap();
        assert_eq!((page.total, page.lines.len()), (17, expected), "{skip} {size}");
        assert_eq!(page.lines[..], whole.lines[skip as usize..skip as usize + expected], "{skip} {size}");
    }
    let filtered = |filter: LineFilter| {
        let rig = &rig;
        async move { rig.lines(&me(), &filter, 0, 100).await.unwrap().total }
    };
    assert_eq!(filtered(LineFilter { key: Some(object("a.com/2/1").key), ..all() }).await, 1);
    assert_eq!(filtered(LineFilter { host: Some("b.com".into()), ..all() }).await, 2);
    assert_eq!(filtered(LineFilter { status: Some(Status::Failed), ..all() }).await, 0);
    let of = |tasks: &[u64]| LineFilter { chunks: Filter { tasks: tasks.to_vec(), ..all().chunks }, ..all() };
    assert_eq!(filtered(of(&tasks[1..3])).await, 6);
    assert_eq!(filtered(of(&[999_999])).await, 0, "a task that is not there has no lines");

    rig.push(&me(), "w", &["x.w.com/1", "y.w.com/1"]).await.unwrap();
    for (host, expected) in [(".w.com", 2), ("x.w.com", 1), ("w.com", 0)] {
        assert_eq!(filtered(LineFilter { host: Some(host.into()), ..all() }).await, expected, "{host}");
    }
}

const RECEIPT: Permission<'_> = Permission { action: "cdn:DescribeRefreshTaskReceipt", resource: "*" };

/// The receipt of a task, verified with the control plane's key.
async fn receipt(rig: &Rig, task: u64) -> Result<model::receipt::Receipt, Denied> {
    let file = rig.app.receipt(&me(), RECEIPT, task).await?;
    let key = crate::receipt::PublicKey::parse(&rig.app.receipt_key(&me(), RECEIPT)?).unwrap();
    Ok(crate::receipt::verify(&file, key).unwrap())
}

#[tokio::test]
async fn receipt_says_by_which_right_each_member_was_past() {
    use crate::testing::node;
    let rig = Rig::with_nodes(&["p-1", "p-2"]).await;
    let accepted_ms = millis(rig.clock.now());
    let task = rig.refresh(&me(), "1", &["a.com/1", "a.com/2"], FILES).await.unwrap()[0];
    let revision = rig.app.state.head().await.unwrap();
    // Leases count from the time at which the control plane knows the revision.
    until("it is known", || async { (rig.app.following.now().head >= revision).then_some(()) }).await;
    assert!(matches!(receipt(&rig, task).await, Err(Denied::NotComplete)));
    let of = |task| LineFilter { chunks: Filter { tasks: vec![task], ..all().chunks }, ..all() };
    rig.clock.advance(Duration::from_secs(2));
    rig.app.acknowledged.take(&node("p-1"), revision);
    until("half of the members are past", || async {
        let page = rig.lines(&me(), &of(task), 0, 1).await.unwrap();
        (page.lines[0].progress == Progress::Refreshing(5_000)).then_some(())
    })
    .await;
    let page = rig.lines(&me(), &of(task), 0, 9).await.unwrap();
    assert_eq!(page.open, [(task, revision)].into());
    let waiting = rig.app.waiting(revision);
    assert_eq!((waiting.nodes.len(), waiting.more, waiting.nodes[0].node.as_str()), (1, 0, "p-2"));

    rig.clock.advance(Duration::from_secs(11));
    until("the lease of the other is over", || async {
        let page = rig.lines(&me(), &of(task), 0, 1).await.unwrap();
        (page.lines[0].progress == Progress::Complete && page.open.is_empty()).then_some(())
    })
    .await;
    let shown = receipt(&rig, task).await.unwrap();
    assert_eq!((shown.task, shown.account.as_str(), shown.kind.as_str()), (task.to_string(), "me", "file"));
    assert_eq!((shown.accepted_ms, shown.completed_ms), (accepted_ms, accepted_ms + 13_000));
    assert_eq!(shown.objects.listed, ["http://a.com/1", "http://a.com/2"]);
    let step = &shown.steps[0];
    assert_eq!((step.revisions.as_slice(), step.lease_ms, step.margin_ms), (&[revision][..], 10_000, 1_000));
    let passed: Vec<_> = step.members.iter().map(|member| (member.node.as_str(), step.passed(member))).collect();
    use model::fence::Passed::{Acknowledged, LeaseOver};
    assert_eq!(passed, [("p-1", Acknowledged), ("p-2", LeaseOver)]);
    assert_eq!(step.members[0].acknowledged_ms, accepted_ms + 2_000);

    // Amounts swept later are in the next receipt of the same task.
    rig.app.acknowledged.swept(&node("p-1"), revision, [(revision, (3, 3_000))]);
    let swept = || async {
        let step = receipt(&rig, task).await.unwrap().steps.remove(0);
        let member = &step.members[0];
        ((member.swept_objects, member.swept_bytes) == (3, 3_000) && member.swept_upto == Some(revision)).then_some(())
    };
    until("what was swept is written down", swept).await;
}

#[tokio::test]
async fn receipt_needs_a_refresh_of_ones_own_that_is_kept() {
    let rig = Rig::start().await;
    assert!(matches!(receipt(&rig, 99).await, Err(Denied::NoTask)));
    let pushed = rig.push(&me(), "1", &["a.com/1"]).await.unwrap()[0];
    assert!(matches!(receipt(&rig, pushed).await, Err(Denied::NoReceipt(_))));
    let urls: Vec<String> = (0..150).map(|n| format!("a.com/{n}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let task = rig.refresh(&me(), "2", &urls, FILES).await.unwrap()[0];
    let shown = until("without nodes it is complete at once", || async { receipt(&rig, task).await.ok() }).await;
    assert_eq!((shown.objects.count, shown.objects.listed.len()), (150, 0), "many objects are told by their digest");
    assert!(shown.steps[0].members.is_empty());
    let you = principal("you", AccountStatus::Active, None);
    assert!(matches!(rig.app.receipt(&you, RECEIPT, task).await, Err(Denied::NoTask)), "another account's");
    let nothing = principal("me", AccountStatus::Active, Some(r#"{"Version":"1","Statement":[]}"#));
    assert!(matches!(rig.app.receipt(&nothing, RECEIPT, task).await, Err(Denied::Forbidden)));
    // As for a task that an earlier version completed.
    rig.app.state.forget_completions(u64::MAX >> 1, 0).await.unwrap();
    assert!(matches!(receipt(&rig, task).await, Err(Denied::NoReceipt(_))));
}

#[tokio::test]
async fn certificates_are_entries_of_the_log_with_their_keys_sealed() {
    let rig = Rig::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(["a.com".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let pem = key.serialize_pem();
    let pair = |name: &str| Some(Submitted { name: name.into(), chain: chain.clone(), key: pem.clone().into() });
    let set = async |principal: &Principal, domain: &str, pair: Option<Submitted>| {
        rig.app.set_certificate(principal, PUSH, &name(domain), pair).await
    };
    let configured = || {
        until("the domain is configured", || async {
            rig.app.following.now().domains[&name("a.com")].configured.then_some(())
        })
    };
    let head = || async { rig.app.state.head().await.unwrap() };
    let other = principal("other", AccountStatus::Active, None);
    assert!(matches!(set(&other, "a.com", pair("c")).await, Err(Denied::NoDomain(_))));
    assert!(matches!(set(&me(), "x.a.com", pair("c")).await, Err(Denied::NoDomain(_))));
    assert!(matches!(set(&me(), "b.com", pair("c")).await, Err(Denied::Certificate(BadCertificate::OtherNames(_)))));
    let before = head().await;
    set(&me(), "a.com", None).await.unwrap();
    assert_eq!(head().await, before, "what is so already is no entry");

    set(&me(), "a.com", pair("c")).await.unwrap();
    assert_eq!(head().await, before.next());
    assert!(matches!(set(&me(), "a.com", None).await, Err(Denied::Configuring)), "one change at a time");
    configured().await;
    set(&me(), "a.com", pair("c")).await.unwrap();
    assert_eq!(head().await, before.next(), "the same again");
    let logged = rig.app.state.entries_after(before, 1).await.unwrap();
    let text = std::str::from_utf8(&logged[0].bytes).unwrap();
    assert!(pem.lines().all(|line| !text.contains(line)), "{text}");
    let model::Entry::Certificate(kept) = model::log::decode(text.as_bytes()).unwrap() else { panic!("{text}") };
    assert_eq!(kept.key.open(&rig.app.certificate_secret, &name("a.com")).unwrap().as_str(), pem);
    assert!(!format!("{kept:?}").contains(&text[text.find("\"key\":\"").unwrap() + 7..][..40]));
    let (_, facts) = rig.app.certificate(&me(), LOOK, &name("a.com")).unwrap().unwrap();
    assert!(facts.not_after > rig.clock.now());
    assert!(matches!(rig.app.certificate(&other, LOOK, &name("a.com")), Err(Denied::NoDomain(_))));

    set(&me(), "a.com", None).await.unwrap();
    assert!(rig.app.certificate(&me(), LOOK, &name("a.com")).unwrap().is_none());
}
