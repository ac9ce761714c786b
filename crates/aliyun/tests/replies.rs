//! Replies as the official clients read them: fields, types, wrappers, roots.

mod common;

use std::time::{Duration, SystemTime};

use aliyun::{
    Bucket, CdnType, Description, DomainDetail, DomainStatus, FunctionRow, FunctionSet, Page, Quota, Reply, Source,
    SourceType, TaskRow, TaskStatus, TaskType, WaitedFor, Waiting, render,
};
use common::{now, request};
use model::Coverage;
use serde_json::{Value, json};

const CDN: &str = "2018-05-10";
const VOD: &str = "2017-03-21";

fn body(version: &str, action: &str, reply: &Reply) -> Value {
    let rendered = render(&request(version, action, &[]), "R-1", reply);
    assert_eq!((rendered.status, rendered.content_type), (200, "application/json;charset=utf-8"));
    let body: Value = serde_json::from_slice(&rendered.body).unwrap();
    assert!(body.get("Code").is_none(), "a Code at the top means failure to some clients");
    body
}

fn row() -> TaskRow {
    TaskRow {
        id: 704_225_667,
        path: "http://a.com/1?a=1&b=<2>".to_owned(),
        kind: TaskType::Preload,
        status: TaskStatus::Failed,
        done: 1,
        total: 4,
        created_at: now(),
        description: Description::OriginStatus(503),
    }
}

fn domain(kind: Option<CdnType>) -> DomainDetail {
    DomainDetail {
        name: "a.com".to_owned(),
        cname: "a.com.cdn.test".to_owned(),
        kind,
        coverage: Coverage::Global,
        status: DomainStatus::Online,
        description: String::new(),
        sources: vec![Source {
            kind: SourceType::Address,
            content: "1.2.3.4".to_owned(),
            port: 80,
            scheme: None,
            priority: 20,
            weight: 10,
        }],
        tag_header: None,
        tls: None,
        created_at: now(),
        modified_at: now() + Duration::from_secs(1),
    }
}

#[test]
fn submissions_name_their_tasks_in_each_actions_field() {
    let cases = [
        (CDN, "PushObjectCache", "PushTaskId"),
        (CDN, "RefreshObjectCaches", "RefreshTaskId"),
        (VOD, "PreloadVodObjectCaches", "PreloadTaskId"),
        (VOD, "RefreshVodObjectCaches", "RefreshTaskId"),
    ];
    for (version, action, field) in cases {
        let body = body(version, action, &Reply::Submitted(vec![7, 8]));
        assert_eq!(body, json!({ "RequestId": "R-1", field: "7,8" }), "{action}");
    }
}

#[test]
fn functions_are_wrapped_as_each_client_expects() {
    let row =
        FunctionRow { id: 7, name: "range".into(), args: vec![("enable".into(), "<on>".into())], parent: Some(9) };
    let bare = FunctionRow { id: 8, name: "x".into(), args: Vec::new(), parent: None };
    let list = Reply::Functions { rows: vec![row, bare], configured: true };
    let arg = json!([{ "ArgName": "enable", "ArgValue": "<on>" }]);
    let first = json!({ "ConfigId": "7", "FunctionName": "range", "FunctionArgs": { "FunctionArg": arg },
                        "Status": "success", "ParentId": "9" });
    let second = json!({ "ConfigId": "8", "FunctionName": "x", "FunctionArgs": { "FunctionArg": [] },
                         "Status": "success", "ParentId": "" });
    let expected = json!({ "RequestId": "R-1", "DomainConfigs": { "DomainConfig": [first, second] } });
    assert_eq!(body(CDN, "DescribeCdnDomainConfigs", &list), expected);
    assert_eq!(body(VOD, "DescribeVodDomainConfigs", &list)["DomainConfigs"]["DomainConfig"][0].get("ParentId"), None);
    let xml = render(&request(&format!("{CDN} XML"), "DescribeCdnDomainConfigs", &[]), "R-1", &list).body;
    let xml = String::from_utf8(xml).unwrap();
    assert!(
        xml.contains("<FunctionArg><ArgName>enable</ArgName><ArgValue>&lt;on&gt;</ArgValue></FunctionArg>"),
        "{xml}"
    );
    let set = Reply::FunctionsSet(vec![FunctionSet { domain: "a.com".into(), name: "range".into(), id: 7 }]);
    let expected = json!({ "RequestId": "R-1", "DomainConfigList": { "DomainConfigModel": [
        { "ConfigId": 7, "DomainName": "a.com", "FunctionName": "range" }] } });
    assert_eq!(body(CDN, "BatchSetCdnDomainConfig", &set), expected);
    assert_eq!(body(VOD, "BatchSetVodDomainConfigs", &set), json!({ "RequestId": "R-1" }));
}

