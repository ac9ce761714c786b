//! Two tiers: what a child asks its parent, what it believes of the answer, what it tells users.

use super::*;

/// An origin, an L2 before it, and an L1 that asks the L2.
pub(super) struct Tiers {
    pub(super) origin: Origin,
    pub(super) child: TestNode,
    pub(super) parent: TestNode,
    pub(super) clock: Arc<ManualClock>,
}

pub(super) async fn tiers() -> Tiers {
    tiers_before(Origin::start().await).await
}

pub(super) async fn tiers_before(origin: Origin) -> Tiers {
    let clock = clock();
    let mut knowledge = knowledge(&origin);
    let nowhere = "127.0.0.1:1".parse().unwrap();
    // The parent's tier is known before its address is.
    knowledge.topology.members.insert(NodeName::parse("parent").unwrap(), member("parent", "pop-1", Tier::L2, nowhere));
    let parent = TestNode::start("parent", &knowledge, clock.clone(), memory().await).await;
    knowledge
        .topology
        .members
        .insert(NodeName::parse("parent").unwrap(), member("parent", "pop-1", Tier::L2, parent.address));
    let child = TestNode::start("child", &knowledge, clock.clone(), memory().await).await;
    Tiers { origin, child, parent, clock }
}

/// The headers of a request from a node.
fn as_child(fence: &str) -> [(&str, &str); 2] {
    [("warmfront-credential", PEERS), ("warmfront-fence", fence)]
}

#[tokio::test]
async fn what_a_request_forbids_to_keep_no_tier_keeps() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("a"));
    assert_eq!(child.get_with("/a", &[("cache-control", "no-store")]).await.text(), "a");
    for node in [&child, &parent] {
        node.settled().await;
        assert_eq!(node.pipeline.store().stats().objects, 0);
    }
}

#[tokio::test]
async fn options_go_as_far_as_they_may() {
    let Tiers { origin, child, .. } = tiers().await;
    origin.put("/a", Page::new("a"));
    let address = child.address;
    let asks = |left| async move { ask(address, Method::OPTIONS, "/a", &[("max-forwards", left)], false).await };
    assert_eq!((asks("0").await.status, origin.seen("/a").len()), (204, 0));
    for left in ["1", "7"] {
        asks(left).await;
    }
    let seen = origin.seen("/a");
    let left: Vec<_> = seen.iter().map(|seen| &seen.headers["max-forwards"]).collect();
    assert_eq!(left, ["0", "6"]);
}

#[tokio::test]
async fn x_cache_speaks_of_the_whole_and_cache_status_of_each_node() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("a"));
    let first = child.get("/a").await;
    assert_eq!((first.text(), first.header("x-cache"), first.header("via")), ("a", "MISS from parent", "1.1 parent"));
    let statuses: Vec<_> = first
        .headers
        .get_all("cache-status")
        .iter()
        .map(|value| value.to_str().unwrap().split(';').next().unwrap())
        .collect();
    assert_eq!(statuses, ["parent", "child"], "nearest the origin first");
    let vias: Vec<_> = first.headers.get_all("via").iter().collect();
    assert_eq!(vias, ["1.1 parent", "1.1 child"]);
    child.settled().await;
    parent.settled().await;
    assert_eq!(child.get("/a").await.header("x-cache"), "HIT from child");

    origin.put("/b", Page::new("b"));
    parent.get("/b").await;
    parent.settled().await;
    origin.stop();
    let hit = child.get("/b").await;
    assert_eq!((hit.text(), hit.header("x-cache")), ("b", "HIT from parent"));
    assert!(hit.headers.keys().all(|name| !name.as_str().starts_with("warmfront")), "{:?}", hit.headers);
}

#[tokio::test]
async fn fence_goes_up_and_a_lagging_parent_asks_the_origin_again() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("old"));
    assert_eq!(child.get("/a").await.text(), "old");
    child.settled().await;
    parent.settled().await;
    origin.put("/a", Page::new("new"));
    // Only the child has applied the refresh.
    child.refresh("/a", Mode::Expire);
    assert_eq!(child.get("/a").await.text(), "new");
    assert_eq!(parent.get("/a").await.text(), "new", "what the child made it fetch it has");
}

