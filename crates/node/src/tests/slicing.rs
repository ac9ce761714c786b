//! Large bodies in slices: what the origin is asked for, what users get, and that a refresh covers all of it.

use model::{Cause, Outcome};

use super::prefetching::job;
use super::scopes::{invalidate, tag};
use super::tiers::{Tiers, tiers};
use super::warming::on_disk;
use super::*;

/// A body of `slices` slices and a half, in which no two stretches are alike.
pub(super) fn long(slices: usize, salt: u32) -> Bytes {
    (0..slices as u32 * 250 + 125)
        .flat_map(|word| (word ^ salt.rotate_left(16)).to_be_bytes())
        .collect::<Vec<u8>>()
        .into()
}

/// The ranges of `path` that the origin was asked for, in order; empty for the whole.
pub(super) fn parts(origin: &Origin, path: &str) -> Vec<String> {
    let range =
        |seen: &Seen| seen.headers.get(RANGE).map(|range| range.to_str().unwrap().to_owned()).unwrap_or_default();
    origin.seen(path).iter().map(range).collect()
}

pub(super) async fn part(node: &TestNode, path: &str, range: &str) -> Got {
    node.get_with(path, &[("range", range)]).await
}

#[tokio::test]
async fn part_of_a_large_object_brings_the_slices_it_needs() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let body = long(20, 1);
    origin.put("/v", Page::new(body.clone()));
    let got = part(&child, "/v", "bytes=5500-7499").await;
    assert_eq!((got.status, got.header("content-range")), (206, "bytes 5500-7499/20500"));
    assert_eq!((got.bytes(), got.header("x-cache")), (&body[5500..7500], "MISS from parent"));
    let asked = parts(&origin, "/v");
    assert_eq!(asked[..3], ["bytes=5000-5999", "bytes=6000-6999", "bytes=7000-7999"], "{asked:?}");
    assert!(asked.len() <= 3, "nothing behind the part is fetched: {asked:?}");
    child.settled().await;
    parent.settled().await;

    // A stored slice is not requested again, and the end of the body is known from the head.
    let got = part(&child, "/v", "bytes=5000-7999").await;
    assert_eq!((got.bytes(), got.header("x-cache")), (&body[5000..8000], "HIT from child"));
    assert_eq!(parts(&origin, "/v").len(), 3);
    let got = part(&child, "/v", "bytes=-300").await;
    assert_eq!((got.header("content-range"), got.bytes()), ("bytes 20200-20499/20500", &body[20200..]));
    assert_eq!(parts(&origin, "/v")[3..], ["bytes=20000-20499"]);

    // A request for the whole body gets it, and the origin is asked for the missing slices.
    let got = child.get("/v").await;
    assert_eq!((got.status, got.header("content-length")), (200, "20500"));
    assert_eq!(got.bytes(), body);
    let mut asked = parts(&origin, "/v");
    asked.sort();
    asked.dedup();
    assert_eq!((asked.len(), origin.seen("/v").len()), (21, 21), "each slice once");
    child.settled().await;
    parent.settled().await;
    origin.stop();
    assert_eq!(child.get("/v").await.bytes(), body);
    assert_eq!(part(&child, "/v", "bytes=20500-").await.status, 416);
}

#[tokio::test]
async fn refresh_takes_the_head_and_with_it_every_slice() {
    for mode in [Mode::Expire, Mode::Delete] {
        let Tiers { origin, child, parent, .. } = tiers().await;
        let (old, new) = (long(20, 1), long(20, 2));
        // The validator stays the same, as with an origin that derives it from the path.
        let validator = if mode == Mode::Delete { "\"same\"" } else { "\"old\"" };
        origin.put("/v", Page::new(old.clone()).with("etag", validator));
        assert_eq!(part(&child, "/v", "bytes=3000-4999").await.bytes(), &old[3000..5000]);
        child.settled().await;
        parent.settled().await;
        let validator = if mode == Mode::Delete { "\"same\"" } else { "\"new\"" };
        origin.put("/v", Page::new(new.clone()).with("etag", validator));
        for node in [&child, &parent] {
            node.refresh("/v", mode);
            node.in_contact();
        }
        let got = part(&child, "/v", "bytes=4000-5999").await;
        assert_eq!((got.bytes(), got.status), (&new[4000..6000], 206), "{mode:?}");
        assert_eq!(part(&child, "/v", "bytes=3000-3999").await.bytes(), &new[3000..4000], "a slice of the old one");
        assert_eq!(child.get("/v").await.bytes(), new);
    }
}

