//! Who may: accounts and nodes.

use control::state::State;
use control::state::accounts::{Account, AccountError, AccountStatus};
use control::state::chunks::Progress;
use control::state::nodes::{AdmitError, Proof};
use model::{Isolation, Knowledge, Member, NodeName, PopName, Revision, Tier};

pub(crate) async fn accounts_are_made_once(state: &State) {
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

pub(crate) async fn nodes_are_let_in_by_proof_alone(state: &State) {
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
    state.acknowledge(&[(member.name.clone(), Revision(3))], 70).await.unwrap();
    state.acknowledge(&[(member.name.clone(), Revision(2))], 80).await.unwrap();
    let kept = &state.nodes().await.unwrap()[0];
    assert_eq!((kept.acked, kept.acked_ms), (Revision(3), 70), "an acknowledgement never falls");
    // A node that is invited again comes without a store: what open prefetches had resident there is not.
    let open = state.open_prefetches("me", 0, 2).await.unwrap();
    let holding = |name: &str| Progress {
        targets: vec!["p/L2".into()],
        nodes: vec![NodeName::parse(name).unwrap()],
        resident: vec![1; 100],
        ..Progress::default()
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
