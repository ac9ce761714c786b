//! One row a code that the operations of the main job can answer: status, code and message through the vendor's own SDK,
//! reached by what a user or an operator can do. The texts are `spec/prefetch-refresh.md` §8's, column "current" for CDN
//! calls and "legacy" for VOD calls.

use anyhow::{Context, ensure};
use e2e::sdk::{self, Call};
use e2e::stage::{DOMAIN, Stage};
use e2e::warmfront;
use serde_json::{Value, json};

/// A row: why, the call, and what it must be answered: `None` is success.
type Row = (&'static str, Call, Option<(u16, &'static str, &'static str)>);

async fn check(stage: &Stage, rows: &[Row]) -> anyhow::Result<()> {
    let calls: Vec<Call> = rows.iter().map(|(_, call, _)| call.clone()).collect();
    let answers = sdk::calls(stage, &calls).await?;
    for ((why, (product, action, _), expected), answer) in rows.iter().zip(&answers) {
        match expected {
            None => ensure!(answer.get("ok").is_some(), "{why} ({product} {action}): {answer}"),
            Some((status, code, message)) => {
                let got = (answer["status"].as_u64(), answer["code"].as_str(), answer["message"].as_str());
                ensure!(
                    got == (Some(u64::from(*status)), Some(*code), Some(*message)),
                    "{why} ({product} {action}): {answer}"
                );
            }
        }
    }
    Ok(())
}

fn path(path: &str) -> Value {
    json!({ "ObjectPath": path })
}

fn typed(path: &str, kind: &str) -> Value {
    json!({ "ObjectPath": path, "ObjectType": kind })
}

/// `count` different URLs, from number `from` on.
fn lines(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("http://{DOMAIN}/{n}.bin")).collect::<Vec<_>>().join("\n")
}

fn directories(count: usize) -> String {
    (0..count).map(|n| format!("http://{DOMAIN}/{n}/")).collect::<Vec<_>>().join("\n")
}

async fn with_domain(stage: &Stage) -> anyhow::Result<()> {
    stage.cli(&["domain", "add", DOMAIN, "--origin", "127.0.0.1:9", "--coverage", "global"]).await?;
    stage.online().await;
    Ok(())
}

