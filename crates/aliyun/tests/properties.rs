//! What holds for every input: no bytes make it panic, and what our signer signs our verifier takes.

mod common;

use aliyun::{
    AccessKey, Ask, Call, Description, Envelope, Format, Incoming, Page, Product, Profile, Refusal, Reply, Rules,
    TaskRow, TaskStatus, TaskType, call, encode_pairs, read, refuse, render, sign_v1, sign_v3,
};
use common::now;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Reads, verifies, dispatches, refuses: everything a door does with a request.
fn drive(incoming: &Incoming<'_>) {
    let format = Format::of(incoming);
    let refusal = match read(incoming) {
        Ok(request) => {
            let _ = request.check_window(now());
            for profile in Profile::names() {
                let _ = call(&request, Profile::named(profile).unwrap(), Rules::default(), now());
            }
            request.verify("secret").err()
        }
        Err(refusal) => Some(refusal),
    };
    if let Some(refusal) = refusal {
        let envelope = Envelope { request_id: "R", host: "h:1", https: false, product: Product::Cdn, format };
        let rendered = refuse(&refusal, envelope);
        assert!(std::str::from_utf8(&rendered.body).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(
        query in ".{0,200}",
        body in vec(any::<u8>(), 0..300),
        authorization in vec(any::<u8>(), 0..200),
        v3 in any::<bool>(),
    ) {
        let mut headers = HeaderMap::new();
        let prefix: &[u8] = if v3 { b"ACS3-HMAC-SHA256 " } else { b"" };
        if let Ok(value) = HeaderValue::from_bytes(&[prefix, &authorization].concat()) {
            headers.insert("authorization", value);
            headers.insert("x-acs-action", HeaderValue::from_static("PushObjectCache"));
            headers.insert("x-acs-version", HeaderValue::from_static("2018-05-10"));
        }
        drive(&Incoming { method: &Method::POST, path: "/", query: &query, headers: &headers, body: &body });
    }

    /// Behind a good envelope every parameter of every built action meets every text.
    #[test]
    fn arbitrary_parameters_never_panic(
        action in prop::sample::select(vec![
            "PushObjectCache", "RefreshObjectCaches", "DescribeRefreshTasks", "DescribeRefreshTaskById", "AddCdnDomain",
            "DescribeUserDomains", "DeleteCdnDomain",
        ]),
        name in prop::sample::select(vec![
            "ObjectType", "Area", "WithHeader", "TaskId", "StartTime", "PageSize", "Sources", "DomainName", "Status",
        ]),
        value in prop_oneof![".{0,80}", r#"[\[\]{}:,"a-z0-9]{0,40}"#, "[0-9T:Z-]{0,24}"],
        path in prop_oneof![".{0,80}", "(https?://)?[a-z*.]{0,8}(:[0-9]{1,4})?[/?#\\\\nhttp%\n]{0,20}"],
    ) {
        let ask = Ask { method: &Method::POST, action, version: "2018-05-10", now: now(), nonce: "n" };
        let params = [("ObjectPath", path.as_str()), (name, &value), ("EndTime", "2026-01-02T03:04:05Z"), ("CdnType", "web")];
        let params: Vec<_> = params.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let body = encode_pairs(&sign_v1(AccessKey { id: "key", secret: "secret" }, ask, &params));
        let headers = HeaderMap::new();
        let incoming = Incoming { method: &Method::POST, path: "/", query: "", headers: &headers, body: body.as_bytes() };
        prop_assert!(read(&incoming).is_ok());
        drive(&incoming);
    }

    #[test]
    fn what_we_sign_by_v1_we_verify(
        params in btree_map("[A-Z][A-Za-z.0-9]{4,12}x", ".{0,40}", 0..8),
        split in any::<prop::sample::Index>(),
        get in any::<bool>(),
        secret in "[ -~]{1,40}",
    ) {
        let method = if get { Method::GET } else { Method::POST };
        let ask = Ask { method: &method, action: "PushObjectCache", version: "2018-05-10", now: now(), nonce: "n" };
        let params: Vec<(String, String)> = params.into_iter().collect();
        let pairs = sign_v1(AccessKey { id: "key", secret: &secret }, ask, &params);
        let (query, body) = pairs.split_at(if get { pairs.len() } else { split.index(pairs.len() + 1) });
        let (query, body) = (encode_pairs(query), encode_pairs(body));
        let headers = HeaderMap::new();
        let incoming = Incoming { method: &method, path: "/", query: &query, headers: &headers, body: body.as_bytes() };
        let request = read(&incoming).unwrap();
        prop_assert_eq!(request.verify(&secret), Ok(()));
        prop_assert!(request.verify(&[secret.as_str(), "x"].concat()).is_err());
        for (name, value) in params.iter().filter(|(_, value)| !value.is_empty()) {
            prop_assert_eq!(request.params.get(name), Some(value.as_str()));
        }
    }

    #[test]
    fn what_we_sign_by_v3_we_verify(
        query in btree_map("[A-Z][a-z]{4,8}q", ".{0,40}", 0..5),
        form in btree_map("[A-Z][a-z]{4,8}f", ".{0,40}", 0..5),
        agent in "[!-~]( ?[!-~]){0,20}",
        token in prop::option::of("[A-Za-z0-9+/=]{20,40}"),
        secret in "[ -~]{1,40}",
    ) {
        let ask = Ask { method: &Method::POST, action: "RefreshObjectCaches", version: "2018-05-10", now: now(), nonce: "n" };
        let query: Vec<(String, String)> = query.into_iter().collect();
        let form: Vec<(String, String)> = form.into_iter().collect();
        let body = encode_pairs(&form);
        let key = AccessKey { id: "key", secret: &secret };
        let token = token.map(|token| format!("TOKEN{token}"));
        let extra = [("user-agent", agent.as_str())].into_iter();
        let extra: Vec<_> = extra.chain(token.iter().map(|token| ("x-acs-security-token", token.as_str()))).collect();
        let signed = sign_v3(key, ask, "h.example.com:9680", &query, body.as_bytes(), &extra);
        let headers: HeaderMap = signed
            .into_iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(&value).unwrap()))
            .collect();
        let text = encode_pairs(&query);
        let incoming = Incoming { method: &Method::POST, path: "/", query: &text, headers: &headers, body: body.as_bytes() };
        let request = read(&incoming).unwrap();
        prop_assert_eq!(request.verify(&secret), Ok(()));
        let refusal = request.verify(&[secret.as_str(), "x"].concat()).unwrap_err();
        prop_assert_eq!(request.security_token.as_deref(), token.as_deref());
        prop_assert!(token.is_none_or(|token| !refusal.message.contains(&token)), "{}", refusal.message);
    }
}

/// A body of XML as its reader sees it: elements with text, or with elements of which some have one name.
#[derive(Debug, PartialEq)]
enum Read {
    Text(String),
    Elements(Vec<(String, Read)>),
}

/// Reads what lies up to the end of the element that is open, and what follows it. Plain on purpose: no reader of the product's.
fn read_xml<'a>(mut rest: &'a str, open: &str) -> (Read, &'a str) {
    let mut elements = Vec::new();
    let mut text = String::new();
    loop {
        let at = rest.find('<').expect("an end");
        text.push_str(&rest[..at]);
        let (tag, behind) = rest[at + 1..].split_once('>').expect("a tag is closed");
        rest = behind;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(name, open);
            break;
        }
        let (element, behind) = read_xml(rest, tag);
        elements.push((tag.to_owned(), element));
        rest = behind;
    }
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&#13;", "\r").replace("&amp;", "&");
    (if elements.is_empty() { Read::Text(text) } else { Read::Elements(elements) }, rest)
}

