//! `push --explain`: what a push would do with each URL, and why. Nothing is submitted.

use std::io::Write;

use serde_json::{Value, json};

use super::api::Api;
use super::{Stop, urls};
use crate::output::Output;

pub(super) async fn explain(
    parameters: &[(&str, &str)],
    list: &[String],
    per_call: usize,
    api: &Api,
    output: Output,
    out: &mut (dyn Write + Send),
) -> Result<(), Stop> {
    let mut rows = Vec::new();
    for urls in urls::calls(list, per_call) {
        let list = urls.join("\n");
        let mut parameters = parameters.to_vec();
        parameters.push(("ObjectPath", &list));
        let reply = api.call("ExplainPreload", &parameters).await.map_err(|error| Stop::Failed(error.to_string()))?;
        rows.extend(reply["Urls"].as_array().into_iter().flatten().map(row));
    }
    let problems = rows.iter().filter(|row| row["problems"].as_array().is_some_and(|all| !all.is_empty())).count();
    match output {
        Output::Json => writeln!(out, "{}", json!({ "urls": rows }))?,
        Output::Table => rows.iter().try_for_each(|row| show(row, out))?,
    }
    if problems > 0 { Err(Stop::Failed(format!("{problems} of {} URLs have a problem", rows.len()))) } else { Ok(()) }
}

fn each(list: &Value, one: impl Fn(&Value) -> Value) -> Vec<Value> {
    list.as_array().into_iter().flatten().map(one).collect()
}

/// The fields of the reply, with our own spelling.
fn row(url: &Value) -> Value {
    let step = |step: &Value| json!({ "functions": step["Functions"], "key": step["Key"] });
    let owner = |owner: &Value| json!({ "node": owner["Node"], "connected": owner["Connected"] });
    let target = |target: &Value| json!({ "pop": target["Pop"], "tier": target["Tier"], "owners": each(&target["Owners"], owner) });
    json!({
        "url": url["Url"],
        "domain": url["Domain"],
        "key": url["Key"],
        "users_key": url["UsersKey"],
        "because": each(&url["Because"], step),
        "origin_path": url["OriginPath"],
        "origins": url["Origins"],
        "variants": url["Variants"],
        "targets": each(&url["Targets"], target),
        "problems": url["Problems"],
    })
}

/// Shows one URL to a person.
fn show(row: &Value, out: &mut (dyn Write + Send)) -> Result<(), Stop> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    writeln!(out, "{}", text(&row["url"]))?;
    writeln!(out, "  key      {}", text(&row["key"]))?;
    for step in list(&row["because"]) {
        writeln!(out, "           {} by {}", text(&step["key"]), texts(&step["functions"]))?;
    }
    writeln!(out, "  origin   {} of {}", text(&row["origin_path"]), texts(&row["origins"]))?;
    for variant in list(&row["variants"]) {
        let headers = variant.as_object().into_iter().flatten();
        let headers: Vec<String> = headers.map(|(name, value)| format!("{name}: {}", text(value))).collect();
        writeln!(out, "  variant  {}", if headers.is_empty() { "-".to_owned() } else { headers.join(", ") })?;
    }
    for target in list(&row["targets"]) {
        let owner = |owner: &Value| match owner["connected"].as_bool() {
            Some(true) => text(&owner["node"]),
            _ => format!("{} (not connected)", text(&owner["node"])),
        };
        let owners: Vec<String> = list(&target["owners"]).iter().map(owner).collect();
        writeln!(out, "  target   {}/{}: {}", text(&target["pop"]), text(&target["tier"]), owners.join(", "))?;
    }
    for problem in list(&row["problems"]) {
        writeln!(out, "  problem  {}", text(&problem))?;
    }
    Ok(())
}
