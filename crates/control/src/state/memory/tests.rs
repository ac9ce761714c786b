//! Properties of the in-memory store alone: it needs no async runtime, is deterministic, and fails on demand. What it
//! has in common with the databases is tested in `tests/state`; keys and identity, whose seal is not public, are tested
//! here.

use futures_util::FutureExt;
use model::{Entry, Settings};
use tempfile::TempDir;

use super::*;
use crate::policy::Policy;
use crate::seal::Seal;
use crate::state::accounts::{AccountError, AccountStatus};
use crate::state::audit::Record;
use crate::state::submit::{Accepting, Refused};
use crate::testing::{prefetch, url};

/// The result of a call that must complete at its first poll.
fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("in memory everything is done when it is first asked")
}

fn settings() -> Entry {
    Entry::Settings(Settings::default())
}

fn account(name: &str) -> Account {
    Account { name: name.into(), profile: "cdn".into(), quota: BTreeMap::new(), qps: 0, status: AccountStatus::Active }
}

#[test]
fn every_call_is_done_at_once_and_without_a_runtime() {
    let state = State::in_memory();
    assert_eq!(now(state.append(&[settings(), settings()])).unwrap(), Revision(2));
    assert_eq!(now(state.head()).unwrap(), Revision(2));
    assert_eq!(now(state.entries_after(Revision::ZERO, 10)).unwrap().len(), 2);
    now(state.acknowledge(&[], 0)).unwrap();
    assert!(now(state.spend_nonce("key", "nonce", 1, &Record::default())).unwrap().is_some());
    now(state.forget(5, 5, 5)).unwrap();
    assert!(now(state.spend_nonce("key", "nonce", 1, &Record::default())).unwrap().is_some());
    assert!(now(state.spend_nonce("key", "nonce", 1, &Record::default())).unwrap().is_none());
    now(state.close());
    assert_eq!(now(state.clone().head()).unwrap(), Revision(2), "a clone is the same, and closing loses nothing");
    assert_eq!(now(State::in_memory().head()).unwrap(), Revision::ZERO, "another is another");
}

#[test]
fn more_than_is_forgotten_at_once_is_forgotten() {
    let state = State::in_memory();
    for n in 0..2_500 {
        assert!(now(state.spend_nonce("key", &n.to_string(), n, &Record::default())).unwrap().is_some());
    }
    now(state.forget(0, 0, 2_400)).unwrap();
    let kept =
        (0..2_500).filter(|n| now(state.spend_nonce("key", &n.to_string(), 0, &Record::default())).unwrap().is_none());
    let kept = kept.count();
    assert_eq!(kept, 100);
}

#[test]
fn a_reader_sees_what_one_commit_left() {
    let memory = Memory::default();
    let (writer, reader) = (memory.open(&Faults::default()), memory.open(&Faults::default()));
    let mut writing = now(writer.write()).unwrap();
    now(crate::state::count_up(&mut writing, Counter::Revision, 5)).unwrap();
    assert_eq!(now(reader.head()).unwrap(), Revision::ZERO);
    assert!(reader.append(&[settings()]).now_or_never().is_none(), "writers take turns, whichever way they came");
    now(writing.commit()).unwrap();
    assert_eq!(now(reader.head()).unwrap(), Revision(5));
    let mut writing = now(reader.write()).unwrap();
    now(crate::state::count_up(&mut writing, Counter::Revision, 5)).unwrap();
    drop(writing);
    assert_eq!(now(writer.append(&[settings()])).unwrap(), Revision(6), "what was given up is not there");
}

#[test]
fn faults_befall_the_operation_they_are_about() {
    let (memory, faults) = (Memory::default(), Faults::default());
    let (state, other) = (memory.open(&faults), memory.open(&Faults::default()));
    let append = || now(state.append(&[settings()])).map(|at| at.0).ok();
    let head = || now(other.head()).unwrap().0;

    faults.push(Fault::BeforeCommit);
    assert!(now(state.head()).is_ok(), "a read passes by what is about a commit");
    assert_eq!((append(), head()), (None, 0));
    faults.push(Fault::AfterCommit);
    assert_eq!((append(), head()), (None, 1), "it is there, and nobody was told");
    assert_eq!((append(), head()), (Some(2), 2), "each befalls one operation");

    faults.push(Fault::Unavailable);
    faults.push(Fault::Unavailable);
    assert!(now(state.head()).is_err());
    assert_eq!((append(), head()), (None, 2));
    faults.push(Fault::AfterCommit);
    faults.push(Fault::Unavailable);
    assert!(now(state.head()).is_ok(), "the one that was set first is met first");
    assert_eq!((append(), faults.waiting()), (None, 1));
    assert!(now(state.head()).is_err());

    faults.cut_off(true);
    assert!(now(state.head()).is_err() && append().is_none());
    assert_eq!(now(other.append(&[settings()])).unwrap(), Revision(4), "the other process is not cut off");
    faults.cut_off(false);
    assert_eq!((append(), faults.waiting()), (Some(5), 0));
}

