//! Domains, the entries that tell of them, their labels, and names that are blocked.

use std::collections::BTreeMap;

use control::state::State;
use control::state::domains::{ChangedDomain, Doing, DomainDetail, DomainError, DomainRow, NewDomain};
use control::state::labels::{LABELS_MAX, LabelError};
use control::state::steering::{NotSteered, Steer, Steering};
use control::state::submit::Accepting;
use model::{Coverage, Domain, Revision, Source, SourceKind};

use super::{name, prefetch};

fn domain(text: &str) -> Domain {
    let source = Source {
        kind: SourceKind::Address,
        content: "127.0.0.1".into(),
        port: 80,
        scheme: None,
        priority: 20,
        weight: 10,
    };
    Domain {
        name: name(text),
        coverage: Coverage::Global,
        sources: vec![source],
        online: true,
        tag_header: None,
        functions: model::Functions::default(),
    }
}

async fn add(state: &State, account: &str, names: &[&str], now_ms: u64) -> Result<Revision, DomainError> {
    let new = |text: &&str| NewDomain { domain: domain(text), detail: DomainDetail::default(), labels: Vec::new() };
    state.add_domains(account, names.iter().map(new).collect(), now_ms).await
}

async fn row(state: &State, text: &str) -> Option<DomainRow> {
    state.domains().await.unwrap().into_iter().find(|row| row.name.as_str() == text)
}

/// Deletes a domain, whatever there is of it.
async fn delete(state: &State, account: &str, text: &str) {
    let seen = row(state, text).await.unwrap().revision;
    let at = state.remove_domain(account, domain(text), &DomainDetail::default(), seen, 6).await.unwrap();
    state.forget_deleted(&[(name(text), at)], 6).await.unwrap();
}

async fn change(state: &State, account: &str, domain: Domain, seen: Revision) -> Result<Revision, DomainError> {
    let change = ChangedDomain { domain, detail: DomainDetail::default(), seen };
    state.change_domains(account, vec![change], Doing::Stopping, 6).await
}

pub(crate) async fn domains_belong_to_one_account(state: &State) {
    let at = add(state, "me", &["d.com"], 5).await.unwrap();
    let head = state.head().await.unwrap();
    let taken = |own| matches!(own, Err(DomainError::Exists { own: true, deleting: false }));
    assert!(taken(add(state, "me", &["d.com"], 5).await));
    let by_other = add(state, "you", &["d.com"], 5).await;
    assert!(matches!(by_other, Err(DomainError::Exists { own: false, deleting: false })));
    let removed = state.remove_domain("you", domain("d.com"), &DomainDetail::default(), at, 6).await;
    assert!(matches!(removed, Err(DomainError::Absent)));
    assert_eq!(state.head().await.unwrap(), head, "what was refused left nothing in the log");
    for (taken, conflicting) in [(".w.com", "a.w.com"), (".w.com", ".b.w.com"), ("x.y.com", ".y.com")] {
        let at = add(state, "you", &[taken], 5).await.unwrap();
        let conflict = add(state, "me", &[conflicting], 5).await;
        assert!(matches!(conflict, Err(DomainError::Conflict)), "{conflicting}");
        delete(state, "you", taken).await;
        assert!(state.head().await.unwrap() > at);
    }
    for (wide, narrow) in [(".own.com", "a.own.com"), ("a.own.com", ".own.com")] {
        add(state, "me", &[wide], 5).await.unwrap();
        add(state, "me", &[narrow], 5).await.expect("both are the caller's own");
        let aside = add(state, "you", &["down.com"], 5).await;
        assert!(aside.is_ok(), "a name that ends alike, but not at a dot");
        for (account, text) in [("me", wide), ("me", narrow), ("you", "down.com")] {
            delete(state, account, text).await;
        }
    }
    assert_eq!(state.configured(Revision(at.0 - 1)).await.unwrap(), 0);
    assert_eq!(state.configured(at).await.unwrap(), 1);
    assert_eq!(state.configured(at).await.unwrap(), 0, "each once");
    let later = add(state, "you", &["a.com"], 9).await.unwrap();
    let earlier = add(state, "you", &["e.com"], 4).await.unwrap();
    let domains = state.domains().await.unwrap();
    let rows: Vec<_> =
        domains.iter().map(|row| (row.name.as_str(), row.account.as_str(), row.revision, row.configured)).collect();
    let expected = [("e.com", "you", earlier, false), ("d.com", "me", at, true), ("a.com", "you", later, false)];
    assert_eq!(rows, expected, "the oldest first");
    assert_eq!((domains[1].created_ms, domains[1].modified_ms), (5, 5));
    let offline = Domain { online: false, ..domain("d.com") };
    let head = state.head().await.unwrap();
    assert!(matches!(change(state, "you", offline.clone(), at).await, Err(DomainError::Absent)));
    let outdated = Revision(at.0 - 1);
    assert!(matches!(change(state, "me", offline.clone(), outdated).await, Err(DomainError::Changed)));
    assert_eq!(state.head().await.unwrap(), head, "what was refused left nothing in the log");
    let changed = change(state, "me", offline.clone(), at).await.unwrap();
    assert_eq!(changed, head.next());
    let stopped = row(state, "d.com").await.unwrap();
    assert_eq!(
        (stopped.created_ms, stopped.modified_ms, stopped.revision, stopped.configured, stopped.doing),
        (5, 6, changed, false, Doing::Stopping)
    );
    assert_eq!(state.knowledge().await.unwrap().1.domain("d.com"), Some(&offline));
    delete(state, "me", "d.com").await;
    delete(state, "you", "e.com").await;
    assert_eq!(state.domains().await.unwrap().len(), 1);
}

