//! What a prefetch makes resident: under which key, which variants, and what is fetched again only because the job asks
//! for it.

use model::{Cause, Job, Outcome};

use super::functions::{Set, with};
use super::prefetching::{job, report};
use super::tiers::{Tiers, tiers};
use super::*;

/// The outcome of a job on `node`.
async fn warm(node: &TestNode, job: &Job) -> Outcome {
    let outcome = warmed(&node.pipeline, job).await;
    node.settled().await;
    outcome
}

/// `None` unless it became resident; otherwise, whether it had to be fetched.
fn fetched(outcome: &Outcome) -> Option<bool> {
    if let Outcome::Resident { fetched, .. } = outcome { Some(*fetched) } else { None }
}

fn verbatim(chunk: u64, path: &str) -> Job {
    Job { verbatim: true, ..job(chunk, path, 0) }
}

fn refetch(chunk: u64, path: &str) -> Job {
    Job { refetch: true, ..job(chunk, path, 0) }
}

fn variant(chunk: u64, path: &str, encoding: &str) -> Job {
    Job { headers: vec![("accept-encoding".into(), encoding.into())], ..job(chunk, path, 0) }
}

const NO_QUERIES: Set<'_> = &[("set_hashkey_args", &[("disable", "on")])];

#[tokio::test]
async fn where_both_keys_are_the_same_the_url_as_submitted_is_warm_for_users() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    for node in [&child, &parent] {
        node.apply(with(node, NO_QUERIES));
    }
    origin.put("/a", Page::new("a"));
    assert_eq!(fetched(&warm(&child, &verbatim(1, "/a")).await), Some(true));
    assert_eq!(child.get("/a?x=1").await.header("x-cache"), "HIT from child", "the users' key is the submitted URL");
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn under_a_key_that_is_not_users_it_is_resident_and_no_user_is_sent_it() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let set: Set<'_> = &[
        ("host_redirect", &[("regex", "^/v1/(.*)$"), ("replacement", "/v2/$1"), ("flag", "break")]),
        ("set_hashkey_args", &[("disable", "on")]),
    ];
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    // Users who request /v1/a get /v2/a; none gets /v1/a itself.
    origin.put("/v2/a?q", Page::new("submitted"));
    origin.put("/v2/a", Page::new("users"));
    assert_eq!(fetched(&warm(&child, &verbatim(1, "/v1/a?q")).await), Some(true));
    assert_eq!(fetched(&warm(&child, &verbatim(2, "/v1/a?q")).await), Some(false), "it is there");
    assert_eq!(fetched(&warm(&parent, &verbatim(2, "/v1/a?q")).await), Some(false), "both tiers agree on the key");
    let got = child.get("/v1/a").await;
    assert_eq!((got.text(), got.header("x-cache")), ("users", "MISS from parent"), "users have another key");
    child.settled().await;
    assert_eq!(fetched(&warm(&child, &verbatim(3, "/v1/a?q")).await), Some(false), "which takes nothing from it");

    // Without the functions users do use that key, and what is stored there was fetched under other rules.
    origin.put("/v1/a?q", Page::new("as it is"));
    for node in [&child, &parent] {
        node.apply(with(node, &[]));
    }
    assert_eq!(child.get("/v1/a?q").await.text(), "as it is");
}

#[tokio::test]
async fn user_whose_key_is_the_submitted_url_by_another_url_is_not_sent_what_was_fetched_for_it() {
    let Stage { origin, node, .. } = Stage::set().await;
    let uri = r#"[{"uri_to_rewrite":"^/(.*)$","ai_uri_regex":"/k/$1"}]"#;
    node.apply(with(&node, &[("self_defined_cachekey", &[("uri", uri)])]));
    origin.put("/k/a", Page::new("of the key's own URL"));
    origin.put("/a", Page::new("of the URL"));
    assert_eq!(fetched(&warm(&node, &verbatim(1, "/k/a")).await), Some(true));
    assert_eq!(node.get("/a").await.text(), "of the URL", "its key is /k/a, too");
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge");
}

