//! Sessions and bearer tokens: issued, used in both ways of signing, narrowed, expired, mixed up.

use super::*;

async fn session(rig: &Rig, params: &[(&str, &str)]) -> Signer {
    let answer = rig.ask(CDN, "CreateSessionCredentials", params).await;
    let json = answer.json();
    let text = |name: &str| json["Credentials"][name].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    Signer { id: text("AccessKeyId"), secret: text("AccessKeySecret"), token: Some(text("SecurityToken")) }
}

const QUOTA: &str = "DescribeRefreshQuota";

#[tokio::test]
async fn session_signs_both_ways_until_it_expires() {
    let rig = Rig::start("cdn-2024").await;
    let mine = session(&rig, &[("DurationSeconds", "900")]).await;
    assert!(mine.id.starts_with("STS."), "{}", mine.id);
    let answer = rig.v1(&mine, CDN, QUOTA, &[], "once").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(rig.v3(&mine, VOD, "DescribeVodRefreshQuota", &[]).await.status, 200);
    let again = rig.v1(&mine, CDN, QUOTA, &[], "once").await;
    assert_refused(&again, 400, "SignatureNonceUsed", "Specified signature nonce was used already.");

    // One account, one quota: what a session spends is spent.
    let pushed = rig.v3(&mine, CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 7))]).await;
    assert_eq!(pushed.status, 200, "{pushed:?}");
    assert_eq!(rig.ask(CDN, QUOTA, &[]).await.json()["PreloadRemain"], "993");

    rig.clock.advance(Duration::from_secs(899));
    assert_eq!(rig.v3(&mine, CDN, QUOTA, &[]).await.status, 200);
    rig.clock.advance(Duration::from_secs(1));
    for answer in [rig.v3(&mine, CDN, QUOTA, &[]).await, rig.v1(&mine, CDN, QUOTA, &[], &rig.nonce()).await] {
        assert_refused(&answer, 400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.");
    }
}