#[tokio::test]
async fn bad_input_is_answered_in_the_vendors_words() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &[]).await?;
    with_domain(&stage).await?;
    let malformed = Some((400, "InvalidObjectPath.Malformed", "The specified ObjectPath is invalid."));
    let malformed_vod =
        Some((400, "InvalidObjectPath.Malformed", "The specific value of parameter ObjectPath is malformed."));
    let missing = Some((
        400,
        "MissingParameter",
        "The input parameter \"ObjectPath\" that is mandatory for processing this request is not supplied.",
    ));
    let not_found = Some((404, "InvalidDomain.NotFound", "The domain provided does not belong to you."));
    let over = Some((400, "SingleRequest.OverLimit", "A maximum of 1000 URLs are supported for each request."));
    let over_vod = Some((400, "InvalidObjectPath.Size.Malformed", "The size of ObjectPath is bigger than 1000."));
    let at_most = Some((400, "InvalidObjectPath.ExceedsMaximum", "The maximum number of urls is exceeded."));
    let wildcard =
        Some((400, "InvalidExtensiveDomain.ValueNotSupported", "The specified ExtensiveDomain is not supported."));
    let wildcard_vod = Some((400, "InvalidExtensiveDomain.ValueNotSupported", "Extensive domain not supported."));
    let long = format!("http://{DOMAIN}/{}", "x".repeat(1100));
    let file = format!("http://{DOMAIN}/a.bin");
    let with_header = |value: &str| json!({ "ObjectPath": file, "WithHeader": value });
    let rows: Vec<Row> = vec![
        ("no path", ("cdn", "PushObjectCache", json!({})), missing),
        ("no path", ("cdn", "RefreshObjectCaches", json!({})), missing),
        ("no path", ("vod", "PreloadVodObjectCaches", json!({})), missing),
        ("no path", ("vod", "RefreshVodObjectCaches", json!({})), missing),
        ("not a URL", ("cdn", "PushObjectCache", path("http:///")), malformed),
        ("not a URL", ("vod", "PreloadVodObjectCaches", path("http:///")), malformed_vod),
        (
            "a directory cannot be prefetched",
            ("cdn", "PushObjectCache", path(&format!("http://{DOMAIN}/a/"))),
            malformed,
        ),
        ("too long a line", ("cdn", "PushObjectCache", path(&long)), malformed),
        ("a directory ends in a slash", ("cdn", "RefreshObjectCaches", typed(&file, "Directory")), malformed),
        ("a directory ends in a slash", ("vod", "RefreshVodObjectCaches", typed(&file, "Directory")), malformed_vod),
        ("wildcard host", ("cdn", "PushObjectCache", path("http://*.example.com/a")), wildcard),
        ("wildcard host", ("vod", "PreloadVodObjectCaches", path("http://*.example.com/a")), wildcard_vod),
        ("nobody's domain", ("cdn", "PushObjectCache", path("http://other.example.com/a")), not_found),
        ("nobody's domain", ("vod", "RefreshVodObjectCaches", path("http://other.example.com/a")), not_found),
        ("1001 lines", ("cdn", "PushObjectCache", path(&lines(0, 1001))), over),
        ("1001 lines", ("cdn", "RefreshObjectCaches", path(&lines(0, 1001))), over),
        ("1001 lines", ("vod", "PreloadVodObjectCaches", path(&lines(0, 1001))), over_vod),
        ("101 lines of a prefetch", ("cdn", "PushObjectCache", path(&lines(0, 101))), at_most),
        ("101 directories", ("cdn", "RefreshObjectCaches", typed(&directories(101), "Directory")), at_most),
        (
            "no such type",
            ("cdn", "RefreshObjectCaches", typed(&file, "Folder")),
            Some((400, "InvalidObjectType.Malformed", "The specified ObjectType is invalid.")),
        ),
        (
            "no such type",
            ("vod", "RefreshVodObjectCaches", typed(&file, "Folder")),
            Some((
                400,
                "InvalidObjectType.ValueNotSupported",
                "The specified value of \"<ObjectType>\" is not supported.",
            )),
        ),
        (
            "not JSON",
            ("cdn", "PushObjectCache", with_header("gzip")),
            Some((400, "InvalidCustomHeader", "Parse preload header failed.")),
        ),
        (
            "a header that is not allowed",
            ("cdn", "PushObjectCache", with_header("{\"Host\":[\"x\"]}")),
            Some((400, "InvalidCustomHeader", "Unsupported Preload headers included.")),
        ),
        (
            "parsed, not built yet",
            ("cdn", "RefreshObjectCaches", typed(&format!("http://{DOMAIN}/[0-9].png"), "Regex")),
            Some((400, "UnsupportedOperation", "The specified action is not supported.")),
        ),
        (
            "known, not built yet",
            ("cdn", "DescribeDomainBpsData", json!({})),
            Some((400, "UnsupportedOperation", "The specified action is not supported.")),
        ),
        (
            "unknown",
            ("cdn", "MakeCoffee", json!({})),
            Some((404, "InvalidAction.NotFound", "Specified api is not found, please check your url and method.")),
        ),
        (
            "an id that is none",
            ("cdn", "DescribeRefreshTasks", json!({"TaskId": "abc"})),
            Some((400, "InvalidTaskId.Malformed", "The specified TaskId is invalid.")),
        ),
        ("an unknown id is no error", ("cdn", "DescribeRefreshTasks", json!({"TaskId": "999999999"})), None),
        (
            "one time alone",
            ("cdn", "DescribeRefreshTasks", json!({"StartTime": "2026-01-01T00:00:00Z"})),
            Some((400, "MissingTimeParameter", "The StartTime and EndTime must be both specified.")),
        ),
        (
            "a domain wants a type",
            ("cdn", "DescribeRefreshTasks", json!({"DomainName": DOMAIN})),
            Some((
                400,
                "MissingParameter.ObjectType",
                "The ObjectType parameter is required if DomainName or ObjectType is specified.",
            )),
        ),
        ("after all that, a good one", ("cdn", "PushObjectCache", path(&file)), None),
    ];
    check(&stage, &rows).await
}

