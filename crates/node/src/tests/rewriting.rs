//! Keys that differ from the requested URL: a refresh of any URL of a body, or of a scope that URL lies in, covers the
//! body.

use model::{Job, Outcome};

use super::functions::{Set, regex, with};
use super::tiers::{Tiers, tiers};
use super::*;

fn ignore_params(path: &str) -> Entry {
    let scope = Scope::IgnoreParams { host: DOMAIN.into(), path: path.into() };
    Entry::Invalidate(vec![Invalidation { scope, mode: Mode::Expire }])
}

/// Every refresh that covers one of `urls`, which share a body that is fetched from the last of them, applies to all of
/// them, at both tiers and before a parent has applied it.
async fn refreshes_hold(set: Set<'_>, urls: [&str; 3], refreshes: Vec<Entry>) {
    let Tiers { origin, child, parent, .. } = tiers().await;
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    for (round, entry) in refreshes.into_iter().enumerate() {
        let body = |version: &str| Page::new(format!("{round} {version}"));
        let put = |version: &str| urls.map(|url| origin.put(url, body(version)));
        put("old");
        for node in [&child, &parent] {
            node.refresh("/", Mode::Delete);
        }
        let first = child.get(urls[round % 3]).await;
        assert_eq!(first.text(), format!("{round} old"));
        child.settled().await;
        parent.settled().await;
        for url in urls {
            assert_eq!(child.get(url).await.header("x-cache"), "HIT from child", "{url} has the same body");
        }
        put("new");
        child.apply(entry.clone());
        for shift in 0..3 {
            let url = urls[(round + shift) % 3];
            let got = child.get(url).await;
            assert_eq!(got.text(), format!("{round} new"), "{entry:?}: {url} at the child, while its parent lags");
            child.settled().await;
            parent.settled().await;
        }
        parent.apply(entry.clone());
        for url in urls {
            assert_eq!(parent.get(url).await.text(), format!("{round} new"), "{entry:?}: {url} at the parent");
        }
        put("newest");
        for node in [&child, &parent] {
            node.apply(entry.clone());
        }
        for url in urls {
            assert_eq!(child.get(url).await.text(), format!("{round} newest"), "{entry:?}: {url}");
        }
        child.settled().await;
        parent.settled().await;
    }
}

#[tokio::test]
async fn refresh_of_a_rewritten_url_and_of_what_it_becomes_takes_the_body() {
    let set: Set<'_> = &[("host_redirect", &[("regex", "^/(x|y)/(.*)$"), ("replacement", "/k/$2"), ("flag", "break")])];
    let refreshes = vec![
        refresh("/x/f", Mode::Expire),
        refresh("/y/f", Mode::Delete),
        refresh("/k/f", Mode::Expire),
        refresh("/y/", Mode::Expire),
        refresh("/x/", Mode::Delete),
        refresh("/k/", Mode::Expire),
        ignore_params("/y/f"),
        regex("/y/[a-z]"),
        regex("/x/.*"),
    ];
    refreshes_hold(set, ["/x/f", "/y/f", "/k/f"], refreshes).await;
}

#[tokio::test]
async fn refresh_of_a_url_whose_query_is_rewritten_takes_the_body() {
    let set: Set<'_> = &[(
        "host_redirect",
        &[("regex", r"^/p\?id=(\d+).*$"), ("replacement", "/p/$1.html"), ("flag", "enhance_break")],
    )];
    let refreshes =
        vec![refresh("/p?id=7", Mode::Expire), ignore_params("/p"), refresh("/", Mode::Expire), regex("/p?id=[0-9]")];
    refreshes_hold(set, ["/p?id=7", "/p?id=7&x", "/p/7.html"], refreshes).await;
}

#[tokio::test]
async fn rewritten_urls_are_asked_for_as_users_ask_until_the_origin() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let set: Set<'_> = &[
        ("host_redirect", &[("regex", "^/old/"), ("replacement", "/twice/old/"), ("flag", "")]),
        ("host_redirect", &[("regex", "^/twice/old/$"), ("replacement", "/new/a"), ("flag", "break")]),
        ("host_redirect", &[("regex", "^/new/"), ("replacement", "/wrong"), ("flag", "break")]),
        ("back_to_origin_url_rewrite", &[("source_url", "^/new/"), ("target_url", "/there/"), ("flag", "break")]),
    ];
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    origin.put("/there/a?q", Page::new("there"));
    assert_eq!(child.get("/old/?q").await.text(), "there", "each node applies the rules once, to what users ask for");
    parent.settled().await;
    assert_eq!(parent.get("/old/?q").await.header("x-cache"), "HIT from parent");
}