#[test]
fn tasks_are_wrapped_as_each_client_expects() {
    let task = |description: &str| {
        json!({
            "TaskId": "704225667", "ObjectPath": "http://a.com/1?a=1&b=<2>", "ObjectType": "preload",
            "Status": "Failed", "Process": "25%", "CreationTime": "2026-01-02T03:04:05Z", "Description": description,
        })
    };
    let list = Reply::Tasks { page: Page { number: 2, size: 20 }, total: 21, rows: vec![row()] };
    let cases = [
        (CDN, "DescribeRefreshTasks", json!({ "CDNTask": [task("OriginReturn StatusCode 503")] })),
        (VOD, "DescribeVodRefreshTasks", json!({ "Task": [task("Origin Return StatusCode 503")] })),
    ];
    for (version, action, tasks) in cases {
        let expected = json!({ "RequestId": "R-1", "PageNumber": 2, "PageSize": 20, "TotalCount": 21, "Tasks": tasks });
        assert_eq!(body(version, action, &list), expected, "{action}");
    }
    let by_id = body(CDN, "DescribeRefreshTaskById", &Reply::TasksById { rows: vec![row()], waiting: Vec::new() });
    let expected = json!({ "RequestId": "R-1", "TotalCount": 1, "Tasks": [task("Origin Return StatusCode 503")] });
    assert_eq!(by_id, expected, "a bare array");
    let node = |name: &str, last_heard, at_most_until| WaitedFor {
        name: name.into(),
        last_heard,
        acknowledged: 5,
        at_most_until,
    };
    let waiting = Waiting {
        task: 17,
        revision: 6,
        nodes: vec![
            node("never-heard", None, None),
            node("cut-off", Some(SystemTime::UNIX_EPOCH), Some(SystemTime::UNIX_EPOCH)),
        ],
        more: 3,
    };
    let mut by_id =
        body(CDN, "DescribeRefreshTaskById", &Reply::TasksById { rows: vec![row()], waiting: vec![waiting] });
    let nodes = json!([
        { "Name": "never-heard", "LastHeardTime": "", "Acknowledged": 5, "Until": "Acknowledgement", "AtMostUntilTime": "" },
        { "Name": "cut-off", "LastHeardTime": "1970-01-01T00:00:00Z", "Acknowledged": 5, "Until": "LeaseOver",
          "AtMostUntilTime": "1970-01-01T00:00:00Z" },
    ]);
    assert_eq!(
        by_id.as_object_mut().unwrap().remove("WaitingFor"),
        Some(json!([{ "TaskId": "17", "Revision": 6, "Nodes": nodes, "MoreNodes": 3 }]))
    );
    assert_eq!(by_id, expected, "beside our own field nothing changes");

    let receipt = body(CDN, "DescribeRefreshTaskReceipt", &Reply::Receipt("{\"a\":1}".into()));
    assert_eq!(receipt, json!({ "RequestId": "R-1", "Receipt": "{\"a\":1}" }));
    let key = body(VOD, "DescribeReceiptKey", &Reply::ReceiptKey("AA==".into()));
    assert_eq!(key, json!({ "RequestId": "R-1", "Algorithm": "Ed25519", "PublicKey": "AA==" }));

    let none = Reply::Tasks { page: Page { number: 1, size: 20 }, total: 0, rows: vec![] };
    assert_eq!(
        body(CDN, "DescribeRefreshTasks", &none)["Tasks"],
        json!({ "CDNTask": [] }),
        "an object even when empty"
    );
}

