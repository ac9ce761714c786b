//! Scopes that a URL alone does not decide: expressions, bare paths, tags, and domains that change hands.

use model::{Pattern, Tag};

use super::tiers::{Tiers, tiers};
use super::*;

fn regex(path: &str) -> Scope {
    Scope::Regex(Pattern::parse(UrlKey::new(DOMAIN, path).unwrap()).unwrap())
}

fn ignore_params(path: &str) -> Scope {
    Scope::IgnoreParams { host: DOMAIN.into(), path: path.into() }
}

pub(super) fn tag(tag: &str) -> Scope {
    Scope::Tag { domain: DomainName::parse(DOMAIN).unwrap(), tag: Tag::parse(tag).unwrap() }
}

pub(super) fn invalidate(scope: Scope, mode: Mode) -> Entry {
    Entry::Invalidate(vec![Invalidation { scope, mode }])
}

pub(super) fn domain_of(node: &TestNode) -> Domain {
    Domain::clone(node.knowing.known().knowledge.domains.values().next().unwrap())
}

#[tokio::test]
async fn every_scope_is_in_force_at_both_tiers_and_covers_no_more_than_it_says() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let cases = [
        // scope                  covered                     not covered
        (regex("/n[0-9]/[^/]*.html"), "/n1/a.html", "/n1/b/a.html"),
        (regex("/q.*v=[0-9]"), "/q?v=1", "/q?v=x"),
        (ignore_params("/p"), "/p?x=1", "/p/x"),
        (ignore_params("/p"), "/p", "/pp"),
        (tag("t-1"), "/tagged", "/untagged"),
        (Scope::Domain(DomainName::parse(DOMAIN).unwrap()), "/anything", ""),
    ];
    let page = |path: &str, body: &str| {
        let page = Page::new(body.to_owned());
        if path == "/tagged" { page.with("cache-tag", "t-0, t-1") } else { page }
    };
    for (scope, covered, other) in cases {
        for mode in [Mode::Expire, Mode::Delete, Mode::Expire] {
            let paths: Vec<&str> = [covered, other].into_iter().filter(|path| !path.is_empty()).collect();
            for path in &paths {
                origin.put(path, page(path, "old"));
                child.apply(refresh(path, Mode::Delete));
                parent.apply(refresh(path, Mode::Delete));
                assert_eq!(child.get(path).await.text(), "old");
                child.settled().await;
                parent.settled().await;
                origin.put(path, page(path, "new"));
            }
            let asked = origin.seen(covered).len();
            child.apply(invalidate(scope.clone(), mode));
            parent.apply(invalidate(scope.clone(), mode));
            let got = child.get(covered).await;
            assert_eq!((got.text(), got.header("x-cache")), ("new", "MISS from parent"), "{scope:?} {mode:?}");
            let confirming = origin.seen(covered)[asked].headers.contains_key(IF_NONE_MATCH);
            assert_eq!(confirming, mode == Mode::Expire, "{scope:?} {mode:?}");
            child.settled().await;
            assert_eq!(child.get(covered).await.header("x-cache"), "HIT from child", "{scope:?}: once is enough");
            if !other.is_empty() {
                assert_eq!(child.get(other).await.text(), "old", "{scope:?} does not cover {other}");
            }
        }
    }
}

#[tokio::test]
async fn field_that_a_confirmation_brings_reaches_every_tier_and_tags_count_from_then_on() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let page = |body: &str| Page::new(body.to_owned()).with("etag", "\"v1\"");
    origin.put("/a", page("old").with("cache-tag", "before").with("x-policy", "1"));
    assert_eq!(child.get("/a").await.text(), "old");
    child.settled().await;
    parent.settled().await;
    // The body stays the same, its headers change.
    origin.put("/a", page("old").with("cache-tag", "after").with("x-policy", "2"));
    for node in [&child, &parent] {
        node.apply(refresh("/a", Mode::Expire));
    }
    let got = child.get("/a").await;
    assert_eq!((got.text(), got.header("x-cache"), got.header("x-policy")), ("old", "REVALIDATED from parent", "2"));
    child.settled().await;
    parent.settled().await;
    let hit = child.get("/a").await;
    assert_eq!((hit.header("x-cache"), hit.header("x-policy")), ("HIT from child", "2"));
    let confirmed = child.get_with("/a", &[("if-none-match", "\"v1\"")]).await;
    assert_eq!((confirmed.status, confirmed.header("x-policy")), (304, "2"), "a browser learns of it, too");

    origin.put("/a", page("new").with("etag", "\"v2\"").with("cache-tag", "after"));
    for node in [&child, &parent] {
        node.apply(invalidate(tag("before"), Mode::Expire));
    }
    assert_eq!(child.get("/a").await.text(), "old", "it has that tag no more");
    for node in [&child, &parent] {
        node.apply(invalidate(tag("after"), Mode::Expire));
    }
    assert_eq!(child.get("/a").await.text(), "new");
}

