//! Monitoring data.

use std::time::{Duration, SystemTime};

use aliyun::{
    Call, Fault, FigureQuery, FiguresShown, Profile, Refusal, Reply, Rules, UrlQuery, UrlsShown, Wording, call,
};
use model::Region;
use model::figures::{Class, Figures, Regional, Side, Visits};

use super::common::{now, request};
use super::{Group, facts, text};

pub(crate) const GROUP: Group = Group {
    actions: &[
        "DescribeDomainHitRateData",
        "DescribeDomainReqHitRateData",
        "DescribeDomainBpsData",
        "DescribeDomainTrafficData",
        "DescribeDomainQpsData",
        "DescribeDomainHttpCodeData",
        "DescribeDomainSrcBpsData",
        "DescribeDomainSrcTrafficData",
        "DescribeDomainSrcQpsData",
        "DescribeDomainSrcHttpCodeData",
        "DescribeDomainSrcTopUrlVisit",
        "DescribeDomainTopUrlVisit",
        "DescribeVodDomainBpsData",
        "DescribeVodDomainTrafficData",
        "DescribeVodDomainHitRateData",
        "DescribeVodDomainReqHitRateData",
        "DescribeVodDomainQpsData",
        "DescribeVodDomainSrcBpsData",
        "DescribeVodDomainSrcTrafficData",
    ],
    good,
    others,
    sent_as: |name| name,
    not_alone: &[],
    reply,
    refusals,
    unfilled: &[],
    without_effect: &[("Interval", "it has effect, and a value that is not supported falls back to the default")],
    other_words: &[
        ("InvalidStartTime.Malformed", "Specified start time", "the older translation of a page that has newer words"),
        ("InvalidEndTime.Malformed", "Specified end time", "the older translation of a page that has newer words"),
        (
            "InvalidStartTime.ValueNotSupported",
            "Specified end time",
            "the older translation of a page that has newer words",
        ),
        ("IllegalOperation", "Illegal domain, operation", "a domain of another account is InvalidDomain.NotFound"),
        (
            "MissingParameter",
            "The specified value of parameter \"StartTime\"",
            "an older page of the same, which has quotation marks",
        ),
    ],
};

fn good(action: &str) -> &'static [(&'static str, &'static str)] {
    if action.contains("TopUrl") { &[("DomainName", "a.com"), ("StartTime", YESTERDAY)] } else { WINDOW }
}

const YESTERDAY: &str = "2026-01-01T03:04:05Z";

const WINDOW: &[(&str, &str)] =
    &[("DomainName", "a.com"), ("StartTime", YESTERDAY), ("EndTime", "2026-01-02T03:04:05Z")];

fn others(action: &str, name: &str) -> &'static [&'static str] {
    match name {
        "DomainName" if action == "DescribeDomainTopUrlVisit" => &["b.com"],
        "DomainName" => &["b.com", "a.com,b.com"],
        "StartTime" => &["2026-01-01T05:04:05Z", "2026-01-01T05:04Z"],
        "EndTime" => &["2026-01-02T02:04:05Z", "2026-01-02T02:04Z"],
        "IspNameEn" => &["telecom", "other"],
        "LocationNameEn" => &["overseas", "hangzhou"],
        _ => &[],
    }
}

fn asked(action: &str) -> Call {
    let version = if action.contains("Vod") { "2017-03-21" } else { "2018-05-10" };
    let profile = Profile::named("cdn-2024").expect("a profile");
    call(&request(version, action, good(action)), profile, Rules::default(), now()).expect("a good call")
}

fn reply(action: &str) -> Reply {
    let mut users = Side::default();
    users.count(true, 200, 10, true);
    let figures = Figures { origins: users.clone(), users };
    match asked(action) {
        Call::Figures(query) => {
            let buckets = vec![(1_767_236_400, Regional::of(Region::Domestic, figures))];
            Reply::Figures(Box::new(FiguresShown { query, buckets }))
        }
        Call::TopUrls(query) => {
            let visits = || Visits { url: "a.com/1".to_owned(), requests: 1, bytes: 10 };
            let urls = Class::ALL.map(|class| (class, visits())).into();
            Reply::TopUrls(Box::new(UrlsShown { query, urls }))
        }
        other => panic!("{other:?}"),
    }
}

