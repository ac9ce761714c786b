//! Seeks in large bodies: what users wait for while the whole is on its way, and which bytes slices are made of.

use std::io::Read;

use super::functions::with;
use super::prefetching::job;
use super::slicing::{long, part, parts};
use super::tiers::{Tiers, tiers};
use super::*;

/// A body of which half has come to a node, and the rest waits for the gate. The origin sends parts of it at once.
struct HalfCome {
    body: Bytes,
    gate: Arc<Semaphore>,
    whole: tokio::task::JoinHandle<()>,
}

impl HalfCome {
    async fn begin(origin: &Origin, node: &TestNode, begun_by: &str, then: impl FnOnce(Page) -> Page) -> HalfCome {
        let (body, gate) = (long(40, 1), Arc::new(Semaphore::new(0)));
        origin.put("/v", Page { body_gate: Some(gate.clone()), ..Page::new(body.clone()) });
        let whole = match begun_by {
            "user" => {
                let (address, body) = (node.address, body.clone());
                tokio::spawn(async move {
                    assert_eq!(ask(address, Method::GET, "/v", &[], false).await.bytes(), body);
                })
            }
            _ => {
                let pipeline = node.pipeline.clone();
                tokio::spawn(async move {
                    let outcome = warmed(&pipeline, &job(1, "/v", 0)).await;
                    assert!(matches!(outcome, model::Outcome::Resident { .. }), "{outcome:?}");
                })
            }
        };
        eventually("half of it is there", || node.pipeline.metrics().bytes_fetched.get() >= 20_250).await;
        origin.put("/v", then(Page::new(body.clone())));
        HalfCome { body, gate, whole }
    }

    async fn go_on(self) {
        self.gate.add_permits(1_000);
        self.whole.await.unwrap();
    }
}

fn spawned(address: SocketAddr, headers: &'static [(&'static str, &'static str)]) -> tokio::task::JoinHandle<Got> {
    tokio::spawn(async move { ask(address, Method::GET, "/v", headers, false).await })
}

#[tokio::test]
async fn seek_far_beyond_what_has_come_does_not_wait_for_it() {
    for begun_by in ["user", "prefetch"] {
        let Tiers { origin, child, parent, .. } = tiers().await;
        let half = HalfCome::begin(&origin, &child, begun_by, |page| page).await;
        let got = part(&child, "/v", "bytes=35000-35099").await;
        assert_eq!((got.status, got.header("content-range")), (206, "bytes 35000-35099/40500"), "{begun_by}");
        assert_eq!((got.bytes(), got.header("x-cache")), (&half.body[35_000..35_100], "MISS from parent"));
        // What has come is not asked for again.
        assert_eq!(part(&child, "/v", "bytes=19000-20099").await.bytes(), &half.body[19_000..20_100]);
        // Nor is what comes next, nor anything for a prefetch of another node.
        let near = spawned(child.address, &[("range", "bytes=25000-25099")]);
        let warming = spawned(
            parent.address,
            &[
                ("warmfront-credential", PEERS),
                ("warmfront-fence", "log:1"),
                ("warmfront-purpose", "prefetch"),
                ("range", "bytes=35000-35099"),
            ],
        );
        eventually("both wait", || {
            let waiting = [&child, &parent].map(|node| node.pipeline.metrics().requests_running.get());
            waiting[0] + waiting[1] >= 4 - u64::from(begun_by == "prefetch")
        })
        .await;
        let body = half.body.clone();
        half.go_on().await;
        assert_eq!(near.await.unwrap().bytes(), &body[25_000..25_100]);
        assert_eq!(warming.await.unwrap().bytes(), &body[35_000..35_100]);
        assert_eq!(parts(&origin, "/v"), ["", "bytes=35000-35099"], "{begun_by}");
        child.settled().await;
        assert_eq!(child.get("/v").await.bytes(), body);
    }
}

#[tokio::test]
async fn seek_waits_where_the_origin_sends_no_ranges() {
    let Tiers { origin, child, .. } = tiers().await;
    let ignoring = |page| Page { ignores_ranges: true, ..page };
    let half = HalfCome::begin(&origin, &child, "user", ignoring).await;
    let seek = spawned(child.address, &[("range", "bytes=35000-35099")]);
    origin.asked("/v", 2).await;
    let body = half.body.clone();
    half.go_on().await;
    let got = seek.await.unwrap();
    assert_eq!((got.status, got.bytes()), (206, &body[35_000..35_100]));
}

#[tokio::test]
async fn user_who_has_another_version_gets_the_whole_as_it_comes() {
    let Stage { origin, node, .. } = Stage::set().await;
    let half = HalfCome::begin(&origin, &node, "user", |page| page).await;
    let other = spawned(node.address, &[("range", "bytes=35000-35099"), ("if-range", "\"other\"")]);
    eventually("it waits for the whole", || node.pipeline.metrics().requests_running.get() == 2).await;
    let body = half.body.clone();
    half.go_on().await;
    let got = other.await.unwrap();
    assert_eq!((got.status, got.bytes()), (200, &body[..]), "it has another version");
    assert_eq!(parts(&origin, "/v"), [""]);
}

