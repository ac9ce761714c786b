//! Figures: added once, kept for their time.

use control::state::State;
use control::state::figures::{Added, FigureReport, Grain, MinuteOf, UrlsOf};
use control::state::memory::{Fault, Faults, Memory};
use model::figures::{Class, Figures, Regional, Side, Sketch, Visits};
use model::{NodeName, Region};

/// Noon of a day, in seconds since 1970.
const NOON: u64 = 20_000 * 86_400 + 43_200;

fn counted(region: Region, answers: &[(bool, u16, u64, bool)]) -> Regional {
    let mut users = Side::default();
    for (secure, status, bytes, hit) in answers {
        users.count(*secure, *status, *bytes, *hit);
    }
    Regional::of(region, Figures { users, origins: Side::default() })
}

fn minute(account: &str, domain: &str, at: u64, figures: Regional) -> MinuteOf {
    MinuteOf { account: account.into(), domain: domain.into(), minute: at / 60, figures }
}

fn report(node: &str, boot: u64, sequence: u64, minutes: Vec<MinuteOf>) -> FigureReport {
    FigureReport { node: NodeName::parse(node).unwrap(), boot, sequence, minutes, urls: Vec::new() }
}

async fn sum(state: &State, account: &str, domains: &[&str], grain: Grain) -> Vec<(u64, u64, u64)> {
    let domains: Vec<String> = domains.iter().map(|name| (*name).to_owned()).collect();
    let found = state.figures(account, &domains, grain, 0, u64::MAX >> 1).await.unwrap();
    let row = |(bucket, figures): (u64, Regional)| {
        let all = figures.sum().users.all;
        (bucket - NOON, all.requests, all.bytes)
    };
    found.into_iter().map(row).collect()
}

pub(crate) async fn reports_are_added_once_and_whole(state: &State) {
    let now_ms = (NOON + 900) * 1000;
    let one = || counted(Region::Domestic, &[(false, 200, 10, true)]);
    let first = report(
        "n1",
        7,
        1,
        vec![
            minute("fig", "a.com", NOON, one()),
            minute("fig", "b.com", NOON + 60, one()),
            minute(
                "fig",
                "a.com",
                NOON + 300,
                counted(Region::Overseas, &[(true, 404, 3, false), (true, 200, 2, true)]),
            ),
        ],
    );
    let again = first.clone();
    let second = report("n1", 7, 2, vec![minute("fig", "a.com", NOON, one())]);
    let other_node = report("n2", 7, 1, vec![minute("fig", "a.com", NOON, one())]);
    let added = state.add_figures(&[first, other_node], now_ms).await.unwrap();
    assert_eq!(added, Added { reports: 2, out_of_time: 0 });
    let added = state.add_figures(&[again.clone(), second.clone(), second, again], now_ms).await.unwrap();
    assert_eq!(added.reports, 1, "each number counts once, in one transaction and in several");
    let restarted = report("n1", 9, 1, vec![minute("fig", "b.com", NOON, one())]);
    assert_eq!(state.add_figures(std::slice::from_ref(&restarted), now_ms).await.unwrap().reports, 1);
    let late = report("n1", 7, 2, vec![minute("fig", "a.com", NOON, one())]);
    assert_eq!(state.add_figures(&[late, restarted], now_ms).await.unwrap().reports, 0, "whichever start it is of");

    let a = [(0, 3, 30), (300, 2, 5)];
    assert_eq!(sum(state, "fig", &["a.com"], Grain::Minute).await, a);
    assert_eq!(sum(state, "fig", &["a.com"], Grain::FiveMinutes).await, a);
    assert_eq!(sum(state, "fig", &["a.com"], Grain::Hour).await, [(0, 5, 35)]);
    assert_eq!(sum(state, "fig", &["b.com"], Grain::Minute).await, [(0, 1, 10), (60, 1, 10)]);
    assert_eq!(sum(state, "fig", &["a.com", "b.com"], Grain::Hour).await, [(0, 7, 55)]);
    assert_eq!(sum(state, "fig", &[], Grain::Hour).await, [(0, 7, 55)], "all of the account's");
    assert_eq!(sum(state, "other", &["a.com"], Grain::Hour).await, []);
    assert_eq!(sum(state, "other", &[], Grain::Hour).await, []);

    let day = Grain::Day.bucket(NOON);
    let found = state.figures("fig", &["a.com".to_owned()], Grain::Day, day, day + 1).await.unwrap();
    let whole = &found[&day];
    assert_eq!(whole.domestic.users.all.requests, 3);
    assert_eq!(whole.overseas.users.secure.bytes, 5);
    assert_eq!(whole.sum().users.codes, [(200, 4), (404, 1)].into());
    assert!(state.figures("fig", &[], Grain::Day, day + 1, day + 86_401).await.unwrap().is_empty());
}

