//! The wire layouts and calls of clients in the field, each as its sources have them: plugins, small tools, deployers.

use super::*;

/// Where the pairs of a V1 request travel.
#[derive(Clone, Copy, Debug)]
enum Layout {
    /// GET, all in the query.
    Get,
    /// POST, all in the query, no body.
    PostQuery,
    /// POST, the common ones and the signature in the query, the action's own in the form.
    PostSplit,
    /// POST, all in the form.
    PostForm,
}

use Layout::{Get, PostForm, PostQuery, PostSplit};

type Params = &'static [(&'static str, &'static str)];

/// Who, version, layout, nonce, action, parameters, and the field that it reads first.
type Row = (&'static str, &'static str, Layout, &'static str, &'static str, Params, &'static str);

const ROWS: &[Row] = &[
    (
        "a WordPress plugin: PHP, one URL a call",
        OLD,
        PostQuery,
        "5f3c1",
        "RefreshObjectCaches",
        &[("Format", "JSON"), ("ObjectPath", "http://a.com/post/1"), ("ObjectType", "File")],
        "RefreshTaskId",
    ),
    (
        "an npm command: GET, the version of 2014",
        OLD,
        Get,
        "b7a1",
        "PushObjectCache",
        &[("Format", "JSON"), ("ObjectPath", "http://a.com/1\nhttp://a.com/2"), ("ObjectType", "File")],
        "PushTaskId",
    ),
    (
        "an npm module: its nonce is Math.random()",
        CDN,
        Get,
        "0.8472130157",
        "RefreshObjectCaches",
        &[("Format", "JSON"), ("ObjectPath", "http://a.com/x/"), ("ObjectType", "Directory")],
        "RefreshTaskId",
    ),
    (
        "a Hexo deployer: pop-core, all in the form, no type",
        CDN,
        PostForm,
        "c0ffee",
        "RefreshObjectCaches",
        &[("Format", "JSON"), ("RegionId", "cn-hangzhou"), ("ObjectPath", "https://a.com/a\nhttps://a.com/b")],
        "RefreshTaskId",
    ),
    (
        "a webpack plugin: pop-core with a type in lower case",
        CDN,
        PostForm,
        "d00d",
        "RefreshObjectCaches",
        &[
            ("Format", "JSON"),
            ("RegionId", "cn-hangzhou"),
            ("ObjectPath", "https://a.com/y/"),
            ("ObjectType", "directory"),
        ],
        "RefreshTaskId",
    ),
    (
        "a serverless plugin: CRLF, and an expression without anchors",
        CDN,
        PostSplit,
        "e1",
        "RefreshObjectCaches",
        &[("Format", "JSON"), ("ObjectPath", "https://a.com/img/.*\r\n"), ("ObjectType", "Regex")],
        "RefreshTaskId",
    ),
    (
        "the vendor's command line from a shell: two characters for a line feed",
        CDN,
        PostSplit,
        "f1",
        "PushObjectCache",
        &[("Format", "JSON"), ("ObjectPath", "https://a.com/5\\nhttps://a.com/6"), ("L2Preload", "True")],
        "PushTaskId",
    ),
    (
        "Terraform: common in the query, a form for the rest",
        CDN,
        PostSplit,
        "a2",
        "DescribeCdnDomainDetail",
        &[("Format", "JSON"), ("DomainName", "a.com")],
        "GetDomainDetailModel",
    ),
    (
        "a Laravel package",
        CDN,
        Get,
        "a3",
        "DescribeRefreshTasks",
        &[("Format", "JSON"), ("PageNumber", "1"), ("PageSize", "20")],
        "Tasks",
    ),
    ("a Node client of 2014", OLD, Get, "a4", "DescribeRefreshQuota", &[("Format", "JSON")], "UrlRemain"),
];

/// Names that belong to the envelope.
const COMMON: [&str; 9] = [
    "AccessKeyId",
    "Action",
    "Format",
    "Signature",
    "SignatureMethod",
    "SignatureNonce",
    "SignatureVersion",
    "Timestamp",
    "Version",
];

async fn send(rig: &Rig, row: &Row) -> Answer {
    let (_, version, layout, nonce, action, params, _) = row;
    let method = if matches!(layout, Get) { Method::GET } else { Method::POST };
    let ask = Ask { method: &method, action, version, now: rig.clock.now(), nonce };
    let params: Vec<(String, String)> =
        params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let pairs = sign_v1(AccessKey { id: &rig.key.id, secret: &rig.key.secret }, ask, &params);
    let (query, form): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| match layout {
        Get | PostQuery => true,
        PostSplit => COMMON.contains(&name.as_str()),
        PostForm => false,
    });
    let body = encode_pairs(&form);
    let target = format!("/?{}", encode_pairs(&query));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    rig.send(method.as_str(), &target, if body.is_empty() { &[] } else { &form }, &body).await
}

#[tokio::test]
async fn clients_of_every_layout_are_served() {
    let rig = Rig::start("cdn-2024").await;
    for row in ROWS {
        let answer = send(&rig, row).await;
        let json = answer.json();
        assert_eq!((answer.status, json.get("Code")), (200, None), "{}: {answer:?}", row.0);
        assert!(json.get(row.6).is_some(), "{}: {json}", row.0);
        let refresh = json["RefreshTaskId"].as_str().or(json["PushTaskId"].as_str());
        assert!(refresh.is_none_or(|id| id.parse::<u64>().is_ok()), "{}: one decimal id in {json}", row.0);
        let again = send(&rig, row).await;
        assert_refused(&again, 400, "SignatureNonceUsed", "");
    }
    // Who asks for no format gets XML.
    let (who, version, layout, _, action, _, _) = ROWS[9];
    let answer = send(&rig, &(who, version, layout, "xml", action, &[], "")).await;
    assert_eq!(answer.header("content-type"), Some("text/xml;charset=utf-8"), "{answer:?}");
    assert!(answer.body.contains("<DescribeRefreshQuotaResponse>"), "{answer:?}");
}