#[tokio::test]
async fn answer_to_a_seek_is_judged_when_it_comes() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let half = HalfCome::begin(&origin, &node, "user", |page| Page { head_gate: Some(held), ..page }).await;
    let seek = spawned(node.address, &[("range", "bytes=35000-35099")]);
    origin.asked("/v", 2).await;
    let new = long(40, 2);
    origin.put("/v", Page::new(new.clone()));
    node.refresh("/v", Mode::Delete);
    node.in_contact();
    gate.add_permits(1);
    let got = seek.await.unwrap();
    assert_eq!((got.status, got.bytes()), (206, &new[35_000..35_100]), "what it asked for is refreshed by now");
    half.go_on().await;
}

#[tokio::test]
async fn child_that_validates_a_film_gets_its_slice_of_the_next_one_at_once() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/v", Page::new(long(40, 9)));
    part(&child, "/v", "bytes=35000-35099").await;
    for node in [&child, &parent] {
        node.settled().await;
        node.refresh("/v", Mode::Expire);
        node.in_contact();
    }
    let half = HalfCome::begin(&origin, &parent, "prefetch", |page| page).await;
    let got = part(&child, "/v", "bytes=35000-35099").await;
    assert_eq!((got.status, got.bytes()), (206, &half.body[35_000..35_100]));
    assert_eq!(parts(&origin, "/v")[1..], ["", "bytes=35000-35999"]);
    half.go_on().await;
}

/// Without `Vary`, and the whole whatever range is wanted: as servers do that compress while they send.
#[tokio::test]
async fn slices_are_asked_for_without_a_coding() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let body = long(20, 1);
    let page = |body: &Bytes| Page { gzipped: Some(long(6, 3)), ..Page::new(body.clone()) };
    let browser = |range| [("range", range), ("accept-encoding", "gzip")];
    // Whoever comes first, and whoever comes next.
    for path in ["/v", "/w"] {
        origin.put(path, page(&body));
        if path == "/v" {
            part(&child, path, "bytes=3000-3999").await;
        }
        let got = child.get_with(path, &browser("bytes=3000-5999")).await;
        assert_eq!((got.status, got.body.as_deref()), (206, Ok(&body[3000..6000])), "{path}");
        child.settled().await;
        parent.settled().await;
        assert_eq!(child.get_with(path, &browser("bytes=3000-")).await.bytes(), &body[3000..], "{path}");
    }
    // A body that is fetched whole after all is fetched as its user accepts it.
    origin.put("/weak", page(&body).with("etag", "W/\"a\""));
    let got = child.get_with("/weak", &browser("bytes=3000-5999")).await;
    assert_eq!((got.status, got.bytes()), (206, &long(6, 3)[3000..6000]));
    let accepted: Vec<bool> =
        origin.seen("/weak").iter().map(|seen| seen.headers.contains_key("accept-encoding")).collect();
    assert_eq!(accepted, [false, true]);
}

#[tokio::test]
async fn body_in_slices_is_compressed_for_its_users_as_any_other() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(with(&node, &[("gzip", &[("enable", "on")])]));
    let text = Bytes::from("some words ".repeat(1_000));
    origin.put("/a", Page::new(text.clone()).with("content-type", "text/plain"));
    part(&node, "/a", "bytes=0-99").await;
    let got = node.get_with("/a", &[("accept-encoding", "gzip")]).await;
    assert_eq!(got.header("content-encoding"), "gzip");
    let mut read = String::new();
    flate2::read::GzDecoder::new(got.bytes()).read_to_string(&mut read).unwrap();
    assert_eq!(read, text);
    assert!(!parts(&origin, "/a").contains(&String::new()), "it was read in slices");
}

#[tokio::test]
async fn short_body_that_comes_as_one_part_is_not_asked_for_again() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    for (path, etag) in [("/strong", "\"a\""), ("/weak", "W/\"a\""), ("/none", "")] {
        origin.put(path, Page::new("short").with("etag", etag));
        let got = part(&child, path, "bytes=1-2").await;
        assert_eq!((got.status, got.text(), got.header("content-range")), (206, "ho", "bytes 1-2/5"), "{path}");
        child.settled().await;
        parent.settled().await;
        let got = child.get(path).await;
        assert_eq!((got.status, got.text(), got.header("content-length")), (200, "short", "5"), "{path}");
        assert_eq!((got.header("x-cache"), got.header("content-range")), ("HIT from child", ""), "{path}");
        assert_eq!(origin.seen(path).len(), 1, "{path}");
    }
    // It was asked for without a coding, and another variant was wanted.
    origin.put("/vary", Page::new("short").with("vary", "accept-encoding"));
    parent.get_with("/vary", &[("range", "bytes=1-2"), ("accept-encoding", "gzip")]).await;
    let seen = origin.seen("/vary");
    assert!(seen.len() == 2 && seen[1].headers["accept-encoding"] == "gzip", "{seen:?}");
    // The part of a response that is for one user is sent as the origin sends it.
    origin.put("/mine", Page::new("short").with("cache-control", "private"));
    assert_eq!(part(&child, "/mine", "bytes=1-2").await.status, 206);
}

