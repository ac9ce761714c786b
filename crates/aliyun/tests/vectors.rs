//! The published and captured test vectors, both ways: we verify each, and our signer produces it.
//!
//! They came from the official SDKs, run against a capturing server, but for the last, which is on the vendor's pages.

use std::time::{Duration, SystemTime};

use aliyun::{AccessKey, Ask, Format, Incoming, read, sign_v1, sign_v3};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

const KEY: &str = "testid";
const SECRET: &str = "testsecret";

struct Vector {
    name: String,
    method: Method,
    query: String,
    headers: HeaderMap,
    body: Vec<u8>,
    canonical: Option<String>,
    to_sign: String,
    signature: String,
}

impl Vector {
    fn incoming(&self) -> Incoming<'_> {
        Incoming { method: &self.method, path: "/", query: &self.query, headers: &self.headers, body: &self.body }
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

fn vectors() -> Vec<Vector> {
    let all: Vec<Value> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let text = |vector: &Value, name: &str| vector[name].as_str().unwrap().to_owned();
    let headers = |vector: &Value| {
        let headers = vector["headers"].as_object().unwrap().iter();
        headers
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value.as_str().unwrap()).unwrap())
            })
            .collect()
    };
    all.iter()
        .map(|vector| Vector {
            name: text(vector, "name"),
            method: text(vector, "method").parse().unwrap(),
            query: text(vector, "query"),
            headers: headers(vector),
            body: text(vector, "body").into_bytes(),
            canonical: vector["canonical"].as_str().map(str::to_owned),
            to_sign: text(vector, "to_sign"),
            signature: text(vector, "signature"),
        })
        .collect()
}

/// Pairs of a query or form, decoded by an independent reader that is good enough for the vectors.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    let pieces = text.split('&').filter(|piece| !piece.is_empty());
    pieces.map(|piece| piece.split_once('=').unwrap()).map(|(name, value)| (decode(name), decode(value))).collect()
}

fn at(timestamp: &str) -> SystemTime {
    match timestamp {
        "2026-01-02T03:04:05Z" => SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045),
        "2026-11-20T17:39:43Z" => SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_196_383),
        "2023-10-26T10:22:32Z" => SystemTime::UNIX_EPOCH + Duration::from_secs(1_698_315_752),
        other => panic!("no vector has the time {other}"),
    }
}

#[test]
fn all_vectors_are_there() {
    let names: Vec<String> = vectors().into_iter().map(|vector| vector.name).collect();
    let expected = "V1-a V1-b V1-c V1-d V1-e V1-f V1-g V3-a V3-b V3-c V3-d V3-e V3-f V3-g published";
    assert_eq!(names.join(" "), expected);
}

#[test]
fn vectors_verify_and_no_other_secret_does() {
    // The last vector is of another product: routing refuses it before its signature is looked at.
    for vector in vectors().into_iter().filter(|vector| vector.name != "published") {
        let request = read(&vector.incoming()).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", vector.name));
        assert_eq!(request.access_key_id, KEY, "{}", vector.name);
        assert_eq!(request.verify(SECRET), Ok(()), "{}", vector.name);

        let refusal = request.verify("other").unwrap_err();
        let expected = match &vector.canonical {
            None => format!(
                "Specified signature is not matched with our calculation. server string to sign is:{}",
                vector.to_sign
            ),
            Some(canonical) => format!(
                "Specified signature does not match our calculation. server StringToSign is [{}] server \
                 CanonicalRequest is [{canonical}]",
                vector.to_sign
            ),
        };
        assert_eq!((refusal.status, refusal.code.as_ref()), (400, "SignatureDoesNotMatch"), "{}", vector.name);
        // A token is the one thing of it that is not repeated.
        let expected = expected.replace("SecurityToken%3Dteststs%253D%253D", "SecurityToken%3D***");
        let expected = expected.replace("x-acs-security-token:teststs==", "x-acs-security-token:***");
        assert_eq!(refusal.message, expected, "{}", vector.name);
        assert!(!refusal.message.contains("teststs"), "{}", vector.name);

        let format = if vector.name == "V1-g" { Format::Xml } else { Format::Json }; // `Format=None`
        assert_eq!(Format::of(&vector.incoming()), format, "{}", vector.name);
    }
}