#[tokio::test]
async fn confirmed_head_keeps_its_slices() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let body = long(20, 1);
    origin.put("/v", Page::new(body.clone()));
    part(&child, "/v", "bytes=3000-3999").await;
    child.settled().await;
    parent.settled().await;
    for node in [&child, &parent] {
        node.refresh("/v", Mode::Expire);
        node.in_contact();
    }
    let got = part(&child, "/v", "bytes=3000-3999").await;
    assert_eq!((got.bytes(), got.header("x-cache")), (&body[3000..4000], "REVALIDATED from parent"));
    assert_eq!(origin.seen("/v").len(), 2);
    assert!(origin.seen("/v")[1].headers.contains_key(IF_NONE_MATCH));
}

#[tokio::test]
async fn slice_on_its_way_is_joined_though_its_head_is_stale_by_then() {
    let Stage { origin, node, clock } = Stage::set().await;
    let page = || Page::new(long(20, 1)).with("cache-control", "max-age=3");
    origin.put("/v", page());
    part(&node, "/v", "bytes=0-99").await;
    node.settled().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/v", Page { body_gate: Some(gate.clone()), ..page() });
    // Its first half, which holds the requested range, has arrived; the rest is on its way.
    assert_eq!(part(&node, "/v", "bytes=5000-5099").await.bytes(), &long(20, 1)[5000..5100]);
    clock.advance(Duration::from_secs(5));
    node.in_contact();
    let stale = [("range", "bytes=5000-5099"), ("cache-control", "max-stale=60")];
    assert_eq!(node.get_with("/v", &stale).await.bytes(), &long(20, 1)[5000..5100]);
    gate.add_permits(1_000);
    node.settled().await;
    // Not counting the request that validates the body.
    let asked = origin.seen("/v").into_iter().filter(|seen| !seen.headers.contains_key(IF_NONE_MATCH));
    let slices = asked.filter(|seen| seen.headers.get(RANGE).is_some_and(|range| range == "bytes=5000-5999"));
    assert_eq!(slices.count(), 1);
}

/// A requested range may lie past the end of a body of unknown length, and differs from the range that the origin was
/// asked for.
#[tokio::test]
async fn range_past_the_end_of_what_is_not_known_is_no_answer_for_anybody() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    let refusing = |gate: &Arc<Semaphore>| Page {
        status: 416,
        ignores_ranges: true,
        head_gate: Some(gate.clone()),
        ..Page::new("no").with("cache-control", "")
    };
    origin.put("/v", refusing(&gate));
    let address = node.address;
    let asked = tokio::spawn(async move {
        ask(address, Method::GET, "/v", &[("range", "bytes=999999-"), ("if-range", "\"v1\"")], false).await
    });
    origin.asked("/v", 1).await;
    origin.put("/v", Page::new("short").with("etag", "\"v2\""));
    gate.add_permits(1);
    let got = asked.await.unwrap();
    assert_eq!((got.status, got.text()), (200, "short"), "it is another version");
    node.settled().await;
    assert_eq!(part(&node, "/v", "bytes=999999-").await.status, 416);
    assert_eq!(node.get("/v").await.header("x-cache"), "HIT from edge", "it was stored");
    assert_eq!(origin.seen("/v").len(), 2, "the part, and the first slice, which is the whole");

    // For a long body the first slice is enough, whatever range was requested; for an empty one there is none.
    for (path, length) in [("/long", 20), ("/empty", 0)] {
        let gate = Arc::new(Semaphore::new(0));
        origin.put(path, refusing(&gate));
        let asked =
            tokio::spawn(async move { ask(address, Method::GET, path, &[("range", "bytes=999999-")], false).await });
        origin.asked(path, 1).await;
        if length == 0 {
            let second = Arc::new(Semaphore::new(0));
            origin.put(path, refusing(&second));
            gate.add_permits(1);
            origin.asked(path, 2).await;
            origin.put(path, Page::new(""));
            second.add_permits(1);
        } else {
            origin.put(path, Page::new(long(length, 1)));
            gate.add_permits(1);
        }
        assert_eq!(asked.await.unwrap().status, 416, "{path}");
        node.settled().await;
        let ranges: Vec<_> = origin.seen(path).iter().map(|seen| seen.headers.get(RANGE).cloned()).collect();
        match length {
            0 => assert!(ranges.len() == 3 && ranges[2].is_none(), "{ranges:?}"),
            _ => assert!(ranges.len() == 2 && ranges[1].as_ref().unwrap() == "bytes=0-999", "{ranges:?}"),
        }
    }
}

