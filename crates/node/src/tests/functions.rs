//! What a domain's functions do, as users, children and the origin see it.

use std::io::Read;

use model::{Function, Functions, Job, Outcome, Pattern};

use super::tiers::{Tiers, tiers};
use super::*;

pub(super) type Set<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)])];

/// A log entry: the domain of the tests with these functions.
pub(super) fn with(node: &TestNode, set: Set<'_>) -> Entry {
    let list = set.iter().zip(1..).map(|((name, args), id)| {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Function { id, name: (*name).to_owned(), args, parent: None }
    });
    let list: Vec<Function> = list.collect();
    model::functions::check(&list).unwrap();
    let domain = scopes::domain_of(node);
    Entry::Domain(Domain { functions: Functions::new(list), ..domain })
}

pub(super) fn regex(path: &str) -> Entry {
    let scope = Scope::Regex(Pattern::parse(UrlKey::new(DOMAIN, path).unwrap()).unwrap());
    Entry::Invalidate(vec![Invalidation { scope, mode: Mode::Expire }])
}

#[tokio::test]
async fn rules_about_time_hold_at_both_tiers_and_change_with_a_confirmation() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    let page = Page::new("kept").with("cache-control", "max-age=10");
    origin.put("/a.jpg", page.clone());
    origin.put("/secret.jpg", page.with("cache-control", "no-store"));
    let apply = |set: Set<'_>| [&child, &parent].map(|node| node.apply(with(node, set)));
    let after = async |secs: u64, path: &str| {
        clock.advance(Duration::from_secs(secs));
        child.in_contact();
        parent.in_contact();
        let got = child.get(path).await;
        child.settled().await;
        parent.settled().await;
        got.header("x-cache").to_owned()
    };
    assert_eq!(after(0, "/a.jpg").await, "MISS from parent");
    apply(&[("filetype_based_ttl_set", &[("file_type", "jpg"), ("ttl", "60")])]);
    assert_eq!(after(0, "/a.jpg").await, "REVALIDATED from parent", "what came before the rule is confirmed under it");
    assert_eq!(after(59, "/a.jpg").await, "HIT from child", "longer than the origin says");
    assert_eq!(after(1, "/a.jpg").await, "REVALIDATED from parent");
    assert_eq!(after(0, "/secret.jpg").await, "MISS from parent");
    assert_eq!(after(0, "/secret.jpg").await, "MISS from parent", "an origin may forbid it");
    apply(&[("filetype_based_ttl_set", &[("file_type", "jpg"), ("ttl", "60"), ("swift_no_cache_low", "on")])]);
    // Another path: the first is known for a while to have a response that cannot be shared.
    origin.put("/open.jpg", Page::new("open").with("cache-control", "no-store"));
    after(0, "/open.jpg").await;
    assert_eq!(after(0, "/open.jpg").await, "HIT from child", "unless the rule says that it does not count");
    apply(&[]);
    assert_eq!(after(0, "/a.jpg").await, "REVALIDATED from parent");
    assert_eq!(after(10, "/a.jpg").await, "REVALIDATED from parent", "without a rule the origin's word counts");
}

