//! `prefetch_limit`, a function of our own, over the vendor's API: set, changed, refused by name, shown and deleted like the vendor's.

use super::*;

const SET: &str = "BatchSetCdnDomainConfig";

/// `Functions` with one `prefetch_limit`.
fn limit(args: &[(&str, &str)]) -> String {
    let args: Vec<Value> =
        args.iter().map(|(name, value)| serde_json::json!({ "argName": name, "argValue": value })).collect();
    serde_json::json!([{ "functionName": "prefetch_limit", "functionArgs": args }]).to_string()
}

async fn set(rig: &Rig, args: &[(&str, &str)]) -> Answer {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = rig.ask(CDN, SET, &[("DomainNames", "a.com"), ("Functions", &limit(args))]).await;
        // One change after the other.
        if answer.words().1 != "ServiceBusy" {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {answer:?}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

async fn described(rig: &Rig, params: &[(&str, &str)]) -> Vec<Value> {
    let params = [&[("DomainName", "a.com")], params].concat();
    let answer = rig.ask(CDN, "DescribeCdnDomainConfigs", &params).await.json();
    answer["DomainConfigs"]["DomainConfig"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

/// Names and values of a function's arguments, as they are shown.
fn args(shown: &Value) -> Vec<(&str, &str)> {
    let args = shown["FunctionArgs"]["FunctionArg"].as_array().unwrap();
    args.iter().map(|arg| (arg["ArgName"].as_str().unwrap(), arg["ArgValue"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn limit_of_prefetches_is_set_shown_changed_in_place_and_deleted() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let edges: [&[(&str, &str)]; 4] = [
        &[("concurrency", "1"), ("bytes_per_second", "65536"), ("share", "1")],
        &[("concurrency", "10000")],
        &[("bytes_per_second", "1099511627776")],
        &[("share", "100")],
    ];
    let mut ids = Vec::new();
    for wished in edges {
        let answer = set(&rig, wished).await;
        assert_eq!(answer.status, 200, "{wished:?}: {answer:?}");
        let model = &answer.json()["DomainConfigList"]["DomainConfigModel"][0];
        assert_eq!((&model["DomainName"], &model["FunctionName"]), (&"a.com".into(), &"prefetch_limit".into()));
        ids.push(model["ConfigId"].to_string().trim_matches('"').to_owned());
        let shown = described(&rig, &[("FunctionNames", "prefetch_limit")]).await;
        assert_eq!((shown.len(), args(&shown[0])), (1, wished.to_vec()), "a domain has one, and it says what was set");
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "it keeps its number: {ids:?}");
    assert_eq!(described(&rig, &[("ConfigId", &ids[0])]).await.len(), 1);
    let by_number = rig.ask(CDN, "DescribeCdnUserDomainsByFunc", &[("FuncId", "100001")]).await.json();
    assert_eq!(by_number["Domains"]["PageData"][0]["DomainName"], "a.com", "{by_number}");

    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.ask(CDN, "DeleteSpecificConfig", &[("DomainName", "a.com"), ("ConfigId", &ids[0])]).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "it is not deleted");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert!(described(&rig, &[]).await.is_empty());
    let by_number = rig.ask(CDN, "DescribeCdnUserDomainsByFunc", &[("FuncId", "100001")]).await.json();
    assert_eq!(by_number["Domains"]["PageData"], serde_json::json!([]), "{by_number}");
}

#[tokio::test]
async fn wrong_arguments_of_a_limit_of_prefetches_are_refused_by_name() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let (value, name) = ("InvalidArgValue.Malformed", "InvalidArgName.ValueNotSupported");
    let good = ("share", "50");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Case<'_>; 15] = [
        (&[("concurrency", "0"), good], value, "concurrency: expected a number from 1 to 10000"),
        (&[("concurrency", "10001"), good], value, "concurrency: expected"),
        (&[("concurrency", "-1"), good], value, "concurrency: expected"),
        (&[("concurrency", "+1"), good], value, "concurrency: expected"),
        (&[("concurrency", "many"), good], value, "concurrency: expected"),
        (&[("bytes_per_second", "65535"), good], value, "bytes_per_second: expected a number of bytes from 65536"),
        (&[("bytes_per_second", "1099511627777")], value, "bytes_per_second: expected"),
        (&[("bytes_per_second", "1e9")], value, "bytes_per_second: expected"),
        (&[("bytes_per_second", "99999999999999999999999")], value, "bytes_per_second: expected"),
        (&[("concurrency", "5"), ("share", "0")], value, "share: expected a number of percent from 1 to 100"),
        (&[("concurrency", "5"), ("share", "101")], value, "share: expected"),
        (&[("concurrency", "5"), ("share", "50%")], value, "share: expected"),
        (&[], value, "expected one of concurrency, bytes_per_second and share"),
        (&[("concurrency", ""), ("share", " ")], value, "expected one of concurrency, bytes_per_second and share"),
        (&[("concurrency", "5"), ("Concurrency", "6")], name, "prefetch_limit: has no argument Concurrency"),
    ];
    for (args, code, words) in cases {
        let answer = set(&rig, args).await;
        assert_refused(&answer, 400, code, "");
        let said = answer.words().2;
        assert!(said.contains("prefetch_limit") && said.contains(words), "{args:?}: {said}");
    }
    assert!(described(&rig, &[]).await.is_empty(), "what is refused leaves nothing");

    // One wrong function in a call, and none of it is set.
    let both = r#"[{"functionName":"range","functionArgs":[{"argName":"enable","argValue":"on"}]},
        {"functionName":"prefetch_limit","functionArgs":[{"argName":"share","argValue":"0"}]}]"#;
    let answer = rig.ask(CDN, SET, &[("DomainNames", "a.com"), ("Functions", both)]).await;
    assert_refused(&answer, 400, value, "");
    assert!(described(&rig, &[]).await.is_empty());
    let answer = rig.ask(CDN, SET, &[("DomainNames", "a.com,none.com"), ("Functions", &limit(&[good]))]).await;
    assert_refused(&answer, 404, "InvalidDomain.NotFound", "");
    assert!(described(&rig, &[]).await.is_empty(), "nor of the domains of a call");
}
