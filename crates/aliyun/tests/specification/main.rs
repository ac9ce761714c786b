//! Every action against the collected facts of the vendor's pages (`data/actions.json`), group by group: every parameter is read,
//! every field of a reply is there with its type, every documented error can be answered, or stands on a list with its reason.

#[path = "../common/mod.rs"]
mod common;
mod configs;
mod domains;
mod figures;
mod gateway;
mod refresh;
mod service;

use std::collections::BTreeSet;

use aliyun::{Call, Profile, Refusal, Reply, Rules, call, codes, render};
use common::{now, request};
use serde_json::{Map, Value};

/// Actions that are tested alike.
#[derive(Clone, Copy)]
struct Group {
    /// Their names.
    actions: &'static [&'static str],
    /// Parameters with which an action succeeds.
    good: fn(&str) -> &'static [(&'static str, &'static str)],
    /// Other good values of a parameter that the facts have no list of, by action and name; none for a parameter nobody knows.
    others: fn(&str, &str) -> &'static [&'static str],
    /// How a parameter is sent whose name is not sent as it is, such as the first of a list.
    sent_as: fn(&str) -> &str,
    /// Values that need other parameters beside them: not tried alone.
    not_alone: &'static [(&'static str, &'static str)],
    /// A reply in which every list has an element.
    reply: fn(&str) -> Reply,
    /// What the actions answer but success.
    refusals: fn() -> Vec<Refusal>,
    /// Fields of replies that are not filled, by action, each with its reason.
    unfilled: &'static [(&'static str, &'static str, &'static str)],
    /// Parameters that change nothing whatever their value is, by name or action and name, each with its reason.
    without_effect: &'static [(&'static str, &'static str)],
    /// Documented errors that are not answered in these words, by code and beginning of the text, each with its reason.
    other_words: &'static [(&'static str, &'static str, &'static str)],
}

const GROUPS: [Group; 5] = [configs::GROUP, domains::GROUP, figures::GROUP, refresh::GROUP, service::GROUP];

fn facts() -> Value {
    serde_json::from_str(include_str!("../data/actions.json")).expect("the facts are JSON")
}