pub(crate) async fn batches_of_domains_are_whole_or_not_at_all(state: &State) {
    let head = state.head().await.unwrap();
    for refused in [&["b1.com", "a.com"][..], &["b1.com", "b2.com", "b1.com"]] {
        assert!(matches!(add(state, "me", refused, 5).await, Err(DomainError::Exists { .. })), "{refused:?}");
    }
    assert_eq!((state.head().await.unwrap(), row(state, "b1.com").await), (head, None));
    let last = add(state, "me", &["b1.com", "b2.com"], 5).await.unwrap();
    let (one, two) = (row(state, "b1.com").await.unwrap(), row(state, "b2.com").await.unwrap());
    assert_eq!((one.revision, two.revision), (Revision(last.0 - 1), last), "each has the entry that is its own");
    let both = |second: Revision| {
        let of = |text, seen| {
            let domain = Domain { online: false, ..domain(text) };
            ChangedDomain { domain, detail: DomainDetail::default(), seen }
        };
        vec![of("b1.com", one.revision), of("b2.com", second)]
    };
    let changed = state.change_domains("me", both(one.revision), Doing::Stopping, 7).await;
    assert!(matches!(changed, Err(DomainError::Changed)), "{changed:?}");
    assert_eq!(row(state, "b1.com").await.unwrap(), one, "nor is the first one changed");
    state.change_domains("me", both(two.revision), Doing::Stopping, 7).await.unwrap();
    for text in ["b1.com", "b2.com"] {
        assert_eq!(row(state, text).await.unwrap().modified_ms, 7);
        delete(state, "me", text).await;
    }
}

pub(crate) async fn name_is_taken_until_its_deletion_is_done(state: &State) {
    let added = add(state, "me", &["gone.com"], 5).await.unwrap();
    let labels = [("k".to_owned(), "v".to_owned())];
    state.set_labels("me", &[name("gone.com")], &labels).await.unwrap();
    let detail = DomainDetail { business: "web".into(), ..DomainDetail::default() };
    let outdated = state.remove_domain("me", domain("gone.com"), &detail, Revision(added.0 - 1), 6).await;
    assert!(matches!(outdated, Err(DomainError::Changed)));
    let at = state.remove_domain("me", domain("gone.com"), &detail, added, 6).await.unwrap();
    let deleting = row(state, "gone.com").await.unwrap();
    assert_eq!((deleting.doing, deleting.revision, deleting.configured), (Doing::Deleting, at, false));
    assert_eq!(deleting.detail, DomainDetail { last: Some(Box::new(domain("gone.com"))), ..detail });
    assert!(matches!(change(state, "me", domain("gone.com"), at).await, Err(DomainError::Changed)));
    for (account, own) in [("me", true), ("you", false)] {
        let again = add(state, account, &["gone.com"], 7).await;
        assert!(matches!(again, Err(DomainError::Exists { own: is, deleting: true }) if is == own), "{again:?}");
    }
    state.forget_deleted(&[(name("gone.com"), added)], 6).await.unwrap();
    assert!(row(state, "gone.com").await.is_some(), "it was another entry that deleted it");
    state.forget_deleted(&[(name("gone.com"), at)], 6).await.unwrap();
    assert_eq!(row(state, "gone.com").await, None);
    add(state, "you", &["gone.com"], 8).await.unwrap();
    assert_eq!(state.labels_of("you", "gone.com").await.unwrap(), [], "labels went with the domain");
    delete(state, "you", "gone.com").await;
}

