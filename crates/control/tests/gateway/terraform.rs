//! The calls of the Terraform provider, in its order and with its habits: signed by V1, POSTed, what is common in the query,
//! what is the action's in the form, polling until a state is there, reading what it will compare.

use super::*;

/// Calls as the provider does.
async fn call(rig: &Rig, action: &str, params: &[(&str, &str)]) -> Answer {
    let nonce = rig.nonce();
    let ask = Ask { method: &Method::POST, action, version: CDN, now: rig.clock.now(), nonce: &nonce };
    let params: Vec<(String, String)> = params
        .iter()
        .copied()
        .chain([("Format", "JSON"), ("RegionId", "cn-hangzhou")])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let signed = sign_v1(AccessKey { id: &rig.key.id, secret: &rig.key.secret }, ask, &params);
    let common = [
        "AccessKeyId",
        "Action",
        "Format",
        "RegionId",
        "Signature",
        "SignatureMethod",
        "SignatureNonce",
        "SignatureType",
        "SignatureVersion",
        "Timestamp",
        "Version",
    ];
    let (query, form): (Vec<_>, Vec<_>) = signed.into_iter().partition(|(name, _)| common.contains(&name.as_str()));
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("x-acs-action", action)];
    rig.send("POST", &format!("/?{}", encode_pairs(&query)), &headers, &encode_pairs(&form)).await
}

