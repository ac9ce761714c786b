//! Domains over the API: batches, states, blocks, deletion, tags.

use super::*;

const SOURCES: &str = r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#;

/// The state of a domain, or the code of the refusal.
async fn status(rig: &Rig, name: &str) -> String {
    let answer = rig.ask(CDN, "DescribeCdnDomainDetail", &[("DomainName", name)]).await;
    let json = answer.json();
    let text = if answer.status == 200 { &json["GetDomainDetailModel"]["DomainStatus"] } else { &json["Code"] };
    text.as_str().unwrap().to_owned()
}

async fn until_status(rig: &Rig, name: &str, wanted: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = status(rig, name).await;
        if now == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} is {now}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

/// Asks until the domain is no longer being configured.
async fn settled(rig: &Rig, version: &str, action: &str, params: &[(&str, &str)]) -> Answer {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = rig.ask(version, action, params).await;
        if answer.words().1 != "ServiceBusy" {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{action}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

async fn names(rig: &Rig, params: &[(&str, &str)]) -> Vec<String> {
    let answer = rig.ask(CDN, "DescribeUserDomains", params).await.json();
    let rows = answer["Domains"]["PageData"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(answer["TotalCount"], rows.len());
    rows.iter().map(|row| row["DomainName"].as_str().unwrap().to_owned()).collect()
}

async fn rig() -> Rig {
    Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await
}

#[tokio::test]
async fn batches_are_done_whole_or_not_at_all() {
    let rig = rig().await;
    let add = async |names: &str| {
        let params = [("DomainName", names), ("CdnType", "web"), ("Sources", SOURCES)];
        rig.ask(CDN, "BatchAddCdnDomain", &params).await
    };
    assert_refused(&add("b.com,a.com").await, 400, "DomainAlreadyExist", "");
    assert_refused(&add("b.com,127.0.0.1").await, 400, "InvalidDomainName.Malformed", "Specified DomainName");
    let itself =
        [("DomainName", "b.com,c.com"), ("CdnType", "web"), ("Sources", r#"[{"content":"C.com","type":"domain"}]"#)];
    assert_refused(&rig.ask(CDN, "BatchAddCdnDomain", &itself).await, 400, "InvalidSources.Malformed", "");
    assert_eq!(names(&rig, &[]).await, ["a.com"]);
    assert_eq!(add("b.com,c.com, B.com").await.status, 200);
    assert_eq!(names(&rig, &[("PageSize", "500")]).await, ["a.com", "b.com", "c.com"]);

    let sources = r#"[{"content":"10.0.0.9","type":"ipaddr","port":8080}]"#;
    let update = |names| [("DomainName", names), ("Sources", sources)];
    let answer = settled(&rig, CDN, "BatchUpdateCdnDomain", &update("b.com,none.com")).await;
    assert_refused(&answer, 404, "InvalidDomain.NotFound", "");
    assert_eq!(names(&rig, &[("Source", "10.0.0.9")]).await, [""; 0]);
    assert_eq!(settled(&rig, CDN, "BatchUpdateCdnDomain", &update("b.com,c.com")).await.status, 200);
    assert_eq!(names(&rig, &[("Source", "10.0.0.9")]).await, ["b.com", "c.com"]);

    let none = rig.ask(VOD, "BatchStopVodDomain", &[("DomainNames", "a.com,none.com")]).await;
    assert_refused(&none, 404, "InvalidDomain.NotFound", "");
    assert_eq!(status(&rig, "a.com").await, "online");
    assert_eq!(settled(&rig, VOD, "BatchStopVodDomain", &[("DomainNames", "a.com,b.com")]).await.status, 200);
    for name in ["a.com", "b.com"] {
        until_status(&rig, name, "offline").await;
    }
    assert_eq!(names(&rig, &[("DomainStatus", "offline")]).await, ["a.com", "b.com"]);
    let push = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", "http://a.com/1")]).await;
    assert_refused(&push, 404, "InvalidDomain.Offline", "");
    assert_eq!(rig.ask(CDN, "BatchStartCdnDomain", &[("DomainNames", "a.com,b.com,c.com")]).await.status, 200);
    until_status(&rig, "b.com", "online").await;

    let property = [("DomainName", "a.com"), ("Property", r#"{"coverage":"overseas"}"#)];
    assert_eq!(settled(&rig, CDN, "ModifyCdnDomainSchdmByProperty", &property).await.status, 200);
    assert_eq!(names(&rig, &[("Coverage", "overseas")]).await, ["a.com"]);
    let moon = [("DomainName", "a.com"), ("Property", r#"{"coverage":"moon"}"#)];
    assert_refused(&rig.ask(CDN, "ModifyCdnDomainSchdmByProperty", &moon).await, 400, "InvalidParameter", "");
}

#[tokio::test]
async fn what_is_so_already_is_no_change_and_bad_origins_are_told_apart() {
    let rig = rig().await;
    assert_eq!(settled(&rig, CDN, "StopCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    let first = status(&rig, "a.com").await;
    assert!(["stopping", "offline"].contains(&first.as_str()), "{first}");
    assert_eq!(rig.ask(CDN, "StopCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    let cases = [
        ("[]", "InvalidSources.Malformed"),
        ("[{}]", "InvalidSource.Type.Malformed"),
        (r#"[{"type":"ipaddr"}]"#, "InvalidSource.Content.Malformed"),
        (r#"[{"content":"A.com","type":"domain"}]"#, "InvalidSource.Content.Malformed"),
        (r#"[{"content":"1.2.3.4","type":"domain"}]"#, "InvalidTypeContent.Mismatch"),
        (r#"[{"content":"1.2.3.4","type":"ipaddr","priority":"10"}]"#, "InvalidSource.Priority.Malformed"),
        (r#"[{"content":"1.2.3.4","type":"ipaddr","port":0}]"#, "InvalidSourcePort.Malformed"),
    ];
    for (sources, code) in cases {
        for (version, action) in [(CDN, "ModifyCdnDomain"), (VOD, "UpdateVodDomain")] {
            let answer = rig.ask(version, action, &[("DomainName", "a.com"), ("Sources", sources)]).await;
            assert_refused(&answer, 400, code, "");
        }
    }
    let top = [("DomainName", "a.com"), ("TopLevelDomain", "com")];
    assert_refused(&rig.ask(CDN, "ModifyCdnDomain", &top).await, 400, "TopLevelDomain.NotFound", "");
}

#[tokio::test]
async fn blocked_domain_is_nobodys_to_operate() {
    let rig = rig().await;
    rig.operator.block_name(".bad.com", "abuse").await.unwrap();
    let params = |name| [("DomainName", name), ("CdnType", "web"), ("Sources", SOURCES)];
    let refused = rig.ask(CDN, "AddCdnDomain", &params("x.bad.com")).await;
    assert_refused(&refused, 403, "IllegalOperation", "Illegal domain operate is not permitted.");
    rig.operator.block_name("a.com", "complaint 7").await.unwrap();
    until_status(&rig, "a.com", "check_failed").await;
    let detail = rig.ask(CDN, "DescribeCdnDomainDetail", &[("DomainName", "a.com")]).await.json();
    assert_eq!(detail["GetDomainDetailModel"]["Description"], "complaint 7");
    let function = r#"[{"functionName":"range","functionArgs":[{"argName":"enable","argValue":"on"}]}]"#;
    let calls: [(&str, &[(&str, &str)]); 7] = [
        ("StartCdnDomain", &[("DomainName", "a.com")]),
        ("BatchStopCdnDomain", &[("DomainNames", "a.com")]),
        ("ModifyCdnDomain", &[("DomainName", "a.com"), ("Sources", SOURCES)]),
        ("BatchSetCdnDomainConfig", &[("DomainNames", "a.com"), ("Functions", function)]),
        ("SetCdnDomainSSLCertificate", &[("DomainName", "a.com"), ("SSLProtocol", "off")]),
        ("PushObjectCache", &[("ObjectPath", "http://a.com/1")]),
        ("RefreshObjectCaches", &[("ObjectPath", "http://a.com/1")]),
    ];
    for (action, params) in calls {
        assert_refused(&rig.ask(CDN, action, params).await, 403, "IllegalOperation", "");
    }
    assert_eq!(names(&rig, &[]).await, [""; 0], "shown only when asked for");
    assert_eq!(names(&rig, &[("CheckDomainShow", "true")]).await, ["a.com"]);
    assert_eq!(names(&rig, &[("DomainStatus", "check_failed")]).await, ["a.com"]);
    assert!(rig.operator.unblock_name("a.com").await.unwrap());
    until_status(&rig, "a.com", "offline").await;
    assert_eq!(rig.ask(CDN, "StartCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    until_status(&rig, "a.com", "online").await;

    rig.operator.block_name("a.com", "again").await.unwrap();
    until_status(&rig, "a.com", "check_failed").await;
    assert_eq!(settled(&rig, CDN, "DeleteCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    until_status(&rig, "a.com", "InvalidDomain.NotFound").await;
    assert_refused(&rig.ask(CDN, "AddCdnDomain", &params("a.com")).await, 403, "IllegalOperation", "");
}

#[tokio::test]
async fn deleted_domain_is_404_and_its_name_free() {
    let rig = rig().await;
    let params = [("DomainName", "a.com"), ("CdnType", "video"), ("Sources", SOURCES)];
    assert_refused(&rig.ask(CDN, "AddCdnDomain", &params).await, 400, "DomainAlreadyExist", "");
    let label = [("ResourceId.1", "a.com"), ("ResourceType", "DOMAIN"), ("Tag.1.Key", "k")];
    assert_eq!(rig.ask(CDN, "TagResources", &label).await.status, 200);
    assert_eq!(rig.ask(CDN, "DeleteCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    until_status(&rig, "a.com", "InvalidDomain.NotFound").await;
    let detail = rig.ask(CDN, "DescribeCdnDomainDetail", &[("DomainName", "a.com")]).await;
    assert_refused(&detail, 404, "InvalidDomain.NotFound", "The domain provided does not belong to you.");
    assert_eq!(settled(&rig, CDN, "AddCdnDomain", &params).await.status, 200);
    until_status(&rig, "a.com", "online").await;
    assert_eq!(names(&rig, &[("CdnType", "video")]).await, ["a.com"]);
    assert_eq!(names(&rig, &[("Tag.1.Key", "k")]).await, [""; 0], "its tags went with it");
}

#[tokio::test]
async fn tags_are_kept_listed_in_pages_and_filtered_by() {
    let rig = rig().await;
    let add = [
        ("DomainName", "b.com"),
        ("CdnType", "web"),
        ("Sources", SOURCES),
        ("Tag.1.Key", "env"),
        ("Tag.1.Value", "prod"),
    ];
    assert_eq!(rig.ask(CDN, "AddCdnDomain", &add).await.status, 200);
    let both = |rest: &[(&'static str, &'static str)]| {
        [&[("ResourceId.1", "a.com"), ("ResourceId.2", "b.com"), ("ResourceType", "DOMAIN")][..], rest].concat()
    };
    let tags = [("Tag.1.Key", "team"), ("Tag.1.Value", "web"), ("Tag.2.Key", "empty")];
    assert_eq!(rig.ask(CDN, "TagResources", &both(&tags)).await.status, 200);
    assert_eq!(names(&rig, &[("Tag.1.Key", "team"), ("Tag.1.Value", "web")]).await, ["a.com", "b.com"]);
    let filter = [("Tag.1.Key", "env"), ("Tag.1.Value", "prod"), ("Tag.2.Key", "team")];
    assert_eq!(names(&rig, &filter).await, ["b.com"], "all of them must hold");
    assert_eq!(names(&rig, &[("Tag.1.Key", "env"), ("Tag.1.Value", "test")]).await, [""; 0]);

    let described = rig.ask(CDN, "DescribeTagResources", &both(&[])).await.json();
    assert_eq!(described["TagResources"][0]["ResourceId"], "a.com");
    assert_eq!(described["TagResources"][0]["Tag"][1], serde_json::json!({ "Key": "team", "Value": "web" }));
    assert_eq!(described["TagResources"][1]["Tag"].as_array().unwrap().len(), 3);
    let used = rig.ask(CDN, "DescribeUserTags", &[]).await.json();
    assert_eq!(used["Tags"][1], serde_json::json!({ "Key": "env", "Value": ["prod"] }));

    // Seven domains with twenty tags each are two pages.
    let more = "c1.com,c2.com,c3.com,c4.com,c5.com,c6.com";
    let params = [("DomainName", more), ("CdnType", "web"), ("Sources", SOURCES)];
    assert_eq!(rig.ask(CDN, "BatchAddCdnDomain", &params).await.status, 200);
    let ids: Vec<(String, String)> = more
        .split(',')
        .enumerate()
        .map(|(at, name)| (format!("ResourceId.{}", at + 1), name.to_owned()))
        .chain((1..=20).map(|n| (format!("Tag.{n}.Key"), format!("k{n:02}"))))
        .chain([("ResourceType".to_owned(), "DOMAIN".to_owned())])
        .collect();
    let ids: Vec<(&str, &str)> = ids.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(rig.ask(CDN, "TagResources", &ids).await.status, 200);
    let over = [("ResourceId.1", "c1.com"), ("ResourceType", "DOMAIN"), ("Tag.1.Key", "one-more")];
    assert_refused(&rig.ask(CDN, "TagResources", &over).await, 400, "InvalidParameter", "");
    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let params = [("ResourceType", "DOMAIN"), ("NextToken", token.as_str())];
        let page = rig.ask(CDN, "ListTagResources", &params).await.json();
        for row in page["TagResources"]["TagResource"].as_array().unwrap() {
            seen.push(format!("{} {}", row["ResourceId"], row["TagKey"]));
        }
        token = page["NextToken"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 2 + 3 + 120);
    assert!(seen.is_sorted_by(|a, b| a < b), "each once");

    let untag = both(&[("TagKey.1", "team"), ("All", "true")]);
    assert_eq!(rig.ask(CDN, "UntagResources", &untag).await.status, 200);
    let described = rig.ask(CDN, "DescribeTagResources", &both(&[])).await.json();
    assert_eq!(described["TagResources"][0]["Tag"].as_array().unwrap().len(), 1, "`All` yields to keys");
    assert_eq!(rig.ask(CDN, "UntagResources", &both(&[("All", "true")])).await.status, 200);
    let listed = rig.ask(CDN, "ListTagResources", &both(&[])).await.json();
    assert_eq!(listed["TagResources"]["TagResource"], serde_json::json!([]));
    assert_refused(&rig.ask(CDN, "UntagResources", &both(&[])).await, 400, "MissingParameter", "");
}

#[tokio::test]
async fn places_and_names_are_told() {
    let rig = rig().await;
    rig.operator.set_pop("cn-1", model::Coverage::Domestic, &[]).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let places = rig.ask(CDN, "DescribeCdnRegionAndIsp", &[]).await.json();
        if places["Regions"]["Region"][0]["NameEn"] == "domestic" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{places}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    let cname = rig.ask(CDN, "DescribeDomainCname", &[("DomainName", "a.com")]).await.json();
    assert_eq!(
        (&cname["CnameDatas"]["Data"][0]["Cname"], &cname["CnameDatas"]["Data"][0]["Status"]),
        (&"".into(), &1.into())
    );
    let vips = rig.ask(CDN, "DescribeL2VipsByDomain", &[("DomainName", "a.com")]).await.json();
    assert_eq!((&vips["DomainName"], &vips["Vips"]["Vip"]), (&"a.com".into(), &serde_json::json!([])));
    let groups: [(&str, u16, &str); 3] = [
        ("rg-default", 200, ""),
        ("rg-other", 400, "EntityNotExists.ResourceGroup"),
        ("other", 400, "InvalidResourceGroupId.Malformed"),
    ];
    for (group, code, text) in groups {
        let params = [("DomainName", "a.com"), ("ResourceGroupId", group)];
        let (status, got, _) = rig.ask(CDN, "ModifyCdnDomain", &params).await.words();
        assert_eq!((status, got.as_str()), (code, text), "{group}");
    }
    assert_eq!(names(&rig, &[("ResourceGroupId", "rg-default")]).await, ["a.com"]);
    assert_eq!(names(&rig, &[("ResourceGroupId", "rg-other")]).await, [""; 0]);
}

#[tokio::test]
async fn what_is_missing_or_malformed_is_said_in_the_words_of_each_page() {
    let rig = rig().await;
    let sources = ("Sources", r#"[{"content":"10.0.0.9","type":"ipaddr"}]"#);
    let a = ("DomainName", "a.com");
    let (missing, malformed) = ("MissingParameter", "InvalidDomainName.Malformed");
    type Parameters<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, &str, Parameters<'_>, &str, &str); 8] = [
        (
            CDN,
            "DeleteSpecificConfig",
            &[("ConfigId", "1")],
            missing,
            "The specified value of parameter DomainName can not be empty.",
        ),
        (CDN, "DeleteSpecificConfig", &[a], missing, "The specified value of parameter ConfigId can not be empty."),
        (VOD, "DeleteVodSpecificConfig", &[a], missing, "The specified value of parameter ConfigId can not be empty."),
        (
            CDN,
            "DescribeL2VipsByDomain",
            &[],
            missing,
            "The specified value of parameter \"DomainName\" can not be empty.",
        ),
        (
            CDN,
            "AddCdnDomain",
            &[("DomainName", "b.com"), sources],
            missing,
            "The input parameter cdnType that is mandatory for processing this request is not supplied.",
        ),
        (
            CDN,
            "ModifyCdnDomain",
            &[a, ("Sources", "x")],
            "InvalidSources.Malformed",
            "The specific value of parameter Sources is malformed.",
        ),
        (
            CDN,
            "ModifyCdnDomain",
            &[("DomainName", "a..com"), sources],
            malformed,
            "The specific value of parameter DomainName is malformed.",
        ),
        (VOD, "UpdateVodDomain", &[("DomainName", "a..com"), sources], malformed, "Specified DomainName is malformed."),
    ];
    for (version, action, parameters, code, message) in cases {
        assert_refused(&rig.ask(version, action, parameters).await, 400, code, message);
    }
}
