//! The refresh family against the collected facts of its actions (`data/actions.json`): every parameter is read, every field of
//! a reply is there with its type, every documented error can be answered, or stands on a list with the reason why not.

mod common;

use std::collections::BTreeSet;

use aliyun::{
    Bucket, Call, Description, Fault, Page, PrefetchDetail, PrefetchedUrl, Profile, Quota, Refusal, Reply, Rules,
    TaskRow, TaskStatus, TaskType, Wording, call, codes, render,
};
use common::{now, request};
use serde_json::{Map, Value};

/// What is in scope here; other actions have tests of their own.
const ACTIONS: [&str; 12] = [
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
];

/// Fields of replies that are not filled, each with its reason.
const UNFILLED: [(&str, &str, &str); 0] = [];

/// Parameters that change nothing whatever their value is, each with its reason.
const WITHOUT_EFFECT: [(&str, &str); 5] = [
    ("ConsistencyHash", "no page says what it does"),
    ("QueryHashkey", "the key is always that of the domain's configuration: users' requests have no other"),
    ("ResourceGroupId", "there are no resource groups"),
    ("PushObjectCache.ObjectType", "obsolete: clients of 2014 send it"),
    ("DescribeVodRefreshTasks.ObjectType", "block and the like are queries without result"),
];

/// Documented errors that are not answered in these words, each with its reason.
const OTHER_WORDS: [(&str, &str, &str); 9] = [
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
];

fn facts() -> Value {
    serde_json::from_str(include_str!("data/actions.json")).expect("the facts are JSON")
}

