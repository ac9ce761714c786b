//! Who may ask: rules about referring pages, client addresses and signed URLs. For users alone.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use http::header::REFERER;
use md5::{Digest, Md5};
use model::functions::{Access, Addresses, Auth, AuthType, ClientAddress, Referers};
use subtle::ConstantTimeEq;
use time::{Date, Month};

/// The address that a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client(pub(crate) IpAddr);

/// The zone of times in URLs of type B, in hours east of Greenwich.
const ZONE_HOURS: u64 = 8;

/// Why a user is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// For this reason.
    Forbidden(&'static str),
    /// The user is redirected to this URL.
    Elsewhere(String),
}

/// Whether a user may ask for `path`, which includes its query. An unknown address is in no list.
pub(crate) fn may(
    access: &Access,
    headers: &HeaderMap,
    client: Option<Client>,
    path: &str,
    now: SystemTime,
) -> Result<(), Refused> {
    if let Some(addresses) = &access.addresses
        && !address_may(addresses, headers, client)
    {
        return Err(Refused::Forbidden("this address may not ask"));
    }
    if let Some(referers) = &access.referers
        && !referer_may(referers, headers)
    {
        return Err(match &referers.redirect {
            Some(url) => Refused::Elsewhere(url.clone()),
            None => Refused::Forbidden("this page may not link here"),
        });
    }
    match &access.auth {
        Some(auth) if !is_signed(auth, path, now) => Err(Refused::Forbidden("the URL is not signed, or no longer")),
        _ => Ok(()),
    }
}

fn address_may(list: &Addresses, headers: &HeaderMap, client: Option<Client>) -> bool {
    let connection = client.map(|Client(address)| address);
    let first = |value: &http::HeaderValue| value.to_str().ok()?.split(',').next()?.trim().parse().ok();
    let forwarded = headers.get("x-forwarded-for").map(first);
    let has =
        |address: Option<IpAddr>| address.is_some_and(|address| list.ranges.iter().any(|range| range.has(address)));
    // A field that is there and cannot be read counts as no address, rather than as the connection's.
    let forwarded = forwarded.unwrap_or(connection);
    match (list.of, list.allow) {
        (ClientAddress::Connection, allow) => has(connection) == allow,
        (ClientAddress::Forwarded, allow) => has(forwarded) == allow,
        (ClientAddress::Both, true) => has(connection) && has(forwarded),
        (ClientAddress::Both, false) => !has(connection) && !has(forwarded),
    }
}