#[tokio::test]
async fn tag_refresh_reaches_a_body_that_a_lagging_parent_still_has() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let page = |body: &str| Page::new(body.to_owned()).with("surrogate-key", "news front");
    for path in ["/held", "/not-held"] {
        origin.put(path, page("old"));
        parent.get(path).await;
    }
    assert_eq!(child.get("/held").await.text(), "old");
    child.settled().await;
    parent.settled().await;
    for path in ["/held", "/not-held"] {
        origin.put(path, page("new"));
    }
    // Only the child has applied the entry. It knows the tags of one body and nothing of the other: the parent must not
    // answer either from its store, or the child would keep the old bytes as if they reflected the refresh.
    child.apply(invalidate(tag("front"), Mode::Expire));
    for path in ["/held", "/not-held"] {
        assert_eq!(child.get(path).await.text(), "new", "{path}");
        child.settled().await;
        assert_eq!((child.get(path).await.text(), parent.get(path).await.text()), ("new", "new"), "{path}");
    }
}

#[tokio::test]
async fn fetch_that_a_tag_refresh_overtakes_is_sent_to_nobody_when_it_brings_the_tag() {
    let Stage { origin, node, .. } = Stage::set().await;
    for (tags, expected) in [("other, t", "new"), ("other", "old")] {
        let path = format!("/{expected}");
        let gate = Arc::new(Semaphore::new(0));
        let page = |body: &str| Page::new(body.to_owned()).with("cache-tag", tags);
        origin.put(&path, Page { head_gate: Some(gate.clone()), ..page("old") });
        let address = node.address;
        let asked = path.clone();
        let first = tokio::spawn(async move { ask(address, Method::GET, &asked, &[], false).await });
        origin.asked(&path, 1).await;
        origin.put(&path, page("new"));
        node.apply(invalidate(tag("t"), Mode::Expire));
        gate.add_permits(1);
        // Only the head of the response tells whether it is covered.
        assert_eq!(first.await.unwrap().text(), expected, "{tags}");
    }
}

#[tokio::test]
async fn answers_that_are_not_stored_are_judged_by_their_tags_too() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    let page = |body: &str| Page::new(body.to_owned()).with("cache-control", "no-store").with("cache-tag", "t");
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..page("old") });
    let address = node.address;
    let first = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    origin.asked("/a", 1).await;
    origin.put("/a", page("new"));
    node.apply(invalidate(tag("t"), Mode::Expire));
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().text(), "new");
}

#[tokio::test]
async fn tags_stay_with_a_body_whose_confirmation_does_not_repeat_them() {
    let Stage { origin, node, .. } = Stage::set().await;
    let page = |body: &str| Page::new(body.to_owned()).with("etag", "\"v1\"");
    origin.put("/a", page("old").with("cache-tag", "t"));
    node.get("/a").await;
    node.settled().await;
    origin.put("/a", page("old")); // the 304 names no tags
    node.refresh("/a", Mode::Expire);
    assert_eq!(node.get("/a").await.header("x-cache"), "REVALIDATED from edge");
    node.settled().await;
    origin.put("/a", page("new").with("etag", "\"v2\""));
    node.apply(invalidate(tag("t"), Mode::Expire));
    assert_eq!(node.get("/a").await.text(), "new");
}

