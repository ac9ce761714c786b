//! Functions of a domain (a section of lines: name, then arguments `name=value`, separated by tabs), a URL, the fields
//! of a request, status and fields of a response: accepted functions have their documented effect on any message.
#![no_main]

use fuzz::{headers, line, sections, text};
use http::{StatusCode, Uri};
use libfuzzer_sys::fuzz_target;
use model::functions::{ArgumentRewrite, check};
use model::{Function, Functions, UrlKey};

fuzz_target!(|bytes: &[u8]| {
    let mut sections = sections(bytes);
    let mut next = || sections.next().unwrap_or_default();
    let Some(list) = text(next()) else { return };
    let function = |(line, id): (&str, u64)| {
        let mut words = line.split('\t');
        let name = words.next().unwrap_or_default().to_owned();
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        };
        Function { id, name, args: words.map(pair).collect(), parent: None }
    };
    let list: Vec<Function> = list.lines().zip(1..).map(function).collect();
    let good = check(&list);
    let _ = format!("{good:?} {list:?}");
    let functions = Functions::new(list);

    let uri = text(next()).unwrap_or_default();
    let request = headers(next());
    let (status, answer) = line(next());
    let status = StatusCode::from_bytes(status).unwrap_or(StatusCode::FOUND);
    let Ok(uri) = uri.parse::<Uri>() else { return };
    let Some(path) = uri.path_and_query().filter(|path| path.as_str().starts_with('/')) else { return };
    if uri.scheme().is_none() || uri.authority().is_none() {
        return;
    }
    if let Ok(url) = UrlKey::new("a.com", path.as_str()) {
        let key = functions.key(&url);
        let rule = &functions.rules().key;
        if rule.rewrites.is_empty() && rule.paths.is_empty() && rule.arguments == ArgumentRewrite::default() {
            assert_eq!(functions.key(&key), key, "the key of a key is itself");
        }
        assert!(functions.rules().fetch.path(key.path_and_query()).starts_with('/'));
    }
    assert!(functions.rules().fetch.path(path.as_str()).starts_with('/'));
    node::fuzzing::functions(&functions, &uri, &request, status, &headers(answer));
});
