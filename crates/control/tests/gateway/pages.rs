//! Pages about error codes, and the links that lead there.

use super::*;

#[tokio::test]
async fn what_a_refusal_recommends_is_a_page_about_its_code() {
    let rig = Rig::start("cdn-2024").await;
    let refused = rig.ask(CDN, "PushObjectCache", &[]).await;
    let link = refused.json()["Recommend"].as_str().unwrap().to_owned();
    let target = link.strip_prefix("http://cdn.test").unwrap_or_else(|| panic!("{link}"));
    let page = rig.send("GET", target, &[], "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert!(page.body.starts_with("# MissingParameter\n"), "{page:?}");

    let proxied = rig.send("GET", "/?Action=X", &[("x-forwarded-proto", "https")], "").await;
    assert!(proxied.body.contains("<![CDATA[https://cdn.test/errors/MissingParameter?"), "{proxied:?}");

    for code in aliyun::codes() {
        let page = rig.send("GET", &format!("/errors/{code}"), &[], "").await;
        assert_eq!((page.status, page.body.starts_with(&format!("# {code}\n"))), (200, true), "{code}");
    }
    for none in ["/errors/", "/errors/None", "/errors/../refusal.rs", "/errors"] {
        assert_eq!(rig.send("GET", none, &[], "").await.status, 404, "{none}");
    }
}