fn referer_may(list: &Referers, headers: &HeaderMap) -> bool {
    let Some(referer) = headers.get(REFERER).filter(|referer| !referer.is_empty()) else { return list.allow_empty };
    let text = String::from_utf8_lossy(referer.as_bytes()).to_ascii_lowercase();
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest.or(Some(text.as_str()).filter(|_| list.ignore_scheme)) else {
        return !list.allow; // it is no URL of a page
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let host = host.map_or(authority, |(host, _)| host);
    let host = host.strip_suffix('.').unwrap_or(host); // a trailing dot makes no other name
    let named = list.hosts.iter().any(|named| match named.strip_prefix("*.") {
        Some(above) => host.strip_suffix(above).is_some_and(|below| below.ends_with('.')),
        None => named == host || named == authority,
    });
    named == list.allow
}

/// Whether a path with its query is signed, and its signature still good at `now`.
fn is_signed(auth: &Auth, path: &str, now: SystemTime) -> bool {
    let Some((signature, unsigned)) = auth.kind.split(path) else { return false };
    let file = unsigned.split('?').next().unwrap_or_default();
    let Some(time) = time(auth.kind, signature.time) else { return false };
    let good_until = time.checked_add(auth.delta);
    if good_until.is_none_or(|until| now >= until) {
        return false;
    }
    let theirs = signature.hash.to_ascii_lowercase();
    // Every secret is tried, so that the time taken does not tell which it was.
    auth.secrets.iter().fold(false, |good, secret| {
        let text = match auth.kind {
            AuthType::A => format!("{file}-{}-{secret}", signature.signed),
            AuthType::B => format!("{secret}{}{file}", signature.time),
            AuthType::C => format!("{secret}{file}{}", signature.time),
        };
        let ours = hex::encode(Md5::digest(text.as_bytes()));
        good | bool::from(ours.as_bytes().ct_eq(theirs.as_bytes()))
    })
}

/// The time in a signature.
fn time(kind: AuthType, text: &str) -> Option<SystemTime> {
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let secs = match kind {
        AuthType::A => digits(text)?,
        AuthType::C => u64::from_str_radix(text, 16).ok()?,
        AuthType::B => {
            let part = |from: usize, to: usize| digits(text.get(from..to)?);
            let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
            let (hour, minute) = (part(8, 10)?, part(10, 12)?);
            if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
                return None;
            }
            let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
            let first = Date::from_calendar_date(i32::try_from(year).ok()?, month, 1).ok()?;
            // A day that the month does not have counts on into the next month.
            let secs = first.midnight().assume_utc().unix_timestamp().cast_unsigned() + (day - 1) * 86_400;
            (secs + hour * 3600 + minute * 60).checked_sub(ZONE_HOURS * 3600)?
        }
    };
    UNIX_EPOCH.checked_add(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use model::{Function, Functions};

    /// Headers.
    type Given = &'static [(&'static str, &'static str)];

    fn functions(name: &str, args: &[(&str, &str)]) -> Functions {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let list = vec![Function { id: 1, name: name.to_owned(), args, parent: None }];
        model::functions::check(&list).unwrap();
        Functions::new(list)
    }

    fn allowed(functions: &Functions, headers: &[(&'static str, &str)], client: &str, path: &str, now: u64) -> bool {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let client = client.parse().ok().map(Client);
        let now = UNIX_EPOCH + Duration::from_secs(now);
        may(&functions.rules().access, &headers, client, path, now).is_ok()
    }

    #[test]
    fn lists_of_addresses_hold() {
        let forwarded: &[(&'static str, &str)] = &[("x-forwarded-for", "10.0.0.1, 9.9.9.9")];
        let unreadable: &[(&'static str, &str)] = &[("x-forwarded-for", "unknown")];
        type Headers<'a> = &'a [(&'static str, &'a str)];
        let cases: &[(&str, &str, &str, Headers<'_>, bool)] = &[
            // list                 of      client      headers     may
            ("ip_allow_list_set", "", "10.0.0.7", &[], true),
            ("ip_allow_list_set", "", "11.0.0.7", &[], false),
            ("ip_allow_list_set", "", "11.0.0.7", forwarded, false), // what a client says of itself is not believed
            ("ip_allow_list_set", "on", "11.0.0.7", forwarded, true),
            ("ip_allow_list_set", "on", "10.0.0.7", unreadable, false),
            ("ip_allow_list_set", "on", "10.0.0.7", &[], true),
            ("ip_allow_list_set", "all", "11.0.0.7", forwarded, false),
            ("ip_allow_list_set", "", "", &[], false),
            ("ip_black_list_set", "", "10.0.0.7", &[], false),
            ("ip_black_list_set", "", "11.0.0.7", &[], true),
            ("ip_black_list_set", "on", "11.0.0.7", forwarded, false),
            ("ip_black_list_set", "all", "11.0.0.7", forwarded, false),
            ("ip_black_list_set", "off", "11.0.0.7", forwarded, true),
        ];
        for (list, of, client, headers, expected) in cases {
            let functions = functions(list, &[("ip_list", "10.0.0.0/24,::1"), ("ip_acl_xfwd", of)]);
            assert_eq!(allowed(&functions, headers, client, "/", 0), *expected, "{list} {of} {client} {headers:?}");
        }
    }

    #[test]
    fn lists_of_referers_hold() {
        let cases: &[(bool, Given, Option<&str>, bool)] = &[
            (true, &[], Some("http://a.com/x"), true),
            (true, &[], Some("https://A.com:8443"), true),
            (true, &[], Some("https://x.b.com/"), true),
            (true, &[], Some("https://b.com/"), false), // the wildcard covers only names below it
            (true, &[], Some("https://evil.com/a.com"), false),
            (true, &[], Some("https://a.com@evil.com/"), false),
            (true, &[], Some("https://a.com.evil.com/"), false),
            (true, &[], Some("a.com"), false),
            (true, &[("ignore_scheme", "on")], Some("a.com"), true),
            (true, &[], None, true),
            (true, &[("allow_empty", "off")], None, false),
            (false, &[], Some("http://a.com/x"), false),
            (false, &[], Some("http://a.com./x"), false),
            (false, &[], Some("http://c.com/x"), true),
            (false, &[("allow_empty", "off")], None, false),
        ];
        for (allow, args, referer, expected) in cases {
            let (name, list) = match allow {
                true => ("referer_white_list_set", "refer_domain_allow_list"),
                false => ("referer_black_list_set", "refer_domain_deny_list"),
            };
            let args: Vec<(&str, &str)> = [(list, "a.com,*.b.com")].into_iter().chain(args.to_vec()).collect();
            let headers: Vec<(&'static str, &str)> = referer.iter().map(|referer| ("referer", *referer)).collect();
            let got = allowed(&functions(name, &args), &headers, "", "/", 0);
            assert_eq!(got, *expected, "{name} {args:?} {referer:?}");
        }
    }

    #[test]
    fn signatures_are_good_until_their_time_is_over() {
        // The examples of the vendor's pages: secret `aliyuncdnexp1234`, file /video/standard/1K.html or test.mp4.
        let a = "/video/standard/1K.html?auth_key=1444435200-0-0-80cd3862d699b7118eed99103f2a3a4f";
        let b = "/201508150800/9044548ef1527deadafa49a890a377f0/4/44/44c0909bcfc20a01afaf256ca99a8b8b.mp3";
        let c = "/a37fa50a5fb8f71214b1e7c95ec7a1bd/55CE8100/test.flv";
        let c_query = "/test.flv?KEY1=a37fa50a5fb8f71214b1e7c95ec7a1bd&KEY2=55CE8100";
        let cases = [
            ("type_a", a, 1_444_435_200, true),
            ("type_a", a, 1_444_435_200 + 1799, true),
            ("type_a", a, 1_444_435_200 + 1800, false),
            ("type_a", &a.replace("1K", "2K"), 1_444_435_200, false),
            ("type_a", &a.replace("1444435200-", "1444435201-"), 1_444_435_200, false),
            ("type_a", "/video/standard/1K.html", 1_444_435_200, false),
            ("type_a", "/x?auth_key=", 0, false),
            ("type_a", "/x?auth_key=---", 0, false),
            ("type_b", b, 1_439_596_800, true), // 2015-08-15 08:00 in the zone
            ("type_b", b, 1_439_596_800 + 1800, false),
            ("type_b", &b.replace(".mp3", ".mp4"), 1_439_596_800, false),
            ("type_c", c, 0x55CE_8100, true),
            ("type_c", c_query, 0x55CE_8100, true),
            ("type_c", c, 0x55CE_8100 + 1800, false),
            ("type_c", "/test.flv", 0, false),
        ];
        for (kind, path, now, expected) in cases {
            let functions = functions(
                "aliauth",
                &[("auth_type", kind), ("auth_key1", "another1"), ("auth_key2", "aliyuncdnexp1234")],
            );
            assert_eq!(allowed(&functions, &[], "", path, now), expected, "{kind} {path} {now}");
        }
    }

    #[test]
    fn signature_is_of_one_file_and_one_time() {
        let hash = |text: &str| hex::encode(Md5::digest(text.as_bytes()));
        let c = hash("aliyuncdnexp1234/p/1255CE8100");
        let a = hash("/img-9999999999-x.jpg-1444435200-0-0-aliyuncdnexp1234");
        let cases = [
            ("type_c", format!("/{c}/55CE8100/p/12"), true),
            ("type_c", format!("/{c}/255CE8100/p/1"), false),
            ("type_c", format!("/p/1?KEY1={c}&KEY2=255CE8100"), false),
            ("type_a", format!("/img-9999999999-x.jpg?auth_key=1444435200-0-0-{a}"), true),
            ("type_a", format!("/img?auth_key=9999999999-x.jpg-1444435200-0-0-{a}"), false),
        ];
        for (kind, path, expected) in cases {
            let functions = functions("aliauth", &[("auth_type", kind), ("auth_key1", "aliyuncdnexp1234")]);
            let now = if kind == "type_a" { 1_444_435_200 } else { 0x55CE_8100 };
            assert_eq!(allowed(&functions, &[], "", &path, now), expected, "{kind} {path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_read_without_a_panic(path in "/[0-9a-z/?=&K-]{0,80}", referer in "\\PC{0,30}") {
            for kind in ["type_a", "type_b", "type_c"] {
                let functions = functions("aliauth", &[("auth_type", kind), ("auth_key1", "secret1")]);
                proptest::prop_assert!(!allowed(&functions, &[], "", &path, 1_000_000_000_000));
            }
            if HeaderValue::from_str(&referer).is_ok() {
                let list = functions("referer_white_list_set", &[("refer_domain_allow_list", "a.com")]);
                let _ = allowed(&list, &[("referer", &referer)], "", "/", 0);
            }
        }
    }
}