#[tokio::test]
async fn sessions_that_are_mixed_up_are_refused_and_no_token_is_repeated() {
    let rig = Rig::start("cdn-2024").await;
    let (one, other) = (session(&rig, &[]).await, session(&rig, &[]).await);
    let token = one.token.clone().unwrap();
    let changed = format!("{}{}", &token[..8], &token[9..]);
    let with = |id: &Signer, token: Option<&str>| Signer { token: token.map(str::to_owned), ..id.clone() };
    let wrong_secret = Signer { secret: "wrong".to_owned(), ..one.clone() };
    let cases = [
        (with(&one, None), 400, "MissingSecurityToken", "SecurityToken is mandatory for this action."),
        (with(&one, other.token.as_deref()), 400, "InvalidSecurityToken.MismatchWithAccessKey", "Specified"),
        (with(&rig.key, Some(&token)), 400, "InvalidSecurityToken.MismatchWithAccessKey", "Specified"),
        (with(&one, Some(&changed)), 400, "InvalidSecurityToken.Malformed", "Specified SecurityToken is malformed."),
        (with(&one, Some("nonsense")), 400, "InvalidSecurityToken.Malformed", "Specified SecurityToken is malformed."),
        (wrong_secret, 400, "SignatureDoesNotMatch", "Specified signature"),
        (
            with(&Signer { id: "STS.none".into(), ..one.clone() }, Some(&token)),
            400,
            "InvalidSecurityToken.MismatchWithAccessKey",
            "Specified",
        ),
    ];
    for (by, status, code, message) in cases {
        for answer in [rig.v1(&by, CDN, QUOTA, &[], &rig.nonce()).await, rig.v3(&by, CDN, QUOTA, &[]).await] {
            assert_refused(&answer, status, code, message);
            assert!(!answer.body.contains(&token[..40]), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn session_may_what_its_key_and_its_policy_both_allow_and_issues_nothing() {
    let rig = Rig::start("cdn-2024").await;
    let only = |action: &str| {
        format!(r#"{{"Version":"1","Statement":[{{"Effect":"Allow","Action":"cdn:{action}","Resource":"*"}}]}}"#)
    };
    let narrow = session(&rig, &[("Policy", &only("Describe*"))]).await;
    assert_eq!(rig.v3(&narrow, CDN, QUOTA, &[]).await.status, 200);
    let push = [("ObjectPath", "http://a.com/1")];
    assert_refused(&rig.v3(&narrow, CDN, "PushObjectCache", &push).await, 403, "Forbidden.RAM", "User not authorized");

    // A policy cannot give what the key does not have.
    let key = rig.key_with(&only("Create*")).await;
    let answer = rig.v3(&key, CDN, "CreateSessionCredentials", &[("Policy", &only("*"))]).await.json();
    let text = |name: &str| answer["Credentials"][name].as_str().unwrap().to_owned();
    let wide = Signer { id: text("AccessKeyId"), secret: text("AccessKeySecret"), token: Some(text("SecurityToken")) };
    assert_refused(&rig.v3(&wide, CDN, QUOTA, &[]).await, 403, "Forbidden.RAM", "");
    for action in ["CreateSessionCredentials", "CreateBearerToken"] {
        assert_refused(&rig.v3(&wide, CDN, action, &[]).await, 403, "Forbidden.RAM", "");
    }
    // And nobody issues who may not.
    let key = rig.key_with(&only("Push*")).await;
    assert_refused(&rig.v3(&key, CDN, "CreateSessionCredentials", &[]).await, 403, "Forbidden.RAM", "");

    let bad = [("DurationSeconds", "899"), ("DurationSeconds", "43201"), ("DurationSeconds", "x"), ("Policy", "{}")];
    for (name, value) in bad {
        let answer = rig.ask(CDN, "CreateSessionCredentials", &[(name, value)]).await;
        assert_refused(&answer, 400, "InvalidParameter", &format!("The specified parameter {name} is not valid"));
    }
}

/// A request without a signature, in the form of V1 or V3.
async fn by_bearer(rig: &Rig, token: &str, v3: bool, nonce: &str) -> Answer {
    let now = timestamp(rig.clock.now());
    if v3 {
        let headers = [
            ("x-acs-action", QUOTA),
            ("x-acs-version", CDN),
            ("x-acs-date", now.as_str()),
            ("x-acs-signature-nonce", nonce),
            ("x-acs-bearer-token", token),
        ];
        return rig.send("POST", "/?SignatureType=BEARERTOKEN", &headers, "").await;
    }
    let pairs = [
        ("Action", QUOTA),
        ("Version", CDN),
        ("Format", "JSON"),
        ("Timestamp", now.as_str()),
        ("SignatureNonce", nonce),
        ("SignatureType", "BEARERTOKEN"),
        ("BearerToken", token),
    ];
    rig.send("POST", "/", &[], &encode_pairs(&pairs)).await
}

#[tokio::test]
async fn bearer_token_is_shown_instead_of_a_signature_until_it_expires() {
    let rig = Rig::start("cdn-2024").await;
    let answer = rig.ask(CDN, "CreateBearerToken", &[("DurationSeconds", "900")]).await.json();
    assert_eq!(answer["Expiration"], timestamp(rig.clock.now() + Duration::from_secs(900)));
    let token = answer["BearerToken"].as_str().unwrap().to_owned();
    for (v3, nonce) in [(true, "a"), (false, "b")] {
        let answer = by_bearer(&rig, &token, v3, nonce).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let again = by_bearer(&rig, &token, v3, nonce).await;
        assert_refused(&again, 400, "SignatureNonceUsed", "");
    }
    let session = session(&rig, &[]).await.token.unwrap();
    for (n, bad) in ["nonsense", &token[1..], &session].into_iter().enumerate() {
        for v3 in [true, false] {
            let answer = by_bearer(&rig, bad, v3, &format!("c{n}{v3}")).await;
            assert_refused(&answer, 400, "InvalidBearerToken.Malformed", "Specified BearerToken is malformed.");
        }
    }
    rig.clock.advance(Duration::from_secs(900));
    let answer = by_bearer(&rig, &token, true, "d").await;
    assert_refused(&answer, 400, "InvalidBearerToken.Expired", "Specified BearerToken is expired.");
}
