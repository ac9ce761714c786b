//! Asking for tasks: prefetches URL by URL, histories longer than the vendor's, and the rules of `ObjectPath` to the end.

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn prefetch_is_shown_url_by_url_with_the_exact_cause() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |config| config.prefetch_deadline_secs = 1).await;
    let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(0, 2))]).await.json();
    let task = pushed["PushTaskId"].as_str().unwrap();
    let of = |json: &Value| json["UrlDetails"][0].clone();
    let first = rig.ask(CDN, "DescribePreloadDetailById", &[("TaskId", task)]).await.json();
    assert_eq!((&first["TotalCount"], of(&first)["TaskId"].as_str()), (&1.into(), Some(task)), "{first}");
    assert_eq!(of(&first)["Domain"], "a.com");
    assert_eq!(of(&first)["Urls"][1]["Url"], "http://a.com/1");
    // Nobody is there to take it.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let last = loop {
        let detail = of(&rig.ask(CDN, "DescribePreloadDetailById", &[("TaskId", task)]).await.json());
        if detail["Status"] != "Refreshing" {
            break detail;
        }
        assert_eq!(
            (&detail["RetCode"], &detail["EndTime"], &detail["Urls"][0]["Success"]),
            (&"".into(), &"".into(), &"".into())
        );
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {detail}");
        rig.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((&last["Status"], &last["RetCode"]), (&"Failed".into(), &"502".into()), "{last}");
    let url = serde_json::json!({
        "Url": "http://a.com/0", "Success": "false", "Description": "no live node took it in time",
    });
    assert_eq!(last["Urls"][0], url);
    assert!(last["EndTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{last}");

    let none = rig.ask(CDN, "DescribePreloadDetailById", &[("TaskId", "999")]).await.json();
    assert_eq!((&none["TotalCount"], &none["UrlDetails"]), (&0.into(), &serde_json::json!([])));
    let refreshed = rig.ask(CDN, "RefreshObjectCaches", &[("ObjectPath", "a.com/1")]).await.json();
    let refresh = refreshed["RefreshTaskId"].as_str().unwrap();
    let none = rig.ask(CDN, "DescribePreloadDetailById", &[("TaskId", refresh)]).await.json();
    assert_eq!(none["TotalCount"], 0, "a refresh is no prefetch");
}

#[tokio::test]
async fn history_is_as_long_as_the_operator_wants_it() {
    for (days, shown) in [(3, false), (30, true)] {
        let rig = Rig::with("cdn-2024", &[], 0, |config| config.task_history_days = days).await;
        let now = rig.clock.now();
        let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", "a.com/1")]).await.json();
        assert!(pushed["PushTaskId"].is_string(), "{pushed}");
        rig.clock.advance(20 * DAY);
        let tasks = rig.ask(CDN, "DescribeRefreshTasks", &[]).await.json();
        assert_eq!(tasks["TotalCount"], u64::from(shown), "{days} days: {tasks}");
        let between = [("StartTime", timestamp(now - DAY)), ("EndTime", timestamp(now + DAY))];
        let between: Vec<(&str, &str)> = between.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = rig.ask(CDN, "DescribeRefreshTasks", &between).await;
        if shown {
            assert_eq!(answer.json()["TotalCount"], 1, "{answer:?}");
            rig.clock.advance(20 * DAY);
            let answer = rig.ask(CDN, "DescribeRefreshTasks", &between).await;
            assert_refused(&answer, 400, "InvalidTime", "The query time cannot exceed the last 30 days.");
        } else {
            assert_refused(&answer, 400, "InvalidTime", "The query time cannot exceed the last 3 days.");
        }
    }
}

#[tokio::test]
async fn lines_of_every_costume_become_the_objects_they_mean() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    rig.add_domain(".w.com").await;
    let cases: [(&str, &[&str]); 8] = [
        ("a.com/1\na.com/2\n", &["http://a.com/1", "http://a.com/2"]),
        ("a.com/3\r\n\r\n  a.com/4  \r\n", &["http://a.com/3", "http://a.com/4"]),
        (r"http://a.com/5\nhttps://a.com/6", &["http://a.com/5", "https://a.com/6"]),
        ("http://a.com/7\nhttps://a.com/7\na.com/7", &["http://a.com/7"]), // one object
        ("A.com:80/8\nHTTPS://a.com:443/9", &["http://a.com/8", "https://a.com/9"]),
        ("a.com/中 文.png?a=1&b=~*(x)'!", &["http://a.com/%E4%B8%AD%20%E6%96%87.png?a=1&b=~*(x)'!"]),
        ("a.com/x%2Fy#part", &["http://a.com/x%2Fy"]),
        ("deep.er.w.com/1", &["http://deep.er.w.com/1"]), // under the wildcard domain
    ];
    for (text, expected) in cases {
        let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", text)]).await;
        let task = pushed.json()["PushTaskId"].as_str().unwrap_or_else(|| panic!("{text}: {pushed:?}")).to_owned();
        let by_id = rig.ask(CDN, "DescribeRefreshTaskById", &[("TaskId", &task)]).await.json();
        let shown: Vec<&str> =
            by_id["Tasks"].as_array().unwrap().iter().filter_map(|row| row["ObjectPath"].as_str()).collect();
        assert_eq!(shown, expected, "{text:?}");
        // The next one begins a second, and so a task, of its own.
        rig.clock.advance(Duration::from_secs(1));
    }
}

#[tokio::test]
async fn lines_that_were_escaped_twice_are_what_the_operator_says_they_are() {
    for (unescape, expected) in [(false, "http://a.com/x%3Fa%3D1"), (true, "http://a.com/x?a=1")] {
        let rig = Rig::with("cdn-2024", &[], 0, |config| config.unescape_paths = unescape).await;
        let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", "http://a.com/x%3Fa%3D1")]).await.json();
        let task = pushed["PushTaskId"].as_str().unwrap();
        let tasks = rig.ask(CDN, "DescribeRefreshTasks", &[("TaskId", task)]).await.json();
        assert_eq!(tasks["Tasks"]["CDNTask"][0]["ObjectPath"], expected, "{tasks}");
    }
}