#[tokio::test]
async fn users_are_sent_elsewhere_and_nodes_and_prefetches_are_not() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let set: Set<'_> = &[
        ("host_redirect", &[("regex", "^/moved/(.*)$"), ("replacement", "/$1"), ("flag", "redirect")]),
        (
            "host_redirect",
            &[
                ("regex", "^/gone$"),
                ("replacement", "https://other.test/here"),
                ("flag", "enhance_redirect"),
                ("rewrite_method", "307"),
            ],
        ),
    ];
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    origin.put("/moved/a", Page::new("a"));
    for (path, status, location) in [
        ("/moved/a?x=1", 302, "http://www.example.test/a?x=1"),
        ("/moved//evil.test/", 302, "http://www.example.test//evil.test/"),
        ("/gone", 307, "https://other.test/here"),
    ] {
        let got = child.get(path).await;
        assert_eq!((got.status, got.header("location")), (status, location), "{path}");
    }
    let as_child = [("warmfront-credential", PEERS), ("warmfront-fence", "log:1")];
    assert_eq!(parent.get_with("/moved/a", &as_child).await.text(), "a");
    let url = format!("http://{DOMAIN}/moved/a");
    let job = Job { chunk: 1, index: 0, url, headers: Vec::new(), begin_after: Revision(0), ..Job::default() };
    let outcome = warmed(&child.pipeline, &job).await;
    assert!(matches!(outcome, Outcome::Resident { .. }), "{outcome:?}");
}

#[tokio::test]
async fn refresh_of_any_url_of_a_made_up_key_takes_the_body() {
    let uri = r#"[{"uri_to_rewrite":"^/(x|y)/","ai_uri_regex":"/k/"}]"#;
    let args = r#"[{"args_operation_type":"delete","args":"s"}]"#;
    let set: Set<'_> = &[("self_defined_cachekey", &[("uri", uri), ("args", args)])];
    let refreshes = vec![
        refresh("/x/f?s=1", Mode::Expire),
        refresh("/y/f", Mode::Delete),
        refresh("/k/f", Mode::Expire),
        refresh("/y/", Mode::Expire),
        refresh("/x/", Mode::Delete),
        refresh("/k/", Mode::Expire),
        ignore_params("/y/f"),
        regex("/y/f?s=[0-9]"),
        regex("/x/.*"),
    ];
    refreshes_hold(set, ["/x/f?s=1", "/y/f", "/k/f?s=2"], refreshes).await;
}

#[tokio::test]
async fn headers_of_a_made_up_key_tell_bodies_apart_and_one_refresh_takes_all() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let set: Set<'_> = &[("self_defined_cachekey", &[("headers", "X-Client x-client X-Sort")])];
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    origin.put("/a", Page::new("first"));
    let get = async |client: &str| {
        let got = child.get_with("/a", &[("x-client", client)]).await;
        child.settled().await;
        parent.settled().await;
        (got.text().to_owned(), got.header("x-cache").to_owned(), got.header("vary").to_owned())
    };
    let said = |text: &str, x_cache: &str| (text.to_owned(), x_cache.to_owned(), String::new());
    assert_eq!(get("pc").await, said("first", "MISS from parent"));
    assert_eq!(get("pc").await, said("first", "HIT from child"));
    origin.put("/a", Page::new("second"));
    assert_eq!(get("phone").await, said("second", "MISS from parent"));
    assert_eq!(get("phone").await, said("second", "HIT from child"));
    assert_eq!(get("pc").await, said("first", "HIT from child"), "each has its own");
    for node in [&child, &parent] {
        node.refresh("/a", Mode::Expire);
    }
    assert_eq!(get("pc").await, said("second", "MISS from parent"));
    assert_eq!(get("phone").await.0, "second");
    // A concurrent request under another key does not get this one.
    origin.put("/b", Page::new("b"));
    let address = child.address;
    let ask_as =
        |client: &'static str| async move { ask(address, Method::GET, "/b", &[("x-client", client)], false).await };
    let (one, other) = tokio::join!(ask_as("pc"), ask_as("phone"));
    assert_eq!((one.text(), other.text()), ("b", "b"));
    assert_eq!(origin.seen("/b").len(), 2);
}

#[tokio::test]
async fn other_names_that_a_request_gives_itself_reach_the_origin_only_as_part_of_the_key() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    origin.put("/a", Page::new("a").with("cache-control", "max-age=60"));
    let poison = [("x-forwarded-host", "evil.test"), ("x-original-url", "/admin"), ("x-forwarded-proto", "https")];
    assert_eq!(child.get_with("/a", &poison).await.status, 200);
    let seen = &origin.seen("/a")[0].headers;
    assert!(!seen.contains_key("x-forwarded-host") && !seen.contains_key("x-original-url"), "{seen:?}");
    assert_eq!(seen["x-forwarded-proto"], "https", "a balancer before the node says so");
    let set: Set<'_> = &[("self_defined_cachekey", &[("headers", "X-Forwarded-Host")])];
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    for host in ["one.test", "two.test"] {
        assert_eq!(child.get_with("/a", &[("x-forwarded-host", host)]).await.status, 200);
        assert_eq!(origin.seen("/a").last().unwrap().headers["x-forwarded-host"], host);
    }
}

const OTHER: &str = "other.example.test";