pub(crate) async fn prefetches_end_with_their_domain(state: &State) {
    let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
    let submit = async |nonce: &str, account: &str, text: &str| {
        let mut submission = prefetch(nonce, 2);
        submission.account = account.into();
        submission.charge.limit = None;
        // Years from now, so that no deadline ends it.
        (submission.groups[0].domain, submission.groups[0].steering) = (name(text), Steering::from(u64::MAX >> 2));
        accepting.submit(submission).await.unwrap().tasks[0]
    };
    let open = async |account| state.open_prefetches(account, 0, 10).await.unwrap().len();
    let added = add(state, "warms", &["ends.com", "stays.com"], 5).await.unwrap();
    let ends = submit("ends 1", "warms", "ends.com").await;
    state.steer("warms", &[ends], Steer::Pause, 7).await.unwrap().unwrap();
    let stays = submit("ends 2", "warms", "stays.com").await;
    let heard = (state.last_steering().await.unwrap(), u64::MAX >> 1);

    let seen = Revision(added.0 - 1);
    let detail = DomainDetail::default();
    let at = state.remove_domain("warms", domain("ends.com"), &detail, seen, 8).await.unwrap();
    let told = state.steered_after(heard, 10).await.unwrap();
    assert_eq!(told.iter().map(|one| one.steering.cancelled_ms).collect::<Vec<_>>(), [8], "schedulers hear of it");
    assert_eq!(open("warms").await, 1, "that of the other domain");
    assert_eq!(
        state.steer("warms", &[ends], Steer::Resume, 9).await.unwrap(),
        Err(NotSteered::Ended(ends)),
        "it cannot be brought back"
    );

    // Accepted by a control plane that had not read of the deletion.
    submit("ends 3", "warms", "ends.com").await;
    state.forget_deleted(&[(name("ends.com"), at)], 10).await.unwrap();
    assert_eq!(open("warms").await, 1, "nothing is open of a name that is free");
    add(state, "next", &["ends.com"], 11).await.unwrap();
    submit("ends 4", "next", "ends.com").await;
    state.forget_deleted(&[(name("ends.com"), at)], 12).await.unwrap();
    assert_eq!(open("next").await, 1, "whoever has the name next is not concerned");

    delete(state, "next", "ends.com").await;
    delete(state, "warms", "stays.com").await;
    assert_eq!((open("next").await, open("warms").await), (0, 0));
    assert_eq!(state.steer("warms", &[stays], Steer::Pause, 9).await.unwrap(), Err(NotSteered::Ended(stays)));
}

pub(crate) async fn labels_are_bounded_and_found(state: &State) {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    add(state, "me", &["l1.com", "l2.com"], 5).await.unwrap();
    add(state, "you", &["l3.com"], 5).await.unwrap();
    let (one, two) = (name("l1.com"), name("l2.com"));
    let mine = [one.clone(), two.clone()];
    state.set_labels("me", &mine, &[pair("env", "prod"), pair("team", "")]).await.unwrap();
    state.set_labels("me", std::slice::from_ref(&two), &[pair("env", "test")]).await.unwrap();
    state.set_labels("you", &[name("l3.com")], &[pair("env", "prod")]).await.unwrap();
    let others = state.set_labels("me", &[one.clone(), name("l3.com")], &[pair("x", "y")]).await;
    assert!(matches!(others, Err(LabelError::Absent(name)) if name.as_str() == "l3.com"));

    let all = state.labels_after("me", ("", ""), 10).await.unwrap();
    let of = |domain: &str, key: &str, value: &str| (domain.to_owned(), key.to_owned(), value.to_owned());
    let expected =
        [of("l1.com", "env", "prod"), of("l1.com", "team", ""), of("l2.com", "env", "test"), of("l2.com", "team", "")];
    assert_eq!(all, expected, "by domain and key, and nobody else's");
    assert_eq!(state.labels_after("me", ("l1.com", "team"), 1).await.unwrap(), [expected[2].clone()]);
    assert_eq!(state.labels_of("me", "l2.com").await.unwrap(), expected[2..]);
    for (key, value, found) in [
        ("env", None, &["l1.com", "l2.com"][..]),
        ("env", Some("prod"), &["l1.com"]),
        ("team", Some(""), &["l1.com", "l2.com"]),
        ("x", None, &[]),
    ] {
        let got: Vec<String> = state.labelled("me", key, value).await.unwrap().into_iter().collect();
        assert_eq!(got, found, "{key}={value:?}");
    }
    let pairs = [pair("env", "prod"), pair("env", "test"), pair("team", "")];
    assert_eq!(state.labels_in_use("me", 10).await.unwrap(), pairs);
    assert_eq!(state.labels_in_use("me", 1).await.unwrap(), pairs[..1]);

    let many: Vec<(String, String)> = (0..LABELS_MAX).map(|n| pair(&format!("k{n}"), "v")).collect();
    let over = state.set_labels("me", &mine, &many).await;
    assert!(matches!(over, Err(LabelError::TooMany(name)) if name == one));
    assert_eq!(state.labels_after("me", ("", ""), 10).await.unwrap(), expected, "nothing of it is kept");
    state.set_labels("me", std::slice::from_ref(&one), &many[..LABELS_MAX - 2]).await.expect("as many as there may be");
    state.remove_labels("me", &mine, Some(&["team".to_owned(), "none".to_owned()])).await.unwrap();
    assert_eq!(state.labels_of("me", "l2.com").await.unwrap(), expected[2..3]);
    assert!(matches!(state.remove_labels("you", &mine, None).await, Err(LabelError::Absent(_))));
    state.remove_labels("me", &mine, None).await.unwrap();
    assert_eq!(state.labels_after("me", ("", ""), 10).await.unwrap(), []);
    for (account, text) in [("me", "l1.com"), ("me", "l2.com"), ("you", "l3.com")] {
        delete(state, account, text).await;
    }
}

