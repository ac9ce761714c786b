//! Domains that share the cache of another (`rewrite_host`).

use super::*;

/// Sets that `a.com` shares the cache of `share`.
async fn set(rig: &Rig, who: &Principal, share: &str) -> Result<(), Denied> {
    let function = model::Function {
        id: 0,
        name: "rewrite_host".into(),
        args: vec![("share_host".into(), share.into())],
        parent: None,
    };
    rig.app.set_functions(who, PUSH, &[name("a.com")], &[Wished { id: None, function }]).await.map(drop)
}

#[tokio::test]
async fn caches_are_shared_inside_an_account() {
    let rig = Rig::start().await;
    for refused in ["a.com", "none.com"] {
        let denied = set(&rig, &me(), refused).await;
        assert!(matches!(denied, Err(Denied::Functions(_))), "{refused}: {denied:?}");
    }
    set(&rig, &me(), "b.com").await.unwrap();
    rig.delete("b.com").await;
    let stranger = principal("other", AccountStatus::Active, None);
    assert!(
        matches!(rig.add_domain(&stranger, "b.com").await, Err(Denied::DomainConflict)),
        "it would be in another's cache"
    );
    assert!(rig.add_domain(&me(), "b.com").await.is_ok());
}

#[tokio::test]
async fn sharing_a_cache_asks_for_the_permission_on_both_domains() {
    let rig = Rig::start().await;
    let allowed_on = |domain: &str| {
        let statement = r#"{"Effect":"Allow","Action":"*","Resource":"acs:cdn:*:*:domain/{}"}"#.replace("{}", domain);
        principal("me", AccountStatus::Active, Some(&format!(r#"{{"Version":"1","Statement":[{statement}]}}"#)))
    };
    for (who, share, forbidden) in [
        (allowed_on("a.com"), "b.com", true),
        // Whether there is such a domain is not told.
        (allowed_on("a.com"), "none.com", true),
        (allowed_on("b.com"), "b.com", true),
        (allowed_on("?.com"), "b.com", false),
    ] {
        let answer = set(&rig, &who, share).await;
        assert_eq!(matches!(answer, Err(Denied::Forbidden)), forbidden, "{:?} {share}: {answer:?}", who.key.policy);
        assert_eq!(answer.is_ok(), !forbidden, "{share}: {answer:?}");
    }
    // Who may change `a.com` alone may go on with what was set.
    set(&rig, &allowed_on("a.com"), "b.com").await.unwrap();
}