/// What the windows of every action are refused with, and what concerns domains and accounts.
fn refusals() -> Vec<Refusal> {
    let windows: [&[(&str, &str)]; 6] = [
        &[("EndTime", YESTERDAY)],
        &[("StartTime", "x"), ("EndTime", YESTERDAY)],
        &[("StartTime", YESTERDAY), ("EndTime", "x")],
        &[("StartTime", YESTERDAY), ("EndTime", YESTERDAY)],
        &[("StartTime", "2019-01-01T00:00:00Z"), ("EndTime", "2019-01-02T00:00:00Z")],
        &[("DomainName", "a.com,b.com")],
    ];
    let mut refusals = Vec::new();
    for action in GROUP.actions {
        let version = if action.contains("Vod") { "2017-03-21" } else { "2018-05-10" };
        for window in windows {
            let params = [&[("DomainName", "a.com")][..], window].concat();
            let params: Vec<(&str, &str)> = params
                .iter()
                .enumerate()
                .filter(|(at, (name, _))| !params[at + 1..].iter().any(|(other, _)| name == other))
                .map(|(_, pair)| *pair)
                .collect();
            let profile = Profile::named("cdn-2024").expect("a profile");
            refusals.extend(call(&request(version, action, &params), profile, Rules::default(), now()).err());
        }
    }
    use Fault::{DomainBroken, DomainBusy, DomainOffline, DomainUnknown, NotOpened, Suspended};
    let worded = [DomainBroken, DomainBusy, DomainOffline, DomainUnknown, NotOpened, Suspended];
    refusals.extend(worded.map(|fault| Refusal::of(fault, Wording::Legacy)));
    refusals
}

#[test]
fn pages_with_one_generation_of_words_are_answered_in_them() {
    let facts = facts();
    for action in GROUP.actions {
        let of_action = facts["actions"].as_array().unwrap().iter().find(|facts| text(&facts["action"]) == *action);
        let errors = of_action.unwrap()["errors"].as_array().unwrap();
        let documented = |code: &str| -> Vec<&str> {
            errors.iter().filter(|error| text(&error["code"]) == code).map(|error| text(&error["message"])).collect()
        };
        let version = if action.contains("Vod") { "2017-03-21" } else { "2018-05-10" };
        for params in [
            &[("DomainName", "a.com"), ("StartTime", "x"), ("EndTime", YESTERDAY)],
            &[("DomainName", "a.com"), ("StartTime", YESTERDAY), ("EndTime", "x")],
            &[("DomainName", "a.com"), ("StartTime", YESTERDAY), ("EndTime", YESTERDAY)],
            &[("DomainName", "a.com"), ("StartTime", "2019-01-01T00:00Z"), ("EndTime", "2019-01-02T00:00Z")],
        ] {
            let profile = Profile::named("cdn-2024").expect("a profile");
            let refusal = call(&request(version, action, params), profile, Rules::default(), now()).unwrap_err();
            let words = documented(&refusal.code);
            assert!(
                words.is_empty() || words.contains(&refusal.message.as_str()),
                "{action}: {refusal:?} of {words:?}"
            );
        }
    }
}

#[test]
fn calls_without_a_window_are_about_the_last_day() {
    let profile = Profile::named("cdn-2024").expect("a profile");
    let none =
        |action| call(&request("2018-05-10", action, &[("DomainName", "a.com")]), profile, Rules::default(), now());
    match none("DescribeDomainBpsData") {
        Ok(Call::Figures(FigureQuery { window, .. })) => {
            assert_eq!((window.end, window.end - Duration::from_secs(86_400)), (now(), window.start));
            assert_eq!(window.interval, 300);
        }
        other => panic!("{other:?}"),
    }
    match none("DescribeDomainTopUrlVisit") {
        Ok(Call::TopUrls(UrlQuery { start, end, .. })) => {
            let secs = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            assert_eq!((secs(end) % 86_400, secs(end) - secs(start)), (0, 86_400));
            assert!(end <= now() && now() < end + Duration::from_secs(86_400));
        }
        other => panic!("{other:?}"),
    }
}
