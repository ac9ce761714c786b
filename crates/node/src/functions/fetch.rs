//! How an origin is asked: by which scheme and port, as which host, for which path.

use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, Uri};
use model::functions::Functions;
use model::{Source, SourceKind, UrlKey};

use crate::upstream::Asked;

/// How one source is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The name to ask for with TLS, where that is used.
    pub(crate) tls: Option<String>,
    /// The port.
    pub(crate) port: u16,
    /// The `Host` to send.
    pub(crate) host: String,
    /// The path, with its query.
    pub(crate) path: String,
    /// How long to wait for the first byte, where that is configured.
    pub(crate) timeout: Option<Duration>,
}

/// How `source` is asked for the URL `asked` of a user, which is stored under `key`.
pub(crate) fn way(functions: &Functions, source: &Source, key: &UrlKey, asked: &Asked) -> Way {
    let fetch = &functions.rules().fetch;
    let (mut https, mut port) = (source.is_secure(), source.port);
    if let Some(scheme) = fetch.scheme {
        https = scheme.https.unwrap_or(asked.secure);
        match (scheme.ports, https) {
            (Some((http, _)), false) => port = http,
            (Some((_, https)), true) => port = https,
            // The default port of the other scheme becomes that of this one.
            (None, true) if port == 80 => port = 443,
            (None, false) if port == 443 => port = 80,
            (None, _) => {}
        }
    }
    let site = asked.host.as_str();
    // A certificate for an IP address is rare; the operator of the server has one for the site that is asked for there.
    let name = fetch.sni.as_deref().unwrap_or(match source.kind {
        SourceKind::Address => site,
        SourceKind::Domain | SourceKind::Bucket => &source.content,
    });
    let mut way = Way {
        tls: https.then(|| name.to_owned()),
        port,
        host: match source.kind {
            SourceKind::Address | SourceKind::Domain => site.to_owned(),
            SourceKind::Bucket => source.content.clone(),
        },
        path: match fetch.by_key {
            true => fetch.path(key.path_and_query()),
            false => match &functions.rules().key {
                // The signature went upstream as a part of the key, and is left out here.
                rule if rule.verbatim => fetch.path(&rule.visited(&rule.unsigned(&asked.path))),
                rule => fetch.path(&rule.visited(&asked.path)),
            },
        },
        timeout: fetch.timeout,
    };
    let told = fetch.hosts.iter().find(|(origin, _)| *origin == source.content.to_ascii_lowercase());
    if let Some(host) = told.map(|(_, host)| host).or(fetch.host.as_ref()) {
        way.host = host.clone();
    }
    way
}

/// Applies the domain's rules to the headers that an origin is sent.
pub(crate) fn headers(functions: &Functions, headers: &mut HeaderMap) {
    functions.rules().fetch.headers.iter().for_each(|rule| rule.apply(headers));
}

/// A server that redirects.
#[derive(Clone, Debug)]
pub(crate) struct Redirecting<'a> {
    /// Its scheme, address and port, and the path it was asked for.
    pub(crate) url: Uri,
    /// The `Host` that it was sent.
    pub(crate) host: &'a str,
    /// The host that the user asked for.
    pub(crate) site: &'a str,
    /// Whether it is the domain's source, rather than a server that the source led to.
    pub(crate) is_source: bool,
}

/// The target of a redirect that is to be followed.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Uri,
    /// The `Host` to send.
    pub(crate) host: String,
    /// Whether it is on the server that redirects.
    pub(crate) same: bool,
}

/// The target of a redirect, if it is to be followed.
///
/// A server names itself by the `Host` that it was sent, and a source by the site, too: DNS leads from the site's name
/// to this CDN, so a target there that is not on the source is left to the user.
pub(crate) fn follow(
    functions: &Functions,
    method: &Method,
    from: &Redirecting<'_>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<Target> {
    let follow = functions.rules().fetch.follow?;
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if !redirects || !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let base = url::Url::parse(&from.url.to_string()).ok()?;
    let location = headers.get(http::header::LOCATION)?.to_str().ok()?;
    let mut to = base.join(location).ok().filter(|to| matches!(to.scheme(), "http" | "https"))?;
    to.set_fragment(None);
    to.set_username("").ok()?;
    to.set_password(None).ok()?;
    if follow.retain_args && to.query().is_none() {
        to.set_query(base.query());
    }
    let authority = match to.port() {
        Some(port) => format!("{}:{port}", to.host_str()?),
        None => to.host_str()?.to_owned(),
    };
    let sent = from.host.parse::<Authority>().ok();
    let is = |name: &str| to.host_str().is_some_and(|host| host.eq_ignore_ascii_case(name));
    let own_name = sent.as_ref().is_some_and(|sent| is(sent.host())) || (from.is_source && is(from.site));
    let sent_port = sent.as_ref().and_then(Authority::port_u16);
    // A server may not know the port by which it is reached.
    let own_port = to.port().is_none_or(|port| [base.port(), sent_port].contains(&Some(port)));
    let same = to.origin() == base.origin() || (own_name && own_port && to.scheme() == base.scheme());
    if !same && is(from.site) {
        return None;
    }
    // A redirect to the same server is followed with the same `Host`.
    let host = if follow.retain_host || same { from.host.to_owned() } else { authority };
    Some(Target { url: to.as_str().parse().ok()?, host, same })
}