/// The facts of each action with its group.
fn actions() -> Vec<(Group, Value)> {
    let all = facts();
    let all = all["actions"].as_array().expect("a list");
    let known = |name: &str| all.iter().find(|action| text(&action["action"]) == name).cloned();
    let facts = |name: &str| known(name).unwrap_or_else(|| panic!("no facts about {name}"));
    GROUPS.into_iter().flat_map(|group| group.actions.iter().map(move |name| (group, facts(name)))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
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
                "number" => given.is_number(),
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
    for (group, action) in actions() {
        let name = text(&action["action"]);
        let body = render(&request(text(&action["version"]), name, &[]), "R-1", &(group.reply)(name)).body;
        let given: Value = serde_json::from_slice(&body).expect("JSON");
        let mut out = Vec::new();
        lacking(name, &action["response"], &given, &mut out);
        out.retain(|field| !group.unfilled.iter().any(|(of, unfilled, _)| *field == format!("{of}.{unfilled}")));
        assert_eq!(out, Vec::<String>::new(), "{given}");
        let declared: BTreeSet<&String> = action["response"].as_object().into_iter().flat_map(Map::keys).collect();
        let own: Vec<&String> =
            given.as_object().into_iter().flat_map(Map::keys).filter(|key| !declared.contains(key)).collect();
        assert_eq!(own, Vec::<&String>::new(), "{name} has fields that no client knows");
    }
}

#[test]
fn every_reply_in_xml_has_its_root_and_repeats_its_lists() {
    for (group, action) in actions() {
        let name = text(&action["action"]);
        let asked = request(&format!("{} XML", text(&action["version"])), name, &[]);
        let body = String::from_utf8(render(&asked, "R-1", &(group.reply)(name)).body).expect("text");
        let root = text(&action["xmlRoot"]);
        assert!(body.contains(&format!("<{root}>")) && body.ends_with(&format!("</{root}>")), "{name}: {body}");
        for list in action["lists"].as_array().expect("a list") {
            let element = text(&list["xmlRepeatedElement"]);
            assert!(body.contains(&format!("<{element}>")), "{name}: {element} in {body}");
        }
    }
}

fn ask(group: &Group, action: &Value, change: Option<(&str, Option<&str>)>) -> Result<Call, Refusal> {
    let mut params = (group.good)(text(&action["action"])).to_vec();
    if let Some((name, value)) = change {
        params.retain(|(known, _)| *known != name);
        params.extend(value.map(|value| (name, value)));
    }
    let request = request(text(&action["version"]), text(&action["action"]), &params);
    call(&request, Profile::named("cdn-2024").expect("a profile"), Rules::default(), now())
}

#[test]
fn every_parameter_is_read() {
    for (group, action) in actions() {
        let name = text(&action["action"]);
        let usual = ask(&group, &action, None).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        for param in action["params"].as_array().expect("a list") {
            // Lists are sent as `Name.1`, lists of objects as `Name.1.Field`; the group says which of these to change.
            let param_name = text(&param["name"]);
            let full = format!("{name}.{param_name}");
            let others = (group.others)(name, param_name);
            let values: Vec<&str> = match param["enum"].as_array() {
                Some(values) if others.is_empty() => values.iter().map(text).collect(),
                _ => others.to_vec(),
            };
            assert!(!values.is_empty(), "{full}: what is a good value of it?");
            let sent_as = (group.sent_as)(param_name);
            let mut differs = false;
            for value in values {
                if group.not_alone.contains(&(param_name, value)) {
                    continue;
                }
                let got = ask(&group, &action, Some((sent_as, Some(value))));
                let got = got.unwrap_or_else(|refusal| panic!("{full}={value}: {refusal:?}"));
                differs |= got != usual;
            }
            let excused = group.without_effect.iter().any(|(known, _)| *known == param_name || *known == full);
            // What is read and told to nobody who acts on it is without effect all the same.
            assert!(differs || excused, "{full} changes nothing");
            let missing = ask(&group, &action, Some((sent_as, None)));
            if param["required"] == true {
                assert_eq!(missing.unwrap_err().code, "MissingParameter", "{full}");
            }
            let is_checked = param["enum"].is_array() && !excused;
            if is_checked {
                let refusal = ask(&group, &action, Some((sent_as, Some("nonsense")))).unwrap_err();
                assert_eq!(refusal.status, 400, "{full}");
            }
        }
    }
}

#[test]
fn every_documented_error_can_be_answered() {
    let of_gateway = gateway::refusals();
    let answered = |refusals: &[Refusal], excused: bool, place: &str, error: &Value| {
        let (code, message) = (text(&error["code"]), text(&error["message"]));
        // What is signed stands in these two; tests of signatures have them to the letter.
        let quotes = ["SignatureDoesNotMatch", "IncompleteSignature"].contains(&code);
        let same = |refusal: &Refusal| {
            (u64::from(refusal.status), refusal.code.as_ref(), refusal.message.as_str())
                == (error["http"].as_u64().expect("a status"), code, message)
        };
        let known = refusals.iter().chain(&of_gateway).any(same);
        assert!(quotes || excused || known, "{place}: {error}");
        assert!(codes().any(|page| page == code) || excused, "{place}: no page about {code}");
    };
    for (group, action) in actions() {
        let refusals = (group.refusals)();
        for error in action["errors"].as_array().expect("a list") {
            let (code, message) = (text(&error["code"]), text(&error["message"]));
            let excused =
                group.other_words.iter().any(|(known, begin, _)| *known == code && message.starts_with(begin));
            answered(&refusals, excused, text(&action["action"]), error);
        }
    }
    for error in facts()["gatewayErrors"].as_array().expect("a list") {
        answered(&[], gateway::OTHER_WORDS.iter().any(|(code, _)| *code == text(&error["code"])), "gateway", error);
    }
}
