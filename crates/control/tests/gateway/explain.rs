//! What a prefetch would do, and the warning where its key is not that of users: over the socket, and nothing is submitted.

use super::*;

const EXPLAIN: &str = "ExplainPreload";

async fn configure(rig: &Rig, functions: &str) {
    let params = [("DomainNames", "a.com"), ("Functions", functions)];
    let set = rig.ask(CDN, "BatchSetCdnDomainConfig", &params).await;
    assert_eq!(set.status, 200, "{set:?}");
    rig.online("a.com").await;
}

fn problems(url: &Value) -> Vec<String> {
    url["Problems"].as_array().unwrap().iter().map(|words| words.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn prefetch_is_explained_and_nothing_is_submitted_or_charged() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let functions = r#"[
        {"functionName":"host_redirect","functionArgs":[{"argName":"regex","argValue":"^/old/(.*)$"},
            {"argName":"replacement","argValue":"/new/$1"},{"argName":"flag","argValue":"break"}]},
        {"functionName":"set_hashkey_args","functionArgs":[{"argName":"disable","argValue":"on"}]}]"#;
    configure(&rig, functions).await;
    let url = "https://a.com/old/x?y=1";
    let derived =
        [("ObjectPath", url), ("QueryHashkey", "true"), ("WithHeader", r#"{"Accept-Encoding":["gzip","br"]}"#)];
    let answer = rig.ask(CDN, EXPLAIN, &derived).await.json();
    let told = &answer["Urls"][0];
    let told_of = ["Url", "Domain", "Key", "UsersKey", "OriginPath"].map(|field| told[field].as_str().unwrap());
    assert_eq!(told_of, [url, "a.com", "a.com/new/x", "a.com/new/x", "/new/x?y=1"], "{told}");
    let because = serde_json::json!([
        { "Functions": ["host_redirect"], "Key": "a.com/new/x?y=1" },
        { "Functions": ["set_hashkey_args"], "Key": "a.com/new/x" },
    ]);
    assert_eq!(told["Because"], because);
    assert_eq!(told["Origins"], serde_json::json!(["127.0.0.1:80"]));
    let variants = serde_json::json!([{ "accept-encoding": "gzip" }, { "accept-encoding": "br" }]);
    assert_eq!(told["Variants"], variants);
    assert_eq!(
        (problems(told), told["Targets"].clone()),
        (vec!["no tier of a POP is meant by this area".to_owned()], serde_json::json!([]))
    );

    let as_given = rig.ask(CDN, EXPLAIN, &[("ObjectPath", url)]).await.json();
    let told = &as_given["Urls"][0];
    assert_eq!((told["Key"].as_str(), told["UsersKey"].as_str()), (Some("a.com/old/x?y=1"), Some("a.com/new/x")));
    assert!(problems(told).iter().any(|words| words.contains("have the key a.com/new/x")), "{told}");

    rig.ask(CDN, "StopCdnDomain", &[("DomainName", "a.com")]).await;
    let stopped = rig.ask(CDN, EXPLAIN, &derived).await.json();
    assert!(problems(&stopped["Urls"][0]).contains(&"the domain is offline".to_owned()), "{stopped}");
    let quota = rig.ask(CDN, "DescribeRefreshQuota", &[]).await.json();
    assert_eq!(quota["PreloadQuota"], quota["PreloadRemain"], "nothing is charged");
    assert_eq!(rig.ask(CDN, "DescribeRefreshTasks", &[]).await.json()["TotalCount"], 0, "nothing is submitted");
}

#[tokio::test]
async fn bad_wishes_of_a_prefetch_are_refused_by_name() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    for (name, value) in [("Pin", "2h"), ("Pin", "0"), ("Pin", "2592001"), ("Refetch", "yes"), ("QueryHashkey", "1")] {
        for action in ["PushObjectCache", EXPLAIN] {
            let (status, code, message) =
                rig.ask(CDN, action, &[("ObjectPath", "a.com/1"), (name, value)]).await.words();
            assert!(status == 400 && code.starts_with("InvalidParameter"), "{action} {name}={value}: {code} {message}");
        }
    }
    let all = [("ObjectPath", "a.com/1"), ("Pin", "7200"), ("Refetch", "true"), ("QueryHashkey", "true")];
    assert_eq!(rig.ask(CDN, "PushObjectCache", &all).await.status, 200);
}

#[tokio::test]
async fn detail_warns_where_users_requests_have_another_key() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let disable = r#"[{"functionName":"set_hashkey_args","functionArgs":[{"argName":"disable","argValue":"on"}]}]"#;
    configure(&rig, disable).await;
    for (hashkey, warned) in [(None, true), (Some("false"), true), (Some("true"), false)] {
        let paths = [("ObjectPath", "http://a.com/1?x=1\nhttp://a.com/2")];
        let params: Vec<(&str, &str)> =
            paths.into_iter().chain(hashkey.map(|hashkey| ("QueryHashkey", hashkey))).collect();
        let pushed = rig.ask(CDN, "PushObjectCache", &params).await.json();
        let task = pushed["PushTaskId"].as_str().unwrap();
        let detail = rig.ask(CDN, "DescribePreloadDetailById", &[("TaskId", task)]).await.json();
        let urls = &detail["UrlDetails"][0]["Urls"];
        let said = urls[0]["Description"].as_str().unwrap();
        assert_eq!(said.contains("users' requests for it have the key a.com/1:"), warned, "{hashkey:?}: {said}");
        assert_eq!(urls[1]["Description"], "", "both keys are the same");
        // What comes within a second shares a task.
        rig.clock.advance(Duration::from_secs(2));
    }
}
