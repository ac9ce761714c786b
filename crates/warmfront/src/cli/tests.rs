//! The commands against a small API in this process, which verifies every signature, answers from a script, and records
//! the calls.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aliyun::Incoming;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use clap::Parser;
use http::StatusCode;
use model::{Clock, Moment};
use serde_json::{Value, json};

use super::{ClientCommand, run};
use crate::output::Output;

mod steering;

const SECRET: &str = "demo-key-secret";

/// One received call.
struct Call {
    action: String,
    parameters: Vec<(String, String)>,
    nonce: String,
}

impl Call {
    fn get(&self, name: &str) -> &str {
        self.parameters.iter().find(|(had, _)| had == name).map_or("", |(_, value)| value)
    }

    fn urls(&self) -> usize {
        self.get("ObjectPath").lines().count()
    }
}

/// Status, requested pause in milliseconds, body.
type Reply = (u16, Option<u64>, Value);
type Script = Box<dyn Fn(&Call, &[Call]) -> Reply + Send + Sync>;

struct Service {
    script: Script,
    calls: Mutex<Vec<Call>>,
}

fn ok(body: Value) -> Reply {
    (200, None, body)
}

fn refused(status: u16, code: &str) -> Reply {
    (status, None, json!({ "Code": code, "Message": "Because.", "RequestId": "R" }))
}

async fn serve(State(service): State<Arc<Service>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 4 << 20).await.unwrap();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let incoming = Incoming { method: &head.method, path, query, headers: &head.headers, body: &body };
    let request = aliyun::read(&incoming).expect("the request can be read");
    request.verify(SECRET).expect("the signature is right");
    assert_eq!((request.access_key_id.as_str(), request.version.as_str()), ("demo-key-id", "2018-05-10"));

    let parameters = form_urlencoded::parse(&body).into_owned().collect();
    let call = Call { action: request.action.clone(), parameters, nonce: request.nonce.clone() };
    let mut calls = service.calls.lock().unwrap();
    let (status, pause, body) = (service.script)(&call, &calls);
    calls.push(call);
    let pause = pause.map(|pause| [("x-acs-retry-after", pause.to_string())]);
    (StatusCode::from_u16(status).unwrap(), pause.into_iter().collect::<HeaderList>(), axum::Json(body)).into_response()
}

