//! One row per code that the operations of the main job can return: status, code and message through the vendor's own
//! SDK, caused by actions of a user or an operator. The texts are those of `spec/prefetch-refresh.md` §8, column
//! "current" for CDN calls and "legacy" for VOD calls.

use std::process::Command;

use anyhow::{Context, ensure};
use e2e::sdk::{self, Call};
use e2e::stage::{DOMAIN, Stage};
use e2e::warmfront;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A row: the reason, the call, and the expected error; `None` is success.
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
    stage.add_domain("127.0.0.1:9").await?;
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
            "more of a regex than there is",
            ("cdn", "RefreshObjectCaches", typed(&format!("http://{DOMAIN}/[0-9]+.png"), "Regex")),
            Some((
                400,
                "InvalidObjectPath.Malformed",
                "The specified ObjectPath is invalid. (`[0-9]+` is not understood in a regex: only [0-9], [a-z], [^/]* and .* \
                 are, everything else is literal)",
            )),
        ),
        (
            "two regexes",
            ("cdn", "RefreshObjectCaches", typed(&format!("http://{DOMAIN}/1\nhttp://{DOMAIN}/2"), "Regex")),
            Some((400, "InvalidObjectPath.ExceedsMaximum", "The maximum number of urls is exceeded.")),
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
async fn queries_of_tasks_are_answered_in_the_vendors_words() -> anyhow::Result<()> {
    // More calls per second than users may make.
    let stage = Stage::without_nodes("cdn-2024", &["--quota", "action_qps=1000"]).await?;
    let error = |code, message| Some((400, code, message));
    let between = |start: &str, end: &str| json!({ "StartTime": start, "EndTime": end });
    let (start, end) = (clock(-3_600), clock(0));
    let cdn = |parameters: Value| ("cdn", "DescribeRefreshTasks", parameters);
    let vod = |parameters: Value| ("vod", "DescribeVodRefreshTasks", parameters);
    let no_type = "The specified ObjectType is not supported.";
    let no_status = "The specified Status is not supported.";
    let rows: Vec<Row> = vec![
        ("an hour", cdn(between(&start, &end)), None),
        ("an hour", vod(between(&start, &end)), None),
        (
            "not a time",
            cdn(between("yesterday", &end)),
            error("InvalidStartTime.Malformed", "The specified StartTime is invalid."),
        ),
        (
            "not a time",
            vod(between("yesterday", &end)),
            error("InvalidStartTime.Malformed", "Specified StartTime is malformed."),
        ),
        (
            "not a time",
            cdn(between(&start, "now")),
            error("InvalidEndTime.Malformed", "The specified EndTime is invalid."),
        ),
        (
            "not a time",
            vod(between(&start, "now")),
            error("InvalidEndTime.Malformed", "Specified EndTime is malformed."),
        ),
        (
            "backwards",
            cdn(between(&end, &start)),
            error("InvalidEndTime.Mismatch", "The specified EndTime is earlier than the StartTime."),
        ),
        (
            "in the future",
            cdn(between(&clock(86_400), &clock(90_000))),
            error("InvalidStartTime.ValueNotSupported", "The specified StartTime is invalid."),
        ),
        (
            "too long ago",
            cdn(between(&clock(-5 * 86_400), &end)),
            error("InvalidTime", "The query time cannot exceed the last 3 days."),
        ),
        (
            "one time alone",
            vod(json!({ "EndTime": end })),
            error("MissingParameter", "StartTime and EndTime can not be single."),
        ),
        ("no such type", cdn(json!({ "ObjectType": "folder" })), error("InvalidObjectType.ValueNotSupported", no_type)),
        (
            "no such state",
            cdn(json!({ "ObjectType": "file", "Status": "done" })),
            error("InvalidStatus.ValueNotSupported", no_status),
        ),
        (
            "a state wants a type",
            cdn(json!({ "Status": "Complete" })),
            error(
                "MissingParameter.ObjectType",
                "The ObjectType parameter is required if DomainName or ObjectType is specified.",
            ),
        ),
        ("a type of the vendor's that we have none of", cdn(json!({ "ObjectType": "block" })), None),
        (
            "page 0",
            cdn(json!({ "PageNumber": "0" })),
            error(
                "InvalidPageNumber.ValueNotSupported",
                "The specified value of parameter PageNumber is not supported.",
            ),
        ),
        (
            "a page too large for VOD",
            vod(json!({ "PageSize": "51" })),
            error("InvalidPageSize.ValueNotSupported", "The specified value of parameter PageSize is not supported."),
        ),
        (
            "ids that are none",
            vod(json!({ "TaskId": "1,x" })),
            error("InvalidTaskId.Malformed", "Specified TaskId is malformed."),
        ),
        (
            "more than ten ids",
            ("cdn", "DescribeRefreshTaskById", json!({ "TaskId": "1,2,3,4,5,6,7,8,9,10,11" })),
            error("InvalidTaskId.Malformed", "The specified TaskId is invalid."),
        ),
        (
            "no id",
            ("cdn", "DescribeRefreshTaskById", json!({})),
            error(
                "MissingParameter",
                "The input parameter \"TaskId\" that is mandatory for processing this request is not supplied.",
            ),
        ),
    ];
    check(&stage, &rows).await
}

/// `yyyy-MM-ddTHH:mm:ssZ`, this many seconds from now.
fn clock(from_now: i64) -> String {
    let at = Command::new("date").args(["-u", "-d", &format!("{from_now} seconds"), "+%Y-%m-%dT%H:%M:%SZ"]).output();
    String::from_utf8(at.expect("date runs").stdout).expect("date writes text").trim().to_owned()
}

#[tokio::test]
async fn a_domain_on_its_way_to_the_nodes_is_busy() -> anyhow::Result<()> {
    let mut stage = Stage::set("cdn-2024").await?;
    // A node that is down has not received the domain; its lease must expire before the domain is configured.
    stage.node("cn-1-l1").kill9();
    stage.cli(&["domain", "add", DOMAIN, "--origin", "127.0.0.1:9", "--coverage", "global"]).await?;
    let busy = Some((403, "ServiceBusy", "The specified Domain is configuring, please retry later."));
    let file = format!("http://{DOMAIN}/a.bin");
    let rows: Vec<Row> = vec![
        ("refresh", ("cdn", "RefreshObjectCaches", path(&file)), busy),
        ("prefetch", ("vod", "PreloadVodObjectCaches", path(&file)), busy),
    ];
    check(&stage, &rows).await?;
    stage.online().await;
    check(&stage, &[("once configured", ("cdn", "RefreshObjectCaches", path(&file)), None)]).await
}

#[tokio::test]
async fn full_refresh_queue_of_a_domain_is_answered_in_the_vendors_words() -> anyhow::Result<()> {
    let mut stage = Stage::with_lease("open", 600).await?;
    with_domain(&stage).await?;
    // Refreshes wait for a node that does not answer until it does, or its lease expires.
    stage.node("cn-1-l1").kill9();
    let call = |from: usize| ("cdn", "RefreshObjectCaches", path(&lines(from, 1000)));
    let mut rows: Vec<Row> = (0..50).map(|n| ("room for 50,000", call(n * 1000), None)).collect();
    let full = Some((400, "TooMany.Refresh", "The refresh queue is full; please try again later."));
    let full_vod = Some((400, "TooMany.Refresh", "there is too many refresh task, please wait a moment."));
    rows.push(("one more", ("cdn", "RefreshObjectCaches", path(&format!("http://{DOMAIN}/x"))), full));
    rows.push((
        "VOD says it in its words",
        ("vod", "RefreshVodObjectCaches", path(&format!("http://{DOMAIN}/x"))),
        full_vod,
    ));
    check(&stage, &rows).await?;
    stage.node("cn-1-l1").start()?;
    e2e::eventually("the queue is empty again", || async {
        check(
            &stage,
            &[("when they are done", ("cdn", "RefreshObjectCaches", path(&format!("http://{DOMAIN}/x"))), None)],
        )
        .await
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn overload_is_answered_in_the_vendors_words() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &[]).await?;
    // As many bodies as may be read concurrently from one address, none of which ends.
    let mut half = Vec::new();
    for _ in 0..128 {
        let mut stream = TcpStream::connect(("127.0.0.1", stage.api_port)).await?;
        stream.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nA").await?;
        half.push(stream);
    }
    e2e::eventually("all of them are being read", || async {
        let metrics = e2e::http::get(stage.api_port, "localhost", "/metrics", &[]).await?.text();
        ensure!(metrics.contains("warmfront_api_bodies_reading 128\n"), "{metrics}");
        Ok(())
    })
    .await;
    let quota = |product, action| (product, action, json!({}));
    let rows: Vec<Row> = vec![
        (
            "CDN",
            quota("cdn", "DescribeRefreshQuota"),
            Some((429, "TooManyRequests", "System load fluctuates, please try again later.")),
        ),
        (
            "VOD",
            quota("vod", "DescribeVodRefreshQuota"),
            Some((503, "Throttling", "Request was denied due to request throttling.")),
        ),
    ];
    check(&stage, &rows).await?;
    drop(half);
    e2e::eventually("it has recovered", || async {
        check(&stage, &[("after it", quota("cdn", "DescribeRefreshQuota"), None)]).await
    })
    .await;
    Ok(())
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
        (
            "VOD has its own day, and says it in its words",
            ("vod", "PreloadVodObjectCaches", path(&lines(0, 6))),
            refresh_day,
        ),
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
        ("1000 files by VOD", ("vod", "RefreshVodObjectCaches", path(&lines(0, 1000))), None),
        (
            "VOD has its own minute, and says it in its words",
            ("vod", "RefreshVodObjectCaches", path(&lines(1000, 1))),
            Some((400, "QuotaPerMinuteExceeded.Refresh", "You've exceeded the prescribed refresh limits per minute.")),
        ),
        ("101 more files than the day has", ("cdn", "RefreshObjectCaches", path(&lines(2000, 101))), refresh_day),
    ];
    check(&stage, &rows).await
}

#[tokio::test]
async fn prefetches_of_a_minute_are_limited_in_the_vendors_words() -> anyhow::Result<()> {
    let stage = Stage::without_nodes("cdn-2024", &["--quota", "preload=100000"]).await?;
    with_domain(&stage).await?;
    let mut rows: Vec<Row> = (0..10)
        .map(|n| ("1,000 a minute and domain", ("cdn", "PushObjectCache", path(&lines(n * 100, 100))), None))
        .collect();
    let over = "You have exceeded the prescribed preload limits per minute.";
    let over_vod = "You've exceeded the prescribed refresh limits per minute.";
    rows.push((
        "one more",
        ("cdn", "PushObjectCache", path(&lines(1000, 1))),
        Some((400, "QuotaPerMinuteExceeded.Refresh", over)),
    ));
    rows.push(("1,000 by VOD", ("vod", "PreloadVodObjectCaches", path(&lines(0, 1000))), None));
    rows.push((
        "VOD",
        ("vod", "PreloadVodObjectCaches", path(&lines(1000, 1))),
        Some((400, "QuotaPerMinuteExceeded.Refresh", over_vod)),
    ));
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
        ("VOD has a queue of its own", ("vod", "PreloadVodObjectCaches", path(&lines(100, 51))), None),
        ("48 left", ("vod", "PreloadVodObjectCaches", path(&lines(200, 51))), None),
        (
            "VOD's is full, too",
            ("vod", "PreloadVodObjectCaches", path(&lines(300, 51))),
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
        (
            "overdue",
            vec![
                (
                    "push",
                    ("cdn", "PushObjectCache", path(&file)),
                    Some((400, "InsufficientBalance", "Your account does not have enough balance.")),
                ),
                ("looking works", ("cdn", "DescribeRefreshTasks", json!({})), None),
            ],
        ),
        ("active", vec![("push", ("cdn", "PushObjectCache", path(&file)), None)]),
    ];
    for (status, rows) in steps {
        warmfront(&["account", "set", "test", "--status", status, "--state", &stage.state], &[]).context(status)?;
        // The control plane caches a key for at most a second.
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
