//! Every action of the refresh family through both generations of the vendor's SDKs for Python and for Node: once with success,
//! every field in the SDK's model of the reply, once with an error; and with temporary credentials.

use anyhow::{Context, ensure};
use e2e::sdk::{self, Call};
use e2e::stage::{DOMAIN, Stage};
use serde_json::{Value, json};

/// Product, action, good parameters, bad ones and the code they are refused with.
type Row = (&'static str, &'static str, Value, Option<(Value, &'static str)>);

fn rows(push: &str) -> Vec<Row> {
    let path = |path: &str| json!({ "ObjectPath": path });
    let good = format!("http://{DOMAIN}/a.bin");
    let file = || path(&good);
    let foreign = || Some((path("http://other.example.com/a"), "InvalidDomain.NotFound"));
    let tag = json!({ "DomainName": DOMAIN, "CacheTag": "t" });
    let id = || json!({ "TaskId": push });
    let bad_id = || Some((json!({ "TaskId": "x" }), "InvalidTaskId.Malformed"));
    vec![
        ("cdn", "PushObjectCache", file(), foreign()),
        ("cdn", "RefreshObjectCaches", file(), foreign()),
        (
            "cdn",
            "RefreshObjectCacheByCacheTag",
            tag,
            Some((json!({ "DomainName": "other.example.com", "CacheTag": "t" }), "InvalidDomain.NotFound")),
        ),
        ("cdn", "DescribeRefreshTasks", id(), bad_id()),
        ("cdn", "DescribeRefreshTaskById", id(), bad_id()),
        ("cdn", "DescribePreloadDetailById", id(), bad_id()),
        ("cdn", "DescribeRefreshQuota", json!({}), None), // nothing in it can be wrong
        ("cdn", "DescribeCdnUserQuota", json!({}), None),
        ("vod", "PreloadVodObjectCaches", file(), foreign()),
        ("vod", "RefreshVodObjectCaches", file(), foreign()),
        ("vod", "DescribeVodRefreshTasks", id(), bad_id()),
        ("vod", "DescribeVodRefreshQuota", json!({}), None),
    ]
}

/// Fields that one generation's model does not know, though the facts have them.
const UNKNOWN_TO_MODELS: [(&str, &str); 2] =
    [("DescribeRefreshQuota", "blockRemain"), ("DescribeVodRefreshQuota", "BlockRemain")];

/// What a reply of `action` must hold, as the collected facts of the vendor's pages have it.
fn declared(action: &str) -> anyhow::Result<Value> {
    let facts: Value = serde_json::from_str(include_str!("../../aliyun/tests/data/actions.json"))?;
    let all = facts["actions"].as_array().context("actions")?;
    let one = all.iter().find(|known| known["action"] == action).with_context(|| action.to_owned())?;
    Ok(one["response"].clone())
}

/// Asserts that `given` has every field that `declared` has.
fn holds(place: &str, action: &str, declared: &Value, given: &Value) -> anyhow::Result<()> {
    match declared {
        Value::Object(fields) => {
            for (name, declared) in fields {
                if !UNKNOWN_TO_MODELS.contains(&(action, name)) {
                    holds(&format!("{place}.{name}"), action, declared, &given[name])?;
                }
            }
            Ok(())
        }
        Value::Array(elements) => {
            let first = given.as_array().and_then(|given| given.first());
            holds(&format!("{place}[]"), action, elements.first().context("an element")?, first.unwrap_or(&Value::Null))
        }
        _ => {
            ensure!(given.is_string() || given.is_number(), "{place} is lost: {given}");
            Ok(())
        }
    }
}

#[tokio::test]
async fn every_action_is_called_by_every_sdk() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &["--quota", "action_qps=1000"]).await?;
    stage.cli(&["domain", "add", DOMAIN, "--origin", "127.0.0.1:9", "--coverage", "global"]).await?;
    stage.online().await;
    let first = [("cdn", "PushObjectCache", json!({ "ObjectPath": format!("http://{DOMAIN}/first.bin") }))];
    let pushed = sdk::calls(&stage, &first).await?;
    let push = pushed[0]["ok"]["PushTaskId"].as_str().with_context(|| pushed[0].to_string())?.to_owned();
    let rows = rows(&push);
    for generation in ["tea", "legacy", "node tea", "node pop"] {
        let call = async |calls: &[Call]| match generation.strip_prefix("node ") {
            Some(generation) => sdk::node(&stage, generation, calls).await,
            None => sdk::typed(&stage, generation, &[], calls).await,
        };
        let good: Vec<Call> = rows.iter().map(|(product, action, good, _)| (*product, *action, good.clone())).collect();
        let mut absent = Vec::new();
        for ((_, action, _), answer) in good.iter().zip(call(&good).await?) {
            if answer["absent"] == true {
                absent.push(*action);
                continue;
            }
            ensure!(answer["ok"].is_object(), "{generation} {action}: {answer}");
            holds(action, action, &declared(action)?, &answer["ok"])
                .with_context(|| format!("{generation}: {answer}"))?;
        }
        let expected: Vec<&str> = match generation {
            "legacy" => vec!["RefreshObjectCacheByCacheTag"], // older than this one action
            "node tea" => rows.iter().filter(|row| row.0 == "vod").map(|row| row.1).collect(), // a package of CDN alone
            _ => Vec::new(),
        };
        assert_eq!(absent, expected, "{generation}");

        let bad: Vec<(Call, &str)> = rows
            .iter()
            .filter_map(|(product, action, _, bad)| {
                bad.as_ref().map(|(bad, code)| ((*product, *action, bad.clone()), *code))
            })
            .filter(|((_, action, _), _)| !absent.contains(action))
            .collect();
        let calls: Vec<Call> = bad.iter().map(|(call, _)| call.clone()).collect();
        for ((call, code), answer) in bad.iter().zip(call(&calls).await?) {
            ensure!(answer["code"] == *code, "{generation} {}: {answer}", call.1);
        }
    }
    Ok(())
}

#[tokio::test]
async fn sessions_and_bearer_tokens_do_for_a_key() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &[]).await?;
    let issued =
        sdk::calls(&stage, &[("cdn", "CreateSessionCredentials", json!({})), ("cdn", "CreateBearerToken", json!({}))])
            .await?;
    let session = &issued[0]["ok"]["Credentials"];
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("a text in {issued:?}"));
    let (id, secret) = (text(&session["AccessKeyId"])?, text(&session["AccessKeySecret"])?);
    let (token, bearer) = (text(&session["SecurityToken"])?, text(&issued[1]["ok"]["BearerToken"])?);
    let key = [("ALIBABA_CLOUD_ACCESS_KEY_ID", id.as_str()), ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", secret.as_str())];
    let calls: Vec<Call> =
        vec![("cdn", "DescribeRefreshQuota", json!({})), ("vod", "DescribeVodRefreshQuota", json!({}))];
    let with_token = [key[0], key[1], ("SECURITY_TOKEN", token.as_str())];
    for (generation, shown) in
        [("tea", &with_token[..]), ("legacy", &with_token[..]), ("tea", &[("BEARER_TOKEN", bearer.as_str())][..])]
    {
        for answer in sdk::typed(&stage, generation, shown, &calls).await? {
            ensure!(answer["ok"]["UrlQuota"].is_string(), "{generation}: {answer}");
        }
    }
    for answer in sdk::typed(&stage, "tea", &key, &calls).await? {
        ensure!(answer["code"] == "MissingSecurityToken", "{answer}");
    }
    Ok(())
}
