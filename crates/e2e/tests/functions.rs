//! Functions of a domain through the vendor's own SDK and the command line, with real processes: set, refused, in
//! effect on every node, shown as set, deleted.

use anyhow::{Context, ensure};
use e2e::stage::{DOMAIN, Stage};
use e2e::{eventually, http, sdk};
use serde_json::{Value, json};

fn function(name: &str, args: &[(&str, &str)]) -> Value {
    let args: Vec<Value> = args.iter().map(|(name, value)| json!({ "argName": name, "argValue": value })).collect();
    json!({ "functionName": name, "functionArgs": args })
}

fn set(product: &'static str, action: &'static str, domains: &str, functions: &[Value]) -> sdk::Call {
    let functions = Value::Array(functions.to_vec()).to_string();
    (product, action, json!({ "DomainNames": domains, "Functions": functions }))
}

async fn one(stage: &Stage, call: sdk::Call) -> anyhow::Result<Value> {
    sdk::calls(stage, &[call]).await?.pop().context("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_are_set_in_force_everywhere_shown_and_deleted() -> anyhow::Result<()> {
    let stage = Stage::set("cdn-2024").await?;
    let origin = stage.origin().await?;
    let rules = [
        function("set_hashkey_args", &[("hashkey_args", "v"), ("disable", "on")]),
        function("set_resp_header", &[("key", "X-Told"), ("value", "yes")]),
        function("function_of_tomorrow", &[("Any", "Value as it is ")]),
    ];
    let refused = [
        (set("cdn", "BatchSetCdnDomainConfig", "not.mine.test", &rules), 404, "InvalidDomain.NotFound"),
        (
            set("cdn", "BatchSetCdnDomainConfig", &format!("{DOMAIN},not.mine.test"), &rules),
            404,
            "InvalidDomain.NotFound",
        ),
        (
            ("cdn", "BatchSetCdnDomainConfig", json!({ "DomainNames": DOMAIN, "Functions": "x" })),
            400,
            "InvalidFunctions.Malformed",
        ),
        (("cdn", "BatchSetCdnDomainConfig", json!({ "DomainNames": DOMAIN })), 400, "MissingParameter"),
        (
            set("cdn", "BatchSetCdnDomainConfig", DOMAIN, &[rules[0].clone(), function("gzip", &[("enable", "1")])]),
            400,
            "InvalidArgValue.Malformed",
        ),
        (
            set("vod", "BatchSetVodDomainConfigs", DOMAIN, &[function("gzip", &[("level", "1")])]),
            400,
            "InvalidArgName.ValueNotSupported",
        ),
        (
            set(
                "cdn",
                "BatchSetCdnDomainConfig",
                DOMAIN,
                &[rules[0].clone(), function("ali_remove_args", &[("ali_remove_args", "a")])],
            ),
            400,
            "InvalidFunctionName.ValueNotSupported",
        ),
        (
            set(
                "cdn",
                "BatchSetCdnDomainConfig",
                DOMAIN,
                &[function("set_req_header", &[("key", "Host"), ("value", "x")])],
            ),
            400,
            "InvalidHeaderKey.ValueNotSupported",
        ),
    ];
    for (call, status, code) in refused {
        let answer = one(&stage, call).await?;
        ensure!(answer["status"] == status && answer["code"] == code, "{answer}, not {code}");
    }
    let described = || async {
        let answer = one(&stage, ("cdn", "DescribeCdnDomainConfigs", json!({ "DomainName": DOMAIN }))).await?;
        answer["ok"]["DomainConfigs"]["DomainConfig"].as_array().cloned().with_context(|| answer.to_string())
    };
    assert!(described().await?.is_empty(), "what is refused leaves nothing");

    for path in ["/k/a.bin?x=1", "/k/a.bin?x=2"] {
        origin.write_bytes(path.split('?').next().unwrap_or_default(), b"the old bytes")?;
        assert_eq!(http::get(stage.edges()[0], DOMAIN, path, &[]).await?.status, 200);
    }
    let answer = one(&stage, set("cdn", "BatchSetCdnDomainConfig", DOMAIN, &rules)).await?;
    let models =
        answer["ok"]["DomainConfigList"]["DomainConfigModel"].as_array().with_context(|| answer.to_string())?;
    let names: Vec<&str> = models.iter().filter_map(|model| model["FunctionName"].as_str()).collect();
    assert_eq!(names, ["set_hashkey_args", "set_resp_header", "function_of_tomorrow"]);
    assert!(models.iter().all(|model| model["ConfigId"].is_u64() && model["DomainName"] == DOMAIN), "{answer}");
    stage.online().await;
    let shown = described().await?;
    assert_eq!(shown.len(), 3);
    let (told, unknown) = (&shown[1], &shown[2]);
    assert_eq!((&told["Status"], told["ConfigId"].is_string()), (&json!("success"), true), "{told}");
    let args = json!([{ "ArgName": "Any", "ArgValue": "Value as it is " }]);
    assert_eq!(unknown["FunctionArgs"]["FunctionArg"], args, "to the letter");

    for node in &stage.nodes {
        assert_eq!(http::get(node.port, DOMAIN, "/k/a.bin?x=1", &[]).await?.header("x-told"), "yes");
        eventually("one body is good for both URLs", || async {
            let answer = http::get(node.port, DOMAIN, "/k/a.bin?x=2", &[]).await?;
            ensure!(answer.header("x-cache") == format!("HIT from {}", node.name), "{}", answer.header("x-cache"));
            Ok(())
        })
        .await;
    }
    origin.write_bytes("/k/a.bin", b"the new bytes, which are longer")?;
    stage.cli(&["refresh", &format!("http://{DOMAIN}/k/a.bin?x=3"), "--wait"]).await?;
    for node in &stage.nodes {
        let answer = http::get(node.port, DOMAIN, "/k/a.bin?x=1", &[]).await?;
        assert_eq!(answer.text(), "the new bytes, which are longer", "a URL of the same key was refreshed");
    }

    let id = told["ConfigId"].as_str().context("an id")?;
    let by_id =
        one(&stage, ("cdn", "DescribeCdnDomainConfigs", json!({ "DomainName": DOMAIN, "ConfigId": id }))).await?;
    assert_eq!(by_id["ok"]["DomainConfigs"]["DomainConfig"][0]["FunctionName"], "set_resp_header");
    let by_number = one(&stage, ("cdn", "DescribeCdnUserDomainsByFunc", json!({ "FuncId": "27" }))).await?;
    assert_eq!(by_number["ok"]["Domains"]["PageData"][0]["DomainName"], DOMAIN, "{by_number}");
    stage.cli(&["domain", "config", "delete", DOMAIN, id]).await?;
    stage.online().await;
    let left = stage.cli(&["domain", "config", "show", DOMAIN]).await?;
    assert_eq!(left.as_array().map(Vec::len), Some(2), "{left}");
    assert_eq!(http::get(stage.edges()[0], DOMAIN, "/k/a.bin?x=1", &[]).await?.header("x-told"), "");
    Ok(())
}
