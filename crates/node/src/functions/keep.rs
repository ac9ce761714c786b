//! How long a response is kept, by the rules of the domain's owner: given to `httpcache` as a `Cache-Control` that
//! replaces the origin's.
//!
//! The precedence is: an origin that forbids keeping a response (`no-store`, `no-cache`, `max-age=0`), unless the rule
//! ignores that; the rule for the status, else the path rule of greatest weight, the older of two equals, unless the
//! rule puts the origin's lifetime first; the origin's lifetime; the default for the status; the heuristic lifetime. A
//! private response stays private, and one to a request with `Authorization` is shared only where its origin allows it,
//! whatever the rules say.
//!
//! The result is stored in the head, so a body is kept by the rules it came under. When rules change, the domain's
//! entry in the log makes every body be validated, which applies the new rules to it.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CACHE_CONTROL, EXPIRES, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httpcache::Directives;
use model::functions::{Applies, Functions, Ttls};

/// The `Cache-Control` that counts, where a rule has changed it.
const KEPT: HeaderName = HeaderName::from_static("warmfront-kept");
/// How long users are told to keep it, where a rule says so; in seconds.
const TOLD: HeaderName = HeaderName::from_static("warmfront-told");
/// How long past its lifetime a body may replace an answer that failed, where the rule's time counts; in seconds.
const STALE: HeaderName = HeaderName::from_static("warmfront-stale");
/// The shape of the rules by which the key was made, where there are any.
const SHAPE: HeaderName = HeaderName::from_static("warmfront-shape");

/// The domain's rules for headers of origins that a head has been through, where there are any.
const RULED: HeaderName = HeaderName::from_static("warmfront-ruled");

/// Every field that functions leave in a stored head.
const MARKS: [HeaderName; 5] = [KEPT, TOLD, STALE, SHAPE, RULED];

/// The targeted field for caches like this one, which takes precedence over `Cache-Control` (RFC 9213).
const TARGETED: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Applies the domain's rules for headers of origins to the answer of an origin. A 304 need not repeat the fields of
/// the stored head, which have been through the rules already, so only the fields that it has are changed.
pub(crate) fn answered(functions: &Functions, status: StatusCode, headers: &mut HeaderMap) {
    let rules = &functions.rules().origin_response;
    let there: Vec<bool> = rules.iter().map(|rule| headers.contains_key(&rule.name)).collect();
    let whole = status != StatusCode::NOT_MODIFIED;
    rules.iter().zip(there).filter(|(_, there)| whole || *there).for_each(|(rule, _)| rule.apply(headers));
}

/// Applies the rules for headers of origins to `headers`, which a 304 made of the stored head `stored`, if that was
/// stored under other rules. The fields that the 304 has went through the rules where it arrived.
pub(crate) fn confirmed(functions: &Functions, stored: &HeaderMap, not_modified: &HeaderMap, headers: &mut HeaderMap) {
    let ruled = stored.get(RULED).cloned();
    if ruled == Some(functions.origin_headers()).filter(|rules| *rules != 0).map(HeaderValue::from) {
        return;
    }
    let rules = functions.rules().origin_response.iter();
    rules.filter(|rule| !not_modified.contains_key(&rule.name)).for_each(|rule| rule.apply(headers));
}

/// Records the effect of the functions in a head that is to be stored. `path` is the one users ask for.
pub(crate) fn mark(functions: &Functions, path: &str, status: StatusCode, headers: &mut HeaderMap) {
    for name in MARKS {
        headers.remove(name);
    }
    let rules = functions.rules();
    if functions.origin_headers() != 0 {
        headers.insert(RULED, HeaderValue::from(functions.origin_headers()));
    }
    if functions.shape() != 0 {
        headers.insert(SHAPE, HeaderValue::from(functions.shape()));
    }
    if let Some(rule) = rules.stale.as_ref().filter(|rule| !rule.is_failure(status.as_u16()))
        && !(rule.origin_first && Directives::of(headers).stale_if_error.is_some())
    {
        headers.insert(STALE, HeaderValue::from(rule.extension.as_secs()));
    }
    let path = path.split('?').next().unwrap_or_default();
    let Some(ruled) = ruled(&rules.ttls, path, status.as_u16(), headers) else { return };
    if let Ok(kept) = HeaderValue::from_str(&ruled.text()) {
        headers.insert(KEPT, kept);
    }
    if ruled.told {
        headers.insert(TOLD, HeaderValue::from(ruled.ttl.as_secs()));
    }
}