#[tokio::test]
async fn fence_of_a_child_is_obeyed_or_refused_never_ignored() {
    let Tiers { origin, parent, .. } = tiers().await;
    origin.put("/a", Page::new("a").with("etag", "\"v1\""));
    parent.get("/a").await;
    parent.settled().await;
    let cases: &[(&str, &str, u16, &str)] = &[
        // fence      why                                         status x-cache
        ("log:1", "it reflects that", 200, "HIT from parent"),
        ("log:9", "it must ask for what it has not heard of", 200, "REVALIDATED from parent"),
        ("log:9", "and then knows", 200, "HIT from parent"),
        ("other:1", "another log's revisions say nothing", 421, ""),
        ("log:2000000", "a body would be stamped with a revision that does not exist", 503, ""),
        ("log:x", "not a revision", 400, ""),
        ("", "no fence", 400, ""),
    ];
    for (fence, why, status, x_cache) in cases {
        let got = parent.get_with("/a", &as_child(fence)).await;
        assert_eq!((got.status, got.header("x-cache")), (*status, *x_cache), "{why}");
        assert_eq!(got.headers.contains_key("warmfront-age"), *status == 200, "{why}");
        parent.settled().await;
    }
    let stranger = parent.get_with("/a", &[("warmfront-credential", "guess"), ("warmfront-fence", "other:1")]).await;
    assert_eq!(stranger.status, 200, "without the credential it is a user");
    assert!(!stranger.headers.contains_key("warmfront-age"));
}

#[tokio::test]
async fn age_of_knowledge_is_told_to_children_and_counts_from_the_sending() {
    let Tiers { origin, parent, clock, .. } = tiers().await;
    origin.put("/a", Page::new("a"));
    parent.get("/a").await;
    parent.settled().await;
    clock.advance(Duration::from_micros(3_000_500));
    let got = parent.get_with("/a", &as_child("log:1")).await;
    assert_eq!(got.header("warmfront-age"), "3001", "rounded up");
}

#[tokio::test]
async fn parent_out_of_contact_is_not_believed_and_passes_on_what_the_origin_vouches_for() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    origin.put("/a", Page::new("a").with("etag", "\"v1\""));
    child.get("/a").await;
    child.settled().await;
    parent.settled().await;
    clock.advance(Duration::from_secs(10));
    // Neither has contact now: the child asks the parent, and the parent the origin.
    let got = child.get("/a").await;
    assert_eq!((got.text(), got.header("x-cache")), ("a", "REVALIDATED from parent"));
    assert_eq!(origin.seen("/a").len(), 2);
    child.settled().await;
    let got = child.get("/a").await;
    assert_eq!((got.header("x-cache"), origin.seen("/a").len()), ("HIT from child", 2), "vouched for a lease");
}

#[tokio::test]
async fn parent_that_confirms_from_its_store_leaves_the_hit_to_the_child() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    origin.put("/a", Page::new("a").with("etag", "\"v1\""));
    child.get("/a").await;
    child.settled().await;
    parent.settled().await;
    clock.advance(Duration::from_secs(10));
    parent.in_contact();
    let got = child.get("/a").await;
    assert_eq!((got.text(), got.header("x-cache")), ("a", "HIT from child"));
    assert_eq!(origin.seen("/a").len(), 1, "the parent knew");
}

#[tokio::test]
async fn answer_without_an_age_is_no_answer() {
    // The origin plays a parent that ignores fences.
    let impostor = Origin::start().await;
    impostor.put("/a", Page::new("unfenced"));
    let origin = Origin::start().await;
    origin.put("/a", Page::new("a"));
    let clock = clock();
    let mut knowledge = knowledge(&origin);
    knowledge
        .topology
        .members
        .insert(NodeName::parse("parent").unwrap(), member("parent", "pop-1", Tier::L2, impostor.address));
    let child = TestNode::start("child", &knowledge, clock.clone(), memory().await).await;
    assert_eq!(child.get("/a").await.status, 503);
    assert!(origin.seen("/a").is_empty(), "only a root asks the origin");

    let parent = TestNode::start("parent-2", &knowledge, clock.clone(), memory().await).await;
    child.apply(Entry::Member(member("parent-2", "pop-1", Tier::L2, parent.address)));
    parent.apply(Entry::Member(member("parent-2", "pop-1", Tier::L2, parent.address)));
    let got = child.get("/a").await;
    assert_eq!(
        (got.status, got.text(), got.header("x-cache")),
        (200, "a", "MISS from parent-2"),
        "the next parent is asked"
    );
}