#[test]
fn xml_has_the_actions_root_and_repeats_elements() {
    let list = Reply::Tasks { page: Page { number: 1, size: 20 }, total: 2, rows: vec![row(), row()] };
    let rendered = render(&request("2018-05-10 XML", "DescribeRefreshTasks", &[]), "R-1", &list);
    assert_eq!(rendered.content_type, "text/xml;charset=utf-8");
    let text = String::from_utf8(rendered.body).unwrap();
    assert!(text.starts_with("<?xml version='1.0' encoding='UTF-8'?>\n<DescribeRefreshTasksResponse><"), "{text}");
    assert!(text.ends_with("</DescribeRefreshTasksResponse>"), "{text}");
    assert_eq!(text.matches("<CDNTask>").count(), 2, "{text}");
    for part in ["<RequestId>R-1</RequestId>", "<TotalCount>2</TotalCount>", "a=1&amp;b=&lt;2&gt;</ObjectPath>"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn quotas_are_texts() {
    let bucket = |limit, used| Bucket { limit, used };
    let quota = Reply::Quota(Quota {
        url: bucket(Some(10_000), 1),
        directory: bucket(Some(100), 0),
        regex: bucket(Some(20), 0),
        ignore_params: bucket(Some(100), 0),
        prefetch: bucket(None, 5),
        prefetch_edge: bucket(None, 0),
        block: bucket(Some(0), 0),
    });
    let vod = json!({
        "RequestId": "R-1", "UrlQuota": "10000", "UrlRemain": "9999", "DirQuota": "100", "DirRemain": "100",
        "PreloadQuota": "10000000", "PreloadRemain": "10000000", "BlockQuota": "0", "BlockRemain": "0",
        "blockRemain": "0",
    });
    assert_eq!(body(VOD, "DescribeVodRefreshQuota", &quota), vod);
    let mut cdn = vod;
    for (name, text) in [
        ("RegexQuota", "20"),
        ("RegexRemain", "20"),
        ("IgnoreParamsQuota", "100"),
        ("IgnoreParamsRemain", "100"),
        ("PreloadEdgeQuota", "10000000"),
        ("PreloadEdgeRemain", "10000000"),
    ] {
        cdn[name] = json!(text);
    }
    assert_eq!(body(CDN, "DescribeRefreshQuota", &quota), cdn);
}

#[test]
fn domains_have_the_fields_of_the_sdk_models() {
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let detail = body(CDN, "DescribeCdnDomainDetail", &Reply::DomainDetail(domain(Some(CdnType::Web))));
    let model = &detail["GetDomainDetailModel"];
    assert_eq!(
        names(model),
        "CdnType Cname Description DomainName DomainStatus GmtCreated GmtModified HttpsCname ResourceGroupId Scope \
         ServerCertificateStatus SourceModels"
    );
    assert_eq!(
        (&model["CdnType"], &model["Scope"], &model["DomainStatus"]),
        (&json!("web"), &json!("global"), &json!("online"))
    );
    let source = json!({
        "Content": "1.2.3.4", "Enabled": "online", "Port": 80, "Priority": "20", "Type": "ipaddr", "Weight": "10",
    });
    assert_eq!(model["SourceModels"]["SourceModel"], json!([source]));

    let detail = body(VOD, "DescribeVodDomainDetail", &Reply::DomainDetail(domain(None)));
    assert_eq!(
        names(&detail["DomainDetail"]),
        "CertName Cname Description DomainName DomainStatus GmtCreated GmtModified SSLProtocol SSLPub Scope Sources Weight"
    );

    let list = |kind| Reply::Domains { page: Page { number: 1, size: 20 }, total: 1, rows: vec![domain(kind)] };
    let cdn = body(CDN, "DescribeUserDomains", &list(Some(CdnType::Video)));
    assert_eq!(names(&cdn), "Domains PageNumber PageSize RequestId TotalCount");
    assert_eq!(
        names(&cdn["Domains"]["PageData"][0]),
        "CdnType Cname Coverage Description DomainId DomainName DomainStatus GmtCreated GmtModified ResourceGroupId Sandbox Sources \
         SslProtocol"
    );
    let vod = body(VOD, "DescribeVodUserDomains", &list(None));
    assert_eq!(
        names(&vod["Domains"]["PageData"][0]),
        "Cname Description DomainName DomainStatus GmtCreated GmtModified Sandbox Sources SslProtocol"
    );
    assert_eq!(body(CDN, "AddCdnDomain", &Reply::Done), json!({ "RequestId": "R-1" }));
}
