//! Requests that cannot be read, cannot be proved, or come at the wrong time: code, status and text.

use std::time::{Duration, SystemTime};

use aliyun::{
    AccessKey, Ask, BODY_BYTES_MAX, Format, Incoming, PAIRS_MAX, Refusal, WINDOW, encode_pairs, read, sign_v1, sign_v3,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const KEY: AccessKey<'_> = AccessKey { id: "key", secret: "secret" };

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045) // 2026-01-02T03:04:05Z
}

fn ask(action: &str) -> Ask<'_> {
    Ask { method: &Method::POST, action, version: "2018-05-10", now: now(), nonce: "n-1" }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A V1 request with everything in the query, some pairs changed: `None` leaves one out.
fn v1(changes: &[(&str, Option<&str>)]) -> String {
    let mut pairs = sign_v1(KEY, ask("DescribeRefreshQuota"), &owned(&[("Format", "JSON")]));
    for (name, value) in changes {
        pairs.retain(|(n, _)| n != name);
        pairs.extend(value.map(|value| ((*name).to_owned(), value.to_owned())));
    }
    encode_pairs(&pairs)
}

/// A V3 request's headers, some changed: `None` leaves one out.
fn v3(body: &[u8], changes: &[(&str, Option<&str>)]) -> HeaderMap {
    let signed = sign_v3(KEY, ask("DescribeRefreshQuota"), "api.example.com:9680", &[], body, &[]);
    let mut headers: HeaderMap = signed
        .into_iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(&value).unwrap()))
        .collect();
    for (name, value) in changes {
        let name: HeaderName = name.parse().unwrap();
        headers.remove(&name);
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
    }
    headers
}

fn post<'a>(query: &'a str, headers: &'a HeaderMap, body: &'a [u8]) -> Incoming<'a> {
    Incoming { method: &Method::POST, path: "/", query, headers, body }
}

fn refused(incoming: &Incoming<'_>) -> Refusal {
    match read(incoming) {
        Err(refusal) => refusal,
        Ok(request) => request.verify(KEY.secret).expect_err("the request is in order"),
    }
}