/// A domain that shares the cache of the domain of the tests.
fn sharing(node: &TestNode) -> Entry {
    let Entry::Domain(domain) = with(node, &[("rewrite_host", &[("share_host", DOMAIN)])]) else { panic!("a domain") };
    Entry::Domain(Domain { name: DomainName::parse(OTHER).unwrap(), ..domain })
}

fn forget(scope: Scope) -> Entry {
    Entry::Invalidate(vec![Invalidation { scope, mode: Mode::Expire }])
}

#[tokio::test]
async fn refresh_of_either_of_two_domains_that_share_takes_the_body() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let entry = sharing(&child);
    for node in [&child, &parent] {
        node.apply(entry.clone());
    }
    let name = |name: &str| DomainName::parse(name).unwrap();
    let tag = |domain: &str| Scope::Tag { domain: name(domain), tag: model::Tag::parse("t").unwrap() };
    let key = |host: &str, path: &str| UrlKey::new(host, path).unwrap();
    let pattern = |host: &str| Scope::Regex(model::Pattern::parse(key(host, "/d/[a-z]")).unwrap());
    let mut scopes = vec![];
    for host in [OTHER, DOMAIN] {
        scopes.extend([
            Scope::File(key(host, "/d/a")),
            Scope::Directory { host: host.into(), path: "/d/".into() },
            Scope::IgnoreParams { host: host.into(), path: "/d/a".into() },
            Scope::Domain(name(host)),
            tag(host),
            pattern(host),
        ]);
    }
    for (round, scope) in scopes.into_iter().enumerate() {
        let put = |version: &str| origin.put("/d/a", Page::new(format!("{round} {version}")).with("cache-tag", "t"));
        let hosts = if round % 2 == 0 { [DOMAIN, OTHER] } else { [OTHER, DOMAIN] };
        let get = async |node: &TestNode, host: &str| {
            let got = node.get_with("/d/a", &[("host", host)]).await;
            child.settled().await;
            parent.settled().await;
            (got.text().to_owned(), got.header("x-cache").to_owned())
        };
        put("old");
        for node in [&child, &parent] {
            node.refresh("/", Mode::Delete);
        }
        assert_eq!(get(&child, hosts[0]).await, (format!("{round} old"), "MISS from parent".to_owned()));
        let asked = origin.seen("/d/a");
        assert_eq!(asked.last().unwrap().headers[HOST], hosts[0], "the origin is asked as users ask");
        assert_eq!(get(&child, hosts[1]).await.1, "HIT from child");
        put("new");
        child.apply(forget(scope.clone()));
        for host in hosts {
            assert_eq!(get(&child, host).await.0, format!("{round} new"), "{scope:?}: {host}, while the parent lags");
        }
        parent.apply(forget(scope.clone()));
        put("newest");
        for node in [&child, &parent] {
            node.apply(forget(scope.clone()));
        }
        for host in hosts {
            assert_eq!(get(&child, host).await.0, format!("{round} newest"), "{scope:?}: {host}");
        }
    }
}

#[tokio::test]
async fn what_a_domain_was_refreshed_of_before_it_shares_holds_for_what_it_shares() {
    let Stage { origin, node, .. } = Stage::set().await;
    let Entry::Domain(sharing) = sharing(&node) else { panic!("a domain") };
    node.apply(Entry::Domain(Domain { functions: model::Functions::default(), ..sharing.clone() }));
    origin.put("/a", Page::new("old"));
    assert_eq!(node.get("/a").await.text(), "old");
    node.settled().await;
    origin.put("/a", Page::new("new"));
    node.apply(forget(Scope::File(UrlKey::new(OTHER, "/a").unwrap())));
    assert_eq!(node.get("/a").await.text(), "old", "it was not said of this one");
    node.apply(Entry::Domain(sharing));
    assert_eq!(node.get_with("/a", &[("host", OTHER)]).await.text(), "new");
}

#[tokio::test]
async fn domain_that_shares_is_served_though_the_other_is_not() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(sharing(&node));
    origin.put("/a", Page::new("old"));
    let get = async |host: &str| {
        let got = node.get_with("/a", &[("host", host)]).await;
        node.settled().await;
        (got.status, got.header("x-cache").split(' ').next().unwrap_or_default().to_owned())
    };
    let served = |x_cache: &str| (200, x_cache.to_owned());
    assert_eq!(get(DOMAIN).await, served("MISS"));
    let domain = node.knowing.known().knowledge.domain(DOMAIN).unwrap().clone();
    node.apply(Entry::Domain(Domain { online: false, ..domain.clone() }));
    assert_eq!((get(DOMAIN).await.0, get(OTHER).await), (403, served("HIT")));
    node.apply(Entry::DomainRemoved(domain.name.clone()));
    assert_eq!((get(DOMAIN).await.0, get(OTHER).await), (404, served("MISS")));
    assert_eq!(get(OTHER).await, served("HIT"));
    origin.put("/a", Page::new("new"));
    node.apply(forget(Scope::Domain(DomainName::parse(OTHER).unwrap())));
    assert_eq!(node.get_with("/a", &[("host", OTHER)]).await.text(), "new");
}
