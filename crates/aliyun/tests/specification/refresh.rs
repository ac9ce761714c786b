//! The refresh family.

use aliyun::{
    Bucket, Description, Fault, Page, PrefetchDetail, PrefetchedUrl, Quota, Refusal, Reply, TaskRow, TaskStatus,
    TaskType, Wording,
};

use super::Group;
use super::common::now;

pub(crate) const GROUP: Group = Group {
    actions: &[
        "PushObjectCache",
        "RefreshObjectCaches",
        "RefreshObjectCacheByCacheTag",
        "DescribeRefreshTasks",
        "DescribeRefreshTaskById",
        "DescribeRefreshQuota",
        "DescribePreloadDetailById",
        "DescribeCdnUserQuota",
        "PreloadVodObjectCaches",
        "RefreshVodObjectCaches",
        "DescribeVodRefreshTasks",
        "DescribeVodRefreshQuota",
    ],
    good,
    others,
    sent_as: |name| name,
    // A directory ends in a slash, and this one path of the usual call does not.
    not_alone: &[("ObjectType", "Directory")],
    reply,
    refusals,
    unfilled: &[],
    without_effect: &[
        ("ConsistencyHash", "no page says what it does"),
        ("QueryHashkey", "the key is always that of the domain's configuration: users' requests have no other"),
        ("ResourceGroupId", "there are no resource groups"),
        ("PushObjectCache.ObjectType", "obsolete: clients of 2014 send it"),
        ("DescribeVodRefreshTasks.ObjectType", "block and the like are queries without result"),
    ],
    other_words: &[
        ("PreloadQueueFull", "The warming queue is full", "the page has two texts for one condition"),
        (
            "InvalidObjectType.ValueNotSupported",
            "The specified value of ObjectType",
            "the page of VOD has the code with another text",
        ),
        ("InvalidObjectType.ValueNotSupported", "The specified value of \"ObjectType\"", "an older page of the same"),
        ("QuotaExceeded.Refresh", "Your refresh attempts", "the text of a sibling product"),
        ("TooManyRequests", "Too many requests", "the text of a sibling product"),
        ("InsufficientBalance", "(account overdue)", "no page has the text"),
        ("ObjectPath.Malformed", "", "an old spelling of InvalidObjectPath.Malformed"),
        (
            "InvalidObjectPath.Size.Malformed",
            "",
            "the current wording says SingleRequest.OverLimit; the older one is answered",
        ),
        (
            "Throttling.Api",
            "",
            "an action that is called too often is answered 503 Throttling, as the pages of the family say",
        ),
    ],
};

/// A reply to `action` in which every list has an element.
fn reply(action: &str) -> Reply {
    let row = TaskRow {
        id: 704_225_667,
        path: "http://a.com/1".to_owned(),
        kind: TaskType::Preload,
        status: TaskStatus::Refreshing,
        done: 1,
        total: 4,
        created_at: now(),
        description: Description::None,
    };
    let bucket = Bucket { limit: Some(10), used: 3 };
    let quota = Quota {
        url: bucket,
        directory: bucket,
        regex: bucket,
        ignore_params: bucket,
        prefetch: bucket,
        prefetch_edge: bucket,
        block: bucket,
    };
    match action {
        "DescribeRefreshTasks" | "DescribeVodRefreshTasks" => {
            Reply::Tasks { page: Page { number: 1, size: 20 }, total: 1, rows: vec![row] }
        }
        "DescribeRefreshTaskById" => Reply::TasksById { rows: vec![row], waiting: Vec::new() },
        "DescribeRefreshQuota" | "DescribeVodRefreshQuota" => Reply::Quota(quota),
        "DescribeCdnUserQuota" => Reply::UserQuota { quota, domains: 50 },
        "DescribePreloadDetailById" => Reply::PrefetchDetail(Some(PrefetchDetail {
            task: 1,
            domain: "a.com".to_owned(),
            created_at: now(),
            ended_at: Some(now()),
            status: TaskStatus::Failed,
            done: 0,
            total: 1,
            urls: vec![PrefetchedUrl {
                url: "http://a.com/1".to_owned(),
                success: Some(false),
                origin_status: Some(404),
                description: "cn-1/L2: origin answered 404".to_owned(),
            }],
        })),
        _ => Reply::Submitted(vec![1]),
    }
}

/// Parameters with which an action succeeds.
fn good(action: &str) -> &'static [(&'static str, &'static str)] {
    match action {
        "RefreshObjectCacheByCacheTag" => &[("DomainName", "a.com"), ("CacheTag", "t")],
        "DescribeRefreshTaskById" | "DescribePreloadDetailById" => &[("TaskId", "1")],
        "DescribeRefreshTasks" | "DescribeVodRefreshTasks" => {
            &[("StartTime", "2026-01-01T03:04:05Z"), ("EndTime", "2026-01-02T03:04:05Z"), ("ObjectType", "file")]
        }
        "DescribeRefreshQuota" | "DescribeVodRefreshQuota" | "DescribeCdnUserQuota" => &[],
        _ => &[("ObjectPath", "a.com/x")],
    }
}

/// Other good values of a parameter.
fn others(action: &str, param: &str) -> &'static [&'static str] {
    match param {
        "ObjectType" if action == "PushObjectCache" => &["File"],
        "ObjectPath" => &["https://b.com/y"],
        "CacheTag" => &["other", "a,b"],
        "DomainName" => &["b.com"],
        "WithHeader" => &[r#"{"Accept-Encoding":["gzip","br"]}"#],
        "TaskId" => &["2"],
        "StartTime" => &["2026-01-01T05:04:05Z", "2026-01-01T05:04Z"],
        "EndTime" => &["2026-01-02T02:04:05Z", "2026-01-02T02:04Z"],
        "PageNumber" => &["2", "100000"],
        "PageSize" => &["50"],
        "ResourceGroupId" => &["x"],
        _ => &[],
    }
}

/// Everything that the family answers but success.
fn refusals() -> Vec<Refusal> {
    use Fault::*;
    let faults = [
        PrefetchQueueFull,
        PrefetchQuota,
        RefreshQuota,
        PrefetchPerMinute,
        RefreshPerMinute,
        OverLimit,
        TooManyLines,
        Fault::ObjectPath,
        WildcardHost,
        ObjectType,
        HeaderSyntax,
        HeaderName,
        RefreshQueueFull,
        DomainUnknown,
        DomainOffline,
        DomainForbidden,
        DomainBusy,
        DomainBroken,
        NotOpened,
        Suspended,
        Overdue,
        Overload,
        TaskId,
        TimeAlone,
        FilterNeedsType,
        StartTime,
        EndTime,
        TimeOrder,
        StartTimeRange,
        TimeTooOld,
        FilterType,
        FilterStatus,
    ];
    let worded = faults.into_iter().flat_map(|fault| {
        [Wording::Current, Wording::Legacy, Wording::LegacyVod].map(|wording| Refusal::of(fault, wording))
    });
    worded.collect()
}