#[tokio::test]
async fn refreshes_take_what_is_kept_under_the_url_as_submitted() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let shared: Set<'_> =
        &[("set_hashkey_args", &[("disable", "on")]), ("rewrite_host", &[("share_host", "shared.example.test")])];
    for (round, set) in [NO_QUERIES, shared].into_iter().enumerate() {
        for node in [&child, &parent] {
            node.apply(with(node, set));
        }
        let name = DomainName::parse(DOMAIN).unwrap();
        let url = UrlKey::new(DOMAIN, "/d/a?x=1").unwrap();
        let scopes = [
            Scope::File(url.clone()),
            Scope::Directory { host: DOMAIN.into(), path: "/d/".into() },
            Scope::IgnoreParams { host: DOMAIN.into(), path: "/d/a".into() },
            Scope::Regex(model::Pattern::parse(UrlKey::new(DOMAIN, "/d/a?x=[0-9]").unwrap()).unwrap()),
            Scope::Tag { domain: name.clone(), tag: model::Tag::parse("t").unwrap() },
            Scope::Domain(name.clone()),
        ];
        for (at, scope) in scopes.into_iter().enumerate() {
            for mode in [Mode::Expire, Mode::Delete] {
                let page = |version: &str| Page::new(format!("{round} {at} {mode:?} {version}")).with("cache-tag", "t");
                origin.put("/d/a?x=1", page("old"));
                for node in [&child, &parent] {
                    node.refresh("/", Mode::Delete);
                }
                let chunk = at as u64;
                assert_eq!(fetched(&warm(&child, &verbatim(chunk, "/d/a?x=1")).await), Some(true));
                origin.put("/d/a?x=1", page("renewed"));
                let entry = Entry::Invalidate(vec![Invalidation { scope: scope.clone(), mode }]);
                // The parent has not applied it.
                child.apply(entry.clone());
                let outcome = warm(&child, &verbatim(chunk, "/d/a?x=1")).await;
                let Outcome::Resident { fetched: true, checksum, .. } = outcome else {
                    panic!("{scope:?}: {outcome:?}")
                };
                assert_eq!(checksum, crc32fast::hash(&page("renewed").body), "{scope:?} {mode:?}");
                parent.apply(entry);
            }
        }
    }
}

#[tokio::test]
async fn write_to_a_url_takes_what_is_kept_under_it_as_it_stands() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(with(&node, NO_QUERIES));
    origin.put("/a?x=1", Page::new("old"));
    assert_eq!(fetched(&warm(&node, &verbatim(1, "/a?x=1")).await), Some(true));
    ask(node.address, Method::POST, "/a?x=1", &[], false).await;
    assert_eq!(fetched(&warm(&node, &verbatim(2, "/a?x=1")).await), Some(true));
}

#[tokio::test]
async fn refetch_fetches_once_for_all_tiers_and_not_again_when_it_is_tried_again() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("before"));
    assert_eq!(fetched(&warm(&child, &job(1, "/a", 0)).await), Some(true));
    origin.put("/a", Page::new("after"));
    assert_eq!(fetched(&warm(&child, &job(2, "/a", 0)).await), Some(false), "a fresh copy is good unless asked");
    assert_eq!(fetched(&warm(&child, &refetch(3, "/a")).await), Some(true));
    assert_eq!(fetched(&warm(&parent, &refetch(3, "/a")).await), Some(false), "the child made it fetch");
    assert_eq!(fetched(&warm(&child, &refetch(3, "/a")).await), Some(false), "handed on or tried again");
    assert_eq!(fetched(&warm(&child, &refetch(2, "/a")).await), Some(false), "newer than what was asked for before");
    assert_eq!(origin.seen("/a").len(), 2);
    assert!(
        origin.seen("/a").iter().all(|seen| !seen.headers.keys().any(|name| name.as_str().starts_with("warmfront")))
    );
    let got = child.get("/a").await;
    assert_eq!((got.text(), got.header("x-cache")), ("after", "HIT from child"));
    assert!(got.headers.keys().all(|name| !name.as_str().starts_with("warmfront")), "{:?}", got.headers);

    // The other way round: the parent first.
    origin.put("/a", Page::new("third"));
    assert_eq!(fetched(&warm(&parent, &refetch(4, "/a")).await), Some(true));
    assert_eq!(fetched(&warm(&child, &refetch(4, "/a")).await), Some(true), "from the parent");
    assert_eq!((origin.seen("/a").len(), child.get("/a").await.text()), (3, "third"));

    // A validation does not make a body any newer in terms of refetches.
    for node in [&child, &parent] {
        node.refresh("/a", Mode::Expire);
    }
    assert_eq!(child.get("/a").await.text(), "third");
    child.settled().await;
    parent.settled().await;
    assert_eq!(fetched(&warm(&child, &refetch(4, "/a")).await), Some(false));
    assert_eq!(origin.seen("/a").len(), 4);
}