/// What XML 1.0 cannot hold is replaced.
fn in_xml(text: &str) -> String {
    let held = |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars().map(|c| if held(c) { c } else { '\u{fffd}' }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_written_is_read_again_in_both_forms(
        id in any::<u32>(),
        paths in vec(prop_oneof![any::<String>(), "[<>&;'\"\\]\r\n\t #a-z0-9x]{0,30}"], 1..4),
        text in prop_oneof![any::<String>(), "[<>&;\\]]{0,10}"],
    ) {
        let row = |path: &String| TaskRow {
            id: u64::from(id),
            path: path.clone(),
            kind: TaskType::File,
            status: TaskStatus::Failed,
            done: 0,
            total: 1,
            created_at: now(),
            description: Description::Text(text.clone()),
        };
        let rows: Vec<TaskRow> = paths.iter().map(row).collect();
        let reply = Reply::Tasks { page: Page { number: 1, size: 20 }, total: rows.len() as u64, rows };
        let asked = |format: &str| common::request(&format!("2018-05-10 {format}"), "DescribeRefreshTasks", &[]);

        let json: serde_json::Value = serde_json::from_slice(&render(&asked("JSON"), "R", &reply).body).unwrap();
        let xml = String::from_utf8(render(&asked("XML"), "R", &reply).body).unwrap();
        let root = "<DescribeRefreshTasksResponse>";
        let (read, behind) = read_xml(xml.split_once(root).unwrap().1, "DescribeRefreshTasksResponse");
        prop_assert_eq!(behind, "");
        prop_assert_eq!(json["Tasks"]["CDNTask"].as_array().map(Vec::len), Some(paths.len()));
        for (n, path) in paths.iter().enumerate() {
            prop_assert_eq!(json["Tasks"]["CDNTask"][n]["ObjectPath"].as_str(), Some(path.as_str()));
            prop_assert_eq!(json["Tasks"]["CDNTask"][n]["Description"].as_str(), Some(text.as_str()));
        }
        let Read::Elements(fields) = read else { panic!("{xml}") };
        let Some((_, Read::Elements(tasks))) = fields.iter().find(|(name, _)| name == "Tasks") else { panic!("{xml}") };
        prop_assert_eq!(tasks.len(), paths.len());
        for ((name, task), path) in tasks.iter().zip(&paths) {
            prop_assert_eq!(name, "CDNTask");
            let Read::Elements(fields) = task else { panic!("{xml}") };
            let field = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, text)| text);
            prop_assert_eq!(field("ObjectPath"), Some(&Read::Text(in_xml(path))));
            prop_assert_eq!(field("Description"), Some(&Read::Text(in_xml(&text))));
            prop_assert_eq!(field("TaskId"), Some(&Read::Text(id.to_string())));
        }
    }

    #[test]
    fn refusals_are_read_again_in_both_forms(
        message in prop_oneof![any::<String>(), "[<>&;\\]\r\n]{0,20}"],
        host in prop_oneof![any::<String>(), "[a-z.\\]>:0-9]{0,20}"],
    ) {
        let refusal = Refusal::new(400, "InvalidParameter", message.clone());
        let envelope = |format| Envelope { request_id: "R", host: &host, https: false, product: Product::Vod, format };
        let json: serde_json::Value = serde_json::from_slice(&refuse(&refusal, envelope(Format::Json)).body).unwrap();
        prop_assert_eq!(json["Message"].as_str(), Some(message.as_str()));
        prop_assert!(["RequestId", "HostId", "Code", "Message", "Recommend"].iter().all(|name| json[name].is_string()));
        let xml = String::from_utf8(refuse(&refusal, envelope(Format::Xml)).body).unwrap();
        let (whole, link) = xml.split_once("<Recommend><![CDATA[").unwrap();
        let link = link.strip_suffix("]]></Recommend></Error>").unwrap();
        prop_assert_eq!(json["Recommend"].as_str(), Some(link));
        let (read, _) = read_xml(&format!("{}</Error>", whole.split_once("<Error>").unwrap().1), "Error");
        let Read::Elements(fields) = read else { panic!("{xml}") };
        let text = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, text)| text);
        prop_assert_eq!(text("Message"), Some(&Read::Text(in_xml(&message))));
        prop_assert_eq!(text("HostId"), Some(&Read::Text(in_xml(json["HostId"].as_str().unwrap()))));
    }

    /// Beside a reader that knows nothing but the rules, a line at a time and character by character.
    #[test]
    fn paths_are_read_as_the_rules_say(
        text in "((https?|HTTP|ftp)://)?(a\\.com|A\\.Com|\\*\\.a\\.com|b-1\\.org)(:(80|443|8080))?(/[a-z%2F中 ~#?=&.]{0,8}){0,3}((\r)?\n| \n|\\\\n(http://a\\.com/x)?|,)?((https?://)?a\\.com/[a-z]{0,2})?",
        directories in any::<bool>(),
    ) {
        let kind = if directories { "Directory" } else { "File" };
        let request = common::request("2018-05-10", "RefreshObjectCaches", &[("ObjectPath", &text), ("ObjectType", kind)]);
        let got = match call(&request, Profile::named("open").unwrap(), Rules::default(), now()) {
            Ok(Call::Refresh(refresh)) => Ok(refresh.paths.into_iter().map(|path| path.text).collect::<Vec<_>>()),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code.into_owned()),
        };
        prop_assert_eq!(got, naive(&text, directories));
    }
}

