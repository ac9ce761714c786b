//! Counting, reporting and bounds of figures, on time that tests move.

use std::collections::BTreeSet;

use model::figures::{SKETCH_URLS_MAX, Tally};
use model::{
    Clock, Coverage, Domain, DomainName, Entry, Isolation, Knowledge, LogId, ManualClock, NodeName, Revision, Source,
    SourceKind,
};

use super::*;

const START: Duration = Duration::from_secs(1_782_752_400);

fn domain(name: &str) -> Domain {
    let source = Source {
        kind: SourceKind::Address,
        content: "127.0.0.1".into(),
        port: 80,
        scheme: None,
        priority: 20,
        weight: 10,
    };
    Domain {
        name: DomainName::parse(name).unwrap(),
        coverage: Coverage::Global,
        sources: vec![source],
        online: true,
        tag_header: None,
        functions: Default::default(),
    }
}

/// A node that knows domains, at revision one.
fn knowing(names: &[&str]) -> Knowing {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(UNIX_EPOCH + START));
    let knowing = Knowing::new(NodeName::parse("n").unwrap(), Isolation::Revalidate, clock, None);
    let mut knowledge = Knowledge::default();
    names.iter().for_each(|name| knowledge.apply(&Entry::Domain(domain(name))));
    knowing.skip_to(Revision(1), knowledge);
    knowing
}

fn slot(knowing: &Knowing, name: &str) -> Slot {
    let known = knowing.known();
    known.sites.slot(known.knowledge.domain(name).unwrap()).unwrap()
}

fn figures() -> Figures {
    Figures::new(UNIX_EPOCH + START)
}

/// A request for a path of `a.com`, so many seconds after the start.
fn count(figures: &Figures, slot: Slot, after: u64, path: &str, status: u16, bytes: u64) {
    let url = UrlKey::new("a.com", path).unwrap();
    let at = UNIX_EPOCH + START + Duration::from_secs(after);
    let hit = status == 200;
    figures.count(&Ended { slot, url: &url, at, origin: false, secure: false, status, bytes, hit });
}

/// What a report says of domains: name, minutes after the start, requests and bytes.
fn rows(report: &link::Figures) -> Vec<(&str, u64, u64, u64)> {
    let row = |minute: &'_ link::MinuteFigures| {
        let tally: Tally = minute.figures().unwrap().users.all;
        (minute.minute - START.as_secs() / 60, tally.requests, tally.bytes)
    };
    let named = |minute| {
        let (at, requests, bytes) = row(minute);
        (minute.domain.as_str(), at, requests, bytes)
    };
    report.minutes.iter().map(named).collect()
}

fn taken(report: &link::Figures) -> FiguresTaken {
    FiguresTaken { boot: report.boot, sequence: report.sequence }
}

#[tokio::test(start_paused = true)]
async fn what_threads_counted_is_reported_once_by_domain_and_minute() {
    let (knowing, figures) = (knowing(&["a.com", "b.com"]), figures());
    let (a, b) = (slot(&knowing, "a.com"), slot(&knowing, "b.com"));
    std::thread::scope(|scope| {
        for _ in 0..2 * SHARDS {
            scope.spawn(|| {
                for n in 0..100 {
                    count(&figures, a, 59, "/x", 200, 10);
                    count(&figures, a, 60, "/y?n=1", 404, n);
                    count(&figures, b, 0, "/z", 200, 1);
                }
            });
        }
    });
    let threads = 2 * SHARDS as u64;
    let began = Instant::now();
    let report = figures.report(&knowing).await;
    assert_eq!(began.elapsed(), REPORT_EVERY);
    let expected = [
        ("a.com", 0, 100 * threads, 1_000 * threads),
        ("a.com", 1, 100 * threads, 4_950 * threads),
        ("b.com", 0, 100 * threads, 100 * threads),
    ];
    assert_eq!(rows(&report), expected);
    assert!(report.urls.is_empty(), "lists of URLs come less often");
    figures.take(taken(&report));
    let report = figures.report(&knowing).await;
    assert_eq!(began.elapsed(), URLS_EVERY);
    let (figures_of, lists) = (rows(&report), &report.urls);
    assert_eq!(figures_of, [], "what was taken is not reported again");
    let urls: Vec<_> =
        lists.iter().flat_map(|list| list.urls.iter().map(|url| (url.url.as_str(), url.class, url.requests))).collect();
    let all = 100 * threads;
    assert_eq!(urls, [("a.com/x", 2, all), ("a.com/y", 4, all), ("a.com/z", 2, all)], "without their queries");
}