#[tokio::test]
async fn urls_of_one_key_share_a_body_and_a_refresh_of_either_takes_it() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    let set: Set<'_> = &[("set_hashkey_args", &[("hashkey_args", "id"), ("disable", "on")])];
    for node in [&child, &parent] {
        node.apply(with(node, set));
    }
    let refreshes = [
        refresh("/a?x=9&id=1", Mode::Expire),
        refresh("/a?id=1", Mode::Delete),
        refresh("/", Mode::Expire),
        regex("/a?x=[0-9].*"), // in terms of the URLs that users send
        regex("/a"),           // covers more than it says, for a key that stands for many URLs
    ];
    for (round, entry) in refreshes.into_iter().enumerate() {
        let body = |version: &str| Page::new(format!("{round} {version}"));
        for path in ["/a?x=1&id=1", "/a?x=2&id=1", "/a?x=2&id=2"] {
            origin.put(path, body("old"));
            for node in [&child, &parent] {
                node.refresh(path, Mode::Delete);
            }
        }
        assert_eq!(child.get("/a?x=1&id=1").await.text(), format!("{round} old"), "the origin is asked as users ask");
        child.settled().await;
        assert_eq!(child.get("/a?x=2&id=1").await.header("x-cache"), "HIT from child");
        assert_eq!(child.get("/a?x=2&id=2").await.header("x-cache"), "MISS from parent", "another key");
        child.settled().await;
        origin.put("/a?x=2&id=1", body("new"));
        for node in [&child, &parent] {
            node.apply(entry.clone());
        }
        assert_eq!(child.get("/a?x=2&id=1").await.text(), format!("{round} new"), "{entry:?}");
        child.settled().await;
        let again = child.get("/a?x=1&id=1").await;
        assert_eq!((again.text().to_owned(), again.header("x-cache")), (format!("{round} new"), "HIT from child"));
    }
    origin.put("/a?x=2&id=2", Page::new("other, new"));
    child.refresh("/a?x=3&id=1", Mode::Expire);
    parent.refresh("/a?x=3&id=1", Mode::Expire);
    assert_eq!(
        child.get("/a?x=2&id=2").await.header("x-cache").split(' ').next(),
        Some("MISS"),
        "the last expression took it"
    );
}

#[tokio::test]
async fn a_body_kept_under_another_kind_of_key_is_nobodys() {
    let Stage { origin, node, .. } = Stage::set().await;
    let set: Set<'_> = &[("set_hashkey_args", &[("disable", "on")])];
    node.apply(with(&node, set));
    origin.put("/a?x=1", Page::new("of x"));
    origin.put("/a", Page::new("bare"));
    assert_eq!(node.get("/a?x=1").await.text(), "of x");
    node.settled().await;
    assert_eq!(node.get("/a").await.text(), "of x");
    node.apply(with(&node, &[]));
    assert_eq!(node.get("/a").await.text(), "bare", "what lay under the short key was of another URL");
    node.settled().await;
    node.apply(with(&node, set));
    assert_eq!(node.get("/a?x=1").await.text(), "of x", "and is not what was kept before either");
}

#[tokio::test]
async fn origins_are_asked_as_the_functions_say() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(with(
        &node,
        &[
            ("set_req_host_header", &[("domain_name", "inner.example.test")]),
            ("set_req_header", &[("key", "X-From"), ("value", "edge")]),
            ("origin_request_header", &[("header_operation_type", "delete"), ("header_name", "User-Agent")]),
            (
                "origin_response_header",
                &[("header_operation_type", "add"), ("header_name", "X-Kept"), ("header_value", "yes")],
            ),
            ("back_to_origin_url_rewrite", &[("source_url", "^/v1/(.*)"), ("target_url", "/v2/$1"), ("flag", "break")]),
            ("back_to_origin_argument_rewrite", &[("delete_argument", "session")]),
            ("follow_302", &[("enable", "on"), ("max_tries", "2")]),
        ],
    ));
    origin.put("/v2/a?q=1", Page::new("rewritten"));
    let got = node.get_with("/v1/a?session=7&q=1", &[("user-agent", "browser")]).await;
    assert_eq!((got.text(), got.header("x-kept")), ("rewritten", "yes"));
    let seen = &origin.seen("/v2/a?q=1")[0];
    assert_eq!(
        (&seen.headers[HOST], &seen.headers["x-from"]),
        (&"inner.example.test".parse().unwrap(), &"edge".parse().unwrap())
    );
    assert!(!seen.headers.contains_key("user-agent"));
    node.settled().await;
    assert_eq!(node.get("/v1/a?session=7&q=1").await.header("x-cache"), "HIT from edge");

    let to = |path: &str| Page { status: 302, ..Page::new("") }.with("location", path).with("etag", "");
    origin.put("/once", to("/twice"));
    origin.put("/twice", to("/there"));
    origin.put("/there", Page::new("there"));
    origin.put("/thrice", to("/once"));
    assert_eq!(node.get("/once").await.text(), "there");
    let beyond = node.get("/thrice").await;
    assert_eq!((beyond.status, beyond.header("location")), (302, "/there"), "no more than two are followed");
}