#[tokio::test]
async fn tags_that_come_with_a_later_slice_count() {
    for (refreshed, covered) in [("before", true), ("after", true), ("neither", false)] {
        let Tiers { origin, child, parent, .. } = tiers().await;
        let (old, new) = (long(20, 1), long(20, 2));
        let film = |etag: &str, tags: &str| Page::new(old.clone()).with("etag", etag).with("cache-tag", tags);
        origin.put("/v", film("\"v1\"", "before"));
        part(&child, "/v", "bytes=0-99").await;
        origin.put("/v", film("\"v1\"", "after"));
        part(&child, "/v", "bytes=5000-5099").await;
        child.settled().await;
        parent.settled().await;
        origin.put("/v", Page::new(new.clone()).with("etag", "\"v2\""));
        for node in [&child, &parent] {
            node.apply(invalidate(tag(refreshed), Mode::Expire));
            node.in_contact();
        }
        let expected = if covered { &new } else { &old };
        assert_eq!(part(&child, "/v", "bytes=0-99").await.bytes(), &expected[..100], "{refreshed}");
    }
}

#[tokio::test]
async fn body_that_changes_while_parts_of_it_are_fetched_ends_in_an_error() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/v", Page::new(long(20, 1)));
    part(&child, "/v", "bytes=3000-3999").await;
    child.settled().await;
    parent.settled().await;
    origin.put("/v", Page::new(long(20, 2)));
    let got = part(&child, "/v", "bytes=3000-5999").await;
    assert!(got.body.is_err(), "two versions in one body");
    // The parent has met the change; the child has too, or meets it now.
    let new = long(20, 2);
    let got = part(&child, "/v", "bytes=5000-5999").await;
    assert!(got.body.is_err() || got.bytes() == &new[5000..6000], "two versions in one body");
    let got = part(&child, "/v", "bytes=3000-5999").await;
    assert_eq!((got.status, got.bytes()), (206, &new[3000..6000]));
    assert!(!parts(&origin, "/v").contains(&String::new()), "the whole was asked for");
}

#[tokio::test]
async fn confirmation_to_a_request_with_credentials_leaves_every_slice_where_it_is() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    let body = long(20, 1);
    origin.put("/v", Page::new(body.clone()));
    part(&child, "/v", "bytes=3000-3999").await;
    clock.advance(Duration::from_secs(2));
    for node in [&child, &parent] {
        node.settled().await;
        node.in_contact();
    }
    let asks = [("range", "bytes=3000-3999"), ("authorization", "Basic eDp5"), ("cache-control", "no-cache")];
    assert_eq!(child.get_with("/v", &asks).await.bytes(), &body[3000..4000]);
    child.settled().await;
    parent.settled().await;
    let asked = origin.seen("/v").len();
    for (node, x_cache) in [(&child, "HIT from child"), (&parent, "HIT from parent")] {
        let got = part(node, "/v", "bytes=3000-3999").await;
        assert_eq!((got.bytes(), got.header("x-cache")), (&body[3000..4000], x_cache));
    }
    assert_eq!(origin.seen("/v").len(), asked);
}

#[tokio::test]
async fn slice_that_cannot_be_had_for_a_moment_does_not_end_a_long_transfer() {
    for trouble in ["503", "cut", "gone", "full"] {
        let Tiers { origin, child, parent, .. } = tiers().await;
        let body = long(20, 1);
        let good = || Page::new(body.clone());
        origin.put("/v", good());
        part(&child, "/v", "bytes=0-99").await;
        child.settled().await;
        parent.settled().await;
        let store = child.pipeline.store();
        let begin = |number: u128| store.begin_fill(store::Key(number), b"/", Bytes::new(), 0, None);
        let mut held: Vec<store::Fill> = Vec::new();
        match trouble {
            "503" => origin.put("/v", Page { status: 503, ..Page::new("busy").with("cache-control", "no-store") }),
            "cut" => origin.put("/v", Page { cut: Some(300), ..good() }),
            "gone" => {
                origin.stop();
                eventually("it is gone", || std::net::TcpStream::connect(origin.address).is_err()).await;
            }
            _ => held = (1..).map_while(|number| begin(number).ok()).collect(),
        }
        let address = child.address;
        let transfer = tokio::spawn(async move { ask(address, Method::GET, "/v", &[], false).await });
        eventually("the transfer waits", || child.pipeline.metrics().resume_pauses.get() > 0).await;
        drop(held);
        let again = if trouble == "gone" { Origin::start_at(origin.address).await } else { origin.clone() };
        again.put("/v", good());
        let got = transfer.await.unwrap();
        assert_eq!((got.status, got.body.as_ref()), (200, Ok(&body)), "{trouble}");
        assert_eq!(parent.pipeline.metrics().resume_pauses.get(), 0, "{trouble}: only the node of the user waits");
    }
}