/// Calls as the provider does where it retries: while the answer is one of its set of codes.
async fn retrying(rig: &Rig, action: &str, params: &[(&str, &str)]) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = call(rig, action, params).await;
        let (status, code, _) = answer.words();
        if status == 200 {
            return answer.json();
        }
        assert!(["ServiceBusy", "FlowControlError"].contains(&code.as_str()), "{action}: {answer:?}");
        assert!(tokio::time::Instant::now() < deadline, "{action}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

/// Waits as the provider does for a domain's status.
async fn until_status(rig: &Rig, name: &str, wanted: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let detail = call(rig, "DescribeCdnDomainDetail", &[("DomainName", name)]).await;
        assert_eq!(detail.status, 200, "{detail:?}");
        let model = detail.json()["GetDomainDetailModel"].clone();
        let status = model["DomainStatus"].as_str().unwrap().to_owned();
        // Any other state than these ends the provider's wait.
        let pending = ["configuring", "stopping", "online", "offline"];
        assert!(pending.contains(&status.as_str()), "{status}");
        if status == wanted {
            return model;
        }
        assert!(tokio::time::Instant::now() < deadline, "{model}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

/// Creates a domain and waits for it.
async fn create(rig: &Rig, name: &str) {
    let sources = r#"[{"Content":"1.1.1.1","Type":"ipaddr","Priority":"20","Port":80,"Weight":"15"}]"#;
    let params = [
        ("DomainName", name),
        ("CdnType", "web"),
        ("Sources", sources),
        ("Scope", "overseas"),
        ("CheckUrl", "http://o.example.com/check"),
        ("Tag.1.Key", "Created"),
        ("Tag.1.Value", "TF"),
    ];
    assert_eq!(call(rig, "AddCdnDomain", &params).await.status, 200);
    until_status(rig, name, "online").await;
}

/// Deletes a domain and waits until it is not found.
async fn delete(rig: &Rig, name: &str) {
    retrying(rig, "DeleteCdnDomain", &[("DomainName", name)]).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let detail = call(rig, "DescribeCdnDomainDetail", &[("DomainName", name)]).await;
        if detail.status == 404 {
            return assert_refused(&detail, 404, "InvalidDomain.NotFound", "");
        }
        assert_eq!(detail.json()["GetDomainDetailModel"]["DomainStatus"], "deleting");
        assert!(tokio::time::Instant::now() < deadline, "{detail:?}");
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}

#[tokio::test]
async fn alicloud_cdn_domain_new_is_created_read_updated_and_deleted() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let name = "tf.example.com";
    create(&rig, name).await;

    // Read.
    let detail = until_status(&rig, name, "online").await;
    for (field, expected) in [("CdnType", "web"), ("Scope", "overseas"), ("DomainName", name)] {
        assert_eq!(detail[field], expected, "{field}");
    }
    assert!(detail["Cname"].is_string() && detail["ResourceGroupId"].as_str().is_some_and(|group| !group.is_empty()));
    let source = &detail["SourceModels"]["SourceModel"][0];
    for (field, expected) in [("Content", "1.1.1.1"), ("Priority", "20"), ("Type", "ipaddr"), ("Weight", "15")] {
        assert_eq!(source[field], expected, "{field}");
    }
    assert_eq!(source["Port"], 80);
    let certificate = call(&rig, "DescribeDomainCertificateInfo", &[("DomainName", name)]).await.json();
    assert_eq!(certificate["CertInfos"]["CertInfo"].as_array().map(Vec::len), Some(1), "{certificate}");
    let tags = [("ResourceId.1", name), ("ResourceType", "DOMAIN")];
    let tags = call(&rig, "ListTagResources", &tags).await.json();
    let tag = &tags["TagResources"]["TagResource"][0];
    assert_eq!((&tag["TagKey"], &tag["TagValue"], &tags["NextToken"]), (&"Created".into(), &"TF".into(), &"".into()));

    // Update: origins, then coverage, then whether it is served, then tags.
    let sources = r#"[{"Content":"o.example.net","Type":"domain","Priority":"20","Port":443,"Weight":"10"}]"#;
    retrying(&rig, "ModifyCdnDomain", &[("DomainName", name), ("Sources", sources)]).await;
    let detail = until_status(&rig, name, "online").await;
    assert_eq!(detail["SourceModels"]["SourceModel"][0]["Content"], "o.example.net");
    let property = [("DomainName", name), ("Property", r#"{"coverage":"global"}"#)];
    retrying(&rig, "ModifyCdnDomainSchdmByProperty", &property).await;
    assert_eq!(until_status(&rig, name, "online").await["Scope"], "global");
    retrying(&rig, "StopCdnDomain", &[("DomainName", name)]).await;
    until_status(&rig, name, "offline").await;
    retrying(&rig, "StartCdnDomain", &[("DomainName", name)]).await;
    until_status(&rig, name, "online").await;
    let untag = [("ResourceId.1", name), ("ResourceType", "DOMAIN"), ("TagKey.1", "Created")];
    retrying(&rig, "UntagResources", &untag).await;
    let tag = [("ResourceId.1", name), ("ResourceType", "DOMAIN"), ("Tag.1.Key", "For"), ("Tag.1.Value", "Test")];
    retrying(&rig, "TagResources", &tag).await;
    let tags = [("ResourceId.1", name), ("ResourceType", "DOMAIN")];
    let tags = call(&rig, "ListTagResources", &tags).await.json();
    assert_eq!(tags["TagResources"]["TagResource"].as_array().map(Vec::len), Some(1), "{tags}");
    retrying(&rig, "SetCdnDomainSSLCertificate", &[("DomainName", name), ("SSLProtocol", "off"), ("Env", "cas")]).await;

    delete(&rig, name).await;
    create(&rig, name).await;
    delete(&rig, name).await;
}

#[tokio::test]
async fn alicloud_cdn_domain_config_is_created_read_updated_and_deleted() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let name = "tf.example.com";
    create(&rig, name).await;
    let read = async |id: &str| {
        let params = [("DomainName", name), ("FunctionNames", "path_based_ttl_set"), ("ConfigId", id)];
        call(&rig, "DescribeCdnDomainConfigs", &params).await.json()["DomainConfigs"]["DomainConfig"].clone()
    };
    let set = async |id: &str, ttl: &str| {
        let functions = format!(
            r#"[{{"functionName":"path_based_ttl_set","functionArgs":[{{"argName":"path","argValue":"/img/"}},{{"argName":"ttl","argValue":"{ttl}"}}],"parentId":"","configId":"{id}"}}]"#
        );
        let params = [("DomainNames", name), ("Functions", functions.as_str())];
        let reply = retrying(&rig, "BatchSetCdnDomainConfig", &params).await;
        let models = reply["DomainConfigList"]["DomainConfigModel"].as_array().unwrap();
        assert_eq!(models.len(), 1, "{reply}");
        assert_eq!(
            (&models[0]["DomainName"], &models[0]["FunctionName"]),
            (&name.into(), &"path_based_ttl_set".into())
        );
        let id = models[0]["ConfigId"].to_string().trim_matches('"').to_owned();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while read(&id).await[0]["Status"] != "success" {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        until_status(&rig, name, "online").await;
        id
    };
    let id = set("", "60").await;
    assert_eq!(set(&id, "90").await, id, "it is changed in place");
    let config = read(&id).await;
    assert!(config[0]["ParentId"].is_string());
    let ttl = config[0]["FunctionArgs"]["FunctionArg"].as_array().unwrap().iter().find(|arg| arg["ArgName"] == "ttl");
    assert_eq!(ttl.map(|arg| &arg["ArgValue"]), Some(&"90".into()), "{config}");
    retrying(&rig, "DeleteSpecificConfig", &[("DomainName", name), ("ConfigId", &id)]).await;
    assert_eq!(read(&id).await, serde_json::json!([]));
    delete(&rig, name).await;
}