/// Whether a stored head was kept under the key that these functions make.
pub(crate) fn is_keyed_by(functions: &Functions, headers: &HeaderMap) -> bool {
    match headers.get(SHAPE) {
        None => functions.shape() == 0,
        Some(shape) => *shape == HeaderValue::from(functions.shape()),
    }
}

/// The request headers that select a variant: those that the origin names, and those that the domain's owner names.
/// Sorted, each once.
pub(crate) fn vary(functions: &Functions, headers: &HeaderMap) -> Result<Vec<HeaderName>, httpcache::VaryStar> {
    let mut fields = httpcache::vary_fields(headers)?;
    let own = &functions.rules().key.headers;
    if !own.is_empty() {
        fields.extend(own.iter().cloned());
        fields.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        fields.dedup();
    }
    Ok(fields)
}

/// Whether functions left something in a head.
pub(crate) fn is_marked(headers: &HeaderMap) -> bool {
    MARKS.iter().any(|name| headers.contains_key(name))
}

/// How long users are told to keep a body, where a rule says so.
pub(crate) fn told(headers: &HeaderMap) -> Option<&str> {
    headers.get(TOLD)?.to_str().ok()
}

/// The headers as `httpcache` is to read them.
pub(crate) fn effective(headers: &HeaderMap) -> Cow<'_, HeaderMap> {
    let (kept, stale) = (headers.get(KEPT), headers.get(STALE));
    if kept.or(stale).is_none() {
        return Cow::Borrowed(headers);
    }
    let mut read = headers.clone();
    if let Some(kept) = kept {
        for name in [TARGETED, EXPIRES, PRAGMA] {
            read.remove(name);
        }
        read.insert(CACHE_CONTROL, kept.clone());
    }
    if let Some(stale) = stale.and_then(|secs| secs.to_str().ok())
        && let Ok(stale) = HeaderValue::try_from(format!("stale-if-error={stale}"))
    {
        // The first of repeated directives counts (RFC 9111 §4.2.1), in a targeted field the last (RFC 9651 §4.2.2).
        if httpcache::is_targeted(&read) {
            read.append(TARGETED, stale.clone());
        }
        let said: Vec<HeaderValue> = read.get_all(CACHE_CONTROL).iter().cloned().collect();
        read.insert(CACHE_CONTROL, stale);
        said.into_iter().for_each(|line| _ = read.append(CACHE_CONTROL, line));
    }
    Cow::Owned(read)
}

/// Whether an answer of this status is a failure, which a stored response may replace where its time allows that.
pub(crate) fn is_failure(functions: &Functions, status: StatusCode) -> bool {
    match &functions.rules().stale {
        Some(rule) => rule.is_failure(status.as_u16()),
        None => matches!(status.as_u16(), 500 | 502 | 503 | 504), // RFC 5861 §4
    }
}

/// The effect of a rule on a head.
struct Ruled {
    ttl: Duration,
    /// To be validated before every use.
    revalidate: bool,
    /// Users are told `ttl`.
    told: bool,
    /// Directives of the origin that still count.
    rest: Vec<String>,
}

impl Ruled {
    fn text(&self) -> String {
        if self.ttl.is_zero() && !self.revalidate {
            return "no-store".to_owned();
        }
        let lifetime = if self.revalidate { "no-cache".to_owned() } else { format!("max-age={}", self.ttl.as_secs()) };
        std::iter::once(lifetime).chain(self.rest.iter().cloned()).collect::<Vec<_>>().join(", ")
    }
}

/// Whether the origin forbids keeping a response: `no-store`, `no-cache` or a lifetime of zero. The qualified form of
/// `no-cache` does not: it withholds fields ([`httpcache::kept`]).
fn forbids(said: &Directives) -> bool {
    said.no_store || said.no_cache || said.s_maxage.or(said.max_age).is_some_and(|lifetime| lifetime.is_zero())
}

/// Statuses that path rules apply to; others need a rule for their status.
fn is_ruled_by_path(status: u16) -> bool {
    matches!(status, 200 | 203 | 300 | 301 | 308 | 410)
}

