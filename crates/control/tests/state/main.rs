//! What the state keeps, however it is kept: each case runs on a SQLite file, on a PostgreSQL server of its own, and in memory.

use control::StateUrl;
use control::state::State;
use control::state::audit::Record;
use control::state::chunks::{Filter, Kind, Params};
use control::state::completions::{Amounts, Completion, CompletionMember};
use control::state::memory::{Faults, Memory};
use control::state::steering::Steering;
use control::state::submit::{Charge, Group, QueueMax, Submission};
use model::topology::WarmTiers;
use model::{Coverage, DomainName, Invalidation, Isolation, Mode, NodeName, Revision, Scope, UrlKey};
use tempfile::TempDir;

mod access;
mod domains;
mod figures;
mod log;
mod opening;
mod postgres;
mod shares;
mod steering;
mod tasks;
mod who;

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
    let params = Params {
        area: Coverage::Global,
        warm: WarmTiers::default(),
        variants: vec![Vec::new()],
        verbatim: false,
        refetch: false,
        pin: None,
    };
    let steering = Steering::from(1_000_000);
    let domain = name("a.com");
    let groups = vec![Group { domain, kind: Kind::Prefetch, paths, invalidations: Vec::new(), params, steering }];
    Submission {
        account: "me".into(),
        nonce: ("key".into(), nonce.into()),
        now_ms: 1_000_000,
        groups,
        charge: Charge { bucket: "preload", day: 7, units: urls as u64, limit: Some(1_000) },
        minute_max: None,
        queue_max: QueueMax::Unlimited,
        record: Record::default(),
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

/// A step that completes `first` to `last`, with these members: name, acknowledged, when.
fn step(first: Revision, last: Revision, completed_ms: u64, members: &[(&str, u64, u64)]) -> Completion {
    let member = |(name, acked, acked_ms): &(&str, u64, u64)| CompletionMember {
        node: NodeName::parse(name).unwrap(),
        isolation: if name.starts_with("serving") { Isolation::Serve } else { Isolation::Revalidate },
        acked: Revision(*acked),
        acked_ms: *acked_ms,
    };
    Completion {
        range: (first, last),
        completed_ms,
        known_for_ms: 11_000,
        lease_ms: 10_000,
        margin_ms: 1_000,
        members: members.iter().map(member).collect(),
        swept: Amounts::default(),
    }
}

/// Whether the nonce was new.
async fn spend(state: &State, key: &str, nonce: &str, now_ms: u64) -> bool {
    state.spend_nonce(key, nonce, now_ms, &Record::default()).await.unwrap().is_some()
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
    let (_server, url) = postgres::start();
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
    tasks::submissions_are_whole_or_not_at_all(&state).await;
    tasks::queries_are_filtered_ordered_and_limited(&state).await;
    log::log_is_read_in_order_and_compacted(&state).await;
    log::leases_count_while_somebody_may_go_by_them(&state).await;
    domains::domains_belong_to_one_account(&state).await;
    domains::batches_of_domains_are_whole_or_not_at_all(&state).await;
    domains::name_is_taken_until_its_deletion_is_done(&state).await;
    domains::prefetches_end_with_their_domain(&state).await;
    domains::labels_are_bounded_and_found(&state).await;
    domains::blocked_names_are_nobodys(&state).await;
    domains::proofs_stand_for_what_they_are_of(&state).await;
    who::accounts_are_made_once(&state).await;
    who::nodes_are_let_in_by_proof_alone(&state).await;
    tasks::what_is_past_its_time_is_forgotten(&state).await;
    tasks::refreshes_of_a_domain_are_bounded(&state).await;
    tasks::a_queue_may_count_calls(&state).await;
    tasks::what_completed_a_refresh_is_kept_with_it(&state).await;
    tasks::lines_are_counted_as_they_are_listed(&state).await;
    tasks::task_is_forgotten_whole(&state).await;
    steering::prefetches_are_steered_whole_or_not_at_all(&state).await;
    access::users_may_what_is_attached_to_them(&state).await;
    access::service_is_opened_once(&state).await;
    access::nothing_is_done_without_a_record(&state).await;
    access::audit_log_is_searched_in_pages_and_forgotten(&state).await;
    log::what_is_not_committed_never_was(&state).await;
    figures::reports_are_added_once_and_whole(&state).await;
    figures::urls_of_hours_are_added_up(&state).await;
    figures::what_is_past_its_time_goes_by_length(&state).await;
    shares::shares_are_changed_by_one_at_a_time_and_forgotten(&state).await;
    shares::row_that_cannot_be_read_starts_anew_and_holds_up_no_other(&state).await;
    let head = state.head().await.unwrap();
    let domains = state.domains().await.unwrap();
    state.close().await;
    let again = open().await;
    assert_eq!(again.head().await.unwrap(), head, "what was committed is there when it is opened again");
    assert_eq!(again.domains().await.unwrap(), domains);
    again.close().await;
}