#[tokio::test]
async fn slice_that_is_refused_ends_the_transfer_at_once() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/v", Page::new(long(20, 1)));
    part(&node, "/v", "bytes=0-99").await;
    node.settled().await;
    origin.put("/v", Page { status: 403, ..Page::new("no").with("etag", "") });
    assert!(node.get("/v").await.body.is_err());
    assert_eq!(node.pipeline.metrics().resume_pauses.get(), 0);
}

#[tokio::test]
async fn what_cannot_be_cut_is_fetched_whole() {
    let Tiers { origin, parent, .. } = tiers().await;
    let body = long(20, 1);
    let mut ignoring = Page::new(body.clone());
    ignoring.ignores_ranges = true;
    let pages = [
        ("/small", Page::new(long(2, 1)), long(2, 1)),
        ("/weak", Page::new(body.clone()).with("etag", "W/\"a\""), body.clone()),
        ("/none", Page::new(body.clone()).with("etag", ""), body.clone()),
        ("/vary", Page::new(body.clone()).with("vary", "accept-language"), body.clone()),
        ("/ignores", ignoring, body.clone()),
    ];
    for (path, page, body) in pages {
        origin.put(path, page);
        let got = part(&parent, path, "bytes=1500-2099").await;
        assert_eq!((got.status, got.bytes()), (206, &body[1500..2100]), "{path}");
        parent.settled().await;
        let asked = origin.seen(path).len();
        let got = part(&parent, path, "bytes=0-9").await;
        assert_eq!(
            (got.bytes(), got.header("x-cache"), origin.seen(path).len()),
            (&body[..10], "HIT from parent", asked),
            "{path}"
        );
    }
}

#[tokio::test]
async fn full_store_hands_on_what_is_whole_and_sheds_parts_until_there_is_room() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/small", Page::new("small"));
    origin.put("/large", Page::new(vec![7_u8; 10_000]));
    let store = node.pipeline.store();
    // Other slow fetches might come to hold all buffers.
    let begin = |number: u128| store.begin_fill(store::Key(number), b"/", Bytes::new(), 0, None);
    let held: Vec<store::Fill> = (1..).map_while(|number| begin(number).ok()).collect();
    assert!(!held.is_empty());
    for _ in 0..2 {
        let whole = node.get("/small").await;
        assert_eq!((whole.text(), whole.header("x-cache")), ("small", "MISS from edge"));
    }
    let part = node.get_with("/large", &[("range", "bytes=0-9")]).await;
    assert_eq!((part.status, part.header("retry-after")), (503, "2"));
    drop(held);
    let part = node.get_with("/large", &[("range", "bytes=0-9")]).await;
    assert_eq!((part.status, part.bytes()), (206, &[7_u8; 10][..]));

    // Now it can be stored, so those who ask together share one fetch.
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/small", Page { head_gate: Some(gate.clone()), ..Page::new("small") });
    let (asked, address) = (origin.seen("/small").len(), node.address);
    let askers: Vec<_> =
        (0..5).map(|_| tokio::spawn(async move { ask(address, Method::GET, "/small", &[], false).await })).collect();
    eventually("5 requests are waiting", || node.pipeline.metrics().requests_running.get() == 5).await;
    origin.asked("/small", asked + 1).await;
    gate.add_permits(5);
    for asker in askers {
        assert_eq!(asker.await.unwrap().text(), "small");
    }
    assert_eq!(origin.seen("/small").len(), asked + 1);
}