#[tokio::test(start_paused = true)]
async fn a_submission_whose_commit_got_lost_stands() {
    let (memory, faults) = (Memory::default(), Faults::default());
    let (accepting, open) = Accepting::start(memory.open(&faults)).await.unwrap();
    faults.push(Fault::AfterCommit);
    assert_eq!(accepting.submit(prefetch("me", "lost", 3, 5)).await, Err(Refused::Unavailable));
    assert_eq!(open.chunks(), [("me".to_owned(), 1)], "what it left open is worked on");
    assert_eq!(accepting.submit(prefetch("me", "lost", 3, 5)).await, Err(Refused::NonceUsed));
    faults.push(Fault::BeforeCommit);
    assert_eq!(accepting.submit(prefetch("me", "gone", 3, 5)).await, Err(Refused::Unavailable));
    assert!(accepting.submit(prefetch("me", "gone", 3, 5)).await.is_ok(), "nothing of it was there");
}

/// The same calls leave the same rows with the same numbers, however the runtime interleaves their callers.
#[test]
fn the_same_calls_leave_the_same() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let memory = Memory::default();
            let state = memory.open(&Faults::default());
            let (accepting, _) = Accepting::start(state.clone()).await.unwrap();
            let mut callers = tokio::task::JoinSet::new();
            for n in 0..50_u64 {
                let (accepting, state) = (accepting.clone(), state.clone());
                callers.spawn(async move {
                    tokio::time::sleep(std::time::Duration::from_millis(n % 7)).await;
                    state.append(&[settings()]).await.unwrap();
                    accepting.submit(prefetch(&format!("a{}", n % 5), &n.to_string(), 3, n * 100)).await.unwrap()
                });
            }
            let mut answers = Vec::new();
            while let Some(answer) = callers.join_next().await {
                answers.push(answer.unwrap().tasks);
            }
            let ids: Vec<u64> = (1..=50).collect();
            (answers, state.chunks(&ids).await.unwrap(), state.entries_after(Revision::ZERO, 100).await.unwrap())
        })
    };
    let first = run();
    assert_eq!((first.1.len(), first.2.len()), (50, 50));
    assert!((0..10).all(|_| run() == first));
}

#[tokio::test]
async fn keys_and_identity_are_kept_alike_in_a_database_and_in_memory() {
    let dir = TempDir::new().unwrap();
    let seal = Seal::open_or_create(&dir.path().join("secret.key")).unwrap();
    for state in [State::open(&url(&dir)).await.unwrap(), State::in_memory()] {
        let policy = Policy::parse(
            r#"{"Version": "1", "Statement": [{"Effect": "Allow", "Action": "cdn:Push*", "Resource": "*"}]}"#,
        )
        .unwrap();
        let made =
            async |id, account: &str| state.create_key(&seal, account, None, id, "secret", Some(&policy), 5).await;
        assert!(matches!(made("key", "me").await, Err(AccountError::Absent(name)) if name == "me"));
        state.create_account(&account("me"), 5).await.unwrap();
        state.create_account(&account("you"), 5).await.unwrap();
        made("key", "me").await.unwrap();
        assert!(matches!(made("key", "you").await, Err(AccountError::Exists(id)) if id == "key"));
        state.create_key(&seal, "you", None, "all", "other", None, 5).await.unwrap();
        state.set_account_status("me", AccountStatus::Suspended).await.unwrap();

        let key = state.access_key(&seal, "key").await.unwrap().unwrap();
        assert_eq!(
            (key.id.as_str(), key.secret.as_str(), key.active, key.policy),
            ("key", "secret", true, Some(policy))
        );
        assert_eq!(key.account, Account { status: AccountStatus::Suspended, ..account("me") }, "as it is now");
        assert_eq!(state.access_key(&seal, "all").await.unwrap().unwrap().policy, None);
        assert!(state.access_key(&seal, "none").await.unwrap().is_none());

        let identity = state.identity(&seal).await.unwrap();
        let again = state.identity(&seal).await.unwrap();
        assert_eq!((&identity.log, &identity.authority), (&again.log, &again.authority), "it is made once");
        assert_eq!(*identity.peer_credential, *again.peer_credential);
    }
}

#[test]
fn records_in_memory_are_bounded_and_the_oldest_go_first() {
    let state = State::in_memory();
    for n in 0..5_000 {
        now(state.begin_record(&Record { at_ms: n, ..Record::default() })).unwrap();
    }
    assert_eq!(now(state.record_span()).unwrap(), Some((4_489, 5_000)));
}
