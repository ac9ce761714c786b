//! Users and policies: what each effect does to real calls.

use super::*;

const PUSH: &str = "PushObjectCache";

fn statement(effect: &str, action: &str, resource: &str) -> String {
    format!(r#"{{"Version":"1","Statement":{{"Effect":"{effect}","Action":"{action}","Resource":"{resource}"}}}}"#)
}

const BOTH: &str = "http://a.com/1\nhttp://b.com/1";

#[tokio::test]
async fn user_may_what_its_policies_say_together() {
    let rig = Rig::start("cdn-2024").await;
    rig.add_domain("b.com").await;
    let on = |domain: &str| format!("acs:cdn:*:me:domain/{domain}");
    let allow_all = statement("Allow", "cdn:*", "*");
    let only_a = statement("Allow", "cdn:*", &on("a.com"));
    let only_b = statement("Allow", "cdn:P?sh*", &on("?.com"));
    let not_b = statement("Deny", "*", &on("b.com"));
    let others = statement("Allow", "cdn:*", "acs:cdn:*:you:domain/a.com");
    let cases: [(&str, &[&str], [bool; 4]); 9] = [
        // Push of a.com, of b.com, of both; list of domains.
        ("nobody", &[], [false; 4]),
        ("all", &[&allow_all], [true; 4]),
        ("one", &[&only_a], [true, false, false, false]),
        ("wild", &[&only_b], [true, true, true, false]),
        ("denied", &[&allow_all, &not_b], [true, false, false, true]),
        ("stranger", &[&others], [false; 4]),
        ("full", &["AliyunCDNFullAccess"], [true; 4]),
        ("reader", &["AliyunCDNReadOnlyAccess"], [false, false, false, true]),
        ("vod", &["AliyunVODFullAccess"], [false; 4]),
    ];
    for (name, policies, allowed) in cases {
        let user = rig.user(name, policies).await;
        let calls: [(&str, &[(&str, &str)]); 4] = [
            (PUSH, &[("ObjectPath", "http://a.com/1")]),
            (PUSH, &[("ObjectPath", "http://b.com/1")]),
            (PUSH, &[("ObjectPath", BOTH)]),
            ("DescribeUserDomains", &[]),
        ];
        for ((action, params), allowed) in calls.into_iter().zip(allowed) {
            let answer = rig.v3(&user, CDN, action, params).await;
            if allowed {
                assert_eq!(answer.status, 200, "{name}: {params:?} {answer:?}");
            } else {
                assert_refused(
                    &answer,
                    403,
                    "Forbidden.RAM",
                    "User not authorized to operate on the specified resource",
                );
            }
        }
        let vod = rig.v3(&user, VOD, "DescribeVodRefreshQuota", &[]).await;
        assert_eq!(vod.status == 200, name == "vod", "{name}: {vod:?}");
    }
    // The account's own key may everything, and what is nobody's is told apart from what is forbidden only to whoever may.
    assert_eq!(rig.ask(CDN, PUSH, &[("ObjectPath", BOTH)]).await.status, 200);
    let unknown = [("ObjectPath", "http://none.com/1")];
    assert_refused(&rig.ask(CDN, PUSH, &unknown).await, 404, "InvalidDomain.NotFound", "");
    let one = rig.user("two", &[&only_a]).await;
    assert_refused(&rig.v3(&one, CDN, PUSH, &unknown).await, 403, "Forbidden.RAM", "");
}

#[tokio::test]
async fn what_an_operator_changes_holds_within_a_second() {
    let rig = Rig::start("open").await;
    let bob = rig.user("bob", &[]).await;
    let quota = "DescribeRefreshQuota";
    let forbidden = (403, "Forbidden.RAM");
    let operator = &rig.operator;
    rig.until(&bob, quota, &[], forbidden.0, forbidden.1).await;
    operator.attach("me", "bob", "AliyunCDNReadOnlyAccess").await.unwrap();
    rig.until(&bob, quota, &[], 200, "").await;
    operator.detach("me", "bob", "AliyunCDNReadOnlyAccess").await.unwrap();
    rig.until(&bob, quota, &[], forbidden.0, forbidden.1).await;
    let allow = Policy::parse(&statement("Allow", "cdn:Describe*", "*")).unwrap();
    operator.put_policy("me", "own", &allow).await.unwrap();
    operator.attach("me", "bob", "own").await.unwrap();
    rig.until(&bob, quota, &[], 200, "").await;
    let deny = Policy::parse(&statement("Deny", "*", "*")).unwrap();
    operator.put_policy("me", "own", &deny).await.unwrap();
    rig.until(&bob, quota, &[], forbidden.0, forbidden.1).await;
    operator.put_policy("me", "own", &allow).await.unwrap();
    rig.until(&bob, quota, &[], 200, "").await;

    // A session is as long as its key is.
    let session = rig.v3(&bob, CDN, "CreateSessionCredentials", &[]).await;
    assert_refused(&session, 403, "Forbidden.RAM", "");
    operator.set_key_active(&bob.id, false).await.unwrap();
    rig.until(&bob, quota, &[], 400, "InvalidAccessKeyId.Inactive").await;
    operator.set_key_active(&bob.id, true).await.unwrap();
    rig.until(&bob, quota, &[], 200, "").await;
    let refused = operator.delete_user("me", "bob").await.unwrap_err().to_string();
    assert_eq!(refused, format!("`bob` is in use by key {}", bob.id));
    operator.delete_key(&bob.id).await.unwrap();
    rig.until(&bob, quota, &[], 404, "InvalidAccessKeyId.NotFound").await;
    operator.delete_user("me", "bob").await.unwrap();
    operator.delete_policy("me", "own").await.unwrap();
    for (policy, problem) in [("AliyunCDNFullAccess", "system policy"), ("a b", "letters")] {
        let refused = operator.put_policy("me", policy, &allow).await.unwrap_err().to_string();
        assert!(refused.contains(problem), "{refused}");
    }
}

#[tokio::test]
async fn session_of_a_user_is_the_users_and_only_narrower() {
    let rig = Rig::start("open").await;
    rig.add_domain("b.com").await;
    let issue = statement("Allow", "cdn:Create*", "*");
    let only_a = statement("Allow", "cdn:*", "acs:cdn:*:me:domain/a.com");
    let bob = rig.user("bob", &[&issue, &only_a]).await;
    let wide = statement("Allow", "*", "*");
    let no_push = statement("Allow", "cdn:Refresh*", "*");
    let push = async |by: &Signer, domain: &str| {
        let path = format!("http://{domain}/1");
        rig.v3(by, CDN, PUSH, &[("ObjectPath", &path)]).await
    };
    let cases = [(None, [true, false]), (Some(wide.as_str()), [true, false]), (Some(no_push.as_str()), [false, false])];
    let mut last = None;
    for (policy, allowed) in cases {
        let params: Vec<(&str, &str)> = policy.iter().map(|policy| ("Policy", *policy)).collect();
        let issued = rig.v3(&bob, CDN, "CreateSessionCredentials", &params).await.json();
        let text = |name: &str| issued["Credentials"][name].as_str().unwrap().to_owned();
        let session =
            Signer { id: text("AccessKeyId"), secret: text("AccessKeySecret"), token: Some(text("SecurityToken")) };
        for (domain, allowed) in ["a.com", "b.com"].into_iter().zip(allowed) {
            let answer = push(&session, domain).await;
            assert_eq!(answer.status, if allowed { 200 } else { 403 }, "{policy:?} {domain}: {answer:?}");
        }
        last = Some(session);
    }
    let log = rig.ask(CDN, "DescribeAuditLog", &[("EventAction", PUSH), ("UserName", "bob")]).await.json();
    assert_eq!(log["Events"]["Event"][0]["SessionId"], last.as_ref().unwrap().id.as_str());
    // What the user loses, its sessions lose.
    rig.operator.detach("me", "bob", "bob-1").await.unwrap();
    let allowed = rig.v3(&bob, CDN, "CreateSessionCredentials", &[]).await.json();
    let text = |name: &str| allowed["Credentials"][name].as_str().unwrap().to_owned();
    let session =
        Signer { id: text("AccessKeyId"), secret: text("AccessKeySecret"), token: Some(text("SecurityToken")) };
    rig.until(&session, PUSH, &[("ObjectPath", "http://a.com/1")], 403, "Forbidden.RAM").await;
    rig.operator.delete_key(&bob.id).await.unwrap();
    rig.until(&session, "DescribeRefreshQuota", &[], 404, "InvalidAccessKeyId.NotFound").await;
}
