//! What holds for every input: no bytes make it panic, and what our signer signs our verifier takes.

use std::time::{Duration, SystemTime};

use aliyun::{
    AccessKey, Ask, Envelope, Format, Incoming, Product, Profile, Rules, call, encode_pairs, read, refuse, sign_v1,
    sign_v3,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

/// Reads, verifies, dispatches, refuses: everything a door does with a request.
fn drive(incoming: &Incoming<'_>) {
    let format = Format::of(incoming);
    let refusal = match read(incoming) {
        Ok(request) => {
            let _ = request.check_window(now());
            for profile in Profile::names() {
                let _ = call(&request, Profile::named(profile).unwrap(), Rules::default(), now());
            }
            request.verify("secret").err()
        }
        Err(refusal) => Some(refusal),
    };
    if let Some(refusal) = refusal {
        let envelope = Envelope { request_id: "R", host: "h:1", https: false, product: Product::Cdn, format };
        let rendered = refuse(&refusal, envelope);
        assert!(std::str::from_utf8(&rendered.body).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(
        query in ".{0,200}",
        body in vec(any::<u8>(), 0..300),
        authorization in vec(any::<u8>(), 0..200),
        v3 in any::<bool>(),
    ) {
        let mut headers = HeaderMap::new();
        let prefix: &[u8] = if v3 { b"ACS3-HMAC-SHA256 " } else { b"" };
        if let Ok(value) = HeaderValue::from_bytes(&[prefix, &authorization].concat()) {
            headers.insert("authorization", value);
            headers.insert("x-acs-action", HeaderValue::from_static("PushObjectCache"));
            headers.insert("x-acs-version", HeaderValue::from_static("2018-05-10"));
        }
        drive(&Incoming { method: &Method::POST, path: "/", query: &query, headers: &headers, body: &body });
    }

    /// Behind a good envelope every parameter of every built action meets every text.
    #[test]
    fn arbitrary_parameters_never_panic(
        action in prop::sample::select(vec![
            "PushObjectCache", "RefreshObjectCaches", "DescribeRefreshTasks", "DescribeRefreshTaskById", "AddCdnDomain",
            "DescribeUserDomains", "DeleteCdnDomain",
        ]),
        name in prop::sample::select(vec![
            "ObjectType", "Area", "WithHeader", "TaskId", "StartTime", "PageSize", "Sources", "DomainName", "Status",
        ]),
        value in prop_oneof![".{0,80}", r#"[\[\]{}:,"a-z0-9]{0,40}"#, "[0-9T:Z-]{0,24}"],
        path in prop_oneof![".{0,80}", "(https?://)?[a-z*.]{0,8}(:[0-9]{1,4})?[/?#\\\\nhttp%\n]{0,20}"],
    ) {
        let ask = Ask { method: &Method::POST, action, version: "2018-05-10", now: now(), nonce: "n" };
        let params = [("ObjectPath", path.as_str()), (name, &value), ("EndTime", "2026-01-02T03:04:05Z"), ("CdnType", "web")];
        let params: Vec<_> = params.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let body = encode_pairs(&sign_v1(AccessKey { id: "key", secret: "secret" }, ask, &params));
        let headers = HeaderMap::new();
        let incoming = Incoming { method: &Method::POST, path: "/", query: "", headers: &headers, body: body.as_bytes() };
        prop_assert!(read(&incoming).is_ok());
        drive(&incoming);
    }

    #[test]
    fn what_we_sign_by_v1_we_verify(
        params in btree_map("[A-Z][A-Za-z.0-9]{4,12}x", ".{0,40}", 0..8),
        split in any::<prop::sample::Index>(),
        get in any::<bool>(),
        secret in "[ -~]{1,40}",
    ) {
        let method = if get { Method::GET } else { Method::POST };
        let ask = Ask { method: &method, action: "PushObjectCache", version: "2018-05-10", now: now(), nonce: "n" };
        let params: Vec<(String, String)> = params.into_iter().collect();
        let pairs = sign_v1(AccessKey { id: "key", secret: &secret }, ask, &params);
        let (query, body) = pairs.split_at(if get { pairs.len() } else { split.index(pairs.len() + 1) });
        let (query, body) = (encode_pairs(query), encode_pairs(body));
        let headers = HeaderMap::new();
        let incoming = Incoming { method: &method, path: "/", query: &query, headers: &headers, body: body.as_bytes() };
        let request = read(&incoming).unwrap();
        prop_assert_eq!(request.verify(&secret), Ok(()));
        prop_assert!(request.verify(&[secret.as_str(), "x"].concat()).is_err());
        for (name, value) in params.iter().filter(|(_, value)| !value.is_empty()) {
            prop_assert_eq!(request.params.get(name), Some(value.as_str()));
        }
    }

    #[test]
    fn what_we_sign_by_v3_we_verify(
        query in btree_map("[A-Z][a-z]{4,8}q", ".{0,40}", 0..5),
        form in btree_map("[A-Z][a-z]{4,8}f", ".{0,40}", 0..5),
        agent in "[!-~]( ?[!-~]){0,20}",
        secret in "[ -~]{1,40}",
    ) {
        let ask = Ask { method: &Method::POST, action: "RefreshObjectCaches", version: "2018-05-10", now: now(), nonce: "n" };
        let query: Vec<(String, String)> = query.into_iter().collect();
        let form: Vec<(String, String)> = form.into_iter().collect();
        let body = encode_pairs(&form);
        let key = AccessKey { id: "key", secret: &secret };
        let signed = sign_v3(key, ask, "h.example.com:9680", &query, body.as_bytes(), &[("user-agent", &agent)]);
        let headers: HeaderMap = signed
            .into_iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(&value).unwrap()))
            .collect();
        let text = encode_pairs(&query);
        let incoming = Incoming { method: &Method::POST, path: "/", query: &text, headers: &headers, body: body.as_bytes() };
        let request = read(&incoming).unwrap();
        prop_assert_eq!(request.verify(&secret), Ok(()));
        prop_assert!(request.verify(&[secret.as_str(), "x"].concat()).is_err());
    }
}
