//! Two accounts: what one of them has, the other can neither see, change, spend nor guess at, by whichever action.

use super::*;

/// What an action answers to the account that does not own what it asks for.
pub(super) enum Answered {
    /// Refused: status and code.
    Refused(u16, &'static str),
    /// A list with nothing in it: its count is zero.
    Nothing,
    /// Something that is its own: it holds nothing of the other's.
    Own,
}

use Answered::{Nothing, Own, Refused};

const NOT_FOUND: Answered = Refused(404, "InvalidDomain.NotFound");

const NO_TASK: Answered = Refused(404, "InvalidTaskId.NotFound");

/// It is proven for nobody by what another account shows.
const NOT_PROVEN: Answered = Refused(400, "DomainOwnerVerifyFail");

pub(super) type Row = (&'static str, &'static str, Vec<(&'static str, String)>, Answered);

pub(super) fn rows(push: &str, refresh: &str) -> Vec<Row> {
    let text = |pairs: &[(&'static str, &str)]| {
        pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
    };
    let path = || text(&[("ObjectPath", "http://a.com/0")]);
    let domain = || text(&[("DomainName", "a.com")]);
    let resource = || text(&[("ResourceId.1", "a.com"), ("ResourceType", "DOMAIN")]);
    let sources = ("Sources", r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#);
    let function = r#"[{"functionName":"range","functionArgs":[{"argName":"enable","argValue":"on"}]}]"#;
    vec![
        // First: what the stranger tries below is in his own log.
        (CDN, "DescribeAuditLog", Vec::new(), Own),
        (VOD, "DescribeAuditLog", Vec::new(), Own),
        (CDN, "OpenCdnService", text(&[("InternetChargeType", "PayByTraffic")]), Refused(400, "CdnService.HasOpened")),
        (CDN, "DescribeCdnService", Vec::new(), Own),
        (CDN, "DescribeUserCdnStatus", Vec::new(), Own),
        (CDN, "PushObjectCache", path(), NOT_FOUND),
        (OLD, "PushObjectCache", path(), NOT_FOUND),
        (VOD, "PreloadVodObjectCaches", path(), NOT_FOUND),
        (CDN, "ExplainPreload", path(), NOT_FOUND),
        (VOD, "ExplainPreload", path(), NOT_FOUND),
        (CDN, "RefreshObjectCaches", path(), NOT_FOUND),
        (OLD, "RefreshObjectCaches", path(), NOT_FOUND),
        (VOD, "RefreshVodObjectCaches", path(), NOT_FOUND),
        (CDN, "RefreshObjectCacheByCacheTag", text(&[("DomainName", "a.com"), ("CacheTag", "t")]), NOT_FOUND),
        (CDN, "DescribeRefreshTasks", Vec::new(), Nothing),
        (CDN, "DescribeRefreshTasks", text(&[("TaskId", push)]), Nothing),
        (CDN, "DescribeRefreshTasks", text(&[("DomainName", "a.com"), ("ObjectType", "preload")]), Nothing),
        (CDN, "DescribeRefreshTasks", text(&[("ObjectPath", "http://a.com/0")]), Nothing),
        (OLD, "DescribeRefreshTasks", text(&[("TaskId", refresh)]), Nothing),
        (VOD, "DescribeVodRefreshTasks", text(&[("TaskId", push)]), Nothing),
        (CDN, "DescribeRefreshTaskById", text(&[("TaskId", push)]), Nothing),
        (CDN, "DescribePreloadDetailById", text(&[("TaskId", push)]), Nothing),
        (CDN, "DescribeRefreshTaskReceipt", text(&[("TaskId", refresh)]), Refused(404, "InvalidTaskId.NotFound")),
        (VOD, "DescribeRefreshTaskReceipt", text(&[("TaskId", refresh)]), Refused(404, "InvalidTaskId.NotFound")),
        (CDN, "DescribeRefreshQuota", Vec::new(), Own),
        (OLD, "DescribeRefreshQuota", Vec::new(), Own),
        (VOD, "DescribeVodRefreshQuota", Vec::new(), Own),
        (CDN, "DescribeCdnUserQuota", Vec::new(), Own),
        (
            CDN,
            "AddCdnDomain",
            [domain(), text(&[("CdnType", "web"), sources])].concat(),
            Refused(400, "DomainAlreadyExist"),
        ),
        (VOD, "AddVodDomain", [domain(), text(&[sources])].concat(), Refused(400, "DomainAlreadyExist")),
        (
            CDN,
            "BatchAddCdnDomain",
            text(&[("DomainName", "new.com,a.com"), ("CdnType", "web"), sources]),
            Refused(400, "DomainAlreadyExist"),
        ),
        (CDN, "ModifyCdnDomain", [domain(), text(&[sources])].concat(), NOT_FOUND),
        (CDN, "ModifyCdnDomain", domain(), NOT_FOUND),
        (CDN, "BatchUpdateCdnDomain", [domain(), text(&[sources])].concat(), NOT_FOUND),
        (VOD, "UpdateVodDomain", [domain(), text(&[sources])].concat(), NOT_FOUND),
        (
            CDN,
            "ModifyCdnDomainSchdmByProperty",
            [domain(), text(&[("Property", r#"{"coverage":"overseas"}"#)])].concat(),
            NOT_FOUND,
        ),
        (CDN, "DeleteCdnDomain", domain(), NOT_FOUND),
        (VOD, "DeleteVodDomain", domain(), NOT_FOUND),
        (CDN, "StartCdnDomain", domain(), NOT_FOUND),
        (CDN, "StopCdnDomain", domain(), NOT_FOUND),
        (CDN, "BatchStartCdnDomain", text(&[("DomainNames", "a.com")]), NOT_FOUND),
        (CDN, "BatchStopCdnDomain", text(&[("DomainNames", "a.com")]), NOT_FOUND),
        (VOD, "BatchStartVodDomain", text(&[("DomainNames", "a.com")]), NOT_FOUND),
        (VOD, "BatchStopVodDomain", text(&[("DomainNames", "a.com")]), NOT_FOUND),
        (CDN, "TagResources", [resource(), text(&[("Tag.1.Key", "k")])].concat(), NOT_FOUND),
        (CDN, "UntagResources", [resource(), text(&[("All", "true")])].concat(), NOT_FOUND),
        (CDN, "ListTagResources", resource(), NOT_FOUND),
        (CDN, "ListTagResources", text(&[("ResourceType", "DOMAIN")]), Own),
        (CDN, "DescribeTagResources", resource(), NOT_FOUND),
        (CDN, "DescribeUserTags", Vec::new(), Own),
        (CDN, "DescribeL2VipsByDomain", domain(), NOT_FOUND),
        (CDN, "DescribeDomainCname", domain(), NOT_FOUND),
        (CDN, "DescribeCdnRegionAndIsp", Vec::new(), Own), // the deployment's
        (CDN, "DescribeVerifyContent", domain(), Own),     // one of its own, whoever has the domain
        (VOD, "DescribeVodVerifyContent", domain(), Own),
        (CDN, "VerifyDomainOwner", [domain(), text(&[("VerifyType", "dnsCheck")])].concat(), NOT_PROVEN),
        (VOD, "VerifyVodDomainOwner", [domain(), text(&[("VerifyType", "fileCheck")])].concat(), NOT_PROVEN),
        (CDN, "SetWarmfrontDomain", [domain(), text(&[("TagHeader", "X-Tags")])].concat(), NOT_FOUND),
        (CDN, "DescribeCdnDomainDetail", domain(), NOT_FOUND),
        (VOD, "DescribeVodDomainDetail", domain(), NOT_FOUND),
        (CDN, "DescribeUserDomains", Vec::new(), Nothing),
        (VOD, "DescribeVodUserDomains", Vec::new(), Nothing),
        (CDN, "SetCdnDomainSSLCertificate", [domain(), text(&[("SSLProtocol", "off")])].concat(), NOT_FOUND),
        (VOD, "SetVodDomainCertificate", [domain(), text(&[("SSLProtocol", "off")])].concat(), NOT_FOUND),
        (VOD, "SetVodDomainSSLCertificate", [domain(), text(&[("SSLProtocol", "off")])].concat(), NOT_FOUND),
        (CDN, "DescribeDomainCertificateInfo", domain(), NOT_FOUND),
        (VOD, "DescribeVodDomainCertificateInfo", domain(), NOT_FOUND),
        (CDN, "BatchSetCdnDomainConfig", text(&[("DomainNames", "a.com"), ("Functions", function)]), NOT_FOUND),
        (VOD, "BatchSetVodDomainConfigs", text(&[("DomainNames", "a.com"), ("Functions", function)]), NOT_FOUND),
        (CDN, "DescribeCdnDomainConfigs", domain(), NOT_FOUND),
        (VOD, "DescribeVodDomainConfigs", [domain(), text(&[("FunctionNames", "range")])].concat(), NOT_FOUND),
        (CDN, "DeleteSpecificConfig", [domain(), text(&[("ConfigId", "1")])].concat(), NOT_FOUND),
        (VOD, "DeleteVodSpecificConfig", [domain(), text(&[("ConfigId", "1")])].concat(), NOT_FOUND),
        (CDN, "BatchDeleteCdnDomainConfig", text(&[("DomainNames", "a.com"), ("FunctionNames", "range")]), NOT_FOUND),
        (CDN, "DescribeCdnUserDomainsByFunc", text(&[("FuncId", "31")]), Nothing),
        (CDN, "PausePreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (VOD, "PausePreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (CDN, "DescribePreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (VOD, "DescribePreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (CDN, "ResumePreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (CDN, "CancelPreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (VOD, "CancelPreloadTask", text(&[("TaskId", push)]), NO_TASK),
        (CDN, "SetPreloadTaskPriority", text(&[("TaskId", push), ("Priority", "9")]), NO_TASK),
        (CDN, "CreateSessionCredentials", Vec::new(), Own),
        (CDN, "CreateBearerToken", Vec::new(), Own),
        (CDN, "DescribeReceiptKey", Vec::new(), Own), // the deployment's, and public
    ]
    .into_iter()
    .chain(super::figures::ACTIONS.map(|(version, action)| (version, action, domain(), NOT_FOUND)))
    .collect()
}

#[tokio::test]
async fn no_action_shows_or_changes_what_is_another_accounts() {
    let names = owners::NameServer::start().await;
    let set = |config: &mut ControlConfig| config.resolvers = vec![names.address];
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, set).await;
    let content = rig.ask(CDN, "DescribeVerifyContent", &[("DomainName", "a.com")]).await.json();
    names.shows("verification.a.com", content["Content"].as_str().unwrap());
    let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 3))]).await.json();
    let refreshed = rig.ask(CDN, "RefreshObjectCaches", &[("ObjectPath", &lines(0, 4))]).await.json();
    let (push, refresh) = (pushed["PushTaskId"].as_str().unwrap(), refreshed["RefreshTaskId"].as_str().unwrap());
    rig.operator.create_account("other", "cdn-2024", [("action_qps".to_owned(), 10_000)].into(), 0).await.unwrap();
    let key = rig.operator.create_key("other", None).await.unwrap();
    let other = Signer { id: key.id, secret: key.secret.to_string(), token: None };

    let label = [("ResourceId.1", "a.com"), ("ResourceType", "DOMAIN"), ("Tag.1.Key", "a.com"), ("Tag.1.Value", "v")];
    assert_eq!(rig.ask(CDN, "TagResources", &label).await.status, 200);

    let rows = rows(push, refresh);
    for (version, action, params, answered) in &rows {
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = rig.v1(&other, version, action, &params, &rig.nonce()).await;
        match answered {
            Refused(status, code) => assert_refused(&answer, *status, code, ""),
            Nothing | Own => {
                assert_eq!(answer.status, 200, "{action}: {answer:?}");
                assert!(!answer.body.contains("a.com"), "{action}: {answer:?}");
                let json = answer.json();
                if matches!(answered, Nothing) {
                    assert_eq!(json["TotalCount"], 0, "{action}: {json}");
                }
                let unspent = |name: &str| json[format!("{name}Quota")] == json[format!("{name}Remain")];
                assert!(["Preload", "Url", "RefreshUrl"].into_iter().all(unspent), "{action}: {json}");
            }
        }
    }

    // Whoever builds another action writes down here what it answers to strangers.
    for line in include_str!("../../../aliyun/data/actions.txt").lines() {
        let mut words = line.split(' ');
        let (version, action) = (words.next().unwrap(), words.next().unwrap());
        if !rows.iter().any(|(known, name, _, _)| (*known, *name) == (version, action)) {
            let answer = rig.ask(version, action, &[]).await;
            assert_refused(&answer, 400, "UnsupportedOperation", "");
        }
    }

    // Nothing was changed, and the one whose it is sees it all.
    let domains = rig.ask(CDN, "DescribeUserDomains", &[]).await.json();
    assert_eq!(
        (&domains["TotalCount"], &domains["Domains"]["PageData"][0]["DomainStatus"]),
        (&1.into(), &"online".into())
    );
    assert_eq!(rig.ask(CDN, "DescribeRefreshTasks", &[]).await.json()["TotalCount"], 7);
}

#[tokio::test]
async fn keys_and_tokens_of_two_accounts_do_not_mix() {
    let rig = Rig::start("cdn-2024").await;
    rig.operator.create_account("other", "cdn-2024", BTreeMap::new(), 0).await.unwrap();
    let key = rig.operator.create_key("other", None).await.unwrap();
    let other = Signer { id: key.id, secret: key.secret.to_string(), token: None };
    let mixed = Signer { id: rig.key.id.clone(), ..other.clone() };
    let answer = rig.v3(&mixed, CDN, "DescribeRefreshQuota", &[]).await;
    assert_refused(&answer, 400, "SignatureDoesNotMatch", "");
    assert!(!answer.body.contains(&rig.key.secret) && !answer.body.contains(&other.secret), "{answer:?}");

    // A nonce of one is not spent by the other.
    for by in [&rig.key, &other] {
        assert_eq!(rig.v1(by, CDN, "DescribeRefreshQuota", &[], "same").await.status, 200);
    }
    let session = rig.v3(&other, CDN, "CreateSessionCredentials", &[]).await.json();
    let token = session["Credentials"]["SecurityToken"].as_str().map(str::to_owned);
    let answer = rig.v3(&Signer { token, ..rig.key.clone() }, CDN, "DescribeRefreshQuota", &[]).await;
    assert_refused(&answer, 400, "InvalidSecurityToken.MismatchWithAccessKey", "");
}