#[tokio::test]
async fn redirect_to_the_site_by_its_name_is_followed_on_the_origin() {
    let Stage { origin, node, .. } = Stage::set().await;
    let to = |url: String| Page { status: 302, ..Page::new("") }.with("location", &url).with("etag", "");
    origin.put("/dir/", Page::new("there"));
    origin.put("/dir", to(format!("http://{DOMAIN}/dir/")));
    origin.put("/inner", to("http://inner.example.test/dir/".to_owned()));
    origin.put("/secure", to(format!("https://{DOMAIN}/dir/")));
    node.apply(with(&node, &[("follow_302", &[("enable", "on")])]));
    assert_eq!(node.get("/dir").await.text(), "there");
    assert_eq!(origin.seen("/dir/")[0].headers[HOST], DOMAIN);
    let inner = ("set_req_host_header", &[("domain_name", "inner.example.test")][..]);
    node.apply(with(&node, &[("follow_302", &[("enable", "on")]), inner]));
    assert_eq!(node.get("/inner").await.text(), "there");
    // Only the user can go where DNS leads from the name of the site.
    let got = node.get("/secure").await;
    assert_eq!((got.status, got.header("location")), (302, "https://www.example.test/dir/"));
    let hosts: Vec<_> = origin.seen("/dir/").iter().map(|seen| seen.headers[HOST].clone()).collect();
    assert_eq!(hosts, [DOMAIN, "inner.example.test"]);
}

#[tokio::test]
async fn redirect_to_another_server_does_not_take_along_what_lets_somebody_in() {
    let Stage { origin, node, .. } = Stage::set().await;
    let other = Origin::start().await;
    other.put("/there", Page::new("there"));
    let to = |url: &str| Page { status: 302, ..Page::new("") }.with("location", url).with("etag", "");
    origin.put("/away", to(&format!("http://{}/there", other.address)));
    origin.put("/near", to("/here"));
    origin.put("/here", Page::new("here"));
    for (retain, kept) in [("off", false), ("on", true)] {
        node.apply(with(
            &node,
            &[
                ("follow_302", &[("enable", "on"), ("retain_header", retain)]),
                ("set_req_header", &[("key", "X-Secret"), ("value", "s")]),
            ],
        ));
        let user =
            [("authorization", "Basic eDp5"), ("cookie", "a=b"), ("cache-control", "no-store"), ("accept", "a/b")];
        assert_eq!(node.get_with("/away", &user).await.text(), "there");
        let seen = other.seen("/there").pop().unwrap().headers;
        for name in ["authorization", "cookie", "x-secret"] {
            assert_eq!(seen.contains_key(name), kept, "{retain} {name}");
        }
        assert!(seen.contains_key("accept"));
        assert_eq!(node.get_with("/near", &user).await.text(), "here");
        assert!(origin.seen("/here").pop().unwrap().headers.contains_key("authorization"));
    }
}

#[tokio::test]
async fn date_does_not_join_a_part_to_what_went_out_compressed() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(with(&node, &[("gzip", &[("enable", "on")])]));
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let page = Page::new("text ".repeat(600)).with("content-type", "text/plain").with("last-modified", date);
    let page = page.with("date", "Sun, 06 Nov 1994 09:49:37 GMT");
    origin.put("/a", page.clone());
    origin.put("/mine", page.with("cache-control", "private"));
    for path in ["/a", "/mine"] {
        node.get(path).await;
    }
    node.settled().await;
    for (accepts, status) in [("gzip", 200), ("identity", 206)] {
        let asks = [("range", "bytes=100-"), ("if-range", date), ("accept-encoding", accepts)];
        assert_eq!(node.get_with("/a", &asks).await.status, status, "{accepts}");
        // The range of a response that cannot be shared is left to the origin, which does not know of the node's
        // compression.
        node.get_with("/mine", &asks).await;
        let asked = origin.seen("/mine").pop().unwrap().headers;
        assert_eq!(asked.contains_key(RANGE), status == 206, "{accepts}");
    }
}

