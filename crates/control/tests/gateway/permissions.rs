//! Which permission each action asks for: exactly the one that the collected facts of its page say, tried over the socket.
//!
//! The calls are those of `isolation`, by an account that owns nothing of what it asks for, so that none of them changes anything:
//! whether it may is said before whether there is anything. Whoever builds another action writes its row there, and has its
//! resource in `aliyun/data/actions.txt`.

use super::isolation::rows;
use super::*;

/// The actions of our own that are done to domains; the others are done to anything.
const OWN_OF_DOMAINS: [&str; 6] = [
    "SetWarmfrontDomain",
    "PausePreloadTask",
    "ResumePreloadTask",
    "CancelPreloadTask",
    "SetPreloadTaskPriority",
    "ExplainPreload",
];

/// The resource that a call asks for.
fn resource(facts: &Value, action: &str, params: &[(&str, &str)]) -> String {
    let all = facts["actions"].as_array().unwrap();
    let named = params.iter().any(|(_, value)| value.contains("a.com"));
    let domain = if named { "acs:cdn:*:other:domain/a.com" } else { "acs:cdn:*:other:domain/*" };
    let Some(facts) = all.iter().find(|known| known["action"] == action) else {
        return if OWN_OF_DOMAINS.contains(&action) { domain } else { "*" }.to_owned();
    };
    // By a page of 2025 it is the domain that is named, where one is: prefetch-refresh §9.
    if action == "DescribeRefreshTasks" {
        let by_domain = params.iter().any(|(name, _)| *name == "DomainName");
        return if by_domain { domain } else { "acs:cdn:*:other:domain/*" }.to_owned();
    }
    match &facts["ram"]["resource"] {
        Value::String(one) => one.replace("{account}", "other").replace("{DomainName}", "a.com"),
        // Of all domains, or of those that are named.
        Value::Array(_) => domain.to_owned(),
        other => panic!("{action}: {other}"),
    }
}

/// Effect, action and resource.
type Statement<'a> = (&'a str, &'a str, &'a str);

fn policy(statements: &[Statement<'_>]) -> Policy {
    let statement = |(effect, action, resource): &Statement<'_>| {
        format!(r#"{{"Effect":"{effect}","Action":"{action}","Resource":"{resource}"}}"#)
    };
    let statements: Vec<String> = statements.iter().map(statement).collect();
    Policy::parse(&format!(r#"{{"Version":"1","Statement":[{}]}}"#, statements.join(","))).unwrap()
}

#[tokio::test]
async fn every_action_asks_for_exactly_the_permission_that_its_page_says() {
    let names = owners::NameServer::start().await;
    let set = |config: &mut ControlConfig| config.resolvers = vec![names.address];
    let rig = Rig::with("open", &[("action_qps", 100_000)], 0, set).await;
    rig.operator.create_account("other", "open", [("action_qps".to_owned(), 100_000)].into(), 0).await.unwrap();
    let facts: Value = serde_json::from_str(include_str!("../../../aliyun/tests/data/actions.json")).unwrap();
    for (version, action, params, _) in rows("1", "2") {
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let named = format!("{}:{action}", if version == VOD { "vod" } else { "cdn" });
        let resource = resource(&facts, action, &params);
        // A question mark stands for one character: the star in what is asked for, and nothing longer.
        let exactly = resource.replace('*', "?");
        let other = format!("{named}X");
        let elsewhere = "acs:cdn:?:other:domain/b.com";
        // What else the call names must be allowed too.
        let beside: Vec<String> = params
            .iter()
            .filter(|(name, _)| ["DomainName", "DomainNames"].contains(name))
            .flat_map(|(_, names)| names.split(','))
            .filter(|name| *name != "a.com")
            .map(|name| format!("acs:cdn:?:other:domain/{name}"))
            .collect();
        let mut all = vec![("Allow", named.as_str(), exactly.as_str())];
        all.extend(beside.iter().map(|resource| ("Allow", named.as_str(), resource.as_str())));
        let cases: [(&[Statement<'_>], bool); 6] = [
            (&all, true),
            (&all[1..], false),
            (&[("Allow", "*", "*"), ("Deny", &named, &exactly)], false),
            (&[("Allow", &named, elsewhere)], false),
            (&[("Allow", &other, "*")], false),
            (&[], false),
        ];
        for (statements, allowed) in cases {
            let key = rig.operator.create_key("other", Some(&policy(statements))).await.unwrap();
            let by = Signer { id: key.id, secret: key.secret.to_string(), token: None };
            let answer = rig.v1(&by, version, action, &params, &rig.nonce()).await;
            let (status, code, message) = answer.words();
            if allowed {
                assert_ne!(code, "Forbidden.RAM", "{named} on {resource}: is its line in actions.txt right?");
            } else {
                assert_eq!((status, code.as_str()), (403, "Forbidden.RAM"), "{named} with {statements:?}: {answer:?}");
                let text = "User not authorized to operate on the specified resource, or this API doesn't support RAM.";
                assert_eq!(message, text);
            }
        }
    }
}
