//! Figures as clients see them: windows, buckets, padding, filters, whose they are.

use control::state::State;
use control::state::figures::{FigureReport, MinuteOf, UrlsOf};
use model::figures::{Class, Figures, Regional, Side, Sketch, Visits};
use model::{NodeName, Region};

use super::*;

/// Every action about figures.
pub(crate) const ACTIONS: [(&str, &str); 19] = [
    (CDN, "DescribeDomainHitRateData"),
    (CDN, "DescribeDomainReqHitRateData"),
    (CDN, "DescribeDomainBpsData"),
    (CDN, "DescribeDomainTrafficData"),
    (CDN, "DescribeDomainQpsData"),
    (CDN, "DescribeDomainHttpCodeData"),
    (CDN, "DescribeDomainSrcBpsData"),
    (CDN, "DescribeDomainSrcTrafficData"),
    (CDN, "DescribeDomainSrcQpsData"),
    (CDN, "DescribeDomainSrcHttpCodeData"),
    (CDN, "DescribeDomainSrcTopUrlVisit"),
    (CDN, "DescribeDomainTopUrlVisit"),
    (VOD, "DescribeVodDomainBpsData"),
    (VOD, "DescribeVodDomainTrafficData"),
    (VOD, "DescribeVodDomainHitRateData"),
    (VOD, "DescribeVodDomainReqHitRateData"),
    (VOD, "DescribeVodDomainQpsData"),
    (VOD, "DescribeVodDomainSrcBpsData"),
    (VOD, "DescribeVodDomainSrcTrafficData"),
];

fn side(answers: &[(bool, u16, u64, bool)]) -> Side {
    let mut side = Side::default();
    answers.iter().for_each(|(secure, status, bytes, hit)| side.count(*secure, *status, *bytes, *hit));
    side
}

/// Puts figures of `a.com` in the minute that begins so many seconds before the rig's time.
async fn put(rig: &Rig, sequence: u64, ago: u64, region: Region, users: Side, origins: Side) {
    let url = StateUrl::parse(&format!("sqlite:{}", rig._dir.path().join("c.db").display())).unwrap();
    let state = State::open(&url).await.unwrap();
    let at = START.as_secs() - ago;
    let figures = Regional::of(region, Figures { users, origins });
    let minutes = vec![MinuteOf { account: "me".into(), domain: "a.com".into(), minute: at / 60, figures }];
    let mut sketch = Sketch::default();
    sketch.count(Class::Success, Visits { url: "a.com/big".into(), requests: 1, bytes: 900 });
    sketch.count(Class::Success, Visits { url: "a.com/often".into(), requests: 3, bytes: 99 });
    sketch.count(Class::Client, Visits { url: "a.com/often".into(), requests: 1, bytes: 1 });
    let urls = vec![UrlsOf { account: "me".into(), domain: "a.com".into(), origins: false, hour: at / 3600, sketch }];
    let report = FigureReport { node: NodeName::parse("n").unwrap(), boot: 1, sequence, minutes, urls };
    assert_eq!(state.add_figures(&[report], START.as_millis() as u64).await.unwrap().reports, 1);
    state.close().await;
}

/// Action, parameters, and what they are refused with: status, code, text.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str, &'a str);

fn ago(secs: u64) -> String {
    timestamp(SystemTime::UNIX_EPOCH + START - Duration::from_secs(secs))
}