fn ruled(ttls: &Ttls, path: &str, status: u16, headers: &HeaderMap) -> Option<Ruled> {
    if ttls.is_empty() {
        return None;
    }
    let said = Directives::of(headers);
    let rule: Option<(&Applies, Duration)> = match ttls.code(path, status) {
        Some((rule, ttl)) => Some((&rule.applies, ttl)),
        None => ttls.rule(path).filter(|_| is_ruled_by_path(status)).map(|rule| (&rule.applies, rule.ttl)),
    };
    if said.private {
        return None;
    }
    let forbids = forbids(&said);
    let has_lifetime = said.s_maxage.is_some() || said.max_age.is_some() || headers.contains_key(EXPIRES);
    let ruled = |ttl, applies: &Applies| {
        let rest = [
            // `s-maxage` allows sharing a response to a request with `Authorization`, too.
            ("public", said.public || said.s_maxage.is_some()),
            ("must-revalidate", said.must_revalidate),
            ("proxy-revalidate", said.proxy_revalidate),
            ("immutable", said.immutable),
        ];
        let stale = [("stale-while-revalidate", said.stale_while_revalidate), ("stale-if-error", said.stale_if_error)];
        let stale = stale.into_iter().filter_map(|(name, time)| Some(format!("{name}={}", time?.as_secs())));
        let rest = rest.into_iter().filter(|(_, is_said)| *is_said).map(|(name, _)| name.to_owned());
        Ruled {
            ttl,
            revalidate: applies.revalidate,
            told: applies.told && !applies.revalidate,
            rest: rest.chain(stale).collect(),
        }
    };
    match rule {
        Some((applies, _)) if forbids && !applies.no_cache_too => None,
        Some((applies, _)) if has_lifetime && !forbids && applies.origin_first => None,
        Some((applies, ttl)) => Some(ruled(ttl, applies)),
        None if forbids || has_lifetime => None,
        None => ttls.otherwise(status).map(|ttl| ruled(ttl, &Applies::default())),
    }
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

    fn lifetime(functions: &Functions, path: &str, status: u16, said: &[(&'static str, &str)]) -> Option<u64> {
        let mut headers: HeaderMap =
            said.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        let status = StatusCode::from_u16(status).unwrap();
        mark(functions, path, status, &mut headers);
        let now = std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let request = HeaderMap::new();
        let kept = httpcache::storable(&http::Method::GET, &request, status, &effective(&headers), now, now);
        kept.ok().map(|freshness| freshness.lifetime.as_secs())
    }

    #[test]
    fn time_is_kept_in_the_order_that_is_stated() {
        let on = "on";
        let jpg = |more: &[(&'static str, &'static str)]| {
            let args: Vec<(&str, &str)> =
                [("file_type", "jpg"), ("ttl", "60")].into_iter().chain(more.to_vec()).collect();
            functions(&[
                ("filetype_based_ttl_set", &args),
                ("default_ttl_code", &[("default_ttl_code", "200=7,4xx=3")]),
            ])
        };
        let (plain, origin_first, no_cache_too) =
            (jpg(&[]), jpg(&[("swift_origin_cache_high", on)]), jpg(&[("swift_no_cache_low", on)]));
        type Said = &'static [(&'static str, &'static str)];
        let cases: &[(&Functions, &str, u16, Said, Option<u64>)] = &[
            // rules         path      status  origin                                    kept for
            (&plain, "/a.jpg", 200, &[], Some(60)),
            (&plain, "/a.jpg?x", 200, &[("cache-control", "max-age=5")], Some(60)),
            (&plain, "/a.jpg", 200, &[("cdn-cache-control", "max-age=5")], Some(60)),
            (&plain, "/a.jpg", 200, &[("expires", "0")], Some(60)),
            (&plain, "/a.jpg", 200, &[("cache-control", "no-store")], None),
            (&plain, "/a.jpg", 200, &[("cache-control", "max-age=0"), ("etag", "\"x\"")], Some(0)),
            (&plain, "/a.jpg", 200, &[("cache-control", "private")], None),
            (&origin_first, "/a.jpg", 200, &[("cache-control", "max-age=5")], Some(5)),
            (&origin_first, "/a.jpg", 200, &[], Some(60)),
            (&no_cache_too, "/a.jpg", 200, &[("cache-control", "no-store")], Some(60)),
            (&no_cache_too, "/a.jpg", 200, &[("cache-control", "max-age=0")], Some(60)),
            (&no_cache_too, "/a.jpg", 200, &[("cache-control", "private")], None), // not shared
            // qualified forms withhold fields, and a comma in quotes ends no directive
            (&plain, "/a.jpg", 200, &[("cache-control", "no-cache=\"set-cookie\"")], Some(60)),
            (&plain, "/a.jpg", 200, &[("cache-control", "private=\"x-user\"")], Some(60)),
            (&plain, "/a.jpg", 200, &[("cache-control", "private=\"x-a, no-store, private\"")], Some(60)),
            (&plain, "/a.jpg", 200, &[("cache-control", "no-cache=\"etag\"")], None), // nothing is kept without it
            // a field that is no dictionary is ignored (RFC 9213)
            (&plain, "/a.jpg", 200, &[("cdn-cache-control", ""), ("cache-control", "private")], None),
            (&plain, "/a.jpg", 200, &[("cdn-cache-control", "max-age=60,"), ("cache-control", "private")], None),
            (&plain, "/a.jpg", 200, &[("cdn-cache-control", "Max-Age=60"), ("cache-control", "no-store")], None),
            (&plain, "/a.jpg", 200, &[("cdn-cache-control", "max-age=6"), ("cache-control", "no-store")], Some(60)),
            // no rule for the path: the origin, then the default for the status, then the heuristic
            (&plain, "/a.png", 200, &[("cache-control", "max-age=5")], Some(5)),
            (&plain, "/a.png", 200, &[], Some(7)),
            (&plain, "/a.png", 404, &[], Some(3)),
            (&plain, "/a.jpg", 404, &[], Some(3)), // path rules do not apply to a 404
            (&plain, "/a.png", 404, &[("cache-control", "no-store")], None),
            (&plain, "/a.png", 301, &[("etag", "\"x\"")], Some(10)),
        ];
        for (functions, path, status, said, expected) in cases {
            assert_eq!(lifetime(functions, path, *status, said), *expected, "{functions:?} {path} {status} {said:?}");
        }
    }

    #[test]
    fn status_rules_speak_before_path_rules_and_zero_is_not_at_all() {
        let both = functions(&[
            ("path_based_ttl_set", &[("path", "/"), ("ttl", "60"), ("weight", "99")]),
            ("path_force_ttl_code", &[("path", "/"), ("code_string", "302=0,4xx=2,404=9,301=4")]),
        ]);
        let cases = [(200, Some(60)), (301, Some(4)), (302, None), (403, Some(2)), (404, Some(9)), (500, None)];
        for (status, expected) in cases {
            assert_eq!(lifetime(&both, "/a", status, &[]), expected, "{status}");
        }
    }

    #[test]
    fn what_needs_leave_to_be_shared_still_does() {
        let rules = functions(&[("path_based_ttl_set", &[("path", "/"), ("ttl", "60")])]);
        let request: HeaderMap =
            [(http::header::AUTHORIZATION, HeaderValue::from_static("Basic x"))].into_iter().collect();
        let now = std::time::UNIX_EPOCH;
        for (said, shared) in [("max-age=5", false), ("public", true), ("s-maxage=5", true), ("must-revalidate", true)]
        {
            let mut headers: HeaderMap = [(CACHE_CONTROL, said.parse().unwrap())].into_iter().collect();
            mark(&rules, "/a", StatusCode::OK, &mut headers);
            let kept =
                httpcache::storable(&http::Method::GET, &request, StatusCode::OK, &effective(&headers), now, now);
            assert_eq!(kept.is_ok(), shared, "{said}");
        }
    }

    #[test]
    fn what_never_changes_still_does_not_under_a_rule() {
        let rules = functions(&[("path_based_ttl_set", &[("path", "/"), ("ttl", "60")])]);
        let now = std::time::UNIX_EPOCH;
        for (said, immutable) in [("max-age=5, immutable", true), ("max-age=5", false)] {
            let mut headers: HeaderMap = [(CACHE_CONTROL, said.parse().unwrap())].into_iter().collect();
            mark(&rules, "/a", StatusCode::OK, &mut headers);
            let kept = httpcache::Freshness::of(StatusCode::OK, &effective(&headers), now, now);
            assert_eq!((kept.lifetime.as_secs(), kept.immutable), (60, immutable), "{said}");
        }
    }

    #[test]
    fn rules_may_ask_for_confirmation_and_tell_users_the_same_time() {
        let each = functions(&[("path_based_ttl_set", &[("path", "/"), ("ttl", "60"), ("force_revalidate", "on")])]);
        assert_eq!(lifetime(&each, "/a", 200, &[("etag", "\"x\"")]), Some(0));
        let told =
            functions(&[("path_based_ttl_set", &[("path", "/"), ("ttl", "60"), ("swift_follow_cachetime", "on")])]);
        let mut headers = HeaderMap::new();
        mark(&told, "/a", StatusCode::OK, &mut headers);
        assert_eq!(super::told(&headers), Some("60"));
        mark(&Functions::default(), "/a", StatusCode::OK, &mut headers);
        assert!(headers.is_empty(), "marks go with the rules: {headers:?}");
    }

    #[test]
    fn stale_bodies_stand_in_for_as_long_as_the_rule_says_where_the_origin_does_not_forbid_it() {
        let rule = |more: &[(&'static str, &'static str)]| functions(&[("serving_stale_content", more)]);
        let (hour, minute) = (rule(&[]), rule(&[("extend_expiration_time", "60")]));
        let origin_first = rule(&[("origin_first", "on")]);
        let with_ttl = functions(&[
            ("serving_stale_content", &[("extend_expiration_time", "60")]),
            ("path_based_ttl_set", &[("path", "/"), ("ttl", "9")]),
        ]);
        type Said = &'static [(&'static str, &'static str)];
        let cases: &[(&Functions, Said, u64, u64)] = &[
            // rules        origin                                            fresh  stale if error
            (&hour, &[("cache-control", "max-age=5")], 5, 3600),
            (&minute, &[("cache-control", "max-age=5, stale-if-error=7")], 5, 60),
            (&minute, &[("cdn-cache-control", "max-age=5, stale-if-error=7"), ("cache-control", "max-age=1")], 5, 60),
            (&minute, &[("cdn-cache-control", ""), ("cache-control", "max-age=1")], 1, 60),
            (&minute, &[("etag", "\"x\"")], 10, 60),
            (&origin_first, &[("cache-control", "max-age=5, stale-if-error=7")], 5, 7),
            (&origin_first, &[("cache-control", "max-age=5")], 5, 3600),
            (&with_ttl, &[("cache-control", "max-age=5, stale-if-error=7")], 9, 60),
            (&minute, &[("cache-control", "max-age=5, must-revalidate")], 5, 0),
        ];
        for (functions, said, fresh, stale) in cases {
            let mut headers: HeaderMap =
                said.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
            mark(functions, "/a", StatusCode::OK, &mut headers);
            let now = std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let got = httpcache::Freshness::of(StatusCode::OK, &effective(&headers), now, now);
            assert_eq!(
                (got.lifetime.as_secs(), got.stale_if_error.as_secs()),
                (*fresh, *stale),
                "{functions:?} {said:?}"
            );
        }
        let mut failed = HeaderMap::new();
        mark(&hour, "/a", StatusCode::BAD_GATEWAY, &mut failed);
        assert!(failed.is_empty(), "what failed stands in for nothing");
        let named = rule(&[("origin_error_status_code", "404,5xx")]);
        let failures =
            |functions| [403, 404, 500, 501].map(|status| is_failure(functions, StatusCode::from_u16(status).unwrap()));
        assert_eq!(failures(&named), [false, true, true, true]);
        assert_eq!(failures(&hour), [false, false, true, true]);
        assert_eq!(failures(&Functions::default()), [false, false, true, false]);
    }

    #[test]
    fn a_body_is_of_the_rules_its_key_was_made_by() {
        let keyed = functions(&[("set_hashkey_args", &[("disable", "on")])]);
        let mut headers = HeaderMap::new();
        assert!(is_keyed_by(&Functions::default(), &headers) && !is_keyed_by(&keyed, &headers));
        mark(&keyed, "/a", StatusCode::OK, &mut headers);
        assert!(!is_keyed_by(&Functions::default(), &headers) && is_keyed_by(&keyed, &headers));
    }
}