#[tokio::test]
async fn prefetch_of_what_lies_in_slices_asks_the_origin_once_for_the_whole() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let body = long(20, 1);
    origin.put("/v", Page::new(body.clone()));
    part(&child, "/v", "bytes=5500-7499").await;
    child.settled().await;
    parent.settled().await;
    let before = parts(&origin, "/v").len();
    let job = job(1, "/v", 0);
    let both = tokio::join!(warmed(&child.pipeline, &job), warmed(&parent.pipeline, &job));
    for outcome in [both.0, both.1] {
        assert!(matches!(outcome, Outcome::Resident { bytes: 20_500, fetched: true, .. }), "{outcome:?}");
    }
    assert_eq!(parts(&origin, "/v")[before..], [""], "no slice of it, and the whole for both tiers");
    origin.stop();
    for node in [&child, &parent] {
        assert_eq!(node.get("/v").await.bytes(), body);
        assert_eq!(part(node, "/v", "bytes=9500-10499").await.bytes(), &body[9500..10_500]);
    }
    assert_eq!(child.get("/v").await.header("x-cache"), "HIT from child");
}

#[tokio::test]
async fn prefetch_that_broke_above_is_not_gone_on_with_in_slices() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let (old, new) = (long(20, 1), long(20, 2));
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/v", Page { cut: Some(15_000), body_gate: Some(gate.clone()), ..Page::new(old) });
    let warming = {
        let pipeline = child.pipeline.clone();
        tokio::spawn(async move { warmed(&pipeline, &job(1, "/v", 0)).await })
    };
    eventually("half of it is there", || child.pipeline.metrics().bytes_fetched.get() >= 10_250).await;
    origin.put("/v", Page::new(new.clone()));
    gate.add_permits(10);
    let outcome = warming.await.unwrap();
    assert!(matches!(outcome, Outcome::Failed(Cause::Truncated { expected: 20_500, .. })), "{outcome:?}");
    child.settled().await;
    parent.settled().await;
    let outcome = warmed(&child.pipeline, &job(1, "/v", 0)).await;
    let Outcome::Resident { checksum, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(checksum, crc32fast::hash(&new), "one version");
    assert_eq!(parts(&origin, "/v"), ["", "bytes=15000-", ""], "what broke, what did not continue it, and what came");
}