#[tokio::test]
async fn every_action_shows_what_was_counted() {
    let rig = Rig::start("open").await;
    let users = side(&[(false, 200, 600, true), (true, 200, 300, false), (false, 404, 100, false)]);
    let origins = side(&[(false, 200, 300, false), (true, 404, 50, false)]);
    put(&rig, 1, 1_000, Region::Domestic, users, origins).await;
    put(&rig, 2, 900, Region::Overseas, side(&[(true, 206, 1_000, true)]), Side::default()).await;
    // START is 01:00 in UTC+8, so 17:00: both minutes are in the bucket of 16:40, the second one at 16:45.
    let (start, end) = (ago(1_200), ago(0));
    let cases = [
        ("DescribeDomainHitRateData", "HitRateInterval", vec![("Value", "60"), ("HttpsValue", "0")]),
        ("DescribeDomainReqHitRateData", "ReqHitRateInterval", vec![("Value", "33.33"), ("HttpsValue", "0")]),
        (
            "DescribeDomainBpsData",
            "BpsDataPerInterval",
            vec![("Value", "26"), ("DomesticValue", "26"), ("OverseasValue", "0"), ("HttpsValue", "8")],
        ),
        (
            "DescribeDomainTrafficData",
            "TrafficDataPerInterval",
            vec![("Value", "1000"), ("DomesticValue", "1000"), ("OverseasValue", "0"), ("HttpsDomesticValue", "300")],
        ),
        (
            "DescribeDomainQpsData",
            "QpsDataInterval",
            vec![("Value", "0.01"), ("AccValue", "3"), ("HttpsAccValue", "1"), ("AccOverseasValue", "0")],
        ),
        ("DescribeDomainSrcBpsData", "SrcBpsDataPerInterval", vec![("Value", "9"), ("HttpsValue", "1")]),
        ("DescribeDomainSrcTrafficData", "SrcTrafficDataPerInterval", vec![("Value", "350"), ("HttpsValue", "50")]),
        ("DescribeDomainSrcQpsData", "SrcQpsDataPerInterval", vec![("Value", "0")]),
        ("DescribeVodDomainReqHitRateData", "Data", vec![("Value", "33.33")]),
        ("DescribeVodDomainTrafficData", "TrafficDataPerInterval", vec![("Value", "1000")]),
    ];
    for (action, list, expected) in cases {
        let version = if action.contains("Vod") { VOD } else { CDN };
        for domain in [Some("A.com"), None] {
            let mut params = vec![("StartTime", start.as_str()), ("EndTime", &end)];
            params.extend(domain.map(|domain| ("DomainName", domain)));
            let shown = rig.ask(version, action, &params).await.json();
            assert_eq!(shown["DataInterval"], "300", "{shown}");
            assert_eq!((&shown["StartTime"], &shown["EndTime"]), (&start.as_str().into(), &end.as_str().into()));
            let rows = shown[list]["DataModule"].as_array().unwrap_or_else(|| panic!("{action}: {shown}"));
            assert_eq!(rows.len(), 4, "{action}: every bucket up to now: {shown}");
            assert_eq!(rows[0]["TimeStamp"], start.as_str());
            for (field, value) in &expected {
                assert_eq!(rows[0][field], *value, "{action} {field}: {shown}");
            }
            let nothing = rows[3].as_object().unwrap().iter().filter(|(name, _)| *name != "TimeStamp");
            assert!(nothing.into_iter().all(|(_, value)| value == "0"), "{action}: {shown}");
        }
    }
    let day = ago(86_400);
    let whole = [("StartTime", day.as_str()), ("EndTime", &end), ("Interval", "86400"), ("DomainName", "a.com")];
    let codes = rig.ask(CDN, "DescribeDomainHttpCodeData", &whole).await.json();
    let of_today = &codes["HttpCodeData"]["UsageData"][1]["Value"]["CodeProportionData"];
    assert_eq!(of_today[0], serde_json::json!({ "Code": "200", "Count": "2", "Proportion": "50" }), "{codes}");
    assert_eq!(of_today[1], serde_json::json!({ "Code": "206", "Count": "1", "Proportion": "25" }), "{codes}");
    let codes = rig.ask(CDN, "DescribeDomainSrcHttpCodeData", &whole).await.json();
    let of_today = &codes["HttpCodeData"]["UsageData"][1]["Value"]["CodeProportionData"];
    assert_eq!(of_today[1], serde_json::json!({ "Code": "404", "Count": "1", "Proportion": "50" }), "{codes}");
    let traffic = rig.ask(VOD, "DescribeVodDomainTrafficData", &whole).await.json();
    assert_eq!(traffic["TotalTraffic"], "2000");
    let traffic = rig.ask(VOD, "DescribeVodDomainSrcTrafficData", &whole).await.json();
    assert_eq!(traffic["TotalTraffic"], "350");
    for (name, value, expected) in [
        ("LocationNameEn", "overseas", "1000"),
        ("LocationNameEn", "atlantis", "0"),
        ("IspNameEn", "other", "2000"),
        ("IspNameEn", "telecom", "0"),
    ] {
        let params = [&whole[..], &[(name, value)]].concat();
        let shown = rig.ask(CDN, "DescribeDomainTrafficData", &params).await.json();
        assert_eq!(shown["TrafficDataPerInterval"]["DataModule"][1]["Value"], expected, "{value}: {shown}");
    }
}