#[tokio::test]
async fn origin_is_asked_by_the_scheme_of_the_user_whom_a_node_asks_for() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    // No origin answers by TLS.
    let ports = format!("{}:1", origin.address.port());
    let args = [("enable", "on"), ("scheme_origin", "follow"), ("scheme_origin_port", ports.as_str())];
    for node in [&child, &parent] {
        node.apply(with(node, &[("forward_scheme", &args)]));
    }
    for path in ["/user", "/forged", "/child", "/secure-child", "/warm", "/secure-warm"] {
        origin.put(path, Page::new(path));
    }
    let by_tls = ("warmfront-scheme", "https");
    assert_eq!(child.get("/user").await.status, 200);
    assert_eq!(child.get_with("/forged", &[by_tls]).await.status, 200, "users do not say it by a header");
    let as_child = [("warmfront-credential", PEERS), ("warmfront-fence", "log:1")];
    assert_eq!(parent.get_with("/child", &as_child).await.status, 200);
    assert_eq!(parent.get_with("/secure-child", &[as_child[0], as_child[1], by_tls]).await.status, 502);
    for (url, resident) in [("http", true), ("https", false)] {
        let path = if resident { "/warm" } else { "/secure-warm" };
        let url = format!("{url}://{DOMAIN}{path}");
        let job = Job { chunk: 1, index: 0, url, headers: Vec::new(), begin_after: Revision(0), ..Job::default() };
        let outcome = warmed(&child.pipeline, &job).await;
        assert_eq!(matches!(outcome, Outcome::Resident { .. }), resident, "{path}: {outcome:?}");
    }
}

#[tokio::test]
async fn what_is_stale_stands_in_for_failures_and_never_past_a_refresh() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    let args = [("origin_error_status_code", "404,5xx"), ("extend_expiration_time", "60")];
    let page = |body: &str| Page::new(body.to_owned()).with("cache-control", "max-age=10");
    let broken = |status| Page { status, ..page("broken") };
    for node in [&child, &parent] {
        node.apply(with(node, &[("serving_stale_content", &args)]));
    }
    for path in ["/a", "/covered", "/late"] {
        origin.put(path, page("good"));
        child.get(path).await;
    }
    let after = async |secs: u64, path: &str| {
        clock.advance(Duration::from_secs(secs));
        child.in_contact();
        parent.in_contact();
        let got = child.get(path).await;
        child.settled().await;
        parent.settled().await;
        (got.status, got.text().to_owned())
    };
    let good = (200, "good".to_owned());
    // A 404 that may be stored does not replace the stale response that stands in for it.
    for status in [404, 501, 503] {
        origin.put("/a", broken(status));
        assert_eq!(after(11, "/a").await, good, "{status}");
    }
    origin.put("/a", broken(403));
    assert_eq!(after(0, "/a").await.0, 403, "not called a failure");
    origin.put("/covered", broken(503));
    for node in [&child, &parent] {
        node.refresh("/covered", Mode::Expire);
    }
    assert_eq!(after(0, "/covered").await, (503, "broken".to_owned()), "what a refresh covers is not sent");
    origin.stop();
    eventually("the origin is gone", || std::net::TcpStream::connect(origin.address).is_err()).await;
    assert_eq!(after(0, "/late").await, good);
    assert_eq!(after(60, "/late").await.0, 502, "its time is over");
}