#[tokio::test]
async fn parent_that_cannot_be_reached_is_asked_after_the_others_for_a_while() {
    let origin = Origin::start().await;
    let clock = clock();
    let mut knowledge = knowledge(&origin);
    let parent = TestNode::start("parent-2", &knowledge, clock.clone(), memory().await).await;
    for path in 0..20 {
        origin.put(&format!("/{path}"), Page::new("x"));
    }
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    for (name, address) in [("parent-1", silent_address), ("parent-2", parent.address)] {
        knowledge.topology.members.insert(NodeName::parse(name).unwrap(), member(name, "pop-1", Tier::L2, address));
    }
    parent.apply(Entry::Member(member("parent-2", "pop-1", Tier::L2, parent.address)));
    let child = TestNode::start("child", &knowledge, clock.clone(), memory().await).await;
    let reached = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counting = reached.clone();
    tokio::spawn(async move {
        // The connection is closed at once, so the child notices.
        while let Ok((stream, _)) = silent.accept().await {
            drop(stream);
            counting.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    for path in 0..20 {
        let got = child.get(&format!("/{path}")).await;
        assert_eq!((got.status, got.header("x-cache")), (200, "MISS from parent-2"), "/{path}");
    }
    let tried = reached.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1..=3).contains(&tried), "asked {tried} times, although it owns about half of 20 keys");
}

#[tokio::test]
async fn circle_in_the_topology_ends_at_the_origin() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("a"));
    let mut pop = child.knowing.known().knowledge.topology.pops.values().next().unwrap().clone();
    pop.parents.insert(Tier::L2, Parent { pop: pop.name.clone(), tier: Tier::L1 });
    for node in [&child, &parent] {
        node.apply(Entry::Member(member("child", "pop-1", Tier::L1, child.address)));
        node.apply(Entry::Pop(pop.clone()));
    }
    let got = child.get("/a").await;
    assert_eq!((got.status, got.text(), origin.seen("/a").len()), (200, "a", 1));
}

#[tokio::test]
async fn origins_failure_is_told_through_the_tiers() {
    let Tiers { origin, child, parent: _parent, .. } = tiers().await;
    origin.stop();
    eventually("the origin is gone", || std::net::TcpStream::connect(origin.address).is_err()).await;
    let got = child.get("/a").await;
    assert_eq!((got.status, got.text()), (502, "the origin could not be reached\n"));
    assert!(!got.headers.contains_key("warmfront-origin"));
}