#[test]
fn v1_envelope_is_checked_in_the_vendors_order() {
    let none = HeaderMap::new();
    let incomplete = "IncompleteSignature";
    type Changes<'a> = &'a [(&'a str, Option<&'a str>)];
    let cases: &[(Changes<'_>, u16, &str, &str)] = &[
        (&[("Action", None), ("Version", None)], 400, "MissingParameter", "parameter \"Action\" that"),
        (&[("Version", None), ("AccessKeyId", None)], 400, "MissingParameter", "parameter \"Version\" that"),
        (&[("Version", Some("2020-01-01"))], 400, "InvalidVersion", "Version is not valid."),
        (&[("Action", Some("MakeCoffee")), ("AccessKeyId", None)], 404, "InvalidAction.NotFound", "Specified api"),
        (&[("Action", Some("pushobjectcache"))], 404, "InvalidAction.NotFound", "Specified api"), // case counts
        (&[("Action", Some("PreloadVodObjectCaches"))], 404, "InvalidAction.NotFound", "Specified api"),
        (&[("Version", Some("2014-11-11")), ("Action", Some("AddCdnDomain"))], 404, "InvalidAction.NotFound", ""),
        (&[("AccessKeyId", None), ("Timestamp", None)], 400, "MissingAccessKeyId", "AccessKeyId is mandatory for"),
        (&[("SignatureMethod", None)], 400, incomplete, "(SignatureMethod is missing)"),
        (&[("SignatureMethod", Some("HMAC-MD5"))], 400, incomplete, "(SignatureMethod must be"),
        (&[("SignatureVersion", None)], 400, incomplete, "(SignatureVersion is missing)"),
        (&[("SignatureVersion", Some("2.0"))], 400, incomplete, "(SignatureVersion must be 1.0)"),
        (&[("SignatureType", Some("PRIVATEKEY"))], 400, incomplete, "(SignatureType must be empty)"),
        (&[("SignatureType", Some("BEARERTOKEN"))], 400, "MissingBearerToken", "BearerToken is mandatory for"),
        (&[("BearerToken", Some("t"))], 400, incomplete, "(SignatureType must be BEARERTOKEN"),
        (&[("Signature", None)], 400, incomplete, "(Signature is missing)"),
        (&[("Signature", Some("!!"))], 400, incomplete, "(Signature is not base64)"),
        (&[("SignatureNonce", None)], 400, "MissingParameter", "parameter \"SignatureNonce\" that"),
        (&[("Timestamp", None)], 400, "IllegalTimestamp", "parameter \"Timestamp\" that"),
        (&[("Timestamp", Some("2026-01-02 03:04:05"))], 400, "InvalidTimeStamp.Format", "not well formatted."),
        (&[("Timestamp", Some("2026-02-30T03:04:05Z"))], 400, "InvalidTimeStamp.Format", "not well formatted."),
        (&[("Signature", Some("AAAA"))], 400, "SignatureDoesNotMatch", "server string to sign is:POST&%2F&AccessKeyId"),
        (&[("Extra", Some("1"))], 400, "SignatureDoesNotMatch", "%26Extra%3D1%26"),
    ];
    for (changes, status, code, text) in cases {
        let refusal = refused(&post(&v1(changes), &none, b""));
        assert_eq!((refusal.status, refusal.code.as_ref()), (*status, *code), "{changes:?}: {refusal:?}");
        assert!(refusal.message.contains(text), "{changes:?}: {}", refusal.message);
    }
    assert_eq!(read(&post(&v1(&[]), &none, b"")).unwrap().verify(KEY.secret), Ok(()));
}

#[test]
fn incomplete_signature_keeps_the_colon_that_clients_split_at() {
    let refusal = refused(&post(&v1(&[("SignatureMethod", None)]), &HeaderMap::new(), b""));
    let start = "The request signature does not conform to Aliyun standards. server string to sign is:POST&%2F&";
    assert!(refusal.message.starts_with(start), "{}", refusal.message);
}

#[test]
fn v3_envelope_is_checked() {
    let signed = "host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version";
    let with = |headers: &str| format!("ACS3-HMAC-SHA256 Credential=key,SignedHeaders={headers},Signature=00");
    let incomplete = "IncompleteSignature";
    let mut cases = vec![
        ("x-acs-action", None, 400, "MissingParameter", "\"Action\""),
        ("x-acs-version", None, 400, "MissingParameter", "\"Version\""),
        ("x-acs-action", Some("MakeCoffee".to_owned()), 404, "InvalidAction.NotFound", ""),
        ("x-acs-date", None, 400, incomplete, "a header that was not sent"),
        ("x-acs-date", Some("yesterday".to_owned()), 400, "InvalidTimeStamp.Format", ""),
        ("x-acs-content-sha256", Some("00".to_owned()), 400, "SignatureDoesNotMatch", "server CanonicalRequest is ["),
        ("authorization", Some("ACS3-HMAC-SM3 Credential=key".to_owned()), 400, incomplete, "ACS3-HMAC-SHA256"),
        ("authorization", Some("ACS3-HMAC-SHA256".to_owned()), 400, incomplete, "Authorization must be"),
        ("authorization", Some("ACS3-HMAC-SHA256 Credential=key".to_owned()), 400, incomplete, "Authorization must be"),
        ("authorization", Some(with("")), 400, incomplete, "Authorization must be"),
        ("authorization", Some(with(signed)), 400, "SignatureDoesNotMatch", "server StringToSign is ["),
        ("authorization", Some(with(signed).replace("=00", "=0g")), 400, incomplete, "not hexadecimal"),
        ("authorization", Some(with(&format!("{signed};x-other"))), 400, incomplete, "was not sent"),
        ("authorization", Some(with(&"a;".repeat(100))), 400, incomplete, "too many headers"),
        ("authorization", None, 400, "MissingParameter", "\"Action\""), // then it is V1, with nothing in it
    ];
    for name in signed.split(';') {
        let rest: Vec<&str> = signed.split(';').filter(|signed| *signed != name).collect();
        cases.push(("authorization", Some(with(&rest.join(";"))), 400, incomplete, "SignedHeaders must contain"));
    }
    for (name, value, status, code, text) in cases {
        let headers = v3(b"", &[(name, value.as_deref())]);
        let refusal = refused(&post("", &headers, b""));
        assert_eq!((refusal.status, refusal.code.as_ref()), (status, code), "{name} {value:?}: {refusal:?}");
        assert!(refusal.message.contains(text), "{name} {value:?}: {}", refusal.message);
    }
}

#[test]
fn what_is_sent_with_a_meaning_must_be_signed() {
    for (name, value) in [("content-type", "application/x-www-form-urlencoded"), ("x-acs-security-token", "t")] {
        let refusal = refused(&post("", &v3(b"", &[(name, Some(value))]), b""));
        assert_eq!(refusal.code, "IncompleteSignature", "{name}");
        assert!(refusal.message.contains(&format!("must contain {name}")), "{}", refusal.message);
    }
    let mut headers = v3(b"", &[]);
    headers.append("x-acs-action", HeaderValue::from_static("PushObjectCache"));
    assert!(refused(&post("", &headers, b"")).message.contains("occurs more than once"));
}

#[test]
fn bearer_tokens_stand_in_for_signatures_of_both_kinds() {
    let headers = v3(b"", &[("authorization", None), ("x-acs-bearer-token", Some("BT"))]);
    let incoming = post("SignatureType=BEARERTOKEN", &headers, b"");
    assert_eq!(Format::of(&incoming), Format::Json);
    let none = HeaderMap::new();
    let unsigned = [("AccessKeyId", None), ("Signature", None), ("SignatureMethod", None)];
    let bearer = [("SignatureType", Some("BEARERTOKEN")), ("BearerToken", Some("BT"))];
    let query = v1(&[&unsigned[..], &bearer].concat());
    for incoming in [incoming, post(&query, &none, b"")] {
        let request = read(&incoming).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!((request.bearer_token(), request.access_key_id.as_str()), (Some("BT"), ""));
        assert!(request.verify("").is_err() && request.verify("BT").is_err(), "it is signed with nothing");
        assert!(!format!("{request:?}").contains("BT"));
    }

    let unasked = refused(&post("", &headers, b""));
    assert_eq!(unasked.code, "IncompleteSignature", "SignatureType must ask for it");
    let long = v1(&[&unsigned[..], &bearer[..1], &[("BearerToken", Some("x".repeat(10_000).as_str()))]].concat());
    assert_eq!(refused(&post(&long, &none, b"")).code, "InvalidBearerToken.Malformed");
    // Signed by headers: that is the proof, and the token counts for nothing.
    let signed = v3(b"", &[("x-acs-bearer-token", Some("BT"))]);
    assert_eq!(read(&post("", &signed, b"")).unwrap().bearer_token(), None);
}

#[test]
fn clocks_may_differ_by_a_quarter_of_an_hour() {
    let none = HeaderMap::new();
    let query = v1(&[]);
    let request = read(&post(&query, &none, b"")).unwrap();
    let second = Duration::from_secs(1);
    let cases = [
        (now(), true),
        (now() + WINDOW, true),
        (now() - WINDOW, true),
        (now() + WINDOW + second, false),
        (now() - WINDOW - second, false),
    ];
    for (at, fits) in cases {
        let got = request.check_window(at).map_err(|refusal| refusal.code);
        assert_eq!(got, if fits { Ok(()) } else { Err("InvalidTimeStamp.Expired".into()) }, "{at:?}");
    }
}

#[test]
fn parameters_may_be_in_query_or_form_but_only_once() {
    let none = HeaderMap::new();
    let whole = v1(&[]);
    let (first, rest) = whole.split_once('&').unwrap();
    for (query, body) in [(whole.as_str(), ""), ("", whole.as_str()), (first, rest), (rest, first)] {
        let incoming = post(query, &none, body.as_bytes());
        assert_eq!(read(&incoming).unwrap().verify(KEY.secret), Ok(()), "{query} | {body}");
        assert_eq!(Format::of(&incoming), Format::Json);
    }
    for (query, body) in [(format!("{whole}&{first}"), ""), (whole.clone(), first)] {
        let refusal = refused(&post(&query, &none, body.as_bytes()));
        assert_eq!(refusal.code, "InvalidParameter");
        assert!(refusal.message.ends_with("it occurs more than once."), "{}", refusal.message);
    }
}

#[test]
fn requests_that_cannot_be_read_are_refused_in_the_vendors_form() {
    let none = HeaderMap::new();
    let typed = |value| HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(value))]);
    let form = typed("application/x-www-form-urlencoded; charset=UTF-8");
    let json = typed("application/json");
    let large = vec![b'a'; BODY_BYTES_MAX + 1];
    let many = "a=1&".repeat(PAIRS_MAX + 1);
    let cases: &[(&str, Incoming<'_>, u16, &str)] = &[
        ("wrong type", post("", &json, b"{}"), 400, "InvalidParameter"),
        ("half an escape", post("", &form, b"Action=%4"), 400, "InvalidParameter"),
        ("not UTF-8", post("", &form, b"Action=\xff\xfe"), 400, "InvalidParameter"),
        ("too many", post("", &form, many.as_bytes()), 400, "InvalidParameter"),
        ("nothing", post("", &none, b""), 400, "MissingParameter"),
        ("path", Incoming { path: "/x", ..post("", &none, b"") }, 404, "InvalidAction.NotFound"),
        ("method", Incoming { method: &Method::PUT, ..post("", &none, b"") }, 405, "UnsupportedHTTPMethod"),
        ("too large", post("", &form, &large), 413, "RequestEntityTooLarge"),
    ];
    for (name, incoming, status, code) in cases {
        let refusal = refused(incoming);
        assert_eq!((refusal.status, refusal.code.as_ref()), (*status, *code), "{name}: {refusal:?}");
    }
}