#[tokio::test(start_paused = true)]
async fn report_that_is_not_taken_is_sent_again_as_it_is() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    let a = slot(&knowing, "a.com");
    count(&figures, a, 0, "/x", 200, 10);
    let first = figures.report(&knowing).await;
    count(&figures, a, 0, "/x", 200, 5);
    let sent = Instant::now();
    assert_eq!(figures.report(&knowing).await, first, "after a while");
    assert_eq!(sent.elapsed(), AGAIN_AFTER);
    figures.connected(true);
    assert_eq!(figures.report(&knowing).await, first, "at once on a new connection");
    assert_eq!(sent.elapsed(), AGAIN_AFTER);
    figures.take(FiguresTaken { boot: first.boot, sequence: first.sequence + 1 });
    figures.take(FiguresTaken { boot: first.boot + 1, sequence: first.sequence });
    figures.connected(true);
    assert_eq!(figures.report(&knowing).await, first, "another answer is none");
    figures.take(taken(&first));
    let second = figures.report(&knowing).await;
    assert_eq!((second.sequence, rows(&second)), (first.sequence + 1, vec![("a.com", 0, 1, 5)]));
}

#[tokio::test(start_paused = true)]
async fn more_than_a_report_holds_goes_in_several() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    let a = slot(&knowing, "a.com");
    let minutes = FIGURES_ROWS_MAX as u64 + 10;
    (0..minutes).for_each(|minute| count(&figures, a, 60 * minute, "/x", 200, 1));
    let mut seen = Vec::new();
    let began = Instant::now();
    while seen.len() < minutes as usize {
        let report = figures.report(&knowing).await;
        assert!(report.minutes.len() <= FIGURES_ROWS_MAX);
        seen.extend(rows(&report).iter().map(|row| row.1));
        figures.take(taken(&report));
    }
    assert_eq!(seen, (0..minutes).collect::<Vec<_>>(), "the oldest first");
    assert_eq!(began.elapsed(), REPORT_EVERY, "without a pause between them");
}

#[tokio::test(start_paused = true)]
async fn minutes_are_bounded_and_become_hours_before_they_are_dropped() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    let a = slot(&knowing, "a.com");
    let half = ROWS_MAX as u64 / 2;
    (0..half).for_each(|minute| count(&figures, a, 60 * minute, "/x", 200, 1));
    // START is a full hour: half a piece of minutes, then hours.
    assert_eq!(START.as_secs() % 3_600, 0);
    (0..half * 60).for_each(|minute| count(&figures, a, 60 * (half.next_multiple_of(60) + minute), "/x", 200, 1));
    assert_eq!(figures.dropped.get(), 0);
    count(&figures, a, 3_600 * (half * 3), "/x", 200, 1);
    count(&figures, a, 0, "/x", 200, 1);
    assert_eq!(figures.dropped.get(), 1, "what has a row is counted still");
    let mut requests = 0;
    while requests < half + half * 60 + 1 {
        let report = figures.report(&knowing).await;
        requests += rows(&report).iter().map(|row| row.2).sum::<u64>();
        figures.take(taken(&report));
    }
    assert_eq!(requests, half + half * 60 + 1);
}

#[tokio::test(start_paused = true)]
async fn minutes_are_bounded_though_reports_are_taken_more_slowly_than_minutes_come() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    let a = slot(&knowing, "a.com");
    // Each thread counts into a piece of its own, and every connection is lost after one report.
    let fill = |connection: usize| {
        let figures = &figures;
        std::thread::scope(|scope| {
            for thread in 0..SHARDS {
                let first = (connection * SHARDS + thread) * ROWS_MAX;
                let hours = (first..first + ROWS_MAX).map(|hour| 3_600 * hour as u64);
                scope.spawn(move || hours.for_each(|after| count(figures, a, after, "/x", 200, 1)));
            }
        });
    };
    for connection in 0..3 {
        fill(connection);
        figures.connected(true);
        let report = figures.report(&knowing).await;
        assert_eq!(report.minutes.len(), FIGURES_ROWS_MAX);
        figures.take(taken(&report));
        assert!(figures.outgoing().minutes.len() <= OUTGOING_MAX);
    }
    // What is left out is counted, everything else is reported.
    let mut requests = 3 * FIGURES_ROWS_MAX as u64;
    while !figures.is_empty() {
        let report = figures.report(&knowing).await;
        requests += rows(&report).iter().map(|row| row.2).sum::<u64>();
        figures.take(taken(&report));
    }
    assert_eq!(requests + figures.dropped.get(), (3 * SHARDS * ROWS_MAX) as u64);
}