#[test]
fn signer_produces_the_v1_vectors() {
    let own = [
        "AccessKeyId",
        "Action",
        "Signature",
        "SignatureMethod",
        "SignatureNonce",
        "SignatureVersion",
        "Timestamp",
        "Version",
    ];
    for vector in vectors().into_iter().filter(|vector| vector.name.starts_with("V1")) {
        let mut all = pairs(&vector.query);
        all.extend(pairs(std::str::from_utf8(&vector.body).unwrap()));
        let get = |name: &str| all.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).unwrap();
        let ask = Ask {
            method: &vector.method,
            action: get("Action"),
            version: get("Version"),
            now: at(get("Timestamp")),
            nonce: get("SignatureNonce"),
        };
        let params: Vec<(String, String)> =
            all.iter().filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect();
        let mut signed = sign_v1(AccessKey { id: KEY, secret: SECRET }, ask, &params);
        assert_eq!(signed.last(), Some(&("Signature".to_owned(), vector.signature.clone())), "{}", vector.name);
        signed.sort();
        all.sort();
        assert_eq!(signed, all, "{}: nothing added, nothing left out", vector.name);
    }
}

#[test]
fn signer_produces_the_v3_vectors() {
    let own = [
        "authorization",
        "content-type",
        "host",
        "x-acs-action",
        "x-acs-content-sha256",
        "x-acs-date",
        "x-acs-signature-nonce",
        "x-acs-version",
    ];
    for vector in vectors().into_iter().filter(|vector| !vector.name.starts_with("V1")) {
        let key = match vector.name.as_str() {
            "published" => AccessKey { id: "YourAccessKeyId", secret: "YourAccessKeySecret" },
            _ => AccessKey { id: KEY, secret: SECRET },
        };
        let ask = Ask {
            method: &vector.method,
            action: vector.header("x-acs-action"),
            version: vector.header("x-acs-version"),
            now: at(vector.header("x-acs-date")),
            nonce: vector.header("x-acs-signature-nonce"),
        };
        let extra: Vec<(&str, &str)> = vector
            .headers
            .keys()
            .map(HeaderName::as_str)
            .filter(|name| !own.contains(name))
            .map(|name| (name, vector.header(name)))
            .collect();
        let signed = sign_v3(key, ask, vector.header("host"), &pairs(&vector.query), &vector.body, &extra);
        let (name, authorization) = signed.last().unwrap();
        assert_eq!(
            (name.as_str(), authorization.as_str()),
            ("authorization", vector.header("authorization")),
            "{}",
            vector.name
        );
        assert!(authorization.ends_with(&vector.signature), "{}", vector.name);
        for (name, value) in &signed {
            assert_eq!(vector.header(name), value, "{}: {name}", vector.name);
        }
    }
}

#[test]
fn anything_changed_on_the_way_is_noticed() {
    for vector in vectors().into_iter().filter(|vector| vector.name.starts_with("V3")) {
        let not_matched = |incoming: Incoming<'_>| match read(&incoming) {
            Ok(request) => request.verify(SECRET).is_err_and(|refusal| refusal.code == "SignatureDoesNotMatch"),
            Err(refusal) => panic!("{}: {refusal:?}", vector.name),
        };
        let whole = vector.incoming();
        let query = format!("{}&More=1", vector.query);
        assert!(not_matched(Incoming { query: &query, ..whole }), "{}: query", vector.name);
        let body = [vector.body.as_slice(), b"&Extra=1"].concat();
        assert!(not_matched(Incoming { body: &body, ..whole }), "{}: body", vector.name);
        assert!(not_matched(Incoming { method: &Method::GET, ..whole }), "{}: method", vector.name);
        let changes = [
            ("host", "other.example.com"),
            ("x-acs-action", "DescribeRefreshQuota"),
            ("x-acs-date", "2026-01-02T03:04:06Z"),
            ("x-acs-signature-nonce", "other"),
        ];
        for (name, value) in changes {
            let mut headers = vector.headers.clone();
            // Another action of the same version: redirecting a captured request must not work.
            let value = match (name, vector.header("x-acs-version")) {
                ("x-acs-action", "2017-03-21") => "DescribeVodRefreshQuota",
                _ => value,
            };
            headers.insert(name, HeaderValue::from_static(value));
            assert!(not_matched(Incoming { headers: &headers, ..whole }), "{}: {name}", vector.name);
        }
    }
}