#[tokio::test]
async fn refetch_is_not_undone_by_a_fetch_that_ran_before_it() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { body_gate: Some(gate.clone()), ..Page::new("from before") });
    let address = node.address;
    let user = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    origin.asked("/a", 1).await;
    origin.put("/a", Page::new("fetched again"));
    let outcome = warmed(&node.pipeline, &refetch(1, "/a")).await;
    assert_eq!(fetched(&outcome), Some(true));
    gate.add_permits(10);
    assert_eq!(user.await.unwrap().text(), "from before", "who asked before is answered");
    node.settled().await;
    assert_eq!(node.get("/a").await.text(), "fetched again");
    assert_eq!(fetched(&warm(&node, &refetch(1, "/a")).await), Some(false));
}

#[tokio::test]
async fn users_are_served_the_old_copy_while_a_refetch_that_fails_runs() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("good"));
    warm(&node, &job(1, "/a", 0)).await;
    origin.put("/a", Page { status: 503, ..Page::new("no").with("cache-control", "") });
    let outcome = warm(&node, &refetch(2, "/a")).await;
    assert_eq!(outcome, Outcome::Failed(Cause::OriginStatus(503)));
    let got = node.get("/a").await;
    assert_eq!((got.text(), got.header("x-cache")), ("good", "HIT from edge"));
}

#[tokio::test]
async fn refetch_that_brings_what_could_be_kept_and_is_no_good_leaves_users_the_old_copy() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let failures = [(404, "max-age=60"), (302, "max-age=60"), (200, "max-age=0"), (503, "max-age=60")];
    for (chunk, (status, directives)) in (10..).zip(failures) {
        let path = format!("/{status}");
        origin.put(&path, Page::new("good"));
        assert_eq!(fetched(&warm(&child, &job(1, &path, 0)).await), Some(true));
        origin.put(&path, Page { status, ..Page::new("no").with("cache-control", directives) });
        let outcome = warm(&child, &refetch(chunk, &path)).await;
        parent.settled().await;
        match outcome {
            Outcome::Failed(Cause::OriginStatus(said)) => assert_eq!(said, status),
            Outcome::Failed(Cause::NotStorable(_)) => assert_eq!(status, 200),
            outcome => panic!("{status}: {outcome:?}"),
        }
        for node in [&child, &parent] {
            let got = node.get(&path).await;
            assert_eq!((got.status, got.text()), (200, "good"), "{status} {directives}");
        }
    }
}

#[tokio::test]
async fn what_was_not_there_for_users_is_asked_for_again_for_a_prefetch_through_tiers() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page { status: 404, ..Page::new("no") });
    assert_eq!(warm(&child, &job(1, "/a", 0)).await, Outcome::Failed(Cause::OriginStatus(404)));
    parent.settled().await;
    assert_eq!(child.get("/a").await.status, 404);
    origin.put("/a", Page::new("uploaded"));
    assert_eq!(fetched(&warm(&child, &job(2, "/a", 0)).await), Some(true));
    assert_eq!(child.get("/a").await.text(), "uploaded");
}

#[tokio::test]
async fn variants_whose_answers_name_different_fields_lie_side_by_side() {
    let Stage { origin, node, .. } = Stage::set().await;
    let language =
        |chunk, value: &str| Job { headers: vec![("accept-language".into(), value.into())], ..job(chunk, "/a", 0) };
    origin.put("/a", Page::new("de").with("vary", "accept-language, cookie"));
    assert_eq!(fetched(&warm(&node, &language(1, "de")).await), Some(true));
    origin.put("/a", Page::new("en").with("vary", "accept-language"));
    assert_eq!(fetched(&warm(&node, &language(2, "en")).await), Some(true));
    origin.stop();
    for text in ["de", "en"] {
        let got = node.get_with("/a", &[("accept-language", text)]).await;
        assert_eq!((got.text(), got.header("x-cache")), (text, "HIT from edge"));
    }
}