#[tokio::test]
async fn head_of_a_film_that_changed_does_not_fetch_the_film() {
    for directives in ["max-age=1", "max-age=1, stale-while-revalidate=60"] {
        let Stage { origin, node, clock } = Stage::set().await;
        origin.put("/v", Page::new(long(20, 1)).with("cache-control", directives));
        part(&node, "/v", "bytes=0-99").await;
        node.settled().await;
        clock.advance(Duration::from_secs(5));
        node.in_contact();
        origin.put("/v", Page::new(long(21, 2)));
        let got = ask(node.address, Method::HEAD, "/v", &[("range", "bytes=9000-")], false).await;
        assert_eq!(got.status, 200, "{directives}");
        node.settled().await;
        assert_eq!(parts(&origin, "/v"), ["bytes=0-999", "bytes=0-999"], "{directives}");
        let got = ask(node.address, Method::HEAD, "/v", &[], false).await;
        assert_eq!((got.header("content-length"), got.header("x-cache")), ("21500", "HIT from edge"), "{directives}");
    }
}

#[tokio::test]
async fn head_of_a_whole_film_fetches_no_more_than_a_slice_if_it_changed() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    let body = long(20, 1);
    let film = |body: &Bytes| Page::new(body.clone()).with("cache-control", "max-age=60");
    let head = async || ask(child.address, Method::HEAD, "/v", &[], false).await;
    let after = async |seconds| {
        for node in [&child, &parent] {
            node.settled().await;
        }
        clock.advance(Duration::from_secs(seconds));
        for node in [&child, &parent] {
            node.in_contact();
        }
    };
    origin.put("/v", film(&body));
    child.get("/v").await;
    after(61).await;
    assert_eq!(head().await.header("content-length"), "20500");
    after(0).await;
    let got = child.get("/v").await;
    assert_eq!((got.bytes(), got.header("x-cache")), (&body[..], "HIT from child"), "the whole was confirmed");
    assert_eq!(origin.seen("/v").len(), 2);
    after(61).await;
    origin.put("/v", film(&long(21, 2)));
    assert_eq!(head().await.header("content-length"), "21500");
    after(0).await;
    assert_eq!(parts(&origin, "/v")[2..], ["bytes=0-999"]);
    assert_eq!(child.get("/v").await.bytes(), &long(21, 2));
}

#[tokio::test]
async fn head_of_what_cannot_be_validated_asks_for_the_head_alone() {
    let Stage { origin, node, clock } = Stage::set().await;
    let page = Page::new("a body").with("etag", "").with("cache-control", "max-age=1, stale-if-error=60");
    origin.put("/a", page.clone());
    node.get("/a").await;
    node.settled().await;
    clock.advance(Duration::from_secs(5));
    node.in_contact();
    let head = async || ask(node.address, Method::HEAD, "/a", &[], false).await;
    let got = head().await;
    assert_eq!((got.status, got.header("content-length"), got.header("x-cache")), (200, "6", "MISS from edge"));
    origin.put("/a", Page { status: 503, ..page });
    let got = head().await;
    assert_eq!((got.status, got.header("x-cache")), (200, "STALE from edge"), "the stored response stands in");
    node.refresh("/a", Mode::Delete);
    node.in_contact();
    assert_eq!(head().await.status, 503, "but not one that was refreshed");
    let methods: Vec<Method> = origin.seen("/a").into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, [Method::GET, Method::HEAD, Method::HEAD, Method::HEAD]);
}

#[tokio::test]
async fn head_of_what_is_not_stored_takes_its_conditions_along() {
    let Tiers { origin, child, .. } = tiers().await;
    origin.put("/a", Page::new("a body").with("etag", "\"v1\""));
    for (tag, status) in [("\"v1\"", 304), ("\"v0\"", 200)] {
        let asks = [("if-none-match", tag), ("range", "bytes=0-1"), ("if-range", tag)];
        let got = ask(child.address, Method::HEAD, "/a", &asks, false).await;
        assert_eq!((got.status, got.header("etag")), (status, "\"v1\""), "{tag}");
        let seen = origin.seen("/a").pop().unwrap();
        assert_eq!((seen.method, &seen.headers[IF_NONE_MATCH]), (Method::HEAD, &tag.parse().unwrap()));
        assert!(!seen.headers.contains_key(RANGE), "HEAD has no ranges");
    }
}
