//! Steering on the command line, against a simulated service.

use super::*;

#[tokio::test]
async fn tasks_are_steered_ten_at_a_time() {
    let ids: Vec<String> = (1..=12).map(|id| id.to_string()).collect();
    let cases: [(&[&str], &str, Option<&str>); 4] = [
        (&["pause"], "PausePreloadTask", None),
        (&["resume"], "ResumePreloadTask", None),
        (&["cancel"], "CancelPreloadTask", None),
        (&["priority", "9"], "SetPreloadTaskPriority", Some("9")),
    ];
    for (verb, action, priority) in cases {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let line = [&["tasks"], verb, &ids, &["--output", "json"]].concat();
        let ran = against(&line, |call, _| {
            let tasks = call.get("TaskId").split(',').map(|id| json!({ "TaskId": id, "Urls": 3 })).collect::<Vec<_>>();
            ok(json!({ "Tasks": { "Task": tasks } }))
        })
        .await;
        ran.check(0);
        let sent: Vec<(&str, usize)> =
            ran.calls.iter().map(|call| (call.action.as_str(), call.get("TaskId").split(',').count())).collect();
        assert_eq!(sent, [(action, 10), (action, 2)]);
        assert!(ran.calls.iter().all(|call| call.get("Priority") == priority.unwrap_or_default()), "{verb:?}");
        assert_eq!(ran.json().as_array().unwrap().len(), 12);
        assert_eq!(ran.json()[11], json!({ "task_id": "12", "urls": 3 }));
    }
    let ran = against(&["tasks", "cancel", "7"], |_, _| refused(400, "TaskEnded")).await;
    ran.check(1);
}

#[tokio::test]
async fn prefetch_is_shown_job_by_job() {
    let script = |call: &Call, _: &[Call]| match call.action.as_str() {
        "DescribeRefreshTaskById" => ok(json!({ "TotalCount": 1, "Tasks": [{
            "TaskId": "7", "ObjectPath": "http://a.com/1", "ObjectType": "preload", "Status": "Refreshing",
            "Process": "50%", "CreationTime": "2026-01-31T00:00:00Z", "Description": "" }] })),
        _ => ok(json!({ "State": "paused", "Priority": 7, "Process": "50%", "NotBefore": "", "TotalCount": 3,
            "PausedTime": "2026-01-31T00:00:01Z", "Urls": { "Url": [{ "Url": "http://a.com/1", "Jobs": { "Job": [
                { "Target": "p/L2", "Variant": 0, "Status": "Complete", "Node": "p-1", "Bytes": 500, "Length": 500,
                  "BytesPerSecond": 9, "Cause": "", "HttpStatus": null, "FailedTime": "" },
                { "Target": "q/L2", "Variant": 0, "Status": "Failed", "Node": "q-1", "Bytes": null, "Length": null,
                  "BytesPerSecond": null, "Cause": "origin answered 404", "HttpStatus": 404,
                  "FailedTime": "2026-01-31T00:00:02Z" }] } }] } })),
    };
    let ran = against(&["tasks", "show", "7", "--output", "json"], script).await;
    ran.check(0);
    let prefetch = &ran.json()["prefetch"];
    assert_eq!(
        (&prefetch["steered"], &prefetch["priority"], &prefetch["more_urls"]),
        (&"paused".into(), &7.into(), &2.into())
    );
    assert_eq!((&prefetch["not_before"], &prefetch["paused"]), (&Value::Null, &"2026-01-31T00:00:01Z".into()));
    let failed = json!({ "url": "http://a.com/1", "target": "q/L2", "variant": 0, "state": "Failed", "node": "q-1", "bytes": null,
        "length": null, "bytes_per_second": null, "cause": "origin answered 404", "http_status": 404,
        "failed": "2026-01-31T00:00:02Z" });
    assert_eq!(prefetch["jobs"][1], failed);
    let ran = against(&["tasks", "show", "7"], script).await;
    for said in [
        "paused, priority 7, 50%, paused since 2026-01-31T00:00:01Z",
        "p-1",
        "origin answered 404, 2026-01-31T00:00:02Z",
        "and 2 more URLs",
    ] {
        assert!(ran.out.contains(said), "{said}: {}", ran.out);
    }
    // The vendor's own service does not have this action.
    let ran = against(&["tasks", "show", "7", "--output", "json"], move |call, before| match call.action.as_str() {
        "DescribeRefreshTaskById" => script(call, before),
        _ => refused(404, "InvalidAction.NotFound"),
    })
    .await;
    ran.check(0);
    assert_eq!(ran.json()["prefetch"], Value::Null);
}