#[tokio::test]
async fn prefetch_whose_key_changes_while_it_runs_is_warm_under_the_one_of_users() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a?b=1", Page { body_gate: Some(gate.clone()), ..Page::new("whole") });
    let (pipeline, wanted) = (node.pipeline.clone(), job(1, "/a?b=1", 0));
    let running = tokio::spawn(async move { warmed(&pipeline, &wanted).await });
    origin.asked("/a?b=1", 1).await;
    origin.put("/a?b=1", Page::new("whole"));
    node.apply(with(&node, NO_QUERIES));
    node.in_contact();
    gate.add_permits(1_000);
    assert!(fetched(&running.await.unwrap()).is_some());
    node.settled().await;
    origin.stop();
    let got = node.get("/a?b=2").await;
    assert_eq!((got.text(), got.header("x-cache")), ("whole", "HIT from edge"));
}

#[tokio::test]
async fn variants_that_the_origin_tells_apart_are_each_resident() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("a").with("vary", "accept-encoding"));
    let jobs = [variant(1, "/a", "gzip"), variant(2, "/a", "br"), variant(3, "/a", "identity")];
    let all = futures_util::future::join_all(jobs.iter().map(|job| warmed(&child.pipeline, job))).await;
    assert!(all.iter().all(|outcome| fetched(outcome) == Some(true)), "{all:?}");
    child.settled().await;
    parent.settled().await;
    assert_eq!(origin.seen("/a").len(), 3, "one each");
    origin.stop();
    for encoding in ["gzip", "br", "identity"] {
        let got = child.get_with("/a", &[("accept-encoding", encoding)]).await;
        assert_eq!((got.text(), got.header("x-cache")), ("a", "HIT from child"), "{encoding}");
    }
    for job in &jobs {
        assert_eq!(fetched(&warm(&parent, job).await), Some(false), "the parent has each as well");
    }
}

#[tokio::test]
async fn variants_that_the_origin_does_not_tell_apart_are_one_fetch() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    for path in ["/together", "/apart"] {
        origin.put(path, Page::new("one"));
    }
    let (gzip, br) = (variant(1, "/together", "gzip"), variant(2, "/together", "br"));
    let (one, other) = tokio::join!(warmed(&child.pipeline, &gzip), warmed(&child.pipeline, &br));
    assert!(fetched(&one).is_some() && fetched(&other).is_some(), "{one:?} {other:?}");
    assert_eq!(fetched(&warm(&child, &variant(1, "/apart", "gzip")).await), Some(true));
    assert_eq!(fetched(&warm(&child, &variant(2, "/apart", "br")).await), Some(false));
    assert_eq!(fetched(&warm(&parent, &variant(2, "/apart", "br")).await), Some(false));
    let again = |encoding| Job { refetch: true, ..variant(9, "/apart", encoding) };
    assert_eq!(fetched(&warm(&child, &again("gzip")).await), Some(true));
    assert_eq!(fetched(&warm(&child, &again("br")).await), Some(false), "one refetch is enough for both");
    assert_eq!((origin.seen("/together").len(), origin.seen("/apart").len()), (1, 2));
}

/// A store of 4 MiB on disk.
pub(super) async fn on_disk() -> store::Store {
    on_this(store::disk::FaultyDisk::new(1)).await
}

async fn on_this(disk: store::disk::FaultyDisk) -> store::Store {
    let disks = vec![store::DiskConfig { path: "disk".into(), capacity_bytes: 4 << 20 }];
    let config = store::Config { memory_bytes: 256 << 10, disks, segment_bytes: 64 << 10 };
    let disk: Arc<dyn store::disk::Disk> = Arc::new(disk);
    store::Store::open_on(config, vec![disk]).await.unwrap()
}

/// The outcome of looking whether what `job` made resident is still there.
async fn look(node: &TestNode, job: &Job) -> Outcome {
    node.prefetch.accept([Job { look: true, ..job.clone() }].into_iter());
    report(node).await.outcome
}