#[tokio::test]
async fn urls_are_listed_by_class_and_order() {
    let rig = Rig::start("open").await;
    put(&rig, 1, 3_600, Region::Domestic, Side::default(), Side::default()).await;
    put(&rig, 2, 7_200, Region::Domestic, Side::default(), Side::default()).await;
    let ask = async |pairs: &[(&str, &str)]| {
        let params = [&[("DomainName", "a.com")], pairs].concat();
        rig.ask(CDN, "DescribeDomainTopUrlVisit", &params).await.json()
    };
    let start = ago(7_200);
    let shown = ask(&[("StartTime", &start)]).await;
    let row = |url: &str, visits: u64, visit_share: f64, flow: u64, flow_share: f64| {
        serde_json::json!({
            "UrlDetail": url, "VisitData": visits.to_string(), "VisitProportion": visit_share,
            "Flow": flow.to_string(), "FlowProportion": flow_share,
        })
    };
    let (often, big) = ("http://a.com/often", "http://a.com/big");
    let all = [row(often, 8, 80.0, 200, 10.0), row(big, 2, 20.0, 1_800, 90.0)];
    assert_eq!(shown["AllUrlList"]["UrlList"], serde_json::json!(all), "{shown}");
    assert_eq!(shown["Url400List"]["UrlList"], serde_json::json!([row(often, 2, 20.0, 2, 0.1)]), "{shown}");
    assert_eq!(shown["Url500List"]["UrlList"], serde_json::json!([]));
    assert_eq!((&shown["StartTime"], &shown["DomainName"]), (&start.as_str().into(), &"a.com".into()));
    let by_bytes = ask(&[("StartTime", &start), ("SortBy", "traf")]).await;
    assert_eq!(by_bytes["AllUrlList"]["UrlList"][0]["UrlDetail"], big);
    let (from, to) = (ago(3_600), ago(1));
    let one_hour = ask(&[("StartTime", &from), ("EndTime", &to)]).await;
    assert_eq!(one_hour["AllUrlList"]["UrlList"][0]["VisitData"], "4");
    assert_eq!(ask(&[]).await["AllUrlList"]["UrlList"], serde_json::json!([]), "yesterday there was nothing");
    let of_origins =
        rig.ask(CDN, "DescribeDomainSrcTopUrlVisit", &[("DomainName", "a.com"), ("StartTime", &start)]).await;
    assert_eq!(of_origins.json()["AllUrlList"]["UrlList"], serde_json::json!([]));
}