#[tokio::test]
async fn limits_are_answered_in_the_vendors_words() -> anyhow::Result<()> {
    let quotas = ["--quota", "preload=5,url=1100,dir=2"];
    let stage = Stage::without_nodes("cdn-2024", &quotas).await?;
    with_domain(&stage).await?;
    let refresh_day = Some((400, "QuotaExceeded.Refresh", "You've exceeded the prescribed refresh limits."));
    let rows: Vec<Row> = vec![
        (
            "the batch does not fit",
            ("cdn", "PushObjectCache", path(&lines(0, 6))),
            Some((400, "QuotaExceeded.Preload", "Your preload attempts have exceeded the daily limit.")),
        ),
        ("and was not charged", ("cdn", "PushObjectCache", path(&lines(0, 5))), None),
        ("VOD says it in its words", ("vod", "PreloadVodObjectCaches", path(&lines(9, 1))), refresh_day),
        ("3 of 2 directories", ("cdn", "RefreshObjectCaches", typed(&directories(3), "Directory")), refresh_day),
        ("1000 files", ("cdn", "RefreshObjectCaches", path(&lines(0, 1000))), None),
        (
            "1001 in a minute for one domain",
            ("cdn", "RefreshObjectCaches", path(&lines(1000, 1))),
            Some((
                400,
                "QuotaPerMinuteExceeded.Refresh",
                "You tried to refresh too frequently; please try again later.",
            )),
        ),
        (
            "VOD says it in its words",
            ("vod", "RefreshVodObjectCaches", path(&lines(1000, 1))),
            Some((400, "QuotaPerMinuteExceeded.Refresh", "You've exceeded the prescribed refresh limits per minute.")),
        ),
        ("101 more files than the day has", ("cdn", "RefreshObjectCaches", path(&lines(2000, 101))), refresh_day),
    ];
    check(&stage, &rows).await
}

#[tokio::test]
async fn full_queue_is_answered_in_the_vendors_words() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &["--quota", "preload=100000,queue=150"]).await?;
    with_domain(&stage).await?;
    let rows: Vec<Row> = vec![
        ("room for 150", ("cdn", "PushObjectCache", path(&lines(0, 100))), None),
        (
            "50 left",
            ("cdn", "PushObjectCache", path(&lines(100, 51))),
            Some((400, "PreloadQueueFull", "Preload queue is full, please try again later.")),
        ),
        (
            "VOD",
            ("vod", "PreloadVodObjectCaches", path(&lines(100, 51))),
            Some((403, "PreloadQueueFull", "Preload queue is full, please try again later!")),
        ),
        ("nothing was half done", ("cdn", "PushObjectCache", path(&lines(100, 50))), None),
    ];
    check(&stage, &rows).await
}

#[tokio::test]
async fn state_of_the_account_is_answered_in_the_vendors_words() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &[]).await?;
    with_domain(&stage).await?;
    let file = format!("http://{DOMAIN}/a.bin");
    let denied = |message| Some((403, "OperationDenied", message));
    let steps: Vec<(&str, Vec<Row>)> = vec![
        (
            "not-opened",
            vec![
                (
                    "push",
                    ("cdn", "PushObjectCache", path(&file)),
                    denied("Your account does not open CDN service yet."),
                ),
                (
                    "preload",
                    ("vod", "PreloadVodObjectCaches", path(&file)),
                    denied("Your account does not open VOD service yet."),
                ),
            ],
        ),
        (
            "suspended",
            vec![
                ("refresh", ("cdn", "RefreshObjectCaches", path(&file)), denied("Your CDN service is suspended.")),
                (
                    "preload",
                    ("vod", "PreloadVodObjectCaches", path(&file)),
                    Some((403, "OperationDenied.Suspended", "Your VOD service is suspended.")),
                ),
            ],
        ),
        ("active", vec![("push", ("cdn", "PushObjectCache", path(&file)), None)]),
    ];
    for (status, rows) in steps {
        warmfront(&["account", "set", "test", "--status", status, "--state", &stage.state], &[]).context(status)?;
        // The control plane believes a key for at most a second after it read it.
        e2e::eventually(status, || async { check(&stage, &rows[..1]).await }).await;
        check(&stage, &rows).await?;
    }
    Ok(())
}

#[tokio::test]
async fn too_many_requests_a_second_are_throttled() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &["--qps", "1"]).await?;
    let calls: Vec<Call> = (0..12).map(|_| ("cdn", "DescribeRefreshQuota", json!({}))).collect();
    let answers = sdk::calls(&stage, &calls).await?;
    let throttled = answers
        .iter()
        .filter(|answer| answer["code"].as_str().is_some_and(|code| code.starts_with("Throttling")))
        .count();
    assert!(throttled > 0 && throttled < 12, "some pass, some do not: {answers:?}");
    Ok(())
}