/// The rules of `ObjectPath`, told plainly: the lines as they are shown, or the code of the first fault.
fn naive(text: &str, directories: bool) -> Result<Vec<String>, String> {
    let malformed = || Err("InvalidObjectPath.Malformed".to_owned());
    let mut text = text.to_owned();
    if text.contains("\\nhttp") {
        text = text.replace("\\r\\n", "\n").replace("\\n", "\n");
    }
    let lines: Vec<&str> = text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err("MissingParameter".to_owned());
    }
    let mut shown: Vec<String> = Vec::new();
    for line in lines {
        let lower = line.to_lowercase();
        let (scheme, rest) = match () {
            () if lower.starts_with("https://") => ("https", &line["https://".len()..]),
            () if lower.starts_with("http://") => ("http", &line["http://".len()..]),
            () => ("http", line),
        };
        let host_end = rest.find(|c| "/?#".contains(c)).unwrap_or(rest.len());
        let host = rest[..host_end].to_lowercase();
        if host.starts_with('*') {
            return Err("InvalidExtensiveDomain.ValueNotSupported".to_owned());
        }
        let host = host.strip_suffix(":80").or(host.strip_suffix(":443")).unwrap_or(&host);
        if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-') {
            return malformed();
        }
        let path = rest[host_end..].split('#').next().unwrap_or_default();
        if !path.starts_with('/') {
            return malformed();
        }
        let mut escaped = String::new();
        let mut digits = 0; // of an escape that is open
        for c in path.chars() {
            let of_escape = digits > 0 && c.is_ascii_hexdigit();
            digits = match c {
                '%' => 2,
                _ if of_escape => digits - 1,
                _ => 0,
            };
            match c {
                c if of_escape => escaped.push(c.to_ascii_uppercase()),
                ' ' => escaped.push_str("%20"),
                c if c.is_ascii() => escaped.push(c),
                c => c.to_string().bytes().for_each(|byte| escaped.push_str(&format!("%{byte:02X}"))),
            }
        }
        if directories && (escaped.contains('?') || !escaped.ends_with('/')) {
            return malformed();
        }
        let line = format!("{host}{escaped}");
        if !shown.iter().any(|known| known.split_once("://").is_some_and(|(_, known)| known == line)) {
            shown.push(format!("{scheme}://{line}"));
        }
    }
    Ok(shown)
}