#[tokio::test]
async fn failure_that_may_be_stored_does_not_replace_what_stands_in() {
    let Stage { origin, node, clock } = Stage::set().await;
    node.apply(with(&node, &[("default_ttl_code", &[("default_ttl_code", "5xx=3")])]));
    let good = Page::new("good").with("cache-control", "max-age=10, stale-if-error=60");
    origin.put("/ruled", good.clone());
    origin.put("/said", good);
    for path in ["/ruled", "/said"] {
        node.get(path).await;
    }
    node.settled().await;
    let broken = |said| Page { status: 500, ..Page::new("broken").with("etag", "").with("cache-control", said) };
    origin.put("/ruled", broken(""));
    origin.put("/said", broken("max-age=3"));
    let after = async |seconds, path| {
        clock.advance(Duration::from_secs(seconds));
        node.in_contact();
        let got = node.get(path).await;
        node.settled().await;
        (got.status, got.text().to_owned(), got.header("x-cache").to_owned())
    };
    let stale = (200, "good".to_owned(), "STALE from edge".to_owned());
    for seconds in [11, 0, 1] {
        assert_eq!(after(seconds, "/ruled").await, stale);
        assert_eq!(after(0, "/said").await, stale);
    }
    // Nothing stands in any longer, so the failure spares the origin.
    for x_cache in ["MISS from edge", "HIT from edge"] {
        let seconds = if x_cache == "MISS from edge" { 60 } else { 0 };
        assert_eq!(after(seconds, "/ruled").await, (500, "broken".to_owned(), x_cache.to_owned()));
    }
}

/// A rule for a header that an origin sends.
fn origin_header<'a>(args: &'a [(&'a str, &'a str)]) -> (&'a str, &'a [(&'a str, &'a str)]) {
    ("origin_response_header", args)
}

#[tokio::test]
async fn stored_head_goes_through_the_rules_for_origins_headers_once() {
    let Tiers { origin, child, parent, clock } = tiers().await;
    let apply = |set: Set<'_>| [&child, &parent].map(|node| node.apply(with(node, set)));
    let rewrite: Set<'_> = &[
        origin_header(&[
            ("header_operation_type", "rewrite"),
            ("header_name", "Content-Type"),
            ("header_source", "text/html"),
            ("header_destination", "text/html; charset=utf-8"),
        ]),
        origin_header(&[
            ("header_operation_type", "add"),
            ("header_name", "X-Many"),
            ("header_value", "b"),
            ("duplicate", "on"),
        ]),
        origin_header(&[
            ("header_operation_type", "rewrite"),
            ("header_name", "X-Many"),
            ("header_source", "b"),
            ("header_destination", "c"),
        ]),
        origin_header(&[("header_operation_type", "delete"), ("header_name", "X-Inner")]),
    ];
    apply(rewrite);
    let page = |version: &str| Page::new("body").with("cache-control", "max-age=10").with("x-version", version);
    let full =
        |version: &str| page(version).with("content-type", "text/html").with("x-many", "a").with("x-inner", "secret");
    origin.put("/a", full("1"));
    let seen = async |seconds: u64| {
        clock.advance(Duration::from_secs(seconds));
        child.in_contact();
        parent.in_contact();
        let got = child.get("/a").await;
        child.settled().await;
        parent.settled().await;
        let many: Vec<&str> = got.headers.get_all("x-many").iter().map(|value| value.to_str().unwrap()).collect();
        let fields = ["x-version", "content-type", "x-inner"].map(|name| got.header(name).to_owned());
        (fields, many.join(" "), got.header("x-cache").split(' ').next().unwrap().to_owned())
    };
    let expected = |version: &str, x_cache: &str| {
        let fields = [version.to_owned(), "text/html; charset=utf-8".to_owned(), String::new()];
        (fields, "a c".to_owned(), x_cache.to_owned())
    };
    assert_eq!(seen(0).await, expected("1", "MISS"));
    assert_eq!(seen(0).await, expected("1", "HIT"));
    // A 304 need not repeat what the stored head has (RFC 9110 §15.4.5), and may.
    origin.put("/a", page("2"));
    assert_eq!(seen(11).await, expected("2", "REVALIDATED"));
    origin.put("/a", full("3"));
    assert_eq!(seen(11).await, expected("3", "REVALIDATED"));
    origin.put("/a", page("4"));
    assert_eq!(seen(11).await, expected("4", "REVALIDATED"));
    // New rules apply to what was stored before them, on every tier.
    apply(&[]);
    origin.put("/b", full("1"));
    child.get("/b").await;
    child.settled().await;
    parent.settled().await;
    apply(rewrite);
    origin.put("/b", page("1"));
    for x_cache in ["REVALIDATED from parent", "HIT from child"] {
        let got = child.get("/b").await;
        child.settled().await;
        parent.settled().await;
        assert_eq!((got.header("x-cache"), got.header("x-inner")), (x_cache, ""));
        assert_eq!(got.header("content-type"), "text/html; charset=utf-8");
    }
}