pub(crate) async fn urls_of_hours_are_added_up(state: &State) {
    let list = |hour, origins, urls: &[(Class, &str, u64)]| {
        let mut sketch = Sketch::default();
        for (class, url, requests) in urls {
            sketch.count(*class, Visits { url: (*url).into(), requests: *requests, bytes: 10 * requests });
        }
        UrlsOf { account: "fig".into(), domain: "a.com".into(), origins, hour, sketch }
    };
    let noon = NOON / 3600;
    let with = |sequence, urls| FigureReport { urls, ..report("n3", 7, sequence, Vec::new()) };
    let success = Class::Success;
    let reports = [
        with(1, vec![list(noon, false, &[(success, "a.com/1", 2), (Class::Client, "a.com/2", 1)])]),
        with(2, vec![list(noon, false, &[(success, "a.com/1", 3)]), list(noon + 1, true, &[(success, "a.com/3", 4)])]),
    ];
    state.add_figures(&reports, (NOON + 3_700) * 1000).await.unwrap();
    let found = state.figure_urls("fig", &["a.com".to_owned()], false, NOON, NOON + 1).await.unwrap();
    let visits: Vec<_> =
        found.iter().flat_map(Sketch::visits).map(|(class, v)| (class, v.url.as_str(), v.requests)).collect();
    assert_eq!(visits, [(success, "a.com/1", 5), (Class::Client, "a.com/2", 1)]);
    let hours = async |origins, from, to| {
        state.figure_urls("fig", &["b.com".to_owned(), "a.com".to_owned()], origins, from, to).await.unwrap().len()
    };
    assert_eq!(hours(true, NOON, NOON + 3_600).await, 0);
    assert_eq!(hours(true, NOON, NOON + 3_601).await, 1);
    assert_eq!(hours(false, NOON, NOON + 7_200).await, 1);
    assert!(state.figure_urls("other", &["a.com".to_owned()], false, 0, u64::MAX >> 1).await.unwrap().is_empty());
}

pub(crate) async fn what_is_past_its_time_goes_by_length(state: &State) {
    let one = || counted(Region::Domestic, &[(false, 200, 1, false)]);
    let now = NOON + 400 * 86_400;
    // Minutes of 1 day, 20, 100 and 300 days ago, of too long ago, and of tomorrow.
    let days = [1, 20, 100, 300, 400];
    let mut minutes: Vec<MinuteOf> =
        days.iter().map(|ago| minute("past", "a.com", now - ago * 86_400, one())).collect();
    minutes.push(minute("past", "a.com", now + 86_400, one()));
    let added = state.add_figures(&[report("n4", 1, 1, minutes)], now * 1000).await.unwrap();
    assert_eq!(added, Added { reports: 1, out_of_time: 2 });
    let count = async |grain| sum(state, "past", &["a.com"], grain).await.len();
    let counts = async || {
        [count(Grain::Minute).await, count(Grain::FiveMinutes).await, count(Grain::Hour).await, count(Grain::Day).await]
    };
    assert_eq!(counts().await, [1, 2, 3, 4], "each for its own time");
    // What was there before is of 400 days ago.
    assert!(state.forget_figures(now * 1000).await.unwrap() > 0);
    assert_eq!(sum(state, "fig", &["a.com"], Grain::Day).await, []);
    assert_eq!(counts().await, [1, 2, 3, 4]);
    state.forget_figures((now + 2 * 86_400) * 1000).await.unwrap();
    assert_eq!(counts().await, [0, 2, 3, 4]);
    state.forget_figures((now + 40 * 86_400) * 1000).await.unwrap();
    assert_eq!(counts().await, [0, 0, 3, 4]);
    assert_eq!(state.forget_figures((now + 40 * 86_400) * 1000).await.unwrap(), 0, "what is forgotten is gone");
}

#[tokio::test]
async fn report_whose_transaction_fails_is_added_when_it_comes_again() {
    let memory = Memory::default();
    let faults = Faults::default();
    let state = memory.open(&faults);
    let reports =
        [report("n1", 1, 1, vec![minute("me", "a.com", NOON, counted(Region::Domestic, &[(false, 200, 5, true)]))])];
    for fault in [Fault::BeforeCommit, Fault::AfterCommit] {
        faults.push(fault);
        assert!(state.add_figures(&reports, NOON * 1000).await.is_err());
    }
    assert_eq!(
        state.add_figures(&reports, NOON * 1000).await.unwrap().reports,
        0,
        "it had been, though nobody was told"
    );
    assert_eq!(sum(&state, "me", &["a.com"], Grain::Minute).await, [(0, 1, 5)]);
}