#[tokio::test]
async fn job_that_only_looks_says_what_is_still_there_and_fetches_nothing() {
    let origin = Origin::start().await;
    let clock = clock();
    let node = TestNode::start("edge", &knowledge(&origin), clock.clone(), on_disk().await).await;
    origin.put("/plain", Page::new(vec![1_u8; 300_000]));
    origin.put("/varies", Page::new("v").with("vary", "accept-encoding"));
    origin.put("/soon", Page::new("s").with("cache-control", "max-age=60"));
    let (plain, varies, soon) = (job(1, "/plain", 0), variant(2, "/varies", "gzip"), job(3, "/soon", 0));
    let gone = Outcome::Failed(Cause::Evicted);
    for job in [&plain, &varies, &soon] {
        assert_eq!(look(&node, job).await, gone, "it never came");
        let made = warm(&node, job).await;
        let Outcome::Resident { bytes, checksum, validator, fetched: true } = made else { panic!("{made:?}") };
        assert_eq!(look(&node, job).await, Outcome::Resident { bytes, checksum, validator, fetched: false });
    }
    assert_eq!(look(&node, &variant(2, "/varies", "br")).await, gone);
    clock.advance(Duration::from_secs(61));
    node.in_contact();
    assert_eq!(look(&node, &soon).await, gone, "users' requests for it would ask the origin");
    node.refresh("/varies", Mode::Expire);
    assert_eq!(look(&node, &varies).await, gone);
    node.refresh("/varies", Mode::Delete);
    assert_eq!(look(&node, &varies).await, gone);
    assert_eq!(fetched(&look(&node, &plain).await), Some(false), "others stay");
    let unknown = Job { url: "http://other.example.test/".into(), ..plain.clone() };
    assert_eq!(look(&node, &unknown).await, Outcome::Failed(Cause::UnknownDomain));

    let losses = node.pipeline.store().losses();
    assert_eq!(fetched(&look(&node, &plain).await), Some(false));
    assert_eq!(node.pipeline.store().losses(), losses);
    for number in 0..100 {
        let path = format!("/flood/{number}");
        origin.put(&path, Page::new(vec![2_u8; 200_000]));
        assert_eq!(fetched(&warm(&node, &job(9, &path, 0)).await), Some(true));
    }
    assert_eq!(look(&node, &job(9, "/flood/0", 0)).await, gone, "five times the store went through");
    assert_ne!(node.pipeline.store().losses(), losses, "and the store says so");
    let count = |path: &str| origin.seen(path).len();
    assert_eq!([count("/plain"), count("/varies"), count("/soon"), count("/flood/0")], [1; 4]);
}

#[tokio::test]
async fn store_without_a_disk_says_that_it_has_lost_objects() {
    let origin = Origin::start().await;
    let store = store::Store::open(store::Config::memory_only(4 << 20)).await.unwrap();
    let node = TestNode::start("edge", &knowledge(&origin), clock(), store.clone()).await;
    origin.put("/0", Page::new(vec![1_u8; 200_000]));
    assert_eq!(fetched(&warm(&node, &job(1, "/0", 0)).await), Some(true));
    assert_eq!((fetched(&look(&node, &job(1, "/0", 0)).await), store.losses()), (Some(false), 0));
    for number in 1..100 {
        let path = format!("/{number}");
        origin.put(&path, Page::new(vec![2_u8; 200_000]));
        warm(&node, &job(1, &path, 0)).await;
    }
    assert!(store.losses() >= 70, "{}", store.losses());
}

#[tokio::test]
async fn object_whose_proof_cannot_succeed_is_not_fetched_again_at_once() {
    let origin = Origin::start().await;
    let disk = store::disk::FaultyDisk::new(1);
    let node = TestNode::start("edge", &knowledge(&origin), clock(), on_this(disk.clone()).await).await;
    origin.put("/a", Page::new("a"));
    disk.fail_reads(1);
    let outcome = warm(&node, &job(1, "/a", 0)).await;
    assert!(matches!(outcome, Outcome::Failed(Cause::Store(_))), "{outcome:?}");
    assert_eq!(origin.seen("/a").len(), 1);
    assert_eq!(fetched(&warm(&node, &job(1, "/a", 0)).await), Some(true), "it may be tried again");

    disk.fail_after(0, Some(store::disk::Failure::Everything));
    for n in 0.. {
        let path = format!("/{n}");
        origin.put(&path, Page::new("n"));
        let provable = node.pipeline.store().can_prove().is_ok();
        let outcome = warm(&node, &job(2, &path, 0)).await;
        assert!(matches!(outcome, Outcome::Failed(Cause::Store(_))), "{outcome:?}");
        if !provable {
            assert_eq!(origin.seen(&path).len(), 0, "no disk is left that could be read back from");
            break;
        }
        assert!(n < 100, "the disk is out of service after some failures");
    }
}