#[tokio::test]
async fn domain_that_names_another_tag_header_has_everything_asked_for_again() {
    let Stage { origin, node, .. } = Stage::set().await;
    let page = |body: &str| Page::new(body.to_owned()).with("x-tags", "mine").with("cache-tag", "usual");
    origin.put("/a", page("old"));
    node.get("/a").await;
    node.settled().await;
    origin.put("/a", page("new"));
    node.apply(invalidate(tag("usual"), Mode::Expire));
    let domain = Domain { tag_header: Some("x-tags".to_owned()), ..domain_of(&node) };
    node.apply(Entry::Domain(domain.clone()));
    assert_eq!(node.get("/a").await.text(), "new", "covered under the old name, whatever the new one says");
    node.settled().await;
    node.apply(Entry::Domain(domain));
    assert_eq!(
        node.get("/a").await.header("x-cache"),
        "HIT from edge",
        "an entry that changes no header expires nothing"
    );
    origin.put("/a", page("newer"));
    node.apply(invalidate(tag("usual"), Mode::Expire));
    assert_eq!(node.get("/a").await.text(), "new", "the usual header is looked at no more");
    node.apply(invalidate(tag("mine"), Mode::Expire));
    assert_eq!(node.get("/a").await.text(), "newer");
}

#[tokio::test]
async fn host_that_passes_from_a_wildcard_to_its_own_domain_and_back_is_asked_for_again() {
    let Stage { origin, node, .. } = Stage::set().await;
    let wildcard = Domain { name: DomainName::parse(".wide.test").unwrap(), ..domain_of(&node) };
    let own = Domain { name: DomainName::parse("x.wide.test").unwrap(), ..domain_of(&node) };
    node.apply(Entry::Domain(wildcard.clone()));
    for (at, change) in [Entry::Domain(own.clone()), Entry::DomainRemoved(own.name.clone())].into_iter().enumerate() {
        origin.put("/a", Page::new(format!("{at}")));
        node.apply(Entry::Invalidate(vec![Invalidation {
            scope: Scope::Directory { host: "x.wide.test".into(), path: "/".into() },
            mode: Mode::Delete,
        }]));
        node.get_with("/a", &[("host", "x.wide.test")]).await;
        node.settled().await;
        origin.put("/a", Page::new("new"));
        node.apply(change);
        assert_eq!(node.get_with("/a", &[("host", "x.wide.test")]).await.text(), "new", "change {at}");
        node.settled().await;
    }
}

#[tokio::test]
async fn header_of_a_domain_that_went_offline_meanwhile_is_not_sent() {
    let Stage { origin, node, .. } = Stage::set().await;
    let gate = Arc::new(Semaphore::new(0));
    origin.put("/a", Page { head_gate: Some(gate.clone()), ..Page::new("a") });
    let address = node.address;
    let waiting = tokio::spawn(async move { ask(address, Method::GET, "/a", &[], false).await });
    origin.asked("/a", 1).await;
    node.apply(Entry::Domain(Domain { online: false, ..domain_of(&node) }));
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().status, 403);
    assert_eq!(node.get("/a").await.status, 403);
    node.apply(Entry::Domain(Domain { online: true, ..domain_of(&node) }));
    node.settled().await;
    assert_eq!(node.get("/a").await.header("x-cache"), "HIT from edge", "what it has it keeps meanwhile");
}

#[tokio::test]
async fn sweep_drops_what_expressions_and_tags_cover_and_keeps_the_rest() {
    let Stage { origin, node, .. } = Stage::set().await;
    let pages = [("/t", "t"), ("/other", "u"), ("/r1", ""), ("/rx", ""), ("/p?1", ""), ("/p/1", "")];
    for (path, tags) in pages {
        origin.put(path, Page::new("x").with("cache-tag", tags));
        node.get(path).await;
    }
    node.settled().await;
    for scope in [tag("t"), regex("/r[0-9]"), ignore_params("/p")] {
        node.apply(invalidate(scope, Mode::Expire));
    }
    let known = node.knowing.known().clone();
    let applied = node.knowing.applied();
    crate::sweep::retire(node.pipeline.store(), &node.knowing, &known, applied).await.unwrap();
    node.knowing.index().forget(applied);
    assert_eq!(node.knowing.index().len(), 0);
    for (path, hit) in [("/t", false), ("/other", true), ("/r1", false), ("/rx", true), ("/p?1", false), ("/p/1", true)]
    {
        assert_eq!(node.get(path).await.header("x-cache") == "HIT from edge", hit, "{path}");
    }
}
