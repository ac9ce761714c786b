//! Functions: which are refused, which are kept verbatim, and what sets of them compile to.

use super::*;
use http::{HeaderMap, HeaderValue};
use proptest::strategy::Strategy;

use crate::invalidation::Scope;

/// Arguments, or headers.
type Given = &'static [(&'static str, &'static str)];

fn function(id: u64, name: &str, args: &[(&str, &str)]) -> Function {
    let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Function { id, name: name.to_owned(), args, parent: None }
}

fn one(name: &str, args: &[(&str, &str)]) -> Functions {
    let list = vec![function(1, name, args)];
    check(&list).unwrap_or_else(|error| panic!("{name} {args:?}: {error}"));
    Functions::new(list)
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let cases: &[(&str, Given, &str)] = &[
        ("filetype_based_ttl_set", &[("ttl", "60")], "file_type"),
        ("filetype_based_ttl_set", &[("file_type", "jpg,png")], "ttl"),
        ("filetype_based_ttl_set", &[("file_type", "jpg"), ("ttl", "0")], "ttl"),
        ("filetype_based_ttl_set", &[("file_type", "jpg"), ("ttl", "100000000")], "ttl"),
        ("filetype_based_ttl_set", &[("file_type", "jpg"), ("ttl", "1"), ("weight", "100")], "weight"),
        ("filetype_based_ttl_set", &[("file_type", ".jpg"), ("ttl", "1")], "file_type"),
        ("path_based_ttl_set", &[("path", "img/"), ("ttl", "1")], "path"),
        ("path_based_ttl_set", &[("path", "/img/"), ("ttl", "1"), ("color", "red")], "color"),
        ("path_based_ttl_set", &[("path", "/"), ("ttl", "1"), ("swift_no_cache_low", "yes")], "swift_no_cache_low"),
        ("path_force_ttl_code", &[("path", "/"), ("code_string", "6xx=1")], "code_string"),
        ("default_ttl_code", &[("default_ttl_code", "404")], "default_ttl_code"),
        ("serving_stale_content", &[("origin_error_status_code", "302")], "origin_error_status_code"),
        ("serving_stale_content", &[("origin_error_status_code", "3xx")], "origin_error_status_code"),
        ("serving_stale_content", &[("extend_expiration_time", "0")], "extend_expiration_time"),
        ("serving_stale_content", &[("origin_first", "1")], "origin_first"),
        ("set_hashkey_args", &[("hashkey_args", "a,b,c,d,e,f,g,h,i,j,k")], "hashkey_args"),
        ("ali_remove_args", &[], "ali_remove_args"),
        ("range", &[("enable", "maybe")], "enable"),
        ("set_req_host_header", &[("domain_name", "http://a.com")], "domain_name"),
        ("set_req_host_header", &[("domain_name", ":")], "domain_name"),
        ("set_req_host_header", &[("domain_name", "a:b:c")], "domain_name"),
        ("set_req_host_header", &[("domain_name", "a..b")], "domain_name"),
        ("set_req_host_header", &[("domain_name", "a.b:99999")], "domain_name"),
        ("https_origin_sni", &[("enabled", "on"), ("https_origin_sni", "a.com:443")], "https_origin_sni"),
        ("https_origin_sni", &[("enabled", "on"), ("https_origin_sni", "a..b")], "https_origin_sni"),
        ("https_origin_sni", &[("enabled", "on"), ("https_origin_sni", "1.2.3.4")], "https_origin_sni"),
        ("ip_black_list_set", &[("ip_list", "1.2.3.4/+24")], "ip_list"),
        ("forward_scheme", &[("enable", "on"), ("scheme_origin", "ftp")], "scheme_origin"),
        (
            "forward_scheme",
            &[("enable", "on"), ("scheme_origin", "http"), ("scheme_origin_port", "80")],
            "scheme_origin_port",
        ),
        ("https_origin_sni", &[("enabled", "on")], "https_origin_sni"),
        ("forward_timeout", &[("forward_timeout", "0")], "forward_timeout"),
        ("follow_302", &[("enable", "on"), ("max_tries", "6")], "max_tries"),
        ("set_req_header", &[("key", "Host"), ("value", "x")], "key"),
        ("set_req_header", &[("key", "X-A"), ("value", "x\r\ny")], "value"),
        ("set_resp_header", &[("key", "Content-Length"), ("value", "1")], "key"),
        ("origin_response_header", &[("header_operation_type", "turn"), ("header_name", "X")], "header_operation_type"),
        ("origin_response_header", &[("header_operation_type", "delete"), ("header_name", "Vary")], "header_name"),
        ("back_to_origin_url_rewrite", &[("source_url", "(?=a)"), ("target_url", "/")], "source_url"),
        ("back_to_origin_url_rewrite", &[("source_url", "(((a{999}){999}){999})"), ("target_url", "/")], "source_url"),
        ("back_to_origin_argument_rewrite", &[("add_argument", "a")], "add_argument"),
        ("host_redirect", &[("replacement", "/x")], "regex"),
        ("host_redirect", &[("regex", "^/(?=a)"), ("replacement", "/x")], "regex"),
        ("host_redirect", &[("regex", "^/a"), ("replacement", "x.html")], "replacement"),
        ("host_redirect", &[("regex", "^/a"), ("replacement", "http://b.com/"), ("flag", "break")], "replacement"),
        ("host_redirect", &[("regex", "^/a"), ("replacement", "/x"), ("flag", "last")], "flag"),
        ("host_redirect", &[("regex", "^/a"), ("replacement", "/x"), ("rewrite_method", "301")], "rewrite_method"),
        ("self_defined_cachekey", &[("uri", "/a")], "uri"),
        ("self_defined_cachekey", &[("uri", r#"[{"uri_to_rewrite":"/a"}]"#)], "uri"),
        ("self_defined_cachekey", &[("uri", r#"[{"uri_to_rewrite":"(?=a)","ai_uri_regex":"/b"}]"#)], "uri"),
        ("self_defined_cachekey", &[("uri", r#"[{"uri_to_rewrite":"/a","ai_uri_regex":"/b?c"}]"#)], "uri"),
        ("self_defined_cachekey", &[("args", r#"[{"args_operation_type":"add","args":"a"}]"#)], "args"),
        ("self_defined_cachekey", &[("args", r#"[{"args_operation_type":"turn","args":"a=1"}]"#)], "args"),
        ("self_defined_cachekey", &[("headers", "User-Agent Range")], "headers"),
        ("self_defined_cachekey", &[("variable", r#"[{"name":"x"}]"#)], "variable"),
        ("self_defined_cachekey", &[("variables", "[]")], "variables"),
        ("rewrite_host", &[], "share_host"),
        ("rewrite_host", &[("share_host", ".a.com")], "share_host"),
        ("rewrite_host", &[("share_host", "http://a.com/")], "share_host"),
        ("gzip", &[], "enable"),
        ("https_force", &[("enable", "1")], "enable"),
        ("https_force", &[("enable", "on"), ("https_rewrite", "302")], "https_rewrite"),
        ("https_tls_version", &[("tls10", "on"), ("tls12", "off"), ("tls13", "off")], "tls12"),
        ("referer_white_list_set", &[("refer_domain_allow_list", "a b/c")], "refer_domain_allow_list"),
        ("ip_black_list_set", &[("ip_list", "1.2.3.4/33")], "ip_list"),
        ("aliauth", &[("auth_type", "type_f"), ("auth_key1", "secret1")], "auth_type"),
        ("aliauth", &[("auth_type", "type_a"), ("auth_key1", "no")], "auth_key1"),
    ];
    for (name, args, blamed) in cases {
        let Err(BadFunctions::Argument { function, problem }) = check(&[function(1, name, args)]) else {
            panic!("{name} {args:?} was accepted")
        };
        let said = match &problem {
            BadArgument::Unknown(argument) => argument.as_str(),
            BadArgument::Value { name, .. } => name,
        };
        assert_eq!((function.as_str(), said), (*name, *blamed), "{args:?}");
        assert!(named(name).is_some_and(|kind| kind.built), "{name} is catalogued");
    }
}

#[test]
fn what_is_not_known_is_kept_to_the_letter_and_does_nothing() {
    let mut bound = function(9, "edge_function", &[("rule", "{}")]);
    bound.parent = Some(7);
    let list = vec![function(8, "of_tomorrow", &[("Key", " a b ")]), bound];
    assert_eq!(check(&list), Ok(()));
    let functions = Functions::new(list.clone());
    assert_eq!(functions.list(), list);
    let url = UrlKey::new("a.com", "/x?y").unwrap();
    assert_eq!(functions.key(&url), url);
    assert!(!functions.keep_otherwise(&Functions::default()));
}

#[test]
fn sets_that_cannot_be_in_force_are_refused() {
    let mut bound = function(1, "gzip", &[("enable", "on")]);
    bound.parent = Some(7);
    assert!(matches!(check(&[bound]), Err(BadFunctions::Conditional(_))));
    let both = [
        function(1, "set_hashkey_args", &[("disable", "on")]),
        function(2, "ali_remove_args", &[("ali_remove_args", "a")]),
    ];
    assert_eq!(check(&both), Err(BadFunctions::Exclusive("set_hashkey_args", "ali_remove_args")));
    let many: Vec<Function> = (0..=FUNCTIONS_MAX as u64).map(|id| function(id, "x", &[])).collect();
    assert_eq!(check(&many), Err(BadFunctions::TooMany));
    let large = "x".repeat(BYTES_MAX + 1);
    assert_eq!(check(&[function(1, "x", &[("a", &large)])]), Err(BadFunctions::TooMany));
    assert_eq!(check(&[function(1, "x y", &[])]), Err(BadFunctions::Name));
}

#[test]
fn secrets_are_not_shown() {
    let functions =
        one("aliauth", &[("auth_type", "type_a"), ("auth_key1", "opensesame"), ("auth_key2", "opensesame2")]);
    let shown = format!("{functions:?} {:?} {:?}", functions.rules(), functions.list());
    assert!(!shown.contains("opensesame"), "{shown}");
    assert!(shown.contains("auth_key1"), "{shown}");
}

#[test]
fn keys_hold_the_arguments_that_count() {
    let signed = "/a.mp4?auth_key=1-0-0-00000000000000000000000000000000&id=1";
    let b = "/202601020304/0123456789abcdef0123456789abcdef/a.mp4?id=1";
    let cases: &[(&str, Given, &str, &str)] = &[
        ("set_hashkey_args", &[("hashkey_args", "id,v"), ("disable", "on")], "/a?v=2&x=1&id=3", "/a?v=2&id=3"),
        ("set_hashkey_args", &[("hashkey_args", "id")], "/a?x=1", "/a"),
        ("set_hashkey_args", &[("hashkey_args", "lang")], "/a?%6Cang=evil&x=1&l%61n", "/a?%6Cang=evil"),
        ("set_hashkey_args", &[("disable", "on")], "/a?x=1&y", "/a"),
        ("set_hashkey_args", &[("disable", "off")], "/a?x=1&y", "/a?x=1&y"),
        ("ali_remove_args", &[("ali_remove_args", "x y")], "/a?x=1&y&z=2&xx", "/a?z=2&xx"),
        ("ali_remove_args", &[("ali_remove_args", "x")], "/a?%78=1&z=2&%2", "/a?z=2&%2"),
        ("aliauth", &[("auth_type", "type_a"), ("auth_key1", "secret1")], signed, "/a.mp4?id=1"),
        ("aliauth", &[("auth_type", "type_b"), ("auth_key1", "secret1")], b, "/a.mp4?id=1"),
        ("aliauth", &[("auth_type", "type_b"), ("auth_key1", "secret1")], "/2026/x/a", "/2026/x/a"),
        (
            "aliauth",
            &[("auth_type", "type_c"), ("auth_key1", "secret1")],
            "/0123456789abcdef0123456789abcdef/65a0b1c2/a.mp4",
            "/a.mp4",
        ),
        (
            "aliauth",
            &[("auth_type", "type_c"), ("auth_key1", "secret1")],
            "/a.mp4?KEY1=0123456789abcdef0123456789abcdef&KEY2=65a0b1c2",
            "/a.mp4",
        ),
    ];
    let of_path = r#"[{"uri_to_rewrite":"/abc/.*/abc","ai_uri_regex":"/abc"},{"uri_to_rewrite":"^/(v\\d)/","ai_uri_regex":"/v/$1-"}]"#;
    let of_args = r#"[{"args_operation_type":"add","args":"add_par=1"},{"args_operation_type":"delete","args":"delete_par x"},
        {"args_operation_type":"modify","args":"modify_par=2"}]"#;
    let keeping = r#"[{"args_operation_type":"keep","args":"a b"},{"args_operation_type":"modify","args":"a=2"}]"#;
    type Asked<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let own: &[Asked<'_>] = &[
        (&[("uri", of_path)], "/abc/xyz/abc/image.jpg?x=1", "/abc/image.jpg?x=1"),
        (&[("uri", of_path), ("args", "[]"), ("headers", ""), ("variable", "[]")], "/v1/a", "/v/v1-a"),
        (&[("args", of_args)], "/a?delete_par=1&modify_par=1", "/a?modify_par=2&add_par=1"),
        (&[("args", keeping)], "/a?a=1&b=1&c=1", "/a?a=1&b=1"),
        (&[("headers", "User-Agent")], "/a?b", "/a?b"), // distinguishes variants, not keys
    ];
    for (args, asked, expected) in own {
        let functions = one("self_defined_cachekey", args);
        assert_eq!(
            functions.key(&UrlKey::new("a.com", asked).unwrap()).path_and_query(),
            *expected,
            "{args:?} {asked}"
        );
        assert_ne!(functions.shape(), 0, "what was kept otherwise is told from it");
        assert!(functions.keep_otherwise(&Functions::default()));
        assert_eq!(functions.rules().key.visited(asked), *asked, "the origin is asked for the URL as it was");
    }
    for (name, args, asked, expected) in cases {
        let functions = one(name, args);
        let key = functions.key(&UrlKey::new("a.com", asked).unwrap());
        assert_eq!(key.path_and_query(), *expected, "{name} {args:?} {asked}");
        assert_eq!(functions.key(&key), key, "the key of a key is itself");
    }
}

#[test]
fn the_heaviest_rule_counts_and_of_two_as_heavy_the_older() {
    let ttl = |id, kind: (&str, &str), ttl: &str, weight: &str| {
        let name = if kind.0 == "path" { "path_based_ttl_set" } else { "filetype_based_ttl_set" };
        function(id, name, &[kind, ("ttl", ttl), ("weight", weight)])
    };
    let functions = Functions::new(vec![
        ttl(3, ("path", "/img/"), "3", "10"),
        ttl(1, ("file_type", "JPG,png"), "1", "10"),
        ttl(2, ("path", "/img/big"), "2", "20"),
    ]);
    let cases = [
        ("/a.jpg", Some(1)),
        ("/a.JPG", Some(1)),
        ("/img/a.jpg", Some(1)), // equal weight, and older
        ("/img/a.gif", Some(3)),
        ("/img/big/a.jpg", Some(2)), // larger weight
        ("/img/bigger", Some(3)),    // not at a segment boundary
        ("/img", None),
        ("/jpg", None),
    ];
    for (path, expected) in cases {
        let found = functions.rules().ttls.rule(path).map(|rule| rule.ttl.as_secs());
        assert_eq!(found, expected, "{path}");
    }
}

#[test]
fn origins_are_asked_for_rewritten_paths() {
    let cases: &[(&str, Given, &str, &str)] = &[
        (
            "back_to_origin_url_rewrite",
            &[("source_url", "^/v1/(.*)$"), ("target_url", "/v2/$1")],
            "/v1/a?x=1",
            "/v2/a?x=1",
        ),
        ("back_to_origin_url_rewrite", &[("source_url", "^/v1/"), ("target_url", "/v2/")], "/w/v1/", "/w/v1/"),
        (
            "back_to_origin_url_rewrite",
            &[("source_url", r"^/a\?x=(\d)$"), ("target_url", "/a/$1"), ("flag", "enhance_break")],
            "/a?x=1",
            "/a/1",
        ),
        ("back_to_origin_argument_rewrite", &[("ignore_all_argument", "on")], "/a?x=1", "/a"),
        ("back_to_origin_argument_rewrite", &[("delete_argument", "x y")], "/a?x=1&z=2&y", "/a?z=2"),
        ("back_to_origin_argument_rewrite", &[("save_argument", "z")], "/a?x=1&z=2", "/a?z=2"),
        (
            "back_to_origin_argument_rewrite",
            &[("modify_argument", "x=9"), ("add_argument", "k=v")],
            "/a?x=1&z",
            "/a?x=9&z&k=v",
        ),
    ];
    for (name, args, asked, expected) in cases {
        assert_eq!(one(name, args).rules().fetch.path(asked), *expected, "{name} {args:?}");
    }
}

/// URL rules: expression, target, flag.
type Rules<'a> = &'a [(&'a str, &'a str, &'a str)];

fn url_rules(rules: Rules<'_>) -> Functions {
    let rule = |(id, (regex, replacement, flag)): (u64, &(&str, &str, &str))| {
        function(id, "host_redirect", &[("regex", regex), ("replacement", replacement), ("flag", flag)])
    };
    let list: Vec<Function> = (1..).zip(rules).map(rule).collect();
    check(&list).unwrap_or_else(|error| panic!("{rules:?}: {error}"));
    Functions::new(list)
}

#[test]
fn users_are_given_another_url_or_sent_there() {
    let (give, send) = (|path: &str| (None, path.to_owned()), |url: &str| (Some(302), url.to_owned()));
    type Visit = (Option<u16>, String);
    let cases: &[(Rules<'_>, &str, Visit)] = &[
        (&[("^/hello$", "/index.html", "break")], "/hello?a=1", give("/index.html?a=1")),
        (&[("^/hello$", "/index.html", "break")], "/hello/x", give("/hello/x")),
        (&[("/hello", "/hello/index.html", "")], "/say/hello/x", give("/hello/index.html")), // the whole path
        (&[("^/a/(.*)", "/b/$1", ""), ("^/b/", "/c", "")], "/a/x", give("/c")),
        (&[("^/a/(.*)", "/b/$1", "break"), ("^/b/", "/c", "")], "/a/x", give("/b/x")),
        (&[(r"^/a\?v=(\d)$", "/v$1/a", "enhance_break")], "/a?v=7", give("/v7/a")),
        (&[(r"^/a\?v=(\d)$", "/v$1/a", "break")], "/a?v=7", give("/a?v=7")),
        (&[("^/a$", "/b", "redirect")], "/a?x=1", send("/b?x=1")),
        (&[("^/a$", "https://b.com/b", "redirect")], "/a", send("https://b.com/b")),
        (&[("^/a", "/b#top", "enhance_redirect")], "/a?x=1", send("/b#top")),
        (&[("^/a/(.*)", "/b/$1", ""), ("^/b/(.*)", "/c/$1", "redirect")], "/a/x", send("/c/x")),
        (&[("^/a/(.*)", "/b/$1", "break"), ("^/b/(.*)", "/c/$1", "redirect")], "/a/x", give("/b/x")),
        (&[("^/", "/x", "redirect")], "/x", give("/x")), // would loop
    ];
    for (rules, asked, (status, expected)) in cases {
        let functions = url_rules(rules);
        let sent = sent_to(&functions.rules().urls, asked);
        assert_eq!(sent.clone().map(|(status, _)| status), *status, "{rules:?} {asked}");
        let url = UrlKey::new("a.com", asked).unwrap();
        let got = sent.map_or_else(|| functions.key(&url).path_and_query().to_owned(), |(_, to)| to);
        assert_eq!(got, *expected, "{rules:?} {asked}");
        let visited = functions.rules().key.visited(asked);
        assert_eq!(visited, functions.key(&url).path_and_query(), "the origin is asked for what it is kept under");
    }
}

#[test]
fn scopes_are_said_in_keys_no_wider_than_rules_reach() {
    let directory = |path: &str| Scope::Directory { host: "a.com".into(), path: path.into() };
    let path = |path: &str| Scope::IgnoreParams { host: "a.com".into(), path: path.into() };
    let file = |path: &str| Scope::File(UrlKey::new("a.com", path).unwrap());
    let pattern = |path: &str| Scope::Regex(crate::Pattern::parse(UrlKey::new("a.com", path).unwrap()).unwrap());
    let cases: &[(Rules<'_>, Scope, &[Scope])] = &[
        (&[("^/v1/(.*)", "/v2/$1", "break")], directory("/v1/x/"), &[directory("/v2/")]),
        (&[("^/v1/(.*)", "/v2/$1", "break")], directory("/"), &[directory("/v2/")]),
        (&[("^/v1/(.*)", "/v2/$1", "break")], directory("/img/"), &[]), // the rule cannot match there
        (&[("/v1/(.*)", "/v2/$1", "break")], directory("/img/"), &[directory("/v2/")]), // it may
        (&[("^/a.*", "/one.html", "break")], path("/ab"), &[path("/one.html")]),
        (&[("^/a.*", "/one.html", "break")], pattern("/a[0-9]"), &[path("/one.html")]),
        (&[("^/a.*", "/one?n=1", "enhance_break")], directory("/a/"), &[path("/one")]),
        (&[("^/a/(.*)", "/b/$1", ""), ("^/b/", "/c/d", "")], directory("/a/"), &[directory("/b/"), path("/c/d")]),
        (&[("^/a/(.*)", "/b/$1", "")], file("/a/x?y"), &[file("/b/x?y")]),
        (&[("^/a/(.*)", "/b/$1", "redirect")], directory("/a/"), &[]),
    ];
    let keyed = Functions::new(vec![function(1, "set_hashkey_args", &[("disable", "on")])]);
    let said = keyed.rules().key.in_keys(&file("/x?y")).unwrap();
    assert_eq!(said, [file("/x"), file("/x?y")], "a prefetch may have kept it under the URL itself");
    for (rules, scope, too) in cases {
        let said = url_rules(rules).rules().key.in_keys(scope).unwrap_or_else(|| vec![scope.clone()]);
        assert!(said.contains(scope), "{rules:?} {scope:?}: {said:?}");
        let others: Vec<Scope> = said.into_iter().filter(|said| said != scope).collect();
        assert_eq!(others, *too, "{rules:?} {scope:?}");
    }
}

#[test]
fn keys_of_a_domain_that_shares_lie_with_the_other() {
    let share = function(1, "rewrite_host", &[("share_host", "B.com")]);
    let remove = function(2, "ali_remove_args", &[("ali_remove_args", "x")]);
    let url = |host: &str, path: &str| UrlKey::new(host, path).unwrap();
    let (plain, joining) = (Functions::new(vec![share.clone()]), Functions::new(vec![share, remove.clone()]));
    assert_eq!(plain.key(&url("a.com", "/a?x=1&y")), url("b.com", "/a?x=1&y"));
    assert_eq!(joining.key(&url("a.com", "/a?x=1&y")), url("b.com", "/a?y"));
    assert_eq!((plain.shape(), joining.shape()), (0, Functions::new(vec![remove]).shape()), "kept as the other keeps");
    assert!(plain.keep_otherwise(&Functions::default()));
    let pattern = |host: &str, path: &str| Scope::Regex(crate::Pattern::parse(url(host, path)).unwrap());
    let said = |functions: &Functions, scope: &Scope| functions.rules().key.in_keys(scope).unwrap();
    // And the URLs as given, under which prefetches with verbatim keys are stored.
    assert_eq!(
        said(&plain, &pattern("a.com", "/d/[0-9]")),
        [pattern("b.com", "/d/[0-9]"), pattern("a.com", "/d/[0-9]")]
    );
    let wide = Scope::Directory { host: "b.com".into(), path: "/d/".into() };
    let own = pattern("a.com", "/d/a?x=[0-9]");
    assert_eq!(said(&joining, &own), [wide, own.clone()], "the other's keys have all of a query");
    let all = |name: &str| Scope::Domain(crate::DomainName::parse(name).unwrap());
    assert_eq!(said(&plain, &all("a.com")), [all("b.com"), all("a.com")]);
}

#[test]
fn header_rules_do_what_they_say_and_twice_is_once() {
    let cases: &[(&str, Given, &[&str])] = &[
        ("add", &[("header_value", "b")], &["b"]),
        ("add", &[("header_value", "b"), ("duplicate", "on")], &["a-a", "b"]),
        ("delete", &[], &[]),
        ("modify", &[("header_value", "b")], &["b"]),
        ("rewrite", &[("header_source", "(a)"), ("header_destination", "<$1>")], &["<a>-a"]),
    ];
    for (operation, args, expected) in cases {
        let mut all = vec![("header_operation_type", *operation), ("header_name", "X-A")];
        all.extend_from_slice(args);
        let functions = one("origin_response_header", &all);
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("a-a"));
        functions.rules().origin_response[0].apply(&mut headers);
        let found: Vec<&str> = headers.get_all("x-a").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(found, *expected, "{operation} {args:?}");
    }
}

#[test]
fn addresses_are_compared_by_their_first_bits() {
    let cases = [
        ("1.2.3.4", "1.2.3.4", true),
        ("1.2.3.4", "1.2.3.5", false),
        ("1.2.3.0/24", "1.2.3.255", true),
        ("1.2.3.0/24", "1.2.4.0", false),
        ("0.0.0.0/0", "9.9.9.9", true),
        ("1.2.3.4", "::ffff:1.2.3.4", true),
        ("2001:db8::/32", "2001:db8::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::/0", "1.2.3.4", false),
    ];
    for (range, address, expected) in cases {
        let range = IpRange::parse(range).unwrap();
        assert_eq!(range.has(address.parse().unwrap()), expected, "{range:?} {address}");
    }
}

#[test]
fn what_changes_what_is_kept_is_told_from_what_does_not() {
    let cases: &[(&str, Given, bool)] = &[
        ("path_based_ttl_set", &[("path", "/"), ("ttl", "60")], true),
        ("default_ttl_code", &[("default_ttl_code", "404=3")], true),
        ("serving_stale_content", &[], true),
        ("set_hashkey_args", &[("disable", "on")], true),
        ("aliauth", &[("auth_type", "type_a"), ("auth_key1", "secret1")], true), // the signature is not part of the key
        ("origin_response_header", &[("header_operation_type", "delete"), ("header_name", "x-a")], true),
        ("self_defined_cachekey", &[("headers", "X-A")], true),
        ("rewrite_host", &[("share_host", "b.com")], true),
        ("host_redirect", &[("regex", "^/a"), ("replacement", "/b"), ("flag", "break")], true),
        ("host_redirect", &[("regex", "^/a"), ("replacement", "/b"), ("flag", "redirect")], false),
        ("forward_scheme", &[("enable", "on"), ("scheme_origin", "follow")], false),
        ("set_resp_header", &[("key", "X-A"), ("value", "1")], false),
        ("set_req_header", &[("key", "X-A"), ("value", "1")], false),
        ("gzip", &[("enable", "on")], false),
        ("ip_black_list_set", &[("ip_list", "1.2.3.4")], false),
        ("forward_timeout", &[("forward_timeout", "3")], false),
    ];
    for (name, args, expected) in cases {
        let functions = one(name, args);
        assert_eq!(functions.keep_otherwise(&Functions::default()), *expected, "{name} set");
        assert_eq!(Functions::default().keep_otherwise(&functions), *expected, "{name} deleted");
        assert!(!functions.keep_otherwise(&one(name, args)), "{name} as it was");
    }
}

proptest::proptest! {
    #[test]
    fn any_arguments_are_read_without_a_panic(at in 0_usize..55, args: Vec<(String, String)>, path in "/[a-z?&=/$-]{0,30}") {
        let kind = (0..300).chain([100_001]).filter_map(numbered).nth(at).unwrap();
        let list = vec![Function { id: 1, name: kind.name.to_owned(), args, parent: None }];
        let _ = check(&list);
        let functions = Functions::new(list);
        let key = functions.key(&UrlKey::new("a.com", &path).unwrap());
        proptest::prop_assert!(functions.rules().fetch.path(key.path_and_query()).starts_with('/'));
    }

    /// If a refresh covers a URL, its translation covers the URL's key, and the URL itself as a verbatim key.
    #[test]
    fn scope_in_keys_covers_the_key_of_every_url_that_it_covers(
        rules in proptest::collection::vec((
            "\\^?(/[ab.]{1,2}|/\\(\\.\\*\\)|/\\[ab\\]\\+|/a\\?|a\\|/b|x=1){1,3}\\$?",
            "/([abc]|\\$1|/){0,4}(\\?x=\\$1)?",
            proptest::sample::select(vec!["", "break", "enhance_break", "redirect"]),
        ), 1..4),
        own: bool,
        share: bool,
        url in "/([abc]/){0,2}[abc]{0,2}(\\?x=[12])?",
        scope in proptest::prop_oneof![
            "/([abc]/){0,2}".prop_map(|path| Scope::Directory { host: "a.com".into(), path }),
            "/([abc]/){0,2}[abc]{0,2}".prop_map(|path| Scope::IgnoreParams { host: "a.com".into(), path }),
            "/([abc]/){0,2}[abc]{0,2}".prop_map(|path| Scope::File(UrlKey::new("a.com", &path).unwrap())),
            "/([abc]|\\[a-z\\]|/|\\.\\*){0,4}".prop_filter_map("no pattern", |path| {
                crate::Pattern::parse(UrlKey::new("a.com", &path).unwrap()).ok().map(Scope::Regex)
            }),
        ],
    ) {
        let of_key = rules.iter().map(|(regex, target, _)| {
            let target = target.split('?').next().unwrap_or_default();
            format!(r#"{{"uri_to_rewrite":"{}","ai_uri_regex":"{target}"}}"#, regex.replace('\\', "\\\\"))
        });
        let uri = format!("[{}]", of_key.rev().collect::<Vec<_>>().join(","));
        let mut list: Vec<Function> = (1..).zip(&rules).map(|(id, (regex, replacement, flag))| {
            function(id, "host_redirect", &[("regex", regex), ("replacement", replacement), ("flag", flag)])
        }).collect();
        if own {
            list.push(function(9, "self_defined_cachekey", &[("uri", &uri)]));
        }
        if share {
            list.push(function(10, "rewrite_host", &[("share_host", "b.com")]));
        }
        let functions = Functions::new(list);
        let (domain, url) = (crate::DomainName::parse("a.com").unwrap(), UrlKey::new("a.com", &url).unwrap());
        let said = functions.rules().key.in_keys(&scope).unwrap_or_else(|| vec![scope.clone()]);
        if scope.covers(&domain, &url, &crate::Tags::Any) {
            for key in [functions.key(&url), functions.verbatim().key(&url)] {
                let covered = said.iter().any(|said| said.covers(&domain, &key, &crate::Tags::Any));
                proptest::prop_assert!(covered, "{:?} {} {} {:?}", rules, url, key, said);
            }
        }
    }

    /// Two URLs share a key exactly if their paths and their counted arguments, in order, are the same.
    #[test]
    fn keys_join_what_the_arguments_that_count_join(
        rule in 0..4_usize,
        names in proptest::sample::subsequence(vec!["a", "b", "x-y"], 1..3),
        urls in proptest::array::uniform2("/[st](\\?((a|b|c|x-y)(=[12]?)?&?){0,3})?"),
    ) {
        let (commas, blanks) = (names.join(","), names.join(" "));
        let functions = match rule {
            0 => one("set_hashkey_args", &[("hashkey_args", &commas)]),
            1 => one("set_hashkey_args", &[("disable", "on")]),
            2 => one("ali_remove_args", &[("ali_remove_args", &blanks)]),
            _ => Functions::default(),
        };
        let counts = |argument: &str| {
            let name = argument.split('=').next().unwrap_or_default();
            match rule {
                0 => names.contains(&name),
                1 => false,
                _ => !names.contains(&name),
            }
        };
        let naive = |url: &str| {
            if rule == 3 {
                return url.to_owned();
            }
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let kept: Vec<&str> = query.split('&').filter(|argument| counts(argument)).collect();
            format!("{path} {}", kept.join("&")) // an empty query equals no query
        };
        let key = |url: &str| functions.key(&UrlKey::new("a.com", url).unwrap());
        let [first, second] = &urls;
        proptest::prop_assert_eq!(key(first) == key(second), naive(first) == naive(second), "{:?} {} {}", functions, first, second);
        proptest::prop_assert_eq!(functions.key(&key(first)), key(first));
    }
}

#[test]
fn rules_do_not_make_more_of_a_url_or_a_header_than_may_be() {
    let target = format!("/{}", "$1".repeat(500));
    let rules = |name: &str, from: &str, to: &str| -> Vec<Function> {
        (1..=8).map(|id| function(id, name, &[(from, "^(.*)$"), (to, &target)])).collect()
    };
    let redirects = Functions::new(rules("host_redirect", "regex", "replacement"));
    assert_eq!(check(redirects.list()), Ok(()));
    let key = redirects.key(&UrlKey::new("a.com", "/a").unwrap());
    assert!((1_000..10_000).contains(&key.path().len()), "{}", key.path().len());
    let origin = Functions::new(rules("back_to_origin_url_rewrite", "source_url", "target_url"));
    let path = origin.rules().fetch.path("/a?q=1");
    assert!((1_000..10_000).contains(&path.len()), "{}", path.len());

    let args: &[(&str, &str)] = &[
        ("header_operation_type", "rewrite"),
        ("header_name", "X-A"),
        ("header_source", "^(.*)$"),
        ("header_destination", &target),
        ("match_all", "on"),
    ];
    let headers = Functions::new((1..=8).map(|id| function(id, "origin_request_header", args)).collect());
    let mut sent: http::HeaderMap =
        [(http::HeaderName::from_static("x-a"), "ab".parse().unwrap())].into_iter().collect();
    headers.rules().fetch.headers.iter().for_each(|rule| rule.apply(&mut sent));
    assert!((1_000..10_000).contains(&sent["x-a"].len()), "{}", sent["x-a"].len());
}

#[test]
fn paths_and_arguments_are_compared_as_keys_are_written() {
    let functions = Functions::new(vec![
        function(1, "path_based_ttl_set", &[("path", "/图片/"), ("ttl", "60")]),
        function(2, "set_hashkey_args", &[("hashkey_args", "版本,lang")]),
    ]);
    let key = functions.key(&UrlKey::new("a.com", "/图片/a?x=1&版本=2").unwrap());
    assert_eq!(key.path_and_query(), "/%E5%9B%BE%E7%89%87/a?%E7%89%88%E6%9C%AC=2");
    assert!(functions.rules().ttls.rule(key.path()).is_some());
}

#[test]
fn key_of_a_signed_url_has_no_signature_left() {
    let hash = "0123456789abcdef0123456789abcdef";
    let cases = [
        ("type_a", format!("/a?auth_key=1-0-0-{hash}&auth_key=2-0-0-{hash}")),
        ("type_b", format!("/202601020304/{hash}/202601020304/{hash}/a")),
        ("type_c", format!("/{hash}/65a0b1c2/a?KEY1={hash}&KEY2=65a0b1c2")),
    ];
    for (kind, path) in cases {
        let functions = one("aliauth", &[("auth_type", kind), ("auth_key1", "secret1")]);
        assert_eq!(functions.key(&UrlKey::new("a.com", &path).unwrap()).path_and_query(), "/a", "{path}");
    }
}

#[test]
fn signature_that_is_no_hash_is_none() {
    for value in ["1-2-3-,", "1-2-3-curl", "1-2-3-", "1-2-3-0123456789abcdef0123456789abcdeg"] {
        assert!(access::AuthType::A.split(&format!("/a?auth_key={value}")).is_none(), "{value}");
    }
}

#[test]
fn address_is_in_a_list_however_it_is_written() {
    let cases = [
        // range              address             in it
        ("::ffff:10.0.0.0/120", "10.0.0.7", true),
        ("::ffff:10.0.0.0/120", "::ffff:10.0.0.7", true),
        ("::ffff:10.0.0.0/120", "10.0.1.7", false),
        ("10.0.0.0/24", "::ffff:10.0.0.7", true),
        ("10.0.0.0/0", "192.0.2.1", true),
        ("::/0", "2001:db8::1", true),
        ("::/0", "192.0.2.1", false),
    ];
    for (range, address, expected) in cases {
        let range = access::IpRange::parse(range).unwrap();
        assert_eq!(range.has(address.parse().unwrap()), expected, "{range:?} {address}");
    }
}

#[test]
fn hosts_with_a_port_and_addresses_are_hosts() {
    for host in ["a.com", "A_b.com:8080", "192.0.2.1", "192.0.2.1:80", "2001:db8::1"] {
        let functions = one("set_req_host_header", &[("domain_name", host)]);
        assert_eq!(functions.rules().fetch.host.as_deref(), Some(host.to_ascii_lowercase().as_str()));
    }
}
