//! Steering of prefetches as clients do it: signed calls over the socket, and what other calls show of it.

use super::*;

const PAUSE: &str = "PausePreloadTask";
const RESUME: &str = "ResumePreloadTask";
const CANCEL: &str = "CancelPreloadTask";
const PRIORITY: &str = "SetPreloadTaskPriority";

async fn push(rig: &Rig, from: usize, params: &[(&str, &str)]) -> String {
    let lines = lines(from, 2);
    let params = [&[("ObjectPath", lines.as_str())], params].concat();
    let pushed = rig.ask(CDN, "PushObjectCache", &params).await;
    // The next one begins a second, and so a task, of its own.
    rig.clock.advance(Duration::from_secs(1));
    pushed.json()["PushTaskId"].as_str().unwrap_or_else(|| panic!("{pushed:?}")).to_owned()
}

/// States and descriptions of the lines of a task.
async fn shown(rig: &Rig, task: &str) -> Vec<(String, String)> {
    let tasks = rig.ask(CDN, "DescribeRefreshTaskById", &[("TaskId", task)]).await.json();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let rows = tasks["Tasks"].as_array().unwrap();
    rows.iter().map(|row| (text(row, "Status"), text(row, "Description"))).collect()
}

/// Waits until the first line of a task is in this state.
async fn until_shown(rig: &Rig, task: &str, status: &str) -> String {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let lines = shown(rig, task).await;
        if lines[0].0 == status {
            return lines[0].1.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {status}: {lines:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn cancelled_task_has_failed_at_once_and_says_why() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let (one, two) = (push(&rig, 0, &[]).await, push(&rig, 2, &[]).await);
    let answer = rig.ask(CDN, CANCEL, &[("TaskId", &one)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let expected = serde_json::json!({ "Task": [{ "TaskId": one, "Urls": 2 }] });
    assert_eq!(answer.json()["Tasks"], expected);
    let cancelled = ("Failed".to_owned(), "cancelled before it was done".to_owned());
    assert_eq!(shown(&rig, &one).await, [cancelled.clone(), cancelled]);
    assert_eq!(shown(&rig, &two).await[0].0, "Refreshing");
    let detail = rig.ask(CDN, "DescribePreloadDetailById", &[("TaskId", &one)]).await.json();
    assert_eq!(detail["UrlDetails"][0]["Status"], "Failed", "{detail}");
    assert_eq!(detail["UrlDetails"][0]["Urls"][1]["Description"], "cancelled before it was done");

    // What it cost of the day is spent.
    let quota = rig.ask(CDN, "DescribeRefreshQuota", &[]).await.json();
    let number = |name: &str| quota[name].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(number("PreloadQuota") - number("PreloadRemain"), 4);

    // All of a call or nothing of it.
    for action in [CANCEL, PAUSE, RESUME] {
        let answer = rig.ask(CDN, action, &[("TaskId", &format!("{two},{one}"))]).await;
        assert_refused(&answer, 400, "TaskEnded", "The specified task has ended.");
        let answer = rig.ask(CDN, action, &[("TaskId", &format!("{two},999"))]).await;
        assert_refused(&answer, 404, "InvalidTaskId.NotFound", "The specified task does not exist. (no prefetch 999)");
    }
    assert_eq!(shown(&rig, &two).await[0].0, "Refreshing");

    // Of both products, and under the rules of ids.
    assert_eq!(rig.ask(VOD, CANCEL, &[("TaskId", &two)]).await.status, 200);
    assert_eq!(shown(&rig, &two).await[0].0, "Failed");
    let eleven = (1..=11).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    assert_refused(&rig.ask(CDN, CANCEL, &[("TaskId", &eleven)]).await, 400, "InvalidTaskId.Malformed", "");
    assert_refused(&rig.ask(CDN, CANCEL, &[]).await, 400, "MissingParameter", "");
    let refreshed = rig.ask(CDN, "RefreshObjectCaches", &[("ObjectPath", "a.com/1")]).await.json();
    let refresh = refreshed["RefreshTaskId"].as_str().unwrap();
    let answer = rig.ask(CDN, CANCEL, &[("TaskId", refresh)]).await;
    assert_refused(&answer, 404, "InvalidTaskId.NotFound", "");
    assert_refused(&rig.ask(OLD, CANCEL, &[("TaskId", &one)]).await, 404, "InvalidAction.NotFound", "");
}

#[tokio::test]
async fn tasks_of_a_domain_that_is_deleted_have_failed_and_do_not_come_back_with_its_name() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let later = timestamp(rig.clock.now() + Duration::from_secs(86_400));
    let (paused, put_off) = (push(&rig, 0, &[]).await, push(&rig, 2, &[("NotBefore", &later)]).await);
    assert_eq!(rig.ask(CDN, PAUSE, &[("TaskId", &paused)]).await.status, 200);
    assert_eq!(rig.ask(CDN, "DeleteCdnDomain", &[("DomainName", "a.com")]).await.status, 200);
    let cancelled = ("Failed".to_owned(), "cancelled before it was done".to_owned());
    for task in [&paused, &put_off] {
        assert_eq!(shown(&rig, task).await, [cancelled.clone(), cancelled.clone()]);
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.ask(CDN, "DescribeCdnDomainDetail", &[("DomainName", "a.com")]).await.status != 404 {
        assert!(tokio::time::Instant::now() < deadline, "the name never was free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.add_domain("a.com").await;
    rig.clock.advance(Duration::from_secs(86_400));
    for task in [&paused, &put_off] {
        assert_refused(&rig.ask(CDN, RESUME, &[("TaskId", task)]).await, 400, "TaskEnded", "");
        assert_eq!(shown(&rig, task).await[0], cancelled);
    }
}

#[tokio::test]
async fn deadline_counts_only_while_a_task_may_run() {
    let set = |config: &mut ControlConfig| config.prefetch_deadline_secs = 100;
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, set).await;
    let later = timestamp(rig.clock.now() + Duration::from_secs(1_000));
    let (paused, put_off) = (push(&rig, 0, &[]).await, push(&rig, 2, &[("NotBefore", &later)]).await);
    let plain = push(&rig, 4, &[]).await;
    assert_eq!(rig.ask(CDN, PAUSE, &[("TaskId", &paused)]).await.status, 200);
    rig.clock.advance(Duration::from_secs(200));
    // Nobody is there to take anything.
    until_shown(&rig, &plain, "Failed").await;
    assert_eq!(shown(&rig, &paused).await[0].0, "Refreshing");
    assert_eq!(shown(&rig, &put_off).await[0].0, "Refreshing");

    assert_eq!(rig.ask(CDN, RESUME, &[("TaskId", &paused)]).await.status, 200);
    rig.clock.advance(Duration::from_secs(50));
    assert_eq!(shown(&rig, &paused).await[0].0, "Refreshing", "a few seconds were spent before the pause");
    rig.clock.advance(Duration::from_secs(60));
    assert_eq!(until_shown(&rig, &paused, "Failed").await, "no live node took it in time");
    rig.clock.advance(Duration::from_secs(1_000));
    assert_eq!(until_shown(&rig, &put_off, "Failed").await, "no live node took it in time");
}

#[tokio::test]
async fn parameters_of_steering_are_read_or_refused_by_name() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    let far = timestamp(rig.clock.now() + Duration::from_secs(31 * 86_400));
    let cases =
        [("Priority", "0"), ("Priority", "10"), ("Priority", "high"), ("NotBefore", "soon"), ("NotBefore", &far)];
    for (name, value) in cases {
        let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", "a.com/1"), (name, value)]).await;
        assert_refused(&answer, 400, "InvalidParameter", &format!("The specified parameter {name} is not valid"));
    }
    let task = push(&rig, 0, &[("Priority", "9"), ("NotBefore", "2020-01-01T00:00:00Z")]).await;
    assert_eq!(rig.ask(CDN, PRIORITY, &[("TaskId", &task), ("Priority", "1")]).await.status, 200);
    let answer = rig.ask(CDN, PRIORITY, &[("TaskId", &task), ("Priority", "11")]).await;
    assert_refused(&answer, 400, "InvalidParameter", "");
    assert_refused(&rig.ask(CDN, PRIORITY, &[("TaskId", &task)]).await, 400, "MissingParameter", "");
}

#[tokio::test]
async fn paused_tasks_count_for_the_queue_and_cancelled_ones_make_room() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000), ("queue", 4)], 0, |_| ()).await;
    let soon = timestamp(rig.clock.now() + Duration::from_secs(60));
    let (one, two) = (push(&rig, 0, &[]).await, push(&rig, 2, &[("NotBefore", &soon)]).await);
    assert_eq!(rig.ask(CDN, PAUSE, &[("TaskId", &format!("{one},{two}"))]).await.status, 200);
    let answer = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(4, 1))]).await;
    assert_eq!(answer.words().1, "PreloadQueueFull", "{answer:?}");
    assert_eq!(rig.ask(CDN, CANCEL, &[("TaskId", &one)]).await.status, 200);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rig.ask(CDN, "PushObjectCache", &[("ObjectPath", &lines(4, 1))]).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "there never was room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn steering_asks_for_the_domains_of_its_tasks_and_is_recorded() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |_| ()).await;
    rig.add_domain("b.com").await;
    let a = push(&rig, 0, &[]).await;
    let pushed = rig.ask(CDN, "PushObjectCache", &[("ObjectPath", "b.com/1")]).await.json();
    let b = pushed["PushTaskId"].as_str().unwrap();
    let policy =
        r#"{"Version":"1","Statement":{"Effect":"Allow","Action":"cdn:*","Resource":"acs:cdn:*:me:domain/a.com"}}"#;
    let key = rig.key_with(policy).await;
    for (tasks, status) in [(b.to_owned(), 403), (format!("{a},{b}"), 403), (a.clone(), 200)] {
        let answer = rig.v1(&key, CDN, CANCEL, &[("TaskId", &tasks)], &rig.nonce()).await;
        assert_eq!(answer.status, status, "{tasks}: {answer:?}");
    }
    assert_eq!(shown(&rig, b).await[0].0, "Refreshing");
    // Its nonce is spent for good.
    let answer = rig.v1(&rig.key, CDN, PAUSE, &[("TaskId", b)], "once").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = rig.v1(&rig.key, CDN, PAUSE, &[("TaskId", b)], "once").await;
    assert_refused(&answer, 400, "SignatureNonceUsed", "");
    let log = rig.ask(CDN, "DescribeAuditLog", &[("EventAction", CANCEL)]).await.json();
    let events = log["Events"]["Event"].as_array().unwrap();
    let told: Vec<(&str, &str)> = events
        .iter()
        .map(|event| (event["Outcome"].as_str().unwrap(), event["Parameters"]["TaskId"].as_str().unwrap()))
        .collect();
    assert_eq!(told[0], ("OK", a.as_str()));
    assert!(told[1..].iter().all(|(outcome, _)| *outcome == "Forbidden.RAM"), "{told:?}");
}