/// Response headers, possibly none.
#[derive(Default)]
struct HeaderList(Vec<(&'static str, String)>);

impl FromIterator<[(&'static str, String); 1]> for HeaderList {
    fn from_iter<I: IntoIterator<Item = [(&'static str, String); 1]>>(headers: I) -> HeaderList {
        HeaderList(headers.into_iter().flatten().collect())
    }
}

impl axum::response::IntoResponseParts for HeaderList {
    type Error = std::convert::Infallible;

    fn into_response_parts(
        self,
        mut parts: axum::response::ResponseParts,
    ) -> Result<axum::response::ResponseParts, Self::Error> {
        for (name, value) in self.0 {
            parts.headers_mut().insert(name, value.parse().unwrap());
        }
        Ok(parts)
    }
}

/// A clock that stands still; the service of these tests does not check time stamps.
struct StillClock;

impl Clock for StillClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn moment(&self) -> Moment {
        Moment::at(std::time::Duration::ZERO)
    }
}

#[derive(Debug, Parser)]
struct CommandLine {
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: ClientCommand,
}

struct Ran {
    status: ExitCode,
    out: String,
    calls: Vec<Call>,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    fn check(&self, status: u8) {
        assert_eq!(format!("{:?}", self.status), format!("{:?}", ExitCode::from(status)), "{}", self.out);
    }
}

/// Parses and runs a command line.
async fn command(endpoint: &str, line: &[&str]) -> (ExitCode, String) {
    let secret: PathBuf = secret_file();
    let secret_path = secret.display().to_string();
    let always = ["--endpoint", endpoint, "--access-key-id", "demo-key-id", "--access-key-secret-file", &secret_path];
    let parsed = CommandLine::try_parse_from([&["warmfront"], line, &always].concat()).unwrap();
    let mut out = Vec::new();
    let status = run(&parsed.command, parsed.output, Arc::new(StillClock), &mut out).await;
    std::fs::remove_file(secret).unwrap();
    (status, String::from_utf8(out).unwrap())
}

fn secret_file() -> PathBuf {
    let (mut file, path) = tempfile::NamedTempFile::new().unwrap().keep().unwrap();
    std::io::Write::write_all(&mut file, format!("{SECRET}\n").as_bytes()).unwrap();
    path
}

/// Runs a command line against a service that answers from `script`, which is given the call and the previous ones.
async fn against(line: &[&str], script: impl Fn(&Call, &[Call]) -> Reply + Send + Sync + 'static) -> Ran {
    let service = Arc::new(Service { script: Box::new(script), calls: Mutex::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string(); // no scheme: http, as it is this machine
    let app = Router::new().fallback(serve).with_state(Arc::clone(&service));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let (status, out) = command(&endpoint, line).await;
    server.abort();
    let calls = std::mem::take(&mut *service.calls.lock().unwrap());
    Ran { status, out, calls }
}

/// A task's rows for the URLs of the `n`th submission, in `state`.
fn rows(id: &str, urls: &str, state: &str, cause: &str) -> Vec<Value> {
    let process = if state == "Refreshing" { "50%" } else { "100%" };
    urls.lines()
        .map(|url| {
            json!({ "TaskId": id, "ObjectPath": url, "ObjectType": "preload", "Status": state, "Process": process,
                    "CreationTime": "2026-01-02T03:04:05Z", "Description": cause })
        })
        .collect()
}

/// A service that accepts submissions as tasks 1, 2, ... and reports `state` for each after `rounds` queries.
fn honest(rounds: usize, state: &'static str, cause: &'static str) -> impl Fn(&Call, &[Call]) -> Reply + Send + Sync {
    move |call, before| {
        let submissions: Vec<&Call> = before.iter().filter(|call| call.action == "PushObjectCache").collect();
        if call.action == "PushObjectCache" {
            return ok(json!({ "PushTaskId": (submissions.len() + 1).to_string(), "RequestId": "R" }));
        }
        assert_eq!(call.action, "DescribeRefreshTaskById");
        let asked = before.len() - submissions.len();
        let state = if asked < rounds { "Refreshing" } else { state };
        let ids: Vec<usize> = call.get("TaskId").split(',').map(|id| id.parse().unwrap()).collect();
        let tasks: Vec<Value> = ids
            .iter()
            .flat_map(|id| rows(&id.to_string(), submissions[id - 1].get("ObjectPath"), state, cause))
            .collect();
        ok(json!({ "Tasks": tasks, "TotalCount": tasks.len(), "RequestId": "R" }))
    }
}

#[tokio::test]
async fn push_is_split_and_waited_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let urls: Vec<String> = (0..250).map(|n| format!("http://demo.test/{n}?a=中 b&c=*")).collect();
    std::fs::write(file.path(), urls.join("\n")).unwrap();
    let list = format!("@{}", file.path().display());
    let line = [
        "push",
        &list,
        "--area",
        "overseas",
        "--l2",
        "--edge",
        "--priority",
        "9",
        "--not-before",
        "2026-01-31T00:00:00Z",
        "--refetch",
        "--pin",
        "2h",
        "--wait",
        "--output",
        "json",
    ];
    let ran = against(&line, honest(2, "Complete", "")).await;
    ran.check(0);

    let pushes: Vec<&Call> = ran.calls.iter().filter(|call| call.action == "PushObjectCache").collect();
    assert_eq!(pushes.iter().map(|call| call.urls()).collect::<Vec<_>>(), [100, 100, 50]);
    for push in pushes {
        let names = ["Area", "L2Preload", "Tier", "Priority", "NotBefore", "Refetch", "Pin", "QueryHashkey"];
        let sent = names.map(|name| push.get(name));
        assert_eq!(sent, ["overseas", "true", "edge", "9", "2026-01-31T00:00:00Z", "true", "7200", "true"]);
    }
    let nonces: HashSet<&str> = ran.calls.iter().map(|call| call.nonce.as_str()).collect();
    assert_eq!(nonces.len(), ran.calls.len(), "each request has its own nonce");
    assert_eq!(ran.calls.len(), 3 + 4, "three submissions; then the oldest task twice, and the others at once, twice");

    let json = ran.json();
    assert_eq!(json["task_ids"], json!(["1", "2", "3"]));
    assert_eq!(json["urls"].as_array().unwrap().len(), 250);
    let first = json!({ "url": urls[0], "task_id": "1", "state": "Complete", "process": "100%", "cause": "" });
    assert_eq!(json["urls"][0], first);
}

#[tokio::test]
async fn push_is_explained_without_being_submitted() {
    let script = |call: &Call, _: &[Call]| {
        assert_eq!((call.action.as_str(), call.get("QueryHashkey")), ("ExplainPreload", "false"));
        let owner = |node: &str, connected: bool| json!({ "Node": node, "Connected": connected });
        ok(json!({ "RequestId": "R", "Urls": [{
            "Url": "http://demo.test/a?x=1", "Domain": "demo.test", "Key": "demo.test/a?x=1", "UsersKey": "demo.test/a",
            "Because": [{ "Functions": ["set_hashkey_args"], "Key": "demo.test/a" }],
            "OriginPath": "/a?x=1", "Origins": ["127.0.0.1:80"], "Variants": [{ "accept-encoding": "gzip" }],
            "Targets": [{ "Pop": "eu-1", "Tier": "L2", "Owners": [owner("one", true), owner("two", false)] }],
            "Problems": ["it is odd"],
        }] }))
    };
    let line = ["push", "http://demo.test/a?x=1", "--explain", "--key-as-given"];
    let ran = against(&line, script).await;
    ran.check(1);
    for part in [
        "  key      demo.test/a?x=1\n           demo.test/a by set_hashkey_args\n",
        "  origin   /a?x=1 of 127.0.0.1:80\n  variant  accept-encoding: gzip\n",
        "  target   eu-1/L2: one, two (not connected)\n  problem  it is odd\n",
    ] {
        assert!(ran.out.contains(part), "{}", ran.out);
    }
    let ran = against(&[&line[..], &["--output", "json"]].concat(), script).await;
    let url = &ran.json()["urls"][0];
    assert_eq!(
        (&url["users_key"], &url["targets"][0]["owners"][1]["connected"]),
        (&json!("demo.test/a"), &json!(false))
    );
}

#[tokio::test]
async fn a_failed_url_fails_the_command_and_is_named() {
    let ran =
        against(&["push", "http://demo.test/a", "--wait"], honest(0, "Failed", "OriginReturn StatusCode 404")).await;
    ran.check(1);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = ran.out.lines().map(words).collect();
    assert_eq!(lines[0], ["URL", "STATE", "CAUSE"]);
    assert_eq!(lines[1], ["http://demo.test/a", "Failed", "OriginReturn", "StatusCode", "404"]);
}

#[tokio::test]
async fn urls_of_others_in_a_shared_task_are_not_waited_for() {
    let cases = [
        // submitted            what the task has: URL and state                                           status, rows
        (
            "http://Demo.test/中",
            [("http://demo.test/%E4%B8%AD", "Complete"), ("http://demo.test/b", "Refreshing")],
            0,
            1,
        ),
        ("http://demo.test/a", [("http://demo.test/a", "Failed"), ("http://demo.test/b", "Complete")], 1, 1),
        ("http://demo.test/a", [("http://demo.test/a", "Complete"), ("http://demo.test/a", "Complete")], 0, 2),
        // It cannot be known whose the rows are, so all are waited for.
        ("http://demo.test/a", [("http://demo.test/b", "Complete"), ("http://demo.test/c", "Failed")], 1, 2),
    ];
    for (url, there, status, shown) in cases {
        let script = move |call: &Call, _: &[Call]| {
            if call.action == "PushObjectCache" {
                return ok(json!({ "PushTaskId": "1", "RequestId": "R" }));
            }
            let tasks: Vec<Value> = there.iter().flat_map(|(url, state)| rows("1", url, state, "")).collect();
            ok(json!({ "Tasks": tasks, "RequestId": "R" }))
        };
        let ran = against(&["push", url, "--wait", "--timeout", "20", "--output", "json"], script).await;
        ran.check(status);
        assert_eq!(ran.json()["urls"].as_array().unwrap().len(), shown, "{url}");
    }
}

#[tokio::test]
async fn without_waiting_the_ids_stand_alone() {
    let ran =
        against(&["push", "http://demo.test/a", "http://demo.test/b", "--per-call", "1"], honest(0, "", "")).await;
    ran.check(0);
    assert_eq!(ran.out, "1\n2\n");
}

#[tokio::test]
async fn waiting_ends_when_the_time_is_over() {
    let line = ["push", "http://demo.test/a", "--wait", "--timeout", "0", "--output", "json"];
    let ran = against(&line, honest(usize::MAX, "Complete", "")).await;
    ran.check(1);
    assert_eq!(ran.json()["urls"][0]["state"], "Refreshing");
}

#[tokio::test]
async fn waiting_outlives_a_service_that_fails_for_a_while() {
    let complete = honest(0, "Complete", "");
    let ran = against(&["push", "http://demo.test/a", "--wait"], move |call, before| {
        if before.len() == 1 { refused(500, "InternalError") } else { complete(call, before) }
    });
    ran.await.check(0);
}

#[tokio::test]
async fn a_refused_call_ends_the_submission() {
    let urls = ["http://demo.test/a", "http://demo.test/b", "http://demo.test/c"];
    let line = [&["push"], &urls[..], &["--per-call", "1", "--output", "json"]].concat();
    let ran = against(&line, |_, before| match before.len() {
        0 => ok(json!({ "PushTaskId": "7,8" })),
        _ => refused(400, "QuotaExceeded.Preload"),
    });
    let ran = ran.await;
    ran.check(1);
    assert_eq!(ran.calls.len(), 2);
    let json = ran.json();
    assert_eq!(json["task_ids"], json!(["7", "8"]));
    let states: Vec<&str> = (0..3).map(|n| json["urls"][n]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["Submitted", "Refused", "NotSent"]);
    assert!(json["urls"][1]["cause"].as_str().unwrap().contains("QuotaExceeded.Preload"), "{json}");
}

#[tokio::test]
async fn a_busy_service_is_asked_again() {
    let cases: [Reply; 4] = [
        (503, Some(1), json!({ "Code": "Throttling", "Message": "m" })),
        (400, Some(1), json!({ "Code": "Throttling.User", "Message": "m" })),
        (403, Some(1), json!({ "Code": "ServiceBusy", "Message": "m" })),
        (429, Some(1), json!({ "Code": "TooManyRequests", "Message": "m" })),
    ];
    for busy in cases {
        let name = busy.2["Code"].clone();
        let script = move |_: &Call, before: &[Call]| match before.len() {
            0 | 1 => busy.clone(),
            _ => ok(json!({ "PushTaskId": "1" })),
        };
        let ran = against(&["push", "http://demo.test/a"], script).await;
        assert_eq!(ran.calls.len(), 3, "{name}");
        ran.check(0);
    }
}

#[tokio::test]
async fn a_submission_that_may_have_been_accepted_is_not_sent_again() {
    for status in [500, 502, 504] {
        let ran = against(&["push", "http://demo.test/a"], move |_, _| refused(status, "InternalError")).await;
        assert_eq!(ran.calls.len(), 1, "{status}");
        ran.check(1);
    }
}

#[tokio::test]
async fn refresh_speaks_of_each_kind_apart() {
    let submit = |_: &Call, before: &[Call]| ok(json!({ "RefreshTaskId": before.len().to_string() }));
    let sent = |ran: &Ran| {
        let fields = |call: &Call| ["ObjectType", "ObjectPath", "Force"].map(|name| call.get(name).to_owned());
        ran.calls.iter().map(fields).collect::<Vec<_>>()
    };
    let ran = against(&["refresh", "http://demo.test/a/", "http://demo.test/a", "http://demo.test/b"], submit).await;
    ran.check(0);
    let expected = [["File", "http://demo.test/a\nhttp://demo.test/b", ""], ["Directory", "http://demo.test/a/", ""]];
    assert_eq!(sent(&ran), expected);

    let ran = against(&["refresh", "http://d.test/1", "http://d.test/2", "--type", "regex", "--force"], submit).await;
    ran.check(0);
    let expected = [["Regex", "http://d.test/1", "true"], ["Regex", "http://d.test/2", "true"]];
    assert_eq!(sent(&ran), expected, "one expression a call");
}

#[tokio::test]
async fn refresh_by_tag_names_the_domain() {
    let submit = |_: &Call, before: &[Call]| ok(json!({ "RefreshTaskId": before.len().to_string() }));
    let line =
        ["refresh", "--tag", "a", "--tag", "b", "--tag", "c", "--domain", "d.test", "--per-call", "2", "--force"];
    let ran = against(&line, submit).await;
    ran.check(0);
    let fields = |call: &Call| {
        assert_eq!(call.action, "RefreshObjectCacheByCacheTag");
        ["DomainName", "CacheTag", "Force"].map(|name| call.get(name).to_owned())
    };
    let sent: Vec<_> = ran.calls.iter().map(fields).collect();
    assert_eq!(sent, [["d.test", "a,b", "true"], ["d.test", "c", "true"]]);
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), ["0", "1"]);

    let ran = against(&["refresh", "--tag", "a,b", "--domain", "d.test"], submit).await;
    ran.check(2);
    assert!(ran.calls.is_empty());
}

#[tokio::test]
async fn domains_are_stopped_started_and_set() {
    let script = |call: &Call, _: &[Call]| match call.action.as_str() {
        "DescribeCdnDomainDetail" => ok(json!({ "GetDomainDetailModel": {
            "DomainName": "d.test", "DomainStatus": "configuring", "TagHeader": "x-tags" } })),
        _ => ok(json!({})),
    };
    let cases: [(&[&str], &str, &str); 4] = [
        (&["stop", "d.test"], "StopCdnDomain", ""),
        (&["start", "d.test"], "StartCdnDomain", ""),
        (&["set", "d.test", "--tag-header", "x-tags"], "SetWarmfrontDomain", "x-tags"),
        (&["set", "d.test", "--tag-header", ""], "SetWarmfrontDomain", ""),
    ];
    for (line, action, header) in cases {
        let ran = against(&[&["domain"], line, &["--output", "json"]].concat(), script).await;
        ran.check(0);
        let call = &ran.calls[0];
        assert_eq!((call.action.as_str(), call.get("DomainName"), call.get("TagHeader")), (action, "d.test", header));
        assert_eq!(ran.json()["tag_header"], "x-tags");
    }
}

#[tokio::test]
async fn functions_are_set_shown_and_deleted() {
    let script = |call: &Call, _: &[Call]| match call.action.as_str() {
        "DescribeCdnDomainConfigs" => ok(json!({ "DomainConfigs": { "DomainConfig": [{
            "ConfigId": "7", "FunctionName": "aliauth", "Status": "success", "ParentId": "",
            "FunctionArgs": { "FunctionArg": [{ "ArgName": "auth_type", "ArgValue": "type_a" }] } }] } })),
        _ => ok(json!({})),
    };
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "opensesame\n").unwrap();
    let from_file = format!("auth_key1=@{}", secret.display());
    let line = ["domain", "config", "set", "d.test", "aliauth", "auth_type=type_a", &from_file, "--id", "7"];
    let ran = against(&[&line[..], &["--output", "json"]].concat(), script).await;
    ran.check(0);
    let expected =
        json!([{ "id": "7", "function": "aliauth", "args": { "auth_type": "type_a" }, "status": "success" }]);
    assert_eq!(ran.json(), expected);
    let sent: Value = serde_json::from_str(ran.calls[0].get("Functions")).unwrap();
    assert_eq!(
        sent,
        json!([{ "functionName": "aliauth", "configId": 7, "functionArgs": [
        { "argName": "auth_type", "argValue": "type_a" }, { "argName": "auth_key1", "argValue": "opensesame" }] }])
    );
    assert_eq!((ran.calls[0].get("DomainNames"), ran.calls[1].get("FunctionNames")), ("d.test", "aliauth"));

    let ran = against(&["domain", "config", "delete", "d.test", "7", "--output", "json"], script).await;
    ran.check(0);
    assert_eq!((ran.calls[1].action.as_str(), ran.calls[1].get("ConfigId")), ("DeleteSpecificConfig", "7"));
    let ran = against(&["domain", "config", "delete", "d.test", "7", "8"], script).await;
    ran.check(1);
    assert!(ran.calls.iter().all(|call| call.action != "DeleteSpecificConfig"), "nothing is deleted");
    let ran = against(&["domain", "config", "set", "d.test", "gzip", "enable"], script).await;
    ran.check(2);
    assert!(ran.calls.is_empty());
}

#[tokio::test]
async fn quota_is_numbers() {
    let script = |call: &Call, _: &[Call]| {
        assert_eq!(call.action, "DescribeRefreshQuota");
        ok(json!({ "PreloadQuota": "1000", "PreloadRemain": "900", "UrlQuota": "10000", "UrlRemain": "1",
                   "DirQuota": "100", "DirRemain": "100", "RegexQuota": "20", "RegexRemain": "20" }))
    };
    let ran = against(&["quota", "--output", "json"], script).await;
    ran.check(0);
    let json = ran.json();
    assert_eq!(json["preload"], json!({ "limit": 1000, "remaining": 900 }));
    assert_eq!(json["ignore_params"], json!({ "limit": null, "remaining": null }), "the service did not say");
}

#[tokio::test]
async fn session_is_shown_as_lines_for_a_shell() {
    let script = |call: &Call, _: &[Call]| {
        assert_eq!((call.action.as_str(), call.get("DurationSeconds")), ("CreateSessionCredentials", "900"));
        ok(json!({ "Credentials": { "AccessKeyId": "STS.x", "AccessKeySecret": "s", "SecurityToken": "a+b/c==",
                                    "Expiration": "2026-01-02T03:04:05Z" } }))
    };
    let ran = against(&["session", "create", "--secs", "900"], script).await;
    ran.check(0);
    assert_eq!(
        ran.out,
        "export ALIBABA_CLOUD_ACCESS_KEY_ID=STS.x\nexport ALIBABA_CLOUD_ACCESS_KEY_SECRET=s\n\
         export ALIBABA_CLOUD_SECURITY_TOKEN=a+b/c==\n"
    );
    let ran = against(&["session", "create", "--secs", "900", "--output", "json"], script).await;
    assert_eq!(ran.json()["security_token"], "a+b/c==");
    // An incomplete answer is a failure.
    let ran = against(&["session", "create"], |_, _| ok(json!({ "Credentials": { "AccessKeyId": "STS.x" } }))).await;
    ran.check(1);
}

#[tokio::test]
async fn tasks_are_filtered_and_paged() {
    let script = |call: &Call, before: &[Call]| {
        assert_eq!(call.action, "DescribeRefreshTasks");
        let sent = ["TaskId", "DomainName", "ObjectType", "Status"].map(|name| call.get(name));
        assert_eq!(sent, ["1,2", "demo.test", "preload", "Failed"]);
        assert_eq!(call.get("PageNumber"), (before.len() + 1).to_string());
        let size: usize = call.get("PageSize").parse().unwrap();
        let urls = (0..size).map(|n| format!("http://demo.test/{n}")).collect::<Vec<_>>().join("\n");
        ok(json!({ "Tasks": { "CDNTask": rows("1", &urls, "Failed", "OriginTimeout") } }))
    };
    let filter = ["--domain", "demo.test", "--type", "preload", "--state", "failed"];
    let line = [&["tasks", "1", "2", "--limit", "150", "--output", "json"], &filter[..]].concat();
    let ran = against(&line, script).await;
    ran.check(0);
    assert_eq!(ran.calls.len(), 2);
    let json = ran.json();
    assert_eq!(json.as_array().unwrap().len(), 150);
    let first = json!({ "task_id": "1", "url": "http://demo.test/0", "type": "preload", "state": "Failed",
                        "process": "100%", "created": "2026-01-02T03:04:05Z", "cause": "OriginTimeout" });
    assert_eq!(json[0], first);
}

#[tokio::test]
async fn domains_are_added_shown_listed_and_deleted() {
    let script = |call: &Call, _: &[Call]| match call.action.as_str() {
        "AddCdnDomain" => {
            let sent = ["DomainName", "CdnType", "Scope"].map(|name| call.get(name));
            assert_eq!(sent, ["demo.test", "web", "global"]);
            let sources: Value = serde_json::from_str(call.get("Sources")).unwrap();
            let first =
                json!({ "content": "127.0.0.1", "type": "ipaddr", "priority": "20", "port": 9790, "weight": "10" });
            assert_eq!((&sources[0], &sources[1]["priority"]), (&first, &json!("30")));
            ok(json!({ "RequestId": "R" }))
        }
        "DescribeCdnDomainDetail" => ok(json!({ "GetDomainDetailModel": {
            "DomainName": "demo.test", "DomainStatus": "online", "Scope": "global", "Cname": "c", "CdnType": "web",
            "SourceModels": { "SourceModel": [{ "Content": "127.0.0.1", "Type": "ipaddr", "Port": 9790,
                                                "Priority": "20", "Weight": "10", "Enabled": "online" }] } } })),
        "DescribeUserDomains" => ok(json!({ "Domains": { "PageData": [
            { "DomainName": "demo.test", "DomainStatus": "online", "Coverage": "global", "Cname": "c" }] } })),
        "DeleteCdnDomain" => ok(json!({ "RequestId": "R" })),
        other => panic!("{other}"),
    };
    let detail = json!({ "domain": "demo.test", "status": "online", "coverage": "global", "cname": "c", "type": "web",
        "sources": [{ "content": "127.0.0.1", "type": "ipaddr", "port": 9790, "priority": "20", "weight": "10" }] });
    let origins = ["--origin", "127.0.0.1:9790", "--backup", "b.test", "--coverage", "global"];
    let cases = [
        ([&["domain", "add", "demo.test"], &origins[..]].concat(), detail.clone()),
        (vec!["domain", "show", "demo.test"], detail),
        (
            vec!["domain", "list"],
            json!([{ "domain": "demo.test", "status": "online", "coverage": "global", "cname": "c" }]),
        ),
        (vec!["domain", "delete", "demo.test"], json!({ "deleted": "demo.test" })),
    ];
    for (line, expected) in cases {
        let ran = against(&[&line[..], &["--output", "json"]].concat(), script).await;
        ran.check(0);
        assert_eq!(ran.json(), expected, "{line:?}");
        let table = against(&line, script).await;
        table.check(0);
        assert!(table.out.contains("demo.test"), "{line:?}: {}", table.out);
    }
}

#[tokio::test]
async fn wrong_commands_send_nothing_and_exit_with_two() {
    let nowhere = "http://127.0.0.1:9";
    let cases: [(&str, &[&str]); 6] = [
        ("ftp://demo.test", &["quota"]),
        ("http://demo.test/path", &["quota"]),
        ("http://user@demo.test", &["quota"]),
        ("", &["quota"]),
        (nowhere, &["push", "@/nowhere/at/all"]),
        (nowhere, &["domain", "add", "d.test", "--origin", "ftp://o.test"]),
    ];
    for (endpoint, line) in cases {
        let (status, out) = command(endpoint, line).await;
        assert_eq!(format!("{status:?}"), format!("{:?}", ExitCode::from(2)), "{endpoint} {line:?}");
        assert_eq!(out, "", "{endpoint} {line:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_fails_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (status, _) = command(&free, &["quota"]).await;
    assert_eq!(format!("{status:?}"), format!("{:?}", ExitCode::from(1)));
}

#[tokio::test]
async fn one_task_is_shown_with_the_nodes_it_waits_for() {
    let script = |call: &Call, _: &[Call]| {
        assert_eq!(call.get("TaskId"), "7");
        if call.action != "DescribeRefreshTaskById" {
            // A service of an earlier version does not have job details.
            assert_eq!(call.action, "DescribePreloadTask");
            return refused(404, "InvalidAction.NotFound");
        }
        let node = |name: &str, heard: &str, until: &str, time: &str| json!({ "Name": name, "LastHeardTime": heard, "Acknowledged": 3, "Until": until, "AtMostUntilTime": time });
        ok(json!({
            "Tasks": rows("7", "http://a.com/x", "Refreshing", ""), "TotalCount": 1, "RequestId": "R",
            "WaitingFor": [{ "TaskId": "7", "Revision": 9, "MoreNodes": 4, "Nodes": [
                node("eu-1-l1", "", "Acknowledgement", ""),
                node("cn-1-l1", "2026-01-02T03:04:05Z", "LeaseOver", "2026-01-02T03:04:16Z"),
            ] }],
        }))
    };
    let ran = against(&["tasks", "show", "7", "--output", "json"], script).await;
    ran.check(0);
    assert_eq!(ran.json()["urls"][0]["process"], "50%");
    assert_eq!((&ran.json()["revision"], &ran.json()["more_nodes"]), (&json!(9), &json!(4)));
    let nodes = json!([
        { "node": "eu-1-l1", "last_heard": null, "acknowledged": 3, "until": "Acknowledgement", "at_most_until": null },
        { "node": "cn-1-l1", "last_heard": "2026-01-02T03:04:05Z", "acknowledged": 3, "until": "LeaseOver",
          "at_most_until": "2026-01-02T03:04:16Z" },
    ]);
    assert_eq!(ran.json()["waiting_for"], nodes);

    let ran = against(&["tasks", "show", "7"], script).await;
    ran.check(0);
    for part in ["eu-1-l1", "never since the control plane started", "2026-01-02T03:04:16Z at the latest", "and 4 more"]
    {
        assert!(ran.out.contains(part), "{part} in {}", ran.out);
    }
    let ran = against(&["tasks", "show", "8"], |_, _| ok(json!({ "Tasks": [], "TotalCount": 0 }))).await;
    ran.check(1);
}

#[tokio::test]
async fn receipt_is_written_as_it_came() {
    let script = |call: &Call, _: &[Call]| {
        assert_eq!((call.action.as_str(), call.get("TaskId")), ("DescribeRefreshTaskReceipt", "7"));
        ok(json!({ "Receipt": "{\"x\":1}", "RequestId": "R" }))
    };
    let ran = against(&["tasks", "receipt", "7"], script).await;
    ran.check(0);
    assert_eq!(ran.out, "{\"x\":1}\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    let ran = against(&["tasks", "receipt", "7", "--file", file.path().to_str().unwrap()], script).await;
    ran.check(0);
    assert_eq!((ran.out.as_str(), std::fs::read_to_string(file.path()).unwrap().as_str()), ("", "{\"x\":1}\n"));
    let ran = against(&["tasks", "receipt", "7"], |_, _| refused(400, "TaskNotComplete")).await;
    ran.check(1);

    let key = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
    let ran = against(&["receipt", "key"], move |call, _| {
        assert_eq!(call.action, "DescribeReceiptKey");
        ok(json!({ "Algorithm": "Ed25519", "PublicKey": key, "RequestId": "R" }))
    })
    .await;
    ran.check(0);
    assert_eq!(ran.out, format!("{key}\n"));
}