pub(crate) async fn blocked_names_are_nobodys(state: &State) {
    add(state, "me", &["x.bad.com", "y.bad.com", "other.com"], 5).await.unwrap();
    let off = |text: &str| Domain { online: false, ..domain(text) };
    let mut there = Vec::new();
    for text in ["x.bad.com", "y.bad.com"] {
        there.push((off(text), row(state, text).await.unwrap().revision));
    }
    let wildcard = name(".bad.com");
    let missed = state.set_blocked(&wildcard, Some("abuse"), there[..1].to_vec(), 6).await;
    assert!(matches!(missed, Err(DomainError::Changed)), "one more is there: {missed:?}");
    assert_eq!(state.blocked().await.unwrap(), BTreeMap::new());
    assert!(!state.set_blocked(&wildcard, Some("abuse"), there, 6).await.unwrap());
    let reasons = async || {
        let rows = state.domains().await.unwrap();
        let of = |text: &str| rows.iter().find(|row| row.name.as_str() == text).map(|row| row.blocked.clone());
        ["x.bad.com", "y.bad.com", "other.com"].map(|text| of(text).unwrap())
    };
    assert_eq!(reasons().await, ["abuse", "abuse", ""]);
    assert_eq!(state.knowledge().await.unwrap().1.domain("y.bad.com"), Some(&off("y.bad.com")));
    for refused in ["z.bad.com", ".z.bad.com", ".bad.com"] {
        assert!(matches!(add(state, "me", &[refused], 7).await, Err(DomainError::Blocked)), "{refused}");
    }
    add(state, "me", &["bad.com"], 7).await.expect("it is not under the wildcard");
    let mut there = Vec::new();
    for text in ["x.bad.com", "y.bad.com"] {
        there.push((off(text), row(state, text).await.unwrap().revision));
    }
    assert!(state.set_blocked(&wildcard, None, there, 8).await.unwrap());
    assert_eq!(reasons().await, [""; 3]);
    for text in ["x.bad.com", "y.bad.com", "other.com", "bad.com"] {
        delete(state, "me", text).await;
    }
}

pub(crate) async fn proofs_stand_for_what_they_are_of(state: &State) {
    let keep = async |account: &str, text: &str, most| state.keep_proof(account, &name(text), most, 5).await.unwrap();
    assert!(keep("me", "one.com", 2).await);
    assert!(keep("me", ".all.com", 2).await);
    assert!(keep("me", "one.com", 2).await, "it is kept already");
    assert!(!keep("me", "more.com", 2).await);
    assert!(keep("you", "more.com", 2).await);
    let cases = [
        ("me", "one.com", true),
        ("me", "www.one.com", false),
        ("me", ".one.com", false),
        ("me", "all.com", true),
        ("me", ".all.com", true),
        ("me", "a.b.all.com", true),
        ("me", ".b.all.com", true),
        ("me", "small.com", false),
        ("me", "more.com", false),
        ("you", "more.com", true),
        ("you", "a.all.com", false),
    ];
    for (account, text, expected) in cases {
        assert_eq!(state.has_proof(account, &name(text)).await.unwrap(), expected, "{account} {text}");
    }
}
