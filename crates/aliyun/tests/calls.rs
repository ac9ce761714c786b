//! Actions and their parameters: what is read from them, and every fault in the words of each generation.

mod common;

use std::time::Duration;

use aliyun::{
    Call, CdnType, DomainQuery, DomainStatus, Fault, ObjectPath, Page, Prefetch, Profile, Refresh, RefreshByTag,
    RefreshType, Refusal, SearchType, SetDomain, TASK_IDS_MAX, TaskFilter, TaskQuery, TaskStatus, TaskType, Wording,
    call,
};
use common::{now, request};
use model::{Coverage, DomainName, Tag, UrlKey};

/// Parameters as a table writes them.
type OwnedParams = Vec<(String, String)>;
type Params<'a> = &'a [(&'a str, &'a str)];

const CDN: &str = "2018-05-10";
const OLD: &str = "2014-11-11";
const VOD: &str = "2017-03-21";

fn ask(profile: &str, version: &str, action: &str, params: &[(&str, &str)]) -> Result<Call, Refusal> {
    call(&request(version, action, params), Profile::named(profile).unwrap(), aliyun::Rules::default(), now())
}

fn path(scheme: &str, host: &str, path: &str) -> ObjectPath {
    ObjectPath { text: format!("{scheme}://{host}{path}"), key: UrlKey::new(host, path).unwrap() }
}

