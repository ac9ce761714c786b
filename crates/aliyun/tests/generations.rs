//! Errors of the refresh family by condition and generation: each row names the pages it stands for, and is asked of every
//! profile in each of the three ways in: version 2018-05-10, version 2014-11-11, and VOD.
//!
//! Pages by number: 000 PreloadVodObjectCaches, 001 PushObjectCache of 2020, 002 PushObjectCache of November 2024, 003
//! PushObjectCache of 2019, 004 RefreshVodObjectCaches. "docs" are the vendor's other pages, by year.

mod common;

use aliyun::{Fault, Profile, Refusal, call};
use common::{now, request};

const CDN: &str = "2018-05-10";
const OLD: &str = "2014-11-11";
const VOD: &str = "2017-03-21";

type Words = (u16, &'static str, &'static str);

/// A condition: the pages it is on, what it is in our words, and what it is answered in the current, the older and VOD's wording.
type Row = (&'static str, Fault, Words, Words, Words);

const MALFORMED_SIZE: Words = (400, "InvalidObjectPath.Size.Malformed", "The size of ObjectPath is bigger than 1000.");
const QUOTA: Words = (400, "QuotaExceeded.Refresh", "You've exceeded the prescribed refresh limits.");
const MINUTE: Words =
    (400, "QuotaPerMinuteExceeded.Refresh", "You've exceeded the prescribed refresh limits per minute.");
const QUEUE: Words = (403, "PreloadQueueFull", "Preload queue is full, please try again later!");
const PATH: Words = (400, "InvalidObjectPath.Malformed", "The specific value of parameter ObjectPath is malformed.");
const WILDCARD: Words = (400, "InvalidExtensiveDomain.ValueNotSupported", "Extensive domain not supported.");
const TYPE: Words =
    (400, "InvalidObjectType.ValueNotSupported", "The specified value of \"<ObjectType>\" is not supported.");
const TOO_MANY: Words = (400, "TooMany.Refresh", "there is too many refresh task, please wait a moment.");
const THROTTLED: Words = (503, "Throttling", "Request was denied due to request throttling.");
const UNKNOWN: Words = (404, "InvalidDomain.NotFound", "The domain provided does not belong to you.");
const OFFLINE: Words = (404, "InvalidDomain.Offline", "The domain provided is offline.");
const ILLEGAL: Words = (403, "IllegalOperation", "Illegal domain operate is not permitted.");
const BUSY: Words = (403, "ServiceBusy", "The specified Domain is configuring, please retry later.");
const BROKEN: Words = (500, "InvalidDomain.Configure_failed", "Failed to configure the provided domain.");
const PARSE: Words = (400, "InvalidCustomHeader", "Parse preload header failed.");
const HEADER: Words = (400, "InvalidCustomHeader", "Unsupported Preload headers included.");
const NOT_OPENED: Words = (403, "OperationDenied", "Your account does not open CDN service yet.");
const SUSPENDED: Words = (403, "OperationDenied", "Your CDN service is suspended.");
const OVERDUE: Words = (400, "InsufficientBalance", "Your account does not have enough balance.");
const TASK_ID: Words = (400, "InvalidTaskId.Malformed", "Specified TaskId is malformed.");
const TIMES: Words = (400, "MissingParameter", "StartTime and EndTime can not be single.");
const NEEDS_TYPE: Words =
    (400, "MissingParameter.ObjectType", "If DomainName or Status is provided, ObjectType can not be empty.");
const START: Words = (400, "InvalidStartTime.Malformed", "Specified StartTime is malformed.");
const END: Words = (400, "InvalidEndTime.Malformed", "Specified EndTime is malformed.");
const ORDER: Words = (400, "InvalidEndTime.Mismatch", "Specified end time does not math the specified start time.");
const RANGE: Words =
    (400, "InvalidStartTime.ValueNotSupported", "The specified value of parameter StartTime is not supported.");
const FILTER_TYPE: Words = (400, "InvalidObjectType.ValueNotSupported", "The specified ObjectType is not supported.");
const FILTER_STATUS: Words =
    (400, "InvalidStatus.ValueNotSupported", "The specified value of parameter Status is not supported.");

fn rows() -> Vec<Row> {
    vec![
        (
            "002: the second of two texts; 000 003, docs 2021 (zh): 403",
            Fault::PrefetchQueueFull,
            (400, "PreloadQueueFull", "Preload queue is full, please try again later."),
            QUEUE,
            QUEUE,
        ),
        (
            "002; 000 003",
            Fault::PrefetchQuota,
            (400, "QuotaExceeded.Preload", "Your preload attempts have exceeded the daily limit."),
            QUOTA,
            QUOTA,
        ),
        ("004, docs of refreshes by tag", Fault::RefreshQuota, QUOTA, QUOTA, QUOTA),
        (
            "002; 004",
            Fault::PrefetchPerMinute,
            (400, "QuotaPerMinuteExceeded.Refresh", "You have exceeded the prescribed preload limits per minute."),
            MINUTE,
            MINUTE,
        ),
        (
            "docs of refreshes by tag; 004",
            Fault::RefreshPerMinute,
            (400, "QuotaPerMinuteExceeded.Refresh", "You tried to refresh too frequently; please try again later."),
            MINUTE,
            MINUTE,
        ),
        (
            "002; 000 003",
            Fault::OverLimit,
            (400, "SingleRequest.OverLimit", "A maximum of 1000 URLs are supported for each request."),
            MALFORMED_SIZE,
            MALFORMED_SIZE,
        ),
        (
            "002; before, as above 1000 lines",
            Fault::TooManyLines,
            (400, "InvalidObjectPath.ExceedsMaximum", "The maximum number of urls is exceeded."),
            MALFORMED_SIZE,
            MALFORMED_SIZE,
        ),
        (
            "002; 000 003 004",
            Fault::ObjectPath,
            (400, "InvalidObjectPath.Malformed", "The specified ObjectPath is invalid."),
            PATH,
            PATH,
        ),
        (
            "002; 000 003 004",
            Fault::WildcardHost,
            (400, "InvalidExtensiveDomain.ValueNotSupported", "The specified ExtensiveDomain is not supported."),
            WILDCARD,
            WILDCARD,
        ),
        (
            "docs of refreshes by tag; 004",
            Fault::ObjectType,
            (400, "InvalidObjectType.Malformed", "The specified ObjectType is invalid."),
            TYPE,
            TYPE,
        ),
        ("002", Fault::HeaderSyntax, PARSE, PARSE, PARSE),
        ("002", Fault::HeaderName, HEADER, HEADER, HEADER),
        (
            "docs of refreshes by tag; docs 2019",
            Fault::RefreshQueueFull,
            (400, "TooMany.Refresh", "The refresh queue is full; please try again later."),
            TOO_MANY,
            TOO_MANY,
        ),
        ("000 004", Fault::DomainUnknown, UNKNOWN, UNKNOWN, UNKNOWN),
        ("000 004", Fault::DomainOffline, OFFLINE, OFFLINE, OFFLINE),
        ("000 004", Fault::DomainForbidden, ILLEGAL, ILLEGAL, ILLEGAL),
        ("004", Fault::DomainBusy, BUSY, BUSY, BUSY),
        ("000 004", Fault::DomainBroken, BROKEN, BROKEN, BROKEN),
        (
            "docs 2021 (zh); 000 004",
            Fault::NotOpened,
            NOT_OPENED,
            NOT_OPENED,
            (403, "OperationDenied", "Your account does not open VOD service yet."),
        ),
        (
            "docs 2021 (zh); 000 004",
            Fault::Suspended,
            SUSPENDED,
            SUSPENDED,
            (403, "OperationDenied.Suspended", "Your VOD service is suspended."),
        ),
        ("docs of billing", Fault::Overdue, OVERDUE, OVERDUE, OVERDUE),
        (
            "002; 000 004",
            Fault::Overload,
            (429, "TooManyRequests", "System load fluctuates, please try again later."),
            THROTTLED,
            THROTTLED,
        ),
        (
            "docs of tasks by id; docs 2021",
            Fault::TaskId,
            (400, "InvalidTaskId.Malformed", "The specified TaskId is invalid."),
            TASK_ID,
            TASK_ID,
        ),
        (
            "docs of tasks by id; docs 2019",
            Fault::TimeAlone,
            (400, "MissingTimeParameter", "The StartTime and EndTime must be both specified."),
            TIMES,
            TIMES,
        ),
        (
            "docs of tasks by id, to the letter; docs 2019",
            Fault::FilterNeedsType,
            (
                400,
                "MissingParameter.ObjectType",
                "The ObjectType parameter is required if DomainName or ObjectType is specified.",
            ),
            NEEDS_TYPE,
            NEEDS_TYPE,
        ),
        (
            "docs of a sibling; docs 2019",
            Fault::StartTime,
            (400, "InvalidStartTime.Malformed", "The specified StartTime is invalid."),
            START,
            START,
        ),
        (
            "docs of a sibling; docs 2019",
            Fault::EndTime,
            (400, "InvalidEndTime.Malformed", "The specified EndTime is invalid."),
            END,
            END,
        ),
        (
            "docs of a sibling; docs 2019, to the letter",
            Fault::TimeOrder,
            (400, "InvalidEndTime.Mismatch", "The specified EndTime is earlier than the StartTime."),
            ORDER,
            ORDER,
        ),
        (
            "docs of a sibling; docs 2019",
            Fault::StartTimeRange,
            (400, "InvalidStartTime.ValueNotSupported", "The specified StartTime is invalid."),
            RANGE,
            RANGE,
        ),
        (
            "docs of a sibling",
            Fault::TimeTooOld,
            (400, "InvalidTime", "The query time cannot exceed the last 3 days."),
            RANGE,
            RANGE,
        ),
        ("docs of a sibling", Fault::FilterType, FILTER_TYPE, FILTER_TYPE, FILTER_TYPE),
        (
            "docs of a sibling; docs 2019",
            Fault::FilterStatus,
            (400, "InvalidStatus.ValueNotSupported", "The specified Status is not supported."),
            FILTER_STATUS,
            FILTER_STATUS,
        ),
    ]
}

/// The three ways in, with an action of each.
const DOORS: [(&str, &str); 3] =
    [(CDN, "DescribeRefreshQuota"), (OLD, "DescribeRefreshQuota"), (VOD, "DescribeVodRefreshQuota")];

fn is_current(profile: &str) -> bool {
    match profile {
        "cdn-2024" | "cdn-2026" | "open" => true,
        "cdn-2019" | "cdn-2020" | "vod-2021" => false,
        other => panic!("which wording has {other}?"),
    }
}

#[test]
fn every_condition_is_worded_by_every_profile() {
    for (pages, fault, current, legacy, vod) in rows() {
        for name in Profile::names() {
            for (version, action) in DOORS {
                let expected = match version {
                    VOD => vod,
                    CDN if is_current(name) => current,
                    _ => legacy,
                };
                let wording = Profile::named(name).unwrap().wording(&request(version, action, &[]));
                let refusal = Refusal::of(fault, wording);
                let got = (refusal.status, refusal.code.as_ref(), refusal.message.as_str());
                assert_eq!(got, expected, "{fault:?} ({pages}) of {name} by {version}");
            }
        }
    }
}

/// Conditions that a call alone shows, asked for by that call: what it is, the action of CDN and of VOD, what is sent.
type Asked = (Fault, &'static str, &'static str, Vec<(&'static str, String)>);

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("a.com/{n}\n")).collect()
}

fn asked() -> Vec<Asked> {
    let path = |text: &str| vec![("ObjectPath", text.to_owned())];
    let typed = |text: &str, kind: &str| vec![("ObjectPath", text.to_owned()), ("ObjectType", kind.to_owned())];
    let push = ("PushObjectCache", "PreloadVodObjectCaches");
    let refresh = ("RefreshObjectCaches", "RefreshVodObjectCaches");
    let tasks = ("DescribeRefreshTasks", "DescribeVodRefreshTasks");
    let row = |fault, (cdn, vod): (&'static str, &'static str), params| (fault, cdn, vod, params);
    vec![
        row(Fault::OverLimit, push, path(&lines(1001))),
        row(Fault::OverLimit, refresh, path(&lines(1001))),
        row(Fault::ObjectPath, push, path("a.com/d/")), // a directory is not prefetched
        row(Fault::ObjectPath, push, path("http:///x")),
        row(Fault::ObjectPath, push, path("a.com:8080/x")),
        row(Fault::ObjectPath, push, path(&format!("a.com/{}", "x".repeat(1024)))),
        row(Fault::ObjectPath, refresh, typed("a.com/x", "Directory")),
        row(Fault::ObjectPath, refresh, typed("a.com/(x)+", "Regex")),
        row(Fault::WildcardHost, push, path("*.a.com/x")),
        row(Fault::WildcardHost, refresh, path("http://*.a.com/x")),
        row(Fault::ObjectType, refresh, typed("a.com/x", "Folder")),
        row(Fault::TaskId, tasks, vec![("TaskId", "x".to_owned())]),
        row(Fault::TimeAlone, tasks, vec![("EndTime", "2026-01-02T03:04:05Z".to_owned())]),
        row(Fault::FilterNeedsType, tasks, vec![("Status", "Complete".to_owned())]),
        row(Fault::FilterType, tasks, vec![("ObjectType", "folder".to_owned())]),
    ]
}

#[test]
fn calls_that_show_a_condition_are_answered_in_its_words() {
    for (fault, cdn, vod, params) in asked() {
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for name in Profile::names() {
            let profile = Profile::named(name).unwrap();
            for (version, action) in [(CDN, cdn), (OLD, cdn), (VOD, vod)] {
                let request = request(version, action, &params);
                let refusal = call(&request, profile, aliyun::Rules::default(), now()).unwrap_err();
                let expected = Refusal::of(fault, profile.wording(&request));
                assert_eq!((refusal.status, &refusal.code), (expected.status, &expected.code), "{action} of {name}");
                assert!(refusal.message.starts_with(&expected.message), "{action} of {name}: {}", refusal.message);
            }
        }
    }
}

/// What one call may have, by profile: lines of a prefetch; files, directories, expressions and domains of a refresh.
#[test]
fn each_profile_has_its_bounds_of_a_call() {
    let cases = [
        // profile    push   dirs  regexes  domains (pages)
        ("cdn-2019", 100, 100, 100, 1000), // docs 2019: 100 a domain, whatever the type
        ("cdn-2020", 100, 1000, 1000, 1000), // 001, docs 2021
        ("cdn-2024", 100, 100, 1, 10),     // 002, docs 2024
        ("cdn-2026", 100, 100, 1, 10),     // docs 2026 (zh)
        ("open", 100, 100, 1, 10),         // the product's own
        ("vod-2021", 1000, 100, 1, 1000),  // 000 004
    ];
    for (name, push, directories, regexes, domains) in cases {
        let of = |count: usize, end: &str| (0..count).map(|n| format!("a.com/{n}{end}\n")).collect::<String>();
        let hosts = |count: usize| (0..count).map(|n| format!("h{n}.a.com/x\n")).collect::<String>();
        let ask = |action: &str, kind: &str, text: &str| {
            let request = request(CDN, action, &[("ObjectPath", text), ("ObjectType", kind)]);
            call(&request, Profile::named(name).unwrap(), aliyun::Rules::default(), now()).is_ok()
        };
        let rows = [
            ("PushObjectCache", "", push, of(push, ""), of(push + 1, "")),
            ("RefreshObjectCaches", "Directory", directories, of(directories, "/"), of(directories + 1, "/")),
            ("RefreshObjectCaches", "Regex", regexes, of(regexes, ""), of(regexes + 1, "")),
            ("RefreshObjectCaches", "File", domains, hosts(domains), hosts(domains + 1)),
        ];
        for (action, kind, most, fits, beyond) in rows {
            assert!(ask(action, kind, &fits), "{name}: {most} of {action} {kind}");
            assert!(!ask(action, kind, &beyond), "{name}: one more than {most} of {action} {kind}");
        }
    }
}