#[tokio::test]
async fn answers_that_are_not_stored_go_through_the_rules_for_origins_headers_too() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    for node in [&child, &parent] {
        node.apply(with(
            node,
            &[
                origin_header(&[("header_operation_type", "delete"), ("header_name", "X-Inner")]),
                origin_header(&[
                    ("header_operation_type", "add"),
                    ("header_name", "X-Grown"),
                    ("header_value", "a"),
                    ("duplicate", "on"),
                ]),
                origin_header(&[
                    ("header_operation_type", "rewrite"),
                    ("header_name", "X-Grown"),
                    ("header_source", "a"),
                    ("header_destination", "aa"),
                ]),
            ],
        ));
    }
    let page = || Page::new("body").with("x-inner", "secret");
    for path in ["/head", "/post", "/get"] {
        origin.put(path, page());
    }
    origin.put("/mine", page().with("cache-control", "private"));
    let requests = [
        (Method::HEAD, "/head", &[][..]),
        (Method::POST, "/post", &[]),
        (Method::GET, "/mine", &[]), // fetched as for everybody
        (Method::GET, "/mine", &[]), // and as for one
        (Method::GET, "/get", &[("cache-control", "no-store")]),
    ];
    for (method, path, headers) in requests {
        let got = ask(child.address, method.clone(), path, headers, false).await;
        let grown: Vec<&str> = got.headers.get_all("x-grown").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((grown, got.header("x-inner")), (vec!["aa"], ""), "{method} {path}");
    }
}

#[tokio::test]
async fn users_are_told_what_the_functions_say_and_nodes_are_not() {
    let Tiers { origin, child, parent, .. } = tiers().await;
    for node in [&child, &parent] {
        let set: Set<'_> = &[
            ("gzip", &[("enable", "on")]),
            ("set_resp_header", &[("key", "X-Shown"), ("value", "to users")]),
            ("path_based_ttl_set", &[("path", "/"), ("ttl", "77"), ("swift_follow_cachetime", "on")]),
        ];
        node.apply(with(node, set));
    }
    let text = "a text that says the same again and again; ".repeat(5_000);
    origin.put("/t.html", Page::new(text.clone()).with("content-type", "text/html"));
    for round in ["MISS", "HIT"] {
        let got = child.get_with("/t.html", &[("accept-encoding", "gzip")]).await;
        assert_eq!(got.header("x-cache").split(' ').next(), Some(round));
        assert_eq!((got.header("content-encoding"), got.header("vary")), ("gzip", "Accept-Encoding"));
        assert_eq!((got.header("x-shown"), got.header("cache-control")), ("to users", "max-age=77"));
        assert!(got.header("etag").starts_with("W/") && got.headers.get(CONTENT_LENGTH).is_none());
        let mut read = String::new();
        let body = got.body.unwrap();
        flate2::read::GzDecoder::new(&*body).read_to_string(&mut read).unwrap();
        assert!(read == text && body.len() < text.len() / 10);
        assert!(got.headers.keys().all(|name| !name.as_str().starts_with("warmfront-")), "{:?}", got.headers);
        child.settled().await;
    }
    let plain = child.get("/t.html").await;
    assert_eq!((plain.text(), plain.header("vary")), (text.as_str(), "Accept-Encoding"));
    let again =
        child.get_with("/t.html", &[("accept-encoding", "gzip"), ("if-none-match", plain.header("etag"))]).await;
    assert_eq!(again.status, 304);
    let part = child.get_with("/t.html", &[("accept-encoding", "gzip"), ("range", "bytes=2-5")]).await;
    assert_eq!((part.status, part.text(), part.header("content-encoding")), (206, &text[2..6], ""));
    assert_eq!(origin.seen("/t.html").len(), 1);
}