#[test]
fn prefetch_is_read_with_its_defaults() {
    let gzip = vec![vec![("accept-encoding".to_owned(), "gzip".to_owned())]];
    let plain = Prefetch {
        paths: vec![path("http", "a.com", "/1"), path("https", "a.com", "/2")],
        area: None,
        l2: false,
        edge: false,
        variants: gzip,
        verbatim: true,
        refetch: false,
        pin: None,
        priority: None,
        not_before: None,
    };
    // The parameter is younger: nobody could say that users' key is meant.
    let older = Prefetch { verbatim: false, ..plain.clone() };
    let lines = ("ObjectPath", "a.com/1\r\nhttps://A.com/2\n");
    let cases: &[(&str, &str, &str, Params<'_>, Prefetch)] = &[
        ("cdn-2024", CDN, "PushObjectCache", &[], plain.clone()),
        ("cdn-2024", OLD, "PushObjectCache", &[("ObjectType", "File")], older.clone()), // ignored there
        ("cdn-2024", OLD, "PushObjectCache", &[("QueryHashkey", "false")], plain.clone()),
        ("cdn-2024", VOD, "PreloadVodObjectCaches", &[], older.clone()),
        ("cdn-2020", CDN, "PushObjectCache", &[], Prefetch { area: Some(Coverage::Overseas), ..older.clone() }),
        (
            "open",
            CDN,
            "PushObjectCache",
            &[("Refetch", "true"), ("Pin", "7200")],
            Prefetch { refetch: true, pin: Some(Duration::from_secs(7200)), ..plain.clone() },
        ),
        (
            "open",
            CDN,
            "PushObjectCache",
            &[("Area", "Domestic")],
            Prefetch { area: Some(Coverage::Domestic), ..plain.clone() },
        ),
        ("open", CDN, "PushObjectCache", &[("Area", "")], plain.clone()),
        (
            "open",
            CDN,
            "PushObjectCache",
            &[("L2Preload", "True"), ("QueryHashkey", "TRUE"), ("Tier", "edge"), ("ConsistencyHash", "x")],
            Prefetch { l2: true, edge: true, verbatim: false, ..plain.clone() },
        ),
        ("open", CDN, "PushObjectCache", &[("WithHeader", "{}")], Prefetch { variants: vec![vec![]], ..plain.clone() }),
        (
            "cdn-2020",
            CDN,
            "PushObjectCache",
            &[("WithHeader", "?"), ("Area", "overseas")],
            Prefetch { area: Some(Coverage::Overseas), ..older.clone() },
        ),
    ];
    for (profile, version, action, params, expected) in cases {
        let params = [&[lines], *params].concat();
        assert_eq!(
            ask(profile, version, action, &params),
            Ok(Call::Prefetch(expected.clone())),
            "{profile} {params:?}"
        );
    }
}

#[test]
fn refresh_is_read_with_its_defaults() {
    let file = Refresh { paths: vec![path("http", "a.com", "/d/")], kind: RefreshType::File, force: false };
    let directory = Refresh { kind: RefreshType::Directory, ..file.clone() };
    let regex = Refresh { kind: RefreshType::Regex, ..file.clone() };
    let ignore_params = Refresh { kind: RefreshType::IgnoreParams, ..file.clone() };
    let cases: &[(&str, Params<'_>, &Refresh)] = &[
        (CDN, &[], &file),
        (CDN, &[("ObjectType", "file")], &file),
        (OLD, &[("ObjectType", "File")], &file),
        (CDN, &[("ObjectType", "Directory")], &directory),
        (CDN, &[("ObjectType", "DIRECTORY"), ("Force", "false")], &directory),
        (CDN, &[("ObjectType", "Directory"), ("Force", "True")], &Refresh { force: true, ..directory.clone() }),
        (VOD, &[("ObjectType", "Directory")], &directory),
        (CDN, &[("ObjectType", "Regex")], &regex),
        (VOD, &[("ObjectType", "regex"), ("Force", "true")], &Refresh { force: true, ..regex.clone() }),
        (CDN, &[("ObjectType", "ExQuery")], &ignore_params),
        (CDN, &[("ObjectType", "IgnoreParams")], &ignore_params),
        (VOD, &[("ObjectType", "ignoreparams")], &ignore_params),
    ];
    for (version, params, expected) in cases {
        let action = if *version == VOD { "RefreshVodObjectCaches" } else { "RefreshObjectCaches" };
        let params = [&[("ObjectPath", "a.com/d/")], *params].concat();
        assert_eq!(ask("cdn-2024", version, action, &params), Ok(Call::Refresh((*expected).clone())), "{params:?}");
    }
}

#[test]
fn refresh_by_tag_is_read() {
    let refresh = |domain: &str, tags: &[&str], force| {
        let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        RefreshByTag { domain: DomainName::parse(domain).unwrap(), tags, force }
    };
    let many = (0..1001).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let long = "x".repeat(model::tags::TAG_BYTES_MAX + 1);
    type Expected = Result<RefreshByTag, (u16, &'static str)>;
    let cases: &[(&str, &str, &str, Expected)] = &[
        ("A.com", "news", "", Ok(refresh("a.com", &["news"], false))),
        (".a.com", " news, sport ,,news", "true", Ok(refresh(".a.com", &["news", "sport"], true))),
        ("", "news", "", Err((400, "MissingParameter"))),
        ("a.com", "", "", Err((400, "MissingParameter"))),
        ("a.com", " , ", "", Err((400, "MissingParameter"))),
        ("a.com", "two words", "", Err((400, "InvalidObjectPath.Malformed"))),
        ("a.com", &long, "", Err((400, "InvalidObjectPath.Malformed"))),
        ("a.com", &many, "", Err((400, "SingleRequest.OverLimit"))),
        ("a.com", "news", "maybe", Err((400, "InvalidParameter"))),
        ("*.a.com", "news", "", Err((400, "InvalidExtensiveDomain.ValueNotSupported"))),
        ("a.com,b.com", "news", "", Err((404, "InvalidDomain.NotFound"))),
    ];
    for (domain, tags, force, expected) in cases {
        let params = [("DomainName", *domain), ("CacheTag", *tags), ("Force", *force)];
        let got = ask("cdn-2024", CDN, "RefreshObjectCacheByCacheTag", &params);
        let got = got.map_err(|refusal| (refusal.status, refusal.code.into_owned()));
        let expected = expected.clone().map(Call::RefreshByTag).map_err(|(status, code)| (status, code.to_owned()));
        assert_eq!(got, expected, "{domain} {force}");
    }
    let line = RefreshByTag::line(&DomainName::parse(".a.com").unwrap(), &Tag::parse("a/b#c?d").unwrap());
    assert_eq!(line, "http://.a.com/?CacheTag=a%2Fb%23c%3Fd");
}

#[test]
fn regex_that_is_refused_says_why_behind_the_vendors_words() {
    let words = [
        (CDN, "The specified ObjectPath is invalid."),
        (OLD, "The specific value of parameter ObjectPath is malformed."),
        (VOD, "The specific value of parameter ObjectPath is malformed."),
    ];
    for (version, text) in words {
        let action = if version == VOD { "RefreshVodObjectCaches" } else { "RefreshObjectCaches" };
        let refusal = ask("cdn-2024", version, action, &[("ObjectPath", r"a.com/x\.png"), ("ObjectType", "Regex")]);
        let refusal = refusal.unwrap_err();
        assert_eq!((refusal.status, refusal.code.as_ref()), (400, "InvalidObjectPath.Malformed"));
        let reason =
            r"(`\.` is not understood in a regex: only [0-9], [a-z], [^/]* and .* are, everything else is literal)";
        assert_eq!(refusal.message, format!("{text} {reason}"));
    }
}

#[test]
fn domains_are_switched_and_set() {
    let name = || DomainName::parse("a.com").unwrap();
    let set =
        |header: Option<&str>| Ok(Call::SetDomain(SetDomain { name: name(), tag_header: header.map(str::to_owned) }));
    let cases: &[(&str, Params<'_>, Result<Call, &str>)] = &[
        ("StopCdnDomain", &[], Ok(Call::SwitchDomains { names: vec![name()], online: false })),
        ("StartCdnDomain", &[], Ok(Call::SwitchDomains { names: vec![name()], online: true })),
        ("SetWarmfrontDomain", &[("TagHeader", "X-Tags")], set(Some("x-tags"))),
        ("SetWarmfrontDomain", &[("TagHeader", "")], set(None)),
        ("SetWarmfrontDomain", &[("TagHeader", "x tags")], Err("InvalidParameter")),
        ("SetWarmfrontDomain", &[("DomainName", "no")], Err("InvalidDomainName.Malformed")),
    ];
    for (action, params, expected) in cases {
        let mut all = params.to_vec();
        if !params.iter().any(|(name, _)| *name == "DomainName") {
            all.push(("DomainName", "A.com"));
        }
        let got = ask("cdn-2024", CDN, action, &all).map_err(|refusal| refusal.code.into_owned());
        assert_eq!(got, expected.clone().map_err(str::to_owned), "{action} {params:?}");
    }
}

/// (status, code, text) in the current wording, in the old one of CDN, and in that of VOD.
type Words = [(u16, &'static str, &'static str); 3];

#[test]
fn faults_of_submissions_are_worded_by_generation() {
    let lines = |count: usize, what: &str| (0..count).map(|n| format!("a.com/{n}{what}\n")).collect::<String>();
    let missing = "The input parameter \"ObjectPath\" that is mandatory for processing this request is not supplied.";
    let malformed = (400, "InvalidObjectPath.Malformed", "The specific value of parameter ObjectPath is malformed.");
    let size = (400, "InvalidObjectPath.Size.Malformed", "The size of ObjectPath is bigger than 1000.");
    let extensive = (400, "InvalidExtensiveDomain.ValueNotSupported", "Extensive domain not supported.");
    let kind =
        (400, "InvalidObjectType.ValueNotSupported", "The specified value of \"<ObjectType>\" is not supported.");
    let path = |text: &str| vec![("ObjectPath".to_owned(), text.to_owned())];
    let and = |text: &str, name: &str, value: &str| {
        vec![("ObjectPath".to_owned(), text.to_owned()), (name.to_owned(), value.to_owned())]
    };
    let cases: Vec<(bool, OwnedParams, Words)> = vec![
        (true, vec![], [(400, "MissingParameter", missing); 3]),
        (true, path(" \n"), [(400, "MissingParameter", missing); 3]),
        (false, vec![], [(400, "MissingParameter", missing); 3]),
        (
            true,
            path("not a url"),
            [(400, "InvalidObjectPath.Malformed", "The specified ObjectPath is invalid."), malformed, malformed],
        ),
        (
            true,
            path("a.com/1\n*.a.com/2"),
            [
                (400, "InvalidExtensiveDomain.ValueNotSupported", "The specified ExtensiveDomain is not supported."),
                extensive,
                extensive,
            ],
        ),
        (
            true,
            path(&lines(1001, "")),
            [(400, "SingleRequest.OverLimit", "A maximum of 1000 URLs are supported for each request."), size, size],
        ),
        (
            false,
            path(&lines(10_000, "")),
            [(400, "SingleRequest.OverLimit", "A maximum of 1000 URLs are supported for each request."), size, size],
        ),
        (
            false,
            and("a.com/1", "ObjectType", "Folder"),
            [(400, "InvalidObjectType.Malformed", "The specified ObjectType is invalid."), kind, kind],
        ),
        (
            false,
            and("a.com/1", "ObjectType", "Directory"),
            [(400, "InvalidObjectPath.Malformed", "The specified ObjectPath is invalid."), malformed, malformed],
        ),
        (
            false,
            and("a.com/1", "Force", "maybe"),
            [(400, "InvalidParameter", "The specified parameter Force is not valid: true or false is expected."); 3],
        ),
        (
            true,
            and("a.com/1", "L2Preload", "maybe"),
            [(400, "InvalidParameter", "The specified parameter L2Preload is not valid: true or false is expected.");
                3],
        ),
        (
            true,
            and("a.com/1", "Tier", "L7"),
            [(400, "InvalidParameter", "The specified parameter Tier is not valid: edge is expected."); 3],
        ),
        (
            true,
            and("a.com/1", "Area", "moon"),
            [(400, "InvalidParameter", "The specified parameter Area is not valid: domestic or overseas is expected.");
                3],
        ),
    ];
    for (is_prefetch, params, words) in cases {
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for (version, words) in [CDN, OLD, VOD].into_iter().zip(words) {
            let action = match (is_prefetch, version == VOD) {
                (true, false) => "PushObjectCache",
                (true, true) => "PreloadVodObjectCaches",
                (false, false) => "RefreshObjectCaches",
                (false, true) => "RefreshVodObjectCaches",
            };
            let refusal = ask("cdn-2024", version, action, &params).unwrap_err();
            let got = (refusal.status, refusal.code.as_ref(), refusal.message.as_str());
            assert_eq!(got, words, "{version} {action}");
        }
    }
}

#[test]
fn limits_of_one_call_are_those_of_the_profile() {
    let lines = |count: usize, end: &str| (0..count).map(|n| format!("a.com/{n}{end}\n")).collect::<String>();
    let hosts = |count: usize| (0..count).map(|n| format!("h{n}.a.com/x\n")).collect::<String>();
    let too_many = "InvalidObjectPath.ExceedsMaximum";
    let size = "InvalidObjectPath.Size.Malformed";
    let cases = [
        // profile     action                     type         lines              expected
        ("cdn-2024", "PushObjectCache", "", lines(100, ""), None),
        ("cdn-2024", "PushObjectCache", "", lines(101, ""), Some(too_many)),
        ("open", "PushObjectCache", "", lines(101, ""), Some(too_many)),
        ("cdn-2019", "PushObjectCache", "", lines(101, ""), Some(size)), // 100 of one domain
        ("cdn-2024", "PreloadVodObjectCaches", "", lines(1000, ""), None),
        ("cdn-2024", "RefreshObjectCaches", "File", lines(1000, ""), None),
        ("cdn-2024", "RefreshObjectCaches", "Directory", lines(100, "/"), None),
        ("cdn-2024", "RefreshObjectCaches", "Directory", lines(101, "/"), Some(too_many)),
        ("cdn-2024", "RefreshObjectCaches", "Regex", lines(1, ".*"), None),
        ("cdn-2024", "RefreshObjectCaches", "Regex", lines(2, ".*"), Some(too_many)),
        ("cdn-2024", "RefreshObjectCaches", "ExQuery", lines(1000, "?x"), None),
        ("cdn-2024", "RefreshObjectCaches", "File", hosts(10), None),
        ("cdn-2024", "RefreshObjectCaches", "File", hosts(11), Some(too_many)),
        ("cdn-2020", "RefreshObjectCaches", "File", hosts(11), None),
        ("vod-2021", "RefreshVodObjectCaches", "Directory", lines(101, "/"), Some(size)),
    ];
    for (profile, action, kind, text, expected) in cases {
        let version = if action.contains("Vod") { VOD } else { CDN };
        let got = ask(profile, version, action, &[("ObjectPath", &text), ("ObjectType", kind)]);
        assert_eq!(
            got.err().map(|refusal| refusal.code.into_owned()).as_deref(),
            expected,
            "{profile} {action} {kind}"
        );
    }
}

#[test]
fn headers_of_a_prefetch_have_two_faults() {
    for (text, message) in
        [("gzip", "Parse preload header failed."), (r#"{"Host":["b"]}"#, "Unsupported Preload headers included.")]
    {
        for (version, action) in [(CDN, "PushObjectCache"), (VOD, "PreloadVodObjectCaches")] {
            let refusal = ask("cdn-2024", version, action, &[("ObjectPath", "a.com/1"), ("WithHeader", text)]);
            assert_eq!(refusal, Err(Refusal::new(400, "InvalidCustomHeader", message)));
        }
    }
}

#[test]
fn task_queries_are_read() {
    let all = TaskQuery {
        ids: None,
        path: None,
        domain: None,
        status: None,
        kind: None,
        between: None,
        page: Page { number: 1, size: 20 },
    };
    let hour = Duration::from_secs(3600);
    let cases: &[(Params<'_>, TaskQuery)] = &[
        (&[], all.clone()),
        (&[("TaskId", "7, 8,7")], TaskQuery { ids: Some(vec![7, 8]), ..all.clone() }),
        (
            &[("TaskId", "7"), ("ObjectPath", "A.com/中")],
            TaskQuery { ids: Some(vec![7]), path: Some(path("http", "a.com", "/%E4%B8%AD")), ..all.clone() },
        ),
        (
            &[("DomainName", "A.com"), ("ObjectType", "File"), ("Status", "complete")],
            TaskQuery {
                domain: Some("a.com".to_owned()),
                kind: Some(TaskFilter::Type(TaskType::File)),
                status: Some(TaskStatus::Complete),
                ..all.clone()
            },
        ),
        (&[("ObjectType", "block")], TaskQuery { kind: Some(TaskFilter::NoneOfOurs), ..all.clone() }),
        (
            &[("StartTime", "2026-01-02T02:04:05Z"), ("EndTime", "2026-01-02T04:04Z")],
            TaskQuery { between: Some((now() - hour, now() + hour - Duration::from_secs(5))), ..all.clone() },
        ),
        (
            &[("PageNumber", "100000"), ("PageSize", "100")],
            TaskQuery { page: Page { number: 100_000, size: 100 }, ..all.clone() },
        ),
    ];
    for (params, expected) in cases {
        assert_eq!(
            ask("cdn-2024", CDN, "DescribeRefreshTasks", params),
            Ok(Call::Tasks(expected.clone())),
            "{params:?}"
        );
    }
}

#[test]
fn faults_of_task_queries_are_worded_by_generation() {
    let many = vec!["1"; TASK_IDS_MAX + 1].join(",");
    let page_number =
        (400, "InvalidPageNumber.ValueNotSupported", "The specified value of parameter PageNumber is not supported.");
    let page_size =
        (400, "InvalidPageSize.ValueNotSupported", "The specified value of parameter PageSize is not supported.");
    let task_id = [
        (400, "InvalidTaskId.Malformed", "The specified TaskId is invalid."),
        (400, "InvalidTaskId.Malformed", "Specified TaskId is malformed."),
    ];
    let alone = [
        (400, "MissingTimeParameter", "The StartTime and EndTime must be both specified."),
        (400, "MissingParameter", "StartTime and EndTime can not be single."),
    ];
    let needs_type = [
        (
            400,
            "MissingParameter.ObjectType",
            "The ObjectType parameter is required if DomainName or ObjectType is specified.",
        ),
        (400, "MissingParameter.ObjectType", "If DomainName or Status is provided, ObjectType can not be empty."),
    ];
    let start = [
        (400, "InvalidStartTime.Malformed", "The specified StartTime is invalid."),
        (400, "InvalidStartTime.Malformed", "Specified StartTime is malformed."),
    ];
    let end = [
        (400, "InvalidEndTime.Malformed", "The specified EndTime is invalid."),
        (400, "InvalidEndTime.Malformed", "Specified EndTime is malformed."),
    ];
    let order = [
        (400, "InvalidEndTime.Mismatch", "The specified EndTime is earlier than the StartTime."),
        (400, "InvalidEndTime.Mismatch", "Specified end time does not math the specified start time."),
    ];
    let start_range =
        (400, "InvalidStartTime.ValueNotSupported", "The specified value of parameter StartTime is not supported.");
    let old = [(400, "InvalidTime", "The query time cannot exceed the last 3 days."), start_range];
    let future = [(400, "InvalidStartTime.ValueNotSupported", "The specified StartTime is invalid."), start_range];
    let kind = [(400, "InvalidObjectType.ValueNotSupported", "The specified ObjectType is not supported."); 2];
    let status = [
        (400, "InvalidStatus.ValueNotSupported", "The specified Status is not supported."),
        (400, "InvalidStatus.ValueNotSupported", "The specified value of parameter Status is not supported."),
    ];
    type Case<'a> = (Params<'a>, [(u16, &'a str, &'a str); 2]);
    let cases: &[Case<'_>] = &[
        (&[("TaskId", "abc")], task_id),
        (&[("TaskId", "1,,2")], task_id),
        (&[("TaskId", "-1")], task_id),
        (&[("TaskId", "99999999999999999999999")], task_id),
        (&[("TaskId", &many)], task_id),
        (&[("StartTime", "2026-01-02T02:04:05Z")], alone),
        (&[("EndTime", "2026-01-02T02:04:05Z")], alone),
        (&[("DomainName", "a.com")], needs_type),
        (&[("Status", "Complete")], needs_type),
        (&[("StartTime", "x"), ("EndTime", "2026-01-02T02:04:05Z")], start),
        (&[("StartTime", "2026-01-02T02:04:05Z"), ("EndTime", "2026-01-02")], end),
        (&[("StartTime", "2026-01-02T02:04:05Z"), ("EndTime", "2026-01-02T02:04:05Z")], order),
        (&[("StartTime", "2025-12-29T03:04:05Z"), ("EndTime", "2026-01-02T02:04:05Z")], old),
        (&[("StartTime", "2026-01-03T03:04:05Z"), ("EndTime", "2026-01-04T02:04:05Z")], future),
        (&[("ObjectType", "folder")], kind),
        (&[("Status", "Done"), ("ObjectType", "file")], status),
        (&[("PageNumber", "0")], [page_number; 2]),
        (&[("PageNumber", "100001")], [page_number; 2]),
        (&[("PageNumber", "one")], [page_number; 2]),
        (&[("PageSize", "101")], [page_size; 2]),
        (&[("PageSize", "0")], [page_size; 2]),
    ];
    for (params, [current, legacy]) in cases {
        let actions = [
            (CDN, "DescribeRefreshTasks", current),
            (OLD, "DescribeRefreshTasks", legacy),
            (VOD, "DescribeVodRefreshTasks", legacy),
        ];
        for (version, action, words) in actions {
            let refusal = ask("cdn-2024", version, action, params).unwrap_err();
            assert_eq!(
                &(refusal.status, refusal.code.as_ref(), refusal.message.as_str()),
                words,
                "{version} {params:?}"
            );
        }
    }
    let fifty_one = [("PageSize", "51")];
    assert!(ask("cdn-2024", CDN, "DescribeRefreshTasks", &fifty_one).is_ok());
    assert!(ask("cdn-2024", VOD, "DescribeVodRefreshTasks", &fifty_one).is_err(), "VOD has at most 50 a page");
}

#[test]
fn tasks_by_id_takes_one_to_ten() {
    let ask = |text: &str| ask("cdn-2024", CDN, "DescribeRefreshTaskById", &[("TaskId", text)]);
    assert_eq!(ask("1,2"), Ok(Call::TasksById(vec![1, 2])));
    assert_eq!(ask("").unwrap_err().code, "MissingParameter");
    assert!(ask("1,2,3,4,5,6,7,8,9,10").is_ok());
    assert_eq!(ask("1,2,3,4,5,6,7,8,9,10,11").unwrap_err().code, "InvalidTaskId.Malformed");
}

#[test]
fn receipts_are_asked_for_one_by_one_under_both_products() {
    for version in [CDN, VOD] {
        let ask = |text: &str| ask("cdn-2024", version, "DescribeRefreshTaskReceipt", &[("TaskId", text)]);
        assert_eq!(ask("12"), Ok(Call::Receipt(12)));
        assert_eq!(ask("").unwrap_err().code, "MissingParameter");
        assert_eq!(ask("1,2").unwrap_err().code, "InvalidTaskId.Malformed");
    }
    assert_eq!(ask("cdn-2024", CDN, "DescribeReceiptKey", &[]), Ok(Call::ReceiptKey));
}

#[test]
fn domain_calls_are_read() {
    let sources = ("Sources", r#"[{"content":"127.0.0.1","type":"ipaddr","port":9790}]"#);
    let add = |version: &str, params: &[(&str, &str)]| {
        let action = if version == VOD { "AddVodDomain" } else { "AddCdnDomain" };
        ask("cdn-2024", version, action, &[&[("DomainName", "A.example.com"), sources], params].concat())
    };
    let Ok(Call::AddDomains(domain)) = add(CDN, &[("CdnType", "web"), ("Scope", "global")]) else { panic!() };
    assert_eq!(
        (domain.names[0].as_str(), domain.coverage, domain.kind),
        ("a.example.com", Coverage::Global, Some(CdnType::Web))
    );
    assert_eq!((domain.sources[0].content.as_str(), domain.sources[0].port), ("127.0.0.1", 9790));
    let Ok(Call::AddDomains(domain)) = add(VOD, &[]) else { panic!() };
    assert_eq!((domain.coverage, domain.kind), (Coverage::Domestic, None));

    let name = DomainName::parse("a.com").unwrap();
    for (version, delete, detail) in
        [(CDN, "DeleteCdnDomain", "DescribeCdnDomainDetail"), (VOD, "DeleteVodDomain", "DescribeVodDomainDetail")]
    {
        let params = [("DomainName", "a.com")];
        assert_eq!(ask("open", version, delete, &params), Ok(Call::DeleteDomain(name.clone())));
        assert_eq!(ask("open", version, detail, &params), Ok(Call::DomainDetail(name.clone())));
    }

    let all = DomainQuery {
        name: None,
        status: None,
        kinds: vec![],
        coverage: None,
        source: None,
        changed_from: None,
        changed_until: None,
        with_checking: false,
        labels: vec![],
        elsewhere: false,
        page: Page { number: 1, size: 20 },
    };
    assert_eq!(ask("open", CDN, "DescribeUserDomains", &[]), Ok(Call::Domains(all.clone())));
    let whole = DomainQuery { name: Some(("a.com".to_owned(), SearchType::Whole)), ..all.clone() };
    assert_eq!(ask("open", CDN, "DescribeUserDomains", &[("DomainName", "a.com")]), Ok(Call::Domains(whole)));
    let name = Some(("a.com".to_owned(), SearchType::Contains));
    let fuzzy = DomainQuery { name, with_checking: true, ..all.clone() };
    assert_eq!(ask("open", VOD, "DescribeVodUserDomains", &[("DomainName", "a.com")]), Ok(Call::Domains(fuzzy)));
    let filtered = DomainQuery {
        status: Some(DomainStatus::Online),
        kinds: vec![CdnType::Web, CdnType::Video],
        coverage: Some(Coverage::Overseas),
        page: Page { number: 2, size: 500 },
        ..all
    };
    let params = [
        ("DomainStatus", "online"),
        ("CdnType", "web,video"),
        ("Coverage", "overseas"),
        ("PageNumber", "2"),
        ("PageSize", "500"),
    ];
    assert_eq!(ask("open", CDN, "DescribeUserDomains", &params), Ok(Call::Domains(filtered)));
}

#[test]
fn faults_of_domain_calls() {
    let name = ("DomainName", "a.com");
    let kind = ("CdnType", "web");
    let sources = ("Sources", r#"[{"content":"1.2.3.4","type":"ipaddr"}]"#);
    let cases: &[(&str, Params<'_>, &str, &str)] = &[
        ("AddCdnDomain", &[kind, sources], "MissingParameter", "\"DomainName\""),
        ("AddCdnDomain", &[name, sources], "MissingParameter", "parameter cdnType that"),
        ("AddCdnDomain", &[name, kind], "MissingParameter", "\"Sources\""),
        ("AddCdnDomain", &[("DomainName", "a"), kind, sources], "InvalidDomainName.Malformed", "Specified DomainName"),
        ("AddCdnDomain", &[name, ("CdnType", "live"), sources], "InvalidCdnType.Malformed", ""),
        ("AddCdnDomain", &[name, kind, ("Sources", "x")], "InvalidSources.Malformed", ""),
        ("AddCdnDomain", &[name, kind, sources, ("Scope", "moon")], "InvalidScope.Malformed", ""),
        ("AddCdnDomain", &[name, kind, sources, ("Tag.1.Value", "k")], "MissingParameter", "\"Tag.1.Key\""),
        ("DeleteCdnDomain", &[], "MissingParameter", "\"DomainName\""),
        ("DeleteCdnDomain", &[("DomainName", "a b")], "InvalidDomainName.Malformed", "The specific value"),
        ("DescribeUserDomains", &[("PageSize", "501")], "InvalidPageSize.ValueNotSupported", ""),
        ("DescribeUserDomains", &[("DomainStatus", "x")], "InvalidDomainStatus.ValueNotSupported", ""),
        ("DescribeUserDomains", &[("DomainSearchType", "x")], "InvalidDomainSearchType.ValueNotSupported", ""),
        ("DescribeUserDomains", &[("CdnType", "x")], "InvalidCdnType.ValueNotSupported", ""),
        ("DescribeUserDomains", &[("Tag.1", "k")], "InvalidParameter", "Tag.1"),
        ("DescribeUserDomains", &[("ChangeEndTime", "x")], "InvalidParameter", "ChangeEndTime"),
        ("VerifyDomainOwner", &[name], "MissingParameter", "\"VerifyType\""),
        ("VerifyDomainOwner", &[name, ("VerifyType", "x")], "InvalidParameter", "dnsCheck or fileCheck"),
        ("DescribePreloadDetailById", &[("TaskId", "1,2")], "InvalidTaskId.Malformed", ""),
        ("DescribePreloadDetailById", &[], "MissingParameter", "\"TaskId\""),
    ];
    for (action, params, code, text) in cases {
        let refusal = ask("cdn-2024", CDN, action, params).unwrap_err();
        assert_eq!((refusal.status, refusal.code.as_ref()), (400, *code), "{action} {params:?}");
        assert!(refusal.message.contains(text), "{action} {params:?}: {}", refusal.message);
    }
}

#[test]
fn faults_that_only_the_control_plane_finds_have_their_words() {
    let quota = (400, "QuotaExceeded.Refresh", "You've exceeded the prescribed refresh limits.");
    let minute = (400, "QuotaPerMinuteExceeded.Refresh", "You've exceeded the prescribed refresh limits per minute.");
    let full = (403, "PreloadQueueFull", "Preload queue is full, please try again later!");
    let too_many = (400, "TooMany.Refresh", "there is too many refresh task, please wait a moment.");
    let throttled = (503, "Throttling", "Request was denied due to request throttling.");
    let cases: &[(Fault, Words)] = &[
        (
            Fault::PrefetchQueueFull,
            [(400, "PreloadQueueFull", "Preload queue is full, please try again later."), full, full],
        ),
        (
            Fault::PrefetchQuota,
            [(400, "QuotaExceeded.Preload", "Your preload attempts have exceeded the daily limit."), quota, quota],
        ),
        (Fault::RefreshQuota, [quota; 3]),
        (
            Fault::PrefetchPerMinute,
            [
                (400, "QuotaPerMinuteExceeded.Refresh", "You have exceeded the prescribed preload limits per minute."),
                minute,
                minute,
            ],
        ),
        (
            Fault::RefreshPerMinute,
            [
                (400, "QuotaPerMinuteExceeded.Refresh", "You tried to refresh too frequently; please try again later."),
                minute,
                minute,
            ],
        ),
        (
            Fault::RefreshQueueFull,
            [(400, "TooMany.Refresh", "The refresh queue is full; please try again later."), too_many, too_many],
        ),
        (Fault::DomainUnknown, [(404, "InvalidDomain.NotFound", "The domain provided does not belong to you."); 3]),
        (Fault::DomainOffline, [(404, "InvalidDomain.Offline", "The domain provided is offline."); 3]),
        (Fault::DomainForbidden, [(403, "IllegalOperation", "Illegal domain operate is not permitted."); 3]),
        (Fault::DomainBusy, [(403, "ServiceBusy", "The specified Domain is configuring, please retry later."); 3]),
        (Fault::DomainBroken, [(500, "InvalidDomain.Configure_failed", "Failed to configure the provided domain."); 3]),
        (
            Fault::NotOpened,
            [
                (403, "OperationDenied", "Your account does not open CDN service yet."),
                (403, "OperationDenied", "Your account does not open CDN service yet."),
                (403, "OperationDenied", "Your account does not open VOD service yet."),
            ],
        ),
        (
            Fault::Suspended,
            [
                (403, "OperationDenied", "Your CDN service is suspended."),
                (403, "OperationDenied", "Your CDN service is suspended."),
                (403, "OperationDenied.Suspended", "Your VOD service is suspended."),
            ],
        ),
        (
            Fault::Overload,
            [(429, "TooManyRequests", "System load fluctuates, please try again later."), throttled, throttled],
        ),
    ];
    for (fault, expected) in cases {
        for (wording, words) in [Wording::Current, Wording::Legacy, Wording::LegacyVod].into_iter().zip(expected) {
            let refusal = Refusal::of(*fault, wording);
            let got = (refusal.status, refusal.code.as_ref(), refusal.message.as_str());
            assert_eq!(&got, words, "{fault:?} {wording:?}");
            assert_eq!(refusal.retry_after().is_some(), matches!(refusal.status, 429 | 503), "{fault:?}");
        }
    }
}

#[test]
fn wording_follows_product_and_version_before_profile() {
    let cases = [
        ("cdn-2024", CDN, Wording::Current),
        ("open", CDN, Wording::Current),
        ("cdn-2019", CDN, Wording::Legacy),
        ("vod-2021", CDN, Wording::Legacy),
        ("cdn-2024", OLD, Wording::Legacy),
        ("cdn-2024", VOD, Wording::LegacyVod),
    ];
    for (profile, version, expected) in cases {
        let action = if version == VOD { "DescribeVodRefreshQuota" } else { "DescribeRefreshQuota" };
        let got = Profile::named(profile).unwrap().wording(&request(version, action, &[]));
        assert_eq!(got, expected, "{profile} {version}");
    }
}
