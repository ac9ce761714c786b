//! The audit log: every change is in it, with who, what, when and how it ended; nothing of it is a secret, or somebody else's.

use control::state::audit::{Wanted, Window};

use super::*;

const LOG: &str = "DescribeAuditLog";

impl Rig {
    /// The account's log as far as one answer tells, the newest first.
    async fn log(&self, params: &[(&str, &str)]) -> Vec<Value> {
        let answer = self.ask(CDN, LOG, &[params, &[("PageSize", "100")]].concat()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["Events"]["Event"].as_array().unwrap().clone()
    }
}

/// Action, outcome and domains of an event.
fn told(event: &Value) -> (&str, &str, Vec<&str>) {
    let text = |name: &str| event[name].as_str().unwrap();
    let domains = event["DomainNames"]["DomainName"].as_array().unwrap().iter();
    (text("EventAction"), text("Outcome"), domains.map(|name| name.as_str().unwrap()).collect())
}

#[tokio::test]
async fn every_change_is_told_and_every_refusal_by_policy() {
    let rig = Rig::with("cdn-2024", &[("preload", 5), ("action_qps", 10_000)], 0, |_| ()).await;
    let reader = rig.user("ann", &["AliyunCDNReadOnlyAccess"]).await;
    let before = rig.log(&[]).await.len();
    rig.clock.advance(Duration::from_secs(60));
    let now = timestamp(rig.clock.now());

    let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 3))]).await.json();
    let refused = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(3, 3))]).await;
    assert_refused(&refused, 400, "QuotaExceeded.Preload", "");
    let nonce = rig.nonce();
    let path = [("ObjectPath", "http://a.com/")];
    let by_directory = [path[0], ("ObjectType", "Directory")];
    assert_eq!(rig.v1(&rig.key, CDN, "RefreshObjectCaches", &by_directory, &nonce).await.status, 200);
    let again = rig.v1(&rig.key, CDN, "RefreshObjectCaches", &by_directory, &nonce).await;
    assert_refused(&again, 400, "SignatureNonceUsed", "");
    assert_eq!(rig.ask(CDN, "StopCdnDomain", &[("DomainName", "A.com")]).await.status, 200);
    let none = rig.ask(CDN, "DeleteCdnDomain", &[("DomainName", "none.com")]).await;
    assert_refused(&none, 404, "InvalidDomain.NotFound", "");
    let secret = "-----BEGIN PRIVATE KEY----- hunter2";
    let certificate =
        [("DomainName", "a.com"), ("SSLProtocol", "on"), ("SSLPub", "hunter3"), ("SSLPri", secret), ("CertName", "c")];
    assert_eq!(rig.ask(CDN, "SetCdnDomainSSLCertificate", &certificate).await.status, 400);
    let args = r#"[{"argName":"key","argValue":"X-Key"},{"argName":"value","argValue":"hunter4"}]"#;
    let function = format!(r#"[{{"functionName":"set_req_header","functionArgs":{args}}}]"#);
    let functions = [("DomainNames", "none.com,a.com"), ("Functions", function.as_str())];
    assert_refused(&rig.ask(CDN, "BatchSetCdnDomainConfig", &functions).await, 404, "InvalidDomain.NotFound", "");
    for (action, params) in [
        ("PushObjectCache", &[("ObjectPath", "http://a.com/1")][..]),
        ("DeleteCdnDomain", &[("DomainName", "a.com")]),
        ("CreateSessionCredentials", &[]),
    ] {
        assert_refused(&rig.v3(&reader, CDN, action, params).await, 403, "Forbidden.RAM", "");
    }
    assert_refused(&rig.v3(&reader, VOD, "DescribeVodRefreshQuota", &[]).await, 403, "Forbidden.RAM", "");
    // Neither what only looks nor what nobody signed is told.
    assert_eq!(rig.v3(&reader, CDN, "DescribeRefreshQuota", &[]).await.status, 200);
    let forged = Signer { secret: "wrong".to_owned(), ..rig.key.clone() };
    assert_eq!(rig.v3(&forged, CDN, "DeleteCdnDomain", &[("DomainName", "a.com")]).await.status, 400);

    let log = rig.log(&[("StartTime", &now)]).await;
    let expected = [
        ("DescribeVodRefreshQuota", "Forbidden.RAM", vec![]),
        ("CreateSessionCredentials", "Forbidden.RAM", vec![]),
        ("DeleteCdnDomain", "Forbidden.RAM", vec!["a.com"]),
        ("PushObjectCache", "Forbidden.RAM", vec!["a.com"]),
        ("BatchSetCdnDomainConfig", "InvalidDomain.NotFound", vec!["a.com", "none.com"]),
        ("SetCdnDomainSSLCertificate", "InvalidCertificate", vec!["a.com"]),
        ("DeleteCdnDomain", "InvalidDomain.NotFound", vec!["none.com"]),
        ("StopCdnDomain", "OK", vec!["a.com"]),
        ("RefreshObjectCaches", "OK", vec!["a.com"]),
        ("PushObjectCache", "QuotaExceeded.Preload", vec!["a.com"]),
        ("PushObjectCache", "OK", vec!["a.com"]),
    ];
    assert_eq!(log.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(rig.log(&[]).await.len(), before + expected.len());

    let push = &log[10];
    assert_eq!(push["Parameters"]["TaskIds"], pushed["PushTaskId"]);
    assert_eq!(push["Parameters"]["Lines"], "3");
    assert_eq!((&push["EventRequestId"], &push["EventTime"]), (&pushed["RequestId"], &now.as_str().into()));
    assert_eq!((&push["By"], &push["AccessKeyId"]), (&"key".into(), &rig.key.id.as_str().into()));
    assert_eq!((&push["SourceAddress"], &push["Product"]), (&"127.0.0.1".into(), &"Cdn".into()));
    assert_eq!((&log[3]["UserName"], &push["UserName"]), (&"ann".into(), &"".into()));
    assert_eq!(log[8]["Parameters"]["ObjectType"], "Directory");
    assert_eq!(log[4]["Parameters"]["FunctionNames"], "set_req_header");
    assert_eq!(log[5]["Parameters"]["CertName"], "c");
    let whole = format!("{log:?}");
    assert!(!whole.contains("hunter") && !whole.contains(&rig.key.secret) && !whole.contains(&reader.secret));

    // Filters, all of which must hold.
    for (params, count) in [
        (&[("EventAction", "PushObjectCache")][..], 3),
        (&[("DomainName", "NONE.com")], 2),
        (&[("UserName", "ann")], 4),
        (&[("UserName", "ann"), ("EventAction", "PushObjectCache")], 1),
    ] {
        let params = [params, &[("StartTime", now.as_str())]].concat();
        assert_eq!(rig.log(&params).await.len(), count, "{params:?}");
    }
    assert_eq!(rig.log(&[("EndTime", &timestamp(rig.clock.now() - Duration::from_secs(1)))]).await.len(), before);
    for (params, code) in [
        (&[("PageSize", "101")][..], "InvalidPageSize.ValueNotSupported"),
        (&[("StartTime", "yesterday")], "InvalidStartTime.Malformed"),
        (&[("StartTime", "2026-02-02T00:00:00Z"), ("EndTime", "2026-02-01T00:00:00Z")], "InvalidEndTime.Mismatch"),
        (&[("NextToken", "1")], "InvalidParameter"),
    ] {
        assert_refused(&rig.ask(CDN, LOG, params).await, 400, code, "");
    }
}

#[tokio::test]
async fn log_is_an_accounts_own_in_pages_and_tells_what_the_operator_did() {
    let rig = Rig::with("open", &[("action_qps", 10_000)], 0, |_| ()).await;
    rig.operator.create_account("other", "open", BTreeMap::new(), 0).await.unwrap();
    let key = rig.operator.create_key("other", None).await.unwrap();
    let other = Signer { id: key.id.clone(), secret: key.secret.to_string(), token: None };
    for n in 0..30 {
        let name = if n % 2 == 0 { "a.com" } else { "b.com" };
        rig.v3(&other, CDN, "StartCdnDomain", &[("DomainName", name)]).await;
    }
    // The operator made the account and its key, and the account is told so; of the other account nothing.
    let (mut events, mut token) = (Vec::new(), String::new());
    loop {
        let params = [("PageSize", "7"), ("NextToken", token.as_str())];
        let page = rig.v3(&other, CDN, LOG, &params).await.json();
        let some = page["Events"]["Event"].as_array().unwrap();
        assert!(some.len() <= 7);
        events.extend(some.clone());
        token = page["NextToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(events.len(), 32);
    let operators: Vec<&str> =
        events.iter().filter(|event| event["By"] == "operator").map(|event| told(event).0).collect();
    assert_eq!(operators, ["key create", "account create"]);
    assert_eq!(events[30]["Parameters"]["AccessKeyId"], key.id.as_str());
    assert!(events.iter().all(|event| event["AccessKeyId"] != rig.key.id.as_str()));
    let own = rig.log(&[]).await;
    assert!(own.iter().all(|event| event["AccessKeyId"] != other.id.as_str()), "{own:?}");

    // The operator sees all of it, and the verbs that are about no account.
    rig.operator.create_join_token().await.unwrap();
    let all = Window { account: None, from_ms: 0, to_ms: u64::MAX >> 1, before: None };
    let found = rig.operator.audit(all.clone(), &Wanted::default(), 1_000).await.unwrap();
    assert_eq!((found[0].record.action.as_str(), found[0].record.outcome.as_str()), ("node token create", "OK"));
    assert_eq!(found.iter().filter(|row| row.record.account == "other").count(), 32);
    let wanted = Wanted { domain: Some("b.com".to_owned()), ..Wanted::default() };
    assert_eq!(rig.operator.audit(all.clone(), &wanted, 1_000).await.unwrap().len(), 15);
    assert_eq!(rig.operator.audit(all, &wanted, 4).await.unwrap().len(), 4);
}
