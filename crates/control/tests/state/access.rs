//! Users, their policies and keys; the audit log.

use control::policy::Policy;
use control::state::State;
use control::state::access::{ATTACHED_MAX, ListedKey, OwnPolicy, User};
use control::state::accounts::{Account, AccountError, AccountStatus, Opening};
use control::state::audit::{BEGUN, OK, Record, Recorded, Wanted, Window};
use control::state::submit::{Accepting, Note, Refused};
use control::{Seal, state::memory::Memory};
use tempfile::TempDir;

fn policy(action: &str) -> Policy {
    let text = format!(r#"{{"Version":"1","Statement":{{"Effect":"Allow","Action":"{action}","Resource":"*"}}}}"#);
    Policy::parse(&text).unwrap()
}

#[track_caller]
fn in_use(result: Result<(), AccountError>, by: &str) {
    match result {
        Err(error @ AccountError::InUse { .. }) => assert!(error.to_string().ends_with(by), "{error}"),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn users_may_what_is_attached_to_them(state: &State) {
    let dir = TempDir::new().unwrap();
    let seal = Seal::open_or_create(&dir.path().join("secret.key")).unwrap();
    for (name, at) in [("acc", 40), ("other-acc", 41)] {
        let (profile, quota) = ("cdn-2024".into(), Default::default());
        let account = Account { name: name.into(), profile, quota, qps: 0, status: AccountStatus::Active };
        state.create_account(&account, at).await.unwrap();
    }
    assert!(matches!(state.create_user("none", "bob", 50).await, Err(AccountError::Absent(_))));
    state.create_user("acc", "bob", 50).await.unwrap();
    assert!(matches!(state.create_user("acc", "bob", 51).await, Err(AccountError::Exists(_))));
    state.create_user("other-acc", "bob", 52).await.unwrap();
    state.create_user("acc", "ann", 53).await.unwrap();

    // Keys of a user carry what is attached to it, as it is now.
    let unknown = state.create_key(&seal, "acc", Some("eve"), "k0", "secret", None, 60).await;
    assert!(matches!(unknown, Err(AccountError::NoUser(_))));
    state.create_key(&seal, "acc", None, "k1", "secret", None, 60).await.unwrap();
    state.create_key(&seal, "acc", Some("bob"), "k2", "secret", Some(&policy("cdn:Describe*")), 61).await.unwrap();
    let user = async || state.access_key(&seal, "k2").await.unwrap().unwrap().user.unwrap();
    assert_eq!((user().await.name.as_str(), user().await.policies), ("bob", Vec::new()), "nothing yet");
    assert!(state.access_key(&seal, "k1").await.unwrap().unwrap().user.is_none());

    assert!(matches!(state.attach("acc", "bob", "own").await, Err(AccountError::NoPolicy(_))));
    state.put_policy("acc", "own", &policy("cdn:*"), 70).await.unwrap();
    assert!(matches!(state.attach("acc", "eve", "own").await, Err(AccountError::NoUser(_))));
    assert!(matches!(state.attach("other-acc", "bob", "own").await, Err(AccountError::NoPolicy(_))), "each its own");
    assert!(state.attach("acc", "bob", "own").await.unwrap());
    assert!(!state.attach("acc", "bob", "own").await.unwrap(), "it is attached already");
    assert!(state.attach("acc", "bob", "AliyunVODFullAccess").await.unwrap());
    let vod = control::policy::system("AliyunVODFullAccess").unwrap();
    assert_eq!(user().await.policies, [vod.clone(), policy("cdn:*")]);
    state.put_policy("acc", "own", &policy("cdn:Push*"), 71).await.unwrap();
    assert_eq!(user().await.policies, [vod.clone(), policy("cdn:Push*")], "as it is now");

    // What is in use stays, and says what uses it.
    in_use(state.delete_policy("acc", "own").await, "is in use by user bob");
    in_use(state.delete_user("acc", "bob").await, "is in use by key k2");
    let own = OwnPolicy { name: "own".into(), policy: policy("cdn:Push*"), changed_ms: 71, users: vec!["bob".into()] };
    assert_eq!(state.policies("acc").await.unwrap(), [own]);
    let bob = User {
        name: "bob".into(),
        created_ms: 50,
        policies: vec!["AliyunVODFullAccess".into(), "own".into()],
        keys: vec!["k2".into()],
    };
    assert_eq!(state.users("acc").await.unwrap()[1], bob);
    let key = |id: &str, user: Option<&str>, active, policy, created_ms| ListedKey {
        id: id.into(),
        user: user.map(str::to_owned),
        active,
        policy,
        created_ms,
    };
    assert_eq!(state.set_key_active("k2", false).await.unwrap(), "acc");
    assert!(!state.access_key(&seal, "k2").await.unwrap().unwrap().active);
    let listed = [key("k1", None, true, None, 60), key("k2", Some("bob"), false, Some(policy("cdn:Describe*")), 61)];
    assert_eq!(state.keys("acc").await.unwrap(), listed);
    assert!(matches!(state.set_key_active("none", true).await, Err(AccountError::NoKey(_))));

    // A user takes along what was attached to it, and nobody else's.
    assert_eq!(state.delete_key("k2").await.unwrap(), "acc");
    assert!(matches!(state.delete_key("k2").await, Err(AccountError::NoKey(_))));
    assert!(state.detach("acc", "bob", "AliyunVODFullAccess").await.unwrap());
    assert!(!state.detach("acc", "bob", "AliyunVODFullAccess").await.unwrap());
    state.attach("other-acc", "bob", "AliyunCDNFullAccess").await.unwrap();
    state.delete_user("acc", "bob").await.unwrap();
    assert!(matches!(state.delete_user("acc", "bob").await, Err(AccountError::NoUser(_))));
    state.delete_policy("acc", "own").await.unwrap();
    assert!(matches!(state.delete_policy("acc", "own").await, Err(AccountError::NoPolicy(_))));
    assert_eq!(state.users("other-acc").await.unwrap()[0].policies, ["AliyunCDNFullAccess"]);

    for n in 0..ATTACHED_MAX {
        state.put_policy("acc", &format!("p{n}"), &policy("cdn:*"), 80).await.unwrap();
        state.attach("acc", "ann", &format!("p{n}")).await.unwrap();
    }
    let refused = state.attach("acc", "ann", "AliyunCDNFullAccess").await;
    assert!(matches!(refused, Err(AccountError::TooMany { .. })), "{refused:?}");
    assert!(!state.attach("acc", "ann", "p0").await.unwrap(), "what is there needs no room");
}

pub(crate) async fn service_is_opened_once(state: &State) {
    let (profile, quota, status) = ("cdn-2024".into(), Default::default(), AccountStatus::NotOpened);
    let account = Account { name: "new-acc".into(), profile, quota, qps: 0, status };
    state.create_account(&account, 90).await.unwrap();
    let opening = |at_ms, charge: &str| Some(Opening { at_ms, charge: charge.into() });
    assert_eq!(state.opening("new-acc").await.unwrap(), opening(90, "PayByTraffic"), "as it was made");
    assert!(state.open_service("new-acc", "PayByBandwidth", 95).await.unwrap());
    assert!(!state.open_service("new-acc", "PayByTraffic", 96).await.unwrap());
    assert_eq!(state.opening("new-acc").await.unwrap(), opening(95, "PayByBandwidth"));
    assert_eq!(state.opening("none").await.unwrap(), None);
    let accounts = state.accounts().await.unwrap();
    assert_eq!(accounts.iter().find(|one| one.name == "new-acc").unwrap().status, AccountStatus::Active);
}

fn record(account: &str, action: &str, at_ms: u64) -> Record {
    Record {
        at_ms,
        request: format!("R-{at_ms}"),
        account: account.into(),
        user: if at_ms.is_multiple_of(2) { "bob".into() } else { String::new() },
        key: "key".into(),
        session: "STS.x".into(),
        product: "Cdn".into(),
        action: action.into(),
        domains: vec!["a.com".into(), format!("d{at_ms}.com")],
        detail: [("Lines".to_owned(), "3".to_owned())].into(),
        source: "127.0.0.1".into(),
        outcome: BEGUN.into(),
    }
}

fn window(account: Option<&str>, from_ms: u64, to_ms: u64) -> Window {
    Window { account: account.map(str::to_owned), from_ms, to_ms, before: None }
}

pub(crate) async fn nothing_is_done_without_a_record(state: &State) {
    // With a nonce, in one transaction: of a nonce that was spent there is no second record.
    let first = record("audited", "AddCdnDomain", 2_000_001);
    let id = state.spend_nonce("audited-key", "n1", 2_000_001, &first).await.unwrap().expect("it is new");
    assert_eq!(state.spend_nonce("audited-key", "n1", 2_000_002, &first).await.unwrap(), None);
    let all = async || state.records(&window(Some("audited"), 0, u64::MAX >> 1), 100).await.unwrap();
    assert_eq!(all().await, [Recorded { id, record: first.clone(), ended_ms: 0 }], "to the letter");
    state.end_record(id, "ServiceBusy", 2_000_009).await.unwrap();
    let ended = Record { outcome: "ServiceBusy".into(), ..first };
    assert_eq!(all().await, [Recorded { id, record: ended, ended_ms: 2_000_009 }]);

    // With a submission: what is accepted is in it with its tasks, what is refused only as told.
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let mut submission = crate::prefetch("audited", 2);
    submission.record = record("audited", "PushObjectCache", 2_000_010);
    let accepted = accepting.submit(submission.clone()).await.unwrap();
    let pushed = &all().await[0];
    assert_eq!((pushed.record.outcome.as_str(), pushed.ended_ms), (OK, 2_000_010));
    assert_eq!(pushed.record.detail["TaskIds"], accepted.tasks[0].to_string());
    assert_eq!(accepting.submit(submission).await, Err(Refused::NonceUsed));
    assert_eq!(all().await.len(), 2, "a replay is not recorded");
    let refused = Record { outcome: "Forbidden.RAM".into(), ..record("audited", "PushObjectCache", 2_000_011) };
    let many = (0..200).map(|n| {
        let at_ms = 2_000_012 + n;
        accepting.note(Note::Refused(Box::new(Record { at_ms, ..refused.clone() })))
    });
    futures_util::future::join_all(many).await;
    accepting.note(Note::Ended { id, outcome: OK.into(), at_ms: 2_000_500 }).await;
    let kept = state.records(&window(Some("audited"), 0, u64::MAX >> 1), 1_000).await.unwrap();
    assert_eq!(kept.len(), 202, "several statements' worth in one transaction");
    assert!(kept.is_sorted_by(|a, b| (a.record.at_ms, a.id) > (b.record.at_ms, b.id)), "the newest first");
    assert_eq!((kept[201].record.outcome.as_str(), kept[201].ended_ms), (OK, 2_000_500));
}

pub(crate) async fn audit_log_is_searched_in_pages_and_forgotten(state: &State) {
    for n in 0..50 {
        let action = if n % 5 == 0 { "DeleteCdnDomain" } else { "AddCdnDomain" };
        state.begin_record(&record("searched", action, 3_000_000 + n)).await.unwrap();
        state.begin_record(&record("stranger", action, 3_000_000 + n)).await.unwrap();
    }
    let own = |from, to| window(Some("searched"), from, to);
    let some = |text: &str| Some(text.to_owned());
    let cases = [
        (own(0, u64::MAX >> 1), Wanted::default(), 50),
        (own(3_000_010, 3_000_019), Wanted::default(), 10),
        (own(0, u64::MAX >> 1), Wanted { action: some("DeleteCdnDomain"), ..Wanted::default() }, 10),
        (own(0, u64::MAX >> 1), Wanted { domain: some("d3000007.com"), ..Wanted::default() }, 1),
        (own(0, u64::MAX >> 1), Wanted { domain: some("3000007.com"), ..Wanted::default() }, 0),
        (own(0, u64::MAX >> 1), Wanted { user: some("bob"), ..Wanted::default() }, 25),
        (window(Some("nobody"), 0, u64::MAX >> 1), Wanted::default(), 0),
        (window(None, 3_000_000, u64::MAX >> 1), Wanted::default(), 100),
    ];
    for (within, wanted, count) in cases {
        // Page by page, each record once.
        let (mut found, mut page) = (Vec::new(), within.clone());
        loop {
            let (some, next) = state.search_records(page.clone(), &wanted, 7).await.unwrap();
            assert!(some.len() <= 7);
            found.extend(some.into_iter().map(|row| row.id));
            page.before = next;
            if next.is_none() {
                break;
            }
        }
        let distinct: std::collections::BTreeSet<&u64> = found.iter().collect();
        assert_eq!((found.len(), distinct.len()), (count, count), "{within:?} {wanted:?}");
    }

    // By age first, then by number.
    let before = state.record_span().await.unwrap().unwrap();
    let old = state.records(&window(None, 0, 2_999_999), 1_000).await.unwrap().len() as u64;
    assert_eq!(state.forget_records(3_000_000, u64::MAX).await.unwrap(), old);
    assert_eq!(state.records(&window(None, 0, u64::MAX >> 1), 1_000).await.unwrap().len(), 100);
    assert_eq!(state.forget_records(0, 30).await.unwrap(), 70);
    assert_eq!(state.record_span().await.unwrap(), Some((before.1 - 29, before.1)));
    assert_eq!(state.forget_records(u64::MAX >> 1, 30).await.unwrap(), 30);
    assert_eq!(state.record_span().await.unwrap(), None);
    assert_eq!(Memory::default().open(&Default::default()).record_span().await.unwrap(), None);
}