#[tokio::test]
async fn task_is_shown_whole_as_it_is_steered() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 10_000)], 0, |config| config.prefetch_deadline_secs = 10).await;
    let later = timestamp(rig.clock.now() + Duration::from_secs(100));
    let task = push(&rig, 0, &[("Priority", "7"), ("NotBefore", &later)]).await;
    let whole = async |params: &[(&str, &str)]| {
        let answer = rig.ask(CDN, "DescribePreloadTask", &[&[("TaskId", task.as_str())], params].concat()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let first = whole(&[]).await;
    assert_eq!((&first["State"], &first["Priority"]), (&"waiting".into(), &7.into()), "{first}");
    assert_eq!((&first["NotBefore"], &first["PausedTime"]), (&later.as_str().into(), &"".into()));
    assert_eq!(
        (&first["Status"], &first["Process"], &first["TotalCount"]),
        (&"Refreshing".into(), &"0%".into(), &2.into())
    );
    assert_eq!(first["Urls"]["Url"][1]["Url"], "http://a.com/1");
    let second = whole(&[("PageNumber", "2"), ("PageSize", "1")]).await;
    assert_eq!(second["Urls"]["Url"].as_array().unwrap().len(), 1);
    assert_eq!(second["Urls"]["Url"][0]["Url"], "http://a.com/1");

    rig.ask(CDN, PAUSE, &[("TaskId", &task)]).await;
    let paused = timestamp(rig.clock.now());
    rig.clock.advance(Duration::from_secs(1_000));
    let now = whole(&[]).await;
    assert_eq!((&now["State"], &now["NotBefore"]), (&"paused".into(), &"".into()), "{now}");
    assert_eq!(now["PausedTime"], paused.as_str());
    rig.ask(CDN, RESUME, &[("TaskId", &task)]).await;
    assert_eq!(whole(&[]).await["State"], "running");
    rig.clock.advance(Duration::from_secs(20));
    until_shown(&rig, &task, "Failed").await;
    let ended = whole(&[]).await;
    assert_eq!((&ended["State"], &ended["Status"]), (&"ended".into(), &"Failed".into()), "{ended}");
    let job = &ended["Urls"]["Url"][0]["Jobs"]["Job"][0];
    assert_eq!((&job["Cause"], &job["HttpStatus"]), (&"no live node took it in time".into(), &Value::Null), "{ended}");
    assert!(job["FailedTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{ended}");

    let cancelled = push(&rig, 2, &[]).await;
    rig.ask(CDN, CANCEL, &[("TaskId", &cancelled)]).await;
    let answer = rig.ask(VOD, "DescribePreloadTask", &[("TaskId", &cancelled)]).await.json();
    assert_eq!(
        (&answer["State"], &answer["Urls"]["Url"][0]["Status"]),
        (&"cancelled".into(), &"Failed".into()),
        "{answer}"
    );
    assert_refused(&rig.ask(CDN, "DescribePreloadTask", &[("TaskId", "999")]).await, 404, "InvalidTaskId.NotFound", "");
}