#[tokio::test]
async fn windows_and_domains_are_refused_in_the_words_of_their_page() {
    let rig = Rig::start("open").await;
    let (good, before) = (ago(3_600), ago(7_200));
    let alone = "StartTime and EndTime can not be single.";
    let cases: [Case<'_>; 12] = [
        ("DescribeDomainBpsData", &[("StartTime", &good)], 400, "MissingParameter", alone),
        ("DescribeDomainBpsData", &[("EndTime", &good)], 400, "MissingParameter", alone),
        (
            "DescribeDomainBpsData",
            &[("StartTime", "x"), ("EndTime", &good)],
            400,
            "InvalidStartTime.Malformed",
            "Specified StartTime is malformed.",
        ),
        (
            "DescribeDomainHitRateData",
            &[("StartTime", &good), ("EndTime", "x")],
            400,
            "InvalidEndTime.Malformed",
            "Specified end time is malformed.",
        ),
        (
            "DescribeDomainBpsData",
            &[("StartTime", &good), ("EndTime", &before)],
            400,
            "InvalidEndTime.Mismatch",
            "Specified EndTime does not math the specified StartTime.",
        ),
        (
            "DescribeDomainQpsData",
            &[("StartTime", "2020-01-01T00:00:00Z"), ("EndTime", &before)],
            400,
            "InvalidStartTime.ValueNotSupported",
            "The specified value of parameter StartTime is not supported.",
        ),
        (
            "DescribeDomainQpsData",
            &[("DomainName", "a.com,b.com")],
            404,
            "InvalidDomain.NotFound",
            "The domain provided does not belong to you.",
        ),
        ("DescribeDomainQpsData", &[("DomainName", ",")], 400, "InvalidParameter", ""),
        ("DescribeDomainTopUrlVisit", &[], 400, "MissingParameter", ""),
        (
            "DescribeDomainTopUrlVisit",
            &[("DomainName", "a.com,b.com")],
            400,
            "InvalidDomainName.ValueNotSupported",
            "The specified value of parameter DomainName only support one or empty value.",
        ),
        ("DescribeDomainTopUrlVisit", &[("DomainName", "a.com"), ("SortBy", "x")], 400, "InvalidParameter", ""),
        (
            "DescribeDomainTopUrlVisit",
            &[("DomainName", "a.com"), ("EndTime", &good)],
            400,
            "MissingParameter",
            "The specified value of parameter StartTime is not valid.",
        ),
    ];
    for (action, params, status, code, message) in cases {
        assert_refused(&rig.ask(CDN, action, params).await, status, code, message);
    }
    let many: Vec<String> = (0..501).map(|n| format!("d{n}.com")).collect();
    let answer = rig.ask(CDN, "DescribeDomainBpsData", &[("DomainName", &many.join(","))]).await;
    assert_refused(&answer, 400, "InvalidParameter", "");
}

#[tokio::test]
async fn figures_of_a_domain_stay_with_the_account_that_had_it() {
    let rig = Rig::start("open").await;
    put(&rig, 1, 600, Region::Domestic, side(&[(false, 200, 600, true)]), Side::default()).await;
    assert_eq!(rig.ask(CDN, "DeleteCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    rig.operator.create_account("next", "open", BTreeMap::new(), 0).await.unwrap();
    let key = rig.operator.create_key("next", None).await.unwrap();
    let next = Signer { id: key.id, secret: key.secret.to_string(), token: None };
    let sources = r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#;
    let params = [("DomainName", "a.com"), ("CdnType", "web"), ("Sources", sources)];
    // The name is free once its bytes are gone.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.v1(&next, CDN, "AddCdnDomain", &params, &rig.nonce()).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the name is never free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let total = |answer: Answer| {
        let shown = answer.json();
        let rows = shown["TrafficDataPerInterval"]["DataModule"].as_array().unwrap().clone();
        rows.iter().map(|row| row["Value"].as_str().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    for params in [&[("DomainName", "a.com")][..], &[]] {
        let answer = rig.v1(&next, CDN, "DescribeDomainTrafficData", params, &rig.nonce()).await;
        assert_eq!(total(answer), 0);
    }
    assert_refused(
        &rig.ask(CDN, "DescribeDomainTrafficData", &[("DomainName", "a.com")]).await,
        404,
        "InvalidDomain.NotFound",
        "",
    );
    assert_eq!(total(rig.ask(CDN, "DescribeDomainTrafficData", &[]).await), 600, "it was served for this account");
}
