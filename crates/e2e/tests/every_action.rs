//! Every implemented action of the vendor's, through both generations of its SDKs for Python and for Node: once with
//! success, checking every field of the SDK's reply model, and once with an error (`sdk/calls.json`); and with
//! temporary credentials.

use anyhow::{Context, ensure};
use e2e::authority::Authority;
use e2e::sdk;
use e2e::stage::{DOMAIN, Stage};
use serde::Deserialize;
use serde_json::{Value, json};

/// Product, action, parameters.
type Call = (String, String, Value);

/// A row of `sdk/calls.json`: an action, parameters with which it succeeds, and others with which it is refused with
/// this code.
#[derive(Deserialize)]
struct Row {
    product: String,
    action: String,
    good: Option<Value>,
    bad: Option<Value>,
    code: Option<String>,
}

/// The rows, with each `$NAME` in a string replaced by its value.
fn rows(words: &[(&str, &str)]) -> anyhow::Result<Vec<Row>> {
    let quoted = |text: &str| serde_json::to_string(text).map(|quoted| quoted.trim_matches('"').to_owned());
    let mut text = include_str!("../sdk/calls.json").to_owned();
    for (name, word) in words {
        text = text.replace(&format!("${name}"), &quoted(word)?);
    }
    Ok(serde_json::from_str(&text)?)
}

/// Fields that may be missing, with reasons.
const MISSING: [(&str, &str, &str); 12] = [
    ("DescribeRefreshQuota", "blockRemain", "one generation's model does not know it"),
    ("DescribeVodRefreshQuota", "BlockRemain", "one generation's model does not know it"),
    ("DescribeL2VipsByDomain", "Vip", "there is no node here"),
    ("DescribeCdnService", "LockReason", "the account is not locked"),
    ("DescribeCdnService", "DynamicBillingType", "one generation's model does not know it"),
    ("DescribeCdnService", "ChangingDynamicBillingType", "one generation's model does not know it"),
    ("DescribeDomainCname", "ErrMsg", "one generation's model does not know it"),
    ("DescribeDomainCname", "Passed", "one generation's model does not know it"),
    ("DescribeDomainHttpCodeData", "CodeProportionData", "nobody asks for anything here; tests/figures.rs has users"),
    ("DescribeDomainSrcHttpCodeData", "CodeProportionData", "the same"),
    ("DescribeDomainTopUrlVisit", "UrlList", "the same"),
    ("DescribeDomainSrcTopUrlVisit", "UrlList", "the same"),
];

/// The fields of a reply to `action`, from the collected facts of the vendor's pages.
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
                if !MISSING.iter().any(|(of, field, _)| (*of, *field) == (action, name)) {
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
            ensure!(given.is_string() || given.is_number() || given.is_boolean(), "{place} is lost: {given}");
            Ok(())
        }
    }
}

#[tokio::test]
async fn every_action_is_called_by_every_sdk() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &["--quota", "action_qps=1000"]).await?;
    stage.add_domain("127.0.0.1:9").await?;
    let authority = Authority::new(stage.folder("certificates")?)?;
    let first = [(
        "cdn".to_owned(),
        "PushObjectCache".to_owned(),
        json!({ "ObjectPath": format!("http://{DOMAIN}/first.bin") }),
    )];
    let pushed = sdk::calls(&stage, &first).await?;
    let task = pushed[0]["ok"]["PushTaskId"].as_str().with_context(|| pushed[0].to_string())?.to_owned();
    let mut wrong = Vec::new();
    for generation in ["tea", "legacy", "node-tea", "node-pop"] {
        let site = format!("{generation}.sdk.example.com");
        let pair = authority.make(generation, "*.sdk.example.com")?;
        let (chain, key) = (std::fs::read_to_string(&pair.cert)?, std::fs::read_to_string(&pair.key)?);
        not_opened(&stage).await?;
        let words = [("SITE", site.as_str()), ("DOMAIN", DOMAIN), ("TASK", &task), ("CHAIN", &chain), ("KEY", &key)];
        let found = run_through(&stage, generation, rows(&words)?).await.with_context(|| generation.to_owned())?;
        wrong.extend(found.into_iter().map(|wrong| format!("{generation}: {wrong}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Makes the account one that has not opened the service, and waits until the control plane knows; the first row opens
/// it.
async fn not_opened(stage: &Stage) -> anyhow::Result<()> {
    e2e::warmfront(&["account", "set", "test", "--status", "not-opened", "--state", &stage.state], &[])?;
    e2e::eventually("the service is not open", || async {
        let answers = sdk::calls(stage, &[("cdn", "DescribeCdnService", json!({}))]).await?;
        ensure!(answers[0]["code"] == "OperationDenied", "{answers:?}");
        Ok(())
    })
    .await;
    Ok(())
}

/// Makes the calls of `rows` through one generation; returns the unexpected answers.
async fn run_through(stage: &Stage, generation: &str, rows: Vec<Row>) -> anyhow::Result<Vec<String>> {
    let good: Vec<Call> =
        rows.iter().filter_map(|row| Some((row.product.clone(), row.action.clone(), row.good.clone()?))).collect();
    let bad = |row: &Row| Some(((row.product.clone(), row.action.clone(), row.bad.clone()?), row.code.clone()?));
    let bad: Vec<(Call, String)> = rows.iter().filter_map(bad).collect();
    let call = async |calls: &[Call]| match generation.strip_prefix("node-") {
        Some(generation) => sdk::node(stage, generation, calls).await,
        None => sdk::typed(stage, generation, &[], calls).await,
    };
    let (mut absent, mut wrong) = (Vec::new(), Vec::new());
    for ((_, action, _), answer) in good.iter().zip(call(&good).await?) {
        if answer["absent"] == true {
            absent.push(action.as_str());
            continue;
        }
        match answer["ok"].is_object() {
            true => {
                let lost = holds(action, action, &declared(action)?, &answer["ok"]).err();
                wrong.extend(lost.map(|error| format!("{action}: {error:#} in {answer}")));
            }
            false => wrong.push(format!("{action}: {answer}")),
        }
    }
    let older_than = ["ListTagResources", "DescribeUserCdnStatus", "RefreshObjectCacheByCacheTag"];
    for action in absent.iter().filter(|action| !action.contains("Vod")) {
        ensure!(generation == "legacy" && older_than.contains(action), "{action} is not in this SDK");
    }
    ensure!(generation == "node-tea" || !absent.iter().any(|action| action.contains("Vod")), "{absent:?}");

    let (calls, codes): (Vec<Call>, Vec<String>) =
        bad.into_iter().filter(|((_, action, _), _)| !absent.contains(&action.as_str())).unzip();
    for ((call, code), answer) in calls.iter().zip(codes).zip(call(&calls).await?) {
        // One package supports only CDN.
        let is_absent = answer["absent"] == true && generation == "node-tea" && call.0 == "vod";
        if answer["code"] != code && !is_absent {
            wrong.push(format!("{}: {answer} and not {code}", call.1));
        }
    }
    Ok(wrong)
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
    let calls = [("cdn", "DescribeRefreshQuota", json!({})), ("vod", "DescribeVodRefreshQuota", json!({}))];
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