/// The facts of the actions in scope, each once.
fn actions() -> Vec<Value> {
    let all = facts();
    let found: Vec<Value> = all["actions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|action| ACTIONS.contains(&text(&action["action"])))
        .cloned()
        .collect();
    assert_eq!(found.len(), ACTIONS.len());
    found
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

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

/// Every field that `declared` has and `given` lacks, or has with another type.
fn lacking(place: &str, declared: &Value, given: &Value, out: &mut Vec<String>) {
    match declared {
        Value::Object(fields) => {
            for (name, declared) in fields {
                lacking(&format!("{place}.{name}"), declared, &given[name], out);
            }
        }
        Value::Array(elements) => match (elements.first(), given.as_array().map(Vec::as_slice)) {
            (Some(declared), Some([first, ..])) => lacking(&format!("{place}[]"), declared, first, out),
            _ => out.push(format!("{place}: an array with an element")),
        },
        Value::String(kind) => {
            let right = match kind.as_str() {
                "string" => given.is_string(),
                "integer" => given.is_u64(),
                "boolean" => given.is_boolean(),
                other => panic!("{place}: unknown type {other}"),
            };
            if !right {
                out.push(format!("{place}: {kind}"));
            }
        }
        other => panic!("{place}: {other}"),
    }
}

#[test]
fn every_field_of_a_reply_is_filled_with_its_type() {
    for action in actions() {
        let name = text(&action["action"]);
        let body = render(&request(text(&action["version"]), name, &[]), "R-1", &reply(name)).body;
        let given: Value = serde_json::from_slice(&body).expect("JSON");
        let mut out = Vec::new();
        lacking(name, &action["response"], &given, &mut out);
        out.retain(|field| !UNFILLED.iter().any(|(of, unfilled, _)| *field == format!("{of}.{unfilled}")));
        assert_eq!(out, Vec::<String>::new(), "{given}");
        let declared: BTreeSet<&String> = action["response"].as_object().into_iter().flat_map(Map::keys).collect();
        let own: Vec<&String> =
            given.as_object().into_iter().flat_map(Map::keys).filter(|key| !declared.contains(key)).collect();
        assert_eq!(own, Vec::<&String>::new(), "{name} has fields that no client knows");
    }
}

#[test]
fn every_reply_in_xml_has_its_root_and_repeats_its_lists() {
    for action in actions() {
        let name = text(&action["action"]);
        let asked = request(&format!("{} XML", text(&action["version"])), name, &[]);
        let body = String::from_utf8(render(&asked, "R-1", &reply(name)).body).expect("text");
        let root = text(&action["xmlRoot"]);
        assert!(body.contains(&format!("<{root}>")) && body.ends_with(&format!("</{root}>")), "{name}: {body}");
        for list in action["lists"].as_array().expect("a list") {
            let element = text(&list["xmlRepeatedElement"]);
            assert!(body.contains(&format!("<{element}><")), "{name}: {element} in {body}");
        }
    }
}

/// Parameters with which every action in scope succeeds.
fn good(action: &str) -> Vec<(String, String)> {
    let pairs: &[(&str, &str)] = match action {
        "RefreshObjectCacheByCacheTag" => &[("DomainName", "a.com"), ("CacheTag", "t")],
        "DescribeRefreshTaskById" | "DescribePreloadDetailById" => &[("TaskId", "1")],
        "DescribeRefreshTasks" | "DescribeVodRefreshTasks" => {
            &[("StartTime", "2026-01-01T03:04:05Z"), ("EndTime", "2026-01-02T03:04:05Z"), ("ObjectType", "file")]
        }
        "DescribeRefreshQuota" | "DescribeVodRefreshQuota" | "DescribeCdnUserQuota" => &[],
        _ => &[("ObjectPath", "a.com/x")],
    };
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn ask(action: &Value, change: Option<(&str, Option<&str>)>) -> Result<Call, Refusal> {
    let mut params = good(text(&action["action"]));
    if let Some((name, value)) = change {
        params.retain(|(known, _)| known != name);
        params.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let request = request(text(&action["version"]), text(&action["action"]), &params);
    call(&request, Profile::named("cdn-2024").expect("a profile"), Rules::default(), now())
}

#[test]
fn every_parameter_is_read() {
    for action in actions() {
        let name = text(&action["action"]);
        let usual = ask(&action, None).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        for param in action["params"].as_array().expect("a list") {
            let param_name = text(&param["name"]);
            let full = format!("{name}.{param_name}");
            let values: Vec<&str> = match param["enum"].as_array() {
                Some(values) => values.iter().map(text).collect(),
                None => match param_name {
                    "ObjectPath" => vec!["https://b.com/y"],
                    "CacheTag" => vec!["other", "a,b"],
                    "DomainName" => vec!["b.com"],
                    "WithHeader" => vec![r#"{"Accept-Encoding":["gzip","br"]}"#],
                    "TaskId" => vec!["2"],
                    "StartTime" => vec!["2026-01-01T05:04:05Z", "2026-01-01T05:04Z"],
                    "EndTime" => vec!["2026-01-02T02:04:05Z", "2026-01-02T02:04Z"],
                    "PageNumber" => vec!["2", "100000"],
                    "PageSize" => vec!["50"],
                    "ResourceGroupId" => vec!["x"],
                    "ObjectType" => vec!["File"],
                    other => panic!("{full}: what is a good value of {other}?"),
                },
            };
            let mut differs = false;
            for value in values {
                // A directory ends in a slash, and this one path of the usual call does not.
                if (param_name, value) == ("ObjectType", "Directory") {
                    continue;
                }
                let got = ask(&action, Some((param_name, Some(value))));
                let got = got.unwrap_or_else(|refusal| panic!("{full}={value}: {refusal:?}"));
                differs |= got != usual;
            }
            let excused = WITHOUT_EFFECT.iter().any(|(known, _)| *known == param_name || *known == full);
            // What is read and told to nobody who acts on it is without effect all the same.
            assert!(differs || excused, "{full} changes nothing");
            let missing = ask(&action, Some((param_name, None)));
            if param["required"] == true {
                assert_eq!(missing.unwrap_err().code, "MissingParameter", "{full}");
            }
            let is_checked = param["enum"].is_array() && !excused;
            if is_checked {
                let refusal = ask(&action, Some((param_name, Some("nonsense")))).unwrap_err();
                assert_eq!(refusal.status, 400, "{full}");
            }
        }
    }
}

/// Everything that the family and the gateway can answer but success.
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
    let gateway = [
        Refusal::missing("Action"),
        Refusal::missing("ObjectPath"),
        Refusal::missing_for_action("AccessKeyId"),
        Refusal::missing_for_action("SecurityToken"),
        Refusal::illegal_timestamp(),
        Refusal::timestamp_expired(),
        Refusal::timestamp_format(),
        Refusal::nonce_used(),
        Refusal::key_not_found(),
        Refusal::key_inactive(),
        Refusal::token_expired(),
        Refusal::token_malformed(),
        Refusal::token_mismatch(),
        Refusal::invalid_version(),
        Refusal::action_not_found(),
        Refusal::unsupported(),
        Refusal::throttled_user(),
        Refusal::throttled(),
        Refusal::forbidden(),
        Refusal::internal(),
        Refusal::unavailable(),
    ];
    worded.chain(gateway).collect()
}

#[test]
fn every_documented_error_can_be_answered() {
    let answered = refusals();
    let facts = facts();
    let actions = actions();
    let of_actions = actions.iter().flat_map(|action| {
        let name = text(&action["action"]);
        action["errors"].as_array().expect("a list").iter().map(move |error| (name, error))
    });
    let of_gateway = facts["gatewayErrors"].as_array().expect("a list").iter().map(|error| ("gateway", error));
    for (place, error) in of_actions.chain(of_gateway) {
        let (code, message) = (text(&error["code"]), text(&error["message"]));
        // What is signed stands in these two; tests of signatures have them to the letter.
        let quotes = ["SignatureDoesNotMatch", "IncompleteSignature"].contains(&code);
        let same = |refusal: &Refusal| {
            (u64::from(refusal.status), refusal.code.as_ref(), refusal.message.as_str())
                == (error["http"].as_u64().expect("a status"), code, message)
        };
        let excused = OTHER_WORDS.iter().any(|(known, begin, _)| *known == code && message.starts_with(begin));
        assert!(quotes || excused || answered.iter().any(same), "{place}: {error}");
        assert!(codes().any(|page| page == code) || excused, "{place}: no page about {code}");
    }
}