/// Many clients at both tiers while the origin changes, and each node applies the refreshes at its own pace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_sent_less_than_a_refresh_that_was_applied_before_he_asked() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let paths = ["/x/a", "/x/b", "/c"];
    let version = |page: &str| page.trim().parse::<u64>().unwrap();
    for path in paths {
        origin.put(path, Page::new("0"));
    }
    // For each node and path, the version that the newest applied refresh promises.
    let promised: Arc<[[std::sync::atomic::AtomicU64; 3]; 2]> = Arc::default();
    let done = CancellationToken::new();
    let answers = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut askers = Vec::new();
    for asker in 0..12_usize {
        let (promised, done, answers) = (promised.clone(), done.clone(), answers.clone());
        let (tier, address) = if asker % 3 == 0 { (1, parent.address) } else { (0, child.address) };
        askers.push(tokio::spawn(async move {
            for round in asker.. {
                if done.is_cancelled() {
                    break;
                }
                let at = round % paths.len();
                let least = promised[tier][at].load(std::sync::atomic::Ordering::SeqCst);
                let got = ask(address, Method::GET, paths[at], &[], false).await;
                if got.status == 503 {
                    continue; // refreshed faster than it can be fetched
                }
                assert_eq!(got.status, 200, "{got:?}");
                let sent = version(got.text());
                assert!(sent >= least, "{} at tier {tier}: version {sent} after {least} was promised", paths[at]);
                answers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }));
    }
    let mut behind = std::collections::VecDeque::new();
    for new in 1..=100_000_u64 {
        if new > 200 && answers.load(std::sync::atomic::Ordering::SeqCst) > 1_000 {
            break;
        }
        let at = new as usize % paths.len();
        let page = Page::new(new.to_string());
        origin.put(paths[at], if new % 4 == 0 { page.with("cache-control", "no-cache") } else { page });
        let entry = refresh(
            if new % 5 == 0 && at < 2 { "/x/" } else { paths[at] },
            if new % 2 == 0 { Mode::Expire } else { Mode::Delete },
        );
        child.apply(entry.clone());
        promised[0][at].store(new, std::sync::atomic::Ordering::SeqCst);
        behind.push_back((entry, at, new));
        // The parent lags by a varying number of entries.
        while behind.len() > (new % 7) as usize {
            let (entry, at, new) = behind.pop_front().unwrap();
            parent.apply(entry);
            promised[1][at].store(new, std::sync::atomic::Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
        if new % 3 == 0 {
            let asked = child.pipeline.metrics().bytes_sent.get();
            eventually("askers go on", || child.pipeline.metrics().bytes_sent.get() > asked).await;
        }
    }
    done.cancel();
    for asker in askers {
        asker.await.unwrap();
    }
}

/// The origin gives different bytes the same date.
#[tokio::test]
async fn parent_that_has_other_bytes_confirms_none_of_a_childs() {
    for child_first in [true, false] {
        let Tiers { origin, child, parent, .. } = tiers().await;
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let page = |body: &str| Page::new(body.to_owned()).with("etag", "").with("last-modified", date);
        origin.put("/a", page("old"));
        assert_eq!(child.get("/a").await.text(), "old");
        child.settled().await;
        parent.settled().await;
        origin.put("/a", page("new"));
        for node in [&child, &parent] {
            node.refresh("/a", Mode::Expire);
        }
        let (first, second) = if child_first { (&child, &parent) } else { (&parent, &child) };
        for node in [first, second, first] {
            assert_eq!(node.get("/a").await.text(), "new");
            node.settled().await;
        }
        assert_eq!(origin.seen("/a").len(), 2);
    }
}

#[tokio::test]
async fn copy_of_the_same_answer_is_confirmed_without_its_bytes() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("the same"));
    assert_eq!(child.get("/a").await.text(), "the same");
    child.settled().await;
    parent.settled().await;
    for node in [&child, &parent] {
        node.refresh("/a", Mode::Expire);
    }
    let got = child.get("/a").await;
    let said: Vec<_> = got.headers.get_all("cache-status").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(got.text(), "the same");
    assert!(said.last().unwrap().contains("fwd-status=304"), "{said:?}");
}

#[tokio::test]
async fn request_that_a_node_takes_its_parent_takes_too() {
    let Tiers { origin, child, .. } = tiers().await;
    origin.put("/a", Page::new("a"));
    let names: Vec<String> = (0..100).map(|number| format!("x-{number}")).collect();
    let mut taken = 0;
    for count in 70..100 {
        let fields: Vec<(&str, &str)> = names[..count].iter().map(|name| (name.as_str(), "1")).collect();
        let status = child.get_with(&format!("/a?{count}"), &fields).await.status;
        assert!(matches!(status, 404 | 431), "{count}: {status}");
        taken += usize::from(status == 404);
    }
    assert!((5..25).contains(&taken), "{taken}");
    for bytes in [40_000, 50_000, 60_000, 62_000, 64_000] {
        let long = "x".repeat(bytes);
        let status = child.get_with(&format!("/a?{bytes}"), &[("x-a", &long)]).await.status;
        assert!(matches!(status, 404 | 431), "{bytes}: {status}");
    }
}

#[tokio::test]
async fn answer_that_a_node_takes_its_child_takes_too_and_none_makes_a_parent_rest() {
    let Tiers { origin, child, parent: _parent, .. } = tiers().await;
    let mut taken = 0;
    for count in 225..260 {
        let mut page = Page::new("a");
        page.headers.extend((0..count).map(|_| ("x-a", "1".to_owned())));
        origin.put(&format!("/{count}"), page);
        let got = child.get(&format!("/{count}")).await;
        assert!(matches!(got.status, 200 | 502), "{count}: {got:?}");
        if got.status == 200 {
            assert_eq!(got.header("x-cache"), "MISS from parent", "{count}");
            taken += 1;
        }
    }
    assert!((5..30).contains(&taken), "{taken}");
    for bytes in [55_000, 60_000, 61_000, 62_000, 65_000] {
        origin.put(&format!("/{bytes}"), Page::new("a").with("x-a", &"x".repeat(bytes)));
        let got = child.get(&format!("/{bytes}")).await;
        assert!(matches!(got.status, 200 | 502), "{bytes}: {}", got.status);
    }
    origin.put("/fine", Page::new("fine"));
    assert_eq!(child.get("/fine").await.header("x-cache"), "MISS from parent");
}