#[test]
fn form_of_the_reply_is_known_before_anything_else() {
    let accept = |value| {
        HeaderMap::from_iter([
            (http::header::AUTHORIZATION, HeaderValue::from_static("ACS3-")),
            (http::header::ACCEPT, HeaderValue::from_static(value)),
        ])
    };
    let none = HeaderMap::new();
    let cases = [
        (post("Format=JSON", &none, b""), Format::Json),
        (post("Format=json&x=%", &none, b""), Format::Json),
        (post("", &none, b"a=%ff&Format=JSON"), Format::Json),
        (post("Format=XML", &none, b""), Format::Xml),
        (post("Format=None", &none, b""), Format::Xml),
        (post("", &none, b""), Format::Xml),
    ];
    for (incoming, expected) in cases {
        assert_eq!(Format::of(&incoming), expected, "{}", incoming.query);
    }
    let cases = [
        ("application/json", Format::Json),
        ("*/*", Format::Json),
        ("application/xml, application/json", Format::Json),
        ("text/xml", Format::Xml),
    ];
    for (accepted, expected) in cases {
        assert_eq!(Format::of(&post("", &accept(accepted), b"")), expected, "{accepted}");
    }
}

#[test]
fn debug_output_holds_no_secret() {
    let query = v1(&[("SecurityToken", Some("hidden-token"))]);
    let none = HeaderMap::new();
    let request = read(&post(&query, &none, b"")).unwrap();
    assert_eq!(request.security_token.as_deref(), Some("hidden-token"));
    let shown = format!("{request:?} {KEY:?}");
    assert!(!shown.contains("hidden-token") && !shown.contains("secret\""), "{shown}");
}
