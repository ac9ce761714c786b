//! Quotas and queues by profile: what a day, a minute and the queue have, who shares it, when it comes back.

use super::*;

/// Until the next midnight in UTC+8.
const TO_MIDNIGHT: Duration = Duration::from_secs(23 * 3_600);

#[tokio::test]
async fn each_profile_has_its_quotas_for_each_product() {
    let many = "10000000";
    let cases = [
        // profile   product  prefetch  files    directories  regexes  ignored parameters
        ("cdn-2019", CDN, "2000", "2000", "100", "0", "0"), // one bucket for prefetches and files
        ("cdn-2019", OLD, "2000", "2000", "100", "0", "0"),
        ("cdn-2020", CDN, "500", "2000", "100", "20", "0"),
        ("cdn-2024", CDN, "1000", "10000", "100", "20", "100"),
        ("cdn-2024", OLD, "1000", "10000", "100", "20", "100"), // older words, today's quotas
        ("cdn-2024", VOD, "500", "2000", "100", "20", "100"),   // a service of its own
        ("cdn-2026", CDN, "1000", "10000", "100", "20", "100"),
        ("vod-2021", CDN, "500", "2000", "100", "20", "100"),
        ("open", CDN, many, many, many, many, many),
        ("open", VOD, many, many, many, many, many),
    ];
    for (profile, version, push, url, dir, regex, ignore) in cases {
        let rig = Rig::start(profile).await;
        let vod = version == VOD;
        let action = if vod { "DescribeVodRefreshQuota" } else { "DescribeRefreshQuota" };
        let quota = rig.ask(version, action, &[]).await.json();
        let mut expected = vec![("Preload", push), ("Url", url), ("Dir", dir), ("Block", "0")];
        if !vod {
            expected.extend([("Regex", regex), ("IgnoreParams", ignore)]);
        }
        for (name, most) in expected {
            for field in [format!("{name}Quota"), format!("{name}Remain")] {
                assert_eq!(quota[&field], most, "{profile} {version} {field}");
            }
        }
        assert_eq!(quota["blockRemain"], "0", "as old pages and VOD's model spell it");
    }
}

#[tokio::test]
async fn day_begins_at_midnight_in_utc_plus_8_and_products_do_not_share() {
    let rig = Rig::with("cdn-2024", &[("preload", 5), ("dir", 2)], 0, |_| ()).await;
    let exceeded = "Your preload attempts have exceeded the daily limit.";
    let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 6))]).await;
    assert_refused(&answer, 400, "QuotaExceeded.Preload", exceeded);
    let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 5))]).await;
    assert_eq!(answer.status, 200, "what did not fit was not charged: {answer:?}");
    let one = [("ObjectPath", "http://a.com/x")];
    assert_refused(&rig.ask(CDN, "PushObjectCache", &one).await, 400, "QuotaExceeded.Preload", exceeded);
    assert_eq!(rig.ask(VOD, "PreloadVodObjectCaches", &one).await.status, 200, "VOD has spent nothing yet");
    let remain = |answer: Answer| answer.json()["PreloadRemain"].as_str().unwrap().to_owned();
    assert_eq!(remain(rig.ask(CDN, "DescribeRefreshQuota", &[]).await), "0");
    assert_eq!(remain(rig.ask(VOD, "DescribeVodRefreshQuota", &[]).await), "4", "the operator's limit holds for each");
    let of_user = rig.ask(CDN, "DescribeCdnUserQuota", &[]).await.json();
    assert_eq!((&of_user["PreloadQuota"], &of_user["PreloadRemain"]), (&5.into(), &0.into()), "{of_user}");
    assert_eq!(of_user["RefreshDirRemain"], 2, "{of_user}");

    rig.clock.advance(TO_MIDNIGHT - Duration::from_secs(1));
    assert_eq!(remain(rig.ask(CDN, "DescribeRefreshQuota", &[]).await), "0");
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(remain(rig.ask(CDN, "DescribeRefreshQuota", &[]).await), "5");
}