#[tokio::test(start_paused = true)]
async fn urls_are_bounded_and_long_ones_left_out() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    let a = slot(&knowing, "a.com");
    count(&figures, a, 0, &format!("/{}", "x".repeat(SKETCH_URL_BYTES_MAX)), 200, 1);
    for hour in 0..(URLS_MAX / SKETCH_URLS_MAX + 2) as u64 {
        (0..SKETCH_URLS_MAX + 5).for_each(|n| count(&figures, a, 3_600 * hour, &format!("/{n}"), 200, 1));
    }
    figures.connected(true);
    figures.flush(Duration::from_millis(5)).await;
    assert!(figures.urls().count <= URLS_MAX);
    let mut lists = 0;
    let mut report = figures.report(&knowing).await;
    loop {
        assert!(report.urls.iter().map(|list| list.urls.len()).sum::<usize>() <= FIGURES_URLS_MAX);
        lists += report.urls.len();
        figures.take(taken(&report));
        if figures.is_empty() {
            break;
        }
        report = figures.report(&knowing).await;
    }
    assert_eq!(lists, URLS_MAX / SKETCH_URLS_MAX);
    assert!(figures.urls_dropped.get() > 0);
}

#[tokio::test(start_paused = true)]
async fn node_that_stops_waits_until_all_is_taken_but_not_for_ever() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    let a = slot(&knowing, "a.com");
    count(&figures, a, 0, "/x", 200, 1);
    let began = Instant::now();
    figures.flush(Duration::from_secs(2)).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "there is nobody to take it");
    figures.connected(true);
    figures.flush(Duration::from_secs(2)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2), "nobody takes it");
    let taking = async {
        loop {
            let report = figures.report(&knowing).await;
            assert_eq!((report.minutes.len(), report.urls.len()), (1, 1), "URLs come along");
            figures.take(taken(&report));
        }
    };
    tokio::select! {
        () = taking => unreachable!("it goes on"),
        () = figures.flush(Duration::from_secs(2)) => {}
    }
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn domain_that_came_again_is_another() {
    let (knowing, figures) = (knowing(&["a.com", "b.com"]), figures());
    let (first, other) = (slot(&knowing, "a.com"), slot(&knowing, "b.com"));
    let held = knowing.known().knowledge.shared_domain_for("a.com").unwrap().clone();
    count(&figures, first, 0, "/x", 200, 1);
    let mut offline = domain("a.com");
    offline.online = false;
    knowing.apply(Revision(2), &[Entry::Domain(offline.clone())]);
    assert_eq!(slot(&knowing, "a.com"), first, "it changed, and is the same");
    assert_eq!(knowing.known().sites.slot(&held), Some(first), "for who asked before as well");
    let name = offline.name.clone();
    knowing.apply(Revision(3), &[Entry::DomainRemoved(name), Entry::Domain(offline)]);
    let second = slot(&knowing, "a.com");
    assert!(second != first && slot(&knowing, "b.com") == other);
    assert_eq!(knowing.known().sites.slot(&held), Some(first), "who asked before asked the other");
    count(&figures, second, 0, "/x", 200, 10);
    let report = figures.report(&knowing).await;
    let said: Vec<_> = report.minutes.iter().map(|minute| (minute.domain.as_str(), minute.revision)).collect();
    assert_eq!(said, [("a.com", 1), ("a.com", 4)]);
    drop(held);
    let removed = BTreeSet::new();
    let known = knowing.known();
    let again = known.sites.next(&known.knowledge, &known.knowledge, &removed, Revision(5));
    assert_eq!(again.slot(known.knowledge.domain("a.com").unwrap()), Some(second));
}

#[tokio::test(start_paused = true)]
async fn what_was_counted_by_another_log_is_left_out() {
    let (knowing, figures) = (knowing(&["a.com"]), figures());
    count(&figures, slot(&knowing, "a.com"), 0, "/x", 200, 1);
    let knowledge = knowing.known().knowledge.clone();
    knowing.join(LogId("other".into()), String::new(), Revision(1), knowledge).await;
    count(&figures, slot(&knowing, "a.com"), 0, "/x", 200, 10);
    assert_eq!(rows(&figures.report(&knowing).await), [("a.com", 0, 1, 10)]);
    assert_eq!(figures.dropped.get(), 1);
}