#[tokio::test]
async fn object_that_cannot_be_proven_for_want_of_descriptors_is_kept() {
    let origin = Origin::start().await;
    let disk = store::disk::FaultyDisk::new(1);
    let node = TestNode::start("edge", &knowledge(&origin), clock(), on_this(disk.clone()).await).await;
    origin.put("/a", Page::new("a"));
    assert_eq!(fetched(&warm(&node, &job(1, "/a", 0)).await), Some(true));
    disk.fail_after(0, Some(store::disk::Failure::NoDescriptors));
    let outcome = warm(&node, &job(2, "/a", 0)).await;
    assert!(matches!(outcome, Outcome::Failed(Cause::Store(_))), "{outcome:?}");
    disk.fail_after(0, None);
    assert_eq!(fetched(&warm(&node, &job(3, "/a", 0)).await), Some(false));
    assert_eq!(origin.seen("/a").len(), 1);
}

#[tokio::test]
async fn pinned_objects_and_variants_stay_whatever_else_is_pushed_and_a_refresh_takes_them() {
    let origin = Origin::start().await;
    let node = TestNode::start("edge", &knowledge(&origin), clock(), on_disk().await).await;
    origin.put("/plain", Page::new(vec![1_u8; 300_000]));
    origin.put("/varies", Page::new("v").with("vary", "accept-encoding"));
    let pin = model::Pin { until: 1_800_003_600, owner: 7, bytes_max: 1 << 20 };
    let pinned = |job: Job| Job { pin: Some(pin.clone()), ..job };
    for job in [job(1, "/plain", 0), variant(2, "/varies", "gzip"), variant(3, "/varies", "br")] {
        assert_eq!(fetched(&warm(&node, &pinned(job)).await), Some(true));
    }
    assert_eq!(fetched(&warm(&node, &job(4, "/plain", 0)).await), Some(false));
    for number in 0..100 {
        let path = format!("/flood/{number}");
        origin.put(&path, Page::new(vec![2_u8; 200_000]));
        assert_eq!(fetched(&warm(&node, &job(9, &path, 0)).await), Some(true));
    }
    assert_eq!(fetched(&warm(&node, &job(9, "/flood/0", 0)).await), Some(true), "five times the store went through");
    for (path, encoding) in [("/plain", "gzip"), ("/varies", "gzip"), ("/varies", "br")] {
        let got = node.get_with(path, &[("accept-encoding", encoding)]).await;
        assert_eq!(got.header("x-cache"), "HIT from edge", "{path} {encoding}");
    }
    assert_eq!((origin.seen("/plain").len(), origin.seen("/varies").len()), (1, 2));
    let too_much = Job { pin: Some(model::Pin { bytes_max: 300_000, ..pin.clone() }), ..job(5, "/flood/99", 0) };
    let Outcome::Failed(Cause::NotPinned(words)) = warm(&node, &too_much).await else { panic!("refused") };
    assert!(words.contains("300000 bytes"), "{words}");

    let over = Job { pin: Some(model::Pin { until: 1_700_000_000, ..pin.clone() }), ..job(6, "/flood/99", 0) };
    let outcome = warm(&node, &over).await;
    assert!(matches!(&outcome, Outcome::Failed(Cause::NotPinned(words)) if words.contains("is over")), "{outcome:?}");

    origin.put("/plain", Page::new("new"));
    node.refresh("/plain", Mode::Delete);
    assert_eq!(node.get("/plain").await.text(), "new", "fresh goes before pinned");
    let memory = TestNode::start("memory", &knowledge(&origin), clock(), memory().await).await;
    let outcome = warm(&memory, &pinned(job(6, "/plain", 0))).await;
    assert!(matches!(outcome, Outcome::Failed(Cause::NotPinned(_))), "memory alone keeps nothing: {outcome:?}");
}