#[tokio::test]
async fn prefetches_of_2019_spend_what_refreshes_of_files_do() {
    let rig = Rig::with("cdn-2019", &[("url", 10)], 0, |_| ()).await;
    assert_eq!(rig.ask(OLD, "PushObjectCache", &[("ObjectPath", &lines(0, 6))]).await.status, 200);
    let answer = rig.ask(OLD, "RefreshObjectCaches", &[("ObjectPath", &lines(0, 5))]).await;
    let exceeded = "You've exceeded the prescribed refresh limits.";
    assert_refused(&answer, 400, "QuotaExceeded.Refresh", exceeded);
    assert_eq!(rig.ask(OLD, "RefreshObjectCaches", &[("ObjectPath", &lines(0, 4))]).await.status, 200);
    assert_refused(
        &rig.ask(OLD, "PushObjectCache", &[("ObjectPath", "a.com/x")]).await,
        400,
        "QuotaExceeded.Refresh",
        exceeded,
    );
    let quota = rig.ask(OLD, "DescribeRefreshQuota", &[]).await.json();
    assert_eq!((&quota["PreloadRemain"], &quota["UrlRemain"]), (&"0".into(), &"0".into()), "{quota}");
    // No expressions in 2019, nor refreshes that ignore parameters.
    for kind in ["Regex", "IgnoreParams"] {
        let answer = rig.ask(OLD, "RefreshObjectCaches", &[("ObjectPath", "a.com/x"), ("ObjectType", kind)]).await;
        assert_refused(&answer, 400, "QuotaExceeded.Refresh", exceeded);
    }
}

#[tokio::test]
async fn minute_of_a_domain_is_worded_by_generation_and_over_after_a_minute() {
    let cases = [
        ("cdn-2024", "You tried to refresh too frequently; please try again later."),
        ("cdn-2020", "You've exceeded the prescribed refresh limits per minute."),
        ("vod-2021", "You've exceeded the prescribed refresh limits per minute."),
    ];
    for (profile, words) in cases {
        let rig = Rig::start(profile).await;
        rig.add_domain("b.com").await;
        assert_eq!(rig.ask(CDN, "RefreshObjectCaches", &[("ObjectPath", &lines(0, 1000))]).await.status, 200);
        let one = [("ObjectPath", "http://a.com/x")];
        let answer = rig.ask(CDN, "RefreshObjectCaches", &one).await;
        assert_refused(&answer, 400, "QuotaPerMinuteExceeded.Refresh", words);
        let other = [("ObjectPath", "http://b.com/x")];
        assert_eq!(rig.ask(CDN, "RefreshObjectCaches", &other).await.status, 200, "another domain has its own");
        rig.clock.advance(Duration::from_secs(60));
        assert_eq!(rig.ask(CDN, "RefreshObjectCaches", &one).await.status, 200, "{profile}");
    }
}

#[tokio::test]
async fn queue_counts_requests_before_2024_and_urls_since() {
    // Requests: a hundred of them, however many URLs and domains each has.
    for profile in ["cdn-2019", "cdn-2020"] {
        let rig = Rig::with(profile, &[("action_qps", 10_000)], 0, |_| ()).await;
        rig.add_domain("b.com").await;
        for n in 0..100 {
            let two = format!("http://a.com/{n}/1\nhttp://a.com/{n}/2\nhttp://b.com/{n}");
            let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &two)]).await;
            assert_eq!(answer.status, 200, "{profile} {n}: {answer:?}");
        }
        let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", "http://a.com/x")]).await;
        assert_refused(&answer, 403, "PreloadQueueFull", "Preload queue is full, please try again later!");
    }
    let rig = Rig::with("cdn-2024", &[("queue", 150)], 0, |_| ()).await;
    assert_eq!(rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 100))]).await.status, 200);
    let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(100, 51))]).await;
    assert_refused(&answer, 400, "PreloadQueueFull", "Preload queue is full, please try again later.");
    // VOD has a queue of its own.
    assert_eq!(rig.ask(VOD, "PreloadVodObjectCaches", &[("ObjectPath", &lines(100, 100))]).await.status, 200);
    let answer = rig.ask(VOD, "PreloadVodObjectCaches", &[("ObjectPath", &lines(200, 51))]).await;
    assert_refused(&answer, 403, "PreloadQueueFull", "Preload queue is full, please try again later!");
    assert_eq!(rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(100, 50))]).await.status, 200);
}