#[tokio::test]
async fn what_confirms_a_text_names_it_as_what_brings_it_does() {
    let Stage { origin, node, .. } = Stage::set().await;
    node.apply(with(&node, &[("gzip", &[("enable", "on")])]));
    let text = || Page::new("a text that says the same again; ".repeat(500)).with("content-type", "text/html");
    origin.put("/text", text());
    origin.put("/short", Page::new("short").with("content-type", "text/html"));
    origin.put("/coded", text().with("content-encoding", "br"));
    // Which of them is compressed here and so has a weak entity tag.
    for (path, weak) in [("/text", true), ("/short", false), ("/coded", false)] {
        for round in ["asked for the first time", "again"] {
            let brought = node.get_with(path, &[("accept-encoding", "gzip")]).await;
            assert_eq!((brought.status, brought.header("etag").starts_with("W/")), (200, weak), "{path}");
            node.settled().await;
            let told = ask(node.address, Method::HEAD, path, &[("accept-encoding", "gzip")], false).await;
            let validator = ("if-none-match", brought.header("etag"));
            let confirmed = node.get_with(path, &[("accept-encoding", "gzip"), validator]).await;
            assert_eq!((told.status, confirmed.status), (200, 304), "{path} {round}");
            for name in ["etag", "vary"] {
                let said = [&told, &confirmed].map(|answer| answer.header(name));
                assert_eq!(said, [brought.header(name); 2], "{name} of {path} {round}");
            }
            assert_eq!(told.header("content-encoding"), brought.header("content-encoding"), "{path} {round}");
        }
    }
}

#[tokio::test]
async fn access_rules_are_for_users_and_not_for_prefetches() {
    let Stage { origin, node, clock } = Stage::set().await;
    origin.put("/v.mp4", Page::new("film"));
    let auth: Set<'_> = &[
        ("aliauth", &[("auth_type", "type_a"), ("auth_key1", "secret1"), ("ali_auth_delta", "60")]),
        ("ip_allow_list_set", &[("ip_list", "127.0.0.0/8")]),
        ("referer_black_list_set", &[("refer_domain_deny_list", "evil.test"), ("redirect_url", "http://x.test/no")]),
    ];
    node.apply(with(&node, auth));
    let url = format!("http://{DOMAIN}/v.mp4");
    let job = Job { chunk: 1, index: 0, url, headers: Vec::new(), begin_after: Revision(0), ..Job::default() };
    let outcome = warmed(&node.pipeline, &job).await;
    assert!(matches!(outcome, Outcome::Resident { .. }), "{outcome:?}");
    assert_eq!(node.get("/v.mp4").await.status, 403);
    // printf '/v.mp4-1800000000-0-0-secret1' | md5sum
    let signed = "/v.mp4?auth_key=1800000000-0-0-e4eb3b3e6d7ea7fe3262a974c66da16d";
    let got = node.get(signed).await;
    assert_eq!((got.status, got.header("x-cache")), (200, "HIT from edge"), "the signature is no part of the key");
    let sent = node.get_with(signed, &[("referer", "https://evil.test/x")]).await;
    assert_eq!((sent.status, sent.header("location")), (302, "http://x.test/no"));
    clock.advance(Duration::from_secs(60));
    node.in_contact();
    assert_eq!(node.get(signed).await.status, 403, "its time is over");
    node.apply(with(&node, &[("ip_black_list_set", &[("ip_list", "127.0.0.1")])]));
    assert_eq!(node.get("/v.mp4").await.status, 403);
    assert!(!format!("{:?}", node.knowing.known().knowledge).contains("secret1"));
}