#[tokio::test]
async fn part_of_what_is_nobody_elses_is_asked_for_as_it_is_wanted() {
    let tiers = super::tiers::tiers().await;
    let body = Bytes::from((0..20_000_u32).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    let page = Page::new(body.clone()).with("cache-control", "private").with("etag", "\"v1\"");
    tiers.origin.put("/a", page);
    for round in 0..2 {
        for (range, from, to) in [("bytes=0-1", 0, 2), ("bytes=15000-15009", 15_000, 15_010)] {
            let got = tiers.child.get_with("/a", &[("range", range)]).await;
            assert_eq!((got.status, got.bytes()), (206, &body[from..to]), "{round}: {range}");
            assert_eq!(got.header("content-range"), format!("bytes {from}-{}/20000", to - 1));
        }
        let got = tiers.child.get_with("/a", &[("if-none-match", "\"v1\"")]).await;
        assert_eq!((got.status, got.bytes()), (304, &b""[..]), "{round}");
    }
    let got = tiers.child.get_with("/b", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!(got.status, 404);
    for node in [&tiers.child, &tiers.parent] {
        node.settled().await;
        assert_eq!(node.pipeline.store().stats().objects, 0);
    }
}

#[tokio::test]
async fn what_its_user_has_of_what_is_nobody_elses_is_not_sent_again() {
    let Stage { origin, node, .. } = Stage::set().await;
    origin.put("/a", Page::new("mine").with("cache-control", "private").with("etag", "\"v1\""));
    // The first request is fetched as for everybody, later ones each for themselves.
    for (tag, status) in [("\"v1\"", 304), ("\"v1\"", 304), ("\"v0\"", 200)] {
        let got = node.get_with("/a", &[("if-none-match", tag)]).await;
        assert_eq!((got.status, got.header("etag")), (status, "\"v1\""), "{tag}");
        assert_eq!(got.bytes(), if status == 200 { &b"mine"[..] } else { b"" });
    }
    let seen = origin.seen("/a");
    let conditional: Vec<bool> = seen.iter().map(|seen| seen.headers.contains_key(IF_NONE_MATCH)).collect();
    assert_eq!(conditional, [false, true, true]);
}

#[tokio::test]
async fn pinned_object_that_changed_is_fetched_whole_though_a_part_is_asked_for() {
    let origin = Origin::start().await;
    let node = TestNode::start("edge", &knowledge(&origin), clock(), on_disk().await).await;
    let (old, new) = (long(20, 1), long(20, 2));
    origin.put("/v", Page::new(old).with("cache-control", "max-age=10"));
    let pin = Some(model::Pin { until: 1_800_003_600, owner: 7, bytes_max: 1 << 20 });
    let outcome = warmed(&node.pipeline, &model::Job { pin, ..job(1, "/v", 0) }).await;
    assert!(matches!(outcome, Outcome::Resident { .. }), "{outcome:?}");
    origin.put("/v", Page::new(new.clone()));
    node.clock.advance(Duration::from_secs(11));
    node.in_contact();
    let got = part(&node, "/v", "bytes=3000-3999").await;
    assert_eq!((got.status, got.bytes()), (206, &new[3000..4000]));
    node.settled().await;
    assert_eq!(parts(&origin, "/v"), ["", ""]);
    origin.stop();
    assert_eq!(node.get("/v").await.bytes(), new, "all of it is here");
    let key = crate::head::ObjectKey::bare(&UrlKey::new(DOMAIN, "/v").unwrap());
    assert!(node.pipeline.store().is_pinned(key.hash()));
}

#[tokio::test]
async fn request_for_what_is_stored_alone_makes_no_node_fetch_a_slice() {
    for store in [memory().await, on_disk().await] {
        let (origin, body) = (Origin::start().await, long(20, 1));
        let node = TestNode::start("edge", &knowledge(&origin), clock(), store).await;
        origin.put("/v", Page::new(body.clone()));
        part(&node, "/v", "bytes=3000-4999").await;
        node.settled().await;
        let asked = origin.seen("/v").len();
        let cases = [
            ("bytes=3000-4999", 206),
            ("bytes=3999-4000", 206),
            ("bytes=4999-5000", 504),
            ("bytes=2999-3000", 504),
            ("bytes=3000-3001, 4000-4001", 206),
            ("bytes=3000-3001, 9000-9001", 504),
            ("bytes=-1", 504),
            ("bytes=0-", 504),
            ("bytes=20500-", 416),
        ];
        for (range, status) in cases {
            let got = node.get_with("/v", &[("range", range), ("cache-control", "only-if-cached")]).await;
            assert_eq!(got.status, status, "{range}");
            assert_eq!(got.header("x-cache"), if status == 504 { "" } else { "HIT from edge" }, "{range}");
            if let (Some((first, last)), 206) = (range["bytes=".len()..].split_once('-'), status)
                && let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
            {
                assert_eq!(got.bytes(), &body[first..=last], "{range}");
            }
        }
        let only = [("cache-control", "only-if-cached")];
        assert_eq!(node.get_with("/v", &only).await.status, 504, "the whole");
        assert_eq!(ask(node.address, Method::HEAD, "/v", &only, false).await.status, 200, "the head alone");
        node.settled().await;
        assert_eq!(origin.seen("/v").len(), asked);
        node.get("/v").await;
        node.settled().await;
        assert_eq!(node.get_with("/v", &only).await.bytes(), &body, "all slices are stored");
    }
}

#[tokio::test]
async fn slice_that_a_request_forbids_to_store_is_stored_on_no_tier() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let body = long(20, 1);
    origin.put("/v", Page::new(body.clone()));
    part(&child, "/v", "bytes=3000-4999").await;
    let settled = async || {
        child.settled().await;
        parent.settled().await;
    };
    settled().await;
    let objects = || [&child, &parent].map(|node| node.pipeline.store().stats().objects);
    let (stored, asked) = (objects(), origin.seen("/v").len());
    let with = async |range| child.get_with("/v", &[("range", range), ("cache-control", "no-store")]).await;
    let got = with("bytes=3500-4499").await;
    assert_eq!((got.bytes(), got.header("x-cache")), (&body[3500..4500], "HIT from child"));
    assert_eq!(origin.seen("/v").len(), asked);
    for _ in 0..2 {
        let got = with("bytes=4500-5499").await;
        assert_eq!((got.status, got.bytes()), (206, &body[4500..5500]));
        let said: Vec<_> = got.headers.get_all("cache-status").iter().collect();
        assert_eq!(said, ["parent; fwd=partial", "child; fwd=partial"]);
        settled().await;
    }
    assert_eq!(parts(&origin, "/v")[asked..], ["bytes=4500-5499", "bytes=4500-5499"]);
    let whole = child.get_with("/v", &[("cache-control", "no-store")]).await;
    assert_eq!((whole.status, whole.bytes()), (200, &body[..]));
    settled().await;
    assert_eq!(objects(), stored);
}