/// Removes what must not follow a redirect to another server: credentials for the first, and headers that the domain's
/// owner has origins sent.
pub(crate) fn leave_behind(functions: &Functions, headers: &mut HeaderMap) {
    let fetch = &functions.rules().fetch;
    if fetch.follow.is_some_and(|follow| !follow.retain_header) {
        headers.remove(AUTHORIZATION);
        headers.remove(COOKIE);
        fetch.headers.iter().for_each(|rule| _ = headers.remove(&rule.name));
    }
}

/// Most redirects that are followed in a row.
pub(crate) fn follows(functions: &Functions) -> u32 {
    functions.rules().fetch.follow.map_or(0, |follow| follow.most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Function;

    fn functions(list: &[(&str, &[(&str, &str)])]) -> Functions {
        let list = list.iter().zip(1..).map(|((name, args), id)| {
            let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Function { id, name: (*name).to_owned(), args, parent: None }
        });
        let list: Vec<Function> = list.collect();
        model::functions::check(&list).unwrap();
        Functions::new(list)
    }

    #[test]
    fn origins_are_asked_as_configured() {
        let source = |port| Source {
            kind: SourceKind::Domain,
            content: "O.example.com".into(),
            port,
            scheme: None,
            priority: 20,
            weight: 10,
        };
        let scheme = |scheme: &'static str, ports: &'static str| {
            functions(&[(
                "forward_scheme",
                &[("enable", "on"), ("scheme_origin", scheme), ("scheme_origin_port", ports)],
            )])
        };
        let host = functions(&[("set_req_host_header", &[("domain_name", "h.example.com")])]);
        let hosts = functions(&[
            ("set_req_host_header", &[("domain_name", "h.example.com")]),
            ("origin_host", &[("origin", "o.example.com"), ("host", "i.example.com")]),
        ]);
        let by_key = functions(&[("set_hashkey_args", &[("disable", "on"), ("keep_oss_args", "off")])]);
        let cases = [
            // functions                       port  https  port   host             path
            (&Functions::default(), 80, (false, 80, "a.com", "/x?y")),
            (&Functions::default(), 443, (true, 443, "a.com", "/x?y")),
            (&scheme("https", ""), 80, (true, 443, "a.com", "/x?y")),
            (&scheme("https", ""), 8443, (true, 8443, "a.com", "/x?y")),
            (&scheme("http", ""), 443, (false, 80, "a.com", "/x?y")),
            (&scheme("follow", ""), 443, (false, 80, "a.com", "/x?y")),
            (&scheme("follow", "81:444"), 443, (false, 81, "a.com", "/x?y")),
            (&scheme("https", "81:444"), 80, (true, 444, "a.com", "/x?y")),
            (&host, 80, (false, 80, "h.example.com", "/x?y")),
            (&hosts, 80, (false, 80, "i.example.com", "/x?y")),
            (&by_key, 80, (false, 80, "a.com", "/x")),
        ];
        for (functions, port, expected) in cases {
            let key = functions.key(&UrlKey::new("a.com", "/x?y").unwrap());
            let asked = Asked { host: "a.com".to_owned(), path: "/x?y".to_owned(), secure: false };
            let way = way(functions, &source(port), &key, &asked);
            assert_eq!(
                (way.tls.is_some(), way.port, way.host.as_str(), way.path.as_str()),
                expected,
                "{functions:?} {port}"
            );
        }
    }

    #[test]
    fn origin_is_asked_by_the_scheme_of_the_user_where_that_is_followed() {
        let source = Source {
            kind: SourceKind::Address,
            content: "192.0.2.1".into(),
            port: 80,
            scheme: None,
            priority: 20,
            weight: 10,
        };
        let cases = [
            // scheme  ports  by TLS  expected
            ("follow", "", true, (true, 443)),
            ("follow", "", false, (false, 80)),
            ("follow", "81:444", true, (true, 444)),
            ("http", "", true, (false, 80)),
            ("https", "", false, (true, 443)),
        ];
        for (scheme, ports, secure, expected) in cases {
            let args = [("enable", "on"), ("scheme_origin", scheme), ("scheme_origin_port", ports)];
            let functions = functions(&[("forward_scheme", &args)]);
            let asked = Asked { host: "a.com".to_owned(), path: "/x".to_owned(), secure };
            let way = way(&functions, &source, &UrlKey::new("a.com", "/x").unwrap(), &asked);
            assert_eq!((way.tls.is_some(), way.port), expected, "{scheme} {ports} {secure}");
        }
    }

    #[test]
    fn redirects_are_followed_where_that_is_on() {
        let on = functions(&[("follow_302", &[("enable", "on")])]);
        let retaining = functions(&[("follow_302", &[("enable", "on"), ("retain_args", "on"), ("retain_host", "on")])]);
        let source =
            Redirecting { url: "http://o:81/d/x?y=1".parse().unwrap(), host: "h", site: "www.a.com", is_source: true };
        let cases = [
            (&on, 302, "/z", Some(("http://o:81/z", "h"))),
            (&on, 302, "z?w=2", Some(("http://o:81/d/z?w=2", "h"))),
            (&on, 301, "http://p/z#f", Some(("http://p/z", "p"))),
            (&on, 307, "https://u:s@p:444/z", Some(("https://p:444/z", "p:444"))),
            (&on, 302, "ftp://p/z", None),
            (&on, 304, "/z", None),
            (&on, 200, "/z", None),
            (&retaining, 302, "http://p/z", Some(("http://p/z?y=1", "h"))),
            (&Functions::default(), 302, "/z", None),
        ];
        for (functions, status, location, expected) in cases {
            let headers: HeaderMap = [(http::header::LOCATION, location.parse().unwrap())].into_iter().collect();
            let status = StatusCode::from_u16(status).unwrap();
            let got = follow(functions, &Method::GET, &source, status, &headers);
            let got = got.map(|target| (target.url.to_string(), target.host));
            let expected = expected.map(|(to, host): (&str, &str)| (to.to_owned(), host.to_owned()));
            assert_eq!(got, expected, "{status} {location}");
        }
        let post = follow(&on, &Method::POST, &source, StatusCode::FOUND, &HeaderMap::new());
        assert_eq!((post.is_none(), follows(&on), follows(&Functions::default())), (true, 2, 0));
    }

    #[test]
    fn server_that_redirects_to_its_own_name_is_asked_again_and_the_cdn_is_not() {
        let on = functions(&[("follow_302", &[("enable", "on")])]);
        let site = "www.a.com";
        let cases = [
            // URL of the server           host            is the source  target                      same server
            ("http://192.0.2.10/x", site, true, "http://www.a.com/z", Some(true)),
            ("http://192.0.2.10/x", site, true, "http://WWW.a.com:80/z", Some(true)),
            ("http://192.0.2.10/x", site, true, "//www.a.com/z", Some(true)),
            ("http://192.0.2.10:8080/x", site, true, "http://www.a.com/z", Some(true)),
            ("http://192.0.2.10:8080/x", site, true, "http://www.a.com:8080/z", Some(true)),
            ("http://192.0.2.10:8080/x", "www.a.com:81", true, "http://www.a.com:81/z", Some(true)),
            ("https://192.0.2.10/x", site, true, "https://www.a.com/z", Some(true)),
            ("http://192.0.2.10/x", "h", true, "http://h/z", Some(true)),
            ("http://192.0.2.10/x", "h", true, "http://www.a.com/z", Some(true)),
            // DNS leads from the site's name to this CDN.
            ("http://192.0.2.10/x", site, true, "https://www.a.com/z", None),
            ("https://192.0.2.10/x", site, true, "http://www.a.com/z", None),
            ("http://192.0.2.10/x", site, true, "http://www.a.com:9/z", None),
            ("http://p/x", "p", false, "http://www.a.com/z", None),
            // Another name may lead anywhere.
            ("http://192.0.2.10/x", "h", true, "https://h/z", Some(false)),
            ("http://192.0.2.10/x", site, true, "http://a.com/z", Some(false)),
            ("http://p/x", site, false, "http://www.a.com/z", Some(true)),
        ];
        for (url, host, is_source, to, same) in cases {
            let headers: HeaderMap = [(http::header::LOCATION, to.parse().unwrap())].into_iter().collect();
            let from = Redirecting { url: url.parse().unwrap(), host, site, is_source };
            let target = follow(&on, &Method::GET, &from, StatusCode::FOUND, &headers);
            assert_eq!(target.as_ref().map(|target| target.same), same, "{from:?} {to}");
            let kept = target.filter(|target| target.same).is_none_or(|target| target.host == host);
            assert!(kept, "{from:?} {to}");
        }
    }
}
